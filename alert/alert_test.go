package alert

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rules = Rules{Expiry: []time.Duration{30 * day, 14 * day, 7 * day, day}, Stale: 3 * time.Hour}
)

func certificate(life time.Duration) Certificate {
	return Certificate{Since: start, Key: "k", URL: "https://contoso-web.vault.azure.net/secrets/www", Version: "1", NotAfter: start.Add(life)}
}

// live asks whenever it is told to, until the end, and returns what was said, by hours since the start.
func live(t *testing.T, r Rules, end time.Time, at func(time.Time) []Certificate) (said []string) {
	t.Helper()
	state := Said{}
	for now, asked := start, 0; ; asked++ {
		notices, after, next := r.Check(now, at(now), state)
		for _, n := range notices {
			said = append(said, fmt.Sprintf("%.0fh %s %s", now.Sub(start).Hours(), n.Version, n.Kind))
		}
		if next.IsZero() || next.After(end) {
			return said
		}
		if !next.After(now) || asked > 1000 {
			t.Fatalf("at %v asked to come again at %v, for the %d. time", now, next, asked)
		}
		// What is kept is what a successor reads.
		text, err := json.Marshal(after)
		if err != nil {
			t.Fatal(err)
		}
		state = nil
		if err := json.Unmarshal(text, &state); err != nil {
			t.Fatal(err)
		}
		now = next
	}
}

func TestEachThresholdIsSaidOnce(t *testing.T) {
	c := certificate(90 * day)
	rules := rules
	rules.Stale = 0
	got := live(t, rules, start.Add(200*day), func(time.Time) []Certificate { return []Certificate{c} })
	want := []string{"1440h 1 expires", "1824h 1 expires", "1992h 1 expires", "2136h 1 expires", "2160h 1 expired"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("said %v, want %v", got, want)
	}
}

func TestRenewalEndsTheWarningsAndBeginsAnew(t *testing.T) {
	rules := rules
	rules.Stale = 0
	renewed := start.Add(80 * day) // after 30 and 14 days were said
	got := live(t, rules, start.Add(145*day), func(now time.Time) []Certificate {
		c := certificate(90 * day)
		if !now.Before(renewed) {
			c.Version, c.NotAfter = "2", renewed.Add(90*day)
		}
		return []Certificate{c}
	})
	want := []string{"1440h 1 expires", "1824h 1 expires", "3360h 2 expires"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("said %v, want %v", got, want)
	}
}

func TestOneNoticeForThresholdsThatHavePassedTogether(t *testing.T) {
	rules := Rules{Expiry: rules.Expiry}
	c := certificate(90 * day)
	now := c.NotAfter.Add(-5 * day)
	notices, said, next := rules.Check(now, []Certificate{c}, nil)
	if len(notices) != 1 || notices[0].Kind != Expires || notices[0].For != 5*day || said["k"].Left != 7*day || !next.Equal(c.NotAfter.Add(-day)) {
		t.Errorf("%+v %+v %v", notices, said, next)
	}
	if notices, _, _ := rules.Check(now.Add(time.Hour), []Certificate{c}, said); notices != nil {
		t.Errorf("said again: %+v", notices)
	}
}

func TestShortLivesAreWarnedOfOnceForEachVersion(t *testing.T) {
	rules := Rules{Expiry: rules.Expiry}
	got := live(t, rules, start.Add(20*day), func(now time.Time) []Certificate {
		c := certificate(5 * day)
		for n := 2; !now.Before(c.NotAfter.Add(-day)); n++ { // renewed a day before its end
			c.Version, c.NotAfter = fmt.Sprint(n), c.NotAfter.Add(4*day)
		}
		return []Certificate{c}
	})
	want := []string{"0h 1 expires", "96h 2 expires", "192h 3 expires", "288h 4 expires", "384h 5 expires", "480h 6 expires"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("said %v, want %v", got, want)
	}
}

func TestStalenessIsSaidOnceForEachTime(t *testing.T) {
	read := func(now time.Time) time.Time { // every hour, but not between 5 and 10 hours
		hours := now.Sub(start).Truncate(time.Hour)
		if hours > 5*time.Hour && hours < 10*time.Hour {
			hours = 5 * time.Hour
		}
		return start.Add(min(hours, 20*time.Hour))
	}
	got := live(t, rules, start.Add(30*time.Hour), func(now time.Time) []Certificate {
		c := certificate(365 * day)
		c.LastRead = read(now)
		return []Certificate{c}
	})
	if want := []string{"8h 1 stale", "23h 1 stale"}; !reflect.DeepEqual(got, want) {
		t.Errorf("said %v, want %v", got, want)
	}
	c := certificate(365 * day)
	c.LastRead = start
	_, said, _ := rules.Check(start.Add(4*time.Hour), []Certificate{c}, nil)
	if notices, _, _ := rules.Check(start.Add(5*time.Hour), []Certificate{c}, said); notices != nil {
		t.Errorf("said again: %+v", notices)
	}
	c.LastRead = start.Add(5 * time.Hour)
	notices, said, next := rules.Check(start.Add(6*time.Hour), []Certificate{c}, said)
	if notices != nil || len(said) != 0 || !next.Equal(start.Add(8*time.Hour)) {
		t.Errorf("after it was read again: %+v %+v %v", notices, said, next)
	}
	if notices, _, _ := rules.Check(start.Add(8*time.Hour), []Certificate{c}, said); len(notices) != 1 || notices[0].Kind != Stale {
		t.Errorf("the second time: %+v", notices)
	}
}

// A server that takes over may know of fewer reads than there were: it waits as long as the first one did before it says that
// there are none, and does not say again what was said.
func TestSuccessorNeitherErrsNorRepeats(t *testing.T) {
	c := certificate(365 * day)
	c.LastRead, c.Since = start, start.Add(day) // as its predecessor has left it, which has read since
	now := c.Since.Add(time.Minute)
	if notices, _, next := rules.Check(now, []Certificate{c}, nil); notices != nil || !next.Equal(c.Since.Add(rules.Stale)) {
		t.Errorf("%+v, next at %v", notices, next)
	}
	said := Said{"k": {Version: "1", Left: -1, Stale: start.Add(20 * time.Hour)}}
	if notices, said, _ := rules.Check(c.Since.Add(rules.Stale), []Certificate{c}, said); notices != nil || said["k"].Stale.IsZero() {
		t.Errorf("%+v, %+v", notices, said)
	}
	c.LastRead = c.Since.Add(time.Hour)
	if _, said, _ := rules.Check(c.LastRead, []Certificate{c}, said); len(said) != 0 {
		t.Errorf("after it was read: %+v", said)
	}
}

// What other rules have said may never have reached who is told, and is not owed any more: it is said again.
func TestWhatTheRulesAskForAgainIsSaidAgainOnce(t *testing.T) {
	c := certificate(90 * day)
	now := c.NotAfter.Add(-5 * day)
	kinds := func(r Rules, said Said) (Said, []Kind) {
		var kinds []Kind
		notices, after, _ := r.Check(now, []Certificate{c}, said)
		for _, n := range notices {
			kinds = append(kinds, n.Kind)
		}
		return after, kinds
	}
	both := []Kind{Expires, Stale}
	for _, other := range []Rules{{}, {Expiry: []time.Duration{day}, Stale: 86 * day}} {
		said, first := kinds(rules, nil)
		said, never := kinds(other, said)
		if len(said) != 0 || never != nil {
			t.Errorf("%+v: %+v, and says %q", other, said, never)
		}
		said, again := kinds(rules, said)
		if _, more := kinds(rules, said); !slices.Equal(first, both) || !slices.Equal(again, both) || more != nil {
			t.Errorf("%+v: first %q, then %q, then %q", other, first, again, more)
		}
	}
}

func TestNothingIsSaidOfWhatIsNotServed(t *testing.T) {
	c := Certificate{Key: "k", Since: start}
	if notices, said, next := (Rules{Expiry: rules.Expiry}).Check(start, []Certificate{c}, nil); notices != nil || len(said) != 0 || !next.IsZero() {
		t.Errorf("%+v %+v %v", notices, said, next)
	}
}

func TestWarnings(t *testing.T) {
	c := certificate(90 * day)
	c.LastRead = start
	for _, tt := range []struct {
		at   time.Duration
		want []string
	}{
		{time.Hour, nil},
		{4 * time.Hour, []string{"nothing was read of it for 4 hours"}},
		{84 * day, []string{"it expires in 6 days, and no newer version has come", "nothing was read of it for 84 days"}},
		{91 * day, []string{"nothing was read of it for 91 days"}},
	} {
		if got := rules.Warnings(start.Add(tt.at), c); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("after %v: %q, want %q", tt.at, got, tt.want)
		}
	}
	if got := (Rules{}).Warnings(start.Add(89*day), c); got != nil {
		t.Errorf("without rules: %q", got)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "less than a second", time.Second: "1 second", 90 * time.Second: "90 seconds", 3 * time.Minute: "3 minutes",
		25 * time.Hour: "25 hours", 6*day + time.Hour: "6 days",
	} {
		if got := Span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
