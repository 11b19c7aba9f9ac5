package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestWithinDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if n, ok := within(time.Second, func() int { return 7 }); n != 7 || !ok {
			t.Errorf("%d %v", n, ok)
		}
		answers, began := make(chan struct{}), time.Now()
		n, ok := within(time.Second, func() int {
			<-answers
			return 7
		})
		if took := time.Since(began); n != 0 || ok || took != time.Second {
			t.Errorf("%d %v after %v", n, ok, took)
		}
		close(answers) // what comes then harms nobody
	})
}

// A process that takes over goes by the places that its predecessor found, wherever links lead by now.
func TestPlacesThatAreKept(t *testing.T) {
	dir := t.TempDir()
	link, was, is := filepath.Join(dir, "link"), filepath.Join(dir, "was"), filepath.Join(dir, "is")
	for _, d := range []string{was, is} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(was, link); err != nil {
		t.Fatal(err)
	}
	known := finder{}.places([]string{link})
	if known[link] != was {
		t.Fatalf("%q", known)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(is, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    finder
		want string
	}{{finder{known: known, keep: true}, was}, {finder{known: known}, is}, {finder{keep: true}, is}} {
		if got := c.f.places([]string{link}); got[link] != c.want {
			t.Errorf("%+v: %q, want %q", c.f, got[link], c.want)
		}
	}
}
