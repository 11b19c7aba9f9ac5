package emulator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func TestServicePrincipalsReadVaultsOfTheirCloud(t *testing.T) {
	e := sovereign(t)
	app := Application{ClientID: newUUID(), Secrets: []ApplicationSecret{{Value: "other"}, {Value: "geheim", Expires: time.Now().Add(time.Hour)}}}
	e.SetApplications(app)
	for _, test := range []struct {
		host        string
		cloud       azcloud.Configuration
		noDiscovery bool
	}{
		{"web.vault.azure.net", public, false},
		{"web.vault.azure.net", public, true},
		{"gov.vault.usgovcloudapi.net", government, false},
		{"gov.vault.usgovcloudapi.net", government, true},
		{"cn.vault.azure.cn", china, false},
		{"cn.vault.azure.cn", china, true},
		{"own.vault.contoso.example", private, true},
	} {
		t.Run(fmt.Sprint(test.host, " without discovery: ", test.noDiscovery), func(t *testing.T) {
			cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(Tenant, app.ClientID, "geheim", &azidentity.ClientSecretCredentialOptions{
				ClientOptions: overEmulator(t, e, test.cloud), DisableInstanceDiscovery: test.noDiscovery,
			}))
			vault, _, _ := strings.Cut(test.host, ".")
			s := get(t, vaultClient(t, e, "https://"+test.host, cred, -1), "word", "")
			if *s.Value != "of "+vault || !strings.HasPrefix(string(*s.ID), "https://"+test.host+"/secrets/word/") {
				t.Errorf("value %q, id %s", *s.Value, *s.ID)
			}
		})
	}
	if got := e.Counters(); got.Login != 7 || got.LoginErrors != 0 || got.Secrets != 7 || got.Identity != 0 {
		t.Errorf("counters %+v", got)
	}
}

// As with the real one, a custom authority is not to be discovered.
func TestCustomAuthorityIsUnknownToInstanceDiscovery(t *testing.T) {
	e := sovereign(t)
	e.SetApplications(Application{ClientID: "a", Secrets: []ApplicationSecret{{Value: "geheim"}}})
	cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(Tenant, "a", "geheim", &azidentity.ClientSecretCredentialOptions{ClientOptions: overEmulator(t, e, private)}))
	_, err := cred.GetToken(context.Background(), policy.TokenRequestOptions{Scopes: []string{"https://vault.contoso.example/.default"}})
	if status, le := tokenError(t, err); status != 400 || le.Error != "invalid_instance" || e.Counters().Login != 0 {
		t.Errorf("%d %+v", status, le)
	}
}

func TestChallengeNamesTheLoginServerOfTheVaultsCloud(t *testing.T) {
	e := sovereign(t)
	for host, want := range map[string]string{
		"web.vault.azure.net":         `Bearer authorization="https://login.microsoftonline.com/` + Tenant + `", resource="https://vault.azure.net"`,
		"gov.vault.usgovcloudapi.net": `Bearer authorization="https://login.microsoftonline.us/` + Tenant + `", resource="https://vault.usgovcloudapi.net"`,
		"cn.vault.azure.cn":           `Bearer authorization="https://login.chinacloudapi.cn/` + Tenant + `", resource="https://vault.azure.cn"`,
		"own.vault.contoso.example":   `Bearer authorization="https://login.contoso.example/` + Tenant + `", resource="https://vault.contoso.example"`,
		"gov.localhost:7":             `Bearer authorization="https://login.microsoftonline.us/` + Tenant + `", resource="https://localhost:7"`,
	} {
		r := must[*http.Request](t)(http.NewRequest(http.MethodGet, "https://web.vault.azure.net/secrets/word?api-version=7.4", nil))
		r.Host = host
		response := must[*http.Response](t)(overLoopback(t, e).Do(r))
		response.Body.Close()
		if got := response.Header.Get("WWW-Authenticate"); response.StatusCode != 401 || got != want {
			t.Errorf("%s: %d %s", host, response.StatusCode, got)
		}
	}
	for _, host := range []string{"gov.vault.azure.net", "web.vault.usgovcloudapi.net"} {
		if _, _, ok := e.vaultOf(host); ok {
			t.Errorf("%s is served", host)
		}
	}
}

// Vaults by name follow Suffix; one that no cloud has keeps the public login
// server, unless there is a custom authority.
func TestLoginServerFollowsTheSuffix(t *testing.T) {
	for _, test := range []struct {
		suffix string
		login  []string
		want   string
	}{
		{"", nil, "login.microsoftonline.com"},
		{"vault.usgovcloudapi.net", nil, "login.microsoftonline.us"},
		{"vault.azure.cn", []string{"login.contoso.example"}, "login.chinacloudapi.cn"},
		{"vault.contoso.example", nil, "login.microsoftonline.com"},
		{"vault.contoso.example", []string{"login.contoso.example", "other.example"}, "login.contoso.example"},
	} {
		e := start(t, Options{Suffix: test.suffix, LoginHosts: test.login})
		if got := e.loginFor(e.opts.Suffix); got != test.want {
			t.Errorf("%s: %s, want %s", test.suffix, got, test.want)
		}
	}
}

func TestSettingsAndEndpointsNameEachVaultUnderItsHost(t *testing.T) {
	e := sovereign(t)
	if got := e.Endpoints().Vaults; !slices.Equal(got, []string{"https://web.vault.azure.net", "https://gov.vault.usgovcloudapi.net", "https://cn.vault.azure.cn", "https://own.vault.contoso.example"}) {
		t.Errorf("vaults %v", got)
	}
	addCertificate(t, e, Profile{Vault: "GOV", Name: "www"})
	if got := e.observedCertificates(); len(got) != 1 || got[0].URL != "https://gov.vault.usgovcloudapi.net/secrets/www" {
		t.Errorf("certificates %v", got)
	}
	for _, name := range []string{"*.vault.azure.cn", "cn.vault.azure.cn", "cn.localhost", "web.vault.azure.net", "login.contoso.example"} {
		if !slices.Contains(e.serverNames(), name) {
			t.Errorf("the certificate of the data plane is not for %s", name)
		}
	}
	var d settingsDocument
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(e.Endpoints().Settings)), &d); err != nil {
		t.Fatal(err)
	}
	connect := d.Kvfs.Transport.Connect
	for _, suffix := range []string{"vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn", "vault.contoso.example"} {
		if connect["*."+suffix+":443"] != e.Addr() || len(connect) != 9 {
			t.Errorf("%s is connected by %v", suffix, connect)
		}
	}
	for _, host := range []string{"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn", "login.chinacloudapi.cn", "login.contoso.example"} {
		if connect[host+":443"] != e.Addr() {
			t.Errorf("the login server %s is connected by %v", host, connect)
		}
	}
}

func TestMachineInAnotherCloudGetsTokensForItsVaults(t *testing.T) {
	e := sovereign(t)
	for resource, want := range map[string]int{
		"https://vault.usgovcloudapi.net": 200, "https://vault.azure.cn": 200, "https://management.chinacloudapi.cn": 200, "https://vault.microsoftazure.de": 400,
	} {
		if status, _, body := ask(t, e, url.Values{"resource": {resource}}); status != want {
			t.Errorf("%s: %d %s", resource, status, body)
		}
	}
}

func TestNewRefusesHostsThatAreNone(t *testing.T) {
	for name, o := range map[string]Options{
		"two vaults of one label": {Vaults: []string{"web", "web.vault.azure.cn"}},
		"empty label":             {Vaults: []string{"web..azure.cn"}},
		"a port":                  {Vaults: []string{"web.vault.azure.cn:443"}},
		"login server with port":  {LoginHosts: []string{"login.example:443"}},
		"login server by address": {LoginHosts: []string{"127.0.0.1"}},
		"login server is a vault": {LoginHosts: []string{"contoso-web.vault.azure.net"}},
		"arc without keys":        {Arc: "127.0.0.1:0"},
		"realm without keys":      {ArcRealm: "/var/opt/azcmagent/tokens"},
		"file for arc's keys":     {ArcKeys: "emulator.go"},
	} {
		o.Dir = t.TempDir()
		if e, err := New(o); err == nil {
			t.Errorf("%s: no error, %v", name, e.Close())
		}
	}
}
