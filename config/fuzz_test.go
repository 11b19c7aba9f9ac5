package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

func addDocuments(f *testing.F) {
	names, err := filepath.Glob(filepath.Join("testdata", "documents", "*.json"))
	if err != nil || len(names) == 0 {
		f.Fatal("no documents to begin with", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

func FuzzParse(f *testing.F) {
	addDocuments(f)
	f.Add([]byte(`{"kvfs": {"layouts": ["v3"], "keepVersions": 3, "transport": {"connect": {"a:1": "b:2"}}, "vaultDnsSuffixes": [".x:1"]}}`))
	f.Add([]byte(`{"kvfs": {"layouts": ["live", "pfx"], "keepVersions": "all", "oldVersionsInMiB": 0, "onDisabled": "hide", "stores": {"/s": {"layouts": ["jks"]}, "/s/": null}},
		"secretsManagementSettings": {"certificateStoreLocation": "/s", "observedCertificates": [{"url": "` + www + `", "customSymbolicLinkName": "contoso-web.api.pfx", "kvfs": {"layouts": ["v3"], "verifyChain": "failOpen"}},
		"` + www + `", {"url": "` + api + `", "kvfs": {"layouts": ["x509store"]}, "certificateStoreLocation": "/s/my"}]}}`))
	f.Add([]byte(`{"settings": "{\\\"secretsManagementSettings\\\": {}}"}`))
	f.Add([]byte("\xff\xfe{\x00}\x00"))
	f.Add([]byte(`{"kvfs": {"removalGraceInS": 5, "identity": {"type": "servicePrincipal", "clientSecret": "s"}}, "secretsManagementSettings": {}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, ps := Parse("settings.json", data)
		if (cfg == nil) != ps.HasErrors() {
			t.Fatalf("accepted: %v, problems: %v", cfg != nil, ps)
		}
		checkProblems(t, data, ps)
		if cfg != nil {
			checkConfig(t, cfg)
		}
		if cfg != nil {
			checkWrapped(t, data, cfg)
		}
		again, psAgain := Parse("settings.json", data)
		if !reflect.DeepEqual(cfg, again) || !reflect.DeepEqual(ps, psAgain) {
			t.Fatal("two readings of the same bytes differ")
		}
	})
}

func checkProblems(t *testing.T, data []byte, ps Problems) {
	if len(ps) > maxProblems+1 {
		t.Fatalf("%d problems", len(ps))
	}
	text, _, _ := decode(data)
	rows := strings.Split(text, "\n")
	last := Problem{Line: 1, Column: 1}
	for i, p := range ps {
		if p.Line < last.Line || p.Line == last.Line && p.Column < last.Column {
			if i != maxProblems {
				t.Fatalf("%+v comes after %+v", p, last)
			}
			continue
		}
		if p.Line > len(rows) || p.Column > utf8.RuneCountInString(rows[p.Line-1])+1 {
			t.Fatalf("%+v is outside of the text", p)
		}
		if p.Fact == "" || p.Hint == "" || len(p.Fact) > 4000 || len(p.Hint) > 4000 || strings.ContainsAny(p.Fact+p.Hint, "\n\r\x00\x1b") {
			t.Fatalf("not a message for one line: %+v", p)
		}
		last = p
	}
}

// checkWrapped checks that an accepted settings object means the same in a wrapper, and in a string.
func checkWrapped(t *testing.T, data []byte, cfg *Config) {
	text, _, _ := decode(data)
	root, refused := parse(&source{text: text}, newReport(newFile(text)))
	if refused != nil || root.kind != kindObject || lookup(root, keySettings).value == nil || depth(data) >= maxDepth {
		return // wrapped already, PowerShell's escapes, or too deep for more
	}
	// What follows a comment of the last line must stand in another one.
	for _, wrapped := range []string{`{"settings": ` + text + "\n}", `{"runtimeSettings": [{"handlerSettings": {"publicSettings": ` + text + "\n}}]}", inString(text)} {
		if len(wrapped) > maxSize {
			continue
		}
		got, ps := Parse("settings.json", []byte(wrapped))
		if got == nil {
			t.Fatalf("refused when it is wrapped: %s\n%s", lines(ps), wrapped)
		}
		if !reflect.DeepEqual(withoutPositions(got), withoutPositions(cfg)) {
			t.Fatalf("another meaning when it is wrapped:\n%+v, not\n%+v", got, cfg)
		}
	}
}

func checkConfig(t *testing.T, cfg *Config) {
	if cfg.RemovalGrace < 0 || cfg.RemovalGrace > MaxRemovalGrace || cfg.PollingInterval < 1 || cfg.OldVersionsInMiB < 0 ||
		cfg.KeepVersions < 1 && cfg.KeepVersions != AllVersions || cfg.KeepVersions > maxKeepVersions {
		t.Fatalf("out of bounds: %+v", cfg)
	}
	owners, names := make(map[storeName]Certificate), make(map[storeName]bool)
	for _, c := range cfg.Certificates {
		if c.Ref.IsZero() || c.Store != path.Clean(c.Store) || !path.IsAbs(c.Store) || c.Store == "/" || c.Line < 1 {
			t.Fatalf("out of bounds: %+v", c)
		}
		if strings.Contains(c.LinkName, "/") || c.LinkName == "." || c.LinkName == ".." {
			t.Fatalf("a link that is no name: %+v", c)
		}
		checkViews(t, c)
		base := storeName{c.Store, c.Ref.Vault() + "." + c.Ref.Name()}
		if o, ok := owners[base]; c.Linked && ok && (o.Ref.Key() != c.Ref.Key() || !reflect.DeepEqual([]any{o.Grants, o.Views, o.Guards, o.Identity}, []any{c.Grants, c.Views, c.Guards, c.Identity})) {
			t.Fatalf("two owners of one name: %+v, %+v", o, c)
		}
		if c.Linked {
			owners[base] = c
		}
		if link := (storeName{c.Store, c.LinkName}); c.LinkName != "" {
			if names[link] {
				t.Fatalf("two links of one name: %+v", c)
			}
			names[link] = true
		}
	}
}

// checkViews checks that views are filled and that what they promise can be kept.
func checkViews(t *testing.T, c Certificate) {
	layouts := slices.Sorted(slices.Values(c.Views.Layouts))
	unknown := func(l string) bool { return !slices.Contains(wordsOf[layout](), l) }
	if len(layouts) == 0 || len(slices.Compact(layouts)) != len(c.Views.Layouts) || slices.ContainsFunc(layouts, unknown) || c.LinkName != "" && !slices.Contains(layouts, "v3") {
		t.Fatalf("layouts that cannot be: %+v", c)
	}
	if !slices.Contains(wordsOf[keyFormat](), c.Views.KeyFormat) || !slices.Contains(wordsOf[verifyChain](), c.Guards.VerifyChain) {
		t.Fatalf("not filled: %+v", c)
	}
	if c.Views.PasswordFile != "" && !path.IsAbs(c.Views.PasswordFile) {
		t.Fatalf("not the path of a file: %+v", c)
	}
}

// plainValue turns a node into what encoding/json makes of the same text.
func plainValue(n *node) any {
	switch n.kind {
	case kindObject:
		m := make(map[string]any)
		for _, member := range n.members() {
			m[member.key] = plainValue(member.value)
		}
		return m
	case kindList:
		l := make([]any, 0)
		for _, item := range n.items() {
			l = append(l, plainValue(item))
		}
		return l
	case kindString:
		return n.text
	case kindNumber:
		return json.Number(n.text)
	case kindBool:
		return n.text == "true"
	}
	return nil
}

// depth is the depth of nesting as brackets show it, an upper bound of what the parser counts.
func depth(text []byte) int { return bytes.Count(text, []byte("{")) + bytes.Count(text, []byte("[")) }

// The parser must accept what the hujson library accepts, mean the same by it, and accept nothing else except a line comment
// at the very end and the two Unicode line separators in comments, which that library refuses.
func FuzzSyntaxAgreesWithHujson(f *testing.F) {
	addDocuments(f)
	for _, s := range []string{"[1,2,]", "{/**/}", "[-0.5e+10, 0, \"\\ud83d\\ude00\\u0000\"]", "// x", "[] // x", "[/*/]", "\"\\ud83d\"", "{\"a\":1,\"a\":2}", "tru", "nulll"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !utf8.Valid(text) || depth(text) > maxDepth || bytes.Contains(text, []byte("\u2028")) || bytes.Contains(text, []byte("\u2029")) {
			return
		}
		report := newReport(newFile(string(text)))
		got, refused := parse(&source{text: string(text)}, report)
		halves := bytes.Contains(bytes.ToLower(text), []byte(`\ud`)) // of characters, of which we warn
		if json.Valid(text) && (refused != nil || len(report.findings) > 0 && !halves) {
			t.Fatalf("plain JSON gave %+v, %+v", refused, report.findings)
		}
		standard, err := hujson.Standardize(append(bytes.Clone(text), '\n'))
		if (err == nil) != (refused == nil) {
			t.Fatalf("hujson says %v, we say %+v", err, refused)
		}
		if err != nil {
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(standard))
		decoder.UseNumber()
		var want any
		if err := decoder.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plainValue(got), want) {
			t.Fatalf("read as %#v, want %#v", plainValue(got), want)
		}
	})
}
