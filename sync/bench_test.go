package sync

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// oneSecret answers every question with the same value.
type oneSecret struct{ secret *vault.Secret }

func (v oneSecret) Get(context.Context, vault.Identity, vault.Ref) (*vault.Secret, error) {
	return v.secret, nil
}

func (oneSecret) Versions(context.Context, vault.Identity, vault.Ref) ([]vault.VersionInfo, error) {
	return nil, nil
}

func (oneSecret) List(context.Context, vault.Identity, vault.Ref, int, func(vault.Listed)) (int, bool, error) {
	return 0, true, nil
}

// BenchmarkMemory says what a certificate costs in memory, served under the default
// names and under all, beside the bytes of its combined file, which are the least
// that there can be.
func BenchmarkMemory(b *testing.B) {
	const certificates = 2000
	for name, layouts := range map[string][]tree.Layout{
		"default": {tree.V3, tree.V4},
		"all":     {tree.V3, tree.V4, tree.Live, tree.Certs, tree.PFX, tree.JKS, tree.TrustStore, tree.X509Store},
	} {
		b.Run("layouts="+name, func(b *testing.B) {
			v := newFakeVault(nil)
			v.put(b, "any", 1, leaf{})
			set := Settings{Vault: oneSecret{v.secrets["any"]}, Interval: time.Hour}
			views := tree.Views{Layouts: layouts}
			set.Policy = func(Source) Policy { return Policy{Views: []tree.Views{views}} }
			var spec tree.Spec
			for i := range certificates {
				src := source(b, fmt.Sprint("c", i))
				set.Sources = append(set.Sources, src)
				spec.Entries = append(spec.Entries, tree.Entry{Certificate: src.Key(), Store: "/store", Vault: "contoso-web", Name: src.Ref.Name(), Linked: true, Views: views})
			}
			set.Spec = func() tree.Spec { return spec }
			for b.Loop() {
				before := liveHeap()
				p := &shelf{}
				s := New(Options{Publisher: p}, set)
				ctx, stop := context.WithCancel(b.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				<-s.Ready()
				p.snaps = p.snaps[len(p.snaps)-1:]
				used := float64(liveHeap()-before) / certificates
				text := float64(len(v.secrets["any"].Value.Reveal()))
				b.ReportMetric(used, "B/certificate")
				b.ReportMetric(used/text, "x-its-text")
				stop()
				if err := <-done; !errors.Is(err, context.Canceled) {
					b.Fatal(err)
				}
				runtime.KeepAlive(p)
			}
		})
	}
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what the first one has let finalizers free
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// manyVersions has so many versions of every secret, all of the same value.
type manyVersions struct {
	secret *vault.Secret
	n      int
}

func (v manyVersions) Get(_ context.Context, _ vault.Identity, ref vault.Ref) (*vault.Secret, error) {
	s := *v.secret
	s.Version = version(v.n)
	if ref.Pinned() {
		s.Version = ref.Version()
	}
	return &s, nil
}

func (v manyVersions) Versions(context.Context, vault.Identity, vault.Ref) (list []vault.VersionInfo, err error) {
	for n := v.n; n > 0; n-- {
		list = append(list, vault.VersionInfo{Version: version(n), Enabled: true, Created: v.secret.Created})
	}
	return list, nil
}

func (manyVersions) List(context.Context, vault.Identity, vault.Ref, int, func(vault.Listed)) (int, bool, error) {
	return 0, true, nil
}

// BenchmarkOldVersions says what the old versions of a certificate cost in memory: the
// bytes that are held of them beside the limit, and what is left of each when its
// bytes are not, which no limit bounds.
func BenchmarkOldVersions(b *testing.B) {
	const certificates, versions = 100, 50
	for _, limit := range []int64{0, 1 << 20, 32 << 20} {
		b.Run(fmt.Sprintf("limit=%dMiB", limit>>20), func(b *testing.B) {
			v := newFakeVault(nil)
			v.put(b, "any", 1, leaf{})
			set := Settings{Vault: manyVersions{v.secrets["any"], versions}, Interval: time.Hour, Keep: KeepAll, OldVersions: limit}
			views := tree.Views{Layouts: []tree.Layout{tree.V3, tree.V4}}
			set.Policy = func(Source) Policy { return Policy{Views: []tree.Views{views}} }
			var spec tree.Spec
			for i := range certificates {
				src := source(b, fmt.Sprint("c", i))
				set.Sources = append(set.Sources, src)
				spec.Entries = append(spec.Entries, tree.Entry{Certificate: src.Key(), Store: "/store", Vault: "contoso-web", Name: src.Ref.Name(), Linked: true, Views: views})
			}
			set.Spec = func() tree.Spec { return spec }
			for b.Loop() {
				before := liveHeap()
				p := &lastShelf{want: 3*certificates*versions + 4*certificates + 2, done: make(chan struct{})}
				s := New(Options{Publisher: p}, set)
				ctx, stop := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Run(ctx) }()
				<-p.done
				c := s.Report().Cache
				used := liveHeap() - before - c.Bytes
				b.ReportMetric(float64(c.Bytes), "B-held")
				b.ReportMetric(float64(limit), "B-limit")
				b.ReportMetric(float64(c.Values), "versions-held")
				b.ReportMetric(float64(used)/(certificates*versions), "B-else/version")
				stop()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					b.Fatal(err)
				}
				runtime.KeepAlive(p)
			}
		})
	}
}

// lastShelf keeps what was published last, and tells when that has so many nodes.
type lastShelf struct {
	last *tree.Snapshot
	want int
	done chan struct{}
}

func (p *lastShelf) Publish(_ context.Context, s *tree.Snapshot, _ ...image.Change) error {
	if before := p.last; (before == nil || before.Len() < p.want) && s.Len() >= p.want {
		defer close(p.done)
	}
	p.last = s
	return nil
}
