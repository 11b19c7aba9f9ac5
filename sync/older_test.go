package sync

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// released lets the versions that are not current any more leave the memory.
func released() {
	time.Sleep(releaseAfter)
	synctest.Wait()
}

// renew makes more versions of a certificate until there are n, each of them seen.
func renew(t *testing.T, s *Syncer, v *fakeVault, name string, n int) {
	t.Helper()
	for len(v.made[name]) < n {
		v.put(t, name, len(v.made[name])+1, leaf{})
		if err := s.Refresh(t.Context(), Match(name)); err != nil {
			t.Fatal(err)
		}
	}
	released()
}

// holding are settings that keep so many versions and hold so many bytes of them.
func holding(s Settings, keep int, limit int64) Settings {
	s.Keep, s.OldVersions = keep, limit
	return s
}

func TestOldVersionIsReadAsItWas(t *testing.T) {
	for name, test := range map[string]struct {
		limit int64
		asked int // for the old version, by two reads
	}{"held": {1 << 20, 0}, "not held": {0, 2}, "too little room": {100, 2}} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{})
			s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, test.limit))
			<-s.Ready()
			before := p.node("www", 1)
			if before.Away != nil || before.Size == 0 {
				t.Fatalf("the current version: %+v", before)
			}
			renew(t, s, v, "www", 2)
			after := p.node("www", 1)
			if after.Away == nil || after.Content() != nil || after.ID != before.ID || after.Size != before.Size || !after.Time.Equal(before.Time) {
				t.Errorf("%s: %+v\nwas %+v", name, after, before)
			}
			for range 2 {
				content, err := s.Load(t.Context(), after)
				if err != nil || !bytes.Equal(content, before.Content()) {
					t.Errorf("%s: %v, %d bytes of %d", name, err, len(content), before.Size)
				}
			}
			if n := v.times("www/" + version(1)); n != test.asked {
				t.Errorf("%s: the vault was asked %d times", name, n)
			}
			if r := s.Report(); r.Versions != 1 || r.Cache.Bytes > test.limit || r.Cache.Limit != test.limit {
				t.Errorf("%s: %d versions are held, the cache %+v", name, r.Versions, r.Cache)
			}
		})
	}
}

// The links have left a version before its bytes leave the memory, also when that
// takes several tries.
func TestVersionStaysInMemoryUntilItsSuccessorIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, holding(settings(t, v, time.Hour, "www"), 2, 0))
		<-s.Ready()
		p.fail(errors.New("no publisher"))
		v.rotate(t, "www", 2)
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if r := s.Report(); r.Versions != 2 {
			t.Errorf("%d versions are in memory while the first one is linked", r.Versions)
		}
		p.fail(nil)
		time.Sleep(firstRetry)
		synctest.Wait()
		if p.shown("www") != version(2) || p.node("www", 1).Away != nil {
			t.Errorf("shown %s; the one before is gone at once", p.shown("www"))
		}
		before := p.count()
		released()
		if p.node("www", 1).Away == nil || p.count() != before+1 || s.Report().Versions != 1 {
			t.Errorf("not released, after %d publications", p.count()-before)
		}
	})
}

func TestLimitHoldsForManyVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 20, 9000))
		<-s.Ready()
		renew(t, s, v, "www", 20)
		var wait sync.WaitGroup
		for n := 1; n < 20; n++ {
			wait.Go(func() {
				if content, err := s.Load(t.Context(), p.node("www", n)); err != nil || len(content) == 0 {
					t.Errorf("version %d: %v", n, err)
				}
			})
		}
		wait.Wait()
		if c := s.Report().Cache; c.Bytes > 9000 || c.Bytes == 0 || c.Evictions == 0 || c.Misses == 0 {
			t.Errorf("%+v", c)
		}
		// Less room at once when the settings say so.
		if err := s.Change(t.Context(), holding(under(t, v, Policy{}), 20, 3000)); err != nil {
			t.Fatal(err)
		}
		if c := s.Report().Cache; c.Bytes > 3000 || c.Bytes == 0 || c.Limit != 3000 {
			t.Errorf("%+v", c)
		}
	})
}

// A version of a vault never changes. If it has, nobody gets what it is now under the
// name of what it was.
func TestOtherBytesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		var log bytes.Buffer
		s := running(t, Options{Publisher: p, Logger: slog.New(slog.NewTextHandler(&log, nil))}, holding(under(t, v, Policy{}), 2, 0))
		<-s.Ready()
		renew(t, s, v, "www", 2)
		was := v.made["www"][0]
		for what, value := range map[string][]byte{"another certificate": bundle(t, 1), "garbage": []byte("garbage")} {
			now := *was
			now.Value = vault.NewValue(value)
			v.set(func() { v.made["www"][0] = &now })
			for range 3 {
				content, err := s.Load(t.Context(), p.node("www", 1))
				if content != nil || err == nil || errors.Is(err, os.ErrPermission) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %d bytes, %v", what, len(content), err)
				}
				time.Sleep(cacheOptions.Remember)
			}
		}
		if w := strings.Join(state(s, "www").Warnings, "\n"); !strings.Contains(w, "older versions that cannot be fetched again: 1, such as "+version(1)) {
			t.Errorf("the report warns of %q", w)
		}
		if n := strings.Count(log.String(), `msg="an older version cannot be read" url=https://contoso-web.vault.azure.net/secrets/www version=`+version(1)); n != 2 {
			t.Errorf("logged %d times, want once for each of the two:\n%s", n, log.String())
		}
		// Nor does it become current as something else.
		v.set(func() { v.secrets["www"] = v.made["www"][0] })
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) || state(s, "www").State != Stale {
			t.Errorf("%v; gone back to other bytes, shown is %s", err, p.shown("www"))
		}
		v.set(func() { v.made["www"][0] = was })
		if _, err := s.Load(t.Context(), p.node("www", 1)); err != nil {
			t.Error(err)
		}
		if w := strings.Join(state(s, "www").Warnings, "\n"); strings.Contains(w, "cannot be fetched again") {
			t.Errorf("the report still warns of %q", w)
		}
	})
}

// Whoever reads waits once, as long as he said, and learns why.
func TestReadOfAnOldVersionEndsInTime(t *testing.T) {
	const deadline = 3 * time.Second
	for name, test := range map[string]struct {
		err   error
		delay time.Duration
		after time.Duration
		want  error // nil: none of those that have an errno of their own
	}{
		"hanging":   {nil, time.Hour, deadline, context.DeadlineExceeded},
		"timeout":   {&vault.Error{Kind: vault.KindTimeout, Fact: "no answer"}, time.Second, time.Second, context.DeadlineExceeded},
		"forbidden": {&vault.Error{Kind: vault.KindForbidden, Fact: "no role"}, 0, 0, os.ErrPermission},
		"firewall":  {&vault.Error{Kind: vault.KindForbiddenNetwork, Fact: "not from here"}, 0, 0, os.ErrPermission},
		"disabled":  {&vault.Error{Kind: vault.KindDisabled, Fact: "disabled"}, 0, 0, os.ErrPermission},
		"deleted":   {&vault.Error{Kind: vault.KindNotFound, Fact: "deleted"}, 0, 0, nil},
		"gone":      {&vault.Error{Kind: vault.KindUnreachable, Fact: "refused"}, 0, 0, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			v, p, s := renewedOnce(t)
			v.set(func() { v.errs["www/"+version(1)], v.delay["www"] = test.err, test.delay })
			began := time.Now()
			read := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				content, err := s.Load(ctx, p.node("www", 1))
				if content != nil {
					t.Errorf("%s: %d bytes", name, len(content))
				}
				return err
			}
			for range 2 { // as the kernel does
				err := read()
				var le *LoadError
				if !errors.As(err, &le) || le.Version != certs.Version(version(1)) {
					t.Errorf("%s: %v", name, err)
				}
				for _, errno := range []error{context.DeadlineExceeded, os.ErrPermission} {
					if errors.Is(err, errno) != (errno == test.want) {
						t.Errorf("%s: %v is %v: %v", name, err, errno, errors.Is(err, errno))
					}
				}
			}
			if took := time.Since(began); took != test.after {
				t.Errorf("%s: %v for two reads, want %v", name, took, test.after)
			}
			v.set(func() { clear(v.errs); clear(v.delay) })
			time.Sleep(time.Minute)
			if err := readOK(s, p.node("www", 1)); err != nil {
				t.Errorf("%s: afterwards %v", name, err)
			}
		})
	}
}

func readOK(s *Syncer, n *tree.Node) error {
	content, err := s.Load(context.Background(), n)
	if err == nil && len(content) != n.Size {
		err = fmt.Errorf("%d bytes, want %d", len(content), n.Size)
	}
	return err
}

// renewedOnce has a certificate with an old version of which no bytes are held.
func renewedOnce(t *testing.T) (v *fakeVault, p *shelf, s *Syncer) {
	t.Helper()
	v, p = newFakeVault(t), &shelf{}
	v.put(t, "www", 1, leaf{})
	s = running(t, Options{Publisher: p}, holding(settings(t, v, time.Hour, "www"), 2, 0))
	<-s.Ready()
	renew(t, s, v, "www", 2)
	return v, p, s
}

// Whoever reads an old version of a vault that is known not to answer does not wait for it, and asks it nothing; when
// it answers the poller, it does so for readers.
func TestOldVersionOfAVaultThatIsDownIsNotAskedFor(t *testing.T) {
	for name, test := range map[string]struct {
		err  *vault.Error
		want error
	}{
		"timeout":   {&vault.Error{Kind: vault.KindTimeout, Fact: "no answer"}, context.DeadlineExceeded},
		"throttled": {&vault.Error{Kind: vault.KindThrottled, Fact: "too many requests"}, nil},
		"firewall":  {&vault.Error{Kind: vault.KindForbiddenNetwork, Fact: "not from here"}, os.ErrPermission},
		"identity":  {&vault.Error{Kind: vault.KindIdentity, Fact: "no such identity"}, nil},
		"no role":   {&vault.Error{Kind: vault.KindForbidden, Fact: "no role"}, os.ErrPermission}, // which says nothing of the vault
	} {
		synctest.Test(t, func(t *testing.T) {
			v, p, s := renewedOnce(t)
			v.set(func() { v.errs["www"], v.delay["www"] = test.err, time.Second })
			if err := s.Refresh(t.Context(), Match("www")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			var le *LoadError
			if err := readOK(s, p.node("www", 1)); !errors.As(err, &le) || test.want != nil && !errors.Is(err, test.want) || !errors.Is(le.Err, test.err) {
				t.Errorf("%s: %v", name, err)
			}
			took, asked := time.Since(began), v.times("www/"+version(1))
			if alone := test.err.Kind == vault.KindForbidden; alone != (asked == 1) || alone != (took == time.Second) {
				t.Errorf("%s: asked %d times for the old version, in %v", name, asked, took)
			}
			v.set(func() { clear(v.errs); clear(v.delay) })
			time.Sleep(lastRetry + cacheOptions.Remember)
			synctest.Wait()
			if err := readOK(s, p.node("www", 1)); err != nil {
				t.Errorf("%s: when it answers again: %v", name, err)
			}
		})
	}
}

// grep -r over a store full of old versions is no storm for the vault.
func TestReadsOfOldVersionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, holding(settings(t, v, time.Hour, "www"), 50, 0))
		<-s.Ready()
		renew(t, s, v, "www", 50)
		v.set(func() { v.delay["www"] = time.Second })
		var wait sync.WaitGroup
		failed := atomic.Int32{}
		for n := 1; n < 50; n++ {
			for range 3 {
				wait.Go(func() {
					if err := readOK(s, p.node("www", n)); err != nil {
						failed.Add(1)
					}
				})
			}
		}
		began := time.Now()
		wait.Wait()
		asked := 0
		for n := 1; n < 50; n++ {
			asked += v.times("www/" + version(n))
		}
		// 49 versions, 8 at a time for a second each.
		if took := time.Since(began); failed.Load() > 0 || asked != 49 || took != 7*time.Second {
			t.Errorf("%d reads failed; asked %d times in %v", failed.Load(), asked, took)
		}
	})
}

// The vault goes back to a version whose bytes have left the memory: they come with
// the answer that says so.
func TestVaultGoesBackToAVersionThatIsNotInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, 0))
		<-s.Ready()
		content := p.node("www", 1).Content()
		renew(t, s, v, "www", 2)
		before := p.node("www", 1)
		v.set(func() { v.secrets["www"] = v.made["www"][0] })
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(1) {
			t.Fatalf("%v; shown %s", err, p.shown("www"))
		}
		released()
		if n := p.node("www", 1); n.Away != nil || !bytes.Equal(n.Content(), content) || p.node("www", 2).Away == nil || v.times("www/"+version(1)) != 0 {
			t.Errorf("the first: %+v, the second: %+v", n.Away, p.node("www", 2).Away)
		}
		if err := readOK(s, p.node("www", 2)); err != nil {
			t.Error(err)
		}
		// Who has found it while it was away gets what is in memory now.
		misses := s.Report().Cache.Misses
		if err := readOK(s, before); err != nil || before.Away == nil || s.Report().Cache.Misses != misses {
			t.Errorf("%v; the cache was asked for what is current", err)
		}
	})
}

// What becomes current by itself is fetched before readers are led to it, and they
// stay where they are for as long as it cannot be.
func TestVersionThatBecomesCurrentAgainIsFetchedFirst(t *testing.T) {
	for name, limit := range map[string]int64{"held": 1 << 20, "not held": 0} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{until: time.Now().Add(100 * time.Hour)})
			s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{HoldNotYetValid: true}), 2, limit))
			<-s.Ready()
			v.put(t, "www", 2, leaf{until: time.Now().Add(time.Hour)}) // expires before its predecessor
			if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
				t.Fatal(err, p.shown("www"))
			}
			released()
			v.set(func() { v.errs["www/"+version(1)] = down })
			time.Sleep(time.Hour)
			synctest.Wait()
			if want := map[int64]int{0: 2}[limit]; want == 2 && p.shown("www") != version(2) || want == 0 && p.shown("www") != version(1) {
				t.Errorf("%s: at the end of the second, shown is %s", name, p.shown("www"))
			}
			// It is not forgotten on its way, though it is one more than is to be kept.
			if err := s.Change(t.Context(), holding(under(t, v, Policy{HoldNotYetValid: true}), 1, limit)); err != nil {
				t.Fatal(err)
			}
			v.set(func() { clear(v.errs) })
			time.Sleep(lastRetry)
			synctest.Wait()
			if n := p.node("www", 1); p.shown("www") != version(1) || n == nil || n.Away != nil {
				t.Errorf("%s: shown %s, %+v", name, p.shown("www"), n)
			}
			if limit > 0 && v.times("www/"+version(1)) != 0 {
				t.Errorf("%s: asked for", name)
			}
		})
	}
}

// Other views need the bytes of old versions; those that are not here are fetched
// while everything else goes on.
func TestChangedViewsOfOldVersions(t *testing.T) {
	views := tree.Views{Layouts: []tree.Layout{tree.V3, tree.PFX}, Password: "secret"}
	for name, limit := range map[string]int64{"held": 1 << 20, "not held": 0} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{})
			s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, limit))
			<-s.Ready()
			renew(t, s, v, "www", 2)
			set := holding(under(t, v, Policy{Views: []tree.Views{views}}), 2, limit)
			spec := set.Spec()
			spec.Entries[0].Views = views
			set.Spec = func() tree.Spec { return spec }
			v.set(func() { v.errs["www"] = down })
			if err := s.Change(t.Context(), set); err != nil {
				t.Fatal(err)
			}
			older := "contoso-web.www." + version(1) + ".pfx"
			if !p.has("contoso-web.www.pfx") || p.has(older) != (limit > 0) || p.node("www", 1) == nil {
				t.Errorf("%s: at once there are the new form of the current one: %v, and of the old one: %v", name, p.has("contoso-web.www.pfx"), p.has(older))
			}
			if limit > 0 {
				if err := readOK(s, p.named(older)); err != nil {
					t.Errorf("%s: the vault is needed: %v", name, err)
				}
			}
			v.set(func() { clear(v.errs) })
			time.Sleep(lastRetry)
			synctest.Wait()
			if !p.has(older) {
				t.Errorf("%s: the old version never has its new form", name)
			}
			for _, suffix := range []string{"", ".pfx"} {
				n := p.named("contoso-web.www." + version(1) + suffix)
				if err := readOK(s, n); err != nil || n.Away == nil {
					t.Errorf("%s: %s: %v, away: %v", name, n.Name, err, n.Away != nil)
				}
			}
		})
	}
}

// What a read had fetched for settings that have changed meanwhile is fetched anew.
func TestReadUnderWayWhenTheViewsChange(t *testing.T) {
	views := tree.Views{Layouts: []tree.Layout{tree.V3, tree.PFX}}
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, 1<<20))
		<-s.Ready()
		renew(t, s, v, "www", 2)
		key := cacheKey(source(t, "www").Key(), certs.Version(version(1)))
		former, _ := s.cache.Peek(key)
		set := holding(under(t, v, Policy{Views: []tree.Views{views}}), 2, 1<<20)
		spec := set.Spec()
		spec.Entries[0].Views = views
		set.Spec = func() tree.Spec { return spec }
		if err := s.Change(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		s.cache.Put(key, former) // as the read does that had begun before
		if err := readOK(s, p.named("contoso-web.www."+version(1)+".pfx")); err != nil || v.times("www/"+version(1)) != 1 {
			t.Errorf("%v; asked %d times", err, v.times("www/"+version(1)))
		}
	})
}

// Issuers that were fetched once need no network again, and what was good once is
// readable whatever a check says today.
func TestOldVersionIsNotCheckedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{issuer: "One"})
		issuer, checks := v.issuers["www"], 0
		var verdict error
		policy := Policy{Check: func(_ context.Context, b *certs.Bundle) (*certs.Bundle, []string, error) {
			checks++
			return b.WithIssuers([]*x509.Certificate{issuer}), nil, verdict
		}}
		s := running(t, Options{Publisher: p}, holding(under(t, v, policy), 2, 0))
		<-s.Ready()
		was := p.node("www", 1)
		if bytes.Count(was.Content(), []byte("BEGIN CERTIFICATE")) != 2 {
			t.Fatal("the check has added nothing: the test shows nothing")
		}
		renew(t, s, v, "www", 2)
		before := checks
		verdict = errors.New("not trusted any more")
		if content, err := s.Load(t.Context(), p.node("www", 1)); err != nil || !bytes.Equal(content, was.Content()) {
			t.Errorf("%v, %d bytes of %d", err, len(content), was.Size)
		}
		v.set(func() { v.secrets["www"] = v.made["www"][0] })
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(1) || checks != before {
			t.Errorf("%v; gone back, shown is %s; checked %d times more", err, p.shown("www"), checks-before)
		}
	})
}

// Another identity asks, with what the one before has fetched.
func TestOldVersionsUnderAnotherIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t), &shelf{}
		v.put(t, "www", 1, leaf{})
		s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, 1<<20))
		<-s.Ready()
		renew(t, s, v, "www", 2)
		changed := holding(under(t, v, Policy{}), 2, 1<<20)
		changed.Sources[0].Identity.ClientID = "another"
		spec := changed.Spec()
		spec.Entries[0].Certificate = changed.Sources[0].Key()
		former := p.node("www", 1)
		v.set(func() { v.errs["www"] = down })
		if err := s.Change(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		n := p.node("www", 1)
		if err := readOK(s, n); err != nil || n.ID != former.ID || n.Away.Certificate == former.Away.Certificate {
			t.Errorf("%v; %+v", err, n.Away)
		}
		if c := s.Report().Cache; c.Values != 1 {
			t.Errorf("what the other identity had is still held: %+v", c)
		}
	})
}

// A file that somebody has open when kvfs forgets its version is read for as long as
// the cache has it, and not for longer.
func TestFileOfAForgottenVersion(t *testing.T) {
	for name, limit := range map[string]int64{"held": 1 << 20, "not held": 0} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t), &shelf{}
			v.put(t, "www", 1, leaf{})
			s := running(t, Options{Publisher: p}, holding(under(t, v, Policy{}), 2, limit))
			<-s.Ready()
			renew(t, s, v, "www", 2)
			open := p.node("www", 1)
			renew(t, s, v, "www", 3)
			if p.node("www", 1) != nil {
				t.Fatal("it is still shown")
			}
			if err := readOK(s, open); (err == nil) != (limit > 0) || err != nil && !errors.Is(err, errForgotten) {
				t.Errorf("%s: %v", name, err)
			}
			if err := s.Change(t.Context(), settings(t, v, time.Hour)); err != nil || s.Report().Cache.Values != 0 {
				t.Errorf("%s: %v; the settings have the certificate no more, and %d of its versions are held", name, err, s.Report().Cache.Values)
			}
		})
	}
}
