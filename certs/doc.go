// Package certs turns the value of a Key Vault secret into a bundle, a private
// key with its certificate and its chain in the order a server must send them,
// and a bundle into the bytes of the files that kvfs shows: PEM ([Bundle.PEMAs]), PFX, a
// Java keystore and a Java trust store ([Bundle.PFX], [Bundle.JKS], [Bundle.TrustStore]).
//
// # What it reads
//
// PKCS#12 (base64 as the service writes it, or raw) that has the empty password,
// and PEM in any order. The content decides which of the two it is; the content
// type of a secret is a hint alone, since people set it to anything.
//
// [Parse] either returns a bundle that can be served or an [*Error] that names
// what was found and one step to take. It never returns less than what the value
// holds: a block that cannot be read is an error, not a shorter chain. Where the key alone
// is missing, as in the secret of a certificate that is not exportable, Error.Partial is
// the chain without it. [Bundle.WithIssuers] builds a chain anew from more certificates.
//
// # Invariants
//
//   - The private key belongs to Bundle.Leaf, which is Bundle.Chain[0].
//   - Every certificate in Bundle.Chain has signed the one before it; the
//     signature was verified, names and key ids alone prove nothing.
//   - No certificate is lost: what is not in Bundle.Chain is in Bundle.Extra (but see Limitations).
//   - Leaf, key and chain do not depend on the order of the value; Extra keeps it.
//   - A value costs less than a second of a core, whatever it asks for: sizes, rounds of
//     key derivation, keys and signatures have a price that is reserved before the work is
//     done, since whoever may write a secret chooses all of them (effort.go,
//     [TestWorkIsReservedBeforeItIsDone]; BenchmarkHostile measures it).
//   - The same bundle and options are the same bytes, of a store too, whose salts are
//     derived from the key: a version is the same file after a restart.
//   - Nothing of a private key is in an error, and a Bundle or PEM that is
//     formatted or logged prints [redacted] ([TestSecretsAreRedacted]).
//
// The package does no I/O, keeps no state, starts no goroutine and knows no clock:
// a certificate that has expired is a bundle like any other. It is the only
// importer of the PKCS#12 library. The library decodes what it can, verifies the MAC and
// writes. What it cannot do is done here, and each part of that is there for files that
// occur:
//
//   - pfx.go, rounds.go: what a file asks for is counted before the library does it.
//   - pkcs12.go, pbe.go: Key Vault's own file of a certificate that is not exportable has
//     no key, which the library refuses (3DES), and NSS writes keys for RSA-PSS, which it
//     does not know; imported files with AES are handed out as they came and can be either
//     as well. Keys inside of encrypted parts can be counted in no other way.
//   - rc2.go: the certificates of those files are under RC2 with 40 bits in what NSS and
//     older versions of Key Vault write. The library's own is not exported.
//   - ber.go: NSS and older Java and openssl tools write BER, which the library takes for
//     damage.
//
// # When not to use it
//
// It does not judge trust: no path is validated against roots, no name, purpose
// or date is checked. Use crypto/x509 for that.
//
// # Limitations
//
//   - Passwords are not supported for reading, only the empty one.
//   - Keys: RSA, RSA-PSS, ECDSA on P-224 to P-521, Ed25519. Key Vault's P-256K, other
//     curves and curves spelled out as parameters are refused as unsupported, by name.
//     RSA ends at 16384 bits, and of such keys a value may have two or three.
//   - A PFX cannot be written of a key for RSA-PSS alone. It was tried with openssl 3 and
//     Java 17, with a password and with the empty one; Java 11 and Windows Server 2016 do
//     not read its AES. Java puts the chain of a PFX together by names, so of two CAs with
//     one name it may show another.
//   - Signatures by MD2, MD5, by RSA keys below 1024 bits and by RSA-PSS with
//     unusual parameters cannot be verified: a certificate reached by one of them
//     alone is in Extra.
//   - The library passes over bags that are nested in an encrypted part. They are found
//     unless a key in the clear comes first, when encrypted parts are left to it.
//   - PKCS#12 that is encrypted to a public key instead of a password is not opened.
package certs
