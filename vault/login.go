package vault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"os/exec"
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
	case AzureCLI:
		return l.openCLI()
	case Environment:
		return azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
	case Ambient:
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
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
	return azidentity.NewClientSecretCredential(l.id.TenantID, l.id.ClientID, string(bytes.TrimSpace(secret)),
		&azidentity.ClientSecretCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
}

func (l login) openCertificate() (azcore.TokenCredential, error) {
	text, err := l.read(l.id.CertificateFile, "certificate")
	if err != nil {
		return nil, err
	}
	var password []byte
	if l.id.PasswordFile != "" {
		if password, err = l.read(l.id.PasswordFile, "password"); err != nil {
			return nil, err
		}
	}
	certs, key, err := parsePrincipal(text, bytes.TrimSpace(password))
	if err != nil {
		return nil, explainCertificate(l.id, err)
	}
	c, err := azidentity.NewClientCertificateCredential(l.id.TenantID, l.id.ClientID, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: l.options(), DisableInstanceDiscovery: true})
	if err != nil {
		return nil, explainCertificate(l.id, err)
	}
	return c, nil
}

// parsePrincipal reads the certificate of a service principal with its key. azidentity reads PEM well, but of PFX only those
// of an older form: neither AES nor a MAC of SHA-256, which OpenSSL 3 writes.
func parsePrincipal(text, password []byte) ([]*x509.Certificate, crypto.PrivateKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		return azidentity.ParseCertificates(text, password)
	}
	key, leaf, others, err := pkcs12.DecodeChain(text, string(password))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the PFX: %w", err)
	}
	return append([]*x509.Certificate{leaf}, others...), key, nil
}

func (l login) openCLI() (azcore.TokenCredential, error) {
	if _, err := exec.LookPath("az"); err != nil {
		return nil, &Error{Kind: KindIdentity, Err: err, Fact: "no token: the Azure CLI is not installed, there is no az in PATH",
			Hint: "install the Azure CLI for the user that kvfs runs as, and sign in: " + loginCommand(l.id)}
	}
	return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: l.id.TenantID})
}
