package certs

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"strings"
)

const (
	pemBegin  = "-----BEGIN"
	pemDashes = "-----"

	maxLabel     = 40
	labelLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "
)

func looksLikePEM(b []byte) bool { return bytes.Contains(b, []byte(pemBegin)) }

// readPEM reads PEM text in any order. encoding/pem passes over what it cannot read
// and says nothing: the key or an intermediate would be gone. So every -----BEGIN is
// decoded on its own and must give a block.
func readPEM(text []byte, work *effort) (*contents, *Error) {
	found := &contents{format: "PEM text", effort: work}
	for at := bytes.Index(text, []byte(pemBegin)); at >= 0; {
		end := len(text)
		next := bytes.Index(text[at+1:], []byte(pemBegin))
		if next >= 0 {
			end = at + 1 + next
		}
		block, err := decodeBlock(text, at, end)
		if err != nil {
			return nil, err
		}
		if err := found.addBlock(block); err != nil {
			return nil, err
		}
		if next < 0 {
			break
		}
		at = end
	}
	return found, nil
}

// decodeBlock decodes the block that begins at text[at], before text[end].
func decodeBlock(text []byte, at, end int) (*pem.Block, *Error) {
	if at == 0 || text[at-1] == '\n' {
		if block, _ := pem.Decode(text[at:end]); block != nil {
			return block, nil
		}
	}
	err := corrupt(nil, "the PEM block%s in line %d cannot be decoded", label(text[at:end]), 1+bytes.Count(text[:at], []byte("\n")))
	switch {
	case bytes.Contains(text, []byte(`\n`)):
		err.Hint = `replace each \n by a line break; the text was escaped twice`
	case !bytes.Contains(text[at:end], []byte("\n")):
		err.Hint = "keep the line breaks when the text is uploaded: az keyvault secret set --file"
	case !bytes.Contains(text[at:end], []byte("-----END")):
		err.Hint = "the block has no end; upload the whole file again"
	}
	return nil, err
}

// label returns the label of a block that cannot be decoded, for a message, or nothing.
// After a damaged frame may come the key itself, so it is shown only if the frame is
// whole and has nothing but what labels are made of.
func label(block []byte) string {
	line, _, _ := strings.Cut(string(block), "\n")
	line, begins := strings.CutPrefix(strings.TrimSpace(line), pemBegin+" ")
	line, ends := strings.CutSuffix(line, pemDashes)
	if !begins || !ends || line == "" || len(line) > maxLabel || strings.Trim(line, labelLetters) != "" {
		return ""
	}
	return ` "` + line + `"`
}

func (c *contents) addBlock(block *pem.Block) *Error {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		return c.addCertificate(block.Bytes)
	case "TRUSTED CERTIFICATE": // openssl's own trust settings follow the certificate
		var cert asn1.RawValue
		if _, err := asn1.Unmarshal(block.Bytes, &cert); err != nil {
			return corrupt(err, "the trusted certificate in the PEM text cannot be read")
		}
		return c.addCertificate(cert.FullBytes)
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			c.locked = true
			return nil
		}
		return c.addKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		c.locked = true
	case "EC PARAMETERS", "DH PARAMETERS", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "PUBLIC KEY":
		// Tools put them beside a key; they are no part of what is served.
	default:
		return c.addForeign(block.Type)
	}
	return nil
}

// addForeign passes over a block that kvfs has no use for, but not over a key of
// another kind: what it belongs to would be missed.
func (c *contents) addForeign(label string) *Error {
	if strings.HasSuffix(label, "PRIVATE KEY") {
		if c.refused == nil {
			c.refused = unsupported("convert the key to PKCS#8: openssl pkey -in key.pem -out plain.pem", "the PEM text has a key of the kind %s, which is not supported", quoted(label))
		}
		return nil
	}
	c.warn("the PEM block %s is passed over", quoted(label))
	return nil
}
