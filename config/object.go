package config

import (
	"strings"
)

// object is a JSON object that is read by the names of its fields. Null counts as absent, of a key given twice the last one
// counts, and a key in another case is taken.
type object struct {
	reader
	node    *node
	path    string // of the object, "" for the settings themselves
	known   []string
	fields  map[string]member // by known name
	unknown []member
}

// object reads the keys of n. The caller takes the fields and then calls done.
func (r reader) object(n *node, path string, known ...string) *object {
	o := &object{reader: r, node: n, path: path, known: known, fields: make(map[string]member)}
	for _, m := range n.members {
		name, ok := fold(m.key, known)
		if !ok {
			o.unknown = append(o.unknown, m)
			continue
		}
		if m.key != name {
			r.report.warnOnce("case "+m.key, m.keyAt, quote(m.key)+" is taken for "+quote(name), "write "+quote(name))
		}
		if _, twice := o.fields[name]; twice {
			r.report.warnOnce("twice "+path+" "+name, m.keyAt, quote(o.join(name))+" is given more than once; the last one counts", "remove the others")
		}
		o.fields[name] = m
	}
	return o
}

// fold finds the known name that is key but for case.
func fold(key string, known []string) (name string, ok bool) {
	for _, name := range known {
		if strings.EqualFold(key, name) {
			return name, true
		}
	}
	return "", false
}

// join returns the path of a field.
func (o *object) join(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// get returns the value of a field, nil if it is absent.
func (o *object) get(name string) *node {
	if v := o.fields[name].value; v != nil && v.kind != kindNull {
		return v
	}
	return nil
}

// keyAt returns the offset of the key of a field that is there.
func (o *object) keyAt(name string) int { return o.fields[name].keyAt }

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
		once := "unknown " + m.key
		if o.report.said[once] {
			continue
		}
		hint := "remove it, it has no effect"
		if name := near(m.key, o.known); name != "" {
			hint = "did you mean " + quote(name) + "?"
		}
		o.report.warnOnce(once, m.keyAt, o.within(quote(m.key)+" is not a known field"), hint)
	}
}

// doneStrictly refuses the unknown fields: for our own settings, which no vendor extends.
func (o *object) doneStrictly() {
	for _, m := range o.unknown {
		hint := "known are " + strings.Join(o.known, ", ")
		if name := near(m.key, o.known); name != "" {
			hint = "did you mean " + quote(name) + "?"
		}
		o.report.error(m.keyAt, o.within(quote(m.key)+" is not a known field"), hint)
	}
}
