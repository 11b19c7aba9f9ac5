package image

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is a file of memory, mapped. It stays mapped for as long as anybody refers to
// it: somebody may be reading what he was lent.
type memory struct {
	fd     int
	bytes  []byte
	secret bool // nobody else can read it, and it is never swapped
}

// newMemory makes a file of at least so many bytes. Pages are used when they are
// first written to.
func newMemory(size int) (*memory, error) {
	size = (size + unix.Getpagesize() - 1) &^ (unix.Getpagesize() - 1)
	if fd, err := unix.MemfdSecret(unix.FD_CLOEXEC); err == nil {
		// The limit on locked memory may refuse the mapping.
		if m, err := sized(fd, size); err == nil {
			return m, nil
		}
	}
	fd, err := unix.MemfdCreate("kvfs-image", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return sized(fd, size)
}

func sized(fd, size int) (*memory, error) {
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sizing the image: %w", err)
	}
	return mapped(fd)
}

// mapped takes over a descriptor.
func mapped(fd int) (*memory, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Size < headerSize {
		err = fmt.Errorf("%d bytes are no image", st.Size)
	}
	var bytes []byte
	if err == nil {
		bytes, err = unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mapping the image: %w", err)
	}
	_ = unix.Madvise(bytes, unix.MADV_DONTDUMP)
	// Pages are locked as they come: locking all now would use all now. Without the
	// right to lock so much the image can be swapped, as the rest of the process.
	_, _, _ = unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(&bytes[0])), uintptr(len(bytes)), unix.MLOCK_ONFAULT)
	var fs unix.Statfs_t
	secret := unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.SECRETMEM_MAGIC
	m := &memory{fd: fd, bytes: bytes, secret: secret}
	runtime.AddCleanup(m, func(bytes []byte) { _ = unix.Munmap(bytes) }, bytes)
	return m, nil
}

func (m *memory) close() { unix.Close(m.fd) }
