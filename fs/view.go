package fs

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"kvfs/image"
	"kvfs/tree"
)

// view is what the kernel is told: the current snapshot, the plan that the
// publisher is carrying out, and files that have lost their names.
type view struct {
	// cur is read by every request without a lock. It changes under mu alone,
	// and a name in it moves only when the publisher's request for it is
	// answered (TestNamesMoveOnlyWithThePublishersRequest).
	cur atomic.Pointer[tree.Snapshot]

	// mu is held for a few map operations and never while anything is asked of
	// the kernel: a handler of the request that a holder waits for needs it.
	mu      sync.Mutex
	pending map[tree.ID]tree.Change // steps of the plan by the id of their node
	temps   map[tree.ID]bool        // temporary names that exist

	retired *retired

	// image has what cur and retired have, always before anybody is told of it: a
	// successor that reads it knows what the kernel knows. It changes under mu.
	image *image.Image
	refs  map[[32]byte]int // nodes in the image that need a blob
	// blobs are those that were read from the image, until something new is shown.
	blobs map[[32]byte]*tree.Blob
}

func newView(retiredBytes int, kept *image.Image) *view {
	v := &view{pending: map[tree.ID]tree.Change{}, temps: map[tree.ID]bool{}, retired: newRetired(retiredBytes),
		image: kept, refs: map[[32]byte]int{}}
	v.cur.Store(tree.Empty())
	return v
}

// node finds what an id stands for, also for a file that has no name any more.
func (v *view) node(id tree.ID) (*tree.Node, bool) {
	if n, ok := v.cur.Load().Node(id); ok {
		return n, true
	}
	return v.retired.get(id)
}

// reset replaces everything at once, which is right only while no kernel has
// seen any of it.
func (v *view) reset(s *tree.Snapshot, beside ...image.Change) error {
	if err := v.image.Reserve(beside...); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.image.Put(beside...); err != nil {
		return err
	}
	v.cur.Store(s)
	return nil
}

// begin makes a plan current. What only begins to exist, exists from here on;
// the other steps wait for the publisher and are returned in their order.
// beside are records of the image that belong to the plan.
func (v *view) begin(plan []tree.Change, at time.Time, beside ...image.Change) (steps []tree.Change, err error) {
	if err := v.reserve(plan, beside); err != nil { // before mu: it may take a while
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.pending)
	clear(v.temps)
	s, r := v.cur.Load(), v.recording()
	r.changes = append(r.changes, beside...)
	r.farewells(s, plan)
	for _, c := range plan {
		if c.Op == tree.Add || c.Op == tree.Hold {
			s = s.Apply(at, c)
			r.change(c)
			continue
		}
		v.pending[c.Node().ID] = c
		steps = append(steps, c)
	}
	if err := r.put(s); err != nil {
		return nil, err
	}
	v.cur.Store(s)
	v.blobs = nil
	return steps, nil
}

// end forgets the plan. Steps that were not done are found again by the next
// comparison.
func (v *view) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.pending)
	clear(v.temps)
}

// tempName is the name under which a node waits to be renamed into place. The
// id in it stands for directory, name and content or target, so RENAME can be
// understood from its arguments alone.
func tempName(id tree.ID) string { return fmt.Sprintf(".%016x~", uint64(id)) }

func parseTemp(name string) (tree.ID, bool) {
	if len(name) != 18 || name[0] != '.' || name[17] != '~' {
		return 0, false
	}
	id, err := strconv.ParseUint(name[1:17], 16, 64)
	return tree.ID(id), err == nil
}

// temp is the node that waits under a temporary name.
func (v *view) temp(dir tree.ID, name string) (*tree.Node, bool) {
	id, ok := parseTemp(name)
	if !ok {
		return nil, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.pending[id]
	if !ok || !v.temps[id] || c.New == nil || c.New.Parent != dir {
		return nil, false
	}
	return c.New, true
}

// stage makes a temporary name for a step of the plan; want checks that it is
// the step that the request means.
func (v *view) stage(dir tree.ID, name string, want func(tree.Change) bool) (*tree.Node, bool) {
	id, ok := parseTemp(name)
	if !ok {
		return nil, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.pending[id]
	if !ok || c.New == nil || c.New.Parent != dir || !want(c) {
		return nil, false
	}
	v.temps[id] = true
	return c.New, true
}

// rename carries out the step that a temporary name stands for.
func (v *view) rename(dir tree.ID, from, to string) bool {
	id, ok := parseTemp(from)
	if !ok {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.pending[id]
	if !ok || c.New == nil || c.Op == tree.SetACL || c.New.Parent != dir || c.New.Name != to || !v.apply(c) {
		return false
	}
	delete(v.temps, id)
	return true
}

// renamed tells whether a rename is done already.
func (v *view) renamed(dir tree.ID, from, to string) bool {
	id, ok := parseTemp(from)
	n, there := v.cur.Load().Lookup(dir, to)
	return ok && there && n.ID == id
}

// removed tells whether a name of a directory is gone already.
func (v *view) removed(dir tree.ID, name string) bool {
	if _, temp := parseTemp(name); temp {
		return false
	}
	s := v.cur.Load()
	_, known := s.Node(dir)
	_, there := s.Lookup(dir, name)
	return known && !there
}

// setACL carries out a change of an access list, if it is the one of the plan.
func (v *view) setACL(id tree.ID, want func(*tree.Node) bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.pending[id]
	return ok && c.Op == tree.SetACL && want(c.New) && v.apply(c)
}

// remove carries out a removal, of a temporary name too.
func (v *view) remove(dir tree.ID, name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if id, ok := parseTemp(name); ok && v.temps[id] {
		delete(v.temps, id)
		return true
	}
	n, ok := v.cur.Load().Lookup(dir, name)
	if !ok {
		return false
	}
	c, ok := v.pending[n.ID]
	return ok && c.Op == tree.Remove && v.apply(c)
}

// apply must be called with mu held. Without an entry in the image nothing happens.
func (v *view) apply(c tree.Change) bool {
	s, r := v.cur.Load().Apply(time.Now(), c), v.recording()
	if c.Old != nil && c.Op != tree.SetACL {
		r.retire(c.Old) // before its content would be dropped
	}
	r.change(c)
	if err := r.put(s); err != nil {
		return false
	}
	v.cur.Store(s)
	return true
}

// retired keeps files that have lost their names, for those who still have them
// open and whose pages the kernel has dropped. The kernel would tell when it
// forgets a node, but a process that starts anew could not know what it was told
// before; so the newest are kept, bounded in bytes.
type retired struct {
	mu    sync.Mutex
	limit int
	bytes int
	lru   *simplelru.LRU[tree.ID, *tree.Node]
}

func newRetired(limit int) *retired {
	r := &retired{limit: limit}
	lru, err := simplelru.NewLRU(1<<20, func(_ tree.ID, n *tree.Node) { r.bytes -= cost(n) })
	if err != nil {
		panic(err) // only for a size below 1
	}
	r.lru = lru
	return r
}

// nodeCost is what a file costs beside its content, which may not even be here: its
// node, and its records in the image.
const nodeCost = 512

func cost(n *tree.Node) int {
	if n.Away != nil {
		return nodeCost
	}
	return n.Size + nodeCost
}

// add keeps a file; dropped are those that had to go for it.
func (r *retired) add(n *tree.Node) (dropped []*tree.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.lru.Peek(n.ID); ok {
		dropped = append(dropped, old)
		r.lru.Remove(n.ID)
	}
	r.lru.Add(n.ID, n)
	r.bytes += cost(n)
	for r.bytes > r.limit {
		_, old, _ := r.lru.RemoveOldest()
		dropped = append(dropped, old)
	}
	return dropped
}

func (r *retired) get(id tree.ID) (*tree.Node, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lru.Peek(id) // who reads on does not decide which are kept
}

func (r *retired) has(id tree.ID) bool {
	_, ok := r.get(id)
	return ok
}
