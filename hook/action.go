package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Action is something to do when certificates have been renewed. One of its kinds is set: Verb with Unit, Command,
// Signal with Unit or PIDFile, or HAProxy.
type Action struct {
	Verb Verb   `json:"verb,omitempty"`
	Unit string `json:"unit,omitempty"` // with its suffix

	Command []string `json:"command,omitempty"` // an absolute path and arguments: no shell sees them
	User    string   `json:"user,omitempty"`    // by whom Command and Check are run, a name or a number; "": by this process's user

	Signal  string `json:"signal,omitempty"`  // without SIG
	PIDFile string `json:"pidFile,omitempty"` // of the process

	HAProxy string `json:"haproxy,omitempty"` // its stats socket, of level admin
	// Name is that of the certificate in haproxy's configuration; "": any of its links that haproxy knows. Of a Command it
	// is what people call it, in place of its words.
	Name string `json:"name,omitempty"`

	// Check is a command that has to succeed before anything is done.
	Check []string `json:"check,omitempty"`
	// Timeout of Check, and of what is done; 0: DefaultTimeout.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Splay is the time over which machines spread it: each takes a moment of its own.
	Splay time.Duration `json:"splay,omitempty"`
	// Window is when it may be done; zero: always. It does not count when the certificate that was served before
	// would expire first.
	Window Window `json:"window,omitzero"`
}

// Verb is what is done to a unit. None of them starts a unit that is stopped: that loads the new certificate
// when it is started.
type Verb string

const (
	Reload          Verb = "reload"
	ReloadOrRestart Verb = "reload-or-restart" // restart where the unit cannot be reloaded
	Restart         Verb = "restart"
)

// strength orders verbs: who has asked for a reload is served by a restart.
func (v Verb) strength() int { return slices.Index([]Verb{Reload, ReloadOrRestart, Restart}, v) }

// DefaultTimeout is how long an action may take.
const DefaultTimeout = 30 * time.Second

func (a Action) timeout() time.Duration {
	if a.Timeout == 0 {
		return DefaultTimeout
	}
	return a.Timeout
}

// String names the action for people, without what belongs to when and how it is done.
func (a Action) String() string {
	switch {
	case a.Verb != "":
		return fmt.Sprintf("%s %s", a.Verb, a.Unit)
	case a.Signal != "" && a.Unit != "":
		return fmt.Sprintf("signal %s to %s", a.Signal, a.Unit)
	case a.Signal != "":
		return fmt.Sprintf("signal %s to the process of %s", a.Signal, a.PIDFile)
	case a.HAProxy != "":
		return "haproxy " + strings.Join(append([]string{a.HAProxy}, nonEmpty(a.Name)...), " ")
	case a.Name != "":
		return a.Name
	}
	return "command " + strings.Join(a.Command, " ")
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// ID tells actions apart: equal ones are one, whoever has asked for them.
func (a Action) ID() string {
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings and numbers cannot fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}

// target is what two actions do not meet at: of those that reload or restart a unit one is done for all, and haproxy
// takes one certificate at a time.
func (a Action) target() string {
	switch {
	case a.Verb != "":
		return "unit " + a.Unit
	case a.HAProxy != "":
		return "haproxy " + a.HAProxy
	}
	return a.ID()
}

// Change is what an action is done for.
type Change struct {
	Key      string // of the certificate
	Name     string // such as contoso-web.www
	Old, New string // versions
	Paths    []string
}

// Error is why an action has not succeeded, for a person.
type Error struct {
	Fact, Hint string
}

func (e *Error) Error() string { return e.Fact }

func failed(hint, format string, args ...any) *Error {
	return &Error{Fact: fmt.Sprintf(format, args...), Hint: hint}
}

// Explained is an error as an *Error, whatever it is.
func Explained(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return &Error{Fact: strings.ReplaceAll(err.Error(), "\n", "; "), Hint: "see the log of kvfs"}
}
