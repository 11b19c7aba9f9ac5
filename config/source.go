package config

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxLayers is how many strings may be undone to reach the settings.
const maxLayers = 2

// source is JSON text that knows where in the file it came from: the file itself, or what a string of it holds.
type source struct {
	text string
	// origin has the offset in the file of every byte of text, and of its end. Nil: the text is the file's.
	origin []int
	layers int // of strings that were undone
}

// at returns the offset in the file of offset n in the text.
func (s *source) at(n int) int {
	if s.origin == nil {
		return n
	}
	return s.origin[n]
}

// undoString returns what the string literal text[start:end], quotes included, holds.
func (s *source) undoString(start, end int) *source {
	inner := &source{layers: s.layers + 1}
	var text strings.Builder
	eachPiece(s.text[start+1:end-1], func(piece string, offset int) {
		for i := range len(piece) { // an escape is longer than what it means
			inner.origin = append(inner.origin, s.at(start+1+offset+i))
		}
		text.WriteString(piece)
	})
	inner.origin = append(inner.origin, s.at(end-1))
	inner.text = text.String()
	return inner
}

// undoEscapes returns the text with one backslash less before every quote and backslash: what PowerShell made of it.
func (s *source) undoEscapes() *source {
	inner := &source{layers: s.layers + 1}
	var text strings.Builder
	for i := 0; i < len(s.text); i++ {
		inner.origin = append(inner.origin, s.at(i))
		if s.text[i] == '\\' && i+1 < len(s.text) && (s.text[i+1] == '"' || s.text[i+1] == '\\') {
			i++
		}
		text.WriteByte(s.text[i])
	}
	inner.origin = append(inner.origin, s.at(len(s.text)))
	inner.text = text.String()
	return inner
}

// escapedQuotes returns the offset of the backslash if the first token after the first brace is \", otherwise -1.
func (s *source) escapedQuotes() int {
	rest, ok := strings.CutPrefix(strings.TrimLeft(s.text, space), "{")
	if !ok {
		return -1
	}
	if rest = strings.TrimLeft(rest, space); !strings.HasPrefix(rest, `\"`) {
		return -1
	}
	return len(s.text) - len(rest)
}

// eachPiece calls yield for what the body of a valid string literal means: stretches of plain text and single escapes, each
// with the offset in body where it was written.
func eachPiece(body string, yield func(piece string, offset int)) {
	for i := 0; i < len(body); {
		if next := strings.IndexByte(body[i:], '\\'); next != 0 {
			if next < 0 {
				next = len(body) - i
			}
			yield(body[i:i+next], i)
			i += next
			continue
		}
		r, size := unescape(body[i:])
		yield(string(r), i)
		i += size
	}
}

// unescape returns the character that the escape at the start of s means, and the escape's length. A surrogate that has no
// other half is the replacement character.
func unescape(s string) (r rune, size int) {
	if s[1] != 'u' {
		c, _ := simpleEscape(s[1])
		return rune(c), 2
	}
	r = hexEscape(s)
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if pair := utf16.DecodeRune(r, hexEscape(s[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return utf8.RuneError, 6
}

// simpleEscape returns what c means after a backslash.
func simpleEscape(c byte) (meaning byte, ok bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// hexEscape reads \uXXXX at the start of s, -1 if there is none.
func hexEscape(s string) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}
