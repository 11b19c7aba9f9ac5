package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	magic  = 0x6567616d6973766b // "kvsimage"
	format = 1                  // of the log; what is in the records is their owners' affair

	headerSize   = 64
	recordHeader = 12 // length of the whole, checksum of what follows, length of the key with the mark in its highest bit
	erased       = 1 << 31
	minimum      = 256 << 10 // bytes of a new file
)

// MaxKey is the longest key, in bytes.
const MaxKey = 4 << 10

// header is the beginning of the file.
type header struct {
	magic  uint64
	format uint32
	_      uint32
	// end of what is valid. It is stored after what it includes was written, and
	// whoever opens the image believes nothing behind it.
	end atomic.Uint64
}

// ErrFull is Put's where Reserve was not asked for enough.
var ErrFull = errors.New("the image is full")

// Options of an Image.
type Options struct {
	// Keep is called when the image has a new descriptor, which whoever keeps it has
	// to have when it returns, and Drop with the name of one that is of no use any more.
	Keep func(name string, fd int) error
	Drop func(name string) error
}

// Image is a set of records. Its methods may be called from any goroutine.
type Image struct {
	opts Options

	mu    sync.Mutex
	mem   *memory
	seq   int   // of the file, in its name
	at    index // what is alive
	alive int   // bytes of that in the log
	until int   // end of the room that Room has made, for Put
}

// Borrower has bytes that a record has too, and may do with those.
type Borrower interface {
	// Move hands over where the bytes of the record are, and for how long: while the
	// owner can be reached.
	Move(to []byte, owner any)
	// Settle says that the record goes. What was handed over stays for the moment.
	Settle()
}

// span of a record in the log.
type span struct {
	off  int
	lent *[]Borrower // who has its bytes; nil: nobody
}

// BlobKey is the key of a text of which other records name parts, by its SHA-256.
func BlobKey(sum [32]byte) string { return BlobPrefix + string(sum[:]) }

// BlobPrefix begins the keys of texts.
const BlobPrefix = "b"

// Prefix begins the names under which images are kept.
const Prefix = "image."

// New makes an empty image.
func New(opts Options) (*Image, error) {
	i := &Image{opts: opts, at: newIndex()}
	return i, i.move(0)
}

// Open takes over what a predecessor has left: descriptors by their names, of which
// the newest counts. Their ownership goes to the image.
func Open(fds map[string]int, opts Options) (*Image, error) {
	if len(fds) == 0 {
		return nil, errors.New("no image was kept")
	}
	i := &Image{opts: opts, at: newIndex()}
	var newest string
	for name := range fds {
		var n int
		if _, err := fmt.Sscanf(name, Prefix+"%d", &n); err == nil && n >= i.seq {
			i.seq, newest = n, name
		}
	}
	var err error
	for name, fd := range fds {
		if name == newest {
			i.mem, err = mapped(fd)
			continue
		}
		(&memory{fd: fd}).close() // of one who died while it changed files
		if i.opts.Drop != nil {
			err = errors.Join(err, i.opts.Drop(name))
		}
	}
	switch {
	case err != nil:
		return nil, err
	case i.mem == nil:
		return nil, fmt.Errorf("none of %v is the name of an image", slices.Collect(maps.Keys(fds)))
	}
	if err := i.read(); err != nil {
		i.mem.close()
		return nil, err
	}
	return i, nil
}

func (i *Image) header() *header { return (*header)(unsafe.Pointer(&i.mem.bytes[0])) }

// read finds what is alive in the log.
func (i *Image) read() error {
	h := i.header()
	end := h.end.Load()
	if h.magic != magic || h.format != format || end < headerSize || end > uint64(len(i.mem.bytes)) {
		return fmt.Errorf("an image of another format (%x, %d)", h.magic, h.format)
	}
	for off := headerSize; off < int(end); {
		r, err := parse(i.mem.bytes[off:end])
		if err != nil {
			return fmt.Errorf("at byte %d of the image: %w", off, err)
		}
		i.note(r, off)
		off += r.size
	}
	return nil
}

// note makes a record of the log the one of its key. The caller holds mu, or is the
// only one who knows the image.
func (i *Image) note(r record, off int) {
	if was, ok := i.find(r.key); ok {
		i.alive -= i.size(was)
		for _, b := range was.borrowers() {
			b.Settle()
		}
	}
	if r.erased {
		i.at.remove(r.key, i.has)
		return
	}
	i.at.set(r.key, span{off: off}, i.has)
	i.alive += r.size
}

// find is where the record of a key is. The caller holds mu.
func (i *Image) find(key string) (span, bool) { return i.at.find(key, i.has) }

// has tells whether a record has a key.
func (i *Image) has(s span, key string) bool { return string(i.keyOf(s)) == key }

// keyOf is the key of a record, in the image's memory.
func (i *Image) keyOf(s span) []byte {
	size := int(binary.LittleEndian.Uint32(i.mem.bytes[s.off+8:]) &^ erased)
	return i.mem.bytes[s.off+recordHeader:][:size]
}

func (s span) borrowers() []Borrower {
	if s.lent == nil {
		return nil
	}
	return *s.lent
}

// size of a record in the log.
func (i *Image) size(s span) int {
	return (int(binary.LittleEndian.Uint32(i.mem.bytes[s.off:])) + 7) &^ 7
}

// record as it is in the log.
type record struct {
	key    string
	value  []byte // in the image's memory
	erased bool
	size   int
}

func sizeOf(key string, value int) int { return (recordHeader + len(key) + value + 7) &^ 7 }

func parse(b []byte) (record, error) {
	if len(b) < recordHeader {
		return record{}, errors.New("a record that is cut off")
	}
	size, sum, key := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	keyLen := int(key &^ erased)
	if keyLen > MaxKey || int(size) < recordHeader+keyLen || (int(size)+7)&^7 > len(b) {
		return record{}, errors.New("a record of impossible size")
	}
	if crc32.Checksum(b[8:size], castagnoli) != sum {
		return record{}, errors.New("a damaged record")
	}
	body := b[recordHeader:size]
	return record{key: string(body[:keyLen]), value: body[keyLen:], erased: key&erased != 0, size: (int(size) + 7) &^ 7}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// write puts a record at the beginning of b.
func write(b []byte, c Change) {
	size := recordHeader + len(c.Key) + c.len()
	word := uint32(len(c.Key))
	if c.erases() {
		word |= erased
	}
	binary.LittleEndian.PutUint32(b, uint32(size))
	binary.LittleEndian.PutUint32(b[8:], word)
	copy(b[recordHeader:], c.Key)
	if value := b[recordHeader+len(c.Key) : size]; c.Text != nil {
		c.Text.CopyTo(value)
	} else {
		copy(value, c.Value)
	}
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:size], castagnoli))
}

// Change is one of a Put: a record to be there, or, without a value, to be there no
// more.
type Change struct {
	Key   string
	Value []byte // nil: the record goes, unless there is a Text
	Text  Text   // in place of Value
}

// Text is a value that its owner writes where it is to be: large ones are not to be in
// memory a second time for that.
type Text interface {
	Len() int // always the same
	CopyTo(to []byte)
}

func (c Change) erases() bool { return c.Value == nil && c.Text == nil }

func (c Change) len() int {
	if c.Text != nil {
		return c.Text.Len()
	}
	return len(c.Value)
}

func (c Change) size() int { return sizeOf(c.Key, c.len()) }

// Put makes changes, all of them or, if there is an error, none: whoever opens the
// image after a death sees that too.
//
// What was not reserved by this caller is entered by Enter.
func (i *Image) Put(changes ...Change) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	end := int(i.header().end.Load())
	if need := Sizes(changes...); end+need > len(i.mem.bytes) {
		return fmt.Errorf("%w: %d bytes of %d are used, and %d are needed", ErrFull, end, len(i.mem.bytes), need)
	}
	i.append(end, changes)
	return nil
}

// Enter is Put for those who have reserved nothing: it makes room beside what Reserve has
// made for somebody else.
func (i *Image) Enter(changes ...Change) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	need := Sizes(changes...)
	promised := max(0, i.until-i.end())
	if i.end()+need+promised > len(i.mem.bytes) {
		if err := i.change(need + promised); err != nil {
			return err
		}
	}
	i.append(i.end(), changes)
	i.until = i.end() + promised
	return nil
}

func (i *Image) end() int { return int(i.header().end.Load()) }

// append makes changes for which there is room.
func (i *Image) append(end int, changes []Change) {
	at := end
	for _, c := range changes {
		write(i.mem.bytes[at:], c)
		at += c.size()
	}
	i.header().end.Store(uint64(at)) // from here on all of it is valid
	for _, c := range changes {
		r := record{key: c.Key, erased: c.erases(), size: c.size()}
		i.note(r, end)
		end += r.size
	}
}

// Sizes is the room that changes take, in bytes.
func Sizes(changes ...Change) (n int) {
	for _, c := range changes {
		n += c.size()
	}
	return n
}

// Reserve makes room for these changes, whenever and in whatever parts they will be
// put. It may take a while.
func (i *Image) Reserve(changes ...Change) error { return i.Room(Sizes(changes...)) }

// Room is Reserve for so many bytes.
func (i *Image) Room(need int) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer func() { i.until = i.end() + need }()
	if i.end()+need <= len(i.mem.bytes) {
		return nil
	}
	return i.change(need)
}

// change moves to another file. The caller holds mu.
func (i *Image) change(need int) error {
	old, name := i.mem, i.name()
	if err := i.move(need); err != nil {
		return err
	}
	old.close()
	if len(old.bytes) >= largeMemory {
		runtime.GC() // it is locked for as long as it is mapped, and nothing else may bring a collection about
	}
	if i.opts.Drop != nil {
		return i.opts.Drop(name)
	}
	return nil
}

// largeMemory is worth a collection when it has been left.
const largeMemory = 8 << 20

func (i *Image) name() string { return fmt.Sprintf("%s%d", Prefix, i.seq) }

// move writes what is alive into a new file with room for as much again.
func (i *Image) move(need int) error {
	mem, err := newMemory(max(minimum, headerSize+2*i.alive+2*need))
	if err != nil {
		return err
	}
	next := &Image{opts: i.opts, mem: mem, seq: i.seq + 1}
	h := next.header()
	h.magic, h.format = magic, format
	off := headerSize
	next.at = i.at.moved(func(s span) span {
		size, to := i.size(s), off
		copy(mem.bytes[to:], i.mem.bytes[s.off:s.off+size])
		off += size
		return span{to, s.lent}
	})
	h.end.Store(uint64(off))
	if i.opts.Keep != nil {
		if err := i.opts.Keep(next.name(), mem.fd); err != nil {
			mem.close()
			return fmt.Errorf("keeping the image: %w", err)
		}
	}
	i.mem, i.seq, i.at = mem, next.seq, next.at
	for s := range i.at.all() {
		for _, b := range s.borrowers() {
			b.Move(i.value(s), mem)
		}
	}
	return nil
}

// Trim gives back the memory of what is there no more, if that is some of all. It takes back
// what Reserve has promised.
func (i *Image) Trim() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if end := i.end(); end-i.alive < end/32 || end < minimum {
		return nil
	}
	i.until = 0
	return i.change(0)
}

// Lend gives somebody the bytes of a record where they lie, and goes on telling him
// where that is until the record goes or has another value. It tells whether there is
// such a record.
func (i *Image) Lend(key string, to Borrower) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	s, ok := i.find(key)
	if !ok {
		return false
	}
	if all := s.borrowers(); !slices.Contains(all, to) {
		all = append(all, to)
		i.at.set(key, span{s.off, &all}, i.has)
		to.Move(i.value(s), i.mem)
	}
	return true
}

// Get is a copy of a record.
func (i *Image) Get(key string) ([]byte, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s, ok := i.find(key)
	if !ok {
		return nil, false
	}
	return slices.Clone(i.value(s)), true
}

// value of a record, in the image's memory.
func (i *Image) value(s span) []byte {
	end := s.off + int(binary.LittleEndian.Uint32(i.mem.bytes[s.off:]))
	return i.mem.bytes[s.off+recordHeader+len(i.keyOf(s)) : end : end]
}

// All are copies of the records whose keys begin with a prefix, in order of the keys.
func (i *Image) All(prefix string) iter.Seq2[string, []byte] {
	i.mu.Lock()
	var keys []string
	for s := range i.at.all() {
		if key := i.keyOf(s); bytes.HasPrefix(key, []byte(prefix)) {
			keys = append(keys, string(key))
		}
	}
	i.mu.Unlock()
	slices.Sort(keys)
	return func(yield func(string, []byte) bool) {
		for _, key := range keys {
			if value, ok := i.Get(key); ok && !yield(key, value) {
				return
			}
		}
	}
}

// Stats of an image.
type Stats struct {
	Records, Bytes, Size int  // alive; of memory that the file may use
	Secret               bool // no other process can read it, and it is never swapped
}

// Stats are what the image holds now.
func (i *Image) Stats() Stats {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Stats{Records: i.at.len(), Bytes: i.alive, Size: len(i.mem.bytes), Secret: i.mem.secret}
}

// Close forgets this process's hold on the image; whoever keeps it keeps it, and what
// was lent stays.
func (i *Image) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mem.close()
}
