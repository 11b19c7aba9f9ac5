package test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// What becomes of a certificate to which something happens in the vault or in the
// settings: what is served, what the status says, and the way back. The table is in
// docs/operations.md.

// leads is the version to which a link leads, "" for none.
func (s *site) leads(link string) string {
	target, err := os.Readlink(s.path(link))
	if err != nil {
		return ""
	}
	return target[strings.LastIndex(target, ".")+1:]
}

// put adds a version of a secret that the settings name.
func (s *site) put(name, value string) (version string) {
	s.t.Helper()
	version, err := s.vault.AddSecret("", name, "application/x-pem-file", value)
	if err != nil {
		s.t.Fatal(err)
	}
	return version
}

// observe adds a certificate of a hand-made secret to a document.
func (d document) observe(name string, own map[string]any) {
	list := d.secrets()["observedCertificates"].([]any)
	d.secrets()["observedCertificates"] = append(list, map[string]any{"url": "https://contoso-web.vault.azure.net/secrets/" + name, "kvfs": own})
}

// is checks the state of a certificate; kind is that of its error, "" for none.
func (s *site) is(name, state, kind, hint string) {
	s.t.Helper()
	c := s.certificate(name)
	switch {
	case c.State != state:
		s.t.Errorf("%s is %s, want %s: %+v", name, c.State, state, c.Error)
	case kind == "" && c.Error != nil:
		s.t.Errorf("%s: %+v", name, c.Error)
	case kind != "" && (c.Error == nil || c.Error.Kind != kind || c.Error.Hint == "" || !strings.Contains(c.Error.Hint, hint)):
		s.t.Errorf("%s: %+v, want %s with %q in its hint", name, c.Error, kind, hint)
	}
}

// do fails the test if something could not be done to the vault.
func (s *site) do(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// A certificate that is disabled keeps what is served, or loses it if the settings say
// so, and is what it was when it is enabled.
func TestDisabledAndEnabledCertificate(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "kept"}, emulator.Profile{Name: "hidden"})
	s.configure(func(d document) { d.entry("hidden")["kvfs"] = map[string]any{"onDisabled": "hide"} })
	s.mount()
	was := map[string]string{"kept": s.leads("contoso-web.kept"), "hidden": s.leads("contoso-web.hidden")}
	ids := s.inodes(".kept")
	enable := func(enabled bool) {
		t.Helper()
		for name := range was {
			s.do(s.vault.SetEnabled("", name, "", enabled))
		}
		s.run("refresh")
	}
	enable(false)
	s.is("kept", "stale", "disabled", "az keyvault certificate set-attributes")
	s.is("hidden", "hidden", "disabled", "az keyvault certificate set-attributes")
	if s.leads("contoso-web.kept") != was["kept"] || len(s.inodes(".hidden")) > 0 {
		t.Errorf("served are %v", s.inodes(""))
	}
	if w := s.certificate("hidden").Warnings; len(w) != 1 || !strings.HasSuffix(w[0], " is hidden, as the settings ask: it is disabled in the vault") {
		t.Errorf("the status warns of %q", w)
	}
	enable(true)
	for name, version := range was {
		s.is(name, "ok", "", "")
		if s.leads("contoso-web."+name) != version {
			t.Errorf("%s leads to %q, before to %s", name, s.leads("contoso-web."+name), version)
		}
	}
	if now := s.inodes(".kept"); len(now) != len(ids) || now["contoso-web.kept"] != ids["contoso-web.kept"] {
		t.Errorf("nodes of the one that was kept: %v, before %v", now, ids)
	}

	// Disabled before kvfs is started: there is nothing good to keep.
	newest := map[string]string{"kept": s.rotate("kept"), "hidden": s.rotate("hidden")}
	enable(false)
	s.end(15)
	s.mount()
	s.until("the newest version that is enabled is served", func() bool { return s.leads("contoso-web.kept") == was["kept"] })
	s.is("kept", "stale", "disabled", "")
	s.is("hidden", "hidden", "disabled", "")
	if len(s.inodes(".hidden")) > 0 {
		t.Errorf("served are %v", s.inodes(""))
	}
	enable(true)
	for name, version := range newest {
		s.is(name, "ok", "", "")
		if s.leads("contoso-web."+name) != version {
			t.Errorf("%s leads to %q, want %s", name, s.leads("contoso-web."+name), version)
		}
	}
}

// A certificate that expires is served with a warning, or goes if the settings say so,
// until there is a new version.
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t)
	end := time.Now().Add(5 * time.Second).Truncate(time.Second)
	text := bundleUntil(t, time.Now().Add(-time.Hour), end, "One", "www.example")
	first := s.put("served", text)
	s.put("hidden", text)
	s.configure(func(d document) {
		d["secretsManagementSettings"].(map[string]any)["observedCertificates"] = []any{}
		d.observe("served", map[string]any{})
		d.observe("hidden", map[string]any{"onExpired": "hide"})
	})
	s.mount()
	s.until("the time of one is over", func() bool { return s.certificate("hidden").State == "hidden" })
	if time.Now().Before(end) {
		t.Error("hidden before its time")
	}
	s.is("served", "ok", "", "")
	if w := s.certificate("served").Warnings; !slices.ContainsFunc(w, func(w string) bool { return strings.HasPrefix(w, "it has expired on ") }) {
		t.Errorf("the status warns of %q", w)
	}
	if w := s.certificate("hidden").Warnings; !slices.ContainsFunc(w, func(w string) bool { return strings.Contains(w, " is hidden, as the settings ask: it has expired on ") }) {
		t.Errorf("the status warns of %q", w)
	}
	if out := s.must("status"); !strings.Contains(out, "EXPIRED") || !strings.Contains(out, "warning: it has expired on ") {
		t.Errorf("kvfs status says\n%s", out)
	}
	if s.leads("contoso-web.served") != first || len(s.inodes(".hidden")) > 0 {
		t.Errorf("served are %v", s.inodes(""))
	}
	for _, name := range []string{"served", "hidden"} {
		version := s.put(name, madeBundle(t, time.Now().Add(-time.Hour), "One", "www.example"))
		s.must("refresh", name)
		s.is(name, "ok", "", "")
		if w := s.certificate(name).Warnings; s.leads("contoso-web."+name) != version || slices.ContainsFunc(w, func(w string) bool { return strings.Contains(w, "expired") }) {
			t.Errorf("%s after its renewal: %q, %q", name, s.leads("contoso-web."+name), w)
		}
	}
}

// A version that is not valid yet waits for its time, or does not if the settings say
// so, or if there is nothing valid.
func TestCertificateThatIsNotYetValid(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t)
	valid := madeBundle(t, time.Now().Add(-time.Hour), "One", "www.example")
	first := map[string]string{"held": s.put("held", valid), "linked": s.put("linked", valid)}
	s.configure(func(d document) {
		d["secretsManagementSettings"].(map[string]any)["observedCertificates"] = []any{}
		d.observe("held", map[string]any{})
		d.observe("linked", map[string]any{"onNotYetValid": "link"})
		d.observe("alone", map[string]any{})
	})
	early := time.Now().Add(time.Hour)
	alone := s.put("alone", madeBundle(t, early, "One", "www.example"))
	s.mount()
	next := map[string]string{}
	for name := range first {
		next[name] = s.put(name, madeBundle(t, early, "One", "www.example"))
	}
	s.must("refresh")
	for name, want := range map[string]struct{ version, warning string }{
		"held":   {first["held"], "version " + next["held"] + " waits until it is valid, from "},
		"linked": {next["linked"], "it is not valid before "},
		"alone":  {alone, "it is not valid before "},
	} {
		s.is(name, "ok", "", "")
		w := s.certificate(name).Warnings
		if s.leads("contoso-web."+name) != want.version || !slices.ContainsFunc(w, func(w string) bool { return strings.HasPrefix(w, want.warning) }) {
			t.Errorf("%s leads to %q, want %q; %q", name, s.leads("contoso-web."+name), want, w)
		}
	}
	readFile(t, s.path("contoso-web.held."+next["held"])) // it is there, for who wants to look
	now := s.put("held", madeBundle(t, time.Now().Add(-time.Minute), "One", "www.example"))
	s.must("refresh", "held")
	if s.is("held", "ok", "", ""); s.leads("contoso-web.held") != now {
		t.Errorf("with a valid one: %q", s.leads("contoso-web.held"))
	}
}

// A certificate that is deleted in the vault stays, comes back as what it was, and may
// come back as another one.
func TestDeletedCertificate(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.mount()
	was, ids := s.leads("contoso-web.www"), s.inodes(".www")
	gone := func() {
		t.Helper()
		s.do(s.vault.Delete("", "www"))
		s.run("refresh", "www")
		s.is("www", "stale", "not-found", "az keyvault certificate recover --vault-name contoso-web --name www")
		s.is("api", "ok", "", "")
		if s.leads("contoso-web.www") != was {
			t.Errorf("it leads to %q, before to %s", s.leads("contoso-web.www"), was)
		}
		readFile(t, s.path("contoso-web.www"))
	}
	gone()
	s.recover("www")
	s.must("refresh", "www")
	s.is("www", "ok", "", "")
	if now := s.inodes(".www"); len(now) != len(ids) || now["contoso-web.www"] != ids["contoso-web.www"] {
		t.Errorf("undeleted: %v, before %v", now, ids)
	}

	gone()
	s.do(s.vault.Purge("", "www"))
	version, err := s.vault.AddCertificate(emulator.Profile{Name: "www", DNSNames: []string{"other.example.com"}})
	s.do(err)
	s.must("refresh", "www")
	s.is("www", "ok", "", "")
	if s.leads("contoso-web.www") != version {
		t.Errorf("another of its name: %q, want %s", s.leads("contoso-web.www"), version)
	}
	readFile(t, s.path("contoso-web.www."+was)) // the version before, as after any renewal
	s.rotate("www")

	// Deleted before kvfs is started: nothing is there of it until it is undeleted.
	s.do(s.vault.Delete("", "www"))
	s.end(15)
	s.mount()
	s.is("www", "missing", "not-found", "recover")
	if left := s.inodes(".www"); len(left) > 0 {
		t.Errorf("served are %v", left)
	}
	s.recover("www")
	s.until("it is served", func() bool { return s.certificate("www").State == "ok" })
	readFile(t, s.path("contoso-web.www"))
}

// A link with a name of its own stays with its entry when that gets another secret, and
// an entry keeps its link for a while when it gets another name.
func TestRenamedEntry(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	link := func(d document, name, link string) { d.entry(name)["customSymbolicLinkName"] = link }
	s.configure(func(d document) { link(d, "www", "site"); d.keep("www") })
	s.mount()
	www := s.leads("site")
	readers := visit(t, syscall.Credential{}, "verify", s.path("site"))
	var first tally
	readers.hear(&first)

	// Another link name.
	s.configure(func(d document) { link(d, "www", "home"); d.keep("www") })
	s.must("refresh", "--settings")
	s.is("www", "ok", "", "")
	if s.leads("home") != www || s.leads("site") != www {
		t.Errorf("home leads to %q, site to %q, want %s", s.leads("home"), s.leads("site"), www)
	}
	if l := s.report().Leaving; len(l) != 1 || !slices.Equal(l[0].Links, []string{s.path("site")}) {
		t.Errorf("leaving are %+v", l)
	}

	// Another secret under the same link name.
	s.configure(func(d document) { link(d, "api", "site"); d.keep("api") })
	s.must("refresh", "--settings")
	api := s.certificate("api").Version
	if s.leads("site") != api || s.leads("home") != www {
		t.Errorf("site leads to %q, want %s; home to %q, want %s", s.leads("site"), api, s.leads("home"), www)
	}
	s.is("api", "ok", "", "")
	s.is("www", "removed", "", "")
	if r := s.report(); r.State != "ready" || r.Error != nil {
		t.Errorf("%s: %+v", r.State, r.Error)
	}
	var all tally
	readers.leave()
	if readers.hear(&all); all.Failed+all.Broken > 0 {
		t.Errorf("who read the link meanwhile: %+v", all)
	}

	// And back: what was on its way out is what it was.
	s.configure(func(d document) { link(d, "www", "site"); d.keep("www"); d.own()["removalGraceInS"] = 0 })
	s.must("refresh", "--settings")
	s.is("www", "ok", "", "")
	if s.leads("site") != www {
		t.Errorf("site leads to %q, want %s", s.leads("site"), www)
	}
	for _, name := range []string{"home", "contoso-web.api"} {
		if _, err := os.Lstat(s.path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left without a grace: %v", name, err)
		}
	}
}

// A vault that refuses this machine or its identity, at the start and later.
func TestRefusedByTheVault(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	for _, c := range []struct {
		fault      emulator.FaultKind
		kind, hint string
	}{
		{emulator.ForbiddenFirewall, "forbidden-network", "az keyvault network-rule add --name contoso-web --ip-address "},
		{emulator.ForbiddenConnection, "forbidden-network", "private endpoint"},
		{emulator.ForbiddenRBAC, "forbidden", `az role assignment create --role "Key Vault Secrets User"`},
		{emulator.ForbiddenPolicy, "forbidden", "az keyvault set-policy --name contoso-web"},
	} {
		refuse := func() { s.vault.SetFault(emulator.Fault{Name: "www", Kind: c.fault}) }
		refuse()
		s.mount()
		s.is("www", "missing", c.kind, c.hint)
		s.is("api", "ok", "", "")
		s.vault.ClearFaults()
		s.until("it is served", func() bool { return s.certificate("www").State == "ok" })
		was := readFile(t, s.path("contoso-web.www"))
		refuse()
		if _, _, code := s.run("refresh", "www"); code != 4 {
			t.Errorf("%s: refresh ends with %d", c.fault, code)
		}
		s.is("www", "stale", c.kind, c.hint)
		if string(readFile(t, s.path("contoso-web.www"))) != string(was) {
			t.Errorf("%s: what was good is not served any more", c.fault)
		}
		s.vault.ClearFaults()
		s.must("refresh", "www")
		s.is("www", "ok", "", "")
		s.end(15)
	}
}

// An identity that gets no token any more: what was good stays, until it is the right
// one again.
func TestIdentityOfTheSettingsIsNoneOfTheMachine(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	was := s.leads("contoso-web.www")
	s.configure(func(d document) { d["authenticationSettings"].(map[string]any)["msiClientId"] = otherID })
	if _, _, code := s.run("refresh", "--settings"); code != 4 {
		t.Errorf("refresh ends with %d", code)
	}
	s.is("www", "stale", "identity", "msiObjectId")
	if s.leads("contoso-web.www") != was {
		t.Errorf("it leads to %q, before to %s", s.leads("contoso-web.www"), was)
	}
	readFile(t, s.path("contoso-web.www"))
	s.configure(nil)
	s.must("refresh", "--settings")
	s.is("www", "ok", "", "")
}
