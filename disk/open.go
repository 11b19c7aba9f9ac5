package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// trusted tells what is wrong with a directory, or nil: that it does not belong to root or to
// this process, or that others may write to it. With an access list the group bits are its mask,
// so they bound what it gives to anybody. sticky admits one that others may write to without
// touching what is not theirs.
func trusted(path string, st *unix.Stat_t, sticky bool) error {
	self := uint32(os.Geteuid())
	switch {
	case st.Uid != 0 && st.Uid != self:
		return &Error{Path: path, Fact: fmt.Sprintf("%s belongs to user %d, who could change what kvfs writes there", path, st.Uid),
			Hint: fmt.Sprintf("make it yours: chown %d %s", self, path)}
	case sticky && st.Mode&unix.S_ISVTX != 0:
	case st.Mode&0o022 != 0:
		return &Error{Path: path, Fact: fmt.Sprintf("others than its owner may write to %s (mode %04o, where an access list counts as the group)", path, st.Mode&0o7777),
			Hint: fmt.Sprintf("take that away: chmod go-w %s", path)}
	}
	return nil
}

// mostLinks is how many links a path may lead through, as in the kernel.
const mostLinks = 40

// walk opens the directory that a path leads to, with no link at its end and nobody's hands on the way:
// every directory above it, and every link there, is root's or ours, and what others may write
// to is sticky. With create it makes what is missing.
func walk(path string, create bool) (fd int, err error) {
	if !filepath.IsAbs(path) {
		return -1, &Error{Path: path, Fact: path + " is a relative path", Hint: "write the whole path"}
	}
	w := walker{todo: parts(path)}
	if w.fd, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return -1, failed("opening", "/", err)
	}
	defer func() { unix.Close(w.fd) }()
	for len(w.todo) > 0 {
		if err := w.step(create); err != nil {
			return -1, err
		}
	}
	if w.fd < 0 {
		return -1, failed("opening", path, unix.ENOENT)
	}
	fd, err = unix.Openat(w.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, failed("opening", path, err)
	}
	return fd, nil
}

func parts(path string) []string {
	return strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
}

// walker is on the way along a path.
type walker struct {
	fd    int
	at    string   // its path, "" for the root
	todo  []string // what is left of the path
	links int
}

// step takes the first of what is left.
func (w *walker) step(create bool) error {
	name, last := w.todo[0], len(w.todo) == 1
	path := w.at + "/" + name
	var above unix.Stat_t
	if err := unix.Fstat(w.fd, &above); err != nil {
		return failed("looking at", w.at+"/", err)
	}
	if err := trusted(w.at+"/", &above, true); err != nil {
		return err
	}
	if create {
		if err := mkdirMissing(w.fd, name); err != nil {
			return failed("making", path, err)
		}
	}
	fd, err := unix.Openat(w.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("opening", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return failed("looking at", path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		unix.Close(w.fd)
		w.fd, w.at, w.todo = fd, path, w.todo[1:]
		if last {
			return trusted(path, &st, false)
		}
		return nil
	case unix.S_IFLNK:
		defer unix.Close(fd)
		if last {
			return &Error{Path: path, Fact: path + " is a link", Hint: "write the path of the directory itself, or remove the link"}
		}
		return w.follow(path, fd, &st)
	}
	unix.Close(fd)
	return failed("opening", path, unix.ENOTDIR)
}

// mkdirMissing makes a directory that is not there; it is on the disk when it returns.
func mkdirMissing(dir int, name string) error {
	err := unix.Mkdirat(dir, name, 0o755)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EROFS) { // what is missing there is said by who opens it
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// follow takes a link on the way, if nobody else could have put it there.
func (w *walker) follow(path string, fd int, st *unix.Stat_t) error {
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return &Error{Path: path, Fact: fmt.Sprintf("%s is a link that belongs to user %d", path, st.Uid), Hint: "write the path without it"}
	}
	if w.links++; w.links > mostLinks {
		return failed("opening", path, unix.ELOOP)
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return failed("reading the link", path, err)
	}
	target := string(b[:n])
	if !strings.HasPrefix(target, "/") {
		target = w.at + "/" + target
	}
	start, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("opening", "/", err)
	}
	unix.Close(w.fd)
	w.fd, w.at, w.todo = start, "", append(parts(filepath.Clean(target)), w.todo[1:]...)
	return nil
}

// Check tells what keeps a directory from being one of these, without making it; nil if it is not there, and
// could be.
func Check(path string, o Options) error {
	fd, err := walk(path, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	d := &Dir{path: path, own: self(), fd: os.NewFile(uintptr(fd), path)}
	defer d.Close()
	d.Set(o)
	return d.check()
}

// Beneath opens the directory that a mount covers at a path, for Options.Beneath. It needs
// CAP_SYS_ADMIN.
func Beneath(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	above, err := walk(filepath.Clean(dir), false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(above)
	// A copy of the mount around it, which nothing is mounted on.
	bare, err := unix.OpenTree(above, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, failed("looking beneath the mount at", path, err)
	}
	defer unix.Close(bare)
	fd, err := unix.Openat(bare, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("opening what is beneath the mount at", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
