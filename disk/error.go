package disk

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Error is what keeps a directory, or a name in it, from being as it should. Fact and
// Hint are for a person. All functions of this package return it, perhaps joined with others.
type Error struct {
	Path       string
	Fact, Hint string
	Err        error // nil if no system call has failed
}

func (e *Error) Error() string { return e.Fact }

// Unwrap is what the system said.
func (e *Error) Unwrap() error { return e.Err }

// failed makes an Error of what a system call said.
func failed(doing, path string, err error) *Error {
	return &Error{Path: path, Fact: fmt.Sprintf("%s %s: %v", doing, path, err), Hint: remedy(path, err), Err: err}
}

func remedy(path string, err error) string {
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free some space on the file system of " + dir + "; what was written before is still there"
	case errors.Is(err, unix.EROFS):
		return "remount the file system of " + dir + " writable"
	case errors.Is(err, unix.EIO):
		return "the disk has failed to write: look at the kernel's log (dmesg)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "the file system of " + dir + " has no access lists: take another one, or take the acls out of the settings"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "check who owns " + dir + ", and whether it may be changed (lsattr -d)"
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV):
		return "something else is in the place of a directory of kvfs below " + dir + ": remove it"
	}
	return "it is tried again by itself"
}

// mostErrors is how many Apply returns; a full disk has one for each file.
const mostErrors = 10

// troubles collects errors and counts those that are too many.
type troubles struct {
	errs []error
	more int
}

func (t *troubles) add(err error) {
	switch {
	case err == nil:
	case len(t.errs) == mostErrors:
		t.more++
	default:
		t.errs = append(t.errs, err)
	}
}

func (t *troubles) any() bool { return len(t.errs) > 0 }

func (t *troubles) join() error {
	if t.more > 0 {
		return errors.Join(append(t.errs, fmt.Errorf("and %d more like these", t.more))...)
	}
	return errors.Join(t.errs...)
}
