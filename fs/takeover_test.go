package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/image"
	"kvfs/tree"
)

// line is a line of servers, of which each takes over from the one before. It keeps
// what a keeper keeps.
type line struct {
	t     testing.TB
	store string
	fds   map[string]int
	opts  Options

	f    *FS
	stop func() // ends its Serve, as death does: nothing is taken away
}

func newLine(t testing.TB, opts Options) *line {
	t.Helper()
	needMount(t)
	base, err := os.MkdirTemp("", "kvfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, store: filepath.Join(base, "store"), fds: map[string]int{}, opts: opts}
	if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(l.store, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(l.store, unix.MNT_DETACH)
		for _, fd := range l.fds {
			unix.Close(fd)
		}
		os.RemoveAll(base)
	})
	return l
}

func (l *line) keep(name string, fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		l.fds[name] = own
	}
	return err
}

func (l *line) drop(name string) error {
	fd, ok := l.fds[name]
	if !ok {
		return fmt.Errorf("%s is not kept", name)
	}
	delete(l.fds, name)
	return unix.Close(fd)
}

// take gives a copy of what is kept.
func (l *line) take(name string) (int, bool) {
	fd, ok := l.fds[name]
	if !ok {
		return -1, false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		l.t.Fatal(err)
	}
	return own, true
}

func (l *line) fs() *FS {
	l.t.Helper()
	kept := map[string]int{}
	for name := range l.fds {
		if strings.HasPrefix(name, image.Prefix) {
			kept[name], _ = l.take(name)
		}
	}
	o := l.opts
	o.Keep = l.keep
	io := image.Options{Keep: l.keep, Drop: l.drop}
	var err error
	if len(kept) > 0 {
		o.Image, err = image.Open(kept, io)
	} else {
		o.Image, err = image.New(io)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	f, err := New(o)
	if err != nil {
		l.t.Fatal(err)
	}
	return f
}

// open makes the first server, which does not answer yet.
func (l *line) open(s *tree.Snapshot) {
	l.t.Helper()
	l.f = l.fs()
	if err := errors.Join(l.f.Publish(l.t.Context(), s), l.f.Open(l.store)); err != nil {
		l.t.Fatal(err)
	}
}

// serve lets the current server answer until it dies.
func (l *line) serve() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	f := l.f
	go func() { served <- f.Serve(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-served; err != nil {
			l.t.Error(err)
		}
	}
}

// start is a first server that shows a snapshot.
func (l *line) start(s *tree.Snapshot) {
	l.t.Helper()
	l.open(s)
	l.serve()
	if err := l.f.Attach(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(l.end)
	endPolling(l.t, l.store, s)
}

// die ends the current server as a SIGKILL would: whatever it has not written into
// the image, the journal or the connection is lost.
func (l *line) die() {
	l.stop()
	for _, c := range l.f.conns {
		if c.pub != nil {
			c.pub.conn.(*child).plans.Close() // the publisher lives on for as long as it waits in the kernel
		}
		c.super.close()
		c.journal.close()
	}
	l.f.opts.Image.Close()
	l.f = nil
}

// succeed starts the next server.
func (l *line) succeed() {
	l.t.Helper()
	l.f = l.fs()
	if err := l.f.TakeOver(l.take); err != nil {
		l.t.Fatal(err)
	}
	l.serve()
}

// attach does what is left to do until the store is visible and can be changed.
func (l *line) attach() error { return errors.Join(l.f.Attach(), l.f.Show([]string{l.store})) }

func (l *line) end() {
	if l.f == nil {
		return
	}
	if err := l.f.Detach(); err != nil {
		l.t.Error(err)
	}
	l.stop()
	l.f.Close()
	l.f.opts.Image.Close()
	l.f = nil
	if Visible(l.store) {
		l.t.Error("a mount is left at", l.store)
	}
}

func (l *line) target() string {
	l.t.Helper()
	target, err := os.Readlink(filepath.Join(l.store, "site"))
	if err != nil {
		l.t.Fatal(err)
	}
	return target
}

// shows fails the test unless a server shows exactly this.
func (l *line) shows(want *tree.Snapshot) {
	l.t.Helper()
	if plan := tree.Diff(l.f.Snapshot(), want); plan != nil {
		l.t.Errorf("%d differences from what was to be shown, the first: %v %s", len(plan), plan[0].Op, plan[0].Node().Name)
	}
	content := map[string][]byte{}
	for n := range want.Nodes() {
		content[string(n.Name)] = n.Content()
	}
	for n := range l.f.Snapshot().Nodes() {
		if n.Kind == tree.File && !bytes.Equal(n.Content(), content[n.Name]) {
			l.t.Errorf("%s has other bytes", n.Name)
		}
	}
}

// A successor shows what its predecessor has shown, answers who waits, and goes on
// publishing, again and again.
func TestSuccessorGoesOn(t *testing.T) {
	for _, how := range []Recovery{RecoverBoth, RecoverByJournal, RecoverByResend} {
		t.Run(string(how), func(t *testing.T) {
			l := newLine(t, Options{Recovery: how})
			list := acl.NewList([]uint32{33}, []uint32{44})
			old := newVersion(t, 1)
			l.start(site(t, l.store, list, old))
			for n := 2; n < 6; n++ {
				if l.f.conns[0].journal.savedInit() == nil {
					t.Fatal("the journal has no INIT for the successor")
				}
				l.die()
				// It comes into the kernel's queue while nobody answers.
				visitor := exec.Command("cat", filepath.Join(l.store, "contoso-web.www.luma"), filepath.Join(l.store, "site"))
				var out, said bytes.Buffer
				visitor.Stdout, visitor.Stderr = &out, &said
				if err := visitor.Start(); err != nil {
					t.Fatal(err)
				}
				l.succeed()
				l.shows(site(t, l.store, list, chain(t, n-1)...))
				if err := visitor.Wait(); err != nil || !strings.Contains(out.String(), "PRIVATE KEY") {
					t.Fatalf("%v: %s\n%s", err, &said, &out)
				}
				if st := l.f.Stats(); st.Resumed <= 0 || st.Longest <= 0 {
					t.Errorf("it took over after %v, and the longest request took %v", st.Resumed, st.Longest)
				}
				if err := l.attach(); err != nil {
					t.Fatal(err)
				}
				next := site(t, l.store, list, chain(t, n)...)
				if err := l.f.Publish(t.Context(), next); err != nil {
					t.Fatal(err)
				}
				if target := l.target(); !strings.HasSuffix(target, fmt.Sprint(n)) {
					t.Errorf("after renewal %d the link leads to %s", n, target)
				}
				l.shows(next)
			}
		})
	}
}

// chain are version n and the one before.
func chain(t testing.TB, n int) []*tree.Version {
	if n == 1 {
		return []*tree.Version{newVersion(t, 1)}
	}
	return []*tree.Version{newVersion(t, n), newVersion(t, n-1)}
}

// pull reads the next request as a thread would, and leaves the rest to the caller.
func pull(t testing.TB, s *server, i int) []byte {
	t.Helper()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.dev), Events: unix.POLLIN}}, 10_000); err != nil && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
	n, err := unix.Read(s.dev, s.journal.slot(i))
	if err != nil {
		t.Fatal("no request comes:", err)
	}
	return s.journal.slot(i)[:n]
}

// A server that dies at any point of INIT is succeeded by one that works.
func TestDeathInsideInit(t *testing.T) {
	for _, how := range []Recovery{RecoverByJournal, RecoverByResend} {
		for _, point := range []string{"before it is read", "when it is read", "when it is saved", "when it is answered"} {
			if how == RecoverByResend && point == "when it is read" {
				continue // without the journal nobody knows that INIT was read
			}
			t.Run(fmt.Sprintf("%s by %s", point, how), func(t *testing.T) {
				l := newLine(t, Options{Recovery: how})
				l.open(site(t, l.store, acl.List{}, newVersion(t, 1)))
				s := l.f.conns[0].server
				l.stop = func() {}
				if point != "before it is read" {
					req := pull(t, s, 0)
					if opcode(req) != opInit {
						t.Fatal("the first request is", opName(int(opcode(req))))
					}
					if point != "when it is read" {
						s.journal.saveInit(req)
					}
					if point == "when it is answered" {
						s.write(s.answer(req, make([]byte, replySize)))
					}
				}
				l.die()
				l.succeed()
				t.Cleanup(l.end)
				if err := l.attach(); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command("cat", filepath.Join(l.store, "site")).CombinedOutput()
				if err != nil || !bytes.Contains(out, []byte("PRIVATE KEY")) {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
	}
}

// A server that dies at any point of any step of a renewal is succeeded by one that
// brings it to its end: every reader sees old, then new, and every watcher hears of
// the move once.
func TestDeathInsideARenewal(t *testing.T) {
	for _, how := range []Recovery{RecoverByJournal, RecoverByResend} {
		for _, op := range []uint32{opSymlink, opRename, opMknod, opSetxattr, opUnlink} {
			for _, point := range []string{"before it is read", "when it is read", "when it is carried out", "when it is answered"} {
				t.Run(fmt.Sprintf("%s %s by %s", opName(int(op)), point, how), func(t *testing.T) { testDeathInside(t, how, op, point) })
			}
		}
	}
}

func testDeathInside(t *testing.T, how Recovery, op uint32, point string) {
	l := newLine(t, Options{Recovery: how})
	before := site(t, l.store, acl.NewList([]uint32{33}, nil), newVersion(t, 3), newVersion(t, 2), newVersion(t, 1))
	after := site(t, l.store, acl.NewList([]uint32{34}, nil), newVersion(t, 4), newVersion(t, 3), newVersion(t, 2))
	l.start(before)
	watch := watchEvents(t, l.store)
	l.stop() // from here on this test answers

	f := l.f
	c := f.conns[0]
	c.server = newServer(c.super.dev, c.handler, c.journal, how, f.log) // its threads are gone
	if n, st := c.server.protocol.HandleRequest([][]byte{c.journal.savedInit()}, [][]byte{make([]byte, replySize)}); n == 0 || !st.Ok() {
		t.Fatal(st)
	}
	var steps []step
	for _, change := range begin(t, f.view, tree.Diff(before, after)) {
		dir, _ := c.path(after, f.view, change.Node().Parent)
		steps = append(steps, stepFor(change, dir))
	}
	published := make(chan error, 1)
	go func() { published <- c.pub.carryOut(steps) }()
	out := make([]byte, replySize)
	for {
		if point == "before it is read" {
			// What the next request is shows only by reading it: it is put back by asking the
			// kernel for it again.
			req := pull(t, c.server, 0)
			if opcode(req) == op {
				if how == RecoverByJournal {
					break // in the journal it stays
				}
				c.journal.settle(0)
				break
			}
			c.server.write(c.server.answer(req, out))
			c.journal.settle(0)
			continue
		}
		req := pull(t, c.server, 0)
		if opcode(req) != op {
			c.server.write(c.server.answer(req, out))
			c.journal.settle(0)
			continue
		}
		if point != "when it is read" {
			reply := c.server.answer(req, out)
			if e := errnoOf(reply); e != 0 {
				t.Fatal("the publisher's request was refused:", e)
			}
			if point == "when it is answered" {
				c.server.write(reply)
			}
		}
		break
	}
	l.stop = func() {}
	l.die()
	l.succeed()
	t.Cleanup(l.end)
	if err := l.attach(); err != nil {
		t.Fatal(err)
	}
	<-published // the former publisher ends, whatever it was told
	link := l.target()
	n, ok := l.f.Snapshot().Lookup(storeOf(t, l.f, l.store), "site")
	if !ok || n.Target != link {
		t.Errorf("the kernel shows %s and the server %s", link, n.Target)
	}
	if err := l.f.Publish(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	l.shows(after)
	if got := l.target(); !strings.HasSuffix(got, "4") {
		t.Errorf("the link leads to %s", got)
	}
	oldest := filepath.Join(l.store, fmt.Sprintf("contoso-web.www.%032x", 1))
	if _, err := os.Lstat(oldest); !errors.Is(err, os.ErrNotExist) {
		t.Error("the oldest version is still there:", err)
	}
	for n := range after.Nodes() {
		if n.Kind != tree.File || n.Public {
			continue
		}
		value := make([]byte, 4096)
		size, err := unix.Getxattr(filepath.Join(l.store, n.Name), acl.XAttrName, value)
		if err != nil || !bytes.Equal(value[:size], n.XAttr()) {
			t.Errorf("%s: %v, the kernel goes by another access list", n.Name, err)
		}
	}
	events := watch()
	for name, want := range map[string]int{"IN_MOVED_TO site": 1, "IN_MOVED_TO contoso-web.www": 1, "IN_MOVED_TO contoso-web.www.luma": 1,
		"IN_DELETE " + filepath.Base(oldest): 1} {
		if got := events[name]; got != want {
			t.Errorf("%s: %d times, want %d", name, got, want)
		}
	}
	for _, change := range tree.Diff(before, after) {
		if name := "IN_ATTRIB " + change.Node().Name; change.Op == tree.SetACL && events[name] != 1 {
			t.Errorf("%s: %d times, want once", name, events[name])
		}
	}
	if t.Failed() {
		for _, name := range slices.Sorted(maps.Keys(events)) {
			t.Log(events[name], name)
		}
	}
}

func storeOf(t testing.TB, f *FS, store string) tree.ID {
	t.Helper()
	n, ok := f.Snapshot().Lookup(tree.Root, tree.StoreDir(store))
	if !ok {
		t.Fatal("the store is not in the snapshot")
	}
	return n.ID
}

// watchEvents counts the events of a directory; the function that it returns gives
// them, with all that have come.
func watchEvents(t testing.TB, dir string) func() map[string]int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		t.Fatal(err)
	}
	return func() map[string]int {
		events, buf := map[string]int{}, make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n == 0 { // EAGAIN: these were all
				return events
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				mask, size := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[12:])
				name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
				for bit, kind := range map[uint32]string{unix.IN_CREATE: "IN_CREATE", unix.IN_DELETE: "IN_DELETE", unix.IN_MOVED_TO: "IN_MOVED_TO",
					unix.IN_ATTRIB: "IN_ATTRIB", unix.IN_DELETE_SELF: "IN_DELETE_SELF"} {
					if mask&bit != 0 {
						events[strings.TrimSpace(kind+" "+name)]++
					}
				}
				b = b[unix.SizeofInotifyEvent+size:]
			}
		}
	}
}

// Who watches a file through a link hears that the link has left it: once, and also
// if the server died before it could tell.
func TestWatchersOfAFileHearOfARenewal(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("dies=%t", dies), func(t *testing.T) {
			l := newLine(t, Options{})
			v1, v2 := newVersion(t, 1), newVersion(t, 2)
			l.start(site(t, l.store, acl.List{}, v1))
			events := watchEvents(t, filepath.Join(l.store, "site"))
			next := site(t, l.store, acl.List{}, v2, v1)
			if dies {
				// All but the telling, which is the last thing.
				c := l.f.conns[0]
				var steps []step
				for _, change := range begin(t, l.f.view, tree.Diff(l.f.Snapshot(), next)) {
					dir, _ := c.path(next, l.f.view, change.Node().Parent)
					steps = append(steps, stepFor(change, dir))
				}
				if err := c.pub.carryOut(steps); err != nil {
					t.Fatal(err)
				}
				if e := events(); len(e) > 0 {
					t.Fatal("told too early:", e)
				}
				l.die()
				l.succeed()
				if err := l.attach(); err != nil {
					t.Fatal(err)
				}
				next = site(t, l.store, acl.List{}, newVersion(t, 3), v2, v1) // and by now there is another one
			}
			for range 2 {
				if err := l.f.Publish(t.Context(), next); err != nil {
					t.Fatal(err)
				}
			}
			if e := events(); e["IN_DELETE_SELF"] != 1 {
				t.Errorf("%v, want one IN_DELETE_SELF", e)
			}
			if e := watchEvents(t, filepath.Join(l.store, "site"))(); len(e) > 0 {
				t.Error("events without a change:", e)
			}
			if got := read(t, filepath.Join(l.store, filepath.Base(l.target()))); !bytes.Contains(got, []byte("PRIVATE KEY")) {
				t.Error("what the link leads to cannot be read")
			}
			read(t, filepath.Join(l.store, fmt.Sprintf("contoso-web.www.%032x", 1))) // the old version is still there
		})
	}
}

// A file that has lost its name is readable for who has it open, also when servers
// have come and gone since.
func TestOpenFileOutlivesItsNameAndItsServer(t *testing.T) {
	l := newLine(t, Options{Uncached: true})
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	visitor := exec.Command("sh", "-c", "exec 3<"+filepath.Join(l.store, "site")+"; echo open; read line; cat <&3")
	in, err := visitor.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := visitor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := visitor.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	for n := 2; n < 5; n++ {
		if err := l.f.Publish(t.Context(), site(t, l.store, acl.List{}, chain(t, n)...)); err != nil {
			t.Fatal(err)
		}
		l.die()
		l.succeed()
		if err := l.attach(); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(in)
	var out bytes.Buffer
	if _, err := out.ReadFrom(pipe); err != nil {
		t.Fatal(err)
	}
	if err := visitor.Wait(); err != nil || !strings.Contains(out.String(), "PRIVATE KEY") {
		t.Errorf("%v: %q", err, &out)
	}
}

// A request that ends every server that gets it is answered, in the end, with an error.
func TestRequestThatKillsIsGivenUp(t *testing.T) {
	l := newLine(t, Options{Recovery: RecoverByJournal})
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	l.stop()
	visitor := exec.Command("cat", filepath.Join(l.store, "contoso-web.www.keyid"))
	if err := visitor.Start(); err != nil {
		t.Fatal(err)
	}
	s := l.f.conns[0].server
	pull(t, s, 0)
	for range maxTries {
		l.f.conns[0].journal.tries[0].Add(1) // as a server does that dies of what comes next
	}
	l.stop = func() {}
	l.die()
	l.succeed()
	t.Cleanup(l.end)
	if err := l.attach(); err != nil {
		t.Fatal(err)
	}
	if err := visitor.Wait(); err == nil {
		t.Error("it was answered as if nothing were wrong")
	}
	if out, err := exec.Command("cat", filepath.Join(l.store, "site")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// What a server of another format has left is mounted anew from the image, beneath it,
// and who waits for the former one finds the new.
func TestAnotherFormatIsMountedAnew(t *testing.T) {
	l := newLine(t, Options{})
	first := site(t, l.store, acl.List{}, newVersion(t, 1))
	l.start(first)
	l.stop()
	visitors := make([]*exec.Cmd, 4)
	outs := make([]bytes.Buffer, len(visitors))
	for i := range visitors {
		visitors[i] = exec.Command("cat", filepath.Join(l.store, "contoso-web.www.keyid"), filepath.Join(l.store, "site"))
		visitors[i].Stdout, visitors[i].Stderr = &outs[i], &outs[i]
		if err := visitors[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	pull(t, l.f.conns[0].server, 0)
	l.f.conns[0].journal.format++
	l.stop = func() {}
	l.die()

	l.f = l.fs()
	if err := l.f.TakeOver(l.take); !errors.Is(err, ErrOtherFormat) {
		t.Fatal("taken over:", err)
	}
	if err := l.f.Open(l.f.Kept()...); err != nil {
		t.Fatal(err)
	}
	l.serve()
	if err := l.f.Attach(); err != nil {
		t.Fatal(err)
	}
	names, err := l.f.EndFormer()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		_ = l.drop(name) // some of them there never were
	}
	for i, cmd := range visitors {
		if err := cmd.Wait(); err != nil || !strings.Contains(outs[i].String(), "PRIVATE KEY") {
			t.Errorf("%v: %s", err, &outs[i])
		}
	}
	l.shows(first)
	if err := l.f.Publish(t.Context(), site(t, l.store, acl.List{}, chain(t, 2)...)); err != nil {
		t.Fatal(err)
	}
	if target := l.target(); !strings.HasSuffix(target, "2") {
		t.Error("the link leads to", target)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Count(string(mounts), " "+l.store+" ") != 1 {
		t.Errorf("mounts at the store: %d, want 1, %v", strings.Count(string(mounts), " "+l.store+" "), err)
	}
	l.die() // and that one can be taken over
	l.succeed()
	if err := l.attach(); err != nil {
		t.Fatal(err)
	}
	l.shows(site(t, l.store, acl.List{}, chain(t, 2)...))
}

func TestNothingKept(t *testing.T) {
	l := newLine(t, Options{})
	if err := l.fs().TakeOver(l.take); !errors.Is(err, ErrNothingKept) {
		t.Error("from an image without anything:", err)
	}
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	next := l.fs()
	if err := next.TakeOver(func(string) (int, bool) { return -1, false }); !errors.Is(err, ErrNothingKept) {
		t.Error("without a connection:", err)
	}
	next.opts.Image.Close()
}

// Reads that wait for an old version hold up nobody: not those of current versions,
// whatever the kernel has cached, and not those of other old ones.
func TestWaitingReadsHoldUpNobody(t *testing.T) {
	release := make(chan struct{})
	l := newLine(t, Options{Patience: 3 * time.Second, Load: func(ctx context.Context, n *tree.Node) ([]byte, error) {
		select {
		case <-release:
			return bytes.Repeat([]byte("k"), n.Size), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	const readers = 20 // more than threads, and more than the kernel lets wait in the background
	versions, away := []*tree.Version{newVersion(t, readers)}, []string{}
	for n := range readers {
		versions = append(versions, newVersion(t, readers-1-n))
		away = append(away, fmt.Sprintf("contoso-web.www.%032x", n))
	}
	l.start(without(t, site(t, l.store, acl.List{}, versions...), away...))
	var waiting []*exec.Cmd
	for _, name := range away {
		cmd := exec.Command("cat", filepath.Join(l.store, name))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, cmd)
	}
	until(t, "many readers wait", func() bool { return l.f.Stats().Requests["READ"] > 11 })
	for _, name := range []string{"site", "contoso-web.www.pem", "contoso-web.www.keyid"} {
		out, err := exec.Command("timeout", "2", "cat", filepath.Join(l.store, name)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	close(release)
	for _, cmd := range waiting {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// A read that waits when its server dies is answered by the next one.
func TestWaitingReadOutlivesItsServer(t *testing.T) {
	for _, how := range []Recovery{RecoverByJournal, RecoverByResend, RecoverBoth} {
		t.Run(string(how), func(t *testing.T) {
			dead := true
			l := newLine(t, Options{Recovery: how, Patience: time.Minute, Load: func(ctx context.Context, n *tree.Node) ([]byte, error) {
				if dead {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return bytes.Repeat([]byte("k"), n.Size), nil
			}})
			away := fmt.Sprintf("contoso-web.www.%032x", 1)
			l.start(without(t, site(t, l.store, acl.List{}, newVersion(t, 2), newVersion(t, 1)), away))
			var out bytes.Buffer
			visitor := exec.Command("cat", filepath.Join(l.store, away))
			visitor.Stdout = &out
			if err := visitor.Start(); err != nil {
				t.Fatal(err)
			}
			until(t, "it waits", func() bool { return l.f.Stats().Requests["READ"] > 0 })
			l.die()
			dead = false
			l.succeed()
			if err := l.attach(); err != nil {
				t.Fatal(err)
			}
			if err := visitor.Wait(); err != nil || !strings.HasPrefix(out.String(), "kkk") {
				t.Errorf("%v: %.20q", err, &out)
			}
			for i := range waitingMost { // soon after the answer
				until(t, "its place in the journal is free again", func() bool { return owed(l.f.conns[0].journal.waiting(i)) == nil })
			}
		})
	}
}

// The reader of a content that cannot be had learns why, and in time.
func TestErrorsOfContentsThatAreAway(t *testing.T) {
	for want, load := range map[unix.Errno]Load{
		unix.ETIMEDOUT: func(ctx context.Context, _ *tree.Node) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
		unix.EACCES:    func(context.Context, *tree.Node) ([]byte, error) { return nil, fmt.Errorf("no: %w", os.ErrPermission) },
		unix.EIO:       func(context.Context, *tree.Node) ([]byte, error) { return []byte("short"), nil },
	} {
		t.Run(want.Error(), func(t *testing.T) {
			l := newLine(t, Options{Patience: 50 * time.Millisecond, Load: load})
			away := fmt.Sprintf("contoso-web.www.%032x", 1)
			l.start(without(t, site(t, l.store, acl.List{}, newVersion(t, 2), newVersion(t, 1)), away))
			out, err := exec.Command("cat", filepath.Join(l.store, away)).CombinedOutput()
			if err == nil || !strings.Contains(strings.ToLower(string(out)), strings.ToLower(want.Error())) {
				t.Errorf("%v: %s, want %v", err, out, want)
			}
		})
	}
}

// without takes the contents of files away.
func without(t testing.TB, s *tree.Snapshot, names ...string) *tree.Snapshot {
	t.Helper()
	var nodes []*tree.Node
	for n := range s.Nodes() {
		if slices.Contains(names, n.Name) {
			c := *n
			c.Blob, c.Away = nil, &tree.Away{Certificate: "www", Version: "1"}
			n = &c
		}
		nodes = append(nodes, n)
	}
	s, err := tree.Of(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for what no event announces.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about: ", what)
		}
	}
}

// When nobody can take over, who waits finds what lies below the store, and so does
// who comes later.
func TestLastGaspShowsWhatLiesBelow(t *testing.T) {
	l := newLine(t, Options{})
	below := filepath.Join(l.store, "site")
	if err := os.WriteFile(below, []byte("what lies below"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	l.stop()
	var outs []*bytes.Buffer
	var visitors []*exec.Cmd
	for range 4 {
		cmd := exec.Command("cat", below)
		out := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		visitors, outs = append(visitors, cmd), append(outs, out)
	}
	pull(t, l.f.conns[0].server, 0) // one of them is in the journal, the others in the queue
	l.stop = func() {}
	l.die()
	if err := LastGasp(l.take); err != nil {
		t.Error(err)
	}
	for name := range l.fds {
		if err := l.drop(name); err != nil {
			t.Error(err)
		}
	}
	for i, cmd := range visitors {
		if err := cmd.Wait(); err != nil || outs[i].String() != "what lies below" {
			t.Errorf("%v: %s", err, outs[i])
		}
	}
	if Visible(l.store) {
		t.Error("the mount is left")
	}
	if b := read(t, below); string(b) != "what lies below" {
		t.Errorf("%q", b)
	}
}
