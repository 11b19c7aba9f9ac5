package test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// TestSoak runs for as long as KVFS_SOAK says (make soak), with renewals and deaths, and prints
// what the processes use: memory, descriptors and threads have to stay where they are.
func TestSoak(t *testing.T) {
	span, err := time.ParseDuration(os.Getenv("KVFS_SOAK"))
	if err != nil {
		t.Skip("KVFS_SOAK does not say for how long; see make soak")
	}
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "mail"})
	s.plain()
	s.mount()
	pid := s.another(0)
	reader := visit(t, syscall.Credential{}, "verify", s.path("contoso-web.www"))
	var first tally
	reader.hear(&first)
	var samples []usage
	end, kills, renewals := time.Now().Add(span), 0, 0
	for time.Now().Before(end) {
		for range 50 {
			s.rotate("www")
			s.rotate("api")
			renewals += 2
			time.Sleep(span / 3000) // it is about time
		}
		now := s.usage(pid)
		samples = append(samples, now)
		t.Logf("%4d renewals, %3d kills: %v", renewals, kills, now)
		s.kill(syscall.SIGKILL)
		pid = s.another(pid)
		kills++
	}
	var all tally
	reader.leave()
	reader.hear(&all)
	t.Logf("%d reads, %d failed, %d broken, the longest took %v", all.Reads, all.Failed, all.Broken, all.Longest)
	if all.Failed+all.Broken > 0 {
		t.Error(all.Errors)
	}
	// What is kept of files that have lost their names, for who has them open, fills up
	// first.
	sixth := len(samples) / 6
	before, last := most(samples[len(samples)-2*sixth:len(samples)-sixth]), most(samples[len(samples)-sixth:])
	for name, was := range before {
		if is := last[name]; is > was+was/10+2 {
			t.Errorf("%s: at most %d in the last sixth, and %d in the one before", name, is, was)
		}
	}
}

// usage is what the processes of a kvfs have, by name.
type usage map[string]int

func (u usage) String() string {
	return fmt.Sprintf("server %d KiB, %d descriptors, %d threads; keeper %d KiB, %d descriptors, %d threads; image %d KiB",
		u["server KiB"], u["server descriptors"], u["server threads"], u["keeper KiB"], u["keeper descriptors"], u["keeper threads"], u["image KiB"])
}

func (s *site) usage(server int) usage {
	s.t.Helper()
	u := usage{}
	for name, pid := range map[string]int{"server": server, "keeper": s.cmd.Process.Pid} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			key, value, _ := strings.Cut(line, ":")
			if what := map[string]string{"VmRSS": " KiB", "Threads": " threads"}[key]; what != "" {
				if u[name+what], err = strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); err != nil {
					s.t.Fatal(err)
				}
			}
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		u[name+" descriptors"] = len(fds)
	}
	u["image KiB"] = s.report().Image.Size / 1024
	return u
}

func most(samples []usage) usage {
	all := usage{}
	for _, u := range samples {
		for name, n := range u {
			all[name] = max(all[name], n)
		}
	}
	return all
}
