package status

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// newMux answers what anybody may ask who may connect: metrics and probes.
func newMux(p Prober) *http.ServeMux {
	mux := http.NewServeMux()
	// Without compression: it would take longer than everything else, for a peer on the same
	// machine. Of two metrics with one name and the same labels one is left out, rather than all.
	mux.Handle("GET /metrics", promhttp.HandlerFor(Registry(p.Figures), promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, DisableCompression: true, MaxRequestsInFlight: scrapesMost}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { probe(w, p.Live()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { probe(w, p.Ready()) })
	return mux
}

// probe answers 200, or 503 with the reason.
func probe(w http.ResponseWriter, wrong *Error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if wrong == nil {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, "error: %s\n", wrong.Fact)
	if wrong.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", wrong.Hint)
	}
}

// Anybody on the machine may connect to a loopback address: what that can cost is bounded.
const (
	connectionsMost  = 32
	scrapesMost      = 2
	askPatience      = 5 * time.Second  // for a question, with all that comes with it
	answerPatience   = 30 * time.Second // for a reader that is slow
	idlePatience     = 75 * time.Second // longer than scrapes are apart
	requestBytesMost = 16 << 10
)

// Address is where an Endpoint listens: host:port, or an absolute path for a Unix socket,
// with its mode and the group that it gets, -1 for that of this process.
type Address struct {
	Listen string
	Mode   iofs.FileMode
	Group  int
}

func (a Address) socket() bool { return strings.HasPrefix(a.Listen, "/") }

// keptEndpoint begins the names of descriptors under which an Endpoint is kept.
const keptEndpoint = "metrics."

// KeptName is the name under which an Endpoint at this address is kept: a successor that
// goes by other settings does not take it for its own.
func (a Address) KeptName() string {
	sum := sha256.Sum256([]byte(a.Listen))
	return keptEndpoint + hex.EncodeToString(sum[:8])
}

// IsKeptEndpoint tells whether a descriptor of that name is an Endpoint.
func IsKeptEndpoint(name string) bool { return strings.HasPrefix(name, keptEndpoint) }

// Endpoint answers metrics and probes, and nothing else, to those who are not asked who
// they are.
type Endpoint struct {
	at       Address
	listener net.Listener
	patience time.Duration // with who asks; 0: askPatience
}

// OpenEndpoint listens. A Unix socket that nobody answers at is replaced; one that
// somebody does, or anything else at its path, is an error.
func OpenEndpoint(at Address) (*Endpoint, error) {
	e := &Endpoint{at: at}
	if !at.socket() {
		if err := e.listen(net.ListenConfig{}); err != nil {
			return nil, err
		}
		return e, nil
	}
	if err := vacate(at.Listen); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at.Listen, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	l.SetUnlinkOnClose(false)
	e.listener = l
	if err := e.admit(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// listen at an address of TCP.
func (e *Endpoint) listen(with net.ListenConfig) (err error) {
	// "localhost" may be two addresses, of which programs try either first.
	e.listener, err = with.Listen(context.Background(), "tcp", strings.Replace(e.at.Listen, "localhost:", "127.0.0.1:", 1))
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	return nil
}

// Beside is OpenEndpoint for an address that may overlap with that of this one, which goes on as it is: 127.0.0.1 and
// 0.0.0.0 with the same port are the kernel's to refuse, unless both sockets say that they share it. They do so here,
// for no longer than this takes.
func (e *Endpoint) Beside(at Address) (next *Endpoint, err error) {
	if e.at.socket() || at.socket() {
		return OpenEndpoint(at)
	}
	former, err := e.listener.(syscall.Conn).SyscallConn()
	if err == nil {
		err = sharePort(former, true)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if alone := sharePort(former, false); alone != nil && err == nil {
			next.Close()
			next, err = nil, alone
		}
	}()
	next = &Endpoint{at: at}
	if err := next.listen(net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return sharePort(c, true) }}); err != nil {
		return nil, err
	}
	now, err := next.listener.(syscall.Conn).SyscallConn()
	if err == nil {
		err = sharePort(now, false)
	}
	if err != nil {
		next.Close()
		return nil, err
	}
	return next, nil
}

// sharePort says whether another socket of this user, which says so too, may have the port of this one.
func sharePort(c syscall.RawConn, may bool) (err error) {
	value := 0
	if may {
		value = 1
	}
	if other := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value) }); other != nil {
		err = other
	}
	if err != nil {
		return fmt.Errorf("listening for metrics: sharing a port: %w", err)
	}
	return nil
}

// vacate makes room for a Unix socket.
func vacate(path string) error {
	if err := privateDir(filepath.Dir(path)); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("listening for metrics: %s is there and is no socket: %w", path, os.ErrExist)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("listening for metrics: somebody listens at %s: %w", path, syscall.EADDRINUSE)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("replacing the socket that a dead process has left: %w", err)
	}
	return nil
}

// admit lets those connect to a Unix socket who may. Who connects needs the right to
// write, which no usual umask gives to others before.
func (e *Endpoint) admit() error {
	if !e.at.socket() {
		return nil
	}
	if err := privateDir(filepath.Dir(e.at.Listen)); err != nil { // or somebody else could choose what file that is
		return err
	}
	group := e.at.Group
	if group < 0 { // one that had it may have it no more
		group = os.Getegid()
	}
	var st unix.Stat_t
	if err := unix.Lstat(e.at.Listen, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", e.at.Listen, err)
	}
	if int(st.Gid) != group { // a sandbox may allow no chown at all
		if err := os.Lchown(e.at.Listen, -1, group); err != nil {
			return fmt.Errorf("giving the metrics' socket to its group: %w", err)
		}
	}
	if err := os.Chmod(e.at.Listen, e.at.Mode); err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	return nil
}

// ResumeEndpoint takes over what a predecessor has kept, nil if it has kept nothing for
// this address.
func ResumeEndpoint(at Address, take func(name string) (fd int, ok bool)) (*Endpoint, error) {
	fd, ok := take(at.KeptName())
	if !ok {
		return nil, nil
	}
	file := os.NewFile(uintptr(fd), at.Listen)
	defer file.Close() // FileListener has its own
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("taking over where metrics are answered: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return &Endpoint{at: at, listener: l}, nil
}

// Change makes it one for another mode or group; another place is another Endpoint.
func (e *Endpoint) Change(at Address) error {
	next := Endpoint{at: at, listener: e.listener}
	if err := next.admit(); err != nil {
		return err
	}
	e.at = at
	return nil
}

// Keep hands it over to somebody who holds it for the next process: who connects while
// there is none waits for it.
func (e *Endpoint) Keep(keep func(name string, fd int) error) error {
	raw, err := e.listener.(syscall.Conn).SyscallConn()
	if err != nil {
		return fmt.Errorf("keeping where metrics are answered: %w", err)
	}
	var kept error
	err = raw.Control(func(fd uintptr) { kept = keep(e.at.KeptName(), int(fd)) })
	return errors.Join(err, kept)
}

// Serve answers until ctx ends, and leaves the file of a Unix socket: see Remove.
func (e *Endpoint) Serve(ctx context.Context, p Prober) error {
	if err := serve(ctx, e.server(p), netutil.LimitListener(e.listener, connectionsMost)); err != nil {
		return fmt.Errorf("answering at %s: %w", e.at.Listen, err)
	}
	return nil
}

func (e *Endpoint) server(p Prober) *http.Server {
	return &http.Server{Handler: newMux(p), ReadTimeout: cmp.Or(e.patience, askPatience), WriteTimeout: answerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: requestBytesMost}
}

// Remove takes away the file of a Unix socket, when there is to be no successor.
func (e *Endpoint) Remove() {
	if e.at.socket() {
		_ = os.Remove(e.at.Listen)
	}
}

// Close takes away one that is not served.
func (e *Endpoint) Close() {
	e.listener.Close()
	e.Remove()
}
