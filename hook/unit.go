package hook

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// replaceJob is how a job of ours meets others of its unit: it takes their place.
const replaceJob = "replace"

// unit reloads or restarts a unit, and returns when systemd says that it is done. note says why nothing was to be
// done, if that was so.
func (r *Runner) unit(ctx context.Context, verb Verb, name string) (note string, err error) {
	return withUnit(ctx, name, func(conn *dbus.Conn) error {
		start := map[Verb]func(context.Context, string, string, chan<- string) (int, error){
			Reload: conn.ReloadUnitContext, Restart: conn.TryRestartUnitContext, ReloadOrRestart: conn.ReloadOrTryRestartUnitContext,
		}[verb]
		result := make(chan string, 1)
		if _, err := start(ctx, name, replaceJob, result); err != nil {
			return refusedByBus(ctx, err, "%s %s", verb, name)
		}
		select {
		case <-ctx.Done():
			return failed("see: systemctl status "+name, "%s %s: systemd has not finished it: %v", verb, name, ctx.Err())
		case how := <-result:
			if how != "done" {
				return failed("see: systemctl status "+name, "%s %s: systemd says that the job has ended as %q", verb, name, how)
			}
			return nil
		}
	})
}

// withUnit does something to a unit that is active. One that is not needs nothing: it loads what there is when it
// is started.
func withUnit(ctx context.Context, name string, do func(*dbus.Conn) error) (note string, err error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return "", failed("check that systemd and D-Bus run, and that kvfs may connect to /run/dbus/system_bus_socket", "systemd cannot be reached: %v", err)
	}
	defer conn.Close()
	load, err := unitProperty(ctx, conn, name, "LoadState")
	if err != nil {
		return "", err
	}
	if load != "loaded" {
		return "", failed("give the name of a unit as systemctl has it", "%s cannot be used: systemd says that it is %s", name, load)
	}
	active, err := unitProperty(ctx, conn, name, "ActiveState")
	if err != nil {
		return "", err
	}
	if active == "inactive" || active == "failed" {
		return name + " does not run: it loads the certificate when it is started", nil
	}
	return "", do(conn)
}

func unitProperty(ctx context.Context, conn *dbus.Conn, unit, property string) (string, error) {
	p, err := conn.GetUnitPropertyContext(ctx, unit, property)
	if err != nil {
		return "", refusedByBus(ctx, err, "looking at %s", unit)
	}
	value, ok := p.Value.Value().(string)
	if !ok {
		return "", failed("see the log of systemd", "looking at %s: its %s is no text", unit, property)
	}
	return value, nil
}

// refusedByBus explains what systemd has answered.
func refusedByBus(ctx context.Context, err error, format string, args ...any) error {
	hint := "see the log of systemd"
	if ctx.Err() != nil { // the connection is closed with it, and may say so first
		err = ctx.Err()
	}
	var e godbus.Error
	if errors.As(err, &e) {
		switch e.Name {
		case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
			hint = "allow it by a rule of polkit, see docs/reload.md, or run kvfs as root"
		case "org.freedesktop.systemd1.JobTypeNotApplicable":
			hint = "it cannot be reloaded: write reloadOrRestart or restart"
		}
	}
	return failed(hint, "%s: %v", fmt.Sprintf(format, args...), err)
}
