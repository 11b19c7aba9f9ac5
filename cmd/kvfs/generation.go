package main

import (
	"encoding/json"
	"fmt"

	"kvfs/image"
	"kvfs/status"
)

// keyGeneration is the record of the image that counts the servers.
const keyGeneration = "g"

// generation says how many servers there were before this one, since kvfs was started.
// It is in the image, and so as old as what is served, whoever the keeper is.
type generation struct {
	Servers  uint64          `json:"servers"` // this one included
	Restarts status.Restarts `json:"restarts"`
	// Parked tells that the last of them has ended because it was told to.
	Parked bool `json:"parked"`
}

// nextGeneration counts this server.
func nextGeneration(kept *image.Image) (g generation, err error) {
	if b, ok := kept.Get(keyGeneration); ok {
		if err := json.Unmarshal(b, &g); err != nil {
			return g, fmt.Errorf("reading how many servers there were: %w", err)
		}
	}
	switch {
	case g.Servers == 0:
	case g.Parked:
		g.Restarts.Parked++
	default:
		g.Restarts.Died++
	}
	g.Servers, g.Parked = g.Servers+1, false
	return g, g.keep(kept)
}

// park says that the next server goes on because this one was told to end.
func (g generation) park(kept *image.Image) error {
	g.Parked = true
	return g.keep(kept)
}

func (g generation) keep(kept *image.Image) error {
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("counting the servers: %w", err)
	}
	change := image.Change{Key: keyGeneration, Value: b}
	return kept.Enter(change)
}
