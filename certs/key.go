package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

const (
	oidRSA         = "1.2.840.113549.1.1.1"
	oidRSAPSS      = "1.2.840.113549.1.1.10"
	oidECPublicKey = "1.2.840.10045.2.1"
)

// privateKey is a key that was read, with everything that is shown of it. A Bundle
// holds it hidden.
type privateKey struct {
	public crypto.PublicKey
	pss    bool   // the key says it is for RSA-PSS alone, and so must its certificate
	kind   string // "RSA-2048"
	pkcs8  []byte // as it is written, without attributes
	spki   []byte // DER of the public key
}

// parseKey reads a key in PKCS#8, PKCS#1 or SEC 1. It does not go by a PEM label:
// there are tools that write one form under the label of another.
func parseKey(der []byte) (*privateKey, *Error) {
	if err := refuseLongKey(der); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		return newKey(key)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return newKey(k)
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return newKey(k)
	}
	if k, ok := parsePSS(der); ok {
		return k, nil
	}
	return nil, whyNoKey(der, err)
}

func newKey(key any) (*privateKey, *Error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, unsupported("TLS needs an RSA, ECDSA or Ed25519 key", "the private key is of type %T, which cannot sign", key)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, corrupt(nil, "the private key cannot be written as PKCS#8")
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, corrupt(nil, "the public key of the private key cannot be written")
	}
	return &privateKey{public: signer.Public(), kind: keyKind(signer.Public()), pkcs8: pkcs8, spki: spki}, nil
}

// keyKind names a key as the field does, with its size or curve.
func keyKind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC-" + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}

// pkcs8 is PrivateKeyInfo of RFC 5208; attributes and, since RFC 5958, a public key
// may follow and are not kept.
type pkcs8 struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
}

// sec1 is ECPrivateKey of RFC 5915.
type sec1 struct {
	Version    int
	PrivateKey []byte
	Parameters asn1.RawValue  `asn1:"optional,explicit,tag:0"`
	PublicKey  asn1.BitString `asn1:"optional,explicit,tag:1"`
}

type publicKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	PublicKey asn1.BitString
}

// parsePSS reads an RSA key whose algorithm is RSASSA-PSS (RFC 4055), which
// crypto/x509 does not know. Its algorithm is kept: it is a promise of the key.
func parsePSS(der []byte) (*privateKey, bool) {
	var info pkcs8
	if _, err := asn1.Unmarshal(der, &info); err != nil || info.Algorithm.Algorithm.String() != oidRSAPSS {
		return nil, false
	}
	key, err := x509.ParsePKCS1PrivateKey(info.PrivateKey)
	if err != nil {
		return nil, false
	}
	plain, err := asn1.Marshal(pkcs8{Algorithm: info.Algorithm, PrivateKey: info.PrivateKey})
	if err != nil {
		return nil, false
	}
	bits := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	spki, err := asn1.Marshal(publicKeyInfo{info.Algorithm, asn1.BitString{Bytes: bits, BitLength: 8 * len(bits)}})
	if err != nil {
		return nil, false
	}
	return &privateKey{public: &key.PublicKey, pss: true, kind: keyKind(&key.PublicKey), pkcs8: plain, spki: spki}, true
}

// traditional returns the key as PKCS#1 or SEC 1, if it has such a form.
func (k *privateKey) traditional() (label string, der []byte, ok bool) {
	var info pkcs8
	if _, err := asn1.Unmarshal(k.pkcs8, &info); err != nil || k.pss {
		return "", nil, false
	}
	switch info.Algorithm.Algorithm.String() {
	case oidRSA:
		return "RSA PRIVATE KEY", info.PrivateKey, true
	case oidECPublicKey:
		der, err := namedSEC1(info)
		return "EC PRIVATE KEY", der, err == nil
	}
	return "", nil, false
}

// namedSEC1 adds the curve to a key in SEC 1, which inside of PKCS#8 is outside of it.
func namedSEC1(info pkcs8) ([]byte, error) {
	var key sec1
	if _, err := asn1.Unmarshal(info.PrivateKey, &key); err != nil {
		return nil, err
	}
	key.Parameters = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: info.Algorithm.Parameters.FullBytes}
	return asn1.Marshal(key)
}

// publicKeyOf returns the certificate's public key, also one for RSA-PSS alone, for
// which crypto/x509 gives nil; pss tells the two apart.
func publicKeyOf(cert *x509.Certificate) (public crypto.PublicKey, pss bool) {
	if cert.PublicKey != nil {
		return cert.PublicKey, false
	}
	var info publicKeyInfo
	if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info); err != nil || info.Algorithm.Algorithm.String() != oidRSAPSS {
		return nil, false
	}
	key, err := x509.ParsePKCS1PublicKey(info.PublicKey.RightAlign())
	if err != nil {
		return nil, false
	}
	return key, true
}

// fits reports whether cert certifies the key. A key for RSA-PSS alone and a
// certificate for RSA do not fit, nor the other way round: servers refuse the pair.
func (k *privateKey) fits(cert *x509.Certificate) bool {
	public, pss := publicKeyOf(cert)
	own, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public != nil && pss == k.pss && own.Equal(public)
}

// matchKey finds the key and the leaf. Of several certificates with the same key, as
// after a renewal that kept it, the leaf is the first by newerLeaf; of several keys
// the one with that leaf.
func matchKey(keys []*privateKey, certs []*x509.Certificate) (key *privateKey, leaf *x509.Certificate) {
	for _, k := range keys {
		for _, c := range certs {
			if k.fits(c) && (leaf == nil || newerLeaf(c, leaf)) {
				key, leaf = k, c
			}
		}
	}
	return key, leaf
}

// withoutKey arranges certificates that came without a key, or returns nil if none of
// them is plainly the leaf.
func (c *contents) withoutKey() *Bundle {
	certs := distinct(c.certs)
	f := newFinder(certs)
	issuers := make(map[*x509.Certificate]bool)
	for _, cert := range certs {
		for _, issuer := range f.issuersOf(cert) {
			issuers[issuer] = true
		}
	}
	var leaf *x509.Certificate
	ends := 0
	for _, cert := range certs {
		if issuers[cert] {
			continue
		}
		ends++
		if leaf == nil || newerLeaf(cert, leaf) {
			leaf = cert
		}
	}
	if leaf == nil || isCA(leaf) && ends > 1 {
		return nil
	}
	b := &Bundle{Leaf: leaf, found: certs, noted: c.warnings}
	b.arrange(f)
	return b
}

// newerLeaf orders certificates that could be the leaf: no CA before a CA, then the
// one that became valid last, then the one that is valid longest, then by bytes, so
// that the order in the value never matters.
func newerLeaf(a, b *x509.Certificate) bool {
	if isCA(a) != isCA(b) {
		return isCA(b)
	}
	if c := a.NotBefore.Compare(b.NotBefore); c != 0 {
		return c > 0
	}
	if c := a.NotAfter.Compare(b.NotAfter); c != 0 {
		return c > 0
	}
	return bytes.Compare(a.Raw, b.Raw) < 0
}

// whyNoKey names what a key that no parser reads is. The parser's error is the cause
// only if the key is damaged; it names algorithms, never bytes of the key.
func whyNoKey(der []byte, err error) *Error {
	var info pkcs8
	if _, e := asn1.Unmarshal(der, &info); e != nil {
		if curve, ok := foreignCurve(sec1Algorithm(der)); ok {
			return unsupportedCurve(curve)
		}
		return corrupt(err, "the private key cannot be read")
	}
	if curve, ok := foreignCurve(info.Algorithm); ok {
		return unsupportedCurve(curve)
	}
	if algorithm := keyAlgorithm(info.Algorithm.Algorithm.String()); algorithm != "" {
		return corrupt(err, "the %s private key cannot be read", algorithm)
	}
	return unsupported("use an RSA, ECDSA or Ed25519 key", "the private key has the algorithm %s, which is not supported", Printable(info.Algorithm.Algorithm.String()))
}

// keyAlgorithm names the algorithms that are supported, where failing means damage.
func keyAlgorithm(oid string) string {
	switch oid {
	case oidRSA:
		return "RSA"
	case oidRSAPSS:
		return "RSA-PSS"
	case oidECPublicKey:
		return "EC"
	case "1.3.101.112":
		return "Ed25519"
	}
	return ""
}
