package keeper

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is the server's side: what was handed over to this process, and whom to
// tell. Its methods may be called from many goroutines. All of them work without a
// keeper, and then do nothing.
type Client struct {
	socket string // "": nobody to tell
	keeper int
	own    bool // it is a Keeper, not systemd
	every  time.Duration
	gone   chan struct{}
	former string
	// How long the other side may take to read what it is told.
	patience time.Duration

	mu   sync.Mutex
	left []descriptor // not taken yet
}

// Inherit reads what systemd or a Keeper has put into the environment, and removes
// it there, so that no process started from here takes it for its own. Call it once,
// before anything else opens or closes descriptors or starts a process.
//
// As with sd_listen_fds(3), descriptors that are meant for another process are left
// alone and are no error; a number of them that makes no sense, a name too few or a
// descriptor that is not open is one. So is a socket or a watchdog that cannot be
// understood. All descriptors are close-on-exec afterwards.
func Inherit() (*Client, error) {
	env := map[string]string{}
	for _, name := range variables {
		env[name] = os.Getenv(name)
		os.Unsetenv(name)
	}
	c := &Client{gone: make(chan struct{}), patience: 5 * time.Second, former: env[formerEnd]}
	var err error
	var ours bool
	if mark := env[keeperMark]; mark != "" {
		if c.keeper, ours = marked(mark); !ours {
			return &Client{gone: c.gone}, nil
		}
	} else if env[listenPID] != "" && env[listenFDs] != "" {
		pid, err := strconv.Atoi(env[listenPID])
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("%s=%q is no process id", listenPID, env[listenPID])
		}
		ours = pid == os.Getpid()
	}
	if ours {
		if c.left, err = listen(env[listenFDs], env[listenNames]); err != nil {
			return nil, err
		}
	}
	if c.every, err = pingEvery(env[watchdogUsec], env[watchdogPID]); err != nil {
		return nil, err
	}
	if path := env[notifySocket]; path != "" {
		if len(path) < 2 || len(path) > 107 || path[0] != '/' && path[0] != '@' {
			return nil, fmt.Errorf("%s=%q is neither a path nor an abstract socket", notifySocket, path)
		}
		c.socket = path
		if c.keeper == 0 {
			c.keeper = 1
		}
	}
	if env[keeperMark] != "" {
		c.own = true
		pipe := c.left[0].fd
		c.left = c.left[1:]
		if err := unix.SetNonblock(pipe, true); err != nil {
			return nil, fmt.Errorf("watching the keeper: %w", err)
		}
		f := os.NewFile(uintptr(pipe), pipeName) // not blocking: no thread waits for it
		go func() {
			_, _ = f.Read(make([]byte, 1)) // nobody writes: it ends with the last writer
			close(c.gone)
		}()
	}
	return c, nil
}

// FormerEnd says in words how the server before this one has ended; "" if there was none, it has parked, or nobody
// knows.
func (c *Client) FormerEnd() string { return c.former }

// mark is what the keeper with the given process id puts into the environment of
// those who get the pipe.
func mark(pid, pipe int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(pipe, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d:%d", pid, st.Dev, st.Ino), nil
}

// marked tells whose mark it is, and whether what belongs to it was handed to us.
func marked(text string) (pid int, ours bool) {
	head, _, _ := strings.Cut(text, ":")
	pid, err := strconv.Atoi(head)
	if err != nil {
		return 0, false
	}
	want, err := mark(pid, firstFD)
	return pid, err == nil && want == text
}

// listen finds the descriptors that were handed over, and makes them close-on-exec.
func listen(count, names string) ([]descriptor, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n <= 0 || n > 1<<20 {
		return nil, fmt.Errorf("%s=%q is no number of descriptors", listenFDs, count)
	}
	named := slices.Repeat([]string{"unknown"}, n) // sd_listen_fds_with_names(3)
	if names != "" {
		named = strings.Split(names, ":")
	}
	if len(named) != n {
		return nil, fmt.Errorf("%s has %d names for %d descriptors", listenNames, len(named), n)
	}
	all := make([]descriptor, n)
	for i, name := range named {
		all[i] = descriptor{name, firstFD + i}
		if _, err := unix.FcntlInt(uintptr(firstFD+i), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("descriptor %d (%s), which %s promises: %w", firstFD+i, name, listenFDs, err)
		}
	}
	return all, nil
}

func pingEvery(usec, pid string) (time.Duration, error) {
	if usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(1<<63-1)/1000 {
		return 0, fmt.Errorf("%s=%q is no time", watchdogUsec, usec)
	}
	return time.Duration(n) * time.Microsecond / 2, nil
}

// Names are those of the descriptors that nobody has taken yet, in no order. A name
// is there as often as there are descriptors of it.
func (c *Client) Names() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.left {
		names = append(names, d.name)
	}
	return names
}

// Take gives out a descriptor of that name, each once. It is the caller's from now
// on, and close-on-exec.
func (c *Client) Take(name string) (fd int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.left, func(d descriptor) bool { return d.name == name })
	if i < 0 {
		return -1, false
	}
	fd = c.left[i].fd
	c.left = slices.Delete(c.left, i, i+1)
	return fd, true
}

// CloseRest closes what nobody has taken. The keeper still has it: see Drop.
func (c *Client) CloseRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.left {
		unix.Close(d.fd)
	}
	c.left = nil
}

// Keep gives the keeper a copy of the descriptor, for every server to come. It
// returns when the keeper has read that, or fails after 5 s. What is kept under the
// name already stays beside it: Drop that first. systemd keeps nothing that was opened
// with O_PATH, which is an errors.ErrUnsupported.
//
// The protocol has no word for a refusal: one descriptor too many (64 with a Keeper,
// FileDescriptorStoreMax= with systemd) is in the keeper's log alone.
func (c *Client) Keep(name string, fd int) error {
	if err := checkName(name); err != nil {
		return err
	}
	switch flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); {
	case err != nil:
		return fmt.Errorf("descriptor %d (%s) cannot be kept: %w", fd, name, err)
	case flags&unix.O_PATH != 0 && !c.own:
		// It passes over these without a word.
		return fmt.Errorf("descriptor %d (%s) cannot be kept by systemd, opened with O_PATH: %w", fd, name, errors.ErrUnsupported)
	}
	if err := c.send("FDSTORE=1\nFDNAME="+name, fd); err != nil {
		return err
	}
	return c.barrier()
}

// Drop lets the keeper close all that it keeps under the name, and returns when that
// is done, or fails after 5 s. A name that is not there is no error.
func (c *Client) Drop(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := c.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return err
	}
	return c.barrier()
}

// Ready says that this server answers. Until then it counts as a start that may yet
// fail.
func (c *Client) Ready() error { return c.send("READY=1") }

// Extend asks systemd to wait for Ready for so long from now, however long a start may
// take by its settings. What is said last counts. A Keeper passes it over.
func (c *Client) Extend(d time.Duration) error {
	return c.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Status says in a line what the server does. Lines are joined.
func (c *Client) Status(text string) error {
	return c.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Stopping says that the server is about to end for good. Nobody expects a ping from
// now on.
func (c *Client) Stopping() error { return c.send("STOPPING=1") }

// Ping says that the server is alive. Call it every PingEvery, from where it would
// be missed if the server hung.
func (c *Client) Ping() error { return c.send("WATCHDOG=1") }

// PingEvery is half of the time after which a silent server is killed, 0 if nobody
// waits for pings.
func (c *Client) PingEvery() time.Duration { return c.every }

// Kept says whether there is somebody to keep what Keep is given, as far as can be
// seen from here: systemd accepts descriptors only with FileDescriptorStoreMax=.
func (c *Client) Kept() bool {
	select {
	case <-c.gone:
		return false
	default:
		return c.socket != ""
	}
}

// Gone is closed when the Keeper has died: what this server holds is now the last of
// it. Without a keeper and under systemd it is never closed.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Keeper is the process id of the keeper: 1 under systemd, 0 if there is none, or
// none any more.
func (c *Client) Keeper() int {
	if !c.Kept() {
		return 0
	}
	return c.keeper
}

// send says something, with descriptors, by a socket of its own as sd_notify(3)
// does: whoever listens at the path by now gets it.
func (c *Client) send(text string, fds ...int) error {
	if !c.Kept() {
		return nil
	}
	if len(text) > maxMessage {
		return fmt.Errorf("telling the keeper: more than %d bytes", maxMessage)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("telling the keeper: %w", err)
	}
	defer unix.Close(s)
	// The queue of a keeper that hangs is full at some time.
	limit := unix.NsecToTimeval(c.patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("telling the keeper: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		// Not through net: UnixConn takes no descriptors once it is connected.
		// An address of its own: package unix writes into it. It knows the leading @, too.
		err := unix.Sendmsg(s, []byte(text), rights, &unix.SockaddrUnix{Name: c.socket}, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue // with a timeout, the kernel does not restart it
		}
		if err != nil {
			return fmt.Errorf("telling the keeper: %w", err)
		}
		return nil
	}
}

// barrier returns when the other side has handled all that was said before
// (sd_pid_notify_barrier): it closes the one end of a pipe then.
func (c *Client) barrier() error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("waiting for the keeper: %w", err)
	}
	defer unix.Close(p[0])
	err := c.send("BARRIER=1", p[1])
	unix.Close(p[1])
	if err != nil {
		return err
	}
	for end := time.Now().Add(c.patience); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(p[0])}}
		if poll(fds, end); fds[0].Revents&unix.POLLHUP != 0 {
			return nil
		}
	}
	return fmt.Errorf("waiting for the keeper: no answer in %v", c.patience)
}
