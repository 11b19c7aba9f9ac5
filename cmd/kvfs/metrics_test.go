package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/config"
	"kvfs/keeper"
	"kvfs/status"
)

type fine struct{}

func (fine) Figures() status.Report { return status.Report{} }
func (fine) Live() *status.Error    { return nil }
func (fine) Ready() *status.Error   { return nil }

// An endpoint that ends by itself is said, and there is another one after a while, which grows if that ends too.
func TestMetricsThatEndByThemselvesComeBack(t *testing.T) {
	client, err := keeper.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	at := free.Addr().String()
	m := newMetrics(slog.New(slog.DiscardHandler), client)
	if err := m.take(config.Metrics{Listen: at}); err != nil {
		t.Fatal(err)
	}
	m.start(t.Context(), fine{})
	for _, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		answer, err := http.Get("http://" + at + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); err != nil || string(body) != "ok\n" {
			t.Errorf("%q, %v", body, err)
		}
		answer.Body.Close()
		if r := m.report(); r.Listen != at || r.Error != nil {
			t.Errorf("while it answers: %+v", r)
		}
		if err := m.now.Keep(func(_ string, fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		m.lost(<-m.broken)
		if m.retryAt.Before(before.Add(wait)) || m.retryAt.After(time.Now().Add(wait)) {
			t.Errorf("it waits until %v from %v on, want %v", m.retryAt, before, wait)
		}
		if r := m.report(); r.Listen != at || r.Error == nil || r.Error.Kind != "metrics" || !strings.Contains(r.Error.Fact, at) || r.Error.Hint == "" {
			t.Errorf("when it has ended: %+v", r.Error)
		}
		m.retry(t.Context(), fine{})
	}
	// What the settings have ended is no failure, also if it was broken before.
	former := m.now
	if err := m.set(t.Context(), fine{}, config.Metrics{}); err != nil {
		t.Fatal(err)
	}
	m.lost(broken{former, io.EOF})
	if r := m.report(); r != nil || m.alarm() != nil {
		t.Errorf("nobody wants any: %+v", r)
	}
	if got := metricsWait(100); got != lastMetricsRetry {
		t.Errorf("after 100 failures it waits for %v", got)
	}
}
