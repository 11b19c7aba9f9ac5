package acl

import (
	"errors"
	"os/user"
	"slices"
	"strings"
	"testing"
)

// directory is a user database that can change between two calls, and that counts what it was asked.
type directory struct {
	ids   map[string]uint32
	asked []string
}

func (d *directory) find(name string) (uint32, error) {
	d.asked = append(d.asked, name)
	id, ok := d.ids[name]
	if !ok {
		return 0, user.UnknownUserError(name)
	}
	return id, nil
}

func TestResolveTakesUserAndGroupAsTwoGrants(t *testing.T) {
	users := &directory{ids: map[string]uint32{"app1": 1001, "service1": 1002}}
	groups := &directory{ids: map[string]uint32{"appGroup1": 2001}}
	l, unknown := Lookup{users.find, groups.find}.Resolve([]Grant{{"app1", "appGroup1"}, {User: "service1"}, {User: "app1"}})
	if want := NewList([]uint32{1001, 1002}, []uint32{2001}); !l.Equal(want) || unknown != nil {
		t.Errorf("got %v, unknown %v; want %v", l, unknown, want)
	}
	if want := []string{"app1", "service1"}; !slices.Equal(users.asked, want) {
		t.Errorf("asked for %q, want each name once: %q", users.asked, want)
	}
}

func TestResolveTakesNumbersWithoutLookup(t *testing.T) {
	d := &directory{ids: map[string]uint32{"0": 7, "33": 7}}
	l, unknown := Lookup{d.find, d.find}.Resolve([]Grant{{User: "0", Group: "4294967294"}, {User: "33"}, {User: "0044"}})
	if want := NewList([]uint32{0, 33, 44}, []uint32{4294967294}); !l.Equal(want) || unknown != nil {
		t.Errorf("got %v, unknown %v; want %v", l, unknown, want)
	}
	if d.asked != nil {
		t.Errorf("asked for %q", d.asked)
	}
}

func TestResolveReportsANumberThatIsNoID(t *testing.T) {
	for _, n := range []string{"4294967295", "4294967296", "99999999999999999999"} {
		l, unknown := Lookup{}.Resolve([]Grant{{User: n}})
		if len(unknown) != 1 || !l.Empty() {
			t.Fatalf("%s: got %v, unknown %v", n, l, unknown)
		}
		if got, want := unknown[0].Error(), `user "`+n+`" is not an id`; got != want {
			t.Errorf("fact is %q, want %q", got, want)
		}
		if got, want := unknown[0].Hint(), "ids go from 0 to 4294967294"; got != want {
			t.Errorf("hint is %q, want %q", got, want)
		}
	}
}

// Packages create their users after boot: one unknown name must not cost the others their access, nor be remembered.
func TestUnknownNamesAreSkippedAndLookedUpAgain(t *testing.T) {
	d := &directory{ids: map[string]uint32{"nginx": 33}}
	lk := Lookup{User: d.find, Group: d.find}
	grants := []Grant{{User: "haproxy"}, {User: "nginx"}, {User: "haproxy"}}

	l, unknown := lk.Resolve(grants)
	if want := NewList([]uint32{33}, nil); !l.Equal(want) {
		t.Errorf("got %v, want %v", l, want)
	}
	if len(unknown) != 1 || unknown[0].Kind != "user" || unknown[0].Name != "haproxy" {
		t.Fatalf("unknown is %v, want haproxy once", unknown)
	}

	d.ids["haproxy"] = 34
	l, unknown = lk.Resolve(grants)
	if want := NewList([]uint32{33, 34}, nil); !l.Equal(want) || unknown != nil {
		t.Errorf("later got %v, unknown %v; want %v", l, unknown, want)
	}
}

func TestUnknownSaysWhatAndWhatToDo(t *testing.T) {
	down := errors.New("connection refused")
	tests := []struct {
		err  error
		kind string
		fact string
	}{
		{user.UnknownUserError("x"), "user", `user "x" does not exist on this machine`},
		{user.UnknownGroupError("x"), "group", `group "x" does not exist on this machine`},
		{down, "group", `looking up group "x": connection refused`},
	}
	for _, tt := range tests {
		u := Unknown{Kind: tt.kind, Name: "x", Err: tt.err}
		if got := u.Error(); got != tt.fact {
			t.Errorf("fact is %q, want %q", got, tt.fact)
		}
		if !errors.Is(u, tt.err) {
			t.Errorf("%v does not unwrap to its cause", u)
		}
		if !strings.HasPrefix(u.Hint(), "create the "+tt.kind) {
			t.Errorf("hint is %q", u.Hint())
		}
	}
}

func TestZeroLookupAsksTheSystem(t *testing.T) {
	l, unknown := Lookup{}.Resolve([]Grant{{User: "root", Group: "root"}, {User: "no-such-user-of-kvfs", Group: "no-such-group-of-kvfs"}})
	if want := NewList([]uint32{0}, []uint32{0}); !l.Equal(want) {
		t.Errorf("got %v, want %v", l, want)
	}
	var facts []string
	for _, u := range unknown {
		facts = append(facts, u.Error())
	}
	want := []string{`user "no-such-user-of-kvfs" does not exist on this machine`, `group "no-such-group-of-kvfs" does not exist on this machine`}
	if !slices.Equal(facts, want) {
		t.Errorf("unknown:\n%q, want\n%q", facts, want)
	}
}
