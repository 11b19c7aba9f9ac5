package sync

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// leaf says what a version of a test is like.
type leaf struct {
	from, until time.Time
	names       []string
	issuer      string // "": itself
	keyless     bool
}

// put makes a version the newest of a certificate.
func (v *fakeVault) put(t testing.TB, name string, n int, l leaf) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{CommonName: "x"}, NotBefore: l.from, NotAfter: l.until, DNSNames: l.names}
	if l.from.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	if l.until.IsZero() {
		tmpl.NotAfter = time.Now().Add(1000 * time.Hour)
	}
	parent, signer := tmpl, key
	if l.issuer != "" {
		if signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		parent = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: l.issuer}, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter, IsCA: true, BasicConstraintsValid: true}
		own, err := x509.CreateCertificate(rand.Reader, parent, parent, signer.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := x509.ParseCertificate(own)
		if err != nil {
			t.Fatal(err)
		}
		v.set(func() { v.issuers[name] = issuer })
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if !l.keyless {
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	}
	v.make(name, n, text)
}

// under are the settings of one certificate with a policy.
func under(t *testing.T, v Vault, p Policy) Settings {
	t.Helper()
	s := settings(t, v, time.Minute, "www")
	p.Views = append(p.Views, v3)
	s.Policy = func(Source) Policy { return p }
	return s
}

func TestVersionThatIsNotYetValidWaitsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{HoldNotYetValid: true}))
		<-s.Ready()
		v.put(t, "www", 2, leaf{from: time.Now().Add(3 * time.Hour)})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if w := state(s, "www").Warnings; !strings.Contains(strings.Join(w, "\n"), "version "+version(2)+" waits until it is valid, from 2000-01-01T03:00:00Z") {
			t.Errorf("the report warns of %q", w)
		}
		if p.shown("www") != version(1) || !p.has("contoso-web.www."+version(2)) {
			t.Errorf("two hours before: shown %s, the file is there: %v", p.shown("www"), p.has("contoso-web.www."+version(2)))
		}
		before := p.count()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if p.shown("www") != version(2) || p.count() != before+1 {
			t.Errorf("at its time: shown %s, published %d times", p.shown("www"), p.count()-before)
		}
		if st := state(s, "www"); st.Version != certs.Version(version(2)) || st.State != OK {
			t.Errorf("%+v", st)
		}
	})
}

// Whatever waits, the version that is current is never the one to be forgotten.
func TestCurrentVersionOutlivesNewerOnesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{HoldNotYetValid: true}))
		<-s.Ready()
		for n := 2; n < 6; n++ {
			v.put(t, "www", n, leaf{from: time.Now().Add(time.Duration(n) * 100 * time.Hour)})
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(1) {
				t.Fatalf("%v; after version %d shown is %s", err, n, p.shown("www"))
			}
		}
	})
}

func TestNewestIsLinkedWhereNothingIsValidYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{from: time.Now().Add(time.Hour)})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{HoldNotYetValid: true}))
		<-s.Ready()
		if p.shown("www") != version(1) {
			t.Errorf("shown %q", p.shown("www"))
		}
		v.put(t, "www", 2, leaf{from: time.Now().Add(2 * time.Hour)})
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
			t.Errorf("%v; shown %q", err, p.shown("www"))
		}
	})
}

func TestExpiredCertificateGoesWhenItIsToBeHidden(t *testing.T) {
	for _, hide := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{until: time.Now().Add(time.Hour)})
			s := running(t, Options{Publisher: p}, under(t, v, Policy{HideExpired: hide}))
			<-s.Ready()
			time.Sleep(59 * time.Minute)
			if p.shown("www") != version(1) {
				t.Error("gone before its end")
			}
			time.Sleep(time.Minute + time.Second)
			synctest.Wait()
			if want := map[bool]State{true: Hidden, false: OK}[hide]; state(s, "www").State != want {
				t.Errorf("hide %v: %s", hide, state(s, "www").State)
			}
			if w, want := strings.Join(state(s, "www").Warnings, "\n"), map[bool]string{true: "is hidden", false: "it has expired on"}[hide]; !strings.Contains(w, want) {
				t.Errorf("hide %v: the report warns of %q", hide, w)
			}
			if gone := p.shown("www") == ""; gone != hide || p.has("contoso-web.www."+version(1)) == hide {
				t.Errorf("hide %v: shown %q", hide, p.shown("www"))
			}
			v.put(t, "www", 2, leaf{})
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
				t.Errorf("%v; after a renewal shown is %q", err, p.shown("www"))
			}
		})
	}
}

func TestDisabledCertificateGoesWhenItIsToBeHidden(t *testing.T) {
	for _, hide := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{})
			s := running(t, Options{Publisher: p}, under(t, v, Policy{HideDisabled: hide}))
			<-s.Ready()
			v.set(func() { v.errs["www"] = &vault.Error{Kind: vault.KindDisabled, Fact: "disabled"} })
			if err := s.Refresh(t.Context(), Match("www")); err != nil || (p.shown("www") == "") != hide {
				t.Errorf("hide %v: %v; shown %q", hide, err, p.shown("www"))
			}
			// An outage says nothing about it, whatever else is published meanwhile.
			v.set(func() { v.errs["www"] = down })
			if err := s.Change(t.Context(), under(t, v, Policy{HideDisabled: hide})); err != nil {
				t.Error(err)
			}
			if err := s.Refresh(t.Context(), Match("www")); err != nil || (p.shown("www") == "") != hide {
				t.Errorf("hide %v: %v; in an outage shown is %q", hide, err, p.shown("www"))
			}
			v.set(func() { delete(v.errs, "www") })
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(1) {
				t.Errorf("hide %v: %v; enabled again shown is %q", hide, err, p.shown("www"))
			}
		})
	}
}

func TestVersionOfOtherNamesOrIssuerIsHeld(t *testing.T) {
	was := leaf{names: []string{"a.example", "b.example"}, issuer: "One"}
	for name, test := range map[string]struct {
		policy Policy
		next   leaf
		held   string // in the fact; "": it is taken
	}{
		"the same in another order":  {Policy{HoldChangedNames: true, HoldChangedIssuer: true}, leaf{names: []string{"b.example", "a.example"}, issuer: "One"}, ""},
		"a name more":                {Policy{HoldChangedNames: true}, leaf{names: []string{"a.example", "b.example", "c.example"}, issuer: "One"}, "is for a.example, b.example, c.example, and the one before for a.example, b.example"},
		"the common name alone":      {Policy{HoldChangedNames: true}, leaf{issuer: "One"}, "is for x, and the one before for"},
		"another issuer":             {Policy{HoldChangedIssuer: true}, leaf{names: was.names, issuer: "Two"}, "is from CN=Two, and the one before from CN=One"},
		"another issuer, names held": {Policy{HoldChangedNames: true}, leaf{names: was.names, issuer: "Two"}, ""},
		"all accepted":               {Policy{}, leaf{}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, was)
			s := running(t, Options{Publisher: p}, under(t, v, test.policy))
			<-s.Ready()
			v.put(t, "www", 2, test.next)
			if err := s.Refresh(t.Context(), Match("www")); err != nil {
				t.Fatal(err)
			}
			st := state(s, "www")
			if test.held == "" {
				if p.shown("www") != version(2) || st.State != OK {
					t.Errorf("%s: shown %s, %+v", name, p.shown("www"), st)
				}
				return
			}
			if f := Explain(st.Err); p.shown("www") != version(1) || st.State != Stale || f.Kind != "held" || !strings.Contains(f.Fact, test.held) || f.Hint == "" {
				t.Errorf("%s: shown %s, %s, %+v", name, p.shown("www"), st.State, f)
			}
			// Whoever looks into it and says yes gets it without waiting for another.
			if err := s.Change(t.Context(), under(t, v, Policy{})); err != nil {
				t.Fatal(err)
			}
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
				t.Errorf("%s: %v; accepted, shown is %s", name, err, p.shown("www"))
			}
		})
	}
}

// A certificate whose key must not leave the vault is shown as far as there is
// something to show, and takes no key away from readers who have one.
func TestCertificateWithoutItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{keyless: true})
		set := under(t, v, Policy{Views: []tree.Views{{Layouts: []tree.Layout{tree.V4}}}})
		spec := set.Spec()
		spec.Entries[0].Views.Layouts = []tree.Layout{tree.V3, tree.V4}
		set.Spec = func() tree.Spec { return spec }
		s := running(t, Options{Publisher: p}, set)
		<-s.Ready()
		partial := func(n int) {
			t.Helper()
			st := state(s, "www")
			if f := Explain(st.Err); st.State != Partial || f.Kind != string(certs.NoPrivateKey) || st.Failures != 0 || st.Version != certs.Version(version(n)) {
				t.Errorf("%+v, %+v", st, f)
			}
			if !p.has("contoso-web.www.pem") || p.has("contoso-web.www.keyid") || p.has("contoso-web.www") {
				t.Error("not the chain alone is shown")
			}
		}
		partial(1)
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Error(err)
		}
		partial(1) // nothing has changed
		v.put(t, "www", 2, leaf{keyless: true})
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Error(err)
		}
		partial(2)
		v.put(t, "www", 3, leaf{})
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(3) || state(s, "www").State != OK {
			t.Errorf("%v; with a key: shown %q, %+v", err, p.shown("www"), state(s, "www"))
		}
		v.put(t, "www", 4, leaf{keyless: true})
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(3) || state(s, "www").State != Stale {
			t.Errorf("%v; the key was taken away: shown %q, %+v", err, p.shown("www"), state(s, "www"))
		}
	})
}

// What a check refuses may be good at the next poll, and is asked again; what it
// warns of is told.
func TestChainIsCheckedBeforeAVersionIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		var verdict error
		checks := 0
		policy := Policy{Check: func(_ context.Context, b *certs.Bundle) (*certs.Bundle, []string, error) {
			checks++
			return b, []string{"looked at"}, verdict
		}}
		s := running(t, Options{Publisher: p}, under(t, v, policy))
		<-s.Ready()
		if st := state(s, "www"); len(st.Warnings) == 0 || st.Warnings[len(st.Warnings)-1] != "looked at" {
			t.Errorf("%+v", st.Warnings)
		}
		verdict = &Refused{Kind: "untrusted", Fact: "not trusted", Hint: "hint"}
		v.put(t, "www", 2, leaf{})
		for range 2 {
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(1) || !errors.Is(state(s, "www").Err, verdict) {
				t.Errorf("%v; shown %s, %+v", err, p.shown("www"), state(s, "www"))
			}
		}
		if checks != 3 {
			t.Errorf("checked %d times, want once for the first and at every poll of the other", checks)
		}
		verdict = nil
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
			t.Errorf("%v; shown %s", err, p.shown("www"))
		}
	})
}

// Other views of what is here need no vault.
func TestChangedViewsShowWhatIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{}))
		<-s.Ready()
		v.set(func() { v.errs["www"] = down })
		views := tree.Views{Layouts: []tree.Layout{tree.V3, tree.Live, tree.PFX, tree.JKS}}
		set := under(t, v, Policy{Views: []tree.Views{views}})
		spec := set.Spec()
		spec.Entries[0].Views = views
		set.Spec = func() tree.Spec { return spec }
		if err := s.Change(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"contoso-web.www", "contoso-web.www.pfx", "contoso-web.www.jks", "live"} {
			if !p.has(name) {
				t.Errorf("no %s", name)
			}
		}
	})
}

// named is what a name in the store stands for now; nil if it is not there.
func (p *shelf) named(name string) *tree.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.snaps[len(p.snaps)-1]
	dir, ok := s.Lookup(tree.Root, tree.StoreDir("/store"))
	if !ok {
		return nil
	}
	n, _ := s.Lookup(dir.ID, name)
	return n
}

// has tells whether a store has a name now.
func (p *shelf) has(name string) bool { return p.named(name) != nil }

// What was read for other settings is read again for these: it lacks their forms, and
// nobody has judged it by their guards.
func TestTryUnderWayWhenTheSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{names: []string{"a.example"}})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{}))
		<-s.Ready()
		v.put(t, "www", 2, leaf{names: []string{"b.example"}})
		v.set(func() { v.delay["www"] = 20 * time.Second })
		refreshed := make(chan error, 1)
		go func() { refreshed <- s.Refresh(t.Context(), Match("www")) }()
		synctest.Wait()
		views := tree.Views{Layouts: []tree.Layout{tree.V3, tree.PFX}}
		set := under(t, v, Policy{Views: []tree.Views{views}, HoldChangedNames: true})
		spec := set.Spec()
		spec.Entries[0].Views = views
		set.Spec = func() tree.Spec { return spec }
		if err := s.Change(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		if err := <-refreshed; err != nil {
			t.Fatal(err)
		}
		if st := state(s, "www"); p.shown("www") != version(1) || Explain(st.Err).Kind != "held" {
			t.Errorf("the new guard was passed by: shown %s, %+v", p.shown("www"), st)
		}
		if err := s.Change(t.Context(), func() Settings {
			set.Policy = func(Source) Policy { return Policy{Views: []tree.Views{views}} }
			return set
		}()); err != nil {
			t.Fatal(err)
		}
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) || !p.has("contoso-web.www."+version(2)+".pfx") {
			t.Errorf("%v; shown %s, without the form that the settings want", err, p.shown("www"))
		}
	})
}

// A vault that goes back to a version without a key takes it from nobody.
func TestGoingBackToAVersionWithoutItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{keyless: true})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{}))
		<-s.Ready()
		keyless := v.secrets["www"]
		v.put(t, "www", 2, leaf{})
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
			t.Fatal(err, p.shown("www"))
		}
		v.set(func() { v.secrets["www"] = keyless })
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) || Explain(state(s, "www").Err).Kind != string(certs.NoPrivateKey) {
			t.Errorf("%v; shown %q, %+v", err, p.shown("www"), state(s, "www"))
		}
	})
}

// Where what was valid has expired, and nothing else is valid yet, the newest is as
// good as any.
func TestHeldVersionIsLinkedWhenTheOneBeforeHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{until: time.Now().Add(time.Hour)})
		s := running(t, Options{Publisher: p}, under(t, v, Policy{HoldNotYetValid: true}))
		<-s.Ready()
		v.put(t, "www", 2, leaf{from: time.Now().Add(2 * time.Hour)})
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if p.shown("www") != version(1) {
			t.Error("linked while the one before was valid")
		}
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		if p.shown("www") != version(2) {
			t.Errorf("shown %s", p.shown("www"))
		}
	})
}

// Two that want one name harm nobody else: the first keeps it.
func TestClashHarmsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api", "mail"), &shelf{}
		set := settings(t, v, time.Minute, "www", "api", "mail")
		spec := set.Spec()
		spec.Entries[0].Links, spec.Entries[1].Links = []string{"site"}, []string{"site"}
		set.Spec = func() tree.Spec { return spec }
		s := running(t, Options{Publisher: p}, set)
		<-s.Ready()
		if p.shown("www") != version(1) || p.shown("mail") != version(1) || p.shown("api") != "" {
			t.Errorf("www %q, mail %q, api %q", p.shown("www"), p.shown("mail"), p.shown("api"))
		}
		var clash *tree.Clash
		if r := s.Report(); !errors.As(r.Publish, &clash) || clash.Name != "site" {
			t.Errorf("%v", r.Publish)
		}
		v.rotate(t, "mail", 2)
		if err := s.Refresh(t.Context(), Match("mail")); err != nil || p.shown("mail") != version(2) {
			t.Errorf("%v; mail %q", err, p.shown("mail"))
		}
	})
}
