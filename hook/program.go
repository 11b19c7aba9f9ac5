package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grace is what the processes of a command have after SIGTERM.
	grace = 2 * time.Second
	// lastGrace is what the kernel has after SIGKILL: a process that waits for a device or a server of files ends when
	// that answers, which may be never.
	lastGrace = 5 * time.Second
	// What a command says is logged by lines, so many of them and so long.
	maxLines = 100
	maxLine  = 1 << 10
)

// searchPath is where commands look for others, as at a login of root.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is one run of a program. No shell sees it.
type Program struct {
	Name  string   // of what it belongs to, for the log
	Argv  []string // an absolute path and arguments
	User  string   // by whom it is run, a name or a number; "": by this process's user
	Env   []string // besides PATH, HOME, USER and LOGNAME, and nothing of this process's
	Input []byte   // nil for none
}

// Programs runs programs. Its methods may be called from any goroutine.
type Programs struct {
	log  *slog.Logger
	self []string

	mu sync.Mutex
	// left are the processes that could not be killed, by what they run and by their numbers, with what is said of them.
	// They are not waited for, since nothing else is to wait for them, and the same is not run beside them.
	left map[string]map[int]*Error
}

// NewPrograms logs what they say. A process of this program that is started with self, and two or more arguments behind
// it, is to call Become with the first and the rest.
func NewPrograms(log *slog.Logger, self ...string) *Programs {
	return &Programs{log: log, self: self, left: map[string]map[int]*Error{}}
}

// Run runs a program to its end, and is nil if that was a good one. When ctx ends, its whole process group does. The
// error is an *Error, or that of ctx if it was cancelled.
func (p *Programs) Run(ctx context.Context, of Program) error {
	key := fmt.Sprintf("%q %q", of.User, of.Argv)
	if err := p.stuck(key); err != nil {
		return err
	}
	as, err := userOf(of.User)
	if err != nil {
		return err
	}
	verdicts, tell, err := os.Pipe()
	if err != nil {
		return unstarted(of, err)
	}
	defer verdicts.Close()
	out := &lines{log: p.log.With("hook", of.Name)}
	cmd := exec.Command(p.self[0], slices.Concat(p.self[1:], []string{as.credential.String()}, of.Argv)...)
	cmd.Dir, cmd.Env = "/", slices.Concat([]string{searchPath}, as.env, of.Env)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{tell}
	if of.Input != nil {
		cmd.Stdin = bytes.NewReader(of.Input)
	}
	cmd.WaitDelay = grace // for who has left somebody behind with its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	// The kernel means the end of the thread by the death of the parent. Who goes on after this process does it
	// again, and not beside this one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return unstarted(of, err)
	}
	v := hear(ctx, verdicts)
	gone := watch(cmd.Process.Pid)
	ended := await(ctx, cmd.Process.Pid, gone)
	select {
	case <-gone:
	default:
		said := unkillable(of, v, cmd.Process.Pid)
		p.leave(key, said, cmd, gone)
		if ctx.Err() == context.DeadlineExceeded {
			return said
		}
		return ctx.Err()
	}
	err = cmd.Wait()
	out.end()
	switch {
	case v.errno != 0:
		return failed("give the absolute path of a program that the user may execute", "%s cannot be started: %v", of.Argv[0], v.errno)
	case !ended && ctx.Err() == context.DeadlineExceeded && v.waits():
		return failed("see with: ls -l "+of.Argv[0]+"; what it lies on is a server of files, or a device, that is away", "%s cannot be started: its file system has not answered in time", of.Argv[0])
	case !ended && ctx.Err() == context.DeadlineExceeded:
		return failed("let it end sooner, or give it more with timeoutInS", "%s has not ended in time, and was killed%s", of.Argv[0], out.last())
	case !ended:
		return ctx.Err()
	case !v.begun:
		return unstarted(of, fmt.Errorf("the process that was to become it has ended (%v)%s", cmd.ProcessState, out.last()))
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	return failed("run it by hand as the same user; what it says is in the log of kvfs", "%s: %v%s", of.Argv[0], err, out.last())
}

// RunCommand runs the Command of an action within its time, with these variables and this input.
func (p *Programs) RunCommand(ctx context.Context, a Action, env []string, input []byte) error {
	within, over := context.WithTimeout(ctx, a.timeout())
	defer over()
	program := a.program(a.Command, env)
	program.Input = input
	return p.Run(within, program)
}

// unstarted is for what keeps this process from starting any program.
func unstarted(of Program, err error) *Error {
	return failed("see how many processes and open files kvfs may have, and the log of kvfs", "%s cannot be started: %v", of.Argv[0], err)
}

func unkillable(of Program, v verdict, pid int) *Error {
	hint := fmt.Sprintf("see /proc/%d/stack for what it waits for; it is not run again while that lasts", pid)
	if v.waits() {
		return failed(hint, "%s cannot be started: its file system has not answered in time, and process %d, which waits for that, cannot be killed", of.Argv[0], pid)
	}
	return failed(hint, "%s has not ended in time, and cannot be killed: process %d waits in the kernel", of.Argv[0], pid)
}

// stuck is an error if the same was left behind before, and is still there.
func (p *Programs) stuck(key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pids := slices.Sorted(maps.Keys(p.left[key]))
	if len(pids) == 0 {
		return nil
	}
	return p.left[key][pids[0]]
}

// watch closes what it returns when a child has ended, whose number stays its own until it is reaped.
func watch(pid int) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return gone
}

// leave lets a child be that cannot be killed, of which that is said. It is reaped when it has ended after all.
func (p *Programs) leave(key string, said *Error, cmd *exec.Cmd, gone <-chan struct{}) {
	pid := cmd.Process.Pid
	p.mu.Lock()
	if p.left[key] == nil { // several may have been run side by side
		p.left[key] = map[int]*Error{}
	}
	p.left[key][pid] = said
	p.mu.Unlock()
	go func() {
		<-gone
		_ = cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if delete(p.left[key], pid); len(p.left[key]) == 0 {
			delete(p.left, key)
		}
	}()
}

// await returns when a child is gone, which ended tells, or some time after ctx has ended: it ends the group of the
// child then, and gone says whether that has succeeded.
func await(ctx context.Context, pid int, gone <-chan struct{}) (ended bool) {
	select {
	case <-gone:
		return true
	case <-ctx.Done():
	}
	_ = unix.Kill(-pid, unix.SIGTERM)
	select {
	case <-gone:
	case <-time.After(grace):
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // those it has started, too
	select {
	case <-gone:
	case <-time.After(lastGrace):
	}
	return false
}

// identity is who a command is run by.
type identity struct {
	credential *credential // nil: as this process
	env        []string
}

// userOf is the identity of a user by name or number, with all groups.
func userOf(name string) (id identity, err error) {
	const hint = "give a user that there is on this machine"
	find := user.Lookup
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		find = user.LookupId
	}
	if name == "" {
		find = func(string) (*user.User, error) { return user.LookupId(strconv.Itoa(os.Geteuid())) }
	}
	u, err := find(name)
	switch {
	case name == "" && err != nil: // a number without a name has no home
		return identity{env: []string{"HOME=/"}}, nil
	case err != nil:
		return id, failed(hint, "the user of a hook: %v", err)
	}
	id.env = []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil || name == "" || int(uid) == os.Geteuid() {
		return id, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return id, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return id, failed(hint, "the groups of user %s: %v", name, err)
	}
	id.credential = &credential{uid: int(uid), gid: int(gid)}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return id, err
		}
		id.credential.groups = append(id.credential.groups, int(n))
	}
	return id, nil
}

// lines logs what is written to it, by lines.
type lines struct {
	log   *slog.Logger
	rest  []byte // of a line without its end
	said  string // the last line
	count int
}

func (l *lines) Write(p []byte) (int, error) {
	for text := p; len(text) > 0; {
		line, more, whole := bytes.Cut(text, []byte("\n"))
		l.rest = append(l.rest, line[:min(len(line), maxLine-len(l.rest))]...)
		if text = more; whole {
			l.end()
		}
	}
	return len(p), nil
}

// end logs the line that has no end.
func (l *lines) end() {
	line := strings.TrimSpace(string(l.rest))
	if l.rest = l.rest[:0]; line == "" {
		return
	}
	l.said = line
	switch l.count++; {
	case l.count <= maxLines:
		l.log.Info("a hook says", "line", line)
	case l.count == maxLines+1:
		l.log.Info("a hook says more, which is not logged", "lines", maxLines)
	}
}

// last is the last line, to be put behind an error.
func (l *lines) last() string {
	if l.said == "" {
		return ""
	}
	return fmt.Sprintf(": %s", bounded(l.said))
}
