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
// If a process before this one served, and ended without Detach, then TakeOver comes
// in the place of Open: what was served goes on being served, and nobody notices.
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
// # Taking over
//
// Options.Keep gives somebody else what must outlive the process: the connection, the
// journal of requests that were read and not answered (journal.go), and the image of
// what was shown (record.go). A successor repeats INIT to itself, answers what is in
// the journal, and asks the kernel to send again what is not. Since every node has the
// id that its content gives it, and every change is in the image before its request is
// answered, what it says is what its predecessor would have said. A RENAME that was
// carried out and not answered comes again, and is answered without being carried out
// again.
//
// Who mounts need not be who serves: with Leave in place of Attach a process with the
// right to mount ends and another one, without it, takes over (TakeOver). That gets its
// publisher at a socket (PublisherAt), whose side of it is ReceiveDirectory.
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
//   - A name moves in the image before it moves in the view, and in the view before
//     the answer (TestDeathInsideARenewal).
//   - A request is in the journal until its answer is written; a read that waits is in
//     it at two places rather than at none (TestWaitingReadOutlivesItsServer).
//   - No handler does any I/O, waits for anything but a short mutex, or calls
//     into a mount of ours.
//   - Every change that is not the publisher's is refused with EROFS, also for
//     root and also after somebody remounts the bind writable.
//   - GETXATTR is never answered ENOSYS: the kernel would stop asking for access
//     lists and the mode bits alone would decide.
//   - The process that serves opens no file of its own mounts: a system call that
//     waits for us may keep the processor that we need (Go's runtime does so when
//     it opens a file), and who is killed in it cannot be reaped before a successor
//     answers.
//   - The publisher never holds /dev/fuse: a thread that waits for the answer to
//     RENAME cannot be killed and would keep the connection open.
//
// # Limitations
//
// Linux 5.12 or later. Since OPEN is answered ENOSYS, nobody is told who opens
// what. A file that was removed, its key included, stays in memory and readable for
// those who have it open, while it is among the last ones removed (see
// Options.Retired). A program that asks whether the file is a terminal, as the read of
// a shell does, costs a request (IOCTL) each time: the kernel knows no way to refuse
// those for good. fusermount3 mounts are for their user alone; access lists have no
// effect there. A connection of another format is replaced by a new one, upon which
// who has a file of the former one open gets ESTALE; before Linux 6.5 there is a moment
// in which neither is there, and an ordinary user's cannot be replaced.
package fs
