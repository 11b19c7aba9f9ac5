package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	// identityTimeout is ample for an endpoint on the machine itself.
	identityTimeout = 5 * time.Second
	defaultEndpoint = "http://169.254.169.254/metadata/identity"
	tokenPath       = "/oauth2/token"
)

// tokenURL normalises an endpoint as settings spell it: with or without the token path, with or without a final slash.
func tokenURL(endpoint string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(endpoint))
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &Error{Kind: KindIdentity, Fact: fmt.Sprintf("identity endpoint %s is not an absolute http URL", quoted(endpoint)),
			Hint: "set msiEndpoint to " + defaultEndpoint + ", on Azure Arc to " + arcEndpoint}
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

// apiVersion is the version of the protocol to speak with host. Azure's metadata service takes 2018-02-01 or later, not all
// of them in all regions, so it gets the one that all SDKs send. Azure Arc takes 2019-11-01 and 2020-06-01 alone; it lives on
// the loopback, as do proxies of the metadata service, which hand a later version on to where it is understood.
func apiVersion(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLinkLocalUnicast() {
		return "2018-02-01"
	}
	return "2020-06-01"
}

// managed is a managed identity of this machine. azidentity.ManagedIdentityCredential does not serve for it: the environment
// of the process alone chooses its protocol and endpoint, where the settings must; its cache belongs to the process, does not
// know endpoints and cannot forget a token that a vault rejected; and it drops what a refusing endpoint says.
type managed struct {
	id      Identity
	token   *url.URL
	keys    string // the directory in which Azure Arc's agent keeps its keys
	machine *http.Client
}

var _ azcore.TokenCredential = managed{}

func newManaged(id Identity, keys string, machine *http.Client) (managed, error) {
	u, err := tokenURL(endpointOf(id))
	return managed{id, u, keys, machine}, err
}

// GetToken implements azcore.TokenCredential. It is one try of the protocol of Azure's metadata service; an endpoint that
// answers with Azure Arc's challenge gets the key that this names. The error is always an *[Error].
func (m managed) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	answer, err := m.ask(ctx, o, "")
	if err != nil {
		return azcore.AccessToken{}, err
	}
	file, arc := answer.challenge()
	if arc {
		key, err := readArcKey(m.keys, file)
		if err != nil {
			return azcore.AccessToken{}, explainArcKey(m.id, err)
		}
		if answer, err = m.ask(ctx, o, key); err != nil {
			return azcore.AccessToken{}, err
		}
	}
	if answer.status/100 != 2 {
		return azcore.AccessToken{}, explainRefusal(m.id, arc, answer)
	}
	return m.accept(answer, arc)
}

// selector returns the query parameter that chooses the identity. All endpoints spell the resource id as msi_res_id; Arc's
// would silently ignore mi_res_id.
func (id Identity) selector() (name, value string) {
	switch {
	case id.ClientID != "":
		return "client_id", id.ClientID
	case id.ObjectID != "":
		return "object_id", id.ObjectID
	case id.ResourceID != "":
		return "msi_res_id", id.ResourceID
	}
	return "", ""
}

// ask sends one request, with the key of Azure Arc if there is one.
func (m managed) ask(ctx context.Context, o policy.TokenRequestOptions, key string) (identityAnswer, error) {
	u := *m.token
	query := url.Values{"api-version": {apiVersion(u.Hostname())}}
	for _, scope := range o.Scopes {
		query.Add("resource", strings.TrimSuffix(scope, "/.default"))
	}
	if name, value := m.id.selector(); name != "" {
		query.Set(name, value)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return identityAnswer{}, explainSilence(m.id, err)
	}
	req.Header.Set("Metadata", "true")
	if key != "" {
		req.Header.Set("Authorization", "Basic "+key)
	}
	resp, err := m.machine.Do(req)
	if err != nil {
		return identityAnswer{}, explainSilence(m.id, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return identityAnswer{}, explainSilence(m.id, fmt.Errorf("reading the answer of the identity endpoint: %w", err))
	}
	return identityAnswer{resp.StatusCode, resp.Header, text}, nil
}

// identityAnswer is a whole answer of an identity endpoint. The text of one that grants a token must not be shown.
type identityAnswer struct {
	status int
	header http.Header
	text   []byte
}

// granted is what an answer 200 says, as far as it matters. Numbers come as numbers or as strings, and json.Number takes both.
type granted struct {
	Token      string      `json:"access_token"`
	ExpiresOn  json.Number `json:"expires_on"`
	ExpiresIn  json.Number `json:"expires_in"`
	ClientID   string      `json:"client_id"`
	ObjectID   string      `json:"object_id"`
	ResourceID string      `json:"msi_res_id"`
	OldName    string      `json:"mi_res_id"`
}

// accept takes the token of answer. Its end is what the endpoint says, which may hand out a token that it has had for hours.
func (m managed) accept(answer identityAnswer, arc bool) (azcore.AccessToken, error) {
	var g granted
	if err := json.Unmarshal(answer.text, &g); err != nil || g.Token == "" {
		return azcore.AccessToken{}, explainGarbage(answer)
	}
	ends := time.Now()
	on, errOn := g.ExpiresOn.Int64()
	in, errIn := g.ExpiresIn.Int64()
	switch {
	case errOn == nil:
		ends = time.Unix(on, 0)
	case errIn == nil:
		ends = ends.Add(time.Duration(min(max(in, 0), 7*24*3600)) * time.Second)
	default:
		return azcore.AccessToken{}, explainGarbage(answer)
	}
	if other, ok := g.isOf(m.id, arc); !ok {
		return azcore.AccessToken{}, explainStranger(m.id, arc, other)
	}
	return azcore.AccessToken{Token: g.Token, ExpiresOn: ends}, nil
}

// isOf reports whether the token is that of id, and otherwise whose it is if the answer says so. Older agents of Azure Arc
// ignore the selector and answer with the system-assigned identity: there the answer must name the identity. The metadata
// service need not, but must not name another one.
func (g granted) isOf(id Identity, arc bool) (other string, ok bool) {
	name, want := id.selector()
	got := ""
	switch name {
	case "":
		return "", true
	case "client_id":
		got = g.ClientID
	case "object_id":
		got = g.ObjectID
	case "msi_res_id":
		if got = g.ResourceID; got == "" {
			got = g.OldName
		}
	}
	return got, strings.EqualFold(got, want) || got == "" && !arc
}
