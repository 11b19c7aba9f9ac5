package test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/status"
)

// kvfsPath is the program that is tested, built once with the race detector.
var kvfsPath string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		os.Exit(child(os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "kvfs-bin-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // other users run it too
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	kvfsPath = filepath.Join(dir, "kvfs")
	build := exec.Command("go", "build", "-race", "-o", kvfsPath, "kvfs/cmd/kvfs")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		os.RemoveAll(dir)
		fmt.Fprintln(os.Stderr, "building kvfs:", err)
		os.Exit(1)
	}
	// A program with the race detector sleeps for a second at its end, for
	// goroutines that are not there.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// needRoot skips a test that mounts as root where that is impossible. CI checks
// that it skips nowhere (skips.txt).
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse:", err)
	}
}

// needProgram skips a test without one of Debian's programs.
func needProgram(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Skip(name, "is not installed; make deps installs it")
	return ""
}

// site is an emulated vault, a settings document, and a kvfs that serves it.
type site struct {
	t        testing.TB
	vault    *emulator.Emulator
	dir      string // of everything; others may enter
	store    string
	settings string
	socket   string
	wrapper  []string // what kvfs mount is run by, if by anything
	program  string   // in place of kvfsPath
	env      []string // of kvfs, besides the test's own
	cmd      *exec.Cmd
	log      *buffer // what kvfs says on stderr
	done     *process
}

// newSite has a vault with certificates and a settings document for them that
// polls every second. Nothing is mounted yet.
func newSite(t testing.TB, profiles ...emulator.Profile) *site {
	t.Helper()
	return newSiteOf(t, emulator.Options{}, profiles...)
}

// newSiteOf is newSite for an emulator with options.
func newSiteOf(t testing.TB, o emulator.Options, profiles ...emulator.Profile) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "kvfs-site-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, store: filepath.Join(dir, "store"), socket: filepath.Join(dir, "run", "kvfs.sock"), settings: filepath.Join(dir, "settings.json")}
	o.Dir = filepath.Join(dir, "vault")
	s.vault, err = emulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.vault.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error("emulator:", err)
		}
	})
	for _, p := range profiles {
		if _, err := s.vault.AddCertificate(p); err != nil {
			t.Fatal(err)
		}
	}
	s.configure(nil)
	return s
}

// document is the emulator's settings document, which configure edits.
type document map[string]any

func (d document) secrets() map[string]any {
	return d["secretsManagementSettings"].(map[string]any)
}

// entry of a certificate by the end of its URL.
func (d document) entry(name string) map[string]any {
	for _, e := range d.secrets()["observedCertificates"].([]any) {
		if entry := e.(map[string]any); strings.HasSuffix(entry["url"].(string), "/secrets/"+name) {
			return entry
		}
	}
	panic("no certificate " + name)
}

// configure writes the settings document, after edit has changed it.
func (s *site) configure(edit func(document)) {
	s.t.Helper()
	data, err := os.ReadFile(s.vault.Endpoints().Settings)
	if err != nil {
		s.t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		s.t.Fatal(err)
	}
	if edit != nil {
		edit(doc)
	}
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.settings, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// mount runs kvfs mount and returns when it serves.
func (s *site) mount(args ...string) {
	s.t.Helper()
	s.start(append([]string{"mount", s.settings, "--store", s.store}, args...)...)
	s.await("kvfs: serving ")
}

// start runs kvfs in the background. It is ended with the test, and must then
// leave no mount behind.
func (s *site) start(args ...string) { s.startAs(nil, args...) }

// startAs is start with the rights of another user.
func (s *site) startAs(as *syscall.SysProcAttr, args ...string) {
	s.t.Helper()
	s.log = &buffer{}
	line := slices.Concat(s.wrapper, []string{cmp.Or(s.program, kvfsPath)}, args, []string{"--socket", s.socket})
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.SysProcAttr = as
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := &process{gone: make(chan struct{})}
	cmd := s.cmd
	go func() {
		done.err = cmd.Wait()
		close(done.gone)
	}()
	s.done = done
	s.t.Cleanup(func() {
		if s.done == done {
			s.end(syscall.SIGTERM)
		}
		if strings.Contains(s.log.String(), "DATA RACE") {
			s.t.Error("the race detector speaks")
		}
		if s.t.Failed() {
			s.t.Logf("kvfs said:\n%s", s.log)
		}
	})
}

// end sends a signal and waits for the process. It must end well and leave no mount.
// SIGKILL is for all processes, first for the one that would start another.
func (s *site) end(sig syscall.Signal) {
	s.t.Helper()
	server := 0
	if sig == syscall.SIGKILL {
		server = s.report().Processes.Server
	}
	_ = s.cmd.Process.Signal(sig)
	if sig == syscall.SIGKILL {
		if err := syscall.Kill(server, sig); err != nil {
			s.t.Error("killing the server:", err)
		}
		_ = s.ended()
		return
	}
	err := s.ended()
	if err != nil {
		s.t.Errorf("kvfs after %v: %v\n%s", sig, err, s.log)
	}
	if m := mounts(s.t, s.dir); len(m) > 0 {
		s.t.Error("mounts are left:", m)
	}
}

// ended waits for the end of the process and returns how it ended.
func (s *site) ended() error {
	s.t.Helper()
	done := s.done
	s.done = nil
	select {
	case <-done.gone:
	case <-time.After(30 * time.Second):
		s.t.Error("kvfs does not end")
		_ = s.cmd.Process.Kill()
		<-done.gone
	}
	return done.err
}

// process is one that has ended when gone is closed; err is how.
type process struct {
	gone chan struct{}
	err  error
}

// await waits until kvfs has said something.
func (s *site) await(text string) {
	s.t.Helper()
	if !s.log.await(text, s.done.gone) {
		s.t.Fatalf("kvfs did not say %q:\n%s", text, s.log)
	}
}

// run runs another kvfs command and returns what it printed.
func (s *site) run(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return command(s.t, kvfsPath, append(args, "--socket", s.socket)...)
}

// must is run for a command that has to succeed.
func (s *site) must(args ...string) string {
	s.t.Helper()
	out, errs, code := s.run(args...)
	if code != 0 {
		s.t.Fatalf("kvfs %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

func command(t testing.TB, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// report is kvfs status --json.
func (s *site) report() (r status.Report) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.must("status", "--json")), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// certificate finds one in a report.
func (s *site) certificate(name string) status.Certificate {
	s.t.Helper()
	for _, c := range s.report().Certificates {
		if strings.HasSuffix(c.URL, "/secrets/"+name) {
			return c
		}
	}
	s.t.Fatal("no certificate", name, "in the report")
	return status.Certificate{}
}

// until waits for a state that kvfs reaches by itself: what it polls tells nobody
// else. The bound is generous and says only that it never came.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	s.within(time.Minute, what, ok)
}

// within is until with another bound.
func (s *site) within(bound time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("it never came that %s\n%s", what, s.must("status"))
}

// rotate renews a certificate in the vault and polls; it is published when it
// returns.
func (s *site) rotate(name string) string {
	s.t.Helper()
	version, err := s.vault.Rotate("", name)
	if err != nil {
		s.t.Fatal(err)
	}
	if out := s.must("refresh", name); !strings.Contains(out, version) {
		s.t.Fatalf("refresh after the renewal to %s says %q", version, out)
	}
	return version
}

// path in the store.
func (s *site) path(name string) string { return filepath.Join(s.store, name) }

// mounts of kvfs below a directory.
func mounts(t testing.TB, dir string) (found []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if strings.Contains(line, " "+dir) && strings.Contains(line, "fuse.kvfs") {
			found = append(found, line)
		}
	}
	return found
}

// buffer is what a process writes, for several readers, one of whom may wait.
type buffer struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrote != nil {
		close(b.wrote)
		b.wrote = nil
	}
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// await returns when the text has been written, or false when the process has
// ended without or half a minute has passed.
func (b *buffer) await(text string, ended <-chan struct{}) bool {
	late := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		if strings.Contains(b.text.String(), text) {
			b.mu.Unlock()
			return true
		}
		if b.wrote == nil {
			b.wrote = make(chan struct{})
		}
		wrote := b.wrote
		b.mu.Unlock()
		select {
		case <-wrote:
		case <-ended:
			return false
		case <-late:
			return false
		}
	}
}
