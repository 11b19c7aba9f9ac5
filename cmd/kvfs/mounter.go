package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvfs/config"
	"kvfs/fs"
	"kvfs/image"
	"kvfs/keeper"
	"kvfs/tree"
)

// As a unit of systemd, kvfs has one process for every right that it needs: the
// mounter and the unmounter, which end when they have done that, may mount; the server,
// which talks to the network and has the keys, may do nothing; systemd keeps what
// outlives them.

func (a *app) mounterCommand() *cobra.Command {
	var o origin
	cmd := &cobra.Command{
		Use:   "mounter SETTINGS",
		Short: "make the mounts that a server takes over (started by systemd)",
		Long: `Makes the stores visible, empty, and leaves the connection in systemd's file descriptor
store for kvfs server --unit. If they are visible it does nothing: a server takes them
over. What a dead kvfs of this unit has left is replaced.`,
		Hidden: true,
		Args:   takes(1, 1, "a settings document"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			err := a.runMounter(cmd.Context(), o)
			if err != nil {
				a.pause(cmd.Context())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", "directory in place of "+config.DefaultStore)
	a.unitFlag(cmd)
	a.serverFlags(cmd)
	return cmd
}

func (a *app) unitFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.server.unit, "unit", "", "the systemd unit to which the mounts belong, as the table of mounts has it")
	if err := cmd.MarkFlagRequired("unit"); err != nil {
		panic(err)
	}
}

// pause keeps a start that fails from being repeated at once: the unit starts
// without delay what has ended, for the sake of those who wait.
func (a *app) pause(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

func (a *app) runMounter(ctx context.Context, o origin) error {
	a.serves = true
	client, err := keeper.Inherit()
	if err != nil {
		return err
	}
	if !client.Kept() {
		return fail(exitUsage, "usage", "it is for the unit's ExecStartPre=, with NotifyAccess=exec", "there is nobody to leave the mounts to")
	}
	there, err := fs.MountedBy(a.server.unit)
	if err != nil {
		return err
	}
	for _, m := range there {
		if m.Alive {
			return nil
		}
	}
	for _, m := range there {
		if err := fs.Recover(m.Path); err != nil {
			return err
		}
	}
	now, err := a.want(o)
	if err != nil {
		return err
	}
	if err := now.checkPersistent(a.server.unit); err != nil {
		return err
	}
	if err := refusedHooks(o, now.checkHooks(a.server.unit)); err != nil {
		return err
	}
	stores := now.stores(nil)
	if i := slices.IndexFunc(stores, func(at string) bool { return isInside(at, stores) }); i >= 0 {
		// systemd makes the server's view of the file system before there is a server, and
		// would wait for an answer to every path that leads through a store.
		return &fs.MountpointError{Path: stores[i], Fact: fmt.Sprintf("the store %s lies inside another one, which a service cannot have", stores[i]),
			Hint: "choose directories of which none contains another"}
	}
	unix.Umask(0o022) // of the directories that lead to the stores; the unit's is narrower
	if err := prepareStores(a.logger(), fs.CheckMountpoint, stores, stores, a.ownFiles(o, now.cfg)); err != nil {
		return err
	}
	return explainLeaving(leaveMounts(ctx, a.logger(), a.server, client, stores))
}

// leaveMounts shows empty stores and has everything kept that a server needs for going
// on with them.
func leaveMounts(ctx context.Context, log *slog.Logger, o serverOptions, client *keeper.Client, stores []string) error {
	// What is kept under a name would stay beside it.
	keep := func(name string, fd int) error {
		if err := client.Drop(name); err != nil {
			return err
		}
		return client.Keep(name, fd)
	}
	kept, err := image.New(image.Options{Keep: keep, Drop: client.Drop})
	if err != nil {
		return err
	}
	f, err := fs.New(fs.Options{Source: o.unit, Image: kept, Keep: keep, Logger: log, Uncached: o.uncached})
	if err != nil {
		return err
	}
	empty, err := tree.Build(tree.Spec{Stores: stores}, nil)
	if err != nil {
		return err
	}
	if err := f.Publish(ctx, empty); err != nil {
		return err
	}
	if err := f.Open(stores...); err != nil {
		return err
	}
	serving := startServing(f)
	return errors.Join(f.Leave(), serving.end())
}

func explainLeaving(err error) error {
	if err == nil {
		return nil
	}
	return explainMount(err)
}

func (a *app) unmounterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unmounter",
		Short: "take a unit's mounts away if it is being stopped (started by systemd)",
		Long: `Takes the mounts of the unit away if systemd has a job to stop it. If it ends for
another reason, as a restart, the mounts stay for the next server.`,
		Hidden: true,
		Args:   takes(0, 0, nothing),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.serves = true
			stopping, err := isStopping(cmd.Context(), a.server.unit)
			if err != nil || !stopping {
				return err
			}
			mounts, err := fs.MountedBy(a.server.unit)
			if err != nil {
				return err
			}
			var errs []error
			for _, m := range mounts {
				if err := unix.Unmount(m.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && fs.Visible(m.Path) {
					errs = append(errs, fmt.Errorf("unmounting %s: %w", m.Path, err))
				}
			}
			return errors.Join(errs...)
		},
	}
	a.unitFlag(cmd)
	return cmd
}

// isStopping tells a stop from everything else that systemd runs ExecStop= and
// ExecStopPost= for.
func isStopping(ctx context.Context, unit string) (bool, error) {
	if result := os.Getenv("SERVICE_RESULT"); result != "" && result != "success" {
		return false, nil // it has died: no time is to be lost with questions
	}
	out, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--full", "--no-legend", "--no-pager", unit).Output()
	if err != nil {
		return false, fmt.Errorf("asking systemd for its jobs: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if job := strings.Fields(line); len(job) == 4 && job[1] == unit && job[2] == "stop" {
			return true, nil
		}
	}
	return false, nil
}
