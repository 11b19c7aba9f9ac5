package tree

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unique"

	"kvfs/certs"
)

// Version is one version of a certificate, rendered. It is immutable and
// shared by every snapshot and every store that shows it. A stub of a version has
// everything but the bytes of its files, and makes the same nodes.
type Version struct {
	ID        certs.Version
	Created   time.Time // in the vault; part of the v4 names
	NotBefore time.Time
	NotAfter  time.Time
	// Published is when this version was first served. It is a part of .luma,
	// so it must be the same each time the tree is built.
	Published time.Time
	// Issuer of the leaf, for who wants to compare versions.
	Issuer string

	issuer     unique.Handle[string] // keeps Issuer one string, which thousands have
	names      [sha256.Size]byte     // digest of what Names returns
	thumbprint string
	hasKey     bool
	stub       bool
	contents   contents
	unwritten  []string
	added      [][]byte // DER of issuers that are in the files and not in the vault
}

var (
	// ErrStub says that a version is not rendered in other forms because it is a
	// stub. With returns it.
	ErrStub = errors.New("its bytes are not in memory")
	// ErrOther says that what was fetched is not what the version was made of.
	// Restore returns it.
	ErrOther = errors.New("other files come of it than before")
)

// Unwritten are the forms that were asked for and could not be written, each with
// the reason. Their files are not shown.
func (v *Version) Unwritten() []string { return v.unwritten }

// Password of a file that has one. However it is printed it shows [redacted].
type Password string

// Format redacts every verb.
func (Password) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// LogValue redacts the password in logs.
func (Password) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON redacts the password in JSON.
func (Password) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// form is one way to write a version down. What does not matter for a kind is left
// empty, so that equal files are one.
type form struct {
	kind     kind
	key      certs.KeyFormat
	password Password
}

type kind uint8

const (
	combined kind = iota + 1 // full chain, then the key
	fullChain
	leafOnly
	issuers
	privateKey
	pfx
	jks
	trustStore
	certificates // the full chain, for everybody
)

// contents of a version: a handful, each in another form.
type contents []rendered

type rendered struct {
	as unique.Handle[form] // thousands have the same
	content
}

func (r rendered) form() form { return r.as.Value() }

func (c contents) of(f form) (content, bool) {
	i := slices.IndexFunc(c, func(r rendered) bool { return r.form() == f })
	if i < 0 {
		return content{}, false
	}
	return c[i].content, true
}

func (c *contents) set(f form, is content) {
	if i := slices.IndexFunc(*c, func(r rendered) bool { return r.form() == f }); i >= 0 {
		(*c)[i].content = is
		return
	}
	*c = append(*c, rendered{unique.Make(f), is})
}

// SameNames tells whether the leafs of two versions are for the same names.
func (v *Version) SameNames(o *Version) bool { return v.names == o.names }

// Names of the leaf of all kinds, sorted; the common name where there is no other. They
// are read again each time: there may be a hundred, and nobody asks for them but after a
// change. Of a stub there are none.
func (v *Version) Names() []string {
	leaf, _ := v.contents.of(form{kind: leafOnly})
	block, _ := pem.Decode(leaf.bytes())
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return names(c)
}

func digestOf(names []string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join(names, "\x00")))
}

// names are what a certificate is for, sorted.
func names(c *x509.Certificate) (all []string) {
	for _, n := range c.DNSNames {
		all = append(all, strings.ToLower(n))
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	all = append(all, c.EmailAddresses...)
	if len(all) == 0 {
		all = append(all, c.Subject.CommonName)
	}
	slices.Sort(all)
	return all
}

func (k kind) String() string {
	switch k {
	case pfx:
		return "PFX"
	case jks:
		return "Java keystore"
	case trustStore:
		return "Java trust store"
	}
	return "PEM"
}

// NewVersion renders a bundle in the forms that the views want. Times are kept to
// the second, as Key Vault has them. A version without a creation time takes its
// leaf's not-before. A form that cannot be written is no reason to show nothing: see
// Unwritten.
func NewVersion(id certs.Version, created, published time.Time, b *certs.Bundle, views ...Views) *Version {
	if created.IsZero() {
		created = b.Leaf.NotBefore
	}
	v := &Version{
		ID: id, Created: created.Truncate(time.Second), Published: published.Truncate(time.Second),
		NotBefore: b.Leaf.NotBefore, NotAfter: b.Leaf.NotAfter, names: digestOf(names(b.Leaf)),
		thumbprint: b.Thumbprint(), hasKey: b.HasKey(),
	}
	v.issued(b.Leaf.Issuer.String())
	v.write(certs.PKCS8, b.PEM())
	v.render(b, views)
	v.contents = slices.Clone(v.contents) // without the room to grow
	return v
}

func (v *Version) issued(by string) {
	v.issuer = unique.Make(by)
	v.Issuer = v.issuer.Value()
}

// Completed is the version that remembers which issuers somebody has added to what
// the vault has, so that Restore can add them again. It is for a version that nobody
// else has seen yet.
func (v *Version) Completed(added []*x509.Certificate) *Version {
	if len(added) == 0 {
		return v
	}
	c := *v
	for _, issuer := range added {
		c.added = append(c.added, issuer.Raw)
	}
	return &c
}

// Resident tells whether the bytes of all files are in memory: the version is no
// stub.
func (v *Version) Resident() bool { return !v.stub }

// Stub is the version without the bytes of its files.
func (v *Version) Stub() *Version {
	if v.stub {
		return v
	}
	s := *v
	s.stub, s.contents = true, slices.Clone(v.contents)
	for i, c := range s.contents {
		if c.size > 0 {
			c.blob, c.off = nil, 0
		} else {
			c.content = newContent(nil) // of a text of its own, or it would hold the other one
		}
		s.contents[i] = c
	}
	return &s
}

// Restore is a stub with its bytes, made anew of what the vault has under its
// version. All of them are what they were: if one is not, the error is ErrOther.
func (v *Version) Restore(b *certs.Bundle) (*Version, error) {
	if len(v.added) > 0 {
		var issuers []*x509.Certificate
		for _, der := range v.added {
			issuer, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("reading an issuer of version %s again: %w", v.ID, err)
			}
			issuers = append(issuers, issuer)
		}
		b = b.WithIssuers(issuers)
	}
	if b.HasKey() != v.hasKey {
		return nil, ErrOther
	}
	full := *v
	full.stub, full.contents = false, nil
	full.write(certs.PKCS8, b.PEM())
	for _, was := range v.contents {
		if _, ok := full.contents.of(was.form()); !ok {
			if err := full.renderForm(b, was.form()); err != nil {
				return nil, fmt.Errorf("writing version %s again: %w", v.ID, err)
			}
		}
		if now, _ := full.contents.of(was.form()); now.sum != was.sum {
			return nil, ErrOther
		}
	}
	full.contents = slices.DeleteFunc(full.contents, func(c rendered) bool { _, wanted := v.contents.of(c.form()); return !wanted })
	return &full, nil
}

// Content is a copy of the file of a version that has this SHA-256, if there is one and
// it is in memory.
func (v *Version) Content(sum [sha256.Size]byte) ([]byte, bool) {
	for _, c := range v.contents {
		if c.sum == sum && !c.away() {
			return c.bytes(), true
		}
	}
	return nil, false
}

// Has tells whether a version has a file of this SHA-256, in memory or not.
func (v *Version) Has(sum [sha256.Size]byte) bool {
	for _, c := range v.contents {
		if c.sum == sum {
			return true
		}
	}
	return false
}

// With is the version in the forms that these views want: itself if it has them
// all. An error, with the version as it is, says that it cannot be read again;
// ErrStub, that it has to be restored for that.
func (v *Version) With(views ...Views) (*Version, error) {
	if v.unwritten == nil && !slices.ContainsFunc(views, func(w Views) bool { return v.lacks(w) }) {
		return v, nil
	}
	if v.stub {
		return v, ErrStub
	}
	// The bundle is not kept: parsed, it is many times its text.
	source, _ := v.contents.of(v.source())
	b, err := certs.Parse("", source.bytes())
	var keyless *certs.Error
	if errors.As(err, &keyless) && keyless.Partial != nil {
		b, err = keyless.Partial, nil
	}
	if err != nil {
		return v, fmt.Errorf("reading version %s again: %w", v.ID, err)
	}
	more := *v
	more.unwritten = nil
	more.contents = nil
	for _, c := range v.contents { // not the forms of former passwords
		if c.form() == v.source() || slices.ContainsFunc(views, func(w Views) bool { return slices.Contains(w.forms(v.hasKey), c.form()) }) {
			more.contents = append(more.contents, c)
		}
	}
	more.render(b, views)
	return &more, nil
}

// source is the form that holds everything.
func (v *Version) source() form {
	if v.hasKey {
		return form{kind: combined, key: certs.PKCS8}
	}
	return form{kind: fullChain}
}

func (v *Version) lacks(w Views) bool {
	return slices.ContainsFunc(w.forms(v.hasKey), func(f form) bool { _, ok := v.contents.of(f); return !ok })
}

func (v *Version) render(b *certs.Bundle, views []Views) {
	for _, w := range views {
		for _, f := range w.forms(v.hasKey) {
			if _, ok := v.contents.of(f); ok {
				continue
			}
			if err := v.renderForm(b, f); err != nil {
				why := fmt.Sprintf("no %s: %v", f.kind, err)
				if !slices.Contains(v.unwritten, why) {
					v.unwritten = append(v.unwritten, why)
				}
			}
		}
	}
}

func (v *Version) renderForm(b *certs.Bundle, f form) error {
	o := certs.StoreOptions{Password: string(f.password), Alias: "kvfs", Created: v.Created}
	var text []byte
	var err error
	switch f.kind {
	case combined, privateKey:
		v.write(f.key, b.PEMAs(f.key))
		return nil
	case pfx:
		text, err = b.PFX(o)
	case jks:
		text, err = b.JKS(o)
	case trustStore:
		text, err = b.TrustStore(o)
	default:
		panic("a part of every PEM is missing")
	}
	if err != nil {
		return err
	}
	v.contents.set(f, newContent(text))
	return nil
}

// write takes all parts of a PEM, which are slices of one text.
func (v *Version) write(format certs.KeyFormat, pem certs.PEM) {
	text := pem.Combined()
	if !v.hasKey {
		text = pem.FullChain()
	}
	whole := newContent(text)
	if _, ok := v.contents.of(form{kind: fullChain}); !ok {
		v.contents.set(form{kind: fullChain}, whole.partOf(text, pem.FullChain()))
		v.contents.set(form{kind: leafOnly}, whole.partOf(text, pem.Leaf()))
		v.contents.set(form{kind: issuers}, whole.partOf(text, pem.Issuers()))
	}
	if v.hasKey {
		v.contents.set(form{kind: combined, key: format}, whole)
		v.contents.set(form{kind: privateKey, key: format}, whole.partOf(text, pem.Key()))
	}
}

// HasKey tells whether the version has a private key; of one whose key must not
// leave the vault the chain alone is shown.
func (v *Version) HasKey() bool { return v.hasKey }

// Size is the memory that the version's files need, in bytes; that of a stub is 0.
func (v *Version) Size() (size int) {
	for _, c := range v.contents {
		if c.blob != nil && (c.form() == v.source() || slices.Contains([]kind{pfx, jks, trustStore, combined}, c.form().kind)) {
			size += c.size // the others are parts of these
		}
	}
	return size
}

// StandIn is a version without content, for certificates that are not here yet: a
// tree that is built with it shows which names they will have.
func StandIn(views ...Views) *Version {
	v := &Version{ID: "00000000000000000000000000000000", thumbprint: "0000000000000000000000000000000000000000", hasKey: true}
	for _, w := range views {
		for _, f := range w.forms(true) {
			v.contents.set(f, newContent(nil))
		}
	}
	return v
}
