package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// identity is a certificate with its key, made by these tests.
type identity struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newP256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// change adapts the template of a certificate before it is signed.
type change func(*x509.Certificate)

func asLeaf(c *x509.Certificate) {
	c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
	c.DNSNames = []string{c.Subject.CommonName + ".example"}
}

func from(year int) change {
	return func(c *x509.Certificate) {
		c.NotBefore = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		c.NotAfter = c.NotBefore.AddDate(2, 0, 0)
	}
}

// issue signs a certificate for key by the parent, or by itself if that is nil. It is a
// CA unless changed.
func issue(t testing.TB, parent *identity, name string, key crypto.Signer, changes ...change) *identity {
	t.Helper()
	id := sha256.Sum256([]byte(name))
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyID := sha1.Sum(public)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(id[:8]),
		Subject:      pkix.Name{CommonName: name},
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage:     x509.KeyUsageCertSign,
		SubjectKeyId: keyID[:],
	}
	from(2026)(template)
	for _, f := range changes {
		f(template)
	}
	if parent == nil {
		parent = &identity{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{cert, key}
}

// newChain makes a chain of the given length, leaf first, root last; of 1 it is a
// self-signed certificate.
func newChain(t testing.TB, depth int, leafKey crypto.Signer) []*identity {
	t.Helper()
	chain := make([]*identity, depth)
	var parent *identity
	for i := depth - 1; i > 0; i-- {
		parent = issue(t, parent, "ca"+string(rune('0'+i)), newP256(t))
		chain[i] = parent
	}
	chain[0] = issue(t, parent, "leaf", leafKey, asLeaf)
	return chain
}

func certsOf(ids ...*identity) []*x509.Certificate {
	certs := make([]*x509.Certificate, len(ids))
	for i, id := range ids {
		certs[i] = id.cert
	}
	return certs
}

func certPEM(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		writeBlock(&out, "CERTIFICATE", c.Raw)
	}
	return out.Bytes()
}

func keyPEM(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8Of(t, key)})
}

func pkcs8Of(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// mustParse parses, checks the invariants of a bundle, and returns it.
func mustParse(t testing.TB, value []byte) *Bundle {
	t.Helper()
	b, err := Parse("", value)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	checkInvariants(t, b)
	return b
}

// mustRefuse parses and returns the error, which must be of the kind.
func mustRefuse(t testing.TB, value []byte, kind Kind) *Error {
	t.Helper()
	b, err := Parse("", value)
	if err == nil {
		t.Fatalf("Parse read %v; want an error of kind %s", subjects(b.Chain), kind)
	}
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("Parse returned %T, want *Error", err)
	}
	if e.Kind != kind {
		t.Fatalf("kind %s (%v), want %s", e.Kind, e, kind)
	}
	if e.Fact == "" || e.Hint == "" || strings.HasSuffix(e.Fact, ".") || strings.HasSuffix(e.Hint, ".") {
		t.Errorf("fact %q and hint %q are not fit for a person", e.Fact, e.Hint)
	}
	return e
}

// checkInvariants verifies what the package promises of every bundle, by other means
// than the package's own.
func checkInvariants(t testing.TB, b *Bundle) {
	t.Helper()
	if len(b.Chain) == 0 || b.Chain[0] != b.Leaf {
		t.Fatal("the chain does not begin with the leaf")
	}
	if b.HasKey() {
		checkKey(t, b)
	}
	for i, c := range b.Chain[1:] {
		child := b.Chain[i]
		if err := c.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
			t.Errorf("%v does not certify %v: %v", c.Subject, child.Subject, err)
		}
	}
	seen := make(map[string]bool)
	for _, c := range append(append([]*x509.Certificate{}, b.Chain...), b.Extra...) {
		if seen[string(c.Raw)] {
			t.Errorf("%v is served twice", c.Subject)
		}
		seen[string(c.Raw)] = true
	}
}

// checkKey verifies that the key which is served is that of the leaf.
func checkKey(t testing.TB, b *Bundle) {
	t.Helper()
	block, rest := pem.Decode(b.PEM().Key())
	if block == nil || len(rest) > 0 {
		t.Fatal("the key is no PEM block, or more than one")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if b.Leaf.PublicKey != nil { // crypto/x509 knows neither half of a pair for RSA-PSS alone
			t.Errorf("the key is not readable: %v", err)
		}
		return
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("a %T cannot sign", key)
	}
	if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(b.Leaf.PublicKey) {
		t.Error("the leaf's public key is not the key's")
	}
}

func subjects(certs []*x509.Certificate) []string {
	names := []string{}
	for _, c := range certs {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// The builders below write PKCS#12 files that the library would not.

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func oidOf(t testing.TB, dotted string) asn1.ObjectIdentifier {
	t.Helper()
	var oid asn1.ObjectIdentifier
	for _, part := range strings.Split(dotted, ".") {
		n, ok := new(big.Int).SetString(part, 10)
		if !ok {
			t.Fatalf("bad OID %q", dotted)
		}
		oid = append(oid, int(n.Int64()))
	}
	return oid
}

func explicit0(content []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: content}
}

func makeBag(t testing.TB, oid string, value []byte) safeBag {
	return safeBag{ID: oidOf(t, oid), Value: explicit0(value)}
}

func certBag(t testing.TB, cert *x509.Certificate) safeBag {
	t.Helper()
	value := must[[]byte](t)(asn1.Marshal(struct {
		ID   asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}{oidOf(t, "1.2.840.113549.1.9.22.1"), cert.Raw}))
	return makeBag(t, oidCertBag, value)
}

// shroudedBag makes an encrypted key that asks for the given rounds. The ciphertext is
// no key: only what is done before decryption matters.
func shroudedBag(t testing.TB, rounds int64) safeBag {
	t.Helper()
	value := must[[]byte](t)(asn1.Marshal(shroudedKey{pbes1(t, rounds), make([]byte, 64)}))
	return makeBag(t, oidShroudedBag, value)
}

func pbes1(t testing.TB, rounds int64) pkix.AlgorithmIdentifier {
	t.Helper()
	params := must[[]byte](t)(asn1.Marshal(pbes1Params{[]byte("saltsalt"), big.NewInt(rounds)}))
	return pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "1.2.840.113549.1.12.1.3"), Parameters: asn1.RawValue{FullBytes: params}}
}

// clearSafe is a part of a file with bags in the clear.
func clearSafe(t testing.TB, bags ...safeBag) contentInfo {
	t.Helper()
	return dataInfo(t, must[[]byte](t)(asn1.Marshal(bags)))
}

func dataInfo(t testing.TB, content []byte) contentInfo {
	t.Helper()
	return contentInfo{oidOf(t, oidData), explicit0(must[[]byte](t)(asn1.Marshal(content)))}
}

// safesOf returns the parts of a file that the library wrote.
func safesOf(t testing.TB, pfx []byte) []contentInfo {
	t.Helper()
	var pdu pfxPDU
	if _, err := asn1.Unmarshal(pfx, &pdu); err != nil {
		t.Fatal(err)
	}
	var infos []contentInfo
	if _, err := asn1.Unmarshal(must[[]byte](t)(octets(pdu.AuthSafe.Content.Bytes)), &infos); err != nil {
		t.Fatal(err)
	}
	for i := range infos { // the tags were taken off by reading
		infos[i].Content = explicit0(infos[i].Content.Bytes)
	}
	return infos
}

// makePFX puts parts together, without a MAC.
func makePFX(t testing.TB, safes ...contentInfo) []byte {
	t.Helper()
	content := must[[]byte](t)(asn1.Marshal(safes))
	return must[[]byte](t)(asn1.Marshal(struct {
		Version  int
		AuthSafe contentInfo
	}{3, dataInfo(t, content)}))
}

// makePFXWithMAC puts parts together with a SHA-1 MAC for the empty password.
func makePFXWithMAC(t testing.TB, safes ...contentInfo) []byte {
	t.Helper()
	content := must[[]byte](t)(asn1.Marshal(safes))
	salt := []byte("saltsalt")
	mac := hmac.New(sha1.New, deriveKey(3, []byte{0, 0}, salt, 1, 20))
	mac.Write(content)
	pdu := pfxPDU{Version: 3, AuthSafe: dataInfo(t, content)}
	pdu.MacData.Mac.Algorithm.Algorithm = oidOf(t, "1.3.14.3.2.26")
	pdu.MacData.Mac.Digest = mac.Sum(nil)
	pdu.MacData.Salt = salt
	pdu.MacData.Iterations = big.NewInt(1)
	return must[[]byte](t)(asn1.Marshal(pdu))
}

// encodePFX writes a file as the library does.
func encodePFX(t testing.TB, enc *pkcs12.Encoder, chain []*identity, password string) []byte {
	t.Helper()
	return must[[]byte](t)(enc.Encode(chain[0].key, chain[0].cert, certsOf(chain[1:]...), password))
}

func newEd25519(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
