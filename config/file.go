package config

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// file is the text of a document as it lies on disk, in UTF-8 and without a byte-order mark. It is immutable.
type file struct {
	text  string
	lines []int32 // offset of the first byte of every line
	// runes[i] is the number of characters before offset i*runeStep, so that a column costs at most two short counts even
	// in a document of one line.
	runes []int
}

const runeStep = 1024

func newFile(text string) *file {
	f := &file{text: text, lines: make([]int32, 1, strings.Count(text, "\n")+1)}
	for i := range len(text) {
		if text[i] == '\n' {
			f.lines = append(f.lines, int32(i+1))
		}
	}
	for count, i := 0, 0; i <= len(text); i += runeStep {
		f.runes = append(f.runes, count)
		count += countRunes(text[i:min(i+runeStep, len(text))])
	}
	return f
}

// countRunes counts the bytes that begin a character: unlike utf8.RuneCountInString it is right for a part of a text, too.
func countRunes(s string) (n int) {
	for i := range len(s) {
		if utf8.RuneStart(s[i]) {
			n++
		}
	}
	return n
}

// position returns the line and the column, in characters, of an offset. Both count from 1.
func (f *file) position(at int) (line, column int) {
	i, found := slices.BinarySearch(f.lines, int32(at))
	if !found {
		i--
	}
	return i + 1, 1 + f.runesBefore(at) - f.runesBefore(int(f.lines[i]))
}

func (f *file) runesBefore(at int) int {
	i := at / runeStep
	return f.runes[i] + countRunes(f.text[i*runeStep:at])
}

const (
	bomUTF8    = "\xef\xbb\xbf"
	bomUTF16LE = "\xff\xfe"
	bomUTF16BE = "\xfe\xff"
)

// decode turns the bytes of a document into text. Only a byte-order mark makes it UTF-16. What is not valid in its encoding
// becomes the replacement character, and the offset of the first such place is returned, otherwise nowhere.
func decode(data []byte) (text string, isUTF16 bool, bad int) {
	s := string(data)
	if le, ok := strings.CutPrefix(s, bomUTF16LE); ok {
		text, bad = decodeUTF16([]byte(le), binary.LittleEndian)
		return text, true, bad
	}
	if be, ok := strings.CutPrefix(s, bomUTF16BE); ok {
		text, bad = decodeUTF16([]byte(be), binary.BigEndian)
		return text, true, bad
	}
	text = strings.TrimPrefix(s, bomUTF8)
	return strings.ToValidUTF8(text, string(utf8.RuneError)), false, invalidUTF8(text)
}

func invalidUTF8(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return i
		}
	}
	return nowhere
}

func decodeUTF16(b []byte, order binary.ByteOrder) (text string, bad int) {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	bad = nowhere
	var out strings.Builder
	for i := 0; i < len(units); i++ {
		r := rune(units[i])
		if utf16.IsSurrogate(r) {
			if i+1 < len(units) {
				r = utf16.DecodeRune(r, rune(units[i+1]))
			} else {
				r = utf8.RuneError
			}
			if r != utf8.RuneError {
				i++
			} else if bad == nowhere {
				bad = out.Len()
			}
		}
		out.WriteRune(r)
	}
	if len(b)%2 != 0 && bad == nowhere {
		bad = out.Len()
	}
	return out.String(), bad
}
