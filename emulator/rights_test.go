package emulator

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func TestRightsAreThoseOfTheMoment(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	for _, vault := range []string{"one", "two"} {
		must[string](t)(e.AddSecret(vault, "word", "", "of "+vault))
	}
	id := Identity{ClientID: newUUID(), ObjectID: newUUID(), Vaults: []string{"TWO"}}
	app := Application{ClientID: newUUID(), Secrets: []ApplicationSecret{{Value: "geheim"}}, Vaults: []string{"two"}}
	grant := func(vaults []string) {
		id.Vaults, app.Vaults = vaults, vaults
		e.SetIdentities(id)
		e.SetApplications(app)
	}
	grant([]string{"TWO"})
	machine := managedIdentity(t, e, azidentity.ClientID(id.ClientID))
	service := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(Tenant, app.ClientID, "geheim", &azidentity.ClientSecretCredentialOptions{ClientOptions: overEmulator(t, e, public)}))
	for oid, cred := range map[string]azcore.TokenCredential{id.ObjectID: machine, principalOf(app.ClientID): service} {
		one, two := vaultClient(t, e, "https://one.vault.azure.net", cred, -1), vaultClient(t, e, "https://two.vault.azure.net", cred, -1)
		may := func(want bool) {
			t.Helper()
			_, err := one.GetSecret(context.Background(), "word", "", nil)
			if want && err == nil {
				return
			}
			if err == nil {
				t.Fatal("a vault without rights was read")
			}
			re, inner, message := responseError(t, err)
			if want || re.StatusCode != 403 || inner != "ForbiddenByRbac" || !strings.Contains(message, ";oid="+oid+";iss=https://sts.windows.net/"+Tenant+"/\r\n") ||
				!strings.Contains(message, "vaults/one/secrets/word'") {
				t.Errorf("%d %s %q", re.StatusCode, inner, message)
			}
			if _, err := one.NewListSecretPropertiesPager(nil).NextPage(context.Background()); err == nil {
				t.Error("a vault without rights was listed")
			}
		}
		grant([]string{"TWO"})
		may(false)
		get(t, two, "word", "")
		grant([]string{"one"})
		may(true)
		grant([]string{})
		may(false)
		grant(nil)
		may(true)
	}
	if got := e.Counters(); got.Identity != 1 || got.Login != 1 || got.Forbidden != 8 {
		t.Errorf("counters %+v: rights go with the request, not with the token", got)
	}
}

// A right that was withdrawn must not come back by way of a shared slice.
func TestRightsDoNotChangeBehindTheEmulatorsBack(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	vaults := []string{"one"}
	e.SetIdentities(Identity{ObjectID: "o", Vaults: vaults})
	e.SetApplications(Application{ClientID: "c", ObjectID: "p", Vaults: vaults})
	vaults[0] = "two"
	for _, oid := range []string{"O", "P"} {
		if !e.mayRead(&claims{ObjectID: oid}, "one") || e.mayRead(&claims{ObjectID: oid}, "two") {
			t.Errorf("%s has other rights than it was given", oid)
		}
	}
}

// Whoever was removed has no role on any vault, however good its token.
func TestRemovedPrincipalsMayReadNothing(t *testing.T) {
	e := start(t, Options{})
	must[string](t)(e.AddSecret("", "word", "", "x"))
	id := Identity{ClientID: newUUID(), ObjectID: newUUID()}
	e.SetIdentities(id)
	c := vaultClient(t, e, "https://contoso-web.vault.azure.net", managedIdentity(t, e, azidentity.ClientID(id.ClientID)), -1)
	get(t, c, "word", "")
	e.SetIdentities()
	_, err := c.GetSecret(context.Background(), "word", "", nil)
	if err == nil {
		t.Fatal("one who was removed reads on")
	}
	if re, inner, message := responseError(t, err); re.StatusCode != 403 || inner != "ForbiddenByRbac" || !strings.Contains(message, ";oid="+id.ObjectID+";") {
		t.Errorf("%d %s %q", re.StatusCode, inner, message)
	}
	e.SetIdentities(id)
	get(t, c, "word", "")
}

func TestPrincipalsChangeWhileClientsAsk(t *testing.T) {
	e := start(t, Options{ArcKeys: t.TempDir()})
	must[string](t)(e.AddSecret("", "word", "", "x"))
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"geheim"}, "scope": {vaultResource + "/.default"}}
	set := func() {
		e.SetIdentities(Identity{ClientID: "c", ObjectID: "o", System: true, Vaults: []string{"contoso-web"}})
		e.SetApplications(Application{ClientID: "app", Secrets: []ApplicationSecret{{Value: "geheim"}}})
	}
	set()
	c := client(t, e)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				if _, err := c.GetSecret(context.Background(), "word", "", nil); err != nil {
					t.Error(err)
				}
				if status, le := tokenRequest(t, e, "POST", "https://login.microsoftonline.com/"+Tenant+"/oauth2/v2.0/token", form); status != 200 {
					t.Errorf("%d %+v", status, le)
				}
				_, realm, _ := arcAsk(t, e, nil, "")
				key, err := os.ReadFile(realm)
				if err != nil {
					t.Error(err)
				}
				if status, _, body := arcAsk(t, e, nil, string(key)); status != 200 {
					t.Errorf("%d %v", status, body)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			set()
		}
	})
	wg.Wait()
	if got := e.Counters(); got.Login != 20 || got.LoginErrors != 0 || got.Arc != 40 || got.ArcErrors != 0 || got.Secrets != 20 {
		t.Errorf("counters %+v", got)
	}
}

func TestApplicationSecretsAreNotPrinted(t *testing.T) {
	app := Application{ClientID: "c", Secrets: []ApplicationSecret{{Value: "geheim"}}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "app", app, "secret", app.Secrets[0])
	text := must[[]byte](t)(json.Marshal(app.Secrets))
	for _, said := range []string{fmt.Sprintf("%v %+v %#v", app, app, app), fmt.Sprintf("%s %x %q", app.Secrets, app.Secrets, app.Secrets[0]), log.String(), string(text)} {
		if strings.Contains(said, "geheim") || strings.Contains(said, fmt.Sprintf("%x", "geheim")) || !strings.Contains(said, redacted) {
			t.Errorf("printed: %s", said)
		}
	}
}
