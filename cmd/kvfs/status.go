package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvfs/status"
)

func (a *app) statusCommand() *cobra.Command {
	watch, check, readers, l := false, false, false, limits{defaultExpires, defaultStale}
	cmd := &cobra.Command{
		Use:   "status [--readers [NAME]]",
		Short: "say how things are",
		Long: `Shows what the running kvfs serves: every certificate with its version, its
expiry, the last try and the last success, and what is wrong with a hint.

With --check it is for monitoring: one line that says whether all is well, one for
each problem, and an exit code. 0: all is well. 1: a certificate expires soon or has
expired, nothing has been heard of it for too long, it is not served as it should
be, or kvfs itself is not well. 6: kvfs does not run.

With --readers it shows the running processes that have read a key, those first
that have read an older version only: they go on with that until they load it
again. NAME is VAULT.NAME, NAME, or the URL of the secret. This needs kvfs.audit
in the settings.`,
		Example: `  kvfs status
  kvfs status --watch
  kvfs status --check --expires-within 14d --stale-after 3h
  kvfs status --readers www
  kvfs status --json | jq .certificates`,
		Args: takes(0, 1, "one name at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, flag := range []string{"expires-within", "stale-after"} {
				if cmd.Flags().Changed(flag) && !check {
					return usage(cmd, "--%s goes with --check", flag)
				}
			}
			switch {
			case watch && check:
				return usage(cmd, "--watch and --check do not go together")
			case readers && watch:
				return usage(cmd, "--watch and --readers do not go together")
			case readers && check:
				return usage(cmd, "--check and --readers do not go together")
			case readers:
				return a.showReaders(cmd.Context(), args)
			case len(args) > 0:
				return usage(cmd, "a name, %q, goes with --readers", args[0])
			case watch:
				return a.watchStatus(cmd.Context())
			}
			r, err := status.NewClient(a.socket).Report(cmd.Context())
			switch {
			case err != nil:
				return err
			case check:
				return a.checkStatus(r, l, time.Now())
			}
			return a.printReport(r, time.Now())
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again whenever it changes, until interrupted; at a terminal each second, in place")
	cmd.Flags().BoolVar(&check, "check", false, "say in a line whether all is well, and fail with 1 if it is not")
	cmd.Flags().Var(&l.expires, "expires-within", "with --check: how soon an end is a problem, such as 14d or 36h")
	cmd.Flags().Var(&l.stale, "stale-after", "with --check: for how long a certificate may not be had before that is a problem")
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

// checkStatus fails if anything is not well.
func (a *app) checkStatus(r status.Report, l limits, now time.Time) error {
	found := findings(r, l, now)
	if err := a.printHealth(r, found, now); err != nil || len(found) == 0 {
		return err
	}
	return &failure{code: exitFailed, kind: found[0].Kind, fact: found[0].String(), said: true}
}

// watchStatus shows reports until it is interrupted, kvfs ends, or nobody reads any more. At a
// terminal each one takes the place of the one before, also to let the times go on.
func (a *app) watchStatus(ctx context.Context) error {
	ctx, done := untilSignal(ctx, syscall.SIGHUP)
	defer done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	client, last, at := status.NewClient(a.socket), "", terminal(a.stdout)
	defer func() {
		if last != "" && at != nil && !a.json { // what comes next begins below the page
			fmt.Fprintln(at)
		}
	}()
	for {
		r, err := client.Report(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		is := fingerprint(r)
		switch {
		case at != nil && !a.json:
			err = a.redraw(at, r, time.Now())
		case is != last:
			err = a.printReport(r, time.Now())
		}
		last = is
		if errors.Is(err, syscall.EPIPE) || unread(a.stdout) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// unread tells whether nobody reads what is written to w any more: its other end is closed.
func unread(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	ends := []unix.PollFd{{Fd: int32(f.Fd())}}
	n, err := unix.Poll(ends, 0)
	return err == nil && n > 0 && ends[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
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
