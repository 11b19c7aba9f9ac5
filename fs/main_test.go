package fs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/tree"
)

// The test binary is its own publisher.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "publisher" {
		if err := RunPublisher(os.NewFile(3, "dir"), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "publish-for" {
		uid, err := strconv.Atoi(os.Args[2])
		var dir *os.File
		if err == nil {
			dir, err = ReceiveDirectory(os.Stdin, uint32(uid))
		}
		if err == nil {
			err = RunPublisher(dir, os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "open" {
		if _, err := os.ReadFile(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// A program with the race detector sleeps for a second at its end, for goroutines
	// that are not there.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// needMount skips a test that makes a real mount where none can be made. In CI
// that is a failure: see the list of tests that may not skip.
func needMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a mount needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse:", err)
	}
}

// versions are those that were made already, by their number.
var versions sync.Map

// newVersion makes a self-signed certificate. n makes its id and its times, and
// the same n is the same version.
func newVersion(t testing.TB, n int) *tree.Version {
	t.Helper()
	if v, ok := versions.Load(n); ok {
		return v.(*tree.Version)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Unix(1_700_000_000+int64(n), 0)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(n + 1)), Subject: pkix.Name{CommonName: fmt.Sprint("v", n)}, NotBefore: from, NotAfter: from.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	b, err := certs.Parse("application/x-pem-file", text)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := versions.LoadOrStore(n, tree.NewVersion(certs.Version(fmt.Sprintf("%032x", n)), from, from, b))
	return v.(*tree.Version)
}

// shown are versions of which the newest is the current one.
func shown(versions ...*tree.Version) tree.Shown {
	all := tree.Shown{Versions: versions}
	if len(versions) > 0 {
		all.Current = versions[0]
	}
	return all
}

// site builds the snapshot of one certificate, contoso-web.www, in one store.
func site(t testing.TB, store string, list acl.List, versions ...*tree.Version) *tree.Snapshot {
	t.Helper()
	s, err := tree.Build(tree.Spec{
		Entries: []tree.Entry{{Certificate: "www", URL: "https://contoso-web.vault.azure.net/secrets/www", Store: store,
			Vault: "contoso-web", Name: "www", Linked: true, Links: []string{"site"}, Grants: list,
			Views: tree.Views{Layouts: []tree.Layout{tree.V3, tree.V4}}}},
	}, func(string) tree.Shown { return shown(versions...) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mounted is an FS that serves a snapshot at a store below a temporary directory
// that other users can enter.
func mounted(t testing.TB, build func(store string) *tree.Snapshot) (*FS, string) {
	t.Helper()
	needMount(t)
	base, err := os.MkdirTemp("", "kvfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	store := filepath.Join(base, "store")
	for _, dir := range []string{base, store} {
		_ = os.Mkdir(dir, 0o755)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return mountAt(t, store, build(store)), store
}

func mountAt(t testing.TB, store string, s *tree.Snapshot) *FS {
	t.Helper()
	f, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := f.Open(store); err != nil {
		t.Fatal(err)
	}
	ctx, stop := newStop()
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx) }()
	t.Cleanup(func() {
		if err := f.Detach(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		f.Close()
		if Visible(store) {
			t.Error("a mount is left at", store)
		}
	})
	if err := f.Attach(); err != nil {
		t.Fatal(err)
	}
	endPolling(t, store, s)
	return f
}

// endPolling makes another process cause the one POLL of the connection, which is
// answered ENOSYS. Go's runtime causes it when a file is opened, in a system call
// that keeps the processor: with one processor, a server in the same process
// would never come to answer it.
func endPolling(t testing.TB, store string, s *tree.Snapshot) {
	t.Helper()
	for n := range s.Nodes() {
		if n.Public {
			if out, err := exec.Command("/proc/self/exe", "open", filepath.Join(store, n.Name)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return
		}
	}
}
