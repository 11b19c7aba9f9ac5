package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 5280 names SHA-1 for key identifiers; nothing rests on it.
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// authority is a root and an intermediate, with EC keys since they are made
// for each emulator and RSA keys take long.
type authority struct {
	root, intermediate signer
}

type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issued is a certificate with its key and its chain, leaf first, root last.
type issued struct {
	key   crypto.Signer
	chain []*x509.Certificate
}

func newAuthority(now time.Time) (*authority, error) {
	root, err := newCA("kvfs emulator root", 10, now, nil)
	if err != nil {
		return nil, err
	}
	intermediate, err := newCA("kvfs emulator intermediate", 5, now, root)
	if err != nil {
		return nil, err
	}
	return &authority{root: *root, intermediate: *intermediate}, nil
}

// newCA makes a certificate authority signed by parent, or by itself when
// parent is nil.
func newCA(name string, years int, now time.Time, parent *signer) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"kvfs"}, CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(years, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        parent != nil,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = &signer{cert: template, key: key}
	}
	cert, err := parent.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &signer{cert: cert, key: key}, nil
}

// sign fills in a random serial number and the key identifier.
func (s *signer) sign(template *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f // a serial number is positive
	template.SerialNumber = new(big.Int).SetBytes(serial)
	id, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	template.SubjectKeyId = id
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, pub, s.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// keyID is method 1 of RFC 5280, section 4.2.1.2, over the whole public key.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	sum := sha1.Sum(der) //nolint:gosec // see the import
	return sum[:], nil
}

// serverCertificate is signed by the root itself: with ca.pem a client trusts
// the data plane, whatever becomes of the intermediate.
func (a *authority) serverCertificate(names []string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := a.root.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		DNSNames:    names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// issue makes a certificate as p wants it. It begins ten minutes in the past,
// as the service's certificates do.
func (a *authority) issue(p Profile, now time.Time) (*issued, error) {
	key, err := newKey(p.Key)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	notAfter := now.Add(p.Validity)
	notBefore := now
	if notAfter.Before(now) {
		notBefore = notAfter
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName(p.DNSNames)},
		DNSNames:              p.DNSNames,
		NotBefore:             notBefore.Add(-10 * time.Minute),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if _, ok := key.(*rsa.PrivateKey); ok {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	leaf, err := a.intermediate.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &issued{key: key, chain: []*x509.Certificate{leaf, a.intermediate.cert, a.root.cert}}, nil
}

// commonName is empty when no name fits into the 64 characters X.520 allows.
func commonName(names []string) string {
	for _, name := range names {
		if len(name) <= 64 {
			return name
		}
	}
	return ""
}

func newKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case EC256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EC384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case EC521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", t)
}

func (a *authority) rootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.cert.Raw})
}

// RootCertificate is the root of the one authority that signs both the
// certificates in the vaults (through an intermediate) and the TLS certificate
// of the data plane. The same is in the file Endpoints().CA.
func (e *Emulator) RootCertificate() *x509.Certificate { return e.ca.root.cert }
