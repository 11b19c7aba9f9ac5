package tree

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"kvfs/acl"
	"kvfs/certs"
)

// A tree in which older versions are stubs is the same tree: its ids, names, sizes
// and times are, and what is away is named exactly.
func TestStubsMakeTheSameNodes(t *testing.T) {
	entry := newEntry("/s", "www")
	entry.Views.Layouts, entry.Grants = everyLayout, acl.NewList([]uint32{33}, nil)
	v2, v1 := newVersion(t, 2), newVersion(t, 1)
	v1.thumbprint = "ANOTHER"
	full := build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {v2, v1}})
	lean := build(t, Spec{Entries: []Entry{entry}}, map[string][]*Version{"www": {v2, v1.Stub()}})
	away := 0
	for n := range full.Nodes() {
		is, ok := lean.Node(n.ID)
		if !ok || is.Name != n.Name || is.Parent != n.Parent || is.Size != n.Size || !is.Time.Equal(n.Time) || is.Mode() != n.Mode() || is.Target != n.Target {
			t.Fatalf("%s is another node: %+v", n.Name, is)
		}
		if is.Away == nil {
			continue
		}
		away++
		if want := (Away{"www", v1.ID, sha256.Sum256(n.Content())}); *is.Away != want {
			t.Errorf("%s: %+v, want %+v", n.Name, *is.Away, want)
		}
		if content, ok := v1.Content(is.Away.Sum); !ok || !bytes.Equal(content, n.Content()) {
			t.Errorf("%s is not found by its digest", n.Name)
		}
		if _, ok := v1.Stub().Content(is.Away.Sum); ok {
			t.Errorf("a stub has the content of %s", n.Name)
		}
	}
	// Version 1 has 3 files of v3 and v4, 6 of live, 4 beside links, and one in my; the issuers of
	// its self-signed leaf are an empty file, of which nothing can be away.
	if away != 13 {
		t.Errorf("%d files are away", away)
	}
	if lean.Len() != full.Len() || v1.Stub().Size() != 0 || v1.Stub().Resident() || !v1.Resident() {
		t.Error("a stub is not what it says")
	}
}

// What a file is held in, and who may read it, change at once; nothing else does.
func TestPlanOfAChangedHold(t *testing.T) {
	at := time.Unix(1_900_000_000, 0)
	for name, test := range map[string]struct {
		grant bool
		plan  []string // of each of the two files of version 1
	}{
		"the hold alone":            {false, []string{"hold"}},
		"the hold and who may read": {true, []string{"hold", "set-acl"}},
	} {
		v2, v1 := newVersion(t, 2), newVersion(t, 1)
		before, after := newEntry("/s", "www"), newEntry("/s", "www")
		if test.grant {
			after.Grants = acl.NewList([]uint32{33}, nil)
		}
		for _, versions := range [][2][]*Version{{{v2, v1}, {v2, v1.Stub()}}, {{v2, v1.Stub()}, {v2, v1}}} {
			from := build(t, in([]Layout{V3}, Spec{Entries: []Entry{before}}), map[string][]*Version{"www": versions[0]})
			to := build(t, in([]Layout{V3}, Spec{Entries: []Entry{after}}), map[string][]*Version{"www": versions[1]})
			plan := Diff(from, to)
			var got []string
			for i, c := range plan {
				if i > 0 && c.Op < plan[i-1].Op {
					t.Errorf("%s: %s comes after %s", name, c.Op, plan[i-1].Op)
				}
				if c.Op == Hold && !c.New.ACL.Equal(before.Grants) {
					t.Errorf("%s: the step of the hold changes who may read", name)
				}
				if c.Node().Name == "contoso-web.www."+string(v1.ID) {
					got = append(got, c.Op.String())
				}
			}
			if !slices.Equal(got, test.plan) {
				t.Errorf("%s: %v, want %v", name, got, test.plan)
			}
			now := from
			for _, c := range plan {
				if is, _ := now.Node(c.Node().ID); is != c.Old {
					t.Errorf("%s: %s is not about the node that is there", name, c.Op)
				}
				now = now.Apply(at, c)
			}
			if rest := Diff(now, to); rest != nil {
				t.Errorf("%s: left to do: %v", name, rest)
			}
			for n := range now.Nodes() {
				if n.Time.Equal(at) {
					t.Errorf("%s: %s was touched", name, n.Name)
				}
			}
		}
	}
}

// Where the same file is asked for by another source, it is away by that one.
func TestWhatIsAwayFollowsItsCertificate(t *testing.T) {
	v2, v1 := newVersion(t, 2), newVersion(t, 1).Stub()
	entry := newEntry("/s", "www")
	from := build(t, in([]Layout{V3}, Spec{Entries: []Entry{entry}}), map[string][]*Version{"www": {v2, v1}})
	entry.Certificate = "www by another"
	to := build(t, in([]Layout{V3}, Spec{Entries: []Entry{entry}}), map[string][]*Version{"www by another": {v2, v1}})
	plan := Diff(from, to)
	if len(plan) != 1 || plan[0].Op != Hold || plan[0].New.Away.Certificate != "www by another" {
		t.Errorf("%+v", plan)
	}
}

// Of two entries that show the same file, one of them out of memory, the other's
// bytes serve both.
func TestOneWhoHasTheContentIsEnough(t *testing.T) {
	v2, v1 := newVersion(t, 2), newVersion(t, 1)
	latest, pinned := newEntry("/s", "www"), newEntry("/s", "www")
	pinned.Certificate, pinned.Linked = "pinned", false
	for _, entries := range [][]Entry{{latest, pinned}, {pinned, latest}} {
		s := build(t, in([]Layout{V3}, Spec{Entries: entries}), map[string][]*Version{"www": {v2, v1.Stub()}, "pinned": {v1}})
		for n := range s.Nodes() {
			if n.Away != nil {
				t.Errorf("%s is away", n.Name)
			}
		}
	}
}

// lacking is a bundle whose value lacks the issuer, and that issuer.
func lacking(t *testing.T) (value, completed *certs.Bundle, issuer *x509.Certificate) {
	t.Helper()
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_800_000_000, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	end := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "www"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	rawCA, err := x509.CreateCertificate(rand.Reader, ca, ca, keys[0].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, end, ca, keys[1].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if issuer, err = x509.ParseCertificate(rawCA); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	value, err = certs.Parse("", append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...))
	if err != nil {
		t.Fatal(err)
	}
	return value, value.WithIssuers([]*x509.Certificate{issuer}), issuer
}

// A stub comes back as it was, with the issuers that somebody had added, and from
// nothing but what it was made of.
func TestRestoredVersionIsWhatItWas(t *testing.T) {
	value, completed, issuer := lacking(t)
	other, _, _ := lacking(t)
	at := time.Unix(1_700_000_001, 0)
	views := Views{Layouts: everyLayout, Key: certs.Traditional, Password: "secret-password"}
	plain := NewVersion(one, at, at, value, views)
	grown := NewVersion(one, at, at, completed, views).Completed([]*x509.Certificate{issuer})
	rerendered, err := NewVersion(one, at, at, value).With(views)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		was  *Version
		from *certs.Bundle
		err  error
	}{
		"as it was":             {plain, value, nil},
		"in forms added later":  {rerendered, value, nil},
		"with an issuer":        {grown, value, nil},
		"with an issuer it has": {grown, completed, nil},
		"of another bundle":     {plain, other, ErrOther},
		"with one too many":     {plain, completed, ErrOther},
	} {
		back, err := test.was.Stub().Restore(test.from)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v", name, err)
		}
		if test.err != nil {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !back.Resident() || len(back.contents) != len(test.was.contents) || back.Size() != test.was.Size() {
			t.Errorf("%s: %d forms of %d", name, len(back.contents), len(test.was.contents))
		}
		for _, c := range test.was.contents {
			if now, ok := back.contents.of(c.form()); !ok || !bytes.Equal(now.bytes(), c.bytes()) {
				t.Errorf("%s: the %s differs", name, c.form().kind)
			}
		}
	}
}

// Of a version that has become a stub no file holds on to a text with the key, an empty one neither: a leaf without
// issuers has an empty chain.pem.
func TestNoFileOfAStubHoldsTheKey(t *testing.T) {
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	b.Chain, b.Extra = b.Chain[:min(1, len(b.Chain))], nil
	at := time.Unix(1_700_000_001, 0)
	views := Views{Layouts: everyLayout}
	v := NewVersion(one, at, at, b, views)
	spec := Spec{Entries: []Entry{{Certificate: "www", Store: "/s", Vault: "v", Name: "www", Linked: true, Views: views}}}
	of := func(versions ...*Version) *Snapshot {
		s, err := Build(spec, func(string) Shown { return Shown{Versions: versions, Current: versions[0]} })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	newer := *v
	newer.ID = "fedcba9876543210fedcba9876543210"
	before := of(&newer, v)
	after := before.Apply(at, Diff(before, of(&newer, v.Stub()))...)
	empty := 0
	for n := range after.Nodes() {
		if n.Kind != File || n.Public || !strings.Contains(n.Name, string(v.ID)) && parentName(after, n) != string(v.ID) {
			continue
		}
		if n.Size == 0 {
			empty++
		}
		if n.Blob != nil && bytes.Contains(n.Blob.Bytes(), []byte("PRIVATE KEY")) {
			t.Errorf("%s of %d bytes holds a text of %d", n.Name, n.Size, n.Blob.Len())
		}
	}
	if empty == 0 {
		t.Error("there is no empty file")
	}
}

func parentName(s *Snapshot, n *Node) string {
	up, ok := s.Node(n.Parent)
	if !ok {
		return ""
	}
	return up.Name
}

func TestKeylessVersionIsRestoredWithoutKeyAlone(t *testing.T) {
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Leaf.Raw})
	_, err = certs.Parse("", text)
	var keyless *certs.Error
	if !errors.As(err, &keyless) || keyless.Partial == nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_001, 0)
	v := NewVersion(one, at, at, keyless.Partial, Views{Layouts: everyLayout}).Stub()
	if back, err := v.Restore(keyless.Partial); err != nil || back.HasKey() || back.Size() == 0 {
		t.Error(fmt.Sprint(err), back)
	}
	if _, err := v.Restore(b); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
}

func TestStubIsNotRenderedAnew(t *testing.T) {
	b, err := leaf()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_001, 0)
	v := NewVersion(one, at, at, b, Views{Layouts: both}).Stub()
	if same, err := v.With(Views{Layouts: both}); err != nil || same != v {
		t.Errorf("in the forms that it has: %v", err)
	}
	if same, err := v.With(Views{Layouts: everyLayout}); !errors.Is(err, ErrStub) || same != v {
		t.Errorf("in others: %v", err)
	}
}
