// Package keeper holds descriptors that must outlive the process that uses them, and
// keeps that process, the server, running. It does little, so that there is little
// in it that can fail; it does not know what the descriptors are, and no secret
// passes through it.
//
// A server looks at what it was handed over, and tells what it wants to be kept:
//
//	c, err := keeper.Inherit()  // before anything else
//	fd, ok := c.Take("journal") // from the server before this one
//	c.Keep("journal", fd)       // or else: from now on it survives
//	c.CloseRest()
//	c.Ready()
//
// The other side is systemd, whose descriptor store does the same, or a [Keeper]
// where there is no systemd. The server need not know which.
//
// # Protocol
//
// It is systemd's. The server finds its descriptors from 3 on, with LISTEN_FDS and
// LISTEN_FDNAMES (sd_listen_fds(3)), in no order that means anything; a socket to
// talk to, NOTIFY_SOCKET (sd_notify(3)); and WATCHDOG_USEC if it must be heard of
// (sd_watchdog_enabled(3)). It says READY=1, STATUS=, STOPPING=1, WATCHDOG=1,
// FDSTORE=1 and FDSTOREREMOVE=1 with FDNAME=, and BARRIER=1, whose descriptor is
// closed when all before it has been handled.
//
// A Keeper differs in three things. It tells a successor how the server before it has
// ended, in words for a log, unless that has parked (KVFS_FORMER_END). It sets neither LISTEN_PID nor WATCHDOG_PID, whose
// value it cannot know before the fork, but KVFS_KEEPER, which names the pipe that it
// hands over as descriptor 3, "keeper". And that pipe ends when the keeper dies
// ([Client.Gone]).
//
// A Keeper obeys the process that it has started, and nobody else: no child of that,
// no earlier server. It keeps at most 64 descriptors and reads at most 4 KiB at once.
//
// # What the end of a server means
//
//   - Code 0: it is done, and so is [Keeper.Run].
//   - Any other code but Again before any server was ready: Run returns it, so that a
//     refusal reaches the person.
//   - Code [Again]: it has parked. A successor is started at once. It is a failure only
//     if the server was not ready.
//   - A signal, or another code: a successor is started at once. If the server ended
//     before READY=1 or within 1 s after it, that is a failure. Failures in a row are
//     followed by waits of 0, 50 ms, 100 ms and so on up to 2 s; a server that lives for
//     10 s after READY=1 makes up for them.
//   - SIGKILL by somebody else after READY=1: the same, but it is no failure and ends a
//     row of them. Who is killed within 1 s time and again is waited for up to 100 ms.
//   - The last of Options.Tries failures in a row: [Options.LastGasp] runs with all that
//     is kept, and Run returns 1.
//
// The keeper sends SIGKILL to a server that is not ready within Options.StartTimeout,
// is silent for Options.Watchdog, or takes more than 15 s to end when it should. It
// asks for an end by SIGINT when the context of Run ends, which is for good: 0 is the
// right answer, and anything else leads to the last gasp. [Keeper.Replace] asks by
// SIGTERM for Again. A server that is not ready gets neither SIGTERM nor SIGHUP.
//
// # Invariants
//
//   - Two servers never run at once: the next is started when the one before has been
//     reaped. What is left alone after 1 s is a process that the keeper has sent SIGKILL
//     to: it runs no code of its own any more, and may wait in the kernel for what only
//     its successor answers ([TestSuccessorDoesNotWaitForAKilledServerForEver]).
//   - What a server said is heard before its end is looked at: nothing that it gave away
//     before it died is lost ([TestFiftyKillsLoseNothing]).
//   - Everything in Keeper happens in the goroutine of Run. There is no lock.
//   - All descriptors of a keeper are close-on-exec, and their flags are not touched.
//
// # When the keeper dies
//
// Its servers live on, and see Gone. What they hold is then the last of it: the next
// death is final. A server that was being started finds its descriptors all the same.
// The directory of the notify socket is left behind.
//
// # Limitations
//
//   - Linux 5.3 or later.
//   - Servers run as the keeper's user, or as one who can reach the socket in its
//     directory (mode 0700), and in its mount and process id namespace.
//   - A kept descriptor is not watched. systemd drops one that polls as hung up or in
//     error; a Keeper keeps it until it is told otherwise. FDPOLL=, MAINPID=,
//     RELOADING=1, EXTEND_TIMEOUT_USEC= and WATCHDOG=trigger are passed over.
//   - As process 1 of a container it does not reap what its servers leave behind.
//   - A program that calls Run must not wait for any child (wait4 of -1) elsewhere.
package keeper
