package chain

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"kvfs/certs"
)

// Verify judges whether clients that know the roots will trust the bundle's chain now.
// It is about certificates of servers: of a leaf that is for other purposes alone it
// says nothing and returns nil. It checks dates, signatures, constraints and purposes,
// and neither host names nor revocation.
//
// nil roots are those of the system, and a zero now is the present.
//
// The error is an *UntrustedError if the chain is not trusted, and an *UnknownError if
// that cannot be told; see the package documentation. A leaf that is out of date is
// not trusted; the fact then says whether its chain is at fault too.
func Verify(b *certs.Bundle, roots *x509.CertPool, now time.Time) error {
	if !forServers(b.Leaf) {
		return nil
	}
	if roots == nil {
		var err error
		if roots, err = usable(x509.SystemCertPool()); err != nil {
			return err
		}
	}
	if now.IsZero() {
		now = time.Now()
	}
	t := trial{b, roots, now}
	if dates := outOfDate(b.Leaf, now); dates != "" {
		return t.outdated(dates)
	}
	return t.verdict()
}

// forServers reports whether a certificate may be a server's. One that lists no purpose
// may be anything (RFC 5280 section 4.2.1.12).
func forServers(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// usable refuses roots that would refuse everything: crypto/x509 finds no fault in a
// system without any.
func usable(roots *x509.CertPool, err error) (*x509.CertPool, error) {
	if err != nil || roots.Equal(x509.NewCertPool()) {
		return nil, &UnknownError{Fact: "the trusted roots of this system cannot be read, or there are none",
			Hint: "install the package ca-certificates, or name the roots in SSL_CERT_FILE", Err: err}
	}
	return roots, nil
}

// outOfDate says when c expired or begins; it is empty if c is valid.
func outOfDate(c *x509.Certificate, now time.Time) string {
	switch {
	case now.After(c.NotAfter):
		return "expired on " + c.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	}
	return ""
}

// trial is one chain before the roots at a point in time.
type trial struct {
	bundle *certs.Bundle
	roots  *x509.CertPool
	now    time.Time
}

// outdated tells of a leaf that is out of date, and of its chain when it was valid.
func (t trial) outdated(dates string) error {
	leaf := t.bundle.Leaf
	inside := t
	if inside.now = leaf.NotAfter; t.now.Before(leaf.NotBefore) {
		inside.now = leaf.NotBefore
	}
	e := &UntrustedError{Fact: fmt.Sprintf("the certificate %s itself %s", name(leaf), dates),
		Hint: "renew the certificate; if the date is right, check this machine's clock"}
	var untrusted *UntrustedError
	switch err := inside.verdict(); {
	case err == nil:
		e.Fact += "; its chain is not at fault"
	case errors.As(err, &untrusted):
		e.Fact, e.Err = e.Fact+"; besides, "+untrusted.Fact, untrusted.Err
	}
	return e
}

// verdict judges the leaf with all that is served with it.
func (t trial) verdict() error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	err := t.leads(t.bundle.Leaf, x509.ExtKeyUsageServerAuth)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return t.invalid(invalid)
	case errors.As(err, &unknown):
		return t.unknown(unknown)
	}
	return &UnknownError{Fact: fmt.Sprintf("whether %s is trusted cannot be told", name(t.bundle.Leaf)),
		Hint: "ask `openssl verify`, which knows more extensions", Err: err}
}

// leads reports whether c leads to a root with what the bundle has.
func (t trial) leads(c *x509.Certificate, usage x509.ExtKeyUsage) error {
	served := x509.NewCertPool()
	for _, c := range slices.Concat(t.bundle.Chain[1:], t.bundle.Extra) {
		served.AddCert(c)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: served, CurrentTime: t.now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// invalid tells of a chain to a root that breaks a rule.
func (t trial) invalid(err x509.CertificateInvalidError) error {
	leaf, at := name(t.bundle.Leaf), name(err.Cert)
	e := &UntrustedError{Err: err, Hint: "let a CA issue the certificate that may, and upload it with its chain"}
	switch err.Reason {
	case x509.Expired:
		e.Fact = fmt.Sprintf("%s, which certifies %s, %s", at, leaf, outOfDate(err.Cert, t.now))
		e.Hint = "upload the certificate with the CA's present chain; update the system's roots if it is one of them"
	case x509.CANotAuthorizedForThisName:
		e.Fact = fmt.Sprintf("a CA of %s may not certify its names: %s", leaf, certs.Printable(err.Detail))
	case x509.IncompatibleUsage:
		e.Fact = fmt.Sprintf("a CA of %s may not certify servers", leaf)
	case x509.NotAuthorizedToSign:
		e.Fact = fmt.Sprintf("%s certifies others and is not marked as a CA", at)
	case x509.TooManyIntermediates:
		e.Fact = fmt.Sprintf("%s has more CAs below it than it may have", at)
	default:
		e.Fact = fmt.Sprintf("the chain of %s is not valid: %s", leaf, certs.Printable(err.Error()))
	}
	return e
}

// unknown tells of a chain that leads to no root.
func (t trial) unknown(err x509.UnknownAuthorityError) error {
	chain := t.bundle.Chain
	last := chain[len(chain)-1]
	e := &UntrustedError{Err: err, Hint: "install this root on the clients and here (update-ca-certificates), or take a certificate of a public CA"}
	switch {
	case t.leads(last, x509.ExtKeyUsageAny) == nil: // the end is fine: the fault is between
		e.Fact = fmt.Sprintf("the chain of %s leads to a trusted root and is refused: %s", name(t.bundle.Leaf), weakness(chain, err))
		e.Hint = "let the CA issue the certificate again, with a signature and a chain of today"
	case !t.bundle.Complete():
		e.Missing = true
		e.Fact = fmt.Sprintf("the issuer %s of %s is missing", quoted(last.Issuer.String()), name(last))
		e.Hint = "upload the certificate with its whole chain, or let missing issuers be fetched"
	case len(chain) == 1:
		e.Fact = fmt.Sprintf("%s is self-signed and not among the trusted roots", name(last))
	default:
		e.Fact = fmt.Sprintf("the chain of %s ends at %s, which is not among the trusted roots", name(t.bundle.Leaf), name(last))
	}
	return e
}

// weakness says where the chain breaks; otherwise it says what crypto/x509 does, which
// may be about another way up.
func weakness(chain []*x509.Certificate, otherwise error) string {
	for i, parent := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(parent); err != nil {
			return fmt.Sprintf("%s by %s: %s", name(chain[i]), name(parent), certs.Printable(err.Error()))
		}
	}
	return certs.Printable(otherwise.Error())
}
