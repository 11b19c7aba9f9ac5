package config

import (
	"fmt"
	iofs "io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// Metrics is where metrics and probes are answered (kvfs.metrics). The zero Metrics is nowhere.
type Metrics struct {
	// Listen is a clean absolute path, of a Unix socket, or host:port, where the host is an IP address or "localhost"; "" for
	// nowhere.
	Listen string
	// Mode and Group of the socket; Group is a name or an id, "" for that of the process.
	Mode  iofs.FileMode
	Group string
}

// Socket tells whether Listen is the path of a Unix socket.
func (m Metrics) Socket() bool { return strings.HasPrefix(m.Listen, "/") }

const metricsExample = `write "127.0.0.1:9464", or the path of a Unix socket such as "/run/kvfs/metrics.sock"`

// metrics reads kvfs.metrics.
func (s *settings) metrics(n *node, path string) {
	switch n.kind {
	case kindString:
		if m := s.listen(n, path); s.loopback(n, path, m.Listen, false) {
			s.config.Metrics = m
		}
	case kindObject:
		s.metricsObject(n, path)
	default:
		s.mismatch(n, path, "an address, a path, or an object", metricsExample)
	}
}

func (s *settings) metricsObject(n *node, path string) {
	o := s.object(n, path, fieldsOf[metricsFields](s.report))
	defer o.doneStrictly()
	remote := false
	if n := o.get("remote"); n != nil {
		remote, _ = o.boolean(n, o.join("remote"))
	}
	at := o.required("listen", metricsExample)
	if at == nil {
		return
	}
	m := s.listen(at, o.join("listen"))
	if !s.loopback(at, o.join("listen"), m.Listen, remote) {
		return
	}
	if m.Group = s.principal(o, "group"); m.Group != "" {
		m.Mode = 0o660
	}
	if n := o.get("mode"); n != nil {
		m.Mode = s.socketMode(n, o.join("mode"), m.Mode)
	}
	for _, name := range []string{"group", "mode"} {
		if o.get(name) != nil && !m.Socket() {
			s.fault(o.keyAt(name), fmt.Sprintf("%s has no effect: %s is no Unix socket", o.join(name), quote(m.Listen)), "remove it, or listen at a path such as \"/run/kvfs/metrics.sock\"")
		}
	}
	s.config.Metrics = m
}

// listen takes an address or a path; Listen is "" if it is neither.
func (s *settings) listen(n *node, path string) (m Metrics) {
	text, ok := s.text(n, path)
	if !ok {
		return m
	}
	if strings.HasPrefix(text, "/") {
		switch clean := filepath.Clean(text); {
		case strings.ContainsRune(text, 0), strings.HasSuffix(text, "/"):
			s.mismatch(n, path, "the path of a Unix socket", metricsExample)
		case len(clean) > maxSocketPath:
			s.fault(n.at(), fmt.Sprintf("%s: a path of %d bytes, more than the %d that a Unix socket may have", path, len(clean), maxSocketPath), metricsExample)
		default:
			m = Metrics{Listen: clean, Mode: 0o600}
		}
		return m
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || !validPort(port) || host != "localhost" && net.ParseIP(host) == nil {
		s.mismatch(n, path, "an IP address or localhost with a port, or an absolute path", metricsExample)
		return m
	}
	return Metrics{Listen: text}
}

// maxSocketPath is what the kernel has room for, without the zero at its end.
const maxSocketPath = 107

// loopback refuses addresses that other machines can reach unless that is wanted: there is no password, and the URLs of
// certificates are in what is answered.
func (s *settings) loopback(n *node, path, listen string, remote bool) bool {
	if listen == "" || remote || strings.HasPrefix(listen, "/") {
		return listen != ""
	}
	host, port, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); ip == nil || ip.IsLoopback() {
		return true
	}
	s.fault(n.at(), fmt.Sprintf("%s: %s can be reached from other machines, and nobody is asked who he is", path, quote(listen)),
		fmt.Sprintf(`write "127.0.0.1:%s"; if it is wanted, {"listen": %s, "remote": true}`, port, quote(listen)))
	return false
}

// socketMode takes four octal digits in a string: a number of JSON has no octal form.
func (s *settings) socketMode(n *node, path string, otherwise iofs.FileMode) iofs.FileMode {
	v, err := strconv.ParseUint(n.text, 8, 32)
	if n.kind != kindString || err != nil || len(n.text) != 4 || v > 0o777 {
		s.mismatch(n, path, "a mode of four octal digits in quotes", `write "0660"`)
		return otherwise
	}
	return iofs.FileMode(v)
}
