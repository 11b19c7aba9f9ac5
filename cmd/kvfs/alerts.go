package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"time"

	"kvfs/alert"
	"kvfs/image"
	kvsync "kvfs/sync"
)

const (
	// alertPause is for what is published in several parts: alerts are for whole pictures.
	alertPause = time.Second
	// alertLook is the longest time without a look: somebody may have set the clock.
	alertLook = time.Hour
)

// alerts says what expires and what could not be read for long, when it is time, until ctx ends.
func (d *daemon) alerts(ctx context.Context) {
	select {
	case <-d.syncer.Ready():
	case <-ctx.Done():
		return
	}
	said := d.keptAlerts()
	for {
		now := time.Now()
		w := d.wanted()
		notices, after, next := rules(w).Check(now, d.watched(w, d.syncer.Report()), said)
		for _, n := range notices {
			d.sayAlert(n)
		}
		if !maps.Equal(after, said) {
			d.keepAlerts(after)
		}
		said = after
		wait := alertLook
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		look := time.NewTimer(wait)
		select {
		case <-look.C:
		case <-ctx.Done():
		case <-d.news:
			look.Reset(alertPause)
			select {
			case <-look.C:
			case <-ctx.Done():
			}
		}
		if look.Stop(); ctx.Err() != nil {
			return
		}
	}
}

// hear tells that there may be something new to warn of.
func (d *daemon) hear() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

func rules(w wanted) alert.Rules {
	return alert.Rules{Expiry: w.cfg.Alerts.Expiry, Stale: time.Duration(w.cfg.Alerts.StaleAfter) * w.cfg.PollingInterval}
}

func (d *daemon) watched(w wanted, r kvsync.Report) (all []alert.Certificate) {
	for _, c := range r.Certificates {
		if c.State != kvsync.Removed {
			all = append(all, d.watchedOne(c))
		}
	}
	return all
}

func (d *daemon) watchedOne(c kvsync.Status) alert.Certificate {
	return alert.Certificate{Key: c.Source.Key(), URL: c.Source.Ref.String(), Version: string(c.Version), NotAfter: c.NotAfter,
		LastRead: c.LastSuccess, Since: c.Asked}
}

func (d *daemon) sayAlert(n alert.Notice) {
	url, version, span := slog.String("url", n.URL), slog.String("version", n.Version), alert.Span(n.For)
	switch n.Kind {
	case alert.Expires:
		d.log.Warn("a certificate expires soon, and no newer version has come", url, version, "in", span, "notAfter", n.NotAfter.UTC(),
			"hint", "renew it in the vault; the links follow by themselves")
	case alert.Expired:
		d.log.Error("a certificate has expired", url, version, "for", span, "notAfter", n.NotAfter.UTC(), "hint", "renew it in the vault; the links follow by themselves")
	case alert.Stale:
		d.log.Warn("nothing could be read of a certificate for long", url, version, "for", span, "hint", "see kvfs status for the reason; what was good is still served")
	}
}

// keyAlerts is the record of the image that has what was said.
const keyAlerts = "a"

// keepAlerts keeps a successor from saying it again.
func (d *daemon) keepAlerts(said alert.Said) {
	b, err := json.Marshal(said)
	change := image.Change{Key: keyAlerts, Value: b}
	if err == nil {
		err = d.image.Enter(change)
	}
	if err != nil {
		d.log.Warn("a successor would warn again of what expires", "err", err)
	}
}

func (d *daemon) keptAlerts() (said alert.Said) {
	b, ok := d.image.Get(keyAlerts)
	if !ok {
		return nil
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return nil // of another format: it is said again
	}
	return said
}
