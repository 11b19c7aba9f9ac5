package emulator

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/des"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	xpkcs12 "golang.org/x/crypto/pkcs12"
	"software.sslmate.com/src/go-pkcs12"
)

// issueBundle makes a certificate and decodes its value as far as base64 or text.
func issueBundle(t *testing.T, p Profile) (*issued, []byte) {
	t.Helper()
	ca, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.Name = "www"
	p, err = p.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.issue(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	value, err := bundle(p, c)
	if err != nil {
		t.Fatal(err)
	}
	if p.Format == PEM {
		return c, []byte(value)
	}
	der, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	return c, der
}

// keyTypes leaves the longer RSA keys out, whose only difference is the time
// they take.
var keyTypes = []KeyType{RSA2048, EC256, EC384, EC521, Ed25519}

type equaler interface{ Equal(crypto.PrivateKey) bool }

func TestPFXIsReadByGoPKCS12(t *testing.T) {
	for _, kind := range keyTypes {
		for _, noRoot := range []bool{false, true} {
			c, der := issueBundle(t, Profile{Key: kind, NoRoot: noRoot})
			key, leaf, rest, err := pkcs12.DecodeChain(der, "")
			if err != nil {
				t.Errorf("%s: %v", kind, err)
				continue
			}
			want := c.chain
			if noRoot {
				want = want[:2]
			}
			if !c.key.(equaler).Equal(key) || !slices.EqualFunc(append([]*x509.Certificate{leaf}, rest...), want, (*x509.Certificate).Equal) {
				t.Errorf("%s: another key or chain than was written", kind)
			}
		}
	}
}

func TestPFXIsReadByXCrypto(t *testing.T) {
	for _, kind := range []KeyType{RSA2048, EC256, EC384} { // it knows no other
		c, der := issueBundle(t, Profile{Key: kind})
		blocks, err := xpkcs12.ToPEM(der, "")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		var certs [][]byte
		id := map[string]string{}
		for _, b := range blocks {
			id[b.Type] += b.Headers["localKeyId"] + ";"
			if b.Type == "CERTIFICATE" {
				certs = append(certs, b.Bytes)
			} else if b.Headers["Microsoft CSP Name"] != cspName {
				t.Errorf("%s: key headers %v", kind, b.Headers)
			}
		}
		if len(certs) != 3 || !bytes.Equal(certs[0], c.chain[0].Raw) || id["PRIVATE KEY"] != "01000000;" || id["CERTIFICATE"] != "01000000;;;" {
			t.Errorf("%s: %d certificates, key ids %v", kind, len(certs), id)
		}
	}
}

func openssl(t *testing.T, arguments ...string) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	out, err := exec.Command(path, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", arguments, err, out)
	}
	return string(out)
}

func TestPFXIsReadByOpenSSL(t *testing.T) {
	for _, p := range []Profile{{Key: EC256}, {Key: RSA2048}, {NotExportable: true}} {
		_, der := issueBundle(t, p)
		file := filepath.Join(t.TempDir(), "www.pfx")
		if err := os.WriteFile(file, der, 0o600); err != nil {
			t.Fatal(err)
		}
		got := openssl(t, "pkcs12", "-in", file, "-passin", "pass:", "-nodes", "-info")
		want := []string{"MAC: sha1, Iteration 2000", "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2000", "CN = www.example.com"}
		if !p.NotExportable {
			want = append(want, "localKeyID: 01 00 00 00", "Microsoft CSP Name: "+cspName, "X509v3 Key Usage")
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%+v: openssl does not say %q:\n%s", p, w, got)
			}
		}
		if n := strings.Count(got, "BEGIN CERTIFICATE"); n != 3 {
			t.Errorf("%+v: %d certificates", p, n)
		}
	}
}

func TestPEMHasOneKeyFirstThenLeafThenChain(t *testing.T) {
	for _, kind := range keyTypes {
		c, text := issueBundle(t, Profile{Key: kind, Format: PEM})
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "PRIVATE KEY" {
			t.Fatalf("%s: begins with %v", kind, block)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || !c.key.(equaler).Equal(key) {
			t.Errorf("%s: key %v", kind, err)
		}
		for i, want := range c.chain {
			if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || !bytes.Equal(block.Bytes, want.Raw) {
				t.Fatalf("%s: block %d is another one", kind, i+1)
			}
		}
		if len(rest) != 0 {
			t.Errorf("%s: %d bytes left over", kind, len(rest))
		}
	}
}

// TestBundlesAreBuiltLikeTheRecordedOnes compares the order, types, object
// identifiers, small integers and bag attributes, down through the encryption,
// of our values with the recorded ones.
func TestBundlesAreBuiltLikeTheRecordedOnes(t *testing.T) {
	for file, p := range map[string]Profile{
		"net-get-secret-x-pkcs12-P256.json":                  {},
		"net-get-secret-x-pkcs12-nonexportable-RSA2048.json": {NotExportable: true},
		"net-get-secret-x-pem-file-P256.json":                {Format: PEM},
	} {
		var body struct{ Value string }
		recorded := recording(t, file)
		if err := json.Unmarshal(recorded.ResponseBody, &body); err != nil {
			t.Fatal(err)
		}
		theirs := []byte(body.Value)
		_, ours := issueBundle(t, p)
		if p.Format == PEM {
			theirs, ours = firstBlock(t, theirs), firstBlock(t, ours)
		} else {
			var err error
			if theirs, err = base64.StdEncoding.DecodeString(body.Value); err != nil {
				t.Fatal(err)
			}
			ours = leafAlone(t, p)
		}
		want, got := strings.Join(skeleton(t, theirs, 0), "\n"), strings.Join(skeleton(t, ours, 0), "\n")
		if want != got {
			t.Errorf("%s\nrecorded:\n%s\nours:\n%s", file, want, got)
		}
	}
}

func firstBlock(t *testing.T, text []byte) []byte {
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM block")
	}
	return block.Bytes
}

// leafAlone is a PFX without a chain: the recorded certificates signed themselves.
func leafAlone(t *testing.T, p Profile) []byte {
	t.Helper()
	c, _ := issueBundle(t, p)
	c.chain = c.chain[:2]
	p.NoRoot = true
	value, err := bundle(p, c)
	if err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// skeleton describes DER without what is random in it. Certificates are opaque.
func skeleton(t *testing.T, der []byte, depth int) (lines []string) {
	var algorithm []byte // of the content that comes after it
	for i := 0; len(der) > 0; i++ {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			t.Fatalf("at depth %d: %v: %x", depth, err, der)
		}
		line := fmt.Sprintf("%s%d/%d", strings.Repeat(" ", depth), v.Class, v.Tag)
		var id asn1.ObjectIdentifier
		switch {
		case v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOID:
			if _, err := asn1.Unmarshal(v.FullBytes, &id); err != nil {
				t.Fatal(err)
			}
			line += " " + id.String()
		case v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger, v.Tag == asn1.TagBMPString, v.Class == asn1.ClassUniversal && v.Tag == asn1.TagBitString && len(v.Bytes) < 4:
			line += fmt.Sprintf(" %x", v.Bytes)
		case v.Tag == asn1.TagOctetString && len(v.Bytes) == len(localKeyID):
			line += fmt.Sprintf(" %x", v.Bytes)
		case !v.IsCompound:
			line += fmt.Sprint(" ", len(v.Bytes) < 40)
		}
		lines = append(lines, line)
		inner := v.Bytes
		if algorithm != nil {
			inner = unseal(t, algorithm, v.Bytes)
			lines = append(lines, skeleton(t, inner, depth+1)...)
		} else if v.IsCompound || v.Tag == asn1.TagOctetString && isSequence(inner) {
			lines = append(lines, skeleton(t, inner, depth+1)...)
		}
		algorithm = sealing(v)
		if id.Equal(oidX509) {
			return lines
		}
		der = rest
	}
	return lines
}

func isSequence(der []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	return err == nil && len(rest) == 0 && v.Tag == asn1.TagSequence && v.IsCompound
}

// pbe is the AlgorithmIdentifier of password-based encryption.
type pbe struct {
	ID         asn1.ObjectIdentifier
	Parameters struct {
		Salt       []byte
		Iterations int
	}
}

// sealing returns the identifier if v is one that encrypts what comes next.
func sealing(v asn1.RawValue) []byte {
	var a pbe
	if rest, err := asn1.Unmarshal(v.FullBytes, &a); err != nil || len(rest) > 0 || !a.ID.Equal(oidPBE3DES) {
		return nil
	}
	return v.FullBytes
}

func unseal(t *testing.T, algorithm, sealed []byte) []byte {
	t.Helper()
	var a pbe
	if _, err := asn1.Unmarshal(algorithm, &a); err != nil {
		t.Fatal(err)
	}
	block, err := des.NewTripleDESCipher(deriveKey(sha1.New, noPassword, a.Parameters.Salt, a.Parameters.Iterations, forKey, 24))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(block, deriveKey(sha1.New, noPassword, a.Parameters.Salt, a.Parameters.Iterations, forIV, 8)).CryptBlocks(plain, sealed)
	return plain[:len(plain)-int(plain[len(plain)-1])]
}
