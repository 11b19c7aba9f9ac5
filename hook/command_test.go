package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scribe is a Runner for its actions alone, and what it logs.
func scribe() (*Runner, *bytes.Buffer) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	return New(Options{Logger: logger, Programs: NewPrograms(logger, "/proc/self/exe", "run")}), &log
}

func sh(script string) Action { return Action{Command: []string{"/bin/sh", "-c", script}} }

var renewals = []Change{
	{Key: "k1", Name: "contoso-web.www", Old: "1", New: "2", Paths: []string{"/etc/tls/a b", "/etc/tls/www.pem"}},
	{Key: "k2", Name: "contoso-web.api", Old: "3", New: "4", Paths: []string{"/etc/tls/api"}},
}

func TestCommandIsToldWhatWasRenewedAndNothingElse(t *testing.T) {
	t.Setenv("AZURE_CLIENT_SECRET", "of this process")
	r, _ := scribe()
	file := filepath.Join(t.TempDir(), "env")
	a := sh(`{ /usr/bin/env -0; printf '%s\0' "in=$(pwd)" "stdin=$(cat)" "argument=$1"; ls /proc/self/fd; } > "$0"`)
	a.Command = append(a.Command, file, "$(two) words;")
	done, err := r.command(t.Context(), a, renewals)
	if err != nil || len(done) != 2 {
		t.Fatal(done, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Split(string(text), "\x00")
	names := map[string]bool{"PWD": true, "SHLVL": true, "OLDPWD": true, "_": true} // of the shell itself
	for _, want := range []string{
		"KVFS_CERT=contoso-web.www contoso-web.api", "KVFS_OLD_VERSION=1 3", "KVFS_NEW_VERSION=2 4",
		"KVFS_PATHS=/etc/tls/a b\n/etc/tls/www.pem\n/etc/tls/api", searchPath, "in=/", "stdin=", "argument=$(two) words;",
	} {
		if !slices.Contains(said, want) {
			t.Errorf("it was not told %q: %q", want, said)
		}
	}
	for _, name := range []string{"KVFS_CERT", "KVFS_OLD_VERSION", "KVFS_NEW_VERSION", "KVFS_PATHS", "PATH", "HOME", "USER", "LOGNAME", "in", "stdin", "argument"} {
		names[name] = true
	}
	for _, line := range said[:len(said)-1] {
		if name, _, _ := strings.Cut(line, "="); !names[name] {
			t.Errorf("it was told %q", line)
		}
	}
	for _, fd := range strings.Fields(said[len(said)-1]) {
		n, _ := strconv.Atoi(fd)
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); n > 3 && (err != nil || flags&unix.FD_CLOEXEC != 0) { // 3 is that of ls
			t.Errorf("it has inherited %d", n)
		}
	}
}

// More certificates than an environment can tell of are several runs, each of which is told all of its own.
func TestManyRenewalsAreSeveralRuns(t *testing.T) {
	r, _ := scribe()
	file, all := filepath.Join(t.TempDir(), "names"), []Change{}
	for i := range 5000 {
		all = append(all, Change{Key: strconv.Itoa(i), Name: fmt.Sprint("vault.certificate-", i), Old: "a", New: "b", Paths: []string{fmt.Sprint("/etc/tls/certificate-", i)}})
	}
	done, err := r.command(t.Context(), sh(`echo run >> `+file+`; for c in $KVFS_CERT; do echo $c; done >> `+file), all)
	if err != nil || len(done) != len(all) {
		t.Fatal(len(done), err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	runs := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l != "run" }))
	if runs < 2 || runs > 6 || len(lines) != len(all)+runs {
		t.Errorf("%d runs, %d names", runs, len(lines)-runs)
	}
}

func TestCommandThatFails(t *testing.T) {
	for what, tt := range map[string]struct {
		action Action
		want   string
	}{
		"no such program":    {Action{Command: []string{"/no/such/program"}}, "/no/such/program cannot be started: no such file or directory"},
		"not executable":     {Action{Command: []string{"/etc/passwd"}}, "/etc/passwd cannot be started: permission denied"},
		"exit status":        {sh("echo first; echo 'last words' >&2; exit 3"), `/bin/sh: exit status 3: "last words"`},
		"killed":             {sh("kill -9 $$"), "/bin/sh: signal: killed"},
		"no such user":       {Action{Command: []string{"/bin/true"}, User: "nobody-has-this-name"}, "the user of a hook: user: unknown user nobody-has-this-name"},
		"check":              {Action{Check: []string{"/bin/sh", "-c", "echo broken; exit 1"}}, `the check before it has failed: /bin/sh: exit status 1: "broken"`},
		"a check that lasts": {Action{Check: []string{"/bin/sleep", "100"}, Timeout: 2 * time.Second}, "the check before it has failed: /bin/sleep has not ended in time, and was killed"},
	} {
		r, _ := scribe()
		f := flight{actions: []Action{tt.action}, jobs: []*job{{}}, changes: [][]Change{slices.Clone(renewals)}}
		o := f.fly(t.Context(), r)[0]
		if e := (*Error)(nil); !errors.As(o.err, &e) || e.Fact != tt.want || e.Hint == "" || len(o.done) > 0 {
			t.Errorf("%s: %v, %v", what, o.err, o.done)
		}
	}
}

// What a command has started ends with it when its time is over; what it has left behind after a good end does not.
func TestTimeoutEndsTheWholeGroup(t *testing.T) {
	r, _ := scribe()
	file := filepath.Join(t.TempDir(), "pids")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.opts.Programs.Run(ctx, Program{Argv: []string{"/bin/sh", "-c", `trap '' TERM; sleep 1000 & echo $$ $! > "$0"; while :; do sleep 1000; done`, file}})
	}()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pids := strings.Fields(string(text))
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(pids) != 2 {
		t.Fatal(pids)
	}
	for _, pid := range pids {
		if n, err := strconv.Atoi(pid); err != nil || alive(n) {
			t.Errorf("process %s lives on", pid)
		}
	}
}

// alive tells whether a process does anything any more.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ") && !strings.Contains(string(stat), ") X ")
}

func TestOutputLeftToSomebodyDoesNotHang(t *testing.T) {
	r, log := scribe()
	file := filepath.Join(t.TempDir(), "pid")
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/sh", "-c", `echo begun; sleep 1000 & echo $! > "$0"`, file}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !alive(pid) {
		t.Error("what it has started was ended with it")
	} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "line=begun") {
		t.Error(log)
	}
}

func TestOutputIsLoggedByLinesAndBounded(t *testing.T) {
	r, log := scribe()
	if err := r.opts.Programs.Run(t.Context(), Program{Argv: []string{"/bin/sh", "-c", `
		printf 'one\n\ntwo'; printf ' goes on\n\033[31mred\n'
		head -c 100000 /dev/zero | tr '\0' x; echo
		i=0; while [ $i -lt 200 ]; do echo "line $i"; i=$((i+1)); done; printf end`}}); err != nil {
		t.Fatal(err)
	}
	said := strings.Split(strings.TrimSpace(log.String()), "\n")
	for _, want := range []string{"line=one", `line="two goes on"`, `line="\x1b[31mred"`, `line="line 0"`, `line="line 95"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not logged", want)
		}
	}
	if len(said) != maxLines+1 || !strings.Contains(said[maxLines], "says more") || len(log.String()) > 40_000 {
		t.Errorf("%d lines, %d bytes are logged; the last is %s", len(said), log.Len(), said[len(said)-1])
	}
}

// A command is run with the rights of its user and all of that user's groups, and with no others.
func TestCommandIsRunAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	u, err := user.Lookup("postgres") // who is in the group ssl-cert too
	if err != nil {
		t.Skip("no user with several groups:", err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(dir); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want, err := exec.Command("id", "postgres").Output()
	if err != nil || !bytes.Contains(want, []byte(",")) {
		t.Fatalf("%v: %s", err, want)
	}
	for _, name := range []string{"postgres", u.Uid} {
		r, _ := scribe()
		file := filepath.Join(dir, name)
		a := sh(`{ id; echo "$HOME $USER"; grep CapEff /proc/self/status; } > ` + file)
		a.User = name
		if _, err := r.command(t.Context(), a, renewals); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if said := string(text); err != nil || said != string(want)+u.HomeDir+" postgres\nCapEff:\t0000000000000000\n" {
			t.Errorf("as %s: %s", name, said)
		}
	}
}

func TestSignalGoesToTheProcessOfAPIDFile(t *testing.T) {
	dir := t.TempDir()
	got := filepath.Join(dir, "got")
	cmd := exec.Command("/bin/sh", "-c", `trap 'echo USR1 > `+got+`; exit' USR1; echo ready; while :; do sleep 0.01; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		f := filepath.Join(t.TempDir(), "pid")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("/bin/true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	r := New(Options{Spared: func() []int { return []int{cmd.Process.Pid + 1<<20} }})
	for what, tt := range map[string]struct{ file, want string }{
		"no file":          {filepath.Join(dir, "none"), "no such file"},
		"no number":        {file("nginx\n"), "does not begin with the number of a process"},
		"empty":            {file(""), "does not begin with the number of a process"},
		"a group":          {file("-1\n"), "names process -1, which is sent no signal"},
		"init":             {file("1\n"), "names process 1, which is sent no signal"},
		"us":               {file(strconv.Itoa(os.Getpid())), "which is sent no signal"},
		"ours":             {file(strconv.Itoa(cmd.Process.Pid + 1<<20)), "which is sent no signal"},
		"one that is gone": {file(strconv.Itoa(ended.Process.Pid)), "which is not there"},
		"a fifo":           {fifo, "is not a regular file"},
		"a directory":      {dir, "is not a regular file"},
	} {
		_, err := r.signal(t.Context(), Action{Signal: "USR1", PIDFile: tt.file})
		if e := (*Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Fact, tt.want) || e.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.signal(t.Context(), Action{Signal: "USR1", PIDFile: file(fmt.Sprintf("%d\n/var/lib/postgresql\n", cmd.Process.Pid))}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if text, err := os.ReadFile(got); err != nil || string(text) != "USR1\n" {
		t.Error(string(text), err)
	}
	if ParseSignal("KILL") != 0 || ParseSignal("STOP") != 0 || ParseSignal("x") != 0 || ParseSignal("HUP") != syscall.SIGHUP {
		t.Error("signals")
	}
}
