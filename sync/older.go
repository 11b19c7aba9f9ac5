package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"kvfs/cache"
	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// Of the versions of a certificate only those are always in memory that readers are
// led to, or will be. The others are stubs: the tree shows them as before, and their
// bytes are in a cache of bounded size, or are fetched again for who reads them.

// cacheOptions bound what reads of older versions may do to a vault and to who waits.
// What a version needs beside the bytes of its files is measured by
// BenchmarkOldVersions.
var cacheOptions = cache.Options[*tree.Version]{Overhead: 1500, Timeout: 10 * time.Second, Remember: 5 * time.Second, Loads: 8}

// releaseAfter is how long a version that was current stays in memory after another
// one was published. That needs a publication of its own, for which nobody waits.
const releaseAfter = 10 * time.Second

// cacheKey names a version of a certificate in the cache.
func cacheKey(certificate string, v certs.Version) string { return certificate + " " + string(v) }

// sourceOf is the certificate of a cacheKey.
func sourceOf(key string) string { return key[:strings.LastIndexByte(key, ' ')] }

// stays tells whether the version at a place has to be in memory.
func (c *certificate) stays(i, linked int) bool {
	return i <= linked || c.versions[i].ID == c.shown
}

// arrange moves the versions of a certificate to where they belong: out of the cache
// what readers are to be led to, as far as it is there, and into it what they are not
// led to any more. The caller holds mu.
func (s *Syncer) arrange(c *certificate, now time.Time) {
	defer func() { s.forget(c) }()
	linked, cloned := c.linked(now), false
	for i, v := range c.versions {
		switch stays := c.stays(i, linked); {
		case stays && !v.Resident():
			full, ok := s.cache.Take(cacheKey(c.key, v.ID))
			if !ok {
				continue // an errand is sent for it
			}
			v = full
			if more, err := full.With(c.policy.Views...); err == nil {
				v = more
			}
		case !stays && v.Resident():
			s.cache.Put(cacheKey(c.key, v.ID), v)
			v = v.Stub()
		default:
			continue
		}
		if !cloned { // it may be in use by a snapshot that is being built
			c.versions, cloned = slices.Clone(c.versions), true
		}
		c.versions[i] = v
	}
}

// forget takes the versions out of the cache that are not shown any more, but for the
// last one, which somebody may have open: no key stays in memory for the sake of
// nobody.
func (s *Syncer) forget(c *certificate) {
	for _, v := range slices.Backward(c.arranged) {
		if v.ID == c.forgotten || c.place(v.ID) >= 0 {
			continue
		}
		s.cache.Take(cacheKey(c.key, c.forgotten))
		c.forgotten = v.ID
	}
	c.arranged = c.versions
}

// releasable tells whether arrange would move something into the cache.
func (c *certificate) releasable(now time.Time) bool {
	linked := c.linked(now)
	for i, v := range c.versions {
		if v.Resident() && !c.stays(i, linked) {
			return true
		}
	}
	return false
}

// inherit hands over what the cache holds of a certificate that another identity asks
// for from now on.
func (s *Syncer) inherit(c, from *certificate) {
	for _, v := range c.versions {
		if full, ok := s.cache.Peek(cacheKey(from.key, v.ID)); ok {
			s.cache.Put(cacheKey(c.key, v.ID), full)
		}
	}
}

// restore is a stub with the bytes that the vault has, if they are still the same.
func restore(secret *vault.Secret, stub *tree.Version) (*tree.Version, error) {
	bundle, err := certs.Parse(secret.ContentType, secret.Value.Reveal())
	var keyless *certs.Error
	if errors.As(err, &keyless) && keyless.Partial != nil && !stub.HasKey() {
		bundle, err = keyless.Partial, nil
	}
	if err != nil {
		return nil, err
	}
	full, err := stub.Restore(bundle)
	if errors.Is(err, tree.ErrOther) {
		return nil, &Refused{Kind: "changed", Fact: fmt.Sprintf("the vault now has something else under version %s than before", stub.ID),
			Hint: "find out who has changed it: a version of Key Vault never does; kvfs shows what it has now after a restart"}
	}
	return full, err
}

// LoadError is why an old version could not be fetched again. errors.Is knows it as
// os.ErrPermission where the vault refuses it, and as context.DeadlineExceeded where
// it did not come in time.
type LoadError struct {
	Source  Source
	Version certs.Version
	Err     error
}

func (e *LoadError) Error() string {
	return fmt.Sprintf("fetching version %s of %s again: %v", e.Version, e.Source.Ref, e.Err)
}

func (e *LoadError) Unwrap() error { return e.Err }

// Is tells what an error of the vault comes down to.
func (e *LoadError) Is(target error) bool {
	var ve *vault.Error
	if !errors.As(e.Err, &ve) {
		return false
	}
	switch ve.Kind {
	case vault.KindForbidden, vault.KindForbiddenNetwork, vault.KindUnauthorized, vault.KindDisabled:
		return target == os.ErrPermission
	case vault.KindTimeout:
		return target == context.DeadlineExceeded
	}
	return false
}

// errForgotten is for files that some process has open though kvfs shows them no more.
var errForgotten = errors.New("kvfs shows it no more, and has forgotten where it came from")

// Load returns the content of a file whose bytes are not in the tree: from the cache,
// or from the vault. It never returns other bytes than those that the node is made
// of. Whoever waits does so for as long as ctx lets him; his error is then a
// *LoadError. Load may be called at any time, also when Run has ended.
func (s *Syncer) Load(ctx context.Context, n *tree.Node) ([]byte, error) {
	if n.Away == nil {
		return n.Content(), nil
	}
	away, key := *n.Away, cacheKey(n.Away.Certificate, n.Away.Version)
	source, v := s.find(away)
	if v == nil || !v.Has(away.Sum) { // in the cache it may be all the same
		if cached, ok := s.cache.Peek(key); ok {
			v = cached
		}
		if content, ok := contentOf(v, away); ok {
			return content, nil
		}
		return nil, &LoadError{source, away.Version, errForgotten}
	}
	if content, ok := v.Content(away.Sum); ok {
		return content, nil // it is current again
	}
	for range 2 {
		v, err := s.cache.Load(ctx, key, func(ctx context.Context) (*tree.Version, error) { return s.fetchAgain(ctx, away) })
		if err != nil {
			return nil, &LoadError{source, away.Version, err}
		}
		if content, ok := v.Content(away.Sum); ok {
			return content, nil
		}
		s.cache.Take(key) // it was written for other settings
	}
	return nil, &LoadError{source, away.Version, tree.ErrOther}
}

func contentOf(v *tree.Version, away tree.Away) ([]byte, bool) {
	if v == nil {
		return nil, false
	}
	return v.Content(away.Sum)
}

// find is what is known of a version; nil if it is not any more.
func (s *Syncer) find(away tree.Away) (Source, *tree.Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byKey[away.Certificate]
	if c == nil {
		return Source{}, nil
	}
	if i := c.place(away.Version); i >= 0 {
		return c.source, c.versions[i]
	}
	return c.source, nil
}

// place of a version, -1 if it is not here.
func (c *certificate) place(id certs.Version) int {
	return slices.IndexFunc(c.versions, func(v *tree.Version) bool { return v.ID == id })
}

// fetchAgain asks the vault for a version that is a stub.
func (s *Syncer) fetchAgain(ctx context.Context, away tree.Away) (full *tree.Version, err error) {
	source, v := s.find(away)
	switch {
	case v == nil:
		return nil, errForgotten
	case v.Resident():
		return v, nil
	}
	s.mu.Lock()
	from, err := s.settings.Vault, s.down(source)
	s.mu.Unlock()
	var secret *vault.Secret
	if err == nil { // or else the poller finds out when it answers again
		secret, err = from.Get(ctx, source.Identity, source.Ref.WithVersion(string(away.Version)))
	}
	if err == nil {
		full, err = restore(secret, v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byKey[away.Certificate]; c != nil && c.place(away.Version) >= 0 {
		s.note(c, away.Version, err)
	}
	return full, err
}

// down is why the vault of a source is asked by one try at a time, or who asks it is; nil if all may ask. The caller
// holds mu.
func (s *Syncer) down(source Source) error {
	for _, v := range s.vaults {
		if !v.Down.IsZero() && v.Identity.Key() == source.Identity.Key() && strings.EqualFold(v.Host, source.Ref.Host()) {
			return v.Err
		}
	}
	return nil
}

// note takes down what came of reading an older version and logs it when it is
// another thing than before. The caller holds mu.
func (s *Syncer) note(c *certificate, id certs.Version, err error) {
	url, version, before := slog.String("url", c.source.Ref.String()), slog.String("version", string(id)), c.troubles[id]
	switch {
	case err != nil:
		level, f := slog.LevelWarn, Explain(err)
		if before != nil && Explain(before) == f {
			level = slog.LevelDebug
		}
		if c.troubles == nil {
			c.troubles = map[certs.Version]error{}
		}
		c.troubles[id] = err
		s.log.Log(context.Background(), level, "an older version cannot be read", url, version, "kind", f.Kind, "err", f.Fact, "hint", f.Hint)
	case before != nil:
		delete(c.troubles, id)
		s.log.Info("an older version can be read again", url, version)
	}
}

// troublesHere are those of the versions that are shown.
func (c *certificate) troublesHere() map[certs.Version]error {
	here := maps.Clone(c.troubles)
	maps.DeleteFunc(here, func(id certs.Version, _ error) bool { return c.place(id) < 0 })
	return here
}

// leftOut are the versions that could not be read and are not shown, in order.
func (c *certificate) leftOut() (ids []certs.Version) {
	for id := range c.troubles {
		if c.place(id) < 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// olderWarnings say what is wrong with older versions; all says that all are wanted.
func (c *certificate) olderWarnings(all bool) (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if c.listErr != nil && all {
		f := Explain(c.listErr)
		if (&LoadError{Err: c.listErr}).Is(os.ErrPermission) {
			warn("keepVersions \"all\" needs the permission to list, and what kvfs has seen is kept: %s; %s", f.Fact, f.Hint)
		} else {
			warn("the versions in the vault could not be listed: %s", f.Fact)
		}
	}
	if c.total > MaxVersions {
		warn("the vault has %d versions; the newest %d are shown", c.total, MaxVersions)
	}
	if len(c.versions) > 0 && c.disabled && c.lastSuccess.IsZero() {
		warn("version %s is served in the place of the newest, which is disabled", c.versions[0].ID)
	}
	var unread []certs.Version
	for _, v := range c.versions {
		if c.troubles[v.ID] != nil {
			unread = append(unread, v.ID)
		}
	}
	for _, trouble := range []struct {
		ids  []certs.Version
		what string
	}{{unread, "cannot be fetched again"}, {c.leftOut(), "cannot be read and are left out"}} {
		if n := len(trouble.ids); n > 0 {
			warn("older versions that %s: %d, such as %s: %s", trouble.what, n, trouble.ids[0], Explain(c.troubles[trouble.ids[0]]).Fact)
		}
	}
	return warnings
}
