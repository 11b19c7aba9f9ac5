package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"time"

	"kvfs/alert"
	"kvfs/hook"
	kvsync "kvfs/sync"
)

const (
	// alertPause is for what is published in several parts: alerts are for whole pictures.
	alertPause = time.Second
	// alertLook is the longest time without a look: somebody may have set the clock.
	alertLook = time.Hour
	// alertRate is the shortest: a look is at all certificates, and in an outage of an hour 10,000 of them become stale one each
	// third of a second.
	alertRate = 5 * time.Second
)

// alerts says what expires and what could not be read for long, when it is time, until ctx ends.
func (d *daemon) alerts(ctx context.Context) {
	select {
	case <-d.syncer.Ready():
	case <-ctx.Done():
		return
	}
	for {
		now := time.Now()
		w := d.wanted()
		said := d.told.Said()
		notices, after, next := rules(w).Check(now, d.watched(d.syncer.Report()), said)
		for _, n := range notices {
			d.sayAlert(n)
		}
		if !maps.Equal(after, said) {
			d.told.Add(after, notices)
		}
		d.told.Look()
		d.spent.signal()
		look := time.NewTimer(untilLook(now, next))
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

// untilLook is how long nobody looks if nothing is heard. Next is when there may be something to say, zero if that is not known.
func untilLook(now, next time.Time) time.Duration {
	if next.IsZero() {
		return alertLook
	}
	return max(alertRate, min(alertLook, next.Sub(now)))
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

func (d *daemon) watched(r kvsync.Report) (all []alert.Certificate) {
	for _, c := range r.Certificates {
		if c.State != kvsync.Removed {
			all = append(all, d.watchedOne(c))
		}
	}
	return all
}

func (d *daemon) watchedOne(c kvsync.Status) alert.Certificate {
	return alert.Certificate{Key: c.Source.Key(), Name: c.Source.Ref.Vault() + "." + c.Source.Ref.Name(), URL: c.Source.Ref.String(), Version: string(c.Version), NotAfter: c.NotAfter,
		LastRead: c.LastSuccess, Since: c.Asked, Tried: c.LastAttempt}
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

// keyAlerts begins the records of the image that have what was said, and what hooks are still to be told.
const keyAlerts = "a"

func (d *daemon) newAlerts() *alert.Queue {
	return alert.NewQueue(alert.QueueOptions{Certificates: func() []alert.Certificate { return d.watched(d.syncer.Report()) },
		Pause: hook.Backoff, Records: hookRecords{d.image, keyAlerts}, Logger: d.log})
}

// alertHooks are the commands that are told of alerts.
func (d *daemon) alertHooks(w wanted) (all []alert.Hook) {
	for _, a := range w.cfg.Alerts.OnAlert {
		action := hookAction(a.Action)
		all = append(all, alert.Hook{ID: action.ID(), Name: action.String(), Tell: func(ctx context.Context, b alert.Batch) *alert.Failure {
			host, _ := os.Hostname() // which is left out if there is none
			if err := d.programs.RunCommand(ctx, action, b.Environment(), b.JSON(host)); err != nil {
				e := hook.Explained(err)
				return &alert.Failure{Fact: e.Fact, Hint: e.Hint}
			}
			return nil
		}})
	}
	return all
}

// mostRest bounds how long commands for alerts are left alone.
const mostRest = 5 * time.Minute

// alertRest is for how long after it was told a command is left alone. What cannot be read any more is noticed within one interval.
func alertRest(w wanted) time.Duration { return min(w.cfg.PollingInterval/12, mostRest) }

// tellAlerts tells the commands, until ctx ends. What is true is known when the certificates are.
func (d *daemon) tellAlerts(ctx context.Context) {
	select {
	case <-d.syncer.Ready():
		_ = d.told.Run(ctx) // its error is that of ctx
	case <-ctx.Done():
	}
}
