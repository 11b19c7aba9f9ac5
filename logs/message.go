package logs

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// The messages of the Fluentd Forward Protocol, version 1, as far as a client without a shared key needs them: events go out
// in its mode Forward, [tag, [[time, record], ...], option], and the answers are acknowledgements.

// encoder makes events of records.
type encoder struct {
	hostname string
	pid      int
	seq      uint64
}

func newEncoder() *encoder {
	name, _ := os.Hostname()
	return &encoder{hostname: name, pid: os.Getpid()}
}

// event is [time, record]. The fields of the record: message, level, certificate (a URL without a version), version, error,
// pid, hostname and seq, which counts the events of this process, and what else is logged under its own name.
func (e *encoder) event(r record) []byte {
	e.seq++
	fields := []slog.Attr{slog.String("message", r.message), slog.String("level", r.level.String())}
	for _, a := range r.attrs {
		fields = appendField(fields, a)
	}
	for _, a := range []slog.Attr{slog.Int("pid", e.pid), slog.String("hostname", e.hostname), slog.Uint64("seq", e.seq)} {
		fields = set(fields, a)
	}
	b := msgp.AppendArrayHeader(nil, 2)
	b = appendTime(b, r.time)
	b = msgp.AppendMapHeader(b, uint32(len(fields)))
	for _, f := range fields {
		b = msgp.AppendString(b, f.Key)
		b = appendValue(b, f.Value)
	}
	return b
}

// appendField adds an attribute under the name that it has in a record.
func appendField(fields []slog.Attr, a slog.Attr) []slog.Attr {
	switch a.Key {
	case "message", "level", "pid", "hostname", "seq":
		a.Key = "attr." + a.Key // those are the record's own
	case "err":
		a.Key = "error"
	case "url":
		certificate, version := splitVersion(a.Value.String())
		if fields = set(fields, slog.String("certificate", certificate)); version == "" {
			return fields
		}
		a = slog.String("version", version)
	}
	return set(fields, a)
}

// set adds a field, or replaces the one of that name: a map has each once.
func set(fields []slog.Attr, a slog.Attr) []slog.Attr {
	if i := slices.IndexFunc(fields, func(f slog.Attr) bool { return f.Key == a.Key }); i >= 0 {
		fields[i] = a
		return fields
	}
	return append(fields, a)
}

// splitVersion takes the version off the URL of a secret, if it has one.
func splitVersion(url string) (without, version string) {
	const slashes = 5 // https://HOST/secrets/NAME/VERSION
	parts := strings.SplitN(url, "/", slashes+1)
	if len(parts) <= slashes {
		return url, ""
	}
	return strings.Join(parts[:slashes], "/"), parts[slashes]
}

// appendTime appends an EventTime, extension 0 of 8 bytes, without which the order within a second would be lost.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, 0xd7, 0x00)
	b = binary.BigEndian.AppendUint32(b, uint32(t.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindInt64:
		return msgp.AppendInt64(b, v.Int64())
	case slog.KindUint64:
		return msgp.AppendUint64(b, v.Uint64())
	case slog.KindFloat64:
		return msgp.AppendFloat64(b, v.Float64())
	case slog.KindBool:
		return msgp.AppendBool(b, v.Bool())
	}
	return msgp.AppendString(b, v.String())
}

// batch is what is sent in one message, as often as it has to be.
type batch struct {
	chunk  string // by which it is acknowledged
	events [][]byte
	bytes  int
}

func newBatch() *batch {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return &batch{chunk: base64.StdEncoding.EncodeToString(id)}
}

func (b *batch) add(event []byte) {
	b.events = append(b.events, event)
	b.bytes += len(event)
}

func (b *batch) message(tag string) []byte {
	m := msgp.AppendArrayHeader(make([]byte, 0, b.bytes+len(tag)+64), 3)
	m = msgp.AppendString(m, tag)
	m = msgp.AppendArrayHeader(m, uint32(len(b.events)))
	for _, e := range b.events {
		m = append(m, e...)
	}
	m = msgp.AppendMapHeader(m, 2)
	m = msgp.AppendString(m, "chunk")
	m = msgp.AppendString(m, b.chunk)
	m = msgp.AppendString(m, "size")
	return msgp.AppendInt(m, len(b.events))
}

// What a collector may answer besides an acknowledgement.
var (
	// errSharedKey is a collector that greets, as one does that wants to see a shared key.
	errSharedKey = errors.New("the collector asks for a shared key, which is not supported")
	errStrange   = errors.New("the collector answers what is no acknowledgement")
)

// maxAnswer is many times what an acknowledgement has.
const maxAnswer = 4 << 10

// parseAnswer reads an acknowledgement from the beginning of b, and returns what follows it. msgp.ErrShortBytes: it is not
// all there.
func parseAnswer(b []byte) (ack string, rest []byte, err error) {
	if len(b) == 0 {
		return "", b, msgp.ErrShortBytes
	}
	switch msgp.NextType(b) {
	case msgp.ArrayType:
		return "", b, parseGreeting(b)
	case msgp.MapType:
	default:
		return "", b, errStrange
	}
	size, rest, err := msgp.ReadMapHeaderBytes(b)
	if err != nil || size == 0 || size > 16 {
		return "", b, strangeUnlessShort(err)
	}
	found := false
	for range size {
		var key string
		if key, rest, err = msgp.ReadStringBytes(rest); err != nil {
			return "", b, strangeUnlessShort(err)
		}
		if key == "ack" {
			found = true
			ack, rest, err = msgp.ReadStringBytes(rest)
		} else {
			rest, err = msgp.Skip(rest)
		}
		if err != nil {
			return "", b, strangeUnlessShort(err)
		}
	}
	if !found {
		return "", b, errStrange
	}
	return ack, rest, nil
}

// parseGreeting tells the greeting of a collector that has a shared key from other arrays.
func parseGreeting(b []byte) error {
	_, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return strangeUnlessShort(err)
	}
	switch word, _, err := msgp.ReadStringBytes(rest); {
	case err != nil:
		return strangeUnlessShort(err)
	case word == "HELO":
		return errSharedKey
	}
	return errStrange
}

func strangeUnlessShort(err error) error {
	if errors.Is(err, msgp.ErrShortBytes) {
		return msgp.ErrShortBytes
	}
	if err == nil {
		return errStrange
	}
	return fmt.Errorf("%w: %v", errStrange, err)
}
