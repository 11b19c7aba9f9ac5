package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvfs/emulator"
)

// madeBundle is PEM of a certificate of its own issuer, which is not in it, for a day.
func madeBundle(t *testing.T, from time.Time, issuer string, names ...string) string {
	t.Helper()
	return bundleUntil(t, from, time.Now().Add(24*time.Hour), issuer, names...)
}

func bundleUntil(t *testing.T, from, until time.Time, issuer string, names ...string) string {
	t.Helper()
	keys := make([]*ecdsa.PrivateKey, 2)
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: from, NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: issuer}, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, keys[0].Public(), keys[1])
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// The guards of the settings, each where it stands: for all, or for a certificate.
func TestGuardsKeepVersionsFromReaders(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "disabled"}, emulator.Profile{Name: "kept"})
	put := func(name, text string) string {
		t.Helper()
		version, err := s.vault.AddSecret("", name, "application/x-pem-file", text)
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	first := map[string]string{}
	for _, name := range []string{"early", "names", "issuer", "chain"} {
		first[name] = put(name, madeBundle(t, time.Now().Add(-time.Hour), "One", name+".example"))
	}
	s.configure(func(d document) {
		own := func(name string, settings map[string]any) {
			list := d.secrets()["observedCertificates"].([]any)
			d.secrets()["observedCertificates"] = append(list, map[string]any{"url": "https://contoso-web.vault.azure.net/secrets/" + name, "kvfs": settings})
		}
		own("early", map[string]any{})
		own("names", map[string]any{"onChangedNames": "hold"})
		own("issuer", map[string]any{"onChangedIssuer": "hold"})
		own("chain", map[string]any{"verifyChain": "failClosed"})
		d.entry("disabled")["kvfs"] = map[string]any{"onDisabled": "hide"}
	})
	s.mount()
	if c := s.certificate("chain"); c.State != "missing" || c.Error == nil || c.Error.Kind != "untrusted" || c.Error.Hint == "" {
		t.Errorf("a chain that leads nowhere: %+v %+v", c, c.Error)
	}
	soon := time.Now().Add(4 * time.Second).Truncate(time.Second)
	next := map[string]string{
		"early":  put("early", madeBundle(t, soon, "One", "early.example")),
		"names":  put("names", madeBundle(t, time.Now().Add(-time.Hour), "One", "names.example", "evil.example")),
		"issuer": put("issuer", madeBundle(t, time.Now().Add(-time.Hour), "Two", "issuer.example")),
	}
	for _, name := range []string{"disabled", "kept"} {
		if err := s.vault.SetEnabled("", name, "", false); err != nil {
			t.Fatal(err)
		}
	}
	s.run("refresh") // it fails by those that are disabled, held or not trusted
	leads := func(name string) string {
		target, _ := os.Readlink(s.path("contoso-web." + name))
		return target[strings.LastIndex(target, ".")+1:]
	}
	for _, name := range []string{"names", "issuer"} {
		c := s.certificate(name)
		if leads(name) != first[name] || c.Error == nil || c.Error.Kind != "held" || !strings.Contains(c.Error.Fact, next[name]) {
			t.Errorf("%s leads to %s, %+v", name, leads(name), c.Error)
		}
	}
	if _, err := os.Stat(s.path("contoso-web.disabled")); !errors.Is(err, os.ErrNotExist) {
		t.Error("disabled, and still there:", err)
	}
	if c := s.certificate("disabled"); c.State != "hidden" || c.Error == nil || c.Error.Kind != "disabled" {
		t.Errorf("%+v", c)
	}
	readFile(t, s.path("contoso-web.kept"))
	if time.Now().Before(soon) {
		if leads("early") != first["early"] {
			t.Error("linked before its time")
		}
		readFile(t, s.path("contoso-web.early."+next["early"]))
	}
	s.until("the time of the new version has come", func() bool { return leads("early") == next["early"] })
	if time.Now().Before(soon) {
		t.Error("linked before its time")
	}
}

// A key that must not leave the vault: the chain is served, and what is missing is
// named.
func TestCertificateWhoseKeyStaysInTheVault(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "hsm", NotExportable: true}, emulator.Profile{Name: "www"})
	s.mount()
	if _, chain := blocks(t, readFile(t, s.path("contoso-web.hsm.pem"))); len(chain) != 3 {
		t.Errorf("%d certificates", len(chain))
	}
	for _, name := range []string{"contoso-web.hsm", "contoso-web.hsm.keyid"} {
		if _, err := os.Lstat(s.path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := s.certificate("hsm")
	if c.State != "partial" || c.Error == nil || c.Error.Kind != "no-private-key" || c.Error.Hint == "" || s.report().State != "degraded" {
		t.Errorf("%+v %+v", c, c.Error)
	}
	for _, link := range c.Links {
		if _, err := os.Stat(link); err != nil {
			t.Errorf("the status names a link that is not there: %v", err)
		}
	}
	renewed, err := s.vault.Rotate("", "hsm")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, code := s.run("refresh", "hsm"); code != 5 || s.certificate("hsm").Version != renewed {
		t.Errorf("after a renewal: exit code %d, %+v", code, s.certificate("hsm"))
	}
	file := filepath.Join(s.dir, "chain.pem")
	if err := os.WriteFile(file, readFile(t, s.path("contoso-web.hsm.pem")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := command(t, kvfsPath, "inspect", file); code != 5 || !strings.Contains(out, "leaf   CN=hsm.example.com") || !strings.Contains(errs, "kvfs: hint: ") {
		t.Errorf("inspect: exit code %d\n%s%s", code, out, errs)
	}
}

// A password that Java does not take must not take the place of one that it does.
func TestBadPasswordIsRefusedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	password := s.write("password", []byte("good one\n"))
	s.configure(func(d document) { d.own()["layouts"], d.own()["passwordFile"] = []any{"jks", "pfx"}, password })
	s.mount()
	before := readFile(t, s.path("contoso-web.www.jks"))
	for _, bad := range []string{"abc\n", "", "two\nlines\n", "pässword\n"} {
		s.write("password", []byte(bad))
		if _, errs, code := s.run("refresh", "--settings"); code != 3 || !strings.Contains(errs, "kvfs.passwordFile: ") || !strings.Contains(errs, password) || strings.Contains(errs, "lines") {
			t.Errorf("%q: exit code %d\n%s", bad, code, errs)
		}
		if string(readFile(t, s.path("contoso-web.www.jks"))) != string(before) {
			t.Errorf("%q: the keystore changed", bad)
		}
	}
	s.write("password", []byte(" spaces count \n"))
	s.must("refresh", "--settings")
	if string(readFile(t, s.path("contoso-web.www.jks"))) == string(before) {
		t.Error("another password, and the same keystore")
	}
	needProgram(t, "openssl")
	if _, errs, code := command(t, "openssl", "pkcs12", "-in", s.path("contoso-web.www.pfx"), "-passin", "file:"+password, "-noout"); code != 0 {
		t.Errorf("openssl reads the same file as another password: %s", errs)
	}
}
