package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Service is what a running kvfs does for those who connect to its socket. Its
// methods are called from many goroutines.
type Service interface {
	Report() Report
	// Await returns when there is nothing to wait for any more, since Ready has nothing to
	// say or the initial sync has failed, or when ctx ends.
	Await(ctx context.Context)
	// Refresh polls the named certificates now, all if there is no name, and
	// reports on those when that is done. An unknown name is an *UnknownError.
	Refresh(ctx context.Context, names []string) ([]Refreshed, error)
	// Reload reads the settings again and applies what has changed. It returns when
	// that is visible. A document that is refused changes nothing.
	Reload(ctx context.Context) Reloaded
	// Readers says who has read the named certificate, or any if the name is "". An
	// unknown name is an *UnknownError; why nobody can say it is in the result.
	Readers(ctx context.Context, name string) (Readers, error)
	// Stop lets kvfs unmount and end. It returns at once.
	Stop()
	Prober
}

// Prober answers probes and scrapes. Its methods are called from many goroutines.
type Prober interface {
	// Figures are the Report without links, warnings and what is leaving.
	Figures() Report
	// Live is why another process had better take over, nil while this one answers.
	Live() *Error
	// Ready is what kvfs wait would wait for, or fail with; nil if there is nothing.
	Ready() *Error
}

// Refreshed is what a refresh did to one certificate.
type Refreshed struct {
	URL   string `json:"url"`
	Old   string `json:"old,omitempty"` // version before
	New   string `json:"new,omitempty"` // version now
	Error *Error `json:"error,omitempty"`
}

// Reloaded is what came of reading the settings again.
type Reloaded struct {
	File     string    `json:"file,omitempty"`
	Problems []Problem `json:"problems"`
	// URLs of entries that came, that are shown or fetched otherwise, and that went.
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
	// Error is why the previous settings stay, or why what is new in the document is
	// not wholly visible. Its kind is "settings" if the document is the reason.
	Error *Error `json:"error,omitempty"`
}

// Problem is something in a settings document that is wrong (Severity "error") or
// without effect ("warning"). Line and column count from 1.
type Problem struct {
	Severity string `json:"severity"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Fact     string `json:"fact"`
	Hint     string `json:"hint"`
}

// UnknownError is a name that no certificate has.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no certificate is called %q", e.Name)
}

// ErrInUse says that a living kvfs answers at the socket. Listen returns it.
var ErrInUse = errors.New("another kvfs is running")

// ErrNotRunning says that nobody answers at the socket. Every method of Client
// may return it.
var ErrNotRunning = errors.New("kvfs is not running")

// DefaultSocket is where the socket is if nobody says otherwise: below /run for
// root, below the user's runtime directory for others.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/kvfs/kvfs.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "kvfs.sock")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("kvfs-%d", os.Geteuid()), "kvfs.sock")
}

// Server is a listening control socket.
type Server struct {
	path     string
	listener *net.UnixListener
	lock     *os.File
	kept     bool
}

// Listen makes the socket, replacing one that a dead kvfs left. While it lives it
// holds a lock beside the socket, so two that start at once cannot both win.
func Listen(path string) (*Server, error) {
	if err := privateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w at %s", ErrInUse, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	// A socket needs write permission to be connected to, which no usual umask
	// gives to others; the mode makes sure of it.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	return &Server{path: path, listener: l, lock: lock}, nil
}

// Names of the descriptors that Keep hands over.
const (
	keptSocket = "control"
	keptLock   = "control-lock"
)

// Keep hands the socket and its lock over to somebody who holds them for the next
// process: who connects while there is none waits for it, and no other kvfs takes the
// socket. From then on it stays when Serve ends, until Remove.
func (s *Server) Keep(keep func(name string, fd int) error) error {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("keeping the control socket: %w", err)
	}
	s.listener.SetUnlinkOnClose(false)
	s.kept = true
	var kept error
	err = raw.Control(func(fd uintptr) { kept = errors.Join(keep(keptSocket, int(fd)), keep(keptLock, int(s.lock.Fd()))) })
	return errors.Join(err, kept)
}

// Resume takes over what a predecessor has kept, nil if it has kept nothing.
func Resume(path string, take func(name string) (fd int, ok bool)) (*Server, error) {
	socket, hasSocket := take(keptSocket)
	lock, hasLock := take(keptLock)
	if !hasSocket || !hasLock {
		if hasSocket {
			unix.Close(socket)
		}
		if hasLock {
			unix.Close(lock)
		}
		return nil, nil
	}
	file := os.NewFile(uintptr(socket), path)
	defer file.Close() // FileListener has its own
	l, err := net.FileListener(file)
	if err != nil {
		unix.Close(lock)
		return nil, fmt.Errorf("taking the control socket over: %w", err)
	}
	s := &Server{path: path, listener: l.(*net.UnixListener), lock: os.NewFile(uintptr(lock), path+".lock"), kept: true}
	s.listener.SetUnlinkOnClose(false)
	return s, nil
}

// Remove takes away the file of a kept socket, when there is to be no successor.
func (s *Server) Remove() {
	if s.kept {
		_ = os.Remove(s.path)
	}
}

// privateDir makes the directory of the socket, and refuses one in which others
// could replace it. (In a directory such as /tmp, where everybody may make files
// and remove only his own, somebody may be there first; Listen then fails.)
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil { // others may pass through, to a socket for metrics
		return fmt.Errorf("making the directory of a socket: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", dir, err)
	}
	if uid := os.Geteuid(); st.Uid != 0 && int(st.Uid) != uid {
		return fmt.Errorf("%s, the directory of a socket, belongs to user %d", dir, st.Uid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("%s, the directory of a socket, is writable by others", dir)
	}
	return nil
}

// Serve answers until ctx ends, and takes the socket away unless it is kept.
func (s *Server) Serve(ctx context.Context, service Service) error {
	mux := newMux(service)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		if most, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			waiting, cancel := context.WithTimeout(r.Context(), most)
			service.Await(waiting)
			cancel()
		}
		reply(w, http.StatusOK, service.Report())
	})
	mux.HandleFunc("POST /refresh", func(w http.ResponseWriter, r *http.Request) {
		done, err := service.Refresh(r.Context(), r.URL.Query()["name"])
		var unknown *UnknownError
		switch {
		case errors.As(err, &unknown):
			reply(w, http.StatusNotFound, unknown)
		case err != nil:
			reply(w, http.StatusServiceUnavailable, Error{Kind: "interrupted", Fact: err.Error()})
		default:
			reply(w, http.StatusOK, done)
		}
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, service.Reload(r.Context()))
	})
	mux.HandleFunc("GET /readers", func(w http.ResponseWriter, r *http.Request) {
		readers, err := service.Readers(r.Context(), r.URL.Query().Get("name"))
		var unknown *UnknownError
		switch {
		case errors.As(err, &unknown):
			reply(w, http.StatusNotFound, unknown)
		case err != nil:
			reply(w, http.StatusServiceUnavailable, Error{Kind: "interrupted", Fact: err.Error()})
		default:
			reply(w, http.StatusOK, readers)
		}
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, struct{}{})
		service.Stop()
	})
	defer s.lock.Close()
	if err := serve(ctx, &http.Server{Handler: mux}, s.listener); err != nil {
		return fmt.Errorf("serving the control socket: %w", err)
	}
	return nil
}

// serve answers until ctx ends. Requests end with it, and get a second to say so: the one
// for a stop wants its answer.
func serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	srv.ReadHeaderTimeout, srv.BaseContext = cmp.Or(srv.ReadTimeout, askPatience), func(net.Listener) context.Context { return ctx }
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(last) // closes the listener first
		_ = srv.Close()
	})
	err := srv.Serve(l)
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		_ = srv.Close() // who is connected is not answered by what has no place any more
		return err
	}
	return nil
}

// Close takes away a socket that was never served.
func (s *Server) Close() {
	s.listener.Close()
	s.Remove()
	s.lock.Close()
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // who went away needs no answer
}
