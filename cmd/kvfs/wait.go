package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kvfs/status"
	kvsync "kvfs/sync"
)

const (
	// How long wait goes without asking where nobody answers, or at once, at first and at most.
	waitFirst = 10 * time.Millisecond
	waitMost  = 500 * time.Millisecond
	// awaitMost is how long it lets a kvfs wait for it: what it then says at its end is not older.
	awaitMost = 5 * time.Second
	// awaitLook is when Await looks again if nothing has happened: an initial sync may fail by the clock.
	awaitLook = time.Second
)

func (a *app) waitCommand() *cobra.Command {
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "wait until kvfs is ready",
		Long: `Waits until every certificate has been asked for once and what came is visible,
also for a kvfs that has not been started yet. For what is started after kvfs, such
as a server that needs its certificate. A certificate that could not be had is no
reason to wait longer: kvfs status says what is wrong with it.

With requireInitialSync in the settings it is: then it waits until every certificate
has been there once, and fails when kvfs has tried 25 times, which takes half an hour.

Fails when the time is over.`,
		Example: `  kvfs wait && systemctl start nginx
  kvfs wait --timeout 40m`,
		Args: takes(0, 0, nothing),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usage(cmd, "--timeout: %v is no time to wait", timeout)
			}
			return a.wait(cmd.Context(), timeout)
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait at most")
	return cmd
}

// wait asks until the answer is that kvfs is ready, which it gives when it is. Nobody tells
// when a socket appears in a directory that may not exist yet, so it asks less and less often.
func (a *app) wait(ctx context.Context, timeout time.Duration) error {
	end := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	client, last, failed := status.NewClient(a.socket), error(nil), (*failure)(nil)
	for pause := waitFirst; ; pause = min(2*pause, waitMost) {
		var most time.Duration // the first answer comes at once: there may be no time for another
		if last != nil {
			most = min(awaitMost, time.Until(end)*9/10)
		}
		asked := time.Now()
		r, err := client.Await(ctx, most)
		if err == nil {
			err = unready(r)
		}
		switch {
		case err == nil:
			return a.printReady(r, time.Now())
		case errors.As(err, &failed) && failed.kind == initialFailed:
			return err
		case errors.Is(err, os.ErrPermission):
			return err
		case ctx.Err() == nil || last == nil: // else it says only that the time was over
			last = err
		}
		select {
		case <-ctx.Done():
			f := asFailure(last)
			f.code, f.kind, f.fact = exitFailed, "timeout", fmt.Sprintf("%s, after %v", f.fact, timeout)
			return f
		case <-time.After(pause - time.Since(asked)): // at once if it has waited
		}
	}
}

// unready is what there is to wait for, nil if nothing is.
func unready(r status.Report) error {
	var pending []string
	for _, c := range r.Certificates {
		if c.State == string(kvsync.Pending) {
			pending = append(pending, c.URL)
		}
	}
	const hint = "kvfs status and the log say what it is doing; --timeout waits longer"
	switch {
	case len(pending) > 0:
		return fail(exitFailed, "starting", hint, "%d of %d certificates have not been asked for, or are not visible, such as %s", len(pending), len(r.Certificates), pending[0])
	case r.InitialSync.State == status.SyncTransitioning:
		return fail(exitFailed, "starting", hint, "%s", initialProgress(r.InitialSync, time.Now()))
	case r.InitialSync.State == status.SyncFailed:
		return lacking(r)
	case r.State == status.Starting:
		return fail(exitFailed, "starting", hint, "the stores are not visible yet")
	case r.Error != nil && r.Error.Kind != "settings": // settings that are refused leave all as it is
		return fail(exitFailed, r.Error.Kind, r.Error.Hint, "%s", r.Error.Fact)
	}
	return nil
}

const (
	initialFailed = "initial-sync" // kind of failure
	lackingNamed  = 5              // certificates that a failure names
)

// lacking is the failure of an initial sync: which certificates have never been there,
// and why.
func lacking(r status.Report) error {
	var facts []string
	var hint string
	for _, c := range r.Certificates {
		if c.Version != "" || c.Error == nil || c.State == string(kvsync.Hidden) || c.State == string(kvsync.Removed) {
			continue
		}
		facts, hint = append(facts, c.URL+": "+c.Error.Fact), cmp.Or(hint, c.Error.Hint)
	}
	if more := len(facts) - lackingNamed; more > 0 {
		facts = append(facts[:lackingNamed], fmt.Sprintf("and %d more", more))
	}
	i := r.InitialSync
	return fail(exitFailed, initialFailed, cmp.Or(hint, "see kvfs status"), "%d of %d certificates available after %d %s: %s",
		i.Available, i.Total, i.Try, plural(i.Try, "try", "tries"), strings.Join(facts, "; "))
}

// Await returns when kvfs wait need not wait any more.
func (d *daemon) Await(ctx context.Context) {
	d.progress.until(ctx, awaitLook, func() bool {
		if !d.shown.Load() {
			return false // whatever else there is to know
		}
		err, failed := unready(d.Figures()), (*failure)(nil)
		return err == nil || errors.As(err, &failed) && failed.kind == initialFailed
	})
}
