package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// This file words the faults of syntax. It runs once, for the first fault of a document.

// character returns the character at offset n, "" at the end.
func (p *parser) character(n int) string {
	_, size := utf8.DecodeRuneInString(p.text[n:])
	return p.text[n : n+size]
}

// found names what stands here.
func (p *parser) found() string {
	switch c := p.character(p.n); {
	case c == "":
		return "the end of the file"
	case c == `"`:
		return "a string"
	case isLetter(c[0]) || isDigit(c[0]):
		return quote(p.run(p.n))
	default:
		return quote(c)
	}
}

func (p *parser) unexpected(expected string) *refusal {
	return p.fail(p.n, "expected "+expected+", found "+p.found(), p.remedy("check what stands here"))
}

// afterEnd is what to do about text after the document, which was read as root.
func (p *parser) afterEnd(root *node) string {
	switch {
	case root.kind != kindString:
	case p.next() == ':':
		return "put { } around it"
	case strings.HasPrefix(strings.TrimLeft(root.text, space), "{") && p.next() == '"' && p.text[p.n-1] == '"':
		return doubledHint
	case strings.HasPrefix(strings.TrimLeft(root.text, space), "{"):
		return `remove the " at both ends`
	}
	return "remove what follows the settings"
}

const doubledHint = "write each quote once; they are doubled, as in CSV or cmd"

// remedy is what to do about the character that stands here, otherwise the given step.
func (p *parser) remedy(otherwise string) string {
	if strings.Trim(p.text[:p.n], space) == "" {
		if hint := inQuotes(p.text); hint != "" {
			return hint
		}
	}
	rest := p.text[p.n:]
	switch {
	case strings.HasPrefix(rest, `\u0022`), strings.HasPrefix(rest, "`\""):
		return "write plain quotes; these are escaped for PowerShell"
	case strings.HasPrefix(rest, "<"):
		return "replace the placeholder <...>, or remove the line"
	case strings.HasSuffix(p.text[:p.n], `""`) && isLetter(p.next()):
		return doubledHint
	}
	switch p.character(p.n) {
	case "":
		return "the file seems to be cut off; add what is missing"
	case "=":
		return "write a colon in place of ="
	case "'", "`", "\u2018", "\u2019", "\u201c", "\u201d", "\u201e":
		return `use plain double quotes (")`
	case `\`:
		if strings.HasPrefix(rest, `\\`) {
			return "remove the backslashes before the quotes"
		}
		return "remove the backslash"
	case ",":
		return "remove this comma, or add what is missing before it"
	case "\u00a0":
		return "replace the no-break space by a space"
	case "\x00":
		return "save the file as UTF-8"
	case "#":
		return "write // for a comment"
	}
	return otherwise
}

// noKey words that an object goes on with something that is no key.
func (p *parser) noKey(obj *node) *refusal {
	if p.n == len(p.text) {
		return p.cutOff(obj, '}')
	}
	hint := `write "key": value, or close the object with }`
	if word := p.run(p.n); word != "" {
		hint = "put the key in double quotes: " + quote(word)
	}
	return p.fail(p.n, "expected a key in double quotes, found "+p.found(), p.remedy(hint))
}

// noComma words that neither a comma nor the end of the object or list follows a value.
func (p *parser) noComma(in *node, closing byte, after string, last *node) *refusal {
	if p.n == len(p.text) {
		return p.cutOff(in, closing)
	}
	fact := fmt.Sprintf(`expected "," or "%c" after %s`, closing, after)
	lastLine, _ := p.report.position(p.src.at(int(last.end) - 1))
	line, _ := p.report.position(p.src.at(p.n))
	switch c := p.next(); {
	case c == '}' || c == ']':
		return p.fail(p.n, fact, fmt.Sprintf(`close with "%c" before this "%c"`, closing, c))
	case !startsValue(c):
		return p.fail(p.n, fact, p.remedy("check what stands here"))
	case line > lastLine:
		return p.fail(p.n, fact, fmt.Sprintf("add a comma at the end of line %d", lastLine))
	}
	return p.fail(p.n, fact, "add a comma before what stands here")
}

func startsValue(c byte) bool {
	return isLetter(c) || isDigit(c) || c != 0 && strings.IndexByte(`"{[-`, c) >= 0
}

func (p *parser) cutOff(in *node, closing byte) *refusal {
	what := "object"
	if in.kind == kindList {
		what = "list"
	}
	line, _ := p.report.position(in.at())
	return p.fail(p.n, fmt.Sprintf("the %s that begins in line %d is not closed", what, line),
		fmt.Sprintf(`add "%c", or what else is missing at the end`, closing))
}

// noWord words that a word is no value.
func (p *parser) noWord(word string) *refusal {
	hint := "put text in double quotes: " + quote(word)
	switch strings.ToLower(word) {
	case "true", "yes", "on":
		hint = "write true"
	case "false", "no", "off":
		hint = "write false"
	case "null", "none", "nil", "undefined":
		hint = "write null, or leave the field out"
	case "nan", "inf", "infinity":
		hint = "write a number, or leave the field out"
	}
	return p.fail(p.n, quote(word)+" is not a value in JSON", hint)
}

// run returns the characters from n on that look like one word.
func (p *parser) run(n int) string {
	end := n
	for end < len(p.text) && (isLetter(p.text[end]) || isDigit(p.text[end]) || strings.IndexByte("_-+.", p.text[end]) >= 0) {
		end++
	}
	return p.text[n:end]
}
