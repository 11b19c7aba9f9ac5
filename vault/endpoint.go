package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	// identityTimeout is ample for an endpoint on the machine itself.
	identityTimeout = 5 * time.Second
	defaultEndpoint = "http://169.254.169.254/metadata/identity"
	tokenPath       = "/oauth2/token"
	arcKeyDirectory = "/var/opt/azcmagent/tokens"
	arcKeyLimit     = 4096
)

// tokenURL normalises an endpoint as settings spell it: with or without the token path, with or without a final slash.
func tokenURL(endpoint string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(endpoint))
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &Error{Kind: KindIdentity, Fact: fmt.Sprintf("identity endpoint %s is not an absolute http URL", quoted(endpoint)),
			Hint: "set msiEndpoint to " + defaultEndpoint + ", on Azure Arc to http://localhost:40342/metadata/identity"}
	}
	path := strings.TrimRight(u.Path, "/")
	if path == "" {
		path = "/metadata/identity"
	}
	if !strings.HasSuffix(path, tokenPath) {
		path += tokenPath
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path}, nil
}

// endpoint sends azidentity's token requests to the endpoint of the settings, and notes failing answers, whose bodies
// azidentity drops.
type endpoint struct {
	token   *url.URL // nil: wherever azidentity wants to go
	machine *http.Client
}

var _ policy.Transporter = endpoint{}

func newEndpoint(id Identity, machine *http.Client) (endpoint, error) {
	if id.Endpoint == "" {
		return endpoint{machine: machine}, nil
	}
	u, err := tokenURL(id.Endpoint)
	return endpoint{u, machine}, err
}

// Do implements policy.Transporter. What azidentity sends by the protocols of IMDS and Azure Arc is recognised by its
// path; other sources, which only their own environment variables select, are left alone.
func (e endpoint) Do(req *http.Request) (*http.Response, error) {
	if e.token != nil && strings.HasSuffix(req.URL.Path, "/metadata/identity"+tokenPath) {
		u := *e.token
		u.RawQuery = req.URL.RawQuery
		req = req.Clone(req.Context())
		req.URL, req.Host = &u, u.Host
	}
	answer := identityAnswerOf(req.Context())
	resp, err := e.ask(req, answer)
	answer.failure = err
	return resp, err
}

func (e endpoint) ask(req *http.Request, answer *identityAnswer) (*http.Response, error) {
	resp, err := e.machine.Do(req)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the identity endpoint: %w", err)
	}
	answer.note(resp, text)
	if err := screenArcKey(resp, arcKeyDirectory); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp, nil
}

// screenArcKey looks at the key file that an Azure Arc challenge names before azidentity reads it, which follows symbolic
// links: an impostor on the agent's port must not make root read anything but what the agent keeps in directory.
func screenArcKey(resp *http.Response, directory string) error {
	_, file, ok := strings.Cut(resp.Header.Get("WWW-Authenticate"), "Basic realm=")
	if !ok || resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	if filepath.Dir(file) != directory || filepath.Ext(file) != ".key" {
		return fmt.Errorf("the Azure Arc challenge names %s, which is no key of the agent", quoted(file))
	}
	info, err := os.Lstat(file)
	if err != nil {
		return fmt.Errorf("looking at the Azure Arc key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > arcKeyLimit {
		return fmt.Errorf("the Azure Arc key %s is not a regular file of at most %d bytes", quoted(file), arcKeyLimit)
	}
	return nil
}

// identityAnswer is how the latest request to an identity endpoint ended. azidentity drops the bodies of failing answers and
// flattens errors to text, so this travels around it, in the context.
type identityAnswer struct {
	failure    error // there was no whole answer
	status     int
	arc        bool // the answer is Azure Arc's challenge
	code       string
	message    string
	requestID  string
	retryAfter time.Duration
}

type identityAnswerKey struct{}

// identityAnswerOf returns the identityAnswer of ctx, or one that nobody reads.
func identityAnswerOf(ctx context.Context) *identityAnswer {
	if a, ok := ctx.Value(identityAnswerKey{}).(*identityAnswer); ok {
		return a
	}
	return new(identityAnswer)
}

// note keeps what a failing answer says, and of one that grants a token nothing but the status.
func (a *identityAnswer) note(resp *http.Response, text []byte) {
	*a = identityAnswer{status: resp.StatusCode}
	if resp.StatusCode == http.StatusOK {
		return
	}
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(text, &body) // an answer in another form is described by its status
	a.arc = strings.Contains(resp.Header.Get("WWW-Authenticate"), "Basic realm=")
	a.code, a.message = folded(body.Error), folded(body.Description)
	a.requestID = folded(resp.Header.Get("x-ms-request-id"))
	a.retryAfter = retryAfter(resp.Header, time.Now())
}

// ambientTransporter keeps the proxy away from the machine's identity endpoint; logins need it.
type ambientTransporter struct {
	machine endpoint
	world   *http.Client
}

var _ policy.Transporter = ambientTransporter{}

func newAmbientTransporter(machine *http.Client) ambientTransporter {
	world := newVaultTransport(nil, nil)
	return ambientTransporter{endpoint{machine: machine}, &http.Client{Transport: metered{world, nil}, CheckRedirect: refuseRedirect}}
}

// Do implements policy.Transporter.
func (t ambientTransporter) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" {
		return t.machine.Do(req) // plain http leads to endpoints on this machine only
	}
	return t.world.Do(req)
}
