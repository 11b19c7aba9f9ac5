package emulator

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The JSON forms in which the control endpoint takes applications.
type (
	applicationJSON struct {
		ClientID     string           `json:"clientId"`
		ObjectID     string           `json:"objectId"`
		Vaults       []string         `json:"vaults"`
		Secrets      []secretJSON     `json:"secrets"`
		Certificates []string         `json:"certificates"` // PEM
		Federated    []federationJSON `json:"federated"`
		Disabled     bool             `json:"disabled"`
	}
	secretJSON struct {
		Value   string    `json:"value"`
		Expires time.Time `json:"expires"`
	}
	federationJSON struct {
		Issuer   string `json:"issuer"`
		Subject  string `json:"subject"`
		Audience string `json:"audience"`
		Key      string `json:"key"` // PEM of a public key or a certificate
	}
)

// principal is what the control endpoint answers for each application.
type principal struct {
	ClientID string   `json:"clientId"`
	ObjectID string   `json:"objectId"`
	Vaults   []string `json:"vaults"` // null: all
	Disabled bool     `json:"disabled"`
}

func (e *Emulator) controlIdentities(w http.ResponseWriter, r *http.Request) {
	ids := []Identity{}
	err := readStrictly(w, r, &ids)
	for i, id := range ids {
		if id.ClientID == "" || id.ObjectID == "" {
			err = errors.Join(err, fmt.Errorf("identity %d: clientId and objectId are required", i))
		}
		err = errors.Join(err, e.checkVaults(id.Vaults))
	}
	if err != nil {
		complain(w, fmt.Errorf("reading identities: %w", err))
		return
	}
	e.SetIdentities(ids...)
	plainJSON(w, http.StatusOK, ids)
}

func (e *Emulator) controlApplications(w http.ResponseWriter, r *http.Request) {
	var list []applicationJSON
	err := readStrictly(w, r, &list)
	apps := make([]Application, len(list))
	for i, j := range list {
		app, bad := j.application()
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("application %d: %w", i, bad))
		}
		err = errors.Join(err, e.checkVaults(app.Vaults))
		apps[i] = app.clone()
	}
	if err != nil {
		complain(w, fmt.Errorf("reading applications: %w", err))
		return
	}
	e.SetApplications(apps...)
	said := make([]principal, len(apps))
	for i, app := range apps {
		said[i] = principal{app.ClientID, app.ObjectID, app.Vaults, app.Disabled}
	}
	plainJSON(w, http.StatusOK, said)
}

// readStrictly reads one JSON value and refuses fields it does not know: a
// typing error would give other rights than the ones meant.
func readStrictly(w http.ResponseWriter, r *http.Request, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after the array")
	}
	return nil
}

func (e *Emulator) checkVaults(names []string) error {
	for _, name := range names {
		if _, known := e.store.vaults[strings.ToLower(name)]; !known {
			return fmt.Errorf("vault %q: %w", name, ErrNotFound)
		}
	}
	return nil
}

func (j applicationJSON) application() (Application, error) {
	app := Application{ClientID: j.ClientID, ObjectID: j.ObjectID, Vaults: j.Vaults, Disabled: j.Disabled}
	if j.ClientID == "" {
		return app, errors.New("clientId is required")
	}
	for _, s := range j.Secrets {
		if s.Value == "" {
			return app, errors.New("a secret has no value")
		}
		app.Secrets = append(app.Secrets, ApplicationSecret(s))
	}
	for _, text := range j.Certificates {
		cert, err := readCertificate([]byte(text))
		if err != nil {
			return app, fmt.Errorf("certificate: %w", err)
		}
		app.Certificates = append(app.Certificates, cert)
	}
	for _, f := range j.Federated {
		key, err := readPublicKey([]byte(f.Key))
		if err == nil && (f.Issuer == "" || f.Subject == "") {
			err = errors.New("issuer and subject are required")
		}
		if err != nil {
			return app, fmt.Errorf("federated credential: %w", err)
		}
		app.Federated = append(app.Federated, FederatedCredential{f.Issuer, f.Subject, f.Audience, key})
	}
	return app, nil
}

// readCertificate takes the first certificate, so that a file with the key and
// the chain will do.
func readCertificate(text []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("want a certificate in PEM form")
}

func readPublicKey(text []byte) (crypto.PublicKey, error) {
	var key crypto.PublicKey
	block, _ := pem.Decode(bytes.TrimSpace(text))
	switch {
	case block == nil:
		return nil, errors.New("want a public key in PEM form")
	case block.Type == "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		key = cert.PublicKey
	default:
		var err error
		if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return nil, err
		}
	}
	switch key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return key, nil
	}
	return nil, fmt.Errorf("a key of type %T signs no tokens: want RSA or EC", key)
}
