package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kvfs/certs"
	"kvfs/tree"
)

// Policy says in which forms the versions of a certificate are needed, and what a
// version has to be like to be shown. The zero Policy takes everything.
type Policy struct {
	// Views of all entries that show the certificate.
	Views []tree.Views
	// HoldNotYetValid leaves the links at the version that is valid until the next
	// one is. Where nothing is valid the newest is linked.
	HoldNotYetValid bool
	// HideDisabled takes the certificate away when its newest version is disabled in
	// the vault, HideExpired when the current one has expired.
	HideDisabled, HideExpired bool
	// HoldChangedNames and HoldChangedIssuer refuse a new version whose leaf is for
	// other names, or from another issuer, than that of the newest version.
	HoldChangedNames, HoldChangedIssuer bool
	// Check completes and judges the chain of a new version before it is shown. Its
	// error refuses the version until a later poll; nil checks nothing.
	Check func(context.Context, *certs.Bundle) (checked *certs.Bundle, warnings []string, err error)
}

// Refused is why a version that could be read is not shown.
type Refused struct{ Kind, Fact, Hint string }

func (r *Refused) Error() string { return r.Fact }

// held is why a version may not follow the newest of some; nil if it may, or there is
// none.
func (p Policy) held(versions []*tree.Version, v *tree.Version) error {
	if len(versions) == 0 || v == nil {
		return nil
	}
	last := versions[0]
	switch {
	case p.HoldChangedNames && !last.SameNames(v):
		return &Refused{Kind: "held", Fact: fmt.Sprintf("version %s is for %s, and the one before for %s", v.ID, list(v.Names()), list(last.Names())),
			Hint: "if that is meant, set onChangedNames to accept for this certificate"}
	case p.HoldChangedIssuer && last.Issuer != v.Issuer:
		return &Refused{Kind: "held", Fact: fmt.Sprintf("version %s is from %s, and the one before from %s", v.ID, certs.Printable(v.Issuer), certs.Printable(last.Issuer)),
			Hint: "if that is meant, set onChangedIssuer to accept for this certificate"}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "others"
	}
	return certs.Printable(strings.Join(names, ", "))
}

// policies are those of changed settings, with versions in the forms that they
// want: made before anything is changed, since it may take a while.
type policies struct {
	of       map[string]Policy
	versions map[*tree.Version]*tree.Version
	lacking  map[*tree.Version]bool // which have to be fetched again for that
}

func (s *Syncer) rendered(settings Settings) policies {
	p := policies{of: map[string]Policy{}, versions: map[*tree.Version]*tree.Version{}, lacking: map[*tree.Version]bool{}}
	views := map[string][]tree.Views{} // by secret: another identity may take a version over
	for _, src := range slices.Concat(settings.Sources, settings.Retired) {
		policy := settings.Policy(src)
		p.of[src.Key()] = policy
		views[src.Ref.Key()] = append(views[src.Ref.Key()], policy.Views...)
	}
	s.mu.Lock()
	certs := s.certs
	s.mu.Unlock()
	for _, c := range certs { // versions change in Run's goroutine alone, which this is
		for _, v := range c.versions {
			more, err := s.inForms(c, v, views[c.source.Ref.Key()])
			if errors.Is(err, tree.ErrStub) {
				p.lacking[v] = true
			} else if err != nil {
				s.log.Warn("a version keeps the forms that it has", "url", c.source.Ref.String(), "version", string(v.ID), "err", err)
			}
			p.versions[v] = more
		}
	}
	return p
}

// inForms is a version in the forms that views want. Of a stub those bytes are taken
// that are in the cache; tree.ErrStub says that they are not.
func (s *Syncer) inForms(c *certificate, v *tree.Version, views []tree.Views) (*tree.Version, error) {
	more, err := v.With(views...)
	if !errors.Is(err, tree.ErrStub) {
		return more, err
	}
	full, ok := s.cache.Peek(cacheKey(c.key, v.ID))
	if !ok {
		return v, err
	}
	if full, err = full.With(views...); err != nil {
		return v, err
	}
	s.cache.Put(cacheKey(c.key, v.ID), full)
	return full.Stub(), nil
}

// lack are those of versions that cannot have all of their forms yet.
func (p policies) lack(versions []*tree.Version) (ids []certs.Version) {
	for _, v := range versions {
		if p.lacking[v] {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func (p policies) render(versions []*tree.Version) []*tree.Version {
	rendered := make([]*tree.Version, len(versions))
	for i, v := range versions {
		if rendered[i] = p.versions[v]; rendered[i] == nil {
			rendered[i] = v // it is what came out: taken over from a certificate whose turn was before
		}
	}
	return rendered
}
