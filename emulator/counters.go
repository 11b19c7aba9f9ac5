package emulator

import (
	"net/http"
	"sync"
)

// Counters are numbers of requests since the emulator was made. A request
// counts when it arrives, one that is held back by a fault too; its outcome
// counts when it is decided.
type Counters struct {
	Secrets  int64 `json:"secrets"`  // with a valid token, for a value
	Versions int64 `json:"versions"` // with a valid token, for a page of versions
	List     int64 `json:"list"`     // with a valid token, for a page of secrets or deleted secrets

	Challenges int64 `json:"challenges"` // answered 401 for want of a token
	Rejected   int64 `json:"rejected"`   // answered 401 in spite of a token
	Throttled  int64 `json:"throttled"`  // answered 429
	Forbidden  int64 `json:"forbidden"`  // answered 403
	NotFound   int64 `json:"notFound"`   // answered 404
	Errors     int64 `json:"errors"`     // answered with another error
	Broken     int64 `json:"broken"`     // not answered, or not in full, because of a fault

	Identity       int64 `json:"identity"`       // to the identity endpoint
	IdentityErrors int64 `json:"identityErrors"` // of these, without a token in the answer

	Arc       int64 `json:"arc"`       // to the Azure Arc endpoint; an exchange takes two
	ArcErrors int64 `json:"arcErrors"` // of these, with neither a token nor a challenge in the answer

	Login       int64 `json:"login"`       // to the token endpoints of the login servers; discovery does not count
	LoginErrors int64 `json:"loginErrors"` // of these, without a token in the answer
}

type counts struct {
	mu sync.Mutex
	c  Counters
}

// Counters returns the present numbers, all from the same moment.
func (e *Emulator) Counters() Counters {
	e.counts.mu.Lock()
	defer e.counts.mu.Unlock()
	return e.counts.c
}

func (s *counts) add(f func(*Counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.c)
}

// outcome counts what the data plane answers.
func (s *counts) outcome(a answer) {
	s.add(func(c *Counters) {
		switch {
		case a.delivery == Hang, a.delivery == Drop, a.delivery == HalfOpen:
			c.Broken++
		case a.status == http.StatusUnauthorized && a.challenge:
			c.Challenges++
		case a.status == http.StatusUnauthorized:
			c.Rejected++
		case a.status == http.StatusTooManyRequests:
			c.Throttled++
		case a.status == http.StatusForbidden:
			c.Forbidden++
		case a.status == http.StatusNotFound:
			c.NotFound++
		case a.status >= 400:
			c.Errors++
		}
	})
}

// login counts a request for a token.
func (s *counts) login(a answer) {
	s.add(func(c *Counters) {
		c.Login++
		if a.status != http.StatusOK || a.delivery != "" {
			c.LoginErrors++
		}
	})
}
