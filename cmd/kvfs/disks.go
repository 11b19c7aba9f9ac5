package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/config"
	"kvfs/disk"
	"kvfs/fs"
	"kvfs/image"
	"kvfs/keeper"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// Where the files of a store are, as the settings name it.
const (
	filesNo      = "no"
	filesBeneath = "beneath"
	filesInstead = "instead"
)

const (
	// diskRetry is how long after a failure a directory is led to what is shown again.
	diskRetry = 5 * time.Second
	// diskPatience is how long a publication waits for the files. One that is over says that they are
	// there; but a disk that hangs holds up nothing else.
	diskPatience = 3 * time.Second
)

// persistent is what the settings ask for the files of a store. A system directory of certificates, which
// nothing can be mounted at, has real files unless they say no.
func (w wanted) persistent(store string) config.Persistent {
	for _, c := range w.certificates() { // those that the settings have are first
		if c.Store != store {
			continue
		}
		p := c.Persistent
		if p.Files == "" {
			p.Files = filesNo
			if fs.HoldsCertificates(store) {
				p.Files = filesInstead
			}
		}
		return p
	}
	return config.Persistent{Files: filesNo}
}

// real are the stores that are not mounted: their files are real ones instead.
func (w wanted) real() []string {
	return slices.DeleteFunc(storesOf(w.certificates()), func(store string) bool { return w.persistent(store).Files != filesInstead })
}

// checkPersistent refuses what cannot be had: real files in or around another store, unless both have
// them instead of a mount, and anything of the kind for a unit whose server has no rights.
func (w wanted) checkPersistent(unit string) error {
	all := storesOf(w.certificates())
	for _, store := range all {
		files := w.persistent(store).Files
		if files == filesNo {
			continue
		}
		if unit != "" {
			return &fs.MountpointError{Path: store, Fact: fmt.Sprintf("the store %s is to have real files, and the server of a systemd unit has no right to write them", store),
				Hint: "choose another directory or \"no\" for kvfs.persistent, or run kvfs mount in a unit of your own"}
		}
		for _, other := range all {
			nested := isInside(other, []string{store}) || isInside(store, []string{other})
			if nested && (files != filesInstead || w.persistent(other).Files != filesInstead) {
				return &fs.MountpointError{Path: store, Fact: fmt.Sprintf("the store %s, which has real files, and the store %s lie inside one another", store, other),
					Hint: "choose directories of which none contains another, or \"instead\" for both"}
			}
		}
	}
	return nil
}

// diskOptions of a store.
func (d *daemon) diskOptions(w wanted, store string) disk.Options {
	p := w.persistent(store)
	return disk.Options{TmpfsOnly: p.TmpfsOnly, KeepFiles: p.KeepFiles, Certificates: diskCertificates(w, store, nil), Logger: d.log,
		Settled: func(base string) bool { return d.disks.settled(store, base) }}
}

// diskCertificates are those of a store as package disk names them.
func diskCertificates(w wanted, store string, views func(kvsync.Source) kvsync.Policy) []disk.Certificate {
	all, at := []disk.Certificate{}, map[string]int{}
	for _, c := range w.cfg.Certificates {
		if c.Store != store {
			continue
		}
		base := c.Ref.Vault() + "." + c.Ref.Name()
		i, known := at[base]
		if !known {
			i, at[base] = len(all), len(all)
			all = append(all, disk.Certificate{Vault: c.Ref.Vault(), Name: c.Ref.Name()})
		}
		if c.LinkName != "" {
			all[i].Links = append(all[i].Links, c.LinkName)
		}
		if views != nil {
			all[i].Views = append(all[i].Views, views(source(c)).Views...)
		}
	}
	return all
}

// disks are the directories of stores that have real files. They follow what is published. Once run runs it alone
// touches them, so that nobody else waits for a disk for longer than he likes.
type disks struct {
	log     *slog.Logger
	client  *keeper.Client
	options func(w wanted, store string) disk.Options
	known   func() map[string]bool // bases by store/base of which the poller knows what to show
	// began is closed when the poller has published for the first time.
	began chan struct{}
	once  sync.Once
	// wrote is called when something was written, or could not be; nil: nobody waits for that.
	wrote func()
	// wake has a value when there is something asked.
	wake chan struct{}

	// What follows is run's alone.
	all    []*storeDisk
	last   *tree.Snapshot // as published
	states map[string]bool

	// seen is taken last, and for a moment: who asks how things are does not wait for a disk.
	seen    sync.Mutex
	asked   diskJob
	now     []status.Directory
	since   time.Time      // when run began to write; zero: it does not
	due     *tree.Snapshot // that is published and not written yet
	retryAt time.Time      // zero: nothing has failed
}

// diskJob is what run is asked to do, in this order. What is asked later takes the place of what has not begun.
type diskJob struct {
	had      *wanted             // whose stores a predecessor had; nil: none
	kept     map[string]*os.File // directories beneath mounts that it has left
	want     *wanted             // whose stores are to be there; nil: no others than before
	before   *tree.Snapshot      // the first that snapshot has taken the place of; nil: of none
	snapshot *tree.Snapshot      // to be written; nil: none
	end      *wanted             // whose stores alone are to stay; nil: all
	done     []chan struct{}
}

// storeDisk is the directory of one store.
type storeDisk struct {
	path, files string
	of          wanted // the settings that it goes by, which may not be in force any more
	// kept is the directory beneath a mount; nil for others.
	kept *os.File
	dir  *disk.Dir // nil: it could not be opened
	// led is set when the directory is as a snapshot had it, with its options: then it knows what has gone since.
	led bool
	err error
}

func diskName(store string) string { return "disk." + tree.StoreDir(store) }

// takeDisks takes the directories beneath mounts from the keeper.
func takeDisks(client *keeper.Client) map[string]*os.File {
	kept := map[string]*os.File{}
	for _, name := range client.Names() {
		if strings.HasPrefix(name, "disk.") {
			if fd, ok := client.Take(name); ok {
				kept[name] = os.NewFile(uintptr(fd), name)
			}
		}
	}
	return kept
}

// take makes these the stores with real files when run runs: after a predecessor, nobody waits for their disks.
func (ds *disks) take(w wanted, kept map[string]*os.File) {
	ds.seen.Lock()
	defer ds.seen.Unlock()
	ds.asked.had, ds.asked.kept = &w, kept
	ds.announce(w)
	ds.wake <- struct{}{}
}

// set makes these the stores with real files; those that leave are closed by end. What is wrong with them is in the
// report, and tried again.
func (ds *disks) set(ctx context.Context, w wanted) {
	ds.ask(ctx, func(job *diskJob) {
		job.want, job.end = &w, nil // what was to end may be there again
		ds.announce(w)
	})
}

// announce has the report name the directories that are asked for. The caller holds seen.
func (ds *disks) announce(w wanted) {
	for _, store := range storesOf(w.certificates()) {
		known := slices.ContainsFunc(ds.now, func(d status.Directory) bool { return d.Path == store })
		if files := w.persistent(store).Files; files != filesNo && !known {
			ds.now = append(slices.Clip(ds.now), status.Directory{Path: store, Files: files})
		}
	}
}

// end closes the directories of stores that have no real files any more. What is there stays.
func (ds *disks) end(ctx context.Context, w wanted) {
	ds.ask(ctx, func(job *diskJob) { job.end = &w })
}

// enter opens the directories that are not open. Its error is the first. Before run runs it may be called by another
// goroutine.
func (ds *disks) enter(w wanted, kept map[string]*os.File) (err error) {
	for _, store := range storesOf(w.certificates()) {
		p := w.persistent(store)
		if p.Files == filesNo {
			continue
		}
		i := slices.IndexFunc(ds.all, func(s *storeDisk) bool { return s.path == store })
		switch {
		case i < 0:
			i = len(ds.all)
			ds.all = append(ds.all, &storeDisk{path: store, files: p.Files, kept: kept[diskName(store)]})
		case ds.all[i].files != p.Files: // it has left and come back before run got to it
			ds.release(ds.all[i])
			ds.all[i] = &storeDisk{path: store, files: p.Files}
		}
		s := ds.all[i]
		s.of = w
		if s.dir != nil {
			o := ds.options(w, store)
			o.Beneath = s.kept
			s.dir.Set(o)
			s.led = false
			continue
		}
		if s.err = ds.open(s); err == nil {
			err = s.err
		}
	}
	ds.note(time.Time{})
	return err
}

// note takes down how the directories are, for the report, and when to try again.
func (ds *disks) note(retryAt time.Time) {
	var all []status.Directory
	for _, s := range ds.all {
		r := status.Directory{Path: s.path, Files: s.files}
		if s.err != nil {
			r.Error = &status.Error{Kind: "disk", Fact: strings.ReplaceAll(s.err.Error(), "\n", "; "), Hint: hintOf(s.err)}
		}
		all = append(all, r)
	}
	ds.seen.Lock()
	defer ds.seen.Unlock()
	ds.now, ds.retryAt = all, retryAt
	for _, w := range []*wanted{ds.asked.had, ds.asked.want} {
		if w != nil {
			ds.announce(*w)
		}
	}
}

// open the directory of a store. One beneath a mount is opened before that is there, and kept for every process to
// come.
func (ds *disks) open(s *storeDisk) (err error) {
	o := ds.options(s.of, s.path)
	if s.files == filesBeneath && s.kept == nil {
		if s.kept, err = ds.beneath(s.path, o); err != nil {
			return err
		}
		if err := ds.client.Drop(diskName(s.path)); err != nil {
			return err
		}
		if err := ds.client.Keep(diskName(s.path), int(s.kept.Fd())); err != nil {
			return fmt.Errorf("keeping the directory beneath %s: %w", s.path, err)
		}
	}
	o.Beneath = s.kept
	s.led = false
	s.dir, err = disk.Open(s.path, o)
	return err
}

func (ds *disks) beneath(path string, o disk.Options) (*os.File, error) {
	if fs.Visible(path) {
		return disk.Beneath(path)
	}
	d, err := disk.Open(path, o)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.FcntlInt(d.File().Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicating the directory %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// paths of the stores.
func (ds *disks) paths() (all []string) {
	for _, r := range ds.report() {
		all = append(all, r.Path)
	}
	return all
}

// leave is what end asks for.
func (ds *disks) leave(w wanted) {
	stores := storesOf(w.certificates())
	ds.all = slices.DeleteFunc(ds.all, func(s *storeDisk) bool {
		if slices.Contains(stores, s.path) && w.persistent(s.path).Files == s.files {
			return false
		}
		ds.release(s)
		return true
	})
	ds.note(ds.alarmAt())
}

// release closes a directory, and has nobody keep it any more.
func (ds *disks) release(s *storeDisk) {
	if s.dir != nil {
		s.dir.Close()
	}
	if s.kept != nil {
		s.kept.Close()
		if err := ds.client.Drop(diskName(s.path)); err != nil {
			ds.log.Warn("the keeper does not listen", "err", err)
		}
	}
}

// apply lets run lead all directories to a snapshot. What fails is in the report, and tried again.
func (ds *disks) apply(ctx context.Context, s *tree.Snapshot) {
	ds.ask(ctx, func(job *diskJob) {
		if job.before == nil {
			job.before = job.snapshot
		}
		job.snapshot, ds.due = s, s
	})
}

// ask has run do something, and waits for it, but not for ever, and not at all if it is known to hang.
func (ds *disks) ask(ctx context.Context, what func(*diskJob)) {
	done := make(chan struct{})
	ds.seen.Lock()
	what(&ds.asked)
	hangs := ds.hung() > diskPatience
	if !hangs {
		ds.asked.done = append(ds.asked.done, done)
	}
	ds.seen.Unlock()
	select {
	case ds.wake <- struct{}{}:
	default:
	}
	if hangs {
		return
	}
	patience := time.NewTimer(diskPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-patience.C:
		ds.log.Warn("writing the files takes long; all else goes on", "after", diskPatience)
	}
}

// hung is for how long run has been at what it does. The caller holds seen.
func (ds *disks) hung() time.Duration {
	if ds.since.IsZero() {
		return 0
	}
	return time.Since(ds.since)
}

// hangs tells whether run does not get on.
func (ds *disks) hangs() bool {
	ds.seen.Lock()
	defer ds.seen.Unlock()
	return ds.hung() > diskPatience
}

// run does what is asked, and writes again what could not be written, until ctx ends; it does not wait for a disk that
// hangs then.
func (ds *disks) run(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ds.work(ctx)
	}()
	<-ctx.Done()
	select {
	case <-ended:
	case <-time.After(diskPatience):
		ds.log.Warn("a disk does not answer; what was to be written last may not be", "after", diskPatience)
	}
}

func (ds *disks) work(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-ds.wake:
			ds.do(ctx)
		case <-ds.alarm():
			ds.begun(time.Now())
			ds.write(ctx, ds.last)
			ds.begun(time.Time{})
		}
		if ds.wrote != nil {
			ds.wrote()
		}
	}
}

// do does what is asked.
func (ds *disks) do(ctx context.Context) {
	ds.begun(time.Now())
	ds.seen.Lock()
	job := ds.asked
	ds.asked = diskJob{}
	ds.seen.Unlock()
	if job.had != nil {
		_ = ds.enter(*job.had, job.kept) // it is in the report
	}
	if job.want != nil {
		_ = ds.enter(*job.want, nil)
	}
	if job.before != nil {
		ds.catchUp(ctx, job.before)
	}
	if job.snapshot != nil {
		ds.write(ctx, job.snapshot)
	}
	if job.end != nil && ctx.Err() == nil { // else what is to go may still be there
		ds.leave(*job.end)
	}
	ds.begun(time.Time{})
	for _, done := range job.done {
		close(done)
	}
}

// write leads all directories to a snapshot.
func (ds *disks) write(ctx context.Context, s *tree.Snapshot) {
	ds.last, ds.states = s, nil
	retryAt := time.Time{}
	for _, one := range ds.all {
		before := one.err
		one.err = ds.applyOne(ctx, one)
		switch {
		case one.err == nil && before != nil:
			ds.log.Info("the files are written again", "store", one.path)
		case one.err == nil || ctx.Err() != nil:
		default:
			retryAt = time.Now().Add(diskRetry)
			if before == nil || before.Error() != one.err.Error() {
				ds.log.Error("the files are not as they should be; it is tried again", "store", one.path, "err", one.err, "hint", hintOf(one.err))
			}
		}
	}
	ds.note(retryAt)
	ds.seen.Lock()
	if ds.due == s {
		ds.due = nil
	}
	ds.seen.Unlock()
	ds.once.Do(func() { close(ds.began) })
}

// catchUp leads directories that this process has not led anywhere yet to a snapshot before the one that is to be written:
// what has gone since is known by what was there.
func (ds *disks) catchUp(ctx context.Context, to *tree.Snapshot) {
	ds.last, ds.states = to, map[string]bool{} // what the poller knows by now is of later snapshots
	for _, s := range ds.all {
		if s.dir != nil && !s.led {
			s.err = ds.applyOne(ctx, s)
		}
	}
}

func (ds *disks) begun(at time.Time) {
	ds.seen.Lock()
	defer ds.seen.Unlock()
	ds.since = at
}

func (ds *disks) applyOne(ctx context.Context, s *storeDisk) error {
	if s.dir == nil {
		if err := ds.open(s); err != nil {
			return err
		}
	}
	err := s.dir.Apply(ctx, ds.last)
	s.led = s.led || err == nil
	return err
}

// alarm fires when what has failed is to be tried again.
func (ds *disks) alarm() <-chan time.Time {
	at := ds.alarmAt()
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

func (ds *disks) alarmAt() time.Time {
	ds.seen.Lock()
	defer ds.seen.Unlock()
	return ds.retryAt
}

// settled tells whether the poller knows what a certificate is to be shown as, be it nothing. It is
// called by apply.
func (ds *disks) settled(store, base string) bool {
	if ds.states == nil {
		ds.states = ds.known()
	}
	return ds.states[store+"/"+base]
}

// knownBases are the certificates of which the poller knows what to show.
func (d *daemon) knownBases() map[string]bool {
	known, bases := map[string]bool{}, map[string]bool{}
	for _, c := range d.syncer.Report().Certificates {
		known[c.Source.Key()] = c.Version != "" || c.State == kvsync.Hidden || c.State == kvsync.Removed
	}
	for _, c := range d.wanted().certificates() {
		if known[source(c).Key()] {
			bases[c.Store+"/"+c.Ref.Vault()+"."+c.Ref.Name()] = true
		}
	}
	return bases
}

// report is how the directories are.
func (ds *disks) report() []status.Directory {
	ds.seen.Lock()
	defer ds.seen.Unlock()
	if hung := ds.hung(); hung > diskPatience {
		late := slices.Clone(ds.now)
		for i := range late {
			late[i].Error = &status.Error{Kind: "disk", Fact: fmt.Sprintf("what was to be written %v ago is not written yet", hung.Round(time.Second)),
				Hint: hungDiskHint}
		}
		return late
	}
	return ds.now // never modified, only replaced
}

const hungDiskHint = "a disk, or a file system over the network, does not answer; see the kernel's log"

func hintOf(err error) string {
	var e *disk.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return "see the log"
}

// publisher shows a snapshot where it is mounted, and then where it is written. What keeps one from it
// does not keep the other.
type publisher struct {
	fs        *fs.FS
	disks     *disks
	audit     *auditing
	published func()
}

var _ kvsync.Publisher = publisher{}

func (p publisher) Publish(ctx context.Context, s *tree.Snapshot, beside ...image.Change) error {
	p.audit.publishing(s)
	err := p.fs.Publish(ctx, s, beside...)
	p.disks.apply(ctx, s)
	p.published()
	return err
}

// checkStore is fs.CheckMountpoint, but that what kvfs or the extension has left there is not in the way: it was
// read as last good, and stays beneath the mount.
func checkStore(at string, inside []string, own ...string) (stale bool, err error) {
	stale, err = fs.CheckMountpoint(at, inside, own...)
	var bad *fs.MountpointError
	if !errors.As(err, &bad) || bad.InTheWay == nil {
		return stale, err
	}
	if foreign, diskErr := disk.Foreign(fs.Resolve(at), bad.InTheWay); diskErr == nil && len(foreign) == 0 {
		return false, nil
	}
	return stale, err
}

// lastGood are the versions that were read from the directories of stores, by source.
type lastGood struct {
	mu       sync.Mutex
	versions map[string][]*tree.Version
}

func newLastGood() *lastGood { return &lastGood{versions: map[string][]*tree.Version{}} }

func (g *lastGood) of(src kvsync.Source) []*tree.Version {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.versions[src.Key()]
}

// read looks into the directories of these stores, before anything covers them. Of several that have a certificate
// the first one counts.
func (g *lastGood) read(d *daemon, w wanted, stores []string) {
	policies := d.policies(w)
	for _, store := range stores {
		found, notes, err := disk.Read(store, diskCertificates(w, store, policies), disk.ReadOptions{Versions: max(w.cfg.KeepVersions, 0)})
		if err != nil {
			d.log.Warn("what is in a store is not taken for last good", "store", store, "err", err, "hint", hintOf(err))
		}
		for _, note := range notes {
			d.log.Warn("this is not taken for last good", "store", store, "why", note)
		}
		for _, c := range w.cfg.Certificates {
			if c.Store == store {
				g.add(c, found[c.Ref.Vault()+"."+c.Ref.Name()])
			}
		}
	}
}

func (g *lastGood) add(c config.Certificate, good disk.LastGood) {
	versions := good.Versions
	if c.Ref.Pinned() {
		versions = slices.DeleteFunc(slices.Clone(versions), func(v *tree.Version) bool { return !strings.EqualFold(string(v.ID), c.Ref.Version()) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if key := source(c).Key(); len(versions) > 0 && g.versions[key] == nil {
		g.versions[key] = versions
	}
}

// take takes over what was found; nil: nothing.
func (g *lastGood) take(found *lastGood) {
	if found == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.Copy(g.versions, found.versions)
}

// forget is for when the poller has what it wants: nobody else holds it.
func (g *lastGood) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.versions)
}

// covers tells whether all certificates are known from before.
func (g *lastGood) covers(w wanted) bool {
	return !slices.ContainsFunc(w.cfg.Certificates, func(c config.Certificate) bool { return g.of(source(c)) == nil })
}
