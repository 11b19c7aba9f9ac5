package emulator

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// TenantDomain is another name of Tenant, as a verified domain is.
const TenantDomain = "contoso.onmicrosoft.com"

func isTenant(name string) bool {
	return strings.EqualFold(name, Tenant) || strings.EqualFold(name, TenantDomain)
}

// loginServer is the login server that a request is for.
type loginServer struct {
	host   string // with the port of the request, if that is not the default one
	cloud  *cloud // nil: a custom authority, which serves the vaults of all clouds
	tenant string // as the path of the request names it
	r      *http.Request
}

// loginAt finds the login server of a request.
func (e *Emulator) loginAt(r *http.Request) (loginServer, bool) {
	name, port := splitHost(r.Host)
	l := loginServer{host: withPort(name, port), r: r}
	for i, c := range clouds {
		if slices.Contains(c.login, name) {
			l.cloud = &clouds[i]
			return l, true
		}
	}
	return l, slices.Contains(e.opts.LoginHosts, name)
}

func (e *Emulator) serveLogin(w http.ResponseWriter, r *http.Request, l loginServer) {
	a := e.answerLogin(l)
	e.log.Debug("login request", slog.String("method", r.Method), slog.String("host", r.Host), slog.String("path", r.URL.Path),
		slog.Int("status", a.status), slog.String("fault", string(a.delivery)))
	w.Header().Set("Cache-Control", "no-store, no-cache")
	send(w, r, a, compactJSON)
}

func (e *Emulator) answerLogin(l loginServer) answer {
	var endpoint string
	l.tenant, endpoint, _ = strings.Cut(strings.TrimPrefix(l.r.URL.Path, "/"), "/")
	switch endpoint {
	case "oauth2/v2.0/token":
		a := e.answerToken(l)
		e.counts.login(a)
		return a
	case "v2.0/.well-known/openid-configuration":
		return l.configuration()
	case "discovery/v2.0/keys":
		return e.publicKeys(l)
	case "discovery/instance":
		if l.tenant == "common" {
			return l.instances()
		}
	}
	return answer{status: http.StatusNotFound}
}

// instanceDiscovery tells clients which names of login servers mean the same.
type instanceDiscovery struct {
	Endpoint   string          `json:"tenant_discovery_endpoint"`
	APIVersion string          `json:"api-version"`
	Metadata   []cloudMetadata `json:"metadata"`
}

type cloudMetadata struct {
	Network string   `json:"preferred_network"`
	Cache   string   `json:"preferred_cache"`
	Aliases []string `json:"aliases"`
}

// instances answers /common/discovery/instance. A custom authority is unknown
// to it, as to the real one: its clients have to do without discovery.
func (l loginServer) instances() answer {
	u, err := url.Parse(l.r.URL.Query().Get("authorization_endpoint"))
	asked := ""
	if err == nil {
		asked = strings.ToLower(u.Hostname())
	}
	d := instanceDiscovery{APIVersion: "1.1"}
	known := false
	for _, c := range clouds {
		aliases := c.aliases()
		known = known || slices.Contains(aliases, asked)
		d.Metadata = append(d.Metadata, cloudMetadata{Network: c.login[0], Cache: c.cache, Aliases: aliases})
	}
	if !known {
		return l.deny(invalidInstance)
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	d.Endpoint = "https://" + u.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration"
	return answer{status: http.StatusOK, body: d}
}

// aliases are the login servers of a cloud, those included that are not served
// here.
func (c *cloud) aliases() []string { return slices.Concat(c.login, c.also) }

// openID is the part of the OpenID configuration that clients of tokens read.
type openID struct {
	Token         string   `json:"token_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	Keys          string   `json:"jwks_uri"`
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
}

func (l loginServer) configuration() answer {
	if !isTenant(l.tenant) {
		return l.deny(unknownTenant, l.tenant)
	}
	base, issuer := "https://"+l.host+"/"+Tenant, l.host
	if l.cloud != nil {
		issuer = l.cloud.login[0]
	}
	return answer{status: http.StatusOK, body: openID{
		Token:         base + "/oauth2/v2.0/token",
		AuthMethods:   []string{"client_secret_post", "private_key_jwt"},
		Keys:          base + "/discovery/v2.0/keys",
		Issuer:        "https://" + issuer + "/" + Tenant + "/v2.0",
		Authorization: base + "/oauth2/v2.0/authorize",
	}}
}

// publicKeys are the keys against which tokens can be checked.
func (e *Emulator) publicKeys(l loginServer) answer {
	if !isTenant(l.tenant) {
		return l.deny(unknownTenant, l.tenant)
	}
	set, err := e.tokens.publicKeys()
	if err != nil {
		return l.deny(serverTrouble)
	}
	return answer{status: http.StatusOK, body: set}
}
