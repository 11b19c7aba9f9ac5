package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/alert"
	"kvfs/certs"
	"kvfs/chain"
	"kvfs/config"
	"kvfs/fs"
	"kvfs/hook"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// How long the mount waits for the first certificates, so that a server that
// starts right behind it finds them. A vault that takes longer does not keep the
// mount away.
const firstPollPatience = 3 * time.Second

// Where the mounts are there already, and what waits for kvfs to be ready is another
// unit, it may wait longer.
const mountedPatience = 30 * time.Second

// idleGCPercent trades a little work for memory: what a daemon holds is nearly all
// alive, and hardly anything is allocated between polls. Loading manyCertificates it is
// worth more time too.
const (
	idleGCPercent    = 20
	manyCertificates = 3000
)

// tidyPause is how long nothing has happened when memory is given back.
const tidyPause = 2 * time.Second

// daemon is a kvfs that serves.
type daemon struct {
	*kept
	app    *app
	log    *slog.Logger
	origin origin
	syncer *kvsync.Syncer
	disks  *disks
	audit  *auditing
	good   *lastGood
	// remembered tells whether all certificates were known before the vaults were asked.
	remembered bool
	issuer     chain.Fetcher
	hooks      *hook.Runner
	told       *alert.Queue // what the commands for alerts are still to be told
	programs   *hook.Programs
	began      time.Time
	stop       context.CancelFunc
	// shown is set when the stores are visible.
	shown atomic.Bool
	// published is set when links lead to what the poller says.
	published atomic.Bool
	// announced is set when kvfs is ready for those who wait for certificates.
	announced atomic.Bool
	// progress is made when stores are visible and when something was published.
	progress broadcast
	// spent is memory for a report, a publication, or a look at what to warn of, of which next to nothing is needed any more.
	spent broadcast
	// news come when something was published, or other settings are in force.
	news chan struct{}
	// reloads are wishes to read the settings again; each gets an answer.
	reloads chan chan<- status.Reloaded

	mu        sync.Mutex
	now       wanted              // changed by the goroutine that serves alone
	unknown   map[string][]string // users and groups that do not exist, by source
	refused   *status.Error       // why settings were not taken over, nil if they were
	unsettled *status.Error       // why what is wanted is not shown, nil if it is
	settleAt  time.Time           // when to try again what is unsettled
}

// newDaemon checks everything that can be checked before anything is mounted. What
// a predecessor serves goes on being served whatever comes of it.
func newDaemon(a *app, o origin, k *kept, now wanted) (*daemon, error) {
	client, err := newVault(o, now.cfg, a, now.doc.CA)
	if err != nil {
		return nil, err
	}
	now.vault = client
	d := &daemon{kept: k, app: a, log: a.logger(), origin: o, now: now, began: time.Now(), reloads: make(chan chan<- status.Reloaded), news: make(chan struct{}, 1)}
	d.disks = &disks{log: d.log, client: k.client, began: make(chan struct{}), wake: make(chan struct{}, 1), known: d.knownBases, wrote: d.lookAgain,
		options: d.diskOptions}
	d.audit = newAuditing(a, k, d.log)
	d.good = newLastGood()
	stores := d.now.stores(nil)
	if err := checkNested(stores, d.fs.Rootless()); err != nil {
		return nil, err
	}
	if err := now.checkPersistent(a.server.unit); err != nil {
		return nil, err
	}
	if err := checkLogFile(now, k.fs.Mounts()); err != nil {
		return nil, err
	}
	if err := refusedHooks(o, now.checkHooks(a.server.unit)); err != nil {
		return nil, err
	}
	switch err := d.prepareComing(now); {
	case err != nil && k.serving != nil: // as for its predecessor; it is tried again
		d.log.Error("a store cannot be shown", "err", err)
	case err != nil:
		return nil, err
	}
	if err := d.takeFiles(); err != nil {
		return nil, err
	}
	d.shown.Store(k.serving != nil)
	d.issuer.Logger = d.log
	d.logIgnored(now.cfg)
	d.programs, d.told = hook.NewPrograms(d.log, "/proc/self/exe", "run", "--"), d.newAlerts()
	d.set(now)
	d.hooks = d.newHooks()
	d.syncer = kvsync.New(kvsync.Options{Publisher: publisher{d.fs, d.disks, d.audit, d.hear}, Logger: d.log, Image: d.image, Blob: d.fs.Blob, Visible: d.fs.Snapshot, LastGood: d.good.of, Seed: machineSeed(), Published: d.lookAtHooks}, d.settings(d.now, union(d.fs.Mounts(), stores)))
	d.remembered = d.good.covers(now)
	d.good.forget()
	d.loader.set(d.syncer)
	return d, nil
}

// takeFiles opens the directories that have real files, and reads what is there as last good: all before anything is
// mounted there.
func (d *daemon) takeFiles() error {
	begins := d.serving == nil
	for _, store := range d.now.real() {
		if err := takeStaleMount(store); begins && err != nil {
			return err
		}
		if fs.HoldsCertificates(store) {
			d.log.Warn("this is a system directory, at which nothing is mounted: real files are written, and the keys are on its file system", "store", store)
		}
	}
	covered := d.fs.Mounts()
	uncovered := slices.DeleteFunc(storesOf(d.now.cfg.Certificates), func(store string) bool { return slices.Contains(covered, store) })
	if begins {
		if err := d.disks.enter(d.now, d.beneath); err != nil {
			return err
		}
		d.good.read(d, d.now, uncovered)
		return nil
	}
	// What is served does not wait for a disk that hangs. Nearly all is known from the predecessor.
	d.disks.take(d.now, d.beneath)
	d.good.take(d.readFiles(d.now, uncovered))
	return nil
}

// readFiles is what is last good in these stores, unless a disk does not answer.
func (d *daemon) readFiles(w wanted, stores []string) *lastGood {
	if len(stores) == 0 {
		return nil
	}
	found, ok := within(diskPatience, func() *lastGood {
		found := newLastGood()
		found.read(d, w, stores)
		return found
	})
	if !ok {
		d.log.Warn("the files are not read: a disk does not answer; all else goes on", "after", diskPatience)
	}
	return found
}

// coming are the stores that are wanted and not visible.
func (d *daemon) coming(next wanted) []string {
	visible := d.fs.Mounts()
	return slices.DeleteFunc(next.stores(nil), func(at string) bool { return slices.Contains(visible, at) })
}

// unread are the stores that come, mounted or not.
func (d *daemon) unread(next wanted) []string {
	known := slices.Concat(d.fs.Mounts(), d.disks.paths())
	return slices.DeleteFunc(storesOf(next.cfg.Certificates), func(at string) bool { return slices.Contains(known, at) })
}

// stores that are to be visible. Where they cannot change, one that nothing is in any
// more stays.
func (d *daemon) stores(w wanted) []string {
	visible := d.fs.Mounts()
	if d.fs.Fixed() {
		return union(w.stores(visible), visible)
	}
	return w.stores(visible)
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func rootless() bool { return os.Geteuid() != 0 }

// ownFiles are those that kvfs itself needs, and that no mount may hide.
func (d *daemon) ownFiles(cfg *config.Config) []string { return d.app.ownFiles(d.origin, cfg) }

func (a *app) ownFiles(o origin, cfg *config.Config) []string {
	own := []string{o.file, a.socket, cfg.Transport.CAFile, cfg.Log.File}
	if cfg.Metrics.Socket() {
		own = append(own, cfg.Metrics.Listen)
	}
	return own
}

// prepareComing is prepareStores for those that this process makes visible.
func (d *daemon) prepareComing(next wanted) error {
	if d.serving != nil && d.fs.Fixed() {
		return nil
	}
	check := checkStore
	if d.app.server.unit != "" { // nobody here can read what is there
		check = fs.CheckMountpoint
	}
	return prepareStores(d.log, check, d.coming(next), union(next.stores(nil), d.fs.Mounts()), d.ownFiles(next.cfg))
}

// prepareStores refuses dangerous mountpoints and takes stale mounts away. Of a
// store inside another one nothing is to be prepared: its place is a directory
// in the other.
func prepareStores(log *slog.Logger, check func(string, []string, ...string) (bool, error), come, all, own []string) error {
	for _, store := range come {
		if isInside(store, all) {
			continue
		}
		if err := fs.RecoverAround(store); err != nil {
			return err
		}
		stale, err := check(store, all, own...)
		if err != nil {
			return err
		}
		if stale {
			log.Warn("a kvfs that died has left a mount; it is replaced", "store", store)
			if err := fs.Recover(store); err != nil {
				return err
			}
			if _, err := check(store, all, own...); err != nil {
				return err // what the stale mount had hidden
			}
		}
		if err := fs.Prepare(store); err != nil {
			return err
		}
	}
	return nil
}

// takeStaleMount takes the mount of a dead kvfs away, beneath which there are to be real files from now on.
func takeStaleMount(store string) error {
	if !fs.Visible(store) {
		return nil
	}
	stale, err := fs.CheckMountpoint(store, nil)
	if err == nil && stale {
		err = fs.Recover(store)
	}
	return err
}

// settings of the syncer; stores are those that exist.
func (d *daemon) settings(w wanted, stores []string) kvsync.Settings {
	s := kvsync.Settings{Vault: w.vault, Policy: d.policies(w), Sources: sources(w.cfg.Certificates), Interval: w.cfg.PollingInterval,
		RequireInitialSync: w.cfg.RequireInitialSync, Keep: w.cfg.KeepVersions, OldVersions: int64(w.cfg.OldVersionsInMiB) << 20}
	if w.cfg.KeepVersions == config.AllVersions {
		s.Keep = kvsync.KeepAll
	}
	for _, r := range w.removed {
		s.Retired = append(s.Retired, source(r.Certificate))
	}
	all := w.specifier(acl.Lookup{}, union(stores, w.real()))
	s.Spec = func() tree.Spec {
		spec, unknown, news := all.ask()
		if news {
			d.reportUnknown(spec.Entries, unknown)
		}
		return spec
	}
	return s
}

// machineSeed names this machine among those that have the same settings. It is no
// secret, and goes nowhere.
func machineSeed() string {
	id, _ := os.ReadFile("/etc/machine-id") // images that were cloned may share it
	name, _ := os.Hostname()
	return string(id) + name
}

// logIgnored says which fields have no effect on Linux.
func (d *daemon) logIgnored(cfg *config.Config) {
	for _, n := range cfg.Ignored {
		d.log.Debug("this field has no effect on Linux", "field", n.Field, "line", n.Line, "column", n.Column)
	}
}

// reportUnknown logs a user that does not exist once, and again when it has come
// and gone, and keeps it for the status.
func (d *daemon) reportUnknown(entries []tree.Entry, unknown [][]acl.Unknown) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[string][]string{}
	for i, e := range entries {
		for _, u := range unknown[i] {
			if slices.Contains(now[e.Certificate], u.Error()) {
				continue
			}
			now[e.Certificate] = append(now[e.Certificate], u.Error())
			if !slices.Contains(d.unknown[e.Certificate], u.Error()) {
				d.log.Warn("this grant is skipped", "url", e.URL, "err", u.Error(), "hint", u.Hint())
			}
		}
	}
	d.unknown = now
}

// serve does everything until ctx ends. visible is called when the stores are; ready
// when what has waited for certificates may go on, unless a predecessor has got so far.
// Every value of hangUps asks to read the settings again and to poll.
//
// Things start in the order poll, connection, stores, and end in the reverse
// order. The kernel is answered from before the first store appears until after
// the last is gone. After a predecessor the kernel is being answered already, and
// everything else follows.
func (d *daemon) serve(ctx context.Context, hangUps <-chan os.Signal, visible, ready func()) (err error) {
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	first, patience := true, firstPollPatience
	if d.serving != nil {
		first, patience = d.app.server.unit != "" && d.fs.Bare(), mountedPatience
		if err := d.fs.Attach(); err != nil { // without a publisher nothing is renewed, and all is served
			d.log.Error("a publisher cannot be started; it is tried again", "err", err)
		}
	}

	// All end with ctx, and if one ends before, all does.
	var work errgroup.Group
	work.Go(func() error { defer d.stop(); return ignoreEnd(ctx, d.syncer.Run(ctx)) })
	work.Go(func() error { defer d.stop(); return d.control.Serve(ctx, d) })
	work.Go(func() error { d.disks.run(ctx); return nil })
	work.Go(func() error { d.watch(ctx); return nil })
	work.Go(func() error { d.showLoading(ctx); return nil })
	work.Go(func() error { d.economize(ctx); return nil })
	work.Go(func() error { d.alerts(ctx); return nil })
	work.Go(func() error { d.tellAlerts(ctx); return nil })
	work.Go(func() error { d.app.log().Run(ctx); return nil })
	work.Go(func() error { d.audit.run(ctx); return nil })
	work.Go(func() error { defer d.stop(); return ignoreEnd(ctx, d.hooks.Run(ctx)) })
	d.metrics.start(ctx, d)
	defer func() {
		d.stop()
		err = errors.Join(err, work.Wait())
		d.metrics.work.Wait()
	}()
	defer func() {
		if d.serving != nil {
			err = errors.Join(d.leave(), err)
		}
	}()
	if err := d.begin(ctx, first, patience); err != nil || ctx.Err() != nil {
		return err
	}
	d.shown.Store(true)
	d.progress.signal()
	visible()
	if d.app.server.unit == "" {
		d.tell(d.client.Ready()) // a keeper of ours is told that this process answers
	}
	synced := d.syncer.Synced()
	select {
	case <-synced:
		synced = nil
		d.announce(first, ready)
	default:
		first = true // nobody has announced it
	}
	if !sameSet(d.fs.Mounts(), d.stores(d.wanted())) {
		_ = d.settle(ctx) // it has said what is wrong, and is tried again
	}
	for {
		select {
		case <-ctx.Done():
			// No plan may be under way when the stores are taken away.
			_ = work.Wait() // its error is returned at the end
			return nil
		case <-lostFrom(d.serving):
			return fail(exitFailed, "unmounted", "start it again", "somebody else has unmounted the stores, or aborted the connection")
		case <-hangUps:
			d.hangUp(ctx)
		case answer := <-d.reloads:
			answer <- d.reload(ctx)
		case <-d.alarm():
			d.expire(ctx)
		case <-synced:
			synced = nil
			d.announce(first, ready)
		case <-d.metrics.alarm():
			d.metrics.retry(ctx, d)
		case b := <-d.metrics.broken:
			d.metrics.lost(b)
		}
	}
}

// announce says that what waits for certificates may go on. To systemd that is READY=1,
// on which the units behind this one wait.
func (d *daemon) announce(first bool, ready func()) {
	d.announced.Store(true)
	if d.app.server.unit != "" {
		d.tell(d.client.Ready())
	}
	if first {
		ready()
	}
}

// economize gives back what loading the certificates needed more, and later what reports
// and publications did. With many of them it saves from the start: what stays lies among
// what does not, and keeps its pages.
func (d *daemon) economize(ctx context.Context) {
	save := func() {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(idleGCPercent)
		}
	}
	if len(d.wanted().cfg.Certificates) >= manyCertificates {
		save()
	}
	select {
	case <-d.syncer.Ready():
	case <-ctx.Done():
		return
	}
	save()
	d.progress.until(ctx, time.Minute, d.shown.Load) // which needs as much
	// An image that is not trimmed is as good as before.
	if err := d.fs.Trim(); err != nil {
		d.log.Warn("the image needs more memory than it should", "err", err)
	}
	for spent, ok := d.spent.next(), true; ok; spent, ok = d.spent.rest(ctx, spent, tidyPause) {
		debug.FreeOSMemory()
	}
}

// begin makes the stores visible, at once if all is known from before, and waits for the first poll, but not for
// long: who starts when kvfs is ready finds what the vaults have now.
func (d *daemon) begin(ctx context.Context, first bool, patience time.Duration) error {
	if !first {
		return d.mount()
	}
	late, over := context.WithTimeout(ctx, patience)
	defer over()
	if d.remembered {
		select {
		case <-d.disks.began:
		case <-late.Done():
		}
		if err := d.mount(); err != nil {
			return err
		}
	}
	select {
	case <-d.syncer.Ready():
	case <-late.Done():
		if ctx.Err() != nil {
			return nil
		}
		d.log.Warn("the first poll takes long; showing what has come", "after", patience)
	}
	return d.mount()
}

// mount makes the stores visible, if there are any and they are not.
func (d *daemon) mount() (err error) {
	if d.serving != nil || len(d.now.stores(nil)) == 0 {
		return nil
	}
	if err := d.fs.Open(d.now.stores(nil)...); err != nil {
		return explainMount(err)
	}
	serving := startServing(d.fs)
	d.watchOpens() // before anybody can open anything
	if err := d.fs.Attach(); err != nil {
		return errors.Join(explainMount(err), serving.end())
	}
	d.serving = serving
	return nil
}

// watchOpens has an auditor at work, if the settings want one; what keeps it from that is
// logged, and tried again.
func (d *daemon) watchOpens() {
	ctx, cancel := context.WithTimeout(context.Background(), auditPatience)
	defer cancel()
	_ = d.audit.begin(ctx)
	d.audit.signal() // it is looked after from now on
}

// parks tells whether a successor is to go on. What a unit's mounter has made is not
// for this process to end.
func (d *daemon) parks() bool { return d.parking.Load() || d.app.server.unit != "" }

// leave takes the stores away, unless a successor is to go on with them.
func (d *daemon) leave() error {
	if d.parks() {
		return d.serving.end()
	}
	d.tell(d.client.Stopping())
	d.serving.leaving.Store(true)
	return errors.Join(d.fs.Detach(), d.serving.end())
}

// How long systemd is asked to go on waiting for READY=1, and how often where it wants no
// pings. The first time has to come within TimeoutStartSec=, 90 s if nobody says
// otherwise.
const (
	startExtension = time.Minute
	extendEvery    = 20 * time.Second
)

// watch tells the keeper that all is well, for as long as it is, and says when there is
// no keeper any more.
func (d *daemon) watch(ctx context.Context) {
	every := d.client.PingEvery()
	tick := time.NewTicker(cmp.Or(every, extendEvery))
	defer tick.Stop()
	gone := d.client.Gone()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if d.shown.Load() && !d.announced.Load() && d.app.server.unit != "" {
				d.tell(d.client.Extend(startExtension)) // before the ping: it is about the watchdog too
			}
			// A request that is not answered for so long never will be: no ping, and this
			// process is replaced.
			if every > 0 && d.fs.Busy() < every {
				d.tell(d.client.Ping())
			}
		case <-gone:
			gone = nil
			tick.Stop()
			d.log.Error("the keeper has died: all is served, but the next death of this process ends that", "hint", "restart kvfs when it suits you")
		}
	}
}

// tell logs what could not be said to the keeper.
func (d *daemon) tell(err error) {
	if err != nil {
		d.log.Warn("the keeper does not listen", "err", err)
	}
}

// explainMount names what a mount needs, for the errors that people meet.
func explainMount(err error) error {
	f := &failure{code: exitFailed, kind: "mount", fact: err.Error(), err: err}
	var path *os.PathError
	switch {
	case errors.Is(err, os.ErrNotExist) && errors.As(err, &path) && path.Path == fs.Device:
		f.hint = "load the module with: modprobe fuse (in a container: --device /dev/fuse)"
	case errors.Is(err, os.ErrPermission):
		f.code, f.hint = exitRefused, "mounting needs CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN --device /dev/fuse)"
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		f.hint = "kvfs needs Linux 5.12 or later"
	case rootless():
		f.hint = "an ordinary user needs fuse3 installed, the right to open /dev/fuse (mode 0666), and a directory of its own (--store)"
	}
	return f
}

// hardenProcess keeps keys out of core dumps and away from other processes of
// the same user.
func hardenProcess(log *slog.Logger) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.Warn("this process can be dumped", "err", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		log.Warn("this process can dump core", "err", err)
	}
}

func (d *daemon) wanted() wanted {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

var _ status.Service = (*daemon)(nil)

// liveBound is how long the longest request may take of a process that is alive. Its
// keeper, if there is one, replaces it sooner.
const liveBound = 10 * time.Second

// Live tells whether the kernel is answered.
func (d *daemon) Live() *status.Error {
	if busy := d.fs.Busy(); busy >= liveBound {
		return &status.Error{Kind: "busy", Fact: fmt.Sprintf("a request to the file system has not been answered for %s", busy.Round(time.Second)), Hint: "restart kvfs"}
	}
	return nil
}

// Ready is what kvfs wait waits for.
func (d *daemon) Ready() *status.Error {
	err := unready(d.Figures())
	if err == nil {
		return nil
	}
	f := asFailure(err)
	return &status.Error{Kind: f.kind, Fact: f.fact, Hint: f.hint}
}

// Stop lets serve unmount and end.
func (d *daemon) Stop() { d.stop() }

// Refresh polls now.
func (d *daemon) Refresh(ctx context.Context, names []string) ([]status.Refreshed, error) {
	match := func(kvsync.Source) bool { return len(names) == 0 }
	if len(names) > 0 {
		var picks []func(kvsync.Source) bool
		for _, name := range names {
			pick := kvsync.Match(name)
			if !slices.ContainsFunc(d.wanted().cfg.Certificates, func(c config.Certificate) bool { return pick(source(c)) }) {
				return nil, &status.UnknownError{Name: name}
			}
			picks = append(picks, pick)
		}
		match = func(s kvsync.Source) bool {
			return slices.ContainsFunc(picks, func(p func(kvsync.Source) bool) bool { return p(s) })
		}
	}
	before := map[kvsync.Source]certs.Version{}
	for _, c := range d.syncer.Certificates(match) {
		before[c.Source] = c.Version
	}
	if err := d.syncer.Refresh(ctx, match); err != nil {
		return nil, fmt.Errorf("refreshing: %w", err)
	}
	var done []status.Refreshed
	for _, c := range d.syncer.Certificates(match) {
		if c.State != kvsync.Removed {
			done = append(done, status.Refreshed{URL: c.Source.Ref.String(), Old: string(before[c.Source]), New: string(c.Version), Error: statusError(c.Err)})
		}
	}
	if err := d.syncer.Published(); err != nil {
		return done, fmt.Errorf("publishing: %w", err)
	}
	return done, nil
}
