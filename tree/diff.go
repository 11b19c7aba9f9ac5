package tree

import (
	"cmp"
	"slices"
	"time"
)

// Op says what a Change does, in the order in which a plan does it.
type Op uint8

const (
	// Hold takes the content of a file that stays into memory, or out of it. Nobody
	// can see that: bytes, attributes and names are the same.
	Hold Op = iota + 1
	// Add makes a directory or a file under a name that was free. Nobody can
	// have seen that name, so it simply begins to exist.
	Add
	// SetACL gives a node that stays another access list.
	SetACL
	// Move lets a link name another target, or makes a link.
	Move
	// Replace puts another file under a name.
	Replace
	// Remove takes a name away.
	Remove
)

func (o Op) String() string {
	return [...]string{"invalid", "hold", "add", "set-acl", "move", "replace", "remove"}[o]
}

// Change is one step from a snapshot to another.
type Change struct {
	Op  Op
	Old *Node // what the name stood for; nil if it was free
	New *Node // what it will stand for; nil for Remove
}

// Node is the new node, or the old one of a removal.
func (c Change) Node() *Node {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// Diff is the ordered plan that leads from one snapshot to another: what is held of
// files that stay, directories and new files, access lists, links, replaced files (the
// mark of completion among them), and removals last, links before files before
// directories.
// Nothing is in it for what is the same in both; equal snapshots give nil.
func Diff(from, to *Snapshot) []Change {
	var plan []Change
	eachDifference(from.nodes, to.nodes, func(old, new *Node) {
		switch {
		case new == nil:
			if _, goesOn := to.Lookup(old.Parent, old.Name); !goesOn {
				plan = append(plan, Change{Op: Remove, Old: old})
			} // otherwise the name's new node is in the plan
		case old != nil:
			if !old.sameHold(new) {
				held := old.heldAs(new)
				plan = append(plan, Change{Op: Hold, Old: old, New: held})
				old = held
			}
			if !old.ACL.Equal(new.ACL) {
				plan = append(plan, Change{Op: SetACL, Old: old, New: new})
			}
		default:
			prev, _ := from.Lookup(new.Parent, new.Name)
			plan = append(plan, appear(prev, new))
		}
	})
	slices.SortFunc(plan, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(from.emptied(b), from.emptied(a)),
			cmp.Compare(a.Node().Parent, b.Node().Parent), cmp.Compare(a.Node().Name, b.Node().Name))
	})
	return plan
}

// emptied orders the removals of directories: of two the deeper one is first. It
// is 0 for every other change.
func (s *Snapshot) emptied(c Change) (depth int) {
	if c.Op != Remove || c.Old.Kind != Dir {
		return 0
	}
	for n, ok := c.Old, true; ok && n.ID != Root; n, ok = s.Node(n.Parent) {
		depth++
	}
	return depth
}

// Obstacle returns a name that stands for a directory in one of two snapshots and
// for something else in the other: no plan leads from one to the other, since what
// begins to exist does so before anything is taken away. It is "" if there is none.
func Obstacle(from, to *Snapshot) (name string) {
	eachDifference(from.nodes, to.nodes, func(old, new *Node) {
		if old == nil {
			if prev, ok := from.Lookup(new.Parent, new.Name); ok && prev.Kind != new.Kind && (prev.Kind == Dir || new.Kind == Dir) {
				name = new.Name
			}
		}
	})
	return name
}

// appear is how a node that was not there comes in.
func appear(prev, n *Node) Change {
	switch {
	case n.Kind == Link:
		return Change{Op: Move, Old: prev, New: n}
	case prev != nil:
		return Change{Op: Replace, Old: prev, New: n}
	}
	return Change{Op: Add, New: n}
}

// rank orders a plan. Directories come before what is in them, and go after.
func (c Change) rank() int {
	r := int(c.Op) * 4
	switch kind := c.Node().Kind; {
	case c.Op == Add && kind != Dir:
		r++
	case c.Op == Remove && kind == File:
		r++
	case c.Op == Remove && kind == Dir:
		r += 2
	}
	return r
}

// eachDifference calls f for every key whose value is not the same pointer in
// both; old or new is nil where there is none. What both have in common, since one
// was made of the other, is passed over.
func eachDifference(a, b index[*Node], f func(old, new *Node)) {
	if a.bits != b.bits || a.buckets == nil || b.buckets == nil {
		merge(slices.Concat(a.buckets...), slices.Concat(b.buckets...), f)
		return
	}
	for i := range a.buckets {
		x, y := a.buckets[i], b.buckets[i]
		if len(x) != len(y) || len(x) > 0 && &x[0] != &y[0] {
			merge(x, y, f)
		}
	}
}

func merge(a, b []item[*Node], f func(old, new *Node)) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].key < b[0].key:
			f(a[0].val, nil)
			a = a[1:]
		case len(a) == 0 || b[0].key < a[0].key:
			f(nil, b[0].val)
			b = b[1:]
		default:
			if a[0].val != b[0].val {
				f(a[0].val, b[0].val)
			}
			a, b = a[1:], b[1:]
		}
	}
}

// Apply is the snapshot after some steps of a plan; at is the time of the change
// as the directories show it. Steps that are done already change nothing, so a
// step may be repeated.
func (s *Snapshot) Apply(at time.Time, steps ...Change) *Snapshot {
	for _, c := range steps {
		switch {
		case c.Op != Remove:
			s = s.with(c.New)
		default:
			if now, ok := s.Node(c.Old.ID); ok && now.Name == c.Old.Name {
				s = s.without(c.Old)
			}
		}
		if c.Op != SetACL && c.Op != Hold {
			s = s.touched(c.Node().Parent, at)
		}
	}
	return s
}
