package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// File is what there is to say of a file when it is opened.
type File struct {
	Inode       uint64 `json:"inode"`
	Path        string `json:"path"`
	Certificate string `json:"certificate,omitempty"`
	Version     string `json:"version,omitempty"`
	Key         bool   `json:"key,omitempty"` // it holds a private key
}

// Options say what is written, and where to.
type Options struct {
	// File that lines are appended to; "" writes them to the log.
	File string `json:"file,omitempty"`
	// All counts every file, not only those with a key.
	All bool `json:"all,omitempty"`
}

// Report is how an auditor is doing. Numbers count from Since.
type Report struct {
	Process int       `json:"process"`
	Since   time.Time `json:"since"`
	Opens   uint64    `json:"opens"` // that were to be written
	// Users are these opens by the number of the user; beyond maxUsers of them "other", and
	// "unknown" where the process had ended.
	Users        map[string]uint64 `json:"users,omitempty"`
	Dropped      uint64            `json:"dropped"` // of these, for want of room in the buffer
	Waiting      int               `json:"waiting"` // bytes of lines that are not written yet
	WaitingLines int               `json:"waitingLines"`
	Overflow     uint64            `json:"overflow"` // times that the kernel's queue was full; how much was lost nobody knows
	Gone         uint64            `json:"gone"`     // opens of processes of which the number alone is known
	Lost         uint64            `json:"lost"`     // events that could not be read
	// Forgotten is how often there was no room to remember what a process has read.
	Forgotten uint64 `json:"forgotten"`
	// Priority of the thread that reads events: "realtime", "high", or "" if it is like
	// any other.
	Priority string `json:"priority"`
	// Exits tells whether the kernel's record of ended processes is to be had.
	Exits bool `json:"exits"`
	// HangsSince is since when a write waits for a disk or a reader; nil: none does for long.
	HangsSince *time.Time `json:"hangsSince,omitempty"`
	// Trouble is why lines cannot be written at the moment.
	Trouble *Error `json:"trouble,omitempty"`
}

// Error is something that a person should know.
type Error struct {
	Fact string `json:"fact"`
	Hint string `json:"hint"`
}

func (e *Error) Error() string { return e.Fact }

// Process is one that has opened a file.
type Process struct {
	UID        uint32     `json:"uid"`
	GID        uint32     `json:"gid"`
	PID        int32      `json:"pid"`
	Started    *time.Time `json:"started,omitempty"`
	Executable string     `json:"executable,omitempty"`
	Command    string     `json:"command,omitempty"`
	Unit       string     `json:"unit,omitempty"`      // of systemd
	Container  string     `json:"container,omitempty"` // id
	Cgroup     string     `json:"cgroup,omitempty"`
	// Gone: it had ended before it was looked at. What is not there is not known.
	Gone bool `json:"gone,omitempty"`
}

// Reader is a running process that has opened a key of a certificate.
type Reader struct {
	Process
	Certificate string    `json:"certificate"`
	Versions    []string  `json:"versions"` // in the order in which it has opened them first
	At          time.Time `json:"at"`       // of the last open
	Open        []string  `json:"open,omitempty"`
}

// What is asked at the door.
const (
	askBegin     = "begin"     // with the directory, and the group if there is one; answered with the group
	askConfigure = "configure" // with Options
	askFiles     = "files"     // with a tally; not answered
	askReport    = "report"
	askReaders   = "readers" // of Certificate; answered with a text
)

// message goes through the door, either way: a packet each, so that one that is killed
// in the middle leaves nothing behind.
type message struct {
	ID          uint64   `json:"id,omitempty"` // of the question
	Ask         string   `json:"ask,omitempty"`
	Options     *Options `json:"options,omitempty"`
	Certificate string   `json:"certificate,omitempty"`
	Report      *Report  `json:"report,omitempty"`
	Error       *Error   `json:"error,omitempty"`
}

// tally is a change of what the files are. It goes beside a message, in a memory file.
type tally struct {
	Reset bool     `json:"reset,omitempty"` // there are no others
	Files []File   `json:"files,omitempty"`
	Gone  []uint64 `json:"gone,omitempty"`
}

// maxMessage is more than a message has: what is long goes beside it.
const maxMessage = 16 << 10

// maxBeside bounds what is read from a memory file.
const maxBeside = 256 << 20

// beside puts something into a memory file.
func beside(v any) (*os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("kvfs-audit", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "beside")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readBeside reads it, and closes the file.
func readBeside(fd int, into any) error {
	f := os.NewFile(uintptr(fd), "beside")
	defer f.Close()
	return json.NewDecoder(io.NewSectionReader(f, 0, maxBeside)).Decode(into)
}

// members are the members of a JSON object, without the braces.
func members(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times of this century cannot fail
	}
	return bytes.TrimSuffix(bytes.TrimPrefix(b, []byte("{")), []byte("}"))
}

// descriptors that came with a packet, close-on-exec.
func descriptors(control []byte) (fds []int, err error) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
