package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kvfs/image"
	"kvfs/tree"
)

// Options of an FS. The zero value of each field is the default.
type Options struct {
	// Rootless mounts through fusermount3 instead of with CAP_SYS_ADMIN.
	Rootless bool
	// Source is who mounts, as the table of mounts has it (see MountedBy); default "kvfs".
	Source string
	// Publisher is the way to a publisher; default: this program as a child, with the
	// argument "publisher".
	Publisher Publisher
	// Retired is how many bytes of files that lost their names are kept for those
	// who still have them open, each counted with 512 more; default 4 MiB.
	Retired int
	// Load gets the content of a node that is Away. Its error decides the reader's:
	// context.DeadlineExceeded is ETIMEDOUT, os.ErrPermission EACCES, any other EIO.
	Load Load
	// Patience is how long a read waits for Load; default 2 s.
	Patience time.Duration
	// Image keeps what is shown for the process after this one; default: an image
	// that ends with the process.
	Image *image.Image
	// Keep is called with each descriptor that a successor needs, which has to be held
	// by somebody else too when it returns; default: nobody does.
	Keep func(name string, fd int) error
	// Logger for what an operator should know; default: nothing is logged.
	Logger *slog.Logger

	// For tests: Uncached makes the kernel ask for everything each time, Recovery
	// chooses how unanswered requests are found.
	Uncached bool
	Recovery Recovery
}

// Load gets a content that is not in memory, before ctx ends.
type Load func(ctx context.Context, n *tree.Node) ([]byte, error)

// FS is a file system of stores. Its methods may be called from any goroutine,
// in the order that the package documentation gives.
type FS struct {
	opts Options
	log  *slog.Logger
	view *view

	// publishing is held for a whole plan and whenever connections, publishers
	// or mounts change. It is not view.mu, since the handlers must go on
	// meanwhile.
	publishing sync.Mutex
	open       bool
	// fixed is set before Serve, if the stores cannot change: an ordinary user's, and
	// those that another process has made visible and will take away.
	fixed  bool
	taken  bool      // TakeOver has succeeded
	stores []string  // to be visible, outer ones before those inside
	next   int       // number of the next connection
	former []*former // to be taken away

	// mu is taken last and only to write or read these fields, so that a report
	// need not wait for a plan.
	mu       sync.Mutex
	conns    []*conn
	attached []string
}

// conn is one connection to the kernel. With CAP_SYS_ADMIN there is one for all
// stores, otherwise one for each.
type conn struct {
	n       int // in the names of its descriptors
	super   *superblock
	journal *journal
	server  *server
	handler *handler
	root    tree.ID // shown as the connection's root
	at      string  // its mountpoint, if fusermount3 made it
	owner   fuse.Owner
	pub     *process
}

// self is the owner of everything on the connections that this process makes.
func self() fuse.Owner { return fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())} }

// New makes a file system that shows nothing and is mounted nowhere.
func New(opts Options) (*FS, error) {
	if opts.Retired == 0 {
		opts.Retired = 4 << 20
	}
	if opts.Publisher == nil {
		opts.Publisher = PublisherCommand("/proc/self/exe", "publisher")
	}
	if opts.Source == "" {
		opts.Source = "kvfs"
	}
	if opts.Patience == 0 {
		opts.Patience = 2 * time.Second
	}
	if opts.Keep == nil {
		opts.Keep = func(string, int) error { return nil }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Image == nil {
		var err error
		if opts.Image, err = image.New(image.Options{}); err != nil {
			return nil, err
		}
	}
	return &FS{opts: opts, fixed: opts.Rootless, log: opts.Logger, view: newView(opts.Retired, opts.Image)}, nil
}

// outerFirst puts a path before those that lie below it.
func outerFirst(paths []string) []string { return slices.Sorted(slices.Values(paths)) }

// Open makes the connections for stores: absolute paths, at which the directories
// tree.StoreDir(path) of the snapshots are shown. One may lie inside another, but not
// for an ordinary user. With CAP_SYS_ADMIN nothing is visible before Attach; through
// fusermount3 the stores are, and whoever enters one waits for Serve. Close undoes it.
func (f *FS) Open(stores ...string) (err error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.stores = outerFirst(stores)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.detach()) // what fusermount3 made is visible already
			f.closeConns()
		}
	}()
	if err := f.view.persist(); err != nil {
		return err
	}
	if !f.opts.Rootless {
		super, err := newSuperblock(f.opts.Source)
		if err != nil {
			return err
		}
		if err := f.connect(&conn{super: super, root: tree.Root, owner: self()}); err != nil {
			return err
		}
	} else {
		for _, at := range f.stores {
			n, ok := f.view.cur.Load().Lookup(tree.Root, tree.StoreDir(at))
			if !ok {
				return fmt.Errorf("no snapshot with the store %s was published", at)
			}
			dev, err := fusermount(at)
			if err != nil {
				return fmt.Errorf("mounting at %s: %w", at, err)
			}
			f.setAttached(append(f.attached, at))
			if err := f.connect(&conn{super: &superblock{dev: dev, mount: -1, dir: -1}, root: n.ID, at: at, owner: self()}); err != nil {
				return err
			}
		}
	}
	f.open = true
	return nil
}

// connect makes a new connection one of ours and lets a successor have it.
func (f *FS) connect(c *conn) (err error) {
	if c.journal, err = newJournal(); err != nil {
		c.super.close()
		return err
	}
	if f.opts.Uncached {
		c.journal.uncached.Store(1)
	}
	c.n = f.next
	f.next++
	f.add(c)
	return f.keepConn(c)
}

func (f *FS) add(c *conn) {
	c.handler = &handler{RawFileSystem: fuse.NewDefaultRawFileSystem(), view: f.view, journal: c.journal, root: c.root,
		owner: c.owner, load: f.opts.Load, patience: f.opts.Patience,
		uncached: c.journal.uncached.Load() != 0}
	c.server = newServer(c.super.dev, c.handler, c.journal, f.opts.Recovery, f.log)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, c)
}

func (f *FS) setAttached(paths []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attached = paths
}

// Serve answers the kernel until ctx ends, finishing the requests it has. It
// returns early when every connection was taken away by somebody else.
func (f *FS) Serve(ctx context.Context) error {
	var g errgroup.Group
	for _, c := range f.conns {
		g.Go(func() error { return c.server.serve(ctx) })
	}
	return g.Wait()
}

// Attach starts the publishers and makes the stores visible. Serve must be
// running. If it fails, what was made visible is taken away again; but what was taken
// over stays, and Publish starts the publishers that are missing.
func (f *FS) Attach() (err error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	defer func() {
		if err != nil && !f.taken {
			err = errors.Join(err, f.detach())
		}
	}()
	for _, c := range f.conns {
		if c.pub != nil { // Publish was faster
			continue
		}
		if err := f.startPublisher(c); err != nil {
			return err
		}
	}
	if f.fixed {
		return nil // Open did, or the process before this one
	}
	return f.bind()
}

// Leave makes the stores visible, in place of Attach, for a process that takes over
// when this one has ended. Nothing is published here. Serve must be running. If it
// fails, what was made visible is taken away again.
func (f *FS) Leave() (err error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, f.detach())
		}
	}()
	for _, c := range f.conns {
		dir, err := f.directory(c)
		if err != nil {
			return err
		}
		dir.Close() // another one is kept
	}
	return f.bind()
}

// Directory is the root of the file system through the private mount, which nobody can
// reach who is not given it: for who watches the file system, with another descriptor of
// the same mount as a publisher has. Serve must be running.
func (f *FS) Directory() (*os.File, error) {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	if len(f.conns) != 1 || f.opts.Rootless {
		return nil, errors.New("there is no private mount")
	}
	return f.directory(f.conns[0])
}

// Fixed tells whether Show can do nothing.
func (f *FS) Fixed() bool { return f.fixed }

// Rootless tells whether fusermount3 has made the mounts, or will.
func (f *FS) Rootless() bool { return f.opts.Rootless }

// bind makes those stores visible that are not yet.
func (f *FS) bind() error {
	for _, at := range f.stores {
		if slices.Contains(f.attached, at) {
			continue
		}
		attached := append(slices.Clone(f.attached), at)
		if err := f.keepLayout(attached); err != nil {
			return err
		}
		if err := f.bindOne(at); err != nil {
			return fmt.Errorf("mounting at %s: %w", at, err)
		}
		f.setAttached(attached)
	}
	return nil
}

// bindOne makes a store visible. Where a former connection is in the way, it comes
// beneath that: above it the kernel would wait for an answer of the former one. Before
// Linux 6.5 there is a moment in which neither is there.
func (f *FS) bindOne(at string) error {
	super := f.conns[0].super
	if f.former == nil || !Visible(at) {
		return super.bind(tree.StoreDir(at), at, false)
	}
	err := super.bind(tree.StoreDir(at), at, true)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	for _, o := range f.former {
		if err := o.unmount(); err != nil {
			return err
		}
	}
	return super.bind(tree.StoreDir(at), at, false)
}

// ErrFixed is Show's where the stores cannot be changed while they are served: those
// of an ordinary user, and those that another process has made visible.
var ErrFixed = errors.New("the stores cannot change while they are served")

// Show makes exactly these stores visible. Those that are and stay are not
// touched. One that comes or goes must not lie around one that stays. The
// directories of those that come must have been published, and Serve must be
// running. What failed is tried again by the next call.
func (f *FS) Show(stores []string) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	stores = outerFirst(stores)
	if f.fixed {
		if slices.Equal(stores, outerFirst(f.attached)) {
			return nil
		}
		return ErrFixed
	}
	f.stores = stores
	gone := slices.DeleteFunc(slices.Clone(f.attached), func(at string) bool { return slices.Contains(stores, at) })
	return errors.Join(f.unmount(gone), f.bind())
}

func (f *FS) startPublisher(c *conn) error {
	dir, err := f.directory(c)
	if err != nil {
		return err
	}
	defer dir.Close()
	p, err := startPublisher(f.opts.Publisher, dir, f.publisherLog())
	if err != nil {
		return err
	}
	f.setPublisher(c, p)
	c.journal.publisher.Store(p.thread)
	return nil
}

func (f *FS) setPublisher(c *conn, p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.pub = p
}

// publisherLog is where a publisher's dying words go.
func (f *FS) publisherLog() io.Writer {
	return logWriter{f.log}
}

type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Warn("the publisher process says", "text", string(b))
	return len(b), nil
}

// Publish leads what is served to a snapshot: what is new appears, then links
// move, then old names go, each by one system call that readers and watchers
// see. Nothing is done for what is the same. After an error what is served is
// between the two snapshots and whole; Publish it again and the rest is done.
//
// beside are records of the image that are true with the snapshot: a successor finds
// them as soon as it finds anything of it.
func (f *FS) Publish(ctx context.Context, s *tree.Snapshot, beside ...image.Change) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	if !f.open {
		return f.view.reset(s, beside...)
	}
	var err error
	for range 2 { // a publisher that died is replaced, once
		if err = f.publish(ctx, s, beside); !errors.Is(err, errPublisherDied) {
			return err
		}
		f.log.Warn("a publisher process is missing and is started", "err", err)
		if startErr := f.restartPublishers(); startErr != nil {
			err = errors.Join(err, startErr)
		}
	}
	return err
}

func (f *FS) publish(ctx context.Context, s *tree.Snapshot, beside []image.Change) error {
	errs := []error{f.tellWatchers()} // whom a predecessor could not tell any more
	plan := tree.Diff(f.view.cur.Load(), s)
	steps, err := f.view.begin(plan, time.Now(), beside...)
	if err != nil {
		return err
	}
	defer f.view.end()
	// One connection that somebody has taken away must not keep the others from
	// their renewals.
	for _, c := range f.conns {
		if err := f.tellKernel(c, plan); err != nil {
			errs = append(errs, err)
			continue
		}
		var mine []step
		for _, change := range steps {
			if dir, ok := c.path(s, f.view, change.Node().Parent); ok {
				mine = append(mine, stepFor(change, dir))
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(mine) > 0 {
			errs = append(errs, c.carryOut(mine))
		}
	}
	return errors.Join(append(errs, f.tellWatchers())...)
}

// tellWatchers lets those who watch a file through a link hear that the link has left
// it, as those who watch the directory have. It comes after the move: whoever looks
// again sees the new one.
func (f *FS) tellWatchers() error {
	files := f.view.left()
	var errs []error
	for _, file := range files {
		for _, c := range f.conns {
			errs = append(errs, c.server.deleted(file))
		}
	}
	if files != nil {
		errs = append(errs, f.view.told())
	}
	return errors.Join(errs...)
}

// tellKernel lets the kernel forget what no system call of the publisher will make
// it forget: the listing of a directory in which names only appear, and the access
// list of a file that has come back and is still in somebody's hands.
func (f *FS) tellKernel(c *conn, plan []tree.Change) error {
	var errs []error
	for _, dir := range silent(plan) {
		errs = append(errs, c.server.invalidate(dir, allPages))
	}
	for _, change := range plan {
		if change.Op == tree.Add && f.view.retired.has(change.New.ID) {
			errs = append(errs, c.server.invalidate(change.New.ID, noPages))
		}
	}
	return errors.Join(errs...)
}

func (c *conn) carryOut(plan []step) error {
	if c.pub == nil {
		return errPublisherDied
	}
	for part := range slices.Chunk(plan, maxSteps) {
		if err := c.pub.carryOut(part); err != nil {
			return err
		}
	}
	return nil
}

// maxSteps of a plan are told to a publisher at a time: neither side needs memory for
// all of those of a large store.
const maxSteps = 500

// path of a directory below the connection's root. A directory that is being
// removed is not in the new snapshot any more, but still in the view.
func (c *conn) path(s *tree.Snapshot, v *view, dir tree.ID) (string, bool) {
	var parts []string
	for dir != c.root {
		n, ok := s.Node(dir)
		if !ok {
			n, ok = v.cur.Load().Node(dir)
		}
		if !ok || n.ID == tree.Root {
			return "", false
		}
		parts = append([]string{n.Name}, parts...)
		dir = n.Parent
	}
	return path.Join(parts...), true
}

func (f *FS) restartPublishers() error {
	var errs []error
	for _, c := range f.conns {
		f.stopPublisher(c)
		errs = append(errs, f.startPublisher(c))
	}
	return errors.Join(errs...)
}

// stopPublisher first takes the right to publish away: the thread's number may
// be given to anybody as soon as it has ended.
func (f *FS) stopPublisher(c *conn) {
	c.journal.publisher.Store(0)
	if c.pub != nil {
		c.pub.stop()
		f.setPublisher(c, nil)
	}
}

// Detach takes the stores away, unless another process has made them visible. Who has
// a file open may read on until Serve ends. Serve must still be running.
func (f *FS) Detach() error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return f.detach()
}

func (f *FS) detach() (err error) {
	if !f.fixed || f.opts.Rootless {
		err = f.unmount(f.attached)
	}
	f.setAttached(nil)
	for _, c := range f.conns {
		f.stopPublisher(c)
	}
	f.open = false
	return err
}

// unmount takes stores away, inner ones before those around them. What cannot be
// taken away stays among the attached.
func (f *FS) unmount(stores []string) error {
	var errs []error
	for _, at := range slices.Backward(outerFirst(stores)) {
		var err error
		if f.opts.Rootless {
			err = fuserUnmount(at)
		} else {
			err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && Visible(at) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", at, err))
			continue
		}
		f.setAttached(slices.DeleteFunc(slices.Clone(f.attached), func(other string) bool { return other == at }))
	}
	return errors.Join(errs...)
}

// Close drops the connections. Whoever still has a file open gets ENOTCONN from
// then on. Serve must have ended.
func (f *FS) Close() {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.closeConns()
}

func (f *FS) closeConns() {
	for _, c := range f.conns {
		c.super.close()
		c.journal.close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = nil
}

// Mounts are the paths at which stores are visible.
func (f *FS) Mounts() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attached)
}

// Trim gives back memory of the image that is not needed.
func (f *FS) Trim() error {
	f.publishing.Lock() // nobody is relying on room that was made
	defer f.publishing.Unlock()
	return f.opts.Image.Trim()
}

// Snapshot is what is served at this moment.
func (f *FS) Snapshot() *tree.Snapshot { return f.view.cur.Load() }

// Bare tells whether the stores show nothing: nobody has published anything yet.
func (f *FS) Bare() bool {
	for n := range f.Snapshot().Nodes() {
		if n.Kind != tree.Dir {
			return false
		}
	}
	return true
}

// Blob finds a text that was taken over, nil if there is none. It is for who takes over
// something that has the same contents, before the first Publish.
func (f *FS) Blob(sum [32]byte) *tree.Blob {
	f.view.mu.Lock()
	defer f.view.mu.Unlock()
	return f.view.blobs[sum]
}

// Stats of the requests that the kernel has sent.
type Stats struct {
	Requests  map[string]uint64 // by the name of the operation
	Panics    uint64            // answered EIO
	Publisher int               // process id, 0 for none
	// Longest is what one of them has taken, or is taking. Reads that wait for a content
	// to be fetched are apart.
	Longest time.Duration
	// Resumed is how long after its start this process answered in place of the one before it; 0 if
	// there was none.
	Resumed time.Duration
}

// Stats counts from Open.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := Stats{Requests: map[string]uint64{}}
	for _, c := range f.conns {
		for name, n := range c.server.counts() {
			st.Requests[name] += n
		}
		st.Panics += c.server.panics.Load()
		st.Longest = max(st.Longest, time.Duration(c.server.longest.Load()), c.server.busy())
		st.Resumed = max(st.Resumed, time.Duration(c.server.resumed.Load()))
		if c.pub != nil {
			st.Publisher = c.pub.pid
		}
	}
	return st
}
