package logs

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/journal"
)

// Format of what goes to standard error and to the file.
type Format string

// Formats. Auto is fields for the journal where standard error is the journal, and text otherwise, as for a file.
const (
	Auto Format = "auto"
	Text Format = "text" // key=value, for people
	JSON Format = "json" // one object per line
)

// Options of a Logs.
type Options struct {
	// Stderr is where text and JSON lines go.
	Stderr io.Writer
	// Format and Level until the settings are known. The zero Format is Auto, the zero Level Info.
	Format Format
	Level  slog.Level
	// Bounds of the way to the collector, for tests. Zero are the defaults.
	Bounds Bounds
}

// Settings are what may change while a Logs is in use. The zero value sends nothing but to standard error.
type Settings struct {
	Format Format // "" is Auto
	Level  slog.Level
	File   FileOptions
	Target Target
}

// early is how many records are kept for sinks that are not known yet.
const early = 256

// Logs sends records to its sinks. Its methods may be called from any goroutine.
type Logs struct {
	stderr    io.Writer
	isJournal bool
	level     slog.LevelVar
	local     atomic.Pointer[local]
	file      *file
	forwarder *forwarder

	// What follows is until Configure is called the first time.
	mu      sync.Mutex
	waiting []record
	missed  map[slog.Level]int // records that there was no room for
	settled atomic.Bool
}

// local is how standard error is written to.
type local struct {
	handler slog.Handler
	format  Format
	plain   bool // for people: text, not in the journal's own form
}

// New returns a Logs that writes to standard error, and keeps what else it gets until Configure is called.
func New(o Options) *Logs {
	l := &Logs{stderr: o.Stderr}
	if f, ok := o.Stderr.(*os.File); ok && f.Fd() == uintptr(2) {
		l.isJournal, _ = journal.StderrIsJournalStream() // who cannot tell writes text, which always arrives
	}
	l.level.Set(o.Level)
	l.write(o.Format)
	l.file = &file{trouble: func(r record) { l.handle(r, toStderr|toCollector) }}
	l.forwarder = newForwarder(o.Bounds, func(r record) { l.handle(r, toStderr|toFile) })
	return l
}

// write makes f the format of standard error.
func (l *Logs) write(f Format) {
	all := &slog.HandlerOptions{Level: slog.Level(-100)} // what is written was decided before
	now := &local{format: f}
	switch {
	case f == JSON:
		now.handler = slog.NewJSONHandler(l.stderr, all)
	case f != Text && l.isJournal:
		now.handler = journalHandler{slog.NewTextHandler(l.stderr, all)}
	default:
		now.handler, now.plain = slog.NewTextHandler(l.stderr, all), true
	}
	l.local.Store(now)
}

// Logger logs to all sinks.
func (l *Logs) Logger() *slog.Logger { return slog.New(&handler{logs: l, sinks: toAll}) }

// Beside logs to the file and the collector alone: what standard error has been told in other words.
func (l *Logs) Beside() *slog.Logger {
	return slog.New(&handler{logs: l, sinks: toFile | toCollector})
}

// Plain tells whether standard error is text for people, between whose lines others may stand.
func (l *Logs) Plain() bool { return l.local.Load().plain }

// Show changes what goes to standard error, before the rest of the settings is known.
func (l *Logs) Show(f Format, level slog.Level) {
	l.level.Set(level)
	if f != l.local.Load().format {
		l.write(f)
	}
}

// Configure makes s the settings from now on. What a collector has not taken yet goes to the new one, and is dropped if
// there is none.
func (l *Logs) Configure(s Settings) {
	l.mu.Lock()
	l.Show(s.Format, s.Level)
	l.file.set(s.File, s.Format == JSON)
	l.forwarder.aim(s.Target)
	waiting, missed := l.waiting, 0
	for level, n := range l.missed {
		if level >= s.Level {
			missed += n
		}
	}
	l.waiting, l.missed = nil, nil
	l.settled.Store(true)
	l.mu.Unlock()
	for _, r := range waiting {
		if r.level >= s.Level {
			l.deliver(r, r.sinks)
		}
	}
	if missed > 0 {
		l.deliver(note(slog.LevelWarn, "log records were dropped: there were too many before the settings were known", "dropped", missed), toFile|toCollector)
	}
}

// Run feeds the collector until ctx ends, and then for a moment more, if something is left to say. It does nothing as long
// as the settings name no collector. It must be called at most once.
func (l *Logs) Run(ctx context.Context) { l.forwarder.run(ctx) }

// Stats of the sinks that the settings name.
type Stats struct {
	File      *FileStats
	Collector *CollectorStats
}

// Stats says how the sinks do. Those that the settings do not name are nil.
func (l *Logs) Stats() Stats { return Stats{File: l.file.stats(), Collector: l.forwarder.stats()} }

// handle gives a record to sinks.
func (l *Logs) handle(r record, to sinks) {
	if to&toStderr != 0 && r.level >= l.level.Level() {
		_ = l.local.Load().handler.Handle(context.Background(), r.slog()) // there is nobody left to tell
	}
	if !l.settled.Load() {
		l.mu.Lock()
		if !l.settled.Load() {
			if r.sinks = to; len(l.waiting) < early {
				l.waiting = append(l.waiting, r)
			} else {
				if l.missed == nil {
					l.missed = map[slog.Level]int{}
				}
				l.missed[r.level]++
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
	l.deliver(r, to)
}

// deliver gives a record to the sinks that need settings.
func (l *Logs) deliver(r record, to sinks) {
	if to&toFile != 0 {
		l.file.write(r)
	}
	if to&toCollector != 0 {
		l.forwarder.put(r)
	}
}
