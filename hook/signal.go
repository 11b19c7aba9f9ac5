package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// ParseSignal is the number of a signal by its name without SIG; 0 for what is none that a program is told anything by.
func ParseSignal(name string) syscall.Signal {
	s := unix.SignalNum("SIG" + name)
	if s == unix.SIGKILL || s == unix.SIGSTOP {
		return 0
	}
	return s
}

// signal tells a process, that of a pid file or the main one of a unit.
func (r *Runner) signal(ctx context.Context, a Action) (note string, err error) {
	s := ParseSignal(a.Signal)
	if a.Unit == "" {
		return "", signalPIDFile(a.PIDFile, s, r.opts.Spared())
	}
	return withUnit(ctx, a.Unit, func(conn *dbus.Conn) error {
		if err := conn.KillUnitWithTarget(ctx, a.Unit, dbus.Main, int32(s)); err != nil {
			return refusedByBus(ctx, err, "sending SIG%s to %s", a.Signal, a.Unit)
		}
		return nil
	})
}

// maxPIDFile is more than any number.
const maxPIDFile = 64

// signalPIDFile sends a signal to the process that a file names, if that can be the one that is meant. spared are
// those that it never is.
func signalPIDFile(file string, s syscall.Signal, spared []int) error {
	pid, err := readPID(file)
	switch {
	case err != nil:
		return failed("give the pid file of a program that runs", "the pid file cannot be used: %v", err)
	case pid <= 1 || pid == os.Getpid() || slices.Contains(spared, pid):
		return failed("give the pid file of the program that is to load the certificate", "%s names process %d, which is sent no signal", file, pid)
	}
	// From here on the number cannot become another process's.
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		var again int
		if again, err = readPID(file); err == nil && again != pid {
			err = fmt.Errorf("%s has changed meanwhile", file)
		}
	}
	if err == nil {
		err = ownedByItsUser(file, pid)
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, s, nil, 0)
	}
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return failed("start the program, or remove the file", "%s names process %d, which is not there", file, pid)
	case err != nil:
		return failed("run kvfs as root, or signal a unit", "process %d of %s cannot be signalled: %v", pid, file, err)
	}
	return nil
}

// ownedByItsUser is an error where a user names a process of somebody else: with the rights of this process
// he would send signals to it.
func ownedByItsUser(file string, pid int) error {
	var of, runs unix.Stat_t
	if err := unix.Stat(file, &of); err != nil {
		return err
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &runs); err != nil {
		return unix.ESRCH
	}
	if of.Uid != 0 && of.Uid != runs.Uid {
		return fmt.Errorf("the file belongs to user %d, and the process to user %d", of.Uid, runs.Uid)
	}
	return nil
}

func readPID(file string) (int, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return 0, errors.Join(err, fmt.Errorf("%s is not a regular file", file))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPIDFile))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n") // PostgreSQL writes more below it
	pid, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s does not begin with the number of a process", file)
	}
	return int(pid), nil
}
