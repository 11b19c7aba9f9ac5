package config

import (
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	const at = "error: kvfs.metrics"
	const address = " is not an IP address or localhost with a port, or an absolute path"
	const open = " can be reached from other machines, and nobody is asked who he is"
	testFields(t, inOwn, func(c *Config) any { return c.Metrics }, []fieldTest{
		{``, Metrics{}, nil},
		{`"metrics": null`, Metrics{}, nil},
		{`"metrics": "127.0.0.1:9464"`, Metrics{Listen: "127.0.0.1:9464"}, nil},
		{`"metrics": "[::1]:9464"`, Metrics{Listen: "[::1]:9464"}, nil},
		{`"metrics": "localhost:9464"`, Metrics{Listen: "localhost:9464"}, nil},
		{`"metrics": "/run/kvfs//metrics.sock"`, Metrics{Listen: "/run/kvfs/metrics.sock", Mode: 0o600}, nil},
		{`"metrics": {"listen": "/run/m"}`, Metrics{Listen: "/run/m", Mode: 0o600}, nil},
		{`"metrics": {"listen": "/run/m", "group": "prometheus"}`, Metrics{Listen: "/run/m", Mode: 0o660, Group: "prometheus"}, nil},
		{`"metrics": {"listen": "/run/m", "group": 33, "mode": "0620"}`, Metrics{Listen: "/run/m", Mode: 0o620, Group: "33"}, nil},
		{`"metrics": {"listen": "/run/m", "mode": "0666", "group": null}`, Metrics{Listen: "/run/m", Mode: 0o666}, nil},
		{`"metrics": {"listen": "0.0.0.0:9464", "remote": true}`, Metrics{Listen: "0.0.0.0:9464"}, nil},
		{`"metrics": "0.0.0.0:9464"`, nil, []string{at + `: "0.0.0.0:9464"` + open}},
		{`"metrics": {"listen": "[::]:9464", "remote": false}`, nil, []string{at + `.listen: "[::]:9464"` + open}},
		{`"metrics": "10.1.2.3:9464"`, nil, []string{at + `: "10.1.2.3:9464"` + open}},
		{`"metrics": ":9464"`, nil, []string{at + `: ":9464"` + address}},
		{`"metrics": "127.0.0.1"`, nil, []string{at + `: "127.0.0.1"` + address}},
		{`"metrics": "127.0.0.1:0"`, nil, []string{at + `: "127.0.0.1:0"` + address}},
		{`"metrics": "metrics.example:9464"`, nil, []string{at + `: "metrics.example:9464"` + address}},
		{`"metrics": ""`, nil, []string{at + `: ""` + address}},
		{`"metrics": "/run/"`, nil, []string{at + `: "/run/" is not the path of a Unix socket`}},
		{`"metrics": "/` + strings.Repeat("a", 107) + `"`, nil, []string{at + ": a path of 108 bytes, more than the 107 that a Unix socket may have"}},
		{`"metrics": 9464`, nil, []string{at + ": 9464 is not an address, a path, or an object"}},
		{`"metrics": true`, nil, []string{at + ": true is not an address, a path, or an object"}},
		{`"metrics": {}`, nil, []string{at + `: "listen" is missing`}},
		{`"metrics": {"listen": 9464}`, nil, []string{at + ".listen: 9464 is not a string"}},
		{`"metrics": {"listen": "127.0.0.1:9464", "group": "prometheus"}`, nil, []string{at + `.group has no effect: "127.0.0.1:9464" is no Unix socket`}},
		{`"metrics": {"listen": "127.0.0.1:9464", "mode": "0660"}`, nil, []string{at + `.mode has no effect: "127.0.0.1:9464" is no Unix socket`}},
		{`"metrics": {"listen": "/run/m", "mode": 660}`, nil, []string{at + ".mode: 660 is not a mode of four octal digits in quotes"}},
		{`"metrics": {"listen": "/run/m", "mode": "660"}`, nil, []string{at + `.mode: "660" is not a mode of four octal digits in quotes`}},
		{`"metrics": {"listen": "/run/m", "mode": "0999"}`, nil, []string{at + `.mode: "0999" is not a mode of four octal digits in quotes`}},
		{`"metrics": {"listen": "/run/m", "group": []}`, nil, []string{at + ".group: a list is not a name or an id"}},
		{`"metrics": {"listen": "/run/m", "remote": "yes"}`, nil, []string{at + `.remote: "yes" is not true or false`}},
		{`"metrics": {"listen": "/run/m", "port": 1}`, nil, []string{at + `: "port" is not a known field`}},
	})
}
