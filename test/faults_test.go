package test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvfs/emulator"
)

// What was good stays readable whatever the vault answers, the status says what
// is wrong, since when, and what to do, and it mends itself.
func TestLastGoodStaysWhateverTheVaultAnswers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.mount()
	for _, c := range []struct {
		fault emulator.FaultKind
		kind  string // in the status
		hint  string // a part of it
	}{
		{emulator.ForbiddenRBAC, "forbidden", "Key Vault Secrets User"},
		{emulator.ForbiddenPolicy, "forbidden", "set-policy"},
		{emulator.ForbiddenFirewall, "forbidden-network", ""},
		{emulator.Disabled, "disabled", ""},
		{emulator.NotFound, "not-found", ""},
		{emulator.Throttled, "throttled", ""},
		{emulator.ServerError, "server", ""},
		{emulator.Unavailable, "server", ""},
		{emulator.Drop, "unreachable", ""},
		{emulator.Garbage, "corrupt", ""},
		{emulator.TokenExpired, "unauthorized", ""},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			was := string(readFile(t, s.path("contoso-web.www")))
			s.vault.SetFault(emulator.Fault{Name: "www", Kind: c.fault})
			version, err := s.vault.Rotate("", "www") // which nobody can fetch yet
			if err != nil {
				t.Fatal(err)
			}
			other := s.rotate("api") // one bad certificate never stops the others
			_, errs, code := s.run("refresh", "www")
			if code == 0 || !strings.Contains(errs, "kvfs: error: ") || !strings.Contains(errs, "kvfs: hint: ") {
				t.Errorf("refresh: exit code %d\n%s", code, errs)
			}
			got := s.certificate("www")
			if got.State != "stale" || got.Error == nil || got.Error.Kind != c.kind || got.Error.Hint == "" || !strings.Contains(got.Error.Hint, c.hint) {
				t.Errorf("status: %s %+v, want stale and %s", got.State, got.Error, c.kind)
			}
			if got.LastSuccess == nil || got.LastAttempt == nil || got.LastAttempt.Before(*got.LastSuccess) {
				t.Errorf("status: last success %v, last attempt %v", got.LastSuccess, got.LastAttempt)
			}
			if r := s.report(); r.State != "degraded" {
				t.Error("the whole is", r.State)
			}
			for _, line := range []string{"error: ", "hint: ", "is served as of "} {
				if out := s.must("status"); !strings.Contains(out, line) {
					t.Errorf("kvfs status does not say %q:\n%s", line, out)
				}
			}
			if string(readFile(t, s.path("contoso-web.www"))) != was {
				t.Error("what was good is not served any more")
			}
			if target, _ := os.Readlink(s.path("contoso-web.api")); !strings.HasSuffix(target, other) {
				t.Error("the other certificate was not renewed")
			}
			s.vault.ClearFaults()
			s.until("the certificate is renewed", func() bool { c := s.certificate("www"); return c.State == "ok" && c.Version == version })
		})
	}
}

// A vault that answers slowly, or half, holds up neither readers nor the other
// certificates.
func TestSlowVaultHoldsUpNobody(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "mail"}, emulator.Profile{Name: "api"})
	s.mount()
	s.vault.SetFault(emulator.Fault{Name: "www", Kind: emulator.Hang})
	s.vault.SetFault(emulator.Fault{Name: "mail", Kind: emulator.HalfOpen})
	version, err := s.vault.Rotate("", "api")
	if err != nil {
		t.Fatal(err)
	}
	s.until("the other is renewed", func() bool {
		target, err := os.Readlink(s.path("contoso-web.api"))
		return err == nil && strings.HasSuffix(target, version)
	})
	for _, name := range []string{"www", "mail"} {
		readFile(t, s.path("contoso-web."+name))
		s.until("the try has timed out", func() bool { e := s.certificate(name).Error; return e != nil && e.Kind == "timeout" })
	}
	s.vault.ClearFaults()
	s.until("it works again", func() bool { return s.report().State == "ready" })
	s.vault.SetFault(emulator.Fault{Name: "www", Kind: emulator.Slow, Delay: 300 * time.Millisecond})
	s.rotate("www")
}

// The identity endpoint fails: tokens that are there go on working, and without
// one the status says so.
func TestIdentityEndpointFails(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, c := range []struct {
		fault emulator.FaultKind
		hint  string
	}{{emulator.IdentityNotFound, ""}, {emulator.IdentityMultiple, "msiClientId"}} {
		t.Run(string(c.fault), func(t *testing.T) {
			s := newSite(t, emulator.Profile{Name: "www"})
			s.vault.SetFault(emulator.Fault{Name: "@identity", Kind: c.fault})
			s.mount()
			got := s.certificate("www")
			if got.State != "missing" || got.Error == nil || got.Error.Kind != "identity" || !strings.Contains(got.Error.Hint, c.hint) {
				t.Errorf("%s %+v", got.State, got.Error)
			}
			if _, errs, code := s.run("refresh"); code != 4 {
				t.Errorf("refresh: exit code %d, want 4 (identity or permission refused)\n%s", code, errs)
			}
			s.vault.ClearFaults()
			s.until("it is served", func() bool { return s.certificate("www").State == "ok" })
			readFile(t, s.path("contoso-web.www"))
		})
	}
}

// The vault is away when kvfs starts: the mount is there, and fills by itself.
func TestStartWithoutVault(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.vault.SetFault(emulator.Fault{Kind: emulator.Drop})
	s.mount()
	if entries, err := os.ReadDir(s.store); err != nil || len(entries) != 0 {
		t.Errorf("the store holds %v, %v", entries, err)
	}
	s.vault.ClearFaults()
	s.until("the store lists the 7 names of one version", func() bool {
		entries, err := os.ReadDir(s.store)
		return err == nil && len(entries) == 7
	})
	readFile(t, s.path("contoso-web.www"))
}

// No secret in what kvfs says, at any level, whatever happens.
func TestNoKeyMaterialIsEverSaid(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www", Format: emulator.PEM}, emulator.Profile{Name: "api"})
	s.mount("--verbose")
	said := []string{s.must("status"), s.must("status", "--json"), s.must("check", s.settings), s.must("check", "--json", s.settings),
		s.must("inspect", s.path("contoso-web.www")), s.must("inspect", "--json", s.path("contoso-web.api"))}
	secrets := keyMaterial(t, s)
	for _, kind := range []emulator.FaultKind{emulator.Garbage, emulator.ForbiddenRBAC, emulator.TokenExpired, emulator.ServerError} {
		s.vault.SetFault(emulator.Fault{Kind: kind, Count: 2})
		out, errs, _ := s.run("refresh")
		said = append(said, out, errs, s.must("status"))
		s.vault.ClearFaults()
	}
	s.rotate("www")
	s.rotate("api")
	secrets = append(secrets, keyMaterial(t, s)...)
	said = append(said, s.must("status", "--json"), s.log.String())
	all := strings.Join(said, "\n")
	if !strings.Contains(all, "level=DEBUG") {
		t.Error("the log has no debug lines: the test would find nothing")
	}
	for _, secret := range append(secrets, "PRIVATE KEY", "eyJ") {
		if strings.Contains(all, secret) {
			t.Errorf("kvfs has said %.12q...", secret)
		}
	}
}

// keyMaterial is the lines of the private keys that are served, and their bytes
// in hexadecimal, of which no part may be printed.
func keyMaterial(t testing.TB, s *site) (secrets []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.store, "*.keyid"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		lines := strings.Split(strings.TrimSpace(string(readFile(t, f))), "\n")
		// The first line of a PKCS#8 key is its algorithm, the same in all keys.
		secrets = append(secrets, lines[2:len(lines)-1]...)
		for _, line := range lines[2 : len(lines)-1] {
			raw, err := base64.StdEncoding.DecodeString(line)
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, base64.RawURLEncoding.EncodeToString(raw)[:20])
		}
	}
	return secrets
}
