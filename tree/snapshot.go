package tree

import (
	"iter"
	"time"
)

// Snapshot is the whole tree at one moment. It is immutable: any number of
// goroutines may read it without a lock. The zero Snapshot is not valid; Build
// and Empty make them.
type Snapshot struct {
	nodes index[*Node]        // by id
	dirs  index[index[*Node]] // by id of the directory: its entries by name key
}

// Empty is a tree that has its root directory and nothing in it.
func Empty() *Snapshot {
	return (&Snapshot{}).with(&Node{ID: Root, Kind: Dir, key: nameKey("")})
}

// Node finds a node by its id.
func (s *Snapshot) Node(id ID) (*Node, bool) { return s.nodes.get(uint64(id)) }

// Lookup finds a name in a directory.
func (s *Snapshot) Lookup(dir ID, name string) (*Node, bool) {
	entries, ok := s.dirs.get(uint64(dir))
	if !ok {
		return nil, false
	}
	n, ok := entries.get(nameKey(name))
	if !ok || n.Name != name {
		return nil, false
	}
	return n, true
}

// Entries yields what a directory holds, in order of the nodes' cookies and
// beginning after the given one (0: from the start).
func (s *Snapshot) Entries(dir ID, after uint64) iter.Seq[*Node] {
	entries, _ := s.dirs.get(uint64(dir))
	return entries.from(after)
}

// Nodes yields every node, the root included, in order of the ids.
func (s *Snapshot) Nodes() iter.Seq[*Node] { return s.nodes.from(0) }

// Len is the number of nodes, the root included.
func (s *Snapshot) Len() int { return s.nodes.size }

// with adds a node, or replaces the one of the same name. The old node of that
// name is no longer found by its id, unless it has the same.
func (s *Snapshot) with(n *Node) *Snapshot {
	c := *s
	if n.ID != Root {
		entries, _ := c.dirs.get(uint64(n.Parent))
		if old, ok := entries.get(n.key); ok {
			c.nodes = c.nodes.without(uint64(old.ID))
		}
		c.dirs = c.dirs.with(uint64(n.Parent), entries.with(n.key, n))
	}
	c.nodes = c.nodes.with(uint64(n.ID), n)
	if _, known := c.dirs.get(uint64(n.ID)); n.Kind == Dir && !known {
		c.dirs = c.dirs.with(uint64(n.ID), index[*Node]{})
	}
	return &c
}

// without takes a node out.
func (s *Snapshot) without(n *Node) *Snapshot {
	c := *s
	entries, ok := c.dirs.get(uint64(n.Parent))
	if !ok {
		return s
	}
	c.dirs = c.dirs.with(uint64(n.Parent), entries.without(n.key))
	c.nodes = c.nodes.without(uint64(n.ID))
	if n.Kind == Dir {
		c.dirs = c.dirs.without(uint64(n.ID))
	}
	return &c
}

// touched is the tree in which a directory was modified at t.
func (s *Snapshot) touched(dir ID, t time.Time) *Snapshot {
	old, ok := s.Node(dir)
	if !ok || !t.After(old.Time) {
		return s
	}
	n := *old
	n.Time = t
	return s.with(&n)
}
