package tree

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/certs"
)

// leaf is one bundle for all tests: what differs are the versions' ids.
var leaf = sync.OnceValues(func() (*certs.Bundle, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_800_000_000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	return certs.Parse("", text)
})

func newVersion(t testing.TB, n int) *Version {
	t.Helper()
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000+int64(n), 0)
	v := NewVersion(certs.Version(fmt.Sprintf("%032x", n)), at, at, b, Views{Layouts: everyLayout})
	if v.Unwritten() != nil {
		t.Fatal(v.Unwritten())
	}
	return v
}

func newEntry(store, name string) Entry {
	return Entry{Certificate: name, URL: "https://contoso-web.vault.azure.net/secrets/" + name, Store: store, Vault: "contoso-web", Name: name, Linked: true, Views: Views{Layouts: both}}
}

// in shows entries in some layouts.
func in(layouts []Layout, spec Spec) Spec {
	spec.Entries = slices.Clone(spec.Entries)
	for i := range spec.Entries {
		spec.Entries[i].Views.Layouts = layouts
	}
	return spec
}

// shown are versions of which the newest is the current one.
func shown(versions ...*Version) Shown {
	all := Shown{Versions: versions}
	if len(versions) > 0 {
		all.Current = versions[0]
	}
	return all
}

func build(t testing.TB, spec Spec, versions map[string][]*Version) *Snapshot {
	t.Helper()
	s, err := Build(spec, func(key string) Shown { return shown(versions[key]...) })
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	return s
}

// check holds a snapshot against its invariants: whatever is found by name is
// found by id and the other way round, links lead to files, and bytes belong to
// ids.
func check(t testing.TB, s *Snapshot) {
	t.Helper()
	count := 0
	for n := range s.Nodes() {
		count++
		if byID, ok := s.Node(n.ID); !ok || byID != n {
			t.Fatalf("%s is not found by its id", n.Name)
		}
		if n.ID == Root {
			continue
		}
		if byName, ok := s.Lookup(n.Parent, n.Name); !ok || byName != n {
			t.Fatalf("%s is not found by its name", n.Name)
		}
		if n.Cookie() < 16 || n.Cookie()>>63 != 0 {
			t.Fatalf("%s has the cookie %x", n.Name, n.Cookie())
		}
		if n.Away == nil && n.Size != len(n.Content()) || n.Away != nil && (n.Content() != nil || n.Size == 0 || n.Kind != File) {
			t.Fatalf("%s has %d bytes of %d, away: %+v", n.Name, len(n.Content()), n.Size, n.Away)
		}
		if n.Kind == Link {
			if rest, ok := strings.CutPrefix(n.Target, "../archive/"); ok { // of the layout live
				base, version, _ := strings.Cut(rest, "/")
				live, _ := s.Node(n.Parent)
				archive, _ := s.Lookup(live.Parent, "archive")
				of, _ := s.Lookup(archive.ID, base)
				target, ok := s.Lookup(of.ID, version)
				if !ok || target.Kind != Dir {
					t.Fatalf("%s leads to %s, which is not there", n.Name, n.Target)
				}
				continue
			}
			if target, ok := s.Lookup(n.Parent, n.Target); !ok || target.Kind != File {
				t.Fatalf("%s leads to %s, which is not there", n.Name, n.Target)
			}
		}
	}
	if count != s.Len() {
		t.Fatalf("%d nodes by id, %d by the count", count, s.Len())
	}
}

// list is a store as lines, sorted; directories are there by what they hold, and
// empty ones by themselves.
func list(s *Snapshot, store string) (lines []string) {
	dir, ok := s.Lookup(Root, StoreDir(store))
	if !ok {
		return nil
	}
	return listDir(s, dir, "")
}

func listDir(s *Snapshot, dir *Node, path string) (lines []string) {
	for n := range s.Entries(dir.ID, 0) {
		line := fmt.Sprintf("%o %s%s", n.Mode(), path, n.Name)
		if n.Kind == Link {
			line += " -> " + n.Target
		}
		below := []string(nil)
		if n.Kind == Dir {
			below = listDir(s, n, path+n.Name+"/")
		}
		if lines = append(lines, below...); below == nil {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

var (
	both        = []Layout{V3, V4}
	everyLayout = []Layout{V3, V4, Live, Certs, PFX, JKS, TrustStore, X509Store}
)

func TestLayouts(t *testing.T) {
	v2, v1 := newVersion(t, 2), newVersion(t, 1)
	const id1, id2 = "00000000000000000000000000000001", "00000000000000000000000000000002"
	linked, custom, pinned := newEntry("/s", "www"), newEntry("/s", "www"), newEntry("/s", "www")
	custom.Links = []string{"site"}
	custom.Grants = acl.NewList([]uint32{33}, nil)
	pinned.Linked = false
	for _, c := range []struct {
		name    string
		layouts []Layout
		entry   Entry
		want    []string
	}{
		{"v3", []Layout{V3}, linked, []string{
			"600 contoso-web.www." + id1, "600 contoso-web.www." + id2, "777 contoso-web.www -> contoso-web.www." + id2,
		}},
		{"v3 with a custom link and a list", []Layout{V3}, custom, []string{
			"640 contoso-web.www." + id1, "640 contoso-web.www." + id2, "777 contoso-web.www -> contoso-web.www." + id2, "777 site -> contoso-web.www." + id2,
		}},
		{"v4", []Layout{V4}, linked, []string{
			"600 contoso-web.www." + id1 + ".keyid.1700000001", "600 contoso-web.www." + id1 + ".pem.1700000001",
			"600 contoso-web.www." + id2 + ".keyid.1700000002", "600 contoso-web.www." + id2 + ".pem.1700000002",
			"644 contoso-web.www.luma",
			"777 contoso-web.www.keyid -> contoso-web.www." + id2 + ".keyid.1700000002", "777 contoso-web.www.pem -> contoso-web.www." + id2 + ".pem.1700000002",
		}},
		{"not linked", both, pinned, []string{
			"600 contoso-web.www." + id1, "600 contoso-web.www." + id1 + ".keyid.1700000001", "600 contoso-web.www." + id1 + ".pem.1700000001",
			"600 contoso-web.www." + id2, "600 contoso-web.www." + id2 + ".keyid.1700000002", "600 contoso-web.www." + id2 + ".pem.1700000002",
		}},
		{"live", []Layout{Live}, custom, []string{
			"640 archive/contoso-web.www/" + id1 + "/cert.pem", "640 archive/contoso-web.www/" + id1 + "/chain.pem",
			"640 archive/contoso-web.www/" + id1 + "/fullchain.pem", "640 archive/contoso-web.www/" + id1 + "/privkey.pem",
			"640 archive/contoso-web.www/" + id2 + "/cert.pem", "640 archive/contoso-web.www/" + id2 + "/chain.pem",
			"640 archive/contoso-web.www/" + id2 + "/fullchain.pem", "640 archive/contoso-web.www/" + id2 + "/privkey.pem",
			"777 live/contoso-web.www -> ../archive/contoso-web.www/" + id2,
		}},
		{"certificates for everybody", []Layout{Certs, TrustStore}, custom, []string{
			"644 contoso-web.www." + id1 + ".certs.pem", "644 contoso-web.www." + id1 + ".truststore.jks",
			"644 contoso-web.www." + id2 + ".certs.pem", "644 contoso-web.www." + id2 + ".truststore.jks",
			"777 contoso-web.www.certs.pem -> contoso-web.www." + id2 + ".certs.pem", "777 contoso-web.www.truststore.jks -> contoso-web.www." + id2 + ".truststore.jks",
		}},
		{"for Java and .NET", []Layout{PFX, JKS, X509Store}, custom, []string{ // both versions have the same leaf
			"640 contoso-web.www." + id1 + ".jks", "640 contoso-web.www." + id1 + ".pfx", "640 contoso-web.www." + id2 + ".jks", "640 contoso-web.www." + id2 + ".pfx",
			"640 my/" + newVersion(t, 1).thumbprint + ".pfx",
			"777 contoso-web.www.jks -> contoso-web.www." + id2 + ".jks", "777 contoso-web.www.pfx -> contoso-web.www." + id2 + ".pfx",
		}},
	} {
		s := build(t, in(c.layouts, Spec{Entries: []Entry{c.entry}}), map[string][]*Version{"www": {v2, v1}})
		if got := list(s, "/s"); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		c.entry.Views.Layouts = c.layouts
		for _, n := range c.entry.Names(v2.ID, true) {
			if !slices.ContainsFunc(c.want, func(line string) bool { return strings.Contains(line+" ", " "+n.Name+" ") }) {
				t.Errorf("%s: Names has %s, which is not shown", c.name, n.Name)
			}
		}
	}
}

func TestStoreOfACertificateWithoutVersionIsEmpty(t *testing.T) {
	s := build(t, in(both, Spec{Entries: []Entry{newEntry("/s", "www")}}), nil)
	if _, ok := s.Lookup(Root, StoreDir("/s")); !ok || len(list(s, "/s")) != 0 {
		t.Error("want an empty directory")
	}
}

func TestTwoEntriesOfOneNameClash(t *testing.T) {
	a, b := newEntry("/s", "www"), newEntry("/s", "api")
	a.Links, b.Links = []string{"site"}, []string{"site"}
	_, err := Build(in(both, Spec{Entries: []Entry{a, b}}), func(string) Shown { return shown(newVersion(t, 1)) })
	var clash *Clash
	if !errors.As(err, &clash) || clash.Name != "site" || clash.First != a.URL || clash.Second != b.URL {
		t.Errorf("%v", err)
	}
}

func TestGrantsOfTwoEntriesOfOneCertificateAreUnited(t *testing.T) {
	a, b := newEntry("/s", "www"), newEntry("/s", "www")
	a.Grants, b.Grants, b.Links = acl.NewList([]uint32{1}, nil), acl.NewList(nil, []uint32{2}), []string{"site"}
	s := build(t, in([]Layout{V3}, Spec{Entries: []Entry{a, b}}), map[string][]*Version{"www": {newVersion(t, 1)}})
	for n := range s.Nodes() {
		if n.Kind == File && !n.ACL.Equal(acl.NewList([]uint32{1}, []uint32{2})) {
			t.Errorf("%s is for %v, %v", n.Name, n.ACL.Users(), n.ACL.Groups())
		}
	}
}

// What the settings have no more gives way to what they have, and does not keep
// a right alive that they have taken away.
func TestRetiredEntriesGiveWay(t *testing.T) {
	www, gone := newEntry("/s", "www"), newEntry("/s", "www")
	gone.Grants, gone.Links, gone.Retired = acl.NewList([]uint32{1}, nil), []string{"site", "other"}, true
	api := newEntry("/s", "api")
	api.Links = []string{"site"}
	vs := map[string][]*Version{"www": {newVersion(t, 1)}, "api": {newVersion(t, 2)}}
	s := build(t, in([]Layout{V3}, Spec{Entries: []Entry{gone, www, api}}), vs)
	dir, _ := s.Lookup(Root, StoreDir("/s"))
	for link, want := range map[string]string{"site": "contoso-web.api", "other": "contoso-web.www", "contoso-web.www": "contoso-web.www"} {
		if n, ok := s.Lookup(dir.ID, link); !ok || !strings.HasPrefix(n.Target, want+".") {
			t.Errorf("%s leads to %v, want %s", link, n, want)
		}
	}
	for n := range s.Nodes() {
		if n.Kind == File && !n.ACL.Empty() {
			t.Errorf("%s is for %v still", n.Name, n.ACL.Users())
		}
	}
	if s = build(t, in([]Layout{V3}, Spec{Entries: []Entry{gone, api}}), vs); s.Len() != 2+2+4 {
		t.Errorf("%v", list(s, "/s")) // the root and the store; two files; a link each, site and other
	}
}

// Two that are retired together keep what they had together.
func TestRetiredEntriesOfOneCertificateKeepTheirReaders(t *testing.T) {
	a, b := newEntry("/s", "www"), newEntry("/s", "www")
	a.Retired, b.Retired = true, true
	a.Grants, b.Grants, b.Links = acl.NewList([]uint32{1}, nil), acl.NewList([]uint32{2}, nil), []string{"site"}
	other := newEntry("/s", "api")
	other.Retired, other.Links = true, []string{"site"} // a name that both had, one after the other
	s := build(t, in([]Layout{V3}, Spec{Entries: []Entry{a, b, other}}), map[string][]*Version{"www": {newVersion(t, 1)}, "api": {newVersion(t, 2)}})
	for n := range s.Nodes() {
		if n.Kind == File && strings.Contains(n.Name, "www") && !n.ACL.Equal(acl.NewList([]uint32{1, 2}, nil)) {
			t.Errorf("%s is for %v", n.Name, n.ACL.Users())
		}
		if n.Name == "site" && !strings.Contains(n.Target, "www") {
			t.Errorf("site leads to %s", n.Target)
		}
	}
}

func TestObstacleIsADirectoryThatWasALinkOrTheOtherWayRound(t *testing.T) {
	vs := map[string][]*Version{"www": {newVersion(t, 1)}}
	linked := newEntry("/s", "www")
	linked.Links = []string{"app"}
	asLink := build(t, in([]Layout{V3}, Spec{Entries: []Entry{linked}}), vs)
	asDir := build(t, in([]Layout{V3}, Spec{Entries: []Entry{newEntry("/s", "www")}, Stores: []string{"/s/app"}}), vs)
	neither := build(t, in([]Layout{V3}, Spec{Entries: []Entry{newEntry("/s", "www")}}), vs)
	for _, test := range []struct {
		from, to *Snapshot
		want     string
	}{{asLink, asDir, "app"}, {asDir, asLink, "app"}, {asLink, neither, ""}, {neither, asDir, ""}, {asDir, asDir, ""}, {asDir, neither, ""}} {
		if got := Obstacle(test.from, test.to); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestStoreInAStoreIsAnEmptyDirectoryThere(t *testing.T) {
	vs := map[string][]*Version{"www": {newVersion(t, 1)}, "api": {newVersion(t, 2)}, "x": {newVersion(t, 3)}}
	s := build(t, in([]Layout{V3}, Spec{Entries: []Entry{newEntry("/s/a/b", "x"), newEntry("/s", "www"), newEntry("/s/a", "api"), newEntry("/sa", "x")}}), vs)
	for store, want := range map[string]string{"/s": "a", "/s/a": "b"} {
		outer, _ := s.Lookup(Root, StoreDir(store))
		inner, ok := s.Lookup(outer.ID, want)
		if !ok || inner.Kind != Dir {
			t.Fatalf("%s has no directory %s: %v", store, want, list(s, store))
		}
		for n := range s.Entries(inner.ID, 0) {
			t.Errorf("%s/%s holds %s", store, want, n.Name)
		}
	}
	if got := list(s, "/s/a/b"); len(got) != 2 {
		t.Errorf("/s/a/b: %v", got)
	}
	taken := newEntry("/s", "www")
	taken.Links = []string{"a"}
	var clash *Clash
	if _, err := Build(in(both, Spec{Entries: []Entry{taken, newEntry("/s/a", "api")}}), func(key string) Shown { return shown(vs[key]...) }); !errors.As(err, &clash) || clash.First != "the store /s/a" {
		t.Errorf("%v", err)
	}
}

// Another process that builds the same tree must give out the same ids, and
// whatever differs in bytes or target must not.
func TestIdsStandForContent(t *testing.T) {
	spec := in(both, Spec{Entries: []Entry{newEntry("/s", "www")}})
	ids := func(s *Snapshot) map[string]ID {
		m := map[string]ID{}
		for n := range s.Nodes() {
			m[n.Name] = n.ID
		}
		return m
	}
	first := build(t, spec, map[string][]*Version{"www": {newVersion(t, 1)}})
	again := build(t, spec, map[string][]*Version{"www": {newVersion(t, 1)}})
	if a, b := ids(first), ids(again); !mapsEqual(a, b) {
		t.Errorf("%v\n%v", a, b)
	}
	spec.Entries[0].Grants = acl.NewList([]uint32{5}, nil)
	if a, b := ids(first), ids(build(t, spec, map[string][]*Version{"www": {newVersion(t, 1)}})); !mapsEqual(a, b) {
		t.Error("another access list is another node")
	}
	other := newVersion(t, 1)
	other.contents.set(form{kind: combined, key: certs.PKCS8}, newContent([]byte("another rendering")))
	changed := ids(build(t, spec, map[string][]*Version{"www": {other}}))
	if name := "contoso-web.www." + string(other.ID); changed[name] == ids(first)[name] {
		t.Error("other bytes under the same id")
	}
	renewed := ids(build(t, spec, map[string][]*Version{"www": {newVersion(t, 2)}}))
	for _, name := range []string{"contoso-web.www", "contoso-web.www.luma"} {
		if renewed[name] == ids(first)[name] {
			t.Errorf("%s has the same id after a renewal", name)
		}
	}
}

func mapsEqual(a, b map[string]ID) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestPlanOfARenewal(t *testing.T) {
	e := newEntry("/s", "www")
	e.Links = []string{"site"}
	spec := in(both, Spec{Entries: []Entry{e}})
	v1, v2, v3 := newVersion(t, 1), newVersion(t, 2), newVersion(t, 3)
	from := build(t, spec, map[string][]*Version{"www": {v2, v1}})
	to := build(t, spec, map[string][]*Version{"www": {v3, v2}})
	const old, now = "contoso-web.www.00000000000000000000000000000001", "contoso-web.www.00000000000000000000000000000003"
	want := []string{
		"add " + now, "add " + now + ".keyid.1700000003", "add " + now + ".pem.1700000003",
		"move contoso-web.www", "move contoso-web.www.keyid", "move contoso-web.www.pem", "move site",
		"replace contoso-web.www.luma",
		"remove " + old, "remove " + old + ".keyid.1700000001", "remove " + old + ".pem.1700000001",
	}
	var got []string
	for _, c := range Diff(from, to) {
		got = append(got, c.Op.String()+" "+c.Node().Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("plan\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if plan := Diff(to, build(t, spec, map[string][]*Version{"www": {v3, v2}})); plan != nil {
		t.Errorf("the plan between equal trees is %v", plan)
	}
}

func TestPlanOfAChangedAccessList(t *testing.T) {
	e := newEntry("/s", "www")
	vs := map[string][]*Version{"www": {newVersion(t, 1)}}
	from := build(t, in(both, Spec{Entries: []Entry{e}}), vs)
	e.Grants = acl.NewList([]uint32{33}, nil)
	to := build(t, in(both, Spec{Entries: []Entry{e}}), vs)
	plan := Diff(from, to)
	for _, c := range plan {
		if c.Op != SetACL || !c.New.ACL.Equal(e.Grants) || !c.Old.ACL.Empty() {
			t.Errorf("%s %s", c.Op, c.Node().Name)
		}
	}
	if len(plan) != 3 {
		t.Errorf("%d steps, want one for each file with a key or a chain", len(plan))
	}
}

// From any tree to any other, after any prefix of the plan what is there is
// whole, and a plan that was interrupted is found again.
func TestPlansLeadFromAnyTreeToAnyOther(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(1, 2))
	versions := make([]*Version, 6)
	for i := range versions {
		versions[i] = newVersion(t, i+1)
	}
	stores := []string{"/a", "/a/in/deep", "/a/in", "/b"}
	random := func() *Snapshot {
		var spec Spec
		layouts := [][]Layout{{V3}, {V4}, both, everyLayout, {Live, X509Store}}
		vs := map[string][]*Version{}
		for _, name := range []string{"www", "api", "mail", "x"} {
			if rng.IntN(4) == 0 {
				continue
			}
			e := newEntry(stores[rng.IntN(len(stores))], name)
			e.Linked, e.Retired, e.Views.Layouts = rng.IntN(4) > 0, rng.IntN(4) == 0, layouts[rng.IntN(len(layouts))]
			if rng.IntN(2) == 0 {
				e.Links = []string{"link-of-" + name}
			}
			e.Grants = acl.NewList([]uint32{uint32(rng.IntN(3))}, nil)
			spec.Entries = append(spec.Entries, e)
			i := rng.IntN(len(versions) - 1)
			older := versions[i]
			if rng.IntN(2) == 0 {
				older = older.Stub()
			}
			vs[name] = []*Version{versions[i+1], older}[:1+rng.IntN(2)]
		}
		return build(t, spec, vs)
	}
	now := random()
	for range 500 {
		to := random()
		plan := Diff(now, to)
		stop := rng.IntN(len(plan) + 1)
		for i, c := range plan[:stop] {
			now = now.Apply(time.Now(), c)
			if i%3 == 0 { // a step may be repeated
				now = now.Apply(time.Now(), c)
			}
			if c.Op < Remove {
				check(t, now)
			}
		}
		for _, c := range Diff(now, to) {
			if c.Op == Remove && c.Old.Kind == Dir {
				for n := range now.Entries(c.Old.ID, 0) {
					t.Fatalf("the directory %s goes before %s in it", c.Old.Name, n.Name)
				}
			}
			now = now.Apply(time.Now(), c)
		}
		check(t, now)
		if rest := Diff(now, to); rest != nil {
			t.Fatalf("left to do after the plan was done: %v", rest)
		}
		for n := range to.Nodes() {
			if is, ok := now.Node(n.ID); !ok || !is.sameHold(n) {
				t.Fatalf("%s is held as in the tree before", n.Name)
			}
		}
		for _, store := range stores {
			if a, b := list(now, store), list(to, store); !slices.Equal(a, b) {
				t.Fatalf("%v\nwant %v", a, b)
			}
		}
	}
}

func TestApplyLeavesTheOldSnapshotAlone(t *testing.T) {
	spec := in(both, Spec{Entries: []Entry{newEntry("/s", "www")}})
	from := build(t, spec, map[string][]*Version{"www": {newVersion(t, 1)}})
	to := build(t, spec, map[string][]*Version{"www": {newVersion(t, 2)}})
	was := list(from, "/s")
	from.Apply(time.Now(), Diff(from, to)...)
	if now := list(from, "/s"); !slices.Equal(was, now) {
		t.Errorf("the old snapshot became %v", now)
	}
}

// A listing that is read in parts goes on behind the last cookie, whatever has
// moved meanwhile.
func TestListingGoesOnBehindACookie(t *testing.T) {
	var spec Spec
	vs := map[string][]*Version{}
	v := newVersion(t, 1)
	for i := range 300 {
		e := newEntry("/s", fmt.Sprint("c", i))
		spec.Entries = append(spec.Entries, e)
		vs[e.Certificate] = []*Version{v}
	}
	s := build(t, spec, vs)
	dir, _ := s.Lookup(Root, StoreDir("/s"))
	seen := map[string]bool{}
	for after, more := uint64(0), true; more; {
		more = false
		part := 0
		for n := range s.Entries(dir.ID, after) {
			if seen[n.Name] {
				t.Fatal("twice:", n.Name)
			}
			seen[n.Name], after, more = true, n.Cookie(), true
			if part++; part == 7 {
				break
			}
		}
	}
	if len(seen) != 300*7 {
		t.Errorf("%d names, want %d", len(seen), 300*7)
	}
}

// The index against a map.
func TestIndexAgreesWithAMap(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(3, 4))
	var x index[int]
	model := map[uint64]int{}
	var keys []uint64
	old := x
	for i := range 20000 {
		switch {
		case rng.IntN(3) > 0 || len(keys) == 0:
			k := rng.Uint64()
			x, model[k] = x.with(k, i), i
			keys = append(keys, k)
		case rng.IntN(2) == 0:
			k := keys[rng.IntN(len(keys))]
			x, model[k] = x.with(k, i), i
		default:
			k := keys[rng.IntN(len(keys))]
			x = x.without(k)
			delete(model, k)
		}
		if i == 5000 {
			old = x
		}
	}
	if x.size != len(model) {
		t.Fatalf("%d values, want %d", x.size, len(model))
	}
	for _, k := range keys {
		got, ok := x.get(k)
		want, there := model[k]
		if ok != there || got != want {
			t.Fatalf("%x: %d %t, want %d %t", k, got, ok, want, there)
		}
	}
	last, n := uint64(0), 0
	for i := range x.buckets {
		for _, it := range x.buckets[i] {
			if n > 0 && it.key <= last {
				t.Fatal("not in order")
			}
			last = it.key
			n++
		}
	}
	count := 0
	for range old.from(0) {
		count++
	}
	if count != old.size {
		t.Error("an old index changed")
	}
}

// Cost of one renewal in a large store, apart from building the snapshot.
func BenchmarkApplyRenewal(b *testing.B) {
	for _, certificates := range []int{10, 20000 / 7} {
		var spec Spec
		vs := map[string][]*Version{}
		v1, v2 := newVersion(b, 1), newVersion(b, 2)
		for i := range certificates {
			e := newEntry("/s", fmt.Sprint("c", i))
			spec.Entries = append(spec.Entries, e)
			vs[e.Certificate] = []*Version{v1}
		}
		from, err := Build(spec, func(key string) Shown { return shown(vs[key]...) })
		if err != nil {
			b.Fatal(err)
		}
		vs["c0"] = []*Version{v2, v1}
		to, err := Build(spec, func(key string) Shown { return shown(vs[key]...) })
		if err != nil {
			b.Fatal(err)
		}
		plan := Diff(from, to)
		b.Run(fmt.Sprintf("entries=%d/step=build", certificates*7), func(b *testing.B) {
			for b.Loop() {
				_, _ = Build(spec, func(key string) Shown { return shown(vs[key]...) })
			}
		})
		b.Run(fmt.Sprintf("entries=%d/step=diff", certificates*7), func(b *testing.B) {
			for b.Loop() {
				Diff(from, to)
			}
		})
		b.Run(fmt.Sprintf("entries=%d/step=apply", certificates*7), func(b *testing.B) {
			for b.Loop() {
				from.Apply(time.Time{}, plan...)
			}
		})
	}
}
