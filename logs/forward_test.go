package logs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func contextOf(t testing.TB) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// await waits until stderr has a text.
func (l *lines) await(t testing.TB, text string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		found := strings.Contains(string(l.text), text)
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("nobody said %q:\n%s", text, l)
		}
	}
}

func numbered(l *Logs, from, to int) {
	for i := from; i < to; i++ {
		l.Logger().Info(fmt.Sprint("record ", i))
	}
}

// wantNumbered checks that the records are there, all and in order, whatever is between them.
func wantNumbered(t testing.TB, got []string, from, to int) {
	t.Helper()
	got = slices.DeleteFunc(slices.Clone(got), func(m string) bool { return !strings.HasPrefix(m, "record ") })
	for i := from; i < to; i++ {
		if i-from >= len(got) || got[i-from] != fmt.Sprint("record ", i) {
			t.Fatalf("record %d is not where it should be in %d records", i, len(got))
		}
	}
	if len(got) != to-from {
		t.Fatalf("%d records, want %d", len(got), to-from)
	}
}

func has(message string) func([]event) bool {
	return func(all []event) bool {
		return slices.ContainsFunc(all, func(e event) bool { return e.record["message"] == message })
	}
}

func TestRecordsArriveWithTheirFields(t *testing.T) {
	for _, at := range []struct{ network, address string }{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"unix", socketPath(t)}} {
		t.Run(at.network+" "+at.address, func(t *testing.T) {
			c := collect(t, at.network, at.address, acknowledging)
			l, _, _ := testLogs(t, Bounds{}, c.target)
			before := time.Now()
			const url = "https://contoso-web.vault.azure.net/secrets/www"
			l.Logger().With("url", url+"/0123456789abcdef0123456789abcdef").WithGroup("g").Warn("refresh failed", "err", errors.New("it broke"),
				"n", -5, "big", uint64(1)<<63-1, "f", 0.5, "yes", true, "took", 90*time.Second, slog.Group("in", "x", 1))
			e := c.awaitMessage("refresh failed")
			host, _ := os.Hostname()
			want := map[string]any{"message": "refresh failed", "level": "WARN", "certificate": url, "version": "0123456789abcdef0123456789abcdef",
				"g.err": "it broke", "g.n": int64(-5), "g.big": int64(1<<63 - 1), "g.f": 0.5, "g.yes": true, "g.took": "1m30s", "g.in.x": int64(1),
				"pid": int64(os.Getpid()), "hostname": host, "seq": int64(1)}
			if fmt.Sprint(e.record) != fmt.Sprint(want) {
				t.Errorf("got  %v\nwant %v", e.record, want)
			}
			if e.tag != "kvfs.test" || e.time.Before(before) || time.Since(e.time) > time.Minute || e.time.Nanosecond() == 0 {
				t.Errorf("tag %q, time %v", e.tag, e.time)
			}
			l.Logger().Error("two", "err", "plain", "message", "mine", "url", url, "version", "v", "a", 1, "a", 2)
			e = c.awaitMessage("two")
			if e.record["error"] != "plain" || e.record["attr.message"] != "mine" || e.record["certificate"] != url || e.record["version"] != "v" || e.record["a"] != int64(2) {
				t.Errorf("%v", e.record)
			}
		})
	}
}

func TestOddStringsArrive(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	l, _, _ := testLogs(t, Bounds{}, c.target)
	odd := []string{"", "\"quoted\" 'twice'", "two\nlines\r\n", "\xff\xfe and \xc3", "\x00\x01", "ü 世界 😀", strings.Repeat("x", 31), strings.Repeat("y", 300), strings.Repeat("z", 100_000)}
	for i, s := range odd {
		l.Logger().Info(fmt.Sprint("record ", i), "text", s)
	}
	l.Logger().Info(odd[3])
	got := c.await("odd strings", has("\uFFFD and \uFFFD"))
	for i, s := range odd {
		want := strings.ToValidUTF8(s, "\uFFFD")
		if len(want) > maxValue {
			want = want[:maxValue] + "..."
		}
		if got[i].record["text"] != want {
			t.Errorf("%q arrived as %.100q", s, got[i].record["text"])
		}
	}
}

func TestCollectorThatComesLater(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	c.stop()
	l, stderr, _ := testLogs(t, Bounds{}, c.target)
	numbered(l, 0, 10)
	stderr.await(t, "records cannot be sent to the log collector")
	if s := l.Stats().Collector; s.Err == nil || s.Waiting != 10 || s.Sent != 0 || s.LastAt.IsZero() || s.Hint == "" {
		t.Errorf("%+v", s)
	}
	c.start()
	wantNumbered(t, distinct(c.await("record 9", has("record 9"))), 0, 10)
	stderr.await(t, "the log collector takes records again")
	for l.Stats().Collector.Waiting > 0 { // the last acknowledgements are on their way
		time.Sleep(time.Millisecond)
	}
	if s := l.Stats().Collector; s.Err != nil || s.Waiting != 0 || s.Sent != 10 || s.Dropped != 0 || s.LastErr == nil {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(stderr.String(), "records cannot be sent"); n != 1 {
		t.Errorf("one outage was said %d times", n)
	}
	if strings.Contains(fmt.Sprint(distinct(c.events)), "collector") {
		t.Error("the sender's own troubles were sent")
	}
}

func TestCollectorThatIsRestartedMissesNothing(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	l, _, _ := testLogs(t, Bounds{}, c.target)
	for i := range 15 {
		numbered(l, 20*i, 20*i+20)
		c.awaitMessage(fmt.Sprint("record ", 20*i)) // in the middle of them
		c.stop()
		c.start()
	}
	wantNumbered(t, distinct(c.await("record 299", has("record 299"))), 0, 300)
}

// The connection is closed by a collector that had nothing to do, as by one that is restarted at night.
func TestIdleConnectionThatWasClosedLosesNothing(t *testing.T) {
	closed := make(chan struct{}, 10)
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		chunk, err := c.receive(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = conn.Write(ack(chunk))
		conn.Close()
		closed <- struct{}{}
	})
	l, _, _ := testLogs(t, Bounds{}, c.target)
	for i := range 5 {
		numbered(l, i, i+1)
		c.awaitMessage(fmt.Sprint("record ", i))
		<-closed
	}
	wantNumbered(t, distinct(c.events), 0, 5)
}

// Nor does it where no acknowledgement would tell: what is written to a connection that the other side has closed is gone.
func TestIdleConnectionThatWasClosedLosesNothingWithoutAcknowledgements(t *testing.T) {
	closed := make(chan struct{}, 10)
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		if n <= maxSilences {
			silent(c, n, conn)
			return
		}
		_, _ = c.receive(bufio.NewReader(conn))
		conn.Close()
		closed <- struct{}{}
	})
	l, stderr, _ := testLogs(t, Bounds{Timeout: 50 * time.Millisecond}, c.target)
	numbered(l, 0, 1)
	stderr.await(t, "acknowledges nothing")
	for i := 1; i < 6; i++ {
		<-closed
		numbered(l, i, i+1)
		c.awaitMessage(fmt.Sprint("record ", i))
	}
	wantNumbered(t, distinct(c.events), 0, 6)
}

func TestSameChunkIsSentAgainUntilItIsAcknowledged(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		if n > 2 {
			acknowledging(c, n, conn)
			return
		}
		_, _ = c.receive(bufio.NewReader(conn)) // and closes without a word
	})
	l, _, _ := testLogs(t, Bounds{}, c.target)
	numbered(l, 0, 1)
	got := c.await("three times", func(all []event) bool { return len(all) >= 3 })
	if len(got) != 3 || c.chunks[0] != c.chunks[1] || c.chunks[1] != c.chunks[2] {
		t.Errorf("%d events in the chunks %v", len(got), c.chunks)
	}
	numbered(l, 1, 2)
	c.awaitMessage("record 1")
	if last := c.chunks[len(c.chunks)-1]; last == c.chunks[0] {
		t.Error("another message has the same chunk")
	}
}

func TestCollectorThatNeverAcknowledges(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", silent)
	l, stderr, _ := testLogs(t, Bounds{Timeout: 50 * time.Millisecond}, c.target)
	numbered(l, 0, 1)
	stderr.await(t, "acknowledges nothing")
	numbered(l, 1, 200)
	wantNumbered(t, distinct(c.await("record 199", has("record 199"))), 0, 200)
	if s := l.Stats().Collector; !s.Unacknowledged || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(stderr.String(), "acknowledges nothing"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// One that was only slow acknowledges later: from then on that is waited for again.
func TestLateAcknowledgementsCount(t *testing.T) {
	late := make(chan struct{})
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			chunk, err := c.receive(r)
			if err != nil {
				return
			}
			if n > maxSilences {
				<-late
				_, _ = conn.Write(ack(chunk))
			}
		}
	})
	l, stderr, _ := testLogs(t, Bounds{Timeout: 50 * time.Millisecond}, c.target)
	numbered(l, 0, 1)
	stderr.await(t, "acknowledges nothing")
	close(late)
	for i := 1; l.Stats().Collector.Unacknowledged; i++ {
		numbered(l, i, i+1)
		c.awaitMessage(fmt.Sprint("record ", i))
		if i > 1000 {
			t.Fatal("it acknowledges, and nobody listens")
		}
	}
}

func TestCollectorThatNeverReads(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, _ int, _ net.Conn) { <-c.ended })
	l, stderr, stop := testLogs(t, Bounds{Timeout: 30 * time.Millisecond, Records: 1000, Last: 100 * time.Millisecond}, c.target)
	numbered(l, 0, 5000)
	stderr.await(t, "records cannot be sent")
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	if s := l.Stats().Collector; s.Waiting != 0 || s.Sent+s.Dropped < 5000 {
		t.Errorf("%+v", s)
	}
}

func TestWrongAnswersCloseTheConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"wrong ack": string(ack("another")), "no ack": "\x81\xa1a\x01", "text": "HTTP/1.1 400 Bad Request\r\n\r\n", "empty map": "\x80", "array": "\x91\x01",
		"endless": "\x81\xa3ack\xdb\xff\xff\xff\xff" + strings.Repeat("x", 2*maxAnswer), "deep": strings.Repeat("\x81\xa1a", maxAnswer),
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
				r := bufio.NewReader(conn)
				for {
					chunk, err := c.receive(r)
					if err != nil {
						return
					}
					if n == 1 {
						_, _ = conn.Write([]byte(answer))
						continue
					}
					_, _ = conn.Write(ack(chunk))
				}
			})
			l, stderr, _ := testLogs(t, Bounds{Timeout: time.Hour}, c.target) // nothing is to be waited for
			numbered(l, 0, 3)
			wantNumbered(t, distinct(c.await("record 2", has("record 2"))), 0, 3)
			stderr.await(t, "takes records again")
			if c.connections() < 2 {
				t.Error("the connection was used on")
			}
		})
	}
}

func TestAcknowledgementInPieces(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		for r := bufio.NewReader(conn); ; {
			chunk, err := c.receive(r)
			if err != nil {
				return
			}
			for _, b := range ack(chunk) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
		}
	})
	l, _, stop := testLogs(t, Bounds{}, c.target)
	numbered(l, 0, 3)
	c.await("record 2", has("record 2"))
	stop()
	if s := l.Stats().Collector; s.Sent != 3 || s.Dropped != 0 || c.connections() != 1 {
		t.Errorf("%+v after %d connections", s, c.connections())
	}
}

func TestCollectorThatWantsASharedKeyIsNamed(t *testing.T) {
	helo := "\x92\xa4HELO\x83\xa5nonce\xc4\x04abcd\xa4auth\xa0\xa9keepalive\xc3"
	c := collect(t, "tcp", "127.0.0.1:0", func(c *collector, n int, conn net.Conn) {
		_, _ = conn.Write([]byte(helo))
		_, _ = conn.Read(make([]byte, 1)) // and hangs up, since that is no PING
	})
	l, stderr, stop := testLogs(t, Bounds{}, c.target)
	numbered(l, 0, 1)
	stderr.await(t, "asks for a shared key, which is not supported")
	numbered(l, 1, 3)
	if n := c.connections(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	other := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	l.Configure(Settings{Format: Text, Target: other.target})
	wantNumbered(t, distinct(other.await("record 2", has("record 2"))), 0, 3)
	stop()
}

func TestEndlessOutageIsBounded(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	c.stop()
	l, stderr, stop := testLogs(t, Bounds{Records: 100, Bytes: 1 << 20}, c.target)
	numbered(l, 0, 1)
	stderr.await(t, "records cannot be sent")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	big := strings.Repeat("x", 10_000)
	for i := range 20_000 {
		l.forwarder.put(note(slog.LevelInfo, fmt.Sprint("record ", i+1), "text", big))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("%d bytes are held", grown)
	}
	s := l.Stats().Collector
	if s.Waiting > 101 || s.Dropped != uint64(20_001-s.Waiting) {
		t.Errorf("%+v", s)
	}
	c.start()
	got := c.await("the last", has("record 20000"))
	// What was on its way first, then what tells of the gap, and then the newest.
	messages := distinct(got)
	if messages[0] != "record 0" || !strings.HasPrefix(messages[1], "log records were dropped") || got[1].record["dropped"] != int64(s.Dropped) {
		t.Errorf("begins with %q, %v", messages[:2], got[1].record)
	}
	wantNumbered(t, messages[2:], 20_001-len(messages)+2, 20_001)
	stderr.await(t, fmt.Sprintf("dropped=%d", s.Dropped))
	c.stop()
	numbered(l, 0, 50)
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	stderr.await(t, "did not take everything before the end")
}

func TestBurstArrivesInOrder(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	l, _, stop := testLogs(t, Bounds{}, c.target)
	numbered(l, 0, 10_000)
	stop()
	if s := l.Stats().Collector; s.Sent != 10_000 || s.Dropped != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	wantNumbered(t, distinct(c.events), 0, 10_000)
	if len(c.chunks) > 1000 {
		t.Errorf("%d messages for 10,000 records", len(c.chunks))
	}
}

func TestEndIsBoundedWithEveryCollector(t *testing.T) {
	for name, behave := range map[string]behaviour{"never reads": func(c *collector, _ int, _ net.Conn) { <-c.ended }, "never acknowledges": silent} {
		t.Run(name, func(t *testing.T) {
			c := collect(t, "tcp", "127.0.0.1:0", behave)
			l, _, stop := testLogs(t, Bounds{Timeout: time.Hour, Last: 50 * time.Millisecond}, c.target)
			numbered(l, 0, 10)
			for c.connections() == 0 { // it waits for an hour then
				runtime.Gosched()
			}
			stop()
			if s := l.Stats().Collector; s.Dropped != 10 || s.Waiting != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestSettingsMoveTheSender(t *testing.T) {
	a, b := collect(t, "tcp", "127.0.0.1:0", acknowledging), collect(t, "tcp", "127.0.0.1:0", acknowledging)
	l, _, _ := testLogs(t, Bounds{}, a.target)
	numbered(l, 0, 1)
	a.awaitMessage("record 0")
	b.target.Tag = "another"
	l.Configure(Settings{Format: Text, Target: b.target})
	numbered(l, 1, 2)
	if e := b.awaitMessage("record 1"); e.tag != "another" {
		t.Errorf("tag %q", e.tag)
	}
	b.stop()
	l.Configure(Settings{Format: Text})
	numbered(l, 2, 3)
	if s := l.Stats(); s.Collector != nil {
		t.Errorf("%+v", s.Collector)
	}
	l.Configure(Settings{Format: Text, Target: a.target})
	numbered(l, 3, 4)
	got := a.await("record 3", has("record 3"))
	if slices.ContainsFunc(got, func(e event) bool { return e.record["message"] == "record 2" }) {
		t.Error("what was logged while there was no collector arrived")
	}
}

func TestPauses(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 6: 8 * time.Second, 7: 10 * time.Second, 1000: 10 * time.Second} {
		if got := pauseAfter(failures, 250*time.Millisecond, 10*time.Second); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := jittered(time.Second)
		least, most = min(least, d), max(most, d)
	}
	if least < 750*time.Millisecond || most > 1250*time.Millisecond || most-least < 300*time.Millisecond {
		t.Errorf("from %v to %v", least, most)
	}
}

// Whatever a collector answers, it is understood, refused, or waited for, and never more than was read.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"", string(ack("x")), "\x92\xa4HELO\x80", "\x81\xa3ack", "\xdf\xff\xff\xff\xff", "\xc1", "\x82\xa1a\x91\x91\x91\xa1b\xa3ack\xa1x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, rest, err := parseAnswer(b)
		if err == nil && len(rest) >= len(b) {
			t.Error("nothing was read")
		}
	})
}
