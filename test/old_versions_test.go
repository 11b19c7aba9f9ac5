package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/status"
)

// How long a read of an old version may take when the vault is in trouble: kvfs
// answers after 2 s, and a kernel that has asked for more than the reader wants asks
// again, which is answered from memory. The rest is for slow machines; a read that
// waited for the vault's own deadlines would take longer.
const oldVersionPatience = 2 * time.Second
const oldVersionBound = 8 * time.Second

// reading is what came of reading a file once.
type reading struct {
	Content      []byte
	Errno        syscall.Errno
	Began, Ended time.Time
}

func (r reading) String() string {
	if r.Errno != 0 {
		return fmt.Sprintf("%v after %v", r.Errno, r.Ended.Sub(r.Began).Round(time.Millisecond))
	}
	return fmt.Sprintf("%d bytes after %v", len(r.Content), r.Ended.Sub(r.Began).Round(time.Millisecond))
}

// readOnRequest reads the files that it is told, one after the other.
func readOnRequest(in io.Reader, out io.Writer) error {
	asked, answer := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var path string
		if err := asked.Decode(&path); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := reading{Began: time.Now()}
		var err error
		r.Content, err = os.ReadFile(path)
		r.Ended = time.Now()
		if err != nil && !errors.As(err, &r.Errno) {
			return err
		}
		if err := answer.Encode(r); err != nil {
			return err
		}
	}
}

// reads lets a visitor read a file.
func (v *visitor) reads(path string) (r reading) {
	v.t.Helper()
	v.tell(path)
	v.hear(&r)
	return r
}

// versionFiles are the combined files of a certificate's versions.
func (s *site) versionFiles(name string) (paths []string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	prefix := "contoso-web." + name + "."
	for _, e := range entries {
		if version, ok := strings.CutPrefix(e.Name(), prefix); ok && len(version) == 32 {
			paths = append(paths, s.path(e.Name()))
		}
	}
	return paths
}

// forgetful mounts a site that holds nothing of old versions, renews its certificates
// twice each, and returns what the current files held by their paths once nothing of
// the old ones is in memory.
func (s *site) forgetful(names []string, args ...string) (was map[string][]byte) {
	s.t.Helper()
	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["keepVersions"] = 3
		d["kvfs"].(map[string]any)["oldVersionsInMiB"] = 0
	})
	s.mount(args...)
	was = map[string][]byte{}
	for renewals := range 3 {
		for _, name := range names {
			if renewals > 0 {
				s.rotate(name)
			}
			link := s.path("contoso-web." + name)
			target, err := filepath.EvalSymlinks(link)
			if err != nil {
				s.t.Fatal(err)
			}
			was[target] = readFile(s.t, link)
		}
	}
	s.until("old versions are in memory no more", func() bool {
		r := s.report()
		return r.Held.Versions == len(names) && r.Cache.Versions == 0
	})
	return was
}

// old are the files of was to which no link leads any more.
func (s *site) old(was map[string][]byte, name string) (paths []string) {
	s.t.Helper()
	now, err := filepath.EvalSymlinks(s.path("contoso-web." + name))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range s.versionFiles(name) {
		if _, ok := was[path]; !ok {
			s.t.Fatal("unexpected", path)
		}
		if path != now {
			paths = append(paths, path)
		}
	}
	return paths
}

// Old versions of which nothing is in memory are read all the same; while the vault
// is in trouble a read ends, with the errno that says what trouble it is.
func TestOldVersionsAreReadFromTheVault(t *testing.T) {
	t.Parallel()
	needRoot(t)
	troubles := []struct {
		name  string
		fault emulator.Fault
		want  syscall.Errno
	}{
		{"hangs", emulator.Fault{Kind: emulator.Hang}, syscall.ETIMEDOUT},
		{"half", emulator.Fault{Kind: emulator.HalfOpen}, syscall.ETIMEDOUT},
		{"late", emulator.Fault{Kind: emulator.Slow, Delay: time.Minute}, syscall.ETIMEDOUT},
		{"slow", emulator.Fault{Kind: emulator.Slow, Delay: 200 * time.Millisecond}, 0},
		{"role", emulator.Fault{Kind: emulator.ForbiddenRBAC}, syscall.EACCES},
		{"policy", emulator.Fault{Kind: emulator.ForbiddenPolicy}, syscall.EACCES},
		{"firewall", emulator.Fault{Kind: emulator.ForbiddenFirewall}, syscall.EACCES},
		{"disabled", emulator.Fault{Kind: emulator.Disabled}, syscall.EACCES},
		{"token", emulator.Fault{Kind: emulator.TokenExpired}, syscall.EACCES},
		{"deleted", emulator.Fault{Kind: emulator.NotFound}, syscall.EIO},
		{"throttled", emulator.Fault{Kind: emulator.Throttled}, syscall.EIO},
		{"broken", emulator.Fault{Kind: emulator.ServerError}, syscall.EIO},
		{"garbage", emulator.Fault{Kind: emulator.Garbage}, syscall.EIO},
		{"gone", emulator.Fault{Kind: emulator.Drop}, syscall.EIO},
	}
	profiles, names := []emulator.Profile{{Name: "www"}}, []string{"www"}
	for _, c := range troubles {
		profiles, names = append(profiles, emulator.Profile{Name: c.name}), append(names, c.name)
	}
	s := newSite(t, profiles...)
	s.plain()
	was := s.forgetful(names)
	before := s.report().Cache
	reader := visit(t, syscall.Credential{}, "reads")
	for _, path := range s.old(was, "www") {
		if r := reader.reads(path); !bytes.Equal(r.Content, was[path]) {
			t.Errorf("%s: %v, want what it was when it was current", path, r)
		}
	}
	if c := s.report().Cache; c.Limit != 0 || c.Versions != 0 || c.Misses-before.Misses != 2 || c.Failures != before.Failures {
		t.Errorf("after two reads of old versions: %+v, it was %+v", c, before)
	}
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) {
			c.fault.Name = c.name
			s.vault.SetFault(c.fault)
			path := s.old(was, c.name)[0]
			for range 2 { // the second is answered from memory
				r := reader.reads(path)
				if r.Errno != c.want || c.want == 0 && !bytes.Equal(r.Content, was[path]) {
					t.Errorf("%v, want errno %v", r, c.want)
				}
				if r.Ended.Sub(r.Began) > oldVersionBound {
					t.Errorf("it took %v", r.Ended.Sub(r.Began))
				}
			}
			if now, err := filepath.EvalSymlinks(s.path("contoso-web." + c.name)); err != nil || !bytes.Equal(readFile(t, now), was[now]) {
				t.Error("the current version is not what it was:", err)
			}
		})
	}
	failures := 0
	for _, c := range troubles {
		if c.want != 0 {
			failures++
		}
	}
	s.until("each failure is counted once", func() bool { return s.report().Cache.Failures == before.Failures+uint64(failures) })
	s.vault.ClearFaults()
	for _, name := range names {
		for _, path := range s.old(was, name) {
			s.until("it can be read again: "+path, func() bool { return bytes.Equal(reader.reads(path).Content, was[path]) })
		}
	}
}

// Who waits for an old version holds up nobody who reads a current one.
func TestCurrentVersionsAreReadWhileManyWaitForOldOnes(t *testing.T) {
	needRoot(t)
	const waiting, current = 20, 8
	var profiles []emulator.Profile
	var names []string
	for i := range waiting / 2 { // each has two old versions
		names = append(names, fmt.Sprint("old", i))
		profiles = append(profiles, emulator.Profile{Name: names[i]})
	}
	s := newSite(t, profiles...)
	s.plain()
	was := s.forgetful(names, "--uncached")
	s.vault.SetFault(emulator.Fault{Kind: emulator.Hang})

	var waiters, readers []*visitor
	var paths []string
	for _, name := range names {
		for _, path := range s.old(was, name) {
			waiters, paths = append(waiters, visit(t, syscall.Credential{}, "reads")), append(paths, path)
		}
	}
	if len(waiters) != waiting {
		t.Fatalf("%d old versions", len(waiters))
	}
	for range current {
		readers = append(readers, visit(t, syscall.Credential{}, "reads"))
	}
	misses := s.report().Cache.Misses
	for i, w := range waiters {
		w.tell(paths[i])
	}
	for {
		r, err := status.NewClient(s.socket).Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Cache.Misses >= misses+waiting {
			break
		}
	}
	var readings []reading
	for range 5 {
		for i, r := range readers {
			r.tell(s.path("contoso-web." + names[i]))
		}
		for i, r := range readers {
			var got reading
			r.hear(&got)
			now, err := filepath.EvalSymlinks(s.path("contoso-web." + names[i]))
			if err != nil || !bytes.Equal(got.Content, was[now]) {
				t.Errorf("a current version: %v, %v", got, err)
			}
			readings = append(readings, got)
		}
	}
	var first time.Time
	for i, w := range waiters {
		var got reading
		w.hear(&got)
		if got.Errno != syscall.ETIMEDOUT || got.Ended.Sub(got.Began) > oldVersionBound {
			t.Errorf("%s: %v, want %v", paths[i], got, syscall.ETIMEDOUT)
		}
		if first.IsZero() || got.Ended.Before(first) {
			first = got.Ended
		}
	}
	meanwhile := 0
	var longest time.Duration
	for _, r := range readings {
		if r.Ended.Before(first) {
			meanwhile++
		}
		longest = max(longest, r.Ended.Sub(r.Began))
	}
	t.Logf("%d of %d reads of current versions ended before the first who waited; the longest took %v", meanwhile, len(readings), longest)
	if meanwhile < current || longest >= oldVersionPatience {
		t.Error("reads of current versions have waited for old ones")
	}
	s.vault.ClearFaults()
	for i, path := range paths {
		s.until("it can be read again: "+path, func() bool { return bytes.Equal(waiters[i].reads(path).Content, was[path]) })
	}
}

// With keepVersions "all" what was in the vault before kvfs came is shown, and is
// still there when another server goes on, with a vault and without.
func TestAllVersionsOfBeforeAreShown(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const versions = 12
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount()
	was := map[string][]byte{}
	for i := range versions {
		if i > 0 {
			s.rotate("www")
		}
		now, err := filepath.EvalSymlinks(s.path("contoso-web.www"))
		if err != nil {
			t.Fatal(err)
		}
		was[now] = readFile(t, now)
	}
	newest, err := os.Readlink(s.path("contoso-web.www"))
	if err != nil {
		t.Fatal(err)
	}
	s.end(syscall.SIGTERM)

	s.configure(func(d document) {
		d["kvfs"].(map[string]any)["keepVersions"] = "all"
		d["kvfs"].(map[string]any)["oldVersionsInMiB"] = 0
	})
	s.mount("--uncached")
	s.until("all are shown", func() bool { return len(s.versionFiles("www")) == versions })
	reader := visit(t, syscall.Credential{}, "reads")
	check := func() {
		t.Helper()
		if target, err := os.Readlink(s.path("contoso-web.www")); target != newest {
			t.Errorf("the link leads to %s (%v), want the newest, %s", target, err, newest)
		}
		files := s.versionFiles("www")
		if len(files) != versions {
			t.Errorf("%d versions are shown", len(files))
		}
		for _, path := range files {
			if r := reader.reads(path); !bytes.Equal(r.Content, was[path]) {
				t.Errorf("%s: %v, want what it was when it was current", path, r)
			}
		}
	}
	check()
	s.another(s.kill(syscall.SIGKILL))
	check()
	s.vault.SetFault(emulator.Fault{Kind: emulator.Drop})
	s.another(s.kill(syscall.SIGKILL))
	if files := s.versionFiles("www"); len(files) != versions {
		t.Errorf("without a vault %d versions are shown", len(files))
	}
	if got := readFile(t, s.path("contoso-web.www")); !bytes.Equal(got, was[s.path(newest)]) {
		t.Error("without a vault the current version is not what it was")
	}
}
