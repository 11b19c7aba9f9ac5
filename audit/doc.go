// Package audit tells who opens which file of a file system, from the kernel's own
// events (fanotify): the daemon behind the file system is not asked, and sees nothing.
//
// An [Auditor] is the whole life of a process of its own. It looks up at once who has
// opened a file, since a process may be gone a moment later; writes one line of JSON for
// each open; and remembers what the processes that still run have read. A [Client] is the
// server's end of the socket between them, the door. The server tells what the files
// are; it may die and be replaced, and the auditor goes on. The auditor ends when nobody
// holds the other end any more.
//
// # Who it was
//
// An event names its process by a pidfd, not by a number that may be given away again.
// What /proc says of a number counts only if the pidfd says afterwards that the process
// was still there. For processes that had ended before, the kernel's own record of their
// end (taskstats) is asked: it is written before the number is free. What is left has
// its number alone, and "gone".
//
// # Invariants
//
//   - Nothing waits for an auditor: events are queued by the kernel, a bounded number,
//     and no permission is ever asked of it (FAN_OPEN_PERM). One that is stopped or slow
//     loses events, and says how many times.
//   - Who reads events does not wait for a disk or a pipe: lines go through a bounded
//     buffer, and what has no room is counted. Another goroutine writes them, and opens and
//     closes the file.
//   - No call of the auditor asks the file system for anything: a server that is dead
//     does not keep it from reading events ([unix.AT_STATX_DONT_SYNC]).
//   - Memory is bounded, whatever others open.
//
// # Limitations
//
// Equal events, of one process and one file, are one until they are read. Opens that the
// kernel refuses are no events. Users are those of the moment in which the event is read,
// which is some microseconds later, and longer if the auditor has a lot to do. Linux 5.15.
package audit
