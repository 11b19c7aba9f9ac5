package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"kvfs/config"
	"kvfs/emulator"
	"kvfs/status"
)

func (a *app) demoCommand() *cobra.Command {
	o := demoOptions{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "see it work: an embedded Key Vault, a real mount, live renewal",
		Long: `Starts an embedded Key Vault with a few certificates, mounts them as kvfs mount
would, through the real Azure client over TLS, and renews them every now and
then. If nginx is installed, it serves a page with the first certificate. Needs
nothing but /dev/fuse, and leaves nothing behind when it is interrupted.`,
		Example: `  kvfs demo
  kvfs demo --certs 10 --rotate 5s`,
		Args: takes(0, 0, nothing),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, done := untilSignal(cmd.Context(), syscall.SIGHUP)
			defer done()
			return a.demo(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", "", "where to mount (default: a new directory, removed at the end)")
	cmd.Flags().IntVar(&o.certs, "certs", 2, "number of certificates")
	cmd.Flags().DurationVar(&o.rotate, "rotate", 20*time.Second, "time between renewals")
	return cmd
}

type demoOptions struct {
	dir    string
	certs  int
	rotate time.Duration
}

// demo runs the vault. Everything else is what a user runs: a keeper and its server,
// settings in a file, secrets through the Azure client and TLS, certificates through
// the kernel, and inotify to see them renewed.
func (a *app) demo(ctx context.Context, o demoOptions) (err error) {
	if o.certs < 1 || o.rotate < time.Second {
		return fail(exitUsage, "usage", "see kvfs demo --help", "at least one certificate, and a second between renewals")
	}
	work, err := os.MkdirTemp("", "kvfs-demo-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(work)
	// Others may enter: one of them is in an access list.
	if err := os.Chmod(work, 0o755); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	store, err := filepath.Abs(cmp.Or(o.dir, filepath.Join(work, "store")))
	if err != nil {
		return err
	}
	e, err := emulator.New(emulator.Options{Dir: filepath.Join(work, "vault"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer e.Close() // for one that never ran
	d := &demo{app: a, emulator: e, store: store, rotated: map[string]time.Time{}}
	if err := fill(e, "", nil, o.certs); err != nil {
		return err
	}
	from, err := d.writeSettings(work)
	if err != nil {
		return err
	}
	// A demo beside a kvfs that serves in earnest must not be in its way.
	a.socket = filepath.Join(work, "kvfs.sock")
	return d.run(ctx, from, o.rotate)
}

// demo is one that runs.
type demo struct {
	app      *app
	emulator *emulator.Emulator
	store    string

	mu      sync.Mutex
	web     *web                 // nil without a web server
	rotated map[string]time.Time // when the vault got the newest version of a name
}

// writeSettings takes the document that the emulator has written and adds an
// access list to the first certificate.
func (d *demo) writeSettings(dir string) (origin, error) {
	data, err := os.ReadFile(d.emulator.Endpoints().Settings)
	if err != nil {
		return origin{}, fmt.Errorf("reading the settings: %w", err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		return origin{}, fmt.Errorf("reading the settings: %w", err)
	}
	observed := doc["secretsManagementSettings"].(map[string]any)["observedCertificates"].([]any)
	if reader := demoReader(); reader != "" {
		observed[0].(map[string]any)["acls"] = []any{map[string]any{"user": reader}}
	}
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return origin{}, fmt.Errorf("writing the settings: %w", err)
	}
	file := filepath.Join(dir, "settings.json")
	if err := os.WriteFile(file, append(data, '\n'), 0o600); err != nil {
		return origin{}, fmt.Errorf("writing the settings: %w", err)
	}
	return origin{file: file, store: d.store}, nil
}

// demoReader is a user whom the first certificate admits. Access lists have no
// effect in an ordinary user's mount.
func demoReader() string {
	if rootless() {
		return ""
	}
	for _, name := range []string{"www-data", "nginx", "nobody"} {
		if _, err := user.Lookup(name); err == nil {
			return name
		}
	}
	return ""
}

func (d *demo) run(ctx context.Context, from origin, rotate time.Duration) (err error) {
	cfg, problems, err := from.load(nil)
	if err != nil {
		return err
	}
	d.app.printProblems(from.name(), problems)
	if cfg == nil {
		return from.invalid()
	}
	said, log, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	ready := make(chan struct{}, 1)
	k, err := newKeeper(d.app.loggingTo(log, cfg.Log), d.app.serverArgs(from, []string{from.file}), log, func() {
		select {
		case ready <- struct{}{}:
		default: // it was ready before
		}
	})
	if err != nil {
		return err
	}
	var g errgroup.Group
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g.Go(func() error { return d.filter(said) })
	// The vault outlives the mount: it ends when that is gone.
	vaultCtx, stopVault := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { defer stop(); return d.emulator.Run(vaultCtx) })
	g.Go(func() error {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
		defer stop()
		return d.show(ctx, from, cfg, rotate)
	})
	code, err := k.Run(ctx)
	if err == nil && code != exitOK {
		err = &failure{code: code, kind: "failed", fact: "the server has ended", said: true}
	}
	stop()
	stopVault()
	err = errors.Join(err, log.Close(), g.Wait())
	d.stopWeb()
	if err != nil {
		return err
	}
	d.app.printf("\nunmounted %s; nothing is left behind\n", d.store)
	return nil
}

// show says what there is to see, and renews until ctx ends.
func (d *demo) show(ctx context.Context, from origin, cfg *config.Config, rotate time.Duration) error {
	server, err := d.server(ctx)
	if err != nil {
		return err
	}
	if err := d.app.printDemo(from, d.emulator.Endpoints().Vaults, server); err != nil {
		return err
	}
	d.startWeb(filepath.Dir(from.file), cfg.Certificates[0].Ref.Name(), linkPaths(cfg.Certificates[0], true)[0])
	d.app.printf("\nrenewing one every %s; interrupt to end\n", rotate)
	var g errgroup.Group
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g.Go(func() error { defer stop(); return d.watch(ctx, cfg.Certificates) })
	g.Go(func() error { defer stop(); return d.rotateEvery(ctx, rotate) })
	return g.Wait()
}

// server is the process id of the one that serves now.
func (d *demo) server(ctx context.Context) (int, error) {
	r, err := status.NewClient(d.app.socket).Report(ctx)
	return r.Processes.Server, err
}

// rotateEvery renews the certificates in turn.
func (d *demo) rotateEvery(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		items := d.emulator.Inventory()
		name := items[i%len(items)].Name
		d.mu.Lock()
		d.rotated[name] = time.Now()
		d.mu.Unlock()
		if _, err := d.emulator.Rotate("", name); err != nil {
			return fmt.Errorf("renewing: %w", err)
		}
	}
}

// watch shows renewals as any program sees them: by inotify.
func (d *demo) watch(ctx context.Context, certificates []config.Certificate) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching the store: %w", err)
	}
	defer w.Close()
	if err := w.Add(d.store); err != nil {
		return fmt.Errorf("watching the store: %w", err)
	}
	links, versions := map[string]string{}, map[string]string{} // name of a certificate by link, its version by name
	for _, c := range certificates {
		link := linkPaths(c, true)[0]
		links[link] = c.Ref.Name()
		versions[link], _ = os.Readlink(link) // one that has not come yet has none
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return fmt.Errorf("watching the store: %w", err)
		case e := <-w.Events:
			name, ours := links[e.Name]
			if !ours || !e.Has(fsnotify.Create) {
				continue
			}
			seen := time.Now()
			target, err := os.Readlink(e.Name)
			if err != nil {
				return fmt.Errorf("following %s: %w", e.Name, err)
			}
			d.renewed(ctx, renewal{link: filepath.Base(e.Name), name: name, old: versions[e.Name], new: target, seen: seen})
			versions[e.Name] = target
		}
	}
}

// renewal of a certificate as a watcher sees it.
type renewal struct {
	link, name string
	old, new   string    // targets of the link
	at, seen   time.Time // when the vault had it, and the event came
}

func (d *demo) renewed(ctx context.Context, r renewal) {
	d.mu.Lock()
	r.at = d.rotated[r.name]
	w := d.web
	d.mu.Unlock()
	d.app.printRenewal(r)
	if w == nil || r.name != w.certificate {
		return
	}
	was := time.Now()
	leaf, err := w.reload()
	if ctx.Err() != nil {
		return // it was interrupted, and so was the server
	}
	d.app.printReload(w, leaf, err, time.Since(was))
}

// startWeb serves a page with the first certificate, if there is a server for it.
func (d *demo) startWeb(dir, certificate, link string) {
	w, err := startWeb(dir, certificate, link, d.emulator.RootCertificate())
	if w != nil || err != nil {
		d.app.printWeb(w, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.web = w
}

func (d *demo) stopWeb() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.web != nil {
		d.web.stop()
	}
}

// filter keeps what the server says out of the way of what the demo prints, but for
// trouble and its own end.
func (d *demo) filter(said io.ReadCloser) error {
	defer said.Close()
	for lines := bufio.NewScanner(said); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.Contains(line, "level=INFO"), strings.HasPrefix(line, "kvfs: serving"):
		default:
			fmt.Fprintln(d.app.stderr, line)
		}
	}
	return nil
}
