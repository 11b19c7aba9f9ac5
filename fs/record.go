package fs

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strings"

	"kvfs/image"
	"kvfs/tree"
)

// Keys of the image begin with what kind of record it is.
const (
	keyNode     = "n" // and the id: a node of the snapshot
	keyRetired  = "r" // and the id: a file without a name that somebody may have open
	keyFarewell = "f" // files whose watchers are to be told that a link has left them
	keyStores   = "s" // what the connections show where
)

func nodeKey(kind string, id tree.ID) string {
	return kind + string(binary.BigEndian.AppendUint64(nil, uint64(id)))
}

// recording is a change of the image in the making. Nothing of it is true before put.
type recording struct {
	v       *view
	changes []image.Change
	refs    map[[32]byte]int // how those of the view change
	texts   []*tree.Blob     // that have a record from then on
	dirs    map[tree.ID]bool // whose time changes
	err     error
}

func (v *view) recording() *recording {
	return &recording{v: v, refs: map[[32]byte]int{}, dirs: map[tree.ID]bool{}}
}

// reserve makes room in the image for all that a plan will write.
func (v *view) reserve(plan []tree.Change, beside []image.Change) error {
	v.mu.Lock()
	s, r := v.cur.Load(), v.recording()
	r.changes = append(r.changes, beside...)
	r.farewells(s, plan)
	for _, c := range plan {
		if c.Old != nil {
			r.keep(keyRetired, c.Old)
			r.erase(nodeKey(keyRetired, c.Old.ID))
			r.erase(image.BlobKey([32]byte{}))
		}
		r.change(c)
		r.times(s, c.Node().Parent) // for each by itself, as the publisher will do them
	}
	v.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	// Which of the retired have to go for those that come is not known yet: the records
	// that erase them are smaller than what they had.
	slack := 4 << 10
	for _, c := range plan {
		if c.Old != nil {
			slack += c.Old.Size
		}
	}
	return v.image.Room(image.Sizes(r.changes...) + slack)
}

// change enters what a step does to the nodes.
func (r *recording) change(c tree.Change) {
	if c.New != nil {
		r.keep(keyNode, c.New)
	}
	if c.Old != nil {
		r.drop(keyNode, c.Old, c.New == nil || c.New.ID != c.Old.ID)
	}
	r.dirs[c.Node().Parent] = true
}

// times enters the node of a directory, with its time.
func (r *recording) times(s *tree.Snapshot, dir tree.ID) {
	if n, ok := s.Node(dir); ok {
		r.keep(keyNode, n)
	}
}

// retire enters a file that loses its name.
func (r *recording) retire(n *tree.Node) {
	if n.Kind != tree.File {
		return
	}
	r.keep(keyRetired, n)
	for _, old := range r.v.retired.add(n) {
		r.drop(keyRetired, old, old.ID != n.ID)
	}
}

// keep enters a node, and the text of its content if that is not there yet.
func (r *recording) keep(kind string, n *tree.Node) {
	b, err := n.AppendBinary(nil)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.changes = append(r.changes, image.Change{Key: nodeKey(kind, n.ID), Value: b})
	if n.Kind != tree.File || n.Blob == nil {
		return
	}
	sum := n.Blob.Sum
	r.texts = append(r.texts, n.Blob)
	if r.v.refs[sum]+r.refs[sum] == 0 {
		r.changes = append(r.changes, image.Change{Key: image.BlobKey(sum), Text: n.Blob})
	}
	r.refs[sum]++
}

// drop takes a node out; its record stays if another one has taken its place.
func (r *recording) drop(kind string, n *tree.Node, record bool) {
	if record {
		r.erase(nodeKey(kind, n.ID))
	}
	if n.Kind != tree.File || n.Blob == nil {
		return
	}
	sum := n.Blob.Sum
	r.refs[sum]--
	if r.v.refs[sum]+r.refs[sum] == 0 {
		r.erase(image.BlobKey(sum))
	}
}

func (r *recording) erase(key string) { r.changes = append(r.changes, image.Change{Key: key}) }

// put makes it true; after is the snapshot that it leads to.
func (r *recording) put(after *tree.Snapshot) error {
	for dir := range r.dirs {
		r.times(after, dir)
	}
	if r.err == nil {
		r.err = r.v.image.Put(r.changes...)
	}
	if r.err != nil {
		return fmt.Errorf("entering a change into the image: %w", r.err)
	}
	for sum, n := range r.refs {
		if r.v.refs[sum] += n; r.v.refs[sum] == 0 {
			delete(r.v.refs, sum)
		}
	}
	for _, text := range r.texts { // so that it is in memory once
		if text.Len() > 0 { // there are many that are empty
			r.v.image.Lend(image.BlobKey(text.Sum), text)
		}
	}
	return nil
}

// persist enters everything that is shown, and nothing else of what the image may
// hold of a former connection, when the kernel is about to see it.
func (v *view) persist() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refs = map[[32]byte]int{} // what they counted is erased
	r := v.recording()
	for _, kind := range []string{keyNode, keyRetired, image.BlobPrefix, keyFarewell, keyStores} {
		for key := range v.image.All(kind) {
			r.erase(key)
		}
	}
	for n := range v.cur.Load().Nodes() {
		r.keep(keyNode, n)
	}
	if err := v.image.Reserve(r.changes...); err != nil {
		return err
	}
	return r.put(v.cur.Load())
}

// restore brings back what a predecessor has shown.
func (v *view) restore() error {
	blobs := map[[32]byte]*tree.Blob{}
	blob := func(sum [32]byte) *tree.Blob {
		if text := (&tree.Blob{Sum: sum}); blobs[sum] == nil && v.image.Lend(image.BlobKey(sum), text) {
			blobs[sum] = text
		}
		return blobs[sum]
	}
	read := func(kind string) (nodes []*tree.Node, err error) {
		for _, b := range v.image.All(kind) {
			n, err := tree.DecodeNode(b, blob)
			if err != nil {
				return nil, fmt.Errorf("reading the image: %w", err)
			}
			nodes = append(nodes, n)
		}
		return nodes, nil
	}
	nodes, err := read(keyNode)
	if err != nil {
		return err
	}
	gone, err := read(keyRetired)
	if err != nil {
		return err
	}
	s, err := tree.Of(nodes)
	if err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.recording()
	for _, n := range append(nodes, gone...) {
		if n.Blob != nil {
			r.refs[n.Blob.Sum]++
		}
	}
	for _, n := range gone {
		for _, old := range v.retired.add(n) { // the limit may be another one now
			r.drop(keyRetired, old, true)
		}
	}
	v.blobs = blobs
	maps.Copy(v.refs, r.refs)
	clear(r.refs)
	if err := v.image.Reserve(r.changes...); err != nil {
		return err
	}
	v.cur.Store(s)
	return r.put(s)
}

// farewell is a link that leaves files, whose watchers are to be told when it has.
type farewell struct {
	Link  tree.ID    `json:"link"` // as it will be
	Files []leftFile `json:"files"`
}

type leftFile struct {
	ID     tree.ID `json:"id"`
	Parent tree.ID `json:"parent"`
	Name   string  `json:"name"`
}

// farewells enters whom the links of a plan leave, so that a successor tells them if
// this process cannot any more.
func (r *recording) farewells(s *tree.Snapshot, plan []tree.Change) {
	var all []farewell
	for _, c := range plan {
		if c.Op != tree.Move || c.Old == nil {
			continue
		}
		if files := behind(s, c.Old); files != nil {
			all = append(all, farewell{Link: c.New.ID, Files: files})
		}
	}
	if all == nil {
		return
	}
	b, err := json.Marshal(all)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.changes = append(r.changes, image.Change{Key: keyFarewell, Value: b})
}

// behind are the files that a link leads to: one, or those of a directory.
func behind(s *tree.Snapshot, link *tree.Node) (files []leftFile) {
	dir, ok := s.Node(link.Parent)
	if !ok {
		return nil
	}
	n := dir
	for _, name := range strings.Split(path.Clean(link.Target), "/") {
		if name == ".." {
			n, ok = s.Node(n.Parent)
		} else {
			n, ok = s.Lookup(n.ID, name)
		}
		if !ok {
			return nil
		}
	}
	switch n.Kind {
	case tree.File:
		return []leftFile{{n.ID, n.Parent, n.Name}}
	case tree.Dir:
		for f := range s.Entries(n.ID, 0) {
			if f.Kind == tree.File {
				files = append(files, leftFile{f.ID, f.Parent, f.Name})
			}
		}
	}
	return files
}

// left are the files whose watchers are to be told, by the links that have moved.
// Those that have lost their names as well have been told so by the removal.
func (v *view) left() (files []leftFile) {
	b, ok := v.image.Get(keyFarewell)
	if !ok {
		return nil
	}
	var all []farewell
	if json.Unmarshal(b, &all) != nil {
		return nil // of another format: not worth more than an event
	}
	s, seen := v.cur.Load(), map[tree.ID]bool{}
	for _, f := range all {
		if _, moved := s.Node(f.Link); !moved {
			continue
		}
		for _, file := range f.Files {
			if _, there := s.Node(file.ID); there && !seen[file.ID] {
				seen[file.ID] = true
				files = append(files, file)
			}
		}
	}
	return files
}

// told forgets them.
func (v *view) told() error {
	if err := v.image.Reserve(image.Change{Key: keyFarewell}); err != nil {
		return err
	}
	return v.image.Put(image.Change{Key: keyFarewell})
}
