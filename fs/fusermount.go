package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// fusermount mounts for an ordinary user: the setuid helper of fuse3 opens
// /dev/fuse with the user's rights, mounts, and sends the descriptor back over a
// socket (_FUSE_COMMFD). No auto_unmount: the helper would stay, hold the socket,
// and INIT would never be answered.
func fusermount(at string) (dev int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	remote := os.NewFile(uintptr(pair[1]), "fusermount")
	opts := fmt.Sprintf("nosuid,nodev,noexec,default_permissions,fsname=kvfs,subtype=kvfs,max_read=%d", maxWrite)
	cmd := exec.Command("fusermount3", "-o", opts, "--", at)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	err = runHelper(cmd)
	remote.Close()
	if err != nil {
		return -1, err
	}
	return receiveDescriptor(pair[0])
}

// fuserUnmount takes such a mount away, lazily: who has a file open keeps it.
func fuserUnmount(at string) error {
	return runHelper(exec.Command("fusermount3", "-u", "-z", "--", at))
}

// runHelper makes what the helper says the error.
func runHelper(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("fusermount3 is not installed")
	case errors.As(err, &exit) && said.Len() > 0:
		return errors.New(strings.TrimSpace(said.String()))
	}
	return fmt.Errorf("fusermount3: %w", err)
}

func receiveDescriptor(socket int) (int, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	n, cn, _, _, err := unix.Recvmsg(socket, data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receiving /dev/fuse from fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if n == 0 || err != nil || len(messages) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	return fds[0], nil
}
