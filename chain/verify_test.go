package chain

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"kvfs/certs"
)

func pool(roots ...*identity) *x509.CertPool {
	p := x509.NewCertPool()
	for _, r := range roots {
		p.AddCert(r.cert)
	}
	return p
}

func TestChainsAreJudgedWithAReason(t *testing.T) {
	past, soon := today.AddDate(-1, 0, 0), today.AddDate(1, 0, 0)
	begin := today.AddDate(-5, 0, 0)
	root := issue(t, nil, "root")
	sub := issue(t, root, "sub")
	good := issue(t, sub, "leaf", asLeaf, usage(x509.ExtKeyUsageServerAuth))
	oldRoot := issue(t, nil, "old root", valid(begin, past))
	oldSub := issue(t, root, "old sub", valid(begin, past))
	clients := issue(t, root, "clients", usage(x509.ExtKeyUsageClientAuth))
	constrained := issue(t, root, "constrained", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} })
	short := issue(t, root, "short", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := issue(t, short, "below")
	notCA := issue(t, root, "not a CA", asLeaf)
	expired := issue(t, sub, "leaf", asLeaf, valid(begin, past))
	self := issue(t, nil, "alone", asLeaf)
	known := issue(t, nil, "known root")
	cross := issueFor(t, root.key, known, "root")
	odd := issue(t, sub, "odd", asLeaf, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	})

	for what, c := range map[string]struct {
		bundle    *certs.Bundle
		roots     *x509.CertPool
		untrusted string // in the fact; trusted if empty
	}{
		"good":                        {bundle(t, good, sub, root), pool(root), ""},
		"without its root":            {bundle(t, good, sub), pool(root), ""},
		"any purpose":                 {bundle(t, issue(t, sub, "leaf", asLeaf, usage(x509.ExtKeyUsageAny)), sub), pool(root), ""},
		"no purpose":                  {bundle(t, issue(t, sub, "leaf", asLeaf), sub), pool(root), ""},
		"trusted by what is in Extra": {bundle(t, good, sub, root, cross), pool(known), ""},
		"self-signed and trusted":     {bundle(t, self), pool(self), ""},
		"sub is a root here":          {bundle(t, good, sub), pool(sub), ""},
		"a client's":                  {bundle(t, issue(t, sub, "leaf", asLeaf, usage(x509.ExtKeyUsageClientAuth))), pool(root), ""},
		"a client's, expired":         {bundle(t, issue(t, sub, "leaf", asLeaf, usage(x509.ExtKeyUsageClientAuth), valid(begin, past))), pool(), ""},
		"purpose unknown to all":      {bundle(t, issue(t, sub, "leaf", asLeaf, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} })), pool(root), ""},
		"intermediate missing":        {bundle(t, good), pool(root), `the issuer "CN=sub" of "CN=leaf" is missing`},
		"missing, root in value":      {bundle(t, good, root), pool(root), `the issuer "CN=sub" of "CN=leaf" is missing`},
		"root not trusted":            {bundle(t, good, sub, root), pool(self), `ends at "CN=root", which is not among the trusted roots`},
		"self-signed":                 {bundle(t, self), pool(root), `"CN=alone" is self-signed and not among`},
		"root expired":                {bundle(t, issue(t, oldRoot, "leaf", asLeaf)), pool(oldRoot), `"CN=old root", which certifies "CN=leaf", expired on 2025-06-01T00:00:00Z`},
		"root expired, in value":      {bundle(t, issue(t, oldRoot, "leaf", asLeaf), oldRoot), pool(oldRoot), `"CN=old root", which certifies "CN=leaf", expired on`},
		"intermediate expired":        {bundle(t, issue(t, oldSub, "leaf", asLeaf), oldSub), pool(root), `"CN=old sub", which certifies "CN=leaf", expired on`},
		"CA for clients alone":        {bundle(t, issue(t, clients, "leaf", asLeaf), clients), pool(root), `a CA of "CN=leaf" may not certify servers`},
		"name constraints":            {bundle(t, issue(t, constrained, "leaf", asLeaf), constrained), pool(root), `may not certify its names: `},
		"too many below":              {bundle(t, issue(t, below, "leaf", asLeaf), below, short), pool(root), `"CN=short" has more CAs below it`},
		"issuer is no CA":             {bundle(t, issue(t, notCA, "leaf", asLeaf), notCA), pool(root), `leads to a trusted root and is refused: "CN=leaf" by "CN=not a CA": `},
		"leaf expired":                {bundle(t, expired, sub), pool(root), `the certificate "CN=leaf" itself expired on 2025-06-01T00:00:00Z; its chain is not at fault`},
		"leaf expired, no chain":      {bundle(t, expired), pool(root), `itself expired on 2025-06-01T00:00:00Z; besides, the issuer "CN=sub" of "CN=leaf" is missing`},
		"leaf not valid yet":          {bundle(t, issue(t, sub, "leaf", asLeaf, valid(soon, soon.AddDate(1, 0, 0))), sub), pool(root), `itself is not valid before 2027-06-01T00:00:00Z; its chain is not at fault`},
		"leaf odd and expired":        {bundle(t, issue(t, sub, "odd", asLeaf, valid(begin, past), func(c *x509.Certificate) { c.ExtraExtensions = odd.cert.Extensions[len(odd.cert.Extensions)-1:] }), sub), pool(root), `itself expired on`},
	} {
		t.Run(what, func(t *testing.T) {
			err := Verify(c.bundle, c.roots, today)
			if c.untrusted == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var untrusted *UntrustedError
			var unknown *UnknownError
			if !errors.As(err, &untrusted) || errors.As(err, &unknown) || untrusted.Hint == "" || !strings.Contains(untrusted.Fact, c.untrusted) {
				t.Errorf("%v, want %q", err, c.untrusted)
			}
			if untrusted != nil && untrusted.Missing != strings.HasPrefix(c.untrusted, "the issuer ") {
				t.Errorf("missing alone: %v", untrusted.Missing)
			}
		})
	}

	t.Run("critical extension that nobody here knows", func(t *testing.T) {
		err := Verify(bundle(t, odd, sub), pool(root), today)
		var untrusted *UntrustedError
		var unknown *UnknownError
		if !errors.As(err, &unknown) || errors.As(err, &untrusted) {
			t.Errorf("%v", err)
		}
	})
}

func TestSystemWithoutRootsIsAnUnknown(t *testing.T) {
	broken := errors.New("permission denied")
	for _, c := range []struct {
		roots *x509.CertPool
		err   error
	}{{nil, broken}, {x509.NewCertPool(), nil}} {
		_, err := usable(c.roots, c.err)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Hint == "" || !errors.Is(err, c.err) && c.err != nil {
			t.Errorf("%v", err)
		}
	}
	roots := pool(issue(t, nil, "root"))
	if got, err := usable(roots, nil); got != roots || err != nil {
		t.Errorf("%v", err)
	}
}

// Whatever roots this system has, or none: a CA of this test is not one of them.
func TestNilRootsAreTheSystems(t *testing.T) {
	root := issue(t, nil, "root", valid(time.Now().Add(-time.Hour), time.Now().Add(time.Hour)))
	err := Verify(bundle(t, issue(t, root, "leaf", asLeaf), root), nil, time.Time{})
	system, systemErr := x509.SystemCertPool()
	empty := systemErr != nil || system.Equal(x509.NewCertPool())
	var untrusted *UntrustedError
	var unknown *UnknownError
	if errors.As(err, &unknown) != empty || errors.As(err, &untrusted) == empty {
		t.Errorf("%v; no roots here: %v", err, empty)
	}
}
