package tree

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"kvfs/certs"
)

// Layout is a family of names that one certificate is shown under.
type Layout string

const (
	// V3 is what version 3 of the Azure Key Vault VM extension makes: one file
	// with the chain and the key last, and a link to it.
	V3 Layout = "v3"
	// V4 is what version 4 makes: chain and key apart, and a mark of completion.
	V4 Layout = "v4"
	// Live has certbot's names: a directory for each version, and one link to the
	// current one, so that chain and key that are read through it belong together.
	Live Layout = "live"
	// Certs is the full chain without the key, for everybody.
	Certs Layout = "certs"
	// PFX is PKCS#12, with the password of the views or the empty one.
	PFX Layout = "pfx"
	// JKS is a Java keystore of key and chain.
	JKS Layout = "jks"
	// TrustStore is a Java keystore of the issuers, for everybody. Its password is
	// always "changeit": who can read such a file can guess its password, and that of
	// the keys must not be guessed by everybody.
	TrustStore Layout = "truststore"
	// X509Store is the directory "my" that .NET on Linux takes for a user's store of
	// certificates: PFX without a password, named by their thumbprints.
	X509Store Layout = "x509store"
)

// Views say in which forms a certificate is shown.
type Views struct {
	Layouts  []Layout
	Key      certs.KeyFormat // of PEM files
	Password Password        // of PFX and JKS; that of JKS is "changeit" if it is empty
}

// javaPassword is what Java's own tools and documents use where nobody chose one.
const javaPassword = "changeit"

// forms are those that the views need of a version.
func (w Views) forms(hasKey bool) (all []form) {
	key := w.Key
	if key == "" {
		key = certs.PKCS8
	}
	java := w.Password
	if java == "" {
		java = javaPassword
	}
	all = append(all, form{kind: fullChain}, form{kind: leafOnly}, form{kind: issuers})
	if slices.Contains(w.Layouts, TrustStore) {
		all = append(all, form{kind: trustStore, password: javaPassword})
	}
	if !hasKey {
		return all
	}
	all = append(all, form{kind: combined, key: key}, form{kind: privateKey, key: key})
	if slices.Contains(w.Layouts, PFX) {
		all = append(all, form{kind: pfx, password: w.Password})
	}
	if slices.Contains(w.Layouts, JKS) {
		all = append(all, form{kind: jks, password: java})
	}
	if slices.Contains(w.Layouts, X509Store) {
		all = append(all, form{kind: pfx})
	}
	return all
}

// form of a kind, as the views want it.
func (w Views) form(k kind) form {
	for _, f := range w.forms(true) {
		if f.kind == k && (k != pfx || f.password == w.Password) {
			return f
		}
	}
	return form{kind: k}
}

// Entry is one certificate in one store, as the settings want it.
type Entry struct {
	Certificate string // key of its versions
	URL         string // for .luma
	Store       string // absolute path
	Vault, Name string // spelled as in the URL
	// Linked entries own the default links; an entry that is pinned to a
	// version beside one that is not leaves them to the other.
	Linked bool
	Links  []string // custom link names
	Views  Views
	Grants Grants
	// Retired entries are those that the settings have no more and that are
	// shown for a while yet. A name that another entry has is that one's alone,
	// with its grants.
	Retired bool
}

func (e *Entry) base() string { return e.Vault + "." + e.Name }

func (e *Entry) has(l Layout) bool { return slices.Contains(e.Views.Layouts, l) }

// Name of a thing that one entry shows.
type Name struct {
	Name   string // below the store
	Kind   Kind
	Target string // of a link, if it is known
}

// Names that an entry will have, as far as they are known before its certificate
// is: its links, its mark of completion and, if the version is known, the combined
// file. The other files have the time of creation in their names. Without a key the
// names of what holds it are left out.
func (e *Entry) Names(version certs.Version, hasKey bool) (names []Name) {
	to := func(format string) string {
		if version == "" {
			return ""
		}
		return fmt.Sprintf(format, e.base(), version)
	}
	if e.has(V3) && hasKey {
		target := to("%s.%s")
		if version != "" {
			names = append(names, Name{target, File, ""})
		}
		if e.Linked {
			names = append(names, Name{e.base(), Link, target})
		}
		for _, l := range e.Links {
			names = append(names, Name{l, Link, target})
		}
	}
	if !e.Linked {
		return names
	}
	if e.has(V4) {
		names = append(names, Name{e.base() + ".pem", Link, ""})
		if hasKey {
			names = append(names, Name{e.base() + ".keyid", Link, ""})
		}
		names = append(names, Name{e.base() + ".luma", File, ""})
	}
	if e.has(Live) {
		names = append(names, Name{"live/" + e.base(), Link, to("../archive/%s/%s")})
	}
	for _, f := range e.plainFiles() {
		if secret := f.kind == pfx || f.kind == jks; secret && !hasKey {
			continue
		}
		names = append(names, Name{e.base() + f.suffix, Link, to("%s.%s" + f.suffix)})
	}
	return names
}

// plainFile is a file beside which a link of the same ending leads to the current
// version.
type plainFile struct {
	suffix string
	kind   kind
}

func (e *Entry) plainFiles() (files []plainFile) {
	for _, f := range []struct {
		layout Layout
		file   plainFile
	}{
		{Certs, plainFile{".certs.pem", certificates}},
		{PFX, plainFile{".pfx", pfx}},
		{JKS, plainFile{".jks", jks}},
		{TrustStore, plainFile{".truststore.jks", trustStore}},
	} {
		if e.has(f.layout) {
			files = append(files, f.file)
		}
	}
	return files
}

// Shown is what is known of one certificate: versions, newest first, and which of
// them the links lead to. Without a current one no link is shown.
type Shown struct {
	Versions []*Version
	Current  *Version
}

// showing makes the nodes of an entry in a store.
type showing struct {
	*Entry
	b     *builder
	dir   *Node
	names []suffixed
}

// suffixed is the base name of an entry with a suffix.
type suffixed struct{ suffix, name string }

// suffixed are the names of an entry that are the same for all versions. They are parts of
// one string: there are several of each of thousands, and small ones that stay, among those
// that decoding a certificate leaves behind, would keep all their memory.
func (e *Entry) suffixed() (names []suffixed) {
	suffixes := []string{"", ".pem", ".keyid", ".luma"}
	for _, f := range e.plainFiles() {
		suffixes = append(suffixes, f.suffix)
	}
	base, all := e.base(), ""
	for _, s := range suffixes {
		all += base + s
	}
	for _, s := range suffixes {
		end := len(base) + len(s)
		names, all = append(names, suffixed{s, all[:end]}), all[end:]
	}
	return names
}

// with is the base name with a suffix that plainFiles have, or version 4.
func (s showing) with(suffix string) string {
	i := slices.IndexFunc(s.names, func(n suffixed) bool { return n.suffix == suffix })
	return s.names[i].name
}

// show adds the nodes of an entry: the files of every version, newest first, and
// the names that stand for the current one.
func (s showing) show(all Shown) error {
	began := false // from the current version on
	for _, v := range all.Versions {
		current := v == all.Current
		began = began || current
		for _, show := range []func(*Version, bool) error{s.showV3, s.showV4, s.showLive, s.showPlain} {
			if err := show(v, current); err != nil {
				return err
			}
		}
		if began {
			if err := s.showX509Store(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// file adds a file of a version, if the version has it in that form, and links to
// it.
func (s showing) file(name string, k kind, v *Version, links ...string) error {
	f := s.node(s.dir, name, k, v)
	if f == nil {
		return nil
	}
	if err := s.b.add(s.Entry, f); err != nil {
		return err
	}
	for _, l := range links {
		if err := s.b.add(s.Entry, newLink(s.dir, l, name, v.Published)); err != nil {
			return err
		}
	}
	return nil
}

// node of a file, nil if the version does not have it in that form.
func (s showing) node(dir *Node, name string, k kind, v *Version) *Node {
	of := k
	if k == certificates {
		of = fullChain
	}
	c, ok := v.contents.of(s.Views.form(of))
	if !ok {
		return nil
	}
	n := s.newFile(dir, name, c, v)
	if k == trustStore || k == certificates {
		n.Public = true // nothing in it is secret
	} else {
		n.ACL = s.Grants
	}
	return n
}

func (s showing) newFile(dir *Node, name string, c content, v *Version) *Node {
	n := newFile(dir, name, c, v.Created)
	if c.away() {
		n.Away = &Away{s.Certificate, v.ID, c.sum}
	}
	return n
}

// linked are these names where the entry owns the default links.
func (s showing) linked(current bool, names ...string) []string {
	if !current || !s.Linked {
		return nil
	}
	return names
}

func (s showing) showV3(v *Version, current bool) error {
	if !s.has(V3) {
		return nil
	}
	links := s.linked(current, s.with(""))
	if current {
		links = append(links, s.Links...)
	}
	return s.file(fmt.Sprintf("%s.%s", s.base(), v.ID), combined, v, links...)
}

func (s showing) showV4(v *Version, current bool) error {
	if !s.has(V4) {
		return nil
	}
	name := func(suffix string) string { return fmt.Sprintf("%s.%s%s.%d", s.base(), v.ID, suffix, v.Created.Unix()) }
	for suffix, k := range map[string]kind{".pem": fullChain, ".keyid": privateKey} {
		if err := s.file(name(suffix), k, v, s.linked(current, s.with(suffix))...); err != nil {
			return err
		}
	}
	if !current || !s.Linked {
		return nil
	}
	luma := newFile(s.dir, s.with(".luma"), newContent(s.luma(v)), v.Published)
	luma.Public = true
	return s.b.add(s.Entry, luma)
}

func (s showing) showLive(v *Version, current bool) error {
	if !s.has(Live) {
		return nil
	}
	files := map[string]kind{"cert.pem": leafOnly, "chain.pem": issuers, "fullchain.pem": fullChain, "privkey.pem": privateKey}
	if s.has(PFX) {
		files["bundle.pfx"] = pfx
	}
	if s.has(JKS) {
		files["keystore.jks"] = jks
	}
	archive := s.b.dir(s.b.dir(s.b.dir(s.dir, "archive"), s.with("")), string(v.ID))
	for name, k := range files {
		if n := s.node(archive, name, k, v); n != nil {
			if err := s.b.add(s.Entry, n); err != nil {
				return err
			}
		}
	}
	live := s.b.dir(s.dir, "live")
	if !current || !s.Linked {
		return nil
	}
	return s.b.add(s.Entry, newLink(live, s.with(""), fmt.Sprintf("../archive/%s/%s", s.base(), v.ID), v.Published))
}

func (s showing) showPlain(v *Version, current bool) error {
	for _, f := range s.plainFiles() {
		if err := s.file(fmt.Sprintf("%s.%s%s", s.base(), v.ID, f.suffix), f.kind, v, s.linked(current, s.with(f.suffix))...); err != nil {
			return err
		}
	}
	return nil
}

// showX509Store has no links: .NET reads every file there is, so a version that
// waits to become current is not there. A certificate that is in two versions, or in
// two secrets, is there once.
func (s showing) showX509Store(v *Version) error {
	c, ok := v.contents.of(form{kind: pfx})
	if !s.has(X509Store) || !ok {
		return nil
	}
	my := s.b.dir(s.dir, "my")
	f := s.newFile(my, v.thumbprint+".pfx", c, v)
	f.ACL = s.Grants
	if old, ok := s.b.lookup(my, f.Name); ok && old.ID != f.ID {
		s.b.shared = true // when the other one goes, this one comes
		return nil
	}
	return s.b.add(s.Entry, f)
}

// luma is the mark of completion: it changes after all links of a renewal have
// moved. The extension's own content is not documented; this is ours.
func (e *Entry) luma(v *Version) []byte {
	b, err := json.Marshal(struct {
		URL       string    `json:"url"`
		Version   string    `json:"version"`
		NotBefore time.Time `json:"notBefore"`
		NotAfter  time.Time `json:"notAfter"`
		Published time.Time `json:"published"`
	}{e.URL, string(v.ID), v.NotBefore.UTC(), v.NotAfter.UTC(), v.Published.UTC()})
	if err != nil {
		panic(err) // strings and times between years 0 and 9999 cannot fail
	}
	return append(b, '\n')
}
