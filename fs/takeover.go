package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kvfs/image"
	"kvfs/tree"
)

// Names of the descriptors of connection n, as Options.Keep gets them.
func devName(n int) string     { return fmt.Sprintf("fuse.%d", n) }
func journalName(n int) string { return fmt.Sprintf("journal.%d", n) }
func mountName(n int) string   { return fmt.Sprintf("mount.%d", n) } // of a connection with CAP_SYS_ADMIN
func dirName(n int) string     { return fmt.Sprintf("dir.%d", n) }

func kept(n int) []string {
	return []string{devName(n), journalName(n), mountName(n), dirName(n)}
}

// layout is what the connections show where, as the image has it.
type layout struct {
	Conns []connLayout `json:"conns"`
	// Stores are visible, or were about to be.
	Stores []string `json:"stores"`
}

type connLayout struct {
	N    int     `json:"n"` // in the names of its descriptors
	Root tree.ID `json:"root"`
	At   string  `json:"at,omitempty"`
	// Owner is whom files belong to: who made the connection, which need not be who
	// serves it.
	Owner fuse.Owner `json:"owner"`
}

// keepLayout is called before what it says becomes true: of a store that is not
// visible after all a successor finds that out.
func (f *FS) keepLayout(stores []string) error {
	l := layout{Stores: stores}
	for _, c := range f.conns {
		l.Conns = append(l.Conns, connLayout{N: c.n, Root: c.root, At: c.at, Owner: c.owner})
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	change := image.Change{Key: keyStores, Value: b}
	if err := f.opts.Image.Reserve(change); err != nil {
		return err
	}
	return f.opts.Image.Put(change)
}

// keepConn lets a successor have a connection. Its journal comes first: a connection
// without one cannot be taken over.
func (f *FS) keepConn(c *conn) error {
	if err := f.keepLayout(f.attached); err != nil {
		return err
	}
	for _, d := range []struct {
		name string
		fd   int
	}{{journalName(c.n), c.journal.fd}, {devName(c.n), c.super.dev}} {
		if err := f.opts.Keep(d.name, d.fd); err != nil {
			return fmt.Errorf("keeping %s: %w", d.name, err)
		}
	}
	if c.super.mount >= 0 {
		// systemd keeps no descriptor of a mount itself. Without it all goes on, but no
		// store can be added.
		if err := f.opts.Keep(mountName(c.n), c.super.mount); err != nil {
			f.log.Debug("the private mount is not kept", "err", err)
		}
	}
	return nil
}

// directory is the root of a connection, for its publisher. It is opened once: a
// server that takes over must not call into a mount that only it can answer.
func (f *FS) directory(c *conn) (*os.File, error) {
	if c.super.dir < 0 {
		at, name := c.super.mount, "."
		if c.at != "" {
			at, name = unix.AT_FDCWD, c.at
		}
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("opening the mount for the publisher: %w", err)
		}
		c.super.dir = fd
		if err := f.opts.Keep(dirName(c.n), fd); err != nil {
			return nil, fmt.Errorf("keeping the mount's directory: %w", err)
		}
	}
	fd, err := unix.FcntlInt(uintptr(c.super.dir), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicating the mount's directory: %w", err)
	}
	return os.NewFile(uintptr(fd), "kvfs"), nil
}

// Errors of TakeOver.
var (
	// ErrNothingKept says that no predecessor has left a connection.
	ErrNothingKept = errors.New("there is nothing to take over")
	// ErrOtherFormat says that the connections are those of another version of this
	// program. What they have shown is here: see TakeOver.
	ErrOtherFormat = errors.New("another version of kvfs has left a connection that this one cannot go on with")
)

// former is a connection that this process cannot go on with. It is visible until
// EndFormer.
type former struct{ n, dev, dir int }

// TakeOver continues what a predecessor served, in place of Open: it shows what that
// has shown, from the image, on the connections that were kept, which take gives by
// name and only once. Serve answers from then on, and first what the predecessor owes.
// Attach does what that had still to do.
//
// After ErrOtherFormat the caller does with the stores that Kept lists what it would do
// at a beginning, Open, Serve and Attach, which mounts them beneath the former ones, and
// then EndFormer. Any other error but ErrNothingKept means that what was kept cannot be
// read.
func (f *FS) TakeOver(take func(name string) (fd int, ok bool)) (err error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	defer func() {
		if err != nil {
			f.closeConns()
			f.setAttached(nil)
		}
	}()
	b, ok := f.opts.Image.Get(keyStores)
	if !ok {
		return ErrNothingKept
	}
	var l layout
	if err := json.Unmarshal(b, &l); err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	if len(l.Conns) == 0 {
		return ErrNothingKept
	}
	for _, c := range l.Conns {
		f.next = max(f.next, c.N+1)
		if err := f.takeConn(c, take); err != nil {
			return err
		}
	}
	f.leftover(take)
	if err := f.view.restore(); err != nil {
		return err
	}
	f.stores = outerFirst(l.Stores)
	if f.conns == nil {
		return ErrOtherFormat
	}
	f.opts.Rootless = l.Conns[0].At != ""
	f.fixed = f.opts.Rootless || f.conns[0].super.mount < 0
	f.setAttached(slices.DeleteFunc(slices.Clone(l.Stores), func(at string) bool { return !Visible(at) }))
	f.open, f.taken = true, true
	return nil
}

// Kept are the stores that a predecessor has shown.
func (f *FS) Kept() []string {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return slices.Clone(f.stores)
}

func (f *FS) takeConn(l connLayout, take func(string) (int, bool)) error {
	fd := func(name string) int {
		if fd, ok := take(name); ok {
			return fd
		}
		return -1
	}
	c := &conn{n: l.N, super: &superblock{dev: fd(devName(l.N)), mount: fd(mountName(l.N)), dir: fd(dirName(l.N))}, root: l.Root, at: l.At, owner: l.Owner}
	log := fd(journalName(l.N))
	switch {
	case c.super.dev < 0: // it was not kept yet, so nobody has seen it
		c.super.close()
		if log >= 0 {
			unix.Close(log)
		}
		return ErrNothingKept
	case hungUp(c.super.dev):
		c.super.close()
		unix.Close(log)
		return ErrNothingKept
	case log < 0:
		c.super.close()
		return fmt.Errorf("connection %d has no journal", l.N)
	}
	var err error
	if c.journal, err = openJournal(log); err != nil {
		if f.opts.Rootless { // fusermount3 does not mount above a mount
			c.super.close()
			return err
		}
		f.log.Warn("taking over is not possible; the stores are mounted anew", "err", err)
		f.former = append(f.former, &former{n: l.N, dev: c.super.dev, dir: c.super.dir})
		if c.super.mount >= 0 {
			unix.Close(c.super.mount)
		}
		return nil
	}
	// Its last request may still come, and it is no publisher of ours.
	if was := c.journal.publisher.Swap(0); was != 0 {
		c.journal.former.Store(was)
	}
	f.add(c)
	return nil
}

// leftover finds connections that somebody had replaced who died before he could end
// them.
func (f *FS) leftover(take func(string) (int, bool)) {
	for n := range mostConns {
		dev, ok := take(devName(n))
		if !ok {
			continue
		}
		o := &former{n: n, dev: dev, dir: -1}
		if dir, ok := take(dirName(n)); ok {
			o.dir = dir
		}
		f.former = append(f.former, o)
	}
}

// unmount takes it away from where it is visible.
func (o *former) unmount() error {
	if o.dir < 0 {
		return nil // it was not visible yet
	}
	return unmountAll(o.dir)
}

// EndFormer takes the connections away that TakeOver could not go on with: who waits
// for one looks again, and finds what was attached since. dropped are the names under
// which their descriptors were kept.
func (f *FS) EndFormer() (dropped []string, err error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	var errs []error
	for _, o := range f.former {
		errs = append(errs, o.unmount())
		refuseAll(o.dev, nil)
		unix.Close(o.dev)
		if o.dir >= 0 {
			unix.Close(o.dir)
		}
		dropped = append(dropped, kept(o.n)...)
	}
	f.former = nil
	return dropped, errors.Join(errs...)
}

// hungUp tells whether a connection was aborted, or its last mount is gone.
func hungUp(dev int) bool {
	state := []unix.PollFd{{Fd: int32(dev), Events: unix.POLLIN}}
	_, err := unix.Poll(state, 0)
	return err == nil && state[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// Busy is for how long a request has been worked on, the longest of all. More than a
// moment means that this process is of no use any more: handlers do not wait.
func (f *FS) Busy() (longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		longest = max(longest, c.server.busy())
	}
	return longest
}
