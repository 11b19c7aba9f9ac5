package acl

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// Grant is one entry of "acls" in the settings: a user, a group or both, each an independent grant of read. Values are
// names or numeric ids; an empty one is absent.
type Grant struct{ User, Group string }

// Lookup resolves names to ids. A nil function asks the system's database of users or groups (os/user), so the zero
// Lookup is ready for use.
type Lookup struct {
	User  func(name string) (uid uint32, err error)
	Group func(name string) (gid uint32, err error)
}

// Unknown is a name that could not be resolved, and why. It is an error for people.
type Unknown struct {
	Kind string // "user" or "group"
	Name string
	Err  error // what the lookup answered
}

// Resolve looks up every name and returns the list of those that were found. A name that is not found is skipped and
// reported, once however often it occurs; the others are admitted. Nothing is remembered: a user that a package creates
// later is found at the next call. Numbers from 0 to 4294967294 are taken as they are, whether or not anybody has that id.
func (lk Lookup) Resolve(grants []Grant) (List, []Unknown) {
	users := resolver{kind: "user", find: orElse(lk.User, systemUser)}
	groups := resolver{kind: "group", find: orElse(lk.Group, systemGroup)}
	var unknown []Unknown
	for _, g := range grants {
		unknown = users.add(g.User, unknown)
		unknown = groups.add(g.Group, unknown)
	}
	return NewList(users.ids, groups.ids), unknown
}

// resolver collects the ids of one kind of name, asking for each name once.
type resolver struct {
	kind string
	find func(string) (uint32, error)
	ids  []uint32
	done map[string]bool
}

func (r *resolver) add(name string, unknown []Unknown) []Unknown {
	if name == "" || r.done[name] {
		return unknown
	}
	if r.done == nil {
		r.done = make(map[string]bool)
	}
	r.done[name] = true
	id, err := r.resolve(name)
	if err != nil {
		return append(unknown, Unknown{Kind: r.kind, Name: name, Err: err})
	}
	r.ids = append(r.ids, id)
	return unknown
}

func (r *resolver) resolve(name string) (uint32, error) {
	if strings.Trim(name, "0123456789") == "" {
		return parseID(name)
	}
	return r.find(name)
}

var errNoID = errors.New("ids go from 0 to 4294967294")

func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == noID {
		return 0, errNoID
	}
	return uint32(id), nil
}

func orElse(find, system func(string) (uint32, error)) func(string) (uint32, error) {
	if find != nil {
		return find
	}
	return system
}

func systemUser(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	return parseID(u.Uid)
}

func systemGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return parseID(g.Gid)
}

// Error returns the fact: which name, and what is the matter with it.
func (u Unknown) Error() string {
	var noUser user.UnknownUserError
	var noGroup user.UnknownGroupError
	switch {
	case errors.As(u.Err, &noUser), errors.As(u.Err, &noGroup):
		return fmt.Sprintf("%s %q does not exist on this machine", u.Kind, u.Name)
	case errors.Is(u.Err, errNoID):
		return fmt.Sprintf("%s %q is not an id", u.Kind, u.Name)
	}
	return fmt.Sprintf("looking up %s %q: %v", u.Kind, u.Name, u.Err)
}

// Hint returns one step a person can take.
func (u Unknown) Hint() string {
	if errors.Is(u.Err, errNoID) {
		return errNoID.Error()
	}
	return fmt.Sprintf("create the %s or give its numeric id in acls; names are looked up again at every poll", u.Kind)
}

// Unwrap returns what the lookup answered.
func (u Unknown) Unwrap() error { return u.Err }
