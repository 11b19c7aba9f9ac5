package vault

import (
	"slices"
	"strings"
	"sync"
)

// HostStats counts what one vault was asked since the Client was made.
type HostStats struct {
	Host         string `json:"host"`         // lower case, with its port unless that is 443
	Transactions int64  `json:"transactions"` // HTTP requests that reached the vault, challenges and rejected tokens included
	Throttled    int64  `json:"throttled"`    // those answered 429
	Failed       int64  `json:"failed"`       // calls of Get and Versions that returned an error
}

// tally keeps HostStats by host.
type tally struct {
	mu    sync.Mutex
	hosts map[string]*HostStats // guarded by mu
}

func (t *tally) change(host string, f func(*HostStats)) {
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.hosts[host]
	if s == nil {
		s = &HostStats{Host: host}
		t.hosts[host] = s
	}
	f(s)
}

func (t *tally) snapshot() []HostStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]HostStats, 0, len(t.hosts))
	for _, s := range t.hosts {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b HostStats) int { return strings.Compare(a.Host, b.Host) })
	return all
}
