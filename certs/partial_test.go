package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// Key Vault's secret of a certificate that is not exportable: the chain is there, the key
// is not.
func TestWithoutAKeyTheChainIsServedAllTheSame(t *testing.T) {
	bmp := []byte{0, 0}
	for kind, key := range testKeys(t) {
		chain := newChain(t, 3, key)
		bags := certBags(t, []*identity{chain[2], chain[0], chain[1]})
		stranger := issue(t, nil, "stranger", newP256(t)).cert
		for form, tt := range map[string]struct {
			value []byte
			chain []*identity
			extra int
		}{
			"pem":               {certPEM(chain[2].cert, chain[0].cert, chain[1].cert), chain, 0},
			"key vault's pfx":   {makePFXWithMAC(t, sealedSafe(t, bmp, bags...)), chain, 0},
			"java's trust":      {must[[]byte](t)(pkcs12.Modern2023.EncodeTrustStore(certsOf(chain...), "")), chain, 0},
			"der":               {chain[0].cert.Raw, chain[:1], 0},
			"without its root":  {certPEM(chain[1].cert, chain[0].cert), chain[:2], 0},
			"alone":             {certPEM(chain[0].cert), chain[:1], 0},
			"twice":             {certPEM(chain[0].cert, chain[1].cert, chain[0].cert), chain[:2], 0},
			"beside a stranger": {certPEM(stranger, chain[1].cert, chain[0].cert), chain[:2], 1},
		} {
			t.Run(kind+" "+form, func(t *testing.T) {
				b := mustRefuse(t, tt.value, NoPrivateKey).Partial
				if b == nil {
					t.Fatal("nothing can be served")
				}
				checkInvariants(t, b)
				wantChain(t, b, tt.chain...)
				whole := mustParse(t, join(keyPEM(t, key), certPEM(slices.Concat(b.Extra, b.Chain)...)))
				if b.HasKey() || !whole.HasKey() {
					t.Error("wrong about the key")
				}
				if b.KeyType() != kind || b.SPKI() != whole.SPKI() || b.Thumbprint() != whole.Thumbprint() || len(b.Extra) != tt.extra {
					t.Errorf("type %s, extra %v", b.KeyType(), subjects(b.Extra))
				}
				p := b.PEM()
				if p.Combined() != nil || p.Key() != nil || string(p.FullChain()) != string(whole.PEM().FullChain()) {
					t.Error("the text is not the chain alone")
				}
				if info := b.Inspect(""); info.Key.Type != kind {
					t.Errorf("%+v", info.Key)
				}
			})
		}
	}
}

func TestTheLeafWithoutAKeyIsTheOneThatCertifiesNothing(t *testing.T) {
	root := issue(t, nil, "root", newP256(t))
	other := issue(t, nil, "other root", newP256(t))
	sub := issue(t, root, "sub", newP256(t))
	leafKey := newP256(t)
	old := issue(t, sub, "www", leafKey, asLeaf, from(2024))
	renewed := issue(t, sub, "www", leafKey, asLeaf, from(2026))
	single := issue(t, nil, "self-signed by openssl", newP256(t)) // which marks it as a CA
	keyA, keyB := newP256(t), newP256(t)
	a := issue(t, nil, "a", keyA)
	bByA := issue(t, a, "b", keyB)
	aByB := issue(t, bByA, "a", keyA)
	for name, tt := range map[string]struct {
		certs []*identity
		leaf  *identity // nil if none is plainly it
	}{
		"the newer of two":          {[]*identity{root, old, renewed, sub}, renewed},
		"no CA before a CA":         {[]*identity{other, root, sub, old}, old},
		"a CA alone":                {[]*identity{single}, single},
		"an intermediate, its root": {[]*identity{root, sub}, sub},
		"roots":                     {[]*identity{root, other}, nil},
		"a loop":                    {[]*identity{bByA, aByB}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				b := mustRefuse(t, certPEM(certsOf(tt.certs...)...), NoPrivateKey).Partial
				switch {
				case tt.leaf == nil && b != nil:
					t.Errorf("leaf %v", b.Leaf.Subject)
				case tt.leaf != nil && (b == nil || !b.Leaf.Equal(tt.leaf.cert)):
					t.Errorf("%v is not the leaf", tt.leaf.cert.Subject)
				}
				slices.Reverse(tt.certs)
			}
		})
	}
}

func TestOnlyAMissingKeyHasAPartial(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	certs := certPEM(certsOf(chain...)...)
	for kind, value := range map[Kind][]byte{
		KeyMismatch:   join(certs, keyPEM(t, newP256(t))),
		Password:      join(certs, block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0})),
		Unsupported:   join(certs, block("DSA PRIVATE KEY", []byte{0x30, 0})),
		Corrupt:       join(certs, block("PRIVATE KEY", []byte{0x30, 0})),
		NoCertificate: keyPEM(t, chain[0].key),
	} {
		if e := mustRefuse(t, value, kind); e.Partial != nil {
			t.Errorf("%s has a partial bundle", kind)
		}
	}
}

func TestMissingIssuersCompleteTheChain(t *testing.T) {
	chain := newChain(t, 4, newP256(t))
	stranger, extra := issue(t, nil, "stranger", newP256(t)), issue(t, nil, "extra", newP256(t))
	impostor := issue(t, nil, "ca1", newP256(t))
	b := mustParse(t, join(keyPEM(t, chain[0].key), certPEM(chain[0].cert, extra.cert)))
	before := slices.Clone(b.Warnings)
	full := b.WithIssuers(append(certsOf(stranger, impostor, chain[2], chain[3], chain[1], chain[1], chain[0]), nil))
	checkInvariants(t, full)
	wantChain(t, full, chain...)
	if got := subjects(full.Extra); !slices.Equal(got, []string{"extra"}) {
		t.Errorf("extra %v", got)
	}
	if !full.Complete() || len(full.Warnings) != 1 {
		t.Errorf("warnings %q", full.Warnings)
	}
	if string(full.PEM().Key()) != string(b.PEM().Key()) || full.SPKI() != b.SPKI() {
		t.Error("another key")
	}
	if b.Complete() || len(b.Chain) != 1 || !slices.Equal(b.Warnings, before) {
		t.Error("the bundle itself has changed")
	}
	half := b.WithIssuers(certsOf(chain[1]))
	wantChain(t, half, chain[:2]...)
	wantWarning(t, half, `issuer "CN=ca2" is missing`)
	wantChain(t, half.WithIssuers(certsOf(chain[2], chain[3])), chain[0]) // what more was is not kept
	wantChain(t, b.WithIssuers(nil), chain[0])
}

// What reading the value warned of stays; a certificate that finds its place loses its
// warning.
func TestWarningsFitTheNewChain(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	b := mustParse(t, join(keyPEM(t, newP256(t)), keyPEM(t, chain[0].key), certPEM(chain[0].cert, chain[2].cert)))
	wantWarning(t, b, "2 private keys")
	wantWarning(t, b, `"CN=ca2" is not in the served chain`)
	full := b.WithIssuers(certsOf(chain[1]))
	if len(full.Warnings) != 1 || len(full.Extra) != 0 {
		t.Errorf("warnings %q, extra %v", full.Warnings, subjects(full.Extra))
	}
	wantWarning(t, full, "2 private keys")
	partial := mustRefuse(t, certPEM(chain[0].cert), NoPrivateKey).Partial.WithIssuers(certsOf(chain...))
	wantChain(t, partial, chain...)
	if partial.HasKey() {
		t.Error("a key out of nothing")
	}
}

func TestKeysInTheTraditionalForm(t *testing.T) {
	for kind, key := range testKeys(t) {
		chain := newChain(t, 2, key)
		b := mustParse(t, join(keyPEM(t, key), certPEM(certsOf(chain...)...)))
		p := b.PEMAs(Traditional)
		label := "EC PRIVATE KEY"
		switch {
		case strings.HasPrefix(kind, "RSA"):
			label = "RSA PRIVATE KEY"
		case kind == "Ed25519":
			label = "PRIVATE KEY"
		}
		written, _ := pem.Decode(p.Key())
		if written == nil || written.Type != label {
			t.Fatalf("%s: %.30q", kind, p.Key())
		}
		if k, ok := key.(*ecdsa.PrivateKey); ok && string(written.Bytes) != string(must[[]byte](t)(x509.MarshalECPrivateKey(k))) {
			t.Errorf("%s: not the bytes that crypto/x509 writes", kind)
		}
		if again := mustParse(t, p.Combined()); string(again.PEM().Combined()) != string(b.PEM().Combined()) {
			t.Errorf("%s: it is not read back", kind)
		}
		path := saved(t, "key.pem", p.Key())
		if out := program(t, "openssl", "pkey", "-in", path); string(out) != string(b.PEM().Key()) {
			t.Errorf("%s: openssl reads another key", kind)
		}
		if string(p.FullChain()) != string(b.PEM().FullChain()) {
			t.Errorf("%s: another chain", kind)
		}
	}
	if p := pssBundle(t); string(p.PEMAs(Traditional).Key()) != string(p.PEM().Key()) {
		t.Error("a key for RSA-PSS alone has lost what it is for")
	}
}

func TestPartsOfThePEMAreSlicesOfOneBuffer(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	for _, f := range []KeyFormat{PKCS8, Traditional, ""} {
		for depth := 1; depth <= 3; depth++ {
			p := mustParse(t, join(keyPEM(t, chain[0].key), certPEM(certsOf(chain[:depth]...)...))).PEMAs(f)
			if string(p.Leaf()) != string(certPEM(chain[0].cert)) || string(join(p.Leaf(), p.Issuers(), p.Key())) != string(p.Combined()) {
				t.Errorf("the parts of %q are not the whole", f)
			}
			if &p.Leaf()[0] != &p.Combined()[0] || p.Issuers() == nil {
				t.Error("the leaf is a copy, or no issuers are no slice")
			}
			key := string(p.Key())
			_, _ = append(p.Leaf(), "overwritten"...), append(p.Issuers(), "overwritten"...)
			if string(p.Key()) != key || len(p.Issuers()) > 0 && p.Issuers()[0] != '-' {
				t.Error("appending overwrites what follows")
			}
		}
	}
	var zero PEM
	if zero.Leaf() != nil || zero.Issuers() != nil || zero.Key() != nil || zero.Combined() != nil {
		t.Error("the zero PEM is not empty")
	}
}
