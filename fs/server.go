package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// threads answer one connection. Handlers never wait, so this is for requests
// that arrive together, not for slow ones.
const threads = 4

// server answers the requests of one connection. It is a loop of our own around
// go-fuse's ProtocolServer because that is a function from request to reply: it
// can stop between two requests, count them, and be fed by a successor.
type server struct {
	dev      int // of /dev/fuse
	handler  *handler
	journal  *journal
	recovery Recovery
	log      *slog.Logger
	requests [opCount]atomic.Uint64
	panics   atomic.Uint64
	// since is when a thread got the request it has, in nanoseconds of the monotonic
	// clock; 0: it has none.
	since   [threads]atomic.Int64
	longest atomic.Int64 // that a request has taken a thread, in nanoseconds
	resumed atomic.Int64 // when it answered in place of a predecessor, of the monotonic clock; 0: there was none

	protocol *fuse.ProtocolServer
}

// Recovery is how a server finds what its predecessor owes.
type Recovery string

const (
	// RecoverBoth answers what is in the journal and asks the kernel for the rest,
	// where it can be asked. It is the default.
	RecoverBoth Recovery = ""
	// RecoverByJournal works with every kernel.
	RecoverByJournal Recovery = "journal"
	// RecoverByResend needs Linux 6.9.
	RecoverByResend Recovery = "resend"
)

func newServer(dev int, h *handler, j *journal, recovery Recovery, logger *slog.Logger) *server {
	s := &server{dev: dev, handler: h, journal: j, recovery: recovery, log: logger}
	opts := h.options()
	opts.Logger = log.New(io.Discard, "", 0) // its messages are for developers of file systems
	opts.PanicHandler = func(v any) fuse.Status {
		s.panics.Add(1)
		s.log.Error("a request made the file system panic; it was answered EIO", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		return fuse.EIO
	}
	s.protocol = fuse.NewProtocolServer(h, opts)
	return s
}

// serve answers what a predecessor owes, then the kernel until ctx ends or the
// connection does. Every thread finishes the request it has; a read that waits for
// a content stays in the journal, for whoever serves next.
func (s *server) serve(ctx context.Context) error {
	// Raw descriptors: an os.File would be closed when it is collected, and the
	// threads would park for ever.
	var stop [2]int
	if err := unix.Pipe2(stop[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer unix.Close(stop[0])
	if err := unix.SetNonblock(s.dev, true); err != nil {
		unix.Close(stop[1])
		return fmt.Errorf("/dev/fuse: %w", err)
	}
	hangUp := sync.OnceFunc(func() { unix.Close(stop[1]) })
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	ctx, cancel := context.WithCancel(ctx)
	var waits sync.WaitGroup
	defer waits.Wait()
	defer cancel()
	wait := func(place int) { waits.Go(func() { s.wait(ctx, place) }) }

	out := make([]byte, replySize)
	taken := s.journal.savedInit() != nil
	if err := s.recover(out, wait); err != nil {
		return err
	}
	if taken {
		s.resumed.Store(monotonic())
	}
	// The first request of a connection is INIT, and the kernel sends nothing else
	// before its answer. go-fuse stores what it negotiates without a lock, so the other
	// threads start after it.
	if s.journal.savedInit() == nil {
		if err := s.one(0, out, stop[0], wait); err != nil {
			return ended(err)
		}
	}
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			if errs[i] = s.loop(i, stop[0], wait); errs[i] != nil {
				s.log.Error("a thread of the file system has ended", "err", errs[i])
				hangUp() // rather none than fewer and fewer
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// maxTries is how often a request is given to servers that die of it.
const maxTries = 3

// recover brings this server to where its predecessor was, and answers what that
// owes.
func (s *server) recover(out []byte, wait func(place int)) error {
	init, owing := s.journal.savedInit(), 0
	if init != nil {
		// The kernel has had its answer: this is for go-fuse, which keeps what it
		// negotiated.
		if n, status := s.protocol.HandleRequest([][]byte{init}, [][]byte{out}); n < outHeaderSize || !status.Ok() {
			return fmt.Errorf("repeating INIT: %v", status)
		}
	}
	for i := range threads {
		if req := owed(s.journal.slot(i)); req != nil && s.recovery != RecoverByResend {
			owing++
			if s.journal.tries[i].Add(1) > maxTries {
				s.log.Error("a request has ended several servers; it is answered EIO", "operation", opName(int(opcode(req))))
				s.write(refusal(req, unix.EIO))
			} else {
				s.take(req, out, wait)
			}
		}
		s.journal.settle(i)
	}
	if init != nil {
		s.log.Info("taking over from another server", "unanswered", owing)
	}
	return s.recoverReads(init != nil, wait)
}

// recoverReads sees to the reads that wait for a content. The kernel sends them again
// with everything else, if it can be asked for that.
func (s *server) recoverReads(connected bool, wait func(place int)) error {
	again := false
	if connected && s.recovery != RecoverByJournal {
		err := s.notify(notifyResend, nil) // EINVAL before Linux 6.9
		if err != nil && s.recovery == RecoverByResend {
			return fmt.Errorf("asking the kernel to send again what was not answered: %w", err)
		}
		again = err == nil
	}
	for place := range waitingMost {
		if owed(s.journal.waiting(place)) != nil && !again {
			wait(place)
		} else {
			s.journal.unpark(place)
		}
	}
	return nil
}

var errStopped = errors.New("stopped")

// ended makes the ordinary ends of a loop no error.
func ended(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func (s *server) loop(i, stop int, wait func(place int)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := make([]byte, replySize)
	for {
		if err := s.one(i, out, stop, wait); err != nil {
			return ended(err)
		}
	}
}

// one waits for a request and answers it, as thread i.
func (s *server) one(i int, out []byte, stop int, wait func(place int)) error {
	slot := s.journal.slot(i)
	for {
		n, err := s.read(slot, stop)
		switch err {
		case nil:
			s.since[i].Store(monotonic())
			if n >= inHeaderSize {
				s.take(slot[:n:n], out, wait)
			}
			s.journal.settle(i)
			s.took(monotonic() - s.since[i].Swap(0))
			return nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted meanwhile
		case unix.ENODEV, unix.ECONNABORTED: // unmounted, aborted
			return errStopped
		default:
			return fmt.Errorf("reading from /dev/fuse: %w", err)
		}
	}
}

// monotonic is a time that only grows, never 0.
func monotonic() int64 { return int64(time.Since(began)) + 1 }

var began = time.Now()

// took enters how long a request has taken. The usual one costs no more than a look.
func (s *server) took(d int64) {
	for was := s.longest.Load(); d > was; was = s.longest.Load() {
		if s.longest.CompareAndSwap(was, d) {
			return
		}
	}
}

// busy is for how long a thread has been at one request, the longest of all. Handlers
// never wait, so more than a moment means that something is wrong.
func (s *server) busy() (longest time.Duration) {
	now := monotonic()
	for i := range s.since {
		if at := s.since[i].Load(); at != 0 {
			longest = max(longest, time.Duration(now-at))
		}
	}
	return longest
}

func (s *server) read(in []byte, stop int) (int, error) {
	ready := []unix.PollFd{{Fd: int32(s.dev), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	if _, err := unix.Poll(ready, -1); err != nil {
		return 0, err
	}
	if ready[1].Revents != 0 {
		return 0, errStopped
	}
	return unix.Read(s.dev, in)
}

// take answers a request, or lets it wait for its content.
func (s *server) take(req, out []byte, wait func(place int)) {
	if opcode(req) == opInit {
		s.journal.saveInit(req)
	}
	if opcode(req) == opRead && s.handler.away(req) {
		s.requests[opRead].Add(1)
		place := s.journal.park(req)
		if place < 0 {
			s.write(refusal(req, unix.EBUSY)) // hundreds wait already
			return
		}
		wait(place)
		return
	}
	s.write(s.answer(req, out))
}

// wait answers a read whose content is not here. It does not hold up a thread. When
// ctx ends, the request stays where it is.
func (s *server) wait(ctx context.Context, place int) {
	req := owed(s.journal.waiting(place))
	b, errno := s.handler.fetch(ctx, req)
	switch {
	case ctx.Err() != nil:
		return
	case errno != 0:
		s.write(refusal(req, errno))
	default:
		s.write(replyTo(req, b))
	}
	s.journal.unpark(place)
}

// write hands a reply to the kernel. Its errors mean that nobody waits any more.
func (s *server) write(reply []byte) {
	for len(reply) > 0 {
		if _, err := unix.Write(s.dev, reply); err != unix.EINTR && err != unix.EAGAIN {
			return
		}
	}
}

// answer makes the one reply that a request has, nil if it takes none. A request
// that is left without one hangs its caller for ever.
func (s *server) answer(req, out []byte) []byte {
	op := opcode(req)
	if op < opCount {
		s.requests[op].Add(1)
	}
	switch {
	case takesNoReply(op), op == opInterrupt:
		return refusal(req, unix.ENOSYS) // node ids are not counted: no FORGET is needed
	case op < opCount && neverAllowed[op]:
		return refusal(req, unix.EROFS)
	}
	n, status := s.protocol.HandleRequest([][]byte{req}, [][]byte{out})
	if n < outHeaderSize || !status.Ok() {
		return refusal(req, unix.EIO) // malformed, or no room for what it asks
	}
	return out[:n]
}

// counts is how many requests of each kind came in.
func (s *server) counts() map[string]uint64 {
	m := map[string]uint64{}
	for op := range s.requests {
		if n := s.requests[op].Load(); n > 0 {
			m[opName(op)] = n
		}
	}
	return m
}

func opName(op int) string {
	if n, ok := opNames[op]; ok {
		return n
	}
	return fmt.Sprintf("OP%d", op)
}

var opNames = map[int]string{
	1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR",
	10: "UNLINK", 11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS",
	18: "RELEASE", 20: "FSYNC", 21: "SETXATTR", 22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH",
	26: "INIT", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR", 34: "ACCESS", 35: "CREATE",
	36: "INTERRUPT", 38: "DESTROY", 39: "IOCTL", 40: "POLL", 42: "BATCH_FORGET", 46: "LSEEK", 52: "STATX",
}
