package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

const notifyInvalInode = 2

// invalidate makes the kernel ask for a directory's attributes and its listing
// again. It must not be called from a handler or with a lock held that a handler
// takes: the kernel may be waiting for either.
func (s *server) invalidate(dir tree.ID) error {
	if dir == s.handler.root {
		dir = tree.Root
	}
	const size = outHeaderSize + 24
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, size), size)
	b = binary.LittleEndian.AppendUint32(b, notifyInvalInode)
	b = binary.LittleEndian.AppendUint64(b, 0) // no request's number: a notification
	b = binary.LittleEndian.AppendUint64(b, uint64(dir))
	b = binary.LittleEndian.AppendUint64(b, 0)                                      // from the first byte
	b = binary.LittleEndian.AppendUint64(b, 0)                                      // to the last
	if _, err := unix.Write(s.dev, b); err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: nothing is cached
		return fmt.Errorf("invalidating a directory: %w", err)
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
