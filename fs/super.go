package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Device is where the kernel is asked for a connection. Open's error is an
// *os.PathError with this path if it cannot be opened.
const Device = "/dev/fuse"

// superblock is a FUSE superblock with a mount that hangs in no directory tree:
// only who has the descriptor can reach it, and it is writable.
type superblock struct {
	dev   int // the connection, /dev/fuse
	mount int // -1: it is not to be had
	dir   int // the root, opened through the private mount; -1 before somebody serves
}

// newSuperblock needs CAP_SYS_ADMIN. From here on every walk into the mount
// waits for a server.
func newSuperblock(source string) (_ *superblock, err error) {
	s := &superblock{dev: -1, mount: -1, dir: -1}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dev, err = unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return nil, &os.PathError{Op: "open", Path: Device, Err: err}
	}
	config, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(config)
	if err := configure(config, s.dev, source); err != nil {
		return nil, err
	}
	s.mount, err = unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return s, nil
}

func configure(config, dev int, source string) error {
	for _, o := range [][2]string{
		{"source", source}, {"subtype", "kvfs"},
		{"fd", fmt.Sprint(dev)}, {"rootmode", "40000"},
		{"user_id", fmt.Sprint(os.Geteuid())}, {"group_id", fmt.Sprint(os.Getegid())},
		{"max_read", fmt.Sprint(maxWrite)},
	} {
		if err := unix.FsconfigSetString(config, o[0], o[1]); err != nil {
			return fmt.Errorf("fsconfig %s: %w", o[0], err)
		}
	}
	// allow_other: others may enter; default_permissions: the kernel decides who.
	for _, o := range []string{"allow_other", "default_permissions"} {
		if err := unix.FsconfigSetFlag(config, o); err != nil {
			return fmt.Errorf("fsconfig %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(config); err != nil {
		return fmt.Errorf("fsconfig create: %w", err)
	}
	return nil
}

// bind shows the directory sub of the superblock at a path, read-only. Read-only
// is the new mount alone; the superblock and the private mount stay writable. A
// server must be answering. Beneath puts it below a mount that is there already, and
// needs Linux 6.5 (EINVAL).
func (s *superblock) bind(sub, at string, beneath bool) error {
	clone, err := s.clone(sub)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(clone)
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if beneath {
		flags |= moveMountBeneath
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, at, flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// MOVE_MOUNT_BENEATH of include/uapi/linux/mount.h, which package unix does not have.
const moveMountBeneath = 0x200

const cloneFlags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH

// clone copies the mount of a sub-directory. Before Linux 6.15 that fails with
// EINVAL for a mount that was never attached; there the private mount is attached
// for a moment in a directory that nobody else can enter. Its descriptor remains
// good for walks when it is detached again, but for no further clone, so it is
// exchanged for one of a clone.
func (s *superblock) clone(sub string) (int, error) {
	if s.mount < 0 {
		return -1, ErrFixed
	}
	fd, err := unix.OpenTree(s.mount, sub, cloneFlags)
	if !errors.Is(err, unix.EINVAL) {
		return fd, err
	}
	stage, err := os.MkdirTemp("", ".kvfs-")
	if err != nil {
		return -1, err
	}
	defer os.Remove(stage)
	if err := unix.MoveMount(s.mount, "", unix.AT_FDCWD, stage, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, err
	}
	defer unix.Unmount(stage, unix.MNT_DETACH)
	again, err := unix.OpenTree(unix.AT_FDCWD, stage, cloneFlags)
	if err != nil {
		return -1, err
	}
	fd, err = unix.OpenTree(unix.AT_FDCWD, filepath.Join(stage, sub), cloneFlags)
	if err != nil {
		unix.Close(again)
		return -1, err
	}
	unix.Close(s.mount)
	s.mount = again
	return fd, nil
}

func (s *superblock) close() {
	for _, fd := range []*int{&s.dir, &s.mount, &s.dev} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}
