package logs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// record is one record of the log. Its attributes are plain: those of groups have the names of all around them before their
// own, with dots, and values are strings, whole numbers, fractions or booleans.
type record struct {
	time    time.Time
	level   slog.Level
	message string
	attrs   []slog.Attr
	sinks   sinks // that it is for, while it waits for settings
}

// sinks are a set of places that a record goes to.
type sinks int

const (
	toStderr sinks = 1 << iota
	toFile
	toCollector
	toAll = toStderr | toFile | toCollector
)

// note is a record of this package's own.
func note(level slog.Level, message string, args ...any) record {
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.Add(args...)
	return plainRecord(r, nil, "")
}

func plainRecord(r slog.Record, attrs []slog.Attr, prefix string) record {
	plain := record{time: r.Time, level: r.Level, message: text(r.Message).String(), attrs: slices.Clip(attrs)}
	r.Attrs(func(a slog.Attr) bool {
		plain.attrs = flatten(plain.attrs, prefix, a)
		return true
	})
	return plain
}

func (r record) slog() slog.Record {
	s := slog.NewRecord(r.time, r.level, r.message, 0)
	s.AddAttrs(r.attrs...)
	return s
}

// handler turns what is logged into plain records.
type handler struct {
	logs   *Logs
	sinks  sinks
	prefix string // of groups that were opened
	attrs  []slog.Attr
}

var _ slog.Handler = (*handler)(nil)

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.logs.level.Level()
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	h.logs.handle(plainRecord(r, h.attrs, h.prefix), h.sinks)
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		with.attrs = flatten(with.attrs, h.prefix, a)
	}
	return &with
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.prefix = h.prefix + name + "."
	return &with
}

// flatten appends an attribute, or those that are in it.
func flatten(attrs []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		if a.Key == "" && v.Equal(slog.Value{}) {
			return attrs
		}
		return append(attrs, slog.Attr{Key: prefix + a.Key, Value: plain(v)})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, inner := range v.Group() {
		attrs = flatten(attrs, prefix, inner)
	}
	return attrs
}

// maxValue keeps a value that comes from elsewhere, such as the answer of a vault, from filling the log.
const maxValue = 16 << 10

// plain is a value that every sink can show, in the same form.
func plain(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindBool:
		return v
	case slog.KindDuration:
		return slog.StringValue(v.Duration().String())
	case slog.KindTime:
		return slog.StringValue(v.Time().Format(time.RFC3339Nano))
	case slog.KindString:
		return text(v.String())
	}
	if b, ok := v.Any().([]byte); ok { // of which nobody knows what they are
		return slog.StringValue(fmt.Sprintf("%d bytes", len(b)))
	}
	return text(fmt.Sprint(v.Any())) // also for errors: a nil in one must not end the process
}

// text is valid and not too long.
func text(s string) slog.Value {
	if len(s) > maxValue {
		s = s[:maxValue] + "..."
	}
	return slog.StringValue(strings.ToValidUTF8(s, "\uFFFD"))
}
