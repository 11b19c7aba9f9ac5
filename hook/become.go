package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program is started in two steps. What Go starts holds up its parent in the kernel until execve has found and opened
// the file, and with that all of the parent at the next garbage collection: on a file system that does not answer, for
// ever. So what is started is this program itself, which is there, and the new process becomes the other one by Become.
// How that went it says on a pipe, which execve closes.
const (
	verdictFD = 3
	// begins is said before execve. A number behind it, or in its place, is why there is no other program.
	begins = "."
)

// verdict is what became of a start.
type verdict struct {
	begun   bool          // execve was called
	errno   syscall.Errno // why the program cannot be started, 0 if nothing is known against it
	decided bool          // nothing more is to come
}

// waits tells that execve has neither succeeded nor failed.
func (v verdict) waits() bool { return v.begun && !v.decided && v.errno == 0 }

// hear reads a verdict, of which there is a part if ctx ends before. It waits as Go waits for a network: nothing of this
// process is held up.
func hear(ctx context.Context, pipe *os.File) (v verdict) {
	stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(pipe)
	if v.decided = err == nil; !v.decided {
		// With its time over the pipe gives nothing away any more: what has come by now is asked for once, without waiting.
		if conn, err := pipe.SyscallConn(); err == nil {
			_ = conn.Control(func(fd uintptr) {
				more := make([]byte, 16)
				if n, err := unix.Read(int(fd), more); err == nil {
					text, v.decided = append(text, more[:n]...), n == 0
				}
			})
		}
	}
	rest, begun := strings.CutPrefix(string(text), begins)
	errno, _ := strconv.Atoi(rest) // "" is 0
	v.begun, v.errno = begun, syscall.Errno(errno)
	return v
}

// Become makes this process, which Programs have started for that, another program: the one at argv[0], run by as, which
// is theirs to know. It returns if that is impossible; an error that is a syscall.Errno has been told already.
func Become(as string, argv []string) error {
	var st unix.Stat_t
	if err := unix.Fstat(verdictFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return fmt.Errorf("descriptor %d is no pipe", verdictFD)
	}
	unix.CloseOnExec(verdictFD)
	pipe := os.NewFile(verdictFD, "verdict")
	defer pipe.Close()
	err := become(as, argv, pipe)
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		_, told := pipe.WriteString(strconv.Itoa(int(errno)))
		return errors.Join(err, told)
	}
	return err
}

func become(as string, argv []string, pipe *os.File) error {
	runtime.LockOSThread() // the signal at the death of the parent is a matter of threads
	parent := os.Getppid() // or this process would have been killed by now
	if id, err := parseCredential(as); err != nil {
		return err
	} else if id != nil {
		// As that user this program may be out of reach, so it is here that the user is changed, after its start.
		if err := errors.Join(syscall.Setgroups(id.groups), syscall.Setgid(id.gid), syscall.Setuid(id.uid)); err != nil {
			return err
		}
	}
	// Another user takes the signal away.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if os.Getppid() != parent {
		return errors.New("nobody waits for the program any more")
	}
	if _, err := pipe.WriteString(begins); err != nil {
		return err
	}
	return unix.Exec(argv[0], argv, os.Environ())
}

// credential is a user with all groups.
type credential struct {
	uid, gid int
	groups   []int
}

// String is the credential for Become: numbers, of which the first two are those of the user and its own group. That of
// nobody else is "".
func (c *credential) String() string {
	if c == nil {
		return ""
	}
	text := fmt.Sprintf("%d,%d", c.uid, c.gid)
	for _, g := range c.groups {
		text += "," + strconv.Itoa(g)
	}
	return text
}

func parseCredential(text string) (*credential, error) {
	if text == "" {
		return nil, nil
	}
	var ids []int
	for _, word := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no user", text)
		}
		ids = append(ids, int(n))
	}
	if len(ids) < 2 {
		return nil, fmt.Errorf("%q is a user without a group", text)
	}
	return &credential{uid: ids[0], gid: ids[1], groups: ids[2:]}, nil
}
