package sync

import (
	"context"
	"errors"
	"slices"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// Errands bring older versions for which no reader waits: those that become current
// again, those that changed settings want in other forms, and, with KeepAll, those
// that the vault had before kvfs came. Polls go before: errands begin when every
// certificate was tried once, and there are few side by side.

// errandRoom is how many errands there are at a time; each certificate has one.
const errandRoom = 4

// older is what is known of the versions behind the current one, and what is to be
// done about them.
type older struct {
	lacking  []certs.Version         // stubs that are to be written in more forms
	missing  []certs.Version         // in the vault and not here, newest first
	troubles map[certs.Version]error // of the last read of each that failed; see note

	total        int // versions that the vault has, by the last listing
	listAt       time.Time
	listFailures int // since the last good one
	listErr      error

	errandAt       time.Time // not before this, after failures
	errandFailures int       // since the last good one
}

// errand is one question to a vault about older versions of a certificate: for the
// list of them, or for one.
type errand struct {
	need
	cert     *certificate
	source   Source
	policy   Policy
	versions []*tree.Version // that are here
	settings int             // a number that changes with them
}

// need is what a certificate lacks.
type need struct {
	list   bool
	id     certs.Version
	stub   *tree.Version // of id; nil if it is not here
	urgent bool          // readers are to be led to it
}

// found is what came of an errand.
type found struct {
	errand
	began    time.Time
	listing  []vault.VersionInfo
	version  *tree.Version
	warnings []string
	keyless  error // beside a version: why it has no key
	err      error
}

// need is the next one of a certificate, and when it is due. Each of thousands is asked
// for it again and again.
func (c *certificate) need(now time.Time, all bool) (e need, due time.Time, ok bool) {
	if c.retired {
		return e, due, false
	}
	inPlace := len(c.versions) == 0 && c.disabled && !c.policy.HideDisabled // of the newest
	for _, v := range c.versions[:min(c.linked(now)+1, len(c.versions))] {
		if !v.Resident() {
			e.id, e.stub, e.urgent = v.ID, v, true
			return e, c.errandAt, true
		}
	}
	for _, id := range c.lacking {
		if i := c.place(id); i >= 0 {
			e.id, e.stub = id, c.versions[i]
			return e, c.errandAt, true
		}
	}
	if c.source.Ref.Pinned() || !inPlace && !(all && len(c.versions) > 0) {
		return e, due, false
	}
	if len(c.missing) > 0 {
		e.id = c.missing[0]
		return e, c.errandAt, true
	}
	e.list = true
	return e, c.listAt, true
}

// send begins errands, the urgent ones first. A vault that does not answer polls is
// asked nothing more.
func (r *runner) send(ctx context.Context) {
	if !r.begun() {
		return
	}
	r.sent = time.Now()
	for _, urgent := range []bool{true, false} {
		for _, c := range r.certificates() {
			if len(r.errands) == cap(r.found) {
				return
			}
			n, due, ok := c.need(r.sent, r.settings.Keep == KeepAll)
			if !ok || due.After(r.sent) || urgent && !n.urgent || r.errands[c] || r.host(c).open || r.lane(c).open {
				continue
			}
			if _, cached := r.cache.Peek(cacheKey(c.key, n.id)); n.urgent && cached {
				r.mu.Lock()
				r.dirty = true // the publication takes it from there
				r.mu.Unlock()
				continue
			}
			e := errand{need: n, cert: c, source: c.source, policy: c.policy, versions: c.versions, settings: r.generation}
			r.errands[c] = true
			v := r.vault()
			r.tries.Go(func() error {
				r.found <- e.run(ctx, v)
				return nil
			})
		}
	}
}

// begun tells whether every certificate was tried once: errands come after that.
func (r *runner) begun() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// run asks the vault.
func (e errand) run(ctx context.Context, v Vault) found {
	f := found{errand: e, began: time.Now()}
	if e.list {
		f.listing, f.err = v.Versions(ctx, e.source.Identity, e.source.Ref)
		return f
	}
	secret, err := v.Get(ctx, e.source.Identity, e.source.Ref.WithVersion(string(e.id)))
	if err != nil {
		f.err = err
		return f
	}
	if e.stub == nil {
		o := outcome{secret: secret}
		attempt{policy: e.policy, versions: e.versions}.read(ctx, &o)
		f.version, f.warnings, f.keyless = o.version, o.warnings, o.err
		if f.version == nil {
			f.err, f.keyless = o.err, nil
		}
		return f
	}
	if f.version, f.err = restore(secret, e.stub); f.err == nil {
		f.version, f.err = f.version.With(e.policy.Views...)
	}
	return f
}

// bring takes in what came of an errand.
func (r *runner) bring(ctx context.Context, f found) {
	c, now := f.cert, time.Now()
	delete(r.errands, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil || r.byKey[c.key] != c || c.retired || f.settings != r.generation {
		return // what is still to be done is found again
	}
	if f.stub == nil && f.version != nil && len(c.versions) > 0 && !f.version.Created.Before(c.versions[0].Created) {
		f.err = c.policy.held(c.versions, f.version) // it may be the newer one
	}
	switch {
	case f.list:
		r.listed(c, f, now)
	case f.err != nil:
		r.note(c, f.id, f.err)
		c.postpone(f, now)
	default:
		r.note(c, f.id, nil)
		c.admit(f)
		c.trim(now, r.settings.keep())
		r.arrange(c, now)
		r.dirty = true
	}
}

// admit takes a version in that an errand has brought.
func (c *certificate) admit(f found) {
	c.errandFailures, c.errandAt = 0, time.Time{}
	c.settle(f.id)
	i := c.place(f.id)
	if i >= 0 {
		c.versions = slices.Clone(c.versions)
		c.versions[i] = f.version
		return
	}
	if f.stub != nil {
		return // it has been forgotten meanwhile
	}
	for i = min(1, len(c.versions)); i < len(c.versions) && !c.versions[i].Created.Before(f.version.Created); {
		i++
	}
	if len(c.versions) == 0 { // in the place of the newest
		c.warnings, c.keyless, c.fetched = f.warnings, f.keyless, f.began
	}
	c.versions = slices.Insert(slices.Clone(c.versions), i, f.version)
}

// settle takes a version from the lists of what is to be done.
func (c *certificate) settle(id certs.Version) {
	is := func(other certs.Version) bool { return other == id }
	c.lacking = slices.DeleteFunc(slices.Clone(c.lacking), is)
	c.missing = slices.DeleteFunc(slices.Clone(c.missing), is)
}

// postpone decides when an errand that failed is done again. A version that is not
// good for anything is left as it is until the next listing; others let those behind
// them go before.
func (c *certificate) postpone(f found, now time.Time) {
	var ve *vault.Error
	passing := errors.As(f.err, &ve) && ve.Kind != vault.KindDisabled && ve.Kind != vault.KindNotFound
	if !f.urgent {
		lacks, misses := slices.Contains(c.lacking, f.id), slices.Contains(c.missing, f.id)
		c.settle(f.id)
		if !passing {
			return
		}
		if lacks {
			c.lacking = append(c.lacking, f.id)
		}
		if misses {
			c.missing = append(c.missing, f.id)
		}
	}
	c.errandFailures++
	wait := backoff(c.errandFailures)
	if ve != nil {
		wait = max(wait, ve.RetryAfter)
	}
	c.errandAt = now.Add(wait)
}

// listed takes in the list of versions that a vault has. The caller holds mu.
func (s *Syncer) listed(c *certificate, f found, now time.Time) {
	before := c.listErr
	c.listErr = f.err
	if f.err != nil {
		c.listFailures++
		var retryAfter time.Duration
		var ve *vault.Error
		if errors.As(f.err, &ve) {
			retryAfter = ve.RetryAfter
		}
		c.listAt = now.Add(nextListing(c.listFailures, retryAfter, c.jitter))
		if e := Explain(f.err); before == nil || Explain(before) != e {
			s.log.Warn("the versions in the vault could not be listed", "url", c.source.Ref.String(), "kind", e.Kind, "err", e.Fact, "hint", e.Hint)
		}
		return
	}
	c.listFailures, c.listAt = 0, now.Add(nextListing(0, 0, c.jitter))
	there := c.behind(f.listing)
	c.total = len(there)
	c.missing = nil
	for _, id := range there[:min(len(there), MaxVersions)] {
		if c.place(id) < 0 {
			c.missing = append(c.missing, id)
		}
	}
	for _, id := range c.leftOut() { // what is not there any more is no trouble
		if !slices.Contains(c.missing, id) {
			delete(c.troubles, id)
		}
	}
}

// behind are those versions of a list that are enabled and not newer than the newest
// that is here: one that the policy has refused does not come in by the back door.
// Times have a resolution of one second, so of two in the same one neither is newer.
func (c *certificate) behind(listing []vault.VersionInfo) (ids []certs.Version) {
	var newest time.Time
	if len(c.versions) > 0 {
		newest = c.versions[0].Created
	}
	for _, v := range listing {
		id := certs.Version(v.Version)
		newer := !newest.IsZero() && v.Created.After(newest)
		refused := id == c.latest && c.place(id) < 0
		if v.Enabled && !newer && !refused {
			ids = append(ids, id)
		}
	}
	return ids
}
