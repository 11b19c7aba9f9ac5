package tree

import "testing"

// The names of an entry of which nothing is known any more stay, those of others do not.
func TestKeepingKeepsTheNamesOfEntries(t *testing.T) {
	www, api := newEntry("/s", "www"), newEntry("/s", "api")
	other := newEntry("/s", "www-2") // has a name that begins as another one's
	www.Links, www.Views.Layouts = []string{"site"}, everyLayout
	api.Views.Layouts, other.Views.Layouts = everyLayout, both
	v := newVersion(t, 1)
	more, err := v.With(www.Views)
	if err != nil {
		t.Fatal(err)
	}
	old := build(t, Spec{Entries: []Entry{www, api, other}}, map[string][]*Version{"www": {more}, "www-2": {v}})
	want := build(t, Spec{Entries: []Entry{www}}, map[string][]*Version{"www": {more}})
	next := build(t, Spec{Entries: []Entry{www, api}}, nil)
	kept := next.Keeping(old, []Entry{www})
	check(t, kept)
	if err := sameTree(kept, want); err != nil {
		t.Error(err)
	}
	if again := kept.Keeping(old, []Entry{www}); again != kept {
		t.Error("what is there is put in again")
	}
	// What has come in the place of a name stays.
	renewed := build(t, Spec{Entries: []Entry{www}}, map[string][]*Version{"www": {newVersion(t, 2)}})
	link, _ := renewed.Lookup(mustLookup(t, renewed, Root, StoreDir("/s")).ID, "contoso-web.www")
	if n := mustLookup(t, renewed.Keeping(old, []Entry{www}), link.Parent, link.Name); n != link {
		t.Errorf("the link leads to %s", n.Target)
	}
}

func mustLookup(t *testing.T, s *Snapshot, dir ID, name string) *Node {
	t.Helper()
	n, ok := s.Lookup(dir, name)
	if !ok {
		t.Fatalf("%s is not there", name)
	}
	return n
}
