package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

const notifyInvalInode = 2

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
	const size = outHeaderSize + 24
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, size), size)
	b = binary.LittleEndian.AppendUint32(b, notifyInvalInode)
	b = binary.LittleEndian.AppendUint64(b, 0) // no request's number: a notification
	b = binary.LittleEndian.AppendUint64(b, uint64(id))
	b = binary.LittleEndian.AppendUint64(b, pages)
	b = binary.LittleEndian.AppendUint64(b, 0)                                      // up to the last
	if _, err := unix.Write(s.dev, b); err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: nothing is cached
		return fmt.Errorf("invalidating what the kernel has cached: %w", err)
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
