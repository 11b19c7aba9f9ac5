package emulator

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"
)

func TestCertificateCredentialIsAccepted(t *testing.T) {
	e := start(t, Options{})
	must[string](t)(e.AddSecret("", "word", "", "x"))
	cert, key := selfSigned(t, time.Now().Add(time.Hour))
	app := Application{ClientID: newUUID(), Certificates: []*x509.Certificate{e.RootCertificate(), cert}}
	e.SetApplications(app)
	for _, chain := range []bool{false, true} {
		cred := must[*azidentity.ClientCertificateCredential](t)(azidentity.NewClientCertificateCredential(Tenant, app.ClientID, []*x509.Certificate{cert}, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: overEmulator(t, e, public), SendCertificateChain: chain}))
		get(t, vaultClient(t, e, e.Endpoints().Vaults[0], cred, -1), "word", "")
	}
}

func TestWorkloadIdentityIsAccepted(t *testing.T) {
	e := start(t, Options{})
	must[string](t)(e.AddSecret("", "word", "", "x"))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ecKey := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	app := Application{ClientID: newUUID(), Federated: []FederatedCredential{
		{Issuer: "https://other.example", Subject: "x", Key: ecKey.Public()},
		{Issuer: clusterIssuer, Subject: clusterSubject, Key: rsaKey.Public()},
		{Issuer: clusterIssuer, Subject: "api", Audience: "kvfs", Key: ecKey.Public()},
	}}
	e.SetApplications(app)
	second := clusterClaims()
	second.Subject, second.Audience = "api", jwt.ClaimStrings{"first", "kvfs"}
	for _, noDiscovery := range []bool{false, true} {
		file := t.TempDir() + "/token"
		if err := replaceFile(file, []byte(projected(t, rsaKey, clusterClaims()))); err != nil {
			t.Fatal(err)
		}
		workload := must[*azidentity.WorkloadIdentityCredential](t)(azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: overEmulator(t, e, public), ClientID: app.ClientID, TenantID: Tenant, TokenFilePath: file, DisableInstanceDiscovery: noDiscovery,
		}))
		other := must[*azidentity.ClientAssertionCredential](t)(azidentity.NewClientAssertionCredential(Tenant, app.ClientID,
			func(context.Context) (string, error) { return projected(t, ecKey, second), nil },
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: overEmulator(t, e, public), DisableInstanceDiscovery: noDiscovery}))
		for _, cred := range []azcore.TokenCredential{workload, other} {
			get(t, vaultClient(t, e, e.Endpoints().Vaults[0], cred, -1), "word", "")
		}
	}
	if got := e.Counters(); got.Login != 4 || got.Secrets != 4 {
		t.Errorf("counters %+v", got)
	}
}

func TestLoginServerRefusesAsTheRealOne(t *testing.T) {
	e := sovereign(t)
	now := time.Now()
	cert, key := selfSigned(t, now.Add(time.Hour))
	old, oldKey := selfSigned(t, now.Add(-time.Hour))
	foreign, foreignKey := selfSigned(t, now.Add(time.Hour))
	app := Application{
		ClientID: "app", Secrets: []ApplicationSecret{{Value: "geheim"}, {Value: "old", Expires: now.Add(-time.Minute)}}, Certificates: []*x509.Certificate{cert, old},
		Federated: []FederatedCredential{{Issuer: clusterIssuer, Subject: clusterSubject, Key: key.Public()}},
	}
	e.SetApplications(app, Application{ClientID: "off", Secrets: app.Secrets, Disabled: true}, Application{ClientID: "plain", Secrets: app.Secrets})

	own := func(cert *x509.Certificate, key crypto.Signer, change func(*jwt.RegisteredClaims)) url.Values {
		c := jwt.RegisteredClaims{
			Issuer: "app", Subject: "app", Audience: jwt.ClaimStrings{"https://login.microsoftonline.com/" + Tenant + "/oauth2/v2.0/token"},
			ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
		}
		change(&c)
		token := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
		sum := keyID256(cert)
		token.Header["x5t#S256"] = sum
		return url.Values{"client_assertion_type": {assertionType}, "client_assertion": {must[string](t)(token.SignedString(key))}, "client_secret": nil}
	}
	same := func(*jwt.RegisteredClaims) {}
	cluster := func(key crypto.Signer, change func(*jwt.RegisteredClaims)) url.Values {
		c := clusterClaims()
		change(&c)
		return url.Values{"client_assertion_type": {assertionType}, "client_assertion": {projected(t, key, c)}, "client_secret": nil}
	}
	with := func(v url.Values, more ...string) url.Values {
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	const publicToken = "POST https://login.microsoftonline.com/" + Tenant + "/oauth2/v2.0/token"
	for _, test := range []struct {
		name   string
		to     string
		form   url.Values // instead of the proper ones
		status int
		kind   string
		code   int
		text   string
	}{
		{"proper", "", nil, 200, "", 0, ""},
		{"proper, by domain", "POST https://login.microsoftonline.com/" + TenantDomain + "/oauth2/v2.0/token", nil, 200, "", 0, ""},
		{"GET", "GET https://login.microsoftonline.com/" + Tenant + "/oauth2/v2.0/token", nil, 400, "invalid_request", 900561, "a GET request"},
		{"no grant", "", url.Values{"grant_type": nil}, 400, "invalid_request", 900144, "'grant_type'"},
		{"no client", "", url.Values{"client_id": nil}, 400, "invalid_request", 900144, "'client_id'"},
		{"no scope", "", url.Values{"scope": nil}, 400, "invalid_request", 900144, "'scope'"},
		{"another grant", "", url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type", 70003, "'password'"},
		{"unknown tenant", "POST https://login.microsoftonline.com/nobody.example/oauth2/v2.0/token", nil, 400, "invalid_tenant", 90002, "'nobody.example'"},
		{"unknown application", "", url.Values{"client_id": {"nobody"}}, 400, "unauthorized_client", 700016, "'nobody'"},
		{"disabled", "", url.Values{"client_id": {"off"}}, 400, "unauthorized_client", 7000112, "'off'"},
		{"wrong secret", "", url.Values{"client_secret": {"Geheim"}}, 401, "invalid_client", 7000215, "'app'"},
		{"expired secret", "", url.Values{"client_secret": {"old"}}, 401, "invalid_client", 7000222, "'app'"},
		{"no credential", "", url.Values{"client_secret": nil}, 401, "invalid_client", 7000218, ""},
		{"a scope for a resource", "", url.Values{"scope": {"https://vault.azure.net"}}, 400, "invalid_scope", 1002012, "https://vault.azure.net is"},
		{"two resources", "", url.Values{"scope": {"https://vault.azure.net/.default https://management.azure.com/.default"}}, 400, "invalid_scope", 1002012, ""},
		{"another cloud's resource", "", url.Values{"scope": {"https://vault.usgovcloudapi.net/.default"}}, 400, "invalid_resource", 500011, "https://vault.usgovcloudapi.net"},
		{"the same at its cloud", "POST https://login.microsoftonline.us/" + Tenant + "/oauth2/v2.0/token", url.Values{"scope": {"https://vault.usgovcloudapi.net/.default"}}, 200, "", 0, ""},
		{"and the other way round", "POST https://login.partner.microsoftonline.cn/" + Tenant + "/oauth2/v2.0/token", nil, 400, "invalid_resource", 500011, ""},
		{"unknown resource", "", url.Values{"scope": {"https://vault.example/.default"}}, 400, "invalid_resource", 500011, ""},
		{"a custom authority has all", "POST https://login.contoso.example/" + Tenant + "/oauth2/v2.0/token", nil, 200, "", 0, ""},

		{"certificate", "", own(cert, key, same), 200, "", 0, ""},
		{"issuer as audience", "", own(cert, key, func(c *jwt.RegisteredClaims) {
			c.Audience = jwt.ClaimStrings{"https://login.windows.net/" + Tenant + "/"}
		}), 200, "", 0, ""},
		{"unregistered certificate", "", own(foreign, foreignKey, same), 401, "invalid_client", 700027, "The key was not found"},
		{"expired certificate", "", own(old, oldKey, same), 401, "invalid_client", 700027, "The key used is expired"},
		{"signature of another key", "", own(cert, foreignKey, same), 401, "invalid_client", 700027, "invalid signature"},
		{"audience of another cloud", "", own(cert, key, func(c *jwt.RegisteredClaims) {
			c.Audience = jwt.ClaimStrings{"https://login.microsoftonline.us/" + Tenant}
		}), 401, "invalid_client", 700023, ""},
		{"audience of another tenant", "", own(cert, key, func(c *jwt.RegisteredClaims) {
			c.Audience = jwt.ClaimStrings{"https://login.microsoftonline.com/common"}
		}), 401, "invalid_client", 700023, ""},
		{"expired assertion", "", own(cert, key, func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(now.Add(-time.Second)) }), 401, "invalid_client", 700024, "valid time range"},
		{"assertion for ever", "", own(cert, key, func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil }), 401, "invalid_client", 700024, ""},
		{"assertion of another client", "", own(cert, key, func(c *jwt.RegisteredClaims) { c.Subject = "plain" }), 401, "invalid_client", 700021, ""},
		{"malformed assertion", "", url.Values{"client_assertion_type": {assertionType}, "client_assertion": {"a.b"}, "client_secret": nil}, 401, "invalid_client", 50027, ""},
		{"another type of assertion", "", with(own(cert, key, same), "client_assertion_type", "saml"), 401, "invalid_client", 50027, "'saml'"},

		{"federated", "", cluster(key, same), 200, "", 0, ""},
		{"no federation", "", with(cluster(key, same), "client_id", "plain"), 400, "invalid_request", 70021, "Subject: '" + clusterSubject + "'"},
		{"another issuer", "", cluster(key, func(c *jwt.RegisteredClaims) { c.Issuer = strings.TrimSuffix(clusterIssuer, "/") }), 401, "invalid_client", 700211, "issuer 'https://cluster.example/7'"},
		{"another subject", "", cluster(key, func(c *jwt.RegisteredClaims) { c.Subject = strings.ToUpper(clusterSubject) }), 401, "invalid_client", 700213, "subject 'SYSTEM"},
		{"another audience", "", cluster(key, func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"kubernetes"} }), 401, "invalid_client", 700212, "audience 'kubernetes'"},
		{"a stranger's signature", "", cluster(foreignKey, same), 401, "invalid_client", 700027, ""},
		{"expired token", "", cluster(key, func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(now.Add(-time.Second)) }), 401, "invalid_client", 700024, ""},
		{"token of tomorrow", "", cluster(key, func(c *jwt.RegisteredClaims) { c.NotBefore = jwt.NewNumericDate(now.Add(time.Hour)) }), 401, "invalid_client", 700024, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"geheim"}, "scope": {"https://vault.azure.net/.default openid offline_access profile"}}
			for name, values := range test.form {
				form[name] = values
			}
			if test.to == "" {
				test.to = publicToken
			}
			method, address, _ := strings.Cut(test.to, " ")
			before := e.Counters()
			status, le := tokenRequest(t, e, method, address, form)
			if status != test.status || le.Error != test.kind || !strings.Contains(le.Description, test.text) {
				t.Errorf("%d %+v", status, le)
			}
			if test.code != 0 && (!slices.Equal(le.Codes, []int{test.code}) || !strings.HasPrefix(le.Description, fmt.Sprintf("AADSTS%d: ", test.code)) || le.Correlation != "7") {
				t.Errorf("%d %+v, want code %d", status, le, test.code)
			}
			after := e.Counters()
			if after.Login != before.Login+1 || after.LoginErrors-before.LoginErrors != int64(min(test.code, 1)) {
				t.Errorf("counters %+v after %+v", after, before)
			}
		})
	}
}

func TestErrorsOfTheLoginServerReachAzidentity(t *testing.T) {
	e := start(t, Options{})
	e.SetApplications(Application{ClientID: "app", Secrets: []ApplicationSecret{{Value: "geheim"}}})
	o := policy.TokenRequestOptions{Scopes: []string{vaultResource + "/.default"}}
	ask := func(tenant, id, secret string) error {
		cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(tenant, id, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: overEmulator(t, e, public)}))
		_, err := cred.GetToken(context.Background(), o)
		return err
	}
	for _, test := range []struct {
		tenant, id, secret string
		status, code       int
	}{
		{Tenant, "app", "Geheim", 401, 7000215}, {Tenant, "nobody", "geheim", 400, 700016}, {"nobody.example", "app", "geheim", 400, 90002},
	} {
		if status, le := tokenError(t, ask(test.tenant, test.id, test.secret)); status != test.status || !slices.Equal(le.Codes, []int{test.code}) {
			t.Errorf("%v: %d %+v", test, status, le)
		}
	}
	for kind, want := range map[FaultKind]int{ServerError: 500, Unavailable: 503, Throttled: 429, ForbiddenRBAC: 500} {
		e.SetFault(Fault{Name: "@login", Vault: "any", Kind: kind, RetryAfter: 3 * time.Second, Count: 1})
		err := ask(Tenant, "app", "geheim")
		var failed *azidentity.AuthenticationFailedError
		if !errors.As(err, &failed) || failed.RawResponse.StatusCode != want || failed.RawResponse.Header.Get("Retry-After") != "3" {
			t.Errorf("%s: %v", kind, err)
		}
		if err := ask(Tenant, "app", "geheim"); err != nil {
			t.Errorf("%s lasts beyond its count: %v", kind, err)
		}
	}
	e.SetFault(Fault{Name: "@login", Kind: Drop})
	var failed *azidentity.AuthenticationFailedError
	if err := ask(Tenant, "app", "geheim"); err == nil || errors.As(err, &failed) && failed.RawResponse != nil {
		t.Errorf("dropped: %v", err)
	}
	for _, kind := range []FaultKind{Hang, HalfOpen} {
		e.SetFault(Fault{Name: "@login", Kind: kind})
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(Tenant, "app", "geheim", &azidentity.ClientSecretCredentialOptions{ClientOptions: overEmulator(t, e, public)}))
		if _, err := cred.GetToken(ctx, o); !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			t.Errorf("%s: %v", kind, err)
		}
		cancel()
	}
	if got := e.Counters(); got.LoginErrors < 9 || got.Login != got.LoginErrors+4 {
		t.Errorf("counters %+v", got)
	}
}

// Tokens can be checked with what the OpenID configuration names.
func TestConfigurationNamesTheKeysOfTokens(t *testing.T) {
	e := sovereign(t)
	h := overLoopback(t, e)
	read := func(address string, into any) int {
		response := must[*http.Response](t)(h.Get(address))
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode
	}
	for host, issuer := range map[string]string{
		"login.microsoftonline.com": "login.microsoftonline.com", "login.microsoftonline.us": "login.microsoftonline.us",
		"login.chinacloudapi.cn": "login.partner.microsoftonline.cn", "login.contoso.example": "login.contoso.example",
	} {
		var c openID
		status := read("https://"+host+"/"+TenantDomain+"/v2.0/.well-known/openid-configuration", &c)
		if status != 200 || c.Issuer != "https://"+issuer+"/"+Tenant+"/v2.0" || c.Token != "https://"+host+"/"+Tenant+"/oauth2/v2.0/token" {
			t.Errorf("%s: %d %+v", host, status, c)
		}
		var set keySet
		if status := read(c.Keys, &set); status != 200 || len(set.Keys) != 1 {
			t.Fatalf("%s: %d %+v", host, status, set)
		}
		token := must[*jwt.Token](t)(jwt.Parse(e.token(t, vaultResource, time.Now()), func(token *jwt.Token) (any, error) {
			if token.Header["kid"] != set.Keys[0].Name {
				return nil, fmt.Errorf("kid %v", token.Header["kid"])
			}
			return set.Keys[0].public(t), nil
		}))
		if !token.Valid {
			t.Errorf("%s: invalid token", host)
		}
	}
	var le loginError
	if status := read("https://login.microsoftonline.com/nobody.example/v2.0/.well-known/openid-configuration", &le); status != 400 || !slices.Equal(le.Codes, []int{90002}) {
		t.Errorf("%d %+v", status, le)
	}
	response := must[*http.Response](t)(h.Get("https://login.microsoftonline.com/" + Tenant + "/oauth2/authorize"))
	response.Body.Close()
	if response.StatusCode != 404 {
		t.Errorf("another path: %d", response.StatusCode)
	}
}
