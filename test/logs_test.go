package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// listener is a collector that takes everything as it comes and acknowledges what asks for that. What it got is for tests to
// look into; that it is right is the affair of package logs and of the real collector (make collectors).
type listener struct {
	*buffer
	t       testing.TB
	address string
	l       net.Listener
	mu      sync.Mutex
	conns   []net.Conn
	work    sync.WaitGroup
}

// The option of a message that asks for an acknowledgement, and what is acknowledged by: 24 characters.
const (
	chunkField = "\xa5chunk\xb8"
	ackOf      = "\x81\xa3ack\xb8"
	chunkSize  = 24
)

func listen(t testing.TB) *listener {
	t.Helper()
	c := &listener{buffer: &buffer{}, t: t, address: "127.0.0.1:0"}
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *listener) start() {
	c.t.Helper()
	var err error
	if c.l, err = net.Listen("tcp", c.address); err != nil {
		c.t.Fatal(err)
	}
	c.address = c.l.Addr().String()
	l := c.l
	c.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns = append(c.conns, conn)
			c.mu.Unlock()
			c.work.Go(func() { c.take(conn) })
		}
	})
}

func (c *listener) take(conn net.Conn) {
	defer conn.Close()
	var left []byte
	for part := make([]byte, 64<<10); ; {
		n, err := conn.Read(part)
		_, _ = c.Write(part[:n])
		left = append(left, part[:n]...)
		for {
			_, rest, found := bytes.Cut(left, []byte(chunkField))
			if !found || len(rest) < chunkSize {
				break
			}
			_, _ = conn.Write(append([]byte(ackOf), rest[:chunkSize]...))
			left = rest[chunkSize:]
		}
		if err != nil {
			return
		}
	}
}

// stop ends it with all of its connections. It can be started again at the same address.
func (c *listener) stop() {
	c.l.Close()
	c.mu.Lock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// heard waits until the collector has got a text.
func (c *listener) heard(s *site, text string) {
	s.t.Helper()
	if !c.await(text, s.done.gone) {
		s.t.Fatalf("the collector did not get %q:\n%q", text, c.String())
	}
}

// logTo makes a document send its log to a collector and to a file.
func (d document) logTo(c *listener, log map[string]any) {
	d["loggingSettings"] = map[string]any{"logger": "fluentd", "endpoint": "tcp://" + c.address, "format": "forward", "servicename": "kvfs.test"}
	d.own()["log"] = log
}

// Everything that kvfs says in a whole life, in detail, on every way that a log has, and nothing of it is a secret.
func TestNoSecretReachesAnyLog(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "text", Format: emulator.PEM}, emulator.Profile{Name: "bad"})
	c := listen(t)
	file := filepath.Join(s.dir, "log", "kvfs.log")
	const secret, password = "cl1ent-s3cret-of-the-application", "p4ssword-of-the-key-store"
	s.vault.SetApplications(emulator.Application{ClientID: appID, Secrets: []emulator.ApplicationSecret{{Value: secret}}})
	secretFile, wrong, passwordFile := s.write("secret", []byte(secret+"\n")), s.write("wrong", []byte("wr0ng-s3cret-of-nobody\n")), s.write("password", []byte(password+"\n"))
	identity := func(file string) map[string]any {
		return map[string]any{"type": "servicePrincipal", "tenantId": emulator.Tenant, "clientId": appID, "clientSecretFile": file}
	}
	edit := func(d document) {
		d.logTo(c, map[string]any{"file": file, "level": "debug"})
		s.login(d)
		d.entry("text")["kvfs"] = map[string]any{"identity": identity(secretFile)}
		d.entry("bad")["kvfs"] = map[string]any{"identity": identity(wrong)}
		d.own()["layouts"], d.own()["passwordFile"] = []any{"v3", "v4", "pfx", "jks", "live"}, passwordFile
	}
	s.configure(edit)
	s.mount("--verbose")
	s.rotate("www")
	s.rotate("text")
	s.vault.SetFault(emulator.Fault{Name: "www", Kind: emulator.Garbage, Count: 1})
	_, _, _ = s.run("refresh", "www") // it says what is wrong with the garbage
	s.vault.SetFault(emulator.Fault{Name: "text", Kind: emulator.TokenExpired, Count: 1})
	_, _, _ = s.run("refresh", "text")
	before := s.server()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.another(before)
	s.configure(func(d document) { edit(d); d.own()["log"].(map[string]any)["format"] = "json" })
	s.must("refresh", "--settings", "www", "text")
	s.configure(func(d document) { d.own()["nonsense"] = secret })
	_, _, _ = s.run("refresh", "--settings")
	c.heard(s, "this server goes on for one that has ended")
	c.heard(s, "changing the settings failed")
	var keys [][]byte
	for _, name := range []string{"www", "text"} {
		for _, path := range s.certificate(name).Links {
			keys = append(keys, contentsOf(t, path)...)
		}
	}
	s.end(syscall.SIGTERM)
	all := map[string]string{"stderr": s.log.String(), "collector": c.String(), "file": string(readFile(t, file))}
	if len(keys) < 20 {
		t.Fatalf("only %d pieces of keys to look for", len(keys))
	}
	for _, word := range []string{secret, "wr0ng-s3cret", password, "eyJ", "BEGIN"} {
		keys = append(keys, []byte(word))
	}
	blob := regexp.MustCompile(`[A-Za-z0-9+=_-]{100,}`) // what no name or fingerprint is: base64 of anything
	for name, text := range all {
		for _, must := range []string{"refresh failed", "AADSTS7000215", "level"} {
			if !strings.Contains(text, must) {
				t.Errorf("%s says nothing of %q: is this the whole log?", name, must)
			}
		}
		for _, key := range keys {
			if strings.Contains(text, string(key)) {
				t.Errorf("%s has a secret: %.8q...", name, key)
			}
		}
		if found := blob.FindString(text); found != "" {
			t.Errorf("%s has something long: %.40s...", name, found)
		}
	}
}

// contentsOf a file or of a directory: the lines of its private keys, what these stand for, and pieces of files that are not
// text.
func contentsOf(t *testing.T, path string) (pieces [][]byte) {
	t.Helper()
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		names, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			pieces = append(pieces, contentsOf(t, filepath.Join(path, n.Name()))...)
		}
		return pieces
	}
	data := readFile(t, path)
	block, rest := pem.Decode(data)
	if block == nil && len(data) > 64 && data[0] != '{' {
		for at := 0; at+16 <= len(data); at += 16 {
			pieces = append(pieces, data[at:at+16])
		}
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if !strings.Contains(block.Type, "PRIVATE KEY") {
			continue
		}
		pieces = append(pieces, block.Bytes[len(block.Bytes)-32:])
		for line := range strings.Lines(string(pem.EncodeToMemory(block))) {
			if line = strings.TrimSpace(line); len(line) >= 16 {
				pieces = append(pieces, []byte(line))
			}
		}
	}
	return pieces
}

func TestCollectorGoesAndComesAndNothingWaitsForIt(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	c := listen(t)
	c.stop() // nobody is there at the start
	s.configure(func(d document) { d.logTo(c, map[string]any{}) })
	s.mount()
	s.rotate("www") // as fast as ever
	l := s.report().Logs
	if l == nil || l.Collector == nil || l.Collector.Error == nil || l.Collector.Waiting == 0 || l.Collector.Sent != 0 || l.Collector.Endpoint != "tcp://"+c.address {
		t.Errorf("%+v", l)
	}
	if said := s.must("status"); !strings.Contains(said, "  warning: log: connecting to the collector: ") || !strings.Contains(said, "hint: start the collector") {
		t.Error(said)
	}
	c.start()
	c.heard(s, "serving")
	s.await("the log collector takes records again")
	s.until("the collector has everything", func() bool { l := s.report().Logs.Collector; return l.Error == nil && l.Waiting == 0 && l.Sent > 0 })
	if said := s.must("status"); strings.Contains(said, "warning: log") {
		t.Error(said)
	}

	// The next server goes on, and tells what has become of the one before it.
	before := s.server()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.another(before)
	c.heard(s, "this server goes on for one that has ended")
	c.heard(s, "was killed by SIGKILL")

	// Another collector, by other settings.
	other := listen(t)
	s.configure(func(d document) { d.logTo(other, map[string]any{"level": "debug"}) })
	s.must("refresh", "--settings")
	other.heard(s, "settings applied")
	other.heard(s, "DEBUG")
	s.configure(nil)
	s.must("refresh", "--settings")
	if l := s.report().Logs; l != nil {
		t.Errorf("%+v", l)
	}
}

func TestLogFileFollowsTheSettings(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	file := filepath.Join(s.dir, "log", "kvfs.log")
	with := func(log map[string]any) func(document) {
		return func(d document) { d.own()["log"] = log }
	}
	s.configure(with(map[string]any{"file": file}))
	s.mount()
	s.until("the file has what is said at the start", func() bool { return strings.Contains(string(readFile(t, file)), "msg=serving") })
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", file); err != nil {
		t.Fatal(err)
	}
	s.must("refresh", "--settings")
	if l := s.report().Logs; l == nil || l.File == nil || l.File.Error == nil || !strings.Contains(l.File.Error.Fact, "symbolic link") || l.File.Lost == 0 {
		t.Errorf("%+v", l)
	}
	if said := s.must("status"); !strings.Contains(said, "  warning: log: "+file+", the log file, is a symbolic link") {
		t.Error(said)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.configure(with(map[string]any{"file": file, "format": "json"}))
	s.must("refresh", "--settings")
	lines := bufio.NewScanner(bytes.NewReader(readFile(t, file)))
	for n := 0; lines.Scan(); n++ {
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line["level"] == nil || line["msg"] == nil || line["time"] == nil {
			t.Errorf("line %d: %s", n, lines.Text())
		}
	}

	// A file that a mount would hide is refused, as all that kvfs needs is.
	s.configure(with(map[string]any{"file": s.path("kvfs.log")}))
	out, errs, code := s.run("refresh", "--settings")
	if code == 0 {
		t.Errorf("a log file in the store: %s%s", out, errs)
	}
}

// With JSON every line of every process is an object, from the first one on.
func TestEveryLineIsJSON(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.configure(func(d document) {
		d.own()["log"] = map[string]any{"format": "json"}
		d["unknown"] = true // of which kvfs warns
	})
	s.start("mount", s.settings, "--store", s.store)
	s.await(`"msg":"serving"`)
	before := s.server()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.another(before)
	s.end(syscall.SIGTERM)
	seen := map[any]bool{}
	for line := range strings.Lines(s.log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		seen[record["msg"]] = true
	}
	for _, msg := range []string{"serving", "settings", "server ready", "the server is replaced"} {
		if !seen[msg] {
			t.Errorf("nobody said %q", msg)
		}
	}
	s.write("settings.json", []byte("{"))
	_, errs, code := s.run("mount", s.settings, "--log-format", "json", "--store", s.store)
	var record map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(errs, "\n", 2)[0]), &record); err != nil || code != 3 || record["level"] != "ERROR" || record["hint"] == "" {
		t.Errorf("exit code %d: %s", code, errs)
	}
	for _, flag := range []string{"--log-format", "--log-level"} {
		if _, errs, code := s.run("mount", s.settings, flag, "loud"); code != 2 || !strings.Contains(errs, `"loud"`) {
			t.Errorf("exit code %d: %s", code, errs)
		}
	}
}

// The journal is real, in a mount namespace of its own.
func TestJournalHasFields(t *testing.T) {
	t.Parallel()
	needRoot(t)
	journald := "/lib/systemd/systemd-journald"
	if _, err := os.Stat(journald); err != nil {
		t.Skip(journald, "is not installed; make deps installs it")
	}
	needProgram(t, "journalctl")
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "broken"})
	s.vault.SetFault(emulator.Fault{Name: "broken", Kind: emulator.Disabled})
	// stderr is a stream to the journal, as that of a unit is, which JOURNAL_STREAM names.
	s.wrapper = []string{"unshare", "--mount", "sh", "-c", `
		mount -t tmpfs tmpfs /run
		mkdir -p /run/systemd/journald.conf.d
		printf '[Journal]\nReadKMsg=no\nAudit=no\n' >/run/systemd/journald.conf.d/test.conf
		setpriv --pdeathsig KILL "$0" >/dev/null 2>&1 &
		until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
		exec systemd-cat --identifier=unit sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' sh "$@"`, journald}
	s.start("mount", s.settings, "--store", s.store)
	dir := fmt.Sprintf("/proc/%d/root/run/log/journal", s.cmd.Process.Pid)
	var found, serving map[string]any
	s.until("the journal has it", func() bool {
		out, _ := exec.Command("journalctl", "-D", dir, "-o", "json", "--no-pager").Output() // there may be none yet
		for line := range strings.Lines(string(out)) {
			var e map[string]any
			if json.Unmarshal([]byte(line), &e) != nil {
				continue
			}
			if url, _ := e["KVFS_URL"].(string); strings.HasSuffix(url, "/secrets/broken") && strings.HasPrefix(fmt.Sprint(e["MESSAGE"]), "refresh failed url=") {
				found = e
			}
			if e["KVFS_AT"] == s.store {
				serving = e
			}
		}
		return found != nil && serving != nil
	})
	if found["PRIORITY"] != "4" || found["SYSLOG_IDENTIFIER"] != "kvfs" || found["KVFS_KIND"] != "disabled" || found["_TRANSPORT"] != "journal" {
		t.Errorf("%v", found)
	}
	if serving["PRIORITY"] != "6" || serving["KVFS_CERTIFICATES"] != "2" {
		t.Errorf("%v", serving)
	}
}

// What has expired and what cannot be read is said once, also when the server dies, and in kvfs status as long as it lasts.
func TestExpiryAndStalenessAreSaidOnce(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "old", Validity: -time.Hour}, emulator.Profile{Name: "soon", Validity: 5*24*time.Hour + time.Hour}, emulator.Profile{Name: "later"})
	s.mount()
	s.await("a certificate has expired")
	const soon = "a certificate expires soon, and no newer version has come\" url=https://contoso-web.vault.azure.net/secrets/soon "
	s.await(soon)
	s.await(`in="5 days"`)
	if w := fmt.Sprint(s.certificate("soon").Warnings, s.certificate("later").Warnings); w != "[it expires in 5 days, and no newer version has come] []" {
		t.Error(w)
	}
	s.vault.SetFault(emulator.Fault{Name: "later", Kind: emulator.Unavailable})
	stale := regexp.MustCompile(`nothing could be read of a certificate for long" url=\S+/secrets/later`)
	s.until("it is said", func() bool { return stale.MatchString(s.log.String()) })
	if w := fmt.Sprint(s.certificate("later").Warnings); !strings.Contains(w, "nothing was read of it for ") {
		t.Error(w)
	}
	for range 2 {
		pid := s.server()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.another(pid)
	}
	// It says what is new, after it has looked at what is not.
	if _, err := s.vault.AddCertificate(emulator.Profile{Name: "older", Validity: -time.Hour}); err != nil {
		t.Fatal(err)
	}
	s.configure(nil)
	_, _, _ = s.run("refresh", "--settings") // of later there is nothing to be had
	s.await("a certificate has expired\" url=https://contoso-web.vault.azure.net/secrets/older")
	if n := len(stale.FindAllString(s.log.String(), -1)); n != 1 {
		t.Errorf("said %d times that it is stale", n)
	}
	if n := strings.Count(s.log.String(), soon); n != 1 {
		t.Errorf("said %d times that it expires", n)
	}
	if n := strings.Count(s.log.String(), "a certificate has expired\" url=https://contoso-web.vault.azure.net/secrets/old "); n != 1 {
		t.Errorf("said %d times that it has expired", n)
	}
}
