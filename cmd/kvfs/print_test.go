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
