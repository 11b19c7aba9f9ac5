package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// desk is a Queue with what it works on. All of it is for one goroutine, and those of Run while that one waits for them.
type desk struct {
	t       *testing.T
	all     map[string]Certificate
	quiet   sync.Mutex // held to write to all what nobody announces
	records map[string][]byte
	log     bytes.Buffer
	between time.Duration // rounds
	full    bool          // nothing can be put
	put     []string      // names of records
	*Queue
	end func()
}

func (d *desk) All() map[string][]byte { return maps.Clone(d.records) }

func (d *desk) Put(changes map[string][]byte) error {
	if d.full {
		return errors.New("full")
	}
	d.put = append(d.put, slices.Sorted(maps.Keys(changes))...)
	for name, b := range changes {
		if d.records[name] = b; b == nil {
			delete(d.records, name)
		}
	}
	return nil
}

func (d *desk) certificates() []Certificate {
	d.quiet.Lock()
	defer d.quiet.Unlock()
	return slices.Collect(maps.Values(d.all))
}

// begin takes over from a queue before, if there was one.
func (d *desk) begin(hooks ...Hook) {
	pause := func(failures int) time.Duration { return time.Duration(failures) * time.Minute }
	d.Queue = NewQueue(QueueOptions{Certificates: d.certificates, Pause: pause, Records: d,
		Logger: slog.New(slog.NewTextHandler(&d.log, nil))})
	d.Set(hooks, rules, d.between)
	ctx, stop := context.WithCancel(d.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	d.end = func() {
		stop()
		if err := <-ended; err != context.Canceled {
			d.t.Error(err)
		}
	}
}

// pass lets time pass, and what is to be done then be done.
func (d *desk) pass(t time.Duration) {
	d.Look() // at what the test has changed
	time.Sleep(t)
	synctest.Wait()
}

// check says what there is to say now.
func (d *desk) check() {
	notices, said, _ := rules.Check(time.Now(), slices.Collect(maps.Values(d.all)), d.Said())
	d.Add(said, notices)
	synctest.Wait()
}

// status of the first hook.
func (d *desk) status() Status { return d.Report()[0] }

func newDesk(t *testing.T) *desk {
	return &desk{t: t, all: map[string]Certificate{}, records: map[string][]byte{}}
}

// add has a certificate that is read now, or has not been for a day.
func (d *desk) add(name string, life time.Duration, stale bool) {
	c := Certificate{Key: "key of " + name, Name: "contoso-web." + name, URL: "https://contoso-web.vault.azure.net/secrets/" + name, Version: "v1",
		NotAfter: time.Now().Add(life), LastRead: time.Now(), Since: time.Now().Add(-48 * time.Hour)}
	if stale {
		c.LastRead = time.Now().Add(-24 * time.Hour)
	}
	d.all[c.Key] = c
}

// ear is a hook that remembers what it was told.
type ear struct {
	Hook
	heard []string // kind and names, after the minutes since the first one began
	fails int      // so many times from now on
	hold  chan struct{}
	began time.Time
	size  int // of the greatest environment
}

func listen(id string) *ear {
	e := &ear{began: time.Now()}
	e.Hook = Hook{ID: id, Name: "hook " + id, Tell: e.tell}
	return e
}

func (e *ear) tell(ctx context.Context, b Batch) *Failure {
	var names []string
	for _, n := range b {
		names = append(names, strings.TrimPrefix(n.Name, "contoso-web."))
	}
	e.heard = append(e.heard, fmt.Sprintf("%.0f %s %s", time.Since(e.began).Minutes(), b[0].Kind, strings.Join(names, " ")))
	e.size = max(e.size, len(strings.Join(b.Environment(), "\x00")))
	if e.hold != nil {
		select {
		case <-e.hold:
		case <-ctx.Done():
			return &Failure{"interrupted", "none"}
		}
	}
	if e.fails--; e.fails >= 0 {
		return &Failure{"it fails", "mend it"}
	}
	return nil
}

func (e *ear) heardOnly(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(e.heard, want) {
		t.Errorf("%s heard %q, want %q", e.Name, e.heard, want)
	}
}

func TestOneRunForAllNoticesOfAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		d.between = time.Hour // which is between rounds, not between batches
		for i := range 10_000 {
			d.add(fmt.Sprintf("certificate-%05d", i), 365*day, true)
		}
		for _, name := range []string{"a", "b", "c"} {
			d.add(name+"-soon", 5*day, false)
			d.add(name+"-over", -day, false)
		}
		d.begin(e.Hook)
		defer d.end()
		d.check()
		if len(e.heard) < 3 || e.heard[0] != "0 expired a-over b-over c-over" || e.heard[1] != "0 expires a-soon b-soon c-soon" {
			t.Fatalf("%d runs, the first of them %.100q", len(e.heard), e.heard[:2])
		}
		told := map[string]int{}
		for _, run := range e.heard[2:] {
			for _, name := range strings.Fields(run)[2:] {
				told[name]++
			}
		}
		for name, n := range told {
			if n != 1 {
				t.Errorf("told %d times of %s", n, name)
			}
		}
		if len(told) != 10_000 || len(e.heard) > 20 || e.size > maxEnvironment+1024 || e.size < maxEnvironment/2 {
			t.Errorf("told of %d in %d runs, with at most %d bytes", len(told), len(e.heard), e.size)
		}
		if s := d.status(); s.State != Idle || s.Runs != len(e.heard) || s.Pending != nil || s.LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		d.check()
		if n := len(e.heard); n != int(d.status().Runs) || len(d.records) != 10_006+1 {
			t.Errorf("told again, or still to be told: %d runs", n)
		}
	})
}

// Where a vault cannot be reached, what is read once an hour is noticed for an hour, one by one.
func TestFewRoundsForNoticesThatComeOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		d.between = 7 * time.Minute
		for i := range 200 {
			d.add(fmt.Sprintf("certificate-%03d", i), 365*day, false)
			c := d.all[fmt.Sprintf("key of certificate-%03d", i)]
			c.LastRead = c.LastRead.Add(time.Duration(i) * time.Hour / 200)
			d.all[c.Key] = c
		}
		d.begin(e.Hook)
		d.pass(rules.Stale)
		for range 200 {
			d.check()
			d.pass(time.Hour / 200)
		}
		if s := d.status(); len(s.Pending) == 0 || s.State != Waiting || s.Next.Sub(s.LastSuccess) != d.between {
			t.Errorf("%+v", s)
		}
		d.end()
		d.begin(e.Hook) // who takes over rests for the remainder
		d.pass(d.between)
		d.end()
		if len(e.heard) != 10 || e.heard[0] != "180 stale certificate-000" || d.status().Pending != nil {
			t.Errorf("%.100q", e.heard)
		}
		told := map[string]int{}
		for _, run := range e.heard {
			for _, name := range strings.Fields(run)[2:] {
				told[name]++
			}
		}
		if len(told) != 200 || slices.Max(slices.Collect(maps.Values(told))) != 1 {
			t.Errorf("told of %d, of one %d times", len(told), slices.Max(slices.Collect(maps.Values(told))))
		}
	})
}

func TestFailuresAreTriedAgainAndHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, bad, good, hangs := newDesk(t), listen("bad"), listen("good"), listen("hangs")
		bad.fails, hangs.hold = 3, make(chan struct{})
		d.add("soon", 5*day, false)
		d.begin(bad.Hook, hangs.Hook, good.Hook, bad.Hook)
		defer d.end()
		d.check()
		good.heardOnly(t, "0 expires soon")
		hangs.heardOnly(t, "0 expires soon")
		if s := d.status(); len(d.Report()) != 3 || s.State != Failing || s.Failures != 1 || *s.Err != (Failure{"it fails", "mend it"}) ||
			!slices.Equal(s.Pending, []string{"contoso-web.soon"}) || s.Next.Sub(s.LastRun) != time.Minute {
			t.Errorf("%+v", s)
		}
		if s := d.Report()[1]; s.State != Running || s.Pending == nil {
			t.Errorf("%+v", s)
		}
		d.pass(90 * time.Second)
		d.add("over", -day, false)
		d.check()
		good.heardOnly(t, "0 expires soon", "2 expired over")
		d.pass(time.Hour)
		bad.heardOnly(t, "0 expires soon", "1 expires soon", "3 expired over", "6 expires soon", "6 expired over")
		close(hangs.hold)
		synctest.Wait()
		hangs.heardOnly(t, "0 expires soon", "62 expired over")
		for _, s := range d.Report() {
			if s.State != Idle || s.Err != nil || s.Failures != 0 || s.Runs != 2 {
				t.Errorf("%+v", s)
			}
		}
		if n := strings.Count(d.log.String(), "a hook has failed"); n != 1 {
			t.Errorf("said %d times why it fails:\n%s", n, &d.log)
		}
	})
}

// A program may know only some of what it is told, or be told more than it can bear.
func TestWhatAlwaysFailsKeepsNothingElseFromBeingTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		tell := e.Tell
		e.Tell = func(ctx context.Context, b Batch) *Failure {
			if _ = tell(ctx, b); b[0].Kind != Stale {
				return &Failure{"it knows only what is stale", "mend it"}
			}
			return nil
		}
		d.add("over", -day, false)
		d.add("soon", 5*day, false)
		d.add("unread", 365*day, true)
		d.begin(e.Hook)
		defer d.end()
		d.check()
		d.pass(4 * time.Minute)
		e.heardOnly(t, "0 expired over", "1 expires soon", "3 stale unread", "3 expired over", "4 expires soon")
		if s := d.status(); s.State != Failing || s.Runs != 1 || !slices.Equal(s.Pending, []string{"contoso-web.over", "contoso-web.soon"}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatIsNotTrueAnyMoreIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		e.fails = 1000
		for _, name := range []string{"renewed", "removed"} {
			d.add(name, 5*day, false)
		}
		d.add("later-over", time.Minute/2, false)
		d.add("read", 365*day, true)
		d.add("unread", 365*day, true)
		d.begin(e.Hook)
		defer d.end()
		d.check()
		e.heardOnly(t, "0 expires later-over removed renewed")
		edit := func(name string, how func(*Certificate)) {
			c := d.all["key of "+name]
			how(&c)
			d.all[c.Key] = c
		}
		delete(d.all, "key of removed")
		edit("renewed", func(c *Certificate) { c.Version, c.NotAfter = "v2", time.Now().Add(90*day) })
		edit("read", func(c *Certificate) { c.LastRead = time.Now() })
		d.pass(time.Minute + time.Second)
		d.check() // what it says itself is that one has expired
		if s := d.status(); !slices.Equal(s.Pending, []string{"contoso-web.later-over", "contoso-web.unread"}) {
			t.Errorf("%+v", s)
		}
		e.heard, e.fails = nil, 0
		d.pass(time.Hour)
		if len(e.heard) != 2 || !strings.HasSuffix(e.heard[0], " expired later-over") || !strings.HasSuffix(e.heard[1], " stale unread") {
			t.Errorf("%q", e.heard)
		}

		// Where nothing is left to tell of, nothing fails any more, at once.
		e.fails = 1000
		d.add("soon", 5*day, false)
		d.check()
		if s := d.status(); s.State != Failing {
			t.Errorf("%+v", s)
		}
		edit("soon", func(c *Certificate) { c.Version = "v2" })
		d.Look()
		synctest.Wait()
		if s := d.status(); s.State != Idle || s.Err != nil || s.Pending != nil {
			t.Errorf("%+v", s)
		}
	})
}

// What comes while a hook is being told is told it afterwards, and nothing is left of one that goes meanwhile.
func TestWhatChangesWhileAHookIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		e.hold = make(chan struct{})
		d.add("over", -day, false)
		d.add("soon", 5*day, false)
		d.begin(e.Hook)
		defer d.end()
		d.check()
		e.heardOnly(t, "0 expired over")
		renew := func(name, version string) {
			c := d.all["key of "+name]
			c.Version = version
			d.all[c.Key] = c
			d.check()
		}
		renew("over", "v2") // which has expired, too
		close(e.hold)
		synctest.Wait()
		e.heardOnly(t, "0 expired over", "0 expires soon", "0 expired over")

		e.fails = 1
		renew("over", "v3")
		c := d.all["key of over"]
		c.Version = "v4"
		d.all[c.Key] = c
		d.pass(time.Hour) // before anything is said of it
		e.heardOnly(t, "0 expired over", "0 expires soon", "0 expired over", "0 expired over")

		e.hold = make(chan struct{})
		d.check()
		d.Set(nil, rules, 0)
		close(e.hold)
		synctest.Wait()
		if len(d.records) != 2 || d.records["skey of over"] == nil || d.records["skey of soon"] == nil {
			t.Errorf("%q", d.records)
		}
	})
}

func TestSuccessorTellsWhatItsPredecessorCouldNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		d.add("soon", 5*day, false)
		d.add("unread", 365*day, true)
		since := d.all["key of unread"].LastRead
		e.hold = make(chan struct{})
		d.begin(e.Hook)
		d.check()
		d.end() // in the middle of a run, which is no failure
		e.heardOnly(t, "0 expires soon")
		if s := d.status(); s.Failures != 0 || len(s.Pending) != 2 {
			t.Errorf("%+v", s)
		}

		e.heard, e.hold, e.fails = nil, nil, 1
		d.pass(time.Minute)
		for key, c := range d.all { // it knows of fewer reads
			c.Since, c.LastRead, c.Tried = time.Now(), time.Time{}, time.Now().Add(time.Second)
			d.all[key] = c
		}
		d.begin(e.Hook)
		synctest.Wait()
		d.check()
		d.end()
		e.heardOnly(t, "1 expires soon")

		d.pass(time.Second)
		var told Batch
		tell := e.Tell
		e.Tell = func(ctx context.Context, b Batch) *Failure {
			told = append(told, b...)
			return tell(ctx, b)
		}
		d.begin(e.Hook)
		synctest.Wait()
		e.heardOnly(t, "1 expires soon") // not at once, though it is another process
		if s := d.status(); s.State != Failing || s.Failures != 1 || s.Err.Fact != "it fails" {
			t.Errorf("%+v", s)
		}
		d.pass(time.Minute)
		e.heardOnly(t, "1 expires soon", "2 expires soon", "2 stale unread")
		if n := told[1]; !n.quiet().Equal(since) || n.For.Round(time.Hour) != 24*time.Hour {
			t.Errorf("nothing was read since %v, for %v; want since %v", n.quiet(), n.For, since)
		}
		d.check()
		d.end()
		if d.begin(e.Hook); d.status().Runs != 2 || len(e.heard) != 3 {
			t.Errorf("%+v, %q", d.status(), e.heard)
		}
		d.end()
		d.begin()
		d.end()
		if len(d.records) != 2 || d.records["skey of soon"] == nil || d.records["skey of unread"] == nil {
			t.Errorf("a hook that the settings have no more is still known: %q", d.records)
		}
	})
}

// What a process of an earlier version has left is one record of all that it has said, and one for each hook.
func TestRecordsOfEarlierVersionsAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		d.add("soon", 5*day, false)
		d.add("later", 90*day, false)
		d.add("over", -day, false)
		d.records[""] = []byte(`{"key of soon":{"version":"v1","left":604800000000000},"key of over":{"version":"v1","left":0}}`)
		d.records["ha"] = []byte(`{"owed":[{"kind":"expired","key":"key of over","name":"contoso-web.over","version":"v1"}],"runs":7,"tried":"1999-12-31T23:00:00Z","succeeded":"1999-12-31T23:00:00Z"}`)
		e.fails = 1
		d.begin(e.Hook)
		if want := (Said{"key of soon": {Version: "v1", Left: 7 * day}, "key of over": {Version: "v1"}}); !reflect.DeepEqual(d.Said(), want) {
			t.Errorf("%+v", d.Said())
		}
		d.check()
		d.end()
		e.heardOnly(t, "0 expired over") // in vain
		d.begin(e.Hook)
		defer d.end()
		d.pass(time.Minute)
		e.heardOnly(t, "0 expired over", "1 expired over")
		var soon Saying
		if err := json.Unmarshal(d.records["skey of soon"], &soon); err != nil || len(d.records) != 3 || d.records["skey of over"] == nil || soon.Left != 7*day || d.status().Runs != 8 {
			t.Errorf("%q, %v, %+v", d.records, err, d.status())
		}
	})
}

// What is kept of thousands of certificates that become stale one by one is written once.
func TestWhatHasNotChangedIsNotWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		e.fails = 1000
		for i := range 100 {
			d.add(fmt.Sprint("unread-", i), 365*day, true)
		}
		d.begin(e.Hook)
		d.check()
		wrote := func(want ...string) {
			t.Helper()
			if !slices.Equal(d.put, want) {
				t.Errorf("wrote %q, want %q", d.put, want)
			}
			d.put = nil
		}
		d.put = nil
		d.check()
		wrote()
		d.add("late", 365*day, true)
		d.check()
		wrote("ha/stale/key of late", "skey of late")
		d.pass(time.Minute)
		wrote("ha") // how often it has failed

		// What could not be written is, later.
		d.full = true
		d.add("soon", 5*day, false)
		d.check()
		wrote()
		d.full = false
		d.pass(time.Hour)
		d.end()
		e.fails, e.heard = 0, nil
		d.begin(e.Hook)
		defer d.end()
		d.pass(time.Hour)
		if got := strings.Join(e.heard, "\n"); len(e.heard) != 2 || !strings.HasSuffix(e.heard[0], " expires soon") || strings.Count(got, "unread-") != 100 || !strings.Contains(got, " late ") {
			t.Errorf("%.200q", e.heard)
		}
	})
}

// A certificate may have been read again by the process before, which writes no record of that alone.
func TestSuccessorTellsNobodyOfWhatMayHaveBeenReadBeforeItHasTried(t *testing.T) {
	for _, readable := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d, e := newDesk(t), listen("a")
			d.between = time.Minute
			e.fails = 1000
			d.add("unread", 365*day, true)
			d.begin(e.Hook)
			d.check()
			d.end()
			e.heard, e.fails = nil, 0
			d.pass(time.Hour)
			c := d.all["key of unread"]
			c.Since, c.Tried = time.Now(), c.LastRead
			d.all[c.Key] = c
			d.begin(e.Hook)
			defer d.end()
			d.pass(time.Hour)
			if s := d.status(); !slices.Equal(s.Pending, []string{"contoso-web.unread"}) {
				t.Errorf("%+v", s)
			}
			e.heardOnly(t)
			d.add("soon", 5*day, false) // of which all is known
			d.check()
			e.heardOnly(t, "120 expires soon")
			if c.Tried = time.Now(); readable {
				c.LastRead = time.Now()
			}
			d.quiet.Lock()
			d.all[c.Key] = c
			d.quiet.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if readable {
				e.heardOnly(t, "120 expires soon")
			} else {
				e.heardOnly(t, "120 expires soon", "121 stale unread")
			}
			if s := d.status(); s.State != Idle || s.Pending != nil {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A hook neither rests nor waits for the next try until a clock that was set back is where it was.
func TestClockThatWasSetBackSilencesNobody(t *testing.T) {
	for _, history := range []string{`{"runs":1,"tried":"2000-01-01T00:00:00Z","succeeded":"2000-02-01T00:00:00Z"}`, // as synctest begins
		`{"runs":1,"failures":3,"tried":"2000-02-01T00:00:00Z","succeeded":"2000-02-01T00:00:00Z"}`} {
		synctest.Test(t, func(t *testing.T) {
			d, e := newDesk(t), listen("a")
			d.between = time.Hour
			e.fails = 1
			d.add("soon", 5*day, false)
			d.records["ha"] = []byte(history)
			d.begin(e.Hook)
			defer d.end()
			d.check()
			e.heardOnly(t, "0 expires soon")
			d.pass(time.Hour) // a failure now is one of this clock
			if s := d.status(); len(e.heard) != 2 || s.State != Idle || s.Runs != 2 {
				t.Errorf("%q, %+v", e.heard, s)
			}
		})
	}
}

func TestRecordsOfAnotherFormatAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		d.add("soon", 5*day, false)
		d.records[""], d.records["ha"] = []byte(`[]`), []byte(`{"owed": 5}`)
		d.begin(e.Hook)
		defer d.end()
		d.check()
		e.heardOnly(t, "0 expires soon")
		if n := strings.Count(d.log.String(), "not known any more"); n != 2 {
			t.Errorf("%d records are named:\n%s", n, &d.log)
		}
	})
}

func TestWhatTheRulesDoNotAskForAnyMoreIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, e := newDesk(t), listen("a")
		e.fails = 1000
		d.add("soon", 5*day, false)
		d.add("sooner", day/2, false)
		d.add("over", -day, false)
		d.add("unread", 365*day, true)
		d.add("unread-longer", 365*day, true)
		longer := d.all["key of unread-longer"]
		longer.LastRead = longer.LastRead.Add(-2 * time.Hour)
		d.all[longer.Key] = longer
		d.begin(e.Hook)
		defer d.end()
		d.check()
		pending := func(r Rules, want ...string) {
			t.Helper()
			d.Set([]Hook{e.Hook}, r, 0)
			synctest.Wait()
			for i, name := range want {
				want[i] = "contoso-web." + name
			}
			if s := d.status(); !slices.Equal(s.Pending, want) {
				t.Errorf("%q are still to be told, want %q", s.Pending, want)
			}
		}
		pending(rules, "over", "soon", "sooner", "unread", "unread-longer")
		pending(Rules{Expiry: []time.Duration{day}, Stale: rules.Stale}, "over", "sooner", "unread", "unread-longer")
		pending(Rules{Expiry: []time.Duration{day}, Stale: 25 * time.Hour}, "over", "sooner", "unread-longer")
		pending(Rules{Expiry: []time.Duration{day}}, "over", "sooner")
		pending(Rules{}, "over")
		e.heard, e.fails = nil, 0
		d.pass(time.Hour)
		if len(e.heard) != 1 || !strings.HasSuffix(e.heard[0], " expired over") {
			t.Errorf("%q", e.heard)
		}
	})
}

func TestMendedHookIsToldWhatTheBrokenOneWasNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, broken, other, mended := newDesk(t), listen("broken"), listen("other"), listen("mended")
		broken.fails = 1000
		d.add("soon", 5*day, false)
		d.begin(broken.Hook, other.Hook)
		defer d.end()
		d.check()
		d.Set([]Hook{other.Hook, mended.Hook}, rules, 0)
		synctest.Wait()
		mended.heardOnly(t, "0 expires soon")
		other.heardOnly(t, "0 expires soon")
		d.pass(time.Hour)
		broken.heardOnly(t, "0 expires soon")
		later := listen("later")
		d.Set([]Hook{other.Hook, mended.Hook, later.Hook}, rules, 0)
		synctest.Wait()
		later.heardOnly(t) // what was said before it came is not for it
		if _, ok := d.records["hbroken"]; ok || len(d.Report()) != 3 {
			t.Errorf("%q, %+v", slices.Collect(maps.Keys(d.records)), d.Report())
		}
	})
}

// A hook in whose place another one comes is ended, and the other one waits for that: as with another name or time for the same
// command, which is not to run beside itself.
func TestHookThatTakesOverWaitsUntilTheOtherOneHasEnded(t *testing.T) {
	for _, done := range []bool{true, false} { // in spite of that, or not
		synctest.Test(t, func(t *testing.T) {
			d, former, next, last := newDesk(t), listen("former"), listen("next"), listen("last")
			other := listen("other")
			other.hold = make(chan struct{})
			end, ending := make(chan struct{}), false
			former.Tell = func(ctx context.Context, b Batch) *Failure {
				<-ctx.Done()
				ending = true
				if <-end; done {
					return nil
				}
				return &Failure{"it was killed", "none"}
			}
			d.add("over", -day, false)
			d.add("soon", 5*day, false)
			d.begin(former.Hook, other.Hook)
			defer d.end()
			d.check()
			d.Set([]Hook{next.Hook, other.Hook}, rules, 0)
			d.pass(time.Minute)
			if !ending {
				t.Error("what the settings have no more goes on")
			}
			d.Set([]Hook{last.Hook, other.Hook}, rules, 0) // before it has ended
			d.pass(time.Minute)
			next.heardOnly(t)
			last.heardOnly(t)
			if s := d.status(); !slices.Equal(s.Pending, []string{"contoso-web.over", "contoso-web.soon"}) || s.Runs != 0 || s.State != Waiting {
				t.Errorf("%+v", s)
			}
			close(end)
			synctest.Wait()
			if next.heardOnly(t); done {
				last.heardOnly(t, "2 expires soon")
			} else {
				last.heardOnly(t, "2 expired over", "2 expires soon")
			}
			other.heardOnly(t, "0 expired over") // which goes on
			close(other.hold)
			synctest.Wait()
			other.heardOnly(t, "0 expired over", "2 expires soon")
			if s := d.status(); s.State != Idle || s.Failures != 0 || len(d.records) != 2+2 {
				t.Errorf("%+v, %q", s, d.records)
			}
		})
	}
}

func TestWithoutHooksNothingIsKeptButWhatWasSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.add("soon", 5*day, false)
		d.begin()
		defer d.end()
		d.check()
		if len(d.records) != 1 || d.records["skey of soon"] == nil || d.Report() != nil {
			t.Errorf("%q, %+v", d.records, d.Report())
		}
	})
}

func TestWhatACommandIsTold(t *testing.T) {
	c := certificate(90 * day)
	c.Name, c.LastRead = "contoso-web.www", start.Add(time.Hour)
	unread := Certificate{Key: "x", Name: "contoso-web.api", URL: "https://contoso-web.vault.azure.net/secrets/api", Since: start}
	for _, tt := range []struct {
		batch Batch
		env   []string
		json  string
	}{
		{Batch{{Expires, c, 5 * day}}, []string{"KVFS_ALERT=expires", "KVFS_CERT=contoso-web.www", "KVFS_VERSION=1", "KVFS_NOT_AFTER=2026-04-01T00:00:00Z", "KVFS_UNREAD_SINCE=2026-01-01T01:00:00Z"},
			`[{"alert":"expires","certificate":"contoso-web.www","url":"https://contoso-web.vault.azure.net/secrets/www","version":"1","notAfter":"2026-04-01T00:00:00Z","unreadSince":"2026-01-01T01:00:00Z","message":"contoso-web.www expires in 5 days, and no newer version has come","host":"vm"}]` + "\n"},
		{Batch{{Expired, c, time.Hour}}, []string{"KVFS_ALERT=expired", "KVFS_CERT=contoso-web.www", "KVFS_VERSION=1", "KVFS_NOT_AFTER=2026-04-01T00:00:00Z", "KVFS_UNREAD_SINCE=2026-01-01T01:00:00Z"},
			`[{"alert":"expired","certificate":"contoso-web.www","url":"https://contoso-web.vault.azure.net/secrets/www","version":"1","notAfter":"2026-04-01T00:00:00Z","unreadSince":"2026-01-01T01:00:00Z","message":"contoso-web.www has expired 60 minutes ago","host":"vm"}]` + "\n"},
		{Batch{{Stale, c, 3 * time.Hour}, {Stale, unread, 4 * time.Hour}}, []string{"KVFS_ALERT=stale", "KVFS_CERT=contoso-web.www contoso-web.api", "KVFS_VERSION=1 -", "KVFS_NOT_AFTER=2026-04-01T00:00:00Z -", "KVFS_UNREAD_SINCE=2026-01-01T01:00:00Z 2026-01-01T00:00:00Z"},
			`[{"alert":"stale","certificate":"contoso-web.www","url":"https://contoso-web.vault.azure.net/secrets/www","version":"1","notAfter":"2026-04-01T00:00:00Z","unreadSince":"2026-01-01T01:00:00Z","message":"nothing could be read of contoso-web.www for 3 hours","host":"vm"},` +
				`{"alert":"stale","certificate":"contoso-web.api","url":"https://contoso-web.vault.azure.net/secrets/api","unreadSince":"2026-01-01T00:00:00Z","message":"nothing could be read of contoso-web.api for 4 hours","host":"vm"}]` + "\n"},
	} {
		if got := tt.batch.Environment(); !slices.Equal(got, tt.env) {
			t.Errorf("%q, want %q", got, tt.env)
		}
		if got := string(tt.batch.JSON("vm")); got != tt.json {
			t.Errorf("%s, want %s", got, tt.json)
		}
	}
}
