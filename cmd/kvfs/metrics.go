package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"

	"kvfs/config"
	"kvfs/keeper"
	"kvfs/status"
)

// Waits until it is tried again to listen for metrics: the first after a failure, and the last of those that grow.
const (
	firstMetricsRetry = time.Second
	lastMetricsRetry  = time.Minute
)

// metricsWait is how long to wait after so many failures in a row.
func metricsWait(failures int) time.Duration {
	return min(firstMetricsRetry<<min(failures-1, 10), lastMetricsRetry)
}

// metrics is where metrics and probes are answered, if the settings ask for that.
type metrics struct {
	log    *slog.Logger
	client *keeper.Client
	work   sync.WaitGroup
	// broken has one that does not answer any more, though nobody has ended it.
	broken chan broken
	// failures to listen or to answer, one upon another: with not even lastMetricsRetry between them. The goroutine
	// that serves alone counts them.
	failures int

	// What follows is that of the goroutine that serves, and mu is held to change it.
	mu      sync.Mutex
	wanted  config.Metrics
	now     *listening // nil: nobody listens
	err     *status.Error
	retryAt time.Time // zero: nothing has failed
}

func newMetrics(log *slog.Logger, client *keeper.Client) *metrics {
	return &metrics{log: log, client: client, broken: make(chan broken, 1)}
}

// broken is an endpoint with what has ended it.
type broken struct {
	*listening
	err error
}

// listening is an endpoint that is there, and answers from start on.
type listening struct {
	*status.Endpoint
	at    status.Address
	stop  context.CancelFunc // nil before start
	began time.Time
	ended chan struct{}
}

// take takes over what a predecessor has left for these settings, or listens. What else it
// has left is given up.
func (m *metrics) take(cfg config.Metrics) error {
	m.wanted = cfg
	kept := ""
	if cfg.Listen != "" {
		kept = status.Address{Listen: cfg.Listen}.KeptName()
	}
	var errs []error
	for _, name := range m.client.Names() {
		if status.IsKeptEndpoint(name) && name != kept {
			errs = append(errs, m.client.Drop(name))
		}
	}
	if cfg.Listen != "" {
		errs = append(errs, m.open(cfg))
	}
	return errors.Join(errs...)
}

// open takes over or listens, beside what is there, and has it kept.
func (m *metrics) open(cfg config.Metrics) error {
	at, err := addressOf(cfg)
	if err != nil {
		return err
	}
	e, err := status.ResumeEndpoint(at, m.client.Take)
	switch {
	case err != nil:
		return err
	case e != nil:
		m.now = &listening{Endpoint: e, at: at}
		return nil
	}
	open := status.OpenEndpoint
	if m.now != nil {
		open = m.now.Beside
	}
	if e, err = open(at); err != nil {
		return explainListening(cfg, err)
	}
	if err := e.Keep(m.client.Keep); err != nil {
		m.log.Warn("a scrape will fail while this process is replaced", "err", err)
	}
	m.now = &listening{Endpoint: e, at: at}
	return nil
}

// start lets it answer until ctx ends.
func (m *metrics) start(ctx context.Context, p status.Prober) {
	l := m.now
	if l == nil || l.stop != nil {
		return
	}
	ctx, l.stop = context.WithCancel(ctx)
	l.began, l.ended = time.Now(), make(chan struct{})
	m.work.Go(func() {
		err := l.Serve(ctx, p)
		close(l.ended)
		if err == nil {
			return
		}
		select {
		case m.broken <- broken{l, err}:
		case <-ctx.Done():
		}
	})
	m.log.Info("metrics and probes are answered", "at", l.at.Listen)
}

// lost gives up an endpoint that does not answer any more. It is tried again to have another one there.
func (m *metrics) lost(b broken) {
	b.stop()
	if b.listening != m.now { // the settings have ended it meanwhile
		return
	}
	m.log.Error("metrics are not answered any more; it is tried again", "at", b.at.Listen, "err", b.err)
	b.Remove()
	if err := m.client.Drop(b.at.KeptName()); err != nil {
		m.log.Warn("the keeper does not listen", "err", err)
	}
	if time.Since(b.began) > lastMetricsRetry {
		m.failures = 0
	}
	m.now = nil
	m.note(m.wanted, &failure{code: exitFailed, kind: "metrics", fact: fmt.Sprintf("kvfs.metrics: %v", b.err), hint: "it is tried again by itself; see the log", err: b.err})
}

// set follows changed settings. Where that fails all stays as it was.
func (m *metrics) set(ctx context.Context, p status.Prober, cfg config.Metrics) error {
	if cfg == m.wanted { // what could not be had is tried again by itself
		return nil
	}
	before := m.now
	switch {
	case cfg.Listen == "":
		m.now = nil
	case before != nil && before.at.Listen == cfg.Listen:
		at, err := addressOf(cfg)
		if err == nil {
			err = before.Change(at)
		}
		if err != nil {
			return explainListening(cfg, err)
		}
		before.at = at
	default:
		if err := m.open(cfg); err != nil {
			return err
		}
		m.start(ctx, p)
	}
	if before != nil && before != m.now {
		m.end(before)
	}
	m.failures = 0
	m.note(cfg, nil)
	return nil
}

// end gives up an endpoint for good.
func (m *metrics) end(l *listening) {
	l.stop()
	<-l.ended
	l.Remove()
	if err := m.client.Drop(l.at.KeptName()); err != nil {
		m.log.Warn("the keeper does not listen", "err", err)
	}
	m.log.Info("metrics and probes are answered no more", "at", l.at.Listen)
}

// note keeps for the status what came of trying to listen.
func (m *metrics) note(cfg config.Metrics, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted, m.err, m.retryAt = cfg, nil, time.Time{}
	if err != nil {
		f := asFailure(err)
		m.failures++
		m.err, m.retryAt = &status.Error{Kind: "metrics", Fact: f.fact, Hint: f.hint}, time.Now().Add(metricsWait(m.failures))
	}
}

// alarm fires when what has failed is to be tried again.
func (m *metrics) alarm() <-chan time.Time {
	if m.retryAt.IsZero() {
		return nil
	}
	return time.After(time.Until(m.retryAt))
}

// retry listens if that has failed before.
func (m *metrics) retry(ctx context.Context, p status.Prober) {
	cfg := m.wanted
	err := m.open(cfg)
	if err == nil {
		m.start(ctx, p)
	}
	m.note(cfg, err)
}

// report is nil where the settings ask for nothing.
func (m *metrics) report() *status.Metrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wanted.Listen == "" {
		return nil
	}
	return &status.Metrics{Listen: m.wanted.Listen, Error: m.err}
}

// remove takes away what is left of it when there is to be no successor.
func (m *metrics) remove() {
	if m.now != nil {
		m.now.Remove()
	}
}

// addressOf looks the group up.
func addressOf(cfg config.Metrics) (status.Address, error) {
	at := status.Address{Listen: cfg.Listen, Mode: cfg.Mode, Group: -1}
	if cfg.Group == "" {
		return at, nil
	}
	if id, err := strconv.ParseUint(cfg.Group, 10, 32); err == nil {
		at.Group = int(id)
		return at, nil
	}
	g, err := user.LookupGroup(cfg.Group)
	if err != nil {
		return at, &failure{code: exitFailed, kind: "metrics", fact: fmt.Sprintf("kvfs.metrics.group: group %q does not exist on this machine", cfg.Group),
			hint: "create the group, or give its numeric id", err: err}
	}
	at.Group, err = strconv.Atoi(g.Gid)
	return at, err
}

// explainListening says what to do where nobody can listen.
func explainListening(cfg config.Metrics, err error) error {
	f := &failure{code: exitFailed, kind: "metrics", fact: fmt.Sprintf("kvfs.metrics: %v", err), err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		f.hint = "another program listens there, perhaps another kvfs: choose another port or path"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		f.hint = "choose an address of this machine, such as 127.0.0.1"
	case errors.Is(err, os.ErrPermission) && cfg.Group != "":
		f.hint = `only root can give it to any group: leave the group out and write "mode": "0666", or listen at a loopback address`
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		f.hint = "choose a directory that kvfs may write, such as /run/kvfs, or a port above 1023"
	case errors.Is(err, os.ErrExist):
		f.hint = "choose a path where nothing is"
	default:
		f.hint = "choose another address or path"
	}
	return f
}
