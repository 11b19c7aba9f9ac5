package sync

import "time"

// remember is what is known of a certificate from before this process: what a predecessor
// knew, if what that showed is still in memory, otherwise what Options.LastGood has.
func (s *Syncer) remember(src Source) *certificate {
	c := s.recall(src)
	if s.opts.LastGood == nil || c != nil && !c.unread && (len(c.versions) == 0 || c.current(time.Now()) != nil && c.current(time.Now()).Resident()) {
		return c
	}
	versions := s.opts.LastGood(src)
	if len(versions) == 0 {
		return c
	}
	c = s.newCertificate(src)
	c.versions, c.fetched = versions, time.Now()
	return c
}
