package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Again is the exit code of a server that has parked: it has left its work at a
// point where a successor can go on, and one is started at once.
const Again = 75

// Options of a Keeper. Command alone is required.
type Options struct {
	// Command is the server. It is looked up anew at each start.
	Command []string
	// Fallback is started when Command cannot be, and instead of it when a server
	// was ready before and Command has failed to become ready half of Tries times,
	// until Replace. /proc/self/exe is the binary that the keeper runs, even if it has
	// been replaced or removed.
	Fallback []string
	// LastGasp is run once, with all that is kept and nobody to notify, when no server
	// can be brought back. It has 10 s.
	LastGasp []string

	Watchdog     time.Duration // a server that is silent for that long is killed; 0: never
	StartTimeout time.Duration // so is one that is not ready after that; 0: 30 s
	Tries        int           // failures in a row until the last gasp; 0: 6

	// Stdin, Stdout and Stderr of all that is started; nil is the null device.
	Stdin, Stdout, Stderr *os.File
	Env                   []string // as "name=value"; nil: the keeper's own
	// Dir is where the private directory of the notify socket is made, by default
	// that of temporary files. Servers must be able to reach it.
	Dir string

	Logger *slog.Logger // nil: nothing is logged
	// Started is told the process id of each server, and Ready that it has said so, in
	// Run. Neither may block.
	Started func(pid int)
	Ready   func()
}

// patience are the times of the rules in the package documentation.
type patience struct {
	young  time.Duration // a server that ends so soon after READY=1 has failed
	shot   time.Duration // most that is waited after one that somebody has killed
	mature time.Duration // one that lived so long after it makes up for failures
	stop   time.Duration // for the end of a server that was told to end
	infant time.Duration // that a server may take until it understands signals
	dead   time.Duration // for the end of a process after SIGKILL
	gasp   time.Duration
}

// Keeper holds descriptors and keeps a server running. See New.
type Keeper struct {
	o        Options
	log      *slog.Logger
	patience patience

	dir    string
	socket int
	pipe   [2]int // the servers have the first, and see its end when the keeper dies
	null   int
	wakeFD int
	wake   *os.File // of wakeFD: a write after Run has ended hits nobody else's descriptor
	env    []string
	mark   string

	replace, reload atomic.Bool // asked for, and not done yet

	// What follows is Run's alone.
	kept     []descriptor
	current  *server
	old      []*server // killed by the keeper, and not reaped yet
	next     time.Time // when a server is started, if there is none
	stopping bool      // ctx has ended
	everUp   bool      // some server was ready
	failures int       // in a row
	shots    int       // in a row, of ready servers by somebody else's SIGKILL
	notReady int       // starts of Command in a row that did not become ready
	last     end
}

// New makes a keeper and the socket that its servers talk to. Run must be called,
// once; it takes the socket away.
func New(o Options) (k *Keeper, err error) {
	if len(o.Command) == 0 {
		return nil, errors.New("making a keeper: no command")
	}
	if o.Tries == 0 {
		o.Tries = 6
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	k = &Keeper{o: o, log: o.Logger, socket: -1, pipe: [2]int{-1, -1}, null: -1, wakeFD: -1, patience: patience{
		young: time.Second, shot: 100 * time.Millisecond, mature: 10 * time.Second, stop: 15 * time.Second, infant: time.Second, dead: time.Second, gasp: 10 * time.Second,
	}}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.env = slices.DeleteFunc(slices.Clone(o.Env), isProtocol)
	if o.Env == nil {
		k.env = slices.DeleteFunc(os.Environ(), isProtocol)
	}
	if err := k.open(); err != nil {
		k.close()
		return nil, fmt.Errorf("making a keeper: %w", err)
	}
	return k, nil
}

// isProtocol tells what the keeper's own keeper has said, and no server of ours may
// take for itself.
func isProtocol(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains(variables, name)
}

func (k *Keeper) open() (err error) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("the kernel has no process descriptors (Linux 5.3): %w", err)
	}
	unix.Close(pidfd)
	if k.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	k.wake = os.NewFile(uintptr(k.wakeFD), "wake")
	if k.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if err = unix.Pipe2(k.pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	if k.mark, err = mark(os.Getpid(), k.pipe[0]); err != nil {
		return err
	}
	// A path that nobody else can enter: an abstract socket is open to every user,
	// and belongs to a network namespace, which a server may have of its own.
	if k.dir, err = os.MkdirTemp(k.o.Dir, "keeper-"); err != nil {
		return err
	}
	if k.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	// Before it has a name: no message may come without its sender.
	if err = unix.SetsockoptInt(k.socket, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return err
	}
	if err = unix.Bind(k.socket, &unix.SockaddrUnix{Name: k.path()}); err != nil {
		return fmt.Errorf("the socket %s: %w", k.path(), err)
	}
	return nil
}

func (k *Keeper) path() string { return filepath.Join(k.dir, "notify") }

// close gives up everything, what is kept included.
func (k *Keeper) close() {
	for _, d := range k.kept {
		unix.Close(d.fd)
	}
	for _, s := range k.old {
		// What it waits for may have ended with the descriptors.
		if _, ok := s.await(k.patience.dead); !ok {
			k.log.Warn("a killed process has not ended", "pid", s.pid)
			unix.Close(s.pidfd)
		}
	}
	for _, fd := range []int{k.socket, k.pipe[0], k.pipe[1], k.null} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if k.wake != nil {
		k.wake.Close()
	}
	if k.dir != "" {
		if err := os.RemoveAll(k.dir); err != nil {
			k.log.Warn("the notify socket is left", "error", err)
		}
	}
}

// Replace lets the server park and starts a successor, by the Command as it is then.
// It returns at once. A server that is not ready yet is replaced when it is.
func (k *Keeper) Replace() {
	k.replace.Store(true)
	k.rouse()
}

// Reload sends SIGHUP to the server, when it is ready. It returns at once.
func (k *Keeper) Reload() {
	k.reload.Store(true)
	k.rouse()
}

func (k *Keeper) rouse() {
	_, _ = k.wake.Write(binary.NativeEndian.AppendUint64(nil, 1)) // fails after Run only: nobody is left to be told
}

// result is what Run returns.
type result struct {
	code int
	err  error
}

// Run keeps a server running until one ends for good or ctx ends. The code is the
// process's exit code: 0 when a server has ended with that, the server's own when it
// ended so before any was ready (err is nil: it has said why). Otherwise err is what
// happened.
//
// Everything is done by this goroutine, in turn, so that what a server said before
// it died has been heard when its end is looked at.
func (k *Keeper) Run(ctx context.Context) (code int, err error) {
	defer k.close()
	defer context.AfterFunc(ctx, k.rouse)()
	for {
		if r := k.turn(ctx); r != nil {
			return r.code, r.err
		}
	}
}

// turn waits for something to happen and does what follows from it.
func (k *Keeper) turn(ctx context.Context) *result {
	k.sleep()
	// Only what was said before the end that is seen here is sure to be in the queue.
	var e end
	var ended bool
	if k.current != nil {
		e, ended = k.current.reap()
	}
	k.listen()
	k.old = slices.DeleteFunc(k.old, func(s *server) bool { _, ok := s.reap(); return ok })
	stop := ctx.Err() != nil
	k.stopping = stop
	if ended {
		return k.ended(e, stop)
	}
	now := time.Now()
	s := k.current
	switch {
	case s == nil && stop:
		return k.stopped()
	case s == nil:
		k.deliver(nil)
		if now.Before(k.next) {
			return nil
		}
		return k.start()
	case !s.killed.IsZero():
		// It runs no code of its own any more, but a thread of it may wait in the kernel
		// for an answer that only the successor gives.
		if !now.Before(s.killed.Add(k.patience.dead)) {
			k.old = append(k.old, s)
			return k.ended(end{code: -1, fact: "was killed: " + s.why}, stop)
		}
		return nil
	case stop && !s.interrupted && !now.Before(k.grown(s)):
		s.interrupted, s.stopping, s.due = true, true, now.Add(k.patience.stop)
		s.signal(unix.SIGINT)
	case !s.ready.IsZero() && !stop:
		k.deliver(s)
	}
	if at, why := k.doom(s); !at.IsZero() && !now.Before(at) {
		k.log.Warn("killing the server", "pid", s.pid, "reason", why)
		s.killed, s.why = now, why
		s.signal(unix.SIGKILL)
	}
	return nil
}

// overslept is how much later than it wanted to be a keeper wakes that did not run.
const overslept = 200 * time.Millisecond

// sleep waits for a message, an end, a request or the next time something is due.
func (k *Keeper) sleep() {
	fds := []unix.PollFd{{Fd: int32(k.wakeFD), Events: unix.POLLIN}, {Fd: int32(k.socket), Events: unix.POLLIN}}
	until := k.next
	if s := k.current; s != nil {
		fds = append(fds, unix.PollFd{Fd: int32(s.pidfd), Events: unix.POLLIN})
		if until, _ = k.doom(s); !s.killed.IsZero() {
			until = s.killed.Add(k.patience.dead)
		} else if at := k.grown(s); k.stopping && !s.interrupted && at.Before(until) {
			until = at
		}
	} else if until.IsZero() {
		return // the very first start
	}
	for _, s := range k.old {
		fds = append(fds, unix.PollFd{Fd: int32(s.pidfd), Events: unix.POLLIN})
	}
	poll(fds, until)
	if now := time.Now(); k.current != nil && !until.IsZero() && now.Sub(until) > overslept {
		// The whole machine stood still, or this process did: what the server has not said
		// meanwhile means nothing.
		if alive := now.Add(-k.o.Watchdog / 2); alive.After(k.current.alive) {
			k.current.alive = alive
		}
	}
	if fds[0].Revents != 0 {
		_, _ = unix.Read(k.wakeFD, make([]byte, 8)) // never blocks
	}
}

// grown is when a server understands SIGINT for sure: before, it would die of it, and
// what it was to take away would be left.
func (k *Keeper) grown(s *server) time.Time {
	if !s.ready.IsZero() {
		return s.ready
	}
	return s.started.Add(k.patience.infant)
}

// doom is when the server has to be killed, and why; the zero time is never.
func (k *Keeper) doom(s *server) (at time.Time, why string) {
	soonest := func(t time.Time, reason string) {
		if at.IsZero() || t.Before(at) {
			at, why = t, reason
		}
	}
	if s.ready.IsZero() {
		soonest(s.started.Add(k.o.StartTimeout), fmt.Sprintf("it was not ready in %v", k.o.StartTimeout))
	} else if k.o.Watchdog > 0 && !s.stopping {
		soonest(s.alive.Add(k.o.Watchdog), fmt.Sprintf("it gave no sign of life for %v", k.o.Watchdog))
	}
	if !s.due.IsZero() {
		soonest(s.due, fmt.Sprintf("it did not end in %v when it was to", k.patience.stop))
	}
	return at, why
}

// deliver does what Replace and Reload asked for. A server that is started later than
// they were called needs neither.
func (k *Keeper) deliver(s *server) {
	replace, reload := k.replace.Swap(false), k.reload.Swap(false)
	if replace {
		k.notReady = 0 // there may be a new binary: it gets its chances
	}
	if s == nil {
		return
	}
	if reload {
		s.signal(unix.SIGHUP)
	}
	if replace {
		s.due = time.Now().Add(k.patience.stop)
		s.signal(unix.SIGTERM)
	}
}

// start starts a server.
func (k *Keeper) start() *result {
	env := []string{notifySocket + "=" + k.path()}
	if k.o.Watchdog > 0 {
		env = append(env, watchdogUsec+"="+strconv.FormatInt(k.o.Watchdog.Microseconds(), 10))
	}
	if k.last.fact != "" && k.last.code != Again {
		env = append(env, formerEnd+"="+k.last.fact)
	}
	command, fallback := k.o.Command, false
	if len(k.o.Fallback) > 0 && k.everUp && k.notReady >= max(1, k.o.Tries/2) {
		command, fallback = k.o.Fallback, true
	}
	s, err := k.spawn(command, env...)
	if err != nil && len(k.o.Fallback) > 0 && !fallback {
		k.log.Warn("the server cannot be started, its fallback is", "err", err)
		fallback = true
		s, err = k.spawn(k.o.Fallback, env...)
	}
	if err != nil {
		k.current = &server{fallback: fallback}
		return k.ended(end{code: 1, fact: err.Error(), err: err}, false)
	}
	s.fallback = fallback
	k.current = s
	k.log.Debug("server started", "pid", s.pid, "fallback", fallback, "kept", len(k.kept))
	if k.o.Started != nil {
		k.o.Started(s.pid)
	}
	return nil
}

// ended decides what follows the end of the current server: a result, or a successor
// at k.next.
func (k *Keeper) ended(e end, stop bool) *result {
	s, now := k.current, time.Now()
	k.current, k.last = nil, e
	up := !s.ready.IsZero()
	if up && now.Sub(s.ready) >= k.patience.mature {
		k.failures = 0
	}
	switch {
	case e.code == 0:
		return &result{}
	case stop:
		k.lastGasp()
		if e.code < 0 || e.code == Again {
			e.code = 1
		}
		return &result{e.code, fmt.Errorf("the server was to stop and %s", e.fact)}
	case !k.everUp && e.code > 0 && e.code != Again:
		// Settings that are refused, and the like, must reach the person. But what an
		// earlier one left, which was killed, may need the last gasp.
		if len(k.kept) > 0 {
			k.lastGasp()
		}
		return &result{e.code, e.err}
	}
	k.next = now
	if up && e.code == Again {
		k.log.Info("the server has parked, a successor goes on", "pid", s.pid)
		return nil
	}
	lived := now.Sub(s.ready)
	switch {
	case up && e.by == unix.SIGKILL:
		// It got so far, and somebody has ended it: no fault that starting does not mend.
		k.failures = 0
		if k.shots++; lived >= k.patience.young {
			k.shots = 0
		}
		k.next = now.Add(min(backoff(k.shots), k.patience.shot))
	case !up || lived < k.patience.young:
		k.failures++
		k.next = now.Add(backoff(k.failures))
	}
	if !up && !s.fallback {
		k.notReady++
	}
	if k.failures >= k.o.Tries {
		k.log.Error("no server can be brought back", "failures", k.failures, "last", e.fact)
		k.lastGasp()
		return &result{1, fmt.Errorf("%d servers in a row have failed, the last one %s", k.failures, e.fact)}
	}
	k.log.Warn("the server is replaced", "pid", s.pid, "ready", up, "reason", e.fact, "failures", k.failures, "in", k.next.Sub(now))
	return nil
}

// stopped is the end of Run when there is no server to stop.
func (k *Keeper) stopped() *result {
	if k.last.fact == "" {
		return &result{} // there never was one
	}
	k.lastGasp()
	return &result{1, fmt.Errorf("stopped when no server ran: the last one %s", k.last.fact)}
}

// lastGasp runs the command that makes the best of it, while everything is still
// kept.
func (k *Keeper) lastGasp() {
	if len(k.o.LastGasp) == 0 {
		return
	}
	s, err := k.spawn(k.o.LastGasp)
	if err != nil {
		k.log.Error("the last gasp failed", "err", err)
		return
	}
	e, ok := s.await(k.patience.gasp)
	if !ok {
		s.killed, s.why = time.Now(), fmt.Sprintf("it did not end in %v", k.patience.gasp)
		s.signal(unix.SIGKILL)
		k.old = append(k.old, s)
		e.fact = "was killed: " + s.why
	}
	level := slog.LevelWarn
	if !k.everUp { // nobody has seen anything of what was kept
		level = slog.LevelDebug
	}
	k.log.Log(context.Background(), level, "last gasp", "result", e.fact)
}

// listen hears all that the servers have said. The bound is more than the kernel
// queues: nobody can keep the keeper from its own work.
func (k *Keeper) listen() {
	for range 1000 {
		text, pid, fds, err := receive(k.socket)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			return
		case k.current == nil || pid != k.current.pid:
			k.log.Debug("not from the server", "pid", pid)
		case err != nil:
			k.log.Warn("a message is refused", "pid", pid, "reason", err)
		default:
			fds = k.handle(text, fds)
		}
		closeAll(fds) // a barrier's, too: all before it has been handled
	}
}

// handle does what the current server says, and returns the descriptors that are not
// kept.
func (k *Keeper) handle(text []byte, fds []int) (rest []int) {
	s, now := k.current, time.Now()
	m, err := parse(text)
	if err != nil {
		k.log.Warn("a message is refused", "pid", s.pid, "reason", err)
		return fds
	}
	if m.ready && s.ready.IsZero() {
		s.ready, s.alive, k.everUp = now, now, true
		if !s.fallback {
			k.notReady = 0
		}
		k.log.Info("server ready", "pid", s.pid, "after", now.Sub(s.started))
		if k.o.Ready != nil {
			k.o.Ready()
		}
	}
	if m.ping {
		s.alive = now
	}
	if m.stopping && !s.stopping {
		s.stopping, s.due = true, now.Add(k.patience.stop)
	}
	if m.status != "" {
		k.log.Debug("server status", "pid", s.pid, "status", m.status)
	}
	if m.remove {
		k.kept = slices.DeleteFunc(k.kept, func(d descriptor) bool {
			if d.name == m.name {
				unix.Close(d.fd)
			}
			return d.name == m.name
		})
	}
	if !m.store {
		return fds
	}
	if len(k.kept)+len(fds) > maxKept {
		k.log.Warn("descriptors are refused", "name", m.name, "kept", len(k.kept), "more", len(fds), "limit", maxKept)
		return fds
	}
	for _, fd := range fds {
		k.kept = append(k.kept, descriptor{m.name, fd})
	}
	return nil
}
