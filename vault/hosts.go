package vault

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// publicSuffixes are the clouds whose vaults need no setting: global, China, US government, and Germany, which is closed
// down but still written in old settings.
func publicSuffixes() []string {
	return []string{"vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net", "vault.microsoftazure.de"}
}

// parseHost returns host[:port] as spelled when it is one label before an admitted suffix. Tokens go to this host, so the
// comparison is by whole labels and admits nothing that merely looks alike.
func parseHost(u *url.URL, suffixes []string) (string, error) {
	hostname, port := u.Hostname(), u.Port()
	if hostname == "" {
		return "", &RefError{"the URL has no host", urlHint}
	}
	label, rest, _ := strings.Cut(hostname, ".")
	if label == "" || rest == "" || !isASCII(hostname) {
		return "", unknownHost(hostname)
	}
	own := ownSuffix(rest, port, suffixes)
	if !own && !isPublicSuffix(rest) {
		return "", unknownHost(hostname)
	}
	if !validName(label, 3, 24) {
		return "", &RefError{quoted(label) + " is not a vault name", vaultHint}
	}
	if port == "" || port == "443" {
		return hostname, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !own {
		return "", &RefError{fmt.Sprintf("port %s is not the port of a vault", shortened(port)),
			"leave the port out; another one needs its own suffix in kvfs.vaultDnsSuffixes"}
	}
	return hostname + ":" + port, nil
}

// isASCII guards comparisons without case: two other letters, the Kelvin sign and the long s, fold to ones of ASCII.
func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

func isPublicSuffix(rest string) bool {
	for _, s := range publicSuffixes() {
		if strings.EqualFold(rest, s) {
			return true
		}
	}
	return false
}

// ownSuffix reports whether rest is one of the suffixes of the settings. A suffix that carries a port admits that port alone.
func ownSuffix(rest, port string, suffixes []string) bool {
	for _, s := range suffixes {
		host, want, hasPort := strings.Cut(strings.TrimPrefix(strings.TrimSpace(s), "."), ":")
		if host == "" || !strings.EqualFold(rest, host) {
			continue
		}
		if !hasPort || want == port || want == "443" && port == "" {
			return true
		}
	}
	return false
}

func unknownHost(hostname string) error {
	return &RefError{quoted(hostname) + " is not a known Key Vault host", hostHint(hostname)}
}

// hostHint guesses what was meant: the name behind a private link, a vault below a near miss of a known suffix.
func hostHint(hostname string) string {
	const others = "other suffixes can be allowed in kvfs.vaultDnsSuffixes"
	label, rest, _ := strings.Cut(strings.ToLower(strings.TrimRight(hostname, ".")), ".")
	if strings.HasPrefix(rest, "managedhsm.") {
		return "a managed HSM holds keys only; " + urlHint
	}
	private := strings.HasPrefix(rest, "privatelink.") || strings.HasPrefix(rest, "vaultcore.")
	rest = strings.TrimPrefix(rest, "privatelink.")
	if cloud, ok := strings.CutPrefix(rest, "vaultcore."); ok {
		rest = "vault." + cloud
	}
	suffix := nearestSuffix(rest)
	if suffix == "" || !validName(label, 3, 24) {
		return "a vault is one label before a suffix, such as contoso-web.vault.azure.net; " + others
	}
	if private {
		return fmt.Sprintf("use %s.%s; its DNS answer leads to the private link", label, suffix)
	}
	return fmt.Sprintf("did you mean %s.%s? %s", label, suffix, others)
}

// nearestSuffix returns the public suffix at most one edit away, else the first at most three away, else "". The order of
// the suffixes decides, since .com is a slip for .net although .cn is nearer.
func nearestSuffix(rest string) string {
	if len(rest) > 64 {
		return ""
	}
	for _, most := range []int{1, 3} {
		for _, s := range publicSuffixes() {
			if editDistance(rest, s) <= most {
				return s
			}
		}
	}
	return ""
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
