package sync

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// Vault is where secrets come from. Get's errors are *vault.Error.
type Vault interface {
	Get(ctx context.Context, id vault.Identity, ref vault.Ref) (*vault.Secret, error)
}

// Publisher is where the tree goes to. Publish may be called again with the same
// snapshot after an error, and then does what is left to do.
type Publisher interface {
	Publish(ctx context.Context, s *tree.Snapshot) error
}

// Settings of a Syncer, which may change while it runs.
type Settings struct {
	Sources  []Source
	Interval time.Duration // between polls of one certificate
	Keep     int           // versions of each certificate that are served; 0: 2
	// Spec says how the certificates are shown. It is asked after every poll,
	// since users that did not exist may exist now. Its entries name sources by
	// their Key.
	Spec func() tree.Spec
}

// Options of a Syncer.
type Options struct {
	Vault     Vault
	Publisher Publisher
	Logger    *slog.Logger // default: nothing is logged
	// Renewed is called after a new version was published, from Run's goroutine.
	Renewed func(Renewal)
}

// Renewal is a new version of a certificate that readers can see.
type Renewal struct {
	Source    Source
	Old, New  certs.Version // Old is empty for the first
	Fetched   time.Time     // when the vault was asked
	Published time.Time
}

// How many secrets are fetched side by side.
const concurrency = 32

// Syncer polls and publishes. Run does all of it; the other methods hand their
// wish to Run or read what it last left.
type Syncer struct {
	opts   Options
	log    *slog.Logger
	wishes chan wish
	ready  chan struct{} // closed when every certificate was tried once

	// mu is held to write or read these, never while anything is fetched or
	// published.
	mu         sync.Mutex
	settings   Settings
	certs      []*certificate // one for each key, in the order of the settings
	spec       tree.Spec      // as last published
	publishErr error
	dirty      bool      // something is to be published
	retryAt    time.Time // when, after an error
	renewals   []Renewal // that wait for their publication
}

// wish is what somebody wants Run to do before its next poll.
type wish struct {
	settings *Settings
	only     func(Source) bool // poll these now; nil: none
	done     chan struct{}
}

// New makes a Syncer that knows nothing of any certificate yet.
func New(opts Options, settings Settings) *Syncer {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{opts: opts, log: opts.Logger, wishes: make(chan wish), ready: make(chan struct{}), dirty: true}
	s.configure(settings)
	return s
}

// Ready is closed when every certificate of the first settings has been tried
// once and what came of it is published.
func (s *Syncer) Ready() <-chan struct{} { return s.ready }

// Run polls until ctx ends. Its error is ctx's.
func (s *Syncer) Run(ctx context.Context) error {
	s.round(ctx, s.due(func(*certificate) bool { return true }))
	close(s.ready)
	for ctx.Err() == nil {
		timer := time.NewTimer(time.Until(s.wake()))
		select {
		case <-ctx.Done():
		case <-timer.C:
			now := time.Now()
			s.round(ctx, s.due(func(c *certificate) bool { return !c.next.After(now) }))
		case w := <-s.wishes:
			s.grant(ctx, w)
		}
		timer.Stop()
	}
	return ctx.Err()
}

func (s *Syncer) grant(ctx context.Context, w wish) {
	defer close(w.done)
	if w.settings != nil {
		s.configure(*w.settings)
	}
	s.round(ctx, s.due(func(c *certificate) bool { return w.only != nil && w.only(c.source) || c.lastAttempt.IsZero() }))
}

// Refresh polls the sources that only picks, now, and returns when what came of
// it is published. An error says that Run did not get to it.
func (s *Syncer) Refresh(ctx context.Context, only func(Source) bool) error {
	return s.ask(ctx, wish{only: only, done: make(chan struct{})})
}

// Change makes other settings current. Certificates that are in both keep what
// is known of them; new ones are fetched. It returns when that is published.
func (s *Syncer) Change(ctx context.Context, settings Settings) error {
	return s.ask(ctx, wish{settings: &settings, done: make(chan struct{})})
}

func (s *Syncer) ask(ctx context.Context, w wish) error {
	select {
	case s.wishes <- w:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the poll before: %w", ctx.Err())
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the poll: %w", ctx.Err())
	}
}

// configure takes settings over.
func (s *Syncer) configure(settings Settings) {
	if settings.Keep == 0 {
		settings.Keep = 2
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]*certificate{}
	for _, c := range s.certs {
		known[c.source.Key()] = c
	}
	var certs []*certificate
	taken := map[string]bool{}
	for _, src := range settings.Sources {
		if taken[src.Key()] {
			continue
		}
		taken[src.Key()] = true
		c := known[src.Key()]
		if c == nil {
			c = &certificate{source: src}
		}
		c.trim(settings.Keep)
		if limit := time.Now().Add(settings.Interval); c.next.After(limit) {
			c.next = limit
		}
		certs = append(certs, c)
	}
	s.settings, s.certs, s.dirty, s.retryAt = settings, certs, true, time.Time{}
}

func (s *Syncer) due(pick func(*certificate) bool) (due []*certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.certs {
		if pick(c) {
			due = append(due, c)
		}
	}
	return due
}

// wake is when there is something to do next.
func (s *Syncer) wake() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().Add(time.Hour)
	for _, c := range s.certs {
		if c.next.Before(at) {
			at = c.next
		}
	}
	if s.dirty && s.retryAt.Before(at) {
		at = s.retryAt
	}
	return at
}

// round tries certificates side by side and publishes whenever something has
// come and nothing more is there at once: the fast ones do not wait for the slow
// ones, and those that come together are published together.
func (s *Syncer) round(ctx context.Context, due []*certificate) {
	s.respec()
	outcomes := make(chan outcome, len(due))
	var g errgroup.Group
	g.Go(func() error { // of its own, since starting blocks at the limit
		var tries errgroup.Group
		tries.SetLimit(concurrency)
		for _, c := range due {
			tries.Go(func() error {
				outcomes <- try(ctx, s.opts.Vault, c)
				return nil
			})
		}
		return tries.Wait()
	})
	for left := len(due); left > 0; {
		s.record(ctx, <-outcomes)
		left--
		for more := true; more && left > 0; {
			select {
			case o := <-outcomes:
				s.record(ctx, o)
				left--
			default:
				more = false
			}
		}
		if left > 0 {
			s.commit(ctx)
		}
	}
	_ = g.Wait() // its functions return nil
	s.commit(ctx)
}

func (s *Syncer) record(ctx context.Context, o outcome) {
	if ctx.Err() != nil {
		return // what an interrupted try says is no news
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, old := o.cert, o.cert.current()
	failedBefore := c.err != nil
	if c.record(o, time.Now(), s.settings.Interval, s.settings.Keep) {
		s.dirty = true
		s.renewals = append(s.renewals, Renewal{Source: c.source, Old: old, New: c.current(), Fetched: o.started})
	}
	switch url := c.source.Ref.String(); {
	case c.err != nil:
		f := Explain(c.err)
		s.log.Warn("refresh failed", "url", url, "kind", f.Kind, "err", f.Fact, "hint", f.Hint, "failures", c.failures, "serving", string(c.current()))
	case failedBefore:
		s.log.Info("refresh works again", "url", url, "version", string(c.current()))
	default:
		s.log.Debug("refreshed", "url", url, "version", string(c.current()))
	}
}

// respec asks how the certificates are to be shown.
func (s *Syncer) respec() {
	s.mu.Lock()
	ask := s.settings.Spec
	s.mu.Unlock()
	spec := ask()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !reflect.DeepEqual(spec, s.spec) {
		s.spec, s.dirty = spec, true
	}
}

// commit publishes what is known, if there is anything new.
func (s *Syncer) commit(ctx context.Context) {
	s.mu.Lock()
	if !s.dirty || ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	spec, versions := s.spec, map[string][]*tree.Version{}
	for _, c := range s.certs {
		versions[c.source.Key()] = c.versions
	}
	renewals := s.renewals
	s.mu.Unlock()

	snapshot, err := tree.Build(spec, func(key string) []*tree.Version { return versions[key] })
	if err == nil {
		err = s.opts.Publisher.Publish(ctx, snapshot)
	}
	now := time.Now()

	s.mu.Lock()
	s.publishErr = err
	s.dirty, s.retryAt = err != nil, now.Add(firstRetry)
	if err == nil {
		s.renewals = slices.Clone(s.renewals[len(renewals):])
	}
	s.mu.Unlock()
	if err != nil {
		s.log.Error("publishing failed; what was served is still served", "err", err)
		return
	}
	for _, r := range renewals {
		r.Published = now
		s.log.Info("published", "url", r.Source.Ref.String(), "old", string(r.Old), "new", string(r.New), "took", now.Sub(r.Fetched).Round(time.Millisecond))
		if s.opts.Renewed != nil {
			s.opts.Renewed(r)
		}
	}
}

// Match picks sources by what a person types: "vault.name", "name", or a URL, in
// any case.
func Match(name string) func(Source) bool {
	name = strings.ToLower(name)
	return func(s Source) bool {
		r := s.Ref
		for _, alias := range []string{r.Name(), r.Vault() + "." + r.Name(), r.String()} {
			if strings.ToLower(alias) == name {
				return true
			}
		}
		return false
	}
}
