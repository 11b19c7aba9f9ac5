package logs

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// fileLogs are Logs with a file that nothing else is known of.
func fileLogs(t *testing.T, o FileOptions) (*Logs, *lines) {
	t.Helper()
	stderr := &lines{}
	l := New(Options{Stderr: stderr, Format: Text})
	if o.Size == 0 {
		o.Size = 1 << 20
	}
	if o.Files == 0 {
		o.Files = 3
	}
	l.Configure(Settings{Format: Text, File: o})
	return l, stderr
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFileIsMadeForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "some", "where", "kvfs.log")
	l, _ := fileLogs(t, FileOptions{Path: path})
	l.Logger().Info("one", "url", "https://x", "err", "two\nlines")
	if got := read(t, path); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=INFO msg=one url=https://x err="two\nlines"`) {
		t.Errorf("%q", got)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	l.Configure(Settings{Format: JSON, File: FileOptions{Path: path, Size: 1 << 20, Files: 1}})
	l.Logger().Info("two")
	if got := read(t, path); !strings.HasSuffix(got, `"level":"INFO","msg":"two"}`+"\n") {
		t.Errorf("%q", got)
	}
	if s := l.Stats().File; s.Written != 2 || s.Lost != 0 || s.Err != nil || s.Path != path {
		t.Errorf("%+v", s)
	}
}

func TestFilesAreRotatedAndBounded(t *testing.T) {
	for _, files := range []int{1, 2, 4} {
		path := filepath.Join(t.TempDir(), "kvfs.log")
		l, stderr := fileLogs(t, FileOptions{Path: path, Size: 4 << 10, Files: files})
		numbered(l, 0, 1000)
		all, err := filepath.Glob(path + "*")
		if err != nil || len(all) != files {
			t.Fatalf("%v, want %d", all, files)
		}
		var text string
		for i := files - 1; i >= 0; i-- {
			name := path
			if i > 0 {
				name = fmt.Sprintf("%s.%d", path, i)
			}
			part := read(t, name)
			if len(part) > 4<<10 || part == "" {
				t.Errorf("%s has %d bytes", name, len(part))
			}
			text += part
		}
		// What is left are the newest, none missing.
		lines := strings.Split(strings.TrimSpace(text), "\n")
		for i, line := range lines {
			if want := fmt.Sprintf(`msg="record %d"`, 1000-len(lines)+i); !strings.HasSuffix(line, want) {
				t.Fatalf("line %d of %d is %q, want %s", i, len(lines), line, want)
			}
		}
		if strings.Contains(stderr.String(), "cannot be written") {
			t.Error(stderr)
		}
	}
}

func TestFileThatIsMovedAwayIsMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvfs.log")
	l, _ := fileLogs(t, FileOptions{Path: path})
	numbered(l, 0, 1)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	numbered(l, 1, 2)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("made by logrotate\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	numbered(l, 2, 3)
	if a, b := read(t, path+".old"), read(t, path); !strings.Contains(a, "record 0") || strings.Contains(a, "record 1") || !strings.Contains(b, "record 2") || strings.Contains(b, "record 1") {
		t.Errorf("%q\n%q", a, b)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}

// Each of these would have kvfs write to a file that somebody else has chosen, or wait.
func TestTrapsInThePlaceOfTheFileAreRefused(t *testing.T) {
	for name, set := range map[string]func(dir, path, victim string) error{
		"symbolic link":              func(_, path, victim string) error { return os.Symlink(victim, path) },
		"symbolic link to nothing":   func(dir, path, _ string) error { return os.Symlink(filepath.Join(dir, "new"), path) },
		"hard link":                  func(_, path, victim string) error { return os.Link(victim, path) },
		"directory":                  func(_, path, _ string) error { return os.Mkdir(path, 0o700) },
		"FIFO":                       func(_, path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"socket":                     func(_, path, _ string) error { return listenAndLeave(path) },
		"directory others can write": func(dir, _, _ string) error { return os.Chmod(dir, 0o777) },
		"file of another user":       func(_, path, _ string) error { return madeBy(path, 12345) },
		"directory of another user":  func(dir, _, _ string) error { return os.Chown(dir, 12345, 12345) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, victim := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "victim")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "kvfs.log")
			if err := set(dir, path, victim); err != nil {
				if os.Geteuid() != 0 && strings.Contains(name, "another user") {
					t.Skip("needs root")
				}
				t.Fatal(err)
			}
			l, stderr := fileLogs(t, FileOptions{Path: path})
			numbered(l, 0, 3)
			if s := l.Stats().File; s.Err == nil || s.Written != 0 || s.Lost != 3 {
				t.Errorf("%+v", s)
			}
			if n := strings.Count(stderr.String(), "the log file cannot be written"); n != 1 {
				t.Errorf("said %d times", n)
			}
			if got := read(t, victim); got != "precious" {
				t.Errorf("the victim has %q", got)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			numbered(l, 3, 4)
			if got := read(t, path); !strings.Contains(got, "record 3") {
				t.Errorf("when the trap is gone: %q", got)
			}
			stderr.await(t, "the log file is written again")
		})
	}
}

func listenAndLeave(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

func madeBy(path string, uid int) error {
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return err
	}
	return os.Chown(path, uid, uid)
}

func TestSeveralProcessesWriteWholeLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvfs.log")
	var all sync.WaitGroup
	for range 4 { // each with a descriptor of its own, as processes have
		l, _ := fileLogs(t, FileOptions{Path: path, Size: 16 << 20})
		all.Go(func() { numbered(l, 0, 500) })
	}
	all.Wait()
	lines := strings.Split(strings.TrimSpace(read(t, path)), "\n")
	if len(lines) != 2000 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "time=") || !strings.HasSuffix(line, `"`) {
			t.Fatalf("%q", line)
		}
	}
}

func TestEverySinkSaysWhatIsWrongWithAnother(t *testing.T) {
	c := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	stderr := &lines{}
	l := New(Options{Stderr: stderr, Format: Text})
	l.Logger().Info("early")
	l.Logger().Debug("early, and in detail")
	l.Beside().Info("early, beside")
	path := filepath.Join(t.TempDir(), "no")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Configure(Settings{Format: Text, File: FileOptions{Path: path + "/kvfs.log", Size: 1 << 20, Files: 1}, Target: c.target})
	running(t, l)
	if e := c.awaitMessage("the log file cannot be written"); e.record["file"] != path+"/kvfs.log" {
		t.Errorf("%v", e.record)
	}
	c.awaitMessage("early")
	c.awaitMessage("early, beside")
	if s := stderr.String(); strings.Contains(s, "beside") || strings.Contains(s, "in detail") {
		t.Error(s)
	}
}

// What is logged before the settings are known has room up to a bound. How much had none is said once, of what the settings
// want to have.
func TestRecordsBeforeTheSettingsAreCounted(t *testing.T) {
	for _, c := range []struct {
		records, debug int
		want           string // "": nothing was dropped
	}{{early, 0, ""}, {early, 7, ""}, {early + 3, 7, "dropped=3"}} {
		path, stderr := filepath.Join(t.TempDir(), "kvfs.log"), &lines{}
		l := New(Options{Stderr: stderr, Format: Text, Level: slog.LevelDebug})
		numbered(l, 0, c.records)
		for range c.debug {
			l.Logger().Debug("in detail")
		}
		settings := Settings{Format: Text, Level: slog.LevelInfo, File: FileOptions{Path: path, Size: 1 << 20, Files: 1}}
		l.Configure(settings)
		l.Configure(settings)
		numbered(l, c.records, c.records+1)
		got := read(t, path)
		want := early + 1
		if c.want != "" {
			want++
		}
		if strings.Count(got, "\n") != want || !strings.Contains(got, fmt.Sprintf(`"record %d"`, c.records)) || strings.Count(got, "were dropped") != want-early-1 || !strings.Contains(got, c.want) {
			t.Errorf("%d records: the file has %d lines, want %d, and ends in %q", c.records, strings.Count(got, "\n"), want, got[max(0, len(got)-300):])
		}
		if strings.Contains(stderr.String(), "were dropped") || strings.Count(stderr.String(), "record ") != c.records+1 {
			t.Errorf("%d records: standard error has missed nothing, and says %q", c.records, stderr.String()[max(0, len(stderr.String())-300):])
		}
	}
}

func TestLevelAndFormatFollowTheSettings(t *testing.T) {
	stderr := &lines{}
	l := New(Options{Stderr: stderr, Level: slog.LevelWarn})
	log := l.Logger().With("a", 1)
	log.Info("hidden")
	l.Configure(Settings{Format: JSON, Level: slog.LevelDebug})
	log.Debug("shown")
	l.Configure(Settings{Format: Text, Level: slog.LevelError})
	log.Warn("hidden")
	log.Error("shown too")
	got := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if len(got) != 2 || !strings.HasSuffix(got[0], `"level":"DEBUG","msg":"shown","a":1}`) || !strings.HasSuffix(got[1], `level=ERROR msg="shown too" a=1`) {
		t.Errorf("%q", got)
	}
}

// Nothing that is logged ends the process that logs it, and bytes of which nobody knows what they are stay where they are.
func TestValuesThatMisbehave(t *testing.T) {
	stderr := &lines{}
	l := New(Options{Stderr: stderr, Format: JSON})
	l.Logger().Info("x", "nil error", (*broken)(nil), "nothing", nil, "bytes", []byte("-----BEGIN PRIVATE KEY-----"), "odd", "\xff", slog.Attr{})
	got := stderr.String()
	if strings.Contains(got, "BEGIN") || !strings.Contains(got, `"bytes":"27 bytes"`) || !strings.Contains(got, "\uFFFD") {
		t.Error(got)
	}
}

type broken struct{ text string }

func (b *broken) Error() string { return b.text }
