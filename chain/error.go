package chain

import (
	"crypto/x509"
	"strings"

	"kvfs/certs"
)

// FetchError says why a chain could not be completed. Complete returns no other type.
// The causes, in Tried, can be reached with errors.Is and errors.As: those of a context
// that ended are among them.
type FetchError struct {
	Fact  string  // what is missing: lower case, no full stop, names as of certs.Printable
	Hint  string  // one step a person can take
	Tried []error // one for each address, in order; may be empty
	// Unreached is set if the reason is that the network, or who is asked, did not
	// answer, and not an address that may not be asked or an answer of no use.
	Unreached bool
}

// Error returns the fact and what was tried, in one line.
func (e *FetchError) Error() string {
	if len(e.Tried) == 0 {
		return e.Fact
	}
	tried := make([]string, len(e.Tried))
	for i, err := range e.Tried {
		tried[i] = err.Error()
	}
	return e.Fact + ": " + strings.Join(tried, "; ")
}

// Unwrap returns the causes.
func (e *FetchError) Unwrap() []error { return e.Tried }

// UntrustedError says why clients that know only the roots will refuse a certificate.
type UntrustedError struct {
	Fact string // lower case, no full stop, names as of certs.Printable
	Hint string // one step a person can take
	Err  error  // what crypto/x509 says, or nil if only the dates of the leaf are at fault
	// Missing is set if the only fault is an issuer that is neither in the chain nor
	// among the roots.
	Missing bool
}

// Error returns the fact.
func (e *UntrustedError) Error() string { return e.Fact }

// Unwrap returns the cause.
func (e *UntrustedError) Unwrap() error { return e.Err }

// UnknownError says why Verify could not tell whether a chain is trusted.
type UnknownError struct {
	Fact string // lower case, no full stop, names as of certs.Printable
	Hint string // one step a person can take
	Err  error  // the cause, or nil
}

// Error returns the fact and, if there is one, the cause.
func (e *UnknownError) Error() string {
	if e.Err == nil {
		return e.Fact
	}
	return e.Fact + ": " + certs.Printable(e.Err.Error())
}

// Unwrap returns the cause.
func (e *UnknownError) Unwrap() error { return e.Err }

// name is how a person knows a certificate: by its subject, or else by its first name.
func name(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return quoted(s)
	}
	if len(c.DNSNames) > 0 {
		return quoted(c.DNSNames[0])
	}
	return "a certificate without a name"
}

// quoted is foreign text inside of a sentence.
func quoted(s string) string { return `"` + certs.Printable(s) + `"` }
