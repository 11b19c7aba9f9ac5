package emulator

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// KeyType is the kind of key a certificate has.
type KeyType string

// The key types. Ed25519 is beyond the service, which knows RSA and EC alone.
const (
	RSA2048 KeyType = "RSA-2048"
	RSA3072 KeyType = "RSA-3072"
	RSA4096 KeyType = "RSA-4096"
	EC256   KeyType = "EC-P-256"
	EC384   KeyType = "EC-P-384"
	EC521   KeyType = "EC-P-521"
	Ed25519 KeyType = "Ed25519"
)

// Format is the form of the secret that backs a certificate.
type Format string

// The forms: base64 of PKCS#12 with the empty password, or text.
const (
	PFX Format = "pfx"
	PEM Format = "pem"
)

// Profile says what a certificate is like; each of its versions is made from it.
type Profile struct {
	Name          string        // of the secret: letters, digits and dashes
	Vault         string        // "" is the first
	DNSNames      []string      // default: NAME.example.com; the first is the common name
	Key           KeyType       // default: EC256; RSA keys take long to make
	Format        Format        // default: PFX
	Validity      time.Duration // from now; default: 365 days; negative: has expired already
	NotExportable bool          // the key stays in the vault: the value holds certificates only
	NoRoot        bool          // leave the root out of the stored chain
}

func (p Profile) withDefaults() (Profile, error) {
	if !validName(p.Name) {
		return p, nameError(p.Name)
	}
	if len(p.DNSNames) == 0 {
		p.DNSNames = []string{p.Name + ".example.com"}
	}
	if p.Key == "" {
		p.Key = EC256
	}
	if p.Validity == 0 {
		p.Validity = 365 * 24 * time.Hour
	}
	switch p.Format {
	case "":
		p.Format = PFX
	case PFX, PEM:
	default:
		return p, fmt.Errorf("unknown format %q", p.Format)
	}
	return p, nil
}

// AddCertificate makes a certificate and a secret that backs it, and adds it to
// the settings document. The chain is leaf, intermediate, root. A name that is
// there already gets a new version, and later ones follow the new profile. It
// fails with ErrDeleted for a name that is soft-deleted.
func (e *Emulator) AddCertificate(p Profile) (version string, err error) {
	p, version, err = e.addVersion(p)
	if err != nil {
		return "", fmt.Errorf("adding certificate %q: %w", p.Name, err)
	}
	return version, e.writeSettings()
}

// AddCertificates is AddCertificate for many: it uses all processors and writes
// the settings document once.
func (e *Emulator) AddCertificates(profiles ...Profile) error {
	err := inParallel(profiles, func(p Profile) error {
		if _, _, err := e.addVersion(p); err != nil {
			return fmt.Errorf("adding certificate %q: %w", p.Name, err)
		}
		return nil
	})
	return errors.Join(err, e.writeSettings())
}

// addVersion makes the certificate before it takes the lock of the store.
func (e *Emulator) addVersion(p Profile) (Profile, string, error) {
	p, err := p.withDefaults()
	if err != nil {
		return p, "", err
	}
	now := time.Now()
	c, err := e.ca.issue(p, now)
	if err != nil {
		return p, "", err
	}
	value, err := bundle(p, c)
	if err != nil {
		return p, "", err
	}
	v := newVersion(p.Format.contentType(), value, now)
	v.certify(c.chain[0])
	return p, v.id, e.store.add(p.Vault, p.Name, v, &p)
}

// AddSecret stores any value under any content type, a certificate or not, and
// keeps it out of the settings document. A name that is there already gets a
// new version. The value is served as it is.
func (e *Emulator) AddSecret(vault, name, contentType, value string) (version string, err error) {
	v := newVersion(contentType, value, time.Now())
	if err := e.store.add(vault, name, v, nil); err != nil {
		return "", fmt.Errorf("adding secret %q: %w", name, err)
	}
	return v.id, nil
}

// Rotate renews a certificate: a new key, a new version, the same profile. It
// fails with ErrNotFound for a name that is not there, with ErrDeleted for one
// that is soft-deleted, and for a secret that has no profile.
func (e *Emulator) Rotate(vault, name string) (version string, err error) {
	p, err := e.store.profile(vault, name)
	if err == nil {
		_, version, err = e.addVersion(p)
	}
	if err != nil {
		return "", fmt.Errorf("rotating %q: %w", name, err)
	}
	return version, nil
}

// RotateAll renews all certificates that have a profile and are not deleted.
// One that fails does not keep the others from it.
func (e *Emulator) RotateAll() error {
	return inParallel(e.store.profiles(), func(p Profile) error {
		_, err := e.Rotate(p.Vault, p.Name)
		if errors.Is(err, ErrDeleted) {
			return nil // deleted since it was listed
		}
		return err
	})
}

// RotateEvery renews all certificates each d until ctx ends, and returns nil
// then. It ends at the first failure.
func (e *Emulator) RotateEvery(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("cannot rotate every %v: want a positive duration", d)
	}
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := e.RotateAll(); err != nil {
				return err
			}
		}
	}
}

// inParallel applies f to all of list, and returns all errors.
func inParallel[T any](list []T, f func(T) error) error {
	errs := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, item := range list {
		group.Go(func() error {
			errs[i] = f(item)
			return nil
		})
	}
	return errors.Join(group.Wait(), errors.Join(errs...))
}
