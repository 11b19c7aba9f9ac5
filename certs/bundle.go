package certs

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Version names one version of a secret: 32 hex digits as the service gives it.
type Version string

// Bundle is a private key with its certificate and its chain, in the order in which
// they are served. [Parse] makes it; it is not changed afterwards and may be shared.
// Error.Partial alone is one without a key.
type Bundle struct {
	// Leaf is the certificate of the private key. Of several it is one that is no CA,
	// then the one that became valid last. Without a key it is chosen the same way from
	// those that certify none of the others.
	Leaf *x509.Certificate
	// Chain is the leaf, then each certificate that certifies the one before, the root
	// last if the value holds it. Of several chains it is one that ends at a root, then
	// the longest.
	Chain []*x509.Certificate
	// Extra are the certificates that are not in Chain, in the order of the value:
	// strangers, and those of another chain of the leaf. They are served after it.
	Extra []*x509.Certificate
	// Warnings are for people: one sentence each, lower case, nothing secret, and
	// what they name is [Printable].
	Warnings []string

	key    hidden[privateKey]  // fits Leaf; nil without a key
	rooted bool                // Chain ends at a root
	found  []*x509.Certificate // Chain and Extra, in the order of the value
	noted  []string            // the warnings that reading gave, which no other chain changes
}

// arrange fills Chain and Extra from the certificates found and from others, which may
// be in the chain alone, and warns of what a person may not have meant.
func (b *Bundle) arrange(f *finder) {
	f.walk([]*x509.Certificate{b.Leaf})
	b.Chain, b.rooted = f.best, f.rooted(f.best)
	b.Warnings = slices.Clone(b.noted)
	for _, c := range b.found {
		if !slices.Contains(b.Chain, c) {
			b.Extra = append(b.Extra, c)
			b.warn("%s is not in the served chain; it is served after it", name(c))
		}
	}
	for _, c := range b.Chain[1:] {
		if !isCA(c) {
			b.warn("%s has signed the certificate before it and is not marked as a CA", name(c))
		}
	}
	if f.givenUp() {
		b.warn("the certificates sign each other in too many ways; the chain may not be the longest")
	}
	b.warnIncomplete()
}

func (b *Bundle) warnIncomplete() {
	if b.rooted {
		return
	}
	last := b.Chain[len(b.Chain)-1]
	b.warn("the chain is incomplete: it ends with %s, whose issuer %s is missing; clients must know that issuer", name(last), quoted(last.Issuer.String()))
}

func (b *Bundle) warn(format string, args ...any) {
	b.Warnings = append(b.Warnings, fmt.Sprintf(format, args...))
}

// WithIssuers returns a copy whose chain is built anew from the certificates of b and
// from more, such as those that the certificates themselves say where to fetch. What of
// more is not in the chain is left out; what b had and is not is in Extra as before. Leaf
// and key stay, and the warnings fit the new chain. more is trusted in nothing: as ever
// the signature decides.
func (b *Bundle) WithIssuers(more []*x509.Certificate) *Bundle {
	all := slices.Clone(b.found)
	for _, c := range more {
		if c != nil && refuseLongCertificate(c) == nil {
			all = append(all, c)
		}
	}
	grown := &Bundle{Leaf: b.Leaf, key: b.key, found: b.found, noted: b.noted}
	grown.arrange(newFinder(distinct(all)))
	return grown
}

// HasKey reports whether there is a private key. It is false for Error.Partial alone.
func (b *Bundle) HasKey() bool { return b.key != nil }

// KeyType names the kind of the key: "RSA-2048", "EC-P-256", "Ed25519". A key for
// RSA-PSS alone is named like any RSA key. Without a private key it is that of the leaf.
func (b *Bundle) KeyType() string {
	if b.HasKey() {
		return b.key().kind
	}
	public, _ := publicKeyOf(b.Leaf)
	return keyKind(public)
}

// SPKI returns the SHA-256 of the public key (of its DER SubjectPublicKeyInfo, as in
// certificate pinning). It stays the same when a certificate is renewed with its key.
func (b *Bundle) SPKI() [32]byte {
	if b.HasKey() {
		return sha256.Sum256(b.key().spki)
	}
	return sha256.Sum256(b.Leaf.RawSubjectPublicKeyInfo)
}

// Thumbprint returns the SHA-1 of the leaf as upper-case hex, the name that Windows and
// .NET give to a certificate. It identifies and proves nothing.
func (b *Bundle) Thumbprint() string {
	sum := sha1.Sum(b.Leaf.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// Complete reports whether the chain ends at a root, a certificate that is its own
// issuer. A chain without its root is common and works for clients that have the
// root: false is no fault.
func (b *Bundle) Complete() bool { return b.rooted }

// String keeps the bundle out of messages. Print Leaf, or Inspect.
func (b *Bundle) String() string { return redacted }

// Format redacts every verb.
func (b *Bundle) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue redacts the bundle in logs.
func (b *Bundle) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts the bundle in JSON. Use Inspect for what may be shown.
func (b *Bundle) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
