// Package disk keeps a real directory equal to one store of a tree.Snapshot, for the
// persistent mode, and reads such a directory back as last-good certificates, also one
// that the Azure Key Vault VM extension (versions 1 to 4) has left.
//
//	d, err := disk.Open("/etc/tls/kv", disk.Options{})
//	err = d.Apply(ctx, snapshot) // the first compares everything, those after it what changed
//	found, notes, err := disk.Read("/etc/tls/kv", certificates, disk.ReadOptions{})
//
// Do not use it for a directory that somebody else writes to: others than its owner
// must not be able to, and Open refuses where they are.
//
// # How it works
//
// Apply carries out the plan of package tree in the order in which fs publishes it:
// directories and new files, access lists, links, replaced files (the mark of completion
// among them), and removals last. A file is made under a temporary name without rights,
// gets its owner, its access list and its mode, then its content, is synced and renamed;
// a link is made under a temporary name and renamed. Each of these phases ends with a sync
// of the directories it has touched, and the next one builds only on what was synced.
//
// Which names are ours is in the manifest (.kvfs), a log of JSON lines that is synced
// before a name begins to exist, and again when it is gone; and what the extension has made
// for the certificates of the settings is known by its names. No other name is ever replaced
// or removed: it is reported (*Error), and all others are written.
//
// # Invariants
//
//   - After a power cut at any step every link of ours leads to complete files, the old or
//     the new ones (TestPowerCut).
//   - Nothing is ever readable by more than its access list says: content comes after
//     rights, and rights are taken from an access list before it is.
//   - A link moves only when what it leads to is synced, and what a link on the disk leads to is
//     not removed.
//   - Every system call is relative to a descriptor of the directory, and none follows a link
//     or leaves the file system: a link in the place of a name, or another directory in the
//     place of this one, does not lead a write elsewhere (TestHostileLinks).
//   - A step that failed is not counted as done, and the next Apply tries it again.
//
// # Limitations
//
// Content that is not in memory (tree.Away) is not fetched for the disk: a file that is there
// stays, one that is not is left out. A name that was entered in the manifest and not made
// because of a crash is taken for ours if somebody else makes it before the next start.
// Keystores with a password cannot be read back; a store that has nothing else is empty after a
// start without network, though the files are there. Times of files are those of their
// writing.
package disk
