package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"kvfs/emulator"
)

// An ordinary user mounts through fusermount3 and is the only one who reads.
func TestOrdinaryUserMountsThroughFusermount(t *testing.T) {
	needRoot(t) // to become one
	needProgram(t, "fusermount3")
	openToAll(t, "/dev/fuse")
	name := fmt.Sprintf("kvfs-r%d", os.Getpid())
	newUser(t, name) // fusermount3 wants to know its name
	as := &syscall.SysProcAttr{Credential: credential(t, name)}
	uid := int(as.Credential.Uid)
	s := newSite(t, emulator.Profile{Name: "www"})
	home := filepath.Join(s.dir, "home")
	for _, dir := range []string{home, filepath.Join(home, "run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	s.store, s.socket = filepath.Join(home, "certs"), filepath.Join(home, "run", "kvfs.sock")
	for _, f := range []string{s.settings, s.vault.Endpoints().CA, filepath.Dir(s.vault.Endpoints().CA)} {
		if err := os.Chown(f, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	s.configure(func(d document) { d["kvfs"].(map[string]any)["audit"] = true }) // which it cannot have
	s.startAs(as, "mount", s.settings, "--store", s.store)
	s.await("kvfs: serving 1 of 1")

	check := exec.Command(kvfsPath, "check", s.settings, "--store", s.store)
	check.SysProcAttr = as
	if out, err := check.CombinedOutput(); err != nil || !strings.Contains(string(out), "kvfs.audit: an ordinary user cannot watch opens") {
		t.Errorf("kvfs check says of the audit: %v\n%s", err, out)
	}
	s.await("opens cannot be watched without CAP_SYS_ADMIN")

	link := s.path("contoso-web.www")
	read := func(attr *syscall.SysProcAttr) (string, error) {
		cmd := exec.Command("cat", link)
		cmd.SysProcAttr = attr
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	was, err := read(as)
	if err != nil || !strings.Contains(was, "PRIVATE KEY") {
		t.Fatalf("its own user: %v %s", err, was)
	}
	if out, err := read(nil); err == nil {
		t.Errorf("root reads a mount that is not for others: %.40s", out)
	}
	who := exec.Command(kvfsPath, "access", link, "--user", "nobody")
	who.SysProcAttr = as
	if out, _ := who.CombinedOutput(); who.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), "an ordinary user's mount, which "+name) {
		t.Errorf("access says %s", out)
	}
	s.rotateAs(as)
	if now, err := read(as); err != nil || now == was {
		t.Errorf("after a renewal: %v, changed %t", err, now != was)
	}
	write := exec.Command("sh", "-c", "echo x > "+strconv.Quote(link))
	write.SysProcAttr = as
	if out, err := write.CombinedOutput(); err == nil || !strings.Contains(string(out), "Read-only file system") {
		t.Errorf("writing: %v %s", err, out)
	}
	was, _ = read(as)
	pid := s.kill(syscall.SIGKILL)
	if now, err := read(as); err != nil || now != was {
		t.Errorf("when the server was killed: %v, changed %t", err, now != was)
	}
	s.another(pid)
	s.rotateAs(as)
	if now, err := read(as); err != nil || now == was {
		t.Errorf("after the next renewal: %v, changed %t", err, now != was)
	}
	s.end(syscall.SIGTERM)
}

// openToAll does for the time of a test what the udev rule of fuse3 does where
// udev runs: the device is for every user.
func openToAll(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() == 0o666 {
		return
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(path, fi.Mode().Perm()) })
}

func (s *site) rotateAs(as *syscall.SysProcAttr) {
	s.t.Helper()
	if _, err := s.vault.Rotate("", "www"); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(kvfsPath, "refresh", "--socket", s.socket)
	cmd.SysProcAttr = as
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), " -> ") {
		s.t.Fatalf("refresh: %v %s", err, out)
	}
}

func TestOrdinaryUserIsToldWhatItCannotDo(t *testing.T) {
	needRoot(t) // to become one
	s := newSite(t, emulator.Profile{Name: "www"})
	if err := os.Chmod(s.settings, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kvfsPath, "mount", s.settings, "--socket", filepath.Join(s.dir, "x.sock"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 4 || !strings.Contains(string(out), "kvfs: hint: run it as root, or choose a directory of your own with --store") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
