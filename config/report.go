package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
)

// maxProblems bounds what a hostile document can make us print.
const maxProblems = 1000

// nowhere is the offset of what is in no file.
const nowhere = -1

// report collects the problems of one document.
type report struct {
	file     *file
	findings []finding
	said     map[string]bool // what is said once however often it occurs
	ignored  []Note
	fields   map[reflect.Type]*fieldSet
	errors   int
	dropped  int
	lastDrop finding
}

// finding is a problem whose position is still an offset into the file.
type finding struct {
	at         int
	severity   Severity
	fact, hint string
}

func newReport(f *file) *report {
	return &report{file: f, said: make(map[string]bool), fields: make(map[reflect.Type]*fieldSet)}
}

func (r *report) add(severity Severity, at int, fact, hint string) {
	f := finding{at, severity, fact, hint}
	if !r.full() {
		r.findings = append(r.findings, f)
		r.count(severity)
		return
	}
	r.dropAt(f)
}

func (r *report) count(severity Severity) {
	if severity == Error {
		r.errors++
	}
}

// full reports whether what is found from now on is only counted. Who has to say much may then count it unsaid.
func (r *report) full() bool { return len(r.findings) >= maxProblems }

// drop counts a problem that nobody will see.
func (r *report) drop(severity Severity) { r.dropAt(finding{at: 0, severity: severity}) }

func (r *report) dropAt(f finding) {
	// A warning must not take the place of an error: the document would look accepted.
	if r.dropped == 0 || r.lastDrop.severity == Warning {
		r.lastDrop = f
	}
	r.dropped++
	r.count(f.severity)
}

// enough reports whether the document is refused and so full of faults that reading on helps nobody.
func (r *report) enough() bool { return r.errors > 0 && len(r.findings)+r.dropped >= 10*maxProblems }

// ignore notes a field without effect.
func (r *report) ignore(at int, path string) {
	line, column := r.position(at)
	r.ignored = push(r.ignored, Note{Field: path, Line: line, Column: column})
}

func (r *report) error(at int, fact, hint string)   { r.add(Error, at, fact, hint) }
func (r *report) warning(at int, fact, hint string) { r.add(Warning, at, fact, hint) }

// warnOnce adds a warning the first time it is called with this key.
func (r *report) warnOnce(key string, at int, fact, hint string) {
	if r.said[key] {
		return
	}
	r.said[key] = true
	r.warning(at, fact, hint)
}

// position turns an offset into line and column, 0 and 0 for what is in no file.
func (r *report) position(at int) (line, column int) {
	if at == nowhere || r.file == nil {
		return 0, 0
	}
	return r.file.position(at)
}

// notes returns the fields without effect in the order of position.
func (r *report) notes() []Note {
	slices.SortStableFunc(r.ignored, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.ignored
}

// problems returns everything found, in the order of position.
func (r *report) problems() Problems {
	found := slices.Clone(r.findings)
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Compare(a.at, b.at) })
	if r.dropped > 0 {
		last := r.lastDrop
		last.fact, last.hint = fmt.Sprintf("%d more problems", r.dropped), "correct the ones above first"
		found = append(found, last)
	}
	var ps Problems
	for _, f := range found {
		line, column := r.position(f.at)
		ps = append(ps, Problem{f.severity, line, column, f.fact, f.hint})
	}
	return ps
}
