package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"kvfs/emulator"
	"kvfs/status"
)

// watcher is a program that watches a store and says on stdout what it sees.
type watcher struct {
	t         testing.TB
	name      string
	cmd       *exec.Cmd
	out, errs buffer
	ended     chan struct{} // closed
}

// startWatcher runs a program until the test ends. It may read input first.
func startWatcher(t testing.TB, input, name string, args ...string) *watcher {
	t.Helper()
	w := &watcher{t: t, name: name, cmd: exec.Command(needProgram(t, name), args...), ended: make(chan struct{})}
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = strings.NewReader(input), &w.out, &w.errs
	w.cmd.WaitDelay = 10 * time.Second // for what it has started
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = w.cmd.Wait() // how it ends when it is told to is its own affair
		close(w.ended)
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		<-w.ended
		if t.Failed() {
			t.Logf("%s said:\n%s\n%s", name, w.out.tail(20), w.errs.tail(20))
		}
	})
	return w
}

// lines counts those that it has said.
func (w *watcher) lines(line string) int {
	return strings.Count("\n"+w.out.String(), "\n"+line+"\n")
}

// polls tells whether it waits for events with this limit.
func (w *watcher) polls(limit string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", w.cmd.Process.Pid))
	fields := strings.Fields(string(text)) // poll's number, descriptors, how many of them, limit
	return err == nil && len(fields) > 3 && fields[3] == limit
}

// follower is what a child tells that reads a file whenever it hears of it.
type follower struct {
	Events  int
	Content []byte
}

// followOnEvents reads a file again at each event that means that it may be another
// one, until its input ends: of the directory, or of the file itself.
func followOnEvents(path, what string, in io.Reader, out io.Writer) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	watched, means := filepath.Dir(path), fsnotify.Create
	if what == "file" {
		watched, means = path, fsnotify.Remove
	}
	if err := w.Add(watched); err != nil {
		return err
	}
	left := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(left)
	}()
	answer, f := json.NewEncoder(out), follower{}
	for {
		if f.Content, err = os.ReadFile(path); err != nil {
			return err
		}
		if err := answer.Encode(f); err != nil {
			return err
		}
		for heard := false; !heard; {
			select {
			case e := <-w.Events:
				heard = e.Name == path && e.Has(means)
			case err := <-w.Errors:
				return err
			case <-left:
				return nil
			}
		}
		f.Events++
		if what == "file" { // the watch went with the old one
			if err := w.Add(path); err != nil {
				return err
			}
		}
	}
}

// renewals are the ways in which a renewal can come: each makes one and returns when
// all see it.
var renewals = map[string]func(s *site, name string){
	"undisturbed": func(s *site, name string) { s.rotate(name) },
	"server killed": func(s *site, name string) {
		s.t.Helper()
		version, err := s.vault.Rotate("", name)
		if err != nil {
			s.t.Fatal(err)
		}
		go func() { _, _ = status.NewClient(s.socket).Refresh(s.t.Context(), []string{name}) }() // who dies meanwhile answers nothing
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)                              // at any moment of it
		s.another(s.kill(syscall.SIGKILL))
		s.until("the renewal is published", func() bool {
			luma, err := os.ReadFile(s.path("contoso-web." + name + ".luma")) // moves last
			if err != nil {
				s.t.Fatal(err)
			}
			return bytes.Contains(luma, []byte(version))
		})
	},
}

// watchedSite serves the certificate www.
func watchedSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount()
	return s
}

// Whoever watches, by inotifywait or in Go, the directory or the file that a link
// leads to, hears of each renewal, once, and finds the new one when it looks.
func TestWatchersHearOfEachRenewalOnce(t *testing.T) {
	needRoot(t)
	needProgram(t, "inotifywait")
	for how, renew := range renewals {
		t.Run(how, func(t *testing.T) {
			const times = 20
			s := watchedSite(t)
			link := s.path("contoso-web.www")
			directory := startWatcher(t, "", "inotifywait", "-m", "-e", "moved_to", "--format", "%f", s.store)
			followers := map[string]*visitor{}
			for _, what := range []string{"directory", "file"} {
				followers[what] = visit(t, syscall.Credential{}, "follow", link, what)
				followers[what].hear(&follower{})
			}
			if !directory.errs.await("Watches established.", directory.ended) {
				t.Fatal(&directory.errs)
			}
			var files []*watcher
			for i := range times {
				file := startWatcher(t, "", "inotifywait", "-m", "-e", "modify,attrib,close_write,move_self,delete_self,unmount", "--format", "%e", link)
				if !file.errs.await("Watches established.", file.ended) {
					t.Fatal(&file.errs)
				}
				files = append(files, file)
				renew(s, "www")
				now := readFile(t, link)
				for what, f := range followers {
					var told follower
					if f.hear(&told); told.Events != i+1 || !bytes.Equal(told.Content, now) {
						t.Fatalf("who watches the %s: %d events after %d renewals, and it has read the new file: %v", what, told.Events, i+1, bytes.Equal(told.Content, now))
					}
				}
				s.until("inotifywait tells of the file", func() bool { return file.out.String() != "" })
			}
			names := []string{"contoso-web.www", "contoso-web.www.pem", "contoso-web.www.keyid", "contoso-web.www.luma"}
			for _, name := range names {
				s.until("inotifywait tells of "+name, func() bool { return directory.lines(name) >= times })
			}
			if all := strings.Count(directory.out.String(), "\n"); all != times*len(names) {
				t.Errorf("%d events of the directory, want one for each of %d names and %d renewals", all, len(names), times)
			}
			for i, file := range files {
				if said := file.out.String(); said != "DELETE_SELF\n" {
					t.Errorf("who watches the file of version %d hears %q, want that it is gone, once", i+1, said)
				}
			}
		})
	}
}

// Programs that run a command when a file changes run it at each renewal, once: one
// that watches a directory, one that watches the file that a link leads to.
func TestWatchersRunTheirCommandOnceForEachRenewal(t *testing.T) {
	needRoot(t)
	needProgram(t, "incrond")
	needProgram(t, "entr")
	for how, renew := range renewals {
		t.Run(how, func(t *testing.T) {
			s := watchedSite(t)
			link, log := s.path("contoso-web.www"), filepath.Join(s.dir, "log")
			// Each run adds the certificate's digest to a log, as one line.
			script := filepath.Join(s.dir, "react")
			text := fmt.Sprintf("#!/bin/sh\n[ \"$2\" = contoso-web.www.luma ] || [ \"$1\" = entr ] || exit 0\necho \"$1 $(sha256sum <%s)\" >>%s\n", link, log)
			if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			startIncrond(t, s, "incron", script)
			entr := startWatcher(t, link+"\n", "entr", "-n", script, "entr")
			digest := func() string {
				out, err := exec.Command("sha256sum", link).Output()
				if err != nil {
					t.Fatal(err)
				}
				sum, _, _ := strings.Cut(string(out), " ")
				return sum + "  -\n"
			}
			runs := func(line string) int {
				text, err := os.ReadFile(log)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				return strings.Count(string(text), line)
			}
			s.until("entr begins", func() bool { return runs("entr "+digest()) == 1 }) // with a run
			const times = 10
			for range times {
				// It takes what changes within 50 ms of a run for a part of the same change.
				s.until("entr waits without a limit", func() bool { return entr.polls("0xffffffff") })
				renew(s, "www")
				now := digest()
				for _, name := range []string{"incron", "entr"} {
					s.until(name+" runs the command", func() bool { return runs(name+" "+now) > 0 })
				}
			}
			for name, want := range map[string]int{"incron ": times, "entr ": times + 1} {
				if n := runs(name); n != want {
					t.Errorf("%s ran the command %d times for %d renewals", name, n, times)
				}
			}
		})
	}
}

// startIncrond runs a command with an argument, and the name that was moved to, for
// each move in the store.
func startIncrond(t testing.TB, s *site, argument, command string) {
	t.Helper()
	dir := t.TempDir()
	tables := filepath.Join(dir, "tables")
	if err := os.Mkdir(tables, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"incron.conf":  fmt.Sprintf("system_table_dir = %s\nuser_table_dir = %s\nlockfile_dir = %s\nlockfile_name = incrond\n", tables, filepath.Join(dir, "none"), dir),
		"tables/store": fmt.Sprintf("%s IN_MOVED_TO %s %s $#\n", s.store, command, argument),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "none"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := startWatcher(t, "", "incrond", "-n", "-f", filepath.Join(dir, "incron.conf"))
	var dirStat syscall.Stat_t
	if err := syscall.Stat(s.store, &dirStat); err != nil {
		t.Fatal(err)
	}
	s.until("incrond, which says nothing, watches the store", func() bool {
		infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", w.cmd.Process.Pid))
		return err == nil && slices.ContainsFunc(infos, func(info string) bool {
			text, _ := os.ReadFile(info) // a descriptor may have been closed
			return bytes.Contains(text, fmt.Appendf(nil, " ino:%x ", dirStat.Ino))
		})
	})
}

// Servers that look at their files by themselves show the new certificate to the next
// who connects, without a signal and without a restart.
func TestServersThatLookAgainShowEachRenewal(t *testing.T) {
	needRoot(t)
	noPage := func(net.Conn) error { return nil } // TLS alone is looked at
	for name, start := range map[string]func(v *tlsServer, chain, key string){
		"prometheus-node-exporter": func(v *tlsServer, chain, key string) {
			config := v.configure(v.t.TempDir(), "tls_server_config:\n  cert_file: %s\n  key_file: %s\n", chain, key)
			v.start("TLS is enabled", "--collector.disable-defaults", "--web.listen-address="+v.addr, "--web.config.file="+config)
		},
		"etcd": func(v *tlsServer, chain, key string) {
			peers := "http://" + freeAddress(v.t)
			v.start("serving client traffic securely", "--data-dir", filepath.Join(v.t.TempDir(), "data"), "--logger", "zap", "--log-outputs", "stderr",
				"--listen-client-urls", "https://"+v.addr, "--advertise-client-urls", "https://"+v.addr, "--listen-peer-urls", peers,
				"--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--cert-file", chain, "--key-file", key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			needProgram(t, name)
			s := watchedSite(t)
			link := s.path("contoso-web.www")
			v := &tlsServer{t: t, name: name, addr: freeAddress(t), client: s.client("www.example.com"), greet: noPage}
			start(v, link+".pem", link+".keyid")
			for how, renew := range renewals {
				for range 5 {
					renew(s, "www")
					if got, err := v.get(); err != nil || !got.Equal(leaf(t, link)) {
						t.Fatalf("after a renewal, %s: %v, or it shows another certificate than the link", how, err)
					}
				}
			}
		})
	}
}
