package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/fs"
)

// access is the answer to `kvfs access --json`.
type access struct {
	Path   string          `json:"path"`
	File   string          `json:"file"` // what the path leads to
	Owner  principal       `json:"owner"`
	Users  []principal     `json:"users"`  // named in the access list
	Groups []principal     `json:"groups"` // named in the access list
	Public bool            `json:"public"` // everybody may read
	Asked  *accessDecision `json:"asked,omitempty"`
}

// principal is a user or a group. Who has no name is known by the number alone.
type principal struct {
	ID   uint32 `json:"id"`
	Name string `json:"name,omitempty"`
}

// accessDecision is what the kernel says to one user.
type accessDecision struct {
	User    principal `json:"user"`
	Allowed bool      `json:"allowed"`
	Reason  string    `json:"reason"`
}

func (a *app) accessCommand() *cobra.Command {
	who := ""
	cmd := &cobra.Command{
		Use:   "access PATH",
		Short: "say who may read a file, and why",
		Long: `Shows who may read a file or what a link leads to: the owner, and the users and
groups of its access list. The answer is read from the file itself, so it is what
the kernel goes by. With --user: whether that user may, by which rule, and which
directory is in the way if one is; fails with 4 if not.`,
		Example: `  kvfs access /etc/tls/kv/site
  kvfs access /etc/tls/kv/site --user www-data`,
		Args: takes(1, 1, "one path"),
		RunE: func(_ *cobra.Command, args []string) error { return a.access(args[0], who) },
	}
	a.jsonFlag(cmd)
	cmd.Flags().StringVar(&who, "user", "", "name or number of a user")
	return cmd
}

func (a *app) access(path, who string) error {
	file, err := readAccess(path)
	if err != nil {
		return err
	}
	if who == "" {
		return a.printAccess(file.access)
	}
	u, gids, err := lookupUser(who)
	if err != nil {
		return err
	}
	d, err := file.decide(u, gids)
	if err != nil {
		return err
	}
	file.Asked = &d
	if err := a.printAccess(file.access); err != nil || d.Allowed {
		return err
	}
	return &failure{code: exitRefused, kind: "refused", fact: fmt.Sprintf("%s may not read %s", u, path), said: true}
}

// accessedFile is a file with what the kernel knows of it.
type accessedFile struct {
	access
	list acl.List
	stat unix.Stat_t
	dirs []string // that are passed on the way to it, in their order
	// private files are in a mount that its user alone may enter.
	private bool
}

func readAccess(path string) (*accessedFile, error) {
	real, dirs, err := walk(path)
	if err != nil {
		return nil, unreachable(path, err)
	}
	f := &accessedFile{access: access{Path: path, File: real}, dirs: dirs}
	if err := unix.Stat(real, &f.stat); err != nil {
		return nil, unreachable(path, err)
	}
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fail(exitUsage, "usage", "name a file or a link of a store", "%s is not a file", path)
	}
	if f.list, err = readList(real); err != nil {
		return nil, err
	}
	if f.private, err = isPrivate(f); err != nil {
		return nil, err
	}
	f.Public = f.stat.Mode&0o004 != 0
	f.Owner = principal{ID: f.stat.Uid, Name: userName(f.stat.Uid)}
	f.Users, f.Groups = []principal{}, []principal{}
	for _, uid := range f.list.Users() {
		f.Users = append(f.Users, principal{ID: uid, Name: userName(uid)})
	}
	for _, gid := range f.list.Groups() {
		f.Groups = append(f.Groups, principal{ID: gid, Name: groupName(gid)})
	}
	return f, nil
}

// walk goes to what a path leads to, link by link as the kernel does.
func walk(path string) (file string, dirs []string, err error) {
	const maxLinks = 40 // the kernel's
	if path, err = filepath.Abs(path); err != nil {
		return "", nil, err
	}
	at, rest, links := "/", strings.Split(path[1:], "/"), 0
	dirs = []string{"/"}
	for ; len(rest) > 0; rest = rest[1:] {
		name := rest[0]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", nil, err
		}
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(next)
			if links++; err != nil || links > maxLinks {
				return "", nil, errors.Join(err, unix.ELOOP)
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append([]string{""}, append(strings.Split(target, "/"), rest[1:]...)...)
		case info.IsDir():
			at = next
			if !slices.Contains(dirs, at) {
				dirs = append(dirs, at)
			}
		default:
			at = next
		}
	}
	return at, dirs, nil
}

func isPrivate(f *accessedFile) (bool, error) {
	if f.stat.Uid == 0 {
		return false, nil
	}
	mounts, err := fs.Mounted()
	return slices.ContainsFunc(mounts, func(m fs.MountInfo) bool { return strings.HasPrefix(f.File, m.Path+"/") }), err
}

func unreachable(path string, err error) error {
	f := &failure{code: exitFailed, kind: "failed", fact: fmt.Sprintf("%s cannot be looked at: %v", path, cause(err)), err: err}
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.code, f.kind, f.hint = exitNotFound, "not-found", "kvfs status --json lists the links"
	case errors.Is(err, unix.ENOTCONN):
		f.code, f.kind, f.hint = exitMount, "not-mounted", "its kvfs has died: start it again"
	case errors.Is(err, os.ErrPermission):
		f.code, f.kind, f.hint = exitRefused, "permission", "try it as root"
	}
	return f
}

// cause is an error without the path that the caller names already.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readList is the access list of a file. One of another form than ours is not
// explained: better no answer than a wrong one.
func readList(file string) (acl.List, error) {
	value := make([]byte, 64<<10)
	n, err := unix.Getxattr(file, acl.XAttrName, value)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return acl.List{}, nil
	case err != nil:
		return acl.List{}, unreachable(file, err)
	}
	list, err := acl.ParseXAttr(value[:n])
	if err != nil {
		return acl.List{}, fail(exitFailed, "failed", "getfacl "+file+" shows it", "the access list of %s is not one that kvfs makes: %v", file, err)
	}
	return list, nil
}

// decide says what the kernel says to a user: every directory on the way and the
// file itself have to let him.
func (f *accessedFile) decide(u principal, gids []uint32) (d accessDecision, err error) {
	d.User = u
	if f.private && u.ID != f.stat.Uid {
		d.Reason = fmt.Sprintf("an ordinary user's mount, which %s alone may enter", f.Owner)
		return d, nil
	}
	for _, dir := range f.dirs {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return d, unreachable(dir, err)
		}
		if _, err := unix.Getxattr(dir, acl.XAttrName, nil); err == nil && u.ID != 0 {
			return d, fail(exitFailed, "failed", "getfacl "+dir+" shows it", "it cannot be told: the directory %s has an access list of its own", dir)
		}
		if _, may := class(st, u.ID, gids, 0o1); !may {
			d.Reason = fmt.Sprintf("the directory %s is closed to this user (mode %04o, of %s)", dir, st.Mode&0o7777, userName(st.Uid))
			return d, nil
		}
	}
	if f.list.Empty() {
		d.Reason, d.Allowed = class(f.stat, u.ID, gids, 0o4)
		return d, nil
	}
	rule := f.list.ExplainOwnedBy(f.stat.Uid, u.ID, gids)
	d.Reason, d.Allowed = rule.Reason, rule.Allowed
	return d, nil
}

// class is the kernel's decision where there is no access list: the bits of the
// first class that a user belongs to count, and no others (path_resolution(7)).
func class(st unix.Stat_t, uid uint32, gids []uint32, want uint32) (reason string, may bool) {
	switch {
	case uid == 0:
		reason, may = "root, by capability", true
		if st.Uid == 0 {
			reason = "owner of the file"
		}
	case uid == st.Uid:
		reason, may = "owner of the file", st.Mode&(want<<6) != 0
	case slices.Contains(gids, st.Gid):
		reason, may = fmt.Sprintf("member of the owning group %d", st.Gid), st.Mode&(want<<3) != 0
	default:
		reason, may = "everybody may", st.Mode&want != 0
		if !may {
			reason = "nobody but the owner is admitted"
		}
	}
	return reason, may
}

// lookupUser finds a user with all groups. A number need not have a name.
func lookupUser(who string) (principal, []uint32, error) {
	u, err := user.Lookup(who)
	if err != nil {
		id, notANumber := strconv.ParseUint(who, 10, 32)
		if notANumber != nil {
			return principal{}, nil, fail(exitNotFound, "not-found", "name a user of this machine, or a number", "no user is called %q", who)
		}
		if u, err = user.LookupId(who); err != nil {
			return principal{ID: uint32(id)}, nil, nil // nobody's number has no groups
		}
	}
	texts, err := u.GroupIds()
	if err != nil {
		return principal{}, nil, fmt.Errorf("looking for the groups of %s: %w", u.Username, err)
	}
	var gids []uint32
	for _, text := range append(texts, u.Gid) {
		gid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return principal{}, nil, fmt.Errorf("looking for the groups of %s: %w", u.Username, err)
		}
		gids = append(gids, uint32(gid))
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return principal{ID: uint32(uid), Name: u.Username}, gids, err
}

func (p principal) String() string {
	id := strconv.FormatUint(uint64(p.ID), 10)
	if p.Name == "" || p.Name == id {
		return id
	}
	return p.Name + " (" + id + ")"
}

func (a *app) printAccess(r access) error {
	if a.json {
		return a.printJSON(r)
	}
	if r.Asked != nil {
		may := "may"
		if !r.Asked.Allowed {
			may = "may not"
		}
		a.printf("%s %s read %s: %s\n", r.Asked.User, may, r.File, r.Asked.Reason)
		return nil
	}
	a.printf("%s\n  user %s owns it\n", r.File, r.Owner)
	for _, u := range r.Users {
		a.printf("  user %s is in the access list\n", u)
	}
	for _, g := range r.Groups {
		a.printf("  group %s is in the access list\n", g)
	}
	switch {
	case r.Public:
		a.printf("  everybody may read it\n")
	case r.Owner.ID == 0:
		a.printf("  nobody else may read it\n")
	default:
		a.printf("  root may by capability, and nobody else\n")
	}
	return nil
}
