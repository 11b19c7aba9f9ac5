package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// full is a report with something of everything.
func full() Report {
	day := func(n int) *time.Time { return Time(time.Unix(1e9, 0).AddDate(0, 0, n)) }
	wrong := &Error{Kind: "publish", Fact: "fact"}
	const www = "https://Contoso-web.vault.azure.net/secrets/www"
	return Report{State: Degraded, Version: "1.2", Started: *day(0), Processes: Processes{Keeper: 1, Server: 2}, Mounts: []string{"/a", "/b"},
		Directories: []Directory{{Path: "/c", Files: "instead"}, {Path: "/a", Files: "beneath", Error: wrong}}, Error: wrong,
		Restarts: Restarts{Parked: 2, Died: 3}, Polls: Polls{Tries: 9, Failed: 4, Publications: 5, Unpublished: 1, Renewals: 2}, Stalls: Stalls{Request: 0.25, Takeover: 0.05},
		InitialSync: InitialSync{State: SyncSuccess}, Loading: &Loading{Done: 1, Total: 7}, Requests: map[string]uint64{"LOOKUP": 11, "READ": 12},
		Certificates: []Certificate{
			{URL: www, State: "ok", Version: "v2", NotBefore: day(-9), NotAfter: day(90), LastAttempt: day(1), LastSuccess: day(1), Identity: "managed identity"},
			{URL: www + "/v1", State: "stale", Version: "v1", NotAfter: day(3), LastAttempt: day(2), LastSuccess: day(1), Failures: 7, Identity: "managed identity"},
			{URL: "https://b.vault.azure.net/secrets/two", State: "ok", Version: "x", NotAfter: day(9), LastSuccess: day(1), Identity: "A"},
			{URL: "https://b.vault.azure.net/secrets/two", State: "missing", LastAttempt: day(1), Identity: "B"},
			{URL: "https://b.vault.azure.net/secrets/gone", State: "removed", Version: "y", NotAfter: day(9)},
			{URL: "https://b.vault.azure.net/secrets/new", State: "pending", Identity: "A \"quoted\" \xff"},
		},
		Vaults: []Vault{{Host: "contoso-web.vault.azure.net", Transactions: 40, Throttled: 3, Failed: 2, Listing: "used", Pages: 2}, {Host: "b.vault.azure.net", Listing: "unused", DownSince: day(1)}},
		Hooks: []Hook{{Action: "reload nginx.service", Runs: 4, LastSuccess: day(2)}, {Action: "reload nginx.service", Runs: 1, Failures: 3, Pending: []string{"a", "b"}, LastSuccess: day(1)},
			{Action: "command /bin/x --token s3cret", Failures: 1, Pending: []string{"a"}, Error: wrong},
			{On: OnAlert, Action: "command /bin/x --token s3cret", Failures: 2, Pending: []string{"a", "b", "c"}, Error: wrong}, {On: OnAlert, Action: "the chat", Runs: 7}},
		Audit: &Audit{Opens: 12, Users: map[string]uint64{"33": 9, "unknown": 3}, Dropped: 2, Lost: 1, Overflow: 4, Gone: 3, WaitingLines: 8},
		Held:  Held{Versions: 3, Bytes: 4000}, Cache: Cache{Versions: 1, Bytes: 10, Limit: 100, Hits: 5, Misses: 4, Evictions: 3, Failures: 2}, Image: Image{Records: 8, Bytes: 900, Size: 4096, Secret: true},
	}
}

// scrape is what a Prometheus gets, without the metrics of the process and the runtime.
func scrape(t testing.TB, report func() Report) string {
	t.Helper()
	w := &answer{header: http.Header{}}
	newMux(prober{report}).ServeHTTP(w, mustRequest(t, "/metrics"))
	if w.code != 0 && w.code != http.StatusOK {
		t.Fatalf("%d %s", w.code, &w.body)
	}
	var ours []string
	for line := range strings.Lines(w.body.String()) {
		if strings.HasPrefix(line, "kvfs_") || strings.HasPrefix(line, "# TYPE kvfs_") {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "")
}

// answer is an http.ResponseWriter that keeps what is written.
type answer struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

func mustRequest(t testing.TB, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://kvfs"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type prober struct{ report func() Report }

func (p prober) Figures() Report { return p.report() }
func (p prober) Live() *Error    { return nil }
func (p prober) Ready() *Error   { return &Error{Fact: "not yet", Hint: "wait"} }

func TestMetricsSayWhatTheReportDoes(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "metrics.txt"))
	if err != nil {
		t.Fatal(err)
	}
	got := scrape(t, full)
	if got != string(want) {
		t.Errorf("it is another one than testdata/metrics.txt:\n%s", got)
	}
	if strings.Contains(got, "gone") {
		t.Error("a certificate that the settings have no more is there")
	}
}

// What is documented is what there is, in a report that has something of everything.
func TestFamiliesAreThoseOfAScrape(t *testing.T) {
	text := scrape(t, full)
	for _, f := range Families() {
		kind := "gauge"
		if f.Counter {
			kind = "counter"
		}
		if !strings.Contains(text, "# TYPE "+f.Name+" "+kind+"\n") {
			t.Errorf("%s is not in a scrape as a %s", f.Name, kind)
		}
		if strings.HasSuffix(f.Name, "_total") != f.Counter || f.Help == "" {
			t.Errorf("%s: %q", f.Name, f.Help)
		}
	}
	if n := strings.Count(text, "# TYPE "); n != len(Families()) {
		t.Errorf("%d families in a scrape, %d are documented", n, len(Families()))
	}
}

// An empty report is one, too.
func TestMetricsOfNothing(t *testing.T) {
	if text := scrape(t, func() Report { return Report{} }); !strings.Contains(text, `kvfs_certificates{state="ok"} 0`) {
		t.Errorf("%s", text)
	}
}

// Of two certificates that nothing tells apart one is shown, and the scrape does not fail.
func TestCertificatesThatNothingTellsApart(t *testing.T) {
	twice := func() Report {
		c := Certificate{URL: "https://a.vault.azure.net/secrets/x", State: "ok", Identity: "A"}
		return Report{Certificates: []Certificate{c, c}, Vaults: []Vault{{Host: "a"}, {Host: "a:443"}}}
	}
	text := scrape(t, twice)
	if n := strings.Count(text, "kvfs_certificate_state{"); n != 1 || !strings.Contains(text, `kvfs_certificates{state="ok"} 2`) || strings.Count(text, "kvfs_vault_up{") != 1 {
		t.Errorf("%s", text)
	}
}

// listenAt answers at an endpoint until the test ends, or stop is called.
func listenAt(t *testing.T, e *Endpoint, p Prober) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done, ended := make(chan error, 1), false
	go func() { done <- e.Serve(ctx, p) }()
	stop = func() {
		if cancel(); !ended {
			ended = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func get(t *testing.T, network, address, path string) (code int, body string) {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	res, err := c.Do(mustRequest(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// Nothing but metrics and probes is to be had there: nobody is asked who he is.
func TestEndpointAnswersMetricsAndProbesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "metrics.sock")
	e, err := OpenEndpoint(Address{Listen: path, Mode: 0o640, Group: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	listenAt(t, e, prober{full})
	for _, test := range []struct {
		path string
		code int
		body string
	}{
		{"/metrics", 200, "kvfs_server_restarts_total{cause=\"died\"} 3\n"},
		{"/metrics", 200, "process_cpu_seconds_total"},
		{"/metrics", 200, "go_goroutines"},
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, "error: not yet\nhint: wait\n"},
		{"/status", 404, ""}, {"/stop", 404, ""}, {"/debug/pprof/", 404, ""}, {"/", 404, ""},
	} {
		if code, body := get(t, "unix", path, test.path); code != test.code || !strings.Contains(body, test.body) {
			t.Errorf("%s: %d %s", test.path, code, body)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Error(fi, err)
	}
	if err := e.Change(Address{Listen: path, Mode: 0o600, Group: -1}); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi, err)
	}
	if _, err := OpenEndpoint(Address{Listen: path, Group: -1}); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Error("a second one:", err)
	}
	e.Remove()
}

// Who connects while there is no server waits for the next, at both kinds of address.
func TestEndpointIsKeptForTheNext(t *testing.T) {
	for network, listen := range map[string]string{"unix": filepath.Join(t.TempDir(), "metrics.sock"), "tcp": freePort(t)} {
		at := Address{Listen: listen, Mode: 0o600, Group: -1}
		e, err := OpenEndpoint(at)
		if err != nil {
			t.Fatal(err)
		}
		kept := map[string]int{}
		if err := e.Keep(func(name string, fd int) (err error) { kept[name], err = unix.Dup(fd); return err }); err != nil {
			t.Fatal(err)
		}
		stop := listenAt(t, e, prober{full})
		if code, _ := get(t, network, listen, "/healthz"); code != 200 {
			t.Error(network, code)
		}
		stop()
		answered := make(chan int, 1)
		go func() {
			code, _ := get(t, network, listen, "/healthz") // waits
			answered <- code
		}()
		take := func(name string) (int, bool) { fd, ok := kept[name]; return fd, ok }
		if other, err := ResumeEndpoint(Address{Listen: "127.0.0.1:1"}, take); other != nil || err != nil {
			t.Error("one for another address:", other, err)
		}
		next, err := ResumeEndpoint(at, take)
		if err != nil || next == nil {
			t.Fatal(next, err)
		}
		listenAt(t, next, prober{full})
		if code := <-answered; code != 200 {
			t.Error(network, code)
		}
	}
}

// Who connects and does not ask, or does not come to an end with it, is not waited for: there is room for few.
func TestWhoDoesNotAskIsNotWaitedFor(t *testing.T) {
	e, err := OpenEndpoint(Address{Listen: freePort(t), Group: -1})
	if err != nil {
		t.Fatal(err)
	}
	e.patience = 100 * time.Millisecond
	listenAt(t, e, prober{full})
	for _, said := range []string{"", "GET /metrics HT", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: ", "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"} {
		c, err := net.Dial("tcp", e.at.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, said); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // which no machine takes to close it
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q it waits for more", said)
		}
	}
	if usual := (&Endpoint{}).server(prober{full}).ReadTimeout; usual != 5*time.Second {
		t.Errorf("the usual patience is %v", usual)
	}
}

// Addresses that overlap follow one another, and whoever connects meanwhile is answered; where somebody else has the
// port, all stays as it was.
func TestEndpointMovesBesideItself(t *testing.T) {
	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	now, err := OpenEndpoint(Address{Listen: "127.0.0.1:" + port, Group: -1})
	if err != nil {
		t.Fatal(err)
	}
	stop := listenAt(t, now, prober{full})
	answers := func(when string) {
		t.Helper()
		if code, _ := get(t, "tcp", "127.0.0.1:"+port, "/healthz"); code != 200 {
			t.Error(when, code)
		}
	}
	for _, listen := range []string{"0.0.0.0:" + port, "127.0.0.1:" + port, "localhost:" + port, "[::]:" + port, "127.0.0.1:" + port} {
		next, err := now.Beside(Address{Listen: listen, Group: -1})
		if err != nil {
			t.Fatalf("from %s to %s: %v", now.at.Listen, listen, err)
		}
		former := stop
		now, stop = next, listenAt(t, next, prober{full})
		answers("beside the former")
		former()
		answers(listen)
		if _, err := OpenEndpoint(Address{Listen: listen, Group: -1}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second one at %s: %v", listen, err)
		}
	}
	taken, err := OpenEndpoint(Address{Listen: freePort(t), Group: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if next, err := now.Beside(Address{Listen: taken.listener.Addr().String(), Group: -1}); next != nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("at the port of somebody else: %v, %v", next, err)
	}
	answers("where it stays")
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWhereNobodyCanListen(t *testing.T) {
	dir := t.TempDir()
	file, dead := filepath.Join(dir, "file"), filepath.Join(dir, "dead.sock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEndpoint(Address{Listen: file, Group: -1}); err == nil {
		t.Error("a file was replaced")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	e, err := OpenEndpoint(Address{Listen: dead, Mode: 0o600, Group: -1})
	if err != nil {
		t.Fatal("the socket of a dead process is in the way:", err)
	}
	e.Close()
	if err := os.Chmod(dir, 0o777); err != nil { // others could put what they like in the place of the socket
		t.Fatal(err)
	}
	if _, err := OpenEndpoint(Address{Listen: filepath.Join(dir, "open.sock"), Mode: 0o666, Group: -1}); err == nil || !strings.Contains(err.Error(), "is writable by others") {
		t.Error("in a directory of everybody:", err)
	}
	taken, err := OpenEndpoint(Address{Listen: freePort(t), Group: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := OpenEndpoint(Address{Listen: taken.listener.Addr().String(), Group: -1}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error(err)
	}
}

// BenchmarkScrape is what one costs with ten thousand certificates.
func BenchmarkScrape(b *testing.B) {
	r := full()
	r.Certificates = nil
	for i := range 10_000 {
		at := Time(time.Unix(1e9+int64(i), 0))
		r.Certificates = append(r.Certificates, Certificate{URL: fmt.Sprintf("https://contoso-web.vault.azure.net/secrets/name%05d", i), State: "ok", Version: fmt.Sprintf("%032x", i),
			NotBefore: at, NotAfter: at, LastAttempt: at, LastSuccess: at, Identity: "system-assigned managed identity"})
	}
	mux := newMux(prober{func() Report { return r }})
	b.ReportAllocs()
	for b.Loop() {
		w := &discarded{answer: answer{header: http.Header{}}}
		mux.ServeHTTP(w, mustRequest(b, "/metrics"))
		b.SetBytes(w.n)
	}
}

// discarded counts what is written.
type discarded struct {
	answer
	n int64
}

func (d *discarded) Write(b []byte) (int, error) {
	d.n += int64(len(b))
	return len(b), nil
}
