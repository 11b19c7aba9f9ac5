package disk

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/certs"
	"kvfs/tree"
)

// Certificate is one that the settings want in a store.
type Certificate struct {
	Vault, Name string       // as in its names
	Links       []string     // custom link names
	Views       []tree.Views // in which it is to be shown; for Read
}

func (c Certificate) base() string { return c.Vault + "." + c.Name }

// kind of a file that holds a version, or a part of it.
type kind uint8

const (
	combined  kind = iota + 1 // v3: chain and key
	upperPEM                  // v1, v2: the same
	fullChain                 // v4, live
	key                       // v4, live
	bundle                    // PFX
	chainOnly                 // the chain for everybody
	keystore                  // what cannot be read back
)

// versionFile is what a name says of a file.
type versionFile struct {
	base    string // of its certificate
	version certs.Version
	kind    kind
	created time.Time // zero if the name does not say it
}

// fileName is <Vault>.<Cert>.<version> and what the versions of the extension, and the
// layouts, put behind it.
var fileName = regexp.MustCompile(`^([0-9A-Za-z-]{3,24}\.[0-9A-Za-z-]{1,127})\.([0-9A-Fa-f]{32})(\..+)?$`)

// lumaName is the mark of completion.
var lumaName = regexp.MustCompile(`^[0-9A-Za-z-]{3,24}\.[0-9A-Za-z-]{1,127}\.luma$`)

// suffixes of file names. The form of the timestamp is the extension's own and not
// documented; that of tree is Unix seconds.
var suffixes = []struct {
	pattern *regexp.Regexp
	kind    kind
}{
	{regexp.MustCompile(`^$`), combined},
	{regexp.MustCompile(`^\.\d{1,19}\.\d{1,19}\.PEM$`), upperPEM},
	{regexp.MustCompile(`^\.pem\.([0-9A-Za-z:_+-]{1,40})$`), fullChain},
	{regexp.MustCompile(`^\.keyid\.([0-9A-Za-z:_+-]{1,40})$`), key},
	{regexp.MustCompile(`^\.certs\.pem$`), chainOnly},
	{regexp.MustCompile(`^\.pfx$`), bundle},
	{regexp.MustCompile(`^\.jks$`), keystore},
	{regexp.MustCompile(`^\.truststore\.jks$`), keystore},
}

// parseFile reads the name of a file in the store itself.
func parseFile(name string) (f versionFile, ok bool) {
	m := fileName.FindStringSubmatch(name)
	if m == nil {
		return f, false
	}
	f = versionFile{base: m[1], version: certs.Version(m[2])}
	for _, s := range suffixes {
		if more := s.pattern.FindStringSubmatch(m[3]); more != nil {
			f.kind = s.kind
			if len(more) == 2 {
				f.created = timestamp(more[1])
			}
			return f, true
		}
	}
	return f, false
}

// timestamp takes Unix seconds. Another form says nothing.
func timestamp(text string) time.Time {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n >= 1<<35 { // the year 3058
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// parseArchive reads the path of a file of the layout live.
func parseArchive(name string) (f versionFile, ok bool) {
	p := strings.Split(name, "/")
	if len(p) != 4 || p[0] != "archive" || !fileName.MatchString(p[1]+"."+p[2]) {
		return f, false
	}
	f = versionFile{base: p[1], version: certs.Version(p[2])}
	switch p[3] {
	case "fullchain.pem":
		f.kind = fullChain
	case "privkey.pem":
		f.kind = key
	case "bundle.pfx":
		f.kind = bundle
	default:
		return f, false
	}
	return f, true
}

// target of a link that the extension has made: the name of a file of its certificate. The
// directory in an absolute one was the store's own.
func target(text string) (f versionFile, ok bool) {
	dir, name := path.Split(text)
	if dir != "" && !strings.HasPrefix(dir, "/") {
		return f, false
	}
	return parseFile(name)
}

// extensions tells whether the extension may have made a name in the store, for one of these
// certificates, or for any if there is none to choose from.
func extensions(sys storage, name string, of []Certificate) bool {
	wanted := func(base string) bool {
		return of == nil || slices.ContainsFunc(of, func(c Certificate) bool { return c.base() == base })
	}
	st, err := sys.lstat(name)
	if err != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, ok := parseFile(name)
		return ok && f.kind <= key && wanted(f.base) || lumaName.MatchString(name) && wanted(strings.TrimSuffix(name, ".luma"))
	case unix.S_IFLNK:
		to, err := sys.readlink(name)
		if err != nil {
			return false
		}
		f, ok := target(to)
		return ok && wanted(f.base) && isLinkOf(name, f.base, of)
	}
	return false
}

// isLinkOf tells whether the extension has called a link to a file of a certificate like this:
// <Cert> (v1), <Vault>.<Cert>, with .pem or .keyid, or the custom name (any, if there are no
// settings to say which).
func isLinkOf(name, base string, of []Certificate) bool {
	_, cert, _ := strings.Cut(base, ".")
	if slices.Contains([]string{cert, base, base + ".pem", base + ".keyid"}, name) {
		return true
	}
	return of == nil || slices.ContainsFunc(of, func(c Certificate) bool { return c.base() == base && slices.Contains(c.Links, name) })
}

// certificateOf is the base of the certificate to which a name of ours belongs; "" if the
// name does not say it.
func certificateOf(name string) string {
	p := strings.Split(name, "/")
	if len(p) > 1 && (p[0] == "archive" || p[0] == "live") {
		return p[1]
	}
	vault, rest, ok := strings.Cut(p[0], ".")
	if len(p) > 1 || !ok {
		return ""
	}
	cert, _, _ := strings.Cut(rest, ".")
	return vault + "." + cert
}

// Foreign are those of some names in a directory that neither kvfs nor the extension
// has made there, as far as their names and the manifest tell.
func Foreign(dir string, names []string) ([]string, error) {
	fd, err := walk(dir, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	sys := &root{fd}
	m, err := readManifest(sys, self())
	if err != nil {
		return nil, failed("reading the manifest in", dir, err)
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ours := m.names[name]
		return ours || name == manifestName || isTemp(name) || extensions(sys, name, nil)
	}), nil
}
