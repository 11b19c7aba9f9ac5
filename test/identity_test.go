package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"kvfs/emulator"
	"kvfs/status"
)

// The identities of these tests. Only the one that is meant may read, so that a
// certificate that is served proves who asked.
const (
	clientID   = "00001111-aaaa-2222-bbbb-3333cccc4444"
	objectID   = "00002222-aaaa-2222-bbbb-3333cccc4444"
	resourceID = "/subscriptions/00003333-aaaa-2222-bbbb-3333cccc4444/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-web"
	appID      = "00004444-aaaa-2222-bbbb-3333cccc4444"
	otherID    = "00005555-aaaa-2222-bbbb-3333cccc4444"
)

var nothing = []string{} // of the vaults: none may be read

// misleading are variables by which other programs choose an identity. None of
// them may have a say in what the settings say.
var misleading = []string{
	"IDENTITY_ENDPOINT=http://127.0.0.1:1/", "IDENTITY_HEADER=x", "MSI_ENDPOINT=http://127.0.0.1:1/", "MSI_SECRET=x",
	"AZURE_CLIENT_ID=" + otherID, "AZURE_TENANT_ID=" + otherID, "AZURE_CLIENT_SECRET=x",
	"HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1",
}

// write makes a file of a site that only root reads.
func (s *site) write(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// login leads the names of login servers to the emulator.
func (s *site) login(d document, hosts ...string) {
	for _, host := range append(hosts, "login.microsoftonline.com") {
		d.own()["transport"].(map[string]any)["connect"].(map[string]any)[host+":443"] = s.vault.Addr()
	}
}

// principal is the certificate of an application, in the forms that people have.
type principal struct {
	cert     *x509.Certificate
	pem, pfx []byte
}

func newPrincipal(t *testing.T) principal {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var p principal
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.pem = append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if p.pfx, err = pkcs12.Modern.Encode(key, p.cert, nil, "password"); err != nil {
		t.Fatal(err)
	}
	return p
}

// cluster issues tokens as a Kubernetes cluster does.
type cluster struct{ key *ecdsa.PrivateKey }

func newCluster(t *testing.T) cluster {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{key}
}

const (
	issuer  = "https://cluster.example/"
	subject = "system:serviceaccount:web:kvfs"
)

func (c cluster) token(t *testing.T, subject string) []byte {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
	}).SignedString(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(token)
}

// Every kind of identity, from a settings document to the file that is served.
func TestEveryKindOfIdentityServes(t *testing.T) {
	needRoot(t)
	p, c := newPrincipal(t), newCluster(t)
	principalOf := func(more map[string]any) func(*site, document) {
		return func(s *site, d document) {
			s.vault.SetIdentities()
			s.vault.SetApplications(emulator.Application{ClientID: appID, Secrets: []emulator.ApplicationSecret{{Value: "s3cret"}}, Certificates: []*x509.Certificate{p.cert},
				Federated: []emulator.FederatedCredential{{Issuer: issuer, Subject: subject, Key: c.key.Public()}}})
			id := map[string]any{"type": "servicePrincipal", "tenantId": emulator.Tenant, "clientId": appID}
			for k, v := range more {
				if name, isFile := strings.CutPrefix(fmt.Sprint(v), "file:"); isFile {
					v = filepath.Join(s.dir, name)
				}
				id[k] = v
			}
			d.own()["identity"] = id
			delete(d, "authenticationSettings")
			s.login(d, "login.microsoftonline.us", "login.chinacloudapi.cn", "login.contoso.example")
			s.write("secret", []byte("s3cret\n"))
			s.write("app.pem", p.pem)
			s.write("app.pfx", p.pfx)
			s.write("password", []byte("password\n"))
			s.write("token", c.token(t, subject))
		}
	}
	// managed lets the user-assigned identity alone read.
	managed := func(edit func(auth map[string]any)) func(*site, document) {
		return func(s *site, d document) {
			s.vault.SetIdentities(emulator.Identity{System: true, ClientID: otherID, ObjectID: otherID, Vaults: nothing},
				emulator.Identity{ClientID: clientID, ObjectID: objectID, ResourceID: resourceID})
			s.env = misleading
			edit(d["authenticationSettings"].(map[string]any))
		}
	}
	secret := map[string]any{"clientSecretFile": "file:secret"}
	tests := map[string]struct {
		options emulator.Options
		setup   func(*site, document)
		asked   string // in the words of the status
	}{
		"system-assigned": {setup: func(s *site, d document) {
			s.vault.SetIdentities(emulator.Identity{System: true, ClientID: otherID, ObjectID: otherID},
				emulator.Identity{ClientID: clientID, ObjectID: objectID, Vaults: nothing})
			s.env = misleading
		}, asked: "system-assigned managed identity"},
		"client id":   {setup: managed(func(a map[string]any) { a["msiClientId"] = clientID }), asked: "client id " + clientID},
		"object id":   {setup: managed(func(a map[string]any) { a["msiObjectId"] = objectID }), asked: "object id " + objectID},
		"resource id": {setup: managed(func(a map[string]any) { a["msiClientId"] = resourceID }), asked: "resource id " + resourceID},
		"endpoint with its path": {setup: managed(func(a map[string]any) {
			a["msiClientId"], a["msiEndpoint"] = strings.ToUpper(clientID), a["msiEndpoint"].(string)+"/oauth2/token/"
		}), asked: "client id"},
		"override of one certificate": {setup: func(s *site, d document) {
			managed(func(a map[string]any) { a["msiClientId"] = otherID })(s, d)
			d.entry("www")["authenticationOverride"] = map[string]any{"msiClientId": clientID}
		}, asked: "client id " + clientID},
		"managed, in our own words": {setup: func(s *site, d document) {
			managed(func(map[string]any) {})(s, d)
			d.own()["identity"] = map[string]any{"type": "managedIdentity", "clientId": clientID, "endpoint": s.vault.Endpoints().Identity}
			delete(d, "authenticationSettings")
		}, asked: "client id " + clientID},
		"secret":                         {setup: principalOf(secret), asked: "service principal"},
		"certificate, PEM":               {setup: principalOf(map[string]any{"clientCertificateFile": "file:app.pem"}), asked: "service principal"},
		"certificate, PFX with password": {setup: principalOf(map[string]any{"clientCertificateFile": "file:app.pfx", "certificatePasswordFile": "file:password"}), asked: "service principal"},
		"workload identity":              {setup: principalOf(map[string]any{"type": "workloadIdentity", "tokenFile": "file:token"}), asked: "workload identity"},
		"workload identity of the environment": {setup: func(s *site, d document) {
			principalOf(nil)(s, d)
			delete(d.own(), "identity")
			s.env = []string{"AZURE_TENANT_ID=" + emulator.Tenant, "AZURE_CLIENT_ID=" + appID, "AZURE_FEDERATED_TOKEN_FILE=" + filepath.Join(s.dir, "token")}
		}, asked: "workload identity"},
		"secret of the environment": {setup: func(s *site, d document) {
			principalOf(nil)(s, d)
			delete(d.own(), "identity")
			s.env = []string{"AZURE_TENANT_ID=" + emulator.Tenant, "AZURE_CLIENT_ID=" + appID, "AZURE_CLIENT_SECRET=s3cret"}
		}, asked: "environment"},
		"service principal of one certificate": {setup: func(s *site, d document) {
			principalOf(secret)(s, d)
			d.entry("www")["kvfs"] = map[string]any{"identity": d.own()["identity"]}
			delete(d.own(), "identity")
		}, asked: "service principal"},
		"Azure Government": {options: emulator.Options{Vaults: []string{"contoso-gov.vault.usgovcloudapi.net"}}, setup: principalOf(secret), asked: "service principal"},
		"Azure China":      {options: emulator.Options{Vaults: []string{"contoso-cn.vault.azure.cn"}}, setup: principalOf(secret), asked: "service principal"},
		"a custom authority": {options: emulator.Options{Vaults: []string{"contoso-own.vault.contoso.example"}, LoginHosts: []string{"login.contoso.example"}}, setup: func(s *site, d document) {
			principalOf(map[string]any{"clientSecretFile": "file:secret", "authority": "https://login.contoso.example"})(s, d)
			d.own()["vaultDnsSuffixes"] = []any{"vault.contoso.example"}
		}, asked: "service principal"},
		"az login": {setup: func(s *site, d document) {
			azureCLI(s.t, s)
			d.own()["identity"] = map[string]any{"type": "azureCli"}
			delete(d, "authenticationSettings")
		}, asked: "Azure CLI"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSiteOf(t, test.options, emulator.Profile{Name: "www"})
			s.configure(func(d document) { test.setup(s, d) })
			s.mount()
			r := s.certificate("www")
			if r.State != "ok" || !strings.Contains(r.Identity, test.asked) {
				t.Fatalf("asked by the %s: %s %+v", r.Identity, r.State, r.Error)
			}
			readFile(t, r.Links[0])
		})
	}
}

// Azure Arc's agent keeps its keys in a fixed directory, which kvfs sees in a
// mount namespace of its own.
func TestAzureArcServes(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needProgram(t, "unshare")
	dir := t.TempDir()
	s := newSiteOf(t, emulator.Options{ArcKeys: filepath.Join(dir, "azcmagent", "tokens"), ArcRealm: "/var/opt/azcmagent/tokens"}, emulator.Profile{Name: "www"})
	s.wrapper = []string{needProgram(t, "unshare"), "--mount", "sh", "-c", `mount --bind "$0" /var/opt && exec "$@"`, dir}
	for name, edit := range map[string]func(auth map[string]any){
		"named by the settings": func(a map[string]any) { a["msiEndpoint"] = s.vault.Endpoints().Arc },
		"found by itself": func(a map[string]any) {
			delete(a, "msiEndpoint")
			s.env = []string{"IMDS_ENDPOINT=http://" + strings.Split(s.vault.Endpoints().Arc, "/")[2], "IDENTITY_ENDPOINT=" + s.vault.Endpoints().Arc + "/oauth2/token"}
		},
	} {
		s.configure(func(d document) { edit(d["authenticationSettings"].(map[string]any)) })
		s.mount()
		if c := s.certificate("www"); c.State != "ok" {
			t.Errorf("%s: %+v", name, c.Error)
		}
		readFile(t, fmt.Sprintf("/proc/%d/root%s", s.cmd.Process.Pid, s.path("contoso-web.www")))
		s.end(15)
	}
	if s.vault.Counters().Arc == 0 {
		t.Error("the agent was never asked")
	}
}

// What goes wrong with an identity is explained, with what mends it, and once it
// is mended kvfs finds that by itself.
func TestTroubleWithIdentitiesIsExplainedAndEndsByItself(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSite(t, emulator.Profile{Name: "unassigned"}, emulator.Profile{Name: "norole"}, emulator.Profile{Name: "expired"}, emulator.Profile{Name: "wrong"},
		emulator.Profile{Name: "nofile"}, emulator.Profile{Name: "unknown"})
	const late, poor = "00006666-aaaa-2222-bbbb-3333cccc4444", "00007777-aaaa-2222-bbbb-3333cccc4444"
	s.vault.SetIdentities(emulator.Identity{ClientID: poor, ObjectID: otherID, Vaults: nothing})
	s.vault.SetApplications(emulator.Application{ClientID: appID, Secrets: []emulator.ApplicationSecret{{Value: "old", Expires: time.Now().Add(-time.Hour)}, {Value: "good"}}})
	old, bad := s.write("old", []byte("old")), s.write("bad", []byte("bad"))
	missing := filepath.Join(s.dir, "missing")
	s.configure(func(d document) {
		s.login(d)
		override := func(name, id string) { d.entry(name)["authenticationOverride"] = map[string]any{"msiClientId": id} }
		app := func(name, id, file string) {
			d.entry(name)["kvfs"] = map[string]any{"identity": map[string]any{"type": "servicePrincipal", "tenantId": emulator.Tenant, "clientId": id, "clientSecretFile": file}}
		}
		override("unassigned", late)
		override("norole", poor)
		app("expired", appID, old)
		app("wrong", appID, bad)
		app("nofile", appID, missing)
		app("unknown", clientID, old)
	})
	s.mount()
	for name, want := range map[string]struct{ kind, fact, hint string }{
		"unassigned": {"identity", "Identity not found", "msiObjectId"},
		"norole":     {"forbidden", "403 ForbiddenByRbac", `az role assignment create --role "Key Vault Secrets User" --assignee ` + otherID},
		"expired":    {"identity", "AADSTS7000222", "az ad app credential reset"},
		"wrong":      {"identity", "AADSTS7000215", "value"},
		"nofile":     {"identity", missing, missing},
		"unknown":    {"identity", "AADSTS700016", "client id"},
	} {
		c := s.certificate(name)
		if c.State != "missing" || c.Error == nil {
			t.Errorf("%s is %s: %+v", name, c.State, c.Error)
			continue
		}
		if e := *c.Error; e.Kind != want.kind || !strings.Contains(e.Fact, want.fact) || !strings.Contains(e.Hint, want.hint) {
			t.Errorf("%s: want %+v, got\n%s\n%s\n%s", name, want, e.Kind, e.Fact, e.Hint)
		}
	}
	out, _, code := s.run("check", "--online", s.settings, "--store", s.store)
	if code != 4 || strings.Count(out, "\n  error: ") != 6 || strings.Count(out, "\n  hint: ") != 6 {
		t.Errorf("check --online: exit code %d\n%s", code, out)
	}

	s.vault.SetIdentities(emulator.Identity{ClientID: poor, ObjectID: otherID}, emulator.Identity{ClientID: late, ObjectID: objectID})
	for _, file := range []string{"old", "bad", "missing"} {
		s.write(file, []byte("good\n"))
	}
	s.until("everything that was mended is served", func() bool {
		ok := 0
		for _, c := range s.report().Certificates {
			if c.State == "ok" {
				ok++
			}
		}
		return ok == 5
	})
	if c := s.certificate("unknown"); c.State != "missing" {
		t.Errorf("an application that nobody knows: %+v", c)
	}
}

// Two vaults, two identities, one of them broken: the other is served, and the
// status says why the first is not.
func TestBrokenIdentityHurtsItsOwnCertificatesOnly(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSiteOf(t, emulator.Options{Vaults: []string{"contoso-web", "contoso-pay"}}, emulator.Profile{Name: "www"}, emulator.Profile{Vault: "contoso-pay", Name: "pay"})
	web := emulator.Identity{ClientID: clientID, ObjectID: objectID, Vaults: []string{"contoso-web"}}
	pay := emulator.Identity{ClientID: otherID, ObjectID: otherID, Vaults: []string{"contoso-pay"}}
	s.vault.SetIdentities(web, pay)
	s.configure(func(d document) {
		d["authenticationSettings"].(map[string]any)["msiClientId"] = clientID
		d.entry("pay")["authenticationOverride"] = map[string]any{"msiClientId": otherID}
	})
	s.mount()
	for _, link := range []string{"contoso-web.www", "contoso-pay.pay"} {
		readFile(t, s.path(link))
	}
	s.end(15)

	s.vault.SetIdentities(web) // the other has been taken from the machine
	s.mount()
	readFile(t, s.path("contoso-web.www"))
	if _, err := os.Stat(s.path("contoso-pay.pay")); !os.IsNotExist(err) {
		t.Error("served without an identity:", err)
	}
	if r := s.report(); r.State != status.Degraded {
		t.Errorf("kvfs is %s", r.State)
	}
	if c := s.certificate("www"); c.State != "ok" || c.Error != nil {
		t.Errorf("%+v %+v", c, c.Error)
	}
	c := s.certificate("pay")
	if c.State != "missing" || c.Error == nil || c.Error.Kind != "identity" || !strings.Contains(c.Error.Fact, otherID) || c.Error.Hint == "" {
		t.Errorf("%+v %+v", c, c.Error)
	}
	if out := s.must("status"); !strings.Contains(out, c.Error.Fact) || !strings.Contains(out, "hint: "+c.Error.Hint) {
		t.Errorf("the status does not say why:\n%s", out)
	}
}
