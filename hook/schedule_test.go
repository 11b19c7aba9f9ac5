package hook

import (
	"testing"
	"time"
)

func TestDue(t *testing.T) {
	day := func(clock string) time.Time {
		at, err := time.ParseInLocation("Mon 2006-01-02 15:04:05", clock, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	night := Window{From: 2 * 60, To: 4 * 60}
	weekend := Window{Days: 1<<time.Saturday | 1<<time.Sunday, From: 22 * 60, To: 60}
	noon := day("Mon 2026-11-23 12:00:00").Add(-gather)
	for name, tt := range map[string]struct {
		action Action
		want   want
		now    time.Time
		at     string
	}{
		"at once":                                 {Action{}, want{since: noon}, noon, "Mon 2026-11-23 12:00:00"},
		"splay":                                   {Action{Splay: time.Minute}, want{since: noon, fraction: 0.5}, noon, "Mon 2026-11-23 12:00:30"},
		"retry":                                   {Action{Splay: time.Minute}, want{since: noon, fraction: 0.5, failures: 3, tried: noon.Add(gather)}, noon, "Mon 2026-11-23 12:00:04"},
		"many retries":                            {Action{}, want{since: noon, failures: 1000, tried: noon.Add(gather)}, noon, "Mon 2026-11-23 12:05:00"},
		"renewed since the failures":              {Action{}, want{since: noon, newest: noon.Add(time.Minute), failures: 1000, tried: noon.Add(gather)}, noon, "Mon 2026-11-23 12:01:00"},
		"renewed since, with a long splay":        {Action{Splay: time.Hour}, want{since: noon, newest: noon.Add(time.Minute), fraction: 0.9, failures: 1000, tried: noon.Add(gather)}, noon, "Mon 2026-11-23 12:05:00"},
		"window":                                  {Action{Window: night}, want{since: noon}, noon, "Tue 2026-11-24 02:00:00"},
		"in the window":                           {Action{Window: night}, want{since: noon.Add(15 * time.Hour)}, noon, "Tue 2026-11-24 03:00:00"},
		"window with splay":                       {Action{Window: night, Splay: time.Hour}, want{since: noon, fraction: 0.25}, noon, "Tue 2026-11-24 02:15:00"},
		"splay that ends with the window":         {Action{Window: night, Splay: 24 * time.Hour}, want{since: noon, fraction: 0.5}, noon, "Tue 2026-11-24 03:00:00"},
		"retry after the window":                  {Action{Window: night}, want{since: noon, failures: 20, tried: day("Tue 2026-11-24 03:58:00")}, noon, "Wed 2026-11-25 02:00:00"},
		"nobody was here in the window":           {Action{Window: night}, want{since: noon}, day("Tue 2026-11-24 09:00:00"), "Wed 2026-11-25 02:00:00"},
		"nobody was here, and it is open":         {Action{Window: night}, want{since: noon}, day("Wed 2026-11-25 02:30:00"), "Tue 2026-11-24 02:00:00"},
		"days":                                    {Action{Window: weekend}, want{since: noon}, noon, "Sat 2026-11-28 22:00:00"},
		"after midnight":                          {Action{Window: weekend}, want{since: day("Mon 2026-11-23 00:30:00")}, day("Mon 2026-11-23 00:30:00"), "Mon 2026-11-23 00:30:00"},
		"not after midnight of another day":       {Action{Window: weekend}, want{since: day("Sat 2026-11-28 00:30:00")}, day("Sat 2026-11-28 00:30:00"), "Sat 2026-11-28 22:00:00"},
		"the old one expires before the window":   {Action{Window: night}, want{since: noon, expires: day("Tue 2026-11-24 01:00:00")}, noon, "Mon 2026-11-23 12:00:00"},
		"the old one expires soon after it opens": {Action{Window: night}, want{since: noon, expires: day("Tue 2026-11-24 02:59:00")}, noon, "Mon 2026-11-23 12:00:00"},
		"the old one expires after the window":    {Action{Window: night}, want{since: noon, expires: day("Tue 2026-11-24 09:00:00")}, noon, "Tue 2026-11-24 02:00:00"},
		"the old one expires in the splay":        {Action{Splay: 24 * time.Hour}, want{since: noon, fraction: 0.9, expires: day("Mon 2026-11-23 20:00:00")}, noon, "Mon 2026-11-23 12:00:00"},
		"failures when it has expired":            {Action{Window: night}, want{since: noon, expires: noon, failures: 2, tried: noon}, noon, "Mon 2026-11-23 12:00:02"},
	} {
		if got, at := tt.action.due(tt.want, tt.now), day(tt.at); got.Sub(at).Abs() > gather {
			t.Errorf("%s: %v, want %v", name, got, at)
		}
	}
}

// Where clocks are changed in the window there is one all the same, and the next day is as ever.
func TestWindowWhenClocksAreChanged(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones:", err)
	}
	w := Window{From: 2*60 + 15, To: 2*60 + 45}
	for _, month := range []time.Month{time.March, time.October} {
		before := time.Date(2026, month, 20, 12, 0, 0, 0, zone)
		for at := before; at.Before(before.AddDate(0, 0, 14)); {
			opens, closes := w.next(at)
			if !opens.Before(closes) || opens.Before(at) || closes.Sub(opens) > 2*time.Hour || opens.Sub(at) > 25*time.Hour {
				t.Fatalf("after %v it opens at %v and closes at %v", at, opens, closes)
			}
			at = closes
		}
	}
}

// Machines that have the same settings take moments of their own, each the same one every time.
func TestFractionsAreSpread(t *testing.T) {
	var low, high int
	for i := range 1000 {
		f := fraction(string(rune('a'+i)), "x")
		if f < 0 || f >= 1 || f != fraction(string(rune('a'+i)), "x") {
			t.Fatal(f)
		}
		if f < 0.5 {
			low++
		} else {
			high++
		}
	}
	if low < 400 || high < 400 {
		t.Error(low, high)
	}
}
