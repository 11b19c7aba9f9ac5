package config

import "testing"

func TestAudit(t *testing.T) {
	audit := func(c *Config) any { a := c.Audit; a.Line, a.Column = 0, 0; return a }
	testFields(t, inOwn, audit, []fieldTest{
		{``, Audit{}, nil},
		{`"audit": null`, Audit{}, nil},
		{`"audit": false`, Audit{}, nil},
		{`"audit": true`, Audit{On: true}, nil},
		{`"audit": {}`, Audit{On: true}, nil},
		{`"audit": {"file": "/var/log/kvfs/audit.log"}`, Audit{On: true, File: "/var/log/kvfs/audit.log"}, nil},
		{`"audit": {"file": null, "allFiles": true}`, Audit{On: true, AllFiles: true}, nil},
		{`"audit": {"file": "audit.log"}`, nil, []string{`error: kvfs.audit.file: "audit.log" is not the absolute path of a file`}},
		{`"audit": {"file": "/var/log/"}`, nil, []string{`error: kvfs.audit.file: "/var/log/" is not the absolute path of a file`}},
		{`"audit": {"file": true}`, nil, []string{"error: kvfs.audit.file: true is not a string"}},
		{`"audit": {"allFiles": 1}`, nil, []string{"error: kvfs.audit.allFiles: 1 is not true or false"}},
		{`"audit": {"to": "/x"}`, nil, []string{`error: kvfs.audit: "to" is not a known field`}},
		{`"audit": "on"`, nil, []string{`error: kvfs.audit: "on" is not true or false`}},
	})
	cfg, _ := Parse("", []byte("{\"secretsManagementSettings\": {\"observedCertificates\": []},\n \"kvfs\": {\"audit\": true}}"))
	if cfg == nil || cfg.Audit.Line != 2 || cfg.Audit.Column != 20 {
		t.Errorf("it stands at line 2, column 20: %+v", cfg)
	}
}
