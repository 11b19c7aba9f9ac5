package config

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// In the block kvfs nothing is a vendor's: whatever is not known there is a mistake.
func TestOwnSettings(t *testing.T) {
	known := []string{"v3", "v4"}
	place := `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}, "kvfs": {%s}}`
	testFields(t, place, func(c *Config) any { return c.Certificates[0].Views.Layouts }, []fieldTest{
		{`"layouts": ["v4"]`, []string{"v4"}, nil},
		{`"layouts": ["v4", "v3", "v4"]`, []string{"v4", "v3"}, nil},
		{`"layouts": null`, known, nil},
		{`"layouts": [null, "v3"]`, []string{"v3"}, nil},
		{`"layouts": [null]`, nil, []string{"error: kvfs.layouts is empty: no names would be shown"}},
		{``, known, nil},
		{`"layouts": []`, nil, []string{"error: kvfs.layouts is empty: no names would be shown"}},
		{everyLayout, wordsOf[layout](), nil},
		{`"layouts": ["jks", "live", "v3", "jks", null, "live"]`, []string{"jks", "live", "v3"}, nil},
		{`"layouts": ["v1"]`, nil, []string{`error: kvfs.layouts[0]: "v1" is not a known layout`}},
		{`"layouts": ["V3"]`, nil, []string{`error: kvfs.layouts[0]: "V3" is not a known layout`}},
		{`"layouts": [3]`, nil, []string{"error: kvfs.layouts[0]: 3 is not a string"}},
		{`"layouts": "v3"`, nil, []string{`error: kvfs.layouts: "v3" is not a list`}},
		{`"layout": ["v3"]`, nil, []string{`error: kvfs: "layout" is not a known field`}},
		{`"colour": 1, "shape": 2`, nil, []string{`error: kvfs: "colour" is not a known field`, `error: kvfs: "shape" is not a known field`}},
	})
	const number = `is not a whole number from 1 to 1000 or "all"`
	testFields(t, place, func(c *Config) any { return c.KeepVersions }, []fieldTest{
		{``, 2, nil},
		{`"keepVersions": 1`, 1, nil},
		{`"keepVersions": 1000`, 1000, nil},
		{`"keepVersions": 0`, nil, []string{"error: kvfs.keepVersions: 0 " + number}},
		{`"keepVersions": 1001`, nil, []string{"error: kvfs.keepVersions: 1001 " + number}},
		{`"keepVersions": 2.0`, nil, []string{"error: kvfs.keepVersions: 2.0 " + number}},
		{`"keepVersions": "2"`, nil, []string{`error: kvfs.keepVersions: "2" ` + number}},
		{`"keepVersions": "all"`, AllVersions, nil},
		{`"keepVersions": -1`, nil, []string{"error: kvfs.keepVersions: -1 " + number}},
		{`"keepVersions": "All"`, nil, []string{`error: kvfs.keepVersions: "All" ` + number}},
		{`"keepVersions": true`, nil, []string{"error: kvfs.keepVersions: true " + number}},
	})
	const mebibytes = "is not a whole number from 0 to 4096"
	testFields(t, place, func(c *Config) any { return c.OldVersionsInMiB }, []fieldTest{
		{``, 32, nil},
		{`"oldVersionsInMiB": 0`, 0, nil},
		{`"oldVersionsInMiB": 4096`, 4096, nil},
		{`"oldVersionsInMiB": 4097`, nil, []string{"error: kvfs.oldVersionsInMiB: 4097 " + mebibytes}},
		{`"oldVersionsInMiB": -1`, nil, []string{"error: kvfs.oldVersionsInMiB: -1 " + mebibytes}},
		{`"oldVersionsInMiB": "32"`, nil, []string{`error: kvfs.oldVersionsInMiB: "32" ` + mebibytes}},
	})
	testFields(t, beside, func(c *Config) any { return c.KeepVersions }, []fieldTest{
		{`"kvfs": []`, nil, []string{"error: kvfs: a list is not an object"}},
		{`"kvfs": null`, 2, nil},
	})
}

func TestTransport(t *testing.T) {
	const path = "error: kvfs.transport"
	testFields(t, beside, func(c *Config) any { return c.Transport }, []fieldTest{
		{`"kvfs": {"transport": {}}`, Transport{}, nil},
		{`"kvfs": {"transport": {"caFile": "/etc/ca.pem", "connect": {"*.Vault.azure.net:443": "127.0.0.1:8443", "a.b:1": "[::1]:2"}}}`,
			Transport{"/etc/ca.pem", map[string]string{"*.vault.azure.net:443": "127.0.0.1:8443", "a.b:1": "[::1]:2"}}, nil},
		{`"kvfs": {"transport": {"caFile": "ca.pem"}}`, nil, []string{path + `.caFile: "ca.pem" is not an absolute path`}},
		{`"kvfs": {"transport": {"caFile": 1}}`, nil, []string{path + ".caFile: 1 is not a string"}},
		{`"kvfs": {"transport": {"connect": {"vault": "127.0.0.1:8443"}}}`, nil, []string{path + `.connect: "vault" is not host:port`}},
		{`"kvfs": {"transport": {"connect": {"a.*:1": "127.0.0.1:8443"}}}`, nil, []string{path + `.connect: "a.*:1" is not host:port`}},
		{`"kvfs": {"transport": {"connect": {"a:1": "127.0.0.1"}}}`, nil, []string{path + `.connect["a:1"]: "127.0.0.1" is not host:port`}},
		{`"kvfs": {"transport": {"connect": {"a:1": "*.b:1"}}}`, nil, []string{path + `.connect["a:1"]: "*.b:1" is not host:port`}},
		{`"kvfs": {"transport": {"connect": {"a:1": 5}}}`, nil, []string{path + `.connect["a:1"]: 5 is not a string`}},
		{`"kvfs": {"transport": {"connect": []}}`, nil, []string{path + ".connect: a list is not an object"}},
		{`"kvfs": {"transport": {"cafile": "/x", "proxy": 1}}`, nil, []string{`warning: "cafile" is taken for "caFile"`, path + `: "proxy" is not a known field`}},
		{`"kvfs": {"transport": "x"}`, nil, []string{path + `: "x" is not an object`}},
	})
}

func TestTheFloorOfThePollingIntervalCanBeLowered(t *testing.T) {
	place := `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"], "pollingIntervalInS": 1}, "kvfs": {%s}}`
	const path = "error: kvfs.minPollingIntervalInS"
	testFields(t, place, func(c *Config) any { return c.PollingInterval }, []fieldTest{
		{`"minPollingIntervalInS": 1`, time.Second, nil},
		{`"minPollingIntervalInS": "5"`, 5 * time.Second, []string{"warning: pollingIntervalInS: 1 is raised to 5"}},
		{`"minPollingIntervalInS": 31`, nil, []string{"warning: pollingIntervalInS: 1 is raised to 30", path + ": 31 is more than 30"}},
		{`"minPollingIntervalInS": 0`, nil, []string{"warning: pollingIntervalInS: 1 is raised to 30", path + ": 0 is not a number of whole seconds"}},
	})
}

func TestVaultDNSSuffixes(t *testing.T) {
	doc := `{"kvfs": {"vaultDnsSuffixes": %s}, "secretsManagementSettings": {"observedCertificates": ["https://demo.vault.localhost:8443/secrets/www"]}}`
	cfg, ps := Parse("", fmt.Appendf(nil, doc, `["vault.localhost"]`))
	if cfg == nil || len(ps) > 0 || cfg.Certificates[0].Ref.Host() != "demo.vault.localhost:8443" {
		t.Errorf("got %+v, %v", cfg, ps)
	}
	const unknown = `error: observedCertificates[0]: "demo.vault.localhost" is not a known Key Vault host`
	for suffixes, want := range map[string][]string{
		`null`:              {unknown},
		`["example.com"]`:   {unknown},
		`[""]`:              {`error: kvfs.vaultDnsSuffixes[0]: "" is not a DNS suffix`, unknown},
		`["a..b"]`:          {`error: kvfs.vaultDnsSuffixes[0]: "a..b" is not a DNS suffix`, unknown},
		`["https://a.b"]`:   {`error: kvfs.vaultDnsSuffixes[0]: "https://a.b" is not a DNS suffix`, unknown},
		`["a.b:99999"]`:     {`error: kvfs.vaultDnsSuffixes[0]: "a.b:99999" is not a DNS suffix`, unknown},
		`[5]`:               {"error: kvfs.vaultDnsSuffixes[0]: 5 is not a string", unknown},
		`"vault.localhost"`: {`error: kvfs.vaultDnsSuffixes: "vault.localhost" is not a list`, unknown},
	} {
		_, ps := Parse("", fmt.Appendf(nil, doc, suffixes))
		if got := said(ps); !slices.Equal(got, want) {
			t.Errorf("%s said %q, want %q", suffixes, got, want)
		}
	}
}
