package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

var (
	errPassword = errors.New("the PFX cannot be read with this password")
	errNoKey    = errors.New("there is no private key in it")
)

// explainCertificate reports a certificate that cannot be used. No error of a parser quotes anything of the file.
func explainCertificate(id Identity, p principal, err error) *Error {
	e := &Error{Kind: KindIdentity, Err: err, Fact: fmt.Sprintf("no token for the %s: %s", id, withoutStop(folded(err.Error()))),
		Hint: "make it PEM, an RSA key without password and its certificate: openssl pkcs12 -in OLD.pfx -nodes -out NEW.pem"}
	switch {
	case errors.Is(err, errNoKey):
		e.Hint = "append the private key to it"
	case errors.Is(err, errPassword) && p.passwordPlace == "" && id.Method == Environment:
		e.Hint = "it has a password: put that into AZURE_CLIENT_CERTIFICATE_PASSWORD"
	case errors.Is(err, errPassword) && p.passwordPlace == "":
		e.Hint = "it has a password: write that to a file and name it in certificatePasswordFile"
	case errors.Is(err, errPassword):
		e.Hint = fmt.Sprintf("the password in %s is not that of %s", folded(p.passwordPlace), folded(p.certificateFile))
	}
	return e
}

// explainUnset reports what the environment does not say.
func explainUnset(id Identity, variable string) *Error {
	return &Error{Kind: KindIdentity, Fact: fmt.Sprintf("no token for the %s: it does not set %s", id, variable),
		Hint: "complete the environment: AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"}
}

// explainLogin says why azidentity gave no token. answer is the last of the login server, if one was asked.
func explainLogin(id Identity, answer *loginAnswer, err error) *Error {
	e := &Error{Kind: KindIdentity, Status: answer.status, Code: answer.code, Message: answer.message,
		RequestID: answer.requestID, RetryAfter: answer.retryAfter, Err: err}
	_, fact, _ := answer.known(id)
	switch known := fact != ""; {
	case id.Method == Ambient && !known:
		e.explainAmbient(answer, err)
	case answer.failure != nil:
		e.Err = answer.failure
		e.explainUnreached(answer)
	case answer.status == 0:
		e.Message = folded(err.Error())
		e.Fact, e.Hint = fmt.Sprintf("no token for the %s: %s", id, withoutStop(e.Message)), "complete the identity in the settings or in the environment"
	case answer.status/100 == 2:
		e.explainLoginGarbage(answer, err)
	default:
		e.explainLoginRefusal(id, answer)
	}
	return e
}

func loginCommand(id Identity) string {
	if id.TenantID != "" {
		return "az login --tenant " + argument(id.TenantID, "TENANT")
	}
	return "az login"
}

func (e *Error) explainAmbient(answer *loginAnswer, err error) {
	e.Message = folded(err.Error())
	if answer.mayGrant {
		e.Message, e.Err = "", nil
	}
	e.Fact = "no token from the environment, a managed identity or az login"
	e.Hint = "sign in with az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
}

func (e *Error) explainUnreached(answer *loginAnswer) {
	host := answer.host
	e.Hint = "check that firewalls, routes and the proxy let this machine reach " + host
	cause, hint := causeOf(answer.failure, host)
	var (
		certificate *tls.CertificateVerificationError
		name        x509.HostnameError
		dns         *net.DNSError
	)
	switch {
	case timedOut(answer.failure):
		e.Fact = fmt.Sprintf("no token: the login server %s does not answer", placeOf(host, answer.way))
		e.Hint = hintFor(answer.way, e.Hint)
		return
	case errors.Is(answer.failure, errTooLarge):
		e.Fact = fmt.Sprintf("no token: the answer of the login server %s is larger than 1 MiB", host)
		e.Hint = notALogin(host)
		return
	case errors.As(answer.failure, &name):
		e.Hint = notALogin(host)
	case errors.As(answer.failure, &certificate):
		e.Hint = hint
	case errors.As(answer.failure, &dns):
		e.Hint = "check the authority, and the DNS servers of this machine"
	case cause == "":
		cause = folded(innermost(answer.failure).Error())
	}
	e.Fact = fmt.Sprintf("no token: cannot reach the login server %s: %s", placeOf(host, answer.way), cause)
	e.Hint = hintFor(answer.way, e.Hint)
}

// explainLoginGarbage reports an answer 200 that azidentity could not use. Its errors quote the answer.
func (e *Error) explainLoginGarbage(answer *loginAnswer, err error) {
	e.Fact = fmt.Sprintf("no token: the answer of the login server %s makes no sense", answer.host)
	e.Hint = notALogin(answer.host)
	if answer.mayGrant {
		e.Err = nil
		return
	}
	e.Message = folded(err.Error())
}

// notALogin is the hint for answers that no login server gives.
func notALogin(host string) string {
	return fmt.Sprintf("check that %s is a login server of Microsoft Entra ID and not a proxy", host)
}

// explainLoginRefusal goes by the codes of Microsoft Entra ID, in which alone its answers differ.
func (e *Error) explainLoginRefusal(id Identity, answer *loginAnswer) {
	if code, fact, hint := answer.known(id); fact != "" {
		e.Inner = fmt.Sprintf("AADSTS%d", code)
		e.Fact, e.Hint = fmt.Sprintf("no token for the %s: %s (%s)", id, fact, e.Inner), hint
		return
	}
	e.Fact = fmt.Sprintf("no token for the %s: %d", id, answer.status)
	if said := folded(answer.code + " " + withoutTrace(answer.message)); said != "" {
		e.Fact += " " + withoutStop(said)
	}
	if len(answer.sts) > 0 {
		e.Inner = fmt.Sprintf("AADSTS%d", answer.sts[0])
	}
	switch {
	case answer.status == http.StatusTooManyRequests, answer.status >= 500:
		e.Hint = "try again later; the login server " + answer.host + " is busy or failing"
	case len(answer.sts) > 0:
		e.Hint = fmt.Sprintf("look the code up: https://login.microsoftonline.com/error?code=%d", answer.sts[0])
	default:
		e.Hint = notALogin(answer.host)
	}
}

// known returns the first code of the answer that an administrator can do something about, with fact and hint.
func (a *loginAnswer) known(id Identity) (code int, fact, hint string) {
	for _, code := range a.sts {
		if fact, hint := refusalOf(id, code); fact != "" {
			return code, fact, hint
		}
	}
	return 0, "", ""
}

// withoutStop makes a foreign sentence fit for a fact.
func withoutStop(s string) string { return strings.TrimRight(s, ". ") }

// withoutTrace leaves out the ids and the time that Microsoft Entra ID adds to each message: Error has them apart.
func withoutTrace(s string) string {
	s, _, _ = strings.Cut(s, " Trace ID:")
	return s
}
