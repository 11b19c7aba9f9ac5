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
	// Vaults are the names of the vaults, the first label of their hosts, or
	// whole hosts of vaults with a suffix of their own, such as
	// "contoso-gov.vault.usgovcloudapi.net". Default: one, "contoso-web". The
	// first one is meant wherever a vault is left empty. Methods and messages
	// mean vaults by their names alone, so no two may begin with the same label.
	Vaults []string

	// Suffix is the DNS suffix of the vaults given by name, "vault.azure.net" by
	// default. The challenges of vault.usgovcloudapi.net and vault.azure.cn name
	// the login servers of those clouds.
	Suffix string

	// Listen, Identity and Control are the addresses of the three endpoints.
	// Default: "127.0.0.1:0", a free port. Nothing guards the latter two, so
	// other machines should not reach them.
	Listen   string
	Identity string
	Control  string

	// ArcKeys is the directory where the Azure Arc endpoint writes its key
	// files; made if absent. Empty: there is no Azure Arc endpoint.
	ArcKeys string

	// ArcRealm is the directory that the challenges of the Azure Arc endpoint
	// name, ArcKeys by default. It differs where the client sees the same
	// directory under another path.
	ArcRealm string

	// Arc is the address of the Azure Arc endpoint, "127.0.0.1:0" by default.
	Arc string

	// LoginHosts are the names of more login servers, custom authorities such as
	// "login.contoso.example", beside those of the public clouds. A vault whose
	// suffix belongs to none of these clouds names the first of them in its
	// challenge.
	LoginHosts []string

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
	vaults, err := o.vaultHosts()
	if err != nil {
		return o, err
	}
	o.LoginHosts = lower(o.LoginHosts)
	if err := o.checkLoginHosts(vaults); err != nil {
		return o, err
	}
	if o.ArcKeys == "" && (o.Arc != "" || o.ArcRealm != "") {
		return o, errors.New("an Azure Arc endpoint needs a directory for its key files")
	}
	if o.PageSize < 1 || o.PageSize > maxPage {
		return o, fmt.Errorf("page size %d: want 1 to %d", o.PageSize, maxPage)
	}
	if o.TokenLifetime < 0 {
		return o, fmt.Errorf("token lifetime %v is negative", o.TokenLifetime)
	}
	return o.absolute()
}

// absolute makes paths independent of the working directory.
func (o Options) absolute() (Options, error) {
	for _, dir := range []*string{&o.Dir, &o.ArcKeys, &o.ArcRealm} {
		if *dir == "" {
			continue
		}
		path, err := filepath.Abs(*dir)
		if err != nil {
			return o, fmt.Errorf("finding the directory %q: %w", *dir, err)
		}
		*dir = path
	}
	if o.ArcRealm == "" {
		o.ArcRealm = o.ArcKeys
	}
	return o, nil
}

func lower(list []string) []string {
	result := make([]string, len(list))
	for i, s := range list {
		result[i] = strings.ToLower(s)
	}
	return result
}
