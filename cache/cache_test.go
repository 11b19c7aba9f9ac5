package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type text string

func (t text) Size() int { return len(t) }

// sized is a value of so many bytes.
func sized(n int) text { return text(strings.Repeat("x", n)) }

// gives is a load that brings a value at once.
func gives(v text) func(context.Context) (text, error) {
	return func(context.Context) (text, error) { return v, nil }
}

func TestLeastRecentlyUsedMakesRoom(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*Cache[text])
		held string // of a, b, c, d
		want Stats
	}{
		"all fit":             {func(c *Cache[text]) { c.Put("a", sized(50)); c.Put("b", sized(50)) }, "ab", Stats{Values: 2, Bytes: 100}},
		"the oldest goes":     {func(c *Cache[text]) { c.Put("a", sized(50)); c.Put("b", sized(40)); c.Put("c", sized(20)) }, "bc", Stats{Values: 2, Bytes: 60, Evictions: 1}},
		"a use makes it new":  {func(c *Cache[text]) { c.Put("a", sized(50)); c.Put("b", sized(40)); use(c, "a"); c.Put("c", sized(20)) }, "ac", Stats{Values: 2, Bytes: 70, Hits: 1, Evictions: 1}},
		"a peek does not":     {func(c *Cache[text]) { c.Put("a", sized(50)); c.Put("b", sized(40)); c.Peek("a"); c.Put("c", sized(20)) }, "bc", Stats{Values: 2, Bytes: 60, Evictions: 1}},
		"several go":          {func(c *Cache[text]) { c.Put("a", sized(30)); c.Put("b", sized(30)); c.Put("c", sized(100)) }, "c", Stats{Values: 1, Bytes: 100, Evictions: 2}},
		"bigger than all":     {func(c *Cache[text]) { c.Put("a", sized(30)); c.Put("b", sized(101)) }, "a", Stats{Values: 1, Bytes: 30}},
		"its own successor":   {func(c *Cache[text]) { c.Put("a", sized(90)); c.Put("a", sized(95)) }, "a", Stats{Values: 1, Bytes: 95}},
		"a successor too big": {func(c *Cache[text]) { c.Put("a", sized(90)); c.Put("a", sized(101)) }, "", Stats{}},
		"taken":               {func(c *Cache[text]) { c.Put("a", sized(90)); c.Put("b", sized(9)); c.Take("a"); c.Take("d") }, "b", Stats{Values: 1, Bytes: 9}},
		"retained": {func(c *Cache[text]) {
			c.Put("a", sized(30))
			c.Put("b", sized(9))
			c.Retain(func(key string) bool { return key != "a" })
		}, "b", Stats{Values: 1, Bytes: 9}},
		"another limit": {func(c *Cache[text]) { c.Put("a", sized(30)); c.Put("b", sized(30)); c.SetLimit(59) }, "b", Stats{Values: 1, Bytes: 30, Limit: 59, Evictions: 1}},
		"nothing kept":  {func(c *Cache[text]) { c.SetLimit(0); c.Put("a", sized(1)) }, "", Stats{}},
	} {
		cache := New(Options[text]{Limit: 100})
		c.do(cache)
		held := ""
		for _, key := range []string{"a", "b", "c", "d"} {
			if _, ok := cache.Peek(key); ok {
				held += key
			}
		}
		if name != "another limit" && name != "nothing kept" {
			c.want.Limit = 100
		}
		if got := cache.Stats(); held != c.held || got != c.want {
			t.Errorf("%s: %q is held, %+v; want %q, %+v", name, held, got, c.held, c.want)
		}
	}
}

func use(c *Cache[text], key string) {
	if _, err := c.Load(context.Background(), key, nil); err != nil {
		panic(err)
	}
}

// A value that does not fit is handed out all the same, to all who wait for it.
func TestValueThatIsNotKeptIsHandedOut(t *testing.T) {
	c := New(Options[text]{})
	for range 2 {
		if v, err := c.Load(t.Context(), "a", gives("abc")); v != "abc" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	}
	if s := c.Stats(); s.Misses != 2 || s.Bytes != 0 || s.Values != 0 {
		t.Errorf("%+v", s)
	}
}

func TestOneLoadForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Limit: 100})
		loads := 0 // by one load at a time, or the race detector says so
		slow := func(context.Context) (text, error) {
			loads++
			time.Sleep(time.Second)
			return "abc", nil
		}
		var wait sync.WaitGroup
		for range 50 {
			wait.Go(func() {
				if v, err := c.Load(t.Context(), "a", slow); v != "abc" || err != nil {
					t.Errorf("%q, %v", v, err)
				}
			})
		}
		wait.Wait()
		if s := c.Stats(); loads != 1 || s.Misses != 50 || s.Hits != 0 {
			t.Errorf("%d loads, %+v", loads, s)
		}
		if _, err := c.Load(t.Context(), "a", slow); err != nil || loads != 1 || c.Stats().Hits != 1 {
			t.Errorf("%v; %d loads", err, loads)
		}
	})
}

// Who began a load and has no time is no reason to give nothing to who has.
func TestLoadOutlivesTheOneWhoBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Limit: 100})
		slow := func(ctx context.Context) (text, error) {
			select {
			case <-time.After(2 * time.Second):
				return "abc", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		hasty, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := c.Load(hasty, "a", slow); !errors.Is(err, context.Canceled) {
				t.Error("the hasty one:", err)
			}
		})
		synctest.Wait()
		wait.Go(func() {
			if v, err := c.Load(t.Context(), "a", slow); v != "abc" || err != nil {
				t.Errorf("the patient one: %q, %v", v, err)
			}
		})
		time.Sleep(time.Second)
		cancel()
		wait.Wait()
	})
}

func TestLoadIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Limit: 100, Timeout: 3 * time.Second})
		began := time.Now()
		_, err := c.Load(t.Context(), "a", func(ctx context.Context) (text, error) { <-ctx.Done(); return "", ctx.Err() })
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// The kernel asks twice for a read that fails: the second time there is nothing to
// wait for.
func TestFailureIsTheAnswerForAMoment(t *testing.T) {
	broken := errors.New("broken")
	for name, load := range map[string]func(context.Context) (text, error){
		"that fails": func(context.Context) (text, error) { time.Sleep(time.Second); return "", broken },
		"that hangs": func(ctx context.Context) (text, error) { <-ctx.Done(); return "", ctx.Err() },
		"in time for the next": func(context.Context) (text, error) {
			time.Sleep(4 * time.Second)
			return "abc", nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := New(Options[text]{Limit: 100, Timeout: 10 * time.Second, Remember: 5 * time.Second})
			began := time.Now()
			read := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := c.Load(ctx, "a", load)
				return err
			}
			first := read()
			waited := time.Since(began)
			second := read()
			if first == nil || !errors.Is(second, first) || time.Since(began) != waited || waited > 2*time.Second {
				t.Errorf("%s: %v, then %v after %v and %v", name, first, second, waited, time.Since(began))
			}
			time.Sleep(6 * time.Second)
			if name == "in time for the next" {
				if v, err := c.Load(t.Context(), "a", nil); v != "abc" || err != nil {
					t.Errorf("%s: %q, %v", name, v, err)
				}
				return
			}
			if s := c.Stats(); name == "that fails" && s.Failures != 1 {
				t.Errorf("%s: %+v", name, s)
			}
			time.Sleep(time.Minute)
			if v, err := c.Load(t.Context(), "a", gives("abc")); v != "abc" || err != nil {
				t.Errorf("%s: later %q, %v", name, v, err)
			}
		})
	}
}

// What came after all is asked for again as if nothing had been, also where it was
// not kept.
func TestSuccessEndsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Remember: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := func(context.Context) (text, error) { time.Sleep(2 * time.Second); return "abc", nil }
		if _, err := c.Load(ctx, "a", slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if v, err := c.Load(t.Context(), "a", slow); v != "abc" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	})
}

// Who gives up by himself says nothing about the value.
func TestCancelledWaitIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Limit: 100})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		slow := func(context.Context) (text, error) { time.Sleep(2 * time.Second); return "abc", nil }
		if _, err := c.Load(ctx, "a", slow); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if v, err := c.Load(t.Context(), "a", slow); v != "abc" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	})
}

func TestOnlySoManyLoadsSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options[text]{Limit: 1 << 20, Loads: 3, Timeout: 5 * time.Second})
		var now, most atomic.Int32
		var wait sync.WaitGroup
		failed := atomic.Int32{}
		for i := range 20 {
			wait.Go(func() {
				_, err := c.Load(t.Context(), fmt.Sprint(i), func(context.Context) (text, error) {
					most.Store(max(most.Load(), now.Add(1)))
					defer now.Add(-1)
					time.Sleep(time.Second)
					return "abc", nil
				})
				if errors.Is(err, context.DeadlineExceeded) {
					failed.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if most.Load() != 3 || failed.Load() > 5 || failed.Load() < 2 {
			t.Errorf("%d side by side, %d of 20 came too late for their 5 s", most.Load(), failed.Load())
		}
	})
}

func TestOverheadCounts(t *testing.T) {
	c := New(Options[text]{Limit: 100, Overhead: 20})
	for _, key := range []string{"a", "b", "c"} {
		c.Put(key, sized(25))
	}
	if s := c.Stats(); s.Values != 2 || s.Bytes != 90 {
		t.Errorf("%+v", s)
	}
	c.Take("c")
	c.Put("d", sized(81))
	if s := c.Stats(); s.Values != 1 || s.Bytes != 45 {
		t.Errorf("%+v", s)
	}
}

// Whatever happens side by side, there are never more bytes than the limit, and the
// count of them is right.
func TestLimitHoldsUnderLoad(t *testing.T) {
	const limit = 2000
	c := New(Options[text]{Limit: limit, Overhead: 10})
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 3000 {
				key, size := fmt.Sprint(random.IntN(40)), 1+random.IntN(300)
				switch random.IntN(6) {
				case 0:
					c.Put(key, sized(size))
				case 1:
					c.Take(key)
				default:
					if _, err := c.Load(t.Context(), key, gives(sized(size))); err != nil {
						t.Error(err)
					}
				}
				if s := c.Stats(); s.Bytes > limit || s.Bytes < 0 {
					t.Errorf("%d bytes are held", s.Bytes)
				}
			}
		})
	}
	wait.Wait()
	var held int64
	for _, key := range c.held.Keys() {
		v, _ := c.Peek(key)
		held += int64(v.Size()) + 10
	}
	if s := c.Stats(); s.Bytes != held || s.Evictions == 0 || s.Hits == 0 {
		t.Errorf("%d bytes are held, %+v", held, s)
	}
}
