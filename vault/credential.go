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

const (
	// earlyRefresh is azcore's margin: a token this close to its end is no longer used when a new one can be had.
	earlyRefresh = 5 * time.Minute
	// renewalPause is azcore's too: after a renewal has failed, a token that has not ended serves so long without another.
	renewalPause = 30 * time.Second
	// youngToken is the age below which no token is stale: a vault that rejects it would reject its successor too.
	youngToken = time.Minute
)

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
	issued   time.Time // when token came
	failure  *Error    // of the latest request, nil if there is a token
	failedAt time.Time // when the latest request failed, the renewal of token included
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
// outlives failed attempts to renew it, and nobody waits for a renewal who has one. The error is always an *[Error], and
// noted in the attempt of ctx.
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
	if !c.free() {
		if token, ok := c.unexpired(key, o); ok {
			return token, nil
		}
		if err := c.wait(ctx); err != nil {
			return azcore.AccessToken{}, err
		}
	}
	defer func() { <-c.busy }()
	if h, ok := c.answered(ctx, key, o); ok {
		return h.token, h.failure
	}
	token, err := c.ask(ctx, o)
	return c.keep(ctx, key, token, err)
}

// free takes the turn to ask if nobody has it.
func (c *credential) free() bool {
	select {
	case c.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

// wait takes the turn to ask once it is free.
func (c *credential) wait(ctx context.Context) *Error {
	select {
	case c.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return explainIdentity(c.id, &identityAnswer{}, context.Cause(ctx))
	}
}

// answered returns what needs no request: a fresh token, one that has not ended although its renewal failed just now, or the
// failure of somebody who asked while this try was under way already.
func (c *credential) answered(ctx context.Context, key tokenKey, o policy.TokenRequestOptions) (held, bool) {
	h, now := c.holds(key), time.Now()
	switch began := attemptOf(ctx).began; {
	case c.mustAsk(o):
		return held{}, false
	case fresh(h.token, now), valid(h.token, now) && now.Sub(h.failedAt) < renewalPause:
		return held{token: h.token}, true
	case h.failure != nil && !began.IsZero() && h.failedAt.After(began):
		return held{failure: h.failure}, true
	}
	return held{}, false
}

// unexpired returns the token that serves while somebody else renews it.
func (c *credential) unexpired(key tokenKey, o policy.TokenRequestOptions) (azcore.AccessToken, bool) {
	token := c.holds(key).token
	return token, valid(token, time.Now()) && !c.mustAsk(o)
}

func (c *credential) holds(key tokenKey) held {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[key]
}

// mustAsk reports whether no token will do that was had before. An identity endpoint takes no claims: there it is up to
// reject whether the token of the challenged request is replaced.
func (c *credential) mustAsk(o policy.TokenRequestOptions) bool {
	return o.Claims != "" && c.id.Ambient
}

func valid(t azcore.AccessToken, now time.Time) bool { return t.Token != "" && now.Before(t.ExpiresOn) }

func fresh(t azcore.AccessToken, now time.Time) bool {
	refresh := t.RefreshOn
	if refresh.IsZero() {
		refresh = t.ExpiresOn.Add(-earlyRefresh)
	}
	return valid(t, now) && now.Before(refresh)
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
	h, now := c.held[key], time.Now()
	switch {
	case err == nil:
		c.held[key] = held{token: token, issued: now}
		return token, nil
	case valid(h.token, now):
		h.failedAt = now
		c.held[key] = h
		return h.token, nil
	case ctx.Err() == nil:
		c.held[key] = held{failure: err, failedAt: now}
	}
	return azcore.AccessToken{}, err
}

// reject forgets a token that a vault answered with 401, and the credential with its caches that gave it. A newer token
// that came meanwhile stays, and so does a young one: it is the identity that this vault rejects, and other vaults do not.
func (c *credential) reject(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.held {
		if h.token.Token == token && time.Since(h.issued) >= youngToken {
			delete(c.held, key)
			c.inner = nil
		}
	}
}
