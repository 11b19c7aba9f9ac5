package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// keep leaves only some certificates in a document.
func (d document) keep(names ...string) {
	var kept []any
	for _, name := range names {
		kept = append(kept, d.entry(name))
	}
	d.secrets()["observedCertificates"] = kept
}

// own is the block of our own settings.
func (d document) own() map[string]any { return d["kvfs"].(map[string]any) }

// inodes are the node ids of all names below a store whose names contain a text.
func (s *site) inodes(part string) map[string]uint64 {
	s.t.Helper()
	entries, err := os.ReadDir(s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	ids := map[string]uint64{}
	for _, e := range entries {
		if !strings.Contains(e.Name(), part) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			s.t.Fatal(err)
		}
		ids[e.Name()] = info.Sys().(*syscall.Stat_t).Ino
	}
	return ids
}

// Changed settings are applied as a difference, under readers of what stays: one
// certificate comes, one goes, one gets another access list.
func TestChangedSettingsAreAppliedAsADifference(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "old"}, emulator.Profile{Name: "new"})
	const grace = 6
	who := func(id int) []any { return []any{map[string]any{"user": id}} }
	s.configure(func(d document) {
		d.entry("api")["acls"], d.entry("www")["acls"] = who(admitted), who(admitted)
		d.keep("www", "api", "old")
	})
	s.mount()
	readers := []*visitor{
		visit(t, syscall.Credential{}, "verify", s.path("contoso-web.www")),
		visit(t, syscall.Credential{Uid: admitted, Gid: stranger}, "verify", s.path("contoso-web.www")),
	}
	for _, r := range readers {
		r.hear(&tally{})
	}
	mount, untouched, api := mounts(t, s.dir), s.inodes(".www"), s.inodes(".api")
	watch := watchDirectory(t, s.store)

	s.configure(func(d document) {
		d.entry("api")["acls"], d.entry("www")["acls"] = who(stranger), who(admitted)
		d.keep("new", "api", "www")
		d.own()["removalGraceInS"] = grace
	})
	changed := time.Now()
	s.hangUp()
	if now := s.inodes(".www"); fmt.Sprint(now) != fmt.Sprint(untouched) {
		t.Errorf("nodes of what did not change: %v, before %v", now, untouched)
	}
	if now := s.inodes(".api"); fmt.Sprint(now) != fmt.Sprint(api) {
		t.Errorf("nodes of what has another list: %v, before %v", now, api)
	}
	if now := mounts(t, s.dir); !slices.Equal(now, mount) {
		t.Errorf("mounts %v, before %v", now, mount)
	}
	readFile(t, s.path("contoso-web.new"))
	for id, want := range map[string]int{fmt.Sprint(admitted): 4, fmt.Sprint(stranger): 0} {
		if out, _, code := s.run("access", s.path("contoso-web.api"), "--user", id); code != want {
			t.Errorf("access of user %s after the change: exit code %d, %s", id, code, out)
		}
	}

	// What was removed is there until the grace is over, and then nothing of it.
	_, err := os.Stat(s.path("contoso-web.old"))
	if early := time.Since(changed) < grace*time.Second; early && err != nil {
		t.Error("gone before the grace is over:", err)
	}
	if r := s.report(); time.Since(changed) < grace*time.Second {
		if len(r.Leaving) != 1 || len(r.Leaving[0].Links) != 3 || r.Leaving[0].At.After(changed.Add((grace+1)*time.Second)) {
			t.Errorf("the status says %+v", r.Leaving)
		}
		if old := s.certificate("old"); old.State != "removed" || old.RemovedAt == nil {
			t.Errorf("the status says %+v", old)
		}
	}
	s.until("the removed certificate is gone", func() bool { return len(s.report().Certificates) == 3 })
	if time.Since(changed) < grace*time.Second {
		t.Error("gone before the grace is over")
	}
	if left := s.inodes(".old"); len(left) > 0 {
		t.Errorf("left of the removed one: %v", left)
	}
	watch.drain()
	for name := range watch.moved {
		if strings.Contains(name, ".www") || strings.Contains(name, ".api") {
			t.Errorf("%s was moved to, and has not changed", name)
		}
	}
	for _, r := range readers {
		var all tally
		r.leave()
		r.hear(&all)
		t.Logf("%d reads of the untouched one, %d failed, %d broken", all.Reads, all.Failed, all.Broken)
		if all.Failed+all.Broken > 0 || all.Reads < 2 {
			t.Error(strings.Join(all.Errors, "\n"))
		}
	}
}

// An entry that comes back within the grace was never away.
func TestRemovedEntryThatComesBackIsTheSame(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.mount()
	before := s.inodes(".api")
	s.configure(func(d document) { d.keep("www") })
	s.hangUp()
	if c := s.certificate("api"); c.State != "removed" || c.RemovedAt == nil || time.Until(*c.RemovedAt) < 59*time.Minute {
		t.Errorf("%+v", c)
	}
	if out := s.must("status"); !strings.Contains(out, "  not in the settings any more; these names go in ") {
		t.Errorf("status says:\n%s", out)
	}
	s.configure(nil)
	s.hangUp()
	if now := s.inodes(".api"); fmt.Sprint(now) != fmt.Sprint(before) || s.certificate("api").State != "ok" {
		t.Errorf("%v, before %v; %+v", now, before, s.certificate("api"))
	}
	s.configure(func(d document) { d.keep("www"); d.own()["removalGraceInS"] = 0 })
	s.hangUp()
	if left := s.inodes(".api"); len(left) > 0 || len(s.report().Certificates) != 1 {
		t.Errorf("left without a grace: %v", left)
	}
}

// Stores come and go with the settings, one inside another too.
func TestStoresComeAndGoWithTheSettings(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "mail"})
	inner, beside := filepath.Join(s.store, "app"), filepath.Join(s.dir, "beside")
	s.configure(func(d document) { d.keep("www") })
	s.mount()
	was := mounts(t, s.dir)
	s.configure(func(d document) {
		d.entry("api")["certificateStoreLocation"], d.entry("mail")["certificateStoreLocation"] = inner, beside
	})
	s.hangUp()
	for _, path := range []string{s.path("contoso-web.www"), inner + "/contoso-web.api", beside + "/contoso-web.mail"} {
		readFile(t, path)
	}
	if now := mounts(t, s.dir); len(now) != 3 || now[0] != was[0] {
		t.Errorf("mounts %v, before %v", now, was)
	}
	if r := s.report(); r.State != "ready" || len(r.Mounts) != 3 {
		t.Errorf("%s at %v", r.State, r.Mounts)
	}
	s.configure(func(d document) { d.keep("www"); d.own()["removalGraceInS"] = 0 })
	s.hangUp()
	if now := mounts(t, s.dir); !slices.Equal(now, was) {
		t.Errorf("mounts %v, before %v", now, was)
	}
	if entries, err := os.ReadDir(beside); err != nil || len(entries) > 0 {
		t.Errorf("in the place of the store that is gone: %v, %v", entries, err)
	}
	if _, err := os.Stat(inner); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the place of the inner store: %v", err)
	}
}

// A store that cannot be mounted refuses the document, and nothing changes.
func TestStoreThatCannotBeMountedRefusesTheDocument(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.configure(func(d document) { d.keep("www") })
	s.mount()
	before := s.inodes("")
	full := filepath.Join(s.dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "of-files"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.configure(func(d document) { d.entry("api")["certificateStoreLocation"] = full })
	_, errs, code := s.run("refresh", "--settings")
	if code != 3 || !regexp.MustCompile(`settings\.json:\d+:7: `+full+` is not empty \(of-files\)`).MatchString(errs) || !strings.HasSuffix(errs, "kvfs: the previous settings stay in force\n") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if now := s.inodes(""); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("%v, before %v", now, before)
	}
	if r := s.report(); r.State != "degraded" || r.Error == nil || len(r.Certificates) != 1 {
		t.Errorf("%s: %+v", r.State, r.Error)
	}
}

// kvfs refresh --settings is SIGHUP with an answer.
func TestRefreshOfTheSettingsSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	before := s.inodes("")
	good := readFile(t, s.settings)
	if err := os.WriteFile(s.settings, []byte("{\n  \"secretsManagementSettings\": {\n    \"pollingIntervalInS\": \"1h\"\n    \"observedCertificates\": []}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := s.run("refresh", "--settings")
	want := "kvfs: error: " + s.settings + `:4:5: expected "," or "}" after the value of "pollingIntervalInS"
kvfs: hint: add a comma at the end of line 3
kvfs: the previous settings stay in force
`
	if code != 3 || errs != want || out != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	var data struct {
		Error    struct{ Kind, Message, Hint string }
		Problems []struct{ Line, Column int }
	}
	out, _, code = s.run("refresh", "--settings", "--json")
	if err := json.Unmarshal([]byte(out), &data); err != nil || code != 3 || data.Error.Kind != "settings" || len(data.Problems) != 1 || data.Problems[0].Line != 4 {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	if now := s.inodes(""); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("%v, before %v", now, before)
	}
	if r := s.report(); r.State != "degraded" || r.Error == nil || r.Error.Kind != "settings" {
		t.Errorf("%s: %+v", r.State, r.Error)
	}
	s.rotate("www") // it goes on under the previous settings
	if err := os.WriteFile(s.settings, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := s.must("refresh", "--settings", "www"); !strings.Contains(out, "/secrets/www: still ") {
		t.Error(out)
	}
	if r := s.report(); r.State != "ready" || r.Error != nil {
		t.Errorf("%s: %+v", r.State, r.Error)
	}
}

// Another way to the vault is taken over too.
func TestChangedTransportIsUsed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	s.configure(func(d document) {
		d.own()["transport"].(map[string]any)["connect"] = map[string]any{"*.vault.azure.net:443": "127.0.0.1:1"}
	})
	s.hangUp()
	s.until("the vault cannot be reached", func() bool { return s.certificate("www").State == "stale" })
	readFile(t, s.path("contoso-web.www"))
	s.configure(nil)
	s.must("refresh", "--settings")
	if c := s.certificate("www"); c.State != "ok" {
		t.Errorf("%+v", c)
	}
	// So is another CA file of the same name.
	ca := s.vault.Endpoints().CA
	good := readFile(t, ca)
	if err := os.WriteFile(ca, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.run("refresh", "--settings"); code != 3 || !strings.Contains(errs, "holds no PEM certificate") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if err := os.WriteFile(ca, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("refresh", "--settings")
}

// kvfs refresh --settings says what has changed.
func TestRefreshOfTheSettingsSaysWhatChanged(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "mail"})
	s.configure(func(d document) { d.keep("www", "mail") })
	s.mount()
	s.configure(func(d document) {
		d.entry("www")["acls"] = []any{map[string]any{"user": "kvfs-nobody-has"}}
		d.keep("www", "api")
	})
	const url = "https://contoso-web.vault.azure.net/secrets/"
	want := s.settings + " applied: 1 added, 1 changed, 1 removed\n  + " + url + "api\n  ~ " + url + "www\n  - " + url + "mail\n"
	if out := s.must("refresh", "--settings"); !strings.HasPrefix(out, want) {
		t.Errorf("refresh says\n%s\nwant\n%s", out, want)
	}
	// Who cannot be let in is named as long as that is so.
	if c := s.certificate("www"); len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], `user "kvfs-nobody-has" does not exist`) {
		t.Errorf("%+v", c.Warnings)
	}
}

// Stores inside each other: what would have to move a store that is served is
// refused until a restart, and nothing of what is served goes for it.
func TestStoresAroundServedOnes(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "mail"})
	at := func(d document, name, store string) { d.entry(name)["certificateStoreLocation"] = store }
	middle, inner := s.path("a"), s.path("a/b")
	three := func(d document) {
		d.own()["removalGraceInS"] = 0
		at(d, "www", s.store)
		at(d, "api", middle)
		at(d, "mail", inner)
	}
	served := func(when string, links ...string) {
		t.Helper()
		for _, link := range links {
			if _, err := os.ReadFile(link); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	www, api, mail := s.path("contoso-web.www"), middle+"/contoso-web.api", inner+"/contoso-web.mail"
	s.configure(three)
	s.mount()
	served("at the start", www, api, mail)

	// The one in the middle loses its certificates, not its place.
	s.configure(func(d document) { three(d); d.keep("www", "mail") })
	s.must("refresh", "--settings")
	served("without the one in the middle", www, mail)
	if _, err := os.Stat(api); !errors.Is(err, os.ErrNotExist) || s.report().State != "ready" {
		t.Errorf("%v; %s", err, s.must("status"))
	}
	s.configure(three)
	s.must("refresh", "--settings")
	served("with it again", www, api, mail)
	s.configure(func(d document) { three(d); d.keep("mail") })
	s.must("refresh", "--settings")
	s.configure(three)
	s.must("refresh", "--settings")
	served("with all again", www, api, mail)
	s.end(syscall.SIGTERM)

	// One that would come around another waits for a restart.
	s.configure(func(d document) { three(d); d.keep("mail") })
	s.mount()
	s.configure(three)
	_, errs, code := s.run("refresh", "--settings")
	if code != 3 || !strings.Contains(errs, "the store "+middle+" lies around "+inner+", which is served") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	served("after the refusal", mail)
	s.end(syscall.SIGTERM)
	s.mount() // whose directories kvfs has made itself
	served("after a restart", www, api, mail)

	// A dead kvfs of more stores is no hindrance for one of fewer.
	s.end(syscall.SIGKILL)
	s.configure(func(d document) { three(d); d.keep("mail") })
	s.mount()
	served("after a death", mail)
	s.end(syscall.SIGTERM)
}

// Names that clash only with the place of a store refuse the document; nothing
// stops for it.
func TestLinkInThePlaceOfAStoreRefusesTheDocument(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.configure(func(d document) { d.keep("www") })
	s.mount()
	s.configure(func(d document) {
		d.entry("www")["customSymbolicLinkName"] = "app"
		d.entry("api")["certificateStoreLocation"] = s.path("app")
	})
	_, errs, code := s.run("refresh", "--settings")
	if code != 3 || !strings.Contains(errs, "/app is wanted by the store") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	s.rotate("www")
	s.configure(func(d document) { d.entry("www")["customSymbolicLinkName"] = "app"; d.keep("www") })
	s.must("refresh", "--settings")
	s.configure(func(d document) {
		d.own()["removalGraceInS"] = 0
		d.entry("api")["certificateStoreLocation"] = s.path("app")
	})
	_, errs, code = s.run("refresh", "--settings")
	if code != 3 || !strings.Contains(errs, `"app" is to become a directory, or was one`) {
		t.Errorf("exit code %d: %s", code, errs)
	}
	s.rotate("www")
	readFile(t, s.path("app"))
}

// A new certificate whose vault does not answer holds nobody up for long.
func TestSlowNewCertificateHoldsUpNobody(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.configure(func(d document) { d.entry("www")["acls"] = []any{map[string]any{"user": admitted}}; d.keep("www") })
	s.mount()
	s.vault.SetFault(emulator.Fault{Name: "api", Kind: emulator.Hang})
	s.configure(nil)
	answered := make(chan int, 1)
	go func() {
		cmd := exec.Command(kvfsPath, "refresh", "--settings", "--socket", s.socket)
		_ = cmd.Run() // the code says it
		answered <- cmd.ProcessState.ExitCode()
	}()
	began := time.Now()
	s.until("the reader who was taken away is out", func() bool {
		_, _, code := s.run("access", s.path("contoso-web.www"), "--user", fmt.Sprint(admitted))
		return code == 4
	})
	if took := time.Since(began); took > 12*time.Second { // the vault would be given 15
		t.Errorf("it took %v", took)
	}
	s.vault.ClearFaults()
	<-answered
}
