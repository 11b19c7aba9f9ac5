package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// application is one Apply under way.
type application struct {
	*Dir
	to    *tree.Snapshot
	store tree.ID
	paths map[tree.ID]string // of directories of the store
	done  []tree.Change      // of the plan, synced
	// missing are nodes of the snapshot that are not on the disk.
	missing map[tree.ID]bool
	// held are what links on the disk lead to that should lead elsewhere.
	held map[string]bool
	// fresh are names of the plan under which nothing of ours is.
	fresh map[string]bool
	// full are directories in which something stays that has to go.
	full map[string]bool
	troubles
}

func newApplication(d *Dir, s *tree.Snapshot) *application {
	a := &application{Dir: d, to: s, paths: map[tree.ID]string{}, missing: map[tree.ID]bool{}, held: map[string]bool{}, fresh: map[string]bool{}, full: map[string]bool{}}
	for _, in := range []*tree.Snapshot{d.on, s} {
		if in == nil {
			continue
		}
		if n, ok := in.Lookup(tree.Root, tree.StoreDir(d.path)); ok {
			a.store = n.ID
			a.paths[n.ID] = "."
		}
	}
	return a
}

// name of a node below the directory; false if it is of another store.
func (a *application) name(n *tree.Node) (string, bool) {
	if n.ID == a.store {
		return ".", true
	}
	dir, ok := a.directory(n.Parent)
	return path.Join(dir, n.Name), ok
}

func (a *application) directory(id tree.ID) (string, bool) {
	if name, known := a.paths[id]; known || id == tree.Root {
		return name, known && name != ""
	}
	n, ok := a.to.Node(id)
	if !ok && a.on != nil {
		n, ok = a.on.Node(id)
	}
	name := ""
	if ok {
		if dir, mine := a.directory(n.Parent); mine {
			name = path.Join(dir, n.Name)
		}
	}
	a.paths[id] = name
	return name, name != ""
}

// find the node that the snapshot has under a name.
func (a *application) find(name string) (*tree.Node, bool) {
	n, ok := a.to.Node(a.store)
	for _, part := range strings.Split(name, "/") {
		if !ok {
			return nil, false
		}
		n, ok = a.to.Lookup(n.ID, part)
	}
	return n, ok
}

// step is a change of this store.
type step struct {
	tree.Change
	name string
}

// depth puts directories before those in them, and before everything else.
func (s step) depth() int {
	if s.Op == tree.Add && s.New.Kind == tree.Dir {
		return strings.Count(s.name, "/")
	}
	return 1 << 16
}

// carryOut does the plan, phase by phase. What a later phase builds on is synced before.
func (a *application) carryOut(ctx context.Context) {
	var mine []step
	for _, c := range tree.Diff(a.on, a.to) {
		if name, ok := a.name(c.Node()); ok && name != "." {
			mine = append(mine, step{c, name})
		} else {
			a.done = append(a.done, c)
		}
	}
	slices.SortStableFunc(mine, func(x, y step) int { return cmp.Compare(x.depth(), y.depth()) })
	able := a.enter(mine)
	for _, op := range []tree.Op{tree.Hold, tree.Add, tree.SetACL, tree.Move, tree.Replace} {
		a.phase(ctx, able, op)
	}
	if ctx.Err() == nil {
		a.remove(slices.DeleteFunc(mine, func(s step) bool { return s.Op != tree.Remove }))
	}
}

// enter makes the names of a plan ours and returns the steps that can be done: without those whose content
// is not here, and those whose names somebody else has.
func (a *application) enter(plan []step) (able []step) {
	names := map[string]record{}
	for _, s := range plan {
		if s.Op != tree.Add && s.Op != tree.Move && s.Op != tree.Replace {
			able = append(able, s)
			continue
		}
		if s.New.Away != nil {
			a.log.Debug("a file is left out: its content is not in memory", "path", a.at(s.name))
			a.missing[s.New.ID] = true
			continue
		}
		if !a.ours(s.name) {
			a.fresh[s.name] = true
			shared, err := a.taken(s)
			if err != nil {
				a.fail(s, err)
				continue
			}
			if shared {
				able = append(able, s)
				continue
			}
		}
		names[s.name] = recordOf(s.New)
		able = append(able, s)
	}
	entered := maps.Clone(names)
	if err := a.names.enter(names); err != nil {
		a.add(failed("writing", a.at(manifestName), err))
		return slices.DeleteFunc(able, func(s step) bool {
			_, needed := names[s.name]
			if needed {
				a.hold(s)
			}
			return needed
		})
	}
	for name := range entered {
		if a.fresh[name] {
			a.pending[name] = true
		}
	}
	return able
}

// taken tells whether somebody else has a name. A directory can be shared.
func (a *application) taken(s step) (shared bool, err error) {
	st, err := a.sys.lstat(s.name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, failed("looking at", a.at(s.name), err)
	case s.New.Kind == tree.Dir && kindOf(&st) == tree.Dir:
		return true, nil
	}
	return false, foreign(a.at(s.name))
}

func foreign(path string) error {
	return &Error{Path: path, Fact: path + " is there and was not made by kvfs: it stays as it is, and what belongs there is left out",
		Hint: "move it away, or choose another directory with certificateStoreLocation or another customSymbolicLinkName"}
}

// fail takes down that a step was not done.
func (a *application) fail(s step, err error) {
	a.add(err)
	a.hold(s)
}

// hold keeps what a step that was not done should have made of no further use.
func (a *application) hold(s step) {
	if s.New == nil {
		return
	}
	if s.Op != tree.SetACL {
		a.missing[s.New.ID] = true
	}
	if s.New.Kind != tree.Link {
		return
	}
	targets := []string{}
	if s.Old != nil {
		targets = append(targets, s.Old.Target)
	}
	if now, err := a.sys.readlink(s.name); err == nil {
		targets = append(targets, now)
	}
	for _, target := range targets {
		if strings.HasPrefix(target, "/") { // of the extension, in the same directory
			target = path.Base(target)
		}
		a.held[path.Join(path.Dir(s.name), target)] = true
	}
}

// phase does the steps of one kind and syncs what they have touched.
func (a *application) phase(ctx context.Context, plan []step, op tree.Op) {
	touched := map[string][]step{}
	for _, s := range plan {
		if s.Op != op {
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = a.do(s)
		}
		if err != nil {
			a.fail(s, err)
			continue
		}
		if op == tree.Hold || op == tree.SetACL { // no name has changed
			a.done = append(a.done, s.Change)
			continue
		}
		dir := path.Dir(s.name)
		touched[dir] = append(touched[dir], s)
	}
	for _, dir := range slices.Sorted(maps.Keys(touched)) {
		err := syncDirectory(a.sys, dir)
		if err != nil {
			err = failed("syncing", a.at(dir), err)
			a.add(err)
		}
		for _, s := range touched[dir] {
			if err != nil {
				a.hold(s)
				continue
			}
			a.done = append(a.done, s.Change)
		}
	}
}

// do one step. Its error is an *Error.
func (a *application) do(s step) error {
	fresh, err := a.fresh[s.name], error(nil)
	switch {
	case s.Op == tree.Hold:
		return nil // what is on the disk is there
	case s.Op == tree.SetACL:
		err = setRights(a.sys, a.own, s.name, rightsOf(s.New))
	case s.New.Kind == tree.Dir:
		_, err = placeDir(a.sys, a.own, s.name)
	case s.New.Kind == tree.Link:
		if lacking := a.lacking(s); lacking != "" {
			return &Error{Path: a.at(s.name), Fact: fmt.Sprintf("the link %s stays as it is, since %s is not written", a.at(s.name), lacking),
				Hint: "it follows by itself when that is"}
		}
		err = placeLink(a.sys, s.name, s.New.Target, fresh)
	default:
		err = place(a.sys, a.own, s.name, s.New.Content(), rightsOf(s.New), fresh)
	}
	switch {
	case err == nil:
		delete(a.pending, s.name)
		return nil
	case fresh && errors.Is(err, unix.EEXIST):
		return foreign(a.at(s.name))
	}
	return failed("writing", a.at(s.name), err)
}

// lacking is something that a link is to lead to and that is not on the disk; "" if all of it is.
func (a *application) lacking(s step) string {
	name := path.Join(path.Dir(s.name), s.New.Target)
	n, ok := a.find(name)
	if !ok || a.missing[n.ID] {
		return name
	}
	if n.Kind == tree.Dir {
		for below := range a.to.Entries(n.ID, 0) {
			if a.missing[below.ID] {
				return path.Join(name, below.Name)
			}
		}
	}
	return ""
}

// removal is a name that has to go.
type removal struct {
	name string
	kind tree.Kind
	plan *tree.Change // nil for a stray
}

// remove takes names away that the snapshot has no more: links, then files, then directories, the
// inner ones first. Each kind is gone from the disk before the next goes.
func (a *application) remove(plan []step) {
	var all []removal
	for _, s := range plan {
		all = append(all, removal{s.name, s.Old.Kind, &s.Change})
	}
	if len(a.strays) > 0 {
		shown := a.shown()
		for _, name := range slices.Sorted(maps.Keys(a.strays)) {
			if _, wanted := a.find(name); wanted {
				delete(a.strays, name)
			} else if a.mayGo(name, shown) {
				all = append(all, removal{name, a.strays[name], nil})
			}
		}
	}
	var gone []string
	for _, kind := range []tree.Kind{tree.Link, tree.File, tree.Dir} {
		names, synced := a.removeAll(slices.DeleteFunc(slices.Clone(all), func(r removal) bool { return r.kind != kind }))
		if !synced {
			break
		}
		gone = append(gone, names...)
	}
	if err := a.names.leave(gone); err != nil {
		a.add(failed("writing", a.at(manifestName), err))
		for _, name := range gone {
			a.pending[name] = true
		}
	}
}

// removeAll removes names of one kind and returns those that are not there any more, or not ours; synced is
// whether that outlives a power cut.
func (a *application) removeAll(all []removal) (gone []string, synced bool) {
	slices.SortFunc(all, func(x, y removal) int {
		return cmp.Or(cmp.Compare(strings.Count(y.name, "/"), strings.Count(x.name, "/")), cmp.Compare(x.name, y.name))
	})
	touched := map[string]bool{}
	for _, r := range all {
		switch {
		case a.isHeld(r.name), a.full[r.name]: // a link on the disk leads there, or it is not empty; later
			a.fill(r.name)
			continue
		case a.stays(r):
			delete(a.strays, r.name)
		case !a.ours(r.name):
		default:
			if err := a.unlink(r); err != nil {
				a.add(failed("removing", a.at(r.name), err))
				a.fill(r.name)
				continue
			}
			delete(a.strays, r.name)
			delete(a.adopted, r.name)
			gone, touched[path.Dir(r.name)] = append(gone, r.name), true
		}
		if r.plan != nil {
			a.done = append(a.done, *r.plan)
		}
	}
	synced = true
	for dir := range touched {
		if err := syncDirectory(a.sys, dir); err != nil && !errors.Is(err, unix.ENOENT) { // it was itself removed
			a.add(failed("syncing", a.at(dir), err))
			synced = false
		}
	}
	return gone, synced
}

// fill notes that a name stays, and with it the directories above it.
func (a *application) fill(name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		a.full[dir] = true
	}
}

// stays tells whether a name is left where the settings ask for that.
func (a *application) stays(r removal) bool {
	return a.opts.KeepFiles && r.kind != tree.Link && !lumaName.MatchString(r.name) && !strings.HasPrefix(r.name, "my/")
}

// isHeld tells whether a link on the disk leads to a name, or to its directory.
func (a *application) isHeld(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if a.held[name] {
			return true
		}
	}
	return false
}

// unlink takes a name away, if it is still what we have made.
func (a *application) unlink(r removal) error {
	st, err := a.sys.lstat(r.name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	case kindOf(&st) != r.kind:
		return nil // somebody has put something else there, which is his
	case r.kind != tree.Dir:
		return a.sys.unlink(r.name)
	}
	if err := a.sys.rmdir(r.name); !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil // what is in it is not ours
}

// shown are the certificates of which the snapshot has files.
func (a *application) shown() map[string]bool {
	shown := map[string]bool{}
	for n := range a.to.Nodes() {
		if n.Kind != tree.File {
			continue
		}
		if name, mine := a.name(n); mine {
			shown[certificateOf(name)] = true
		}
	}
	return shown
}

// mayGo tells whether a name of an earlier time has no purpose any more: its certificate is shown, or hidden on
// purpose, or not in the settings. Of one whose files are not here yet it is the last good.
func (a *application) mayGo(name string, shown map[string]bool) bool {
	settled := func(base string) bool {
		return shown[base] || a.opts.Settled != nil && a.opts.Settled(base)
	}
	base := certificateOf(name)
	if target, err := a.sys.readlink(name); err == nil {
		if f, ok := parseFile(path.Base(target)); ok {
			base = f.base
		}
	}
	if base != "" {
		known := slices.ContainsFunc(a.opts.Certificates, func(c Certificate) bool { return c.base() == base })
		return !known || settled(base)
	}
	return !slices.ContainsFunc(a.opts.Certificates, func(c Certificate) bool { return !settled(c.base()) })
}
