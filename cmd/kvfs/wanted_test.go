package main

import (
	"os/user"
	"slices"
	"strings"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/config"
	"kvfs/tree"
)

// settings makes a Config of a document with these entries.
func settings(t *testing.T, entries string) *config.Config {
	t.Helper()
	cfg, problems := config.Parse("settings.json", []byte(`{"secretsManagementSettings": {"observedCertificates": [`+entries+`]}, "kvfs": {"removalGraceInS": 600}}`))
	if cfg == nil {
		t.Fatal(problems)
	}
	return cfg
}

const (
	www     = `"https://contoso-web.vault.azure.net/secrets/www"`
	api     = `"https://contoso-web.vault.azure.net/secrets/api"`
	apiSite = `{"url": ` + api + `, "customSymbolicLinkName": "site"}`
	apiMine = `{"url": ` + api + `, "acls": [{"user": 4242}]}`
)

func TestNamesOfRemovedEntriesHaveAGrace(t *testing.T) {
	now := time.Now()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	links := func(w wanted) (all []string) {
		for _, r := range w.removed {
			all = append(all, r.Ref.Name()+" "+r.LinkName+" "+r.until.Sub(now).String())
		}
		slices.Sort(all)
		return all
	}
	expect := func(w wanted, want ...string) {
		t.Helper()
		if got := links(w); !slices.Equal(got, want) {
			t.Errorf("removed are %q, want %q", got, want)
		}
	}
	both := settings(t, www+","+apiSite)
	alone := settings(t, www)

	w := wanted{cfg: both}.next(alone, at(0))
	expect(w, "api site 10m0s")
	expect(w.next(alone, at(5)), "api site 10m0s") // reading it again changes nothing
	expect(w.next(alone, at(10)))                  // the grace is over
	expect(w.next(both, at(5)))                    // it came back
	expect(w.next(both, at(5)).next(alone, at(6)), "api site 16m0s")
	expect(w.next(settings(t, www+","+api), at(5)), "api site 10m0s") // without its link

	hurried := settings(t, www)
	hurried.RemovalGrace = 0
	expect(w.next(hurried, at(1)))
	expect(wanted{cfg: both}.next(hurried, at(0)))
	expect(wanted{cfg: both}.next(settings(t, www+","+api), at(0)), "api site 10m0s")

	// Another access list or identity is the same entry, and holds at once.
	mine := wanted{cfg: settings(t, apiMine)}.next(settings(t, api), at(0))
	expect(mine)
	spec := w.spec(acl.Lookup{})
	if len(spec.Entries) != 2 || spec.Entries[0].Retired || !spec.Entries[1].Retired {
		t.Errorf("%+v", spec.Entries)
	}
}

// What is asked for again and again is the same memory until somebody comes or goes.
func TestSpecIsMadeAnewForOthersAlone(t *testing.T) {
	there := map[string]uint32{"app": 7}
	lookup := acl.Lookup{User: func(name string) (uint32, error) {
		if id, ok := there[name]; ok {
			return id, nil
		}
		return 0, user.UnknownUserError(name)
	}}
	w := wanted{cfg: settings(t, `{"url": "https://contoso-web.vault.azure.net/secrets/www", "acls": [{"user": "app"}, {"user": "late"}]}`)}
	s := w.specifier(lookup, []string{"/store"})
	ask := func(news bool, users ...uint32) *tree.Entry {
		t.Helper()
		spec, unknown, is := s.ask()
		if is != news || !slices.Equal(spec.Entries[0].Grants.Users(), users) || len(unknown[0]) != 2-len(users) || !slices.Equal(spec.Stores, []string{"/store"}) {
			t.Errorf("news: %v; %v admitted, %v unknown, stores %v", is, spec.Entries[0].Grants.Users(), unknown, spec.Stores)
		}
		return &spec.Entries[0]
	}
	first := ask(true, 7)
	if ask(false, 7) != first {
		t.Error("it was made anew")
	}
	there["late"] = 9
	if later := ask(true, 7, 9); later == first || !slices.Equal(first.Grants.Users(), []uint32{7}) {
		t.Error("what was handed out has changed")
	}
	there["app"] = 8
	ask(true, 8, 9)
	delete(there, "late")
	ask(true, 8)
	ask(false, 8)
}

// Who loses a right loses it at once, whatever else becomes of the entry.
func TestRetiredEntriesKeepNoRightThatWasTakenAway(t *testing.T) {
	const version = "/0123456789abcdef0123456789abcdef"
	apiURL := strings.Trim(api, `"`)
	entry := func(more string) string { return `{"url": "` + apiURL + `"` + more + `}` }
	admits := `, "acls": [{"user": 4242}, {"user": 4343}]`
	for name, test := range map[string]struct {
		after string
		users []uint32 // of the retired entry
	}{
		"gone wholly":                  {www, []uint32{4242, 4343}},
		"moved to another store":       {entry(`, "certificateStoreLocation": "/etc/other"` + admits), []uint32{4242, 4343}},
		"moved, and both taken away":   {entry(`, "certificateStoreLocation": "/etc/other"`), nil},
		"moved, and one taken away":    {entry(`, "certificateStoreLocation": "/etc/other", "acls": [{"user": 4343}]`), []uint32{4343}},
		"pinned, and both taken away":  {`"` + apiURL + version + `"`, nil},
		"renamed, and both taken away": {entry(`, "customSymbolicLinkName": "site"`), nil},
		"in another case":              {`"` + strings.Replace(apiURL, "contoso-web", "CONTOSO-WEB", 1) + `"`, nil},
	} {
		w := wanted{cfg: settings(t, entry(admits))}.next(settings(t, test.after), time.Now())
		spec := w.spec(acl.Lookup{})
		last := spec.Entries[len(spec.Entries)-1]
		if !last.Retired || !slices.Equal(last.Grants.Users(), test.users) {
			t.Errorf("%s: the retired entry admits %v, want %v", name, last.Grants.Users(), test.users)
		}
	}
}
