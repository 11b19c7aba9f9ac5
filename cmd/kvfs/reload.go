package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"kvfs/acl"
	"kvfs/config"
	"kvfs/fs"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
	"kvfs/vault"
)

// wanted is what a daemon is to serve: what the settings say, and for a while
// what they have said.
type wanted struct {
	cfg     *config.Config
	removed []removed
	vault   *vault.Client
}

// removed is an entry that the settings have no more.
type removed struct {
	config.Certificate
	until time.Time
}

// certificates are all entries, the removed ones last.
func (w wanted) certificates() []config.Certificate {
	all := slices.Clone(w.cfg.Certificates)
	for _, r := range w.removed {
		all = append(all, r.Certificate)
	}
	return all
}

func (w wanted) stores() []string { return storesOf(w.certificates()) }

// spec is how everything is shown, and which users do not exist.
func (w wanted) spec(lookup acl.Lookup) (tree.Spec, []acl.Unknown) {
	entries, unknown := entries(w.certificates(), lookup)
	for i := len(w.cfg.Certificates); i < len(entries); i++ {
		entries[i].Retired = true
	}
	return tree.Spec{Layouts: layouts(w.cfg), Entries: entries}, unknown
}

// next is what is to be served under other settings: of what they have no more,
// names stay for as long as they say.
func (w wanted) next(cfg *config.Config, client *vault.Client, now time.Time) wanted {
	type place struct{ store, name, url, link string }
	of := func(c config.Certificate) place {
		return place{c.Store, c.Ref.Vault() + "." + c.Ref.Name(), c.Ref.Key(), c.LinkName}
	}
	stays := map[place]bool{}
	for _, c := range cfg.Certificates {
		stays[of(c)] = true
	}
	n := wanted{cfg: cfg, vault: client}
	retire := func(c config.Certificate, until time.Time) {
		if until.After(now) && !stays[of(c)] {
			stays[of(c)] = true
			n.removed = append(n.removed, removed{c, until})
		}
	}
	end := now.Add(cfg.RemovalGrace)
	for _, c := range w.cfg.Certificates {
		retire(c, end)
	}
	for _, r := range w.removed {
		retire(r.Certificate, earlier(r.until, end))
	}
	return n
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// expiry fires when the first removed entry is to go; never if there is none.
func (w wanted) expiry() <-chan time.Time {
	if len(w.removed) == 0 {
		return nil
	}
	first := slices.MinFunc(w.removed, func(a, b removed) int { return a.until.Compare(b.until) })
	return time.After(time.Until(first.until))
}

// removedAt is when the last entry of a source goes.
func (w wanted) removedAt(src kvsync.Source) (at time.Time) {
	for _, r := range w.removed {
		if source(r.Certificate) == src && r.until.After(at) {
			at = r.until
		}
	}
	return at
}

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
	r := status.Reloaded{File: d.origin.name(), Problems: []status.Problem{}}
	cfg, problems, err := d.readAgain()
	for _, p := range problems {
		d.log.Log(ctx, levelOf(p), "settings", "at", position(d.origin.name(), p), "fact", p.Fact, "hint", p.Hint)
		r.Problems = append(r.Problems, status.Problem{Severity: string(p.Severity), Line: p.Line, Column: p.Column, Fact: p.Fact, Hint: p.Hint})
	}
	if err == nil {
		err = d.changeSettings(ctx, cfg)
	}
	if err != nil {
		f := asFailure(err)
		r.Error = &status.Error{Kind: f.kind, Fact: f.fact, Hint: f.hint}
		d.log.Error("changing the settings failed; what was good is still served", "err", f.fact, "hint", f.hint)
	}
	d.mu.Lock()
	d.refused = r.Error
	d.mu.Unlock()
	return r
}

// readAgain returns settings that can be applied, or an error.
func (d *daemon) readAgain() (*config.Config, config.Problems, error) {
	if !d.origin.rereadable() {
		return nil, nil, fail(exitSettings, "settings", "start kvfs again with others", "the settings came from %s, which cannot be read again", d.origin.name())
	}
	cfg, problems, err := d.origin.load(nil)
	if err == nil && cfg == nil {
		errs := problems.Errors()
		err = fail(exitSettings, "settings", errs[0].Hint, "%s: %s", position(d.origin.name(), errs[0]), errs[0].Fact)
	}
	return cfg, problems, err
}

// rereadable tells whether the settings are in a file, which may have changed.
func (o origin) rereadable() bool { return o.file != "" && o.file != "-" }

func (d *daemon) changeSettings(ctx context.Context, cfg *config.Config) error {
	now := d.wanted()
	client := now.vault
	if !reflect.DeepEqual(now.cfg.Transport, cfg.Transport) {
		var err error
		if client, err = newVault(d.origin, cfg, d.app); err != nil {
			return err
		}
	}
	next := now.next(cfg, client, time.Now())
	if err := d.apply(ctx, next); err != nil {
		return err
	}
	d.logIgnored(cfg)
	d.log.Info("settings applied", "file", d.origin.file, "certificates", len(cfg.Certificates), "removed", len(next.removed))
	return nil
}

// expire takes away what was removed long enough ago.
func (d *daemon) expire(ctx context.Context) {
	now := d.wanted()
	next := now.next(now.cfg, now.vault, time.Now())
	if err := d.apply(ctx, next); err != nil && ctx.Err() == nil {
		f := asFailure(err)
		d.log.Error("taking removed certificates away failed", "err", f.fact, "hint", f.hint)
		return
	}
	d.log.Info("removed certificates are gone", "left", len(next.removed))
}

// apply leads what is served to next. What can fail comes first, and up to there
// an error changes nothing; then stores that go, names, and stores that come.
func (d *daemon) apply(ctx context.Context, next wanted) error {
	before, after := d.wanted().stores(), next.stores()
	if err := checkNested(after); err != nil {
		return err
	}
	if rootless() && !sameSet(before, after) {
		return &failure{code: exitSettings, kind: "settings", fact: fs.ErrFixed.Error(), hint: "restart kvfs", err: fs.ErrFixed}
	}
	var come []string
	for _, store := range after {
		if !slices.Contains(before, store) {
			come = append(come, store)
		}
	}
	if err := d.prepareStores(come, next); err != nil {
		return err
	}
	stay := slices.DeleteFunc(slices.Clone(before), func(store string) bool { return !slices.Contains(after, store) })
	if err := d.fs.Show(stay); err != nil {
		return err
	}
	d.mu.Lock()
	d.now = next
	d.mu.Unlock()
	if err := errors.Join(d.syncer.Change(ctx, d.settings(next)), d.fs.Show(after)); err != nil {
		return fmt.Errorf("the settings are taken over, but not all of them is shown yet: %w", err)
	}
	return nil
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
