package disk

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"regexp"

	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/tree"
)

// owner is whose everything of ours is.
type owner struct{ uid, gid uint32 }

// self is root, or an ordinary user in his own directory.
func self() owner { return owner{uint32(os.Geteuid()), uint32(os.Getegid())} }

// alone tells what is wrong with a file that nobody but its owner may have written to.
func (o owner) alone(st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errNoFile
	case st.Uid != 0 && st.Uid != o.uid:
		return fmt.Errorf("it belongs to user %d", st.Uid)
	case st.Mode&0o022 != 0: // with an access list its mask, which bounds that
		return fmt.Errorf("others may write to it (mode %04o)", st.Mode&0o7777)
	}
	return nil
}

// rights of a file: the mode is the one that belongs to the access list.
type rights struct {
	mode uint32
	acl  []byte
}

func rightsOf(n *tree.Node) rights { return rights{uint32(n.Mode().Perm()), n.XAttr()} }

// The names under which things wait to be renamed into their place.
var tempName = regexp.MustCompile(`^\.kvfs-[0-9a-f]{16}~$`)

func isTemp(name string) bool { return tempName.MatchString(name) }

// temp is the temporary name for a name, in the same directory. That of an earlier try is the
// same, so at most one is left behind.
func temp(name string) string {
	h := fnv.New64a()
	h.Write([]byte(name))
	return path.Join(path.Dir(name), fmt.Sprintf(".kvfs-%016x~", h.Sum64()))
}

// place puts a file under a name, whole and with its rights from the first moment. fresh
// says that nothing may be there. The directory is not synced.
func place(sys storage, own owner, name string, content []byte, r rights, fresh bool) error {
	t := temp(name)
	f, err := sys.create(t)
	if errors.Is(err, unix.EEXIST) {
		if err = sys.unlink(t); err == nil {
			f, err = sys.create(t)
		}
	}
	if err != nil {
		return err
	}
	err = write(f, own, content, r)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = sys.rename(t, name, fresh)
	}
	if err != nil {
		return errors.Join(err, sys.unlink(t))
	}
	return nil
}

func write(f file, own owner, content []byte, r rights) error {
	if err := grant(f, own, r); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.sync()
}

// grant gives a file its owner and its rights. Nobody ever has more than before or after:
// without the list the group bits of the mode are those of the group, so they change first.
func grant(f file, own owner, r rights) error {
	st, err := f.stat()
	if err != nil {
		return err
	}
	if st.Uid != own.uid || st.Gid != own.gid {
		if err := f.chown(own.uid, own.gid); err != nil {
			return err
		}
	}
	if r.acl != nil {
		return f.setACL(r.acl) // which sets the mode
	}
	if err := f.chmod(r.mode); err != nil {
		return err
	}
	return f.setACL(nil)
}

// placeLink puts a link under a name.
func placeLink(sys storage, name, target string, fresh bool) error {
	t := temp(name)
	err := sys.symlink(target, t)
	if errors.Is(err, unix.EEXIST) {
		if err = sys.unlink(t); err == nil {
			err = sys.symlink(target, t)
		}
	}
	if err == nil {
		if err = sys.rename(t, name, fresh); err != nil {
			return errors.Join(err, sys.unlink(t))
		}
	}
	return err
}

// placeDir makes a directory, or takes one that is there and that nobody else can write to;
// made says which.
func placeDir(sys storage, own owner, name string) (made bool, err error) {
	err = sys.mkdir(name)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, err
	}
	made = err == nil
	f, err := sys.directory(name)
	if err != nil {
		return made, err
	}
	defer f.Close()
	if !made {
		st, err := f.stat()
		if err != nil {
			return false, err
		}
		if st.Uid != own.uid || st.Mode&0o022 != 0 {
			return false, fmt.Errorf("it is there, and user %d may write to it, or others (mode %04o): %w", st.Uid, st.Mode&0o7777, unix.EPERM)
		}
		if st.Mode&0o7777 == dirMode {
			return false, nil
		}
	}
	return made, errors.Join(grant(f, own, rights{mode: dirMode}), f.sync())
}

const dirMode = 0o755

// syncDirectory makes the names in a directory outlive a power cut.
func syncDirectory(sys storage, name string) error {
	f, err := sys.directory(name)
	if err != nil {
		return err
	}
	return errors.Join(f.sync(), f.Close())
}

// setRights changes those of a file in place.
func setRights(sys storage, own owner, name string, r rights) error {
	f, err := sys.open(name)
	if err != nil {
		return err
	}
	err = grant(f, own, r)
	if err == nil {
		err = f.sync()
	}
	return errors.Join(err, f.Close())
}

// has tells whether a file has an owner and rights.
func has(f file, st *unix.Stat_t, own owner, r rights) bool {
	list, err := f.getACL()
	if err != nil || st.Uid != own.uid || st.Gid != own.gid || st.Mode&0o7777 != r.mode {
		return false
	}
	if r.acl == nil {
		return list == nil
	}
	was, err := acl.ParseXAttr(list)
	want, errWant := acl.ParseXAttr(r.acl)
	return err == nil && errWant == nil && was.Equal(want)
}
