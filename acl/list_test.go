package acl

import (
	"slices"
	"testing"
)

func ids(from, n uint32) []uint32 {
	var s []uint32
	for i := range n {
		s = append(s, from+i)
	}
	return s
}

func TestNewListSortsAndRemovesDuplicates(t *testing.T) {
	l := NewList([]uint32{33, 5, 33, noID, 0}, []uint32{noID, noID})
	if got, want := l.Users(), []uint32{0, 5, 33}; !slices.Equal(got, want) {
		t.Errorf("users are %v, want %v", got, want)
	}
	if got := l.Groups(); len(got) != 0 {
		t.Errorf("groups are %v: the id 4294967295 is nobody's", got)
	}
}

func TestListSharesNoMemoryWithItsCallers(t *testing.T) {
	uids, gids := []uint32{1, 2}, []uint32{3, 4}
	l := NewList(uids, gids)
	uids[0], gids[0] = 77, 77
	l.Users()[1], l.Groups()[1] = 88, 88
	if want := NewList([]uint32{1, 2}, []uint32{3, 4}); !l.Equal(want) {
		t.Errorf("the list became %v", l)
	}
}

func TestEqualAndUnion(t *testing.T) {
	tests := []struct {
		name  string
		a, b  List
		equal bool
		union List
	}{
		{"zero lists", List{}, NewList(nil, nil), true, List{}},
		{"order does not matter", NewList([]uint32{2, 1}, nil), NewList([]uint32{1, 2}, nil), true, NewList([]uint32{1, 2}, nil)},
		{"a user is not a group", NewList([]uint32{1}, nil), NewList(nil, []uint32{1}), false, NewList([]uint32{1}, []uint32{1})},
		{"with nobody", NewList([]uint32{1}, []uint32{9}), List{}, false, NewList([]uint32{1}, []uint32{9})},
		{"overlap", NewList([]uint32{1, 3}, []uint32{9}), NewList([]uint32{2, 3}, []uint32{8}), false, NewList([]uint32{1, 2, 3}, []uint32{8, 9})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.Equal(tt.b); got != tt.equal {
				t.Errorf("Equal is %v", got)
			}
			if got := tt.a.Union(tt.b); !got.Equal(tt.union) {
				t.Errorf("union is %v, want %v", got, tt.union)
			}
			if got := tt.b.Union(tt.a); !got.Equal(tt.union) {
				t.Errorf("the other way round the union is %v, want %v", got, tt.union)
			}
		})
	}
}

// The kernel ignores a list where the group bits of the mode are 0, and takes the group bits for the owning group's
// where there is no list: each half without the other is a hole or a lock-out.
func TestModeAndXAttrBelongTogether(t *testing.T) {
	tests := []struct {
		list  List
		mode  uint32
		xattr bool
	}{
		{List{}, 0o600, false},
		{NewList([]uint32{noID}, nil), 0o600, false},
		{NewList([]uint32{0}, nil), 0o640, true},
		{NewList(nil, []uint32{4}), 0o640, true},
	}
	for _, tt := range tests {
		if got := tt.list.Mode(); got != tt.mode {
			t.Errorf("%v: mode %#o, want %#o", tt.list, got, tt.mode)
		}
		if got := tt.list.XAttr() != nil; got != tt.xattr {
			t.Errorf("%v: has an attribute: %v, want %v", tt.list, got, tt.xattr)
		}
		if tt.list.Empty() == tt.xattr {
			t.Errorf("%v: Empty is %v", tt.list, tt.list.Empty())
		}
	}
}

func TestCheckRefusesWhatTheKernelCannotAskFor(t *testing.T) {
	fits := NewList(ids(1, 300), ids(1, MaxEntries-300))
	if err := fits.Check(); err != nil {
		t.Errorf("%d entries: %v", MaxEntries, err)
	}
	if n := len(fits.XAttr()); n > 4096 || n+xattrEntry <= 4096 {
		t.Errorf("the longest list has %d bytes: it must fill the 4096 of the kernel's buffer", n)
	}
	if err := fits.Union(NewList([]uint32{100000}, nil)).Check(); err == nil {
		t.Errorf("%d entries were accepted", MaxEntries+1)
	}
}

func TestIntersectAdmitsWhomBothAdmit(t *testing.T) {
	a, b := NewList([]uint32{1, 2, 3}, []uint32{10, 11}), NewList([]uint32{3, 2, 9}, []uint32{11})
	if got := a.Intersect(b); !got.Equal(NewList([]uint32{2, 3}, []uint32{11})) || !got.Equal(b.Intersect(a)) {
		t.Errorf("%v %v", got.Users(), got.Groups())
	}
	if got := a.Intersect(List{}); !got.Empty() {
		t.Errorf("%v", got.Users())
	}
}
