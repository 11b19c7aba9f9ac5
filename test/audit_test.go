package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/emulator"
	"kvfs/status"
)

// auditLine is one of the audit file.
type auditLine struct {
	Time        time.Time
	Audit       string
	Path        string
	Certificate string
	Version     string
	Key         bool
	UID, GID    *int
	PID         int
	Started     *time.Time
	Executable  string
	Command     string
	Gone        bool
	Lines       int
}

// audited is a site whose opens are written down.
type audited struct {
	*site
	file string
}

// newAudited has a vault with so many certificates, and settings that ask for an audit.
func newAudited(t testing.TB, certificates int, edit func(document)) *audited {
	t.Helper()
	needRoot(t)
	s := &audited{site: newSite(t)}
	var profiles []emulator.Profile
	for i := range certificates {
		profiles = append(profiles, emulator.Profile{Name: fmt.Sprintf("cert-%03d", i), Key: emulator.EC256})
	}
	if err := s.vault.AddCertificates(profiles...); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.file = filepath.Join(s.dir, "log", "audit.log")
	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["audit"] = map[string]any{"file": s.file}
		if edit != nil {
			edit(d)
		}
	})
	return s
}

// serve mounts, and returns when all certificates are there.
func (s *audited) serve() {
	s.t.Helper()
	s.mount()
	s.must("wait", "--timeout", "1m")
}

// keys are the links to files with keys, two for each certificate.
func (s *audited) keys(certificates int) (links []string) {
	for i := range certificates {
		name := s.path(fmt.Sprintf("contoso-web.cert-%03d", i))
		links = append(links, name, name+".keyid")
	}
	return links
}

// lines of a file; what is not whole yet is left out.
func linesOf(t testing.TB, path string) (lines []auditLine) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, line := range bytes.SplitAfter(data, []byte("\n")) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		var l auditLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%s: %v: %q", path, err, line)
		}
		lines = append(lines, l)
	}
	return lines
}

// untilLines waits for so many opens in a file.
func (s *audited) untilLines(path string, n int, of func(auditLine) bool) (found []auditLine) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s has %d lines of the kind", path, n), func() bool {
		found = slices.DeleteFunc(linesOf(s.t, path), func(l auditLine) bool { return l.Audit != "open" || !of(l) })
		return len(found) >= n
	})
	return found
}

func everyLine(auditLine) bool { return true }

// openEach is a child that opens each of the files it is told, once, and ends.
func openEach(in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := copyFile(lines.Text(), io.Discard); err != nil {
			return err
		}
	}
	return lines.Err()
}

// opener starts a child that opens files and ends at once.
func opener(t testing.TB, uid uint32, paths ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "child", "openeach")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// Ten thousand opens of fifty processes of five users, and of fifty more that open one
// file and end at once: each has a line that names the process it was.
func TestAuditNamesTheProcessOfEachOpen(t *testing.T) {
	const certificates, processes = 100, 50
	users := []uint32{0, admitted, 1201, 1202, 1203}
	s := newAudited(t, certificates, func(d document) {
		d.secrets()["pollingIntervalInS"] = "3600"
		for i := range certificates {
			var acls []any
			for _, u := range users[1:] {
				acls = append(acls, map[string]any{"user": u})
			}
			d.entry(fmt.Sprintf("cert-%03d", i))["acls"] = acls
		}
	})
	s.serve()
	links := s.keys(certificates)
	targets := map[string]string{}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		targets[s.path(to)] = link
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	cat, err := filepath.EvalSymlinks(needProgram(t, "cat"))
	if err != nil {
		t.Fatal(err)
	}
	type opened struct {
		uid   uint32
		exe   string
		began time.Time
		paths map[string]int
	}
	all := map[int]*opened{}
	var running []*exec.Cmd
	for i := range processes {
		uid := users[i%len(users)]
		began := time.Now()
		long := opener(t, uid, links...)
		all[long.Process.Pid] = &opened{uid, self, began, map[string]int{}}
		short := exec.Command("cat", links[i])
		short.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if err := short.Start(); err != nil {
			t.Fatal(err)
		}
		all[short.Process.Pid] = &opened{uid, cat, began, map[string]int{}}
		running = append(running, long, short)
		if i%5 == 4 { // some at a time
			for _, cmd := range running {
				if err := cmd.Wait(); err != nil {
					t.Fatal("a reader:", err)
				}
			}
			running = nil
		}
	}
	const want = processes*2*certificates + processes
	lines := s.untilLines(s.file, want, everyLine)
	if len(lines) != want {
		t.Errorf("%d lines of %d opens", len(lines), want)
	}
	r := s.report().Audit
	nameless, gone, programless := 0, 0, 0
	for _, l := range lines {
		p := all[l.PID]
		switch {
		case p == nil:
			t.Fatalf("a process that never was: %+v", l)
		case targets[l.Path] == "":
			t.Fatalf("a file that was not opened: %+v", l)
		case !l.Key || !strings.HasSuffix(l.Path, l.Version) && !strings.Contains(l.Path, l.Version+".keyid.") || !strings.Contains(l.Path, "contoso-web."+l.Certificate[strings.LastIndex(l.Certificate, "/")+1:]+"."):
			t.Fatalf("it names another file than it says: %+v", l)
		}
		if p.paths[l.Path]++; p.paths[l.Path] > 1 {
			t.Fatalf("told twice: %+v", l)
		}
		if l.Gone {
			gone++
		}
		if l.UID == nil {
			nameless++
			continue
		}
		if l.Executable == "" {
			programless++
		}
		// A start that the kernel's record has is rounded down to the second.
		if uint32(*l.UID) != p.uid || uint32(*l.GID) != p.uid || l.Executable != p.exe && (l.Executable != "" || !l.Gone) ||
			l.Started == nil || l.Started.Before(p.began.Add(-2*time.Second)) || l.Started.After(l.Time.Add(time.Second)) {
			t.Fatalf("another process: %+v of user %v and since %v, it was %+v", l, *l.UID, l.Started, *p)
		}
	}
	t.Logf("%d opens: %d by processes that had ended, %d of these without the program, %d with the number alone; priority %q, record of ends: %t", len(lines), gone, programless, nameless, r.Priority, r.Exits)
	if r.Overflow+r.Dropped+r.Lost > 0 || int(r.Gone) != nameless || r.Exits && nameless > 0 {
		t.Errorf("the report: %+v", r)
	}
}

// Nothing that dies costs an event: the server is killed while files are opened, and the
// auditor while the kernel has events for it.
func TestAuditSurvivesDeaths(t *testing.T) {
	const certificates = 20
	s := newAudited(t, certificates, nil)
	s.serve()
	links, told := s.keys(certificates), 0
	round := func() {
		t.Helper()
		cmd := opener(t, 0, links...)
		if err := cmd.Wait(); err != nil {
			t.Fatal("a reader:", err)
		}
		told += len(links)
	}
	round()
	before := s.report()
	for range 5 {
		server := s.report().Processes.Server
		cmd := opener(t, 0, links...)
		if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal("a reader:", err)
		}
		told += len(links)
		s.until("another server answers", func() bool { return s.report().Processes.Server != server })
	}
	s.untilLines(s.file, told, everyLine)
	if now := s.report(); now.Audit == nil || now.Audit.Process != before.Audit.Process || now.Audit.Error != nil {
		t.Errorf("the auditor is not the one before: %+v, it was %+v", now.Audit, before.Audit)
	}
	// What the next server publishes is known to it, too.
	version := s.rotate("cert-000")
	round()
	s.untilLines(s.file, told, everyLine)
	s.untilLines(s.file, 2, func(l auditLine) bool { return l.Version == version && strings.HasSuffix(l.Certificate, "/cert-000") })

	// The auditor dies with events in its queue.
	auditor := s.report().Audit.Process
	if err := syscall.Kill(auditor, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	round() // nobody waits for it
	if err := syscall.Kill(auditor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until("another auditor is at work", func() bool {
		a := s.report().Audit
		return a != nil && a.Process != 0 && a.Process != auditor && a.Error == nil
	})
	round()
	if lines := s.untilLines(s.file, told, everyLine); len(lines) != told {
		t.Errorf("%d lines of %d opens", len(lines), told)
	}

	// Without kvfs.audit it goes, and comes back with it.
	auditor = s.report().Audit.Process
	s.configure(nil)
	s.must("refresh", "--settings")
	s.until("the auditor has ended", func() bool { return errors.Is(syscall.Kill(auditor, 0), syscall.ESRCH) })
	if a := s.report().Audit; a != nil {
		t.Errorf("without kvfs.audit: %+v", a)
	}
	if _, errs, code := s.run("status", "--readers"); code != 1 || !strings.Contains(errs, "kvfs.audit is not in the settings") {
		t.Errorf("readers without an audit: exit code %d, %s", code, errs)
	}
	s.configure(func(d document) { d["kvfs"].(map[string]any)["audit"] = true })
	s.must("refresh", "--settings")
	s.until("an auditor is at work", func() bool { a := s.report().Audit; return a != nil && a.Process != 0 && a.Error == nil })
	round()
	s.await(`"audit":"open"`)
	auditor = s.report().Audit.Process
	s.end(syscall.SIGTERM)
	for end := time.Now().Add(30 * time.Second); !errors.Is(syscall.Kill(auditor, 0), syscall.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the auditor lives on when kvfs has ended")
		}
	}
}

// readers is kvfs status --readers of one certificate.
func (s *audited) readers(name string) status.CertificateReaders {
	s.t.Helper()
	var r status.Readers
	if err := json.Unmarshal([]byte(s.must("status", "--readers", name, "--json")), &r); err != nil {
		s.t.Fatal(err)
	}
	if len(r.Certificates) != 1 {
		s.t.Fatalf("%d certificates are called %s", len(r.Certificates), name)
	}
	return r.Certificates[0]
}

// After a renewal nginx has the former key, until it is told to load it again. A hook that names the auditor tells it
// nothing.
func TestReadersThatHaveToLoadAgain(t *testing.T) {
	needProgram(t, "nginx")
	var pidFile string
	s := newAudited(t, 2, func(d document) {
		pidFile = filepath.Join(t.TempDir(), "auditor.pid")
		d.onChange(map[string]any{"signal": "TERM", "pidFile": pidFile})
	})
	s.serve()
	auditor := s.report().Audit.Process
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(auditor)), 0o600); err != nil {
		t.Fatal(err)
	}
	link := s.path("contoso-web.cert-000")
	nginx := startNginx(t, s.client("cert-000.example.com"), link, link)
	// Somebody who holds it open, through another mount, as a container has it.
	other := filepath.Join(s.dir, "other")
	if err := errors.Join(os.Mkdir(other, 0o755), unix.Mount(s.store, other, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) }) // before kvfs ends, which looks for mounts that are left
	holder := visit(t, syscall.Credential{}, "hold", filepath.Join(other, "contoso-web.cert-000.keyid"))
	var first string
	holder.hear(&first)

	reader := func(pid int) (found *status.Reader) {
		t.Helper()
		for _, r := range s.readers("cert-000").Readers {
			if r.PID == pid {
				found = &r
			}
		}
		return found
	}
	master := nginx.cmd.Process.Pid
	s.until("nginx is seen", func() bool { return reader(master) != nil })
	if r := reader(master); !r.Current || !strings.HasSuffix(r.Executable, "/nginx") || len(r.Open) > 0 {
		t.Errorf("before the renewal: %+v", r)
	}
	version := s.rotate("cert-000")
	before := s.readers("cert-000")
	if before.Version != version || len(before.Readers) < 2 {
		t.Fatalf("after the renewal to %s: %+v", version, before)
	}
	for _, r := range before.Readers {
		if held := r.PID != master; r.Current || (len(r.Open) > 0) != held {
			t.Errorf("nobody has read the new one yet, and one has the former open: %+v", r)
		}
	}
	if out := s.must("status", "--readers", "cert-000"); !strings.Contains(out, "older  ") || !strings.Contains(out, "older, open") || !strings.Contains(out, strconv.Itoa(master)) {
		t.Errorf("the table:\n%s", out)
	}
	nginx.reload()
	nginx.await(leaf(t, link))
	s.until("nginx has read the new one", func() bool { r := reader(master); return r != nil && r.Current })
	s.until("the hook has been tried", func() bool { return s.hook("signal TERM").LastRun != nil })
	if h, is := s.hook("signal TERM"), s.report().Audit; h.Error == nil || !strings.Contains(h.Error.Fact, "is sent no signal") || is.Process != auditor {
		t.Errorf("the hook that names the auditor, process %d, which is now %d: %+v", auditor, is.Process, h)
	}
	after := s.readers("cert-000")
	if older := after.Readers[0]; older.Current || older.PID == master {
		t.Errorf("who has not read it is not the first: %+v", after)
	}
	// A server's death is no reason to forget.
	server := s.report().Processes.Server
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until("another server answers", func() bool { return s.report().Processes.Server != server })
	s.until("the readers are as before", func() bool {
		r := reader(master)
		return r != nil && r.Current && len(s.readers("cert-000").Readers) == len(after.Readers)
	})
	holder.leave()
	s.until("who has ended is not there", func() bool {
		return !slices.ContainsFunc(s.readers("cert-000").Readers, func(r status.Reader) bool { return !r.Current })
	})
	if others := s.readers("cert-001").Readers; len(others) > 0 {
		t.Errorf("nobody has read cert-001: %+v", others)
	}
	if _, errs, code := s.run("status", "--readers", "nosuch"); code != 5 || !strings.Contains(errs, "nosuch") {
		t.Errorf("an unknown name: exit code %d, %s", code, errs)
	}
}

// hold opens a file and keeps it open until its input ends.
func hold(path string, in io.Reader, out io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewEncoder(out).Encode(path); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// Log rotation, a full disk, and what somebody puts in the place of the audit file.
func TestAuditFile(t *testing.T) {
	const certificates = 20
	s := newAudited(t, certificates, nil)
	small := mountMemory(t, filepath.Join(s.dir, "small"), "64k")
	s.serve()
	links, told := s.keys(certificates), 0
	round := func() {
		t.Helper()
		cmd := opener(t, 0, links...)
		if err := cmd.Wait(); err != nil {
			t.Fatal("a reader:", err)
		}
		told += len(links)
	}
	use := func(file string) {
		t.Helper()
		s.configure(func(d document) { d["kvfs"].(map[string]any)["audit"] = map[string]any{"file": file} })
		s.must("refresh", "--settings")
		s.until("it is taken over", func() bool { a := s.report().Audit; return a != nil && a.To == file })
	}
	trouble := func(what string) *status.Error {
		t.Helper()
		var e *status.Error
		s.until("it is said that "+what, func() bool {
			if a := s.report().Audit; a != nil {
				e = a.Error
			}
			return e != nil && strings.Contains(e.Fact, what) && e.Hint != ""
		})
		return e
	}
	well := func() {
		t.Helper()
		s.until("all is well", func() bool { a := s.report().Audit; return a != nil && a.Error == nil && a.Waiting == 0 })
	}
	round()
	s.untilLines(s.file, told, everyLine)
	if info, err := os.Stat(s.file); err != nil || info.Mode() != 0o600 {
		t.Error("the audit file:", info.Mode(), err)
	}

	// It is renamed, as logrotate does.
	if err := os.Rename(s.file, s.file+".1"); err != nil {
		t.Fatal(err)
	}
	round()
	s.untilLines(s.file, len(links), everyLine)
	if was := len(linesOf(t, s.file+".1")); was != len(links) {
		t.Errorf("%d lines in the former file, want %d", was, len(links))
	}

	// Somebody puts a link in its place: what it leads to stays as it is.
	victim := filepath.Join(s.dir, "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), os.Remove(s.file), os.Symlink(victim, s.file)); err != nil {
		t.Fatal(err)
	}
	round()
	trouble("is a symbolic link")
	if r := s.report(); r.State != status.Degraded {
		t.Errorf("the state is %s", r.State)
	}
	if got := readFile(t, victim); string(got) != "mine" {
		t.Errorf("the victim has %d bytes", len(got))
	}
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	s.untilLines(s.file, len(links), everyLine) // they have waited
	well()

	// Other things that are not to be written to.
	fifo, other, shared := filepath.Join(s.dir, "log", "fifo"), filepath.Join(s.dir, "log", "other"), filepath.Join(s.dir, "shared")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(other, nil, 0o600), os.Chown(other, 1201, 1201), os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777)); err != nil {
		t.Fatal(err)
	}
	for file, what := range map[string]string{fifo: "is a pipe", other: "belongs to user 1201", filepath.Join(shared, "audit.log"): "writable by others"} {
		use(file)
		trouble(what)
	}

	// A disk that is full: lines wait until there is room, and none is torn.
	full := filepath.Join(small, "audit.log")
	use(full)
	well()
	before := told
	for range 12 { // 40 lines of some 400 bytes each
		round()
	}
	trouble("no space left")
	waits := s.report().Audit.Waiting
	got := 0
	s.until("all of it is written", func() bool {
		lines := linesOf(t, full) // whole ones, or it fails
		if info, err := os.Stat(full); err == nil && info.Size() > 63<<10 {
			got += len(lines)
			if err := os.Remove(full); err != nil {
				t.Fatal(err)
			}
			return false
		}
		return got+len(lines) == told-before
	})
	well()
	if got == 0 || waits == 0 {
		t.Error("the disk was not full")
	}
	if a := s.report().Audit; a.Dropped > 0 || a.Overflow > 0 || a.Lost > 0 {
		t.Errorf("something was lost: %+v", a)
	}
}

// holdOpens lets opens in a file system wait, as a disk does that hangs, until the result is called. The caller has to.
func holdOpens(t testing.TB, dir string) (release func()) {
	t.Helper()
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err == nil {
		err = unix.FanotifyMark(group, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_PERM|unix.FAN_ONDIR, unix.AT_FDCWD, dir)
	}
	if err != nil {
		t.Fatal("holding opens up:", err)
	}
	return sync.OnceFunc(func() { unix.Close(group) }) // who waits for its answer may go on
}

// A disk that hangs keeps the auditor from nothing but writing: it reads what is opened, says who has read what, and
// that its file does not answer.
func TestAuditFileOnADiskThatHangs(t *testing.T) {
	const certificates = 5
	s := newAudited(t, certificates, nil)
	disk := mountMemory(t, filepath.Join(s.dir, "disk"), "1m")
	s.file = filepath.Join(disk, "audit.log")
	s.configure(func(d document) { d.own()["audit"] = map[string]any{"file": s.file} })
	release := holdOpens(t, disk)
	defer release() // an auditor that waits does not end
	s.serve()
	told := 0
	round := func() {
		t.Helper()
		links := s.keys(certificates)
		if err := opener(t, 0, links...).Wait(); err != nil {
			t.Fatal("a reader:", err)
		}
		told += len(links)
	}
	// hangs waits until that is said, and all opens have been read.
	hangs := func() (a status.Audit) {
		t.Helper()
		s.until("it is said that the file hangs", func() bool {
			now := s.report().Audit
			if now != nil {
				a = *now
			}
			return a.Process != 0 && int(a.Opens) == told && a.Error != nil && strings.Contains(a.Error.Hint, "a disk, or a file system over the network, does not answer") && a.HangsSince != nil
		})
		return a
	}
	round()
	if a := hangs(); a.WaitingLines != told || !strings.Contains(a.Error.Fact, fmt.Sprintf("%s has not answered for ", s.file)) || !strings.HasSuffix(a.Error.Fact, fmt.Sprintf(": %d lines wait, 0 were dropped", told)) {
		t.Errorf("%+v: %+v", a, a.Error)
	}
	s.readers("cert-000")
	release()
	s.untilLines(s.file, told, everyLine)
	s.until("all is well", func() bool {
		a := s.report().Audit
		return a != nil && a.Error == nil && a.Waiting+a.WaitingLines == 0 && a.HangsSince == nil
	})
}

// mountMemory is a file system of such a size.
func mountMemory(t testing.TB, dir, size string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,size="+size); err != nil {
		t.Fatal("mounting a tmpfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error("unmounting the tmpfs:", err)
		}
	})
	return dir
}

// A log that nobody reads stops neither readers nor renewals nor the end; what has no
// room is counted.
func TestAuditToAPipeThatNobodyReads(t *testing.T) {
	const certificates = 100
	s := newAudited(t, certificates, func(d document) {
		d["kvfs"].(map[string]any)["audit"] = true
		d.secrets()["pollingIntervalInS"] = "3600"
	})
	log, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(kvfsPath, "mount", s.settings, "--store", s.store, "--socket", s.socket)
	cmd.Stderr = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal("kvfs has ended:", err)
		}
		if strings.Contains(line, "kvfs: serving ") {
			break
		}
	}
	s.must("wait", "--timeout", "1m")
	links := s.keys(certificates)
	s.until("lines are dropped", func() bool {
		for range 10 {
			if err := opener(t, 0, links...).Wait(); err != nil {
				t.Fatal("a reader:", err)
			}
		}
		return s.report().Audit.Dropped > 0
	})
	s.until("it is said that nobody reads", func() bool {
		a := s.report().Audit
		return a.Error != nil && strings.Contains(a.Error.Fact, "nobody has read the log for ") && a.HangsSince != nil && a.WaitingLines > 0
	})
	auditor := s.report().Audit.Process
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // the keeper has something to say, too
	if err := cmd.Wait(); err != nil {
		t.Error("kvfs:", err)
	}
	if m := mounts(t, s.dir); len(m) > 0 {
		t.Error("mounts are left:", m)
	}
	for end := time.Now().Add(30 * time.Second); !errors.Is(syscall.Kill(auditor, 0), syscall.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the auditor lives on")
		}
	}
}
