package vault_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/vault"
)

// blanks are more than a pipe holds. azidentity gives the CLI's output 100 ms from its end, which a busy machine may take to
// read at all; whoever has written so much behind an answer knows that the answer was read.
const blanks = "head -c 200000 /dev/zero | tr '\\0' ' '"

// installAzureCLI puts a script in the place of az, and of everything else in PATH but the system's.
func installAzureCLI(t *testing.T, script string) {
	t.Helper()
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	if err := os.WriteFile(filepath.Join(bin, "az"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAzureCLIIsAskedForTheTokenOfThePersonSignedIn(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	asked := filepath.Join(t.TempDir(), "asked")
	installAzureCLI(t, "echo \"$*\" > "+asked+"\ncat <<'END'\n"+cliAnswer(t, w.Endpoints().Identity)+"\nEND\n"+blanks)
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "AzureCLICredential")
	for _, tt := range []struct {
		id   vault.Identity
		want string
	}{
		{vault.Identity{Method: vault.Ambient}, "--tenant " + emulator.Tenant},
		{vault.Identity{Method: vault.AzureCLI}, "--tenant " + emulator.Tenant}, // the vault's own
		{vault.Identity{Method: vault.AzureCLI, TenantID: "contoso.example"}, "--tenant contoso.example"},
	} {
		s, err := w.client.Get(t.Context(), tt.id, mustParse(t, www))
		if err != nil || string(s.Value.Reveal()) != "x" {
			t.Errorf("%+v: %v", tt.id, err)
		}
		text, err := os.ReadFile(asked)
		if want := "account get-access-token -o json --resource https://vault.azure.net " + tt.want + "\n"; err != nil || string(text) != want {
			t.Errorf("%+v: az was asked %q, want %q, %v", tt.id, text, want, err)
		}
	}
}

func TestAzureCLIThatGivesNoTokenIsExplained(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.add(t, "www", "x")
	const printing = "check that this prints a token as the user that kvfs runs as: az account get-access-token --output json"
	for _, tt := range []struct {
		script, tenant, fact, hint string
	}{
		{"echo \"ERROR: Please run 'az login' to setup account.\" >&2\n" + blanks + " >&2\nexit 1", "", "no token: the Azure CLI says: Please run 'az login' to setup account",
			"sign in as the user that kvfs runs as: az login"},
		{"echo ERROR: AADSTS50076: more is needed >&2\n" + blanks + " >&2\nexit 1", "contoso.example", "no token: the Azure CLI says: AADSTS50076: more is needed",
			"sign in as the user that kvfs runs as: az login --tenant contoso.example"},
		{"echo '{\"accessToken\": \"hunter2'\n" + blanks, "", "no token: the answer of the Azure CLI makes no sense", printing},
		{"echo '{\"accessToken\": \"hunter2\", \"expiresOn\": \"hunter2\"}'", "", "no token: the answer of the Azure CLI makes no sense", printing},
		{"head -c 2000000 /dev/zero\nexit 0", "", "no token: the Azure CLI failed: the answer is larger than 1 MiB", "sign in as the user that kvfs runs as: az login"},
		{"exit 3", "", "no token: the Azure CLI failed: exit status 3", "sign in as the user that kvfs runs as: az login"},
	} {
		installAzureCLI(t, tt.script)
		w.client.AgeTokens(time.Second)
		_, err := w.client.Get(t.Context(), vault.Identity{Method: vault.AzureCLI, TenantID: tt.tenant}, mustParse(t, www))
		if e := failure(t, err); e.Kind != vault.KindIdentity || e.Fact != tt.fact || e.Hint != tt.hint || strings.Contains(e.Fact+e.Message, "hunter2") {
			t.Errorf("%s: %v\n  hint %s\n  want %s\n  hint %s", e.Kind, e, e.Hint, tt.fact, tt.hint)
		}
	}
	t.Setenv("PATH", t.TempDir())
	w.client.AgeTokens(time.Second)
	_, err := w.client.Get(t.Context(), vault.Identity{Method: vault.AzureCLI}, mustParse(t, www))
	if e := failure(t, err); e.Kind != vault.KindIdentity || e.Fact != "no token: the Azure CLI is not installed, there is no az in PATH" ||
		e.Hint != "install the Azure CLI for the user that kvfs runs as, and sign in: az login" {
		t.Errorf("%s: %v; %s", e.Kind, e, e.Hint)
	}
}

// cliAnswer is what az account get-access-token prints, with a token the emulator takes.
func cliAnswer(t *testing.T, endpoint string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint+"/oauth2/token?api-version=2018-02-01&resource="+url.QueryEscape("https://vault.azure.net"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &body); err != nil || body.Token == "" {
		t.Fatalf("no token in %s: %v", text, err)
	}
	return fmt.Sprintf(`{"accessToken":%q,"expiresOn":"2099-01-01 00:00:00.000000","expires_on":%d,"tenant":"t","tokenType":"Bearer"}`, body.Token, time.Now().Add(time.Hour).Unix())
}
