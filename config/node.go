package config

import (
	"fmt"
	"strings"
	"unicode"
)

type kind byte

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindList
	kindObject
)

// node is a JSON value that knows where it stands. A document of a megabyte may hold half a million: keep it small.
type node struct {
	text string // what a string means; a number or a boolean as written
	// The literal is src.text[start:end]. Without a src the value is in no file.
	src        *source
	in         *children // nil when there are none
	start, end int32
	kind       kind
}

// children are what is in a list or an object.
type children struct {
	items   []*node
	members []member
}

type member struct {
	key   string
	keyAt int // offset in the file
	value *node
}

func (n *node) items() []*node {
	if n.in == nil {
		return nil
	}
	return n.in.items
}

func (n *node) members() []member {
	if n.in == nil {
		return nil
	}
	return n.in.members
}

// at returns the offset in the file of the first character.
func (n *node) at() int {
	if n.src == nil {
		return nowhere
	}
	return n.src.at(int(n.start))
}

// shown names the value in a message.
func (n *node) shown() string {
	switch n.kind {
	case kindObject:
		return "an object"
	case kindList:
		return "a list"
	case kindString:
		return quote(n.text)
	case kindNull:
		return "null"
	}
	return shorten(n.text)
}

// quote puts text of the document between quotes for a message. Backslashes stay as they are: people look for what they see.
func quote(s string) string { return `"` + shorten(s) + `"` }

// maxShown is how many characters of a value a message repeats.
const maxShown = 120

// shorten makes text fit for one line of a message: not too long, and nothing that moves a terminal's cursor.
func shorten(s string) string {
	var b strings.Builder
	shown := 0
	for _, r := range s {
		if shown++; shown > maxShown {
			return b.String() + "..."
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
