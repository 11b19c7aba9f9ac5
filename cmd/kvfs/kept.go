package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"

	"kvfs/fs"
	"kvfs/image"
	"kvfs/keeper"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// kept is what outlives this process, and what a predecessor has left of it.
type kept struct {
	client  *keeper.Client
	image   *image.Image
	fs      *fs.FS
	serving *serving // nil before anything is mounted
	control *status.Server
	metrics *metrics
	// generation counts this server and those before it.
	generation generation
	loader     *loader
	// beneath are the directories beneath mounts, by the name under which they were kept.
	beneath map[string]*os.File
	// door to the auditor, and what opens are queued in; -1 if they were not kept.
	door, group int
	// parking is set when the process ends and another one is to go on.
	parking atomic.Bool
}

// options of a server.
type serverOptions struct {
	// unit is the systemd unit that it is. Then the mounts are made and taken away by
	// other processes of the unit (see mounter.go), and it needs no right to that.
	unit string
	// publisher is a socket at which publishers are had; "": they are children.
	publisher string
	// auditor is a socket at which auditors are had; "": they are children.
	auditor string
	// For tests.
	uncached bool
	recovery string
}

// inherit takes over what there is to take over: the kernel is being answered when it
// returns, if a predecessor has left that to do. Nothing that can fail for a reason of
// this machine's comes before.
func inherit(a *app) (k *kept, err error) {
	k, o := &kept{loader: newLoader(), door: -1, group: -1}, a.server
	if k.client, err = keeper.Inherit(); err != nil {
		return nil, err
	}
	if o.unit != "" {
		defer k.dropIfUseless(k.client.Names(), &err)
	}
	if k.image, err = k.openImage(); err != nil {
		return nil, err
	}
	a.log().Show(a.logAs(keptLog(k.image)))
	if k.generation, err = nextGeneration(k.image); err != nil { // a figure, which nothing depends on
		a.logger().Warn("the servers before this one are not counted", "err", err)
	}
	k.metrics = newMetrics(a.logger(), k.client)
	opts := fs.Options{Rootless: rootless(), Image: k.image, Keep: k.client.Keep, Load: k.loader.load, Logger: a.logger(),
		Uncached: o.uncached, Recovery: fs.Recovery(o.recovery)}
	if o.publisher != "" {
		opts.Publisher = fs.PublisherAt(o.publisher)
	}
	if k.fs, err = fs.New(opts); err != nil {
		return nil, err
	}
	err = k.fs.TakeOver(k.client.Take)
	k.beneath = takeDisks(k.client)
	k.takeAudit()
	switch {
	case err == nil:
		k.serving = startServing(k.fs)
		return k, k.endFormer()
	case errors.Is(err, fs.ErrOtherFormat) && o.unit == "": // which may mount
		return k, k.replace()
	case !errors.Is(err, fs.ErrNothingKept):
		return nil, err
	case o.unit != "":
		return nil, fail(exitFailed, "mounts", "start it with: systemctl start "+o.unit, "there are no mounts to serve: %v", err)
	}
	// What is left of a connection that has ended is of no use.
	for _, name := range k.client.Names() {
		if !strings.HasPrefix(name, image.Prefix) && !strings.HasPrefix(name, "control") && !strings.HasPrefix(name, "audit-") && !status.IsKeptEndpoint(name) {
			if err := k.client.Drop(name); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

// replace mounts what another version of kvfs has left anew, beneath it, and takes that
// away.
func (k *kept) replace() error {
	if err := k.fs.Open(k.fs.Kept()...); err != nil {
		return explainMount(err)
	}
	k.serving = startServing(k.fs)
	if err := k.fs.Attach(); err != nil {
		return explainMount(err)
	}
	return k.endFormer()
}

// endFormer takes away what an earlier server has replaced, if there is anything.
func (k *kept) endFormer() error {
	names, err := k.fs.EndFormer()
	for _, name := range names {
		err = errors.Join(err, k.client.Drop(name))
	}
	return err
}

// dropIfUseless ends the connection, and lets systemd forget it, if it could not be
// taken over, as when it is of another format. Nobody else would: who waits for an
// answer would wait for ever, and every other start would fail like this one. The next
// one begins anew.
func (k *kept) dropIfUseless(names []string, failed *error) {
	if *failed == nil {
		return
	}
	for _, name := range names {
		*failed = errors.Join(*failed, k.client.Drop(name))
	}
}

// openImage is a predecessor's image, or a new one.
func (k *kept) openImage() (*image.Image, error) {
	o := image.Options{Keep: k.client.Keep, Drop: k.client.Drop}
	fds := map[string]int{}
	for _, name := range k.client.Names() {
		if strings.HasPrefix(name, image.Prefix) {
			fds[name], _ = k.client.Take(name)
		}
	}
	if len(fds) == 0 {
		return image.New(o)
	}
	return image.Open(fds, o)
}

// listen takes the control socket over or makes it, and has it kept.
func (k *kept) listen(path string) (err error) {
	if k.control, err = status.Resume(path, k.client.Take); err != nil || k.control != nil {
		return err
	}
	if k.control, err = status.Listen(path); err != nil {
		return err
	}
	if !k.client.Kept() {
		return nil
	}
	return k.control.Keep(k.client.Keep)
}

// serving answers the kernel in the background.
type serving struct {
	stop    context.CancelFunc
	ended   chan error
	leaving atomic.Bool   // it is us who unmount
	lost    chan struct{} // closed when it has ended and nobody here wanted it to
}

// startServing does not end with any context of the caller's: whoever still reads
// while the stores are taken away wants an answer.
func startServing(f *fs.FS) *serving {
	ctx, stop := context.WithCancel(context.Background())
	s := &serving{stop: stop, ended: make(chan error, 1), lost: make(chan struct{})}
	go func() {
		err := f.Serve(ctx)
		s.ended <- err
		if ctx.Err() == nil && !s.leaving.Load() {
			close(s.lost)
		}
	}()
	return s
}

// lostFrom is closed when somebody else has ended what is served; nil if nothing is mounted.
func lostFrom(s *serving) <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.lost
}

// end returns when nothing is answered any more.
func (s *serving) end() error {
	s.leaving.Store(true)
	s.stop()
	err := <-s.ended
	s.ended <- err // for whoever asks again
	return err
}

// loader gets contents from the poller, which comes after the file system.
type loader struct {
	ready  chan struct{}
	syncer *kvsync.Syncer
}

func newLoader() *loader { return &loader{ready: make(chan struct{})} }

func (l *loader) set(s *kvsync.Syncer) {
	l.syncer = s
	close(l.ready)
}

func (l *loader) load(ctx context.Context, n *tree.Node) ([]byte, error) {
	select {
	case <-l.ready:
		return l.syncer.Load(ctx, n)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
