package disk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// Options of a Dir. The zero value of each field is the default.
type Options struct {
	// Beneath is the directory itself, opened before a mount has covered it: its path leads
	// elsewhere. Open duplicates it. Default: the path is walked, again with each Apply.
	Beneath *os.File
	// TmpfsOnly refuses a file system that is not in memory.
	TmpfsOnly bool
	// Certificates that the settings want in the store: what the extension has made for these is
	// ours.
	Certificates []Certificate
	// KeepFiles leaves the files of versions that the tree has no more, as the extension does.
	// Links, marks of completion and what is in my/, which are names for the present, go.
	KeepFiles bool
	// Settled tells of a certificate (<Vault>.<Cert>) that the tree shows nothing of whether that is
	// on purpose: until then its names of an earlier time stay. Default: it is not.
	Settled func(base string) bool
	// Logger for what an operator need not do anything about; default: nothing is logged.
	Logger *slog.Logger

	// For tests: what every system call goes through.
	wrap func(storage) storage
}

// Dir is a real directory that follows one store. Its methods must not be called at the same
// time.
type Dir struct {
	path string
	opts Options
	log  *slog.Logger
	own  owner
	fd   *os.File
	sys  storage

	// on has of the store exactly what is on the disk and synced, and may have less: what
	// is not in it is compared with the next snapshot, and done. nil before the first Apply. What it has
	// of other stores is what they had last, so that nothing is planned for it.
	on *tree.Snapshot
	// names are ours; adopted are those of the extension, which are not in the manifest.
	names   *manifest
	adopted map[string]bool
	// pending are names in the manifest under which nothing of ours is yet.
	pending map[string]bool
	// strays are names of ours that no snapshot since the beginning has had.
	strays map[string]tree.Kind
}

// Open takes the directory of a store, and makes it if it is not there. It refuses one that others
// could write to or put something else in the place of, and says how to mend that (*Error).
// Nothing in it is looked at or changed before Apply. Close it.
func Open(path string, o Options) (*Dir, error) {
	d := &Dir{path: path, own: self()}
	d.Set(o)
	var fd int
	var err error
	if o.Beneath != nil {
		fd, err = unix.FcntlInt(o.Beneath.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			err = failed("duplicating", path, err)
		}
	} else {
		fd, err = walk(path, true)
	}
	if err != nil {
		return nil, err
	}
	d.use(fd)
	if err := d.check(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Set changes the options, but for Beneath, from the next Apply on.
func (d *Dir) Set(o Options) {
	d.opts, d.log = o, o.Logger
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.strays = nil // another certificate's may be ours
	d.on = nil
}

// use makes a descriptor the directory, of which nothing is known yet.
func (d *Dir) use(fd int) {
	if d.fd != nil {
		d.fd.Close()
	}
	d.fd = os.NewFile(uintptr(fd), d.path)
	d.sys = &root{fd}
	if d.opts.wrap != nil {
		d.sys = d.opts.wrap(d.sys)
	}
	d.on, d.names, d.adopted, d.pending, d.strays = nil, nil, nil, nil, nil
}

// Close leaves the directory as it is.
func (d *Dir) Close() {
	d.fd.Close()
}

// File is the directory, for who keeps it for a successor. It is closed with the Dir.
func (d *Dir) File() *os.File { return d.fd }

// check is done before anything is written: the directory may have been changed, or another one may have come
// into its place.
func (d *Dir) check() error {
	if d.opts.Beneath == nil {
		if err := d.follow(); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.fd.Fd()), &st); err != nil {
		return failed("looking at", d.path, err)
	}
	if st.Nlink == 0 {
		return &Error{Path: d.path, Fact: "the directory beneath the mount at " + d.path + " was removed", Hint: "restart kvfs"}
	}
	if err := trusted(d.path, &st, false); err != nil {
		return err
	}
	return d.checkMemory()
}

// follow goes to where the path leads now.
func (d *Dir) follow() error {
	fd, err := walk(d.path, true)
	if err != nil {
		return err
	}
	var now, was unix.Stat_t
	if unix.Fstat(fd, &now) == nil && unix.Fstat(int(d.fd.Fd()), &was) == nil && now.Dev == was.Dev && now.Ino == was.Ino {
		unix.Close(fd)
		return nil
	}
	d.use(fd)
	return nil
}

func (d *Dir) checkMemory() error {
	if !d.opts.TmpfsOnly {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.fd.Fd()), &st); err != nil {
		return failed("looking at the file system of", d.path, err)
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return &Error{Path: d.path, Fact: fmt.Sprintf("%s is not in memory (its file system is neither tmpfs nor ramfs), and the settings ask for that", d.path),
			Hint: "mount a tmpfs there, or take tmpfsOnly out of the settings"}
	}
	return nil
}

// Apply leads the directory to a snapshot. The first one compares what is there, and mends it;
// those after it cost what has changed, and a comparison in memory. What has
// failed is in the error, one *Error for each name (at most 10), all else is done, and what is
// on the disk is complete; Apply the same or a later snapshot again and the rest is done.
func (d *Dir) Apply(ctx context.Context, s *tree.Snapshot) error {
	if err := d.check(); err != nil {
		return err
	}
	if _, ok := s.Lookup(tree.Root, tree.StoreDir(d.path)); !ok && d.on == nil {
		return nil // it shows nothing of this store, not even that there is nothing
	}
	a := newApplication(d, s)
	if d.on == nil {
		if err := a.compare(); err != nil {
			return err
		}
	}
	a.carryOut(ctx)
	if !a.any() && len(a.missing) == 0 {
		d.on = s
	} else {
		d.on = d.on.Apply(time.Now(), a.done...)
	}
	return a.join()
}

// ours tells whether a name may be replaced and removed.
func (d *Dir) ours(name string) bool {
	_, entered := d.names.names[name]
	return entered && !d.pending[name] || d.adopted[name]
}

func (d *Dir) at(name string) string { return d.path + "/" + name }

func sumOf(n *tree.Node) [sha256.Size]byte {
	if n.Away != nil {
		return n.Away.Sum
	}
	return sha256.Sum256(n.Content())
}
