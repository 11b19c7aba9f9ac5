package vault

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	// renewalPause is azcore's: after a request for a token, one that has not ended serves so long without another, be it that
	// the request failed, or that it brought a token that is due for renewal again.
	renewalPause = 30 * time.Second
	// renewalLimit bounds the request of one who has a valid token in hand, and a secret to read with it.
	renewalLimit = 2 * time.Second
	// failurePause is how long a failure stands for all who need that token, unless its source asks for longer: many
	// certificates with one identity would ask in vain for each. It is short, so that a mended identity is found soon.
	failurePause = time.Second
	// longestPause bounds what a source may ask for: it is mended by people, who look whether it helped.
	longestPause = 5 * time.Minute
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
	token     azcore.AccessToken
	issued    time.Time // when token came
	stillborn bool      // token was over when it came
	asked     time.Time // when the latest request ended, the renewal of token included
	failure   *Error    // of the latest request, nil if there is a token
	demanded  time.Time // when the latest request for claims ended
	refusal   *Error    // of that one, nil if there was a token; the token here may be another, without the claims
}

func newCredential(id Identity, limit time.Duration, open func() (azcore.TokenCredential, error)) *credential {
	return &credential{id: id, open: open, limit: limit, busy: make(chan struct{}, 1), held: make(map[tokenKey]held)}
}

// GetToken implements azcore.TokenCredential. One caller at a time asks; those who waited share its answer. A valid token
// outlives failed attempts to renew it. Of those who have one, only the caller whose turn it is waits for its renewal, and
// not for long. The error is always an *[Error], and
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
	o = c.adapted(o)
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
	token, err := c.ask(ctx, o, c.limitFor(key))
	return c.keep(ctx, key, token, o.Claims != "", err)
}

// adapted leaves out what the identity has no use for. The settings and the environment know its tenant better than the vault,
// and an identity endpoint has none; there it is up to reject whether the token of a request challenged for claims is replaced.
func (c *credential) adapted(o policy.TokenRequestOptions) policy.TokenRequestOptions {
	switch method := c.id.Method; {
	case method == ManagedIdentity:
		o.TenantID, o.Claims = "", ""
	case c.id.TenantID != "", method == Environment, method == Ambient && os.Getenv("AZURE_TENANT_ID") != "":
		o.TenantID = ""
	}
	return o
}

// limitFor returns how long a request may take, zero for ever.
func (c *credential) limitFor(key tokenKey) time.Duration {
	if h := c.holds(key); valid(h.token, time.Now()) && (c.limit == 0 || c.limit > renewalLimit) {
		return renewalLimit
	}
	return c.limit
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

// answered returns what needs no request: a fresh token, one that was asked for just now, or a failure that stands.
func (c *credential) answered(ctx context.Context, key tokenKey, o policy.TokenRequestOptions) (held, bool) {
	h, now, began := c.holds(key), time.Now(), attemptOf(ctx).began
	switch {
	case o.Claims != "" && stands(h.refusal, h.demanded, now, began):
		return held{failure: h.refusal.since(h.demanded, now)}, true
	case h.lacks(o, now):
		return held{}, false
	case fresh(h.token, now), (valid(h.token, now) || h.stillborn) && now.Sub(h.asked) < renewalPause:
		return held{token: h.token}, true
	case stands(h.failure, h.asked, now, began):
		return held{failure: h.failure.since(h.asked, now)}, true
	}
	return held{}, false
}

// stands reports whether a failure still answers for a try: one that was under way already when it happened, or that comes
// within the pause after it.
func stands(failure *Error, happened, now, began time.Time) bool {
	if failure == nil {
		return false
	}
	pause := min(max(failure.RetryAfter, failurePause), longestPause)
	return now.Sub(happened) < pause || !began.IsZero() && happened.After(began)
}

// since returns e as it is to be told now: less of what the source asks to wait is left.
func (e *Error) since(happened, now time.Time) *Error {
	told := *e
	told.RetryAfter = max(0, e.RetryAfter-now.Sub(happened))
	return &told
}

// unexpired returns the token that serves while somebody else renews it.
func (c *credential) unexpired(key tokenKey, o policy.TokenRequestOptions) (azcore.AccessToken, bool) {
	h, now := c.holds(key), time.Now()
	return h.token, valid(h.token, now) && !h.lacks(o, now)
}

func (c *credential) holds(key tokenKey) held {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[key]
}

// lacks reports whether h will not do, because the vault demands claims. Once they were asked for, its next demands are in
// vain for a while, whichever claims they name.
func (h held) lacks(o policy.TokenRequestOptions, now time.Time) bool {
	return o.Claims != "" && (h.refusal != nil || now.Sub(h.demanded) >= youngToken)
}

func valid(t azcore.AccessToken, now time.Time) bool { return t.Token != "" && now.Before(t.ExpiresOn) }

func fresh(t azcore.AccessToken, now time.Time) bool { return valid(t, now) && now.Before(t.RefreshOn) }

// ask gets a new token within limit. A panic must not leave here with the turn to ask.
func (c *credential) ask(ctx context.Context, o policy.TokenRequestOptions, limit time.Duration) (azcore.AccessToken, *Error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
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
	if err == nil {
		return token, nil
	}
	var own *Error
	if !errors.As(err, &own) {
		own = explainLogin(c.id, answer, err)
	}
	own.Err = essence(own.Err)
	return azcore.AccessToken{}, own
}

// keep remembers the outcome of a request for others, and returns what the one who asked gets. The failure of a caller who
// gave up says nothing to them. A valid token makes up for a failure, but not for that of a request for claims.
func (c *credential) keep(ctx context.Context, key tokenKey, token azcore.AccessToken, claims bool, failure *Error) (azcore.AccessToken, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, now := c.held[key], time.Now()
	if failure != nil && ctx.Err() != nil && (claims || !valid(h.token, now)) {
		return azcore.AccessToken{}, failure
	}
	h.asked = now
	if claims {
		h.demanded, h.refusal = now, failure
	}
	switch {
	case failure == nil:
		token.RefreshOn = renewalOf(token, now)
		h.token, h.issued, h.stillborn, h.failure, h.refusal = token, now, !valid(token, now), nil, nil
	case claims: // what there is serves the requests without
	case valid(h.token, now):
		token, failure = h.token, nil
	default:
		h.token, h.stillborn, h.failure = azcore.AccessToken{}, false, failure
	}
	c.held[key] = h
	return token, failure
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
			h.token, h.stillborn = azcore.AccessToken{}, false
			c.held[key] = h
		}
	}
}
