package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	trustHint = "if a proxy or a private cloud has a CA of its own, name its file in kvfs.transport.caFile"
	wayHint   = "check kvfs.transport.connect"
)

// explainTransport explains an error that came instead of an answer, or returns nil if err is not of that sort.
func explainTransport(try context.Context, q question, a *attempt, err error) *Error {
	host := q.ref.Host()
	if try.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		deadline, _ := try.Deadline()
		waited := deadline.Sub(a.began).Round(time.Millisecond)
		if a.connected.Load() {
			return &Error{Kind: KindTimeout, Err: err, Fact: fmt.Sprintf("%s did not answer within %v", host, waited),
				Hint: "try again; if it lasts, check the network between this machine and the vault"}
		}
		return &Error{Kind: KindUnreachable, Err: err, Fact: fmt.Sprintf("cannot reach %s: no connection within %v", placeOf(host, q.way), waited),
			Hint: hintFor(q.way, "check that firewalls and routes let this machine reach "+host+" on TCP port "+portOf(q.ref))}
	}
	if errors.Is(err, errTooLarge) {
		e := senseless(q.ref, "the answer of %s is larger than 1 MiB", host)
		e.Err = err
		return e
	}
	cause, hint := causeOf(err, host)
	if cause == "" {
		return nil
	}
	return &Error{Kind: KindUnreachable, Err: err, Fact: fmt.Sprintf("cannot reach %s: %s", placeOf(host, q.way), cause), Hint: hintFor(q.way, hint)}
}

// placeOf says where host was looked for: the settings may lead to another place than its name does.
func placeOf(host, way string) string {
	if way == "" {
		return host
	}
	return fmt.Sprintf("%s at %s (kvfs.transport.connect)", host, folded(way))
}

// hintFor returns hint, unless it is about the network on the way to a name that the settings pass by.
func hintFor(way, hint string) string {
	if way == "" || hint == trustHint {
		return hint
	}
	return wayHint
}

// causeOf says in a few words why a connection failed, and what to do about it when the other end is a vault. It returns
// "" for errors that have nothing to do with connections.
func causeOf(err error, host string) (cause, hint string) {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		name        x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		op          *net.OpError
		errno       syscall.Errno
		request     *url.Error
	)
	network := "check that firewalls and routes let this machine reach " + host
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return "the proxy of the environment cannot be reached: " + folded(op.Err.Error()), "check HTTPS_PROXY, or exclude " + host + " in NO_PROXY"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "its name does not resolve", "check the vault's name, and the DNS zone of its private link if it has one"
	case errors.As(err, &dns):
		return "its name cannot be resolved: " + folded(dns.Err), "check the DNS servers of this machine"
	case errors.As(err, &name):
		return "its certificate is for another name: " + folded(name.Error()), "check that " + host + " leads to Azure Key Vault and not to another server"
	case errors.As(err, &certificate):
		return "its certificate is not trusted: " + folded(certificate.Err.Error()), trustHint
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record), errors.As(err, &alert):
		return "it does not speak TLS as expected: " + folded(innermost(err).Error()), "check that " + host + " leads to Azure Key Vault and not to another server"
	case errors.As(err, &errno):
		return errno.Error(), network
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed", network
	case errors.As(err, &op), errors.As(err, &request):
		return folded(innermost(err).Error()), network
	}
	return "", ""
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func portOf(ref Ref) string {
	if _, port, err := net.SplitHostPort(ref.Host()); err == nil {
		return port
	}
	return "443"
}

func hostnameOf(ref Ref) string {
	host, _, _ := strings.Cut(ref.Host(), ":")
	return host
}

// essence returns what callers may match of the cause of an error: that time ran out, that somebody gave up, or what the
// network or the system said. Errors of the SDK hold requests and answers, with tokens and secrets in them.
func essence(err error) error {
	var (
		dns   *net.DNSError
		op    *net.OpError
		errno syscall.Errno
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &op):
		return op
	case errors.As(err, &errno):
		return errno
	}
	return nil
}
