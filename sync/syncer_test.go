package sync

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// The vault and the publisher are fakes here, for faults at a moment that no
// real one can be made to choose, in virtual time. The same promises are kept
// with the real ones in package test.

type fakeVault struct {
	mu      sync.Mutex
	secrets map[string]*vault.Secret // the newest, by name
	made    map[string][]*vault.Secret
	issuers map[string]*x509.Certificate // of the newest that put has made, which its value lacks
	// By name, by name/VERSION for one that is asked for by its version, and by name? for
	// the list of versions. What goes wrong with a name does so for all of these, but
	// that its newest version is disabled.
	errs  map[string]error
	delay map[string]time.Duration
	asked map[string]int
	dated bool // it says when things have changed, as a vault does
}

func newFakeVault(t testing.TB, names ...string) *fakeVault {
	v := &fakeVault{secrets: map[string]*vault.Secret{}, made: map[string][]*vault.Secret{}, issuers: map[string]*x509.Certificate{}, errs: map[string]error{}, delay: map[string]time.Duration{}, asked: map[string]int{}}
	for _, name := range names {
		v.rotate(t, name, 1)
	}
	return v
}

func (v *fakeVault) Get(ctx context.Context, _ vault.Identity, ref vault.Ref) (secret *vault.Secret, err error) {
	key := ref.Name()
	if ref.Pinned() {
		key += "/" + ref.Version()
	}
	err = v.answer(ctx, ref.Name(), key, func() error {
		if !ref.Pinned() {
			newest := *v.secrets[ref.Name()]
			if secret = &newest; v.dated {
				secret.Answered = time.Now()
			}
			return nil
		}
		i := slices.IndexFunc(v.made[ref.Name()], func(s *vault.Secret) bool { return s.Version == ref.Version() })
		if i < 0 {
			return &vault.Error{Kind: vault.KindNotFound, Fact: "no such version"}
		}
		secret = v.made[ref.Name()][i]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return secret, nil
}

func (v *fakeVault) Versions(ctx context.Context, _ vault.Identity, ref vault.Ref) (list []vault.VersionInfo, err error) {
	err = v.answer(ctx, ref.Name(), ref.Name()+"?", func() error {
		for _, s := range slices.Backward(v.made[ref.Name()]) {
			list = append(list, vault.VersionInfo{Version: s.Version, Enabled: s.Enabled, Created: s.Created})
		}
		return nil
	})
	return list, err
}

// List has 25 secrets on a page.
func (v *fakeVault) List(ctx context.Context, _ vault.Identity, _ vault.Ref, most int, each func(vault.Listed)) (pages int, complete bool, err error) {
	v.mu.Lock()
	total := (len(v.secrets) + 24) / 25
	v.mu.Unlock()
	for ; pages < min(most, total); pages++ {
		err := v.answer(ctx, "?", "?", func() error {
			names := slices.Sorted(maps.Keys(v.secrets))
			for _, name := range names[pages*25 : min(len(names), pages*25+25)] {
				s := v.secrets[name]
				each(vault.Listed{Name: name, ContentType: s.ContentType, Enabled: s.Enabled, Created: s.Created, Updated: s.Updated, NotBefore: s.NotBefore, Expires: s.Expires})
			}
			return nil
		})
		if err != nil {
			return pages, false, err
		}
	}
	return pages, pages == total, nil
}

// answer counts a question, and gives what the vault has at that moment when the time
// that its answer takes is over.
func (v *fakeVault) answer(ctx context.Context, name, key string, look func() error) error {
	v.mu.Lock()
	v.asked[key]++
	err, delay := v.errs[key], v.delay[name]
	if all, ok := v.errs[name].(*vault.Error); ok && err == nil && all.Kind != vault.KindDisabled {
		err = all
	}
	if err == nil {
		err = look()
	}
	v.mu.Unlock()
	select {
	case <-time.After(delay):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// times is how often something was asked for.
func (v *fakeVault) times(key string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked[key]
}

// make adds a version that is the newest.
func (v *fakeVault) make(name string, n int, value []byte) {
	s := &vault.Secret{Version: version(n), ContentType: "application/x-pem-file", Value: vault.NewValue(value), Enabled: true, Created: time.Unix(1e9+int64(n), 0)}
	v.set(func() {
		if v.dated {
			s.Created, s.Updated = time.Now().Truncate(time.Second), time.Now().Truncate(time.Second)
		}
		v.secrets[name], v.made[name] = s, append(v.made[name], s)
	})
}

func (v *fakeVault) set(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func version(n int) string { return fmt.Sprintf("%032x", n) }

func (v *fakeVault) rotate(t testing.TB, name string, n int) {
	t.Helper()
	v.make(name, n, bundle(t, n))
}

func bundle(t testing.TB, n int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

// shelf keeps what was published.
type shelf struct {
	mu    sync.Mutex
	snaps []*tree.Snapshot
	err   error
	takes time.Duration // that a publication takes
	empty []string      // links that led to a file whose bytes were not in memory; running reports them
}

func (p *shelf) Publish(_ context.Context, s *tree.Snapshot, _ ...image.Change) error {
	time.Sleep(p.takes)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.snaps = append(p.snaps, s)
	for n := range s.Nodes() {
		if target, ok := s.Lookup(n.Parent, n.Target); ok && n.Kind == tree.Link && target.Away != nil {
			p.empty = append(p.empty, n.Name+" -> "+n.Target)
		}
	}
	return nil
}

// node of a version's combined file, as it was published last; nil if there is none.
func (p *shelf) node(name string, n int) *tree.Node {
	return p.named("contoso-web." + name + "." + version(n))
}

func (p *shelf) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// count is how often something was published.
func (p *shelf) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.snaps)
}

// shown is the version that a certificate's link leads to now, "" for none.
func (p *shelf) shown(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.snaps) == 0 {
		return ""
	}
	s := p.snaps[len(p.snaps)-1]
	dir, ok := s.Lookup(tree.Root, tree.StoreDir("/store"))
	if !ok {
		return ""
	}
	n, ok := s.Lookup(dir.ID, "contoso-web."+name)
	if !ok {
		return ""
	}
	return n.Target[strings.LastIndex(n.Target, ".")+1:]
}

func source(t testing.TB, name string) Source {
	t.Helper()
	ref, _, err := vault.ParseRef("https://contoso-web.vault.azure.net/secrets/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return Source{Ref: ref}
}

var v3 = tree.Views{Layouts: []tree.Layout{tree.V3}}

func settings(t *testing.T, v Vault, interval time.Duration, names ...string) Settings {
	t.Helper()
	s := Settings{Vault: v, Interval: interval}
	var spec tree.Spec
	for _, name := range names {
		src := source(t, name)
		s.Sources = append(s.Sources, src)
		spec.Entries = append(spec.Entries, tree.Entry{Certificate: src.Key(), URL: src.Ref.String(), Store: "/store", Vault: "contoso-web", Name: name, Linked: true, Views: v3})
	}
	s.Spec = func() tree.Spec { return spec }
	return s
}

// running starts a Syncer in the bubble; it ends with the test.
func running(t *testing.T, opts Options, s Settings) *Syncer {
	t.Helper()
	syncer := New(opts, s)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- syncer.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error("Run:", err)
		}
		if p, ok := opts.Publisher.(*shelf); ok && p.empty != nil {
			t.Errorf("readers were led to what is not in memory: %q", p.empty)
		}
	})
	return syncer
}

func state(s *Syncer, name string) (found Status) {
	for _, c := range s.Report().Certificates {
		if c.Source.Ref.Name() == name {
			found = c
		}
	}
	return found
}

var down = &vault.Error{Kind: vault.KindServer, Fact: "503", Hint: "wait"}

func TestRenewalIsPublishedWithinAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		log := &words{}
		s := running(t, Options{Publisher: p, Logger: slog.New(slog.NewTextHandler(log, nil))}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		if got := p.shown("www"); got != version(1) {
			t.Fatal("at first", got)
		}
		v.rotate(t, "www", 2)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := p.shown("www"); got != version(2) {
			t.Error("after an hour", got)
		}
		if n := s.Report().Counts; n.Renewals != 1 {
			t.Errorf("%+v, want one renewal", n)
		}
		for _, said := range []string{"old=\"\" new=" + version(1), "old=" + version(1) + " new=" + version(2)} {
			if log.count("msg=published url=https://contoso-web.vault.azure.net/secrets/www "+said) != 1 {
				t.Errorf("the log does not say once %s", said)
			}
		}
	})
}

func TestUnchangedIsNotPublishedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Minute, "www"))
		<-s.Ready()
		first := len(p.snaps)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(p.snaps) != first || v.asked["www"] < 24*60 {
			t.Errorf("%d more publications in %d polls", len(p.snaps)-first, v.asked["www"])
		}
	})
}

func TestOutageKeepsLastGoodAndRecoversByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www", "api"))
		<-s.Ready()
		v.set(func() { v.errs["www"] = down })
		v.rotate(t, "www", 2)
		v.rotate(t, "api", 2)
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		if p.shown("www") != version(1) || p.shown("api") != version(2) {
			t.Errorf("in the outage www is at %s and api at %s", p.shown("www"), p.shown("api"))
		}
		st := state(s, "www")
		if st.State != Stale || !errors.Is(st.Err, down) || time.Since(st.LastSuccess) < 71*time.Hour || time.Since(st.LastAttempt) > lastRetry+lastRetry/10 {
			t.Errorf("in the outage: %+v", st)
		}
		if n := s.Report().Counts; n.Renewals != 1 || n.Failed < 72*60*60/uint64((lastRetry+lastRetry/10).Seconds()) || n.Tries-n.Failed < 72 || n.Tries-n.Failed > 90 {
			t.Errorf("in the outage: %+v", n) // api succeeds each hour, and www fails each two minutes
		}
		if st := state(s, "api"); !st.NotBefore.Before(st.NotAfter) || st.NotBefore.IsZero() {
			t.Errorf("valid from %v to %v", st.NotBefore, st.NotAfter)
		}
		v.set(func() { delete(v.errs, "www") })
		time.Sleep(lastRetry + lastRetry/10)
		synctest.Wait()
		if st := state(s, "www"); st.State != OK || st.Failures != 0 || p.shown("www") != version(2) {
			t.Errorf("after the outage: %+v, shown %s", st, p.shown("www"))
		}
	})
}

// One vault that hangs must not hold up the polls of the others.
func TestHangingCertificateHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		v.set(func() { v.delay["www"] = 10 * time.Minute })
		s := running(t, Options{Publisher: p}, settings(t, v, time.Minute, "www", "api"))
		time.Sleep(time.Second)
		synctest.Wait()
		if p.shown("api") != version(1) {
			t.Error("the other is not published at once")
		}
		v.rotate(t, "api", 2)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.shown("api") != version(2) {
			t.Error("the other is not renewed in time")
		}
		if err := s.Refresh(t.Context(), Match("api")); err != nil {
			t.Error(err)
		}
		if state(s, "www").State != Pending {
			t.Error("www has been tried already: the test shows nothing")
		}
	})
}

func TestGarbageIsParsedOnceAndHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Minute, "www"))
		<-s.Ready()
		good := v.secrets["www"]
		v.set(func() {
			v.secrets["www"] = &vault.Secret{Version: version(2), ContentType: good.ContentType, Value: vault.NewValue([]byte("garbage")), Enabled: true}
		})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		first := state(s, "www").Err
		if first == nil || p.shown("www") != version(1) {
			t.Fatalf("error %v, shown %s", first, p.shown("www"))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if again := state(s, "www").Err; again != first {
			t.Error("the same value was parsed again")
		}
		// The same version with another value: what was read was damaged on its way.
		v.rotate(t, "www", 2)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.shown("www") != version(2) {
			t.Error("not healed")
		}
	})
}

func TestVaultGoesBackToAnEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Minute, "www"))
		<-s.Ready()
		first := v.secrets["www"]
		v.rotate(t, "www", 2)
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		v.set(func() { v.secrets["www"] = first })
		if err := s.Refresh(t.Context(), Match("contoso-web.WWW")); err != nil {
			t.Fatal(err)
		}
		if p.shown("www") != version(1) {
			t.Error("shown", p.shown("www"))
		}
	})
}

func TestServiceIsObeyedWhenItAsksToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		v.set(func() { v.errs["www"] = &vault.Error{Kind: vault.KindThrottled, RetryAfter: 3 * time.Hour} })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := v.asked["www"]; n != 2 {
			t.Errorf("asked %d times, want the first and the one that was throttled", n)
		}
	})
}

func TestPublicationThatFailsIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		p.fail(errors.New("no publisher"))
		var told int
		s := running(t, Options{Publisher: p, Published: func() { told++ }}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		synctest.Wait()
		if s.Report().Publish == nil || told != 0 {
			t.Error("the failure is not reported")
		}
		p.fail(nil)
		time.Sleep(firstRetry)
		synctest.Wait()
		if p.shown("www") != version(1) || s.Report().Publish != nil || told != 1 {
			t.Errorf("shown %q, error %v, told %d times", p.shown("www"), s.Report().Publish, told)
		}
		if n, want := s.Report().Counts, (Counts{Tries: 1, Publications: 1, Unpublished: 1}); n != want {
			t.Errorf("%+v, want %+v", n, want)
		}
	})
}

// Who is told of publications can ask at once what readers see, and is told of none that has failed.
func TestPublicationsAreToldWhenTheyAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		var s *Syncer
		var told []string
		begun := make(chan struct{})
		s = running(t, Options{Publisher: p, Published: func() {
			<-begun
			told = append(told, string(state(s, "www").Version))
			if got := p.shown("www"); got != told[len(told)-1] {
				t.Errorf("the report has %q, readers see %q", told[len(told)-1], got)
			}
		}}, settings(t, v, time.Hour, "www"))
		close(begun)
		<-s.Ready()
		p.fail(errors.New("no publisher"))
		v.rotate(t, "www", 2)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(told); n == 0 || told[n-1] != version(1) {
			t.Errorf("told %q while nothing can be published", told)
		}
		p.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(told); told[n-1] != version(2) {
			t.Errorf("told %q", told)
		}
	})
}

func TestChangedSettingsKeepWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		v.set(func() { v.errs["www"] = down })
		if err := s.Change(t.Context(), settings(t, v, time.Hour, "www", "api")); err != nil {
			t.Fatal(err)
		}
		if p.shown("www") != version(1) || p.shown("api") != version(1) || v.asked["www"] != 1 {
			t.Errorf("www %s (asked %d times), api %s", p.shown("www"), v.asked["www"], p.shown("api"))
		}
		if err := s.Change(t.Context(), settings(t, v, time.Hour, "api")); err != nil {
			t.Fatal(err)
		}
		if p.shown("www") != "" || p.shown("api") != version(1) {
			t.Errorf("after its removal www is at %q, api at %q", p.shown("www"), p.shown("api"))
		}
	})
}

// A try that began before the wish may have missed what the wish is about.
func TestRefreshDoesNotTrustATryThatHadBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		v.set(func() { v.delay["www"] = time.Minute })
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		time.Sleep(time.Second)
		synctest.Wait()
		v.rotate(t, "www", 2) // the try under way has read the first already
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		if p.shown("www") != version(2) {
			t.Error("refreshed to", p.shown("www"))
		}
	})
}

// Another identity in the settings is no reason to take away what was fetched by
// the one before.
func TestChangedIdentityKeepsLastGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		changed := settings(t, v, time.Hour, "www")
		changed.Sources[0].Identity.ClientID = "another"
		spec := changed.Spec()
		spec.Entries[0].Certificate = changed.Sources[0].Key()
		v.set(func() { v.errs["www"] = down; v.delay["www"] = 5 * time.Second })
		go func() {
			time.Sleep(time.Second) // while the first try of the new identity is under way
			if p.shown("www") != version(1) {
				t.Error("taken away before the new identity was tried")
			}
		}()
		if err := s.Change(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		if p.shown("www") != version(1) {
			t.Error("taken away because the new identity may not read")
		}
		if st := state(s, "www"); st.State != Stale {
			t.Errorf("%+v", st)
		}
	})
}

// A certificate that moves to another URL is published at its new one before it
// is taken away: both at once.
func TestNewCertificatesOfChangedSettingsComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		v.set(func() { v.delay["api"] = 5 * time.Second })
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		done := make(chan error, 1)
		go func() { done <- s.Change(t.Context(), settings(t, v, time.Hour, "api")) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if p.shown("www") != version(1) {
			t.Error("the old one is gone before the new one is here")
		}
		if err := <-done; err != nil || p.shown("www") != "" || p.shown("api") != version(1) {
			t.Errorf("%v; www at %q, api at %q", err, p.shown("www"), p.shown("api"))
		}
	})
}

// A vault that answers nothing must not take the time of the others, however
// many certificates it has.
func TestDeadVaultLeavesRoomForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dead = 400
		v, p := newFakeVault(t, "good"), &shelf{}
		all := settings(t, v, time.Minute)
		for i := range dead {
			name := fmt.Sprint("dead", i)
			ref, _, err := vault.ParseRef("https://dead-vault.vault.azure.net/secrets/" + name)
			if err != nil {
				t.Fatal(err)
			}
			all.Sources = append(all.Sources, Source{Ref: ref})
			v.set(func() { v.errs[name] = &vault.Error{Kind: vault.KindTimeout}; v.delay[name] = 15 * time.Second })
		}
		all.Sources = append(all.Sources, source(t, "good"))
		s := running(t, Options{Publisher: p}, all)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := v.asked["good"]; n < 50 {
			t.Errorf("the vault that answers was asked %d times in an hour of one-minute polls", n)
		}
		asked := 0
		for name, n := range v.asked {
			if strings.HasPrefix(name, "dead") {
				asked += n
			}
		}
		if asked < 50 || asked > 150 {
			t.Errorf("the vault that does not was asked %d times", asked)
		}
		for _, c := range s.Report().Certificates {
			if dead := strings.HasPrefix(c.Source.Ref.Name(), "dead"); dead && (c.State != Missing || kind(c.Err) != vault.KindTimeout || c.Failures == 0) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func TestFewerVersionsDuringATryThatKnewMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		first := v.secrets["www"]
		v.rotate(t, "www", 2)
		if err := s.Refresh(t.Context(), Match("www")); err != nil {
			t.Fatal(err)
		}
		v.set(func() { v.secrets["www"] = first; v.delay["www"] = time.Second })
		refreshed := make(chan error, 1)
		go func() { refreshed <- s.Refresh(t.Context(), Match("www")) }()
		synctest.Wait() // the try is under way and knows version 1
		fewer := settings(t, v, time.Hour, "www")
		fewer.Keep = 1
		if err := s.Change(t.Context(), fewer); err != nil {
			t.Fatal(err)
		}
		if err := <-refreshed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p.shown("www") != version(1) {
			t.Error("shown", p.shown("www"))
		}
	})
}

// A certificate that the settings have no more is shown as it is while it is
// retired, is not asked for, and takes up its work when the settings have it
// again.
func TestRetiredCertificatesStayAndAreNotPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		both := settings(t, v, time.Minute, "www", "api")
		s := running(t, Options{Publisher: p}, both)
		<-s.Ready()
		retiring := both
		retiring.Sources, retiring.Retired = both.Sources[:1], both.Sources[1:]
		if err := s.Change(t.Context(), retiring); err != nil {
			t.Fatal(err)
		}
		asked := v.asked["api"]
		v.rotate(t, "api", 2)
		if err := s.Refresh(t.Context(), func(Source) bool { return true }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if v.asked["api"] != asked || p.shown("api") != version(1) {
			t.Errorf("asked %d times after %d, shown %s", v.asked["api"], asked, p.shown("api"))
		}
		if st := state(s, "api"); st.State != Removed || st.Version == "" {
			t.Errorf("%+v", st)
		}
		if err := s.Change(t.Context(), both); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.shown("api") != version(2) || state(s, "api").State != OK {
			t.Errorf("shown %s, %+v", p.shown("api"), state(s, "api"))
		}
		if err := s.Change(t.Context(), settings(t, v, time.Minute, "www")); err != nil || p.shown("api") != "" || p.shown("www") != version(1) {
			t.Errorf("%v; api at %q, www at %q", err, p.shown("api"), p.shown("www"))
		}
	})
}

// A certificate that is retired while it is being tried keeps nobody waiting, and
// what comes of the try is dropped.
func TestRetiringDuringATry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		v.rotate(t, "www", 2)
		v.set(func() { v.delay["www"] = time.Second })
		refreshed := make(chan error, 1)
		go func() { refreshed <- s.Refresh(t.Context(), Match("www")) }()
		synctest.Wait()
		retiring := settings(t, v, time.Hour, "www")
		retiring.Sources, retiring.Retired = nil, retiring.Sources
		if err := s.Change(t.Context(), retiring); err != nil {
			t.Fatal(err)
		}
		if err := <-refreshed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.shown("www") != version(1) {
			t.Error("shown", p.shown("www"))
		}
	})
}

func TestAnotherVaultClientIsUsedFromTheChangeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, other, p := newFakeVault(t, "www"), newFakeVault(t, "www"), &shelf{}
		other.rotate(t, "www", 2)
		s := running(t, Options{Publisher: p}, settings(t, v, time.Hour, "www"))
		<-s.Ready()
		if err := s.Change(t.Context(), settings(t, other, time.Hour, "www")); err != nil {
			t.Fatal(err)
		}
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) || v.asked["www"] != 1 {
			t.Errorf("%v; shown %s, the first one was asked %d times", err, p.shown("www"), v.asked["www"])
		}
	})
}

// A certificate that another identity asks for from now on goes on from the newest
// that is known of it, not from what a retired one has kept.
func TestAnotherIdentityDoesNotGoBackToAnOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www"), &shelf{}
		by := func(identities ...string) Settings {
			s := settings(t, v, time.Hour)
			for _, id := range identities {
				src := source(t, "www")
				src.Identity.ClientID = id
				s.Sources = append(s.Sources, src)
			}
			last := s.Sources[len(s.Sources)-1]
			s.Spec = func() tree.Spec {
				return tree.Spec{Entries: []tree.Entry{{Certificate: last.Key(), Store: "/store", Vault: "contoso-web", Name: "www", Linked: true, Views: v3}}}
			}
			return s
		}
		s := running(t, Options{Publisher: p}, by("old", "current"))
		<-s.Ready()
		retiring := by("old", "current")
		retiring.Sources, retiring.Retired = retiring.Sources[1:], retiring.Sources[:1]
		if err := s.Change(t.Context(), retiring); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		v.rotate(t, "www", 2)
		if err := s.Refresh(t.Context(), Match("www")); err != nil || p.shown("www") != version(2) {
			t.Fatal(err, p.shown("www"))
		}
		v.set(func() { v.errs["www"] = down })
		if err := s.Change(t.Context(), by("another")); err != nil || p.shown("www") != version(2) {
			t.Errorf("%v; shown %s", err, p.shown("www"))
		}
	})
}

// What is here does not wait long for what is not: neither a renewal nor who may
// read it.
func TestChangedSettingsWaitForNewCertificatesForALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newFakeVault(t, "www", "api"), &shelf{}
		v.set(func() { v.delay["api"] = time.Minute })
		s := running(t, Options{Publisher: p}, settings(t, v, 2*time.Second, "www"))
		<-s.Ready()
		before := p.count()
		done := make(chan error, 1)
		go func() { done <- s.Change(t.Context(), settings(t, v, 2*time.Second, "www", "api")) }()
		synctest.Wait()
		v.rotate(t, "www", 2)
		time.Sleep(changePatience - time.Millisecond)
		synctest.Wait()
		if p.count() != before {
			t.Error("published before the new one had its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p.shown("www") != version(2) {
			t.Error("the renewal waits for the new one")
		}
		if err := <-done; err != nil || p.shown("api") != version(1) {
			t.Errorf("%v; api at %q", err, p.shown("api"))
		}
	})
}
