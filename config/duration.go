package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// seconds takes a number of whole seconds, no fewer than the least, written as a number or as a string.
func (r reader) seconds(n *node, path string, least int64) (time.Duration, bool) {
	d, ok := time.Duration(0), false
	if n.kind == kindNumber || n.kind == kindString {
		d, ok = parseSeconds(n.text, least)
	}
	if !ok {
		r.mismatch(n, path, "a number of whole seconds", secondsHint(n, least))
	}
	return d, ok
}

func parseSeconds(s string, least int64) (time.Duration, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < least || v > math.MaxInt64/int64(time.Second) {
		return 0, false
	}
	return time.Duration(v) * time.Second, true
}

// secondsHint translates durations of other notations.
func secondsHint(n *node, least int64) string {
	d, ok := otherDuration(strings.TrimSpace(n.text))
	if n.kind != kindString || !ok {
		return fmt.Sprintf(`write %d or more, such as "3600" for one hour`, least)
	}
	return fmt.Sprintf(`write "%d" for %s`, int64(d/time.Second), inWords(d))
}

// otherDuration reads "1h", "1h30m" and "7d".
func otherDuration(s string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err == nil && n > 0
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= time.Second && d%time.Second == 0
}

// inWords says a duration in its greatest whole unit.
func inWords(d time.Duration) string {
	for _, u := range []struct {
		size      time.Duration
		one, many string
	}{
		{24 * time.Hour, "one day", "days"}, {time.Hour, "one hour", "hours"},
		{time.Minute, "one minute", "minutes"}, {time.Second, "one second", "seconds"},
	} {
		switch {
		case d == u.size:
			return u.one
		case d%u.size == 0:
			return fmt.Sprintf("%d %s", d/u.size, u.many)
		}
	}
	return d.String()
}
