package certs

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// chainOf parses the identities, given in a bad order, with the key of the first.
func chainOf(t *testing.T, leaf *identity, others ...*identity) *Bundle {
	t.Helper()
	all := append([]*identity{leaf}, others...)
	slices.Reverse(all)
	b := mustParse(t, join(keyPEM(t, leaf.key), certPEM(certsOf(all...)...)))
	again := mustParse(t, join(certPEM(certsOf(append(others, leaf)...)...), keyPEM(t, leaf.key)))
	if !slices.Equal(sums(b.Chain), sums(again.Chain)) {
		t.Errorf("the chain depends on the order: %v, %v", subjects(b.Chain), subjects(again.Chain))
	}
	return b
}

func wantChain(t *testing.T, b *Bundle, chain ...*identity) {
	t.Helper()
	if !slices.EqualFunc(b.Chain, certsOf(chain...), (*x509.Certificate).Equal) {
		t.Errorf("chain %v, want %v", subjects(b.Chain), subjects(certsOf(chain...)))
	}
}

func wantWarning(t *testing.T, b *Bundle, part string) {
	t.Helper()
	if !slices.ContainsFunc(b.Warnings, func(w string) bool { return strings.Contains(w, part) }) {
		t.Errorf("no warning says %q: %q", part, b.Warnings)
	}
}

func TestUnrelatedCertificatesComeLastWithAWarning(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	other := issue(t, nil, "unrelated", newP256(t))
	b := chainOf(t, chain[0], chain[1], chain[2], other)
	wantChain(t, b, chain...)
	if got := subjects(b.Extra); !slices.Equal(got, []string{"unrelated"}) {
		t.Errorf("extra %v", got)
	}
	wantWarning(t, b, `"CN=unrelated" is not in the served chain`)
}

func TestIncompleteChainIsServedWithAWarning(t *testing.T) {
	chain := newChain(t, 4, newP256(t))
	b := chainOf(t, chain[0], chain[1])
	wantChain(t, b, chain[:2]...)
	if b.Complete() {
		t.Error("a chain without its root is complete")
	}
	wantWarning(t, b, `issuer "CN=ca2" is missing`)

	gap := chainOf(t, chain[0], chain[2], chain[3])
	wantChain(t, gap, chain[0])
	if len(gap.Extra) != 2 {
		t.Errorf("extra %v", subjects(gap.Extra))
	}
}

// By name alone an impostor, or a renewed CA with a new key, would get in. Everything
// else speaks for this one: its key id, its age, and a longer chain to a root.
func TestImpostorOfTheSameNameIsNotInTheChain(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	keyID := func(c *x509.Certificate) { c.SubjectKeyId = chain[1].cert.SubjectKeyId }
	root := issue(t, nil, "other root", newP256(t))
	sub := issue(t, root, "other sub", newP256(t))
	impostor := issue(t, sub, "ca1", newP256(t), keyID, from(2027))
	b := chainOf(t, chain[0], impostor, sub, root, chain[1], chain[2])
	wantChain(t, b, chain...)
	if len(b.Extra) != 3 {
		t.Errorf("extra %v", subjects(b.Extra))
	}
}

func TestCrossSignedChainsEndAtARootThenAreLongest(t *testing.T) {
	oldRoot := issue(t, nil, "old root", newP256(t))
	newKey := newP256(t)
	newRoot := issue(t, nil, "new root", newKey)
	cross := issue(t, oldRoot, "new root", newKey)
	sub := issue(t, newRoot, "sub", newP256(t))
	leaf := issue(t, sub, "leaf", newP256(t), asLeaf)

	wantChain(t, chainOf(t, leaf, sub, newRoot), leaf, sub, newRoot)
	wantChain(t, chainOf(t, leaf, sub, cross, newRoot), leaf, sub, newRoot) // cross leads nowhere
	wantChain(t, chainOf(t, leaf, sub, cross, newRoot, oldRoot), leaf, sub, cross, oldRoot)
	wantChain(t, chainOf(t, leaf, sub, cross), leaf, sub, cross)

	lostRoot := issue(t, nil, "lost root", newP256(t))
	long := issue(t, lostRoot, "long", newP256(t))
	longer := issue(t, long, "longer", newP256(t))
	crossLong := issue(t, longer, "new root", newKey)
	wantChain(t, chainOf(t, leaf, sub, newRoot, crossLong, longer, long), leaf, sub, newRoot)
}

func TestCertificateThatIsNoCAIsTheLastChoice(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	key := newP256(t)
	ca := issue(t, root, "sub", key, from(2024))
	server := issue(t, root, "sub", key, asLeaf, from(2026))
	leaf := issue(t, ca, "leaf", newP256(t), asLeaf)
	wantChain(t, chainOf(t, leaf, server, ca, root), leaf, ca, root)
}

func TestLoopOfCrossSignedCAsEnds(t *testing.T) {
	keyA, keyB := newP256(t), newP256(t)
	a := issue(t, nil, "a", keyA)
	bByA := issue(t, a, "b", keyB)
	aByB := issue(t, bByA, "a", keyA)
	leaf := issue(t, a, "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, aByB, bByA)
	wantChain(t, b, leaf, aByB, bByA)
	if b.Complete() {
		t.Error("a loop has no root")
	}
}

// A ladder in which each CA has signed the next two has as many paths as Fibonacci
// numbers grow.
func TestCrossSigningWithoutEndIsGivenUpWithAWarning(t *testing.T) {
	const rungs = 30
	ladder := []*identity{issue(t, nil, "root", newP256(t)), nil}
	ladder[1] = issue(t, ladder[0], "rung1", newP256(t))
	all := slices.Clone(ladder[1:]) // without the root no path is final
	for i := 2; i < rungs; i++ {
		key := newP256(t)
		step := issue(t, ladder[i-1], fmt.Sprint("rung", i), key)
		all = append(all, step, issue(t, ladder[i-2], fmt.Sprint("rung", i), key))
		ladder = append(ladder, step)
	}
	leaf := issue(t, ladder[rungs-1], "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, all...)
	wantWarning(t, b, "too many ways")
}

func TestOfSeveralLeavesTheNewestIsServed(t *testing.T) {
	ca := issue(t, nil, "ca", newP256(t))
	key := newP256(t)
	renewed := issue(t, ca, "www", key, asLeaf, from(2026))
	old := issue(t, ca, "www", key, asLeaf, from(2024))
	ownCA := issue(t, nil, "www", key, from(2027)) // newer, but a CA
	b := chainOf(t, renewed, old, ownCA, ca)
	wantChain(t, b, renewed, ca)
	if len(b.Extra) != 2 {
		t.Errorf("extra %v", subjects(b.Extra))
	}
}

func TestRenewedCAWithTheSameKeyIsPreferred(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	key := newP256(t)
	old, renewed := issue(t, root, "ca", key, from(2022)), issue(t, root, "ca", key, from(2026))
	leaf := issue(t, old, "leaf", newP256(t), asLeaf)
	wantChain(t, chainOf(t, leaf, old, renewed, root), leaf, renewed, root)
}

func TestKeyIDsDecideBetweenCertificatesOfOneKey(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	key := newP256(t)
	named := issue(t, root, "ca", key, from(2022), func(c *x509.Certificate) { c.SubjectKeyId = []byte("one") })
	other := issue(t, root, "ca", key, from(2026), func(c *x509.Certificate) { c.SubjectKeyId = []byte("two") })
	leaf := issue(t, named, "leaf", newP256(t), asLeaf)
	wantChain(t, chainOf(t, leaf, other, named, root), leaf, named, root)
	wantChain(t, chainOf(t, leaf, other, root), leaf, other, root) // verified, and better than none
}

// Private CAs made long ago have no basic constraints and sign with SHA-1. openssl puts
// them into a chain; CheckSignatureFrom does not.
func TestOldCAsHaveTheirPlaceInTheChain(t *testing.T) {
	plain := func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA, c.KeyUsage = false, false, 0 }
	ca := issue(t, nil, "old ca", newP256(t), plain)
	leaf := issue(t, ca, "leaf", newP256(t), asLeaf, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	if leaf.cert.SignatureAlgorithm != x509.ECDSAWithSHA1 || leaf.cert.CheckSignatureFrom(ca.cert) == nil {
		t.Fatal("this is not the case to be tested")
	}
	b := chainOf(t, leaf, ca)
	wantChain(t, b, leaf, ca)
	wantWarning(t, b, "not marked as a CA")
}

func TestKeyRolloverCertificateIsNoRoot(t *testing.T) {
	oldRoot := issue(t, nil, "ca", newP256(t))
	newKey := newP256(t)
	rollover := issue(t, oldRoot, "ca", newKey) // same names, signed with the old key
	leaf := issue(t, rollover, "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, rollover)
	wantChain(t, b, leaf, rollover)
	if b.Complete() {
		t.Error("a certificate signed with another key is no root")
	}
	wantChain(t, chainOf(t, leaf, rollover, oldRoot), leaf, rollover, oldRoot)
}

// RFC 5280 section 7.1: the same name may be written in two string types.
func TestNamesInOtherStringTypesAreTheSame(t *testing.T) {
	rawName := func(tag int) []byte {
		return must[[]byte](t)(asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3},
			Value: asn1.RawValue{Tag: tag, Bytes: []byte("ca")}}}}))
	}
	ca := issue(t, nil, "ca", newP256(t), func(c *x509.Certificate) { c.RawSubject = rawName(asn1.TagUTF8String) })
	other := *ca.cert
	other.RawSubject = rawName(asn1.TagPrintableString)
	leaf := issue(t, &identity{&other, ca.key}, "leaf", newP256(t), asLeaf)
	if bytes.Equal(leaf.cert.RawIssuer, ca.cert.RawSubject) {
		t.Fatal("this is not the case to be tested")
	}
	wantChain(t, chainOf(t, leaf, ca), leaf, ca)
}

// Two CAs may have one key and differ in an attribute that pkix.Name does not model, as
// after a move to another domain. Clients look the issuer up by its whole name.
func TestTheIssuerIsTheOneOfTheWholeName(t *testing.T) {
	for attribute, oid := range map[string]string{
		"domain component": "0.9.2342.19200300.100.1.25", "user id": "0.9.2342.19200300.100.1.1", "email address": "1.2.840.113549.1.9.1",
	} {
		t.Run(attribute, func(t *testing.T) {
			in := func(value string) change {
				return func(c *x509.Certificate) {
					c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidOf(t, oid), Value: value}}
				}
			}
			root := issue(t, nil, "root", newP256(t))
			key := newP256(t)
			old := issue(t, root, "Issuing CA", key, in("old"), from(2025))
			renewed := issue(t, root, "Issuing CA", key, in("new"), from(2026))
			leaf := issue(t, old, "leaf", newP256(t), asLeaf)
			b := chainOf(t, leaf, renewed, old, root)
			wantChain(t, b, leaf, old, root)
			wantVerified(t, b, root)
			wantChain(t, chainOf(t, leaf, renewed, root), leaf) // no chain is better than one that clients refuse
		})
	}
}

// Of two that are the same name to RFC 5280, x509 and others find the one of the same
// bytes alone.
func TestTheIssuerOfTheSameBytesIsPreferred(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	key := newP256(t)
	same := issue(t, root, "Issuing CA", key, from(2025))
	other := issue(t, root, "ISSUING CA", key, from(2026))
	leaf := issue(t, same, "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, other, same, root)
	wantChain(t, b, leaf, same, root)
	wantVerified(t, b, root)
	wantChain(t, chainOf(t, leaf, other, root), leaf, other, root)
}

// wantVerified asks x509 whether what is served is enough for a client that knows root.
func wantVerified(t *testing.T, b *Bundle, root *identity) {
	t.Helper()
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	for _, c := range b.Chain[1:] {
		others.AddCert(c)
	}
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	if _, err := b.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: at}); err != nil {
		t.Errorf("a client refuses the chain: %v", err)
	}
}

func TestACertificateOfAnotherChainIsNotCalledAStranger(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	key := newP256(t)
	newRoot := issue(t, nil, "new root", key)
	cross := issue(t, root, "new root", key)
	leaf := issue(t, newRoot, "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, newRoot, cross, root)
	wantChain(t, b, leaf, cross, root)
	if want := []string{`"CN=new root" is not in the served chain; it is served after it`}; !slices.Equal(b.Warnings, want) {
		t.Errorf("warnings %q", b.Warnings)
	}
}
