package tree

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorded is a version in many forms, with issuers that are not in the vault, and what finds its texts.
func recorded(t *testing.T) (v *Version, blob func([32]byte) *Blob) {
	t.Helper()
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // what RFC 5280 has for a certificate without an end
	v = NewVersion(one, time.Unix(1_700_000_001, 0).UTC(), time.Unix(1_700_000_002, 3).UTC(), b, Views{Layouts: everyLayout, Password: "secret"})
	v.NotAfter, v.unwritten, v.added = far, []string{"jks: no"}, [][]byte{{1, 2}, {3}}
	texts := map[[32]byte]*Blob{}
	for _, c := range v.contents {
		texts[c.blob.Sum] = c.blob
	}
	return v, func(sum [32]byte) *Blob { return texts[sum] }
}

// same tells whether two versions are the same, whatever texts their empty forms have.
func same(v, w *Version) bool {
	a, b := *v, *w
	a.contents, b.contents = nil, nil
	alike := func(x, y rendered) bool {
		return x.as == y.as && x.size == y.size && x.sum == y.sum && x.off == y.off && (x.blob == y.blob || x.size == 0)
	}
	return reflect.DeepEqual(a, b) && slices.EqualFunc(v.contents, w.contents, alike)
}

// A later process reads what this one knows of a version.
func TestVersionIsWhatItWas(t *testing.T) {
	v, blob := recorded(t)
	for what, w := range map[string]*Version{"whole": v, "a stub": v.Stub()} {
		got, err := DecodeVersion(w.Encode(), blob)
		if err != nil || !same(got, w) {
			t.Errorf("%s is another one, %v", what, err)
		}
	}
	gone, err := DecodeVersion(v.Encode(), func([32]byte) *Blob { return nil })
	if err != nil || !same(gone, v.Stub()) {
		t.Errorf("without its texts it is no stub, %v", err)
	}
}

// It also reads what an older kvfs has left: JSON, with a digest of the names, or the names.
func TestVersionOfAnOlderKvfs(t *testing.T) {
	v, blob := recorded(t)
	r := versionRecord{Format: 2, ID: v.ID, Created: v.Created, NotBefore: v.NotBefore, NotAfter: v.NotAfter, Published: v.Published, NamesSum: v.names[:],
		Issuer: v.Issuer, Thumbprint: v.thumbprint, HasKey: v.hasKey, Unwritten: v.unwritten, Added: v.added}
	for _, c := range v.contents {
		f := c.form()
		r.Forms = append(r.Forms, formRecord{f.kind, f.key, string(f.password), c.sum[:], c.size, c.blob.Sum[:], c.off})
	}
	named := r
	named.Format, named.NamesSum, named.Names = 1, nil, v.Names()
	for _, old := range []versionRecord{r, named} {
		b, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeVersion(b, blob); err != nil || !same(got, v) {
			t.Errorf("of format %d it is another one, %v", old.Format, err)
		}
	}
	r.Format = 3
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeVersion(b, blob); err == nil || !strings.Contains(err.Error(), "of format 3") {
		t.Error(err)
	}
}

// Whatever is wrong with a record is an error, and nothing worse.
func TestDamagedVersionIsRefused(t *testing.T) {
	v, blob := recorded(t)
	b := v.Encode()
	for n := range b {
		if _, err := DecodeVersion(b[:n], blob); err == nil {
			t.Fatalf("its first %d bytes of %d are taken for a version", n, len(b))
		}
	}
	if _, err := DecodeVersion(append(b, 0), blob); err == nil {
		t.Error("a byte too many is taken")
	}
	other := NewBlob([]byte("short"))
	if _, err := DecodeVersion(b, func([32]byte) *Blob { return other }); err == nil {
		t.Error("texts that do not have the forms are taken")
	}
	for i := range b { // no panic, whatever it says then
		damaged := append([]byte(nil), b...)
		damaged[i] ^= 0xff
		if v, err := DecodeVersion(damaged, blob); err == nil {
			for _, c := range v.contents {
				_ = c.bytes()
			}
		}
	}
}
