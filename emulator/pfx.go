package emulator

import (
	"bytes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the service encrypts PFX files this way
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // and authenticates them this way
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"hash"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The form of a PFX as Key Vault writes it, known from recorded values: a
// password of no bytes, 2000 iterations everywhere, the shrouded key bag first in an
// unencrypted SafeContents, the certificates after it in an encrypted one. No
// encoder at hand writes this form: the usual order is the other one, the
// usual localKeyId a fingerprint.
const pfxIterations = 2000

var (
	oidData          = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEncryptedData = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}
	oidSHA1          = encodingasn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidPBE3DES       = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3}
	oidShroudedKey   = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag       = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509          = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidLocalKeyID    = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 21}
	oidCSPName       = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 17, 1}

	localKeyID = []byte{1, 0, 0, 0}

	// Two readings of "the empty password" are in use: no bytes at all, which is
	// the service's, and a BMPString of nothing but its terminator, which is the
	// RFC's. Readers try both.
	noPassword    []byte
	emptyPassword = []byte{0, 0}

	cspName     = "Microsoft Software Key Storage Provider"
	explicitTag = asn1.Tag(0).ContextSpecific().Constructed()
	implicitTag = asn1.Tag(0).ContextSpecific()
)

// encodePFX writes the PKCS#8 key and the certificates, leaf first. Without a
// key (nil: not exportable) there is one SafeContents, and no bag has
// attributes. The order of the certificates behind the leaf is not recorded.
func encodePFX(pkcs8 []byte, chain []*x509.Certificate) ([]byte, error) {
	var w cryptobyte.Builder
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		if pkcs8 != nil {
			addData(w, keySafe(pkcs8))
		}
		addEncryptedData(w, certSafe(chain, pkcs8 != nil))
	})
	safe, err := w.Bytes()
	if err != nil {
		return nil, err
	}
	var pfx cryptobyte.Builder
	pfx.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1Int64(3)
		addData(w, func(w *cryptobyte.Builder) { w.AddBytes(safe) })
		addMAC(w, safe)
	})
	return pfx.Bytes()
}

func keySafe(pkcs8 []byte) cryptobyte.BuilderContinuation {
	return func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			addBag(w, oidShroudedKey, func(w *cryptobyte.Builder) {
				w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
					w.AddASN1OctetString(encrypt(w, pkcs8))
				})
			}, addLocalKeyID, addCSPName)
		})
	}
}

func certSafe(chain []*x509.Certificate, withKey bool) cryptobyte.BuilderContinuation {
	return func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			for i, cert := range chain {
				var attributes []cryptobyte.BuilderContinuation
				if i == 0 && withKey {
					attributes = append(attributes, addLocalKeyID)
				}
				addBag(w, oidCertBag, func(w *cryptobyte.Builder) { addCert(w, cert) }, attributes...)
			}
		})
	}
}

func addCert(w *cryptobyte.Builder, cert *x509.Certificate) {
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1ObjectIdentifier(oidX509)
		w.AddASN1(explicitTag, func(w *cryptobyte.Builder) { w.AddASN1OctetString(cert.Raw) })
	})
}

// addBag adds a SafeBag. The service writes the set of attributes even when it
// is empty.
func addBag(w *cryptobyte.Builder, id encodingasn1.ObjectIdentifier, value cryptobyte.BuilderContinuation, attributes ...cryptobyte.BuilderContinuation) {
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1ObjectIdentifier(id)
		w.AddASN1(explicitTag, value)
		w.AddASN1(asn1.SET, func(w *cryptobyte.Builder) {
			for _, add := range attributes {
				w.AddASN1(asn1.SEQUENCE, add)
			}
		})
	})
}

func addLocalKeyID(w *cryptobyte.Builder) {
	w.AddASN1ObjectIdentifier(oidLocalKeyID)
	w.AddASN1(asn1.SET, func(w *cryptobyte.Builder) { w.AddASN1OctetString(localKeyID) })
}

func addCSPName(w *cryptobyte.Builder) {
	const bmpString = asn1.Tag(30)
	w.AddASN1ObjectIdentifier(oidCSPName)
	w.AddASN1(asn1.SET, func(w *cryptobyte.Builder) {
		w.AddASN1(bmpString, func(w *cryptobyte.Builder) {
			for _, unit := range utf16.Encode([]rune(cspName)) {
				w.AddUint16(unit)
			}
		})
	})
}

// addData adds a ContentInfo of type data.
func addData(w *cryptobyte.Builder, content cryptobyte.BuilderContinuation) {
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1ObjectIdentifier(oidData)
		w.AddASN1(explicitTag, func(w *cryptobyte.Builder) {
			w.AddASN1(asn1.OCTET_STRING, content)
		})
	})
}

// addEncryptedData adds a ContentInfo of type encryptedData.
func addEncryptedData(w *cryptobyte.Builder, content cryptobyte.BuilderContinuation) {
	var inner cryptobyte.Builder
	content(&inner)
	plain, err := inner.Bytes()
	if err != nil {
		w.SetError(err)
		return
	}
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1ObjectIdentifier(oidEncryptedData)
		w.AddASN1(explicitTag, func(w *cryptobyte.Builder) {
			w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
				w.AddASN1Int64(0)
				w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
					w.AddASN1ObjectIdentifier(oidData)
					sealed := encrypt(w, plain)
					w.AddASN1(implicitTag, func(w *cryptobyte.Builder) { w.AddBytes(sealed) })
				})
			})
		})
	})
}

// encrypt adds the identifier of pbeWithSHA1And3-KeyTripleDES-CBC with a fresh
// salt, and returns plain encrypted under it.
func encrypt(w *cryptobyte.Builder, plain []byte) []byte {
	salt := make([]byte, 8)
	rand.Read(salt)
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1ObjectIdentifier(oidPBE3DES)
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			w.AddASN1OctetString(salt)
			w.AddASN1Int64(pfxIterations)
		})
	})
	block, err := des.NewTripleDESCipher(deriveKey(sha1.New, noPassword, salt, pfxIterations, forKey, 24)) //nolint:gosec // see the imports
	if err != nil {
		w.SetError(err)
		return nil
	}
	iv := deriveKey(sha1.New, noPassword, salt, pfxIterations, forIV, block.BlockSize())
	pad := block.BlockSize() - len(plain)%block.BlockSize()
	sealed := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)
	return sealed
}

// addMAC adds MacData. The service leaves the NULL parameters of SHA-1 out.
func addMAC(w *cryptobyte.Builder, content []byte) {
	salt := make([]byte, sha1.Size)
	rand.Read(salt)
	digest := pfxMAC(sha1.New, noPassword, salt, pfxIterations, content)
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) { w.AddASN1ObjectIdentifier(oidSHA1) })
			w.AddASN1OctetString(digest)
		})
		w.AddASN1OctetString(salt)
		w.AddASN1Int64(pfxIterations)
	})
}

func pfxMAC(h func() hash.Hash, password, salt []byte, iterations int, content []byte) []byte {
	mac := hmac.New(h, deriveKey(h, password, salt, iterations, forMAC, h().Size()))
	mac.Write(content)
	return mac.Sum(nil)
}

// What a derived key is for, RFC 7292, appendix B.3.
const (
	forKey byte = 1
	forIV  byte = 2
	forMAC byte = 3
)

// deriveKey is the key derivation of RFC 7292, appendix B.2; the names are the
// RFC's.
func deriveKey(newHash func() hash.Hash, password, salt []byte, iterations int, id byte, size int) []byte {
	h := newHash()
	v := h.BlockSize()
	D := bytes.Repeat([]byte{id}, v)
	I := append(fill(salt, v), fill(password, v)...)
	var key, A []byte
	for len(key) < size {
		h.Reset()
		h.Write(D)
		h.Write(I)
		A = h.Sum(A[:0])
		for range iterations - 1 {
			h.Reset()
			h.Write(A)
			A = h.Sum(A[:0])
		}
		key = append(key, A...)
		B := fill(A, v)[:v]
		for j := 0; j < len(I); j += v {
			addPlusOne(I[j:j+v], B)
		}
	}
	return key[:size]
}

// fill repeats b up to the next multiple of v bytes; nothing stays nothing.
func fill(b []byte, v int) []byte {
	if len(b) == 0 {
		return nil
	}
	n := (len(b) + v - 1) / v * v
	return bytes.Repeat(b, (n+len(b)-1)/len(b))[:n]
}

// addPlusOne sets a to a + b + 1, modulo its size.
func addPlusOne(a, b []byte) {
	carry := 1
	for i := len(a) - 1; i >= 0; i-- {
		carry += int(a[i]) + int(b[i])
		a[i] = byte(carry)
		carry >>= 8
	}
}
