package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

func known(kind Kind) bool {
	return slices.Contains([]Kind{Corrupt, Password, NoCertificate, NoPrivateKey, KeyMismatch, NotACertificate, Unsupported}, kind)
}

// FuzzParse: any value gives an error of a known kind for a person, or a bundle that
// keeps the promises of the package.
func FuzzParse(f *testing.F) {
	bmp := []byte{0, 0}
	chain := newChain(f, 3, newP256(f))
	certs, key := certPEM(certsOf(chain...)...), keyPEM(f, chain[0].key)
	f.Add("", []byte(nil))
	f.Add(contentTypePEM, join(key, certs))
	f.Add("", join(certs, key, keyPEM(f, newP256(f))))
	for _, enc := range encoders() {
		f.Add(contentTypePKCS12, encodePFX(f, enc.WithIterations(1), chain, ""))
	}
	f.Add("", encodePFX(f, pkcs12.LegacyDES.WithIterations(1), chain, "x"))
	f.Add("", toBER(f, encodePFX(f, pkcs12.LegacyDES.WithIterations(1), chain[:1], "")))
	bags := certBags(f, chain)
	f.Add("", makePFX(f, clearSafe(f, sealedKey(f, chain[0].key, bmp), sealedKey(f, newP256(f), bmp)), sealedSafe(f, bmp, bags...)))
	f.Add("", makePFX(f, clearSafe(f, append(bags, makeBag(f, oidKeyBag, pkcs8Of(f, chain[0].key)), shroudedBag(f, 5))...)))
	for _, seed := range slices.Concat(worldSeeds(), corpusSeeds(f)) {
		f.Add("", seed)
	}
	f.Fuzz(func(t *testing.T, contentType string, value []byte) {
		before := string(value)
		work := &effort{limit: maxReading / 10} // a fuzzer has no time for more
		_, refusal := parse(contentType, value, work)
		if work.done > work.reserved || work.reserved > work.limit {
			t.Fatalf("%d steps done of %d reserved", work.done, work.reserved)
		}
		if work.exhausted && refusal != nil {
			return
		}
		b, err := Parse(contentType, value)
		if string(value) != before {
			t.Fatal("the value was changed")
		}
		if err == nil {
			checkInvariants(t, b)
			return
		}
		var e *Error
		if !errors.As(err, &e) || !known(e.Kind) || e.Fact == "" || e.Hint == "" || b != nil {
			t.Fatalf("%#v", err)
		}
		if e.Fact == decoderGaveUp {
			t.Fatal("a decoder panicked")
		}
		if e.Partial != nil {
			checkInvariants(t, e.Partial)
			if e.Kind != NoPrivateKey || e.Partial.HasKey() {
				t.Fatalf("%s with a bundle", e.Kind)
			}
		}
	})
}

// FuzzChain: of any set of certificates, in any order, that have signed each other in any
// way, the chain is as good as the best that trying all of them finds.
func FuzzChain(f *testing.F) {
	pool, leafKey := certificatePool(f)
	key := keyPEM(f, leafKey)
	signed := make(map[[2]*x509.Certificate]bool)
	for _, child := range pool {
		for _, issuer := range pool {
			signed[[2]*x509.Certificate{child, issuer}] = bytes.Equal(child.RawIssuer, issuer.RawSubject) &&
				issuer.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
		}
	}
	f.Add([]byte{0, 5, 6, 7})
	f.Add([]byte{0, 5, 10, 15, 20, 25, 29})
	f.Add([]byte{0, 1, 9, 9, 17, 21, 13, 6, 30, 31})
	f.Fuzz(func(t *testing.T, picks []byte) {
		certs := []*x509.Certificate{}
		for _, pick := range picks[:min(len(picks), 10)] {
			certs = append(certs, pool[int(pick)%len(pool)])
		}
		b, err := Parse("", join(key, certPEM(certs...)))
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Kind != NoCertificate && e.Kind != KeyMismatch {
				t.Fatal(err)
			}
			return
		}
		checkInvariants(t, b)
		if n := len(b.Chain) + len(b.Extra); n != len(distinct(certs)) {
			t.Fatalf("%d certificates of %d", n, len(distinct(certs)))
		}
		leaf := slices.IndexFunc(certs, b.Leaf.Equal)
		if rooted, length := bestChain(distinct(certs), []*x509.Certificate{certs[leaf]}, signed); b.Complete() != rooted || len(b.Chain) != length {
			t.Fatalf("%v (rooted %v); there is one of %d (rooted %v)", subjects(b.Chain), b.Complete(), length, rooted)
		}
	})
}

// certificatePool is leaves of one key and, of five CAs of which two share a name, all the
// certificates that each could give another and itself.
func certificatePool(t testing.TB) ([]*x509.Certificate, crypto.Signer) {
	t.Helper()
	leafKey := newP256(t)
	cas := []*identity{}
	for _, name := range []string{"a", "b", "c", "d", "d"} {
		cas = append(cas, issue(t, nil, name, newP256(t)))
	}
	pool := []*x509.Certificate{}
	for _, ca := range cas {
		pool = append(pool, issue(t, ca, "leaf", leafKey, asLeaf).cert)
	}
	for _, issuer := range cas {
		for _, subject := range cas {
			pool = append(pool, issue(t, issuer, subject.cert.Subject.CommonName, subject.key).cert)
		}
	}
	return append(pool, issue(t, nil, "leaf", leafKey, asLeaf).cert, issue(t, nil, "stranger", newP256(t)).cert), leafKey
}

// bestChain tries all paths up from the end of path in which no CA comes twice.
func bestChain(certs, path []*x509.Certificate, signed map[[2]*x509.Certificate]bool) (rooted bool, length int) {
	last := path[len(path)-1]
	if signed[[2]*x509.Certificate{last, last}] {
		return true, len(path)
	}
	length = len(path)
	for _, c := range certs {
		again := slices.ContainsFunc(path, func(p *x509.Certificate) bool {
			return bytes.Equal(p.RawSubject, c.RawSubject) && bytes.Equal(p.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
		})
		if again || !signed[[2]*x509.Certificate{last, c}] {
			continue
		}
		r, n := bestChain(certs, append(slices.Clone(path), c), signed)
		if r && !rooted || r == rooted && n > length {
			rooted, length = r, n
		}
	}
	return rooted, length
}

// FuzzDecodeInput: any file gives an *Error, or something for Parse.
func FuzzDecodeInput(f *testing.F) {
	f.Add([]byte(`{"contentType":"application/x-pem-file","value":"-----BEGIN"}`))
	f.Add([]byte("MIIB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e *Error
		_, value, err := DecodeInput(data)
		if err != nil && (!errors.As(err, &e) || !known(e.Kind)) {
			t.Fatalf("%#v", err)
		}
		if len(value) > len(data) {
			t.Fatal("the value is longer than the file")
		}
	})
}

// worldSeeds are small files of other test suites, where they are.
func worldSeeds() (seeds [][]byte) {
	files, _ := filepath.Glob(filepath.Join(worldBundles, "p*", "*"))
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil && len(data) < 2000 {
			seeds = append(seeds, data)
		}
	}
	return seeds
}

func BenchmarkParse(b *testing.B) {
	chain := newChain(b, 3, newP256(b))
	for name, value := range map[string][]byte{
		"pem":              join(keyPEM(b, chain[0].key), certPEM(certsOf(chain...)...)),
		"pfx":              encodePFX(b, pkcs12.LegacyDES.WithIterations(2000), chain, ""),
		"pfx of Key Vault": keyFirst(b, encodePFX(b, pkcs12.LegacyDES.WithIterations(2000), chain, "")),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Parse("", value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// keyFirst puts the parts of a file in the order in which Key Vault writes them.
func keyFirst(t testing.TB, value []byte) []byte {
	t.Helper()
	safes := safesOf(t, value)
	slices.Reverse(safes)
	return makePFXWithMAC(t, safes...)
}
