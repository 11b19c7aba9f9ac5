package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The environment of a server: that of sd_listen_fds(3), sd_notify(3) and
// sd_watchdog_enabled(3), and a variable of our own.
const (
	listenPID    = "LISTEN_PID"
	listenFDs    = "LISTEN_FDS"
	listenNames  = "LISTEN_FDNAMES"
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"

	// keeperMark takes the place of LISTEN_PID, which must be the server's own
	// process id: that is not known before the fork, and nothing of ours runs
	// between fork and exec (a first stage that sets it would turn every failure of
	// exec into an exit code of its own). LISTEN_PID keeps a process from taking for
	// its own what was meant for one further up. The mark does so by the thing
	// itself: it is the keeper's process id, and the device and inode of the pipe
	// that is descriptor 3 (systemd's JOURNAL_STREAM has the same form). Who does not
	// have that pipe there has not been handed the descriptors.
	keeperMark = "KVFS_KEEPER"
	// formerEnd is how the server before this one has ended.
	formerEnd = "KVFS_FORMER_END"
)

var variables = []string{listenPID, "LISTEN_PIDFDID", listenFDs, listenNames, notifySocket, watchdogUsec, watchdogPID, keeperMark, formerEnd}

const (
	firstFD     = 3 // SD_LISTEN_FDS_START
	maxKept     = 64
	maxMessage  = 4 << 10
	maxName     = 255      // FDNAME_MAX of systemd
	maxRights   = 253      // SCM_MAX_FD of the kernel
	defaultName = "stored" // what systemd calls a descriptor that is stored without a name
	pipeName    = "keeper" // the pipe that ends with the keeper
)

// A descriptor has a name that others may have too.
type descriptor struct {
	name string
	fd   int
}

// checkName accepts what systemd does, and neither the empty name nor that of the
// keeper's own pipe.
func checkName(name string) error {
	bad := func(r rune) bool { return r < ' ' || r > '~' || r == ':' }
	switch {
	case name == "" || name == pipeName:
		return fmt.Errorf("the name %q of a descriptor is not free", name)
	case len(name) > maxName || strings.ContainsFunc(name, bad):
		return fmt.Errorf("the name %.40q of a descriptor is longer than %d or not plain ASCII without a colon", name, maxName)
	}
	return nil
}

// A message is what a server says to its keeper.
type message struct {
	ready, stopping, ping bool
	store, remove         bool
	name                  string // of what is stored or removed
	status                string
}

// parse reads a message of sd_notify(3). What it does not know is passed over, as
// systemd does. A barrier needs no word of its own: every descriptor that is not
// stored is closed when its message has been handled.
func parse(text []byte) (m message, err error) {
	text = bytes.TrimRight(text, "\x00")
	if len(text) > maxMessage {
		return message{}, fmt.Errorf("longer than %d bytes", maxMessage)
	}
	if bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text) {
		return message{}, errors.New("not a text")
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		on := value == "1"
		switch key {
		case "READY":
			m.ready = m.ready || on
		case "STOPPING":
			m.stopping = m.stopping || on
		case "WATCHDOG":
			m.ping = m.ping || on
		case "FDSTORE":
			m.store = m.store || on
		case "FDSTOREREMOVE":
			m.remove = m.remove || on
		case "FDNAME":
			if err := checkName(value); err != nil {
				return message{}, err
			}
			m.name = value
		case "STATUS":
			m.status = value
		}
	}
	if m.remove && (m.store || m.name == "") {
		return message{}, errors.New("it says what to remove by no name, or stores at once")
	}
	if m.store && m.name == "" {
		m.name = defaultName
	}
	return m, nil
}

// receive takes one message from a socket with SO_PASSCRED, without waiting: EAGAIN
// says that there is none. The descriptors are the caller's, also with an error. pid
// is the sender's process as the kernel saw it, 0 if it cannot be seen from here.
func receive(socket int) (text []byte, pid int, fds []int, err error) {
	text = make([]byte, maxMessage)
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(maxRights*4))
	n, cn, flags, _, err := unix.Recvmsg(socket, text, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, 0, nil, err
	}
	parts, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		return nil, 0, nil, fmt.Errorf("what came with it cannot be read: %w", err)
	}
	for _, part := range parts {
		if rights, err := unix.ParseUnixRights(&part); err == nil {
			fds = append(fds, rights...)
		} else if cred, err := unix.ParseUnixCredentials(&part); err == nil {
			pid = int(cred.Pid)
		}
	}
	switch {
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("longer than %d bytes", maxMessage)
	case flags&unix.MSG_CTRUNC != 0:
		err = errors.New("more descriptors came with it than this process may open")
	}
	return text[:n], pid, fds, err
}

// poll waits until one of fds has something or the time has come; the zero time
// never comes. It may return early.
func poll(fds []unix.PollFd, until time.Time) {
	timeout := -1
	if !until.IsZero() {
		// Rounded up, or it would spin through the last millisecond.
		timeout = int(min(max(0, time.Until(until)+time.Millisecond-1), time.Hour) / time.Millisecond)
	}
	_, _ = unix.Poll(fds, timeout) // EINTR is such an early return
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
