package audit

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// For a server that has fewer rights nothing is watched but mounts of kvfs, and no descriptor is taken for a group
// that is none.
func TestGuardedAuditorWatchesNothingElse(t *testing.T) {
	dir, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	a := &Auditor{Guarded: true, group: -1}
	if e := (*Error)(nil); !errors.As(a.begin(dir, -1), &e) || e.Fact != "the server has named a file system that is not one of kvfs: it is not watched" || a.group >= 0 {
		t.Errorf("%v, group %d", e, a.group)
	}
	file, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isGroup(int(file.Fd())) {
		t.Error("a file was taken for a group")
	}
}
