package emulator

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const tokenPath = "/metadata/identity/oauth2/token"

// Identity is a managed identity that the machine has. Its JSON form is that of
// the control endpoint.
type Identity struct {
	ClientID   string   `json:"clientId"`             // a GUID; selector client_id
	ObjectID   string   `json:"objectId"`             // a GUID, the principal; selector object_id
	ResourceID string   `json:"resourceId,omitempty"` // /subscriptions/...; selector msi_res_id
	System     bool     `json:"system,omitempty"`     // system-assigned; otherwise user-assigned
	Vaults     []string `json:"vaults"`               // names of the vaults it may read; nil: all; empty: none
}

type identities struct {
	mu  sync.RWMutex
	ids []Identity
}

// SetIdentities replaces the identities of the machine. An emulator begins with
// one system-assigned one. None at all is a machine without identity.
func (e *Emulator) SetIdentities(ids ...Identity) {
	e.identities.mu.Lock()
	defer e.identities.mu.Unlock()
	e.identities.ids = slices.Clone(ids)
	for i := range e.identities.ids {
		e.identities.ids[i].Vaults = slices.Clone(ids[i].Vaults)
	}
}

// identityError is the form of all errors of the identity endpoint.
type identityError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// tokenBody has its numbers as strings, as the real one does.
type tokenBody struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

func refuse(status int, code, description string) answer {
	return answer{status: status, body: identityError{code, description}}
}

func invalid(description string) answer {
	return refuse(http.StatusBadRequest, "invalid_request", description)
}

func identityNotFound() answer { return invalid("Identity not found") }

func identityMultiple() answer {
	return invalid("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
}

func identityThrottled() answer {
	return refuse(http.StatusTooManyRequests, "too_many_requests", "Too many requests")
}

func (e *Emulator) serveIdentity(w http.ResponseWriter, r *http.Request) {
	a := e.answerIdentity(r)
	e.counts.add(func(c *Counters) {
		c.Identity++
		if a.status != http.StatusOK || a.delivery != "" {
			c.IdentityErrors++
		}
	})
	e.log.Debug("identity request", slog.String("path", r.URL.Path), slog.Int("status", a.status), slog.String("fault", string(a.delivery)))
	w.Header().Set("Server", "IMDS/150.870.65.512")
	send(w, r, a, compactJSON)
}

// answerIdentity lets faults act on proper requests alone, as the data plane does.
func (e *Emulator) answerIdentity(r *http.Request) answer {
	if complaint := e.checkTokenRequest(r, "2018-02-01 or later", knownIMDSVersion); complaint != nil {
		return *complaint
	}
	f, faulty := e.faults.takeAt(identityName, anyKind)
	if faulty {
		if a, decided := identityFault(f); decided {
			return a
		}
	}
	return e.issueToken(r.URL.Query()).through(f)
}

func identityFault(f Fault) (a answer, decided bool) {
	switch f.Kind {
	case Slow, Hang, HalfOpen, Drop:
		return answer{}, false
	case IdentityNotFound:
		a = identityNotFound()
	case IdentityMultiple:
		a = identityMultiple()
	case IdentityGone:
		a = answer{status: http.StatusGone}
	case IdentityThrottled, Throttled:
		a = identityThrottled()
	case ServerError:
		a = refuse(http.StatusInternalServerError, "unknown", "Failed to retrieve token from the Active directory. For details see logs.")
	case Unavailable:
		a = refuse(http.StatusServiceUnavailable, "unknown", "The service is temporarily unavailable.")
	default:
		a = refuse(http.StatusInternalServerError, "emulator_fault", "bad fault: "+complaint(f))
	}
	a.retry = f.RetryAfter
	return a, true
}

func (e *Emulator) issueToken(q url.Values) answer {
	id, complaint := e.choose(q, (*identities).unnamed)
	if complaint != nil {
		return *complaint
	}
	body, err := e.tokenFor(id, q.Get("resource"), time.Now())
	if err != nil {
		return refuse(http.StatusInternalServerError, "unknown", err.Error())
	}
	return answer{status: http.StatusOK, body: body}
}

func (e *Emulator) tokenFor(id Identity, resource string, now time.Time) (tokenBody, error) {
	token, c, err := e.tokens.mint(id, resource, now)
	if err != nil {
		return tokenBody{}, err
	}
	left := strconv.FormatInt(int64(c.ExpiresAt.Sub(now)/time.Second), 10)
	return tokenBody{
		AccessToken: token, ClientID: id.ClientID, ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(c.ExpiresAt.Unix(), 10), NotBefore: strconv.FormatInt(c.NotBefore.Unix(), 10),
		Resource: resource, TokenType: "Bearer",
	}, nil
}

// selectors are the query parameters that name an identity; mi_res_id is an
// older spelling.
var selectors = map[string]func(Identity) string{
	"client_id":  func(id Identity) string { return id.ClientID },
	"object_id":  func(id Identity) string { return id.ObjectID },
	"msi_res_id": func(id Identity) string { return id.ResourceID },
	"mi_res_id":  func(id Identity) string { return id.ResourceID },
}

// choose finds the identity that a request means, by unnamed where it names none.
func (e *Emulator) choose(q url.Values, unnamed func(*identities) (Identity, *answer)) (Identity, *answer) {
	e.identities.mu.RLock()
	defer e.identities.mu.RUnlock()
	var want string
	var of func(Identity) string
	for name, field := range selectors {
		value := q.Get(name)
		if value == "" {
			continue
		}
		if of != nil {
			a := invalid("At most one of client_id, object_id and msi_res_id may be given")
			return Identity{}, &a
		}
		want, of = value, field
	}
	if of == nil {
		return unnamed(&e.identities)
	}
	for _, id := range e.identities.ids {
		if strings.EqualFold(of(id), want) {
			return id, nil
		}
	}
	a := identityNotFound()
	return Identity{}, &a
}

// unnamed picks the system-assigned identity, or else the only one there is. It
// needs mu held.
func (s *identities) unnamed() (Identity, *answer) {
	for _, id := range s.ids {
		if id.System {
			return id, nil
		}
	}
	var a answer
	switch len(s.ids) {
	case 1:
		return s.ids[0], nil
	case 0:
		a = refuse(http.StatusUnauthorized, "unauthorized_client", "No managed identity is configured on this machine")
	default:
		a = identityMultiple()
	}
	return Identity{}, &a
}
