package test

import (
	"encoding/json"
	"fmt"
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

// onAlert sets who is told of alerts. Nothing is stale, or a slow machine would have more of them.
func (d document) onAlert(commands ...map[string]any) {
	d.own()["alerts"] = map[string]any{"onAlert": commands, "staleAfterPolls": 0}
}

// heard is what a command was told of one kind of alert.
type heard struct {
	env  map[string]string
	list []struct{ Alert, Certificate, URL, Version, NotAfter, UnreadSince, Message, Host string }
}

// listener is a command that writes what it was told to a file of its own for each kind.
func (s *site) listener(name string) (command map[string]any, heardOf func(kind string) *heard) {
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	command = shell(`cd ` + dir + `; { env | grep ^KVFS_; echo; cat; } > $KVFS_ALERT.part; mv $KVFS_ALERT.part $KVFS_ALERT`)
	return command, func(kind string) *heard {
		text, err := os.ReadFile(filepath.Join(dir, kind))
		if err != nil {
			return nil
		}
		h := &heard{env: map[string]string{}}
		env, list, _ := strings.Cut(string(text), "\n\n")
		for line := range strings.Lines(env) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			h.env[name] = value
		}
		if err := json.Unmarshal([]byte(list), &h.list); err != nil {
			s.t.Fatalf("%v: %s", err, text)
		}
		return h
	}
}

// Commands are told what expires, has expired and cannot be read, by variables and as JSON, once for all; one that fails is tried
// again and shown, and holds up nobody.
func TestCommandsAreToldOfAlerts(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "old", Validity: -time.Hour}, emulator.Profile{Name: "soon", Validity: 5*24*time.Hour + time.Hour},
		emulator.Profile{Name: "sooner", Validity: 24*time.Hour + time.Hour}, emulator.Profile{Name: "later"})
	listener, heardOf := s.listener("good")
	program := filepath.Join(s.dir, "program")
	chat := map[string]any{"command": []string{program, "secret"}, "name": "the chat"}
	s.configure(func(d document) { d.onAlert(chat, listener) })
	if out, errs, code := s.run("check", s.settings); code != 0 || !strings.Contains(errs, "onAlert: "+program+" is not a program on this machine") || !strings.Contains(out, "told of alerts: the chat; command /bin/sh") {
		t.Errorf("check: %d\n%s%s", code, out, errs)
	}
	s.mount()
	s.until("it hears of what expires", func() bool { return heardOf("expires") != nil })
	expired, expires := heardOf("expired"), heardOf("expires")
	if expired == nil || expired.env["KVFS_CERT"] != "contoso-web.old" || len(expired.list) != 1 {
		t.Fatalf("%+v", expired)
	}
	soon, host := s.certificate("soon"), ""
	host, _ = os.Hostname()
	for name, want := range map[string]string{
		"KVFS_ALERT": "expires", "KVFS_CERT": "contoso-web.soon contoso-web.sooner", "KVFS_VERSION": soon.Version + " " + s.certificate("sooner").Version,
		"KVFS_NOT_AFTER": soon.NotAfter.Format(time.RFC3339) + " " + s.certificate("sooner").NotAfter.Format(time.RFC3339),
	} {
		if expires.env[name] != want {
			t.Errorf("%s is %q, want %q", name, expires.env[name], want)
		}
	}
	if n := len(strings.Fields(expires.env["KVFS_UNREAD_SINCE"])); n != 2 || len(expires.env) != 5 {
		t.Errorf("%q", expires.env)
	}
	first := expires.list[0]
	if _, err := time.Parse(time.RFC3339, first.UnreadSince); err != nil || first.Alert != "expires" || first.Certificate != "contoso-web.soon" || first.URL != soon.URL || first.Version != soon.Version ||
		first.NotAfter != soon.NotAfter.Format(time.RFC3339) || first.Message != "contoso-web.soon expires in 5 days, and no newer version has come" || first.Host != host {
		t.Errorf("%+v, %v", first, err)
	}
	s.until("that is known to have succeeded", func() bool { // a little later than what it has written is there
		h := s.hook("/bin/sh")
		return h.On == status.OnAlert && h.State == "idle" && h.Runs == 2 && h.Error == nil
	})

	s.until("the other one has failed twice", func() bool { return s.hook("the chat").Failures >= 2 })
	if h := s.hook("the chat"); h.Error == nil || !strings.Contains(h.Error.Fact, "cannot be started: no such file") || h.Error.Hint == "" || len(h.Pending) != 3 || h.NextTry == nil && h.State != "running" {
		t.Errorf("%+v", h)
	}
	if r := s.report(); r.State != status.Degraded || r.Error != nil {
		t.Errorf("%s, %+v", r.State, r.Error)
	}
	if out := s.must("status"); !strings.Contains(out, "ON ALERTS") || !strings.Contains(out, "\nthe chat ") || !strings.Contains(out, "cannot be started") || strings.Contains(out, "secret ") {
		t.Errorf("the status says\n%s", out)
	}
	stale := func(polls int) {
		s.configure(func(d document) {
			d.onAlert(chat, listener)
			d.own()["alerts"].(map[string]any)["staleAfterPolls"] = polls
		})
		_, _, _ = s.run("refresh", "--settings") // of later there is nothing to be had
	}
	s.vault.SetFault(emulator.Fault{Name: "later", Kind: emulator.Unavailable})
	stale(3)
	s.until("it hears of what cannot be read", func() bool {
		h := heardOf("stale")
		return h != nil && strings.Contains(h.env["KVFS_CERT"]+" ", "contoso-web.later ") && strings.HasPrefix(h.list[0].Message, "nothing could be read of ")
	})
	if pending := s.hook("the chat").Pending; !slices.Contains(pending, "contoso-web.later") {
		t.Errorf("%q", pending)
	}

	// What is still to be told when it can be is what is true then, and what the settings warn of.
	stale(0)
	s.until("what the settings do not warn of is not to be told", func() bool { return !slices.Contains(s.hook("the chat").Pending, "contoso-web.later") })
	s.vault.ClearFaults()
	s.must("refresh")
	renewed := s.rotate("soon") // which lives as long as the first
	s.until("the other one hears of it", func() bool { return strings.Contains(heardOf("expires").env["KVFS_VERSION"], renewed) })
	told := filepath.Join(s.dir, "told")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$KVFS_ALERT:$KVFS_CERT\" >> "+told+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	chat["name"] = "the other chat" // which takes over, and does not wait for the next try
	stale(0)
	s.until("it is told", func() bool { return s.hook("the other chat").State == "idle" })
	if got := lines(told); len(got) != 3 || got[0] != "expired:contoso-web.old" || got[1] != "expires:contoso-web.soon" || got[2] != "contoso-web.sooner" {
		t.Errorf("%q", got)
	}

	// Other settings are in force at once.
	another, heardLater := s.listener("another")
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "older", Validity: -time.Hour}); err != nil {
		t.Fatal(err)
	}
	s.configure(func(d document) { d.onAlert(another) })
	s.must("refresh", "--settings")
	s.until("the new one hears", func() bool { return heardLater("expired") != nil })
	if got := heardLater("expired").env["KVFS_CERT"]; got != "contoso-web.older" {
		t.Error(got)
	}
	s.until("all is well", func() bool { return s.report().State == status.Ready })
	if r := s.report(); len(r.Hooks) != 1 || heardOf("expired").env["KVFS_CERT"] != "contoso-web.old" {
		t.Errorf("%+v", r.Hooks)
	}
}

// Between a notice and the command that is told of it the server may die.
func TestCommandIsToldOfAnAlertAlthoughTheServerIsKilledBefore(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "old", Validity: -time.Hour}, emulator.Profile{Name: "www"})
	s.plain()
	out, gate := filepath.Join(s.dir, "out"), filepath.Join(s.dir, "gate")
	told := func(d document) {
		d.onAlert(shell(fmt.Sprintf(`echo $$ > %[1]s.pid; until test -e %[1]s; do sleep 0.05; done; echo "$KVFS_ALERT:$KVFS_CERT" >> %[2]s`, gate, out)))
	}
	s.configure(told)
	s.mount()
	for range 2 {
		s.killDuring("command", gate+".pid")
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.until("it is told", func() bool { return s.hook("command").State == "idle" && s.hook("command").Runs == 1 })
	if got := lines(out); !slices.Equal(got, []string{"expired:contoso-web.old"}) {
		t.Errorf("%q", got)
	}
	if n := strings.Count(s.log.String(), "a certificate has expired"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	was := s.kill(syscall.SIGKILL)
	s.another(was)
	// It says what is new, and nothing else.
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "older", Validity: -time.Hour}); err != nil {
		t.Fatal(err)
	}
	s.configure(told)
	s.must("refresh", "--settings")
	s.until("it is told", func() bool { return len(lines(out)) > 1 })
	if got := lines(out); !slices.Equal(got, []string{"expired:contoso-web.old", "expired:contoso-web.older"}) {
		t.Errorf("%q", got)
	}
}
