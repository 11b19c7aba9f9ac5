package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

func TestTokenURLHonoursEverySpellingOfTheEndpoint(t *testing.T) {
	for _, tt := range []struct{ endpoint, want string }{
		{"http://169.254.169.254/metadata/identity", "http://169.254.169.254/metadata/identity/oauth2/token"},
		{"http://169.254.169.254/metadata/identity/", "http://169.254.169.254/metadata/identity/oauth2/token"},
		{"http://169.254.169.254/metadata/identity/oauth2/token", "http://169.254.169.254/metadata/identity/oauth2/token"},
		{"http://169.254.169.254/metadata/identity/oauth2/token/", "http://169.254.169.254/metadata/identity/oauth2/token"},
		{"http://localhost:40342/metadata/identity", "http://localhost:40342/metadata/identity/oauth2/token"},
		{"http://127.0.0.1:9", "http://127.0.0.1:9/metadata/identity/oauth2/token"},
		{"http://127.0.0.1:9/", "http://127.0.0.1:9/metadata/identity/oauth2/token"},
		{" https://h/x?api-version=1#f ", "https://h/x/oauth2/token"},
		{"169.254.169.254/metadata/identity", ""},
		{"http:///169.254.169.254/metadata/identity", ""},
		{"http://:80/metadata/identity", ""},
		{"ftp://h/metadata/identity", ""},
		{"http://h:port", ""},
		{"/metadata/identity", ""},
	} {
		got, err := tokenURL(tt.endpoint)
		var e *Error
		switch {
		case tt.want == "" && (!errors.As(err, &e) || e.Kind != KindIdentity || e.Hint == ""):
			t.Errorf("tokenURL(%q) = %v, %v; want an identity error with a hint", tt.endpoint, got, err)
		case tt.want != "" && (err != nil || got.String() != tt.want):
			t.Errorf("tokenURL(%q) = %v, %v; want %s", tt.endpoint, got, err, tt.want)
		}
	}
}

func TestConnectMatchesOneLabelAndPrefersTheExactKey(t *testing.T) {
	ways, err := newConnect(map[string]string{
		"*.vault.azure.net:443":           "127.0.0.1:1",
		"Contoso-Web.vault.azure.net:443": "127.0.0.1:2",
		"*.localhost:8443":                "127.0.0.1:3",
		"[fe80::1]:443":                   "[::1]:4",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ address, want string }{
		{"other.vault.azure.net:443", "127.0.0.1:1"},
		{"OTHER.Vault.azure.net:443", "127.0.0.1:1"},
		{"contoso-web.vault.azure.net:443", "127.0.0.1:2"},
		{"v.localhost:8443", "127.0.0.1:3"},
		{"[fe80::1]:443", "[::1]:4"},
		{"a.b.vault.azure.net:443", ""},
		{"vault.azure.net:443", ""},
		{".vault.azure.net:443", ""},
		{"other.vault.azure.net:8443", ""},
		{"other.vault.azure.net", ""},
		{"other.vault.azure.net.evil:443", ""},
		{"localhost:8443", ""},
	} {
		if got, ok := ways.lookup(tt.address); got != tt.want || ok != (tt.want != "") {
			t.Errorf("lookup(%q) = %q, %v; want %q", tt.address, got, ok, tt.want)
		}
	}
}

func TestNewRefusesOptionsThatCannotWork(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"absent CA file":       {CAFile: empty + ".absent"},
		"CA file without any":  {CAFile: empty},
		"key without port":     {Connect: map[string]string{"*.vault.azure.net": "127.0.0.1:1"}},
		"key without host":     {Connect: map[string]string{":443": "127.0.0.1:1"}},
		"wildcard in a label":  {Connect: map[string]string{"a*.vault.azure.net:443": "127.0.0.1:1"}},
		"two wildcards":        {Connect: map[string]string{"*.*.azure.net:443": "127.0.0.1:1"}},
		"target without port":  {Connect: map[string]string{"a.vault.azure.net:443": "127.0.0.1"}},
		"target without host":  {Connect: map[string]string{"a.vault.azure.net:443": ":8443"}},
		"target without digit": {Connect: map[string]string{"a.vault.azure.net:443": "127.0.0.1:"}},
	} {
		if c, err := New(o); err == nil {
			t.Errorf("%s: New gave %v", name, c)
		}
	}
}

func TestValueNeverShowsItsContent(t *testing.T) {
	const content = "hunter2-hunter2"
	type nested struct {
		Public  Value
		private Value
		Pointer *Value
		List    []Value
	}
	v := NewValue([]byte(content))
	n := nested{v, v, &v, []Value{v}}
	s := Secret{Value: v}
	shown := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%8.3s", "%p", "%!"} {
		for name, x := range map[string]any{"value": v, "pointer": &v, "nested": n, "to nested": &n, "secret": s, "to secret": &s} {
			shown[verb+" of "+name] = fmt.Sprintf(verb, x)
		}
	}
	for name, x := range map[string]any{"value": v, "nested": n, "secret": s} {
		text, err := json.Marshal(x)
		if err != nil {
			t.Errorf("json of %s: %v", name, err)
		}
		shown["json of "+name] = string(text)
		text, _ = xml.Marshal(x)
		shown["xml of "+name] = string(text)
		for form, handler := range map[string]func(io.Writer) slog.Handler{
			"slog text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
			"slog json": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		} {
			var out bytes.Buffer
			slog.New(handler(&out)).Info("secret", "x", x)
			shown[form+" of "+name] = out.String()
		}
	}
	for how, text := range shown {
		for _, form := range []string{content, fmt.Sprintf("%x", content), fmt.Sprintf("%X", content), strings.Trim(fmt.Sprint([]byte(content)), "[]"), "aHVudGVyMi1odW50ZXIy"} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows the value: %s", how, text)
			}
		}
	}
	if got := shown["%v of value"]; got != redacted {
		t.Errorf("%%v = %q", got)
	}
	if got := shown["json of value"]; got != `"`+redacted+`"` {
		t.Errorf("json = %s", got)
	}
	if got := string(v.Reveal()); got != content {
		t.Errorf("Reveal = %q", got)
	}
	if got := (Value{}).Reveal(); got != nil {
		t.Errorf("the zero Value reveals %q", got)
	}
}

func TestRetryAfterReadsEveryForm(t *testing.T) {
	now := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, value string
		want        time.Duration
	}{
		{"Retry-After", "", 0},
		{"Retry-After", "7", 7 * time.Second},
		{"Retry-After", "Mon, 02 Mar 2026 08:01:00 GMT", time.Minute},
		{"Retry-After", "Mon, 02 Mar 2026 07:59:00 GMT", 0},
		{"Retry-After", "-7", 0},
		{"Retry-After", "soon", 0},
		{"Retry-After", "4294967295", 24 * time.Hour},
		{"Retry-After", "99999999999999999999", 0},
		{"retry-after-ms", "1500", 1500 * time.Millisecond},
		{"x-ms-retry-after-ms", "250", 250 * time.Millisecond},
	} {
		if got := retryAfter(http.Header{http.CanonicalHeaderKey(tt.name): {tt.value}}, now); got != tt.want {
			t.Errorf("%s: %q = %v, want %v", tt.name, tt.value, got, tt.want)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		size int
		err  error
	}{{0, nil}, {9, nil}, {10, nil}, {11, errTooLarge}, {1000, errTooLarge}} {
		b := &bounded{io.NopCloser(strings.NewReader(strings.Repeat("x", tt.size))), 10}
		text, err := io.ReadAll(b)
		if !errors.Is(err, tt.err) || len(text) != min(tt.size, 10) {
			t.Errorf("%d bytes: read %d, %v; want %v", tt.size, len(text), err, tt.err)
		}
		if tt.err != nil {
			if n, err := b.Read(make([]byte, 8)); n != 0 || !errors.Is(err, errTooLarge) {
				t.Errorf("%d bytes: reading on gave %d, %v", tt.size, n, err)
			}
		}
	}
}

func TestFoldedIsOneShortLineOfText(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"Caller is not authorized.\r\nVault: V;location=eastus\r\n", "Caller is not authorized. Vault: V;location=eastus"},
		{"a\x00\x1b[31m\u2028b\u2029c\x7f", "a [31m b c"},
		{"a\u0085b\u009b31mc\u0080\u009fd", "a b 31mc d"},       // C1 controls, a sequence of which moves a cursor
		{"a\u202eb\u202dc\u2066d\u2069e\u200ff", "a b c d e f"}, // the direction of writing
		{"a\x85b\xffc", "a\ufffdb\ufffdc"},
		{"Straße 日本 😀", "Straße 日本 😀"},
		{strings.Repeat("é", 501), strings.Repeat("é", 500) + "..."},
	} {
		if got := folded(tt.in); got != tt.want {
			t.Errorf("folded(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestArcKeyFilesAreScreened(t *testing.T) {
	tokens, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(tokens, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{
		filepath.Join(tokens, "a.key"): 16, filepath.Join(tokens, "full.key"): arcKeyLimit, filepath.Join(tokens, "large.key"): arcKeyLimit + 1, filepath.Join(tokens, "empty.key"): 0,
		filepath.Join(tokens, "a.pem"): 16, filepath.Join(tokens, "sub", "a.key"): 16, filepath.Join(elsewhere, "a.key"): 16,
	} {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.key", filepath.Join(tokens, "link.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(tokens, "directory.key"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(tokens, "pipe.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	inTokens := func(name string) string { return tokens + "/" + name }
	for file, want := range map[string]string{
		inTokens("a.key"):         "",
		inTokens("full.key"):      "",
		inTokens("large.key"):     "has not 1 to 4096 bytes",
		inTokens("empty.key"):     "has not 1 to 4096 bytes",
		inTokens("link.key"):      "is a symbolic link",
		inTokens("directory.key"): "is not a regular file",
		inTokens("pipe.key"):      "is not a regular file",
		inTokens("absent.key"):    "no such file",
		inTokens("a.pem"):         "is no key of the agent",
		inTokens("sub/a.key"):     "is no key of the agent",
		inTokens("../" + filepath.Base(elsewhere) + "/a.key"): "is no key of the agent",
		inTokens("/a.key"):   "is no key of the agent",
		inTokens("./a.key"):  "is no key of the agent",
		elsewhere + "/a.key": "is no key of the agent",
		"a.key":              "is no key of the agent",
		"/etc/shadow":        "is no key of the agent",
		"":                   "is no key of the agent",
	} {
		switch key, err := readArcKey(tokens, file); {
		case want == "" && (err != nil || len(key) == 0):
			t.Errorf("the agent's own key: %q, %v", key, err)
		case want != "" && (err == nil || key != "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %q, %v, want one that %s", file, key, err, want)
		}
	}
}

func TestChallengesOfAzureArcAreRecognised(t *testing.T) {
	for _, tt := range []struct {
		status  int
		headers []string
		file    string
		ok      bool
	}{
		{401, []string{"Basic realm=/d/a.key"}, "/d/a.key", true},
		{401, []string{`basic Realm="/d/a.key"`}, "/d/a.key", true},
		{401, []string{"Bearer x", "Basic realm=/d/a.key"}, "/d/a.key", true},
		{401, []string{"Basic realm="}, "", true},
		{200, []string{"Basic realm=/d/a.key"}, "", false},
		{403, []string{"Basic realm=/d/a.key"}, "", false},
		{401, []string{"Basic"}, "", false},
		{401, []string{"Basic realm"}, "", false},
		{401, []string{"", "=", "realm=/d/a.key", "Basic  realm=/d/a.key"}, "", false},
		{401, nil, "", false},
	} {
		a := identityAnswer{status: tt.status, header: http.Header{"Www-Authenticate": tt.headers}}
		if file, ok := a.challenge(); file != tt.file || ok != tt.ok {
			t.Errorf("%d %q: %q, %v; want %q, %v", tt.status, tt.headers, file, ok, tt.file, tt.ok)
		}
	}
}

func TestPermissionThatIsMissingIsNamed(t *testing.T) {
	denied := &os.PathError{Op: "open", Path: "/f", Err: syscall.EACCES}
	principal := Identity{Method: ServicePrincipal, ClientID: "c", SecretFile: "/f"}
	for _, tt := range []struct {
		e          *Error
		fact, hint string
	}{
		{explainArcKey(Identity{}, fmt.Errorf("reading the Azure Arc key: %w", denied)), "no token: reading the Azure Arc key: open /f: permission denied",
			"run kvfs as root, or add its user to the group himds, which may read the agent's keys"},
		{explainFile(principal, "/f", "secret", denied), "no token for the service principal c: cannot use the secret in /f: permission denied", "let the user that kvfs runs as read /f"},
		{explainFile(Identity{Method: WorkloadIdentity, ClientID: "c"}, "/f", "token", denied), "no token for the workload identity c: cannot use the token in /f: permission denied",
			"let the user that kvfs runs as read /f"},
	} {
		if tt.e.Kind != KindIdentity || tt.e.Fact != tt.fact || tt.e.Hint != tt.hint {
			t.Errorf("%s: %s; %s", tt.e.Kind, tt.e.Fact, tt.e.Hint)
		}
	}
}

func TestMetadataServiceIsSpokenToAsAllSDKsDo(t *testing.T) {
	for host, want := range map[string]string{"169.254.169.254": "2018-02-01", "fe80::1": "2018-02-01",
		"localhost": "2020-06-01", "127.0.0.1": "2020-06-01", "::1": "2020-06-01", "10.0.0.1": "2020-06-01", "": "2020-06-01"} {
		if got := apiVersion(host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// Commands are there to be pasted into a shell.
func TestArgumentsOfCommandsAreHarmless(t *testing.T) {
	for _, s := range []string{"", "-rf", "@/etc/shadow", "a b", "$(reboot)", "`reboot`", "a;b", "a|b", "a'b", `a"b`, "a\nb", "a&b", "a>b", "~a*", strings.Repeat("a", 301), "é"} {
		if got := argument(s, "X"); got != "X" {
			t.Errorf("%q stands as %q", s, got)
		}
	}
	for _, s := range []string{"00001111-aaaa-2222-bbbb-3333cccc4444", "https://oidc.contoso.example/a_b?", "system:serviceaccount:web:kvfs", "/etc/kvfs/app.pem"} {
		if got := argument(strings.TrimSuffix(s, "?"), "X"); got != strings.TrimSuffix(s, "?") {
			t.Errorf("%q stands as %q", s, got)
		}
	}
}

func FuzzClaimsOfAShownToken(f *testing.F) {
	for _, payload := range []string{`{"iss":"https://i","sub":"s","aud":"a"}`, `{"aud":["a","b"]}`, `{"aud":[]}`, `{"aud":{}}`, `{"iss":1}`, `null`, ``} {
		f.Add("e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln")
	}
	f.Add("a.b")
	f.Add("..")
	file := filepath.Join(f.TempDir(), "token")
	f.Fuzz(func(t *testing.T, token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		command := trustCommand(Identity{ClientID: "c", TokenFile: file})
		_, parameters, _ := strings.Cut(command, "--parameters ")
		var claims struct {
			Name, Issuer, Subject string
			Audiences             []string
		}
		if err := json.Unmarshal([]byte(strings.Trim(parameters, "'")), &claims); err != nil || len(claims.Audiences) != 1 || strings.Count(command, "'") != 3 {
			t.Errorf("%q: %v", command, err)
		}
	})
}

func FuzzAnswersOfIdentityEndpoints(f *testing.F) {
	f.Add(401, "Basic realm=/var/opt/azcmagent/tokens/a.key", "")
	f.Add(401, `Basic realm="`, `{"error":"unauthorized_client"}`)
	f.Add(400, "Bearer x=,", `{"error":"invalid_request","error_description":"Identity not found"}`)
	f.Add(200, "", `{"access_token":"hunter2","expires_on":"1e3","client_id":"c"}`)
	f.Add(200, "", `{"access_token":"hunter2","expires_in":-9223372036854775808}`)
	directory := f.TempDir()
	f.Fuzz(func(t *testing.T, status int, challenge, text string) {
		a := identityAnswer{status, http.Header{"Www-Authenticate": {challenge}}, []byte(text)}
		if file, ok := a.challenge(); ok {
			if key, err := readArcKey(directory, file); err == nil {
				t.Errorf("an empty directory holds the key %q", key)
			}
		}
		for _, arc := range []bool{false, true} {
			token, err := managed{id: Identity{ClientID: "c"}}.accept(a, arc)
			if err == nil && token.Token == "" {
				t.Error("an empty token was accepted")
			}
			if e := explainRefusal(Identity{}, arc, a); e.Fact == "" || e.Hint == "" || strings.ContainsAny(e.Fact, "\r\n") {
				t.Errorf("%q; %q", e.Fact, e.Hint)
			}
		}
	})
}

func TestNoTokenLeavesForAnotherHost(t *testing.T) {
	var strayed atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	defer server.Close()
	ref := Ref{host: strings.TrimPrefix(server.URL, "https://"), name: "www"}
	other := Ref{host: "contoso-web.vault.azure.net", name: "www"}
	for _, tt := range []struct {
		ref  Ref
		url  string
		want bool
	}{
		{ref, server.URL + "/secrets/www", true},
		{ref, strings.Replace(server.URL, "https:", "http:", 1), false},
		{other, server.URL + "/secrets/www", false},
		{other, "https://contoso-web.vault.azure.net:" + server.URL[strings.LastIndexByte(server.URL, ':')+1:], false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer promised")
		before := strayed.Load()
		resp, err := vaultTransporter{server.Client(), newTestCredential(granting("token")), tt.ref}.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if kept := resp.Request.Header.Get("Authorization") + req.Header.Get("Authorization"); strings.Contains(kept, "Bearer token") {
				t.Errorf("the SDK is left with %q", kept)
			}
		}
		var e *Error
		if sent := strayed.Load() > before; sent != tt.want || !tt.want && (!errors.As(err, &e) || e.Kind != KindProtocol) {
			t.Errorf("%s for %s: sent %v, %v", tt.url, tt.ref, sent, err)
		}
	}
}

// source is a credential whose every answer the test gives.
type source func() (azcore.AccessToken, error)

func (s source) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return s()
}

// granting gives out a token that ends in an hour.
func granting(token string) source {
	return func() (azcore.AccessToken, error) {
		return azcore.AccessToken{Token: token, ExpiresOn: time.Now().Add(time.Hour)}, nil
	}
}

func newTestCredential(s source) *credential {
	return newCredential(Identity{}, 0, func() (azcore.TokenCredential, error) { return s, nil })
}

var scope = policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}}

func TestFailedRenewalKeepsAValidToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked++
			return azcore.AccessToken{}, errors.New("the endpoint is down")
		})
		c.holdAging(4 * time.Minute)
		for _, tt := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {0, 1}, {renewalPause - 1, 1}, {1, 2}, {time.Minute, 3}} {
			time.Sleep(tt.wait)
			if got, err := c.GetToken(t.Context(), scope); err != nil || got.Token != "aging" || asked != tt.want {
				t.Fatalf("%v later: GetToken = %q, %v, asked %d times in all; want %d", tt.wait, got.Token, err, asked, tt.want)
			}
		}
		c.reject("aging")
		if got, err := c.GetToken(t.Context(), scope); err == nil {
			t.Errorf("a rejected token came back: %q", got.Token)
		}
	})
}

// holdAging gives c a token that is due for renewal and ends after left.
func (c *credential) holdAging(left time.Duration) {
	now := time.Now()
	aging := azcore.AccessToken{Token: "aging", ExpiresOn: now.Add(left)}
	c.held[tokenKey{scope: scope.Scopes[0]}] = held{token: aging, issued: now.Add(-time.Hour)}
}

// Queued behind a request that hangs, callers would run into their deadlines one after the other, a valid token in hand.
func TestHangingRenewalKeepsNobodyFromAValidToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked.Add(1)
			time.Sleep(identityTimeout)
			return azcore.AccessToken{}, errors.New("the endpoint hangs")
		})
		c.holdAging(3 * time.Minute)
		begin := time.Now()
		var atOnce atomic.Int64
		var callers sync.WaitGroup
		for range 6 {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), attemptKey{}, &attempt{began: begin}), 2*identityTimeout)
				defer cancel()
				if got, err := c.GetToken(ctx, scope); err != nil || got.Token != "aging" {
					t.Errorf("GetToken = %q, %v", got.Token, err)
				}
				if time.Since(begin) == 0 {
					atOnce.Add(1)
				}
			})
		}
		callers.Wait()
		if asked.Load() != 1 || atOnce.Load() != 5 {
			t.Errorf("asked %d times, %d of 6 callers did not wait; want 1, 5", asked.Load(), atOnce.Load())
		}
	})
}

// A credential of azidentity has a cache of its own, which must not outlive a token that a vault rejected.
func TestRejectionForgetsThatTokenAndWhereItCameFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		c := newTestCredential(nil)
		c.open = func() (azcore.TokenCredential, error) {
			opened++
			return source(func() (azcore.AccessToken, error) {
				return azcore.AccessToken{Token: fmt.Sprint("token ", opened), ExpiresOn: time.Now().Add(time.Hour)}, nil
			}), nil
		}
		for _, tt := range []struct {
			age          time.Duration
			reject, want string
		}{
			{0, "none", "token 1"},
			{youngToken - 1, "token 1", "token 1"},
			{1, "token 1", "token 2"},
			{youngToken, "token 1", "token 2"},
			{0, "token 2", "token 3"},
			{0, "token 3", "token 3"},
		} {
			if _, err := c.GetToken(t.Context(), scope); err != nil {
				t.Fatal(err)
			}
			time.Sleep(tt.age)
			c.reject(tt.reject)
			if got, err := c.GetToken(t.Context(), scope); err != nil || got.Token != tt.want {
				t.Errorf("%v later %q was rejected: %q, %v; want %q", tt.age, tt.reject, got.Token, err, tt.want)
			}
		}
	})
}

func TestTokenIsRenewedAtItsRefreshTime(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		token azcore.AccessToken
		want  bool
	}{
		"none":            {azcore.AccessToken{}, false},
		"before refresh":  {azcore.AccessToken{Token: "t", ExpiresOn: now.Add(time.Hour), RefreshOn: now.Add(time.Minute)}, true},
		"after refresh":   {azcore.AccessToken{Token: "t", ExpiresOn: now.Add(time.Hour), RefreshOn: now.Add(-time.Minute)}, false},
		"over":            {azcore.AccessToken{Token: "t", ExpiresOn: now.Add(-time.Hour)}, false},
		"refresh too far": {azcore.AccessToken{Token: "t", ExpiresOn: now.Add(-time.Hour), RefreshOn: now.Add(time.Hour)}, false},
	} {
		if got := fresh(tt.token, now); got != tt.want {
			t.Errorf("%s: fresh = %v", name, got)
		}
	}
}

// An identity endpoint may hand out the same token again and again until shortly before its end.
func TestTokensAreRenewedAtHalfOfWhatTheyHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, asked := time.Now().Add(24*time.Hour), 0
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked++
			return azcore.AccessToken{Token: "t", ExpiresOn: end}, nil
		})
		for _, tt := range []struct {
			until time.Duration // the end
			want  int
		}{{24 * time.Hour, 1}, {12*time.Hour + 1, 1}, {12 * time.Hour, 2}, {6*time.Hour + 1, 2}, {6 * time.Hour, 3}, {time.Minute, 4}, {45 * time.Second, 4}, {30 * time.Second, 5}, {20 * time.Second, 5}, {1, 5}} {
			time.Sleep(time.Until(end) - tt.until)
			token, err := c.GetToken(t.Context(), scope)
			if err != nil || token.Token != "t" || asked != tt.want {
				t.Fatalf("%v before the end: %v, asked %d times; want %d", tt.until, err, asked, tt.want)
			}
		}
	})
}

func TestIssuerMayWishForAnotherTimeOfRenewal(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct{ ends, wish, want time.Duration }{
		{time.Hour, 0, 30 * time.Minute},
		{time.Hour, 10 * time.Minute, 10 * time.Minute},
		{time.Hour, 50 * time.Minute, 50 * time.Minute},
		{time.Hour, 2 * time.Hour, 30 * time.Minute},
		{time.Hour, -time.Minute, 30 * time.Minute},
	} {
		token := azcore.AccessToken{Token: "t", ExpiresOn: now.Add(tt.ends)}
		if tt.wish != 0 {
			token.RefreshOn = now.Add(tt.wish)
		}
		if got := renewalOf(token, now).Sub(now); got != tt.want {
			t.Errorf("a token of %v with the wish %v is renewed after %v, want %v", tt.ends, tt.wish, got, tt.want)
		}
	}
}

// Forty certificates with one identity must not ask a dead endpoint one after the other, whether they wait for the same
// request or come a moment later.
func TestConcurrentTriesShareOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked++
			return azcore.AccessToken{}, errors.New("the endpoint is down")
		})
		early := context.WithValue(t.Context(), attemptKey{}, &attempt{began: time.Now()})
		time.Sleep(time.Nanosecond)
		for _, tt := range []struct {
			ctx  context.Context
			wait time.Duration
			want int
		}{{early, 0, 1}, {early, 0, 1}, {t.Context(), 0, 1}, {t.Context(), failurePause - 1, 1}, {early, 1, 1}, {t.Context(), 0, 2}, {t.Context(), failurePause, 3}} {
			time.Sleep(tt.wait)
			if _, err := c.GetToken(tt.ctx, scope); err == nil || asked != tt.want {
				t.Fatalf("%v, asked %d times, want %d", err, asked, tt.want)
			}
		}
	})
}

func TestSourceThatAsksToWaitIsLeftInPeace(t *testing.T) {
	for wish, pause := range map[time.Duration]time.Duration{0: failurePause, time.Minute: time.Minute, 24 * time.Hour: longestPause} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			c := newTestCredential(func() (azcore.AccessToken, error) {
				asked++
				return azcore.AccessToken{}, &Error{Kind: KindIdentity, RetryAfter: wish}
			})
			for _, tt := range []struct {
				wait, left time.Duration
				want       int
			}{{0, wish, 1}, {pause - 1, max(0, wish-pause+1), 1}, {1, wish, 2}} {
				time.Sleep(tt.wait)
				_, err := c.GetToken(t.Context(), scope)
				var e *Error
				if !errors.As(err, &e) || asked != tt.want || e.RetryAfter != tt.left {
					t.Errorf("a wish for %v: asked %d times, told to wait %v; want %d, %v", wish, asked, e.RetryAfter, tt.want, tt.left)
				}
			}
		})
	}
}

// What happens to one who gives up is nobody else's failure.
func TestFailureOfOneWhoGaveUpIsNotShared(t *testing.T) {
	for _, claims := range []string{"", "{}"} {
		o := scope
		o.Claims = claims
		ctx, cancel := context.WithCancel(t.Context())
		c := newTestCredential(nil)
		c.id.Method = ServicePrincipal
		c.open = func() (azcore.TokenCredential, error) {
			return source(func() (azcore.AccessToken, error) {
				cancel()
				return azcore.AccessToken{}, ctx.Err()
			}), nil
		}
		if _, err := c.GetToken(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("the one who gave up: %v", err)
		}
		c.open = func() (azcore.TokenCredential, error) { return granting("t"), nil }
		if got, err := c.GetToken(t.Context(), o); err != nil || got.Token != "t" {
			t.Errorf("the next one, with claims %q: %q, %v", claims, got.Token, err)
		}
	}
}

// deadlined notes how long a request may take.
type deadlined struct{ left *time.Duration }

func (d deadlined) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	ends, ok := ctx.Deadline()
	if *d.left = time.Until(ends); !ok {
		*d.left = 0
	}
	return azcore.AccessToken{}, errors.New("the endpoint is down")
}

// A try must outlive its login, to say why there was none; and who has a token in hand has a secret to read.
func TestLoginsAreGivenAPartOfTheTry(t *testing.T) {
	for _, tt := range []struct{ try, login, renewal time.Duration }{{15 * time.Second, 10 * time.Second, renewalLimit}, {1500 * time.Millisecond, time.Second, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			client, err := New(Options{TryTimeout: tt.try})
			if err != nil {
				t.Fatal(err)
			}
			ref := Ref{host: "contoso-web.vault.azure.net", name: "www"}
			c, err := client.credential(question{id: Identity{Method: ServicePrincipal}, ref: ref})
			if err != nil {
				t.Fatal(err)
			}
			var left time.Duration
			c.open = func() (azcore.TokenCredential, error) { return deadlined{&left}, nil }
			if _, err := c.GetToken(t.Context(), scope); err == nil || left != tt.login {
				t.Errorf("a login within a try of %v: %v, want %v", tt.try, left, tt.login)
			}
			c.holdAging(time.Minute)
			if _, err := c.GetToken(t.Context(), scope); err != nil || left != tt.renewal {
				t.Errorf("a renewal within a try of %v: %v, want %v", tt.try, left, tt.renewal)
			}
		})
	}
}

// A vault can make up new claims with each answer.
func TestClaimsThatChangeCostOneLoginAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := newTestCredential(nil)
		c.id.Method = ServicePrincipal
		c.open = func() (azcore.TokenCredential, error) {
			asked++
			return granting(fmt.Sprint("token ", asked)), nil
		}
		for i, tt := range []struct {
			wait   time.Duration
			claims bool
			want   int
		}{{0, false, 1}, {0, true, 2}, {0, true, 2}, {youngToken - 1, true, 2}, {0, false, 2}, {1, true, 3}, {0, true, 3}} {
			time.Sleep(tt.wait)
			o := scope
			if tt.claims {
				o.Claims = fmt.Sprint("claims ", i)
			}
			if got, err := c.GetToken(t.Context(), o); err != nil || got.Token != fmt.Sprint("token ", tt.want) {
				t.Errorf("step %d: %q, %v; want token %d", i, got.Token, err, tt.want)
			}
		}
	})
}

// The token that lacks the claims would only be rejected, and nobody would learn why there is no better one.
func TestFailedRequestForClaimsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked++
			return azcore.AccessToken{}, &Error{Kind: KindIdentity, Fact: "the secret has expired"}
		})
		c.id.Method = ServicePrincipal
		c.holdAging(time.Hour)
		demand := scope
		demand.Claims = "{}"
		for _, want := range []int{1, 1} {
			if got, err := c.GetToken(t.Context(), demand); err == nil || err.Error() != "the secret has expired" || asked != want {
				t.Errorf("%q, %v, asked %d times", got.Token, err, asked)
			}
		}
		if got, err := c.GetToken(t.Context(), scope); err != nil || got.Token != "aging" {
			t.Errorf("without claims: %q, %v", got.Token, err)
		}
		c.open = func() (azcore.TokenCredential, error) { return granting("new"), nil }
		time.Sleep(failurePause)
		if got, err := c.GetToken(t.Context(), demand); err != nil || got.Token != "new" {
			t.Errorf("once it is mended: %q, %v", got.Token, err)
		}
	})
}

// While somebody asks for claims, the token without them serves those alone whom it helps.
func TestTokenWithoutClaimsDoesNotServeWhileTheyAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCredential(nil)
		c.id.Method = ServicePrincipal
		c.holdAging(time.Hour)
		c.open = func() (azcore.TokenCredential, error) {
			time.Sleep(time.Second)
			return granting("with claims"), nil
		}
		demand := scope
		demand.Claims = "{}"
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if got, err := c.GetToken(t.Context(), demand); err != nil || got.Token != "with claims" {
					t.Errorf("with claims: %q, %v", got.Token, err)
				}
			})
		}
		synctest.Wait()
		if got, err := c.GetToken(t.Context(), scope); err != nil || got.Token != "aging" {
			t.Errorf("without claims: %q, %v", got.Token, err)
		}
		callers.Wait()
	})
}

// Where a clock is wrong, every token is over when it comes.
func TestTokenThatIsOverOnArrivalDoesNotFloodItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := newTestCredential(func() (azcore.AccessToken, error) {
			asked++
			return azcore.AccessToken{Token: "over", ExpiresOn: time.Now().Add(-time.Hour)}, nil
		})
		for _, tt := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {0, 1}, {renewalPause - 1, 1}, {1, 2}} {
			time.Sleep(tt.wait)
			if got, err := c.GetToken(t.Context(), scope); err != nil || got.Token != "over" || asked != tt.want {
				t.Errorf("%q, %v, asked %d times, want %d", got.Token, err, asked, tt.want)
			}
		}
	})
}

func TestGivingUpWhileAnotherAsks(t *testing.T) {
	c := newTestCredential(nil)
	c.busy <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.GetToken(ctx, scope)
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindIdentity || !errors.Is(err, context.Canceled) {
		t.Errorf("GetToken = %v", err)
	}
}

// What may hold a token is not shown, in whichever form.
func TestAnswersThatMayGrantAreKnown(t *testing.T) {
	for _, tt := range []struct {
		url    string
		status int
		want   bool
	}{
		{"https://login.example.com/t/v2.0/.well-known/openid-configuration", 200, false},
		{"http://login.example.com/t/v2.0/.well-known/openid-configuration", 200, true},
		{"https://login.example.com/t/oauth2/v2.0/token", 200, true},
		{"https://login.example.com/t/oauth2/v2.0/token", 203, true},
		{"https://login.example.com/t/oauth2/v2.0/token", 401, false},
		{"http://169.254.169.254/metadata/identity/oauth2/token", 200, true},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		var a loginAnswer
		a.note(req, &http.Response{StatusCode: tt.status}, []byte(`{"error":"x"}`))
		if a.mayGrant != tt.want || a.status != tt.status || (a.code == "x") != (tt.status >= 400) {
			t.Errorf("%s %d: %+v", tt.url, tt.status, a)
		}
	}
}

func TestPanicInTheCredentialIsAnError(t *testing.T) {
	c := newTestCredential(func() (azcore.AccessToken, error) { panic("boom") })
	for range 2 { // the second finds the way free
		_, err := c.GetToken(t.Context(), scope)
		var e *Error
		if !errors.As(err, &e) || e.Kind != KindIdentity {
			t.Errorf("GetToken = %v", err)
		}
	}
}
