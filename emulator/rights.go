package emulator

import (
	"slices"
	"strings"
)

// mayRead tells whether the caller of a request may read a vault, by the rights
// of this moment: a token says who somebody is, not what they may. A principal
// that is neither among the identities nor among the applications any more may
// read nothing, for it has no role either.
func (e *Emulator) mayRead(c *claims, vault string) bool {
	vaults, known := e.identities.rights(c.ObjectID)
	if !known {
		vaults, known = e.applications.rights(c.ObjectID)
	}
	return known && (vaults == nil || slices.ContainsFunc(vaults, func(v string) bool { return strings.EqualFold(v, vault) }))
}

func (s *identities) rights(principal string) (vaults []string, known bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, id := range s.ids {
		if strings.EqualFold(id.ObjectID, principal) {
			return id.Vaults, true
		}
	}
	return nil, false
}

func (s *applications) rights(principal string) (vaults []string, known bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, app := range s.apps {
		if strings.EqualFold(app.ObjectID, principal) {
			return app.Vaults, true
		}
	}
	return nil, false
}
