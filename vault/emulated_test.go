package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/vault"
)

// world is an emulated Azure with a client for it: the real SDK, over TLS, challenge verification on.
type world struct {
	*emulator.Emulator
	client *vault.Client
	id     vault.Identity
	log    *transcript
	keys   string // of Azure Arc
}

// transcript is a log that a test may read while others write.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

func newWorld(t *testing.T, o emulator.Options, options vault.Options) *world {
	t.Helper()
	forgetAzure(t)
	o.Dir = t.TempDir()
	e, err := emulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the emulator ended: %v", err)
		}
	})
	w := &world{Emulator: e, id: vault.Identity{Endpoint: e.Endpoints().Identity}, log: new(transcript)}
	options.CAFile = e.Endpoints().CA
	options.Connect = make(map[string]string)
	for _, name := range append([]string{"*.vault.azure.net", "*.vault.usgovcloudapi.net", "*.vault.azure.cn",
		"login.microsoftonline.com", "login.microsoftonline.us", "login.chinacloudapi.cn"}, o.LoginHosts...) {
		options.Connect[name+":443"] = e.Addr()
	}
	options.Logger = slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if w.client, err = vault.New(options); err != nil {
		t.Fatal(err)
	}
	return w
}

// forgetAzure hides this machine's own Azure from azidentity.
func forgetAzure(t *testing.T) {
	for _, name := range []string{"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET",
		"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE",
		"AZURE_AUTHORITY_HOST", "AZURE_REGIONAL_AUTHORITY_NAME", "AZURE_ADDITIONALLY_ALLOWED_TENANTS"} {
		t.Setenv(name, "")
	}
}

func (w *world) get(t *testing.T, raw string) (*vault.Secret, error) {
	t.Helper()
	return w.client.Get(t.Context(), w.id, mustParse(t, raw))
}

// add stores a secret in the first vault and returns its version.
func (w *world) add(t *testing.T, name, value string) string {
	t.Helper()
	v, err := w.AddSecret("", name, "text/plain", value)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// failure holds err to what every error of this package promises, and returns it.
func failure(t *testing.T, err error) *vault.Error {
	t.Helper()
	var e *vault.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *vault.Error", err)
	}
	for _, text := range []string{e.Fact, e.Hint} {
		if text == "" || strings.ContainsAny(text, "\r\n") || strings.HasSuffix(text, ".") {
			t.Errorf("%q is not a fact or hint: one line, no full stop", text)
		}
	}
	if strings.ContainsAny(e.Message+e.RequestID, "\r\n") {
		t.Errorf("%q, %q is not folded", e.Message, e.RequestID)
	}
	return e
}

const www = "https://contoso-web.vault.azure.net/secrets/www"

func TestGetReadsTheNewestVersionAndPinnedOnes(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	before := time.Now().Add(-time.Minute)
	first, err := w.AddCertificate(emulator.Profile{Name: "www"})
	if err != nil {
		t.Fatal(err)
	}
	old, err := w.get(t, www)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.Rotate("", "www")
	if err != nil {
		t.Fatal(err)
	}
	latest, err := w.get(t, "https://CONTOSO-web.vault.azure.net:443/secrets/WWW/")
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := w.get(t, www+"/"+first)
	if err != nil {
		t.Fatal(err)
	}
	if old.Version != first || latest.Version != second || pinned.Version != first {
		t.Errorf("versions %s, %s, pinned %s; want %s, %s, %[4]s", old.Version, latest.Version, pinned.Version, first, second)
	}
	if !bytes.Equal(old.Value.Reveal(), pinned.Value.Reveal()) || bytes.Equal(old.Value.Reveal(), latest.Value.Reveal()) || len(old.Value.Reveal()) == 0 {
		t.Error("the values do not belong to their versions")
	}
	if latest.ContentType != "application/x-pkcs12" || !latest.Enabled || !latest.Managed {
		t.Errorf("the certificate's secret is %+v", latest)
	}
	if latest.Created.Before(before) || !latest.Expires.After(latest.NotBefore) || latest.NotBefore.IsZero() {
		t.Errorf("the certificate's secret has the times %v, %v, %v", latest.Created, latest.NotBefore, latest.Expires)
	}
}

func TestAbsentTimesAreZero(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "by hand")
	s, err := w.get(t, www)
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Value.Reveal()) != "by hand" || s.Managed || !s.NotBefore.IsZero() || !s.Expires.IsZero() || s.Created.IsZero() {
		t.Errorf("the secret is %+v", s)
	}
}

func TestVersionsListsAllPagesNewestFirst(t *testing.T) {
	for _, dense := range []bool{false, true} {
		w := newWorld(t, emulator.Options{PageSize: 2, DensePages: dense}, vault.Options{})
		var want []string
		for i := range 7 {
			want = append(want, w.add(t, "www", fmt.Sprint("value ", i)))
		}
		if err := w.SetEnabled("", "www", want[3], false); err != nil {
			t.Fatal(err)
		}
		got, err := w.client.Versions(t.Context(), w.id, mustParse(t, www+"/"+want[0]))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(got, func(a, b vault.VersionInfo) int { return b.Created.Compare(a.Created) }) {
			t.Errorf("not newest first: %v", got)
		}
		var versions []string
		for _, v := range got {
			versions = append(versions, v.Version)
			if v.Enabled == (v.Version == want[3]) || v.Created.IsZero() {
				t.Errorf("version %+v, disabled should be %s alone", v, want[3])
			}
		}
		slices.Sort(versions)
		slices.Sort(want)
		if !slices.Equal(versions, want) {
			t.Errorf("dense %v: versions %v, want %v", dense, versions, want)
		}
		if pages := w.Counters().Versions; pages < 4 || !dense && pages < 5 {
			t.Errorf("dense %v: %d pages were read; the test needs more", dense, pages)
		}
	}
}

func TestEveryRefusalOfTheVaultIsExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	const oid = "11112222-bbbb-3333-cccc-4444dddd5555"
	w.SetIdentities(emulator.Identity{ClientID: "00001111-aaaa-2222-bbbb-3333cccc4444", ObjectID: oid, System: true})
	pin := w.add(t, "www", "x")
	const role = `grant it the role "Key Vault Secrets User" on the vault: az role assignment create --role "Key Vault Secrets User" --assignee ` + oid +
		` --scope "$(az keyvault show --name contoso-web --query id --output tsv)"; new assignments take up to 10 minutes`
	for _, tt := range []struct {
		fault       emulator.Fault
		pinned      bool
		list        bool
		kind        vault.Kind
		status      int
		code, inner string
		after       time.Duration
		fact, hint  string
	}{
		{fault: emulator.Fault{Kind: emulator.ForbiddenRBAC}, kind: vault.KindForbidden, status: 403, code: "Forbidden", inner: "ForbiddenByRbac",
			fact: `403 ForbiddenByRbac: the identity may not read secret "www" in contoso-web`, hint: role},
		{fault: emulator.Fault{Kind: emulator.ForbiddenRBAC}, list: true, kind: vault.KindForbidden, status: 403, code: "Forbidden", inner: "ForbiddenByRbac",
			fact: `403 ForbiddenByRbac: the identity may not list the versions of secret "www" in contoso-web`, hint: role},
		{fault: emulator.Fault{Kind: emulator.ForbiddenPolicy}, kind: vault.KindForbidden, status: 403, code: "Forbidden", inner: "AccessDenied",
			fact: `403 AccessDenied: no access policy lets the identity read secret "www" in contoso-web`,
			hint: "add one: az keyvault set-policy --name contoso-web --object-id " + oid + " --secret-permissions get"},
		{fault: emulator.Fault{Kind: emulator.ForbiddenPolicy}, list: true, kind: vault.KindForbidden, status: 403, code: "Forbidden", inner: "AccessDenied",
			fact: `403 AccessDenied: no access policy lets the identity list the versions of secret "www" in contoso-web`,
			hint: "add one: az keyvault set-policy --name contoso-web --object-id " + oid + " --secret-permissions get list"},
		{fault: emulator.Fault{Kind: emulator.ForbiddenFirewall}, kind: vault.KindForbiddenNetwork, status: 403, code: "Forbidden", inner: "ForbiddenByFirewall",
			fact: "403 ForbiddenByFirewall: the firewall of contoso-web does not admit this machine",
			hint: "allow its address or its subnet: az keyvault network-rule add --name contoso-web --ip-address 127.0.0.1"},
		{fault: emulator.Fault{Kind: emulator.ForbiddenConnection}, kind: vault.KindForbiddenNetwork, status: 403, code: "Forbidden", inner: "ForbiddenByConnection",
			fact: "403 ForbiddenByConnection: contoso-web admits approved private links only",
			hint: "check that contoso-web.vault.azure.net resolves to the address of its private endpoint on this machine, or allow public access"},
		{fault: emulator.Fault{Kind: emulator.Disabled}, kind: vault.KindDisabled, status: 403, code: "Forbidden", inner: "SecretDisabled",
			fact: `403 SecretDisabled: secret "www" in contoso-web is disabled`,
			hint: "enable it: az keyvault certificate set-attributes --vault-name contoso-web --name www --enabled true; for a secret made by hand, az keyvault secret set-attributes with the same arguments"},
		{fault: emulator.Fault{Kind: emulator.Disabled}, pinned: true, kind: vault.KindDisabled, status: 403, code: "Forbidden", inner: "SecretDisabled",
			fact: `403 SecretDisabled: version ` + pin + ` of secret "www" in contoso-web is disabled`,
			hint: "enable it: az keyvault certificate set-attributes --vault-name contoso-web --name www --enabled true --version " + pin + "; for a secret made by hand, az keyvault secret set-attributes with the same arguments"},
		{fault: emulator.Fault{Kind: emulator.NotFound}, kind: vault.KindNotFound, status: 404, code: "SecretNotFound",
			fact: `404 SecretNotFound: no secret "www" in contoso-web`,
			hint: "check the name; a deleted certificate comes back with az keyvault certificate recover --vault-name contoso-web --name www"},
		{fault: emulator.Fault{Kind: emulator.NotFound}, pinned: true, kind: vault.KindNotFound, status: 404, code: "SecretNotFound",
			fact: `404 SecretNotFound: no version ` + pin + ` of secret "www" in contoso-web`,
			hint: "list the versions: az keyvault secret list-versions --vault-name contoso-web --name www"},
		{fault: emulator.Fault{Kind: emulator.Throttled}, kind: vault.KindThrottled, status: 429, code: "Throttled",
			fact: "429 Throttled: contoso-web gets too many requests", hint: "poll less often, or spread the certificates over several vaults"},
		{fault: emulator.Fault{Kind: emulator.Throttled, RetryAfter: 100 * time.Second}, kind: vault.KindThrottled, status: 429, code: "Throttled", after: 100 * time.Second,
			fact: "429 Throttled: contoso-web gets too many requests", hint: "poll less often, or spread the certificates over several vaults"},
		{fault: emulator.Fault{Kind: emulator.ServerError}, kind: vault.KindServer, status: 500, code: "InternalServerError",
			fact: "500 InternalServerError: contoso-web failed: An internal server error occurred.",
			hint: "try again later; if it lasts, see the vault's resource health in the portal"},
		{fault: emulator.Fault{Kind: emulator.Unavailable, RetryAfter: time.Second}, kind: vault.KindServer, status: 503, code: "ServiceUnavailable", after: time.Second,
			fact: "503 ServiceUnavailable: contoso-web failed: The service is temporarily unavailable.",
			hint: "try again later; if it lasts, see the vault's resource health in the portal"},
		{fault: emulator.Fault{Kind: emulator.TokenExpired}, kind: vault.KindUnauthorized, status: 401, code: "Unauthorized",
			fact: "401 Unauthorized: contoso-web rejected the token of the system-assigned managed identity",
			hint: "check this machine's clock, and that vault and identity belong to the same tenant"},
	} {
		w.ClearFaults()
		w.SetFault(tt.fault)
		raw := www
		if tt.pinned {
			raw += "/" + pin
		}
		_, err := w.get(t, raw)
		if tt.list {
			_, err = w.client.Versions(t.Context(), w.id, mustParse(t, raw))
		}
		var e *vault.Error
		if !errors.As(err, &e) {
			t.Errorf("%v: %v", tt.fault.Kind, err)
			continue
		}
		if e.Kind != tt.kind || e.Status != tt.status || e.Code != tt.code || e.Inner != tt.inner || e.RetryAfter != tt.after {
			t.Errorf("%v: %s %d %q %q %v, want %s %d %q %q %v", tt.fault.Kind, e.Kind, e.Status, e.Code, e.Inner, e.RetryAfter, tt.kind, tt.status, tt.code, tt.inner, tt.after)
		}
		if e.Fact != tt.fact || e.Hint != tt.hint || err.Error() != tt.fact {
			t.Errorf("%v:\n  fact %s\n  want %s\n  hint %s\n  want %s", tt.fault.Kind, e.Fact, tt.fact, e.Hint, tt.hint)
		}
		if e.RequestID == "" || e.Message == "" || strings.ContainsAny(e.Message, "\r\n") {
			t.Errorf("%v: request id %q, message %q", tt.fault.Kind, e.RequestID, e.Message)
		}
	}
	w.ClearFaults()
	if _, err := w.get(t, www); err != nil {
		t.Errorf("after the faults: %v", err)
	}
}

func TestSecretsThatCannotBeServedAreToldApart(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	for name, tt := range map[string]struct {
		prepare func(name string) error
		kind    vault.Kind
	}{
		"absent":   {func(string) error { return nil }, vault.KindNotFound},
		"deleted":  {func(n string) error { w.add(t, n, "x"); return w.Delete("", n) }, vault.KindNotFound},
		"disabled": {func(n string) error { return w.SetEnabled("", n, w.add(t, n, "x"), false) }, vault.KindDisabled},
	} {
		if err := tt.prepare(name); err != nil {
			t.Fatal(err)
		}
		_, err := w.get(t, "https://contoso-web.vault.azure.net/secrets/"+name)
		if e := failure(t, err); e.Kind != tt.kind {
			t.Errorf("%s: %s: %v", name, e.Kind, e)
		}
	}
}

func TestOneTryIsOneRequest(t *testing.T) {
	for _, kind := range []emulator.FaultKind{emulator.Throttled, emulator.ServerError, emulator.Unavailable, emulator.Drop} {
		w := newWorld(t, emulator.Options{}, vault.Options{})
		w.add(t, "www", "x")
		w.SetFault(emulator.Fault{Kind: kind})
		if _, err := w.get(t, www); err == nil {
			t.Errorf("%s: no error", kind)
		}
		if c := w.Counters(); c.Secrets > 2 || c.Secrets > 1 && kind != emulator.Drop { // net/http itself repeats on a connection that was idle
			t.Errorf("%s: %d requests", kind, c.Secrets)
		}
	}
}

func TestHangingVaultEndsTheTry(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{TryTimeout: 2 * time.Second})
	w.warm(t)
	var tries sync.WaitGroup
	for _, kind := range []emulator.FaultKind{emulator.Hang, emulator.HalfOpen, emulator.Slow} {
		w.add(t, string(kind), "x")
		w.SetFault(emulator.Fault{Name: string(kind), Kind: kind, Delay: time.Hour, Count: 1})
		ref := mustParse(t, "https://contoso-web.vault.azure.net/secrets/"+string(kind))
		tries.Go(func() {
			_, err := w.client.Get(t.Context(), w.id, ref)
			var e *vault.Error
			if !errors.As(err, &e) || e.Kind != vault.KindTimeout || !errors.Is(err, context.DeadlineExceeded) ||
				e.Fact != "contoso-web.vault.azure.net did not answer within 2s" {
				t.Errorf("%s: %v", kind, err)
			}
			if _, err := w.client.Get(t.Context(), w.id, ref); err != nil {
				t.Errorf("%s: the next try: %v", kind, err)
			}
		})
	}
	tries.Wait()
}

// warm has the emulator make what it makes once, and the client get its token, so that short tries are about faults alone.
func (w *world) warm(t *testing.T) {
	t.Helper()
	w.add(t, "warm", "x")
	ref := mustParse(t, "https://contoso-web.vault.azure.net/secrets/warm")
	patient, err := vault.New(vault.Options{CAFile: w.Endpoints().CA, Connect: map[string]string{"*.vault.azure.net:443": w.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*vault.Client{patient, w.client} {
		if _, err := c.Get(t.Context(), w.id, ref); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlowVaultIsWaitedFor(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetFault(emulator.Fault{Kind: emulator.Slow, Delay: 50 * time.Millisecond})
	if _, err := w.get(t, www); err != nil {
		t.Error(err)
	}
}

func TestDroppedConnectionIsUnreachable(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetFault(emulator.Fault{Kind: emulator.Drop})
	_, err := w.get(t, www)
	if e := failure(t, err); e.Kind != vault.KindUnreachable || e.Fact != "cannot reach contoso-web.vault.azure.net at "+w.Addr()+" (kvfs.transport.connect): the connection was closed" {
		t.Errorf("%s: %v", e.Kind, e)
	}
}

func TestRejectedTokenIsReplacedWithinTheTry(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	if _, err := w.get(t, www); err != nil {
		t.Fatal(err)
	}
	asked := w.Counters().Identity
	w.client.AgeTokens(time.Minute)
	w.SetFault(emulator.Fault{Kind: emulator.TokenExpired, Count: 1})
	if _, err := w.get(t, www); err != nil {
		t.Fatalf("after one rejection: %v", err)
	}
	if got := w.Counters().Identity - asked; got != 1 {
		t.Errorf("a rejected token led to %d new ones, want 1", got)
	}
}

// An old token that the vault rejects must be asked for anew, not come out of a cache until it ends.
func TestRejectedTokenNeverComesBack(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetFault(emulator.Fault{Kind: emulator.TokenExpired})
	for try := range 3 {
		w.client.AgeTokens(time.Minute)
		asked := w.Counters().Identity
		_, err := w.get(t, www)
		if e := failure(t, err); e.Kind != vault.KindUnauthorized {
			t.Errorf("try %d: %s: %v", try, e.Kind, e)
		}
		if w.Counters().Identity == asked {
			t.Errorf("try %d used a token that was rejected before", try)
		}
	}
	w.ClearFaults()
	if _, err := w.get(t, www); err != nil {
		t.Errorf("once the vault takes tokens again: %v", err)
	}
}

// A vault of another tenant rejects the identity for ever: it must neither flood the endpoint nor take the token from others.
func TestVaultThatRejectsEveryTokenCostsOthersNothing(t *testing.T) {
	w := newWorld(t, emulator.Options{Vaults: []string{"contoso-web", "contoso-api"}}, vault.Options{})
	w.add(t, "www", "x")
	if _, err := w.get(t, www); err != nil {
		t.Fatal(err)
	}
	asked := w.Counters().Identity
	w.SetFault(emulator.Fault{Vault: "contoso-api", Kind: emulator.TokenExpired})
	for range 50 {
		_, err := w.get(t, "https://contoso-api.vault.azure.net/secrets/www")
		if e := failure(t, err); e.Kind != vault.KindUnauthorized {
			t.Fatalf("%s: %v", e.Kind, e)
		}
		if _, err := w.get(t, www); err != nil {
			t.Fatalf("the other vault: %v", err)
		}
	}
	if got := w.Counters().Identity - asked; got > 0 {
		t.Errorf("a vault that rejects every token led to %d new ones, want 0", got)
	}
}

// MSAL would answer the second endpoint's request with the first one's token.
func TestTokensAreNotSharedBetweenEndpoints(t *testing.T) {
	for range 2 {
		w := newWorld(t, emulator.Options{}, vault.Options{})
		w.add(t, "www", "x")
		if _, err := w.get(t, www); err != nil {
			t.Fatal(err)
		}
		if c := w.Counters(); c.Rejected != 0 || c.Identity != 1 {
			t.Errorf("%d tokens were rejected, %d asked for; want 0, 1", c.Rejected, c.Identity)
		}
	}
}

func TestManyCallersShareOneToken(t *testing.T) {
	w := newWorld(t, emulator.Options{Vaults: []string{"contoso-web", "contoso-api"}}, vault.Options{})
	w.add(t, "www", "x")
	if _, err := w.AddSecret("contoso-api", "www", "", "y"); err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for i := range 20 {
		raw, want := www, "x"
		if i%2 == 1 {
			raw, want = "https://contoso-api.vault.azure.net/secrets/www", "y"
		}
		ref := mustParse(t, raw)
		callers.Go(func() {
			s, err := w.client.Get(t.Context(), w.id, ref)
			if err != nil || string(s.Value.Reveal()) != want {
				t.Errorf("%s: %v", ref, err)
			}
		})
	}
	callers.Wait()
	if c := w.Counters(); c.Identity != 1 {
		t.Errorf("%d tokens for one identity, want 1", c.Identity)
	}
	stats := w.client.Stats()
	if len(stats) != 2 || stats[0].Host != "contoso-api.vault.azure.net" || stats[1].Host != "contoso-web.vault.azure.net" {
		t.Errorf("stats of two vaults: %+v", stats)
	}
}

func TestStatsCountWhatReachedTheVault(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	if s := w.client.Stats(); len(s) != 0 {
		t.Errorf("before any call: %+v", s)
	}
	w.add(t, "www", "x")
	for range 3 {
		if _, err := w.get(t, "https://Contoso-WEB.vault.azure.net/secrets/www"); err != nil {
			t.Fatal(err)
		}
	}
	w.SetFault(emulator.Fault{Kind: emulator.Throttled, Count: 1})
	if _, err := w.get(t, www); err == nil {
		t.Fatal("no error")
	}
	want := []vault.HostStats{{Host: "contoso-web.vault.azure.net", Transactions: 5, Throttled: 1, Failed: 1}} // a challenge, three values, a 429
	if got := w.client.Stats(); !slices.Equal(got, want) {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	text, err := json.Marshal(w.client.Stats())
	if err != nil || string(text) != `[{"host":"contoso-web.vault.azure.net","transactions":5,"throttled":1,"failed":1}]` {
		t.Errorf("json %s, %v", text, err)
	}
}

func TestEveryFailureOfTheIdentityIsExplained(t *testing.T) {
	const clientID, resourceID = "00001111-aaaa-2222-bbbb-3333cccc4444", "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
	byClient := func(id *vault.Identity) { id.ClientID = clientID }
	unchanged := func(*vault.Identity) {}
	assign := "assign a managed identity to this machine: az vm identity assign --name VM --resource-group GROUP (scale set: az vmss identity assign with the same arguments)"
	several := "this machine has several user-assigned identities or none: set msiClientId to the client id of one that is assigned"
	assigned := "assign the identity to this machine; msiClientId must be its client id, not its object id (that goes into msiObjectId)"
	for name, tt := range map[string]struct {
		fault      emulator.Fault
		machine    []emulator.Identity // nil: one system-assigned
		select_    func(*vault.Identity)
		status     int
		code       string
		after      time.Duration
		fact, hint string
	}{
		"identity not found": {fault: emulator.Fault{Kind: emulator.IdentityNotFound}, select_: byClient, status: 400, code: "invalid_request",
			fact: "no token for the managed identity with client id " + clientID + ": 400 invalid_request Identity not found", hint: assigned},
		"object id as client id": {machine: []emulator.Identity{{ClientID: "x", ObjectID: clientID}}, select_: byClient, status: 400, code: "invalid_request",
			fact: "no token for the managed identity with client id " + clientID + ": 400 invalid_request Identity not found", hint: assigned},
		"resource id of another": {select_: func(id *vault.Identity) { id.ResourceID = resourceID }, status: 400, code: "invalid_request",
			fact: "no token for the managed identity with resource id " + resourceID + ": 400 invalid_request Identity not found",
			hint: "assign the identity to this machine, and check its id in the settings"},
		"several": {machine: []emulator.Identity{{ClientID: "a"}, {ClientID: "b"}}, select_: unchanged, status: 400, code: "invalid_request",
			fact: "no token for the system-assigned managed identity: 400 invalid_request Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request", hint: several},
		"none": {machine: []emulator.Identity{}, select_: unchanged, status: 401, code: "unauthorized_client",
			fact: "no token for the system-assigned managed identity: 401 unauthorized_client No managed identity is configured on this machine", hint: assign},
		"gone": {fault: emulator.Fault{Kind: emulator.IdentityGone}, select_: unchanged, status: 410,
			fact: "no token for the system-assigned managed identity: 410", hint: "the endpoint is being updated: try again in 70 seconds"},
		"throttled": {fault: emulator.Fault{Kind: emulator.IdentityThrottled, RetryAfter: 9 * time.Second}, select_: unchanged, status: 429, code: "too_many_requests", after: 9 * time.Second,
			fact: "no token for the system-assigned managed identity: 429 too_many_requests Too many requests",
			hint: "other programs on this machine ask for tokens too often: the endpoint takes 20 requests per second"},
		"server": {fault: emulator.Fault{Kind: emulator.ServerError, Name: "@identity"}, select_: unchanged, status: 500, code: "unknown",
			fact: "no token for the system-assigned managed identity: 500 unknown Failed to retrieve token from the Active directory. For details see logs",
			hint: "try again; if it lasts, check that a managed identity is enabled on this machine"},
	} {
		w := newWorld(t, emulator.Options{}, vault.Options{})
		w.add(t, "www", "x")
		if tt.machine != nil {
			w.SetIdentities(tt.machine...)
		}
		if tt.fault.Kind != "" {
			w.SetFault(tt.fault)
		}
		tt.select_(&w.id)
		_, err := w.get(t, www)
		var e *vault.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Kind != vault.KindIdentity || e.Status != tt.status || e.Code != tt.code || e.RetryAfter != tt.after {
			t.Errorf("%s: %s %d %q %v, want identity %d %q %v", name, e.Kind, e.Status, e.Code, e.RetryAfter, tt.status, tt.code, tt.after)
		}
		if e.Fact != tt.fact || e.Hint != tt.hint {
			t.Errorf("%s:\n  fact %s\n  want %s\n  hint %s\n  want %s", name, e.Fact, tt.fact, e.Hint, tt.hint)
		}
		if asked := w.Counters().Identity; asked != 1 {
			t.Errorf("%s: the endpoint was asked %d times in one try", name, asked)
		}
	}
}

func TestIdentityThatAppearsLaterIsFound(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetFault(emulator.Fault{Kind: emulator.IdentityNotFound, Count: 1})
	if _, err := w.get(t, www); err == nil {
		t.Fatal("no error")
	}
	w.client.AgeTokens(time.Second)
	if _, err := w.get(t, www); err != nil {
		t.Errorf("once the identity is there: %v", err)
	}
}

func TestEverySelectorFindsItsIdentity(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	w.SetIdentities(emulator.Identity{ClientID: "c1", ObjectID: "o1", ResourceID: "/subscriptions/1"}, emulator.Identity{ClientID: "c2", ObjectID: "o2", ResourceID: "/subscriptions/2"})
	endpoint := w.Endpoints().Identity
	for _, id := range []vault.Identity{
		{Endpoint: endpoint, ClientID: "c2"},
		{Endpoint: endpoint + "/", ObjectID: "o1"},
		{Endpoint: endpoint + "/oauth2/token", ResourceID: "/subscriptions/2"},
		{Endpoint: endpoint + "/oauth2/token/", ClientID: "c1", ObjectID: "nobody", ResourceID: "nobody"},
		{Endpoint: strings.TrimSuffix(endpoint, "/metadata/identity"), ObjectID: "o2", ResourceID: "nobody"},
	} {
		if _, err := w.client.Get(t.Context(), id, mustParse(t, www)); err != nil {
			t.Errorf("%+v: %v", id, err)
		}
	}
}

func TestSilentIdentityEndpointEndsTheTry(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{TryTimeout: 2 * time.Second})
	w.warm(t)
	for _, kind := range []emulator.FaultKind{emulator.Hang, emulator.HalfOpen, emulator.Slow} {
		// A token of its own for each kind; spellings of the endpoint make different identities.
		w.id.Endpoint += "/"
		w.SetFault(emulator.Fault{Kind: kind, Name: "@identity", Delay: time.Hour, Count: 1})
		ref := mustParse(t, "https://contoso-web.vault.azure.net/secrets/warm")
		_, err := w.client.Get(t.Context(), w.id, ref)
		if e := failure(t, err); e.Kind != vault.KindIdentity || e.Fact != "no token: the identity endpoint "+w.id.Endpoint+" does not answer" {
			t.Errorf("%s: %s: %v", kind, e.Kind, e)
		}
		w.client.AgeTokens(time.Second)
		if _, err := w.client.Get(t.Context(), w.id, ref); err != nil {
			t.Errorf("%s: the next try: %v", kind, err)
		}
	}
}

func TestAmbientCredentialsThatAreAbsentAreExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	_, err := w.client.Get(t.Context(), vault.Identity{Method: vault.Ambient}, mustParse(t, www))
	e := failure(t, err)
	if e.Kind != vault.KindIdentity || e.Fact != "no token from the environment, a managed identity or az login" || e.Message == "" {
		t.Errorf("%s: %v: %s", e.Kind, e, e.Message)
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "hunter2-hunter2")
	if _, err := w.get(t, www); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Versions(t.Context(), w.id, mustParse(t, www)); err != nil {
		t.Fatal(err)
	}
	var errs []string
	for _, kind := range []emulator.FaultKind{emulator.TokenExpired, emulator.Garbage, emulator.ForbiddenRBAC} {
		w.SetFault(emulator.Fault{Kind: kind, Count: 2})
		if _, err := w.get(t, www); err != nil {
			errs = append(errs, fmt.Sprintf("%v %+v %#v", err, err, err))
		}
		w.ClearFaults()
	}
	if len(errs) == 0 || strings.Count(w.log.String(), "\n") < 5 {
		t.Fatalf("nothing to look at: %q, %s", errs, w.log)
	}
	for _, text := range append(errs, w.log.String()) {
		for _, secret := range []string{"hunter2", "Bearer ", "eyJ"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows in %s", secret, text)
			}
		}
	}
}
