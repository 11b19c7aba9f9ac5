package certs

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxPrintable bounds what one name may take of a message, in characters.
	maxPrintable = 120
	cutMark      = "..."
)

// Printable returns foreign text, such as a name in a certificate, made safe for a
// terminal or a line of a log. What does not print (control characters, line breaks,
// marks that turn the direction of writing, bytes that are no UTF-8) is escaped as in a
// Go string, and the result is cut at 120 characters, with "..." at its end. Everything
// else stays as it is, backslashes and quotes too: this is to be read by people and not
// to be undone. What it returns it leaves as it is.
func Printable(s string) string {
	var out strings.Builder
	length, cut := 0, 0 // in characters; in bytes, where the mark still fits
	for rest := s; rest != ""; {
		piece, size := printablePiece(rest)
		n := utf8.RuneCountInString(piece)
		if length+n > maxPrintable {
			return out.String()[:cut] + cutMark
		}
		out.WriteString(piece)
		if length += n; length <= maxPrintable-len(cutMark) {
			cut = out.Len()
		}
		rest = rest[size:]
	}
	return out.String()
}

// printablePiece returns the first character of s as it is printed, and its size in s.
func printablePiece(s string) (piece string, size int) {
	r, size := utf8.DecodeRuneInString(s)
	if broken := r == utf8.RuneError && size == 1; strconv.IsPrint(r) && !broken {
		return s[:size], size
	}
	quoted := strconv.Quote(s[:size])
	return quoted[1 : len(quoted)-1], size
}

// quoted is foreign text inside of a sentence.
func quoted(s string) string { return `"` + Printable(s) + `"` }
