package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvfs/fs"
	"kvfs/status"
)

// How long a kvfs that was asked to end may take.
const umountPatience = 15 * time.Second

func (a *app) umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount [DIR]",
		Short: "stop serving, and take mounts away",
		Long: `Stops the kvfs that is running, which takes all its mounts away. With DIR: the
one that serves DIR; a mount that a dead kvfs has left there is taken away too.
Without DIR and without a running kvfs: all that dead ones have left.`,
		Example: `  kvfs umount
  kvfs umount /etc/tls/kv`,
		Args: takes(0, 1, "at most one directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), umountPatience)
			defer cancel()
			if len(args) == 0 {
				return a.umountAll(ctx)
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return a.umount(ctx, fs.Resolve(dir))
		},
	}
}

// umount ends what serves a directory.
func (a *app) umount(ctx context.Context, dir string) error {
	// First whoever runs: a mount of its own may be hidden or gone already.
	r, err := status.NewClient(a.socket).Report(ctx)
	if err != nil && !errors.Is(err, status.ErrNotRunning) {
		return err
	}
	if slices.Contains(r.Mounts, dir) || slices.ContainsFunc(r.Directories, func(d status.Directory) bool { return d.Path == dir }) {
		return a.end(ctx, r)
	}
	mounts, err := fs.Mounted()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(mounts, func(m fs.MountInfo) bool { return m.Path == dir })
	if i < 0 {
		return fail(exitMount, "not-mounted", "kvfs status lists what is mounted", "kvfs is not mounted at %s", dir)
	}
	if !mounts[i].Alive {
		return a.recover(dir)
	}
	return fail(exitMount, "not-mounted", "name its control socket with --socket", "%s is served by a kvfs that does not answer at %s", dir, a.socket)
}

func (a *app) umountAll(ctx context.Context) error {
	r, err := status.NewClient(a.socket).Report(ctx)
	if err == nil {
		return a.end(ctx, r)
	}
	if !errors.Is(err, status.ErrNotRunning) {
		return err
	}
	mounts, mountErr := fs.Mounted()
	if mountErr != nil {
		return mountErr
	}
	mounts = slices.DeleteFunc(mounts, func(m fs.MountInfo) bool { return m.Alive })
	if len(mounts) == 0 {
		return err
	}
	var errs []error
	for _, m := range mounts {
		errs = append(errs, a.recover(m.Path))
	}
	return errors.Join(errs...)
}

func (a *app) recover(dir string) error {
	if err := fs.Recover(dir); err != nil {
		return err
	}
	a.printf("unmounted %s, which a dead kvfs had left\n", dir)
	return nil
}

// end asks the running kvfs to stop and waits until its process has ended: it
// takes its mounts away before that.
func (a *app) end(ctx context.Context, r status.Report) error {
	client := status.NewClient(a.socket)
	if r.Unit != "" {
		return fail(exitMount, "unit", "stop it with: systemctl stop "+r.Unit, "it is a unit of systemd, which would start it again")
	}
	// Opened before it is asked, when the number is certainly its own. A keeper ends
	// after its server; systemd, which may be the keeper, does not.
	last := r.Processes.Server
	if r.Processes.Keeper > 1 {
		last = r.Processes.Keeper
	}
	process, err := unix.PidfdOpen(last, 0)
	if err != nil {
		return fmt.Errorf("looking for process %d: %w", last, err)
	}
	defer unix.Close(process)
	if err := client.Stop(ctx); err != nil {
		return err
	}
	if !ended(process, umountPatience) {
		return fail(exitFailed, "timeout", "look at its log", "kvfs was asked to end and has not within %v", umountPatience)
	}
	for _, dir := range r.Mounts {
		a.printf("unmounted %s\n", dir)
	}
	for _, dir := range r.Directories {
		a.printf("the files in %s stay as they are\n", dir.Path)
	}
	return nil
}

// ended waits until a process has ended, which makes its descriptor readable.
func ended(process int, patience time.Duration) bool {
	for end := time.Now().Add(patience); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(max(time.Until(end), 0).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}
