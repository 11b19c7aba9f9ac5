package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
)

// Content types of secrets that back a certificate.
const (
	contentPFX = "application/x-pkcs12"
	contentPEM = "application/x-pem-file"
)

// contentType is the content type of a secret in this form.
func (f Format) contentType() string {
	if f == PEM {
		return contentPEM
	}
	return contentPFX
}

// bundle writes what the service would hand out as the value of a secret.
func bundle(p Profile, c *issued) (string, error) {
	chain := c.chain
	if p.NoRoot {
		chain = chain[:len(chain)-1]
	}
	var pkcs8 []byte
	if !p.NotExportable {
		var err error
		if pkcs8, err = marshalKey(c.key); err != nil {
			return "", fmt.Errorf("encoding a key: %w", err)
		}
	}
	if p.Format == PEM {
		return pemBundle(pkcs8, chain), nil
	}
	pfx, err := encodePFX(pkcs8, chain)
	if err != nil {
		return "", fmt.Errorf("encoding a PFX: %w", err)
	}
	return base64.StdEncoding.EncodeToString(pfx), nil
}

// pemBundle puts the key before the leaf, as the service does.
func pemBundle(pkcs8 []byte, chain []*x509.Certificate) string {
	var text strings.Builder
	if pkcs8 != nil {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	}
	for _, cert := range chain {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return text.String()
}

// privateKeyInfo is RFC 5208's, with the key usage attribute that the service's
// keys carry and other encoders leave out.
type privateKeyInfo struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
	Attributes []keyAttribute `asn1:"optional,tag:0,set"`
}

type keyAttribute struct {
	ID     asn1.ObjectIdentifier
	Values []asn1.BitString `asn1:"set"`
}

// marshalKey writes PKCS#8 as recorded: the inner EC key names its curve once more.
func marshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var info privateKeyInfo
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		if info.PrivateKey, err = x509.MarshalECPrivateKey(ec); err != nil {
			return nil, err
		}
	}
	info.Attributes = []keyAttribute{{
		ID:     asn1.ObjectIdentifier{2, 5, 29, 15},
		Values: []asn1.BitString{{Bytes: []byte{keyUsage(key)}, BitLength: 8}},
	}}
	return asn1.Marshal(info)
}

// keyUsage is digitalSignature, recorded for EC keys, and dataEncipherment for
// RSA, which is what Windows writes for keys that may encrypt.
func keyUsage(key crypto.Signer) byte {
	if _, ok := key.(*rsa.PrivateKey); ok {
		return 0x10
	}
	return 0x80
}
