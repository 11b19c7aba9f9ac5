package main

import (
	"testing"

	"kvfs/image"
	"kvfs/status"
)

// Each server counts itself; an end that was asked for is told from a death.
func TestServersAreCounted(t *testing.T) {
	kept, err := image.New(image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for i, test := range []struct {
		parks bool
		want  status.Restarts // of the server that begins
	}{
		{false, status.Restarts{}},
		{false, status.Restarts{Died: 1}},
		{true, status.Restarts{Died: 2}},
		{false, status.Restarts{Died: 2, Parked: 1}},
		{true, status.Restarts{Died: 3, Parked: 1}},
		{true, status.Restarts{Died: 3, Parked: 2}},
	} {
		g, err := nextGeneration(kept)
		if err != nil || g.Restarts != test.want || g.Servers != uint64(i+1) {
			t.Errorf("server %d: %+v, %v", i, g, err)
		}
		if test.parks {
			if err := g.park(kept); err != nil {
				t.Fatal(err)
			}
		}
	}
}
