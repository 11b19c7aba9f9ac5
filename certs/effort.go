package certs

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"math/bits"
)

// Whoever may write a secret chooses how much work reading it is: a value of a hundred
// bytes can ask for hours. So each piece of work has a price in steps, which is reserved
// before it is done, and a value gets so many steps and no more.
//
// A step is a tenth of a microsecond on a core of 2026: the hashing of one block by SHA-1.
// The prices are the measured times, rounded up; BenchmarkHostile measures the sum.
const (
	// maxReading is 0.75 s: enough for 600,000 rounds of PBKDF2 with SHA-256 for each of
	// MAC, certificates and key, which is what the most careful exporters ask for. Key
	// Vault's own files take about 1 % of it.
	maxReading = 7_500_000
	// maxChecking is 0.1 s for the signatures of a chain: 30 checks of the slowest curve,
	// 1000 of P-256 or 100 of RSA-4096. Real bundles need a dozen.
	maxChecking = 1_000_000
)

// effort is the work that one value may still cost. The readers reserve, and what they
// reserved for they do, at most once: [TestWorkIsReservedBeforeItIsDone].
type effort struct {
	limit     int64
	reserved  int64
	done      int64 // of what was reserved; nothing but the test reads it
	exhausted bool  // something was too much
}

// reserve reports whether there is effort left for so many steps, and takes them.
func (e *effort) reserve(steps int64) bool {
	if steps > e.limit-e.reserved {
		e.exhausted = true
		return false
	}
	e.reserved += steps
	return true
}

func (e *effort) did(steps int64) { e.done += steps }

// The hash functions of key derivation, as far as their prices differ.
const (
	shortHash = 1 // SHA-1; SHA-256 where the processor has instructions for it
	longHash  = 3 // SHA-512
)

// rounds returns a count of rounds as a number that may be multiplied: beyond the limit
// one is as good as another. ok is false for what no decoder takes for a count.
func rounds(n *big.Int) (count int64, ok bool) {
	switch {
	case n == nil || n.Sign() < 0:
		return 0, false
	case !n.IsInt64():
		return maxReading, true
	}
	return max(1, min(n.Int64(), maxReading)), true
}

// derivation is the price of deriving the keys of an encryption, or of PBMAC1, once. ok
// is false if its parameters have no form that is known.
func derivation(algorithm pkix.AlgorithmIdentifier) (steps int64, ok bool) {
	params := algorithm.Parameters.FullBytes
	var one pbes1Params
	if _, err := asn1.Unmarshal(params, &one); err == nil {
		count, ok := rounds(one.Iterations)
		return count * 3, ok // two blocks of a key for 3DES, and one of an initial vector
	}
	var two pbes2Params // PBMAC1 has the same form
	var kdf pbkdf2Params
	if _, err := asn1.Unmarshal(params, &two); err != nil {
		return 0, false
	}
	if _, err := asn1.Unmarshal(two.KDF.Parameters.FullBytes, &kdf); err != nil {
		return 0, false
	}
	count, ok := rounds(kdf.Iterations)
	return count * kdf.perRound(), ok
}

// perRound is the price of a round of PBKDF2: two blocks for each piece of a key. The
// length that the file states counts for PBMAC1 alone, where the library refuses more
// than 64 bytes; a cipher's key has 32 at most.
func (k pbkdf2Params) perRound() int64 {
	size, hash, price := int64(20), int64(shortHash), int64(2)
	switch k.PRF.Algorithm.String() {
	case "1.2.840.113549.2.9":
		size = 32
	case "1.2.840.113549.2.10", "1.2.840.113549.2.11": // SHA-384 and SHA-512
		size, hash = 48, longHash
	}
	length := max(32, min(int64(k.KeyLength), 64))
	return (length + size - 1) / size * price * hash
}

// keyReading is the price of reading a private key from so many bytes: RSA's, which grows
// with the square of any of its numbers, or that of the slowest curve.
func keyReading(size int) int64 {
	n := int64(size) / 128
	return 10_000 + n*n*500
}

// signatureCheck is the price of verifying the signature of child by the key of issuer.
func signatureCheck(child, issuer *x509.Certificate) int64 {
	hashing := int64(len(child.RawTBSCertificate)) / 50
	switch key := issuer.PublicKey.(type) {
	case *rsa.PublicKey:
		n := int64(key.N.BitLen())/1024 + 1
		return hashing + n*n*25*int64(5+bits.Len(uint(key.E)))
	case *ecdsa.PublicKey:
		return hashing + curveCheck(key.Curve.Params().BitSize)
	case ed25519.PublicKey:
		return hashing + 1000
	}
	return hashing
}

func curveCheck(size int) int64 {
	switch size {
	case 256: // the one that is written in assembly
		return 1000
	case 224:
		return 3000
	case 384:
		return 8000
	}
	return 30_000
}
