package certs

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// modulus is an odd number of so many bits.
func modulus(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.SetBit(n, 0, 1)
}

// longRSA writes an RSA key in PKCS#1 whose numbers do not fit together: parsing it is
// work for nothing.
func longRSA(t testing.TB, bits uint) []byte {
	t.Helper()
	return must[[]byte](t)(asn1.Marshal(struct {
		Version int
		N       *big.Int
		E       int
		D, P, Q *big.Int
	}{0, modulus(bits), 65537, big.NewInt(3), big.NewInt(3), big.NewInt(5)}))
}

func TestRSAKeysBeyondTheLimitAreUnsupported(t *testing.T) {
	bmp := []byte{0, 0}
	cert := newChain(t, 1, newP256(t))[0].cert
	pkcs1 := longRSA(t, maxRSABits+1)
	in := func(oid string) []byte {
		return must[[]byte](t)(asn1.Marshal(pkcs8{Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oid)}, PrivateKey: pkcs1}))
	}
	plain := in("1.2.840.113549.1.1.1")
	clear, sealed := makeBag(t, oidKeyBag, plain), sealedDER(t, plain, bmp)
	nested := makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal([]safeBag{clear})))
	for name, value := range map[string][]byte{
		"pkcs1":                  join(block("RSA PRIVATE KEY", pkcs1), certPEM(cert)),
		"pkcs8":                  join(block("PRIVATE KEY", plain), certPEM(cert)),
		"pss":                    join(block("PRIVATE KEY", in(oidRSAPSS)), certPEM(cert)),
		"pfx, in the clear":      makePFX(t, clearSafe(t, certBag(t, cert), clear)),
		"pfx, encrypted":         makePFXWithMAC(t, clearSafe(t, certBag(t, cert), sealed)),
		"pfx, in encrypted part": makePFXWithMAC(t, sealedSafe(t, bmp, certBag(t, cert), sealed)),
		"pfx, nested":            makePFX(t, clearSafe(t, certBag(t, cert), nested)),
	} {
		t.Run(name, func(t *testing.T) {
			if e := mustRefuse(t, value, Unsupported); !strings.Contains(e.Fact, "16385 bits") {
				t.Errorf("fact %q", e.Fact)
			}
		})
	}
	mustRefuse(t, join(block("RSA PRIVATE KEY", longRSA(t, maxRSABits)), certPEM(cert)), Corrupt) // it is looked at
}

// A key that is not needed is passed over for its kind as any other.
func TestALongRSAKeyBesideTheRightOneIsNoMatter(t *testing.T) {
	id := newChain(t, 1, newP256(t))[0]
	mustParse(t, join(block("RSA PRIVATE KEY", longRSA(t, maxRSABits+1)), certPEM(id.cert), keyPEM(t, id.key)))
}

func TestALongRSAKeyInPKCS12BesideTheRightOneIsNoMatter(t *testing.T) {
	bmp := []byte{0, 0}
	id := newChain(t, 1, newP256(t))[0]
	plain := must[[]byte](t)(asn1.Marshal(pkcs8{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oidRSA)}, PrivateKey: longRSA(t, maxRSABits+1)}))
	good, clear, sealed := sealedKey(t, id.key, bmp), makeBag(t, oidKeyBag, plain), sealedDER(t, plain, bmp)
	for name, safe := range map[string]contentInfo{
		"in the clear":      clearSafe(t, certBag(t, id.cert), good, clear),
		"encrypted":         clearSafe(t, certBag(t, id.cert), good, sealed),
		"in encrypted part": sealedSafe(t, bmp, certBag(t, id.cert), sealed, good),
		"of a usual size":   clearSafe(t, certBag(t, id.cert), good, sealedKey(t, newP256(t), bmp)),
	} {
		t.Run(name, func(t *testing.T) { mustParse(t, makePFXWithMAC(t, safe)) })
	}
}

// publicOnly is the key of a certificate that signs nothing.
type publicOnly struct {
	crypto.Signer
	public crypto.PublicKey
}

func (p publicOnly) Public() crypto.PublicKey { return p.public }

func TestRSACertificatesBeyondTheLimitAreUnsupported(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	with := func(bits uint) []*identity {
		key := publicOnly{public: &rsa.PublicKey{N: modulus(bits), E: 65537}}
		return append([]*identity{chain[0], chain[1]}, issue(t, chain[1], "long", key))
	}
	forms := map[string]func([]*identity) []byte{
		"pem": func(ids []*identity) []byte { return join(keyPEM(t, ids[0].key), certPEM(certsOf(ids...)...)) },
		"pfx": func(ids []*identity) []byte { return encodePFX(t, pkcs12.Passwordless, ids, "") },
	}
	for form, write := range forms {
		t.Run(form, func(t *testing.T) {
			if e := mustRefuse(t, write(with(maxRSABits+1)), Unsupported); !strings.Contains(e.Fact, `"CN=long" has 16385 bits`) {
				t.Errorf("fact %q", e.Fact)
			}
			mustParse(t, write(with(maxRSABits)))
		})
	}
}
