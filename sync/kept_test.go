package sync

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// remembering is a shelf that enters what belongs to a publication into an image, as
// the file system does, and finds the texts of what it shows.
type remembering struct {
	shelf
	image *image.Image
	blobs map[[32]byte]*tree.Blob
}

func newRemembering(t *testing.T) *remembering {
	t.Helper()
	kept, err := image.New(image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	return &remembering{image: kept, blobs: map[[32]byte]*tree.Blob{}}
}

func (p *remembering) Publish(ctx context.Context, s *tree.Snapshot, beside ...image.Change) error {
	if err := errors.Join(p.image.Reserve(beside...), p.image.Put(beside...)); err != nil {
		return err
	}
	blobs := map[[32]byte]*tree.Blob{}
	for n := range s.Nodes() {
		if n.Blob != nil {
			blobs[n.Blob.Sum] = n.Blob
		}
	}
	p.blobs = blobs
	return p.shelf.Publish(ctx, s)
}

// last is what was published last.
func (p *remembering) last() *tree.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.snaps[len(p.snaps)-1]
}

func (p *remembering) options() Options {
	return Options{Publisher: p, Image: p.image, Blob: func(sum [32]byte) *tree.Blob { return p.blobs[sum] }}
}

// A process that takes over knows all that the one before knew, without a vault, and
// shows the same: current and old versions, in whatever forms.
func TestWhatIsKnownOutlivesTheProcess(t *testing.T) {
	for name, layouts := range map[string][]tree.Layout{"PEM": {tree.V3, tree.V4}, "keystore alone": {tree.JKS}, "chain alone": {tree.Certs}} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), newRemembering(t)
			v.put(t, "www", 1, leaf{})
			views := Policy{Views: []tree.Views{{Layouts: layouts}}, HoldChangedNames: true}
			wanted := holding(under(t, v, views), 3, 1<<20)
			spec := wanted.Spec()
			for i := range spec.Entries {
				spec.Entries[i].Views = views.Views[0]
			}
			wanted.Spec, wanted.Policy = func() tree.Spec { return spec }, func(Source) Policy { return views }
			ctx, die := context.WithCancel(t.Context())
			s := New(p.options(), wanted)
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			<-s.Ready()
			renew(t, s, v, "www", 3)
			before, was := p.last(), s.Report()
			die()
			<-ended

			v.set(func() { v.errs["www"] = &vault.Error{Kind: vault.KindUnreachable, Fact: "the vault is gone"} })
			next := New(p.options(), wanted)
			ctx, end := context.WithCancel(t.Context())
			go func() { ended <- next.Run(ctx) }()
			defer func() { end(); <-ended }()
			<-next.Ready()
			if plan := tree.Diff(before, p.last()); plan != nil {
				t.Errorf("%s: %d differences, the first: %v %s", name, len(plan), plan[0].Op, plan[0].Node().Name)
			}
			for n := range before.Nodes() {
				now, ok := p.last().Node(n.ID)
				if n.Kind != tree.File || !ok {
					continue
				}
				want, err := s.Load(t.Context(), n)
				got, err2 := next.Load(t.Context(), now)
				if err != nil || err2 != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %s has other bytes, %v, %v", name, n.Name, err, err2)
				}
			}
			r := next.Report()
			if len(r.Certificates) != 1 || r.Certificates[0].Version != was.Certificates[0].Version || !r.Certificates[0].LastSuccess.Equal(was.Certificates[0].LastSuccess) {
				t.Errorf("%s: %+v, it was %+v", name, r.Certificates, was.Certificates)
			}
			// The next version is compared with the last one that was known.
			v.set(func() { delete(v.errs, "www") })
			v.put(t, "www", 4, leaf{names: []string{"other.example.com"}})
			if err := next.Refresh(t.Context(), Match("www")); err != nil {
				t.Fatal(err)
			}
			if c := next.Report().Certificates[0]; c.Err == nil || c.Version != was.Certificates[0].Version {
				t.Errorf("%s: a version for other names is shown: %+v", name, c)
			}
		})
	}
}

// What the settings have no more is not kept.
func TestForgottenCertificatesAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), newRemembering(t)
		s := running(t, p.options(), settings(t, v, time.Hour, "www", "api"))
		<-s.Ready()
		count := func() (n int) {
			for range p.image.All(keyCertificate) {
				n++
			}
			return n
		}
		if n := count(); n != 2 {
			t.Errorf("%d certificates are kept, want 2", n)
		}
		if err := s.Change(t.Context(), settings(t, v, time.Hour, "www")); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 1 {
			t.Errorf("%d certificates are kept, want 1", n)
		}
	})
}

// The keys of versions that are shown no more do not stay in memory.
func TestCacheForgetsWhatIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), newRemembering(t)
		v.put(t, "www", 1, leaf{})
		s := running(t, p.options(), holding(under(t, v, Policy{}), 2, 1<<20))
		<-s.Ready()
		for n := 2; n < 10; n++ {
			renew(t, s, v, "www", n)
		}
		if c := s.Report().Cache; c.Values != 2 { // the old one that is shown, and one that somebody may have open
			t.Errorf("%d versions are held, want 2", c.Values)
		}
		n := 0
		for range p.image.All(keyCached) {
			n++
		}
		if n != 2 {
			t.Errorf("%d of them are kept, want 2", n)
		}
	})
}

// What a predecessor has shown stays visible if this process cannot read what it knew, as when that was a newer kvfs,
// until the vault has answered.
func TestNamesStayWhereRecordsCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api", "off", "gone"), newRemembering(t)
		opts := p.options()
		opts.Visible = p.last
		ctx, die := context.WithCancel(t.Context())
		s, ended := New(opts, settings(t, v, time.Hour, "www", "api", "off", "gone")), make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		<-s.Ready()
		before := p.last()
		die()
		<-ended

		const foreign = "\xff of another format"
		for key := range p.image.All(keyCertificate) {
			if err := p.image.Enter(image.Change{Key: key, Value: []byte(foreign)}); err != nil {
				t.Fatal(err)
			}
		}
		v.set(func() {
			v.errs["www"] = &vault.Error{Kind: vault.KindUnreachable, Fact: "the vault is gone"}
			v.errs["off"] = &vault.Error{Kind: vault.KindDisabled, Fact: "it is disabled"}
			v.errs["off/"+version(1)] = v.errs["www"] // nor is an older one to be had
		})
		s = running(t, opts, settings(t, v, time.Hour, "www", "api", "off")) // of "gone" nothing is wanted any more
		<-s.Ready()
		names := func(s *tree.Snapshot, of string) (n int) {
			for node := range s.Nodes() {
				if node.Kind != tree.Dir && strings.HasPrefix(node.Name, "contoso-web."+of) {
					n++
				}
			}
			return n
		}
		for name, want := range map[string]int{"www": names(before, "www"), "api": names(before, "api"), "off": names(before, "off"), "gone": 0} {
			if got := names(p.last(), name); got != want {
				t.Errorf("%d names of %s, want %d", got, name, want)
			}
		}
		records := map[string]string{}
		for key, b := range p.image.All(keyCertificate) {
			records[strings.Fields(key)[0]] = string(b)
		}
		for key, b := range records {
			if known := strings.HasSuffix(key, "/api"); known == (b == foreign) {
				t.Errorf("the record of %s is %q", key, b)
			}
		}
		if len(records) != 3 {
			t.Errorf("%d records, want 3", len(records))
		}
		v.set(func() { delete(v.errs, "www") })
		v.put(t, "www", 2, leaf{})
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		if c := s.Report().Certificates[0]; c.State != OK || names(p.last(), "www") != names(before, "www") {
			t.Errorf("after the vault has answered: %+v, %d names", c, names(p.last(), "www"))
		}
	})
}

// A key is one string in memory for as long as its certificate is there, whoever makes it.
func TestKeyIsOneString(t *testing.T) {
	v := newFakeVault(t, "www")
	s := New(Options{Publisher: &shelf{}}, settings(t, v, time.Hour, "www"))
	source, where := s.certs[0].source, unsafe.StringData(s.certs[0].source.Key())
	for range 3 {
		runtime.GC()
		if unsafe.StringData(source.Key()) != where {
			t.Fatal("there are two")
		}
	}
	runtime.KeepAlive(s)
}
