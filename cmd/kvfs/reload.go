package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"kvfs/acl"
	"kvfs/config"
	"kvfs/disk"
	"kvfs/fs"
	"kvfs/status"
	"kvfs/tree"
)

// Reload reads the settings again, in the goroutine that serves: two changes
// cannot meet half-way.
func (d *daemon) Reload(ctx context.Context) status.Reloaded {
	answer := make(chan status.Reloaded, 1)
	select {
	case d.reloads <- answer:
	case <-ctx.Done():
		return status.Reloaded{Error: &status.Error{Kind: "interrupted", Fact: "the settings were not read again: kvfs ends", Hint: "start it again"}}
	}
	select {
	case r := <-answer:
		return r
	case <-ctx.Done():
		return status.Reloaded{Error: &status.Error{Kind: "interrupted", Fact: "kvfs ended while it applied the settings", Hint: "start it again"}}
	}
}

// hangUp does what SIGHUP asks for: read the settings again and poll everything.
func (d *daemon) hangUp(ctx context.Context) {
	if d.origin.rereadable() {
		d.reload(ctx)
	}
	if _, err := d.Refresh(ctx, nil); err != nil && ctx.Err() == nil {
		d.log.Error("refreshing failed", "err", err)
	}
}

// reload reads the settings and applies what has changed. The outcome is logged
// too: nobody may be there who asked for it.
func (d *daemon) reload(ctx context.Context) status.Reloaded {
	before := d.wanted().cfg
	doc, cfg, problems, err := d.readAgain()
	if err == nil {
		err = d.changeSettings(ctx, doc, cfg)
	}
	r := status.Reloaded{File: d.origin.name(), Problems: []status.Problem{}}
	for _, p := range problems {
		d.log.Log(ctx, levelOf(p), "settings", "at", position(d.origin.name(), p), "fact", p.Fact, "hint", p.Hint)
		r.Problems = append(r.Problems, status.Problem{Severity: string(p.Severity), Line: p.Line, Column: p.Column, Fact: p.Fact, Hint: p.Hint})
	}
	if ctx.Err() != nil {
		r.Error = &status.Error{Kind: "interrupted", Fact: "kvfs ended while it applied the settings", Hint: "start it again"}
		return r
	}
	if err != nil {
		f := asFailure(err)
		r.Error = &status.Error{Kind: f.kind, Fact: f.fact, Hint: f.hint}
		d.log.Error("changing the settings failed; what was good is still served", "err", f.fact, "hint", f.hint)
	} else {
		r.Added, r.Changed, r.Removed = differences(before, cfg)
	}
	d.mu.Lock()
	d.refused = r.Error
	d.mu.Unlock()
	return r
}

// readAgain returns settings that can be applied, with what they were made of, or an
// error.
func (d *daemon) readAgain() (document, *config.Config, config.Problems, error) {
	if !d.origin.rereadable() {
		return document{}, nil, nil, fail(exitSettings, "settings", "start kvfs again with others", "the settings came from %s, which cannot be read again", d.origin.name())
	}
	text, err := d.origin.read(nil)
	if err != nil {
		return document{}, nil, nil, err
	}
	cfg, stores, problems, err := d.origin.parse(text, finder{served: d.fs.Mounts(), known: d.wanted().doc.Stores})
	if err != nil {
		return document{}, nil, nil, err
	}
	doc := document{Text: text, Since: time.Now(), Stores: stores}
	if cfg != nil {
		if err := doc.readBeside(cfg); err != nil {
			f := asFailure(err)
			problems = append(problems, config.Problem{Severity: config.Error, Line: 1, Column: 1, Fact: f.fact, Hint: f.hint})
		} else {
			problems = append(problems, d.admit(doc, cfg)...)
		}
	}
	if errs := problems.Errors(); errs != nil {
		return document{}, nil, problems, fail(exitSettings, "settings", errs[0].Hint, "%s: %s", position(d.origin.name(), errs[0]), errs[0].Fact)
	}
	return doc, cfg, problems, nil
}

// rereadable tells whether the settings are in a file, which may have changed.
func (o origin) rereadable() bool { return o.file != "" && o.file != "-" }

// admit finds everything that keeps settings from being applied to what is served
// now, before anything changes.
func (d *daemon) admit(doc document, cfg *config.Config) (problems config.Problems) {
	next, seen := d.wanted().with(doc, cfg), map[string]bool{}
	if err := next.checkPersistent(d.app.server.unit); err != nil {
		f := asFailure(err)
		return config.Problems{{Severity: config.Error, Line: 1, Column: 1, Fact: f.fact, Hint: f.hint}}
	}
	problems = next.checkHooks(d.app.server.unit)
	for _, c := range cfg.Certificates {
		if seen[c.Store] {
			continue
		}
		seen[c.Store] = true
		if err := d.admitStore(c.Store, next); err != nil {
			f := asFailure(err)
			problems = append(problems, config.Problem{Severity: config.Error, Line: c.Line, Column: c.Column, Fact: f.fact, Hint: f.hint})
		}
	}
	if err := checkLogFile(next, d.fs.Mounts()); err != nil {
		f := asFailure(err)
		problems = append(problems, config.Problem{Severity: config.Error, Line: 1, Column: 1, Fact: f.fact, Hint: f.hint})
	}
	if problems != nil {
		return problems
	}
	return d.rehearse(next)
}

// admitStore tells why a store cannot be shown beside those that are.
func (d *daemon) admitStore(store string, next wanted) error {
	visible := d.fs.Mounts()
	instead := next.persistent(store).Files == filesInstead
	const restart = "stop kvfs and start it again"
	switch was := slices.Contains(d.disks.paths(), store) && d.wanted().persistent(store).Files == filesInstead; {
	case slices.Contains(visible, store) && instead, was && !instead:
		return &failure{fact: fmt.Sprintf("the store %s is to have real files instead of a mount, or the other way round, which cannot change while it is served", store), hint: restart}
	case slices.Contains(visible, store):
		return nil
	case was && d.disks.hangs():
		return nil
	case instead:
		return checkDisk(store, d.diskOptions(next, store), was)
	case d.serving == nil:
		return &failure{fact: fmt.Sprintf("the store %s is to be mounted, and this kvfs has begun without any mount", store), hint: restart}
	}
	if d.fs.Fixed() {
		return &failure{fact: fmt.Sprintf("the store %s was not there at the start: %v", store, fs.ErrFixed), hint: "stop kvfs and start it again"}
	}
	for _, at := range visible {
		if strings.HasPrefix(at, store+"/") {
			return &failure{fact: fmt.Sprintf("the store %s lies around %s, which is served", store, at), hint: "restart kvfs: it cannot put a store around another one while it serves"}
		}
	}
	if isInside(store, append(next.stores(nil), visible...)) {
		return nil
	}
	err, ok := within(diskPatience, func() error {
		_, err := checkStore(store, next.stores(nil), d.ownFiles(next.cfg)...)
		return err
	})
	if !ok {
		return hungDirectory(store)
	}
	return err
}

func hungDirectory(path string) error {
	return &failure{fact: fmt.Sprintf("the directory %s has not answered for %v", path, diskPatience), hint: hungDiskHint}
}

// checkDisk is disk.Check that does not wait for ever. A directory that has files already and does not answer keeps
// nothing else in the settings from being applied.
func checkDisk(store string, o disk.Options, has bool) error {
	err, ok := within(diskPatience, func() error { return disk.Check(store, o) })
	if !ok && !has {
		return hungDirectory(store)
	}
	return err
}

// rehearse builds the names of what is to be served, of which two may clash in a
// way that the document alone does not show.
func (d *daemon) rehearse(next wanted) config.Problems {
	refused := func(fact, hint string) config.Problems {
		return config.Problems{{Severity: config.Error, Line: 1, Column: 1, Fact: fact, Hint: hint}}
	}
	spec := next.spec(acl.Lookup{})
	spec.Stores = union(d.stores(next), next.real())
	snapshot, err := d.syncer.Rehearse(spec)
	var clash *tree.Clash
	if errors.As(err, &clash) {
		return refused(clash.Error(), "give one of them another name or store, or wait until the other one is gone")
	}
	if name := tree.Obstacle(d.fs.Snapshot(), snapshot); name != "" {
		return refused(fmt.Sprintf("%q is to become a directory, or was one", name), "restart kvfs: it cannot change that while it serves")
	}
	return nil
}

func (d *daemon) changeSettings(ctx context.Context, doc document, cfg *config.Config) error {
	now := d.wanted()
	next := now.with(doc, cfg)
	if !reflect.DeepEqual(now.cfg.Transport, cfg.Transport) || !bytes.Equal(now.doc.CA, doc.CA) {
		var err error
		if next.vault, err = newVault(d.origin, cfg, d.app, doc.CA); err != nil {
			return err
		}
	}
	if coming := d.coming(next); len(coming) > 0 {
		err, ok := within(diskPatience, func() error { return d.prepareComing(next) })
		if !ok {
			err = hungDirectory(strings.Join(coming, ", "))
		}
		if err != nil {
			return err
		}
	}
	if err := d.metrics.set(ctx, d, cfg.Metrics); err != nil {
		return err
	}
	d.good.take(d.readFiles(next, d.unread(next)))
	defer d.good.forget()
	d.logIgnored(cfg)
	d.set(next)
	if err := d.settle(ctx); err != nil {
		return err
	}
	d.log.Info("settings applied", "file", d.origin.file, "certificates", len(cfg.Certificates), "removed", len(next.removed))
	return nil
}

// set makes it what is wanted, for a successor too.
func (d *daemon) set(w wanted) {
	if err := keepDocuments(d.image, w); err != nil {
		d.log.Error("a successor would go by the former settings", "err", err)
	}
	d.audit.set(w)
	d.told.Set(d.alertHooks(w), rules(w), alertRest(w))
	d.mu.Lock()
	d.now = w
	d.mu.Unlock()
	d.app.log().Configure(d.app.serverLog(w.cfg))
	d.hear()
}

// expire takes away what was removed long enough ago.
func (d *daemon) expire(ctx context.Context) {
	now := d.wanted()
	next := now.next(now.cfg, time.Now())
	d.set(next)
	if err := d.settle(ctx); err == nil {
		d.log.Info("removed entries are gone", "entries", len(now.removed)-len(next.removed), "left", len(next.removed))
	}
}

// settlePause is how long after a failure what is shown is led to what is wanted
// again.
const settlePause = 10 * time.Second

// settle leads what is shown to what is wanted: names that come, with the stores
// that are there; stores that go and come; the directories of those that have gone.
// What fails is tried again.
func (d *daemon) settle(ctx context.Context) error {
	w, before := d.wanted(), d.fs.Mounts()
	after := d.stores(w)
	d.disks.set(ctx, w)
	err := d.syncer.Change(ctx, d.settings(w, slices.Concat(before, after, d.disks.paths())))
	if err == nil && !sameSet(before, after) {
		if err = d.fs.Show(after); err == nil {
			err = d.syncer.Change(ctx, d.settings(w, after))
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		d.disks.end(ctx, w)
	}
	unsettled := (*status.Error)(nil)
	if err != nil {
		unsettled = &status.Error{Kind: "publish", Fact: fmt.Sprintf("the settings are taken over, but not all of them is shown yet: %v", err),
			Hint: "it is tried again by itself; see the log"}
		d.log.Error("what is wanted is not shown yet", "err", err)
	}
	d.mu.Lock()
	d.unsettled, d.settleAt = unsettled, time.Now().Add(settlePause)
	d.mu.Unlock()
	if err != nil {
		return &failure{code: exitFailed, kind: unsettled.Kind, fact: unsettled.Fact, hint: unsettled.Hint, err: err}
	}
	return nil
}

// alarm fires when there is something to do that nobody asks for: a removed entry
// has to go, or what failed is to be tried again.
func (d *daemon) alarm() <-chan time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.now.expiry()
	if d.unsettled != nil { // nothing before that, or it would be tried without a pause
		at = d.settleAt
	}
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

func levelOf(p config.Problem) slog.Level {
	if p.Severity == config.Error {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
