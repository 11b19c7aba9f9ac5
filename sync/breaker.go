package sync

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"kvfs/vault"
)

// What a vault may be asked by one machine. The service allows 4,000 reads in 10 s for
// all machines together (keyvault-wire: section 6): one takes no more than half of that
// at once, and no more than half from then on.
const (
	perVault   = 32   // tries side by side
	vaultBurst = 2000 // tries at once, after a while without any
	vaultRate  = 200  // a second, from then on

	vaultPortion = 20 // of these side by side
)

// breakerTrips is how many certificates have to fail one after the other, with no answer
// for any other between them, until their vault or identity is held to be what fails. A
// secret that alone makes a vault fail must not take its neighbours along.
const breakerTrips = 3

// listStrikes is how many listings in a row may fail, each with a read after it that does
// not, until a vault is held to be one whose listings fail.
const listStrikes = 2

// breaker is what is known of something that certificates share: a vault, or the token
// of an identity for it. While that fails it is open: a single try at a time goes
// through, at growing intervals, and what becomes of it goes for all that wait.
type breaker struct {
	flying  int                   // tries under way
	failing map[*certificate]bool // tried in vain since the last answer

	open     bool
	since    time.Time // of the first of these failures
	opened   time.Time
	failures int       // of single tries, in a row
	until    time.Time // nobody is tried before
	err      error     // of the last
}

// admits tells whether a certificate may be tried now; somebody who waits for it does
// not wait for until.
func (b *breaker) admits(now time.Time, wanted bool) bool {
	switch {
	case b.open:
		return b.flying == 0 && (wanted || !now.Before(b.until))
	case len(b.failing) > 0: // it may be about to open
		return b.flying < breakerTrips
	}
	return true
}

// failed takes in a failure of what it stands for, and tells whether it is open and this
// says so: a try that began before it opened says nothing new. n certificates share it.
// wait is how long to wait after so many failures.
func (b *breaker) failed(c *certificate, began time.Time, err error, n int, now time.Time, wait func(failures int) time.Duration) bool {
	if b.open && !began.After(b.opened) {
		return false
	}
	if !b.open {
		if b.failing == nil {
			b.failing = map[*certificate]bool{}
		}
		if len(b.failing) == 0 {
			b.since = now
		}
		b.failing[c] = true
		if kind(err) != vault.KindThrottled && len(b.failing) < min(breakerTrips, n) {
			return false
		}
		b.open, b.opened = true, now
	}
	b.failures++
	b.err, b.until = err, now.Add(wait(b.failures))
	return true
}

// answered takes in an answer, and for how long there was none; 0 if it was not open.
func (b *breaker) answered(now time.Time) (down time.Duration) {
	if b.open {
		down = now.Sub(b.since)
	}
	*b = breaker{flying: b.flying}
	return down
}

// host is a vault, whoever asks it.
type host struct {
	breaker
	limiter *rate.Limiter
	room    int // for tries side by side; less than perVault after it was too many
	level   int // of waiting when it is too many again
}

func newHost() *host {
	return &host{limiter: rate.NewLimiter(vaultRate, vaultBurst), room: perVault}
}

// admits is that of the breaker, and within what a vault may be asked. again is when to
// ask again if that is all that is in the way.
func (h *host) admits(now time.Time, wanted bool) (ok bool, again time.Time) {
	switch tokens := h.limiter.TokensAt(now); {
	case !h.breaker.admits(now, wanted) || h.flying >= h.room:
		return false, time.Time{} // somebody lands before that changes, or until comes
	case tokens < 1: // then some more at a time: looking for what is due takes a while
		return false, now.Add(scale(time.Second, (vaultPortion-tokens)/vaultRate))
	}
	return true, time.Time{}
}

// throttled makes it be asked by one at a time, which becomes two, four and so on with
// every answer.
func (h *host) throttled() {
	h.room, h.level = 1, h.level+1
}

func (h *host) answered(now time.Time) time.Duration {
	if h.open { // it was waited long enough
		h.level /= 2
	}
	if h.room = min(2*h.room, perVault); h.room == perVault {
		h.level = 0
	}
	return h.breaker.answered(now)
}

// kind of an error of a vault; "" for any other.
func kind(err error) vault.Kind {
	var ve *vault.Error
	if errors.As(err, &ve) {
		return ve.Kind
	}
	return ""
}

// ofHost tells whether an error is a vault's, whatever it is asked for.
func ofHost(err error) bool {
	switch kind(err) {
	case vault.KindUnreachable, vault.KindTimeout, vault.KindServer, vault.KindThrottled, vault.KindForbiddenNetwork:
		return true
	}
	return false
}

// ofIdentity tells whether an error is one of who asks, whatever for.
func ofIdentity(err error) bool {
	k := kind(err)
	return k == vault.KindIdentity || k == vault.KindUnauthorized
}

func askedToWait(err error) time.Duration {
	var ve *vault.Error
	if errors.As(err, &ve) {
		return ve.RetryAfter
	}
	return 0
}

// admits tells whether a certificate may be tried now.
func (r *runner) admits(c *certificate, now time.Time) bool {
	ok, again := r.host(c).admits(now, c.wanted)
	if !again.IsZero() && (r.thirst.IsZero() || again.Before(r.thirst)) {
		r.thirst = again
	}
	return ok && r.lane(c).admits(now, c.wanted)
}

func (r *runner) took(c *certificate, now time.Time) {
	r.host(c).limiter.AllowN(now, 1)
	r.host(c).flying++
	r.lane(c).flying++
}

// landed takes in what a try or a listing says of the vault and the identity, and lets
// those that wait know.
func (r *runner) landed(ctx context.Context, c *certificate, began time.Time, err error) {
	now, h, l := time.Now(), r.host(c), r.lane(c)
	h.flying--
	l.flying--
	switch {
	case ctx.Err() != nil:
	case kind(err) == vault.KindThrottled:
		if !h.open || began.After(h.opened) {
			h.throttled()
		}
		fallthrough
	case ofHost(err):
		r.fail(ctx, &h.breaker, hostOf(c), c, began, err, h.level)
	case ofIdentity(err):
		r.fail(ctx, &l.breaker, laneOf(c), c, began, err, h.level)
	default:
		if l.faltered { // and it answers all the same
			l.faltered, l.strikes = false, l.strikes+1
		}
		if l.strikes >= listStrikes {
			l.notTill, l.strikes = now.Add(r.settings.Interval), 0
		}
		r.open(h.answered(now), hostOf(c))
		r.open(l.answered(now), laneOf(c))
	}
}

// fail takes in a failure of what a group shares. level is that of throttleWait.
func (r *runner) fail(ctx context.Context, b *breaker, g group, c *certificate, began time.Time, err error, level int) {
	now, first := time.Now(), !b.open
	jitter, asked := jitterOf(r.opts.Seed, c.key+now.String()), askedToWait(err)
	wait := func(failures int) time.Duration {
		if kind(err) == vault.KindThrottled {
			return throttleWait(level, asked, jitter)
		}
		return max(shaken(backoff(failures), jitter), asked)
	}
	switch {
	case b.failed(c, began, err, r.count(g), now, wait):
		r.waitFor(ctx, b, first, c, began, g)
	case !b.open && c.failures == 2:
		r.secondOpinion(b, g)
	}
}

// group picks certificates that share something.
type group func(*certificate) bool

func hostOf(c *certificate) group { return func(o *certificate) bool { return o.host == c.host } }
func laneOf(c *certificate) group { return func(o *certificate) bool { return o.lane == c.lane } }

func (r *runner) count(g group) (n int) {
	for _, c := range r.certificates() {
		if g(c) && !c.retired {
			n++
		}
	}
	return n
}

// waitFor lets what is due share in the failure of the one that was tried, and waits.
func (r *runner) waitFor(ctx context.Context, b *breaker, first bool, tried *certificate, began time.Time, g group) {
	now, n := time.Now(), 0
	for _, c := range r.certificates() {
		if !g(c) || !r.due(c, now) || c == tried {
			continue
		}
		n++
		urged := c.urged
		c.wanted, c.urged = false, false
		r.record(ctx, outcome{cert: c, settings: r.generation, started: began, err: b.err, shared: true, urged: urged})
		r.hold(c, b.until)
		r.fulfil(c)
	}
	r.hold(tried, b.until)
	if f := Explain(b.err); first {
		r.log.Warn("a vault is asked by one try at a time until it answers", "host", tried.host, "waiting", n+1, "kind", f.Kind, "err", f.Fact, "hint", f.Hint)
	}
}

// secondOpinion lets those be tried now that it takes to tell whether a vault or an
// identity fails, or a secret does. Else it would take until they are due.
func (r *runner) secondOpinion(b *breaker, g group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing := breakerTrips - len(b.failing)
	for _, c := range r.certs {
		if missing > 0 && g(c) && !c.retired && !r.flying[c] && !b.failing[c] {
			c.next = time.Now()
			missing--
		}
	}
}

// hold lets a certificate wait.
func (r *runner) hold(c *certificate, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.next, c.held = until, true
}

// easing is the part of an interval over which reads are spread at most that an outage
// has held up.
const easing = 6

// open lets those go on that have waited for an answer, down after the first failure. A
// listing is one request for all; reads are spread, since other machines have waited too.
// Nobody stays where the outage has put him: after a failure the next interval is spread
// anew.
func (r *runner) open(down time.Duration, g group) {
	if down == 0 {
		return
	}
	now, n := time.Now(), 0
	r.mu.Lock()
	defer r.mu.Unlock()
	ease := min(down, r.settings.Interval/easing)
	for _, c := range r.certs {
		if !g(c) || c.retired || !c.held || r.lane(c).open || r.host(c).open {
			continue // it waits for the other breaker
		}
		n++
		c.held = false
		r.lane(c).ease = ease
		if c.next = now; !r.listable(c, now) {
			c.next = now.Add(r.eased(c, now, ease))
		}
	}
	r.log.Info("a vault answers again", slog.Int("waiting", n), slog.Duration("after", down.Round(time.Second)))
}

// eased is how long a certificate waits for its read, of all that are spread over ease: not
// at all if it is not served, or what is served expires soon.
func (r *runner) eased(c *certificate, now time.Time, ease time.Duration) time.Duration {
	if v := c.current(now); c.shown == "" || v == nil || v.NotAfter.Before(now.Add(2*r.settings.Interval)) {
		return 0
	}
	return scale(ease, jitterOf(r.opts.Seed, c.key+" eased")) // says nothing about when its next one is
}
