package certs

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

func unsupportedCurve(curve string) *Error {
	return unsupported("use a certificate with a key on P-256, P-384 or P-521, or an RSA key", "the key is on the curve %s, which is not supported", curve)
}

// certificateAlgorithm returns the algorithm of the public key of a certificate that
// crypto/x509 refuses to parse, or none.
func certificateAlgorithm(der []byte) pkix.AlgorithmIdentifier {
	var cert struct {
		TBS struct {
			Version    int `asn1:"optional,explicit,default:0,tag:0"`
			Serial     *big.Int
			Signature  pkix.AlgorithmIdentifier
			Issuer     asn1.RawValue
			Validity   asn1.RawValue
			Subject    asn1.RawValue
			PublicKey  publicKeyInfo
			Extensions asn1.RawValue `asn1:"optional,explicit,tag:3"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		return pkix.AlgorithmIdentifier{}
	}
	return cert.TBS.PublicKey.Algorithm
}

// sec1Algorithm returns the curve of an ECPrivateKey of RFC 5915 in the form that
// PKCS#8 and certificates have it.
func sec1Algorithm(der []byte) pkix.AlgorithmIdentifier {
	var key sec1
	var ec asn1.ObjectIdentifier = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return pkix.AlgorithmIdentifier{}
	}
	return pkix.AlgorithmIdentifier{Algorithm: ec, Parameters: asn1.RawValue{FullBytes: key.Parameters.FullBytes}}
}

// foreignCurve names the curve of an EC key that Go does not support: another named
// curve, or any curve that is spelled out as parameters instead of named. Key Vault
// spells out P-256K in keys and certificates alike.
func foreignCurve(algorithm pkix.AlgorithmIdentifier) (string, bool) {
	if algorithm.Algorithm.String() != oidECPublicKey {
		return "", false
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(algorithm.Parameters.FullBytes, &oid); err == nil {
		return namedCurve(oid.String())
	}
	prime, err := explicitPrime(algorithm.Parameters.FullBytes)
	if err != nil {
		return "", false
	}
	return curveByPrime(prime) + " with explicit parameters", true
}

func namedCurve(oid string) (string, bool) {
	switch oid {
	case "1.3.132.0.33", "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35":
		return "", false // P-224, P-256, P-384, P-521
	case "1.3.132.0.10":
		return "P-256K (secp256k1)", true
	case "1.3.36.3.3.2.8.1.1.7":
		return "brainpoolP256r1", true
	case "1.3.36.3.3.2.8.1.1.11":
		return "brainpoolP384r1", true
	case "1.3.36.3.3.2.8.1.1.13":
		return "brainpoolP512r1", true
	}
	return Printable(oid), true // of any length
}

// explicitPrime returns the field's prime from the ECParameters of X9.62.
func explicitPrime(der []byte) (*big.Int, error) {
	var params struct {
		Version int
		Field   struct {
			Type  asn1.ObjectIdentifier
			Prime asn1.RawValue
		}
	}
	if _, err := asn1.Unmarshal(der, &params); err != nil {
		return nil, err
	}
	if params.Field.Prime.Tag != asn1.TagInteger {
		return nil, errors.New("not a prime field")
	}
	return new(big.Int).SetBytes(params.Field.Prime.Bytes), nil
}

func curveByPrime(p *big.Int) string {
	switch fmt.Sprintf("%x", p) {
	case "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f":
		return "P-256K (secp256k1)"
	case "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff":
		return "P-256"
	case "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff":
		return "P-384"
	}
	return fmt.Sprintf("of %d bits", p.BitLen())
}
