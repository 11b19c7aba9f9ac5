package hook

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// selfSigned is a certificate with its key, in PEM.
func selfSigned(t *testing.T, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "www"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
}

// loadBalancer is a real haproxy with two certificates.
type loadBalancer struct {
	t            *testing.T
	socket, addr string
	dir          string
}

func startHAProxy(t *testing.T, level string) *loadBalancer {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			t.Skip("haproxy is not installed; make deps installs it")
		}
	}
	dir, err := os.MkdirTemp("", "hap") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &loadBalancer{t: t, dir: dir, socket: filepath.Join(dir, "admin.sock"), addr: l.Addr().String()}
	l.Close()
	for name, serial := range map[string]int64{"one.pem": 1, "two.pem": 2} {
		if err := os.WriteFile(filepath.Join(dir, name), selfSigned(t, serial), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("global\n\tstats socket %s level %s\ndefaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 5s\n\ttimeout server 5s\nfrontend f\n\tbind %s ssl crt %s/one.pem crt %[4]s/two.pem\n\thttp-request return status 200\n", h.socket, level, h.addr, dir)
	if err := os.WriteFile(filepath.Join(dir, "cfg"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(program, "-db", "-f", filepath.Join(dir, "cfg"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	// It listens when the socket answers: nothing tells before.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", h.socket)
		if err == nil {
			conn.Close()
			return h
		}
		if time.Now().After(end) {
			t.Fatal(err, said.String())
		}
	}
}

func (h *loadBalancer) path(name string) string { return filepath.Join(h.dir, name) }

// serves is the serial number of the certificate that it shows.
func (h *loadBalancer) serves() int64 {
	h.t.Helper()
	conn, err := tls.Dial("tcp", h.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestHAProxyServesTheNewCertificateWithoutAReload(t *testing.T) {
	h := startHAProxy(t, "admin")
	contents := map[string][]byte{}
	r := New(Options{Content: func(key string) ([]byte, error) { return contents[key], nil }})
	tell := func(a Action, changes ...Change) ([]Change, error) {
		t.Helper()
		a.HAProxy = h.socket
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return r.tellHAProxy(ctx, a, changes)
	}
	www := Change{Key: "www", Paths: []string{"/not/loaded", h.path("one.pem")}}
	if got := h.serves(); got != 1 {
		t.Fatal(got)
	}
	for serial := int64(10); serial < 15; serial++ {
		// An empty line, and lines that end as Windows ends them, are nothing to haproxy's protocol.
		contents["www"] = bytes.ReplaceAll(append(selfSigned(t, serial), '\n', '\n'), []byte("\n"), []byte("\r\n"))
		if done, err := tell(Action{}, www); err != nil || len(done) != 1 {
			t.Fatal(done, err)
		}
		if got := h.serves(); got != serial {
			t.Fatalf("it serves %d, want %d", got, serial)
		}
	}

	// Of several the good ones are done, and what was begun with the bad one is taken back.
	contents["bad"], contents["other"] = contents["www"][:300], selfSigned(t, 30)
	bad, other := Change{Key: "bad", Paths: []string{h.path("one.pem")}}, Change{Key: "other", Paths: []string{h.path("two.pem")}}
	for range 2 {
		done, err := tell(Action{}, bad, other)
		if e := (*Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Fact, "refuses the certificate for "+h.path("one.pem")) || len(done) != 1 || done[0].Key != "other" {
			t.Fatalf("%v, %v", done, err)
		}
	}
	if got := h.serves(); got != 14 {
		t.Errorf("it serves %d after a bad one", got)
	}
	if names, err := haproxyNames(t.Context(), h.socket); err != nil || !slices.Contains(names, h.path("one.pem")) || len(names) != 2 {
		t.Error(names, err)
	}

	// By the name that it has there.
	if done, err := tell(Action{Name: h.path("one.pem")}, other); err != nil || len(done) != 1 || h.serves() != 30 {
		t.Error(done, err)
	}
	_, err := tell(Action{}, Change{Key: "www", Paths: []string{"/a", "/b"}})
	if err == nil || err.Error() != "haproxy has loaded no certificate from /a, /b" {
		t.Error(err)
	}
}

// Somebody who has died in the middle has left a transaction, which the next try goes on with, or ends: haproxy has one
// at a time.
func TestTransactionOfADeadProcessIsNotInTheWay(t *testing.T) {
	h, good := startHAProxy(t, "admin"), selfSigned(t, 41)
	content := good
	r := New(Options{Content: func(string) ([]byte, error) { return content, nil }})
	begin := func() {
		t.Helper()
		if said, err := askHAProxy(t.Context(), h.socket, slices.Concat([]byte("set ssl cert "+h.path("one.pem")+" <<\n"), selfSigned(t, 40), []byte("\n"))); err != nil || !strings.HasPrefix(said, "Transaction created") {
			t.Fatal(said, err)
		}
	}
	tell := func(name string) error {
		_, err := r.tellHAProxy(t.Context(), Action{HAProxy: h.socket}, []Change{{Paths: []string{h.path(name)}}})
		return err
	}
	begin()
	if err := tell("one.pem"); err != nil || h.serves() != 41 {
		t.Error(err, h.serves())
	}
	begin()
	content = good[:300]
	if err := tell("one.pem"); err == nil {
		t.Error("a bad one is taken")
	}
	content = selfSigned(t, 42)
	if err := tell("two.pem"); err != nil {
		t.Error(err)
	}
}

func TestHAProxyThatCannotBeTold(t *testing.T) {
	user := startHAProxy(t, "user")
	dir := t.TempDir()
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r := New(Options{Content: func(string) ([]byte, error) { return selfSigned(t, 2), nil }})
	for what, tt := range map[string]struct{ socket, want string }{
		"no socket":        {filepath.Join(dir, "none"), "cannot be reached"},
		"no rights":        {user.socket, "does not tell its certificates"},
		"it hangs":         {silent.Addr().String(), "does not answer: context deadline exceeded"},
		"something else":   {"/dev/null", "cannot be reached"},
		"no such instance": {dir, "cannot be reached"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if what != "it hangs" {
			ctx = t.Context()
		}
		_, err := r.tellHAProxy(ctx, Action{HAProxy: tt.socket}, []Change{{Paths: []string{user.path("one.pem")}}})
		cancel()
		if e := (*Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Fact, tt.want) || e.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := user.serves(); got != 1 {
		t.Error(got)
	}
}
