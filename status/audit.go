package status

import "time"

// Audit is how the writing down of opens is doing. Numbers count from Since, the start of
// the auditor.
type Audit struct {
	To       string     `json:"to"` // a file, or "log"
	AllFiles bool       `json:"allFiles,omitempty"`
	Process  int        `json:"process"`
	Since    *time.Time `json:"since,omitempty"`
	Opens    uint64     `json:"opens"`
	// Users are the opens by the number of the user, "other" and "unknown".
	Users map[string]uint64 `json:"users,omitempty"`
	// Dropped are those of the opens that are not written, for want of room in the buffer:
	// the file or the pipe was too slow, or full. Waiting is how many bytes are in there, in
	// WaitingLines.
	Dropped      uint64 `json:"dropped"`
	Waiting      int    `json:"waiting"`
	WaitingLines int    `json:"waitingLines"`
	// HangsSince is since when a write waits for a disk that does not answer, or for somebody
	// who does not read.
	HangsSince *time.Time `json:"hangsSince,omitempty"`
	// Overflow is how many times the kernel's queue was full. How many opens each time has
	// cost nobody knows.
	Overflow uint64 `json:"overflow"`
	// Gone are opens by processes that had ended, of which the number alone is known.
	Gone uint64 `json:"gone"`
	Lost uint64 `json:"lost"` // events that could not be read
	// Forgotten counts what had no room in the memory of who has read what.
	Forgotten uint64 `json:"forgotten"`
	// Priority of the thread that looks who it was: "realtime", "high", or "".
	Priority string `json:"priority"`
	// Exits tells whether the kernel says who had just ended.
	Exits bool   `json:"exits"`
	Error *Error `json:"error,omitempty"`
}

// Readers are who has read which certificates.
type Readers struct {
	// Since is when the auditor began: who has read before and not since is not known.
	Since        time.Time            `json:"since,omitzero"`
	Certificates []CertificateReaders `json:"certificates"`
	Error        *Error               `json:"error,omitempty"`
}

// CertificateReaders are the running processes that have read a key of a certificate,
// those first that have not read its version yet.
type CertificateReaders struct {
	URL     string   `json:"url"`
	Version string   `json:"version,omitempty"` // that is served
	Readers []Reader `json:"readers"`
}

// Reader is one process.
type Reader struct {
	PID        int        `json:"pid"`
	Started    *time.Time `json:"started,omitempty"`
	UID        uint32     `json:"uid"`
	GID        uint32     `json:"gid"`
	Executable string     `json:"executable,omitempty"`
	Command    string     `json:"command,omitempty"`
	Unit       string     `json:"unit,omitempty"`
	Container  string     `json:"container,omitempty"`
	// Versions that it has opened, the last 8, and At when it has opened the last file.
	Versions []string  `json:"versions"`
	At       time.Time `json:"at"`
	// Open are versions that it has open at this moment.
	Open []string `json:"open,omitempty"`
	// Current tells whether the version that is served is among those that it has opened.
	Current bool `json:"current"`
}
