package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	bodyLimit        = 1 << 20 // a secret has at most 25 KB, a page of versions some 15 KB
	headerLimit      = 64 << 10
	idlePerVault     = 64
)

var errTooLarge = errors.New("the answer is larger than 1 MiB")

// newVaultTransport speaks HTTP/1.1 alone: there a request that ran into its deadline takes its connection with it, while
// a half-open HTTP/2 connection would fail every later request too.
func newVaultTransport(roots *x509.CertPool, ways connect) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			if _, ok := ways.lookup(authority(req)); ok {
				return nil, nil
			}
			return http.ProxyFromEnvironment(req)
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if target, ok := ways.lookup(address); ok {
				address = target
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		Protocols:              protocols,
		MaxIdleConnsPerHost:    idlePerVault,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: headerLimit,
	}
}

// newIdentityTransport goes straight to the endpoint: a proxy would see the token, and Azure refuses requests that came
// through one.
func newIdentityTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: identityTimeout}).DialContext,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: headerLimit,
	}
}

// refuseRedirect makes a redirect the answer: a token must not follow it.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// loadRoots returns the system's roots and those of file; nil, which means the system's, when file is empty. text is the
// file's content if it is known.
func loadRoots(file string, text []byte) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	if text == nil {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("reading the CA file: %w", err)
		}
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("loading the system's certificates: %w", err)
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("the CA file %s holds no PEM certificate", file)
	}
	return roots, nil
}

// connect maps host:port as in a URL to the host:port to dial instead. Keys are lower case; the first label may be "*".
type connect map[string]string

func newConnect(ways map[string]string) (connect, error) {
	c := make(connect, len(ways))
	for from, to := range ways {
		host, _, err := net.SplitHostPort(from)
		if err != nil || host == "" || strings.Contains(strings.TrimPrefix(host, "*."), "*") {
			return nil, fmt.Errorf("connect: %q is not host:port, with at most a first label of \"*\"", from)
		}
		if host, port, err := net.SplitHostPort(to); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("connect: %q is not host:port", to)
		}
		c[strings.ToLower(from)] = to
	}
	return c, nil
}

// lookup finds another way to address. An exact key beats a wildcard, which stands for exactly one label.
func (c connect) lookup(address string) (string, bool) {
	address = strings.ToLower(address)
	if to, ok := c[address]; ok {
		return to, true
	}
	label, rest, ok := strings.Cut(address, ".")
	if !ok || label == "" {
		return "", false
	}
	to, ok := c["*."+rest]
	return to, ok
}

// authority returns the host:port that req would dial without a proxy.
func authority(req *http.Request) string {
	if req.URL.Port() != "" {
		return req.URL.Host
	}
	if req.URL.Scheme == "http" {
		return net.JoinHostPort(req.URL.Hostname(), "80")
	}
	return net.JoinHostPort(req.URL.Hostname(), "443")
}

// metered counts what reaches each host and bounds what comes back.
type metered struct {
	next  http.RoundTripper
	tally *tally // nil: bound only
}

// RoundTrip implements http.RoundTripper.
func (m metered) RoundTrip(req *http.Request) (*http.Response, error) {
	if m.tally != nil {
		req = req.WithContext(m.traced(req))
	}
	resp, err := m.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if m.tally != nil && resp.StatusCode == http.StatusTooManyRequests {
		m.tally.change(req.URL.Host, func(s *HostStats) { s.Throttled++ })
	}
	resp.Body = &bounded{resp.Body, bodyLimit}
	return resp, nil
}

// traced counts a request once it is written, answered or not: a vault that hangs was asked all the same.
func (m metered) traced(req *http.Request) context.Context {
	attempt := attemptOf(req.Context())
	return httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { attempt.connected.Store(true) },
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil {
				m.tally.change(req.URL.Host, func(s *HostStats) { s.Transactions++ })
			}
		},
	})
}

// bounded fails with errTooLarge instead of reading more than left bytes.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errTooLarge
	}
	return n, err
}
