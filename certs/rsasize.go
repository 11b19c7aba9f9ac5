package certs

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
)

const (
	// maxRSABits bounds an RSA modulus, as OpenSSL does. crypto/x509 computes with a
	// key when it parses it: a second at this size, ten at double, and so on. So the
	// size of a key must be seen before.
	maxRSABits = 16384

	// longKey is the size in bytes from which a key has room for more.
	longKey = maxRSABits / 8
)

func tooLongRSA(what string, bits int) *Error {
	return unsupported("use an RSA key of 2048 to 4096 bits", "the RSA key of %s has %d bits, more than %d", what, bits, maxRSABits)
}

// refuseLongKey looks at the size of a key in PKCS#8 or PKCS#1. What is neither passes.
func refuseLongKey(der []byte) *Error {
	if len(der) < longKey {
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
	if key, ok := public.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
		return tooLongRSA(name(cert), key.N.BitLen())
	}
	return nil
}

// refuseLongKeys decrypts what might be too long for the library, in every form that
// the library may use. What does not open here does not open there.
func (p *pfx) refuseLongKeys() *Error {
	for _, key := range p.long {
		if len(key.Algorithm.Algorithm) == 0 { // in the clear
			if err := refuseLongKey(key.Data); err != nil {
				return err
			}
			continue
		}
		for _, bmp := range emptyPasswords(key.Algorithm) {
			if plain, err := decrypt(key.Algorithm, key.Data, bmp); err == nil {
				if err := refuseLongKey(plain); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
