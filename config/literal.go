package config

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// string reads the string that begins here.
func (p *parser) string() (*node, *refusal) {
	n := &node{kind: kindString, src: p.src, start: int32(p.n)}
	text, err := p.stringText()
	n.text, n.end = text, int32(p.n)
	return n, err
}

// stringText moves over the string that begins here and returns what it means.
func (p *parser) stringText() (string, *refusal) {
	start := p.n
	p.n++
	escaped := false
	for p.next() != '"' {
		switch c := p.next(); {
		case p.n == len(p.text):
			return "", p.fail(start, "a string is not closed", `end it with "`)
		case c == '\n' || c == '\r':
			return "", p.fail(p.n, "a line ends inside a string", `end the string with ", or write \n for the line break`)
		case c < ' ':
			return "", p.fail(p.n, fmt.Sprintf("a control character (%#02x) in a string", c), "remove it")
		case c == '\\':
			escaped = true
			size, err := p.escape(start)
			if err != nil {
				return "", err
			}
			p.n += size
		default:
			p.n++
		}
	}
	p.n++
	text := p.text[start+1 : p.n-1]
	if escaped {
		text = meaning(text)
	}
	return text, nil
}

// escape checks the escape that begins here, in the string that begins at start, and returns its length.
func (p *parser) escape(start int) (size int, err *refusal) {
	rest := p.text[p.n:]
	switch {
	case len(rest) < 2:
		return 0, p.fail(start, "a string is not closed", `end it with "`)
	case rest[1] == 'u' && hexEscape(rest) < 0:
		return 0, p.fail(p.n+1, `\u is not followed by four hexadecimal digits`, `write \\ for a backslash`)
	case rest[1] == 'u':
		_, size := unescape(rest)
		if size == len(`\uXXXX`) && utf16.IsSurrogate(hexEscape(rest)) {
			p.report.warnOnce("surrogate", p.src.at(p.n), rest[:size]+" is half a character", `write the character itself, or both halves, as \ud83d\ude00`)
		}
		return size, nil
	}
	if _, ok := simpleEscape(rest[1:2]); !ok {
		return 0, p.fail(p.n+1, `\`+shorten(p.character(p.n+1))+" means nothing in a string", `write \\ for a backslash`)
	}
	return 2, nil
}

// meaning returns what the body of a valid string literal means.
func meaning(body string) string {
	var b strings.Builder
	b.Grow(len(body))
	eachPiece(body, func(piece string, _ int) { b.WriteString(piece) })
	return b.String()
}

// number reads the number that begins here: -?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?
func (p *parser) number() (*node, *refusal) {
	n := &node{kind: kindNumber, src: p.src, start: int32(p.n)}
	if p.next() == '-' {
		p.n++
	}
	ok := p.next() == '0'
	if ok {
		p.n++
	} else {
		ok = p.digits()
	}
	if ok && p.next() == '.' {
		p.n++
		ok = p.digits()
	}
	if ok && (p.next() == 'e' || p.next() == 'E') {
		p.n++
		if p.next() == '+' || p.next() == '-' {
			p.n++
		}
		ok = p.digits()
	}
	if c := p.next(); !ok || isLetter(c) || isDigit(c) || c == '.' || c == '_' {
		return nil, p.fail(p.n, quote(p.run(int(n.start)))+" is not a number in JSON", "put text in double quotes; write numbers as 3600")
	}
	n.end = int32(p.n)
	n.text = p.text[n.start:n.end]
	return n, nil
}

// digits moves over digits and reports whether there was one.
func (p *parser) digits() bool {
	start := p.n
	for isDigit(p.next()) {
		p.n++
	}
	return p.n > start
}

// word reads true, false or null.
func (p *parser) word() (*node, *refusal) {
	n := &node{src: p.src, start: int32(p.n)}
	n.text = p.run(p.n)
	n.end = int32(p.n + len(n.text))
	switch n.text {
	case "true", "false":
		n.kind = kindBool
	case "null":
		n.kind = kindNull
	default:
		return nil, p.noWord(n.text)
	}
	p.n = int(n.end)
	return n, nil
}
