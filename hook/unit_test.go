package hook

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// manager is what systemd has on the bus, as far as hooks need it: units by name, and jobs that end as the test says.
// That of a real one is tested in test/.
type manager struct {
	conn   *godbus.Conn
	called chan struct{} // has a value for each job

	mu     sync.Mutex
	states map[string][2]string // LoadState and ActiveState
	result string               // of jobs; "" for none, "denied" for an error
	calls  []string
}

func (m *manager) job(call, unit string) (godbus.ObjectPath, *godbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call+" "+unit)
	m.called <- struct{}{}
	path := godbus.ObjectPath(fmt.Sprint("/org/freedesktop/systemd1/job/", len(m.calls)))
	switch m.result {
	case "denied":
		return "", godbus.NewError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", []any{"Interactive authentication required."})
	case "":
		return path, nil
	}
	if err := m.conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(len(m.calls)), path, unit, m.result); err != nil {
		return "", godbus.MakeFailedError(err)
	}
	return path, nil
}

func (m *manager) ReloadUnit(unit, mode string) (godbus.ObjectPath, *godbus.Error) {
	return m.job("reload "+mode, unit)
}

func (m *manager) TryRestartUnit(unit, mode string) (godbus.ObjectPath, *godbus.Error) {
	return m.job("try-restart "+mode, unit)
}

func (m *manager) ReloadOrTryRestartUnit(unit, mode string) (godbus.ObjectPath, *godbus.Error) {
	return m.job("reload-or-try-restart "+mode, unit)
}

func (m *manager) KillUnit(unit, who string, signal int32) *godbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf("kill %s %d %s", who, signal, unit))
	return nil
}

// properties of the units.
type properties struct{ *manager }

func (p properties) Get(msg godbus.Message, iface, name string) (godbus.Variant, *godbus.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path, _ := msg.Headers[godbus.FieldPath].Value().(godbus.ObjectPath)
	for unit, states := range p.states {
		if strings.HasSuffix(string(path), "/"+strings.ReplaceAll(unit, ".", "_2e")) {
			return godbus.MakeVariant(map[string]string{"LoadState": states[0], "ActiveState": states[1]}[name]), nil
		}
	}
	return godbus.MakeVariant(map[string]string{"LoadState": "not-found", "ActiveState": "inactive"}[name]), nil
}

// startBus runs a bus of the test's own, with a manager on it, in the place of the system's.
func startBus(t *testing.T, states map[string][2]string) *manager {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed; make deps installs it")
	}
	cmd := exec.Command(program, "--session", "--nofork", "--nosyslog", "--print-address", "--address=unix:path="+filepath.Join(t.TempDir(), "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("dbus-daemon says nothing:", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", strings.TrimSpace(address))
	conn, err := godbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{conn: conn, states: states, called: make(chan struct{}, 100)}
	if err := errors.Join(conn.Export(m, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"),
		conn.ExportSubtree(properties{m}, "/org/freedesktop/systemd1/unit", "org.freedesktop.DBus.Properties")); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName("org.freedesktop.systemd1", 0); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	return m
}

func TestUnitsAreToldOverTheBus(t *testing.T) {
	m := startBus(t, map[string][2]string{"nginx.service": {"loaded", "active"}, "off.service": {"loaded", "inactive"}, "broken.service": {"loaded", "failed"}, "masked.service": {"masked", "inactive"}})
	r := New(Options{})
	for _, tt := range []struct {
		action           Action
		result           string
		call, note, fact string
	}{
		{Action{Verb: Reload, Unit: "nginx.service"}, "done", "reload replace nginx.service", "", ""},
		{Action{Verb: Restart, Unit: "nginx.service"}, "done", "try-restart replace nginx.service", "", ""},
		{Action{Verb: ReloadOrRestart, Unit: "nginx.service"}, "done", "reload-or-try-restart replace nginx.service", "", ""},
		{Action{Signal: "USR1", Unit: "nginx.service"}, "", "kill main 10 nginx.service", "", ""},
		{Action{Verb: Restart, Unit: "off.service"}, "done", "", "off.service does not run: it loads the certificate when it is started", ""},
		{Action{Verb: Reload, Unit: "broken.service"}, "done", "", "broken.service does not run: it loads the certificate when it is started", ""},
		{Action{Signal: "HUP", Unit: "off.service"}, "", "", "off.service does not run: it loads the certificate when it is started", ""},
		{Action{Verb: Reload, Unit: "none.service"}, "done", "", "", "none.service cannot be used: systemd says that it is not-found"},
		{Action{Verb: Reload, Unit: "masked.service"}, "done", "", "", "masked.service cannot be used: systemd says that it is masked"},
		{Action{Verb: Reload, Unit: "nginx.service"}, "failed", "reload replace nginx.service", "", `reload nginx.service: systemd says that the job has ended as "failed"`},
		{Action{Verb: Reload, Unit: "nginx.service"}, "denied", "reload replace nginx.service", "", "reload nginx.service: Interactive authentication required."},
	} {
		m.mu.Lock()
		m.result, m.calls = tt.result, nil
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		done, note, err := r.perform(ctx, tt.action, renewals)
		cancel()
		m.mu.Lock()
		calls := strings.Join(m.calls, ", ")
		m.mu.Unlock()
		if calls != tt.call || note != tt.note {
			t.Errorf("%v: %q, %q, want %q, %q", tt.action, calls, note, tt.call, tt.note)
		}
		if e := (*Error)(nil); tt.fact == "" && (err != nil || len(done) != len(renewals)) || tt.fact != "" && (!errors.As(err, &e) || e.Fact != tt.fact || e.Hint == "" || len(done) > 0) {
			t.Errorf("%v, %s: %v, %v, want %q", tt.action, tt.result, done, err, tt.fact)
		}
	}
}

// A job that does not end in its time is a failure, as is a bus that is not there.
func TestUnitThatDoesNotAnswer(t *testing.T) {
	m := startBus(t, map[string][2]string{"nginx.service": {"loaded", "active"}})
	r := New(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-m.called
		cancel()
	}()
	_, _, err := r.perform(ctx, Action{Verb: Reload, Unit: "nginx.service"}, renewals)
	if err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Error(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	_, err = withUnit(t.Context(), "kvfs-test-of-nobody.service", nil)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Hint == "" {
		t.Error(err)
	}
}
