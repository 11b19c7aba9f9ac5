package config

import "strings"

// audit reads whether opens are written down, and where to.
func (s *settings) audit(n *node, path string) {
	a := Audit{On: true}
	switch n.kind {
	case kindObject:
		o := s.object(n, path, fieldsOf[auditFields](s.report))
		defer o.doneStrictly()
		a.File = o.auditFile("file")
		if n := o.get("allFiles"); n != nil {
			a.AllFiles, _ = o.boolean(n, o.join("allFiles"))
		}
	default:
		on, ok := s.boolean(n, path)
		if !ok || !on {
			return
		}
	}
	a.Line, a.Column = s.report.position(n.at())
	s.config.Audit = a
}

func (o *object) auditFile(name string) string {
	n := o.get(name)
	if n == nil {
		return ""
	}
	file, ok := o.text(n, o.join(name))
	switch {
	case !ok:
		return ""
	case !strings.HasPrefix(file, "/") || strings.HasSuffix(file, "/") || len(file) > maxPath || strings.ContainsRune(file, 0):
		o.mismatch(n, o.join(name), "the absolute path of a file", "write the whole path, such as /var/log/kvfs/audit.log")
	}
	return file
}
