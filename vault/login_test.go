package vault_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"software.sslmate.com/src/go-pkcs12"

	"kvfs/emulator"
	"kvfs/vault"
)

const (
	appID    = "22223333-cccc-4444-dddd-5555eeee6666"
	appOID   = "33334444-dddd-5555-eeee-6666ffff7777"
	password = "hunter2-hunter2"
)

// write puts content into a file of that name in a directory that lasts as long as the test.
func write(t *testing.T, file, content string) string {
	t.Helper()
	if !filepath.IsAbs(file) {
		file = filepath.Join(t.TempDir(), file)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// bySecret is the application, which shows the secret in file.
func bySecret(file string) vault.Identity {
	return vault.Identity{Method: vault.ServicePrincipal, TenantID: emulator.Tenant, ClientID: appID, SecretFile: file}
}

// withSecret is the application as the emulator knows it.
func withSecret(value string, expires time.Time) emulator.Application {
	return emulator.Application{ClientID: appID, ObjectID: appOID, Secrets: []emulator.ApplicationSecret{{Value: value, Expires: expires}}}
}

// keyPair is a certificate of an application with its key.
type keyPair struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newKeyPair(t *testing.T, ends time.Time) keyPair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "kvfs"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{key, cert}
}

func (p keyPair) pem(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
}

func (p keyPair) pfx(t *testing.T, password string) string {
	t.Helper()
	text, err := pkcs12.LegacyDES.Encode(p.key, p.cert, nil, password)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shown is the token of a cluster that a workload shows.
func (p keyPair) shown(t *testing.T, issuer, subject, audience string, ends time.Time) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{Issuer: issuer, Subject: subject, Audience: jwt.ClaimStrings{audience},
		IssuedAt: jwt.NewNumericDate(time.Now().Add(-time.Hour)), ExpiresAt: jwt.NewNumericDate(ends)}).SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	issuer   = "https://oidc.contoso.example/cluster"
	subject  = "system:serviceaccount:web:kvfs"
	audience = "api://AzureADTokenExchange"
)

func byToken(file string) vault.Identity {
	return vault.Identity{Method: vault.WorkloadIdentity, TenantID: emulator.Tenant, ClientID: appID, TokenFile: file}
}

func byCertificate(file string) vault.Identity {
	return vault.Identity{Method: vault.ServicePrincipal, TenantID: emulator.Tenant, ClientID: appID, CertificateFile: file}
}

func TestApplicationsProveThemselvesInEveryWay(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	p := newKeyPair(t, time.Now().Add(time.Hour))
	app := withSecret(password, time.Time{})
	app.Certificates = []*x509.Certificate{p.cert}
	app.Federated = []emulator.FederatedCredential{{Issuer: issuer, Subject: subject, Key: p.key.Public()}}
	w.SetApplications(app)
	t.Setenv("AZURE_TENANT_ID", emulator.Tenant)
	t.Setenv("AZURE_CLIENT_ID", appID)
	t.Setenv("AZURE_CLIENT_SECRET", password)
	protected := byCertificate(write(t, "app.pfx", p.pfx(t, password)))
	protected.PasswordFile = write(t, "password", password+"\n")
	modern, err := pkcs12.Modern.Encode(p.key, p.cert, nil, password)
	if err != nil {
		t.Fatal(err)
	}
	openSSL3 := byCertificate(write(t, "modern.pfx", string(modern)))
	openSSL3.PasswordFile = protected.PasswordFile
	domain := bySecret(write(t, "secret", password))
	domain.TenantID = emulator.TenantDomain
	for name, id := range map[string]vault.Identity{
		"secret":            bySecret(write(t, "secret", password)),
		"secret in a line":  bySecret(write(t, "secret", "\n "+password+"\r\n")),
		"tenant by domain":  domain,
		"PEM":               byCertificate(write(t, "app.pem", p.pem(t))),
		"PFX":               byCertificate(write(t, "app.pfx", p.pfx(t, ""))),
		"protected PFX":     protected,
		"PFX of OpenSSL 3":  openSSL3,
		"workload identity": byToken(write(t, "token", " "+p.shown(t, issuer, subject, audience, time.Now().Add(time.Hour))+"\n")),
		"environment":       {Method: vault.Environment, TenantID: emulator.Tenant, ClientID: appID},
		"bare environment":  {Method: vault.Environment},
	} {
		before := w.Counters()
		for range 3 {
			s, err := w.client.Get(t.Context(), id, mustParse(t, www))
			if err != nil || string(s.Value.Reveal()) != "x" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := w.Counters(); got.Login-before.Login != 1 || got.Identity != 0 {
			t.Errorf("%s: %d logins and %d requests to the identity endpoint; want 1 and 0", name, got.Login-before.Login, got.Identity)
		}
	}
	for _, s := range w.client.Stats() {
		if s.Host != "contoso-web.vault.azure.net" {
			t.Errorf("%s was counted as a vault", s.Host)
		}
	}
}

func TestEveryRefusalOfTheLoginServerIsExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	past, future := time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	p, other := newKeyPair(t, future), newKeyPair(t, past)
	secret := write(t, "secret", password)
	certificate, ended := write(t, "app.pem", p.pem(t)), write(t, "ended.pem", other.pem(t))
	token := write(t, "token", p.shown(t, issuer, subject, audience, future))
	late := write(t, "late", p.shown(t, issuer, subject, audience, past))
	trusting := func(issuer, subject, audience string) emulator.Application {
		return emulator.Application{ClientID: appID, Federated: []emulator.FederatedCredential{{Issuer: issuer, Subject: subject, Audience: audience, Key: p.key.Public()}}}
	}
	renew := "make a new one: (umask 077; az ad app credential reset --append --id " + appID + " --query password --output tsv > " + secret + ".new) && mv " + secret + ".new " + secret
	trust := `let it trust the token's issuer and subject: az ad app federated-credential create --id ` + appID +
		` --parameters '{"name":"kvfs","issuer":"` + issuer + `","subject":"` + subject + `","audiences":["` + audience + `"]}'`
	register := func(file string) string {
		return "register the certificate of " + file + ", without its key: az ad app credential reset --id " + appID + " --append --cert @PUBLIC.pem"
	}
	bySecretNamed := "no token for the service principal " + appID + " with the secret in " + secret + ": "
	byCertificateNamed := "no token for the service principal " + appID + " with the certificate in "
	byTokenNamed := "no token for the workload identity " + appID + " with the token in "
	elsewhere, abroad := bySecret(secret), bySecret(secret)
	elsewhere.TenantID = "nobody.example"
	abroad.Authority = "https://login.microsoftonline.us"
	for _, tt := range []struct {
		app         emulator.Application
		id          vault.Identity
		status      int
		inner       string
		fact, hint  string
		environment bool
	}{
		{app: withSecret(password, past), id: vault.Identity{Method: vault.Ambient}, status: 401, inner: "AADSTS7000222", environment: true,
			fact: "no token for the ambient credentials (environment, az login): the secret has expired (AADSTS7000222)",
			hint: "make a new one, put it into AZURE_CLIENT_SECRET and restart kvfs: az ad app credential reset --append --id CLIENT-ID --query password --output tsv"},
		{app: withSecret(password, past), id: bySecret(secret), status: 401, inner: "AADSTS7000222", fact: bySecretNamed + "the secret has expired (AADSTS7000222)", hint: renew},
		{app: withSecret("another", future), id: bySecret(secret), status: 401, inner: "AADSTS7000215", fact: bySecretNamed + "the secret is wrong (AADSTS7000215)",
			hint: secret + " must hold the secret's value, not its id; or " + renew},
		{app: emulator.Application{ClientID: appOID}, id: bySecret(secret), status: 400, inner: "AADSTS700016",
			fact: bySecretNamed + "the tenant " + emulator.Tenant + " has no such application (AADSTS700016)",
			hint: "check that the client id is that of an application of this tenant: az ad app show --id " + appID},
		{app: withSecret(password, future), id: elsewhere, status: 400, inner: "AADSTS90002", fact: bySecretNamed + "this login server does not know the tenant nobody.example (AADSTS90002)",
			hint: "check the tenant id, and the authority if the tenant belongs to another cloud: az account show --query tenantId"},
		{app: emulator.Application{ClientID: appID, Secrets: withSecret(password, future).Secrets, Disabled: true}, id: bySecret(secret), status: 400, inner: "AADSTS7000112",
			fact: bySecretNamed + "the application is disabled (AADSTS7000112)", hint: "enable it: az ad sp update --id " + appID + " --set accountEnabled=true"},
		{app: withSecret(password, future), id: abroad, status: 400, inner: "AADSTS500011",
			fact: bySecretNamed + "the vault's cloud is unknown to this login server in the tenant " + emulator.Tenant + " (AADSTS500011)",
			hint: "use an identity of the vault's cloud and tenant, and check the authority"},
		{app: withSecret(password, past), id: vault.Identity{Method: vault.Environment, TenantID: emulator.Tenant, ClientID: appID}, status: 401, inner: "AADSTS7000222",
			fact: "no token for the service principal " + appID + " of the environment: the secret has expired (AADSTS7000222)", environment: true,
			hint: "make a new one, put it into AZURE_CLIENT_SECRET and restart kvfs: az ad app credential reset --append --id " + appID + " --query password --output tsv"},
		{app: emulator.Application{ClientID: appID}, id: byCertificate(certificate), status: 401, inner: "AADSTS700027",
			fact: byCertificateNamed + certificate + ": the certificate is not one of the application's, or has expired (AADSTS700027)", hint: register(certificate)},
		{app: emulator.Application{ClientID: appID, Certificates: []*x509.Certificate{other.cert}}, id: byCertificate(ended), status: 401, inner: "AADSTS700027",
			fact: byCertificateNamed + ended + ": the certificate is not one of the application's, or has expired (AADSTS700027)", hint: register(ended)},
		{app: emulator.Application{ClientID: appID}, id: byToken(token), status: 400, inner: "AADSTS70021",
			fact: byTokenNamed + token + ": the application does not trust the token that was shown (AADSTS70021)", hint: trust},
		{app: trusting("https://another.example", subject, audience), id: byToken(token), status: 401, inner: "AADSTS700211",
			fact: byTokenNamed + token + ": the application does not trust the token that was shown (AADSTS700211)", hint: trust},
		{app: trusting(issuer, "another", audience), id: byToken(token), status: 401, inner: "AADSTS700213",
			fact: byTokenNamed + token + ": the application does not trust the token that was shown (AADSTS700213)", hint: trust},
		{app: trusting(issuer, subject, "another"), id: byToken(token), status: 401, inner: "AADSTS700212",
			fact: byTokenNamed + token + ": the application does not trust the token that was shown (AADSTS700212)", hint: trust},
		{app: trusting(issuer, subject, audience), id: byToken(late), status: 401, inner: "AADSTS700024",
			fact: byTokenNamed + late + ": what was shown to prove the identity is not valid at this time (AADSTS700024)",
			hint: "check this machine's clock, and that the certificate or token has not expired"},
	} {
		w.SetApplications(tt.app)
		w.client.AgeTokens(time.Second)
		for name, value := range map[string]string{"AZURE_TENANT_ID": emulator.Tenant, "AZURE_CLIENT_ID": appID, "AZURE_CLIENT_SECRET": password} {
			if !tt.environment {
				value = ""
			}
			t.Setenv(name, value)
		}
		_, err := w.client.Get(t.Context(), tt.id, mustParse(t, www))
		e := failure(t, err)
		if e.Kind != vault.KindIdentity || e.Status != tt.status || e.Inner != tt.inner || e.Code == "" || e.RequestID == "" || !strings.HasPrefix(e.Message, tt.inner) {
			t.Errorf("%s: %s %d %q %q %q: %s", tt.inner, e.Kind, e.Status, e.Code, e.Inner, e.RequestID, e.Message)
		}
		if e.Fact != tt.fact || e.Hint != tt.hint {
			t.Errorf("%s:\n  fact %s\n  want %s\n  hint %s\n  want %s", tt.inner, e.Fact, tt.fact, e.Hint, tt.hint)
		}
		shownNowhere(t, w, err)
	}
}

// shownNowhere fails if err or the log holds a part of a secret, a key or a token.
func shownNowhere(t *testing.T, w *world, err error) {
	t.Helper()
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %v", err, err, err, failure(t, err).Err), w.log.String()} {
		for _, secret := range []string{"hunter2", "Bearer ", "eyJ", "PRIVATE KEY"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows in %s", secret, text)
			}
		}
	}
}

func TestLoginServersThatFailAreExplained(t *testing.T) {
	const who = "no token for the service principal " + appID + " with the secret in "
	later := "try again later; the login server login.microsoftonline.com is busy or failing"
	const way = "check kvfs.transport.connect"
	for _, tt := range []struct {
		fault      emulator.Fault
		status     int
		inner      string
		after      time.Duration
		fact, hint string
	}{
		{emulator.Fault{Kind: emulator.Throttled, RetryAfter: 9 * time.Second}, 429, "AADSTS90055", 9 * time.Second,
			who + "SECRET: 429 temporarily_unavailable AADSTS90055: There are too many incoming requests", later},
		{emulator.Fault{Kind: emulator.ServerError}, 500, "AADSTS50000", 0, who + "SECRET: 500 server_error AADSTS50000: There was an error issuing a token or an issue with our sign-in service", later},
		{emulator.Fault{Kind: emulator.Unavailable}, 503, "AADSTS90033", 0, who + "SECRET: 503 temporarily_unavailable AADSTS90033: A transient error has occurred. Please try again", later},
		{emulator.Fault{Kind: emulator.Hang}, 0, "", 0, "no token: the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect) does not answer", way},
		{emulator.Fault{Kind: emulator.HalfOpen}, 0, "", 0, "no token: the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect) does not answer", way},
		{emulator.Fault{Kind: emulator.Drop}, 0, "", 0, "no token: cannot reach the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect): the connection was closed", way},
	} {
		w := newWorld(t, emulator.Options{}, vault.Options{TryTimeout: 3 * time.Second})
		w.warm(t)
		w.SetApplications(withSecret(password, time.Time{}))
		tt.fault.Name = "@login"
		w.SetFault(tt.fault)
		secret := write(t, "secret", password)
		_, err := w.client.Get(t.Context(), bySecret(secret), mustParse(t, www))
		e := failure(t, err)
		if e.Kind != vault.KindIdentity || e.Status != tt.status || e.Inner != tt.inner || e.RetryAfter != tt.after ||
			e.Fact != strings.NewReplacer("SECRET", secret, "ADDRESS", w.Addr()).Replace(tt.fact) || e.Hint != tt.hint {
			t.Errorf("%s: %s %d %q %v: %v\n  want %s\n  hint %s\n  want %s", tt.fault.Kind, e.Kind, e.Status, e.Inner, e.RetryAfter, e, tt.fact, e.Hint, tt.hint)
		}
		if got := w.Counters().Login; got != 1 && (got != 2 || tt.fault.Kind != emulator.Drop) {
			t.Errorf("%s: %d logins in one try", tt.fault.Kind, got)
		}
		shownNowhere(t, w, err)
		w.ClearFaults()
		w.add(t, "www", "x")
		w.client.AgeTokens(10 * time.Second)
		if _, err := w.client.Get(t.Context(), bySecret(secret), mustParse(t, www)); err != nil {
			t.Errorf("after %s: %v", tt.fault.Kind, err)
		}
	}
}

// What answers 200 may have given a token in a form that nobody can read.
func TestLoginServersThatAreNoneAreExplained(t *testing.T) {
	const host = "login.example.com"
	configuration := `{"token_endpoint":"https://` + host + `/t","authorization_endpoint":"https://` + host + `/a","issuer":"https://` + host + `/"}`
	id := bySecret(write(t, "secret", password))
	id.Authority = "https://" + host
	for _, tt := range []struct {
		discovery, grant http.HandlerFunc
		status           int
		fact             string
	}{
		{says(200, "<html>sign in to the hotel</html>"), nil, 200, "no token: the answer of the login server " + host + " makes no sense"},
		{says(200, strings.Replace(configuration, `"issuer":"https://`+host, `"issuer":"https://evil.example`, 1)), nil, 200, "no token: the answer of the login server " + host + " makes no sense"},
		{says(200, strings.Replace(configuration, "https://"+host+"/t", "http://"+host+"/t", 1)), nil, 0, "no token: cannot reach the login server " + host + ": it would be asked without TLS"},
		{says(302, "", "Location", "https://evil.example"), nil, 302, "no token for the " + id.String() + ": 302"},
		{says(403, "forbidden by the firewall"), nil, 403, "no token for the " + id.String() + ": 403"},
		{says(200, strings.Repeat(" ", 1<<20+1)), nil, 0, "no token: the answer of the login server " + host + " is larger than 1 MiB"},
		{says(200, configuration), says(200, `{"access_token":"eyJhdXRo`), 200, "no token: the answer of the login server " + host + " makes no sense"},
		{says(200, configuration), says(200, `{"token":"eyJhdXRo"}`), 200, "no token: the answer of the login server " + host + " makes no sense"},
		{says(200, configuration), says(401, `{"error":"invalid_client\u001b[31m","error_description":"AADSTS7000999: new.\r\nTrace ID: 1","error_codes":[7000999]}`), 401,
			"no token for the " + id.String() + ": 401 invalid_client [31m AADSTS7000999: new"},
	} {
		b := newBroken(t, 0, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Host != host:
				withToken(says(http.StatusOK, "{}"))(w, r)
			case r.Method == http.MethodGet:
				tt.discovery(w, r)
			default:
				tt.grant(w, r)
			}
		})
		_, err := b.client.Get(t.Context(), id, mustParse(t, brokenWWW, "example.com"))
		e := failure(t, err)
		if e.Kind != vault.KindIdentity || e.Status != tt.status || e.Fact != tt.fact || strings.Contains(fmt.Sprintf("%+v %v", *e, e.Err), "eyJ") {
			t.Errorf("%s %d: %+v, want %d: %s", e.Kind, e.Status, *e, tt.status, tt.fact)
		}
	}
}

func TestChallengesForClaimsDoNotFloodTheLoginServer(t *testing.T) {
	const host = "login.example.com"
	var logins atomic.Int64
	challenged := challenge + `, error="insufficient_claims", claims="e30="`
	b := newBroken(t, 0, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != host:
			withToken(says(http.StatusUnauthorized, "", "WWW-Authenticate", challenged))(w, r)
		case r.Method == http.MethodGet:
			says(200, `{"token_endpoint":"https://`+host+`/t","authorization_endpoint":"https://`+host+`/a","issuer":"https://`+host+`/"}`)(w, r)
		default:
			logins.Add(1)
			says(200, `{"token_type":"Bearer","expires_in":3600,"access_token":"t"}`)(w, r)
		}
	})
	id := bySecret(write(t, "secret", password))
	id.Authority = "https://" + host
	for _, want := range []int64{2, 2, 2, 2} { // one before the claims were known, one with them
		_, err := b.client.Get(t.Context(), id, mustParse(t, brokenWWW, "example.com"))
		if e := failure(t, err); e.Kind != vault.KindUnauthorized || logins.Load() != want {
			t.Errorf("%s: %v: %d logins, want %d", e.Kind, e, logins.Load(), want)
		}
	}
	b.client.AgeTokens(time.Minute)
	if _, err := b.client.Get(t.Context(), id, mustParse(t, brokenWWW, "example.com")); err == nil || logins.Load() <= 2 || logins.Load() > 4 {
		t.Errorf("an old token: %v, %d logins in all", err, logins.Load())
	}
}

func TestLoginServerThatIsAwayIsExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	closed := listen(t)
	_ = closed.Close()
	secret := bySecret(write(t, "secret", password))
	for _, tt := range []struct{ ca, to, fact, hint string }{
		{w.Endpoints().CA, closed.Addr().String(), "no token: cannot reach the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect): connection refused", "check kvfs.transport.connect"},
		{w.Endpoints().CA, newBroken(t, 0, nil).Listener.Addr().String(), "no token: cannot reach the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect): its certificate is for another name: x509: certificate is valid for example.com, *.example.com, not login.microsoftonline.com",
			"check kvfs.transport.connect"},
		{w.Endpoints().CA, newWorld(t, emulator.Options{}, vault.Options{}).Addr(), "no token: cannot reach the login server login.microsoftonline.com at ADDRESS (kvfs.transport.connect): its certificate is not trusted: x509: certificate signed by unknown authority",
			"if a proxy or a private cloud has a CA of its own, name its file in kvfs.transport.caFile"},
	} {
		c, err := vault.New(vault.Options{CAFile: tt.ca, Connect: map[string]string{"*.vault.azure.net:443": w.Addr(), "login.microsoftonline.com:443": tt.to}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Get(t.Context(), secret, mustParse(t, www))
		if e := failure(t, err); e.Kind != vault.KindIdentity || !strings.HasPrefix(e.Fact, strings.Replace(tt.fact, "ADDRESS", tt.to, 1)) || e.Hint != tt.hint {
			t.Errorf("%s: %v\n  want %s\n  hint %s\n  want %s", e.Kind, e, tt.fact, e.Hint, tt.hint)
		}
	}
}

func TestFilesThatRotateAreReadAgain(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	future := time.Now().Add(time.Hour)
	first, second := newKeyPair(t, future), newKeyPair(t, future)
	federated := func(p keyPair) emulator.Application {
		return emulator.Application{ClientID: appID, Federated: []emulator.FederatedCredential{{Issuer: issuer, Subject: subject, Key: p.key.Public()}}}
	}
	certified := func(p keyPair) emulator.Application {
		return emulator.Application{ClientID: appID, Certificates: []*x509.Certificate{p.cert}}
	}
	secret := write(t, "secret", "old\n")
	certificate := write(t, "app.pem", first.pem(t))
	token := write(t, "token", first.shown(t, issuer, subject, audience, future))
	for name, tt := range map[string]struct {
		id              vault.Identity
		old, since, new emulator.Application // since: the old proof is worth nothing
		file, content   string               // of the new proof
	}{
		"secret":      {bySecret(secret), withSecret("old", time.Time{}), withSecret("old", time.Now().Add(-time.Second)), withSecret("new", time.Time{}), secret, "new\n"},
		"certificate": {byCertificate(certificate), certified(first), certified(second), certified(second), certificate, second.pem(t)},
		"token":       {byToken(token), federated(first), federated(second), federated(second), token, second.shown(t, issuer, subject, audience, future)},
	} {
		get := func() error {
			_, err := w.client.Get(t.Context(), tt.id, mustParse(t, www))
			return err
		}
		w.ClearFaults()
		w.SetApplications(tt.old)
		if err := get(); err != nil {
			t.Fatalf("%s: before: %v", name, err)
		}
		// The vault wants a new token, and the old proof gets none.
		w.SetApplications(tt.since)
		w.client.AgeTokens(time.Minute)
		w.SetFault(emulator.Fault{Kind: emulator.TokenExpired, Count: 1})
		if e := failure(t, get()); e.Kind != vault.KindIdentity {
			t.Errorf("%s: with the old proof: %s: %v", name, e.Kind, e)
		}
		w.SetApplications(tt.new)
		write(t, tt.file, tt.content)
		w.client.AgeTokens(time.Second)
		if err := get(); err != nil {
			t.Errorf("%s: with the new proof: %v", name, err)
		}
	}
}

func TestEachCloudHasItsLoginServer(t *testing.T) {
	w := newWorld(t, emulator.Options{Vaults: []string{"contoso-web", "contoso-gov.vault.usgovcloudapi.net", "contoso-cn.vault.azure.cn"}}, vault.Options{})
	w.SetApplications(withSecret(password, time.Time{}))
	id := bySecret(write(t, "secret", password))
	for vaultName, url := range map[string]string{"contoso-web": www, "contoso-gov": "https://contoso-gov.vault.usgovcloudapi.net/secrets/www", "contoso-cn": "https://contoso-cn.vault.azure.cn/secrets/www"} {
		if _, err := w.AddSecret(vaultName, "www", "", vaultName); err != nil {
			t.Fatal(err)
		}
		for _, id := range []vault.Identity{id, w.id} {
			s, err := w.client.Get(t.Context(), id, mustParse(t, url))
			if err != nil || string(s.Value.Reveal()) != vaultName {
				t.Errorf("%s by the %s: %v", url, id, err)
			}
		}
	}
	if c := w.Counters(); c.Login != 3 || c.LoginErrors != 0 || c.Identity != 3 {
		t.Errorf("%d logins, %d in vain, and %d requests to the identity endpoint; want 3, 0, 3", c.Login, c.LoginErrors, c.Identity)
	}
	// An authority of the settings overrules the vault's cloud: this one does not know the vault.
	id.Authority = "https://login.chinacloudapi.cn/"
	_, err := w.client.Get(t.Context(), id, mustParse(t, www))
	if e := failure(t, err); e.Inner != "AADSTS500011" {
		t.Errorf("%s: %v", e.Inner, e)
	}
}

func TestCustomAuthorityIsTakenAtItsWord(t *testing.T) {
	const host = "login.contoso.example"
	w := newWorld(t, emulator.Options{LoginHosts: []string{host}}, vault.Options{})
	w.add(t, "www", "x")
	w.SetApplications(withSecret(password, time.Time{}))
	id := bySecret(write(t, "secret", password))
	for _, authority := range []string{"https://" + host, "https://" + host + "/", " HTTPS://" + host + ":443/ "} {
		id.Authority = authority
		if _, err := w.client.Get(t.Context(), id, mustParse(t, www)); err != nil {
			t.Errorf("%s: %v", authority, err)
		}
	}
	if c := w.Counters(); c.Login != 3 || c.LoginErrors != 0 {
		t.Errorf("%d logins, %d in vain; want 3, 0", c.Login, c.LoginErrors)
	}
	for _, authority := range []string{host, "http://" + host, "https://" + host + "/tenant", "https://u:hunter2@" + host, "https://", "%zz"} {
		id.Authority = authority
		_, err := w.client.Get(t.Context(), id, mustParse(t, www))
		if e := failure(t, err); e.Kind != vault.KindIdentity || !strings.Contains(e.Fact, "is not the https URL of a login server") || strings.Contains(e.Fact, "hunter2") {
			t.Errorf("%s: %s: %v", authority, e.Kind, e)
		}
	}
}

func TestProofsThatCannotBeUsedAreExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	directory := t.TempDir()
	absent := filepath.Join(directory, "absent")
	empty := write(t, filepath.Join(directory, "empty"), " \n")
	large := write(t, filepath.Join(directory, "large"), strings.Repeat("x", 64<<10+1))
	ok := write(t, filepath.Join(directory, "ok"), password)
	pipe := filepath.Join(directory, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newKeyPair(t, time.Now().Add(time.Hour))
	protected := byCertificate(write(t, "app.pfx", p.pfx(t, password)))
	protected.PasswordFile = absent
	wrong := protected
	wrong.PasswordFile = write(t, "password", "wrong")
	open := protected
	open.PasswordFile = ""
	keyless := write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})))
	const who = "no token for the service principal " + appID
	whose := "no token for the workload identity " + appID
	convert := "make it PEM, an RSA key without password and its certificate: openssl pkcs12 -in OLD.pfx -nodes -out NEW.pem"
	for _, tt := range []struct {
		id         vault.Identity
		fact, hint string
	}{
		{bySecret(absent), who + " : cannot use the secret in " + absent + ": there is no such file", "write the secret to " + absent},
		{bySecret(empty), who + " : cannot use the secret in " + empty + ": it is empty", "write the secret to " + empty},
		{bySecret(large), who + " : cannot use the secret in " + large + ": it is larger than 64 KiB", "write the secret to " + large},
		{bySecret(directory), who + " : cannot use the secret in " + directory + ": it is not a regular file", "write the secret to " + directory},
		{bySecret(pipe), who + " : cannot use the secret in " + pipe + ": it is not a regular file", "write the secret to " + pipe},
		{byCertificate(absent), who + " : cannot use the certificate in " + absent + ": there is no such file", "write the certificate to " + absent},
		{byCertificate(ok), who + " with the certificate in " + ok + ": ", convert},
		{protected, who + " : cannot use the password in " + absent + ": there is no such file", "write the password to " + absent},
		{wrong, who + " with the certificate in " + wrong.CertificateFile + ": the PFX cannot be read with this password", "the password in " + wrong.PasswordFile + " is not that of " + wrong.CertificateFile},
		{open, who + " with the certificate in " + open.CertificateFile + ": the PFX cannot be read with this password", "it has a password: write that to a file and name it in certificatePasswordFile"},
		{byCertificate(keyless), who + " with the certificate in " + keyless + ": there is no private key in it", "append the private key to it"},
		{byToken(absent), whose + " : cannot use the token in " + absent + ": there is no such file", "check that " + absent + " is where the cluster puts the token for this workload"},
		{byToken(empty), whose + " : cannot use the token in " + empty + ": it is empty", "check that " + empty + " is where the cluster puts the token for this workload"},
		{vault.Identity{Method: vault.ServicePrincipal, TenantID: "t", ClientID: "c"}, "the service principal has neither a file with a secret nor one with a certificate", "complete the identity in the settings"},
		{vault.Identity{Method: vault.ServicePrincipal, TenantID: "t", SecretFile: ok}, "the service principal has no client id", "complete the identity in the settings"},
		{vault.Identity{Method: vault.WorkloadIdentity, ClientID: "c", TokenFile: ok}, "the workload identity has no tenant id",
			"complete the identity in the settings, or let the webhook of workload identity set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE"},
		{vault.Identity{Method: vault.Environment}, "no token for the service principal of the environment: it does not set AZURE_TENANT_ID", "complete the environment: AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"},
		{vault.Identity{Method: "magic"}, `"magic" is no kind of identity`, "see the settings page for the kinds there are"},
	} {
		_, err := w.client.Get(t.Context(), tt.id, mustParse(t, www))
		e := failure(t, err)
		if want := strings.Replace(tt.fact, " : ", ": ", 1); e.Kind != vault.KindIdentity || !strings.HasPrefix(e.Fact, want) || e.Hint != tt.hint {
			t.Errorf("%+v: %s: %v\n  want %s\n  hint %s\n  want %s", tt.id, e.Kind, e, want, e.Hint, tt.hint)
		}
		shownNowhere(t, w, err)
	}
	if c := w.Counters(); c.Login != 0 {
		t.Errorf("%d logins without a proof", c.Login)
	}
}

func TestServicePrincipalWithoutRoleIsToldTheCommand(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	app := withSecret(password, time.Time{})
	app.Vaults = []string{}
	w.SetApplications(app)
	id := bySecret(write(t, "secret", password))
	_, err := w.client.Get(t.Context(), id, mustParse(t, www))
	if e := failure(t, err); e.Kind != vault.KindForbidden || e.Inner != "ForbiddenByRbac" || !strings.Contains(e.Hint, "--assignee "+appOID+" --scope") {
		t.Errorf("%s %s: %v; %s", e.Kind, e.Inner, e, e.Hint)
	}
	app.Vaults = []string{"contoso-web"}
	w.SetApplications(app)
	if _, err := w.client.Get(t.Context(), id, mustParse(t, www)); err != nil {
		t.Errorf("with the role: %v", err)
	}
}

// The settings decide who asks: what else a process finds around it counts for the ambient kinds alone.
func TestEnvironmentDoesNotOverruleTheSettings(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	p := newKeyPair(t, time.Now().Add(time.Hour))
	app := withSecret(password, time.Time{})
	app.Federated = []emulator.FederatedCredential{{Issuer: issuer, Subject: subject, Key: p.key.Public()}}
	w.SetApplications(app)
	trap := listen(t)
	strayed := make(chan struct{}, 1)
	go func() {
		for {
			c, err := trap.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			select {
			case strayed <- struct{}{}:
			default:
			}
		}
	}()
	elsewhere := "http://" + trap.Addr().(*net.TCPAddr).String() + "/"
	for name, value := range map[string]string{
		"IDENTITY_ENDPOINT": elsewhere, "IDENTITY_HEADER": "x", "IDENTITY_SERVER_THUMBPRINT": "x", "IMDS_ENDPOINT": elsewhere, "MSI_ENDPOINT": elsewhere, "MSI_SECRET": "x",
		"AZURE_TENANT_ID": "nobody.example", "AZURE_CLIENT_ID": appOID, "AZURE_CLIENT_SECRET": "x", "AZURE_CLIENT_CERTIFICATE_PATH": "/absent",
		"AZURE_FEDERATED_TOKEN_FILE": "/absent", "AZURE_AUTHORITY_HOST": "https://" + trap.Addr().String(), "AZURE_ADDITIONALLY_ALLOWED_TENANTS": "*",
		"AZURE_TOKEN_CREDENTIALS": "AzureCLICredential", "AZURE_POD_IDENTITY_AUTHORITY_HOST": elsewhere,
	} {
		t.Setenv(name, value)
	}
	for _, id := range []vault.Identity{w.id, bySecret(write(t, "secret", password)), byToken(write(t, "token", p.shown(t, issuer, subject, audience, time.Now().Add(time.Hour))))} {
		if _, err := w.client.Get(t.Context(), id, mustParse(t, www)); err != nil {
			t.Errorf("the %s: %v", id, err)
		}
	}
	if len(strayed) > 0 {
		t.Error("somebody asked where the environment points")
	}
	if c := w.Counters(); c.Login != 2 || c.LoginErrors != 0 || c.Identity != 1 {
		t.Errorf("%+v", c)
	}
}
