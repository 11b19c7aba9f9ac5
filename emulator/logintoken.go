package emulator

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// maxForm is more than any assertion takes.
const maxForm = 1 << 20

// grant is the answer with a token. Its numbers are numbers, unlike those of
// the identity endpoint.
type grant struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
}

// answerToken lets faults act on proper requests alone, as the data plane does.
func (e *Emulator) answerToken(l loginServer) answer {
	form, complaint := l.tokenForm()
	if complaint != nil {
		return *complaint
	}
	f, faulty := e.faults.takeAt(loginName, anyKind)
	if faulty {
		if a, decided := l.faulted(f); decided {
			return a
		}
	}
	return e.grantToken(l, form).through(f)
}

// tokenForm reads a request and refuses what is wrong with its form.
func (l loginServer) tokenForm() (url.Values, *answer) {
	var a answer
	if l.r.Method != http.MethodPost {
		a = l.deny(onlyPOST, l.r.Method)
		return nil, &a
	}
	l.r.Body = http.MaxBytesReader(nil, l.r.Body, maxForm)
	if err := l.r.ParseForm(); err != nil {
		a = l.deny(missing, "grant_type")
		return nil, &a
	}
	form := l.r.PostForm
	for _, field := range []string{"grant_type", "client_id", "scope"} {
		if form.Get(field) == "" {
			a = l.deny(missing, field)
			return nil, &a
		}
	}
	switch grant := form.Get("grant_type"); {
	case !isTenant(l.tenant):
		a = l.deny(unknownTenant, l.tenant)
	case grant != "client_credentials":
		a = l.deny(otherGrant, grant)
	default:
		return form, nil
	}
	return nil, &a
}

// grantToken asks who it is, then what for.
func (e *Emulator) grantToken(l loginServer, form url.Values) answer {
	app, ok := e.applications.find(form.Get("client_id"))
	if !ok {
		return l.deny(unknownApplication, form.Get("client_id"))
	}
	now := time.Now()
	if complaint := e.recognise(l, app, form, now); complaint != nil {
		return *complaint
	}
	if app.Disabled {
		return l.deny(disabledApplication, app.ClientID)
	}
	resource, complaint := e.resourceOf(l, form.Get("scope"))
	if complaint != nil {
		return *complaint
	}
	token, c, err := e.tokens.mint(Identity{ClientID: app.ClientID, ObjectID: app.ObjectID}, resource, now)
	if err != nil {
		return l.deny(serverTrouble)
	}
	left := int64(c.ExpiresAt.Sub(now) / time.Second)
	return answer{status: http.StatusOK, body: grant{TokenType: "Bearer", ExpiresIn: left, ExtExpiresIn: left, AccessToken: token}}
}

// recognise returns nil for a client that has shown it is app.
func (e *Emulator) recognise(l loginServer, app Application, form url.Values, now time.Time) *answer {
	var a answer
	switch kind := form.Get("client_assertion_type"); {
	case form.Get("client_assertion") == "" && form.Get("client_secret") == "":
		a = l.deny(noCredential)
	case form.Get("client_assertion") == "":
		return l.checkSecret(app, form.Get("client_secret"), now)
	case kind != assertionType:
		a = l.deny(otherAssertionType, kind)
	default:
		return e.checkAssertion(l, app, form.Get("client_assertion"), now)
	}
	return &a
}

func (l loginServer) checkSecret(app Application, secret string, now time.Time) *answer {
	a := l.deny(wrongSecret, app.ClientID)
	for _, s := range app.Secrets {
		if s.Value == "" || subtle.ConstantTimeCompare([]byte(s.Value), []byte(secret)) != 1 {
			continue
		}
		if s.Expires.IsZero() || now.Before(s.Expires) {
			return nil
		}
		a = l.deny(expiredSecret, app.ClientID)
	}
	return &a
}

// oidcScopes are what clients send beside the one scope that counts.
var oidcScopes = []string{"openid", "profile", "email", "offline_access"}

// resourceOf reads the resource that a scope means, and refuses one that is not
// of the login server's cloud.
func (e *Emulator) resourceOf(l loginServer, scope string) (string, *answer) {
	scopes := slices.DeleteFunc(strings.Fields(scope), func(s string) bool { return slices.Contains(oidcScopes, s) })
	a := l.deny(badScope, scope)
	if len(scopes) != 1 {
		return "", &a
	}
	resource, ok := strings.CutSuffix(scopes[0], "/.default")
	if !ok {
		return "", &a
	}
	if !e.serves(l, resource) {
		a = l.deny(unknownResource, resource)
		return "", &a
	}
	return resource, nil
}

// serves tells whether a login server has tokens for a resource. All have them
// for the loopback names of vaults, which belong to no cloud.
func (e *Emulator) serves(l loginServer, resource string) bool {
	if l.cloud == nil {
		return e.knows(resource)
	}
	u, err := url.Parse(resource)
	if err != nil || u.Scheme != "https" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	if host == l.cloud.suffix || host == l.cloud.manager || isLoopback(host) {
		return true
	}
	// A suffix of no cloud goes to the login server that its challenge names.
	return cloudOf(host) == nil && slices.Contains(e.suffixes(), host) && slices.Contains(l.cloud.login, e.loginFor(host))
}
