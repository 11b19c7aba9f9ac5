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
	log      *slog.Logger
	requests [opCount]atomic.Uint64
	panics   atomic.Uint64

	protocol *fuse.ProtocolServer
}

func newServer(dev int, h *handler, logger *slog.Logger) *server {
	s := &server{dev: dev, handler: h, log: logger}
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

// serve answers until ctx ends or the connection does. Every thread finishes the
// request it has, so nothing is in flight when it returns.
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

	// The first request is INIT, and the kernel sends nothing else before its
	// answer. go-fuse stores what it negotiates without a lock, so the other
	// threads start after it.
	first := make([]byte, requestSize)
	if err := s.one(first, make([]byte, replySize), stop[0]); err != nil {
		return ended(err)
	}
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			if errs[i] = s.loop(stop[0]); errs[i] != nil {
				s.log.Error("a thread of the file system has ended", "err", errs[i])
				hangUp() // rather none than fewer and fewer
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

var errStopped = errors.New("stopped")

// ended makes the ordinary ends of a loop no error.
func ended(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func (s *server) loop(stop int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out := make([]byte, requestSize), make([]byte, replySize)
	for {
		if err := s.one(in, out, stop); err != nil {
			return ended(err)
		}
	}
}

// one waits for a request and answers it.
func (s *server) one(in, out []byte, stop int) error {
	for {
		n, err := s.read(in, stop)
		switch err {
		case nil:
			if n >= inHeaderSize {
				s.write(s.answer(in[:n], out))
			}
			return nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted meanwhile
		case unix.ENODEV, unix.ECONNABORTED: // unmounted, aborted
			return errStopped
		default:
			return fmt.Errorf("reading from /dev/fuse: %w", err)
		}
	}
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
