package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kvfs/config"
	"kvfs/status"
)

// A line about old versions is for those whom it concerns.
func TestStatusTellsOfOldVersionsThatAreNotHere(t *testing.T) {
	for name, test := range map[string]struct {
		cache status.Cache
		want  string
	}{
		"all there":     {status.Cache{Versions: 3, Bytes: 5000, Limit: 32 << 20, Hits: 7, Misses: 2}, ""},
		"one gone":      {status.Cache{Versions: 3, Bytes: 700, Limit: 1 << 10, Evictions: 1}, "old versions: 3 in 700 B of 1.0 KiB of memory; 1 has gone for want of room, 0 could not be fetched again\n"},
		"some failures": {status.Cache{Versions: 9, Bytes: 3 << 19, Limit: 32 << 20, Evictions: 12, Failures: 2}, "old versions: 9 in 1.5 MiB of 32.0 MiB of memory; 12 have gone for want of room, 2 could not be fetched again\n"},
	} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := a.printReport(status.Report{State: status.Ready, Cache: test.cache}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, test.want) || strings.Contains(got, "old versions") != (test.want != "") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
}

func TestCheckTellsHowManyVersionsAreKept(t *testing.T) {
	for keep, want := range map[int]string{config.AllVersions: ", all versions kept\n", 3: ", 3 versions kept\n"} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := a.printChecked("settings.json", checked{}, &config.Config{KeepVersions: keep}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%d: %v, %s", keep, err, out.String())
		}
	}
}

func TestStatusTellsOfAnInitialSyncAndOfALoad(t *testing.T) {
	now := time.Unix(1e9, 0)
	soon := now.Add(4500 * time.Millisecond)
	for name, test := range map[string]struct {
		report status.Report
		want   string
	}{
		"not required": {status.Report{InitialSync: status.InitialSync{State: status.SyncSuccess, Total: 2}}, ""},
		"going on":     {status.Report{InitialSync: status.InitialSync{Required: true, State: status.SyncTransitioning, Available: 1, Total: 2, Try: 3, Of: 25, Next: &soon}}, "  initial sync: 1 of 2 certificates available; try 3 of 25, next in 5s\n"},
		"failed":       {status.Report{InitialSync: status.InitialSync{Required: true, State: status.SyncFailed, Available: 1, Total: 2, Try: 25, Of: 25, Next: &soon}}, "  error: the initial sync has failed: 1 of 2 certificates available after 25 tries; polling goes on, next in 5s\n"},
		"a load":       {status.Report{Loading: &status.Loading{Done: 120, Total: 1000, Failed: 3, Since: now.Add(-time.Minute)}}, "  loading 120 of 1,000 certificates, 3 failed, for 1m0s\n"},
		"a great load": {status.Report{Loading: &status.Loading{Done: 999, Total: 1234567, Since: now}}, "  loading 999 of 1,234,567 certificates, for 0s\n"},
	} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := a.printReport(test.report, now); err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(out.String(), "  warning: there is no keeper")
		if _, got, _ := strings.Cut(head, "\n"); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// Who waits is told which certificates lack, and why, but not of hundreds.
func TestWaitTellsWhatLacks(t *testing.T) {
	r := status.Report{InitialSync: status.InitialSync{Required: true, State: status.SyncFailed, Available: 4, Total: 11, Try: 25, Of: 25}}
	add := func(name, state, version string, err *status.Error) {
		r.Certificates = append(r.Certificates, status.Certificate{URL: name, State: state, Version: version, Error: err})
	}
	wrong := &status.Error{Kind: "disabled", Fact: "403", Hint: "enable it"}
	add("good", "ok", "1", nil)
	add("old", "stale", "1", wrong)
	add("hidden", "hidden", "", wrong)
	add("removed", "removed", "", wrong)
	for i := range 7 {
		add(string(rune('a'+i)), "missing", "", wrong)
	}
	err := unready(r)
	f := asFailure(err)
	const want = "4 of 11 certificates available after 25 tries: a: 403; b: 403; c: 403; d: 403; e: 403; and 2 more"
	if f.code != exitFailed || f.kind != initialFailed || f.fact != want || f.hint != "enable it" {
		t.Errorf("%d %s %q %q", f.code, f.kind, f.fact, f.hint)
	}
}

func TestStatusTellsOfHooks(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	r := status.Report{Hooks: []status.Hook{
		{Action: "reload nginx.service", State: "idle", LastRun: ago(time.Minute), LastSuccess: ago(time.Minute), Runs: 3},
		{Action: "reload off.service", State: "idle", LastRun: ago(time.Minute), LastSuccess: ago(time.Minute), Runs: 1, Note: "it does not run"},
		{Action: "command /bin/sh -c " + strings.Repeat("x", 100), State: "failing", Pending: []string{"a", "b"}, LastRun: ago(time.Second), Failures: 2, NextTry: ago(-2 * time.Second), Error: &status.Error{Fact: "no", Hint: "mend it"}},
		{On: status.OnAlert, Action: "the chat", State: "failing", Pending: []string{"a"}, LastRun: ago(time.Second), Failures: 1, NextTry: ago(-time.Second), Error: &status.Error{Fact: "gone", Hint: "find it"}},
	}}
	var out bytes.Buffer
	a := &app{stdout: &out}
	if err := a.printReport(r, now); err != nil {
		t.Fatal(err)
	}
	command := "command /bin/sh -c " + strings.Repeat("x", 38)
	for _, want := range []string{
		"\nAFTER RENEWALS   ", "\nreload nginx.service  ", "  idle     0        1m0s ago  1m0s ago      0         -\n", "\n" + command + "...  failing  2        1s ago    never         2         in 2s\n",
		"\n\n" + command + strings.Repeat("x", 62) + "\n  error: no\n  hint: mend it\n", "\n\nreload off.service\n  it does not run\n",
		"\nON ALERTS  STATE    PENDING  ", "\nthe chat   failing  1        1s ago    never         1         in 1s\n", "\n\nthe chat\n  error: gone\n  hint: find it\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}
