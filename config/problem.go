package config

import "slices"

// Severity says whether a document with this problem is refused.
type Severity string

const (
	// Error refuses the document.
	Error Severity = "error"
	// Warning accepts it; something in it has no effect, or another one than its author may think.
	Warning Severity = "warning"
)

// Problem is one thing that is wrong with a document, for a person.
type Problem struct {
	Severity Severity `json:"severity"`
	// Line and Column count from 1, columns in characters. Both are 0 for what is in no file, such as a URL of FromURLs.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Fact names the thing and what was found, Hint is one step to take: lower case, no full stop.
	Fact string `json:"fact"`
	Hint string `json:"hint"`
}

// Problems are in the order of their positions.
type Problems []Problem

// Errors returns the errors among the problems, nil if there are none.
func (ps Problems) Errors() Problems {
	var errs Problems
	for _, p := range ps {
		if p.Severity == Error {
			errs = append(errs, p)
		}
	}
	return errs
}

// HasErrors reports whether the document is refused.
func (ps Problems) HasErrors() bool {
	return slices.ContainsFunc(ps, func(p Problem) bool { return p.Severity == Error })
}

// Strict returns a copy in which every warning is an error.
func (ps Problems) Strict() Problems {
	strict := slices.Clone(ps)
	for i := range strict {
		strict[i].Severity = Error
	}
	return strict
}
