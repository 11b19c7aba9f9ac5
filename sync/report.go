package sync

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"kvfs/cache"
	"kvfs/certs"
	"kvfs/vault"
)

// State of a certificate in a report.
type State string

const (
	Pending State = "pending" // not tried yet, or not published yet
	OK      State = "ok"      // the last try succeeded
	Stale   State = "stale"   // the last try failed; the last good version is served
	Missing State = "missing" // no try has succeeded: nothing is served
	Partial State = "partial" // the key must not leave the vault: the chain alone is served
	Hidden  State = "hidden"  // expired, or disabled in the vault, and the settings ask to hide it then
	Removed State = "removed" // the settings have it no more; what is there is served for a while
)

// Report is what is known at one moment.
type Report struct {
	Certificates []Status
	Vaults       []VaultStatus
	Versions     int // of all certificates, that are held because they are current or newer
	Bytes        int // of their files
	// Cache holds the older ones.
	Cache   cache.Stats
	Initial Initial
	Loading *Loading // nil if every certificate was asked for
	Counts  Counts
	// Publish is why the last publication failed, or which entry it has left out; nil
	// if all is shown.
	Publish error
}

// Counts are of what this Syncer has done since New.
type Counts struct {
	// Tries are those of a certificate that have come to an end: it was read, or found
	// unchanged in a listing. Failed are those of them that have brought an error.
	Tries, Failed uint64
	// Publications are those that have succeeded, Unpublished the others, and Renewals the
	// new versions of certificates that readers had before.
	Publications, Unpublished, Renewals uint64
}

// Listing says how what is new in a vault is found.
type Listing string

const (
	ListingUnused  Listing = "unused"  // each certificate is read: there is one alone, or none was listed yet
	ListingUsed    Listing = "used"    // a listing says which ones to read
	ListingRefused Listing = "refused" // each is read: the permission to list is lacking
	ListingLarge   Listing = "large"   // each is read: a listing of so large a vault would be more requests
)

// VaultStatus is how one vault answers one identity.
type VaultStatus struct {
	Host     string
	Identity vault.Identity
	// Down is since when it has not answered, zero if it does: then it is asked by one try
	// at a time, next at NextTry, and Err is why the last one failed.
	Down, NextTry time.Time
	Err           error
	Listing       Listing
	Pages         int // of a listing; 0: not known
}

// Status of one certificate. Times are zero for what has not happened.
type Status struct {
	Source                            Source
	State                             State
	Version                           certs.Version // that the links lead to
	NotBefore, NotAfter               time.Time     // of that version
	LastAttempt, LastSuccess, NextTry time.Time
	Asked                             time.Time // since when this process has been asked to have it
	Failures                          int       // since the last success
	Err                               error
	Warnings                          []string
	LeftOut                           int // older versions that are in the vault and cannot be read
}

// Report says how things are now. It does not wait for a poll.
func (s *Syncer) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, now := Report{Publish: cmp.Or(s.publishErr, s.clash), Cache: s.cache.Stats(), Vaults: s.vaults, Counts: s.counts}, time.Now()
	r.Initial = s.initialNow(now)
	if l, going := s.loading(); going {
		r.Loading = &l
	}
	r.Certificates = make([]Status, 0, len(s.certs))
	for _, c := range s.certs {
		for _, v := range c.versions {
			if v.Resident() {
				r.Versions++
				r.Bytes += v.Size()
			}
		}
		r.Certificates = append(r.Certificates, s.status(c, now))
	}
	return r
}

// Certificates is the part of a report about those that only picks.
func (s *Syncer) Certificates(only func(Source) bool) (all []Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, c := range s.certs {
		if only(c.source) {
			all = append(all, s.status(c, now))
		}
	}
	return all
}

func (s *Syncer) status(c *certificate, now time.Time) Status {
	st := Status{Source: c.source, State: c.state(now), Version: c.shown, LastAttempt: c.lastAttempt, LastSuccess: c.lastSuccess,
		NextTry: c.next, Asked: c.asked, Failures: c.failures, Err: c.err, Warnings: slices.Concat(c.warnings, c.timely(now))}
	more := c.olderWarnings(s.settings.Keep == KeepAll)
	st.Warnings, st.LeftOut = append(st.Warnings, more...), len(c.leftOut())
	if i := c.place(c.shown); i >= 0 {
		st.NotBefore, st.NotAfter = c.versions[i].NotBefore, c.versions[i].NotAfter
	}
	return st
}

// Published is why the last publication failed, as in a report.
func (s *Syncer) Published() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.publishErr, s.clash)
}

// timely are the warnings that come and go with the time.
func (c *certificate) timely(now time.Time) (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	current := c.current(now)
	switch {
	case current == nil && len(c.versions) > 0:
		hidden, why := c.versions[c.linked(now)], "it is disabled in the vault"
		if !c.policy.HideDisabled || !c.disabled {
			why = "it has expired on " + hidden.NotAfter.UTC().Format(time.RFC3339)
		}
		warn("version %s is hidden, as the settings ask: %s", hidden.ID, why)
		return warnings
	case current == nil:
		return nil
	case current != c.versions[0]:
		warn("version %s waits until it is valid, from %s", c.versions[0].ID, c.versions[0].NotBefore.UTC().Format(time.RFC3339))
	}
	warnings = append(warnings, current.Unwritten()...)
	if now.Before(current.NotBefore) {
		warn("it is not valid before %s", current.NotBefore.UTC().Format(time.RFC3339))
	}
	if !now.Before(current.NotAfter) {
		warn("it has expired on %s", current.NotAfter.UTC().Format(time.RFC3339))
	}
	return warnings
}

// hidden tells whether the settings ask not to show what the vault has: also where it
// was disabled before this process came, and nothing of it is known.
func (c *certificate) hidden(now time.Time) bool {
	return len(c.versions) > 0 && c.current(now) == nil || c.policy.HideDisabled && c.disabled
}

func (c *certificate) state(now time.Time) State {
	switch {
	case c.retired:
		return Removed
	case c.hidden(now):
		return Hidden
	case c.lastAttempt.IsZero() && c.lastSuccess.IsZero() && c.shown != "":
		return Stale // the last good of another time; see remember
	case c.lastAttempt.IsZero(), c.err == nil && c.shown == "":
		return Pending
	case c.err == nil:
		return OK
	case c.err == c.keyless:
		return Partial
	case c.shown != "":
		return Stale
	}
	return Missing
}

// Failure is an error in words for a person and a kind for a program.
type Failure struct{ Kind, Fact, Hint string }

// Explain turns the error of a certificate into a Failure.
func Explain(err error) Failure {
	var ve *vault.Error
	var ce *certs.Error
	var refused *Refused
	switch {
	case errors.As(err, &refused):
		return Failure{Kind: refused.Kind, Fact: refused.Fact, Hint: refused.Hint}
	case errors.As(err, &ve):
		return Failure{Kind: string(ve.Kind), Fact: ve.Fact, Hint: ve.Hint}
	case errors.As(err, &ce):
		return Failure{Kind: string(ce.Kind), Fact: ce.Fact, Hint: ce.Hint}
	}
	return Failure{Kind: "internal", Fact: err.Error()}
}
