package chain

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"kvfs/certs"
)

const (
	maxRedirects = 2
	maxAnswer    = 64 << 10
	maxHeader    = 16 << 10

	// maxURL bounds what is kept in memory as the key of an answer; a certificate may
	// hold an address of a megabyte.
	maxURL = 2048
)

var (
	errRedirects = fmt.Errorf("it redirects more than %d times", maxRedirects)
	errLongURL   = fmt.Errorf("the address has more than %d characters", maxURL)
	errTooLarge  = fmt.Errorf("the answer has more than %d KiB", maxAnswer>>10)
)

// addresses returns the first of the addresses that may be asked, and why others may
// not be. Active Directory names ldap first and http after it.
func addresses(named []string) (urls []*url.URL, refused []error) {
	for _, s := range named {
		u, err := address(s)
		switch {
		case err == nil && len(urls) < maxURLs:
			urls = append(urls, u)
		case err != nil && len(refused) < maxURLs:
			refused = append(refused, fmt.Errorf("%s: %w", certs.Printable(s), err))
		}
	}
	return urls, refused
}

// address reads an address. Its fragment is not sent, so it does not count.
func address(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, plain(err)
	}
	u.Fragment, u.RawFragment = "", ""
	return u, askable(u)
}

// askable judges what an address says of itself; what it leads to is judged when it is
// dialled.
func askable(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("only http and https are asked, not %q", certs.Printable(u.Scheme))
	case u.Hostname() == "":
		return errors.New("the address names no host")
	case u.User != nil:
		return errors.New("the address holds credentials")
	case len(u.String()) > maxURL:
		return errLongURL
	}
	return nil
}

// get returns the certificates at an address, from memory or from there. One request
// serves all who ask at the same time. It is made with the context of the first; where
// that one gives up, another asks.
func (f *Fetcher) get(ctx context.Context, u *url.URL) ([]*x509.Certificate, error) {
	key := u.String()
	for ctx.Err() == nil {
		got, err, _ := f.flights.Do(key, func() (any, error) {
			if known, ok := f.answers.at(key, time.Now()); ok {
				return known, nil
			}
			found, err := f.request(ctx, u)
			f.logger().DebugContext(ctx, "asked for an issuer", "url", certs.Printable(key), "certificates", len(found), "error", err)
			if err != nil && ctx.Err() != nil {
				return nil, ctx.Err() // says nothing of the address
			}
			return f.answers.keep(key, time.Now(), found, err), nil
		})
		if err == nil {
			return got.(answer).certs, got.(answer).err
		}
	}
	return nil, fmt.Errorf("given up: %w", ctx.Err())
}

func (f *Fetcher) logger() *slog.Logger {
	if f.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return f.Logger
}

// request makes one request with its redirects, and reads the answer.
func (f *Fetcher) request(ctx context.Context, u *url.URL) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRequest)
	defer cancel()
	body, err := f.download(ctx, u)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("no answer in time: %w", ctx.Err())
	case err != nil:
		return nil, plain(err)
	}
	return decode(body)
}

func (f *Fetcher) download(ctx context.Context, u *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header["User-Agent"] = nil // none, rather than Go's
	resp, err := f.asking().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is HTTP %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errTooLarge
	}
	return body, err
}

// asking returns the client, with our rule on redirects and without cookies.
func (f *Fetcher) asking() *http.Client {
	f.once.Do(func() {
		client := http.Client{Transport: f.transport()}
		if f.Client != nil {
			client = *f.Client
		}
		client.Jar, client.CheckRedirect = nil, checkRedirect
		f.client = &client
	})
	return f.client
}

// transport neither keeps connections nor reads the environment, and dials no address
// that is not admissible.
func (f *Fetcher) transport() *http.Transport {
	dialer := net.Dialer{Timeout: maxRequest, ControlContext: f.control} // the dial may outlive the request
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    maxRequest,
		DisableKeepAlives:      true,
		DisableCompression:     true, // so that the limit is one on what is sent
		MaxResponseHeaderBytes: maxHeader,
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	req.Header.Del("Referer")
	return askable(req.URL)
}

// foreign is an error that may quote what came from outside, at any length.
type foreign struct{ err error }

func (e foreign) Error() string { return certs.Printable(e.err.Error()) }
func (e foreign) Unwrap() error { return e.err }

// plain takes off what net/http and net/url say of the address: ours is there already.
func plain(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return foreign{err}
}
