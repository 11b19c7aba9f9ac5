package vault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"kvfs/emulator"
	"kvfs/vault"
)

// machineIdentities are a system-assigned and two user-assigned ones.
var machineIdentities = []emulator.Identity{
	{ClientID: "00000000-0000-4000-8000-00000000c001", ObjectID: "00000000-0000-4000-8000-00000000b001", System: true},
	{ClientID: "00000000-0000-4000-8000-00000000c002", ObjectID: "00000000-0000-4000-8000-00000000b002", ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/two"},
	{ClientID: "00000000-0000-4000-8000-00000000c003", ObjectID: "00000000-0000-4000-8000-00000000b003", ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/three"},
}

// selections choose each of them in every way, with azidentity's words for the same.
var selections = []struct {
	id   vault.Identity
	kind azidentity.ManagedIDKind
	oid  string
}{
	{vault.Identity{}, nil, machineIdentities[0].ObjectID},
	{vault.Identity{ClientID: machineIdentities[1].ClientID}, azidentity.ClientID(machineIdentities[1].ClientID), machineIdentities[1].ObjectID},
	{vault.Identity{ObjectID: machineIdentities[2].ObjectID}, azidentity.ObjectID(machineIdentities[2].ObjectID), machineIdentities[2].ObjectID},
	{vault.Identity{ResourceID: machineIdentities[1].ResourceID}, azidentity.ResourceID(machineIdentities[1].ResourceID), machineIdentities[1].ObjectID},
	{vault.Identity{ResourceID: strings.ToUpper(machineIdentities[2].ResourceID)}, azidentity.ResourceID(strings.ToUpper(machineIdentities[2].ResourceID)), machineIdentities[2].ObjectID},
}

// toEndpoint sends what azidentity wants of the metadata service to an emulated one.
type toEndpoint string

func (to toEndpoint) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Hostname() == "169.254.169.254" {
		u, err := url.Parse(string(to) + "/oauth2/token?" + req.URL.RawQuery)
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.URL, req.Host = u, u.Host
	}
	return http.DefaultTransport.RoundTrip(req)
}

// sameTokens asks with our credential and with azidentity's, and says in which claims the tokens differ.
func sameTokens(ctx context.Context, endpoint, keys string) error {
	var problems []error
	for _, s := range selections {
		s.id.Endpoint = endpoint
		ours, err := vault.NewManaged(s.id, keys)
		if err != nil {
			return err
		}
		theirs, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
			ID: s.kind, ClientOptions: azcore.ClientOptions{Transport: toEndpoint(endpoint), Retry: policy.RetryOptions{MaxRetries: -1}}})
		if err != nil {
			return err
		}
		a, errOurs := claimsOf(ctx, ours)
		b, errTheirs := claimsOf(ctx, theirs)
		if err := errors.Join(errOurs, errTheirs); err != nil {
			problems = append(problems, fmt.Errorf("%+v: %w", s.id, err))
			continue
		}
		for _, name := range []string{"appid", "oid", "sub", "aud", "iss", "tid", "ver", "xms_mirid"} {
			if a[name] != b[name] {
				problems = append(problems, fmt.Errorf("%+v: claim %s: %v, azidentity has %v", s.id, name, a[name], b[name]))
			}
		}
		if a["oid"] != s.oid || a["oid"] == nil {
			problems = append(problems, fmt.Errorf("%+v: the token is of %v, want %s", s.id, a["oid"], s.oid))
		}
	}
	return errors.Join(problems...)
}

// claimsOf gets a token and reads its claims. Its end must be that of the token itself.
func claimsOf(ctx context.Context, c azcore.TokenCredential) (map[string]any, error) {
	token, err := c.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil {
		return nil, err
	}
	parts := strings.Split(token.Token, ".")
	if len(parts) != 3 {
		return nil, errors.New("no JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	claims := make(map[string]any)
	if err := json.Unmarshal(text, &claims); err != nil {
		return nil, err
	}
	if exp, ok := claims["exp"].(float64); !ok || token.ExpiresOn.Unix() != int64(exp) {
		return nil, fmt.Errorf("the token ends at %v, its credential says %v", claims["exp"], token.ExpiresOn)
	}
	return claims, nil
}

func TestManagedIdentitiesGetTheTokensThatAzidentityGets(t *testing.T) {
	w := newWorld(t, emulator.Options{}, vault.Options{})
	w.SetIdentities(machineIdentities...)
	if err := sameTokens(t.Context(), w.Endpoints().Identity, ""); err != nil {
		t.Error(err)
	}
}

// arcChild tells this program to be the child of TestArcIdentitiesGetTheTokensThatAzidentityGets.
const (
	arcChild     = "KVFS_TEST_ARC_CHILD"
	arcDirectory = "/var/opt/azcmagent/tokens"
)

// azidentity reads Azure Arc's keys in one directory alone, so the child has one of its own there: a mount that nobody else
// sees.
func TestArcIdentitiesGetTheTokensThatAzidentityGets(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(withoutProxies(os.Environ()), arcChild+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := child.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || child.ProcessState != nil && child.ProcessState.ExitCode() == cannotMount {
		t.Skipf("this machine lets nobody have a mount of one's own: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

const cannotMount = 77

func runArcChild(directory string) int {
	if err := errors.Join(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("none", "/var/opt", "tmpfs", 0, "")); err != nil {
		fmt.Println(err)
		return cannotMount
	}
	e, err := emulator.New(emulator.Options{Dir: directory, ArcKeys: arcDirectory})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	e.SetIdentities(machineIdentities...)
	endpoint := e.Endpoints().Arc
	for name, value := range map[string]string{"IMDS_ENDPOINT": endpoint, "IDENTITY_ENDPOINT": endpoint + "/oauth2/token", "IDENTITY_HEADER": "", "MSI_ENDPOINT": ""} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	err = sameTokens(ctx, endpoint, arcDirectory)
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// newArc is a world on Azure Arc.
func newArc(t *testing.T) *world {
	t.Helper()
	keys := t.TempDir()
	w := newWorld(t, emulator.Options{ArcKeys: keys}, vault.Options{})
	w.client.MoveArcKeys(keys)
	w.keys = keys
	w.id = vault.Identity{Endpoint: w.Endpoints().Arc}
	w.add(t, "www", "x")
	return w
}

func TestArcIdentitiesReadSecrets(t *testing.T) {
	w := newArc(t)
	w.SetIdentities(machineIdentities...)
	for _, s := range selections {
		for _, spelling := range []string{"", "/", "/oauth2/token", "/oauth2/token/"} {
			s.id.Endpoint = w.id.Endpoint + spelling
			before := w.Counters().Arc
			for range 2 {
				if _, err := w.client.Get(t.Context(), s.id, mustParse(t, www)); err != nil {
					t.Errorf("%+v: %v", s.id, err)
				}
			}
			if got := w.Counters().Arc - before; got != 2 {
				t.Errorf("%+v: the endpoint was asked %d times, want 2", s.id, got)
			}
		}
	}
	// The key is new with each challenge.
	w.client.AgeTokens(time.Minute)
	w.SetFault(emulator.Fault{Vault: "contoso-web", Kind: emulator.TokenExpired, Count: 1})
	if _, err := w.client.Get(t.Context(), selections[0].id.At(w.id.Endpoint+"/"), mustParse(t, www)); err != nil {
		t.Errorf("a second exchange: %v", err)
	}
}

func TestEveryFailureOfArcIsExplained(t *testing.T) {
	const agent = "check that the agent of Azure Arc is what answers at msiEndpoint"
	two := machineIdentities[1]
	for _, tt := range []struct {
		fault      emulator.Fault
		id         vault.Identity
		machine    []emulator.Identity
		status     int
		fact, hint string // of a key: what stands behind its name
	}{
		{fault: emulator.Fault{Kind: emulator.ArcWrongDirectory}, status: 401, fact: "which is no key of the agent: those are in KEYS", hint: agent},
		{fault: emulator.Fault{Kind: emulator.ArcWrongSuffix}, status: 401, fact: "which is no key of the agent: those are in KEYS", hint: agent},
		{fault: emulator.Fault{Kind: emulator.ArcOversizedKey}, status: 401, fact: "has not 1 to 4096 bytes", hint: agent},
		{fault: emulator.Fault{Kind: emulator.ArcSymlinkKey}, status: 401, fact: "is a symbolic link", hint: agent},
		{fault: emulator.Fault{Kind: emulator.ArcMalformedChallenge}, status: 401, fact: "no token for the system-assigned managed identity: 401 unauthorized_client Missing Basic Authorization header",
			hint: agent + ", and that it runs well: azcmagent show"},
		{fault: emulator.Fault{Kind: emulator.ArcIgnoresSelector}, id: vault.Identity{ClientID: two.ClientID}, status: 200,
			fact: "no token for the managed identity with client id " + two.ClientID + ": the agent of Azure Arc did not confirm it, and answers as the system-assigned one",
			hint: "leave msiClientId empty to use the system-assigned identity, or update the agent to one that knows user-assigned identities"},
		{fault: emulator.Fault{Kind: emulator.ArcIgnoresSelector}, id: vault.Identity{ObjectID: two.ObjectID}, status: 200,
			fact: "no token for the managed identity with object id " + two.ObjectID + ": the agent of Azure Arc did not confirm it, and answers as the system-assigned one",
			hint: "leave msiObjectId empty to use the system-assigned identity, or update the agent to one that knows user-assigned identities"},
		{fault: emulator.Fault{Kind: emulator.ArcIgnoresSelector}, id: vault.Identity{ResourceID: two.ResourceID}, status: 200,
			fact: "no token for the managed identity with resource id " + two.ResourceID + ": the agent of Azure Arc did not confirm it, and answers as the system-assigned one",
			hint: "leave msiResourceId empty to use the system-assigned identity, or update the agent to one that knows user-assigned identities"},
		{id: vault.Identity{ClientID: "00000000-0000-4000-8000-00000000c009"}, status: 400,
			fact: "no token for the managed identity with client id 00000000-0000-4000-8000-00000000c009: 400 invalid_request Identity not found",
			hint: "assign the identity to this machine; msiClientId must be its client id, not its object id (that goes into msiObjectId)"},
		{machine: []emulator.Identity{}, status: 401, fact: "no token for the system-assigned managed identity: 401 unauthorized_client No managed identity is configured on this machine",
			hint: agent + ", and that it runs well: azcmagent show"},
	} {
		w := newArc(t)
		if tt.machine == nil {
			tt.machine = machineIdentities
		}
		w.SetIdentities(tt.machine...)
		if tt.fault.Kind != "" {
			tt.fault.Name = "@arc"
			w.SetFault(tt.fault)
		}
		_, err := w.client.Get(t.Context(), tt.id.At(w.id.Endpoint), mustParse(t, www))
		e := failure(t, err)
		if e.Kind != vault.KindIdentity || e.Status != tt.status || !strings.HasSuffix(e.Fact, strings.Replace(tt.fact, "KEYS", w.keys, 1)) || e.Hint != tt.hint {
			t.Errorf("%s: %s %d: %v\n  want %s\n  hint %s\n  want %s", tt.fault.Kind, e.Kind, e.Status, e, tt.fact, e.Hint, tt.hint)
		}
		shownNowhere(t, w, err)
	}
}

// Old agents answer as the system-assigned identity whatever is asked for, which is what this one wants.
func TestArcAnswersThatAreRightAreTaken(t *testing.T) {
	for _, kind := range []emulator.FaultKind{emulator.ArcIgnoresSelector, emulator.ArcNoChallenge} {
		w := newArc(t)
		w.SetIdentities(machineIdentities...)
		w.SetFault(emulator.Fault{Name: "@arc", Kind: kind})
		if _, err := w.get(t, www); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestTokensOfTheEndpointAreTakenInEveryForm(t *testing.T) {
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	on := ends.Unix()
	const client = "00000000-0000-4000-8000-00000000C001"
	byClient, byResource := vault.Identity{ClientID: client}, vault.Identity{ResourceID: "/subscriptions/1"}
	for _, tt := range []struct {
		id   vault.Identity
		body string
		ok   bool
	}{
		{vault.Identity{}, fmt.Sprintf(`{"access_token":"t","expires_on":"%d"}`, on), true},
		{vault.Identity{}, fmt.Sprintf(`{"access_token":"t","expires_on":%d,"expires_in":86399}`, on), true},
		{vault.Identity{}, fmt.Sprintf(`{"access_token":"t","expires_on":"%d","expires_in":"86399","client_id":"another","refresh_token":""}`, on), true},
		{vault.Identity{}, `{"access_token":"t","expires_in":"3600"}`, true},
		{vault.Identity{}, `{"access_token":"t","expires_in":3600,"expires_on":null}`, true},
		{byClient, fmt.Sprintf(`{"access_token":"t","expires_on":%d}`, on), true},
		{byClient, fmt.Sprintf(`{"access_token":"t","expires_on":%d,"client_id":"%s"}`, on, strings.ToLower(client)), true},
		{byClient, fmt.Sprintf(`{"access_token":"t","expires_on":%d,"client_id":"another"}`, on), false},
		{byResource, fmt.Sprintf(`{"access_token":"t","expires_on":%d,"client_id":"another","mi_res_id":"/SUBSCRIPTIONS/1"}`, on), true},
		{byResource, fmt.Sprintf(`{"access_token":"t","expires_on":%d,"msi_res_id":"/subscriptions/2"}`, on), false},
		{vault.Identity{}, `{"access_token":"t"}`, false},
		{vault.Identity{}, `{"access_token":"t","expires_on":"soon"}`, false},
		{vault.Identity{}, fmt.Sprintf(`{"access_token":"","expires_on":%d}`, on), false},
		{vault.Identity{}, fmt.Sprintf(`{"access_token":["t"],"expires_on":%d}`, on), false},
		{vault.Identity{}, `null`, false},
		{vault.Identity{}, ``, false},
	} {
		machine := httptest.NewServer(says(http.StatusOK, tt.body))
		c, err := vault.NewManaged(tt.id.At(machine.URL), "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
		machine.Close()
		off := got.ExpiresOn.Sub(ends).Abs()
		if tt.ok && (err != nil || got.Token != "t" || off > time.Minute || strings.Contains(tt.body, fmt.Sprint(on)) && off != 0) {
			t.Errorf("%s: %+v, %v", tt.body, got, err)
		}
		if !tt.ok && (err == nil || failure(t, err).Kind != vault.KindIdentity) {
			t.Errorf("%s: %+v, %v; want an error", tt.body, got, err)
		}
	}
}

func TestRequestsToTheEndpointAreAsDocumented(t *testing.T) {
	var got *http.Request
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		says(http.StatusOK, `{"access_token":"t","expires_in":3600}`)(w, r)
	}))
	defer machine.Close()
	for id, want := range map[vault.Identity]url.Values{
		{}:                               {},
		{ClientID: "c"}:                  {"client_id": {"c"}},
		{ObjectID: "o"}:                  {"object_id": {"o"}},
		{ResourceID: "/subscriptions/r"}: {"msi_res_id": {"/subscriptions/r"}},
	} {
		c, err := vault.NewManaged(id.At(machine.URL+"/metadata/identity/"), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}, TenantID: "t", Claims: "{}", EnableCAE: true}); err != nil {
			t.Fatal(err)
		}
		want.Set("api-version", "2020-06-01") // on the loopback
		want.Set("resource", "https://vault.azure.net")
		if got.Method != http.MethodGet || got.URL.Path != "/metadata/identity/oauth2/token" || got.URL.Query().Encode() != want.Encode() ||
			got.Header.Get("Metadata") != "true" || got.Header.Get("Authorization") != "" || got.Header.Get("X-Forwarded-For") != "" {
			t.Errorf("%+v: %s %s %v, want %s", id, got.Method, got.URL, got.Header, want.Encode())
		}
	}
}

func TestIdentityThatIsAssignedLaterWorksByItself(t *testing.T) {
	for _, machine := range [][]emulator.Identity{{}, machineIdentities[2:]} {
		w := newWorld(t, emulator.Options{}, vault.Options{})
		w.add(t, "www", "x")
		w.SetIdentities(machine...)
		w.id.ClientID = machineIdentities[1].ClientID
		_, err := w.get(t, www)
		if e := failure(t, err); e.Kind != vault.KindIdentity || e.Status != 400 {
			t.Errorf("%s %d: %v", e.Kind, e.Status, e)
		}
		w.SetIdentities(machineIdentities...)
		w.client.AgeTokens(time.Second)
		if _, err := w.get(t, www); err != nil {
			t.Errorf("once it is assigned: %v", err)
		}
	}
}

func TestMissingRoleNamesTheCommandAndHealsByItself(t *testing.T) {
	w := newWorld(t, emulator.Options{Vaults: []string{"contoso-web", "contoso-api"}}, vault.Options{})
	w.add(t, "www", "x")
	if _, err := w.AddSecret("contoso-api", "www", "", "y"); err != nil {
		t.Fatal(err)
	}
	machine := append([]emulator.Identity(nil), machineIdentities...)
	machine[1].Vaults = []string{"contoso-web"}
	w.SetIdentities(machine...)
	w.id.ClientID = machine[1].ClientID
	if _, err := w.get(t, www); err != nil {
		t.Errorf("the vault it may read: %v", err)
	}
	const api = "https://contoso-api.vault.azure.net/secrets/www"
	_, err := w.get(t, api)
	if e := failure(t, err); e.Kind != vault.KindForbidden || e.Inner != "ForbiddenByRbac" ||
		!strings.Contains(e.Hint, `az role assignment create --role "Key Vault Secrets User" --assignee `+machine[1].ObjectID+` --scope "$(az keyvault show --name contoso-api`) {
		t.Errorf("%s %s: %v; %s", e.Kind, e.Inner, e, e.Hint)
	}
	machine[1].Vaults = nil
	w.SetIdentities(machine...)
	if _, err := w.get(t, api); err != nil {
		t.Errorf("once it has the role: %v", err)
	}
}
