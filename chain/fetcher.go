package chain

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"kvfs/certs"
)

const (
	maxRounds  = 4                // certificates that are asked for, per chain
	maxURLs    = 2                // requests per certificate
	maxTotal   = 10 * time.Second // for a whole chain
	maxRequest = 5 * time.Second  // for one request with its redirects

	// maxRSABits bounds the keys that a signature is checked with, as certs does.
	maxRSABits = 16384
)

var errStranger = errors.New("what it gives has not signed this certificate")

// Fetcher fetches the issuers that a bundle lacks, and remembers them: an address is
// asked once a day, one that failed once in 10 minutes, and no address twice at a time.
//
// The zero value is ready. A Fetcher must not be copied, and may be used by several
// goroutines; its fields are not changed after the first use.
type Fetcher struct {
	// Client asks. nil is a client of the Fetcher's own, which never uses a proxy and
	// never dials an address that only this machine may reach (loopback, link-local and
	// what clouds serve metadata at).
	//
	// With another client that is for its Transport to see to. Its cookies and its rule
	// on redirects are not used; the limits hold all the same.
	Client *http.Client

	// Logger is told of each request, at the debug level. nil is silence.
	Logger *slog.Logger

	admit func(netip.Addr) error // for tests; nil is admissible

	once    sync.Once
	client  *http.Client // as asking made it
	flights singleflight.Group
	answers answers
}

// Complete returns the bundle with the issuers it lacks, up to a root: b itself if it
// lacks none or names no address of one.
//
// The bundle that is returned is never nil and can be served, also with an error: it is
// then as complete as could be had. The error is a *FetchError. Complete takes 10 seconds
// at most, and less if ctx ends; one that waits for the same address as another call
// may wait for the end of that request.
func (f *Fetcher) Complete(ctx context.Context, b *certs.Bundle) (*certs.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTotal)
	defer cancel()
	climb := climb{fetcher: f}
	best := b
	for round := 0; !best.Complete(); round++ {
		last := best.Chain[len(best.Chain)-1]
		issuers, err := climb.issuersOf(ctx, last, round)
		if len(issuers) == 0 {
			return best, err
		}
		next := b.WithIssuers(issuers)
		if len(next.Chain) <= len(best.Chain) {
			return best, missing(last, "what certified it does not continue the chain")
		}
		best = next
	}
	return best, nil
}

// climb is the way up of one chain.
type climb struct {
	fetcher *Fetcher
	known   []*x509.Certificate // all that was fetched, strangers too
	issuers []*x509.Certificate // those of known that have signed the end of a chain
}

// issuersOf returns the issuers found so far, with those of last. Without an error
// there are none if last names no address. What came with an earlier answer is not
// asked for again, but counts as a round.
func (c *climb) issuersOf(ctx context.Context, last *x509.Certificate, round int) ([]*x509.Certificate, error) {
	found := signersOf(last, c.known)
	if len(found) == 0 && len(last.IssuingCertificateURL) == 0 {
		return nil, nil
	}
	if round == maxRounds {
		return nil, missing(last, fmt.Sprintf("the chain does not end after %d fetched certificates", maxRounds))
	}
	if len(found) == 0 {
		var err error
		if found, err = c.ask(ctx, last); err != nil {
			return nil, err
		}
	}
	c.issuers = append(c.issuers, found...)
	return c.issuers, nil
}

// ask asks the addresses that child names until one gives an issuer.
func (c *climb) ask(ctx context.Context, child *x509.Certificate) ([]*x509.Certificate, error) {
	urls, failed := addresses(child.IssuingCertificateURL)
	for _, u := range urls {
		answer, err := c.fetcher.get(ctx, u)
		c.known = append(c.known, answer...)
		found := signersOf(child, answer)
		if len(found) > 0 {
			return found, nil
		}
		if err == nil {
			err = errStranger
		}
		failed = append(failed, fmt.Errorf("%s: %w", certs.Printable(u.String()), err))
	}
	return nil, missing(child, "could not be fetched", failed...)
}

func missing(child *x509.Certificate, why string, tried ...error) *FetchError {
	return &FetchError{
		Fact:      fmt.Sprintf("the issuer %s of %s: %s", quoted(child.Issuer.String()), name(child), why),
		Hint:      "upload the certificate to the vault with its whole chain, or let this machine reach the address",
		Tried:     tried,
		Unreached: len(tried) > 0 && !slices.ContainsFunc(tried, func(err error) bool { return !unreached(err) }),
	}
}

// unreached tells whether an address was not answered for the want of a network. One
// that must not be asked is no such case: who wrote the certificate chose it.
func unreached(err error) bool {
	var refused *refusedAddress
	var op *net.OpError
	var dns *net.DNSError
	if errors.As(err, &refused) {
		return false
	}
	return errors.As(err, &op) || errors.As(err, &dns) || errors.Is(err, context.DeadlineExceeded)
}

// signersOf returns the candidates that have signed child. Names are not compared:
// certs does that when it builds the chain.
func signersOf(child *x509.Certificate, candidates []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(candidates), func(c *x509.Certificate) bool {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return true // checking would take seconds
		}
		return c.PublicKey == nil || c.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) != nil
	})
}
