package certs

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
)

// foreignKey writes a PKCS#8 key whose algorithm Go does not know.
func foreignKey(t testing.TB, oid string, parameters []byte) []byte {
	t.Helper()
	return must[[]byte](t)(asn1.Marshal(pkcs8{
		Algorithm:  pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oid), Parameters: asn1.RawValue{FullBytes: parameters}},
		PrivateKey: []byte("any"),
	}))
}

func explicitCurve(t testing.TB, prime string) []byte {
	t.Helper()
	p, _ := new(big.Int).SetString(prime, 16)
	return must[[]byte](t)(asn1.Marshal(struct {
		Version int
		Field   struct {
			Type  asn1.ObjectIdentifier
			Prime *big.Int
		}
	}{1, struct {
		Type  asn1.ObjectIdentifier
		Prime *big.Int
	}{oidOf(t, "1.2.840.10045.1.1"), p}}))
}

const primeP256K = "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"

// Key Vault's P-256K spells out its curve in the key and in the certificate.
func TestUnsupportedKeysAreNamed(t *testing.T) {
	cert := certPEM(newChain(t, 1, newP256(t))[0].cert)
	named := func(oid string) []byte { return must[[]byte](t)(asn1.Marshal(oidOf(t, oid))) }
	for _, tt := range []struct {
		name string
		key  []byte
		fact string
	}{
		{"P-256K", foreignKey(t, oidECPublicKey, explicitCurve(t, primeP256K)), "P-256K (secp256k1) with explicit parameters"},
		{"P-256 spelled out", foreignKey(t, oidECPublicKey, explicitCurve(t, "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff")), "P-256 with explicit"},
		{"another spelled out", foreignKey(t, oidECPublicKey, explicitCurve(t, "ffffff")), "of 24 bits with explicit"},
		{"P-256K by name", foreignKey(t, oidECPublicKey, named("1.3.132.0.10")), "P-256K (secp256k1)"},
		{"brainpool", foreignKey(t, oidECPublicKey, named("1.3.36.3.3.2.8.1.1.7")), "brainpoolP256r1"},
		{"a curve without a name", foreignKey(t, oidECPublicKey, named("1.2.3.4")), "1.2.3.4"},
		{"Ed448", foreignKey(t, "1.3.101.113", nil), "1.3.101.113"},
		{"X25519", pkcs8Of(t, must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))), "cannot sign"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for form, value := range map[string][]byte{
				"pem": join(cert, block("PRIVATE KEY", tt.key)),
				"pfx": makePFX(t, clearSafe(t, certBag(t, newChain(t, 1, newP256(t))[0].cert), makeBag(t, oidKeyBag, tt.key))),
			} {
				if e := mustRefuse(t, value, Unsupported); !strings.Contains(e.Fact, tt.fact) {
					t.Errorf("%s: the fact %q does not say %q", form, e.Fact, tt.fact)
				}
			}
		})
	}
}

func TestUnsupportedCurveOfACertificateIsNamed(t *testing.T) {
	good := newChain(t, 1, newP256(t))[0]
	// The curve's name, 1.2.840.10045.3.1.7, becomes one that does not exist.
	oid := must[[]byte](t)(asn1.Marshal(oidOf(t, "1.2.840.10045.3.1.7")))
	der := []byte(strings.Replace(string(good.cert.Raw), string(oid), string(oid[:len(oid)-1])+"\x66", 1))
	e := mustRefuse(t, join(keyPEM(t, good.key), block("CERTIFICATE", der)), Unsupported)
	if !strings.Contains(e.Fact, "1.2.840.10045.3.1.102") {
		t.Errorf("fact %q", e.Fact)
	}
}

func TestDamagedKeysAreCorruptAndNotUnsupported(t *testing.T) {
	cert := certPEM(newChain(t, 1, newP256(t))[0].cert)
	for _, oid := range []string{"1.2.840.113549.1.1.1", oidRSAPSS, "1.3.101.112"} {
		mustRefuse(t, join(cert, block("PRIVATE KEY", foreignKey(t, oid, nil))), Corrupt)
	}
}

// A key and a certificate for RSA-PSS alone (RFC 4055), which crypto/x509 does not read.
// openssl and the servers built on it do.
func TestRSAPSSKeysAreRead(t *testing.T) {
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	plain := newChain(t, 1, key)[0].cert
	algorithm := pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oidRSAPSS)}
	pssKey := must[[]byte](t)(asn1.Marshal(pkcs8{Algorithm: algorithm, PrivateKey: x509.MarshalPKCS1PrivateKey(key)}))
	pssCert := block("CERTIFICATE", withPublicKeyAlgorithm(t, plain, algorithm))

	b := mustParse(t, join(block("PRIVATE KEY", pssKey), pssCert))
	if b.KeyType() != "RSA-2048" || string(b.PEM().Key()) != string(block("PRIVATE KEY", pssKey)) {
		t.Errorf("key type %s, or another key", b.KeyType())
	}
	// openssl refuses a pair of which one half is for PSS alone.
	mustRefuse(t, join(block("PRIVATE KEY", pssKey), certPEM(plain)), KeyMismatch)
	mustRefuse(t, join(keyPEM(t, key), pssCert), KeyMismatch)
}

// pssBundle is of a key for RSA-PSS alone.
func pssBundle(t testing.TB) *Bundle {
	t.Helper()
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	algorithm := pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oidRSAPSS)}
	der := must[[]byte](t)(asn1.Marshal(pkcs8{Algorithm: algorithm, PrivateKey: x509.MarshalPKCS1PrivateKey(key)}))
	return mustParse(t, join(block("PRIVATE KEY", der), block("CERTIFICATE", withPublicKeyAlgorithm(t, newChain(t, 1, key)[0].cert, algorithm))))
}

// withPublicKeyAlgorithm rewrites a certificate. Its signature is then wrong, which does
// not matter to a leaf.
func withPublicKeyAlgorithm(t testing.TB, cert *x509.Certificate, algorithm pkix.AlgorithmIdentifier) []byte {
	t.Helper()
	var outer struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	var info publicKeyInfo
	_, err1 := asn1.Unmarshal(cert.Raw, &outer)
	_, err2 := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	info.Algorithm = algorithm
	spki := must[[]byte](t)(asn1.Marshal(info))
	content := strings.Replace(string(outer.TBS.Bytes), string(cert.RawSubjectPublicKeyInfo), string(spki), 1)
	outer.TBS = asn1.RawValue{FullBytes: appendElement(nil, 0x30, []byte(content))}
	return must[[]byte](t)(asn1.Marshal(outer))
}
