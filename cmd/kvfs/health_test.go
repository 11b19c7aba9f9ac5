package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kvfs/status"
)

// What kvfs status --check fails for, and what it does not.
func TestFindings(t *testing.T) {
	now := time.Unix(1e9, 0)
	at := func(d time.Duration) *time.Time { return status.Time(now.Add(d)) }
	const day = 24 * time.Hour
	gone := &status.Error{Kind: "not-found", Fact: "404", Hint: "look"}
	sound := status.Report{State: status.Ready, Processes: status.Processes{Keeper: 1}}
	with := func(edit func(*status.Report)) status.Report {
		r := sound
		edit(&r)
		return r
	}
	certificate := func(c status.Certificate) status.Report {
		c.URL = "u"
		return with(func(r *status.Report) { r.Certificates = []status.Certificate{c} })
	}
	for name, test := range map[string]struct {
		report status.Report
		want   []string // kind and fact
	}{
		"well":             {certificate(status.Certificate{State: "ok", Version: "1", NotAfter: at(30 * day), LastSuccess: at(-time.Hour), NextPoll: at(time.Hour)}), nil},
		"a week to go":     {certificate(status.Certificate{State: "ok", Version: "1", NotAfter: at(7 * day), LastSuccess: at(0)}), nil},
		"less":             {certificate(status.Certificate{State: "ok", Version: "1", NotAfter: at(7*day - time.Second), LastSuccess: at(0)}), []string{"expiring u: it expires in 6 days"}},
		"over":             {certificate(status.Certificate{State: "ok", Version: "1", NotAfter: at(-day), LastSuccess: at(0)}), []string{"expired u: it has expired on 2001-09-08"}},
		"stale for long":   {certificate(status.Certificate{State: "stale", Version: "1", NotAfter: at(30 * day), LastSuccess: at(-2 * time.Hour), Error: gone}), []string{"stale u: no success for 2h0m: 404"}},
		"stale for a bit":  {certificate(status.Certificate{State: "stale", Version: "1", NotAfter: at(30 * day), LastSuccess: at(-time.Minute), Error: gone}), nil},
		"stale from files": {certificate(status.Certificate{State: "stale", Version: "1", NotAfter: at(30 * day), Error: gone}), []string{"stale u: no success for ever: 404"}},
		"stale and ending": {certificate(status.Certificate{State: "stale", Version: "1", NotAfter: at(day), LastSuccess: at(-2 * time.Hour)}), []string{"stale u: no success for 2h0m", "expiring u: it expires in 1 day"}},
		"not polled":       {certificate(status.Certificate{State: "ok", Version: "1", NotAfter: at(30 * day), LastSuccess: at(-3 * time.Hour), NextPoll: at(-2 * time.Hour)}), []string{"stale u: no poll for 3h0m"}},
		"missing":          {certificate(status.Certificate{State: "missing", Error: gone}), []string{"missing u: nothing is served: 404"}},
		"hidden":           {certificate(status.Certificate{State: "hidden"}), []string{"hidden u: it is hidden, as the settings ask"}},
		"partial":          {certificate(status.Certificate{State: "partial", Version: "1", NotAfter: at(30 * day), LastSuccess: at(0)}), []string{"partial u: the chain alone is served"}},
		"removed":          {certificate(status.Certificate{State: "removed", Version: "1", NotAfter: at(-day)}), nil},
		"starting":         {with(func(r *status.Report) { r.State = status.Starting }), []string{"starting it is starting"}},
		"no keeper":        {with(func(r *status.Report) { r.Processes = status.Processes{Server: 7} }), []string{"no-keeper there is no keeper: when process 7 dies, so do the mounts"}},
		"kvfs itself":      {with(func(r *status.Report) { r.Error = gone }), []string{"not-found 404"}},
		"files":            {with(func(r *status.Report) { r.Directories = []status.Directory{{}, {Error: gone}} }), []string{"not-found 404"}},
		"hook": {with(func(r *status.Report) {
			r.Hooks = []status.Hook{{Action: "reload x"}, {Action: "reload y", Error: gone}}
		}), []string{"hook reload y fails after renewals: 404"}},
		"hook of alerts": {with(func(r *status.Report) { r.Hooks = []status.Hook{{On: status.OnAlert, Action: "the chat", Error: gone}} }), []string{"hook the chat cannot be told of alerts: 404"}},
		"metrics":        {with(func(r *status.Report) { r.Metrics = &status.Metrics{Error: gone} }), []string{"not-found 404"}},
		"initial sync": {with(func(r *status.Report) {
			r.InitialSync = status.InitialSync{State: status.SyncFailed, Available: 1, Total: 2, Try: 25}
		}), []string{"initial-sync the initial sync has failed: 1 of 2 certificates available after 25 tries"}},
	} {
		var got []string
		for _, f := range findings(test.report, limits{defaultExpires, defaultStale}, now) {
			got = append(got, f.Kind+" "+f.String())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestCheckSaysInOneLineWhetherAllIsWell(t *testing.T) {
	now := time.Unix(1e9, 0)
	end := status.Time(now.Add(50 * time.Hour))
	r := status.Report{State: status.Ready, Processes: status.Processes{Keeper: 1}, Certificates: []status.Certificate{
		{URL: "a", State: "ok", Version: "1", NotAfter: end, LastSuccess: end}, {URL: "b", State: "removed", Version: "1", NotAfter: status.Time(now)}}}
	for _, test := range []struct {
		expires days
		json    bool
		code    int
		want    string
	}{
		{days(49 * time.Hour), false, exitOK, "ok: 2 certificates: 1 ok, 1 removed; the first expires in 2 days\n"},
		{days(51 * time.Hour), false, exitFailed, "1 problem: a: it expires in 2 days; 2 certificates: 1 ok, 1 removed; the first expires in 2 days\n  a: it expires in 2 days\n    hint: renew it"},
		{days(49 * time.Hour), true, exitOK, "\"ok\": true,\n  \"problems\": [],"},
		{days(51 * time.Hour), true, exitFailed, "\"kind\": \"expiring\",\n      \"certificate\": \"a\","},
	} {
		var out bytes.Buffer
		a := &app{stdout: &out, json: test.json}
		err, code := a.checkStatus(r, limits{test.expires, defaultStale}, now), exitOK
		if err != nil {
			f := asFailure(err)
			if code = f.code; !f.said {
				t.Error("it would be said twice")
			}
		}
		if code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%v: %d\n%s", test.expires, code, &out)
		}
	}
}

func TestDaysOfAFlag(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "36h": 36 * time.Hour, "0.5d": 12 * time.Hour, "0": 0, "0d": 0, "90m": 90 * time.Minute} {
		var d days
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("%q: %v, %v", text, time.Duration(d), err)
		}
	}
	for _, text := range []string{"", "d", "7", "-1d", "-5m", "1w", "infd", "nand", "1e9d", "7 d"} {
		if d := days(1); d.Set(text) == nil || d != 1 {
			t.Errorf("%q is taken for %v", text, time.Duration(d))
		}
	}
	if d := defaultExpires; d.String() != "7d" {
		t.Error(d.String())
	}
}

// Colours take no room, and are for terminals that want them.
func TestColours(t *testing.T) {
	now := time.Unix(1e9, 0)
	soon, late := status.Time(now.Add(time.Hour)), status.Time(now.Add(2000*time.Hour))
	r := status.Report{State: status.Degraded, Processes: status.Processes{Keeper: 1}, Certificates: []status.Certificate{
		{URL: "a", State: "missing", Error: &status.Error{Fact: "404"}}, {URL: "b", State: "ok", Version: "1", NotAfter: soon}, {URL: "c", State: "stale", Version: "1", NotAfter: late}}}
	with, without := reportPage(r, now, true).String(), reportPage(r, now, false).String()
	if strings.Contains(without, "\x1b") {
		t.Errorf("%q", without)
	}
	bare := with
	for _, c := range []colour{plain, strong, good, uneasy, bad} {
		bare = strings.ReplaceAll(bare, "\x1b["+string(c)+"m", "")
	}
	if bare = strings.ReplaceAll(bare, "\x1b[0m", ""); bare != without {
		t.Errorf("%q, without colours %q", bare, without)
	}
	for _, want := range []string{bad.paint(true, "missing"), good.paint(true, "ok"), uneasy.paint(true, "stale"), bad.paint(true, "in 0 days"), "  in 83 days", bad.paint(true, "degraded")} {
		if !strings.Contains(with, want) {
			t.Errorf("%q is not in %q", want, with)
		}
	}
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if coloured(pipe) || coloured(&bytes.Buffer{}) {
		t.Error("a pipe gets colours")
	}
}

// The end of a reader is seen without writing to it.
func TestReaderThatHasGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if unread(w) {
		t.Error("somebody reads")
	}
	r.Close()
	if !unread(w) || unread(&bytes.Buffer{}) {
		t.Error("nobody reads")
	}
}

// A report that cannot be written is an error, which ends a watch.
func TestPageThatNobodyTakes(t *testing.T) {
	a := &app{stdout: fullDisk{}}
	if err := a.printReport(status.Report{}, time.Now()); !errors.Is(err, errFull) {
		t.Error(err)
	}
}

var errFull = errors.New("full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
