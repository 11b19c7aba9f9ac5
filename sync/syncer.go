package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"kvfs/cache"
	"kvfs/certs"
	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// Vault is where secrets come from. Get returns the version that ref names, or the
// newest; Versions lists all, newest first; List shows what is newest of every secret, in
// so many pages at most. Both lists need a permission of their own. Errors are
// *vault.Error.
type Vault interface {
	Get(ctx context.Context, id vault.Identity, ref vault.Ref) (*vault.Secret, error)
	Versions(ctx context.Context, id vault.Identity, ref vault.Ref) ([]vault.VersionInfo, error)
	List(ctx context.Context, id vault.Identity, ref vault.Ref, most int, each func(vault.Listed)) (pages int, complete bool, err error)
}

// Publisher is where the tree goes to. Publish may be called again with the same
// snapshot after an error, and then does what is left to do.
type Publisher interface {
	Publish(ctx context.Context, s *tree.Snapshot, beside ...image.Change) error
}

// Settings of a Syncer, which may change while it runs.
type Settings struct {
	Vault   Vault
	Sources []Source
	// Retired are sources of earlier settings that Spec still shows. What is known
	// of them stays as it is: they are not polled.
	Retired []Source
	// Policy of a source; nil: the zero Policy for all.
	Policy   func(Source) Policy
	Interval time.Duration // between polls of one certificate
	// RequireInitialSync makes Report's Initial, and Synced, wait until every certificate
	// has been available once.
	RequireInitialSync bool
	// Keep is how many versions of each certificate are served; 0: 2. KeepAll are those
	// that the vault has, at most MaxVersions; another number counts those that came
	// since the start.
	Keep int
	// OldVersions is how many bytes are held of versions that are not current. What is
	// not held is fetched again by Load.
	OldVersions int64
	// Spec says how the certificates are shown. It is asked after every poll,
	// since users that did not exist may exist now. Its entries name sources by
	// their Key.
	Spec func() tree.Spec
}

const (
	KeepAll     = -1
	MaxVersions = 1000 // of one certificate
)

func (s Settings) keep() int {
	switch s.Keep {
	case 0:
		return 2
	case KeepAll:
		return MaxVersions
	}
	return s.Keep
}

// Options of a Syncer.
type Options struct {
	Publisher Publisher
	Logger    *slog.Logger // default: nothing is logged
	// Image keeps what is known for the process after this one, and has what the one
	// before this knew; nil: nothing is kept. Blob finds the texts of what that has shown.
	Image *image.Image
	Blob  func(sum [32]byte) *tree.Blob
	// Visible is what readers see now, of which those names stay whose certificates are not
	// known although a predecessor has shown them; nil: nothing.
	Visible func() *tree.Snapshot
	// Seed names this machine, so that its polls are not in step with those of others.
	Seed string
	// LastGood gives the versions that are known of a source from elsewhere, newest first, where the
	// image has none; nil: none are. They are shown before the vault was asked.
	LastGood func(Source) []*tree.Version
	// Published is called after everything that is known was published, also if nothing of it was new, from Run's
	// goroutine: from then on Report says what readers see. It must not wait.
	Published func()
}

// Syncer polls and publishes. Run does all of it; the other methods hand their
// wish to Run or read what it last left.
type Syncer struct {
	opts    Options
	log     *slog.Logger
	wishes  chan *wish
	ready   chan struct{}               // closed when every certificate was tried once
	synced  chan struct{}               // closed when the first initial sync is over
	cache   *cache.Cache[*tree.Version] // older versions, by cacheKey
	builder tree.Builder                // for publish alone

	// mu is held to write or read these, never while anything is fetched or
	// published. Run alone writes them, but for what Load notes in older.troubles.
	mu         sync.Mutex
	settings   Settings
	certs      []*certificate // one for each key, in the order of the settings
	byKey      map[string]*certificate
	spec       tree.Spec // as last asked for
	publishErr error
	clash      error         // of entries that want one name
	vaults     []VaultStatus // replaced as a whole
	counts     Counts
	generation int             // of the settings
	dirty      bool            // something is to be published
	publishAt  time.Time       // not before this
	turnAt     time.Time       // when something is to be published by itself; zero: never
	kept       map[string]last // what the image has of certificates, by key
	recalling  bool            // the cache is being filled with what the image has; in New alone
	initial    initialSync
	loadBegan  time.Time // when settings came with certificates that had not been tried
}

// changePatience is how long changed settings wait for certificates that they
// bring. What is here already, and who may read it, must not wait for a vault that
// does not answer.
const changePatience = 3 * time.Second

// wish is what somebody wants Run to do.
type wish struct {
	granted  time.Time
	settings *Settings             // to make current; nil: as they are
	only     func(Source) bool     // to poll now; nil: what was never tried
	left     map[*certificate]bool // not yet tried since the wish came
	done     chan struct{}         // closed when all that is published
}

// New makes a Syncer that knows what the image does.
func New(opts Options, settings Settings) *Syncer {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{opts: opts, log: opts.Logger, wishes: make(chan *wish), ready: make(chan struct{}), synced: make(chan struct{}), dirty: true}
	if s.opts.Blob == nil {
		s.opts.Blob = func([32]byte) *tree.Blob { return nil }
	}
	held := cacheOptions
	if opts.Image != nil {
		held.Changed = s.cached
	}
	s.cache = cache.New(held)
	s.cache.SetLimit(settings.OldVersions)
	s.recallAll()
	s.recallInitial()
	s.configure(settings)
	return s
}

// Ready is closed when every certificate of the first settings has been tried
// once and what came of it is published.
func (s *Syncer) Ready() <-chan struct{} { return s.ready }

// Synced is closed when the initial sync is over, well or badly; from the start if the
// settings require none. One that changed settings begin anew does not open it again.
func (s *Syncer) Synced() <-chan struct{} { return s.synced }

// Run polls until ctx ends. Its error is ctx's.
//
// Certificates are tried side by side and each by its own schedule, so that one
// whose vault hangs holds up no other.
func (s *Syncer) Run(ctx context.Context) error {
	r := runner{Syncer: s, outcomes: make(chan outcome, concurrency), flying: map[*certificate]bool{}, listings: make(chan listing, listRoom),
		hosts: map[string]*host{}, lanes: map[laneKey]*lane{}, found: make(chan found, errandRoom), errands: map[*certificate]bool{}}
	first := &wish{done: s.ready}
	r.grant(first)
	for ctx.Err() == nil {
		r.launch(ctx)
		r.send(ctx)
		if r.commit(ctx) {
			r.send(ctx) // what was found to be missing
		}
		r.describe()
		s.lookAtInitial()
		timer := time.NewTimer(time.Until(s.initialEnd(r.wake())))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case w := <-s.wishes:
			r.grant(w)
		case o := <-r.outcomes:
			r.land(ctx, o)
		case at := <-r.listings:
			r.compare(ctx, at)
		case f := <-r.found:
			r.bring(ctx, f)
		}
		timer.Stop()
	}
	_ = r.tries.Wait() // they return nil, and end with ctx
	return ctx.Err()
}

// Refresh polls the sources that only picks, now, and returns when what came of
// it is published. An error says that Run did not get to it.
func (s *Syncer) Refresh(ctx context.Context, only func(Source) bool) error {
	return s.ask(ctx, &wish{only: only, done: make(chan struct{})})
}

// Change makes other settings current. Certificates that are in both keep what
// is known of them; new ones are fetched first, then all is published at once. It
// returns when that is done; an error from then on is that of the publication,
// which is tried again by itself.
func (s *Syncer) Change(ctx context.Context, settings Settings) error {
	if err := s.ask(ctx, &wish{settings: &settings, done: make(chan struct{})}); err != nil {
		return err
	}
	if err := s.Published(); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return nil
}

// Rehearse builds the tree that a spec would give with what is known now, and
// publishes nothing. Its error is that of tree.Build. A certificate of which no
// version is known counts with a stand-in, so that all names are compared.
func (s *Syncer) Rehearse(spec tree.Spec) (*tree.Snapshot, error) {
	views := map[string][]tree.Views{}
	for _, e := range spec.Entries {
		views[e.Certificate] = append(views[e.Certificate], e.Views)
	}
	s.mu.Lock()
	all, now := map[string]tree.Shown{}, time.Now()
	for _, c := range s.certs {
		all[c.key] = c.show(now)
	}
	s.mu.Unlock()
	return tree.Build(spec, func(key string) tree.Shown {
		shown := all[key]
		if shown.Current == nil {
			standIn := tree.StandIn(views[key]...)
			return tree.Shown{Versions: []*tree.Version{standIn}, Current: standIn}
		}
		more, err := shown.Current.With(views[key]...)
		if err != nil {
			more = shown.Current
		}
		return tree.Shown{Versions: []*tree.Version{more}, Current: more}
	})
}

func (s *Syncer) ask(ctx context.Context, w *wish) error {
	select {
	case s.wishes <- w:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the poller: %w", ctx.Err())
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
	if settings.Policy == nil {
		settings.Policy = func(Source) Policy { return Policy{} }
	}
	policies := s.rendered(settings)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	known, sameSecret := map[string]*certificate{}, map[string]*certificate{}
	for _, c := range s.certs {
		known[c.key] = c
		if other := sameSecret[c.source.Ref.Key()]; other == nil || c.lastSuccess.After(other.lastSuccess) {
			sameSecret[c.source.Ref.Key()] = c // the newest knowledge of it
		}
	}
	var all []*certificate
	taken := map[string]*certificate{}
	more := false // than was known of
	for _, src := range settings.Sources {
		if taken[src.Key()] != nil {
			continue
		}
		c := known[src.Key()]
		if c == nil {
			c = s.remember(src)
		}
		if c == nil {
			c = s.newCertificate(src)
			if old := sameSecret[src.Ref.Key()]; old != nil { // asked for by another identity
				c.versions, c.warnings, c.lastSuccess, c.shown, c.keyless = old.versions, old.warnings, old.lastSuccess, old.shown, old.keyless
				c.disabled = old.disabled
				s.inherit(c, old)
			} else {
				more = true
			}
		}
		taken[src.Key()] = c
		if c.retired { // it has come back
			c.retired, c.asked = false, now
		}
		if refused := (*Refused)(nil); errors.As(c.badErr, &refused) {
			c.badErr = nil // another policy may take it
		}
		c.policy = policies.of[src.Key()]
		lacking := policies.lack(c.versions)
		c.versions = policies.render(c.versions)
		c.trim(now, settings.keep())
		c.older = older{lacking: lacking, troubles: c.troublesHere()}
		if limit := now.Add(settings.Interval); c.next.After(limit) {
			c.next = limit
		}
		all = append(all, c)
	}
	for _, src := range settings.Retired {
		c := known[src.Key()]
		if c == nil {
			c = s.recall(src)
		}
		if c != nil && taken[src.Key()] == nil {
			taken[src.Key()] = c
			c.retired, c.wanted = true, false
			c.policy = policies.of[src.Key()]
			c.versions = policies.render(c.versions)
			c.older = older{troubles: c.troublesHere()}
			all = append(all, c)
		}
	}
	if _, going := s.loading(); !going {
		s.loadBegan = now
	}
	settings.Sources, settings.Retired, settings.Policy = nil, nil, nil // the certificates have it
	s.settings, s.certs, s.byKey, s.dirty, s.publishAt = settings, all, taken, true, time.Time{}
	s.initialConfigured(more, now)
	s.cache.SetLimit(settings.OldVersions)
	s.cache.Retain(func(key string) bool {
		c, id := taken[sourceOf(key)], certs.Version(key[len(sourceOf(key))+1:])
		return c != nil && (c.place(id) >= 0 || c.forgotten == id)
	})
	s.generation++
}

// Match picks sources by what a person types: "vault.name", "name", or a URL, in
// any case.
func Match(name string) func(Source) bool {
	isURL := strings.Contains(name, "://")
	return func(s Source) bool { // for each of thousands: nothing is to be allocated
		r := s.Ref
		if isURL {
			return strings.EqualFold(r.String(), name)
		}
		after, ok := cutFold(name, r.Vault())
		return strings.EqualFold(r.Name(), name) || ok && len(after) > 0 && after[0] == '.' && strings.EqualFold(r.Name(), after[1:])
	}
}

// cutFold is strings.CutPrefix in any case.
func cutFold(s, prefix string) (after string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
