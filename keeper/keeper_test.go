package keeper

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCodeZeroIsTheEnd(t *testing.T) {
	for _, s := range []string{"exit:0", "ready exit:0"} {
		g := keep(t, Options{Command: script(t, s)}, nil)
		g.wantResult(0, "")
	}
	g := keep(t, Options{Command: script(t, "ready kill", "exit:0")}, nil)
	g.wantResult(0, "")
}

func TestRefusalBeforeAnyServerWasReadyReachesTheCaller(t *testing.T) {
	gasp := script(t, "say:gasp")
	keep(t, Options{Command: script(t, "exit:3"), LastGasp: gasp}, nil).wantResult(3, "")
	keep(t, Options{Command: script(t, "kill", "exit:4"), LastGasp: gasp}, nil).wantResult(4, "")
	keep(t, Options{Command: []string{"/nonexistent/kvfs"}, LastGasp: gasp}, nil).wantResult(1, "/nonexistent/kvfs")
	// What a server has left that was killed cannot wait for anybody.
	g := keep(t, Options{Command: script(t, "store:a=1 kill", "exit:5"), LastGasp: script(t, "show")}, nil)
	g.want("kept a=1")
	g.wantResult(5, "")
}

func TestCrashIsFollowedByASuccessorThatHasTheDescriptors(t *testing.T) {
	for _, crash := range []string{"kill", "exit:1", "exit:75"} {
		g := keep(t, Options{Command: script(t, "store:a=one store:b=two ready "+crash, "show say:second ready wait")}, nil)
		g.want("kept a=one b=two")
		g.want("second")
		g.stop()
		g.wantResult(0, "")
	}
}

// What it said before it died counts, though nobody has waited for an answer.
func TestWhatAServerSaidBeforeItDiedIsHeard(t *testing.T) {
	untilItIsDead := func(pid int) {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Error(err)
		}
	}
	g := keep(t, Options{Command: script(t, "throw:a=1 throw:b=2 ready kill", "show exit:0"), Started: untilItIsDead}, nil)
	g.want("kept a=1 b=2")
	g.wantResult(0, "")
}

func TestDescriptorsOfOneNameAreAllKeptAndDroppedTogether(t *testing.T) {
	g := keep(t, Options{Command: script(t, "store:a=1 store:a=2 store:b=3 ready kill", "names show drop:a drop:none store:a=4 ready kill", "show exit:0")}, nil)
	g.want("names a a b")
	g.want("kept a=1 a=2 b=3")
	g.want("kept a=4 b=3")
	g.wantResult(0, "")
}

func TestDroppedDescriptorIsClosed(t *testing.T) {
	open := func() (n int) {
		all, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range all {
			if target, _ := os.Readlink(fd); strings.HasPrefix(target, "/memfd:test") {
				n++
			}
		}
		return n
	}
	before := open()
	g := keep(t, Options{Command: script(t, "store:a=1 store:a=2 ready say:kept wait", "drop:a say:dropped ready wait")}, nil)
	g.want("kept")
	if n := open(); n != before+2 {
		t.Errorf("%d are open, want two more than %d", n, before)
	}
	g.k.Replace()
	g.want("dropped")
	if n := open(); n != before {
		t.Errorf("%d are open, there were %d", n, before)
	}
}

// os/exec would clear O_NONBLOCK for everybody who shares the descriptor.
func TestFlagsOfADescriptorStay(t *testing.T) {
	g := keep(t, Options{Command: script(t, "event:fuse ready kill", "ready kill", "show exit:0")}, nil)
	g.want("kept fuse(nonblocking)=")
	g.wantResult(0, "")
}

func TestParkingIsNoFailure(t *testing.T) {
	s := "store:a=1 ready say:up wait"
	g := keep(t, Options{Command: script(t, s), Tries: 1}, nil)
	for range 5 {
		g.want("up")
		g.k.Replace()
	}
	g.want("up")
	g.stop()
	g.wantResult(0, "")
}

// Otherwise it could go on for ever.
func TestParkingBeforeReadyIsAFailure(t *testing.T) {
	g := keep(t, Options{Command: script(t, "exit:75"), Tries: 3}, nil)
	g.wantResult(1, "3 servers in a row have failed, the last one ended with code 75")
}

// A process that has not installed its handlers would be killed by the signal.
func TestServerThatIsNotReadyIsReplacedWhenItIs(t *testing.T) {
	trigger := filepath.Join(t.TempDir(), "trigger")
	if err := unix.Mkfifo(trigger, 0o600); err != nil {
		t.Fatal(err)
	}
	// The shell reads the fifo with the default action for SIGTERM, then is the server.
	sh := append([]string{"/bin/sh", "-c", `echo shell; read x <"$0"; exec "$@"`, trigger}, script(t, "ready wait", "say:second ready wait")...)
	g := keep(t, Options{Command: sh, Tries: 1}, nil)
	g.want("shell")
	g.k.Replace()
	goOn := func() {
		if err := os.WriteFile(trigger, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	goOn()
	g.want("shell")
	goOn()
	g.want("second")
	g.stop()
	g.wantResult(0, "")
}

func TestReloadIsForwarded(t *testing.T) {
	g := keep(t, Options{Command: script(t, "ready say:up wait")}, nil)
	g.want("up")
	g.k.Reload()
	g.want("hup")
}

func TestFailuresInARowEndInTheLastGasp(t *testing.T) {
	for _, crash := range []struct{ script, fact string }{
		{"kill", "killed by SIGKILL"}, {"ready exit:7", "ended with code 7"}, {"exit:8", "ended with code 8"},
	} {
		log := &logged{}
		g := keep(t, Options{Command: script(t, "store:fuse=1 store:journal=2 ready exit:9", crash.script), LastGasp: script(t, "keeper show"), Tries: 3,
			Logger: slog.New(slog.NewTextHandler(log, nil))}, nil)
		g.want(fmt.Sprintf("keeper 0 %d false 0s", os.Getpid()))
		g.want("kept fuse=1 journal=2")
		g.wantResult(1, "3 servers in a row have failed, the last one "+map[bool]string{true: "was "}[strings.HasPrefix(crash.fact, "killed")]+crash.fact)
		if n := len(g.pids); n != 3 {
			t.Errorf("%d servers were started, want 3", n)
		}
		if !strings.Contains(log.String(), crash.fact) {
			t.Errorf("the log does not say that the last one %s: %s", crash.fact, log)
		}
	}
}

func TestLastGaspHasATimeLimit(t *testing.T) {
	keep(t, Options{Command: script(t, "exit:0")}, nil).wantAllClosed() // the runtime opens some for itself
	before := descriptors()
	g := keep(t, Options{Command: script(t, "kill"), LastGasp: script(t, "say:gasp hang"), Tries: 1}, func(k *Keeper) { k.patience.gasp = 3 * time.Second })
	g.want("gasp")
	g.wantResult(1, "a row")
	g.wantAllClosed()
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

func TestLongLifeMakesUpForFailures(t *testing.T) {
	crash := script(t, "ready exit:3", "ready exit:3", "ready exit:3", "ready exit:3", "exit:0")
	keep(t, Options{Command: crash, Tries: 2}, func(k *Keeper) { k.patience.mature = 0 }).wantResult(0, "")
	again := script(t, "ready exit:3", "ready exit:3", "ready exit:3", "ready exit:3", "exit:0")
	keep(t, Options{Command: again, Tries: 2}, nil).wantResult(1, "2 servers in a row")
	old := script(t, "ready exit:3", "ready exit:3", "ready exit:3", "ready exit:3", "exit:0")
	keep(t, Options{Command: old, Tries: 2}, func(k *Keeper) { k.patience.young = 0 }).wantResult(0, "")
}

// Who is killed by somebody else has not failed, however often.
func TestBeingKilledIsNoFailure(t *testing.T) {
	shot := script(t, "ready kill", "ready kill", "ready kill", "ready kill", "exit:0")
	keep(t, Options{Command: shot, Tries: 2}, nil).wantResult(0, "")
	row := script(t, "ready exit:3", "ready kill", "ready exit:3", "ready kill", "exit:0")
	keep(t, Options{Command: row, Tries: 2}, nil).wantResult(0, "")
	infant := script(t, "ready kill", "kill", "kill", "exit:0")
	keep(t, Options{Command: infant, Tries: 2}, nil).wantResult(1, "2 servers in a row")
}

func TestFallbackIsStartedWhenTheCommandCannotBe(t *testing.T) {
	g := keep(t, Options{Command: []string{"/nonexistent/kvfs"}, Fallback: script(t, "say:fallback ready wait")}, nil)
	g.want("fallback")
	g.stop()
	g.wantResult(0, "")
	// It is there, but is no program.
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("\x7fELF no more"), 0o755); err != nil {
		t.Fatal(err)
	}
	g = keep(t, Options{Command: []string{bad}, Fallback: script(t, "say:fallback exit:0")}, nil)
	g.want("fallback")
	g.wantResult(0, "")
}

func TestFallbackTakesOverFromACommandThatDoesNotGetReady(t *testing.T) {
	command := script(t, "say:1 ready kill", "say:2 exit:1", "say:3 kill", "say:4 exit:1", "say:5 ready wait")
	g := keep(t, Options{Command: command, Fallback: script(t, "say:fallback ready wait", "say:again ready wait")}, nil)
	for _, line := range []string{"1", "2", "3", "4", "fallback"} {
		g.want(line)
	}
	for range 4 {
		g.pid()
	}
	if err := unix.Kill(g.pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.want("again")
	g.k.Replace() // there is a new one, somebody says
	g.want("5")
	g.stop()
	g.wantResult(0, "")
}

// Else a person who has mistyped something would see another program's answer.
func TestFallbackDoesNotHideARefusal(t *testing.T) {
	keep(t, Options{Command: script(t, "exit:3"), Fallback: script(t, "exit:0")}, nil).wantResult(3, "")
	keep(t, Options{Command: script(t, "kill", "kill", "kill", "kill", "exit:3"), Fallback: script(t, "exit:0")}, nil).wantResult(3, "")
}

func TestNewBinaryIsTaken(t *testing.T) {
	binary, next := filepath.Join(t.TempDir(), "kvfs"), filepath.Join(t.TempDir(), "next")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho "+text+"\nexec \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(binary, "old")
	g := keep(t, Options{Command: append([]string{binary}, script(t, "ready say:up wait")...)}, nil)
	g.want("old")
	g.want("up")
	write(next, "new")
	if err := os.Rename(next, binary); err != nil {
		t.Fatal(err)
	}
	g.k.Replace()
	g.want("new")
	g.want("up")
}

func TestStopIsSIGINT(t *testing.T) {
	g := keep(t, Options{Command: script(t, "ready say:up wait"), LastGasp: script(t, "say:gasp")}, nil)
	g.want("up")
	g.stop()
	g.wantResult(0, "")
	if line, more := <-g.lines; more {
		t.Errorf("after a stop: %s", line)
	}
}

func TestStopThatFailsIsTheLastGasp(t *testing.T) {
	soon := func(k *Keeper) { k.patience.stop = 300 * time.Millisecond }
	for _, c := range []struct {
		script, fact string
		code         int
	}{
		{"ready say:up wait:9", "ended with code 9", 9},
		{"ready say:up wait:75", "ended with code 75", 1},
		{"deaf ready say:up wait", "it did not end in 300ms", 1},
		{"ready say:up hang", "it did not end in 300ms", 1},
	} {
		g := keep(t, Options{Command: script(t, "store:a=1 "+c.script), LastGasp: script(t, "show")}, soon)
		g.want("up")
		g.stop()
		g.want("kept a=1")
		g.wantResult(c.code, c.fact)
	}
}

func TestStopBetweenTwoServers(t *testing.T) {
	log := &logged{waits: "failures=5", seen: make(chan struct{})}
	g := keep(t, Options{Command: script(t, "store:a=1 ready kill", "kill"), LastGasp: script(t, "show"), Tries: 1000,
		Logger: slog.New(slog.NewTextHandler(log, nil))}, nil)
	<-log.seen // the next one is some time away
	g.stop()
	g.want("kept a=1")
	g.wait()
	if g.result.code != 1 || g.result.err == nil {
		t.Errorf("Run returned %v", g.result)
	}
}

func TestStopBeforeTheStart(t *testing.T) {
	k, err := New(Options{Command: script(t, "exit:3"), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, err := k.Run(ctx); code != 0 || err != nil {
		t.Errorf("Run returned %d, %v", code, err)
	}
	k.Replace() // too late, and harmless
}

// STOPPING=1 is a promise, which is kept or enforced.
func TestServerThatStopsByItselfHasItsTime(t *testing.T) {
	g := keep(t, Options{Command: script(t, "ready stopping say:stopping hang", "say:second exit:0"), Watchdog: 50 * time.Millisecond},
		func(k *Keeper) { k.patience.stop = 400 * time.Millisecond })
	g.want("stopping")
	at := time.Now()
	g.want("second")
	if d := time.Since(at); d < 300*time.Millisecond {
		t.Errorf("killed after %v", d)
	}
}

func TestServerHasAProcessGroupOfItsOwn(t *testing.T) {
	g := keep(t, Options{Command: script(t, "ready say:up wait")}, nil)
	g.want("up")
	pid := g.pid()
	if group, err := unix.Getpgid(pid); err != nil || group != pid {
		t.Errorf("process %d is in the group %d: %v", pid, group, err)
	}
}

func TestWatchdogKillsAServerThatHangs(t *testing.T) {
	g := keep(t, Options{Command: script(t, "store:a=1 ready hang", "show ready wait"), Watchdog: 200 * time.Millisecond}, nil)
	g.want("kept a=1")
}

func TestWatchdogLeavesALivingServerAlone(t *testing.T) {
	g := keep(t, Options{Command: script(t, "keeper ready pings:6 wait"), Watchdog: time.Second}, nil)
	g.want(fmt.Sprintf("keeper %d %[1]d true 500ms", os.Getpid()))
	for range 6 { // three times as long
		g.want("pinged")
	}
	if len(g.pids) != 1 {
		t.Error("the server was replaced")
	}
}

func TestServerThatDoesNotGetReadyIsKilled(t *testing.T) {
	g := keep(t, Options{Command: script(t, "wait"), StartTimeout: 100 * time.Millisecond, Tries: 2}, nil)
	g.wantResult(1, "2 servers in a row have failed, the last one was killed: it was not ready in 100ms")
}

// A traced thread stays after SIGKILL until its tracer has looked, and the process
// with it: like one that waits in the kernel for an answer.
func TestSuccessorDoesNotWaitForAKilledServerForEver(t *testing.T) {
	const dead = 300 * time.Millisecond
	log := &logged{waits: "killing the server", seen: make(chan struct{})}
	g := keep(t, Options{Command: script(t, "store:a=1 ready say:up wait", "show say:second ready wait"), Watchdog: 300 * time.Millisecond, Tries: 1000,
		Logger: slog.New(slog.NewTextHandler(log, nil))}, func(k *Keeper) { k.patience.dead = dead })
	g.want("up")
	old := g.pid()
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	thread := otherThread(t, old)
	if err := unix.PtraceSeize(thread); err != nil {
		t.Skip("tracing is not allowed here:", err)
	}
	<-log.seen
	killed := time.Now()
	g.k.Reload() // wakes the keeper, which goes on waiting
	g.want("kept a=1")
	if d := time.Since(killed); d < dead-50*time.Millisecond {
		t.Errorf("the successor was started after %v", d)
	}
	g.want("second")
	if err := unix.Kill(old, 0); err != nil {
		t.Fatal("the old one has ended: nothing was tested:", err)
	}
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(thread, &status, unix.WALL, nil); err != nil {
			t.Fatal(err)
		}
		if status.Signaled() || status.Exited() {
			break
		}
	}
	// The one that is in the way now is reaped without further ado.
	for end := time.Now().Add(guard); unix.Kill(old, 0) == nil; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the old one has not been reaped")
		}
	}
}

func otherThread(t *testing.T, pid int) int {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range threads {
		var tid int
		if _, err := fmt.Sscan(d.Name(), &tid); err == nil && tid != pid {
			return tid
		}
	}
	t.Fatal("the server has one thread only")
	return 0
}

func TestFiftyKillsLoseNothing(t *testing.T) {
	var previous int
	onlyOne := func(pid int) {
		if previous != 0 && unix.Kill(previous, 0) == nil {
			t.Errorf("server %d was started before %d had been reaped", pid, previous)
		}
		previous = pid
	}
	keep(t, Options{Command: script(t, "exit:0")}, nil).wantAllClosed() // the runtime opens some for itself
	before := descriptors()
	g := keep(t, Options{Command: script(t, "store:a=1 store:a=2 store:b=3 ready count wait", "show count ready say:up wait"), Started: onlyOne},
		func(k *Keeper) { k.patience.young = 0 })
	var first string
	select {
	case first = <-g.lines:
	case <-time.After(guard):
		t.Fatal("no server")
	}
	var count string
	for i := range 50 {
		if err := unix.Kill(g.pid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		g.want("kept a=1 a=2 b=3")
		if line := <-g.lines; i == 0 {
			count = line
		} else if line != count {
			t.Fatalf("descriptors of a server: %s, before %s (first %s)", line, count, first)
		}
		g.want("up")
	}
	g.stop()
	g.wantResult(0, "")
	g.wantAllClosed()
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

func TestServerLivesOnWhenTheKeeperIsKilled(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "keep", filepath.Join(dir, "starts"), "store:a=1 ready kill", "show pid wait")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "TMPDIR="+dir), w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	g := &keeping{t: t, lines: make(chan string, 10)}
	go readLines(r, g.lines)
	g.want("kept a=1")
	var server int
	if _, err := fmt.Sscanf(<-g.lines, "pid %d", &server); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(server, unix.SIGKILL)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	g.want("gone false 0 <nil>")
	if err := unix.Kill(server, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.want("hup")
	if err := unix.Kill(server, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if line, more := <-g.lines; more {
		t.Error("the server goes on:", line)
	}
}

func TestOnlyTheCurrentServerIsObeyed(t *testing.T) {
	log := &logged{}
	g := keep(t, Options{Command: script(t, "say:up wait", "ready show exit:0"), Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, nil)
	g.want("up")
	us := &Client{socket: g.k.path(), gone: make(chan struct{}), patience: guard}
	fd := memory("ours")
	defer unix.Close(fd)
	if err := us.Ready(); err != nil {
		t.Fatal(err)
	}
	if err := us.Keep("a", fd); err != nil { // the barrier is for everybody
		t.Fatal(err)
	}
	if err := unix.Kill(g.pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.want("kept ")
	g.wantResult(0, "")
	if !strings.Contains(log.String(), fmt.Sprintf("not from the server\" pid=%d", os.Getpid())) {
		t.Errorf("nothing in the log: %s", log)
	}
}

func TestTooMuchIsRefused(t *testing.T) {
	for _, c := range []struct{ name, script, kept, log string }{
		{"descriptors", strings.Repeat("store:a=1 ", 65), strings.TrimSpace(strings.Repeat("a=1 ", 64)), "limit=64"},
		{"message", "store:a=1 long", "a=1", "longer than 4096 bytes"},
		{"colon", "store:a=1 raw:FDSTOREREMOVE=1,FDNAME=a:b", "a=1", "plain ASCII"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &logged{}
			g := keep(t, Options{Command: script(t, c.script+" ready barrier kill", "show exit:0"), Logger: slog.New(slog.NewTextHandler(log, nil))}, nil)
			g.want("kept " + c.kept)
			g.wantResult(0, "")
			if !strings.Contains(log.String(), c.log) {
				t.Errorf("the log does not say %q: %s", c.log, log)
			}
		})
	}
}

func TestSuccessorIsToldHowTheOneBeforeHasEnded(t *testing.T) {
	g := keep(t, Options{Command: script(t, "former ready kill", "former ready exit:3", "former ready exit:75", "former exit:0")}, nil)
	g.want("former ")
	g.want("former was killed by SIGKILL")
	g.want("former ended with code 3")
	g.want("former ")
	g.wantResult(0, "")
}

func TestKeepersOwnProtocolIsNotHandedOn(t *testing.T) {
	for _, name := range variables {
		t.Setenv(name, "1")
	}
	g := keep(t, Options{Command: script(t, "keeper env exit:0")}, nil)
	g.want(fmt.Sprintf("keeper %d %[1]d true 0s", os.Getpid()))
	g.want("env []")
	g.wantResult(0, "")
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	before := descriptors()
	if _, err := New(Options{}); err == nil {
		t.Error("no command is no error")
	}
	if _, err := New(Options{Command: []string{"true"}, Dir: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("no directory is no error")
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Command: []string{"true"}, Dir: long}); err == nil {
		t.Error("a path too long for a socket is no error")
	}
	if left, _ := os.ReadDir(long); len(left) > 0 {
		t.Error("left:", left)
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

// logged is a log that tells when something is in it.
type logged struct {
	mu    sync.Mutex
	text  bytes.Buffer
	waits string
	seen  chan struct{}
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waits != "" && bytes.Contains(p, []byte(l.waits)) {
		close(l.seen)
		l.waits = ""
	}
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A stop that comes when a successor has just been started waits until that understands
// it: what it is to take away would be left otherwise.
func TestStopWaitsForAnInfant(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	starts := 0
	k, err := New(Options{Command: script(t, "ready kill", "ready wait"), Dir: t.TempDir(), Started: func(int) {
		if starts++; starts == 2 {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := k.Run(ctx); code != 0 || err != nil {
		t.Errorf("Run returned %d, %v, want 0", code, err)
	}
}
