package certs

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
)

// maxSteps bounds the certificates that a search for a chain looks at. Real bundles need
// a dozen; a value can be made so that the number of paths is exponential.
const maxSteps = 200_000

// distinct drops certificates that occur again. Order is kept.
func distinct(certs []*x509.Certificate) []*x509.Certificate {
	seen := make(map[string]bool, len(certs))
	return slices.DeleteFunc(slices.Clone(certs), func(c *x509.Certificate) bool {
		dup := seen[string(c.Raw)]
		seen[string(c.Raw)] = true
		return dup
	})
}

// finder searches the best chain from a leaf up, through verified signatures only.
//
// With cross-signed CAs there are several paths. The best one ends at a root if any
// does, then is the longest; among equals the first in the order of issuersOf wins.
// No path visits the same CA (name and key) twice, so loops end.
type finder struct {
	certs   []*x509.Certificate
	issuers map[*x509.Certificate][]*x509.Certificate // memo of issuersOf
	roots   map[*x509.Certificate]bool                // memo of isRoot
	names   map[*x509.Certificate]names               // memo of namesOf
	members map[*x509.Certificate]int                 // memo of entity
	ids     map[string]int                            // of entities
	onPath  map[int]bool                              // entities on the path that is walked
	checks  *effort                                   // for signatures
	steps   int                                       // certificates to look at left
	best    []*x509.Certificate
}

// entity numbers a CA, which may have several certificates, by its name and key.
func (f *finder) entity(c *x509.Certificate) int {
	id, known := f.members[c]
	if !known {
		both := string(c.RawSubject) + string(c.RawSubjectPublicKeyInfo) // each tells its length
		if id, known = f.ids[both]; !known {
			id = len(f.ids)
			f.ids[both] = id
		}
		f.members[c] = id
	}
	return id
}

// names are those of a certificate in a form in which the same name is the same string.
type names struct{ subject, issuer string }

func newFinder(certs []*x509.Certificate) *finder {
	return &finder{
		certs:   certs,
		issuers: make(map[*x509.Certificate][]*x509.Certificate),
		roots:   make(map[*x509.Certificate]bool),
		names:   make(map[*x509.Certificate]names),
		members: make(map[*x509.Certificate]int),
		ids:     make(map[string]int),
		onPath:  make(map[int]bool),
		checks:  &effort{limit: maxChecking},
		steps:   maxSteps,
	}
}

// givenUp says that the search met its limits and a better chain may exist.
func (f *finder) givenUp() bool { return f.checks.exhausted || f.steps == 0 }

// rooted reports whether the path ends at a root.
func (f *finder) rooted(path []*x509.Certificate) bool {
	last := path[len(path)-1]
	root, known := f.roots[last]
	if !known {
		root = f.isRoot(last)
		f.roots[last] = root
	}
	return root
}

// walk goes up from the end of path through all issuers, and keeps the best path.
func (f *finder) walk(path []*x509.Certificate) {
	if f.better(path) {
		f.best = slices.Clone(path)
	}
	if f.rooted(path) || f.steps == 0 {
		return
	}
	last := path[len(path)-1]
	self := f.entity(last)
	f.onPath[self] = true
	for _, issuer := range f.issuersOf(last) {
		if f.steps == 0 {
			break
		}
		f.steps--
		if !f.onPath[f.entity(issuer)] {
			f.walk(append(path, issuer))
		}
	}
	delete(f.onPath, self)
}

func (f *finder) better(path []*x509.Certificate) bool {
	if f.best == nil {
		return true
	}
	if rooted := f.rooted(path); rooted != f.rooted(f.best) {
		return rooted
	}
	return len(path) > len(f.best)
}

// issuersOf returns the certificates that have signed child, the preferred first.
func (f *finder) issuersOf(child *x509.Certificate) []*x509.Certificate {
	if known, ok := f.issuers[child]; ok {
		return known
	}
	var found []*x509.Certificate
	for _, c := range f.certs {
		if c != child && f.nameFits(child, c) && f.signed(child, c) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *x509.Certificate) int { return compareIssuers(child, a, b) })
	f.issuers[child] = found
	return found
}

// signed is signedBy as long as there is effort left; then the search is given up.
func (f *finder) signed(child, issuer *x509.Certificate) bool {
	price := signatureCheck(child, issuer)
	if !f.checks.reserve(price) {
		return false
	}
	f.checks.did(price)
	return signedBy(child, issuer)
}

// compareIssuers orders certificates that have all signed child, so of the same key: the
// name in the same bytes first, then a matching key id, then what is marked as a CA, then
// what is valid longest, then by bytes.
func compareIssuers(child, a, b *x509.Certificate) int {
	if sameBytes(child, a) != sameBytes(child, b) {
		if sameBytes(child, a) {
			return -1
		}
		return 1
	}
	if c := keyIDRank(child, a) - keyIDRank(child, b); c != 0 {
		return c
	}
	if isCA(a) != isCA(b) {
		if isCA(a) {
			return -1
		}
		return 1
	}
	if c := b.NotAfter.Compare(a.NotAfter); c != 0 {
		return c
	}
	return bytes.Compare(a.Raw, b.Raw)
}

// keyIDRank is 0 if the key ids match, 1 if one is absent, 2 if they contradict. A
// contradiction does not exclude: the verified signature is the stronger evidence.
func keyIDRank(child, issuer *x509.Certificate) int {
	switch {
	case len(child.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0:
		return 1
	case bytes.Equal(child.AuthorityKeyId, issuer.SubjectKeyId):
		return 0
	}
	return 2
}

// nameFits compares names as RFC 5280 section 7.1 does, in essence: the same name may be
// encoded in different string types, so bytes that differ prove nothing. Attributes of
// every type count: CAs of one key may differ in a domain component alone.
func (f *finder) nameFits(child, issuer *x509.Certificate) bool {
	return sameBytes(child, issuer) || f.namesOf(child).issuer == f.namesOf(issuer).subject
}

func (f *finder) namesOf(c *x509.Certificate) names {
	known, ok := f.names[c]
	if !ok {
		known = names{plainName(c.Subject.Names), plainName(c.Issuer.Names)}
		f.names[c] = known
	}
	return known
}

// plainName writes a name without the type of its strings and without case.
func plainName(attributes []pkix.AttributeTypeAndValue) string {
	var out strings.Builder
	for _, a := range attributes {
		fmt.Fprintf(&out, "%s=%q,", a.Type, strings.ToLower(fmt.Sprint(a.Value)))
	}
	return out.String()
}

// sameBytes reports whether child names its issuer as issuer does itself. Clients that
// compare no further than that find no other.
func sameBytes(child, issuer *x509.Certificate) bool {
	return bytes.Equal(child.RawIssuer, issuer.RawSubject)
}

// signedBy verifies the signature and nothing else. CheckSignatureFrom would refuse
// SHA-1 and CAs without basic constraints: this is about order, not about trust, and
// clients that accept an old private CA need it in its place. The signatures that
// crypto/x509 never accepts count as not verified.
func signedBy(child, issuer *x509.Certificate) bool {
	return issuer.PublicKey != nil && issuer.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
}

// isRoot reports whether a chain ends with c: it names itself as its issuer, and the
// signature is its own or of a kind that cannot be verified here. A CA's certificate
// for its new key signed with its old one has the same names and is no root.
func (f *finder) isRoot(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && (f.signed(c, c) || !verifiable(c))
}

// verifiable reports whether crypto/x509 can check the signature of c by a key of the
// same kind as its own.
func verifiable(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.UnknownSignatureAlgorithm, x509.MD2WithRSA, x509.MD5WithRSA:
		return false
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	return c.PublicKey != nil && (!ok || key.N.BitLen() >= 1024)
}

func isCA(c *x509.Certificate) bool { return c.BasicConstraintsValid && c.IsCA }

// name is how a person knows a certificate: by its subject, or else by its first name.
func name(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return quoted(s)
	}
	if len(c.DNSNames) > 0 {
		return quoted(c.DNSNames[0])
	}
	return "a certificate without a name"
}
