package certs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"math/big"
)

// errAlgorithm is a password-based encryption that is not supported, by its OID.
type errAlgorithm string

func (e errAlgorithm) Error() string { return "encryption algorithm " + Printable(string(e)) }

var errPadding = errors.New("the padding is wrong")

// The parameters of PBES1 (RFC 7292 appendix C), PBES2 and PBKDF2 (RFC 8018).
type pbes1Params struct {
	Salt       []byte
	Iterations *big.Int
}

type pbes2Params struct {
	KDF        pkix.AlgorithmIdentifier
	Encryption pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       asn1.RawValue // an octet string, checked before use
	Iterations *big.Int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBMAC1 = "1.2.840.113549.1.5.14"
)

// decrypt opens data with the empty password. bmp is the form of it that PBES1 uses:
// two zero bytes or, in the files of some writers, none. PBES2 has one form alone. The
// work must have been reserved.
func (e *effort) decrypt(algorithm pkix.AlgorithmIdentifier, data, bmp []byte) ([]byte, error) {
	steps, _ := derivation(algorithm)
	e.did(steps)
	block, iv, err := newCipher(algorithm, bmp)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data)%block.BlockSize() != 0 {
		return nil, errPadding
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	pad := plain[len(plain)-1]
	if pad == 0 || int(pad) > block.BlockSize() || !bytes.HasSuffix(plain, bytes.Repeat([]byte{pad}, int(pad))) {
		return nil, errPadding
	}
	return plain[:len(plain)-int(pad)], nil
}

func newCipher(algorithm pkix.AlgorithmIdentifier, bmp []byte) (cipher.Block, []byte, error) {
	oid := algorithm.Algorithm.String()
	size := 0
	switch oid {
	case oidPBES2:
		return newPBES2(algorithm.Parameters.FullBytes)
	case "1.2.840.113549.1.12.1.3": // 3DES
		size = 24
	case "1.2.840.113549.1.12.1.5": // RC2, 128 bits
		size = 16
	case "1.2.840.113549.1.12.1.6": // RC2, 40 bits
		size = 5
	default:
		return nil, nil, errAlgorithm(oid)
	}
	var params pbes1Params
	if _, err := asn1.Unmarshal(algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, nil, fmt.Errorf("reading the parameters of the encryption: %w", err)
	}
	rounds := int(params.Iterations.Int64()) // within the budget, so it fits
	key := deriveKey(1, bmp, params.Salt, rounds, size)
	iv := deriveKey(2, bmp, params.Salt, rounds, 8)
	if size == 24 {
		block, err := des.NewTripleDESCipher(key)
		return block, iv, err
	}
	return newRC2(key), iv, nil
}

// deriveKey is the key derivation of PKCS#12 with SHA-1 (RFC 7292 appendix B.2).
// purpose is 1 for a key, 2 for an initial vector.
func deriveKey(purpose byte, password, salt []byte, rounds, size int) []byte {
	const v = sha1.BlockSize
	input := append(repeatTo(salt, v), repeatTo(password, v)...)
	var key []byte
	for {
		sum := sha1.Sum(append(bytes.Repeat([]byte{purpose}, v), input...))
		for range rounds - 1 {
			sum = sha1.Sum(sum[:])
		}
		key = append(key, sum[:]...)
		if len(key) >= size {
			return key[:size]
		}
		add := repeatTo(sum[:], v)[:v]
		for i := 0; i < len(input); i += v {
			addOne(input[i:i+v], add)
		}
	}
}

// repeatTo repeats b to the next multiple of v, cutting the last copy.
func repeatTo(b []byte, v int) []byte {
	if len(b) == 0 {
		return nil
	}
	size := (len(b) + v - 1) / v * v
	return bytes.Repeat(b, size/len(b)+1)[:size]
}

// addOne sets a to a+b+1, as big-endian numbers of the same length, without overflow.
func addOne(a, b []byte) {
	carry := 1
	for i := len(a) - 1; i >= 0; i-- {
		carry += int(a[i]) + int(b[i])
		a[i] = byte(carry)
		carry >>= 8
	}
}

func newPBES2(der []byte) (cipher.Block, []byte, error) {
	var params pbes2Params
	var kdf pbkdf2Params
	if _, err := asn1.Unmarshal(der, &params); err != nil {
		return nil, nil, fmt.Errorf("reading the parameters of the encryption: %w", err)
	}
	if oid := params.KDF.Algorithm.String(); oid != "1.2.840.113549.1.5.12" {
		return nil, nil, errAlgorithm(oid)
	}
	if _, err := asn1.Unmarshal(params.KDF.Parameters.FullBytes, &kdf); err != nil {
		return nil, nil, fmt.Errorf("reading the parameters of the key derivation: %w", err)
	}
	if kdf.Salt.Tag != asn1.TagOctetString {
		return nil, nil, errors.New("the salt of the key derivation is no octet string")
	}
	digest, err := pseudoRandom(kdf.PRF.Algorithm.String())
	if err != nil {
		return nil, nil, err
	}
	size, err := aesKeySize(params.Encryption.Algorithm.String())
	if err != nil {
		return nil, nil, err
	}
	iv := params.Encryption.Parameters.Bytes
	if len(iv) != aes.BlockSize {
		return nil, nil, fmt.Errorf("initial vector of %d bytes", len(iv))
	}
	key, err := pbkdf2.Key(digest, "", kdf.Salt.Bytes, max(1, int(kdf.Iterations.Int64())), size)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	return block, iv, err
}

func pseudoRandom(oid string) (func() hash.Hash, error) {
	switch oid {
	case "", "1.2.840.113549.2.7": // SHA-1 is the default
		return sha1.New, nil
	case "1.2.840.113549.2.8":
		return sha256.New224, nil
	case "1.2.840.113549.2.9":
		return sha256.New, nil
	case "1.2.840.113549.2.10":
		return sha512.New384, nil
	case "1.2.840.113549.2.11":
		return sha512.New, nil
	}
	return nil, errAlgorithm(oid)
}

func aesKeySize(oid string) (int, error) {
	switch oid {
	case "2.16.840.1.101.3.4.1.2":
		return 16, nil
	case "2.16.840.1.101.3.4.1.22":
		return 24, nil
	case "2.16.840.1.101.3.4.1.42":
		return 32, nil
	}
	return 0, errAlgorithm(oid)
}
