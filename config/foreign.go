package config

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// This file knows what people pass by mistake in place of a settings document. It only words what is refused anyway, and shows
// nothing of it: it may be a key.

// foreign says what a text is that is no JSON, "" if that cannot be told.
func foreign(text string) (what, hint string) {
	text = strings.TrimLeft(text, space)
	for strings.HasPrefix(text, "#") || strings.HasPrefix(text, "//") { // comments of YAML and Terraform, of Bicep
		_, rest, _ := strings.Cut(text, "\n")
		text = strings.TrimLeft(rest, space)
	}
	line, rest, _ := strings.Cut(text, "\n")
	line = strings.TrimRight(line, space)
	if what, hint := command(line, text); what != "" {
		return what, hint
	}
	switch {
	case isTerraform(line):
		return "Terraform", armHint
	case isBicep(line):
		return "Bicep", "build it with az bicep build, and use the deployed settings"
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

// command says that a text is a command that has settings among its arguments, "" if it is none.
func command(line, text string) (what, hint string) {
	line = strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "sudo ")
	option := ""
	switch {
	case strings.HasPrefix(line, "az "), strings.HasPrefix(line, "--settings"):
		option = "--settings"
	case hasPrefixFold(line, "Set-Az"), hasPrefixFold(line, "New-Az"), hasPrefixFold(line, "-Setting"):
		option = "-SettingString"
	}
	switch {
	case option == "":
		return "", ""
	case strings.Contains(text, "{"):
		return "a command line", "keep what is between the quotes of " + option
	}
	return "a command line", "give the settings themselves, not the command"
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// isTerraform reports whether a line begins a block of Terraform, or settings in one.
func isTerraform(line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimLeft(rest, space)
	switch word {
	case "resource", "module", "data", "variable", "provider", "output":
		return strings.HasPrefix(rest, `"`)
	case "locals", "terraform":
		return rest == "{"
	}
	name, value, _ := strings.Cut(line, "=")
	value = strings.TrimLeft(value, space)
	isName := strings.Trim(strings.TrimRight(name, space), nameLetters) == ""
	return strings.HasPrefix(line, "jsonencode(") || isName && (strings.HasPrefix(value, "jsonencode(") || strings.HasPrefix(value, "<<"))
}

// isBicep reports whether a line begins a file of Bicep, or an object in one: settings: { without a quote.
func isBicep(line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimLeft(rest, space)
	switch word {
	case "param", "var", "func", "type", "metadata", "targetScope":
		return rest != "" && rest[0] != ':'
	case "resource", "module", "using", "extension":
		return strings.Contains(rest, "'")
	}
	if decorator, ok := strings.CutPrefix(line, "@"); ok {
		name, _, call := strings.Cut(decorator, "(")
		return call && name != "" && strings.Trim(name, nameLetters) == ""
	}
	key, rest, ok := strings.Cut(line, ":")
	return ok && strings.Trim(rest, space) == "{" && isYAMLKey(key+":")
}

// nameLetters are those of names in other languages.
const nameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."

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

// inQuotes is the hint for settings in quotes that were meant for a shell, "" if the text is none.
func inQuotes(text string) string {
	text = strings.Trim(text, space)
	first, size := utf8.DecodeRuneInString(text)
	if !strings.ContainsRune("'`\u2018\u2019\u201c\u201d\u201e", first) || !strings.HasPrefix(strings.TrimLeft(text[size:], space), "{") {
		return ""
	}
	last, _ := utf8.DecodeLastRuneInString(text)
	switch {
	case first == last:
		return "remove the " + string(first) + " at both ends"
	case last == '}':
		return "remove the " + string(first) + " at the beginning"
	}
	return "remove the quotes at both ends"
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
