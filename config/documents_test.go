package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/vault"
)

// The documents in testdata are those that the compatibility contract names: a1 to a8 must be accepted, r1 to r10 refused.

func readDocument(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "documents", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustRef(t testing.TB, raw string, suffixes ...string) vault.Ref {
	t.Helper()
	ref, _, err := vault.ParseRef(raw, suffixes...)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// lines shows problems as one line each.
func lines(ps Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %d:%d: %s\n", p.Severity, p.Line, p.Column, p.Fact)
	}
	return b.String()
}

const (
	clientID   = "00001111" + guidTail
	guidTail   = "-aaaa-2222-bbbb-3333cccc4444"
	endpoint   = "http://169.254.169.254/metadata/identity"
	resourceID = "/subscriptions/00001111-aaaa-2222-bbbb-3333cccc4444/resourceGroups/rg-web/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-web"
)

func TestDocumentsOfEveryVersionAndWrapperAreAccepted(t *testing.T) {
	at := func(line, column int, url string) Certificate {
		return Certificate{Ref: mustRef(t, url), Store: DefaultStore, Linked: true, Views: defaultViews(), Guards: defaultGuards(), Line: line, Column: column}
	}
	tests := []struct {
		name     string
		want     func(c *Config) // changes to the defaults
		warnings string
	}{
		{"a1", func(c *Config) {
			c.PollingInterval, c.RequireInitialSync = 600*time.Second, true
			c.Ignored = []Note{{"certificateStoreName", 2, 32}, {"linkOnRenewal", 3, 3}}
			c.Certificates = []Certificate{
				at(4, 28, "https://contoso-web.vault.azure.net/secrets/www"),
				at(4, 83, "https://contoso-web.vault.azure.net/secrets/api"),
			}
		}, `warning 2:90: certificateStoreLocation: "LocalMachine" is a store of Windows; the default is used
warning 3:29: "requiredInitialSync" is taken for "requireInitialSync"
`},
		{"a2", func(c *Config) {
			c.RequireInitialSync = true
			c.Ignored = []Note{{"linkOnRenewal", 4, 35}}
			c.Identity = vault.Identity{Endpoint: endpoint, ClientID: clientID}
			c.Logging = Logging{"fluentd", "tcp://localhost:24224", "forward", "akvvm_service"}
			www := at(5, 30, "https://contoso-web.vault.azure.net/secrets/www")
			www.Store, www.LinkName = "/var/lib/waagent/Microsoft.Azure.KeyVault/app1", "site"
			www.Grants = []acl.Grant{{User: "app1", Group: "appGroup1"}, {User: "service1"}}
			www.Identity = c.Identity
			c.Certificates = []Certificate{www}
		}, "warning 9:75: JSON has no comma after the last element\n"},
		{"a3", func(c *Config) {
			c.PollingInterval = 300 * time.Second
			c.Identity = vault.Identity{Endpoint: endpoint, ClientID: clientID}
			www := at(3, 5, "https://contoso-web.vault.azure.net/secrets/www")
			www.Store, www.Identity, www.Grants = "/etc/tls/kv", c.Identity, []acl.Grant{{User: "1001"}, {Group: "ssl-cert"}}
			api := at(4, 5, "https://contoso-cn.vault.azure.cn/secrets/api")
			api.Store, api.Identity = "/etc/tls/kv", vault.Identity{Endpoint: endpoint, ClientID: "11112222-bbbb-3333-cccc-4444dddd5555"}
			c.Certificates = []Certificate{www, api}
		}, ""},
		{"a4", func(c *Config) {
			c.RequireInitialSync = true
			c.Identity = vault.Identity{Endpoint: endpoint, ResourceID: resourceID}
			www := at(4, 28, "https://contoso-web.vault.azure.net/secrets/www")
			www.Identity = c.Identity
			c.Certificates = []Certificate{www}
		}, `warning 2:3: "authenticationSettings" is in the wrong place
warning 3:20: authenticationSettings.msiClientId is a resource id
`},
		{"a5", func(c *Config) {
			c.Certificates = []Certificate{at(1, 156, "https://contoso-web.vault.azure.net/secrets/www")}
		}, "warning 1:61: publicSettings is a string that holds JSON\n"},
		{"a6", func(c *Config) {
			www := at(2, 31, "https://contoso-web.vault.azure.net/secrets/www")
			www.Grants = []acl.Grant{{User: "nginx"}}
			c.Certificates = []Certificate{www}
		}, "warning 1:3: quotes are written with a backslash, as for a command line of PowerShell\n"},
		{"a7", func(c *Config) {
			c.RequireInitialSync = true
			c.Identity = vault.Identity{Endpoint: "http://localhost:40342/metadata/identity"}
			edge := at(4, 59, "https://contoso-gov.vault.usgovcloudapi.net/secrets/edge")
			edge.Identity = c.Identity
			c.Certificates = []Certificate{edge}
		}, `warning 4:59: observedCertificates is one entry and no list
warning 4:120: JSON has no comments
`},
		{"a8", func(c *Config) {
			c.Ignored = []Note{{"linkOnRenewal", 2, 46}}
			c.Identity = vault.Identity{Endpoint: endpoint}
			www := at(3, 5, "https://Contoso-Web.vault.azure.net/secrets/www")
			www.Identity = c.Identity
			old := at(4, 5, "https://contoso-web.vault.azure.net/secrets/api/0123456789abcdef0123456789abcdef")
			old.Identity, old.LinkName = c.Identity, "old"
			c.Certificates = []Certificate{www, old}
		}, `warning 2:92: "autoUpgradeMinorVersion" is not a known field
warning 3:5: observedCertificates[0]: /certificates/www holds no private key, its secret is read instead
warning 4:13: observedCertificates[1].url: the version is pinned: it will not rotate
warning 5:3: "authenticationSettings" is in the wrong place
warning 5:45: authenticationSettings.msiEndpoint: "http:///169.254.169.254/metadata/identity/oauth2/token" has no host; "http://169.254.169.254/metadata/identity/oauth2/token" is meant
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := defaults()
			tt.want(want)
			got, problems := Parse("settings.json", readDocument(t, tt.name))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
			if got := lines(problems); got != tt.warnings {
				t.Errorf("problems are\n%s, want\n%s", got, tt.warnings)
			}
		})
	}
}

// The facts, hints and positions are those of the contract, to the letter.
func TestRefusedDocumentsSayWhereAndWhatToDo(t *testing.T) {
	tests := []struct {
		name string
		want []Problem
	}{
		{"r1", []Problem{{Error, 4, 5, `expected "," or "}" after the value of "pollingIntervalInS"`,
			"add a comma at the end of line 3"}}},
		{"r2", []Problem{{Error, 1, 61, `publicSettings is a string that holds no JSON object: ".\settings.json"`,
			"pass the content of the file, not its name (PowerShell: Get-Content -Raw; Azure CLI: @settings.json)"}}},
		{"r3", []Problem{{Error, 3, 3, `"observedCertificates" is missing; "observedCertificate" is not a known field`,
			`did you mean "observedCertificates"?`}}},
		{"r4", []Problem{{Error, 2, 11, `observedCertificates[0].url: scheme is "http"`,
			"use https://contoso-web.vault.azure.net/secrets/www"}}},
		{"r5", []Problem{{Error, 1, 57, "observedCertificates[0]: /keys/www is a key, it has no certificate",
			"use https://contoso-web.vault.azure.net/secrets/www"}}},
		{"r6", []Problem{{Error, 2, 3, `observedCertificates[0]: "contoso-web.vault.azure.com" is not a known Key Vault host`,
			"did you mean contoso-web.vault.azure.net? other suffixes can be allowed in kvfs.vaultDnsSuffixes"}}},
		{"r7", []Problem{{Error, 1, 54, `pollingIntervalInS: "1h" is not a number of whole seconds`,
			`write "3600" for one hour`}}},
		{"r8", []Problem{{Error, 3, 88, `observedCertificates[1].customSymbolicLinkName: "site" in /etc/tls/kv is already the link of line 2`,
			"give one of them another name, or another certificateStoreLocation"}}},
		{"r9", []Problem{{Error, 1, 1, "the file is empty",
			`deploy the extension with settings; the least is {"secretsManagementSettings": {"observedCertificates": [...]}}`}}},
		{"r10", []Problem{
			{Error, 2, 11, `observedCertificates[0].url: "www_site" is not a certificate name`,
				"names have 1 to 127 letters, digits and hyphens"},
			{Error, 2, 95, `observedCertificates[0].certificateStoreLocation: "certs/app1" is a relative path`,
				"write the whole path, such as /etc/tls/certs/app1"},
			{Error, 3, 88, `observedCertificates[1].customSymbolicLinkName: "../site" is more than one path component`,
				"write a name only; the directory is certificateStoreLocation"},
			{Error, 3, 108, "observedCertificates[1].acls[0]: neither user nor group",
				`write {"user": "nginx"}, {"group": "ssl-cert"} or both`},
			{Error, 4, 3, "observedCertificates[2]: an ARM expression, which only the deployment can evaluate",
				"give kvfs the deployed settings (the agent's config/<N>.settings), not the template"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, problems := Parse("settings.json", readDocument(t, tt.name))
			if cfg != nil {
				t.Errorf("a document with an error gave a Config: %+v", cfg)
			}
			if !reflect.DeepEqual(problems, Problems(tt.want)) {
				t.Errorf("problems are\n%+v, want\n%+v", problems, tt.want)
			}
		})
	}
}
