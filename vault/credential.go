package vault

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	// renewalPause is azcore's: after a request for a token, one that has not ended serves so long without another, be it that
	// the request failed, or that it brought a token that is due for renewal again.
	renewalPause = 30 * time.Second
	// youngToken is the age below which no token is stale: a vault that rejects it would reject its successor too.
	youngToken = time.Minute
)

// credential keeps the tokens of one Identity for all vaults whose tokens come from the same place. It is the one cache of
// tokens: what stands behind it is made anew for each token that is needed, which reads files again that rotate, and leaves
// behind the caches of MSAL, which cannot forget a token that a vault rejected.
type credential struct {
	id    Identity
	open  func() (azcore.TokenCredential, error)
	limit time.Duration // for one request for a token, so that a try outlives it; zero: none
	busy  chan struct{} // holds one element while somebody asks for a token; waiting for it can be given up

	mu   sync.Mutex
	held map[tokenKey]held // guarded by mu
}

var _ azcore.TokenCredential = (*credential)(nil)

type tokenKey struct{ scope, tenant string }

type held struct {
	token   azcore.AccessToken
	issued  time.Time // when token came
	claims  string    // that a vault demanded of token
	asked   time.Time // when the latest request ended, the renewal of token included
	failure *Error    // of the latest request, nil if there is a token
}

func newCredential(id Identity, limit time.Duration, open func() (azcore.TokenCredential, error)) *credential {
	return &credential{id: id, open: open, limit: limit, busy: make(chan struct{}, 1), held: make(map[tokenKey]held)}
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
	if c.id.TenantID != "" || c.id.Method == ManagedIdentity {
		o.TenantID = "" // the vault's; the settings know better, and an identity endpoint has none
	}
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
	return c.keep(ctx, key, held{token: token, claims: o.Claims, failure: err})
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
		return explainWaiting(c.id, context.Cause(ctx))
	}
}

// answered returns what needs no request: a fresh token, one that has not ended and was asked for just now, or the
// failure of somebody who asked while this try was under way already.
func (c *credential) answered(ctx context.Context, key tokenKey, o policy.TokenRequestOptions) (held, bool) {
	h, now := c.holds(key), time.Now()
	switch began := attemptOf(ctx).began; {
	case c.mustAsk(h, o):
		return held{}, false
	case fresh(h.token, now), valid(h.token, now) && now.Sub(h.asked) < renewalPause:
		return held{token: h.token}, true
	case h.failure != nil && !began.IsZero() && h.asked.After(began):
		return held{failure: h.failure}, true
	}
	return held{}, false
}

// unexpired returns the token that serves while somebody else renews it.
func (c *credential) unexpired(key tokenKey, o policy.TokenRequestOptions) (azcore.AccessToken, bool) {
	h := c.holds(key)
	return h.token, valid(h.token, time.Now()) && !c.mustAsk(h, o)
}

func (c *credential) holds(key tokenKey) held {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[key]
}

// mustAsk reports whether h will not do, because it is not of the claims that a vault demands, or was rejected with them. An
// identity endpoint takes no claims: there it is up to reject whether the token of the challenged request is replaced.
func (c *credential) mustAsk(h held, o policy.TokenRequestOptions) bool {
	young := time.Since(h.issued) < youngToken
	return o.Claims != "" && c.id.Method != ManagedIdentity && (h.claims != o.Claims || !young)
}

func valid(t azcore.AccessToken, now time.Time) bool { return t.Token != "" && now.Before(t.ExpiresOn) }

func fresh(t azcore.AccessToken, now time.Time) bool { return valid(t, now) && now.Before(t.RefreshOn) }

// ask gets a new token. A panic must not leave here: azcore's caller would keep everybody else waiting for ever.
func (c *credential) ask(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, *Error) {
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.limit)
		defer cancel()
	}
	answer := new(loginAnswer)
	ctx = context.WithValue(ctx, loginAnswerKey{}, answer)
	var token azcore.AccessToken
	err := guarded(func() error {
		inner, err := c.open()
		if err == nil {
			token, err = inner.GetToken(ctx, o)
		}
		return err
	})
	var own *Error
	switch {
	case errors.As(err, &own):
		return azcore.AccessToken{}, own
	case err != nil:
		return azcore.AccessToken{}, explainLogin(c.id, answer, err)
	}
	return token, nil
}

// keep remembers the outcome of a request for others. The failure of a caller who gave up says nothing to them.
func (c *credential) keep(ctx context.Context, key tokenKey, got held) (azcore.AccessToken, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, now := c.held[key], time.Now()
	got.asked = now
	switch {
	case got.failure == nil:
		got.issued, got.token.RefreshOn = now, renewalOf(got.token, now)
		c.held[key] = got
	case valid(h.token, now):
		h.asked = now
		c.held[key] = h
		return h.token, nil
	case ctx.Err() == nil:
		c.held[key] = got
	}
	return got.token, got.failure
}

// renewalOf returns when to ask for the successor of a token that came now: half of its life is left then for whatever keeps
// its source from answering. The issuer may wish for another time.
func renewalOf(token azcore.AccessToken, now time.Time) time.Time {
	if token.RefreshOn.After(now) && token.RefreshOn.Before(token.ExpiresOn) {
		return token.RefreshOn
	}
	return now.Add(token.ExpiresOn.Sub(now) / 2)
}

// reject forgets a token that a vault answered with 401. A newer token that came meanwhile stays, and so does a young one:
// it is the identity that this vault rejects, and other vaults do not.
func (c *credential) reject(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.held {
		if h.token.Token == token && time.Since(h.issued) >= youngToken {
			delete(c.held, key)
		}
	}
}
