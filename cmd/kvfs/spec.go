package main

import (
	"fmt"
	"slices"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/config"
	"kvfs/tree"
)

// admitted is who may read an entry, and which of its users do not exist.
type admitted struct {
	list    acl.List
	unknown []acl.Unknown
}

func (a admitted) same(o admitted) bool {
	said := func(a, b acl.Unknown) bool { return a.Error() == b.Error() }
	return a.list.Equal(o.list) && slices.EqualFunc(a.unknown, o.unknown, said)
}

// specifier says how everything is shown, again and again: users and groups come and go,
// the rest does not. While they are the same, so is what it returns, to the last pointer,
// and with ten thousand entries it takes the time of those that differ in who may read
// them. Its methods are for one goroutine at a time.
type specifier struct {
	w       wanted
	lookup  acl.Lookup
	grants  [][]acl.Grant // that are different; most entries have the same
	of      []int         // which of them each entry has
	asked   []admitted    // what came of each of them, the last time
	spec    tree.Spec
	unknown [][]acl.Unknown // of each entry
}

// specifier with the stores that there are, whether or not anything is in them.
func (w wanted) specifier(lookup acl.Lookup, stores []string) *specifier {
	s := &specifier{w: w, lookup: lookup}
	s.spec.Stores = stores
	known := map[string]int{}
	for _, c := range w.certificates() {
		key := fmt.Sprintf("%q", c.Grants)
		i, ok := known[key]
		if !ok {
			i = len(s.grants)
			known[key], s.grants = i, append(s.grants, c.Grants)
		}
		s.of = append(s.of, i)
	}
	return s
}

// ask tells how everything is shown now, and for each entry which of its users do not
// exist; news, whether that differs from the last time.
func (s *specifier) ask() (spec tree.Spec, unknown [][]acl.Unknown, news bool) {
	var now []admitted
	for _, g := range s.grants {
		list, unknown := s.lookup.Resolve(g)
		now = append(now, admitted{list, unknown})
	}
	if s.unknown != nil && slices.EqualFunc(now, s.asked, admitted.same) {
		return s.spec, s.unknown, false
	}
	s.asked, s.spec.Entries, s.unknown = now, nil, [][]acl.Unknown{}
	views := s.w.views()
	for i, c := range s.w.certificates() {
		e := entry(c, views)
		e.Grants = now[s.of[i]].list
		s.spec.Entries, s.unknown = append(s.spec.Entries, e), append(s.unknown, now[s.of[i]].unknown)
	}
	s.retire(s.spec.Entries)
	return s.spec, s.unknown, true
}

// retire marks the entries that the settings have no more. Nobody keeps a right by one
// of them that the settings have taken away: where they have the same secret still, under
// whatever name, version or identity, they say who may read.
func (s *specifier) retire(entries []tree.Entry) {
	current := len(s.w.cfg.Certificates)
	if current == len(entries) {
		return
	}
	granted := map[string]acl.List{}
	for _, e := range entries[:current] {
		secret := secretOf(e.URL)
		granted[secret] = granted[secret].Union(e.Grants)
	}
	for i := current; i < len(entries); i++ {
		entries[i].Retired = true
		if still, ok := granted[secretOf(entries[i].URL)]; ok {
			entries[i].Grants = entries[i].Grants.Intersect(still)
		}
	}
}

// spec is how everything is shown at this moment.
func (w wanted) spec(lookup acl.Lookup) tree.Spec {
	spec, _, _ := w.specifier(lookup, nil).ask()
	return spec
}

// entry is how a certificate is shown, but for who may read it.
func entry(c config.Certificate, views views) tree.Entry {
	e := tree.Entry{Certificate: source(c).Key(), URL: c.Ref.String(), Store: c.Store, Vault: c.Ref.Vault(), Name: c.Ref.Name(),
		Linked: c.Linked, Views: views.of(c)[0]}
	if c.LinkName != "" {
		e.Links = []string{c.LinkName}
	}
	return e
}

// views are those of certificates. Thousands have the same, which are one in memory.
type views struct {
	passwords passwords
	known     map[string][]tree.Views
}

func (w wanted) views() views { return views{w.passwords, map[string][]tree.Views{}} }

// of a certificate: one, in a slice that nobody writes to.
func (v views) of(c config.Certificate) []tree.Views {
	key := fmt.Sprintf("%q", c.Views)
	one := v.known[key]
	if one == nil {
		one = make([]tree.Views, 1)
		one[0] = tree.Views{Key: certs.KeyFormat(c.Views.KeyFormat), Password: v.passwords[c.Views.PasswordFile]}
		for _, l := range c.Views.Layouts {
			one[0].Layouts = append(one[0].Layouts, tree.Layout(l))
		}
		v.known[key] = one
	}
	return one
}
