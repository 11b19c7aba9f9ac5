package main

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/config"
	"kvfs/status"
	kvsync "kvfs/sync"
)

// All printing for people is in this file, and for kvfs status in page.go: facts to stderr as "kvfs: error:" and
// "kvfs: hint:", results to stdout. With --json both are data.

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

func (a *app) notef(format string, args ...any) { fmt.Fprintf(a.stderr, "kvfs: "+format+"\n", args...) }

// printHint says what to do, if there is something to do.
func (a *app) printHint(hint string) {
	if hint != "" {
		a.notef("hint: %s", hint)
	}
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// printFailure tells why the command failed, unless it has told already.
func (a *app) printFailure(f *failure) {
	if f.said {
		return
	}
	if a.serves {
		a.say(func() { a.printFact(f) }, slog.LevelError, f.fact, "kind", f.kind, "hint", f.hint)
		return
	}
	if a.json {
		data := map[string]any{"error": map[string]string{"kind": f.kind, "message": f.fact, "hint": f.hint}}
		if f.problems != nil {
			data["problems"] = f.problems
		}
		_ = a.printJSON(data)
		return
	}
	a.printFact(f)
}

func (a *app) printFact(f *failure) {
	a.notef("error: %s", f.fact)
	a.printHint(f.hint)
}

// position of a problem, in the form that editors and terminals can follow.
func position(name string, p config.Problem) string {
	if p.Line == 0 {
		return name
	}
	return fmt.Sprintf("%s:%d:%d", name, p.Line, p.Column)
}

func (a *app) printProblems(name string, problems config.Problems) {
	for _, p := range problems {
		a.printProblem(name, p)
	}
}

func (a *app) printProblem(name string, p config.Problem) {
	a.notef("%s: %s: %s", p.Severity, position(name, p), p.Fact)
	a.printHint(p.Hint)
}

// sayProblems is printProblems for a process that logs.
func (a *app) sayProblems(name string, problems config.Problems) {
	for _, p := range problems {
		a.say(func() { a.printProblem(name, p) }, levelOf(p), "settings", "at", position(name, p), "fact", p.Fact, "hint", p.Hint)
	}
}

// printReloaded shows what was found in settings that were read again.
func (a *app) printReloaded(r status.Reloaded) {
	refused := false
	for _, p := range r.Problems {
		a.notef("%s: %s:%d:%d: %s", p.Severity, r.File, p.Line, p.Column, p.Fact)
		a.printHint(p.Hint)
		refused = refused || p.Severity == "error"
	}
	if refused {
		a.notef("the previous settings stay in force")
	}
	if r.Error != nil {
		return
	}
	a.printf("%s applied: %d added, %d changed, %d removed\n", r.File, len(r.Added), len(r.Changed), len(r.Removed))
	for _, change := range []struct {
		sign string
		urls []string
	}{{"+", r.Added}, {"~", r.Changed}, {"-", r.Removed}} {
		for _, url := range change.urls {
			a.printf("  %s %s\n", change.sign, url)
		}
	}
}

// sayServing tells what a mount that is ready serves.
func (a *app) sayServing(cfg *config.Config, r kvsync.Report) {
	good := 0
	for _, c := range r.Certificates {
		if c.Version != "" {
			good++
		}
	}
	stores := strings.Join(storesOf(cfg.Certificates), ", ")
	words := func() {
		a.notef("serving %d of %d certificates at %s, polling every %s", good, len(r.Certificates), stores, cfg.PollingInterval)
		for _, c := range r.Certificates { // which the log has had already
			if c.Err != nil {
				f := kvsync.Explain(c.Err)
				a.notef("warning: %s: %s", c.Source.Ref, f.Fact)
				a.printHint(f.Hint)
			}
		}
	}
	a.say(words, slog.LevelInfo, "serving", "good", good, "certificates", len(r.Certificates), "at", stores, "interval", cfg.PollingInterval)
}

// printReaders shows who has read which version, and who has to load a key again.
func (a *app) printReaders(r status.Readers, now time.Time) error {
	if a.json {
		return a.printJSON(r)
	}
	for i, c := range r.Certificates {
		if i > 0 {
			a.printf("\n")
		}
		a.printf("%s\n  version %s is served\n", c.URL, dash(c.Version))
		if len(c.Readers) == 0 {
			a.printf("  no process that runs has read its key since %s\n", r.Since.Format(time.RFC3339))
			continue
		}
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "  READ\tPROCESS\tUSER\tPROGRAM\tUNIT\tLAST VERSION\tLAST OPEN")
		for _, p := range c.Readers {
			read := "older"
			if p.Current {
				read = "current"
			}
			if len(p.Open) > 0 {
				read += ", open"
			}
			fmt.Fprintf(w, "  %s\t%d\t%d\t%s\t%s\t%s\t%s\n", read, p.PID, p.UID, certs.Printable(cmp.Or(p.Executable, p.Command)),
				certs.Printable(dash(cmp.Or(p.Unit, p.Container))), dash(p.Versions[len(p.Versions)-1]), ago(&p.At, now))
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	return nil
}

// placesOf are the stores, mounted or not.
func placesOf(r status.Report) []string {
	places := slices.Clone(r.Mounts)
	for _, dir := range r.Directories {
		if dir.Files == filesInstead {
			places = append(places, dir.Path+" (files)")
		}
	}
	return places
}

// initialProgress of one that goes on.
func initialProgress(i status.InitialSync, now time.Time) string {
	return fmt.Sprintf("%d of %d certificates available; try %d of %d, next %s", i.Available, i.Total, i.Try, i.Of, until(i.Next, now))
}

func loadingProgress(done, total, failed int) string {
	said := fmt.Sprintf("loading %s of %s %s", grouped(done), grouped(total), plural(total, "certificate", "certificates"))
	if failed > 0 {
		said += fmt.Sprintf(", %s failed", grouped(failed))
	}
	return said
}

// grouped is a number as people write it: 1,000.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// printReady shows what there was to wait for.
func (a *app) printReady(r status.Report, now time.Time) error {
	if a.json {
		return a.printJSON(r)
	}
	p := &page{colours: coloured(a.stdout)}
	p.state(r, now)
	return a.show(p)
}

// size in units that people read.
func size(bytes int64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

// fingerprint of what a person would see change in a report.
func fingerprint(r status.Report) string {
	var b strings.Builder
	fmt.Fprintln(&b, r.State, r.Mounts, r.Error, r.Leaving, r.InitialSync.State, r.InitialSync.Available, r.InitialSync.Try)
	for _, dir := range r.Directories {
		fmt.Fprintln(&b, dir.Path, dir.Error)
	}
	for _, c := range r.Certificates {
		fmt.Fprintln(&b, c.URL, c.State, c.Version, c.Error)
	}
	for _, h := range r.Hooks {
		fmt.Fprintln(&b, h.Action, h.State, h.Runs, h.Failures)
	}
	return b.String()
}

// printRefreshed shows what a refresh did; reloaded is nil if the settings were not
// read again.
func (a *app) printRefreshed(done []status.Refreshed, reloaded *status.Reloaded) error {
	if a.json {
		if done == nil {
			done = []status.Refreshed{}
		}
		data := map[string]any{"certificates": done}
		if reloaded != nil {
			data["settings"] = reloaded
		}
		return a.printJSON(data)
	}
	for _, r := range done {
		switch {
		case r.Error != nil:
			a.notef("error: %s: %s", r.URL, r.Error.Fact)
			a.printHint(r.Error.Hint)
		case r.Old == r.New:
			a.printf("%s: still %s\n", r.URL, r.New)
		default:
			a.printf("%s: %s -> %s\n", r.URL, dash(r.Old), r.New)
		}
	}
	return nil
}

func (a *app) printChecked(name string, r checked, cfg *config.Config) error {
	if a.json {
		return a.printJSON(r)
	}
	a.printProblems(name, r.Problems)
	if cfg == nil {
		return nil
	}
	kept := strconv.Itoa(cfg.KeepVersions)
	if cfg.KeepVersions == config.AllVersions {
		kept = "all"
	}
	a.printf("%d %s, polled every %s, %s versions kept\n", len(r.Certificates), plural(len(r.Certificates), "certificate", "certificates"), cfg.PollingInterval, kept)
	if len(r.OnAlert) > 0 {
		a.printf("told of alerts: %s\n", strings.Join(r.OnAlert, "; "))
	}
	for _, c := range r.Certificates {
		a.printf("\n%s\n  as    %s\n  asked by the %s\n", c.URL, strings.Join(c.Links, "\n        "), c.Identity)
		a.printf("  read by root%s\n", readers(c.ACLs))
		if len(c.OnChange) > 0 {
			a.printf("  after a renewal: %s\n", strings.Join(c.OnChange, "; "))
		}
		a.printOnline(c.Online)
	}
	return nil
}

func (a *app) printOnline(o *checkedOnline) {
	switch {
	case o == nil:
	case o.Error != nil:
		a.printf("  error: %s\n  hint: %s\n", o.Error.Fact, o.Error.Hint)
	default:
		a.printf("  is    version %s, %s, until %s\n", o.Version, o.Subject, o.NotAfter.Format(time.RFC3339))
		for _, w := range o.Warnings {
			a.printf("  warning: %s\n", w)
		}
	}
}

// printSchema prints the JSON Schema of settings.
func (a *app) printSchema() error {
	schema, err := config.Schema()
	if err != nil {
		return fmt.Errorf("making the schema: %w", err)
	}
	if _, err := a.stdout.Write(schema); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

func readers(list []checkedACL) string {
	var b strings.Builder
	for _, g := range list {
		if g.User != "" {
			b.WriteString(", user " + g.User)
		}
		if g.Group != "" {
			b.WriteString(", group " + g.Group)
		}
	}
	return b.String()
}

func (a *app) printInspection(i certs.Inspection) error {
	if a.json {
		return a.printJSON(i)
	}
	a.printf("key    %s, public key sha256 %s\n", i.Key.Type, i.Key.SPKISha256)
	for depth, c := range i.Chain {
		a.printf("%s%s\n", strings.Repeat("  ", depth), role(depth, c))
		indent := strings.Repeat("  ", depth+1)
		if len(c.DNSNames) > 0 {
			a.printf("%sfor %s\n", indent, printable(c.DNSNames))
		}
		a.printf("%svalid %s to %s\n%ssha256 %s\n", indent, c.NotBefore, c.NotAfter, indent, c.Sha256)
	}
	for _, c := range i.Extra {
		a.printf("extra  %s\n  sha256 %s\n", certs.Printable(c.Subject), c.Sha256)
	}
	for _, w := range i.Warnings {
		a.printf("warning: %s\n", w)
	}
	return nil
}

func role(depth int, c certs.CertInfo) string {
	subject := certs.Printable(c.Subject)
	switch {
	case depth == 0:
		return "leaf   " + subject
	case c.Subject == c.Issuer:
		return "root   " + subject
	}
	return "issuer " + subject
}

// printable are names from a certificate, which may hold anything.
func printable(names []string) string {
	safe := make([]string, len(names))
	for i, n := range names {
		safe[i] = certs.Printable(n)
	}
	return strings.Join(safe, ", ")
}

func (a *app) printVersion(kvfs, goVersion, platform string) error {
	if a.json {
		return a.printJSON(map[string]string{"kvfs": kvfs, "go": goVersion, "platform": platform})
	}
	a.printf("kvfs %s (%s, %s)\n", kvfs, goVersion, platform)
	return nil
}

// printStore lists a store as ls -l would, with who may read.
func (a *app) printStore(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("listing the store: %w", err)
	}
	a.printf("%s\n", path)
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		if e.Type() == os.ModeSymlink {
			target, err := os.Readlink(file)
			if err != nil {
				return fmt.Errorf("listing the store: %w", err)
			}
			a.printf("  lrwxrwxrwx   %s -> %s\n", strong.paint(coloured(a.stdout), e.Name()), target)
			continue
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("listing the store: %w", err)
		}
		list, sign := readersOf(file, info)
		a.printf("  %s%s  %s  (%s)\n", info.Mode(), sign, e.Name(), list)
	}
	return nil
}

// readersOf a file are those whom its mode and its access list admit; sign is what
// ls -l puts behind a mode with a list.
func readersOf(file string, info os.FileInfo) (who, sign string) {
	if info.Mode().Perm()&0o004 != 0 {
		return "read by everybody", " "
	}
	owner := "you"
	if os.Geteuid() == 0 {
		owner = "root"
	}
	admitted, sign := []string{owner}, " "
	value := make([]byte, 4096)
	if n, err := unix.Lgetxattr(file, acl.XAttrName, value); err == nil {
		sign = "+"
		list, err := acl.ParseXAttr(value[:n])
		if err != nil {
			return "read by others too", sign
		}
		for _, uid := range list.Users() {
			admitted = append(admitted, userName(uid))
		}
		for _, gid := range list.Groups() {
			admitted = append(admitted, "group "+groupName(gid))
		}
	}
	return "read by " + strings.Join(admitted, ", "), sign
}

// printDemo is the first page of a demo.
func (a *app) printDemo(o origin, vaults []string, server int) error {
	a.printf("an embedded Key Vault answers as %s\n", strings.Join(vaults, ", "))
	a.printf("mounted as by: kvfs mount %s --store %s\n\n", o.file, o.store)
	if err := a.printStore(o.store); err != nil {
		return err
	}
	a.printf("\nkill the process that serves, and see nothing happen:\n  kill -9 %d\n", server)
	return nil
}

// printRenewal shows one renewal.
func (a *app) printRenewal(r renewal) {
	a.printf("\n%s  %s\n  old     %s\n  new     %s\n", r.seen.Format(time.TimeOnly), strong.paint(coloured(a.stdout), r.link+" renewed"), r.old, r.new)
	a.printf("  inotify said so %s after the vault had it; the poll comes every second\n", r.seen.Sub(r.at).Round(time.Millisecond))
}

func (a *app) printWeb(w *web, err error) {
	if err != nil {
		a.printf("\nno page: %v\n", err)
		return
	}
	a.printf("\n%s serves a page with %s:\n  curl --cacert %s --resolve %s:%s:127.0.0.1 https://%s:%s/\n", w.server.name, w.link, w.caFile, w.host, w.port, w.host, w.port)
}

func (a *app) printReload(w *web, leaf *x509.Certificate, err error, took time.Duration) {
	if err != nil {
		a.printf("  %s   %v\n", w.server.name, err)
		return
	}
	a.printf("  %s   serves the certificate with serial %x, %s after its reload began\n", w.server.name, leaf.SerialNumber, took.Round(time.Millisecond))
}

func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return fmt.Sprint(uid)
}

func groupName(gid uint32) string {
	if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
		return g.Name
	}
	return fmt.Sprint(gid)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func expiry(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	days := int(math.Floor(t.Sub(now).Hours() / 24))
	if days < 0 {
		return "EXPIRED " + t.Format(time.DateOnly)
	}
	return fmt.Sprintf("in %d %s", days, plural(days, "day", "days"))
}

func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	return span(now.Sub(*t)) + " ago"
}

func until(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.Before(now):
		return "now"
	}
	return "in " + span(t.Sub(now))
}

// span is a duration in its two greatest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	days := d / (24 * time.Hour)
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, (d%(24*time.Hour))/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, (d%time.Hour)/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, (d%time.Minute)/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
