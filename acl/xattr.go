package acl

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// XAttrName is the extended attribute in which the kernel looks for a file's access list.
const XAttrName = "system.posix_acl_access"

// The layout of the attribute, from the kernel's include/uapi/linux/posix_acl_xattr.h: a little-endian version, then
// entries of tag, permissions and id in the order of the tags below.
const (
	xattrVersion = 2
	xattrHeader  = 4
	xattrEntry   = 8
	maxXAttr     = 4096 // the buffer with which the kernel asks a FUSE file system
)

type tag uint16

const (
	tagOwner       tag = 0x01
	tagUser        tag = 0x02
	tagOwningGroup tag = 0x04
	tagGroup       tag = 0x08
	tagMask        tag = 0x10
	tagOther       tag = 0x20
)

const (
	permNone      = 0
	permRead      = 4
	permReadWrite = 6
)

// XAttr returns the value of the attribute XAttrName for this list, nil when the list is empty: the file then has no
// such attribute and Mode says everything. The owner has rw-, users and groups of the list and the mask r--, the
// owning group and all others nothing.
func (l List) XAttr() []byte {
	if l.Empty() {
		return nil
	}
	b := make([]byte, 0, xattrHeader+xattrEntry*(len(l.users())+len(l.groups())+4))
	b = binary.LittleEndian.AppendUint32(b, xattrVersion)
	b = appendEntry(b, tagOwner, permReadWrite, noID)
	for _, uid := range l.users() {
		b = appendEntry(b, tagUser, permRead, uid)
	}
	b = appendEntry(b, tagOwningGroup, permNone, noID)
	for _, gid := range l.groups() {
		b = appendEntry(b, tagGroup, permRead, gid)
	}
	b = appendEntry(b, tagMask, permRead, noID)
	return appendEntry(b, tagOther, permNone, noID)
}

func appendEntry(b []byte, t tag, perm uint16, id uint32) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(t))
	b = binary.LittleEndian.AppendUint16(b, perm)
	return binary.LittleEndian.AppendUint32(b, id)
}

// ParseXAttr reads a value of the attribute XAttrName. No bytes at all are the empty list, as is a list with no users
// and groups. A value that says anything a List cannot say (a right to write or execute, a right for the owning group
// or for everybody, an entry that denies) is an error, and so is one that is malformed or longer than the kernel asks for.
func ParseXAttr(b []byte) (List, error) {
	if len(b) == 0 {
		return List{}, nil
	}
	l, err := parseEntries(b)
	if err != nil {
		return List{}, fmt.Errorf("parsing an access list: %w", err)
	}
	return l, nil
}

func parseEntries(b []byte) (List, error) {
	switch {
	case len(b) > maxXAttr:
		return List{}, fmt.Errorf("%d bytes, more than %d", len(b), maxXAttr)
	case len(b) < xattrHeader || (len(b)-xattrHeader)%xattrEntry != 0:
		return List{}, fmt.Errorf("%d bytes are no whole number of entries", len(b))
	case binary.LittleEndian.Uint32(b) != xattrVersion:
		return List{}, fmt.Errorf("version is %d, not %d", binary.LittleEndian.Uint32(b), xattrVersion)
	}
	var p xattrParser
	for e := b[xattrHeader:]; len(e) > 0; e = e[xattrEntry:] {
		t, perm := tag(binary.LittleEndian.Uint16(e)), binary.LittleEndian.Uint16(e[2:])
		if err := p.entry(t, perm, binary.LittleEndian.Uint32(e[4:])); err != nil {
			return List{}, err
		}
	}
	return p.finish()
}

// xattrParser checks the order and the permissions of entries as they come.
type xattrParser struct {
	last       tag // 0 before the first entry
	seen       tag // all tags so far, as bits
	uids, gids []uint32
}

func (p *xattrParser) entry(t tag, perm uint16, id uint32) error {
	repeatable := t == tagUser || t == tagGroup
	if t < p.last || t == p.last && !repeatable {
		return fmt.Errorf("entry %#x after entry %#x", uint16(t), uint16(p.last))
	}
	p.last, p.seen = t, p.seen|t
	want, known := expectedPerm(t)
	if !known {
		return fmt.Errorf("unknown kind of entry %#x", uint16(t))
	}
	if perm != want {
		return fmt.Errorf("entry %#x has permissions %o, not %o", uint16(t), perm, want)
	}
	if repeatable && id == noID {
		return fmt.Errorf("entry %#x has no id", uint16(t))
	}
	switch t {
	case tagUser:
		p.uids = append(p.uids, id)
	case tagGroup:
		p.gids = append(p.gids, id)
	}
	return nil
}

func expectedPerm(t tag) (perm uint16, known bool) {
	switch t {
	case tagOwner:
		return permReadWrite, true
	case tagUser, tagGroup, tagMask:
		return permRead, true
	case tagOwningGroup, tagOther:
		return permNone, true
	}
	return 0, false
}

func (p *xattrParser) finish() (List, error) {
	required := tagOwner | tagOwningGroup | tagOther
	if len(p.uids)+len(p.gids) > 0 {
		required |= tagMask
	}
	if p.seen&required != required {
		return List{}, errors.New("an entry for the owner, the owning group, the mask or the others is missing")
	}
	return NewList(p.uids, p.gids), nil
}
