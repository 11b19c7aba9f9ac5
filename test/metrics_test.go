package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/emulator"
	"kvfs/status"
)

// Files for the programs of others.
const (
	rulesFile     = "../deploy/prometheus/kvfs.rules.yml"
	rulesTestFile = "../deploy/prometheus/kvfs.rules_test.yml"
	dashboardFile = "../deploy/grafana/kvfs.json"
)

// freePort is an address at which nobody listens.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// measured has kvfs answer metrics somewhere.
func measured(at any, more func(document)) func(document) {
	return func(d document) {
		own := d["kvfs"].(map[string]any)
		if delete(own, "metrics"); at != nil {
			own["metrics"] = at
		}
		if more != nil {
			more(d)
		}
	}
}

// withEverything has all that there are metrics of.
func withEverything(d document) {
	own := d["kvfs"].(map[string]any)
	own["persistent"], own["audit"], own["onChange"] = "beneath", true, []any{map[string]any{"command": []string{"/bin/true"}}}
}

// ask gets a page from an address or a Unix socket, by a connection of its own.
func ask(ctx context.Context, at, page string) (code int, body string, err error) {
	network := "tcp"
	if strings.HasPrefix(at, "/") {
		network = "unix"
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, at)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kvfs"+page, nil)
	if err != nil {
		return 0, "", err
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 30 * time.Second}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func (s *site) ask(at, page string) (code int, body string) {
	s.t.Helper()
	code, body, err := ask(s.t.Context(), at, page)
	if err != nil {
		s.t.Fatal(err)
	}
	return code, body
}

// scrape is what a Prometheus gets.
func (s *site) scrape(at string) string {
	s.t.Helper()
	code, body := s.ask(at, "/metrics")
	if code != http.StatusOK {
		s.t.Fatalf("a scrape is answered %d\n%s", code, body)
	}
	return body
}

// value of a metric with these labels, as they are written; NaN is not asked for.
func value(t testing.TB, scrape, metric string) float64 {
	t.Helper()
	for line := range strings.Lines(scrape) {
		if rest, ok := strings.CutPrefix(line, metric+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("%s is not in\n%s", metric, scrape)
	return 0
}

// promtool runs it on a text.
func promtool(t testing.TB, stdin string, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), needProgram(t, "promtool"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// metricName is one of ours, of the process or of the runtime, in a query.
var metricName = regexp.MustCompile(`\b(kvfs|process|go)_[a-z0-9_]+\b`)

// queries of the dashboard, with its variables replaced, by the title of their panel.
func dashboardQueries(t testing.TB) (all []struct{ panel, query string }) {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Definition string }
		}
	}
	if err := json.Unmarshal(readFile(t, dashboardFile), &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$instance", ".*", "$__rate_interval", "5m")
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			all = append(all, struct{ panel, query string }{p.Title, variables.Replace(q.Expr)})
		}
	}
	if len(all) < 20 {
		t.Fatalf("only %d queries in the dashboard", len(all))
	}
	for _, v := range board.Templating.List {
		if v.Definition != "" && !strings.Contains(v.Definition, "kvfs_build_info") {
			t.Errorf("a variable is made of %q", v.Definition)
		}
	}
	return all
}

// A scrape of a real kvfs is as Prometheus wants it, and has everything that the dashboard, the alerts and
// the documents name. Beside it are the probes.
func TestMetricsOfARealKvfs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	at := freePort(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "old", Validity: 3 * 24 * time.Hour})
	s.configure(measured(at, withEverything))
	s.mount()
	if code, body := s.ask(at, "/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("it is not ready: %d %s", code, body)
	}
	if code, body := s.ask(at, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("it is not alive: %d %s", code, body)
	}
	// Something to tell of.
	s.rotate("www")
	if err := s.vault.Delete("", "api"); err != nil {
		t.Fatal(err)
	}
	if _, _, code := s.run("refresh", "api"); code != 5 {
		t.Errorf("the refresh of what is deleted: exit code %d", code)
	}
	if err := os.WriteFile(s.settings, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, code := s.run("refresh", "--settings"); code != 3 {
		t.Errorf("broken settings: exit code %d", code)
	}
	if _, err := os.ReadFile(s.path("contoso-web.www")); err != nil {
		t.Error(err)
	}
	var text string
	s.until("the hook is done, and the open is counted", func() bool {
		text = s.scrape(at)
		return strings.Contains(text, `kvfs_hook_runs_total{action="command /bin/true"} 1`) && strings.Contains(text, `kvfs_audit_opens_total{uid="0"}`)
	})
	if said, err := promtool(t, text, "check", "metrics"); err != nil || said != "" {
		t.Errorf("promtool check metrics: %v\n%s", err, said)
	}
	report := s.report()
	const labels = `{certificate="https://contoso-web.vault.azure.net/secrets/%s",vault="contoso-web.vault.azure.net"}`
	for name, want := range map[string]float64{
		"kvfs_certificate_not_after_timestamp_seconds" + fmt.Sprintf(labels, "old"):  float64(s.certificate("old").NotAfter.Unix()),
		"kvfs_certificate_not_before_timestamp_seconds" + fmt.Sprintf(labels, "www"): float64(s.certificate("www").NotBefore.Unix()),
		`kvfs_certificates{state="ok"}`:                                              2,
		`kvfs_certificates{state="stale"}`:                                           1,
		`kvfs_state{state="degraded"}`:                                               1,
		`kvfs_error{kind="settings"}`:                                                1,
		`kvfs_renewals_total`:                                                        1,
		`kvfs_keeper_up`:                                                             1,
		`kvfs_directory_up{directory="` + s.store + `",files="beneath"}`:             1,
		`kvfs_server_start_time_seconds`:                                             float64(report.Started.Unix()),
	} {
		if got := value(t, text, name); got != want {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
	if n := value(t, text, `kvfs_filesystem_requests_total{operation="lookup"}`); n < 1 {
		t.Error("no lookups")
	}
	if n := value(t, text, `kvfs_vault_transactions_total{vault="contoso-web.vault.azure.net"}`); n < 4 {
		t.Errorf("%g transactions", n)
	}
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(text, -1) {
		there[m[1]] = true
	}
	for _, f := range status.Families() {
		if !there[f.Name] {
			t.Errorf("%s is documented, and not in a scrape", f.Name)
		}
	}
	named := metricName.FindAllString(string(readFile(t, rulesFile)), -1)
	for _, q := range dashboardQueries(t) {
		named = append(named, metricName.FindAllString(q.query, -1)...)
	}
	if len(named) < 50 {
		t.Errorf("only %d names of metrics in the dashboard and the alerts", len(named))
	}
	for _, name := range named {
		if !there[name] {
			t.Errorf("the dashboard or an alert has %s, which is not in a scrape", name)
		}
	}
	// Through the control socket all of it is to be had too, also where nothing listens.
	if code, body := s.ask(s.socket, "/metrics"); code != http.StatusOK || !strings.Contains(body, "kvfs_build_info{") {
		t.Errorf("at the control socket: %d", code)
	}
}

// The server is killed time and again: no scrape and no probe fails, and its deaths are counted, and apart from
// those the ends that were asked for.
func TestScrapesOutliveTheServer(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, at := range []string{freePort(t), ""} {
		s := newSite(t, emulator.Profile{Name: "www"})
		if at == "" {
			at = filepath.Join(s.dir, "run", "metrics.sock")
		}
		s.configure(measured(at, nil))
		s.mount()
		ctx, stop := context.WithCancel(t.Context())
		var work sync.WaitGroup
		var mu sync.Mutex // of scrapes and failed
		scrapes, failed := 0, []string(nil)
		for _, page := range []string{"/metrics", "/healthz"} {
			work.Go(func() {
				for ctx.Err() == nil {
					code, body, err := ask(context.WithoutCancel(ctx), at, page)
					mu.Lock()
					if scrapes++; (err != nil || code != http.StatusOK) && !cutOff(err) {
						failed = append(failed, fmt.Sprintf("%s: %d %v %.100s", page, code, err, body))
					}
					mu.Unlock()
				}
			})
		}
		const kills = 5
		pid := s.another(0)
		for range kills {
			s.kill(syscall.SIGKILL)
			pid = s.another(pid)
		}
		s.kill(syscall.SIGTERM)
		s.another(pid)
		stop()
		work.Wait()
		if len(failed) > 0 || scrapes < kills {
			t.Errorf("%s: of %d scrapes and probes %d failed: %q", at, scrapes, len(failed), failed)
		}
		text := s.scrape(at)
		if died, parked := value(t, text, `kvfs_server_restarts_total{cause="died"}`), value(t, text, `kvfs_server_restarts_total{cause="parked"}`); died != kills || parked != 1 {
			t.Errorf("%g have died and %g parked, want %d and 1", died, parked, kills)
		}
		if v := value(t, text, "kvfs_server_takeover_seconds"); v <= 0 {
			t.Errorf("it took over in %g s", v)
		}
		s.end(syscall.SIGTERM)
		if _, _, err := ask(t.Context(), at, "/healthz"); err == nil {
			t.Error("somebody answers after the end")
		}
		if _, err := os.Stat(at); strings.HasPrefix(at, "/") && err == nil {
			t.Error("the socket is left")
		}
	}
}

// cutOff tells that the server died with a request of which it had the connection: nobody but that process could
// have answered it. One that waits for a server is not cut off.
func cutOff(err error) bool {
	if err == nil {
		return false
	}
	return strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection reset by peer")
}

// Settings that are read again move the place, where they can; where not, they are refused and it stays.
func TestPlaceOfMetricsFollowsTheSettings(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	if out := s.report(); out.Metrics != nil {
		t.Errorf("nobody has asked for metrics: %+v", out.Metrics)
	}
	silent := func(at string) {
		t.Helper()
		if _, _, err := ask(t.Context(), at, "/healthz"); err == nil {
			t.Errorf("somebody answers at %s", at)
		}
	}
	reload := func(at any) {
		t.Helper()
		s.configure(measured(at, nil))
		s.must("refresh", "--settings")
	}
	tcp, socket := freePort(t), filepath.Join(s.dir, "run", "metrics.sock")
	reload(tcp)
	s.scrape(tcp)
	if r := s.report(); r.Metrics == nil || r.Metrics.Listen != tcp || r.Metrics.Error != nil {
		t.Errorf("%+v", r.Metrics)
	}
	// The same port at other addresses, which overlap.
	_, port, err := net.SplitHostPort(tcp)
	if err != nil {
		t.Fatal(err)
	}
	for _, overlaps := range []string{"0.0.0.0:" + port, "[::1]:" + port, tcp} {
		reload(map[string]any{"listen": overlaps, "remote": true})
		s.scrape(strings.Replace(overlaps, "0.0.0.0", "127.0.0.1", 1))
		if r := s.report(); r.Metrics == nil || r.Metrics.Listen != overlaps || r.Metrics.Error != nil {
			t.Errorf("%s: %+v", overlaps, r.Metrics)
		}
	}
	if _, _, err := ask(t.Context(), "[::1]:"+port, "/healthz"); err == nil {
		t.Error("somebody answers where it was before")
	}
	// It ends by itself.
	s.shutListener(port)
	s.await("metrics are not answered any more")
	s.until("they are again", func() bool {
		code, _, err := ask(t.Context(), tcp, "/healthz")
		return err == nil && code == http.StatusOK
	})
	s.until("nothing is wrong", func() bool { r := s.report(); return r.Metrics != nil && r.Metrics.Error == nil && r.State == "ready" })
	reload(map[string]any{"listen": socket, "group": 12345, "mode": "0640"})
	s.scrape(socket)
	silent(tcp)
	var st syscall.Stat_t
	if err := syscall.Stat(socket, &st); err != nil || st.Mode&0o777 != 0o640 || st.Gid != 12345 {
		t.Errorf("mode %o, group %d, %v", st.Mode, st.Gid, err)
	}
	reload(map[string]any{"listen": socket, "mode": "0600"})
	if err := syscall.Stat(socket, &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	s.scrape(socket)

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.configure(measured(taken.Addr().String(), nil))
	if _, errs, code := s.run("refresh", "--settings"); code != 1 || !strings.Contains(errs, "address already in use") || !strings.Contains(errs, "hint: another program listens there") {
		t.Errorf("a port that is taken: %d\n%s", code, errs)
	}
	s.scrape(socket)
	pid := s.another(0)
	s.kill(syscall.SIGKILL)
	s.another(pid)
	s.scrape(socket)

	reload(nil)
	silent(socket)
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left")
	}
	if r := s.report(); r.Metrics != nil || r.State != "ready" {
		t.Errorf("%s %+v", r.State, r.Metrics)
	}
}

// shutListener takes from the server what it listens with at a port of TCP.
func (s *site) shutListener(port string) {
	s.t.Helper()
	process, err := unix.PidfdOpen(s.report().Processes.Server, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(process)
	for theirs := range 1 << 10 {
		fd, err := unix.PidfdGetfd(process, theirs, 0)
		if err != nil {
			continue
		}
		at, _ := unix.Getsockname(fd)
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if at, ok := at.(*unix.SockaddrInet4); ok && listens == 1 && strconv.Itoa(at.Port) == port {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				s.t.Fatal(err)
			}
			unix.Close(fd)
			return
		}
		unix.Close(fd)
	}
	s.t.Fatal("the server does not listen at port", port)
}

// Who cannot listen does not begin, and says why.
func TestMetricsThatCannotBeHadAreRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		at         any
		code       int
		fact, hint string
	}{
		{taken.Addr().String(), 1, "address already in use", "another program listens there, perhaps another kvfs: choose another port or path"},
		{"192.0.2.1:9464", 3, `kvfs.metrics: "192.0.2.1:9464" can be reached from other machines`, `write "127.0.0.1:9464"`},
		{map[string]any{"listen": "192.0.2.1:9464", "remote": true}, 1, "cannot assign requested address", "choose an address of this machine"},
		{s.settings, 1, "is there and is no socket", "choose a path where nothing is"},
		{filepath.Join(s.store, "metrics.sock"), 1, "metrics.sock", "hint: "},
		{map[string]any{"listen": filepath.Join(s.dir, "m.sock"), "group": "nosuchgroup"}, 1, `group "nosuchgroup" does not exist`, "create the group"},
	} {
		s.configure(measured(c.at, nil))
		_, errs, code := s.run("mount", s.settings, "--store", s.store)
		if code != c.code || !strings.Contains(errs, c.fact) || !strings.Contains(errs, c.hint) {
			t.Errorf("%v: exit code %d\n%s", c.at, code, errs)
		}
		if m := mounts(t, s.dir); len(m) > 0 {
			t.Fatal("mounted:", m)
		}
	}
}

// As a service too, in its sandbox: at a loopback address, and at a Unix socket in its directory that others reach.
// systemd holds both for the next server. That somebody else listens there keeps no certificate from anybody.
func TestServiceAnswersMetrics(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	at := freePort(t)
	s.configureService(measured(at, nil))
	other, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s.m.must("systemctl", "start", unitName)
	if r := s.report(); r.State != "degraded" || r.Metrics.Error == nil || !strings.Contains(s.must("status"), "  hint: another program listens there") {
		t.Errorf("%s %+v\n%s", r.State, r.Metrics, s.must("status"))
	}
	if _, err := os.ReadFile(s.path("site")); err != nil {
		t.Error(err)
	}
	other.Close()
	s.until("it is tried again", func() bool { return s.report().State == "ready" })
	if code, body := s.ask(at, "/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	const socket = "/run/kvfs/metrics.sock"
	killed := func(at string) {
		t.Helper()
		was := s.server()
		s.m.must("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unitName)
		if code, _ := s.ask(at, "/healthz"); code != http.StatusOK {
			t.Errorf("%s is answered %d", at, code)
		}
		s.another(was)
	}
	killed(at)
	text := s.scrape(at)
	if n := value(t, text, `kvfs_server_restarts_total{cause="died"}`); n != 1 {
		t.Errorf("%g servers have died", n)
	}
	// What the sandbox shows of the process is enough for the dashboard.
	for _, name := range []string{"process_resident_memory_bytes", "process_cpu_seconds_total"} {
		if value(t, text, name) <= 0 {
			t.Errorf("%s is 0", name)
		}
	}
	s.m.must("systemctl", "restart", unitName)
	if n := value(t, s.scrape(at), `kvfs_server_restarts_total{cause="parked"}`); n != 1 {
		t.Errorf("%g servers have parked", n)
	}
	s.configureService(measured(map[string]any{"listen": socket, "mode": "0666"}, nil))
	s.must("refresh", "--settings")
	if _, _, err := ask(t.Context(), at, "/healthz"); err == nil {
		t.Error("somebody answers at the former place")
	}
	killed(s.m.path(socket))
	if out := s.m.must("setpriv", "--reuid", fmt.Sprint(stranger), "--regid", fmt.Sprint(stranger), "--clear-groups",
		"curl", "-s", "--unix-socket", socket, "http://kvfs/metrics"); !strings.Contains(out, "kvfs_server_restarts_total{cause=\"died\"} 2\n") {
		t.Errorf("a stranger gets\n%s", out)
	}
	if _, _, code := s.m.run("setpriv", "--reuid", fmt.Sprint(stranger), "--clear-groups", "curl", "-s", "--unix-socket", "/run/kvfs/kvfs.sock", "http://kvfs/metrics"); code == 0 {
		t.Error("a stranger may use the control socket")
	}
	s.configureService(measured(map[string]any{"listen": socket, "group": stranger}, nil))
	if _, errs, code := s.run("refresh", "--settings"); code != 1 || !strings.Contains(errs, "only root can give it to any group") {
		t.Errorf("a group that it cannot have: %d %s", code, errs)
	}
	s.m.must("systemctl", "stop", unitName)
}

// The alerts fire when they should, and not when all is well; queries can be read.
func TestAlertsAndQueriesAreRight(t *testing.T) {
	t.Parallel()
	if said, err := promtool(t, "", "check", "rules", rulesFile); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	if said, err := promtool(t, "", "test", "rules", rulesTestFile); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	text := string(readFile(t, rulesFile))
	cases := string(readFile(t, rulesTestFile))
	page := string(readFile(t, "../docs/monitoring.md"))
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(text, -1)
	if len(alerts) < 15 {
		t.Errorf("only %d alerts", len(alerts))
	}
	for _, m := range alerts {
		fires := regexp.MustCompile(`alertname: ` + m[1] + `\n\s+exp_alerts:\n\s+- exp_labels`)
		if !fires.MatchString(cases) {
			t.Errorf("no case in which %s fires", m[1])
		}
		if !strings.Contains(page, "| `"+m[1]+"` |") {
			t.Errorf("docs/monitoring.md does not say what to do about %s", m[1])
		}
	}
	scrape := fences(t, "yaml")
	if len(scrape) != 1 || !strings.Contains(scrape[0].body, "job_name: kvfs\n") {
		t.Fatalf("the documents have %d configurations of Prometheus", len(scrape))
	}
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(scrape[0].body, "/etc/prometheus/kvfs.rules.yml", rules)), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := promtool(t, "", "check", "config", config); err != nil {
		t.Errorf("%v: %v\n%s", scrape[0], err, said)
	}
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, q := range dashboardQueries(t) {
		fmt.Fprintf(&b, "      - {record: 'q:%d', expr: %q}\n", i, q.query)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := promtool(t, "", "check", "rules", file); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

// The table in the documents is that of the code.
func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	for _, f := range status.Families() {
		kind := "gauge"
		if f.Counter {
			kind = "counter"
		}
		labels := ""
		for i, l := range f.Labels {
			if i > 0 {
				labels += ", "
			}
			labels += "`" + l + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.Name, kind, labels, f.Help)
	}
	if page := string(readFile(t, "../docs/monitoring.md")); !strings.Contains(page, "|---|---|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/monitoring.md has another table than this:\n%s", &table)
	}
}

// Who watches is told of what changes, and it ends well when nobody reads any more, or at an interrupt.
func TestWatchedStatusEnds(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"})
	s.mount()
	for _, by := range []string{"the reader goes", "an interrupt"} {
		cmd := exec.CommandContext(t.Context(), kvfsPath, "status", "--watch", "--socket", s.socket)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		readUntil := func(text string) {
			t.Helper()
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					t.Fatalf("it never said %q: %v", text, err)
				}
				if strings.Contains(line, "\x1b") {
					t.Errorf("colours in a pipe: %q", line)
				}
				if strings.Contains(line, text) {
					return
				}
			}
		}
		readUntil("kvfs is ready")
		readUntil(s.rotate("www"))
		if by == "the reader goes" {
			out.Close()
		} else if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", by, err)
		}
	}
}

// TestDashboardHasData (make dashboard) runs Debian's Prometheus on a real kvfs: each query of the dashboard
// returns something, and the rules are loaded.
func TestDashboardHasData(t *testing.T) {
	if os.Getenv("KVFS_DASHBOARD") == "" {
		t.Skip("it takes half a minute with a Prometheus of its own; see make dashboard")
	}
	needRoot(t)
	prometheus := needProgram(t, "prometheus")
	at, web := freePort(t), freePort(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"}, emulator.Profile{Name: "old", Validity: 3 * 24 * time.Hour})
	s.configure(measured(at, withEverything))
	s.mount()
	readFile(t, s.path("contoso-web.www"))
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(s.dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: kvfs, static_configs: [{targets: [%q]}]}]\n", rules, at)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said := &buffer{}
	cmd := exec.Command(prometheus, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(s.dir, "tsdb"), "--web.listen-address="+web)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	query := func(q string) (results []json.RawMessage) {
		t.Helper()
		code, body, err := ask(t.Context(), web, "/api/v1/query?"+url.Values{"query": {q}}.Encode())
		var r struct {
			Status string
			Error  string
			Data   struct{ Result []json.RawMessage }
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &r)
		}
		if err != nil || r.Status != "success" {
			t.Logf("%s: %d %v %s", q, code, err, r.Error)
		}
		return r.Data.Result
	}
	s.until("Prometheus scrapes", func() bool {
		_, _, err := ask(t.Context(), web, "/-/ready")
		return err == nil && len(query(`up{job="kvfs"} == 1`)) == 1
	})
	for range 3 {
		s.rotate("www")
	}
	pid := s.another(0)
	s.kill(syscall.SIGKILL)
	s.another(pid)
	// A rate needs two scrapes.
	s.until("there are two scrapes of the next server, which the kernel has asked something", func() bool {
		var st unix.Statfs_t // it keeps nothing of that
		return unix.Statfs(s.store, &st) == nil && len(query(`rate(kvfs_polls_total[5m]) > 0`)) > 0 && len(query(`rate(kvfs_filesystem_requests_total[5m])`)) > 0
	})
	for _, q := range dashboardQueries(t) {
		results := query(q.query)
		if len(results) == 0 {
			t.Errorf("%s: no data for %s", q.panel, q.query)
			continue
		}
		t.Logf("%-26s %3d  %.150s", q.panel, len(results), results[0])
	}
	s.until("the alert of an end that is near is pending", func() bool {
		return len(query(`ALERTS{alertname="KvfsCertificateExpiresSoon",certificate=~".*/old"}`)) == 1
	})
	var loaded struct {
		Data struct {
			Groups []struct{ Rules []json.RawMessage }
		}
	}
	_, body := s.ask(web, "/api/v1/rules")
	if err := json.Unmarshal([]byte(body), &loaded); err != nil || len(loaded.Data.Groups) != 1 {
		t.Fatalf("%v %s", err, body)
	}
	if n := len(loaded.Data.Groups[0].Rules); n != strings.Count(string(readFile(t, rulesFile)), "- alert: ") || slices.ContainsFunc(loaded.Data.Groups[0].Rules, func(r json.RawMessage) bool { return strings.Contains(string(r), `"health":"err"`) }) {
		t.Errorf("%d rules are loaded\n%s", n, body)
	}
}
