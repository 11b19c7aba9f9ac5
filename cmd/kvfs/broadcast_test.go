package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Everybody who asked before hears a signal, and nobody one from before.
func TestBroadcastReachesWhoHasAsked(t *testing.T) {
	var b broadcast
	first, second := b.next(), b.next()
	b.signal()
	<-first
	<-second
	select {
	case <-b.next():
		t.Error("a signal from before is heard")
	default:
	}
	b.signal() // for nobody
}

// Rest is over when nothing has happened for a while, and misses nothing until the next one.
func TestRestComesAfterTheLastSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b broadcast
		began := time.Now()
		news := b.next()
		go func() {
			for range 5 {
				time.Sleep(time.Second)
				b.signal()
			}
		}()
		news, ok := b.rest(t.Context(), news, 2*time.Second)
		if took := time.Since(began); !ok || took != 7*time.Second {
			t.Errorf("%v, after %v", ok, took)
		}
		b.signal() // before anybody rests again
		began = time.Now()
		if news, ok = b.rest(t.Context(), news, time.Second); !ok || time.Since(began) != time.Second {
			t.Errorf("%v, after %v", ok, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, ok := b.rest(ctx, news, time.Second); ok || time.Since(began) != time.Minute+time.Second {
			t.Errorf("%v, after %v", ok, time.Since(began))
		}
	})
}

// What is waited for is seen at once, or at the next look if nobody has told.
func TestUntilAsksAtEachSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b broadcast
		var done atomic.Bool
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			b.signal() // of something else
			time.Sleep(time.Second)
			done.Store(true)
			b.signal()
		}()
		b.until(t.Context(), time.Hour, done.Load)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it is seen after %v", took)
		}
		asked := 0
		b.until(t.Context(), time.Minute, func() bool { asked++; return asked == 4 })
		if took := time.Since(began); took != 2*time.Second+3*time.Minute {
			t.Errorf("without a signal it is seen after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b.until(ctx, time.Hour, func() bool { return false })
	})
}
