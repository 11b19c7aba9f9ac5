package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// explain turns what the SDK returned for q into an Error. An error of our own may be shared with others.
func explain(parent, try context.Context, q question, a *attempt, err error) *Error {
	if cause := parent.Err(); cause != nil {
		return &Error{Kind: KindTimeout, Fact: fmt.Sprintf("reading %s was given up: %v", secretOf(q.ref), cause),
			Hint: "try again", Err: cause}
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	if a.tokenless != nil {
		return a.tokenless
	}
	e := explainAnswer(try, q, a, err)
	e.Err = essence(e.Err)
	return e
}

// explainAnswer explains what came, or did not come, from the vault itself.
func explainAnswer(try context.Context, q question, a *attempt, err error) *Error {
	var response *azcore.ResponseError
	if errors.As(err, &response) && response.RawResponse != nil {
		return explainResponse(q, a, response)
	}
	var p panicked
	if errors.As(err, &p) {
		return senseless(q.ref, "%s sent a challenge that cannot be read", q.ref.Host())
	}
	if e := explainTransport(try, q, a, err); e != nil {
		return e
	}
	return senseless(q.ref, "the answer of %s makes no sense: %s", q.ref.Host(), folded(err.Error()))
}

// explainResponse explains an answer other than 200. The SDK knows the outer error code alone; the body says more.
func explainResponse(q question, a *attempt, response *azcore.ResponseError) *Error {
	raw := response.RawResponse
	e := &Error{
		Status:     raw.StatusCode,
		Code:       folded(response.ErrorCode),
		RequestID:  folded(raw.Header.Get("x-ms-request-id")),
		RetryAfter: retryAfter(raw.Header, time.Now()),
	}
	var body struct {
		Error struct {
			Message string `json:"message"`
			Inner   struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if text, err := runtime.Payload(raw); err == nil && json.Unmarshal(text, &body) == nil {
		e.Message, e.Inner = folded(body.Error.Message), folded(body.Error.Inner.Code)
	}
	e.explainStatus(q, a)
	return e
}

func (e *Error) explainStatus(q question, a *attempt) {
	switch {
	case e.Status == http.StatusUnauthorized && a.presented.Load():
		e.say(KindUnauthorized, fmt.Sprintf("%s rejected the token of the %s", q.ref.Vault(), q.id),
			"check this machine's clock, and that vault and identity belong to the same tenant")
	case e.Status == http.StatusForbidden:
		e.explainForbidden(q)
	case e.Status == http.StatusNotFound:
		e.explainNotFound(q)
	case e.Status == http.StatusTooManyRequests:
		e.say(KindThrottled, q.ref.Vault()+" gets too many requests", "poll less often, or spread the certificates over several vaults")
	case e.Status == http.StatusRequestTimeout:
		e.say(KindTimeout, q.ref.Vault()+" gave up waiting for the request", "try again")
	case e.Status >= 500:
		e.say(KindServer, q.ref.Vault()+" failed"+e.because(), "try again later; if it lasts, see the vault's resource health in the portal")
	default:
		e.say(KindProtocol, q.ref.Vault()+" refused the request"+e.because(),
			"check that "+q.ref.Host()+" leads to Azure Key Vault and not to a proxy or another server")
	}
}

// say completes e. The fact begins with the status and the most telling code, as administrators look for them.
func (e *Error) say(kind Kind, fact, hint string) {
	code := e.Inner
	if code == "" {
		code = e.Code
	}
	if code == "" {
		code = strings.ReplaceAll(http.StatusText(e.Status), " ", "")
	}
	e.Kind, e.Fact, e.Hint = kind, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, code))+": "+fact, hint
}

func (e *Error) because() string {
	if e.Message == "" {
		return ""
	}
	return ": " + e.Message
}

func (e *Error) explainForbidden(q question) {
	action, permission := "read", "get"
	if q.list {
		action, permission = "list the versions of", "get list"
	}
	vault, what := q.ref.Vault(), secretOf(q.ref)
	if q.all {
		action, what = "list", "the secrets of "+vault
	}
	switch e.Inner {
	case "ForbiddenByRbac":
		e.say(KindForbidden, fmt.Sprintf("the identity may not %s %s", action, what), fmt.Sprintf(
			`grant it the role "Key Vault Secrets User" on the vault: az role assignment create --role "Key Vault Secrets User" --assignee %s --scope "$(az keyvault show --name %s --query id --output tsv)"; new assignments take up to 10 minutes`,
			e.caller(q.id), vault))
	case "AccessDenied":
		e.say(KindForbidden, fmt.Sprintf("no access policy lets the identity %s %s", action, what), fmt.Sprintf(
			"add one: az keyvault set-policy --name %s --object-id %s --secret-permissions %s", vault, e.caller(Identity{ObjectID: q.id.ObjectID}), permission))
	case "SecretDisabled":
		e.say(KindDisabled, secretOf(q.ref)+" is disabled", enableHint(q.ref))
	case "ForbiddenByFirewall":
		e.say(KindForbiddenNetwork, "the firewall of "+vault+" does not admit this machine", fmt.Sprintf(
			"allow its address or its subnet: az keyvault network-rule add --name %s --ip-address %s", vault, e.clientAddress()))
	case "ForbiddenByConnection":
		e.say(KindForbiddenNetwork, vault+" admits approved private links only",
			"check that "+q.ref.Host()+" resolves to the address of its private endpoint on this machine, or allow public access")
	default:
		e.say(KindForbidden, fmt.Sprintf("%s does not let the identity %s the secret %q%s", vault, action, q.ref.Name(), e.because()),
			"check the identity's role on the vault, and that "+q.ref.Host()+" resolves to the address of this vault")
	}
}

// enableHint offers both commands: the secret of a certificate is enabled with it, and a refusal does not say which it is.
func enableHint(ref Ref) string {
	arguments := fmt.Sprintf("--vault-name %s --name %s --enabled true", ref.Vault(), ref.Name())
	if ref.Pinned() {
		arguments += " --version " + ref.Version()
	}
	return "enable it: az keyvault certificate set-attributes " + arguments + "; for a secret made by hand, az keyvault secret set-attributes with the same arguments"
}

func (e *Error) explainNotFound(q question) {
	if q.ref.Pinned() {
		e.say(KindNotFound, "no "+secretOf(q.ref), fmt.Sprintf("list the versions: az keyvault secret list-versions --vault-name %s --name %s", q.ref.Vault(), q.ref.Name()))
		return
	}
	e.say(KindNotFound, "no "+secretOf(q.ref), fmt.Sprintf("check the name; a deleted certificate comes back with az keyvault certificate recover --vault-name %s --name %s", q.ref.Vault(), q.ref.Name()))
}

// caller returns the id of the one who was refused, for a command to paste: the object id that the vault's message
// names, else one of id's, else a placeholder.
func (e *Error) caller(id Identity) string {
	if oid := e.quotedValue("oid="); validName(oid, 36, 36) {
		return oid
	}
	for _, s := range []string{id.ClientID, id.ObjectID} {
		if s != "" {
			return argument(s, "OBJECT-ID")
		}
	}
	return "OBJECT-ID"
}

// clientAddress returns this machine's address as the vault's message names it, or a placeholder. A zone, which may be any
// text, has no place in a command to paste.
func (e *Error) clientAddress() string {
	if address, err := netip.ParseAddr(e.quotedValue("Client address: ")); err == nil && address.Zone() == "" {
		return address.String()
	}
	return "ADDRESS"
}

// quotedValue returns what follows label in the message, up to a space or semicolon. Messages are free text that may change
// at any time: the value serves to fill in a command, never to decide.
func (e *Error) quotedValue(label string) string {
	_, rest, _ := strings.Cut(e.Message, label)
	if end := strings.IndexAny(rest, " ;"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// retryAfter reads the service's wish: the headers that azcore knows, in its order.
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = 24 * time.Hour
	for _, name := range []string{"retry-after-ms", "x-ms-retry-after-ms"} {
		if ms, err := strconv.ParseUint(h.Get(name), 10, 32); err == nil {
			return min(time.Duration(ms)*time.Millisecond, most)
		}
	}
	text := h.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(s)*time.Second, most)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}

// folded makes foreign text one line of at most 500 characters, with nothing in it that moves a cursor or turns the
// direction of writing.
func folded(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > 500 {
		return string(r[:500]) + "..."
	}
	return s
}
