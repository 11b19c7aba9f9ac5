package emulator

import (
	"net"
	"net/http"
	"strings"
)

// origin is a vault together with the name by which a client reached it. What
// an answer says about itself depends on that name.
type origin struct {
	vault    string // name, lower case
	host     string // host of ids: without the default port
	link     string // host of next links: always with the port
	resource string // of the challenge, and audience of tokens
	login    string // login server of the challenge
}

// locate finds out which vault a request is for.
func (e *Emulator) locate(r *http.Request) (origin, bool) {
	name, port := splitHost(r.Host)
	vault, base, ok := e.vaultOf(name)
	if !ok {
		return origin{}, false
	}
	return origin{
		vault: vault.name, host: withPort(name, port), link: net.JoinHostPort(name, port),
		resource: "https://" + withPort(base, port), login: e.loginFor(vault.suffix),
	}, true
}

// splitHost takes a Host header apart; the name is in lower case.
func splitHost(header string) (name, port string) {
	name = strings.ToLower(header)
	if h, p, err := net.SplitHostPort(name); err == nil {
		return h, p
	}
	return name, "443"
}

// vaultOf splits a host into the vault and the suffix that the challenge names.
// The SDKs want the host to end in a dot and the challenge's host, so a client
// of the bare loopback names has to switch that check off.
func (e *Emulator) vaultOf(host string) (vault vaultHost, base string, ok bool) {
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		return e.vaults[0], host, true
	}
	for _, v := range e.vaults {
		for _, base := range []string{v.suffix, "localhost"} {
			if host == v.name+"."+base {
				return v, base, true
			}
		}
	}
	return vaultHost{}, "", false
}

func withPort(host, port string) string {
	if port == "443" {
		return host
	}
	return net.JoinHostPort(host, port)
}
