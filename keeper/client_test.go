package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A service as systemd starts it: $$ stays the same after exec.
func asService(t *testing.T, env []string, files []*os.File, words string) string {
	t.Helper()
	export := ""
	for _, v := range env {
		export += "export " + v + "; "
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", export + `exec "$0" "$@"`}, script(t, words+" exit:0")...)...)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("%v: %v", env, err)
	}
	return strings.TrimSpace(string(out))
}

func TestInheritFollowsSystemd(t *testing.T) {
	file := func(text string) *os.File { return os.NewFile(uintptr(memory(text)), text) }
	two := []*os.File{file("one"), file("two")}
	for _, c := range []struct {
		env, files, want string
	}{
		{"", "", "keeper 0 false 0s; kept ; env []"},
		{"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", "two", "keeper 0 false 0s; kept a=one b=two; env []"},
		{"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:a", "two", "keeper 0 false 0s; kept a=one a=two; env []"},
		{"LISTEN_PID=$$ LISTEN_FDS=1", "two", "keeper 0 false 0s; kept unknown=one; env []"},
		{"LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=a:b", "two", "keeper 0 false 0s; kept ; env []"},
		{"LISTEN_FDS=2 LISTEN_FDNAMES=a:b", "two", "keeper 0 false 0s; kept ; env []"},
		{"LISTEN_PID=x LISTEN_FDS=2", "two", `inherit LISTEN_PID="x" is no process id`},
		{"LISTEN_PID=$$ LISTEN_FDS=0", "two", `inherit LISTEN_FDS="0" is no number of descriptors`},
		{"LISTEN_PID=$$ LISTEN_FDS=99999999999", "two", `inherit LISTEN_FDS="99999999999" is no number of descriptors`},
		{"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a", "two", "inherit LISTEN_FDNAMES has 1 names for 2 descriptors"},
		{"LISTEN_PID=$$ LISTEN_FDS=900", "two", "inherit descriptor NNN (unknown), which LISTEN_FDS promises: bad file descriptor"},
		// The mark of a keeper is worth nothing without its pipe.
		{"KVFS_KEEPER=1:2:3 LISTEN_FDS=2 NOTIFY_SOCKET=/x", "two", "keeper 0 false 0s; kept ; env []"},
		{"KVFS_KEEPER=x LISTEN_PID=$$ LISTEN_FDS=2", "two", "keeper 0 false 0s; kept ; env []"},
		{"NOTIFY_SOCKET=@abstract WATCHDOG_USEC=3000000", "", "keeper 1 true 1.5s; kept ; env []"},
		{"NOTIFY_SOCKET=/run/x WATCHDOG_USEC=3000000 WATCHDOG_PID=$$", "", "keeper 1 true 1.5s; kept ; env []"},
		{"NOTIFY_SOCKET=/run/x WATCHDOG_USEC=3000000 WATCHDOG_PID=1", "", "keeper 1 true 0s; kept ; env []"},
		{"NOTIFY_SOCKET=/run/x WATCHDOG_USEC=18446744073709551615", "", `inherit WATCHDOG_USEC="18446744073709551615" is no time`},
		{"NOTIFY_SOCKET=vsock:2:3", "", `inherit NOTIFY_SOCKET="vsock:2:3" is neither a path nor an abstract socket`},
	} {
		var files []*os.File
		if c.files != "" {
			files = two
		}
		got := asService(t, strings.Fields(c.env), files, "keeper show env")
		var lines []string
		for line := range strings.SplitSeq(got, "\n") {
			if words := strings.Fields(line); words[0] == "keeper" { // without the parent
				line = fmt.Sprintf("keeper %s %s %s", words[1], words[3], words[4])
			} else if rest, ok := strings.CutPrefix(line, "inherit descriptor "); ok {
				_, rest, _ = strings.Cut(rest, " ")
				line = "inherit descriptor NNN " + rest
			}
			lines = append(lines, line)
		}
		if got := strings.Join(lines, "; "); got != c.want && got+" " != c.want && strings.ReplaceAll(got, "kept;", "kept ;") != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.env, got, c.want)
		}
	}
}

// systemd as far as a datagram socket is.
func systemd(t *testing.T, name string) (socket int, c *Client) {
	t.Helper()
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	t.Setenv(notifySocket, name)
	if c, err = Inherit(); err != nil {
		t.Fatal(err)
	}
	return socket, c
}

// hear waits for a message.
func hear(t *testing.T, socket int) (string, []int) {
	t.Helper()
	poll([]unix.PollFd{{Fd: int32(socket), Events: unix.POLLIN}}, time.Now().Add(guard))
	text, pid, fds, err := receive(socket)
	if err != nil || pid != os.Getpid() {
		t.Fatalf("%q from %d: %v", text, pid, err)
	}
	return string(text), fds
}

func TestClientSpeaksTheProtocolOfSystemd(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@kvfs-test-%d", os.Getpid())} {
		socket, c := systemd(t, name)
		if !c.Kept() || c.Keeper() != 1 {
			t.Errorf("kept %v, keeper %d", c.Kept(), c.Keeper())
		}
		for want, say := range map[string]func() error{
			"READY=1": c.Ready, "STOPPING=1": c.Stopping, "WATCHDOG=1": c.Ping,
			"EXTEND_TIMEOUT_USEC=90000000": func() error { return c.Extend(90 * time.Second) },
			"STATUS=two lines":             func() error { return c.Status("two\nlines") },
		} {
			if err := say(); err != nil {
				t.Fatal(err)
			}
			if got, fds := hear(t, socket); got != want || len(fds) > 0 {
				t.Errorf("%q %v, want %q", got, fds, want)
			}
		}
		fd := memory("content")
		kept := make(chan error, 1)
		go func() { kept <- c.Keep("fuse", fd) }()
		got, stored := hear(t, socket)
		if got != "FDSTORE=1\nFDNAME=fuse" || len(stored) != 1 {
			t.Fatalf("%q %v", got, stored)
		}
		text := make([]byte, 100)
		if n, err := unix.Pread(stored[0], text, 0); err != nil || string(text[:n]) != "content" {
			t.Errorf("%q %v", text[:n], err)
		}
		barrier(t, socket, kept)
		unix.Close(fd)
		closeAll(stored)

		go func() { kept <- c.Drop("fuse") }()
		if got, fds := hear(t, socket); got != "FDSTOREREMOVE=1\nFDNAME=fuse" || len(fds) > 0 {
			t.Fatalf("%q %v", got, fds)
		}
		barrier(t, socket, kept)
		select {
		case <-c.Gone():
			t.Error("systemd is gone")
		default:
		}
	}
}

// barrier hears one, and lets it through only after the other has been seen to wait.
func barrier(t *testing.T, socket int, done <-chan error) {
	t.Helper()
	got, fds := hear(t, socket)
	if got != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("%q %v", got, fds)
	}
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	closeAll(fds)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(guard):
		t.Fatal("it waits for ever")
	}
}

func TestKeepDoesNotWaitForEver(t *testing.T) {
	address := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "notify")}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, address); err != nil { // and nobody hears
		t.Fatal(err)
	}
	c := &Client{socket: address.Name, gone: make(chan struct{}), patience: 200 * time.Millisecond}
	fd := memory("")
	defer unix.Close(fd)
	if err := c.Keep("a", fd); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
	// The queue is bounded. A process that asks for what it has no time for must hear of it.
	for err := error(nil); err == nil; err = c.Ping() {
	}
}

func TestKeepRefusesWhatWouldBeLost(t *testing.T) {
	c := &Client{socket: filepath.Join(t.TempDir(), "none"), gone: make(chan struct{}), patience: guard}
	path, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(path)
	if err := c.Keep("a", path); err == nil || !strings.Contains(err.Error(), "O_PATH") {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"", "keeper", "a:b", "a\nb", strings.Repeat("a", 256)} {
		if err := c.Keep(name, 0); err == nil || errors.Is(err, unix.ENOENT) {
			t.Errorf("%q is kept: %v", name, err)
		}
		if err := c.Drop(name); err == nil || errors.Is(err, unix.ENOENT) {
			t.Errorf("%q is dropped: %v", name, err)
		}
	}
	// A keeper that is not there, though somebody has promised it, is an error.
	if err := c.Keep("a", 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v", err)
	}
	if err := c.Status(strings.Repeat("a", maxMessage)); err == nil || errors.Is(err, unix.ENOENT) {
		t.Errorf("a long status: %v", err)
	}
}

func TestWithoutAKeeperNothingIsDone(t *testing.T) {
	c, err := Inherit()
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{c.Keep("a", 0), c.Drop("a"), c.Ready(), c.Status("x"), c.Stopping(), c.Ping()} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, ok := c.Take("a"); ok || c.Kept() || c.Keeper() != 0 || c.PingEvery() != 0 || len(c.Names()) != 0 {
		t.Error("there is something")
	}
}

func TestDescriptorsAreGivenOutOnceAndTheRestIsClosed(t *testing.T) {
	a, b, z := memory("a"), memory("b"), memory("z")
	c := &Client{left: []descriptor{{"x", a}, {"x", b}, {"y", z}}}
	got := map[int]bool{}
	for range 2 {
		fd, ok := c.Take("x")
		if !ok || got[fd] {
			t.Errorf("%d %v", fd, ok)
		}
		got[fd] = true
	}
	if _, ok := c.Take("x"); ok {
		t.Error("a third one")
	}
	c.CloseRest()
	for fd, open := range map[int]bool{a: true, b: true, z: false} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); (err == nil) != open {
			t.Errorf("descriptor %d: %v, want open %v", fd, err, open)
		}
	}
	unix.Close(a)
	unix.Close(b)
	if len(c.Names()) > 0 {
		t.Error(c.Names())
	}
}
