package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/status"
)

// onChange sets what is done after renewals, for all certificates.
func (d document) onChange(actions ...map[string]any) {
	own, ok := d["kvfs"].(map[string]any)
	if !ok {
		own = map[string]any{}
		d["kvfs"] = own
	}
	own["onChange"] = actions
}

// shell is a hook that runs a script.
func shell(script string) map[string]any {
	return map[string]any{"command": []string{"/bin/sh", "-c", script}}
}

// hook is what the status says of one, by a part of its name.
func (s *site) hook(name string) status.Hook {
	s.t.Helper()
	for _, h := range s.report().Hooks {
		if strings.Contains(h.Action, name) {
			return h
		}
	}
	return status.Hook{}
}

// lines of a file that hooks write, none if it is not there.
func lines(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.Fields(string(text))
}

// nginx is told by a signal, haproxy by its runtime API and never reloaded; both serve what is renewed, and no
// client is refused. How soon is logged.
func TestHooksMakeServersServeWhatIsRenewed(t *testing.T) {
	needRoot(t)
	needProgram(t, "nginx")
	needProgram(t, "haproxy")
	const renewals = 100
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	s.mount()
	link, client := s.path("contoso-web.www"), s.client("www.example.com")
	nginx, haproxy := startNginx(t, client, link+".pem", link+".keyid"), startHaproxy(t, client, link)
	dir := func(v *tlsServer) string { return filepath.Dir(v.cmd.Args[len(v.cmd.Args)-1]) }
	s.configure(func(d document) {
		d.onChange(
			map[string]any{"signal": "HUP", "pidFile": filepath.Join(dir(nginx), "nginx.pid"), "check": []string{nginx.path, "-t", "-q", "-p", dir(nginx), "-c", "nginx.conf"}},
			map[string]any{"haproxy": filepath.Join(dir(haproxy), "stats.sock")})
	})
	s.must("refresh", "--settings")
	crowds := []*crowd{gather(t, nginx), gather(t, haproxy)}
	took := map[string][]time.Duration{}
	control := status.NewClient(s.socket)
	for range renewals {
		version, err := s.vault.Rotate("", "www")
		if err != nil {
			t.Fatal(err)
		}
		if done, err := control.Refresh(t.Context(), []string{"www"}); err != nil || len(done) != 1 || done[0].New != version {
			t.Fatalf("refresh after the renewal to %s: %+v, %v", version, done, err)
		}
		began, now := time.Now(), leaf(t, link)
		for _, c := range slices.Backward(crowds) { // the quicker one first
			c.await(now)
			took[c.server.name] = append(took[c.server.name], time.Since(began))
		}
	}
	for _, c := range crowds {
		visits, failures := c.disperse()
		all := took[c.server.name]
		slices.Sort(all)
		t.Logf("%s: %d renewals are served after %v, at most %v; %d handshakes, %d failed, %d versions shown", c.server.name, renewals,
			all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond), visits, len(failures), len(c.met))
		for _, err := range failures[:min(5, len(failures))] {
			t.Errorf("%s: %v", c.server.name, err)
		}
	}
	for _, name := range []string{"signal HUP", "haproxy"} {
		s.until(name+" is done", func() bool { return s.hook(name).State == "idle" })
		if h := s.hook(name); h.Runs != renewals || h.LastSuccess == nil || h.Error != nil {
			t.Errorf("%+v, want %d runs", h, renewals)
		}
	}
	if strings.Contains(haproxy.log.String(), "Reexecuting Master") || strings.Count(haproxy.log.String(), "New worker") > 1 {
		t.Errorf("haproxy was reloaded:\n%s", haproxy.log.tail(20))
	}
}

// Hooks that cannot succeed are tried again and shown, and keep nothing from anybody. Those that come with other
// settings are done for what is renewed from then on.
func TestHooksThatFailHarmNothing(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	good, program := filepath.Join(s.dir, "good"), filepath.Join(s.dir, "program")
	hang := shell("echo it hangs; sleep 1000")
	hang["timeoutInS"] = 1
	checked := shell("echo checked >> " + good)
	checked["check"] = []string{"/bin/false"}
	s.configure(func(d document) {
		d.onChange(map[string]any{"command": []string{program}}, hang, checked, shell("exit 7"), shell(`echo "$KVFS_CERT:$KVFS_NEW_VERSION" >> `+good))
		d.entry("api")["kvfs"] = map[string]any{"onChange": []any{}}
	})
	s.mount()
	if r := s.report(); r.State != status.Ready || len(r.Hooks) != 5 {
		t.Errorf("%s with %d hooks", r.State, len(r.Hooks))
	}
	s.rotate("api")
	version := s.rotate("www")
	s.until("the good one is done", func() bool { return len(lines(good)) > 0 })
	if got := lines(good); !slices.Equal(got, []string{"contoso-web.www:" + version}) {
		t.Errorf("%q; the first load, or the one without hooks, is taken for a renewal", got)
	}
	for name, fact := range map[string]string{program: "cannot be started: no such file", "sleep 1000": "has not ended in time", "checked": "the check before it has failed: /bin/false", "exit 7": "exit status 7"} {
		s.until(name+" has failed twice", func() bool { return s.hook(name).Failures >= 2 })
		if h := s.hook(name); h.Error == nil || !strings.Contains(h.Error.Fact, fact) || h.Error.Hint == "" || !slices.Equal(h.Pending, []string{"contoso-web.www"}) || h.LastSuccess != nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if r := s.report(); r.State != status.Degraded || r.Error != nil {
		t.Errorf("%s, %+v", r.State, r.Error)
	}
	for _, want := range []string{"AFTER RENEWALS", "exit status 7", "failing"} {
		if out := s.must("status"); !strings.Contains(out, want) {
			t.Errorf("the status does not say %q:\n%s", want, out)
		}
	}
	s.await(`msg="a hook says" hook="command /bin/sh -c echo it hangs; sleep 1000" line="it hangs"`)
	s.must("wait")
	again := s.rotate("www") // renewals go on
	if got := s.leads("contoso-web.www"); got != again {
		t.Errorf("the link leads to %s", got)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$KVFS_OLD_VERSION-$KVFS_NEW_VERSION\" >> "+good+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.until("the missing one is done", func() bool { return s.hook(program).State == "idle" })
	if got := lines(good); !strings.HasSuffix(strings.Join(got, " "), "-"+again) {
		t.Errorf("%q", got)
	}
	s.configure(func(d document) { d.onChange(shell("echo other >> " + good)) })
	s.must("refresh", "--settings")
	if r := s.report(); r.State != status.Ready || len(r.Hooks) != 1 || r.Hooks[0].State != "idle" {
		t.Errorf("%s, %+v", r.State, r.Hooks)
	}
	s.rotate("www")
	s.until("the other one is done", func() bool { return slices.Contains(lines(good), "other") })
}

// Between the move of a link and its hook the server may die at any instruction.
func TestHookIsDoneAlthoughTheServerIsKilledBefore(t *testing.T) {
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	out, gate := filepath.Join(s.dir, "out"), filepath.Join(s.dir, "gate")
	hook := shell(`echo "$KVFS_NEW_VERSION" >> ` + out)
	hook["check"] = []string{"/bin/sh", "-c", "echo $$ > " + gate + ".pid; until test -e " + gate + "; do sleep 0.05; done"}
	s.configure(func(d document) { d.onChange(hook) })
	s.mount()

	// It is held up: the link has moved, and the hook is not done.
	version := s.rotate("www")
	s.until("its check is run", func() bool { return s.hook("command").State == "running" && len(lines(gate+".pid")) == 1 })
	check := lines(gate + ".pid")[0]
	was := s.kill(syscall.SIGKILL)
	s.another(was)
	s.until("its successor runs the check", func() bool {
		now := lines(gate + ".pid")
		return len(now) == 1 && now[0] != check
	})
	if stat, err := os.ReadFile("/proc/" + check + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") { // whoever is to reap it
		t.Error("the one of the server that was killed lives on, beside that of its successor")
	}
	if got := lines(out); len(got) > 0 {
		t.Fatalf("%q: it was done before its check had succeeded", got)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.until("it is done", func() bool { return s.hook("command").State == "idle" })
	if got := lines(out); !slices.Equal(got, []string{version}) {
		t.Errorf("%q, want %s", got, version)
	}

	// And whenever it happens.
	for i := range 15 {
		version, err := s.vault.Rotate("", "www")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = status.NewClient(s.socket).Refresh(t.Context(), []string{"www"}) }() // who dies meanwhile answers nothing
		time.Sleep(rand.N(150 * time.Millisecond))                                              // anywhere from before the renewal to after the hook
		was := s.kill(syscall.SIGKILL)
		s.another(was)
		s.must("refresh", "www")
		s.until(fmt.Sprintf("the hook is done after death %d", i), func() bool { return slices.Contains(lines(out), version) })
	}
	if h := s.hook("command"); h.Error != nil || h.Failures > 0 {
		t.Errorf("%+v", h)
	}
}
