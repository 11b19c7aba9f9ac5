package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufferedLines bounds the lines that wait, in bytes; as many may be on their way.
	bufferedLines = 4 << 20
	// writeRetry is how long after a failure it is tried again.
	writeRetry = time.Second
	// openPatience is how long it may take to open a file until that is held to be trouble.
	openPatience = time.Second
	// hangsAfter is how long it may take to write a portion.
	hangsAfter = 3 * time.Second
	// portion is how many bytes are written at a time, or a line more: who reads slowly is told
	// from somebody who does not read.
	portion = 64 << 10
)

// output takes lines without ever waiting, and writes them.
type output struct {
	log *os.File // where lines go that are for no file

	mu      sync.Mutex
	pending []byte
	moving  int // bytes that the writer has taken and not written
	lines   int // in both
	dropped uint64
	said    uint64 // of dropped, in a line
	trouble *Error
	began   time.Time // when the writer began what it does now, which may wait for others; zero: it waits for work
	path    string    // where to; "": the log
	next    *target   // that the writer has not seen; nil: none
	closed  bool
	wake    chan struct{} // there is something to do
	turn    chan struct{} // there is a next target: it need not wait for the retry of the one before
}

// target is where lines go.
type target struct {
	path   string      // "": the log
	opened func(error) // is told what came of opening it
}

func newOutput(log *os.File) *output {
	return &output{log: log, wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// configure changes where lines go, from the next ones on. It waits for no disk: opened is told what came of that, once,
// also if nothing has come of it yet. What fails is tried again.
func (o *output) configure(path string, opened func(error)) {
	var once sync.Once
	late := time.AfterFunc(openPatience, func() {
		once.Do(func() {
			opened(&Error{Fact: fmt.Sprintf("the audit file %s has not been opened for %v; lines wait", path, openPatience), Hint: hangHint})
		})
	})
	next := &target{path, func(err error) {
		late.Stop()
		once.Do(func() { opened(err) })
	}}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next = next
	signal(o.wake)
	signal(o.turn)
}

// hangHint is for a file that cannot be waited for.
const hangHint = "a disk, or a file system over the network, does not answer; see the kernel's log"

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add takes a line, made of these parts. It is false if there is no room.
func (o *output) add(parts ...[]byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if len(o.pending)+size > bufferedLines {
		o.dropped++
		return false
	}
	if o.lines++; o.dropped > o.said {
		o.lines++
		o.pending = fmt.Appendf(o.pending, `{"time":%q,"audit":"dropped","lines":%d}`+"\n", time.Now().UTC().Format(time.RFC3339Nano), o.dropped-o.said)
		o.said = o.dropped
	}
	for _, p := range parts {
		o.pending = append(o.pending, p...)
	}
	signal(o.wake)
	return true
}

// report enters how the writing does.
func (o *output) report(r *Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.Dropped, r.Waiting, r.WaitingLines, r.Trouble = o.dropped, len(o.pending)+o.moving, o.lines, o.trouble
	hung := time.Since(o.began)
	if o.began.IsZero() || hung < hangsAfter {
		return
	}
	since := o.began.UTC().Truncate(time.Second)
	r.HangsSince = &since
	r.Trouble = &Error{Hint: hangHint, Fact: fmt.Sprintf("the audit file %s has not answered for %v: %d lines wait, %d were dropped", o.path, hung.Truncate(time.Second), o.lines, o.dropped)}
	if o.path == "" {
		r.Trouble = &Error{Hint: "find out what reads the standard error of kvfs, and has stopped to",
			Fact: fmt.Sprintf("nobody has read the log for %v: %d lines of the audit wait, %d were dropped", hung.Truncate(time.Second), o.lines, o.dropped)}
	}
}

// close lets write end when it has written what there is.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	signal(o.wake)
}

// write writes lines until close; what fails then is lost. It alone opens and closes files.
func (o *output) write() error {
	var lines, spare []byte // taken, and not written yet
	var file *os.File
	path := ""
	retry := time.NewTicker(writeRetry)
	defer retry.Stop()
	for {
		o.mu.Lock()
		if len(lines) == 0 {
			lines, o.pending = o.pending, spare[:0]
			spare = lines
		}
		o.moving = len(lines)
		next, closed := o.next, o.closed
		if o.next = nil; next != nil || len(lines) > 0 {
			o.began = time.Now()
		}
		o.mu.Unlock()
		if next != nil {
			if file != nil && path != next.path {
				file.Close()
				file = nil
			}
			path = next.path
			o.turned(path)
		}
		var err error
		if path != "" && (next != nil || len(lines) > 0) {
			file, err = reopened(file, path)
		}
		if next != nil || err != nil {
			o.came(err, nil, lines)
		}
		if next != nil {
			next.opened(err)
		}
		if err == nil && len(lines) > 0 {
			before := lines
			if path == "" {
				lines, err = writeLines(o.log, lines, false)
			} else {
				lines, err = writeLines(file, lines, true)
			}
			if o.came(err, before[:len(before)-len(lines)], lines); err == nil {
				continue
			}
		}
		if closed {
			return err
		}
		if err != nil {
			select {
			case <-retry.C:
			case <-o.turn:
			}
			continue
		}
		<-o.wake
	}
}

// turned takes down where the writer writes to from now on.
func (o *output) turned(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.path = path
}

// came takes down what the writer has come to.
func (o *output) came(err error, written, left []byte) {
	n := bytes.Count(written, []byte("\n"))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trouble, o.moving, o.began = troubleOf(err), len(left), time.Time{}
	if o.lines -= n; err == nil && len(left) > 0 {
		o.began = time.Now()
	}
}

// reopened is the file that has the path now: somebody may have renamed the one before.
func reopened(file *os.File, path string) (*os.File, error) {
	if file != nil {
		var now, is unix.Stat_t
		err := unix.Lstat(path, &now)
		if err == nil && unix.Fstat(int(file.Fd()), &is) == nil && now.Dev == is.Dev && now.Ino == is.Ino {
			return file, nil
		}
		file.Close()
	}
	return openAudit(path)
}

// writeLines writes a portion of whole lines. What is returned was not written. Of a file of
// our own the beginning of a line is taken back.
func writeLines(f *os.File, lines []byte, own bool) (rest []byte, err error) {
	now := lines
	if len(now) > portion {
		now = now[:portion+bytes.IndexByte(now[portion:], '\n')+1]
	}
	n, err := f.Write(now)
	if err == nil {
		return lines[n:], nil
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if torn := int64(n - whole); own && torn > 0 {
		if end, seekErr := f.Seek(0, unix.SEEK_END); seekErr == nil && f.Truncate(end-torn) == nil {
			n = whole
		}
	}
	return lines[n:], fmt.Errorf("writing %s: %w", f.Name(), err)
}

// openAudit opens or makes the file that lines are appended to. One that somebody else
// could have put there, or could write to, is refused with an *Error.
func openAudit(path string) (*os.File, error) {
	refuse := func(hint, format string, args ...any) (*os.File, error) {
		return nil, &Error{Fact: fmt.Sprintf(format, args...), Hint: hint}
	}
	dir := filepath.Dir(path)
	const own = "name a file in a directory that root alone may change, such as /var/log/kvfs/audit.log"
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err != nil:
		return refuse("make the directory", "the directory of the audit file, %s, cannot be entered: %v", dir, err)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return refuse(own, "the directory of the audit file, %s, belongs to user %d", dir, st.Uid)
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return refuse(own, "the directory of the audit file, %s, is writable by others", dir)
	}
	// A pipe without a reader would be waited for.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return refuse("remove it, or name the file that it leads to", "the audit file %s is a symbolic link", path)
	case errors.Is(err, unix.ENXIO):
		return refuse("name a regular file, or one that is not there yet", "the audit file %s is a pipe or a socket", path)
	case err != nil:
		return refuse("make room or name another file; it is tried again by itself", "the audit file %s cannot be opened: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	fault, hint := "", "remove it, or name another one"
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		fault = "is no regular file"
	case int(st.Uid) != os.Geteuid():
		fault = fmt.Sprintf("belongs to user %d", st.Uid)
	case st.Nlink != 1:
		fault = "has more than one name"
	case st.Mode&0o022 != 0:
		fault, hint = "is writable by others", "chmod 600 "+path
	}
	if fault != "" {
		f.Close()
		return refuse(hint, "the audit file %s %s", path, fault)
	}
	return f, nil
}

// troubleOf is what a person should know of a failure.
func troubleOf(err error) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Error{Fact: err.Error(), Hint: "make room on that file system; lines wait, and are dropped when the buffer is full"}
	}
	return &Error{Fact: err.Error(), Hint: "it is tried again by itself"}
}
