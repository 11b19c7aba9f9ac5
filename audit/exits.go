package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// exits are the kernel's records of processes that have ended (taskstats,
// Documentation/accounting/taskstats.rst). A record is in the socket before the number
// of its process is free.
type exits struct {
	fd     int // -1: they are not to be had
	buf    []byte
	recent map[uint32]exit
	order  []uint32 // of recent, oldest first, as a ring
	at     int
}

// exit is what the kernel says of an ended process.
type exit struct {
	uid, gid uint32
	command  string
	started  time.Time // to the second
	exe      inode     // zero before Linux 5.19
}

type inode struct{ dev, ino uint64 }

// rememberedExits is fewer than there are process numbers, so that no two records in
// memory are of one number, unless one was lost in between.
const rememberedExits = 8192

// newExits needs CAP_NET_ADMIN, and a kernel with CONFIG_TASKSTATS.
func newExits() (*exits, error) {
	e := &exits{fd: -1, buf: make([]byte, 64<<10), recent: map[uint32]exit{}, order: make([]uint32, rememberedExits)}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return e, fmt.Errorf("netlink: %w", err)
	}
	if err := register(fd, e.buf); err != nil {
		unix.Close(fd)
		return e, err
	}
	e.fd = fd
	return e, nil
}

func register(fd int, buf []byte) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // more of them at once
	limit := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	family, err := familyID(fd, buf)
	if err != nil {
		return err
	}
	cpus, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return fmt.Errorf("looking for the processors: %w", err)
	}
	mask := append([]byte(strings.TrimSpace(string(cpus))), 0)
	if _, err := call(fd, buf, family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, mask); err != nil {
		return fmt.Errorf("taskstats: %w", err)
	}
	return nil
}

// familyID is the number by which taskstats are asked for.
func familyID(fd int, buf []byte) (uint16, error) {
	body, err := call(fd, buf, unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(unix.TASKSTATS_GENL_NAME), 0))
	if err != nil {
		return 0, fmt.Errorf("taskstats: %w", err)
	}
	for kind, value := range attributes(body) {
		if kind == unix.CTRL_ATTR_FAMILY_ID && len(value) >= 2 {
			return binary.NativeEndian.Uint16(value), nil
		}
	}
	return 0, errors.New("taskstats: the kernel does not name their family")
}

const genlHeader = 4

// call sends a question with one attribute. The result is the body of the answer, if
// there is another one than "done".
func call(fd int, buf []byte, family uint16, command uint8, attribute uint16, value []byte) (body []byte, err error) {
	size := unix.SizeofNlMsghdr + genlHeader + 4 + len(value)
	b := make([]byte, (size+3)&^3)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], family)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[8:], 1)
	b[unix.SizeofNlMsghdr], b[unix.SizeofNlMsghdr+1] = command, 1
	at := b[unix.SizeofNlMsghdr+genlHeader:]
	binary.NativeEndian.PutUint16(at, uint16(4+len(value)))
	binary.NativeEndian.PutUint16(at[2:], attribute)
	copy(at[4:], value)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for kind, payload := range netlinkMessages(buf[:n]) {
			switch {
			case kind == unix.NLMSG_ERROR && len(payload) >= 4:
				if code := int32(binary.NativeEndian.Uint32(payload)); code != 0 {
					return nil, unix.Errno(-code)
				}
				return body, nil
			case kind == family && len(payload) > genlHeader && body == nil:
				body = append(body, payload[genlHeader:]...)
			}
		}
	}
}

// netlinkMessages yields type and payload of each message.
func netlinkMessages(b []byte) func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) || !yield(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// attributes yields type and value of each attribute.
func attributes(b []byte) func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// drain takes what has come.
func (e *exits) drain() {
	for e.fd >= 0 {
		n, _, err := unix.Recvfrom(e.fd, e.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // some are lost: an older record of a number may be of another process
			clear(e.recent)
			clear(e.order)
			continue
		case err != nil:
			return
		}
		for _, payload := range netlinkMessages(e.buf[:n]) {
			if len(payload) <= genlHeader {
				continue
			}
			for kind, both := range attributes(payload[genlHeader:]) {
				if kind == unix.TASKSTATS_TYPE_AGGR_PID {
					e.take(both)
				}
			}
		}
	}
}

func (e *exits) take(both []byte) {
	for kind, value := range attributes(both) {
		if kind != unix.TASKSTATS_TYPE_STATS {
			continue
		}
		var s unix.Taskstats // longer or shorter in other versions of the kernel
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&s)), unsafe.Sizeof(s)), value)
		if s.Ac_tgid != 0 && s.Ac_tgid != s.Ac_pid {
			continue // a thread, not the process
		}
		x := exit{uid: s.Ac_uid, gid: s.Ac_gid, command: text(s.Ac_comm[:]), started: time.Unix(int64(max(s.Ac_btime64, uint64(s.Ac_btime))), 0)}
		if s.Version >= 12 {
			x.exe = inode{s.Ac_exe_dev, s.Ac_exe_inode}
		}
		if _, known := e.recent[s.Ac_pid]; !known {
			delete(e.recent, e.order[e.at])
			e.order[e.at] = s.Ac_pid
			e.at = (e.at + 1) % len(e.order)
		}
		e.recent[s.Ac_pid] = x
	}
}

func text(c []int8) string {
	b := make([]byte, 0, len(c))
	for _, v := range c {
		if v == 0 {
			break
		}
		b = append(b, byte(v))
	}
	return string(b)
}

// of a process that has ended.
func (e *exits) of(pid int32) (exit, bool) {
	e.drain()
	x, ok := e.recent[uint32(pid)]
	return x, ok
}
