package acl

import (
	"fmt"
	"slices"
)

// Decision is the kernel's answer to a process that opens a file for reading, with the rule that led to it.
type Decision struct {
	Allowed bool
	// Reason is a clause for people, such as "named user 33" or "member of group 998".
	Reason string
}

// Explain says whether a process of this user, with these groups (primary and supplementary), may read a file that has
// this list and belongs to root, and by which rule. The rules are those of the kernel, in its order: the owner, root by
// capability, a named user, a group. See ExplainOwnedBy for files of another owner.
func (l List) Explain(uid uint32, gids []uint32) Decision {
	return l.ExplainOwnedBy(0, uid, gids)
}

// ExplainOwnedBy is Explain for a file of another owner than root, as in a mount made by an ordinary user.
func (l List) ExplainOwnedBy(owner, uid uint32, gids []uint32) Decision {
	switch {
	case uid == owner:
		return Decision{true, "owner of the file"}
	case uid == 0:
		return Decision{true, "root, by capability"}
	case contains(l.users(), uid):
		// A named user is decided here, before any group is looked at (acl(5), access check algorithm).
		return Decision{true, fmt.Sprintf("named user %d", uid)}
	}
	for _, gid := range gids {
		if contains(l.groups(), gid) {
			return Decision{true, fmt.Sprintf("member of group %d", gid)}
		}
	}
	if l.Empty() {
		return Decision{false, "nobody but the owner is admitted"}
	}
	return Decision{false, fmt.Sprintf("neither user %d nor one of its groups is admitted", uid)}
}

func contains(sorted []uint32, id uint32) bool {
	_, found := slices.BinarySearch(sorted, id)
	return found
}
