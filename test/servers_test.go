package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// tlsServer is one of Debian's servers, which loads its certificate through links
// of a store and loads it again at a signal.
type tlsServer struct {
	t       testing.TB
	name    string
	addr    string
	client  *tls.Config
	load    syscall.Signal       // makes it load its files again
	master  string               // socket of the master of haproxy
	path    string               // of its program, where that is not found by its name
	as      *syscall.Credential  // whose rights it is started with, if not root's
	rebinds bool                 // it closes its socket to load again, and refuses whoever comes meanwhile
	greet   func(net.Conn) error // asks a server for TLS that does not begin with it, nor serves the page
	cmd     *exec.Cmd
	log     buffer
	ended   chan struct{} // closed
}

// startNginx serves a chain and its key, from one file or from two.
func startNginx(t testing.TB, client *tls.Config, chain, key string) *tlsServer {
	t.Helper()
	const config = `
daemon off;
pid nginx.pid;
error_log stderr notice;
worker_processes 2;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		location / { return 200 %q; }
	}
}
`
	v := &tlsServer{t: t, name: "nginx", addr: freeAddress(t), client: client, load: syscall.SIGHUP}
	dir := t.TempDir()
	file := v.configure(dir, config, v.addr, chain, key, page)
	v.start("start worker processes", "-p", dir, "-e", "stderr", "-c", file)
	return v
}

// startHaproxy serves a combined file. A new worker is handed the listening
// sockets of the one before it, so that no connection is refused meanwhile.
func startHaproxy(t testing.TB, client *tls.Config, combined string) *tlsServer {
	t.Helper()
	const config = `
global
	user haproxy
	group haproxy
	stats socket %s mode 600 level admin expose-fd listeners
	hard-stop-after 30s
defaults
	mode http
	timeout connect 10s
	timeout client 10s
	timeout server 10s
frontend https
	bind %s ssl crt %s
	http-request return status 200 content-type text/plain string %q
`
	v := &tlsServer{t: t, name: "haproxy", addr: freeAddress(t), client: client, load: syscall.SIGUSR2}
	dir := t.TempDir()
	v.master = filepath.Join(dir, "master.sock")
	file := v.configure(dir, config, filepath.Join(dir, "stats.sock"), v.addr, combined, page)
	v.start("Loading success", "-W", "-db", "-S", v.master, "-f", file)
	return v
}

const page = "served"

// freeAddress is one that nobody listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (v *tlsServer) configure(dir, format string, args ...any) (path string) {
	v.t.Helper()
	path = filepath.Join(dir, v.name+".conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// start runs the server in the foreground until the test ends, and returns when
// it answers. It listens before it says that it has started.
func (v *tlsServer) start(started string, args ...string) {
	v.t.Helper()
	if v.path == "" {
		v.path = needProgram(v.t, v.name)
	}
	v.cmd = exec.Command(v.path, args...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: v.as}
	v.cmd.Stderr = &v.log
	v.ended = make(chan struct{})
	// Its workers hold the pipe of the log too. They get time to end after their
	// master has.
	v.cmd.WaitDelay = 10 * time.Second
	if err := v.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	go func() {
		_ = v.cmd.Wait() // how it ends when it is told to is its own affair
		close(v.ended)
	}()
	v.t.Cleanup(v.stop)
	if !v.log.await(started, v.ended) {
		v.t.Fatalf("%s does not start:\n%s", v.name, &v.log)
	}
	if _, err := v.get(); err != nil {
		v.t.Fatalf("%s after its start: %v\n%s", v.name, err, &v.log)
	}
}

func (v *tlsServer) stop() {
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.ended:
	case <-time.After(30 * time.Second):
		v.t.Errorf("%s does not end", v.name)
		_ = v.cmd.Process.Kill()
		<-v.ended
	}
	if v.t.Failed() {
		v.t.Logf("%s said:\n%s", v.name, v.log.tail(50))
	}
}

// tail is the last lines.
func (b *buffer) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// reload lets the server load its certificate again. What it then serves is seen
// with await.
func (v *tlsServer) reload() {
	v.t.Helper()
	if v.master != "" {
		v.awaitMaster()
	}
	if err := v.cmd.Process.Signal(v.load); err != nil {
		v.t.Fatalf("%s: %v\n%s", v.name, err, v.log.tail(50))
	}
}

// awaitMaster returns when the master of haproxy takes signals. To load again it
// executes itself anew, and its new worker serves before that: a signal that
// comes in between is lost (2.6). So the master is asked something first, which
// it answers, or has a socket for at all, only when it is done.
func (v *tlsServer) awaitMaster() {
	v.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = v.askMaster(); err == nil {
			return
		}
	}
	v.t.Fatalf("%s: its master does not answer: %v\n%s", v.name, err, v.log.tail(50))
}

func (v *tlsServer) askMaster() error {
	conn, err := net.Dial("unix", v.master)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a socket has deadlines
	if _, err := io.WriteString(conn, "show proc\n"); err != nil {
		return err
	}
	_, err = bufio.NewReader(conn).ReadString('\n')
	return err
}

// get fetches the page over a new connection with a full handshake, and returns
// the certificate that the server has shown. The chain is verified.
func (v *tlsServer) get() (*x509.Certificate, error) {
	conn, err := net.DialTimeout("tcp", v.addr, 20*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a socket has deadlines
	if v.greet != nil {
		if err := v.greet(conn); err != nil {
			return nil, fmt.Errorf("greeting: %w", err)
		}
	}
	client := tls.Client(conn, v.client)
	if err := client.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if v.greet == nil {
		if err := v.fetch(client); err != nil {
			return nil, err
		}
	}
	return client.ConnectionState().PeerCertificates[0], nil
}

func (v *tlsServer) fetch(conn net.Conn) error {
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", v.client.ServerName); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != page {
		return fmt.Errorf("answer %s: %q, %w", res.Status, body, err)
	}
	return nil
}

// await connects until the server shows a certificate: its old workers go on for
// a moment after a reload.
func (v *tlsServer) await(leaf *x509.Certificate) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		got, err := v.get()
		if last = err; err != nil && !v.rebinds {
			break
		}
		if err == nil && got.Equal(leaf) {
			return
		}
	}
	v.t.Fatalf("%s does not show the certificate %x (%v)\n%s", v.name, leaf.SerialNumber, last, v.log.tail(50))
}

// client trusts the root of the vault's certificates and nothing else.
func (s *site) client(name string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.vault.RootCertificate())
	return &tls.Config{RootCAs: roots, ServerName: name}
}

// leaf is the first certificate of a file.
func leaf(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	_, chain := blocks(t, readFile(t, path))
	if len(chain) == 0 {
		t.Fatalf("%s holds no certificate", path)
	}
	return chain[0]
}

func TestNginxAndHaproxyServeFromTheLinks(t *testing.T) {
	needRoot(t)
	needProgram(t, "nginx")
	needProgram(t, "haproxy")
	for _, key := range []emulator.KeyType{emulator.EC256, emulator.RSA2048} {
		t.Run(string(key), func(t *testing.T) {
			s := newSite(t, emulator.Profile{Name: "www", Key: key})
			s.mount()
			combined, client := s.path("contoso-web.www"), s.client("www.example.com")
			servers := map[string]*tlsServer{
				"nginx from the combined file":   startNginx(t, client, combined, combined),
				"nginx from chain and key":       startNginx(t, client, combined+".pem", combined+".keyid"),
				"haproxy from the combined file": startHaproxy(t, client, combined),
			}
			first := leaf(t, combined)
			for what, server := range servers {
				if got, err := server.get(); err != nil || !got.Equal(first) {
					t.Errorf("%s: %v, want the first version", what, err)
				}
			}
			s.rotate("www")
			second := leaf(t, combined)
			if second.Equal(first) {
				t.Fatal("the link leads to the first version after a renewal")
			}
			for what, server := range servers {
				if got, err := server.get(); err != nil || !got.Equal(first) {
					t.Errorf("%s before it is told: %v, want the first version", what, err)
				}
				server.reload()
				server.await(second)
			}
		})
	}
}
