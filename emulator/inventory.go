package emulator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// Item is one secret, as GET /certificates of the control endpoint shows it.
type Item struct {
	Vault       string        `json:"vault"`
	Name        string        `json:"name"`
	ContentType string        `json:"contentType"` // of the newest version
	Managed     bool          `json:"managed"`     // backs a certificate
	Deleted     bool          `json:"deleted"`
	Versions    []ItemVersion `json:"versions"` // newest first
}

// ItemVersion is one version of an Item. The last four are those of the leaf,
// and absent when the emulator has not made or could not read it.
type ItemVersion struct {
	Version   string     `json:"version"`
	Enabled   bool       `json:"enabled"`
	Created   time.Time  `json:"created"`
	Serial    string     `json:"serial,omitempty"` // lower-case hex
	SHA256    string     `json:"sha256,omitempty"` // of the DER, lower-case hex
	NotBefore *time.Time `json:"notBefore,omitempty"`
	NotAfter  *time.Time `json:"notAfter,omitempty"`
}

// Inventory lists everything in the vaults, deleted secrets included, without
// values: vaults in their order, secrets by name.
func (e *Emulator) Inventory() []Item {
	e.store.mu.RLock()
	defer e.store.mu.RUnlock()
	items := []Item{}
	for _, vault := range e.store.order {
		from := len(items)
		for _, s := range e.store.vaults[vault] {
			items = append(items, s.item(vault))
		}
		slices.SortFunc(items[from:], func(a, b Item) int { return cmp.Compare(a.Name, b.Name) })
	}
	return items
}

func (s *secret) item(vault string) Item {
	it := Item{Vault: vault, Name: s.name, ContentType: s.version("").contentType, Managed: s.managed, Deleted: !s.deleted.IsZero()}
	for _, v := range slices.Backward(s.versions) {
		iv := ItemVersion{Version: v.id, Enabled: v.enabled, Created: v.created}
		if v.leaf != nil {
			sum := sha256.Sum256(v.leaf.Raw)
			iv.Serial, iv.SHA256 = v.leaf.SerialNumber.Text(16), hex.EncodeToString(sum[:])
			iv.NotBefore, iv.NotAfter = &v.leaf.NotBefore, &v.leaf.NotAfter
		}
		it.Versions = append(it.Versions, iv)
	}
	return it
}
