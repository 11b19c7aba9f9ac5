package tree

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/certs"
)

// files are the contents of a store by path.
func files(s *Snapshot, store string) map[string][]byte {
	all := map[string][]byte{}
	dir, ok := s.Lookup(Root, StoreDir(store))
	if !ok {
		return nil
	}
	var walk func(dir *Node, path string)
	walk = func(dir *Node, path string) {
		for n := range s.Entries(dir.ID, 0) {
			if n.Kind == Dir {
				walk(n, path+n.Name+"/")
			}
			if n.Kind == File {
				all[path+n.Name] = n.Content()
			}
		}
	}
	walk(dir, "")
	return all
}

const one = "00000000000000000000000000000001"

// What is shown in a form that was asked for later is what would have been shown
// at once.
func TestFormsThatAreWantedLater(t *testing.T) {
	all := Views{Layouts: everyLayout, Key: certs.Traditional, Password: "secret-password"}
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_001, 0)
	plain := NewVersion(one, at, at, b)
	later, err := plain.With(Views{Layouts: both}, all)
	if err != nil {
		t.Fatal(err)
	}
	once := NewVersion(one, at, at, b, all)
	entry := newEntry("/s", "www")
	entry.Views = all
	show := func(v *Version) map[string][]byte {
		return files(build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {v}}), "/s")
	}
	got, want := show(later), show(once)
	if len(got) != 15 || len(want) != len(got) {
		t.Errorf("%d and %d files", len(got), len(want))
	}
	for name, content := range want {
		if !bytes.Equal(got[name], content) {
			t.Errorf("%s differs", name)
		}
	}
	if again, err := later.With(all); err != nil || again != later {
		t.Error("what is there is made again", err)
	}
	if !bytes.Contains(want["contoso-web.www."+one], []byte("-----BEGIN EC PRIVATE KEY-----")) {
		t.Error("the key is not in the traditional form")
	}
}

// A form that cannot be written takes nothing else with it.
func TestFormThatCannotBeWritten(t *testing.T) {
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_001, 0)
	views := Views{Layouts: everyLayout, Password: "short"} // Java wants six characters
	v := NewVersion(one, at, at, b, views)
	if why := v.Unwritten(); len(why) != 1 || !strings.HasPrefix(why[0], "no Java keystore: ") || !strings.Contains(why[0], "too few for Java") {
		t.Errorf("%q", why)
	}
	if better, err := v.With(Views{Layouts: everyLayout, Password: "long-enough"}); err != nil || better.Unwritten() != nil {
		t.Errorf("with another password: %v, %q", err, better.Unwritten())
	}
	entry := newEntry("/s", "www")
	entry.Views = views
	got := files(build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {v}}), "/s")
	for name, want := range map[string]bool{"contoso-web.www." + one: true, "contoso-web.www." + one + ".pfx": true, "contoso-web.www." + one + ".jks": false, "archive/contoso-web.www/" + one + "/keystore.jks": false} {
		if _, ok := got[name]; ok != want {
			t.Errorf("%s is there: %v", name, ok)
		}
	}
}

// Links lead to the current version, which need not be the newest.
func TestLinksLeadToTheCurrentVersion(t *testing.T) {
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	entry := newEntry("/s", "www")
	entry.Views.Layouts = everyLayout
	for _, current := range []*Version{v1, v2, nil} {
		s, err := Build(Spec{Entries: []Entry{entry}}, func(string) Shown { return Shown{Versions: []*Version{v2, v1}, Current: current} })
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
		links := 0
		for n := range s.Nodes() {
			if n.Kind != Link {
				continue
			}
			if links++; current == nil || !strings.Contains(n.Target, string(current.ID)) {
				t.Errorf("%s leads to %s", n.Name, n.Target)
			}
		}
		if want := 8; current != nil && links != want || current == nil && links != 0 {
			t.Errorf("%d links", links)
		}
	}
}

// What everybody may read holds no key, and everything else goes by the list.
func TestNobodyReadsAKeyWithoutAGrant(t *testing.T) {
	entry := newEntry("/s", "www")
	entry.Views.Layouts, entry.Grants = everyLayout, acl.NewList([]uint32{33}, nil)
	s := build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {newVersion(t, 1)}})
	public := 0
	for n := range s.Nodes() {
		switch {
		case n.Kind != File:
		case n.Public:
			if public++; bytes.Contains(n.Content(), []byte("PRIVATE KEY")) || !n.ACL.Empty() {
				t.Errorf("%s is for everybody", n.Name)
			}
		case !n.ACL.Equal(entry.Grants):
			t.Errorf("%s is for %v", n.Name, n.ACL.Users())
		}
	}
	if public != 3 { // .luma, .certs.pem, .truststore.jks
		t.Errorf("%d files for everybody", public)
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	views := Views{Password: "hunter2"}
	text, err := json.Marshal(views)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(views), fmt.Sprintf("%+v %#v %q %x %s", views, views, views, views, views.Password), string(text)} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("shown in %s", shown)
		}
	}
}

// What waits to become current is not where every file counts.
func TestX509StoreHasNoVersionThatWaits(t *testing.T) {
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	v2.thumbprint = "ANOTHER"
	entry := newEntry("/s", "www")
	entry.Views.Layouts = []Layout{X509Store}
	for current, want := range map[*Version]int{v1: 1, v2: 2} {
		s, err := Build(Spec{Entries: []Entry{entry}}, func(string) Shown { return Shown{Versions: []*Version{v2, v1}, Current: current} })
		if err != nil {
			t.Fatal(err)
		}
		if got := files(s, "/s"); len(got) != want {
			t.Errorf("version %s is current: %d files", current.ID, len(got))
		}
	}
}

// Forms that nobody wants any more, such as those of former passwords, are not kept.
func TestFormerFormsAreForgotten(t *testing.T) {
	v := newVersion(t, 1)
	size := v.Size()
	for range 5 {
		for _, password := range []Password{"password-1", "password-2", ""} {
			more, err := v.With(Views{Layouts: everyLayout, Password: password})
			if err != nil {
				t.Fatal(err)
			}
			v = more
		}
	}
	if grown := v.Size() - size; grown != 0 {
		t.Errorf("%d bytes more after other passwords", grown)
	}
}
