package test

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/config"
	"kvfs/emulator"
	"kvfs/status"
)

const unitName = "kvfs.service"

// bootScript makes a machine of the namespaces that it runs in, and becomes its
// systemd: the file system of this one below a layer in memory, devices that do no
// harm, and no other units than those that it finds.
const bootScript = `
set -e
here=$1 files=$2 notify=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$here"
mkdir "$here/upper" "$here/work" "$here/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" "$here/root"
cd "$here/root"
rm -rf etc/systemd/system
cp -a "$files/." .
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty fuse; do
	touch "dev/$node"
	mount --bind "/dev/$node" "dev/$node"
done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir before
pivot_root . before
umount -l /before
exec env -i container=kvfs-test NOTIFY_SOCKET="$notify" SYSTEMD_UNIT_PATH=/etc/systemd/system PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --system --unit=test.target --log-target=null --show-status=no
`

// machine is a systemd with a process id, mount and control group namespace of its
// own. It sees the network of the test, and the files below those that it is given.
type machine struct {
	t   testing.TB
	pid int // of its process 1
}

// boot starts a machine with these files, by their paths. All ends with the test.
func boot(t testing.TB, files string) *machine {
	t.Helper()
	group := newCgroup(t)
	here := t.TempDir()
	name := fmt.Sprintf("@kvfs-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	var errs buffer
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--cgroup", "--uts", "--ipc", "--kill-child",
		"sh", "-c", bootScript, "boot", here, files, name)
	cmd.Stderr = &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Skip("no process can be put into a control group of its own:", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		notify.Close() // nobody is to wait for it any more
		close(gone)
	}()
	m := &machine{t: t}
	t.Cleanup(func() {
		// The end of its process 1 ends all of its processes.
		if m.pid != 0 {
			_ = syscall.Kill(m.pid, syscall.SIGKILL)
		} else {
			_ = cmd.Process.Kill()
		}
		<-gone
	})
	_ = notify.SetReadDeadline(time.Now().Add(time.Minute))
	for said := make([]byte, 4096); ; {
		n, err := notify.Read(said)
		if err != nil {
			t.Skipf("no systemd can be started here: %v\n%s", err, errs.String())
		}
		if slices.Contains(strings.Split(string(said[:n]), "\n"), "READY=1") {
			break
		}
	}
	child, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err == nil {
		m.pid, err = strconv.Atoi(strings.TrimSpace(string(child)))
	}
	if err != nil {
		t.Fatal("looking for the systemd that was started:", err)
	}
	return m
}

// newCgroup makes a control group for a systemd, below that of the test, and removes
// it with all that is in it.
func newCgroup(t testing.TB) *os.File {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("no control groups:", err)
	}
	mounted := regexp.MustCompile(`(?m)^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 `).FindSubmatch(table)
	at := regexp.MustCompile(`(?m)^0::(.*)$`).FindSubmatch(own)
	if mounted == nil || at == nil {
		t.Skip("no control groups of version 2")
	}
	below, err := filepath.Rel(string(mounted[1]), string(at[1]))
	if err != nil || strings.HasPrefix(below, "..") {
		t.Skip("the control group of the test is not to be seen")
	}
	dir := filepath.Join(string(mounted[2]), below, fmt.Sprintf("kvfs-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("no control group can be made:", err)
	}
	t.Cleanup(func() {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := os.Remove(d); err != nil {
				t.Error("a control group is left:", err)
			}
		}
	})
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { group.Close() })
	return group
}

// path of a file of the machine, for the test.
func (m *machine) path(file string) string { return fmt.Sprintf("/proc/%d/root%s", m.pid, file) }

// run runs a command on the machine, as its root does at a terminal.
func (m *machine) run(args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	return command(m.t, "nsenter", append([]string{"--target", strconv.Itoa(m.pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--"}, args...)...)
}

// must is run for a command that has to succeed.
func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, errs, code := m.run(args...)
	if code != 0 {
		state, _, _ := m.run("systemctl", "status", "--no-pager", "--full", unitName)
		m.t.Fatalf("%s: exit code %d\n%s%s\n%s", strings.Join(args, " "), code, out, errs, state)
	}
	return out
}

func (m *machine) log() []byte {
	text, _ := os.ReadFile(m.path("/run/kvfs.log"))
	return text
}

// property of the service, as systemctl show has it.
func (m *machine) property(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.must("systemctl", "show", "--value", "--property="+name, unitName))
}

// write puts a file among others, with the directories that it needs.
func write(t testing.TB, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// service is a site whose kvfs is a unit of a machine.
type service struct {
	*site
	m      *machine
	binary []byte
}

// unitDir is where units lie on a machine. It has no others than those of the test.
const unitDir = "etc/systemd/system/"

// newService has everything installed as docs/systemd.md says, and a vault with the
// certificate www, linked as site too. Nothing is started. The machine has these
// units and drop-ins as well, by their names.
func newService(t *testing.T, units map[string]string) *service {
	t.Helper()
	needRoot(t)
	for _, program := range []string{"unshare", "nsenter", "systemctl", "systemd-analyze", "systemd-sysusers"} {
		needProgram(t, program)
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Skip("systemd is not installed; make deps installs it")
	}
	s := &service{site: newSite(t, emulator.Profile{Name: "www"})}
	s.plain()
	var err error
	if s.binary, err = os.ReadFile(s.program); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(s.dir, "files")
	for _, unit := range []string{"sysinit", "basic", "shutdown", "sockets", "multi-user", "network-online", "nss-user-lookup", "test"} {
		write(t, files, unitDir+unit+".target", "[Unit]\nDescription=needed by others\nDefaultDependencies=no\n")
	}
	// There is no journal.
	for _, unit := range []string{unitName, "kvfs-publisher@.service", "kvfs-auditor@.service"} {
		write(t, files, unitDir+unit+".d/log.conf", "[Service]\nStandardError=append:/run/kvfs.log\n")
	}
	for name, text := range units {
		write(t, files, unitDir+name, text)
	}
	if err := os.CopyFS(filepath.Join(files, "src/deploy"), os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	write(t, files, "src/bin/kvfs", string(s.binary))
	write(t, files, "etc/kvfs/ca.pem", string(readFile(t, s.vault.Endpoints().CA)))
	s.settings = filepath.Join(files, "src/settings.json")
	s.configureService(nil)
	s.m = boot(t, files)
	s.asDocumented("systemd-sysusers")
	s.settings = s.m.path("/etc/kvfs/settings.json")
	s.store = s.m.path(config.DefaultStore)
	s.socket = s.m.path("/run/kvfs/kvfs.sock")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kvfs said:\n%s", s.m.log())
		}
	})
	return s
}

// asDocumented runs the one block of docs/systemd.md that has this in it.
func (s *service) asDocumented(part string) {
	s.t.Helper()
	var blocks []fence
	for _, f := range fences(s.t, "sh") {
		if filepath.Base(f.file) == "systemd.md" && strings.Contains(f.body, part) {
			blocks = append(blocks, f)
		}
	}
	if len(blocks) != 1 {
		s.t.Fatalf("%d blocks of docs/systemd.md have %q in them", len(blocks), part)
	}
	s.m.must("sh", "-ec", "cd /src\n"+blocks[0].body)
}

// configureService is configure, with what lies elsewhere on the machine.
func (s *service) configureService(edit func(document)) {
	s.t.Helper()
	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["transport"].(map[string]any)["caFile"] = "/etc/kvfs/ca.pem"
		d.entry("www")["customSymbolicLinkName"] = "site"
		d.entry("www")["acls"] = []any{map[string]any{"user": admitted}}
		if edit != nil {
			edit(d)
		}
	})
}

// server is the process id that it has on the machine.
func (s *service) server() int {
	s.t.Helper()
	pid, err := strconv.Atoi(s.m.property("MainPID"))
	if err != nil || pid == 0 {
		s.t.Fatal("no server runs:", err)
	}
	return pid
}

// mounts of kvfs on the machine, outside of the service's namespace.
func (s *service) mounts() (found []string) {
	s.t.Helper()
	for line := range strings.Lines(string(readFile(s.t, fmt.Sprintf("/proc/%d/mountinfo", s.m.pid)))) {
		if strings.Contains(line, " - fuse.kvfs "+unitName+" ") {
			found = append(found, line)
		}
	}
	return found
}

// uncached makes every read reach the server, so that none of its deaths goes unseen.
var uncached = map[string]string{
	"kvfs.service.d/uncached.conf": `[Service]
ExecStartPre=
ExecStartPre=+/usr/bin/nsenter --mount=/proc/1/ns/mnt /usr/bin/kvfs mounter --uncached --unit=%n /etc/kvfs/settings.json
`,
}

// readers of a service's certificate, by both of its names.
func (s *service) readers() (all []*visitor) {
	s.t.Helper()
	for _, name := range []string{"contoso-web.www", "site"} {
		v := visit(s.t, syscall.Credential{}, "verify", s.path(name))
		var first tally
		if v.hear(&first); first.Reads != 1 {
			s.t.Fatalf("%s cannot be read: %+v", name, first)
		}
		all = append(all, v)
	}
	return all
}

// noneFailed ends readers, of whom none may have noticed anything.
func (s *service) noneFailed(readers []*visitor) {
	s.t.Helper()
	for i, v := range readers {
		v.leave()
		var n tally
		v.hear(&n)
		s.t.Logf("reader %d: %d reads of %d versions, the longest took %v", i, n.Reads, n.Versions, n.Longest.Round(time.Millisecond))
		if n.Failed > 0 || n.Broken > 0 {
			s.t.Errorf("reader %d: %+v", i, n)
		}
	}
}

// systemd is the keeper: whatever ends the server, no read fails, and renewals go on.
func TestServiceIsRestartedKilledAndUpgraded(t *testing.T) {
	s := newService(t, uncached)
	s.m.must("systemctl", "start", unitName)
	if target, err := os.Readlink(s.path("site")); err != nil || target == "" {
		t.Error("it said that it was ready before there was a certificate:", err)
	}
	if n := len(s.mounts()); n != 1 {
		t.Fatalf("%d mounts, want 1", n)
	}
	mounted, readers := s.mounts()[0], s.readers()
	renewed := func() {
		t.Helper()
		version := s.rotate("www")
		s.until("the renewal is visible", func() bool {
			target, err := os.Readlink(s.path("site"))
			return err == nil && strings.HasSuffix(target, version)
		})
	}
	renewed()
	for range 10 {
		was := s.server()
		s.m.must("systemctl", "restart", unitName)
		if now := s.server(); now == was {
			t.Fatal("it was not restarted")
		}
	}
	renewed()
	for i := range 10 {
		was := s.server()
		s.m.must("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unitName)
		s.another(was)
		if i == 5 {
			renewed()
		}
	}
	renewed()

	// Another binary, which is told from the first by its end.
	if err := os.WriteFile(s.m.path("/src/bin/kvfs"), append(slices.Clip(s.binary), "another"...), 0o755); err != nil {
		t.Fatal(err)
	}
	s.asDocumented("systemctl restart")
	if exe := readFile(t, s.m.path(fmt.Sprintf("/proc/%d/exe", s.server()))); !bytes.HasSuffix(exe, []byte("another")) {
		t.Error("the former binary serves")
	}
	renewed()

	// The publisher dies.
	before := s.report().Processes
	s.m.must("kill", "-KILL", strconv.Itoa(before.Publisher))
	renewed()
	if now := s.report().Processes; now.Keeper != 1 || now.Server != before.Server || now.Publisher == before.Publisher || now.Publisher == 0 {
		t.Errorf("processes: %+v, they were %+v", now, before)
	}
	s.noneFailed(readers)

	// A server that hangs is found out by the watchdog: that takes longer.
	readers = s.readers()
	s.m.must("systemctl", "kill", "--signal=STOP", "--kill-whom=main", unitName)
	s.another(before.Server)
	renewed()
	s.noneFailed(readers)
	if now := s.mounts(); len(now) != 1 || now[0] != mounted {
		t.Errorf("the mount is not what it was: %v, it was %s", now, mounted)
	}
}

// What is stopped is gone, and comes back.
func TestServiceStops(t *testing.T) {
	s := newService(t, nil)
	for range 2 {
		s.asDocumented("systemctl enable --now")
		readFile(t, s.path("site"))
		if _, errs, code := s.run("umount"); code == 0 || !strings.Contains(errs, "systemctl stop "+unitName) {
			t.Errorf("kvfs umount of a service: exit code %d, %s", code, errs)
		}
		s.asDocumented("systemctl stop")
		if m := s.mounts(); m != nil {
			t.Error("mounts are left:", m)
		}
		if entries, err := os.ReadDir(s.store); err != nil || len(entries) > 0 {
			t.Error("the directory of the store:", entries, err)
		}
		if state := s.m.property("Result") + " " + s.m.property("NFileDescriptorStore"); state != "success 0" {
			t.Error("after a stop:", state)
		}
	}
	// Before it is ready, too.
	s.vault.SetFault(emulator.Fault{Kind: emulator.Hang})
	s.m.must("systemctl", "start", "--no-block", unitName)
	s.until("the server runs", func() bool { return s.m.property("MainPID") != "0" })
	s.m.must("systemctl", "stop", unitName)
	if m := s.mounts(); m != nil {
		t.Error("mounts are left:", m)
	}
}

// A connection that somebody aborts is replaced, with the mount.
func TestServiceReplacesADeadMount(t *testing.T) {
	s := newService(t, nil)
	s.m.must("systemctl", "start", unitName)
	was := s.server()
	device := strings.Fields(s.mounts()[0])[2]
	_, minor, _ := strings.Cut(device, ":")
	control := t.TempDir()
	if err := syscall.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Skip("connections cannot be aborted here:", err)
	}
	defer func() {
		if err := syscall.Unmount(control, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(control, minor, "abort"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	s.another(was)
	s.until("the certificate is there", func() bool { _, err := os.ReadFile(s.path("site")); return err == nil })
	if m := s.mounts(); len(m) != 1 || strings.Fields(m[0])[2] == device {
		t.Error("mounts:", m)
	}
	s.rotate("www")
}

// So is one that no server can take over, as after an upgrade to one that has another
// format: who waits is told that it is dead instead of waiting for ever.
func TestServiceReplacesWhatItCannotTakeOver(t *testing.T) {
	s := newService(t, nil)
	s.m.must("systemctl", "start", unitName)
	was := s.server()
	journals, err := filepath.Glob(s.m.path(fmt.Sprintf("/proc/%d/fd/*", was)))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range journals {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "/memfd:kvfs-journal") {
			journal, err := os.OpenFile(fd, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = journal.WriteString("of another format")
			if err := errors.Join(err, journal.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.m.must("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unitName)
	s.another(was)
	s.until("the certificate is there", func() bool { _, err := os.ReadFile(s.path("site")); return err == nil })
	if m := s.mounts(); len(m) != 1 {
		t.Error("mounts:", m)
	}
	if !bytes.Contains(s.m.log(), []byte("a journal of another format")) {
		t.Error("it was taken over: the test does not see what it is about")
	}
}

// Settings with an error keep it from starting, without a hurry, until they are mended.
func TestServiceWaitsForGoodSettings(t *testing.T) {
	s := newService(t, nil)
	if err := os.WriteFile(s.settings, []byte("{"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, code := s.m.run("systemctl", "start", unitName); code == 0 {
		t.Error("it starts with settings that are none")
	}
	began := time.Now()
	s.until("it has tried again", func() bool { return bytes.Count(s.m.log(), []byte("is not closed")) >= 3 })
	if took := time.Since(began); took < time.Second {
		t.Errorf("two more tries took %v", took)
	}
	s.configureService(nil)
	s.until("the certificate is there", func() bool { _, err := os.ReadFile(s.path("site")); return err == nil })
}

// Changed settings come by a reload, without a restart; the new certificate is served.
func TestServiceReloads(t *testing.T) {
	s := newService(t, nil)
	s.m.must("systemctl", "start", unitName)
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "api"}); err != nil {
		t.Fatal(err)
	}
	was := s.server()
	s.configureService(func(d document) {
		all := d.secrets()["observedCertificates"].([]any)
		d.secrets()["observedCertificates"] = append(all, map[string]any{"url": strings.Replace(d.entry("www")["url"].(string), "/www", "/api", 1)})
	})
	s.asDocumented("systemctl reload")
	s.until("the new certificate is there", func() bool { _, err := os.ReadFile(s.path("contoso-web.api")); return err == nil })
	if s.server() != was {
		t.Error("another server runs")
	}

	// A store more is for the mounter, and one inside another for nobody.
	s.configureService(func(d document) { d.entry("www")["certificateStoreLocation"] = "/etc/tls" })
	out, _, code := s.run("refresh", "--settings")
	if _, errs, _ := s.run("refresh", "--settings"); code == 0 || !strings.Contains(out+errs, "stop kvfs and start it again") {
		t.Errorf("a store that comes: exit code %d, %s%s", code, out, errs)
	}
	readFile(t, s.path("site"))
	s.m.must("systemctl", "stop", unitName)
	s.m.must("systemctl", "start", unitName)
	readFile(t, s.m.path("/etc/tls/site"))

	// The place of one that is left stays, empty.
	s.configureService(func(d document) {
		d["kvfs"].(map[string]any)["removalGraceInS"] = 0
		d.secrets()["observedCertificates"] = []any{}
	})
	s.must("refresh", "--settings")
	s.until("the store is empty", func() bool { entries, err := os.ReadDir(s.m.path("/etc/tls")); return err == nil && len(entries) == 0 })
	if r := s.report(); r.State != status.Ready || len(r.Mounts) != 2 {
		t.Errorf("without any certificate: %s, mounts %v, %+v", r.State, r.Mounts, r.Error)
	}
	s.m.must("systemctl", "stop", unitName)
	s.configureService(func(d document) {
		inner := map[string]any{"url": d.entry("www")["url"], "certificateStoreLocation": config.DefaultStore + "/inner"}
		d.secrets()["observedCertificates"] = append(d.secrets()["observedCertificates"].([]any), inner)
	})
	if _, _, code := s.m.run("systemctl", "start", unitName); code == 0 || !bytes.Contains(s.m.log(), []byte("lies inside another one, which a service cannot have")) {
		t.Error("a store inside another one: exit code", code)
	}
}

// The auditor has the rights that the server has not, in a unit of its own, and outlives
// the server; it ends with the service.
func TestServiceIsAudited(t *testing.T) {
	s := newService(t, nil)
	const file = "/var/log/kvfs/audit.log"
	s.configureService(func(d document) { d["kvfs"].(map[string]any)["audit"] = map[string]any{"file": file} })
	s.m.must("systemctl", "start", unitName)
	auditor := s.report().Audit
	if auditor == nil || auditor.Process == 0 || auditor.Error != nil {
		t.Fatalf("no auditor: %+v", auditor)
	}
	audited := &audited{site: s.site}
	read := func(uid int) { // by a process of the machine, whose numbers the auditor sees
		t.Helper()
		s.m.must("setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "cat", config.DefaultStore+"/site")
	}
	// One that stays: of those that end before they are looked at, the kernel's record is to
	// be had in the machine's first namespaces alone.
	stays := exec.Command("nsenter", "--target", strconv.Itoa(s.m.pid), "--mount", "--pid", "--", "setpriv", "--reuid", fmt.Sprint(admitted), "--regid", fmt.Sprint(admitted),
		"--clear-groups", "sh", "-c", "exec sleep infinity <"+config.DefaultStore+"/site")
	if err := stays.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // it ends with the machine
		_ = stays.Process.Kill()
		_ = stays.Wait()
	}()
	l := audited.untilLines(s.m.path(file), 1, everyLine)[0]
	if l.UID == nil || *l.UID != admitted || l.PID == 0 || !strings.HasPrefix(l.Executable, "/usr/bin/") || !strings.HasPrefix(l.Path, config.DefaultStore+"/contoso-web.www.") {
		t.Errorf("the line: %+v", l)
	}
	s.rotate("www")
	if out := s.must("status", "--readers", "www"); !strings.Contains(out, "older, open") || !strings.Contains(out, "/usr/bin/sleep") {
		t.Errorf("who has the former version open:\n%s", out)
	}
	was := s.server()
	s.m.must("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unitName)
	read(0)
	s.another(was)
	s.m.must("systemctl", "restart", unitName)
	read(admitted)
	audited.untilLines(s.m.path(file), 3, everyLine)
	if now := s.report().Audit; now == nil || now.Process != auditor.Process || now.Error != nil {
		t.Errorf("another auditor: %+v, it was %+v", now, auditor)
	}
	units := strings.Fields(s.m.must("systemctl", "list-units", "--no-legend", "--plain", "kvfs-auditor@*"))
	if len(units) == 0 {
		t.Fatal("no unit of an auditor runs")
	}
	out := s.m.must("systemd-analyze", "security", "--no-pager", units[0])
	if m := exposure.FindStringSubmatch(out); m == nil {
		t.Errorf("systemd-analyze says\n%s", out)
	} else {
		t.Logf("%s: exposure %s", units[0], m[1])
	}
	s.m.must("systemctl", "stop", unitName)
	s.within(time.Minute, "the auditor has ended", func() bool {
		return s.m.must("systemctl", "list-units", "--no-legend", "--plain", "kvfs-auditor@*") == ""
	})
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// The processes that have keys, and that change names, can do nothing else.
func TestServiceHasNoRights(t *testing.T) {
	s := newService(t, nil)
	s.m.must("systemctl", "start", unitName)
	s.rotate("www")
	p := s.report().Processes
	publisher := strings.Fields(s.m.must("systemctl", "list-units", "--no-legend", "--plain", "kvfs-publisher@*"))
	if len(publisher) == 0 {
		t.Fatal("no publisher runs")
	}
	for unit, pid := range map[string]int{unitName: p.Server, publisher[0]: p.Publisher} {
		out := s.m.must("systemd-analyze", "security", "--no-pager", unit)
		m := exposure.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: systemd-analyze says\n%s", unit, out)
		}
		if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 2.0 {
			t.Errorf("%s: exposure %s\n%s", unit, m[1], out)
		}
		t.Logf("%s: exposure %s", unit, m[1])
		rights := string(readFile(t, s.m.path(fmt.Sprintf("/proc/%d/status", pid))))
		for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(rights, want+"\n") {
				t.Errorf("%s: %q is not in\n%s", unit, want, rights)
			}
		}
		if root := strings.Contains(rights, "Uid:\t0\t"); root != (unit != unitName) {
			t.Errorf("%s: runs as root: %t", unit, root)
		}
	}
	// What the server shows is root's all the same, and who may read is as ever.
	info, err := os.Stat(s.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != 0 {
		t.Errorf("the file belongs to %d:%d", st.Uid, st.Gid)
	}
	reading := func(uid uint32) int {
		_, _, code := s.m.run("setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "cat", config.DefaultStore+"/site")
		return code
	}
	if reading(admitted) != 0 || reading(stranger) == 0 {
		t.Errorf("exit codes: %d of who is admitted, %d of a stranger", reading(admitted), reading(stranger))
	}
	// The publisher is for the server alone.
	if _, _, code := s.m.run("setpriv", "--reuid", fmt.Sprint(stranger), "--clear-groups", "sh", "-c", "exec 3<>/dev/null; test -w /run/kvfs-publisher.sock"); code == 0 {
		t.Error("others may write to the publisher's socket")
	}
}

// A server of certificates waits for them, and starts without them if it must.
func TestServersWaitForTheService(t *testing.T) {
	for _, name := range []string{"nginx", "haproxy"} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, map[string]string{
				name + ".service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/cat " + config.DefaultStore + "/site\n",
			})
			s.asDocumented(name + ".service.d")
			s.m.must("systemctl", "start", name)
			s.m.must("systemctl", "restart", unitName)
			s.m.must("systemctl", "stop", unitName)
			if state := strings.TrimSpace(s.m.must("systemctl", "show", "--value", "--property=ActiveState", name)); state != "active" {
				t.Error("after the stop of kvfs it is", state)
			}
		})
	}
}

// The server has no right to write anywhere, so a log file needs a line in the unit (docs/logs.md); a collector needs nothing.
func TestServiceLogsToAFileAndToACollector(t *testing.T) {
	var dropIn []fence
	for _, f := range fences(t, "ini") {
		if filepath.Base(f.file) == "logs.md" {
			dropIn = append(dropIn, f)
		}
	}
	if len(dropIn) != 1 {
		t.Fatalf("docs/logs.md has %d drop-ins", len(dropIn))
	}
	s := newService(t, map[string]string{unitName + ".d/file.conf": dropIn[0].body})
	c := listen(t)
	s.configureService(func(d document) { d.logTo(c, map[string]any{"file": true}) })
	s.m.must("systemctl", "start", unitName)
	s.until("the collector has it", func() bool { return strings.Contains(c.String(), "serving") })
	file := s.m.path(config.DefaultLogFile)
	if got := string(readFile(t, file)); !strings.Contains(got, "msg=serving") {
		t.Errorf("the file has %q", got)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Errorf("%v %+v", err, fi)
	}
	s.m.must("systemctl", "restart", unitName)
	s.rotate("www")
	if l := s.report().Logs; l == nil || l.File == nil || l.File.Error != nil || l.Collector == nil || l.Collector.Error != nil || l.Collector.Sent == 0 {
		t.Errorf("after a restart: %+v", l)
	}
}
