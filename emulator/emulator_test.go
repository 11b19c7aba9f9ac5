package emulator

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewRefusesBadOptions(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, o := range map[string]Options{
		"no directory":     {},
		"vault with a dot": {Dir: t.TempDir(), Vaults: []string{"a.b"}},
		"empty vault":      {Dir: t.TempDir(), Vaults: []string{""}},
		"vault twice":      {Dir: t.TempDir(), Vaults: []string{"web", "WEB"}},
		"page size":        {Dir: t.TempDir(), PageSize: 26},
		"token lifetime":   {Dir: t.TempDir(), TokenLifetime: -time.Hour},
		"address in use":   {Dir: t.TempDir(), Control: taken.Addr().String()},
		"file for dir":     {Dir: "emulator_test.go"},
	} {
		if e, err := New(o); err == nil {
			t.Errorf("%s: no error, %v", name, e.Close())
		}
	}
}

func TestListenersAreOpenFromNewToClose(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{e.Addr(), strings.TrimPrefix(e.Endpoints().Control, "http://"), e.identity.Addr().String()}
	for _, a := range addresses {
		conn, err := net.Dial("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if conn, err := net.Dial("tcp", a); err == nil {
			conn.Close()
			t.Errorf("%s still accepts", a)
		}
	}
	if err := e.Run(context.Background()); err == nil {
		t.Error("Run of a closed emulator returned nil")
	}
	if err := e.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestRunEndsRequestsThatHang(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	e.SetFault(Fault{Name: "@identity", Kind: Hang})
	answered := make(chan error, 1)
	go func() {
		_, _, _, err := e.askIdentity(context.Background(), map[string][]string{"resource": {vaultResource}})
		answered <- err
	}()
	for e.Counters().Identity == 0 {
		select {
		case err := <-answered:
			t.Fatalf("the request did not hang: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("the request that hung was answered")
	}
	if err := e.Close(); err != nil {
		t.Errorf("Close after Run: %v", err)
	}
}

func TestSettingsNameEveryCertificateAndTheWayThere(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}, Suffix: "Vault.Example."})
	read := func() (d settingsDocument) {
		text, err := os.ReadFile(e.Endpoints().Settings)
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := read(); d.Secrets.Certificates == nil || len(d.Secrets.Certificates) != 0 {
		t.Errorf("without certificates: %+v", d)
	}
	addCertificate(t, e, Profile{Name: "www"})
	if err := e.AddCertificates(Profile{Name: "api", Vault: "two"}, Profile{Name: "api"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AddSecret("", "password", "", "x"); err != nil {
		t.Fatal(err)
	}
	addCertificate(t, e, Profile{Name: "www"}) // a version more, not an entry
	d := read()
	want := []observedCertificate{{"https://one.vault.example/secrets/api"}, {"https://one.vault.example/secrets/www"}, {"https://two.vault.example/secrets/api"}}
	if !slices.Equal(d.Secrets.Certificates, want) {
		t.Errorf("certificates %v", d.Secrets.Certificates)
	}
	ends := e.Endpoints()
	if d.Kvfs.Transport.Connect["*.vault.example:443"] != e.Addr() || d.Kvfs.Transport.CAFile != ends.CA || d.Authentication.Endpoint != ends.Identity ||
		d.Secrets.PollingInterval != "1" || d.Kvfs.MinPollingInterval != 1 {
		t.Errorf("settings %+v", d)
	}
	if !slices.Equal(ends.Vaults, []string{"https://one.vault.example", "https://two.vault.example"}) {
		t.Errorf("vaults %v", ends.Vaults)
	}
	files, err := os.ReadDir(filepath.Dir(ends.Settings))
	if err != nil || len(files) != 2 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestCertificatesVerifyAgainstTheRoot(t *testing.T) {
	for _, kind := range keyTypes {
		c, _ := issueBundle(t, Profile{Key: kind, DNSNames: []string{"www.contoso.test", "api.contoso.test"}})
		leaf := c.chain[0]
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(c.chain[2])
		intermediates.AddCert(c.chain[1])
		for _, name := range leaf.DNSNames {
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates}); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		if leaf.Subject.CommonName != "www.contoso.test" || len(leaf.DNSNames) != 2 || !bytes.Equal(leaf.AuthorityKeyId, c.chain[1].SubjectKeyId) ||
			len(leaf.SubjectKeyId) == 0 || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
			t.Errorf("%s: leaf %+v", kind, leaf)
		}
		if got := leaf.NotAfter.Sub(leaf.NotBefore); got != 365*24*time.Hour+10*time.Minute {
			t.Errorf("%s: valid for %v", kind, got)
		}
	}
	c, _ := issueBundle(t, Profile{Validity: -time.Hour})
	if leaf := c.chain[0]; !leaf.NotAfter.Before(time.Now()) || !leaf.NotBefore.Before(leaf.NotAfter) {
		t.Errorf("an expired one: %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}

func TestBadProfilesAreRefused(t *testing.T) {
	e := start(t, Options{})
	for _, p := range []Profile{{}, {Name: "a_b"}, {Name: strings.Repeat("a", 128)}, {Name: "a", Key: "DSA"}, {Name: "a", Format: "jks"}, {Name: "a", Vault: "none"}} {
		if _, err := e.AddCertificate(p); err == nil {
			t.Errorf("%+v: no error", p)
		}
		if err := e.AddCertificates(p); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
	if got := e.Inventory(); len(got) != 0 {
		t.Errorf("left behind %+v", got)
	}
}

func TestRotationMakesANewVersionFromTheSameProfile(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	names := []string{"www.contoso.test"}
	addCertificate(t, e, Profile{Name: "www", Vault: "two", DNSNames: names, Key: EC384, Format: PEM})
	if _, err := e.AddSecret("two", "password", "", "x"); err != nil {
		t.Fatal(err)
	}
	version, err := e.Rotate("TWO", "WWW")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RotateAll(); err != nil {
		t.Fatal(err)
	}
	item := e.Inventory()[1]
	if len(item.Versions) != 3 || item.Versions[1].Version != version || item.ContentType != contentPEM || item.Vault != "two" {
		t.Fatalf("item %+v", item)
	}
	if item.Versions[0].SHA256 == item.Versions[1].SHA256 || item.Versions[0].NotAfter == nil {
		t.Errorf("versions %+v", item.Versions)
	}
	if _, err := e.Rotate("two", "password"); err == nil {
		t.Error("rotated a secret without a profile")
	}
	if _, err := e.Rotate("one", "www"); !errors.Is(err, ErrNotFound) {
		t.Errorf("rotating what is not there: %v", err)
	}
}

func TestRotateEveryRotatesUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := New(Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		addCertificate(t, e, Profile{Name: "www"})
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		if err := e.RotateEvery(ctx, 10*time.Second); err != nil {
			t.Error(err)
		}
		if got := len(e.Inventory()[0].Versions); got != 4 {
			t.Errorf("%d versions after three and a half periods, want 4", got)
		}
		if err := e.RotateEvery(ctx, 0); err == nil {
			t.Error("a period of zero was accepted")
		}
	})
}

func TestControlEndpoint(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	addCertificate(t, e, Profile{Name: "www"})
	addCertificate(t, e, Profile{Name: "api", Vault: "two"})
	do := func(method, target, body string) (int, string) {
		r, err := http.NewRequest(method, e.Endpoints().Control+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(response.Body); err != nil || !json.Valid(text.Bytes()) {
			t.Fatalf("%s %s: no JSON: %q %v", method, target, text.String(), err)
		}
		return response.StatusCode, strings.Join(strings.Fields(text.String()), "")
	}
	for _, test := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"POST", "/rotate?name=WWW", "", 200, `{"rotated":[{"vault":"one","name":"www"`},
		{"POST", "/rotate", "", 200, `"name":"api"`},
		{"POST", "/rotate?vault=two", "", 400, "error"},
		{"POST", "/rotate?name=none", "", 404, "error"},
		{"POST", "/rotate?nmae=www", "", 400, `unknownparameter\"nmae\"`},
		{"POST", "/disable?name=www", "", 200, `"enabled":false`},
		{"POST", "/enable?name=www", "", 200, `"enabled":true`},
		{"POST", "/disable", "", 400, "nameismissing"},
		{"POST", "/disable?name=www&version=0", "", 404, "error"},
		{"POST", "/delete?vault=two&name=api", "", 200, `"deleted":true`},
		{"POST", "/delete?vault=two&name=api", "", 400, "soft-deleted"},
		{"POST", "/rotate?vault=two&name=api", "", 400, "soft-deleted"},
		{"POST", "/recover?vault=two&name=api", "", 200, `"deleted":false`},
		{"POST", "/delete?vault=three&name=api", "", 404, "error"},
		{"PUT", "/faults", `{"name":"www","kind":"throttled","retryAfter":"2s","count":3}`, 200, `"retryAfter":"2s"`},
		{"PUT", "/faults", `{"kind":"slow","delay":0.25}`, 200, `"delay":"250ms"`},
		{"PUT", "/faults", `{"kind":"explode"}`, 400, "wantoneof"},
		{"PUT", "/faults", `{"kind":"slow","dealy":"1s"}`, 400, "dealy"},
		{"PUT", "/faults", `{"kind":"slow","delay":"soon"}`, 400, "error"},
		{"PUT", "/faults", `{"kind":"slow","delay":-1}`, 400, "negative"},
		{"PUT", "/faults", `{"kind":"garbage","name":"@identity"}`, 400, "wantoneof"},
		{"PUT", "/faults", `nonsense`, 400, "error"},
		{"DELETE", "/faults", "", 200, "cleared"},
		{"GET", "/counters", "", 200, `"secrets":0`},
		{"GET", "/certificates", "", 200, `"name":"www","contentType":"application/x-pkcs12","managed":true,"deleted":false,"versions":[{`},
		{"GET", "/rotate", "", 404, "noroute"},
	} {
		if status, got := do(test.method, test.target, test.body); status != test.status || !strings.Contains(got, test.want) {
			t.Errorf("%s %s %s: %d %s, want %d %s", test.method, test.target, test.body, status, got, test.status, test.want)
		}
	}
	for _, item := range e.Inventory() {
		if want := map[string]int{"www": 3, "api": 2}[item.Name]; len(item.Versions) != want {
			t.Errorf("%s has %d versions, want %d", item.Name, len(item.Versions), want)
		}
	}
	if len(e.faults.list) != 0 {
		t.Errorf("faults left: %v", e.faults.list)
	}
}

func TestFaultSurvivesItsJSONForm(t *testing.T) {
	want := Fault{Vault: "one", Name: "www", Kind: Slow, RetryAfter: time.Minute, Delay: 1500 * time.Millisecond, Count: 2}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Fault
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("%s: %+v, %v", text, got, err)
	}
}
