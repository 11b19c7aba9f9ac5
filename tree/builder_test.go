package tree

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"kvfs/acl"
)

// sameTree compares everything that there is to see of two snapshots.
func sameTree(a, b *Snapshot) error {
	if a.Len() != b.Len() {
		return fmt.Errorf("%d nodes and %d", a.Len(), b.Len())
	}
	for n := range a.Nodes() {
		o, ok := b.Node(n.ID)
		if !ok {
			return fmt.Errorf("%s %q is missing", n.Kind, n.Name)
		}
		x, y := *n, *o
		x.Blob, y.Blob = nil, nil // made of the same content
		if !x.Time.Equal(y.Time) {
			return fmt.Errorf("%s %q: %v and %v", n.Kind, n.Name, x.Time, y.Time)
		}
		x.Time, y.Time = time.Time{}, time.Time{}
		if !reflect.DeepEqual(x, y) {
			return fmt.Errorf("%s %q: grants %v and %v, away %v and %v", n.Kind, n.Name, x.ACL, y.ACL, x.Away, y.Away)
		}
		if n.Kind != Dir {
			continue
		}
		names := func(s *Snapshot) (all []string) {
			for e := range s.Entries(n.ID, 0) {
				all = append(all, e.Name)
			}
			return all
		}
		if x, y := names(a), names(b); !slices.Equal(x, y) {
			return fmt.Errorf("in %q: %q and %q", n.Name, x, y)
		}
	}
	return nil
}

// Whatever comes after whatever, a Builder gives what is built from nothing.
func TestBuilderBuildsWhatBuildDoes(t *testing.T) {
	var versions []*Version
	for n := range 12 {
		versions = append(versions, newVersion(t, n+1))
	}
	layouts := [][]Layout{{V3}, both, {V3, V4, Live}, {Live, Certs, JKS}, everyLayout}
	quick := 0
	for seed := range uint64(14) {
		random := rand.New(rand.NewPCG(seed, 1))
		var spec Spec
		for i := range 30 {
			e := newEntry([]string{"/a", "/b", "/a/inner"}[random.IntN(3)], fmt.Sprint("c", i))
			e.Views.Layouts = layouts[int(seed)%len(layouts)]
			if random.IntN(4) == 0 {
				e.Links = []string{fmt.Sprint("link", i)}
			}
			e.Grants = acl.NewList([]uint32{uint32(random.IntN(3))}, nil)
			switch random.IntN(12) {
			case 0: // one that is pinned beside one that is not
				if other := spec.Entries; i > 0 {
					e.Store, e.Name, e.Linked = other[i-1].Store, other[i-1].Name, false
				}
			case 1:
				if seed%7 == 6 { // a clash, for as long as both are shown
					e.Links = []string{"link1"}
				}
			}
			e.Retired = seed%11 == 10 && random.IntN(5) == 0
			spec.Entries = append(spec.Entries, e)
		}
		now := map[string]Shown{}
		choose := func() Shown {
			n, at := random.IntN(4), random.IntN(len(versions)-4)
			all := slices.Clone(versions[at : at+n])
			slices.Reverse(all) // newest first
			for i := range all {
				if random.IntN(3) == 0 {
					all[i] = all[i].Stub()
				}
			}
			if n == 0 {
				return Shown{}
			}
			return Shown{Versions: all, Current: all[random.IntN(n)]}
		}
		for i := range spec.Entries {
			now[spec.Entries[i].Certificate] = choose()
		}
		var b Builder
		for step := range 20 {
			for range random.IntN(3) {
				now[fmt.Sprint("c", random.IntN(30))] = choose()
			}
			if random.IntN(15) == 0 {
				spec.Entries = slices.Clone(spec.Entries)
				spec.Entries[random.IntN(30)].Linked = random.IntN(2) == 0
			}
			if random.IntN(15) == 0 {
				spec.Stores = []string{"/c", "/a/inner/d"}[:random.IntN(3)]
			}
			look := func(certificate string) Shown { return now[certificate] }
			before := b.last
			got, err := b.Build(spec, look)
			want, wantErr := Build(spec, look)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("seed %d, step %d: %v, and built from nothing %v", seed, step, err, wantErr)
			}
			if err != nil {
				continue
			}
			if err := sameTree(want, got); err != nil {
				t.Fatalf("seed %d, step %d: built from nothing and after another: %v", seed, step, err)
			}
			if before != nil && &before.nodes.buckets[0] != &got.nodes.buckets[0] && b.renewed(before) {
				quick++
			}
		}
	}
	if quick < 15 {
		t.Errorf("only %d builds were of what has changed alone", quick)
	}
}

// Directories that two entries need stay for as long as one does.
func TestBuilderKeepsDirectoriesThatOthersNeed(t *testing.T) {
	var spec Spec
	for _, name := range []string{"www", "pinned", "api"} {
		e := newEntry("/s", name)
		e.Views.Layouts = []Layout{Live}
		spec.Entries = append(spec.Entries, e)
	}
	spec.Entries[1].Name, spec.Entries[1].Linked = "www", false
	now := map[string]Shown{"www": shown(newVersion(t, 9)), "pinned": shown(newVersion(t, 3)), "api": shown(newVersion(t, 11))}
	look := func(certificate string) Shown { return now[certificate] }
	var b Builder
	for _, pinned := range []Shown{now["pinned"], {}, now["pinned"], shown(newVersion(t, 4)), {}} {
		now["pinned"] = pinned
		before := b.last
		got, err := b.Build(spec, look)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Build(spec, look)
		if err != nil {
			t.Fatal(err)
		}
		if err := sameTree(want, got); err != nil {
			t.Error(err)
		}
		if before != nil && !b.renewed(before) {
			t.Error("all of it was built anew")
		}
	}
}

// What one entry has kept from another's place comes when that one goes.
func TestBuilderShowsWhatWasKeptBack(t *testing.T) {
	v := newVersion(t, 1)
	other := *v
	other.contents = slices.Clone(v.contents)
	for _, c := range v.contents {
		if c.form().kind == pfx {
			other.contents.set(c.form(), newContent(append(c.bytes(), 0)))
		}
	}
	spec := in(everyLayout, Spec{Entries: []Entry{newEntry("/s", "www"), newEntry("/s", "api"), newEntry("/s", "mail")}})
	spec.Entries[2].Views.Layouts = both // all have the same leaf, and its PKCS#12 would be shared
	now := map[string]Shown{"www": shown(v), "api": shown(&other), "mail": shown(newVersion(t, 2))}
	look := func(certificate string) Shown { return now[certificate] }
	var b Builder
	for _, www := range []Shown{now["www"], {}, now["www"]} {
		now["www"] = www
		got, err := b.Build(spec, look)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := Build(spec, look); err != nil || sameTree(want, got) != nil {
			t.Errorf("%v, %v", err, sameTree(want, got))
		}
	}
}

// renewed tells whether the last snapshot shares its nodes with the one before.
func (b *Builder) renewed(before *Snapshot) bool {
	shared := 0
	for n := range b.last.Nodes() {
		if o, ok := before.Node(n.ID); ok && o == n {
			shared++
		}
	}
	return shared > b.last.Len()/2
}
