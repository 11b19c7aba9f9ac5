package sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// Source is one certificate in one vault, and who asks for it.
type Source struct {
	Ref      vault.Ref
	Identity vault.Identity
}

// Key names the certificate in a tree.Spec. Sources with equal keys are fetched
// once.
func (s Source) Key() string {
	return s.Ref.Key() + " " + s.Identity.Key()
}

// certificate is what is known of a source.
type certificate struct {
	source   Source
	versions []*tree.Version // newest first
	warnings []string        // of the newest

	lastAttempt, lastSuccess, next time.Time
	failures                       int
	err                            error
	wanted                         bool // to be tried now, whatever the schedule says
	retired                        bool // the settings have it no more: never to be tried

	shown certs.Version // of which the readers have the links

	bad    digest // of a value that could not be read
	badErr error
}

// digest of a value with its content type.
type digest [sha256.Size]byte

func digestOf(s *vault.Secret) digest {
	return sha256.Sum256(append([]byte(s.ContentType+"\x00"), s.Value.Reveal()...))
}

// attempt is what a try needs of a certificate, copied before it begins: the
// certificate may change while it is under way.
type attempt struct {
	cert     *certificate
	source   Source
	versions []*tree.Version // that need no reading
	bad      digest
	badErr   error
}

func (c *certificate) attempt() attempt {
	return attempt{cert: c, source: c.source, versions: c.versions, bad: c.bad, badErr: c.badErr}
}

// outcome of one try.
type outcome struct {
	cert    *certificate
	started time.Time
	secret  *vault.Secret // nil after an error
	version *tree.Version // nil if it is one that is known
	bundle  *certs.Bundle
	err     error
}

// try fetches a certificate and reads it if its version is new.
func (a attempt) try(ctx context.Context, v Vault) outcome {
	o := outcome{cert: a.cert, started: time.Now()}
	o.secret, o.err = v.Get(ctx, a.source.Identity, a.source.Ref)
	if o.err != nil {
		return o
	}
	id := certs.Version(o.secret.Version)
	switch {
	case slices.ContainsFunc(a.versions, func(v *tree.Version) bool { return v.ID == id }):
	case a.badErr != nil && a.bad == digestOf(o.secret):
		o.err = a.badErr
	default:
		o.bundle, o.err = certs.Parse(o.secret.ContentType, o.secret.Value.Reveal())
		if o.err == nil {
			o.version = tree.NewVersion(id, o.secret.Created, time.Now(), o.bundle)
		}
	}
	return o
}

// record takes an outcome in and tells whether there is something to publish.
func (c *certificate) record(o outcome, now time.Time, interval time.Duration, keep int) (changed bool) {
	c.lastAttempt, c.err = o.started, o.err
	var retryAfter time.Duration
	if o.err != nil {
		c.failures++
		var ve *vault.Error
		if errors.As(o.err, &ve) {
			retryAfter = ve.RetryAfter
		} else if o.secret != nil {
			c.bad, c.badErr = digestOf(o.secret), o.err
		}
	} else {
		c.failures, c.lastSuccess = 0, now
		changed = c.adopt(o, keep)
	}
	c.next = now.Add(nextPoll(interval, c.failures, retryAfter, c.spread()))
	return changed
}

// adopt makes the fetched version the newest, also when the vault went back to
// one that is still here.
func (c *certificate) adopt(o outcome, keep int) (changed bool) {
	id := certs.Version(o.secret.Version)
	if len(c.versions) > 0 && c.versions[0].ID == id {
		return false
	}
	v := o.version
	if i := slices.IndexFunc(c.versions, func(v *tree.Version) bool { return v.ID == id }); v == nil && i < 0 {
		c.wanted = true // it was known when the try began and is not any more: read it
		return false
	}
	if i := slices.IndexFunc(c.versions, func(v *tree.Version) bool { return v.ID == id }); i >= 0 {
		v = c.versions[i]
		c.versions = slices.Delete(slices.Clone(c.versions), i, i+1)
	}
	if o.bundle != nil {
		c.warnings = o.bundle.Warnings
	}
	c.versions = slices.Insert(slices.Clone(c.versions), 0, v)
	c.trim(keep)
	return true
}

// trim forgets the oldest versions. It makes a new slice: the old one may be in
// use by a snapshot that is being built.
func (c *certificate) trim(keep int) {
	if len(c.versions) > keep {
		c.versions = slices.Clone(c.versions[:keep])
	}
}

// spread is this certificate's place within the tenth of an interval by which
// polls are spread: the same after a restart, and different for different ones.
func (c *certificate) spread() float64 {
	h := fnv.New32a()
	fmt.Fprint(h, c.source.Key())
	return float64(h.Sum32()) / (1 << 32)
}

func (c *certificate) current() certs.Version {
	if len(c.versions) == 0 {
		return ""
	}
	return c.versions[0].ID
}
