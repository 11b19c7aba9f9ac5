package sync

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unique"

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
// once. While a Syncer has the certificate it is one string, whoever asks for it: there
// are many that keep it of each of thousands.
func (s Source) Key() string {
	return unique.Make(s.Ref.Key() + " " + s.Identity.Key()).Value()
}

// laneKey is the vault and who asks. There are few.
type laneKey = unique.Handle[string]

// certificate is what is known of a source.
type certificate struct {
	source Source
	key    string                // of source: making it takes a while
	one    unique.Handle[string] // of key: for as long as it is here, Key gives that one
	host   string                // of the vault
	lane   laneKey
	// jitter is its place, and laneJitter that of its lane, within what is spread.
	jitter, laneJitter float64

	policy Policy
	// versions are newest first. The one that readers are led to, all newer ones and
	// the one that was published last have their bytes in memory; those of the others,
	// which are stubs, are in the cache, or to be fetched again. See arrange.
	versions []*tree.Version
	// arranged are those that arrange has seen last, and forgotten is the last one that
	// is not among them any more.
	arranged  []*tree.Version
	forgotten certs.Version

	warnings []string  // of the newest
	fetched  time.Time // when the try began that brought the newest

	lastAttempt, lastSuccess, next time.Time
	settled                        bool // see history
	held                           bool // next is when its breaker lets somebody through
	failures                       int
	spare                          int // of these, tries that somebody has asked for
	err                            error
	wanted                         bool      // to be tried now, whatever the schedule says
	urged                          bool      // somebody has asked for the next try
	unread                         bool      // a predecessor has left a record that says nothing to this process; see lost
	retired                        bool      // the settings have it no more: never to be tried
	asked                          time.Time // since when this process is to have it

	shown certs.Version // of which the readers have the links

	bad     digest // of a value that could not be read
	badErr  error
	keyless error // why the newest version has no key

	mark   mark      // of the last read, to find it again in a listing
	readAt time.Time // when that was; zero: a listing cannot tell what it has found from something newer

	disabled bool          // the vault has said so, and nothing else since
	latest   certs.Version // that the vault has given last

	older
}

func (s *Syncer) newCertificate(src Source) *certificate {
	host := strings.ToLower(src.Ref.Host())
	lane, key := host+" "+src.Identity.Key(), src.Key()
	return &certificate{source: src, asked: time.Now(), key: key, one: unique.Make(key), host: host, lane: unique.Make(lane), jitter: jitterOf(s.opts.Seed, key), laneJitter: jitterOf(s.opts.Seed, lane)}
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
	policy   Policy
	settings int             // a number that changes with them
	urged    bool            // by somebody, and not by the schedule
	versions []*tree.Version // that need no reading
	bad      digest
	badErr   error
}

func (c *certificate) attempt() attempt {
	return attempt{cert: c, source: c.source, policy: c.policy, urged: c.urged, versions: c.versions, bad: c.bad, badErr: c.badErr}
}

// outcome of one try.
type outcome struct {
	cert     *certificate
	settings int // for which of them it was tried
	started  time.Time
	secret   *vault.Secret // nil after an error
	version  *tree.Version // nil if it is one that is known, or none that may be shown
	restored *tree.Version // one that is known and was a stub
	warnings []string      // about version
	err      error         // beside a version: what is missing in it
	again    bool          // the same value may be good at another time
	shared   bool          // it was another certificate that was tried
	urged    bool          // somebody has asked for it
}

// try fetches a certificate and reads it if its version is new.
func (a attempt) try(ctx context.Context, v Vault) outcome {
	o := outcome{cert: a.cert, settings: a.settings, urged: a.urged, started: time.Now()}
	o.secret, o.err = v.Get(ctx, a.source.Identity, a.source.Ref)
	if o.err != nil {
		return o
	}
	id := certs.Version(o.secret.Version)
	known := slices.IndexFunc(a.versions, func(v *tree.Version) bool { return v.ID == id })
	switch {
	case known >= 0 && a.versions[known].Resident():
	case a.badErr != nil && a.bad == digestOf(o.secret):
		o.err = a.badErr
	case known >= 0: // the vault has gone back to it
		o.restored, o.err = restore(o.secret, a.versions[known])
	default:
		a.read(ctx, &o)
		if held := a.policy.held(a.versions, o.version); held != nil {
			o.version, o.err = nil, held
		}
	}
	return o
}

// read makes a version of what was fetched, or an error.
func (a attempt) read(ctx context.Context, o *outcome) {
	bundle, err := certs.Parse(o.secret.ContentType, o.secret.Value.Reveal())
	var keyless *certs.Error
	if errors.As(err, &keyless) && keyless.Partial != nil && !a.haveKey() {
		bundle = keyless.Partial
	} else if err != nil {
		o.err = err
		return
	}
	var added []*x509.Certificate
	o.warnings = bundle.Warnings
	if a.policy.Check != nil {
		checked, warnings, err := a.policy.Check(ctx, bundle)
		if err != nil {
			o.err, o.again = err, true
			return
		}
		added = addedIssuers(bundle, checked)
		bundle, o.warnings = checked, append(slices.Clone(checked.Warnings), warnings...)
	}
	o.version = tree.NewVersion(certs.Version(o.secret.Version), o.secret.Created, time.Now(), bundle, a.policy.Views...).Completed(added)
	o.err = err
}

// addedIssuers are the certificates that a check has added to a bundle.
func addedIssuers(read, checked *certs.Bundle) (added []*x509.Certificate) {
	had := slices.Concat(read.Chain, read.Extra)
	for _, c := range slices.Concat(checked.Chain, checked.Extra) {
		if !slices.ContainsFunc(had, c.Equal) {
			added = append(added, c)
		}
	}
	return added
}

// haveKey tells whether there is a version with a key: one without would take that
// from its readers.
func (a attempt) haveKey() bool {
	return slices.ContainsFunc(a.versions, (*tree.Version).HasKey)
}

// record takes an outcome in and tells whether there is something to publish.
func (c *certificate) record(o outcome, now time.Time, keep int) (changed bool) {
	c.lastAttempt, c.err, c.held = o.started, o.err, false
	if o.secret != nil {
		c.latest = certs.Version(o.secret.Version)
	}
	defer func() { c.remark(o.secret, now) }()
	if o.err == nil || o.version != nil {
		c.failures, c.spare, c.lastSuccess, c.disabled = 0, 0, now, false
		return c.adopt(o, now, keep)
	}
	if c.failures++; o.urged {
		c.spare++
	}
	switch {
	case o.secret != nil && !o.again:
		c.bad, c.badErr = digestOf(o.secret), o.err
	case kind(o.err) == vault.KindDisabled:
		changed, c.disabled = c.policy.HideDisabled && !c.disabled, true
	}
	return changed
}

// schedule is when it is tried next.
func (c *certificate) schedule(now time.Time, interval, retryAfter time.Duration, jitter float64) time.Time {
	h := history{now: now, interval: interval, settled: c.settled, failures: c.failures, retryAfter: retryAfter, jitter: jitter,
		final: !ofHost(c.err) && !ofIdentity(c.err)}
	if refused := (*Refused)(nil); errors.As(c.err, &refused) {
		h.failures = 0 // the vault is well: another version comes when it comes
	}
	c.settled = h.failures == 0
	return h.next()
}

// adopt makes the fetched version the newest, also when the vault went back to
// one that is still here.
func (c *certificate) adopt(o outcome, now time.Time, keep int) (changed bool) {
	id := certs.Version(o.secret.Version)
	if len(c.versions) > 0 && c.versions[0].ID == id {
		if o.version == nil && !c.versions[0].HasKey() {
			c.err = c.keyless // it is what it was
		}
		return c.shown == "" && c.current(now) != nil // it was hidden
	}
	v := o.version
	i := slices.IndexFunc(c.versions, func(v *tree.Version) bool { return v.ID == id })
	if v == nil && i < 0 {
		c.wanted = true // it was known when the try began and is not any more: read it
		return false
	}
	if i >= 0 {
		v = c.versions[i]
		if !v.HasKey() && c.versions[0].HasKey() {
			c.err = &Refused{Kind: string(certs.NoPrivateKey), Fact: fmt.Sprintf("version %s, which the vault has gone back to, has no private key", id),
				Hint: "create a version with an exportable key; the one before is still served"}
			return false
		}
		if !v.Resident() {
			v = o.restored
		}
		if v == nil {
			c.wanted = true // its bytes have gone since the try began: fetch them
			return false
		}
		c.versions = slices.Delete(slices.Clone(c.versions), i, i+1)
	}
	if o.version != nil {
		c.warnings, c.keyless, c.fetched = o.warnings, o.err, o.started
	}
	c.versions = slices.Insert(slices.Clone(c.versions), 0, v)
	c.trim(now, keep)
	return true
}

// trim forgets the oldest versions, but not the current one, which need not be the
// newest, nor one that is to become it. It makes a new slice: the old one may be in
// use by a snapshot that is being built.
func (c *certificate) trim(now time.Time, keep int) {
	keep = max(keep, c.linked(now)+1, slices.Index(c.versions, c.current(now))+1)
	if len(c.versions) > keep {
		for _, v := range c.versions[keep:] {
			delete(c.troubles, v.ID)
		}
		c.versions = slices.Clone(c.versions[:keep])
	}
}

// linked is the place of the version that the links are to lead to: the newest, or
// the newest one that is valid, if one is.
func (c *certificate) linked(now time.Time) int {
	if c.policy.HoldNotYetValid {
		valid := func(v *tree.Version) bool { return !v.NotBefore.After(now) && now.Before(v.NotAfter) }
		if i := slices.IndexFunc(c.versions, valid); i >= 0 {
			return i
		}
	}
	return 0
}

// current is the version that the links lead to; nil if there is none that may be
// shown. A linked one whose bytes are still on their way is not: readers stay where
// they are.
func (c *certificate) current(now time.Time) *tree.Version {
	if len(c.versions) == 0 || c.policy.HideDisabled && c.disabled {
		return nil
	}
	current := c.versions[c.linked(now)]
	if !current.Resident() {
		current = c.versions[0]
		if i := slices.IndexFunc(c.versions, func(v *tree.Version) bool { return v.ID == c.shown }); i >= 0 && c.versions[i].Resident() {
			current = c.versions[i]
		}
	}
	if c.policy.HideExpired && !now.Before(current.NotAfter) {
		return nil
	}
	return current
}

// show is what readers get to see.
func (c *certificate) show(now time.Time) tree.Shown {
	current := c.current(now)
	if current == nil {
		return tree.Shown{}
	}
	return tree.Shown{Versions: c.versions, Current: current}
}

// turn is when current changes by itself; the zero time if it does not.
func (c *certificate) turn(now time.Time) (at time.Time) {
	soonest := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, v := range c.versions {
		if c.policy.HoldNotYetValid {
			soonest(v.NotBefore)
		}
		if c.policy.HoldNotYetValid || c.policy.HideExpired {
			soonest(v.NotAfter)
		}
	}
	return at
}
