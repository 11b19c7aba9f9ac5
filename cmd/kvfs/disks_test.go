package main

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/config"
	"kvfs/disk"
	"kvfs/tree"
)

func storesWith(files map[string]string) wanted {
	cfg := &config.Config{}
	for store, f := range files {
		cfg.Certificates = append(cfg.Certificates, config.Certificate{Store: store, Persistent: config.Persistent{Files: f}})
	}
	return wanted{cfg: cfg}
}

// A system directory of certificates has real files unless the settings say no; no other one has them by itself.
func TestSystemDirectoriesThatHaveFiles(t *testing.T) {
	for store, want := range map[string]string{"/etc/ssl/certs": filesInstead, "/usr/local/share/ca-certificates": filesInstead,
		"/usr/bin": filesNo, "/etc": filesNo, "/etc/tls/kv": filesNo} {
		if got := storesWith(map[string]string{store: ""}).persistent(store).Files; got != want {
			t.Errorf("%s has files %q, want %q", store, got, want)
		}
	}
	w := storesWith(map[string]string{"/etc/ssl/certs": filesNo})
	if w.persistent("/etc/ssl/certs").Files != filesNo || len(w.real()) > 0 || len(w.stores(nil)) != 1 {
		t.Error("no is not no")
	}
}

func newDisks() *disks {
	return &disks{log: slog.New(slog.DiscardHandler), began: make(chan struct{}), wake: make(chan struct{}, 1), known: func() map[string]bool { return nil }}
}

// hangingDisks have one store, whose disk hangs until something comes of answers.
func hangingDisks(store string) (ds *disks, answers chan struct{}) {
	ds, answers = newDisks(), make(chan struct{})
	ds.options = func(wanted, string) disk.Options { // run asks for them before it opens a directory
		<-answers
		return disk.Options{}
	}
	ds.all = []*storeDisk{{path: store, files: filesInstead}}
	ds.note(time.Time{})
	return ds, answers
}

// A disk that hangs holds up neither who publishes nor who asks how things are, and gets what was
// published last when it answers again.
func TestDiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		answers := make(chan struct{})
		var written []*tree.Snapshot
		ds := newDisks()
		ds.options = func(wanted, string) disk.Options { // run asks for them before it opens a directory
			<-answers
			written = append(written, ds.last)
			return disk.Options{}
		}
		ds.all = []*storeDisk{{path: "/proc/self/no such directory/store", files: filesInstead}}
		ds.note(time.Time{})
		go ds.run(ctx)
		first, second, third := tree.Empty(), tree.Empty(), tree.Empty()
		for _, s := range []*tree.Snapshot{first, second, third} {
			began := time.Now()
			if ds.apply(ctx, s); time.Since(began) > diskPatience {
				t.Errorf("who publishes has waited %v", time.Since(began))
			}
		}
		if r := ds.report(); len(r) != 1 || r[0].Error == nil || !strings.Contains(r[0].Error.Fact, "not written yet") {
			t.Errorf("while it hangs: %+v", r)
		}
		close(answers)
		synctest.Wait()
		if len(written) != 2 || written[0] != first || written[1] != third {
			t.Errorf("%d snapshots were written", len(written))
		}
		if r := ds.report(); r[0].Error == nil || strings.Contains(r[0].Error.Fact, "not written yet") {
			t.Errorf("when it answers: %+v", r[0].Error)
		}
		time.Sleep(diskRetry + time.Second)
		synctest.Wait()
		if len(written) != 3 || written[2] != third {
			t.Errorf("it was not tried again: %d", len(written))
		}
		stop()
		synctest.Wait()
	})
}

// Who changes the settings does not wait for a disk that hangs, and when it answers the directories are those of the
// last ones.
func TestChangedSettingsDoNotWaitForADiskThatHangs(t *testing.T) {
	const a, b, c = "/proc/self/no such directory/a", "/proc/self/no such directory/b", "/proc/self/no such directory/c"
	with := func(stores ...string) wanted {
		files := map[string]string{}
		for _, store := range stores {
			files[store] = filesInstead
		}
		return storesWith(files)
	}
	type step func(context.Context, *disks)
	set := func(stores ...string) step {
		return func(ctx context.Context, ds *disks) { ds.set(ctx, with(stores...)) }
	}
	end := func(stores ...string) step {
		return func(ctx context.Context, ds *disks) { ds.end(ctx, with(stores...)) }
	}
	for name, tt := range map[string]struct {
		steps      []step
		said, then []string // directories of the report, while it hangs and when it answers
	}{
		"one comes":               {[]step{set(a, b), end(a, b)}, []string{a, b}, []string{a, b}},
		"one goes":                {[]step{set(), end()}, []string{a}, nil},
		"one goes and comes back": {[]step{set(), end(), set(a), end(a)}, []string{a}, []string{a}},
		"one goes, another comes": {[]step{set(), end(), set(b)}, []string{a, b}, []string{a, b}}, // what has come is published first
		"others each time":        {[]step{set(b), end(b), set(c), end(c)}, []string{a, b, c}, []string{c}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			ds, answers := hangingDisks(a)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				ds.run(ctx)
			}()
			ds.apply(ctx, tree.Empty())
			time.Sleep(time.Second)
			began := time.Now()
			for _, step := range tt.steps {
				step(ctx, ds)
			}
			if took := time.Since(began); took > 0 { // which is known to hang
				t.Errorf("%s: they have waited %v", name, took)
			}
			if said := ds.paths(); !slices.Equal(said, tt.said) {
				t.Errorf("%s: while it hangs the report has %q", name, said)
			}
			close(answers)
			synctest.Wait()
			if then := ds.paths(); !slices.Equal(then, tt.then) {
				t.Errorf("%s: when it answers the report has %q, want %q", name, then, tt.then)
			}
			stop()
			<-ended
		})
	}
}

// A store that leaves before its directory was led anywhere by this process takes its files along all the same.
func TestFilesOfAStoreThatLeavesAtOnceGo(t *testing.T) {
	store := t.TempDir()
	cfg, problems := config.FromURLs([]string{"https://contoso-web.vault.azure.net/secrets/www"}, store)
	if cfg == nil {
		t.Fatal(problems)
	}
	cfg.Certificates[0].Persistent.Files = filesInstead
	w, c := wanted{cfg: cfg}, cfg.Certificates[0]
	v := tree.NewVersion("1", time.Now(), time.Now(), selfSigned(t), wanted{}.views().of(c)[0])
	shown, err := tree.Build(tree.Spec{Entries: []tree.Entry{entry(c, wanted{}.views())}}, func(string) tree.Shown {
		return tree.Shown{Versions: []*tree.Version{v}, Current: v}
	})
	if err != nil {
		t.Fatal(err)
	}
	emptied, err := tree.Build(tree.Spec{Stores: []string{store}}, nil) // the directory goes last
	if err != nil {
		t.Fatal(err)
	}
	files := func() (all []string) {
		entries, err := os.ReadDir(store)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				all = append(all, e.Name())
			}
		}
		return all
	}
	// process is one that takes over, and whose disk answers later.
	process := func(do func(context.Context, *disks)) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			answers, ended := make(chan struct{}), make(chan struct{})
			ds := newDisks()
			ds.options = func(wanted, string) disk.Options {
				<-answers
				return disk.Options{Certificates: diskCertificates(w, store, nil)}
			}
			ds.take(w, nil)
			go func() {
				defer close(ended)
				ds.run(ctx)
			}()
			synctest.Wait()
			do(ctx, ds)
			close(answers)
			synctest.Wait()
			stop()
			<-ended
		})
	}
	process(func(ctx context.Context, ds *disks) { ds.apply(ctx, shown) })
	if len(files()) == 0 {
		t.Fatal("nothing is written: the test shows nothing")
	}
	process(func(ctx context.Context, ds *disks) {
		none := wanted{cfg: &config.Config{}}
		ds.apply(ctx, shown)
		ds.set(ctx, none)
		ds.apply(ctx, emptied)
		ds.end(ctx, none)
	})
	if left := files(); len(left) > 0 {
		t.Errorf("files are left: %q", left)
	}
}

// What is caught up with is of another time than what the poller knows: nothing counts as hidden on purpose then.
func TestCatchingUpTakesNothingForHidden(t *testing.T) {
	ds := newDisks()
	ds.known = func() map[string]bool { return map[string]bool{"/store/contoso-web.www": true} }
	ds.catchUp(t.Context(), tree.Empty())
	if ds.settled("/store", "contoso-web.www") {
		t.Error("an old snapshot is judged by what is known now")
	}
	ds.write(t.Context(), tree.Empty())
	if !ds.settled("/store", "contoso-web.www") {
		t.Error("the present one is not")
	}
}

// A store whose files have another place when it comes back than when it left gets another directory, with the options
// of the settings that ask for it.
func TestStoreThatComesBackOtherwise(t *testing.T) {
	const store = "/proc/self/no such directory/store"
	ds := newDisks()
	var asked []string
	ds.options = func(w wanted, at string) disk.Options {
		asked = append(asked, w.persistent(at).Files)
		return disk.Options{}
	}
	for _, files := range []string{filesInstead, filesBeneath, filesInstead} {
		if err := ds.enter(storesWith(map[string]string{store: files}), nil); err == nil {
			t.Fatal("it cannot be there")
		}
		if len(ds.all) != 1 || ds.all[0].files != files {
			t.Errorf("%+v, want one with files %s", ds.all, files)
		}
	}
	if !slices.Equal(asked, []string{filesInstead, filesBeneath, filesInstead}) {
		t.Error(asked)
	}
}

// The end of kvfs waits for a disk for a while, and not for ever.
func TestEndDoesNotWaitForADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ds, answers := hangingDisks("/proc/self/no such directory/store")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ds.run(ctx)
		}()
		ds.apply(ctx, tree.Empty())
		began := time.Now()
		stop()
		if <-ended; time.Since(began) != diskPatience {
			t.Errorf("it has ended after %v", time.Since(began))
		}
		close(answers)
	})
}

// Real files are refused where they cannot be had.
func TestWherePersistentCannotBe(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		unit  string
		want  string // a part of the fact; "" if it is fine
	}{
		{map[string]string{"/a": filesInstead, "/b": filesBeneath, "/c": ""}, "", ""},
		{map[string]string{"/a": filesInstead, "/a/b": filesInstead}, "", ""},
		{map[string]string{"/a": filesNo, "/a/b": ""}, "kvfs.service", ""},
		{map[string]string{"/a": filesBeneath, "/a/b": ""}, "", "lie inside one another"},
		{map[string]string{"/a": "", "/a/b": filesInstead}, "", "lie inside one another"},
		{map[string]string{"/a": filesBeneath, "/a/b": filesBeneath}, "", "lie inside one another"},
		{map[string]string{"/a": filesInstead, "/a/b": filesBeneath}, "", "lie inside one another"},
		{map[string]string{"/a": filesBeneath}, "kvfs.service", "no right to write"},
		{map[string]string{"/etc/ssl/certs": ""}, "kvfs.service", "no right to write"},
	} {
		err := storesWith(c.files).checkPersistent(c.unit)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.files, err, c.want)
		}
	}
}
