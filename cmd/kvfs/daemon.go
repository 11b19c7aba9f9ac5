package main

import (
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
	"kvfs/chain"
	"kvfs/config"
	"kvfs/fs"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// How long the mount waits for the first certificates, so that a server that
// starts right behind it finds them. A vault that takes longer does not keep the
// mount away.
const firstPollPatience = 3 * time.Second

// idleGCPercent trades a little work for memory: what a daemon holds is nearly all
// alive, and hardly anything is allocated between polls.
const idleGCPercent = 30

// daemon is a kvfs that serves.
type daemon struct {
	app    *app
	log    *slog.Logger
	origin origin
	fs     *fs.FS
	syncer *kvsync.Syncer
	issuer chain.Fetcher
	began  time.Time
	stop   context.CancelFunc
	// reloads are wishes to read the settings again; each gets an answer.
	reloads chan chan<- status.Reloaded

	mu        sync.Mutex
	now       wanted              // changed by the goroutine that serves alone
	unknown   map[string][]string // users and groups that do not exist, by source
	refused   *status.Error       // why settings were not taken over, nil if they were
	unsettled *status.Error       // why what is wanted is not shown, nil if it is
	settleAt  time.Time           // when to try again what is unsettled
}

// newDaemon checks everything that can be checked before anything is mounted.
// renewed, which may be nil, is told of every new version.
func newDaemon(a *app, o origin, cfg *config.Config, renewed func(kvsync.Renewal)) (*daemon, error) {
	client, err := newVault(o, cfg, a)
	if err != nil {
		return nil, err
	}
	ca, err := readCA(cfg)
	if err != nil {
		return nil, err
	}
	passwords, err := readPasswords(cfg)
	if err != nil {
		return nil, err
	}
	d := &daemon{app: a, log: a.logger(), origin: o, now: wanted{cfg: cfg, vault: client, ca: ca, passwords: passwords}, began: time.Now(), reloads: make(chan chan<- status.Reloaded)}
	stores := d.now.stores(nil)
	if err := checkNested(stores); err != nil {
		return nil, err
	}
	if err := d.prepareStores(stores, d.now); err != nil {
		return nil, err
	}
	d.issuer.Logger = d.log
	d.logIgnored(cfg)
	if d.fs, err = fs.New(fs.Options{Stores: stores, Rootless: rootless(), Logger: d.log}); err != nil {
		return nil, err
	}
	d.syncer = kvsync.New(kvsync.Options{Publisher: d.fs, Logger: d.log, Renewed: renewed}, d.settings(d.now, stores))
	return d, nil
}

func rootless() bool { return os.Geteuid() != 0 }

// ownFiles are those that kvfs itself needs, and that no mount may hide.
func (d *daemon) ownFiles(cfg *config.Config) []string {
	return []string{d.origin.file, d.app.socket, cfg.Transport.CAFile}
}

// prepareStores refuses dangerous mountpoints and takes stale mounts away. Of a
// store inside another one nothing is to be prepared: its place is a directory
// in the other.
func (d *daemon) prepareStores(come []string, next wanted) error {
	own, all := d.ownFiles(next.cfg), next.stores(nil)
	if d.fs != nil {
		all = append(all, d.fs.Mounts()...)
	}
	for _, store := range come {
		if isInside(store, all) {
			continue
		}
		if err := fs.RecoverAround(store); err != nil {
			return err
		}
		stale, err := fs.CheckMountpoint(store, all, own...)
		if err != nil {
			return err
		}
		if stale {
			d.log.Warn("a kvfs that died has left a mount; it is replaced", "store", store)
			if err := fs.Recover(store); err != nil {
				return err
			}
			if _, err := fs.CheckMountpoint(store, all, own...); err != nil {
				return err // what the stale mount had hidden
			}
		}
		if err := fs.Prepare(store); err != nil {
			return err
		}
	}
	return nil
}

// settings of the syncer; stores are those that exist.
func (d *daemon) settings(w wanted, stores []string) kvsync.Settings {
	s := kvsync.Settings{Vault: w.vault, Policy: d.policies(w), Sources: sources(w.cfg.Certificates), Interval: w.cfg.PollingInterval,
		Keep: w.cfg.KeepVersions, OldVersions: int64(w.cfg.OldVersionsInMiB) << 20}
	if w.cfg.KeepVersions == config.AllVersions {
		s.Keep = kvsync.KeepAll
	}
	for _, r := range w.removed {
		s.Retired = append(s.Retired, source(r.Certificate))
	}
	s.Spec = func() tree.Spec {
		spec, unknown := w.spec(acl.Lookup{})
		spec.Stores = stores
		d.reportUnknown(spec.Entries, unknown)
		return spec
	}
	return s
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

// serve does everything until ctx ends. ready is called when the stores are
// visible; every value of hangUps asks to read the settings again and to poll.
//
// Things start in the order poll, connection, stores, and end in the reverse
// order. The kernel is answered from before the first store appears until after
// the last is gone.
func (d *daemon) serve(ctx context.Context, control *status.Server, hangUps <-chan os.Signal, ready func()) (err error) {
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	hardenProcess(d.log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(idleGCPercent)
	}

	// Both end with ctx, and if one ends before, all does.
	var work errgroup.Group
	work.Go(func() error { defer d.stop(); return ignoreEnd(ctx, d.syncer.Run(ctx)) })
	work.Go(func() error { defer d.stop(); return control.Serve(ctx, d) })
	defer func() {
		d.stop()
		err = errors.Join(err, work.Wait())
	}()
	select {
	case <-d.syncer.Ready():
	case <-time.After(firstPollPatience):
		d.log.Warn("the first poll takes long; mounting what has come", "after", firstPollPatience)
	case <-ctx.Done():
		return nil
	}
	unmount, err := d.mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(unmount(), err) }()
	ready()
	for {
		select {
		case <-ctx.Done():
			// No plan may be under way when the stores are taken away.
			_ = work.Wait() // its error is returned at the end
			return nil
		case <-hangUps:
			d.hangUp(ctx)
		case answer := <-d.reloads:
			answer <- d.reload(ctx)
		case <-d.alarm():
			d.expire(ctx)
		}
	}
}

// mount makes the stores visible. unmount takes them away, and fails if somebody
// else has ended the service.
func (d *daemon) mount() (unmount func() error, err error) {
	if err := d.fs.Open(); err != nil {
		return nil, explainMount(err)
	}
	// Not a child of ctx: whoever still reads while the stores are taken away
	// wants an answer.
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	var leaving atomic.Bool // from here on it is us who unmount
	go func() {
		err := d.fs.Serve(serving)
		if !leaving.Load() && err == nil {
			err = fail(exitFailed, "unmounted", "start it again", "somebody else has unmounted the stores, or aborted the connection")
		}
		served <- err
		d.stop()
	}()
	end := func() error {
		leaving.Store(true)
		stop()
		err := <-served
		d.fs.Close()
		return err
	}
	if err := d.fs.Attach(); err != nil {
		return nil, errors.Join(explainMount(err), end())
	}
	return func() error {
		leaving.Store(true)
		return errors.Join(d.fs.Detach(), end())
	}, nil
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

// Stop lets serve unmount and end.
func (d *daemon) Stop() { d.stop() }

// Refresh polls now.
func (d *daemon) Refresh(ctx context.Context, names []string) ([]status.Refreshed, error) {
	match := func(kvsync.Source) bool { return len(names) == 0 }
	if len(names) > 0 {
		var picks []func(kvsync.Source) bool
		for _, name := range names {
			pick := kvsync.Match(name)
			if !slices.ContainsFunc(sources(d.wanted().cfg.Certificates), pick) {
				return nil, &status.UnknownError{Name: name}
			}
			picks = append(picks, pick)
		}
		match = func(s kvsync.Source) bool {
			return slices.ContainsFunc(picks, func(p func(kvsync.Source) bool) bool { return p(s) })
		}
	}
	before := d.syncer.Report()
	if err := d.syncer.Refresh(ctx, match); err != nil {
		return nil, fmt.Errorf("refreshing: %w", err)
	}
	var done []status.Refreshed
	after := d.syncer.Report()
	for i, c := range after.Certificates {
		if match(c.Source) && c.State != kvsync.Removed {
			done = append(done, status.Refreshed{URL: c.Source.Ref.String(), Old: string(versionIn(before, i, c)), New: string(c.Version), Error: statusError(c.Err)})
		}
	}
	if after.Publish != nil {
		return done, fmt.Errorf("publishing: %w", after.Publish)
	}
	return done, nil
}
