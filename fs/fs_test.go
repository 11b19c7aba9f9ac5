package fs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/tree"
)

// newStop is a context that the test ends itself: the one of the test ends
// before its cleanups, and they still need a server.
func newStop() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		name := e.Name()
		if target, err := os.Readlink(filepath.Join(dir, name)); err == nil {
			name += " -> " + target
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStoreShowsBothLayouts(t *testing.T) {
	v := newVersion(t, 1)
	_, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v) })
	const id = "00000000000000000000000000000001"
	want := []string{
		"contoso-web.www -> contoso-web.www." + id,
		"contoso-web.www." + id,
		"contoso-web.www." + id + ".keyid.1700000001",
		"contoso-web.www." + id + ".pem.1700000001",
		"contoso-web.www.keyid -> contoso-web.www." + id + ".keyid.1700000001",
		"contoso-web.www.luma",
		"contoso-web.www.pem -> contoso-web.www." + id + ".pem.1700000001",
		"site -> contoso-web.www." + id,
	}
	if got := names(t, store); !slices.Equal(got, want) {
		t.Errorf("store holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	combined := read(t, filepath.Join(store, "site"))
	if _, err := tls.X509KeyPair(combined, combined); err != nil {
		t.Error("combined file:", err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(store, "contoso-web.www.pem"), filepath.Join(store, "contoso-web.www.keyid")); err != nil {
		t.Error("chain and key:", err)
	}
	for name, mode := range map[string]os.FileMode{"site": 0o600, "contoso-web.www.luma": 0o644, ".": 0o755 | os.ModeDir} {
		if fi, err := os.Stat(filepath.Join(store, name)); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", name, fi.Mode(), err, mode)
		}
	}
}

func TestRenewalMovesLinksAndKeepsTwoVersions(t *testing.T) {
	v1, v2, v3 := newVersion(t, 1), newVersion(t, 2), newVersion(t, 3)
	f, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v1) })
	link := filepath.Join(store, "site")
	old, err := os.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	was := read(t, link)
	for _, vs := range [][]*tree.Version{{v2, v1}, {v3, v2}} {
		if err := f.Publish(t.Context(), site(t, store, acl.List{}, vs...)); err != nil {
			t.Fatal(err)
		}
		if target, _ := os.Readlink(link); target != "contoso-web.www."+string(vs[0].ID) {
			t.Errorf("link is %s after the renewal to %s", target, vs[0].ID)
		}
		if bytes.Equal(read(t, link), was) {
			t.Error("the link still leads to the old version")
		}
	}
	if n := len(names(t, store)); n != 5+2*3 {
		t.Errorf("%d names, want 5 links and marks and 3 files for each of two versions: %v", n, names(t, store))
	}
	if _, err := os.Stat(filepath.Join(store, "contoso-web.www."+string(v1.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the third newest version: %v, want none", err)
	}
	// Not from the page cache: the file has no name any more, and must still be
	// readable for who has it open.
	if err := unix.Fadvise(int(old.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(was))
	if _, err := old.ReadAt(b, 0); err != nil || !bytes.Equal(b, was) {
		t.Errorf("an open file changed or failed after its removal: %v", err)
	}
}

// A warm read must cost the daemon nothing; see the package documentation.
func TestWarmReadSendsNoRequest(t *testing.T) {
	const uid = 4242
	v := newVersion(t, 1)
	f, store := mounted(t, func(store string) *tree.Snapshot {
		return site(t, store, acl.NewList([]uint32{uid}, nil), v)
	})
	link := filepath.Join(store, "site")
	as(t, uid, nil, func() {
		// The first READ makes the access time stale, so the second open asks for
		// the attributes, which makes the kernel forget the access list, so the
		// third asks for that.
		for range 3 {
			read(t, link)
		}
	})
	before := f.Stats().Requests
	as(t, uid, nil, func() {
		for range 1000 {
			read(t, link)
		}
	})
	if after := f.Stats().Requests; !maps.Equal(before, after) {
		t.Errorf("1000 warm reads sent requests: before %v, after %v", before, after)
	}
}

func TestKernelEnforcesAccessLists(t *testing.T) {
	const user, group, stranger = 4242, 4343, 4444
	v := newVersion(t, 1)
	f, store := mounted(t, func(store string) *tree.Snapshot {
		return site(t, store, acl.NewList([]uint32{user}, []uint32{group}), v)
	})
	link := filepath.Join(store, "site")
	try := func(uid int, groups []int) (err error) {
		as(t, uid, groups, func() { _, err = os.ReadFile(link) })
		return err
	}
	check := func(when string, want map[string]bool) {
		t.Helper()
		for who, may := range want {
			var err error
			switch who {
			case "root":
				err = try(0, nil)
			case "user":
				err = try(user, nil)
			case "member":
				err = try(stranger, []int{group})
			case "stranger":
				err = try(stranger, nil)
			}
			if may && err != nil || !may && !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s, %s: %v", when, who, err)
			}
		}
	}
	check("at first", map[string]bool{"root": true, "user": true, "member": true, "stranger": false})
	for _, step := range []struct {
		name string
		list acl.List
		want map[string]bool
	}{
		{"group taken away", acl.NewList([]uint32{user}, nil), map[string]bool{"root": true, "user": true, "member": false, "stranger": false}},
		{"all taken away", acl.List{}, map[string]bool{"root": true, "user": false, "member": false, "stranger": false}},
		{"stranger let in", acl.NewList([]uint32{stranger}, nil), map[string]bool{"root": true, "user": false, "stranger": true}},
	} {
		if err := f.Publish(t.Context(), site(t, store, step.list, v)); err != nil {
			t.Fatal(step.name, err)
		}
		check(step.name, step.want)
	}
}

// as runs f in a thread that has another user's rights.
func as(t testing.TB, uid int, groups []int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine and takes the
		// credentials with it.
		lockThread()
		done <- func() error {
			if uid != 0 {
				if err := setCredentials(uid, groups); err != nil {
					return err
				}
			}
			f()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal("becoming another user:", err)
	}
}

func TestNobodyElseCanChangeAnything(t *testing.T) {
	v := newVersion(t, 1)
	f, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v) })
	link := filepath.Join(store, "site")
	changes := map[string]func() error{
		"create":  func() error { return os.WriteFile(filepath.Join(store, "x"), nil, 0o600) },
		"unlink":  func() error { return os.Remove(link) },
		"symlink": func() error { return os.Symlink("x", filepath.Join(store, "y")) },
		"rename":  func() error { return os.Rename(link, filepath.Join(store, "z")) },
		"mkdir":   func() error { return os.Mkdir(filepath.Join(store, "d"), 0o700) },
		"chmod":   func() error { return os.Chmod(link, 0o666) },
		"write":   func() error { return os.WriteFile(link, []byte("x"), 0) },
		"xattr":   func() error { return unix.Setxattr(link, acl.XAttrName, acl.NewList([]uint32{7}, nil).XAttr(), 0) },
		"mknod":   func() error { return unix.Mknod(filepath.Join(store, tempName(9)), unix.S_IFREG, 0) },
	}
	was := names(t, store)
	for _, how := range []string{"read-only bind", "bind remounted writable by root"} {
		if strings.Contains(how, "writable") {
			if err := unix.Mount("", store, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		for name, change := range changes {
			if err := change(); !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s, %s: %v, want EROFS", how, name, err)
			}
		}
	}
	if now := names(t, store); !slices.Equal(now, was) {
		t.Errorf("names changed to %v", now)
	}
	// And what is refused to others must still work for the publisher.
	if err := f.Publish(t.Context(), site(t, store, acl.List{}, newVersion(t, 2), v)); err != nil {
		t.Error(err)
	}
}

func TestDeadPublisherIsReplaced(t *testing.T) {
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	f, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v1) })
	old := f.conns[0].pub
	if err := syscall.Kill(old.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(t.Context(), site(t, store, acl.List{}, v2, v1)); err != nil {
		t.Fatal(err)
	}
	if target, _ := os.Readlink(filepath.Join(store, "site")); !strings.HasSuffix(target, "2") {
		t.Error("link is", target)
	}
}

// What appears without a link that moves, as a version that is pinned, must be in
// a listing that the kernel has cached.
func TestListingShowsWhatAppears(t *testing.T) {
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	build := func(store string, pinned ...*tree.Version) *tree.Snapshot {
		entry := tree.Entry{Certificate: "www", Store: store, Vault: "contoso-web", Name: "www", Linked: true, Views: tree.Views{Layouts: []tree.Layout{tree.V3}}}
		old := entry
		old.Certificate, old.Linked = "old", false
		s, err := tree.Build(tree.Spec{Entries: []tree.Entry{entry, old}}, func(key string) tree.Shown {
			if key == "old" {
				return shown(pinned...)
			}
			return shown(v2)
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	f, store := mounted(t, func(store string) *tree.Snapshot { return build(store) })
	for range 3 {
		if n := len(names(t, store)); n != 2 {
			t.Fatalf("%d names at first", n)
		}
	}
	if err := f.Publish(t.Context(), build(store, v1)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, store); len(got) != 3 {
		t.Errorf("after a file has appeared: %v", got)
	}
}

// A vault that goes back to an earlier version, under another list meanwhile:
// who was let in before must be out, though the kernel still has the file.
func TestFileThatComesBackHasItsNewAccessList(t *testing.T) {
	const before, now = 4242, 4343
	v1, v2, v3 := newVersion(t, 1), newVersion(t, 2), newVersion(t, 3)
	f, store := mounted(t, func(store string) *tree.Snapshot {
		return site(t, store, acl.NewList([]uint32{before}, nil), v1)
	})
	link := filepath.Join(store, "site")
	held, err := os.Open(link) // keeps the inode, with its list, in the kernel
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	open := func(uid int) (err error) {
		as(t, uid, nil, func() {
			var f *os.File
			if f, err = os.Open(link); err == nil {
				f.Close()
			}
		})
		return err
	}
	if err := open(before); err != nil {
		t.Fatal(err)
	}
	list := acl.NewList([]uint32{now}, nil)
	for _, vs := range [][]*tree.Version{{v3, v2}, {v1, v3}} { // gone, and back
		if err := f.Publish(t.Context(), site(t, store, list, vs...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(before); !errors.Is(err, os.ErrPermission) {
		t.Error("who was let in before still is:", err)
	}
	if err := open(now); err != nil {
		t.Error("who is let in now:", err)
	}
}

// A publisher that could not be started again after it died is started when there
// is something to publish.
func TestMissingPublisherIsStarted(t *testing.T) {
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	f, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v1) })
	good := f.opts.Publisher
	f.opts.Publisher = PublisherCommand("/nonexistent")
	f.publishing.Lock()
	err := f.restartPublishers()
	f.publishing.Unlock()
	if err == nil {
		t.Fatal("a publisher that does not exist was started")
	}
	next := site(t, store, acl.List{}, v2, v1)
	if err := f.Publish(t.Context(), next); err == nil {
		t.Error("published by nobody")
	}
	f.opts.Publisher = good
	if err := f.Publish(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if target, _ := os.Readlink(filepath.Join(store, "site")); !strings.HasSuffix(target, "2") {
		t.Error("link is", target)
	}
}
