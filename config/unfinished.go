package config

import "strings"

// This file knows what stands in place of a value when a tool or a person has not finished its work.

// notEvaluated says that a value is what a tool should have replaced, "" if it is not.
func notEvaluated(n *node) (fact, hint string) {
	if isWrappedList(n) {
		return wrappedListFact, wrappedListHint
	}
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
	case strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">"):
		return "a placeholder (<...>), which nobody has replaced", "replace it by a value of your own, or remove the field"
	}
	return "", ""
}

const (
	wrappedListFact = "a list that PowerShell 5.1 has wrapped in an object"
	wrappedListHint = `keep what is in "value"`
)

// isWrappedList reports whether a value is {"value": [...], "Count": 1}: what ConvertTo-Json of PowerShell 5.1 makes of some lists.
func isWrappedList(n *node) bool {
	if n.kind != kindObject || len(n.members()) != 2 {
		return false
	}
	value, count := lookup(n, "value").value, lookup(n, "Count").value
	return value != nil && value.kind == kindList && count != nil && count.kind == kindNumber
}
