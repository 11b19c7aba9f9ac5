package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	// maxValue bounds a value. The service's own limit is 25 KB; a file given to
	// `kvfs inspect` may be larger.
	maxValue = 256 << 10
	// maxCertificates bounds a bundle: every pair may cost a signature check.
	maxCertificates = 100
	// maxKeys bounds it too: every key is compared with every certificate.
	maxKeys = 100
)

// decoderGaveUp is the fact when a decoder panics. FuzzParse takes it for a failure.
const decoderGaveUp = "the value cannot be read: a decoder gave up on it"

// contents is what a value holds, in the order it holds it, before anything is
// decided about it. The readers of PKCS#12 and PEM fill it, assemble judges it.
type contents struct {
	format   string // "PKCS#12 file" or "PEM text", for facts
	effort   *effort
	keys     []*privateKey
	certs    []*x509.Certificate
	warnings []string
	locked   bool   // a key needs a password
	refused  *Error // the first key of a kind that is not supported
}

func (c *contents) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

func (c *contents) addCertificate(der []byte) *Error {
	if len(c.certs) == maxCertificates {
		return unsupported("keep the certificates that clients need", "the %s holds more than %d certificates", c.format, maxCertificates)
	}
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		return c.keepCertificate(cert)
	}
	if curve, ok := foreignCurve(certificateAlgorithm(der)); ok {
		return unsupportedCurve(curve)
	}
	return corrupt(err, "certificate %d of the %s cannot be read", len(c.certs)+1, c.format)
}

func (c *contents) keepCertificate(cert *x509.Certificate) *Error {
	if err := refuseLongCertificate(cert); err != nil {
		return err
	}
	c.certs = append(c.certs, cert)
	return nil
}

// addKey keeps a key. One of an unsupported kind is an error only if no other key
// fits, which assemble finds out.
func (c *contents) addKey(der []byte) *Error {
	if len(c.keys) == maxKeys {
		return unsupported("keep the key of the certificate", "the %s holds more than %d private keys", c.format, maxKeys)
	}
	price := keyReading(len(der))
	if !c.effort.reserve(price) {
		return tooMuchKey(c.format)
	}
	c.effort.did(price)
	key, err := parseKey(der)
	switch {
	case err == nil:
		c.keys = append(c.keys, key)
	case err.Kind != Unsupported:
		return err
	case c.refused == nil:
		c.refused = err
	}
	return nil
}

// Parse reads the value of a secret. contentType is the secret's own statement and
// a hint alone: it may be empty or wrong, the content decides.
//
// The error is always an *Error. One of the kind NoPrivateKey has in Partial what can be
// served without the key, if the leaf is plain: it certifies none of the other
// certificates, and is no CA or the only such one. (A value of CAs alone has no leaf.)
// PKCS#7 is not opened and has no Partial.
//
// The work is bounded for any value; see the package
// documentation. Parse is safe for concurrent use and does not keep or change value.
func Parse(contentType string, value []byte) (bundle *Bundle, err error) {
	// The last resort: the decoders below us read foreign bytes, and one bad secret
	// must not take the others down with it.
	defer func() {
		if p := recover(); p != nil {
			bundle, err = nil, corrupt(nil, decoderGaveUp)
		}
	}()
	b, e := parse(contentType, value, &effort{limit: maxReading})
	if e != nil {
		return nil, e // not returned directly: a nil *Error is no nil error
	}
	return b, nil
}

func parse(contentType string, value []byte, work *effort) (*Bundle, *Error) {
	if len(value) > maxValue {
		return nil, unsupported("a secret holds at most 25 KB; is this the right file?", "the value has %d bytes, more than %d", len(value), maxValue)
	}
	found, err := read(contentType, value, work)
	if err != nil {
		return nil, err
	}
	return assemble(found)
}

// read finds out what the value is, and reads it.
func read(contentType string, value []byte, work *effort) (*contents, *Error) {
	value = trimBOM(value)
	if looksLikeDER(value) { // before PEM: the text may be inside, in a name
		return readDER(value, work)
	}
	if looksLikePEM(value) {
		return readPEM(value, work)
	}
	decoded, err := decodeBase64(value)
	switch {
	case err == nil && looksLikeDER(decoded):
		return readDER(decoded, work)
	case err == nil && looksLikePEM(decoded): // `az keyvault secret set --encoding base64` of a PEM
		return readPEM(trimBOM(decoded), work)
	}
	return nil, notABundle(contentType, value, err)
}

// notABundle says what a value is that is neither PKCS#12 nor PEM. The content type
// matters here, for the first time: it tells damage from a secret of another kind.
func notABundle(contentType string, value []byte, err error) *Error {
	text := bytes.TrimSpace(value)
	switch {
	case len(text) == 0:
		return &Error{Kind: NotACertificate, Fact: "the value is empty", Hint: "name a secret that holds a certificate"}
	case bytes.HasPrefix(value, []byte("\xff\xfe")) || bytes.HasPrefix(value, []byte("\xfe\xff")):
		return &Error{Kind: Corrupt, Fact: "the value is UTF-16 text", Hint: "save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"}
	case err != nil && bytes.HasPrefix(text, []byte("MI")): // base64 of a long ASN.1 sequence
		return corrupt(err, "the value begins like the base64 of a PKCS#12 file and is no valid base64")
	case claimsBundle(contentType):
		return corrupt(nil, "the content type is %s and the value is neither PKCS#12 nor PEM", quoted(contentType))
	}
	return &Error{Kind: NotACertificate, Fact: "the value is neither PKCS#12 nor PEM",
		Hint: "name a secret that holds a certificate; a certificate object has one of its own name"}
}

func claimsBundle(contentType string) bool {
	t := strings.ToLower(strings.TrimSpace(contentType))
	return t == contentTypePKCS12 || t == contentTypePEM
}

func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) }

// looksLikeDER tells an ASN.1 sequence from text: it begins with the digit 0, then a
// long length, which is no ASCII, or the version number of a short PFX.
func looksLikeDER(b []byte) bool {
	return len(b) > 4 && b[0] == 0x30 && (b[1] >= 0x80 || b[2] == 0x02 && b[3] < 0x09)
}

// decodeBase64 forgives what people and tools do to base64: line breaks, spaces,
// missing padding.
func decodeBase64(b []byte) ([]byte, error) {
	text := strings.Join(strings.Fields(string(b)), "")
	text = strings.TrimRight(text, "=")
	if text == "" {
		return nil, errors.New("no base64 digits")
	}
	return base64.RawStdEncoding.DecodeString(text)
}

// readDER reads PKCS#12, and names the other things that are DER.
func readDER(der []byte, work *effort) (*contents, *Error) {
	if cert, err := x509.ParseCertificate(der); err == nil {
		return nil, certificateAlone(cert)
	}
	if isKey(der) {
		return nil, &Error{Kind: NoCertificate, Fact: "the value is a private key alone, in DER", Hint: "upload the certificate together with its key"}
	}
	if isPKCS7(der) {
		return nil, noPrivateKey("the value is PKCS#7, which has certificates and never a key")
	}
	return readPKCS12(der, work)
}

func certificateAlone(cert *x509.Certificate) *Error {
	var alone contents
	if err := alone.keepCertificate(cert); err != nil {
		return err
	}
	e := noPrivateKey("the value is a certificate alone, in DER")
	e.Partial = alone.withoutKey()
	return e
}

// isKey knows PKCS#8 by its form: what is in the key is not looked at.
func isKey(der []byte) bool {
	var info pkcs8
	_, err := asn1.Unmarshal(der, &info)
	return err == nil && info.Version <= 1
}

func isPKCS7(der []byte) bool {
	var info contentInfo
	_, err := asn1.Unmarshal(der, &info)
	return err == nil && info.ContentType.String() == oidSignedData
}

func noPrivateKey(fact string) *Error {
	return &Error{Kind: NoPrivateKey, Fact: fact,
		Hint: "the certificate's policy probably says exportable: false; create a version with an exportable key, or upload the certificate with its key"}
}

// assemble decides: which key, which leaf, which chain, and what is left over.
func assemble(found *contents) (*Bundle, *Error) {
	certs := distinct(found.certs)
	key, leaf := matchKey(found.keys, certs)
	if leaf == nil {
		return nil, found.whyNoLeaf()
	}
	if len(found.keys) > 1 {
		found.warn("%d private keys found; the one that fits the certificate is served", len(found.keys))
	}
	b := &Bundle{Leaf: leaf, key: hide(*key), found: certs, noted: found.warnings}
	b.arrange(newFinder(certs))
	return b, nil
}

// whyNoLeaf says why no key and certificate belong together. What is missing is
// said before what is in the way.
func (c *contents) whyNoLeaf() *Error {
	switch {
	case c.locked:
		return &Error{Kind: Password, Fact: fmt.Sprintf("the private key in the %s is protected by a password", c.format),
			Hint: "upload it again with the key in the clear: openssl pkey -in key.pem -out plain.pem"}
	case c.refused != nil:
		return c.refused
	case len(c.certs)+len(c.keys) == 0:
		return &Error{Kind: NoCertificate, Fact: fmt.Sprintf("the %s holds neither a certificate nor a private key", c.format),
			Hint: "upload the certificate together with its key"}
	case len(c.certs) == 0:
		return &Error{Kind: NoCertificate, Fact: fmt.Sprintf("the %s holds %s and no certificate", c.format, count(len(c.keys), "private key")),
			Hint: "upload the certificate together with its key"}
	case len(c.keys) == 0:
		e := noPrivateKey(fmt.Sprintf("the %s holds %s and no private key", c.format, count(len(c.certs), "certificate")))
		e.Partial = c.withoutKey()
		return e
	}
	return &Error{Kind: KeyMismatch, Fact: fmt.Sprintf("the private key (%s) belongs to no certificate in the %s, which has %s", c.keys[0].kind, c.format, name(c.certs[0])),
		Hint: "upload the certificate with the key it was requested with"}
}

// count says how many there are of a thing.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
