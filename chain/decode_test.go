package chain

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"

	"github.com/smallstep/pkcs7"
)

func inPEM(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

func inPKCS7(t testing.TB, ids ...*identity) []byte {
	t.Helper()
	var all []byte
	for _, id := range ids {
		all = append(all, id.cert.Raw...)
	}
	der, err := pkcs7.DegenerateCertificate(all)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// inBER gives the elements around the certificates indefinite lengths, as NSS and some
// CAs do.
func inBER(t testing.TB, der []byte) []byte {
	t.Helper()
	info, _, err := expect(der, tagSequence)
	if err != nil {
		t.Fatal(err)
	}
	oid, rest, err := readElement(info, 1)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signedData(der)
	if err != nil || len(rest) == 0 {
		t.Fatal(err)
	}
	return indefinite(tagSequence, oid.whole, indefinite(tagZero, indefinite(tagSequence, signed)))
}

func indefinite(tag byte, inside ...[]byte) []byte {
	return slices.Concat([]byte{tag, 0x80}, slices.Concat(inside...), []byte{0, 0})
}

// overlapping is n elements whose inner elements reach beyond them; a reader that goes
// into each looks at the last 2^n times.
func overlapping(n int) []byte {
	body := []byte{tagSequence, byte(4 * n)}
	for i := range n {
		body = append(body, tagSequence, 2, tagSequence, byte(4*(n-i-1)))
	}
	return body
}

func TestHostileEncodingsAreRefusedWithoutWork(t *testing.T) {
	for what, body := range map[string][]byte{
		"overlapping elements": overlapping(31),
		"deep":                 append(bytes.Repeat([]byte{tagSequence, 0x80}, maxAnswer/4), make([]byte, maxAnswer/2)...),
		"deep below [0]":       indefinite(tagSequence, append(bytes.Repeat([]byte{tagZero, 0x80}, maxDepth), make([]byte, 2*maxDepth)...)),
		"endless":              {tagSequence, 0x80},
		"endless primitive":    {0x04, 0x80, 0, 0},
		"long length":          append([]byte{tagSequence, 0xff}, bytes.Repeat([]byte{0xff}, 127)...),
		"cut length":           {tagSequence, 0x84, 1},
		"beyond its end":       {tagSequence, 0x82, 1, 0, 0},
		"high tag":             {tagSequence, 4, 0x1f, 0x81, 1, 0},
		"nothing":              {},
	} {
		if found, err := readPKCS7(body); err == nil {
			t.Errorf("%s: %d certificates", what, len(found))
		}
	}
}

func TestIndefiniteLengthsAreBounded(t *testing.T) {
	nested := func(n int) []byte {
		return append(bytes.Repeat([]byte{tagSequence, 0x80}, n), make([]byte, 2*n)...)
	}
	if _, rest, err := readElement(nested(maxDepth), maxDepth); err != nil || len(rest) != 0 {
		t.Errorf("%d: %v", maxDepth, err)
	}
	if _, _, err := readElement(nested(maxDepth+1), maxDepth); err == nil {
		t.Errorf("%d levels are read", maxDepth+1)
	}
	if _, _, err := readElement([]byte{0x04, 0x80, 0, 0}, maxDepth); err == nil {
		t.Error("a primitive element without a length is read")
	}
}

// A signature is any bytes, and a line feed after a file is not part of it.
func TestCertificateThatEndsLikeALineIsRead(t *testing.T) {
	id := issue(t, nil, "root")
	for der := id.cert.Raw; der[len(der)-1] != '\n'; der = id.cert.Raw {
		id = issueFor(t, id.key, nil, "root")
	}
	for _, end := range []string{"", "\n"} {
		if found, err := decode(append(slices.Clone(id.cert.Raw), end...)); err != nil || !found[0].Equal(id.cert) {
			t.Errorf("followed by %q: %v", end, err)
		}
	}
}

func TestOtherPKCS7IsRefused(t *testing.T) {
	root := issue(t, nil, "root")
	der := inPKCS7(t, root)
	enveloped := bytes.Replace(der, []byte{0x86, 0xf7, 0x0d, 1, 7, 2}, []byte{0x86, 0xf7, 0x0d, 1, 7, 3}, 1)
	broken := bytes.Replace(der, root.cert.Raw[:8], []byte{0x30, 0x82, root.cert.Raw[2], root.cert.Raw[3], 0, 0, 0, 0}, 1)
	for what, body := range map[string][]byte{"enveloped": enveloped, "with a broken certificate": broken} {
		if bytes.Equal(body, der) {
			t.Fatalf("%s: not changed", what)
		}
		if found, err := decode(body); err == nil {
			t.Errorf("%s: %d certificates", what, len(found))
		}
	}
}

func TestPKCS7IsReadAsTheLibraryReadsIt(t *testing.T) {
	var ids []*identity
	for range 4 {
		for what, body := range map[string][]byte{"DER": inPKCS7(t, ids...), "BER": inBER(t, inPKCS7(t, ids...))} {
			ours, err := readPKCS7(body)
			if err != nil {
				t.Fatalf("%s of %d: %v", what, len(ids), err)
			}
			theirs, err := pkcs7.Parse(body)
			if err != nil {
				t.Fatalf("%s of %d: %v", what, len(ids), err)
			}
			if len(ours) != len(ids) || !slices.EqualFunc(ours, theirs.Certificates, (*x509.Certificate).Equal) {
				t.Errorf("%s of %d: %d certificates, the library reads %d", what, len(ids), len(ours), len(theirs.Certificates))
			}
		}
		ids = append(ids, issue(t, nil, "ca"))
	}
}

func FuzzDecode(f *testing.F) {
	root := issue(f, nil, "root")
	f.Add(root.cert.Raw)
	f.Add(inPEM("CERTIFICATE", root.cert.Raw))
	f.Add(inPKCS7(f, root, root))
	f.Add(inBER(f, inPKCS7(f, root)))
	f.Add(inPEM("PKCS7", inBER(f, inPKCS7(f, root))))
	f.Add(overlapping(8))
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := decode(body)
		if (err == nil) != (len(found) > 0) || len(found) > maxCertificates || slices.Contains(found, nil) {
			t.Errorf("%d certificates, %v", len(found), err)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		for _, c := range found {
			if inPEM := bytes.Contains(body, []byte("-----BEGIN ")); !inPEM && !bytes.Contains(body, c.Raw) {
				t.Error("a certificate that is not in the answer")
			}
		}
	})
}
