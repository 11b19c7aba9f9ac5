package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// Codes of notifications (enum fuse_notify_code).
const (
	notifyInvalInode = 2
	notifyDelete     = 6
	notifyResend     = 7
)

// What an invalidation takes beside attributes and access list: the offset of the
// first page, where a negative one means none.
const (
	allPages uint64 = 0
	noPages  uint64 = 1<<64 - 1
)

// invalidate makes the kernel ask for a node's attributes and access list again,
// and with allPages for the listing of a directory too. It must not be called from
// a handler or with a lock held that a handler takes: the kernel may be waiting for
// either.
func (s *server) invalidate(id tree.ID, pages uint64) error {
	if id == s.handler.root {
		id = tree.Root
	}
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 24), uint64(id))
	b = binary.LittleEndian.AppendUint64(b, pages)
	b = binary.LittleEndian.AppendUint64(b, 0) // up to the last
	if err := s.notify(notifyInvalInode, b); err != nil {
		return fmt.Errorf("invalidating what the kernel has cached: %w", err)
	}
	return nil
}

// deleted tells those who watch a file that its name has gone (IN_DELETE_SELF), and
// makes the kernel look the name up again. As for invalidate, no lock may be held.
func (s *server) deleted(n leftFile) error {
	parent := n.Parent
	if parent == s.handler.root {
		parent = tree.Root
	}
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 25+len(n.Name)), uint64(parent))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.ID))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(n.Name)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(append(b, n.Name...), 0)
	if err := s.notify(notifyDelete, b); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("telling watchers of %s: %w", n.Name, err)
	}
	return nil
}

// notify tells the kernel something that it has not asked for. That it knows nothing
// of what it is told about is no error.
func (s *server) notify(code uint32, body []byte) error {
	size := outHeaderSize + len(body)
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, size), uint32(size))
	b = binary.LittleEndian.AppendUint32(b, code)
	b = append(binary.LittleEndian.AppendUint64(b, 0), body...) // no request's number: a notification
	if _, err := unix.Write(s.dev, b); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// silent are the directories in which a plan makes names appear and does nothing
// else: no system call will tell the kernel that its listing is old.
func silent(plan []tree.Change) (dirs []tree.ID) {
	loud, added := map[tree.ID]bool{}, map[tree.ID]bool{}
	for _, c := range plan {
		switch c.Op {
		case tree.Add:
			added[c.New.Parent] = true
		case tree.Move, tree.Replace, tree.Remove:
			loud[c.Node().Parent] = true
		}
	}
	for dir := range added {
		if !loud[dir] {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
