package config

import (
	"strings"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	const day = 24 * time.Hour
	log := func(l Log) Log {
		if l.FileSizeInMiB == 0 {
			l.FileSizeInMiB = 10
		}
		if l.Files == 0 {
			l.Files = 5
		}
		return l
	}
	testFields(t, inOwn, func(c *Config) any { return c.Log }, []fieldTest{
		{``, log(Log{}), nil},
		{`"log": null`, log(Log{}), nil},
		{`"log": {}`, log(Log{}), nil},
		{`"log": {"level": "debug", "format": "json"}`, log(Log{Level: "debug", Format: "json"}), nil},
		{`"log": {"file": true}`, log(Log{File: DefaultLogFile}), nil},
		{`"log": {"file": false}`, log(Log{}), nil},
		{`"log": {"file": "/var/log/kvfs/kvfs.log", "fileSizeInMiB": 1, "files": 2}`, Log{"", "", "/var/log/kvfs/kvfs.log", 1, 2}, nil},
		{`"log": "debug"`, nil, []string{`error: kvfs.log: "debug" is not an object`}},
		{`"log": {"level": "trace"}`, nil, []string{`error: kvfs.log.level: "trace" is not a known level`}},
		{`"log": {"level": 1}`, nil, []string{`error: kvfs.log.level: 1 is not a known level`}},
		{`"log": {"format": "xml"}`, nil, []string{`error: kvfs.log.format: "xml" is not a known format`}},
		{`"log": {"file": "kvfs.log"}`, nil, []string{`error: kvfs.log.file: "kvfs.log" is not true, false or the absolute path of a file`}},
		{`"log": {"file": "/var/log/"}`, nil, []string{`error: kvfs.log.file: "/var/log/" is not true, false or the absolute path of a file`}},
		{`"log": {"file": 1}`, nil, []string{`error: kvfs.log.file: 1 is not true, false or the absolute path of a file`}},
		{`"log": {"fileSizeInMiB": 0}`, nil, []string{"error: kvfs.log.fileSizeInMiB: 0 is not a whole number from 1 to 1024"}},
		{`"log": {"files": 101}`, nil, []string{"error: kvfs.log.files: 101 is not a whole number from 1 to 100"}},
		{`"log": {"path": "/l"}`, nil, []string{`error: kvfs.log: "path" is not a known field`}},
	})
	testFields(t, inOwn, func(c *Config) any { return c.Alerts }, []fieldTest{
		{``, Alerts{[]time.Duration{30 * day, 14 * day, 7 * day, day}, 3, nil}, nil},
		{`"alerts": {"expiryInDays": [7, 60, 7, null], "staleAfterPolls": 0}`, Alerts{[]time.Duration{60 * day, 7 * day}, 0, nil}, nil},
		{`"alerts": {"expiryInDays": []}`, Alerts{[]time.Duration{}, 3, nil}, nil},
		{`"alerts": []`, nil, []string{"error: kvfs.alerts: a list is not an object"}},
		{`"alerts": {"expiryInDays": 30}`, nil, []string{"error: kvfs.alerts.expiryInDays: 30 is not a list"}},
		{`"alerts": {"expiryInDays": [0]}`, nil, []string{"error: kvfs.alerts.expiryInDays[0]: 0 is not a whole number from 1 to 3650"}},
		{`"alerts": {"expiryInDays": ["30"]}`, nil, []string{`error: kvfs.alerts.expiryInDays[0]: "30" is not a whole number from 1 to 3650`}},
		{`"alerts": {"expiryInDays": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21]}`, nil, []string{"error: kvfs.alerts.expiryInDays: a list of 21 thresholds"}},
		{`"alerts": {"staleAfterPolls": 1001}`, nil, []string{"error: kvfs.alerts.staleAfterPolls: 1001 is not a whole number from 0 to 1000"}},
		{`"alerts": {"onAlert": null}`, Alerts{[]time.Duration{30 * day, 14 * day, 7 * day, day}, 3, nil}, nil},
		{`"alerts": {"stale": 1}`, nil, []string{`error: kvfs.alerts: "stale" is not a known field`}},
	})
}

func TestOnAlert(t *testing.T) {
	const path = "kvfs.alerts.onAlert"
	bad := func(what ...string) (all []string) {
		for _, w := range what {
			all = append(all, "error: "+path+w)
		}
		return all
	}
	actions := func(c *Config) any {
		var all []Action
		for _, a := range c.Alerts.OnAlert {
			if a.Line != 1 || a.Column < 10 {
				t.Errorf("it stands at %d:%d", a.Line, a.Column)
			}
			all = append(all, a.Action)
		}
		return all
	}
	var tests []fieldTest
	for _, tt := range []fieldTest{
		{`[]`, []Action(nil), nil},
		{`[null, {"command": ["/bin/x", "", "a b"]}]`, []Action{{Command: []string{"/bin/x", "", "a b"}}}, nil},
		{`[{"command": ["/x"], "user": 33, "name": "the chat", "timeoutInS": "5"}, {"command": ["/y"], "window": null, "name": ""}]`,
			[]Action{{Command: []string{"/x"}, User: "33", Name: "the chat", Timeout: 5 * time.Second}, {Command: []string{"/y"}}}, nil},
		{`{"command": ["/x"]}`, nil, bad(`: an object is not a list`)},
		{`["/x"]`, nil, bad(`[0]: "/x" is not an object`)},
		{`[{}]`, nil, bad(`[0] has no command`)},
		{`[{"reload": "nginx"}]`, nil, bad(`[0] has no command`, `[0].reload is for onChange alone`)},
		{`[{"command": ["/x"], "window": "02:00-03:00"}]`, nil, bad(`[0].window is for onChange alone`)},
		{`[{"command": ["/x"], "check": ["/y"], "splayInS": 5}]`, nil, bad(`[0].check is for onChange alone`, `[0].splayInS is for onChange alone`)},
		{`[{"command": ["x"]}]`, nil, bad(`[0].command[0]: "x" is not an absolute path`)},
		{`[{"command": []}]`, nil, bad(`[0].command is empty`)},
		{`[{"command": ["/x"], "timeoutInS": 0}]`, nil, bad(`[0].timeoutInS: 0 is not a number of whole seconds`)},
		{`[{"command": ["/x"], "name": "a\u0009b"}]`, nil, bad(`[0].name: "a\u0009b" is not a name`)},
		{`[{"command": ["/x"], "name": 5}]`, nil, bad(`[0].name: 5 is not a string`)},
		{`[{"command": ["/x"], "when": "always"}]`, nil, bad(`[0]: "when" is not a known field`)},
		{`[` + strings.Repeat(`{"command": ["/x"]},`, maxActions) + `{"command": ["/x"]}]`, nil, bad(`: a list of 33 commands`)},
	} {
		tests = append(tests, fieldTest{`"alerts": {"onAlert": ` + tt.field + `}`, tt.want, tt.said})
	}
	testFields(t, inOwn, actions, tests)
}
