package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

func testKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	return map[string]crypto.Signer{
		"EC-P-256": newP256(t),
		"EC-P-384": must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"EC-P-521": must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
		"Ed25519":  newEd25519(t),
		"RSA-2048": must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)),
	}
}

func encoders() map[string]*pkcs12.Encoder {
	return map[string]*pkcs12.Encoder{
		"rc2": pkcs12.LegacyRC2, "3des": pkcs12.LegacyDES, "aes": pkcs12.Modern2023, "pbmac1": pkcs12.Modern2026, "clear": pkcs12.Passwordless,
	}
}

func TestEveryKeyTypeReadsFromEveryForm(t *testing.T) {
	for kind, key := range testKeys(t) {
		chain := newChain(t, 3, key)
		forms := map[string][]byte{"pem": join(keyPEM(t, key), certPEM(certsOf(chain...)...))}
		for name, enc := range encoders() {
			forms[name] = encodePFX(t, enc, chain, "")
			forms[name+" base64"] = []byte(base64.StdEncoding.EncodeToString(forms[name]))
		}
		for form, value := range forms {
			t.Run(kind+" "+form, func(t *testing.T) {
				b := mustParse(t, value)
				if b.KeyType() != kind {
					t.Errorf("key type %s", b.KeyType())
				}
				if !slices.EqualFunc(b.Chain, certsOf(chain...), (*x509.Certificate).Equal) {
					t.Errorf("chain %v", subjects(b.Chain))
				}
				if !b.Complete() || len(b.Extra) > 0 || len(b.Warnings) > 0 {
					t.Errorf("complete %v, extra %v, warnings %q", b.Complete(), subjects(b.Extra), b.Warnings)
				}
			})
		}
	}
}

// The order in the value must not matter: Key Vault writes PEM as people uploaded it.
func TestAnyOrderAndDepthGivesTheSameChain(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for depth := 1; depth <= 5; depth++ {
		chain := newChain(t, depth, newP256(t))
		blocks := [][]byte{keyPEM(t, chain[0].key)}
		for _, id := range chain {
			blocks = append(blocks, certPEM(id.cert))
		}
		want := join(certPEM(certsOf(chain...)...), blocks[0])
		for range 20 {
			random.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
			b := mustParse(t, join(blocks...))
			if got := b.PEM().Combined(); !bytes.Equal(got, want) {
				t.Fatalf("depth %d: %v", depth, subjects(b.Chain))
			}
		}
	}
}

func TestDuplicatesAreServedOnce(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	all := certPEM(certsOf(chain...)...)
	b := mustParse(t, join(all, keyPEM(t, chain[0].key), all))
	if len(b.Chain) != 3 || len(b.Extra) != 0 {
		t.Errorf("chain %v, extra %v", subjects(b.Chain), subjects(b.Extra))
	}
}

func TestRefusedValuesSayWhatTheyAre(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	certs, key := certPEM(certsOf(chain...)...), keyPEM(t, chain[0].key)
	good := encodePFX(t, pkcs12.LegacyDES, chain, "")
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	for _, tt := range []struct {
		name  string
		value []byte
		kind  Kind
		fact  string
	}{
		{"empty", nil, NotACertificate, "empty"},
		{"a password", []byte("correct horse"), NotACertificate, "neither PKCS#12 nor PEM"},
		{"a connection string", []byte("Server=tcp:x;Password=y"), NotACertificate, "neither"},
		{"json", []byte(`{"a":1}`), NotACertificate, "neither"},
		{"too long", make([]byte, maxValue+1), Unsupported, "262145 bytes"},
		{"key alone", key, NoCertificate, "1 private key"},
		{"certificates alone", certs, NoPrivateKey, "2 certificates"},
		{"certificate in DER", chain[0].cert.Raw, NoPrivateKey, "in DER"},
		{"key in DER", pkcs8Of(t, chain[0].key), NoCertificate, "in DER"},
		{"key of another", join(certs, keyPEM(t, newP256(t))), KeyMismatch, "EC-P-256"},
		{"pfx with a password", encodePFX(t, pkcs12.LegacyDES, chain, "secret"), Password, "password"},
		{"modern pfx with a password", encodePFX(t, pkcs12.Modern2023, chain, "secret"), Password, "password"},
		{"pbmac1 pfx with a password", encodePFX(t, pkcs12.Modern2026, chain, "secret"), Password, "password"},
		{"pfx cut short", good[:len(good)-10], Corrupt, "cut short"},
		{"base64 cut short", []byte(base64.StdEncoding.EncodeToString(good)[:1000]), Corrupt, "cut short"},
		{"base64 with a hole", []byte("MII!" + base64.StdEncoding.EncodeToString(good)), Corrupt, "base64"},
		{"pfx with a flipped bit", bad, Password, "damaged"},
		{"utf-16", []byte("\xff\xfe-\x00-\x00"), Corrupt, "UTF-16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if e := mustRefuse(t, tt.value, tt.kind); !strings.Contains(e.Fact, tt.fact) {
				t.Errorf("the fact %q does not say %q", e.Fact, tt.fact)
			}
		})
	}
}

func TestContentTypeIsAHintAlone(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	text := join(certPEM(certsOf(chain...)...), keyPEM(t, chain[0].key))
	pfx := []byte(base64.StdEncoding.EncodeToString(encodePFX(t, pkcs12.Modern2023, chain, "")))
	for _, contentType := range []string{"", "text/plain", contentTypePEM, contentTypePKCS12, "Application/X-PKCS12"} {
		for form, value := range map[string][]byte{"pem": text, "pfx": pfx} {
			if _, err := Parse(contentType, value); err != nil {
				t.Errorf("%s as %q: %v", form, contentType, err)
			}
		}
	}
	var e *Error
	if _, err := Parse(contentTypePKCS12, []byte("no such thing")); !errors.As(err, &e) || e.Kind != Corrupt {
		t.Errorf("a value that claims to be PKCS#12 and is not: %v", err)
	}
}

func TestBase64IsForgiven(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	encoded := base64.StdEncoding.EncodeToString(encodePFX(t, pkcs12.LegacyDES, chain, ""))
	var wrapped strings.Builder
	for part := range slices.Chunk([]byte(encoded), 64) {
		fmt.Fprintf(&wrapped, "  %s\r\n", part)
	}
	for name, value := range map[string]string{
		"wrapped": wrapped.String(), "no padding": strings.TrimRight(encoded, "="), "bom": "\ufeff" + encoded, "too much padding": encoded + "==",
	} {
		t.Run(name, func(t *testing.T) { mustParse(t, []byte(value)) })
	}
	t.Run("of a PEM", func(t *testing.T) {
		text := join(certPEM(chain[0].cert), keyPEM(t, chain[0].key))
		mustParse(t, []byte(base64.StdEncoding.EncodeToString(text)))
	})
}

func TestBytesAfterThePFXArePassedOverWithAWarning(t *testing.T) {
	pfx := encodePFX(t, pkcs12.LegacyDES, newChain(t, 1, newP256(t)), "")
	if b := mustParse(t, join(pfx, []byte("\r\n"))); len(b.Warnings) > 0 {
		t.Errorf("a line end is worth no warning: %q", b.Warnings)
	}
	if b := mustParse(t, join(pfx, []byte("junk"))); len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], "4 bytes") {
		t.Errorf("warnings %q", b.Warnings)
	}
}

func TestAKeyWithAttributesIsReadAndWrittenWithout(t *testing.T) {
	id := newChain(t, 1, newP256(t))[0]
	plain := pkcs8Of(t, id.key)
	e, _, err := readElement(plain, maxDepth)
	if err != nil {
		t.Fatal(err)
	}
	// keyUsage, as Key Vault adds it: [0] { SEQUENCE { 2.5.29.15, SET { BIT STRING } } }
	attributes := []byte{0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x31, 0x04, 0x03, 0x02, 0x00, 0x80}
	with := appendElement(nil, 0x30, join(e.content, attributes))
	b := mustParse(t, join(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: with}), certPEM(id.cert)))
	block, _ := pem.Decode(b.PEM().Key())
	if !bytes.Equal(block.Bytes, plain) {
		t.Error("the key was not written as plain PKCS#8")
	}
}

func TestCombinedFileIsWhatServersRead(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	other := issue(t, nil, "unrelated", newP256(t))
	p := mustParse(t, join(keyPEM(t, chain[0].key), certPEM(other.cert), certPEM(certsOf(chain...)...))).PEM()
	pair, err := tls.X509KeyPair(p.Combined(), p.Combined())
	if err != nil {
		t.Fatal(err)
	}
	want := append(certsOf(chain...), other.cert)
	if len(pair.Certificate) != len(want) {
		t.Fatalf("%d certificates, want %d", len(pair.Certificate), len(want))
	}
	for i, c := range want {
		if !bytes.Equal(pair.Certificate[i], c.Raw) {
			t.Errorf("certificate %d is not %v", i, c.Subject)
		}
	}
	if _, err := tls.X509KeyPair(p.FullChain(), p.Key()); err != nil {
		t.Errorf("as two files: %v", err)
	}
}

func TestPEMLayout(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	b := mustParse(t, encodePFX(t, pkcs12.LegacyDES, chain, ""))
	p := b.PEM()
	if !bytes.Equal(p.Combined(), join(p.FullChain(), p.Key())) {
		t.Error("combined is not the chain and then the key")
	}
	if !bytes.Equal(p.Combined(), b.PEM().Combined()) {
		t.Error("the same bundle gives other bytes")
	}
	for line := range strings.Lines(string(p.Combined())) {
		if len(line) > 65 || !strings.HasSuffix(line, "\n") || strings.Contains(line, "\r") || strings.Contains(line, ":") {
			t.Errorf("line %q", line)
		}
	}
	if bytes.Contains(p.FullChain(), []byte("PRIVATE")) || !bytes.HasPrefix(p.Key(), []byte("-----BEGIN PRIVATE KEY-----\n")) {
		t.Error("the key is in the wrong part")
	}
	before := bytes.Clone(p.Key())
	_ = append(p.FullChain(), "overwritten"...)
	if !bytes.Equal(p.Key(), before) {
		t.Error("appending to the chain overwrites the key")
	}
	if n := pemBound(b); len(p.Combined()) > n || cap(p.Combined()) > n+n/2 {
		t.Errorf("%d bytes in a buffer of %d, bound %d: it has grown and left the key behind", len(p.Combined()), cap(p.Combined()), n)
	}
	var zero PEM
	if zero.Combined() != nil || zero.FullChain() != nil || zero.Key() != nil {
		t.Error("the zero PEM is not empty")
	}
}

func pemBound(b *Bundle) int {
	n := pemSize(len(b.key().pkcs8))
	for _, c := range append(slices.Clone(b.Chain), b.Extra...) {
		n += pemSize(len(c.Raw))
	}
	return n
}
