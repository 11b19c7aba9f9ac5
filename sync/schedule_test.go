package sync

import (
	"testing"
	"time"
)

func TestNextPoll(t *testing.T) {
	const hour, s = time.Hour, time.Second
	for _, c := range []struct {
		name       string
		interval   time.Duration
		failures   int
		retryAfter time.Duration
		spread     float64
		want       time.Duration
	}{
		{"success", hour, 0, 0, 0, hour},
		{"success, spread by up to a tenth", hour, 0, 0, 0.5, 57 * time.Minute},
		{"first failure", hour, 1, 0, 0.5, 2 * s},
		{"second failure", hour, 2, 0, 0, 3 * s},
		{"third failure", hour, 3, 0, 0, 4500 * time.Millisecond},
		{"many failures", hour, 50, 0, 0, 2 * time.Minute},
		{"failures never make it slower than the interval", s, 9, 0, 0, s},
		{"the service asks for more", hour, 1, 10 * time.Minute, 0, 10 * time.Minute},
		{"the service asks for less", hour, 50, s, 0, 2 * time.Minute},
		{"the service asks for more than the interval", time.Minute, 1, hour, 0, hour},
	} {
		if got := nextPoll(c.interval, c.failures, c.retryAfter, c.spread); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
