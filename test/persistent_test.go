package test

import (
	"encoding/pem"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/disk"
	"kvfs/emulator"
)

// persist asks for real files of all stores, and for more by edit.
func (s *site) persist(files any, edit func(document)) {
	s.t.Helper()
	s.configure(func(d document) {
		d.own()["persistent"] = files
		if edit != nil {
			edit(d)
		}
	})
}

// seen is what somebody can see of a directory: for each name kind, mode, owner, access list, and bytes or target.
func seen(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || path == dir || filepath.Base(path) == ".kvfs" {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		list := make([]byte, 4096)
		n := 0
		if d.Type().IsRegular() {
			n, _ = unix.Lgetxattr(path, "system.posix_acl_access", list)
		}
		content := ""
		switch {
		case d.Type() == iofs.ModeSymlink:
			content, err = os.Readlink(path)
		case d.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(path)
			content = string(b)
		}
		all[strings.TrimPrefix(path, filepath.Clean(dir)+"/")] = fmt.Sprintf("%o %d:%d %x %s", st.Mode, st.Uid, st.Gid, list[:max(n, 0)], content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same compares two such views.
func same(t testing.TB, when string, got, want map[string]string) {
	t.Helper()
	const most = 5
	wrong := 0
	for name, w := range want {
		if got[name] != w && wrong < most {
			wrong++
			t.Errorf("%s: %s is %.150q, want %.150q", when, name, got[name], w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is there", when, name)
		}
	}
}

// beneath is a path of the directory that the store's mount covers.
func (s *site) beneath() string {
	s.t.Helper()
	f, err := disk.Beneath(s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/self/fd/%d/.", f.Fd())
}

// down lets the vault answer nothing.
func (s *site) down() { s.vault.SetFault(emulator.Fault{Kind: emulator.Drop}) }

// Beneath the mount there is the same as in it, name by name, in all layouts, through renewals, changed readers, and
// the death of the server; and when all processes are killed and the mount is taken away, it is what was served last.
// From that kvfs begins again, whether or not there is a network.
func TestFilesBeneathTheMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	edit := func(d document) {
		d.own()["layouts"] = []string{"v3", "v4", "live", "certs", "pfx", "jks", "truststore", "x509store"}
		d.entry("www")["customSymbolicLinkName"] = "site"
		d.entry("www")["acls"] = []any{map[string]any{"user": 33, "group": 12}}
	}
	s.persist("beneath", edit)
	s.mount()
	below := s.beneath()
	same(t, "at the start", seen(t, below), seen(t, s.store))
	s.rotate("www")
	same(t, "after a renewal", seen(t, below), seen(t, s.store))
	s.persist("beneath", func(d document) {
		edit(d)
		d.entry("www")["acls"] = []any{map[string]any{"user": 7}}
		d.entry("api")["acls"] = []any{map[string]any{"group": 8}}
	})
	s.must("refresh", "--settings")
	same(t, "after other readers", seen(t, below), seen(t, s.store))
	was := s.kill(syscall.SIGKILL)
	s.another(was)
	s.rotate("www")
	s.rotate("www")
	same(t, "by another server", seen(t, below), seen(t, s.store))

	last := seen(t, s.store)
	s.end(syscall.SIGKILL)
	if err := unix.Unmount(s.store, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	same(t, "when everything was killed", seen(t, s.store), last)

	s.down()
	s.start("mount", s.settings, "--store", s.store)
	s.await("kvfs: serving 2 of 2")
	if len(mounts(t, s.store)) != 1 {
		t.Error("it is not mounted")
	}
	again := seen(t, s.store)
	for name, want := range last {
		if pfx := strings.HasSuffix(name, ".pfx") || strings.HasSuffix(name, ".jks"); again[name] != want && !pfx { // whose bytes are others each time
			t.Errorf("without a network: %s is %.150q, want %.150q", name, again[name], want)
		}
	}
	same(t, "without a network", seen(t, s.beneath()), again)
	s.until("it is said that this is old", func() bool { c := s.certificate("www"); return c.State == "stale" && c.Error != nil })
	s.vault.ClearFaults()
	s.until("the vault was asked", func() bool { return s.certificate("www").State == "ok" && s.certificate("api").State == "ok" })
	s.rotate("api")
	same(t, "at the end", seen(t, s.beneath()), seen(t, s.store))
}

// Real files instead of a mount: nothing is mounted, they are renewed, they stay when kvfs ends, and the next one
// begins with them, also without a network and after the death of a server.
func TestFilesInsteadOfAMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.persist(map[string]any{"files": "instead"}, nil)
	s.mount()
	if m := mounts(t, s.dir); len(m) > 0 {
		t.Error("mounted:", m)
	}
	version := s.rotate("www")
	target, err := os.Readlink(s.path("contoso-web.www"))
	if err != nil || target != "contoso-web.www."+version {
		t.Error(target, err)
	}
	if r := s.report(); r.State != "ready" || len(r.Directories) != 1 || r.Directories[0].Path != s.store || r.Directories[0].Error != nil {
		t.Errorf("%s %+v", r.State, r.Directories)
	}
	files := seen(t, s.store)
	s.down()
	was := s.kill(syscall.SIGKILL)
	s.another(was)
	s.until("another server serves", func() bool { return s.certificate("www").Version == version })
	same(t, "by another server", seen(t, s.store), files)
	if out := s.must("umount"); !strings.Contains(out, "the files in "+s.store+" stay") {
		t.Error(out)
	}
	if err := s.ended(); err != nil {
		t.Error(err)
	}
	same(t, "after the end", seen(t, s.store), files)
	s.start("mount", s.settings, "--store", s.store)
	s.await("kvfs: serving 1 of 1")
	same(t, "without a network", seen(t, s.store), files)
	s.vault.ClearFaults()
	s.until("the vault was asked", func() bool { return s.certificate("www").State == "ok" })
	same(t, "with a network", seen(t, s.store), files)
}

// An ordinary user has real files in a directory of his own, without any right to mount.
func TestOrdinaryUserHasFiles(t *testing.T) {
	t.Parallel()
	needRoot(t) // to become one
	s := newSite(t, emulator.Profile{Name: "www"})
	s.persist("instead", nil)
	const uid = 54322
	home := filepath.Join(s.dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{home, s.settings, s.vault.Endpoints().CA, filepath.Dir(s.vault.Endpoints().CA)} {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	s.store, s.socket, s.env = filepath.Join(home, "certs"), filepath.Join(home, "run", "kvfs.sock"), []string{"PATH=/nowhere"}
	s.startAs(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}, "mount", s.settings, "--store", s.store)
	s.await("kvfs: serving 1 of 1")
	if m := mounts(t, s.dir); len(m) > 0 {
		t.Error("mounted:", m)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.path("contoso-web.www"), &st); err != nil || st.Uid != uid || st.Mode&0o777 != 0o600 {
		t.Errorf("owner %d, mode %o, %v", st.Uid, st.Mode, err)
	}
}

// What is wrong with a directory is said, the mount is served and renewed all the same, and when it is mended the files
// follow by themselves.
func TestDirectoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.persist("beneath", nil)
	s.mount()
	below := s.beneath()
	if err := os.Chmod(below, 0o777); err != nil {
		t.Fatal(err)
	}
	was := seen(t, below)
	version := s.rotate("www")
	if target, _ := os.Readlink(s.path("contoso-web.www")); !strings.HasSuffix(target, version) {
		t.Error("the mount was not renewed:", target)
	}
	same(t, "in a directory that others can write to", seen(t, below), was)
	r := s.report()
	if r.State != "degraded" || len(r.Directories) != 1 || r.Directories[0].Error == nil || !strings.Contains(r.Directories[0].Error.Hint, "chmod go-w") {
		t.Errorf("%s %+v", r.State, r.Directories)
	}
	if out := s.must("status"); !strings.Contains(out, "others than its owner may write to") || !strings.Contains(out, "chmod go-w") {
		t.Error(out)
	}
	if err := os.Chmod(below, 0o755); err != nil {
		t.Fatal(err)
	}
	s.until("the files follow", func() bool { return s.report().State == "ready" })
	same(t, "when it is mended", seen(t, below), seen(t, s.store))
}

// A directory that others can write to is no place for real files: kvfs does not start, and says how to mend that.
func TestDirectoryThatOthersCanWriteToIsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.store, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, files := range []string{"beneath", "instead"} {
		s.persist(files, nil)
		out, errs, code := s.run("check", s.settings, "--store", s.store)
		if !strings.Contains(errs, "others than its owner may write to "+s.store) || !strings.Contains(errs, "chmod go-w") {
			t.Errorf("check: %d\n%s%s", code, out, errs)
		}
		_, errs, code = s.run("mount", s.settings, "--store", s.store)
		if code == 0 || !strings.Contains(errs, "others than its owner may write to "+s.store) || !strings.Contains(errs, "hint: ") {
			t.Errorf("mount: %d\n%s", code, errs)
		}
	}
}

// extension writes the store as a version of the extension has, with one version of www, and returns its links.
func (s *site) extension(version int) (links []string) {
	s.t.Helper()
	const id = "0123456789abcdef0123456789abcdef"
	key, chain := pemBlocks(madeBundle(s.t.(*testing.T), time.Now().Add(-time.Hour), "Old", "www.example"))
	base := "contoso-web.www." + id
	write := func(name, text string) {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	link := func(name, target string) {
		if err := os.Symlink(target, s.path(name)); err != nil {
			s.t.Fatal(err)
		}
		links = append(links, name)
	}
	if err := os.Mkdir(s.store, 0o700); err != nil {
		s.t.Fatal(err)
	}
	switch version {
	case 2:
		write(base+".1700000000.1731536000.PEM", chain+key)
		link("contoso-web.www", s.path(base+".1700000000.1731536000.PEM"))
	case 3:
		write(base, chain+key)
		link("contoso-web.www", base)
		link("site", base)
	case 4:
		write(base+".pem.1700000000", chain)
		write(base+".keyid.1700000000", key)
		link("contoso-web.www.pem", base+".pem.1700000000")
		link("contoso-web.www.keyid", base+".keyid.1700000000")
		write("contoso-web.www.luma", "{}")
	}
	return links
}

func pemBlocks(text string) (key, chain string) {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return key, chain
		}
		if b.Type == "CERTIFICATE" {
			chain += string(pem.EncodeToMemory(b))
		} else {
			key += string(pem.EncodeToMemory(b))
		}
	}
}

// A store as the extension has left it is taken over while servers read it: no read through its links fails, neither when
// the mount comes nor when files are written in its place, nor at the renewal that follows. With a mount, what the
// extension has written stays as it is beneath it.
func TestStoreOfTheExtensionIsTakenOver(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, files := range []string{"no", "instead"} {
		for _, version := range []int{2, 3, 4} {
			for _, network := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s v%d network=%v", files, version, network), func(t *testing.T) {
					s := newSite(t, emulator.Profile{Name: "www"})
					s.persist(files, func(d document) { d.entry("www")["customSymbolicLinkName"] = "site" })
					links := s.extension(version)
					was := seen(t, s.store)
					stop := s.readOn(links)
					if !network {
						s.down()
					}
					s.mount()
					if !network {
						if target, err := os.Readlink(s.path(links[0])); err != nil || !strings.Contains(target, "0123456789abcdef") {
							t.Error("what the extension has left is not served:", target, err)
						}
						s.vault.ClearFaults()
					}
					s.until("the vault's own is served", func() bool {
						target, err := os.Readlink(s.path(links[0]))
						return err == nil && !strings.Contains(target, "0123456789abcdef")
					})
					s.rotate("www")
					if files == "no" {
						stop()
						same(t, "beneath", seen(t, s.beneath()), was)
						s.end(syscall.SIGTERM)
						same(t, "afterwards", seen(t, s.store), was)
						return
					}
					s.end(syscall.SIGTERM)
					stop()
				})
			}
		}
	}
}

// readOn reads all links in a loop. stop ends that, and reports what has failed.
func (s *site) readOn(links []string) (stop func()) {
	end, ended := make(chan struct{}), make(chan error, 1)
	reads := 0
	go func() {
		for {
			for _, name := range links {
				b, err := os.ReadFile(s.path(name))
				if err == nil && !strings.HasSuffix(strings.TrimSpace(string(b)), "-----") {
					err = fmt.Errorf("%s has %d bytes", name, len(b))
				}
				if err != nil {
					ended <- err
					return
				}
				reads++
			}
			select {
			case <-end:
				ended <- nil
				return
			default:
			}
		}
	}()
	return func() {
		s.t.Helper()
		close(end)
		if err := <-ended; err != nil || reads < 100 {
			s.t.Errorf("after %d reads: %v", reads, err)
		}
	}
}

// A system directory gets real files beside what is there, with a word about the keys; what is there is not touched, and who
// says no gets a refusal.
func TestSystemDirectoryGetsFiles(t *testing.T) {
	needRoot(t)
	unshare := needProgram(t, "unshare")
	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(nil)
	const store = "/etc/ssl/certs"
	s.wrapper = []string{unshare, "--mount", "sh", "-c",
		"mount -t tmpfs -o mode=755 tmpfs " + store + " && cd " + store + " && echo roots >ca-certificates.crt && ln -s ca-certificates.crt 0a1b2c3d.0 && mkdir java && exec \"$@\"", "sh"}
	s.start("mount", s.settings, "--store", store)
	s.await("kvfs: serving 1 of 1 certificates at " + store)
	if said := s.log.String(); !strings.Contains(said, "system directory") {
		t.Error("nothing is said of the keys:", said)
	}
	there := fmt.Sprintf("/proc/%d/root%s/", s.cmd.Process.Pid, store)
	check := func() {
		t.Helper()
		if b, err := os.ReadFile(there + "ca-certificates.crt"); err != nil || string(b) != "roots\n" {
			t.Error(string(b), err)
		}
		if target, err := os.Readlink(there + "0a1b2c3d.0"); err != nil || target != "ca-certificates.crt" {
			t.Error(target, err)
		}
		if _, err := os.Stat(there + "java"); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(there + "contoso-web.www"); err != nil || !strings.Contains(string(b), "PRIVATE KEY") {
			t.Error(err)
		}
	}
	check()
	s.rotate("www")
	check()
	out, errs, code := s.run("check", s.settings, "--store", store)
	if code != 0 || !strings.Contains(errs, "kvfs: warning: ") || !strings.Contains(errs, "is a system directory, at which nothing is mounted") {
		t.Errorf("check: %d\n%s%s", code, out, errs)
	}
	s.persist("no", nil)
	if _, errs, code := s.run("check", s.settings, "--store", store); code != 3 || !strings.Contains(errs, "is a system directory: a mount would hide") {
		t.Errorf("check of no: %d\n%s", code, errs)
	}
}

// Real files come and go with the settings.
func TestFilesComeAndGoWithTheSettings(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	other := filepath.Join(s.dir, "other")
	s.mount()
	s.persist("beneath", func(d document) { d.own()["removalGraceInS"] = 0 })
	s.must("refresh", "--settings")
	same(t, "beneath", seen(t, s.beneath()), seen(t, s.store))
	s.configure(func(d document) {
		d.own()["removalGraceInS"] = 0
		d.own()["stores"] = map[string]any{other: map[string]any{"persistent": "instead"}}
		d.entry("api")["certificateStoreLocation"] = other
	})
	s.must("refresh", "--settings")
	if b := readFile(t, filepath.Join(other, "contoso-web.api")); !strings.Contains(string(b), "PRIVATE KEY") {
		t.Error("no files")
	}
	if r := s.report(); r.State != "ready" || len(r.Directories) != 1 || r.Directories[0].Path != other || len(r.Mounts) != 1 {
		t.Errorf("%s %+v %v", r.State, r.Directories, r.Mounts)
	}
	s.configure(func(d document) {
		d.own()["removalGraceInS"] = 0
		d.own()["persistent"] = "instead"
	})
	if _, errs, code := s.run("refresh", "--settings"); code != 3 || !strings.Contains(errs, "cannot change while it is served") {
		t.Errorf("a mount becomes files: %d\n%s", code, errs)
	}
	s.configure(func(d document) { d.own()["removalGraceInS"] = 0 })
	s.must("refresh", "--settings")
	s.until("the store has gone", func() bool { return len(s.report().Directories) == 0 })
	if left := seen(t, other); len(left) > 0 {
		t.Error("files that the settings have no more:", left)
	}
}

// A disk that hangs holds up neither what is mounted elsewhere, nor changed settings, nor the end of kvfs; when it
// answers again its files become what they are to be.
func TestDiskThatHangsHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	other := mountMemory(t, filepath.Join(s.dir, "other"), "1m")
	files := func(edit func(document)) {
		s.configure(func(d document) {
			d.own()["removalGraceInS"] = 0
			d.own()["stores"] = map[string]any{other: map[string]any{"persistent": "instead"}}
			d.entry("api")["certificateStoreLocation"] = other
			if edit != nil {
				edit(d)
			}
		})
	}
	says := func(what string) {
		t.Helper()
		s.until("it is said that "+what, func() bool {
			all := s.report().Directories
			return len(all) == 1 && all[0].Error != nil && strings.Contains(all[0].Error.Fact, what)
		})
	}
	files(nil)
	s.mount()
	renewed := func() bool {
		target, err := os.Readlink(filepath.Join(other, "contoso-web.api"))
		return err == nil && target == "contoso-web.api."+s.certificate("api").Version
	}
	s.until("the files are there", renewed)
	release := holdOpens(t, other)
	defer release() // who waits does not end
	s.rotate("api")
	says("is not written yet")
	if v := s.rotate("www"); s.leads("contoso-web.www") != v {
		t.Error("what is mounted is not renewed")
	}
	// Another server goes on, and finds it as it is.
	s.another(s.kill(syscall.SIGKILL))
	says("is not written yet")
	if v := s.rotate("www"); s.leads("contoso-web.www") != v {
		t.Error("what is mounted is not renewed by another server")
	}
	// Settings that keep the directory, and then take it away.
	files(func(d document) { d.entry("www")["customSymbolicLinkName"] = "site" })
	s.must("refresh", "--settings")
	if _, err := os.Readlink(s.path("site")); err != nil {
		t.Error("changed settings are not applied:", err)
	}
	s.configure(func(d document) {
		d.own()["removalGraceInS"] = 0
		d.keep("www")
	})
	s.must("refresh", "--settings")
	release()
	s.until("the directory is none of kvfs's any more", func() bool { return len(s.report().Directories) == 0 })
	if left := seen(t, other); len(left) > 0 {
		t.Error("files that the settings have no more:", left)
	}
	// It comes back. What is to be done after a renewal waits for the files.
	out := filepath.Join(s.dir, "out")
	files(func(d document) {
		d.entry("api")["kvfs"] = map[string]any{"onChange": []any{shell("readlink " + other + "/contoso-web.api >> " + out)}}
	})
	s.must("refresh", "--settings")
	s.until("the files are there again", renewed)
	release = holdOpens(t, other)
	defer release()
	version := s.rotate("api")
	says("is not written yet")
	release()
	s.until("the hook is done", func() bool { return s.hook("readlink").Runs > 0 })
	if got := lines(out); !slices.Equal(got, []string{"contoso-web.api." + version}) {
		t.Errorf("the hook has found links to %q, want %s", got, version)
	}
	// It hangs again, and kvfs ends.
	release = holdOpens(t, other)
	defer release()
	s.rotate("api")
	says("is not written yet")
	s.end(syscall.SIGTERM)
}
