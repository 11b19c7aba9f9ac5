package disk

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/tree"
)

// everyLayout that can be read back, and one that cannot.
var everyLayout = []tree.Layout{tree.V3, tree.V4, tree.Live, tree.Certs, tree.PFX, tree.JKS, tree.TrustStore, tree.X509Store}

var (
	bundlesMu sync.Mutex
	bundles   = map[int]*certs.Bundle{}
)

// text of a certificate with its key, and of its parts.
func bundleText(t testing.TB, n int) *certs.Bundle {
	t.Helper()
	bundlesMu.Lock()
	defer bundlesMu.Unlock()
	if b := bundles[n]; b != nil {
		return b
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &x509.Certificate{SerialNumber: big.NewInt(int64(n) + 1), Subject: pkix.Name{CommonName: fmt.Sprintf("host%d.example.com", n)},
		DNSNames: []string{fmt.Sprintf("host%d.example.com", n)}, NotBefore: created(n), NotAfter: created(n).AddDate(30, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, is, is, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	b, err := certs.Parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	bundles[n] = b
	return b
}

func created(n int) time.Time { return time.Unix(1_700_000_000+int64(n)*1000, 0) }

func versionID(n int) certs.Version { return certs.Version(fmt.Sprintf("%032x", n)) }

func version(t testing.TB, n int, layouts ...tree.Layout) *tree.Version {
	t.Helper()
	return tree.NewVersion(versionID(n), created(n), created(n).Add(time.Minute), bundleText(t, n), tree.Views{Layouts: layouts})
}

// shop is a store with certificates, of which tests make snapshots.
type shop struct {
	t       testing.TB
	store   string
	entries []tree.Entry
	shown   map[string]tree.Shown
}

func newShop(t testing.TB, layouts ...tree.Layout) *shop {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: access lists name other users")
	}
	unix.Umask(0o022)
	s := &shop{t: t, store: filepath.Join(memory(t), "store"), shown: map[string]tree.Shown{}}
	s.add("www", acl.NewList([]uint32{33}, []uint32{12}), layouts...)
	return s
}

// memory is a directory on a tmpfs, if there is one: the tests sync thousands of files.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kvfs-disk-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *shop) add(name string, grants acl.List, layouts ...tree.Layout) {
	s.entries = append(s.entries, tree.Entry{Certificate: name, URL: "https://contoso-web.vault.azure.net/secrets/" + name, Store: s.store, Vault: "contoso-web",
		Name: name, Linked: true, Views: tree.Views{Layouts: layouts}, Grants: grants})
}

func (s *shop) entry(name string) *tree.Entry {
	i := slices.IndexFunc(s.entries, func(e tree.Entry) bool { return e.Name == name })
	return &s.entries[i]
}

// show makes versions those of a certificate, the first the current one.
func (s *shop) show(name string, versions ...int) *shop {
	var all []*tree.Version
	for _, n := range versions {
		all = append(all, version(s.t, n, s.entry(name).Views.Layouts...))
	}
	s.shown[name] = tree.Shown{Versions: all}
	if all != nil {
		s.shown[name] = tree.Shown{Versions: all, Current: all[0]}
	}
	return s
}

func (s *shop) snapshot() *tree.Snapshot {
	s.t.Helper()
	snapshot, err := tree.Build(tree.Spec{Entries: s.entries, Stores: []string{s.store}}, func(key string) tree.Shown { return s.shown[key] })
	if err != nil {
		s.t.Fatal(err)
	}
	return snapshot
}

// certificates are those of the settings.
func (s *shop) certificates() (all []Certificate) {
	for _, e := range s.entries {
		all = append(all, Certificate{Vault: e.Vault, Name: e.Name, Links: e.Links, Views: []tree.Views{e.Views}})
	}
	return all
}

func (s *shop) open(o Options) *Dir {
	s.t.Helper()
	o.Certificates = s.certificates()
	d, err := Open(s.store, o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(d.Close)
	return d
}

// apply must succeed, and the directory is then as the snapshot.
func (s *shop) apply(d *Dir) {
	s.t.Helper()
	if err := d.Apply(context.Background(), s.snapshot()); err != nil {
		s.t.Fatal(err)
	}
	s.equal()
}

func (s *shop) path(name string) string { return filepath.Join(s.store, name) }

// equal compares the directory with the snapshot; besides may be there too.
func (s *shop) equal(besides ...string) {
	s.t.Helper()
	want, got := expected(s.snapshot(), s.store), onDisk(s.t, s.store)
	for name, w := range want {
		if g, ok := got[name]; !ok {
			s.t.Errorf("%s is not there", name)
		} else if g != w {
			s.t.Errorf("%s is %+.200v\nwant %+.200v", name, g, w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok && name != manifestName && !slices.Contains(besides, name) {
			s.t.Errorf("%s is there", name)
		}
	}
}

// thing is what a name stands for, all of it that readers can see.
type thing struct {
	kind     tree.Kind
	mode     uint32
	uid, gid uint32
	acl      string
	content  string // or the target
}

func expected(s *tree.Snapshot, store string) map[string]thing {
	all := map[string]thing{}
	var below func(dir tree.ID, at string)
	below = func(dir tree.ID, at string) {
		for n := range s.Entries(dir, 0) {
			all[at+n.Name] = thing{kind: n.Kind, mode: uint32(n.Mode()), acl: string(n.XAttr()), content: n.Target + string(n.Content())}
			if n.Kind == tree.Dir {
				below(n.ID, at+n.Name+"/")
			}
		}
	}
	if dir, ok := s.Lookup(tree.Root, tree.StoreDir(store)); ok {
		below(dir.ID, "")
	}
	return all
}

func onDisk(t testing.TB, dir string) map[string]thing {
	t.Helper()
	all := map[string]thing{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		x := thing{kind: kindOf(&st), mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid}
		switch x.kind {
		case tree.Link:
			x.content, err = os.Readlink(path)
		case tree.File:
			var b []byte
			b, err = os.ReadFile(path)
			x.content = string(b)
			list := make([]byte, 4096)
			if n, err := unix.Lgetxattr(path, acl.XAttrName, list); err == nil {
				x.acl = string(list[:n])
			}
		}
		all[strings.TrimPrefix(path, dir+"/")] = x
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// good are the versions that can be read back, the current one in front.
func (s *shop) good(name string) (current certs.Version, all []certs.Version) {
	s.t.Helper()
	found, _, err := Read(s.store, s.certificates(), ReadOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	g := found["contoso-web."+name]
	for _, v := range g.Versions {
		all = append(all, v.ID)
	}
	return g.Current, all
}

func (s *shop) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(s.path(name), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) link(target, name string) {
	s.t.Helper()
	if err := os.Symlink(target, s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}
