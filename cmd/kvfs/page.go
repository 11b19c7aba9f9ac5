package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"kvfs/status"
	kvsync "kvfs/sync"
)

// page is what kvfs status shows to a person.
type page struct {
	strings.Builder
	colours bool
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// wrong shows a fact and, if there is one, a hint.
func (p *page) wrong(c colour, word, fact, hint string) {
	p.line("  %s: %s", p.paint(c, word), fact)
	if hint != "" {
		p.line("  hint: %s", hint)
	}
}

func (p *page) paint(c colour, text string) string { return c.paint(p.colours, text) }

// show writes a page at once: who reads it sees all of it, or is not there any more.
func (a *app) show(p *page) error {
	if _, err := io.WriteString(a.stdout, p.String()); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

func (a *app) printReport(r status.Report, now time.Time) error {
	if a.json {
		return a.printJSON(r)
	}
	return a.show(reportPage(r, now, coloured(a.stdout)))
}

func reportPage(r status.Report, now time.Time, colours bool) *page {
	p := &page{colours: colours}
	p.state(r, now)
	p.whole(r, now)
	if len(r.Certificates) > 0 {
		p.line("\n%s", summary(r, now))
	}
	p.certificates(r, now)
	p.vaults(r.Vaults, now)
	onAlert := func(h status.Hook) bool { return h.On == status.OnAlert }
	p.hooks("AFTER RENEWALS", slices.DeleteFunc(slices.Clone(r.Hooks), onAlert), now)
	p.hooks("ON ALERTS", slices.DeleteFunc(slices.Clone(r.Hooks), func(h status.Hook) bool { return !onAlert(h) }), now)
	if c := r.Cache; c.Evictions+c.Failures > 0 {
		p.line("\nold versions: %d in %s of %s of memory; %d %s for want of room, %d could not be fetched again",
			c.Versions, size(c.Bytes), size(c.Limit), c.Evictions, plural(int(c.Evictions), "has gone", "have gone"), c.Failures)
	}
	for _, c := range r.Certificates {
		p.trouble(c, now)
	}
	for _, l := range r.Leaving {
		p.line("\n%s\n  not in the settings any more; these names go %s:\n    %s", l.URL, until(&l.At, now), strings.Join(l.Links, "\n    "))
	}
	return p
}

func (p *page) state(r status.Report, now time.Time) {
	is := map[status.State]colour{status.Ready: good, status.Starting: uneasy, status.Degraded: bad}[r.State]
	p.line("kvfs is %s; up %s, process %d, at %s", p.paint(is, string(r.State)), span(now.Sub(r.Started)), r.Processes.Server, strings.Join(placesOf(r), ", "))
}

// whole tells what is not as it should be, but for certificates and vaults.
func (p *page) whole(r status.Report, now time.Time) {
	switch i := r.InitialSync; i.State {
	case status.SyncTransitioning:
		p.line("  initial sync: %s", initialProgress(i, now))
	case status.SyncFailed:
		p.wrong(bad, "error", fmt.Sprintf("the initial sync has failed: %d of %d certificates available after %d %s; polling goes on, next %s",
			i.Available, i.Total, i.Try, plural(i.Try, "try", "tries"), until(i.Next, now)), "")
	}
	if l := r.Loading; l != nil {
		p.line("  %s, for %s", loadingProgress(l.Done, l.Total, l.Failed), span(now.Sub(l.Since)))
	}
	if r.Processes.Keeper == 0 {
		p.wrong(uneasy, "warning", fmt.Sprintf("there is no keeper: when process %d dies, so do the mounts", r.Processes.Server), "restart kvfs when it suits you")
	}
	for _, e := range errorsOf(r) {
		p.wrong(bad, "error", e.Fact, e.Hint)
	}
	p.logs(r.Logs)
	if a := r.Audit; a != nil && a.Dropped+a.Overflow+a.Gone+a.Lost > 0 {
		p.line("  audit: %d opens since %s; %d not written for want of room, %d by processes of which the number alone is known, %d events not read, the kernel's queue was full %d %s",
			a.Opens, a.Since.Format(time.RFC3339), a.Dropped, a.Gone, a.Lost, a.Overflow, plural(int(a.Overflow), "time", "times"))
	}
}

// logs says what is wrong with the ways of the log, if anything is.
func (p *page) logs(l *status.Logs) {
	if l == nil {
		return
	}
	if f := l.File; f != nil && f.Error != nil {
		p.wrong(uneasy, "warning", fmt.Sprintf("log: %s; %d %s lost", f.Error.Fact, f.Lost, plural(int(f.Lost), "line is", "lines are")), f.Error.Hint)
	}
	if c := l.Collector; c != nil && c.Error != nil {
		p.wrong(uneasy, "warning", fmt.Sprintf("log: %s; %d sent, %d waiting, %d dropped", c.Error.Fact, c.Sent, c.Waiting, c.Dropped), c.Error.Hint)
	} else if c != nil && c.Dropped > 0 {
		p.wrong(uneasy, "warning", fmt.Sprintf("log: %d records were dropped before the collector at %s took them; %d sent", c.Dropped, c.Endpoint, c.Sent), "")
	}
}

// errorsOf are those of the whole, its directories, the place of its metrics and its audit.
func errorsOf(r status.Report) (all []*status.Error) {
	add := func(e *status.Error) {
		if e != nil {
			all = append(all, e)
		}
	}
	add(r.Error)
	for _, dir := range r.Directories {
		add(dir.Error)
	}
	if r.Metrics != nil {
		add(r.Metrics.Error)
	}
	if r.Audit != nil {
		add(r.Audit.Error)
	}
	return all
}

func (p *page) certificates(r status.Report, now time.Time) {
	rows := [][]cell{header("CERTIFICATE", "STATE", "VERSION", "EXPIRES", "LAST SUCCESS", "NEXT POLL")}
	for _, c := range r.Certificates {
		rows = append(rows, []cell{{text: c.URL}, {c.State, colourOf(c.State)}, {text: dash(c.Version)}, {expiry(c.NotAfter, now), colourOfEnd(c.NotAfter, now)},
			{text: ago(c.LastSuccess, now)}, {text: until(c.NextPoll, now)}})
	}
	p.line("")
	writeTable(&p.Builder, p.colours, rows)
}

func header(names ...string) (row []cell) {
	for _, name := range names {
		row = append(row, cell{name, strong})
	}
	return row
}

func colourOf(state string) colour {
	switch kvsync.State(state) {
	case kvsync.OK:
		return good
	case kvsync.Missing:
		return bad
	}
	return uneasy
}

// Ends that are shown in colour: most issuers renew 30 days before.
const (
	soonEnds   = 30 * 24 * time.Hour
	nearlyEnds = 7 * 24 * time.Hour
)

func colourOfEnd(at *time.Time, now time.Time) colour {
	switch {
	case at == nil:
		return plain
	case at.Sub(now) < nearlyEnds:
		return bad
	case at.Sub(now) < soonEnds:
		return uneasy
	}
	return plain
}

// vaults says what each vault was asked, and which ones do not answer.
func (p *page) vaults(vaults []status.Vault, now time.Time) {
	rows := [][]cell{header("VAULT", "REQUESTS", "THROTTLED", "FAILED", "LISTING")}
	for _, v := range vaults {
		throttled := cell{text: fmt.Sprint(v.Throttled)}
		if v.Throttled > 0 {
			throttled.colour = uneasy
		}
		rows = append(rows, []cell{{text: v.Host}, {text: fmt.Sprint(v.Transactions)}, throttled, {text: fmt.Sprint(v.Failed)}, {text: v.Listing}})
	}
	p.line("")
	writeTable(&p.Builder, p.colours, rows)
	for _, v := range vaults {
		if v.DownSince != nil && v.Error != nil {
			p.line("\n%s\n  asked in vain for %s; the next try is %s", v.Host, span(now.Sub(*v.DownSince)), until(v.NextTry, now))
			p.wrong(bad, "error", v.Error.Fact, v.Error.Hint)
		}
	}
}

// hooks says what has become of what is done after renewals, or on alerts, if anything is.
func (p *page) hooks(when string, hooks []status.Hook, now time.Time) {
	if len(hooks) == 0 {
		return
	}
	rows := [][]cell{header(when, "STATE", "PENDING", "LAST RUN", "LAST SUCCESS", "FAILURES", "NEXT TRY")}
	for _, h := range hooks {
		state := cell{text: h.State}
		if h.Error != nil {
			state.colour = bad
		}
		rows = append(rows, []cell{{text: inColumn(h.Action)}, state, {text: fmt.Sprint(len(h.Pending))}, {text: ago(h.LastRun, now)},
			{text: ago(h.LastSuccess, now)}, {text: fmt.Sprint(h.Failures)}, {text: until(h.NextTry, now)}})
	}
	p.line("")
	writeTable(&p.Builder, p.colours, rows)
	for _, h := range hooks {
		switch {
		case h.Error != nil:
			p.line("\n%s", h.Action)
			p.wrong(bad, "error", h.Error.Fact, h.Error.Hint)
		case h.Note != "":
			p.line("\n%s\n  %s", h.Action, h.Note)
		}
	}
}

// inColumn is text that may be long, as commands are, for a column of a table.
func inColumn(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

// trouble says what is wrong with a certificate, and since when.
func (p *page) trouble(c status.Certificate, now time.Time) {
	if c.Error == nil && len(c.Warnings) == 0 || c.RemovedAt != nil {
		return
	}
	p.line("\n%s", c.URL)
	if c.Error != nil {
		served := "nothing is served"
		if c.Version != "" {
			served = fmt.Sprintf("version %s is served as of %s", c.Version, ago(c.LastSuccess, now))
		}
		p.wrong(bad, "error", c.Error.Fact, c.Error.Hint)
		p.line("  %s; %d %s since the last success", served, c.Failures, plural(c.Failures, "try", "tries"))
	}
	for _, w := range c.Warnings {
		p.line("  %s: %s", p.paint(uneasy, "warning"), w)
	}
}

// redraw shows a report in place of the one before, as much of it as there is room for.
func (a *app) redraw(at *os.File, r status.Report, now time.Time) error {
	p := reportPage(r, now, coloured(a.stdout))
	lines := strings.SplitAfter(strings.TrimSuffix(p.String(), "\n"), "\n")
	if _, height, err := term.GetSize(int(at.Fd())); err == nil && height > 1 && len(lines) > height {
		more := len(lines) - height + 1
		lines = append(lines[:height-1:height-1], fmt.Sprintf("... %s more lines", grouped(more)))
	}
	const home, toEndOfLine, toEndOfScreen = "\x1b[?7l\x1b[H", "\x1b[K", "\x1b[J\x1b[?7h" // a line too long is cut
	text := strings.ReplaceAll(strings.Join(lines, ""), "\n", toEndOfLine+"\n")
	if _, err := io.WriteString(at, home+text+toEndOfLine+toEndOfScreen); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// printHealth shows what kvfs status --check has found: a line first, as monitoring wants it.
func (a *app) printHealth(r status.Report, found []finding, now time.Time) error {
	if a.json {
		if found == nil {
			found = []finding{}
		}
		return a.printJSON(map[string]any{"ok": len(found) == 0, "state": r.State, "summary": summary(r, now), "problems": found})
	}
	p := &page{colours: coloured(a.stdout)}
	if len(found) == 0 {
		p.line("%s: %s", p.paint(good, "ok"), summary(r, now))
		return a.show(p)
	}
	p.line("%s: %s; %s", p.paint(bad, fmt.Sprintf("%s %s", grouped(len(found)), plural(len(found), "problem", "problems"))), found[0], summary(r, now))
	for _, f := range found {
		p.line("  %s", f)
		if f.Hint != "" {
			p.line("    hint: %s", f.Hint)
		}
	}
	return a.show(p)
}

// String is the fact, with what it is about.
func (f finding) String() string {
	if f.Certificate == "" {
		return f.Fact
	}
	return f.Certificate + ": " + f.Fact
}

// colour of a word at a terminal, by what it says about things: not the only sign of it,
// since not everybody sees colours and no pipe gets any.
type colour string

const (
	plain  colour = ""
	strong colour = "1"
	good   colour = "32"
	uneasy colour = "33"
	bad    colour = "31;1"
)

// paint colours a text for who sees colours.
func (c colour) paint(on bool, text string) string {
	if !on || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// coloured tells whether what is written to w is shown in colours: at a terminal that knows
// them, unless somebody wants none (no-color.org).
func coloured(w io.Writer) bool {
	return terminal(w) != nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// terminal is the terminal that w is, nil if it is none.
func terminal(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// cell of a table.
type cell struct {
	text   string
	colour colour
}

// writeTable writes rows with their columns aligned, two spaces apart. Colours take no room.
func writeTable(b *strings.Builder, colours bool, rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		for i, c := range row {
			b.WriteString(c.colour.paint(colours, c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
}
