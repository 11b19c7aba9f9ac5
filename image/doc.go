// Package image keeps records in memory that outlives the process: what a server
// has shown to the kernel, for the server that takes over from it.
//
// An Image is a set of records by key, written as a log into a memory file: a
// change is appended and then made valid by one store of the log's length, so
// whoever dies at any instruction leaves the state before the change or the one
// after it. The file's descriptor is held by a keeper as well (see Options.Keep).
// When the log is full, what is alive is written into a new file, which takes the
// place of the old one once the keeper has it.
//
// The memory is memfd_secret(2) where the kernel has it: no other process can read
// it, root included, and it never goes to swap. Elsewhere it is a memory file of
// which every page is locked, if the limit on locked memory allows it.
//
// # Invariants
//
//   - A record is written completely before the length that includes it.
//   - A new file is complete before the keeper gets it, and the keeper has it before
//     the old one is dropped.
//   - Put never makes a new file: it may be called by who answers the kernel. Reserve
//     does, beforehand.
//
// # Limitations
//
// One process at a time. An image of another format is refused as a whole.
package image
