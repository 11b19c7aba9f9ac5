package config

import (
	"fmt"
	"strings"
	"testing"

	"kvfs/vault"
)

// Each document names an identity that nobody would use; the step in its hint leads to one with that identity.
func TestTheHintForAMisnamedIdentityLeadsToIt(t *testing.T) {
	const (
		arc     = `"http://localhost:40342/metadata/identity"`
		managed = `"identity": {"type": "managedIdentity", "clientId": "` + clientID + `"}`
		kvfs    = `"kvfs": {` + managed + `}`
		auth    = `"authenticationSettings": {"msiClientId": "` + clientID + `"}`
		over    = `"authenticationOverride": {"msiClientId": "` + clientID + `"}`
		msi     = `"msiClientId": "` + clientID + `"`
		client  = `"clientId": "` + clientID + `"`
		besides = `, beside "secretsManagementSettings"`
	)
	tests := []struct {
		place, wrong, hint, place2, right string
	}{
		{inEntry, auth, `use "authenticationOverride" for one certificate`, inEntry, over},
		{inEntry, managed, `put it into "kvfs": {"identity": ...}`, inEntry, kvfs},
		{inEntry, msi, `put it into "authenticationOverride": {"msiClientId": ...}`, inEntry, over},
		{inEntry, client, `put it into "authenticationOverride": {"msiClientId": ...}`, inEntry, over},
		{inEntry, `"authenticationOveride": {` + msi + `}`, `did you mean "authenticationOverride"?`, inEntry, over},
		{inEntry, `"authenticationOverride": {` + client + `}`, `did you mean "msiClientId"?`, inEntry, over},
		{inEntryOwn, msi, `put it into "identity": {"type": "managedIdentity", "clientId": ...}`, inEntryOwn, managed},
		{inEntryOwn, auth, `write "authenticationOverride", beside "url"`, inEntry, over},
		{inEntryOwn, strings.Replace(managed, "clientId", "msiClientId", 1), `here it is called "clientId"`, inEntryOwn, managed},
		{beside, `"authenticationSettings": {` + client + `}`, `did you mean "msiClientId"?`, beside, auth},
		{beside, `"authenticationSetings": {` + msi + `}`, `did you mean "authenticationSettings"?`, beside, auth},
		{beside, managed, `move it into "kvfs": {"identity": ...}` + besides, beside, kvfs},
		{beside, msi, `put it into "authenticationSettings": {"msiClientId": ...}` + besides, beside, auth},
		{beside, over, `use "authenticationSettings"` + besides + `, for all certificates`, beside, auth},
		{inMain, managed, `move it into "kvfs": {"identity": ...}` + besides, beside, kvfs},
		{inMain, msi, `put it into "authenticationSettings": {"msiClientId": ...}` + besides, beside, auth},
		{inMain, over, `use "authenticationSettings"` + besides + `, for all certificates`, beside, auth},
		{inOwn, client, `put it into "identity": {"type": "managedIdentity", "clientId": ...}`, inOwn, managed},
		{inOwn, auth, `write "authenticationSettings", beside "kvfs"`, beside, auth},
	}
	for _, tt := range tests {
		doc := fmt.Sprintf(tt.place, tt.wrong)
		cfg, ps := Parse("", []byte(doc))
		if cfg != nil || len(ps) != 1 || ps[0].Hint != tt.hint {
			t.Errorf("%s\nsays %+v, want the hint\n%s", doc, ps, tt.hint)
		}
		checkStartsAToken(t, doc, ps)
		right := fmt.Sprintf(tt.place2, tt.right)
		if cfg, ps := Parse("", []byte(right)); cfg == nil || len(ps) > 0 || cfg.Certificates[0].Identity.ClientID != clientID {
			t.Errorf("%s\nis no remedy: %+v", right, ps)
		}
	}
	endpoints := fmt.Sprintf(inEntry, `"msiEndpoint": `+arc)
	if cfg, ps := Parse("", []byte(endpoints)); cfg != nil || ps[0].Hint != `put it into "authenticationOverride": {"msiEndpoint": ...}` {
		t.Errorf("%s: %+v", endpoints, ps)
	}
}

// What the contract tolerates stays tolerated, and counts.
func TestAMisplacedAuthenticationSettingsStillCounts(t *testing.T) {
	const auth = `"authenticationSettings": {"msiClientId": "` + clientID + `"}`
	for _, doc := range []string{
		fmt.Sprintf(inMain, auth),
		`{"settings": {"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}}, ` + auth + `}`,
	} {
		cfg, ps := Parse("", []byte(doc))
		if cfg == nil || len(ps) != 1 || cfg.Certificates[0].Identity != (vault.Identity{ClientID: clientID}) {
			t.Errorf("%s: %+v", doc, ps)
		}
	}
}

func TestNamesThatMeanAnIdentity(t *testing.T) {
	type meaning struct {
		field    string
		explicit bool
	}
	for key, want := range map[string]meaning{
		"clientId": {"msiClientId", true}, "client_id": {"msiClientId", true}, "identityClientId": {"msiClientId", true}, "MSI_CLIENT_ID": {"msiClientId", true},
		"userAssignedIdentityClientId": {"msiClientId", true}, "user-assigned-managed-identity-client-id": {"msiClientId", true}, "azureClientId": {"msiClientId", true},
		"objectId": {"msiObjectId", true}, "principalId": {"msiObjectId", true}, "identityPrincipalId": {"msiObjectId", true},
		"resourceId": {"msiResourceId", false}, "identityResourceId": {"msiResourceId", true}, "mi_res_id": {"msiResourceId", true}, "userAssignedIdentityId": {"msiResourceId", true}, "id": {"msiResourceId", false},
		"endpoint": {"msiEndpoint", false}, "msi_endpoint": {"msiEndpoint", true}, "IDENTITY_ENDPOINT": {"msiEndpoint", true},
		"tenantId": {}, "subscriptionId": {}, "clientIds": {}, "vaultResourceIdX": {}, "workspaceResourceId": {}, "loggingEndpoint": {}, "": {}, "identity": {}, strings.Repeat("msi", 20) + "ClientId": {},
	} {
		if field, explicit := msiName(key); (meaning{field, explicit}) != want {
			t.Errorf("%s: %s, %v", key, field, explicit)
		}
	}
}

func TestPlainJSONIsNeverTakenForAnotherLanguage(t *testing.T) {
	doc := fmt.Sprintf(inEntry, `"customSymbolicLinkName": "jsonencode( --settings {param"`)
	for _, before := range []string{"", "// az vm extension set --settings '...'\n", "/* resource \"x\" */ ", "\n\n\t", "//@description('x')\n"} {
		if what, _ := foreign(before + doc); what != "" {
			t.Errorf("%q is taken for %s", before, what)
		}
		if cfg, ps := Parse("", []byte(before+doc)); cfg == nil {
			t.Errorf("%q: %+v", before, ps)
		}
	}
	for text, want := range map[string]string{
		"param: 1": "YAML", "resource: x": "YAML", "settings: {a: 1}": "YAML", "azure:\n  x: 1": "YAML", "type: object": "YAML",
		"settings = jsonencode({": "Terraform", "locals {\n": "Terraform", "module \"kv\" {": "Terraform", "module kv './kv.bicep' = {": "Bicep", "targetScope = 'subscription'": "Bicep",
		"$ az vm extension set --settings '{}'": "a command line", "sudo az vm extension set --settings '{}'": "a command line", "--settings '{}'": "a command line", "azure": "", "word": "", "@": "", "'": "",
	} {
		if what, _ := foreign(text); what != want {
			t.Errorf("%q is taken for %q, want %q", text, what, want)
		}
	}
}

// Whoever gives a store on a command line wants no place proposed.
func TestARelativeStoreOfACommandLine(t *testing.T) {
	for store, hint := range map[string]string{
		"kv": "write the whole path", "~/kv": "write the whole path", "$HOME/kv": "write the whole path", "./": "write the whole path", "[x]": "write the whole path",
		"/": "write another directory, such as /etc/tls/certs", "/a/../b": "write the path without it",
	} {
		_, ofParse := Options{Store: store}.Parse([]byte(fmt.Sprintf(inMain, `"aclEnabled": true`)))
		_, ofURLs := FromURLs([]string{www}, store)
		for _, ps := range []Problems{ofParse, ofURLs} {
			if len(ps) != 1 || ps[0].Severity != Error || ps[0].Hint != hint || !strings.HasPrefix(ps[0].Fact, "--store: ") || ps[0].Line != 0 {
				t.Errorf("%s: %+v", store, ps)
			}
		}
	}
}
