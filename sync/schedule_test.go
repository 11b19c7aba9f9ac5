package sync

import (
	"fmt"
	"testing"
	"time"
)

func TestNextPoll(t *testing.T) {
	const hour, s = time.Hour, time.Second
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name string
		history
		want time.Duration
	}{
		{"the first success: some moment of the interval", history{interval: hour, jitter: 0.25}, 13*time.Minute + 52500*time.Millisecond},
		{"success", history{interval: hour, settled: true}, hour},
		{"success, spread by up to a tenth", history{interval: hour, settled: true, jitter: 0.5}, 57 * time.Minute},
		{"first failure", history{interval: hour, failures: 1, jitter: 0.5}, 2 * s},
		{"second failure", history{interval: hour, failures: 2, jitter: 0.5}, 3 * s},
		{"third failure", history{interval: hour, failures: 3, jitter: 0.5}, 4500 * time.Millisecond},
		{"a tenth less", history{interval: hour, failures: 1}, 1800 * time.Millisecond},
		{"25 failures", history{interval: hour, failures: 25, final: true, jitter: 0.5}, 2 * time.Minute},
		{"27 failures", history{interval: hour, failures: 27, final: true, jitter: 0.5}, 4 * time.Minute},
		{"many failures", history{interval: hour, failures: 500, final: true, jitter: 0.5}, 15 * time.Minute},
		{"many failures that may end by themselves", history{interval: hour, failures: 500, jitter: 0.5}, 2 * time.Minute},
		{"failures never make it slower than the interval", history{interval: s, failures: 500, final: true, jitter: 0.9}, s},
		{"the service asks for more", history{interval: hour, failures: 1, retryAfter: 10 * time.Minute}, 10 * time.Minute},
		{"the service asks for less", history{interval: hour, failures: 20, jitter: 0.5, retryAfter: s}, 2 * time.Minute},
		{"the service asks for more than the interval", history{interval: time.Minute, failures: 1, retryAfter: hour}, hour},
	} {
		c.now = now
		if got := c.next(); got != now.Add(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got.Sub(now), c.want)
		}
	}
}

// What settings.md promises: 25 tries take about half an hour.
func TestTwentyFiveTriesTakeHalfAnHour(t *testing.T) {
	for _, jitter := range []float64{0, 0.5, 0.999} {
		at := time.Unix(1e9, 0)
		for failures := 1; failures < 25; failures++ {
			at = history{now: at, interval: time.Hour, failures: failures, jitter: jitter}.next()
		}
		if took := at.Sub(time.Unix(1e9, 0)); took < 28*time.Minute || took > 36*time.Minute {
			t.Errorf("jitter %v: %v", jitter, took)
		}
	}
}

func TestThrottleWait(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		level      int
		retryAfter time.Duration
		jitter     float64
		want       time.Duration
	}{
		{1, 0, 0.5, s}, {2, 0, 0.5, 2 * s}, {5, 0, 0.5, 16 * s}, {8, 0, 0.5, 120 * s}, {50, 0, 0.5, 120 * s},
		{1, 0, 0, s / 2}, {1, 0, 1, 3 * s / 2}, {1, 10 * s, 0, 10 * s}, {1, 10 * s, 1, 15 * s}, {8, 10 * s, 0.5, 120 * s},
	} {
		if got := throttleWait(c.level, c.retryAfter, c.jitter); got != c.want {
			t.Errorf("level %d, asked for %v, jitter %v: %v, want %v", c.level, c.retryAfter, c.jitter, got, c.want)
		}
	}
}

// Machines that have started at one moment stay apart for as long as they run.
func TestPollsStayApart(t *testing.T) {
	const machines, interval = 10_000, time.Hour
	start := time.Unix(1e9, 0)
	var all [24 * 60]int // by minute
	for m := range machines {
		jitter, at, settled := jitterOf(fmt.Sprint("machine-", m), "c"), start, false
		for {
			at, settled = history{now: at, interval: interval, settled: settled, jitter: jitter}.next(), true
			if at.Sub(start) >= 24*time.Hour {
				break
			}
			all[int(at.Sub(start)/time.Minute)]++
		}
	}
	for minute, n := range all[60:] {
		if n < 130 || n > 230 {
			t.Errorf("%d of %d machines polled in minute %d", n, machines, minute+60)
		}
	}
}

func TestJitterIsSpreadEvenly(t *testing.T) {
	var tenths [10]int
	for machine := range 100 {
		for certificate := range 100 {
			j := jitterOf(fmt.Sprint("machine-", machine), fmt.Sprint("https://contoso-web.vault.azure.net/secrets/c", certificate))
			tenths[int(j*10)]++
		}
	}
	for i, n := range tenths {
		if n < 850 || n > 1150 {
			t.Errorf("%d of 10,000 are in tenth %d", n, i)
		}
	}
	if jitterOf("a", "b") != jitterOf("a", "b") || jitterOf("a", "b") == jitterOf("b", "b") {
		t.Error("it is not that of the machine alone")
	}
}
