package sync

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"kvfs/certs"
	"kvfs/tree"
)

// How many secrets are fetched side by side, of all vaults together.
const concurrency = 64

// runner is what Run alone knows.
type runner struct {
	*Syncer
	tries    errgroup.Group
	flying   map[*certificate]bool // being tried; at most as many as outcomes has room for
	outcomes chan outcome
	errands  map[*certificate]bool // under way for older versions; at most as many as found has room for
	found    chan found
	listings chan listing
	underway int // listings; at most as many as that has room for
	waiting  []*wish
	hosts    map[string]*host
	lanes    map[laneKey]*lane
	shared   map[laneKey]int  // certificates that a listing of a lane can stand for
	used     map[laneKey]bool // lanes that have certificates
	thirst   time.Time        // when a vault may be asked again that was asked too much; zero: none
	asked    time.Time        // when the settings were last asked how things are shown
	looked   time.Time        // when launch last looked for what is due
	sent     time.Time        // when send did
}

// grant takes a wish up.
func (r *runner) grant(w *wish) {
	if w.settings != nil {
		before := r.settings.Vault
		if r.configure(*w.settings); before != r.settings.Vault {
			r.probe() // there may be another way to them
		}
	}
	r.respec()
	r.survey()
	r.mu.Lock()
	defer r.mu.Unlock()
	w.granted = time.Now()
	for _, other := range r.waiting { // nobody tries what the settings have no more
		maps.DeleteFunc(other.left, func(c *certificate, _ bool) bool { return c.retired || !slices.Contains(r.certs, c) })
	}
	w.left = map[*certificate]bool{}
	for _, c := range r.certs {
		switch {
		case c.retired:
		case w.only != nil && w.only(c.source):
			c.wanted, c.urged, w.left[c] = true, true, true
		case w.only == nil && c.lastAttempt.IsZero():
			w.left[c] = true                         // due by itself, or being tried
			c.wanted = c.wanted || w.settings != nil // also if its vault does not answer others: somebody waits
		}
	}
	r.waiting = append(r.waiting, w)
}

// probe lets one try through each breaker now.
func (r *runner) probe() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, h := range r.hosts {
		h.until = now
	}
	for _, l := range r.lanes {
		l.until = now
	}
	for _, c := range r.certs {
		if c.held {
			c.next = now
		}
	}
}

// survey counts what a listing can stand for. A wish is somebody's to see what has
// changed: permissions too.
func (r *runner) survey() {
	r.shared = map[laneKey]int{}
	used := map[laneKey]bool{}
	r.used = used
	for _, c := range r.certificates() {
		used[c.lane] = used[c.lane] || !c.retired
		if !c.retired && !c.source.Ref.Pinned() {
			r.shared[c.lane]++
		}
	}
	for key, l := range r.lanes {
		l.notTill, l.refused, l.pages, l.faltered, l.strikes = time.Time{}, nil, 0, false, 0
		if !used[key] && l.flying == 0 {
			delete(r.lanes, key)
		}
	}
	maps.DeleteFunc(r.hosts, func(_ string, h *host) bool { // a lane has its own for as long as it is there
		return !slices.ContainsFunc(slices.Collect(maps.Values(r.lanes)), func(l *lane) bool { return l.host == h })
	})
}

// due tells whether a certificate is to be tried now.
func (r *runner) due(c *certificate, now time.Time) bool {
	return !c.retired && !r.flying[c] && (c.wanted || !c.next.After(now))
}

// launch tries what is due, the longest due first and as much as there is room
// for.
func (r *runner) launch(ctx context.Context) {
	now := time.Now()
	r.looked, r.thirst = now, time.Time{}
	due := slices.DeleteFunc(slices.Clone(r.certificates()), func(c *certificate) bool { return !r.due(c, now) })
	if len(due) == 0 {
		return
	}
	slices.SortStableFunc(due, func(a, b *certificate) int {
		return cmp.Or(a.next.Compare(b.next), cmp.Compare(a.failures, b.failures))
	})
	if now.Sub(r.asked) >= respecInterval { // users that did not exist may exist now
		r.respec()
	}
	for _, c := range due {
		switch {
		case len(r.flying) == cap(r.outcomes), r.allFull():
			return
		case r.covered(c), !r.admits(c, now), r.list(ctx, c, now):
			continue
		}
		c.wanted = false
		r.flying[c] = true
		r.took(c, now)
		a, v := c.attempt(), r.vault()
		a.settings, c.urged = r.generation, false
		r.tries.Go(func() error {
			r.outcomes <- a.try(ctx, v)
			return nil
		})
	}
}

// allFull tells whether no vault has room for another try. One that was never asked is
// not known yet, and not full.
func (r *runner) allFull() bool {
	for lane, used := range r.used {
		if l := r.lanes[lane]; used && (l == nil || l.host.flying < l.host.room) {
			return false
		}
	}
	return true
}

// respecInterval bounds how often the settings are asked how things are shown, which
// looks up users.
const respecInterval = time.Second

func (r *runner) host(c *certificate) *host {
	if r.hosts[c.host] == nil {
		r.hosts[c.host] = newHost()
	}
	return r.hosts[c.host]
}

func (r *runner) lane(c *certificate) *lane {
	if r.lanes[c.lane] == nil {
		r.lanes[c.lane] = &lane{key: c.lane, host: r.host(c), name: c.host, identity: c.source.Identity}
	}
	return r.lanes[c.lane]
}

func (r *runner) vault() Vault {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings.Vault
}

func (r *runner) certificates() []*certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.certs // never modified, only replaced
}

// land takes in what came of a try, and of all others that have ended by now.
func (r *runner) land(ctx context.Context, o outcome) {
	for more := true; more; {
		delete(r.flying, o.cert)
		r.record(ctx, o)
		r.landed(ctx, o.cert, o.started, o.err)
		if !o.cert.wanted { // a try that had begun before the wish does not fulfil it
			r.fulfil(o.cert)
		}
		select {
		case o = <-r.outcomes:
		default:
			more = false
		}
	}
}

// fulfil takes a certificate that was tried from the wishes for that.
func (r *runner) fulfil(c *certificate) {
	for _, w := range r.waiting {
		delete(w.left, c)
	}
}

// wake is when there is something to do next that nobody announces. What was due
// when launch looked and is not flying waits for room, and so for an outcome.
func (r *runner) wake() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now().Add(time.Hour)
	sooner := func(t time.Time) {
		if t.After(r.looked) && t.Before(at) {
			at = t
		}
	}
	for _, c := range r.certs {
		if !c.retired && !r.flying[c] {
			sooner(c.next)
		}
	}
	for _, h := range r.hosts {
		sooner(h.until)
	}
	for _, l := range r.lanes {
		sooner(l.until)
	}
	sooner(r.thirst)
	if r.begun() {
		for _, c := range r.certs {
			if _, due, ok := c.need(r.sent, r.settings.Keep == KeepAll); ok && due.After(r.sent) && due.Before(at) {
				at = due
			}
		}
	}
	if r.dirty && !r.changing() && r.publishAt.Before(at) {
		at = r.publishAt
	}
	if !r.turnAt.IsZero() {
		// It is a time of the clock on the wall, which may be set: nobody tells.
		at = earliest(at, r.turnAt, r.looked.Add(wallInterval))
	}
	for _, w := range r.waiting {
		if end := w.granted.Add(changePatience); w.settings != nil && end.After(r.looked) && end.Before(at) {
			at = end
		}
	}
	return at
}

// wallInterval is how late a turn may come after somebody has set the clock.
const wallInterval = time.Minute

func earliest(at time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.Before(at) {
			at = t
		}
	}
	return at
}

// record takes in what came of a try.
func (r *runner) record(ctx context.Context, o outcome) {
	if ctx.Err() != nil {
		return // what an interrupted try says is no news
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKey[o.cert.key] != o.cert || o.cert.retired {
		return // the settings have it no more
	}
	c, before := o.cert, o.cert.err
	if o.settings != r.generation && o.secret != nil {
		c.wanted = true // it was read for other settings, and has to be for these
		return
	}
	now := time.Now()
	if !o.shared {
		r.counts.tried(o.err)
	}
	if c.record(o, now, r.settings.keep()) {
		r.dirty = true
	}
	jitter := c.jitter
	if r.listable(c, now) { // with the others of its lane
		jitter = c.laneJitter
	}
	c.next = c.schedule(now, r.settings.Interval, askedToWait(o.err), jitter)
	if next := r.lane(c).next; o.err == nil && next.After(now) && r.listable(c, now) {
		c.next, c.settled = next, true // not before the others, whom its listing would take along
	}
	if !o.shared { // who opens the breaker has said it for all
		r.report(c, before)
	}
}

// tried counts a try that has come to an end.
func (n *Counts) tried(err error) {
	n.Tries++
	if err != nil {
		n.Failed++
	}
}

// report logs what a person should know: a failure when it begins and when it
// becomes another, not at every try, and its end.
func (s *Syncer) report(c *certificate, before error) {
	url, version := slog.String("url", c.source.Ref.String()), slog.String("serving", string(c.shown))
	switch {
	case c.err != nil:
		level, f := slog.LevelWarn, Explain(c.err)
		if before != nil && Explain(before) == f {
			level = slog.LevelDebug
		}
		s.log.Log(context.Background(), level, "refresh failed", url, version, "kind", f.Kind, "err", f.Fact, "hint", f.Hint, "failures", c.failures)
	case before != nil:
		s.log.Info("refresh works again", url, version)
	default:
		s.log.Debug("refreshed", url, version)
	}
}

// respec asks how the certificates are to be shown.
func (r *runner) respec() {
	r.asked = time.Now()
	r.mu.Lock()
	ask := r.settings.Spec
	r.mu.Unlock()
	spec := ask() // looks up users, which may take a while
	r.mu.Lock()
	defer r.mu.Unlock()
	if !reflect.DeepEqual(spec, r.spec) {
		r.spec, r.dirty = spec, true
	}
}

// commit publishes what is known, if there is anything new and it is time: when
// nothing more is to come soon, and otherwise at intervals of ten times what a
// publication takes, so that the first load of a large store is not spent on
// building it again and again. It tells whether it did.
func (r *runner) commit(ctx context.Context) (published bool) {
	r.mu.Lock()
	idle, now := len(r.flying)+len(r.errands) == 0, time.Now()
	if !r.turnAt.IsZero() && !r.turnAt.After(now) {
		r.turnAt, r.dirty = time.Time{}, true
	}
	wait := !r.dirty || ctx.Err() != nil || r.changing() || r.publishAt.After(now) && (r.publishErr != nil || !idle && !r.anyFulfilled())
	r.mu.Unlock()
	if !wait {
		r.publish(ctx)
	}
	r.settle()
	return !wait
}

// changing tells whether new settings wait for certificates that are not here
// yet: new before old. They do not wait for ever.
func (r *runner) changing() bool {
	return slices.ContainsFunc(r.waiting, func(w *wish) bool {
		return w.settings != nil && len(w.left) > 0 && time.Since(w.granted) < changePatience
	})
}

// anyFulfilled tells whether a wish waits for nothing but its publication.
func (r *runner) anyFulfilled() bool {
	return slices.ContainsFunc(r.waiting, func(w *wish) bool { return len(w.left) == 0 })
}

// settle tells those whose wish is fulfilled. What could not be published does
// not keep them waiting: it is in the report.
func (r *runner) settle() {
	r.mu.Lock()
	settled := !r.dirty || r.publishErr != nil
	r.mu.Unlock()
	if !settled {
		return
	}
	r.waiting = slices.DeleteFunc(r.waiting, func(w *wish) bool {
		if len(w.left) > 0 {
			return false
		}
		close(w.done)
		return true
	})
}

func (s *Syncer) publish(ctx context.Context) {
	s.mu.Lock()
	began := time.Now()
	spec, certs, byKey := s.spec, s.certs, s.byKey
	for _, c := range certs {
		s.arrange(c, began)
	}
	records, kept, keepErr := s.keeping(certs, began)
	lost := s.lostEntries()
	s.mu.Unlock()

	// Without mu: what is shown of a certificate changes in this goroutine alone.
	snapshot, clash, err := build(&s.builder, spec, func(key string) (shown tree.Shown) {
		if c := byKey[key]; c != nil {
			shown = c.show(began)
		}
		return shown
	})
	if err = errors.Join(err, keepErr); err == nil {
		if len(lost) > 0 && s.opts.Visible != nil {
			snapshot = snapshot.Keeping(s.opts.Visible(), lost)
		}
		err = s.opts.Publisher.Publish(ctx, snapshot, records...)
	}
	now := time.Now()

	s.mu.Lock()
	if err == nil {
		kept()
	}
	s.clash = clash
	s.publishErr, s.dirty, s.publishAt = err, err != nil, now.Add(10*now.Sub(began))
	var renewals []renewal
	if err != nil {
		s.publishAt = now.Add(firstRetry)
		s.counts.Unpublished++
	} else {
		renewals = s.published(certs, began, now)
		s.counts.Publications++
	}
	for _, r := range renewals {
		if r.old != "" {
			s.counts.Renewals++
		}
	}
	s.mu.Unlock()
	if err != nil {
		s.log.Error("publishing failed; what was served is still served", "err", err)
		return
	}
	if clash != nil {
		s.log.Error("a certificate is not shown; another one has its name", "err", clash)
	}
	for _, r := range renewals {
		s.log.Info("published", "url", r.source.Ref.String(), "old", string(r.old), "new", string(r.new), "took", now.Sub(r.fetched).Round(time.Millisecond))
	}
	if s.opts.Published != nil {
		s.opts.Published()
	}
}

// build makes the tree. Of entries that want one name the later ones are left out,
// so that they harm nobody else; clash is the first such case.
func build(b *tree.Builder, spec tree.Spec, shown func(key string) tree.Shown) (snapshot *tree.Snapshot, clash, err error) {
	for {
		snapshot, err = b.Build(spec, shown)
		var c *tree.Clash
		if !errors.As(err, &c) {
			return snapshot, clash, err
		}
		left := slices.DeleteFunc(slices.Clone(spec.Entries), func(e tree.Entry) bool { return e.URL == c.Second && e.Store == c.Store })
		if len(left) == len(spec.Entries) {
			return nil, clash, err // not between entries
		}
		spec.Entries = left
		if clash == nil {
			clash = err
		}
	}
}

// renewal is a new version of a certificate that readers can see.
type renewal struct {
	source   Source
	old, new certs.Version // old is empty for the first
	fetched  time.Time     // when the vault was asked
}

// published takes down what readers see from now on, and when that changes by
// itself. The caller holds mu.
func (s *Syncer) published(all []*certificate, began, now time.Time) (renewals []renewal) {
	s.turnAt = time.Time{}
	turn := func(at time.Time) {
		if !at.IsZero() && (s.turnAt.IsZero() || at.Before(s.turnAt)) {
			s.turnAt = at
		}
	}
	for _, c := range all {
		turn(c.turn(began))
		old, v := c.shown, c.current(began)
		c.shown = ""
		if v != nil {
			c.shown = v.ID
		}
		if c.shown != old && c.shown != "" {
			renewals = append(renewals, renewal{source: c.source, old: old, new: c.shown, fetched: c.fetched})
		}
		if c.releasable(now) {
			turn(now.Add(releaseAfter))
		}
	}
	return renewals
}
