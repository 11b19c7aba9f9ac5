package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintableIsSafeForATerminal(t *testing.T) {
	long := strings.Repeat("ä", maxPrintable)
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"a name", `CN=www,O=Contoso\, "Köln" 株式会社`, `CN=www,O=Contoso\, "Köln" 株式会社`},
		{"escape", "\x1b[31mred", `\x1b[31mred`},
		{"line breaks", "a\r\nerror: b", `a\r\nerror: b`},
		{"nul and delete", "\x00\x7f", `\x00\x7f`},
		{"c1", "\u009b31m", `\u009b31m`},
		{"line separators", "\u2028\u2029", `\u2028\u2029`},
		{"bidi override", "a\u202egpj", `a\u202egpj`},
		{"bidi isolate", "\u2066x", `\u2066x`},
		{"zero width", "a\u200bb\ufeff", `a\u200bb\ufeff`},
		{"above the first plane", "\U000e0041", `\U000e0041`},
		{"no utf-8", "a\xffb\xc3", `a\xffb\xc3`},
		{"the replacement character itself", "\ufffd", "\ufffd"},
		{"as long as may be", long, long},
		{"one longer", long + "x", long[:2*(maxPrintable-3)] + "..."},
		{"no half of an escape", strings.Repeat("x", maxPrintable-4) + "\x1b\x1b", strings.Repeat("x", maxPrintable-4) + "..."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Printable(tt.text)
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if again := Printable(got); again != got {
				t.Errorf("what it returned, it changes: %q", again)
			}
		})
	}
}

func wantPrintable(t *testing.T, text string, limit int) {
	t.Helper()
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if strings.ContainsFunc(text, unprintable) || utf8.RuneCountInString(text) > limit {
		t.Errorf("%d characters, some may not print: %.300q", utf8.RuneCountInString(text), text)
	}
}

// Whoever may write a certificate chooses the names in it.
func TestForeignNamesInMessagesAreEscapedAndBounded(t *testing.T) {
	const evil = "x\x1b[2J\r\nerror: forged"
	for _, foreign := range []string{evil, evil + "\u202e", evil + strings.Repeat("long", 1000)} {
		key := newP256(t)
		ca := issue(t, nil, foreign, newP256(t))
		leaf := issue(t, ca, "leaf", key, asLeaf, func(c *x509.Certificate) { c.Subject.Organization = []string{foreign} })
		nameless := issue(t, ca, "", newP256(t), func(c *x509.Certificate) {
			c.DNSNames = []string{strings.Trim(foreign, "\u202e")} // these are ASCII
		})
		crl := block("X\x1b[2J", []byte("x")) // encoding/pem has no line breaks in a label
		b := mustParse(t, join(crl, certPEM(leaf.cert, nameless.cert), keyPEM(t, key)))
		for _, part := range []string{`\x1b[2J\r\nerror: forged`, "is not in the served chain", "is missing", "is passed over"} {
			wantWarning(t, b, part)
		}
		for _, w := range b.Warnings {
			wantPrintable(t, w, 2*maxPrintable+120)
		}
		if got := b.Inspect("").Leaf.Issuer; got != (pkix.Name{CommonName: foreign}).String() {
			t.Errorf("the inspection does not have the name as it is: %.100q", got)
		}
		e := mustRefuse(t, join(certPEM(leaf.cert), keyPEM(t, newP256(t))), KeyMismatch)
		wantPrintable(t, e.Error(), maxPrintable+120)
		e = mustRefuse(t, join(certPEM(leaf.cert), block("\x1b[2J PRIVATE KEY", []byte("x"))), Unsupported)
		wantPrintable(t, e.Error(), maxPrintable+120)
	}
}

func TestTheCauseOfAnErrorIsEscapedAndBounded(t *testing.T) {
	cause := errors.New("cannot parse \x1b\n" + strings.Repeat("long", 1000))
	e := corrupt(cause, "a fact")
	wantPrintable(t, e.Error(), maxPrintable+20)
	if !errors.Is(e, cause) {
		t.Error("the cause is lost")
	}
}
