package emulator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

// start makes an emulator and serves it until the test ends.
func start(t *testing.T, o Options) *Emulator {
	t.Helper()
	o.Dir = t.TempDir()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil when its context ends", err)
		}
	})
	return e
}

// overLoopback is what a user of kvfs.transport has: the real names, another
// way there, and ca.pem as the only root.
func overLoopback(t *testing.T, e *Emulator) *http.Client {
	t.Helper()
	text, err := os.ReadFile(e.Endpoints().CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatal("ca.pem holds no certificate")
	}
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, e.Addr())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// fromIdentity asks the identity endpoint for each token: no cache, unlike
// azidentity, whose cache is shared by the whole process.
type fromIdentity struct{ e *Emulator }

func (c fromIdentity) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	status, _, body, err := c.e.askIdentity(ctx, url.Values{"resource": {strings.TrimSuffix(o.Scopes[0], "/.default")}})
	if err != nil || status != http.StatusOK {
		return azcore.AccessToken{}, fmt.Errorf("token request: status %d: %w", status, err)
	}
	var got tokenBody
	if err := json.Unmarshal(body, &got); err != nil {
		return azcore.AccessToken{}, err
	}
	seconds, err := strconv.ParseInt(got.ExpiresOn, 10, 64)
	return azcore.AccessToken{Token: got.AccessToken, ExpiresOn: time.Unix(seconds, 0)}, err
}

// askIdentity sends a proper token request with more query parameters.
func (e *Emulator) askIdentity(ctx context.Context, more url.Values) (int, http.Header, []byte, error) {
	q := url.Values{"api-version": {"2018-02-01"}}
	for name, values := range more {
		q[name] = values
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Endpoints().Identity+"/oauth2/token?"+q.Encode(), nil)
	if err != nil {
		return 0, nil, nil, err
	}
	r.Header.Set("Metadata", "true")
	r.Close = true
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, body, err
}

// fixed is a credential that has one token.
type fixed string

func (c fixed) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(c), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// token mints one of the machine's first identity, with a chosen birth.
func (e *Emulator) token(t *testing.T, resource string, born time.Time) string {
	t.Helper()
	e.identities.mu.RLock()
	id := e.identities.ids[0]
	e.identities.mu.RUnlock()
	token, _, err := e.tokens.mint(id, resource, born)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// vaultClient is the unmodified client: nothing is switched off. It does not
// retry, unless a test asks for it.
func vaultClient(t *testing.T, e *Emulator, vaultURL string, cred azcore.TokenCredential, retries int32) *azsecrets.Client {
	t.Helper()
	client, err := azsecrets.NewClient(vaultURL, cred, &azsecrets.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: overLoopback(t, e),
		Retry:     policy.RetryOptions{MaxRetries: retries, RetryDelay: time.Millisecond, MaxRetryDelay: time.Second},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// client is vaultClient for the first vault with a working credential.
func client(t *testing.T, e *Emulator) *azsecrets.Client {
	return vaultClient(t, e, e.Endpoints().Vaults[0], fromIdentity{e}, -1)
}

// toEndpoint sends azidentity's requests for the real address to the emulator.
type toEndpoint struct{ token *url.URL }

func (p toEndpoint) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == "169.254.169.254" {
		u := *p.token
		u.RawQuery = r.URL.RawQuery
		r = r.Clone(r.Context())
		r.URL, r.Host = &u, u.Host
	}
	return http.DefaultClient.Do(r)
}

// managedIdentity is azidentity's credential, unmodified, pointed at e. Its
// cache spans the process, so id has to differ from test to test.
func managedIdentity(t *testing.T, e *Emulator, id azidentity.ManagedIDKind) azcore.TokenCredential {
	t.Helper()
	u, err := url.Parse(e.Endpoints().Identity + "/oauth2/token")
	if err != nil {
		t.Fatal(err)
	}
	cred, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ID:            id,
		ClientOptions: azcore.ClientOptions{Transport: toEndpoint{u}, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// get reads a value through the client, or ends the test.
func get(t *testing.T, c *azsecrets.Client, name, version string) azsecrets.GetSecretResponse {
	t.Helper()
	s, err := c.GetSecret(context.Background(), name, version, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// responseError is the SDK's error of a failed call, with the inner code the
// SDK does not show.
func responseError(t *testing.T, err error) (e *azcore.ResponseError, inner, message string) {
	t.Helper()
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want an azcore.ResponseError", err, err)
	}
	text, err := runtime.Payload(e.RawResponse)
	if err != nil {
		t.Fatal(err)
	}
	var body errorBody
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("body %q: %v", text, err)
	}
	if body.Error.Inner != nil {
		inner = body.Error.Inner.Code
	}
	return e, inner, body.Error.Message
}

func addCertificate(t *testing.T, e *Emulator, p Profile) string {
	t.Helper()
	v, err := e.AddCertificate(p)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
