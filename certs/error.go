package certs

import "fmt"

// Kind says in one word why a value is no bundle. It is part of the output of
// `kvfs inspect --json`, so words are never changed.
type Kind string

// The kinds of an [Error].
const (
	Corrupt         Kind = "corrupt"           // it began as a bundle and is damaged
	Password        Kind = "password"          // it has a password other than the empty one
	NoCertificate   Kind = "no-certificate"    // it is readable and has no certificate
	NoPrivateKey    Kind = "no-private-key"    // certificates, and no key
	KeyMismatch     Kind = "key-mismatch"      // keys and certificates, and no two that belong together
	NotACertificate Kind = "not-a-certificate" // something else altogether, such as a connection string
	Unsupported     Kind = "unsupported"       // well-formed, but kvfs cannot or will not read it
)

// Error says why a value is no bundle. Parse and DecodeInput return no other type.
type Error struct {
	Kind Kind
	Fact string // what was found: lower case, no full stop, nothing secret, names as of Printable
	Hint string // one step a person can take; may be empty
	Err  error  // the cause, or nil

	// Partial is, with NoPrivateKey, what can be served all the same: a leaf and its
	// chain, without a key. It is nil with every other kind, and when no certificate is
	// the leaf: see [Parse].
	Partial *Bundle
}

// Error returns the fact and, if there is one, the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Fact
	}
	return e.Fact + ": " + Printable(e.Err.Error()) // decoders quote what they refuse, at any length
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func corrupt(err error, format string, args ...any) *Error {
	return &Error{Kind: Corrupt, Fact: fmt.Sprintf(format, args...), Err: err,
		Hint: "upload the certificate to the vault again; the value is damaged or incomplete"}
}

func unsupported(hint, format string, args ...any) *Error {
	return &Error{Kind: Unsupported, Fact: fmt.Sprintf(format, args...), Hint: hint}
}
