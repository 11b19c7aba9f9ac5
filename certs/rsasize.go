package certs

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
)

// maxRSABits bounds an RSA modulus, as OpenSSL does. Work with a key grows with the square
// of its size or faster, and no client would have it.
const maxRSABits = 16384

func tooLongRSA(what string, bits int) *Error {
	return unsupported("use an RSA key of 2048 to 4096 bits", "the RSA key of %s has %d bits, more than %d", what, bits, maxRSABits)
}

func tooMuchKey(format string) *Error {
	return unsupported("keep the key of the certificate; use an RSA key of 2048 to 4096 bits", "the private keys in the %s are more, or larger, than kvfs will work for", format)
}

// refuseLongKey looks at the size of a key in PKCS#8 or PKCS#1, before it is parsed. What
// is neither passes.
func refuseLongKey(der []byte) *Error {
	if len(der) < maxRSABits/8 {
		return nil
	}
	var info pkcs8
	if _, err := asn1.Unmarshal(der, &info); err == nil {
		der = info.PrivateKey
	}
	var key struct { // the beginning of RSAPrivateKey of RFC 8017
		Version int
		Modulus *big.Int
	}
	if _, err := asn1.Unmarshal(der, &key); err != nil || key.Modulus.BitLen() <= maxRSABits {
		return nil
	}
	return tooLongRSA("the private key", key.Modulus.BitLen())
}

func refuseLongCertificate(cert *x509.Certificate) *Error {
	public, _ := publicKeyOf(cert)
	if bits := keyBits(public); bits > maxRSABits {
		return tooLongRSA(name(cert), bits)
	}
	return nil
}

// keyBits is the size of an RSA key, and 0 of any other.
func keyBits(public crypto.PublicKey) int {
	if key, ok := public.(*rsa.PublicKey); ok {
		return key.N.BitLen()
	}
	return 0
}
