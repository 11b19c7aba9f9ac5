package main

import (
	"context"
	"sync"
	"time"
)

// broadcast tells any number of goroutines that something has happened.
type broadcast struct {
	mu   sync.Mutex
	news chan struct{} // closed by the next signal; nil if nobody has asked for it
}

// next is closed by the next signal. Who asks before he looks misses nothing.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news == nil {
		b.news = make(chan struct{})
	}
	return b.news
}

// rest returns when there was a signal on news, and then none for so long, or ten times as
// long has passed all the same. The next one is on what it returns; ok is false if ctx has
// ended.
func (b *broadcast) rest(ctx context.Context, news <-chan struct{}, pause time.Duration) (next <-chan struct{}, ok bool) {
	select {
	case <-news:
	case <-ctx.Done():
		return nil, false
	}
	for end := time.Now().Add(10 * pause); ; {
		next, quiet := b.next(), time.NewTimer(min(pause, time.Until(end)))
		select {
		case <-next:
		case <-quiet.C:
			return next, true
		case <-ctx.Done():
		}
		if quiet.Stop(); ctx.Err() != nil {
			return nil, false
		}
	}
}

// until returns when done is true, or ctx ends. It asks at each signal, and when there was none for
// so long.
func (b *broadcast) until(ctx context.Context, look time.Duration, done func() bool) {
	for ctx.Err() == nil {
		news := b.next()
		if done() {
			return
		}
		timer := time.NewTimer(look)
		select {
		case <-news:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}
