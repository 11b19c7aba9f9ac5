package vault

import "time"

// AgeTokens makes every token that c holds so much older, without bringing its end nearer.
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
		h.issued = h.issued.Add(-by)
		c.held[key] = h
	}
}
