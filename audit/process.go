package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sys/unix"
)

const (
	// rememberedProcesses bounds how many running processes are known, with a descriptor
	// each.
	rememberedProcesses = 4096
	// freshFor is how long what is known of a process counts without another look: an
	// exec takes longer.
	freshFor = 100 * time.Microsecond
	// groupFor is the same for its control group, into which it is put from outside.
	groupFor = time.Second
	// rememberedPrograms bounds how many executables are known by their inodes.
	rememberedPrograms = 1024
)

// process is a running one that has opened a file.
type process struct {
	pid     int32
	pidfd   int
	started uint64 // in ticks since the machine's start: with the number, it is that process
	who     Process
	members []byte // of its JSON
	looked  time.Time
	grouped time.Time
	// exited is set when the kernel says so. What it has opened before may still come.
	exited bool
	read   map[string]*reading // by certificate
}

// processes are those that are known by their numbers.
type processes struct {
	epoll    int
	known    *simplelru.LRU[int32, *process]
	exits    *exits
	programs *simplelru.LRU[inode, string]
	// dropped is called with each process that is not known any more.
	dropped func(*process)
	// noInfo is set where the kernel has no PIDFD_GET_INFO (before 6.13).
	noInfo bool
	boot   time.Time
}

func newProcesses(epoll int, x *exits, dropped func(*process)) (*processes, error) {
	p := &processes{epoll: epoll, exits: x, dropped: dropped}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, fmt.Errorf("clock_gettime: %w", err)
	}
	p.boot = time.Now().Add(-time.Duration(up.Nano()))
	var err error
	if p.known, err = simplelru.NewLRU(rememberedProcesses, func(_ int32, q *process) { p.forget(q) }); err != nil {
		return nil, err
	}
	p.programs, err = simplelru.NewLRU[inode, string](rememberedPrograms, nil)
	return p, err
}

func (p *processes) forget(q *process) {
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, q.pidfd, nil)
	unix.Close(q.pidfd)
	p.dropped(q)
}

// of an event: the process with that number, which the pidfd is of (or a negative
// number: it has been reaped). The pidfd is closed or kept. known tells whether it has
// been seen before.
func (p *processes) of(pid int32, pidfd int, now time.Time) (q *process, known bool) {
	q, known = p.known.Get(pid)
	if known && q.exited && pidfd >= 0 && !p.same(q, pidfd) { // the number was given away again
		p.known.Remove(pid)
		known = false
	}
	switch {
	case known:
		// Its number is its own as long as it is not reaped; and if it was reaped since
		// the kernel was last asked, which is for each batch, nobody has the number yet.
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		p.refresh(q, now)
		return q, known
	case pid <= 0: // of another process namespace
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		return p.unknown(pid), false
	case pidfd < 0:
		return p.ended(pid), false
	}
	q = &process{pid: pid, pidfd: pidfd, read: map[string]*reading{}}
	if !p.look(q, now) {
		unix.Close(pidfd)
		return p.ended(pid), false
	}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, pidfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(pidfd), Pad: pid}); err != nil {
		unix.Close(pidfd) // it cannot be told when it ends, so it is not remembered
		q.pidfd = -1
		return q, known
	}
	p.known.Add(pid, q)
	return q, known
}

// same tells whether a pidfd is of a process that is known.
func (p *processes) same(q *process, pidfd int) bool {
	dir, err := openProc(q.pid)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	_, started, err := stat(dir)
	return err == nil && started == q.started && !reaped(pidfd)
}

// exits marks those that have ended, by an event of their pidfds, and leave is called
// when what they have opened before was seen.
func (p *processes) exit(pid int32, pidfd int) {
	if q, ok := p.known.Peek(pid); ok && q.pidfd == pidfd {
		q.exited = true
	}
}

func (p *processes) leave(pids []int32) {
	for _, pid := range pids {
		if q, ok := p.known.Peek(pid); ok && q.exited {
			p.known.Remove(pid)
		}
	}
}

// refresh looks again whether it is another program or user by now.
func (p *processes) refresh(q *process, now time.Time) {
	if q.exited || now.Sub(q.looked) < freshFor {
		return
	}
	if !p.noInfo && now.Sub(q.grouped) < groupFor {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CREDS}
		err := unix.IoctlPidfdInfo(q.pidfd, &info)
		switch {
		case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
			p.noInfo = true
		case err != nil:
			return // it has ended: what was known counts
		default:
			var exe [unix.PathMax]byte
			n, err := unix.Readlink("/proc/"+strconv.Itoa(int(q.pid))+"/exe", exe[:])
			if err == nil && string(exe[:n]) == q.who.Executable && info.Fsuid == q.who.UID && info.Fsgid == q.who.GID {
				q.looked = now
				return
			}
		}
	}
	p.look(q, now)
}

// look finds out who it is. It is false if the process is gone by now; what was known
// before stays.
func (p *processes) look(q *process, now time.Time) bool {
	dir, err := openProc(q.pid)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	if reaped(q.pidfd) { // otherwise the directory is of this process, whoever gets the number later
		return false
	}
	command, started, err := stat(dir)
	if err != nil {
		return false
	}
	at := p.boot.Add(time.Duration(started) * time.Second / ticks).UTC().Truncate(time.Millisecond)
	who := Process{PID: q.pid, Started: &at, Command: command}
	if who.UID, who.GID, err = ids(dir); err != nil {
		return false
	}
	who.Cgroup = cgroup(dir)
	who.Unit, who.Container = within(who.Cgroup)
	var gone bool
	if who.Executable, gone = p.executable(dir); gone { // it ends at this moment: its program is gone, and the rest of it not yet
		if q.who.Executable != "" && q.who.Command == command {
			who.Executable = q.who.Executable
		} else {
			who.Gone = true
			if x, ok := p.exits.of(q.pid); ok { // the record is there before the program goes
				who.Executable, _ = p.programs.Get(x.exe)
			}
		}
	}
	q.started, q.who, q.members, q.looked, q.grouped = started, who, members(who), now, now
	return true
}

// ended is a process of which the kernel's record is all there is.
func (p *processes) ended(pid int32) *process {
	x, ok := p.exits.of(pid)
	if !ok {
		return p.unknown(pid)
	}
	who := Process{PID: pid, UID: x.uid, GID: x.gid, Command: x.command, Gone: true}
	if at := x.started.UTC(); x.started.Unix() > 0 {
		who.Started = &at
	}
	if x.exe != (inode{}) {
		who.Executable, _ = p.programs.Get(x.exe)
	}
	return &process{pid: pid, pidfd: -1, who: who, members: members(who)}
}

// unknown is one of which the number alone is known.
func (p *processes) unknown(pid int32) *process {
	q := &process{pid: pid, pidfd: -1, who: Process{PID: pid, Gone: true}}
	q.members = members(struct {
		PID  int32 `json:"pid"`
		Gone bool  `json:"gone"`
	}{pid, true})
	return q
}

// nameless tells whether nothing is known of it.
func (q *process) nameless() bool { return q.who.Gone && q.who.Command == "" }

// executable of a process, "" if that may not be known; gone tells that it has none any more.
func (p *processes) executable(dir int) (name string, gone bool) {
	var b [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, "exe", b[:])
	if err != nil {
		return "", errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	name = string(b[:n])
	var st unix.Stat_t
	if unix.Fstatat(dir, "exe", &st, 0) == nil {
		p.programs.Add(inode{uint64(st.Dev), st.Ino}, name)
	}
	return name, false
}

func openProc(pid int32) (int, error) {
	return unix.Open("/proc/"+strconv.Itoa(int(pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// reaped tells whether the process of a pidfd is gone, its number with it.
func reaped(pidfd int) bool {
	return errors.Is(unix.PidfdSendSignal(pidfd, 0, nil, 0), unix.ESRCH)
}

// small is more than what is read of a process has.
const small = 8 << 10

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, small)
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// ticks per second of the times in /proc, on every architecture that Go runs on.
const ticks = 100

// errProc says that the kernel writes /proc otherwise than it is documented.
var errProc = errors.New("/proc cannot be understood")

// stat are name and start of a process.
func stat(dir int) (command string, started uint64, err error) {
	b, err := readAt(dir, "stat")
	if err != nil {
		return "", 0, err
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // the name may hold anything
	if open < 0 || end < open {
		return "", 0, errProc
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) < 20 {
		return "", 0, errProc
	}
	started, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return string(b[open+1 : end]), started, err
}

// ids are those that open files: of the file system.
func ids(dir int) (uid, gid uint32, err error) {
	b, err := readAt(dir, "status")
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 5 {
			continue
		}
		n, err := strconv.ParseUint(string(f[4]), 10, 32)
		switch {
		case err != nil:
		case string(f[0]) == "Uid:":
			uid = uint32(n)
		case string(f[0]) == "Gid:":
			return uid, uint32(n), nil
		}
	}
	return 0, 0, errProc
}

// cgroup is the one of systemd, or of version 2.
func cgroup(dir int) (group string) {
	b, err := readAt(dir, "cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && (f[1] == "" || f[1] == "name=systemd") && len(f[2]) > len(group) {
			group = f[2]
		}
	}
	return group
}

// within are the unit of systemd and the container that a control group belongs to.
func within(group string) (unit, container string) {
	for group != "" && group != "/" && group != "." {
		name := path.Base(group)
		group = path.Dir(group)
		if unit == "" && (strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope")) {
			unit = name
		}
		if id := containerID(name); container == "" && id != "" {
			container = id
		}
	}
	return unit, container
}

// containerID is the 64 digits that docker, containerd, cri-o and podman have in the
// names of control groups.
func containerID(name string) string {
	name = strings.TrimSuffix(name, ".scope")
	name = name[strings.LastIndexAny(name, "-:")+1:]
	if len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" {
		return ""
	}
	return name
}

// holds are the files of a file system that a process has open, as versions by
// certificate.
func (a *Auditor) holds(pid int32) map[string][]string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(4096) // as many as there are, or so many
	held := map[string][]string{}
	for _, name := range names {
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, dir+"/"+name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) != nil || unix.Mkdev(st.Dev_major, st.Dev_minor) != a.device {
			continue
		}
		if f, ok := a.files.of(st.Ino); ok && f.Key && f.Certificate != "" {
			held[f.Certificate] = append(held[f.Certificate], f.Version)
		}
	}
	return held
}
