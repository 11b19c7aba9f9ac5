package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Auditor is the process that reads events. Its methods are called once each.
type Auditor struct {
	// Guarded is set before Watch where the server has fewer rights than the auditor, and may be
	// somebody else by now: then no other file system than a mount of kvfs is watched for it.
	Guarded bool

	door, group, epoll int
	private            uint64 // id of the mount whose opens are the server's own
	device             uint64
	files              *files
	procs              *processes
	exits              *exits
	out                *output
	all                bool // files without a key count too
	readings           int  // of all processes
	report             Report
	users              map[uint32]*uint64 // opens of each
	others, unknown    uint64             // opens of users that are not counted, or not known
	buf                []byte
	leaving            []int32
	strangers          bool // one of the last events was of a process that was not known
}

// New makes an auditor behind a door. Lines that are for no file go to log.
func New(door, log *os.File) (a *Auditor, err error) {
	fd, err := unix.FcntlInt(door.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("the door: %w", err)
	}
	door.Close()
	a = &Auditor{door: fd, group: -1, files: newFiles(), users: map[uint32]*uint64{}, out: newOutput(log), buf: make([]byte, eventBuffer)}
	a.report.Process, a.report.Since = os.Getpid(), time.Now().UTC().Truncate(time.Second)
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	a.exits, err = newExits()
	a.report.Exits = err == nil // otherwise less is known of those that have ended
	a.procs, err = newProcesses(a.epoll, a.exits, func(q *process) {
		a.readings -= len(q.read)
		if !q.exited && len(q.read) > 0 { // it runs on, and had to go for others
			a.report.Forgotten++
		}
	})
	if err != nil {
		return nil, err
	}
	for _, fd := range []int{a.door, a.exits.fd} {
		if fd < 0 {
			continue
		}
		if err := a.wait(fd); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *Auditor) wait(fd int) error {
	if err := unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

const (
	// eventBuffer has room for some hundred events, each of which takes two descriptors
	// for a moment.
	eventBuffer = 8 << 10
	// readsAtOnce is how often it is read before the door is looked at again.
	readsAtOnce = 16
	// pause is how long events wait if they come one upon another and all from processes
	// that are known: who reads at full speed is not interrupted for each file. Hardly any
	// process opens a file, ends and is reaped in so short a time.
	pause = 100 * time.Microsecond
)

// Write writes lines until Watch has returned and there are no more. It may wait for a
// disk or a pipe.
func (a *Auditor) Write() error { return a.out.write() }

// Watch reads events until the last other end of the door is closed.
func (a *Auditor) Watch() error {
	defer a.out.close()
	runtime.LockOSThread() // never given back: the thread's priority is its own
	a.report.Priority = prioritize()
	events := make([]unix.EpollEvent, 64)
	for last := (time.Time{}); ; {
		if now := time.Now(); !a.strangers && now.Sub(last) < pause {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: pause.Nanoseconds()}, nil) // a signal may cut it short
		}
		last = time.Now()
		n, err := unix.EpollWait(a.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		told, ended := false, false
		a.strangers = false
		a.leaving = a.leaving[:0]
		for _, e := range events[:n] {
			switch fd := int(e.Fd); fd {
			case a.door:
				told = true
			case a.exits.fd:
				ended = true
			case a.group:
			default: // what it has opened is in the queue, and before the queue was read it is known
				a.procs.exit(e.Pad, fd)
				a.leaving = append(a.leaving, e.Pad)
			}
		}
		more := a.drain()
		if !more { // or else what an ended process has opened may still be in the queue
			a.procs.leave(a.leaving)
		}
		if ended {
			a.exits.drain()
		}
		if told && !a.listen() {
			for a.drain() { // what was opened before the end
			}
			return nil
		}
	}
}

// prioritize lets this thread run as soon as there is an event.
func prioritize() string {
	rt := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if unix.SchedSetAttr(0, &rt, 0) == nil {
		return "realtime"
	}
	if unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil {
		return "high"
	}
	return ""
}

// drain handles the events that are there. It is true if there may be more.
func (a *Auditor) drain() (more bool) {
	if a.group < 0 {
		return false
	}
	for range readsAtOnce {
		n, err := unix.Read(a.group, a.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil: // the file of that event cannot be opened, and it is out of the queue
			a.report.Lost++
			continue
		}
		now := time.Now()
		for b := a.buf[:n]; len(b) >= unix.FAN_EVENT_METADATA_LEN; {
			e := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&b[0]))
			if int(e.Event_len) < unix.FAN_EVENT_METADATA_LEN || int(e.Event_len) > len(b) {
				break
			}
			a.handle(e, pidfdOf(b[unix.FAN_EVENT_METADATA_LEN:e.Event_len]), now)
			b = b[e.Event_len:]
		}
	}
	return true
}

// pidfdOf an event, negative if its process is gone.
func pidfdOf(info []byte) int {
	const pidfdInfo = 4 // FAN_EVENT_INFO_TYPE_PIDFD
	for len(info) >= 4 {
		size := int(*(*uint16)(unsafe.Pointer(&info[2])))
		if info[0] == pidfdInfo && size >= 8 && len(info) >= 8 {
			return int(*(*int32)(unsafe.Pointer(&info[4])))
		}
		if size < 4 || size > len(info) {
			break
		}
		info = info[size:]
	}
	return unix.FAN_NOPIDFD
}

func (a *Auditor) handle(e *unix.FanotifyEventMetadata, pidfd int, now time.Time) {
	if e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		a.report.Overflow++
		a.line(now, "overflow", []byte(`"lost":true`))
		return
	}
	f, counts := a.opened(int(e.Fd))
	unix.Close(int(e.Fd))
	if !counts {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		return
	}
	q, known := a.procs.of(e.Pid, pidfd, now)
	a.strangers = a.strangers || !known
	if q.nameless() {
		a.report.Gone++
	}
	a.note(q, f, now)
	a.report.Opens++
	a.count(q)
	a.line(now, "open", f.members, q.members)
}

// maxUsers are counted each by itself: a report is one message.
const maxUsers = 256

// count adds an open of a process to those of its user.
func (a *Auditor) count(q *process) {
	switch n := a.users[q.who.UID]; {
	case q.nameless():
		a.unknown++
	case n != nil:
		*n++
	case len(a.users) < maxUsers:
		first := uint64(1)
		a.users[q.who.UID] = &first
	default:
		a.others++
	}
}

// perUser is what count has counted.
func (a *Auditor) perUser() map[string]uint64 {
	all := map[string]uint64{}
	for uid, n := range a.users {
		all[strconv.FormatUint(uint64(uid), 10)] = *n
	}
	for name, n := range map[string]uint64{"other": a.others, "unknown": a.unknown} {
		if n > 0 {
			all[name] = n
		}
	}
	return all
}

func (a *Auditor) line(now time.Time, what string, parts ...[]byte) {
	var b [96]byte
	head := append(b[:0], `{"time":"`...)
	head = now.UTC().AppendFormat(head, "2006-01-02T15:04:05.000000Z")
	head = append(append(append(head, `","audit":"`...), what...), '"')
	all := [6][]byte{head}
	n := 1
	for _, p := range parts {
		all[n], all[n+1] = []byte(","), p
		n += 2
	}
	all[n] = []byte("}\n")
	a.out.add(all[:n+1]...)
}

// opened is the file of an event, and whether it is one to be reported.
func (a *Auditor) opened(fd int) (*entry, bool) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		a.report.Lost++
		return nil, false
	}
	if st.Mnt_id == a.private {
		return nil, false
	}
	f, ok := a.files.of(st.Ino)
	if !ok { // it was said before the file could be opened
		a.listen()
		f, ok = a.files.of(st.Ino)
	}
	if !ok { // nobody has said it: better too much than too little
		path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err != nil {
			path = fmt.Sprintf("inode %d", st.Ino)
		}
		f = newEntry(File{Inode: st.Ino, Path: path, Key: true})
	}
	return f, a.all || f.Key
}

// listen does what is asked at the door. It is false when nobody can ask any more.
func (a *Auditor) listen() bool {
	text, control := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, size, _, _, err := unix.Recvmsg(a.door, text, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return true
		case err != nil || n == 0:
			return false
		}
		fds, err := descriptors(control[:size])
		var m message
		if err != nil || json.Unmarshal(text[:n], &m) != nil {
			closeAll(fds)
			continue // no server of ours says that
		}
		a.answer(m, fds)
	}
}

func (a *Auditor) answer(m message, fds []int) {
	defer func() { closeAll(fds) }()
	reply := message{ID: m.ID}
	switch m.Ask {
	case askBegin:
		group := -1
		if len(fds) > 1 {
			group, fds = fds[1], fds[:1]
		}
		if len(fds) == 0 {
			return
		}
		if err := a.begin(fds[0], group); err != nil {
			reply.Error = asError(err)
			break
		}
		a.reply(reply, a.group)
		return
	case askConfigure:
		if m.Options == nil {
			return
		}
		a.all = m.Options.All
		a.out.configure(m.Options.File, func(err error) { // by the one who writes: opening may wait for a disk
			if err != nil {
				reply.Error = asError(err)
			}
			a.reply(reply)
		})
		return
	case askFiles:
		var t tally
		if len(fds) == 1 {
			if err := readBeside(fds[0], &t); err == nil {
				a.files.apply(t)
			}
			fds = nil
		}
		return
	case askReport:
		r := a.report
		a.out.report(&r)
		r.Users = a.perUser()
		reply.Report = &r
	case askReaders:
		f, err := beside(a.readers(m.Certificate, time.Now()))
		if err != nil {
			reply.Error = asError(err)
			break
		}
		a.reply(reply, int(f.Fd()))
		f.Close()
		return
	default:
		reply.Error = &Error{Fact: fmt.Sprintf("the auditor does not know %q", m.Ask), Hint: "it is of another version: restart kvfs"}
	}
	a.reply(reply)
}

// reply answers, if there is somebody who hears it.
func (a *Auditor) reply(m message, fds ...int) {
	b, err := json.Marshal(m)
	if err != nil {
		return
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(a.door, b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errors.Is(err, unix.EAGAIN) { // what a server that has died was told lies there, until the next one hears it
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(a.door), Events: unix.POLLOUT}}, replyPatience)
		_ = unix.Sendmsg(a.door, b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
}

// replyPatience is for how many milliseconds there may be no room for an answer.
const replyPatience = 100

func asError(err error) *Error {
	if t := troubleOf(err); t != nil {
		return t
	}
	return &Error{}
}

// begin watches the file system of a directory, in a group that there is already or in a
// new one.
func (a *Auditor) begin(dir, group int) error {
	var st unix.Statx_t
	if err := unix.Statx(dir, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return fmt.Errorf("looking at the file system: %w", err)
	}
	// Who may read a group gets every file that is opened, whoever may open it: what the server
	// names is watched only if it can be nothing but its own file system.
	if a.Guarded && !mountedAsKvfs(st.Dev_major, st.Dev_minor) {
		unix.Close(group)
		return &Error{Fact: "the server has named a file system that is not one of kvfs: it is not watched", Hint: "find out what runs as its user"}
	}
	if group >= 0 && (a.group >= 0 || !isGroup(group)) {
		unix.Close(group) // it is ours, come back, or none at all
		group = -1
	}
	now := a.group
	if now < 0 {
		now = group
	}
	if now < 0 {
		var err error
		if now, err = newGroup(); err != nil {
			return err
		}
	}
	// The file system, not the mount: containers have other mounts of it.
	if err := unix.FanotifyMark(now, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, dir, ""); err != nil {
		if now != a.group {
			unix.Close(now)
		}
		return &Error{Fact: fmt.Sprintf("opens cannot be watched: fanotify_mark: %v", err), Hint: "run kvfs as root, outside of a user namespace, without kvfs.audit otherwise"}
	}
	a.group = now
	a.private, a.device = st.Mnt_id, unix.Mkdev(st.Dev_major, st.Dev_minor)
	if err := a.wait(a.group); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// mountedAsKvfs tells whether a file system is mounted as one of kvfs. The file system itself is not asked.
func mountedAsKvfs(major, minor uint32) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	device := fmt.Sprintf("%d:%d", major, minor)
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); len(fields) > 2 && fields[2] == device && strings.HasPrefix(after, "fuse.kvfs ") {
			return true
		}
	}
	return false
}

// isGroup tells whether a descriptor is a group of fanotify.
func isGroup(fd int) bool {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	return err == nil && strings.Contains(string(text), "\nfanotify flags:")
}

// newGroup has the bounded queue of the kernel (fs.fanotify.max_queued_events).
func newGroup() (int, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_PIDFD, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	switch {
	case errors.Is(err, unix.EPERM):
		return -1, &Error{Fact: "opens cannot be watched without CAP_SYS_ADMIN (fanotify)", Hint: "run kvfs as root, outside of a user namespace, or without kvfs.audit"}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return -1, &Error{Fact: "opens cannot be watched: this kernel's fanotify names no processes", Hint: "kvfs.audit needs Linux 5.15"}
	case err != nil:
		return -1, &Error{Fact: fmt.Sprintf("opens cannot be watched: fanotify_init: %v", err), Hint: "see the limits below /proc/sys/fs/fanotify"}
	}
	return fd, nil
}
