package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/image"
	"kvfs/tree"
)

// Names of the descriptors of connection i, as Options.Keep gets them.
func devName(i int) string     { return fmt.Sprintf("fuse.%d", i) }
func journalName(i int) string { return fmt.Sprintf("journal.%d", i) }
func mountName(i int) string   { return fmt.Sprintf("mount.%d", i) } // of a connection with CAP_SYS_ADMIN
func dirName(i int) string     { return fmt.Sprintf("dir.%d", i) }

// layout is what the connections show where, as the image has it.
type layout struct {
	Conns []connLayout `json:"conns"`
	// Stores are visible, or were about to be.
	Stores []string `json:"stores"`
}

type connLayout struct {
	Root tree.ID `json:"root"`
	At   string  `json:"at,omitempty"`
}

// keepLayout is called before what it says becomes true: of a store that is not
// visible after all a successor finds that out.
func (f *FS) keepLayout(stores []string) error {
	l := layout{Stores: stores}
	for _, c := range f.conns {
		l.Conns = append(l.Conns, connLayout{Root: c.root, At: c.at})
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
func (f *FS) keepConn(i int, c *conn) error {
	if err := f.keepLayout(f.attached); err != nil {
		return err
	}
	for _, d := range []struct {
		name string
		fd   int
	}{{journalName(i), c.journal.fd}, {mountName(i), c.super.mount}, {devName(i), c.super.dev}} {
		if d.fd < 0 {
			continue
		}
		if err := f.opts.Keep(d.name, d.fd); err != nil {
			return fmt.Errorf("keeping %s: %w", d.name, err)
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
		if err := f.opts.Keep(dirName(slices.Index(f.conns, c)), fd); err != nil {
			return nil, fmt.Errorf("keeping the mount's directory: %w", err)
		}
	}
	fd, err := unix.FcntlInt(uintptr(c.super.dir), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicating the mount's directory: %w", err)
	}
	return os.NewFile(uintptr(fd), "kvfs"), nil
}

// ErrNothingKept is TakeOver's if no predecessor has left a connection.
var ErrNothingKept = errors.New("there is nothing to take over")

// TakeOver continues what a predecessor served, in place of Open: it shows what that
// has shown, from the image, on the connections that were kept, which take gives by
// name and only once. Serve answers from then on, and first what the predecessor owes.
// Attach does what that had still to do.
//
// An error other than ErrNothingKept means that what was kept cannot be used, as with
// another format; it is closed then.
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
	for i, c := range l.Conns {
		if err := f.takeConn(i, c, take); err != nil {
			return err
		}
	}
	if err := f.view.restore(); err != nil {
		return err
	}
	f.stores = outerFirst(l.Stores)
	f.setAttached(slices.DeleteFunc(slices.Clone(l.Stores), func(at string) bool { return !Visible(at) }))
	f.open = true
	return nil
}

func (f *FS) takeConn(i int, l connLayout, take func(string) (int, bool)) error {
	fd := func(name string) int {
		if fd, ok := take(name); ok {
			return fd
		}
		return -1
	}
	c := &conn{super: &superblock{dev: fd(devName(i)), mount: fd(mountName(i)), dir: fd(dirName(i))}, root: l.Root, at: l.At}
	log := fd(journalName(i))
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
		return fmt.Errorf("connection %d has no journal", i)
	}
	var err error
	if c.journal, err = openJournal(log); err != nil {
		c.super.close()
		return err
	}
	// Its last request may still come, and it is no publisher of ours.
	if was := c.journal.publisher.Swap(0); was != 0 {
		c.journal.former.Store(was)
	}
	f.add(c)
	return nil
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
