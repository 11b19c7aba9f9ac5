package tree

import (
	"cmp"
	"iter"
	"slices"
)

// index is an immutable ordered set of values by a uint64 key whose bits are
// evenly spread, as those of a hash. with and without copy one bucket and the
// list of buckets, so a change costs about the same whatever the size.
type index[V any] struct {
	buckets [][]item[V] // 1<<bits of them, by the highest bits of the key
	bits    uint
	size    int
}

type item[V any] struct {
	key uint64
	val V
}

// Buckets hold about this many items, at most twice as many before the index
// is split anew. Both the bucket and the list of buckets are copied by a change,
// so it is near the root of the number of nodes in a large store.
const bucketSize = 256

func (x index[V]) bucket(key uint64) int {
	return int(key >> (64 - x.bits)) // a shift by 64 is 0 in Go: one bucket
}

func find[V any](b []item[V], key uint64) (int, bool) {
	return slices.BinarySearchFunc(b, key, func(it item[V], k uint64) int { return cmp.Compare(it.key, k) })
}

func (x index[V]) get(key uint64) (v V, ok bool) {
	if x.size == 0 {
		return v, false
	}
	b := x.buckets[x.bucket(key)]
	i, ok := find(b, key)
	if ok {
		v = b[i].val
	}
	return v, ok
}

// with is the index with one value added or replaced.
func (x index[V]) with(key uint64, v V) index[V] {
	if x.size >= (2*bucketSize)<<x.bits || x.buckets == nil {
		x = x.split()
	}
	n := x.bucket(key)
	b := x.buckets[n]
	i, replaced := find(b, key)
	nb := make([]item[V], 0, len(b)+1)
	nb = append(append(nb, b[:i]...), item[V]{key, v})
	if replaced {
		i++
	} else {
		x.size++
	}
	return x.put(n, append(nb, b[i:]...))
}

// without is the index with one key taken out.
func (x index[V]) without(key uint64) index[V] {
	if x.size == 0 {
		return x
	}
	n := x.bucket(key)
	i, ok := find(x.buckets[n], key)
	if !ok {
		return x
	}
	x.size--
	return x.put(n, slices.Concat(x.buckets[n][:i], x.buckets[n][i+1:]))
}

func (x index[V]) put(n int, b []item[V]) index[V] {
	x.buckets = slices.Clone(x.buckets)
	x.buckets[n] = b
	return x
}

// split spreads the items over four times the buckets.
func (x index[V]) split() index[V] {
	items := make([]item[V], 0, x.size)
	for _, b := range x.buckets {
		items = append(items, b...)
	}
	bits := x.bits + 2
	if x.buckets == nil {
		bits = 0
	}
	return fill(items, bits)
}

// newIndex makes an index of items with different keys.
func newIndex[V any](items []item[V]) index[V] {
	slices.SortFunc(items, func(a, b item[V]) int { return cmp.Compare(a.key, b.key) })
	bits := uint(0)
	for len(items) > bucketSize<<bits {
		bits++
	}
	return fill(items, bits)
}

// fill makes an index of items that are in order of their keys.
func fill[V any](items []item[V], bits uint) index[V] {
	x := index[V]{buckets: make([][]item[V], 1<<bits), bits: bits, size: len(items)}
	for start := 0; start < len(items); {
		n, end := x.bucket(items[start].key), start+1
		for end < len(items) && x.bucket(items[end].key) == n {
			end++
		}
		x.buckets[n] = items[start:end:end]
		start = end
	}
	return x
}

// from yields the values in order of their keys, beginning with the first key
// above after.
func (x index[V]) from(after uint64) iter.Seq[V] {
	return func(yield func(V) bool) {
		if x.size == 0 {
			return
		}
		for n := x.bucket(after); n < len(x.buckets); n++ {
			b := x.buckets[n]
			i, found := find(b, after)
			if found {
				i++
			}
			for _, it := range b[i:] {
				if !yield(it.val) {
					return
				}
			}
		}
	}
}
