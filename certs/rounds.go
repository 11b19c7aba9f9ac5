package certs

import (
	"encoding/asn1"
	"errors"
	"math/big"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// maxRounds bounds the rounds of key derivation that a file may ask for, in sum. Key
// Vault's own files ask for 6000, the most careful exporters for some 300,000; a
// value of a hundred bytes can ask for hours.
const maxRounds = 1_000_000

// countMAC counts the rounds of the MAC. One that cannot be counted must not be tried.
func (p *pfx) countMAC() *Error {
	algorithm := p.pdu.MacData.Mac.Algorithm
	switch algorithm.Algorithm.String() {
	case "": // no MAC
		return nil
	case "1.2.840.113549.1.5.14": // PBMAC1
		rounds := iterations(algorithm)
		if rounds == nil {
			return locked(errors.New("the parameters of the MAC cannot be read"))
		}
		return p.countWithin(rounds)
	}
	if p.pdu.MacData.Iterations == nil {
		return p.countWithin(big.NewInt(1))
	}
	return p.countWithin(p.pdu.MacData.Iterations)
}

func (p *pfx) countWithin(rounds *big.Int) *Error {
	if err := p.count(rounds); err != nil {
		return err
	}
	if p.rounds > maxRounds {
		return tooManyRounds()
	}
	return nil
}

// countBags counts the rounds that encrypted keys ask for, each for its own, and notes
// which keys are long.
func (p *pfx) countBags(bags []safeBag, depth int) *Error {
	for _, bag := range bags {
		switch bag.ID.String() {
		case oidShroudedBag:
			var key shroudedKey
			if _, err := asn1.Unmarshal(bag.Value.Bytes, &key); err != nil {
				return corrupt(err, "an encrypted key in the PKCS#12 file cannot be read")
			}
			if err := p.count(iterations(key.Algorithm)); err != nil {
				return err
			}
			if len(key.Data) >= longKey {
				p.long = append(p.long, key)
			}
		case oidKeyBag:
			if len(bag.Value.Bytes) >= longKey {
				p.long = append(p.long, shroudedKey{Data: bag.Value.Bytes})
			}
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

// count adds to the work that the file asks for. nil is a count that is not readable:
// that encryption is refused, since the library might be able to read it.
func (p *pfx) count(rounds *big.Int) *Error {
	if rounds == nil || rounds.Sign() < 0 {
		return corrupt(nil, "the PKCS#12 file has an encryption whose parameters cannot be read")
	}
	n := int64(2 * maxRounds) // as good as infinite, and no sum of them overflows
	if rounds.IsInt64() {
		n = min(n, rounds.Int64())
	}
	p.rounds += n
	return nil
}

// withinBudget refuses a file that asks for too much work. A MAC alone is affordable
// here, and if it shows that there is a password, that is what a person has to know.
func (p *pfx) withinBudget() *Error {
	switch {
	case p.rounds <= maxRounds:
		return nil
	case p.passwordNeeded():
		return locked(nil)
	}
	return tooManyRounds()
}

func tooManyRounds() *Error {
	return unsupported("export it again with the default settings: openssl pkcs12 -export -passout pass:",
		"the PKCS#12 file asks for more than %d rounds of key derivation", maxRounds)
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
	return p.withinBudget()
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
	_, err := pkcs12.DecodeTrustStore(p.der, "")
	return errors.Is(err, pkcs12.ErrIncorrectPassword) || !p.macReadable()
}

// macReadable reports whether the library can verify the file's MAC at all: given the
// file with an empty digest, which is right for no password, it then says that the
// password is wrong. So when it says something else about the file as it is, it was
// content with the MAC. Nothing is decrypted here, whatever the file asks for.
func (p *pfx) macReadable() bool {
	pdu := p.pdu
	pdu.MacData.Mac.Digest = nil
	pdu.AuthSafe.Content.FullBytes = nil
	der, err := asn1.Marshal(pdu)
	if err != nil {
		return false
	}
	_, _, _, err = pkcs12.DecodeChain(der, "")
	return errors.Is(err, pkcs12.ErrIncorrectPassword)
}
