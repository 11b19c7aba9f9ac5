package emulator

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // PFX files are authenticated this way
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// LoadDir makes each *.pfx, *.p12 and *.pem file in dir a secret of the first
// vault, named after the file without its ending, and adds it to the settings
// document. PFX files must have the empty password, PEM files hold a key and a
// certificate; the content is then served as it is. Loaded secrets cannot be
// rotated, but loading a directory again gives each a new version. Nothing is
// loaded when one of the files is refused; the error names all of them.
func (e *Emulator) LoadDir(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}
	versions := map[string]*version{}
	var errs []error
	for _, file := range files {
		name, v, err := loadFile(filepath.Join(dir, file.Name()))
		switch {
		case err == nil && v != nil && versions[name] != nil:
			errs = append(errs, fmt.Errorf("loading %s: there is another file of that name", file.Name()))
		case err == nil && v != nil:
			versions[name] = v
		case err != nil:
			errs = append(errs, fmt.Errorf("loading %s: %w", file.Name(), err))
		}
	}
	if len(versions) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("loading certificates: no *.pfx, *.p12 or *.pem file in %s", dir))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for name, v := range versions {
		errs = append(errs, e.store.add("", name, v, nil))
	}
	return errors.Join(append(errs, e.writeSettings())...)
}

// loadFile returns a nil version for a file with another ending.
func loadFile(path string) (name string, v *version, err error) {
	ending := filepath.Ext(path)
	name = strings.TrimSuffix(filepath.Base(path), ending)
	var check func([]byte) (*x509.Certificate, error)
	contentType := contentPFX
	encode := base64.StdEncoding.EncodeToString
	switch strings.ToLower(ending) {
	case ".pfx", ".p12":
		check = checkPFX
	case ".pem":
		check, contentType, encode = checkPEM, contentPEM, func(b []byte) string { return string(b) }
	default:
		return "", nil, nil
	}
	if !validName(name) {
		return "", nil, nameError(name)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	leaf, err := check(content)
	if err != nil {
		return "", nil, err
	}
	v = newVersion(contentType, encode(content), time.Now())
	v.certify(leaf)
	return name, v, nil
}

// checkPEM wants a certificate and a key without a password. The leaf is the
// first certificate that is no authority.
func checkPEM(text []byte) (leaf *x509.Certificate, err error) {
	keys, certs := 0, 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("its key is protected by a password")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			keys++
		case block.Type == "CERTIFICATE":
			certs++
			if c, err := x509.ParseCertificate(block.Bytes); err == nil && leaf == nil && !c.IsCA {
				leaf = c
			}
		}
	}
	switch {
	case certs == 0:
		return nil, errors.New("holds no certificate in PEM form")
	case keys == 0:
		return nil, errors.New("holds no private key")
	}
	return leaf, nil
}

// pfx is the outside of a PKCS#12 file.
type pfx struct {
	Version  int
	AuthSafe struct {
		ContentType asn1.ObjectIdentifier
		Content     asn1.RawValue `asn1:"explicit,tag:0"`
	}
	MAC struct {
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
		Salt       []byte
		Iterations int `asn1:"optional,default:1"`
	} `asn1:"optional"`
}

// macHashes are the hashes of the classic MAC. Files with another one, PBMAC1
// among them, are taken on trust.
var macHashes = map[string]func() hash.Hash{
	oidSHA1.String():         sha1.New,
	"2.16.840.1.101.3.4.2.1": sha256.New,
	"2.16.840.1.101.3.4.2.2": sha512.New384,
	"2.16.840.1.101.3.4.2.3": sha512.New,
}

// maxIterations keeps a file from stalling the emulator.
const maxIterations = 1_000_000

// checkPFX finds files that are no PKCS#12 and files that have a password. It
// does not look inside, so the leaf stays unknown.
func checkPFX(der []byte) (*x509.Certificate, error) {
	var p pfx
	if rest, err := asn1.Unmarshal(der, &p); err != nil || len(rest) > 0 || p.Version != 3 || !p.AuthSafe.ContentType.Equal(oidData) {
		return nil, errors.New("is no PKCS#12 file in DER")
	}
	newHash := macHashes[p.MAC.Digest.Algorithm.Algorithm.String()]
	if newHash == nil {
		return nil, nil
	}
	if p.MAC.Iterations < 1 || p.MAC.Iterations > maxIterations {
		return nil, fmt.Errorf("asks for %d iterations: want 1 to %d", p.MAC.Iterations, maxIterations)
	}
	var content []byte
	if _, err := asn1.Unmarshal(p.AuthSafe.Content.Bytes, &content); err != nil {
		return nil, errors.New("is no PKCS#12 file in DER")
	}
	for _, password := range [][]byte{emptyPassword, noPassword} {
		if hmac.Equal(pfxMAC(newHash, password, p.MAC.Salt, p.MAC.Iterations, content), p.MAC.Digest.Digest) {
			return nil, nil
		}
	}
	return nil, errors.New("is protected by a password, or corrupt: want the empty password")
}
