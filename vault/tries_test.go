package vault_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"software.sslmate.com/src/go-pkcs12"

	"kvfs/emulator"
	"kvfs/vault"
)

// azcore has all but one wait for a token, with no ear for their contexts.
func TestTryEndsThoughAnotherStillWaitsForTheToken(t *testing.T) {
	b := newBroken(t, time.Hour, withToken(says(200, "{}")))
	asked, released := make(chan struct{}, 1), make(chan struct{})
	machine := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-released
	}))
	defer machine.Close()
	defer close(released)
	b.id.Endpoint = machine.URL
	ref := mustParse(t, brokenWWW, "example.com")
	first := make(chan error, 1)
	go func() {
		_, err := b.client.Get(context.Background(), b.id, ref)
		first <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := b.client.Get(ctx, b.id, ref)
	if e := failure(t, err); e.Kind != vault.KindTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", e.Kind, e)
	}
	if len(first) > 0 {
		t.Error("the second caller had to wait until the first one's request had ended")
	}
}

func TestFailedLoginsAreNotRepeatedForEachCertificate(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetApplications(withSecret(password, time.Time{}))
	w.SetFault(emulator.Fault{Name: "@login", Kind: emulator.Throttled, RetryAfter: time.Minute})
	id := bySecret(write(t, "secret", password))
	for range 50 {
		_, err := w.client.Get(t.Context(), id, mustParse(t, www))
		if e := failure(t, err); e.Status != 429 || e.RetryAfter > time.Minute || e.RetryAfter < 30*time.Second {
			t.Fatalf("%d %v: %v", e.Status, e.RetryAfter, e)
		}
	}
	if n := w.Counters().Login; n != 1 {
		t.Errorf("%d logins for 50 certificates, want 1", n)
	}
	w.ClearFaults()
	w.client.AgeTokens(time.Minute)
	if _, err := w.client.Get(t.Context(), id, mustParse(t, www)); err != nil {
		t.Errorf("after what the login server asked to wait: %v", err)
	}
}

// The tenant of the environment may be a domain, which azidentity cannot tell from another tenant than the vault's.
func TestTenantOfTheEnvironmentMayBeADomain(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetApplications(withSecret(password, time.Time{}))
	t.Setenv("AZURE_CLIENT_ID", appID)
	t.Setenv("AZURE_CLIENT_SECRET", password)
	for _, tenant := range []string{emulator.Tenant, emulator.TenantDomain, strings.ToUpper(emulator.Tenant)} {
		t.Setenv("AZURE_TENANT_ID", tenant)
		for _, method := range []vault.Method{vault.Environment, vault.Ambient} {
			c := w.again(t)
			if _, err := c.Get(t.Context(), vault.Identity{Method: method}, mustParse(t, www)); err != nil {
				t.Errorf("%s in the tenant %s: %v", method, tenant, err)
			}
		}
	}
}

// again returns another client for the same world.
func (w *world) again(t *testing.T) *vault.Client {
	t.Helper()
	c, err := vault.New(vault.Options{CAFile: w.Endpoints().CA, Connect: map[string]string{"*.vault.azure.net:443": w.Addr(), "login.microsoftonline.com:443": w.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFilesOfTheEnvironmentAreScreened(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{TryTimeout: 5 * time.Second})
	w.add(t, "www", "x")
	p := newKeyPair(t, time.Now().Add(time.Hour))
	modern, err := pkcs12.Modern.Encode(p.key, p.cert, nil, password)
	if err != nil {
		t.Fatal(err)
	}
	pipe, pfx, large := filepath.Join(t.TempDir(), "pipe"), write(t, "modern.pfx", string(modern)), write(t, "large", strings.Repeat("x", 64<<10+1))
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	const principal, ambient = "no token for the service principal of the environment: ", "no token for the ambient credentials (environment, az login): "
	t.Setenv("AZURE_TENANT_ID", emulator.Tenant)
	t.Setenv("AZURE_CLIENT_ID", appID)
	for _, tt := range []struct {
		method                       vault.Method
		certificate, password, token string
		fact, hint                   string
	}{
		{vault.Environment, pipe, "", "", principal + "cannot use the certificate in " + pipe + ": it is not a regular file", "write the certificate to " + pipe},
		{vault.Environment, large, "", "", principal + "cannot use the certificate in " + large + ": it is larger than 64 KiB", "write the certificate to " + large},
		{vault.Environment, pfx, "", "", principal + "the PFX cannot be read with this password", "it has a password: put that into AZURE_CLIENT_CERTIFICATE_PASSWORD"},
		{vault.Environment, pfx, "wrong", "", principal + "the PFX cannot be read with this password", "the password in AZURE_CLIENT_CERTIFICATE_PASSWORD is not that of " + pfx},
		{vault.Environment, "", "", "", principal + "it does not set AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH",
			"complete the environment: AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"},
		{vault.Ambient, pipe, "", "", ambient + "cannot use the certificate in " + pipe + ": it is not a regular file", "write the certificate to " + pipe},
		{vault.Ambient, "", "", pipe, ambient + "cannot use the token in " + pipe + ": it is not a regular file", "write the token to " + pipe},
		{vault.Ambient, "", "", large, ambient + "cannot use the token in " + large + ": it is larger than 64 KiB", "write the token to " + large},
	} {
		t.Setenv("AZURE_CLIENT_CERTIFICATE_PATH", tt.certificate)
		t.Setenv("AZURE_CLIENT_CERTIFICATE_PASSWORD", tt.password)
		t.Setenv("AZURE_FEDERATED_TOKEN_FILE", tt.token)
		w.client.AgeTokens(time.Second)
		_, err := w.client.Get(t.Context(), vault.Identity{Method: tt.method}, mustParse(t, www))
		if e := failure(t, err); e.Kind != vault.KindIdentity || e.Fact != tt.fact || e.Hint != tt.hint {
			t.Errorf("%s: %v\n  want %s\n  hint %s\n  want %s", tt.method, e, tt.fact, e.Hint, tt.hint)
		}
	}
	t.Setenv("AZURE_CLIENT_CERTIFICATE_PATH", pfx)
	t.Setenv("AZURE_CLIENT_CERTIFICATE_PASSWORD", password)
	app := withSecret("another", time.Time{})
	app.Certificates = append(app.Certificates, p.cert)
	w.SetApplications(app)
	w.client.AgeTokens(time.Second)
	if _, err := w.client.Get(t.Context(), vault.Identity{Method: vault.Environment}, mustParse(t, www)); err != nil {
		t.Errorf("a PFX of OpenSSL 3 with its password: %v", err)
	}
}

// az is a script that starts Python: whoever ends the script alone leaves that behind.
func TestAzureCLIThatHangsLeavesNothingBehind(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{TryTimeout: 3 * time.Second})
	w.add(t, "www", "x")
	alive := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(alive, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(alive, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	installAzureCLI(t, "exec 3> "+alive+"\necho running >&3\nsleep 60\ntrue")
	_, err = w.client.Get(t.Context(), vault.Identity{Method: vault.AzureCLI}, mustParse(t, www))
	if e := failure(t, err); e.Kind != vault.KindIdentity || e.Fact != "no token: the Azure CLI did not answer in time" || !errors.Is(err, context.DeadlineExceeded) ||
		e.Hint != "try again; check that az account get-access-token works on this machine" {
		t.Errorf("%s: %v; %s", e.Kind, e, e.Hint)
	}
	if err := f.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// It ends when the last one does who has it open.
	if text, err := io.ReadAll(f); err != nil || string(text) != "running\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestClaimsThatAPersonMustSignInForAreExplained(t *testing.T) {
	b := newBroken(t, 0, withToken(says(http.StatusUnauthorized, "", "WWW-Authenticate", challenge+`, error="insufficient_claims", claims="e30="`)))
	installAzureCLI(t, `echo '{"accessToken":"t","expires_on":4000000000}'`)
	_, err := b.client.Get(t.Context(), vault.Identity{Method: vault.AzureCLI}, mustParse(t, brokenWWW, "example.com"))
	if e := failure(t, err); e.Fact != "no token: the vault demands that the person signed in to the Azure CLI signs in anew" ||
		e.Hint != "sign in as the user that kvfs runs as: az login --claims-challenge e30=" {
		t.Errorf("%v; %s", e, e.Hint)
	}
}

// Whoever logs an error with all of its causes must not log a token.
func TestErrorsHoldNeitherTokensNorAnswers(t *testing.T) {
	const secret = "hunter2-hunter2"
	body := `{"value":"` + secret + `","id":"https://contoso-web.example.com/secrets/www/` + version + `"}`
	for name, answer := range map[string]http.HandlerFunc{
		"203":       withToken(says(http.StatusNonAuthoritativeInfo, body)),
		"refusal":   withToken(says(http.StatusForbidden, body)),
		"rejection": withToken(says(http.StatusUnauthorized, body, "WWW-Authenticate", challenge)),
		"cut off":   withToken(says(http.StatusOK, body, "Content-Length", "1000")),
		"garbage":   withToken(says(http.StatusOK, `{"value":`+secret)),
	} {
		b := newBroken(t, 0, answer)
		_, err := b.get(t, brokenWWW)
		holdsNothing(t, name, err, secret, "token-1")
	}
	const host = "login.example.com"
	for name, grant := range map[string]http.HandlerFunc{
		"refused login": says(http.StatusUnauthorized, `{"error":"invalid_client","error_codes":[7000222]}`, "X-Token", secret),
		"odd grant":     says(http.StatusNonAuthoritativeInfo, `{"error":"`+secret+`","error_description":"`+secret+`","access_token":"`+secret+`"}`),
		"broken grant":  says(http.StatusOK, `{"access_token":"`+secret),
	} {
		b := newBroken(t, 0, loginServer(host, grant))
		id := bySecret(write(t, "secret", password))
		id.Authority = "https://" + host
		_, err := b.client.Get(t.Context(), id, mustParse(t, brokenWWW, "example.com"))
		holdsNothing(t, name, err, secret)
	}
	for name, grant := range map[string]http.HandlerFunc{
		"another token": says(http.StatusOK, `{"token":"`+secret+`","error":"`+secret+`"}`),
		"cut off token": says(http.StatusOK, `{"access_token":"`+secret),
		"no end":        says(http.StatusOK, `{"access_token":"`+secret+`","expires_in":"`+secret+`"}`),
		"odd answer":    says(http.StatusNonAuthoritativeInfo, `{"error":"`+secret+`","error_description":"`+secret+`"}`),
		"foreign":       says(http.StatusForbidden, `<html>`+secret),
		"redirect":      says(http.StatusFound, secret, "Location", "https://evil.example/?"+secret),
	} {
		machine := httptest.NewServer(grant)
		b := newBroken(t, 0, withToken(says(http.StatusOK, "{}")))
		b.id.Endpoint = machine.URL
		_, err := b.get(t, brokenWWW)
		machine.Close()
		holdsNothing(t, name, err, secret)
	}
}

// loginServer answers as a vault that wants a token, and as a login server whose grants the test gives.
func loginServer(host string, grant http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != host:
			withToken(says(http.StatusOK, "{}"))(w, r)
		case r.Method == http.MethodGet:
			says(200, `{"token_endpoint":"https://`+host+`/t","authorization_endpoint":"https://`+host+`/a","issuer":"https://`+host+`/"}`)(w, r)
		default:
			grant(w, r)
		}
	}
}

// holdsNothing fails if err or a cause of it leads to one of the secrets or to a whole answer.
func holdsNothing(t *testing.T, name string, err error, secrets ...string) {
	t.Helper()
	e := failure(t, err)
	text := fmt.Sprintf("%+v %#v", *e, *e)
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		text += fmt.Sprintf(" %v %+v %#v", cause, cause, cause)
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s: %s shows in %s", name, secret, text)
		}
	}
	var (
		response *azcore.ResponseError
		login    *azidentity.AuthenticationFailedError
	)
	if errors.As(err, &response) || errors.As(err, &login) {
		t.Errorf("%s: the error leads to the request and the answer", name)
	}
}

func TestAnswersAboutAnotherSecretAreRefused(t *testing.T) {
	for id, ok := range map[string]bool{
		"https://contoso-web.example.com/secrets/www/" + version:      true,
		"https://Contoso-Web.example.com:443/Secrets/WWW/" + version:  true,
		"https://contoso-web.example.com/secrets/api/" + version:      false,
		"https://contoso-api.example.com/secrets/www/" + version:      false,
		"https://contoso-web.example.com:8443/secrets/www/" + version: false,
		"http://contoso-web.example.com/secrets/www/" + version:       false,
		"https://contoso-web.example.com/keys/www/" + version:         false,
		"https://contoso-web.example.com/www/" + version:              false,
		"https://contoso-web.example.com/secrets/www/x/" + version:    false,
		"https://contoso-web.example.com/x/secrets/www/" + version:    false,
		"https://contoso-web.example.com/secrets/\u017fww/" + version: false,
		"/secrets/www/" + version:                                     false,
		version:                                                       false,
	} {
		b := newBroken(t, 0, withToken(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/versions") {
				says(http.StatusOK, `{"value":[{"id":"`+id+`"}]}`)(w, r)
				return
			}
			says(http.StatusOK, `{"value":"x","id":"`+id+`"}`)(w, r)
		}))
		ref := mustParse(t, brokenWWW, "example.com")
		_, errGet := b.client.Get(t.Context(), b.id, ref)
		_, errList := b.client.Versions(t.Context(), b.id, ref)
		if ok && errors.Join(errGet, errList) != nil {
			t.Errorf("%s: %v, %v", id, errGet, errList)
		}
		if ok {
			continue
		}
		if e := failure(t, errGet); e.Kind != vault.KindProtocol || !strings.HasPrefix(e.Fact, `the answer for secret "www" in contoso-web is another secret, "`) {
			t.Errorf("%s: %s: %v", id, e.Kind, e)
		}
		if e := failure(t, errList); e.Kind != vault.KindProtocol || !strings.HasPrefix(e.Fact, `the versions of secret "www" in contoso-web include one of another secret, "`) {
			t.Errorf("%s: %s: %v", id, e.Kind, e)
		}
	}
}

// Settings come from anywhere, and what they say stands in messages and in commands to paste.
func TestIdsOfTheSettingsAreHarmless(t *testing.T) {
	const evil = "a\x1b[31m\nb\u202e"
	for _, id := range []vault.Identity{
		{ClientID: evil}, {ObjectID: evil}, {ResourceID: evil}, {Method: vault.Environment, ClientID: evil},
		{Method: vault.ServicePrincipal, ClientID: evil, SecretFile: evil}, {Method: vault.ServicePrincipal, ClientID: evil, CertificateFile: evil},
		{Method: vault.WorkloadIdentity, ClientID: evil, TokenFile: evil},
	} {
		if name := id.String(); strings.ContainsAny(name, "\x1b\n\u202e") {
			t.Errorf("%q", name)
		}
	}
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	for _, id := range []vault.Identity{
		{Method: vault.ServicePrincipal, TenantID: "t", ClientID: evil, SecretFile: "/absent" + evil},
		{Method: vault.WorkloadIdentity, TenantID: "t", ClientID: evil, TokenFile: "/absent" + evil},
	} {
		_, err := w.client.Get(t.Context(), id, mustParse(t, www))
		if e := failure(t, err); strings.ContainsAny(e.Fact+e.Hint, "\x1b\n\u202e") {
			t.Errorf("%q; %q", e.Fact, e.Hint)
		}
	}
	b := newBroken(t, 0, withToken(says(403, `{"error":{"code":"Forbidden","message":"x","innererror":{"code":"ForbiddenByRbac"}}}`)))
	for _, client := range []string{"$(reboot)", "@/etc/shadow", "--all"} {
		b.id.ClientID = client
		_, err := b.get(t, brokenWWW)
		if e := failure(t, err); !strings.Contains(e.Hint, "--assignee OBJECT-ID --scope") {
			t.Errorf("%s: %s", client, e.Hint)
		}
	}
}

// A half-open HTTP/2 connection would fail every later request, and headers have no bound of their own there.
func TestVaultsAreSpokenToInHTTP1WithBoundedHeaders(t *testing.T) {
	var header atomic.Int64
	var protocols atomic.Value
	b := newBroken(t, 0, nil)
	server := httptest.NewUnstartedServer(withToken(func(w http.ResponseWriter, r *http.Request) {
		protocols.Store(r.Proto)
		w.Header().Set("X-Large", strings.Repeat("x", int(header.Load())))
		says(http.StatusOK, `{"value":"x","id":"https://contoso-web.example.com/secrets/www/`+version+`"}`)(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	b.Server = server
	client := b.newClient(t, vault.Options{CAFile: b.ca})
	for size, ok := range map[int64]bool{0: true, 60 << 10: true, 65 << 10: false} {
		header.Store(size)
		_, err := client.Get(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
		if (err == nil) != ok {
			t.Errorf("%d bytes in a header: %v", size, err)
		}
		if err != nil && failure(t, err).Kind != vault.KindUnreachable {
			t.Errorf("%s: %v", failure(t, err).Kind, err)
		}
	}
	if got := protocols.Load(); got != "HTTP/1.1" {
		t.Errorf("the vault was spoken to in %v", got)
	}
}

// The chain is azidentity's, its order too: what is not there lets the next one have its turn.
func TestAmbientCredentialsFindWhatThereIs(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	own := emulator.Identity{ClientID: rand.Text(), ObjectID: rand.Text()} // MSAL's cache belongs to the process and knows no endpoints
	w.SetIdentities(own)
	t.Setenv("AZURE_CLIENT_ID", own.ClientID)
	answer := cliAnswer(t, w.Endpoints().Identity)
	closed := listen(t)
	_ = closed.Close()
	asked := filepath.Join(t.TempDir(), "asked")
	installAzureCLI(t, "echo asked > "+asked+"\ncat <<'END'\n"+answer+"\nEND\n"+blanks)
	for _, tt := range []struct {
		machine         string
		identity, byCLI bool
	}{{closed.Addr().String(), false, true}, {strings.Split(w.Endpoints().Identity, "/")[2], true, false}} {
		_ = os.Remove(asked)
		before := w.Counters().Identity
		c := w.again(t)
		c.MoveMetadataService(tt.machine)
		s, err := c.Get(t.Context(), vault.Identity{Method: vault.Ambient}, mustParse(t, www))
		if err != nil || string(s.Value.Reveal()) != "x" {
			t.Errorf("%s: %v", tt.machine, err)
		}
		_, err = os.Stat(asked)
		if byCLI, identity := err == nil, w.Counters().Identity > before; byCLI != tt.byCLI || identity != tt.identity {
			t.Errorf("%s: asked the identity endpoint %v, the Azure CLI %v; want %v, %v", tt.machine, identity, byCLI, tt.identity, tt.byCLI)
		}
	}
}
