package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"
)

// reportPatience is how long a report may take: it waits for nothing.
const reportPatience = 5 * time.Second

// Client asks a running kvfs.
type Client struct {
	path string
	http *http.Client
}

// NewClient asks at the socket of the given path.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Report asks how things are.
func (c *Client) Report(ctx context.Context) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	err = c.do(ctx, http.MethodGet, "/status", &r)
	return r, err
}

// Await asks how things are when there is nothing to wait for any more, or after so long.
// A kvfs that cannot wait answers at once.
func (c *Client) Await(ctx context.Context, most time.Duration) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, most+reportPatience)
	defer cancel()
	err = c.do(ctx, http.MethodGet, "/status?"+url.Values{"wait": {most.String()}}.Encode(), &r)
	return r, err
}

// Refresh polls the named certificates now, or all. A name that no certificate
// has is an *UnknownError.
func (c *Client) Refresh(ctx context.Context, names []string) (done []Refreshed, err error) {
	err = c.do(ctx, http.MethodPost, "/refresh?"+url.Values{"name": names}.Encode(), &done)
	return done, err
}

// Reload lets it read its settings again. What came of that is in the result; the
// error is about asking.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	err = c.do(ctx, http.MethodPost, "/reload", &r)
	return r, err
}

// Readers asks who has read the named certificate, or any if the name is "". A name that
// no certificate has is an *UnknownError; why nobody can say it is in the result.
func (c *Client) Readers(ctx context.Context, name string) (r Readers, err error) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	err = c.do(ctx, http.MethodGet, "/readers?"+url.Values{"name": {name}}.Encode(), &r)
	return r, err
}

// Stop lets it unmount and end. It returns before that has happened.
func (c *Client) Stop(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/stop", &struct{}{})
}

func (c *Client) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://kvfs"+path, nil)
	if err != nil {
		return fmt.Errorf("asking kvfs: %w", err)
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers at %s", ErrNotRunning, c.path)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("kvfs does not answer at %s: %w", c.path, context.DeadlineExceeded)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the control socket %s is not for this user: %w", c.path, os.ErrPermission)
	case err != nil:
		return fmt.Errorf("asking kvfs: %w", err)
	}
	defer res.Body.Close()
	body := json.NewDecoder(io.LimitReader(res.Body, 64<<20))
	switch res.StatusCode {
	case http.StatusOK:
		if err := body.Decode(into); err != nil {
			return fmt.Errorf("reading kvfs' answer: %w", err)
		}
		return nil
	case http.StatusNotFound:
		unknown := new(UnknownError)
		if err := body.Decode(unknown); err == nil {
			return unknown
		}
	}
	var e Error
	if err := body.Decode(&e); err == nil && e.Fact != "" {
		return errors.New(e.Fact)
	}
	return fmt.Errorf("kvfs answered %s", res.Status)
}
