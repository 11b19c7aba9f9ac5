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
	// OnAlert are told of each.
	OnAlert []AlertAction
}

// AlertAction is a command that is told of alerts (kvfs.alerts.onAlert). Of the Action there may be Command, User, Timeout, and
// Name, which is what people call it.
type AlertAction struct {
	Action
	// Line and Column tell where it stands.
	Line, Column int
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
	if n := f.get("onAlert"); n != nil {
		a.OnAlert = f.onAlert(n, f.join("onAlert"))
	}
}

const onAlertHint = `write [{"command": ["/usr/local/sbin/alert"]}]`

// onAlert reads who is told of alerts.
func (o *object) onAlert(n *node, path string) (all []AlertAction) {
	items, ok := o.list(n, path, onAlertHint)
	if !ok {
		return nil
	}
	if len(items) > maxActions {
		o.fault(n.at(), fmt.Sprintf("%s: a list of %d commands", path, len(items)), fmt.Sprintf("write at most %d", maxActions))
		return nil
	}
	for i, item := range items {
		if item.kind == kindNull || o.report.enough() {
			continue
		}
		a := AlertAction{Action: o.alertAction(item, at(path, i))}
		a.Line, a.Column = o.report.position(item.at())
		all = append(all, a)
	}
	return all
}

// alertAction reads one of them. Units and servers cannot be told of anything, so what else an action of onChange may be is named.
func (r reader) alertAction(n *node, path string) (a Action) {
	if !r.isObject(n, path, `write {"command": ["/usr/local/sbin/alert"]}`) {
		return a
	}
	all, here := fieldsOf[actionFields](r.report), fieldsOf[alertActionFields](r.report)
	o := r.object(n, path, all)
	defer func() {
		o.known = here
		o.doneStrictly()
	}()
	for _, name := range all.names {
		if o.get(name) != nil && !slices.Contains(here.names, name) {
			o.fault(o.keyAt(name), o.join(name)+" is for onChange alone", `an alert runs a command: write {"command": ["/usr/local/sbin/alert"]}`)
		}
	}
	if o.get("command") == nil {
		o.fault(n.at(), path+" has no command", `write {"command": ["/usr/local/sbin/alert"]}`)
	}
	a.Command = o.argv("command")
	if o.get("user") != nil {
		a.User = (&settings{reader: r}).principal(o, "user")
	}
	if n := o.get("name"); n != nil {
		a.Name = o.called(n, o.join("name"))
	}
	a.Timeout = o.bounded("timeoutInS", 1, maxTimeoutS)
	return a
}

// called takes what people call something.
func (o *object) called(n *node, path string) string {
	name, ok := o.text(n, path)
	if ok && (strings.ContainsFunc(name, unicode.IsControl) || len(name) > maxName) {
		o.mismatch(n, path, "a name", "write a few words in one line")
		return ""
	}
	return name
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
