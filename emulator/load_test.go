package emulator

import (
	"crypto/x509"
	"encoding/asn1"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// files fills a directory.
func files(t *testing.T, content map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadDirServesFilesAsTheyAre(t *testing.T) {
	e := start(t, Options{})
	c, ours := issueBundle(t, Profile{})
	_, text := issueBundle(t, Profile{Format: PEM})
	modern, err := pkcs12.Modern.Encode(c.key, c.chain[0], c.chain[1:], "")
	if err != nil {
		t.Fatal(err)
	}
	bare, err := pkcs12.Passwordless.Encode(c.key, c.chain[0], nil, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string][]byte{"ours.pfx": ours, "modern.P12": modern, "bare.pfx": bare, "text.pem": text, "README.md": []byte("no certificate")})
	for range 2 {
		if err := e.LoadDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	items := e.Inventory()
	if len(items) != 4 {
		t.Fatalf("%d secrets, want 4", len(items))
	}
	for _, item := range items {
		if !item.Managed || len(item.Versions) != 2 {
			t.Errorf("%+v", item)
		}
	}
	s := get(t, client(t, e), "text", "")
	if *s.Value != string(text) || *s.ContentType != contentPEM || s.Attributes.Expires == nil || s.KID == nil {
		t.Errorf("text: %+v", s.Secret)
	}
	settings, err := os.ReadFile(e.Endpoints().Settings)
	if err != nil || strings.Count(string(settings), `"url"`) != 4 {
		t.Errorf("settings %s, %v", settings, err)
	}
}

func TestLoadDirRefusesAllWhenOneFileIsBad(t *testing.T) {
	c, good := issueBundle(t, Profile{})
	_, text := issueBundle(t, Profile{Format: PEM})
	_, onlyCerts := issueBundle(t, Profile{Format: PEM, NotExportable: true})
	locked, err := pkcs12.Legacy.Encode(c.key, c.chain[0], nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	var p pfx
	if _, err := asn1.Unmarshal(good, &p); err != nil {
		t.Fatal(err)
	}
	p.MAC.Iterations = 1 << 30
	endless, err := asn1.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for want, content := range map[string]map[string][]byte{
		"protected by a password": {"locked.pfx": locked, "good.pfx": good},
		"no PKCS#12":              {"text.pfx": text, "good.pfx": good},
		"no private key":          {"certs.pem": onlyCerts},
		"no certificate":          {"empty.pem": nil},
		"key is protected":        {"enc.pem": []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")},
		"is no name of a secret":  {"my_cert.pem": text},
		"another file of that":    {"www.pem": text, "www.pfx": good},
		"no *.pfx, *.p12":         {"README.md": nil},
		"iterations":              {"endless.pfx": endless},
	} {
		e := start(t, Options{})
		if err := e.LoadDir(files(t, content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if got := e.Inventory(); len(got) != 0 {
			t.Errorf("%q: loaded %+v", want, got)
		}
	}
	e := start(t, Options{})
	if err := e.LoadDir(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || os.IsNotExist(err) {
			return err
		}
		err = inner.Unwrap()
	}
}

func FuzzCheckPFX(f *testing.F) {
	ca, err := newAuthority(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	p, err := Profile{Name: "www"}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	c, err := ca.issue(p, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		f.Fatal(err)
	}
	der, err := encodePFX(pkcs8, c.chain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(der[:len(der)-1])
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		var p pfx
		_, bad := asn1.Unmarshal(der, &p)
		if p.MAC.Iterations > 5000 {
			t.Skip("takes long, and teaches nothing")
		}
		if _, err := checkPFX(der); err == nil && (bad != nil || p.Version != 3) {
			t.Errorf("passed, but is none: %v, version %d", bad, p.Version)
		}
	})
}

// A marker comes from the client: whatever it holds, the page is in bounds.
func FuzzReadMarker(f *testing.F) {
	for _, step := range []string{stepGap, stepMore, stepEnd} {
		f.Add(writeMarker(step, "b"))
	}
	f.Add("")
	f.Add("AAAA")
	e := &Emulator{opts: Options{PageSize: 2}}
	f.Fuzz(func(t *testing.T, text string) {
		step, after, ok := readMarker(text)
		if !ok {
			return
		}
		rest := []entry{{key: "a"}, {key: "b"}, {key: "c"}}
		if p, _ := e.cut(rest, step, after, 2); len(p.Value) > 2 {
			t.Errorf("%d items", len(p.Value))
		}
	})
}
