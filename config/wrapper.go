package config

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	keySettings     = "secretsManagementSettings"
	keyCertificates = "observedCertificates"
	keyIdentity     = "authenticationSettings"
	keyLogging      = "loggingSettings"
	keyProtected    = "protectedSettings"
	keyOwn          = "kvfs"
	keyVersion      = "typeHandlerVersion"
	leastSettings   = `{"secretsManagementSettings": {"observedCertificates": [...]}}`
	contentNotName  = "pass the content of the file, not its name (PowerShell: Get-Content -Raw; Azure CLI: @settings.json)"
)

// forms are the ways from the top of a document to the settings object. The first that leads to one counts.
func forms() [][]string {
	return [][]string{
		{},                         // a file for the Azure CLI or PowerShell
		{"settings"},               // a cut-out of a template
		{"properties", "settings"}, // one ARM extension resource
		{"publicSettings"},         // cut-outs of the next form
		{"handlerSettings", "publicSettings"},
		{"runtimeSettings", "handlerSettings", "publicSettings"}, // what the guest agent writes
	}
}

// wrapperNames are the names on the ways to the settings object.
func wrapperNames() (names []string) {
	for _, form := range forms() {
		names = append(names, form...)
	}
	return names
}

// document is the settings object and what stands around it.
type document struct {
	settings *node
	// wrappers are the objects on the way to it, the nearest first.
	wrappers []*node
}

// unwrapper finds the settings object.
type unwrapper struct{ reader }

// find returns the document below root, or nil after it has reported why there is none.
func (u unwrapper) find(root *node) *document {
	if root.kind == kindString {
		u.stringWarning(root, "the document")
	}
	root, err := u.unwrap(root, "the document")
	if err != nil {
		u.report.error(err.at, err.fact, err.hint)
		return nil
	}
	var best attempt
	for _, form := range forms() {
		a := u.follow(root, form)
		if a.err == nil && a.complete && a.has(keySettings) {
			u.settle(a)
			return a.document()
		}
		if len(a.steps) > len(best.steps) || best.err == nil && a.err != nil {
			best = a
		}
	}
	u.missing(best)
	return nil
}

// attempt is how far one form led.
type attempt struct {
	form     []string
	steps    []*node  // the objects reached, from the top
	taken    []member // the members followed
	complete bool     // all of form was there
	err      *refusal
	extra    *node // a second element of a list of which only the first counts
}

func (a attempt) last() *node { return a.steps[len(a.steps)-1] }

func (a attempt) has(key string) bool { return lookup(a.last(), key).value != nil }

func (a attempt) document() *document {
	wrappers := slices.Clone(a.steps[:len(a.steps)-1])
	slices.Reverse(wrappers)
	return &document{settings: a.last(), wrappers: wrappers}
}

// lookup returns the last member of this name, in whatever case. Null counts as absent.
func lookup(n *node, name string) (found member) {
	for _, m := range n.members() {
		if strings.EqualFold(m.key, name) {
			found = m
		}
	}
	if found.value != nil && found.value.kind == kindNull {
		return member{}
	}
	return found
}

// follow goes along a form as far as the document does.
func (u unwrapper) follow(root *node, form []string) attempt {
	a := attempt{form: form, steps: []*node{root}}
	for _, name := range form {
		m := lookup(a.last(), name)
		if m.value == nil {
			return a
		}
		next := m.value
		if name == "runtimeSettings" && next.kind == kindList && len(next.items()) > 0 {
			if len(next.items()) > 1 {
				a.extra = next.items()[1]
			}
			next = next.items()[0]
		}
		if next, a.err = u.unwrap(next, name); a.err != nil {
			return a
		}
		a.steps, a.taken = append(a.steps, next), append(a.taken, m)
	}
	a.complete = true
	return a
}

// settle warns about the oddities on the way that was taken.
func (u unwrapper) settle(a attempt) {
	for i, m := range a.taken {
		if m.key != a.form[i] {
			u.report.warnOnce("case "+m.key, m.keyAt, quote(m.key)+" is taken for "+quote(a.form[i]), "write "+quote(a.form[i]))
		}
		if m.value.kind == kindString {
			u.stringWarning(m.value, a.form[i])
		}
	}
	if a.extra != nil {
		u.report.warning(a.extra.at(), "runtimeSettings has more than one element; only the first counts", "remove the others")
	}
}

func (u unwrapper) stringWarning(n *node, what string) {
	u.report.warnOnce("string", n.at(), what+" is a string that holds JSON", "pass the object itself, not its text")
}

// missing reports that no form led to the settings.
func (u unwrapper) missing(a attempt) {
	if a.err != nil {
		u.report.error(a.err.at, a.err.fact, a.err.hint)
		return
	}
	for _, step := range slices.Backward(a.steps) {
		for _, m := range step.members() {
			if near(m.key, []string{keySettings}) != "" && !strings.EqualFold(m.key, keySettings) {
				u.report.error(m.keyAt, quote(keySettings)+" is missing; "+quote(m.key)+" is not a known field", "did you mean "+quote(keySettings)+"?")
				return
			}
		}
	}
	for _, step := range slices.Backward(a.steps) {
		if isWrappedList(step) {
			u.report.error(step.at(), "the settings are "+wrappedListFact, wrappedListHint)
			return
		}
		if m := lookup(step, keyCertificates); m.value != nil {
			u.report.error(m.keyAt, quote(keySettings)+" is missing; "+quote(m.key)+" is outside of it", "put it into "+quote(keySettings)+": {...}")
			return
		}
	}
	for _, m := range a.last().members() {
		if name := near(m.key, wrapperNames()); name != "" && !strings.EqualFold(name, m.key) {
			u.report.error(m.keyAt, quote(keySettings)+" is missing; "+quote(m.key)+" is not a known field", "did you mean "+quote(name)+"?")
			return
		}
	}
	if where, m := elsewhere(a.steps[0], ""); m.value != nil {
		u.report.error(m.keyAt, elsewhereFact(where), `pass the object around it, as {"settings": {...}}`)
		return
	}
	u.report.error(a.last().at(), quote(keySettings)+" is missing", "the least is "+leastSettings)
}

// unwrap returns the object that n is or, as a string, holds.
func (u unwrapper) unwrap(n *node, what string) (*node, *refusal) {
	outer := n
	for n.kind == kindString {
		var err *refusal
		if n, err = u.parseString(n, outer, what); err != nil {
			return nil, err
		}
	}
	if n.kind == kindList && len(n.items()) > 0 {
		return nil, &refusal{outer.at(), what + " is a list, not an object", listHint(n)}
	}
	if n.kind != kindObject {
		return nil, &refusal{outer.at(), what + " is " + n.shown() + ", not an object", "the least is " + leastSettings}
	}
	return n, nil
}

// listHint is what to do about a list in place of settings.
func listHint(n *node) string {
	const around = `write {"secretsManagementSettings": {"observedCertificates": ...}} around it`
	for _, item := range n.items() {
		switch {
		case item.kind == kindString, lookup(item, "url").value != nil:
			return around
		case lookup(item, "settings").value != nil, lookup(item, "publisher").value != nil, lookup(item, "properties").value != nil:
			return "pass the settings of the element whose name is KeyVaultForLinux" // what "az vm extension list" writes
		}
	}
	return "pass one of its elements"
}

func (u unwrapper) parseString(n, outer *node, what string) (*node, *refusal) {
	if isARM(n) {
		return nil, &refusal{outer.at(), prefix(what, armFact), armHint}
	}
	if hint := inQuotes(n.text); hint != "" {
		return nil, &refusal{outer.at(), what + " is a string that holds JSON in quotes", hint}
	}
	begin := strings.TrimLeft(n.text, space)
	if begin == "" || strings.IndexByte(`{"/`, begin[0]) < 0 {
		if fact, other := notEvaluated(n); fact != "" {
			return nil, &refusal{outer.at(), prefix(what, fact), other}
		}
		if other, hint := foreign(n.text); other != "" && hint != contentNotName {
			return nil, &refusal{outer.at(), what + " is a string that holds no JSON object but " + other, hint}
		}
		return nil, &refusal{outer.at(), what + " is a string that holds no JSON object: " + quote(n.text), contentNotName}
	}
	return u.parse(n.src.undoString(int(n.start), int(n.end)), outer.at(), what)
}

// parse reads text, undoing the backslashes that PowerShell left before its quotes.
func (u unwrapper) parse(src *source, at int, what string) (*node, *refusal) {
	if n := src.escapedQuotes(); n >= 0 {
		u.report.warnOnce("escapes", src.at(n), "quotes are written with a backslash, as for a command line of PowerShell", `write plain quotes in a file`)
		src = src.undoEscapes()
	}
	if src.layers > maxLayers {
		return nil, &refusal{at, what + " is JSON in more than two layers of strings", "pass the object itself, not its text"}
	}
	return parse(src, u.report)
}

// isVersion4 reports whether the settings were written for version 4 or later of the extension: by the version beside them or
// by the directory in which the agent keeps them.
func (d *document) isVersion4(name string) bool {
	for _, w := range d.wrappers {
		if v := lookup(w, keyVersion).value; v != nil {
			return major(v.text) >= 4
		}
	}
	dir := path.Base(path.Dir(path.Dir(name)))
	version, ok := strings.CutPrefix(dir, "Microsoft.Azure.KeyVault.KeyVaultForLinux-")
	return ok && major(version) >= 4
}

// major returns the first number of a version, 0 if there is none.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}
