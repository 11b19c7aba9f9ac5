package fs

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kvfs/acl"
	"kvfs/tree"
)

// How long the kernel may keep names and attributes. It could be for ever:
// content never changes and names move through the kernel itself. An hour bounds
// how long a bug could.
const cacheFor = time.Hour

// handler answers the requests of one connection from the view. root is the
// directory that the connection shows as its root. Which thread may change names is
// in the journal.
type handler struct {
	fuse.RawFileSystem // ENOSYS for what is not below
	view               *view
	journal            *journal
	root               tree.ID
	owner              fuse.Owner
	load               Load
	patience           time.Duration // with load
	uncached           bool
}

var _ fuse.RawFileSystem = (*handler)(nil)

func (h *handler) String() string { return "kvfs" }

// options are what is negotiated with the kernel. They are frozen for the life
// of a connection.
func (h *handler) options() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite:                 maxWrite,
		EnableAcl:                true, // and with it default_permissions
		EnableSymlinkCaching:     !h.uncached,
		ExplicitDataCacheControl: true,
		DisableReadDirPlus:       true,
		// Reads that wait for an old version would use up the few that may be under way
		// in the background, and all others would wait behind them.
		SyncRead: true,
		// Neither survives the process that asked for it.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_ALLOW_IDMAP,
	}
}

// cacheFor is how long the kernel may keep what an answer says.
func (h *handler) cacheFor() time.Duration {
	if h.uncached {
		return 0
	}
	return cacheFor
}

// id is the node a request means.
func (h *handler) id(nodeID uint64) tree.ID {
	if tree.ID(nodeID) == tree.Root {
		return h.root
	}
	return tree.ID(nodeID)
}

// node of a request. An id that nobody knows is ESTALE: the kernel then walks
// the path again by itself.
func (h *handler) node(nodeID uint64) (*tree.Node, fuse.Status) {
	n, ok := h.view.node(h.id(nodeID))
	if !ok {
		return nil, fuse.Status(syscall.ESTALE)
	}
	return n, fuse.OK
}

func (h *handler) attr(n *tree.Node, out *fuse.Attr) {
	t := uint64(max(n.Time.Unix(), 0))
	*out = fuse.Attr{
		Ino: uint64(n.ID), Nlink: 1, Mode: uint32(n.Mode()),
		Atime: t, Mtime: t, Ctime: t, Blksize: 4096,
		Owner: h.owner,
	}
	switch n.Kind {
	case tree.Dir:
		out.Mode |= syscall.S_IFDIR
		out.Nlink = 2
	case tree.File:
		out.Mode |= syscall.S_IFREG
		out.Size = uint64(n.Size)
	case tree.Link:
		out.Mode |= syscall.S_IFLNK
		out.Size = uint64(len(n.Target))
	}
	out.Blocks = (out.Size + 511) / 512
	if n.ID == h.root {
		out.Ino = uint64(tree.Root)
	}
}

func (h *handler) entry(n *tree.Node, out *fuse.EntryOut) fuse.Status {
	out.NodeId, out.Generation = uint64(n.ID), 1
	out.SetEntryTimeout(h.cacheFor())
	out.SetAttrTimeout(h.cacheFor())
	h.attr(n, &out.Attr)
	return fuse.OK
}

// Lookup never lets the kernel cache that a name is absent: the name may begin
// to exist without anybody telling it.
func (h *handler) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := h.id(in.NodeId)
	n, ok := h.view.cur.Load().Lookup(dir, name)
	if !ok {
		n, ok = h.view.temp(dir, name)
	}
	if !ok {
		if _, known := h.view.node(dir); !known {
			return fuse.Status(syscall.ESTALE)
		}
		return fuse.ENOENT
	}
	return h.entry(n, out)
}

func (h *handler) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, st := h.node(in.NodeId)
	if st.Ok() {
		out.SetTimeout(h.cacheFor())
		h.attr(n, &out.Attr)
	}
	return st
}

func (h *handler) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n, st := h.node(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	if n.Kind != tree.Link {
		return nil, fuse.EINVAL
	}
	return []byte(n.Target), fuse.OK
}

// Open, Flush and OpenDir are refused once and for all: the kernel then opens
// and closes by itself, keeps pages and listings, and sends nothing.
func (h *handler) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if h.uncached {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
		return fuse.OK
	}
	return fuse.ENOSYS
}

func (h *handler) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (h *handler) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (h *handler) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	n, st := h.node(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	if n.Kind != tree.File {
		return nil, fuse.EINVAL
	}
	if n.Away != nil {
		return nil, fuse.Status(syscall.EIO) // the loop lets such a read wait
	}
	off := min(in.Offset, uint64(n.Size))
	return fuse.ReadResultData(n.Part(int(off), int(min(uint64(in.Size), uint64(n.Size)-off)))), fuse.OK
}

// window is what a read at an offset gets.
func window(content []byte, offset uint64, size uint32) []byte {
	b := content[min(offset, uint64(len(content))):]
	return b[:min(uint64(size), uint64(len(b)))]
}

// away tells whether a READ is of a content that is not here.
func (h *handler) away(req []byte) bool {
	n, st := h.node(nodeOf(req))
	return st.Ok() && n.Away != nil
}

// fetch gets what such a READ asks for, within the handler's patience.
func (h *handler) fetch(ctx context.Context, req []byte) ([]byte, unix.Errno) {
	n, st := h.node(nodeOf(req))
	if !st.Ok() {
		return nil, unix.Errno(st)
	}
	content := n.Content()
	if n.Away != nil { // it may have come meanwhile
		if h.load == nil {
			return nil, unix.EIO
		}
		ctx, cancel := context.WithTimeout(ctx, h.patience)
		defer cancel()
		var err error
		switch content, err = h.load(ctx, n); {
		case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
			return nil, unix.ETIMEDOUT
		case errors.Is(err, os.ErrPermission):
			return nil, unix.EACCES
		case err != nil || len(content) != n.Size:
			return nil, unix.EIO
		}
	}
	offset, size := readIn(req)
	return window(content, offset, min(size, maxWrite)), 0
}

// ReadDir goes by the nodes' cookies. The offset is whatever the caller gave
// lseek: it is compared, never used as an index.
func (h *handler) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	n, st := h.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.Kind != tree.Dir {
		return fuse.ENOTDIR
	}
	for i, dot := range []string{".", ".."} {
		e := fuse.DirEntry{Name: dot, Mode: syscall.S_IFDIR, Ino: in.NodeId, Off: uint64(i + 1)}
		if in.Offset < e.Off && !list.AddDirEntry(e) {
			return fuse.OK
		}
	}
	for e := range h.view.cur.Load().Entries(n.ID, in.Offset) {
		if !list.AddDirEntry(fuse.DirEntry{Name: e.Name, Mode: typeBits(e.Kind), Ino: uint64(e.ID), Off: e.Cookie()}) {
			break
		}
	}
	return fuse.OK
}

func typeBits(k tree.Kind) uint32 {
	switch k {
	case tree.Dir:
		return syscall.S_IFDIR
	case tree.Link:
		return syscall.S_IFLNK
	}
	return syscall.S_IFREG
}

// GetXAttr must never answer ENOSYS (see the package's invariants).
func (h *handler) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	n, st := h.node(in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	if attr != acl.XAttrName {
		return 0, fuse.ENODATA
	}
	return answerXAttr(n.XAttr(), dest)
}

func answerXAttr(value, dest []byte) (uint32, fuse.Status) {
	switch {
	case value == nil:
		return 0, fuse.ENODATA
	case len(dest) < len(value):
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (h *handler) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, st := h.node(in.NodeId)
	if !st.Ok() || n.XAttr() == nil {
		return 0, st
	}
	return answerXAttr([]byte(acl.XAttrName+"\x00"), dest)
}

func (h *handler) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255, Files: uint64(h.view.cur.Load().Len())}
	return fuse.OK
}

// What follows is the publisher's. Everybody else was told EROFS by the loop, or
// is told so here.

func (h *handler) isPublisher(in *fuse.InHeader) bool {
	return in.Pid != 0 && in.Pid == h.journal.publisher.Load()
}

// repeats tells whether a request may be one that a former server has carried out and
// died before it could say so. It is answered with success if all is as it asks:
// then the kernel and the view agree again.
func (h *handler) repeats(in *fuse.InHeader) bool {
	return in.Pid != 0 && (in.Pid == h.journal.former.Load() || in.Pid == h.journal.publisher.Load())
}

func (h *handler) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if !h.isPublisher(in) {
		return fuse.EROFS
	}
	n, ok := h.view.stage(h.id(in.NodeId), name, func(c tree.Change) bool { return c.Op == tree.Move && c.New.Target == target })
	if !ok {
		return fuse.EROFS
	}
	return h.entry(n, out)
}

func (h *handler) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if !h.isPublisher(&in.InHeader) || in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EROFS
	}
	n, ok := h.view.stage(h.id(in.NodeId), name, func(c tree.Change) bool { return c.Op == tree.Replace })
	if !ok {
		return fuse.EROFS
	}
	return h.entry(n, out)
}

func (h *handler) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	dir := h.id(in.NodeId)
	switch {
	case in.NodeId != in.Newdir:
	case h.repeats(&in.InHeader) && h.view.renamed(dir, from, to):
		return fuse.OK
	case h.isPublisher(&in.InHeader) && h.view.rename(dir, from, to):
		return fuse.OK
	}
	return fuse.EROFS
}

func (h *handler) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	dir := h.id(in.NodeId)
	switch {
	case h.repeats(in) && h.view.removed(dir, name):
		return fuse.OK
	case h.isPublisher(in) && h.view.remove(dir, name):
		return fuse.OK
	}
	return fuse.EROFS
}

// Rmdir is here because go-fuse's default would answer ENOSYS.
func (h *handler) Rmdir(c <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return h.Unlink(c, in, name)
}

func (h *handler) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	list, err := acl.ParseXAttr(data)
	if attr != acl.XAttrName || err != nil {
		return fuse.EROFS
	}
	return h.setACL(&in.InHeader, list)
}

func (h *handler) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	if attr != acl.XAttrName {
		return fuse.EROFS
	}
	return h.setACL(in, acl.List{})
}

func (h *handler) setACL(in *fuse.InHeader, list acl.List) fuse.Status {
	id := h.id(in.NodeId)
	switch n, ok := h.view.cur.Load().Node(id); {
	case h.repeats(in) && ok && n.Kind == tree.File && n.ACL.Equal(list):
		return fuse.OK
	case h.isPublisher(in) && h.view.setACL(id, func(n *tree.Node) bool { return n.ACL.Equal(list) }):
		return fuse.OK
	}
	return fuse.EROFS
}
