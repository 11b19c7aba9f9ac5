package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/tree"
)

// Through a renewal, an access list, a removal and a return, in all layouts, the directory is what the
// snapshot says, in content, rights and owner; also for a process that begins anew at each step.
func TestDirectoryEqualsTheSnapshot(t *testing.T) {
	for _, anew := range []bool{false, true} {
		t.Run(fmt.Sprint("anew=", anew), func(t *testing.T) {
			s := newShop(t, everyLayout...)
			s.add("api", acl.List{}, everyLayout...)
			s.entry("www").Links = []string{"site"}
			d := s.open(Options{})
			step := func(change func()) {
				t.Helper()
				change()
				if anew {
					d = s.open(Options{})
				}
				s.apply(d)
			}
			step(func() { s.show("www", 1).show("api", 11) })
			step(func() { s.show("www", 2, 1) })
			step(func() { s.show("www", 3, 2) })
			step(func() { s.entry("www").Grants = acl.List{} })
			step(func() { s.entry("api").Grants = acl.NewList([]uint32{7}, nil) })
			step(func() { s.entry("api").Grants = acl.NewList([]uint32{7, 8}, []uint32{9}) })
			step(func() { s.entries = slices.Delete(s.entries, 1, 2) })
			step(func() { s.add("api", acl.List{}, tree.V4) })
			step(func() {
				s.entry("www").Views.Layouts = []tree.Layout{tree.Live}
				s.entry("www").Links = nil
				s.show("www", 4)
			})
			if list, err := os.ReadDir(s.path("archive/contoso-web.www")); err != nil || len(list) != 1 {
				t.Error(list, err)
			}
		})
	}
}

// A narrow umask, a default access list and a set-group-id bit of the directory leave no trace.
func TestRightsDoNotComeFromTheSurroundings(t *testing.T) {
	s := newShop(t, tree.V3, tree.Live)
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	// user::rwx user:4242:r-- group::r-x mask::r-x other::r-x
	def := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\x92\x10\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(s.store, "system.posix_acl_default", []byte(def), 0); err != nil {
		t.Skip("no access lists here:", err)
	}
	defer unix.Umask(unix.Umask(0o077))
	s.entry("www").Grants = acl.List{}
	s.show("www", 1)
	d := s.open(Options{})
	s.apply(d)
	s.entry("www").Grants = acl.NewList([]uint32{33}, nil)
	s.apply(d)
	s.entry("www").Grants = acl.List{}
	s.apply(d)
}

// What somebody has changed while no kvfs ran is mended at the next start.
func TestStartMendsWhatWasChanged(t *testing.T) {
	s := newShop(t, everyLayout...)
	s.show("www", 2, 1)
	s.apply(s.open(Options{}))
	file := "contoso-web.www." + string(versionID(2))
	for what, change := range map[string]func(){
		"content":     func() { s.write(file, "something else", 0o600) },
		"mode":        func() { _ = os.Chmod(s.path(file), 0o644) },
		"writable":    func() { _ = os.Chmod(s.path(file), 0o666) },
		"owner":       func() { _ = os.Chown(s.path(file), 4242, 0) },
		"access list": func() { _ = unix.Removexattr(s.path(file), acl.XAttrName) },
		"removed":     func() { _ = os.Remove(s.path(file)) },
		"target":      func() { _ = os.Remove(s.path("contoso-web.www")); s.link("/etc/passwd", "contoso-web.www") },
		"a directory": func() { _ = os.Chmod(s.path("archive/contoso-web.www"), 0o700) },
		"its parts":   func() { _ = os.RemoveAll(s.path("archive/contoso-web.www")) },
		"a hard link": func() { _ = os.Link(s.path(file), s.store+".other") },
		"link gone":   func() { _ = os.Remove(s.path("live/contoso-web.www")) },
		"manifest":    func() { _ = os.Remove(s.path(manifestName)) },
	} {
		was, _ := os.Lstat(s.path(file))
		change()
		d := s.open(Options{})
		if err := d.Apply(t.Context(), s.snapshot()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		s.equal()
		if is, err := os.Lstat(s.path(file)); err != nil || what == "writable" && os.SameFile(was, is) {
			t.Error("somebody may still have the file open for writing", err)
		}
		if t.Failed() {
			t.Fatal("after: ", what)
		}
	}
}

// counter counts system calls by kind.
type counter struct {
	storage
	calls map[string]int
}

func (c *counter) create(name string) (file, error) {
	c.calls["create"]++
	return c.storage.create(name)
}
func (c *counter) open(name string) (file, error) { c.calls["open"]++; return c.storage.open(name) }
func (c *counter) lstat(name string) (unix.Stat_t, error) {
	c.calls["lstat"]++
	return c.storage.lstat(name)
}
func (c *counter) readlink(name string) (string, error) {
	c.calls["readlink"]++
	return c.storage.readlink(name)
}
func (c *counter) list(name string, most int) ([]string, error) {
	c.calls["list"]++
	return c.storage.list(name, most)
}

// A renewal costs what it changes, whatever the size of the store.
func TestRenewalCostsWhatItChanges(t *testing.T) {
	s := newShop(t, tree.V3, tree.V4)
	for i := range 300 {
		name := fmt.Sprintf("c%d", i)
		s.add(name, acl.List{}, tree.V3, tree.V4)
		s.show(name, 1)
	}
	s.show("www", 2, 1)
	c := &counter{calls: map[string]int{}}
	d := s.open(Options{wrap: func(sys storage) storage { c.storage = sys; return c }})
	s.apply(d)
	clear(c.calls)
	s.show("www", 3, 2)
	s.apply(d)
	total := 0
	for _, n := range c.calls {
		total += n
	}
	if total > 40 || c.calls["list"] > 0 || c.calls["create"] != 4 {
		t.Errorf("a renewal among 300 certificates took %v", c.calls)
	}
	clear(c.calls)
	s.apply(d)
	if len(c.calls) > 0 {
		t.Errorf("no change took %v", c.calls)
	}
}

// A store whose certificates are not here yet, as after a start without any, keeps what it has of them; what the settings
// have no more, goes.
func TestWhatIsNotHereYetStaysOnTheDisk(t *testing.T) {
	s := newShop(t, everyLayout...)
	s.entry("www").Links = []string{"my.site"}
	s.add("gone", acl.List{}, tree.V3, tree.V4)
	s.show("www", 2, 1).show("gone", 5)
	s.apply(s.open(Options{}))
	before := onDisk(t, s.store)

	s.entries = s.entries[:1]
	s.show("www")
	settled := false
	d := s.open(Options{Settled: func(string) bool { return settled }})
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	after := onDisk(t, s.store)
	for name, was := range before {
		if now, there := after[name]; there == strings.Contains(name, ".gone") || there && name != manifestName && now != was {
			t.Errorf("%s: %v", name, there)
		}
	}
	settled = true // hidden, on purpose
	s.apply(d)
	if left := onDisk(t, s.store); len(left) != 1 {
		t.Error("what is hidden is on the disk:", left)
	}
}

// A renewal that came while no kvfs ran removes what is too old, after the links have moved.
func TestRenewalAfterAStart(t *testing.T) {
	s := newShop(t, everyLayout...)
	s.show("www", 2, 1)
	s.apply(s.open(Options{}))
	s.show("www", 7, 2)
	s.apply(s.open(Options{}))
}

func TestKeptFilesStay(t *testing.T) {
	s := newShop(t, everyLayout...)
	s.show("www", 1)
	d := s.open(Options{KeepFiles: true})
	s.apply(d)
	s.show("www", 2)
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	old := string(versionID(1))
	for _, name := range []string{"contoso-web.www." + old, "contoso-web.www." + old + ".keyid.1700001000", "archive/contoso-web.www/" + old + "/privkey.pem"} {
		if _, err := os.Lstat(s.path(name)); err != nil {
			t.Error(err)
		}
	}
	if my, _ := os.ReadDir(s.path("my")); len(my) != 1 {
		t.Error("what .NET reads has", my)
	}
	s.show("www")
	d = s.open(Options{KeepFiles: true, Settled: func(string) bool { return true }})
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	for name, x := range onDisk(t, s.store) {
		if x.kind == tree.Link || strings.HasSuffix(name, ".luma") {
			t.Errorf("%s stays, though nothing is to be shown", name)
		}
	}
	d = s.open(Options{Settled: func(string) bool { return true }})
	s.apply(d)
}

// Content that has gone out of memory stays on the disk; what was never there is left out until it comes.
func TestContentThatIsNotInMemory(t *testing.T) {
	s := newShop(t, tree.V3, tree.V4)
	s.show("www", 2, 1)
	d := s.open(Options{})
	s.apply(d)
	full := s.shown["www"].Versions[1]
	stub := func() { s.shown["www"].Versions[1] = full.Stub() }
	there := func() bool { _, err := os.Stat(s.path("contoso-web.www." + string(versionID(1)))); return err == nil }
	want := onDisk(t, s.store)
	same := func() {
		t.Helper()
		got := onDisk(t, s.store)
		delete(got, manifestName)
		for name, x := range got {
			if want[name] != x {
				t.Errorf("%s has changed", name)
			}
		}
		if len(got) != len(want)-1 {
			t.Errorf("%d names, want %d", len(got), len(want)-1)
		}
	}
	stub()
	if err := d.Apply(t.Context(), s.snapshot()); err != nil || !there() {
		t.Fatal(err)
	}
	same()
	d = s.open(Options{})
	if err := d.Apply(t.Context(), s.snapshot()); err != nil || !there() {
		t.Fatal(err)
	}
	same()
	if err := os.Remove(s.path("contoso-web.www." + string(versionID(1)))); err != nil {
		t.Fatal(err)
	}
	d = s.open(Options{})
	for range 2 {
		if err := d.Apply(t.Context(), s.snapshot()); err != nil || there() {
			t.Fatal(err)
		}
	}
	s.shown["www"].Versions[1] = full
	s.apply(d)
	same()
}

// Nobody's names are touched: neither where ours belong, nor beside them.
func TestForeignNamesStay(t *testing.T) {
	s := newShop(t, everyLayout...)
	s.entry("www").Links = []string{"site"}
	s.add("api", acl.List{}, tree.V3)
	s.show("www", 1).show("api", 1)
	s.write("site", "somebody's", 0o644)
	s.write("ca-certificates.crt", "roots", 0o644)
	s.write("live/other", "certbot's", 0o644)
	s.write("contoso-web.api", "not a link", 0o644)
	s.write("archive/contoso-web.www/"+string(versionID(1))+"/cert.pem", "somebody's", 0o644)
	s.link("ca-certificates.crt", "abcd1234.0")
	foreignBefore := onDisk(t, s.store)
	d := s.open(Options{})
	for range 2 {
		err := d.Apply(t.Context(), s.snapshot())
		for _, name := range []string{"site", "contoso-web.api", "cert.pem"} {
			if err == nil || !strings.Contains(err.Error(), name+" is there and was not made by kvfs") {
				t.Errorf("%s is not reported: %v", name, err)
			}
		}
		var e *Error
		if !errors.As(err, &e) || e.Hint == "" {
			t.Error("no hint:", err)
		}
	}
	after := onDisk(t, s.store)
	for name, was := range foreignBefore {
		if after[name] != was {
			t.Errorf("%s was %v and is %v", name, was, after[name])
		}
	}
	for name, want := range expected(s.snapshot(), s.store) {
		if _, clash := foreignBefore[name]; !clash && name != "live/contoso-web.www" && after[name] != want {
			t.Errorf("%s is %v", name, after[name])
		}
	}
	if _, there := after["live/contoso-web.www"]; there {
		t.Error("a link leads to a directory that is not complete")
	}
	for _, name := range []string{"site", "contoso-web.api", "archive/contoso-web.www/" + string(versionID(1)) + "/cert.pem"} {
		if err := os.Remove(s.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal("after they were moved away:", err)
	}
	s.equal("ca-certificates.crt", "live/other", "abcd1234.0")
	// A name that somebody puts in the place of ours is his.
	s.show("www").show("api")
	_ = os.Remove(s.path("site"))
	_ = os.Mkdir(s.path("site"), 0o755)
	d.Set(Options{Certificates: s.certificates(), Settled: func(string) bool { return true }})
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path("site")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.path("live/other")); err != nil {
		t.Error(err)
	}
}

// faulty fails calls whose name a test chooses.
type faulty struct {
	storage
	fail func(call, name string) error
}

func (f *faulty) create(name string) (file, error) {
	if err := f.fail("create", name); err != nil {
		return nil, err
	}
	opened, err := f.storage.create(name)
	return &faultyFile{opened, f, name}, err
}

func (f *faulty) directory(name string) (file, error) {
	opened, err := f.storage.directory(name)
	return &faultyFile{opened, f, name}, err
}

func (f *faulty) rename(from, to string, fresh bool) error {
	if err := f.fail("rename", to); err != nil {
		return err
	}
	return f.storage.rename(from, to, fresh)
}

func (f *faulty) unlink(name string) error {
	if err := f.fail("unlink", name); err != nil {
		return err
	}
	return f.storage.unlink(name)
}

func (f *faulty) symlink(target, name string) error {
	if err := f.fail("symlink", name); err != nil {
		return err
	}
	return f.storage.symlink(target, name)
}

type faultyFile struct {
	file
	of   *faulty
	name string
}

func (f *faultyFile) sync() error {
	if err := f.of.fail("sync", f.name); err != nil {
		return err
	}
	return f.file.sync()
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.of.fail("write", f.name); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	return f.file.Write(b)
}

// Whichever call fails, once or for a while: what is on the disk is complete, the error says so, and the next
// Apply does the rest.
func TestEveryFailureLeavesWholeFilesAndIsTriedAgain(t *testing.T) {
	layouts := []tree.Layout{tree.V3, tree.V4, tree.Live}
	for nth, more := 0, true; more; nth++ {
		for _, persistent := range []bool{false, true} {
			s := newShop(t, layouts...)
			n, failing, failed := 0, false, ""
			wrap := func(sys storage) storage {
				return &faulty{sys, func(call, name string) error {
					if !failing {
						return nil
					}
					n++
					if n == nth+1 || persistent && n > nth {
						if failed == "" {
							failed = call + " " + name
						}
						return unix.EIO
					}
					return nil
				}}
			}
			s.show("www", 2)
			d := s.open(Options{wrap: wrap})
			s.apply(d)
			s.show("www", 3) // so that a link that does not move would lead nowhere
			failing = true
			err := d.Apply(t.Context(), s.snapshot())
			failing = false
			if failed == "" {
				more = false
				break
			}
			if err == nil && !strings.HasPrefix(failed, "unlink .kvfs-") {
				t.Errorf("call %d (%s) has failed, and nothing is said", nth, failed)
			}
			s.complete(fmt.Sprintf("after call %d (%s) has failed", nth, failed), 2, 3)
			s.apply(d)
			if t.Failed() {
				t.Fatalf("call %d (%s), persistent=%v: %v", nth, failed, persistent, err)
			}
		}
		if nth > 500 {
			t.Fatal("it does not end")
		}
	}
}

// complete checks that every link of www leads to whole files of one of some versions, which can be read back.
func (s *shop) complete(when string, versions ...int) {
	s.t.Helper()
	var all []int
	all = append(all, versions...)
	known := newShopLike(s, all...)
	disk := onDisk(s.t, s.store)
	for name, x := range disk {
		if x.kind == tree.File && name != manifestName && !isTemp(baseOf(name)) && known[name] != nil && !known[name][x.content] {
			s.t.Errorf("%s: %s is not whole", when, name)
		}
		if x.kind != tree.Link {
			continue
		}
		if _, err := os.Stat(s.path(name)); err != nil {
			s.t.Errorf("%s: %v", when, err)
		}
		if strings.HasPrefix(name, "live/") {
			for _, part := range []string{"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"} {
				if _, err := os.Stat(s.path(name + "/" + part)); err != nil {
					s.t.Errorf("%s: %v", when, err)
				}
			}
		}
	}
	current, _ := s.good("www")
	if !slices.ContainsFunc(versions, func(n int) bool { return versionID(n) == current }) {
		s.t.Errorf("%s: version %q is current", when, current)
	}
}

// newShopLike are the contents that names may have, with any of the versions current.
func newShopLike(s *shop, versions ...int) map[string]map[string]bool {
	known := map[string]map[string]bool{}
	was := s.shown["www"]
	for _, n := range append([]int{1}, versions...) {
		s.show("www", n)
		for name, x := range expected(s.snapshot(), s.store) {
			if known[name] == nil {
				known[name] = map[string]bool{}
			}
			known[name][x.content] = true
		}
	}
	s.shown["www"] = was
	return known
}

func baseOf(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// Temporary names of a crash go at the next start; what only looks like one stays.
func TestTemporaryNamesOfACrashGo(t *testing.T) {
	s := newShop(t, tree.V3, tree.Live)
	s.show("www", 1)
	s.apply(s.open(Options{}))
	s.write(".kvfs-0123456789abcdef~", "half", 0)
	s.link("nowhere", "live/.kvfs-0123456789abcdef~")
	s.write("archive/contoso-web.www/"+string(versionID(1))+"/.kvfs-0123456789abcdef~", "half", 0)
	s.write(".kvfs-backup~", "mine", 0o600)
	if err := s.open(Options{}).Apply(context.Background(), s.snapshot()); err != nil {
		t.Fatal(err)
	}
	s.equal(".kvfs-backup~")
}

// A new file can be read by nobody, whatever the umask and the directory say.
func TestNewFilesHaveNoRights(t *testing.T) {
	s := newShop(t, tree.V3)
	defer unix.Umask(unix.Umask(0))
	d := s.open(Options{})
	f, err := d.sys.create("x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.stat(); err != nil || st.Mode&0o7777 != 0 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
}

// A name that was to be ours, and that somebody has taken after the writing has failed, is his.
func TestNameThatIsTakenAfterAFailure(t *testing.T) {
	s := newShop(t, tree.V3)
	s.show("www", 1)
	file, failing := "contoso-web.www."+string(versionID(1)), true
	d := s.open(Options{wrap: func(sys storage) storage {
		return &faulty{sys, func(call, name string) error {
			if failing && call == "rename" && name == file {
				return unix.EIO
			}
			return nil
		}}
	}})
	if err := d.Apply(t.Context(), s.snapshot()); err == nil {
		t.Fatal("no error")
	}
	failing = false
	s.write(file, "somebody's", 0o600)
	err := d.Apply(t.Context(), s.snapshot())
	if b, _ := os.ReadFile(s.path(file)); err == nil || string(b) != "somebody's" {
		t.Error(err, string(b))
	}
	if err := os.Remove(s.path(file)); err != nil {
		t.Fatal(err)
	}
	s.apply(d)
}

// A renewal in a store of 20,000 names and more.
func BenchmarkRenewal(b *testing.B) {
	s := newShop(b, tree.V3, tree.V4)
	for i := range 2600 {
		name := fmt.Sprintf("c%d", i)
		s.add(name, acl.List{}, tree.V3, tree.V4)
		s.entries[len(s.entries)-1].Certificate = "all"
	}
	s.shown["all"] = tree.Shown{Versions: []*tree.Version{version(b, 1, tree.V3, tree.V4), version(b, 0, tree.V3, tree.V4)}}
	s.shown["all"] = tree.Shown{Versions: s.shown["all"].Versions, Current: s.shown["all"].Versions[0]}
	d := s.open(Options{})
	snapshots := []*tree.Snapshot{s.show("www", 3, 2).snapshot(), s.show("www", 4, 3).snapshot()}
	if err := d.Apply(b.Context(), snapshots[1]); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(snapshots[0].Len()), "names")
	n := 0
	for b.Loop() {
		if err := d.Apply(b.Context(), snapshots[n%2]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
