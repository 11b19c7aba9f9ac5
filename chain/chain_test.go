package chain

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"kvfs/certs"
)

// today is when the test certificates are valid; they are so for ten years.
var today = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

type change func(*x509.Certificate)

// at names the addresses at which the issuer is found.
func at(urls ...string) change {
	return func(c *x509.Certificate) { c.IssuingCertificateURL = urls }
}

func asLeaf(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, x509.KeyUsageDigitalSignature
	c.DNSNames = []string{"www.example.com"}
}

func usage(u ...x509.ExtKeyUsage) change {
	return func(c *x509.Certificate) { c.ExtKeyUsage = u }
}

func valid(from, to time.Time) change {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue certifies a CA, or what the changes make of it; a nil issuer makes a root.
func issue(t testing.TB, issuer *identity, cn string, changes ...change) *identity {
	t.Helper()
	return issueFor(t, newKey(t), issuer, cn, changes...)
}

func issueFor(t testing.TB, key *ecdsa.PrivateKey, issuer *identity, cn string, changes ...change) *identity {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: today.AddDate(-5, 0, 0), NotAfter: today.AddDate(5, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	for _, c := range changes {
		c(template)
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{cert, key}
}

// bundle is what certs makes of a leaf, its key and others.
func bundle(t *testing.T, leaf *identity, others ...*identity) *certs.Bundle {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(leaf.key)
	if err != nil {
		t.Fatal(err)
	}
	value := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, id := range append([]*identity{leaf}, others...) {
		value = append(value, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.cert.Raw})...)
	}
	b, err := certs.Parse("application/x-pem-file", value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantChain(t *testing.T, b *certs.Bundle, want ...*identity) {
	t.Helper()
	if !slices.EqualFunc(b.Chain, want, func(c *x509.Certificate, id *identity) bool { return c.Equal(id.cert) }) {
		var got []string
		for _, c := range b.Chain {
			got = append(got, c.Subject.CommonName)
		}
		t.Errorf("the chain is %q, %d certificates wanted", got, len(want))
	}
}

// site is a real HTTP server on loopback whose answers are set after it started, since
// certificates name its address.
type site struct {
	URL string

	mu      sync.Mutex
	answers map[string]http.HandlerFunc
	asked   []*http.Request
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{answers: make(map[string]http.HandlerFunc)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	answer := s.answers[r.URL.Path]
	s.mu.Unlock()
	if answer == nil {
		http.NotFound(w, r)
		return
	}
	answer(w, r)
}

// on sets an answer and returns its address.
func (s *site) on(path string, answer http.HandlerFunc) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
	return s.URL + path
}

func (s *site) gives(path string, body []byte) string {
	return s.on(path, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
}

func (s *site) redirects(path, to string) string {
	return s.on(path, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
}

func (s *site) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *site) wantRequests(t *testing.T, n int) {
	t.Helper()
	var paths []string
	for _, r := range s.requests() {
		paths = append(paths, r.URL.Path)
	}
	if len(paths) != n {
		t.Errorf("%d requests wanted, there were %q", n, paths)
	}
}

// onLoopback is a Fetcher that may ask the servers of a test.
func onLoopback() *Fetcher {
	return &Fetcher{admit: func(netip.Addr) error { return nil }}
}
