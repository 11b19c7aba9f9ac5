package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var nginx, haproxy = Action{Verb: Reload, Unit: "nginx.service"}, Action{HAProxy: "/run/haproxy.sock"}

// records are an image that outlives its runners.
type records struct{ all map[string][]byte }

func (r *records) All() map[string][]byte { return maps.Clone(r.all) }

func (r *records) Put(changes map[string][]byte) error {
	if r.all == nil {
		r.all = map[string][]byte{}
	}
	for name, value := range changes {
		if value == nil {
			delete(r.all, name)
		} else {
			r.all[name] = value
		}
	}
	return nil
}

// world is what a Runner sees and does.
type world struct {
	t       *testing.T
	records *records

	mu     sync.Mutex
	served map[string]*Certificate
	fails  func(a Action, try int) error
	takes  time.Duration
	tries  map[string]int
	done   []string // what was done, with when
	began  time.Time
}

func newWorld(t *testing.T) *world {
	return &world{t: t, records: &records{}, served: map[string]*Certificate{}, tries: map[string]int{}, began: time.Now()}
}

func (w *world) serve(key, version string, actions ...Action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.served[key]
	if c == nil {
		c = &Certificate{Key: key, Name: key, NotAfter: time.Now().Add(90 * 24 * time.Hour)}
		w.served[key] = c
	}
	if c.Version = version; actions != nil {
		c.Actions = actions
	}
}

// with changes the world while a Runner looks at it.
func (w *world) with(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) serving() (all []Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.served)) {
		all = append(all, *w.served[key])
	}
	return all
}

func (w *world) perform(ctx context.Context, a Action, changes []Change) ([]Change, string, error) {
	w.mu.Lock()
	w.tries[a.String()]++
	try, takes := w.tries[a.String()], w.takes
	var err error
	if w.fails != nil {
		err = w.fails(a, try)
	}
	said := fmt.Sprintf("%v %s:", time.Since(w.began).Round(time.Millisecond), a)
	for _, c := range changes {
		said += fmt.Sprintf(" %s %s>%s", c.Name, c.Old, c.New)
		if told := a.Command != nil || a.HAProxy != ""; told != slices.Equal(c.Paths, []string{"/tls/" + c.Key}) {
			w.t.Errorf("the links of %s are %q", c.Key, c.Paths)
		}
	}
	if err != nil {
		said += " failed"
	}
	w.done = append(w.done, said)
	w.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	if err != nil {
		return nil, "", err
	}
	return changes, "", nil
}

// run runs a Runner until stop is called.
func (w *world) run() (r *Runner, stop func()) {
	r = New(Options{Serving: w.serving, Paths: pathsBelow, Records: w.records, perform: w.perform, Seed: "machine"})
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	}
}

// is compares what was done with what was expected, and forgets it.
func (w *world) is(want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.done, want) {
		w.t.Errorf("done:\n  %s\nwant:\n  %s", strings.Join(w.done, "\n  "), strings.Join(want, "\n  "))
	}
	w.done = nil
}

func TestOneRunForAllThatWasRenewedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", "1", nginx)
		w.serve("b", "1", haproxy, nginx)
		w.serve("c", "", nginx)
		r, stop := w.run()
		defer stop()
		r.Look()
		time.Sleep(time.Minute)
		w.is() // the first load is no change

		w.serve("a", "2")
		r.Look()
		time.Sleep(gather / 2)
		w.serve("b", "2")
		w.serve("c", "1") // the first of it
		r.Look()
		time.Sleep(time.Minute)
		w.is("1m0.05s reload nginx.service: a 1>2 b 1>2", "1m0.075s haproxy /run/haproxy.sock: b 1>2")

		r.Look() // nothing is new
		time.Sleep(time.Hour)
		w.is()
	})
}

// Whoever has begun with what was there before finds the first renewal a moment later.
func TestRenewalRightAfterTheStartIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", "1", nginx)
		r, stop := w.run()
		defer stop()
		r.Look()
		w.serve("a", "2")
		r.Look()
		time.Sleep(time.Minute)
		w.is("50ms reload nginx.service: a 1>2")
	})
}

// onRecord calls a function at each record of a log.
type onRecord struct {
	slog.Handler
	call func()
}

func (h onRecord) Handle(context.Context, slog.Record) error {
	h.call()
	return nil
}

func (h onRecord) WithAttrs([]slog.Attr) slog.Handler { return h }

// News that come at any moment of a landing are not lost: neither those that come when an action ends nor those that
// come while that is taken down.
func TestNewsWhileAFlightLandsAreTakenUp(t *testing.T) {
	for _, during := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.takes = time.Second
			w.serve("a", "1", nginx)
			w.serve("b", "1", haproxy)
			var looks sync.WaitGroup
			version := 1
			renew := func() { w.serve("b", fmt.Sprint(version), haproxy) }
			var r *Runner
			logger := slog.New(onRecord{slog.NewTextHandler(io.Discard, nil), func() {
				if during && version%2 == 0 { // a's has landed; who logs has locked what Look wants to have
					version++
					renew()
					looks.Go(r.Look)
				}
			}})
			r = New(Options{Serving: w.serving, Paths: pathsBelow, Logger: logger, perform: w.perform})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()
			r.Look()
			synctest.Wait()
			for range 200 {
				version++ // an even number
				w.serve("a", fmt.Sprint(version))
				r.Look()
				time.Sleep(gather + w.takes) // it lands now
				if !during {
					version++
					renew()
					r.Look()
				}
				time.Sleep(10 * time.Second) // and the runner sleeps for an hour, but for the news
				synctest.Wait()
				looks.Wait()
				if pending := r.Report(); len(pending[0].Pending)+len(pending[1].Pending) > 0 || version%2 == 0 {
					t.Fatalf("during the landing: %t; version %d: %+v", during, version, pending)
				}
			}
			stop()
			<-ended
		})
	}
}

// What comes while an action is done is another run of it, for the newest alone.
func TestRenewalsDuringARunAreTheNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takes = time.Second
		w.serve("a", "1", nginx)
		w.serve("b", "1", nginx)
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		time.Sleep(gather + time.Millisecond)
		for _, v := range []string{"3", "4"} {
			w.serve("a", v)
			r.Look()
			synctest.Wait()
		}
		w.serve("b", "2")
		r.Look()
		if s := r.Report()[0]; s.State != Running {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
		w.is("50ms reload nginx.service: a 1>2", "1.05s reload nginx.service: a 2>4 b 1>2")
		if s := r.Report()[0]; s.State != Idle || s.Runs != 2 || s.Pending != nil || !s.LastSuccess.Equal(s.LastRun) {
			t.Errorf("%+v", s)
		}
	})
}

func TestFailuresAreTriedAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = func(_ Action, try int) error {
			if try < 12 {
				return &Error{Fact: "no", Hint: "mend it"}
			}
			return nil
		}
		w.serve("a", "1", nginx)
		w.serve("b", "1", haproxy)
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		time.Sleep(100 * time.Millisecond)
		if s := r.Report()[0]; s.State != Failing || s.Failures != 1 || s.Err == nil || s.Err.Hint != "mend it" || !slices.Equal(s.Pending, []string{"a"}) ||
			!s.Next.Equal(s.LastRun.Add(firstRetry)) {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Hour)
		var want []string
		for i, at := range []string{"50ms", "1.05s", "3.05s", "7.05s", "15.05s", "31.05s", "1m3.05s", "2m7.05s", "4m15.05s", "8m31.05s", "13m31.05s", "18m31.05s"} {
			want = append(want, at+" reload nginx.service: a 1>2"+map[bool]string{true: " failed"}[i < 11])
		}
		w.is(want...)
		if s := r.Report()[0]; s.State != Idle || s.Err != nil || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Whoever is killed leaves to the next one what is not done, as if it had found it itself.
func TestWhatIsPendingOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takes = time.Second
		w.serve("a", "1", nginx)
		r, stop := w.run()
		r.Look()
		synctest.Wait()
		stop()

		w.serve("a", "2") // the links moved, and nobody looked any more
		r, stop = w.run()
		r.Look()
		time.Sleep(100 * time.Millisecond)
		w.is("50ms reload nginx.service: a 1>2")
		stop() // in the middle

		w.serve("a", "3")
		r, stop = w.run()
		if got := r.Report(); len(got) > 0 {
			t.Errorf("before anybody has looked: %+v", got)
		}
		r.Look()
		time.Sleep(time.Minute)
		w.is("100ms reload nginx.service: a 1>3")
		stop()
		r, stop = w.run()
		defer stop()
		r.Look()
		time.Sleep(time.Minute)
		w.is()
		if s := r.Report()[0]; s.State != Idle || s.Runs != 1 || s.LastSuccess.IsZero() {
			t.Errorf("its history is lost: %+v", s)
		}
	})
}

// Who dies after the action and before its record does it again: at least once.
func TestActionWithoutARecordIsDoneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", "1", nginx)
		r, stop := w.run()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		time.Sleep(gather / 2)
		before := w.records.All()
		time.Sleep(time.Minute)
		stop()
		w.is("50ms reload nginx.service: a 1>2")
		w.records.all = before
		r, stop = w.run()
		defer stop()
		r.Look()
		time.Sleep(time.Minute)
		w.is("1m0.025s reload nginx.service: a 1>2")
	})
}

func TestActionsForOneUnitAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", "1", nginx, Action{Verb: Restart, Unit: "nginx.service", Timeout: time.Minute})
		w.serve("b", "1", Action{Verb: ReloadOrRestart, Unit: "nginx.service"}, Action{Verb: Reload, Unit: "other.service"})
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		w.serve("b", "2")
		r.Look()
		time.Sleep(time.Minute)
		synctest.Wait()
		w.with(func() { slices.Sort(w.done) })
		w.is("50ms reload other.service: b 1>2", "50ms restart nginx.service: a 1>2")
		for _, s := range r.Report() {
			if s.State != Idle || s.Runs != 1 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// haproxy takes one certificate at a time.
func TestOneHAProxyIsToldByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takes = time.Second
		w.serve("a", "1", Action{HAProxy: "/s", Name: "one"})
		w.serve("b", "1", Action{HAProxy: "/s", Name: "two"})
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		w.serve("b", "2")
		r.Look()
		time.Sleep(time.Minute)
		w.is("50ms haproxy /s one: a 1>2", "1.05s haproxy /s two: b 1>2")
	})
}

// A certificate that goes, or that is hidden for a while, is no renewal; settings that bring or take hooks do
// nothing by themselves.
func TestWhatIsNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", "1", nginx)
		w.serve("b", "1", nginx)
		r, stop := w.run()
		defer stop()
		look := func() {
			r.Look()
			time.Sleep(time.Minute)
		}
		look()
		w.serve("a", "")
		look()
		w.serve("a", "1")
		look()
		w.serve("a", "1", nginx, haproxy)
		look()
		w.with(func() { delete(w.served, "b") })
		look()
		w.serve("b", "2", nginx)
		look()
		w.is()
		w.serve("a", "2", haproxy)
		look()
		w.is("6m0.05s haproxy /run/haproxy.sock: a 1>2")
		w.serve("a", "1") // the vault has gone back
		look()
		w.is("7m0.05s haproxy /run/haproxy.sock: a 2>1")

		w.with(func() { clear(w.served) })
		look()
		if left := w.records.All(); len(left) > 0 || len(r.Report()) > 0 {
			t.Errorf("records are left: %q", left)
		}
	})
}

// Who mends an action that could not succeed need not wait for the next renewal; who takes it away has no more of it.
func TestMendedActionIsDoneForWhatWasPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = func(a Action, _ int) error {
			if a.Unit == "ngnix.service" {
				return errors.New("no such unit")
			}
			return nil
		}
		wrong := Action{Verb: Reload, Unit: "ngnix.service"}
		w.serve("a", "1", wrong, haproxy)
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		time.Sleep(10 * time.Second)
		w.with(func() { w.done = nil })
		w.serve("a", "2", nginx, haproxy)
		r.Look()
		time.Sleep(time.Hour)
		w.is("10s reload nginx.service: a 1>2")
		w.serve("a", "3", haproxy, wrong)
		r.Look()
		time.Sleep(10 * time.Second)
		w.with(func() { w.done = nil })
		w.serve("a", "3", haproxy)
		r.Look()
		time.Sleep(time.Hour)
		w.is()
	})
}

// A slow or hanging action keeps no other from being done.
// What has failed for one that is gone has failed no more, and the next renewal is no retry.
func TestFailuresEndWithWhatTheyWereFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = func(_ Action, try int) error {
			if try <= 8 {
				return errors.New("no")
			}
			return nil
		}
		w.serve("a", "1", nginx)
		w.serve("b", "1", nginx)
		r, stop := w.run()
		defer stop()
		r.Look()
		w.serve("a", "2")
		r.Look()
		time.Sleep(2 * time.Minute)
		if is := r.Report(); is[0].Failures < 5 || is[0].State != Failing {
			t.Fatalf("%+v", is)
		}
		w.with(func() { delete(w.served, "a"); w.done = nil })
		r.Look()
		if is := r.Report(); len(is) != 1 || is[0].Failures != 0 || is[0].Err != nil || is[0].State != Idle {
			t.Errorf("%+v", is)
		}
	})
}

func TestHangingActionHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takes = time.Hour
		w.serve("a", "1", nginx)
		w.serve("b", "1", haproxy)
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		time.Sleep(time.Second)
		w.with(func() { w.takes = 0 })
		w.serve("b", "2")
		r.Look()
		time.Sleep(time.Second)
		w.is("50ms reload nginx.service: a 1>2", "1.05s haproxy /run/haproxy.sock: b 1>2")
		time.Sleep(time.Minute)
		w.is("31.05s reload nginx.service: a 1>2") // after its time, and a pause
	})
}

// One that is taken from the settings while it is done is gone when it ends, and before that for those who ask.
func TestActionThatIsTakenAwayWhileItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takes = 10 * time.Second
		w.serve("a", "1", nginx)
		r, stop := w.run()
		defer stop()
		r.Look()
		w.serve("a", "2")
		r.Look()
		time.Sleep(time.Second)
		w.serve("a", "2", haproxy)
		r.Look()
		if got := r.Report(); len(got) != 1 || got[0].Action.HAProxy == "" {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Minute)
		w.is("50ms reload nginx.service: a 1>2", "1s haproxy /run/haproxy.sock: a 1>2")
		if got := w.records.All(); len(got) != 2 || len(r.jobs) != 1 {
			t.Errorf("%d jobs, records %q", len(r.jobs), got)
		}
	})
}

func TestPartOfARunThatHasFailedIsDoneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tries := newWorld(t), [][]string{}
		for _, key := range []string{"a", "b", "c"} {
			w.serve(key, "1", haproxy)
		}
		r := New(Options{Serving: w.serving, Records: w.records, perform: func(_ context.Context, _ Action, changes []Change) ([]Change, string, error) {
			var names []string
			for _, c := range changes {
				names = append(names, c.Name)
			}
			if tries = append(tries, names); len(tries) == 1 {
				return []Change{changes[0], changes[2]}, "", errors.New("b is refused")
			}
			return changes, "", nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = r.Run(ctx) }()
		r.Look()
		synctest.Wait()
		for _, key := range []string{"a", "b", "c"} {
			w.serve(key, "2")
		}
		r.Look()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(tries); got != "[[a b c] [b]]" {
			t.Error(got)
		}
	})
}

func TestWindowIsWaitedForUnlessTheCertificateExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		zone := time.Local
		time.Local = time.UTC
		defer func() { time.Local = zone }()
		night := Action{Command: []string{"/bin/true"}, Window: Window{From: 2 * 60, To: 4 * 60}}
		w.serve("a", "1", night)
		w.serve("b", "1", night)
		w.served["b"].NotAfter = time.Now().Add(13 * time.Hour)
		time.Sleep(12*time.Hour - time.Since(w.began)) // the bubble begins at midnight
		r, stop := w.run()
		defer stop()
		r.Look()
		synctest.Wait()
		w.serve("a", "2")
		r.Look()
		synctest.Wait()
		if s := r.Report()[0]; s.State != Waiting || s.Next.Format("15:04") != "02:00" {
			t.Errorf("%+v", s)
		}
		time.Sleep(13 * time.Hour)
		w.is()
		time.Sleep(2 * time.Hour)
		w.is("26h0m0s command /bin/true: a 1>2")
		time.Sleep(9 * time.Hour)
		w.serve("b", "2") // it has expired long ago
		r.Look()
		time.Sleep(time.Second)
		w.is("36h0m0.05s command /bin/true: b 1>2")
	})
}

func pathsBelow(keys []string) map[string][]string {
	all := map[string][]string{}
	for _, key := range keys {
		all[key] = []string{"/tls/" + key}
	}
	return all
}
