package test

import (
	"path"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// Everything fails that can fail, for longer than a token lives: no read of a current
// version fails, the status says what is wrong with each certificate and with the vault,
// and soon after the end all is well. (Three days of that are in package sync, in virtual
// time; here are the real client, mount and clock.)
func TestOutageFailsNoRead(t *testing.T) {
	t.Parallel()
	needRoot(t)
	profiles := []emulator.Profile{{Name: "www"}, {Name: "api"}, {Name: "mail"}, {Name: "ldap"}}
	s := newSiteOf(t, emulator.Options{TokenLifetime: 4 * time.Second}, profiles...)
	s.mount()
	reader := visit(t, syscall.Credential{}, "verify", s.path("contoso-web.www"))
	var all tally
	reader.hear(&all)
	for _, c := range []struct {
		name  string
		fault emulator.Fault
		kind  string
	}{
		{"throttled, with Retry-After", emulator.Fault{Kind: emulator.Throttled, RetryAfter: time.Second}, "throttled"},
		{"throttled, without", emulator.Fault{Kind: emulator.Throttled}, "throttled"},
		{"dropped connections", emulator.Fault{Kind: emulator.Drop}, "unreachable"},
		{"firewall", emulator.Fault{Kind: emulator.ForbiddenFirewall}, "forbidden-network"},
		{"no identity", emulator.Fault{Kind: emulator.IdentityNotFound}, "identity"},
	} {
		began := time.Now()
		s.vault.SetFault(c.fault)
		if err := s.vault.RotateAll(); err != nil {
			t.Fatal(err)
		}
		renewed := map[string]string{}
		for _, item := range s.vault.Inventory() {
			renewed[item.Name] = item.Versions[0].Version
		}
		s.until(c.name+": the status says so of all", func() bool {
			r := s.report()
			for _, certificate := range r.Certificates {
				if certificate.State != "stale" || certificate.Error == nil || certificate.Error.Kind != c.kind || certificate.Error.Hint == "" {
					return false
				}
			}
			v := r.Vaults[0]
			return r.State == "degraded" && len(r.Vaults) == 1 && v.DownSince != nil && v.NextTry != nil && v.Error.Kind == c.kind
		})
		s.must("status") // for people too
		s.vault.ClearFaults()
		// The waits have not grown longer than what the outage took so far.
		patience := 3*time.Since(began) + 30*time.Second
		s.within(patience, c.name+": all is well", func() bool {
			r := s.report()
			for _, certificate := range r.Certificates {
				if certificate.State != "ok" || certificate.Version != renewed[path.Base(certificate.URL)] {
					return false
				}
			}
			return r.State == "ready" && r.Vaults[0].DownSince == nil
		})
	}
	if n := s.vault.Counters().Identity; n < 4 {
		t.Errorf("%d tokens: the test has to outlive them", n)
	}
	reader.leave()
	reader.hear(&all)
	t.Logf("%d reads, %d versions, %d failed, %d broken", all.Reads, all.Versions, all.Failed, all.Broken)
	if all.Failed+all.Broken > 0 || all.Versions < 3 {
		t.Errorf("%+v", all)
	}
}
