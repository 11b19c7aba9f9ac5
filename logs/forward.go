package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tinylib/msgp/msgp"
	"golang.org/x/sys/unix"
)

// Target is a collector. The zero value is none.
type Target struct {
	Network string // "tcp" or "unix"
	Address string // host:port, or the path of the socket
	Tag     string // of all records
}

// Endpoint is the target as the settings write it.
func (t Target) Endpoint() string { return t.Network + "://" + t.Address }

// Bounds of the way to the collector. Zero fields are the defaults.
type Bounds struct {
	Records int // that wait; 16384
	Bytes   int // of those; 8 MiB

	Timeout  time.Duration // for connecting, for sending a message, and for its acknowledgement; 5 s
	MinPause time.Duration // after a failure, which doubles with each one in a row; 250 ms
	MaxPause time.Duration // 10 s
	Last     time.Duration // after the end, for what is left; 2 s
}

func (b Bounds) orDefaults() Bounds {
	return Bounds{cmp.Or(b.Records, 16384), cmp.Or(b.Bytes, 8<<20), cmp.Or(b.Timeout, 5*time.Second),
		cmp.Or(b.MinPause, 250*time.Millisecond), cmp.Or(b.MaxPause, 10*time.Second), cmp.Or(b.Last, 2*time.Second)}
}

const (
	// Of a message.
	maxEvents     = 100
	maxEventBytes = 64 << 10
	// maxSilences is after how many messages in a row that were sent and not acknowledged no acknowledgement is waited for.
	maxSilences = 3
	// greetedPause is how long a collector is left alone that wants a shared key: no try mends that.
	greetedPause = 5 * time.Minute
)

// CollectorStats say how the way to the collector does.
type CollectorStats struct {
	Endpoint, Tag string
	Sent          uint64 // records that it has acknowledged, or taken, if it never acknowledges
	Dropped       uint64 // for want of room, or because kvfs ended or the settings changed
	Waiting       int
	// Unacknowledged is set where the collector takes messages and acknowledges none: what it has not read when it ends
	// is lost, and counts as sent.
	Unacknowledged bool
	// Err is why the last try failed, nil if it did not; LastErr stays, with when it was.
	Err     error
	Hint    string // for Err
	LastErr error
	LastAt  time.Time
}

// forwarder sends records to a collector. put never waits; run does all the rest.
type forwarder struct {
	bounds  Bounds
	trouble func(record) // is told what is wrong with the collector
	wake    chan struct{}
	changed chan struct{} // the target has

	mu      sync.Mutex
	encoder *encoder
	target  Target
	queue   queue
	pending *batch // is sent, or will be again
	gap     uint64 // dropped, and not told to the collector yet
	counts  CollectorStats
	down    time.Time // since when it fails, zero if it does not

	// What follows is run's alone.
	conn      net.Conn
	connected Target
	answers   []byte // read, and not understood yet
	owed      int    // acknowledgements that were not waited for
	failures  int    // in a row
	silences  int    // in a row
	told      bool   // that it never acknowledges
}

func newForwarder(b Bounds, trouble func(record)) *forwarder {
	b = b.orDefaults()
	return &forwarder{bounds: b, trouble: trouble, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		encoder: newEncoder(), queue: queue{most: b.Records, mostBytes: b.Bytes}}
}

// put queues a record. It is dropped if there is no collector.
func (f *forwarder) put(r record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == (Target{}) {
		return
	}
	dropped := uint64(f.queue.push(f.encoder.event(r)))
	f.counts.Dropped += dropped
	f.gap += dropped
	signal(f.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// aim makes t the collector.
func (f *forwarder) aim(t Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t == f.target {
		return
	}
	if f.target = t; t == (Target{}) {
		f.counts.Dropped += uint64(f.waiting())
		f.queue, f.pending, f.gap = queue{most: f.bounds.Records, mostBytes: f.bounds.Bytes}, nil, 0
	}
	f.down, f.counts.Err = time.Time{}, nil // what was said of the one before is nothing of this one
	signal(f.changed)
	signal(f.wake)
}

// waiting is how many records there are.
func (f *forwarder) waiting() int {
	n := f.queue.count
	if f.pending != nil {
		n += len(f.pending.events)
	}
	return n
}

func (f *forwarder) stats() *CollectorStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == (Target{}) {
		return nil
	}
	s := f.counts
	s.Endpoint, s.Tag, s.Waiting = f.target.Endpoint(), f.target.Tag, f.waiting()
	return &s
}

// run sends until ctx ends, and then what is left, for as long as the bounds say, but tries nothing twice any more.
func (f *forwarder) run(ctx context.Context) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(f.bounds.Last, end) })()
	defer f.hangUp()
	for {
		select {
		case <-f.changed: // as what is asked for now has it
		default:
		}
		b, target := f.next()
		if b == nil {
			if ctx.Err() != nil {
				return
			}
			if target == (Target{}) {
				f.hangUp()
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := f.deliver(life, b, target)
		if err == nil {
			f.delivered(b)
			continue
		}
		if ctx.Err() != nil {
			f.abandon(err)
			return
		}
		pause := time.NewTimer(f.failed(err))
		select {
		case <-pause.C:
		case <-f.changed:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// next is the batch to send and where to, nil if there is nothing. A gap is told before what comes after it.
func (f *forwarder) next() (*batch, Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending != nil || f.queue.count == 0 && f.gap == 0 {
		return f.pending, f.target
	}
	b := newBatch()
	if f.gap > 0 {
		b.add(f.encoder.event(note(slog.LevelWarn, "log records were dropped: the collector did not take them in time", "dropped", f.gap)))
		f.gap = 0
	}
	for e := f.queue.peek(); e != nil && len(b.events) < maxEvents && (len(b.events) == 0 || b.bytes+len(e) <= maxEventBytes); e = f.queue.peek() {
		b.add(e)
		f.queue.pop()
	}
	f.pending = b
	return b, f.target
}

// delivered forgets a batch.
func (f *forwarder) delivered(b *batch) {
	f.mu.Lock()
	down := f.down
	if f.pending == b { // it may have been dropped meanwhile, with the collector
		f.pending = nil
	}
	f.counts.Sent += uint64(len(b.events))
	f.counts.Err, f.down = nil, time.Time{}
	endpoint, dropped := f.target.Endpoint(), f.gap
	f.mu.Unlock()
	f.failures = 0
	if !down.IsZero() {
		f.trouble(note(slog.LevelInfo, "the log collector takes records again", "endpoint", endpoint,
			"after", time.Since(down).Round(time.Millisecond), "dropped", dropped))
	}
}

// failed says so, once for an outage, and returns how long to wait.
func (f *forwarder) failed(err error) time.Duration {
	f.hangUp()
	f.mu.Lock()
	first := f.down.IsZero()
	if first {
		f.down = time.Now()
	}
	f.counts.Err, f.counts.Hint, f.counts.LastErr, f.counts.LastAt = err, hintFor(err), err, time.Now()
	endpoint := f.target.Endpoint()
	f.mu.Unlock()
	if first {
		f.trouble(note(slog.LevelWarn, "records cannot be sent to the log collector; the newest wait in memory", "endpoint", endpoint, "err", err,
			"hint", hintFor(err)))
	}
	f.failures++
	if errors.Is(err, errSharedKey) {
		return greetedPause
	}
	return jittered(pauseAfter(f.failures, f.bounds.MinPause, f.bounds.MaxPause))
}

func hintFor(err error) string {
	switch {
	case errors.Is(err, errSharedKey):
		return "take security.shared_key from the collector's input; it is asked again in 5 minutes, or when the settings change"
	case errors.Is(err, errSilent):
		return "see whether the collector is overloaded; records are sent again until it acknowledges them"
	}
	return "start the collector, or change loggingSettings.endpoint; it is tried again by itself"
}

// pauseAfter so many failures in a row.
func pauseAfter(failures int, least, most time.Duration) time.Duration {
	d := least
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// jittered keeps a fleet from coming back all at once.
func jittered(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

// abandon counts and says what is left at the end.
func (f *forwarder) abandon(err error) {
	f.mu.Lock()
	left, endpoint := f.waiting(), f.target.Endpoint()
	f.counts.Dropped += uint64(left)
	f.queue, f.pending = queue{most: f.bounds.Records, mostBytes: f.bounds.Bytes}, nil
	f.mu.Unlock()
	if left > 0 {
		f.trouble(note(slog.LevelWarn, "the log collector did not take everything before the end", "endpoint", endpoint, "records", left, "err", err))
	}
}

// errSilent is a collector that takes messages and does not answer.
var errSilent = errors.New("the collector does not acknowledge what it was sent")

// deliver sends a batch and waits for its acknowledgement. It ends soon after ctx does.
func (f *forwarder) deliver(ctx context.Context, b *batch, t Target) error {
	if f.conn != nil && (f.connected != t || !f.usable()) {
		f.hangUp()
	}
	if f.conn == nil {
		if err := f.dial(ctx, t); err != nil {
			return err
		}
	}
	conn := f.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	_ = conn.SetDeadline(time.Now().Add(f.bounds.Timeout))
	if ctx.Err() != nil { // it may have ended before that deadline was set
		return ctx.Err()
	}
	if _, err := conn.Write(b.message(t.Tag)); err != nil {
		f.silences = 0 // it does not read: that it does not answer means nothing
		f.acknowledges(true)
		return fmt.Errorf("sending to the collector: %w", err)
	}
	if f.unacknowledged() {
		f.owed++
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(f.bounds.Timeout))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := f.await(b.chunk)
	if errors.Is(err, errSilent) && ctx.Err() == nil {
		if f.silences++; f.silences >= maxSilences {
			f.acknowledges(false)
		}
	} else {
		f.silences = 0
	}
	return err
}

// acknowledges notes whether the collector does. That it does not is said once.
func (f *forwarder) acknowledges(yes bool) {
	f.mu.Lock()
	f.counts.Unacknowledged = !yes
	endpoint := f.target.Endpoint()
	f.mu.Unlock()
	if yes || f.told {
		return
	}
	f.told = true
	f.trouble(note(slog.LevelWarn, "the log collector acknowledges nothing; records are sent without waiting for that, and may be lost when it ends", "endpoint", endpoint))
}

func (f *forwarder) unacknowledged() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts.Unacknowledged
}

// dial connects. Of a name with several addresses all are tried.
func (f *forwarder) dial(ctx context.Context, t Target) error {
	d := net.Dialer{Timeout: f.bounds.Timeout}
	conn, err := d.DialContext(ctx, t.Network, t.Address)
	if err != nil {
		return fmt.Errorf("connecting to the collector: %w", err)
	}
	if f.connected.Network != t.Network || f.connected.Address != t.Address {
		f.silences, f.told = 0, false
		f.acknowledges(true)
	}
	f.conn, f.connected, f.answers, f.owed = conn, t, nil, 0
	return nil
}

func (f *forwarder) hangUp() {
	if f.conn != nil {
		_ = f.conn.Close() // what was not acknowledged is sent again
		f.conn = nil
	}
}

// usable tells whether an idle connection is still good. The first write to one that the other side has closed would
// succeed, and what was written be lost. Acknowledgements that were not waited for show that the collector sends some.
func (f *forwarder) usable() bool {
	for {
		more, err := f.readNow()
		if err != nil {
			return false
		}
		for {
			_, rest, err := parseAnswer(f.answers)
			if errors.Is(err, msgp.ErrShortBytes) && len(f.answers) < maxAnswer {
				break
			}
			if err != nil || f.owed == 0 {
				return false
			}
			f.owed--
			f.answers, f.silences = rest, 0
			f.acknowledges(true)
		}
		if !more {
			return true
		}
	}
}

// readNow reads what has come already, without waiting. An error says that nothing will come any more.
func (f *forwarder) readNow() (more bool, err error) {
	raw, err := f.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return false, err
	}
	_ = f.conn.SetDeadline(time.Time{})
	buf, n := make([]byte, maxAnswer), 0
	var got error
	err = raw.Read(func(fd uintptr) bool {
		n, _, got = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		return true
	})
	switch {
	case err != nil:
		return false, err
	case got == unix.EAGAIN || got == unix.EINTR:
		return false, nil
	case got != nil:
		return false, got
	case n == 0:
		return false, errors.New("the collector has closed the connection")
	}
	f.answers = append(f.answers, buf[:n]...)
	return true, nil
}

// await reads until the chunk is acknowledged.
func (f *forwarder) await(chunk string) error {
	buf := make([]byte, maxAnswer)
	for {
		ack, rest, err := parseAnswer(f.answers)
		switch {
		case err == nil && ack == chunk:
			f.answers = rest
			return nil
		case err == nil && f.owed > 0:
			f.answers = rest
			f.owed--
			continue
		case err == nil:
			return fmt.Errorf("%w: it acknowledges what it was not sent", errStrange)
		case !errors.Is(err, msgp.ErrShortBytes):
			return err
		case len(f.answers) >= maxAnswer:
			return errStrange
		}
		n, err := f.conn.Read(buf)
		f.answers = append(f.answers, buf[:n]...)
		switch {
		case n > 0 || err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && len(f.answers) == 0:
			return errSilent
		default:
			return fmt.Errorf("waiting for the collector's acknowledgement: %w", err)
		}
	}
}
