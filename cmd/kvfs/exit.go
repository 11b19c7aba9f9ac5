package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"kvfs/certs"
	"kvfs/disk"
	"kvfs/fs"
	"kvfs/status"
	"kvfs/vault"
)

// The exit codes are a contract with scripts and units.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitSettings = 3
	exitRefused  = 4
	exitNotFound = 5
	exitMount    = 6
)

var exitMeanings = []string{
	exitOK:       "done",
	exitFailed:   "failed",
	exitUsage:    "usage",
	exitSettings: "settings invalid",
	exitRefused:  "identity or permission refused",
	exitNotFound: "not found, or not usable as a certificate",
	exitMount:    "not mounted, or already mounted",
}

func exitCodes() string {
	var b strings.Builder
	for code, meaning := range exitMeanings {
		fmt.Fprintf(&b, "  %d  %s\n", code, meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// failure is an error as a person or a program gets it.
type failure struct {
	code       int
	kind       string // one word for programs
	fact, hint string
	said       bool // the details were printed already
	problems   []status.Problem
	err        error
}

func (f *failure) Error() string { return f.fact }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, kind, hint, format string, args ...any) *failure {
	return &failure{code: code, kind: kind, fact: fmt.Sprintf(format, args...), hint: hint}
}

// explain turns the errors of the packages into failures, by type.
func explain(err error) *failure {
	f := &failure{code: exitFailed, kind: "failed", fact: err.Error(), err: err}
	var (
		mountpoint *fs.MountpointError
		unknown    *status.UnknownError
		ve         *vault.Error
		ce         *certs.Error
		ref        *vault.RefError
		onDisk     *disk.Error
	)
	switch {
	case errors.As(err, &mountpoint):
		f.kind, f.fact, f.hint = "mountpoint", mountpoint.Fact, mountpoint.Hint
		if mountpoint.Mounted {
			f.code, f.kind = exitMount, "already-mounted"
		}
	case errors.Is(err, status.ErrNotRunning):
		f.code, f.kind, f.hint = exitMount, "not-mounted", "start it with: kvfs mount SETTINGS (another one is reached with --socket)"
	case errors.Is(err, status.ErrInUse):
		f.code, f.kind, f.hint = exitMount, "already-mounted", "stop it with: kvfs umount, or give this one a socket of its own with --socket"
	case errors.As(err, &unknown):
		f.code, f.kind, f.hint = exitNotFound, "not-found", "kvfs status lists the names"
	case errors.As(err, &ve):
		f.code, f.kind, f.fact, f.hint = codeOf(string(ve.Kind)), string(ve.Kind), ve.Fact, ve.Hint
	case errors.As(err, &ce):
		f.code, f.kind, f.fact, f.hint = exitNotFound, string(ce.Kind), ce.Fact, ce.Hint
	case errors.As(err, &ref):
		f.code, f.kind, f.fact, f.hint = exitUsage, "usage", ref.Fact, ref.Hint
	case errors.As(err, &onDisk):
		f.kind, f.hint = "disk", onDisk.Hint
	case errors.Is(err, os.ErrPermission):
		f.code, f.kind, f.hint = exitRefused, "permission", "try it as root"
	case errors.Is(err, os.ErrNotExist):
		f.code, f.kind = exitNotFound, "not-found"
	case errors.Is(err, context.DeadlineExceeded):
		f.kind, f.hint = "timeout", "try again"
	}
	return f
}

// codeOf is the exit code for a kind of error that a running kvfs has told.
func codeOf(kind string) int {
	switch kind {
	case "settings":
		return exitSettings
	case "already-mounted":
		return exitMount
	case string(vault.KindIdentity), string(vault.KindUnauthorized), string(vault.KindForbidden), string(vault.KindForbiddenNetwork):
		return exitRefused
	case string(vault.KindNotFound), string(vault.KindDisabled),
		string(certs.Corrupt), string(certs.Password), string(certs.NoCertificate), string(certs.NoPrivateKey),
		string(certs.KeyMismatch), string(certs.NotACertificate), string(certs.Unsupported):
		return exitNotFound
	}
	return exitFailed
}
