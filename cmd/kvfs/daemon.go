package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/config"
	"kvfs/fs"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
	"kvfs/vault"
)

// How long the mount waits for the first certificates, so that a server that
// starts right behind it finds them. A vault that takes longer does not keep the
// mount away.
const firstPollPatience = 3 * time.Second

// daemon is a kvfs that serves.
type daemon struct {
	app    *app
	log    *slog.Logger
	origin origin
	vault  *vault.Client
	fs     *fs.FS
	syncer *kvsync.Syncer
	began  time.Time
	stop   context.CancelFunc

	mu      sync.Mutex
	cfg     *config.Config
	unknown map[string]bool // users and groups that were reported as unknown
}

// newDaemon checks everything that can be checked before anything is mounted.
// renewed, which may be nil, is told of every new version.
func newDaemon(a *app, o origin, cfg *config.Config, renewed func(kvsync.Renewal)) (*daemon, error) {
	resolveStores(cfg)
	d := &daemon{app: a, log: a.logger(), origin: o, cfg: cfg, began: time.Now(), unknown: map[string]bool{}}
	if err := d.prepareStores(); err != nil {
		return nil, err
	}
	var err error
	if d.vault, err = newVault(o, cfg, a); err != nil {
		return nil, err
	}
	d.fs = fs.New(fs.Options{Stores: stores(cfg), Rootless: rootless(), Logger: d.log})
	d.syncer = kvsync.New(kvsync.Options{Vault: d.vault, Publisher: d.fs, Logger: d.log, Renewed: renewed}, d.settings(cfg))
	return d, nil
}

func rootless() bool { return os.Geteuid() != 0 }

// prepareStores refuses dangerous mountpoints and takes stale mounts away.
func (d *daemon) prepareStores() error {
	if err := nested(d.cfg); err != nil {
		return err
	}
	own := []string{d.origin.file, d.app.socket, d.cfg.Transport.CAFile}
	for _, store := range stores(d.cfg) {
		stale, err := fs.CheckMountpoint(store, own...)
		if err != nil {
			return err
		}
		if stale {
			d.log.Warn("a kvfs that died has left a mount; it is replaced", "store", store)
			if err := fs.Recover(store); err != nil {
				return err
			}
			if _, err := fs.CheckMountpoint(store, own...); err != nil {
				return err // what the stale mount had hidden
			}
		}
		if err := fs.Prepare(store); err != nil {
			return err
		}
	}
	return nil
}

// settings of the syncer for a Config.
func (d *daemon) settings(cfg *config.Config) kvsync.Settings {
	return kvsync.Settings{Sources: sources(cfg), Interval: cfg.PollingInterval, Keep: cfg.KeepVersions, Spec: func() tree.Spec {
		s, unknown := spec(cfg, acl.Lookup{})
		d.reportUnknown(unknown)
		return s
	}}
}

// reportUnknown logs a user that does not exist once, and again when it has come
// and gone.
func (d *daemon) reportUnknown(unknown []acl.Unknown) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[string]bool{}
	for _, u := range unknown {
		if !now[u.Error()] && !d.unknown[u.Error()] {
			d.log.Warn("this grant is skipped", "err", u.Error(), "hint", u.Hint())
		}
		now[u.Error()] = true
	}
	d.unknown = now
}

// serve does everything until ctx ends. ready is called when the stores are
// visible; reload is read for wishes to read the settings again.
//
// Things start in the order poll, connection, stores, and end in the reverse
// order. The kernel is answered from before the first store appears until after
// the last is gone.
func (d *daemon) serve(ctx context.Context, control *status.Server, reload <-chan os.Signal, ready func()) (err error) {
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	hardenProcess(d.log)

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
		case <-reload:
			d.reload(ctx)
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

// reload reads the settings again and polls everything. A document with an error
// changes nothing.
func (d *daemon) reload(ctx context.Context) {
	if err := d.changeSettings(ctx); err != nil {
		f := asFailure(err)
		d.log.Error("changing the settings failed; what was good is still served", "err", f.fact, "hint", f.hint)
	}
	if _, err := d.Refresh(ctx, nil); err != nil && ctx.Err() == nil {
		d.log.Error("refreshing failed", "err", err)
	}
}

func (d *daemon) changeSettings(ctx context.Context) error {
	if d.origin.file == "" || d.origin.file == "-" {
		return nil // nothing that could have changed
	}
	cfg, problems, err := d.origin.load(nil)
	if err != nil {
		return err
	}
	resolveStores(cfg)
	for _, p := range problems {
		d.log.Log(ctx, levelOf(p), "settings", "at", position(d.origin.name(), p), "fact", p.Fact, "hint", p.Hint)
	}
	if cfg == nil {
		return fail(exitSettings, "settings", "see the lines before", "%s has errors; the previous settings stay", d.origin.file)
	}
	d.mu.Lock()
	old := d.cfg
	d.mu.Unlock()
	if !sameSet(stores(old), stores(cfg)) || !reflect.DeepEqual(old.Transport, cfg.Transport) {
		return fail(exitSettings, "settings", "restart kvfs", "other stores or another transport cannot be taken over while kvfs runs; the previous settings stay")
	}
	d.mu.Lock()
	d.cfg = cfg
	d.mu.Unlock()
	if err := d.syncer.Change(ctx, d.settings(cfg)); err != nil {
		return fmt.Errorf("the settings are taken over, but not all of them is shown yet: %w", err)
	}
	d.log.Info("settings applied", "file", d.origin.file, "certificates", len(cfg.Certificates))
	return nil
}

func levelOf(p config.Problem) slog.Level {
	if p.Severity == config.Error {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func (d *daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
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
			if !slices.ContainsFunc(sources(d.config()), pick) {
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
		if match(c.Source) {
			done = append(done, status.Refreshed{URL: c.Source.Ref.String(), Old: string(versionIn(before, i, c)), New: string(c.Version), Error: statusError(c.Err)})
		}
	}
	if after.Publish != nil {
		return done, fmt.Errorf("publishing: %w", after.Publish)
	}
	return done, nil
}
