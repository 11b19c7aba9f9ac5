package certs

import (
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
	for _, w := range worldSeeds() {
		f.Add("", w)
	}
	f.Fuzz(func(t *testing.T, contentType string, value []byte) {
		before := string(value)
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
	})
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
