package certs

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	frozen "golang.org/x/crypto/pkcs12"
	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// agree checks that a file which x/crypto/pkcs12 reads is read alike: the same
// certificates, and one of its keys. It reports whether the oracle reads the file.
func agree(t *testing.T, value []byte) bool {
	t.Helper()
	blocks, err := frozen.ToPEM(value, "")
	if err != nil {
		return false
	}
	certs := make(map[string]bool)
	keys := make(map[string]bool)
	for _, block := range blocks {
		if block.Type == "CERTIFICATE" {
			certs[string(block.Bytes)] = true
		} else if key, err := parseKey(block.Bytes); err == nil {
			keys[string(key.pkcs8)] = true
		}
	}
	b, err := Parse("", value)
	if len(certs) == 0 || len(keys) == 0 {
		if err == nil {
			t.Error("the oracle finds no pair of a key and a certificate")
		}
		return true
	}
	if err != nil {
		t.Errorf("the oracle reads what is refused here: %v", err)
		return true
	}
	compare(t, b, certs, keys)
	return true
}

func compare(t *testing.T, b *Bundle, certs, keys map[string]bool) {
	t.Helper()
	rest := b.PEM().FullChain()
	n := 0
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		n++
		if !certs[string(block.Bytes)] {
			t.Error("a certificate that the oracle does not find")
		}
	}
	if n != len(certs) {
		t.Errorf("%d certificates, the oracle finds %d", n, len(certs))
	}
	if key, _ := pem.Decode(b.PEM().Key()); !keys[string(key.Bytes)] {
		t.Error("a key that the oracle does not find")
	}
}

func TestWhatTheFrozenDecoderReadsIsReadAlike(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	read := 0
	for _, enc := range []*pkcs12.Encoder{pkcs12.LegacyRC2, pkcs12.LegacyDES} {
		for depth := 1; depth <= 3; depth++ {
			for _, order := range [][]*identity{chain[:depth], {chain[0], chain[depth-1]}} {
				if agree(t, encodePFX(t, enc, order, "")) {
					read++
				}
			}
		}
	}
	if read != 12 {
		t.Errorf("the oracle read %d files of 12: nothing was compared with the others", read)
	}
}

func TestWhatTheFrozenDecoderReadsOfTheWorldIsReadAlike(t *testing.T) {
	read := 0
	for _, w := range loadWorldBundles(t) {
		data, err := os.ReadFile(filepath.Join(worldBundles, w.File))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(data, []byte("-----")) {
			continue
		}
		t.Run(w.ID, func(t *testing.T) {
			if agree(t, data) {
				read++
			}
		})
	}
	if read < 10 {
		t.Errorf("the oracle read %d files: nothing much was compared", read)
	}
}
