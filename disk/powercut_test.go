package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/tree"
)

// model is a file system that remembers what of it would outlive a power cut: of a file what was last synced, of a
// directory the names that it had when it was last synced.
type model struct {
	root *inode
	cut  func() // called after each change
}

type inode struct {
	kind  tree.Kind
	now   state
	safe  state
	names map[string]*inode
	kept  map[string]*inode
	// since are the changes of names after the last sync, each of which may have outlived the cut without the others.
	since []map[string]*inode
}

// state of a file, or the rights of a directory.
type state struct {
	content string // target of a link
	mode    uint32
	acl     string
}

func newModel() *model {
	return &model{root: newDirectory(0o755), cut: func() {}}
}

func newDirectory(mode uint32) *inode {
	return &inode{kind: tree.Dir, now: state{mode: mode}, safe: state{mode: mode}, names: map[string]*inode{}, kept: map[string]*inode{}}
}

func (m *model) find(name string) (*inode, error) {
	at := m.root
	if name == "." {
		return at, nil
	}
	for _, part := range strings.Split(name, "/") {
		if at.kind != tree.Dir {
			return nil, unix.ENOTDIR
		}
		next := at.names[part]
		if next == nil {
			return nil, unix.ENOENT
		}
		at = next
	}
	return at, nil
}

// change names of a directory in one step, which a cut divides as little.
func (m *model) change(dir string, names map[string]*inode) error {
	d, err := m.find(dir)
	if err != nil {
		return err
	}
	set(d.names, names)
	d.since = append(d.since, names)
	m.cut()
	return nil
}

func set(names, changes map[string]*inode) {
	for name, n := range changes {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

func (m *model) make(name string, n *inode) error {
	if _, err := m.find(name); err == nil {
		return unix.EEXIST
	}
	return m.change(path.Dir(name), map[string]*inode{path.Base(name): n})
}

func (m *model) create(name string) (file, error) {
	n := &inode{kind: tree.File}
	return &modelFile{m: m, n: n}, m.make(name, n)
}

func (m *model) open(name string) (file, error) {
	n, err := m.find(name)
	if err == nil && n.kind != tree.File {
		err = errNoFile
	}
	return &modelFile{m: m, n: n}, err
}

func (m *model) extend(name string) (file, error) { return m.open(name) }
func (m *model) mkdir(name string) error          { return m.make(name, newDirectory(0o700)) }
func (m *model) symlink(target, name string) error {
	return m.make(name, &inode{kind: tree.Link, now: state{content: target}, safe: state{content: target}})
}

func (m *model) rename(from, to string, fresh bool) error {
	n, err := m.find(from)
	if err != nil {
		return err
	}
	if _, err := m.find(to); err == nil && fresh {
		return unix.EEXIST
	}
	return m.change(path.Dir(to), map[string]*inode{path.Base(from): nil, path.Base(to): n})
}

func (m *model) unlink(name string) error {
	if _, err := m.find(name); err != nil {
		return err
	}
	return m.change(path.Dir(name), map[string]*inode{path.Base(name): nil})
}

func (m *model) rmdir(name string) error {
	n, err := m.find(name)
	if err == nil && len(n.names) > 0 {
		err = unix.ENOTEMPTY
	}
	if err != nil {
		return err
	}
	return m.unlink(name)
}

func (m *model) readlink(name string) (string, error) {
	n, err := m.find(name)
	if err == nil && n.kind != tree.Link {
		err = unix.EINVAL
	}
	if err != nil {
		return "", err
	}
	return n.now.content, nil
}

func (m *model) lstat(name string) (unix.Stat_t, error) {
	n, err := m.find(name)
	if err != nil {
		return unix.Stat_t{}, err
	}
	return n.stat(), nil
}

func (m *model) list(name string, _ int) ([]string, error) {
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

func (m *model) directory(name string) (file, error) {
	n, err := m.find(name)
	if err == nil && n.kind != tree.Dir {
		err = unix.ENOTDIR
	}
	return &modelFile{m: m, n: n}, err
}

func (n *inode) stat() unix.Stat_t {
	format := map[tree.Kind]uint32{tree.Dir: unix.S_IFDIR, tree.File: unix.S_IFREG, tree.Link: unix.S_IFLNK}[n.kind]
	return unix.Stat_t{Mode: n.now.mode | format, Size: int64(len(n.now.content)), Nlink: 1}
}

type modelFile struct {
	m   *model
	n   *inode
	off int
}

func (f *modelFile) Close() error               { return nil }
func (f *modelFile) stat() (unix.Stat_t, error) { return f.n.stat(), nil }
func (f *modelFile) chown(_, _ uint32) error    { return nil }
func (f *modelFile) getACL() ([]byte, error)    { return []byte(f.n.now.acl), nil }

func (f *modelFile) Read(b []byte) (int, error) {
	n := copy(b, f.n.now.content[f.off:])
	f.off += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write has a moment in which half is written.
func (f *modelFile) Write(b []byte) (int, error) {
	before := f.n.now.content
	f.n.now.content = before + string(b[:len(b)/2])
	f.m.cut()
	f.n.now.content = before + string(b)
	f.m.cut()
	return len(b), nil
}

func (f *modelFile) chmod(mode uint32) error {
	f.n.now.mode = mode
	f.m.cut()
	return nil
}

// setACL sets the group bits of the mode, as the kernel does.
func (f *modelFile) setACL(value []byte) error {
	f.n.now.acl = string(value)
	if value != nil {
		f.n.now.mode = f.n.now.mode&^0o777 | 0o640
	}
	f.m.cut()
	return nil
}

func (f *modelFile) sync() error {
	f.n.sync()
	f.m.cut()
	return nil
}

func (n *inode) sync() {
	n.safe, n.kept, n.since = n.now, maps.Clone(n.names), nil
}

// settle is what time does.
func (n *inode) settle() {
	n.sync()
	for _, below := range n.names {
		below.settle()
	}
}

// cut is one way in which a power cut can end.
type cut struct {
	names, data bool
	// only is a change of names that has outlived it, of all that were not synced.
	only map[string]*inode
	of   *inode
}

// write makes what is left of a directory after a cut a real one.
func (c cut) write(n *inode, at string) error {
	names := maps.Clone(n.kept)
	if c.names {
		names = n.names
	} else if c.of == n {
		set(names, c.only)
	}
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for name, below := range names {
		p := filepath.Join(at, name)
		s := below.safe
		if c.data {
			s = below.now
		}
		var err error
		switch below.kind {
		case tree.Dir:
			err = c.write(below, p)
		case tree.Link:
			err = os.Symlink(s.content, p)
		case tree.File:
			if err = os.WriteFile(p, []byte(s.content), 0o600); err == nil && s.acl != "" {
				err = unix.Setxattr(p, acl.XAttrName, []byte(s.acl), 0)
			}
			err = errors.Join(err, os.Chmod(p, os.FileMode(s.mode)))
		}
		if err != nil {
			return err
		}
	}
	mode := n.safe.mode
	if c.data {
		mode = n.now.mode
	}
	return os.Chmod(at, os.FileMode(mode))
}

// ways in which a cut at this moment can end: everything is on the disk; all names, and no data that was not
// synced; neither; and each single change of names without the others.
func (m *model) ways() []cut {
	all := []cut{{names: true, data: true}, {names: true}, {data: true}, {}}
	var below func(n *inode)
	below = func(n *inode) {
		for _, change := range n.since {
			all = append(all, cut{of: n, only: change})
		}
		for _, next := range n.names {
			if next.kind == tree.Dir {
				below(next)
			}
		}
	}
	below(m.root)
	return all
}

// After a power cut at any step of a first writing, a renewal, a changed access list and a removal, whatever of it has
// outlived the cut: every link leads to complete files, a certificate that was there is there, in its old state or the
// new one, nothing can be read by more than it should, and the next start makes it whole.
func TestPowerCut(t *testing.T) {
	some, none := acl.NewList([]uint32{33}, []uint32{12}), acl.List{}
	for name, scenario := range map[string]struct{ before, after func(s *shop) }{
		"first":        {nil, func(s *shop) { s.show("www", 1) }},
		"renewal":      {func(s *shop) { s.show("www", 2, 1) }, func(s *shop) { s.show("www", 3, 2) }},
		"other text":   {func(s *shop) { s.show("www", 2) }, traditional},
		"back":         {func(s *shop) { s.show("www", 2, 1) }, func(s *shop) { s.show("www", 1, 2) }},
		"more readers": {func(s *shop) { s.show("www", 1); s.entry("www").Grants = none }, func(s *shop) { s.entry("www").Grants = some }},
		"no readers":   {func(s *shop) { s.show("www", 1) }, func(s *shop) { s.entry("www").Grants = none }},
		"removal":      {func(s *shop) { s.show("www", 2, 1).show("api", 3) }, func(s *shop) { s.show("api") }},
		"layouts":      {func(s *shop) { s.show("www", 1) }, func(s *shop) { s.entry("www").Views.Layouts = []tree.Layout{tree.V4, tree.Certs} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, tree.V3, tree.V4, tree.Live)
			s.add("api", some, tree.V3)
			powerCuts(t, s, scenario.before, scenario.after)
		})
	}
}

// traditional gives the files other contents under the same names.
func traditional(s *shop) {
	e := s.entry("www")
	e.Views.Key = certs.Traditional
	v, err := s.shown["www"].Current.With(e.Views)
	if err != nil {
		s.t.Fatal(err)
	}
	s.shown["www"] = tree.Shown{Versions: []*tree.Version{v}, Current: v}
}

func powerCuts(t *testing.T, s *shop, before, after func(*shop)) {
	m := newModel()
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	options := Options{Certificates: s.certificates(), Settled: func(string) bool { return true }, wrap: func(storage) storage { return m }}
	d, err := Open(s.store, options)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	old := map[string]thing{}
	if before != nil {
		before(s)
		if err := d.Apply(t.Context(), s.snapshot()); err != nil {
			t.Fatal(err)
		}
		old = expected(s.snapshot(), s.store)
	}
	m.root.settle()
	after(s)
	c := checker{shop: s, old: old, new: expected(s.snapshot(), s.store)}
	n := 0
	m.cut = func() {
		n++
		for i, way := range m.ways() {
			c.check(fmt.Sprintf("cut %d, way %d", n, i), way, m.root)
		}
	}
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	if n < 3 {
		t.Errorf("only %d cuts", n)
	}
	t.Log(n, "cuts")
}

// checker looks at what a cut has left.
type checker struct {
	*shop
	old, new map[string]thing
}

func (c *checker) check(when string, way cut, left *inode) {
	c.t.Helper()
	if c.t.Failed() {
		return // one is enough to read
	}
	if err := os.RemoveAll(c.store); err != nil {
		c.t.Fatal(err)
	}
	if err := way.write(left, c.store); err != nil {
		c.t.Fatal(when, err)
	}
	disk := onDisk(c.t, c.store)
	for name, x := range disk {
		if name == manifestName || x.kind == tree.Dir {
			continue
		}
		c.rights(when, name, x)
		if !isTemp(baseOf(name)) && x.content != c.old[name].content && x.content != c.new[name].content {
			c.t.Errorf("%s: %s is neither the old nor the new one: %.100q", when, name, x.content)
		}
		if x.kind == tree.Link && !isTemp(baseOf(name)) {
			c.leads(when, name, disk)
		}
	}
	for _, cert := range c.certificates() {
		c.readBack(when, cert)
	}
	d, err := Open(c.store, Options{Certificates: c.certificates(), Settled: func(string) bool { return true }})
	if err != nil {
		c.t.Fatal(when, err)
	}
	defer d.Close()
	if err := d.Apply(c.t.Context(), c.snapshot()); err != nil {
		c.t.Fatal(when, err)
	}
	c.equal()
	if c.t.Failed() {
		c.t.Fatal(when, "and then a start; there was ", slices.Sorted(maps.Keys(disk)))
	}
}

// rights of what has content are those that the same content has under some name, before or after, or nobody's.
func (c *checker) rights(when, name string, x thing) {
	if x.kind != tree.File || x.content == "" || x.mode&0o077 == 0 { // that is the mask of a list, too
		return
	}
	for _, known := range []map[string]thing{c.old, c.new} {
		for _, k := range known {
			if k.kind == tree.File && strings.HasPrefix(k.content, x.content) && k.mode == x.mode && k.acl == x.acl {
				return
			}
		}
	}
	c.t.Errorf("%s: %s has mode %o, access list %x", when, name, x.mode, x.acl)
}

func (c *checker) leads(when, name string, disk map[string]thing) {
	to := path.Join(path.Dir(name), disk[name].content)
	complete := func(known map[string]thing) bool {
		for below, k := range known {
			if (below == to || strings.HasPrefix(below, to+"/")) && (disk[below].kind != k.kind || disk[below].content != k.content) {
				return false
			}
		}
		_, there := known[to]
		return there
	}
	if !complete(c.old) && !complete(c.new) {
		c.t.Errorf("%s: %s leads to %s, which is not complete", when, name, to)
	}
}

func (c *checker) readBack(when string, cert Certificate) {
	link := cert.base()
	was, is := path.Ext(c.old[link].content), path.Ext(c.new[link].content)
	if is == "" && c.new[link+".pem"].kind == tree.Link {
		is = was // shown in another layout
	}
	current, all := c.good(cert.Name)
	switch got := "." + string(current); {
	case was != "" && is != "" && got != was && got != is:
		c.t.Errorf("%s: of %s version %q is current, of %v", when, cert.Name, current, all)
	case got != "." && got != was && got != is:
		c.t.Errorf("%s: of %s version %q is current", when, cert.Name, current)
	}
}
