package emulator

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// origin is a vault together with the name by which a client reached it. What
// an answer says about itself depends on that name.
type origin struct {
	vault    string // name, lower case
	host     string // host of ids: without the default port
	link     string // host of next links: always with the port
	resource string // of the challenge, and audience of tokens
}

// locate finds out which vault a request is for.
func (e *Emulator) locate(r *http.Request) (origin, bool) {
	name, port := strings.ToLower(r.Host), "443"
	if h, p, err := net.SplitHostPort(name); err == nil {
		name, port = h, p
	}
	vault, base, ok := e.vaultOf(name)
	if !ok {
		return origin{}, false
	}
	return origin{
		vault: vault, host: withPort(name, port), link: net.JoinHostPort(name, port),
		resource: "https://" + withPort(base, port),
	}, true
}

// vaultOf splits a host into the vault and the suffix that the challenge names.
// The SDKs want the host to end in a dot and the challenge's host, so a client
// of the bare loopback names has to switch that check off.
func (e *Emulator) vaultOf(host string) (vault, base string, ok bool) {
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		return e.opts.Vaults[0], host, true
	}
	for _, base := range []string{e.opts.Suffix, "localhost"} {
		if vault, ok := strings.CutSuffix(host, "."+base); ok && slices.Contains(e.opts.Vaults, vault) {
			return vault, base, true
		}
	}
	return "", "", false
}

func withPort(host, port string) string {
	if port == "443" {
		return host
	}
	return net.JoinHostPort(host, port)
}
