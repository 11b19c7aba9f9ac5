package acl

import (
	"fmt"
	"slices"
)

// MaxEntries is the greatest number of users and groups in one list: 4096 bytes, less 4 of header and 8 each for the
// owner, the owning group, the mask and the others, at 8 bytes an entry.
const MaxEntries = (maxXAttr-xattrHeader)/xattrEntry - 4

// noID is what the kernel writes for "no id" ((uid_t)-1). As the id of an entry it would make the whole list invalid.
const noID = 1<<32 - 1

// List is a resolved access list: who besides the owner may read a file. The zero List admits nobody. Lists are
// immutable and may be shared between goroutines; compare them with Equal.
type List struct {
	_         [0]func() // what is equal may be two in memory: see Equal
	*admitted           // nil: nobody. Thousands of files share one.
}

// admitted ids are sorted, unique, and never noID. They are never written after NewList.
type admitted struct{ uids, gids []uint32 }

// NewList returns the list that admits these users and the members of these groups. Order and repetition do not
// matter. The id 4294967295 is nobody's and is left out.
func NewList(uids, gids []uint32) List {
	return newList(idSet(uids), idSet(gids))
}

func newList(uids, gids []uint32) (l List) {
	if len(uids)+len(gids) > 0 {
		l.admitted = &admitted{uids, gids}
	}
	return l
}

// users and groups are not to be written to.
func (l List) users() []uint32 {
	if l.admitted == nil {
		return nil
	}
	return l.uids
}

func (l List) groups() []uint32 {
	if l.admitted == nil {
		return nil
	}
	return l.gids
}

func idSet(ids []uint32) []uint32 {
	set := slices.Clone(ids)
	slices.Sort(set)
	set = slices.Compact(set)
	if n := len(set); n > 0 && set[n-1] == noID {
		set = set[:n-1]
	}
	return set
}

// Users returns the ids of the admitted users in ascending order. The slice is the caller's own.
func (l List) Users() []uint32 { return slices.Clone(l.users()) }

// Groups returns the ids of the admitted groups in ascending order. The slice is the caller's own.
func (l List) Groups() []uint32 { return slices.Clone(l.groups()) }

// Empty reports whether nobody but the owner may read.
func (l List) Empty() bool { return l.admitted == nil }

// Equal reports whether both lists admit the same users and groups.
func (l List) Equal(other List) bool {
	return slices.Equal(l.users(), other.users()) && slices.Equal(l.groups(), other.groups())
}

// Union returns the list that admits whom either list admits.
func (l List) Union(other List) List {
	return NewList(slices.Concat(l.users(), other.users()), slices.Concat(l.groups(), other.groups()))
}

// Intersect returns the list that admits whom both lists admit by name: a user of
// one list who is in a group of the other is not found out.
func (l List) Intersect(other List) List {
	both := func(a, b []uint32) []uint32 {
		return slices.DeleteFunc(slices.Clone(a), func(id uint32) bool { return !contains(b, id) })
	}
	return newList(both(l.users(), other.users()), both(l.groups(), other.groups()))
}

// Check returns an error if the list has more than MaxEntries entries and therefore cannot be given to the kernel.
func (l List) Check() error {
	if n := len(l.users()) + len(l.groups()); n > MaxEntries {
		return fmt.Errorf("the access list has %d users and groups, more than the %d the kernel can ask for", n, MaxEntries)
	}
	return nil
}

// Mode returns the permission bits that belong to a file with this list: 0600 when it is empty, otherwise 0640. The
// group bits are then the mask of the list and give the owning group nothing.
func (l List) Mode() uint32 {
	if l.Empty() {
		return 0o600
	}
	return 0o640
}
