package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kvfs/emulator"
	"kvfs/status"
)

// Users whom the settings of a test let in, or do not. Nobody has these ids.
const admitted, group, stranger = 4242, 4343, 4444

// Whoever reads during a renewal reads the old version or the new one, and a
// server that is told to reload loses no connection: the promise of the whole.
func TestRenewalUnderLoadLosesNothing(t *testing.T) {
	needRoot(t)
	needProgram(t, "nginx")
	needProgram(t, "haproxy")
	const renewals = 200

	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) {
		d.entry("www")["customSymbolicLinkName"] = "site"
		d.entry("www")["acls"] = []any{map[string]any{"user": admitted}, map[string]any{"group": group}}
	})
	s.mount()
	link, client := s.path("contoso-web.www"), s.client("www.example.com")

	crowds := []*crowd{
		gather(t, startNginx(t, client, link+".pem", link+".keyid")),
		gather(t, startHaproxy(t, client, s.path("site"))),
	}
	readers := map[string]*visitor{
		"root":                visit(t, syscall.Credential{}, "verify", link),
		"root, other link":    visit(t, syscall.Credential{}, "verify", s.path("site")),
		"user of the list":    visit(t, syscall.Credential{Uid: admitted, Gid: stranger}, "verify", link),
		"member of the group": visit(t, syscall.Credential{Uid: stranger, Gid: stranger, Groups: []uint32{group}}, "verify", s.path("site")),
	}
	for who, r := range readers {
		var first tally
		if r.hear(&first); first.Reads != 1 {
			t.Fatalf("%s cannot read: %+v", who, first)
		}
	}
	watch := watchDirectory(t, s.store)

	control, began := status.NewClient(s.socket), time.Now()
	for range renewals {
		version, err := s.vault.Rotate("", "www")
		if err != nil {
			t.Fatal(err)
		}
		if done, err := control.Refresh(t.Context(), []string{"www"}); err != nil || len(done) != 1 || done[0].New != version {
			t.Fatalf("refresh after the renewal to %s: %+v, %v", version, done, err)
		}
		watch.await("contoso-web.www")
		if target, err := os.Readlink(link); err != nil || !strings.HasSuffix(target, version) {
			t.Fatalf("the link leads to %s, %v after the renewal to %s", target, err, version)
		}
		now := leaf(t, link)
		for _, c := range crowds {
			c.server.reload()
		}
		for _, c := range crowds {
			c.await(now)
		}
	}
	took := time.Since(began)

	watch.drain()
	t.Logf("%d renewals in %v", renewals, took.Round(time.Millisecond))
	t.Logf("names moved: %v", watch.moved)
	for _, name := range []string{"contoso-web.www", "site", "contoso-web.www.pem", "contoso-web.www.keyid", "contoso-web.www.luma"} {
		if n := watch.moved[name]; n != renewals {
			t.Errorf("%d events for %s, want one for each renewal", n, name)
		}
	}
	if len(watch.moved) != 5 {
		t.Errorf("events for other names: %v", slices.Sorted(maps.Keys(watch.moved)))
	}
	for who, r := range readers {
		var all tally
		r.leave()
		r.hear(&all)
		t.Logf("reader, %s: %d reads, %d versions, %d failed, %d broken", who, all.Reads, all.Versions, all.Failed, all.Broken)
		if all.Failed+all.Broken > 0 {
			t.Errorf("reader, %s: %s", who, strings.Join(all.Errors, "\n"))
		}
		if all.Versions < 2 {
			t.Errorf("reader, %s: has not seen a renewal", who)
		}
	}
	newest := leaf(t, link)
	for _, c := range crowds {
		visits, failures := c.disperse()
		t.Logf("%s: %d handshakes, %d failed, %d versions shown", c.server.name, visits, len(failures), len(c.met))
		for _, err := range failures[:min(5, len(failures))] {
			t.Errorf("%s: %v", c.server.name, err)
		}
		c.server.await(newest)
	}
}

// A reader that took everything for good would prove nothing.
func TestReadersKnowABrokenFile(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	link := s.path("contoso-web.www")
	old := string(readFile(t, link))
	s.rotate("www")
	good := string(readFile(t, link))
	const begin, key = "-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----"
	part := func(file string, i int) string {
		return begin + strings.Split(file[:strings.Index(file, key)], begin)[i]
	}
	keyOf := func(file string) string { return file[strings.Index(file, key):] }
	chain := func(file string) string { return file[:strings.Index(file, key)] }

	for what, file := range map[string]string{"old version": old, "new version": good} {
		if err := checkCombined([]byte(file)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, file := range map[string]string{
		"empty":                      "",
		"old chain, new key":         chain(old) + keyOf(good),
		"new leaf, then all the old": part(good, 1) + old,
		"cut off in the key":         good[:len(good)-30],
		"cut off before the key":     chain(good),
		"new one cut by the old":     good[:len(good)/2] + old[len(good)/2:],
		"tail of a longer one":       good + old[len(old)-100:],
		"both":                       old + good,
		"no intermediate":            part(good, 1) + part(good, 3) + keyOf(good),
		"root before intermediate":   part(good, 1) + part(good, 3) + part(good, 2) + keyOf(good),
		"key first":                  keyOf(good) + chain(good),
	} {
		if err := checkCombined([]byte(file)); err == nil {
			t.Errorf("%s: taken for good", what)
		}
	}
}

// tally is what a reader has seen.
type tally struct {
	Reads    int
	Versions int
	Failed   int           // opens and reads that returned an error
	Broken   int           // files that are not one chain with its key
	Errors   []string      // the first ones
	Longest  time.Duration // that one took
}

// verifyUntilEOF reads a combined file again and again until its input ends. It
// answers with a tally after the first time and after the last.
func verifyUntilEOF(path string, in io.Reader, out io.Writer) error {
	// What is measured is the store and the servers, not the scheduler.
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10); err != nil {
		return err
	}
	var left atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, in)
		left.Store(true)
	}()
	var n tally
	answer, seen := json.NewEncoder(out), map[string]bool{}
	for !left.Load() {
		began := time.Now()
		data, err := readInPieces(path)
		n.Longest = max(n.Longest, time.Since(began))
		if err != nil {
			n.Failed++
		} else if err = checkCombined(data); err != nil {
			n.Broken++
		} else {
			n.Reads++
			seen[string(data)] = true
			n.Versions = len(seen)
		}
		if err != nil && len(n.Errors) < 5 {
			n.Errors = append(n.Errors, err.Error())
		}
		if n.Reads+n.Failed+n.Broken == 1 {
			if err := answer.Encode(n); err != nil {
				return err
			}
		}
	}
	return answer.Encode(n)
}

// readInPieces gives a renewal several chances to come in between.
func readInPieces(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for piece := make([]byte, 500); ; {
		n, err := f.Read(piece)
		data = append(data, piece[:n]...)
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// checkCombined tells what is wrong with a file that should be a leaf, its
// issuers in order, and the leaf's key.
func checkCombined(data []byte) error {
	if _, err := tls.X509KeyPair(data, data); err != nil {
		return err
	}
	var chain []*x509.Certificate
	rest := data
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return errors.New("the file does not end in a key")
		}
		if b.Type == "PRIVATE KEY" {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return err
		}
		chain = append(chain, c)
	}
	if len(chain) != 3 || len(bytes.TrimSpace(rest)) > 0 {
		return fmt.Errorf("%d certificates, and %d bytes behind the key", len(chain), len(rest))
	}
	for i := range 2 {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return fmt.Errorf("certificate %d is not certified by the next: %w", i, err)
		}
	}
	return nil
}

// crowd are clients that connect to a server one after the other.
type crowd struct {
	server *tlsServer
	stop   atomic.Bool
	ended  sync.WaitGroup

	mu       sync.Mutex
	came     *sync.Cond
	visits   int
	failures []error
	met      map[string]bool // certificates that were shown
}

// gather sends clients to a server until disperse, or the end of the test.
func gather(t testing.TB, server *tlsServer) *crowd {
	c := &crowd{server: server, met: map[string]bool{}}
	c.came = sync.NewCond(&c.mu)
	for range 2 {
		c.ended.Go(func() {
			for !c.stop.Load() {
				c.record(server.get())
			}
		})
	}
	t.Cleanup(func() { c.disperse() })
	return c
}

func (c *crowd) record(shown *x509.Certificate, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.visits++
	if err != nil {
		c.failures = append(c.failures, err)
		return
	}
	c.met[string(shown.Raw)] = true
	c.came.Broadcast()
}

// await waits until somebody was shown a certificate.
func (c *crowd) await(leaf *x509.Certificate) {
	c.server.t.Helper()
	ctx, cancel := context.WithTimeout(c.server.t.Context(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.came.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.met[string(leaf.Raw)] && ctx.Err() == nil {
		c.came.Wait()
	}
	if !c.met[string(leaf.Raw)] {
		c.server.t.Fatalf("%s never shows the certificate %x after %d visits, %d failed: %v", c.server.name, leaf.SerialNumber, c.visits, len(c.failures), c.failures[:min(5, len(c.failures))])
	}
}

// disperse waits for the last visits.
func (c *crowd) disperse() (visits int, failures []error) {
	c.stop.Store(true)
	c.ended.Wait()
	return c.visits, c.failures
}

// directoryWatch counts the names that are moved to in a directory.
type directoryWatch struct {
	t     testing.TB
	fd    int
	moved map[string]int
}

func watchDirectory(t testing.TB, dir string) *directoryWatch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		t.Fatalf("watching %s: %v", dir, err)
	}
	return &directoryWatch{t: t, fd: fd, moved: map[string]int{}}
}

// await waits for the next time that a name is moved to.
func (w *directoryWatch) await(name string) {
	w.t.Helper()
	for n := w.moved[name]; w.moved[name] == n; {
		if !w.read(30 * time.Second) {
			w.t.Fatalf("no event for %s, only %v", name, w.moved)
		}
	}
}

// drain takes the events that are there already.
func (w *directoryWatch) drain() {
	for w.read(0) {
	}
}

// read takes the next events, or returns false if none comes in time.
func (w *directoryWatch) read(patience time.Duration) bool {
	w.t.Helper()
	buf := make([]byte, 16<<10)
	var n int
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if err == nil && ready == 0 {
			return false
		}
		if err == nil {
			n, err = unix.Read(w.fd, buf)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			w.t.Fatal("reading events:", err)
		}
	}
	for b := buf[:n]; len(b) > 0; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := unix.SizeofInotifyEvent + int(e.Len)
		switch {
		case e.Mask&unix.IN_MOVED_TO != 0:
			w.moved[strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")]++
		default:
			w.t.Fatalf("event %#x of the directory", e.Mask) // lost events, or a lost mount
		}
		b = b[end:]
	}
	return true
}
