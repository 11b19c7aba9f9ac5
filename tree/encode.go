package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"kvfs/acl"
	"kvfs/certs"
)

// nodeFormat begins every encoded node.
const nodeFormat = 1

// Flags of an encoded node.
const (
	flagPublic = 1 << iota
	flagAway
)

// AppendBinary appends the node without its content: of that it names the blob. A
// later process, of another version of this program too, reads it with DecodeNode.
func (n *Node) AppendBinary(b []byte) ([]byte, error) {
	flags := byte(0)
	if n.Public {
		flags |= flagPublic
	}
	if n.Away != nil {
		flags |= flagAway
	}
	b = append(b, nodeFormat, byte(n.Kind), flags)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.ID))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.Parent))
	at := int64(0)
	if !n.Time.IsZero() {
		at = n.Time.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = appendString(b, n.Name)
	switch n.Kind {
	case Link:
		b = appendString(b, n.Target)
	case File:
		b = appendString(b, string(n.ACL.XAttr()))
		b = binary.AppendUvarint(b, uint64(n.Size))
		if n.Away != nil {
			b = appendString(b, n.Away.Certificate)
			b = appendString(b, string(n.Away.Version))
			return append(b, n.Away.Sum[:]...), nil
		}
		b = append(b, n.Blob.Sum[:]...)
		b = binary.AppendUvarint(b, uint64(n.Off))
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// DecodeNode reads what AppendBinary wrote. blob finds the text of a content by its
// digest; without it a file cannot be read.
func DecodeNode(b []byte, blob func(sum [32]byte) *Blob) (*Node, error) {
	d := decoder{rest: b}
	if format := d.byte(); format != nodeFormat {
		return nil, fmt.Errorf("a node of format %d, not %d", format, nodeFormat)
	}
	n := &Node{Kind: Kind(d.byte())}
	flags := d.byte()
	n.Public = flags&flagPublic != 0
	n.ID, n.Parent = ID(d.uint64()), ID(d.uint64())
	if at := int64(d.uint64()); at != 0 {
		n.Time = time.Unix(0, at)
	}
	n.Name = d.string()
	n.key = nameKey(n.Name)
	switch n.Kind {
	case Dir:
	case Link:
		n.Target = d.string()
	case File:
		d.file(n, flags&flagAway != 0, blob)
	default:
		return nil, fmt.Errorf("a node of kind %d", n.Kind)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.rest))
	}
	if d.err != nil {
		return nil, fmt.Errorf("node %q: %w", n.Name, d.err)
	}
	return n, nil
}

// decoder takes bytes from the front. After the first error all it takes is zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) bytes(n uint64) []byte {
	if d.err == nil && n > uint64(len(d.rest)) {
		d.err = errors.New("it is cut off")
	}
	if d.err != nil {
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bytes(uint64(len(d.rest)) + 1)
		return 0
	}
	d.bytes(uint64(n))
	return v
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }

func (d *decoder) strings() (all []string) {
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		all = append(all, d.string())
	}
	return all
}

func (d *decoder) varint() int64 {
	u := d.uvarint() // zigzag, as encoding/binary has it
	return int64(u>>1) ^ -int64(u&1)
}

// time that appendTime wrote.
func (d *decoder) time() time.Time {
	return time.Unix(d.varint(), int64(d.uvarint())).UTC()
}

func (d *decoder) sum() (sum [32]byte) {
	copy(sum[:], d.bytes(uint64(len(sum))))
	return sum
}

func (d *decoder) file(n *Node, away bool, blob func([32]byte) *Blob) {
	list, err := acl.ParseXAttr([]byte(d.string()))
	if d.err == nil {
		d.err = err
	}
	n.ACL = list
	size := d.uvarint()
	if away {
		n.Away = &Away{Certificate: d.string(), Version: certs.Version(d.string()), Sum: d.sum()}
		n.Size = int(size)
		return
	}
	sum := d.sum()
	off := d.uvarint()
	if d.err != nil {
		return
	}
	n.Blob = blob(sum)
	switch whole := uint64(0); {
	case n.Blob == nil:
		d.err = fmt.Errorf("its content %x is not there", sum[:4])
	default:
		whole = uint64(n.Blob.Len())
		if off > whole || size > whole-off {
			d.err = errors.New("it is a part of what is not there")
			return
		}
		n.Size, n.Off = int(size), int(off)
	}
}

// Of is the snapshot that has exactly these nodes, the root among them. The error
// says that they are no tree.
func Of(nodes []*Node) (*Snapshot, error) {
	b := builder{nodes: map[ID]*Node{}, dirs: map[ID]map[uint64]*Node{}}
	for _, n := range nodes {
		if b.nodes[n.ID] != nil {
			return nil, fmt.Errorf("two nodes have the id %x", n.ID)
		}
		b.nodes[n.ID] = n
		if n.Kind == Dir {
			b.dirs[n.ID] = map[uint64]*Node{}
		}
	}
	if root := b.nodes[Root]; root == nil || root.Kind != Dir {
		return nil, errors.New("there is no root")
	}
	for _, n := range nodes {
		if n.ID == Root {
			continue
		}
		names := b.dirs[n.Parent]
		switch {
		case names == nil:
			return nil, fmt.Errorf("node %q has no directory", n.Name)
		case names[n.key] != nil:
			return nil, fmt.Errorf("two nodes have the name %q", n.Name)
		}
		names[n.key] = n
	}
	return b.snapshot(), nil
}
