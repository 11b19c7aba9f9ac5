package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	iofs "io/fs"
	"time"

	"kvfs/acl"
	"kvfs/certs"
)

// ID of a node. It is the inode number, and what the kernel names a node by:
// any id it ever got may come back in any request, also to a later process.
type ID uint64

// Root is the directory that holds the stores. FUSE fixes its id.
const Root ID = 1

// Kind of a node.
type Kind uint8

const (
	Dir Kind = iota + 1
	File
	Link
)

func (k Kind) String() string {
	switch k {
	case Dir:
		return "directory"
	case File:
		return "file"
	case Link:
		return "link"
	}
	return "invalid"
}

// Node is one name in the tree and what it stands for. It is immutable and may
// be shared by any number of snapshots. A large store has a hundred thousand: the order of
// the fields makes it 128 bytes.
type Node struct {
	ID   ID
	Kind Kind
	// Public files are readable by everybody; they hold nothing secret.
	Public bool
	Parent ID
	Name   string // in Parent; "" for the root
	Time   time.Time

	// Size of a file in bytes, also of one whose content is not here.
	Size int
	// Away says what the content is where it is not here; nil: it is.
	Away *Away
	// Blob is the text of which the content is a part, from Off on; nil where the
	// content is not here.
	Blob *Blob
	Off  int
	// Target of a link, relative to its directory.
	Target string
	// ACL of a file: who may read it besides its owner.
	ACL acl.List

	key uint64 // position in the directory's listing, from the name alone
}

// Away names the content of a file that is not in memory and can be had again.
type Away struct {
	Certificate string // Entry.Certificate
	Version     certs.Version
	Sum         [sha256.Size]byte // SHA-256 of the content
}

// Content is a copy of what is in a file; nil where that is not here.
func (n *Node) Content() []byte { return n.Part(0, n.Size) }

// Part of the content, a copy too: size bytes, all of which there are.
func (n *Node) Part(off, size int) []byte {
	if n.Blob == nil {
		return nil
	}
	return n.Blob.part(n.Off+off, size)
}

// same tells whether two nodes of one id, which are no directories, differ in nothing.
func (n *Node) same(o *Node) bool {
	return n.sameHold(o) && n.Blob.same(o.Blob) && n.Public == o.Public && n.Time.Equal(o.Time) && n.ACL.Equal(o.ACL)
}

// sameHold tells whether two nodes of one id have their content in the same place.
func (n *Node) sameHold(o *Node) bool {
	if n.Away == nil || o.Away == nil {
		return n.Away == o.Away
	}
	return *n.Away == *o.Away
}

// heldAs is the same node with its content where another of its id has it.
func (n *Node) heldAs(o *Node) *Node {
	c := *n
	c.Away, c.Blob, c.Off = o.Away, o.Blob, o.Off
	return &c
}

// Mode is the node's permission bits: 0755 for directories, 0777 for links,
// 0644 for public files, and for the rest what the access list asks for.
func (n *Node) Mode() iofs.FileMode {
	switch {
	case n.Kind == Dir:
		return 0o755
	case n.Kind == Link:
		return 0o777
	case n.Public:
		return 0o644
	}
	return iofs.FileMode(n.ACL.Mode())
}

// XAttr is the value of system.posix_acl_access, nil if the node has no list.
func (n *Node) XAttr() []byte {
	if n.Kind != File || n.Public {
		return nil
	}
	return n.ACL.XAttr()
}

// Cookie places the node in the listing of its directory. It depends on the
// name alone, so a listing that is read in parts while names move neither
// skips nor repeats what stays. It is at least 16: smaller values are left to
// "." and "..".
func (n *Node) Cookie() uint64 { return n.key }

const idFormat = "kvfs-node-v2\x00"

// nodeID hashes what makes a node that node. Reserved values (no node, the root
// and the highest, which go-fuse keeps for itself) are stepped over.
func nodeID(parts ...string) ID {
	h := sha256.New()
	h.Write([]byte(idFormat))
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	id := ID(binary.LittleEndian.Uint64(h.Sum(nil)))
	for id <= Root || id == ^ID(0) {
		id += 2
	}
	return id
}

// nameKey is the position of a name in listings. The highest bit stays clear:
// the kernel hands offsets to programs as signed numbers.
func nameKey(name string) uint64 {
	h := sha256.Sum256([]byte(name))
	return max(binary.LittleEndian.Uint64(h[:])>>1, 16)
}

func newDir(parent *Node, name string) *Node {
	return &Node{ID: nodeID("dir", pathOf(parent, name)), Kind: Dir, Parent: parent.ID, Name: name, key: nameKey(name)}
}

func newLink(parent *Node, name, target string, at time.Time) *Node {
	return &Node{ID: nodeID("link", pathOf(parent, name), target), Kind: Link, Parent: parent.ID, Name: name,
		Time: at, Target: target, key: nameKey(name)}
}

func newFile(parent *Node, name string, c content, at time.Time) *Node {
	return &Node{ID: nodeID("file", pathOf(parent, name), string(c.sum[:])), Kind: File, Parent: parent.ID, Name: name,
		Time: at, Size: c.size, Blob: c.blob, Off: c.off, key: nameKey(name)}
}

// pathOf is unambiguous because the parent's id stands for its whole path.
func pathOf(parent *Node, name string) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(parent.ID))) + name
}

// withACL is the same node with another access list.
func (n *Node) withACL(l acl.List) *Node {
	c := *n
	c.ACL = l
	return &c
}

// content is a part of a text, and the digest of the part, computed once. The text of
// a version that is a stub is not here.
type content struct {
	size int
	sum  [sha256.Size]byte
	blob *Blob
	off  int
}

func newContent(b []byte) content {
	blob := NewBlob(b)
	return content{size: len(b), sum: blob.Sum, blob: blob}
}

// partOf is a content that is in a whole one, from its first occurrence on.
func (c content) partOf(text, part []byte) content {
	if len(part) == 0 {
		return newContent(nil) // or the whole, with its key, would stay for as long as an empty file does
	}
	return content{size: len(part), sum: sha256.Sum256(part), blob: c.blob, off: bytes.Index(text, part)}
}

// away tells whether there are bytes and they are not here.
func (c content) away() bool { return c.blob == nil && c.size > 0 }

// bytes are a copy of what is here.
func (c content) bytes() []byte {
	if c.blob == nil {
		return nil
	}
	return c.blob.part(c.off, c.size)
}
