package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kvfs/vault"
)

const guid2 = "11112222-bbbb-3333-cccc-4444dddd5555"

func TestOwnIdentity(t *testing.T) {
	place := `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, "kvfs": {"identity": %s}}`
	const path = "error: kvfs.identity"
	principal := func(more string) string {
		return `{"type": "servicePrincipal", "tenantId": "` + guid2 + `", "clientId": "` + clientID + `"` + more + `}`
	}
	testFields(t, place, func(c *Config) any { return c.Identity }, []fieldTest{
		{`{"type": "managedIdentity"}`, vault.Identity{Method: vault.ManagedIdentity}, nil}, // says something, unlike the zero Identity
		{`{"type": "managedIdentity", "objectId": "` + guid2 + `"}`, vault.Identity{ObjectID: guid2}, nil},
		{`{"type": "managedIdentity", "resourceId": "` + resourceID + `", "endpoint": "` + endpoint + `/oauth2/token"}`, vault.Identity{ResourceID: resourceID, Endpoint: endpoint}, nil},
		{`{"type": "managedIdentity", "clientId": "` + resourceID + `"}`, nil, []string{path + ".clientId is not a client id"}},
		{`{"type": "managedIdentity", "clientId": ""}`, nil, []string{path + ".clientId is not a client id"}},
		{`{"type": "managedIdentity", "clientId": "` + clientID + `", "objectId": "` + guid2 + `"}`, nil, []string{path + " names the identity twice, by clientId and by objectId"}},
		{`{"type": "workloadIdentity"}`, vault.Identity{Method: vault.WorkloadIdentity}, nil},
		{`{"type": "workloadIdentity", "tokenFile": "/run/token", "tenantId": null, "clientSecretFile": null}`, vault.Identity{Method: vault.WorkloadIdentity, TokenFile: "/run/token"}, nil},
		{`{"type": "workloadIdentity", "authority": "https://Login.example.com:8443/"}`, vault.Identity{Method: vault.WorkloadIdentity, Authority: "https://login.example.com:8443"}, nil},
		{principal(`, "clientSecretFile": "/s"`), vault.Identity{Method: vault.ServicePrincipal, TenantID: guid2, ClientID: clientID, SecretFile: "/s"}, nil},
		{principal(`, "clientCertificateFile": "/c", "certificatePasswordFile": "/p"`),
			vault.Identity{Method: vault.ServicePrincipal, TenantID: guid2, ClientID: clientID, CertificateFile: "/c", PasswordFile: "/p"}, nil},
		{principal(``), nil, []string{path + ": neither clientSecretFile nor clientCertificateFile"}},
		{principal(`, "clientSecretFile": null`), nil, []string{path + ": neither clientSecretFile nor clientCertificateFile"}},
		{principal(`, "clientSecretFile": "/s", "clientCertificateFile": "/c"`), nil, []string{path + " has both clientSecretFile and clientCertificateFile"}},
		{principal(`, "clientSecretFile": "/s", "certificatePasswordFile": "/p"`), nil, []string{path + ".certificatePasswordFile is of no use without clientCertificateFile"}},
		{principal(`, "clientSecretFile": "/s/"`), nil, []string{path + ".clientSecretFile is not the absolute path of a file"}},
		{principal(`, "clientSecretFile": 5`), nil, []string{path + ".clientSecretFile is not the absolute path of a file"}},
		{principal(`, "clientSecretFile": "[parameters('f')]"`), nil, []string{path + ".clientSecretFile: an ARM expression, which only the deployment can evaluate"}},
		{`{"type": "servicePrincipal", "clientSecretFile": "/s"}`, nil, []string{path + `: "tenantId" is missing`, path + `: "clientId" is missing`}},
		{`{"type": "azureCli"}`, vault.Identity{Method: vault.AzureCLI}, nil},
		{`{"type": "azureCli", "tenantId": "contoso.com"}`, vault.Identity{Method: vault.AzureCLI, TenantID: "contoso.com"}, nil},
		{`{"type": "environment"}`, vault.Identity{Method: vault.Environment}, nil},
		{`{"type": "environment", "clientId": "x"}`, nil, []string{path + `: "clientId" does not belong to the type "environment"`}},
		{`{"type": "environment", "colour": 1}`, nil, []string{path + `: "colour" is not a known field`}},
		{`{"type": "default"}`, nil, []string{path + `.type: "default" is not a known type`}},
		{`{"type": 1}`, nil, []string{path + `.type: 1 is not a string`}},
		{`{}`, nil, []string{path + `: "type" is missing`}},
		{`null`, vault.Identity{}, nil},
		{`[]`, nil, []string{path + " is not an object"}},
	})
}

func TestTenantsAndAuthorities(t *testing.T) {
	for text, want := range map[string]bool{
		guid2: true, "contoso.onmicrosoft.com": true, "contoso.com": true,
		"": false, "common": false, "organizations": false, "contoso": false, "contoso_x.com": false, "contoso..com": false, "https://contoso.com": false, "a/b.com": false,
	} {
		if isTenant(text) != want {
			t.Errorf("%q is a tenant: %v", text, !want)
		}
	}
	for text, want := range map[string]string{
		"https://login.microsoftonline.com": "https://login.microsoftonline.com", "https://LOGIN.example/": "https://login.example", "https://login.example:444": "https://login.example:444",
		"": "", "login.example": "", "http://login.example": "", "https://": "", "https://login.example/tenant": "", "https://login.example//": "", "https://login.example?a": "", "https://login.example?": "",
		"https://login.example#": "", "https://login.example#a": "", "https://a@login.example": "", "https://a:b@login.example": "", "https://@login.example": "", "https://login.example:": "",
		"https://login.example:0": "", "https://login.example\\@evil": "", "https://login%2eexample": "", "https://login.exämple": "", "https://login.example/%2f": "",
	} {
		if got := loginServer(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// Settings are public, and messages go to logs: neither may show what somebody wrote in the wrong place.
func TestNoMessageRepeatsASecret(t *testing.T) {
	const secret = "s3cr3t~Value"
	place := `{"secretsManagementSettings": {"observedCertificates": [{"url": "` + www + `", "kvfs": {"identity": %[1]s}}]}, "kvfs": {"identity": %[1]s}}`
	for _, text := range []string{
		`"` + secret + `"`, `{"type": "servicePrincipal", "clientSecret": "` + secret + `"}`, `{"clientSecret": "` + secret + `"}`,
		`{"type": "servicePrincipal", "clientSecretFile": "` + secret + `", "tenantId": "` + secret + `", "clientId": "` + secret + `"}`,
		`{"type": "servicePrincipal", "clientCertificateFile": "` + secret + `", "certificatePasswordFile": "` + secret + `", "authority": "` + secret + `"}`,
		`{"type": "servicePrincipal", "client_secret": ["` + secret + `"], "Password": {"` + secret + `": "` + secret + `"}}`,
		`{"type": "servicePrincipal", "clientSecret": ` + secret + `}`, `{"type": "servicePrincipal", "clientSecret" "` + secret + `"}`,
		`{"type": "servicePrincipal", "clientSecret" ` + secret + `}`, `{"type": "servicePrincipal", "clientSecret": "` + secret + `\x"}`,
		`{"type": "workloadIdentity", "tokenFile": "` + secret + `", "token": "` + secret + `"}`, `{"type": "managedIdentity", "clientId": "` + secret + `", "objectId": "` + secret + `", "resourceId": "` + secret + `"}`,
	} {
		cfg, ps := Parse("", fmt.Appendf(nil, place, text))
		if said := allSaid(cfg, ps); cfg != nil || strings.Contains(said, "s3cr3t") {
			t.Errorf("%s: accepted: %v; said\n%s", text, cfg != nil, said)
		}
	}
}

func TestWhoAsksForACertificate(t *testing.T) {
	const (
		auth     = `"authenticationSettings": {"msiEndpoint": "http://localhost:40342/metadata/identity", "msiClientId": "` + clientID + `"}`
		arc      = "http://localhost:40342/metadata/identity"
		managed  = `"kvfs": {"identity": {"type": "managedIdentity", "objectId": "` + guid2 + `", "endpoint": "` + endpoint + `"}}`
		envir    = `"kvfs": {"identity": {"type": "environment"}}`
		over     = `"authenticationOverride": {"msiClientId": "` + guid2 + `"}`
		overHost = `"authenticationOverride": {"msiEndpoint": "` + endpoint + `"}`
		own      = `"kvfs": {"identity": {"type": "azureCli"}}`
	)
	unused, unusedOver := "warning: authenticationSettings is not used: kvfs.identity counts",
		"warning: observedCertificates[0].authenticationOverride is not used: observedCertificates[0].kvfs.identity counts"
	environment, cli := vault.Identity{Method: vault.Environment}, vault.Identity{Method: vault.AzureCLI}
	tests := []struct {
		name, beside, entry string
		general, own        vault.Identity
		said                []string
	}{
		{"nothing", "", "", vault.Identity{}, vault.Identity{}, nil},
		{"authenticationSettings", auth, "", vault.Identity{Endpoint: arc, ClientID: clientID}, vault.Identity{Endpoint: arc, ClientID: clientID}, nil},
		{"our own", envir, "", environment, environment, nil},
		{"our own beside an empty section", envir + `, "authenticationSettings": {"msiClientId": ""}`, "", environment, environment, nil},
		{"our own counts", envir + "," + auth, "", environment, environment, []string{unused}},
		{"an override of the section", auth, over, vault.Identity{Endpoint: arc, ClientID: clientID}, vault.Identity{Endpoint: arc, ClientID: guid2}, nil},
		{"an override of our own managed identity", managed, overHost, vault.Identity{Endpoint: endpoint, ObjectID: guid2}, vault.Identity{Endpoint: endpoint, ObjectID: guid2}, nil},
		{"an override of our own managed identity, by id", managed + "," + auth, over, vault.Identity{Endpoint: endpoint, ObjectID: guid2}, vault.Identity{Endpoint: endpoint, ClientID: guid2}, []string{unused}},
		{"an override beside another identity", envir + "," + auth, over, environment, vault.Identity{Endpoint: arc, ClientID: guid2}, []string{unused}},
		{"an override of the endpoint beside another identity", envir, overHost, environment, vault.Identity{Endpoint: endpoint}, nil},
		{"an empty override", envir, `"authenticationOverride": {}`, environment, environment, nil},
		{"an entry's own", envir, own, environment, cli, nil},
		{"an entry's own managed identity", auth, `"kvfs": {"identity": {"type": "managedIdentity"}}`, vault.Identity{Endpoint: arc, ClientID: clientID}, vault.Identity{Method: vault.ManagedIdentity}, nil},
		{"an entry's own and an override", "", over + "," + own, vault.Identity{}, cli, []string{unusedOver}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			join := func(s string) string { return strings.TrimSuffix(", "+s, ", ") }
			doc := `{"secretsManagementSettings": {"observedCertificates": [{"url": "` + www + `"` + join(tt.entry) + `}]}` + join(tt.beside) + `}`
			cfg, ps := Parse("", []byte(doc))
			if got := said(ps); strings.Join(got, "\n") != strings.Join(tt.said, "\n") {
				t.Errorf("said %q, want %q", got, tt.said)
			}
			if cfg == nil || cfg.Identity != tt.general || cfg.Certificates[0].Identity != tt.own {
				t.Errorf("got %+v", cfg)
			}
		})
	}
}

func TestTheBlockKvfsOfAnEntryIsStrict(t *testing.T) {
	accepted := func(c *Config) any { return c.Certificates[0].Identity }
	testFields(t, inEntry, accepted, []fieldTest{
		{`"kvfs": {}`, vault.Identity{}, nil},
		{`"kvfs": null`, vault.Identity{}, nil},
		{`"kvfs": {"identity": null}`, vault.Identity{}, nil},
		{`"kvfs": {"keepVersions": 3}`, nil, []string{`error: observedCertificates[0].kvfs: "keepVersions" is not a known field`}},
		{`"kvfs": {"identiy": {}}`, nil, []string{`error: observedCertificates[0].kvfs: "identiy" is not a known field`}},
		{`"kvfs": "x"`, nil, []string{`error: observedCertificates[0].kvfs: "x" is not an object`}},
	})
}

func TestRemovalGrace(t *testing.T) {
	place := `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, "kvfs": {%s}}`
	const path = "error: kvfs.removalGraceInS: "
	testFields(t, place, func(c *Config) any { return c.RemovalGrace }, []fieldTest{
		{``, time.Hour, nil},
		{`"removalGraceInS": null`, time.Hour, nil},
		{`"removalGraceInS": 0`, time.Duration(0), nil},
		{`"removalGraceInS": "90"`, 90 * time.Second, nil},
		{`"removalGraceInS": 604800`, 7 * 24 * time.Hour, nil},
		{`"removalGraceInS": 604801`, nil, []string{path + "604801 is more than a week"}},
		{`"removalGraceInS": -1`, nil, []string{path + "-1 is not a number of whole seconds"}},
		{`"removalGraceInS": 1.5`, nil, []string{path + "1.5 is not a number of whole seconds"}},
		{`"removalGraceInS": "1h"`, nil, []string{path + `"1h" is not a number of whole seconds`}},
		{`"removalGraceInS": ""`, nil, []string{path + `"" is not a number of whole seconds`}},
	})
	if cfg, _ := FromURLs([]string{www}, ""); cfg == nil || cfg.RemovalGrace != time.Hour {
		t.Errorf("of URLs: %+v", cfg)
	}
}

func TestFieldsWithoutEffectAreNotedAndNoProblem(t *testing.T) {
	cfg, ps := Parse("", []byte(`{"secretsManagementSettings": {"observedCertificates": [
  {"url": "`+www+`", "accounts": [], "keyExportable": false, "certificateStoreName": null}, "`+api+`"],
  "LinkOnRenewal": false, "certificateStoreName": ""}}`))
	if cfg == nil || len(ps) != 1 {
		t.Fatal(ps)
	}
	want := []Note{{"observedCertificates[0].accounts", 2, 62}, {"observedCertificates[0].keyExportable", 2, 78}, {"linkOnRenewal", 3, 3}, {"certificateStoreName", 3, 27}}
	if fmt.Sprint(cfg.Ignored) != fmt.Sprint(want) {
		t.Errorf("ignored are %v, want %v", cfg.Ignored, want)
	}
}
