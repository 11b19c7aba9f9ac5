package vault

import (
	"fmt"
	"time"
)

// Kind sorts errors by what can be done about them.
type Kind string

// The kinds of errors.
const (
	KindUnreachable      Kind = "unreachable"       // no connection: DNS, dialing, proxy, TLS, or it broke
	KindTimeout          Kind = "timeout"           // connected, but the try did not end in time, or the caller gave up
	KindIdentity         Kind = "identity"          // no token from the identity endpoint, the login server or the Azure CLI
	KindUnauthorized     Kind = "unauthorized"      // the vault rejected the token
	KindForbidden        Kind = "forbidden"         // role assignment or access policy missing, or not yet propagated
	KindForbiddenNetwork Kind = "forbidden-network" // the vault's firewall or private link
	KindDisabled         Kind = "disabled"          // the version that would be served is disabled
	KindNotFound         Kind = "not-found"         // no such secret or version, or deleted
	KindThrottled        Kind = "throttled"         // too many requests
	KindServer           Kind = "server"            // the service failed, 5xx
	KindProtocol         Kind = "protocol"          // an answer that makes no sense
)

// Error is why a secret could not be read. Fact and Hint are for a person: lower case, one line, nothing secret.
type Error struct {
	Kind       Kind
	Status     int           // of the vault's answer, x; 0 if none came
	Code       string        // the service's error code, such as "Forbidden"
	Inner      string        // its inner code, such as "ForbiddenByRbac", or "AADSTS7000222" of a login server
	Message    string        // its message, folded to one line
	RequestID  string        // its correlation id, for a support request
	RetryAfter time.Duration // how long the service asks to wait, at most a day; 0 if it does not say
	Fact, Hint string
	Err        error // the cause, for errors.Is and errors.As; may be nil
}

// Error returns the fact.
func (e *Error) Error() string { return e.Fact }

// Unwrap returns the cause, so that errors.Is(err, context.Canceled) works when the caller gave up.
func (e *Error) Unwrap() error { return e.Err }

// senseless reports an answer that cannot be used.
func senseless(ref Ref, format string, args ...any) *Error {
	return &Error{Kind: KindProtocol, Fact: fmt.Sprintf(format, args...),
		Hint: "check that " + ref.Host() + " leads to Azure Key Vault and not to a proxy or another server"}
}

// secretOf names the secret of ref for a message.
func secretOf(ref Ref) string {
	if ref.Pinned() {
		return fmt.Sprintf("version %s of secret %q in %s", ref.Version(), ref.Name(), ref.Vault())
	}
	return fmt.Sprintf("secret %q in %s", ref.Name(), ref.Vault())
}
