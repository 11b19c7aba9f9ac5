// Package alert decides what an operator is warned of before it hurts: a certificate that expires while its vault has no newer
// version, and one of which nothing could be read for long. And it sees to it that those hear of it who want to be told.
//
// What is to be said is a pure function of the time, of what is known of the certificates and of what was said before (Check),
// which also tells when to ask again: nobody has to look at regular intervals. What was said is plain data (Said), which a
// successor of the process takes over, so that nothing is said twice. Hooks, which may fail, are told by a Queue.
//
// # Limitations
//
// Thresholds are the same for all: a certificate that lives for a week is warned of from its first day where one of them is a
// week or more, once for each version.
package alert

import (
	"fmt"
	"slices"
	"time"
)

const day = 24 * time.Hour

// Rules say when to warn.
type Rules struct {
	// Expiry are thresholds: so long before the end of a certificate it is warned of. Its end itself always is.
	Expiry []time.Duration
	// Stale is after how long without anything read; 0: never.
	Stale time.Duration
}

// Certificate is what is known of one.
type Certificate struct {
	Key      string // tells it from all others
	Name     string // for people and commands, without a space: contoso-web.www
	URL      string
	Version  string    // that is served, "" for none
	NotAfter time.Time // of that version
	LastRead time.Time // as far as this process knows; zero: never
	// Since is when this process has begun to read it: of what one before it has read last, it may not know all.
	Since time.Time
	Tried time.Time // when it was last tried to read it, in vain or not
}

// quiet is since when nothing was read.
func (c Certificate) quiet() time.Time {
	if c.LastRead.After(c.Since) {
		return c.LastRead
	}
	return c.Since
}

// Said is what was said of certificates, by their keys.
type Said map[string]Saying

// Saying is what was said of one.
type Saying struct {
	Version string `json:"version,omitempty"`
	// Left is the least threshold that was warned of for that version, -1 for none.
	Left time.Duration `json:"left"`
	// Stale is since when nothing had been read, when that was said.
	Stale time.Time `json:"stale,omitzero"`
}

var nothing = Saying{Left: -1}

// Kind of a notice.
type Kind string

// Kinds.
const (
	Expires Kind = "expires"
	Expired Kind = "expired"
	Stale   Kind = "stale"
)

// Notice is something to say.
type Notice struct {
	Kind
	Certificate
	// For is how long the certificate is still good, has been expired, or was not read.
	For time.Duration
}

// Check returns what is to be said now, what has been said then, and when the next thing may have to be, the zero time if
// nothing is known to come. Said is not changed.
func (r Rules) Check(now time.Time, all []Certificate, said Said) (notices []Notice, after Said, next time.Time) {
	after = Said{}
	soonest := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, c := range all {
		s, ok := said[c.Key]
		if !ok {
			s = nothing
		}
		if s.Version != c.Version {
			s.Version, s.Left = c.Version, -1
		}
		if n := r.expiry(now, c, &s, soonest); n != nil {
			notices = append(notices, *n)
		}
		if n := r.stale(now, c, &s, soonest); n != nil {
			notices = append(notices, *n)
		}
		if s.Left >= 0 || !s.Stale.IsZero() {
			after[c.Key] = s
		}
	}
	return notices, after, next
}

// expiry tells of the least threshold that was passed, unless that was said of the version.
func (r Rules) expiry(now time.Time, c Certificate, s *Saying, soonest func(time.Time)) *Notice {
	if c.Version == "" || c.NotAfter.IsZero() {
		return nil
	}
	passed := time.Duration(-1)
	for _, left := range append(slices.Clone(r.Expiry), 0) {
		at := c.NotAfter.Add(-left)
		if at.After(now) {
			soonest(at)
		} else if passed < 0 || left < passed {
			passed = left
		}
	}
	if passed < 0 { // other rules may have said it: when it is asked for again, that is anew
		s.Left = -1
	}
	if passed < 0 || s.Left >= 0 && s.Left <= passed {
		return nil
	}
	s.Left = passed
	if passed == 0 {
		return &Notice{Expired, c, now.Sub(c.NotAfter)}
	}
	return &Notice{Expires, c, c.NotAfter.Sub(now)}
}

// stale tells once of each time for which nothing could be read. It is looked at again after as long a time: whether it
// goes on shows nowhere else.
func (r Rules) stale(now time.Time, c Certificate, s *Saying, soonest func(time.Time)) *Notice {
	if c.LastRead.After(s.Stale) || r.Stale <= 0 || now.Sub(s.Stale) < r.Stale { // as for expiry
		s.Stale = time.Time{}
	}
	if r.Stale <= 0 {
		return nil
	}
	if at := c.quiet().Add(r.Stale); at.After(now) {
		soonest(at)
		return nil
	}
	soonest(now.Add(r.Stale))
	if !s.Stale.IsZero() {
		return nil
	}
	s.Stale = c.quiet()
	return &Notice{Stale, c, now.Sub(c.quiet())}
}

// Warnings are what there is to warn of now, in words, whether it was said or not. That a certificate has expired is not
// among them.
func (r Rules) Warnings(now time.Time, c Certificate) (warnings []string) {
	left := c.NotAfter.Sub(now)
	if c.Version != "" && len(r.Expiry) > 0 && left > 0 && left <= slices.Max(r.Expiry) {
		warnings = append(warnings, fmt.Sprintf("it expires in %s, and no newer version has come", Span(left)))
	}
	if quiet := now.Sub(c.quiet()); r.Stale > 0 && quiet >= r.Stale {
		warnings = append(warnings, fmt.Sprintf("nothing was read of it for %s", Span(quiet)))
	}
	return warnings
}

// Span is a duration as people say it.
func Span(d time.Duration) string {
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"day", day}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := d / unit.is; n >= 2 || n == 1 && unit.name == "second" {
			return fmt.Sprintf("%d %s%s", n, unit.name, map[bool]string{true: "s"}[n > 1])
		}
	}
	return "less than a second"
}
