package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// agentKeys is the directory that MSAL trusts.
const agentKeys = "/var/opt/azcmagent/tokens"

// arcServer is an emulator that writes its keys to one directory and names
// another one.
func arcServer(t *testing.T) (e *Emulator, keys string) {
	t.Helper()
	keys = filepath.Join(t.TempDir(), "tokens")
	return start(t, Options{ArcKeys: keys, ArcRealm: agentKeys}), keys
}

// arcAsk sends a proper request to the Azure Arc endpoint, with a key unless it
// is empty. realm is the file that a challenge names.
func arcAsk(t *testing.T, e *Emulator, q url.Values, key string) (status int, realm string, body map[string]string) {
	t.Helper()
	values := url.Values{"api-version": {"2020-06-01"}, "resource": {vaultResource}}
	for name, v := range q {
		values[name] = v
	}
	r := must[*http.Request](t)(http.NewRequest(http.MethodGet, e.Endpoints().Arc+"/oauth2/token?"+values.Encode(), nil))
	r.Header.Set("Metadata", "true")
	if key != "" {
		r.Header.Set("Authorization", "Basic "+key)
	}
	r.Close = true
	response := must[*http.Response](t)(http.DefaultClient.Do(r))
	defer response.Body.Close()
	text := must[[]byte](t)(io.ReadAll(response.Body))
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("body %q: %v", text, err)
	}
	challenge := response.Header.Get("WWW-Authenticate")
	realm, ok := strings.CutPrefix(challenge, "Basic realm=")
	if !ok && challenge != "" {
		realm = "?" + challenge
	}
	return response.StatusCode, realm, body
}

// arcKeyOf reads the key that a realm names, at the place where it was written.
func arcKeyOf(t *testing.T, keys, realm string) (path, key string) {
	t.Helper()
	relative := must[string](t)(filepath.Rel(agentKeys, realm))
	path = filepath.Join(keys, relative)
	return path, string(must[[]byte](t)(os.ReadFile(path)))
}

func TestArcAnswersWhoeverCanReadTheKey(t *testing.T) {
	e, keys := arcServer(t)
	system, user := Identity{ClientID: newUUID(), ObjectID: newUUID(), System: true}, Identity{ClientID: newUUID(), ObjectID: newUUID()}
	e.SetIdentities(user, system)
	status, realm, body := arcAsk(t, e, nil, "")
	if status != 401 || filepath.Dir(realm) != agentKeys || !strings.HasSuffix(realm, ".key") || body["error"] != "unauthorized_client" {
		t.Fatalf("%d %q %v", status, realm, body)
	}
	path, key := arcKeyOf(t, keys, realm)
	if info := must[os.FileInfo](t)(os.Lstat(path)); info.Mode() != 0o440 || info.Size() > maxArcKeySize {
		t.Errorf("key file %v of %d bytes", info.Mode(), info.Size())
	}
	status, realm, body = arcAsk(t, e, nil, key)
	if status != 200 || realm != "" || body["client_id"] != system.ClientID || body["resource"] != vaultResource || body["token_type"] != "Bearer" {
		t.Fatalf("%d %q %v", status, realm, body)
	}
	if c, complaint := e.tokens.check(body["access_token"], vaultResource); c == nil || c.ObjectID != system.ObjectID {
		t.Errorf("token of %+v: %s", c, complaint)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the key file is still there: %v", err)
	}
	status, realm, _ = arcAsk(t, e, nil, key)
	if path, second := arcKeyOf(t, keys, realm); status != 401 || second == key {
		t.Errorf("%d and %s: a key is good once, and each challenge has its own", status, path)
	}
	if status, _, _ := arcAsk(t, e, nil, "nonsense"); status != 401 {
		t.Errorf("a wrong key: %d", status)
	}
	if got := e.Counters(); got.Arc != 4 || got.ArcErrors != 0 || got.Identity != 0 {
		t.Errorf("counters %+v", got)
	}
}

func TestArcRefusesWhatTheAgentRefuses(t *testing.T) {
	e, _ := arcServer(t)
	for _, test := range []struct {
		q      url.Values
		status int
	}{
		{nil, 401},
		{url.Values{"api-version": {"2019-11-01"}}, 401},
		{url.Values{"api-version": {"2018-02-01"}}, 400},
		{url.Values{"api-version": {"2021-02-01"}}, 400},
		{url.Values{"resource": nil}, 400},
		{url.Values{"resource": {"https://vault.azure.cn"}}, 400},
	} {
		if status, _, body := arcAsk(t, e, test.q, ""); status != test.status {
			t.Errorf("%v: %d %v", test.q, status, body)
		}
	}
	response := must[*http.Response](t)(http.Get(e.Endpoints().Arc + "/oauth2/token?api-version=2020-06-01&resource=" + vaultResource))
	response.Body.Close()
	if response.StatusCode != 400 {
		t.Errorf("without Metadata: %d", response.StatusCode)
	}
	if got := e.Counters(); got.Arc != 7 || got.ArcErrors != 5 {
		t.Errorf("counters %+v", got)
	}
}

// exchangeArc goes through both requests of an exchange, whatever the challenge is.
func exchangeArc(t *testing.T, e *Emulator, keys string, q url.Values) (int, map[string]string) {
	t.Helper()
	_, realm, _ := arcAsk(t, e, q, "")
	_, key := arcKeyOf(t, keys, realm)
	status, _, body := arcAsk(t, e, q, key)
	return status, body
}

func TestArcEchoesTheIdentityAskedFor(t *testing.T) {
	e, keys := arcServer(t)
	system := Identity{ClientID: "c0", ObjectID: "o0", System: true}
	user := Identity{ClientID: "c1", ObjectID: "o1", ResourceID: "/subscriptions/1"}
	e.SetIdentities(system, user)
	for _, test := range []struct {
		selector, value          string
		status                   int
		client, object, resource string
	}{
		{"client_id", "C1", 200, "c1", "", ""},
		{"object_id", "o1", 200, "c1", "o1", ""},
		{"msi_res_id", "/Subscriptions/1", 200, "c1", "", "/Subscriptions/1"},
		{"mi_res_id", "/subscriptions/1", 200, "c0", "", ""}, // a spelling it does not know
		{"client_id", "c9", 400, "", "", ""},
	} {
		status, body := exchangeArc(t, e, keys, url.Values{test.selector: {test.value}})
		if status != test.status || body["client_id"] != test.client || body["object_id"] != test.object || body["msi_res_id"] != test.resource {
			t.Errorf("%s=%s: %d %v", test.selector, test.value, status, body)
		}
	}
	e.SetFault(Fault{Kind: ArcIgnoresSelector, Count: 1})
	status, body := exchangeArc(t, e, keys, url.Values{"client_id": {"c1"}})
	if _, echo := body["client_id"]; status != 200 || echo {
		t.Errorf("an old agent: %d %v", status, body)
	}
	if c, _ := e.tokens.check(body["access_token"], vaultResource); c == nil || c.ObjectID != "o0" {
		t.Errorf("an old agent's token: %+v", c)
	}
	e.SetIdentities(user)
	if status, body := exchangeArc(t, e, keys, nil); status != 401 || body["error"] != "unauthorized_client" {
		t.Errorf("without a system-assigned identity: %d %v", status, body)
	}
}

// Each of these keys opens: only a client's own check keeps it from fetching it.
func TestArcFaultsSpoilTheChallengeAndNotTheKey(t *testing.T) {
	e, keys := arcServer(t)
	for _, test := range []struct {
		kind FaultKind
		bad  func(realm, key string, info os.FileInfo) bool
	}{
		{ArcWrongDirectory, func(realm, _ string, _ os.FileInfo) bool { return filepath.Dir(realm) != agentKeys }},
		{ArcWrongSuffix, func(realm, _ string, _ os.FileInfo) bool { return filepath.Ext(realm) != ".key" }},
		{ArcOversizedKey, func(_, key string, _ os.FileInfo) bool { return len(key) > maxArcKeySize }},
		{ArcSymlinkKey, func(_, _ string, info os.FileInfo) bool { return info.Mode().Type() == os.ModeSymlink }},
	} {
		e.SetFault(Fault{Kind: test.kind, Count: 1})
		status, realm, _ := arcAsk(t, e, nil, "")
		path, key := arcKeyOf(t, keys, realm)
		if status != 401 || !test.bad(realm, key, must[os.FileInfo](t)(os.Lstat(path))) {
			t.Errorf("%s: %d %s", test.kind, status, realm)
		}
		if status, _, body := arcAsk(t, e, nil, key); status != 200 {
			t.Errorf("%s: %d %v", test.kind, status, body)
		}
		if files := filesBelow(t, keys); len(files) > 0 {
			t.Errorf("%s leaves %v behind", test.kind, files)
		}
	}
	e.SetFault(Fault{Kind: ArcNoChallenge, Count: 1})
	if status, _, body := arcAsk(t, e, nil, ""); status != 200 || body["access_token"] == "" {
		t.Errorf("%d %v", status, body)
	}
	e.SetFault(Fault{Kind: ArcMalformedChallenge, Count: 1})
	if status, realm, _ := arcAsk(t, e, nil, ""); status != 401 || realm != "?Basic realm" {
		t.Errorf("%d %s", status, realm)
	}
	if got := e.Counters(); got.ArcErrors != 0 {
		t.Errorf("counters %+v", got)
	}
}

func filesBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A count must not be used up by the challenge before it.
func TestArcFaultsActOnTheirHalfOfAnExchange(t *testing.T) {
	e, keys := arcServer(t)
	for kind, want := range map[FaultKind]int{ServerError: 500, Unavailable: 503, Throttled: 429, ForbiddenRBAC: 500} {
		e.SetFault(Fault{Name: "@arc", Kind: kind, Count: 1})
		if status, body := exchangeArc(t, e, keys, nil); status != want {
			t.Errorf("%s: %d %v", kind, status, body)
		}
		if status, body := exchangeArc(t, e, keys, nil); status != 200 {
			t.Errorf("after %s: %d %v", kind, status, body)
		}
	}
	e.SetFault(Fault{Name: "@identity", Kind: ServerError})
	e.SetFault(Fault{Kind: ServerError})
	if status, body := exchangeArc(t, e, keys, nil); status != 200 {
		t.Errorf("a fault of another place: %d %v", status, body)
	}
	if err := (Fault{Name: "@arc", Kind: IdentityGone}).Validate(); err != nil {
		t.Errorf("its kind says where it belongs: %v", err)
	}
	if err := (Fault{Name: "@login", Kind: Garbage}).Validate(); err == nil {
		t.Error("a login server has no secrets")
	}
}

func TestArcKeysDoNotPileUp(t *testing.T) {
	keys := t.TempDir()
	e, err := New(Options{Dir: t.TempDir(), ArcKeys: keys})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	_, first, _ := arcAsk(t, e, nil, "")
	if filepath.Dir(first) != keys {
		t.Errorf("realm %s, want it in %s", first, keys)
	}
	for range maxArcKeys {
		arcAsk(t, e, nil, "")
	}
	files := filesBelow(t, keys)
	if len(files) != maxArcKeys || slices.Contains(files, first) {
		t.Errorf("%d key files, the oldest among them: %v", len(files), slices.Contains(files, first))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if files := filesBelow(t, keys); len(files) != 0 {
		t.Errorf("Run leaves %d key files behind", len(files))
	}
}

func TestWithoutKeysThereIsNoArcEndpoint(t *testing.T) {
	e := start(t, Options{})
	text := must[[]byte](t)(json.Marshal(e.Endpoints()))
	if e.Endpoints().Arc != "" || strings.Contains(string(text), `"arc"`) {
		t.Errorf("endpoints %s", text)
	}
}

// throughArc is azidentity's credential as it behaves on an Azure Arc machine.
func throughArc(t *testing.T, e *Emulator, id azidentity.ManagedIDKind) azcore.TokenCredential {
	t.Helper()
	t.Setenv("IMDS_ENDPOINT", strings.TrimSuffix(e.Endpoints().Arc, "/metadata/identity"))
	t.Setenv("IDENTITY_ENDPOINT", e.Endpoints().Arc+"/oauth2/token")
	return must[*azidentity.ManagedIdentityCredential](t)(azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ID: id, ClientOptions: azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}},
	}))
}

// arcChild tells this program to be the child of the test below.
const (
	arcChild    = "KVFS_TEST_ARC_CHILD"
	cannotMount = 77 // its exit code where it may not have a directory of its own
)

// The directory is a constant of MSAL, so the test goes on in a child that sees
// another one in its place: on a machine with an agent nothing is disturbed.
func TestUnmodifiedAzidentityGetsTokensThroughArc(t *testing.T) {
	if os.Getenv(arcChild) != "" {
		mountAgentKeys(t)
		azidentityThroughArc(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), arcChild+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	if child.ProcessState == nil || child.ProcessState.ExitCode() == cannotMount {
		t.Skipf("this machine does not let a process have mounts of its own: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// mountAgentKeys makes an empty agentKeys that only this process sees.
func mountAgentKeys(t *testing.T) {
	t.Helper()
	err := errors.Join(
		syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", "/var/opt", "tmpfs", 0, ""),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(cannotMount)
	}
	if err := os.MkdirAll(agentKeys, 0o755); err != nil {
		t.Fatal(err)
	}
}

func azidentityThroughArc(t *testing.T) {
	t.Helper()
	e := start(t, Options{ArcKeys: agentKeys})
	user := Identity{ClientID: newUUID(), ObjectID: newUUID(), ResourceID: "/subscriptions/" + newUUID() + "/x"}
	e.SetIdentities(Identity{ClientID: newUUID(), ObjectID: newUUID(), System: true}, user)
	must[string](t)(e.AddSecret("", "word", "", "x"))
	for _, id := range []azidentity.ManagedIDKind{nil, azidentity.ClientID(user.ClientID), azidentity.ObjectID(user.ObjectID), azidentity.ResourceID(user.ResourceID)} {
		get(t, vaultClient(t, e, e.Endpoints().Vaults[0], throughArc(t, e, id), -1), "word", "")
	}
	before := e.Counters().Arc
	for kind, said := range map[FaultKind]string{
		ArcIgnoresSelector: "did not confirm", ArcWrongDirectory: "invalid file path", ArcWrongSuffix: "invalid file extension",
		ArcOversizedKey: "file size", ArcMalformedChallenge: "", ArcNoChallenge: "expected a 401", ArcSymlinkKey: "-",
	} {
		other := Identity{ClientID: newUUID(), ObjectID: newUUID()}
		e.SetIdentities(Identity{ClientID: newUUID(), ObjectID: newUUID(), System: true}, other)
		e.SetFault(Fault{Kind: kind, Count: 1})
		_, err := throughArc(t, e, azidentity.ClientID(other.ClientID)).GetToken(context.Background(), policy.TokenRequestOptions{Scopes: []string{vaultResource + "/.default"}})
		if said == "-" && err == nil {
			continue // MSAL follows links
		}
		if err == nil || !strings.Contains(err.Error(), said) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if got := e.Counters(); before != 8 || got.Arc != before+9 {
		t.Errorf("%d requests, then %d", before, got.Arc-before)
	}
}

// Nobody cleans up after an emulator that was killed but the next one.
func TestKeysOfARunThatWasKilledAreRemoved(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, otherDir)
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	left := []string{filepath.Join(dir, newUUID()+".key"), filepath.Join(dir, newUUID()+".txt"), filepath.Join(elsewhere, newUUID()+".key")}
	kept := []string{filepath.Join(dir, "agent.key"), filepath.Join(dir, newUUID()), filepath.Join(dir, strings.ReplaceAll(newUUID(), "-", "")+".key"),
		filepath.Join(dir, newUUID()+".pem"), filepath.Join(elsewhere, "note.txt")}
	for _, file := range append(slices.Clone(left), kept...) {
		if err := os.WriteFile(file, []byte("x"), 0o440); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, newUUID()+".key")
	if err := os.Symlink(kept[0], link); err != nil {
		t.Fatal(err)
	}
	start(t, Options{ArcKeys: dir})
	for _, file := range append(left, link) {
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", file, err)
		}
	}
	for _, file := range kept {
		if _, err := os.Lstat(file); err != nil {
			t.Errorf("a file of somebody else: %v", err)
		}
	}
}
