package certs

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
)

const redacted = "[redacted]"

// hidden keeps a value out of what package fmt prints. Methods of unexported fields are
// not asked, and a pointer is followed when its verb is wrong: %s of a struct with a
// pointer inside prints what it points to. Of a func it prints the address alone.
type hidden[T any] func() *T

func hide[T any](v T) hidden[T] { return func() *T { return &v } }

// KeyFormat is the encoding of the private key in a PEM.
type KeyFormat string

// The formats of a key. Servers read both; some older programs read the second alone.
const (
	PKCS8       KeyFormat = "pkcs8"       // PRIVATE KEY; the empty format is this one too
	Traditional KeyFormat = "traditional" // RSA PRIVATE KEY (PKCS#1), EC PRIVATE KEY (SEC 1); keys that have no such form (Ed25519, RSA-PSS) stay PKCS#8
)

// PEM is a bundle as text, in one buffer: the full chain first and the key last. The
// file layouts are slices of it, so a version is in memory once. The zero PEM is empty.
//
// It formats, logs and marshals as [redacted].
type PEM struct {
	text hidden[pemText] // nil in the zero PEM
}

type pemText struct {
	combined  []byte
	issuersAt int // combined[:issuersAt] is the leaf
	keyAt     int // combined[keyAt:] is the key
}

// PEM writes the bundle with its key as PKCS#8. The same bundle always gives the same
// bytes. It is rendered anew on each call: callers keep it.
func (b *Bundle) PEM() PEM { return b.PEMAs(PKCS8) }

// PEMAs is PEM with the key in the format f. One that is not known counts as PKCS8.
func (b *Bundle) PEMAs(f KeyFormat) PEM {
	label, key := b.keyBlock(f)
	served := slices.Concat(b.Chain, b.Extra)
	size := pemSize(len(key))
	for _, c := range served {
		size += pemSize(len(c.Raw))
	}
	var out bytes.Buffer
	out.Grow(size) // so that no copy of the key is left behind by growing
	text := pemText{}
	for i, c := range served {
		writeBlock(&out, "CERTIFICATE", c.Raw)
		if i == 0 {
			text.issuersAt = out.Len()
		}
	}
	text.keyAt = out.Len()
	if key != nil {
		writeBlock(&out, label, key)
	}
	text.combined = out.Bytes()
	return PEM{hide(text)}
}

// keyBlock returns the key as the block of a PEM, or nothing without a key.
func (b *Bundle) keyBlock(f KeyFormat) (label string, der []byte) {
	if !b.HasKey() {
		return "", nil
	}
	key := b.key()
	if f == Traditional {
		if label, der, ok := key.traditional(); ok {
			return label, der
		}
	}
	return "PRIVATE KEY", key.pkcs8
}

// pemSize is an upper bound of the size of a block of n bytes.
func pemSize(n int) int {
	digits := (n + 2) / 3 * 4
	return digits + digits/64 + 1 + len("-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n")
}

// writeBlock writes lines of 64 digits, each with a line feed, and no headers.
func writeBlock(out *bytes.Buffer, label string, der []byte) {
	_ = pem.Encode(out, &pem.Block{Type: label, Bytes: der}) // a bytes.Buffer does not fail
}

// Combined is the full chain, then the key: the one file that nginx and haproxy can read
// both from. It is nil without a key. The bytes must not be changed.
func (p PEM) Combined() []byte {
	if !p.hasKey() {
		return nil
	}
	return p.text().combined
}

// FullChain is the leaf, the intermediates, the root if the value holds it, and the
// extra certificates; no key. The bytes must not be changed; appending copies.
func (p PEM) FullChain() []byte {
	if p.text == nil {
		return nil
	}
	text := p.text()
	return text.combined[:text.keyAt:text.keyAt]
}

// Leaf is the leaf alone. The bytes must not be changed; appending copies.
func (p PEM) Leaf() []byte {
	if p.text == nil {
		return nil
	}
	text := p.text()
	return text.combined[:text.issuersAt:text.issuersAt]
}

// Issuers is the full chain but for the leaf. It may be empty. The bytes must not be
// changed; appending copies.
func (p PEM) Issuers() []byte {
	if p.text == nil {
		return nil
	}
	text := p.text()
	return text.combined[text.issuersAt:text.keyAt:text.keyAt]
}

// Key is the private key alone, or nil without one. The bytes must not be changed.
func (p PEM) Key() []byte {
	if !p.hasKey() {
		return nil
	}
	text := p.text()
	return text.combined[text.keyAt:]
}

func (p PEM) hasKey() bool {
	return p.text != nil && p.text().keyAt < len(p.text().combined)
}

// String redacts the text.
func (p PEM) String() string { return redacted }

// Format redacts every verb.
func (p PEM) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue redacts the text in logs.
func (p PEM) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts the text in JSON.
func (p PEM) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
