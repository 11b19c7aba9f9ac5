package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Beside every document in testdata/documents lies a file .want:
//
//	file NAME          the name that Parse is given, if it matters
//	same as PLAIN      the document in testdata/plain that means the same, or
//	refused
//	schema refuses     for accepted documents whose oddities a schema cannot admit
//	ignored FIELD      at LINE:COLUMN
//	SEVERITY LINE:COLUMN: FACT
//	  hint: HINT
var update = flag.Bool("update", false, "write what Parse says into testdata/documents/*.want, to be read before it is believed")

// expected are the lines of a .want file that a person writes.
type expected struct {
	head          []string
	file, plain   string // plain is "" for refused documents
	schemaRefuses bool
	said          string
}

func readExpected(t *testing.T, name string) (w expected) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "documents", name+".want"))
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for rest != "" {
		line, after, _ := strings.Cut(rest, "\n")
		if file, ok := strings.CutPrefix(line, "file "); ok {
			w.file = file
		} else if plain, ok := strings.CutPrefix(line, "same as "); ok {
			w.plain = plain
		} else if line == "schema refuses" {
			w.schemaRefuses = true
		} else if line != "refused" {
			break
		}
		w.head, rest = append(w.head, line), after
	}
	w.said = rest
	return w
}

// allSaid shows everything that a reading says.
func allSaid(cfg *Config, ps Problems) string {
	var b strings.Builder
	if cfg != nil {
		for _, n := range cfg.Ignored {
			fmt.Fprintf(&b, "ignored %s at %d:%d\n", n.Field, n.Line, n.Column)
		}
	}
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %d:%d: %s\n  hint: %s\n", p.Severity, p.Line, p.Column, p.Fact, p.Hint)
	}
	return b.String()
}

// withoutPositions returns a copy that does not tell how its document was written.
func withoutPositions(cfg *Config) *Config {
	bare := *cfg
	bare.Ignored = nil
	bare.Certificates = slices.Clone(cfg.Certificates)
	for i := range bare.Certificates {
		bare.Certificates[i].Line, bare.Certificates[i].Column = 0, 0
	}
	return &bare
}

func documentNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "documents", "*.json"))
	if err != nil || len(files) < 60 {
		t.Fatal(len(files), "documents", err)
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".json"))
	}
	return names
}

// plainConfig reads a plain document, of which there is nothing to say.
func plainConfig(t *testing.T, name string) *Config {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "plain", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, ps := Parse("", data)
	for _, p := range ps {
		if !strings.Contains(p.Fact, "pinned") && !strings.Contains(p.Fact, "is empty: nothing is served") { // no form says these without
			t.Errorf("%s is not plain: %+v", name, p)
		}
	}
	if cfg == nil || len(cfg.Ignored) > 0 {
		t.Fatalf("%s is not plain: %+v", name, cfg)
	}
	return cfg
}

func TestEveryDocumentMeansAndSaysWhatIsWrittenBesideIt(t *testing.T) {
	schema := settingsSchema(t)
	for _, name := range documentNames(t) {
		t.Run(name, func(t *testing.T) {
			data, want := readDocument(t, name), readExpected(t, name)
			cfg, ps := Parse(want.file, data)
			said := allSaid(cfg, ps)
			if *update {
				text := strings.Join(want.head, "\n") + "\n" + said
				if err := os.WriteFile(filepath.Join("testdata", "documents", name+".want"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if said != want.said {
				t.Errorf("said\n%s, want\n%s", said, want.said)
			}
			if (cfg == nil) != (want.plain == "") {
				t.Fatalf("accepted: %v\n%s", cfg != nil, said)
			}
			if strings.Contains(said, "SENTINEL") {
				t.Errorf("a secret of the document is repeated:\n%s", said)
			}
			if cfg == nil {
				return
			}
			if got, plain := withoutPositions(cfg), withoutPositions(plainConfig(t, want.plain)); !reflect.DeepEqual(got, plain) {
				t.Errorf("means\n%+v, and %s means\n%+v", got, want.plain, plain)
			}
			if !json.Valid(data) {
				return
			}
			if err := validate(schema, data); (err != nil) != want.schemaRefuses {
				t.Errorf("the schema says %v", err)
			}
		})
	}
}

func TestPlainDocumentsFitTheSchema(t *testing.T) {
	schema := settingsSchema(t)
	files, err := filepath.Glob(filepath.Join("testdata", "plain", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(len(files), "documents", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		plainConfig(t, strings.TrimSuffix(filepath.Base(file), ".json"))
		if err := validate(schema, data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
