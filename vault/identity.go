package vault

import (
	"cmp"
	"fmt"
	"strconv"
)

// Method is how an identity proves who it is.
type Method string

const (
	// ManagedIdentity asks the identity endpoint of the machine: Azure's instance metadata service, or the agent of Azure Arc.
	// No method at all means it too, but see Identity.Resolve.
	ManagedIdentity Method = "managed-identity"
	// WorkloadIdentity shows a token of another issuer, such as a Kubernetes cluster, that the application trusts.
	WorkloadIdentity Method = "workload-identity"
	// ServicePrincipal shows a secret or a certificate of the application.
	ServicePrincipal Method = "service-principal"
	// AzureCLI asks the Azure CLI, in which a person has signed in.
	AzureCLI Method = "azure-cli"
	// Environment is the service principal that the variables AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or
	// AZURE_CLIENT_CERTIFICATE_PATH of the process name.
	Environment Method = "environment"
	// Ambient asks as a person at a terminal would: environment variables, workload identity, managed identity, az login,
	// whichever is there first.
	Ambient Method = "ambient"
)

// Identity says who asks. The zero value is the machine's system-assigned managed identity at the default endpoint, unless
// Resolve knows better; where the machine has none and exactly one user-assigned identity, the endpoint answers with that one.
//
// Identities are comparable: equal ones share their clients and tokens.
type Identity struct {
	Method Method

	// Endpoint is the identity endpoint of a managed identity, with or without /oauth2/token and a final slash, as in
	// msiEndpoint. Empty: http://169.254.169.254/metadata/identity.
	Endpoint string
	// ClientID is the client (application) id of a user-assigned managed identity, of a workload identity or of a service
	// principal.
	ClientID string
	// ObjectID selects a user-assigned managed identity by its object (principal) id.
	ObjectID string
	// ResourceID selects a user-assigned managed identity by its ARM resource id, "/subscriptions/...". Of the three ids the
	// first in this order that is not empty is sent.
	ResourceID string

	// TenantID is the directory of a workload identity or a service principal, a GUID or a domain. Its tokens come from there,
	// whichever tenant a vault names. Empty for AzureCLI: the vault's.
	TenantID string
	// Authority is the https URL of the login server, such as https://login.microsoftonline.us. Empty: that of the vault's
	// cloud.
	Authority string
	// TokenFile holds the token that a workload identity shows. This file and the others here have at most 64 KiB, and are
	// read again whenever a new token is needed.
	TokenFile string
	// SecretFile holds the secret of a service principal, without the white space around it.
	SecretFile string
	// CertificateFile holds the certificate of a service principal with its key: PEM, or PFX with the password in PasswordFile.
	CertificateFile string
	// PasswordFile holds the password of CertificateFile, without the white space around it. Empty: it has none.
	PasswordFile string
}

// Managed reports whether the identity is a managed identity.
func (id Identity) Managed() bool { return id.Method == "" || id.Method == ManagedIdentity }

// explicit returns the identity with its method: those that differ in saying it share their tokens.
func (id Identity) explicit() Identity {
	if id.Managed() {
		id.Method = ManagedIdentity
	}
	return id
}

// Key is a text that equal identities have in common and others have not, for maps and messages to programs. It holds no
// secret: an Identity has none. What a process keeps for one after it goes by this text, so it stays: the fields as %q has
// them.
func (id Identity) Key() string {
	b := []byte{'{'}
	for _, field := range []string{string(id.Method), id.Endpoint, id.ClientID, id.ObjectID, id.ResourceID, id.TenantID, id.Authority,
		id.TokenFile, id.SecretFile, id.CertificateFile, id.PasswordFile} {
		b = append(strconv.AppendQuote(b, field), ' ')
	}
	b[len(b)-1] = '}'
	return string(b)
}

// String names the identity for people.
func (id Identity) String() string {
	switch id.Method {
	case WorkloadIdentity:
		return fmt.Sprintf("workload identity %s with the token in %s", folded(id.ClientID), folded(id.TokenFile))
	case ServicePrincipal:
		if id.CertificateFile != "" {
			return fmt.Sprintf("service principal %s with the certificate in %s", folded(id.ClientID), folded(id.CertificateFile))
		}
		return fmt.Sprintf("service principal %s with the secret in %s", folded(id.ClientID), folded(id.SecretFile))
	case AzureCLI:
		return "person signed in to the Azure CLI"
	case Environment:
		if id.ClientID == "" {
			return "service principal of the environment"
		}
		return fmt.Sprintf("service principal %s of the environment", folded(id.ClientID))
	case Ambient:
		return "ambient credentials (environment, az login)"
	}
	switch name, value := id.selector(); name {
	case "client_id":
		return "managed identity with client id " + folded(value)
	case "object_id":
		return "managed identity with object id " + folded(value)
	case "msi_res_id":
		return "managed identity with resource id " + folded(value)
	}
	return "system-assigned managed identity"
}

// Resolve completes an identity with what this machine and process say about it: settings are made for many machines. An
// identity that is complete stays as it is, so the environment never overrules the settings. getenv and exists are
// os.Getenv and a test for a file.
//
//   - The zero Identity, settings that say nothing, becomes what the AZURE_* variables hold: a service principal, which stays
//     in the environment, or a workload identity. Otherwise it is a managed identity.
//   - A managed identity without Endpoint gets that of Azure Arc where there is an agent.
//   - A workload identity takes what it lacks from the variables that Kubernetes' webhook for it sets.
func (id Identity) Resolve(getenv func(string) string, exists func(file string) bool) Identity {
	if id == (Identity{}) {
		id = fromEnvironment(getenv)
	}
	switch {
	case id.Managed() && id.Endpoint == "":
		id.Endpoint = arcEndpointOf(getenv, exists)
	case id.Method == WorkloadIdentity:
		id.TenantID = cmp.Or(id.TenantID, getenv("AZURE_TENANT_ID"))
		id.ClientID = cmp.Or(id.ClientID, getenv("AZURE_CLIENT_ID"))
		id.TokenFile = cmp.Or(id.TokenFile, getenv("AZURE_FEDERATED_TOKEN_FILE"))
		id.Authority = cmp.Or(id.Authority, getenv("AZURE_AUTHORITY_HOST"))
	}
	return id
}

func fromEnvironment(getenv func(string) string) Identity {
	tenant, client := getenv("AZURE_TENANT_ID"), getenv("AZURE_CLIENT_ID")
	switch {
	case tenant == "" || client == "":
		return Identity{}
	case getenv("AZURE_CLIENT_SECRET") != "" || getenv("AZURE_CLIENT_CERTIFICATE_PATH") != "":
		return Identity{Method: Environment, TenantID: tenant, ClientID: client}
	case getenv("AZURE_FEDERATED_TOKEN_FILE") != "":
		return Identity{Method: WorkloadIdentity}
	}
	return Identity{}
}

// arcEndpointOf recognises Azure Arc as azidentity does: by both variables that its agent sets, or by its program.
func arcEndpointOf(getenv func(string) string, exists func(file string) bool) string {
	if endpoint := getenv("IDENTITY_ENDPOINT"); endpoint != "" && getenv("IMDS_ENDPOINT") != "" {
		return endpoint
	}
	if exists(arcAgent) {
		return arcEndpoint
	}
	return ""
}
