package keeper

import "time"

const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = 2 * time.Second
)

// backoff is how long to wait before the start that follows so many failed ones in
// a row: nothing after the first, since readers wait for whoever is started, then
// twice as long each time up to backoffMost.
func backoff(failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	d := backoffFirst
	for range failures - 2 {
		if d >= backoffMost/2 {
			return backoffMost
		}
		d *= 2
	}
	return d
}
