package hook

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hold" {
		os.Exit(hold(os.Args[2]))
	}
	if len(os.Args) > 3 && os.Args[1] == "as" {
		fmt.Println(NewPrograms(slog.New(slog.NewTextHandler(os.Stdout, nil)), "/proc/self/exe", "run").Run(context.Background(), Program{User: os.Args[2], Argv: os.Args[3:]}))
		os.Exit(1)
	}
	if len(os.Args) > 3 && os.Args[1] == "run" {
		fmt.Fprintln(os.Stderr, Become(os.Args[2], os.Args[3:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hold traces a process until the end of its own input. Meanwhile that process may be killed, but its parent hears
// nothing of its end: to the parent it is as one that waits in the kernel.
func hold(process string) int {
	runtime.LockOSThread() // who traces is a thread
	pid, err := strconv.Atoi(process)
	if err == nil {
		err = unix.PtraceSeize(pid)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// overdue is a context that ends as one does whose time is over.
type overdue struct{ context.Context }

func (o overdue) Err() error {
	if o.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

// A process that not even SIGKILL ends keeps nobody waiting, and is not run again while it is there.
func TestProgramThatCannotBeKilledIsLeftAndNotRunBeside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to trace a process")
	}
	t.Parallel()
	r, _ := scribe()
	file := filepath.Join(t.TempDir(), "pid")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	stuck := Program{Argv: []string{"/bin/sh", "-c", `test -e "$0.free" && exit; echo $$ > "$0"; exec sleep 1000`, file}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.opts.Programs.Run(overdue{ctx}, stuck) }()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(text))
	holder := exec.Command(os.Args[0], "hold", pid)
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "held\n" {
		t.Fatal(line, err)
	}
	cancel()
	fact := "/bin/sh has not ended in time, and cannot be killed: process " + pid + " waits in the kernel"
	refused := func(err error) bool {
		var e *Error
		return errors.As(err, &e) && e.Fact == fact && e.Hint != ""
	}
	if err := <-ended; !refused(err) {
		t.Error(err)
	}
	within, over := context.WithTimeout(t.Context(), 10*time.Second) // or it would wait for a reader
	defer over()
	if err := r.opts.Programs.Run(within, stuck); !refused(err) {
		t.Error("it is run beside the one that is there:", err)
	}
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/true"}}); err != nil {
		t.Error("another one:", err)
	}
	if n, err := strconv.Atoi(pid); err != nil || unix.Kill(n, 0) != nil {
		t.Error("its number may become another's")
	}

	if err := os.WriteFile(file+".free", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	input.Close()
	if err := holder.Wait(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err = r.opts.Programs.Run(t.Context(), stuck); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Error("it has ended, and is not run again:", err)
	}
}

// The same may have been run several times side by side. It is not run again before all have ended.
func TestProgramIsNotRunBesideAnyThatIsLeft(t *testing.T) {
	p := NewPrograms(slog.New(slog.DiscardHandler))
	var cmds []*exec.Cmd
	var said []*Error
	for i := range 2 {
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		e := failed("", "process %d", cmd.Process.Pid)
		p.leave("key", e, cmd, watch(cmd.Process.Pid))
		cmds, said = append(cmds, cmd), append(said, e)
		if err := p.stuck("key"); err == nil {
			t.Error("nothing is known of", i)
		}
	}
	is := func(want error) {
		t.Helper()
		for end := time.Now().Add(time.Minute); p.stuck("key") != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it says %v, want %v", p.stuck("key"), want)
			}
		}
	}
	for i, after := range []error{said[0], nil} { // the second ends first
		if err := cmds[1-i].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		is(after)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) > 0 {
		t.Error("it is not forgotten:", p.left)
	}
}

// A file that cannot be opened yet, as on a server of files that is away, holds up the one process that is to become it, and
// nobody else: while Go starts a process itself, no memory can be collected.
func TestProgramOnAFileSystemThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r, _ := scribe()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// Whoever opens it waits until it is let go, and SIGIO tells of that.
	opened := make(chan os.Signal, 1)
	signal.Notify(opened, unix.SIGIO)
	defer signal.Stop(opened)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // a process that was just forked may have it open
		if _, err = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.opts.Programs.Run(overdue{ctx}, Program{Argv: []string{path}}) }()
	<-opened
	runtime.GC()
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/true"}}); err != nil {
		t.Error("another one:", err)
	}
	cancel()
	var e *Error
	if err := <-ended; !errors.As(err, &e) || e.Fact != path+" cannot be started: its file system has not answered in time" || e.Hint == "" {
		t.Error(err)
	}
}

// silent mounts a file system that answers nothing: who looks a name up there cannot be killed. asked has a value when
// somebody does; release lets them go with an error.
func silent(t *testing.T) (dir string, asked <-chan struct{}, release func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir = t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no /dev/fuse:", err)
	}
	if err := unix.Mount("silent", dir, "fuse.silent", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0) // which keeps it mounted until the end
	t.Cleanup(func() {
		unix.Close(root)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// What follows is the protocol of fuse.h: a header of length, opcode and unique; the first request is INIT.
	request, order := make([]byte, 1<<17), binary.NativeEndian
	if _, err := unix.Read(fd, request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 16+64)
	order.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], request[8:16]) // unique
	order.PutUint32(reply[16:], 7)   // the version of the protocol
	order.PutUint32(reply[20:], 31)
	order.PutUint32(reply[36:], 4096) // max_write
	if _, err := unix.Write(fd, reply); err != nil {
		t.Fatal(err)
	}
	questions, ended := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := unix.Read(fd, request); err != nil {
				return
			}
			if order.Uint32(request[4:]) == 1 { // LOOKUP
				questions <- struct{}{}
			}
		}
	}()
	return dir, questions, sync.OnceFunc(func() {
		if err := unix.Unmount(dir, unix.MNT_FORCE); !errors.Is(err, unix.EBUSY) { // it stays, and its connection has ended
			t.Error(err)
		}
		<-ended
		unix.Close(fd)
	})
}

// One that cannot even be killed is left alone, and known.
func TestProgramOnAFileSystemThatIsAwayForGood(t *testing.T) {
	t.Parallel()
	dir, asked, release := silent(t)
	defer release()
	r, _ := scribe()
	program := Program{Argv: []string{filepath.Join(dir, "program")}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.opts.Programs.Run(overdue{ctx}, program) }()
	<-asked
	runtime.GC()
	cancel()
	var said, again *Error
	if err := <-ended; !errors.As(err, &said) || !strings.HasPrefix(said.Fact, program.Argv[0]+" cannot be started: its file system has not answered in time, and process ") || !strings.HasPrefix(said.Hint, "see /proc/") {
		t.Fatal(err)
	}
	if err := r.opts.Programs.Run(t.Context(), program); !errors.As(err, &again) || *again != *said {
		t.Error("it is run beside the one that is there:", err)
	}
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/true"}}); err != nil {
		t.Error("another one:", err)
	}
	release()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := r.opts.Programs.Run(t.Context(), program)
		if errors.As(err, &again) && again.Fact == program.Argv[0]+" cannot be started: transport endpoint is not connected" {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Who is killed takes its programs along, those of other users too.
func TestProgramOfAnotherUserEndsWithItsParent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Parallel()
	parent := exec.Command(os.Args[0], "as", "nobody", "/bin/sh", "-c", "echo $$ $(id -un).; exec sleep 1000")
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	line, err := bufio.NewReader(output).ReadString('\n')
	if _, said, _ := strings.Cut(line, `line="`); err != nil || !strings.HasSuffix(said, " nobody.\"\n") {
		t.Errorf("%q, %v", line, err)
	} else if pid, err = strconv.Atoi(strings.Fields(said)[0]); err != nil {
		t.Error(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	for end := time.Now().Add(time.Minute); pid > 0 && alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatal("it lives on")
		}
	}
}

func TestProgramIsGivenItsInput(t *testing.T) {
	r, _ := scribe()
	input := []byte(strings.Repeat("0123456789abcdef", 64<<10))
	file := filepath.Join(t.TempDir(), "input")
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/sh", "-c", `cat > "$0"`, file}, Input: input}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != string(input) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/true"}, Input: input}); err != nil {
		t.Error("one that does not read it:", err)
	}
}
