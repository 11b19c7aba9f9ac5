package main

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kvfs/status"
)

func (a *app) statusCommand() *cobra.Command {
	watch, readers := false, false
	cmd := &cobra.Command{
		Use:   "status [--readers [NAME]]",
		Short: "say how things are",
		Long: `Shows what the running kvfs serves: every certificate with its version, its
expiry, the last try and the last success, and what is wrong with a hint.

With --readers it shows the running processes that have read a key, those first
that have read an older version only: they go on with that until they load it
again. NAME is VAULT.NAME, NAME, or the URL of the secret. This needs kvfs.audit
in the settings.`,
		Example: `  kvfs status
  kvfs status --watch
  kvfs status --readers www
  kvfs status --json | jq .certificates`,
		Args: takes(0, 1, "one name at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case readers && watch:
				return usage(cmd, "--watch and --readers do not go together")
			case readers:
				return a.showReaders(cmd.Context(), args)
			case len(args) > 0:
				return usage(cmd, "a name, %q, goes with --readers", args[0])
			case watch:
				return a.watchStatus(cmd.Context())
			}
			r, err := status.NewClient(a.socket).Report(cmd.Context())
			if err != nil {
				return err
			}
			return a.printReport(r, time.Now())
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again whenever it changes, until interrupted")
	cmd.Flags().BoolVar(&readers, "readers", false, "show which running processes have read which version of a key")
	return cmd
}

func (a *app) showReaders(ctx context.Context, args []string) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	r, err := status.NewClient(a.socket).Readers(ctx, name)
	if err != nil {
		return err
	}
	if r.Error != nil {
		return &failure{code: exitFailed, kind: r.Error.Kind, fact: r.Error.Fact, hint: r.Error.Hint}
	}
	return a.printReaders(r, time.Now())
}

func (a *app) watchStatus(ctx context.Context) error {
	ctx, done := untilSignal(ctx, syscall.SIGHUP)
	defer done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	client, last := status.NewClient(a.socket), ""
	for {
		r, err := client.Report(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if is := fingerprint(r); is != last {
			last = is
			if err := a.printReport(r, time.Now()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) refreshCommand() *cobra.Command {
	settings := false
	cmd := &cobra.Command{
		Use:   "refresh [NAME...]",
		Short: "poll now",
		Long: `Polls the named certificates now, or all, and says what came of it. NAME is
VAULT.NAME, NAME, or the URL of the secret. Fails if one of them could not be
refreshed; what was good is still served.

With --settings the settings document is read again first, as at SIGHUP. One that
is refused changes nothing, and its problems are shown.`,
		Example: `  kvfs refresh
  kvfs refresh contoso-web.www
  kvfs refresh --settings    after a change of the document`,
		RunE: func(cmd *cobra.Command, names []string) error {
			var reloaded *status.Reloaded
			if settings {
				var err error
				if reloaded, err = a.reload(cmd.Context()); err != nil {
					return err
				}
			}
			done, err := status.NewClient(a.socket).Refresh(cmd.Context(), names)
			if err != nil {
				return err
			}
			if err := a.printRefreshed(done, reloaded); err != nil {
				return err
			}
			return worst(done)
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&settings, "settings", false, "read the settings document again first")
	return cmd
}

// reload lets the running kvfs read its settings again.
func (a *app) reload(ctx context.Context) (*status.Reloaded, error) {
	r, err := status.NewClient(a.socket).Reload(ctx)
	if err != nil {
		return nil, err
	}
	if !a.json {
		a.printReloaded(r)
	}
	if r.Error == nil {
		return &r, nil
	}
	return nil, &failure{code: codeOf(r.Error.Kind), kind: r.Error.Kind, fact: r.Error.Fact, hint: r.Error.Hint, problems: r.Problems,
		said: !a.json && slices.ContainsFunc(r.Problems, func(p status.Problem) bool { return p.Severity == "error" })}
}

// worst is the failure that gives the exit code: the first one, and the details
// of all were printed.
func worst(done []status.Refreshed) error {
	var errs []error
	for _, r := range done {
		if r.Error != nil {
			errs = append(errs, &failure{code: codeOf(r.Error.Kind), kind: r.Error.Kind, fact: r.Error.Fact, said: true})
		}
	}
	return errors.Join(errs...)
}
