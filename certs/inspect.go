package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"time"
)

const (
	contentTypePKCS12 = "application/x-pkcs12"
	contentTypePEM    = "application/x-pem-file"

	// maxInput bounds a file: a value of maxValue bytes, escaped in JSON.
	maxInput = 2 << 20
)

// Inspection is what `kvfs inspect --json` prints of a bundle. It holds nothing
// secret. Lists are empty rather than null. Names are as they are in the certificates,
// any character included: use [Printable] to show them as text.
type Inspection struct {
	ContentType string     `json:"contentType"`
	Leaf        CertInfo   `json:"leaf"`
	Chain       []CertInfo `json:"chain"` // leaf first, as served
	Key         KeyInfo    `json:"key"`
	Extra       []CertInfo `json:"extra"`
	Warnings    []string   `json:"warnings"`
}

// CertInfo describes one certificate.
type CertInfo struct {
	Subject      string   `json:"subject"` // RFC 2253, such as "CN=www,O=Contoso"
	Issuer       string   `json:"issuer"`
	Sha256       string   `json:"sha256"`    // of the DER, lower-case hex
	NotBefore    string   `json:"notBefore"` // RFC 3339, UTC
	NotAfter     string   `json:"notAfter"`
	DNSNames     []string `json:"dnsNames"`
	SerialNumber string   `json:"serialNumber"` // lower-case hex without leading zeros
}

// KeyInfo describes the private key by what is public of it.
type KeyInfo struct {
	Type       string `json:"type"`       // as KeyType
	SPKISha256 string `json:"spkiSha256"` // as SPKI, lower-case hex
}

// Inspect describes the bundle. contentType is repeated as it was given to Parse.
func (b *Bundle) Inspect(contentType string) Inspection {
	spki := b.SPKI()
	return Inspection{
		ContentType: contentType,
		Leaf:        describe(b.Leaf),
		Chain:       describeAll(b.Chain),
		Key:         KeyInfo{Type: b.KeyType(), SPKISha256: hex.EncodeToString(spki[:])},
		Extra:       describeAll(b.Extra),
		Warnings:    append([]string{}, b.Warnings...),
	}
}

func describeAll(certs []*x509.Certificate) []CertInfo {
	infos := make([]CertInfo, len(certs))
	for i, c := range certs {
		infos[i] = describe(c)
	}
	return infos
}

func describe(c *x509.Certificate) CertInfo {
	sum := sha256.Sum256(c.Raw)
	return CertInfo{
		Subject:      c.Subject.String(),
		Issuer:       c.Issuer.String(),
		Sha256:       hex.EncodeToString(sum[:]),
		NotBefore:    c.NotBefore.UTC().Format(time.RFC3339),
		NotAfter:     c.NotAfter.UTC().Format(time.RFC3339),
		DNSNames:     append([]string{}, c.DNSNames...),
		SerialNumber: c.SerialNumber.Text(16),
	}
}

// DecodeInput tells what the bytes of a file are and returns what Parse takes: a JSON
// object {"contentType","value"} as Key Vault and `az keyvault secret show` print it,
// a PEM, or a PFX, raw or in base64. For anything else the content type is empty and
// the value is data, for Parse to refuse. The error, for JSON that holds no secret, is
// always an *Error.
func DecodeInput(data []byte) (contentType string, value []byte, err error) {
	if len(data) > maxInput {
		return "", nil, unsupported("is this the right file?", "the input has %d bytes, more than %d", len(data), maxInput)
	}
	data = trimBOM(data)
	switch text := bytes.TrimSpace(data); {
	case looksLikeDER(data):
		return contentTypePKCS12, data, nil
	case len(text) > 0 && text[0] == '{': // before PEM, which may be inside
		return decodeJSON(text)
	case looksLikePEM(data):
		return contentTypePEM, data, nil
	}
	if decoded, err := decodeBase64(data); err == nil && looksLikeDER(decoded) {
		return contentTypePKCS12, data, nil
	}
	return "", data, nil
}

func decodeJSON(text []byte) (string, []byte, error) {
	var secret struct {
		ContentType string  `json:"contentType"`
		Value       *string `json:"value"`
	}
	if err := json.Unmarshal(text, &secret); err != nil {
		return "", nil, corrupt(err, "the input looks like JSON and cannot be read")
	}
	if secret.Value == nil {
		return "", nil, &Error{Kind: NotACertificate, Fact: `the JSON object has no "value"`,
			Hint: "give the answer to GET of a secret: az keyvault secret show --id URL"}
	}
	return secret.ContentType, []byte(*secret.Value), nil
}
