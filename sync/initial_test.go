package sync

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/vault"
)

// journal notes when a vault was asked for a name.
type journal struct {
	*fakeVault
	mu sync.Mutex
	at map[string][]time.Time
}

func (j *journal) Get(ctx context.Context, id vault.Identity, ref vault.Ref) (*vault.Secret, error) {
	j.mu.Lock()
	j.at[ref.Name()] = append(j.at[ref.Name()], time.Now())
	j.mu.Unlock()
	return j.fakeVault.Get(ctx, id, ref)
}

// asked are the waits between the questions for a name.
func (j *journal) waits(name string) (waits []time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, at := range j.at[name] {
		if i > 0 {
			waits = append(waits, at.Sub(j.at[name][i-1]))
		}
	}
	return waits
}

var notFound = &vault.Error{Kind: vault.KindNotFound, Fact: "404", Hint: "create it"}

// lacking is a vault that has www, and not api.
func lacking(t *testing.T) *fakeVault {
	v := newFakeVault(t, "www", "api")
	v.set(func() { v.errs["api"] = notFound })
	return v
}

func requiring(s Settings) Settings {
	s.RequireInitialSync = true
	return s
}

// words is a log.
type words struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *words) count(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.text.String(), part)
}

func over(s *Syncer) bool {
	select {
	case <-s.Synced():
		return true
	default:
		return false
	}
}

func TestInitialSyncFailsAfter25TriesAndSucceedsWhenTheCertificateComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p, log := &journal{fakeVault: lacking(t), at: map[string][]time.Time{}}, &shelf{}, &words{}
		began := time.Now()
		s := running(t, Options{Publisher: p, Logger: slog.New(slog.NewTextHandler(log, nil))}, requiring(settings(t, v, time.Hour, "www", "api")))
		<-s.Ready()
		time.Sleep(6 * time.Second) // tries at about 0, 2 and 5 s
		synctest.Wait()
		got := s.Report().Initial
		want := Initial{Required: true, State: Transitioning, Available: 1, Total: 2, Try: 3, Of: 25, Next: got.Next}
		if next := got.Next.Sub(began); got != want || next < 8500*time.Millisecond || next > 10500*time.Millisecond || over(s) {
			t.Errorf("after 3 tries: %+v, want %+v; over: %v", got, want, over(s))
		}
		if p.shown("www") != version(1) {
			t.Error("what has come is not served meanwhile")
		}
		<-s.Synced()
		synctest.Wait()
		took, i := time.Since(began), s.Report().Initial
		if i.State != Failed || i.Try != 25 || took < 28*time.Minute || took > 36*time.Minute {
			t.Errorf("after %v: %+v", took, i)
		}
		waits := v.waits("api")
		if len(waits) != 24 {
			t.Fatalf("%d waits: %v", len(waits), waits)
		}
		for n, wait := range waits {
			if want := min(time.Duration(float64(2*time.Second)*pow(1.5, n)), 2*time.Minute); (wait - want).Abs() > want/10 {
				t.Errorf("wait %d is %v, want %v", n+1, wait, want)
			}
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if i := s.Report().Initial; i.State != Failed || time.Until(i.Next) > 15*time.Minute || len(v.waits("api")) < 24*4 {
			t.Errorf("a day later: %+v after %d tries", i, len(v.waits("api")))
		}
		v.set(func() { delete(v.errs, "api") })
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if i := s.Report().Initial; i.State != Success || i.Available != 2 || i.Try != 0 || !i.Next.IsZero() {
			t.Errorf("when it has come: %+v", i)
		}
		for _, c := range []struct {
			part  string
			times int
		}{{"the initial sync begins", 1}, {"the initial sync has failed", 1}, {"the initial sync is done", 1}} {
			if n := log.count(c.part); n != c.times {
				t.Errorf("the log says %d times %q", n, c.part)
			}
		}
		// What becomes of one later is no affair of the beginning.
		v.set(func() { v.errs["api"] = notFound })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if i := s.Report().Initial; i.State != Success || i.Available != 2 {
			t.Errorf("deleted later: %+v", i)
		}
	})
}

// Whoever cannot wait and refreshes uses up no try, also where it is the vault that fails and one try stands for all.
func TestRefreshUsesUpNoTryOfTheInitialSync(t *testing.T) {
	for name, err := range map[string]error{"not there": notFound, "down": down} {
		synctest.Test(t, func(t *testing.T) {
			v := newFakeVault(t, "www", "api", "web", "app")
			v.set(func() {
				for _, name := range []string{"www", "api", "web", "app"} { // a vault that answered one would be back for all
					v.errs[name] = err
				}
			})
			s := running(t, Options{Publisher: &shelf{}}, requiring(settings(t, v, time.Hour, "www", "api", "web", "app")))
			<-s.Ready()
			synctest.Wait()
			before := s.Report().Initial.Try
			for range 2 * initialTries {
				if err := s.Refresh(t.Context(), func(Source) bool { return true }); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if i := s.Report().Initial; i.State != Transitioning || i.Try != before || before == 0 || before > 2 {
				t.Errorf("%s: after so many wishes: %+v, %d tries before", name, i, before)
			}
			if n := state(s, "api").Failures; n <= initialTries {
				t.Errorf("%s: it has failed %d times", name, n)
			}
			<-s.Synced() // by the tries of its own, or for the time
			if i := s.Report().Initial; i.State != Failed {
				t.Errorf("%s: in the end: %+v", name, i)
			}
			v.set(func() { clear(v.errs) })
			time.Sleep(time.Hour)
			synctest.Wait()
			if i := s.Report().Initial; i.State != Success {
				t.Errorf("%s: when they are there: %+v", name, i)
			}
		})
	}
}

func pow(x float64, n int) float64 {
	p := 1.0
	for range n {
		p *= x
	}
	return p
}

func TestInitialSyncThatIsNotRequiredIsASuccessAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &words{}
		s := New(Options{Publisher: &shelf{}, Logger: slog.New(slog.NewTextHandler(log, nil))}, settings(t, lacking(t), time.Hour, "www", "api"))
		if i := s.Report().Initial; i != (Initial{State: Success, Total: 2}) || !over(s) || log.count("initial") != 0 {
			t.Errorf("%+v; over: %v", i, over(s))
		}
	})
}

func TestInitialSyncIsDoneWhenEachWasAvailableOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := lacking(t), &shelf{}
		s := running(t, Options{Publisher: p}, requiring(settings(t, v, time.Hour, "www", "api")))
		<-s.Ready()
		v.set(func() { v.errs["www"] = down; delete(v.errs, "api") })
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		<-s.Synced()
		if i := s.Report().Initial; i.State != Success || i.Available != 2 {
			t.Errorf("%+v, though www was there once", i)
		}
	})
}

// Readers see what the initial sync counts.
func TestInitialSyncWaitsForThePublication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &shelf{err: errors.New("no room")}
		s := running(t, Options{Publisher: p}, requiring(settings(t, newFakeVault(t, "www"), time.Hour, "www")))
		<-s.Ready()
		time.Sleep(time.Minute)
		synctest.Wait()
		if i := s.Report().Initial; i.State != Transitioning || i.Available != 0 {
			t.Errorf("%+v, and nothing was published", i)
		}
		p.fail(nil)
		<-s.Synced()
		if i := s.Report().Initial; i.State != Success || p.shown("www") == "" {
			t.Errorf("%+v", i)
		}
	})
}

// What can be had is available, and so is what the settings ask to hide.
func TestWhatIsAvailable(t *testing.T) {
	disabled := &vault.Error{Kind: vault.KindDisabled, Fact: "disabled"}
	for name, c := range map[string]struct {
		leaf   leaf
		policy Policy
		err    error
		state  State
		want   InitialState
	}{
		"chain without a key":          {leaf: leaf{keyless: true}, state: Partial, want: Success},
		"expired":                      {leaf: leaf{from: time.Unix(1e8, 0), until: time.Unix(2e8, 0)}, state: OK, want: Success},
		"expired, to be hidden":        {leaf: leaf{from: time.Unix(1e8, 0), until: time.Unix(2e8, 0)}, policy: Policy{HideExpired: true}, state: Hidden, want: Success},
		"not yet valid":                {leaf: leaf{from: time.Unix(2e9, 0), until: time.Unix(3e9, 0)}, policy: Policy{HoldNotYetValid: true}, state: OK, want: Success},
		"disabled":                     {err: disabled, state: Missing, want: Failed},
		"disabled, to be hidden":       {err: disabled, policy: Policy{HideDisabled: true}, state: Hidden, want: Success},
		"not there":                    {err: notFound, policy: Policy{HideDisabled: true, HideExpired: true}, state: Missing, want: Failed},
		"a vault that asks for a day":  {err: &vault.Error{Kind: vault.KindThrottled, Fact: "429", RetryAfter: 24 * time.Hour}, state: Missing, want: Failed},
		"refused, which is tried less": {policy: refusing, state: Missing, want: Failed},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := newFakeVault(t)
			v.put(t, "www", 1, c.leaf)
			if c.err != nil {
				v.set(func() { v.errs["www"], v.secrets["www"].Enabled = c.err, false }) // no older one is there to serve
			}
			wanted := requiring(under(t, v, c.policy))
			wanted.Interval = 24 * time.Hour
			s := running(t, Options{Publisher: &shelf{}}, wanted)
			began := time.Now()
			time.Sleep(10 * time.Minute)
			if err := s.Refresh(t.Context(), Match("www")); err != nil { // the poller looks at a time of its own
				t.Fatal(err)
			}
			<-s.Synced()
			if i, st := s.Report().Initial, state(s, "www"); i.State != c.want || st.State != c.state {
				t.Errorf("%s: the initial sync is %s, the certificate %s; want %s and %s", name, i.State, st.State, c.want, c.state)
			}
			if took := time.Since(began); took > initialPatience {
				t.Errorf("%s: it took %v", name, took)
			}
		})
	}
}

// Changed settings begin it anew for certificates that are new, and for nothing else.
func TestChangedSettingsBeginTheInitialSyncForNewCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, log := lacking(t), &words{}
		change := func(s *Syncer, names ...string) Initial {
			t.Helper()
			if err := s.Change(t.Context(), requiring(settings(t, v, time.Hour, names...))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return s.Report().Initial
		}
		s := running(t, Options{Publisher: &shelf{}, Logger: slog.New(slog.NewTextHandler(log, nil))}, requiring(settings(t, v, time.Hour, "www")))
		<-s.Synced()
		if i := change(s, "www", "api"); i.State != Transitioning || i.Available != 1 || i.Total != 2 || i.Try != 1 {
			t.Errorf("one that lacks was added: %+v", i)
		}
		without := requiring(settings(t, v, time.Hour, "www"))
		without.Retired = []Source{source(t, "api")}
		if err := s.Change(t.Context(), without); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if i := s.Report().Initial; i.State != Success || i.Total != 1 {
			t.Errorf("it was taken out again, and is shown for a while: %+v", i)
		}
		change(s, "www")
		if i := change(s, "www", "api"); i.State != Transitioning {
			t.Errorf("and added again: %+v", i)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if i := change(s, "api", "www"); i.State != Failed || i.Try < 25 {
			t.Errorf("the order alone has changed: %+v", i)
		}
		v.rotate(t, "new", 1)
		v.set(func() { v.errs["new"] = notFound })
		if i := change(s, "www", "api", "new"); i.State != Transitioning || i.Try != 1 || i.Total != 3 {
			t.Errorf("another was added, and the tries of before count: %+v", i)
		}
		err := s.Change(t.Context(), settings(t, v, time.Hour, "www", "api", "new"))
		if synctest.Wait(); err != nil || s.Report().Initial.State != Success {
			t.Errorf("no longer required: %v, %+v", err, s.Report().Initial)
		}
		if i := change(s, "www", "api", "new"); i.State != Transitioning {
			t.Errorf("required again: %+v", i)
		}
		v.set(func() { clear(v.errs) })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if i := change(s, "new", "www"); i.State != Success {
			t.Errorf("all are there: %+v", i)
		}
		if n := log.count("the initial sync begins"); n != 5 {
			t.Errorf("it has begun %d times, want 5", n)
		}
	})
}

// A process that takes over goes on with it where the one before was: the tries count
// on, and what was over is over.
func TestInitialSyncOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p, log := lacking(t), newRemembering(t), &words{}
		began := time.Now()
		opts := p.options()
		opts.Logger = slog.New(slog.NewTextHandler(log, nil))
		wanted := requiring(settings(t, v, time.Hour, "www", "api"))
		die := func() {}
		next := func(w Settings) *Syncer {
			t.Helper()
			die()
			ctx, stop := context.WithCancel(t.Context())
			s, ended := New(opts, w), make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			die = func() { stop(); <-ended }
			return s
		}
		defer func() { die() }()
		s := next(wanted)
		<-s.Ready()
		last := 0
		for death := range 5 {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			before := s.Report().Initial
			s = next(wanted)
			i := s.Report().Initial
			if i.State != Transitioning || i.Try != before.Try || i.Try <= last || over(s) {
				t.Errorf("after death %d: %+v, it was %+v", death+1, i, before)
			}
			last = i.Try
		}
		<-s.Synced()
		if i := s.Report().Initial; i.State != Failed || i.Try != 25 || time.Since(began) < 25*time.Minute || time.Since(began) > 33*time.Minute { // each death costs a try
			t.Errorf("after %v: %+v", time.Since(began), i)
		}
		synctest.Wait()
		if s = next(wanted); s.Report().Initial.State != Failed || !over(s) {
			t.Errorf("what had failed is %+v", s.Report().Initial)
		}
		v.set(func() { delete(v.errs, "api") })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		v.rotate(t, "new", 1)
		v.set(func() { v.errs["api"], v.errs["www"], v.errs["new"] = down, down, down })
		if s = next(wanted); s.Report().Initial.State != Success || !over(s) {
			t.Errorf("what was a success is %+v", s.Report().Initial)
		}
		// A successor that has settings which its predecessor did not get to.
		if s = next(requiring(settings(t, v, time.Hour, "www", "api", "new"))); s.Report().Initial.State != Transitioning || over(s) {
			t.Errorf("with a certificate more: %+v", s.Report().Initial)
		}
		for part, times := range map[string]int{"the initial sync begins": 2, "the initial sync has failed": 1, "the initial sync is done": 1} {
			if n := log.count(part); n != times {
				t.Errorf("the log says %d times %q, want %d", n, part, times)
			}
		}
	})
}

func TestInitialStates(t *testing.T) {
	none, one, both := Initial{Total: 2}, Initial{Available: 1, Total: 2}, Initial{Available: 2, Total: 2}
	tried := func(i Initial, n int) Initial { i.Try = n; return i }
	for i, c := range []struct {
		is     InitialState
		now    Initial
		passed time.Duration
		want   InitialState
	}{
		{Transitioning, none, 0, Transitioning},
		{Transitioning, tried(one, 24), 59 * time.Minute, Transitioning},
		{Transitioning, tried(one, 25), 0, Failed},
		{Transitioning, one, time.Hour, Failed},
		{Transitioning, both, 2 * time.Hour, Success},
		{Transitioning, Initial{}, 0, Success}, // of no certificates
		{Failed, one, 0, Failed},
		{Failed, both, 0, Success},
		{Success, tried(none, 99), 24 * time.Hour, Success},
	} {
		if got := c.is.after(c.now, c.passed); got != c.want {
			t.Errorf("case %d: %s, want %s", i, got, c.want)
		}
	}
}

func TestLoadingCountsWhatWasAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newFakeVault(t, "www", "api", "slow")
		v.set(func() { v.errs["api"] = notFound; v.delay["slow"] = time.Minute })
		began := time.Now()
		s := running(t, Options{Publisher: &shelf{}}, settings(t, v, time.Hour, "www", "api", "slow"))
		time.Sleep(time.Second)
		synctest.Wait()
		want := Loading{Done: 2, Total: 3, Failed: 1, Since: began}
		if got := s.Report().Loading; got == nil || *got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		<-s.Ready()
		if l, going := s.Loading(); going || s.Report().Loading != nil || l.Done != 3 || l.Failed != 1 {
			t.Errorf("when all were asked for: %+v, %v", l, going)
		}
		time.Sleep(time.Hour)
		v.rotate(t, "new", 1)
		v.set(func() { v.delay["new"] = time.Minute })
		changed := time.Now()
		done := make(chan error, 1)
		go func() { done <- s.Change(t.Context(), settings(t, v, time.Hour, "www", "api", "slow", "new")) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if l := s.Report().Loading; l == nil || l.Done != 3 || l.Total != 4 || !l.Since.Equal(changed) {
			t.Errorf("with a new one: %+v", l)
		}
		if err := <-done; err != nil || s.Report().Loading != nil {
			t.Errorf("%v; %+v", err, s.Report().Loading)
		}
	})
}

var refusing = Policy{Check: func(context.Context, *certs.Bundle) (*certs.Bundle, []string, error) {
	return nil, nil, &Refused{Kind: "untrusted", Fact: "it leads nowhere"}
}}
