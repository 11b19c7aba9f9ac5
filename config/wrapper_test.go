package config

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"
)

const plain = `{"secretsManagementSettings": {"observedCertificates": ["` + www + `"]}}`

func TestTheSettingsAreFoundInEveryWrapper(t *testing.T) {
	for _, place := range []string{
		`%s`, `{"settings": %s}`, `{"properties": {"settings": %s}}`, `{"publicSettings": %s}`, `{"handlerSettings": {"publicSettings": %s}}`,
		`{"runtimeSettings": [{"handlerSettings": {"publicSettings": %s, "protectedSettings": null, "protectedSettingsCertThumbprint": null}}]}`,
		`{"type": "Microsoft.Compute/virtualMachines/extensions", "name": "[concat('a', 'b')]", "properties": {"publisher": "x", "settings": %s}}`,
		`{"settings": null, "publicSettings": %s}`, `{"settings": {"other": 1}, "properties": {"settings": %s}}`,
	} {
		cfg, ps := Parse("", fmt.Appendf(nil, place, plain))
		if cfg == nil || len(ps) > 0 || len(cfg.Certificates) != 1 {
			t.Errorf("%s: %+v, %v", place, cfg, ps)
		}
	}
}

func TestTheFirstWrapperCounts(t *testing.T) {
	other := strings.Replace(plain, "www", "other", 1)
	for _, doc := range []string{
		strings.TrimSuffix(plain, "}") + `, "settings": ` + other + "}",
		`{"properties": {"settings": ` + other + `}, "settings": ` + plain + `}`,
		`{"runtimeSettings": [{"handlerSettings": {"publicSettings": ` + other + `}}], "publicSettings": ` + plain + `}`,
	} {
		cfg, ps := Parse("", []byte(doc))
		if cfg == nil || cfg.Certificates[0].Ref.Name() != "www" {
			t.Errorf("%s: %+v %v", doc, cfg, ps)
		}
	}
}

func TestWrappersThatHoldNoSettings(t *testing.T) {
	for doc, want := range map[string]string{
		`{}`:                                 `error 1:1: "secretsManagementSettings" is missing`,
		`{"secretsManagementSettings":null}`: `error 1:1: "secretsManagementSettings" is missing`,
		`{"settings": {}}`:                   `error 1:14: "secretsManagementSettings" is missing`,
		`{"properties": {"x": 1}}`:           `error 1:16: "secretsManagementSettings" is missing`,
		`{"runtimeSettings": []}`:            `error 1:21: runtimeSettings is a list, not an object`,
		`{"runtimeSettings": [{"handlerSettings": {"publicSettings": null}}]}`: `error 1:42: "secretsManagementSettings" is missing`,
		`{"settings": 5}`:                                                `error 1:14: settings is 5, not an object`,
		`{"settings": ""}`:                                               `error 1:14: settings is a string that holds no JSON object: ""`,
		`{"settings": "[parameters('s')]"}`:                              `error 1:14: settings: an ARM expression, which only the deployment can evaluate`,
		`{"settings": "{\"a\": }"}`:                                      `error 1:23: expected a value after the key "a", found "}"`,
		`{"secretManagementSettings": {}}`:                               `error 1:2: "secretsManagementSettings" is missing; "secretManagementSettings" is not a known field`,
		`{"settings": {"secretsManagement": {}}}`:                        `error 1:14: "secretsManagementSettings" is missing`,
		`{"settings": {"SecretManagementSettings": {}}}`:                 `error 1:15: "secretsManagementSettings" is missing; "SecretManagementSettings" is not a known field`,
		`{"secretsManagementSettings": [], "authenticationSettings": 1}`: "error 1:31: secretsManagementSettings: a list is not an object\nerror 1:61: authenticationSettings: 1 is not an object",
		`{"secretsManagementSettings": "x"}`:                             `error 1:31: secretsManagementSettings: "x" is not an object`,
	} {
		cfg, ps := Parse("", []byte(doc))
		if got := strings.TrimSuffix(lines(ps), "\n"); got != want || cfg != nil {
			t.Errorf("%s\nsaid %s, want %s", doc, got, want)
		}
	}
}

func TestOdditiesOfWrappersAreWarnings(t *testing.T) {
	for doc, want := range map[string]string{
		`{"Settings": ` + plain + `}`: `warning 1:2: "Settings" is taken for "settings"`,
		`{"runtimeSettings": [{"handlerSettings": {"publicSettings": ` + plain + `}}, {}]}`: `warning 1:173: runtimeSettings has more than one element; only the first counts`,
		`{"publicSettings": ` + plain + `, "protectedSettings": "MIIB"}`:                    `warning 1:151: protectedSettings are ignored`,
		strings.Replace(plain, "secretsM", "SecretsM", 1):                                   `warning 1:2: "SecretsManagementSettings" is taken for "secretsManagementSettings"`,
	} {
		cfg, ps := Parse("", []byte(doc))
		if got := strings.TrimSuffix(lines(ps), "\n"); got != want || cfg == nil {
			t.Errorf("%s\nsaid %s, want %s", doc, got, want)
		}
	}
}

// Whoever writes kvfs's own settings must not be left with the defaults.
func TestMisplacedOwnSettingsAreRefused(t *testing.T) {
	own := func(key string) string { return `, "` + key + `": {"keepVersions": 3}}` }
	inside := func(key string) string { return strings.TrimSuffix(plain, "}}") + own(key) + "}" }
	for doc, want := range map[string]string{
		`{"settings": ` + plain + own("kvfs"): "error 1:124: \"kvfs\" has no effect here\n",
		inside("kvfs"):                        "error 1:109: \"kvfs\" has no effect here\n",
		inside("KVFS"):                        "warning 1:109: \"KVFS\" is taken for \"kvfs\"\nerror 1:109: \"kvfs\" has no effect here\n",
	} {
		cfg, ps := Parse("", []byte(doc))
		if got := lines(ps); got != want || cfg != nil {
			t.Errorf("%s\nsaid %s, want %s", doc, got, want)
		}
		if errs := ps.Errors(); len(errs) != 1 || errs[0].Hint != `move it beside "secretsManagementSettings"` {
			t.Errorf("%s: errors %+v", doc, errs)
		}
	}
	if cfg, ps := Parse("", []byte(strings.TrimSuffix(plain, "}}")+`, "kvfs": null}}`)); cfg == nil || len(ps) > 0 {
		t.Errorf("null: %+v, %v", cfg, ps)
	}
}

// The identity of AzureTRE#3492 and azure-linux-extensions#1915: silently taking another one would be worse than a warning.
func TestMisplacedIdentityAndLogging(t *testing.T) {
	const inside = `{"settings": {%s "secretsManagementSettings": {%s "observedCertificates": ["` + www + `"]}} %s}`
	const a, b, c = "aaaaaaaa" + guidTail, "bbbbbbbb" + guidTail, "cccccccc" + guidTail
	id := func(guid string) string { return fmt.Sprintf(`"authenticationSettings": {"msiClientId": %q}`, guid) }
	tests := []struct {
		regular, within, around string
		want                    string
		warnings                int
	}{
		{id(a) + ",", "", "", a, 0},
		{"", id(b) + ",", "", b, 1},
		{"", "", "," + id(c), c, 1},
		{id(a) + ",", id(b) + ",", "," + id(c), a, 2},
		{"", id(b) + ",", "," + id(c), b, 2},
		{`"authenticationSettings": null,`, id(b) + ",", "", b, 1},
	}
	for _, tt := range tests {
		cfg, ps := Parse("", fmt.Appendf(nil, inside, tt.regular, tt.within, tt.around))
		if cfg == nil || cfg.Identity.ClientID != tt.want || len(ps) != tt.warnings {
			t.Errorf("%+v: %+v %v", tt, cfg, ps)
		}
	}
	logging := `"loggingSettings": {"logger": "fluentd", "endpoint": "tcp://localhost"}`
	cfg, ps := Parse("", fmt.Appendf(nil, inside, "", logging+",", ""))
	if cfg == nil || cfg.Logging.Logger != "fluentd" || lines(ps) != "warning 1:46: \"loggingSettings\" is in the wrong place\n" {
		t.Errorf("logging: %+v %v", cfg, ps)
	}
}

func TestVersion4AlwaysWaitsForTheInitialSync(t *testing.T) {
	const agent = "/var/lib/waagent/Microsoft.Azure.KeyVault.KeyVaultForLinux-%s/config/0.settings"
	tests := []struct {
		file, doc string
		want      bool
	}{
		{"settings.json", `{"properties": {"typeHandlerVersion": "4.0", "settings": %s}}`, true},
		{"settings.json", `{"properties": {"typeHandlerVersion": "10.2", "settings": %s}}`, true},
		{"settings.json", `{"properties": {"typeHandlerVersion": "3.5", "settings": %s}}`, false},
		{"settings.json", `{"properties": {"typeHandlerVersion": null, "settings": %s}}`, false},
		{"settings.json", `{"typeHandlerVersion": 4.0, "settings": %s}`, true},
		{fmt.Sprintf(agent, "4.0.1"), `%s`, true},
		{fmt.Sprintf(agent, "3.5.2921.94"), `%s`, false},
		{"KeyVaultForLinux-4.0/0.settings", `%s`, false},
		{"", `%s`, false},
	}
	for _, tt := range tests {
		cfg, ps := Parse(tt.file, fmt.Appendf(nil, tt.doc, plain))
		if cfg == nil || cfg.RequireInitialSync != tt.want {
			t.Errorf("%s %s: %+v %v", tt.file, tt.doc, cfg, ps)
		}
	}
	explicit := strings.Replace(plain, `{"observed`, `{"requireInitialSync": false, "observed`, 1)
	if cfg, _ := Parse(fmt.Sprintf(agent, "4.0.1"), []byte(explicit)); cfg == nil || cfg.RequireInitialSync {
		t.Errorf("an explicit false: %+v", cfg)
	}
}

// escapeOnce writes text as the body of a string and tells where each of its bytes went.
func escapeOnce(text string, from []int) (escaped string, to []int) {
	var b strings.Builder
	for i := range len(text) {
		for len(to) < i {
			to = append(to, b.Len())
		}
		to = append(to, b.Len())
		switch c := text[i]; c {
		case '\n':
			b.WriteString(`\n`)
		case '"', '\\':
			b.WriteString(`\` + string(c))
		default:
			b.WriteByte(c)
		}
	}
	to = append(to, b.Len())
	for i, n := range from {
		from[i] = to[n]
	}
	return b.String(), to
}

// Whatever the string layers around a document, its problems point at the same tokens of the file.
func TestPositionsInsideStringsPointIntoTheFile(t *testing.T) {
	for _, name := range []string{"a1", "a3", "a8", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r10"} {
		text := string(readDocument(t, name))
		cfg, plainProblems := Parse("", []byte(text))
		if len(plainProblems) == 0 && cfg == nil {
			t.Fatal("nothing to compare")
		}
		for layers := 1; layers <= maxLayers; layers++ {
			doc, offsets := text, identity(len(text))
			for range layers {
				var to []int
				doc, to = escapeOnce(doc, nil)
				doc = `"` + doc + `"`
				for i := range offsets {
					offsets[i] = to[offsets[i]] + 1
				}
			}
			const before = "\n  "
			doc = before + doc
			wrapped, problems := Parse("", []byte(doc))
			if layerWarning := problems[0]; layerWarning.Fact != "the document is a string that holds JSON" || layerWarning.Line != 2 || layerWarning.Column != 3 {
				t.Fatalf("%s: %+v", name, problems)
			}
			if (wrapped == nil) != (cfg == nil) || len(problems) != len(plainProblems)+1 {
				t.Fatalf("%s in %d layers: %s, want\n%s", name, layers, lines(problems), lines(plainProblems))
			}
			file, outer := newFile(text), newFile(doc)
			for i, p := range problems[1:] {
				line, column := outer.position(offsets[offsetOf(file, plainProblems[i])] + len(before))
				// Lines are named in some messages, and there is one line only now.
				if p.Line != line || p.Column != column {
					t.Errorf("%s in %d layers: %q is at %d:%d, want %d:%d", name, layers, p.Fact, p.Line, p.Column, line, column)
				}
			}
		}
	}
}

// What is plain text in the inner string may have been escaped in the outer one.
func TestPositionsBehindEscapesOfAnOuterString(t *testing.T) {
	inner := `{"secretsManagementSettings": {"observedCertificates": [ /* // */ 5]}}`
	doc := strings.ReplaceAll(inString(`{"settings": `+inString(inner)+`}`), "/", `\/`)
	_, ps := Parse("", []byte(doc))
	want := fmt.Sprintf("warning 1:1: the document is a string that holds JSON\nwarning 1:%d: JSON has no comments\nerror 1:%d: observedCertificates[0]: 5 is not an object\n",
		strings.Index(doc, `\/*`)+1, strings.Index(doc, "5]")+1)
	if got := lines(ps); got != want {
		t.Errorf("said\n%s, want\n%s", got, want)
	}
}

func identity(n int) []int {
	s := make([]int, n+1)
	for i := range s {
		s[i] = i
	}
	return s
}

// offsetOf is the inverse of position.
func offsetOf(f *file, p Problem) int {
	for at := range len(f.text) + 1 {
		if line, column := f.position(at); line == p.Line && column == p.Column {
			return at
		}
	}
	panic(fmt.Sprint("no such position: ", p))
}

func TestStringLayers(t *testing.T) {
	quoteText := func(s string) string { e, _ := escapeOnce(s, nil); return `"` + e + `"` }
	escaped := strings.ReplaceAll(plain, `"`, `\"`)
	once := quoteText(plain)
	tests := []struct {
		name, doc string
		want      string // nothing: accepted
		warnings  string
	}{
		{"the document", once, "", "warning 1:1: the document is a string that holds JSON\n"},
		{"the document, twice", quoteText(once), "", "warning 1:1: the document is a string that holds JSON\n"},
		{"the document, three times", quoteText(quoteText(once)), "the document is JSON in more than two layers of strings", ""},
		{"settings, twice", `{"settings": ` + quoteText(once) + `}`, "", "warning 1:14: settings is a string that holds JSON\n"},
		{"settings, three times", `{"settings": ` + quoteText(quoteText(once)) + `}`, "settings is JSON in more than two layers of strings", ""},
		{"the document and settings", quoteText(`{"settings": ` + once + `}`), "", "warning 1:1: the document is a string that holds JSON\n"},
		{"the document, settings, and settings again", quoteText(`{"settings": ` + quoteText(once) + `}`), "settings is JSON in more than two layers of strings", ""},
		{"PowerShell", escaped, "", "warning 1:2: quotes are written with a backslash, as for a command line of PowerShell\n"},
		{"PowerShell in a string", quoteText(escaped), "", "warning 1:1: the document is a string that holds JSON\nwarning 1:3: quotes are written with a backslash, as for a command line of PowerShell\n"},
		{"PowerShell in two strings", quoteText(quoteText(escaped)), "the document is JSON in more than two layers of strings", ""},
		{"a string, escaped", strings.ReplaceAll(strings.ReplaceAll(`{"settings": `+once+`}`, `\`, `\\`), `"`, `\"`), "",
			"warning 1:2: quotes are written with a backslash, as for a command line of PowerShell\nwarning 1:16: settings is a string that holds JSON\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ps := Parse("", []byte(tt.doc))
			if tt.want == "" {
				if cfg == nil || lines(ps) != tt.warnings || cfg.Certificates[0].Ref.Name() != "www" {
					t.Errorf("%s\nsaid %s, want %s", tt.doc, lines(ps), tt.warnings)
				}
				return
			}
			if errs := ps.Errors(); cfg != nil || len(errs) != 1 || errs[0].Fact != tt.want {
				t.Errorf("%s\nsaid %s", tt.doc, lines(ps))
			}
		})
	}
}

func TestEscapesInStrings(t *testing.T) {
	doc := `{"secretsManagementSettings": {"observedCertificates": [{"url": "https:\/\/contoso-web.vault.azure.net\u002fsecrets/www",
		"customSymbolicLinkName": "a\u00e9\ud83d\ude00\ud83dz\\\""}]}}`
	cfg, ps := Parse("", []byte(doc))
	if cfg == nil || cfg.Certificates[0].LinkName != "aé😀\ufffdz\\\"" {
		t.Errorf("%+v %v", cfg, ps)
	}
}

func encodeUTF16(text string, order binary.AppendByteOrder) []byte {
	b := order.AppendUint16(nil, 0xfeff)
	for _, u := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, u)
	}
	return b
}

func TestEncodings(t *testing.T) {
	doc := "// ü😀\r\n" + strings.Replace(plain, "contoso-web", "😀", 1)
	_, want := Parse("", []byte(doc))
	if len(want.Errors()) != 1 || want.Errors()[0].Column != 57 {
		t.Fatal(want)
	}
	if _, got := Parse("", []byte(bomUTF8+doc)); !reflect.DeepEqual(got, want) {
		t.Errorf("with a byte-order mark: %v", got)
	}
	for name, order := range map[string]binary.AppendByteOrder{"little": binary.LittleEndian, "big": binary.BigEndian} {
		_, got := Parse("", encodeUTF16(doc, order))
		if len(got) != len(want)+1 || got[0].Fact != "the text is UTF-16" || got[0].Severity != Warning || !reflect.DeepEqual(got[1:], want) {
			t.Errorf("UTF-16, %s endian: %v", name, got)
		}
	}
}

func TestBrokenEncodings(t *testing.T) {
	utf16Text := encodeUTF16("{\n", binary.LittleEndian)
	for name, tt := range map[string]struct{ doc, want string }{
		"latin 1":             {"{\n\"a\": \"\xfc\"}", "error 2:7: the text is not valid UTF-8\n"},
		"half a character":    {"{}\xe2\x82", "error 1:3: the text is not valid UTF-8\n"},
		"half a unit":         {string(utf16Text) + "}", "error 2:1: the text is not valid UTF-16\n"},
		"half a pair":         {string(utf16Text) + "\x3d\xd8}\x00", "error 2:1: the text is not valid UTF-16\n"},
		"half a pair at last": {string(utf16Text) + "\x3d\xd8", "error 2:1: the text is not valid UTF-16\n"},
		"UTF-16 without mark": {string(utf16Text[2:]), "error 1:2: expected a key in double quotes, found \"\\u0000\"\n"},
		"a real U+FFFD":       {strings.Replace(plain, "www", "\ufffd", 1), "error 1:57: observedCertificates[0]: \"%EF%BF%BD\" is not a certificate name\n"},
	} {
		if _, ps := Parse("", []byte(tt.doc)); lines(ps) != tt.want {
			t.Errorf("%s: said %s, want %s", name, lines(ps), tt.want)
		}
	}
}
