package certs

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"crypto/x509"
	"crypto/x509/pkix"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

func TestInspectionIsTheContractOfTheCommand(t *testing.T) {
	ca := issue(t, nil, "ca", newP256(t))
	key := newP256(t)
	leaf := issue(t, ca, "www", key, asLeaf, func(c *x509.Certificate) {
		c.SerialNumber = big.NewInt(0xabc)
		c.Subject = pkix.Name{CommonName: "www", Organization: []string{"Contoso"}}
		c.DNSNames = []string{"a.example", "b.example"}
	})
	b := mustParse(t, join(certPEM(ca.cert, leaf.cert), keyPEM(t, key)))
	encoded, err := json.Marshal(b.Inspect("application/x-pem-file"))
	if err != nil {
		t.Fatal(err)
	}
	sum := func(der []byte) string { s := sha256.Sum256(der); return hex.EncodeToString(s[:]) }
	leafJSON := fmt.Sprintf(`{"subject":"CN=www,O=Contoso","issuer":"CN=ca","sha256":"%s","notBefore":"2026-01-01T00:00:00Z","notAfter":"2028-01-01T00:00:00Z","dnsNames":["a.example","b.example"],"serialNumber":"abc"}`, sum(leaf.cert.Raw))
	caJSON := fmt.Sprintf(`{"subject":"CN=ca","issuer":"CN=ca","sha256":"%s","notBefore":"2026-01-01T00:00:00Z","notAfter":"2028-01-01T00:00:00Z","dnsNames":[],"serialNumber":"%x"}`, sum(ca.cert.Raw), ca.cert.SerialNumber)
	want := fmt.Sprintf(`{"contentType":"application/x-pem-file","leaf":%s,"chain":[%s,%s],"key":{"type":"EC-P-256","spkiSha256":"%s"},"extra":[],"warnings":[]}`,
		leafJSON, leafJSON, caJSON, sum(leaf.cert.RawSubjectPublicKeyInfo))
	if string(encoded) != want {
		t.Errorf("got  %s\nwant %s", encoded, want)
	}
}

func TestDecodeInputTellsWhatAFileIs(t *testing.T) {
	chain := newChain(t, 2, newP256(t))
	text := string(join(certPEM(certsOf(chain...)...), keyPEM(t, chain[0].key)))
	raw := string(encodePFX(t, pkcs12.Modern2023, chain, ""))
	encoded := base64.StdEncoding.EncodeToString([]byte(raw))
	inJSON := func(v any) string { return string(must[[]byte](t)(json.Marshal(v))) }
	for _, tt := range []struct {
		name, data, contentType, value string
	}{
		{"pfx", raw, contentTypePKCS12, raw},
		{"base64", encoded + "\n", contentTypePKCS12, encoded + "\n"},
		{"pem", text, contentTypePEM, text},
		{"pem with a bom", "\ufeff" + text, contentTypePEM, text},
		{"json", inJSON(map[string]any{"contentType": contentTypePKCS12, "value": encoded, "id": "x", "attributes": map[string]any{"enabled": true}}), contentTypePKCS12, encoded},
		{"json of a PEM", "\ufeff \n" + inJSON(map[string]string{"contentType": contentTypePEM, "value": text}), contentTypePEM, text},
		{"json without a type", inJSON(map[string]any{"value": text, "contentType": nil}), "", text},
		{"json of something else", `{"contentType":"text/plain","value":"x"}`, "text/plain", "x"},
		{"something else", "hello", "", "hello"},
		{"nothing", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contentType, value, err := DecodeInput([]byte(tt.data))
			if err != nil || contentType != tt.contentType || string(value) != tt.value {
				t.Fatalf("%q, %.40q, %v", contentType, value, err)
			}
			bundle, err := Parse(contentType, value)
			if isBundle := len(tt.value) > 10; isBundle != (err == nil) || isBundle && !slices.Equal(sums(bundle.Chain), sums(certsOf(chain...))) {
				t.Errorf("Parse: %v", err)
			}
		})
	}
}

func TestDecodeInputRefusesJSONWithoutASecret(t *testing.T) {
	for data, want := range map[string]Kind{
		`{"error":{"code":"SecretNotFound"}}`: NotACertificate,
		`{"value":null}`:                      NotACertificate,
		`{"value":5}`:                         Corrupt,
		`{"value":"x"`:                        Corrupt,
		strings.Repeat("x", maxInput+1):       Unsupported,
	} {
		var e *Error
		if _, _, err := DecodeInput([]byte(data)); !errors.As(err, &e) || e.Kind != want || e.Hint == "" {
			t.Errorf("%.40s: %v, want %s", data, err, want)
		}
	}
}
