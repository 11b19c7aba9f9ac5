package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/tree"
)

// step is one change as the publisher is told it: names and system calls, no
// bytes of any file.
type step struct {
	Op     string `json:"op"` // of these constants
	Dir    string `json:"dir"`
	Name   string `json:"name"`
	Temp   string `json:"temp,omitempty"`
	Target string `json:"target,omitempty"`
	ACL    []byte `json:"acl,omitempty"`
}

const (
	stepLink   = "link" // symlink to a temporary name, rename
	stepFile   = "file" // mknod of a temporary name, rename
	stepACL    = "acl"  // fsetxattr, or fremovexattr without a list
	stepUnlink = "unlink"
	stepRmdir  = "rmdir"
)

// hello is the first line that the publisher writes.
type hello struct {
	Process int `json:"process"`
	Thread  int `json:"thread"`
}

// done is its answer to a plan.
type done struct {
	Steps int    `json:"steps"` // carried out
	Error string `json:"error,omitempty"`
}

// stepFor is a change in the words of the publisher. dir is the path of the
// node's directory below the publisher's.
func stepFor(c tree.Change, dir string) step {
	n := c.Node()
	s := step{Dir: dir, Name: n.Name}
	switch c.Op {
	case tree.Move:
		s.Op, s.Temp, s.Target = stepLink, tempName(n.ID), n.Target
	case tree.Replace:
		s.Op, s.Temp = stepFile, tempName(n.ID)
	case tree.SetACL:
		s.Op, s.ACL = stepACL, n.XAttr()
	case tree.Remove:
		s.Op = stepUnlink
		if n.Kind == tree.Dir {
			s.Op = stepRmdir
		}
	}
	return s
}

// RunPublisher is the whole life of the publisher: a process that carries out
// plans below the directory dir, which it holds open through the private mount.
// It reads plans as JSON lines and answers each when it is done, and ends when
// the input does. It must not hold the connection (see the package's
// invariants).
func RunPublisher(dir *os.File, plans io.Reader, answers io.Writer) error {
	// The server knows the publisher by its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out := json.NewDecoder(plans), json.NewEncoder(answers)
	if err := out.Encode(hello{Process: os.Getpid(), Thread: unix.Gettid()}); err != nil {
		return fmt.Errorf("saying hello: %w", err)
	}
	p := publisher{dir: int(dir.Fd())}
	for {
		var plan []step
		if err := in.Decode(&plan); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a plan: %w", err)
		}
		var d done
		for _, s := range plan {
			if err := p.do(s); err != nil {
				d.Error = fmt.Sprintf("%s %s: %v", s.Op, path.Join(s.Dir, s.Name), err)
				break
			}
			d.Steps++
		}
		if err := out.Encode(d); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
		runtime.KeepAlive(dir)
	}
}

// ReceiveDirectory gets the directory for RunPublisher from a server that has connected
// by PublisherAt. The socket is the accepted one, on which the plans then come; the
// server must run as the user with that id.
func ReceiveDirectory(socket *os.File, server uint32) (*os.File, error) {
	fd := int(socket.Fd())
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("asking who has connected: %w", err)
	}
	if peer.Uid != server {
		return nil, fmt.Errorf("user %d has connected, not %d", peer.Uid, server)
	}
	text, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := unix.Recvmsg(fd, text, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receiving the directory: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:size])
	if err != nil || n != 1 || len(messages) != 1 {
		return nil, fmt.Errorf("receiving the directory: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receiving the directory: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return os.NewFile(uintptr(fds[0]), "directory"), nil
}

type publisher struct{ dir int }

func (p publisher) do(s step) error {
	name, temp := path.Join(s.Dir, s.Name), path.Join(s.Dir, s.Temp)
	switch s.Op {
	case stepLink:
		return p.place(temp, name, func() error { return unix.Symlinkat(s.Target, p.dir, temp) })
	case stepFile:
		return p.place(temp, name, func() error { return unix.Mknodat(p.dir, temp, unix.S_IFREG|0o644, 0) })
	case stepACL:
		return p.setACL(name, s.ACL)
	case stepUnlink:
		return gone(unix.Unlinkat(p.dir, name, 0))
	case stepRmdir:
		return gone(unix.Unlinkat(p.dir, name, unix.AT_REMOVEDIR))
	}
	return fmt.Errorf("unknown step")
}

// place makes a node under its temporary name and renames it into its place. A
// temporary name that is there already is of an earlier try, and says what it is
// of. One that is lost between the two calls was forgotten by a server that died
// between them: once more.
func (p publisher) place(temp, name string, make func() error) error {
	const tries = 5
	var err error
	for range tries {
		if err = make(); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err = unix.Renameat(p.dir, temp, p.dir, name); !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return err
}

func (p publisher) setACL(name string, value []byte) error {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if value == nil {
		return unix.Fremovexattr(fd, acl.XAttrName)
	}
	return unix.Fsetxattr(fd, acl.XAttrName, value, 0)
}

// gone makes the removal of what is not there a success.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
