package keeper

import (
	"strings"
	"testing"
	"time"
)

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	ms := time.Millisecond
	for failures, want := range []time.Duration{0, 0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
	for n := 1; n < 1000; n++ {
		if d := backoff(n); d < backoff(n-1) || d > backoffMost {
			t.Errorf("after %d failures: %v, after one less %v", n, d, backoff(n-1))
		}
	}
}

func TestParse(t *testing.T) {
	name := strings.Repeat("n", maxName)
	for text, want := range map[string]message{
		"":                            {},
		"READY=1":                     {ready: true},
		"READY=1\nSTATUS=all is well": {ready: true, status: "all is well"},
		"READY=0\nSTOPPING=1\n":       {stopping: true},
		"WATCHDOG=1\x00":              {ping: true},
		"FDSTORE=1":                   {store: true, name: "stored"},
		"FDNAME=a b\nFDSTORE=1":       {store: true, name: "a b"},
		"FDSTORE=1\nFDNAME=" + name:   {store: true, name: name},
		"FDSTOREREMOVE=1\nFDNAME=x":   {remove: true, name: "x"},
		"BARRIER=1":                   {},
		"MAINPID=1\nX_OTHER=2\nREADY": {},
		"READY=1\r\n":                 {},
	} {
		if got, err := parse([]byte(text)); err != nil || got != want {
			t.Errorf("%.60q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"FDSTORE=1\nFDNAME=a:b", "FDSTORE=1\nFDNAME=", "FDSTORE=1\nFDNAME=keeper", "FDSTORE=1\nFDNAME=\x7f", "FDSTORE=1\nFDNAME=ä",
		"FDSTORE=1\nFDNAME=a\tb", "FDSTORE=1\nFDNAME=" + name + "n", "FDSTOREREMOVE=1", "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a",
		"READY=1\x00STATUS=", "STATUS=\xff", strings.Repeat("x", maxMessage+1),
	} {
		if got, err := parse([]byte(text)); err == nil {
			t.Errorf("%.60q: %+v, want an error", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"READY=1\nSTATUS=ok\nMAINPID=12", "FDSTORE=1\nFDNAME=fuse\n", "FDSTOREREMOVE=1\nFDNAME=journal", "BARRIER=1", "WATCHDOG=1\x00",
		"FDNAME=a:b\nFDSTORE=1", "STOPPING=1\n\n\n=\n", "FDNAME=" + strings.Repeat("x", 300), "\xff\xfe", strings.Repeat("READY=1\n", 513),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parse(text)
		if err != nil {
			if m != (message{}) {
				t.Errorf("%q: refused (%v), and yet %+v", text, err, m)
			}
			return
		}
		if m.store || m.remove {
			if err := checkName(m.name); err != nil {
				t.Errorf("%q: the name %q is not refused: %v", text, m.name, err)
			}
		}
		if m.store && m.remove {
			t.Errorf("%q: stores and removes", text)
		}
		if strings.ContainsAny(m.name+m.status, "\n\x00") {
			t.Errorf("%q: more than a line: %+v", text, m)
		}
	})
}
