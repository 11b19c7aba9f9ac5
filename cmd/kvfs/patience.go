package main

import "time"

// within does something for which a disk may have to answer, and tells whether it did in time. What did not goes on by
// itself, and nobody has its result: it may touch nothing that others do.
func within[T any](patience time.Duration, do func() T) (result T, ok bool) {
	done := make(chan T, 1)
	go func() { done <- do() }()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case result = <-done:
		return result, true
	case <-late.C:
		return result, false
	}
}
