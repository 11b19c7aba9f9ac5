package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// grace is what the processes of a command have after SIGTERM.
	grace = 2 * time.Second
	// maxValue bounds each variable of the environment: the kernel takes 128 KiB of one.
	maxValue = 64 << 10
	// What a command says is logged by lines, so many of them and so long.
	maxLines = 100
	maxLine  = 1 << 10
)

// searchPath is where commands look for others, as at a login of root.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command runs the command of an action, once for all changes, or for as many of them as one environment has room for.
func (r *Runner) command(ctx context.Context, a Action, changes []Change) (done []Change, err error) {
	for len(changes) > 0 {
		n, env := environment(changes)
		if err := r.execute(ctx, a, a.Command, env); err != nil {
			return done, err
		}
		done, changes = append(done, changes[:n]...), changes[n:]
	}
	return done, nil
}

// environment tells of the first changes, as many as there is room for.
func environment(changes []Change) (n int, env []string) {
	var names, before, after, paths []string
	room := maxValue
	for _, c := range changes {
		if room -= len(strings.Join(c.Paths, "\n")) + len(c.Name) + len(c.Old) + len(c.New) + 2; room < 0 && n > 0 {
			break
		}
		n++
		names, before, after, paths = append(names, c.Name), append(before, c.Old), append(after, c.New), append(paths, c.Paths...)
	}
	return n, []string{
		"KVFS_CERT=" + strings.Join(names, " "), "KVFS_OLD_VERSION=" + strings.Join(before, " "),
		"KVFS_NEW_VERSION=" + strings.Join(after, " "), "KVFS_PATHS=" + strings.Join(paths, "\n"),
	}
}

// check runs the command that has to succeed first.
func (r *Runner) check(ctx context.Context, a Action) error {
	if len(a.Check) == 0 {
		return nil
	}
	if err := r.execute(ctx, a, a.Check, nil); err != nil {
		e := explained(err)
		return failed(e.Hint, "the check before it has failed: %s", e.Fact)
	}
	return nil
}

// execute runs a program with its arguments, and nothing of this process's environment. When ctx ends, its whole
// process group does.
func (r *Runner) execute(ctx context.Context, a Action, argv, env []string) error {
	as, err := userOf(a.User)
	if err != nil {
		return err
	}
	out := &lines{log: r.log.With("hook", a.String())}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", slices.Concat([]string{searchPath}, as.env, env)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = grace // for who has left somebody behind with its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as.credential, Pdeathsig: syscall.SIGKILL}

	// The kernel means the end of the thread by the death of the parent. Who goes on after this process does it
	// again, and not beside this one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return failed("give the absolute path of a program that the user may execute", "%s cannot be started: %v", argv[0], err)
	}
	ended := await(ctx, cmd.Process.Pid)
	err = cmd.Wait()
	out.end()
	switch {
	case !ended && ctx.Err() == context.DeadlineExceeded:
		return failed("let it end sooner, or give it more with timeoutInS", "%s has not ended in time, and was killed%s", argv[0], out.last())
	case !ended:
		return ctx.Err()
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	return failed("run it by hand as the same user; what it says is in the log of kvfs", "%s: %v%s", argv[0], err, out.last())
}

// await returns when a child has ended, but before its number can become another's. It ends the group of the child
// when ctx does; ended is false then.
func await(ctx context.Context, pid int) (ended bool) {
	var waiting errgroup.Group
	gone := make(chan struct{})
	waiting.Go(func() error {
		defer close(gone)
		for {
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	defer func() { _ = waiting.Wait() }()
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
	<-gone
	return false
}

// identity is who a command is run by.
type identity struct {
	credential *syscall.Credential // nil: as this process
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
	id.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return id, err
		}
		id.credential.Groups = append(id.credential.Groups, uint32(n))
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
