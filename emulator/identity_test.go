package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"
)

const vaultResource = "https://vault.azure.net"

// ask is askIdentity that must get an answer.
func ask(t *testing.T, e *Emulator, q url.Values) (int, http.Header, []byte) {
	t.Helper()
	status, header, body, err := e.askIdentity(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return status, header, body
}

func TestTokenAnswerHasTheFormOfIMDS(t *testing.T) {
	e := start(t, Options{TokenLifetime: time.Hour})
	id := Identity{ClientID: newUUID(), ObjectID: newUUID(), ResourceID: "/subscriptions/s/x"}
	e.SetIdentities(id)
	begin := time.Now()
	status, header, body := ask(t, e, url.Values{"resource": {vaultResource}})
	var got map[string]string // numbers are strings
	if err := json.Unmarshal(body, &got); err != nil || status != 200 || header.Get("Server") == "" {
		t.Fatalf("%d %s %v", status, body, err)
	}
	for name, want := range map[string]string{"client_id": id.ClientID, "resource": vaultResource, "token_type": "Bearer"} {
		if got[name] != want {
			t.Errorf("%s %q, want %q", name, got[name], want)
		}
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(got[name], 10, 64)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if in, on := number("expires_in"), number("expires_on"); in < 3598 || in > 3600 || on < begin.Add(time.Hour).Unix() || number("not_before") != on-3900 {
		t.Errorf("times %v", got)
	}
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(got["access_token"], &c); err != nil {
		t.Fatal(err)
	}
	if c.Audience != vaultResource || c.AppID != id.ClientID || c.ObjectID != id.ObjectID || c.Resource != id.ResourceID || c.ExpiresAt.Unix() != number("expires_on") {
		t.Errorf("claims %+v", c)
	}
}

func TestIdentityEndpointRefusesWhatIMDSRefuses(t *testing.T) {
	e := start(t, Options{})
	for _, test := range []struct {
		name   string
		change func(*http.Request, url.Values)
		status int
		code   string
	}{
		{"proper", func(*http.Request, url.Values) {}, 200, ""},
		{"without Metadata", func(r *http.Request, _ url.Values) { r.Header.Del("Metadata") }, 400, "bad_request_102"},
		{"Metadata in upper case", func(r *http.Request, _ url.Values) { r.Header.Set("Metadata", "True") }, 400, "bad_request_102"},
		{"through a proxy", func(r *http.Request, _ url.Values) { r.Header.Set("X-Forwarded-For", "10.0.0.1") }, 400, "invalid_request"},
		{"without api-version", func(_ *http.Request, q url.Values) { q.Del("api-version") }, 400, "invalid_request"},
		{"old api-version", func(_ *http.Request, q url.Values) { q.Set("api-version", "2017-09-01") }, 400, "invalid_request"},
		{"without resource", func(_ *http.Request, q url.Values) { q.Del("resource") }, 400, "invalid_request"},
		{"resource of another cloud", func(_ *http.Request, q url.Values) { q.Set("resource", "https://vault.azure.cn") }, 400, "invalid_resource"},
		{"a scope for a resource", func(_ *http.Request, q url.Values) { q.Set("resource", "vault.azure.net") }, 400, "invalid_resource"},
		{"resource manager", func(_ *http.Request, q url.Values) { q.Set("resource", "https://management.azure.com/") }, 200, ""},
		{"two selectors", func(_ *http.Request, q url.Values) { q.Set("client_id", "a"); q.Set("object_id", "b") }, 400, "invalid_request"},
		{"another path", func(r *http.Request, _ url.Values) { r.URL.Path = "/metadata/instance" }, 401, "unknown_source"},
		{"POST", func(r *http.Request, _ url.Values) { r.Method = http.MethodPost }, 405, "invalid_request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequest(http.MethodGet, e.Endpoints().Identity+"/oauth2/token", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Metadata", "true")
			q := url.Values{"api-version": {"2018-02-01"}, "resource": {vaultResource}}
			test.change(r, q)
			r.URL.RawQuery, r.Close = q.Encode(), true
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var body identityError
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != test.status || body.Error != test.code {
				t.Errorf("%d %+v", response.StatusCode, body)
			}
		})
	}
	if got := e.Counters(); got.Identity != 13 || got.IdentityErrors != 11 {
		t.Errorf("counters %+v", got)
	}
}

func TestSelectorsChooseTheIdentity(t *testing.T) {
	system := Identity{ClientID: "c0", ObjectID: "o0", System: true}
	one, two := Identity{ClientID: "c1", ObjectID: "o1", ResourceID: "/subscriptions/1"}, Identity{ClientID: "c2", ObjectID: "o2", ResourceID: "/Subscriptions/2"}
	e := start(t, Options{})
	for _, test := range []struct {
		have []Identity
		ask  url.Values
		want string // client id, or part of the error
	}{
		{[]Identity{system, one, two}, nil, "c0"},
		{[]Identity{one}, nil, "c1"},
		{[]Identity{one, two}, nil, "Multiple user assigned identities exist"},
		{nil, nil, "No managed identity"},
		{[]Identity{one, two}, url.Values{"client_id": {"C2"}}, "c2"},
		{[]Identity{one, two}, url.Values{"object_id": {"o1"}}, "c1"},
		{[]Identity{one, two}, url.Values{"msi_res_id": {"/subscriptions/2"}}, "c2"},
		{[]Identity{one, two}, url.Values{"mi_res_id": {"/subscriptions/1"}}, "c1"},
		{[]Identity{one, two}, url.Values{"client_id": {"o1"}}, "Identity not found"},
		{[]Identity{system}, url.Values{"client_id": {"c9"}}, "Identity not found"},
	} {
		e.SetIdentities(test.have...)
		q := url.Values{"resource": {vaultResource}}
		for name, values := range test.ask {
			q[name] = values
		}
		_, _, body := ask(t, e, q)
		var got struct {
			ClientID    string `json:"client_id"`
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if got.ClientID != test.want && !(got.ClientID == "" && strings.Contains(got.Description, test.want)) {
			t.Errorf("%v of %d: %s, want %s", test.ask, len(test.have), body, test.want)
		}
	}
}

func TestIdentityFaults(t *testing.T) {
	e := start(t, Options{})
	q := url.Values{"resource": {vaultResource}}
	for kind, want := range map[FaultKind]struct {
		status int
		body   string
	}{
		IdentityNotFound:  {400, `{"error":"invalid_request","error_description":"Identity not found"}`},
		IdentityMultiple:  {400, `{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"}`},
		IdentityGone:      {410, ""},
		IdentityThrottled: {429, `{"error":"too_many_requests"`},
		Throttled:         {429, `{"error":"too_many_requests"`},
		ServerError:       {500, `{"error":"unknown"`},
		Unavailable:       {503, `{"error":"unknown"`},
		ForbiddenRBAC:     {500, `{"error":"emulator_fault"`},
	} {
		e.SetFault(Fault{Vault: "any", Name: "@identity", Kind: kind, RetryAfter: 70 * time.Second, Count: 1})
		status, header, body := ask(t, e, q)
		if status != want.status || !strings.HasPrefix(string(body), want.body) || header.Get("Retry-After") != "70" {
			t.Errorf("%s: %d %s, Retry-After %q", kind, status, body, header.Get("Retry-After"))
		}
		if status, _, _ := ask(t, e, q); status != 200 {
			t.Errorf("%s: still %d after its count", kind, status)
		}
	}
	e.SetFault(Fault{Kind: IdentityGone}) // its kind says where it belongs
	if status, header, _ := ask(t, e, q); status != 410 || header.Get("Retry-After") != "" {
		t.Errorf("status %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	for _, kind := range []FaultKind{Hang, HalfOpen} {
		e.SetFault(Fault{Name: "@identity", Kind: kind})
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		if _, _, _, err := e.askIdentity(ctx, q); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", kind, err)
		}
		cancel()
	}
	e.SetFault(Fault{Name: "@identity", Kind: Drop})
	if _, _, _, err := e.askIdentity(context.Background(), q); err == nil {
		t.Error("a dropped request was answered")
	}
}

// A fault for all of a vault is none of the identity endpoint.
func TestVaultFaultsLeaveTheIdentityEndpointAlone(t *testing.T) {
	e := start(t, Options{})
	e.SetFault(Fault{Kind: ServerError})
	if status, _, body := ask(t, e, url.Values{"resource": {vaultResource}}); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

// Each case has an id of its own: the cache of azidentity spans the process.
func TestUnmodifiedAzidentityGetsTokens(t *testing.T) {
	e := start(t, Options{})
	user := Identity{ClientID: newUUID(), ObjectID: newUUID(), ResourceID: "/subscriptions/" + newUUID() + "/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-web"}
	e.SetIdentities(user, Identity{ClientID: newUUID(), ObjectID: newUUID()})
	o := policy.TokenRequestOptions{Scopes: []string{vaultResource + "/.default"}}
	for name, kind := range map[string]azidentity.ManagedIDKind{
		"client": azidentity.ClientID(user.ClientID), "object": azidentity.ObjectID(user.ObjectID), "resource": azidentity.ResourceID(user.ResourceID),
	} {
		token, err := managedIdentity(t, e, kind).GetToken(context.Background(), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var c claims
		if _, _, err := jwt.NewParser().ParseUnverified(token.Token, &c); err != nil || c.AppID != user.ClientID {
			t.Errorf("%s: token of %q, want %q (%v)", name, c.AppID, user.ClientID, err)
		}
		if until := time.Until(token.ExpiresOn); until < 23*time.Hour || until > 24*time.Hour {
			t.Errorf("%s: good for %v", name, until)
		}
	}
	_, err := managedIdentity(t, e, azidentity.ClientID(newUUID())).GetToken(context.Background(), o)
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse.StatusCode != 400 {
		t.Errorf("an identity that is not there: %v", err)
	}
	e.SetFault(Fault{Kind: IdentityThrottled})
	if _, err := managedIdentity(t, e, azidentity.ClientID(newUUID())).GetToken(context.Background(), o); !errors.As(err, &failed) || failed.RawResponse.StatusCode != 429 {
		t.Errorf("throttled: %v", err)
	}
}
