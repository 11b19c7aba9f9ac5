package sync

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/image"
	"kvfs/tree"
	"kvfs/vault"
)

// The same promises with the real client and the wire protocol.

// emulated is a vault with one certificate, and settings that show it.
func emulated(t *testing.T) (*emulator.Emulator, Settings) {
	t.Helper()
	e, err := emulator.New(emulator.Options{Dir: t.TempDir(), PageSize: 7})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("the emulator:", err)
		}
	})
	if _, err := e.AddCertificate(emulator.Profile{Name: "www"}); err != nil {
		t.Fatal(err)
	}
	client, err := vault.New(vault.Options{CAFile: e.Endpoints().CA, Connect: map[string]string{"*.vault.azure.net:443": e.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	set := settings(t, client, time.Hour, "www")
	set.Sources[0].Identity.Endpoint = e.Endpoints().Identity
	spec := set.Spec()
	spec.Entries[0].Certificate = set.Sources[0].Key()
	return e, set
}

// publications tells of each snapshot that is published.
type publications struct {
	shelf
	came chan struct{}
}

func (p *publications) Publish(ctx context.Context, s *tree.Snapshot, _ ...image.Change) error {
	err := p.shelf.Publish(ctx, s)
	select {
	case p.came <- struct{}{}:
	default: // somebody will look anyway
	}
	return err
}

// files are those that were published last.
func (p *publications) files() (files []*tree.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.snaps[len(p.snaps)-1].Nodes() {
		if n.Kind == tree.File {
			files = append(files, n)
		}
	}
	return files
}

// until waits for a publication after which something is so.
func (p *publications) until(t *testing.T, what string, so func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for !so() {
		select {
		case <-p.came:
		case <-timeout:
			t.Fatal("it is never so that", what)
		}
	}
}

func TestAllVersionsOfARealVault(t *testing.T) {
	const n = 30
	e, set := emulated(t)
	for range n - 1 {
		if _, err := e.Rotate("", "www"); err != nil {
			t.Fatal(err)
		}
	}
	var disabled string
	for _, item := range e.Inventory() {
		disabled = item.Versions[3].Version
	}
	if err := e.SetEnabled("", "www", disabled, false); err != nil {
		t.Fatal(err)
	}
	p := &publications{came: make(chan struct{}, 1)}
	s := running(t, Options{Publisher: p}, holding(set, KeepAll, 0))
	<-s.Ready()
	p.until(t, "all enabled versions are shown", func() bool { return len(p.files()) == n-1 })
	var away []*tree.Node
	for _, node := range p.files() {
		if node.Away == nil {
			continue
		}
		away = append(away, node)
		if err := readOK(s, node); err != nil {
			t.Errorf("%s: %v", node.Name, err)
		}
	}
	for i, test := range []struct {
		kind emulator.FaultKind
		want error // nil: none of those that have an errno of their own
	}{{emulator.ForbiddenRBAC, os.ErrPermission}, {emulator.Garbage, nil}, {emulator.Drop, nil}, {emulator.Hang, context.DeadlineExceeded}} {
		e.SetFault(emulator.Fault{Name: "www", Kind: test.kind})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		content, err := s.Load(ctx, away[i])
		cancel()
		if content != nil || err == nil || errors.Is(err, os.ErrPermission) != (test.want == os.ErrPermission) || errors.Is(err, context.DeadlineExceeded) != (test.want == context.DeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", test.kind, len(content), err)
		}
		e.ClearFaults()
		if err := readOK(s, away[i+4]); err != nil {
			t.Errorf("after %s: %v", test.kind, err)
		}
	}
}
