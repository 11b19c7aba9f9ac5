package emulator

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

var (
	// ErrNotFound is returned for a vault, a secret or a version that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrDeleted is returned for a secret that is soft-deleted, as far as that matters.
	ErrDeleted = errors.New("soft-deleted: recover it first")
)

// recoverableDays is how long a soft-deleted secret could be recovered. Nothing
// is ever purged here.
const recoverableDays = 90

// store holds all vaults. The newest version of a secret is the last of its
// slice: creation times have the resolution of a second and tie.
type store struct {
	first  string // name of the first vault
	order  []string
	mu     sync.RWMutex
	vaults map[string]map[string]*secret // by lower-case vault and secret name; the outer map is never changed
}

type secret struct {
	name     string // as first written
	profile  *Profile
	managed  bool // backs a certificate
	versions []*version
	deleted  time.Time // zero: not deleted
}

// version is immutable except for enabled and updated.
type version struct {
	id          string
	contentType string
	value       string
	enabled     bool
	created     time.Time
	updated     time.Time
	managed     bool
	previous    string            // version before it, for certificates
	leaf        *x509.Certificate // nil when not known
}

func newStore(vaults []vaultHost) *store {
	s := &store{first: vaults[0].name, vaults: map[string]map[string]*secret{}}
	for _, v := range vaults {
		s.order = append(s.order, v.name)
		s.vaults[v.name] = map[string]*secret{}
	}
	return s
}

func newVersion(contentType, value string, now time.Time) *version {
	id := make([]byte, 16)
	rand.Read(id)
	return &version{id: hex.EncodeToString(id), contentType: contentType, value: value, enabled: true, created: now, updated: now}
}

// certify marks v as backing a certificate; leaf may be nil when it is not known.
func (v *version) certify(leaf *x509.Certificate) { v.managed, v.leaf = true, leaf }

var namePattern = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)

func validName(name string) bool { return namePattern.MatchString(name) }

func nameError(name string) error {
	return fmt.Errorf("%q is no name of a secret: want 1 to 127 letters, digits and dashes", name)
}

// vault finds a vault by name, the first by "". Its map may be used with mu held.
func (s *store) vault(name string) (map[string]*secret, error) {
	if name == "" {
		name = s.first
	}
	if v, ok := s.vaults[strings.ToLower(name)]; ok {
		return v, nil
	}
	return nil, fmt.Errorf("vault %q: %w", name, ErrNotFound)
}

// find needs mu held.
func (s *store) find(vault, name string) (*secret, error) {
	v, err := s.vault(vault)
	if err != nil {
		return nil, err
	}
	if found := v[strings.ToLower(name)]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("secret %q: %w", name, ErrNotFound)
}

// add appends a version, and makes the secret if it is new. A profile replaces
// the one before; without one the secret is no longer renewable.
func (s *store) add(vault, name string, v *version, p *Profile) error {
	if !validName(name) {
		return nameError(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets, err := s.vault(vault)
	if err != nil {
		return err
	}
	found := secrets[strings.ToLower(name)]
	if found == nil {
		found = &secret{name: name}
		secrets[strings.ToLower(name)] = found
	}
	if !found.deleted.IsZero() {
		return ErrDeleted
	}
	if n := len(found.versions); n > 0 && v.managed {
		v.previous = found.versions[n-1].id
	}
	found.versions = append(found.versions, v)
	found.profile, found.managed = p, v.managed
	return nil
}

func (s *store) profile(vault, name string) (Profile, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found, err := s.find(vault, name)
	switch {
	case err != nil:
		return Profile{}, err
	case !found.deleted.IsZero():
		return Profile{}, ErrDeleted
	case found.profile == nil:
		return Profile{}, errors.New("it was not made here, so there is nothing to make a new version from")
	}
	return *found.profile, nil
}

// profiles returns the profiles of all certificates that can be renewed, with
// their vaults filled in.
func (s *store) profiles() []Profile {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Profile
	for _, vault := range s.order {
		for _, found := range s.vaults[vault] {
			if found.profile != nil && found.deleted.IsZero() {
				p := *found.profile
				p.Vault = vault
				list = append(list, p)
			}
		}
	}
	return list
}

// SetEnabled enables or disables one version, the newest when version is empty.
// It fails with ErrNotFound.
func (e *Emulator) SetEnabled(vault, name, version string, enabled bool) error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	found, err := e.store.find(vault, name)
	if err != nil {
		return err
	}
	v := found.version(version)
	if v == nil {
		return fmt.Errorf("version %q of secret %q: %w", version, name, ErrNotFound)
	}
	v.enabled, v.updated = enabled, time.Now()
	return nil
}

// Delete soft-deletes a secret with all its versions. It fails with ErrNotFound
// or ErrDeleted.
func (e *Emulator) Delete(vault, name string) error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	found, err := e.store.find(vault, name)
	if err != nil {
		return err
	}
	if !found.deleted.IsZero() {
		return fmt.Errorf("secret %q: %w", name, ErrDeleted)
	}
	found.deleted = time.Now()
	return nil
}

// Recover undoes Delete. It fails with ErrNotFound, and for a secret that is
// not deleted.
func (e *Emulator) Recover(vault, name string) error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	found, err := e.store.find(vault, name)
	if err != nil {
		return err
	}
	if found.deleted.IsZero() {
		return fmt.Errorf("deleted secret %q: %w", name, ErrNotFound)
	}
	found.deleted = time.Time{}
	return nil
}

// Purge forgets a deleted secret, so that another one may have its name. It fails with
// ErrNotFound, also for a secret that is not deleted.
func (e *Emulator) Purge(vault, name string) error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	found, err := e.store.find(vault, name)
	if err != nil {
		return err
	}
	if found.deleted.IsZero() {
		return fmt.Errorf("deleted secret %q: %w", name, ErrNotFound)
	}
	secrets, err := e.store.vault(vault)
	if err != nil {
		return err
	}
	delete(secrets, strings.ToLower(name))
	return nil
}

// version finds a version by id, the newest by "". nil: there is none.
func (s *secret) version(id string) *version {
	if id == "" {
		return s.versions[len(s.versions)-1]
	}
	for _, v := range s.versions {
		if strings.EqualFold(v.id, id) {
			return v
		}
	}
	return nil
}
