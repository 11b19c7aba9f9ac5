package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kvfs/config"
	"kvfs/fs"
	"kvfs/keeper"
	"kvfs/status"
)

// watchdog is how long a server may say nothing before it is replaced.
const watchdog = 3 * time.Second

// newKeeper keeps a server with these arguments running. What they say goes to log, by
// what the keeper logs to as well; ready, which may be nil, is called when it serves.
func newKeeper(a *app, args []string, log *os.File, ready func()) (*keeper.Keeper, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("looking for this program: %w", err)
	}
	const self = "/proc/self/exe" // as it was started, whatever lies at its path by now
	hardenProcess(a.logger())     // who could look into this process could take what it keeps
	return keeper.New(keeper.Options{Command: append([]string{exe}, args...), Fallback: append([]string{self}, args...),
		LastGasp: append([]string{self, "lastgasp"}, a.logArgs()...), Watchdog: watchdog, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: log,
		Logger: a.logger(), Ready: ready})
}

// mount keeps a server running until ctx ends or the server is done.
func (a *app) mount(ctx context.Context, o origin, args []string) error {
	if c := newConsole(a.stderr); c != nil {
		a.stderr = c
	}
	a.serves = true
	a.log().Configure(a.localLog(o.logOf()))
	debug.FreeOSMemory() // of a large document next to nothing was kept, and nothing else is to come
	k, err := newKeeper(a, a.serverArgs(o, args), os.Stderr, nil)
	if err != nil {
		return err
	}
	ctx, done := untilSignal(ctx)
	defer done()
	reload, noReload := hangUps()
	defer noReload()
	go func() {
		for range reload {
			a.log().Configure(a.localLog(o.logOf()))
			debug.FreeOSMemory()
			k.Reload()
		}
	}()
	code, err := k.Run(ctx)
	if code == exitOK || err != nil {
		return err
	}
	return &failure{code: code, kind: "failed", fact: "the server has ended", said: true}
}

// serverArgs are the arguments for a server that serves what these do.
func (a *app) serverArgs(o origin, args []string) []string {
	all := append([]string{"server", "--socket", a.socket}, a.logArgs()...)
	if o.store != "" {
		all = append(all, "--store", o.store)
	}
	if o.caFile != "" {
		all = append(all, "--ca-file", o.caFile)
	}
	for _, c := range o.connect {
		all = append(all, "--connect", c)
	}
	if a.server.uncached {
		all = append(all, "--uncached")
	}
	if a.server.recovery != "" {
		all = append(all, "--recovery", a.server.recovery)
	}
	return append(append(all, "--"), args...)
}

func (a *app) serverCommand() *cobra.Command {
	var o origin
	cmd := &cobra.Command{
		Use:   "server SETTINGS | server SECRET-URL...",
		Short: "serve for a keeper (started by kvfs mount or by systemd)",
		Long: `The process that polls and answers. It is started by a keeper, which holds what
outlives it: kvfs mount, or systemd's file descriptor store. SIGINT takes the mounts
away; SIGTERM leaves them to the next server, if there is a keeper.`,
		Hidden: true,
		Args:   takes(1, math.MaxInt, "a settings document or URLs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.take(args); err != nil {
				return err
			}
			served := false
			err := a.runServer(cmd.Context(), o, func() { served = true })
			if err != nil && !served && a.server.unit != "" {
				a.pause(cmd.Context())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", "directory in place of "+config.DefaultStore)
	a.transportFlags(cmd, &o.caFile, &o.connect)
	cmd.Flags().StringVar(&a.server.unit, "unit", "", "the systemd unit that this is, whose mounter has made the mounts")
	cmd.Flags().StringVar(&a.server.publisher, "publisher", "", "socket at which systemd starts publishers")
	cmd.Flags().StringVar(&a.server.auditor, "auditor", "", "socket at which systemd starts auditors")
	a.serverFlags(cmd)
	return cmd
}

// serverFlags are for tests of what happens when a server dies.
func (a *app) serverFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.server.uncached, "uncached", false, "let the kernel ask for everything each time")
	cmd.Flags().StringVar(&a.server.recovery, "recovery", "", "find unanswered requests by journal or by resend alone")
	for _, name := range []string{"uncached", "recovery"} {
		if err := cmd.Flags().MarkHidden(name); err != nil {
			panic(err)
		}
	}
}

// runServer takes over from a predecessor, or begins. ready is called when the stores are
// visible.
func (a *app) runServer(ctx context.Context, o origin, ready func()) error {
	if a.console = newConsole(a.stderr); a.console != nil {
		a.stderr = a.console
	}
	a.serves = true
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, os.Interrupt) // before anything that takes time
	hardenProcess(a.logger())
	k, err := inherit(a)
	if err != nil {
		return err
	}
	if end := k.client.FormerEnd(); end != "" {
		a.log().Beside().Warn("this server goes on for one that has ended", "reason", end) // stderr has it from the keeper
	}
	ctx, done := k.untilTold(ctx, told)
	defer done()
	reload, noReload := hangUps()
	defer noReload()
	d, err := a.prepare(o, k)
	if err != nil {
		return err
	}
	err = d.serve(ctx, reload, ready, func() { a.sayServing(d.wanted().cfg, d.syncer.Report()) })
	switch {
	case err != nil:
		return err
	case d.parks():
		if err := k.generation.park(k.image); err != nil {
			d.log.Warn("the next server counts this end as a death", "err", err)
		}
		return &failure{code: keeper.Again, kind: "parked", fact: "another server goes on", said: true}
	}
	k.fs.Close()
	k.control.Remove()
	k.metrics.remove()
	return nil
}

// prepare makes a daemon of what a predecessor went by, or of the settings.
func (a *app) prepare(o origin, k *kept) (*daemon, error) {
	docs, err := keptDocuments(k.image)
	if err != nil {
		return nil, err
	}
	var now wanted
	if docs != nil && k.serving != nil {
		if now, err = o.recall(docs, k.fs.Mounts()); err != nil {
			return nil, err
		}
	} else if now, err = a.want(o); err != nil {
		return nil, err
	}
	if k.serving == nil {
		if err := checkRights(now.cfg); err != nil {
			return nil, err
		}
	}
	if err := k.listen(a.socket); err != nil {
		return nil, explainInUse(err, now.cfg)
	}
	err = k.metrics.take(now.cfg.Metrics)
	if err != nil && k.serving != nil { // what is served is served all the same; it is tried again
		a.logger().Error("metrics and probes are not answered", "err", err)
		k.metrics.note(now.cfg.Metrics, err)
		err = nil
	}
	k.client.CloseRest() // what is of use was taken
	var d *daemon
	if err == nil {
		d, err = newDaemon(a, o, k, now)
	}
	if err != nil {
		if k.serving == nil {
			k.control.Close()
			k.metrics.remove()
		}
		return nil, err
	}
	return d, nil
}

// want reads the settings and says what is wrong with them.
func (a *app) want(o origin) (wanted, error) {
	text, err := o.read(a.stdin)
	if err != nil {
		return wanted{}, err
	}
	cfg, stores, problems, err := o.parse(text, finder{})
	if err != nil {
		return wanted{}, err
	}
	if cfg != nil {
		a.log().Show(a.logAs(cfg.Log))
	}
	a.sayProblems(o.name(), problems)
	if cfg == nil {
		return wanted{}, o.invalid()
	}
	doc := document{Text: text, Since: time.Now(), Stores: stores}
	if err := doc.readBeside(cfg); err != nil {
		return wanted{}, err
	}
	return wanted{cfg: cfg, doc: doc, passwords: doc.passwords()}, nil
}

// explainInUse names a kvfs that is running already by what it serves, if it serves
// what is wanted.
func explainInUse(err error, cfg *config.Config) error {
	if errors.Is(err, status.ErrInUse) {
		for _, store := range storesOf(cfg.Certificates) {
			var there *fs.MountpointError
			if _, err := fs.CheckMountpoint(store, nil); errors.As(err, &there) && there.Mounted {
				return there
			}
		}
	}
	return err
}

// untilTold ends ctx when SIGINT was told, and at SIGTERM, which leaves everything to a
// successor if there is a keeper to start one. A second signal kills.
func (k *kept) untilTold(parent context.Context, told chan os.Signal) (ctx context.Context, done func()) {
	// As untilSignal, but that it is caught and not ignored: that would be inherited by the commands of hooks.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case s := <-told:
			k.parking.Store(s == syscall.SIGTERM && k.client.Kept())
		case <-ctx.Done():
		}
		signal.Stop(told)
		cancel()
	}()
	return ctx, cancel
}

func (a *app) lastGaspCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "lastgasp",
		Short:  "end what no server can take over (started by kvfs mount)",
		Hidden: true,
		Args:   takes(0, 0, nothing),
		RunE: func(*cobra.Command, []string) error {
			a.serves = true
			client, err := keeper.Inherit()
			if err != nil {
				return err
			}
			return fs.LastGasp(client.Take)
		},
	}
}
