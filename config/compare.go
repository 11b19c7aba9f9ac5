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
	s.names(entries)
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

// setFiles says which files an entry shows, after its Ref and Store are known. All names of a certificate in a store begin with
// its base, the name as spelled.
func (e *entry) setFiles() {
	e.files = files{e.Store, e.Ref.Vault() + "." + e.Ref.Name(), e.Ref.Key()}
	e.base = storeName{e.files.store, e.files.base}
}

// merge unites entries that show the same files. Those of another link stay, with the same grants and identity.
func (s *settings) merge(entries []*entry) []*entry {
	first := make(map[files]*entry, len(entries))
	groups := make(map[*entry][]*entry) // by the first of several
	for _, e := range entries {
		switch o := first[e.files]; {
		case o == nil:
			first[e.files] = e
		case groups[o] == nil:
			groups[o] = []*entry{o, e}
		default:
			groups[o] = push(groups[o], e)
		}
	}
	var kept []*entry
	for _, e := range entries {
		isFirst := e == first[e.files]
		if isFirst && groups[e] != nil {
			s.mergeGroup(groups[e])
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
	links := map[string]bool{"": true, first.LinkName: true}
	most := 0
	for _, e := range group {
		most += len(e.Grants)
	}
	grants := uniqueUpTo(most)
	grants.add(first.Grants)
	for _, e := range group[1:] {
		s.warnMerged(first, e)
		grants.add(e.Grants)
		switch {
		case links[e.LinkName]:
			e.LinkName = ""
		case first.LinkName == "":
			links[e.LinkName] = true
			first.LinkName, first.linkAt, first.linkPath = e.LinkName, e.linkAt, e.linkPath
			e.LinkName = ""
		default:
			links[e.LinkName] = true
		}
	}
	for _, e := range group {
		e.Grants, e.Identity = grants.all(), first.Identity
	}
}

func (s *settings) warnMerged(first, e *entry) {
	hint := "make one entry of them"
	if first.Identity != e.Identity {
		hint += "; the identity of " + s.place(first) + " counts"
	}
	s.report.warning(e.urlAt, fmt.Sprintf("%s: the certificate is in %s already, for the same store: the acls are united", e.urlPath, s.place(first)), hint)
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

// storeName is a name in a store.
type storeName struct{ store, name string }

// clouds reports certificates of equal names from different vaults: vault names are unique per cloud only.
func (s *settings) clouds(entries []*entry) {
	first := make(map[storeName]*entry, len(entries))
	for _, e := range entries {
		o := first[e.base]
		if o == nil {
			first[e.base] = e
			continue
		}
		if !s.report.enough() && !strings.EqualFold(o.Ref.Host(), e.Ref.Host()) {
			s.fault(e.urlAt, fmt.Sprintf("%s: %s in %s is already the name of the certificate from %s in %s",
				e.urlPath, e.base.name, e.base.store, o.Ref.Host(), s.place(o)), "give one of them another certificateStoreLocation")
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
		return e.LinkName == "" && o.LinkName != ""
	}
	for _, e := range entries {
		if better(e, owners[e.base]) {
			owners[e.base] = e
		}
	}
	for _, e := range entries {
		owner := owners[e.base]
		e.Linked = e.files == owner.files
		if !s.report.enough() && !e.Linked && e.LinkName == "" && owner.Ref.Pinned() {
			s.fault(e.urlAt, fmt.Sprintf("%s: the link %s in %s already leads to the version of %s", e.urlPath, e.base.name, e.Store, s.place(owner)),
				"give one of them a customSymbolicLinkName or another certificateStoreLocation")
		}
	}
}

// names reports links that would take a name that something else has.
func (s *settings) names(entries []*entry) {
	links := make(map[storeName]*entry)               // by customSymbolicLinkName
	bases := make(map[storeName]*entry, len(entries)) // by the name of the certificate: the owner of the default links
	for _, e := range entries {
		if e.Linked {
			bases[e.base] = e
		}
	}
	for _, e := range entries {
		if e.LinkName == "" || s.report.enough() {
			continue
		}
		name := storeName{e.Store, e.LinkName}
		o, what := links[name], "the link"
		if o == nil {
			links[name] = e
			o, what = s.reserved(e, bases)
		}
		if o != nil {
			s.fault(e.linkAt, fmt.Sprintf("%s: %s in %s is already %s of %s", e.linkPath, quote(e.LinkName), e.Store, what, s.place(o)),
				"give one of them another name, or another certificateStoreLocation")
		}
	}
}

// reserved returns the entry to which the name of a link belongs by the layouts, and what it is there.
func (s *settings) reserved(e *entry, bases map[storeName]*entry) (owner *entry, what string) {
	v3, v4 := slices.Contains(s.config.Layouts, "v3"), slices.Contains(s.config.Layouts, "v4")
	if o := bases[storeName{e.Store, e.LinkName}]; o != nil && v3 && o.files != e.files {
		return o, "the default link"
	}
	vaultName, rest, _ := strings.Cut(e.LinkName, ".")
	name, rest, _ := strings.Cut(rest, ".")
	o := bases[storeName{e.Store, vaultName + "." + name}]
	if o == nil {
		return nil, ""
	}
	switch {
	case v4 && (rest == "pem" || rest == "keyid"):
		return o, "the default link"
	case v4 && rest == "luma":
		return o, "a file"
	case v3 && isVersion(rest) || v4 && isVersionFile(rest):
		return o, "the name of a version"
	}
	return nil, ""
}

func isVersion(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// isVersionFile reports whether s is <version>.pem.<timestamp> or <version>.keyid.<timestamp>.
func isVersionFile(s string) bool {
	version, rest, _ := strings.Cut(s, ".")
	kind, timestamp, found := strings.Cut(rest, ".")
	return found && isVersion(version) && (kind == "pem" || kind == "keyid") && timestamp != "" && strings.Trim(timestamp, "0123456789") == ""
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
