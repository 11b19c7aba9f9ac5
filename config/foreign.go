package config

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// This file knows what people pass by mistake in place of a settings document, and in place of a value. It only words what
// is refused anyway, and shows nothing of it: it may be a key.

// foreign says what a text is that is no JSON, "" if that cannot be told.
func foreign(text string) (what, hint string) {
	text = strings.TrimLeft(text, space)
	for strings.HasPrefix(text, "#") { // comments of YAML
		_, rest, _ := strings.Cut(text, "\n")
		text = strings.TrimLeft(rest, space)
	}
	line, rest, _ := strings.Cut(text, "\n")
	line = strings.TrimRight(line, space)
	switch {
	case strings.HasPrefix(text, "<"):
		return "HTML or XML", "look into it: a proxy or a login page may have answered in place of the settings"
	case strings.HasPrefix(text, "-----BEGIN "):
		return "PEM", "give the settings document here; kvfs inspect reads certificates"
	case strings.HasPrefix(text, "0\ufffd"): // the length that follows in DER is no UTF-8
		return "a certificate or a PFX", "give the settings document here; kvfs inspect reads certificates"
	case strings.HasPrefix(text, "@'"), strings.HasPrefix(text, `@"`):
		return "a here-string of PowerShell", "remove its first and its last line; the JSON is between them"
	case strings.HasPrefix(text, "@{"):
		return "a hashtable of PowerShell", "write it with ConvertTo-Json -Depth 10"
	case isFileName(line) && strings.Trim(rest, space) == "":
		return "a mere name, " + quote(line), contentNotName
	case line == "---", isYAMLKey(line):
		return "YAML", "convert it to JSON, for example with yq -o json"
	case isBase64(text) && isEncodedObject(text):
		return "JSON in base64", "decode it first, for example with base64 -d"
	case isBase64(text):
		return "base64", "decode it, and look whether it holds the settings"
	}
	return "", ""
}

// isFileName reports whether a line is "@settings.json" or the like.
func isFileName(line string) bool {
	return !strings.ContainsAny(line, " {\"'[:") && strings.HasSuffix(line, ".json")
}

// isYAMLKey reports whether a line begins a mapping of YAML: a plain word and a colon.
func isYAMLKey(line string) bool {
	key, rest, ok := strings.Cut(line, ":")
	return ok && (rest == "" || rest[0] == ' ') && key != "" && strings.TrimFunc(key, func(r rune) bool { return r < 0x80 && (isLetter(byte(r)) || r == '_') }) == ""
}

// isBase64 reports whether a text is long and of the letters of base64 alone.
func isBase64(text string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=" + space
	return len(strings.TrimSpace(text)) >= 40 && strings.Trim(text, letters) == "" && !strings.ContainsAny(strings.TrimSpace(text)[:40], space)
}

// isEncodedObject reports whether base64 holds what begins like a JSON object.
func isEncodedObject(text string) bool {
	begin, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)[:32]) // isBase64 wants 40
	return err == nil && strings.HasPrefix(strings.TrimLeft(strings.TrimPrefix(string(begin), bomUTF8), space), "{")
}

// notEvaluated says that a value is what a tool should have replaced, "" if it is not.
func notEvaluated(n *node) (fact, hint string) {
	if n.kind != kindString {
		return "", ""
	}
	s := strings.TrimSpace(n.text)
	switch {
	case isARM(n):
		return armFact, armHint
	case strings.HasPrefix(s, "@{") && strings.HasSuffix(s, "}"), s == "System.Object[]", strings.HasPrefix(s, "System.Collections."):
		return "an object of PowerShell that ConvertTo-Json has cut off", "write the settings with ConvertTo-Json -Depth 10"
	case strings.Contains(s, "${"):
		return "a template expression (${...}), which nothing has evaluated", "give kvfs the rendered settings; terraform: jsonencode(...) outside of quotes"
	case strings.Contains(s, "{{") && strings.Contains(s, "}}"):
		return "a template expression ({{...}}), which nothing has evaluated", "give kvfs the rendered settings; Ansible: template, not copy"
	}
	return "", ""
}

// elsewhere returns the path and the key of settings that lie where they are not looked for, such as in a whole ARM template.
func elsewhere(n *node, path string) (where string, found member) {
	for i, item := range n.items() {
		if item.in == nil {
			continue
		}
		if where, found = elsewhere(item, at(path, i)); found.value != nil {
			return where, found
		}
	}
	for _, m := range n.members() {
		if strings.EqualFold(m.key, keySettings) && m.value.kind == kindObject {
			return path, m
		}
	}
	for _, m := range n.members() {
		if m.value.in == nil {
			continue
		}
		if where, found = elsewhere(m.value, strings.TrimPrefix(path+"."+shorten(m.key), ".")); found.value != nil {
			return where, found
		}
	}
	return "", member{}
}

func elsewhereFact(where string) string {
	return fmt.Sprintf("%q is in %s, where it is not looked for", keySettings, shorten(where))
}
