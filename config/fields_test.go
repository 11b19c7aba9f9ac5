package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/vault"
)

const www = "https://contoso-web.vault.azure.net/secrets/www"

// The three places of a field, each with %s where it goes.
const (
	inMain  = `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"], %s}}`
	inEntry = `{"secretsManagementSettings": {"observedCertificates": [{"url": "` + www + `", %s}]}}`
	beside  = `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, %s}`
)

// said returns the severity and fact of each problem.
func said(ps Problems) (said []string) {
	for _, p := range ps {
		said = append(said, string(p.Severity)+": "+p.Fact)
	}
	return said
}

// fieldTest is a form of a field: what it makes of the configuration, and what is said about it.
type fieldTest struct {
	field string
	want  any // nil: refused
	said  []string
}

func testFields(t *testing.T, place string, result func(*Config) any, tests []fieldTest) {
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			doc := fmt.Sprintf(place, tt.field)
			cfg, ps := Parse("settings.json", []byte(doc))
			if got := said(ps); !slices.Equal(got, tt.said) {
				t.Errorf("said\n%q, want\n%q", got, tt.said)
			}
			if (cfg == nil) != (tt.want == nil) {
				t.Fatalf("accepted: %v", cfg != nil)
			}
			if cfg != nil && !reflect.DeepEqual(result(cfg), tt.want) {
				t.Errorf("got %#v, want %#v", result(cfg), tt.want)
			}
			for _, p := range ps {
				if p.Hint == "" {
					t.Errorf("no hint for %q", p.Fact)
				}
			}
			checkStartsAToken(t, doc, ps)
		})
	}
}

// checkStartsAToken checks that a message points at the beginning of a value or a key.
func checkStartsAToken(t *testing.T, doc string, ps Problems) {
	t.Helper()
	for _, p := range ps {
		runes := []rune(strings.Split(doc, "\n")[p.Line-1])
		before := strings.TrimRight(string(runes[:p.Column-1]), " ")
		if before != "" && !strings.ContainsAny(before[len(before)-1:], "{[,:") {
			t.Errorf("%q points into the middle: %s", p.Fact, string(runes[p.Column-1:]))
		}
	}
}

func TestPollingInterval(t *testing.T) {
	const bad = "error: pollingIntervalInS: %s is not a number of whole seconds"
	refused := func(shown string) []string { return []string{fmt.Sprintf(bad, shown)} }
	testFields(t, inMain, func(c *Config) any { return c.PollingInterval }, []fieldTest{
		{`"pollingIntervalInS": "600"`, 10 * time.Minute, nil},
		{`"pollingIntervalInS": 14400`, 4 * time.Hour, nil},
		{`"pollingIntervalInS": 30`, 30 * time.Second, nil},
		{`"pollingIntervalInS": "9223372036"`, 9223372036 * time.Second, nil},
		{`"pollingIntervalInS": null`, time.Hour, nil},
		{`"pollingIntervalInS": 29`, 30 * time.Second, []string{"warning: pollingIntervalInS: 29 is raised to 30"}},
		{`"pollingIntervalInS": "1"`, 30 * time.Second, []string{`warning: pollingIntervalInS: "1" is raised to 30`}},
		{`"pollingIntervalInS": 0`, nil, refused("0")},
		{`"pollingIntervalInS": "0"`, nil, refused(`"0"`)},
		{`"pollingIntervalInS": -5`, nil, refused("-5")},
		{`"pollingIntervalInS": 60.5`, nil, refused("60.5")},
		{`"pollingIntervalInS": 6e1`, nil, refused("6e1")},
		{`"pollingIntervalInS": ""`, nil, refused(`""`)},
		{`"pollingIntervalInS": "60 "`, nil, refused(`"60 "`)},
		{`"pollingIntervalInS": "9223372037"`, nil, refused(`"9223372037"`)},
		{`"pollingIntervalInS": 99999999999999999999`, nil, refused("99999999999999999999")},
		{`"pollingIntervalInS": true`, nil, refused("true")},
		{`"pollingIntervalInS": [60]`, nil, refused("a list")},
		{`"pollingIntervalInS": "[parameters('interval')]"`, nil, []string{"error: pollingIntervalInS: an ARM expression, which only the deployment can evaluate"}},
	})
}

func TestDurationsOfOtherNotationsAreTranslated(t *testing.T) {
	const example = `write 1 or more, such as "3600" for one hour`
	for text, want := range map[string]string{
		"1h": `write "3600" for one hour`, "90m": `write "5400" for 90 minutes`, "1m": `write "60" for one minute`,
		"1d": `write "86400" for one day`, "48h": `write "172800" for 2 days`, "45s": `write "45" for 45 seconds`,
		"1h0m1s": `write "3601" for 3601 seconds`, " 2h ": `write "7200" for 2 hours`,
		"0": example, "-1h": example, "100ms": example, "0d": example, "1.5d": example, "99999d": example, "x": example, "1.5s": example,
	} {
		if got := secondsHint(&node{kind: kindString, text: text}, 1); got != want {
			t.Errorf("%q: hint is %q, want %q", text, got, want)
		}
	}
}

func TestInitialSync(t *testing.T) {
	testFields(t, inMain, func(c *Config) any { return c.RequireInitialSync }, []fieldTest{
		{`"requireInitialSync": true`, true, nil},
		{`"requireInitialSync": "true"`, true, nil},
		{`"requireInitialSync": "false"`, false, nil},
		{`"requireInitialSync": null`, false, nil},
		{`"requiredInitialSync": "true"`, true, []string{`warning: "requiredInitialSync" is taken for "requireInitialSync"`}},
		{`"requireInitialSync": false, "requiredInitialSync": true`, false, []string{`warning: "requiredInitialSync" is taken for "requireInitialSync"`}},
		{`"requireInitialSync": 1`, nil, []string{"error: requireInitialSync: 1 is not true or false"}},
		{`"requireInitialSync": "yes"`, nil, []string{`error: requireInitialSync: "yes" is not true or false`}},
		{`"requireInitialSync": {}`, nil, []string{"error: requireInitialSync: an object is not true or false"}},
	})
}

// Links always move: the vendor's own samples carry linkOnRenewal false on machines where it never meant anything.
func TestFieldsOfWindowsAreIgnored(t *testing.T) {
	accepted := func(*Config) any { return "accepted" }
	testFields(t, inMain, accepted, []fieldTest{
		{`"linkOnRenewal": false`, "accepted", nil},
		{`"linkOnRenewal": "true"`, "accepted", nil},
		{`"linkOnRenewal": 0`, nil, []string{"error: linkOnRenewal: 0 is not true or false"}},
		{`"certificateStoreName": "MY"`, "accepted", nil},
		{`"certificateStoreName": ""`, "accepted", nil},
		{`"certificateStoreName": {"any": 1}`, "accepted", nil},
	})
	testFields(t, inEntry, accepted, []fieldTest{
		{`"certificateStoreName": "MY", "keyExportable": true, "accounts": ["Network Service"]`, "accepted", nil},
	})
}

func TestStore(t *testing.T) {
	windows := func(name string) []string {
		return []string{fmt.Sprintf("warning: certificateStoreLocation: %q is a store of Windows; the default is used", name)}
	}
	tests := []fieldTest{
		{`"certificateStoreLocation": "/etc/tls/kv"`, "/etc/tls/kv", nil},
		{`"certificateStoreLocation": "//etc///tls/./kv/"`, "/etc/tls/kv", nil},
		{`"certificateStoreLocation": "/etc/tls/..kv"`, "/etc/tls/..kv", nil},
		{`"certificateStoreLocation": "/device"`, "/device", nil},
		{`"certificateStoreLocation": null`, DefaultStore, nil},
		{`"certificateStoreLocation": "LocalMachine"`, DefaultStore, windows("LocalMachine")},
		{`"certificateStoreLocation": "currentuser"`, DefaultStore, windows("currentuser")},
		{`"certificateStoreLocation": "MY"`, DefaultStore, windows("MY")},
		{`"certificateStoreLocation": ""`, nil, []string{"error: certificateStoreLocation: the path is empty"}},
		{`"certificateStoreLocation": "certs"`, nil, []string{`error: certificateStoreLocation: "certs" is a relative path`}},
		{`"certificateStoreLocation": "C:\\certs"`, nil, []string{`error: certificateStoreLocation: "C:\certs" is a relative path`}},
		{`"certificateStoreLocation": "/etc/../tls"`, nil, []string{`error: certificateStoreLocation: "/etc/../tls" has a ".." in it`}},
		{`"certificateStoreLocation": "/"`, nil, []string{`error: certificateStoreLocation: "/" is the root directory`}},
		{`"certificateStoreLocation": "/.//"`, nil, []string{`error: certificateStoreLocation: "/.//" is the root directory`}},
		{`"certificateStoreLocation": "/proc"`, nil, []string{`error: certificateStoreLocation: "/proc" belongs to the kernel`}},
		{`"certificateStoreLocation": "//sys/fs"`, nil, []string{`error: certificateStoreLocation: "//sys/fs" belongs to the kernel`}},
		{`"certificateStoreLocation": "/dev/shm/kv"`, nil, []string{`error: certificateStoreLocation: "/dev/shm/kv" belongs to the kernel`}},
		{`"certificateStoreLocation": "/etc/\u0000"`, nil, []string{`error: certificateStoreLocation: "/etc/\u0000" has a control character`}},
		{`"certificateStoreLocation": "/` + strings.Repeat("a", 256) + `"`, nil, []string{"error: certificateStoreLocation: the path is longer than Linux admits"}},
		{`"certificateStoreLocation": "` + strings.Repeat("/abcdefghijklmno", 256) + `"`, nil, []string{"error: certificateStoreLocation: the path is longer than Linux admits"}},
		{`"certificateStoreLocation": 7`, nil, []string{"error: certificateStoreLocation: 7 is not a string"}},
	}
	store := func(c *Config) any { return c.Certificates[0].Store }
	testFields(t, inMain, store, tests)
	for i := range tests {
		for j := range tests[i].said {
			tests[i].said[j] = strings.Replace(tests[i].said[j], ": ", ": observedCertificates[0].", 1)
		}
	}
	testFields(t, inEntry, store, tests)
}

// The entry's own place, then the general one, then the default.
func TestTheNearestStoreCounts(t *testing.T) {
	cfg, ps := Parse("", []byte(`{"secretsManagementSettings": {"certificateStoreLocation": "/general", "observedCertificates": [
		{"url": "`+www+`", "certificateStoreLocation": "/own"}, {"url": "`+www+`", "certificateStoreLocation": "LocalMachine"}]}}`))
	if cfg == nil || cfg.Certificates[0].Store != "/own" || cfg.Certificates[1].Store != "/general" {
		t.Errorf("got %+v, %v", cfg, ps)
	}
	opts := Options{Store: "/replaced/"}
	cfg, _ = opts.Parse([]byte(`{"secretsManagementSettings": {"observedCertificates": "` + www + `"}}`))
	if cfg == nil || cfg.Certificates[0].Store != "/replaced" {
		t.Errorf("with Options.Store: %+v", cfg)
	}
	opts.Store = "relative"
	if _, ps := opts.Parse([]byte(`{"secretsManagementSettings": {"observedCertificates": []}}`)); lines(ps.Errors()) != "error 0:0: --store: \"relative\" is a relative path\n" {
		t.Errorf("a relative Options.Store: %v", ps)
	}
}

func TestLinkName(t *testing.T) {
	const path = "error: observedCertificates[0].customSymbolicLinkName"
	testFields(t, inEntry, func(c *Config) any { return c.Certificates[0].LinkName }, []fieldTest{
		{`"customSymbolicLinkName": "site"`, "site", nil},
		{`"customSymbolicLinkName": "www.example.com.pem"`, "www.example.com.pem", nil},
		{`"customSymbolicLinkName": "..."`, "...", nil},
		{`"customSymbolicLinkName": "[[literal]"`, "[[literal]", nil}, // ARM's own escape
		{`"customSymbolicLinkName": "Straße"`, "Straße", nil},
		{`"customSymbolicLinkName": "` + strings.Repeat("x", 255) + `"`, strings.Repeat("x", 255), nil},
		{`"customSymbolicLinkName": "contoso-web.www"`, "contoso-web.www", nil},
		{`"customSymbolicLinkName": null`, "", nil},
		{`"customSymbolicLinkName": ""`, nil, []string{path + " is empty"}},
		{`"customSymbolicLinkName": "a/b"`, nil, []string{path + `: "a/b" is more than one path component`}},
		{`"customSymbolicLinkName": "a/"`, nil, []string{path + `: "a/" is more than one path component`}},
		{`"customSymbolicLinkName": "."`, nil, []string{path + `: "." is a directory`}},
		{`"customSymbolicLinkName": ".."`, nil, []string{path + `: ".." is a directory`}},
		{`"customSymbolicLinkName": "a\u0000b"`, nil, []string{path + `: "a\u0000b" has a control character`}},
		{`"customSymbolicLinkName": "a\nb"`, nil, []string{path + `: "a\u000ab" has a control character`}},
		{`"customSymbolicLinkName": "` + strings.Repeat("ü", 128) + `"`, nil, []string{path + ": a name of 256 bytes"}},
		{`"customSymbolicLinkName": 5`, nil, []string{path + ": 5 is not a string"}},
		{`"customSymbolicLinkName": "[variables('x')]"`, nil, []string{path + ": an ARM expression, which only the deployment can evaluate"}},
	})
}

func TestAcls(t *testing.T) {
	const path = "error: observedCertificates[0].acls"
	nginx := []acl.Grant{{User: "nginx"}}
	testFields(t, inEntry, func(c *Config) any { return c.Certificates[0].Grants }, []fieldTest{
		{`"acls": [{"user": "nginx"}]`, nginx, nil},
		{`"acls": {"user": "nginx"}`, nginx, nil},
		{`"acls": [{"user": "nginx"}, null, {"user": "nginx", "group": null}]`, nginx, nil},
		{`"acls": [{"user": 0, "group": 4294967294}]`, []acl.Grant{{User: "0", Group: "4294967294"}}, nil},
		{`"acls": [{"user": "33", "group": ""}]`, []acl.Grant{{User: "33"}}, nil},
		{`"acls": []`, []acl.Grant(nil), nil},
		{`"acls": null`, []acl.Grant(nil), nil},
		{`"acls": [{"user": "nginx", "mode": "r"}]`, nginx, []string{`warning: observedCertificates[0].acls[0]: "mode" is not a known field`}},
		{`"acls": [{}]`, nil, []string{path + "[0]: neither user nor group"}},
		{`"acls": [{"user": "nginx"}, {"user": "", "group": null}]`, nil, []string{path + "[1]: neither user nor group"}},
		{`"acls": {}`, nil, []string{path + "[0]: neither user nor group"}},
		{`"acls": ["nginx"]`, nil, []string{path + `[0]: "nginx" is not an object`}},
		{`"acls": "nginx"`, nil, []string{path + `: "nginx" is not a list`}},
		{`"acls": [{"user": true}]`, nil, []string{path + "[0].user: true is not a name or an id"}},
		{`"acls": [{"user": ["a"], "group": "b"}]`, nil, []string{path + "[0].user: a list is not a name or an id"}},
		{`"acls": [{"user": 1.5}]`, nil, []string{path + "[0].user: 1.5 is not an id"}},
		{`"acls": [{"group": -1}]`, nil, []string{path + "[0].group: -1 is not an id"}},
		{`"acls": [{"group": 4294967295}]`, nil, []string{path + "[0].group: 4294967295 is not an id"}},
		{`"acls": [{"group": "4294967295"}]`, nil, []string{path + `[0].group: "4294967295" is not an id`}},
		{`"acls": [{"user": "[parameters('u')]"}]`, nil, []string{path + "[0].user: an ARM expression, which only the deployment can evaluate"}},
	})
}

func TestOnlyAnExplicitFalseTurnsAclsOff(t *testing.T) {
	doc := `{"secretsManagementSettings": {%s "observedCertificates": [{"url": "` + www + `", "acls": {"user": 1}},
		"https://contoso-web.vault.azure.net/secrets/none", {"url": "https://contoso-web.vault.azure.net/secrets/api", "acls": [{"user": 2}]}]}}`
	for field, enabled := range map[string]bool{"": true, `"aclEnabled": true,`: true, `"aclEnabled": null,`: true, `"aclEnabled": "false",`: false, `"aclEnabled": false,`: false} {
		cfg, ps := Parse("", fmt.Appendf(nil, doc, field))
		if cfg == nil {
			t.Fatal(ps)
		}
		var want []string
		if !enabled {
			want = []string{"warning: observedCertificates[0].acls have no effect, aclEnabled is false", "warning: observedCertificates[2].acls have no effect, aclEnabled is false"}
		}
		if got := said(ps); !slices.Equal(got, want) {
			t.Errorf("%s said %q", field, got)
		}
		for _, i := range []int{0, 2} {
			if got := len(cfg.Certificates[i].Grants) > 0; got != enabled {
				t.Errorf("%s certificate %d has grants: %v", field, i, got)
			}
		}
	}
}

func TestMoreGrantsThanTheKernelTakesAreRefused(t *testing.T) {
	doc := func(n int) []byte {
		var grants []string
		for i := range n {
			grants = append(grants, fmt.Sprintf(`{"user": %d}`, i+1))
		}
		return fmt.Appendf(nil, inEntry, `"acls": [`+strings.Join(grants, ",")+`]`)
	}
	if cfg, ps := Parse("", doc(acl.MaxEntries)); cfg == nil {
		t.Error(ps)
	}
	cfg, ps := Parse("", doc(acl.MaxEntries+1))
	if got, want := said(ps), []string{"error: observedCertificates[0].url: 508 users and groups in the acls, more than the 507 of one access list"}; cfg != nil || !slices.Equal(got, want) {
		t.Errorf("said %q", got)
	}
}

func TestIdentity(t *testing.T) {
	def := endpoint
	guid := clientID
	testFields(t, beside, func(c *Config) any { return c.Identity }, []fieldTest{
		{`"authenticationSettings": {}`, vault.Identity{}, nil},
		{`"authenticationSettings": null`, vault.Identity{}, nil},
		{`"authenticationSettings": {"msiEndpoint": "` + def + `/oauth2/token/", "msiClientId": ""}`, vault.Identity{Endpoint: def}, nil},
		{`"authenticationSettings": {"msiEndpoint": " ` + def + `/ "}`, vault.Identity{Endpoint: def}, nil},
		{`"authenticationSettings": {"msiEndpoint": ""}`, vault.Identity{}, nil},
		{`"authenticationSettings": {"msiEndpoint": "http://[fe80::1]:8080/metadata/identity"}`, vault.Identity{Endpoint: "http://[fe80::1]:8080/metadata/identity"}, nil},
		{`"authenticationSettings": {"msiEndpoint": "http:///169.254.169.254/metadata/identity"}`, vault.Identity{Endpoint: def},
			[]string{`warning: authenticationSettings.msiEndpoint: "http:///169.254.169.254/metadata/identity" has no host; "` + def + `" is meant`}},
		{`"authenticationSettings": {"msiEndpoint": "http://msi.example.com/token"}`, vault.Identity{Endpoint: "http://msi.example.com/token"},
			[]string{`warning: authenticationSettings.msiEndpoint: "msi.example.com" is not on this machine; tokens will come from there`}},
		{`"authenticationSettings": {"msiEndpoint": "https://169.254.169.254/metadata/identity"}`, nil,
			[]string{`error: authenticationSettings.msiEndpoint: "https://169.254.169.254/metadata/identity" is not an http URL of host and path`}},
		{`"authenticationSettings": {"msiEndpoint": "169.254.169.254"}`, nil,
			[]string{`error: authenticationSettings.msiEndpoint: "169.254.169.254" is not an http URL of host and path`}},
		{`"authenticationSettings": {"msiEndpoint": "` + def + `?a=b"}`, nil,
			[]string{`error: authenticationSettings.msiEndpoint: "` + def + `?a=b" has a query`}},
		{`"authenticationSettings": {"msiEndpoint": 1}`, nil, []string{"error: authenticationSettings.msiEndpoint: 1 is not a string"}},
		{`"authenticationSettings": {"msiClientId": "` + guid + `"}`, vault.Identity{ClientID: guid}, nil},
		{`"authenticationSettings": {"msiObjectId": "` + guid + `"}`, vault.Identity{ObjectID: guid}, nil},
		{`"authenticationSettings": {"msiResourceId": "` + resourceID + `"}`, vault.Identity{ResourceID: resourceID}, nil},
		{`"authenticationSettings": {"msiClientId": "/Subscriptions/x"}`, vault.Identity{ResourceID: "/Subscriptions/x"},
			[]string{"warning: authenticationSettings.msiClientId is a resource id"}},
		{`"authenticationSettings": {"msiClientId": "` + guid + `", "msiObjectId": "` + guid + `", "msiResourceId": "` + resourceID + `"}`, vault.Identity{ClientID: guid},
			[]string{"warning: authenticationSettings names more than one identity; msiClientId counts"}},
		{`"authenticationSettings": {"msiResourceId": "` + resourceID + `", "msiObjectId": "` + guid + `"}`, vault.Identity{ObjectID: guid},
			[]string{"warning: authenticationSettings names more than one identity; msiObjectId counts"}},
		{`"authenticationSettings": {"msiClientID": "` + guid + `"}`, vault.Identity{ClientID: guid}, []string{`warning: "msiClientID" is taken for "msiClientId"`}},
		{`"authenticationSettings": {"clientId": "x"}`, nil, []string{`error: authenticationSettings: "clientId" is not a known field`}},
		{`"authenticationSettings": {"msiClientId": " ` + strings.ToUpper(guid) + ` "}`, vault.Identity{ClientID: strings.ToUpper(guid)}, nil},
		{`"authenticationSettings": {"msiClientId": "hello world"}`, nil, []string{`error: authenticationSettings.msiClientId: "hello world" is not a client id`}},
		{`"authenticationSettings": {"msiClientId": "{` + guid + `}"}`, nil, []string{`error: authenticationSettings.msiClientId: "{` + guid + `}" is not a client id`}},
		{`"authenticationSettings": {"msiClientId": "` + guid[1:] + `"}`, nil, []string{`error: authenticationSettings.msiClientId: "` + guid[1:] + `" is not a client id`}},
		{`"authenticationSettings": {"msiClientId": "` + guid + `-0000"}`, nil, []string{`error: authenticationSettings.msiClientId: "` + guid + `-0000" is not a client id`}},
		{`"authenticationSettings": {"msiClientId": "g` + guid[1:] + `"}`, nil, []string{`error: authenticationSettings.msiClientId: "g` + guid[1:] + `" is not a client id`}},
		{`"authenticationSettings": {"msiClientId": "/subscriptions/"}`, nil, []string{`error: authenticationSettings.msiClientId: "/subscriptions/" is not a client id`}},
		{`"authenticationSettings": {"msiObjectId": "id-web"}`, nil, []string{`error: authenticationSettings.msiObjectId: "id-web" is not an object id`}},
		{`"authenticationSettings": {"msiObjectId": "` + resourceID + `"}`, nil, []string{`error: authenticationSettings.msiObjectId: "` + shorten(resourceID) + `" is not an object id`}},
		{`"authenticationSettings": {"msiResourceId": "` + guid + `"}`, nil, []string{`error: authenticationSettings.msiResourceId: "` + guid + `" is not a resource id`}},
		{`"authenticationSettings": {"msiClientId": "` + guid + `", "msiObjectId": "o"}`, nil, []string{`error: authenticationSettings.msiObjectId: "o" is not an object id`}},
		{`"authenticationSettings": {"msiClientId": 5}`, nil, []string{"error: authenticationSettings.msiClientId: 5 is not a string"}},
		{`"authenticationSettings": {"msiClientId": "[reference('x').clientId]"}`, nil, []string{"error: authenticationSettings.msiClientId: an ARM expression, which only the deployment can evaluate"}},
		{`"authenticationSettings": "x"`, nil, []string{`error: authenticationSettings: "x" is not an object`}},
	})
}

// An override that names its identity in another way must not keep the general one beside it.
func TestAuthenticationOverride(t *testing.T) {
	const general, own = clientID, "dddddddd" + guidTail
	doc := `{"authenticationSettings": {"msiEndpoint": "` + endpoint + `", "msiClientId": "` + general + `"},
		"secretsManagementSettings": {"observedCertificates": [{"url": "` + www + `", "authenticationOverride": %s}]}}`
	for text, want := range map[string]vault.Identity{
		`null`:                           {Endpoint: endpoint, ClientID: general},
		`{}`:                             {Endpoint: endpoint, ClientID: general},
		`{"msiClientId": "` + own + `"}`: {Endpoint: endpoint, ClientID: own},
		`{"msiObjectId": "` + own + `"}`: {Endpoint: endpoint, ObjectID: own},
		`{"msiResourceId": "` + resourceID + `"}`:                     {Endpoint: endpoint, ResourceID: resourceID},
		`{"msiEndpoint": "http://localhost:40342/metadata/identity"}`: {Endpoint: "http://localhost:40342/metadata/identity", ClientID: general},
	} {
		cfg, ps := Parse("", fmt.Appendf(nil, doc, text))
		if cfg == nil || len(ps) > 0 {
			t.Fatalf("%s: %v", text, ps)
		}
		if got := cfg.Certificates[0].Identity; got != want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
	_, ps := Parse("", fmt.Appendf(nil, doc, `5`))
	if got, want := said(ps), []string{"error: observedCertificates[0].authenticationOverride: 5 is not an object"}; !slices.Equal(got, want) {
		t.Errorf("said %q", got)
	}
}

// Certificates never wait for a log collector.
func TestNothingAboutLoggingIsAnError(t *testing.T) {
	on := Logging{"fluentd", "tcp://localhost:24224", "forward", "akvvm_service"}
	with := func(endpoint string) Logging { l := on; l.Endpoint = endpoint; return l }
	testFields(t, beside, func(c *Config) any { return c.Logging }, []fieldTest{
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost:24224", "format": "forward", "servicename": "akvvm_service"}`, on, nil},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost"}`, on, nil},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://[::1]:5/"}`, with("tcp://[::1]:5"), nil},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "unix:///run/fluent.sock"}`, with("unix:///run/fluent.sock"), nil},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost", "servicename": "x"}`, Logging{"fluentd", "tcp://localhost:24224", "forward", "x"}, nil},
		{`"loggingSettings": {}`, Logging{}, nil},
		{`"loggingSettings": {"endpoint": "tcp://localhost"}`, Logging{}, nil},
		{`"loggingSettings": {"logger": "fluentd"}`, Logging{}, []string{`warning: loggingSettings: "endpoint" is missing; logs are not sent`}},
		{`"loggingSettings": {"logger": "syslog"}`, Logging{}, []string{`warning: loggingSettings.logger: "syslog" is not a known logger`}},
		{`"loggingSettings": {"logger": 1}`, Logging{}, []string{"warning: loggingSettings.logger: 1 is not a string"}},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "udp://localhost"}`, Logging{}, []string{`warning: loggingSettings.endpoint: "udp://localhost" is not the address of a collector; logs are not sent`}},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost:0"}`, Logging{}, []string{`warning: loggingSettings.endpoint: "tcp://localhost:0" is not the address of a collector; logs are not sent`}},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "unix://run/x"}`, Logging{}, []string{`warning: loggingSettings.endpoint: "unix://run/x" is not the address of a collector; logs are not sent`}},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost", "format": "json"}`, on, []string{`warning: loggingSettings.format: "json" is not a known format`}},
		{`"loggingSettings": {"logger": "fluentd", "endpoint": "[parameters('e')]"}`, Logging{}, []string{"warning: loggingSettings.endpoint: an ARM expression, which only the deployment can evaluate"}},
		{`"loggingSettings": {"level": "debug"}`, Logging{}, []string{`warning: loggingSettings: "level" is not a known field`}},
		{`"loggingSettings": "on"`, Logging{}, []string{`warning: loggingSettings: "on" is not an object`}},
	})
}

func TestProtectedSettings(t *testing.T) {
	accepted := func(*Config) any { return "accepted" }
	ignored := []string{"warning: protectedSettings are ignored"}
	testFields(t, beside, accepted, []fieldTest{
		{`"protectedSettings": null`, "accepted", nil},
		{`"protectedSettings": {}`, "accepted", ignored},
		{`"protectedSettings": "MIIB"`, "accepted", ignored},
	})
}

func TestObservedCertificates(t *testing.T) {
	place := `{"secretsManagementSettings": {%s}}`
	count := func(c *Config) any { return len(c.Certificates) }
	testFields(t, place, count, []fieldTest{
		{`"observedCertificates": ["` + www + `", {"url": "https://contoso-web.vault.azure.net/secrets/api"}]`, 2, nil},
		{`"observedCertificates": {"url": "` + www + `"}`, 1, []string{"warning: observedCertificates is one entry and no list"}},
		{`"observedCertificates": []`, 0, []string{"warning: observedCertificates is empty: nothing is served"}},
		{`"observedCertificates": [null]`, 0, []string{"warning: observedCertificates is empty: nothing is served", "warning: observedCertificates[0] is null"}},
		{`"observedCertificates": null`, nil, []string{`error: "observedCertificates" is missing`}},
		{``, nil, []string{`error: "observedCertificates" is missing`}},
		{`"observedCertificates": 5`, nil, []string{"error: observedCertificates: 5 is not a list of certificates"}},
		{`"observedCertificates": "[parameters('c')]"`, nil, []string{"error: observedCertificates: an ARM expression, which only the deployment can evaluate"}},
		{`"observedCertificates": [5]`, nil, []string{"error: observedCertificates[0]: 5 is not an object"}},
		{`"observedCertificates": [["` + www + `"]]`, nil, []string{"error: observedCertificates[0]: a list is not an object"}},
		{`"observedCertificates": [{}]`, nil, []string{`error: observedCertificates[0]: "url" is missing`}},
		{`"observedCertificates": [{"url": null}]`, nil, []string{`error: observedCertificates[0]: "url" is missing`}},
		{`"observedCertificates": [{"uri": "` + www + `"}]`, nil, []string{`error: observedCertificates[0]: "url" is missing; "uri" is not a known field`}},
		{`"observedCertificates": [{"url": 5}]`, nil, []string{"error: observedCertificates[0].url: 5 is not a string"}},
		{`"observedCertificates": [""]`, nil, []string{"error: observedCertificates[0]: the URL is empty"}},
	})
}

func TestKeysThatAreNotQuiteRight(t *testing.T) {
	interval := func(c *Config) any { return c.PollingInterval }
	testFields(t, inMain, interval, []fieldTest{
		{`"PollingIntervalInS": 60`, time.Minute, []string{`warning: "PollingIntervalInS" is taken for "pollingIntervalInS"`}},
		{`"pollingIntervalInS": true, "pollingIntervalInS": 60`, time.Minute, []string{`warning: "pollingIntervalInS" is given more than once; the last one counts`}},
		{`"pollingIntervalInS": 60, "POLLINGINTERVALINS": 90`, 90 * time.Second, []string{
			`warning: "POLLINGINTERVALINS" is taken for "pollingIntervalInS"`, `warning: "pollingIntervalInS" is given more than once; the last one counts`}},
		{`"pollingIntervalInS": 60, "pollingIntervalInS": null`, time.Hour, []string{`warning: "pollingIntervalInS" is given more than once; the last one counts`}},
		{`"pollingInterval": 60, "x": 1, "x": 2`, time.Hour, []string{`warning: "pollingInterval" is not a known field`, `warning: "x" is not a known field`}},
	})
}

func TestUnknownKeysGetTheNameThatWasMeant(t *testing.T) {
	for key, want := range map[string]string{
		"pollingInterval": "pollingIntervalInS", "pollingintervalins2": "pollingIntervalInS", "observedCertificate": "observedCertificates",
		"aclsEnabled": "aclEnabled", "linkOnRenew": "linkOnRenewal", "certificateLocation": "certificateStoreLocation", "x": "", "": "",
	} {
		known := []string{"pollingIntervalInS", "observedCertificates", "certificateStoreLocation", "certificateStoreName", "linkOnRenewal", "aclEnabled"}
		if got := near(key, known); got != want {
			t.Errorf("%q: near %q, want %q", key, got, want)
		}
	}
	for key, want := range map[string]string{"users": "user", "uri": "url", "acl": "acls", "customSymlinkName": "customSymbolicLinkName"} {
		if got := near(key, []string{"user", "url", "acls", "customSymbolicLinkName"}); got != want {
			t.Errorf("%q: near %q, want %q", key, got, want)
		}
	}
}
