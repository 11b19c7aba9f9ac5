package config

import (
	"slices"
	"strconv"
	"strings"
)

// reader takes values of an expected type. What is wrong with one is reported, and the second result is then false.
type reader struct {
	report *report
	// severity of what is wrong: a Warning where certificates must not wait for the matter, otherwise an Error.
	severity Severity
}

// fault reports that something is wrong.
func (r reader) fault(at int, fact, hint string) { r.report.add(r.severity, at, fact, hint) }

const (
	armFact = "an ARM expression, which only the deployment can evaluate"
	armHint = "give kvfs the deployed settings (the agent's config/<N>.settings), not the template"
)

// isARM reports whether a string is "[...]" but not the escaped "[[...]".
func isARM(n *node) bool {
	return n.kind == kindString && strings.HasPrefix(n.text, "[") && strings.HasSuffix(n.text, "]") && !strings.HasPrefix(n.text, "[[")
}

// mismatch reports a value of a wrong type or form.
func (r reader) mismatch(n *node, path, expected, hint string) {
	if fact, hint := notEvaluated(n); fact != "" {
		r.fault(n.at(), prefix(path, fact), hint)
		return
	}
	r.fault(n.at(), prefix(path, n.shown()+" is not "+expected), hint)
}

// text takes a string.
func (r reader) text(n *node, path string) (string, bool) {
	if n.kind != kindString || isARM(n) {
		hint := "put it in double quotes"
		if n.kind == kindList || n.kind == kindObject {
			hint = "write one string, in double quotes"
		}
		r.mismatch(n, path, "a string", hint)
		return "", false
	}
	return n.text, true
}

// isObject checks for an object.
func (r reader) isObject(n *node, path, hint string) bool {
	if n.kind != kindObject {
		r.mismatch(n, path, "an object", hint)
	}
	return n.kind == kindObject
}

// list takes a list. Its elements may be null, which counts as absent.
func (r reader) list(n *node, path, hint string) (items []*node, ok bool) {
	if n.kind != kindList {
		r.mismatch(n, path, "a list", hint)
		return nil, false
	}
	return n.items(), true
}

// boolean takes true, false, "true" or "false".
func (r reader) boolean(n *node, path string) (value, ok bool) {
	if n.kind == kindBool || n.kind == kindString {
		switch n.text {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	r.mismatch(n, path, "true or false", "write true or false")
	return false, false
}

// number takes a number that is whole and within the bounds. What else is admitted is for messages only, "" for nothing.
func (r reader) number(n *node, path string, least, most int) (int, bool) {
	v, err := strconv.Atoi(n.text)
	if n.kind != kindNumber || err != nil || v < least || v > most {
		bounds := strconv.Itoa(least) + " to " + strconv.Itoa(most)
		r.mismatch(n, path, "a whole number from "+bounds, "write "+bounds+", without quotes")
		return 0, false
	}
	return v, true
}

// oneOf takes a string out of a few.
func (r reader) oneOf(n *node, path, what string, choices ...string) (string, bool) {
	s, ok := r.text(n, path)
	if !ok {
		return "", false
	}
	if slices.Contains(choices, s) {
		return s, true
	}
	r.fault(n.at(), prefix(path, quote(s)+" is not a known "+what), "known are "+enumerate(choices))
	return "", false
}

// enumerate joins words as in "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// at returns the path of an element of a list.
func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
