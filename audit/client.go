package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Start runs this program as an auditor: the command has to call New with descriptor 3.
// The result is the door to it, and what waits for its end, which the caller has to. The
// process is in no group of ours, and ends when the last copy of the door is closed; what
// it has to say goes to log.
func Start(log *os.File, name string, args ...string) (door *os.File, wait func() error, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("starting the auditor: %w", err)
	}
	door, theirs := os.NewFile(uintptr(pair[0]), "door"), os.NewFile(uintptr(pair[1]), "door")
	defer theirs.Close()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{} // there may be secrets in ours
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = log
	// Out of the terminal's process group: an interrupt there is for the keeper.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		door.Close()
		return nil, nil, fmt.Errorf("starting the auditor: %w", err)
	}
	return door, cmd.Wait, nil
}

// Dial connects to auditors that somebody else starts, one for each connection to a Unix
// socket. Only root may be the one who listens.
func Dial(socket string) (door *os.File, err error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("connecting to an auditor: %w", err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || peerErr != nil {
		return nil, errors.Join(err, peerErr)
	}
	if peer.Uid != 0 {
		return nil, fmt.Errorf("connecting to an auditor: user %d listens at %s, not root", peer.Uid, socket)
	}
	return conn.File()
}

// Client is the server's end of the door. Its methods may be called from any goroutine;
// those that take a context wait for an answer, which only comes while Run runs.
type Client struct {
	conn *net.UnixConn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer
	ended   bool
}

type answer struct {
	message
	fds []int
}

// ErrEnded says that there is no auditor behind the door any more. Every method may
// return it.
var ErrEnded = errors.New("the auditor has ended")

// NewClient takes the door over.
func NewClient(door *os.File) (*Client, error) {
	defer door.Close() // FileConn has its own
	conn, err := net.FileConn(door)
	if err != nil {
		return nil, fmt.Errorf("the door to the auditor: %w", err)
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("the door to the auditor is no Unix socket")
	}
	// What a server that died has asked may still be answered: those numbers are others.
	return &Client{conn: packets, next: rand.Uint64() >> 1, waiting: map[uint64]chan answer{}}, nil
}

// Run hears answers until the auditor ends or Close is called.
func (c *Client) Run() error {
	defer c.end()
	text, control := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, size, _, _, err := c.conn.ReadMsgUnix(text, control)
		if err != nil || n == 0 {
			return ErrEnded
		}
		fds, err := descriptors(control[:size])
		if err != nil {
			return fmt.Errorf("hearing the auditor: %w", err)
		}
		var m message
		if err := json.Unmarshal(text[:n], &m); err != nil {
			closeAll(fds)
			return fmt.Errorf("hearing the auditor: %w", err)
		}
		c.mu.Lock()
		to := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if to == nil { // who has asked does not wait any more
			closeAll(fds)
			continue
		}
		to <- answer{m, fds}
	}
}

// end tells those who wait.
func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for id, to := range c.waiting {
		close(to)
		delete(c.waiting, id)
	}
}

// Close ends Run. The auditor ends unless somebody else holds the door too.
func (c *Client) Close() { c.conn.Close() }

// sendPatience is how long there may be no room for a message: an auditor that is
// stopped is no reason to wait.
const sendPatience = 100 * time.Millisecond

func (c *Client) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(sendPatience)) // a socket has deadlines
	if _, _, err := c.conn.WriteMsgUnix(b, rights, nil); err != nil {
		return fmt.Errorf("telling the auditor: %w", err)
	}
	return nil
}

func (c *Client) ask(ctx context.Context, m message, fds ...int) (answer, error) {
	to := make(chan answer, 1)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return answer{}, ErrEnded
	}
	m.ID = c.next
	c.next++
	c.waiting[m.ID] = to
	c.mu.Unlock()
	if err := c.send(m, fds...); err != nil {
		c.forget(m.ID)
		return answer{}, err
	}
	select {
	case a, ok := <-to:
		switch {
		case !ok:
			return answer{}, ErrEnded
		case a.Error != nil:
			closeAll(a.fds)
			return answer{}, a.Error
		}
		return a, nil
	case <-ctx.Done():
		c.forget(m.ID)
		return answer{}, fmt.Errorf("the auditor does not answer: %w", ctx.Err())
	}
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// Begin watches the file system of a directory. Opens through the mount that the
// descriptor is of are not reported: it is the server's own. group is a descriptor that
// an earlier Begin has returned, with what is queued there; -1 for none. The result is
// the caller's, and what opens are queued in: as long as somebody has it, none is lost
// while there is no auditor.
func (c *Client) Begin(ctx context.Context, dir *os.File, group int) (int, error) {
	fds := []int{int(dir.Fd())}
	if group >= 0 {
		fds = append(fds, group)
	}
	a, err := c.ask(ctx, message{Ask: askBegin}, fds...)
	if err != nil {
		return -1, err
	}
	if len(a.fds) != 1 {
		closeAll(a.fds)
		return -1, errors.New("the auditor has answered without a group")
	}
	return a.fds[0], nil
}

// Configure says what is written, and where to. An *Error says that it cannot be
// written there now; the auditor goes on trying.
func (c *Client) Configure(ctx context.Context, o Options) error {
	_, err := c.ask(ctx, message{Ask: askConfigure, Options: &o})
	return err
}

// Files says which files come and which go. With reset there are no others. It has to
// return before the files can be opened; it does not wait for the auditor.
func (c *Client) Files(reset bool, come []File, gone []uint64) error {
	f, err := beside(tally{Reset: reset, Files: come, Gone: gone})
	if err != nil {
		return fmt.Errorf("telling the auditor: %w", err)
	}
	defer f.Close()
	return c.send(message{Ask: askFiles}, int(f.Fd()))
}

// Report asks how things are.
func (c *Client) Report(ctx context.Context) (Report, error) {
	a, err := c.ask(ctx, message{Ask: askReport})
	if err != nil {
		return Report{}, err
	}
	closeAll(a.fds)
	if a.Report == nil {
		return Report{}, errors.New("the auditor has answered without a report")
	}
	return *a.Report, nil
}

// Readers are the running processes that have opened a key of a certificate, or of any
// if it is "".
func (c *Client) Readers(ctx context.Context, certificate string) (all []Reader, err error) {
	a, err := c.ask(ctx, message{Ask: askReaders, Certificate: certificate})
	if err != nil {
		return nil, err
	}
	if len(a.fds) != 1 {
		closeAll(a.fds)
		return nil, errors.New("the auditor has answered without the readers")
	}
	if err := readBeside(a.fds[0], &all); err != nil {
		return nil, fmt.Errorf("reading what the auditor says: %w", err)
	}
	return all, nil
}
