package config

import (
	"slices"
	"strings"
)

// object is a JSON object that is read by the names of its fields. Null counts as absent, of a key given twice the last one
// counts, and a key in another case is taken.
type object struct {
	reader
	node    *node
	path    string // of the object, "" for the settings themselves
	known   *fieldSet
	fields  []*member // in the order of known.names, nil for those that are absent
	unknown []*member
}

// object reads the keys of n. The caller takes the fields and then calls done.
func (r reader) object(n *node, path string, known *fieldSet) *object {
	o := &object{reader: r, node: n, path: path, known: known, fields: make([]*member, len(known.names))}
	members := n.members()
	for i := range members {
		o.take(&members[i])
	}
	return o
}

func (o *object) take(m *member) {
	i := fold(m.key, o.known.names)
	if i < 0 {
		o.unknown = push(o.unknown, m)
		return
	}
	name := o.known.names[i]
	if m.key != name {
		o.report.warnOnce("case "+m.key, m.keyAt, quote(m.key)+" is taken for "+quote(name), "write "+quote(name))
	}
	if o.fields[i] != nil {
		o.report.warnOnce("twice "+o.path+" "+name, m.keyAt, quote(o.join(name))+" is given more than once; the last one counts", "remove the others")
	}
	o.fields[i] = m
}

// fold returns the index of the known name that is key but for case, -1 if there is none.
func fold(key string, known []string) int {
	return slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(key, name) })
}

// join returns the path of a field.
func (o *object) join(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// member returns a field that is there, perhaps with the value null, otherwise a member without a value.
func (o *object) member(name string) member {
	if i := slices.Index(o.known.names, name); i >= 0 && o.fields[i] != nil {
		return *o.fields[i]
	}
	return member{}
}

// get returns the value of a field, nil if it is absent.
func (o *object) get(name string) *node {
	if v := o.member(name).value; v != nil && v.kind != kindNull {
		return v
	}
	return nil
}

// keyAt returns the offset of the key of a field that is there.
func (o *object) keyAt(name string) int { return o.member(name).keyAt }

// required is get for a field that must be there. Where something else has nearly its name, that is the mistake.
func (o *object) required(name, hint string) *node {
	if v := o.get(name); v != nil {
		return v
	}
	for i, m := range o.unknown {
		if near(m.key, []string{name}) == "" {
			continue
		}
		o.fault(m.keyAt, o.within(quote(name)+" is missing; "+quote(m.key)+" is not a known field"), "did you mean "+quote(name)+"?")
		o.unknown = append(o.unknown[:i:i], o.unknown[i+1:]...)
		return nil
	}
	o.fault(o.node.at(), o.within(quote(name)+" is missing"), hint)
	return nil
}

// within prefixes a fact with the path of the object.
func (o *object) within(fact string) string { return prefix(o.path, fact) }

func prefix(path, fact string) string {
	if path == "" {
		return fact
	}
	return path + ": " + fact
}

// done reports the unknown fields, the same name once however many objects have it.
func (o *object) done() {
	for _, m := range o.unknown {
		if o.report.full() {
			o.report.drop(Warning)
			continue
		}
		once := "unknown " + m.key
		if o.report.said[once] {
			continue
		}
		o.report.warnOnce(once, m.keyAt, o.notKnown(m), o.meant(m, "remove it, it has no effect"))
	}
}

// doneStrictly refuses the unknown fields: for our own settings, which no vendor extends.
func (o *object) doneStrictly() {
	for _, m := range o.unknown {
		if o.report.enough() {
			return
		}
		o.report.error(m.keyAt, o.notKnown(m), o.meant(m, "remove it; known here: "+strings.Join(o.known.names, ", ")))
	}
}

func (o *object) notKnown(m *member) string { return o.within(quote(m.key) + " is not a known field") }

// meant is the hint for a field that is not known.
func (o *object) meant(m *member, otherwise string) string {
	if name := near(m.key, o.known.names); name != "" {
		return "did you mean " + quote(name) + "?"
	}
	return otherwise
}

// ignore notes the fields that have no effect here.
func (o *object) ignore() {
	for _, name := range o.known.ignored {
		if o.get(name) != nil {
			o.report.ignore(o.keyAt(name), o.join(name))
		}
	}
}

// push is append that doubles: what append adds to a long list at a time makes it five times as much in all.
func push[T any](s []T, v T) []T {
	if len(s) == cap(s) {
		s = append(make([]T, 0, max(4, 2*cap(s))), s...)
	}
	return append(s, v)
}
