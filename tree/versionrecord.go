package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"kvfs/certs"
)

// versionFormat begins every encoded version. An older kvfs had JSON, which is read too: it
// is what a process finds that takes over from one.
const versionFormat = 3

// Encode is the version without its bytes, of which it names the blobs. It is as secret as
// those: passwords of files are in it.
func (v *Version) Encode() []byte {
	b := appendString([]byte{versionFormat}, string(v.ID))
	for _, t := range []time.Time{v.Created, v.NotBefore, v.NotAfter, v.Published} {
		b = appendTime(b, t)
	}
	b = append(b, v.names[:]...)
	b = appendString(appendString(b, v.Issuer), v.thumbprint)
	hasKey := byte(0)
	if v.hasKey {
		hasKey = 1
	}
	b = append(b, hasKey)
	b = appendStrings(b, v.unwritten)
	b = appendStrings(b, v.added)
	var texts []*Blob // several forms are parts of one
	place := func(text *Blob) int {
		return slices.IndexFunc(texts, func(t *Blob) bool { return t.Sum == text.Sum })
	}
	var sums []string
	for _, c := range v.contents {
		if c.blob != nil && place(c.blob) < 0 {
			texts, sums = append(texts, c.blob), append(sums, string(c.blob.Sum[:]))
		}
	}
	b = appendStrings(b, sums)
	b = binary.AppendUvarint(b, uint64(len(v.contents)))
	for _, c := range v.contents {
		text := 0 // it is not here
		if c.blob != nil {
			text = 1 + place(c.blob)
		}
		f := c.form()
		b = appendString(appendString(append(b, byte(f.kind)), string(f.key)), string(f.password))
		b = append(b, c.sum[:]...)
		for _, n := range []int{c.size, c.off, text} {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	return b
}

func appendStrings[S ~string | ~[]byte](b []byte, all []S) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendString(b, string(s))
	}
	return b
}

// appendTime keeps when it is, however far from now, and not where.
func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

// DecodeVersion reads what Encode wrote. blob finds a text by its digest, nil if it is
// not there: a version that lacks one is a stub.
func DecodeVersion(b []byte, blob func(sum [32]byte) *Blob) (*Version, error) {
	decode := decodeVersion
	if bytes.HasPrefix(b, []byte("{")) {
		decode = decodeJSONVersion
	}
	v, err := decode(b, blob)
	if err != nil {
		return nil, fmt.Errorf("decoding a version: %w", err)
	}
	if slices.ContainsFunc(v.contents, func(r rendered) bool { return r.away() }) {
		return v.Stub(), nil
	}
	return v, nil
}

func decodeVersion(b []byte, blob func(sum [32]byte) *Blob) (*Version, error) {
	d := decoder{rest: b}
	if format := d.byte(); format != versionFormat {
		return nil, fmt.Errorf("it is of format %d, not %d", format, versionFormat)
	}
	v := &Version{ID: certs.Version(d.string()), Created: d.time(), NotBefore: d.time(), NotAfter: d.time(), Published: d.time(), names: d.sum()}
	v.issued(d.string())
	v.thumbprint, v.hasKey, v.unwritten = d.string(), d.byte() == 1, d.strings()
	for _, der := range d.strings() {
		v.added = append(v.added, []byte(der))
	}
	texts := []*Blob{nil}
	for _, sum := range d.strings() {
		if len(sum) != sha256.Size {
			return nil, errors.New("a digest of the wrong length")
		}
		texts = append(texts, blob([32]byte([]byte(sum))))
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		f := form{kind: kind(d.byte()), key: certs.KeyFormat(d.string()), password: Password(d.string())}
		sum, size, off, text := d.sum(), d.uvarint(), d.uvarint(), d.uvarint()
		if size > maxText || off > maxText || text >= uint64(len(texts)) {
			return nil, errors.New("a form that makes no sense")
		}
		if err := v.recall(f, content{size: int(size), sum: sum, blob: texts[text], off: int(off)}); err != nil {
			return nil, err
		}
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.rest))
	}
	return v, d.err
}

// maxText is more than any text has.
const maxText = 1 << 30

// recall takes a form in as it was.
func (v *Version) recall(f form, c content) error {
	switch {
	case c.size == 0:
		c = newContent(nil)
	case c.blob == nil:
		c.off = 0
	case c.size > c.blob.Len() || c.off > c.blob.Len()-c.size:
		return errors.New("a form that is not in its text")
	}
	v.contents.set(f, c)
	return nil
}

// versionRecord is a version as a kvfs had it that wrote format 1, with all names, or 2.
type versionRecord struct {
	Format     int           `json:"format"`
	ID         certs.Version `json:"id"`
	Created    time.Time     `json:"created"`
	NotBefore  time.Time     `json:"notBefore"`
	NotAfter   time.Time     `json:"notAfter"`
	Published  time.Time     `json:"published"`
	Names      []string      `json:"names"`
	NamesSum   []byte        `json:"namesSum"`
	Issuer     string        `json:"issuer"`
	Thumbprint string        `json:"thumbprint"`
	HasKey     bool          `json:"hasKey"`
	Unwritten  []string      `json:"unwritten"`
	Added      [][]byte      `json:"added"`
	Forms      []formRecord  `json:"forms"`
}

type formRecord struct {
	Kind     kind            `json:"kind"`
	Key      certs.KeyFormat `json:"key"`
	Password string          `json:"password"`
	Sum      []byte          `json:"sum"`
	Size     int             `json:"size"`
	Blob     []byte          `json:"blob"` // digest of the text of which it is a part; absent in a stub
	Off      int             `json:"off"`
}

func decodeJSONVersion(b []byte, blob func(sum [32]byte) *Blob) (*Version, error) {
	var r versionRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Format == 1:
		sum := digestOf(r.Names)
		r.NamesSum = sum[:]
	case r.Format != 2 || len(r.NamesSum) != sha256.Size:
		return nil, fmt.Errorf("it is of format %d, or makes no sense", r.Format)
	}
	v := &Version{ID: r.ID, Created: r.Created, NotBefore: r.NotBefore, NotAfter: r.NotAfter, Published: r.Published, names: [32]byte(r.NamesSum),
		thumbprint: r.Thumbprint, hasKey: r.HasKey, unwritten: r.Unwritten, added: r.Added}
	v.issued(r.Issuer)
	for _, fr := range r.Forms {
		if len(fr.Sum) != sha256.Size || fr.Size < 0 || fr.Off < 0 {
			return nil, errors.New("a form that makes no sense")
		}
		c := content{size: fr.Size, sum: [32]byte(fr.Sum), off: fr.Off}
		if len(fr.Blob) == sha256.Size {
			c.blob = blob([32]byte(fr.Blob))
		}
		if err := v.recall(form{kind: fr.Kind, key: fr.Key, password: Password(fr.Password)}, c); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Source is the text that everything else can be made of; nil in a stub.
func (v *Version) Source() *Blob {
	source, _ := v.contents.of(v.source())
	return source.blob
}

// ShowsSource tells whether a tree with these views has the source among the blobs of
// its nodes.
func (w Views) ShowsSource() bool {
	for _, l := range w.Layouts {
		if l == V4 || l == Live || l == Certs || l == V3 && (w.Key == "" || w.Key == certs.PKCS8) {
			return true
		}
	}
	return false
}

// EncodeWhole is the version with its bytes. It is secret.
func (v *Version) EncodeWhole() []byte {
	meta := v.Encode()
	b := append(binary.AppendUvarint(nil, uint64(len(meta))), meta...)
	seen := map[[32]byte]bool{}
	for _, c := range v.contents {
		if c.blob != nil && !seen[c.blob.Sum] {
			seen[c.blob.Sum] = true
			text := c.blob.Bytes()
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return b
}

// DecodeWhole reads what EncodeWhole wrote.
func DecodeWhole(b []byte) (*Version, error) {
	d := decoder{rest: b}
	meta := d.bytes(d.uvarint())
	blobs := map[[32]byte]*Blob{}
	for d.err == nil && len(d.rest) > 0 {
		text := d.bytes(d.uvarint())
		blob := NewBlob(text)
		blobs[blob.Sum] = blob
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding a version: %w", d.err)
	}
	v, err := DecodeVersion(meta, func(sum [32]byte) *Blob { return blobs[sum] })
	if err == nil && v.stub {
		err = fmt.Errorf("decoding version %s: its bytes are not with it", v.ID)
	}
	return v, err
}
