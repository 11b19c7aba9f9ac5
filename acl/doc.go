// Package acl says who besides the owner may read a certificate's files, in the form the kernel enforces: a POSIX
// access list.
//
// The settings name users and groups ([Grant]). A [Lookup] turns them into a [List] of numeric ids, and the list turns
// itself into the value of the extended attribute [XAttrName] and the mode that belongs to it. The kernel reads both
// and decides alone, supplementary groups included; nothing in kvfs is asked when a file is opened. [List.Explain]
// answers the same question for people, by the same rules.
//
// Do not use this package for access lists in general. A List can say one thing only, "these may read": no write, no
// execute, no entry that takes a right away.
//
// # Invariants
//
//   - A List is immutable, sorted and free of duplicates, so equal grants give equal bytes. Slices it takes and gives are
//     copies.
//   - Mode and XAttr belong together. The group bits of the mode are the mask of the access list: with group bits 0 the
//     kernel does not look at the list at all, and without a list the group bits mean the owning group. Never set one
//     without the other.
//   - ParseXAttr refuses what a List cannot say. It never reads a list as more permissive than it is.
//
// # Limitations
//
//   - A list holds at most [MaxEntries] users and groups, because the kernel asks a FUSE file system for the attribute
//     with a buffer of 4096 bytes. [List.Check] tells.
//   - A program built without cgo knows the users and groups of /etc/passwd and /etc/group only, not those of LDAP or
//     SSSD. Their numeric ids work everywhere.
//   - Explain knows the list, not the machine: capabilities granted to a single program, security modules, the modes of
//     the directories above and a mount that only its owner may enter are outside its view.
package acl
