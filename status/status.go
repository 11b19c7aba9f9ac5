// Package status is what a running kvfs tells about itself: the report, and the
// control socket through which the commands ask for it and for a poll.
//
// The socket speaks HTTP, so that health checks and metrics can be added to it
// and curl --unix-socket can read it. It is a file of mode 0600: who may connect
// is decided by the file system, and root always may. Nothing secret passes
// through it: no key, no token, no content of a file.
//
// # Limitations
//
// One socket is one kvfs. Two on one machine need two sockets.
package status

import "time"

// Report is the answer to `kvfs status --json`. Absent process ids are 0, times
// that have not come are absent.
type Report struct {
	State        State         `json:"state"`
	Version      string        `json:"kvfs"`
	Started      time.Time     `json:"started"`
	Settings     string        `json:"settings,omitempty"` // file, if there is one
	Unit         string        `json:"unit,omitempty"`     // of systemd, if it is one that systemd keeps running
	Processes    Processes     `json:"processes"`
	Mounts       []string      `json:"mounts"`
	Directories  []Directory   `json:"directories,omitempty"` // that have real files
	Certificates []Certificate `json:"certificates"`
	Leaving      []Leaving     `json:"leaving,omitempty"`
	InitialSync  InitialSync   `json:"initialSync"`
	Loading      *Loading      `json:"loading,omitempty"` // while it lasts
	Vaults       []Vault       `json:"vaults"`
	Held         Held          `json:"held"`
	Cache        Cache         `json:"cache"`
	Image        Image         `json:"image"`
	Audit        *Audit        `json:"audit,omitempty"` // if the settings ask for it
	Error        *Error        `json:"error,omitempty"` // of kvfs as a whole
	// Requests of the kernel by kind, since the mount was made, and those that made
	// the file system panic and were answered EIO: always 0, or a fault of kvfs.
	Requests map[string]uint64 `json:"requests"`
	Panics   uint64            `json:"panics"`
}

// State of the whole.
type State string

const (
	// Some certificate has not been tried yet, the stores are not visible yet, or the
	// initial sync that the settings require is not over.
	Starting State = "starting"
	Ready    State = "ready"    // every certificate is up to date
	Degraded State = "degraded" // something fails; what was good is served
)

// Processes that belong to a running kvfs.
type Processes struct {
	Keeper    int `json:"keeper"`
	Server    int `json:"server"`
	Publisher int `json:"publisher"`
}

// Directory is one with the files of a store, beneath its mount or instead of one.
type Directory struct {
	Path  string `json:"path"`
	Files string `json:"files"` // beneath or instead
	// Error is why it is not as it should be; nil if it is. It is tried again.
	Error *Error `json:"error,omitempty"`
}

// Certificate is the state of one certificate.
type Certificate struct {
	URL         string     `json:"url"`
	State       string     `json:"state"`
	Version     string     `json:"version,omitempty"`
	NotAfter    *time.Time `json:"notAfter,omitempty"`
	LastAttempt *time.Time `json:"lastAttempt,omitempty"`
	LastSuccess *time.Time `json:"lastSuccess,omitempty"`
	NextPoll    *time.Time `json:"nextPoll,omitempty"`
	Failures    int        `json:"failures,omitempty"` // since the last success
	Identity    string     `json:"identity"`
	Links       []string   `json:"links"`
	Warnings    []string   `json:"warnings,omitempty"`
	LeftOut     int        `json:"leftOut,omitempty"` // older versions that are in the vault and cannot be read
	Error       *Error     `json:"error,omitempty"`
	// RemovedAt is when the last names of a certificate go that the settings have
	// no more; its state is "removed".
	RemovedAt *time.Time `json:"removedAt,omitempty"`
}

// Leaving are links that the settings have no more and that are there for a while.
type Leaving struct {
	URL   string    `json:"url"`
	Links []string  `json:"links"`
	At    time.Time `json:"at"` // when they go
}

// InitialSync is how far the certificates have come that all were to be there once. What
// is served does not depend on it.
type InitialSync struct {
	// Required is what the settings say; if it is false the state is "success" from the
	// start.
	Required bool `json:"required"`
	// State is "transitioning", "success" or "error", which may become "success" still.
	State     string `json:"state"`
	Available int    `json:"available"`
	Total     int    `json:"total"`
	// Try is how many tries have failed of the certificate that lacks and failed most
	// often, Of after how many the state is "error"; both 0 if it is not required.
	Try  int        `json:"try"`
	Of   int        `json:"of"`
	Next *time.Time `json:"next,omitempty"` // try; absent if nothing lacks
}

// States of an initial sync.
const (
	SyncTransitioning = "transitioning"
	SyncSuccess       = "success"
	SyncFailed        = "error"
)

// Loading is how far the first round through the certificates has come.
type Loading struct {
	Done   int       `json:"done"`
	Total  int       `json:"total"`
	Failed int       `json:"failed"` // of those that are done, and nothing is there of
	Since  time.Time `json:"since"`
}

// Error in words for a person and a kind for a program.
type Error struct {
	Kind string `json:"kind"`
	Fact string `json:"fact"`
	Hint string `json:"hint,omitempty"`
}

// Vault is what was asked of one host, and how it answers.
type Vault struct {
	Host         string `json:"host"`
	Transactions uint64 `json:"transactions"`
	Throttled    uint64 `json:"throttled"`
	Failed       uint64 `json:"failed"`
	// Listing says how renewals are found: "used", "unused", "refused" (the permission to
	// list is lacking) or "large"; Pages is how many requests a listing takes.
	Listing string `json:"listing"`
	Pages   int    `json:"pages,omitempty"`
	// DownSince is set while it does not answer, or the identity is refused; then it is
	// asked by one try at a time, next at NextTry.
	DownSince *time.Time `json:"downSince,omitempty"`
	NextTry   *time.Time `json:"nextTry,omitempty"`
	Error     *Error     `json:"error,omitempty"`
}

// Held is what is always in memory: the current version of each certificate, and
// those that are newer.
type Held struct {
	Versions int `json:"versions"`
	Bytes    int `json:"bytes"`
}

// Image is what is kept for the server that comes after this one.
type Image struct {
	Records int `json:"records"`
	Bytes   int `json:"bytes"`
	Size    int `json:"size"` // bytes of memory that it may take up
	// Secret is set where no other process can read that memory and it is never swapped.
	Secret bool `json:"secret"`
}

// Cache is what is in memory of older versions, and what became of reads of them. Who
// finds a version there hits; who misses it has it fetched.
type Cache struct {
	Versions  int    `json:"versions"`
	Bytes     int64  `json:"bytes"`
	Limit     int64  `json:"limit"` // of bytes; 0: none is kept
	Hits      uint64 `json:"hits"`
	Misses    uint64 `json:"misses"`
	Evictions uint64 `json:"evictions"` // for want of room
	Failures  uint64 `json:"failures"`  // to fetch one again
}

// Time is a pointer to t, nil if t is zero.
func Time(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
