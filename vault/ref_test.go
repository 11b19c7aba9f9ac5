package vault_test

import (
	"errors"
	"strings"
	"testing"

	"kvfs/vault"
)

const version = "0123456789abcdef0123456789abcdef"

func TestParseRefAccepts(t *testing.T) {
	for _, tt := range []struct {
		raw      string
		suffixes []string
		want     string // String()
		notes    []string
	}{
		{raw: "https://contoso-web.vault.azure.net/secrets/www", want: "https://contoso-web.vault.azure.net/secrets/www"},
		{raw: "  https://contoso-web.vault.azure.net/secrets/www\t\n", want: "https://contoso-web.vault.azure.net/secrets/www"},
		{raw: "https://contoso-web.vault.azure.net:443/secrets/www", want: "https://contoso-web.vault.azure.net/secrets/www"},
		{raw: "https://contoso-web.vault.azure.net:/secrets/www", want: "https://contoso-web.vault.azure.net/secrets/www"},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/", want: "https://contoso-web.vault.azure.net/secrets/www"},
		{raw: "HTTPS://Contoso-Web.Vault.Azure.NET/Secrets/WWW", want: "https://Contoso-Web.Vault.Azure.NET/secrets/WWW"},
		{raw: "https://contoso-cn.vault.azure.cn/secrets/api", want: "https://contoso-cn.vault.azure.cn/secrets/api"},
		{raw: "https://contoso-gov.vault.usgovcloudapi.net/secrets/edge", want: "https://contoso-gov.vault.usgovcloudapi.net/secrets/edge"},
		{raw: "https://contoso-de.vault.microsoftazure.de/secrets/edge", want: "https://contoso-de.vault.microsoftazure.de/secrets/edge"},
		{raw: "https://abc.vault.azure.net/secrets/a", want: "https://abc.vault.azure.net/secrets/a"},
		{raw: "https://" + strings.Repeat("v", 24) + ".vault.azure.net/secrets/" + strings.Repeat("n", 127),
			want: "https://" + strings.Repeat("v", 24) + ".vault.azure.net/secrets/" + strings.Repeat("n", 127)},
		{raw: "https://contoso-web.vault.azure.net/secrets/versions", want: "https://contoso-web.vault.azure.net/secrets/versions"},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/" + version, want: "https://contoso-web.vault.azure.net/secrets/www/" + version,
			notes: []string{"the version is pinned: it will not rotate"}},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/" + strings.ToUpper(version) + "/", want: "https://contoso-web.vault.azure.net/secrets/www/" + strings.ToUpper(version),
			notes: []string{"the version is pinned: it will not rotate"}},
		{raw: "https://Contoso-Web.vault.azure.net/certificates/www", want: "https://Contoso-Web.vault.azure.net/secrets/www",
			notes: []string{"/certificates/www holds no private key, its secret is read instead"}},
		{raw: "https://contoso-web.vault.azure.net/secrets/www?api-version=7.4", want: "https://contoso-web.vault.azure.net/secrets/www",
			notes: []string{"the query of the URL is ignored"}},
		{raw: "https://contoso-web.vault.azure.net/secrets/www#top", want: "https://contoso-web.vault.azure.net/secrets/www",
			notes: []string{"the fragment of the URL is ignored"}},
		{raw: "https://contoso-web.vault.azure.net/certificates/www/" + version + "?a=b#c", want: "https://contoso-web.vault.azure.net/secrets/www/" + version,
			notes: []string{"/certificates/www holds no private key, its secret is read instead", "the query of the URL is ignored",
				"the fragment of the URL is ignored", "the version is pinned: it will not rotate"}},
		{raw: "https://contoso-web.localhost:8443/secrets/www", suffixes: []string{"localhost:8443"}, want: "https://contoso-web.localhost:8443/secrets/www"},
		{raw: "https://contoso-web.Localhost:9/secrets/www", suffixes: []string{".LOCALHOST"}, want: "https://contoso-web.Localhost:9/secrets/www"},
		{raw: "https://contoso-web.vault.corp.example:443/secrets/www", suffixes: []string{"vault.corp.example:443"}, want: "https://contoso-web.vault.corp.example/secrets/www"},
		{raw: "https://contoso-web.vault.corp.example/secrets/www", suffixes: []string{"", " vault.corp.example "}, want: "https://contoso-web.vault.corp.example/secrets/www"},
		{raw: "https://contoso-web.vault.azure.net:8443/secrets/www", suffixes: []string{"vault.azure.net"}, want: "https://contoso-web.vault.azure.net:8443/secrets/www"},
	} {
		ref, notes, err := vault.ParseRef(tt.raw, tt.suffixes...)
		if err != nil {
			t.Errorf("ParseRef(%q): %v", tt.raw, err)
			continue
		}
		if ref.String() != tt.want {
			t.Errorf("ParseRef(%q) = %s, want %s", tt.raw, ref, tt.want)
		}
		var facts []string
		for _, n := range notes {
			facts = append(facts, n.Fact)
			if n.Hint == "" {
				t.Errorf("ParseRef(%q): note %q has no hint", tt.raw, n.Fact)
			}
		}
		if strings.Join(facts, "\n") != strings.Join(tt.notes, "\n") {
			t.Errorf("ParseRef(%q) notes %q, want %q", tt.raw, facts, tt.notes)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	const (
		url    = "write https://VAULT.vault.azure.net/secrets/NAME"
		use    = "use https://contoso-web.vault.azure.net/secrets/www"
		others = "other suffixes can be allowed in kvfs.vaultDnsSuffixes"
		shape  = "a vault is one label before a suffix, such as contoso-web.vault.azure.net; " + others
		port   = "leave the port out; another one needs its own suffix in kvfs.vaultDnsSuffixes"
		name   = "names have 1 to 127 letters, digits and hyphens"
		ver    = "versions have 32 hexadecimal digits; leave it out to follow renewals"
	)
	unknown := func(host string) string { return `"` + host + `" is not a known Key Vault host` }
	for _, tt := range []struct {
		raw, fact, hint string
		suffixes        []string
	}{
		{raw: "", fact: "the URL is empty", hint: url},
		{raw: " \t ", fact: "the URL is empty", hint: url},
		{raw: "[parameters('keyvaultCertPath')]", fact: "an ARM expression, which only the deployment can evaluate",
			hint: "give kvfs the deployed settings (the agent's config/<N>.settings), not the template"},
		{raw: "contoso-web.vault.azure.net/secrets/www", fact: `"contoso-web.vault.azure.net/secrets/www" has no scheme`, hint: use},
		{raw: "contoso-web.vault.azure.net:443/secrets/www", fact: `"contoso-web.vault.azure.net:443/secrets/www" has no scheme`, hint: use},
		{raw: "www", fact: `"www" has no scheme`, hint: url},
		{raw: "http://contoso-web.vault.azure.net/secrets/www", fact: `scheme is "http"`, hint: use},
		{raw: "http://contoso-web.vault.azure.net:80/secrets/www", fact: `scheme is "http"`, hint: url},
		{raw: "ftp://example.com/secrets/www", fact: `scheme is "ftp"`, hint: url},
		{raw: "://contoso-web.vault.azure.net/secrets/www", fact: `"://contoso-web.vault.azure.net/secrets/www" is not a URL`, hint: url},
		{raw: "https:///secrets/www", fact: "the URL has no host", hint: url},
		{raw: `https://contoso-web.vault.azure.net\secrets\www`, fact: `"https://contoso-web.vault.azure.net\\secrets\\www" is not a URL`, hint: url},
		{raw: "https://contoso-web.vault.azure.net:port/secrets/www", fact: `"https://contoso-web.vault.azure.net:port/secrets/www" is not a URL`, hint: url},

		{raw: "https://me:hunter2@contoso-web.vault.azure.net/secrets/www", fact: "the URL has user info before the host", hint: use},
		{raw: "https://contoso-web.vault.azure.net@evil.example/secrets/www", fact: "the URL has user info before the host", hint: url},
		{raw: "https://me:hunter2 @contoso-web.vault.azure.net/secrets/www", fact: `"...@contoso-web.vault.azure.net/secrets/www" is not a URL`, hint: url},
		{raw: "me:hunter2@contoso-web.vault.azure.net/secrets/www", fact: `"...@contoso-web.vault.azure.net/secrets/www" has no scheme`, hint: url},

		{raw: "contoso-web.vault.azure.net/secrets/www?sig=hunter2", fact: `"contoso-web.vault.azure.net/secrets/www?..." has no scheme`, hint: use},
		{raw: "contoso-web.vault.azure.net/secrets/www#hunter2", fact: `"contoso-web.vault.azure.net/secrets/www#..." has no scheme`, hint: use},
		{raw: "https://contoso-web.vault.azure.net:port/secrets/www?sig=hunter2#hunter2", fact: `"https://contoso-web.vault.azure.net:port/secrets/www?..." is not a URL`, hint: url},
		{raw: "https://me:hunter2@contoso-web.vault.azure.net:port/secrets/www?sig=hunter2", fact: `"...@contoso-web.vault.azure.net:port/secrets/www?..." is not a URL`, hint: url},
		{raw: "https://contoso-web.vault.azure.net:port/secrets/www?me=a@hunter2", fact: `"https://..." is not a URL`, hint: url},
		{raw: "https://me:hun#ter2@contoso-web.vault.azure.net/secrets/www", fact: `"https://..." is not a URL`, hint: url},
		{raw: "https://me:hun@ter2:x?@contoso-web.vault.azure.net:port/secrets/www", fact: `"https://..." is not a URL`, hint: url},
		{raw: "me:hun?ter2@contoso-web.vault.azure.net/secrets/www", fact: `"..." has no scheme`, hint: url},
		{raw: "hunter2 ://hun?ter2@contoso-web.vault.azure.net/secrets/www", fact: `"..." is not a URL`, hint: url},

		{raw: "https://contoso-web.vault.azure.com/secrets/www", fact: unknown("contoso-web.vault.azure.com"), hint: "did you mean contoso-web.vault.azure.net? " + others},
		{raw: "https://contoso-web.vaults.azure.net/secrets/www", fact: unknown("contoso-web.vaults.azure.net"), hint: "did you mean contoso-web.vault.azure.net? " + others},
		{raw: "https://contoso-web.vault.azure.net./secrets/www", fact: unknown("contoso-web.vault.azure.net."), hint: "did you mean contoso-web.vault.azure.net? " + others},
		{raw: "https://contoso-web.vault.azure.net.evil.example/secrets/www", fact: unknown("contoso-web.vault.azure.net.evil.example"), hint: shape},
		{raw: "https://contoso-webvault.azure.net/secrets/www", fact: unknown("contoso-webvault.azure.net"), hint: shape},
		{raw: "https://contoso.web.vault.azure.net/secrets/www", fact: unknown("contoso.web.vault.azure.net"), hint: shape},
		{raw: "https://evil.example/contoso-web.vault.azure.net/secrets/www", fact: unknown("evil.example"), hint: shape},
		{raw: "https://xvault.azure.net/secrets/www", fact: unknown("xvault.azure.net"), hint: shape},
		{raw: "https://vault.azure.net/secrets/www", fact: unknown("vault.azure.net"), hint: shape},
		{raw: "https://.vault.azure.net/secrets/www", fact: unknown(".vault.azure.net"), hint: shape},
		{raw: "https://contoso-web/secrets/www", fact: unknown("contoso-web"), hint: shape},
		{raw: "https://10.0.0.4/secrets/www", fact: unknown("10.0.0.4"), hint: shape},
		{raw: "https://[fe80::1]/secrets/www", fact: unknown("fe80::1"), hint: shape},
		{raw: "https://contoso-web.vault.azure.nеt/secrets/www", fact: unknown("contoso-web.vault.azure.nеt"), hint: "did you mean contoso-web.vault.azure.net? " + others}, // a Cyrillic letter
		{raw: "https://contoso-web.vault.uſgovcloudapi.net/secrets/www", fact: unknown("contoso-web.vault.uſgovcloudapi.net"),
			hint: "did you mean contoso-web.vault.usgovcloudapi.net? " + others}, // the long s, which folds to s
		{raw: "https://contoso-web.vault.u%C5%BFgovcloudapi.net/secrets/www", fact: unknown("contoso-web.vault.uſgovcloudapi.net"),
			hint: "did you mean contoso-web.vault.usgovcloudapi.net? " + others},
		{raw: "https://contoso-web.vault.Kv.example/secrets/www", suffixes: []string{"vault.kv.example"}, fact: unknown("contoso-web.vault.Kv.example"), hint: shape}, // the Kelvin sign, which folds to k
		{raw: "https://contoso%2eweb.vault.azure.net/secrets/www", fact: `"https://contoso%2eweb.vault.azure.net/secrets/www" is not a URL`, hint: url},
		{raw: "https://contoso-web.privatelink.vaultcore.azure.net/secrets/www", fact: unknown("contoso-web.privatelink.vaultcore.azure.net"),
			hint: "use contoso-web.vault.azure.net; its DNS answer leads to the private link"},
		{raw: "https://contoso-web.vaultcore.azure.cn/secrets/www", fact: unknown("contoso-web.vaultcore.azure.cn"),
			hint: "use contoso-web.vault.azure.cn; its DNS answer leads to the private link"},
		{raw: "https://contoso.managedhsm.azure.net/secrets/www", fact: unknown("contoso.managedhsm.azure.net"), hint: "a managed HSM holds keys only; " + url},
		{raw: "https://contoso-web.vault.corp.example/secrets/www", suffixes: []string{"", ".", "corp.example"}, fact: unknown("contoso-web.vault.corp.example"), hint: shape},

		{raw: "https://contoso-web.vault.azure.net:8443/secrets/www", fact: "port 8443 is not the port of a vault", hint: port},
		{raw: "https://contoso-web.vault.azure.net:0443/secrets/www", fact: "port 0443 is not the port of a vault", hint: port},
		{raw: "https://contoso-web.localhost:8444/secrets/www", suffixes: []string{"localhost:8443"}, fact: unknown("contoso-web.localhost"), hint: shape},
		{raw: "https://contoso-web.localhost:0/secrets/www", suffixes: []string{"localhost"}, fact: "port 0 is not the port of a vault", hint: port},
		{raw: "https://contoso-web.localhost:65536/secrets/www", suffixes: []string{"localhost"}, fact: "port 65536 is not the port of a vault", hint: port},

		{raw: "https://ab.vault.azure.net/secrets/www", fact: `"ab" is not a vault name`, hint: "vault names have 3 to 24 letters, digits and hyphens"},
		{raw: "https://contoso_web.vault.azure.net/secrets/www", fact: `"contoso_web" is not a vault name`, hint: "vault names have 3 to 24 letters, digits and hyphens"},
		{raw: "https://" + strings.Repeat("v", 25) + ".vault.azure.net/secrets/www", fact: `"` + strings.Repeat("v", 25) + `" is not a vault name`,
			hint: "vault names have 3 to 24 letters, digits and hyphens"},

		{raw: "https://contoso-web.vault.azure.net", fact: "the URL names a vault, not a secret", hint: url},
		{raw: "https://contoso-web.vault.azure.net//", fact: "the URL names a vault, not a secret", hint: url},
		{raw: "https://contoso-web.vault.azure.net/secrets", fact: `"/secrets" is not the path of a secret`, hint: url},
		{raw: "https://contoso-web.vault.azure.net/storage/www", fact: `"/storage/www" is not the path of a secret`, hint: url},
		{raw: "https://contoso-web.vault.azure.net//secrets/www", fact: `"//secrets/www" is not the path of a secret`, hint: url},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/" + version + "/x", fact: `"/secrets/www/` + version + `/x" is not the path of a secret`, hint: url},
		{raw: "https://contoso-web.vault.azure.net/keys/www", fact: "/keys/www is a key, it has no certificate", hint: use},
		{raw: "https://contoso-web.vault.azure.net/keys/a_b", fact: "/keys/a_b is a key, it has no certificate", hint: url},
		{raw: "https://contoso-web.vault.azure.net/secrets/www_site", fact: `"www_site" is not a certificate name`, hint: name},
		{raw: "https://contoso-web.vault.azure.net/secrets/" + strings.Repeat("n", 128), fact: `"` + strings.Repeat("n", 80) + `..." is not a certificate name`, hint: name},
		{raw: "https://contoso-web.vault.azure.net/secrets/a%2Fb", fact: `"a%2Fb" is not a certificate name`, hint: name},
		{raw: "https://contoso-web.vault.azure.net/secrets/..", fact: `".." is not a certificate name`, hint: name},
		{raw: "https://contoso-web.vault.azure.net/secrets//" + version, fact: `"" is not a certificate name`, hint: name},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/latest", fact: `"latest" is not a version`, hint: ver},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/" + version[1:], fact: `"` + version[1:] + `" is not a version`, hint: ver},
		{raw: "https://contoso-web.vault.azure.net/secrets/www/g" + version[1:], fact: `"g` + version[1:] + `" is not a version`, hint: ver},
	} {
		ref, notes, err := vault.ParseRef(tt.raw, tt.suffixes...)
		var refused *vault.RefError
		if !errors.As(err, &refused) {
			t.Errorf("ParseRef(%q) = %v, %v; want a RefError", tt.raw, ref, err)
			continue
		}
		if refused.Fact != tt.fact || refused.Hint != tt.hint {
			t.Errorf("ParseRef(%q)\n  fact %s\n  want %s\n  hint %s\n  want %s", tt.raw, refused.Fact, tt.fact, refused.Hint, tt.hint)
		}
		if !ref.IsZero() || notes != nil || err.Error() != tt.fact {
			t.Errorf("ParseRef(%q) = %v, %v, %v beside its error", tt.raw, ref, notes, err)
		}
	}
}

func TestRefParts(t *testing.T) {
	ref := mustParse(t, "https://Contoso-Web.vault.azure.net:443/secrets/WWW/"+strings.ToUpper(version))
	for _, tt := range []struct{ name, got, want string }{
		{"Host", ref.Host(), "Contoso-Web.vault.azure.net"},
		{"VaultURL", ref.VaultURL(), "https://Contoso-Web.vault.azure.net"},
		{"Vault", ref.Vault(), "Contoso-Web"},
		{"Name", ref.Name(), "WWW"},
		{"Version", ref.Version(), strings.ToUpper(version)},
		{"Key", ref.Key(), "https://contoso-web.vault.azure.net/secrets/www/" + version},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	if !ref.Pinned() || ref.IsZero() {
		t.Error("a ref with a version is not pinned, or zero")
	}
	var zero vault.Ref
	if !zero.IsZero() || zero.Pinned() || zero.String() != "" || zero.Key() != "" {
		t.Errorf("the zero Ref is %q", zero)
	}
}

func TestRefKeyIgnoresCaseAndTellsVersionsApart(t *testing.T) {
	a := mustParse(t, "https://contoso-web.vault.azure.net/secrets/www")
	if b := mustParse(t, "https://CONTOSO-web.vault.azure.net:443/secrets/WWW/"); a.Key() != b.Key() {
		t.Errorf("%s and %s have different keys", a, b)
	}
	for _, other := range []string{
		"https://contoso-web.vault.azure.net/secrets/www/" + version,
		"https://contoso-web.vault.azure.net/secrets/www2",
		"https://contoso-web.vault.azure.cn/secrets/www",
	} {
		if b := mustParse(t, other); a.Key() == b.Key() {
			t.Errorf("%s and %s have the same key", a, b)
		}
	}
}

// FuzzParseRef holds what is accepted to the rules that the rest of kvfs builds paths and connections on.
func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{
		"https://contoso-web.vault.azure.net/secrets/www", "https://a.b/certificates/c/" + version, "http://[::1]:443/keys/k",
		"https://u:p@contoso-web.vault.azure.net:443/secrets/www?q#f", "[x]", "://", "a@b/https://", "https://contoso-web.own:8443/secrets/a%2Fb/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		ref, _, err := vault.ParseRef(raw, "own", "port.own:8443")
		if err != nil {
			checkRefError(t, err)
			return
		}
		again, _, err := vault.ParseRef(ref.String(), "own", "port.own:8443")
		if err != nil || again != ref {
			t.Errorf("ParseRef(%q) = %s, which parses to %s, %v", raw, ref, again, err)
		}
		if strings.ContainsAny(ref.Vault()+ref.Name()+ref.Version(), "./\\@%\x00 ") || ref.Vault() == "" || ref.Name() == "" {
			t.Errorf("ParseRef(%q) has parts that are no names: %q %q %q", raw, ref.Vault(), ref.Name(), ref.Version())
		}
		host := strings.ToLower(strings.TrimPrefix(ref.Host(), ref.Vault()))
		if i := strings.IndexByte(host, ':'); i >= 0 && strings.HasSuffix(host[:i], "own") {
			host = host[:i]
		}
		switch host {
		case ".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net", ".vault.microsoftazure.de", ".own", ".port.own":
		default:
			t.Errorf("ParseRef(%q) admits the host %q", raw, ref.Host())
		}
	})
}

func checkRefError(t *testing.T, err error) {
	t.Helper()
	var refused *vault.RefError
	if !errors.As(err, &refused) || refused.Fact == "" || refused.Hint == "" {
		t.Errorf("%#v is not a RefError with fact and hint", err)
		return
	}
	if strings.ContainsAny(refused.Fact+refused.Hint, "\n\r\x00\x1b") {
		t.Errorf("%q, %q is not one line of text", refused.Fact, refused.Hint)
	}
}

func TestRefOfAVersion(t *testing.T) {
	const version = "0123456789abcdef0123456789abcdef"
	latest := mustParse(t, "https://contoso-web.vault.azure.net/secrets/www")
	pinned := latest.WithVersion(version)
	if want := mustParse(t, latest.String()+"/"+version); pinned != want || latest.Pinned() || pinned.WithVersion("") != latest {
		t.Errorf("%s, want %s", pinned, want)
	}
}

func mustParse(t *testing.T, raw string, suffixes ...string) vault.Ref {
	t.Helper()
	ref, _, err := vault.ParseRef(raw, suffixes...)
	if err != nil {
		t.Fatalf("ParseRef(%q): %v", raw, err)
	}
	return ref
}
