package sync

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// A fleet is so many machines, each with a Syncer of its own, that show the same 20
// certificates of one vault, in virtual time. KVFS_FLEET says how many machines, 10,000
// with `make fleet`; the vault's limit is scaled with them, so that the load is the same
// part of it.
const (
	fleetCertificates = 20
	fleetInterval     = time.Hour
	fleetStart        = time.Minute // within which the machines are started
	fleetDown         = 4 * time.Hour
	fleetUp           = 5 * time.Hour
	fleetEnd          = 9 * time.Hour
	fleetFirst        = 30 * time.Minute // renewal, and then one each fleetRenewal
	fleetRenewal      = 15 * time.Minute
	fleetLast         = fleetEnd - fleetInterval*12/10 // renewal
	fleetRoundTrip    = 20 * time.Millisecond
)

// limitWindow is that of the service: 4,000 requests in 10 s (keyvault-wire: section 6).
// What is answered 429 does not count.
const (
	limitWindow   = 10 * time.Second
	limitMachines = 10_000
	limitRequests = 4_000
)

// fleetVault is the vault of a fleet.
type fleetVault struct {
	began   time.Time
	limit   int
	lists   bool // it grants the permission to list
	secrets []*vault.Secret

	mu        sync.Mutex
	served    []int // requests, by window
	throttled []int
	lost      []int // in the outage
	polls     []int // listings, or where these are refused reads, answered or not
}

func (v *fleetVault) request(ctx context.Context, poll bool) error {
	time.Sleep(fleetRoundTrip)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	at := time.Since(v.began)
	w := int(at / limitWindow)
	if poll {
		v.polls[w]++
	}
	switch {
	case at >= fleetDown && at < fleetUp:
		v.lost[w]++
		return &vault.Error{Kind: vault.KindServer, Fact: "503"}
	case v.served[w] >= v.limit:
		v.throttled[w]++
		var retryAfter time.Duration
		if v.throttled[w]%2 == 0 { // with and without
			retryAfter = 5 * time.Second
		}
		return &vault.Error{Kind: vault.KindThrottled, Fact: "429", RetryAfter: retryAfter}
	}
	v.served[w]++
	return nil
}

func (v *fleetVault) Get(ctx context.Context, _ vault.Identity, ref vault.Ref) (*vault.Secret, error) {
	if err := v.request(ctx, !v.lists); err != nil {
		return nil, err
	}
	i, err := strconv.Atoi(strings.TrimPrefix(ref.Name(), "c"))
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := *v.secrets[i]
	s.Answered = time.Now()
	return &s, nil
}

func (*fleetVault) Versions(context.Context, vault.Identity, vault.Ref) ([]vault.VersionInfo, error) {
	return nil, nil
}

func (v *fleetVault) List(ctx context.Context, _ vault.Identity, _ vault.Ref, _ int, each func(vault.Listed)) (int, bool, error) {
	if err := v.request(ctx, v.lists); err != nil {
		return 0, false, err
	}
	if !v.lists {
		return 0, false, &vault.Error{Kind: vault.KindForbidden, Fact: "403"}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, s := range v.secrets {
		each(vault.Listed{Name: fmt.Sprint("c", i), Enabled: true, Created: s.Created, Updated: s.Updated})
	}
	return 1, true, nil
}

func (v *fleetVault) renew(i, n int, value []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now().Truncate(time.Second)
	v.secrets[i] = &vault.Secret{Version: version(n), Enabled: true, Created: now, Updated: now, Value: vault.NewValue(value)}
}

// void is where the trees of a fleet go to.
type void struct{}

func (void) Publish(context.Context, *tree.Snapshot, ...image.Change) error { return nil }

// sighting is a renewal that a machine shows.
type sighting struct {
	certificate int
	version     string
	at          time.Time
}

// fleet runs everything and returns what the vault has counted, and how long it took until
// a renewal was shown by a machine, for each of both: the outage, in which nobody could
// have known of it, is not counted.
func fleet(t *testing.T, machines int, lists bool) (v *fleetVault, delays []time.Duration) {
	windows := int(fleetEnd/limitWindow) + 1
	v = &fleetVault{began: time.Now(), limit: limitRequests * machines / limitMachines, lists: lists, secrets: make([]*vault.Secret, fleetCertificates),
		served: make([]int, windows), throttled: make([]int, windows), lost: make([]int, windows), polls: make([]int, windows)}
	value := bundle(t, 1)
	for i := range v.secrets {
		v.renew(i, 1, value)
		v.secrets[i].Created, v.secrets[i].Updated = time.Now().Add(-time.Hour), time.Now().Add(-time.Hour)
	}
	random := rand.New(rand.NewPCG(1, 2))
	ctx, stop := context.WithCancel(t.Context())
	seen, ended := make([][]sighting, machines), make(chan error, machines)
	for m := range machines {
		after := time.Duration(random.Int64N(int64(fleetStart)))
		go func() { ended <- machine(t, ctx, v, m, after, &seen[m]) }()
	}
	// Renewals all the time, in the outage too, one certificate after the other.
	var renewals []sighting
	for time.Sleep(fleetFirst); time.Since(v.began) < fleetLast; time.Sleep(fleetRenewal) {
		i := len(renewals) % fleetCertificates
		renewals = append(renewals, sighting{i, version(2 + len(renewals)), time.Now()})
		v.renew(i, 1+len(renewals), value)
	}
	time.Sleep(time.Until(v.began.Add(fleetEnd - time.Second)))
	stop()
	for range machines {
		<-ended
	}
	down, up := v.began.Add(fleetDown), v.began.Add(fleetUp)
	for m := range machines {
		for _, r := range renewals {
			i := slices.IndexFunc(seen[m], func(s sighting) bool { return s.certificate == r.certificate && s.version >= r.version })
			if i < 0 {
				t.Fatalf("machine %d never showed version %s of c%d", m, r.version, r.certificate)
			}
			from, at := r.at, seen[m][i].at
			if from.Before(up) && at.After(up) {
				from = from.Add(up.Sub(latest(from, down)))
			}
			delays = append(delays, at.Sub(from))
		}
	}
	return v, delays
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func machine(t *testing.T, ctx context.Context, v *fleetVault, number int, after time.Duration, seen *[]sighting) error {
	set := Settings{Vault: v, Interval: fleetInterval, Keep: 1}
	var spec tree.Spec
	for i := range fleetCertificates {
		src := source(t, fmt.Sprint("c", i))
		set.Sources = append(set.Sources, src)
		spec.Entries = append(spec.Entries, tree.Entry{Certificate: src.Key(), Store: "/store", Vault: "contoso-web", Name: src.Ref.Name(), Linked: true})
	}
	set.Spec = func() tree.Spec { return spec }
	time.Sleep(after)
	var s *Syncer
	shown := make([]certs.Version, fleetCertificates)
	s = New(Options{Publisher: void{}, Seed: fmt.Sprint("machine-", number), Published: func() {
		for i, c := range s.certs { // in the order of the settings, and what is shown changes in this goroutine alone
			if c.shown != shown[i] {
				shown[i] = c.shown
				*seen = append(*seen, sighting{i, string(c.shown), time.Now()})
			}
		}
	}}, set)
	return s.Run(ctx)
}

// load is what came in a part of the time.
type load struct{ requests, peak, throttled int }

func (v *fleetVault) between(from, to time.Duration) (l load) {
	for w := int(from / limitWindow); w < int(to/limitWindow); w++ {
		all := v.served[w] + v.throttled[w] + v.lost[w]
		l.requests, l.peak, l.throttled = l.requests+all, max(l.peak, all), l.throttled+v.throttled[w]
	}
	return l
}

func (v *fleetVault) polled(from, to time.Duration) (n int) {
	for w := int(from / limitWindow); w < int(to/limitWindow); w++ {
		n += v.polls[w]
	}
	return n
}

// peakOverMean is that of the polls in windows of a length: what a renewal adds comes with
// these, several requests at a time.
func (v *fleetVault) peakOverMean(from, to, window time.Duration) float64 {
	var all []int
	for at := from; at+window <= to; at += window {
		all = append(all, v.polled(at, at+window))
	}
	sum := 0
	for _, n := range all {
		sum += n
	}
	return float64(slices.Max(all)) * float64(len(all)) / float64(sum)
}

// A hundred thousand requests that come at once, after a start or an outage, are what a
// vault is afraid of, and what throttles everybody. The table is the one of docs/scale.md.
func TestFleetKeepsApart(t *testing.T) {
	machines, err := strconv.Atoi(cmp.Or(os.Getenv("KVFS_FLEET"), "100"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lists := range []bool{true, false} {
		t.Run(map[bool]string{true: "listing", false: "reading"}[lists], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, delays := fleet(t, machines, lists)
				window := 10 * time.Second
				// Of few polls those in a short window differ by chance alone.
				for float64(v.polled(2*time.Hour, fleetDown))*float64(window)/float64(fleetDown-2*time.Hour) < 60 {
					window *= 2
				}
				before, after := v.peakOverMean(2*time.Hour, fleetDown, window), v.peakOverMean(fleetUp+90*time.Minute, fleetLast, window)
				loading, outage, recovery := v.between(0, time.Hour), v.between(fleetDown, fleetUp), v.between(fleetUp, fleetUp+time.Hour)
				worst := slices.Max(delays)
				t.Logf("%d machines, limit %d in 10 s", machines, v.limit)
				t.Logf("loading:   %7d requests, peak %5d in 10 s, %6d answered 429, the last at %v", loading.requests, loading.peak, loading.throttled, v.lastThrottled(0, time.Hour))
				t.Logf("steady:    %7d requests an hour, peak over mean in %v: %.2f before the outage, %.2f after", v.between(2*time.Hour, 3*time.Hour).requests, window, before, after)
				t.Logf("outage:    %7d requests, peak %5d in 10 s", outage.requests, outage.peak)
				t.Logf("recovery:  %7d requests in an hour, peak %5d in 10 s, %6d answered 429", recovery.requests, recovery.peak, recovery.throttled)
				slices.Sort(delays)
				t.Logf("renewals:  half of them seen in %v, all in %v", delays[len(delays)/2].Round(time.Second), worst.Round(time.Second))
				if before > 1.5 || after > 1.5 {
					t.Errorf("peak over mean is %.2f and %.2f", before, after)
				}
				most := recovery.requests / 100
				if machines < 1000 { // which exceed their small limit by chance now and then
					most = recovery.requests / 10
				}
				if recovery.throttled > most {
					t.Errorf("after the outage %d of %d requests were answered 429", recovery.throttled, recovery.requests)
				}
				if worst > fleetInterval*12/10 {
					t.Errorf("a renewal was seen after %v", worst)
				}
			})
		})
	}
}

func (v *fleetVault) lastThrottled(from, to time.Duration) (last time.Duration) {
	for w := int(from / limitWindow); w < int(to/limitWindow); w++ {
		if v.throttled[w] > 0 {
			last = time.Duration(w) * limitWindow
		}
	}
	return last
}
