package config

import (
	"path"
	"strings"
	"unicode"
)

// storeLocation takes a certificateStoreLocation. The result is "" for the names of Windows, which mean no place here.
func (s *settings) storeLocation(n *node, at string) (store string, ok bool) {
	for _, name := range []string{"LocalMachine", "CurrentUser", "MY"} {
		if n.kind == kindString && strings.EqualFold(n.text, name) {
			s.report.warning(n.at(), at+": "+quote(n.text)+" is a store of Windows; the default is used", "write an absolute path, or leave it out")
			return "", true
		}
	}
	return s.storePath(n, at)
}

const maxPath = 4095 // bytes (PATH_MAX less the final NUL)

// storePath takes the absolute path of a directory that may hold files, and cleans it.
func (s *settings) storePath(n *node, at string) (store string, ok bool) {
	raw, ok := s.text(n, at)
	if !ok {
		return "", false
	}
	store, fact, hint := cleanStore(raw)
	if fact == "" {
		return store, true
	}
	if other, remedy := notEvaluated(n); other != "" && shellWord(raw) == "" {
		fact, hint = other, remedy
	}
	s.fault(n.at(), prefix(at, fact), hint)
	return "", false
}

// givenStore takes the store that a caller gave, who got it from a command line.
func (s *settings) givenStore(raw string) (store string, ok bool) {
	store, fact, hint := cleanStore(raw)
	if fact == "" {
		return store, true
	}
	if !strings.HasPrefix(raw, "/") {
		hint = "write the whole path"
	}
	s.fault(nowhere, prefix("--store", fact), hint)
	return "", false
}

// shellWord returns what a shell would replace at the beginning of a path: ~ or a variable such as $HOME; "" for nothing.
func shellWord(raw string) string {
	first, _, _ := strings.Cut(raw, "/")
	switch {
	case strings.HasPrefix(first, "~"):
		return "~"
	case first == "${HOME}", len(first) > 1 && first[0] == '$' && first[1] != '{':
		return shorten(first)
	}
	return ""
}

// cleanStore returns the clean path of a directory that may hold files, or what is wrong with it and the step to take.
func cleanStore(raw string) (store, fact, hint string) {
	store, hint = path.Clean(raw), "write another directory, such as /etc/tls/certs"
	switch {
	case raw == "":
		fact, hint = "the path is empty", "write an absolute path, or leave it out"
	case shellWord(raw) != "":
		fact, hint = quote(raw)+" is a relative path", shellWord(raw)+" is not expanded in settings; write the whole path"
	case !strings.HasPrefix(raw, "/"):
		fact, hint = quote(raw)+" is a relative path", "write the whole path, such as "+absolute(raw)
	case strings.ContainsFunc(raw, unicode.IsControl):
		fact = quote(raw) + " has a control character"
	case hasDotDot(raw):
		fact, hint = quote(raw)+` has a ".." in it`, "write the path without it"
	case store == "/":
		fact = quote(raw) + " is the root directory"
	case below(store, "/proc"), below(store, "/sys"), below(store, "/dev"):
		fact = quote(raw) + " belongs to the kernel"
	case tooLong(store):
		fact, hint = "the path is longer than Linux admits", "write at most 4095 bytes, 255 between two slashes"
	}
	return store, fact, hint
}

// absolute proposes a place for a relative path.
func absolute(relative string) string {
	if strings.ContainsAny(relative, `\:`) { // of Windows
		return "/etc/tls/certs"
	}
	return shorten(path.Join("/etc/tls", path.Clean("/"+relative)))
}

func hasDotDot(p string) bool {
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func tooLong(p string) bool {
	for element := range strings.SplitSeq(p, "/") {
		if len(element) > maxName {
			return true
		}
	}
	return len(p) > maxPath
}
