package tree

import (
	"time"

	"kvfs/certs"
)

// Version is one version of a certificate, rendered. It is immutable and
// shared by every snapshot and every store that shows it.
type Version struct {
	ID        certs.Version
	Created   time.Time // in the vault; part of the v4 names
	NotBefore time.Time
	NotAfter  time.Time
	// Published is when this version was first served. It is a part of .luma,
	// so it must be the same each time the tree is built.
	Published time.Time

	combined, chain, key content
}

// NewVersion renders a bundle. Times are kept to the second, as Key Vault has
// them. A version without a creation time takes its leaf's not-before.
func NewVersion(id certs.Version, created, published time.Time, b *certs.Bundle) *Version {
	pem := b.PEM()
	if created.IsZero() {
		created = b.Leaf.NotBefore
	}
	return &Version{
		ID: id, Created: created.Truncate(time.Second), Published: published.Truncate(time.Second),
		NotBefore: b.Leaf.NotBefore, NotAfter: b.Leaf.NotAfter,
		combined: newContent(pem.Combined()), chain: newContent(pem.FullChain()), key: newContent(pem.Key()),
	}
}

// Size is the memory that the version's files need, in bytes.
func (v *Version) Size() int { return len(v.combined.bytes) }

// StandIn is a version without content, for certificates that are not here yet: a
// tree that is built with it shows which names they will have.
func StandIn() *Version {
	return &Version{ID: "00000000000000000000000000000000", combined: newContent(nil), chain: newContent(nil), key: newContent(nil)}
}
