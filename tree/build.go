package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kvfs/acl"
)

// Grants is the access list of an entry, named here so that a caller who only
// hands it on need not know package acl.
type Grants = acl.List

// Spec is everything that the settings say of the tree.
type Spec struct {
	Entries []Entry
	// Stores are those that exist whether or not an entry shows something in them.
	Stores []string
}

// Clash is two entries that want one name. Build returns it.
type Clash struct{ Store, Name, First, Second string }

func (c *Clash) Error() string {
	return fmt.Sprintf("%s/%s is wanted by %s and by %s", c.Store, c.Name, c.First, c.Second)
}

// StoreDir is the name that a store has below the root of the superblock. It
// comes from the path, so it stays when other stores come and go.
func StoreDir(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:8])
}

// Build makes the snapshot in which every entry shows its versions. shown gives
// those of one certificate, in all forms that its entries want; an entry without
// any has no names yet, only its store exists. The error, if any, is a *Clash, and
// means that the settings have to change.
func Build(spec Spec, shown func(certificate string) Shown) (*Snapshot, error) {
	return newBuilder().build(spec, shown)
}

// builder collects nodes in maps, which may still change, before the snapshot
// is made of them in one go.
type builder struct {
	root  *Node
	nodes map[ID]*Node
	dirs  map[ID]map[uint64]*Node // by directory and name key
	owner map[ID]string           // URL of the entry that brought a node, to name it in a clash
	// retired are the nodes that only retired entries show.
	retired map[ID]bool
	clash   *Clash

	// before has nodes that need not be made twice; nil: there are none. Who shows the
	// snapshot before this one has those.
	before *Snapshot

	entry  *Entry                  // that is being shown; nil: the stores are made
	made   map[*Entry]map[ID]*Node // what each needs
	shared bool                    // two entries show one node, or want one name
}

func newBuilder() *builder {
	b := &builder{nodes: map[ID]*Node{}, dirs: map[ID]map[uint64]*Node{}, owner: map[ID]string{}, retired: map[ID]bool{},
		made: map[*Entry]map[ID]*Node{}}
	b.root = &Node{ID: Root, Kind: Dir, key: nameKey("")}
	b.insert(b.root)
	return b
}

func (b *builder) build(spec Spec, shown func(certificate string) Shown) (*Snapshot, error) {
	b.stores(spec)
	for _, retired := range []bool{false, true} { // the latter get what is left
		for i := range spec.Entries {
			e := &spec.Entries[i]
			if e.Retired != retired {
				continue
			}
			if err := b.show(e, shown(e.Certificate)); err != nil {
				return nil, err
			}
		}
	}
	if b.clash != nil {
		return nil, b.clash
	}
	return b.snapshot(), nil
}

func (b *builder) show(e *Entry, all Shown) error {
	b.entry = e
	return showing{e, b, b.store(e.Store), e.suffixed()}.show(all)
}

// need takes down that the entry at hand needs a node.
func (b *builder) need(n *Node) *Node {
	if b.made[b.entry] == nil {
		b.made[b.entry] = map[ID]*Node{}
	}
	b.made[b.entry][n.ID] = n
	return n
}

// madeFor are the nodes that an entry needs, in the least memory.
func (b *builder) madeFor(e *Entry) []*Node {
	return slices.AppendSeq(make([]*Node, 0, len(b.made[e])), maps.Values(b.made[e]))
}

func (b *builder) insert(n *Node) {
	b.nodes[n.ID] = n
	if n != b.root {
		b.dirs[n.Parent][n.key] = n
	}
	if n.Kind == Dir {
		b.dirs[n.ID] = map[uint64]*Node{}
	}
}

// stores makes the directory of every store, and in a store that contains
// another one the empty directories in which that is mounted.
func (b *builder) stores(spec Spec) {
	paths := slices.Clone(spec.Stores)
	for i := range spec.Entries {
		paths = append(paths, spec.Entries[i].Store)
	}
	for _, path := range paths {
		b.store(path)
	}
	slices.Sort(paths) // what contains another path is before it
	paths = slices.Compact(paths)
	for i, inner := range paths {
		for _, outer := range slices.Backward(paths[:i]) { // the innermost first
			if below, ok := strings.CutPrefix(inner, strings.TrimSuffix(outer, "/")+"/"); ok {
				b.mountpoint(b.store(outer), strings.Split(below, "/"), inner)
				break
			}
		}
	}
}

func (b *builder) mountpoint(dir *Node, names []string, store string) {
	for _, name := range names {
		dir = b.dir(dir, name)
		b.owner[dir.ID] = "the store " + store
	}
}

func (b *builder) store(path string) *Node { return b.dir(b.root, StoreDir(path)) }

// dir makes a directory, if it is not there. That something else has its name is
// noted as a clash.
func (b *builder) dir(parent *Node, name string) *Node {
	n := newDir(parent, name)
	if old, ok := b.nodes[n.ID]; ok {
		return b.need(old)
	}
	if old, ok := b.lookup(parent, name); ok && b.clash == nil {
		b.clash = &Clash{Name: name, First: b.owner[old.ID], Second: "a directory of the layouts"}
		b.nodes[n.ID], b.dirs[n.ID] = n, map[uint64]*Node{} // for what comes into it; nothing of it will be seen
		return n
	}
	b.insert(n)
	return b.need(n)
}

// add puts a node into the tree. The same node twice is what two entries of one
// certificate show together (pinned and not, or a URL that is listed twice), and
// then the grants of both hold. Ids and name keys are 64 bits of a hash: that two
// different ones are equal is checked here, not believed.
func (b *builder) add(e *Entry, n *Node) error {
	old, named := b.dirs[n.Parent][n.key]
	other, taken := b.nodes[n.ID]
	b.shared = b.shared || named || taken
	switch {
	case named && e.Retired && !b.retired[old.ID]:
		return nil
	case named && old.Name == n.Name && old.ID == n.ID:
		n = n.withACL(old.ACL.Union(n.ACL))
		if old.Away == nil { // one of two that have its content is enough
			n = n.heldAs(old)
		}
	case named && e.Retired:
		return nil // the one that was retired first keeps it
	case named:
		return &Clash{Store: e.Store, Name: n.Name, First: b.owner[old.ID], Second: e.URL}
	case taken:
		return &Clash{Store: e.Store, Name: n.Name, First: b.owner[other.ID], Second: e.URL}
	}
	b.owner[n.ID], b.retired[n.ID] = e.URL, e.Retired
	if b.before != nil {
		if was, ok := b.before.Node(n.ID); ok && was.same(n) {
			n = was
		}
	}
	b.insert(b.need(n))
	// A directory is as old as the last thing that came into it or below it.
	for dir := b.nodes[n.Parent]; dir != b.root && n.Time.After(dir.Time); dir = b.nodes[dir.Parent] {
		dir.Time = n.Time
	}
	return nil
}

func (b *builder) lookup(dir *Node, name string) (*Node, bool) {
	n, ok := b.dirs[dir.ID][nameKey(name)]
	return n, ok && n.Name == name
}

func (b *builder) snapshot() *Snapshot {
	nodes := make([]item[*Node], 0, len(b.nodes))
	for id, n := range b.nodes {
		nodes = append(nodes, item[*Node]{uint64(id), n})
	}
	dirs := make([]item[index[*Node]], 0, len(b.dirs))
	for id, names := range b.dirs {
		entries := make([]item[*Node], 0, len(names))
		for key, n := range names {
			entries = append(entries, item[*Node]{key, n})
		}
		dirs = append(dirs, item[index[*Node]]{uint64(id), newIndex(entries)})
	}
	return &Snapshot{nodes: newIndex(nodes), dirs: newIndex(dirs)}
}
