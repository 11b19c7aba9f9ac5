package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"kvfs/acl"
	"kvfs/vault"
)

// entry is an entry of observedCertificates with what messages about it need.
type entry struct {
	Certificate
	at      int    // of the entry
	urlAt   int    // of its URL
	urlPath string // of its URL, for messages
	link    *linkPlace
	base    string // of all of its names: that of the certificate, as spelled
	key     string // of its Ref
}

// linkPlace is where a customSymbolicLinkName stands. Few entries have one.
type linkPlace struct {
	at   int
	path string
}

const entryHint = `write a URL, or {"url": "https://VAULT.vault.azure.net/secrets/NAME"}`

// entry reads one entry; nil if its URL is of no use.
func (s *settings) entry(n *node, path string) *entry {
	if n.kind != kindString && n.kind != kindObject {
		s.isObject(n, path, entryHint)
		return nil
	}
	e := &entry{at: n.at(), urlAt: n.at(), urlPath: path}
	e.Store, e.Identity, e.Guards, e.OnChange = s.store, s.config.Identity, s.guards, s.actions
	if n.kind == kindString {
		e.Ref, e.Views = s.ref(n, path), s.stores.views(e.Store, s.views)
	} else {
		s.entryFields(e, n, path)
	}
	if e.Ref.IsZero() {
		return nil
	}
	e.Persistent = s.stores.persistent(e.Store, s.files)
	e.Line, e.Column = s.report.position(e.at)
	e.base, e.key = e.Ref.Vault()+"."+e.Ref.Name(), e.Ref.Key()
	return e
}

func (s *settings) entryFields(e *entry, n *node, path string) {
	o := s.object(n, path, fieldsOf[entryFields](s.report))
	o.misnamed(strayInEntry)
	defer o.done()
	o.ignore()
	if n := o.required("url", `add "url": "https://VAULT.vault.azure.net/secrets/NAME"`); n != nil {
		e.urlAt, e.urlPath = n.at(), o.join("url")
		e.Ref = s.ref(n, e.urlPath)
	}
	if n := o.get("certificateStoreLocation"); n != nil {
		if store, ok := s.storeLocation(n, o.join("certificateStoreLocation")); ok && store != "" {
			e.Store = store
		}
	}
	if n := o.get("customSymbolicLinkName"); n != nil {
		e.link = &linkPlace{n.at(), o.join("customSymbolicLinkName")}
		e.LinkName = s.linkName(n, e.link.path)
	}
	if n := o.get("acls"); n != nil {
		e.Grants = s.grants(n, o.join("acls"))
	}
	e.Views = s.stores.views(e.Store, s.views)
	s.entryOwn(e, o)
}

// entryOwn reads the block kvfs of an entry, in which nothing unknown is let pass either.
func (s *settings) entryOwn(e *entry, o *object) {
	var block *object
	if n := o.get(keyOwn); n != nil && s.isObject(n, o.join(keyOwn), `write {"layouts": ["v3", "live"]}`) {
		block = s.object(n, o.join(keyOwn), fieldsOf[entryOwnFields](s.report))
		block.misnamed(strayInOwn(`write "authenticationOverride", beside "url"`))
		defer block.doneOwn()
		block.views(&e.Views)
		block.guards(&e.Guards)
		block.onChange(&e.OnChange)
	}
	s.entryIdentity(e, o, block)
}

// ref takes the URL of a secret; the zero Ref if it is none.
func (s *settings) ref(n *node, path string) vault.Ref {
	raw, ok := s.text(n, path)
	if !ok {
		return vault.Ref{}
	}
	ref, notes, err := vault.ParseRef(raw, s.suffixes...)
	if refused := (*vault.RefError)(nil); errors.As(err, &refused) {
		fact, hint := notEvaluated(n)
		if fact == "" {
			fact, hint = refused.Fact, refused.Hint
			if c := lookalike(raw); c != "" {
				hint = "type the URL anew: " + c + " in it is no letter of a vault's name"
			}
		}
		s.fault(n.at(), prefix(path, fact), hint)
		return vault.Ref{}
	}
	for _, note := range notes {
		if s.report.full() { // every entry may have one
			s.report.dropAt(finding{at: n.at(), severity: Warning})
			continue
		}
		s.report.warning(n.at(), prefix(path, note.Fact), note.Hint)
	}
	return ref
}

// lookalike names the first character of a URL that is none of ASCII: it may look as if it were.
func lookalike(raw string) string {
	for _, r := range strings.TrimSpace(raw) {
		if r >= utf8.RuneSelf {
			return fmt.Sprintf("%s (U+%04X)", quote(string(r)), r)
		}
	}
	return ""
}

const maxName = 255 // bytes of one path component (NAME_MAX)

// linkName takes the name of an additional link.
func (s *settings) linkName(n *node, path string) string {
	name, ok := s.text(n, path)
	if !ok {
		return ""
	}
	const hint = "write a name only; the directory is certificateStoreLocation"
	switch {
	case name == "":
		s.fault(n.at(), path+" is empty", "write a name, or leave it out")
	case strings.Contains(name, "/"):
		s.fault(n.at(), prefix(path, quote(name)+" is more than one path component"), hint)
	case name == "." || name == "..":
		s.fault(n.at(), prefix(path, quote(name)+" is a directory"), hint)
	case strings.ContainsFunc(name, unicode.IsControl):
		s.fault(n.at(), prefix(path, quote(name)+" has a control character"), "write a name without it")
	case len(name) > maxName:
		s.fault(n.at(), fmt.Sprintf("%s: a name of %d bytes", path, len(name)), "write at most 255")
	default:
		return name
	}
	return ""
}

// maxGrants is how many elements acls may have. The kernel takes far fewer users and groups.
const maxGrants = 10000

// grants takes the list acls. Each user and each group is a grant of its own; the same one twice is one.
func (s *settings) grants(n *node, path string) []acl.Grant {
	if n.kind == kindObject && !isWrappedList(n) {
		n = &node{kind: kindList, src: n.src, start: n.start, in: &children{items: []*node{n}}}
	}
	items, ok := s.list(n, path, `write [{"user": "nginx"}]`)
	if !ok {
		return nil
	}
	if len(items) > maxGrants {
		s.fault(n.at(), fmt.Sprintf("%s: a list of %d grants", path, len(items)), "make a group of them")
		return nil
	}
	grants := uniqueUpTo(len(items))
	for i, item := range items {
		if s.report.enough() {
			break
		}
		if item.kind == kindNull {
			continue
		}
		if g, ok := s.grant(item, at(path, i)); ok {
			grants.add([]acl.Grant{g})
		}
	}
	if len(grants.list) > 0 && !s.acls {
		s.report.warning(n.at(), path+" have no effect, aclEnabled is false", `remove "aclEnabled", or the acls`)
		return nil
	}
	return grants.all()
}

func (s *settings) grant(n *node, path string) (g acl.Grant, ok bool) {
	const hint = `write {"user": "nginx"}, {"group": "ssl-cert"} or both`
	if !s.isObject(n, path, hint) {
		return g, false
	}
	o := s.object(n, path, fieldsOf[grantFields](s.report))
	defer o.done()
	g.User = s.principal(o, "user")
	g.Group = s.principal(o, "group")
	if o.isBlank("user") && o.isBlank("group") {
		s.fault(n.at(), prefix(path, "neither user nor group"), hint)
	}
	return g, g != acl.Grant{}
}

// isBlank reports whether a field is absent or an empty string.
func (o *object) isBlank(name string) bool {
	n := o.get(name)
	return n == nil || n.kind == kindString && n.text == ""
}

// principal takes the name or the id of a user or a group; "" if there is none.
func (s *settings) principal(o *object, name string) string {
	n := o.get(name)
	if n == nil || n.kind != kindNumber && n.kind != kindString || isARM(n) {
		if n != nil {
			s.mismatch(n, o.join(name), "a name or an id", `write a name, such as "nginx", or an id, such as 33`)
		}
		return ""
	}
	numeric := n.kind == kindNumber || n.text != "" && strings.Trim(n.text, "0123456789") == ""
	if id, err := strconv.ParseUint(n.text, 10, 32); numeric && (err != nil || id == 1<<32-1) {
		s.mismatch(n, o.join(name), "an id", "ids go from 0 to 4294967294")
		return ""
	}
	return n.text
}
