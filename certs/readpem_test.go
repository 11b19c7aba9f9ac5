package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
)

func block(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

func TestPEMIsReadInEveryFormThatToolsWrite(t *testing.T) {
	key := newP256(t)
	chain := newChain(t, 2, key)
	certs, pkcs8 := certPEM(certsOf(chain...)...), keyPEM(t, key)
	sec1 := must[[]byte](t)(x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey)))
	leaf := chain[0].cert.Raw
	for name, value := range map[string][]byte{
		"key first":            join(pkcs8, certs),
		"key last":             join(certs, pkcs8),
		"bom":                  join([]byte("\ufeff"), pkcs8, certs),
		"crlf":                 bytes.ReplaceAll(join(pkcs8, certs), []byte("\n"), []byte("\r\n")),
		"bag attributes":       join([]byte("Bag Attributes\n    localKeyID: 01\nsubject=/CN=x\n"), pkcs8, []byte("\nBag Attributes: <none>\n"), certs),
		"no final newline":     bytes.TrimSpace(join(pkcs8, certs)),
		"trailing spaces":      bytes.ReplaceAll(join(pkcs8, certs), []byte("-----\n"), []byte("-----  \n")),
		"sec1":                 join(block("EC PRIVATE KEY", sec1), certs),
		"sec1 and parameters":  join(block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}), block("EC PRIVATE KEY", sec1), certs),
		"sec1, wrong label":    join(block("PRIVATE KEY", sec1), certs), // x/crypto/pkcs12.ToPEM
		"old label":            join(block("X509 CERTIFICATE", leaf), pkcs8),
		"trusted":              join(block("TRUSTED CERTIFICATE", join(leaf, []byte{0x30, 0})), pkcs8),
		"request and key":      join(block("CERTIFICATE REQUEST", leaf), block("PUBLIC KEY", leaf), certs, pkcs8),
		"a second, locked key": join(block("ENCRYPTED PRIVATE KEY", leaf), certs, pkcs8),
		"two keys":             join(keyPEM(t, newP256(t)), certs, pkcs8),
	} {
		t.Run(name, func(t *testing.T) {
			b := mustParse(t, value)
			if !b.Leaf.Equal(chain[0].cert) || !bytes.Equal(b.PEM().Key(), pkcs8) {
				t.Error("another leaf or key")
			}
		})
	}
}

// encoding/pem passes over each of these without a word: the key, or an intermediate,
// would be missing.
func TestNoBlockIsLostSilently(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	first, second, key := certPEM(chain[0].cert), certPEM(chain[1].cert), keyPEM(t, chain[0].key)
	hole := bytes.Clone(second)
	hole[60] = '!'
	all := join(first, second, key)
	for name, value := range map[string][]byte{
		"broken base64":   join(first, hole, key),
		"cut short":       all[:len(all)-40],
		"no end":          join(bytes.Replace(first, []byte("-----END"), nil, 1), second, key),
		"nul bytes":       join(first, []byte{0, 0}, second, key),
		"glued":           join(bytes.TrimSpace(first), second, key),
		"cr only":         bytes.ReplaceAll(all, []byte("\n"), []byte("\r")),
		"literal \\n":     bytes.ReplaceAll(all, []byte("\n"), []byte(`\n`)),
		"no line breaks":  bytes.ReplaceAll(all, []byte("\n"), nil),
		"spaces instead":  bytes.ReplaceAll(all, []byte("\n"), []byte(" ")),
		"indented":        bytes.ReplaceAll(all, []byte("-----BEGIN"), []byte("  -----BEGIN")),
		"garbage DER":     join(first, block("CERTIFICATE", []byte("nothing")), key),
		"garbage key":     join(first, block("PRIVATE KEY", []byte("nothing"))),
		"empty block":     join(first, block("CERTIFICATE", nil), key),
		"garbage trusted": join(first, block("TRUSTED CERTIFICATE", []byte("?")), key),
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, value, Corrupt) })
	}
}

func TestTheDamagedBlockIsNamed(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	key := keyPEM(t, chain[0].key)
	bad := bytes.Replace(certPEM(chain[0].cert), []byte("MII"), []byte("!!!"), 1)
	e := mustRefuse(t, join(key, bad), Corrupt)
	if want := `"CERTIFICATE" in line 6`; !strings.Contains(e.Fact, want) {
		t.Errorf("%q does not say %s", e.Fact, want)
	}
	for _, frame := range []string{"-----BEGIN CERTIFICATE----", "-----BEGIN CERTIFICATE", "-----BEGIN-----", "-----BEGIN Certificate-----"} {
		damaged := bytes.Replace(bad, []byte("-----BEGIN CERTIFICATE-----"), []byte(frame), 1)
		if e := mustRefuse(t, join(key, damaged), Corrupt); !strings.Contains(e.Fact, "the PEM block in line 6") {
			t.Errorf("%q does not name the line alone", e.Fact)
		}
	}
	if e := mustRefuse(t, bytes.ReplaceAll(key, []byte("\n"), []byte(`\n`)), Corrupt); !strings.Contains(e.Hint, `\n`) {
		t.Errorf("hint %q", e.Hint)
	}
}

func TestKeysInPEMThatCannotBeUsed(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	cert := certPEM(chain[0].cert)
	old := "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n"
	mustRefuse(t, join(cert, []byte(old)), Password)
	mustRefuse(t, join(cert, block("ENCRYPTED PRIVATE KEY", []byte("x"))), Password)
	for _, label := range []string{"OPENSSH PRIVATE KEY", "DSA PRIVATE KEY"} {
		if e := mustRefuse(t, join(cert, block(label, []byte("x"))), Unsupported); !strings.Contains(e.Fact, label) {
			t.Errorf("%q does not name %s", e.Fact, label)
		}
		mustParse(t, join(cert, block(label, []byte("x")), keyPEM(t, chain[0].key))) // not needed
	}
}

func TestForeignBlocksArePassedOverWithAWarning(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	b := mustParse(t, join(block("X509 CRL", []byte("x")), certPEM(chain[0].cert), keyPEM(t, chain[0].key)))
	if !slices.Equal(b.Warnings, []string{`the PEM block "X509 CRL" is passed over`}) {
		t.Errorf("warnings %q", b.Warnings)
	}
}
