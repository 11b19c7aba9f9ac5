package test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/emulator"
	"kvfs/status"
)

// requireInitialSync is a site whose vault has www, and not api, which has been deleted.
func requireInitialSync(t *testing.T) *site {
	t.Helper()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.configure(func(d document) { d.secrets()["requireInitialSync"] = true })
	if err := s.vault.Delete("", "api"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) recover(name string) {
	s.t.Helper()
	if err := s.vault.Recover("", name); err != nil {
		s.t.Fatal(err)
	}
}

// tried waits until so many tries of an initial sync have failed.
func (s *site) tried(n int) (i status.InitialSync) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d tries have failed", n), func() bool {
		r, err := status.NewClient(s.socket).Report(s.t.Context())
		i = r.InitialSync
		return err == nil && i.Try >= n
	})
	return i
}

// Who waits for kvfs waits until every certificate has come, over the death of a
// server too; what has come is served meanwhile.
func TestRequiredInitialSyncIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := requireInitialSync(t)
	s.start("mount", s.settings, "--store", s.store)
	s.until("kvfs answers", func() bool { _, err := os.Stat(s.path("contoso-web.www")); return err == nil })
	if i := s.tried(2); !i.Required || i.State != "transitioning" || i.Available != 1 || i.Total != 2 || i.Of != 25 || i.Next == nil {
		t.Errorf("the status says %+v", i)
	}
	if r := s.report(); r.State != status.Starting {
		t.Errorf("kvfs is %s", r.State)
	}
	if out := s.must("status"); !regexp.MustCompile(`\n  initial sync: 1 of 2 certificates available; try \d+ of 25, next `).MatchString(out) {
		t.Errorf("kvfs status says\n%s", out)
	}
	_, errs, code := s.run("wait", "--timeout", "2s")
	if code != 1 || !regexp.MustCompile(`kvfs: error: 1 of 2 certificates available; try \d+ of 25, next (now|in \d+s), after 2s\nkvfs: hint: `).MatchString(errs) {
		t.Errorf("kvfs wait: exit code %d\n%s", code, errs)
	}
	before := s.report().InitialSync.Try
	s.tried(before + 1) // so that the one before is kept
	s.another(s.kill(syscall.SIGKILL))
	if i := s.report().InitialSync; i.State != "transitioning" || i.Try < before {
		t.Errorf("after the death of a server: %+v, %d tries before", i, before)
	}
	readFile(t, s.path("contoso-web.www"))
	if said := s.log.String(); strings.Contains(said, "kvfs: serving") {
		t.Errorf("it says that it serves all:\n%s", said)
	}
	s.recover("api")
	s.await("kvfs: serving 2 of 2 certificates at " + s.store)
	s.must("wait", "--timeout", "30s")
	readFile(t, s.path("contoso-web.api"))
	if i := s.report().InitialSync; i != (status.InitialSync{Required: true, State: "success", Available: 2, Total: 2, Of: 25}) {
		t.Errorf("%+v", i)
	}
	if out := s.must("status"); strings.Contains(out, "initial sync") {
		t.Errorf("kvfs status says\n%s", out)
	}
	// What is over is over, whatever becomes of a certificate, or of a server.
	if err := s.vault.Delete("", "api"); err != nil {
		t.Fatal(err)
	}
	s.run("refresh")
	s.another(s.kill(syscall.SIGKILL))
	s.must("wait", "--timeout", "30s")
	for part, want := range map[string]int{"kvfs: serving": 1, "the initial sync begins": 1, "the initial sync is done": 1, "the initial sync has failed": 0} {
		if n := strings.Count(s.log.String(), part); n != want {
			t.Errorf("it has said %d times %q, want %d", n, part, want)
		}
	}
}

// After 25 tries nobody waits any more, and is told what lacks. Polling goes on.
func TestInitialSyncThatFailsIsToldAndEndsByItself(t *testing.T) {
	t.Parallel()
	s := requireInitialSync(t)
	s.start("mount", s.settings, "--store", s.store)
	s.until("the store is there", func() bool { _, err := os.Stat(s.path("contoso-web.www")); return err == nil })
	waited := make(chan string, 1)
	go func() {
		out, _ := exec.Command(kvfsPath, "wait", "--timeout", "5m", "--socket", s.socket).CombinedOutput() // its code is asked for below
		waited <- string(out)
	}()
	s.within(3*time.Minute, "25 tries have failed", func() bool { return s.report().InitialSync.State != "transitioning" }) // one each second
	s.await("kvfs: serving 1 of 2 certificates")
	want := regexp.MustCompile(`^kvfs: error: 1 of 2 certificates available after \d+ tries: https://contoso-web.vault.azure.net/secrets/api: 404 SecretNotFound: .*\nkvfs: hint: .+\n$`)
	if said := <-waited; !want.MatchString(said) {
		t.Errorf("who has waited is told\n%s", said)
	}
	if _, errs, code := s.run("wait"); code != 1 || !want.MatchString(errs) {
		t.Errorf("kvfs wait: exit code %d\n%s", code, errs)
	}
	if out, _, code := s.run("wait", "--json"); code != 1 || !strings.Contains(out, `"kind": "initial-sync"`) {
		t.Errorf("kvfs wait --json: exit code %d\n%s", code, out)
	}
	if r := s.report(); r.InitialSync.State != "error" || r.InitialSync.Try < 25 || r.State != status.Degraded {
		t.Errorf("%s: %+v", r.State, r.InitialSync)
	}
	if out := s.must("status"); !strings.Contains(out, "\n  error: the initial sync has failed: 1 of 2 certificates available after ") {
		t.Errorf("kvfs status says\n%s", out)
	}
	s.recover("api")
	s.until("the certificate has come", func() bool { return s.report().InitialSync.State == "success" })
	s.must("wait")
	for _, part := range []string{"the initial sync has failed; polling goes on", "the initial sync is done"} {
		if n := strings.Count(s.log.String(), part); n != 1 {
			t.Errorf("it has said %d times %q", n, part)
		}
	}
	// A changed document that brings a certificate begins it anew.
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "new"}); err != nil {
		t.Fatal(err)
	}
	if err := s.vault.Delete("", "new"); err != nil {
		t.Fatal(err)
	}
	s.configure(func(d document) { d.secrets()["requireInitialSync"] = true })
	s.must("refresh", "--settings", "www")
	if _, errs, code := s.run("wait", "--timeout", "2s"); code != 1 || !strings.Contains(errs, "2 of 3 certificates available; try ") {
		t.Errorf("with one more: exit code %d\n%s", code, errs)
	}
}

// Who does not want to wait any more takes it out of the settings, or what lacks.
func TestInitialSyncEndsWithItsReason(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(document){
		"not required any more": nil,
		"without what lacks":    func(d document) { d.secrets()["requireInitialSync"] = true; d.keep("www") },
	} {
		t.Run(name, func(t *testing.T) {
			s := requireInitialSync(t)
			s.start("mount", s.settings, "--store", s.store)
			s.tried(1)
			s.configure(edit)
			s.must("refresh", "--settings", "www")
			s.await("kvfs: serving 1 of ")
			s.must("wait")
		})
	}
}

// Without requireInitialSync a certificate that lacks is no reason to wait.
func TestInitialSyncThatIsNotRequired(t *testing.T) {
	t.Parallel()
	s := requireInitialSync(t)
	s.configure(nil)
	s.mount()
	s.must("wait")
	if r := s.report(); r.InitialSync != (status.InitialSync{State: "success", Available: 1, Total: 2}) || r.State != status.Degraded {
		t.Errorf("%s: %+v", r.State, r.InitialSync)
	}
	if said := s.log.String(); !strings.Contains(said, "kvfs: serving 1 of 2 certificates") || strings.Contains(said, "initial sync") {
		t.Errorf("it says\n%s", said)
	}
}

// systemd gives a start the time that it takes, and a server that dies or hangs
// meanwhile is replaced as ever.
func TestServiceIsReadyWhenTheInitialSyncIsOver(t *testing.T) {
	t.Parallel()
	s := newService(t, map[string]string{
		"kvfs.service.d/short.conf": "[Service]\nTimeoutStartSec=4\n",
		"after.service":             "[Unit]\nDefaultDependencies=no\nWants=kvfs.service\nAfter=kvfs.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/readlink " + "/var/lib/waagent/Microsoft.Azure.KeyVault.Store/site\n",
	})
	if err := os.WriteFile(s.settings, []byte(strings.Replace(string(readFile(t, s.settings)), `"secretsManagementSettings": {`, `"secretsManagementSettings": {"requireInitialSync": true,`, 1)), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := s.vault.Delete("", "www"); err != nil {
		t.Fatal(err)
	}
	s.m.must("systemctl", "start", "--no-block", "after.service")
	began := time.Now()
	s.tried(10)
	if took := time.Since(began); took < 8*time.Second {
		t.Errorf("10 tries took %v only: the start was not extended", took)
	}
	if is := s.m.property("ActiveState"); is != "activating" || s.m.property("NRestarts") != "0" {
		t.Errorf("the service is %s after %s restarts", is, s.m.property("NRestarts"))
	}
	was := s.server()
	s.m.must("systemctl", "kill", "--signal=STOP", "--kill-whom=main", unitName)
	s.another(was)
	if i := s.tried(11); i.State != "transitioning" {
		t.Errorf("%+v", i)
	}
	if is := s.m.property("ActiveState"); is != "activating" {
		t.Errorf("the service is %s", is)
	}
	active := func(unit string) string {
		return strings.TrimSpace(s.m.must("systemctl", "show", "--value", "--property=ActiveState", unit))
	}
	if is := active("after.service"); is != "inactive" {
		t.Errorf("what is ordered behind it is %s", is)
	}
	s.recover("www")
	s.until("the service is ready", func() bool { return s.m.property("ActiveState") == "active" })
	if target, err := os.Readlink(s.path("site")); err != nil || target == "" {
		t.Error("it is ready, and the certificate is not there:", err)
	}
	s.until("what is ordered behind it has found the certificate", func() bool { return active("after.service") == "active" })
	s.m.must("systemctl", "restart", unitName) // which does not begin anew
	if i := s.report().InitialSync; i.State != "success" {
		t.Errorf("after a restart: %+v", i)
	}
}

// terminal makes a terminal of 80 columns, of which it returns both ends.
func terminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	raw, err := keyboard.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	err = raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			return
		}
		if number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 80})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keyboard, screen
}

// shown is what a terminal shows in the end of what was written to it: an erased line
// is gone, and the rest is there, line by line.
func shown(written string) (lines []string) {
	for line := range strings.SplitSeq(written, "\n") {
		line = strings.TrimSuffix(line, "\r")
		lines = append(lines, line[strings.LastIndex(line, "\r\x1b[K")+1:])
	}
	return lines
}

// At a terminal one line says how far the first load has come, and nothing of it is
// left between the lines of keeper and server.
func TestLoadIsShownAtATerminal(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var profiles []emulator.Profile
	for i := range 40 {
		profiles = append(profiles, emulator.Profile{Name: fmt.Sprintf("c%d", i)})
	}
	s := newSite(t, profiles...)
	if err := s.vault.Delete("", "c0"); err != nil {
		t.Fatal(err)
	}
	s.vault.SetFault(emulator.Fault{Kind: emulator.Slow, Delay: 2 * time.Second}) // the stores are there before the load is over, which the keeper logs
	keyboard, screen := terminal(t)
	all := &buffer{}
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := keyboard.Read(b)
			if err != nil {
				return
			}
			_, _ = all.Write(b[:n])
		}
	}()
	cmd := exec.Command(kvfsPath, "mount", s.settings, "--store", s.store, "--socket", s.socket, "--verbose")
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.Stderr = screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); <-ended })
	if !all.await("kvfs: serving ", ended) {
		t.Fatalf("it does not serve:\n%q", all)
	}
	s.must("wait")
	s.must("umount")
	<-ended
	text := all.String()
	if !regexp.MustCompile(`\r\x1b\[Kloading [1-9]\d* of 40 certificates`).MatchString(text) || strings.Count(text, "\r\x1b[Kloading ") < 5 {
		t.Errorf("the line was not shown:\n%q", text)
	}
	for _, line := range shown(text) {
		if strings.Contains(line, "loading") || strings.Count(line, "level=") > 1 {
			t.Errorf("left on the terminal: %q", line)
		}
	}
	if text := strings.Join(shown(text), "\n"); !strings.Contains(text, `msg="server ready"`) || !strings.Contains(text, "msg=published") {
		t.Errorf("lines of the log are lost:\n%s", text)
	}
}

// Elsewhere a load that takes long has a line of log at its beginning and one at its
// end, and the status says how it goes.
func TestLongLoadIsLogged(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	s.vault.SetFault(emulator.Fault{Name: "api", Kind: emulator.Hang, Count: 1})
	s.mount()
	if l := s.report().Loading; l == nil || l.Done != 1 || l.Total != 2 || l.Failed != 0 || time.Since(l.Since) > time.Minute {
		t.Errorf("%+v", l)
	}
	if out := s.must("status"); !strings.Contains(out, "\n  loading 1 of 2 certificates, for ") {
		t.Errorf("kvfs status says\n%s", out)
	}
	s.await(`msg="loading takes a while" done=1 certificates=2 failed=0`)
	s.await(`msg="loading is done" certificates=2 failed=1`)
	if l := s.report().Loading; l != nil {
		t.Errorf("%+v", l)
	}
	if said := s.log.String(); strings.Contains(said, "\x1b") {
		t.Errorf("it writes for a terminal:\n%q", said)
	}
}
