package vault

import (
	"fmt"
	"net/url"
	"strings"
)

// Ref is a parsed secret URL: which secret, in which vault, and perhaps which version of it.
//
// A Ref keeps the spelling of whoever wrote it, because file names keep it too, while the service compares without case:
// use [Ref.Key], not ==, to ask whether two refs mean the same secret. The zero Ref means no secret.
type Ref struct {
	host    string // host[:port] as spelled; ":443" is never kept
	name    string
	version string // empty: the newest
}

// Note is a warning for a person about a URL that was accepted: what was found, and one step to take.
type Note struct{ Fact, Hint string }

// RefError says why a URL is no secret of a vault. Both texts are for a person: lower case, no full stop, and without
// user info or query, which may hold a password.
type RefError struct{ Fact, Hint string }

// Error returns the fact.
func (e *RefError) Error() string { return e.Fact }

const (
	nameHint    = "names have 1 to 127 letters, digits and hyphens"
	vaultHint   = "vault names have 3 to 24 letters, digits and hyphens"
	urlHint     = "write https://VAULT.vault.azure.net/secrets/NAME"
	versionSize = 32
)

// ParseRef reads the URL of a secret as the settings of the Key Vault VM extension spell it.
//
// Hosts are one label before a public Key Vault suffix or before one of suffixes, which may carry a port ("localhost:8443")
// and otherwise admit any port. Outer spaces, ":443" and a final slash are dropped silently; what is dropped or changed
// with a loss is reported in notes. The error is always a *[RefError].
func ParseRef(raw string, suffixes ...string) (ref Ref, notes []Note, err error) {
	u, err := parseURL(strings.TrimSpace(raw), suffixes)
	if err != nil {
		return Ref{}, nil, err
	}
	host, err := parseHost(u, suffixes)
	if err != nil {
		return Ref{}, nil, err
	}
	ref, notes, err = parsePath(host, u.EscapedPath(), suffixes)
	if err != nil {
		return Ref{}, nil, err
	}
	if u.RawQuery != "" {
		notes = append(notes, Note{"the query of the URL is ignored", "use " + ref.String()})
	}
	if u.Fragment != "" {
		notes = append(notes, Note{"the fragment of the URL is ignored", "use " + ref.String()})
	}
	if ref.Pinned() {
		latest := Ref{host: ref.host, name: ref.name}
		notes = append(notes, Note{"the version is pinned: it will not rotate", "use " + latest.String() + " to follow renewals"})
	}
	return ref, notes, nil
}

// parseURL admits an absolute https URL without user info. It never wraps an error of net/url, which quotes the whole URL.
func parseURL(raw string, suffixes []string) (*url.URL, error) {
	switch {
	case raw == "":
		return nil, &RefError{"the URL is empty", urlHint}
	case strings.HasPrefix(raw, "[") && strings.HasSuffix(raw, "]"):
		return nil, &RefError{"an ARM expression, which only the deployment can evaluate",
			"give kvfs the deployed settings (the agent's config/<N>.settings), not the template"}
	case !strings.Contains(raw, "://"):
		return nil, &RefError{fmt.Sprintf("%s has no scheme", quoted(raw)), useInstead("https://"+raw, suffixes)}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, &RefError{fmt.Sprintf("%s is not a URL", quoted(raw)), urlHint}
	}
	plain := "https://" + u.Host + u.EscapedPath()
	switch {
	case u.User != nil:
		return nil, &RefError{"the URL has user info before the host", useInstead(plain, suffixes)}
	case u.Scheme != "https":
		return nil, &RefError{fmt.Sprintf("scheme is %s", quoted(u.Scheme)), useInstead(plain, suffixes)}
	}
	return u, nil
}

// parsePath reads the path in its escaped form, so that no %2F can smuggle in another element.
func parsePath(host, path string, suffixes []string) (Ref, []Note, error) {
	parts := strings.Split(strings.TrimRight(path, "/"), "/")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "" {
		return Ref{}, nil, pathError(path)
	}
	ref := Ref{host: host, name: parts[2]}
	if len(parts) == 4 {
		ref.version = parts[3]
	}
	var notes []Note
	switch strings.ToLower(parts[1]) {
	case "secrets":
	case "certificates":
		notes = []Note{{fmt.Sprintf("/certificates/%s holds no private key, its secret is read instead", shortened(ref.name)), "use " + ref.String()}}
	case "keys":
		return Ref{}, nil, &RefError{shortened(path) + " is a key, it has no certificate", useInstead(ref.String(), suffixes)}
	default:
		return Ref{}, nil, pathError(path)
	}
	if !validName(ref.name, 1, 127) {
		return Ref{}, nil, &RefError{quoted(ref.name) + " is not a certificate name", nameHint}
	}
	if len(parts) == 4 && !validVersion(ref.version) {
		return Ref{}, nil, &RefError{quoted(ref.version) + " is not a version", "versions have 32 hexadecimal digits; leave it out to follow renewals"}
	}
	return ref, notes, nil
}

func pathError(path string) error {
	if strings.Trim(path, "/") == "" {
		return &RefError{"the URL names a vault, not a secret", urlHint}
	}
	return &RefError{quoted(path) + " is not the path of a secret", urlHint}
}

// useInstead proposes a repaired URL, but only one that would be accepted.
func useInstead(repaired string, suffixes []string) string {
	if strings.Count(repaired, "://") != 1 {
		return urlHint
	}
	ref, _, err := ParseRef(repaired, suffixes...)
	if err != nil {
		return urlHint
	}
	return "use " + ref.String()
}

// String returns https://host/secrets/NAME, followed by /VERSION when pinned, and "" for the zero Ref.
func (r Ref) String() string {
	if r.IsZero() {
		return ""
	}
	s := r.VaultURL() + "/secrets/" + r.name
	if r.version != "" {
		s += "/" + r.version
	}
	return s
}

// Host returns the vault's host as spelled, with its port unless that is 443.
func (r Ref) Host() string { return r.host }

// VaultURL returns https://host[:port], without a final slash.
func (r Ref) VaultURL() string { return "https://" + r.host }

// Vault returns the vault's name, the first label of the host as spelled.
func (r Ref) Vault() string {
	name, _, _ := strings.Cut(r.host, ".")
	return name
}

// Name returns the name of the secret as spelled.
func (r Ref) Name() string { return r.name }

// Version returns the pinned version as spelled, or "" for whatever is newest.
func (r Ref) Version() string { return r.version }

// Pinned reports whether the Ref names one version, which never rotates.
func (r Ref) Pinned() bool { return r.version != "" }

// WithVersion returns the Ref of one version of the same secret, as the vault names it; "" is the newest.
func (r Ref) WithVersion(version string) Ref {
	r.version = version
	return r
}

// Key returns the URL in lower case. Refs with equal keys are the same secret, the version included.
func (r Ref) Key() string { return strings.ToLower(r.String()) }

// IsZero reports whether the Ref names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

func validName(s string, least, most int) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && c != '-' {
			return false
		}
	}
	return true
}

func validVersion(s string) bool {
	return len(s) == versionSize && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// quoted quotes foreign text for a message, shortened.
func quoted(s string) string { return `"` + shortened(s) + `"` }

// shortened makes foreign text fit for one line of a message: escaped, at most some eighty characters, and without
// anything that may be a password.
func shortened(s string) string {
	s = withoutSecrets(s)
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80]) + "..."
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

// withoutSecrets leaves out what stands before an "@", and the query and fragment. In a malformed URL an "@" may belong to
// either side of a "?", so that nothing after the scheme can be shown.
func withoutSecrets(s string) string {
	rest := ""
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s, rest = s[:i], s[i:]
	}
	if strings.Contains(rest, "@") {
		scheme, _, ok := strings.Cut(s, "://")
		if !ok || !validName(scheme, 1, 16) {
			return "..."
		}
		return scheme + "://..."
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = "..." + s[i:]
	}
	if rest != "" {
		s += rest[:1] + "..."
	}
	return s
}
