package emulator

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// Options say what to emulate. The zero value of every field but Dir is usable.
type Options struct {
	// Vaults are the names of the vaults, the first label of their hosts.
	// Default: one, "contoso-web". The first one is meant wherever a vault is
	// left empty.
	Vaults []string

	// Suffix is the DNS suffix of the vaults, "vault.azure.net" by default.
	Suffix string

	// Listen, Identity and Control are the addresses of the three endpoints.
	// Default: "127.0.0.1:0", a free port. Nothing guards the latter two, so
	// other machines should not reach them.
	Listen   string
	Identity string
	Control  string

	// Dir is where ca.pem and settings.json are written. Required; made if absent.
	Dir string

	// Logger gets one line at level Debug per request, never a token or a
	// value. nil discards.
	Logger *slog.Logger

	// TokenLifetime is how long tokens are good for, 24 hours by default.
	TokenLifetime time.Duration

	// PageSize is the number of items on a page of a listing when the client
	// does not ask for fewer: 25 by default, the greatest the service gives.
	// The service may give fewer at any time, and a small number shows a client
	// many pages with few secrets.
	PageSize int

	// DensePages leaves out the empty pages that listings of several pages
	// contain otherwise. Meant for counting requests; real clients must cope
	// with empty pages.
	DensePages bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("emulator needs a directory for ca.pem and settings.json")
	}
	for field, def := range map[*string]string{
		&o.Suffix: "vault.azure.net", &o.Listen: "127.0.0.1:0", &o.Identity: "127.0.0.1:0", &o.Control: "127.0.0.1:0",
	} {
		if *field == "" {
			*field = def
		}
	}
	if len(o.Vaults) == 0 {
		o.Vaults = []string{"contoso-web"}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TokenLifetime == 0 {
		o.TokenLifetime = 24 * time.Hour
	}
	if o.PageSize == 0 {
		o.PageSize = maxPage
	}
	return o.checked()
}

func (o Options) checked() (Options, error) {
	o.Suffix = strings.ToLower(strings.Trim(o.Suffix, "."))
	seen := map[string]bool{}
	vaults := make([]string, 0, len(o.Vaults))
	for _, v := range o.Vaults {
		v = strings.ToLower(v)
		if !validName(v) || len(v) > 63 {
			return o, fmt.Errorf("vault name %q: want letters, digits and dashes", v)
		}
		if seen[v] {
			return o, fmt.Errorf("vault %q is named twice", v)
		}
		seen[v] = true
		vaults = append(vaults, v)
	}
	o.Vaults = vaults
	if o.PageSize < 1 || o.PageSize > maxPage {
		return o, fmt.Errorf("page size %d: want 1 to %d", o.PageSize, maxPage)
	}
	if o.TokenLifetime < 0 {
		return o, fmt.Errorf("token lifetime %v is negative", o.TokenLifetime)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("finding the directory %q: %w", o.Dir, err)
	}
	o.Dir = dir
	return o, nil
}
