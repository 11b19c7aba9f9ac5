package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kvfs/emulator"
	"kvfs/status"
)

// How many certificates the benchmarks read, each in a file of about 6 KB.
const benchCertificates = 100

// planted is the same files and links, with the same names and access lists, on
// one file system.
type planted struct {
	fs  string
	dir string
	// requests that its server has answered, by kind; nil if it does not count.
	requests func() map[string]uint64
}

// BenchmarkWarmRead is open, read and close through a link by a user whom an
// access list admits, in a process of that user. Times are taken in there.
//
// A request now and then is the kernel's, which drops pages as it likes.
func BenchmarkWarmRead(b *testing.B) {
	needRoot(b)
	trees, names := plantAll(b)
	reader := visit(b, syscall.Credential{Uid: admitted, Gid: admitted}, "open")
	for _, tree := range trees {
		links := tree.links(names)
		warm(reader, links)
		b.Run("fs="+tree.fs, func(b *testing.B) {
			sent := tree.count()
			done := reader.open(links, b.N, 0)
			b.ReportMetric(done.perOpen(), "ns/op")
			b.ReportMetric(1e9/done.perOpen(), "opens/s")
			if tree.requests != nil {
				b.ReportMetric(float64(sum(sent()))/float64(b.N), "requests/op")
			}
		})
	}
}

// BenchmarkWarmReadRatio reads for a moment on each file system in turn, again
// and again, so that what else the machine does falls on all alike, and prints
// the medians of the rounds.
func BenchmarkWarmReadRatio(b *testing.B) {
	needRoot(b)
	trees, names := plantAll(b)
	compareRates(b, trees, names)
}

// compareRates is about the first of the trees, and needs tmpfs among them.
func compareRates(b *testing.B, trees []planted, names []string) {
	b.Helper()
	reader := visit(b, syscall.Credential{Uid: admitted, Gid: admitted}, "open")
	links := map[string][]string{}
	for _, tree := range trees {
		links[tree.fs] = tree.links(names)
		warm(reader, links[tree.fs])
	}
	sent, opens := trees[0].count(), 0
	rates, ratios := map[string][]float64{}, map[string][]float64{}
	for rounds := 0; b.Loop(); rounds++ {
		rate := map[string]float64{}
		for i := range trees {
			fs := trees[(rounds+i)%len(trees)].fs           // nobody is always behind the slowest
			before := reader.open(links[fs], len(names), 0) // into the processor's caches
			done := reader.open(links[fs], 0, 10*time.Millisecond)
			rate[fs] = 1e9 / done.perOpen()
			if fs == trees[0].fs {
				opens += before.Opens + done.Opens
			}
		}
		for fs, r := range rate {
			rates[fs] = append(rates[fs], r)
			ratios[fs] = append(ratios[fs], r/rate["tmpfs"])
		}
	}
	b.ReportMetric(0, "ns/op") // a round is no operation

	table := new(strings.Builder)
	fmt.Fprintf(table, "open+read+close through a link, medians\n%-16s %10s %10s\n", "", "opens/s", "of tmpfs")
	for _, tree := range trees {
		ratio := median(ratios[tree.fs])
		fmt.Fprintf(table, "%-16s %10.0f %10.3f\n", tree.fs, median(rates[tree.fs]), ratio)
		if tree.fs != "tmpfs" {
			b.ReportMetric(ratio, tree.fs+"/tmpfs")
		}
	}
	requests := sent()
	fmt.Fprintf(table, "requests to kvfs in %d opens: %d", opens, sum(requests))
	for _, kind := range slices.Sorted(maps.Keys(requests)) {
		fmt.Fprintf(table, ", %s %d", kind, requests[kind])
	}
	b.Log(table)
}

// count returns a function that says what was sent since.
func (p planted) count() func() map[string]uint64 {
	if p.requests == nil {
		return nil
	}
	before := p.requests()
	return func() map[string]uint64 {
		since := map[string]uint64{}
		for kind, n := range p.requests() {
			if n > before[kind] {
				since[kind] = n - before[kind]
			}
		}
		return since
	}
}

func sum(counts map[string]uint64) (all uint64) {
	for _, n := range counts {
		all += n
	}
	return all
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// plantAll makes a kvfs and copies what it shows to the other file systems. names
// are the links.
func plantAll(b *testing.B) (trees []planted, names []string) {
	b.Helper()
	useOptimized(b)
	s, names := plantKvfs(b, nil)
	kvfs := s.planted("kvfs")
	tmpfs := planted{"tmpfs", mountTmpfs(b, filepath.Join(s.dir, "tmpfs")), nil}
	disk := planted{fileSystem(b, s.dir), filepath.Join(s.dir, "disk"), nil}
	if err := os.Mkdir(disk.dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for _, tree := range []planted{tmpfs, disk} {
		for _, name := range names {
			copyLinked(b, s.store, tree.dir, name)
		}
	}
	uncached := planted{"fuse-uncached", filepath.Join(s.dir, "fuse"), nil}
	mountUncached(b, s.store, uncached.dir, names)
	return []planted{kvfs, tmpfs, disk, uncached}, names
}

// planted is what a site serves.
func (s *site) planted(name string) planted {
	return planted{name, s.store, func() map[string]uint64 { return s.report().Requests }}
}

// plantKvfs serves what the benchmarks read. names are the links.
func plantKvfs(b *testing.B, edit func(document)) (s *site, names []string) {
	b.Helper()
	s = newSite(b)
	var profiles []emulator.Profile
	for i := range benchCertificates {
		name := fmt.Sprintf("cert-%03d", i)
		profiles = append(profiles, manyNames(name))
		names = append(names, "contoso-web."+name)
	}
	if err := s.vault.AddCertificates(profiles...); err != nil {
		b.Fatal(err)
	}
	s.configure(func(d document) {
		d.secrets()["pollingIntervalInS"] = "3600" // polls are not what is measured
		for _, p := range profiles {
			d.entry(p.Name)["acls"] = []any{map[string]any{"user": admitted}}
		}
		if edit != nil {
			edit(d)
		}
	})
	s.mount()
	return s, names
}

// useOptimized builds kvfs as users have it, and serves with that instead of the
// one with the race detector.
func useOptimized(b *testing.B) {
	b.Helper()
	with, without := kvfsPath, filepath.Join(b.TempDir(), "kvfs")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", without, "kvfs/cmd/kvfs").CombinedOutput(); err != nil {
		b.Fatalf("building kvfs: %v\n%s", err, out)
	}
	kvfsPath = without
	b.Cleanup(func() { kvfsPath = with })
}

// manyNames is a certificate for so many hosts that the combined file has about
// 6 KB, with keys that are made at once.
func manyNames(name string) emulator.Profile {
	p := emulator.Profile{Name: name, Key: emulator.EC256}
	for i := range 90 {
		p.DNSNames = append(p.DNSNames, fmt.Sprintf("host-%02d.%s.example.com", i, name))
	}
	return p
}

func (p planted) links(names []string) (paths []string) {
	for _, name := range names {
		paths = append(paths, filepath.Join(p.dir, name))
	}
	return paths
}

// copyLinked makes the same link to the same file with the same access list.
func copyLinked(b *testing.B, from, to, link string) {
	b.Helper()
	target, err := os.Readlink(filepath.Join(from, link))
	if err != nil {
		b.Fatal(err)
	}
	data := readFile(b, filepath.Join(from, target))
	if len(data) < 5500 || len(data) > 6500 {
		b.Fatalf("the file has %d bytes, want about 6 KB", len(data))
	}
	const list = "system.posix_acl_access"
	value := make([]byte, 4096)
	n, err := unix.Getxattr(filepath.Join(from, target), list, value)
	if err != nil {
		b.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(to, target), data, 0o600),
		unix.Setxattr(filepath.Join(to, target), list, value[:n], 0),
		os.Symlink(target, filepath.Join(to, link)))
	if err != nil {
		b.Fatalf("copying %s to %s: %v", target, to, err)
	}
}

func mountTmpfs(t testing.TB, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
		t.Fatal("mounting a tmpfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error("unmounting the tmpfs:", err)
		}
	})
	return dir
}

// fileSystem names what a directory is on.
func fileSystem(t testing.TB, dir string) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.TMPFS_MAGIC: "tmpfs-of-temp"}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("disk-%#x", st.Type)
}

// mountUncached shows the same through a FUSE file system that lets the kernel
// keep nothing: what one has to do whose files change under their names.
func mountUncached(b *testing.B, from, at string, links []string) {
	b.Helper()
	if err := os.Mkdir(at, 0o755); err != nil {
		b.Fatal(err)
	}
	root, never := &fusefs.Inode{}, time.Duration(0)
	server, err := fusefs.Mount(at, root, &fusefs.Options{
		EntryTimeout: &never, AttrTimeout: &never,
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "uncached", Name: "uncached"},
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
				add(target, &uncachedFile{data: readFile(b, filepath.Join(from, target))}, unix.S_IFREG)
			}
		},
	})
	if err != nil {
		b.Fatal("mounting the uncached file system:", err)
	}
	b.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			b.Error("unmounting the uncached file system:", err)
		}
	})
}

// uncachedFile is read from its server each time.
type uncachedFile struct {
	fusefs.Inode
	data []byte
}

var (
	_ fusefs.NodeOpener    = (*uncachedFile)(nil)
	_ fusefs.NodeReader    = (*uncachedFile)(nil)
	_ fusefs.NodeGetattrer = (*uncachedFile)(nil)
)

func (f *uncachedFile) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *uncachedFile) Read(_ context.Context, _ fusefs.FileHandle, into []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	rest := f.data[min(offset, int64(len(f.data))):]
	return fuse.ReadResultData(rest[:min(len(into), len(rest))]), 0
}

func (f *uncachedFile) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o644, uint64(len(f.data))
	return 0
}

// openRequest asks a reader to open, read and close one of the links after the
// other, so many times or, if that is 0, for so long.
type openRequest struct {
	Links []string
	Opens int
	For   time.Duration
}

// opened is what it did.
type opened struct {
	Opens int
	Took  time.Duration
}

func (o opened) perOpen() float64 { return float64(o.Took.Nanoseconds()) / float64(o.Opens) }

func (v *visitor) open(links []string, opens int, d time.Duration) (done opened) {
	v.t.Helper()
	v.tell(openRequest{links, opens, d})
	v.hear(&done)
	return done
}

// warm makes the kernel know everything about the files: the first READ makes
// the access time stale, so the second open asks for the attributes, which makes
// the kernel forget the access list, so the third asks for that.
func warm(reader *visitor, links []string) {
	reader.t.Helper()
	reader.open(links, 3*len(links), 0)
}

// openOnRequest is the reader's side: nothing but three system calls between one
// look at the clock and the next.
func openOnRequest(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	into := make([]byte, 16<<10)
	for {
		var r openRequest
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		paths := make([]*byte, len(r.Links))
		for i, link := range r.Links {
			path, err := unix.BytePtrFromString(link)
			if err != nil {
				return err
			}
			paths[i] = path
		}
		done := opened{}
		for began := time.Now(); done.Opens < r.Opens || done.Took < r.For; done.Took = time.Since(began) {
			if err := openOnce(paths[done.Opens%len(paths)], into); err != nil {
				return fmt.Errorf("%s: %w", r.Links[done.Opens%len(paths)], err)
			}
			done.Opens++
		}
		if err := answers.Encode(done); err != nil {
			return err
		}
	}
}

func openOnce(path *byte, into []byte) error {
	at := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("open: %w", errno)
	}
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&into[0])), uintptr(len(into)))
	if errno != 0 || n < 5500 {
		return fmt.Errorf("read: %d bytes, %w", n, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0); errno != 0 {
		return fmt.Errorf("close: %w", errno)
	}
	return nil
}

// BenchmarkRenewal is from the wish to see whether a certificate was renewed to
// the event that its link has moved: the vault is asked, the answer checked, the
// tree built and the link renamed. Beside it what a program does that writes
// files: a new one, renamed over the old one, on tmpfs and without asking anybody.
func BenchmarkRenewal(b *testing.B) {
	needRoot(b)
	b.Run("fs=kvfs", func(b *testing.B) {
		useOptimized(b)
		s := newSite(b, manyNames("www"))
		s.mount()
		took := s.renewals(b, "www")
		reportTimes(b, took)
	})
	b.Run("fs=tmpfs", func(b *testing.B) {
		dir := mountTmpfs(b, filepath.Join(b.TempDir(), "tmpfs"))
		temp, name, data := filepath.Join(dir, "temp"), filepath.Join(dir, "www"), make([]byte, 6000)
		watch := watchDirectory(b, dir)
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			if err := errors.Join(os.WriteFile(temp, data, 0o600), os.Rename(temp, name)); err != nil {
				b.Fatal(err)
			}
			watch.await("www")
			took = append(took, time.Since(began))
		}
		reportTimes(b, took)
	})
}

// renewals renews a certificate again and again, and says how long each took from the
// request for a poll to where the link has moved.
func (s *site) renewals(b *testing.B, name string) (took []time.Duration) {
	b.Helper()
	control, watch := status.NewClient(s.socket), watchDirectory(b, s.store)
	for b.Loop() {
		if _, err := s.vault.Rotate("", name); err != nil {
			b.Fatal(err)
		}
		refreshed := make(chan error, 1)
		began := time.Now()
		go func() {
			_, err := control.Refresh(b.Context(), []string{name})
			refreshed <- err
		}()
		watch.await("contoso-web." + name)
		took = append(took, time.Since(began))
		if err := <-refreshed; err != nil {
			b.Fatal(err)
		}
	}
	return took
}

// reportTimes replaces the time of the loop, in which more is done than is
// measured.
func reportTimes(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	b.ReportMetric(float64(sum.Nanoseconds())/float64(len(took)), "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
