package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// mounted makes a file system of the store's directory, for the test.
func (s *shop) mounted(kind, options string) {
	s.t.Helper()
	if err := os.MkdirAll(s.store, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Mount("kvfs-test", s.store, kind, 0, options); err != nil {
		s.t.Skip("mounting is not possible here:", err)
	}
	s.t.Cleanup(func() {
		if err := unix.Unmount(s.store, unix.MNT_DETACH); err != nil {
			s.t.Error(err)
		}
	})
}

// refused checks that an error says what is wrong and how to mend it.
func refused(t *testing.T, err error, fact, hint string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("%v is no *Error; want %q", err, fact)
		return
	}
	if !strings.Contains(err.Error(), fact) || !strings.Contains(e.Hint, hint) {
		t.Errorf("fact %q, hint %q; want %q, %q", err, e.Hint, fact, hint)
	}
}

// On a full disk what was written before stays whole and is read back; rights are taken away all the same, and
// with space the renewal follows.
func TestFullDisk(t *testing.T) {
	s := newShop(t, tree.V3, tree.V4)
	s.mounted("tmpfs", "size=128k,mode=755")
	s.show("www", 2)
	d := s.open(Options{})
	s.apply(d)
	ballast, err := os.Create(filepath.Join(s.store, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for err == nil {
		_, err = ballast.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	s.show("www", 3)
	s.entry("www").Grants = tree.Grants{}
	for range 2 {
		refused(t, d.Apply(t.Context(), s.snapshot()), "no space left on device", "free some space")
		s.complete("on a full disk", 2)
	}
	s.show("www", 2)
	if err := d.Apply(t.Context(), s.snapshot()); err != nil {
		t.Error("taking rights away:", err)
	}
	s.equal("ballast")
	s.show("www", 3)
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	ballast.Close()
	s.apply(d)
}

func TestReadOnlyFileSystem(t *testing.T) {
	s := newShop(t, tree.V3, tree.V4)
	s.mounted("tmpfs", "mode=755")
	s.show("www", 2)
	d := s.open(Options{})
	s.apply(d)
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", s.store, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	s.show("www", 3)
	refused(t, d.Apply(t.Context(), s.snapshot()), "read-only file system", "remount")
	s.complete("read-only", 2)
	anew := s.open(Options{})
	refused(t, anew.Apply(t.Context(), s.snapshot()), "read-only file system", "remount")
	s.complete("read-only", 2)
	remount(0)
	s.apply(d)
}

// A directory that others can write to, or that is not ours, or that is no directory, is refused with how to mend that, before a
// start and after; and when it is mended all goes on.
func TestDirectoryThatOthersCanChange(t *testing.T) {
	for name, c := range map[string]struct {
		spoil, mend func(s *shop)
		fact, hint  string
	}{
		"group":    {func(s *shop) { _ = os.Chmod(s.store, 0o775) }, func(s *shop) { _ = os.Chmod(s.store, 0o755) }, "others than its owner may write", "chmod go-w"},
		"world":    {func(s *shop) { _ = os.Chmod(s.store, os.ModeSticky|0o777) }, func(s *shop) { _ = os.Chmod(s.store, 0o755) }, "others than its owner may write", "chmod go-w"},
		"owner":    {func(s *shop) { _ = os.Chown(s.store, 4242, 0) }, func(s *shop) { _ = os.Chown(s.store, 0, 0) }, "belongs to user 4242", "chown 0"},
		"parent":   {func(s *shop) { _ = os.Chmod(filepath.Dir(s.store), 0o777) }, func(s *shop) { _ = os.Chmod(filepath.Dir(s.store), 0o755) }, "others than its owner may write", "chmod go-w"},
		"parent's": {func(s *shop) { _ = os.Chown(filepath.Dir(s.store), 4242, 0) }, func(s *shop) { _ = os.Chown(filepath.Dir(s.store), 0, 0) }, "belongs to user 4242", "chown 0"},
		"acl": {func(s *shop) {
			// user::rwx user:4242:rwx group::r-x mask::rwx other::r-x
			_ = unix.Setxattr(s.store, "system.posix_acl_access", []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x92\x10\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"), 0)
		}, func(s *shop) { _ = os.Chmod(s.store, 0o755) }, "access list", "chmod go-w"},
		"link": {func(s *shop) { _ = os.Rename(s.store, s.store+".real"); _ = os.Symlink(s.store+".real", s.store) },
			func(s *shop) { _ = os.Remove(s.store); _ = os.Rename(s.store+".real", s.store) }, "is a link", "path of the directory"},
		"file": {func(s *shop) { _ = os.Rename(s.store, s.store+".real"); _ = os.WriteFile(s.store, nil, 0o600) },
			func(s *shop) { _ = os.Remove(s.store); _ = os.Rename(s.store+".real", s.store) }, "not a directory", "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, tree.V3)
			s.show("www", 2)
			d := s.open(Options{})
			s.apply(d)
			before := onDisk(t, s.store)
			c.spoil(s)
			s.show("www", 3)
			refused(t, d.Apply(t.Context(), s.snapshot()), c.fact, c.hint)
			_, err := Open(s.store, Options{})
			refused(t, err, c.fact, c.hint)
			_, _, err = Read(s.store, s.certificates(), ReadOptions{})
			refused(t, err, c.fact, c.hint)
			c.mend(s)
			for name, x := range onDisk(t, s.store) {
				if before[name] != x {
					t.Errorf("%s was written", name)
				}
			}
			s.apply(d)
		})
	}
}

// A directory that was moved away is not written to any more: what is in its place is, if nobody else could have put
// it there.
func TestMovedDirectory(t *testing.T) {
	s := newShop(t, tree.V3)
	s.show("www", 2)
	d := s.open(Options{})
	s.apply(d)
	if err := os.Rename(s.store, s.store+".moved"); err != nil {
		t.Fatal(err)
	}
	before := onDisk(t, s.store+".moved")
	s.show("www", 3)
	s.apply(d)
	if after := onDisk(t, s.store+".moved"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Error("the directory that was moved away has changed")
	}
}

// The directory beneath a mount is followed by its descriptor, not by its path.
func TestDirectoryBeneathAMount(t *testing.T) {
	s := newShop(t, tree.V3)
	s.show("www", 2)
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(s.store)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := s.open(Options{Beneath: f})
	mount := func() func() {
		if err := unix.Mount("kvfs-test", s.store, "tmpfs", 0, "mode=755"); err != nil {
			t.Skip("mounting is not possible here:", err)
		}
		return func() { _ = unix.Unmount(s.store, unix.MNT_DETACH) }
	}
	unmount := mount()
	defer func() { unmount() }()
	err = d.Apply(t.Context(), s.snapshot())
	above, _ := os.ReadDir(s.store)
	unmount()
	if err != nil || len(above) > 0 {
		t.Error(err, above)
	}
	s.equal()
}

// Links in the place of our directories and names lead no write out of the store.
func TestHostileLinks(t *testing.T) {
	for _, name := range []string{"archive", "my", "live", "archive/contoso-web.www"} {
		t.Run(name, func(t *testing.T) { hostileLink(t, name) })
	}
}

func hostileLink(t *testing.T, name string) {
	s := newShop(t, everyLayout...)
	s.show("www", 2, 1)
	outside := filepath.Join(filepath.Dir(s.store), "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := s.open(Options{})
	s.apply(d)
	if err := os.Rename(s.path(name), s.path(name)+".aside"); err != nil {
		t.Fatal(err)
	}
	s.link(outside, name)
	file := "contoso-web.www." + string(versionID(3))
	s.link(secret, file)
	s.link(secret, temp(file))
	s.show("www", 3, 2)
	err := d.Apply(t.Context(), s.snapshot())
	if err == nil || !strings.Contains(err.Error(), file+" is there and was not made by kvfs") || !strings.Contains(err.Error(), "/"+strings.Split(name, "/")[0]+"/") {
		t.Error(err)
	}
	unharmed := func() {
		t.Helper()
		if left := onDisk(t, outside); len(left) != 1 || left["secret"].content != "x" || left["secret"].mode != 0o600 {
			t.Error("outside there is", left)
		}
		if to, _ := os.Readlink(s.path(file)); to != secret {
			t.Error("somebody's link was replaced by", to)
		}
	}
	unharmed()
	if err := s.open(Options{}).Apply(t.Context(), s.snapshot()); err == nil {
		t.Error("nothing is said by another process")
	}
	unharmed()
	if _, notes, err := Read(s.store, s.certificates(), ReadOptions{}); err != nil {
		t.Error(err, notes)
	}
}

func TestTmpfsOnly(t *testing.T) {
	s := newShop(t, tree.V3)
	s.store = filepath.Join(t.TempDir(), "store")
	s.entry("www").Store = s.store
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.store), &st); err != nil || st.Type == unix.TMPFS_MAGIC {
		t.Skip("temporary files are in memory here")
	}
	_, err := Open(s.store, Options{TmpfsOnly: true})
	refused(t, err, "is not in memory", "mount a tmpfs")
	s.mounted("tmpfs", "mode=755")
	s.show("www", 1)
	s.apply(s.open(Options{TmpfsOnly: true}))
}

// A log that is not ours, or that others could have written, is not believed.
func TestManifestThatIsNotOurs(t *testing.T) {
	s := newShop(t, tree.V3)
	s.write(manifestName, "somebody's", 0o600)
	s.show("www", 1)
	s.apply(s.open(Options{})) // its first line was torn, as far as anybody can tell
	s.write(manifestName, `{"format":7}`+"\n", 0o600)
	refused(t, s.open(Options{}).Apply(t.Context(), s.snapshot()), "its format is 7", "move that file away")
	s.write(manifestName, `{"format":1,"names":{"../x":{"kind":2},"/etc/passwd":{"kind":2},".":{"kind":1}}}`+"\n", 0o666)
	refused(t, s.open(Options{}).Apply(t.Context(), s.snapshot()), "others may write to it", "move that file away")
	s.write(manifestName, `{"format":1,"names":{"../x":{"kind":2},"/etc/passwd":{"kind":2},".":{"kind":1}}}`+"\n", 0o600)
	s.apply(s.open(Options{}))
}
