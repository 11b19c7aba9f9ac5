// Package status is what a running kvfs tells about itself: the report, the control
// socket through which the commands ask for it and for a poll, and metrics and probes.
//
// The socket speaks HTTP, so that curl --unix-socket can read it. It is a file of mode
// 0600: who may connect is decided by the file system, and root always may. Nothing
// secret passes through it: no key, no token, no content of a file.
//
// An [Endpoint] answers metrics and probes alone, for those who may not use the socket.
// Metrics are made of a report when somebody asks for them, by a [Collector]: what is to
// be told of a new subject goes into the [Report], and into a section of its own there.
//
// # Limitations
//
// One socket is one kvfs. Two on one machine need two sockets. An Endpoint asks nobody who
// he is.
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
	Hooks        []Hook        `json:"hooks,omitempty"` // what is done after renewals and on alerts
	InitialSync  InitialSync   `json:"initialSync"`
	Loading      *Loading      `json:"loading,omitempty"` // while it lasts
	Vaults       []Vault       `json:"vaults"`
	Held         Held          `json:"held"`
	Cache        Cache         `json:"cache"`
	Image        Image         `json:"image"`
	Polls        Polls         `json:"polls"`
	Restarts     Restarts      `json:"restarts"`
	Stalls       Stalls        `json:"stalls"`
	Metrics      *Metrics      `json:"metrics,omitempty"` // where they are answered, if the settings name a place
	Logs         *Logs         `json:"logs,omitempty"`    // where the log goes besides stderr
	Audit        *Audit        `json:"audit,omitempty"`   // if the settings ask for it
	Error        *Error        `json:"error,omitempty"`   // of kvfs as a whole
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
	NotBefore   *time.Time `json:"notBefore,omitempty"`
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

// Hook is something that is done after renewals, for all certificates whose settings ask for it, or a command that is told
// of alerts.
type Hook struct {
	// On is OnAlert for one that is told of alerts, "" for one after renewals.
	On     string `json:"on,omitempty"`
	Action string `json:"action"` // in words
	// State is "idle", "waiting" (for NextTry), "running", or "failing".
	State       string     `json:"state"`
	Pending     []string   `json:"pending,omitempty"` // certificates for which it is to be done, or of which it is to be told
	LastRun     *time.Time `json:"lastRun,omitempty"` // the end of the last try
	LastSuccess *time.Time `json:"lastSuccess,omitempty"`
	Runs        int        `json:"runs"`               // that have succeeded
	Failures    int        `json:"failures,omitempty"` // since the last success
	NextTry     *time.Time `json:"nextTry,omitempty"`
	Note        string     `json:"note,omitempty"` // why there was nothing to do the last time
	Error       *Error     `json:"error,omitempty"`
}

// OnAlert is where a Hook is of those that are told what expires and what cannot be read.
const OnAlert = "alert"

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

// Polls counts what the process that serves has done since its start.
type Polls struct {
	Tries        uint64 `json:"tries"` // of certificates: reads, and looks at a listing
	Failed       uint64 `json:"failed"`
	Publications uint64 `json:"publications"`
	Unpublished  uint64 `json:"unpublished"` // publications that have failed
	Renewals     uint64 `json:"renewals"`    // new versions of certificates that readers had before
}

// Restarts counts the processes that have gone on where the one before had ended, since
// the start of kvfs.
type Restarts struct {
	Parked uint64 `json:"parked"` // it was told to end
	Died   uint64 `json:"died"`
}

// Stalls are what those have waited for at most who asked the process that serves, in
// seconds.
type Stalls struct {
	Request  float64 `json:"request"`  // longest request of the kernel
	Takeover float64 `json:"takeover"` // from its start until it answered in place of the one before; 0: there was none
}

// Metrics is where metrics and probes are answered.
type Metrics struct {
	Listen string `json:"listen"`
	Error  *Error `json:"error,omitempty"` // why they are not; it is tried again
}

// Logs says how the log does in the places that the settings name.
type Logs struct {
	File      *LogFile      `json:"file,omitempty"`
	Collector *LogCollector `json:"collector,omitempty"`
}

// LogFile is the file of kvfs.log.
type LogFile struct {
	Path    string `json:"path"`
	Written uint64 `json:"written"` // lines, since this process has begun
	Lost    uint64 `json:"lost"`
	Error   *Error `json:"error,omitempty"` // of the last line
}

// LogCollector is that of loggingSettings. Records are counted since this process has begun.
type LogCollector struct {
	Endpoint string `json:"endpoint"`
	Tag      string `json:"tag"`
	Sent     uint64 `json:"sent"`
	Dropped  uint64 `json:"dropped"`
	Waiting  int    `json:"waiting"`
	// Acknowledges is false where it has taken records and acknowledged none.
	Acknowledges bool `json:"acknowledges"`
	// Error is why records cannot be sent, nil if they can. LastError stays.
	Error       *Error     `json:"error,omitempty"`
	LastError   string     `json:"lastError,omitempty"`
	LastErrorAt *time.Time `json:"lastErrorAt,omitempty"`
}

// Time is a pointer to t, nil if t is zero.
func Time(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
