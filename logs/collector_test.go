package logs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// collector is a server of the forward protocol as a test wants it, with a decoder of MessagePack of its own: what it does
// not know it refuses.
type collector struct {
	t        testing.TB
	target   Target
	listener net.Listener
	behave   behaviour

	mu       sync.Mutex
	conns    []net.Conn
	events   []event
	chunks   []string // of all messages
	more     chan struct{}
	accepted int
	ended    chan struct{} // closed when it is stopped
	work     sync.WaitGroup
}

// behaviour of a collector for each connection, counted from 1.
type behaviour func(c *collector, n int, conn net.Conn)

// event as it has arrived.
type event struct {
	tag    string
	time   time.Time
	record map[string]any
}

func collect(t testing.TB, network, address string, behave behaviour) *collector {
	t.Helper()
	c := &collector{t: t, behave: behave}
	c.target = Target{Network: network, Address: address, Tag: "kvfs.test"}
	c.start()
	t.Cleanup(c.stop)
	return c
}

// start listens, at the address that it had before, if it had one.
func (c *collector) start() {
	c.t.Helper()
	l, err := net.Listen(c.target.Network, c.target.Address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.listener, c.target.Address, c.ended = l, l.Addr().String(), make(chan struct{})
	ended := c.ended
	c.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.accepted++
			n := c.accepted
			c.conns = append(c.conns, conn)
			c.mu.Unlock()
			c.work.Go(func() { defer conn.Close(); c.behave(c, n, conn) })
			select {
			case <-ended: // stopped meanwhile
				conn.Close()
			default:
			}
		}
	})
}

// stop ends it as a death does: with all of its connections.
func (c *collector) stop() {
	c.listener.Close()
	c.mu.Lock()
	select {
	case <-c.ended:
	default:
		close(c.ended)
	}
	for _, conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// acknowledging is a collector as it should be.
func acknowledging(c *collector, _ int, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		chunk, err := c.receive(r)
		if err != nil {
			return
		}
		if _, err := conn.Write(ack(chunk)); err != nil {
			return
		}
	}
}

// silent never acknowledges.
func silent(c *collector, _ int, conn net.Conn) {
	for r := bufio.NewReader(conn); ; {
		if _, err := c.receive(r); err != nil {
			return
		}
	}
}

func ack(chunk string) []byte {
	return append([]byte{0x81, 0xa3, 'a', 'c', 'k', 0xd9, byte(len(chunk))}, chunk...)
}

// receive takes one message.
func (c *collector) receive(r *bufio.Reader) (chunk string, err error) {
	v, err := decode(r)
	if err != nil {
		return "", err
	}
	m, ok := v.([]any)
	if !ok || len(m) != 3 {
		c.t.Errorf("not a message: %v", v)
		return "", io.EOF
	}
	option := m[2].(map[string]any)
	chunk = option["chunk"].(string)
	list := m[1].([]any)
	if int64(len(list)) != option["size"] || len(list) == 0 {
		c.t.Errorf("%d events, and the size is said to be %v", len(list), option["size"])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chunks = append(c.chunks, chunk)
	for _, e := range list {
		pair := e.([]any)
		c.events = append(c.events, event{m[0].(string), pair[0].(time.Time), pair[1].(map[string]any)})
	}
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
	return chunk, nil
}

// await returns what has arrived when it is enough.
func (c *collector) await(what string, enough func([]event) bool) []event {
	c.t.Helper()
	late := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		got := append([]event(nil), c.events...)
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		if enough(got) {
			return got
		}
		select {
		case <-more:
		case <-late:
			c.t.Fatalf("%s: %d events have come", what, len(got))
		}
	}
}

func (c *collector) awaitMessage(message string) event {
	c.t.Helper()
	var found event
	c.await("waiting for "+message, func(all []event) bool {
		for _, e := range all {
			if e.record["message"] == message {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (c *collector) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accepted
}

// distinct are the messages without duplicates, in order, which a collector knows by pid and seq.
func distinct(all []event) (messages []string) {
	seen := map[string]bool{}
	for _, e := range all {
		if id := fmt.Sprint(e.record["pid"], e.record["seq"]); !seen[id] {
			seen[id] = true
			messages = append(messages, e.record["message"].(string))
		}
	}
	return messages
}

// decode reads one value of MessagePack.
func decode(r *bufio.Reader) (any, error) {
	b, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	number := func(size int) uint64 {
		buf := make([]byte, 8)
		if _, e := io.ReadFull(r, buf[8-size:]); e != nil {
			err = e
		}
		return binary.BigEndian.Uint64(buf)
	}
	bytes := func(n uint64) []byte {
		buf := make([]byte, min(n, 1<<24))
		if _, e := io.ReadFull(r, buf); e != nil {
			err = e
		}
		return buf
	}
	list := func(n uint64) (any, error) {
		all := []any{}
		for range n {
			v, err := decode(r)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		return all, err
	}
	object := func(n uint64) (any, error) {
		all := map[string]any{}
		for range n {
			k, err := decode(r)
			if err != nil {
				return nil, err
			}
			key, ok := k.(string)
			if _, twice := all[key]; !ok || twice {
				return nil, fmt.Errorf("the key %v is no string, or there twice", k)
			}
			if all[key], err = decode(r); err != nil {
				return nil, err
			}
		}
		return all, err
	}
	switch {
	case b <= 0x7f:
		return int64(b), nil
	case b >= 0xe0:
		return int64(int8(b)), nil
	case b&0xf0 == 0x80:
		return object(uint64(b & 0x0f))
	case b&0xf0 == 0x90:
		return list(uint64(b & 0x0f))
	case b&0xe0 == 0xa0:
		return string(bytes(uint64(b & 0x1f))), err
	}
	switch b {
	case 0xc2, 0xc3:
		return b == 0xc3, nil
	case 0xcb:
		return math.Float64frombits(number(8)), err
	case 0xcc, 0xcd, 0xce, 0xcf:
		return int64(number(1 << (b - 0xcc))), err
	case 0xd0:
		return int64(int8(number(1))), err
	case 0xd1:
		return int64(int16(number(2))), err
	case 0xd2:
		return int64(int32(number(4))), err
	case 0xd3:
		return int64(number(8)), err
	case 0xd7:
		if kind := number(1); kind != 0 {
			return nil, fmt.Errorf("extension %d", kind)
		}
		seconds, nanoseconds := number(4), number(4)
		return time.Unix(int64(seconds), int64(nanoseconds)), err
	case 0xd9:
		return string(bytes(number(1))), err
	case 0xda:
		return string(bytes(number(2))), err
	case 0xdb:
		return string(bytes(number(4))), err
	case 0xdc:
		return list(number(2))
	case 0xde:
		return object(number(2))
	}
	return nil, fmt.Errorf("a value of type %x", b)
}

// testLogs are Logs with short waits, that run until the test ends.
func testLogs(t testing.TB, b Bounds, target Target) (l *Logs, stderr *lines, stop func()) {
	t.Helper()
	b.MinPause, b.MaxPause = time.Millisecond, 50*time.Millisecond
	stderr = &lines{}
	l = New(Options{Stderr: stderr, Format: Text, Level: slog.LevelInfo, Bounds: b})
	l.Configure(Settings{Format: Text, Level: slog.LevelInfo, Target: target})
	return l, stderr, running(t, l)
}

// running runs l until the test ends or stop is called, which waits for its end.
func running(t testing.TB, l *Logs) (stop func()) {
	ended := make(chan struct{})
	ctx, cancel := contextOf(t)
	go func() { defer close(ended); l.Run(ctx) }()
	stop = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// lines is what stderr gets, for a reader that may wait.
type lines struct {
	mu   sync.Mutex
	text []byte
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

func socketPath(t testing.TB) string {
	dir, err := os.MkdirTemp("", "kvfs-logs-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
