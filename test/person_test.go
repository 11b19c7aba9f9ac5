package test

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
)

// azureCLI puts an az into the PATH that is logged in at the emulator.
func azureCLI(t testing.TB, s *site) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		s.vault.Endpoints().Identity+"/oauth2/token?api-version=2018-02-01&resource="+url.QueryEscape("https://vault.azure.net"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var token struct {
		Token string `json:"access_token"`
	}
	if text, err := io.ReadAll(res.Body); err != nil || json.Unmarshal(text, &token) != nil || token.Token == "" {
		t.Fatal("no token from the emulator:", res.Status, err)
	}
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	answer := fmt.Sprintf(`{"accessToken":%q,"expiresOn":"2099-01-01 00:00:00.000000","expires_on":%d,"tenant":"t","tokenType":"Bearer"}`, token.Token, time.Now().Add(time.Hour).Unix())
	if err := os.WriteFile(filepath.Join(bin, "az"), []byte("#!/bin/sh\ncat <<'END'\n"+answer+"\nEND\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "AzureCLICredential")
}

// A person who has done az login mounts and inspects by URL, without settings.
func TestURLsAreServedAsThePersonAtTheTerminal(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	azureCLI(t, s)
	const u = "https://contoso-web.vault.azure.net/secrets/www"
	transport := []string{"--ca-file", s.vault.Endpoints().CA, "--connect", "*.vault.azure.net:443=" + s.vault.Addr()}
	s.start(append([]string{"mount", u, "--store", s.store}, transport...)...)
	s.await("kvfs: serving 1 of 1")
	readFile(t, s.path("contoso-web.www"))
	if c := s.certificate("www"); !strings.Contains(c.Identity, "ambient") {
		t.Error("asked by", c.Identity)
	}
	if out := s.must(append([]string{"inspect", u}, transport...)...); !strings.Contains(out, "leaf   CN=") {
		t.Error(out)
	}
}
