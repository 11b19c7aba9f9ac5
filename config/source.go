package config

import (
	"cmp"
	"slices"
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
	// spans say where in the file each stretch of text came from, without gaps, the last one for the end. Nil: the text is
	// the file's.
	spans  []span
	layers int // of strings that were undone
}

// span is a stretch of text, from at to the next span, that the file holds byte by byte from origin on.
type span struct{ at, origin int32 }

// at returns the offset in the file of offset n in the text.
func (s *source) at(n int) int {
	if s.spans == nil {
		return n
	}
	i := s.spanOf(n)
	return int(s.spans[i].origin) + n - int(s.spans[i].at)
}

// spanOf returns the index of the span that holds offset n.
func (s *source) spanOf(n int) int {
	i, found := slices.BinarySearchFunc(s.spans, int32(n), func(sp span, n int32) int { return cmp.Compare(sp.at, n) })
	if !found {
		i--
	}
	return i
}

// undone builds a source from stretches of another one.
type undone struct {
	from  *source
	text  strings.Builder
	spans []span
}

func (s *source) undo(size int) *undone {
	u := &undone{from: s}
	u.text.Grow(size)
	return u
}

// add appends what the text of the other source from offset n on means. Where the two differ, the piece is shorter.
func (u *undone) add(piece string, n int) {
	if piece == "" {
		return
	}
	at := u.text.Len()
	u.mark(at, u.from.at(n))
	if u.from.spans != nil {
		for _, sp := range u.from.spans[u.from.spanOf(n)+1:] {
			if int(sp.at) >= n+len(piece) {
				break
			}
			u.mark(at+int(sp.at)-n, int(sp.origin))
		}
	}
	u.text.WriteString(piece)
}

// mark begins a span, unless the one before goes on.
func (u *undone) mark(at, origin int) {
	if k := len(u.spans) - 1; k >= 0 {
		if last := u.spans[k]; int(last.origin)-int(last.at) == origin-at {
			return
		}
	}
	u.spans = push(u.spans, span{int32(at), int32(origin)})
}

// source returns what was built; it ends where the other one has offset end.
func (u *undone) source(end int) *source {
	u.mark(u.text.Len(), u.from.at(end))
	return &source{text: u.text.String(), spans: u.spans, layers: u.from.layers + 1}
}

// undoString returns what the string literal text[start:end], quotes included, holds.
func (s *source) undoString(start, end int) *source {
	u := s.undo(end - start)
	eachPiece(s.text[start+1:end-1], func(piece string, offset int) { u.add(piece, start+1+offset) })
	return u.source(end - 1)
}

// undoEscapes returns the text with one backslash less before every quote and backslash: what PowerShell made of it.
func (s *source) undoEscapes() *source {
	u := s.undo(len(s.text))
	begin := 0
	for i := 0; i+1 < len(s.text); i++ {
		if s.text[i] == '\\' && (s.text[i+1] == '"' || s.text[i+1] == '\\') {
			u.add(s.text[begin:i], begin)
			u.add(s.text[i+1:i+2], i)
			i++
			begin = i + 1
		}
	}
	u.add(s.text[begin:], begin)
	return u.source(len(s.text))
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
		piece, size := unescape(body[i:])
		yield(piece, i)
		i += size
	}
}

// unescape returns the character that the escape at the start of s means, and the escape's length. A surrogate that has no
// other half is the replacement character.
func unescape(s string) (piece string, size int) {
	if s[1] != 'u' {
		piece, _ = simpleEscape(s[1:2])
		return piece, 2
	}
	r := hexEscape(s)
	if !utf16.IsSurrogate(r) {
		return string(r), 6
	}
	if pair := utf16.DecodeRune(r, hexEscape(s[6:])); pair != utf8.RuneError {
		return string(pair), 12
	}
	return string(utf8.RuneError), 6
}

// simpleEscape returns what c means after a backslash.
func simpleEscape(c string) (meaning string, ok bool) {
	switch c {
	case `"`, `\`, `/`:
		return c, true
	case "b":
		return "\b", true
	case "f":
		return "\f", true
	case "n":
		return "\n", true
	case "r":
		return "\r", true
	case "t":
		return "\t", true
	}
	return "", false
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
