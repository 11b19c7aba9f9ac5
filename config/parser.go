package config

import (
	"fmt"
	"slices"
	"strings"
)

// maxDepth is how deep objects and lists may be nested.
const maxDepth = 64

// space is what JSON admits between tokens.
const space = " \t\r\n"

// refusal is why the reading of a document ends.
type refusal struct {
	at         int // offset in the file
	fact, hint string
}

// parser reads JSON with comments and trailing commas. Its position only moves forward.
type parser struct {
	src    *source
	text   string
	n      int // offset of the next byte
	depth  int
	report *report
	// What is in the objects and lists that are not closed yet. A closed one takes its own from the end.
	items   []*node
	members []member
}

// parse reads a whole text. Comments and trailing commas are each reported once for the whole document.
func parse(src *source, r *report) (*node, *refusal) {
	p := &parser{src: src, text: src.text, report: r}
	if err := p.skip(); err != nil {
		return nil, err
	}
	root, err := p.value(place{})
	if err != nil {
		return nil, err
	}
	if err := p.skip(); err != nil {
		return nil, err
	}
	if p.n < len(p.text) {
		return nil, p.fail(p.n, "expected the end of the document, found "+p.found(), p.afterEnd(root))
	}
	return root, nil
}

func (p *parser) fail(n int, fact, hint string) *refusal {
	return &refusal{p.src.at(n), fact, hint}
}

// next returns the next byte, 0 at the end. A NUL in the text is no token either.
func (p *parser) next() byte {
	if p.n == len(p.text) {
		return 0
	}
	return p.text[p.n]
}

// skip moves over white space and comments.
func (p *parser) skip() *refusal {
	for {
		p.n += len(p.text[p.n:]) - len(strings.TrimLeft(p.text[p.n:], space))
		rest := p.text[p.n:]
		switch {
		case strings.HasPrefix(rest, "//"):
			p.comment()
			if i := strings.IndexByte(rest, '\n'); i >= 0 {
				p.n += i + 1
			} else {
				p.n = len(p.text)
			}
		case strings.HasPrefix(rest, "/*"):
			p.comment()
			i := strings.Index(rest[2:], "*/")
			if i < 0 {
				return p.fail(p.n, "a comment is not closed", "end it with */")
			}
			p.n += i + 4
		default:
			return nil
		}
	}
}

func (p *parser) comment() {
	p.report.warnOnce("comment", p.src.at(p.n), "JSON has no comments", "remove them if other programs read this file")
}

// value reads the value that stands here.
func (p *parser) value(at place) (*node, *refusal) {
	switch c := p.next(); {
	case c == '{':
		return p.object()
	case c == '[':
		return p.list()
	case c == '"':
		return p.string()
	case c == '-' || isDigit(c):
		return p.number()
	case isLetter(c):
		return p.word()
	}
	return nil, p.unexpected("a value " + at.where())
}

// open begins an object or a list, close ends it.
func (p *parser) open(k kind) (*node, *refusal) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail(p.n, fmt.Sprintf("nested deeper than %d", maxDepth), "settings have some ten levels; is this the right file?")
	}
	n := &node{kind: k, src: p.src, start: int32(p.n)}
	p.n++
	return n, p.skip()
}

func (p *parser) close(n *node) {
	p.n++
	n.end = int32(p.n)
	p.depth--
}

func (p *parser) object() (*node, *refusal) {
	obj, err := p.open(kindObject)
	if err != nil {
		return nil, err
	}
	first := len(p.members)
	for p.next() != '}' {
		m, err := p.member(obj)
		if err != nil {
			return nil, err
		}
		p.members = push(p.members, m)
		if err := p.comma(obj, '}', place{kind: kindObject, key: m.key}, m.value); err != nil {
			return nil, err
		}
	}
	if members := p.members[first:]; len(members) > 0 {
		obj.in = &children{members: slices.Clone(members)}
	}
	p.members = p.members[:first]
	p.close(obj)
	return obj, nil
}

func (p *parser) member(obj *node) (member, *refusal) {
	if p.next() != '"' {
		return member{}, p.noKey(obj)
	}
	start := p.n
	key, err := p.stringText()
	if err != nil {
		return member{}, err
	}
	value, err := p.valueOf(key)
	if hint := hiddenHint(key); err != nil && hint != "" {
		err.fact, err.hint = "the value of "+quote(key)+" is not valid JSON", hint
	}
	return member{key, p.src.at(start), value}, err
}

// valueOf reads the colon and the value after a key.
func (p *parser) valueOf(key string) (*node, *refusal) {
	if err := p.skip(); err != nil {
		return nil, err
	}
	if p.next() != ':' {
		return nil, p.unexpected(`":" after the key ` + quote(key))
	}
	p.n++
	if err := p.skip(); err != nil {
		return nil, err
	}
	return p.value(place{kind: kindObject, key: key})
}

func (p *parser) list() (*node, *refusal) {
	list, err := p.open(kindList)
	if err != nil {
		return nil, err
	}
	first := len(p.items)
	for p.next() != ']' {
		at := place{kind: kindList, element: len(p.items) - first + 1}
		item, err := p.value(at)
		if err != nil {
			return nil, err
		}
		p.items = push(p.items, item)
		if err := p.comma(list, ']', at, item); err != nil {
			return nil, err
		}
	}
	if items := p.items[first:]; len(items) > 0 {
		list.in = &children{items: slices.Clone(items)}
	}
	p.items = p.items[:first]
	p.close(list)
	return list, nil
}

// comma moves over the comma between two values, or up to the closing bracket.
func (p *parser) comma(in *node, closing byte, at place, last *node) *refusal {
	if err := p.skip(); err != nil {
		return err
	}
	switch p.next() {
	case closing:
		return nil
	case ',':
	default:
		return p.noComma(in, closing, at.after(), last)
	}
	comma := p.n
	p.n++
	if err := p.skip(); err != nil {
		return err
	}
	if p.next() == closing {
		p.report.warnOnce("trailing comma", p.src.at(comma), "JSON has no comma after the last element", "remove it if other programs read this file")
	}
	return nil
}
