package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of the FUSE protocol (include/uapi/linux/fuse.h) that the loop has to
// know itself; the rest is go-fuse's.
const (
	inHeaderSize  = 40
	outHeaderSize = 16

	opLookup      = 1
	opForget      = 2
	opSetattr     = 4
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opRead        = 15
	opWrite       = 16
	opSetxattr    = 21
	opRemovexattr = 24
	opFlush       = 25
	opInit        = 26
	opCreate      = 35
	opInterrupt   = 36
	opNotifyReply = 41
	opBatchForget = 42
	opFallocate   = 43
	opRename2     = 45
	opCopyRange   = 47
	opTmpfile     = 51
	opCount       = 64

	// maxWrite bounds READ too: the largest payload of a request or an answer.
	maxWrite = 32 << 10
	// The kernel wants room for max_write and a header in every read.
	requestSize = maxWrite + 8<<10
	// An xattr of 64 KiB or a READ, and the headers.
	replySize = 96 << 10
)

// What nobody may do, the publisher included. Through the read-only binds these
// never arrive; go-fuse would answer ENOSYS, which people read as "Function not
// implemented".
var neverAllowed = [opCount]bool{
	opSetattr: true, opMkdir: true, opLink: true, opWrite: true, opCreate: true,
	opFallocate: true, opRename2: true, opCopyRange: true, opTmpfile: true,
}

func opcode(req []byte) uint32 { return binary.LittleEndian.Uint32(req[4:]) }

// takesNoReply tells whether the kernel expects no answer; one would be an
// error.
func takesNoReply(op uint32) bool {
	return op == opForget || op == opBatchForget || op == opNotifyReply
}

// replyTo is the reply that gives a request what it asks for.
func replyTo(req, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, outHeaderSize+len(body)), uint32(outHeaderSize+len(body)))
	b = append(b, 0, 0, 0, 0)
	b = append(b, req[8:16]...) // the request's unique number
	return append(b, body...)
}

// nodeOf is the node that a request means.
func nodeOf(req []byte) uint64 { return binary.LittleEndian.Uint64(req[16:]) }

// readIn is the body of a READ: fuse_read_in. A request too short for it reads
// nothing.
func readIn(req []byte) (offset uint64, size uint32) {
	if len(req) < inHeaderSize+24 {
		return 0, 0
	}
	return binary.LittleEndian.Uint64(req[inHeaderSize+8:]), binary.LittleEndian.Uint32(req[inHeaderSize+16:])
}

// refusal is the reply that fails a request, or nil for one that takes none.
func refusal(req []byte, errno unix.Errno) []byte {
	switch op := opcode(req); {
	case takesNoReply(op):
		return nil
	case op == opInterrupt, op == opFlush:
		// ENOSYS ends these for good. Anything else would make the kernel send
		// the interrupt again, or come out of close(2).
		errno = unix.ENOSYS
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, outHeaderSize), outHeaderSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(-int32(errno)))
	return append(b, req[8:16]...) // the request's unique number
}
