package emulator

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// arcVersions are the api-versions that the agent of Azure Arc knows.
var arcVersions = []string{"2019-11-01", "2020-06-01"}

// arcBody is an answer of the agent: the identity asked for is echoed under the
// name of the selector.
type arcBody struct {
	tokenBody
	ClientID   string `json:"client_id,omitempty"`
	ObjectID   string `json:"object_id,omitempty"`
	ResourceID string `json:"msi_res_id,omitempty"`
}

func (e *Emulator) serveArc(w http.ResponseWriter, r *http.Request) {
	a := e.answerArc(r)
	e.counts.add(func(c *Counters) {
		c.Arc++
		if a.delivery != "" || a.status != http.StatusOK && a.authenticate == "" {
			c.ArcErrors++
		}
	})
	e.log.Debug("azure arc request", slog.String("path", r.URL.Path), slog.Int("status", a.status), slog.String("fault", string(a.delivery)))
	send(w, r, a, compactJSON)
}

// answerArc challenges a request without a good key, and answers one with it.
func (e *Emulator) answerArc(r *http.Request) answer {
	if complaint := e.checkTokenRequest(r, "one of "+strings.Join(arcVersions, ", "), knownArcVersion); complaint != nil {
		return *complaint
	}
	q := r.URL.Query()
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") || !e.arc.redeem(key) {
		f, _ := e.faults.takeAt(arcName, FaultKind.spoilsChallenge)
		if f.Kind == ArcNoChallenge {
			return e.arcToken(q)
		}
		return e.arcChallenge(f.Kind)
	}
	f, faulty := e.faults.takeAt(arcName, func(k FaultKind) bool { return !k.spoilsChallenge() })
	switch {
	case f.Kind == ArcIgnoresSelector:
		return e.arcLegacyToken(q)
	case faulty:
		if a, decided := identityFault(f); decided {
			return a
		}
	}
	return e.arcToken(q).through(f)
}

func knownArcVersion(version string) bool { return slices.Contains(arcVersions, version) }

// spoilsChallenge tells the faults of the first request of an exchange from
// those of the second.
func (k FaultKind) spoilsChallenge() bool {
	return slices.Contains(arcFaults, k) && k != ArcIgnoresSelector
}

// arcChallenge names a file: whoever can read it belongs to the machine.
func (e *Emulator) arcChallenge(fault FaultKind) answer {
	a := refuse(http.StatusUnauthorized, "unauthorized_client", "Missing Basic Authorization header")
	if fault == ArcMalformedChallenge {
		a.authenticate = "Basic realm"
		return a
	}
	file, err := e.arc.issue(fault)
	if err != nil {
		return refuse(http.StatusInternalServerError, "unknown", err.Error())
	}
	a.authenticate = "Basic realm=" + file
	return a
}

// arcToken answers as a present agent does. It does not know mi_res_id.
func (e *Emulator) arcToken(q url.Values) answer {
	q.Del("mi_res_id")
	id, complaint := e.choose(q, (*identities).systemAssigned)
	if complaint != nil {
		return *complaint
	}
	return e.arcAnswer(id, q, arcBody{
		ClientID:   id.ClientID,
		ObjectID:   q.Get("object_id"),
		ResourceID: q.Get("msi_res_id"),
	})
}

// arcLegacyToken answers as an old agent does.
func (e *Emulator) arcLegacyToken(q url.Values) answer {
	e.identities.mu.RLock()
	defer e.identities.mu.RUnlock()
	id, complaint := e.identities.systemAssigned()
	if complaint != nil {
		return *complaint
	}
	return e.arcAnswer(id, q, arcBody{})
}

func (e *Emulator) arcAnswer(id Identity, q url.Values, body arcBody) answer {
	token, err := e.tokenFor(id, q.Get("resource"), time.Now())
	if err != nil {
		return refuse(http.StatusInternalServerError, "unknown", err.Error())
	}
	body.tokenBody = token
	return answer{status: http.StatusOK, body: body}
}

// systemAssigned picks the only identity that a machine has without a selector
// under Azure Arc. It needs mu held.
func (s *identities) systemAssigned() (Identity, *answer) {
	for _, id := range s.ids {
		if id.System {
			return id, nil
		}
	}
	a := refuse(http.StatusUnauthorized, "unauthorized_client", "No managed identity is configured on this machine")
	return Identity{}, &a
}
