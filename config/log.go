package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Log says what is logged, in which form, and to which file (kvfs.log). Where the log is sent is Logging.
type Log struct {
	Level  string // debug, info, warn or error; "" for what the command line says
	Format string // auto, text or json; "" likewise
	// File is the absolute path of a log file, "" for none.
	File string
	// FileSizeInMiB bounds each of at most Files files.
	FileSizeInMiB, Files int
}

// DefaultLogFile is in the place where the extension has its logs.
const DefaultLogFile = "/var/log/azure/Microsoft.Azure.KeyVault.KeyVaultForLinux/kvfs.log"

const (
	defaultLogFileSize = 10
	maxLogFileSize     = 1024
	defaultLogFiles    = 5
	maxLogFiles        = 100
)

// Alerts say what is warned of (kvfs.alerts).
type Alerts struct {
	// Expiry are how long before the end of a certificate, the longest first. The end itself always is.
	Expiry []time.Duration
	// StaleAfter is after how many polling intervals without anything read; 0: never.
	StaleAfter int
}

func defaultAlerts() Alerts {
	const day = 24 * time.Hour
	return Alerts{Expiry: []time.Duration{30 * day, 14 * day, 7 * day, day}, StaleAfter: 3}
}

const (
	maxThresholds = 20
	maxThreshold  = 3650 // days
	maxStaleAfter = 1000
)

// log reads kvfs.log.
func (o *object) log(l *Log) {
	const name = "log"
	n := o.get(name)
	if n == nil || !o.isObject(n, o.join(name), `write {"level": "info", "file": true}`) {
		return
	}
	f := o.object(n, o.join(name), fieldsOf[logFields](o.report))
	defer f.doneStrictly()
	if w, ok := oneWordOf[logLevel](f, "level", "level"); ok {
		l.Level = w
	}
	if w, ok := oneWordOf[logFormat](f, "format", "format"); ok {
		l.Format = w
	}
	if n := f.get("file"); n != nil {
		l.File = f.logFile(n, f.join("file"))
	}
	if n := f.get("fileSizeInMiB"); n != nil {
		if v, ok := f.number(n, f.join("fileSizeInMiB"), 1, maxLogFileSize); ok {
			l.FileSizeInMiB = v
		}
	}
	if n := f.get("files"); n != nil {
		if v, ok := f.number(n, f.join("files"), 1, maxLogFiles); ok {
			l.Files = v
		}
	}
}

// logFile takes a path, true for the extension's place, or false.
func (o *object) logFile(n *node, path string) string {
	if n.kind == kindBool {
		if n.text == "true" {
			return DefaultLogFile
		}
		return ""
	}
	if s := n.text; n.kind == kindString && strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/") && !strings.ContainsFunc(s, unicode.IsControl) && len(s) <= maxPath {
		return s
	}
	o.mismatch(n, path, "true, false or the absolute path of a file", "write true for "+DefaultLogFile+", or the whole path")
	return ""
}

// alerts reads kvfs.alerts.
func (o *object) alerts(a *Alerts) {
	const name = "alerts"
	n := o.get(name)
	if n == nil || !o.isObject(n, o.join(name), `write {"expiryInDays": [30, 7, 1], "staleAfterPolls": 3}`) {
		return
	}
	f := o.object(n, o.join(name), fieldsOf[alertFields](o.report))
	defer f.doneStrictly()
	if n := f.get("expiryInDays"); n != nil {
		f.thresholds(n, f.join("expiryInDays"), a)
	}
	if n := f.get("staleAfterPolls"); n != nil {
		if v, ok := f.number(n, f.join("staleAfterPolls"), 0, maxStaleAfter); ok {
			a.StaleAfter = v
		}
	}
}

func (o *object) thresholds(n *node, path string, a *Alerts) {
	items, ok := o.list(n, path, "write [30, 14, 7, 1], or [] for none")
	if !ok {
		return
	}
	if len(items) > maxThresholds {
		o.fault(n.at(), fmt.Sprintf("%s: a list of %d thresholds", path, len(items)), fmt.Sprintf("write at most %d", maxThresholds))
		return
	}
	a.Expiry = []time.Duration{}
	for i, item := range items {
		if item.kind == kindNull {
			continue
		}
		if days, ok := o.number(item, at(path, i), 1, maxThreshold); ok {
			a.Expiry = append(a.Expiry, time.Duration(days)*24*time.Hour)
		}
	}
	slices.Sort(a.Expiry)
	a.Expiry = slices.Compact(a.Expiry)
	slices.Reverse(a.Expiry)
}
