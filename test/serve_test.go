package test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/status"
)

// blocks are the types of the PEM blocks of a file, with the certificates.
func blocks(t testing.TB, data []byte) (types []string, certificates []*x509.Certificate) {
	t.Helper()
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return types, certificates
		}
		types = append(types, b.Type)
		if b.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			certificates = append(certificates, c)
		}
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The names, contents and order that versions 3 and 4 of the extension document.
func TestV3DocumentIsServedUnderAllItsNames(t *testing.T) {
	needRoot(t)
	for _, format := range []emulator.Format{emulator.PFX, emulator.PEM} {
		for _, key := range []emulator.KeyType{emulator.EC256, emulator.RSA2048} {
			t.Run(fmt.Sprintf("%s %s", format, key), func(t *testing.T) {
				s := newSite(t, emulator.Profile{Name: "myCertificate", Format: format, Key: key})
				s.configure(func(d document) { d.entry("myCertificate")["customSymbolicLinkName"] = "site" })
				s.mount()
				version := s.certificate("myCertificate").Version

				file := "contoso-web.myCertificate." + version
				for link, want := range map[string]string{"contoso-web.myCertificate": file, "site": file} {
					if got, err := os.Readlink(s.path(link)); got != want {
						t.Errorf("%s -> %q (%v), want %q", link, got, err, want)
					}
				}
				combined := readFile(t, s.path("site"))
				types, chain := blocks(t, combined)
				if !slices.Equal(types, []string{"CERTIFICATE", "CERTIFICATE", "CERTIFICATE", "PRIVATE KEY"}) {
					t.Fatalf("combined file holds %v", types)
				}
				for i := range 2 {
					if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
						t.Errorf("certificate %d is not certified by the next: %v", i, err)
					}
				}
				if !chain[2].Equal(s.vault.RootCertificate()) {
					t.Error("the last certificate is not the root")
				}
				if _, err := tls.X509KeyPair(combined, combined); err != nil {
					t.Error("leaf and key:", err)
				}
				if got := append(readFile(t, s.path("contoso-web.myCertificate.pem")), readFile(t, s.path("contoso-web.myCertificate.keyid"))...); string(got) != string(combined) {
					t.Error("the v4 chain and key are not the combined file")
				}
				if luma := string(readFile(t, s.path("contoso-web.myCertificate.luma"))); !strings.Contains(luma, version) {
					t.Errorf("luma is %s", luma)
				}
			})
		}
	}
}

func TestRenewalIsShownAndTwoVersionsAreKept(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	versions := []string{s.certificate("www").Version}
	for range 3 {
		versions = append(versions, s.rotate("www"))
		now := versions[len(versions)-1]
		if target, _ := os.Readlink(s.path("contoso-web.www")); target != "contoso-web.www."+now {
			t.Errorf("the link leads to %s after the renewal to %s", target, now)
		}
	}
	for i, v := range versions {
		_, err := os.Stat(s.path("contoso-web.www." + v))
		if kept := i >= len(versions)-2; kept != (err == nil) {
			t.Errorf("version %d of %d: %v", i+1, len(versions), err)
		}
	}
}

// Who is told that kvfs is not starting any more finds what it serves.
func TestStateIsStartingUntilTheStoresAreVisible(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.start("mount", s.settings, "--store", s.store)
	client := status.NewClient(s.socket)
	for end := time.Now().Add(time.Minute); ; {
		r, err := client.Report(t.Context())
		if err == nil && r.State != status.Starting {
			readFile(t, s.path("contoso-web.www"))
			return
		}
		if time.Now().After(end) {
			t.Fatal("it never serves:", err)
		}
	}
}

func TestPollingFindsARenewalByItself(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	version, err := s.vault.Rotate("", "www")
	if err != nil {
		t.Fatal(err)
	}
	s.until("the link moves", func() bool {
		target, err := os.Readlink(s.path("contoso-web.www"))
		return err == nil && strings.HasSuffix(target, version)
	})
}

func TestCleanExitLeavesNoMount(t *testing.T) {
	needRoot(t)
	for _, how := range []string{"SIGTERM", "interrupt", "umount", "umount DIR"} {
		t.Run(how, func(t *testing.T) {
			s := newSite(t, emulator.Profile{Name: "www"})
			s.mount()
			open, err := os.Open(s.path("contoso-web.www"))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close() // held open beyond the end
			switch how {
			case "SIGTERM":
				s.end(syscall.SIGTERM)
			case "interrupt":
				s.end(syscall.SIGINT)
			case "umount":
				s.must("umount")
				s.ended()
			case "umount DIR":
				s.must("umount", s.store)
				s.ended()
			}
			if m := mounts(t, s.dir); len(m) > 0 {
				t.Error("left:", m)
			}
			if _, err := os.Stat(s.socket); !errors.Is(err, os.ErrNotExist) {
				t.Error("the control socket is left:", err)
			}
			if entries, err := os.ReadDir(s.store); err != nil || len(entries) > 0 {
				t.Errorf("the mountpoint holds %v, %v", entries, err)
			}
		})
	}
}

func TestStaleMountOfADeadKvfsIsReplaced(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	s.end(syscall.SIGKILL)
	if _, err := os.Stat(s.path("contoso-web.www")); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("after SIGKILL: %v, want a dead mount", err)
	}
	s.mount()
	if n := len(mounts(t, s.dir)); n != 1 {
		t.Errorf("%d mounts after the second start", n)
	}
	readFile(t, s.path("contoso-web.www"))

	// And without a new one, umount takes it away.
	s.end(syscall.SIGKILL)
	s.must("umount", s.store)
	if m := mounts(t, s.dir); len(m) > 0 {
		t.Error("left:", m)
	}
}

func TestSecondMountIsRefused(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	_, errs, code := s.run("mount", s.settings, "--store", s.store)
	if code != 6 || !strings.Contains(errs, "already mounted at "+s.store) || !strings.Contains(errs, "kvfs: hint: ") {
		t.Errorf("exit code %d:\n%s", code, errs)
	}
	_, errs, code = command(t, kvfsPath, "mount", s.settings, "--store", s.store, "--socket", filepath.Join(s.dir, "other", "kvfs.sock"))
	if code != 6 || !strings.Contains(errs, "already mounted at "+s.store) {
		t.Errorf("with a socket of its own: exit code %d:\n%s", code, errs)
	}
	readFile(t, s.path("contoso-web.www"))
}

func TestDangerousMountpointsAreRefused(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	full := filepath.Join(s.dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(full, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(s.dir, "etc-by-another-name")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Unless it is told not to, kvfs writes real files into a directory of certificates
	// (TestSystemDirectoryGetsFiles).
	s.configure(func(d document) { d["kvfs"].(map[string]any)["persistent"] = "no" })
	for _, c := range []struct{ store, fact string }{
		{full, "is not empty (precious)"},
		{"/etc/ssl/certs", "is a system directory"},
		{"/etc", "is a system directory"},
		{link, "is a system directory"},
		{"/usr/lib/kvfs", "is a system directory"},
		{file, "is not a directory"},
		{s.dir, "lies below the store"},
	} {
		_, errs, code := s.run("mount", s.settings, "--store", c.store)
		if code != 1 || !strings.Contains(errs, "kvfs: error: ") || !strings.Contains(errs, c.fact) || !strings.Contains(errs, "kvfs: hint: ") {
			t.Errorf("%s: exit code %d, want %q:\n%s", c.store, code, c.fact, errs)
		}
	}
	readFile(t, filepath.Join(full, "precious"))
}

// As root, and as everybody else to whom nothing was granted.
func TestNothingIsWritable(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	if err := os.WriteFile(s.path("x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Error("creating a file:", err)
	}
	f, err := os.OpenFile(s.path("contoso-web.www"), os.O_RDWR, 0)
	if !errors.Is(err, syscall.EROFS) {
		t.Error("opening for writing:", err)
	}
	if err == nil {
		io.WriteString(f, "x")
		f.Close()
	}
}

func TestMountTakenAwayByHandIsReported(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	if err := syscall.Unmount(s.store, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	r := s.report()
	if r.State != "degraded" || r.Error == nil || r.Error.Kind != "unmounted" || !strings.Contains(r.Error.Fact, s.store) {
		t.Errorf("%s %+v", r.State, r.Error)
	}
	s.must("umount", s.store)
	s.ended()
}

// A log that nobody reads any more is no reason to die with a mount in place.
func TestClosedLogDoesNotEndTheService(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kvfsPath, "mount", s.settings, "--store", s.store, "--socket", s.socket)
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	said := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "kvfs: serving"); {
		n, err := read.Read(said)
		if err != nil {
			t.Fatal(err, text)
		}
		text += string(said[:n])
	}
	read.Close()
	s.rotate("www") // which is logged
	readFile(t, s.path("contoso-web.www"))
	s.must("umount", s.store)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStoreBehindALink(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	real, link := filepath.Join(s.dir, "real"), filepath.Join(s.dir, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{filepath.Join(link, "store"), link} {
		s.store = at
		s.mount()
		readFile(t, s.path("contoso-web.www"))
		if r := s.report(); r.State != "ready" {
			t.Errorf("%s: %s %+v", at, r.State, r.Error)
		}
		s.must("umount", at)
		if err := s.ended(); err != nil {
			t.Error(err)
		}
		if at != link {
			if err := os.Remove(at); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A store inside another one is what plain directories allow. Both are served,
// also after a death that has left both mounts behind.
func TestStoreInsideAStoreIsServed(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	inner := s.path("apps/api")
	s.configure(func(d document) { d.entry("api")["certificateStoreLocation"] = inner })
	s.must("check", s.settings, "--store", s.store)
	for range 2 {
		s.mount()
		readFile(t, s.path("contoso-web.www"))
		readFile(t, filepath.Join(inner, "contoso-web.api"))
		if n := len(mounts(t, s.dir)); n != 2 {
			t.Errorf("%d mounts", n)
		}
		s.end(syscall.SIGKILL)
	}
	if out := s.must("umount", s.store); len(mounts(t, s.dir)) > 0 {
		t.Errorf("mounts are left after umount, which says %s", out)
	}
}

// Several stores are several mounts of one file system.
func TestTwoStores(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	other := filepath.Join(s.dir, "other")
	s.configure(func(d document) { d.entry("api")["certificateStoreLocation"] = other })
	s.mount()
	readFile(t, s.path("contoso-web.www"))
	readFile(t, filepath.Join(other, "contoso-web.api"))
	if n := len(mounts(t, s.dir)); n != 2 {
		t.Errorf("%d mounts", n)
	}
	version := s.rotate("api")
	if target, _ := os.Readlink(filepath.Join(other, "contoso-web.api")); !strings.HasSuffix(target, version) {
		t.Error("link is", target)
	}
}
