package acl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// What `setfacl -m u:33:r,u:1001:r,g:998:r` gives on a file of mode 0600, owning group and others without rights.
const golden = "02000000" +
	"0100" + "0600" + "ffffffff" + // user::rw-
	"0200" + "0400" + "21000000" + // user:33:r--
	"0200" + "0400" + "e9030000" + // user:1001:r--
	"0400" + "0000" + "ffffffff" + // group::---
	"0800" + "0400" + "e6030000" + // group:998:r--
	"1000" + "0400" + "ffffffff" + // mask::r--
	"2000" + "0000" + "ffffffff" //   other::---

func TestXAttrIsByteForByteWhatTheKernelReads(t *testing.T) {
	l := NewList([]uint32{1001, 33}, []uint32{998})
	if got := hex.EncodeToString(l.XAttr()); got != golden {
		t.Errorf("the attribute is\n%s, want\n%s", got, golden)
	}
}

func TestXAttrRoundTrip(t *testing.T) {
	for _, l := range []List{
		{},
		NewList([]uint32{0}, nil),
		NewList(nil, []uint32{0}),
		NewList([]uint32{1, 2, noID - 1}, []uint32{7, noID - 1}),
		NewList(ids(5, 250), ids(5, 257)),
	} {
		got, err := ParseXAttr(l.XAttr())
		if err != nil || !got.Equal(l) {
			t.Errorf("%v came back as %v, error %v", l, got, err)
		}
	}
}

// raw builds an attribute from entries of tag, permissions and id.
func raw(version uint32, entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range entries {
		b = appendEntry(b, tag(e[0]), uint16(e[1]), e[2])
	}
	return b
}

var (
	owner   = [3]uint32{0x01, 6, noID}
	group   = [3]uint32{0x04, 0, noID}
	mask    = [3]uint32{0x10, 4, noID}
	other   = [3]uint32{0x20, 0, noID}
	user33  = [3]uint32{0x02, 4, 33}
	user7   = [3]uint32{0x02, 4, 7}
	group99 = [3]uint32{0x08, 4, 99}
)

func TestParseXAttrAccepts(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want List
	}{
		{"nothing", nil, List{}},
		{"the three entries of a mode", raw(2, owner, group, other), List{}},
		{"a mask without names", raw(2, owner, group, mask, other), List{}},
		{"users out of order", raw(2, owner, user33, user7, group, mask, other), NewList([]uint32{7, 33}, nil)},
		{"user and group", raw(2, owner, user7, group, group99, mask, other), NewList([]uint32{7}, []uint32{99})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseXAttr(tt.in)
			if err != nil || !got.Equal(tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// Whatever a List cannot say must not be read as something it can say.
func TestParseXAttrRefuses(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
	}{
		{"half a header", []byte{2, 0}},
		{"a header only", raw(2)},
		{"half an entry", raw(2, owner, group, other)[:24]},
		{"another version", raw(1, owner, group, other)},
		{"an unknown entry", raw(2, owner, group, other, [3]uint32{0x40, 0, noID})},
		{"no owner", raw(2, group, other)},
		{"no others", raw(2, owner, group)},
		{"names without a mask", raw(2, owner, user33, group, other)},
		{"wrong order", raw(2, owner, group, user33, mask, other)},
		{"two owners", raw(2, owner, owner, group, other)},
		{"a user without an id", raw(2, owner, [3]uint32{0x02, 4, noID}, group, mask, other)},
		{"a user who may write", raw(2, owner, [3]uint32{0x02, 6, 33}, group, mask, other)},
		{"a user who is denied", raw(2, owner, [3]uint32{0x02, 0, 33}, group, mask, other)},
		{"the owning group may read", raw(2, owner, [3]uint32{0x04, 4, noID}, mask, other)},
		{"everybody may read", raw(2, owner, group, [3]uint32{0x20, 4, noID})},
		{"a mask that takes all away", raw(2, owner, user33, group, [3]uint32{0x10, 0, noID}, other)},
		{"too long", NewList(ids(1, 300), ids(1, 300)).XAttr()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := ParseXAttr(tt.in); err == nil {
				t.Errorf("read as %v", got)
			} else if !strings.HasPrefix(err.Error(), "parsing an access list: ") {
				t.Errorf("the error does not say what was attempted: %v", err)
			}
		})
	}
}

func FuzzParseXAttr(f *testing.F) {
	f.Add(NewList([]uint32{33}, []uint32{998}).XAttr())
	f.Add(raw(2, owner, group, other))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseXAttr(b)
		if err != nil {
			return
		}
		if err := l.Check(); err != nil {
			t.Fatalf("accepted %d bytes: %v", len(b), err)
		}
		again, err := ParseXAttr(l.XAttr())
		if err != nil || !again.Equal(l) {
			t.Fatalf("%v came back as %v, error %v", l, again, err)
		}
		if len(l.XAttr()) > len(b) {
			t.Fatalf("%x grew to %x", b, l.XAttr())
		}
		if bytes.Equal(b, l.XAttr()) && l.Empty() && len(b) > 0 {
			t.Fatal("an empty list has an attribute")
		}
	})
}
