package main

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"kvfs/alert"
	"kvfs/image"
)

// In an outage certificates become stale one by one, and each look is at all of them.
func TestLooksForAlertsAreNotTooManyNorTooFew(t *testing.T) {
	now := time.Now()
	for next, want := range map[time.Duration]time.Duration{
		-time.Second: alertRate, 360 * time.Millisecond: alertRate, time.Minute: time.Minute, 24 * time.Hour: alertLook,
	} {
		if got := untilLook(now, now.Add(next)); got != want {
			t.Errorf("what comes in %v is looked for in %v, want %v", next, got, want)
		}
	}
	if got := untilLook(now, time.Time{}); got != alertLook {
		t.Errorf("%v where nothing is known to come", got)
	}
}

// BenchmarkNoticeAmongThousands is what one more certificate costs that becomes stale, where 10,000 have and no hook could be told of
// any: to find it, and to keep what is owed. So it is without a hook, too.
func BenchmarkNoticeAmongThousands(b *testing.B) {
	for _, hooks := range []int{0, 4, 32} {
		b.Run(fmt.Sprintf("hooks=%d", hooks), func(b *testing.B) { benchmarkNotice(b, hooks) })
	}
}

func benchmarkNotice(b *testing.B, hooks int) {
	kept, err := image.New(image.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer kept.Close()
	records := &countedRecords{hookRecords: hookRecords{kept, keyAlerts}}
	rules, now := alert.Rules{Stale: 3 * time.Hour}, time.Now()
	all := make([]alert.Certificate, 10_000)
	for i := range all {
		all[i] = alert.Certificate{Key: fmt.Sprintf("https://contoso-web.vault.azure.net/secrets/certificate-%05d", i), Name: fmt.Sprintf("contoso-web.certificate-%05d", i),
			Version: "bd3fd57f672eb87f2a755a5894636300", NotAfter: now.Add(9000 * time.Hour), LastRead: now.Add(-4 * time.Hour)}
	}
	queue := alert.NewQueue(alert.QueueOptions{Records: records})
	var who []alert.Hook
	for i := range hooks {
		who = append(who, alert.Hook{ID: fmt.Sprintf("%024x", i)})
	}
	queue.Set(who, rules, 0)
	look := func() int {
		notices, said, _ := rules.Check(now, all, queue.Said())
		if !maps.Equal(said, queue.Said()) {
			queue.Add(said, notices)
		}
		return len(notices)
	}
	began := time.Now()
	if n := look(); n != len(all) {
		b.Fatalf("%d notices", n)
	}
	first, size := time.Since(began), records.bytes
	records.bytes = 0
	n := 0
	for b.Loop() {
		now, n = now.Add(time.Second), (n+1)%len(all)
		all[n].LastRead = now
		look()
		if now = now.Add(rules.Stale); look() != 1 {
			b.Fatal("not one notice")
		}
	}
	b.ReportMetric(float64(records.bytes)/float64(b.N), "B-kept/op")
	b.ReportMetric(float64(first.Milliseconds()), "ms-for-all")
	b.ReportMetric(float64(size), "B-for-all")
}

// countedRecords count what is put.
type countedRecords struct {
	hookRecords
	bytes int
}

func (r *countedRecords) Put(changes map[string][]byte) error {
	for name, b := range changes {
		r.bytes += len(name) + len(b)
	}
	return r.hookRecords.Put(changes)
}
