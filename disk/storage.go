package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"kvfs/acl"
)

// storage is a directory by its descriptor. Names are relative paths below it; none of
// their parts may be a link or another mount. It is an interface for the sake of tests: a
// power cut and a failing disk cannot be had otherwise.
type storage interface {
	// create makes a file that nobody may read or write, and opens it.
	create(name string) (file, error)
	// extend opens a regular file for writing at its end.
	extend(name string) (file, error)
	// open a regular file for reading.
	open(name string) (file, error)
	mkdir(name string) error
	symlink(target, name string) error
	// rename replaces what has the new name; with fresh it fails with EEXIST instead.
	rename(from, to string, fresh bool) error
	unlink(name string) error
	rmdir(name string) error
	readlink(name string) (string, error)
	lstat(name string) (unix.Stat_t, error)
	// list a directory: "." is the whole. It stops with an error above most names.
	list(name string, most int) ([]string, error)
	// directory opens one as a file, to change its rights or to sync it.
	directory(name string) (file, error)
}

// file is an open one.
type file interface {
	io.ReadWriteCloser
	stat() (unix.Stat_t, error)
	chown(uid, gid uint32) error
	chmod(mode uint32) error
	// setACL without a value takes the list away.
	setACL(value []byte) error
	getACL() ([]byte, error)
	sync() error
}

// root is the real storage.
type root struct{ fd int }

var _ storage = (*root)(nil)

// at opens what a name stands for below the directory.
func (r *root) at(name string, flags int, mode uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: mode,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(r.fd, name, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// in calls f with the directory of a name and the rest of it.
func (r *root) in(name string, f func(dir int, base string) error) error {
	dir, err := r.at(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(dir, path.Base(name))
}

func (r *root) create(name string) (file, error) {
	fd, err := r.at(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return opened{os.NewFile(uintptr(fd), name)}, nil
}

func (r *root) open(name string) (file, error) { return r.regular(name, unix.O_RDONLY) }

func (r *root) extend(name string) (file, error) { return r.regular(name, unix.O_WRONLY|unix.O_APPEND) }

func (r *root) regular(name string, flags int) (file, error) {
	fd, err := r.at(name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return nil, err
	}
	f := opened{os.NewFile(uintptr(fd), name)}
	st, err := f.stat()
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNoFile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var errNoFile = errors.New("it is no regular file")

func (r *root) directory(name string) (file, error) {
	fd, err := r.at(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return opened{os.NewFile(uintptr(fd), name)}, nil
}

func (r *root) mkdir(name string) error {
	return r.in(name, func(dir int, base string) error { return unix.Mkdirat(dir, base, 0o700) })
}

func (r *root) symlink(target, name string) error {
	return r.in(name, func(dir int, base string) error { return unix.Symlinkat(target, dir, base) })
}

func (r *root) rename(from, to string, fresh bool) error {
	return r.in(to, func(dir int, base string) error { // both are in the same directory
		if !fresh {
			return unix.Renameat(dir, path.Base(from), dir, base)
		}
		err := unix.Renameat2(dir, path.Base(from), dir, base, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // a file system that cannot; it was looked before
			return unix.Renameat(dir, path.Base(from), dir, base)
		}
		return err
	})
}

func (r *root) unlink(name string) error {
	return r.in(name, func(dir int, base string) error { return unix.Unlinkat(dir, base, 0) })
}

func (r *root) rmdir(name string) error {
	return r.in(name, func(dir int, base string) error { return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR) })
}

func (r *root) readlink(name string) (target string, err error) {
	err = r.in(name, func(dir int, base string) error {
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, b)
		target = string(b[:max(n, 0)])
		return err
	})
	return target, err
}

func (r *root) lstat(name string) (st unix.Stat_t, err error) {
	err = r.in(name, func(dir int, base string) error {
		return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

func (r *root) list(name string, most int) ([]string, error) {
	d, err := r.directory(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.(opened).Readdirnames(most + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && len(names) > most {
		err = fmt.Errorf("it has more than %d names", most)
	}
	return names, err
}

// opened is a real file.
type opened struct{ *os.File }

var _ file = opened{}

// control calls f with the descriptor, which stays valid meanwhile.
func (o opened) control(f func(fd int) error) error {
	raw, err := o.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (o opened) stat() (st unix.Stat_t, err error) {
	err = o.control(func(fd int) error { return unix.Fstat(fd, &st) })
	return st, err
}

func (o opened) chown(uid, gid uint32) error {
	return o.control(func(fd int) error { return unix.Fchown(fd, int(uid), int(gid)) })
}

func (o opened) chmod(mode uint32) error {
	return o.control(func(fd int) error { return unix.Fchmod(fd, mode) })
}

func (o opened) setACL(value []byte) error {
	return o.control(func(fd int) error {
		if value != nil {
			return unix.Fsetxattr(fd, acl.XAttrName, value, 0)
		}
		err := unix.Fremovexattr(fd, acl.XAttrName)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // there is none
		}
		return err
	})
}

func (o opened) getACL() (value []byte, err error) {
	b := make([]byte, 64<<10) // XATTR_SIZE_MAX
	err = o.control(func(fd int) error {
		n, err := unix.Fgetxattr(fd, acl.XAttrName, b)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		value = b[:max(n, 0)]
		return err
	})
	return value, err
}

func (o opened) sync() error { return o.Sync() }
