package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/status"
)

// plainPath is kvfs as users have it, without the race detector: what is measured
// here is how long its death is felt.
var plainPath = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(kvfsPath), "kvfs-plain")
	out, err := exec.Command("go", "build", "-o", path, "kvfs/cmd/kvfs").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building kvfs: %w\n%s", err, out)
	}
	return path, nil
})

// plain makes a site run kvfs as users have it.
func (s *site) plain() {
	s.t.Helper()
	var err error
	if s.program, err = plainPath(); err != nil {
		s.t.Fatal(err)
	}
}

// server is the process id of the one that the keeper has started last, 0 if none
// runs.
func (s *site) server() int {
	s.t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil || len(lists) == 0 {
		s.t.Fatal("the keeper has ended:", err, s.log)
	}
	newest := 0
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(field)
			newest = max(newest, pid)
		}
	}
	return newest
}

// another waits until a server other than this one answers.
func (s *site) another(than int) int {
	s.t.Helper()
	pid := 0
	s.until("another server answers", func() bool {
		r, err := status.NewClient(s.socket).Report(s.t.Context())
		pid = r.Processes.Server
		return err == nil && pid != than
	})
	return pid
}

// kill ends the server as it stands.
func (s *site) kill(sig syscall.Signal) (pid int) {
	s.t.Helper()
	if pid = s.server(); pid != 0 {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
	return pid
}

// throng is everybody who uses a store: readers of all kinds of right, and servers
// with their clients. None of them may notice anything.
type throng struct {
	s       *site
	readers map[string]*visitor
	crowds  []*crowd
	watch   *directoryWatch
	renewed int
}

// throngAt a site that serves the certificate www, linked as site too, to these users.
func throngAt(s *site) *throng {
	s.t.Helper()
	link, client := s.path("contoso-web.www"), s.client("www.example.com")
	th := &throng{s: s, crowds: []*crowd{
		gather(s.t, startNginx(s.t, client, link+".pem", link+".keyid")),
		gather(s.t, startHaproxy(s.t, client, s.path("site"))),
	}, readers: map[string]*visitor{
		"root":                visit(s.t, syscall.Credential{}, "verify", link),
		"root, other link":    visit(s.t, syscall.Credential{}, "verify", s.path("site")),
		"user of the list":    visit(s.t, syscall.Credential{Uid: admitted, Gid: stranger}, "verify", link),
		"member of the group": visit(s.t, syscall.Credential{Uid: stranger, Gid: stranger, Groups: []uint32{group}}, "verify", s.path("site")),
	}}
	for who, r := range th.readers {
		var first tally
		if r.hear(&first); first.Reads != 1 {
			s.t.Fatalf("%s cannot read: %+v", who, first)
		}
	}
	th.watch = watchDirectory(s.t, s.store)
	return th
}

// renew makes a new version in the vault and lets kvfs hear of it, without waiting.
func (th *throng) renew() (version string) {
	th.s.t.Helper()
	version, err := th.s.vault.Rotate("", "www")
	if err != nil {
		th.s.t.Fatal(err)
	}
	th.renewed++
	go func() { _, _ = status.NewClient(th.s.socket).Refresh(th.s.t.Context(), []string{"www"}) }() // who dies meanwhile answers nothing
	return version
}

// settled waits until the version is what everybody sees.
func (th *throng) settled(version string) {
	s := th.s
	s.t.Helper()
	// The mark of completion is the last to move: before, chain and key may be of two
	// versions.
	s.until("the renewal is published", func() bool { return strings.Contains(string(readFile(s.t, s.path("contoso-web.www.luma"))), version) })
	now := leaf(s.t, s.path("contoso-web.www"))
	for _, c := range th.crowds {
		c.server.reload()
	}
	for _, c := range th.crowds {
		c.await(now)
	}
}

// disperse fails the test if anybody has noticed anything.
func (th *throng) disperse() {
	t := th.s.t
	t.Helper()
	var longest time.Duration
	reads := 0
	for who, r := range th.readers {
		var all tally
		r.leave()
		r.hear(&all)
		reads, longest = reads+all.Reads, max(longest, all.Longest)
		if all.Failed+all.Broken > 0 {
			t.Errorf("reader, %s: %d failed, %d broken: %s", who, all.Failed, all.Broken, strings.Join(all.Errors, "\n"))
		}
	}
	t.Logf("%d reads, the longest took %v", reads, longest.Round(time.Millisecond))
	for _, c := range th.crowds {
		visits, failures := c.disperse()
		t.Logf("%s: %d handshakes, %d failed, %d versions shown", c.server.name, visits, len(failures), len(c.met))
		for _, err := range failures[:min(5, len(failures))] {
			t.Errorf("%s: %v", c.server.name, err)
		}
	}
	th.watch.drain()
	for _, name := range []string{"contoso-web.www", "site", "contoso-web.www.pem", "contoso-web.www.keyid", "contoso-web.www.luma"} {
		if n := th.watch.moved[name]; n != th.renewed {
			t.Errorf("%d events for %s, want one for each of %d renewals", n, name, th.renewed)
		}
	}
}

func newDeathSite(t *testing.T) *site {
	t.Helper()
	needRoot(t)
	needProgram(t, "nginx")
	needProgram(t, "haproxy")
	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) {
		d.entry("www")["customSymbolicLinkName"] = "site"
		d.entry("www")["acls"] = []any{map[string]any{"user": admitted}, map[string]any{"group": group}}
	})
	s.plain()
	return s
}

// The server is killed again and again, with requests in its hands, while it renews
// and while it starts: nobody notices.
func TestServerIsKilledAgainAndAgain(t *testing.T) {
	for _, how := range []string{"journal", "resend"} {
		t.Run(how, func(t *testing.T) {
			const kills = 100
			s := newDeathSite(t)
			s.mount("--uncached", "--recovery", how)
			th, began := throngAt(s), time.Now()
			pid, version := s.another(0), ""
			for i := range kills {
				if i%5 == 0 {
					version = th.renew() // the kill comes into the middle of it
				}
				// At any moment of a server's life, but not in its infancy time after time: the
				// keeper would take that for a fault that starting does not mend.
				time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
				if s.kill(syscall.SIGKILL) == pid || i%3 > 0 {
					pid = s.another(pid)
				}
				if i%5 == 4 {
					th.settled(version)
				}
			}
			t.Logf("%d kills in %v", kills, time.Since(began).Round(time.Second))
			th.disperse()
			unanswered := 0
			for _, n := range regexp.MustCompile(`unanswered=([1-9]\d*)`).FindAllStringSubmatch(s.log.String(), -1) {
				count, _ := strconv.Atoi(n[1])
				unanswered += count
			}
			t.Logf("%d requests were in the hands of servers that died", unanswered)
			if how == "journal" && unanswered == 0 {
				t.Error("no server died with a request in its hands: the test does not see what it is about")
			}
		})
	}
}

// With everything that the kernel can cache in its cache, as users have it, and by
// every way in which a server can end.
func TestServerEndsInEveryWay(t *testing.T) {
	s := newDeathSite(t)
	s.mount()
	th := throngAt(s)
	for name, end := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "crashed": syscall.SIGQUIT, "segmentation fault": syscall.SIGSEGV, "aborted": syscall.SIGABRT, "parked": syscall.SIGTERM} {
		version := th.renew()
		was := s.kill(end)
		began := time.Now()
		s.another(was)
		t.Logf("%s: another one answers after %v", name, time.Since(began).Round(time.Millisecond))
		th.settled(version)
	}
	th.disperse()
	if r := s.report(); r.Processes.Keeper != s.cmd.Process.Pid || r.Processes.Publisher == 0 {
		t.Errorf("processes: %+v", r.Processes)
	}
}

// memoryGroup is a cgroup for a test that bounds memory.
type memoryGroup struct {
	dir   string
	limit string // file with the most bytes that its processes may have
	kills string // file that counts who was killed for it
}

// newMemoryGroup makes one. With cgroup v2 it is beside or below the one that the test
// runs in, in the first on the way up whose children have the memory controller; with
// v1 it is below the test's own.
func newMemoryGroup(t *testing.T) memoryGroup {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("no cgroups:", err)
	}
	path := func(hierarchy string) (string, bool) {
		for _, line := range strings.Split(string(own), "\n") {
			if fields := strings.SplitN(line, ":", 3); len(fields) == 3 && fields[1] == hierarchy {
				return fields[2], true
			}
		}
		return "", false
	}
	g := memoryGroup{limit: "memory.limit_in_bytes", kills: "memory.oom_control"}
	parent, v1 := path("memory")
	parent = filepath.Join("/sys/fs/cgroup/memory", parent)
	if !v1 {
		g = memoryGroup{limit: "memory.max", kills: "memory.events"}
		parent = memoryParent(t, path)
	}
	if g.dir, err = os.MkdirTemp(parent, "kvfs-test-"); err != nil {
		t.Skip("cannot make a cgroup:", err)
	}
	// A process that has been killed is in its cgroup until its parent has heard of it.
	t.Cleanup(func() {
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := os.Remove(g.dir)
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Error("a cgroup is left:", err)
				return
			}
		}
	})
	return g
}

func memoryParent(t *testing.T, path func(hierarchy string) (string, bool)) string {
	t.Helper()
	const root = "/sys/fs/cgroup"
	own, found := path("")
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil || !found {
		t.Skip("cgroups are not mounted at", root)
	}
	for parent := filepath.Join(root, own); ; parent = filepath.Dir(parent) {
		controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control"))
		if slices.Contains(strings.Fields(string(controllers)), "memory") {
			return parent
		}
		if parent == root || err != nil {
			t.Skip("no cgroup here gives its children the memory controller:", err)
		}
	}
}

func (g memoryGroup) set(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// A server that needs more memory than it may have is killed by the kernel, with
// requests in its hands: nobody notices.
func TestServerIsKilledForMemory(t *testing.T) {
	s := newDeathSite(t)
	group := newMemoryGroup(t)
	s.mount("--uncached")
	th := throngAt(s)
	version := th.renew()
	pid := s.another(0)
	// What it has already is counted where it was before. Who connects makes it need more.
	group.set(t, group.limit, strconv.Itoa(1<<20))
	if _, err := os.Stat(filepath.Join(group.dir, "memory.swap.max")); err == nil {
		group.set(t, "memory.swap.max", "0")
	}
	group.set(t, "cgroup.procs", strconv.Itoa(pid))
	for range 2000 {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	s.another(pid)
	th.settled(version)
	events, err := os.ReadFile(filepath.Join(group.dir, group.kills))
	if err != nil || !regexp.MustCompile(`(?m)^oom_kill [1-9]`).Match(events) {
		t.Errorf("nobody was killed for memory: %v\n%s", err, events)
	}
	th.disperse()
}

// A server that hangs is noticed and replaced.
func TestHungServerIsReplaced(t *testing.T) {
	s := newDeathSite(t)
	s.mount("--uncached")
	th := throngAt(s)
	version := th.renew()
	th.settled(version)
	was := s.kill(syscall.SIGSTOP)
	began := time.Now()
	s.another(was)
	t.Logf("another one answers after %v", time.Since(began).Round(time.Millisecond))
	th.settled(th.renew())
	th.disperse()
}

// A machine that stands still, as a virtual one does while it is moved, is no server
// that hangs.
func TestMachineThatStandsStill(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount()
	server := s.another(0)
	signal := func(sig syscall.Signal, pids ...int) {
		t.Helper()
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGSTOP, server, s.cmd.Process.Pid)
	time.Sleep(4 * time.Second) // longer than a server may be silent
	signal(syscall.SIGCONT, s.cmd.Process.Pid, server)
	s.rotate("www")
	if now := s.another(0); now != server {
		t.Error("the server was replaced")
	}
}

// Another binary takes over while everybody reads, again and again.
func TestUpgradeUnderLoad(t *testing.T) {
	s := newDeathSite(t)
	old, err := os.ReadFile(s.program)
	if err != nil {
		t.Fatal(err)
	}
	s.program = filepath.Join(s.dir, "kvfs")
	install := func(tail string) {
		t.Helper()
		next := s.program + ".new"
		if err := errors.Join(os.WriteFile(next, append(old[:len(old):len(old)], tail...), 0o755), os.Rename(next, s.program)); err != nil {
			t.Fatal(err)
		}
	}
	install("")
	s.mount("--uncached")
	th := throngAt(s)
	pid := s.another(0)
	for i := range 50 {
		install(fmt.Sprint("build ", i))
		if i%10 == 0 {
			th.settled(th.renew())
		}
		s.kill(syscall.SIGTERM)
		pid = s.another(pid)
		exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !bytes.HasSuffix(exe, []byte(fmt.Sprint("build ", i))) {
			t.Fatalf("upgrade %d: process %d runs something else, %v", i, pid, err)
		}
	}
	// One that cannot run is no reason to stop.
	if err := os.WriteFile(s.program+".new", []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.program+".new", s.program); err != nil {
		t.Fatal(err)
	}
	s.kill(syscall.SIGTERM)
	s.another(pid)
	th.settled(th.renew())
	th.disperse()
}

// everything in a store, by name: bytes of files, targets of links.
func everything(t testing.TB, store string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(store, func(path string, d iofs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type() == iofs.ModeSymlink:
			all[path], err = os.Readlink(path)
		case d.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(path)
			all[path] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// When the vault has gone with the server, everything that was served is served:
// old versions too, in every form, and what the settings have had until a while ago.
func TestDeathWithoutAVault(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api", Format: emulator.PEM}, emulator.Profile{Name: "mail"})
	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["layouts"] = []any{"v3", "v4", "live", "certs", "pfx", "jks", "truststore"}
		d["kvfs"].(map[string]any)["keepVersions"] = 3
		d.entry("api")["kvfs"] = map[string]any{"layouts": []any{"jks"}}
		d.entry("www")["acls"] = []any{map[string]any{"user": admitted}}
	})
	s.plain()
	s.mount("--uncached")
	for range 2 {
		s.rotate("www")
		s.rotate("api")
	}
	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["layouts"] = []any{"v3", "v4", "live", "certs", "pfx", "jks", "truststore"}
		d["kvfs"].(map[string]any)["keepVersions"] = 3
		d.entry("api")["kvfs"] = map[string]any{"layouts": []any{"jks"}}
		d.entry("www")["acls"] = []any{map[string]any{"user": admitted}}
		d.keep("www", "api")
	})
	s.must("refresh", "--settings")
	was, leaving := everything(t, s.store), s.report().Leaving
	if len(leaving) == 0 {
		t.Fatal("nothing is leaving: the test does not see what it is about")
	}
	if err := os.WriteFile(s.settings, []byte("{ this is no document"), 0o600); err != nil { // nobody has asked for it to be read
		t.Fatal(err)
	}
	s.vault.SetFault(emulator.Fault{Kind: emulator.Drop})
	pid := s.another(0)
	for range 3 {
		s.kill(syscall.SIGKILL)
		pid = s.another(pid)
		now := everything(t, s.store)
		for path, content := range was {
			if now[path] != content {
				t.Errorf("%s is not what it was", path)
			}
		}
		if len(now) != len(was) {
			t.Errorf("%d names, there were %d", len(now), len(was))
		}
		r := s.report()
		if len(r.Leaving) != len(leaving) || !r.Leaving[0].At.Equal(leaving[0].At) {
			t.Errorf("leaving: %+v, it was %+v", r.Leaving, leaving)
		}
		if c := s.certificate("www"); c.Version == "" || c.State == "missing" {
			t.Errorf("%+v", c)
		}
	}
	s.vault.ClearFaults()
	s.rotate("www")
}

// Without a keeper all goes on; the next death ends it, and a new start begins anew.
func TestKeeperIsKilled(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount("--uncached")
	server, keeper := s.another(0), s.cmd
	if err := keeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.until("the server knows", func() bool { return s.report().Processes.Keeper == 0 })
	if said := s.must("status"); !strings.Contains(said, "there is no keeper") {
		t.Errorf("kvfs status says nothing of it:\n%s", said)
	}
	s.rotate("www")
	readFile(t, s.path("contoso-web.www"))
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until("the mount is dead", func() bool { _, err := os.ReadDir(s.store); return errors.Is(err, syscall.ENOTCONN) })
	<-s.done.gone
	s.done = nil
	s.mount()
	readFile(t, s.path("contoso-web.www"))
}

// untilSaid waits until the log has a text so many times, for what the control socket
// cannot be asked about.
func (s *site) untilSaid(text string, times int) {
	s.t.Helper()
	s.until(fmt.Sprintf("the log says %q %d times", text, times), func() bool { return strings.Count(s.log.String(), text) >= times })
}

// Without its control socket nobody can ask kvfs anything, and all else goes on.
func TestControlSocketIsTakenAway(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount()
	if err := os.Remove(s.socket); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.run("status"); code != 6 {
		t.Errorf("kvfs status: exit code %d\n%s", code, errs)
	}
	for servers := 2; servers <= 3; servers++ {
		version, err := s.vault.Rotate("", "www")
		if err != nil {
			t.Fatal(err)
		}
		s.until("the link moves", func() bool {
			target, err := os.Readlink(s.path("contoso-web.www"))
			return err == nil && strings.HasSuffix(target, version)
		})
		s.kill(syscall.SIGKILL)
		s.untilSaid("server ready", servers)
	}
	readFile(t, s.path("contoso-web.www"))
	s.end(syscall.SIGTERM)
	s.mount()
	s.must("status")
}

// When no server can be brought back, who opens a file finds what lies below the
// mount, and who waits does too.
func TestLastGasp(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount("--uncached")
	reader := visit(t, syscall.Credential{}, "retry", s.path("contoso-web.www"))
	var told string
	if reader.hear(&told); told != "read" {
		t.Fatal(told)
	}
	for last := 0; ; {
		pid := s.serverUnlessEnded()
		if pid == 0 {
			break
		}
		if pid != last {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			last = pid
		}
	}
	<-s.done.gone
	if s.done.err == nil {
		t.Error("kvfs ended as if nothing were wrong")
	}
	s.done = nil
	reader.leave()
	if reader.hear(&told); told != "no such file or directory" {
		t.Errorf("the reader was told %q, want what there is below the mount", told)
	}
	if m := mounts(t, s.dir); len(m) > 0 {
		t.Error("mounts are left:", m)
	}
	s.mount()
	readFile(t, s.path("contoso-web.www"))
}

// serverUnlessEnded is server, 0 if the keeper has ended.
func (s *site) serverUnlessEnded() int {
	for {
		select {
		case <-s.done.gone:
			return 0
		default:
		}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, field := range strings.Fields(string(text)) {
				if cmdline, _ := os.ReadFile("/proc/" + field + "/cmdline"); strings.Contains(string(cmdline), "\x00server\x00") {
					pid, _ := strconv.Atoi(field)
					return pid
				}
			}
		}
	}
}

// retryUntilGone reads a file until it cannot be read, and says what it was told.
func retryUntilGone(path string, in io.Reader, say func(string) error) error {
	first := true
	for {
		_, err := os.ReadFile(path)
		var errno syscall.Errno
		switch {
		case errors.Is(err, syscall.ESTALE): // the file was open: it looks again
		case errors.As(err, &errno):
			_, _ = io.Copy(io.Discard, in)
			return say(errno.Error())
		case err != nil:
			return err
		}
		if first {
			if err := say("read"); err != nil {
				return err
			}
			first = false
		}
	}
}
