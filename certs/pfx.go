package certs

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
)

const (
	oidData          = "1.2.840.113549.1.7.1"
	oidSignedData    = "1.2.840.113549.1.7.2"
	oidEncryptedData = "1.2.840.113549.1.7.6"

	oidKeyBag      = "1.2.840.113549.1.12.10.1.1"
	oidShroudedBag = "1.2.840.113549.1.12.10.1.2"
	oidCertBag     = "1.2.840.113549.1.12.10.1.3"
	oidCRLBag      = "1.2.840.113549.1.12.10.1.4"
	oidSecretBag   = "1.2.840.113549.1.12.10.1.5"
	oidNestedBag   = "1.2.840.113549.1.12.10.1.6"
)

// The structures of RFC 7292 section 4. They are as lenient as those of the library,
// so that nothing it reads goes uncounted.
type pfxPDU struct {
	Version  int
	AuthSafe contentInfo
	MacData  macData `asn1:"optional"`
}

type contentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

type macData struct {
	Mac struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	Salt       []byte
	Iterations *big.Int `asn1:"optional"`
}

type encryptedData struct {
	Version int
	Info    struct {
		ContentType asn1.ObjectIdentifier
		Algorithm   pkix.AlgorithmIdentifier
		Content     asn1.RawValue `asn1:"tag:0,optional"`
	}
}

type shroudedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type safeBag struct {
	ID         asn1.ObjectIdentifier
	Value      asn1.RawValue   `asn1:"tag:0,explicit"`
	Attributes []asn1.RawValue `asn1:"set,optional"`
}

// pfx is a PKCS#12 file taken apart as far as that goes without a password, and the
// count of the work that the rest will be.
type pfx struct {
	der      []byte // DER outside; the inside is as it was, since the MAC is over it
	pdu      pfxPDU
	safes    []safe
	nested   bool // a bag holds bags, which the library passes over
	effort   *effort
	mac      int64 // the price of verifying the MAC once
	decoding int64 // the price of giving the file to the library once, as counted so far
}

// safe is one SafeContents: bags, or what gives bags when it is decrypted.
type safe struct {
	kind      string                   // OID of the content
	bags      []safeBag                // nil as long as sealed is not opened
	algorithm pkix.AlgorithmIdentifier // with sealed
	sealed    []byte                   // encrypted, nil when the bags are in the clear
	tried     bool                     // to open sealed
	failed    error                    // why it did not open, if bags is nil
}

// openPFX takes a file apart. It derives no key.
func openPFX(der []byte, work *effort) (*pfx, *Error) {
	var pdu pfxPDU
	if _, err := asn1.Unmarshal(der, &pdu); err != nil {
		return nil, corrupt(err, "the value is no PKCS#12 file, or a damaged one")
	}
	p := &pfx{der: der, pdu: pdu, effort: work}
	switch integrity := pdu.AuthSafe.ContentType.String(); {
	case pdu.Version == 3 && integrity == oidSignedData:
		return nil, unsupported("export it again with an empty password", "the PKCS#12 file is signed with a key instead of a password")
	case pdu.Version != 3 || integrity != oidData:
		return nil, corrupt(nil, "the value is no PKCS#12 file, or a damaged one: version %d, content %s", pdu.Version, Printable(integrity))
	}
	if err := p.countMAC(); err != nil {
		return nil, err
	}
	content, err := octets(pdu.AuthSafe.Content.Bytes)
	if err != nil {
		return nil, corrupt(err, "the content of the PKCS#12 file cannot be read")
	}
	var infos []contentInfo
	if err := unmarshal(content, &infos); err != nil {
		return nil, corrupt(err, "the content of the PKCS#12 file cannot be read")
	}
	for _, info := range infos {
		if err := p.addSafe(info); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// unmarshal reads one element of what is inside a file, BER included.
func unmarshal(b []byte, into any) error {
	der, rest, err := toDER(b)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return errors.New("trailing data")
	}
	_, err = asn1.Unmarshal(der, into)
	return err
}

func octets(b []byte) (content []byte, err error) {
	_, err = asn1.Unmarshal(b, &content)
	return content, err
}

func (p *pfx) addSafe(info contentInfo) *Error {
	s := safe{kind: info.ContentType.String()}
	switch s.kind {
	case oidData:
		content, err := octets(info.Content.Bytes)
		if err == nil {
			s.bags, err = readBags(content)
		}
		if err != nil {
			return corrupt(err, "part %d of the PKCS#12 file cannot be read", len(p.safes)+1)
		}
		if err := p.countBags(s.bags, 0); err != nil {
			return err
		}
	case oidEncryptedData:
		var data encryptedData
		if err := unmarshal(info.Content.Bytes, &data); err != nil {
			return corrupt(err, "part %d of the PKCS#12 file cannot be read", len(p.safes)+1)
		}
		s.algorithm, s.sealed = data.Info.Algorithm, sealedContent(data.Info.Content)
		if err := p.count(s.algorithm); err != nil {
			return err
		}
	}
	p.safes = append(p.safes, s)
	return nil
}

// sealedContent returns the encrypted bytes; BER may have them in pieces.
func sealedContent(v asn1.RawValue) []byte {
	if !v.IsCompound {
		return append([]byte{}, v.Bytes...)
	}
	joined := []byte{}
	for rest := v.Bytes; len(rest) > 0; {
		var piece []byte
		var err error
		if rest, err = asn1.Unmarshal(rest, &piece); err != nil {
			return []byte{} // decrypting nothing is the error
		}
		joined = append(joined, piece...)
	}
	return joined
}

func readBags(content []byte) (bags []safeBag, err error) {
	err = unmarshal(content, &bags)
	return bags, err
}

// unseal decrypts part i with the empty password, keeps its bags or else in failed why it
// does not open, and counts the keys in it. The error is that this was not possible.
//
// All forms of the password are tried and counted, also after one has opened it: which
// one the library will use is up to the MAC, and a file can be made to open with two.
func (p *pfx) unseal(i int) *Error {
	s := &p.safes[i]
	if s.sealed == nil || s.tried {
		return nil
	}
	s.tried = true
	for _, bmp := range emptyPasswords(s.algorithm) {
		bags, err := s.open(bmp, p.effort)
		if err != nil {
			s.failed = err
			continue
		}
		if e := p.countBags(bags, 0); e != nil {
			return e
		}
		if s.bags == nil {
			s.bags = bags
		}
	}
	return nil
}

func (s *safe) open(bmp []byte, work *effort) ([]safeBag, error) {
	plain, err := work.decrypt(s.algorithm, s.sealed, bmp)
	if err != nil {
		return nil, err
	}
	return readBags(plain)
}

// emptyPasswords are the forms that writers give the empty password. In PBES1 it is the
// terminating zero of a string of 16-bit characters or nothing at all; PBES2 has one.
func emptyPasswords(algorithm pkix.AlgorithmIdentifier) [][]byte {
	if algorithm.Algorithm.String() == oidPBES2 {
		return [][]byte{nil}
	}
	return [][]byte{{0, 0}, nil}
}
