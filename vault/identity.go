package vault

// Identity says who asks. The zero value is the machine's system-assigned managed identity at the default endpoint; where
// the machine has none and exactly one user-assigned identity, the endpoint answers with that one.
//
// At most one of ClientID, ObjectID and ResourceID is sent, the first in this order that is not empty.
// Identities are comparable: equal ones share their clients and tokens.
type Identity struct {
	// Endpoint is the identity endpoint, with or without /oauth2/token and a final slash, as in msiEndpoint.
	// Empty: http://169.254.169.254/metadata/identity, or the Arc agent's where there is one.
	Endpoint string
	// ClientID selects a user-assigned identity by its client (application) id.
	ClientID string
	// ObjectID selects a user-assigned identity by its object (principal) id.
	ObjectID string
	// ResourceID selects a user-assigned identity by its ARM resource id, "/subscriptions/...".
	ResourceID string
	// Ambient asks as a person at a terminal would: environment variables, workload identity, az login.
	// The other fields are ignored.
	Ambient bool
}

// String names the identity for people.
func (id Identity) String() string {
	switch {
	case id.Ambient:
		return "ambient credentials (environment, az login)"
	case id.ClientID != "":
		return "managed identity with client id " + id.ClientID
	case id.ObjectID != "":
		return "managed identity with object id " + id.ObjectID
	case id.ResourceID != "":
		return "managed identity with resource id " + id.ResourceID
	}
	return "system-assigned managed identity"
}
