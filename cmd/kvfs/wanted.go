package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"kvfs/config"
	kvsync "kvfs/sync"
	"kvfs/vault"
)

// wanted is what a daemon is to serve: what the settings say, and for a while
// what they have said.
type wanted struct {
	cfg     *config.Config
	removed []removed
	vault   *vault.Client
	// doc is what cfg was made of, and former are the documents that the removed
	// entries come from.
	doc    document
	former []document
	// passwords of all entries, the removed ones too.
	passwords passwords
}

// removed is an entry that the settings have no more.
type removed struct {
	config.Certificate
	until time.Time
}

// certificates are all entries, the removed ones last.
func (w wanted) certificates() []config.Certificate {
	all := slices.Clone(w.cfg.Certificates)
	for _, r := range w.removed {
		all = append(all, r.Certificate)
	}
	return all
}

// stores that have to be visible as mounts. One that lies around another of them stays when
// its own entries are gone.
func (w wanted) stores(visible []string) []string {
	real := w.real()
	stores := slices.DeleteFunc(storesOf(w.certificates()), func(store string) bool { return slices.Contains(real, store) })
	for _, at := range visible {
		around := slices.ContainsFunc(stores, func(store string) bool { return strings.HasPrefix(store, at+"/") })
		if around && !slices.Contains(stores, at) {
			stores = append(stores, at)
		}
	}
	return stores
}

// secretOf is the URL of a secret without its version.
func secretOf(url string) string {
	parts := strings.SplitN(strings.ToLower(url), "/", 6) // https: "" host secrets NAME VERSION
	return strings.Join(parts[:min(len(parts), 5)], "/")
}

// place of an entry: with another one it is another entry.
type place struct{ store, name, url, link string }

func placeOf(c config.Certificate) place {
	return place{c.Store, c.Ref.Vault() + "." + c.Ref.Name(), c.Ref.Key(), c.LinkName}
}

// names tells entries apart whose names may differ.
func names(c config.Certificate) string { return fmt.Sprint(placeOf(c), c.Views) }

// next is what is to be served under other settings: of what they have no more,
// names stay for as long as they say.
func (w wanted) next(cfg *config.Config, now time.Time) wanted {
	stays := map[string]bool{}
	for _, c := range cfg.Certificates {
		stays[names(c)] = true
	}
	n := wanted{cfg: cfg, vault: w.vault, doc: w.doc, former: w.former, passwords: w.passwords}
	retire := func(c config.Certificate, until time.Time) {
		if until.After(now) && !stays[names(c)] {
			stays[names(c)] = true
			n.removed = append(n.removed, removed{c, until})
		}
	}
	end := now.Add(cfg.RemovalGrace)
	for _, c := range w.cfg.Certificates {
		retire(c, end)
	}
	for _, r := range w.removed {
		retire(r.Certificate, earlier(r.until, end))
	}
	if n.removed == nil {
		n.former = nil
	}
	return n
}

// with is what is to be served under another document.
func (w wanted) with(doc document, cfg *config.Config) wanted {
	n := w.next(cfg, doc.Since)
	if n.doc = doc; n.removed != nil {
		n.former = append(slices.Clone(w.former), w.doc)
	}
	n.passwords = passwords{}
	maps.Copy(n.passwords, w.passwords)
	maps.Copy(n.passwords, doc.passwords())
	return n
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// expiry is when the first removed entry is to go; the zero time if there is none.
func (w wanted) expiry() (at time.Time) {
	for _, r := range w.removed {
		if at.IsZero() || r.until.Before(at) {
			at = r.until
		}
	}
	return at
}

// removedAt is when the last entry of a source goes.
func (w wanted) removedAt(src kvsync.Source) (at time.Time) {
	for _, r := range w.removed {
		if source(r.Certificate).Key() == src.Key() && r.until.After(at) {
			at = r.until
		}
	}
	return at
}

// differences are the URLs of entries that came, that are shown to others or asked
// for by somebody else, and that went.
func differences(before, after *config.Config) (added, changed, removed []string) {
	old := map[place]config.Certificate{}
	for _, c := range before.Certificates {
		old[placeOf(c)] = c
	}
	for _, c := range after.Certificates {
		was, ok := old[placeOf(c)]
		delete(old, placeOf(c))
		was.Line, was.Column = c.Line, c.Column
		switch {
		case !ok:
			added = append(added, c.Ref.String())
		case !reflect.DeepEqual(was, c):
			changed = append(changed, c.Ref.String())
		}
	}
	for _, c := range before.Certificates {
		if _, gone := old[placeOf(c)]; gone {
			removed = append(removed, c.Ref.String())
		}
	}
	return added, changed, removed
}
