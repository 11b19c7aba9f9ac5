// Package emulator is a set of Key Vaults that speak the real wire protocol, with
// what hands out tokens for them beside it: the identity endpoints of Azure's
// virtual machines and of Azure Arc, and the login servers. It serves `kvfs demo`, `kvfs emulator`
// and tests, ours and other people's. Clients of Azure's SDKs talk to it
// unmodified, with TLS and with the check of the challenge's resource on.
//
// It is for programs that want to be tested against the protocol instead of
// against a mock of their own interface: the first 401, the trailing slash,
// the ":443" in links, empty pages, inner error codes, throttling with and
// without Retry-After, certificates that were renewed, disabled, deleted or
// are not exportable, identities with rights on some vaults, the vaults and
// login servers of other clouds. It is not a place to keep secrets: everything lives in
// memory, anyone on the machine may ask the identity endpoint for a token,
// and the control endpoint asks for no credentials at all.
//
// # Endpoints
//
// The data plane is one TLS listener. The Host header says which vault is
// meant: VAULT.SUFFIX, each vault with its own suffix, with or without a port, for clients that dial the
// loopback address themselves (kvfs.transport.connect), and VAULT.localhost:PORT
// for clients that cannot. The bare "localhost" and the loopback addresses mean
// the first vault.
//
// The resource of the challenge is https://SUFFIX, or https://localhost:PORT,
// and carries a port whenever the Host header carries one other than 443. The
// login server that it names is that of the suffix's cloud.
//
// The login servers share the listener and are reached the same way, under the
// names login.microsoftonline.com, login.microsoftonline.us,
// login.chinacloudapi.cn, login.partner.microsoftonline.cn and those of
// [Options].LoginHosts:
//
//	GET  /common/discovery/instance                  custom authorities are unknown to it, as to the real one
//	GET  /TENANT/v2.0/.well-known/openid-configuration
//	GET  /TENANT/discovery/v2.0/keys                 the keys of tokens
//	POST /TENANT/oauth2/v2.0/token                   the client credentials grant
//
// TENANT is [Tenant] or [TenantDomain]. Applications ([Emulator.SetApplications])
// show a secret, an assertion signed with a certificate, or a token of an issuer
// that they trust. A cloud's login server has tokens for the vaults of its cloud
// alone, a custom authority for all.
//
// One certificate authority, made anew with each emulator, signs both the
// certificate of this listener and all certificates in the vaults; ca.pem holds
// its root, and [Emulator.RootCertificate] returns it.
//
// The identity endpoint is plain http in the form of Azure's instance metadata
// service, below /metadata/identity/oauth2/token. It answers for the identities
// of the machine, [Emulator.SetIdentities].
//
// The Azure Arc endpoint, there with [Options].ArcKeys, answers for the same
// identities under the same path, to whoever can read the key file that its
// challenge names. It knows api-versions 2019-11-01 and 2020-06-01, and echoes
// the identity asked for as present agents do; without a selector it means the
// system-assigned identity and no other.
//
// # Control
//
// Plain http and JSON. VAULT may always be left out, which means the first.
//
//	POST   /rotate?vault=VAULT&name=NAME             a new version; without name: of every certificate
//	POST   /enable?vault=VAULT&name=NAME&version=V   without version: the newest
//	POST   /disable?vault=VAULT&name=NAME&version=V
//	POST   /delete?vault=VAULT&name=NAME             soft delete
//	POST   /recover?vault=VAULT&name=NAME
//	PUT    /identities      an array of [Identity], in place of those before
//	PUT    /applications    an array of applications, in place of those before
//	PUT    /faults          a [Fault]: {"kind":"throttled","name":"www","retryAfter":"2s","count":3}
//	DELETE /faults          ends all faults
//	GET    /counters        [Counters]
//	GET    /certificates    an array of [Item]: everything in the vaults, without values
//
// The name of a fault may also be "@identity", "@arc" or "@login", for the
// places that are no vault.
//
// The array of PUT /identities, where vaults may be left out or null (all):
//
//	[{"clientId":"GUID","objectId":"GUID","system":true,"vaults":["contoso-web"]},
//	 {"clientId":"GUID","objectId":"GUID","resourceId":"/subscriptions/...","vaults":[]}]
//
// That of PUT /applications, where only clientId is required, and the answer
// says which objectId was chosen. A certificate is PEM, and so is a key, of a
// public key or a certificate, RSA or EC:
//
//	[{"clientId":"GUID","objectId":"GUID","vaults":["contoso-web"],"disabled":false,
//	  "secrets":[{"value":"...","expires":"2030-01-02T15:04:05Z"}],
//	  "certificates":["-----BEGIN CERTIFICATE-----\n..."],
//	  "federated":[{"issuer":"https://...","subject":"system:serviceaccount:NAMESPACE:NAME",
//	                "audience":"api://AzureADTokenExchange","key":"-----BEGIN PUBLIC KEY-----\n..."}]}]
//
// A request that makes no sense is answered 400, one about something absent
// 404, both with {"error":"what is wrong"}.
//
// # Invariants
//
// A version never changes its value. The newest version is the one made last,
// not the one with the greatest id. Whoever gets a value has shown a token that
// this emulator signed, for the resource of that vault, and that has not
// expired. What its principal may read is looked up with each request. A fault
// acts on requests with a valid token only, so that its Count is not used up by
// challenges; one of the login servers acts on token requests of proper form,
// one of the Azure Arc endpoint on the half of an exchange that it changes. A key
// of the Azure Arc endpoint is good once, and its file is gone with it. Settings and ca.pem are complete at every
// moment: they are replaced by rename.
//
// # Limitations
//
// The data plane reads: there is no PUT, no keys and no certificates
// collection. It answers in HTTP/1.1 only and never compresses.
// outContentType is ignored: values come in the form in which they are stored.
// Any api-version is accepted. Every token request gets a token of its own,
// where the real endpoint repeats a cached one for hours. There is one tenant, and
// all tokens name https://sts.windows.net as their issuer, those of China too. A
// principal has all rights on a vault or none, and one that was removed has none
// from then on, where the real service keeps its role assignments, and honours
// its tokens, for a while. People cannot sign
// in: no other grant than client credentials is known, and secrets in an
// Authorization header are not read. Keys of federated issuers are given, not
// fetched, and certificates of applications are compared, never verified by
// chain. The times of assertions are taken exactly, where the real login servers
// allow for clocks that differ. The messages of errors that are neither recorded
// nor documented (a malformed request, a token of a foreign issuer) are guesses;
// their statuses and codes are not. Codes of the login servers are documented
// ones, and statuses follow public reports of errors where there are any; for a
// disabled application, throttling, a malformed assertion and one with a
// stranger's signature they are guesses. There is no limit of 25 KB on values, so
// that clients can be shown larger ones.
package emulator
