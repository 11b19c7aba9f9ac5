package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// webServer is a program that can serve the demo's page.
type webServer struct {
	name   string
	config func(dir, port, link string) string
	args   func(dir, file string) []string
	reload syscall.Signal
}

var webServers = []webServer{
	{
		name: "nginx",
		config: func(dir, port, link string) string {
			return fmt.Sprintf(`daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
worker_processes 1;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server {
		listen 127.0.0.1:%[2]s ssl;
		ssl_certificate %[3]s;
		ssl_certificate_key %[3]s;
		location / { return 200 "served with a certificate from kvfs\n"; }
	}
}
`, dir, port, link)
		},
		args:   func(dir, file string) []string { return []string{"-p", dir, "-e", dir + "/nginx.log", "-c", file} },
		reload: syscall.SIGHUP,
	},
	{
		name: "haproxy",
		config: func(_, port, link string) string {
			return fmt.Sprintf(`defaults
	mode http
	timeout client 5s
	timeout server 5s
	timeout connect 5s
frontend demo
	bind 127.0.0.1:%s ssl crt %s
	http-request return status 200 content-type text/plain string "served with a certificate from kvfs\n"
`, port, link)
		},
		args:   func(_, file string) []string { return []string{"-W", "-f", file} },
		reload: syscall.SIGUSR2,
	},
}

// web is a server that serves a page with a certificate of the demo.
type web struct {
	server       webServer
	cmd          *exec.Cmd
	certificate  string // its name in the vault
	link         string
	host, port   string
	caFile       string
	roots        *x509.CertPool
	servedSerial string
}

// How long a server may take to start or to reload.
const webPatience = 5 * time.Second

// startWeb starts the first server that is installed; nil if none is.
func startWeb(dir, certificate, link string, root *x509.Certificate) (*web, error) {
	for _, s := range webServers {
		path, err := exec.LookPath(s.name)
		if errors.Is(err, exec.ErrNotFound) { // not in a user's PATH on Debian
			path, err = exec.LookPath("/usr/sbin/" + s.name)
		}
		if err != nil {
			continue
		}
		w := &web{server: s, certificate: certificate, link: link, host: demoHost(certificate), caFile: filepath.Join(dir, "root.pem"), roots: x509.NewCertPool()}
		w.roots.AddCert(root)
		if err := os.WriteFile(w.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o644); err != nil {
			return nil, fmt.Errorf("writing the root: %w", err)
		}
		if err := w.start(dir, path); err != nil {
			w.stop()
			return nil, err
		}
		return w, nil
	}
	return nil, nil
}

func (w *web) start(dir, path string) (err error) {
	if w.port, err = freePort(); err != nil {
		return err
	}
	file := filepath.Join(dir, w.server.name+".conf")
	if err := os.WriteFile(file, []byte(w.server.config(dir, w.port, w.link)), 0o644); err != nil {
		return fmt.Errorf("configuring %s: %w", w.server.name, err)
	}
	w.cmd = exec.Command(path, w.server.args(dir, file)...)
	// An interrupt at the terminal is for the demo, which ends the server itself.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := w.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", w.server.name, err)
	}
	_, err = w.awaitChange()
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// reload lets the server read the certificate again and returns the one that it
// then serves.
func (w *web) reload() (*x509.Certificate, error) {
	if err := w.cmd.Process.Signal(w.server.reload); err != nil {
		return nil, fmt.Errorf("reloading %s: %w", w.server.name, err)
	}
	return w.awaitChange()
}

// awaitChange makes handshakes until the server shows a certificate that it has
// not shown before. A server tells nobody when it has reloaded.
func (w *web) awaitChange() (*x509.Certificate, error) {
	var last error
	for end := time.Now().Add(webPatience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		leaf, err := w.handshake()
		if err != nil {
			last = err
			continue
		}
		last = errors.New("it still serves the certificate before")
		if serial := leaf.SerialNumber.Text(16); serial != w.servedSerial {
			w.servedSerial = serial
			return leaf, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", w.server.name, last)
}

func (w *web) handshake() (*x509.Certificate, error) {
	d := &net.Dialer{Timeout: time.Second}
	c, err := tls.DialWithDialer(d, "tcp", "127.0.0.1:"+w.port, &tls.Config{ServerName: w.host, RootCAs: w.roots})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func (w *web) stop() {
	if w.cmd != nil && w.cmd.Process != nil {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		_ = w.cmd.Wait() // it was told to end; how it does is of no interest
	}
}
