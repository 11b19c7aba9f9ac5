// Package vault reads secrets from Azure Key Vault: a [Ref] says which secret, an [Identity] says who asks, a [Client]
// fetches. It is the only importer of the Azure SDK, and the seam behind which all of Azure lies.
//
// Every call of [Client.Get] and [Client.Versions] is one try: nothing is repeated on a failing vault, since the caller
// has a schedule of its own and would otherwise multiply it. Errors are always *[Error], sorted by [Kind], with a fact and
// a hint for an Azure administrator. A secret's value comes as a [Value], which redacts itself wherever it is printed.
//
// Do not use it to write secrets, for keys or certificates (those are read through the secret behind a certificate), or
// for vaults that must be reached without TLS.
//
// Invariants:
//   - Tokens go only to hosts that [ParseRef] admitted, over TLS, and only for a resource that the SDK's challenge
//     verification finds to be the parent of the host. Redirects and next links to other hosts are refused.
//   - A try ends within Options.TryTimeout, the body and the request for a token included; the connection of a try that
//     did not end by itself is not used again.
//   - Answers are bounded: 1 MiB per body, 10,000 versions per secret.
//   - A token that a vault rejected is forgotten, and so is the credential that gave it, unless it is younger than a
//     minute: one vault that rejects every token costs the identity endpoint at most a request per minute.
//   - A token that has not ended serves while its renewal hangs, and after it failed.
//   - Versions that leave this package have 32 hexadecimal digits: they become file names.
//   - Nothing that this package returns or logs holds a token.
//
// # Limitations
//
// MSAL keeps the tokens of managed identities in a cache of the process, keyed by identity and resource but not by
// endpoint, and a rejected token stays in it until five minutes before its end. This package therefore always asks past
// that cache and keeps tokens per Identity; a process that uses azidentity beside it still shares MSAL's cache. With
// ambient credentials MSAL's cache counts, for a managed identity among them.
//
// The identity endpoint has a cache of its own, and may hand out a rejected token again until it ends.
//
// Which protocol an identity endpoint speaks is azidentity's decision, made from the environment of the process (see
// azidentity.ManagedIdentityCredential): Azure Arc is recognised by IDENTITY_ENDPOINT with IMDS_ENDPOINT, or by the agent's
// program, not by Identity.Endpoint.
//
// The first request of each vault and identity is sent without a token, to learn where to get one: it counts as a
// transaction, and concurrent first requests cost one each.
//
// The SDK asks for its newest API version; a vault outside of the public clouds that refuses it cannot be read.
package vault
