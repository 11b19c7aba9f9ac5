package sync

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// withHistory is a vault in which a certificate has so many versions.
func withHistory(t *testing.T, name string, n int) *fakeVault {
	t.Helper()
	v := newFakeVault(t)
	for i := range n {
		v.put(t, name, i+1, leaf{})
	}
	return v
}

// here are the versions of a certificate whose combined file is shown.
func (p *shelf) here(name string, most int) (versions []int) {
	for n := most; n > 0; n-- {
		if p.node(name, n) != nil {
			versions = append(versions, n)
		}
	}
	return versions
}

func TestAllVersionsAreShown(t *testing.T) {
	for name, limit := range map[string]int64{"held": 1 << 20, "some held": 5000, "none held": 0} {
		synctest.Test(t, func(t *testing.T) {
			const n = 30
			v, p := withHistory(t, "www", n), &shelf{}
			v.set(func() { v.delay["www"] = time.Second })
			began := time.Now()
			s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), KeepAll, limit))
			<-s.Ready()
			if took := time.Since(began); took != time.Second || len(p.here("www", n)) != 1 || p.shown("www") != version(n) {
				t.Errorf("%s: ready after %v with %d versions: want the newest, which takes a second", name, took, len(p.here("www", n)))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := p.here("www", n); len(got) != n {
				t.Errorf("%s: %d versions are shown: %v", name, len(got), got)
			}
			v.set(func() { clear(v.delay) })
			for i := 1; i < n; i++ {
				if node := p.node("www", i); node.Away == nil {
					t.Errorf("%s: version %d is not in the cache", name, i)
				} else if err := readOK(s, node); err != nil {
					t.Errorf("%s: version %d: %v", name, i, err)
				}
			}
			r := s.Report()
			if r.Versions != 1 || r.Cache.Bytes > limit || len(r.Certificates[0].Warnings) > 1 { // the chain of a self-signed one is complete
				t.Errorf("%s: %d current versions, %+v, %q", name, r.Versions, r.Cache, r.Certificates[0].Warnings)
			}
			for i := 1; i < n; i++ {
				if asked, want := v.times("www/"+version(i)), map[bool]int{true: 1, false: 2}[limit == 1<<20]; asked > want {
					t.Errorf("%s: version %d was asked for %d times", name, i, asked)
				}
			}
			// A new version comes as ever, and nothing is listed for it.
			v.put(t, "www", n+1, leaf{})
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(n+1) || len(p.here("www", n+1)) != n+1 {
				t.Errorf("%s: %v; shown %s, %d versions", name, err, p.shown("www"), len(p.here("www", n+1)))
			}
			if v.times("www?") != 1 {
				t.Errorf("%s: listed %d times", name, v.times("www?"))
			}
			time.Sleep(3 * 24 * time.Hour)
			synctest.Wait()
			if n := v.times("www?"); n < 3 || n > 4 {
				t.Errorf("%s: listed %d times in three days", name, n)
			}
		})
	}
}

// Nobody waits for old versions, least of all a certificate that has none yet.
func TestPollsGoBeforeOldVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := withHistory(t, "www", 5), &shelf{}
		v.rotate(t, "api", 1)
		v.set(func() { v.delay["api"] = time.Minute })
		s := running(t, Options{Publisher: p}, holding(settings(t, v, time.Hour, "www", "api"), KeepAll, 1<<20))
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if v.times("www?") != 0 || p.shown("www") != version(5) {
			t.Errorf("listed before every certificate was tried; shown %s", p.shown("www"))
		}
		<-s.Ready()
		synctest.Wait()
		if len(p.here("www", 5)) != 5 {
			t.Errorf("%v are shown", p.here("www", 5))
		}
	})
}

// A large store is not built anew for each old version that comes.
func TestOldVersionsArePublishedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		v, p := withHistory(t, "www", n), &shelf{takes: 100 * time.Millisecond}
		v.set(func() { v.delay["www"] = 5 * time.Millisecond })
		s := running(t, Options{Publisher: p}, holding(settings(t, v, time.Hour, "www"), KeepAll, 1<<20))
		<-s.Ready()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(p.here("www", n)) != n || p.count() > 5 {
			t.Errorf("%d versions are shown after %d publications", len(p.here("www", n)), p.count())
		}
	})
}

func TestVersionsThatCannotBeReadAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := withHistory(t, "www", 9), &shelf{}
		good := *v.made["www"][2]
		v.set(func() {
			garbage, disabled, keyless := *v.made["www"][2], *v.made["www"][3], *v.made["www"][4]
			garbage.Value, disabled.Enabled = vault.NewValue([]byte("garbage")), false
			keyless.Value = vault.NewValue(keyless.Value.Reveal()[:bytes.Index(keyless.Value.Reveal(), []byte("-----BEGIN PRIVATE"))])
			v.made["www"][2], v.made["www"][3], v.made["www"][4] = &garbage, &disabled, &keyless
			v.errs["www/"+version(6)] = &vault.Error{Kind: vault.KindNotFound, Fact: "deleted"}
			v.errs["www/"+version(7)] = down
		})
		var log bytes.Buffer
		s := running(t, Options{Publisher: p, Logger: slog.New(slog.NewTextHandler(&log, nil))}, holding(under(t, v, Policy{}), KeepAll, 1<<20))
		<-s.Ready()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got, want := p.here("www", 9), []int{9, 8, 2, 1}; !equal(got, want) {
			t.Errorf("shown are %v, want %v", got, want)
		}
		st := state(s, "www")
		if w := strings.Join(st.Warnings, "\n"); st.LeftOut != 4 || st.State != OK || !strings.Contains(w, "older versions that cannot be read and are left out: 4, such as "+version(3)) {
			t.Errorf("%s, %d left out: %q", st.State, st.LeftOut, w)
		}
		for n, want := range map[int]int{3: 1, 4: 0, 5: 1, 6: 1} {
			if asked := v.times("www/" + version(n)); asked != want {
				t.Errorf("version %d was asked for %d times", n, asked)
			}
			if logged := strings.Count(log.String(), "version="+version(n)+" kind="); logged != want {
				t.Errorf("version %d was logged %d times", n, logged)
			}
		}
		if asked := v.times("www/" + version(7)); asked < 10 || asked > 60 {
			t.Errorf("what may pass was tried %d times in an hour", asked)
		}
		v.set(func() { clear(v.errs); v.made["www"][2] = &good })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got, want := p.here("www", 9), []int{9, 8, 7, 6, 3, 2, 1}; !equal(got, want) || state(s, "www").LeftOut != 1 {
			t.Errorf("a day later shown are %v, want %v; %d left out", got, want, state(s, "www").LeftOut)
		}
	})
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Listing needs a permission that reading does not: without it everything is as with
// a number, and somebody learns what to do.
func TestVersionsMayNotBeListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := withHistory(t, "www", 5), &shelf{}
		v.set(func() {
			v.errs["www?"] = &vault.Error{Kind: vault.KindForbidden, Fact: "may not list", Hint: "grant it"}
		})
		var log bytes.Buffer
		s := running(t, Options{Publisher: p, Logger: slog.New(slog.NewTextHandler(&log, nil))}, holding(under(t, v, Policy{}), KeepAll, 0))
		<-s.Ready()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		st := state(s, "www")
		if w := strings.Join(st.Warnings, "\n"); st.State != OK || p.shown("www") != version(5) || !strings.Contains(w, `keepVersions "all" needs the permission to list`) || !strings.Contains(w, "may not list; grant it") {
			t.Errorf("%s, shown %s: %q", st.State, p.shown("www"), w)
		}
		if n := v.times("www?"); n < 5 || n > 15 {
			t.Errorf("listed %d times in a day", n)
		}
		if n := strings.Count(log.String(), "could not be listed"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		v.set(func() { clear(v.errs) })
		if err := s.Change(t.Context(), holding(under(t, v, Policy{}), KeepAll, 0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w := strings.Join(state(s, "www").Warnings, "\n"); len(p.here("www", 5)) != 5 || strings.Contains(w, "list") {
			t.Errorf("permitted, %v are shown; %q", p.here("www", 5), w)
		}
		// With a number again, the newest of them stay.
		if err := s.Change(t.Context(), holding(under(t, v, Policy{}), 2, 0)); err != nil || !equal(p.here("www", 5), []int{5, 4}) {
			t.Errorf("%v; %v are shown", err, p.here("www", 5))
		}
	})
}

func TestPinnedCertificateShowsItsVersionAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := withHistory(t, "www", 3), &shelf{}
		set := holding(under(t, v, Policy{}), KeepAll, 1<<20)
		set.Sources[0].Ref = set.Sources[0].Ref.WithVersion(version(2))
		spec := set.Spec()
		spec.Entries[0].Certificate = set.Sources[0].Key()
		s := running(t, Options{Publisher: p}, set)
		<-s.Ready()
		time.Sleep(time.Hour)
		synctest.Wait()
		if !equal(p.here("www", 3), []int{2}) || v.times("www?") != 0 {
			t.Errorf("%v are shown; listed %d times", p.here("www", 3), v.times("www?"))
		}
	})
}

// What a guard keeps from readers does not come in with what is older, whether the
// poll or the list is the first to know of it.
func TestRefusedVersionIsNoOlderOne(t *testing.T) {
	for name, newest := range map[string]leaf{"held": {names: []string{"b.example"}}, "without its key": {names: []string{"a.example"}, keyless: true}} {
		for _, listedFirst := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				v, p := newFakeVault(t), &shelf{}
				for n := 1; n < 5; n++ {
					l := leaf{names: []string{"a.example"}}
					if n == 4 {
						l = newest
					}
					v.put(t, "www", n, l)
				}
				v.set(func() {
					v.secrets["www"] = v.made["www"][2]
					v.made["www"][3].Created = v.made["www"][2].Created // within a second
				})
				set := holding(under(t, v, Policy{HoldChangedNames: true}), KeepAll, 1<<20)
				if !listedFirst {
					v.set(func() { v.errs["www?"] = down })
				}
				s := running(t, Options{Publisher: p}, set)
				<-s.Ready()
				if listedFirst {
					synctest.Wait()
				}
				v.set(func() { v.secrets["www"] = v.made["www"][3]; clear(v.errs) })
				if err := s.Refresh(t.Context(), Match("www")); err != nil {
					t.Fatal(err)
				}
				if err := s.Change(t.Context(), set); err != nil { // and listed anew
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := p.here("www", 4); !equal(got, []int{3, 2, 1}) || p.shown("www") != version(3) || p.has("contoso-web.www."+version(4)) {
					t.Errorf("%s, listed first %v: %v are shown, linked is %s", name, listedFirst, got, p.shown("www"))
				}
			})
		}
	}
}

func TestOlderVersionsAreJudgedByThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := withHistory(t, "www", 4), &shelf{}
		policy := Policy{Check: func(_ context.Context, b *certs.Bundle) (*certs.Bundle, []string, error) {
			if b.Leaf.SerialNumber.Int64() == 2 {
				return nil, nil, &Refused{Kind: "untrusted", Fact: "not trusted", Hint: "hint"}
			}
			return b, nil, nil
		}}
		s := running(t, Options{Publisher: p}, holding(under(t, v, policy), KeepAll, 1<<20))
		<-s.Ready()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := p.here("www", 4); !equal(got, []int{4, 3, 1}) || state(s, "www").LeftOut != 1 {
			t.Errorf("%v are shown, %d left out", got, state(s, "www").LeftOut)
		}
	})
}

func TestMoreVersionsThanAreShown(t *testing.T) {
	var c certificate
	c.versions = []*tree.Version{{ID: "newest", Created: time.Unix(5000, 0)}}
	listing := []vault.VersionInfo{{Version: "newer", Enabled: true, Created: time.Unix(6000, 0)}, {Version: "newest", Enabled: true, Created: time.Unix(5000, 0)}}
	for n := range MaxVersions + 200 {
		listing = append(listing, vault.VersionInfo{Version: version(n), Enabled: true, Created: time.Unix(int64(4999-n), 0)})
	}
	s := New(Options{}, Settings{})
	s.listed(&c, found{listing: listing}, time.Now())
	if len(c.missing) != MaxVersions-1 || c.missing[0] != certs.Version(version(0)) {
		t.Errorf("%d are to be fetched, first %s", len(c.missing), c.missing[0])
	}
	if w := c.olderWarnings(true); len(w) != 1 || w[0] != "the vault has 1201 versions; the newest 1000 are shown" {
		t.Errorf("%q", w)
	}
	// The newest one has been purged: what is older than it is still older.
	s.listed(&c, found{listing: append(listing[:1:1], listing[2:5]...)}, time.Now())
	if len(c.missing) != 3 {
		t.Errorf("%v", c.missing)
	}
}

// A fresh start while the newest version is disabled: the newest that is enabled is
// better than nothing, where it can be found out which that is.
func TestNewestEnabledVersionServesInPlaceOfADisabledOne(t *testing.T) {
	for name, test := range map[string]struct {
		policy Policy
		listed error
		want   string
	}{
		"served":       {Policy{}, nil, version(2)},
		"may not list": {Policy{}, &vault.Error{Kind: vault.KindForbidden, Fact: "may not list"}, ""},
		"to be hidden": {Policy{HideDisabled: true}, nil, ""},
		"not good": {Policy{Check: func(context.Context, *certs.Bundle) (*certs.Bundle, []string, error) {
			return nil, nil, errors.New("no")
		}}, nil, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			v, p := withHistory(t, "www", 4), &shelf{}
			v.set(func() {
				v.errs["www"], v.errs["www?"] = &vault.Error{Kind: vault.KindDisabled, Fact: "disabled"}, test.listed
				v.made["www"][2].Enabled, v.made["www"][3].Enabled = false, false
			})
			s := running(t, Options{Publisher: p}, under(t, v, test.policy))
			<-s.Ready()
			time.Sleep(time.Minute)
			synctest.Wait()
			st := state(s, "www")
			if p.shown("www") != test.want {
				t.Errorf("%s: shown %q, %+v", name, p.shown("www"), st)
			}
			if test.policy.HideDisabled && v.times("www?") > 0 {
				t.Errorf("%s: listed, and for nothing", name)
			}
			if test.want == "" {
				return
			}
			w := strings.Join(st.Warnings, "\n")
			if st.State != Stale || Explain(st.Err).Fact != "disabled" || !strings.Contains(w, "version "+version(2)+" is served in the place of the newest") || len(p.here("www", 4)) != 1 {
				t.Errorf("%s: %+v, %v are shown", name, st, p.here("www", 4))
			}
			v.set(func() { clear(v.errs) })
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(4) || state(s, "www").State != OK {
				t.Errorf("%s: %v; enabled again, shown is %s", name, err, p.shown("www"))
			}
		})
	}
}

func TestNextListing(t *testing.T) {
	for _, test := range []struct {
		failures   int
		retryAfter time.Duration
		spread     float64
		want       time.Duration
	}{
		{0, 0, 0, 24 * time.Hour}, {0, 0, 0.5, 24*time.Hour - 72*time.Minute},
		{1, 0, 0, time.Minute}, {2, 0, 0.9, 2 * time.Minute}, {5, 0, 0, 16 * time.Minute}, {10, 0, 0, 6 * time.Hour}, {1000, 0, 0, 6 * time.Hour},
		{1, time.Hour, 0, time.Hour}, {5, time.Second, 0, 16 * time.Minute},
	} {
		if got := nextListing(test.failures, test.retryAfter, test.spread); got != test.want {
			t.Errorf("after %d failures, asked to wait %v: %v, want %v", test.failures, test.retryAfter, got, test.want)
		}
	}
}
