package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func viewsOf(c *Config) any { return c.Certificates[0].Views }

func TestViews(t *testing.T) {
	inStore := `{"secretsManagementSettings": {"certificateStoreLocation": "/s", "observedCertificates": ["` + www + `"]}, "kvfs": {"stores": {"/s": {%s}}}}`
	v34 := []string{"v3", "v4"}
	for _, at := range []struct{ place, path string }{{inOwn, "kvfs"}, {inStore, `kvfs.stores["/s"]`}, {inEntryOwn, "observedCertificates[0].kvfs"}} {
		noFile := []string{"error: " + at.path + ".passwordFile is not the absolute path of a file"}
		testFields(t, at.place, viewsOf, []fieldTest{
			{``, Views{v34, "pkcs8", ""}, nil},
			{`"layouts": null, "keyFormat": null, "passwordFile": null`, Views{v34, "pkcs8", ""}, nil},
			{`"layouts": ["live", "pfx"]`, Views{[]string{"live", "pfx"}, "pkcs8", ""}, nil},
			{everyLayout, Views{wordsOf[layout](), "pkcs8", ""}, nil},
			{`"layouts": ["x509store", "v4", "x509store"]`, Views{[]string{"x509store", "v4"}, "pkcs8", ""}, nil},
			{`"keyFormat": "traditional"`, Views{v34, "traditional", ""}, nil},
			{`"keyFormat": "pkcs8"`, Views{v34, "pkcs8", ""}, nil},
			{`"passwordFile": "/run/password"`, Views{v34, "pkcs8", "/run/password"}, nil},
			{`"layouts": []`, nil, []string{"error: " + at.path + ".layouts is empty: no names would be shown"}},
			{`"layouts": ["live", "V3"]`, nil, []string{"error: " + at.path + `.layouts[1]: "V3" is not a known layout`}},
			{`"layouts": "live"`, nil, []string{"error: " + at.path + `.layouts: "live" is not a list`}},
			{`"keyFormat": "PKCS8"`, nil, []string{"error: " + at.path + `.keyFormat: "PKCS8" is not a known key format`}},
			{`"keyFormat": 8`, nil, []string{"error: " + at.path + ".keyFormat: 8 is not a known key format"}},
			{`"passwordFile": "password"`, nil, noFile},
			{`"passwordFile": "/run/"`, nil, noFile},
			{`"passwordFile": ""`, nil, noFile},
			{`"passwordFile": 5`, nil, noFile},
			{`"keyformat": "pkcs8"`, Views{v34, "pkcs8", ""}, []string{`warning: "keyformat" is taken for "keyFormat"`}},
			{`"keyFormats": "pkcs8"`, nil, []string{"error: " + at.path + `: "keyFormats" is not a known field`}},
		})
	}
}

// Each of the three counts by itself: the entry's own, then that of its store, then that of all.
func TestTheNearestViewsCount(t *testing.T) {
	cfg, ps := Parse("", entries(`"layouts": ["v3"], "keyFormat": "traditional", "passwordFile": "/all", "stores": {
			"/s": {"layouts": ["jks"], "passwordFile": "/store"}, "//t/./u/": {"keyFormat": "pkcs8"}}`,
		`"`+www+`"`,
		entryText(api, `, "kvfs": {"layouts": ["pfx"]}`),
		entryText(www, `, "certificateStoreLocation": "/t/u/"`),
		entryText(api, `, "certificateStoreLocation": "/t/u", "kvfs": {"keyFormat": "traditional", "passwordFile": "/own"}`),
		entryText(www, `, "certificateStoreLocation": "/t"`)))
	if cfg == nil || len(ps) > 0 {
		t.Fatal(ps)
	}
	for i, want := range []Views{
		{[]string{"jks"}, "traditional", "/store"},
		{[]string{"pfx"}, "traditional", "/store"},
		{[]string{"v3"}, "pkcs8", "/all"},
		{[]string{"v3"}, "traditional", "/own"},
		{[]string{"v3"}, "traditional", "/all"},
	} {
		if got := cfg.Certificates[i].Views; !reflect.DeepEqual(got, want) {
			t.Errorf("entry %d has %+v, want %+v", i, got, want)
		}
	}
}

func TestStores(t *testing.T) {
	place := `{"secretsManagementSettings": {"certificateStoreLocation": "/s", "observedCertificates": ["` + www + `"]}, "kvfs": {"stores": %s}}`
	unused := func(path string) string {
		return fmt.Sprintf(`warning: kvfs.stores["%s"] has no effect: no certificate is in this store`, path)
	}
	const twice = `warning: kvfs.stores["/s"] is given more than once; the last one counts`
	layouts := func(c *Config) any { return c.Certificates[0].Views.Layouts }
	v34 := []string{"v3", "v4"}
	testFields(t, place, layouts, []fieldTest{
		{`null`, v34, nil},
		{`{}`, v34, nil},
		{`{"/s": {}}`, v34, nil},
		{`{"/s": null}`, v34, nil},
		{`{"/s/": {"layouts": ["pfx"]}}`, []string{"pfx"}, nil},
		{`{"/S": {"layouts": ["pfx"]}}`, v34, []string{unused("/S")}},
		{`{"/t": {}, "/u/": {"layouts": ["pfx"]}, "/v": null}`, v34, []string{unused("/t"), unused("/u/")}},
		{`{"/s": {"layouts": ["pfx"]}, "/s": {"layouts": ["jks"]}}`, []string{"jks"}, []string{twice}},
		{`{"/s": 5, "//s/": {"layouts": ["jks"]}, "/s/.": {}}`, v34, []string{twice}},
		{`{"/s": {"layouts": ["pfx"]}, "/s": null}`, v34, []string{twice}},
		{`{"/s": []}`, nil, []string{`error: kvfs.stores["/s"]: a list is not an object`}},
		{`{"/s": {"onDisabled": "hide"}}`, nil, []string{`error: kvfs.stores["/s"]: "onDisabled" is not a known field`}},
		{`{"s": {}}`, nil, []string{`error: kvfs.stores: "s" is a relative path`}},
		{`{"": {}}`, nil, []string{"error: kvfs.stores: the path is empty"}},
		{`{"/": {}}`, nil, []string{`error: kvfs.stores: "/" is the root directory`}},
		{`{"/a/../s": {}}`, nil, []string{`error: kvfs.stores: "/a/../s" has a ".." in it`}},
		{`{"/proc/s": {}}`, nil, []string{`error: kvfs.stores: "/proc/s" belongs to the kernel`}},
		{`[]`, nil, []string{"error: kvfs.stores: a list is not an object"}},
		{`"/s"`, nil, []string{`error: kvfs.stores: "/s" is not an object`}},
	})
}

// The default store and that of the command line are stores like others.
func TestAStoreWithoutANameInTheDocumentHasABlock(t *testing.T) {
	doc := `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, "kvfs": {"stores": {"%s": {"layouts": ["live"]}}}}`
	for store, opts := range map[string]Options{DefaultStore: {}, "/mnt": {Store: "/mnt/"}} {
		cfg, ps := opts.Parse(fmt.Appendf(nil, doc, store))
		if cfg == nil || len(ps) > 0 || !slices.Equal(cfg.Certificates[0].Views.Layouts, []string{"live"}) {
			t.Errorf("%s: %+v, %v", store, cfg, ps)
		}
	}
}

// Settings are public: a password does not belong into them, and nobody shows it who finds one there.
func TestAPasswordInPlaceOfItsFileIsRefusedAndNotRepeated(t *testing.T) {
	const secret = "s3cr3t~Value"
	for _, place := range []string{inOwn, inEntryOwn, `{"secretsManagementSettings": {"observedCertificates": []}, "kvfs": {"stores": {"/s": {%s}}}}`} {
		for field, want := range map[string]string{
			`"passwordFile": "` + secret + `"`:                    ".passwordFile is not the absolute path of a file",
			`"passwordFile": {"` + secret + `": 1}`:               ".passwordFile is not the absolute path of a file",
			`"passwordFile": ` + secret:                           `the value of "passwordFile" is not valid JSON`,
			`"password": "` + secret + `"`:                        `: "password" is a secret, and settings are public`,
			`"keystorePassword": "` + secret + `"`:                `: "keystorePassword" is a secret, and settings are public`,
			`"jksPassword": ` + secret:                            `the value of "jksPassword" is not valid JSON`,
			`"pfxPassphrase": ["` + secret + `"]`:                 `: "pfxPassphrase" is a secret, and settings are public`,
			`"keyFormat": "pkcs8", "STOREPASS": "` + secret + `"`: `: "STOREPASS" is a secret, and settings are public`,
		} {
			cfg, ps := Parse("", fmt.Appendf(nil, place, field))
			if text := lines(ps.Errors()); cfg != nil || len(ps.Errors()) != 1 || !strings.HasSuffix(text, want+"\n") {
				t.Errorf("%s: accepted: %v; said\n%s", field, cfg != nil, text)
			}
			if strings.Contains(allSaid(cfg, ps), "s3cr3t") {
				t.Errorf("%s is repeated:\n%s", field, allSaid(cfg, ps))
			}
		}
	}
}

func TestACustomLinkNeedsALayoutWithCombinedFiles(t *testing.T) {
	const without = "warning %d:86: observedCertificates[%d].customSymbolicLinkName has no effect: only the layout v3 has combined files\n"
	only := func(layout string) string { return fmt.Sprintf(`, "kvfs": {"layouts": [%q]}`, layout) }
	merged := "warning 3:9: observedCertificates[1].url: the certificate is in line 2 already, for the same store: the acls and layouts are united\n"
	tests := []struct {
		name    string
		own     string
		entries []string
		links   []string
		said    string
	}{
		{"not of all", `"layouts": ["v4"]`, []string{entryText(www, link("site"))}, []string{""}, fmt.Sprintf(without, 2, 0)},
		{"of all, but not its own", "", []string{entryText(www, link("site")+only("live"))}, []string{""}, fmt.Sprintf(without, 2, 0)},
		{"its own", `"layouts": ["v4"]`, []string{entryText(www, link("site")+only("v3"))}, []string{"site"}, ""},
		{"of all, but not of its store", `"stores": {"/s": {"layouts": ["v4"]}}`, []string{entryText(www, link("site"))}, []string{""}, fmt.Sprintf(without, 2, 0)},
		{"of the same certificate in another entry", "", []string{entryText(www, link("site")+only("v4")), entryText(www, only("v3"))}, []string{"site"}, merged},
		{"of no entry of the certificate", "", []string{entryText(www, link("site")+only("v4")), entryText(www, link("other")+only("live"))}, []string{""},
			fmt.Sprintf(without, 2, 0) + merged + fmt.Sprintf(without, 3, 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ps := Parse("", entries(tt.own, tt.entries...))
			if got := lines(ps); got != tt.said {
				t.Errorf("said\n%s, want\n%s", got, tt.said)
			}
			var links []string
			for _, c := range cfg.Certificates {
				links = append(links, c.LinkName)
			}
			if !slices.Equal(links, tt.links) {
				t.Errorf("links are %q, want %q", links, tt.links)
			}
		})
	}
}

func TestMergedEntriesUniteTheirLayouts(t *testing.T) {
	cfg, ps := Parse("", entries(`"layouts": ["v3"]`,
		entryText(www, `, "kvfs": {"layouts": ["v4", "v3"], "keyFormat": "traditional", "onDisabled": "hide"}`),
		entryText(www, link("site")+`, "kvfs": {"layouts": ["live", "v3", "pfx"], "passwordFile": "/p", "onDisabled": "hide"}`),
		entryText(www, link("other")+`, "kvfs": {"layouts": ["v3", "v4"], "keyFormat": "traditional", "verifyChain": "failOpen", "onDisabled": "hide"}`),
		entryText(api, "")))
	if cfg == nil {
		t.Fatal(ps)
	}
	united := Views{[]string{"v4", "v3", "live", "pfx"}, "traditional", ""}
	guards := defaultGuards()
	guards.HideDisabled = true
	var links []string
	for _, c := range cfg.Certificates[:len(cfg.Certificates)-1] {
		if links = append(links, c.LinkName); !reflect.DeepEqual(c.Views, united) || c.Guards != guards {
			t.Errorf("%s has %+v, %+v", c.LinkName, c.Views, c.Guards)
		}
	}
	if !slices.Equal(links, []string{"site", "other"}) {
		t.Errorf("links are %q", links)
	}
	if last := cfg.Certificates[2].Views; !reflect.DeepEqual(last, Views{[]string{"v3"}, "pkcs8", ""}) {
		t.Errorf("another certificate has %+v", last)
	}
	const want = `warning 3:9: observedCertificates[1].url: the certificate is in line 2 already, for the same store: the acls and layouts are united
  hint: make one entry of them; the keyFormat and passwordFile of line 2 count
warning 4:9: observedCertificates[2].url: the certificate is in line 2 already, for the same store: the acls and layouts are united
  hint: make one entry of them; the verifyChain of line 2 counts
`
	if got := allSaid(cfg, ps); got != want {
		t.Errorf("said\n%s", got)
	}
}

// The list of all is shared by every certificate that has no other.
func TestUnitedLayoutsChangeNoOtherCertificate(t *testing.T) {
	cfg, ps := Parse("", entries(`"layouts": ["v3", "v4", "certs"]`,
		entryText(www, ""), entryText(www, `, "kvfs": {"layouts": ["jks"]}`), entryText(api, ""), entryText(api, `, "kvfs": {"layouts": ["pfx"]}`), entryText(api+"2", "")))
	if cfg == nil {
		t.Fatal(ps)
	}
	for i, want := range []string{"v3 v4 certs jks", "v3 v4 certs pfx", "v3 v4 certs"} {
		if got := strings.Join(cfg.Certificates[i].Views.Layouts, " "); got != want {
			t.Errorf("certificate %d has %s, want %s", i, got, want)
		}
	}
}

// The names of the fields in a hint are those of the settings.
func TestWhateverCannotBeUnitedIsNamed(t *testing.T) {
	for _, field := range []string{
		`"keyFormat": "traditional"`, `"passwordFile": "/p"`, `"onNotYetValid": "link"`, `"onDisabled": "hide"`, `"onExpired": "hide"`, `"onChangedNames": "hold"`, `"onChangedIssuer": "hold"`,
		`"verifyChain": "failClosed"`, `"fetchIssuers": true`, `"identity": {"type": "environment"}`,
	} {
		_, ps := Parse("", entries("", entryText(www, ""), entryText(www, `, "kvfs": {`+field+`}`)))
		name := strings.Split(field, `"`)[1]
		if len(ps) != 1 || ps[0].Hint != "make one entry of them; the "+name+" of line 2 counts" {
			t.Errorf("%s: %+v", name, ps)
		}
	}
}

func TestAStoreIsNotInADirectoryOfALayout(t *testing.T) {
	in := func(store string, layouts ...string) string {
		return fmt.Sprintf(`, "certificateStoreLocation": %q, "kvfs": {"layouts": ["v3", "%s"]}`, store, strings.Join(layouts, `", "`))
	}
	const within = "error %d:9: observedCertificates[%d].url: its store is %s, but %s is a directory of line %d by the layout %s"
	tests := []struct {
		name    string
		entries []string
		errors  string
	}{
		{"live", []string{entryText(www, in("/s", "live")), entryText(api, in("/s/live", "v4"))}, fmt.Sprintf(within, 3, 1, "/s/live", "/s/live", 2, "live")},
		{"archive", []string{entryText(www, in("/s", "live")), entryText(api, in("/s/archive/a/b", "v4"))}, fmt.Sprintf(within, 3, 1, "/s/archive/a/b", "/s/archive", 2, "live")},
		{"my", []string{entryText(www, in("/s", "x509store")), entryText(api, in("/s/my/a", "v4"))}, fmt.Sprintf(within, 3, 1, "/s/my/a", "/s/my", 2, "x509store")},
		{"before the outer one", []string{entryText(api, in("/s/my", "v4")), entryText(www, in("/s", "x509store"))}, fmt.Sprintf(within, 2, 0, "/s/my", "/s/my", 3, "x509store")},
		{"of many certificates", []string{entryText(www, in("/s", "live")), entryText(api, in("/s/live", "v4")), entryText(api+"2", in("/s/live", "v4"))}, fmt.Sprintf(within, 3, 1, "/s/live", "/s/live", 2, "live")},
		{"of the inner store alone", []string{entryText(www, in("/s", "v4")), entryText(api, in("/s/live", "live"))}, ""},
		{"of another layout", []string{entryText(www, in("/s", "live")), entryText(api, in("/s/my", "v4"))}, ""},
		{"deeper", []string{entryText(www, in("/s", "live", "x509store")), entryText(api, in("/s/a/live", "v4")), entryText(api+"2", in("/s/a/my/archive", "v4"))}, ""},
		{"beside", []string{entryText(www, in("/s/live", "live")), entryText(api, in("/s/lively", "v4")), entryText(api+"2", in("/s/Live", "v4"))}, ""},
		{"a name at the top", []string{entryText(www, in("/live", "live")), entryText(api, in("/my", "x509store"))}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ps := Parse("", entries("", tt.entries...))
			if got := strings.TrimSuffix(lines(ps), "\n"); got != tt.errors {
				t.Errorf("said\n%s, want\n%s", got, tt.errors)
			}
			if (cfg == nil) != (tt.errors != "") {
				t.Errorf("accepted: %v", cfg != nil)
			}
		})
	}
}
