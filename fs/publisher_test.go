package fs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kvfs/acl"
	"kvfs/tree"
)

// listen starts a publisher for each connection, as systemd does, for a server of a
// user. It listens as another one.
func listen(t *testing.T, server, listener int) (socket string) {
	t.Helper()
	name := fmt.Sprintf("@kvfs-test-%d-%s", os.Getpid(), t.Name())
	var l *net.UnixListener
	as(t, listener, nil, func() {
		var err error
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"}); err != nil {
			t.Error(err)
		}
	})
	if l == nil {
		t.FailNow()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			file, err := conn.File()
			conn.Close()
			if err != nil {
				t.Error(err)
				return
			}
			cmd := exec.Command("/proc/self/exe", "publish-for", fmt.Sprint(server))
			cmd.Stdin, cmd.Stdout = file, file
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			file.Close()
			t.Cleanup(func() { _ = cmd.Wait() }) // how it ends is the test's affair
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return name
}

// republish tries to publish a renewal by publishers that come another way.
func republish(t *testing.T, by Publisher) error {
	t.Helper()
	v1, v2 := newVersion(t, 1), newVersion(t, 2)
	f, store := mounted(t, func(store string) *tree.Snapshot { return site(t, store, acl.List{}, v1) })
	f.publishing.Lock()
	f.opts.Publisher = by
	err := f.restartPublishers()
	f.publishing.Unlock()
	if err = errors.Join(err, f.Publish(t.Context(), site(t, store, acl.List{}, v2, v1))); err == nil {
		if target, _ := os.Readlink(filepath.Join(store, "site")); !strings.HasSuffix(target, "2") {
			t.Error("link is", target)
		}
		if f.Stats().Publisher == 0 {
			t.Error("nobody knows the publisher's process")
		}
	}
	f.publishing.Lock() // it is to end before the listener does
	defer f.publishing.Unlock()
	for _, c := range f.conns {
		f.stopPublisher(c)
	}
	return err
}

func TestPublisherComesThroughASocket(t *testing.T) {
	needMount(t)
	if err := republish(t, PublisherAt(listen(t, os.Getuid(), 0))); err != nil {
		t.Error(err)
	}
}

// Neither side takes anybody for the other: the directory is a way to change names,
// and the plans are what is changed.
func TestPublisherAndServerLookWhoTheOtherIs(t *testing.T) {
	needMount(t)
	const other = 4242
	t.Run("server", func(t *testing.T) {
		if err := republish(t, PublisherAt(listen(t, other, 0))); err == nil {
			t.Error("a publisher works for a server that is not its own")
		}
	})
	t.Run("publisher", func(t *testing.T) {
		err := republish(t, PublisherAt(listen(t, os.Getuid(), other)))
		if err == nil || !strings.Contains(err.Error(), "user 4242 listens, not root") {
			t.Error("a server takes anybody for its publisher:", err)
		}
	})
}

// Stores that one process has left to another are the other's to fill, and neither to
// change nor to take away.
func TestStoresAreLeftToAnotherProcess(t *testing.T) {
	l := newLine(t, Options{})
	empty, err := tree.Build(tree.Spec{Stores: []string{l.store}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.open(empty)
	l.serve()
	if err := l.f.Leave(); err != nil {
		t.Fatal(err)
	}
	if l.f.Stats().Publisher != 0 || !Visible(l.store) || !l.f.Bare() {
		t.Error("what is left is not an empty store without a publisher")
	}
	l.die()
	if err := l.drop(mountName(0)); err != nil { // systemd does not keep it
		t.Fatal(err)
	}

	l.succeed()
	if !l.f.Fixed() || l.f.Rootless() {
		t.Error("it takes the mounts for its own, or for an ordinary user's")
	}
	if err := errors.Join(l.attach(), l.f.Publish(t.Context(), site(t, l.store, acl.List{}, newVersion(t, 1)))); err != nil {
		t.Fatal(err)
	}
	endPolling(t, l.store, l.f.Snapshot())
	if target := l.target(); !strings.HasSuffix(target, "1") || l.f.Bare() {
		t.Error("link is", target)
	}
	if err := l.f.Show([]string{l.store, l.store + "-more"}); !errors.Is(err, ErrFixed) {
		t.Error("another store:", err)
	}
	if err := l.f.Detach(); err != nil || !Visible(l.store) {
		t.Error("it has taken away what is not its own:", err)
	}
	l.stop()
	l.f.Close()
	l.f.opts.Image.Close()
}

// Who takes over and finds no publisher serves all the same.
func TestTakenOverStoresStayWithoutAPublisher(t *testing.T) {
	l := newLine(t, Options{})
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	l.die()
	l.opts.Publisher = PublisherCommand("/nonexistent")
	l.succeed()
	if err := l.f.Attach(); err == nil {
		t.Fatal("a publisher that does not exist was started")
	}
	if !Visible(l.store) || len(l.f.Mounts()) != 1 {
		t.Error("the store was taken away")
	}
	l.f.opts.Publisher = PublisherCommand("/proc/self/exe", "publisher")
	if err := l.f.Publish(t.Context(), site(t, l.store, acl.List{}, newVersion(t, 2), newVersion(t, 1))); err != nil {
		t.Fatal(err)
	}
	if target := l.target(); !strings.HasSuffix(target, "2") {
		t.Error("link is", target)
	}
}

// The table of mounts says whose they are.
func TestMountsAreFoundByTheirSource(t *testing.T) {
	l := newLine(t, Options{Source: "some.service"})
	l.start(site(t, l.store, acl.List{}, newVersion(t, 1)))
	found := func(source string, alive bool) bool {
		all, err := MountedBy(source)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(all, MountInfo{Path: l.store, Alive: alive})
	}
	if !found("some.service", true) || found("another.service", true) {
		t.Error("the mount is not found, or found as another's")
	}
	l.die() // its connection is kept: nobody answers for the moment
	if !found("some.service", true) {
		t.Error("a mount that waits for its next server is taken for a dead one")
	}
	l.succeed()
}
