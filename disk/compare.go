package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// mostNames bounds what is read of a directory.
const mostNames = 500_000

// compare finds out what is on the disk already, mends its rights, and removes what a crash has left
// half-way. Afterwards on has what is as it should be.
func (a *application) compare() (err error) {
	if a.names, err = readManifest(a.sys, a.own); err != nil {
		return &Error{Path: a.at(manifestName), Fact: "the list of its own names that kvfs keeps at " + a.at(manifestName) + " cannot be used: " + err.Error(),
			Hint: "move that file away: then kvfs takes for its own what is as it wants it, or has a name as the extension gives", Err: err}
	}
	a.adopted, a.pending, a.strays = map[string]bool{}, map[string]bool{}, map[string]tree.Kind{}
	if err := a.look(); err != nil {
		return failed("reading", a.path, err)
	}
	var nodes []*tree.Node
	same := map[string]record{}
	for n := range a.to.Nodes() {
		if n.Kind != tree.Dir || n.ID == tree.Root { // directories come with what is in them
			if name, mine := a.name(n); n.ID == tree.Root || !mine {
				nodes = append(nodes, n)
			} else if a.inPlace(n, name) {
				nodes, same[name] = append(nodes, n), recordOf(n)
			}
		}
	}
	nodes = append(nodes, a.directories()...)
	if a.on, err = tree.Of(nodes); err != nil {
		return &Error{Path: a.path, Fact: "comparing " + a.path + ": " + err.Error(), Err: err}
	}
	if err := a.names.enter(same); err != nil { // what is as we would make it is ours
		a.add(failed("writing", a.at(manifestName), err))
	}
	if err := a.letIn(); err != nil {
		a.add(failed("mending the mode of", a.path, err))
	}
	return nil
}

// letIn makes a directory in which all is ours one that readers can enter, as the mount is. The extension's has mode
// 0700, which would defeat every access list. One that has names of others stays as it is.
func (a *application) letIn() error {
	names, err := a.sys.list(".", mostNames)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, func(name string) bool { return name != manifestName && !isTemp(name) && !a.ours(name) }) {
		return nil
	}
	f, err := a.sys.directory(".")
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.stat()
	if err != nil || st.Mode&0o7777&dirMode == dirMode || st.Uid != a.own.uid {
		return err
	}
	return errors.Join(f.chmod(dirMode), f.sync())
}

// look removes temporary names, finds the extension's, and drops from the manifest what is not there.
func (a *application) look() error {
	names, err := a.sys.list(".", mostNames)
	if err != nil {
		return err
	}
	a.removeTemps(".", names)
	for _, name := range names {
		if _, known := a.names.names[name]; !known && extensions(a.sys, name, a.opts.Certificates) && a.opts.Certificates != nil {
			if st, err := a.sys.lstat(name); err == nil {
				a.adopted[name] = true
				a.stray(name, kindOf(&st))
			}
		}
	}
	var gone []string
	for name, r := range a.names.names {
		if r.Kind == tree.Dir {
			below, _ := a.sys.list(name, mostNames) // of one that is gone nothing is left
			a.removeTemps(name, below)
		}
		if a.stray(name, r.Kind) {
			gone = append(gone, name)
		}
	}
	if err := a.names.leave(gone); err != nil {
		a.add(failed("writing", a.at(manifestName), err))
		for _, name := range gone {
			a.pending[name] = true
		}
	}
	return nil
}

// stray notes a name that the snapshot does not have; gone is whether nothing of ours is there.
func (a *application) stray(name string, kind tree.Kind) (gone bool) {
	st, err := a.sys.lstat(name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return true
	case err != nil:
		return false
	case kindOf(&st) != kind:
		return true // somebody has put something else there, which is his
	}
	if _, wanted := a.find(name); !wanted {
		a.strays[name] = kind
	}
	return false
}

func kindOf(st *unix.Stat_t) tree.Kind {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return tree.Dir
	case unix.S_IFLNK:
		return tree.Link
	case unix.S_IFREG:
		return tree.File
	}
	return 0
}

func (a *application) removeTemps(dir string, names []string) {
	for _, name := range names {
		if !isTemp(name) {
			continue
		}
		if err := a.sys.unlink(path.Join(dir, name)); err != nil {
			a.log.Warn("a temporary file of an earlier start stays", "path", a.at(path.Join(dir, name)), "err", err)
		}
	}
}

// directories are those of the snapshot that are on the disk, and those of other stores.
func (a *application) directories() (nodes []*tree.Node) {
	var below func(dir tree.ID, mine bool)
	below = func(dir tree.ID, mine bool) {
		for n := range a.to.Entries(dir, 0) {
			name, here := a.name(n)
			if n.Kind != tree.Dir || mine && !here {
				continue
			}
			if here && name != "." && !a.mendDirectory(name) {
				continue
			}
			nodes = append(nodes, n)
			below(n.ID, here)
		}
	}
	below(tree.Root, false)
	return nodes
}

// mendDirectory tells whether a directory is there, with its rights.
func (a *application) mendDirectory(name string) bool {
	st, err := a.sys.lstat(name)
	if err != nil || kindOf(&st) != tree.Dir {
		return false // carryOut makes it, or says what is in its place
	}
	if _, err := placeDir(a.sys, a.own, name); err != nil {
		a.add(failed("mending", a.at(name), err))
		return false
	}
	return true
}

// inPlace tells whether a name is on the disk as the snapshot has it. Rights are mended.
func (a *application) inPlace(n *tree.Node, name string) bool {
	if n.Kind == tree.Link {
		st, err := a.sys.lstat(name)
		if err != nil || st.Uid != a.own.uid {
			return false
		}
		target, err := a.sys.readlink(name)
		return err == nil && target == n.Target
	}
	f, err := a.sys.open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.stat()
	if err != nil || a.own.alone(&st) != nil || st.Uid != a.own.uid || st.Nlink != 1 || !a.sameContent(f, st.Size, n) {
		return false
	}
	if has(f, &st, a.own, rightsOf(n)) {
		return true
	}
	if err := setRights(a.sys, a.own, name, rightsOf(n)); err != nil {
		a.add(failed("mending the rights of", a.at(name), err))
		return false
	}
	return true
}

func (a *application) sameContent(f file, size int64, n *tree.Node) bool {
	if size != int64(n.Size) {
		return false
	}
	b, err := io.ReadAll(io.LimitReader(f, size+1))
	if err != nil {
		return false
	}
	if n.Away != nil {
		return sha256.Sum256(b) == n.Away.Sum
	}
	return bytes.Equal(b, n.Content())
}
