package alert

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Batch is what a hook is told of at once: notices of one kind, at least one.
type Batch []Notice

// maxEnvironment bounds what there is in the environment of a command. The kernel takes 128 KiB of one variable, and of all
// a quarter of the stack.
const maxEnvironment = 64 << 10

// room is of how many of the first certificates one environment can tell, at least one.
func (b Batch) room() int {
	left := maxEnvironment
	for i, n := range b {
		for _, field := range n.fields() {
			left -= len(field) + 1
		}
		if left < 0 && i > 0 {
			return i
		}
	}
	return len(b)
}

// fields are what the environment has of a certificate.
func (n Notice) fields() []string {
	return []string{n.Name, orDash(n.Version), orDash(stamp(n.NotAfter)), orDash(stamp(n.quiet()))}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// stamp is a time as RFC 3339 has it, in UTC; "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// Environment is what a command is told by variables. Each has as many words as there are certificates, in the same order, with
// "-" for what is not known.
func (b Batch) Environment() []string {
	names := []string{"KVFS_CERT", "KVFS_VERSION", "KVFS_NOT_AFTER", "KVFS_UNREAD_SINCE"}
	words := make([][]string, len(names))
	for _, n := range b {
		for i, field := range n.fields() {
			words[i] = append(words[i], field)
		}
	}
	env := []string{"KVFS_ALERT=" + string(b[0].Kind)}
	for i, name := range names {
		env = append(env, name+"="+strings.Join(words[i], " "))
	}
	return env
}

// told is one notice for programs.
type told struct {
	Alert       Kind   `json:"alert"`
	Certificate string `json:"certificate"`
	URL         string `json:"url"`
	Version     string `json:"version,omitempty"`
	NotAfter    string `json:"notAfter,omitempty"`
	UnreadSince string `json:"unreadSince,omitempty"`
	Message     string `json:"message"`
	Host        string `json:"host,omitempty"`
}

// JSON is the same for programs: a list of objects. The host is the name of this machine.
func (b Batch) JSON(host string) []byte {
	all := make([]told, 0, len(b))
	for _, n := range b {
		all = append(all, told{Alert: n.Kind, Certificate: n.Name, URL: n.URL, Version: n.Version, NotAfter: stamp(n.NotAfter),
			UnreadSince: stamp(n.quiet()), Message: n.message(), Host: host})
	}
	return append(encoded(all), '\n')
}

// message is a notice for a person.
func (n Notice) message() string {
	switch n.Kind {
	case Expired:
		return fmt.Sprintf("%s has expired %s ago", n.Name, Span(n.For))
	case Expires:
		return fmt.Sprintf("%s expires in %s, and no newer version has come", n.Name, Span(n.For))
	}
	return fmt.Sprintf("nothing could be read of %s for %s", n.Name, Span(n.For))
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times of certificates cannot fail
	}
	return b
}
