package test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"kvfs/emulator"
)

// newUser makes a user of this machine, in some more groups, and removes it
// with the test.
func newUser(t testing.TB, name string, groups ...string) {
	t.Helper()
	needProgram(t, "useradd")
	args := []string{"--system", "--no-create-home", "--shell", "/usr/sbin/nologin"}
	if len(groups) > 0 {
		args = append(args, "--groups", strings.Join(groups, ","))
	}
	admin(t, "useradd", append(args, name)...)
	t.Cleanup(func() { admin(t, "userdel", name) })
}

func newGroup(t testing.TB, name string) {
	t.Helper()
	needProgram(t, "groupadd")
	admin(t, "groupadd", "--system", name)
	t.Cleanup(func() { admin(t, "groupdel", name) })
}

func admin(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(needProgram(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// credential is that of a user with all the groups that the user has.
func credential(t testing.TB, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	id := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	cred := &syscall.Credential{Uid: id(u.Uid), Gid: id(u.Gid)}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, id(g))
	}
	return cred
}

// readAs reads a file in a process of a user and tells what came of it: "reads",
// or the error.
func readAs(t testing.TB, name, path string) string {
	t.Helper()
	cmd := exec.Command("cat", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t, name)}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "-----BEGIN PRIVATE KEY-----"):
		return "reads"
	case strings.Contains(string(out), "Permission denied"):
		return "permission denied"
	}
	return fmt.Sprintf("%v: %.200s", err, out)
}

// Real users and groups, decided by the kernel: azure-docs#94543 and
// secrets-store-csi-driver#858 are what it is like without.
func TestUsersAndGroupsOfTheSettingsRead(t *testing.T) {
	needRoot(t)
	pid := os.Getpid()
	user1, member, stranger, group := fmt.Sprintf("kvfs-u%d", pid), fmt.Sprintf("kvfs-m%d", pid), fmt.Sprintf("kvfs-s%d", pid), fmt.Sprintf("kvfs-g%d", pid)
	newGroup(t, group)
	newUser(t, user1)
	newUser(t, member, group) // by a supplementary group
	newUser(t, stranger)

	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) {
		d.entry("www")["acls"] = []any{map[string]any{"user": user1}, map[string]any{"group": group}}
	})
	s.mount()
	link := s.path("contoso-web.www")
	expect := func(when string, want map[string]string) {
		t.Helper()
		for who, what := range want {
			for _, name := range []string{"contoso-web.www", "contoso-web.www.keyid"} {
				if got := readAs(t, who, s.path(name)); got != what {
					t.Errorf("%s: %s at %s: %s, want %s", when, who, name, got, what)
				}
			}
		}
	}
	const denied = "permission denied"
	expect("at first", map[string]string{"root": "reads", user1: "reads", member: "reads", stranger: denied})

	out, errs, code := command(t, needProgram(t, "getfacl"), "--absolute-names", link)
	for _, line := range []string{"user::rw-", "user:" + user1 + ":r--", "group::---", "group:" + group + ":r--", "mask::r--", "other::---"} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("getfacl (exit code %d) does not show %s:\n%s%s", code, line, out, errs)
		}
	}

	// Another list, taken over while the file is in everybody's cache.
	before := mounts(t, s.dir)
	s.configure(func(d document) { d.entry("www")["acls"] = []any{map[string]any{"user": stranger}} })
	s.hangUp()
	expect("after the change", map[string]string{"root": "reads", user1: denied, member: denied, stranger: "reads"})

	s.configure(nil) // no list at all
	s.hangUp()
	expect("without a list", map[string]string{"root": "reads", user1: denied, member: denied, stranger: denied})
	if after := mounts(t, s.dir); len(after) != 1 || after[0] != before[0] {
		t.Errorf("the mount changed from %v to %v", before, after)
	}

	// A renewal keeps the list of its settings.
	s.configure(func(d document) { d.entry("www")["acls"] = []any{map[string]any{"user": user1}} })
	s.hangUp()
	s.rotate("www")
	expect("after a renewal", map[string]string{"root": "reads", user1: "reads", stranger: denied})
}

// hangUp lets kvfs read its settings again and returns when it has.
func (s *site) hangUp() {
	s.t.Helper()
	before := strings.Count(s.log.String(), "settings applied")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
	s.until("the settings are applied", func() bool { return strings.Count(s.log.String(), "settings applied") > before })
}

// A package creates its user after kvfs has started.
func TestUserThatComesLaterIsLetIn(t *testing.T) {
	needRoot(t)
	late := fmt.Sprintf("kvfs-l%d", os.Getpid())
	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) { d.entry("www")["acls"] = []any{map[string]any{"user": late}} })
	s.mount()
	if !strings.Contains(s.log.String(), late) {
		t.Errorf("kvfs does not say that %s is unknown:\n%s", late, s.log)
	}
	newUser(t, late)
	s.must("refresh")
	if got := readAs(t, late, s.path("contoso-web.www")); got != "reads" {
		t.Error(got)
	}
}

// A broken document changes nothing.
func TestBrokenSettingsLeaveEverythingAsItIs(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	was := string(readFile(t, s.path("contoso-web.www")))
	if err := os.WriteFile(s.settings, []byte(`{"secretsManagementSettings": {`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await("what was good is still served")
	if string(readFile(t, s.path("contoso-web.www"))) != was {
		t.Error("the file changed")
	}
	s.rotate("www")
}
