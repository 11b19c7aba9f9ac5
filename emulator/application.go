package emulator

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Application is an application of the tenant with its service principal, which
// gets tokens from the login servers.
type Application struct {
	ClientID     string                // the application id, a GUID
	ObjectID     string                // of the service principal, a GUID; "": one that follows from ClientID
	Vaults       []string              // names of the vaults it may read; nil: all; empty: none
	Secrets      []ApplicationSecret   // any of them will do
	Certificates []*x509.Certificate   // any of them may sign a client assertion
	Federated    []FederatedCredential // tokens of other issuers that it trusts
	Disabled     bool                  // gets no tokens
}

// ApplicationSecret is a client secret. It prints itself as "[redacted]".
type ApplicationSecret struct {
	Value   string
	Expires time.Time // zero: never
}

const redacted = "[redacted]"

// Format hides the secret from all verbs of package fmt.
func (s ApplicationSecret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the secret from package slog.
func (s ApplicationSecret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the secret from JSON.
func (s ApplicationSecret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// FederatedCredential says which tokens of another issuer an application
// accepts in place of a secret: those with exactly this issuer, subject and
// audience, signed with the private half of Key.
type FederatedCredential struct {
	Issuer   string
	Subject  string
	Audience string           // default: "api://AzureADTokenExchange"
	Key      crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey; the real service fetches it from Issuer
}

type applications struct {
	mu   sync.RWMutex
	apps []Application
}

// SetApplications replaces the applications of the tenant. An emulator begins
// with none.
func (e *Emulator) SetApplications(apps ...Application) {
	list := make([]Application, len(apps))
	for i, app := range apps {
		list[i] = app.clone()
	}
	e.applications.mu.Lock()
	defer e.applications.mu.Unlock()
	e.applications.apps = list
}

func (a Application) clone() Application {
	a.ObjectID = cmp.Or(a.ObjectID, principalOf(a.ClientID))
	a.Vaults = slices.Clone(a.Vaults)
	a.Secrets = slices.Clone(a.Secrets)
	a.Certificates = slices.Clone(a.Certificates)
	a.Federated = slices.Clone(a.Federated)
	return a
}

// principalOf makes the object id of an application that was given none. It is
// the same each time, so that rights can be changed by setting it again.
func principalOf(clientID string) string {
	sum := sha256.Sum256([]byte("service principal of " + strings.ToLower(clientID)))
	return uuid([16]byte(sum[:16]))
}

// find returns a copy that shares what is never changed.
func (s *applications) find(clientID string) (Application, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, app := range s.apps {
		if strings.EqualFold(app.ClientID, clientID) {
			return app, true
		}
	}
	return Application{}, false
}
