package config

import (
	"fmt"
	"slices"
	"strings"

	"kvfs/acl"
)

// compare merges the entries that mean the same and reports those that would claim the same names.
func (s *settings) compare(entries []*entry) []Certificate {
	entries = s.merge(entries)
	s.clouds(entries)
	s.assignLinks(entries)
	dirs := directories(entries)
	s.names(entries, dirs)
	s.nested(entries, dirs)
	if len(entries) == 0 {
		return nil
	}
	certificates := make([]Certificate, 0, len(entries))
	for _, e := range entries {
		s.limitGrants(e)
		certificates = append(certificates, e.Certificate)
	}
	return certificates
}

// files names the files of an entry: those of one certificate and version, as spelled, in one store.
type files struct{ store, base, key string }

func (e *entry) files() files { return files{e.Store, e.base, e.key} }

// defaultLinks names the links that a certificate has in a store without being told.
func (e *entry) defaultLinks() storeName { return storeName{e.Store, e.base} }

// merge unites entries that show the same files. Those of another link stay, with the same grants, views, guards, actions and identity.
func (s *settings) merge(entries []*entry) []*entry {
	first := make(map[files]*entry, len(entries))
	groups := make(map[*entry][]*entry) // by the first of several
	for _, e := range entries {
		switch o := first[e.files()]; {
		case o == nil:
			first[e.files()] = e
		case groups[o] == nil:
			groups[o] = []*entry{o, e}
		default:
			groups[o] = push(groups[o], e)
		}
	}
	var kept []*entry
	for _, e := range entries {
		isFirst := e == first[e.files()]
		switch {
		case groups[e] != nil:
			s.mergeGroup(groups[e])
		case isFirst:
			s.needCombined(e)
		}
		if isFirst || e.LinkName != "" {
			kept = push(kept, e)
		}
	}
	return kept
}

// mergeGroup makes the entries of one group agree. Afterwards the first has a link if any has, and of the others those that add
// a link have one.
func (s *settings) mergeGroup(group []*entry) {
	first := group[0]
	most := 0
	for _, e := range group {
		most += len(e.Grants)
	}
	grants, layouts := uniqueUpTo(most), first.Views.Layouts
	grants.add(first.Grants)
	for _, e := range group[1:] {
		s.warnMerged(first, e)
		grants.add(e.Grants)
		layouts = unite(layouts, e.Views.Layouts)
	}
	first.Views.Layouts = layouts
	for _, e := range group {
		e.Grants, e.Identity, e.Views, e.Guards, e.OnChange = grants.all(), first.Identity, first.Views, first.Guards, first.OnChange
		s.needCombined(e)
	}
	shareLinks(group)
}

// shareLinks leaves each link to one entry of a group.
func shareLinks(group []*entry) {
	first := group[0]
	links := map[string]bool{"": true, first.LinkName: true}
	for _, e := range group[1:] {
		switch {
		case links[e.LinkName]:
			e.LinkName = ""
		case first.LinkName == "":
			links[e.LinkName] = true
			first.LinkName, first.link = e.LinkName, e.link
			e.LinkName = ""
		default:
			links[e.LinkName] = true
		}
	}
}

// needCombined takes a link away that would lead nowhere.
func (s *settings) needCombined(e *entry) {
	if e.LinkName == "" || slices.Contains(e.Views.Layouts, "v3") {
		return
	}
	s.report.warning(e.link.at, e.link.path+" has no effect: only the layout v3 has combined files", `add "v3" to the layouts of this certificate`)
	e.LinkName = ""
}

func (s *settings) warnMerged(first, e *entry) {
	united, hint := "acls", "make one entry of them"
	if !slices.Equal(first.Views.Layouts, e.Views.Layouts) {
		united = "acls and layouts"
	}
	switch others := otherwise(first, e); len(others) {
	case 0:
	case 1:
		hint += "; the " + others[0] + " of " + s.place(first) + " counts"
	default:
		hint += "; the " + enumerate(others) + " of " + s.place(first) + " count"
	}
	s.report.warning(e.urlAt, fmt.Sprintf("%s: the certificate is in %s already, for the same store: the %s are united", e.urlPath, s.place(first), united), hint)
}

// otherwise names what two entries of the same files say differently and what cannot be united.
func otherwise(a, b *entry) (names []string) {
	for _, field := range []struct {
		name    string
		differs bool
	}{
		{"identity", a.Identity != b.Identity},
		{"keyFormat", a.Views.KeyFormat != b.Views.KeyFormat},
		{"passwordFile", a.Views.PasswordFile != b.Views.PasswordFile},
		{"onNotYetValid", a.Guards.HoldNotYetValid != b.Guards.HoldNotYetValid},
		{"onDisabled", a.Guards.HideDisabled != b.Guards.HideDisabled},
		{"onExpired", a.Guards.HideExpired != b.Guards.HideExpired},
		{"onChangedNames", a.Guards.HoldChangedNames != b.Guards.HoldChangedNames},
		{"onChangedIssuer", a.Guards.HoldChangedIssuer != b.Guards.HoldChangedIssuer},
		{"verifyChain", a.Guards.VerifyChain != b.Guards.VerifyChain},
		{"fetchIssuers", a.Guards.FetchIssuers != b.Guards.FetchIssuers},
		{"onChange", !slices.EqualFunc(a.OnChange, b.OnChange, Action.equal)},
	} {
		if field.differs {
			names = append(names, field.name)
		}
	}
	return names
}

// uniqueGrants is a list of grants without repetition. A document may hold tens of thousands.
type uniqueGrants struct {
	list []acl.Grant
	seen map[acl.Grant]bool
}

// uniqueUpTo returns an empty list that will hold at most n.
func uniqueUpTo(n int) *uniqueGrants {
	return &uniqueGrants{list: make([]acl.Grant, 0, n), seen: make(map[acl.Grant]bool, n)}
}

func (u *uniqueGrants) add(grants []acl.Grant) {
	for _, g := range grants {
		if !u.seen[g] {
			u.seen[g] = true
			u.list = append(u.list, g)
		}
	}
}

// all returns the list, nil when there is none.
func (u *uniqueGrants) all() []acl.Grant {
	if len(u.list) == 0 {
		return nil
	}
	return slices.Clip(u.list)
}

// place says where an entry is, for a message about another one.
func (s *settings) place(e *entry) string {
	if e.Line == 0 {
		return e.urlPath
	}
	return fmt.Sprintf("line %d", e.Line)
}

// clouds reports certificates of equal names from different vaults: vault names are unique per cloud only.
func (s *settings) clouds(entries []*entry) {
	first := make(map[storeName]*entry, len(entries))
	for _, e := range entries {
		o := first[e.defaultLinks()]
		if o == nil {
			first[e.defaultLinks()] = e
			continue
		}
		if !s.report.enough() && !strings.EqualFold(o.Ref.Host(), e.Ref.Host()) {
			s.fault(e.urlAt, fmt.Sprintf("%s: %s in %s is already the name of the certificate from %s in %s",
				e.urlPath, e.base, e.Store, o.Ref.Host(), s.place(o)), "give one of them another certificateStoreLocation")
		}
	}
}

// assignLinks gives the default links to one of the entries that have the same: to what follows renewals, otherwise to the first.
// Two pinned versions that have no other link would both need them.
func (s *settings) assignLinks(entries []*entry) {
	owners := make(map[storeName]*entry, len(entries))
	better := func(e, o *entry) bool {
		if o == nil || e.Ref.Pinned() != o.Ref.Pinned() {
			return o == nil || o.Ref.Pinned()
		}
		return e.needsDefaultLinks() && !o.needsDefaultLinks()
	}
	for _, e := range entries {
		if better(e, owners[e.defaultLinks()]) {
			owners[e.defaultLinks()] = e
		}
	}
	for _, e := range entries {
		owner := owners[e.defaultLinks()]
		e.Linked = e.files() == owner.files()
		if !s.report.enough() && !e.Linked && e.needsDefaultLinks() && owner.Ref.Pinned() {
			another := "a customSymbolicLinkName or another certificateStoreLocation"
			if !slices.Contains(e.Views.Layouts, "v3") {
				another = "another certificateStoreLocation"
			}
			s.fault(e.urlAt, fmt.Sprintf("%s: the link %s in %s already leads to the version of %s", e.urlPath, e.base, e.Store, s.place(owner)),
				"give one of them "+another)
		}
	}
}

// limitGrants refuses more users and groups than one access list of the kernel holds.
func (s *settings) limitGrants(e *entry) {
	if 2*len(e.Grants) <= acl.MaxEntries {
		return
	}
	users, groups := make(map[string]bool), make(map[string]bool)
	for _, g := range e.Grants {
		if g.User != "" {
			users[g.User] = true
		}
		if g.Group != "" {
			groups[g.Group] = true
		}
	}
	if n := len(users) + len(groups); n > acl.MaxEntries {
		s.fault(e.at, fmt.Sprintf("%s: %d users and groups in the acls, more than the %d of one access list", e.urlPath, n, acl.MaxEntries),
			"make a group of them")
	}
}
