package test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kvfs/status"
)

// BenchmarkAuditRatio is BenchmarkWarmReadRatio with every open written down, beside the
// same without an audit, a file system that is asked at each open, which it would have to
// be to see who opens, and tmpfs.
func BenchmarkAuditRatio(b *testing.B) {
	needRoot(b)
	useOptimized(b)
	s, names := plantKvfs(b, func(d document) {
		file := filepath.Join(b.TempDir(), "audit.log") // of root alone
		d["kvfs"].(map[string]any)["audit"] = map[string]any{"file": file}
	})
	plain, _ := plantKvfs(b, nil)
	tmpfs := planted{"tmpfs", mountTmpfs(b, filepath.Join(s.dir, "tmpfs")), nil}
	for _, name := range names {
		copyLinked(b, s.store, tmpfs.dir, name)
	}
	asked := planted{"fuse-open", filepath.Join(s.dir, "fuse"), nil}
	mountAsked(b, s.store, asked.dir, names)
	began := s.report().Audit
	audit := s.planted("kvfs-audit")
	compareRates(b, []planted{audit, plain.planted("kvfs"), tmpfs, asked}, names)
	tell := func(what string, before, now *status.Audit) {
		b.Logf("%s: %d opens read from the kernel, %d not written for want of room, the kernel's queue full %d times, %d processes unknown",
			what, now.Opens-before.Opens, now.Dropped-before.Dropped, now.Overflow-before.Overflow, now.Gone-before.Gone)
	}
	bursts := s.report().Audit
	tell("in bursts of 10 ms", began, bursts)

	// Without a pause: the auditor works beside the reader all the time.
	reader := visit(b, syscall.Credential{Uid: admitted, Gid: admitted}, "open")
	rates := map[string]float64{}
	for _, tree := range []planted{audit, tmpfs} {
		links := tree.links(names)
		warm(reader, links)
		done := reader.open(links, 0, time.Second)
		rates[tree.fs] = 1e9 / done.perOpen()
		b.Logf("%s: %d opens in a second without a pause", tree.fs, done.Opens)
	}
	b.ReportMetric(rates[audit.fs]/rates["tmpfs"], "kvfs-audit-sustained/tmpfs")
	tell("without a pause", bursts, s.report().Audit)
}

// mountAsked shows the same through a FUSE file system of which the kernel keeps
// everything, and that answers OPEN.
func mountAsked(b *testing.B, from, at string, links []string) {
	b.Helper()
	if err := os.Mkdir(at, 0o755); err != nil {
		b.Fatal(err)
	}
	root, always := &fusefs.Inode{}, time.Hour
	server, err := fusefs.Mount(at, root, &fusefs.Options{
		EntryTimeout: &always, AttrTimeout: &always,
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "asked", Name: "asked", EnableSymlinkCaching: true},
		OnAdd: func(ctx context.Context) {
			add := func(name string, node fusefs.InodeEmbedder, mode uint32) {
				root.AddChild(name, root.NewPersistentInode(ctx, node, fusefs.StableAttr{Mode: mode}), false)
			}
			for _, link := range links {
				target, err := os.Readlink(filepath.Join(from, link))
				if err != nil {
					b.Error(err)
				}
				add(link, &fusefs.MemSymlink{Data: []byte(target)}, unix.S_IFLNK)
				add(target, &askedFile{uncachedFile{data: readFile(b, filepath.Join(from, target))}}, unix.S_IFREG)
			}
		},
	})
	if err != nil {
		b.Fatal("mounting the file system that is asked:", err)
	}
	b.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			b.Error("unmounting the file system that is asked:", err)
		}
	})
}

// askedFile answers OPEN; the kernel keeps its content.
type askedFile struct{ uncachedFile }

var _ fusefs.NodeOpener = (*askedFile)(nil)

func (f *askedFile) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}
