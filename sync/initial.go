package sync

import (
	"encoding/json"
	"slices"
	"time"

	"kvfs/image"
)

// The initial sync of settings that require one is over when every certificate has
// been available once. Until then, and for a bounded time, whoever waits for kvfs
// waits for that. What is served does not depend on it.

const (
	// initialTries is after how many failed tries of one certificate the initial sync has
	// failed. The waits between them, by nextPoll, are 32 minutes in all at most, less where
	// the interval is shorter.
	initialTries = 25
	// initialPatience ends it too. A vault that asks to wait is tried less often, and so is
	// one that does not answer for many certificates, or whose version a policy refuses;
	// who waits for kvfs must not wait for ever. Azure's own patience is 90 minutes.
	initialPatience = time.Hour
)

// InitialState is how far an initial sync has come.
type InitialState string

const (
	Transitioning InitialState = "transitioning" // some certificate has not been available yet
	Success       InitialState = "success"       // each was, or the settings require no initial sync
	Failed        InitialState = "error"         // it took too many tries, or too long; success may still come
)

// Initial is the initial sync in a report.
type Initial struct {
	Required bool // by the settings; otherwise it is a success from the start
	State    InitialState
	// Available of the certificates that the settings have, Total, are those of which
	// something can be read, or of which the settings ask to hide what there is. A
	// certificate whose key must not leave the vault is available with its chain alone:
	// no try brings the key.
	Available, Total int
	// Try is how many tries of a certificate have failed since the initial sync began, of
	// those that lack the one that was tried most often; 0 if none lacks. With Of the
	// initial sync has failed, and tries go on. Both are 0 if it is not required.
	Try, Of int
	Next    time.Time // try of one that lacks; zero if none does
}

// initialSync is what is known of it between two looks. The Syncer's mu guards it.
//
// Success is success for as long as the settings have no certificate that is new:
// what becomes of one later is no affair of the beginning.
type initialSync struct {
	required bool
	state    InitialState
	began    time.Time
	from     map[*certificate]int // tries before it began
	kept     keptInitial          // that the image has
}

// keptInitial is the record of an initial sync. Its tries count for each certificate
// that lacks, so that the waits between them go on growing.
type keptInitial struct {
	State InitialState `json:"state"`
	Began time.Time    `json:"began"`
	Tries int          `json:"tries"`
}

// after is the state that follows a state when this is how things are, and so much time
// has passed since it began.
func (s InitialState) after(i Initial, passed time.Duration) InitialState {
	switch {
	case s == Success || i.Available == i.Total:
		return Success
	case s == Failed || i.Try >= initialTries || passed >= initialPatience:
		return Failed
	}
	return Transitioning
}

// tries is how often a certificate was asked for in vain since the last success, without
// being asked to; of one that lacks, since it came. Who is impatient uses none up.
func (c *certificate) tries() int { return c.failures - c.spare }

// available tells whether nobody needs to wait for a certificate any more.
func (c *certificate) available(now time.Time) bool {
	return c.shown != "" || c.hidden(now)
}

// initialConfigured takes settings over; more says that they have a certificate of
// which nothing was known. That, or settings that require what the ones before did not,
// begins an initial sync anew. The caller holds mu.
func (s *Syncer) initialConfigured(more bool, now time.Time) {
	i := &s.initial
	begins := s.settings.RequireInitialSync && (more || !i.required || i.state == "")
	i.required = s.settings.RequireInitialSync
	switch {
	case !i.required:
		i.state = Success
	case begins:
		i.state, i.began, i.from = Transitioning, now, map[*certificate]int{}
		for _, c := range s.certs {
			i.from[c] = c.tries()
		}
		s.log.Info("the initial sync begins", "certificates", s.initialNow(now).Total)
	}
	s.initialOver()
}

// initialNow is how things are. The caller holds mu.
func (s *Syncer) initialNow(now time.Time) Initial {
	i := Initial{Required: s.initial.required, State: s.initial.state}
	for _, c := range s.certs {
		switch {
		case c.retired:
			continue
		case c.available(now):
			i.Available++
		default:
			i.Try = max(i.Try, c.tries()-s.initial.from[c])
			if i.Next.IsZero() || c.next.Before(i.Next) {
				i.Next = c.next
			}
		}
		i.Total++
	}
	if !i.Required {
		i.Try, i.Next = 0, time.Time{}
		return i
	}
	i.Of = initialTries
	return i
}

// lookAtInitial finds out whether the initial sync has come further, and keeps that for
// the process after this one.
func (s *Syncer) lookAtInitial() {
	s.mu.Lock()
	s.advanceInitial(time.Now())
	record := s.initialRecord()
	same := record == s.initial.kept
	s.initial.kept = record
	s.mu.Unlock()
	if same || s.opts.Image == nil {
		return
	}
	change, err := record.change()
	if err == nil {
		err = s.opts.Image.Enter(change)
	}
	if err != nil {
		s.log.Warn("a successor would begin the initial sync anew", "err", err)
	}
}

// advanceInitial goes to the state that follows from how things are, and says so once.
// The caller holds mu.
func (s *Syncer) advanceInitial(now time.Time) {
	was := s.initial.state
	if was == Success {
		return // for ever
	}
	i, took := s.initialNow(now), now.Sub(s.initial.began)
	s.initial.state = was.after(i, took)
	switch took = took.Round(time.Millisecond); {
	case s.initial.state == was:
	case s.initial.state == Success:
		s.log.Info("the initial sync is done", "certificates", i.Total, "took", took)
	default:
		s.log.Error("the initial sync has failed; polling goes on", "available", i.Available, "certificates", i.Total, "tries", i.Try, "took", took)
	}
	s.initialOver()
}

// initialOver tells those who wait for the end of the initial sync. The caller holds mu.
func (s *Syncer) initialOver() {
	if s.initial.state == Transitioning {
		return
	}
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
}

// initialEnd is the time at which the initial sync has failed by itself, if that is
// before another time.
func (s *Syncer) initialEnd(before time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := s.initial.began.Add(initialPatience); s.initial.state == Transitioning && end.Before(before) {
		return end
	}
	return before
}

// initialRecord is what the process after this one has to know. The caller holds mu.
func (s *Syncer) initialRecord() keptInitial {
	if !s.initial.required {
		return keptInitial{}
	}
	k := keptInitial{State: s.initial.state, Began: s.initial.began}
	if k.State != Success {
		k.Tries = min(s.initialNow(time.Now()).Try, initialTries) // or it would change for ever
	}
	return k
}

func (k keptInitial) change() (image.Change, error) {
	if k == (keptInitial{}) {
		return image.Change{Key: keyInitial}, nil
	}
	b, err := json.Marshal(k)
	return image.Change{Key: keyInitial, Value: b}, err
}

// recallInitial takes over what a predecessor has kept.
func (s *Syncer) recallInitial() {
	if s.opts.Image == nil {
		return
	}
	b, ok := s.opts.Image.Get(keyInitial)
	if !ok {
		return
	}
	var k keptInitial
	if err := json.Unmarshal(b, &k); err != nil || !slices.Contains([]InitialState{Transitioning, Success, Failed}, k.State) {
		s.log.Warn("the initial sync begins anew: what was kept of it cannot be read", "err", err)
		return
	}
	s.initial = initialSync{required: true, state: k.State, began: k.Began, kept: k}
}
