package sync

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"
)

// Waits after failures: growing from the first, so that a blip costs seconds,
// up to a bound that a vault in trouble can live with.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 2 * time.Minute
)

// patientFailures is after how many failures in a row something that only a person can
// end (no such secret, no permission) is asked for less and less often.
const patientFailures = 25

// history is all that decides when a certificate is tried next.
type history struct {
	now        time.Time
	interval   time.Duration // between polls
	settled    bool          // there was a good try before this one that did
	failures   int           // since the last good one; 0: this one was
	final      bool          // the last one is of a kind that only a person can end
	retryAfter time.Duration // that the service asked for; 0: nothing
	// jitter is a number in [0,1) that is constant for a certificate on a machine, and
	// another one for every other.
	jitter float64
}

// next is when. It depends on nothing but the history.
//
// After the first success it is any moment of the interval that follows, so that
// machines that started together, or were all kept waiting by one outage, do not stay
// together; from then on the interval, up to a tenth less. So nothing that is new in a
// vault goes unseen for longer than an interval.
//
// After failures it is 2 s, 3 s, 4.5 s and so on up to 2 minutes, a tenth more or less,
// but never longer than the interval; where only a person can end them it grows on after
// 25, to a quarter of the interval. It is never earlier than what the service asked for.
func (h history) next() time.Time {
	wait := h.interval - scale(h.interval, h.pace())/10
	switch {
	case h.failures == 0 && !h.settled: // within its own period: within another one there would be waves
		wait = scale(wait, h.jitter)
	case h.failures == 0:
	default:
		wait = min(h.interval, shaken(backoff(h.failures), h.jitter))
		if h.final && h.failures > patientFailures {
			wait = max(wait, min(h.interval/4, lastRetry*time.Duration(h.failures-patientFailures)))
		}
	}
	return h.now.Add(max(wait, h.retryAfter))
}

// pace is another number like jitter, which it says nothing about: who begins late and is
// faster would soon be in step with who began early and is slower.
func (h history) pace() float64 {
	_, f := math.Modf(h.jitter * 7919)
	return f
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(by * float64(d)) }

// shaken is a wait, up to a tenth more or less.
func shaken(d time.Duration, jitter float64) time.Duration { return scale(d, 0.9+jitter/5) }

func backoff(failures int) time.Duration {
	d := firstRetry
	for range failures - 1 {
		if d = d * 3 / 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
}

// throttleWait is how long a vault is left alone that has answered 429: 1 s, 2 s, 4 s and
// so on up to 2 minutes, by half more or less, since whoever is refused with us waits too.
// (The service's own advice is 1, 2, 4, 8, 16 s.) A wish of the service's is kept, and
// exceeded by up to a half: everybody was told the same.
func throttleWait(level int, retryAfter time.Duration, jitter float64) time.Duration {
	d := min(time.Second<<min(level-1, 7), lastRetry)
	return max(scale(d, 0.5+jitter), scale(retryAfter, 1+jitter/2))
}

// jitterOf is the place of something within what is spread: the same after a restart,
// and another one on another machine, which the seed names.
func jitterOf(seed, what string) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, seed, "\x00", what)
	x := h.Sum64() // whose upper bits differ little between texts that differ in their last byte
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// Waits between listings of the versions of a certificate.
const (
	listInterval   = 24 * time.Hour
	firstRelisting = time.Minute
	lastRelisting  = 6 * time.Hour
)

// nextListing is how long to wait until the versions of a certificate are listed
// again: a day, up to a tenth less, and after failures a minute, two, four and so on
// up to 6 hours. A permission that is lacking is not there a moment later.
func nextListing(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	if failures == 0 {
		return listInterval - scale(listInterval, jitter)/10
	}
	d := firstRelisting
	for range failures - 1 {
		if d = d * 2; d >= lastRelisting {
			d = lastRelisting
			break
		}
	}
	return max(d, retryAfter)
}
