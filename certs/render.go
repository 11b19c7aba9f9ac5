package certs

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// hidden keeps a value out of what package fmt prints. Methods of unexported fields are
// not asked, and a pointer is followed when its verb is wrong: %s of a struct with a
// pointer inside prints what it points to. Of a func it prints the address alone.
type hidden[T any] func() *T

func hide[T any](v T) hidden[T] { return func() *T { return &v } }

// PEM is a bundle as text, in one buffer: the full chain first and the key last. The
// file layouts are slices of it, so a version is in memory once. The zero PEM is empty.
//
// It formats, logs and marshals as [redacted].
type PEM struct {
	text hidden[pemText] // nil in the zero PEM
}

type pemText struct {
	combined []byte
	keyAt    int // combined[keyAt:] is the key
}

// PEM writes the bundle. The same bundle always gives the same bytes. It is rendered
// anew on each call: callers keep it.
func (b *Bundle) PEM() PEM {
	size := 0
	for _, c := range b.Chain {
		size += pemSize(len(c.Raw))
	}
	for _, c := range b.Extra {
		size += pemSize(len(c.Raw))
	}
	var out bytes.Buffer
	out.Grow(size + pemSize(len(b.key().pkcs8))) // so that no copy of the key is left behind by growing
	for _, c := range b.Chain {
		writeBlock(&out, "CERTIFICATE", c.Raw)
	}
	for _, c := range b.Extra {
		writeBlock(&out, "CERTIFICATE", c.Raw)
	}
	keyAt := out.Len()
	writeBlock(&out, "PRIVATE KEY", b.key().pkcs8)
	return PEM{hide(pemText{out.Bytes(), keyAt})}
}

// pemSize is an upper bound of the size of a block of n bytes.
func pemSize(n int) int {
	digits := (n + 2) / 3 * 4
	return digits + digits/64 + 1 + len("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
}

// writeBlock writes lines of 64 digits, each with a line feed, and no headers.
func writeBlock(out *bytes.Buffer, label string, der []byte) {
	_ = pem.Encode(out, &pem.Block{Type: label, Bytes: der}) // a bytes.Buffer does not fail
}

// Combined is the full chain, then the key as PKCS#8: the one file that nginx and
// haproxy can read both from. The bytes must not be changed.
func (p PEM) Combined() []byte {
	if p.text == nil {
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

// Key is the private key alone, as PKCS#8. The bytes must not be changed.
func (p PEM) Key() []byte {
	if p.text == nil {
		return nil
	}
	text := p.text()
	return text.combined[text.keyAt:]
}

// String redacts the text.
func (p PEM) String() string { return redacted }

// Format redacts every verb.
func (p PEM) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue redacts the text in logs.
func (p PEM) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts the text in JSON.
func (p PEM) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
