package vault_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/vault"
)

func (w *world) list(t *testing.T, most int) (all []vault.Listed, pages int, complete bool, err error) {
	t.Helper()
	pages, complete, err = w.client.List(t.Context(), w.id, mustParse(t, www), most, func(l vault.Listed) { all = append(all, l) })
	return all, pages, complete, err
}

func TestListShowsWhatReadingShows(t *testing.T) {
	for _, dense := range []bool{false, true} {
		w := newWorld(t, emulator.Options{PageSize: 2, DensePages: dense}, vault.Options{})
		var names []string
		for i := range 5 {
			names = append(names, fmt.Sprint("c", i))
			w.add(t, names[i], "the first")
			w.add(t, names[i], "the second")
		}
		all, pages, complete, err := w.list(t, 100)
		if err != nil || !complete || len(all) != len(names) {
			t.Fatalf("dense %v: %v, complete %v, %v", dense, all, complete, err)
		}
		if n := int(w.Counters().List); pages != n || dense && pages != 3 {
			t.Errorf("dense %v: %d pages, the vault gave %d", dense, pages, n)
		}
		for _, l := range all {
			if !slices.Contains(names, l.Name) {
				t.Errorf("there is no %q", l.Name)
				continue
			}
			s, err := w.client.Get(t.Context(), w.id, mustParse(t, "https://contoso-web.vault.azure.net/secrets/"+l.Name))
			if err != nil {
				t.Fatal(err)
			}
			if l.ContentType != s.ContentType || l.Enabled != s.Enabled || !l.Created.Equal(s.Created) || !l.Updated.Equal(s.Updated) ||
				!l.NotBefore.Equal(s.NotBefore) || !l.Expires.Equal(s.Expires) {
				t.Errorf("the listing says %+v, the secret %+v", l, s)
			}
			if l.Updated.IsZero() || s.Answered.Before(l.Updated.Truncate(time.Second)) {
				t.Errorf("updated %v, answered %v", l.Updated, s.Answered)
			}
		}
	}
}

func TestListStopsAfterSoManyPages(t *testing.T) {
	w := newWorld(t, emulator.Options{PageSize: 1, DensePages: true}, vault.Options{})
	for i := range 4 {
		w.add(t, fmt.Sprint("c", i), "x")
	}
	for _, tt := range []struct {
		most, pages int
		complete    bool
	}{{0, 0, false}, {1, 1, false}, {3, 3, false}, {4, 4, true}, {9, 4, true}} {
		all, pages, complete, err := w.list(t, tt.most)
		if err != nil || pages != tt.pages || complete != tt.complete || len(all) != tt.pages {
			t.Errorf("at most %d: %d secrets of %d pages, complete %v, %v", tt.most, len(all), pages, complete, err)
		}
	}
}

func TestListNeedsAnotherPermissionThanReading(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetFault(emulator.Fault{Kind: emulator.ListRefused})
	_, _, _, err := w.list(t, 9)
	if e := failure(t, err); e.Kind != vault.KindForbidden || e.Fact != "403 AccessDenied: no access policy lets the identity list the secrets of contoso-web" {
		t.Errorf("%s: %v", e.Kind, e)
	}
	if _, err := w.get(t, www); err != nil {
		t.Errorf("reading: %v", err)
	}
}

func TestListStaysAtTheVault(t *testing.T) {
	for _, tt := range []struct{ name, page, fact string }{
		{"another host", `{"value":[],"nextLink":"https://evil.example/secrets"}`, `the secrets of contoso-web go on at another host, "evil.example"`},
		{"no item", `{"value":[null]}`, `the secrets of contoso-web include one without id`},
		{"no id", `{"value":[{}]}`, `the secrets of contoso-web include one of another vault, ""`},
		{"another vault", `{"value":[{"id":"https://other.example.com/secrets/www"}]}`, `the secrets of contoso-web include one of another vault, "https://other.example.com/secrets/www"`},
		{"a key", `{"value":[{"id":"https://contoso-web.example.com/keys/www"}]}`, `the secrets of contoso-web include one of another vault, "https://contoso-web.example.com/keys/www"`},
	} {
		b := newBroken(t, time.Minute, withToken(says(http.StatusOK, tt.page)))
		_, complete, err := b.client.List(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"), 9, func(l vault.Listed) { t.Errorf("%s: %+v", tt.name, l) })
		if e := failure(t, err); e.Kind != vault.KindProtocol || e.Fact != tt.fact || complete {
			t.Errorf("%s: %s: %v, want %s", tt.name, e.Kind, e, tt.fact)
		}
	}
	endless := newBroken(t, time.Minute, withToken(says(http.StatusOK, `{"value":[],"nextLink":"https://contoso-web.example.com:443/secrets?again"}`)))
	pages, complete, err := endless.client.List(t.Context(), endless.id, mustParse(t, brokenWWW, "example.com"), 7, func(vault.Listed) {})
	if pages != 7 || complete || err != nil {
		t.Errorf("a listing without end: %d pages, complete %v, %v", pages, complete, err)
	}
}
