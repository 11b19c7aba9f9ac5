package vault_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kvfs/vault"
)

// proxiedChild tells this program to be the child of TestVaultsAndLoginsGoThroughTheProxy: net/http reads the proxy from the
// environment once per process.
const proxiedChild = "KVFS_TEST_PROXIED_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(proxiedChild) != "" {
		os.Exit(runProxiedChild())
	}
	if directory := os.Getenv(arcChild); directory != "" {
		os.Exit(runArcChild(directory))
	}
	os.Exit(m.Run())
}

// runProxiedChild asks a vault through the proxy, one past it, an identity endpoint that answers to nobody, and a login server.
func runProxiedChild() int {
	ref, _, err := vault.ParseRef(brokenWWW, "example.com")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	here := vault.Identity{Endpoint: os.Getenv("CHILD_IDENTITY")}
	for _, try := range []struct {
		connect map[string]string
		id      vault.Identity
		limit   time.Duration
	}{
		{nil, here, 0},
		{map[string]string{"*.example.com:443": os.Getenv("CHILD_VAULT")}, here, 0},
		{nil, vault.Identity{Endpoint: "http://192.0.2.1"}, 3 * time.Second},
		{nil, vault.Identity{Method: vault.ServicePrincipal, TenantID: "t", ClientID: "c", SecretFile: os.Getenv("CHILD_CA")}, 0},
	} {
		c, err := vault.New(vault.Options{CAFile: os.Getenv("CHILD_CA"), Connect: try.connect, TryTimeout: try.limit})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, err = c.Get(context.Background(), try.id, ref)
		fmt.Println("result:", err)
	}
	return 0
}

func TestVaultsAndLoginsGoThroughTheProxyAndManagedIdentitiesDoNot(t *testing.T) {
	b := newBroken(t, 0, withToken(says(http.StatusOK, `{"value":"x","id":"https://contoso-web.example.com/secrets/www/`+version+`"}`)))
	p := &connectProxy{to: b.Listener.Addr().String()}
	server := httptest.NewServer(p)
	defer server.Close()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(withoutProxies(os.Environ()), proxiedChild+"=1", "HTTPS_PROXY="+server.URL, "HTTP_PROXY="+server.URL,
		"CHILD_CA="+b.ca, "CHILD_IDENTITY="+b.id.Endpoint, "CHILD_VAULT="+p.to)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	results := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(results) != 4 || results[0] != "result: <nil>" || results[1] != "result: <nil>" || !strings.Contains(results[2], "identity endpoint http://192.0.2.1") ||
		!strings.Contains(results[3], "cannot reach the login server login.microsoftonline.com: its certificate is for another name") {
		t.Errorf("the child says: %s", out)
	}
	// The first, the third and the fourth try; Connect leads past the proxy.
	const toVault = "CONNECT contoso-web.example.com:443"
	if want := []string{toVault, toVault, toVault, "CONNECT login.microsoftonline.com:443"}; !slices.Equal(p.requests(), want) {
		t.Errorf("the proxy was asked for %q, want %q", p.requests(), want)
	}
}

func withoutProxies(env []string) []string {
	return slices.DeleteFunc(env, func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return strings.HasSuffix(strings.ToUpper(name), "_PROXY")
	})
}

// connectProxy tunnels everything to one address and remembers what it was asked for.
type connectProxy struct {
	to   string
	mu   sync.Mutex
	seen []string
}

func (p *connectProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+r.Host)
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = far.Close() }()
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = near.Close() }()
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}
