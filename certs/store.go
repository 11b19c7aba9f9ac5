package certs

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// minStorePassword is what Java demands of the password of a keystore.
const minStorePassword = 6

// StoreOptions say how a PFX or a Java keystore is written. The zero value is a store
// without a password. They format, log and marshal as [redacted].
type StoreOptions struct {
	// Password protects the store, and its key too. It may be empty for a PFX and a trust
	// store; see there what that means.
	Password string
	// Alias names the key in a JKS; programs find it in lower case. Empty is "1", what Java
	// calls the key of a PFX, which has no name for it.
	Alias string
	// Created is the time that a JKS says its entries were made. Zero is when the leaf
	// became valid.
	Created time.Time
}

// String redacts the options, since a password is among them.
func (o StoreOptions) String() string { return redacted }

// Format redacts every verb.
func (o StoreOptions) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue redacts the options in logs.
func (o StoreOptions) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts the options in JSON.
func (o StoreOptions) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// PFX writes key and chain as PKCS#12: AES-256 and a SHA-256 MAC, which openssl 1.1.1,
// Java 12, Windows Server 2019 and .NET read. Without a key it holds the certificates,
// marked as Java marks those it trusts.
//
// Extra is not in it: Java finds the issuers by name alone. The same bundle with the same
// options gives the same bytes. The error is an *Error: a key for RSA-PSS alone, which has
// no form in PKCS#12 that is read everywhere, or a password beyond the Basic Multilingual
// Plane.
func (b *Bundle) PFX(o StoreOptions) ([]byte, error) {
	encoder := pkcs12.Modern2023.WithRand(b.stream("pfx", o))
	if !b.HasKey() {
		entries := []pkcs12.TrustStoreEntry{}
		for alias, c := range aliases(b.Chain) {
			entries = append(entries, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: alias})
		}
		return written(encoder.EncodeTrustStoreEntries(entries, o.Password))
	}
	if b.key().pss {
		return nil, unsupported("use the PEM files for this certificate", "a key for RSA-PSS alone cannot be written as PKCS#12")
	}
	key, err := x509.ParsePKCS8PrivateKey(b.key().pkcs8)
	if err != nil {
		return nil, unsupported("use the PEM files for this certificate", "the key cannot be written as PKCS#12")
	}
	return written(encoder.Encode(key, b.Leaf, b.Chain[1:], o.Password))
}

// written gives what the library says a form for people.
func written(out []byte, err error) ([]byte, error) {
	if err != nil {
		e := unsupported("choose another password", "the certificate cannot be written as PKCS#12")
		e.Err = err
		return nil, e
	}
	return out, nil
}

// JKS writes key and chain as a Java keystore of one entry. The format protects a key
// little, whatever the password, and the file is to be guarded like the key itself. The
// same bundle with the same options gives the same bytes.
//
// The error is an *Error: there is no key (NoPrivateKey), or the password has less than 6
// characters or one beyond Latin-1, or the alias has one that Java cannot read.
func (b *Bundle) JKS(o StoreOptions) ([]byte, error) {
	if !b.HasKey() {
		return nil, noPrivateKey("a keystore cannot be written without a private key")
	}
	password, err := storePassword(o.Password)
	if err != nil {
		return nil, err
	}
	if n := len(password); n < minStorePassword {
		return nil, unsupported(fmt.Sprintf("choose one of %d or more", minStorePassword), "the password of the keystore has %s, too few for Java", count(n, "character"))
	}
	alias, err := storeAlias(o.Alias)
	if err != nil {
		return nil, err
	}
	store := keystore.New(keystore.WithCustomRandomNumberGenerator(b.stream("jks", o)))
	entry := keystore.PrivateKeyEntry{CreationTime: b.created(o), PrivateKey: bytes.Clone(b.key().pkcs8)}
	for _, c := range b.Chain {
		entry.CertificateChain = append(entry.CertificateChain, keystoreCertificate(c))
	}
	if err := store.SetPrivateKeyEntry(alias, entry, password); err != nil {
		return nil, notStored(err)
	}
	return writeStore(store, password)
}

// TrustStore writes a Java keystore of certificates alone: those of the chain that
// certify others, or the leaf if there is none. Extra is not in it, since being in a
// trust store is being trusted. The aliases are the subjects, each once, in lower case;
// Alias is not used. The same bundle with the same options gives the same bytes.
//
// The password guards against damage and not against a reader. It may be empty: programs
// that give none then read the file unchecked, and so do some that give one.
//
// The error is an *Error: a password with a character beyond Latin-1.
func (b *Bundle) TrustStore(o StoreOptions) ([]byte, error) {
	password, err := storePassword(o.Password)
	if err != nil {
		return nil, err
	}
	trusted := b.Chain[1:]
	if len(trusted) == 0 {
		trusted = b.Chain
	}
	store := keystore.New(keystore.WithOrderedAliases())
	for alias, c := range aliases(trusted) {
		entry := keystore.TrustedCertificateEntry{CreationTime: b.created(o), Certificate: keystoreCertificate(c)}
		if err := store.SetTrustedCertificateEntry(alias, entry); err != nil {
			return nil, notStored(err)
		}
	}
	return writeStore(store, password)
}

func keystoreCertificate(c *x509.Certificate) keystore.Certificate {
	return keystore.Certificate{Type: "X.509", Content: c.Raw}
}

func writeStore(store keystore.KeyStore, password []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := store.Store(&out, password); err != nil {
		return nil, notStored(err)
	}
	return out.Bytes(), nil
}

func notStored(err error) *Error {
	e := unsupported("use the PEM files for this certificate", "the keystore cannot be written")
	e.Err = err
	return e
}

func (b *Bundle) created(o StoreOptions) time.Time {
	if o.Created.IsZero() {
		return b.Leaf.NotBefore
	}
	return o.Created
}

// storePassword returns the password in the form of the library, which makes a character
// of each byte, while Java makes one of each character.
func storePassword(password string) ([]byte, error) {
	bytes := make([]byte, 0, len(password))
	for _, r := range password {
		if r > unicode.MaxLatin1 {
			return nil, unsupported("choose one of plain letters, digits and signs", "the password of the keystore has characters that cannot be written")
		}
		bytes = append(bytes, byte(r))
	}
	return bytes, nil
}

func storeAlias(alias string) (string, error) {
	if alias == "" {
		return "1", nil
	}
	if readable := javaName(alias); readable != alias {
		return "", unsupported("choose one of plain letters, digits and signs", "the alias %s cannot be written into a keystore", quoted(alias))
	}
	return alias, nil
}

// javaName replaces what Java's form of UTF-8 has no place for, or a person no use: one
// such character makes the whole store unreadable.
func javaName(s string) string {
	return strings.Map(func(r rune) rune {
		if r > 0xffff || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, Printable(s))
}

// aliases yields the certificates in order, each with a name of its own made from its
// subject. Java does not tell upper from lower case.
func aliases(certs []*x509.Certificate) func(yield func(string, *x509.Certificate) bool) {
	return func(yield func(string, *x509.Certificate) bool) {
		taken := make(map[string]bool)
		for _, c := range certs {
			plain := strings.ToLower(javaName(subjectOrSerial(c)))
			alias := plain
			for n := 2; taken[alias]; n++ {
				alias = fmt.Sprintf("%s (%d)", plain, n)
			}
			taken[alias] = true
			if !yield(alias, c) {
				return
			}
		}
	}
}

func subjectOrSerial(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return "serial number " + c.SerialNumber.Text(16)
}

// stream gives the bytes for salts and initial vectors. They need not be secret but
// must differ from store to store, and the same version must be the same bytes after a
// restart: so they are derived from all that goes into a store, and nobody without the
// key can tell them from random. Without a key only certificates are protected, and the
// password stays out, which the result would otherwise allow to be guessed quickly.
func (b *Bundle) stream(purpose string, o StoreOptions) io.Reader {
	secret, password := b.Leaf.Raw, ""
	if b.HasKey() {
		secret, password = b.key().pkcs8, o.Password
	}
	inputs := sha256.New()
	parts := [][]byte{[]byte(purpose), []byte(password), []byte(o.Alias), []byte(b.created(o).UTC().Format(time.RFC3339Nano))}
	for _, c := range b.Chain {
		parts = append(parts, c.Raw)
	}
	for _, part := range parts {
		_ = binary.Write(inputs, binary.BigEndian, int64(len(part))) // so that no two lists are the same bytes
		inputs.Write(part)
	}
	const enough = 1024 // the stores take some 80 bytes
	derived, err := hkdf.Key(sha256.New, secret, nil, "kvfs store "+string(inputs.Sum(nil)), enough)
	if err != nil {
		return bytes.NewReader(nil) // too long a stream was asked for, which enough is not
	}
	return bytes.NewReader(derived)
}
