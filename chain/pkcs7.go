package chain

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
)

const (
	// maxDepth bounds elements of indefinite length inside of each other; a PKCS#7 of
	// certificates has five.
	maxDepth = 16

	tagOID      = 0x06
	tagSequence = 0x30
	tagZero     = 0xa0 // [0], constructed
)

var errNotPKCS7 = errors.New("not a PKCS#7 of certificates")

// readPKCS7 returns the certificates of a PKCS#7 SignedData, in BER or DER (RFC 2315
// section 9.1). Nothing else in it is looked at, signatures neither: each certificate
// speaks for itself.
//
// The libraries for this rewrite BER into DER first. What they rewrite, an attacker
// chooses here: with elements that reach beyond the one they are in, 100 bytes keep
// github.com/smallstep/pkcs7 v0.2.3 busy for half a minute. This reader goes down one
// way, and skips the rest by its length. The library is the oracle of the tests.
func readPKCS7(ber []byte) ([]*x509.Certificate, error) {
	signed, err := signedData(ber)
	if err != nil {
		return nil, err
	}
	for range 3 { // version, digestAlgorithms, contentInfo
		if _, signed, err = readElement(signed, maxDepth); err != nil {
			return nil, err
		}
	}
	set, _, err := expect(signed, tagZero)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for rest := set; len(rest) > 0; {
		var e element
		if e, rest, err = readElement(rest, maxDepth); err != nil {
			return nil, err
		}
		if e.tag != tagSequence {
			continue // an attribute certificate or another choice of RFC 5652 section 10.2.2
		}
		cert, err := x509.ParseCertificate(e.whole)
		if err != nil {
			return nil, err
		}
		found = append(found, cert)
	}
	return found, nil
}

// signedData returns what is in the SignedData of a ContentInfo.
func signedData(ber []byte) ([]byte, error) {
	info, _, err := expect(ber, tagSequence)
	if err != nil {
		return nil, err
	}
	kind, rest, err := readElement(info, maxDepth)
	if err != nil {
		return nil, err
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(kind.whole, &oid); err != nil || kind.tag != tagOID || !oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}) {
		return nil, errNotPKCS7
	}
	explicit, _, err := expect(rest, tagZero)
	if err != nil {
		return nil, err
	}
	signed, _, err := expect(explicit, tagSequence)
	return signed, err
}

// element is one element of BER.
type element struct {
	tag     byte
	whole   []byte // with its tag and length
	content []byte // without them and the end-of-contents octets
}

// expect returns what is in the first element of b if it has the tag.
func expect(b []byte, tag byte) (content, rest []byte, err error) {
	e, rest, err := readElement(b, maxDepth)
	if err != nil || e.tag != tag {
		return nil, nil, errNotPKCS7
	}
	return e.content, rest, nil
}

// readElement splits the first element off b. Of a definite length it is not looked
// into; depth is how many of indefinite length may be open.
func readElement(b []byte, depth int) (e element, rest []byte, err error) {
	if depth == 0 || len(b) < 2 || b[0]&0x1f == 0x1f { // no tag above 30 is in PKCS#7
		return e, nil, errNotPKCS7
	}
	if b[1] == 0x80 {
		return readIndefinite(b, depth)
	}
	n, head := int(b[1]), 2
	if n > 0x80 {
		head += n & 0x7f
		if len(b) < head {
			return e, nil, errNotPKCS7
		}
		n = 0
		for _, octet := range b[2:head] {
			if n = n<<8 | int(octet); n > len(b) {
				return e, nil, errNotPKCS7
			}
		}
	}
	if n > len(b)-head {
		return e, nil, errNotPKCS7
	}
	return element{b[0], b[:head+n], b[head : head+n]}, b[head+n:], nil
}

// readIndefinite reads elements up to the end-of-contents octets.
func readIndefinite(b []byte, depth int) (element, []byte, error) {
	if b[0]&0x20 == 0 { // only what is constructed can end so
		return element{}, nil, errNotPKCS7
	}
	rest := b[2:]
	for !bytes.HasPrefix(rest, []byte{0, 0}) {
		var err error
		if _, rest, err = readElement(rest, depth-1); err != nil {
			return element{}, nil, err
		}
	}
	end := len(b) - len(rest)
	return element{b[0], b[:end+2], b[2:end]}, rest[2:], nil
}
