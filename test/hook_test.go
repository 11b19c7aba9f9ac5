package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/config"
	"kvfs/emulator"
	"kvfs/status"
)

// onChange sets what is done after renewals, for all certificates.
func (d document) onChange(actions ...map[string]any) {
	d.own()["onChange"] = actions
}

// shell is a hook that runs a script.
func shell(script string) map[string]any {
	return map[string]any{"command": []string{"/bin/sh", "-c", script}}
}

// newSiteToRenew is a site of an ordinary build, with the file to which its hook, recordRenewals, is to write.
func newSiteToRenew(t *testing.T, profiles ...emulator.Profile) (s *site, out string) {
	t.Helper()
	s = newSite(t, profiles...)
	s.plain()
	return s, filepath.Join(s.dir, "out")
}

// recordRenewals is a hook that writes a line of each renewal: contoso-web.www:OLD>NEW.
func recordRenewals(file string) map[string]any {
	return shell(`echo "$KVFS_CERT:$KVFS_OLD_VERSION>$KVFS_NEW_VERSION" >> ` + file)
}

// renewedTo tells of a line of recordRenewals whether it is of a renewal to a version.
func renewedTo(version string) func(line string) bool {
	return func(line string) bool { return strings.HasSuffix(line, ">"+version) }
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
			map[string]any{"signal": "HUP", "pidFile": filepath.Join(dir(nginx), "nginx.pid")},
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

// Hooks that cannot succeed are tried again and shown, and keep nothing from anybody.
func TestHooksThatFailHarmNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	good, program := filepath.Join(s.dir, "good"), filepath.Join(s.dir, "program")
	hang := shell("echo it hangs; sleep 1000")
	hang["timeoutInS"] = 1
	checked := shell("echo checked >> " + good)
	checked["check"] = []string{"/bin/false"}
	s.configure(func(d document) {
		d.onChange(map[string]any{"command": []string{program}}, hang, checked, shell("exit 7"), shell(`echo "$KVFS_CERT:$KVFS_NEW_VERSION" >> `+good+`; grep SigIgn /proc/self/status > `+good+`.ignored`))
		d.entry("api")["kvfs"] = map[string]any{"onChange": []any{}}
	})
	s.mount()
	if r := s.report(); r.State != status.Ready || len(r.Hooks) != 5 || r.Hooks[0].State != "idle" {
		t.Errorf("%s with %d hooks", r.State, len(r.Hooks))
	}
	s.rotate("api")
	version := s.rotate("www")
	s.until("the good one is done", func() bool { return len(lines(good)) > 0 })
	if got := lines(good); !slices.Equal(got, []string{"contoso-web.www:" + version}) {
		t.Errorf("%q; the first load, or the one without hooks, is taken for a renewal", got)
	}
	// Shells count on the end of a pipe: what kvfs does about signals is its own.
	s.until("it is done", func() bool { return s.hook("KVFS_CERT").State == "idle" })
	if mask, err := strconv.ParseUint(lines(good + ".ignored")[1], 16, 64); err != nil || mask&(1<<(syscall.SIGPIPE-1)) != 0 {
		t.Errorf("a hook ignores %x, %v", mask, err)
	}
	for _, bad := range []struct{ name, fact string }{
		{program, "cannot be started: no such file"}, {"checked", "the check before it has failed: /bin/false"}, {"exit 7", "exit status 7"}, {"sleep 1000", "has not ended in time"},
	} {
		s.until(bad.name+" has failed twice", func() bool { return s.hook(bad.name).Failures >= 2 })
		if h := s.hook(bad.name); h.Error == nil || !strings.Contains(h.Error.Fact, bad.fact) || h.Error.Hint == "" || !slices.Equal(h.Pending, []string{"contoso-web.www"}) || h.LastSuccess != nil {
			t.Errorf("%s: %+v", bad.name, h)
		}
		if bad.name == program { // now it is there
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$KVFS_OLD_VERSION-$KVFS_NEW_VERSION\" >> "+good+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
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
	s.until("the one that was missing is done", func() bool { return strings.Contains(strings.Join(lines(good), " "), "-"+again) })
	// They are mended, which is done for what was pending.
	s.configure(func(d document) { d.onChange(shell("echo mended >> " + good)) })
	s.must("refresh", "--settings")
	s.until("the mended one is done", func() bool { return slices.Contains(lines(good), "mended") })
	s.until("all is well", func() bool { return s.report().State == status.Ready && s.hook("mended").State == "idle" })
	if r := s.report(); len(r.Hooks) != 1 || r.Hooks[0].State != "idle" || r.Hooks[0].Runs != 1 {
		t.Errorf("%+v", r.Hooks)
	}
}

// Commands that lie where nothing answers wait in the kernel before they have begun. The server does not wait with them: it
// answers, does everything else, says what is wrong, and is never replaced.
func TestCommandOnAFileSystemThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s, out := newSiteToRenew(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "old", Validity: -time.Hour})
	away := mountMemory(t, filepath.Join(s.dir, "away"), "1m")
	if err := unix.Mount("", away, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil { // programs may be run there
		t.Fatal(err)
	}
	commands := map[string]map[string]any{}
	for _, name := range []string{"change", "alert"} {
		program := filepath.Join(away, name)
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho "+name+" >> "+out+".away\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		commands[name] = map[string]any{"command": []string{program}, "timeoutInS": 1}
	}
	listener, heardOf := s.listener("listener")
	s.configure(func(d document) {
		d.onChange(commands["change"], recordRenewals(out))
		d.onAlert(commands["alert"], listener)
	})
	release := holdOpens(t, away)
	defer release() // who waits does not end
	s.mount()
	server := s.report().Processes.Server
	version := s.rotate("www")
	s.until("the other commands are run", func() bool { return slices.ContainsFunc(lines(out), renewedTo(version)) && heardOf("expired") != nil })
	for name := range commands {
		failed := func() bool { return s.hook(filepath.Join(away, name)).Failures >= 2 }
		s.until(name+" has failed twice", failed)
		if h := s.hook(filepath.Join(away, name)); h.Error == nil || !strings.Contains(h.Error.Fact, "cannot be started: its file system has not answered in time") || h.Error.Hint == "" || len(h.Pending) == 0 {
			t.Errorf("%s: %+v, %+v", name, h, h.Error)
		}
	}
	again := s.rotate("www")
	if got := s.leads("contoso-web.www"); got != again {
		t.Errorf("the link leads to %s", got)
	}
	if _, err := os.ReadFile(s.path("contoso-web.www")); err != nil {
		t.Error(err)
	}
	if now := s.report().Processes.Server; now != server {
		t.Errorf("process %d was replaced by %d", server, now)
	}
	if got := lines(out + ".away"); len(got) > 0 {
		t.Fatalf("%q: it does not hang", got)
	}
	release()
	s.until("they are run", func() bool {
		got := lines(out + ".away")
		return slices.Contains(got, "change") && slices.Contains(got, "alert") && s.report().State == status.Ready
	})
}

// killDuring kills the server while a hook runs, which has written the number of its process to a file, and returns when its
// successor runs it anew.
func (s *site) killDuring(hook, pidFile string) {
	s.t.Helper()
	first := ""
	running := func() bool {
		now := lines(pidFile)
		if len(now) != 1 || now[0] == first || s.hook(hook).State != "running" {
			return false
		}
		first = now[0]
		return true
	}
	s.until("it is run", running)
	killed := first
	was := s.kill(syscall.SIGKILL)
	s.another(was)
	s.until("its successor runs it", running)
	if stat, err := os.ReadFile("/proc/" + killed + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") { // whoever is to reap it
		s.t.Error("the one of the server that was killed lives on, beside that of its successor")
	}
}

// Between the move of a link and its hook the server may die at any instruction.
func TestHookIsDoneAlthoughTheServerIsKilledBefore(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s, out := newSiteToRenew(t, emulator.Profile{Name: "www"})
	gate, hook := filepath.Join(s.dir, "gate"), recordRenewals(out)
	hook["check"] = []string{"/bin/sh", "-c", "echo $$ > " + gate + ".pid; until test -e " + gate + "; do sleep 0.05; done"}
	s.configure(func(d document) { d.onChange(hook) })
	s.mount()

	// It is held up: the link has moved, and the hook is not done.
	version := s.rotate("www")
	s.killDuring("command", gate+".pid")
	if got := lines(out); len(got) > 0 {
		t.Fatalf("%q: it was done before its check had succeeded", got)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.until("it is done", func() bool { return s.hook("command").State == "idle" })
	if got := lines(out); len(got) != 1 || !renewedTo(version)(got[0]) {
		t.Errorf("%q, want a renewal to %s", got, version)
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
		s.until(fmt.Sprintf("the hook is done after death %d", i), func() bool { return slices.ContainsFunc(lines(out), renewedTo(version)) })
	}
	if h := s.hook("command"); h.Error != nil || h.Failures > 0 {
		t.Errorf("%+v", h)
	}
}

// busUnits are Debian's own of D-Bus and polkit, as far as a machine of a test has what they need.
var busUnits = map[string]string{
	"dbus.socket":    "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
	"dbus.service":   "[Unit]\nRequires=dbus.socket\nDefaultDependencies=no\n[Service]\nType=notify\nNotifyAccess=main\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n",
	"polkit.service": "[Unit]\nAfter=dbus.service\nRequires=dbus.service\nDefaultDependencies=no\n[Service]\nType=dbus\nBusName=org.freedesktop.PolicyKit1\nExecStart=/usr/lib/polkit-1/polkitd --no-debug\n",
}

// The server of a service has no rights: it reloads the units that a rule of polkit names, and no others.
func TestServiceReloadsTheUnitsThatItMay(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needProgram(t, "dbus-daemon")
	needProgram(t, "pkcheck")
	needProgram(t, "haproxy")
	units := maps.Clone(busUnits)
	units["lb.service"] = "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nExecStart=/usr/sbin/haproxy -Ws -f /etc/lb.cfg\n"
	units["kvfs.service.d/groups.conf"] = "[Service]\nSupplementaryGroups=haproxy\n"
	for _, name := range []string{"nginx", "haproxy", "other"} {
		units[name+".service"] = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'echo " + name + " >> /run/reloads'\n"
	}
	units["postgresql.service"] = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c 'echo restarted >> /run/reloads; exec sleep infinity'\n"
	s := newService(t, units)
	s.asDocumented("polkit-1/rules.d")
	s.m.must("systemctl", "start", "dbus.service", "polkit.service", "nginx.service", "other.service", "postgresql.service")
	lb := &tlsServer{t: t, name: "haproxy", addr: freeAddress(t), client: s.client("www.example.com")}
	balancing := fmt.Sprintf("global\n\tstats socket /run/lb.sock mode 660 group haproxy level admin\ndefaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 5s\n\ttimeout server 5s\nfrontend f\n\tbind %s ssl crt %s/site\n\thttp-request return status 200 content-type text/plain string %q\n", lb.addr, config.DefaultStore, page)
	if err := os.WriteFile(s.m.path("/etc/lb.cfg"), []byte(balancing), 0o644); err != nil {
		t.Fatal(err)
	}
	hooks := []map[string]any{{"haproxy": "/run/lb.sock"}, {"reload": "nginx.service"}, {"reload": "haproxy.service"}, {"reload": "other.service"}, {"reloadOrRestart": "postgresql"},
		{"command": []string{"/bin/sh", "-c", "id -un; touch /etc/x; exec > /dev/null; cat /proc/1/stat"}}}
	s.configureService(func(d document) { d.onChange(hooks...) })
	s.m.must("systemctl", "start", unitName)
	s.m.must("systemctl", "start", "lb.service")
	if got := lines(s.m.path("/run/reloads")); !slices.Equal(got, []string{"restarted"}) {
		t.Errorf("before any renewal: %q", got)
	}
	s.rotate("www")
	s.until("what may be reloaded is", func() bool { return len(lines(s.m.path("/run/reloads"))) == 3 })
	if got := lines(s.m.path("/run/reloads")); !slices.Contains(got[1:], "nginx") || !slices.Contains(got[1:], "restarted") {
		t.Errorf("%q", got)
	}
	lb.await(leaf(t, s.path("site"))) // with the rights of its group
	s.until("what may not is refused", func() bool { return s.hook("other").Error != nil })
	if h := s.hook("other"); !strings.Contains(h.Error.Fact, "nteractive authentication") || !strings.Contains(h.Error.Hint, "polkit") {
		t.Errorf("%+v", h.Error)
	}
	s.until("the others are done", func() bool {
		return s.hook("nginx").State == "idle" && s.hook("haproxy.service").State == "idle" && s.hook("postgresql").State == "idle"
	})
	if h := s.hook("haproxy.service"); h.Note == "" || h.Runs != 1 {
		t.Errorf("a unit that does not run: %+v", h)
	}
	s.until("the command has failed", func() bool { return s.hook("command").Error != nil })
	for _, want := range []string{"line=kvfs", "touch: cannot touch '/etc/x'", "cat: /proc/1/stat"} {
		if !strings.Contains(string(s.m.log()), want) {
			t.Errorf("%q is not in the log", want)
		}
	}

	// What can never succeed is refused with the settings.
	asRoot := map[string]any{"command": []string{"/bin/true"}, "user": "root"}
	for _, edit := range []func(document){
		func(d document) { d.onChange(map[string]any{"signal": "HUP", "pidFile": "/run/nginx.pid"}) },
		func(d document) { d.onChange(asRoot) },
		func(d document) { d.onAlert(asRoot) },
		func(d document) { d.onChange(map[string]any{"reload": unitName}) },
	} {
		s.configureService(edit)
		if out, errs, code := s.run("refresh", "--settings"); code != 3 || !strings.Contains(out+errs, "the hook ") {
			t.Errorf("%s: exit code %d, %s%s", readFile(t, s.settings), code, out, errs)
		}
	}
	s.m.must("systemctl", "stop", unitName)
	if _, _, code := s.m.run("systemctl", "start", unitName); code == 0 || !strings.Contains(string(s.m.log()), "is for the unit of kvfs itself") || s.mounts() != nil {
		t.Errorf("it starts with them: exit code %d, mounts %v", code, s.mounts())
	}
}

// settings of a document of ours, the first in a file.
func documented(t *testing.T, file string) (d document) {
	t.Helper()
	for _, f := range fences(t, "json") {
		if filepath.Base(f.file) == file && strings.Contains(f.body, "secretsManagementSettings") {
			if err := json.Unmarshal([]byte(f.body), &d); err != nil {
				t.Fatal(f, err)
			}
			return d
		}
	}
	t.Fatal("no settings in", file)
	return nil
}

// The hooks of docs/reload.md do what they say, with Debian's own units of the servers, and a kvfs that root mounts
// in a unit of its own.
func TestHooksOfTheDocumentReloadRealServices(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, program := range []string{"unshare", "nsenter", "systemctl", "nginx", "haproxy", "apachectl"} {
		needProgram(t, program)
	}
	cluster := strings.Split(needPostgres(t), "/")[4] // /usr/lib/postgresql/15/bin
	s := newSite(t, emulator.Profile{Name: "www"})
	s.plain()
	client, store := s.client("www.example.com"), "/etc/tls/kv"
	link := store + "/contoso-web.www"
	addrs := map[string]string{}
	for _, name := range []string{"nginx", "haproxy", "apache2", "postgres"} {
		addrs[name] = freeAddress(t)
	}
	files := filepath.Join(s.dir, "files")
	for _, unit := range []string{"sysinit", "basic", "shutdown", "sockets", "multi-user", "network", "network-online", "test"} {
		write(t, files, unitDir+unit+".target", "[Unit]\nDescription=needed by others\nDefaultDependencies=no\n")
	}
	for _, unit := range []string{"nginx.service", "haproxy.service", "apache2.service", "postgresql@.service"} {
		write(t, files, unitDir+unit, string(readFile(t, "/lib/systemd/system/"+unit)))
	}
	write(t, files, unitDir+"haproxy.service.d/test.conf", "[Service]\nBindReadOnlyPaths=\nRuntimeDirectory=haproxy\n") // no syslog, no tmpfiles
	write(t, files, unitDir+"kvfs-mount.service", "[Service]\nExecStart=/usr/bin/kvfs mount /etc/kvfs/settings.json\nStandardError=append:/run/kvfs.log\n")
	write(t, files, "etc/nginx/nginx.conf", fmt.Sprintf("pid /run/nginx.pid;\nevents {}\nhttp { access_log off; server { listen %s ssl; ssl_certificate %s; ssl_certificate_key %s; location / { return 200 %q; } } }\n", addrs["nginx"], link+".pem", link+".keyid", page))
	write(t, files, "etc/haproxy/haproxy.cfg", fmt.Sprintf("global\n\tstats socket /run/haproxy/admin.sock mode 660 level admin\ndefaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 5s\n\ttimeout server 5s\nfrontend f\n\tbind %s ssl crt %s\n\thttp-request return status 200 content-type text/plain string %q\n", addrs["haproxy"], link, page))
	write(t, files, "etc/apache2/apache2.conf", fmt.Sprintf("ServerName www.example.com\nPidFile ${APACHE_PID_FILE}\nErrorLog /dev/null\nUser www-data\nGroup www-data\nLoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\nLoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\nLoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\nLoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\nListen %s\nDocumentRoot /srv/page\nDirectoryIndex page\n<VirtualHost *>\nSSLEngine on\nSSLCertificateFile %s\nSSLCertificateKeyFile %s\n</VirtualHost>\n", addrs["apache2"], link+".pem", link+".keyid"))
	write(t, files, "srv/page/page", page)
	write(t, files, "usr/bin/kvfs", string(readFile(t, s.program)))
	if err := os.Chmod(filepath.Join(files, "usr/bin/kvfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, files, "etc/kvfs/ca.pem", string(readFile(t, s.vault.Endpoints().CA)))
	s.configure(func(d document) {
		d.own()["transport"].(map[string]any)["caFile"] = "/etc/kvfs/ca.pem"
		shown := documented(t, "reload.md")
		d["secretsManagementSettings"].(map[string]any)["certificateStoreLocation"] = store
		d.entry("www")["acls"] = shown.entry("www")["acls"]
		hooks := shown.own()["onChange"].([]any)
		d.own()["onChange"] = append(hooks, map[string]any{"signal": "HUP", "unit": "nginx.service"})
	})
	write(t, files, "etc/kvfs/settings.json", strings.ReplaceAll(string(readFile(t, s.settings)), "@15-main", "@"+cluster+"-main"))
	m := boot(t, files)
	s.socket = m.path("/run/kvfs/kvfs.sock")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kvfs said:\n%s", m.log())
		}
	})
	m.must("sh", "-ec", fmt.Sprintf(`mkdir -p /run/postgresql /run/lock; chown postgres /run/postgresql
		test -e /etc/postgresql/%[1]s/main || pg_createcluster %[1]s main
		host=%[2]s; cat > /etc/postgresql/%[1]s/main/conf.d/test.conf <<END
listen_addresses = '${host%%:*}'
port = ${host##*:}
fsync = off
ssl = on
ssl_cert_file = '%[3]s.pem'
ssl_key_file = '%[3]s.keyid'
END`, cluster, addrs["postgres"], link))
	m.must("systemctl", "start", "kvfs-mount.service")
	s.must("wait", "--timeout", "1m")
	s.until("the certificate is there", func() bool { _, err := os.ReadFile(m.path(link)); return err == nil })
	m.must("systemctl", "start", "nginx", "haproxy", "apache2", "postgresql@"+cluster+"-main")
	var servers []*tlsServer
	for name, addr := range addrs {
		v := &tlsServer{t: t, name: name, addr: addr, client: client}
		if name == "postgres" {
			v.greet = greetPostgres
		}
		servers = append(servers, v)
	}
	first := leaf(t, m.path(link))
	for _, v := range servers {
		v.rebinds = true // they may not be there yet
		v.await(first)
		v.rebinds = false
	}
	for i := range 3 {
		s.rotate("www")
		now := leaf(t, m.path(link))
		for _, v := range servers {
			v.await(now)
		}
		for _, h := range s.report().Hooks {
			s.until(h.Action+" is done", func() bool { h = s.hook(h.Action); return h.State == "idle" && h.Runs == i+1 })
			if h.Note != "" || h.Error != nil {
				t.Errorf("%+v", h)
			}
		}
	}
	t.Log("\n" + s.must("status"))
	m.must("systemctl", "stop", "nginx", "haproxy", "apache2", "postgresql@"+cluster+"-main")
	m.must("systemctl", "stop", "kvfs-mount.service")
}

// Nobody knows what was served before a start, unless there are real files: then what was renewed meanwhile is a
// renewal.
func TestHooksAfterAStop(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, files := range []string{"no", "instead"} {
		t.Run(files, func(t *testing.T) {
			s, out := newSiteToRenew(t, emulator.Profile{Name: "www"})
			s.persist(files, func(d document) { d.onChange(recordRenewals(out)) })
			s.mount()
			first := s.certificate("www").Version
			s.end(syscall.SIGTERM)
			second, err := s.vault.Rotate("", "www")
			if err != nil {
				t.Fatal(err)
			}
			s.mount()
			want := []string{}
			if files != "no" {
				want = append(want, "contoso-web.www:"+first+">"+second)
				s.until("the renewal of the time in between is told", func() bool { return len(lines(out)) > 0 })
			}
			third := s.rotate("www")
			want = append(want, "contoso-web.www:"+second+">"+third)
			s.until("the next one is told", func() bool { return len(lines(out)) >= len(want) })
			if got := lines(out); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// An entry that was taken out by mistake, and comes back within its grace, has been away for the vault alone: what was
// renewed meanwhile is a renewal. That it goes, or comes, is none.
func TestHookOfAnEntryThatComesBack(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s, out := newSiteToRenew(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	configure := func(edit func(document)) {
		s.configure(func(d document) {
			d.onChange(recordRenewals(out))
			edit(d)
		})
	}
	configure(func(document) {})
	s.mount()
	first := s.certificate("www").Version
	configure(func(d document) { d.secrets()["observedCertificates"] = []any{d.entry("api")} })
	s.must("refresh", "--settings")
	second, err := s.vault.Rotate("", "www")
	if err != nil {
		t.Fatal(err)
	}
	api := s.certificate("api").Version
	after := s.rotate("api")
	s.until("the other one is told", func() bool { return len(lines(out)) > 0 })
	// With one that is new, for which all that comes waits a while: the first that is published is what is new of www.
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "new"}); err != nil {
		t.Fatal(err)
	}
	s.vault.SetFault(emulator.Fault{Name: "new", Kind: emulator.Slow, Delay: 2 * time.Second})
	configure(func(document) {}) // the emulator's document has it by itself
	s.must("refresh", "--settings")
	s.until("the one that was away is told", func() bool { return len(lines(out)) > 1 })
	if got, want := lines(out), []string{"contoso-web.api:" + api + ">" + after, "contoso-web.www:" + first + ">" + second}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
