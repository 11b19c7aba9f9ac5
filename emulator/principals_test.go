package emulator

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// control sends a body to a route of the control endpoint.
func control(t *testing.T, e *Emulator, route, body string) (int, string) {
	t.Helper()
	method, path, _ := strings.Cut(route, " ")
	r := must[*http.Request](t)(http.NewRequest(method, e.Endpoints().Control+path, strings.NewReader(body)))
	r.Close = true
	response := must[*http.Response](t)(http.DefaultClient.Do(r))
	defer response.Body.Close()
	return response.StatusCode, string(must[[]byte](t)(io.ReadAll(response.Body)))
}

func TestControlSetsIdentitiesAndApplications(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	status, said := control(t, e, "PUT /identities", `[{"clientId":"c1","objectId":"o1","system":true,"vaults":["One"]},{"clientId":"c2","objectId":"o2","resourceId":"/subscriptions/2"}]`)
	if status != 200 || !strings.Contains(said, `"clientId": "c2"`) {
		t.Fatalf("%d %s", status, said)
	}
	if !e.mayRead(&claims{ObjectID: "o1"}, "one") || e.mayRead(&claims{ObjectID: "o1"}, "two") || !e.mayRead(&claims{ObjectID: "o2"}, "two") {
		t.Error("other rights than given")
	}
	if _, _, body := ask(t, e, url.Values{"resource": {vaultResource}, "msi_res_id": {"/subscriptions/2"}}); !strings.Contains(string(body), `"client_id":"c2"`) {
		t.Errorf("%s", body)
	}

	cert, key := selfSigned(t, time.Now().Add(time.Hour))
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))})
	text := must[[]byte](t)(json.Marshal([]map[string]any{
		{
			"clientId": "app", "vaults": []string{"two"}, "secrets": []any{map[string]any{"value": "geheim", "expires": time.Now().Add(time.Hour)}},
			"certificates": []string{string(certPEM)},
			"federated":    []any{map[string]string{"issuer": clusterIssuer, "subject": clusterSubject, "key": string(keyPEM)}},
		},
		{"clientId": "off", "objectId": "o9", "disabled": true, "federated": []any{map[string]string{"issuer": "i", "subject": "s", "audience": "a", "key": string(certPEM)}}},
	}))
	status, said = control(t, e, "PUT /applications", string(text))
	if status != 200 || strings.Contains(said, "geheim") || !strings.Contains(said, principalOf("app")) {
		t.Fatalf("%d %s", status, said)
	}
	app, _ := e.applications.find("APP")
	if len(app.Certificates) != 1 || !app.Certificates[0].Equal(cert) || len(app.Federated) != 1 || !key.PublicKey.Equal(app.Federated[0].Key) || app.Disabled {
		t.Errorf("application %+v", app)
	}
	if off, _ := e.applications.find("off"); !off.Disabled || off.ObjectID != "o9" || !key.PublicKey.Equal(off.Federated[0].Key) || off.Federated[0].audience() != "a" {
		t.Errorf("application %+v", off)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"geheim"}, "scope": {vaultResource + "/.default"}}
	if status, le := tokenRequest(t, e, "POST", "https://login.microsoftonline.com/"+Tenant+"/oauth2/v2.0/token", form); status != 200 {
		t.Errorf("%d %+v", status, le)
	}
	if status, said := control(t, e, "PUT /identities", "[]"); status != 200 || strings.TrimSpace(said) != "[]" {
		t.Errorf("%d %s", status, said)
	}
}

func TestControlRefusesBadIdentitiesAndApplications(t *testing.T) {
	e := start(t, Options{})
	weak := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must[[]byte](t)(x509.MarshalPKIXPublicKey(ed25519.PublicKey(bytes.Repeat([]byte{1}, 32))))})
	quoted := func(text []byte) string { return string(must[[]byte](t)(json.Marshal(string(text)))) }
	for _, test := range []struct {
		route, body string
		status      int
		said        string
	}{
		{"PUT /identities", `[{"clientId":"c"}]`, 400, "objectId"},
		{"PUT /identities", `[{"clientId":"c","objectId":"o","vault":"x"}]`, 400, `unknown field`},
		{"PUT /identities", `[{"clientId":"c","objectId":"o","vaults":["x"]}]`, 404, `vault \"x\": not found`},
		{"PUT /identities", `[] []`, 400, "more"},
		{"PUT /identities", `{`, 400, "reading identities"},
		{"PUT /applications", `[{}]`, 400, "clientId"},
		{"PUT /applications", `[{"clientId":"c","vaults":["x"]}]`, 404, "not found"},
		{"PUT /applications", `[{"clientId":"c","secrets":[{}]}]`, 400, "no value"},
		{"PUT /applications", `[{"clientId":"c","secret":"geheim"}]`, 400, "unknown field"},
		{"PUT /applications", `[{"clientId":"c","certificates":["x"]}]`, 400, "want a certificate"},
		{"PUT /applications", `[{"clientId":"c","federated":[{"issuer":"i","subject":"s","key":"x"}]}]`, 400, "want a public key"},
		{"PUT /applications", `[{"clientId":"c","federated":[{"issuer":"i","subject":"s","key":` + quoted(weak) + `}]}]`, 400, "want RSA or EC"},
		{"PUT /applications", `[{"clientId":"c","federated":[{"issuer":"i","key":` + quoted(e.ca.rootPEM()) + `}]}]`, 400, "subject"},
	} {
		status, said := control(t, e, test.route, test.body)
		if status != test.status || !strings.Contains(said, test.said) {
			t.Errorf("%s %s: %d %s", test.route, test.body, status, said)
		}
	}
	if len(e.identities.ids) != 1 || len(e.applications.apps) != 0 {
		t.Error("a refused request changed something")
	}
}
