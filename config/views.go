package config

import (
	"slices"
	"strings"
)

// Views say in which files a certificate is shown, and how they are written. Those of Certificates have every field filled but
// PasswordFile; do not change Layouts, which many share.
type Views struct {
	// Layouts are the families of names, at least one, each once, in the order of the document: of "v3", "v4", "live", "certs",
	// "pfx", "jks", "truststore" and "x509store".
	Layouts []string
	// KeyFormat of private keys in PEM files is "pkcs8" or "traditional": PKCS#1 for RSA, SEC1 for EC.
	KeyFormat string
	// PasswordFile is the absolute path of the file of the password of pfx, jks and truststore; "" for none. The files of
	// x509store have no password.
	PasswordFile string
}

const defaultLayouts = 2 // the first of all layouts

func defaultViews() Views {
	return Views{Layouts: slices.Clip(wordsOf[layout]()[:defaultLayouts]), KeyFormat: wordsOf[keyFormat]()[0]}
}

// views reads what a block says of the views. What it leaves out stays as it is.
func (o *object) views(v *Views) {
	if n := o.get("layouts"); n != nil {
		if layouts := o.layouts(n, o.join("layouts")); len(layouts) > 0 {
			v.Layouts = layouts
		}
	}
	if w, ok := oneWordOf[keyFormat](o, "keyFormat", "key format"); ok {
		v.KeyFormat = w
	}
	if file := o.file("passwordFile", "/etc/kvfs/keystore-password"); file != "" {
		v.PasswordFile = file
	}
}

// layouts takes a list of layouts, each of them once.
func (r reader) layouts(n *node, path string) (layouts []string) {
	items, ok := r.list(n, path, `write ["v3", "v4"]`)
	if !ok {
		return nil
	}
	known, given := wordsOf[layout](), false
	for i, item := range items {
		if item.kind == kindNull || r.report.enough() {
			continue
		}
		given = true
		if l, ok := r.oneOf(item, at(path, i), "layout", known...); ok && !slices.Contains(layouts, l) {
			layouts = append(layouts, l)
		}
	}
	if !given {
		r.fault(n.at(), path+" is empty: no names would be shown", `write ["v3", "v4"], or leave it out`)
	}
	return layouts
}

// oneWordOf takes a field that is one of a few strings; false if it is absent or wrong.
func oneWordOf[T word](o *object, name, what string) (string, bool) {
	n := o.get(name)
	if n == nil {
		return "", false
	}
	words := wordsOf[T]()
	if n.kind != kindString { // that it is no string helps nobody who wrote false for off
		o.mismatch(n, o.join(name), "a known "+what, "known are "+enumerate(words))
		return "", false
	}
	return o.oneOf(n, o.join(name), what, words...)
}

// stores are the blocks of kvfs.stores. The zero value has none.
type stores struct {
	list   []storeBlock
	byPath map[string]int32 // the index in the list
}

// storeBlock is what is said for the certificates of one store.
type storeBlock struct {
	*member
	Views
	Persistent
	twice, used bool
}

// views returns those of the certificates in a store, which are the general ones unless the store has a block.
func (s *stores) views(store string, general Views) Views {
	i, ok := s.byPath[store]
	if !ok {
		return general
	}
	s.list[i].used = true
	return s.list[i].Views
}

// readStores reads kvfs.stores. As with keys, of a path that is given twice the last one counts.
func (s *settings) readStores(n *node, path string) {
	if !s.isObject(n, path, `write {"/etc/tls/kv": {"layouts": ["v3", "live"]}}`) {
		return
	}
	members := n.members()
	s.stores = stores{make([]storeBlock, 0, len(members)), make(map[string]int32, len(members))}
	for i := range members {
		s.addStore(&members[i], path)
	}
	for i := range s.stores.list {
		if s.report.enough() {
			return
		}
		s.readStore(&s.stores.list[i], path)
	}
}

func (s *settings) addStore(m *member, path string) {
	if s.report.enough() {
		return
	}
	store, fact, hint := cleanStore(m.key)
	if fact != "" {
		s.fault(m.keyAt, prefix(path, fact), hint)
		return
	}
	i, ok := s.stores.byPath[store]
	if !ok {
		s.stores.byPath[store] = int32(len(s.stores.list))
		s.stores.list = append(s.stores.list, storeBlock{member: m})
		return
	}
	b := &s.stores.list[i]
	b.member = m
	if !b.twice {
		b.twice = true
		s.report.warning(m.keyAt, element(path, store)+" is given more than once; the last one counts", "remove the others")
	}
}

// readStore reads the block of a store. Null counts as absent.
func (s *settings) readStore(b *storeBlock, path string) {
	b.Views, b.Persistent = s.views, s.files
	if b.value.kind == kindNull {
		b.used = true // there is nothing of which to say that it has no effect
		return
	}
	if b.value.kind == kindObject && len(b.value.members()) == 0 {
		return // before anything is made for it: a document may hold a hundred thousand
	}
	path = element(path, b.key)
	if !s.isObject(b.value, path, `write {"layouts": ["v3", "live"]}`) {
		return
	}
	o := s.object(b.value, path, fieldsOf[storeFields](s.report))
	defer o.doneOwn()
	o.views(&b.Views)
	o.persistent(&b.Persistent)
}

// unusedStores reports blocks of stores that no entry names, after the entries were read.
func (s *settings) unusedStores() {
	for i := range s.stores.list {
		b := &s.stores.list[i]
		switch {
		case b.used:
		case s.report.full():
			s.report.drop(Warning)
		default:
			s.report.warning(b.keyAt, keyOwn+"."+element("stores", b.key)+" has no effect: no certificate is in this store",
				"write the certificateStoreLocation of a certificate, or remove it")
		}
	}
}

// element returns the path of an element of an object whose keys are anybody's.
func element(path, key string) string { return path + "[" + quote(key) + "]" }

// unite returns the layouts of both, in the order in which they come first. It changes neither.
func unite(a, b []string) []string {
	for _, l := range b {
		if !slices.Contains(a, l) {
			a = append(slices.Clip(a), l)
		}
	}
	return a
}

const passwordHint = `write it to a file that only root can read, and give that file's path as "passwordFile"`

// doneOwn is doneStrictly for blocks with a passwordFile: a password in place of its file is refused in words of its own.
func (o *object) doneOwn() {
	var unknown []*member
	for _, m := range o.unknown {
		if o.report.enough() || !isPassword(m.key) {
			unknown = push(unknown, m)
			continue
		}
		o.report.error(m.keyAt, o.within(quote(m.key)+" is a secret, and settings are public"), passwordHint)
	}
	o.unknown = unknown
	o.doneStrictly()
}

// isPassword reports whether people mean a password of files by this name.
func isPassword(key string) bool {
	name := strings.ToLower(key[:min(len(key), 40)])
	return strings.HasSuffix(name, "password") || strings.HasSuffix(name, "passphrase") || strings.HasSuffix(name, "storepass")
}
