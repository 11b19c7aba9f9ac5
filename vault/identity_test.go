package vault_test

import (
	"fmt"
	"reflect"
	"testing"

	"kvfs/vault"
)

func TestResolveTakesFromTheMachineWhatTheSettingsLeaveOpen(t *testing.T) {
	type env = map[string]string
	const (
		arc   = "http://localhost:40342/metadata/identity"
		himds = "/opt/azcmagent/bin/himds"
	)
	secret := env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}
	webhook := env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/token", "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.us/"}
	everything := env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s", "AZURE_CLIENT_CERTIFICATE_PATH": "/p", "AZURE_FEDERATED_TOKEN_FILE": "/token",
		"AZURE_AUTHORITY_HOST": "https://a", "IDENTITY_ENDPOINT": "http://e/oauth2/token", "IMDS_ENDPOINT": "http://e", "IDENTITY_HEADER": "h", "MSI_ENDPOINT": "m", "MSI_SECRET": "s"}
	for _, tt := range []struct {
		id    vault.Identity
		env   env
		himds bool
		want  vault.Identity
	}{
		{vault.Identity{}, nil, false, vault.Identity{}},
		{vault.Identity{}, nil, true, vault.Identity{Endpoint: arc}},
		{vault.Identity{}, secret, true, vault.Identity{Method: vault.Environment, TenantID: "t", ClientID: "c"}},
		{vault.Identity{}, everything, false, vault.Identity{Method: vault.Environment, TenantID: "t", ClientID: "c"}},
		{vault.Identity{}, env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_CERTIFICATE_PATH": "/p"}, false, vault.Identity{Method: vault.Environment, TenantID: "t", ClientID: "c"}},
		{vault.Identity{}, env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_SECRET": "s"}, false, vault.Identity{}},
		{vault.Identity{}, env{"AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}, true, vault.Identity{Endpoint: arc}},
		{vault.Identity{}, env{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}, false, vault.Identity{}},
		{vault.Identity{}, webhook, true, vault.Identity{Method: vault.WorkloadIdentity, TenantID: "t", ClientID: "c", TokenFile: "/token", Authority: "https://login.microsoftonline.us/"}},
		{vault.Identity{}, env{"AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/token"}, false, vault.Identity{}},
		{vault.Identity{}, env{"IDENTITY_ENDPOINT": "http://e/oauth2/token", "IMDS_ENDPOINT": "http://e"}, true, vault.Identity{Endpoint: "http://e/oauth2/token"}},
		{vault.Identity{}, env{"IDENTITY_ENDPOINT": "http://e", "IDENTITY_HEADER": "h", "MSI_ENDPOINT": "m", "MSI_SECRET": "s"}, false, vault.Identity{}},
		{vault.Identity{}, env{"IMDS_ENDPOINT": "http://e"}, false, vault.Identity{}},
		{vault.Identity{Method: vault.ManagedIdentity}, secret, false, vault.Identity{Method: vault.ManagedIdentity}},
		{vault.Identity{Method: vault.ManagedIdentity}, everything, true, vault.Identity{Method: vault.ManagedIdentity, Endpoint: "http://e/oauth2/token"}},
		// A managed identity that the settings name stays one, with all of the environment against it.
		{vault.Identity{ClientID: "own"}, everything, false, vault.Identity{ClientID: "own", Endpoint: "http://e/oauth2/token"}},
		{vault.Identity{ObjectID: "own"}, secret, true, vault.Identity{ObjectID: "own", Endpoint: arc}},
		{vault.Identity{Endpoint: "http://own"}, everything, true, vault.Identity{Endpoint: "http://own"}},
		{vault.Identity{ResourceID: "/subscriptions/own"}, secret, false, vault.Identity{ResourceID: "/subscriptions/own"}},
		{vault.Identity{Method: vault.WorkloadIdentity}, webhook, true, vault.Identity{Method: vault.WorkloadIdentity, TenantID: "t", ClientID: "c", TokenFile: "/token", Authority: "https://login.microsoftonline.us/"}},
		{vault.Identity{Method: vault.WorkloadIdentity, ClientID: "own", Authority: "https://own"}, webhook, false, vault.Identity{Method: vault.WorkloadIdentity, TenantID: "t", ClientID: "own", TokenFile: "/token", Authority: "https://own"}},
		{vault.Identity{Method: vault.WorkloadIdentity}, nil, true, vault.Identity{Method: vault.WorkloadIdentity}},
		{vault.Identity{Method: vault.ServicePrincipal}, everything, true, vault.Identity{Method: vault.ServicePrincipal}},
		{vault.Identity{Method: vault.AzureCLI}, everything, true, vault.Identity{Method: vault.AzureCLI}},
		{vault.Identity{Method: vault.Environment}, everything, true, vault.Identity{Method: vault.Environment}},
		{vault.Identity{Method: vault.Ambient}, everything, true, vault.Identity{Method: vault.Ambient}},
	} {
		getenv := func(name string) string { return tt.env[name] }
		exists := func(file string) bool { return tt.himds && file == himds }
		got := tt.id.Resolve(getenv, exists)
		if got != tt.want {
			t.Errorf("%+v with %v, agent %v: %+v, want %+v", tt.id, tt.env, tt.himds, got, tt.want)
		}
		if again := got.Resolve(getenv, exists); again != got {
			t.Errorf("%+v resolved again is %+v", got, again)
		}
	}
}

func TestEveryIdentityHasAName(t *testing.T) {
	for _, tt := range []struct {
		id   vault.Identity
		want string
	}{
		{vault.Identity{}, "system-assigned managed identity"},
		{vault.Identity{Endpoint: "http://e"}, "system-assigned managed identity"},
		{vault.Identity{ClientID: "c", ObjectID: "o"}, "managed identity with client id c"},
		{vault.Identity{ObjectID: "o", ResourceID: "r"}, "managed identity with object id o"},
		{vault.Identity{ResourceID: "r"}, "managed identity with resource id r"},
		{vault.Identity{Method: vault.WorkloadIdentity, ClientID: "c", TokenFile: "/t"}, "workload identity c with the token in /t"},
		{vault.Identity{Method: vault.ServicePrincipal, ClientID: "c", SecretFile: "/s"}, "service principal c with the secret in /s"},
		{vault.Identity{Method: vault.ServicePrincipal, ClientID: "c", CertificateFile: "/p", PasswordFile: "/w"}, "service principal c with the certificate in /p"},
		{vault.Identity{Method: vault.AzureCLI}, "person signed in to the Azure CLI"},
		{vault.Identity{Method: vault.Environment}, "service principal of the environment"},
		{vault.Identity{Method: vault.Environment, ClientID: "c"}, "service principal c of the environment"},
		{vault.Identity{Method: vault.Ambient}, "ambient credentials (environment, az login)"},
	} {
		if got := tt.id.String(); got != tt.want {
			t.Errorf("%+v is called %q, want %q", tt.id, got, tt.want)
		}
	}
}

// A field that the key forgets would let two identities share clients, or a program take one for the other.
func TestKeysDifferInEveryField(t *testing.T) {
	keys := map[string]vault.Identity{vault.Identity{}.Key(): {}}
	for i := range reflect.TypeFor[vault.Identity]().NumField() {
		var id vault.Identity
		reflect.ValueOf(&id).Elem().Field(i).SetString("x")
		if other, taken := keys[id.Key()]; taken {
			t.Errorf("%+v and %+v have the key %s", id, other, id.Key())
		}
		keys[id.Key()] = id
		type fields vault.Identity // without String
		if want := fmt.Sprintf("%q", fields(id)); id.Key() != want {
			t.Errorf("the key is %s, and was %s", id.Key(), want)
		}
	}
}
