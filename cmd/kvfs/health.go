package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"kvfs/status"
	kvsync "kvfs/sync"
)

// limits are what kvfs status --check goes by.
type limits struct {
	expires days // less than this until the end is a problem
	stale   days // no success for longer than this is one
}

// How long before its end a certificate has been renewed by nobody, and for how long a vault
// may be away before somebody is woken.
const (
	defaultExpires = days(7 * 24 * time.Hour)
	defaultStale   = days(time.Hour)
)

// finding is one thing that is not well.
type finding struct {
	Kind        string `json:"kind"`
	Certificate string `json:"certificate,omitempty"`
	Fact        string `json:"fact"`
	Hint        string `json:"hint,omitempty"`
}

// findings are all things that are not well in a report. What the settings have no more is
// no concern of anybody's.
func findings(r status.Report, l limits, now time.Time) []finding {
	all := wholeFindings(r)
	for _, c := range r.Certificates {
		if c.State != string(kvsync.Removed) {
			all = append(all, certificateFindings(c, l, now)...)
		}
	}
	return all
}

func wholeFindings(r status.Report) (all []finding) {
	add := func(kind, fact, hint string) { all = append(all, finding{Kind: kind, Fact: fact, Hint: hint}) }
	if r.State == status.Starting {
		add("starting", "it is starting", "wait for it with: kvfs wait")
	}
	for _, e := range errorsOf(r) {
		add(e.Kind, e.Fact, e.Hint)
	}
	for _, h := range r.Hooks {
		if h.Error != nil {
			when := " fails after renewals: "
			if h.On == status.OnAlert {
				when = " cannot be told of alerts: "
			}
			add("hook", h.Action+when+h.Error.Fact, h.Error.Hint)
		}
	}
	if i := r.InitialSync; i.State == status.SyncFailed {
		add(initialFailed, fmt.Sprintf("the initial sync has failed: %d of %d certificates available after %d %s", i.Available, i.Total, i.Try, plural(i.Try, "try", "tries")), "see kvfs status")
	}
	if r.Processes.Keeper == 0 {
		add("no-keeper", fmt.Sprintf("there is no keeper: when process %d dies, so do the mounts", r.Processes.Server), "restart kvfs when it suits you")
	}
	return all
}

func certificateFindings(c status.Certificate, l limits, now time.Time) (all []finding) {
	add := func(kind, format string, args ...any) {
		f := finding{Kind: kind, Certificate: c.URL, Fact: fmt.Sprintf(format, args...)}
		if c.Error != nil {
			f.Fact += ": " + c.Error.Fact
			f.Hint = c.Error.Hint
		}
		all = append(all, f)
	}
	silent := c.LastSuccess == nil || now.Sub(*c.LastSuccess) > time.Duration(l.stale)
	switch kvsync.State(c.State) {
	case kvsync.Missing:
		add("missing", "nothing is served")
	case kvsync.Hidden:
		add("hidden", "it is hidden, as the settings ask")
	case kvsync.Partial:
		add("partial", "the chain alone is served")
	case kvsync.Stale:
		if silent {
			add("stale", "no success for %s", sinceSuccess(c, now))
		}
	case kvsync.OK:
		// The poller is to have asked by then.
		if c.NextPoll != nil && silent && now.Sub(*c.NextPoll) > max(time.Duration(l.stale), time.Minute) {
			add("stale", "no poll for %s", sinceSuccess(c, now))
		}
	}
	if c.Version == "" || c.NotAfter == nil {
		return all
	}
	left := c.NotAfter.Sub(now)
	const renew = "renew it in the vault; kvfs refresh fetches it at once"
	switch {
	case left <= 0:
		all = append(all, finding{"expired", c.URL, "it has expired on " + c.NotAfter.UTC().Format(time.DateOnly), renew})
	case left < time.Duration(l.expires):
		all = append(all, finding{"expiring", c.URL, "it expires " + expiry(c.NotAfter, now), renew})
	}
	return all
}

func sinceSuccess(c status.Certificate, now time.Time) string {
	if c.LastSuccess == nil {
		return "ever"
	}
	return span(now.Sub(*c.LastSuccess))
}

// summary is how many certificates there are in which states, and which one ends first.
func summary(r status.Report, now time.Time) string {
	count, all := map[string]int{}, 0
	var first *status.Certificate
	for i, c := range r.Certificates {
		count[c.State]++
		all++
		if c.State != string(kvsync.Removed) && c.NotAfter != nil && c.Version != "" && (first == nil || c.NotAfter.Before(*first.NotAfter)) {
			first = &r.Certificates[i]
		}
	}
	text := fmt.Sprintf("%s %s", grouped(all), plural(all, "certificate", "certificates"))
	var states []string
	for _, s := range []kvsync.State{kvsync.OK, kvsync.Stale, kvsync.Missing, kvsync.Partial, kvsync.Hidden, kvsync.Pending, kvsync.Removed} {
		if n := count[string(s)]; n > 0 {
			states = append(states, fmt.Sprintf("%s %s", grouped(n), s))
		}
	}
	if len(states) > 0 {
		text += ": " + strings.Join(states, ", ")
	}
	if first != nil {
		verb := "expires"
		if !first.NotAfter.After(now) {
			verb = "has"
		}
		text += fmt.Sprintf("; the first %s %s", verb, expiry(first.NotAfter, now))
	}
	return text
}

// days is a duration that may be written in days too.
type days time.Duration

var _ pflag.Value = (*days)(nil)

// Set takes what time.ParseDuration does, and whole or broken days, such as 7d.
func (d *days) Set(text string) error {
	v, err := time.ParseDuration(text)
	if number, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		if n, err = strconv.ParseFloat(number, 64); !(n >= 0 && n <= maxDays) {
			return fmt.Errorf("%q is no number of days", number)
		}
		v = time.Duration(n * float64(24*time.Hour))
	}
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no time", text)
	}
	*d = days(v)
	return nil
}

const maxDays = 100 * 365

func (d *days) String() string {
	v := time.Duration(*d)
	if day := 24 * time.Hour; v >= day && v%day == 0 {
		return strconv.Itoa(int(v/day)) + "d"
	}
	return v.String()
}

// Type is what a wrong value is told to be; see flagError.
func (d *days) Type() string { return "duration" }
