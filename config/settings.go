package config

import (
	"fmt"
	"strings"
	"time"

	"kvfs/vault"
)

// settings reads the settings object into a Config.
type settings struct {
	reader
	config   *Config
	store    string // of entries that name none; "" until known
	suffixes []string
	floor    time.Duration   // the least polling interval
	chosen   *vault.Identity // kvfs.identity
	general  vault.Identity  // from which an authenticationOverride starts
	acls     bool            // grants count
	views    Views           // of all
	guards   Guards          // of all
	files    Persistent      // of all stores
	actions  []Action        // of all
	stores   stores
}

func newSettings(r reader) *settings {
	return &settings{reader: r, config: defaults(), store: DefaultStore, floor: MinPollingInterval, acls: true, views: defaultViews(), guards: defaultGuards()}
}

func (s *settings) read(doc *document) {
	top := s.object(doc.settings, "", fieldsOf[settingsFields](s.report))
	top.misnamed(strayBeside)
	if s.store == "" {
		s.store = DefaultStore
	} else if store, ok := s.givenStore(s.store); ok {
		s.store = store
	}
	if own := top.get(keyOwn); own != nil {
		s.readOwn(own)
	}
	s.protected(top.get(keyProtected))
	top.done()
	n := top.get(keySettings)
	if !s.isObject(n, keySettings, "the least is "+leastSettings) {
		s.readBeside(doc, top, &object{known: new(fieldSet)})
		return
	}
	main := s.object(n, "", fieldsOf[mainFields](s.report).and(keyIdentity, keyLogging, keyOwn))
	main.misnamed(strayBeside)
	s.readBeside(doc, top, main)
	s.readMain(main)
	main.done()
}

// readBeside reads what belongs beside secretsManagementSettings, wherever it stands.
func (s *settings) readBeside(doc *document, top, main *object) {
	s.identities(s.misplaced(keyIdentity, doc, top, main))
	if n := s.misplaced(keyLogging, doc, top, main); n != nil {
		s.config.Logging = s.logging(n)
	}
	if main.get(keyOwn) != nil {
		s.strayOwn(main.member(keyOwn))
	}
	for _, w := range doc.wrappers {
		if n := lookup(w, keyProtected).value; n != nil {
			s.protected(n)
		}
		if m := lookup(w, keyOwn); m.value != nil {
			s.strayOwn(m)
		}
	}
	s.strayAroundAll(doc.wrappers)
}

func (s *settings) strayOwn(m member) {
	s.report.error(m.keyAt, quote(keyOwn)+" has no effect here", "move it beside "+quote(keySettings))
}

// misplaced returns the value of a field from its regular place, otherwise from where people put it by mistake: inside
// secretsManagementSettings, or beside the settings object.
func (s *settings) misplaced(name string, doc *document, top, main *object) *node {
	places := []member{top.member(name), main.member(name)}
	for _, w := range doc.wrappers {
		places = append(places, lookup(w, name))
	}
	var found *node
	for i, m := range places {
		if m.value == nil || m.value.kind == kindNull {
			continue
		}
		if i > 0 {
			s.report.warning(m.keyAt, fmt.Sprintf("%q is in the wrong place", name), "move it beside "+quote(keySettings))
		}
		if found == nil {
			found = m.value
		}
	}
	return found
}

func (s *settings) protected(n *node) {
	if n != nil {
		s.report.warning(n.at(), keyProtected+" are ignored", "all settings of the extension are public; put them there")
	}
}

// readMain reads secretsManagementSettings. The order matters: entries need what is said for all of them.
func (s *settings) readMain(o *object) {
	s.pollingInterval(o)
	if n := o.get("certificateStoreLocation"); n != nil {
		if store, ok := s.storeLocation(n, "certificateStoreLocation"); ok && store != "" {
			s.store = store
		}
	}
	if n := o.get("linkOnRenewal"); n != nil {
		if _, ok := s.boolean(n, "linkOnRenewal"); ok { // Windows only: links always move here
			s.report.ignore(o.keyAt("linkOnRenewal"), "linkOnRenewal")
		}
	}
	o.ignore()
	s.initialSync(o)
	if n := o.get("aclEnabled"); n != nil {
		if enabled, ok := s.boolean(n, "aclEnabled"); ok {
			s.acls = enabled
		}
	}
	const example = `add "observedCertificates": ["https://VAULT.vault.azure.net/secrets/NAME"]`
	if n := o.required(keyCertificates, example); n != nil {
		s.certificates(n)
	}
}

func (s *settings) pollingInterval(o *object) {
	const name = "pollingIntervalInS"
	n := o.get(name)
	if n == nil {
		return
	}
	d, ok := s.seconds(n, name, 1)
	if !ok {
		return
	}
	if d < s.floor {
		floor := int(s.floor / time.Second)
		s.report.warning(n.at(), fmt.Sprintf("%s: %s is raised to %d", name, n.shown(), floor), fmt.Sprintf(`write "%d" or more`, floor))
		d = s.floor
	}
	s.config.PollingInterval = d
}

// initialSync takes both spellings; the page of version 1 has the wrong one.
func (s *settings) initialSync(o *object) {
	const name, typo = "requireInitialSync", "requiredInitialSync"
	if n := o.get(typo); n != nil {
		s.report.warning(o.keyAt(typo), quote(typo)+" is taken for "+quote(name), "write "+quote(name))
		if v, ok := s.boolean(n, typo); ok {
			s.config.RequireInitialSync = v
		}
	}
	if n := o.get(name); n != nil {
		if v, ok := s.boolean(n, name); ok {
			s.config.RequireInitialSync = v
		}
	}
}

// certificates reads the entries and compares them with each other.
func (s *settings) certificates(n *node) {
	const name = keyCertificates
	var entries []*entry
	add := func(n *node, path string) {
		if e := s.entry(n, path); e != nil {
			entries = push(entries, e)
		}
	}
	switch {
	case isWrappedList(n):
		s.fault(n.at(), name+" is "+wrappedListFact, wrappedListHint)
	case n.kind == kindList:
		empty := true
		for i, item := range n.items() {
			if s.report.enough() {
				return
			}
			if item.kind == kindNull {
				s.nullEntry(item, i)
				continue
			}
			empty = false
			add(item, at(name, i))
		}
		if empty {
			s.report.warning(n.at(), name+" is empty: nothing is served", `add a URL, such as "https://VAULT.vault.azure.net/secrets/NAME"`)
		}
	case n.kind == kindString && !isARM(n) && !strings.HasPrefix(n.text, "System.") || n.kind == kindObject:
		s.report.warning(n.at(), name+" is one entry and no list", "put it in brackets: [...]")
		add(n, name)
	default:
		s.mismatch(n, name, "a list of certificates", `write ["https://VAULT.vault.azure.net/secrets/NAME"]`)
	}
	s.unusedStores()
	s.config.Certificates = s.compare(entries)
}

// nullEntry warns of a null in place of a certificate. It counts as absent, as everywhere; but here it is what a template makes of
// an empty variable, and a certificate is lost without a word.
func (s *settings) nullEntry(n *node, i int) {
	if s.report.full() {
		s.report.drop(Warning)
		return
	}
	s.report.warning(n.at(), at(keyCertificates, i)+" is null", "remove it, or look why the variable is empty")
}

// FromURLs makes the Config of a document that would list these URLs and nothing else. An empty store means DefaultStore.
// Problems have no position, their facts name the place of the URL in the list. The Identity is the machine's; a caller who
// means another one sets it in every certificate.
func FromURLs(urls []string, store string) (*Config, Problems) {
	s := newSettings(reader{newReport(nil), Error})
	if store != "" {
		s.store, _ = s.givenStore(store)
	}
	var entries []*entry
	for i, url := range urls {
		if e := s.entry(&node{kind: kindString, text: url}, fmt.Sprintf("URL %d", i+1)); e != nil {
			entries = append(entries, e)
		}
	}
	s.config.Certificates = s.compare(entries)
	if s.report.errors > 0 {
		return nil, s.report.problems()
	}
	return s.config, s.report.problems()
}
