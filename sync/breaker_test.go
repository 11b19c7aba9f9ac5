package sync

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/vault"
)

// step is the longest wait between two tries of a vault that fails.
const step = lastRetry + lastRetry/10

func (v *fakeVault) fail(names []string, err error) {
	v.set(func() {
		for _, name := range append(names, "?") {
			if v.errs[name] = err; err == nil {
				delete(v.errs, name)
			}
		}
	})
}

// sum is how often anything was asked for.
func (v *fakeVault) sum() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, times := range v.asked {
		n += times
	}
	return n
}

// Three days in which everything fails that can fail: what was good is served all the time, the
// report says what is wrong with everything, and hardly anything is asked. Then all is
// well within one step.
func TestOutageOfThreeDays(t *testing.T) {
	for _, listed := range []bool{true, false} {
		t.Run(fmt.Sprint("listed=", listed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { outage(t, listed) })
		})
	}
}

func outage(t *testing.T, listed bool) {
	v, names := many(t, 100)
	v.dated = listed
	p := &shelf{}
	s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
	<-s.Ready()
	time.Sleep(3 * time.Hour)
	synctest.Wait()
	began := time.Now()
	for _, phase := range []struct {
		err  *vault.Error
		host bool // and not the identity
	}{
		{&vault.Error{Kind: vault.KindUnreachable, Fact: "no such host"}, true},
		{&vault.Error{Kind: vault.KindThrottled, Fact: "429, wait", RetryAfter: 30 * time.Second}, true},
		{&vault.Error{Kind: vault.KindThrottled, Fact: "429"}, true},
		{&vault.Error{Kind: vault.KindTimeout, Fact: "half-open"}, true},
		{&vault.Error{Kind: vault.KindServer, Fact: "503"}, true},
		{&vault.Error{Kind: vault.KindForbiddenNetwork, Fact: "firewall"}, true},
		{&vault.Error{Kind: vault.KindIdentity, Fact: "no token"}, false},
		{&vault.Error{Kind: vault.KindUnauthorized, Fact: "401"}, false},
	} {
		v.fail(names, phase.err)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		before := v.sum()
		time.Sleep(7 * time.Hour)
		synctest.Wait()
		if n := v.sum() - before; n < 7*25 || n > 7*60 {
			t.Errorf("%s: %d tries in 7 hours", phase.err, n)
		}
		for _, st := range s.Report().Certificates {
			if st.State != Stale || !errors.Is(st.Err, phase.err) || st.Failures == 0 || st.LastSuccess.After(began) || time.Since(st.LastAttempt) > 3*lastRetry/2 || st.NextTry.Before(time.Now()) {
				t.Fatalf("%s: %+v", phase.err, st)
			}
		}
		if vs := s.Report().Vaults; len(vs) != 1 || vs[0].Down.Before(began) || !errors.Is(vs[0].Err, phase.err) {
			t.Errorf("%s: %+v", phase.err, vs)
		}
	}
	for _, name := range names {
		v.rotate(t, name, 2)
	}
	v.fail(names, nil)
	time.Sleep(step)
	synctest.Wait()
	if vs := s.Report().Vaults; len(vs) != 1 || !vs[0].Down.IsZero() {
		t.Errorf("one step after the outage: %+v", vs)
	}
	time.Sleep(time.Hour / easing) // each has changed, and is a request of its own
	synctest.Wait()
	for _, name := range names {
		if st := state(s, name); st.State != OK || p.shown(name) != version(2) {
			t.Fatalf("after the outage: %+v", st)
		}
	}
	if len(p.empty) > 0 {
		t.Errorf("links that led to nothing: %v", p.empty)
	}
}

// An outage that left everything as it was is over for all with one listing.
func TestAfterAnOutageOneListingSaysThatAllIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 100)
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		v.fail(names, down)
		time.Sleep(72 * time.Hour)
		v.fail(names, nil)
		before := v.reads()
		time.Sleep(step)
		synctest.Wait()
		for _, st := range s.Report().Certificates {
			if st.State != OK {
				t.Fatalf("%+v", st)
			}
		}
		if n := v.reads() - before; n > 1 {
			t.Errorf("%d were read", n)
		}
	})
}

// One secret alone that makes its vault fail is no outage.
func TestSecretThatFailsAloneTakesNoneAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 40)
		v.dated = false
		v.set(func() { v.errs["c7"] = down })
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, 10*time.Minute, names...))
		<-s.Ready()
		for range 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, st := range s.Report().Certificates {
				if bad := st.Source.Ref.Name() == "c7"; bad != (st.State == Missing) || !bad && st.State != OK {
					t.Fatalf("%+v", st)
				}
			}
		}
		if vs := s.Report().Vaults; !vs[0].Down.IsZero() {
			t.Errorf("%+v", vs)
		}
	})
}

// A vault that is away at the start keeps nobody waiting: what every certificate has come
// to is known when three were tried.
func TestVaultThatIsAwayAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 1000)
		v.fail(names, &vault.Error{Kind: vault.KindTimeout, Fact: "half-open"})
		v.set(func() {
			for _, name := range names {
				v.delay[name] = 15 * time.Second
			}
		})
		began := time.Now()
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		if took := time.Since(began); took > 16*time.Second || v.sum() > perVault {
			t.Errorf("ready after %v and %d tries", took, v.sum())
		}
		for _, st := range s.Report().Certificates {
			if st.State != Missing || kind(st.Err) != vault.KindTimeout {
				t.Fatalf("%+v", st)
			}
		}
		v.fail(names, nil)
		v.set(func() { clear(v.delay) })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		for _, st := range s.Report().Certificates {
			if st.State != OK {
				t.Fatalf("%+v", st)
			}
		}
	})
}

// Whoever asks for a refresh does not wait for the next try, and hears what the vault
// says.
func TestRefreshInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 50)
		p := &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, names...))
		<-s.Ready()
		v.fail(names, down)
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		all := func(Source) bool { return true }
		before, began := v.sum(), time.Now()
		if err := s.Refresh(t.Context(), all); err != nil || time.Since(began) > time.Second || v.sum() != before+1 {
			t.Errorf("%v, after %v and %d tries", err, time.Since(began), v.sum()-before)
		}
		for _, name := range names {
			v.rotate(t, name, 2)
		}
		v.fail(names, nil)
		began = time.Now()
		if err := s.Refresh(t.Context(), all); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		for _, name := range names {
			if p.shown(name) != version(2) {
				t.Fatalf("%s is at %s", name, p.shown(name))
			}
		}
	})
}

// narrow is a vault that answers so many requests in a second, and 429 to the others.
type narrow struct {
	*fakeVault
	most, now int
	second    time.Time
	refused   int
}

func (v *narrow) Get(ctx context.Context, id vault.Identity, ref vault.Ref) (*vault.Secret, error) {
	v.mu.Lock()
	if second := time.Now().Truncate(time.Second); second != v.second {
		v.second, v.now = second, 0
	}
	v.now++
	over := v.now > v.most
	if over {
		v.refused++
	}
	v.mu.Unlock()
	if over {
		return nil, &vault.Error{Kind: vault.KindThrottled, Fact: "429"}
	}
	return v.fakeVault.Get(ctx, id, ref)
}

// A vault that has little room is asked for as much as it can give.
func TestThrottledVaultIsAskedForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, names := many(t, 200)
		v := &narrow{fakeVault: fake, most: 10}
		set := settings(t, fake, time.Hour, names...)
		set.Vault = v
		s := running(t, Options{Publisher: &shelf{}}, set)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for _, st := range s.Report().Certificates {
			if st.State != OK {
				t.Fatalf("%+v", st)
			}
		}
		if v.refused > 2*len(names) {
			t.Errorf("%d tries were refused to have %d certificates", v.refused, len(names))
		}
	})
}

func TestRoomAfterThrottling(t *testing.T) {
	h, now := newHost(), time.Unix(1e9, 0)
	for range 6 {
		h.throttled()
	}
	if h.open = true; h.room != 1 || h.level != 6 {
		t.Fatalf("room for %d, level %d", h.room, h.level)
	}
	for i, want := range []struct{ room, level int }{{2, 3}, {4, 3}, {8, 3}, {16, 3}, {perVault, 0}, {perVault, 0}} {
		if h.answered(now); h.room != want.room || h.level != want.level {
			t.Errorf("after %d answers there is room for %d, level %d; want %+v", i+1, h.room, h.level, want)
		}
	}
}

// A machine asks no vault for more than its part at once.
func TestOneMachineLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 2400)
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, names...))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := v.reads(); n < vaultBurst || n > vaultBurst+2*vaultRate {
			t.Errorf("%d reads in the first second", n)
		}
		<-s.Ready()
		if n := v.reads(); n != 2400 {
			t.Errorf("%d reads", n)
		}
	})
}

// What waits for its time goes by the clock on the wall, which may be set: nobody tells.
// Polls do not: their times count from the last one, however the clock is set.
func TestClockThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newFakeVault(t)
		v.put(t, "www", 1, leaf{})
		v.put(t, "www", 2, leaf{from: time.Now().Add(1000 * time.Hour)})
		set := settings(t, v, time.Hour, "www")
		set.Policy = func(Source) Policy { return Policy{HoldNotYetValid: true} }
		s := running(t, Options{Publisher: &shelf{}}, set)
		<-s.Ready()
		if r := (&runner{Syncer: s}); time.Until(r.wake()) > time.Hour {
			t.Error("nobody looks at the clock")
		}
	})
	for _, failures := range []int{0, 3} { // a bubble has no other clock
		c := certificate{failures: failures}
		if next := c.schedule(time.Now(), time.Hour, 0, 0.5); !strings.Contains(next.String(), " m=") {
			t.Errorf("the next poll is at %v, by the clock on the wall", next)
		}
	}
}

// Changed settings with a certificate of a vault that does not answer are in force at once.
func TestSettingsThatChangeInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, names := many(t, 10)
		set := settings(t, v, time.Hour, names[:9]...)
		s := running(t, Options{Publisher: &shelf{}}, set)
		<-s.Ready()
		v.fail(names, &vault.Error{Kind: vault.KindThrottled, Fact: "429", RetryAfter: 10 * time.Hour})
		time.Sleep(3 * time.Hour)
		began := time.Now()
		if err := s.Change(t.Context(), settings(t, v, time.Hour, names...)); err != nil || time.Since(began) > changePatience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if st := state(s, names[9]); st.State != Missing || kind(st.Err) != vault.KindThrottled {
			t.Errorf("%+v", st)
		}
		v.fail(names, nil)
		other := settings(t, v, time.Hour, names...)
		other.Vault = &narrow{fakeVault: v, most: 100} // another way to it
		if err := s.Change(t.Context(), other); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, name := range names {
			if st := state(s, name); st.State != OK {
				t.Errorf("%+v", st)
			}
		}
	})
}
