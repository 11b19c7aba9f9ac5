package config

import (
	"strings"
	"testing"
)

func TestSyntaxErrorsPointAtTheFirstCharacterThatDoesNotFit(t *testing.T) {
	tests := []struct {
		name         string
		doc          string
		line, column int
		fact, hint   string
	}{
		{"a comma is missing on the same line", `{"a": 1 "b": 2}`, 1, 9, `expected "," or "}" after the value of "a"`, "add a comma before what stands here"},
		{"a comma is missing after an object", "{\"a\": {\n}\n\n\"b\": 2}", 4, 1, `expected "," or "}" after the value of "a"`, "add a comma at the end of line 2"},
		{"a comma is missing in a list", "[1,\n2\n3]", 3, 1, `expected "," or "]" after element 2 of the list`, "add a comma at the end of line 2"},
		{"the wrong bracket", `{"a": [1}`, 1, 9, `expected "," or "]" after element 1 of the list`, `close with "]" before this "}"`},
		{"a semicolon", `{"a": 1; "b": 2}`, 1, 8, `expected "," or "}" after the value of "a"`, "check what stands here"},
		{"cut off in an object", "{\n\"a\": {\"b\": 1", 2, 13, "the object that begins in line 2 is not closed", `add "}", or what else is missing at the end`},
		{"cut off in a list", `{"a": [`, 1, 8, "expected a value in the list, found the end of the file", "the file seems to be cut off; add what is missing"},
		{"cut off after a key", `{"a"`, 1, 5, `expected ":" after the key "a", found the end of the file`, "the file seems to be cut off; add what is missing"},
		{"cut off after a brace", `{`, 1, 2, "the object that begins in line 1 is not closed", `add "}", or what else is missing at the end`},
		{"cut off in a string", `{"a": "b`, 1, 7, "a string is not closed", `end it with "`},
		{"cut off in an escape", `{"a": "b\`, 1, 7, "a string is not closed", `end it with "`},
		{"a line ends in a string", "{\"a\": \"b\n\"}", 1, 9, "a line ends inside a string", `end the string with ", or write \n for the line break`},
		{"a tab in a string", "{\"a\": \"b\t\"}", 1, 9, "a control character (0x09) in a string", "remove it"},
		{"a NUL", "{\"a\": \"b\x00\"}", 1, 9, "a control character (0x00) in a string", "remove it"},
		{"a Windows path", `{"a": "C:\www"}`, 1, 11, `\w means nothing in a string`, `write \\ for a backslash`},
		{"a short \\u", `{"a": "\u12G4"}`, 1, 9, `\u is not followed by four hexadecimal digits`, `write \\ for a backslash`},
		{"an escape of an accent", `{"a": "\é"}`, 1, 9, `\é means nothing in a string`, `write \\ for a backslash`},
		{"no colon", `{"a" 1}`, 1, 6, `expected ":" after the key "a", found "1"`, "check what stands here"},
		{"an unquoted key", `{url: 1}`, 1, 2, `expected a key in double quotes, found "url"`, `put the key in double quotes: "url"`},
		{"a quoted number as key", `{1: 1}`, 1, 2, `expected a key in double quotes, found "1"`, `put the key in double quotes: "1"`},
		{"a list as key", `{[1]: 1}`, 1, 2, `expected a key in double quotes, found "["`, `write "key": value, or close the object with }`},
		{"single quotes around a key", `{'url': 1}`, 1, 2, `expected a key in double quotes, found "'"`, `use plain double quotes (")`},
		{"single quotes around a value", `{"url": 'x'}`, 1, 9, `expected a value after the key "url", found "'"`, `use plain double quotes (")`},
		{"quotes of a word processor", `{“url”: 1}`, 1, 2, `expected a key in double quotes, found "“"`, `use plain double quotes (")`},
		{"an unquoted value", `{"a": nginx}`, 1, 7, `"nginx" is not a value in JSON`, `put text in double quotes: "nginx"`},
		{"Python's True", `{"a": True}`, 1, 7, `"True" is not a value in JSON`, "write true"},
		{"YAML's no", `{"a": no}`, 1, 7, `"no" is not a value in JSON`, "write false"},
		{"Python's None", `{"a": None}`, 1, 7, `"None" is not a value in JSON`, "write null, or leave the field out"},
		{"a duration", `{"a": 1h}`, 1, 8, `"1h" is not a number in JSON`, "put text in double quotes; write numbers as 3600"},
		{"a leading zero", `{"a": 01}`, 1, 8, `"01" is not a number in JSON`, "put text in double quotes; write numbers as 3600"},
		{"a bare minus", `{"a": -}`, 1, 8, `"-" is not a number in JSON`, "put text in double quotes; write numbers as 3600"},
		{"no digit after the point", `{"a": 1.}`, 1, 9, `"1." is not a number in JSON`, "put text in double quotes; write numbers as 3600"},
		{"no exponent", `{"a": 1e+}`, 1, 10, `"1e+" is not a number in JSON`, "put text in double quotes; write numbers as 3600"},
		{"two commas", `[1,,2]`, 1, 4, `expected a value in the list, found ","`, "remove this comma, or add what is missing before it"},
		{"a comma only", `{,}`, 1, 2, `expected a key in double quotes, found ","`, "remove this comma, or add what is missing before it"},
		{"no value", `{"a": }`, 1, 7, `expected a value after the key "a", found "}"`, "check what stands here"},
		{"a comment of a shell", "{ # hello\n}", 1, 3, `expected a key in double quotes, found "#"`, "write // for a comment"},
		{"a comment without end", "{ /* hello\n}", 1, 3, "a comment is not closed", "end it with */"},
		{"a no-break space", "{\u00a0\"a\": 1}", 1, 2, "expected a key in double quotes, found \"\\u00a0\"", "replace the no-break space by a space"},
		{"an escaped quote alone", `{"a": \"b\"}`, 1, 7, `expected a value after the key "a", found "\"`, "remove the backslash"},
		{"two documents", `{} {}`, 1, 4, `expected the end of the document, found "{"`, "remove what follows the settings"},
		{"single quotes around all", `'{}'`, 1, 1, `expected a value at the beginning, found "'"`, "remove the ' at both ends"},
		{"nested too deep", strings.Repeat("[", 65), 1, 65, "nested deeper than 64", "settings have some ten levels; is this the right file?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ps := Parse("", []byte(tt.doc))
			want := Problem{Error, tt.line, tt.column, tt.fact, tt.hint}
			if cfg != nil || len(ps) == 0 || ps.Errors()[0] != want || len(ps.Errors()) != 1 {
				t.Errorf("got %+v, want\n%+v", ps, want)
			}
		})
	}
}

func TestTheTopLevelMustBeAnObject(t *testing.T) {
	for doc, fact := range map[string]string{
		"[]":       "the document is a list, not an object",
		"5":        "the document is 5, not an object",
		"null":     "the document is null, not an object",
		`"x.json"`: `the document is a string that holds no JSON object: "x.json"`,
	} {
		cfg, ps := Parse("", []byte(doc))
		if errs := ps.Errors(); cfg != nil || len(errs) != 1 || errs[0].Fact != fact || errs[0].Line != 1 || errs[0].Column != 1 {
			t.Errorf("%s: %+v", doc, ps)
		}
	}
}

func TestDepth64IsRead(t *testing.T) {
	deep := strings.Repeat(`{"x":`, 63) + "[]" + strings.Repeat("}", 63)
	if _, err := parse(&source{text: deep}, newReport(newFile(deep))); err != nil {
		t.Errorf("64 levels: %v", err.fact)
	}
}

func TestEmptyDocuments(t *testing.T) {
	for _, doc := range []string{"", " \r\n\t", bomUTF8, bomUTF16LE, bomUTF16BE, bomUTF8 + "\n"} {
		_, ps := Parse("", []byte(doc))
		if got := lines(ps); got != "error 1:1: the file is empty\n" {
			t.Errorf("%q: %s", doc, got)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	doc := []byte(`{"secretsManagementSettings": {"observedCertificates": ["https://contoso-web.vault.azure.net/secrets/www"]}}`)
	full := append(doc, strings.Repeat(" ", maxSize-len(doc))...)
	if cfg, ps := Parse("", full); cfg == nil || len(ps) > 0 {
		t.Errorf("1 MiB: %v", ps)
	}
	if _, ps := Parse("", append(full, ' ')); lines(ps) != "error 1:1: the file has 1048577 bytes, more than 1 MiB\n" {
		t.Errorf("1 MiB and a byte: %v", ps)
	}
}

// What costs much more than its size in time would stop a reload, and this test; what it makes us say must stay readable.
func TestHostileDocumentsGiveFewAndShortMessages(t *testing.T) {
	fill := func(before, unit, after string) string {
		return before + strings.Repeat(unit, (maxSize/4-len(before)-len(after))/len(unit)) + after
	}
	const entries = `{"secretsManagementSettings": {"observedCertificates": [`
	for name, doc := range map[string]string{
		"brackets":         fill("", "[", ""),
		"braces":           fill("", `{"a":`, ""),
		"numbers":          fill(entries, "1,", "]}}"),
		"empty entries":    fill(entries, "{},", "]}}"),
		"unknown keys":     fill(`{"secretsManagementSettings": {`, `"observedCertificate":1,`, "}}"),
		"duplicate keys":   fill(`{"secretsManagementSettings": {`, `"aclEnabled":1,`, "}}"),
		"comments":         fill("{", "/**/", "}"),
		"equal entries":    fill(entries, `{"url":"https://abc.vault.azure.net/secrets/a","acls":{"user":"a"}},`, "]}}"),
		"many grants":      fill(entries+`{"url":"https://abc.vault.azure.net/secrets/a","acls":[`, `{"user":1},`, "]}]}}"),
		"quotes":           fill(`{"settings":"`, `\"`, `"}`),
		"escaped quotes":   fill(`{\"a`, `\\`, `}`),
		"wrappers":         fill("{", `"settings":"{}",`, "}"),
		"a long key":       fill(`{"secretsManagementSettings":{"`, "observedCertificates", `":1}}`),
		"a long line":      fill(`{"secretsManagementSettings":{"observedCertificates":["`, "é", `",1,2,3]}}`),
		"line breaks":      fill("{", "\n", ""),
		"many own unknown": fill(`{"secretsManagementSettings":{},"kvfs":{`, `"layout":1,`, "}}"),
	} {
		t.Run(name, func(t *testing.T) {
			_, ps := Parse("", []byte(doc))
			if len(ps) > maxProblems+1 {
				t.Errorf("%d problems", len(ps))
			}
			for _, p := range ps {
				if len(p.Fact) > 2000 || len(p.Hint) > 2000 {
					t.Fatalf("a message of %d and %d bytes", len(p.Fact), len(p.Hint))
				}
			}
		})
	}
}
