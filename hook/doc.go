// Package hook does what is to be done when a certificate has been renewed: it reloads or restarts units of
// systemd, runs commands, sends signals, and hands the new certificate to haproxy's runtime API.
//
// A Runner is told what is served, whenever that may have changed, and compares it with what its actions were
// done for. So a renewal is not an event that can be lost: what an action has not been done for is found
// again by the next process, from the records that the last one has left.
//
// Programs run the commands, and those of others who have something to tell.
//
// # Invariants
//
//   - An action is done for a version after its links lead to it, never before: that is for who tells what is
//     served, and the only thing that it has to see to.
//   - A version is entered as done when the action has succeeded, and not before: at least once, also when the
//     process dies at any instruction. Twice is possible.
//   - The first version that is seen of a certificate is no change. Nobody can have loaded another one from here.
//   - A file system that does not answer holds up the process that is to become a program of it, and never this one.
//   - All that has changed when an action begins is one run of it. What changes meanwhile is the next one.
//
// # Limitations
//
// Actions are done side by side, in no order. Who needs an order writes a command.
//
// A command that cannot be killed, since it waits in the kernel, is left behind, and not run again while it is there. The process
// that comes after this one does not know of it.
package hook
