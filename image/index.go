package image

import (
	"hash/maphash"
	"iter"
	"maps"
)

// index finds records by their keys, which are in the log: a hundred thousand of them would
// take as much again beside it. Two keys of one hash, of which the second is kept whole,
// may never occur, and are no error.
type index struct {
	spans   map[uint64]span // by the hash of the key
	clashes map[string]span // whose hash another key has
	hash    func(key string) uint64
}

func newIndex() index {
	seed := maphash.MakeSeed() // nobody can choose keys that clash
	return index{spans: map[uint64]span{}, clashes: map[string]span{}, hash: func(key string) uint64 { return maphash.String(seed, key) }}
}

func (x *index) len() int { return len(x.spans) + len(x.clashes) }

// find is the span of a key; is tells whether a span has it.
func (x *index) find(key string, is func(span, string) bool) (s span, ok bool) {
	if s, ok := x.spans[x.hash(key)]; ok && is(s, key) {
		return s, true
	}
	s, ok = x.clashes[key]
	return s, ok
}

func (x *index) set(key string, s span, is func(span, string) bool) {
	h := x.hash(key)
	_, clashes := x.clashes[key]
	if other, taken := x.spans[h]; clashes || taken && !is(other, key) {
		x.clashes[key] = s
		return
	}
	x.spans[h] = s
}

func (x *index) remove(key string, is func(span, string) bool) {
	h := x.hash(key)
	if s, ok := x.spans[h]; ok && is(s, key) {
		delete(x.spans, h)
	}
	delete(x.clashes, key)
}

// moved is an index of the same keys, with other spans.
func (x *index) moved(to func(span) span) index {
	next := index{spans: make(map[uint64]span, len(x.spans)), clashes: make(map[string]span, len(x.clashes)), hash: x.hash}
	for h, s := range x.spans {
		next.spans[h] = to(s)
	}
	for key, s := range x.clashes {
		next.clashes[key] = to(s)
	}
	return next
}

func (x *index) all() iter.Seq[span] {
	return func(yield func(span) bool) {
		for _, of := range []iter.Seq[span]{maps.Values(x.spans), maps.Values(x.clashes)} {
			for s := range of {
				if !yield(s) {
					return
				}
			}
		}
	}
}
