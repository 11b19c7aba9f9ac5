package main

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	loadingEvery = 100 * time.Millisecond // is the line at a terminal written again
	longLoad     = 5 * time.Second        // a load that takes longer is logged
)

// showLoading tells how the first load goes, until it is over: at a terminal by a line
// that is written again and again, elsewhere by two lines of log if it takes long.
func (d *daemon) showLoading(ctx context.Context) {
	if d.app.console == nil {
		d.logLoading(ctx)
		return
	}
	defer d.app.console.show("")
	tick := time.NewTicker(loadingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.syncer.Ready():
			return
		case <-tick.C:
			l, _ := d.syncer.Loading()
			d.app.console.show(loadingProgress(l.Done, l.Total, l.Failed))
		}
	}
}

func (d *daemon) logLoading(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-d.syncer.Ready():
		return
	case <-time.After(longLoad):
	}
	l, _ := d.syncer.Loading()
	d.log.Info("loading takes a while", "done", l.Done, "certificates", l.Total, "failed", l.Failed)
	select {
	case <-ctx.Done():
	case <-d.syncer.Ready():
		l, _ = d.syncer.Loading()
		d.log.Info("loading is done", "certificates", l.Total, "failed", l.Failed, "took", time.Since(l.Since).Round(time.Millisecond))
	}
}

// console is a terminal whose last line may be written again and again, below what is
// written to it. Other processes may write whole lines to the same terminal by a
// console of their own: each erases what it finds in the line, and the line comes back
// when it is shown the next time.
type console struct {
	mu   sync.Mutex
	file *os.File
	line string
}

// newConsole is nil if w is no terminal, or one that cannot erase a line.
func newConsole(w io.Writer) *console {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return &console{file: file}
}

const eraseLine = "\r\x1b[K"

// Write writes whole lines, above the line that is shown.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// In one call: others write to it too.
	if _, err := c.file.Write(slices.Concat([]byte(eraseLine), p, []byte(c.line))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// show writes the line anew, as far as there is room: more than one line cannot be
// erased. "" takes it away.
func (c *console) show(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if width, _, err := term.GetSize(int(c.file.Fd())); err == nil && width > 0 && len(line) >= width {
		line = line[:width-1]
	}
	if line == "" && c.line == "" {
		return
	}
	c.line = line
	_, _ = c.file.WriteString(eraseLine + line) // a terminal that is gone needs none
}
