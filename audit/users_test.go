package audit

import (
	"maps"
	"testing"
)

// Users are counted each by itself up to a number, and nobody is counted twice.
func TestOpensAreCountedByUser(t *testing.T) {
	a := &Auditor{users: map[uint32]*uint64{}}
	by := func(uid uint32, gone bool) *process { return &process{who: Process{UID: uid, Gone: gone}} }
	for uid := range uint32(maxUsers + 2) {
		a.count(by(uid, false))
	}
	a.count(by(0, false))
	a.count(by(7, true)) // nothing is known of it, its user neither
	all := a.perUser()
	want := map[string]uint64{"0": 2, "7": 1, "other": 2, "unknown": 1}
	for name := range maps.Clone(all) {
		if want[name] == 0 {
			want[name] = 1
		}
	}
	if len(all) != maxUsers+2 || !maps.Equal(all, want) {
		t.Errorf("%v", all)
	}
}
