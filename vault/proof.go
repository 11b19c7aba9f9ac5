package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// proofLimit bounds files that hold a secret, a token, or a certificate with its key.
const proofLimit = 64 << 10

// read returns what is in a file that proves the identity; what names the content for people.
func (l login) read(file, what string) ([]byte, error) {
	text, err := readProof(file)
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = errEmpty
	}
	if err != nil {
		return nil, explainFile(l.id, file, what, err)
	}
	return text, nil
}

var (
	errEmpty      = errors.New("it is empty")
	errNotRegular = errors.New("it is not a regular file")
	errTooLong    = errors.New("it is too large")
	errProofLarge = errors.New("it is larger than 64 KiB")
)

// readProof follows symbolic links, by which Kubernetes rotates files.
func readProof(file string) ([]byte, error) {
	text, err := readFile(file, 0, proofLimit)
	if errors.Is(err, errTooLong) {
		return nil, errProofLarge
	}
	return text, err
}

// readFile reads a regular file of at most limit bytes, and waits for nothing. flags are those of open(2) beside its own.
func readFile(file string, flags, limit int) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(text) > limit {
		return nil, errTooLong
	}
	return text, err
}

// lacks reports what an identity cannot log in without.
func (id Identity) lacks() error {
	if id.Method != WorkloadIdentity && id.Method != ServicePrincipal {
		return nil
	}
	proof, what := id.TokenFile, "no file with a token"
	if id.Method == ServicePrincipal {
		proof, what = id.SecretFile+id.CertificateFile, "neither a file with a secret nor one with a certificate"
	}
	for _, field := range []struct{ value, missing string }{{id.TenantID, "no tenant id"}, {id.ClientID, "no client id"}, {proof, what}} {
		if field.value != "" {
			continue
		}
		e := &Error{Kind: KindIdentity, Fact: fmt.Sprintf("the %s has %s", kindOf(id), field.missing), Hint: "complete the identity in the settings"}
		if id.Method == WorkloadIdentity {
			e.Hint += ", or let the webhook of workload identity set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE"
		}
		return e
	}
	return nil
}

func kindOf(id Identity) string {
	if id.Method == WorkloadIdentity {
		return "workload identity"
	}
	return "service principal"
}

// explainFile says why a file proves nothing.
func explainFile(id Identity, file, what string, err error) *Error {
	file = folded(file)
	e := &Error{Kind: KindIdentity, Err: err, Hint: fmt.Sprintf("write the %s to %s", what, file)}
	cause := folded(innermost(err).Error())
	switch {
	case errors.Is(err, os.ErrNotExist):
		cause = "there is no such file"
	case errors.Is(err, os.ErrPermission):
		cause = "permission denied"
		e.Hint = fmt.Sprintf("let the user that kvfs runs as read %s", file)
	case errors.Is(err, syscall.EISDIR):
		cause = errNotRegular.Error()
	}
	if id.Method == WorkloadIdentity && !errors.Is(err, os.ErrPermission) {
		e.Hint = fmt.Sprintf("check that %s is where the cluster puts the token for this workload", file)
	}
	name := id.String()
	if id.Method == WorkloadIdentity || id.Method == ServicePrincipal { // the file is named once
		name = kindOf(id) + " " + folded(id.ClientID)
	}
	e.Fact = fmt.Sprintf("no token for the %s: cannot use the %s in %s: %s", name, what, file, cause)
	return e
}

type assertion struct{ Issuer, Subject, Audience string }

// shownClaims reads who a token says it is from and for, without any check: it serves to fill in a command. The claims are
// not secret, the signature beside them is.
func shownClaims(file string) (a assertion) {
	text, err := readProof(file)
	if err != nil {
		return assertion{}
	}
	parts := strings.Split(strings.TrimSpace(string(text)), ".")
	if len(parts) != 3 {
		return assertion{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return assertion{}
	}
	var claims struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Audience json.RawMessage `json:"aud"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return assertion{}
	}
	a = assertion{Issuer: claims.Issuer, Subject: claims.Subject}
	var several []string
	if json.Unmarshal(claims.Audience, &a.Audience) != nil && json.Unmarshal(claims.Audience, &several) == nil && len(several) > 0 {
		a.Audience = several[0]
	}
	return a
}
