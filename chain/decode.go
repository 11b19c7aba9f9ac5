package chain

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"kvfs/certs"
)

// maxCertificates bounds an answer: each costs a check of a signature.
const maxCertificates = 32

var errNotCertificates = errors.New("the answer is neither a certificate nor a PKCS#7 of certificates")

// decode reads an answer. RFC 5280 section 4.2.2.1 allows one certificate in DER or a
// PKCS#7 of certificates alone; both are also found in PEM, under various labels. The
// content type is not asked: servers give any.
func decode(body []byte) ([]*x509.Certificate, error) {
	found, err := decodeAny(body)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, errNotCertificates
	case len(found) > maxCertificates:
		return nil, fmt.Errorf("the answer holds %d certificates, more than %d", len(found), maxCertificates)
	}
	return found, nil
}

func decodeAny(body []byte) (found []*x509.Certificate, err error) {
	if len(body) > 0 && body[0] == tagSequence { // or the text before a PEM begins with "0"
		if found, err = decodeDER(body); err == nil {
			return found, nil
		}
	}
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		inside, blockErr := decodeDER(block.Bytes)
		if blockErr != nil {
			return nil, blockErr
		}
		found, err = append(found, inside...), nil
	}
	return found, err
}

// decodeDER reads a certificate or a PKCS#7. Line ends may follow it, as from an editor.
func decodeDER(der []byte) ([]*x509.Certificate, error) {
	if e, rest, err := readElement(der, maxDepth); err == nil && len(bytes.TrimSpace(rest)) == 0 {
		der = e.whole
	}
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		return []*x509.Certificate{cert}, nil
	}
	found, pkcs7Err := readPKCS7(der)
	if pkcs7Err == nil {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %s; %s", errNotCertificates, certs.Printable(err.Error()), certs.Printable(pkcs7Err.Error()))
}
