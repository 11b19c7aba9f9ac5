package config

import (
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
		{``, Alerts{[]time.Duration{30 * day, 14 * day, 7 * day, day}, 3}, nil},
		{`"alerts": {"expiryInDays": [7, 60, 7, null], "staleAfterPolls": 0}`, Alerts{[]time.Duration{60 * day, 7 * day}, 0}, nil},
		{`"alerts": {"expiryInDays": []}`, Alerts{[]time.Duration{}, 3}, nil},
		{`"alerts": []`, nil, []string{"error: kvfs.alerts: a list is not an object"}},
		{`"alerts": {"expiryInDays": 30}`, nil, []string{"error: kvfs.alerts.expiryInDays: 30 is not a list"}},
		{`"alerts": {"expiryInDays": [0]}`, nil, []string{"error: kvfs.alerts.expiryInDays[0]: 0 is not a whole number from 1 to 3650"}},
		{`"alerts": {"expiryInDays": ["30"]}`, nil, []string{`error: kvfs.alerts.expiryInDays[0]: "30" is not a whole number from 1 to 3650`}},
		{`"alerts": {"expiryInDays": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21]}`, nil, []string{"error: kvfs.alerts.expiryInDays: a list of 21 thresholds"}},
		{`"alerts": {"staleAfterPolls": 1001}`, nil, []string{"error: kvfs.alerts.staleAfterPolls: 1001 is not a whole number from 0 to 1000"}},
		{`"alerts": {"stale": 1}`, nil, []string{`error: kvfs.alerts: "stale" is not a known field`}},
	})
}
