package test

import (
	"encoding/json"
	"strings"
	"testing"

	"kvfs/emulator"
)

// kvfs check --online says what a mount would meet, mounts nothing, and fails by
// what is worst. It needs no root.
func TestCheckOnlineSaysWhatAMountWouldMeet(t *testing.T) {
	t.Parallel()
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "off"}, emulator.Profile{Name: "gone"})
	if _, err := s.vault.AddSecret("", "text", "text/plain", "no certificate"); err != nil {
		t.Fatal(err)
	}
	add := func(d document, name string) {
		list := d.secrets()["observedCertificates"].([]any)
		d.secrets()["observedCertificates"] = append(list, "https://contoso-web.vault.azure.net/secrets/"+name)
	}
	check := func(edit func(document), args ...string) (out, errs string, code int) {
		t.Helper()
		s.configure(edit)
		return s.run(append([]string{"check", s.settings, "--online", "--store", s.store}, args...)...)
	}

	out, errs, code := check(func(d document) { d.keep("www") })
	if code != 0 || errs != "" || !strings.Contains(out, "\n  is    version ") || !strings.Contains(out, ", CN=www.example.com, until 20") {
		t.Errorf("all is well: exit code %d\n%s%s", code, out, errs)
	}
	if err := s.vault.SetEnabled("", "off", "", false); err != nil {
		t.Fatal(err)
	}
	if err := s.vault.Delete("", "gone"); err != nil {
		t.Fatal(err)
	}
	out, _, code = check(func(d document) { add(d, "text") }, "--json")
	var data struct {
		OK           bool
		Certificates []struct {
			URL    string
			Online struct {
				OK      bool
				Version string
				Error   struct{ Kind, Fact, Hint string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &data); err != nil || code != 5 || data.OK {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	want := map[string]string{"www": "", "off": "disabled", "text": "not-a-certificate", "gone": "not-found"}
	for _, c := range data.Certificates {
		name := c.URL[strings.LastIndex(c.URL, "/")+1:]
		if kind := c.Online.Error.Kind; kind != want[name] || c.Online.OK != (kind == "") || kind != "" && (c.Online.Error.Fact == "" || c.Online.Error.Hint == "") {
			t.Errorf("%s: %+v", name, c.Online)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("nothing is said of %v", want)
	}

	// Settings that are refused are not asked for.
	before := s.vault.Counters()
	_, errs, code = check(func(d document) { d.secrets()["pollingIntervalInS"] = "1h" })
	if code != 3 || !strings.Contains(errs, `"1h" is not a number`) || s.vault.Counters() != before {
		t.Errorf("refused settings: exit code %d\n%s", code, errs)
	}
}
