package sync

import "time"

// Loading is how far the poller has come with asking for every certificate of the
// settings once.
type Loading struct {
	Done, Total int       // certificates that were asked for, of how many
	Failed      int       // of those that were asked for, and nothing is known of
	Since       time.Time // when the settings came that have what was not asked for
}

// Loading is how far loading has come; going tells that it goes on. It is cheap enough
// to be asked for ten times a second.
func (s *Syncer) Loading() (l Loading, going bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loading()
}

// loading is Loading for who holds mu.
func (s *Syncer) loading() (l Loading, going bool) {
	l.Since = s.loadBegan
	for _, c := range s.certs {
		switch {
		case c.retired:
			continue
		case !c.lastAttempt.IsZero():
			l.Done++
			if c.err != nil && len(c.versions) == 0 {
				l.Failed++
			}
		}
		l.Total++
	}
	return l, l.Done < l.Total
}
