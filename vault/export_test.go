package vault

import (
	"context"
	"net"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
)

// AgeTokens makes every token and every failure that c holds so much older, without bringing the end of a token nearer.
func (c *Client) AgeTokens(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cred := range c.credentials {
		cred.age(by)
	}
}

func (c *credential) age(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.held {
		h.issued, h.asked, h.demanded, h.token.RefreshOn = h.issued.Add(-by), h.asked.Add(-by), h.demanded.Add(-by), h.token.RefreshOn.Add(-by)
		c.held[key] = h
	}
}

// MoveArcKeys has c look for the keys of Azure Arc in directory, where a test may write. It must come before any call.
func (c *Client) MoveArcKeys(directory string) { c.arcKeys = directory }

// MoveMetadataService has c find Azure's metadata service, and all identity endpoints, at address. It must come before any call.
func (c *Client) MoveMetadataService(address string) {
	transport := newIdentityTransport()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c.machine.Transport = metered{transport, nil}
}

// NewManaged returns the credential of a managed identity alone, with keys as the directory of Azure Arc's.
func NewManaged(id Identity, keys string) (azcore.TokenCredential, error) {
	c, err := New(Options{})
	if err != nil {
		return nil, err
	}
	return newManaged(id, keys, c.machine)
}

// At returns id with that identity endpoint.
func (id Identity) At(endpoint string) Identity {
	id.Endpoint = endpoint
	return id
}
