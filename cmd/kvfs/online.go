package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"kvfs/certs"
	"kvfs/config"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/vault"
)

// checkedOnline is what a vault says to one certificate of the settings.
type checkedOnline struct {
	OK       bool          `json:"ok"`
	Version  string        `json:"version,omitempty"`
	Subject  string        `json:"subject,omitempty"`
	NotAfter *time.Time    `json:"notAfter,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
	Error    *status.Error `json:"error,omitempty"`
}

// How many certificates are fetched side by side.
const onlineConcurrency = 16

// online gets every certificate once, as a mount would, and keeps nothing.
func online(ctx context.Context, client *vault.Client, certificates []config.Certificate) []checkedOnline {
	answers := map[string]*checkedOnline{} // by the source's key
	var asking errgroup.Group
	asking.SetLimit(onlineConcurrency)
	for _, c := range certificates {
		src := source(c)
		if answers[src.Key()] != nil {
			continue
		}
		answer := &checkedOnline{}
		answers[src.Key()] = answer
		asking.Go(func() error {
			*answer = ask(ctx, client, src)
			return nil
		})
	}
	_ = asking.Wait() // what failed is in the answers
	var all []checkedOnline
	for _, c := range certificates {
		all = append(all, *answers[source(c).Key()])
	}
	return all
}

func ask(ctx context.Context, client *vault.Client, src kvsync.Source) checkedOnline {
	secret, err := client.Get(ctx, src.Identity, src.Ref)
	if err != nil {
		return checkedOnline{Error: statusError(err)}
	}
	bundle, err := certs.Parse(secret.ContentType, secret.Value.Reveal())
	if err != nil {
		return checkedOnline{Version: secret.Version, Error: statusError(err)}
	}
	return checkedOnline{OK: true, Version: secret.Version, Subject: certs.Printable(bundle.Leaf.Subject.String()),
		NotAfter: status.Time(bundle.Leaf.NotAfter), Warnings: bundle.Warnings}
}

// worstOnline is the failure that gives the exit code, nil if there is none. The
// details of all were printed.
func worstOnline(answers []checkedOnline) error {
	var refreshed []status.Refreshed
	for _, o := range answers {
		refreshed = append(refreshed, status.Refreshed{Error: o.Error})
	}
	return worst(refreshed)
}
