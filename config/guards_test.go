package config

import (
	"fmt"
	"testing"
)

// inOwn is the place of a field that counts for all certificates, inEntryOwn that of one that counts for its own.
const (
	inOwn      = `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, "kvfs": {%s}}`
	inEntryOwn = `{"secretsManagementSettings": {"observedCertificates": [{"url": "` + www + `", "kvfs": {%s}}]}}`
)

func guardsOf(c *Config) any { return c.Certificates[0].Guards }

func TestGuards(t *testing.T) {
	changed := func(change func(*Guards)) Guards {
		g := defaultGuards()
		change(&g)
		return g
	}
	said := func(path, field, value, what string) []string {
		return []string{fmt.Sprintf("error: %s.%s: %s is not a known %s", path, field, value, what)}
	}
	for _, at := range []struct{ place, path string }{{inOwn, "kvfs"}, {inEntryOwn, "observedCertificates[0].kvfs"}} {
		testFields(t, at.place, guardsOf, []fieldTest{
			{``, Guards{HoldNotYetValid: true, VerifyChain: "off"}, nil},
			{`"onNotYetValid": "hold", "onDisabled": "keep", "onExpired": "serve", "onChangedNames": "accept", "onChangedIssuer": "accept", "verifyChain": "off", "fetchIssuers": false`, defaultGuards(), nil},
			{`"onNotYetValid": null, "onDisabled": null, "onExpired": null, "onChangedNames": null, "onChangedIssuer": null, "verifyChain": null, "fetchIssuers": null`, defaultGuards(), nil},
			{`"onNotYetValid": "link"`, changed(func(g *Guards) { g.HoldNotYetValid = false }), nil},
			{`"onDisabled": "hide"`, changed(func(g *Guards) { g.HideDisabled = true }), nil},
			{`"onExpired": "hide"`, changed(func(g *Guards) { g.HideExpired = true }), nil},
			{`"onChangedNames": "hold"`, changed(func(g *Guards) { g.HoldChangedNames = true }), nil},
			{`"onChangedIssuer": "hold"`, changed(func(g *Guards) { g.HoldChangedIssuer = true }), nil},
			{`"verifyChain": "failOpen"`, changed(func(g *Guards) { g.VerifyChain = "failOpen" }), nil},
			{`"verifyChain": "failClosed"`, changed(func(g *Guards) { g.VerifyChain = "failClosed" }), nil},
			{`"fetchIssuers": true`, changed(func(g *Guards) { g.FetchIssuers = true }), nil},
			{`"fetchIssuers": "true"`, changed(func(g *Guards) { g.FetchIssuers = true }), nil},
			{`"onNotYetValid": "keep"`, nil, said(at.path, "onNotYetValid", `"keep"`, "action")},
			{`"onDisabled": "serve"`, nil, said(at.path, "onDisabled", `"serve"`, "action")},
			{`"onExpired": "keep"`, nil, said(at.path, "onExpired", `"keep"`, "action")},
			{`"onChangedNames": "hide"`, nil, said(at.path, "onChangedNames", `"hide"`, "action")},
			{`"onChangedIssuer": ""`, nil, said(at.path, "onChangedIssuer", `""`, "action")},
			{`"verifyChain": "failopen"`, nil, said(at.path, "verifyChain", `"failopen"`, "mode")},
			{`"verifyChain": true`, nil, []string{"error: " + at.path + ".verifyChain: true is not a known mode"}},
			{`"onExpired": "[parameters('x')]"`, nil, []string{"error: " + at.path + ".onExpired: an ARM expression, which only the deployment can evaluate"}},
			{`"fetchIssuers": "always"`, nil, []string{"error: " + at.path + `.fetchIssuers: "always" is not true or false`}},
			{`"onDisable": "hide"`, nil, []string{"error: " + at.path + `: "onDisable" is not a known field`}},
		})
	}
}

// What an entry leaves out is as for all, and what it says is for itself alone.
func TestTheNearestGuardsCount(t *testing.T) {
	cfg, ps := Parse("", entries(`"onNotYetValid": "link", "onDisabled": "hide", "onExpired": "hide", "verifyChain": "failOpen", "fetchIssuers": true`,
		entryText(www, `, "kvfs": {"onNotYetValid": "hold", "onDisabled": "keep", "verifyChain": "off", "fetchIssuers": false, "onChangedNames": "hold"}`),
		entryText(api, ""), `"`+api+`2"`))
	if cfg == nil || len(ps) > 0 {
		t.Fatal(ps)
	}
	all := Guards{HideDisabled: true, HideExpired: true, VerifyChain: "failOpen", FetchIssuers: true}
	for i, want := range []Guards{{HoldNotYetValid: true, HideExpired: true, HoldChangedNames: true, VerifyChain: "off"}, all, all} {
		if got := cfg.Certificates[i].Guards; got != want {
			t.Errorf("entry %d has %+v, want %+v", i, got, want)
		}
	}
}

func TestTheHintNamesTheWordsThatAreKnown(t *testing.T) {
	for field, want := range map[string]string{
		`"verifyChain": "on"`:    "known are off, failOpen and failClosed",
		`"onDisabled": "drop"`:   "known are keep and hide",
		`"keyFormat": "pkcs1"`:   "known are pkcs8 and traditional",
		`"layouts": ["v5"]`:      "known are v3, v4, live, certs, pfx, jks, truststore and x509store",
		`"keepVersions": "ever"`: `write 1 to 1000, or "all"`,
	} {
		_, ps := Parse("", fmt.Appendf(nil, inOwn, field))
		if len(ps) != 1 || ps[0].Hint != want {
			t.Errorf("%s: %+v, want the hint %s", field, ps, want)
		}
	}
}
