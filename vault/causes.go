package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// explainTransport explains an error that came instead of an answer, or returns nil if err is not of that sort.
func explainTransport(try context.Context, q question, a *attempt, err error) *Error {
	host := q.ref.Host()
	if try.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		deadline, _ := try.Deadline()
		waited := deadline.Sub(a.began).Round(time.Millisecond)
		if !a.connected.Load() {
			return &Error{Kind: KindUnreachable, Err: err, Fact: fmt.Sprintf("cannot reach %s: no connection within %v", host, waited),
				Hint: "check that firewalls and routes let this machine reach " + host + " on TCP port " + portOf(q.ref)}
		}
		return &Error{Kind: KindTimeout, Err: err, Fact: fmt.Sprintf("%s did not answer within %v", host, waited),
			Hint: "try again; if it lasts, check the network between this machine and the vault"}
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
	return &Error{Kind: KindUnreachable, Err: err, Fact: fmt.Sprintf("cannot reach %s: %s", host, cause), Hint: hint}
}

// causeOf says in a few words why a connection failed, and what to do about it when the other end is a vault. It returns
// "" for errors that have nothing to do with connections.
func causeOf(err error, host string) (cause, hint string) {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		op          *net.OpError
		errno       syscall.Errno
		request     *url.Error
	)
	network := "check that firewalls and routes let this machine reach " + host
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return "the proxy of the environment cannot be reached: " + folded(op.Err.Error()), "check HTTPS_PROXY, or exclude the vault in NO_PROXY"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "its name does not resolve", "check the vault's name, and the DNS zone of its private link if it has one"
	case errors.As(err, &dns):
		return "its name cannot be resolved: " + folded(dns.Err), "check the DNS servers of this machine"
	case errors.As(err, &certificate):
		return "its certificate is not trusted: " + folded(certificate.Err.Error()), "if a proxy or a private cloud has a CA of its own, name its file in kvfs.transport.caFile"
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

// explainIdentity says why there is no token. answer is the endpoint's last.
func explainIdentity(id Identity, answer *identityAnswer, err error) *Error {
	e := &Error{Kind: KindIdentity, Status: answer.status, Code: answer.code, Message: answer.message,
		RequestID: answer.requestID, RetryAfter: answer.retryAfter, Err: err}
	switch {
	case id.Ambient:
		e.Message = folded(err.Error())
		e.Fact, e.Hint = "no token from the environment, a managed identity or az login", "sign in with az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
	case answer.failure != nil:
		e.Err = answer.failure
		e.Fact, e.Hint = unansweredFact(id, answer.failure), unansweredHint(answer)
	case answer.status == 0:
		e.Fact, e.Hint = unansweredFact(id, err), unansweredHint(answer)
	case answer.status == http.StatusOK:
		e.Fact, e.Hint = "no token: the identity endpoint's answer makes no sense", "check that msiEndpoint leads to an identity endpoint"
	default:
		e.Fact, e.Hint = fmt.Sprintf("no token for the %s: %d", id, answer.status), identityHint(id, answer)
		if said := folded(answer.code + " " + answer.message); said != "" {
			e.Fact += " " + said
		}
	}
	return e
}

// unansweredFact says why the endpoint gave no whole answer.
func unansweredFact(id Identity, err error) string {
	endpoint := id.Endpoint
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Sprintf("no token: the identity endpoint %s does not answer", shortened(endpoint))
	}
	if cause, _ := causeOf(err, endpoint); cause != "" {
		return fmt.Sprintf("no token: cannot reach the identity endpoint %s: %s", shortened(endpoint), cause)
	}
	return "no token: " + folded(innermost(err).Error())
}

func unansweredHint(answer *identityAnswer) string {
	if answer.arc {
		return "check that the Azure Arc agent is what answers at msiEndpoint, and that kvfs may read its keys (group himds)"
	}
	return "enable a managed identity on this machine, or check msiEndpoint; outside of Azure there is none"
}

// identityHint goes by status and selector: descriptions may change at any time.
func identityHint(id Identity, answer *identityAnswer) string {
	selected := id.ClientID != "" || id.ObjectID != "" || id.ResourceID != ""
	switch {
	case answer.arc:
		return "this is the endpoint of Azure Arc: set IDENTITY_ENDPOINT and IMDS_ENDPOINT for kvfs, and let it read the agent's keys (group himds)"
	case answer.code == "invalid_resource":
		return "the vault belongs to another cloud than the identity: use an identity of the vault's cloud"
	case answer.status == http.StatusBadRequest && id.ClientID != "":
		return "assign the identity to this machine; msiClientId must be its client id, not its object id (that goes into msiObjectId)"
	case answer.status == http.StatusBadRequest && selected:
		return "assign the identity to this machine, and check its id in the settings"
	case answer.status == http.StatusBadRequest:
		return "this machine has several user-assigned identities or none: set msiClientId to the client id of one that is assigned"
	case answer.status == http.StatusUnauthorized, answer.status == http.StatusForbidden:
		return "assign a managed identity to this machine: az vm identity assign"
	case answer.status == http.StatusTooManyRequests:
		return "other programs on this machine ask for tokens too often: the endpoint takes 20 requests per second"
	case answer.status == http.StatusNotFound, answer.status == http.StatusGone:
		return "the endpoint is being updated: try again in 70 seconds"
	case answer.status < 400:
		return "check that msiEndpoint leads to an identity endpoint"
	}
	return "try again; if it lasts, check that a managed identity is enabled on this machine"
}
