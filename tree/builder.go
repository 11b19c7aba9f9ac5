package tree

import (
	"cmp"
	"slices"
	"time"
)

// Builder builds snapshots one after the other. One that differs in few entries from the
// one before takes the time of these, however large the store is. The zero Builder is
// ready for use, by one goroutine at a time.
//
// It gives what Build gives (TestBuilderBuildsWhatBuildDoes); what it is not sure of is
// built anew: other entries, and a name that comes or goes for more than one of them.
type Builder struct {
	spec  Spec
	shown []Shown // of each entry
	last  *Snapshot
	made  [][]*Node  // by each entry
	refs  map[ID]int // entries that need a directory
	alone bool       // no file or link is made by two entries, or depends on another one's
}

// Build is the function Build.
func (b *Builder) Build(spec Spec, shown func(certificate string) Shown) (*Snapshot, error) {
	if changed, ok := b.changed(spec, shown); ok {
		if s, ok := b.renew(changed, shown); ok {
			b.last = s
			return s, nil
		}
	}
	return b.anew(spec, shown)
}

func (b *Builder) anew(spec Spec, shown func(certificate string) Shown) (*Snapshot, error) {
	c := newBuilder()
	c.before = b.last
	*b = Builder{}
	s, err := c.build(spec, shown)
	if err != nil {
		return nil, err
	}
	b.spec, b.last, b.refs, b.alone = spec, s, map[ID]int{}, !c.shared
	b.made, b.shown = make([][]*Node, len(spec.Entries)), make([]Shown, len(spec.Entries))
	for i := range spec.Entries {
		e := &spec.Entries[i]
		b.made[i], b.shown[i] = c.madeFor(e), shown(e.Certificate)
		b.refer(b.made[i], 1)
	}
	b.refer(c.madeFor(nil), 1) // those that are there for the stores
	return s, nil
}

func (b *Builder) refer(made []*Node, by int) {
	for _, n := range made {
		if n.Kind == Dir {
			b.refs[n.ID] += by
		}
	}
}

// changed are the entries that show other things than before, if they are few and nothing
// else is different.
func (b *Builder) changed(spec Spec, shown func(certificate string) Shown) (changed []int, ok bool) {
	same := b.last != nil && b.alone && len(spec.Entries) > 0 && len(spec.Entries) == len(b.spec.Entries) &&
		&spec.Entries[0] == &b.spec.Entries[0] && slices.Equal(spec.Stores, b.spec.Stores)
	if !same {
		return nil, false
	}
	for i := range spec.Entries {
		if now := shown(spec.Entries[i].Certificate); !now.same(b.shown[i]) {
			if changed = append(changed, i); len(changed) > 1+len(spec.Entries)/2 {
				return nil, false
			}
		}
	}
	return changed, true
}

func (s Shown) same(o Shown) bool {
	return s.Current == o.Current && slices.Equal(s.Versions, o.Versions)
}

// renew is the last snapshot with other nodes of some entries, if that is all there is to
// it. If it is not, the Builder has to begin anew.
func (b *Builder) renew(changed []int, shown func(certificate string) Shown) (*Snapshot, bool) {
	c, own := newBuilder(), map[ID]bool{}
	var gone []*Node
	for _, i := range changed {
		e := &b.spec.Entries[i]
		now := shown(e.Certificate)
		if err := c.show(e, now); err != nil {
			return nil, false
		}
		for _, n := range b.made[i] {
			if own[n.ID] = true; c.made[e][n.ID] == nil {
				gone = append(gone, n)
			}
		}
		made := c.madeFor(e)
		b.refer(made, 1)
		b.refer(b.made[i], -1)
		b.made[i], b.shown[i] = made, now
	}
	if c.clash != nil || c.shared {
		return nil, false
	}
	s, removed := b.without(gone)
	s, ok := s.withAll(c, own)
	if !ok {
		return nil, false
	}
	return s.dated(removed), true
}

// without takes out what is gone and nobody needs, the deepest first, and returns that too.
func (b *Builder) without(gone []*Node) (s *Snapshot, removed []*Node) {
	s = b.last
	slices.SortFunc(gone, func(x, y *Node) int { return cmp.Compare(b.last.depth(y), b.last.depth(x)) })
	for _, n := range gone {
		if n.Kind == Dir && b.refs[n.ID] > 0 {
			continue
		}
		if now, ok := s.Node(n.ID); ok {
			s, removed = s.without(now), append(removed, now)
		}
	}
	return s, removed
}

// withAll puts in what was collected, unless an entry has one of the names whose own these
// have not been.
func (s *Snapshot) withAll(c *builder, own map[ID]bool) (*Snapshot, bool) {
	for _, n := range c.inOrder() {
		old, named := s.Lookup(n.Parent, n.Name)
		_, taken := s.Node(n.ID)
		switch {
		case named != taken, named && old.ID != n.ID:
			return nil, false
		case named && n.Kind == Dir:
			s = s.touched(n.ID, n.Time)
		case named && !own[n.ID]:
			return nil, false
		default:
			s = s.with(n)
		}
	}
	return s, true
}

// dated is the snapshot with the times of the directories from which something was taken
// out: each is as old as the newest thing that is left in it or below.
func (s *Snapshot) dated(removed []*Node) *Snapshot {
	for _, n := range removed { // the deepest first
		for dir, ok := s.Node(n.Parent); ok && dir.ID != Root; dir, ok = s.Node(dir.Parent) {
			if dir.Time.After(n.Time) {
				continue
			}
			c := *dir
			c.Time = time.Time{}
			for e := range s.Entries(dir.ID, 0) {
				if e.Time.After(c.Time) {
					c.Time = e.Time
				}
				if !c.Time.Before(dir.Time) {
					break // as old as before
				}
			}
			if !c.Time.Equal(dir.Time) {
				s = s.with(&c)
			}
		}
	}
	return s
}

// inOrder are all nodes but the root, directories before what is in them.
func (b *builder) inOrder() (all []*Node) {
	for _, n := range b.nodes {
		if n != b.root {
			all = append(all, n)
		}
	}
	depth := func(n *Node) (depth int) {
		for ; n != b.root; n = b.nodes[n.Parent] {
			depth++
		}
		return depth
	}
	slices.SortFunc(all, func(x, y *Node) int { return cmp.Compare(depth(x), depth(y)) })
	return all
}

// depth of a node, 0 for the root.
func (s *Snapshot) depth(n *Node) (depth int) {
	for ok := true; ok && n.ID != Root; n, ok = s.Node(n.Parent) {
		depth++
	}
	return depth
}
