package alert

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Hook is somebody who is told of notices.
type Hook struct {
	ID   string // tells it from all others, to a successor too; without a slash
	Name string // for people
	// Tell returns when the hook was told of all of a batch, or why it was not. It ends when ctx does.
	Tell func(ctx context.Context, b Batch) *Failure
}

// Failure is why a hook could not be told, for a person.
type Failure struct {
	Fact, Hint string
}

// Records are kept for the process after this one.
type Records interface {
	All() map[string][]byte
	// Put makes changes, all of them or none; nil removes a record.
	Put(changes map[string][]byte) error
}

// Names of records begin with what they are of. There is one for each thing that changes by itself: thousands of certificates may
// become stale one by one.
const (
	recordSaying = "s" // and the key of the certificate
	recordHook   = "h" // and its id: its history; and "/", a kind, "/" and a key: a notice
)

// recordSaid is that of a whole Said, which earlier versions have left, as they have all notices in the record of a hook.
const recordSaid = ""

// QueueOptions say how a Queue does its work.
type QueueOptions struct {
	// Certificates are all, as they are now.
	Certificates func() []Certificate
	// Pause is how long after so many failures in a row a hook is told again.
	Pause func(failures int) time.Duration
	// Records outlive this process; nil: what hooks are still to be told is lost with it.
	Records Records
	Logger  *slog.Logger // default: nothing is logged
}

// Queue has what hooks are still to be told. Run tells them, in batches; the other methods may be called from any goroutine.
//
// A hook is told at least once: what it is to be told is a record from before it is tried until it has succeeded, one change
// with that of what was said. It is not told what has meanwhile become untrue.
//
// A round is all that a hook is still to be told when it begins, in one batch for each kind, or in as many as there have to be;
// after one that has failed the next try is of the next.
// After one there is a rest: certificates that cannot be read any more are noticed one by one, as they were read last, and are to
// be few rounds all the same.
type Queue struct {
	opts QueueOptions
	log  *slog.Logger
	news chan struct{} // has a value when there may be something to do

	// mu is held to write or read these, never while anybody is told.
	mu     sync.Mutex
	said   Said
	unkept map[string][]byte // changes of records that could not be put
	lines  []*line
	rules  Rules
	rest   time.Duration // between rounds
}

// line is what one hook is still to be told, and what has become of it.
type line struct {
	Hook
	owed   map[about]owed
	round  map[about]bool // what is left of the present one
	flying bool
	stop   context.CancelFunc // of the flight
	before []*line            // that this one has come in the place of, until they have landed
	held   time.Time          // until then nothing of what is owed is to be told; see unsure
	history
}

// about is what there is one notice of.
type about struct {
	Kind Kind   `json:"kind"`
	Key  string `json:"key"` // of the certificate
}

// owed is a notice as far as it cannot be known anew.
type owed struct {
	about
	what
}

// what there is to tell. It is also the record of a notice.
type what struct {
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since,omitzero"` // when nothing was read any more, for Stale
}

// history of a hook. It is also its record.
type history struct {
	Failures  int       `json:"failures,omitempty"` // since the last success
	Runs      int       `json:"runs,omitempty"`     // that have succeeded
	Tried     time.Time `json:"tried,omitzero"`
	Succeeded time.Time `json:"succeeded,omitzero"`
	Fact      string    `json:"fact,omitempty"` // why the last try has failed
	Hint      string    `json:"hint,omitempty"`
}

// order in which kinds are told.
var order = []Kind{Expired, Expires, Stale}

// ordered is what is to be told, by kinds and names.
func (l *line) ordered() []owed {
	return slices.SortedFunc(maps.Values(l.owed), func(a, b owed) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), strings.Compare(a.Name, b.Name), strings.Compare(a.Key, b.Key))
	})
}

// record is the name of the one of a notice.
func (l *line) record(a about) string {
	return recordHook + l.ID + "/" + string(a.Kind) + "/" + a.Key
}

// still is the notice as it is to be told now, if it is still true and the rules ask for it.
func (o owed) still(now time.Time, r Rules, c Certificate) (n Notice, ok bool) {
	switch o.Kind {
	case Expires:
		left := c.NotAfter.Sub(now)
		asked := slices.ContainsFunc(r.Expiry, func(threshold time.Duration) bool { return threshold >= left })
		return Notice{Expires, c, left}, asked && c.Version == o.Version && left > 0
	case Expired:
		return Notice{Expired, c, now.Sub(c.NotAfter)}, c.Version == o.Version && !c.NotAfter.After(now)
	}
	c.Since = o.Since // a successor has begun to read it later
	quiet := now.Sub(o.Since)
	return Notice{Stale, c, quiet}, r.Stale > 0 && quiet >= r.Stale && !c.LastRead.After(o.Since)
}

// unsure tells whether something may have been read that this process does not know of: what one before it has read last, it may
// not know. When it has tried itself, it does.
func (o owed) unsure(c Certificate) bool {
	return o.Kind == Stale && o.Since.Before(c.Since) && !c.Tried.After(c.Since)
}

// NewQueue makes a Queue that knows what the records do. It has no hooks until Set is called.
func NewQueue(opts QueueOptions) *Queue {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	q := &Queue{opts: opts, log: opts.Logger, news: make(chan struct{}, 1), said: Said{}, unkept: map[string][]byte{}}
	if opts.Records == nil {
		return q
	}
	changes := map[string][]byte{}
	for name, b := range opts.Records.All() {
		if err := q.take(name, b, changes); err != nil {
			changes[name] = nil
			q.log.Warn("what was known of alerts before is not known any more", "err", err)
		}
	}
	q.keep(changes)
	return q
}

// take takes a record over, with the changes that make one of an earlier version one of this.
func (q *Queue) take(name string, b []byte, changes map[string][]byte) error {
	if name == recordSaid {
		said := Said{}
		if err := json.Unmarshal(b, &said); err != nil {
			return err // it is said again
		}
		changes[name] = nil
		for key, s := range said {
			q.said[key], changes[recordSaying+key] = s, encoded(s)
		}
		return nil
	}
	if key, ok := strings.CutPrefix(name, recordSaying); ok {
		var s Saying
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		q.said[key] = s
		return nil
	}
	id, rest, notice := strings.Cut(strings.TrimPrefix(name, recordHook), "/")
	l := q.lineOf(id)
	if notice {
		kind, key, _ := strings.Cut(rest, "/")
		o := owed{about: about{Kind(kind), key}}
		if err := json.Unmarshal(b, &o.what); err != nil {
			return err
		}
		l.owed[o.about] = o
		return nil
	}
	var r struct {
		Owed []owed `json:"owed"`
		history
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	l.history = r.history
	for _, o := range r.Owed {
		l.owed[o.about], changes[l.record(o.about)] = o, encoded(o.what)
		changes[name] = encoded(r.history)
	}
	return nil
}

// lineOf is that of a hook, which a predecessor had.
func (q *Queue) lineOf(id string) *line {
	if i := slices.IndexFunc(q.lines, func(l *line) bool { return l.ID == id }); i >= 0 {
		return q.lines[i]
	}
	l := &line{Hook: Hook{ID: id}, owed: map[about]owed{}}
	q.lines = append(q.lines, l)
	return l
}

// Said is what has been said, by processes before this one too. It is for reading.
func (q *Queue) Said() Said {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.said
}

// Set makes these the hooks, in this order, each with a rest after it was told; equal ones are one. One that has gone is not told
// any more, not even what it is being told. That is for those that have come in its place, when it has ended, as when somebody has
// mended one that could not succeed. What these rules do not ask for is not told any more.
func (q *Queue) Set(hooks []Hook, rules Rules, rest time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rules, q.rest = rules, rest
	var lines, come []*line
	for _, h := range hooks {
		is := func(l *line) bool { return l.ID == h.ID }
		if slices.ContainsFunc(lines, is) {
			continue
		}
		i := slices.IndexFunc(q.lines, is)
		if i < 0 {
			lines = append(lines, &line{Hook: h, owed: map[about]owed{}})
			come = append(come, lines[len(lines)-1])
			continue
		}
		q.lines[i].Hook = h
		lines = append(lines, q.lines[i])
	}
	changes := map[string][]byte{}
	for _, gone := range q.lines {
		if slices.Contains(lines, gone) {
			continue
		}
		changes[recordHook+gone.ID] = nil
		for _, l := range come {
			l.before = append(l.before, gone.before...)
			if gone.flying {
				l.before = append(l.before, gone)
			}
		}
		if gone.flying {
			gone.stop()
		}
		for a, o := range gone.owed {
			changes[gone.record(a)] = nil
			for _, l := range come {
				l.owed[a], changes[l.record(a)] = o, encoded(o.what)
			}
		}
	}
	q.lines = lines
	q.keep(changes)
	q.Look()
}

// Add takes in what has been said until now, which nobody is to write to any more, and the notices of it that hooks are still to be
// told.
func (q *Queue) Add(said Said, notices []Notice) {
	q.mu.Lock()
	defer q.mu.Unlock()
	changes := map[string][]byte{}
	for key := range q.said {
		if _, still := said[key]; !still {
			changes[recordSaying+key] = nil
		}
	}
	for key, s := range said {
		if was, ok := q.said[key]; !ok || was != s {
			changes[recordSaying+key] = encoded(s)
		}
	}
	q.said = said
	for _, n := range notices {
		o := owed{about{n.Kind, n.Key}, what{Name: n.Name}}
		if n.Kind == Stale {
			o.Since = n.quiet().UTC()
		} else {
			o.Version = n.Version
		}
		record := encoded(o.what)
		for _, l := range q.lines {
			l.owed[o.about], changes[l.record(o.about)] = o, record
		}
	}
	q.keep(changes)
	q.Look()
}

// Look lets Run see what of that which hooks are to be told is not true any more.
func (q *Queue) Look() {
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// keep puts records, with those that could not be put before. The caller holds mu, or is the only one who knows the queue.
func (q *Queue) keep(changes map[string][]byte) {
	if q.opts.Records == nil || len(changes) == 0 {
		return
	}
	maps.Copy(q.unkept, changes)
	if err := q.opts.Records.Put(q.unkept); err != nil {
		q.log.Warn("a successor would warn again of what expires, or tell nobody", "err", err)
		return
	}
	q.unkept = map[string][]byte{} // a map that was large stays so
}

const (
	// longest time without a look.
	longest = time.Hour
	// unsureLook is how long after a look it is looked again whether it was tried to read what is unsure: an attempt in vain shows
	// nowhere else.
	unsureLook = 10 * time.Second
)

// Run tells the hooks until ctx ends, side by side, and each of one batch at a time. Its error is ctx's.
func (q *Queue) Run(ctx context.Context) error {
	var flights errgroup.Group
	ended := make(chan *flight)
	flying := 0
	for ctx.Err() == nil {
		now := time.Now()
		for _, f := range q.due(ctx, now) {
			flying++
			flights.Go(func() error {
				f.failure = f.tell(f.ctx, f.batch)
				ended <- f
				return nil
			})
		}
		timer := time.NewTimer(q.wake(now))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-q.news:
		case f := <-ended:
			flying--
			q.land(ctx, f, time.Now())
		}
		timer.Stop()
	}
	for range flying { // they end with ctx
		q.land(ctx, <-ended, time.Now())
	}
	_ = flights.Wait() // they return nil
	return ctx.Err()
}

// flight is a batch on its way to a hook.
type flight struct {
	line    *line
	ctx     context.Context
	tell    func(context.Context, Batch) *Failure // the line's own, which may become another
	batch   Batch
	owed    []owed // the same
	began   time.Time
	failure *Failure // nil for success
}

// next is when a hook is to be told, if that is not before now; false for never. The caller holds mu.
func (q *Queue) next(l *line, now time.Time) (at time.Time, ok bool) {
	at, ok = q.ready(l, now)
	if at.Before(l.held) {
		at = l.held
	}
	return at, ok
}

// ready is next, whatever is held.
func (q *Queue) ready(l *line, now time.Time) (at time.Time, ok bool) {
	switch {
	case l.flying || len(l.before) > 0 || len(l.owed) == 0:
		return at, false
	case l.Tried.After(now): // by a clock that was set back since
		return now, true
	case l.Failures > 0:
		return l.Tried.Add(q.opts.Pause(l.Failures)), true
	case len(l.round) > 0, l.Succeeded.IsZero(), l.Succeeded.After(now): // by such a clock, too
		return now, true
	}
	return l.Succeeded.Add(q.rest), true
}

// owes tells whether any hook is to be told something that it is not being told.
func (q *Queue) owes() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.lines, func(l *line) bool { return !l.flying && len(l.before) == 0 && len(l.owed) > 0 })
}

// due are the flights that begin now. What is not true any more is forgotten.
func (q *Queue) due(ctx context.Context, now time.Time) (all []*flight) {
	if !q.owes() {
		return nil
	}
	certificates := map[string]Certificate{}
	for _, c := range q.opts.Certificates() {
		certificates[c.Key] = c
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	changes := map[string][]byte{}
	for _, l := range q.lines {
		at, ok := q.ready(l, now)
		if l.held = (time.Time{}); !ok {
			continue
		}
		notices, sure, begins := map[about]Notice{}, false, !at.After(now)
		for a, o := range l.owed {
			c, known := certificates[a.Key]
			switch n, ok := o.still(now, q.rules, c); {
			case !ok || !known:
				l.forget(a)
				changes[l.record(a)] = nil
			case o.unsure(c):
				delete(l.round, a)
			default:
				if sure = true; begins {
					notices[a] = n
				}
			}
		}
		if len(l.owed) == 0 && l.Failures > 0 { // what it has failed for is gone
			l.Failures, l.Fact, l.Hint = 0, "", ""
			changes[recordHook+l.ID] = encoded(l.history)
		}
		switch {
		case len(l.owed) == 0:
		case !sure:
			l.held = now.Add(unsureLook)
		case begins:
			all = append(all, l.fly(ctx, notices, now))
		}
	}
	q.keep(changes)
	return all
}

// forget what is not to be told any more. The caller holds mu.
func (l *line) forget(a about) {
	delete(l.owed, a)
	delete(l.round, a)
}

// fly begins the next flight of a round, a new one if there is none, with notices of what is owed and sure. The caller holds mu.
func (l *line) fly(ctx context.Context, notices map[about]Notice, now time.Time) *flight {
	if len(l.round) == 0 {
		l.round = map[about]bool{}
		for a := range notices {
			l.round[a] = true
		}
	}
	f := &flight{line: l, tell: l.Tell, began: now}
	f.ctx, l.stop = context.WithCancel(ctx)
	for _, o := range l.ordered() {
		if n := notices[o.about]; l.round[o.about] && (len(f.batch) == 0 || f.batch[0].Kind == n.Kind) {
			f.batch, f.owed = append(f.batch, n), append(f.owed, o)
		}
	}
	n := f.batch.room()
	f.batch, f.owed, l.flying = f.batch[:n], f.owed[:n], true
	return f
}

// wake is how long there is nothing to do that nobody announces.
func (q *Queue) wake(now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	pause := longest
	for _, l := range q.lines {
		if at, ok := q.next(l, now); ok {
			pause = min(pause, at.Sub(now))
		}
	}
	return pause
}

// land takes in what came of a flight. That it was interrupted by the end of ctx is no failure: a successor tells of it.
func (q *Queue) land(ctx context.Context, f *flight, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := f.line
	l.flying = false
	l.stop()
	if f.failure != nil && ctx.Err() != nil {
		return
	}
	if !slices.Contains(q.lines, l) {
		q.leave(l, f)
		return
	}
	entry := q.log.With("hook", l.Name, "alert", string(f.batch[0].Kind), "certificates", len(f.batch), "took", now.Sub(f.began).Round(time.Millisecond))
	l.Tried = now
	changes := map[string][]byte{}
	for _, o := range f.owed { // what has failed is for the next round, or it would keep all else from being told
		delete(l.round, o.about)
	}
	if f.failure == nil {
		l.told(f.owed, changes)
		l.Failures, l.Succeeded, l.Fact, l.Hint = 0, now, "", ""
		l.Runs++
		entry.Info("a hook is done")
	} else {
		level := slog.LevelWarn
		if f.failure.Fact == l.Fact {
			level = slog.LevelDebug
		}
		l.Failures++
		l.Fact, l.Hint = f.failure.Fact, f.failure.Hint
		entry.Log(context.Background(), level, "a hook has failed; it is tried again", "err", l.Fact, "hint", l.Hint, "failures", l.Failures, "in", q.opts.Pause(l.Failures))
	}
	changes[recordHook+l.ID] = encoded(l.history)
	q.keep(changes)
}

// told takes in what a line was told, with the changes of records. The caller holds mu.
func (l *line) told(all []owed, changes map[string][]byte) {
	for _, o := range all {
		if l.owed[o.about] == o { // else there is something new to tell of it
			delete(l.owed, o.about)
			changes[l.record(o.about)] = nil
		}
	}
}

// leave lets those go on that have come in the place of a line that has landed. The caller holds mu.
func (q *Queue) leave(gone *line, f *flight) {
	changes := map[string][]byte{}
	for _, l := range q.lines {
		if !slices.Contains(l.before, gone) {
			continue
		}
		l.before = slices.DeleteFunc(l.before, func(b *line) bool { return b == gone })
		if f.failure == nil { // it has ended by itself, before it was ended
			l.told(f.owed, changes)
		}
	}
	q.keep(changes)
}

// State of a hook in a report.
type State string

// States.
const (
	Idle    State = "idle"    // it was told of everything
	Waiting State = "waiting" // it is to be told, at Next, or when one has ended that was there in its place
	Running State = "running"
	Failing State = "failing" // the last try has failed; the next is at Next
)

// Status of one hook. Times are zero for what has not happened.
type Status struct {
	Name                 string
	State                State
	Pending              []string // names of certificates that it is to be told of
	LastRun, LastSuccess time.Time
	Runs                 int // that have succeeded
	Failures             int // since the last success
	Next                 time.Time
	Err                  *Failure // of the last try
}

// Report says how things are now, in the order of the hooks.
func (q *Queue) Report() (all []Status) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for _, l := range q.lines {
		s := Status{Name: l.Name, State: Idle, LastRun: l.Tried, LastSuccess: l.Succeeded, Runs: l.Runs, Failures: l.Failures}
		for _, o := range l.owed {
			s.Pending = append(s.Pending, o.Name)
		}
		slices.Sort(s.Pending)
		s.Pending = slices.Compact(s.Pending)
		if len(l.owed) > 0 {
			s.State = Waiting
		}
		if at, ok := q.next(l, now); ok {
			s.Next = at
			if at.Before(now) {
				s.Next = now
			}
		}
		if l.Failures > 0 {
			s.State, s.Err = Failing, &Failure{l.Fact, l.Hint}
		}
		if l.flying {
			s.State = Running
		}
		all = append(all, s)
	}
	return all
}
