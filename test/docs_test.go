package test

import (
	"bytes"
	"fmt"
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kvfs/config"
)

// A document of ours is held to what it shows: its settings are valid, its
// commands exist, its links lead somewhere.

// fence is a fenced block of a Markdown file.
type fence struct {
	file string
	line int // of its first line of content
	kind string
	body string
}

func (f fence) String() string { return fmt.Sprintf("%s:%d", f.file, f.line) }

// documents are the files whose examples are tested.
func documents(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	return append(files, "../README.md", "../CONTRIBUTING.md")
}

// fences of all documents, those that end; of all kinds if the kind is "".
func fences(t testing.TB, kinds ...string) (found []fence) {
	t.Helper()
	for _, file := range documents(t) {
		var open *fence
		for i, line := range strings.Split(string(readFile(t, file)), "\n") {
			kind, fenced := strings.CutPrefix(line, "```")
			switch {
			case fenced && open == nil:
				open = &fence{file: file, line: i + 2, kind: kind}
			case fenced:
				if slices.Contains(kinds, open.kind) || slices.Contains(kinds, "") {
					found = append(found, *open)
				}
				open = nil
			case open != nil:
				open.body += line + "\n"
			}
		}
		if open != nil {
			t.Errorf("%v: the block has no end", open)
		}
	}
	return found
}

func TestSettingsInTheDocumentsAreValid(t *testing.T) {
	tested := 0
	for _, f := range fences(t, "json") {
		if !strings.Contains(f.body, "secretsManagementSettings") {
			continue
		}
		tested++
		cfg, problems := config.Parse("", []byte(f.body))
		if cfg == nil {
			t.Errorf("%v: the settings are refused", f)
		}
		for _, p := range problems { // a warning too: people copy this
			t.Errorf("%s:%d:%d: %s: %s (%s)", f.file, f.line+p.Line-1, p.Column, p.Severity, p.Fact, p.Hint)
		}
	}
	if tested < 3 {
		t.Errorf("only %d settings documents found: is the block no longer called json?", tested)
	}
}

// A block "text NAME" is a file, and the session behind it is what kvfs check
// says to it.
func TestErrorsInTheDocumentsAreReal(t *testing.T) {
	all, tested := fences(t, ""), 0
	for i, f := range all {
		name, isFile := strings.CutPrefix(f.kind, "text ")
		if !isFile {
			continue
		}
		tested++
		if i+1 == len(all) || all[i+1].kind != "console" {
			t.Errorf("%v: no session follows", f)
			continue
		}
		shown, ok := strings.CutPrefix(all[i+1].body, "$ kvfs check "+name+"\n")
		if !ok {
			t.Errorf("%v: not a check of %s", all[i+1], name)
			continue
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.body), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(kvfsPath, "check", name)
		cmd.Dir = dir
		said, _ := cmd.CombinedOutput() // the exit code belongs to what is said
		start, shortened := strings.CutSuffix(shown, "...\n")
		if string(said) != shown && !(shortened && strings.HasPrefix(string(said), start)) {
			t.Errorf("%v: kvfs says\n%s", all[i+1], said)
		}
	}
	if tested < 5 {
		t.Errorf("only %d such blocks found", tested)
	}
}

// commandLine is one call of kvfs in a document.
type commandLine struct {
	at    string
	words []string // after "kvfs"
}

// commandLines are the calls of kvfs in blocks of commands (sh) and in sessions
// (console), where a prompt begins the line.
func commandLines(t *testing.T) (calls []commandLine) {
	t.Helper()
	for _, f := range fences(t, "sh", "console") {
		for i, line := range strings.Split(f.body, "\n") {
			if f.kind == "console" {
				typed, ok := strings.CutPrefix(line, "$ ")
				if !ok {
					continue
				}
				line = typed
			}
			at := fmt.Sprintf("%s:%d", f.file, f.line+i)
			words, err := shellWords(line)
			if err != nil {
				t.Errorf("%s: %v", at, err)
			}
			for _, words := range callsOfKvfs(words) {
				calls = append(calls, commandLine{at, words})
			}
		}
	}
	return calls
}

// shellWords splits a line as a shell does, as far as documents need it: quotes,
// comments, and operators as words of their own.
func shellWords(line string) (words []string, err error) {
	var word strings.Builder
	inWord, quote := false, rune(0)
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == '#' && !inWord:
			return words, nil
		case c == ' ' || c == '\t':
			end()
		case strings.ContainsRune("|&;<>", c):
			end()
			words = append(words, string(c))
		default:
			inWord = true
			word.WriteRune(c)
		}
	}
	end()
	if quote != 0 {
		return words, fmt.Errorf("the quote %c is not closed", quote)
	}
	return words, nil
}

// callsOfKvfs are the words behind each kvfs that stands where a command does,
// up to the next operator.
func callsOfKvfs(words []string) (calls [][]string) {
	operator := func(w string) bool { return len(w) == 1 && strings.Contains("|&;<>", w) }
	for len(words) > 0 {
		n := slices.IndexFunc(words, operator)
		if n < 0 {
			n = len(words)
		}
		command := words[:n]
		if len(command) > 0 && command[0] == "sudo" {
			command = command[1:]
		}
		if len(command) > 0 && filepath.Base(command[0]) == "kvfs" {
			calls = append(calls, command[1:])
		}
		words = words[min(n+1, len(words)):]
	}
	return calls
}

// The program itself judges: with --help it reads all flags and their values,
// does nothing, and says whose help it is.
func TestCommandsInTheDocumentsExist(t *testing.T) {
	calls := commandLines(t)
	if len(calls) < 15 {
		t.Errorf("only %d calls of kvfs found: are the blocks no longer called sh and console?", len(calls))
	}
	tested := map[string]bool{}
	for _, c := range calls {
		key := strings.Join(c.words, "\x00")
		if len(c.words) == 0 || tested[key] {
			continue
		}
		tested[key] = true
		out, errs, code := command(t, kvfsPath, append(slices.Clone(c.words), "--help")...)
		if code != 0 {
			t.Errorf("%s: kvfs %s: exit code %d\n%s", c.at, strings.Join(c.words, " "), code, errs)
		} else if usage := "\n  kvfs " + c.words[0]; !strings.Contains(out, usage+" ") && !strings.Contains(out, usage+"\n") {
			t.Errorf("%s: kvfs has no command %q", c.at, c.words[0])
		}
	}
}

// commandHeading is that of one command in docs/commands.md, or of several.
var commandHeading = regexp.MustCompile(`(?m)^## (.*)$`)

func TestEveryCommandAndExitCodeIsDocumented(t *testing.T) {
	page := string(readFile(t, "../docs/commands.md"))
	documented := map[string]bool{}
	for _, m := range commandHeading.FindAllStringSubmatch(page, -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			documented[name] = true
		}
	}
	help, _, _ := command(t, kvfsPath, "--help")
	_, list, _ := strings.Cut(help, "Available Commands:\n")
	list, _, found := strings.Cut(list, "\n\n")
	if !found {
		t.Fatalf("no list of commands in\n%s", help)
	}
	for line := range strings.SplitSeq(list, "\n") {
		name := strings.Fields(line)[0]
		if !documented[name] {
			t.Errorf("docs/commands.md has no heading for %s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/commands.md describes %s, which does not exist", name)
	}

	_, codes, _ := strings.Cut(help, "Exit codes:\n")
	codes, _, _ = strings.Cut(codes, "\n\n")
	var table strings.Builder
	for line := range strings.SplitSeq(codes, "\n") {
		code, meaning, _ := strings.Cut(strings.TrimSpace(line), "  ")
		fmt.Fprintf(&table, "| %s | %s |\n", code, meaning)
	}
	if !strings.Contains(page, "|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/commands.md has another table of exit codes than kvfs --help:\n%s", &table)
	}
}

var testName = regexp.MustCompile("`(Test[A-Z]\\w+)`")

// What a document says that a test shows, a test of that name shows.
func TestTestsInTheDocumentsExist(t *testing.T) {
	known, tested := map[string]bool{}, 0
	for _, f := range sources(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				known[fn.Name.Name] = true
			}
		}
	}
	for _, file := range documents(t) {
		if filepath.Base(file) == "CONTRIBUTING.md" { // its names are examples
			continue
		}
		for _, m := range testName.FindAllSubmatch(readFile(t, file), -1) {
			if tested++; !known[string(m[1])] {
				t.Errorf("%s: there is no %s", file, m[1])
			}
		}
	}
	if tested < 15 {
		t.Errorf("only %d tests are named", tested)
	}
}

var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksInTheDocumentsLeadSomewhere(t *testing.T) {
	tested := 0
	for _, file := range documents(t) {
		for _, m := range markdownLink.FindAllSubmatch(readFile(t, file), -1) {
			target, part, _ := strings.Cut(string(m[1]), "#")
			if strings.Contains(target, "://") {
				continue
			}
			tested++
			path := file
			if target != "" {
				path = filepath.Join(filepath.Dir(file), target)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			} else if part != "" && !slices.Contains(anchors(text), part) {
				t.Errorf("%s: %s has no heading #%s", file, path, part)
			}
		}
	}
	if tested < 5 {
		t.Errorf("only %d links found", tested)
	}
}

// notInAnchors is what a heading loses on its way to an anchor.
var notInAnchors = regexp.MustCompile(`[^\w -]`)

// anchors of the headings of a document, made as web views of repositories do.
func anchors(text []byte) (all []string) {
	for line := range bytes.Lines(text) {
		if title := bytes.TrimLeft(line, "#"); len(title) < len(line) {
			name := strings.ToLower(strings.TrimSpace(string(title)))
			all = append(all, notInAnchors.ReplaceAllString(strings.ReplaceAll(name, " ", "-"), ""))
		}
	}
	return all
}

// The words that the tests above judge are those that a shell makes of a line.
func TestShellWordsAreThoseOfTheShell(t *testing.T) {
	for _, line := range []string{
		`kvfs check --strict settings.json   # in a pipeline`,
		`az keyvault secret show | kvfs inspect -`,
		`kvfs mount https://a/b --connect '*.vault.azure.net:443=127.0.0.1:8443' "--store" /x`,
		`a b'c d'e ""`,
	} {
		words, err := shellWords(line)
		if err != nil {
			t.Fatal(err)
		}
		before, _, _ := strings.Cut(line, " | ") // only this is for sh
		want, err := exec.Command("sh", "-fc", `printf '%s\n' `+before).Output()
		if err != nil {
			t.Fatal(err)
		}
		n := slices.Index(words, "|")
		if n < 0 {
			n = len(words)
		}
		if got := strings.Join(words[:n], "\n") + "\n"; got != string(want) {
			t.Errorf("%s: got %q, sh says %q", line, got, want)
		}
	}
}
