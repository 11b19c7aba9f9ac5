// Package chain completes and judges the chain of a bundle with what the world outside
// has: issuers that the value lacks, at the addresses that certificates name
// (authority information access, RFC 5280 section 4.2.2.1), and trust, by the roots of
// the system.
//
// It stands apart from certs because certs does no I/O: the same value there is the same
// bundle on every machine and every day, and a fuzzer may drive all of it. What depends
// on a network, on the machine's roots or on the clock is here, and only runs where the
// settings ask for it.
//
// # Who chooses what
//
// kvfs often runs as root, and whoever may write a secret chooses the addresses that
// [Fetcher] asks. So the requests are bounded in number, time and size, carry nothing of
// ours, and never reach what only this machine may reach. Nothing that comes back is
// trusted: a certificate counts only if it has signed the one before it.
//
// # Invariants
//
//   - Every certificate that Complete adds has signed the one before it in the chain.
//   - A chain costs at most 4 rounds of at most 2 requests and 10 seconds. An answer has
//     at most 64 KiB and 32 certificates.
//   - The address that is dialled is judged, not the name: a name that resolves to another
//     address the second time gains nothing ([TestNamesThatResolveToLoopbackAreRefused]).
//     Redirects dial anew, so they are judged too.
//   - A request has no credentials, cookies, user agent or referrer.
//   - A failure that is the caller's, whose context ended, is never remembered as the address's.
//   - Complete always returns a bundle that can be served, whatever the error is.
//   - "Not trusted" ([UntrustedError]) and "could not tell" ([UnknownError]) are different
//     types: which of the two stops a publication is for the caller to decide.
//
// The package keeps what it fetched in memory, in the Fetcher alone, and starts no
// goroutine that outlives a call by more than the time limit of one request.
//
// # When not to use it
//
// It is not on the way of a read: Complete may take 10 seconds. Verify is not what a
// client of the server does: it checks no host name and no revocation.
//
// # Limitations
//
//   - Chains are completed up to a root, which is then served as well if it was fetched:
//     some bytes more in each handshake, which clients ignore.
//   - A certificate that names no address ends the chain without an error; most CAs'
//     last intermediate names its root, many private CAs name nothing.
//   - Only HTTP: the ldap addresses that Active Directory writes are passed over.
//   - No proxy. Behind one the address that is dialled says nothing, so the environment's
//     is not read. A Client of the caller's may use one, and then the caller answers for
//     the addresses.
//   - Private networks may be asked, as private CAs are there: so other machines'
//     services on them can be sent a GET that the writer of a secret chose, without seeing the
//     answer. So can services of this machine that listen on its outside addresses.
//   - If an address gives several cross-signed issuers, certs chooses one, and only its
//     addresses are followed.
//   - The system's roots are read once per process, by crypto/x509.
//   - Signatures by SHA-1 are not trusted by Verify, like everywhere in Go. Of a critical
//     extension that Go does not know, Verify cannot tell.
package chain
