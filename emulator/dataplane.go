package emulator

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

const (
	messageMissing = "AKV10000: Request is missing a Bearer or PoP token."
	messageExpired = "[TokenExpired] Error validating token: 'S2S12086'."
)

// call is one request with a good token.
type call struct {
	origin
	r      *http.Request
	caller *claims
}

// operation is what a path asks for.
type operation struct {
	collection string // secrets or deletedsecrets
	name       string // "": the listing of the collection
	version    string // "": the newest
	versions   bool   // the listing of name's versions
}

// value tells whether the operation is the GET of a value.
func (o operation) value() bool { return o.collection == "secrets" && o.name != "" && !o.versions }

// serveData serves the data plane and the login servers, which share a listener.
func (e *Emulator) serveData(w http.ResponseWriter, r *http.Request) {
	if l, ok := e.loginAt(r); ok {
		e.serveLogin(w, r, l)
		return
	}
	e.serveVault(w, r)
}

func (e *Emulator) serveVault(w http.ResponseWriter, r *http.Request) {
	a := e.answerVault(r)
	e.counts.outcome(a)
	id := vaultHeaders(w, r, a)
	e.log.Debug("vault request", slog.String("method", r.Method), slog.String("host", r.Host), slog.String("path", r.URL.Path),
		slog.Int("status", a.status), slog.String("fault", string(a.delivery)), slog.String("requestID", id))
	send(w, r, a, vaultJSON)
}

// answerVault decides in the order of the service: host, token, request, then
// what the request is about.
func (e *Emulator) answerVault(r *http.Request) answer {
	o, ok := e.locate(r)
	if !ok {
		return fail(http.StatusForbidden, "Forbidden", "", "This TCP connection does not allow access to "+r.Host)
	}
	if strings.EqualFold(strings.Trim(r.URL.Path, "/"), "healthstatus") {
		return answer{status: http.StatusOK}
	}
	caller, rejection := e.authenticate(r, o)
	if caller == nil {
		return rejection
	}
	c := call{origin: o, r: r, caller: caller}
	op, bad := parseOperation(r)
	if bad != nil {
		return *bad
	}
	e.counts.add(op.count)
	a := e.perform(c, op)
	a.admitted = a.authenticate == ""
	return a
}

func (o operation) count(c *Counters) {
	switch {
	case o.value():
		c.Secrets++
	case o.versions:
		c.Versions++
	case o.name == "":
		c.List++
	}
}

// authenticate returns the caller, or nil and the 401.
func (e *Emulator) authenticate(r *http.Request, o origin) (*claims, answer) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		a := unauthorized(o, messageMissing)
		a.challenge = true
		return nil, a
	}
	caller, complaint := e.tokens.check(strings.TrimSpace(token), o.resource)
	return caller, unauthorized(o, complaint)
}

func unauthorized(o origin, message string) answer {
	a := fail(http.StatusUnauthorized, "Unauthorized", "", message)
	a.authenticate = `Bearer authorization="https://` + o.login + "/" + Tenant + `", resource="` + o.resource + `"`
	return a
}

// parseOperation reads method and path. Empty segments do not count: clients
// end the path of the newest version in a slash.
func parseOperation(r *http.Request) (operation, *answer) {
	if r.URL.Query().Get("api-version") == "" {
		return operation{}, badParameter("The api-version query parameter is missing")
	}
	if r.Method != http.MethodGet {
		a := fail(http.StatusMethodNotAllowed, "MethodNotAllowed", "", "The emulator serves GET alone")
		return operation{}, &a
	}
	path := strings.FieldsFunc(r.URL.Path, func(c rune) bool { return c == '/' })
	path = append(path, make([]string, 4)...) // so that the first four exist
	op := operation{collection: strings.ToLower(path[0]), name: path[1], version: path[2]}
	if strings.EqualFold(op.version, "versions") {
		op.version, op.versions = "", true
	}
	deep := op.collection == "deletedsecrets" && path[2] != ""
	if op.collection != "secrets" && op.collection != "deletedsecrets" || path[3] != "" || deep {
		return op, badParameter(fmt.Sprintf("Method GET does not allow operation '%s'", strings.Trim(r.URL.Path, "/")))
	}
	if op.name != "" && !validName(op.name) {
		return op, badParameter("The request URI contains an invalid name: " + op.name)
	}
	return op, nil
}

func badParameter(message string) *answer {
	a := fail(http.StatusBadRequest, "BadParameter", "", message)
	return &a
}

// perform answers an operation, through a fault if one is due.
func (e *Emulator) perform(c call, op operation) answer {
	f, faulty := e.faults.take(c.vault, op.name, op.value())
	if faulty {
		if a, decided := c.faulted(f, op); decided {
			return a
		}
	}
	a := e.regular(c, op)
	if f.Kind == Garbage {
		a = spoiled(a)
	}
	return a.through(f)
}

// regular is the answer without faults.
func (e *Emulator) regular(c call, op operation) answer {
	switch {
	case !e.mayRead(c.caller, c.vault):
		return c.forbidden(ForbiddenRBAC, op)
	case op.value():
		return e.getSecret(c, op)
	case op.versions:
		return e.listVersions(c, op.name)
	case op.collection == "secrets":
		return e.listSecrets(c)
	case op.name == "":
		return e.listDeleted(c)
	}
	return e.getDeleted(c, op.name)
}

// secretBody is a secret, and without value and kid an item of a listing. The
// order of the fields is the service's.
type secretBody struct {
	Value       *string    `json:"value,omitempty"`
	ContentType string     `json:"contentType,omitempty"`
	ID          string     `json:"id"`
	Managed     bool       `json:"managed,omitempty"`
	Attributes  attributes `json:"attributes"`
	KID         string     `json:"kid,omitempty"`
	Previous    string     `json:"previousVersion,omitempty"`
}

type deletedBody struct {
	RecoveryID string `json:"recoveryId"`
	Deleted    int64  `json:"deletedDate"`
	Purge      int64  `json:"scheduledPurgeDate"`
	secretBody
}

type attributes struct {
	Enabled         bool   `json:"enabled"`
	NotBefore       int64  `json:"nbf,omitempty"`
	Expires         int64  `json:"exp,omitempty"`
	Created         int64  `json:"created"`
	Updated         int64  `json:"updated"`
	RecoveryLevel   string `json:"recoveryLevel"`
	RecoverableDays int    `json:"recoverableDays"`
}

func (v *version) attributes() attributes {
	a := attributes{
		Enabled: v.enabled, Created: v.created.Unix(), Updated: v.updated.Unix(),
		RecoveryLevel: "Recoverable+Purgeable", RecoverableDays: recoverableDays,
	}
	if v.leaf != nil {
		a.NotBefore, a.Expires = v.leaf.NotBefore.Unix(), v.leaf.NotAfter.Unix()
	}
	return a
}

// listed is a version as listings show it.
func (v *version) listed(id string) secretBody {
	return secretBody{ContentType: v.contentType, ID: id, Managed: v.managed, Attributes: v.attributes()}
}

func (o origin) url(path ...string) string {
	return "https://" + o.host + "/" + strings.Join(path, "/")
}

func (e *Emulator) getSecret(c call, op operation) answer {
	e.store.mu.RLock()
	defer e.store.mu.RUnlock()
	found, err := e.store.find(c.vault, op.name)
	if err != nil || !found.deleted.IsZero() {
		return notFound(op)
	}
	v := found.version(op.version)
	switch {
	case v == nil:
		return notFound(op)
	case !v.enabled:
		return disabled()
	}
	body := v.listed(c.url("secrets", found.name, v.id))
	body.Value = &v.value
	if v.managed {
		body.KID, body.Previous = c.url("keys", found.name, v.id), v.previous
	}
	return answer{status: http.StatusOK, body: body}
}

func notFound(op operation) answer {
	id := op.name
	if op.version != "" {
		id += "/" + op.version
	}
	return fail(http.StatusNotFound, "SecretNotFound", "", "A secret with (name/id) "+id+" was not found in this key vault. "+
		"If you recently deleted this secret you may be able to recover it using the correct recovery command. "+
		"For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182")
}

func disabled() answer {
	return fail(http.StatusForbidden, "Forbidden", "SecretDisabled", "Operation get is not allowed on a disabled secret.")
}

func (e *Emulator) getDeleted(c call, name string) answer {
	e.store.mu.RLock()
	defer e.store.mu.RUnlock()
	found, err := e.store.find(c.vault, name)
	if err != nil || found.deleted.IsZero() {
		return fail(http.StatusNotFound, "SecretNotFound", "", "Deleted Secret not found: "+name)
	}
	return answer{status: http.StatusOK, body: c.deletedItem(found)}
}

func (c call) deletedItem(s *secret) deletedBody {
	return deletedBody{
		RecoveryID: c.url("deletedsecrets", s.name),
		Deleted:    s.deleted.Unix(),
		Purge:      s.deleted.Add(recoverableDays * 24 * time.Hour).Unix(),
		secretBody: s.version("").listed(c.url("secrets", s.name)),
	}
}
