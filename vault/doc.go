// Package vault reads secrets from Azure Key Vault: a [Ref] says which secret, an [Identity] says who asks, a [Client]
// fetches. It is the only importer of the Azure SDK, and the seam behind which all of Azure lies.
//
// Every call of [Client.Get] and [Client.Versions] is one try: nothing is repeated on a failing vault, since the caller
// has a schedule of its own and would otherwise multiply it. Errors are always *[Error], sorted by [Kind], with a fact and
// a hint for an Azure administrator. A secret's value comes as a [Value], which redacts itself wherever it is printed.
//
// An identity is a managed identity of the machine, in Azure or on Azure Arc, whose protocols are spoken here; or an
// application or a person that azidentity logs in. [Identity.Resolve] completes it with what the machine says about itself.
//
// Do not use it to write secrets, for keys or certificates (those are read through the secret behind a certificate), or
// for vaults that must be reached without TLS.
//
// Invariants:
//   - Tokens go only to hosts that [ParseRef] admitted, over TLS, and only for a resource that the SDK's challenge
//     verification finds to be the parent of the host. Redirects and next links to other hosts are refused.
//   - The identity that the settings name is the one that asks. The environment of the process counts for the methods
//     [Environment] and [Ambient], and where Resolve is called; a token that the endpoint says is another identity's is refused.
//   - Secrets and assertions go only to the authority and where its OpenID configuration sends them, over TLS. What a
//     challenge of a vault says about login servers and tenants is not followed, its tenant excepted where the identity has
//     none.
//   - Files that prove an identity are read anew for each token, bounded, and never kept. For the method [ManagedIdentity], keys
//     of Azure Arc are read from the agent's directory alone, and the file itself is no link.
//   - The identity endpoint is asked without a proxy.
//   - A try ends within Options.TryTimeout, or when its caller gives up, the body and the request for a token included,
//     whoever makes that; the connection of a try that did not end by itself is not used again.
//   - Answers are bounded: 1 MiB per body, 10,000 versions per secret.
//   - A token that a vault rejected is forgotten, unless it is younger than a minute: one vault that rejects every token
//     costs the identity endpoint or login server at most a request per minute.
//   - A token is renewed when half of its life is over. It serves on after its renewal failed, and while it hangs: one caller
//     at a time waits for that, for two seconds at most.
//   - What failed to give a token is asked again after a second, or when it asks to wait, after that, at most five minutes:
//     however many secrets are read with the identity. Claims that a vault demands cost a request per minute, whatever they are.
//   - A value or a list is that of the secret that was asked for, as far as the answer names one.
//   - Versions that leave this package have 32 hexadecimal digits: they become file names.
//   - Nothing that this package returns or logs holds a token, a key or a secret of an identity, the causes of errors included.
//
// # Limitations
//
// The identity endpoint has a cache of its own, and may hand out a rejected token again until it ends. So has the Azure CLI.
//
// With ambient credentials all is azidentity's affair but a look at their files beforehand. For a managed identity, MSAL keeps
// its tokens in a cache of the process, AZURE_CLIENT_ID selects it, and keys of Azure Arc are read as MSAL reads them, without
// the care that is taken here. An az that hangs is ended without its children. With AZURE_TENANT_ID, the Azure CLI too is asked
// for a token of that tenant.
//
// A login through azidentity obeys AZURE_REGIONAL_AUTHORITY_NAME, whatever the settings say.
//
// The certificate of a service principal needs an RSA key, in PEM without a password or in a PFX.
//
// An application whose vaults are in several tenants needs an identity for each: Identity.TenantID is where tokens come from.
//
// The environment's AZURE_USERNAME and AZURE_PASSWORD are for the ambient credentials alone.
//
// A link in the path of the directory where Azure Arc's agent keeps its keys is followed: only root can make one.
//
// The first request of each vault and identity is sent without a token, to learn where to get one: it counts as a
// transaction, and concurrent first requests cost one each.
//
// The SDK asks for its newest API version; a vault outside of the public clouds that refuses it cannot be read.
package vault
