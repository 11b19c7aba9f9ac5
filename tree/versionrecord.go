package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kvfs/certs"
)

// versionFormat is in every encoded version. Those of format 1, which had all names, are
// read too: they are what a process finds that takes over from an older kvfs.
const versionFormat = 2

// versionRecord is a version as a later process reads it, without its bytes. It is
// as secret as those: passwords of files are in it.
type versionRecord struct {
	Format     int           `json:"format"`
	ID         certs.Version `json:"id"`
	Created    time.Time     `json:"created"`
	NotBefore  time.Time     `json:"notBefore"`
	NotAfter   time.Time     `json:"notAfter"`
	Published  time.Time     `json:"published"`
	Names      []string      `json:"names,omitempty"` // in format 1
	NamesSum   []byte        `json:"namesSum,omitempty"`
	Issuer     string        `json:"issuer"`
	Thumbprint string        `json:"thumbprint"`
	HasKey     bool          `json:"hasKey"`
	Unwritten  []string      `json:"unwritten,omitempty"`
	Added      [][]byte      `json:"added,omitempty"`
	Forms      []formRecord  `json:"forms"`
}

type formRecord struct {
	Kind     kind            `json:"kind"`
	Key      certs.KeyFormat `json:"key,omitempty"`
	Password string          `json:"password,omitempty"`
	Sum      []byte          `json:"sum"`
	Size     int             `json:"size"`
	Blob     []byte          `json:"blob,omitempty"` // digest of the text of which it is a part; absent in a stub
	Off      int             `json:"off,omitempty"`
}

// Encode is the version without its bytes, of which it names the blobs.
func (v *Version) Encode() ([]byte, error) {
	r := versionRecord{Format: versionFormat, ID: v.ID, Created: v.Created, NotBefore: v.NotBefore, NotAfter: v.NotAfter, Published: v.Published,
		NamesSum: v.names[:], Issuer: v.Issuer, Thumbprint: v.thumbprint, HasKey: v.hasKey, Unwritten: v.unwritten, Added: v.added}
	for _, c := range v.contents {
		fr := formRecord{Kind: c.kind, Key: c.key, Password: string(c.password), Sum: c.sum[:], Size: c.size, Off: c.off}
		if c.blob != nil {
			fr.Blob = c.blob.Sum[:]
		}
		r.Forms = append(r.Forms, fr)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding version %s: %w", v.ID, err)
	}
	return b, nil
}

// DecodeVersion reads what Encode wrote. blob finds a text by its digest, nil if it is
// not there: a version that lacks one is a stub.
func DecodeVersion(b []byte, blob func(sum [32]byte) *Blob) (*Version, error) {
	var r versionRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decoding a version: %w", err)
	}
	switch {
	case r.Format == 1:
		sum := digestOf(r.Names)
		r.NamesSum = sum[:]
	case r.Format != versionFormat:
		return nil, fmt.Errorf("a version of format %d, not %d", r.Format, versionFormat)
	case len(r.NamesSum) != sha256.Size:
		return nil, errors.New("decoding a version: a digest of names that makes no sense")
	}
	v := &Version{ID: r.ID, Created: r.Created, NotBefore: r.NotBefore, NotAfter: r.NotAfter, Published: r.Published, names: [32]byte(r.NamesSum), Issuer: r.Issuer,
		thumbprint: r.Thumbprint, hasKey: r.HasKey, unwritten: r.Unwritten, added: r.Added}
	for _, fr := range r.Forms {
		c, err := fr.content(blob)
		if err != nil {
			return nil, fmt.Errorf("decoding version %s: %w", r.ID, err)
		}
		v.contents.set(form{kind: fr.Kind, key: fr.Key, password: Password(fr.Password)}, c)
		v.stub = v.stub || c.away()
	}
	if v.stub {
		v.stub = false
		return v.Stub(), nil
	}
	return v, nil
}

func (fr formRecord) content(blob func(sum [32]byte) *Blob) (content, error) {
	if len(fr.Sum) != sha256.Size || fr.Size < 0 || fr.Off < 0 {
		return content{}, errors.New("a form that makes no sense")
	}
	c := content{size: fr.Size, sum: [32]byte(fr.Sum)}
	switch {
	case fr.Size == 0:
		return newContent(nil), nil
	case len(fr.Blob) != sha256.Size:
		return c, nil
	}
	text := blob([32]byte(fr.Blob))
	if text == nil {
		return c, nil
	}
	if fr.Size > text.Len() || fr.Off > text.Len()-fr.Size {
		return content{}, errors.New("a form that is not in its text")
	}
	c.blob, c.off = text, fr.Off
	return c, nil
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
func (v *Version) EncodeWhole() ([]byte, error) {
	meta, err := v.Encode()
	if err != nil {
		return nil, err
	}
	b := append(binary.AppendUvarint(nil, uint64(len(meta))), meta...)
	seen := map[[32]byte]bool{}
	for _, c := range v.contents {
		if c.blob != nil && !seen[c.blob.Sum] {
			seen[c.blob.Sum] = true
			text := c.blob.Bytes()
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return b, nil
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
