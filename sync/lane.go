package sync

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"kvfs/certs"
	"kvfs/vault"
)

// A listing of a vault shows for every secret when it was changed last, 25 on a page. So
// one request stands for 25, where it is allowed and the vault has not too many secrets
// that nobody here asks for.

const (
	listRoom = 8 // listings side by side
	// listPatience is how long one may take with all its pages: who is covered waits for it.
	listPatience = 2 * time.Minute
	// relist is when a vault is listed again that refuses it, or was too large.
	relist = 24 * time.Hour
	// recheck is how long a secret is believed to be unchanged without being read.
	recheck = 24 * time.Hour
	// settling is how long after a change a read has to come for a listing to tell it from
	// a later one: times in a vault have a resolution of one second, and its machines have
	// more than one clock.
	settling = 5 * time.Second
)

// lane is one identity at one vault.
type lane struct {
	breaker
	key      laneKey
	host     *host
	name     string // of the host
	identity vault.Identity

	covers   map[*certificate]bool // by the listing that is under way; nil: none is
	notTill  time.Time             // no listing before
	next     time.Time             // listing, if nothing comes between
	refused  error                 // why the last one was; nil if it was not
	ease     time.Duration         // over which what the next one finds is read; see open
	faltered bool                  // the last one did, and nothing was answered since
	strikes  int                   // how often that was so and the next read was answered, in a row
	pages    int                   // of the last complete one; 0: none yet
}

// mark is what tells a version from the next one in a listing.
type mark struct {
	ContentType                          string
	Enabled                              bool
	Created, Updated, NotBefore, Expires time.Time
}

func markOf(s *vault.Secret) mark {
	return mark{known(s.ContentType), s.Enabled, s.Created, s.Updated, s.NotBefore, s.Expires}
}

// known is a content type, without a string of its own if it is one that certificates have.
func known(contentType string) string {
	switch contentType {
	case "application/x-pkcs12":
		return "application/x-pkcs12"
	case "application/x-pem-file":
		return "application/x-pem-file"
	}
	return contentType
}

// shows tells whether a listing shows what the mark was made of.
func (m mark) shows(l vault.Listed) bool {
	return m.ContentType == l.ContentType && m.Enabled == l.Enabled && m.Created.Equal(l.Created) && m.Updated.Equal(l.Updated) &&
		m.NotBefore.Equal(l.NotBefore) && m.Expires.Equal(l.Expires)
}

// remark takes down how the newest version is found again in a listing. What was read and
// not taken has to be read again: a listing knows nothing of why. So has what was read
// within seconds after its last change, by the vault's clock: it may have missed another
// change in the same second, which no listing would show.
func (c *certificate) remark(s *vault.Secret, now time.Time) {
	if ofHost(c.err) || ofIdentity(c.err) { // it says nothing of the certificate
		return
	}
	c.mark, c.readAt = mark{}, time.Time{}
	taken := s != nil && len(c.versions) > 0 && c.versions[0].ID == certs.Version(s.Version) && (c.err == nil || c.err == c.keyless)
	if taken && !s.Updated.IsZero() && s.Answered.Sub(s.Updated) >= settling {
		c.mark, c.readAt = markOf(s), now
	}
}

// listable tells whether a listing can stand for a try of a certificate: it is allowed,
// has fewer requests than the tries that it saves, and there is something to compare.
func (r *runner) listable(c *certificate, now time.Time) bool {
	l := r.lane(c)
	again := l.pages < r.shared[c.lane] || !l.notTill.IsZero() // it may have become smaller
	return c.listable(now) && !c.wanted && !l.faltered && !now.Before(l.notTill) && again && r.shared[c.lane] > 1
}

// listable tells whether all is known of a certificate that a listing is compared with.
func (c *certificate) listable(now time.Time) bool {
	if c.retired || c.source.Ref.Pinned() || c.readAt.IsZero() {
		return false
	}
	if ofHost(c.err) || ofIdentity(c.err) { // all want to know at once whether they have missed anything
		return true
	}
	fresh := now.Before(c.readAt.Add(recheck - scale(recheck, c.jitter)/10))
	return fresh && (c.err == nil || c.err == c.keyless)
}

// covered tells whether a listing is under way that stands for a try of a certificate.
func (r *runner) covered(c *certificate) bool {
	return !c.wanted && r.lane(c).covers[c]
}

// list begins a listing that stands for a try of a certificate, and for those of all in
// its lane, if one can.
func (r *runner) list(ctx context.Context, c *certificate, now time.Time) bool {
	l := r.lane(c)
	if l.covers != nil || !r.listable(c, now) {
		return false
	}
	if r.underway == cap(r.listings) {
		return true // it waits for one that is under way
	}
	l.covers = map[*certificate]bool{}
	for _, o := range r.certs {
		if o.lane == c.lane && !r.flying[o] && o.listable(now) {
			l.covers[o] = true
		}
	}
	r.underway++
	r.took(c, now)
	v, at, most := r.vault(), listing{cert: c, lane: l, settings: r.generation, began: now, listed: map[string]vault.Listed{}}, r.shared[c.lane]-1
	r.tries.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, listPatience)
		defer cancel()
		at.pages, at.complete, at.err = v.List(ctx, c.source.Identity, c.source.Ref, most, func(s vault.Listed) { at.listed[strings.ToLower(s.Name)] = s })
		r.listings <- at
		return nil
	})
	return true
}

// listing is what came of one.
type listing struct {
	cert     *certificate // for which it was begun
	lane     *lane
	settings int
	began    time.Time
	listed   map[string]vault.Listed
	pages    int
	complete bool
	err      error
}

// compare takes a listing in: who is in it as before has been tried with success, and the
// others are due as they were.
func (r *runner) compare(ctx context.Context, at listing) {
	now, l := time.Now(), at.lane
	covers := l.covers
	l.covers = nil
	r.underway--
	shared, ease := ofHost(at.err) || ofIdentity(at.err), l.ease
	if shared {
		l.faltered = true // a read comes next
		r.record(ctx, outcome{cert: at.cert, settings: at.settings, started: at.began, err: at.err})
	}
	r.landed(ctx, at.cert, at.began, at.err)
	if shared || ctx.Err() != nil || at.settings != r.generation {
		return
	}
	ease, l.ease = max(ease, l.ease), 0 // the breaker may have closed with it
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case at.err != nil:
		l.notTill, l.refused = now.Add(relist), at.err
		r.unsettle(l.key) // each goes its own way now
		f := Explain(at.err)
		r.log.Info("a vault cannot be listed; its secrets are read one by one", "host", at.cert.host, "kind", f.Kind, "err", f.Fact)
		return
	case !at.complete:
		l.notTill, l.refused, l.pages = now.Add(relist), nil, at.pages+1
		r.unsettle(l.key)
		r.log.Info("a vault has so many secrets that reading ours one by one is less", "host", at.cert.host, "pages", at.pages)
		return
	}
	l.notTill, l.refused, l.pages, l.strikes = time.Time{}, nil, max(at.pages, 1), 0
	for _, c := range r.certs {
		s, there := at.listed[strings.ToLower(c.source.Ref.Name())]
		switch {
		case c.lane != l.key || c.retired || r.flying[c] || c.lastAttempt.After(at.began):
		case covers[c] && there && !c.wanted && c.mark.shows(s):
			r.confirm(c, at.began, now)
		case covers[c]: // it has to be read
			c.next, c.readAt = now.Add(r.eased(c, now, ease)), time.Time{}
		}
	}
}

// unsettle lets the certificates of a lane go apart. The caller holds mu.
func (r *runner) unsettle(lane laneKey) {
	for _, c := range r.certs {
		if c.lane == lane {
			c.settled = false
		}
	}
}

// confirm is what a try would have said that found all as it was. The caller holds mu.
func (r *runner) confirm(c *certificate, began, now time.Time) {
	before := c.err
	r.counts.tried(nil)
	c.lastAttempt, c.lastSuccess, c.failures, c.spare, c.err, c.held = began, now, 0, 0, nil, false
	if len(c.versions) > 0 && !c.versions[0].HasKey() {
		c.err = c.keyless
	}
	c.next = c.schedule(now, r.settings.Interval, 0, c.laneJitter)
	r.lane(c).next = c.next
	if c.shown == "" && c.current(now) != nil { // it was hidden
		r.dirty = true
	}
	r.report(c, before)
}

// describe lets the report say how the vaults answer.
func (r *runner) describe() {
	all := make([]VaultStatus, 0, len(r.lanes))
	for _, l := range r.lanes {
		if r.used[l.key] {
			all = append(all, l.status(r.shared[l.key]))
		}
	}
	slices.SortFunc(all, func(a, b VaultStatus) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Identity.Key(), b.Identity.Key()))
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vaults = all
}

func (l *lane) status(shared int) VaultStatus {
	v := VaultStatus{Host: l.name, Identity: l.identity, Listing: ListingUnused, Pages: l.pages}
	for _, b := range []*breaker{&l.host.breaker, &l.breaker} {
		if b.open {
			v.Down, v.NextTry, v.Err = b.since, b.until, b.err
		}
	}
	switch {
	case l.refused != nil:
		v.Listing = ListingRefused
	case l.pages >= shared && shared > 1:
		v.Listing = ListingLarge
	case l.pages > 0:
		v.Listing = ListingUsed
	}
	return v
}
