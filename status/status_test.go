package status

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// service is a kvfs that has one certificate.
type service struct{ stopped chan struct{} }

func (s service) Report() Report {
	return Report{State: Ready, Certificates: []Certificate{{URL: "https://contoso-web.vault.azure.net/secrets/www", NextPoll: Time(time.Unix(1e9, 5))}}}
}

func (s service) Await(ctx context.Context) { <-ctx.Done() }

func (s service) Refresh(_ context.Context, names []string) ([]Refreshed, error) {
	if slices.Contains(names, "nosuch") {
		return nil, &UnknownError{Name: "nosuch"}
	}
	if slices.Contains(names, "broken") {
		return nil, errors.New("it is broken")
	}
	return []Refreshed{{URL: "www", Old: "1", New: "2"}}, nil
}

func (s service) Reload(context.Context) Reloaded {
	return Reloaded{File: "settings.json", Problems: []Problem{{Severity: "error", Line: 4, Column: 5, Fact: "fact", Hint: "hint"}},
		Error: &Error{Kind: "settings", Fact: "fact"}}
}

func (s service) Readers(_ context.Context, name string) (Readers, error) {
	if name != "www" {
		return Readers{}, &UnknownError{Name: name}
	}
	return Readers{Certificates: []CertificateReaders{{URL: "www", Readers: []Reader{{PID: 7, Versions: []string{"1"}}}}}}, nil
}

func (s service) Stop() { close(s.stopped) }

func (s service) Figures() Report { return s.Report() }

func (s service) Live() *Error { return nil }

func (s service) Ready() *Error { return &Error{Kind: "starting", Fact: "not yet", Hint: "wait"} }

// serving runs a service at a socket until the test ends, or stop is called.
func serving(t *testing.T, path string) (s service, stop func()) {
	t.Helper()
	srv, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s = service{stopped: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, s) }()
	ended := false
	stop = func() {
		if cancel(); !ended {
			ended = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func TestClientAndService(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "kvfs.sock")
	s, stop := serving(t, path)
	c := NewClient(path)
	r, err := c.Report(t.Context())
	if err != nil || r.State != Ready || len(r.Certificates) != 1 || !r.Certificates[0].NextPoll.Equal(time.Unix(1e9, 0)) {
		t.Errorf("%+v %v", r, err)
	}
	began := time.Now() // the service waits for as long as it may
	if r, err := c.Await(t.Context(), 20*time.Millisecond); err != nil || r.State != Ready || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%+v %v after %v", r, err, time.Since(began))
	}
	if done, err := c.Refresh(t.Context(), []string{"www"}); err != nil || len(done) != 1 || done[0].New != "2" {
		t.Errorf("%+v %v", done, err)
	}
	var unknown *UnknownError
	if _, err := c.Refresh(t.Context(), []string{"www", "nosuch"}); !errors.As(err, &unknown) || unknown.Name != "nosuch" {
		t.Error(err)
	}
	if r, err := c.Readers(t.Context(), "www"); err != nil || len(r.Certificates) != 1 || r.Certificates[0].Readers[0].PID != 7 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := c.Readers(t.Context(), "nosuch"); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if _, err := c.Refresh(t.Context(), []string{"broken"}); err == nil || err.Error() != "it is broken" {
		t.Error(err)
	}
	if r, err := c.Reload(t.Context()); err != nil || r.Error == nil || r.Error.Kind != "settings" || len(r.Problems) != 1 || r.Problems[0].Line != 4 {
		t.Errorf("%+v %v", r, err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-s.stopped
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", fi.Mode(), err)
	}
	stop()
	if _, err := c.Report(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Error("after its end:", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is left:", err)
	}
}

func TestOneSocketIsOneKvfs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvfs.sock")
	_, stop := serving(t, path)
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if _, err := NewClient(path).Report(t.Context()); err != nil {
		t.Error("the first does not answer any more:", err)
	}
	stop()
	serving(t, path)
}

func TestSocketOfADeadKvfsIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvfs.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient(path).Report(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	serving(t, path)
	if _, err := NewClient(path).Report(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who could put a socket of his own into the directory could play kvfs.
func TestDirectoryThatOthersCanWriteIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "open")
	old := syscall.Umask(0)
	err := os.Mkdir(dir, 0o777)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Listen(filepath.Join(dir, "kvfs.sock")); err == nil {
		s.Close()
		t.Error("accepted")
	}
}
