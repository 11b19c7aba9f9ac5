// Package cache holds values that can be had again: what was used last, up to a
// number of bytes. kvfs keeps the old versions of certificates in it; those that are
// current are not its business, so that nothing here can take them away.
//
// Whoever misses a value brings the way to load it. However many ask for one value
// at a time, it is loaded once; a load does not end with the one who began it, is
// bounded in time, and there are only so many side by side. That it failed, or that
// somebody waited in vain, is remembered for a moment: whoever asks again at once,
// as the kernel does after a read that failed, is not kept waiting a second time.
//
// # Invariants
//
//   - The values that are held never have more bytes together, their overhead
//     included, than the limit. One that is bigger than the limit is handed out and
//     not kept.
//   - A value does not change, nor does its size, once it was handed to the cache.
//   - A load runs without any lock of the cache.
//
// # Limitations
//
// What a value takes beside its bytes is an estimate, Options.Overhead. A load that nobody waits for any more goes on until its end or its
// time is over: what it brings is likely to be asked for again.
package cache
