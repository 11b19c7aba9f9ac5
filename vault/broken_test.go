package vault_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kvfs/vault"
)

// broken is a vault whose every answer the test writes, for what no emulator of a sane service does. Its name is
// contoso-web.example.com, for which httptest has a certificate.
type broken struct {
	*httptest.Server
	client *vault.Client
	id     vault.Identity
	tokens atomic.Int64 // handed out by its identity endpoint
	ca     string
}

const (
	brokenWWW = "https://contoso-web.example.com/secrets/www"
	challenge = `Bearer authorization="https://login.microsoftonline.com/11112222-bbbb-3333-cccc-4444dddd5555", resource="https://example.com"`
)

func newBroken(t *testing.T, try time.Duration, answer http.HandlerFunc) *broken {
	t.Helper()
	forgetAzure(t)
	b := &broken{Server: httptest.NewUnstartedServer(answer)}
	b.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail on purpose
	b.StartTLS()
	t.Cleanup(b.Close)
	b.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(b.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":"86399","expires_on":"%d","resource":"https://example.com","token_type":"Bearer"}`,
			b.tokens.Add(1), time.Now().Add(24*time.Hour).Unix())
	}))
	t.Cleanup(machine.Close)
	b.id = vault.Identity{Endpoint: machine.URL}
	b.client = b.newClient(t, vault.Options{CAFile: b.ca, TryTimeout: try})
	return b
}

func (b *broken) newClient(t *testing.T, o vault.Options) *vault.Client {
	t.Helper()
	o.Connect = map[string]string{"*.example.com:443": b.Listener.Addr().String()}
	c, err := vault.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *broken) get(t *testing.T, raw string) (*vault.Secret, error) {
	t.Helper()
	return b.client.Get(t.Context(), b.id, mustParse(t, raw, "example.com"))
}

// withToken answers requests without a token with a challenge, and others with next.
func withToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

// says answers with a body, percent signs in it meant.
func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestChallengesThatMakeNoSenseAreProtocolErrors(t *testing.T) {
	for name, header := range map[string]string{
		"authority without tenant": `Bearer authorization="https://login.example", resource="https://example.com"`, // the SDK panics
		"tenant alone":             `Bearer authorization="11112222-bbbb-3333-cccc-4444dddd5555", resource="https://example.com"`,
		"no resource":              `Bearer authorization="https://login.microsoftonline.com/t"`,
		"foreign resource":         `Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"`,
		"resource of a look-alike": `Bearer authorization="https://login.microsoftonline.com/t", resource="https://web.example.com"`,
		"resource with a port":     `Bearer authorization="https://login.microsoftonline.com/t", resource="https://example.com:8443"`,
		"resource that is no URL":  `Bearer authorization="https://login.microsoftonline.com/t", resource="https://%zz"`,
		"another scheme":           `Basic realm=x`,
		"no challenge":             ``,
	} {
		var heal atomic.Bool
		b := newBroken(t, 0, func(w http.ResponseWriter, r *http.Request) {
			if heal.Load() {
				withToken(says(http.StatusOK, `{"value":"x","id":"https://contoso-web.example.com/secrets/www/`+version+`"}`))(w, r)
				return
			}
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s: a token was sent", name)
			}
			if header != "" {
				w.Header().Set("WWW-Authenticate", header)
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
		for range 2 { // a panic must leave nothing locked behind
			_, err := b.get(t, brokenWWW)
			if e := failure(t, err); e.Kind != vault.KindProtocol {
				t.Errorf("%s: %s: %v", name, e.Kind, e)
			}
		}
		if n := b.tokens.Load(); n != 0 {
			t.Errorf("%s: %d tokens were asked for", name, n)
		}
		heal.Store(true)
		if _, err := b.get(t, brokenWWW); err != nil {
			t.Errorf("%s: once the vault is sane: %v", name, err)
		}
	}
}

func TestChallengesForClaimsDoNotFloodTheIdentityEndpoint(t *testing.T) {
	claims := challenge + `, error="insufficient_claims", claims="e30="`
	b := newBroken(t, 0, withToken(says(http.StatusUnauthorized, "", "WWW-Authenticate", claims)))
	for range 10 {
		_, err := b.get(t, brokenWWW)
		if e := failure(t, err); e.Kind != vault.KindUnauthorized {
			t.Fatalf("%s: %v", e.Kind, e)
		}
	}
	if n := b.tokens.Load(); n != 1 {
		t.Errorf("%d tokens were asked for, want 1", n)
	}
	b.client.AgeTokens(time.Minute)
	if _, err := b.get(t, brokenWWW); err == nil || b.tokens.Load() != 2 {
		t.Errorf("an old token: %v, %d were asked for in all, want 2", err, b.tokens.Load())
	}
}

func TestAnswersMayLackEverythingButValueAndVersion(t *testing.T) {
	const id = `"id":"https://contoso-web.example.com/secrets/www/` + version + `"`
	pinned := brokenWWW + "/" + strings.ToUpper(version)
	for _, tt := range []struct {
		url, body string
		want      vault.Secret // Value apart
		fact      string       // of the error
	}{
		{brokenWWW, `{"value":"x",` + id + `}`, vault.Secret{Version: version, Enabled: true}, ""},
		{brokenWWW, `{"value":"x",` + id + `,"attributes":{}}`, vault.Secret{Version: version, Enabled: true}, ""},
		{brokenWWW, `{"value":"x",` + id + `,"attributes":null,"contentType":null,"managed":null}`, vault.Secret{Version: version, Enabled: true}, ""},
		{brokenWWW, `{"value":"x",` + id + `,"attributes":{"enabled":false,"created":1,"nbf":2,"exp":3},"contentType":"c","managed":true}`,
			vault.Secret{Version: version, ContentType: "c", Created: time.Unix(1, 0), NotBefore: time.Unix(2, 0), Expires: time.Unix(3, 0), Managed: true}, ""},
		{pinned, `{"value":"x"}`, vault.Secret{Version: strings.ToUpper(version), Enabled: true}, ""},
		{pinned, `{"value":"x",` + id + `}`, vault.Secret{Version: version, Enabled: true}, ""},
		{brokenWWW, `{"value":"x"}`, vault.Secret{}, `the answer for secret "www" in contoso-web names no version`},
		{brokenWWW, `{"value":"x","id":""}`, vault.Secret{}, `the answer for secret "www" in contoso-web names no version`},
		{brokenWWW, `{"value":"x","id":"https://contoso-web.example.com/secrets/www"}`, vault.Secret{}, `the answer for secret "www" in contoso-web names no version`},
		{brokenWWW, `{"value":"x","id":"https://contoso-web.example.com/secrets/www/.."}`, vault.Secret{}, `the answer for secret "www" in contoso-web names no version`},
		{brokenWWW, `{` + id + `}`, vault.Secret{}, `the answer for secret "www" in contoso-web has no value`},
		{brokenWWW, `{"value":null,` + id + `}`, vault.Secret{}, `the answer for secret "www" in contoso-web has no value`},
		{brokenWWW, `{}`, vault.Secret{}, `the answer for secret "www" in contoso-web has no value`},
		{brokenWWW, `null`, vault.Secret{}, `the answer for secret "www" in contoso-web has no value`},
		{pinned, `{"value":"x","id":"https://contoso-web.example.com/secrets/www/` + strings.Repeat("f", 32) + `"}`, vault.Secret{},
			`the answer for version ` + strings.ToUpper(version) + ` of secret "www" in contoso-web is another version, ` + strings.Repeat("f", 32)},
	} {
		b := newBroken(t, 0, withToken(says(http.StatusOK, tt.body)))
		s, err := b.get(t, tt.url)
		if tt.fact != "" {
			if e := failure(t, err); e.Kind != vault.KindProtocol || e.Fact != tt.fact {
				t.Errorf("%s: %s: %v, want %s", tt.body, e.Kind, e, tt.fact)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		if string(s.Value.Reveal()) != "x" || s.Version != tt.want.Version || s.Enabled != tt.want.Enabled || s.ContentType != tt.want.ContentType || s.Managed != tt.want.Managed ||
			!s.Created.Equal(tt.want.Created) || !s.NotBefore.Equal(tt.want.NotBefore) || !s.Expires.Equal(tt.want.Expires) {
			t.Errorf("%s: %+v", tt.body, s)
		}
	}
}

func TestAnswersThatAreNoneOfKeyVaultAreProtocolErrors(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"html":          says(http.StatusOK, "<html>sign in to the hotel</html>"),
		"other types":   says(http.StatusOK, `{"value":{"a":1}}`),
		"array":         says(http.StatusOK, `[]`),
		"nothing":       says(http.StatusOK, ``),
		"no content":    says(http.StatusNoContent, ``),
		"too large":     says(http.StatusOK, `{"id":"https://contoso-web.example.com/secrets/www/`+version+`","value":"`+strings.Repeat("x", 1<<20)+`"}`),
		"bad request":   says(http.StatusBadRequest, `{"error":{"code":"BadParameter","message":"no such api-version"}}`),
		"teapot":        says(http.StatusTeapot, `short and stout`),
		"odd error":     says(http.StatusConflict, `{"error":"text"}`),
		"proxy's login": says(http.StatusProxyAuthRequired, ``),
	} {
		b := newBroken(t, 0, withToken(answer))
		_, err := b.get(t, brokenWWW)
		if e := failure(t, err); e.Kind != vault.KindProtocol {
			t.Errorf("%s: %s: %v", name, e.Kind, e)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var strayed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	defer elsewhere.Close()
	for _, answer := range []http.HandlerFunc{
		says(http.StatusFound, "", "Location", elsewhere.URL),
		withToken(says(http.StatusTemporaryRedirect, "", "Location", elsewhere.URL)),
	} {
		b := newBroken(t, 0, answer)
		_, err := b.get(t, brokenWWW)
		if e := failure(t, err); e.Kind != vault.KindProtocol || e.Status/100 != 3 {
			t.Errorf("%s %d: %v", e.Kind, e.Status, e)
		}
	}
	b := newBroken(t, 0, withToken(says(http.StatusOK, "{}")))
	machine := httptest.NewServer(says(http.StatusFound, "", "Location", elsewhere.URL))
	defer machine.Close()
	b.id.Endpoint = machine.URL
	_, err := b.get(t, brokenWWW)
	if e := failure(t, err); e.Kind != vault.KindIdentity || e.Status != http.StatusFound {
		t.Errorf("identity: %s %d: %v", e.Kind, e.Status, e)
	}
	if n := strayed.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestErrorsInUnusualForms(t *testing.T) {
	for _, tt := range []struct {
		answer      http.HandlerFunc
		kind        vault.Kind
		code, inner string
		fact        string
	}{
		{says(http.StatusServiceUnavailable, ""), vault.KindServer, "", "", "503 ServiceUnavailable: contoso-web failed"},
		{says(http.StatusBadGateway, "<html>nginx</html>"), vault.KindServer, "", "", "502 BadGateway: contoso-web failed"},
		{says(http.StatusRequestTimeout, ""), vault.KindTimeout, "", "", "408 RequestTimeout: contoso-web gave up waiting for the request"},
		{says(http.StatusTooManyRequests, "", "retry-after-ms", "1500"), vault.KindThrottled, "", "", "429 TooManyRequests: contoso-web gets too many requests"},
		{says(http.StatusNotFound, "404 page not found"), vault.KindNotFound, "", "", `404 NotFound: no secret "www" in contoso-web`},
		{says(http.StatusForbidden, `{"error":{"code":"Forbidden","message":"This TCP connection\r\ndoes not allow access"}}`), vault.KindForbidden, "Forbidden", "",
			`403 Forbidden: contoso-web does not let the identity read the secret "www": This TCP connection does not allow access`},
		{says(http.StatusForbidden, `{"error":{"code":"Forbidden","innererror":{"code":"SecretDisabled"}}}`, "x-ms-error-code", "Outer"), vault.KindDisabled, "Outer", "SecretDisabled",
			`403 SecretDisabled: secret "www" in contoso-web is disabled`},
		{says(http.StatusForbidden, `{"error":{"innererror":null}}`), vault.KindForbidden, "", "", `403 Forbidden: contoso-web does not let the identity read the secret "www"`},
		{says(599, ""), vault.KindServer, "", "", "599: contoso-web failed"},
	} {
		b := newBroken(t, 0, withToken(tt.answer))
		_, err := b.get(t, brokenWWW)
		e := failure(t, err)
		if e.Kind != tt.kind || e.Code != tt.code || e.Inner != tt.inner || e.Fact != tt.fact {
			t.Errorf("%s %q %q: %v\n  want %s %q %q: %s", e.Kind, e.Code, e.Inner, e, tt.kind, tt.code, tt.inner, tt.fact)
		}
	}
}

// Hints are there to be pasted into a shell.
func TestCommandsHoldNoTextOfTheVault(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8::7": "2001:db8::7",
		"fe80::1%$(reboot)": "ADDRESS", "fe80::1%`reboot`": "ADDRESS", "$(reboot)": "ADDRESS", "192.0.2.7|reboot": "ADDRESS"} {
		b := newBroken(t, 0, withToken(says(http.StatusForbidden,
			`{"error":{"code":"Forbidden","message":"Client address: `+address+` is not authorized","innererror":{"code":"ForbiddenByFirewall"}}}`)))
		_, err := b.get(t, brokenWWW)
		if e, command := failure(t, err), "az keyvault network-rule add --name contoso-web --ip-address "+want; !strings.HasSuffix(e.Hint, command) {
			t.Errorf("%s: hint %s, want %s", address, e.Hint, command)
		}
	}
}

func TestListingsStayAtTheVaultAndEnd(t *testing.T) {
	item := `{"id":"https://contoso-web.example.com/secrets/www/` + version + `"}`
	for _, tt := range []struct{ name, page, fact string }{
		{"another host", `{"value":[],"nextLink":"https://evil.example/secrets/www/versions"}`, `the versions of secret "www" in contoso-web go on at another host, "evil.example"`},
		{"another vault", `{"value":[],"nextLink":"https://other.example.com/secrets/www/versions"}`, `the versions of secret "www" in contoso-web go on at another host, "other.example.com"`},
		{"a look-alike", `{"value":[],"nextLink":"https://contoſo-web.example.com/"}`, `the versions of secret "www" in contoso-web go on at another host, "contoſo-web.example.com"`},
		{"another port", `{"value":[],"nextLink":"https://contoso-web.example.com:444/"}`, `the versions of secret "www" in contoso-web go on at another host, "contoso-web.example.com:444"`},
		{"without TLS", `{"value":[],"nextLink":"http://contoso-web.example.com/"}`, `the versions of secret "www" in contoso-web go on at another host, "contoso-web.example.com"`},
		{"no scheme", `{"value":[],"nextLink":"//evil.example/"}`, `the versions of secret "www" in contoso-web go on at another host, "evil.example"`},
		{"user info", `{"value":[],"nextLink":"https://u:p@contoso-web.example.com/"}`, `the versions of secret "www" in contoso-web go on at another host, "contoso-web.example.com"`},
		{"no URL", `{"value":[],"nextLink":"https://%zz"}`, `the versions of secret "www" in contoso-web have a next link that is not a URL`},
		{"endless", `{"value":[],"nextLink":"https://contoso-web.example.com:443/secrets/www/versions?again"}`, `the versions of secret "www" in contoso-web do not end after 1000 pages`},
		{"no item", `{"value":[null]}`, `the versions of secret "www" in contoso-web include one without id`},
		{"no id", `{"value":[` + item + `,{}]}`, `the versions of secret "www" in contoso-web include one without id`},
		{"odd id", `{"value":[{"id":"../x"}]}`, `the versions of secret "www" in contoso-web include one without id`},
	} {
		b := newBroken(t, time.Minute, withToken(says(http.StatusOK, tt.page)))
		got, err := b.client.Versions(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
		if e := failure(t, err); e.Kind != vault.KindProtocol || e.Fact != tt.fact || got != nil {
			t.Errorf("%s: %v, %s: %v, want %s", tt.name, got, e.Kind, e, tt.fact)
		}
	}
	b := newBroken(t, 0, withToken(says(http.StatusOK, `{"value":[`+item+`],"nextLink":null}`)))
	got, err := b.client.Versions(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
	if want := (vault.VersionInfo{Version: version, Enabled: true}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("a version without attributes: %+v, %v", got, err)
	}
}

func TestListingsAreBoundedInMemory(t *testing.T) {
	const perPage = 2500
	items := strings.Repeat(`{"id":"https://contoso-web.example.com/secrets/www/`+version+`"},`, perPage)
	for _, tt := range []struct {
		extra string // on the last of four pages
		want  int
	}{{"", 10_000}, {`{"id":"https://contoso-web.example.com/secrets/www/` + version + `"},`, 0}} {
		b := newBroken(t, time.Minute, withToken(func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.URL.Query().Get("page"))
			if page == 3 {
				fmt.Fprintf(w, `{"value":[%s]}`, strings.TrimSuffix(items+tt.extra, ","))
				return
			}
			fmt.Fprintf(w, `{"value":[%s],"nextLink":"/secrets/www/versions?page=%d"}`, strings.TrimSuffix(items, ","), page+1)
		}))
		got, err := b.client.Versions(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
		if len(got) != tt.want || (err == nil) != (tt.want > 0) {
			t.Fatalf("%d versions, %v; want %d", len(got), err, tt.want)
		}
		if err == nil {
			continue
		}
		if e := failure(t, err); e.Kind != vault.KindProtocol || e.Fact != `the versions of secret "www" in contoso-web are more than 10000` {
			t.Errorf("%s: %v", e.Kind, e)
		}
	}
}

func TestVersionsAreSortedByCreationThenById(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 32) }
	var items []string
	for _, v := range []struct {
		digit   string
		created int
	}{{"1", 200}, {"4", 100}, {"2", 300}, {"3", 100}, {"5", 400}} { // in order of nothing, as the service gives them
		items = append(items, fmt.Sprintf(`{"id":"https://contoso-web.example.com/secrets/www/%s","attributes":{"created":%d}}`, id(v.digit), v.created))
	}
	b := newBroken(t, 0, withToken(says(http.StatusOK, `{"value":[`+strings.Join(items, ",")+`]}`)))
	got, err := b.client.Versions(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, v := range got {
		order = append(order, v.Version)
	}
	if want := []string{id("5"), id("2"), id("1"), id("3"), id("4")}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestRelativeNextLinkIsFollowed(t *testing.T) {
	b := newBroken(t, 0, withToken(func(w http.ResponseWriter, r *http.Request) {
		page := `{"value":[],"nextLink":"/secrets/www/versions?page=2"}`
		if r.URL.Query().Get("page") == "2" {
			page = `{"value":[{"id":"https://contoso-web.example.com/secrets/www/` + version + `"}]}`
		}
		_, _ = w.Write([]byte(page))
	}))
	got, err := b.client.Versions(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
	if err != nil || len(got) != 1 {
		t.Errorf("Versions = %v, %v", got, err)
	}
}

func TestCallerWhoGivesUpIsToldSo(t *testing.T) {
	reached := make(chan struct{})
	b := newBroken(t, time.Hour, withToken(func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	_, err := b.client.Get(ctx, b.id, mustParse(t, brokenWWW, "example.com"))
	if e := failure(t, err); e.Kind != vault.KindTimeout || !errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v", e.Kind, e)
	}
}

func TestVaultsThatCannotBeReachedAreExplained(t *testing.T) {
	b := newBroken(t, 0, withToken(says(http.StatusOK, "{}")))
	closed := listen(t)
	_ = closed.Close()
	silent := listen(t) // the kernel accepts, nobody speaks TLS
	plain := httptest.NewServer(says(http.StatusOK, ""))
	defer plain.Close()
	for name, tt := range map[string]struct {
		to, ca, fact, hint string
		try                time.Duration
	}{
		"refused":   {closed.Addr().String(), b.ca, "connection refused", "check kvfs.transport.connect", 0},
		"silent":    {silent.Addr().String(), b.ca, "no connection within 300ms", "check kvfs.transport.connect", 300 * time.Millisecond},
		"untrusted": {b.Listener.Addr().String(), "", "its certificate is not trusted: x509: certificate signed by unknown authority", "if a proxy or a private cloud has a CA of its own, name its file in kvfs.transport.caFile", 0},
		"plain":     {plain.Listener.Addr().String(), b.ca, "it does not speak TLS as expected: http: server gave HTTP response to HTTPS client", "check kvfs.transport.connect", 0},
	} {
		c, err := vault.New(vault.Options{CAFile: tt.ca, TryTimeout: tt.try, Connect: map[string]string{"contoso-web.example.com:443": tt.to}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Get(t.Context(), b.id, mustParse(t, brokenWWW, "example.com"))
		e := failure(t, err)
		if e.Kind != vault.KindUnreachable || e.Fact != "cannot reach contoso-web.example.com at "+tt.to+" (kvfs.transport.connect): "+tt.fact || e.Hint != tt.hint {
			t.Errorf("%s: %s: %v\n  hint %s\n  want %s\n  hint %s", name, e.Kind, e, e.Hint, tt.fact, tt.hint)
		}
		want := vault.HostStats{Host: "contoso-web.example.com", Failed: 1}
		if got := c.Stats(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: stats %+v, want %+v", name, got, want)
		}
	}
}

func TestWrongNameInTheCertificateIsRefused(t *testing.T) {
	b := newBroken(t, 0, withToken(says(http.StatusOK, "{}")))
	c, err := vault.New(vault.Options{CAFile: b.ca, Connect: map[string]string{"*.vault.azure.net:443": b.Listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), b.id, mustParse(t, www))
	if e := failure(t, err); e.Kind != vault.KindUnreachable || !strings.Contains(e.Fact, "its certificate is for another name: x509: certificate is valid for") || e.Hint != "check kvfs.transport.connect" {
		t.Errorf("%s: %v", e.Kind, e)
	}
}

func TestIdentityEndpointsThatAreNoneAreExplained(t *testing.T) {
	b := newBroken(t, 0, withToken(says(http.StatusOK, "{}")))
	closed := listen(t)
	_ = closed.Close()
	for name, tt := range map[string]struct {
		answer     http.HandlerFunc
		endpoint   string
		status     int
		fact, hint string
	}{
		"refused": {endpoint: "http://" + closed.Addr().String(), fact: "no token: cannot reach the identity endpoint http://" + closed.Addr().String() + ": connection refused",
			hint: "enable a managed identity on this machine, or check msiEndpoint; outside of Azure there is none"},
		"no URL": {endpoint: "localhost:40342", fact: `identity endpoint "localhost:40342" is not an absolute http URL`,
			hint: "set msiEndpoint to http://169.254.169.254/metadata/identity, on Azure Arc to http://localhost:40342/metadata/identity"},
		"html": {answer: says(http.StatusOK, "<html>"), status: 200, fact: "no token: the identity endpoint's answer makes no sense",
			hint: "check that msiEndpoint leads to an identity endpoint"},
		"too large": {answer: says(http.StatusOK, strings.Repeat(" ", 1<<20+1)), fact: "no token: the answer is larger than 1 MiB",
			hint: "check that msiEndpoint leads to an identity endpoint"},
		"Azure Arc": {answer: says(http.StatusUnauthorized, `{"error":"unauthorized_client","error_description":"Missing Basic Authorization header"}`, "WWW-Authenticate", "Basic realm=/etc/shadow"),
			status: 401, fact: `no token: the Azure Arc challenge names "/etc/shadow", which is no key of the agent: those are in /var/opt/azcmagent/tokens`,
			hint: "check that the agent of Azure Arc is what answers at msiEndpoint"},
		"another cloud": {answer: says(http.StatusBadRequest, `{"error":"invalid_resource","error_description":"AADSTS50001"}`), status: 400,
			fact: "no token for the system-assigned managed identity: 400 invalid_resource AADSTS50001", hint: "the vault belongs to another cloud than the identity: use an identity of the vault's cloud"},
		"header dropped": {answer: says(http.StatusBadRequest, `{"error":"bad_request_102","error_description":"Required metadata header not specified"}`), status: 400,
			fact: "no token for the system-assigned managed identity: 400 bad_request_102 Required metadata header not specified",
			hint: "something on the way drops headers: msiEndpoint must lead to the identity endpoint itself, not to a proxy"},
		"wrong path": {answer: says(http.StatusUnauthorized, `{"error":"unknown_source","error_description":"Unknown Source 127.0.0.1."}`), status: 401,
			fact: "no token for the system-assigned managed identity: 401 unknown_source Unknown Source 127.0.0.1",
			hint: "check the path of msiEndpoint: it is http://169.254.169.254/metadata/identity, on Azure Arc http://localhost:40342/metadata/identity"},
		"away": {answer: says(http.StatusNotFound, "404 page not found"), status: 404, fact: "no token for the system-assigned managed identity: 404",
			hint: "the endpoint is being updated: try again in 70 seconds; if it lasts, check msiEndpoint"},
		"broken off": {answer: says(http.StatusOK, `{"access_token":"t"}`, "Content-Length", "100"), fact: "no token: cannot reach the identity endpoint ENDPOINT: the connection was closed",
			hint: "enable a managed identity on this machine, or check msiEndpoint; outside of Azure there is none"},
		"challenge without realm": {answer: says(http.StatusUnauthorized, "", "WWW-Authenticate", "Basic"), status: 401, fact: "no token for the system-assigned managed identity: 401",
			hint: "check that the agent of Azure Arc is what answers at msiEndpoint, and that it runs well: azcmagent show"},
		"docker": {answer: says(http.StatusForbidden, "network is unreachable"), status: 403, fact: "no token: ENDPOINT answered 403, which is no answer of Azure's",
			hint: "check that this is an Azure machine and that nothing stands between, or set msiEndpoint"},
		"redirect": {answer: says(http.StatusFound, "", "Location", "https://evil.example"), status: 302, fact: "no token: ENDPOINT answered 302, which is no answer of Azure's",
			hint: "check that this is an Azure machine and that nothing stands between, or set msiEndpoint"},
	} {
		id := vault.Identity{Endpoint: tt.endpoint}
		if tt.answer != nil {
			machine := httptest.NewServer(tt.answer)
			defer machine.Close()
			id.Endpoint = machine.URL
			tt.fact = strings.Replace(tt.fact, "ENDPOINT", machine.URL, 1)
		}
		_, err := b.client.Get(t.Context(), id, mustParse(t, brokenWWW, "example.com"))
		e := failure(t, err)
		if e.Kind != vault.KindIdentity || e.Status != tt.status || e.Fact != tt.fact || e.Hint != tt.hint {
			t.Errorf("%s: %s %d: %v\n  hint %s\n  want %d: %s\n  hint %s", name, e.Kind, e.Status, e, e.Hint, tt.status, tt.fact, tt.hint)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
