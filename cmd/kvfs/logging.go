package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kvfs/config"
	"kvfs/fs"
	"kvfs/logs"
	"kvfs/status"
)

// logFlags are for every command: processes that kvfs starts get them too.
func (a *app) logFlags(cmd *cobra.Command) {
	cmd.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what happens in detail (never a secret), as --log-level debug")
	cmd.PersistentFlags().StringVar(&a.logLevel, "log-level", "", "log debug, info, warn or error (default info, or what kvfs.log.level says)")
	cmd.PersistentFlags().StringVar(&a.logFormat, "log-format", "", "log as text, json, or auto: fields for the journal where that is stderr (default auto, or what kvfs.log.format says)")
}

var (
	levels  = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	formats = map[string]logs.Format{"auto": logs.Auto, "text": logs.Text, "json": logs.JSON}
)

// checkLogFlags refuses what --log-level and --log-format do not know.
func (a *app) checkLogFlags(cmd *cobra.Command, _ []string) error {
	if _, ok := levels[cmp.Or(a.logLevel, "info")]; !ok {
		return usage(cmd, "--log-level: %q is no level", a.logLevel)
	}
	if _, ok := formats[cmp.Or(a.logFormat, "auto")]; !ok {
		return usage(cmd, "--log-format: %q is no format", a.logFormat)
	}
	return nil
}

// logArgs are these flags for another process.
func (a *app) logArgs() (args []string) {
	if a.verbose {
		args = append(args, "--verbose")
	}
	if a.logLevel != "" {
		args = append(args, "--log-level", a.logLevel)
	}
	if a.logFormat != "" {
		args = append(args, "--log-format", a.logFormat)
	}
	return args
}

// logAs is how to log: what the command line says counts before the settings.
func (a *app) logAs(l config.Log) (logs.Format, slog.Level) {
	level := levels[cmp.Or(a.logLevel, l.Level, "info")]
	if a.verbose {
		level = slog.LevelDebug
	}
	return formats[cmp.Or(a.logFormat, l.Format, "auto")], level
}

// log is that of this process, made when stderr is known.
func (a *app) log() *logs.Logs {
	if a.logs == nil {
		format, level := a.logAs(config.Log{})
		a.logs = logs.New(logs.Options{Stderr: a.stderr, Format: format, Level: level})
	}
	return a.logs
}

func (a *app) logger() *slog.Logger { return a.log().Logger() }

// loggingTo is an app whose log goes to a file, for a process that is no server: it has no other.
func (a *app) loggingTo(file *os.File, l config.Log) *app {
	to := *a
	to.logs, to.stderr = nil, file
	if c := newConsole(file); c != nil {
		to.stderr = c // others write to the same terminal
	}
	to.log().Configure(to.localLog(l))
	return &to
}

// localLog are the settings of a log that is for stderr alone.
func (a *app) localLog(l config.Log) logs.Settings {
	format, level := a.logAs(l)
	return logs.Settings{Format: format, Level: level}
}

// serverLog are those of a server.
func (a *app) serverLog(cfg *config.Config) logs.Settings {
	s := a.localLog(cfg.Log)
	s.File = logs.FileOptions{Path: cfg.Log.File, Size: int64(cfg.Log.FileSizeInMiB) << 20, Files: cfg.Log.Files}
	if network, address, ok := strings.Cut(cfg.Logging.Endpoint, "://"); ok {
		s.Target = logs.Target{Network: network, Address: address, Tag: cfg.Logging.ServiceName}
	}
	return s
}

// checkLogFile refuses a log file in a store: each line would be a question to this process itself.
func checkLogFile(w wanted, served []string) error {
	file := w.cfg.Log.File
	if file == "" {
		return nil
	}
	at := filepath.Join(fs.ResolveOutside(filepath.Dir(file), served), filepath.Base(file))
	for _, store := range union(storesOf(w.certificates()), served) {
		if strings.HasPrefix(at, store+"/") || at == store {
			return fail(exitSettings, "settings", "write it to another directory", "kvfs.log.file: %s lies in the store %s", file, store)
		}
	}
	return nil
}

// logOf is how the settings want to be logged, for a process that needs nothing else of them. What is wrong with them is for
// the server to say.
func (o origin) logOf() config.Log {
	if !o.rereadable() {
		return config.Log{}
	}
	text, err := o.read(nil)
	if err != nil {
		return config.Log{}
	}
	cfg, _ := config.Options{Name: o.file, Store: o.store}.Parse(text)
	if cfg == nil {
		return config.Log{}
	}
	return cfg.Log
}

// say says something that a process logs, and says to people in other words: where stderr is for people, by words, and as a
// record everywhere else.
func (a *app) say(words func(), level slog.Level, message string, args ...any) {
	to := a.log().Logger()
	if a.log().Plain() {
		words()
		to = a.log().Beside()
	}
	to.Log(context.Background(), level, message, args...)
}

// logsStatus says how the sinks of the log do.
func logsStatus(s logs.Stats) *status.Logs {
	var l status.Logs
	if f := s.File; f != nil {
		l.File = &status.LogFile{Path: f.Path, Written: f.Written, Lost: f.Lost}
		if f.Err != nil {
			l.File.Error = &status.Error{Kind: "log-file", Fact: f.Err.Error(), Hint: "see kvfs.log.file in the settings; it is tried again with each line"}
		}
	}
	if c := s.Collector; c != nil {
		l.Collector = &status.LogCollector{Endpoint: c.Endpoint, Tag: c.Tag, Sent: c.Sent, Dropped: c.Dropped, Waiting: c.Waiting,
			Acknowledges: !c.Unacknowledged, LastErrorAt: status.Time(c.LastAt)}
		if c.LastErr != nil {
			l.Collector.LastError = c.LastErr.Error()
		}
		if c.Err != nil {
			l.Collector.Error = &status.Error{Kind: "collector", Fact: c.Err.Error(), Hint: c.Hint}
		}
	}
	if l == (status.Logs{}) {
		return nil
	}
	return &l
}
