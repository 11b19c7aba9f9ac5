package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"kvfs/emulator"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
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

// demo runs vault and kvfs in one process. It is otherwise what a user runs: the
// settings go through a file, the secrets through the Azure client and TLS, the
// certificates through the kernel.
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
	control, err := status.Listen(d.app.socket)
	if err != nil {
		return err
	}
	quiet := *d.app
	quiet.stderr = demoLog{d.app}
	kv, err := newDaemon(&quiet, from, cfg, d.renewed)
	if err != nil {
		control.Close()
		return err
	}
	var g errgroup.Group
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The vault outlives the mount: it ends when that is gone.
	vaultCtx, stopVault := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { defer stop(); return d.emulator.Run(vaultCtx) })
	err = kv.serve(ctx, control, nil, func() {
		d.app.printDemo(from, d.emulator.Endpoints().Vaults, kv.fs.Snapshot())
		d.startWeb(filepath.Dir(from.file), cfg.Certificates[0].Ref.Name(), linkPaths(cfg.Certificates[0], true)[0])
		d.app.printf("\nrenewing one every %s; interrupt to end\n", rotate)
		g.Go(func() error { defer stop(); return d.rotateEvery(ctx, rotate) })
	})
	d.stopWeb()
	stop()
	stopVault()
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	d.app.printf("\nunmounted %s; nothing is left behind\n", d.store)
	return nil
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

// renewed shows a renewal as it happens.
func (d *demo) renewed(r kvsync.Renewal) {
	if r.Old == "" {
		return
	}
	d.mu.Lock()
	at := d.rotated[r.Source.Ref.Name()]
	d.mu.Unlock()
	d.app.printRenewal(r, at)
	d.mu.Lock()
	w := d.web
	d.mu.Unlock()
	if w == nil || r.Source.Ref.Name() != w.certificate {
		return
	}
	was := time.Now()
	leaf, err := w.reload()
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

// demoLog keeps the log out of the way of what the demo prints, but for trouble.
type demoLog struct{ app *app }

func (l demoLog) Write(b []byte) (int, error) {
	if line := string(b); !strings.Contains(line, "level=INFO") {
		l.app.stderr.Write(b)
	}
	return len(b), nil
}

func sortNodes(nodes []*tree.Node) {
	slices.SortFunc(nodes, func(a, b *tree.Node) int { return cmp.Compare(a.Name, b.Name) })
}
