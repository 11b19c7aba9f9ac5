package main

import (
	"context"
	"errors"
	"time"

	"kvfs/certs"
	"kvfs/chain"
	"kvfs/config"
	kvsync "kvfs/sync"
)

// policies are what the entries of each source ask of its versions. A source that
// several entries show has the forms of all, and the guards of the first.
func (d *daemon) policies(w wanted) func(kvsync.Source) kvsync.Policy {
	all := map[string]kvsync.Policy{}
	for _, c := range w.certificates() {
		key := source(c).Key()
		p, known := all[key]
		if !known {
			p = d.policy(c.Guards)
		}
		p.Views = append(p.Views, views(c, w.passwords))
		all[key] = p
	}
	return func(s kvsync.Source) kvsync.Policy { return all[s.Key()] }
}

func (d *daemon) policy(g config.Guards) kvsync.Policy {
	p := kvsync.Policy{HoldNotYetValid: g.HoldNotYetValid, HideDisabled: g.HideDisabled, HideExpired: g.HideExpired,
		HoldChangedNames: g.HoldChangedNames, HoldChangedIssuer: g.HoldChangedIssuer}
	if g.FetchIssuers || g.VerifyChain != "off" {
		p.Check = func(ctx context.Context, b *certs.Bundle) (*certs.Bundle, []string, error) {
			return d.checkChain(ctx, b, g)
		}
	}
	return p
}

// checkChain completes and judges a chain. What could not be found out refuses a
// version only if the settings say so; what was found out always does.
func (d *daemon) checkChain(ctx context.Context, b *certs.Bundle, g config.Guards) (*certs.Bundle, []string, error) {
	var (
		warnings  []string
		fetch     *chain.FetchError
		untrusted *chain.UntrustedError
		unknown   *chain.UnknownError
	)
	if g.FetchIssuers {
		completed, err := d.issuer.Complete(ctx, b)
		b = completed
		if errors.As(err, &fetch) {
			warnings = append(warnings, fetch.Fact)
		}
	}
	if g.VerifyChain == "off" {
		return b, warnings, nil
	}
	open := g.VerifyChain == "failOpen"
	switch err := chain.Verify(b, nil, time.Now()); {
	case errors.As(err, &untrusted) && fetch != nil && open, errors.As(err, &unknown) && open:
		return b, append(warnings, "its chain could not be judged: "+err.Error()), nil
	case untrusted != nil:
		return nil, nil, &kvsync.Refused{Kind: "untrusted", Fact: untrusted.Fact, Hint: untrusted.Hint}
	case unknown != nil:
		return nil, nil, &kvsync.Refused{Kind: "untrusted", Fact: unknown.Fact, Hint: unknown.Hint}
	}
	return b, warnings, nil
}
