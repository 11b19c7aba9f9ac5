package hook

import "time"

const (
	// gather is how long a run waits for what is renewed together with what has asked for it.
	gather = 50 * time.Millisecond
	// reserve is how long before the end of the old certificate neither window nor splay counts any more.
	reserve = time.Hour
	// After a failure it is tried again, less and less often.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// want is what a schedule depends on, beside the action.
type want struct {
	since    time.Time // when something was renewed that it was not done for
	newest   time.Time // when the last of that was
	expires  time.Time // the first of the old certificates; zero: not known
	failures int       // in a row
	tried    time.Time
	fraction float64 // of this machine, from 0 to less than 1
}

// due is when an action is to be done, if that is not before now.
func (a Action) due(w want, now time.Time) time.Time {
	at, splay := w.since.Add(gather), a.Splay
	if w.failures > 0 {
		at, splay = w.tried.Add(Backoff(w.failures)), 0
		// What has been renewed since does not wait for what cannot be done.
		if fresh := w.newest.Add(gather); w.newest.After(w.tried) && fresh.Add(time.Duration(w.fraction*float64(a.Splay))).Before(at) {
			at, splay = fresh, a.Splay
		}
	}
	soonest := at
	if a.Window != (Window{}) {
		if at.Before(now) && !a.Window.has(now) {
			at = now // nobody was here when it was open
		}
		opens, closes := a.Window.next(at)
		at, splay = opens, min(splay, closes.Sub(opens))
	}
	at = at.Add(time.Duration(w.fraction * float64(splay)))
	if !w.expires.IsZero() && at.Add(reserve).After(w.expires) {
		return soonest
	}
	return at
}

// Backoff is the pause after so many failures in a row.
func Backoff(failures int) time.Duration {
	pause := firstRetry
	for range failures - 1 {
		if pause *= 2; pause >= lastRetry {
			return lastRetry
		}
	}
	return pause
}

// Window is a time of the day, on some days, by the clock of this machine. The zero Window is none.
type Window struct {
	Days     uint8 `json:"days,omitempty"` // on which it opens: 1<<time.Weekday; 0: all
	From, To int   // minutes of the day; a To that is not later is one of the next day
}

// next is the time from t on in which the window is open: the present one, or the next.
func (w Window) next(t time.Time) (opens, closes time.Time) {
	y, m, d := t.Date()
	for day := d - 1; ; day++ { // one that has opened yesterday may still be open
		opens = time.Date(y, m, day, 0, w.From, 0, 0, t.Location())
		closes = time.Date(y, m, day, 0, w.To, 0, 0, t.Location())
		if w.To <= w.From {
			closes = time.Date(y, m, day+1, 0, w.To, 0, 0, t.Location())
		}
		noon := time.Date(y, m, day, 12, 0, 0, 0, t.Location()) // which every day has
		if w.Days != 0 && w.Days&(1<<noon.Weekday()) == 0 || !closes.After(t) || !closes.After(opens) {
			continue
		}
		if opens.Before(t) {
			opens = t
		}
		return opens, closes
	}
}

// has tells whether the window is open.
func (w Window) has(t time.Time) bool {
	opens, _ := w.next(t)
	return opens.Equal(t)
}
