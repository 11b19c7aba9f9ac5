package config

import (
	"fmt"
	"slices"
	"strings"
)

// This file knows which names the layouts take in a store. B is the base of a certificate, <Vault>.<Cert> as spelled, which has
// one dot; V is a version, T a number.
//
//	v3          B, B.V and custom links
//	v4          B.pem, B.keyid, B.luma, B.V.pem.T, B.V.keyid.T
//	live        the directories live and archive
//	certs       B.certs.pem, B.V.certs.pem
//	pfx         B.pfx, B.V.pfx
//	jks         B.jks, B.V.jks
//	truststore  B.truststore.jks, B.V.truststore.jks
//	x509store   the directory my

// storeName is a name in a store.
type storeName struct{ store, name string }

// layoutOfDirectory returns the layout that has a directory of this name in the store, "" if none has.
func layoutOfDirectory(name string) string {
	switch name {
	case "live", "archive":
		return "live"
	case "my":
		return "x509store"
	}
	return ""
}

// layoutOfFile returns the layout in which a certificate has one file for each version, by how the names of both the link and
// the file end; "" if it is none.
func layoutOfFile(ending string) string {
	switch ending {
	case "certs.pem":
		return "certs"
	case "pfx", "jks":
		return ending
	case "truststore.jks":
		return "truststore"
	}
	return ""
}

// layoutOfName returns the layout that has the base and this ending for a name, and what it is there.
func layoutOfName(ending string) (layout, what string) {
	switch ending {
	case "":
		return "v3", "the default link"
	case "pem", "keyid":
		return "v4", "the default link"
	case "luma":
		return "v4", "a file"
	}
	return layoutOfFile(ending), "the default link"
}

// layoutOfVersion returns the layout in which a version has the base and this ending for the name of a file, "" if none has.
func layoutOfVersion(ending string) string {
	version, ending, more := strings.Cut(ending, ".")
	kind, timestamp, _ := strings.Cut(ending, ".")
	switch {
	case !isVersion(version):
		return ""
	case !more:
		return "v3"
	case (kind == "pem" || kind == "keyid") && timestamp != "" && strings.Trim(timestamp, "0123456789") == "":
		return "v4"
	}
	return layoutOfFile(ending)
}

func isVersion(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// cutBase cuts a name after the base of the certificate to which it would belong.
func cutBase(name string) (base, ending string) {
	vaultName, rest, _ := strings.Cut(name, ".")
	certificate, ending, more := strings.Cut(rest, ".")
	if more && ending == "" {
		return "", "" // no layout has a dot at the end
	}
	return name[:min(len(name), len(vaultName)+1+len(certificate))], ending
}

// needsDefaultLinks reports whether only the default links lead to the files of an entry. In the layout x509store there are none:
// every version has a name of its own, which people find by what is in it.
func (e *entry) needsDefaultLinks() bool {
	return e.LinkName == "" && slices.ContainsFunc(e.Views.Layouts, func(l string) bool { return l != "x509store" })
}

// claims are the names that a certificate takes in a store.
type claims struct {
	owner   *entry   // of the default links
	layouts []string // of all entries of the certificate: each may show versions
}

// claimed returns the claims by the bases of the certificates.
func claimed(entries []*entry) map[storeName]claims {
	all := make(map[storeName]claims, len(entries))
	for _, e := range entries {
		c := all[e.defaultLinks()]
		if e.Linked {
			c.owner = e
		}
		c.layouts = unite(c.layouts, e.Views.Layouts)
		all[e.defaultLinks()] = c
	}
	return all
}

// directories returns the first entries that need the directories of layouts.
func directories(entries []*entry) map[storeName]*entry {
	all := make(map[storeName]*entry)
	for _, e := range entries {
		for _, name := range []string{"live", "archive", "my"} {
			place := storeName{e.Store, name}
			if slices.Contains(e.Views.Layouts, layoutOfDirectory(name)) && all[place] == nil {
				all[place] = e
			}
		}
	}
	return all
}

// names reports links that would take a name that something else has.
func (s *settings) names(entries []*entry, dirs map[storeName]*entry) {
	if !slices.ContainsFunc(entries, func(e *entry) bool { return e.LinkName != "" }) {
		return
	}
	links := make(map[storeName]*entry) // by customSymbolicLinkName
	bases := claimed(entries)
	for _, e := range entries {
		if e.LinkName == "" || s.report.enough() {
			continue
		}
		name := storeName{e.Store, e.LinkName}
		o, what := links[name], "the link"
		if o == nil {
			links[name] = e
			o, what = reserved(e, bases, dirs)
		}
		if o != nil {
			s.fault(e.link.at, fmt.Sprintf("%s: %s in %s is already %s of %s", e.link.path, quote(e.LinkName), e.Store, what, s.place(o)),
				"give one of them another name, or another certificateStoreLocation")
		}
	}
}

// reserved returns the entry to which the name of a link belongs by the layouts, and what it is there.
func reserved(e *entry, bases map[storeName]claims, dirs map[storeName]*entry) (owner *entry, what string) {
	if o := dirs[storeName{e.Store, e.LinkName}]; o != nil {
		return o, "a directory"
	}
	base, ending := cutBase(e.LinkName)
	c := bases[storeName{e.Store, base}]
	if c.owner == nil {
		return nil, ""
	}
	if slices.Contains(c.layouts, layoutOfVersion(ending)) {
		return c.owner, "the name of a version"
	}
	layout, what := layoutOfName(ending)
	if !slices.Contains(c.owner.Views.Layouts, layout) || ending == "" && c.owner.files() == e.files() { // that is its own link
		return nil, ""
	}
	return c.owner, what
}

// nested reports stores that lie in a directory which a layout has in another store.
func (s *settings) nested(entries []*entry, dirs map[storeName]*entry) {
	if len(dirs) == 0 {
		return
	}
	seen := make(map[string]bool)
	for _, e := range entries {
		if seen[e.Store] || s.report.enough() {
			continue
		}
		seen[e.Store] = true
		if place := enclosing(e.Store, dirs); place.name != "" {
			o, dir := dirs[place], place.store+"/"+place.name
			s.fault(e.urlAt, fmt.Sprintf("%s: its store is %s, but %s is a directory of %s by the layout %s",
				e.urlPath, e.Store, dir, s.place(o), layoutOfDirectory(place.name)), "give one of them another certificateStoreLocation, or other layouts")
		}
	}
}

// enclosing returns the directory of a layout in which a store lies, a zero name if it lies in none.
func enclosing(store string, dirs map[storeName]*entry) storeName {
	outer := ""
	for name := range strings.SplitSeq(store[1:], "/") {
		place := storeName{outer, name}
		if layoutOfDirectory(name) != "" && dirs[place] != nil {
			return place
		}
		outer = store[:len(outer)+1+len(name)]
	}
	return storeName{}
}
