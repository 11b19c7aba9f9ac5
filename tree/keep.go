package tree

import (
	"slices"
	"strings"
)

// Keeping is the snapshot with those names of these entries that another one has and this
// one lacks: for who knows that they were shown, and not any more as what. Of the layout
// X509Store, whose names do not tell of what they are, all stay.
func (s *Snapshot) Keeping(old *Snapshot, entries []Entry) *Snapshot {
	stores := map[string]keeping{}
	for _, e := range entries {
		k, ok := stores[e.Store]
		if !ok {
			k = keeping{names: map[string]bool{}}
		}
		k.names[e.base()] = true
		for _, l := range e.Links {
			k.names[l] = true
		}
		k.all = k.all || e.has(X509Store)
		stores[e.Store] = k
	}
	for store, k := range stores {
		if dir, ok := old.Lookup(Root, StoreDir(store)); ok {
			s = s.keep(old, dir, k, false)
		}
	}
	return s
}

// keeping are names of one store.
type keeping struct {
	names map[string]bool // of entries, which begin those of their files, and of links
	all   bool            // of the layout X509Store
}

// has tells whether a name is one of an entry: neither vaults nor secrets have a dot in
// theirs.
func (k keeping) has(name string) bool {
	parts := strings.SplitN(name, ".", 3)
	return k.names[name] || k.names[strings.Join(parts[:min(2, len(parts))], ".")]
}

// keep adds what a directory of another snapshot has; whole, if the directory itself is of an
// entry.
func (s *Snapshot) keep(old *Snapshot, dir *Node, k keeping, whole bool) *Snapshot {
	for n := range old.Entries(dir.ID, 0) {
		mine := whole || k.has(n.Name)
		if n.Kind == Dir {
			s = s.keep(old, n, k, mine || k.all && n.Name == "my")
		} else if mine {
			s = s.restored(old, n)
		}
	}
	return s
}

// restored is the snapshot with a node of another one, and the directories around it, unless
// there is something of the name.
func (s *Snapshot) restored(old *Snapshot, n *Node) *Snapshot {
	if _, there := s.Lookup(n.Parent, n.Name); there {
		return s
	}
	missing := []*Node{n}
	for dir, ok := old.Node(n.Parent); ok && dir.ID != Root; dir, ok = old.Node(dir.Parent) {
		if _, there := s.Node(dir.ID); there {
			break
		}
		missing = append(missing, dir)
	}
	for _, n := range slices.Backward(missing) {
		s = s.with(n)
	}
	return s.touched(n.Parent, n.Time)
}
