package test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kvfs/emulator"
)

// remote is a file system like one over the network: while its server is away, nothing of it can be looked up, looked at or
// opened.
type remote struct {
	mu   sync.Mutex
	away chan struct{} // closed when the server is back; nil: it is there
}

func (r *remote) wait() {
	r.mu.Lock()
	away := r.away
	r.mu.Unlock()
	if away != nil {
		<-away
	}
}

func (r *remote) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = make(chan struct{})
}

func (r *remote) come() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		close(r.away)
		r.away = nil
	}
}

type remoteNode struct {
	*fusefs.LoopbackNode
	remote *remote
}

var (
	_ fusefs.NodeLookuper    = remoteNode{}
	_ fusefs.NodeGetattrer   = remoteNode{}
	_ fusefs.NodeOpener      = remoteNode{}
	_ fusefs.NodeWrapChilder = remoteNode{}
)

func (n remoteNode) WrapChild(_ context.Context, child fusefs.InodeEmbedder) fusefs.InodeEmbedder {
	return remoteNode{child.(*fusefs.LoopbackNode), n.remote}
}

func (n remoteNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	n.remote.wait()
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n remoteNode) Getattr(ctx context.Context, f fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.remote.wait()
	return n.LoopbackNode.Getattr(ctx, f, out)
}

func (n remoteNode) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	n.remote.wait()
	return n.LoopbackNode.Open(ctx, flags)
}

// mountRemote mounts at a directory what another one has.
func mountRemote(t *testing.T, at, of string) *remote {
	t.Helper()
	for _, dir := range []string{at, of} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(of, &st); err != nil {
		t.Fatal(err)
	}
	r := &remote{}
	root := &fusefs.LoopbackRoot{Path: of, Dev: st.Dev}
	node := remoteNode{&fusefs.LoopbackNode{RootData: root}, r}
	root.RootNode = node
	var never time.Duration
	server, err := fusefs.Mount(at, node, &fusefs.Options{AttrTimeout: &never, EntryTimeout: &never,
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "remote"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.come()
		_ = unix.Unmount(at, unix.MNT_DETACH)
		server.Wait()
	})
	return r
}

// Real files over a network that fails hold up neither the settings, nor a server that takes over, nor what is mounted
// elsewhere, and follow when it is back.
func TestFilesOverANetworkThatFailsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "www"}, emulator.Profile{Name: "api"})
	files, beneath := filepath.Join(s.dir, "files"), filepath.Join(s.dir, "beneath")
	network := mountRemote(t, files, beneath)
	t.Cleanup(network.come) // before kvfs is ended
	s.configure(func(d document) {
		d.own()["stores"] = map[string]any{files: map[string]any{"persistent": "instead"}}
		d.entry("api")["certificateStoreLocation"] = files
	})
	s.mount()
	followed := func() bool {
		target, err := os.Readlink(filepath.Join(beneath, "contoso-web.api"))
		return err == nil && target == "contoso-web.api."+s.certificate("api").Version
	}
	s.until("the files are there", followed)
	network.leave()
	if v := s.rotate("www"); s.leads("contoso-web.www") != v {
		t.Error("what is mounted is not renewed")
	}
	s.rotate("api")
	s.must("refresh", "--settings")
	s.another(s.kill(syscall.SIGKILL))
	if v := s.rotate("www"); s.leads("contoso-web.www") != v {
		t.Error("what is mounted is not renewed by another server")
	}
	s.must("refresh", "--settings")
	if all := s.report().Directories; len(all) != 1 || all[0].Path != files || all[0].Error == nil {
		t.Errorf("the report has %+v", all)
	}
	network.come()
	s.until("the files follow", func() bool { return followed() && s.report().Directories[0].Error == nil })
}
