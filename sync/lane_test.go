package sync

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/vault"
)

// many are a vault with certificates c0, c1 and so on, which were changed long ago.
func many(t testing.TB, n int) (v *fakeVault, names []string) {
	v = newFakeVault(t)
	v.dated = true
	one := bundle(t, 1)
	for i := range n {
		names = append(names, fmt.Sprint("c", i))
		v.make(names[i], 1, one)
	}
	time.Sleep(time.Minute)
	return v, names
}

// reads is how many secrets were read.
func (v *fakeVault) reads() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, times := range v.asked {
		if !strings.ContainsAny(name, "?/") {
			n += times
		}
	}
	return n
}

func TestListingStandsForReadingWhatIsUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 100)
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		if n := v.reads(); n != 100 {
			t.Fatalf("%d reads at first", n)
		}
		time.Sleep(20 * time.Hour)
		synctest.Wait()
		if n := v.reads(); n != 100 {
			t.Errorf("%d reads though nothing has changed", n-100)
		}
		if n := v.times("?"); n < 4*20 || n > 4*24 {
			t.Errorf("%d pages in 20 hours, want 4 an hour", n)
		}
		if n := s.Report().Counts; n.Tries < 100*20 || n.Tries > 100*25 || n.Failed != 0 { // a listing is a try of each
			t.Errorf("%+v", n)
		}
		for _, st := range s.Report().Certificates {
			if st.State != OK || time.Since(st.LastSuccess) > time.Hour || st.NextTry.Before(time.Now()) {
				t.Fatalf("%+v", st)
			}
		}
		if vs := s.Report().Vaults; len(vs) != 1 || vs[0].Listing != ListingUsed || vs[0].Pages != 4 {
			t.Errorf("%+v", vs)
		}
		time.Sleep(8 * time.Hour) // once a day each is read all the same
		synctest.Wait()
		if n := v.reads(); n != 200 {
			t.Errorf("%d reads in 28 hours, want two of each", n)
		}
	})
}

func TestRenewalIsFoundByListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 30)
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		time.Sleep(3 * time.Hour)
		v.rotate(t, "c7", 2)
		time.Sleep(time.Hour)
		synctest.Wait()
		if p.shown("c7") != version(2) || v.times("c7") != 2 || v.reads() != 31 {
			t.Errorf("after an interval it shows %s, read %d times, %d reads in all", p.shown("c7"), v.times("c7"), v.reads())
		}
	})
}

// Times have a resolution of one second: of two versions in the same one, the second may
// come after the first was read, and no listing would show it.
func TestTwoVersionsInOneSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 30)
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		time.Sleep(2 * time.Hour)
		v.rotate(t, "c7", 2)
		if err := s.Refresh(t.Context(), Match("c7")); err != nil || p.shown("c7") != version(2) {
			t.Fatalf("%v, %s", err, p.shown("c7"))
		}
		v.rotate(t, "c7", 3)
		time.Sleep(time.Hour)
		synctest.Wait()
		if p.shown("c7") != version(3) {
			t.Errorf("it shows %s", p.shown("c7"))
		}
	})
}

func TestRefusedListingFallsBackToReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 30)
		v.set(func() { v.errs["?"] = &vault.Error{Kind: vault.KindForbidden, Fact: "403"} })
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		time.Sleep(3 * time.Hour)
		v.rotate(t, "c7", 2)
		time.Sleep(time.Hour)
		synctest.Wait()
		if p.shown("c7") != version(2) || v.times("?") != 1 {
			t.Errorf("it shows %s; %d listings were tried", p.shown("c7"), v.times("?"))
		}
		if vs := s.Report().Vaults; len(vs) != 1 || vs[0].Listing != ListingRefused {
			t.Errorf("%+v", vs)
		}
		v.set(func() { delete(v.errs, "?") })
		time.Sleep(relist)
		synctest.Wait()
		before := v.reads()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := v.reads() - before; n > 30 || v.times("?") < 4 {
			t.Errorf("with the permission there were %d reads and %d listings", n, v.times("?"))
		}
	})
}

// Secrets that nobody here asks for make a listing longer than what it saves.
func TestVaultTooLargeToList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _ := many(t, 500)
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, "c1", "c2", "c3", "c4"))
		<-s.Ready()
		time.Sleep(20 * time.Hour)
		synctest.Wait()
		if n := v.times("?"); n != 3 {
			t.Errorf("%d pages were read of a listing of 20 for 4 certificates", n)
		}
		if n := v.reads(); n < 80 || n > 100 {
			t.Errorf("%d reads of 4 certificates in 20 hours", n)
		}
		if vs := s.Report().Vaults; len(vs) != 1 || vs[0].Listing != ListingLarge {
			t.Errorf("%+v", vs)
		}
	})
}

func TestDeletedDisabledAndNewAreSeenInListings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 30)
		absent := &vault.Error{Kind: vault.KindNotFound, Fact: "404"}
		v.set(func() { v.errs["c1"] = absent; delete(v.secrets, "c1") })
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		time.Sleep(30 * time.Hour) // by now it is asked for seldom
		synctest.Wait()
		v.set(func() {
			v.errs["c2"] = absent
			delete(v.secrets, "c2")
			v.errs["c3"] = &vault.Error{Kind: vault.KindDisabled, Fact: "403"}
			disabled := *v.secrets["c3"]
			disabled.Enabled = false
			v.secrets["c3"] = &disabled
			delete(v.errs, "c1")
		})
		v.rotate(t, "c1", 5)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		for name, want := range map[string]State{"c1": OK, "c2": Stale, "c3": Stale, "c4": OK} {
			if st := state(s, name); st.State != want {
				t.Errorf("%s: %+v", name, st)
			}
		}
		if p.shown("c1") != version(5) || p.shown("c2") != version(1) {
			t.Errorf("c1 at %s, c2 at %s", p.shown("c1"), p.shown("c2"))
		}
	})
}

// A vault that can be read and whose listings fail is read.
func TestListingsThatFailKeepNobodyFromReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 60)
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		v.set(func() { v.errs["?"] = down })
		time.Sleep(3 * time.Hour)
		for _, name := range names {
			v.rotate(t, name, 2)
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		for _, name := range names {
			if st := state(s, name); p.shown(name) != version(2) || st.State != OK {
				t.Fatalf("%s shows %s: %+v", name, p.shown(name), st)
			}
		}
		if n := v.times("?"); n > 20 {
			t.Errorf("%d listings were tried", n)
		}
		v.set(func() { delete(v.errs, "?") })
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		before := v.reads()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := v.reads() - before; n > 0 {
			t.Errorf("%d reads though listings work again", n)
		}
	})
}

// What is wrong with a version stays in the report after an outage: a listing that shows
// it unchanged does not make it good.
func TestListingMakesNothingGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{}
		v, names := many(t, 30)
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		v.make("c3", 2, []byte("no certificate"))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if st := state(s, "c3"); st.State != Stale || kind(st.Err) != "" {
			t.Fatalf("%+v", st)
		}
		v.fail(names, down)
		time.Sleep(5 * time.Hour)
		v.fail(names, nil)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if st := state(s, "c3"); st.State != Stale || kind(st.Err) != "" || p.shown("c3") != version(1) {
			t.Errorf("after an outage: %+v", st)
		}
		if st := state(s, "c4"); st.State != OK {
			t.Errorf("%+v", st)
		}
	})
}
