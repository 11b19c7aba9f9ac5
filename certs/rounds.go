package certs

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// macPasses is how often a MAC is verified at most: once for each form of the password.
const macPasses = 2

// countMAC reserves for the MAC. One that cannot be counted must not be tried.
func (p *pfx) countMAC() *Error {
	algorithm := p.pdu.MacData.Mac.Algorithm
	switch oid := algorithm.Algorithm.String(); oid {
	case "": // no MAC
		return nil
	case oidPBMAC1:
		steps, ok := derivation(algorithm)
		if !ok {
			return locked(errors.New("the parameters of the MAC cannot be read"))
		}
		p.mac = steps
	default:
		count, ok := int64(1), true
		if n := p.pdu.MacData.Iterations; n != nil {
			count, ok = rounds(n)
		}
		if !ok {
			return notCountable()
		}
		p.mac = count * macHash(oid)
	}
	p.decoding += macPasses * p.mac
	if !p.effort.reserve(macPasses * p.mac) {
		return tooMuchDerivation()
	}
	return nil
}

func macHash(oid string) int64 {
	if oid == "1.3.14.3.2.26" || oid == "2.16.840.1.101.3.4.2.1" { // SHA-1, SHA-256
		return 2 // the library allocates each sum
	}
	return 2 * longHash
}

// countBags reserves for the keys, each for its own.
func (p *pfx) countBags(bags []safeBag, depth int) *Error {
	for _, bag := range bags {
		switch bag.ID.String() {
		case oidShroudedBag:
			var key shroudedKey
			if _, err := asn1.Unmarshal(bag.Value.Bytes, &key); err != nil {
				return corrupt(err, "an encrypted key in the PKCS#12 file cannot be read")
			}
			if err := p.count(key.Algorithm); err != nil {
				return err
			}
			p.countKey(len(key.Data))
		case oidKeyBag:
			p.countKey(len(bag.Value.Bytes))
		case oidNestedBag:
			p.nested = true
			inner, err := readBags(bag.Value.Bytes)
			if err != nil || depth == 4 {
				return corrupt(err, "a nested part of the PKCS#12 file cannot be read")
			}
			if err := p.countBags(inner, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// count reserves for opening an encryption: here with each form of the password, and
// once by the library. One that cannot be counted is refused, since the library might be
// able to read it.
func (p *pfx) count(algorithm pkix.AlgorithmIdentifier) *Error {
	steps, ok := derivation(algorithm)
	if !ok {
		return notCountable()
	}
	p.decoding += steps
	p.effort.reserve(steps * int64(len(emptyPasswords(algorithm))+1)) // withinEffort has the answer
	return nil
}

func notCountable() *Error {
	return corrupt(nil, "the PKCS#12 file has an encryption whose parameters cannot be read")
}

// countKey reserves for the library's reading of a key from so many bytes.
func (p *pfx) countKey(size int) {
	p.decoding += keyReading(size)
	p.effort.reserve(keyReading(size))
}

// withinEffort refuses a file that asks for too much work. A MAC alone is affordable
// here, and if it shows that there is a password, that is what a person has to know.
func (p *pfx) withinEffort() *Error {
	switch {
	case !p.effort.exhausted:
		return nil
	case p.passwordNeeded():
		return locked(nil)
	}
	return tooMuchDerivation()
}

func tooMuchDerivation() *Error {
	return unsupported("export it again with the default settings: openssl pkcs12 -export -passout pass:",
		"the PKCS#12 file asks for more rounds of key derivation, or larger keys, than kvfs will work for")
}

// countHidden counts the keys that are inside of encrypted parts, whose rounds show
// only after decryption. That is needless when a key in the clear comes first, as in
// the service's own files: the library then stops at a second key without trying it.
func (p *pfx) countHidden() *Error {
	for i := range p.safes {
		if p.safes[i].holdsKey() {
			break
		}
		// One that does not open is no matter: the library has the same password.
		if err := p.unseal(i); err != nil {
			return err
		}
	}
	return p.withinEffort()
}

func (s safe) holdsKey() bool {
	for _, bag := range s.bags {
		if id := bag.ID.String(); id == oidShroudedBag || id == oidKeyBag {
			return true
		}
	}
	return false
}

// hasMAC reports whether there is anything that a password could be checked by.
func (p *pfx) hasMAC() bool { return len(p.pdu.MacData.Mac.Algorithm.Algorithm) > 0 }

// passwordNeeded reports whether the MAC fails with the empty password, or is of a kind
// that cannot be verified. It decrypts nothing: the library verifies the MAC, then
// counts the parts, and is asked for a trust store, which has one. A file of one part
// cannot be asked about in this way; false then means that it is not known.
func (p *pfx) passwordNeeded() bool {
	if !p.hasMAC() || len(p.safes) == 1 {
		return false
	}
	p.effort.did(macPasses * p.mac)
	_, err := pkcs12.DecodeTrustStore(p.der, "")
	return errors.Is(err, pkcs12.ErrIncorrectPassword) || !p.macReadable()
}

// macReadable reports whether the library can verify the file's MAC at all: given the
// file with an empty digest, which is right for no password, it then says that the
// password is wrong. So when it says something else about the file as it is, it was
// content with the MAC. Nothing is decrypted here, and one round is done whatever the file
// asks for.
func (p *pfx) macReadable() bool {
	pdu := p.pdu
	pdu.MacData.Mac.Digest = nil
	pdu.MacData.Iterations = big.NewInt(1)
	pdu.AuthSafe.Content.FullBytes = nil
	var err error
	if pdu.MacData.Mac.Algorithm.Algorithm.String() == oidPBMAC1 {
		pdu.MacData.Mac.Algorithm.Parameters.FullBytes, err = oneRound(pdu.MacData.Mac.Algorithm.Parameters.FullBytes)
	}
	if err != nil {
		return false
	}
	der, err := asn1.Marshal(pdu)
	if err != nil {
		return false
	}
	_, _, _, err = pkcs12.DecodeChain(der, "")
	return errors.Is(err, pkcs12.ErrIncorrectPassword)
}

// oneRound rewrites the parameters of PBMAC1. What the library would not read stays that.
func oneRound(params []byte) ([]byte, error) {
	var mac pbes2Params // which has the same form
	var kdf pbkdf2Params
	rest, err := asn1.Unmarshal(params, &mac)
	if err != nil || len(rest) > 0 {
		return nil, errNotBER
	}
	rest, err = asn1.Unmarshal(mac.KDF.Parameters.FullBytes, &kdf)
	if err != nil || len(rest) > 0 {
		return nil, errNotBER
	}
	kdf.Iterations = big.NewInt(1)
	if mac.KDF.Parameters.FullBytes, err = asn1.Marshal(kdf); err != nil {
		return nil, err
	}
	return asn1.Marshal(mac)
}
