package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A server is a process that the keeper has started.
type server struct {
	pid, pidfd  int
	fallback    bool
	started     time.Time
	ready       time.Time // zero: it has not said so yet
	alive       time.Time // when it was last heard of
	interrupted bool      // it was sent SIGINT
	stopping    bool      // it is about to end for good: no watchdog
	due         time.Time // when it has to be gone; zero: nobody has asked for that
	killed      time.Time // when the keeper sent SIGKILL
	why         string    // the keeper did
}

// end is what came of a server.
type end struct {
	code int         // -1: killed by a signal
	by   unix.Signal // that, if it was not the keeper's; 0: none
	fact string
	err  error // it did not even start
}

// spawn starts a command with the keeper's pipe as descriptor 3 and what is kept
// after it. The command is looked up now, so a new binary is taken.
//
// It does without os/exec: an os.File switches its descriptor to blocking when it is
// handed to a child, for everybody who shares it, and one of those is a server that
// polls it.
func (k *Keeper) spawn(command []string, env ...string) (*server, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", command[0], err)
	}
	files := []uintptr{k.stdio(k.o.Stdin), k.stdio(k.o.Stdout), k.stdio(k.o.Stderr), uintptr(k.pipe[0])}
	names := []string{pipeName}
	for _, d := range k.kept {
		files = append(files, uintptr(d.fd))
		names = append(names, d.name)
	}
	env = append(slices.Clone(k.env), env...)
	env = append(env, keeperMark+"="+k.mark, listenFDs+"="+strconv.Itoa(len(names)), listenNames+"="+strings.Join(names, ":"))
	s := &server{started: time.Now()}
	s.pid, err = syscall.ForkExec(path, command, &syscall.ProcAttr{
		Env:   env,
		Files: files,
		// A process group of its own: an interrupt at the terminal is for the keeper,
		// which knows what to do first. No Pdeathsig: the server outlives the keeper.
		Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &s.pidfd},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	return s, nil
}

// stdio is a standard descriptor of a server: nil is the null device.
func (k *Keeper) stdio(f *os.File) uintptr {
	if f == nil {
		return uintptr(k.null)
	}
	return f.Fd()
}

// signal is without effect on a process that has been reaped.
func (s *server) signal(sig unix.Signal) {
	_ = unix.PidfdSendSignal(s.pidfd, sig, nil, 0)
}

// reap says how the process ended, if it has, and forgets it.
func (s *server) reap() (e end, ok bool) {
	var status unix.WaitStatus
	pid, err := unix.Wait4(s.pid, &status, unix.WNOHANG, nil)
	switch {
	case pid == 0 || errors.Is(err, unix.EINTR):
		return end{}, false
	case err != nil: // somebody else in this process waits for any child
		e = end{code: -1, fact: fmt.Sprintf("ended, nobody knows how: %v", err)}
	case status.Signaled() && !s.killed.IsZero():
		e = end{code: -1, fact: "was killed: " + s.why}
	case status.Signaled():
		e = end{code: -1, by: status.Signal(), fact: "was killed by " + unix.SignalName(status.Signal())}
	default:
		e = end{code: status.ExitStatus(), fact: fmt.Sprintf("ended with code %d", status.ExitStatus())}
	}
	unix.Close(s.pidfd)
	return e, true
}

// await waits that long for the end of the process.
func (s *server) await(patience time.Duration) (e end, ok bool) {
	for limit := time.Now().Add(patience); ; {
		if e, ok = s.reap(); ok || time.Now().After(limit) {
			return e, ok
		}
		poll([]unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}, limit)
	}
}
