package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"
)

// Sized is what a Cache can hold.
type Sized interface {
	// Size in bytes. It must be the same at each call.
	Size() int
}

// Options of a Cache. Their zero values are usable.
type Options[V Sized] struct {
	Limit    int64         // bytes of all values together; 0: nothing is kept
	Overhead int64         // bytes that count for each value beside its size
	Timeout  time.Duration // of one load, its wait for a place included; 0: 10 s
	Remember time.Duration // how long a failure is the answer without another try; 0: 5 s
	Loads    int           // side by side; 0: 8
	// Changed is called when a value begins to be held, or ends; nil: it is not. It
	// must not call the cache.
	Changed func(key string, v V, held bool)
}

const (
	defaultTimeout  = 10 * time.Second
	defaultRemember = 5 * time.Second
	defaultLoads    = 8
	// maxFailures bounds what is remembered of failures: of more keys than these the
	// oldest are tried again.
	maxFailures = 1024
)

// Stats are what a Cache holds and has done.
type Stats struct {
	Values       int
	Bytes, Limit int64
	Hits, Misses uint64 // of Load; who waits for the load of another has missed
	Evictions    uint64 // for want of room
	Failures     uint64 // loads that brought an error
}

// Cache holds values by their keys. Make it with New; it may be used by any number
// of goroutines.
type Cache[V Sized] struct {
	opts    Options[V]
	places  chan struct{} // one is taken during a load
	flights singleflight.Group

	// mu is held for a few map operations and never during a load. The bytes are
	// those of the values in held, and at most limit whenever it is free
	// (TestLimitHoldsUnderLoad).
	mu       sync.Mutex
	limit    int64
	bytes    int64
	held     *simplelru.LRU[string, V]
	failures *simplelru.LRU[string, failure]
	stats    Stats
}

// failure is the answer to a key until a moment.
type failure struct {
	err   error
	until time.Time
}

// New makes a Cache that holds nothing.
func New[V Sized](o Options[V]) *Cache[V] {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Remember == 0 {
		o.Remember = defaultRemember
	}
	if o.Loads == 0 {
		o.Loads = defaultLoads
	}
	return &Cache[V]{opts: o, limit: o.Limit, places: make(chan struct{}, o.Loads),
		held: newLRU[V](math.MaxInt), failures: newLRU[failure](maxFailures)}
}

func newLRU[T any](size int) *simplelru.LRU[string, T] {
	lru, err := simplelru.NewLRU[string, T](size, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return lru
}

// Load returns the value of a key: the one that is held, or what load brings. load
// gets a context of its own, which ends when the time of a load is over.
//
// The error is load's, or that of ctx. Whichever it is, unless ctx was cancelled, it
// is the answer to everybody who asks within the next moments, at once.
func (c *Cache[V]) Load(ctx context.Context, key string, load func(context.Context) (V, error)) (V, error) {
	v, ok, err := c.known(key)
	if ok || err != nil {
		return v, err
	}
	flight := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Timeout)
		defer cancel()
		return c.fly(ctx, key, load)
	})
	select {
	case r := <-flight:
		v, _ := r.Val.(V)
		return v, r.Err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.remember(key, ctx.Err())
		}
		return v, ctx.Err()
	}
}

// known is the answer to a key for which nobody has to wait, if there is one.
func (c *Cache[V]) known(key string) (v V, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.held.Get(key); ok {
		c.stats.Hits++
		return v, true, nil
	}
	c.stats.Misses++
	if f, ok := c.failures.Peek(key); ok && time.Now().Before(f.until) {
		return v, false, f.err
	}
	return v, false, nil
}

// fly is one load, for all who wait for it.
func (c *Cache[V]) fly(ctx context.Context, key string, load func(context.Context) (V, error)) (v V, err error) {
	if v, ok := c.Peek(key); ok {
		return v, nil // a load has ended since the caller looked
	}
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
		v, err = load(ctx)
	case <-ctx.Done():
		err = fmt.Errorf("waiting behind %d other loads: %w", c.opts.Loads, ctx.Err())
	}
	if err != nil {
		c.mu.Lock()
		c.stats.Failures++
		c.mu.Unlock()
		c.remember(key, err)
		return v, err
	}
	c.Put(key, v)
	return v, nil
}

func (c *Cache[V]) remember(key string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures.Add(key, failure{err, time.Now().Add(c.opts.Remember)})
}

// Put hands a value to the cache, in the place of one of the same key. The values
// that were not used for the longest time make room for it; it is not kept if it is
// bigger than the limit.
func (c *Cache[V]) Put(key string, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures.Remove(key)
	c.remove(key)
	size := c.size(v)
	if size > c.limit {
		return
	}
	c.makeRoom(size)
	c.held.Add(key, v)
	c.bytes += size
	c.changed(key, v, true)
}

func (c *Cache[V]) changed(key string, v V, held bool) {
	if c.opts.Changed != nil {
		c.opts.Changed(key, v, held)
	}
}

func (c *Cache[V]) size(v V) int64 { return int64(v.Size()) + c.opts.Overhead }

// makeRoom is called with mu held, as are all below it.
func (c *Cache[V]) makeRoom(size int64) {
	for c.bytes+size > c.limit {
		key, oldest, _ := c.held.RemoveOldest()
		c.bytes -= c.size(oldest)
		c.changed(key, oldest, false)
		c.stats.Evictions++
	}
}

func (c *Cache[V]) remove(key string) {
	if old, ok := c.held.Peek(key); ok {
		c.held.Remove(key)
		c.bytes -= c.size(old)
		c.changed(key, old, false)
	}
}

// Peek returns a value if it is held. It counts as no use.
func (c *Cache[V]) Peek(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held.Peek(key)
}

// Take returns a value if it is held, and holds it no longer.
func (c *Cache[V]) Take(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.held.Peek(key)
	c.remove(key)
	return v, ok
}

// Retain forgets the values and the failures of all keys but those that keep picks,
// which must not call the cache.
func (c *Cache[V]) Retain(keep func(key string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.held.Keys() {
		if !keep(key) {
			c.remove(key)
		}
	}
	for _, key := range c.failures.Keys() {
		if !keep(key) {
			c.failures.Remove(key)
		}
	}
}

// SetLimit makes another limit current, and room if it is a smaller one.
func (c *Cache[V]) SetLimit(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = bytes
	c.makeRoom(0)
}

// Stats returns what is held and was done so far.
func (c *Cache[V]) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Values, s.Bytes, s.Limit = c.held.Len(), c.bytes, c.limit
	return s
}
