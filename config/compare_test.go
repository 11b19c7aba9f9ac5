package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"kvfs/acl"
)

const (
	api     = "https://contoso-web.vault.azure.net/secrets/api"
	wwwCN   = "https://contoso-web.vault.azure.cn/secrets/www"
	version = "0123456789abcdef0123456789abcdef"
	newer   = "fedcba9876543210fedcba9876543210"
)

// entries makes a document with one entry per line, the first in line 2.
func entries(own string, lines ...string) []byte {
	return fmt.Appendf(nil, "{\"kvfs\": {%s}, \"secretsManagementSettings\": {\"certificateStoreLocation\": \"/s\", \"observedCertificates\": [\n%s]}}",
		own, strings.Join(lines, ",\n"))
}

func entryText(url, more string) string { return fmt.Sprintf(`{"url": "%s"%s}`, url, more) }

func link(name string) string { return fmt.Sprintf(`, "customSymbolicLinkName": "%s"`, name) }

// besideV3 shows a layout besides that of custom links.
func besideV3(layout string) string { return fmt.Sprintf(`"layouts": ["v3", %q]`, layout) }

const everyLayout = `"layouts": ["v3", "v4", "live", "certs", "pfx", "jks", "truststore", "x509store"]`

func TestOneNameHasOneMeaningInAStore(t *testing.T) {
	const clash = `error 3:%d: observedCertificates[1].customSymbolicLinkName: %q in /s is already %s of line 2`
	tests := []struct {
		name    string
		own     string
		entries []string
		errors  string
	}{
		{"the link of another", "", []string{entryText(www, link("site")), entryText(api, link("site"))}, fmt.Sprintf(clash, 86, "site", "the link")},
		{"in another store", "", []string{entryText(www, link("site")), entryText(api, link("site")+`, "certificateStoreLocation": "/t"`)}, ""},
		{"in another case", "", []string{entryText(www, link("site")), entryText(api, link("Site"))}, ""},
		{"the default link of another", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www"))}, fmt.Sprintf(clash, 86, "contoso-web.www", "the default link")},
		{"its own default link", "", []string{entryText(www, link("contoso-web.www"))}, ""},
		{"the default link of another that comes later", "", []string{entryText(api, link("contoso-web.www")), entryText(www, "")},
			`error 2:86: observedCertificates[0].customSymbolicLinkName: "contoso-web.www" in /s is already the default link of line 3`},
		{"the chain of another", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www.pem"))}, fmt.Sprintf(clash, 86, "contoso-web.www.pem", "the default link")},
		{"its own key", "", []string{entryText(www, link("contoso-web.www.keyid"))},
			`error 2:86: observedCertificates[0].customSymbolicLinkName: "contoso-web.www.keyid" in /s is already the default link of line 2`},
		{"the mark of another", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www.luma"))}, fmt.Sprintf(clash, 86, "contoso-web.www.luma", "a file")},
		{"the chain of another, which no layout shows", `"layouts": ["v3"]`, []string{entryText(www, ""), entryText(api, link("contoso-web.www.pem"))}, ""},
		{"the default link of another, which no layout shows", `"layouts": ["v4"]`, []string{entryText(www, ""), entryText(api, link("contoso-web.www"))}, ""},
		{"two links that no layout shows", `"layouts": ["v4"]`, []string{entryText(www, link("site")), entryText(api, link("site"))}, ""},
		{"a version", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version))}, fmt.Sprintf(clash, 86, "contoso-web.www."+version, "the name of a version")},
		{"a version's chain", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".pem.1768000000"))},
			fmt.Sprintf(clash, 86, "contoso-web.www."+version+".pem.1768000000", "the name of a version")},
		{"nearly a version", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".pem.")), entryText(wwwCN+"2", link("contoso-web.www."+version[1:]))}, ""},
		{"two clouds", "", []string{entryText(www, ""), entryText(wwwCN, "")},
			"error 3:9: observedCertificates[1].url: contoso-web.www in /s is already the name of the certificate from contoso-web.vault.azure.net in line 2"},
		{"two clouds in two stores", "", []string{entryText(www, ""), entryText(wwwCN, `, "certificateStoreLocation": "/t"`)}, ""},
		{"two pinned versions", "", []string{entryText(www+"/"+version, ""), entryText(www+"/"+newer, "")},
			"error 3:9: observedCertificates[1].url: the link contoso-web.www in /s already leads to the version of line 2"},
		{"two pinned versions, one with a link", "", []string{entryText(www+"/"+version, link("old")), entryText(www+"/"+newer, "")}, ""},
		{"the certificates of another", besideV3("certs"), []string{entryText(www, ""), entryText(api, link("contoso-web.www.certs.pem"))}, fmt.Sprintf(clash, 86, "contoso-web.www.certs.pem", "the default link")},
		{"the PFX of another", besideV3("pfx"), []string{entryText(www, ""), entryText(api, link("contoso-web.www.pfx"))}, fmt.Sprintf(clash, 86, "contoso-web.www.pfx", "the default link")},
		{"the JKS of another", besideV3("jks"), []string{entryText(www, ""), entryText(api, link("contoso-web.www.jks"))}, fmt.Sprintf(clash, 86, "contoso-web.www.jks", "the default link")},
		{"the trust store of another", besideV3("truststore"), []string{entryText(www, ""), entryText(api, link("contoso-web.www.truststore.jks"))}, fmt.Sprintf(clash, 86, "contoso-web.www.truststore.jks", "the default link")},
		{"a version's certificates", besideV3("certs"), []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".certs.pem"))}, fmt.Sprintf(clash, 86, "contoso-web.www."+version+".certs.pem", "the name of a version")},
		{"a version's PFX", besideV3("pfx"), []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".pfx"))}, fmt.Sprintf(clash, 86, "contoso-web.www."+version+".pfx", "the name of a version")},
		{"a version's JKS", besideV3("jks"), []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".jks"))}, fmt.Sprintf(clash, 86, "contoso-web.www."+version+".jks", "the name of a version")},
		{"a version's trust store", besideV3("truststore"), []string{entryText(www, ""), entryText(api, link("contoso-web.www."+version+".truststore.jks"))}, fmt.Sprintf(clash, 86, "contoso-web.www."+version+".truststore.jks", "the name of a version")},
		{"a directory", besideV3("live"), []string{entryText(www, ""), entryText(api, link("live"))}, fmt.Sprintf(clash, 86, "live", "a directory")},
		{"the other directory", besideV3("live"), []string{entryText(www, ""), entryText(api, link("archive"))}, fmt.Sprintf(clash, 86, "archive", "a directory")},
		{"the directory of .NET", besideV3("x509store"), []string{entryText(www, ""), entryText(api, link("my"))}, fmt.Sprintf(clash, 86, "my", "a directory")},
		{"a directory that another entry alone needs", "", []string{entryText(www, `, "kvfs": {"layouts": ["live"]}`), entryText(api, link("live"))}, fmt.Sprintf(clash, 86, "live", "a directory")},
		{"a directory that a later entry needs", "", []string{entryText(api, link("my")), entryText(www, `, "kvfs": {"layouts": ["x509store"]}`)},
			`error 2:86: observedCertificates[0].customSymbolicLinkName: "my" in /s is already a directory of line 3`},
		{"a directory of another store", "", []string{entryText(www, `, "certificateStoreLocation": "/t", "kvfs": {"layouts": ["live"]}`), entryText(api, link("live"))}, ""},
		{"names of layouts that are not shown", "", []string{entryText(www, link("live")), entryText(www, link("archive")), entryText(www, link("my")), entryText(www, link("contoso-web.www.pfx")),
			entryText(www, link("contoso-web.www.jks")), entryText(www, link("contoso-web.www.certs.pem")), entryText(www, link("contoso-web.www.truststore.jks")), entryText(www, link("contoso-web.www."+version+".pfx"))}, ""},
		{"names that no layout has", everyLayout, []string{entryText(www, link("contoso-web.www.truststore")), entryText(www, link("contoso-web.www.certs")), entryText(www, link("contoso-web.www.")), entryText(www, link("contoso-web.")),
			entryText(www, link("contoso-web")), entryText(www, link("contoso-web.www."+version+".luma")), entryText(www, link("contoso-web.www."+version+".")), entryText(www, link("Live"))}, ""},
		{"the chain of another, which that one does not show", "", []string{entryText(www, `, "kvfs": {"layouts": ["v3"]}`), entryText(api, link("contoso-web.www.pem"))}, ""},
		{"the chain of another, which that one alone shows", `"layouts": ["v3"]`, []string{entryText(www, `, "kvfs": {"layouts": ["v4"]}`), entryText(api, link("contoso-web.www.pem"))}, fmt.Sprintf(clash, 86, "contoso-web.www.pem", "the default link")},
		{"a version that only the pinned entry of another shows", `"layouts": ["v3"]`, []string{entryText(www, ""), entryText(www+"/"+version, `, "kvfs": {"layouts": ["pfx"]}`), entryText(api, link("contoso-web.www."+version+".pfx"))},
			`error 4:86: observedCertificates[2].customSymbolicLinkName: "contoso-web.www.` + version + `.pfx" in /s is already the name of a version of line 2`},
		{"a version that only the pinned entry before it shows", `"layouts": ["v3"]`, []string{entryText(www+"/"+version, `, "kvfs": {"layouts": ["pfx"]}`), entryText(www, ""), entryText(api, link("contoso-web.www."+version+".pfx"))},
			`error 4:86: observedCertificates[2].customSymbolicLinkName: "contoso-web.www.` + version + `.pfx" in /s is already the name of a version of line 3`},
		{"the default link of another and a dot", "", []string{entryText(www, ""), entryText(api, link("contoso-web.www."))}, ""},
		{"two pinned versions that are found by what is in them", besideV3("x509store"), []string{entryText(www+"/"+version, ""), entryText(www+"/"+newer, `, "kvfs": {"layouts": ["x509store"]}`)}, ""},
		{"two pinned versions, one found by what is in it", "", []string{entryText(www+"/"+version, `, "kvfs": {"layouts": ["x509store"]}`), entryText(www+"/"+newer, "")}, ""},
		{"two pinned versions that both need the link", besideV3("x509store"), []string{entryText(www+"/"+version, ""), entryText(www+"/"+newer, "")},
			"error 3:9: observedCertificates[1].url: the link contoso-web.www in /s already leads to the version of line 2"},
		{"a pinned version has the link of the unpinned", "", []string{entryText(www+"/"+version, link("contoso-web.www")), entryText(www, "")},
			`error 2:119: observedCertificates[0].customSymbolicLinkName: "contoso-web.www" in /s is already the default link of line 3`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ps := Parse("", entries(tt.own, tt.entries...))
			if got := strings.TrimSuffix(lines(ps.Errors()), "\n"); got != tt.errors {
				t.Errorf("errors are\n%s, want\n%s", got, tt.errors)
			}
			if (cfg == nil) != (tt.errors != "") {
				t.Errorf("accepted: %v", cfg != nil)
			}
		})
	}
}

// What follows renewals owns the default links; without it the pinned version that has no other name.
func TestOneEntryOwnsTheDefaultLinks(t *testing.T) {
	pinned, pinnedNewer := www+"/"+version, www+"/"+newer
	tests := []struct {
		entries []string
		linked  []bool
	}{
		{[]string{entryText(pinned, ""), entryText(www, "")}, []bool{false, true}},
		{[]string{entryText(www, ""), entryText(pinned, "")}, []bool{true, false}},
		{[]string{entryText(pinned, "")}, []bool{true}},
		{[]string{entryText(pinned, link("a")), entryText(pinnedNewer, link("b"))}, []bool{true, false}},
		{[]string{entryText(pinned, link("a")), entryText(pinnedNewer, "")}, []bool{false, true}},
		{[]string{entryText(www, link("a")), entryText(www, link("b"))}, []bool{true, true}},
		{[]string{entryText(pinned, ""), entryText(www, `, "certificateStoreLocation": "/t"`)}, []bool{true, true}},
		{[]string{entryText("https://Contoso-Web.vault.azure.net/secrets/www", ""), entryText(www, "")}, []bool{true, true}},
	}
	for _, tt := range tests {
		cfg, ps := Parse("", entries("", tt.entries...))
		if cfg == nil {
			t.Fatal(ps)
		}
		var got []bool
		for _, c := range cfg.Certificates {
			got = append(got, c.Linked)
		}
		if !reflect.DeepEqual(got, tt.linked) {
			t.Errorf("%v: linked are %v, want %v", tt.entries, got, tt.linked)
		}
	}
}

func TestTheSameCertificateInTheSameStoreIsMerged(t *testing.T) {
	cfg, ps := Parse("", entries("",
		entryText(www, `, "acls": [{"user": "a"}], "authenticationOverride": {"msiClientId": "`+clientID+`"}`),
		entryText(api, ""),
		entryText("https://contoso-web.VAULT.azure.net/secrets/www", `, "acls": [{"user": "b"}, {"user": "a"}]`+link("site")),
		entryText(www, `, "acls": [{"group": "c"}]`+link("site2")),
		entryText(www, link("site")),
		entryText("https://Contoso-Web.vault.azure.net/secrets/www", `, "acls": [{"user": "d"}]`)))
	if cfg == nil {
		t.Fatal(ps)
	}
	type brief struct {
		base, link string
		grants     []acl.Grant
		client     string
		line       int
	}
	var got []brief
	for _, c := range cfg.Certificates {
		got = append(got, brief{c.Ref.Vault() + "." + c.Ref.Name(), c.LinkName, c.Grants, c.Identity.ClientID, c.Line})
	}
	united := []acl.Grant{{User: "a"}, {User: "b"}, {Group: "c"}}
	want := []brief{
		{"contoso-web.www", "site", united, clientID, 2},
		{"contoso-web.api", "", nil, "", 3},
		{"contoso-web.www", "site2", united, clientID, 5},
		{"Contoso-Web.www", "", []acl.Grant{{User: "d"}}, "", 7},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	wantLines := `warning 4:9: observedCertificates[2].url: the certificate is in line 2 already, for the same store: the acls are united
warning 5:9: observedCertificates[3].url: the certificate is in line 2 already, for the same store: the acls are united
warning 6:9: observedCertificates[4].url: the certificate is in line 2 already, for the same store: the acls are united
`
	if got := lines(ps); got != wantLines {
		t.Errorf("said\n%s", got)
	}
	if ps[0].Hint != "make one entry of them; the identity of line 2 counts" {
		t.Errorf("hint is %q", ps[0].Hint)
	}
}

func TestOneCertificateInTwoStores(t *testing.T) {
	cfg, ps := Parse("", entries("", entryText(www, link("site")), entryText(www, link("site")+`, "certificateStoreLocation": "/s/inner"`)))
	if cfg == nil || len(ps) > 0 || len(cfg.Certificates) != 2 {
		t.Errorf("got %+v, %v", cfg, ps)
	}
}

func TestFromURLs(t *testing.T) {
	cfg, ps := FromURLs([]string{www, " " + api + "/ "}, "")
	if cfg == nil || len(ps) > 0 {
		t.Fatal(ps)
	}
	want := defaults()
	for _, url := range []string{www, api} {
		want.Certificates = append(want.Certificates, Certificate{Ref: mustRef(t, url), Store: DefaultStore, Linked: true, Views: defaultViews(), Guards: defaultGuards()})
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v, want %+v", cfg, want)
	}
	if cfg, _ := FromURLs([]string{www}, "/run/kv/"); cfg == nil || cfg.Certificates[0].Store != "/run/kv" {
		t.Errorf("with a store: %+v", cfg)
	}
	if cfg, ps := FromURLs(nil, ""); cfg == nil || len(cfg.Certificates) != 0 {
		t.Errorf("without URLs: %+v %v", cfg, ps)
	}
}

func TestFromURLsNamesThePlaceInTheList(t *testing.T) {
	tests := []struct {
		urls  []string
		store string
		want  string
	}{
		{[]string{www, "http://contoso-web.vault.azure.net/secrets/www"}, "", "error 0:0: URL 2: scheme is \"http\"\n"},
		{[]string{www, wwwCN}, "", "error 0:0: URL 2: contoso-web.www in " + DefaultStore + " is already the name of the certificate from contoso-web.vault.azure.net in URL 1\n"},
		{[]string{www, www}, "", "warning 0:0: URL 2: the certificate is in URL 1 already, for the same store: the acls are united\n"},
		{[]string{www}, "kv", "error 0:0: --store: \"kv\" is a relative path\n"},
		{[]string{"settings.json"}, "", "error 0:0: URL 1: \"settings.json\" has no scheme\n"},
	}
	for _, tt := range tests {
		cfg, ps := FromURLs(tt.urls, tt.store)
		if got := lines(ps); got != tt.want {
			t.Errorf("%q: said %s, want %s", tt.urls, got, tt.want)
		}
		if (cfg == nil) != ps.HasErrors() {
			t.Errorf("%q: accepted: %v", tt.urls, cfg != nil)
		}
	}
}
