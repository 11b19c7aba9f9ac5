package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

func TestTheSchemaInTheDocumentsIsCurrent(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join("..", "docs", "settings.schema.json"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/settings.schema.json is not what Schema returns (%v); write it anew:\n\tgo run ./cmd/kvfs check --schema > docs/settings.schema.json", err)
	}
	again, err := Schema()
	if err != nil || !bytes.Equal(again, want) {
		t.Errorf("two schemas differ (%v)", err)
	}
}

// settingsSchema is the schema as others read it.
func settingsSchema(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func validate(schema *jsonschema.Resolved, doc []byte) error {
	var value any
	if err := json.Unmarshal(doc, &value); err != nil {
		return err
	}
	return schema.Validate(value)
}

// The constants of the wrappers and the declaration of the fields must not part.
func TestEveryNameThatIsSearchedIsDeclared(t *testing.T) {
	r := newReport(nil)
	for _, name := range []string{keySettings, keyIdentity, keyLogging, keyProtected, keyOwn} {
		if !slices.Contains(fieldsOf[settingsFields](r).names, name) {
			t.Errorf("%s is not declared", name)
		}
	}
	var wrappers []string
	for _, known := range []*fieldSet{fieldsOf[documentFields](r), fieldsOf[propertyFields](r), fieldsOf[handlerFields](r), fieldsOf[runtimeFields](r)} {
		wrappers = append(wrappers, known.names...)
	}
	for _, form := range forms() {
		for _, name := range form {
			if !slices.Contains(wrappers, name) {
				t.Errorf("%s is not declared", name)
			}
		}
	}
	if !slices.Contains(wrappers, keyVersion) {
		t.Errorf("%s is not declared", keyVersion)
	}
}

func TestTheSchemaRefusesWhatItCan(t *testing.T) {
	schema := settingsSchema(t)
	inStores := fmt.Sprintf(inOwn, `"stores": {%s}`)
	inIdentity := fmt.Sprintf(inOwn, `"identity": {%s}`)
	main := `{"secretsManagementSettings": {%s}}`
	principal := fmt.Sprintf(inIdentity, `"type": "servicePrincipal", "tenantId": "a.b", "clientId": "`+clientID+`"%s`)
	tests := []struct {
		place, text string
		accepted    bool
	}{
		{`%s`, `{}`, false}, {`%s`, `[]`, false}, {`%s`, `{"settings": {}}`, false}, {`%s`, `{"settings": null}`, false}, {`%s`, `{"settings": 5}`, false},
		{`%s`, `{"runtimeSettings": []}`, false}, {`%s`, `{"properties": {}}`, false}, {`%s`, `{"handlerSettings": {}}`, false},
		{main, ``, false}, {main, `"observedCertificates": null`, false}, {main, `"observedCertificates": 5`, false}, {main, `"observedCertificates": []`, true},
		{main, `"observedCertificates": ["http://contoso-web.vault.azure.net/secrets/www"]`, false},
		{main, `"observedCertificates": ["[parameters('x')]"]`, false}, {main, `"observedCertificates": [5]`, false}, {main, `"observedCertificates": [{}]`, false},
		{main, `"observedCertificates": [], "x": 1`, true},
		{main, `"observedCertificates": [], "pollingIntervalInS": 0`, false}, {main, `"observedCertificates": [], "pollingIntervalInS": "1h"`, false},
		{main, `"observedCertificates": [], "pollingIntervalInS": 1.5`, false}, {main, `"observedCertificates": [], "aclEnabled": "yes"`, false},
		{main, `"observedCertificates": [], "certificateStoreLocation": "certs"`, false}, {main, `"observedCertificates": [], "requireInitialSync": 1`, false},
		{inEntry, `"customSymbolicLinkName": "a/b"`, false}, {inEntry, `"customSymbolicLinkName": ".."`, false}, {inEntry, `"customSymbolicLinkName": "..."`, true}, {inEntry, `"customSymbolicLinkName": ""`, false},
		{inEntry, `"acls": [{}]`, false}, {inEntry, `"acls": [{"user": ""}]`, false}, {inEntry, `"acls": [{"user": -1}]`, false}, {inEntry, `"acls": ["nginx"]`, false}, {inEntry, `"acls": {"user": 5}`, true},
		{inEntry, `"kvfs": {"x": 1}`, false}, {inEntry, `"kvfs": {"identity": {"type": "environment"}}`, true}, {inEntry, `"x": {}`, true},
		{beside, `"authenticationSettings": {"msiClientId": "x"}`, false}, {beside, `"authenticationSettings": 1`, false}, {beside, `"authenticationSettings": {"x": 1}`, true},
		{inOwn, `"layout": []`, false}, {inOwn, `"layouts": ["v5"]`, false}, {inOwn, `"layouts": []`, false}, {inOwn, `"layouts": "v3"`, false},
		{inOwn, `"keepVersions": 0`, false}, {inOwn, `"keepVersions": "2"`, false}, {inOwn, `"keepVersions": 1000`, true}, {inOwn, `"removalGraceInS": 604801`, false}, {inOwn, `"removalGraceInS": -1`, false}, {inOwn, `"removalGraceInS": 0`, true},
		{inOwn, `"minPollingIntervalInS": 31`, false}, {inOwn, `"minPollingIntervalInS": "30"`, true}, {inOwn, `"vaultDnsSuffixes": ["https://x"]`, false}, {inOwn, `"transport": {"caFile": "x"}`, false}, {inOwn, `"transport": {"x": 1}`, false},
		{inOwn, `"transport": {"connect": {"a": "b:1"}}`, false}, {inOwn, `"transport": {"connect": {"a:1": "b"}}`, false},
		{inOwn, `"layouts": ["live", "certs", "pfx", "jks", "truststore", "x509store", null]`, true}, {inOwn, `"layouts": ["Live"]`, false}, {inOwn, `"layouts": [null]`, false}, {inOwn, `"layouts": "live"`, false},
		{inOwn, `"keyFormat": "traditional"`, true}, {inOwn, `"keyFormat": "pkcs1"`, false}, {inOwn, `"keyFormat": null`, true}, {inOwn, `"passwordFile": "/p"`, true}, {inOwn, `"passwordFile": "p"`, false}, {inOwn, `"password": "p"`, false},
		{inOwn, `"keepVersions": "all"`, true}, {inOwn, `"keepVersions": "none"`, false}, {inOwn, `"keepVersions": null`, true}, {inOwn, `"keepVersions": -1`, false},
		{inOwn, `"oldVersionsInMiB": 0`, true}, {inOwn, `"oldVersionsInMiB": 4096`, true}, {inOwn, `"oldVersionsInMiB": 4097`, false}, {inOwn, `"oldVersionsInMiB": -1`, false}, {inOwn, `"oldVersionsInMiB": "32"`, false}, {inEntryOwn, `"oldVersionsInMiB": 1`, false},
		{inOwn, `"onNotYetValid": "link", "onDisabled": "hide", "onExpired": "hide", "onChangedNames": "hold", "onChangedIssuer": "hold", "verifyChain": "failClosed", "fetchIssuers": true`, true},
		{inOwn, `"onNotYetValid": "serve"`, false}, {inOwn, `"onDisabled": "serve"`, false}, {inOwn, `"onExpired": "keep"`, false}, {inOwn, `"onChangedNames": true`, false}, {inOwn, `"onChangedIssuer": "link"`, false},
		{inOwn, `"verifyChain": "on"`, false}, {inOwn, `"verifyChain": false`, false}, {inOwn, `"fetchIssuers": "false"`, true}, {inOwn, `"fetchIssuers": 1`, false},
		{inOwn, `"onChange": [{"reload": "nginx"}, null, {"signal": "HUP", "unit": "x"}, {"signal": "HUP", "pidFile": "/x"}, {"haproxy": "/s", "name": "x"}]`, true}, {inEntryOwn, `"onChange": []`, true}, {inStores, `"/s": {"onChange": []}`, false},
		{inOwn, `"onChange": [{"command": ["/x", "y"], "user": 5, "check": ["/t"], "timeoutInS": "60", "splayInS": 0, "window": "Sat,Sun-Tue 02:00-03:00"}]`, true}, {inOwn, `"onChange": [{"reload": "x", "check": ["/t"], "user": "y"}]`, true},
		{inOwn, `"onChange": {"reload": "x"}`, false}, {inOwn, `"onChange": [{}]`, false}, {inOwn, `"onChange": [{"reload": "x", "restart": "x"}]`, false}, {inOwn, `"onChange": [{"reload": "x y"}]`, false}, {inOwn, `"onChange": [{"x": "x"}]`, false},
		{inOwn, `"onChange": [{"reload": "x", "user": "y"}]`, false}, {inOwn, `"onChange": [{"reload": "x", "unit": "y"}]`, false}, {inOwn, `"onChange": [{"haproxy": "/s", "pidFile": "/y"}]`, false}, {inOwn, `"onChange": [{"reload": "x", "name": "y"}]`, false},
		{inOwn, `"onChange": [{"signal": "HUP"}]`, false}, {inOwn, `"onChange": [{"signal": "HUP", "unit": "x", "pidFile": "/x"}]`, false}, {inOwn, `"onChange": [{"signal": "KILL", "unit": "x"}]`, false}, {inOwn, `"onChange": [{"haproxy": "s"}]`, false},
		{inOwn, `"onChange": [{"command": []}]`, false}, {inOwn, `"onChange": [{"command": ["x"]}]`, false}, {inOwn, `"onChange": [{"command": "/x"}]`, false}, {inOwn, `"onChange": [{"reload": "x", "timeoutInS": 3601}]`, false},
		{inOwn, `"onChange": [{"reload": "x", "window": "2-4"}]`, false}, {inOwn, `"onChange": [{"reload": "x", "window": "Mon-Fri-Sun 02:00-04:00"}]`, false}, {inOwn, `"onChange": [{"reload": "x", "splayInS": 604801}]`, false},
		{inStores, `"/s": {"layouts": ["pfx"], "keyFormat": "pkcs8", "passwordFile": "/p"}, "/t/": null, "/u": {}`, true}, {inStores, `"s": {}`, false}, {inStores, `"/s": []`, false}, {inStores, `"/s": {"onExpired": "hide"}`, false},
		{inStores, `"/s": {"stores": {}}`, false}, {inStores, `"/s": {"layouts": []}`, false}, {inOwn, `"stores": ["/s"]`, false}, {inOwn, `"stores": null`, true},
		{inEntryOwn, `"layouts": ["live"], "keyFormat": "traditional", "passwordFile": "/p"`, true}, {inEntryOwn, `"onNotYetValid": "link", "onDisabled": "hide", "onExpired": "hide", "onChangedNames": "hold", "onChangedIssuer": "hold", "verifyChain": "failOpen", "fetchIssuers": true`, true},
		{inEntryOwn, `"layouts": ["v1"]`, false}, {inEntryOwn, `"keepVersions": "all"`, false}, {inEntryOwn, `"stores": {}`, false}, {inEntryOwn, `"verifyChain": "on"`, false}, {inEntryOwn, `"fetchIssuers": "yes"`, false},
		{inOwn, `"metrics": "127.0.0.1:9464"`, true}, {inOwn, `"metrics": "/run/m"`, true}, {inOwn, `"metrics": 9464`, false}, {inOwn, `"metrics": "127.0.0.1"`, false}, {inOwn, `"metrics": {}`, false},
		{inOwn, `"metrics": {"listen": "/run/m", "mode": "0660", "group": 33}`, true}, {inOwn, `"metrics": {"listen": "/run/m", "mode": "660"}`, false}, {inOwn, `"metrics": {"listen": "/run/m", "x": 1}`, false},
		{inOwn, `"log": {"level": "debug", "format": "json", "file": true, "fileSizeInMiB": 1, "files": 100}, "alerts": {"expiryInDays": [30, null], "staleAfterPolls": 0}`, true},
		{inOwn, `"log": null, "alerts": {"expiryInDays": []}`, true}, {inOwn, `"log": {"level": "Debug"}`, false}, {inOwn, `"log": {"format": "xml"}`, false}, {inOwn, `"log": {"file": "kvfs.log"}`, false},
		{inOwn, `"log": {"file": "/var/log/kvfs/"}`, false}, {inOwn, `"log": {"file": "/l"}`, true}, {inOwn, `"log": {"files": 0}`, false}, {inOwn, `"log": {"fileSizeInMiB": "10"}`, false}, {inOwn, `"log": {"path": "/l"}`, false},
		{inOwn, `"alerts": {"expiryInDays": [0]}`, false}, {inOwn, `"alerts": {"expiryInDays": 30}`, false}, {inOwn, `"alerts": {"staleAfterPolls": -1}`, false}, {inOwn, `"alerts": {"x": 1}`, false},
		{inOwn, `"alerts": {"onAlert": [null, {"command": ["/x", "y"], "user": "z", "name": "n", "timeoutInS": 60}]}`, true}, {inOwn, `"alerts": {"onAlert": {"command": ["/x"]}}`, false}, {inOwn, `"alerts": {"onAlert": [{}]}`, false}, {inOwn, `"alerts": {"onAlert": null}`, true},
		{inOwn, `"alerts": {"onAlert": [{"reload": "x"}]}`, false}, {inOwn, `"alerts": {"onAlert": [{"command": ["/x"], "splayInS": 5}]}`, false}, {inOwn, `"alerts": {"onAlert": [{"command": ["x"]}]}`, false},
		{inEntryOwn, `"alerts": {}`, false},
		{inIdentity, ``, false}, {inIdentity, `"type": "x"`, false}, {inIdentity, `"type": "environment", "clientId": "` + clientID + `"`, false}, {inIdentity, `"type": "azureCli", "tenantId": "common"`, false},
		{inIdentity, `"type": "managedIdentity", "clientId": "` + clientID + `", "objectId": "` + clientID + `"`, false}, {inIdentity, `"type": "workloadIdentity", "tokenFile": "token"`, false},
		{inIdentity, `"type": "workloadIdentity", "authority": "https://a@b"`, false}, {inIdentity, `"type": "servicePrincipal", "clientSecretFile": "/s"`, false},
		{principal, ``, false}, {principal, `, "clientSecretFile": "/s"`, true}, {principal, `, "clientSecretFile": "/s", "clientCertificateFile": "/c"`, false}, {principal, `, "clientSecret": "s"`, false},
		{principal, `, "clientSecretFile": "/s", "certificatePasswordFile": "/p"`, false}, {principal, `, "clientCertificateFile": "/c", "certificatePasswordFile": "/p"`, true},
	}
	for _, tt := range tests {
		doc := fmt.Appendf(nil, tt.place, tt.text)
		if err := validate(schema, doc); (err == nil) != tt.accepted {
			t.Errorf("%s: %v", doc, err)
		}
		if cfg, ps := Parse("", doc); (cfg != nil) != tt.accepted {
			t.Errorf("Parse thinks otherwise of %s: %v", doc, ps)
		}
	}
}
