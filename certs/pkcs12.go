package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// readPKCS12 reads a PKCS#12 file with the empty password. The library decodes. What
// it refuses with the password right, such as two keys, no key, BER or more than two
// parts, is then read bag by bag.
func readPKCS12(value []byte, work *effort) (*contents, *Error) {
	der, rest, err := toDER(value)
	if err != nil {
		return nil, corrupt(err, "the value begins like a PKCS#12 file and is cut short or damaged")
	}
	found := &contents{format: "PKCS#12 file", effort: work}
	if n := len(bytes.Trim(rest, "\x00\r\n\t ")); n > 0 {
		found.warn("%d bytes after the end of the PKCS#12 file are passed over", n)
	}
	p, e := openPFX(der, work)
	if e != nil {
		return nil, e
	}
	if e := p.withinEffort(); e != nil {
		return nil, e
	}
	if e := p.countHidden(); e != nil {
		return nil, e
	}
	if e := p.decode(found); e != nil {
		return nil, e
	}
	return found, nil
}

func (p *pfx) decode(found *contents) *Error {
	p.effort.did(p.decoding)
	key, first, others, err := pkcs12.DecodeChain(p.der, "")
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return locked(nil)
	case err != nil || p.nested:
		return p.decodeBags(found, err)
	case len(others) >= maxCertificates:
		return unsupported("keep the certificates that clients need", "the PKCS#12 file holds more than %d certificates", maxCertificates)
	}
	k, e := newKey(key)
	if e != nil {
		return e
	}
	if bits := keyBits(k.public); bits > maxRSABits {
		return tooLongRSA("the private key", bits)
	}
	found.keys = append(found.keys, k)
	for _, cert := range append([]*x509.Certificate{first}, others...) {
		if e := found.keepCertificate(cert); e != nil {
			return e
		}
	}
	return nil
}

func locked(err error) *Error {
	return &Error{Kind: Password, Fact: "the PKCS#12 file is protected by a password, or damaged", Err: err,
		Hint: "export it again with an empty password and upload that: openssl pkcs12 -export -passout pass:"}
}

// decodeBags reads a file bag by bag after the library gave up on it for reason.
func (p *pfx) decodeBags(found *contents, reason error) *Error {
	if p.hasMAC() && !p.macReadable() {
		return p.whyNoMAC(reason)
	}
	for i := range p.safes {
		if err := p.unseal(i); err != nil {
			return err
		}
		if s := p.safes[i]; s.sealed != nil && s.bags == nil {
			return p.whySealed(i, s.failed)
		}
	}
	if e := p.withinEffort(); e != nil {
		return e
	}
	for _, s := range p.safes {
		if s.sealed == nil && s.kind != oidData {
			found.warn("a part of the PKCS#12 file is encrypted to a public key and is passed over")
		}
		if e := p.addBags(found, s.bags); e != nil {
			return e
		}
	}
	return nil
}

// whyNoMAC tells a MAC that nobody here can verify from one that is damaged. PBMAC1 has
// parameters of its own, which are checked before the password.
func (p *pfx) whyNoMAC(reason error) *Error {
	switch oid := p.pdu.MacData.Mac.Algorithm.Algorithm.String(); oid {
	case oidPBMAC1:
		return locked(reason)
	case "1.2.840.113549.2.5", "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.4", "2.16.840.1.101.3.4.2.5", "2.16.840.1.101.3.4.2.6": // MD5, the rest of SHA-2
		return unsupported("export it again with a SHA-256 MAC: openssl pkcs12 -export -macalg sha256", "the MAC of the PKCS#12 file uses the digest %s, which is not supported", oid)
	}
	return corrupt(reason, "the MAC of the PKCS#12 file cannot be verified")
}

// whySealed says why a part does not open. With a MAC the password is known to be the
// empty one, so the part is damaged; without, the password may be another.
func (p *pfx) whySealed(i int, err error) *Error {
	var algorithm errAlgorithm
	switch {
	case errors.As(err, &algorithm):
		return unsupported("export it again with AES: openssl pkcs12 -export -certpbe AES-256-CBC -keypbe AES-256-CBC", "part %d of the PKCS#12 file has the %s, which is not supported", i+1, algorithm.Error())
	case !p.hasMAC():
		return locked(err)
	}
	return corrupt(err, "part %d of the PKCS#12 file cannot be decrypted", i+1)
}

func (p *pfx) addBags(found *contents, bags []safeBag) *Error {
	for _, bag := range bags {
		if err := p.addBag(found, bag); err != nil {
			return err
		}
	}
	return nil
}

func (p *pfx) addBag(found *contents, bag safeBag) *Error {
	switch id := bag.ID.String(); id {
	case oidCertBag:
		return addCertBag(found, bag.Value.Bytes)
	case oidKeyBag:
		return found.addKey(bag.Value.Bytes)
	case oidShroudedBag:
		return p.addShrouded(found, bag.Value.Bytes)
	case oidNestedBag:
		inner, err := readBags(bag.Value.Bytes)
		if err != nil {
			return corrupt(err, "a nested part of the PKCS#12 file cannot be read")
		}
		return p.addBags(found, inner)
	case oidCRLBag, oidSecretBag:
		return nil // beside the point
	default:
		found.warn("an entry of the kind %s in the PKCS#12 file is passed over", Printable(id))
	}
	return nil
}

func addCertBag(found *contents, der []byte) *Error {
	var bag struct {
		ID   asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}
	if _, err := asn1.Unmarshal(der, &bag); err != nil {
		return corrupt(err, "certificate %d of the PKCS#12 file cannot be read", len(found.certs)+1)
	}
	if bag.ID.String() != "1.2.840.113549.1.9.22.1" {
		return unsupported("export it again with X.509 certificates alone", "the PKCS#12 file has a certificate of the kind %s, not X.509", Printable(bag.ID.String()))
	}
	return found.addCertificate(bag.Data)
}

func (p *pfx) addShrouded(found *contents, der []byte) *Error {
	var key shroudedKey
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return corrupt(err, "an encrypted key in the PKCS#12 file cannot be read")
	}
	var failed error
	for _, bmp := range emptyPasswords(key.Algorithm) {
		plain, err := p.effort.decrypt(key.Algorithm, key.Data, bmp)
		if err == nil && looksLikeDER(plain) {
			return found.addKey(plain)
		}
		failed = err
	}
	var algorithm errAlgorithm
	if errors.As(failed, &algorithm) {
		found.refused = unsupported("export it again with AES: openssl pkcs12 -export -keypbe AES-256-CBC", "a key in the PKCS#12 file has the %s, which is not supported", algorithm.Error())
		return nil
	}
	found.locked = true // a key may have a password of its own
	return nil
}
