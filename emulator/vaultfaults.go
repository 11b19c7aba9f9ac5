package emulator

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// faulted is the answer that a fault gives in place of the regular one. decided
// is false for faults that change the regular answer or the way it is sent.
func (c call) faulted(f Fault, op operation) (a answer, decided bool) {
	switch f.Kind {
	case Slow, Hang, HalfOpen, Drop, Garbage:
		return answer{}, false
	case Disabled:
		return disabled(), true
	case NotFound:
		return notFound(op), true
	case TokenExpired:
		return unauthorized(c.origin, messageExpired), true
	case Throttled:
		a = fail(http.StatusTooManyRequests, "Throttled", "",
			"Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached")
	case ServerError:
		a = fail(http.StatusInternalServerError, "InternalServerError", "", "An internal server error occurred.")
	case Unavailable:
		a = fail(http.StatusServiceUnavailable, "ServiceUnavailable", "", "The service is temporarily unavailable.")
	case ForbiddenRBAC, ForbiddenPolicy, ListRefused, ForbiddenFirewall, ForbiddenConnection:
		a = c.forbidden(f.Kind, op)
	default:
		a = fail(http.StatusInternalServerError, "EmulatorFault", "", "bad fault: "+complaint(f))
	}
	a.retry = f.RetryAfter
	return a, true
}

func complaint(f Fault) string {
	if err := f.Validate(); err != nil {
		return err.Error()
	}
	return string(f.Kind) + " does not act on the data plane"
}

// forbidden quotes the service's messages; they hold CRLF.
func (c call) forbidden(kind FaultKind, op operation) answer {
	vault := c.vault + ";location=" + region
	caller := "Caller: " + c.caller.caller()
	inner, lines := "ForbiddenByRbac", []string{
		"Caller is not authorized to perform action on resource.",
		"If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.",
		caller,
		"Action: '" + op.action() + "'",
		"Resource: '" + c.resourceID(op) + "'",
		"Assignment: (not found)",
		"DenyAssignmentId: null",
		"DecisionReason: 'DeniedWithNoValidRBAC' ",
		"Vault: " + vault,
		"",
	}
	switch kind {
	case ForbiddenPolicy, ListRefused:
		inner, lines = "AccessDenied", []string{"The user, group or application '" + c.caller.caller() + "' does not have secrets " + op.permission() +
			" permission on key vault '" + vault + "'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287"}
	case ForbiddenFirewall:
		address, _, _ := strings.Cut(strings.TrimPrefix(networkInfo(c.r.RemoteAddr), "conn_type=Ipv4;addr="), ";")
		inner, lines = "ForbiddenByFirewall", []string{
			"Client address is not authorized and caller is not a trusted service.", "Client address: " + address, caller, "Vault: " + vault}
	case ForbiddenConnection:
		if c.caller.Resource != "" {
			caller += ";xms_mirid=" + c.caller.Resource
		}
		inner, lines = "ForbiddenByConnection", []string{
			"Public network access is disabled and request is not from a trusted service nor via an approved private link.", caller, "Vault: " + vault}
	}
	return fail(http.StatusForbidden, "Forbidden", inner, strings.Join(lines, "\r\n"))
}

func (c call) resourceID(op operation) string {
	id := "/subscriptions/" + subscription + "/resourcegroups/rg-web/providers/microsoft.keyvault/vaults/" + c.vault
	if op.name != "" {
		id += "/secrets/" + strings.ToLower(op.name)
	}
	return id
}

const subscription = "00001111-aaaa-2222-bbbb-3333cccc4444"

// action is the RBAC action that an operation needs.
func (o operation) action() string {
	if o.value() {
		return "Microsoft.KeyVault/vaults/secrets/getSecret/action"
	}
	return "Microsoft.KeyVault/vaults/secrets/readMetadata/action"
}

// permission is the access policy permission that an operation needs.
func (o operation) permission() string {
	if o.value() {
		return "get"
	}
	return "list"
}

// spoiled is a good answer with a value that looks like one and is none:
// base64, but no PKCS#12 and no PEM.
func spoiled(a answer) answer {
	body, ok := a.body.(secretBody)
	if !ok {
		return a
	}
	value := base64.StdEncoding.EncodeToString([]byte("this is no certificate"))
	body.Value = &value
	a.body = body
	return a
}
