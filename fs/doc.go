// Package fs serves a tree.Snapshot as a FUSE file system and publishes changes
// to it by ordinary file work.
//
// An FS is opened, served and attached by its caller, in this order:
//
//	f, err := fs.New(fs.Options{})
//	f.Publish(ctx, snapshot) // nothing is mounted yet: this costs nothing
//	f.Open(stores...)        // a superblock that hangs nowhere
//	go f.Serve(ctx)          // answers the kernel until ctx ends
//	f.Attach()               // each store appears, read-only, at its path
//	f.Publish(ctx, next)     // a renewal: symlink and rename
//	f.Detach()               // the stores are gone
//
// # How it works
//
// There is one superblock with a private, writable mount that no path leads to,
// and a read-only bind of a sub-directory for every store. A process of its own,
// the publisher, holds nothing but a descriptor of the private mount and makes
// each change with symlinkat, mknodat, renameat, unlinkat and fsetxattr. So the
// kernel's caches and inotify are right by construction: readers may cache
// names, attributes, links and pages for as long as they like, and a warm
// open+read+close sends no request at all. Who may read is a POSIX access list
// that the kernel enforces.
//
// An ordinary user has no bind mounts: fusermount3 makes one mount for each
// store, writable by its mode and read-only by our answers, and the publisher
// works through it.
//
// # Invariants
//
//   - The bytes, the target and the id of a node never change (package tree).
//   - A name moves only in the handler of the publisher's request, never before:
//     what LOOKUP says and what the kernel has cached cannot part.
//   - No handler does any I/O, waits for anything but a short mutex, or calls
//     into a mount of ours.
//   - Every change that is not the publisher's is refused with EROFS, also for
//     root and also after somebody remounts the bind writable.
//   - GETXATTR is never answered ENOSYS: the kernel would stop asking for access
//     lists and the mode bits alone would decide.
//   - The process that serves opens no file of its own mounts: a system call that
//     waits for us may keep the processor that we need (Go's runtime does so when
//     it opens a file).
//   - The publisher never holds /dev/fuse: a thread that waits for the answer to
//     RENAME cannot be killed and would keep the connection open.
//
// # Limitations
//
// Linux 5.12 or later. Since OPEN is answered ENOSYS, nobody is told who opens
// what. The descriptor of the connection dies with the process. A file that was
// removed, its key included, stays in memory and readable for those who have it
// open, while it is among the last ones removed (see Options.Retired). A program that asks whether the file is a
// terminal, as the read of a shell does, costs a request (IOCTL) each time: the
// kernel knows no way to refuse those for good. fusermount3 mounts are for their user
// alone; access lists have no effect there.
package fs
