package emulator

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// cloud is one of Azure's clouds: names that belong together. The issuer of its
// OpenID configuration is https://HOST/TENANT/v2.0 with the first of its login
// servers, whichever is asked.
type cloud struct {
	suffix  string   // of its vaults
	login   []string // its login servers, the preferred one first
	also    []string // names of login servers that are not served here
	named   string   // the login server that its vaults' challenges name
	cache   string   // what instance discovery calls preferred_cache
	manager string   // Azure Resource Manager
}

var clouds = []cloud{
	{
		suffix: "vault.azure.net", named: "login.microsoftonline.com", cache: "login.windows.net", manager: "management.azure.com",
		login: []string{"login.microsoftonline.com"},
		also:  []string{"login.windows.net", "login.microsoft.com", "sts.windows.net"},
	},
	{
		suffix: "vault.usgovcloudapi.net", named: "login.microsoftonline.us", cache: "login.microsoftonline.us", manager: "management.usgovcloudapi.net",
		login: []string{"login.microsoftonline.us"},
		also:  []string{"login.usgovcloudapi.net"},
	},
	{
		suffix: "vault.azure.cn", named: "login.chinacloudapi.cn", cache: "login.partner.microsoftonline.cn", manager: "management.chinacloudapi.cn",
		login: []string{"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"},
	},
}

// cloudOf finds the cloud with a suffix of vaults; nil: none of the public ones.
func cloudOf(suffix string) *cloud {
	for i := range clouds {
		if clouds[i].suffix == suffix {
			return &clouds[i]
		}
	}
	return nil
}

// vaultHost is the host of a vault, taken apart.
type vaultHost struct {
	name   string // first label, lower case
	suffix string
}

func (v vaultHost) String() string { return v.name + "." + v.suffix }

// vaultHosts reads Options.Vaults.
func (o Options) vaultHosts() ([]vaultHost, error) {
	seen := map[string]bool{}
	hosts := make([]vaultHost, 0, len(o.Vaults))
	for _, text := range o.Vaults {
		v := vaultHost{name: strings.ToLower(text), suffix: o.Suffix}
		if name, suffix, whole := strings.Cut(v.name, "."); whole {
			v = vaultHost{name, suffix}
			if !strings.Contains(suffix, ".") || !validHost(suffix) {
				return nil, fmt.Errorf("vault %q: want a name, or a host such as contoso-gov.vault.usgovcloudapi.net", text)
			}
		}
		if !validName(v.name) || len(v.name) > 63 {
			return nil, fmt.Errorf("vault name %q: want letters, digits and dashes", v.name)
		}
		if seen[v.name] {
			return nil, fmt.Errorf("vault %q is named twice", v.name)
		}
		seen[v.name] = true
		hosts = append(hosts, v)
	}
	return hosts, nil
}

func validHost(host string) bool {
	for label := range strings.SplitSeq(host, ".") {
		if !validName(label) || len(label) > 63 {
			return false
		}
	}
	return true
}

// checkLoginHosts refuses names that are no hosts, or those of vaults.
func (o Options) checkLoginHosts(vaults []vaultHost) error {
	for _, host := range o.LoginHosts {
		if !validHost(host) || net.ParseIP(host) != nil {
			return fmt.Errorf("login server %q: want the name of a host, without a port", host)
		}
		if slices.ContainsFunc(vaults, func(v vaultHost) bool { return v.String() == host }) {
			return fmt.Errorf("login server %q is a vault already", host)
		}
	}
	return nil
}

// suffixes are those of the vaults, each once.
func (e *Emulator) suffixes() []string {
	list := []string{e.opts.Suffix}
	for _, v := range e.vaults {
		if !slices.Contains(list, v.suffix) {
			list = append(list, v.suffix)
		}
	}
	return list
}

// hostOf is the whole host of a vault there is.
func (e *Emulator) hostOf(name string) string {
	for _, v := range e.vaults {
		if v.name == name {
			return v.String()
		}
	}
	return name + "." + e.opts.Suffix
}

// loginFor is the login server that the challenge of a vault names.
func (e *Emulator) loginFor(suffix string) string {
	switch c := cloudOf(suffix); {
	case c != nil:
		return c.named
	case len(e.opts.LoginHosts) > 0:
		return e.opts.LoginHosts[0]
	}
	return clouds[0].named
}

// loginNames are the hosts of all login servers.
func (e *Emulator) loginNames() []string {
	var names []string
	for _, c := range clouds {
		names = append(names, c.login...)
	}
	return append(names, e.opts.LoginHosts...)
}
