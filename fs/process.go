package fs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Publisher brings about a process that runs RunPublisher below dir, which stays the
// caller's. What the process says before it dies goes to log. The connection carries
// plans one way and answers the other; its Close ends the process, for which the
// server must still answer.
type Publisher func(dir *os.File, log io.Writer) (Connection, error)

// Connection to a publisher.
type Connection interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// process is a publisher as its server sees it.
type process struct {
	conn    Connection
	answers *json.Decoder
	pid     int
	thread  uint32
}

// helloPatience is how long a publisher may take to begin. systemd starts one for a
// connection, which may take a while when the machine does.
const helloPatience = 10 * time.Second

func startPublisher(by Publisher, dir *os.File, log io.Writer) (*process, error) {
	conn, err := by(dir, log)
	if err != nil {
		return nil, fmt.Errorf("starting the publisher: %w", err)
	}
	p := &process{conn: conn, answers: json.NewDecoder(bufio.NewReader(conn))}
	var h hello
	err = conn.SetReadDeadline(time.Now().Add(helloPatience))
	if err == nil {
		err = p.answers.Decode(&h)
	}
	if err == nil && h.Thread <= 0 {
		err = errors.New("no thread")
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("starting the publisher: it did not say hello: %w", err)
	}
	p.pid, p.thread = h.Process, uint32(h.Thread)
	return p, nil
}

// PublisherCommand starts publishers as children. The command has to run RunPublisher
// on its standard input and output, with the directory as descriptor 3. It gets no
// other descriptor of ours: all are close-on-exec.
func PublisherCommand(name string, args ...string) Publisher {
	return func(dir *os.File, log io.Writer) (Connection, error) {
		cmd := exec.Command(name, args...)
		cmd.ExtraFiles = []*os.File{dir}
		cmd.Stderr = log
		// Out of the terminal's process group: an interrupt there must not kill the
		// publisher in the middle of a plan. It ends when its input does.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		plans, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		answers, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		c := &child{cmd: cmd, plans: plans, answers: answers.(*os.File)}
		c.end = sync.OnceValue(c.wait)
		return c, nil
	}
}

// child is a connection to a publisher that is a child of this process.
type child struct {
	cmd     *exec.Cmd
	plans   io.WriteCloser
	answers *os.File
	end     func() error
}

var _ Connection = (*child)(nil)

func (c *child) Write(b []byte) (int, error)       { return c.plans.Write(b) }
func (c *child) Read(b []byte) (int, error)        { return c.answers.Read(b) }
func (c *child) SetReadDeadline(t time.Time) error { return c.answers.SetReadDeadline(t) }
func (c *child) Close() error                      { return c.end() }

// How long a publisher may take to end by itself.
const publisherPatience = 2 * time.Second

func (c *child) wait() error {
	c.plans.Close()
	late := time.AfterFunc(publisherPatience, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	return c.cmd.Wait()
}

// PublisherAt connects to publishers that somebody else starts, one for each
// connection to a Unix socket, with ReceiveDirectory. Only root, or the user of this
// process, may be the one who listens.
func PublisherAt(socket string) Publisher {
	return func(dir *os.File, _ io.Writer) (Connection, error) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			return nil, err
		}
		if err := handOver(conn, dir); err != nil {
			conn.Close()
			return nil, fmt.Errorf("at %s: %w", socket, err)
		}
		return conn, nil
	}
}

// handOver sends the directory to whom it is for.
func handOver(conn *net.UnixConn, dir *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || credErr != nil {
		return errors.Join(err, credErr)
	}
	if peer.Uid != 0 && peer.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("user %d listens, not root", peer.Uid)
	}
	_, _, err = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(dir.Fd())), nil)
	return err
}

// errPublisherDied says that the publisher ended in the middle of a plan.
var errPublisherDied = errors.New("the publisher process died")

// carryOut hands over a plan and waits until it is done.
func (p *process) carryOut(plan []step) error {
	if err := json.NewEncoder(p.conn).Encode(plan); err != nil {
		return fmt.Errorf("%w: %w", errPublisherDied, err)
	}
	var d done
	if err := p.answers.Decode(&d); err != nil {
		return fmt.Errorf("%w: %w", errPublisherDied, err)
	}
	if d.Error != "" {
		return fmt.Errorf("publishing (step %d of %d): %s", d.Steps+1, len(plan), d.Error)
	}
	return nil
}

// stop ends the publisher. The server must still answer, or a publisher that
// waits for it could not end.
func (p *process) stop() {
	_ = p.conn.Close() // how it ends is of no interest any more
}
