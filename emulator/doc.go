// Package emulator is a Key Vault that speaks the real wire protocol, and a
// managed identity endpoint beside it. It serves `kvfs demo`, `kvfs emulator`
// and tests, ours and other people's. Clients of Azure's SDKs talk to it
// unmodified, with TLS and with the check of the challenge's resource on.
//
// It is for programs that want to be tested against the protocol instead of
// against a mock of their own interface: the first 401, the trailing slash,
// the ":443" in links, empty pages, inner error codes, throttling with and
// without Retry-After, certificates that were renewed, disabled, deleted or
// are not exportable. It is not a place to keep secrets: everything lives in
// memory, anyone on the machine may ask the identity endpoint for a token,
// and the control endpoint asks for no credentials at all.
//
// # Endpoints
//
// The data plane is one TLS listener. The Host header says which vault is
// meant: VAULT.SUFFIX, with or without a port, for clients that dial the
// loopback address themselves (kvfs.transport.connect), and VAULT.localhost:PORT
// for clients that cannot. The bare "localhost" and the loopback addresses mean
// the first vault.
//
// The resource of the challenge is https://SUFFIX, or https://localhost:PORT,
// and carries a port whenever the Host header carries one other than 443.
//
// One certificate authority, made anew with each emulator, signs both the
// certificate of this listener and all certificates in the vaults; ca.pem holds
// its root, and [Emulator.RootCertificate] returns it.
//
// The identity endpoint is plain http in the form of Azure's instance metadata
// service, below /metadata/identity/oauth2/token.
//
// # Control
//
// Plain http and JSON. VAULT may always be left out, which means the first.
//
//	POST   /rotate?vault=VAULT&name=NAME             a new version; without name: of every certificate
//	POST   /enable?vault=VAULT&name=NAME&version=V   without version: the newest
//	POST   /disable?vault=VAULT&name=NAME&version=V
//	POST   /delete?vault=VAULT&name=NAME             soft delete
//	POST   /recover?vault=VAULT&name=NAME
//	PUT    /faults      a [Fault]: {"kind":"throttled","name":"www","retryAfter":"2s","count":3}
//	DELETE /faults      ends all faults
//	GET    /counters    [Counters]
//	GET    /certificates    an array of [Item]: everything in the vaults, without values
//
// A request that makes no sense is answered 400, one about something absent
// 404, both with {"error":"what is wrong"}.
//
// # Invariants
//
// A version never changes its value. The newest version is the one made last,
// not the one with the greatest id. Whoever gets a value has shown a token that
// this emulator signed, for the resource of that vault, and that has not
// expired. A fault acts on requests with a valid token only, so that its Count
// is not used up by challenges. Settings and ca.pem are complete at every
// moment: they are replaced by rename.
//
// # Limitations
//
// The data plane reads: there is no PUT, no keys and no certificates
// collection. It answers in HTTP/1.1 only and never compresses.
// outContentType is ignored: values come in the form in which they are stored.
// Any api-version is accepted. Every token request gets a token of its own,
// where the real endpoint repeats a cached one for hours. The Azure Arc form of
// the identity endpoint is not spoken. The messages of errors that are neither
// recorded nor documented (a malformed request, a token of a foreign issuer)
// are guesses; their statuses and codes are not. There is no limit of 25 KB on
// values, so that clients can be shown larger ones.
package emulator
