package vault

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

const defaultTryTimeout = 15 * time.Second

// Options configure a Client. The zero value is what a machine in Azure needs.
type Options struct {
	// CAFile is a PEM file of roots that are trusted for the vaults and login servers beside the system's. Empty: the
	// system's alone.
	CAFile string
	// CA is the content of CAFile where the caller has read it already; nil: it is read here.
	CA []byte
	// Connect is another way to a vault: "*.vault.azure.net:443" -> "127.0.0.1:8443". The name in TLS and HTTP stays,
	// so nothing is trusted that was not before. "*" stands for one label; an exact key beats a wildcard. What
	// matches goes past the proxy of the environment. It holds for login servers too.
	Connect map[string]string
	// TryTimeout bounds one try, from getting a token to the end of the body. Zero: 15 s.
	TryTimeout time.Duration
	// Logger gets one line at debug level per call. Nil: nothing is logged.
	Logger *slog.Logger
}

// Client reads secrets. It keeps one SDK client, its connections and its tokens per vault and identity for its own life,
// and may be used from any number of goroutines.
type Client struct {
	try     time.Duration
	log     *slog.Logger
	ways    connect
	vaults  *http.Client
	machine *http.Client
	logins  *http.Client
	arcKeys string
	tally   tally

	mu          sync.Mutex
	sdk         map[sdkKey]*azsecrets.Client  // guarded by mu
	credentials map[credentialKey]*credential // guarded by mu
}

type sdkKey struct {
	host string // lower case
	id   Identity
}

// credentialKey tells apart what must not share tokens: an identity that logs in at two authorities has two.
type credentialKey struct {
	id        Identity
	authority string
}

// New makes a Client. It fails on a CA file that cannot be used and on a Connect that is not host:port, and does not use
// the network.
func New(o Options) (*Client, error) {
	roots, err := loadRoots(o.CAFile, o.CA)
	if err != nil {
		return nil, err
	}
	ways, err := newConnect(o.Connect)
	if err != nil {
		return nil, err
	}
	if o.TryTimeout <= 0 {
		o.TryTimeout = defaultTryTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		try:         o.TryTimeout,
		log:         o.Logger,
		ways:        ways,
		tally:       tally{hosts: make(map[string]*HostStats)},
		arcKeys:     arcKeyDirectory,
		sdk:         make(map[sdkKey]*azsecrets.Client),
		credentials: make(map[credentialKey]*credential),
	}
	world := newVaultTransport(roots, ways)
	c.vaults = &http.Client{Transport: metered{world, &c.tally}, CheckRedirect: refuseRedirect}
	c.logins = &http.Client{Transport: metered{world, nil}, CheckRedirect: refuseRedirect}
	c.machine = &http.Client{Transport: metered{newIdentityTransport(), nil}, CheckRedirect: refuseRedirect, Timeout: min(identityTimeout, o.TryTimeout/2)}
	return c, nil
}

// Get fetches the version of a secret that ref pins, or the newest one. It is one try, within Options.TryTimeout, that is
// not repeated whatever the answer. The error is always an *[Error].
func (c *Client) Get(ctx context.Context, id Identity, ref Ref) (secret *Secret, err error) {
	err = c.call(ctx, question{id: id, ref: ref}, func(ctx context.Context, sdk *azsecrets.Client) error {
		var raw *http.Response
		answer, err := sdk.GetSecret(policy.WithCaptureResponse(ctx, &raw), ref.Name(), ref.Version(), nil)
		if err != nil {
			return err
		}
		if secret, err = secretFrom(ref, answer.Secret); err == nil {
			secret.Answered = answeredAt(raw)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return secret, nil
}

// Stats returns the counts of every vault asked so far, by host.
func (c *Client) Stats() []HostStats { return c.tally.snapshot() }

// question is what a call wants to know; messages need it.
type question struct {
	id   Identity
	ref  Ref
	list bool   // the versions, not the value
	all  bool   // with list: the secrets of the vault, not the versions of one
	way  string // host:port that Options.Connect leads to, "" if the vault is reached by its name
}

// attempt is what the transport tells about the requests of one try. It travels in their context.
type attempt struct {
	began     time.Time
	connected atomic.Bool                // a connection to the vault was had
	presented atomic.Bool                // a token was sent to the vault
	wanted    policy.TokenRequestOptions // of the token that the vault asked for last
	tokenless *Error                     // why there was no token; azcore drops it when the deadline passes meanwhile
}

type attemptKey struct{}

// attemptOf returns the attempt of ctx, or one that nobody reads.
func attemptOf(ctx context.Context) *attempt {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a
	}
	return new(attempt)
}

// call runs ask as one try and explains its error.
func (c *Client) call(parent context.Context, q question, ask func(context.Context, *azsecrets.Client) error) error {
	q.id = q.id.explicit()
	q.way, _ = c.ways.lookup(net.JoinHostPort(hostnameOf(q.ref), portOf(q.ref)))
	a := &attempt{began: time.Now()}
	ctx, cancel := context.WithDeadline(context.WithValue(parent, attemptKey{}, a), a.began.Add(c.try)) // messages say how long it was
	defer cancel()
	sdk, err := c.client(q)
	if err == nil {
		err = guarded(func() error { return ask(ctx, sdk) })
	}
	took := time.Since(a.began)
	if err == nil {
		c.log.DebugContext(parent, "asked the vault", "url", q.ref.String(), "list", q.list, "took", took)
		return nil
	}
	e := explain(parent, ctx, q, a, err)
	c.tally.change(q.ref.Host(), func(s *HostStats) { s.Failed++ })
	c.log.DebugContext(parent, "asked the vault in vain", "url", q.ref.String(), "list", q.list, "took", took,
		"kind", e.Kind, "status", e.Status, "code", e.Code, "inner", e.Inner, "request", e.RequestID, "error", e.Fact)
	return e
}

// panicked is the error for a panic in the SDK.
type panicked struct{ cause any }

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.cause) }

// guarded turns a panic of f into an error. The SDK's parser of challenges indexes what a server sends without looking.
func guarded(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = panicked{cause}
		}
	}()
	return f()
}

// client returns the SDK client of a vault and identity: each new one costs the vault a request without a token.
func (c *Client) client(q question) (*azsecrets.Client, error) {
	key := sdkKey{strings.ToLower(q.ref.Host()), q.id}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sdk := c.sdk[key]; sdk != nil {
		return sdk, nil
	}
	cred, err := c.credential(q)
	if err != nil {
		return nil, err
	}
	sdk, err := azsecrets.NewClient("https://"+key.host, promise{}, &azsecrets.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: vaultTransporter{c.vaults, cred, q.ref},
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: "kvfs"},
	}})
	if err != nil {
		return nil, fmt.Errorf("preparing a client for %s: %w", key.host, err)
	}
	c.sdk[key] = sdk
	return sdk, nil
}

// credential returns the one credential of an identity and its authority. The caller holds c.mu.
func (c *Client) credential(q question) (*credential, error) {
	authority, err := authorityOf(q.id, q.ref)
	if err != nil {
		return nil, err
	}
	key := credentialKey{q.id, authority}
	if cred := c.credentials[key]; cred != nil {
		return cred, nil
	}
	open, err := c.opener(q.id, authority)
	if err != nil {
		return nil, err
	}
	cred := newCredential(q.id, c.try*2/3, open)
	c.credentials[key] = cred
	return cred, nil
}

// opener returns what makes the credential that stands behind ours, for each token anew.
func (c *Client) opener(id Identity, authority string) (func() (azcore.TokenCredential, error), error) {
	switch id.Method {
	case ManagedIdentity:
		m, err := newManaged(id, c.arcKeys, c.machine)
		return func() (azcore.TokenCredential, error) { return m, nil }, err
	case Ambient:
		return login{id, authority, loginTransporter{c.logins, c.ways, c.machine}}.open, nil
	case AzureCLI:
		return azureCLI{id}.open, nil
	}
	return login{id, authority, loginTransporter{c.logins, c.ways, nil}}.open, nil
}

// promise stands in for the credential where the SDK wants a token: azcore lets all callers but one wait for it without an
// ear for their contexts. It notes what is wanted, and has ended at once, so that nobody takes it over from somebody else;
// vaultTransporter fulfils it.
type promise struct{}

var _ azcore.TokenCredential = promise{}

// GetToken implements azcore.TokenCredential.
func (promise) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	attemptOf(ctx).wanted = o
	return azcore.AccessToken{Token: "promised"}, nil
}

// vaultTransporter puts the token in the place of the promise, on a copy of the request: what the SDK keeps and returns in
// its errors has none. It tells the credential which tokens a vault rejected. It also holds the SDK to one vault: whatever
// link or answer leads elsewhere, no token goes there.
type vaultTransporter struct {
	client *http.Client
	cred   *credential
	ref    Ref // of any secret of the vault
}

var _ policy.Transporter = vaultTransporter{}

// Do implements policy.Transporter.
func (t vaultTransporter) Do(req *http.Request) (*http.Response, error) {
	if !isVaultURL(t.ref, req.URL) {
		return nil, senseless(t.ref, "a request to %s would go to another host, %s", t.ref.Host(), quoted(req.URL.Host))
	}
	if req.Header.Get("Authorization") == "" {
		return t.client.Do(req)
	}
	a := attemptOf(req.Context())
	token, err := t.cred.GetToken(req.Context(), a.wanted)
	if err != nil {
		return nil, err
	}
	bearing := req.Clone(req.Context())
	bearing.Header.Set("Authorization", "Bearer "+token.Token)
	a.presented.Store(true)
	resp, err := t.client.Do(bearing)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		t.cred.reject(token.Token)
	}
	resp.Request = req
	return resp, nil
}
