package main

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"kvfs/certs"
	"kvfs/chain"
	"kvfs/config"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// policies are what the entries of each source ask of its versions. A source that
// several entries show has the forms of all, and is guarded as the strictest asks:
// a version is the same for all of them.
func (d *daemon) policies(w wanted) func(kvsync.Source) kvsync.Policy {
	guards, views, shared := map[string]config.Guards{}, map[string][]tree.Views{}, w.views()
	for i, c := range w.certificates() {
		key := source(c).Key()
		if g, known := guards[key]; !known || i < len(w.cfg.Certificates) { // what was removed has no say where something stays
			guards[key] = strictest(g, c.Guards)
		}
		if of := shared.of(c); views[key] == nil {
			views[key] = of
		} else {
			views[key] = slices.Concat(views[key], of)
		}
	}
	return func(s kvsync.Source) kvsync.Policy {
		p := d.policy(guards[s.Key()])
		p.Views = views[s.Key()]
		return p
	}
}

func strictest(a, b config.Guards) config.Guards {
	rank := []string{"", "off", "failOpen", "failClosed"}
	verify := rank[max(slices.Index(rank, a.VerifyChain), slices.Index(rank, b.VerifyChain))]
	return config.Guards{HoldNotYetValid: a.HoldNotYetValid || b.HoldNotYetValid, HideDisabled: a.HideDisabled || b.HideDisabled,
		HideExpired: a.HideExpired || b.HideExpired, HoldChangedNames: a.HoldChangedNames || b.HoldChangedNames,
		HoldChangedIssuer: a.HoldChangedIssuer || b.HoldChangedIssuer, VerifyChain: verify, FetchIssuers: a.FetchIssuers || b.FetchIssuers}
}

func (d *daemon) policy(g config.Guards) kvsync.Policy {
	p := kvsync.Policy{HoldNotYetValid: g.HoldNotYetValid, HideDisabled: g.HideDisabled, HideExpired: g.HideExpired,
		HoldChangedNames: g.HoldChangedNames, HoldChangedIssuer: g.HoldChangedIssuer}
	if g.FetchIssuers || verifies(g) {
		p.Check = func(ctx context.Context, b *certs.Bundle) (*certs.Bundle, []string, error) {
			return d.checkChain(ctx, b, g)
		}
	}
	return p
}

func verifies(g config.Guards) bool {
	return g.VerifyChain == "failOpen" || g.VerifyChain == "failClosed"
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
	if !verifies(g) {
		return b, warnings, nil
	}
	open := g.VerifyChain == "failOpen"
	switch err := chain.Verify(b, nil, withinDates(b.Leaf, time.Now())); {
	case errors.As(err, &untrusted) && untrusted.Missing && fetch != nil && fetch.Unreached && open, errors.As(err, &unknown) && open:
		return b, append(warnings, "its chain could not be judged: "+err.Error()), nil
	case untrusted != nil:
		return nil, nil, &kvsync.Refused{Kind: "untrusted", Fact: untrusted.Fact, Hint: untrusted.Hint}
	case unknown != nil:
		return nil, nil, &kvsync.Refused{Kind: "untrusted", Fact: unknown.Fact, Hint: unknown.Hint}
	}
	return b, warnings, nil
}

// withinDates is the moment at which a chain is judged: now, or where the leaf is not
// valid now the one nearest to it. What becomes of such a leaf is for onNotYetValid
// and onExpired to say.
func withinDates(leaf *x509.Certificate, now time.Time) time.Time {
	switch {
	case now.Before(leaf.NotBefore):
		return leaf.NotBefore
	case now.After(leaf.NotAfter):
		return leaf.NotAfter
	}
	return now
}
