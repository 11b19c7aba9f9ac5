package chain

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"kvfs/certs"
)

func TestMissingIssuersAreFetchedUpToTheRootInEveryEncoding(t *testing.T) {
	stranger := issue(t, nil, "stranger")
	for what, encode := range map[string]func(*testing.T, *identity) []byte{
		"DER":                 func(_ *testing.T, id *identity) []byte { return id.cert.Raw },
		"DER and a line feed": func(_ *testing.T, id *identity) []byte { return append(slices.Clone(id.cert.Raw), "\r\n"...) },
		"PEM":                 func(_ *testing.T, id *identity) []byte { return inPEM("CERTIFICATE", id.cert.Raw) },
		"PEM of several": func(_ *testing.T, id *identity) []byte {
			return append(inPEM("CERTIFICATE", stranger.cert.Raw), inPEM("X509 CERTIFICATE", id.cert.Raw)...)
		},
		"PEM with a preface": func(_ *testing.T, id *identity) []byte {
			return append([]byte("0 s:CN = ca\n"), inPEM("CERTIFICATE", id.cert.Raw)...)
		},
		"PKCS#7":                func(t *testing.T, id *identity) []byte { return inPKCS7(t, id) },
		"PKCS#7 with a strange": func(t *testing.T, id *identity) []byte { return inPKCS7(t, stranger, id) },
		"PKCS#7 in BER":         func(t *testing.T, id *identity) []byte { return inBER(t, inPKCS7(t, id)) },
		"PKCS#7 in PEM":         func(t *testing.T, id *identity) []byte { return inPEM("PKCS7", inPKCS7(t, id)) },
		"PKCS#7 as certificate": func(t *testing.T, id *identity) []byte { return inPEM("CERTIFICATE", inPKCS7(t, id)) },
	} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			root := issue(t, nil, "root")
			ca2 := issue(t, root, "ca2", at(s.URL+"/root"))
			ca1 := issue(t, ca2, "ca1", at(s.URL+"/ca2"))
			leaf := issue(t, ca1, "leaf", asLeaf, at(s.URL+"/ca1"))
			s.gives("/root", encode(t, root))
			s.gives("/ca2", encode(t, ca2))
			s.gives("/ca1", encode(t, ca1))
			b := bundle(t, leaf)
			got, err := onLoopback().Complete(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			wantChain(t, got, leaf, ca1, ca2, root)
			wantChain(t, b, leaf)
			if !got.Complete() || len(got.Extra) != 0 || !got.HasKey() {
				t.Errorf("complete %v, %d extra, key %v", got.Complete(), len(got.Extra), got.HasKey())
			}
			s.wantRequests(t, 3)
		})
	}
}

func TestOneAnswerMayHoldTheWholeChain(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	ca2 := issue(t, root, "ca2") // names nothing
	ca1 := issue(t, ca2, "ca1", at(s.URL+"/never"))
	leaf := issue(t, ca1, "leaf", asLeaf, at(s.gives("/all", inPKCS7(t, root, ca1, ca2))))
	got, err := onLoopback().Complete(t.Context(), bundle(t, leaf))
	if err != nil {
		t.Fatal(err)
	}
	wantChain(t, got, leaf, ca1, ca2, root)
	s.wantRequests(t, 1)
}

func TestFetchedIssuerJoinsWhatTheValueHas(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	ca2 := issue(t, root, "ca2")
	ca1 := issue(t, ca2, "ca1", at(s.URL+"/never"))
	leaf := issue(t, ca1, "leaf", asLeaf, at(s.gives("/ca1", ca1.cert.Raw)))
	got, err := onLoopback().Complete(t.Context(), bundle(t, leaf, root, ca2))
	if err != nil {
		t.Fatal(err)
	}
	wantChain(t, got, leaf, ca1, ca2, root)
	s.wantRequests(t, 1)
}

func TestBundleThatLacksNothingOrNamesNothingIsReturnedAsItIs(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	named := issue(t, root, "leaf", asLeaf, at(s.URL+"/root"))
	silent := issue(t, root, "leaf", asLeaf)
	alone := issue(t, nil, "self-signed", asLeaf, at(s.URL+"/root"))
	for what, b := range map[string]*certs.Bundle{
		"complete": bundle(t, named, root), "no address": bundle(t, silent), "self-signed": bundle(t, alone),
	} {
		if got, err := onLoopback().Complete(t.Context(), b); got != b || err != nil {
			t.Errorf("%s: another bundle: %v, %v", what, got != b, err)
		}
	}
	s.wantRequests(t, 0)
}

func TestAnswersThatAreNoIssuerAreRefusedWithTheirReason(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	stranger := issue(t, nil, "stranger")
	impostor := issue(t, nil, "root") // of the same name
	s.gives("/root", root.cert.Raw)
	crowd := make([]*identity, maxCertificates+1)
	for i := range crowd {
		crowd[i] = root
	}
	huge := bytes.Repeat(inPEM("CERTIFICATE", root.cert.Raw), 1+maxAnswer/len(root.cert.Raw))
	third := s.redirects("/3", s.URL+"/root")
	second := s.redirects("/2", third)
	for what, c := range map[string]struct{ url, want string }{
		"not found":    {s.URL + "/404", "the answer is HTTP 404"},
		"HTML":         {s.gives("/html", []byte("<!DOCTYPE html><p>It works!")), errNotCertificates.Error()},
		"empty":        {s.gives("/empty", nil), errNotCertificates.Error()},
		"a key":        {s.gives("/key", inPEM("PRIVATE KEY", []byte("0"))), errNotCertificates.Error()},
		"a cut":        {s.gives("/cut", root.cert.Raw[:200]), errNotCertificates.Error()},
		"more behind":  {s.gives("/behind", append(slices.Clone(root.cert.Raw), "more"...)), errNotCertificates.Error()},
		"empty PKCS#7": {s.gives("/none", inPKCS7(t)), errNotCertificates.Error()},
		"a crowd":      {s.gives("/crowd", inPKCS7(t, crowd...)), "33 certificates, more than 32"},
		"huge":         {s.gives("/huge", huge), errTooLarge.Error()},
		"a stranger":   {s.gives("/stranger", stranger.cert.Raw), errStranger.Error()},
		"an impostor":  {s.gives("/impostor", impostor.cert.Raw), errStranger.Error()},
		"a loop":       {s.redirects("/loop", s.URL+"/loop"), errRedirects.Error()},
		"3 redirects":  {s.redirects("/1", second), errRedirects.Error()},
		"an odd redirect": {s.on("/odd", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{"http://[" + strings.Repeat("\x7f", 4000)}
			w.WriteHeader(http.StatusFound)
		}), "Location"},
		"endless": {s.on("/endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write(make([]byte, 1024))
			}
		}), errTooLarge.Error()},
		"to ftp":           {s.redirects("/ftp", "ftp://example.com/ca.crt"), `only http and https are asked, not "ftp"`},
		"to credentials":   {s.redirects("/user", "http://a:b@example.com/ca.crt"), "holds credentials"},
		"ldap":             {"ldap:///CN=ca,DC=example?cACertificate", `not "ldap"`},
		"a file":           {"file:///etc/passwd", `not "file"`},
		"credentials":      {"http://a:b@example.com/ca.crt", "holds credentials"},
		"no host":          {"http:///ca.crt", "names no host"},
		"no URL":           {"http://[::1", "missing ']'"},
		"a very long URL":  {s.URL + "/" + strings.Repeat("a", maxURL), errLongURL.Error()},
		"nobody listening": {"http://127.0.0.1:1/ca.crt", "connection refused"},
	} {
		t.Run(what, func(t *testing.T) {
			b := bundle(t, issue(t, root, "leaf", asLeaf, at(c.url)))
			got, err := onLoopback().Complete(t.Context(), b)
			var missing *FetchError
			if !errors.As(err, &missing) || len(missing.Tried) != 1 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if got != b {
				t.Error("another bundle")
			}
			if missing != nil && missing.Unreached != (what == "nobody listening") {
				t.Errorf("unreached: %v", missing.Unreached)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) || len(err.Error()) > 1000 {
				t.Errorf("not one line: %q", err)
			}
		})
	}
}

func TestTwoAddressesThatCanBeAskedAreAsked(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	good := s.gives("/root", root.cert.Raw)
	leaf := issue(t, root, "leaf", asLeaf, at("ldap:///a", "ldap:///b", s.URL+"/404", good))
	got, err := onLoopback().Complete(t.Context(), bundle(t, leaf))
	if err != nil {
		t.Fatal(err)
	}
	wantChain(t, got, leaf, root)

	late := issue(t, root, "leaf", asLeaf, at(s.URL+"/401", s.URL+"/402", good))
	if got, err := onLoopback().Complete(t.Context(), bundle(t, late)); err == nil || got.Complete() {
		t.Error("a third address was asked")
	}
	s.wantRequests(t, 4)
}

func TestChainGoesAsFarAsItCanBeFetched(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	ca := issue(t, root, "ca", at(s.URL+"/404"))
	leaf := issue(t, ca, "leaf", asLeaf, at(s.gives("/ca", ca.cert.Raw)))
	got, err := onLoopback().Complete(t.Context(), bundle(t, leaf))
	var missing *FetchError
	if !errors.As(err, &missing) || !strings.HasPrefix(missing.Fact, `the issuer "CN=root" of "CN=ca"`) {
		t.Errorf("%v", err)
	}
	wantChain(t, got, leaf, ca)
}

func TestAtMostFourCertificatesAreFetched(t *testing.T) {
	s := newSite(t)
	var all []*identity
	var issuer *identity
	for i := range 6 {
		id := issue(t, issuer, fmt.Sprintf("ca%d", i), at(fmt.Sprintf("%s/%d", s.URL, i-1)))
		s.gives(fmt.Sprintf("/%d", i), id.cert.Raw)
		all, issuer = append(all, id), id
	}
	all = append(all, issue(t, issuer, "leaf", asLeaf, at(s.URL+"/5")))
	slices.Reverse(all)
	got, err := onLoopback().Complete(t.Context(), bundle(t, all[0]))
	if err == nil || !strings.Contains(err.Error(), "does not end after 4") {
		t.Errorf("%v", err)
	}
	wantChain(t, got, all[:5]...)
	s.wantRequests(t, 4)

	// Those of the value do not count, and four are not one too many.
	if got, err = onLoopback().Complete(t.Context(), bundle(t, all[0], all[1:3]...)); err != nil {
		t.Errorf("%v", err)
	}
	wantChain(t, got, all...)
}

func TestCAsThatSignEachOtherEnd(t *testing.T) {
	s := newSite(t)
	keyA, keyB := newKey(t), newKey(t)
	a, b := issueFor(t, keyA, nil, "a"), issueFor(t, keyB, nil, "b")
	aByB := issueFor(t, keyA, b, "a", at(s.URL+"/b"))
	bByA := issueFor(t, keyB, a, "b", at(s.URL+"/a"))
	s.gives("/a", aByB.cert.Raw)
	s.gives("/b", bByA.cert.Raw)
	leaf := issue(t, a, "leaf", asLeaf, at(s.URL+"/a"))
	got, err := onLoopback().Complete(t.Context(), bundle(t, leaf))
	if err == nil || !strings.Contains(err.Error(), "does not continue the chain") {
		t.Errorf("%v", err)
	}
	wantChain(t, got, leaf, aByB, bByA)
	s.wantRequests(t, 2)
}

func TestRedirectsAreFollowedTwiceAndRequestsSayNothingOfUs(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	last := s.gives("/root", root.cert.Raw)
	s.on("/2", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b", Path: "/"})
		http.Redirect(w, r, last, http.StatusMovedPermanently)
	})
	first := s.redirects("/1", s.URL+"/2?q")
	f := onLoopback()
	for _, fragment := range []string{"", "#fragment"} {
		leaf := issue(t, root, "leaf", asLeaf, at(first+fragment))
		got, err := f.Complete(t.Context(), bundle(t, leaf))
		if err != nil {
			t.Fatal(err)
		}
		wantChain(t, got, leaf, root)
	}
	s.wantRequests(t, 3) // a fragment is not sent: it is the same address
	for _, r := range s.requests() {
		r.Header.Del("Connection")
		if len(r.Header) != 0 {
			t.Errorf("%s has %v", r.URL, r.Header)
		}
	}
}

func TestClientOfTheCallerIsUsedUnderOurRules(t *testing.T) {
	root := issue(t, nil, "root")
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(root.cert.Raw) }))
	defer secure.Close()
	s := newSite(t)
	leaf := issue(t, root, "leaf", asLeaf, at(s.redirects("/upgrade", secure.URL)))
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	here, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(here, []*http.Cookie{{Name: "session", Value: "ours"}})
	client := secure.Client()
	client.Jar = jar
	f := &Fetcher{Client: client}
	got, err := f.Complete(t.Context(), bundle(t, leaf))
	if err != nil {
		t.Fatal(err)
	}
	wantChain(t, got, leaf, root)

	loop := issue(t, root, "leaf", asLeaf, at(s.redirects("/loop", s.URL+"/loop")))
	if _, err := f.Complete(t.Context(), bundle(t, loop)); !errors.Is(err, errRedirects) {
		t.Errorf("%v", err)
	}
	for _, r := range s.requests() {
		if r.Header.Get("Cookie") != "" || r.Header.Get("User-Agent") != "" {
			t.Errorf("%s has %v", r.URL, r.Header)
		}
	}
	if client.CheckRedirect != nil || client.Jar == nil {
		t.Error("the caller's client was changed")
	}
}

func TestUnknownServerOfHTTPSIsNotAsked(t *testing.T) {
	root := issue(t, nil, "root")
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(root.cert.Raw) }))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the refusal
	secure.StartTLS()
	defer secure.Close()
	leaf := issue(t, root, "leaf", asLeaf, at(secure.URL))
	_, err := onLoopback().Complete(t.Context(), bundle(t, leaf))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("%v", err)
	}
}

func TestEndOfTheCallersContextIsNotRemembered(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	started := make(chan struct{})
	address := s.on("/root", func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
	})
	b := bundle(t, issue(t, root, "leaf", asLeaf, at(address)))
	f := onLoopback()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	if got, err := f.Complete(ctx, b); !errors.Is(err, context.Canceled) || got != b {
		t.Errorf("%v", err)
	}
	s.gives("/root", root.cert.Raw)
	if got, err := f.Complete(t.Context(), b); err != nil || !got.Complete() {
		t.Errorf("%v", err)
	}
}

// forge returns a key of at least so many bits and a signature of text that fits it: the
// cube of some s is the padded hash modulo N if N is the difference of the two.
func forge(text []byte, bits int) (*rsa.PublicKey, []byte) {
	sum := sha256.Sum256(text)
	size := (bits + 7) / 8
	info := []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20") // SHA-256, RFC 8017 section 9.2
	padding := bytes.Repeat([]byte{0xff}, size-3-len(info)-len(sum))
	padded := new(big.Int).SetBytes(slices.Concat([]byte{0, 1}, padding, []byte{0}, info, sum[:]))
	for s := new(big.Int).Lsh(big.NewInt(1), uint(8*size/3)); ; s.Sub(s, big.NewInt(1)) {
		n := new(big.Int).Exp(s, big.NewInt(3), nil)
		if n.Sub(n, padded); n.Bit(0) == 1 && (n.BitLen()+7)/8 == size {
			return &rsa.PublicKey{N: n, E: 3}, s.FillBytes(make([]byte, size))
		}
	}
}

// Whoever owns the address chooses the key, and 64 KiB have room for half a megabit.
func TestSignaturesOfHugeKeysAreNotChecked(t *testing.T) {
	text := []byte("to be signed")
	for bits, want := range map[int]int{2048: 1, maxRSABits: 1, maxRSABits + 8: 0} {
		key, signature := forge(text, bits)
		sum := sha256.Sum256(text)
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature); err != nil {
			t.Fatalf("%d bits: %v", bits, err)
		}
		child := &x509.Certificate{SignatureAlgorithm: x509.SHA256WithRSA, RawTBSCertificate: text, Signature: signature}
		issuer := &x509.Certificate{PublicKeyAlgorithm: x509.RSA, PublicKey: key}
		if n := len(signersOf(child, []*x509.Certificate{issuer})); n != want {
			t.Errorf("%d bits: %d issuers", bits, n)
		}
	}
}
