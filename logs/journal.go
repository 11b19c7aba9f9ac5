package logs

import (
	"bytes"
	"context"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler sends records to the journal in its own form: the attributes are fields, KVFS_URL and so on, by which
// journalctl can be asked. The message has them too, for those who read it.
type journalHandler struct {
	fallback slog.Handler // for a journal that cannot be reached
}

var _ slog.Handler = journalHandler{}

func (h journalHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	fields := map[string]string{"SYSLOG_IDENTIFIER": "kvfs"}
	r.Attrs(func(a slog.Attr) bool {
		fields[journalField(a.Key)] = a.Value.String()
		return true
	})
	if err := journal.Send(sentence(ctx, r), priority(r.Level), fields); err != nil {
		return h.fallback.Handle(ctx, r)
	}
	return nil
}

// WithAttrs and WithGroup are not called: records come with all of their attributes.
func (h journalHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h journalHandler) WithGroup(string) slog.Handler      { return h }

// sentence is the message with its attributes, as in a line of text.
func sentence(ctx context.Context, r slog.Record) string {
	var b bytes.Buffer
	attrsOnly := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}
	h := slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.Level(-100), ReplaceAttr: attrsOnly})
	_ = h.Handle(ctx, r) // a buffer takes everything
	return strings.TrimSpace(r.Message + " " + b.String())
}

// journalField is the name of a field of ours in the journal, which knows capitals, digits and underscores.
func journalField(key string) string {
	const most = 64 // bytes of a name
	clean := func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		}
		return '_'
	}
	name := "KVFS_" + strings.Map(clean, key)
	return name[:min(len(name), most)]
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
