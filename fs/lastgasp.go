package fs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gaspTime is how long who comes late is still told to look again.
const gaspTime = 200 * time.Millisecond

// LastGasp ends what a server has left that nobody can take over from: the stores
// are taken away first, so that whoever opens a file from then on sees what lies
// below, and then everybody who waits is told ESTALE, upon which the kernel walks the
// path again. Only who reads on from a file that was open gets that error. take gives
// the descriptors that the server has kept.
func LastGasp(take func(name string) (fd int, ok bool)) error {
	var errs []error
	for n := range mostConns {
		dev, ok := take(devName(n))
		if !ok {
			continue
		}
		var log *journal
		if fd, ok := take(journalName(n)); ok {
			log, _ = openJournal(fd) // one of another format says nothing
		}
		if dir, ok := take(dirName(n)); ok {
			errs = append(errs, unmountAll(dir))
			unix.Close(dir)
		}
		refuseAll(dev, log)
		unix.Close(dev)
	}
	return errors.Join(errs...)
}

// mostConns is more than anybody has: an ordinary user has one for each store, and
// each upgrade to another format takes the next number.
const mostConns = 1000

// unmountAll takes away every mount of the superblock of a directory. It asks the
// superblock nothing: nobody would answer.
func unmountAll(dir int) error {
	var st unix.Statx_t
	if err := unix.Statx(dir, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return fmt.Errorf("looking for the mounts: %w", err)
	}
	mounts, err := mountsOf(fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor))
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range slices.Backward(mounts) {
		if os.Geteuid() == 0 {
			err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		} else {
			err = fuserUnmount(at)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// mountsOf are the paths at which a superblock is mounted, in the order in which they
// came.
func mountsOf(device string) (paths []string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[2] == device {
			paths = append(paths, unescape(fields[4]))
		}
	}
	return paths, lines.Err()
}

// refuseAll answers whoever waits, and who comes within a moment.
func refuseAll(dev int, log *journal) {
	refuse := func(req []byte) {
		if reply := refusal(req, unix.ESTALE); reply != nil {
			_, _ = unix.Write(dev, reply) // an error: nobody waits any more
		}
	}
	if log != nil {
		for i := range threads {
			if req := owed(log.slot(i)); req != nil {
				refuse(req)
			}
		}
		for i := range waitingMost {
			if req := owed(log.waiting(i)); req != nil {
				refuse(req)
			}
		}
		log.close()
	}
	s := &server{dev: dev}
	_ = s.notify(notifyResend, nil) // Linux 6.9; before that the journal must do
	if unix.SetNonblock(dev, true) != nil {
		return
	}
	buf := make([]byte, requestSize)
	for end := time.Now().Add(gaspTime); time.Now().Before(end); {
		ready := []unix.PollFd{{Fd: int32(dev), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, int(time.Until(end).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		n, err := unix.Read(dev, buf)
		switch {
		case err == nil && n >= inHeaderSize:
			refuse(buf[:n])
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOENT):
			return // the connection has ended
		}
	}
}
