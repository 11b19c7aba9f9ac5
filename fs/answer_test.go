package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kvfs/acl"
	"kvfs/image"
	"kvfs/tree"
)

// request in the form of the kernel: a header of 40 bytes and a body.
func request(op uint32, node tree.ID, thread uint32, body string) []byte {
	b := make([]byte, inHeaderSize, inHeaderSize+len(body))
	binary.LittleEndian.PutUint32(b[4:], op)
	binary.LittleEndian.PutUint64(b[8:], 7) // the request's number
	binary.LittleEndian.PutUint64(b[16:], uint64(node))
	binary.LittleEndian.PutUint32(b[32:], thread)
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

const publisherThread = 4711

// answering is a server without a kernel, over a store with one certificate.
func answering(t testing.TB) (s *server, store, file *tree.Node) {
	t.Helper()
	v := newTestView(t)
	if err := errors.Join(v.reset(site(t, "/store", acl.NewList([]uint32{33}, nil), newVersion(t, 1))), v.persist()); err != nil {
		t.Fatal(err)
	}
	j, err := newJournal()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.close)
	j.publisher.Store(publisherThread)
	h := &handler{RawFileSystem: fuse.NewDefaultRawFileSystem(), view: v, journal: j, root: tree.Root, patience: time.Second}
	store, _ = v.cur.Load().Lookup(tree.Root, tree.StoreDir("/store"))
	link, _ := v.cur.Load().Lookup(store.ID, "site")
	file, _ = v.cur.Load().Lookup(store.ID, link.Target)
	return newServer(-1, h, j, RecoverBoth, slog.New(slog.DiscardHandler)), store, file
}

// newTestView shows nothing, with an image of its own.
func newTestView(t testing.TB) *view {
	t.Helper()
	kept, err := image.New(image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	return newView(1<<20, kept)
}

// begin starts a plan that must be possible.
func begin(t testing.TB, v *view, plan []tree.Change) []tree.Change {
	t.Helper()
	steps, err := v.begin(plan, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func errnoOf(reply []byte) syscall.Errno {
	return syscall.Errno(-int32(binary.LittleEndian.Uint32(reply[4:])))
}

func zeros(n int) string { return string(make([]byte, n)) }

func TestEveryChangeOfAStrangerIsRefused(t *testing.T) {
	s, store, file := answering(t)
	temp := tempName(file.ID)
	planned := plannedRequests(t, s, store, 1)
	was := s.handler.view.cur.Load()
	for name, req := range planned {
		if got := errnoOf(s.answer(req, make([]byte, replySize))); got != syscall.EROFS {
			t.Errorf("%s, as in the plan, from a stranger: %v, want EROFS", name, got)
		}
	}
	if s.handler.view.cur.Load() != was {
		t.Error("a stranger has published")
	}
	for _, name := range []string{"symlink", "rename"} { // and so it was not the requests that were wrong
		req := bytes.Clone(planned[name])
		binary.LittleEndian.PutUint32(req[32:], publisherThread)
		if got := errnoOf(s.answer(req, make([]byte, replySize))); got != 0 {
			t.Errorf("%s from the publisher: %v", name, got)
		}
	}
	s.handler.view.end()
	for name, req := range map[string][]byte{
		"setattr":   request(opSetattr, file.ID, publisherThread, zeros(88)),
		"mkdir":     request(opMkdir, store.ID, publisherThread, zeros(8)+"d\x00"),
		"link":      request(opLink, store.ID, publisherThread, zeros(8)+"l\x00"),
		"write":     request(opWrite, file.ID, publisherThread, zeros(40)),
		"create":    request(opCreate, store.ID, publisherThread, zeros(16)+"f\x00"),
		"rename2":   request(opRename2, store.ID, publisherThread, zeros(16)+"a\x00b\x00"),
		"tmpfile":   request(opTmpfile, store.ID, publisherThread, zeros(16)),
		"symlink":   request(opSymlink, store.ID, 1, temp+"\x00target\x00"),
		"mknod":     request(opMknod, store.ID, 1, zeros(16)+temp+"\x00"),
		"rename":    request(opRename, store.ID, 1, zeros(8)+temp+"\x00site\x00"),
		"unlink":    request(opUnlink, store.ID, 1, "site\x00"),
		"rmdir":     request(opRmdir, tree.Root, 1, store.Name+"\x00"),
		"setxattr":  request(opSetxattr, file.ID, 1, zeros(8)+acl.XAttrName+"\x00"),
		"remxattr":  request(opRemovexattr, file.ID, 1, acl.XAttrName+"\x00"),
		"fallocate": request(opFallocate, file.ID, publisherThread, zeros(32)),
		"copy":      request(opCopyRange, file.ID, publisherThread, zeros(56)),
		// And what the publisher may do only if it is in the plan.
		"unplanned unlink":  request(opUnlink, store.ID, publisherThread, "site\x00"),
		"unplanned symlink": request(opSymlink, store.ID, publisherThread, temp+"\x00target\x00"),
		"unplanned rename":  request(opRename, store.ID, publisherThread, zeros(8)+temp+"\x00site\x00"),
	} {
		if got := errnoOf(s.answer(req, make([]byte, replySize))); got != syscall.EROFS {
			t.Errorf("%s: %v, want EROFS", name, got)
		}
	}
}

// plannedRequests begins the plan of a renewal with another access list and makes
// the requests that carry it out, as from a thread.
func plannedRequests(t testing.TB, s *server, store *tree.Node, thread uint32) map[string][]byte {
	t.Helper()
	v := s.handler.view
	next := site(t, "/store", acl.NewList([]uint32{34}, nil), newVersion(t, 2), newVersion(t, 1))
	reqs := map[string][]byte{}
	for _, c := range begin(t, v, tree.Diff(v.cur.Load(), next)) {
		n := c.Node()
		temp := tempName(n.ID)
		switch {
		case n.Name == "site":
			reqs["symlink"] = request(opSymlink, store.ID, thread, temp+"\x00"+n.Target+"\x00")
			reqs["rename"] = request(opRename, store.ID, thread, idBody(store.ID)+temp+"\x00site\x00")
		case c.Op == tree.Replace:
			mode := string(binary.LittleEndian.AppendUint32(nil, syscall.S_IFREG|0o644))
			reqs["mknod"] = request(opMknod, store.ID, thread, mode+zeros(12)+temp+"\x00")
		case c.Op == tree.SetACL:
			value := n.XAttr()
			size := string(binary.LittleEndian.AppendUint32(nil, uint32(len(value))))
			reqs["setxattr"] = request(opSetxattr, n.ID, thread, size+zeros(4)+acl.XAttrName+"\x00"+string(value))
		}
	}
	if len(reqs) != 4 {
		t.Fatalf("the plan has only %d of the requests", len(reqs))
	}
	return reqs
}

func TestUnknownNodeIsStale(t *testing.T) {
	s, _, _ := answering(t)
	for op, body := range map[uint32]string{opLookup: "x\x00", 3: zeros(16), 5: "", 15: zeros(40), 22: zeros(8) + acl.XAttrName + "\x00", 28: zeros(40)} {
		if got := errnoOf(s.answer(request(op, 0xdead, 1, body), make([]byte, replySize))); got != syscall.ESTALE {
			t.Errorf("operation %d on an unknown node: %v, want ESTALE", op, got)
		}
	}
}

func TestPanicIsAnsweredAndCounted(t *testing.T) {
	s, _, file := answering(t)
	s.handler.view.cur.Store(nil) // a fault that has no other way in
	if got := errnoOf(s.answer(request(3, file.ID, 1, zeros(16)), make([]byte, replySize))); got != syscall.EIO {
		t.Errorf("%v, want EIO", got)
	}
	if n := s.panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

// A name moves in the handler of the publisher's request and not before, and the
// request may come twice.
func TestNamesMoveOnlyWithThePublishersRequest(t *testing.T) {
	s, store, _ := answering(t)
	v := s.handler.view
	v1, v2 := v.cur.Load(), site(t, "/store", acl.NewList([]uint32{33}, nil), newVersion(t, 2))
	steps := begin(t, v, tree.Diff(v1, v2))
	target := func() string {
		n, _ := v.cur.Load().Lookup(store.ID, "site")
		return n.Target
	}
	old := target()
	for _, c := range steps {
		if c.Node().Name != "site" {
			continue
		}
		do := func(want syscall.Errno, op uint32, body string) {
			t.Helper()
			if got := errnoOf(s.answer(request(op, store.ID, publisherThread, body), make([]byte, replySize))); got != want {
				t.Errorf("operation %d: %v, want %v", op, got, want)
			}
		}
		temp := tempName(c.New.ID)
		do(syscall.ENOENT, opLookup, temp+"\x00")
		do(syscall.EROFS, opSymlink, temp+"\x00elsewhere\x00") // another target than planned
		do(0, opSymlink, temp+"\x00"+c.New.Target+"\x00")
		do(0, opLookup, temp+"\x00")
		if target() != old {
			t.Fatal("moved by the symlink")
		}
		do(syscall.EROFS, opRename, idBody(store.ID)+temp+"\x00contoso-web.www\x00") // another name than planned
		for range 2 {
			do(0, opRename, idBody(store.ID)+temp+"\x00site\x00")
			if target() != c.New.Target {
				t.Fatal("not moved by the rename")
			}
		}
		do(syscall.ENOENT, opLookup, temp+"\x00")
	}
	if target() == old {
		t.Error("the plan had no step for the link")
	}
}

func idBody(id tree.ID) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(id)))
}

// Two experiments that fail with files whose bytes change under their node:
// reading one descriptor across a renewal, and reading with the size of before.
func TestBytesUnderANodeNeverChange(t *testing.T) {
	s, _, file := answering(t)
	v := s.handler.view
	read := func(offset uint64) []byte {
		body := zeros(8) + string(binary.LittleEndian.AppendUint64(nil, offset)) + string(binary.LittleEndian.AppendUint32(nil, 4096)) + zeros(20)
		reply := s.answer(request(15, file.ID, 1, body), make([]byte, replySize))
		if e := errnoOf(reply); e != 0 {
			t.Fatal(e)
		}
		return bytes.Clone(reply[outHeaderSize:])
	}
	before := read(0)
	half := uint64(len(before) / 2)
	got := read(0)[:half]
	for n := 2; n < 6; n++ { // the file loses its name on the way
		plan := tree.Diff(v.cur.Load(), site(t, "/store", acl.List{}, newVersion(t, n)))
		for _, c := range begin(t, v, plan) {
			v.mu.Lock()
			if !v.apply(c) {
				t.Error("a step was not applied")
			}
			v.mu.Unlock()
		}
		v.end()
	}
	if got = append(got, read(half)...); !bytes.Equal(got, before) {
		t.Error("a renewal between two reads of one file mixed two versions")
	}
	if !bytes.Equal(read(0), file.Content()) {
		t.Error("the node has other bytes now")
	}
}

func TestRemovedFilesAreForgottenOldestFirst(t *testing.T) {
	r := newRetired(2*(4+nodeCost) + 1)
	for id := tree.ID(2); id < 6; id++ {
		r.add(&tree.Node{ID: id, Kind: tree.File, Size: 4, Blob: tree.NewBlob(make([]byte, 4))})
	}
	for id, want := range map[tree.ID]bool{2: false, 3: false, 4: true, 5: true} {
		if _, ok := r.get(id); ok != want {
			t.Errorf("node %d is there: %t", id, ok)
		}
	}
	if r.bytes != 2*(4+nodeCost) {
		t.Errorf("%d bytes counted, want %d", r.bytes, 2*(4+nodeCost))
	}
}

// Whatever the kernel, or somebody who plays the kernel, sends: one well-formed
// reply or none, no panic, and no change of what is published.
func FuzzAnswer(f *testing.F) {
	s, store, file := answering(f)
	f.Add(request(opLookup, tree.Root, 1, store.Name+"\x00"))
	f.Add(request(opLookup, store.ID, 1, "site\x00"))
	f.Add(request(3, file.ID, 1, zeros(16)))
	f.Add(request(5, file.ID, 1, ""))
	f.Add(request(opSymlink, store.ID, publisherThread, tempName(3)+"\x00x\x00"))
	f.Add(request(opRename, store.ID, publisherThread, idBody(store.ID)+tempName(3)+"\x00site\x00"))
	f.Add(request(15, file.ID, 1, zeros(16)+"\x00\x10"+zeros(22)))
	f.Add(request(22, file.ID, 1, zeros(8)+acl.XAttrName+"\x00"))
	f.Add(request(opSetxattr, file.ID, publisherThread, "\x04"+zeros(7)+acl.XAttrName+"\x00\x02\x00\x00\x00"))
	f.Add(request(28, store.ID, 1, zeros(8)+"\xff\xff\xff\xff\xff\xff\xff\xff\x00\x10"+zeros(22)))
	f.Add(request(opInit, 0, 1, "\x07\x00\x00\x00\x2d"+zeros(59)))
	f.Add(request(opBatchForget, 0, 1, "\x01"+zeros(31)))
	const stranger = 1 // a plan is under way, and others guess at it
	for _, req := range plannedRequests(f, s, store, stranger) {
		f.Add(req)
	}
	out := make([]byte, replySize)
	was := s.handler.view.cur.Load()
	f.Fuzz(func(t *testing.T, req []byte) {
		if len(req) < inHeaderSize || len(req) > requestSize {
			return
		}
		binary.LittleEndian.PutUint32(req, uint32(len(req))) // as read(2) guarantees
		if binary.LittleEndian.Uint32(req[32:]) == publisherThread {
			binary.LittleEndian.PutUint32(req[32:], stranger)
		}
		reply := s.answer(req, out)
		if n := s.panics.Load(); n > 0 {
			t.Fatal("panic")
		}
		if s.handler.view.cur.Load() != was {
			t.Fatal("something was published")
		}
		if takesNoReply(opcode(req)) {
			if reply != nil {
				t.Fatal("a reply to a request that takes none")
			}
			return
		}
		if len(reply) < outHeaderSize || int(binary.LittleEndian.Uint32(reply)) != len(reply) || !bytes.Equal(reply[8:16], req[8:16]) {
			t.Fatalf("operation %d: reply %.40x", opcode(req), reply)
		}
		if e := int32(binary.LittleEndian.Uint32(reply[4:])); e > 0 || e < -4095 {
			t.Fatalf("operation %d: error %d", opcode(req), e)
		}
	})
}

func TestMountinfoIsParsed(t *testing.T) {
	for line, want := range map[string]string{
		`36 35 98:0 /3f0c /mnt/with\040space ro,noatime shared:1 master:2 - fuse.kvfs kvfs.service rw,user_id=0`: "/mnt/with space fuse.kvfs kvfs.service",
		`36 35 98:0 / / rw - ext4 /dev/sda1 rw`: "/ ext4 /dev/sda1",
		`36 35 98:0 / /x rw`:                    "",
		``:                                      "",
	} {
		m, ok := parseMount(line)
		if got := m.at + " " + m.kind + " " + m.source; ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q %t, want %q", line, got, ok, want)
		}
	}
}

func TestTempNames(t *testing.T) {
	if id, ok := parseTemp(tempName(0xabc)); !ok || id != 0xabc {
		t.Errorf("%x %t", id, ok)
	}
	for _, name := range []string{"", "site", ".0123456789abcdef", ".0123456789abcdeg~", "x0123456789abcdef~", ".0123456789abcdef~~"} {
		if id, ok := parseTemp(name); ok {
			t.Errorf("%q is taken for %x", name, id)
		}
	}
}

// What reserve makes room for is enough for whatever a plan enters, also when the
// files that it retires push others out.
func TestReserveIsEnough(t *testing.T) {
	v := newTestView(t)
	v.retired.limit = 9000
	if err := v.persist(); err != nil {
		t.Fatal(err)
	}
	for n := range 150 {
		versions := []*tree.Version{newVersion(t, n%7), newVersion(t, (n+3)%7)}
		next := site(t, "/store", acl.NewList([]uint32{uint32(n % 3)}, nil), versions[:1+n%2]...)
		for _, c := range begin(t, v, tree.Diff(v.cur.Load(), next)) {
			v.mu.Lock()
			if !v.apply(c) {
				t.Fatalf("plan %d: no room for %v %s", n, c.Op, c.Node().Name)
			}
			v.mu.Unlock()
		}
		v.end()
		if plan := tree.Diff(v.cur.Load(), next); plan != nil {
			t.Fatal("not what was planned:", plan[0].Op, plan[0].Node().Name)
		}
	}
	again := newView(9000, v.image)
	if err := again.restore(); err != nil {
		t.Fatal(err)
	}
	if plan := tree.Diff(v.cur.Load(), again.cur.Load()); plan != nil {
		t.Error("a successor sees something else:", plan[0].Op, plan[0].Node().Name)
	}
	if !maps.Equal(v.refs, again.refs) {
		t.Errorf("%d texts are counted, and %d by a successor", len(v.refs), len(again.refs))
	}
}
