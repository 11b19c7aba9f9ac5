package tree

import (
	"crypto/sha256"
	"runtime"
	"sync/atomic"
)

// Blob is a text of which any number of contents are parts: those of a PEM file are
// there once. It may be used by any goroutine.
//
// Where its bytes are may change: who keeps them for the process after this one
// lends them its memory, so that they are there once. That memory may be unmapped as
// soon as nobody refers to its owner any more, so nobody gets anything but a copy
// (TestTextsAreReadWhileTheirMemoryGoes of package fs).
type Blob struct {
	Sum  [sha256.Size]byte // SHA-256
	text atomic.Pointer[text]
}

// text is where the bytes of a Blob are.
type text struct {
	bytes []byte
	owner any // of memory that is not Go's; nil: it is
}

// NewBlob is a text of these bytes, which nobody may write to from then on.
func NewBlob(b []byte) *Blob {
	blob := &Blob{Sum: sha256.Sum256(b)}
	blob.Move(b, nil)
	return blob
}

// same tells whether two texts are equal, or there is none.
func (b *Blob) same(o *Blob) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.Sum == o.Sum
}

// Len is the number of bytes.
func (b *Blob) Len() int { return len(b.text.Load().bytes) }

// Bytes is a copy of the text.
func (b *Blob) Bytes() []byte { return b.part(0, b.Len()) }

// CopyTo copies the text to a place that has room for it.
func (b *Blob) CopyTo(to []byte) {
	t := b.text.Load()
	copy(to, t.bytes)
	runtime.KeepAlive(t)
}

func (b *Blob) part(off, size int) []byte {
	t := b.text.Load()
	part := append([]byte{}, t.bytes[off:off+size]...)
	runtime.KeepAlive(t)
	return part
}

// Move lets the blob have its bytes in another place, which stays what it is for as
// long as its owner can be reached.
func (b *Blob) Move(to []byte, owner any) { b.text.Store(&text{to, owner}) }

// Settle takes the bytes into memory of the blob's own.
func (b *Blob) Settle() { b.Move(b.Bytes(), nil) }
