package config

import "fmt"

// place is where the parser is: at the beginning of the document, at the value of a key, or at an element of a list. It is
// put into words only when something is wrong there.
type place struct {
	kind    kind   // of what surrounds the value, kindNull for nothing
	key     string // in an object
	element int    // in a list, from 1
}

// where says where a value is expected.
func (p place) where() string {
	switch p.kind {
	case kindObject:
		return "after the key " + quote(p.key)
	case kindList:
		return "in the list"
	}
	return "at the beginning"
}

// after says what was read last.
func (p place) after() string {
	if p.kind == kindObject {
		return "the value of " + quote(p.key)
	}
	return fmt.Sprintf("element %d of the list", p.element)
}
