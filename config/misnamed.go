package config

import (
	"slices"
	"strings"
)

// This file finds identities that are written under another name, or in another place, than those that are read. Elsewhere a
// field that is not known is a warning; these are errors, because the vaults would be asked as somebody else.

const (
	keyOverride = "authenticationOverride"
	keyChoice   = "identity"
)

// msiNames are the fields of authenticationSettings, and what they are called in kvfs.identity.
func msiNames() (fields, own []string) {
	return []string{"msiClientId", "msiObjectId", "msiResourceId", "msiEndpoint"}, []string{"clientId", "objectId", "resourceId", "endpoint"}
}

// ownName returns what a field of authenticationSettings is called in kvfs.identity, "" if it is none.
func ownName(field string) string {
	fields, own := msiNames()
	if i := slices.Index(fields, field); i >= 0 {
		return own[i]
	}
	return ""
}

// msiName returns the field of authenticationSettings that a key means, "" if it means none. An explicit key means an identity
// wherever it stands: "resourceId" may be that of anything, "identityResourceId" may not.
func msiName(key string) (field string, explicit bool) {
	if len(key) > 50 {
		return "", false
	}
	name := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(key, "-", ""), "_", ""))
	rest := withoutOwners(name)
	explicit = rest != name
	switch rest {
	case "clientid":
		return "msiClientId", true
	case "objectid", "principalid":
		return "msiObjectId", true
	case "resourceid", "resid", "id":
		return "msiResourceId", explicit
	case "endpoint":
		return "msiEndpoint", explicit
	}
	return "", false
}

// withoutOwners cuts the words off that say whose id it is.
func withoutOwners(name string) string {
	for before := ""; before != name; {
		before = name
		for _, word := range []string{"azure", "user", "assigned", "managed", "identity", "msi", "uami", "imds", "mi"} {
			name = strings.TrimPrefix(name, word)
		}
	}
	return name
}

// identityBlock returns which object with an identity a key means: authenticationSettings, authenticationOverride or
// identity; "" if it means none.
func identityBlock(key string) string {
	if strings.EqualFold(key, keyChoice) {
		return keyChoice
	}
	if name := near(key, []string{keyIdentity, keyOverride}); name != "" {
		return name
	}
	if fold(key, []string{"authentication", "auth", "authSettings", "identitySettings", "msiSettings", "msi", "managedIdentity", "userAssignedIdentity"}) >= 0 {
		return keyIdentity
	}
	return ""
}

// meansIdentity returns what of an identity a field that is not known means: an object of it, or one field of
// authenticationSettings, or neither.
func meansIdentity(m *member) (block, field string) {
	field, explicit := msiName(m.key)
	switch {
	case field != "" && explicit:
		return "", fieldFor(field, m.value)
	case m.value.kind == kindString && identityBlock(m.key) != "":
		if id := strings.TrimSpace(m.value.text); isGUIDOrResourceID(id) {
			return "", fieldFor("msiResourceId", m.value)
		}
	}
	return identityBlock(m.key), ""
}

// fieldFor returns the field for an id: people call a client id and a resource id simply the id.
func fieldFor(field string, id *node) string {
	if field == "msiResourceId" && id.kind == kindString && isGUID(strings.TrimSpace(id.text)) {
		return "msiClientId"
	}
	return field
}

// misnamed refuses the fields that are not known and for which the function has a hint. It leaves the others, and those that say
// nothing, to done.
func (o *object) misnamed(hint func(*member) string) {
	kept := o.unknown[:0]
	for _, m := range o.unknown {
		remedy := ""
		if !o.report.enough() && !isBlank(m.value) {
			remedy = hint(m)
		}
		if remedy == "" {
			kept = append(kept, m)
			continue
		}
		o.report.error(m.keyAt, o.within(strayFact(m.key)), remedy)
	}
	o.unknown = kept
}

// strayFact tells a known name in a wrong place from a wrong name.
func strayFact(key string) string {
	if isInlineSecret(key) {
		return quote(key) + " is a secret, and settings are public"
	}
	fields, _ := msiNames()
	if fold(key, append(fields, keyIdentity, keyOverride, keyChoice)) >= 0 {
		return quote(key) + " has no effect here"
	}
	return quote(key) + " is not a known field"
}

// isBlank reports whether a value says nothing: null, an empty string, or an object of nothing else.
func isBlank(n *node) bool {
	switch n.kind {
	case kindNull:
		return true
	case kindString:
		return strings.Trim(n.text, space) == ""
	case kindObject:
		return !slices.ContainsFunc(n.members(), func(m member) bool { return !isBlank(m.value) })
	}
	return false
}

// strayInEntry is the hint for an identity in an entry of observedCertificates.
func strayInEntry(m *member) string {
	switch block, field := meansIdentity(m); {
	case field != "":
		return `put it into "authenticationOverride": {` + quote(field) + `: ...}`
	case block == keyChoice:
		return `put it into "kvfs": {"identity": ...}`
	case block == keyIdentity:
		return `use "authenticationOverride" for one certificate`
	case block == keyOverride:
		return `did you mean "authenticationOverride"?`
	}
	return ""
}

// strayBeside is the hint for an identity beside secretsManagementSettings, or in it.
func strayBeside(m *member) string {
	switch block, field := meansIdentity(m); {
	case field != "":
		return `put it into "authenticationSettings": {` + quote(field) + `: ...}, beside "secretsManagementSettings"`
	case block == keyChoice:
		return `move it into "kvfs": {"identity": ...}, beside "secretsManagementSettings"`
	case block == keyIdentity:
		return `did you mean "authenticationSettings"?`
	case block == keyOverride:
		return `use "authenticationSettings", beside "secretsManagementSettings", for all certificates`
	}
	return ""
}

// strayAround is the hint for an identity in an object around the settings, which may hold much that is none of ours.
func strayAround(m *member) string {
	fields, _ := msiNames()
	block := identityBlock(m.key)
	switch {
	case fold(m.key, fields) >= 0, block == keyOverride:
		return strayBeside(m)
	case block == keyIdentity && near(m.key, []string{keyIdentity}) != "" && !strings.EqualFold(m.key, keyIdentity):
		return strayBeside(m)
	case block == keyChoice && isOurs(m.value): // that of a machine has other types
		return strayBeside(m)
	}
	return ""
}

// isOurs reports whether an identity has one of our types.
func isOurs(n *node) bool {
	t := lookup(n, "type").value
	return t != nil && t.kind == kindString && fold(t.text, methodNames()) >= 0
}

// strayAroundAll refuses identities in the objects around the settings.
func (s *settings) strayAroundAll(wrappers []*node) {
	for _, w := range wrappers {
		o := &object{reader: s.reader, node: w}
		members := w.members()
		for i := range members {
			o.unknown = push(o.unknown, &members[i])
		}
		o.misnamed(strayAround)
	}
}

// strayInAuthentication is the hint for what does not belong into authenticationSettings or an authenticationOverride.
func strayInAuthentication(m *member) string {
	const another = `a managed identity is meant here; put another one into "kvfs": {"identity": {"type": ...}}`
	fields, _ := msiNames()
	name, _ := msiName(m.key)
	if name == "" {
		name = near(m.key, fields)
	}
	block, field := meansIdentity(m)
	switch {
	case name != "":
		return "did you mean " + quote(fieldFor(name, m.value)) + "?"
	case field != "":
		return "did you mean " + quote(field) + "?"
	case block == keyChoice:
		return `put it into "kvfs": {"identity": ...}`
	case block != "":
		return "put its fields here, without this object around them"
	case isInlineSecret(m.key), near(m.key, []string{"tenantId"}) != "":
		return another
	case strings.EqualFold(m.key, "type") && m.value.kind == kindString && meantMethod(m.value.text) != "managedIdentity":
		return another
	}
	return ""
}

// strayInOwn is the hint for an identity in the block kvfs, of which an entry has another one.
func strayInOwn(authentication string) func(*member) string {
	return func(m *member) string {
		switch block, field := meansIdentity(m); {
		case field != "":
			return `put it into "identity": {"type": "managedIdentity", ` + quote(ownName(field)) + `: ...}`
		case block == keyIdentity, block == keyOverride:
			return authentication
		}
		return ""
	}
}
