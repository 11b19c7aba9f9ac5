package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	journalMagic = 0x6c6e6a7366766b // "kvfsjnl"
	// journalFormat changes with the layout below and with whatever is frozen for a
	// connection: node ids, what was answered ENOSYS, what INIT negotiated. A server of
	// another format cannot take a connection over.
	journalFormat = 1

	slotsAt     = 8 << 10
	slotSize    = requestSize
	waitingAt   = slotsAt + threads*slotSize
	waitingSize = 128 // a READ request has 80 bytes
	waitingMost = 256 // reads that wait for a content
	journalSize = waitingAt + waitingMost*waitingSize
)

// journal is memory that outlives the server, beside the connection. It holds what
// a successor cannot ask the kernel for: the INIT request, and every request that
// was read and not answered. Names are in it, but nothing secret.
//
// A thread reads each request straight into its slot, and clears the slot when the
// answer is written. So at whatever instruction a server dies, what it owes is there.
// A request that was answered and is still there is answered twice, which the kernel
// refuses without harm.
type journal struct {
	*shared
	fd  int
	mem []byte
}

// shared is the beginning of the memory.
type shared struct {
	magic  uint64
	format uint32
	// flags of the connection that a successor must have too.
	uncached atomic.Uint32
	// publisher is the thread that may change names, 0 for nobody; former is the one
	// of the server before, whose last request may come to this one.
	publisher, former atomic.Uint32
	// answered counts requests over all servers.
	answered atomic.Uint64
	tries    [threads]atomic.Uint32 // how often the request of a slot was taken over
	initLen  atomic.Uint32          // 0: INIT was not seen
	init     [1024]byte             // the kernel's INIT request
}

// What is shared ends before the slots begin.
var _ [slotsAt - unsafe.Sizeof(shared{})]byte

// newJournal makes one.
func newJournal() (*journal, error) {
	fd, err := unix.MemfdCreate("kvfs-journal", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, journalSize); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sizing the journal: %w", err)
	}
	j, err := mapJournal(fd)
	if err != nil {
		return nil, err
	}
	j.magic, j.format = journalMagic, journalFormat
	return j, nil
}

// openJournal takes over a predecessor's, with its descriptor.
func openJournal(fd int) (*journal, error) {
	j, err := mapJournal(fd)
	if err != nil {
		return nil, err
	}
	if j.magic != journalMagic || j.format != journalFormat {
		err := fmt.Errorf("a journal of another format (%x, %d)", j.magic, j.format)
		j.close()
		return nil, err
	}
	return j, nil
}

// mapJournal has every page present and locked: a SIGKILL that comes while the
// kernel copies a request into a missing page would fail the request.
func mapJournal(fd int) (*journal, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != journalSize {
		unix.Close(fd)
		return nil, fmt.Errorf("a journal of %d bytes, not %d: %w", st.Size, journalSize, errors.Join(err, unix.EINVAL))
	}
	mem, err := unix.Mmap(fd, 0, journalSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mapping the journal: %w", err)
	}
	_ = unix.Mlock(mem) // without the right to it the pages are at least present
	return &journal{shared: (*shared)(unsafe.Pointer(&mem[0])), fd: fd, mem: mem}, nil
}

func (j *journal) close() {
	_ = unix.Munmap(j.mem)
	unix.Close(j.fd)
}

// slot is where a thread reads its requests into.
func (j *journal) slot(i int) []byte { return j.mem[slotsAt+i*slotSize:][:slotSize:slotSize] }

// waiting is a place for a read that waits for a content.
func (j *journal) waiting(i int) []byte {
	return j.mem[waitingAt+i*waitingSize:][:waitingSize:waitingSize]
}

// length is the first word of a request, and 0 where none is owed.
func length(slot []byte) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&slot[0])) }

// owed is the request that a slot holds, nil if it was answered.
func owed(slot []byte) []byte {
	n := length(slot).Load()
	if n < inHeaderSize || int(n) > len(slot) {
		return nil
	}
	return slot[:n:n]
}

// settle marks the request of a thread as answered.
func (j *journal) settle(i int) {
	length(j.slot(i)).Store(0)
	j.tries[i].Store(0)
	j.answered.Add(1)
}

// saveInit keeps the kernel's first request for the successors. It comes before its
// answer: after that the kernel never repeats it.
func (j *journal) saveInit(req []byte) {
	n := copy(j.init[:], req)
	j.initLen.Store(uint32(n))
}

// savedInit is a copy of the kernel's first request, nil before it came.
func (j *journal) savedInit() []byte {
	n := j.initLen.Load()
	if n < inHeaderSize || int(n) > len(j.init) {
		return nil
	}
	b := append([]byte(nil), j.init[:n]...)
	binary.LittleEndian.PutUint32(b, n)
	return b
}

// park copies a request from a thread's slot to a place where it can wait; place is
// -1 if there is none. It is in the journal at every moment: the copy is complete
// before its length says so, and the slot is settled after that.
func (j *journal) park(req []byte) (place int) {
	if len(req) > waitingSize {
		return -1
	}
	for i := range waitingMost {
		w := j.waiting(i)
		// Claimed by a length that owed does not take for a request.
		if !length(w).CompareAndSwap(0, claimed) {
			continue
		}
		copy(w[4:], req[4:])
		length(w).Store(uint32(len(req)))
		return i
	}
	return -1
}

const claimed = 1

// unpark frees a place.
func (j *journal) unpark(place int) { length(j.waiting(place)).Store(0) }
