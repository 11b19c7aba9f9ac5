package sync

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/tree"
	"kvfs/vault"
)

// What was good at another time is shown before the vault has answered, and is called stale; the vault's answer, when
// it comes, takes its place, and what is the same is not published again.
func TestLastGoodIsShownBeforeTheVaultAnswers(t *testing.T) {
	for _, same := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			v, p := newFakeVault(t, "www"), &shelf{}
			b, err := certs.Parse("", v.secrets["www"].Value.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			good := tree.NewVersion(certs.Version(version(1)), time.Unix(1e9+1, 0), time.Unix(1e9+2, 0), b, tree.Views{Layouts: []tree.Layout{tree.V3, tree.V4}})
			v.errs["www"] = &vault.Error{Kind: vault.KindUnreachable, Fact: "down"}
			v.delay["www"] = 2 * time.Second
			asked := 0
			s := running(t, Options{Publisher: p, LastGood: func(src Source) []*tree.Version {
				asked++
				return []*tree.Version{good}
			}}, settings(t, v, time.Minute, "www"))
			time.Sleep(time.Second)
			synctest.Wait()
			if got := state(s, "www"); got.State != Stale || got.Version != good.ID || got.Err != nil {
				t.Errorf("before an answer: %s %s %v", got.State, got.Version, got.Err)
			}
			if p.shown("www") == "" || asked != 1 {
				t.Error("nothing is shown, asked", asked)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := state(s, "www"); got.State != Stale || got.Version != good.ID || got.Err == nil {
				t.Errorf("after a failure: %s %s %v", got.State, got.Version, got.Err)
			}
			published := p.count()
			if !same {
				v.rotate(t, "www", 2)
			}
			v.set(func() { delete(v.errs, "www") })
			time.Sleep(time.Minute)
			synctest.Wait()
			want := certs.Version(version(map[bool]int{true: 1, false: 2}[same]))
			if got := state(s, "www"); got.State != OK || got.Version != want {
				t.Errorf("after an answer: %s %s %v", got.State, got.Version, got.Err)
			}
			if same && p.count() != published {
				t.Error("what is the same was published again")
			}
			if kept := s.byKey[source(t, "www").Key()].versions; !same && (len(kept) != 2 || !slices.ContainsFunc(kept, func(v *tree.Version) bool { return v.ID == good.ID })) {
				t.Error("the last good is forgotten")
			}
		})
	}
}
