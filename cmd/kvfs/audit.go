package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvfs/audit"
	"kvfs/certs"
	"kvfs/config"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// Names of the descriptors that outlive a server: the door to the auditor, which ends
// when nobody has it any more, and what the kernel queues opens in.
const (
	keptDoor  = "audit-door"
	keptGroup = "audit-group"
)

const (
	// auditPatience is how long an auditor may take to answer.
	auditPatience = 3 * time.Second
	// auditRetry is how long after a failure it is tried again.
	auditRetry = 2 * time.Second
	// lastLines is how long an auditor that ends may go on writing.
	lastLines = 5 * time.Second
)

// errNoMount says that there is nothing to be watched.
var errNoMount = errors.New("nothing is mounted")

// auditing has an auditor watch who opens what, as the settings in force ask. Nothing
// that is served waits for it.
type auditing struct {
	kept *kept
	app  *app
	log  *slog.Logger
	wake chan struct{}

	// beginning is held while an auditor is brought about or taken away.
	beginning sync.Mutex
	door      int // of a predecessor, -1
	group     int // -1: none yet

	// mu is held while files are told: what is about to be published waits for that, and
	// for nothing else.
	mu     sync.Mutex
	want   config.Audit
	names  certificateNames
	client *audit.Client
	ended  chan struct{} // closed when the client has
	pid    int           // of the auditor, 0: not known
	// What the client has been told: where to write, what opens are queued in.
	configured *config.Audit
	watching   bool
	shown      *tree.Snapshot // that is served, or about to be
	told       *tree.Snapshot // that the auditor knows; nil: it has to hear all
	err        *status.Error
}

func newAuditing(a *app, k *kept, log *slog.Logger) *auditing {
	return &auditing{kept: k, app: a, log: log, wake: make(chan struct{}, 1), door: k.door, group: k.group}
}

// takeAudit takes what a predecessor has left of an audit.
func (k *kept) takeAudit() {
	if fd, ok := k.client.Take(keptDoor); ok {
		k.door = fd
	}
	if fd, ok := k.client.Take(keptGroup); ok {
		k.group = fd
	}
}

// set makes it what the settings want.
func (x *auditing) set(w wanted) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.want, x.told = w.cfg.Audit, nil
	x.names = nil
	if x.want.On {
		x.names = namesOfCertificates(w)
	}
	x.signal()
}

// signal lets run look again.
func (x *auditing) signal() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// use makes it the client, of which nothing has been told yet. The caller holds mu.
func (x *auditing) use(client *audit.Client, ended chan struct{}) {
	x.client, x.ended, x.pid, x.configured, x.told, x.watching = client, ended, 0, nil, nil, false
}

// process is that of the auditor, 0 if there is none.
func (x *auditing) process() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pid
}

// run keeps an auditor at work until ctx ends.
func (x *auditing) run(ctx context.Context) {
	for {
		began := time.Now()
		err := x.begin(ctx)
		x.mu.Lock()
		ended := x.ended
		x.mu.Unlock()
		var again <-chan time.Time
		if err != nil && !errors.Is(err, errNoMount) {
			again = time.After(auditRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-x.wake:
		case <-again:
		case <-ended:
			x.mu.Lock()
			x.use(nil, nil)
			x.mu.Unlock()
			x.log.Warn("the auditor has ended, another one is started")
			if time.Since(began) < auditRetry { // and would again
				select {
				case <-ctx.Done():
				case <-time.After(auditRetry):
				}
			}
		}
	}
}

// begin leads the auditor to what is wanted. It returns when opens are watched.
func (x *auditing) begin(ctx context.Context) error {
	x.beginning.Lock()
	defer x.beginning.Unlock()
	x.mu.Lock()
	want := x.want
	x.mu.Unlock()
	if !want.On {
		x.end()
		return nil
	}
	err := x.refuse()
	if err == nil {
		err = x.watch(ctx, want)
	}
	if ctx.Err() != nil || errors.Is(err, errNoMount) {
		return err
	}
	x.mu.Lock()
	before := x.err
	x.err = auditError(err)
	x.mu.Unlock()
	if err != nil && (before == nil || before.Fact != auditError(err).Fact) {
		x.log.Error("opens are not written down; all is served", "err", err, "hint", auditError(err).Hint)
	}
	return err
}

// refuse tells why opens cannot be watched, whatever is tried.
func (x *auditing) refuse() error {
	if x.kept.fs.Rootless() {
		return &audit.Error{Fact: "opens cannot be watched without CAP_SYS_ADMIN (fanotify): an ordinary user mounts", Hint: "run kvfs as root, or take kvfs.audit out of the settings"}
	}
	return nil
}

func auditError(err error) *status.Error {
	if err == nil {
		return nil
	}
	e := &status.Error{Kind: "audit", Fact: err.Error(), Hint: "it is tried again by itself; see the log"}
	var said *audit.Error
	if errors.As(err, &said) {
		e.Fact, e.Hint = said.Fact, said.Hint
	}
	return e
}

// watch does what there is still to do until opens are watched.
func (x *auditing) watch(ctx context.Context, want config.Audit) error {
	x.mu.Lock()
	client, watching := x.client, x.watching
	configured, told, known := x.configured != nil && *x.configured == want, x.told != nil, x.pid != 0
	x.mu.Unlock()
	if watching && configured && told && known {
		return nil
	}
	dir, err := x.kept.fs.Directory()
	if err != nil {
		return errNoMount
	}
	defer dir.Close()
	if client == nil {
		if client, err = x.enter(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	if !known {
		if err := x.identify(ctx, client); err != nil {
			return err
		}
	}
	// First what is written and what the files are, then the opens. What cannot be written
	// for now waits in the auditor.
	var refused *audit.Error
	if !configured {
		if err := client.Configure(ctx, audit.Options{File: want.File, All: want.AllFiles}); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	if !told {
		if err := x.tellAll(client); err != nil {
			return err
		}
	}
	if !watching {
		if err := x.beginWatch(ctx, client, dir); err != nil {
			return err
		}
	}
	if refused != nil {
		return refused
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.configured = &want
	return nil
}

// identify finds out which process the auditor is: it may have been started by a predecessor, or by systemd.
func (x *auditing) identify(ctx context.Context, client *audit.Client) error {
	is, err := client.Report(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.client == client {
		x.pid = is.Process
	}
	return nil
}

func (x *auditing) beginWatch(ctx context.Context, client *audit.Client, dir *os.File) error {
	group, err := client.Begin(ctx, dir, x.group)
	if err != nil {
		return err
	}
	if x.group >= 0 {
		unix.Close(group)
	} else if x.group = group; x.kept.client.Kept() {
		if err := x.keep(keptGroup, group); err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watching = x.client == client
	return nil
}

// keep has a descriptor kept instead of the one before.
func (x *auditing) keep(name string, fd int) error {
	return errors.Join(x.kept.client.Drop(name), x.kept.client.Keep(name, fd))
}

// enter goes on with the auditor of a predecessor, or gets another one.
func (x *auditing) enter() (*audit.Client, error) {
	door, mine := (*os.File)(nil), false
	if x.door >= 0 {
		door, x.door = os.NewFile(uintptr(x.door), "door"), -1
	} else {
		var err error
		if door, err = x.newDoor(); err != nil {
			return nil, err
		}
		mine = true
	}
	if mine && x.kept.client.Kept() {
		if err := x.keep(keptDoor, int(door.Fd())); err != nil {
			door.Close()
			return nil, err
		}
	}
	client, err := audit.NewClient(door)
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	x.mu.Lock()
	x.use(client, ended)
	x.mu.Unlock()
	go func() {
		defer close(ended)
		if err := client.Run(); !errors.Is(err, audit.ErrEnded) {
			x.log.Error("the auditor cannot be understood", "err", err)
		}
		client.Close()
	}()
	return client, nil
}

func (x *auditing) newDoor() (*os.File, error) {
	switch o := x.app.server; {
	case o.unit == "":
		args := []string{"auditor"}
		if x.app.verbose {
			args = append(args, "--verbose")
		}
		door, wait, err := audit.Start(os.Stderr, "/proc/self/exe", args...)
		if err == nil {
			go func() { _ = wait() }() // it says itself what was wrong
		}
		return door, err
	case o.auditor == "":
		return nil, &audit.Error{Fact: "the unit's server may not watch opens, and knows of no auditor", Hint: "start it with --auditor, as deploy/systemd/kvfs.service does"}
	default:
		door, err := audit.Dial(o.auditor)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, &audit.Error{Fact: fmt.Sprintf("the unit's server may not watch opens, and no auditor is to be had at %s", o.auditor), Hint: "systemctl enable --now kvfs-auditor.socket"}
		}
		return door, err
	}
}

// end lets the auditor end, if there is one: the settings do not want it any more.
func (x *auditing) end() {
	x.mu.Lock()
	client := x.client
	x.use(nil, nil)
	x.err = nil
	x.mu.Unlock()
	if client == nil && x.door < 0 && x.group < 0 {
		return
	}
	if client != nil {
		client.Close()
	}
	for _, fd := range []*int{&x.door, &x.group} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	for _, name := range []string{keptDoor, keptGroup} {
		if err := x.kept.client.Drop(name); err != nil {
			x.log.Warn("the keeper does not listen", "err", err)
		}
	}
}

// publishing tells the auditor what is about to be shown.
func (x *auditing) publishing(s *tree.Snapshot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shown = s
	if x.client == nil {
		return // all is told when there is one
	}
	if x.told == nil { // other names, which have to be told before the files can be opened
		if err := x.tell(x.client, s); err != nil {
			x.log.Warn("the auditor does not hear what the files are; it is told again", "err", err)
			x.signal()
		}
		return
	}
	var come []audit.File
	var gone []uint64
	for _, c := range tree.Diff(x.told, s) {
		switch n := c.Node(); {
		case n.Kind != tree.File:
		case c.Op == tree.Add, c.Op == tree.Replace:
			come = append(come, x.names.file(s, c.New))
		case c.Op == tree.Remove:
			gone = append(gone, uint64(n.ID))
		}
	}
	x.told = s
	if come == nil && gone == nil {
		return
	}
	if err := x.client.Files(false, come, gone); err != nil {
		x.told = nil
		x.log.Warn("the auditor does not hear what the files are; it is told again", "err", err)
		x.signal()
	}
}

// tellAll tells a new auditor what the files are.
func (x *auditing) tellAll(client *audit.Client) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.shown
	if s == nil {
		s = x.kept.fs.Snapshot()
	}
	return x.tell(client, s)
}

// tell is tellAll for who holds mu.
func (x *auditing) tell(client *audit.Client, s *tree.Snapshot) error {
	var all []audit.File
	for n := range s.Nodes() {
		if n.Kind == tree.File {
			all = append(all, x.names.file(s, n))
		}
	}
	if err := client.Files(true, all, nil); err != nil {
		return err
	}
	x.told = s
	return nil
}

// certificateNames lead from the directories of stores, by their names, to their paths
// and to the certificates in them.
type certificateNames map[string]*storeNames

type storeNames struct {
	path string
	urls map[string]string // by VAULT.NAME in lower case
}

func namesOfCertificates(w wanted) certificateNames {
	all := certificateNames{}
	for _, c := range w.certificates() {
		dir := tree.StoreDir(c.Store)
		if all[dir] == nil {
			all[dir] = &storeNames{c.Store, map[string]string{}}
		}
		all[dir].urls[strings.ToLower(c.Ref.Vault()+"."+c.Ref.Name())] = secretOf(c.Ref.String())
	}
	return all
}

// file is what there is to say of one.
func (c certificateNames) file(s *tree.Snapshot, n *tree.Node) audit.File {
	below := n.Name
	up, ok := s.Node(n.Parent)
	for ; ok && up.Parent != tree.Root; up, ok = s.Node(up.Parent) {
		below = path.Join(up.Name, below)
	}
	f := audit.File{Inode: uint64(n.ID), Path: below}
	if !ok {
		return f
	}
	origin := tree.OriginOf(below)
	f.Version, f.Key = string(origin.Version), origin.Key
	if store := c[up.Name]; store != nil {
		f.Path, f.Certificate = path.Join(store.path, below), store.urls[strings.ToLower(origin.Base)]
	}
	return f
}

// report is nil where nothing is to be written down.
func (x *auditing) report() *status.Audit {
	x.mu.Lock()
	want, client, failed := x.want, x.client, x.err
	x.mu.Unlock()
	if !want.On {
		return nil
	}
	r := &status.Audit{To: cmp.Or(want.File, "log"), AllFiles: want.AllFiles, Error: failed}
	if client == nil {
		return r
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	is, err := client.Report(ctx)
	if err != nil {
		r.Error = cmp.Or(failed, &status.Error{Kind: "audit", Fact: err.Error(), Hint: "it is tried again by itself; an auditor that hangs may be killed"})
		return r
	}
	r.Process, r.Since, r.Opens, r.Dropped, r.Overflow, r.Gone, r.Lost, r.Forgotten = is.Process, status.Time(is.Since), is.Opens, is.Dropped, is.Overflow, is.Gone, is.Lost, is.Forgotten
	r.Waiting, r.WaitingLines, r.HangsSince, r.Priority, r.Exits, r.Users = is.Waiting, is.WaitingLines, is.HangsSince, is.Priority, is.Exits, is.Users
	if is.Trouble != nil {
		r.Error = &status.Error{Kind: "audit", Fact: is.Trouble.Fact, Hint: is.Trouble.Hint}
	}
	return r
}

// Readers says which running processes have read which version.
func (d *daemon) Readers(ctx context.Context, name string) (status.Readers, error) {
	match := func(kvsync.Source) bool { return true }
	if name != "" {
		match = kvsync.Match(name)
	}
	x := d.audit
	x.mu.Lock()
	want, client := x.want, x.client
	x.mu.Unlock()
	r := status.Readers{Certificates: []status.CertificateReaders{}}
	var shown []kvsync.Status
	for _, c := range d.syncer.Report().Certificates {
		if match(c.Source) {
			shown = append(shown, c)
		}
	}
	switch {
	case shown == nil && name != "":
		return r, &status.UnknownError{Name: name}
	case !want.On:
		r.Error = &status.Error{Kind: "audit", Fact: "nobody looks who reads: kvfs.audit is not in the settings", Hint: `write "audit": true into the block "kvfs", and: kvfs refresh --settings`}
		return r, nil
	case client == nil:
		r.Error = &status.Error{Kind: "audit", Fact: "there is no auditor yet", Hint: "try again"}
		if now := x.report(); now != nil && now.Error != nil {
			r.Error = now.Error
		}
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	certificate := "" // of all
	if len(shown) == 1 {
		certificate = secretOf(shown[0].Source.Ref.String())
	}
	all, err := client.Readers(ctx, certificate)
	if err != nil {
		r.Error = auditError(err)
		return r, nil
	}
	if is, err := client.Report(ctx); err == nil {
		r.Since = is.Since
	}
	for _, c := range shown {
		r.Certificates = append(r.Certificates, readersIn(c.Source.Ref.String(), c.Version, all))
	}
	return r, nil
}

// readersIn are those of a certificate, those first that have not read its version yet.
func readersIn(url string, version certs.Version, all []audit.Reader) status.CertificateReaders {
	c := status.CertificateReaders{URL: url, Version: string(version), Readers: []status.Reader{}}
	for _, r := range all {
		if r.Certificate != secretOf(url) {
			continue
		}
		c.Readers = append(c.Readers, status.Reader{PID: int(r.PID), Started: r.Started, UID: r.UID, GID: r.GID, Executable: r.Executable, Command: r.Command,
			Unit: r.Unit, Container: r.Container, Versions: r.Versions, At: r.At.Truncate(time.Millisecond), Open: r.Open, Current: slices.Contains(r.Versions, string(version))})
	}
	slices.SortStableFunc(c.Readers, func(a, b status.Reader) int {
		switch {
		case a.Current == b.Current:
			return 0
		case b.Current:
			return -1
		}
		return 1
	})
	return c
}

// auditProblem is what is to be said of kvfs.audit on this machine.
func auditProblem(w wanted) (p config.Problem, found bool) {
	p = config.Problem{Severity: config.Warning, Line: w.cfg.Audit.Line, Column: w.cfg.Audit.Column}
	real := w.real()
	switch {
	case !w.cfg.Audit.On:
		return p, false
	case rootless():
		p.Fact, p.Hint = "kvfs.audit: an ordinary user cannot watch opens, which takes CAP_SYS_ADMIN (fanotify); all is served", "run kvfs as root, or take kvfs.audit out"
	case len(real) > 0:
		p.Fact, p.Hint = fmt.Sprintf("kvfs.audit: opens of the real files in %s are not watched", real[0]), "watch them with auditd, or mount the store"
	default:
		return p, false
	}
	return p, true
}

func (a *app) auditorCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "auditor",
		Short: "write down who opens which key (started by kvfs mount or by systemd)",
		Long: `The process that watches opens, for the server at the other end of the socket on
descriptor 3, or on standard input. It ends when nobody holds that other end any more.`,
		Hidden: true,
		Args:   takes(0, 0, nothing),
		RunE: func(*cobra.Command, []string) error {
			door, err := auditorDoor(server)
			if err != nil {
				return err
			}
			return a.runAuditor(door, server != "")
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "the user whose server connects to the socket on standard input")
	return cmd
}

func auditorDoor(server string) (*os.File, error) {
	if server == "" {
		door := os.NewFile(3, "door")
		if kind, err := unix.GetsockoptInt(3, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
			return nil, fail(exitUsage, "usage", "this command is for kvfs mount to start", "descriptor 3 is no door")
		}
		return door, nil
	}
	u, err := user.Lookup(server)
	if err != nil {
		return nil, fail(exitUsage, "usage", "name the user that the server runs as", "--server: %v", err)
	}
	peer, err := unix.GetsockoptUcred(0, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fail(exitUsage, "usage", "this command is for systemd to start", "standard input is no socket: %v", err)
	}
	if u.Uid != strconv.FormatUint(uint64(peer.Uid), 10) {
		return nil, fail(exitRefused, "permission", "see the socket's unit", "user %d has connected, not %s", peer.Uid, server)
	}
	return os.Stdin, nil
}

func (a *app) runAuditor(door *os.File, guarded bool) error {
	auditor, err := audit.New(door, os.Stderr)
	if err != nil {
		return fmt.Errorf("auditor: %w", err)
	}
	auditor.Guarded = guarded
	written := make(chan error, 1)
	go func() { written <- auditor.Write() }()
	err = auditor.Watch()
	select {
	case lost := <-written:
		err = errors.Join(err, lost)
	case <-time.After(lastLines): // a pipe that nobody reads, or a disk that hangs
		err = errors.Join(err, errors.New("the last lines cannot be written"))
	}
	if err != nil {
		return fmt.Errorf("auditor: %w", err)
	}
	return nil
}
