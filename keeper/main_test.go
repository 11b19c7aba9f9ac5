package keeper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is its own server, and its own keeper.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3:])
	}
	if len(os.Args) > 3 && os.Args[1] == "keep" {
		k, err := New(Options{Command: append([]string{"/proc/self/exe", "serve"}, os.Args[2:]...), Stdout: os.Stdout, Stderr: os.Stderr})
		if err != nil {
			panic(err)
		}
		code, _ := k.Run(context.Background())
		os.Exit(code)
	}
	// A server that is the test binary by mistake must not run the tests again, whose
	// servers would do the same. A worker of the fuzzer must.
	if os.Getenv("KEEPER_TEST") != "" && !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.") }) {
		os.Exit(97)
	}
	os.Setenv("KEEPER_TEST", "1")
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of servers: they end often
	os.Exit(m.Run())
}

// serve is a server. The n-th one that is started with the same file of starts does
// what the n-th script says, or the last. A script is words with a verb and its
// argument. It ends with code 99 if the script does.
func serve(starts string, scripts []string) {
	f, err := os.OpenFile(starts, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	_, err = f.WriteString(".")
	must(err)
	st, err := f.Stat()
	must(err)
	f.Close()

	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	c, err := Inherit()
	if err != nil {
		say("inherit", err)
		os.Exit(98)
	}
	for _, word := range strings.Fields(scripts[min(int(st.Size()), len(scripts))-1]) {
		verb, arg, _ := strings.Cut(word, ":")
		name, text, _ := strings.Cut(arg, "=")
		switch verb {
		case "ready":
			must(c.Ready())
		case "ping":
			must(c.Ping())
		case "stopping":
			must(c.Stopping())
		case "say":
			say(arg)
		case "raw":
			must(c.send(strings.ReplaceAll(arg, ",", "\n")))
		case "long": // a message that would drop a, and is too long
			s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			must(err)
			text := "FDSTOREREMOVE=1\nFDNAME=a\nSTATUS=" + strings.Repeat("x", maxMessage)
			must(unix.Sendmsg(s, []byte(text), nil, &unix.SockaddrUnix{Name: c.socket}, 0))
		case "exit":
			code, err := strconv.Atoi(arg)
			must(err)
			os.Exit(code)
		case "kill":
			must(unix.Kill(os.Getpid(), unix.SIGKILL))
			select {}
		case "hang":
			must(unix.Kill(os.Getpid(), unix.SIGSTOP))
			select {} // another thread may get the signal first
		case "deaf":
			signal.Ignore(unix.SIGTERM, unix.SIGINT)
		case "store": // a memfd, and returns when it is kept
			must(c.Keep(name, memory(text)))
		case "throw": // the same, without waiting
			must(c.send("FDSTORE=1\nFDNAME="+name, memory(text)))
		case "event": // a descriptor that does not block
			fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
			must(err)
			must(c.Keep(name, fd))
		case "drop":
			must(c.Drop(name))
		case "barrier":
			must(c.barrier())
		case "show":
			show(c)
		case "pid":
			say("pid", os.Getpid())
		case "names":
			say("names", strings.Join(c.Names(), " "))
		case "keeper":
			say("keeper", c.Keeper(), os.Getppid(), c.Kept(), c.PingEvery())
		case "former":
			say("former " + c.FormerEnd())
		case "env":
			var left []string
			for _, v := range os.Environ() {
				if isProtocol(v) {
					left = append(left, v)
				}
			}
			say("env", left)
		case "count":
			say("count", descriptors())
		case "pings":
			n, err := strconv.Atoi(arg)
			must(err)
			for range n {
				time.Sleep(c.PingEvery())
				must(c.Ping())
				say("pinged")
			}
		case "wait":
			wait(c, signals, arg)
		default:
			panic("no verb " + verb)
		}
	}
	os.Exit(99)
}

// wait ends with code 75 on SIGTERM, with the given one (0) on SIGINT.
func wait(c *Client, signals <-chan os.Signal, code string) {
	gone := c.Gone()
	for {
		select {
		case s := <-signals:
			switch s {
			case unix.SIGHUP:
				say("hup")
			case unix.SIGTERM:
				os.Exit(Again)
			default:
				n, _ := strconv.Atoi(code)
				os.Exit(n)
			}
		case <-gone:
			gone = nil
			say("gone", c.Kept(), c.Keeper(), c.Ping())
		}
	}
}

// show takes everything, and says what is in it.
func show(c *Client) {
	var all []string
	for _, name := range c.Names() {
		fd, ok := c.Take(name)
		if !ok {
			panic("cannot take " + name)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			panic("not close-on-exec: " + name)
		}
		text := make([]byte, 100)
		n, _ := unix.Pread(fd, text, 0)
		if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK != 0 {
			name += "(nonblocking)"
		}
		all = append(all, name+"="+string(text[:max(n, 0)]))
	}
	slices.Sort(all)
	say("kept", strings.Join(all, " "))
}

func memory(text string) int {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	must(err)
	_, err = unix.Write(fd, []byte(text))
	must(err)
	return fd
}

func say(words ...any) { fmt.Println(words...) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// descriptors are how many this process has open.
func descriptors() int {
	all, err := os.ReadDir("/proc/self/fd")
	must(err)
	return len(all) - 1 // that of the directory
}

// A guarded wait of a test fails after this.
const guard = 20 * time.Second

// A keeping is a Keeper at work, and what its servers say.
type keeping struct {
	t      *testing.T
	k      *Keeper
	pids   chan int    // of the servers, as they are started
	lines  chan string // of their output
	stop   context.CancelFunc
	done   chan struct{}
	result result
}

// script makes a command that does what the n-th script says at the n-th start.
func script(t testing.TB, scripts ...string) []string {
	self, err := os.Executable() // a shell is another /proc/self/exe
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{self, "serve", filepath.Join(t.TempDir(), "starts")}, scripts...)
}

// keep runs a keeper. change, if any, is made before it runs.
func keep(t *testing.T, o Options, change func(*Keeper)) *keeping {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g := &keeping{t: t, pids: make(chan int, 1000), lines: make(chan string, 1000), done: make(chan struct{})}
	o.Stdout, o.Stderr, o.Dir = w, os.Stderr, t.TempDir()
	started := o.Started
	o.Started = func(pid int) {
		if started != nil {
			started(pid)
		}
		g.pids <- pid
	}
	if g.k, err = New(o); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(g.k)
	}
	var ctx context.Context
	ctx, g.stop = context.WithCancel(context.Background())
	go func() {
		g.result.code, g.result.err = g.k.Run(ctx)
		w.Close()
		close(g.done)
	}()
	go readLines(r, g.lines)
	t.Cleanup(func() {
		g.stop()
		g.wantAllClosed()
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("left of the notify socket: %v %v", left, err)
		}
	})
	return g
}

func readLines(r io.ReadCloser, lines chan<- string) {
	defer close(lines)
	defer r.Close()
	for s := bufio.NewScanner(r); s.Scan(); {
		lines <- s.Text()
	}
}

// wait returns what came of Run.
func (g *keeping) wait() result {
	g.t.Helper()
	select {
	case <-g.done:
	case <-time.After(guard):
		g.t.Fatal("Run has not ended")
	}
	return g.result
}

// want waits for the next line of a server.
func (g *keeping) want(line string) {
	g.t.Helper()
	select {
	case got, ok := <-g.lines:
		if !ok || got != line {
			g.t.Fatalf("a server says %q, want %q", got, line)
		}
	case <-time.After(guard):
		g.t.Fatalf("no server says %q", line)
	}
}

// pid waits for the start of the next server.
func (g *keeping) pid() int {
	g.t.Helper()
	select {
	case pid := <-g.pids:
		return pid
	case <-time.After(guard):
		g.t.Fatal("no server is started")
		return 0
	}
}

// wantResult waits for the end; fact is part of the error, none without.
func (g *keeping) wantResult(code int, fact string) {
	g.t.Helper()
	r := g.wait()
	if r.code != code || (r.err != nil) != (fact != "") || r.err != nil && !strings.Contains(r.err.Error(), fact) {
		g.t.Errorf("Run returned %d, %v, want %d, %q", r.code, r.err, code, fact)
	}
}

// wantAllClosed waits for the end of Run and of all output.
func (g *keeping) wantAllClosed() {
	g.t.Helper()
	g.wait()
	for range g.lines {
	}
}
