package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// maxAnswer is more than haproxy says of ten thousand certificates.
const maxAnswer = 8 << 20

const haproxyHint = "check that haproxy runs and has: stats socket PATH level admin"

// tellHAProxy hands renewed certificates to haproxy, one after the other. done are those that it serves now.
func (r *Runner) tellHAProxy(ctx context.Context, a Action, changes []Change) (done []Change, err error) {
	known, err := haproxyNames(ctx, a.HAProxy)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, c := range changes {
		if err := r.tellHAProxyOf(ctx, a, known, c); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, c)
	}
	return done, errors.Join(errs...)
}

func (r *Runner) tellHAProxyOf(ctx context.Context, a Action, known []string, c Change) error {
	paths := c.Paths
	if a.Name != "" {
		paths = []string{a.Name}
	}
	names := slices.DeleteFunc(slices.Clone(known), func(name string) bool { return !slices.Contains(paths, name) })
	if len(names) == 0 {
		return failed("name the file in haproxy's configuration by one of them, or give the name that it has there as \"name\"",
			"haproxy has loaded no certificate from %s", strings.Join(paths, ", "))
	}
	content, err := r.opts.Content(c.Key)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := replaceInHAProxy(ctx, a.HAProxy, name, content); err != nil {
			return err
		}
	}
	return nil
}

// replaceInHAProxy makes haproxy serve a certificate in the place of the one that it has by this name.
func replaceInHAProxy(ctx context.Context, socket, name string, content []byte) error {
	quoted := haproxyQuote(name)
	// The payload ends with an empty line, which PEM does not need.
	var payload []byte
	for line := range bytes.Lines(bytes.ReplaceAll(content, []byte("\r"), nil)) {
		if len(bytes.TrimSpace(line)) > 0 {
			payload = append(payload, line...)
		}
	}
	answer, err := askHAProxy(ctx, socket, slices.Concat([]byte("set ssl cert "+quoted+" <<\n"), bytes.TrimSpace(payload), []byte("\n\n")))
	if err == nil && !strings.HasPrefix(answer, "Transaction ") {
		err = haproxyRefuses(name, answer)
	}
	if err == nil {
		answer, err = askHAProxy(ctx, socket, []byte("commit ssl cert "+quoted+"\n"))
		if err == nil && !strings.Contains(answer, "Success!") {
			err = haproxyRefuses(name, answer)
		}
	}
	if err != nil {
		// What was begun is in the way of whoever comes next. What becomes of this is no news.
		ctx, over := context.WithTimeout(context.WithoutCancel(ctx), abortPatience) // the time may be over
		defer over()
		_, _ = askHAProxy(ctx, socket, []byte("abort ssl cert "+quoted+"\n"))
	}
	return err
}

const abortPatience = 2 * time.Second

func haproxyRefuses(name, answer string) error {
	return failed("it goes on with the certificate that it has; a reload of haproxy loads the new one", "haproxy refuses the certificate for %s: %s", name, bounded(oneLine(answer)))
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' }), " ")
}

// haproxyNames are the names of the certificates that haproxy has loaded.
func haproxyNames(ctx context.Context, socket string) (names []string, err error) {
	answer, err := askHAProxy(ctx, socket, []byte("show ssl cert\n"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(answer, "#") { // as when who may only look asks for it
		return nil, failed(haproxyLevel(socket), "haproxy at %s does not tell its certificates: %s", socket, bounded(oneLine(answer)))
	}
	for line := range strings.Lines(answer) {
		// With a star, and marked so by a heading, are those that somebody is replacing.
		line = strings.TrimSuffix(line, "\n")
		if line != "" && line[0] != '#' && line[0] != '*' {
			names = append(names, strings.ReplaceAll(line, `\`, ""))
		}
	}
	return names, nil
}

// haproxyQuote keeps a name one word of a command.
func haproxyQuote(name string) string {
	return strings.NewReplacer(`\`, `\\`, " ", `\ `, ";", `\;`, "\t", "\\\t", `"`, `\"`, "'", `\'`).Replace(name)
}

// askHAProxy is the answer to one command. haproxy closes the connection when it has answered.
func askHAProxy(ctx context.Context, socket string, command []byte) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		hint := haproxyHint
		if errors.Is(err, os.ErrPermission) {
			hint = "put the user of kvfs into the group of the socket: stats socket PATH mode 660 group GROUP level admin"
		}
		return "", failed(hint, "haproxy cannot be reached at %s: %v", socket, unwrapped(err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = conn.Write(command)
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(io.LimitReader(conn, maxAnswer))
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", failed(haproxyHint, "haproxy at %s does not answer: %v", socket, unwrapped(err))
	}
	if text := string(answer); !strings.Contains(text, "Permission denied") {
		return text, nil
	}
	return "", failed(haproxyLevel(socket), "haproxy refuses commands at %s", socket)
}

func haproxyLevel(socket string) string {
	return "give the socket the level admin: stats socket " + socket + " level admin"
}

// unwrapped is an error of package net without the address, which was said.
func unwrapped(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// bounded makes text of others fit for a line.
func bounded(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}
