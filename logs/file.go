package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// FileOptions name a log file. The zero value is none.
type FileOptions struct {
	// Path is absolute. Its directory is made if it is not there.
	Path string
	// Size is how many bytes a file may have; one that would have more is renamed to Path.1, that one to Path.2, and so on.
	Size int64
	// Files is how many there are at most, Path included.
	Files int
}

// FileStats say how a log file does.
type FileStats struct {
	Path    string
	Written uint64 // lines, by this process
	Lost    uint64 // that could not be written
	Err     error  // of the last line, nil if it was written
}

// file is a log file. A line is one write, so that those of several processes do not mix. Before each one it looks whether
// the file is still at its path: it may have been moved away by whoever rotates logs on this machine.
type file struct {
	trouble func(record) // is told what is wrong with the file

	mu            sync.Mutex
	o             FileOptions
	json          bool
	open          *os.File
	written, lost uint64
	err           error
}

// set changes what is written to.
func (f *file) set(o FileOptions, json bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Path != f.o.Path {
		f.close()
		f.written, f.lost, f.err = 0, 0, nil
	}
	f.o, f.json = o, json
}

func (f *file) stats() *FileStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.o.Path == "" {
		return nil
	}
	return &FileStats{Path: f.o.Path, Written: f.written, Lost: f.lost, Err: f.err}
}

// write appends a line, and says so when that begins to fail and when it works again.
func (f *file) write(r record) {
	if say := f.attempt(r); say != nil {
		f.trouble(*say)
	}
}

func (f *file) attempt(r record) (say *record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.o.Path == "" {
		return nil
	}
	before := f.err
	if f.err = f.append(f.line(r)); f.err == nil {
		f.written++
	} else {
		f.lost++
	}
	switch {
	case f.err != nil && before == nil:
		n := note(slog.LevelWarn, "the log file cannot be written", "file", f.o.Path, "err", f.err,
			"hint", "see kvfs.log.file in the settings; it is tried again with each line")
		return &n
	case f.err == nil && before != nil:
		n := note(slog.LevelInfo, "the log file is written again", "file", f.o.Path, "lost", f.lost)
		return &n
	}
	return nil
}

func (f *file) line(r record) []byte {
	var b bytes.Buffer
	o := &slog.HandlerOptions{Level: slog.Level(-100)}
	var h slog.Handler = slog.NewTextHandler(&b, o)
	if f.json {
		h = slog.NewJSONHandler(&b, o)
	}
	_ = h.Handle(context.Background(), r.slog()) // a buffer takes everything
	return b.Bytes()
}

func (f *file) append(line []byte) error {
	size, err := f.ready()
	if err == nil && size > 0 && size+int64(len(line)) > f.o.Size {
		err = f.rotate()
	}
	if err != nil {
		f.close()
		return err
	}
	if _, err := f.open.Write(line); err != nil {
		f.close()
		return fmt.Errorf("writing the log file: %w", err)
	}
	return nil
}

// ready opens the file unless the one at its path is open, and returns its size.
func (f *file) ready() (size int64, err error) {
	if f.open != nil {
		is, err := f.open.Stat()
		at, atErr := os.Lstat(f.o.Path)
		if err == nil && atErr == nil && os.SameFile(is, at) {
			return is.Size(), nil
		}
		f.close()
	}
	if f.open, err = openLog(f.o.Path); err != nil {
		return 0, err
	}
	is, err := f.open.Stat()
	if err != nil {
		return 0, fmt.Errorf("looking at the log file: %w", err)
	}
	return is.Size(), nil
}

// rotate renames the files, the oldest first, which goes, and opens a new one.
func (f *file) rotate() (err error) {
	f.close()
	name := func(n int) string {
		if n == 0 {
			return f.o.Path
		}
		return fmt.Sprintf("%s.%d", f.o.Path, n)
	}
	if f.o.Files == 1 {
		err = os.Remove(f.o.Path)
	}
	for n := f.o.Files - 2; n >= 0; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotating the log file: %w", err)
		}
	}
	for n := max(f.o.Files, 1); err == nil; n++ { // there may have been more, by former settings
		if os.Remove(name(n)) != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("rotating the log file: %w", err)
	}
	f.open, err = openLog(f.o.Path)
	return err
}

func (f *file) close() {
	if f.open != nil {
		_ = f.open.Close() // nothing is buffered
		f.open = nil
	}
}

// openLog opens a file for appending, readable for its owner alone if it is made here. It refuses what somebody else may have
// put there to have another file written to: links, files of others, and directories that others can write.
func openLog(path string) (*os.File, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the log file: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", dir, err)
	}
	if !trusted(st.Uid) || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return nil, fmt.Errorf("%s, the directory of the log file, is writable by others", dir)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%s, the log file, is a symbolic link, which is not followed", path)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s, the log file, is no regular file", path)
	case err != nil:
		return nil, fmt.Errorf("opening the log file: %w", err)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = fmt.Errorf("%s, the log file, is no regular file", path)
	case !trusted(st.Uid):
		err = fmt.Errorf("%s, the log file, belongs to user %d", path, st.Uid)
	case st.Nlink > 1:
		err = fmt.Errorf("%s, the log file, has another name somewhere, as a trap would", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// trusted tells whether a file of this user is as good as one of our own.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
