package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// Everything that prints a value is tried on a bundle and its text, alone and inside of
// other values, where package fmt does not ask for methods.
func TestSecretsAreRedacted(t *testing.T) {
	for kind, key := range testKeys(t) {
		chain := newChain(t, 1, key)
		b := mustParse(t, join(keyPEM(t, key), certPEM(chain[0].cert)))
		p := b.PEM()
		type holder struct {
			Public  PEM
			private PEM
			bundle  *Bundle
		}
		inner := holder{p, p, b}
		values := []any{p, &p, b, *b, inner, &inner, []PEM{p}, map[string]*Bundle{"x": b}, []any{p, b}}
		var printed bytes.Buffer
		for _, v := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b"} {
				fmt.Fprintf(&printed, verb+"\n", v)
			}
			fmt.Fprintln(&printed, v)
			encoded, err := json.Marshal(v)
			if err != nil {
				t.Errorf("%T: %v", v, err)
			}
			printed.Write(encoded)
			slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "value", v)
			slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "value", v)
		}
		for _, secret := range renderings(t, b, key) {
			if strings.Contains(printed.String(), secret) {
				t.Errorf("%s: the key is in what was printed, as %.20s...", kind, secret)
			}
		}
		for _, v := range []any{p, b} {
			encoded, err := json.Marshal(v)
			if err != nil || string(encoded) != `"[redacted]"` || fmt.Sprint(v) != redacted {
				t.Errorf("%T: %s, %v, %v", v, encoded, err, v)
			}
		}
	}
}

// secretOf returns bytes of a key that nothing public holds.
func secretOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k.D.Bytes()
	case *ecdsa.PrivateKey:
		return must[[]byte](t)(k.Bytes())
	case ed25519.PrivateKey:
		return k.Seed()
	}
	t.Fatalf("no secret of a %T is known", key)
	return nil
}

// renderings are the ways in which parts of a private key could show.
func renderings(t testing.TB, b *Bundle, key crypto.Signer) []string {
	t.Helper()
	secret := secretOf(t, key)
	part := secret[8:20]
	decimals := strings.Trim(fmt.Sprint(part), "[]")
	return []string{
		"PRIVATE KEY", strings.Split(string(b.PEM().Key()), "\n")[1],
		hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), decimals,
		strings.ReplaceAll(decimals, " ", ", "), new(big.Int).SetBytes(secret).String(),
	}
}

func TestErrorsHoldNothingOfAKey(t *testing.T) {
	key := newP256(t)
	der := pkcs8Of(t, key)
	for cut := 1; cut < len(der); cut++ {
		_, err := Parse("", join(block("PRIVATE KEY", der[:cut]), certPEM(newChain(t, 1, newP256(t))[0].cert)))
		if err == nil {
			t.Fatalf("a key cut at %d was read", cut)
		}
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		if secret := hex.EncodeToString(der[30:40]); strings.Contains(text, secret) || strings.Contains(text, string(der[30:40])) {
			t.Errorf("cut at %d: %s", cut, text)
		}
		if cut > 40 {
			cut += 10
		}
	}
}

// A frame that is damaged in any way is an error that names the block or the line, and
// what follows the damage may be the key.
func TestErrorsHoldNothingOfAKeyInADamagedFrame(t *testing.T) {
	key := newP256(t)
	digits := base64.StdEncoding.EncodeToString(pkcs8Of(t, key))
	good := string(keyPEM(t, key))
	const begin = "-----BEGIN PRIVATE KEY-----\n"
	values := map[string]string{
		"all in one line":      strings.ReplaceAll(good, "\n", ""),
		"spaces for lines":     strings.ReplaceAll(good, "\n", " "),
		"escaped lines":        strings.ReplaceAll(good, "\n", `\n`),
		"carriage returns":     strings.ReplaceAll(good, "\n", "\r"),
		"no label":             strings.Replace(good, begin, "-----BEGIN", 1),
		"no label, a space":    strings.Replace(good, begin, "-----BEGIN ", 1),
		"label without dashes": strings.Replace(good, begin, "-----BEGIN PRIVATE KEY", 1),
		"the key as the label": "-----BEGIN " + digits[40:60] + "-----\n",
		"behind the dashes":    strings.Replace(good, begin, begin[:len(begin)-1], 1),
	}
	for cut := range len(begin) {
		values[fmt.Sprint("cut at ", cut)] = strings.Replace(good, begin, begin[:len(begin)-cut]+"-", 1)
		values[fmt.Sprint("hole at ", cut)] = begin[:cut] + good[min(len(good), len(begin)+cut):]
		values[fmt.Sprint("again at ", cut)] = begin[:cut] + "-----BEGIN " + digits[cut:]
	}
	cert := certPEM(newChain(t, 1, newP256(t))[0].cert)
	for name, value := range values {
		_, err := Parse("", join([]byte(value), []byte("\n"), cert))
		if err == nil {
			t.Errorf("%s: a bundle without its key was read", name)
			continue
		}
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		for at := range len(digits) - 8 {
			if strings.Contains(text, digits[at:at+8]) {
				t.Errorf("%s: a part of the key is in %q", name, text)
				break
			}
		}
	}
}

// The text of a frame may be inside of binary data, which is then no label.
func TestPKCS12IsNotTakenForPEM(t *testing.T) {
	key := newP256(t)
	chain := []*identity{issue(t, nil, "x\n-----BEGIN PRIVATE KEY-----\n", key)}
	mustParse(t, encodePFX(t, pkcs12.Passwordless, chain, ""))
}
