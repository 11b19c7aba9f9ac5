package disk

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kvfs/certs"
	"kvfs/tree"
)

// What Apply has written is read back as the versions that it was written of: the same names, bytes and times come of
// them, so that a store that is made of what was read is the one that is there.
func TestWhatWasWrittenIsReadBack(t *testing.T) {
	for _, layouts := range [][]tree.Layout{{tree.V3}, {tree.V4}, {tree.Live}, {tree.PFX}, {tree.V3, tree.V4}, everyLayout} {
		t.Run(fmt.Sprint(layouts), func(t *testing.T) {
			s := newShop(t, layouts...)
			s.show("www", 3, 2, 1)
			s.apply(s.open(Options{}))
			found, notes, err := Read(s.store, s.certificates(), ReadOptions{})
			if err != nil || len(notes) > 0 {
				t.Fatal(err, notes)
			}
			good := found["contoso-web.www"]
			if good.Current != versionID(3) || len(good.Versions) != 3 {
				t.Fatalf("current %s of %d", good.Current, len(good.Versions))
			}
			written := s.shown["www"]
			for i, v := range good.Versions {
				if w := written.Versions[i]; v.ID != w.ID || !v.Created.Equal(w.Created) || !v.NotAfter.Equal(w.NotAfter) {
					t.Errorf("version %s of %v, want %s of %v", v.ID, v.Created, w.ID, w.Created)
				}
			}
			if slices.Contains(layouts, tree.V4) && !good.Versions[0].Published.Equal(written.Current.Published) {
				t.Error("published", good.Versions[0].Published)
			}
			if slices.Contains(layouts, tree.PFX) { // whose bytes are other ones each time
				return
			}
			before := onDisk(t, s.store)
			s.shown["www"] = tree.Shown{Versions: good.Versions, Current: good.Versions[0]}
			s.apply(s.open(Options{}))
			for name, x := range onDisk(t, s.store) {
				if before[name] != x {
					t.Errorf("%s was written anew", name)
				}
			}
		})
	}
}

// The version that the links lead to is the first: the vault may have gone back to it.
func TestVersionThatTheVaultWentBackTo(t *testing.T) {
	s := newShop(t, tree.V3)
	s.show("www", 1, 3, 2)
	s.apply(s.open(Options{}))
	current, all := s.good("www")
	if current != versionID(1) || !slices.Equal(all, []certs.Version{versionID(1), versionID(3), versionID(2)}) {
		t.Error(current, all)
	}
}

func TestMostVersionsThatAreRead(t *testing.T) {
	s := newShop(t, tree.V3)
	s.show("www", 1, 9, 8, 7, 6, 5)
	s.apply(s.open(Options{}))
	found, _, err := Read(s.store, s.certificates(), ReadOptions{Versions: 2})
	if v := found["contoso-web.www"].Versions; err != nil || len(v) != 2 || v[0].ID != versionID(1) || v[1].ID != versionID(9) {
		t.Error(err, v)
	}
}

// extension writes a store as a version of the extension does, with two versions of www.
func (s *shop) extension(version int) {
	s.t.Helper()
	if err := os.Mkdir(s.store, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for _, n := range []int{1, 2} {
		pem := bundleText(s.t, n).PEM()
		// The extension's own text is not ours: a comment stands for the difference.
		all, chain, key := "# of the extension\n"+string(pem.Combined()), "# chain\n"+string(pem.FullChain()), "# key\n"+string(pem.Key())
		id := string(versionID(n))
		switch base := "contoso-web.www." + id; version {
		case 1, 2:
			name := fmt.Sprintf("%s.%d.%d.PEM", base, created(n).Unix(), created(n).AddDate(1, 0, 0).Unix())
			s.write(name, all, 0o600)
			if n == 2 {
				s.link(s.path(name), map[int]string{1: "www", 2: "contoso-web.www"}[version])
			}
		case 3:
			s.write(base, all, 0o600)
			if n == 2 {
				s.link(base, "contoso-web.www")
				s.link(base, "site")
			}
		case 4:
			at := fmt.Sprint(created(n).Unix())
			s.write(base+".pem."+at, chain, 0o600)
			s.write(base+".keyid."+at, key, 0o600)
			if n == 2 {
				s.link(base+".pem."+at, "contoso-web.www.pem")
				s.link(base+".keyid."+at, "contoso-web.www.keyid")
				s.write("contoso-web.www.luma", "whatever it writes there", 0o644)
			}
		}
	}
}

// A store as any version of the extension has left it is read; it may be written to; a reader in its links
// never misses a file; and in the end it has ours and nothing else.
func TestStoreOfTheExtension(t *testing.T) {
	links := map[int][]string{1: {"www"}, 2: {"contoso-web.www"}, 3: {"contoso-web.www", "site"}, 4: {"contoso-web.www.pem", "contoso-web.www.keyid"}}
	for version := range 4 {
		version++
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			s := newShop(t, tree.V3, tree.V4)
			s.entry("www").Links = []string{"site"}
			s.extension(version)
			var names []string
			entries, err := os.ReadDir(s.store)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
			s.write("foreign", "x", 0o600)
			if foreign, err := Foreign(s.store, append(names, "foreign")); err != nil || !slices.Equal(foreign, []string{"foreign"}) {
				t.Error("foreign are", foreign, err)
			}
			found, notes, err := Read(s.store, s.certificates(), ReadOptions{})
			good := found["contoso-web.www"]
			if err != nil || len(notes) > 0 || good.Current != versionID(2) || len(good.Versions) != 2 {
				t.Fatal(err, notes, good)
			}
			if v := good.Versions[1]; !v.Created.Equal(created(1)) || !v.HasKey() {
				t.Error("version 1 was created", v.Created)
			}
			stop := readsOn(t, s, links[version])
			if version == 1 { // its link has no place in what is shown
				stop()
			}
			s.shown["www"] = tree.Shown{Versions: good.Versions, Current: good.Versions[0]}
			keep := s.open(Options{KeepFiles: true})
			if err := keep.Apply(t.Context(), s.snapshot()); err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if _, err := os.Lstat(s.path(e.Name())); err != nil && e.Type().IsRegular() {
					t.Error("without a purge:", err)
				}
			}
			s.show("www", 3, 2)
			d := s.open(Options{})
			if err := d.Apply(t.Context(), s.snapshot()); err != nil {
				t.Fatal(err)
			}
			if version != 1 {
				stop()
			}
			s.equal("foreign")
		})
	}
}

// The directory of the extension lets nobody but root pass, and then access lists are of no use. It is opened to readers, unless
// somebody else has something in it.
func TestReadersMayEnter(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		s := newShop(t, tree.V3)
		s.entry("www").Links = []string{"site"}
		s.extension(3)
		want := os.FileMode(0o755)
		if foreign {
			s.write("secret", "x", 0o644)
			want = 0o700
		}
		s.show("www", 3, 2)
		d := s.open(Options{})
		if err := d.Apply(t.Context(), s.snapshot()); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(s.store); err != nil || fi.Mode().Perm() != want {
			t.Errorf("foreign names %v: %v %v", foreign, fi.Mode(), err)
		}
	}
}

// readsOn reads through links in a loop, until stop, which reports what has failed.
func readsOn(t *testing.T, s *shop, links []string) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan error, 1)
	reads := 0
	go func() {
		for {
			for _, link := range links {
				b, err := os.ReadFile(s.path(link))
				if err == nil && !bytes.HasSuffix(bytes.TrimSpace(b), []byte("-----")) {
					err = fmt.Errorf("%s is %d bytes", link, len(b))
				}
				if err != nil {
					ended <- err
					return
				}
				reads++
			}
			select {
			case <-end:
				ended <- nil
				return
			default:
			}
		}
	}()
	return func() {
		t.Helper()
		close(end)
		if err := <-ended; err != nil {
			t.Errorf("after %d reads: %v", reads, err)
		}
	}
}

// What is damaged, half, too large, or could have been written by somebody is left out, with a note, and the version
// before it is taken.
func TestDamagedFilesAreLeftOut(t *testing.T) {
	v3, v4 := "contoso-web.www."+string(versionID(2)), "contoso-web.www."+string(versionID(2))+".keyid.1700002000"
	for name, c := range map[string]struct {
		layout tree.Layout
		damage func(s *shop)
	}{
		"cut off":        {tree.V3, func(s *shop) { _ = os.Truncate(s.path(v3), 700) }},
		"without key":    {tree.V3, func(s *shop) { s.write(v3, string(bundleText(s.t, 2).PEM().FullChain()), 0o600) }},
		"empty":          {tree.V3, func(s *shop) { _ = os.Truncate(s.path(v3), 0) }},
		"another's":      {tree.V3, func(s *shop) { _ = os.Chown(s.path(v3), 4242, 0) }},
		"writable":       {tree.V3, func(s *shop) { _ = os.Chmod(s.path(v3), 0o620) }},
		"no key file":    {tree.V4, func(s *shop) { _ = os.Remove(s.path(v4)) }},
		"half a key":     {tree.V4, func(s *shop) { _ = os.Truncate(s.path(v4), 100) }},
		"other's key":    {tree.V4, func(s *shop) { s.write(v4, string(bundleText(s.t, 1).PEM().Key()), 0o600) }},
		"a link":         {tree.V3, func(s *shop) { _ = os.Rename(s.path(v3), s.store+".x"); s.link(s.store+".x", v3) }},
		"a large file":   {tree.V3, func(s *shop) { s.write(v3, strings.Repeat("x", maxFile+1), 0o600) }},
		"not as written": {tree.V3, func(s *shop) { s.write(v3, string(bundleText(s.t, 9).PEM().Combined()), 0o600) }},
	} {
		for _, manifest := range []bool{true, false} {
			if name == "not as written" && !manifest {
				continue
			}
			t.Run(fmt.Sprint(name, manifest), func(t *testing.T) {
				s := newShop(t, c.layout)
				s.show("www", 2, 1)
				s.apply(s.open(Options{}))
				c.damage(s)
				if !manifest {
					_ = os.Remove(s.path(manifestName))
				}
				found, notes, err := Read(s.store, s.certificates(), ReadOptions{})
				good := found["contoso-web.www"]
				if err != nil || len(notes) == 0 || good.Current != "" || len(good.Versions) != 1 || good.Versions[0].ID != versionID(1) {
					t.Error(err, notes, good)
				}
			})
		}
	}
}

func TestLinksOutOfTheStoreAreNotFollowed(t *testing.T) {
	s, other := newShop(t, tree.V3), newShop(t, tree.V3)
	other.show("www", 2) // which is known here, and not where the link leads
	other.apply(other.open(Options{}))
	s.show("www", 2)
	s.apply(s.open(Options{}))
	_ = os.Remove(s.path("contoso-web.www"))
	s.link(other.path("contoso-web.www."+string(versionID(2))), "contoso-web.www")
	current, all := s.good("www")
	if current != "" || len(all) != 1 {
		t.Error(current, all)
	}
	// Where all of it lies elsewhere, that is why nothing is known.
	_ = os.Remove(s.path("contoso-web.www." + string(versionID(2))))
	found, notes, err := Read(s.store, s.certificates(), ReadOptions{})
	if err != nil || len(found) > 0 || !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "out of the store: it is not followed") }) {
		t.Error(found, notes, err)
	}
}

func TestDirectoryThatIsNotThereHasNothing(t *testing.T) {
	s := newShop(t, tree.V3)
	if found, notes, err := Read(s.store, s.certificates(), ReadOptions{}); found != nil || notes != nil || err != nil {
		t.Error(found, notes, err)
	}
}

// A chain whose key must not leave the vault is read back as what it is.
func TestChainWithoutKeyIsReadBack(t *testing.T) {
	s := newShop(t, tree.V4, tree.Certs)
	b := bundleText(t, 1)
	_, err := certs.Parse("", b.PEM().FullChain())
	partial := err.(*certs.Error).Partial
	v := tree.NewVersion(versionID(1), created(1), created(1), partial, s.entry("www").Views)
	s.shown["www"] = tree.Shown{Versions: []*tree.Version{v}, Current: v}
	s.apply(s.open(Options{}))
	found, notes, err := Read(s.store, s.certificates(), ReadOptions{})
	good := found["contoso-web.www"]
	if err != nil || len(good.Versions) != 1 || good.Versions[0].HasKey() {
		t.Error(err, notes, good)
	}
}

// Names say nothing that is not in them.
func TestNames(t *testing.T) {
	id := "0123456789abcdef0123456789ABCDEF"
	for name, want := range map[string]string{
		"contoso-web.www." + id:                                 "1 0",
		"contoso-web.www." + id + ".1700000000.1731536000.PEM":  "2 0",
		"contoso-web.www." + id + ".pem.1768000000":             "3 1768000000",
		"contoso-web.www." + id + ".keyid.1768000000":           "4 1768000000",
		"contoso-web.www." + id + ".keyid.2026-01-01T00:00:00Z": "4 0",
		"contoso-web.www." + id + ".pfx":                        "5 0",
		"contoso-web.www." + id + ".certs.pem":                  "6 0",
		"contoso-web.www." + id + ".truststore.jks":             "7 0",
		"contoso-web.www." + id + "0":                           "",
		"contoso-web.www." + id + ".pem":                        "",
		"contoso-web.www." + id + ".pem.":                       "",
		"contoso-web.www." + id + ".bak":                        "",
		"contoso-web." + id:                                     "",
		"www." + id[1:]:                                         "",
		"contoso-web.www":                                       "",
	} {
		f, ok := parseFile(name)
		got := ""
		if ok {
			at := int64(0)
			if !f.created.IsZero() {
				at = f.created.Unix()
			}
			got = fmt.Sprint(f.kind, at)
		}
		if got != want || ok && (f.base != "contoso-web.www" || string(f.version) != id) {
			t.Errorf("%s: %q, want %q (%+v)", name, got, want, f)
		}
	}
	if timestamp("99999999999999") != (time.Time{}) {
		t.Error("a time that is no Unix seconds")
	}
}
