package vault

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// earlyRefresh is azcore's margin: a token this close to its end is no longer used when a new one can be had.
const earlyRefresh = 5 * time.Minute

// credential keeps the tokens of one Identity for all vaults. It stands in front of azidentity because the cache behind
// that belongs to the whole process, does not know endpoints, and cannot forget a token that a vault rejected.
type credential struct {
	id   Identity
	open func() (azcore.TokenCredential, error)
	busy chan struct{} // holds one element while somebody asks for a token; waiting for it can be given up

	mu    sync.Mutex
	inner azcore.TokenCredential // guarded by mu; nil until first asked, and after a rejection
	held  map[tokenKey]held      // guarded by mu
}

var _ azcore.TokenCredential = (*credential)(nil)

type tokenKey struct{ scope, tenant string }

type held struct {
	token    azcore.AccessToken
	failure  *Error    // of the latest request, nil if it gave token
	failedAt time.Time // when failure was known
}

// newCredential prepares the credential of id. Requests to the machine's identity endpoint go through machine.
func newCredential(id Identity, machine *http.Client) (*credential, error) {
	open := openAmbient(machine)
	if !id.Ambient {
		endpoint, err := newEndpoint(id, machine)
		if err != nil {
			return nil, err
		}
		open = func() (azcore.TokenCredential, error) { return openManaged(id, endpoint) }
	}
	return &credential{id: id, open: open, busy: make(chan struct{}, 1), held: make(map[tokenKey]held)}, nil
}

// oneTry keeps azidentity, which on its own repeats for up to 97 s, within one try of ours.
func oneTry(t policy.Transporter) azcore.ClientOptions {
	return azcore.ClientOptions{Transport: t, Retry: policy.RetryOptions{MaxRetries: -1}}
}

func openManaged(id Identity, endpoint endpoint) (azcore.TokenCredential, error) {
	o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: oneTry(endpoint)}
	switch {
	case id.ClientID != "":
		o.ID = azidentity.ClientID(id.ClientID)
	case id.ObjectID != "":
		o.ID = azidentity.ObjectID(id.ObjectID)
	case id.ResourceID != "":
		o.ID = azidentity.ResourceID(id.ResourceID)
	}
	return azidentity.NewManagedIdentityCredential(o)
}

func openAmbient(machine *http.Client) func() (azcore.TokenCredential, error) {
	t := newAmbientTransporter(machine)
	return func() (azcore.TokenCredential, error) {
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: oneTry(t)})
	}
}

// GetToken implements azcore.TokenCredential. One caller at a time asks; those who waited share its answer. A valid token
// outlives failed attempts to renew it. The error is always an *[Error], and noted in the attempt of ctx.
func (c *credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.token(ctx, o)
	if err != nil {
		attemptOf(ctx).tokenless = err
		return azcore.AccessToken{}, err
	}
	return token, nil
}

func (c *credential) token(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, *Error) {
	key := tokenKey{tenant: o.TenantID}
	if len(o.Scopes) == 1 {
		key.scope = o.Scopes[0]
	}
	if h, ok := c.answered(ctx, key, o); ok {
		return h.token, h.failure
	}
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return azcore.AccessToken{}, explainIdentity(c.id, &identityAnswer{}, context.Cause(ctx))
	}
	if h, ok := c.answered(ctx, key, o); ok {
		return h.token, h.failure
	}
	token, err := c.ask(ctx, o)
	return c.keep(ctx, key, token, err)
}

// answered returns what needs no request: a fresh token, or the failure of somebody who asked while this try was under
// way already. A claims challenge needs a new token in any case.
func (c *credential) answered(ctx context.Context, key tokenKey, o policy.TokenRequestOptions) (held, bool) {
	c.mu.Lock()
	h := c.held[key]
	c.mu.Unlock()
	switch began := attemptOf(ctx).began; {
	case o.Claims != "":
		return held{}, false
	case h.failure != nil && !began.IsZero() && h.failedAt.After(began):
		return held{failure: h.failure}, true
	case fresh(h.token, time.Now()):
		return held{token: h.token}, true
	}
	return held{}, false
}

func fresh(t azcore.AccessToken, now time.Time) bool {
	if t.Token == "" {
		return false
	}
	if !t.RefreshOn.IsZero() {
		return now.Before(t.RefreshOn) && now.Before(t.ExpiresOn)
	}
	return now.Before(t.ExpiresOn.Add(-earlyRefresh))
}

// ask gets a new token. A panic must not leave here: azcore's caller would keep everybody else waiting for ever.
func (c *credential) ask(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, *Error) {
	answer := new(identityAnswer)
	ctx = context.WithValue(ctx, identityAnswerKey{}, answer)
	if o.Claims == "" && !c.id.Ambient {
		// Claims are not sent to an identity endpoint. They are how MSAL is told to pass its cache by.
		o.Claims = "{}"
	}
	var token azcore.AccessToken
	err := guarded(func() error {
		inner, err := c.opened()
		if err == nil {
			token, err = inner.GetToken(ctx, o)
		}
		return err
	})
	if err != nil {
		return azcore.AccessToken{}, explainIdentity(c.id, answer, err)
	}
	return token, nil
}

func (c *credential) opened() (azcore.TokenCredential, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner != nil {
		return c.inner, nil
	}
	inner, err := c.open()
	if err == nil {
		c.inner = inner
	}
	return inner, err
}

// keep remembers the outcome of a request for others. The failure of a caller who gave up says nothing to them.
func (c *credential) keep(ctx context.Context, key tokenKey, token azcore.AccessToken, err *Error) (azcore.AccessToken, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.held[key]
	switch {
	case err == nil:
		c.held[key] = held{token: token}
		return token, nil
	case h.token.Token != "" && time.Now().Before(h.token.ExpiresOn):
		return h.token, nil
	case ctx.Err() == nil:
		c.held[key] = held{failure: err, failedAt: time.Now()}
	}
	return azcore.AccessToken{}, err
}

// reject forgets a token that a vault answered with 401, and the credential with its caches that gave it. A newer token
// that came meanwhile stays.
func (c *credential) reject(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.held {
		if h.token.Token == token {
			delete(c.held, key)
			c.inner = nil
		}
	}
}
