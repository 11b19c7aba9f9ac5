package config

import (
	"net/netip"
	"net/url"
	"strings"

	"kvfs/vault"
)

const (
	defaultEndpoint = "http://169.254.169.254/metadata/identity"
	resourcePrefix  = "/subscriptions/"
	guidHint        = " of the managed identity is a GUID, such as 00001111-aaaa-2222-bbbb-3333cccc4444"
	resourceIDHint  = "write the whole id of the managed identity, which begins with " + resourcePrefix
)

// identities decides who asks the vaults: kvfs.identity, otherwise authenticationSettings, which n is or nil.
func (s *settings) identities(n *node) {
	if n != nil {
		s.general = s.identity(n, keyIdentity)
	}
	s.config.Identity = s.general
	if s.chosen == nil {
		return
	}
	s.config.Identity = *s.chosen
	if s.general != (vault.Identity{}) {
		s.report.warning(n.at(), keyIdentity+" is not used: kvfs.identity counts", "remove it, unless the original extension reads this document too")
	}
	if s.chosen.Managed() {
		s.general = *s.chosen
	} else {
		s.general = vault.Identity{Endpoint: s.general.Endpoint} // an override is a managed identity
	}
}

// entryIdentity decides who asks for one certificate. The block kvfs of the entry is nil if it has none.
func (s *settings) entryIdentity(e *entry, o, block *object) {
	n := o.get("authenticationOverride")
	if n != nil {
		if over := s.identity(n, o.join("authenticationOverride")); over != (vault.Identity{}) {
			e.Identity = override(s.general, over)
		}
	}
	if block == nil || block.get("identity") == nil {
		return
	}
	e.Identity = s.choice(block.get("identity"), block.join("identity"))
	if n != nil {
		s.report.warning(n.at(), o.join("authenticationOverride")+" is not used: "+block.join("identity")+" counts", "remove one of them")
	}
}

// identity reads authenticationSettings or an authenticationOverride.
func (r reader) identity(n *node, path string) vault.Identity {
	if !r.isObject(n, path, `write {"msiClientId": "..."}, or leave it out for the system-assigned identity`) {
		return vault.Identity{}
	}
	o := r.object(n, path, fieldsOf[authenticationFields](r.report))
	o.misnamed(strayInAuthentication)
	defer o.done()
	var id vault.Identity
	if n := o.get("msiEndpoint"); n != nil {
		id.Endpoint = r.endpoint(n, o.join("msiEndpoint"), true)
	}
	id.ClientID = o.id("msiClientId", isGUIDOrResourceID, "a client id", "the client id"+guidHint)
	id.ObjectID = o.id("msiObjectId", isGUID, "an object id", "the object id"+guidHint)
	id.ResourceID = o.id("msiResourceId", isResourceID, "a resource id", resourceIDHint)
	o.clientOrResource(&id)
	o.chooseOne(&id)
	return id
}

// id takes an identifier of the right form. An empty one counts as absent.
func (o *object) id(name string, fits func(string) bool, expected, hint string) string {
	n := o.get(name)
	if n == nil {
		return ""
	}
	s, _ := o.text(n, o.join(name))
	if s = strings.TrimSpace(s); s != "" && !fits(s) {
		o.mismatch(n, o.join(name), expected, unbraced(s, fits, hint))
		return ""
	}
	return s
}

// unbraced is the hint for an id in braces, as Windows writes them, otherwise the given one.
func unbraced(s string, fits func(string) bool, otherwise string) string {
	inner, opened := strings.CutPrefix(s, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if opened && closed && fits(inner) {
		return "remove the braces"
	}
	return otherwise
}

// isGUID admits hexadecimal digits in groups of 8, 4, 4, 4 and 12.
func isGUID(s string) bool {
	groups := strings.Split(s, "-")
	if len(groups) != 5 {
		return false
	}
	for i, size := range []int{8, 4, 4, 4, 12} {
		if len(groups[i]) != size || strings.Trim(groups[i], "0123456789abcdefABCDEF") != "" {
			return false
		}
	}
	return true
}

func isResourceID(s string) bool {
	return len(s) > len(resourcePrefix) && strings.EqualFold(s[:len(resourcePrefix)], resourcePrefix)
}

func isGUIDOrResourceID(s string) bool { return isGUID(s) || isResourceID(s) }

// clientOrResource moves a resource id that was given as a client id to where it belongs.
func (o *object) clientOrResource(id *vault.Identity) {
	if !isResourceID(id.ClientID) {
		return
	}
	n := o.get("msiClientId")
	o.report.warning(n.at(), o.join("msiClientId")+" is a resource id", "write it as msiResourceId, or write the identity's client id")
	if id.ResourceID == "" {
		id.ResourceID = id.ClientID
	}
	id.ClientID = ""
}

// chooseOne leaves one of the ids: client id, object id, resource id in this order.
func (o *object) chooseOne(id *vault.Identity) {
	given := 0
	for _, s := range []string{id.ClientID, id.ObjectID, id.ResourceID} {
		if s != "" {
			given++
		}
	}
	if given < 2 {
		return
	}
	chosen := "msiObjectId"
	if id.ClientID != "" {
		chosen, id.ObjectID = "msiClientId", ""
	}
	id.ResourceID = ""
	o.report.warning(o.node.at(), o.path+" names more than one identity; "+chosen+" counts", "leave the others out")
}

// override returns the identity whose fields are those of over, where it has any, and the general ones otherwise. The ids are
// one field in this respect: an override by object id must not keep the general client id.
func override(general, over vault.Identity) vault.Identity {
	if over.ClientID == "" && over.ObjectID == "" && over.ResourceID == "" {
		over.ClientID, over.ObjectID, over.ResourceID = general.ClientID, general.ObjectID, general.ResourceID
	}
	if over.Endpoint == "" {
		over.Endpoint = general.Endpoint
	}
	over.Method = general.Method
	return over
}

// visible says whether messages may repeat a value: that of kvfs.identity they may not.
type visible bool

// of names a value in a message.
func (v visible) of(path, value string) string {
	if v {
		return path + ": " + quote(value)
	}
	return path
}

// orElse returns the text, which repeats a value, or else another one.
func (v visible) orElse(text, otherwise string) string {
	if v {
		return shorten(text)
	}
	return otherwise
}

// endpoint takes the URL of an identity endpoint and returns it without /oauth2/token and final slash. An empty one counts as
// absent.
func (r reader) endpoint(n *node, path string, shown visible) string {
	raw, ok := r.text(n, path)
	if raw = strings.TrimSpace(raw); !ok || raw == "" {
		return ""
	}
	// The page once had three slashes, and its readers still do.
	repaired := raw
	if rest, found := strings.CutPrefix(raw, "http:///"); found {
		repaired = "http://" + strings.TrimLeft(rest, "/")
		withoutQuery, _, _ := strings.Cut(repaired, "?")
		r.report.warning(n.at(), shown.of(path, raw)+" has no host"+shown.orElse("; "+quote(repaired)+" is meant", ""), "write "+shown.orElse(withoutQuery, "two slashes after http:"))
	}
	u, err := url.Parse(repaired)
	switch {
	case err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		r.fault(n.at(), shown.of(path, raw)+" is not an http URL of host and path", "write "+defaultEndpoint+", or leave it out")
		return ""
	case u.RawQuery != "":
		r.fault(n.at(), shown.of(path, raw)+" has a query", "remove the query"+shown.orElse(" ?"+u.RawQuery, ""))
		return ""
	case !isLocal(u.Hostname()):
		r.report.warning(n.at(), shown.of(path, u.Hostname())+" is not on this machine; tokens will come from there", "write "+defaultEndpoint+", or leave it out")
	}
	trimmed := strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/oauth2/token")
	return "http://" + u.Host + strings.TrimRight(trimmed, "/")
}

// isLocal reports whether a host is link-local or loopback.
func isLocal(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLinkLocalUnicast() || ip.IsLoopback())
}
