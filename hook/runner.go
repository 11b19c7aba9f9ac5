package hook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Certificate is one as it is served now.
type Certificate struct {
	Key      string // of its own
	Name     string // for people and commands, without a space: contoso-web.www
	Version  string // "": nothing is served
	NotAfter time.Time
	Actions  []Action // when that version changes; certificates may share them, and nobody writes to them
}

// Options of a Runner.
type Options struct {
	// Serving are all certificates that have actions, as their links lead now. It is called by Look.
	Serving func() []Certificate
	// Paths are the links of certificates, by their keys.
	Paths func(keys []string) map[string][]string
	// Content is a certificate with its chain and key in PEM, as Serving has it or newer.
	Content func(key string) ([]byte, error)
	// Records outlive this process; nil: what is pending is lost with it.
	Records Records
	Logger  *slog.Logger // default: nothing is logged
	// Programs run the commands of actions, and perhaps others; nil: there are no commands.
	Programs *Programs
	// Seed names this machine, for the splay.
	Seed string
	// Spared are processes that are sent no signal, beside this one; nil: none are.
	Spared func() []int

	// perform is what does an action, in tests of when it is done.
	perform func(ctx context.Context, a Action, changes []Change) (done []Change, note string, err error)
}

// Records are kept for the process after this one.
type Records interface {
	All() map[string][]byte
	// Put makes changes, all of them or none; nil removes a record.
	Put(changes map[string][]byte) error
}

// Names of records begin with what they are of.
const (
	recordCertificate = "c" // and its key
	recordJob         = "j" // and the id of the action
)

// Runner does actions. Run does all of it; Look and Report may be called from any goroutine.
type Runner struct {
	opts Options
	log  *slog.Logger
	news chan struct{} // has a value when Look has looked

	looking sync.Mutex // held by Look, so that what it has seen first it takes in first

	// mu is held to write or read these, never while anything is done.
	mu    sync.Mutex
	certs map[string]*certificate
	jobs  map[string]*job // by the id of the action
	asked map[string]bool // ids of what the settings have; the others are on their way out
}

// certificate is what is known of one. It is also its record.
type certificate struct {
	Name     string             `json:"name"`
	Version  string             `json:"version"`
	NotAfter time.Time          `json:"notAfter"`
	Asked    []string           `json:"asked"`             // ids of the actions, in order
	Pending  map[string]pending `json:"pending,omitempty"` // by the id of the action
}

// pending is what an action has not been done for.
type pending struct {
	Old     string    `json:"old"`
	Expires time.Time `json:"expires"` // the old one
	Since   time.Time `json:"since"`
}

// job is an action with what has become of it.
type job struct {
	action   Action
	id       string
	place    int // in the order of the settings
	fraction float64
	flying   bool
	history
}

// history of an action. It is also its record.
type history struct {
	Failures  int       `json:"failures,omitempty"` // since the last success
	Runs      int       `json:"runs"`               // that have succeeded
	Tried     time.Time `json:"tried"`
	Succeeded time.Time `json:"succeeded"`
	Note      string    `json:"note,omitempty"`
	Fact      string    `json:"fact,omitempty"` // why the last try has failed
	Hint      string    `json:"hint,omitempty"`
}

// New makes a Runner that knows what the records do.
func New(opts Options) *Runner {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{opts: opts, log: opts.Logger, news: make(chan struct{}, 1), certs: map[string]*certificate{}, jobs: map[string]*job{}}
	if r.opts.Spared == nil {
		r.opts.Spared = func() []int { return nil }
	}
	if r.opts.Paths == nil {
		r.opts.Paths = func([]string) map[string][]string { return nil }
	}
	if r.opts.perform == nil {
		r.opts.perform = r.perform
	}
	if opts.Records == nil {
		return r
	}
	for name, record := range opts.Records.All() {
		var err error
		switch key := name[1:]; name[:1] {
		case recordCertificate:
			c := &certificate{Pending: map[string]pending{}}
			if err = json.Unmarshal(record, c); err == nil {
				r.certs[key] = c
			}
		case recordJob:
			j := &job{id: key}
			if err = json.Unmarshal(record, &j.history); err == nil {
				r.jobs[key] = j
			}
		}
		if err != nil {
			r.log.Warn("what was known of a hook before is not known any more", "err", err)
		}
	}
	return r
}

// Look compares what is served with what was done, and leaves the rest to Run. It is to be called whenever what is
// served may have changed, before it may change again: the first version that is seen is no change.
func (r *Runner) Look() {
	r.looking.Lock()
	defer r.looking.Unlock()
	r.observe(r.opts.Serving(), time.Now())
	select {
	case r.news <- struct{}{}:
	default: // it has not taken up the last one
	}
}

// concurrency bounds what is done side by side.
const concurrency = 16

// wallInterval is how late a window is noticed after somebody has set the clock.
const wallInterval = time.Minute

// Run does what is to be done until ctx ends, beginning with the first Look. Its error is ctx's.
func (r *Runner) Run(ctx context.Context) error {
	var flights errgroup.Group
	ended := make(chan []outcome, concurrency)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.news:
	}
	for flying := 0; ctx.Err() == nil; {
		now := time.Now() // one for both: what is due between two times would be for neither
		for _, f := range r.due(now, concurrency-flying) {
			flying++
			flights.Go(func() error {
				ended <- f.fly(ctx, r)
				return nil
			})
		}
		timer := time.NewTimer(r.wake(now))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.news:
		case o := <-ended:
			flying--
			r.land(ctx, o, time.Now())
		}
		timer.Stop()
	}
	_ = flights.Wait() // they return nil, and end with ctx
	close(ended)
	for o := range ended {
		r.land(ctx, o, time.Now())
	}
	return ctx.Err()
}

// observe finds out for what there is something to do.
func (r *Runner) observe(all []Certificate, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes, asked, served := map[string][]byte{}, map[string]bool{}, map[string]bool{}
	shared := map[*Action][]string{} // ids of actions that many certificates have, by the first of these
	for _, c := range all {
		if len(c.Actions) == 0 {
			continue
		}
		ids := shared[&c.Actions[0]]
		if len(ids) != len(c.Actions) {
			ids = nil
			for _, a := range c.Actions {
				id := a.ID()
				if slices.Contains(ids, id) {
					continue
				}
				ids = append(ids, id)
				if !asked[id] {
					asked[id] = true
					r.job(id, a).place = len(asked)
				}
			}
			slices.Sort(ids)
			shared[&c.Actions[0]] = ids
		}
		served[c.Key] = true
		if r.compare(c, ids, now) {
			changes[recordCertificate+c.Key] = r.certs[c.Key].record()
		}
	}
	for key := range r.certs { // one that was removed is no renewal
		if !served[key] {
			delete(r.certs, key)
			changes[recordCertificate+key] = nil
		}
	}
	r.asked = asked
	for id, j := range r.jobs {
		if !asked[id] && !j.flying { // else when it has landed
			delete(r.jobs, id)
			changes[recordJob+id] = nil
		}
	}
	wants := r.wants(now)
	for id, j := range r.jobs { // what it has failed for is gone
		if _, ok := wants[id]; !ok && !j.flying && j.Failures > 0 {
			j.Failures, j.Fact, j.Hint = 0, "", ""
			changes[recordJob+id] = encoded(j.history)
		}
	}
	r.keep(changes)
}

// job is the one of an action, a new one if there is none. The caller holds mu.
func (r *Runner) job(id string, a Action) *job {
	j := r.jobs[id]
	if j == nil {
		j = &job{id: id}
		r.jobs[id] = j
	}
	j.action, j.fraction = a, fraction(r.opts.Seed, id)
	return j
}

// fraction of a time that is this machine's own, the same at each start.
func fraction(seed, id string) float64 {
	sum := sha256.Sum256([]byte(seed + "\x00" + id))
	return float64(binary.LittleEndian.Uint64(sum[:])>>11) / (1 << 53)
}

// compare takes in how a certificate is served, and tells whether anything is to be kept of that. The caller holds
// mu.
func (r *Runner) compare(c Certificate, ids []string, now time.Time) (changed bool) {
	k := r.certs[c.Key]
	switch {
	case k == nil && c.Version == "":
		return false
	case k == nil:
		r.certs[c.Key] = &certificate{Name: c.Name, Version: c.Version, NotAfter: c.NotAfter, Asked: ids, Pending: map[string]pending{}}
		return true
	}
	k.Name = c.Name
	if !slices.Equal(k.Asked, ids) {
		k.ask(ids)
		changed = true
	}
	if c.Version == "" || c.Version == k.Version {
		return changed
	}
	for _, id := range ids {
		if _, waits := k.Pending[id]; !waits {
			k.Pending[id] = pending{Old: k.Version, Expires: k.NotAfter, Since: now}
		}
	}
	k.Version, k.NotAfter = c.Version, c.NotAfter
	return true
}

// ask takes other actions over. What is pending of those that have gone is for those that have come in their place,
// as when somebody has mended one that could not succeed.
func (c *certificate) ask(ids []string) {
	var gone []pending
	for id, p := range c.Pending {
		if !slices.Contains(ids, id) {
			delete(c.Pending, id)
			gone = append(gone, p)
		}
	}
	if len(gone) > 0 {
		first := slices.MinFunc(gone, func(a, b pending) int { return a.Since.Compare(b.Since) })
		for _, id := range ids {
			if !slices.Contains(c.Asked, id) {
				c.Pending[id] = first
			}
		}
	}
	c.Asked = ids
}

func (c *certificate) record() []byte { return encoded(c) }

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times of certificates cannot fail
	}
	return b
}

// keep puts records. The caller holds mu.
func (r *Runner) keep(changes map[string][]byte) {
	if r.opts.Records == nil || len(changes) == 0 {
		return
	}
	if err := r.opts.Records.Put(changes); err != nil {
		r.log.Warn("a successor would not know which hooks are done", "err", err)
	}
}

// wants are what the schedules of those jobs depend on for which there is something to do, by their ids. A time that
// is to come is one of a clock that was set back since. The caller holds mu.
func (r *Runner) wants(now time.Time) map[string]want {
	past := func(t time.Time) time.Time {
		if t.After(now) {
			return now
		}
		return t
	}
	all := map[string]want{}
	for _, c := range r.certs {
		for id, p := range c.Pending {
			j := r.jobs[id]
			if j == nil {
				continue
			}
			since := past(p.Since)
			w, known := all[id]
			if !known {
				w = want{since: since, newest: since, failures: j.Failures, tried: past(j.Tried), fraction: j.fraction}
			}
			if since.Before(w.since) {
				w.since = since
			}
			if since.After(w.newest) {
				w.newest = since
			}
			if w.expires.IsZero() || !p.Expires.IsZero() && p.Expires.Before(w.expires) {
				w.expires = p.Expires
			}
			all[id] = w
		}
	}
	return all
}

// flight is one round of a target: the action, and the jobs that it is for.
type flight struct {
	actions []Action // the first is what is done
	jobs    []*job
	changes [][]Change // of each
	began   time.Time
}

// due are the flights that begin now, at most so many.
func (r *Runner) due(now time.Time, most int) (all []*flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	byTarget, busy, wants := map[string]*flight{}, map[string]bool{}, r.wants(now)
	if len(wants) == 0 {
		return nil
	}
	for _, j := range r.jobs {
		busy[j.action.target()] = busy[j.action.target()] || j.flying
	}
	for _, j := range r.ordered() {
		w, ok := wants[j.id]
		target := j.action.target()
		if !ok || busy[target] || j.action.due(w, now).After(now) {
			continue
		}
		f := byTarget[target]
		switch {
		case f == nil && len(all) == most, f != nil && j.action.Verb == "":
			continue // when there is room
		case f == nil:
			f = &flight{began: now}
			byTarget[target], all = f, append(all, f)
		}
		j.flying = true
		f.jobs, f.actions = append(f.jobs, j), append(f.actions, j.action)
	}
	if len(all) == 0 {
		return nil
	}
	changes := r.changes()
	for _, f := range all {
		for _, j := range f.jobs {
			f.changes = append(f.changes, changes[j.id])
		}
		slices.SortStableFunc(f.actions, func(a, b Action) int { return cmp.Compare(b.Verb.strength(), a.Verb.strength()) })
	}
	return all
}

// ordered are the jobs in the order of the settings. The caller holds mu.
func (r *Runner) ordered() []*job {
	return slices.SortedFunc(maps.Values(r.jobs), func(a, b *job) int { return cmp.Or(cmp.Compare(a.place, b.place), strings.Compare(a.id, b.id)) })
}

// changes are what jobs are to be done for, by their ids. The caller holds mu.
func (r *Runner) changes() map[string][]Change {
	all := map[string][]Change{}
	for key, c := range r.certs {
		for id, p := range c.Pending {
			all[id] = append(all[id], Change{Key: key, Name: c.Name, Old: p.Old, New: c.Version})
		}
	}
	for _, of := range all {
		slices.SortFunc(of, func(a, b Change) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Key, b.Key)) })
	}
	return all
}

// wake is how long there is nothing to do that nobody announces.
func (r *Runner) wake(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := time.Hour
	for id, w := range r.wants(now) {
		if j := r.jobs[id]; !j.flying {
			if at := j.action.due(w, now); at.After(now) { // else it waits for another of its target
				pause = min(pause, at.Sub(now))
			}
			if j.action.Window != (Window{}) {
				pause = min(pause, wallInterval)
			}
		}
	}
	return pause
}

// outcome of a flight for one of its jobs.
type outcome struct {
	job     *job
	changes []Change // that it was for
	done    []Change // of those
	began   time.Time
	took    time.Duration
	note    string
	err     error
}

// fly does what is to be done.
func (f *flight) fly(ctx context.Context, r *Runner) (all []outcome) {
	a := f.actions[0]
	if a.Command != nil || a.HAProxy != "" {
		r.findPaths(f.changes[0])
	}
	err := f.checks(ctx, r)
	for i, j := range f.jobs {
		o := outcome{job: j, changes: f.changes[i], began: f.began}
		switch {
		case err != nil:
			o.err = err
		case i == 0:
			within, over := context.WithTimeout(ctx, a.timeout())
			o.done, o.note, o.err = r.opts.perform(within, a, o.changes)
			over()
		default: // the same was asked for by others
			if o.err, o.note = all[0].err, all[0].note; o.err == nil {
				o.done = o.changes
			}
		}
		o.took = time.Since(f.began)
		all = append(all, o)
	}
	return all
}

// findPaths enters the links of certificates.
func (r *Runner) findPaths(changes []Change) {
	var keys []string
	for _, c := range changes {
		keys = append(keys, c.Key)
	}
	paths := r.opts.Paths(keys)
	for i, c := range changes {
		changes[i].Paths = paths[c.Key]
	}
}

// checks runs the commands that have to succeed first, each once.
func (f *flight) checks(ctx context.Context, r *Runner) error {
	ran := map[string]bool{}
	for _, a := range f.actions {
		if key := fmt.Sprintf("%q %q", a.User, a.Check); !ran[key] {
			ran[key] = true
			within, over := context.WithTimeout(ctx, a.timeout())
			err := r.check(within, a)
			over()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// perform does an action. done are the changes that it was done for, also if there is an error.
func (r *Runner) perform(ctx context.Context, a Action, changes []Change) (done []Change, note string, err error) {
	switch {
	case a.Verb != "":
		note, err = r.unit(ctx, a.Verb, a.Unit)
	case a.Signal != "":
		note, err = r.signal(ctx, a)
	case a.HAProxy != "":
		done, err = r.tellHAProxy(ctx, a, changes)
		return done, "", err
	default:
		done, err = r.command(ctx, a, changes)
		return done, "", err
	}
	if err != nil {
		return nil, "", err
	}
	return changes, note, nil
}

// land takes in what came of a flight. That it was interrupted by the end of ctx is no failure: a successor does it.
func (r *Runner) land(ctx context.Context, all []outcome, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	records := map[string][]byte{}
	for _, o := range all {
		o.job.flying = false
		if !r.asked[o.job.id] {
			delete(r.jobs, o.job.id)
			records[recordJob+o.job.id] = nil
			continue
		}
		for _, c := range o.done {
			if r.done(o.job, c, now) {
				records[recordCertificate+c.Key] = r.certs[c.Key].record()
			}
		}
		if o.err != nil && ctx.Err() != nil {
			continue
		}
		r.note(o, now)
		records[recordJob+o.job.id] = encoded(o.job.history)
	}
	r.keep(records)
}

// done takes a change from what is pending. If the certificate was renewed meanwhile, that is pending. The caller
// holds mu.
func (r *Runner) done(j *job, c Change, now time.Time) (changed bool) {
	k := r.certs[c.Key]
	if k == nil {
		return false
	}
	p, waits := k.Pending[j.id]
	switch {
	case !waits:
		return false
	case k.Version == c.New:
		delete(k.Pending, j.id)
	default:
		p.Old, p.Since = c.New, now
		k.Pending[j.id] = p
	}
	return true
}

// note takes down what has become of an action, and logs what a person should know. The caller holds mu.
func (r *Runner) note(o outcome, now time.Time) {
	h, before := &o.job.history, o.job.Fact
	what := r.log.With("hook", o.job.action.String(), "certificates", len(o.changes), "took", o.took.Round(time.Millisecond))
	h.Tried = now
	if o.err == nil {
		h.Failures, h.Succeeded, h.Fact, h.Hint, h.Note = 0, now, "", "", o.note
		h.Runs++
		if o.note != "" {
			what = what.With("note", o.note)
		}
		what.Info("a hook is done")
		return
	}
	e := Explained(o.err)
	h.Failures++
	h.Fact, h.Hint = e.Fact, e.Hint
	level := slog.LevelWarn
	if e.Fact == before {
		level = slog.LevelDebug
	}
	what.Log(context.Background(), level, "a hook has failed; it is tried again", "err", e.Fact, "hint", e.Hint, "failures", h.Failures, "in", Backoff(h.Failures))
}

// State of an action in a report.
type State string

const (
	Idle    State = "idle"    // it was done for everything that is served
	Waiting State = "waiting" // it is to be done, at Next
	Running State = "running"
	Failing State = "failing" // the last try has failed; the next is at Next
)

// Status of one action. Times are zero for what has not happened.
type Status struct {
	Action               Action
	State                State
	Pending              []string // names of certificates that it is to be done for
	LastRun, LastSuccess time.Time
	Runs                 int // that have succeeded
	Failures             int // since the last success
	Next                 time.Time
	Note                 string // what is to be said of the last success
	Err                  *Error // of the last try
}

// Report says how things are now, in the order of the settings.
func (r *Runner) Report() (all []Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	wants, changes := r.wants(now), r.changes()
	for _, j := range r.ordered() {
		if !r.asked[j.id] {
			continue // nobody has looked yet, or it was taken from the settings
		}
		s := Status{Action: j.action, State: Idle, LastRun: j.Tried, LastSuccess: j.Succeeded, Runs: j.Runs, Failures: j.Failures, Note: j.Note}
		for _, c := range changes[j.id] {
			s.Pending = append(s.Pending, c.Name)
		}
		if w, ok := wants[j.id]; ok {
			if s.State, s.Next = Waiting, j.action.due(w, now); s.Next.Before(now) {
				s.Next = now
			}
			if j.Failures > 0 {
				s.State, s.Err = Failing, &Error{Fact: j.Fact, Hint: j.Hint}
			}
		}
		if j.flying {
			s.State, s.Next = Running, time.Time{}
		}
		all = append(all, s)
	}
	return all
}
