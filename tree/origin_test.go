package tree

import (
	"slices"
	"strings"
	"testing"
)

// Every file of every layout tells what it is, and those of which nothing is secret, or
// that lack the key, do not count as keys.
func TestOriginOfEveryFile(t *testing.T) {
	entry := newEntry("/s", "www")
	entry.Views.Layouts, entry.Links = everyLayout, []string{"site"}
	v := newVersion(t, 1)
	s := build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {v}})
	keys, files := []string{}, 0
	for n := range s.Nodes() {
		if n.Kind != File {
			continue
		}
		files++
		path := pathBelow(s, n)
		holds := strings.Contains(string(n.Content()), "PRIVATE KEY") || strings.HasSuffix(path, ".pfx") || strings.HasSuffix(path, ".jks") && !strings.Contains(path, "truststore")
		want := Origin{"contoso-web.www", v.ID, holds}
		switch {
		case strings.HasPrefix(path, "my/"):
			want.Base, want.Version = "", ""
		case strings.HasSuffix(path, ".luma"):
			want.Version = ""
		}
		if o := OriginOf(path); o != want {
			t.Errorf("%s: %+v, want %+v", path, o, want)
		}
		if holds {
			keys = append(keys, path)
		}
	}
	if files < 13 || len(keys) != 8 {
		t.Errorf("%d files, of which these have keys: %v", files, keys)
	}
	for _, odd := range []string{"", "x", "a.b", "archive/a.b", "archive/a.b/v/w/x", "my/x"} {
		if o := OriginOf(odd); o.Key {
			t.Errorf("%q is taken for a key: %+v", odd, o)
		}
	}
}

// pathBelow is the path of a node below its store.
func pathBelow(s *Snapshot, n *Node) string {
	var parts []string
	for ; n.Parent != Root; n, _ = s.Node(n.Parent) {
		parts = append(parts, n.Name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}
