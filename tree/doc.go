// Package tree turns certificates and the wishes of the settings into the
// immutable Snapshot that is served: names, links, bytes, permissions.
//
// Everything here is pure. A Snapshot is built from what is known (Build),
// compared with the one that is served now (Diff), and moved towards it one
// Change at a time (Apply). The FUSE side and the persistent mode execute the
// same ordered plan of changes, so what they show is the same.
//
// # Invariants
//
//   - A node's bytes never change. The id of a file is made from its path and
//     the digest of its content, the id of a link from its path and its
//     target, so other bytes or another target are another node, in every
//     process that ever builds the same tree. The kernel may cache both for
//     ever. Only the access list of a node may change, and whether its content
//     is in memory: the file of a stub has the same id, size and digest.
//   - A Snapshot is never modified; Apply shares what did not change and costs
//     no more in a large store than in a small one.
//   - The order of a plan is the promise to readers: new files first (after what
//     nobody can see, which content is in memory), then access lists, then links,
//     then the mark of completion (.luma), old names last. A link never names a
//     file that is not there.
//
// # Limitations
//
// Build makes the whole tree. Names come from Key Vault's alphabet
// ([0-9A-Za-z-] and the dot between vault and certificate) and from custom link
// names that package config has checked; Build refuses two nodes of one name. No plan
// makes a directory of what was none, or the other way round (see Obstacle).
package tree
