package vault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"software.sslmate.com/src/go-pkcs12"
)

// authorityOf returns the URL of the login server where id gets tokens for the vault of ref, "" if it needs none or if the
// environment names it.
func authorityOf(id Identity, ref Ref) (string, error) {
	switch {
	case id.Method == ManagedIdentity, id.Method == AzureCLI:
		return "", nil
	case id.Authority != "":
		return checkAuthority(id.Authority)
	case (id.Method == Environment || id.Method == Ambient) && os.Getenv("AZURE_AUTHORITY_HOST") != "":
		return "", nil
	}
	host, _, _ := strings.Cut(strings.ToLower(ref.Host()), ":")
	switch {
	case strings.HasSuffix(host, ".usgovcloudapi.net"):
		return cloud.AzureGovernment.ActiveDirectoryAuthorityHost, nil
	case strings.HasSuffix(host, ".azure.cn"):
		return cloud.AzureChina.ActiveDirectoryAuthorityHost, nil
	}
	return cloud.AzurePublic.ActiveDirectoryAuthorityHost, nil
}

func checkAuthority(s string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return "", &Error{Kind: KindIdentity, Fact: fmt.Sprintf("authority %s is not the https URL of a login server", quoted(s)),
			Hint: "write the host alone, such as https://login.microsoftonline.us, or leave it out"}
	}
	return "https://" + strings.TrimSuffix(strings.ToLower(u.Host), ":443") + "/", nil
}

// login makes azidentity's credential of an identity that is not the machine's.
type login struct {
	id        Identity
	authority string // "": the environment's
	transport loginTransporter
}

// open makes the credential from what its files hold now. The error is an *[Error] unless azidentity made it.
func (l login) open() (azcore.TokenCredential, error) {
	if err := l.id.lacks(); err != nil {
		return nil, err
	}
	switch l.id.Method {
	case WorkloadIdentity:
		return l.openWorkload()
	case ServicePrincipal:
		if l.id.CertificateFile != "" {
			return l.openCertificate()
		}
		return l.openSecret()
	case Environment:
		return l.openEnvironment()
	case Ambient:
		return l.openAmbient()
	}
	return nil, &Error{Kind: KindIdentity, Fact: fmt.Sprintf("%q is no kind of identity", string(l.id.Method)), Hint: "see the settings page for the kinds there are"}
}

// options keep azidentity, which on its own repeats for minutes, within one try of ours. Instance discovery, which all
// callers switch off, would ask the public cloud's login server whether to trust an authority that the settings name, with
// one more request per token.
func (l login) options() azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: l.authority},
		Transport: l.transport,
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}
}

// openWorkload reads the token itself: azidentity.WorkloadIdentityCredential, which is a ClientAssertionCredential with a
// file, reads without bound and takes a final line feed as part of the token.
func (l login) openWorkload() (azcore.TokenCredential, error) {
	token, err := l.read(l.id.TokenFile, "token")
	if err != nil {
		return nil, err
	}
	show := func(context.Context) (string, error) { return string(bytes.TrimSpace(token)), nil }
	return azidentity.NewClientAssertionCredential(l.id.TenantID, l.id.ClientID, show,
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
}

func (l login) openSecret() (azcore.TokenCredential, error) {
	secret, err := l.read(l.id.SecretFile, "secret")
	if err != nil {
		return nil, err
	}
	return l.bySecret(l.id.TenantID, l.id.ClientID, string(bytes.TrimSpace(secret)))
}

func (l login) bySecret(tenant, client, secret string) (azcore.TokenCredential, error) {
	return azidentity.NewClientSecretCredential(tenant, client, secret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
}

func (l login) openCertificate() (azcore.TokenCredential, error) {
	p := principal{tenant: l.id.TenantID, client: l.id.ClientID, certificateFile: l.id.CertificateFile, passwordPlace: l.id.PasswordFile}
	if l.id.PasswordFile != "" {
		password, err := l.read(l.id.PasswordFile, "password")
		if err != nil {
			return nil, err
		}
		p.password = bytes.TrimSpace(password)
	}
	return l.byCertificate(p)
}

// principal is an application that shows a certificate.
type principal struct {
	tenant, client  string
	certificateFile string
	password        []byte
	passwordPlace   string // where the password is, "" if there is none
	sendChain       bool   // for applications that trust the issuer and the name of the certificate
}

func (l login) byCertificate(p principal) (azcore.TokenCredential, error) {
	text, err := l.read(p.certificateFile, "certificate")
	if err != nil {
		return nil, err
	}
	certs, key, err := parsePrincipal(text, p.password)
	if err != nil {
		return nil, explainCertificate(l.id, p, err)
	}
	c, err := azidentity.NewClientCertificateCredential(p.tenant, p.client, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true, SendCertificateChain: p.sendChain})
	if err != nil {
		return nil, explainCertificate(l.id, p, err)
	}
	return c, nil
}

// openEnvironment reads the variables that azidentity.EnvironmentCredential reads, apart from those of a person with a
// password. That one reads the certificate without bound, waits for ever at a pipe, and knows only older forms of PFX.
func (l login) openEnvironment() (azcore.TokenCredential, error) {
	tenant, client := os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID")
	secret, certificate, password := os.Getenv("AZURE_CLIENT_SECRET"), os.Getenv("AZURE_CLIENT_CERTIFICATE_PATH"), os.Getenv("AZURE_CLIENT_CERTIFICATE_PASSWORD")
	switch {
	case tenant == "":
		return nil, explainUnset(l.id, "AZURE_TENANT_ID")
	case client == "":
		return nil, explainUnset(l.id, "AZURE_CLIENT_ID")
	case secret != "":
		return l.bySecret(tenant, client, secret)
	case certificate == "":
		return nil, explainUnset(l.id, "AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH")
	}
	p := principal{tenant: tenant, client: client, certificateFile: certificate, password: []byte(password)}
	if password != "" {
		p.passwordPlace = "AZURE_CLIENT_CERTIFICATE_PASSWORD"
	}
	chain := os.Getenv("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN")
	p.sendChain = chain == "1" || strings.EqualFold(chain, "true")
	return l.byCertificate(p)
}

// openAmbient looks at the files first that azidentity would read without bound or wait at; those that are merely absent or
// unreadable cost it nothing, and it goes on with what else there is.
func (l login) openAmbient() (azcore.TokenCredential, error) {
	for _, proof := range []struct{ file, what string }{
		{os.Getenv("AZURE_CLIENT_CERTIFICATE_PATH"), "certificate"}, {os.Getenv("AZURE_FEDERATED_TOKEN_FILE"), "token"},
	} {
		if proof.file == "" {
			continue
		}
		if _, err := readProof(proof.file); errors.Is(err, errNotRegular) || errors.Is(err, errProofLarge) {
			return nil, explainFile(l.id, proof.file, proof.what, err)
		}
	}
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true,
		TenantID: os.Getenv("AZURE_TENANT_ID")})
}

// parsePrincipal reads the certificate of a service principal with its key. azidentity reads PEM well, but of PFX only those
// of an older form: neither AES nor a MAC of SHA-256, which OpenSSL 3 writes.
func parsePrincipal(text, password []byte) ([]*x509.Certificate, crypto.PrivateKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		if !bytes.Contains(text, []byte("PRIVATE KEY-----")) {
			return nil, nil, errNoKey
		}
		return azidentity.ParseCertificates(text, nil)
	}
	key, leaf, others, err := pkcs12.DecodeChain(text, string(password))
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, nil, errPassword
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the PFX: %w", err)
	}
	return append([]*x509.Certificate{leaf}, others...), key, nil
}
