// Package certs turns the value of a Key Vault secret into a bundle, a private
// key with its certificate and its chain in the order a server must send them,
// and a bundle into the bytes of the files that kvfs shows.
//
// # What it reads
//
// PKCS#12 (base64 as the service writes it, or raw) that has the empty password,
// and PEM in any order. The content decides which of the two it is; the content
// type of a secret is a hint alone, since people set it to anything.
//
// [Parse] either returns a bundle that can be served or an [*Error] that names
// what was found and one step to take. It never returns less than what the value
// holds: a block that cannot be read is an error, not a shorter chain.
//
// # Invariants
//
//   - The private key belongs to Bundle.Leaf, which is Bundle.Chain[0].
//   - Every certificate in Bundle.Chain has signed the one before it; the
//     signature was verified, names and key ids alone prove nothing.
//   - No certificate is lost: what is not in Bundle.Chain is in Bundle.Extra (but see Limitations).
//   - Leaf, key and chain do not depend on the order of the value; Extra keeps it.
//   - A parsed value costs a bounded amount of work: sizes, the number of
//     certificates, the rounds of key derivation and the search for a chain have
//     limits, since whoever may write a secret chooses all of them.
//   - Nothing of a private key is in an error, and a Bundle or PEM that is
//     formatted or logged prints [redacted] ([TestSecretsAreRedacted]).
//
// The package does no I/O, keeps no state, starts no goroutine and knows no clock:
// a certificate that has expired is a bundle like any other. It is the only
// importer of the PKCS#12 library. The library decodes; what it cannot do is done
// here: to say what a file asks for before it is done (pfx.go, rounds.go, ber.go), and
// to read bag by bag what the library refuses (pkcs12.go, pbe.go, rc2.go).
//
// # When not to use it
//
// It does not judge trust: no path is validated against roots, no name, purpose
// or date is checked. Use crypto/x509 for that.
//
// # Limitations
//
//   - Passwords are not supported, only the empty one.
//   - Keys: RSA, RSA-PSS, ECDSA on P-224 to P-521, Ed25519. Key Vault's P-256K, other
//     curves and curves spelled out as parameters are refused as unsupported, by name.
//     RSA ends at 16384 bits.
//   - Signatures by MD2, MD5, by RSA keys below 1024 bits and by RSA-PSS with
//     unusual parameters cannot be verified: a certificate reached by one of them
//     alone is in Extra.
//   - The library passes over bags that are nested in an encrypted part. They are found
//     unless a key in the clear comes first, when encrypted parts are left to it.
//   - PKCS#12 that is encrypted to a public key instead of a password is not opened.
package certs
