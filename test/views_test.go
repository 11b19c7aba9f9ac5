package test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
)

// The names of the certificate that these tests show.
const (
	viewed = "contoso-web.www"
	live   = "live/" + viewed + "/"
)

// mountViews shows the certificate www in every layout. The block own says how,
// and the readers, by name or id, may read it.
func mountViews(t testing.TB, key emulator.KeyType, own map[string]any, readers ...any) *site {
	t.Helper()
	s := newSite(t, emulator.Profile{Name: "www", Key: key})
	s.configure(func(d document) {
		d.own()["layouts"] = []string{"v3", "v4", "live", "certs", "pfx", "jks", "truststore", "x509store"}
		maps.Copy(d.own(), own)
		var acls []any
		for _, r := range readers {
			acls = append(acls, map[string]any{"user": r})
		}
		d.entry("www")["acls"] = acls
	})
	s.mount()
	return s
}

// room is a directory that every user may enter.
func (s *site) room(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// startApache serves a chain and its key. Its parent, which reads them, stays root.
func startApache(s *site, client *tls.Config, chain, key string) *tlsServer {
	const config = `
ServerRoot %[1]s
ServerName www.example.com
PidFile apache.pid
ErrorLog /dev/stderr
LoadModule mpm_event_module %[2]s/mod_mpm_event.so
LoadModule authz_core_module %[2]s/mod_authz_core.so
LoadModule dir_module %[2]s/mod_dir.so
LoadModule ssl_module %[2]s/mod_ssl.so
User www-data
Group www-data
StartServers 1
Listen %[3]s
DocumentRoot %[1]s
DirectoryIndex page
<VirtualHost *>
	SSLEngine on
	SSLCertificateFile %[4]s
	SSLCertificateKeyFile %[5]s
</VirtualHost>
`
	v := &tlsServer{t: s.t, name: "apache2", addr: freeAddress(s.t), client: client, load: syscall.SIGUSR1}
	dir := s.room("apache2")
	if err := os.WriteFile(filepath.Join(dir, "page"), []byte(page), 0o644); err != nil {
		s.t.Fatal(err)
	}
	file := v.configure(dir, config, dir, "/usr/lib/apache2/modules", v.addr, chain, key)
	v.start("resuming normal operations", "-DFOREGROUND", "-f", file)
	return v
}

// startStunnel speaks TLS for a server that does not. It has given up its rights
// when it loads again, so its user has to be in the access list of the file.
func startStunnel(s *site, client *tls.Config, combined, backend string) *tlsServer {
	const config = `
foreground = yes
syslog = no
debug = info
pid =
setuid = stunnel4
setgid = stunnel4
[https]
accept = %s
connect = %s
cert = %s
`
	v := &tlsServer{t: s.t, name: "stunnel4", addr: freeAddress(s.t), client: client, load: syscall.SIGHUP, rebinds: true}
	v.start("bound to "+v.addr, v.configure(s.room("stunnel4"), config, v.addr, backend, combined))
	return v
}

// startHitch is startStunnel for hitch, whose master stays root. It loads a file
// again only if its time is later than that of what it has.
func startHitch(s *site, client *tls.Config, combined, backend string) *tlsServer {
	const config = `
frontend = "[%s]:%s"
backend = "[127.0.0.1]:%s"
pem-file = "%s"
user = "_hitch"
group = "_hitch"
workers = 1
daemon = off
syslog = off
log-level = 2
`
	v := &tlsServer{t: s.t, name: "hitch", addr: freeAddress(s.t), client: client, load: syscall.SIGHUP, rebinds: true}
	host, port, _ := strings.Cut(v.addr, ":")
	_, to, _ := strings.Cut(backend, ":")
	v.start("Process 0 online", "--config", v.configure(s.room("hitch"), config, host, port, to, combined))
	return v
}

// startBackend serves the page without TLS.
func startBackend(t testing.TB) (address string) {
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }))
	t.Cleanup(b.Close)
	return b.Listener.Addr().String()
}

// Servers whose users have each a layout of their own, and keys of both kinds in
// the form that each of them has read for the longest time.
func TestServersServeFromTheirViews(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, program := range []string{"nginx", "haproxy", "apache2", "stunnel4", "hitch", "openssl", "curl"} {
		needProgram(t, program)
	}
	for _, with := range []struct {
		key    emulator.KeyType
		format string
	}{{emulator.RSA2048, "traditional"}, {emulator.EC256, "traditional"}, {emulator.EC256, "pkcs8"}} {
		t.Run(fmt.Sprintf("%s %s", with.key, with.format), func(t *testing.T) {
			s := mountViews(t, with.key, map[string]any{"keyFormat": with.format}, "stunnel4")
			client, backend := s.client("www.example.com"), startBackend(t)
			combined, chain, key := s.path(viewed), s.path(live+"fullchain.pem"), s.path(live+"privkey.pem")
			servers := []*tlsServer{
				startNginx(t, client, chain, key),
				startHaproxy(t, client, combined),
				startApache(s, client, chain, key),
				startStunnel(s, client, combined, backend),
				startHitch(s, client, combined, backend),
			}
			first := leaf(t, chain)
			for _, server := range servers {
				if got, err := server.get(); err != nil || !got.Equal(first) {
					t.Errorf("%s: %v, want the first version", server.name, err)
				}
				s.connectWithTools(server)
			}
			s.laterThan(combined)
			s.rotate("www")
			second := leaf(t, chain)
			for _, server := range servers {
				server.reload()
				server.await(second)
			}
		})
	}
}

// laterThan waits until a new version has another time than a file: that is when
// the vault made it, to the second.
func (s *site) laterThan(path string) {
	s.t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.until("the second is over", func() bool { return time.Now().Unix() > info.ModTime().Unix() })
}

// connectWithTools lets openssl and curl verify what a server shows.
func (s *site) connectWithTools(v *tlsServer) {
	s.t.Helper()
	ca, name := s.vault.Endpoints().CA, v.client.ServerName
	_, port, _ := strings.Cut(v.addr, ":")
	out, errs, code := command(s.t, "curl", "--silent", "--show-error", "--cacert", ca, "--resolve", name+":"+port+":127.0.0.1", "https://"+name+":"+port+"/")
	if code != 0 || out != page {
		s.t.Errorf("curl at %s: exit code %d, %q\n%s", v.name, code, out, errs)
	}
	s.connectWithOpenssl(v)
}

func (s *site) connectWithOpenssl(v *tlsServer, args ...string) {
	s.t.Helper()
	args = append([]string{"s_client", "-connect", v.addr, "-servername", v.client.ServerName, "-verify_hostname", v.client.ServerName,
		"-verify_return_error", "-no-CApath", "-no-CAstore", "-CAfile", s.vault.Endpoints().CA}, args...)
	if out, errs, code := command(s.t, "openssl", args...); code != 0 || !strings.Contains(out, "Verify return code: 0 (ok)") {
		s.t.Errorf("openssl s_client at %s: exit code %d\n%s%s", v.name, code, out, errs)
	}
}

// database is a cluster of PostgreSQL, owned by the user who runs it.
type database struct {
	t    testing.TB
	bin  string // directory of the programs, which Debian has in no path
	data string
	as   *syscall.Credential
}

func newDatabase(t testing.TB, s *site) *database {
	t.Helper()
	d := &database{t: t, bin: needPostgres(t), data: s.room("cluster"), as: credential(t, "postgres")}
	if err := os.Chown(d.data, int(d.as.Uid), int(d.as.Gid)); err != nil {
		t.Fatal(err)
	}
	if out, err := d.command("initdb", "--no-sync", "--auth=trust", "--username=postgres", "-D", d.data).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return d
}

// needPostgres skips a test without PostgreSQL. It returns the directory of the
// programs of its newest version.
func needPostgres(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skip("postgres is not installed; make deps installs it")
	}
	return filepath.Dir(slices.Max(found))
}

func (d *database) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), filepath.Join(d.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = d.data, &syscall.SysProcAttr{Credential: d.as}
	return cmd
}

// settings of a server with a chain and its key.
func (d *database) settings(address, chain, key string) []string {
	host, port, _ := strings.Cut(address, ":")
	args := []string{"-D", d.data}
	for _, set := range []string{"listen_addresses=" + host, "port=" + port, "unix_socket_directories=", "fsync=off",
		"ssl=on", "ssl_cert_file=" + chain, "ssl_key_file=" + key} {
		args = append(args, "-c", set)
	}
	return args
}

func (d *database) start(client *tls.Config, chain, key string) *tlsServer {
	v := &tlsServer{t: d.t, name: "postgres", path: filepath.Join(d.bin, "postgres"), addr: freeAddress(d.t), client: client,
		load: syscall.SIGHUP, as: d.as, greet: greetPostgres}
	v.start("database system is ready to accept connections", d.settings(v.addr, chain, key)...)
	return v
}

// refusal is what it says of a chain and a key that it does not start with.
func (d *database) refusal(chain, key string) string {
	d.t.Helper()
	out, err := d.command("postgres", d.settings(freeAddress(d.t), chain, key)...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		d.t.Fatalf("it starts: %v\n%s", err, out)
	}
	return string(out)
}

// greetPostgres asks for TLS: SSLRequest, in the chapter "Message Formats" of the
// documentation.
func greetPostgres(conn net.Conn) error {
	if _, err := conn.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return fmt.Errorf("it answers %q, want S", answer)
	}
	return nil
}

// PostgreSQL reads its key as the user who runs it, and takes one that root owns
// with mode 0640 at most, or that this user owns with 0600 at most. It looks at
// the mode and not at an access list; a file of kvfs belongs to root and shows
// 0640 with a list and 0600 without. So it serves from a file whose list has its
// user, or a group of that user.
func TestPostgresServesFromALiveDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needPostgres(t)
	needProgram(t, "openssl")
	for _, with := range []struct {
		key    emulator.KeyType
		reader map[string]any
	}{
		{emulator.EC256, map[string]any{"user": "postgres"}},
		{emulator.RSA2048, map[string]any{"group": "postgres"}},
	} {
		t.Run(string(with.key), func(t *testing.T) {
			s := newSite(t, emulator.Profile{Name: "www", Key: with.key}, emulator.Profile{Name: "closed"})
			s.configure(func(d document) {
				d.own()["layouts"] = []string{"live", "certs"}
				d.entry("www")["acls"] = []any{with.reader}
			})
			s.mount()
			chain, key := s.path(live+"fullchain.pem"), s.path(live+"privkey.pem")
			d := newDatabase(t, s)
			server := d.start(s.client("www.example.com"), chain, key)
			s.connectWithOpenssl(server, "-starttls", "postgres")
			d.connect(server, s.vault.Endpoints().CA)
			s.rotate("www")
			server.reload()
			server.await(leaf(t, chain))
			server.stop()

			if said := d.refusal(s.path(viewed+".certs.pem"), s.path("live/contoso-web.closed/privkey.pem")); !strings.Contains(said, "Permission denied") {
				t.Errorf("of a key that it is not in the list of it says\n%s", said)
			}
			if said := d.refusal(chain, s.path(viewed+".certs.pem")); !strings.Contains(said, "u=rw,g=r (0640) or less if owned by root") {
				t.Errorf("of a file with mode 0644 it says\n%s", said)
			}
		})
	}
}

// connect verifies a server as clients of PostgreSQL do.
func (d *database) connect(v *tlsServer, ca string) {
	d.t.Helper()
	host, port, _ := strings.Cut(v.addr, ":")
	out, errs, code := command(d.t, filepath.Join(d.bin, "psql"), "--no-psqlrc", "-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
		fmt.Sprintf("hostaddr=%s port=%s host=%s user=postgres dbname=postgres sslmode=verify-full sslrootcert=%s", host, port, v.client.ServerName, ca))
	if code != 0 || out != "t\n" {
		d.t.Errorf("psql: exit code %d, %q\n%s", code, out, errs)
	}
}

// spelling is one way to show a certificate, and what programs need to read it.
type spelling struct {
	key      emulator.KeyType
	format   string
	password string // in the password file; "" for no such file
	label    string // of the key in PEM files
	command  string // of openssl for a key in this form
}

func spellings() []spelling {
	return []spelling{
		{emulator.EC256, "pkcs8", "", "PRIVATE KEY", "pkey"},
		{emulator.RSA2048, "traditional", "correct horse", "RSA PRIVATE KEY", "rsa"},
		{emulator.EC256, "traditional", "correct horse", "EC PRIVATE KEY", "ec"},
		{emulator.RSA2048, "pkcs8", "", "PRIVATE KEY", "pkey"},
	}
}

func (w spelling) String() string {
	if w.password == "" {
		return fmt.Sprintf("%s %s", w.key, w.format)
	}
	return fmt.Sprintf("%s %s with a password", w.key, w.format)
}

// javaPassword is that of the keystores.
func (w spelling) javaPassword() string {
	if w.password == "" {
		return "changeit"
	}
	return w.password
}

func (w spelling) mount(t testing.TB) *site {
	t.Helper()
	own := map[string]any{"keyFormat": w.format}
	if w.password != "" {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(w.password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		own["passwordFile"] = file
	}
	return mountViews(t, w.key, own)
}

// tool runs a program that has to succeed.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, errs, code := command(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", name, strings.Join(args, " "), code, out, errs)
	}
	return out
}

// pair reads a chain with its key from PEM.
func pair(t testing.TB, text string) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}

// isPair tells whether a file that a program has read is the chain and the key
// that the PEM files hold.
func isPair(t testing.TB, what string, got, want tls.Certificate) {
	t.Helper()
	if !slices.EqualFunc(got.Certificate, want.Certificate, bytes.Equal) {
		t.Errorf("%s: %d certificates that are not the chain", what, len(got.Certificate))
	}
	if !got.PrivateKey.(interface{ Equal(crypto.PrivateKey) bool }).Equal(want.PrivateKey) {
		t.Errorf("%s: another key", what)
	}
}

// openPFX reads a PFX with openssl.
func openPFX(t testing.TB, path, password string) tls.Certificate {
	t.Helper()
	return pair(t, tool(t, "openssl", "pkcs12", "-in", path, "-passin", "pass:"+password, "-nodes"))
}

func TestOpensslReadsEveryView(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needProgram(t, "openssl")
	for _, with := range spellings() {
		t.Run(with.String(), func(t *testing.T) {
			s := with.mount(t)
			want := pair(t, string(readFile(t, s.path(viewed))))

			tool(t, "openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", s.vault.Endpoints().CA, "-untrusted", s.path(live+"chain.pem"),
				"-purpose", "sslserver", "-verify_hostname", "www.example.com", s.path(live+"cert.pem"))
			for _, key := range []string{viewed + ".keyid", live + "privkey.pem"} {
				if first, _, _ := strings.Cut(string(readFile(t, s.path(key))), "\n"); first != "-----BEGIN "+with.label+"-----" {
					t.Errorf("%s begins with %s", key, first)
				}
				public := tool(t, "openssl", with.command, "-in", s.path(key), "-pubout")
				if public != tool(t, "openssl", "x509", "-in", s.path(live+"cert.pem"), "-noout", "-pubkey") {
					t.Errorf("openssl %s finds another key in %s", with.command, key)
				}
			}

			isPair(t, ".pfx", openPFX(t, s.path(viewed+".pfx"), with.password), want)
			isPair(t, "bundle.pfx", openPFX(t, s.path(live+"bundle.pfx"), with.password), want)
			for _, wrong := range []string{"wrong", with.password + " "} {
				if out, _, code := command(t, "openssl", "pkcs12", "-in", s.path(viewed+".pfx"), "-passin", "pass:"+wrong, "-nodes"); code == 0 {
					t.Errorf("with the password %q openssl reads\n%s", wrong, out)
				}
			}

			// .NET finds a certificate by this name, and gives no password.
			fingerprint := tool(t, "openssl", "x509", "-in", s.path(live+"cert.pem"), "-noout", "-fingerprint", "-sha1")
			_, thumbprint, _ := strings.Cut(strings.TrimSpace(fingerprint), "=")
			name := "my/" + strings.ReplaceAll(thumbprint, ":", "") + ".pfx"
			isPair(t, name, openPFX(t, s.path(name), ""), want)
		})
	}
}

// keytool is Java's. Its start is made short, since it does little else.
func keytool(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, needProgram(t, "keytool"), append([]string{"-J-Xshare:auto", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Duser.language=en"}, args...)...)
}

func TestKeytoolReadsTheStores(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needProgram(t, "openssl")
	needProgram(t, "keytool")
	for _, with := range spellings()[:2] {
		t.Run(with.String(), func(t *testing.T) {
			s := with.mount(t)
			want := pair(t, string(readFile(t, s.path(viewed))))
			for _, store := range []struct{ file, kind, password string }{
				{viewed + ".pfx", "PKCS12", with.password},
				{live + "keystore.jks", "JKS", with.javaPassword()},
			} {
				t.Run(store.kind, func(t *testing.T) {
					t.Parallel()
					path := s.path(store.file)
					list, errs, code := keytool(t, "-list", "-v", "-storetype", store.kind, "-keystore", path, "-storepass", store.password)
					for _, line := range []string{"Your keystore contains 1 entry", "Entry type: PrivateKeyEntry", "Certificate chain length: 3"} {
						if !strings.Contains(list, line+"\n") {
							t.Errorf("keytool (exit code %d) does not say %q of %s:\n%s%s", code, line, store.file, list, errs)
						}
					}
					if out, errs, code := keytool(t, "-list", "-storetype", store.kind, "-keystore", path, "-storepass", "wrongly"); code == 0 || !strings.Contains(out+errs, "password was incorrect") {
						t.Errorf("keytool with a wrong password: exit code %d\n%s%s", code, out, errs)
					}
					// Java gives key and chain away only as another store.
					copied := filepath.Join(t.TempDir(), "copy.pfx")
					if out, errs, code := keytool(t, "-importkeystore", "-srcstoretype", store.kind, "-srckeystore", path, "-srcstorepass", store.password,
						"-deststoretype", "PKCS12", "-destkeystore", copied, "-deststorepass", "another"); code != 0 {
						t.Fatalf("keytool -importkeystore of %s: exit code %d\n%s%s", store.file, code, out, errs)
					}
					isPair(t, store.file, openPFX(t, copied, "another"), want)
				})
			}
			t.Run("truststore", func(t *testing.T) {
				t.Parallel()
				checkTrustStore(t, s, "changeit") // whatever the password of the others
			})
			if !bytes.Equal(readFile(t, s.path(viewed+".jks")), readFile(t, s.path(live+"keystore.jks"))) {
				t.Error("the two keystores differ")
			}
		})
	}
}

// checkTrustStore sees that Java finds the issuers in a store, and by them verifies
// the leaf: what it cannot verify it asks a person about, who is not there.
func checkTrustStore(t *testing.T, s *site, password string) {
	t.Helper()
	path := s.path(viewed + ".truststore.jks")
	list, errs, code := keytool(t, "-list", "-rfc", "-storetype", "JKS", "-keystore", path, "-storepass", password)
	if code != 0 || strings.Count(list, "Entry type: trustedCertEntry") != 2 || strings.Contains(list, "PrivateKey") {
		t.Errorf("keytool says of the trust store (exit code %d)\n%s%s", code, list, errs)
	}
	_, trusted := blocks(t, []byte(list))
	_, issuers := blocks(t, readFile(t, s.path(live+"chain.pem")))
	for _, c := range issuers {
		if !slices.ContainsFunc(trusted, c.Equal) {
			t.Errorf("%s is not in the trust store", c.Subject)
		}
	}
	verifies := func(certificate string) bool {
		copied := filepath.Join(t.TempDir(), "copy.jks") // -importcert writes
		if err := os.WriteFile(copied, readFile(t, path), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, _ := keytool(t, "-importcert", "-alias", "leaf", "-file", certificate, "-storetype", "JKS", "-keystore", copied, "-storepass", password)
		return strings.Contains(out+errs, "Certificate was added to keystore")
	}
	if !verifies(s.path(live + "cert.pem")) {
		t.Error("Java does not verify the leaf by the trust store")
	}
	foreign := filepath.Join(t.TempDir(), "foreign.pem")
	tool(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=www.example.com", "-out", foreign)
	if verifies(foreign) {
		t.Error("Java verifies by the trust store what it does not")
	}
}

// The two files of a directory that was opened once belong together, whatever
// happens between reading the one and the other.
func TestPairReadThroughALiveDirectoryAlwaysMatches(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := mountViews(t, emulator.EC256, nil)
	const renewals = 50

	// One who reads on and on, and says which version was read.
	var left sync.WaitGroup
	read, stop := make(chan *x509.Certificate), make(chan struct{})
	left.Go(func() {
		defer close(read)
		for {
			leaf, err := readPair(s.path("live/"+viewed), func() {})
			if err != nil {
				t.Errorf("a reader beside the renewals: %v", err)
				return
			}
			select {
			case <-stop:
				return
			case read <- leaf:
			default: // nobody waits
			}
		}
	})
	defer left.Wait()
	defer close(stop)

	// And one whose every reading has a renewal in its middle.
	seen := map[string]bool{}
	for range renewals {
		was := leaf(t, s.path(live+"cert.pem"))
		got, err := readPair(s.path("live/"+viewed), func() { s.rotate("www") })
		if err != nil {
			t.Fatal("a reader around a renewal: ", err)
		}
		if !got.Equal(was) {
			t.Fatal("it read another version than the one it opened")
		}
		now := leaf(t, s.path(live+"cert.pem"))
		if now.Equal(was) {
			t.Fatal("the link leads to the old version after a renewal")
		}
		// No reading may span two renewals: of the versions before the last two
		// nothing is kept.
		for beside := range read {
			if beside.Equal(now) {
				seen[string(beside.Raw)] = true
				break
			}
		}
	}
	if len(seen) != renewals {
		t.Errorf("the reader beside the renewals has seen %d of %d versions", len(seen), renewals)
	}
}

// readPair opens a directory and reads chain and key from it, which must match. It
// calls between after it has read the first.
func readPair(dir string, between func()) (leaf *x509.Certificate, err error) {
	opened, err := os.OpenRoot(dir) // reads with openat
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	chain, err := opened.ReadFile("fullchain.pem")
	if err != nil {
		return nil, err
	}
	between()
	key, err := opened.ReadFile("privkey.pem")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	return pair.Leaf, err
}

// Whoever is not in the list reads what everybody may know, in every layout and
// under every name; the list lets in to all of it.
func TestOnlyWhoIsAdmittedReadsWhatIsSecret(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := mountViews(t, emulator.EC256, nil, admitted)
	s.rotate("www") // of the version before there are files too
	found := map[bool]int{}
	err := filepath.WalkDir(s.store, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return err
		}
		name := d.Name()
		public := strings.HasSuffix(name, ".certs.pem") || strings.HasSuffix(name, ".truststore.jks") || strings.HasSuffix(name, ".luma")
		found[public]++
		s.checkReaders(path, public)
		if public && bytes.Contains(readFile(t, path), []byte("PRIVATE")) {
			t.Errorf("%s has a key", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// For each of two versions one file, with a link to one of them, of v3, pem,
	// keyid, pfx, jks, certs and truststore; six in archive, one in my; luma.
	if found[false] != 5*3+2*6+2 || found[true] != 2*3+1 {
		t.Errorf("%d secret and %d public files", found[false], found[true])
	}
}

// checkReaders sees that the kernel lets in who may read a file, and nobody else.
func (s *site) checkReaders(path string, public bool) {
	s.t.Helper()
	mode := os.FileMode(0o640)
	if public {
		mode = 0o644
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		s.t.Errorf("%s has mode %v (%v), want %v", path, info.Mode(), err, mode)
	}
	for uid, may := range map[uint32]bool{0: true, admitted: true, stranger: public} {
		if got := exitOf(s.t, "cat", path, &syscall.Credential{Uid: uid, Gid: stranger}) == 0; got != may {
			s.t.Errorf("user %d reads %s: %v", uid, path, got)
		}
	}
}
