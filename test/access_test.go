package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kvfs/emulator"
)

// What kvfs access says is what the kernel does, for every kind of reader.
func TestAccessSaysWhatTheKernelDoes(t *testing.T) {
	needRoot(t)
	pid := os.Getpid()
	named, member, stranger, group := fmt.Sprintf("kvfs-a%d", pid), fmt.Sprintf("kvfs-b%d", pid), fmt.Sprintf("kvfs-c%d", pid), fmt.Sprintf("kvfs-d%d", pid)
	newGroup(t, group)
	newUser(t, named)
	newUser(t, member, group)
	newUser(t, stranger)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) {
		d.entry("www")["customSymbolicLinkName"] = "site"
		d.entry("www")["acls"] = []any{map[string]any{"user": named}, map[string]any{"group": group}}
	})
	s.mount()
	link, mark := s.path("site"), s.path("contoso-web.www.luma")

	out := s.must("access", link)
	for _, line := range []string{s.path("contoso-web.www." + s.certificate("www").Version), "  user root (0) owns it", "  user " + named + " (", "  group " + group + " (", "  nobody else may read it"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if out := s.must("access", mark); !strings.Contains(out, "everybody may read it") {
		t.Error(out)
	}

	expect := func(path, who, reason string) {
		t.Helper()
		kernel := exitOf(t, "cat", path, credential(t, who)) == 0
		out, _, code := s.run("access", path, "--user", who)
		if kernel != (code == 0) || !kernel && code != 4 {
			t.Errorf("%s at %s: the kernel lets him: %v; exit code %d\n%s", who, path, kernel, code, out)
		}
		if !strings.Contains(out, reason) {
			t.Errorf("%s at %s: no %q in\n%s", who, path, reason, out)
		}
	}
	expect(link, "root", "owner of the file")
	expect(link, named, "named user")
	expect(link, member, "member of group")
	expect(link, stranger, "neither user")
	expect(mark, stranger, "everybody may")

	// A directory on the way may be closed to who could read the file, also one
	// that only a link leads through.
	closed := filepath.Join(s.dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	through := filepath.Join(s.dir, "through")
	for from, to := range map[string]string{through: "closed/../closed/link", filepath.Join(closed, "link"): link} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	expect(through, named, "the directory "+closed+" is closed to this user (mode 0700, of root)")
	expect(through, "root", "owner of the file")
	admin(t, "setfacl", "--modify", "u:"+named+":x", closed)
	if _, errs, code := s.run("access", through, "--user", named); code != 1 || !strings.Contains(errs, "it cannot be told: the directory "+closed+" has an access list of its own") {
		t.Errorf("a directory with a list: exit code %d\n%s", code, errs)
	}
	// Of a file without a list the first class that fits counts.
	plain := filepath.Join(s.dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o604); err != nil {
		t.Fatal(err)
	}
	admin(t, "chgrp", group, plain)
	expect(plain, member, "may not read "+plain+": member of the owning group")
	expect(plain, stranger, "everybody may")

	var data struct {
		File  string
		Users []struct{ Name string }
		Asked struct {
			User    struct{ ID int }
			Allowed bool
		}
	}
	out, _, code := s.run("access", link, "--json", "--user", "4294967000")
	if err := json.Unmarshal([]byte(out), &data); err != nil || code != 4 || data.Asked.User.ID != 4294967000 || data.Asked.Allowed || len(data.Users) != 1 || data.Users[0].Name != named {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	for args, want := range map[string]struct {
		code int
		fact string
	}{
		s.path("nosuch"):                 {5, "cannot be looked at: no such file"},
		s.store:                          {2, "is not a file"},
		link + " --user kvfs-nobody-has": {5, `no user is called "kvfs-nobody-has"`},
	} {
		_, errs, code := s.run(append([]string{"access"}, strings.Fields(args)...)...)
		if code != want.code || !strings.Contains(errs, want.fact) || !strings.Contains(errs, "kvfs: hint: ") {
			t.Errorf("%s: exit code %d\n%s", args, code, errs)
		}
	}

	// A list of another form than ours is not explained.
	foreign := filepath.Join(s.dir, "foreign")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	admin(t, "setfacl", "--modify", "u:"+named+":rw", foreign)
	if _, errs, code := s.run("access", foreign); code != 1 || !strings.Contains(errs, "not one that kvfs makes") {
		t.Errorf("a foreign list: exit code %d\n%s", code, errs)
	}
}

// exitOf is the exit code of a program that a user runs.
func exitOf(t testing.TB, name, path string, as *syscall.Credential) int {
	t.Helper()
	cmd := exec.Command(name, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	_ = cmd.Run() // the code says it
	return cmd.ProcessState.ExitCode()
}
