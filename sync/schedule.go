package sync

import "time"

// Waits after failures: growing from the first, so that a blip costs seconds,
// up to a bound that a vault in trouble can live with.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 2 * time.Minute
)

// nextPoll is how long to wait for the next try of a certificate. failures is the
// number of tries that failed since the last good one, retryAfter what the
// service asked for (0: nothing), spread a number in [0,1) that is constant for a
// certificate on a machine.
//
// After a success it is the interval, up to a tenth less, so that machines that
// started together do not stay together. After failures it is 2 s, 3 s, 4.5 s
// and so on up to 2 minutes, but never longer than the interval; and never
// shorter than what the service asked for.
func nextPoll(interval time.Duration, failures int, retryAfter time.Duration, spread float64) time.Duration {
	wait := interval - time.Duration(spread*float64(interval)/10)
	if failures > 0 {
		wait = min(wait, backoff(failures))
	}
	return max(wait, retryAfter)
}

func backoff(failures int) time.Duration {
	d := firstRetry
	for range failures - 1 {
		if d = d * 3 / 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
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
func nextListing(failures int, retryAfter time.Duration, spread float64) time.Duration {
	if failures == 0 {
		return listInterval - time.Duration(spread*float64(listInterval)/10)
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
