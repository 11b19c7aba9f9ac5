package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestStrictTurnsWarningsIntoErrorsInACopy(t *testing.T) {
	ps := Problems{{Severity: Warning, Fact: "a"}, {Severity: Error, Fact: "b"}}
	if !ps.HasErrors() || len(ps.Errors()) != 1 || ps.Errors()[0].Fact != "b" {
		t.Errorf("errors are %v", ps.Errors())
	}
	strict := ps.Strict()
	if len(strict.Errors()) != 2 {
		t.Errorf("strict problems are %v", strict)
	}
	if ps[0].Severity != Warning {
		t.Error("Strict changed its receiver")
	}
	if none := (Problems{{Severity: Warning}}); none.HasErrors() || none.Errors() != nil {
		t.Error("a warning counts as an error")
	}
}

func TestProblemAsData(t *testing.T) {
	got, err := json.Marshal(Problem{Error, 3, 88, "fact", "hint"})
	if want := `{"severity":"error","line":3,"column":88,"fact":"fact","hint":"hint"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestColumnsCountCharacters(t *testing.T) {
	text := "aé€😀b\r\n" + strings.Repeat("ü", 3000) + "x\n\n"
	f := newFile(text)
	tests := []struct {
		at           string
		line, column int
	}{
		{"a", 1, 1}, {"é", 1, 2}, {"€", 1, 3}, {"😀", 1, 4}, {"b", 1, 5}, {"ü", 2, 1}, {"x", 2, 3001},
	}
	for _, tt := range tests {
		if line, column := f.position(strings.Index(text, tt.at)); line != tt.line || column != tt.column {
			t.Errorf("%s is at %d:%d, want %d:%d", tt.at, line, column, tt.line, tt.column)
		}
	}
	if line, column := f.position(len(text)); line != 4 || column != 1 {
		t.Errorf("the end is at %d:%d", line, column)
	}
}

// A page of a thousand problems helps nobody; but a document must never look accepted because its errors did not fit.
func TestTooManyProblemsAreCountedAndErrorsNotLost(t *testing.T) {
	var doc strings.Builder
	doc.WriteString(`{"secretsManagementSettings": {"observedCertificates": [`)
	for i := range maxProblems + 20 {
		if i == maxProblems+5 {
			doc.WriteString(`"http://contoso-web.vault.azure.net/secrets/www",`)
		}
		fmt.Fprintf(&doc, `"https://contoso-web.vault.azure.net/certificates/www%d",`, i)
	}
	doc.WriteString(`null]}}`)
	cfg, ps := Parse("", []byte(doc.String()))
	if cfg != nil || len(ps) != maxProblems+1 {
		t.Fatalf("accepted: %v; %d problems", cfg != nil, len(ps))
	}
	last := ps[len(ps)-1]
	if last.Severity != Error || last.Fact != "22 more problems" {
		t.Errorf("the last is %+v", last)
	}
	if errs := ps.Errors(); len(errs) != 1 {
		t.Errorf("errors are %v", errs)
	}
}
