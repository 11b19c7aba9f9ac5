package emulator

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// recorded is one request to the real service, and what it said.
type recorded struct {
	RequestURI      string `json:"RequestUri"`
	StatusCode      int
	ResponseHeaders map[string]string
	ResponseBody    json.RawMessage
	Pages           []recorded `json:"pages"`
}

// recording reads one of the recordings of the real service, which are not part
// of a clone.
func recording(t *testing.T, file string) recorded {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "shared", "testdata", "keyvault-recordings", file))
	if os.IsNotExist(err) {
		t.Skip("the recordings of the real service are not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// body is the recorded body as the emulator would write it.
func (r recorded) body(t *testing.T) string {
	t.Helper()
	var text bytes.Buffer
	// RawMessage keeps the recorder's spelling of strings, so decode what it escaped.
	if err := json.Compact(&text, r.ResponseBody); err != nil {
		t.Fatal(err)
	}
	plain := strings.ReplaceAll(text.String(), `\u002B`, "+")
	return strings.ReplaceAll(plain, "+", `\u002B`)
}

// exchange sends a request in raw HTTP/1.1 and returns the answer with the
// headers in the spelling on the wire.
func exchange(t *testing.T, e *Emulator, host, target, token string) (status int, headers map[string]string, body string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(e.RootCertificate())
	conn, err := tls.Dial("tcp", e.Addr(), &tls.Config{ServerName: e.opts.Vaults[0] + "." + e.opts.Suffix, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if token != "" {
		token = "Authorization: Bearer " + token + "\r\n"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", target, host, token)
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if status, err = strconv.Atoi(strings.Fields(line)[1]); err != nil {
		t.Fatal(err)
	}
	headers = map[string]string{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		name, value, more := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
		if !more {
			break
		}
		headers[name] = value
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(len(text)); headers["Content-Length"] != want {
		t.Errorf("Content-Length %s, want %s", headers["Content-Length"], want)
	}
	return status, headers, string(text)
}

// sameHeaders wants every recorded header, with the recorded value where that
// is no matter of the moment.
func sameHeaders(t *testing.T, want, got map[string]string) {
	t.Helper()
	momentary := regexp.MustCompile(`^(Date|Content-Length|x-ms-request-id|x-ms-client-request-id|x-ms-keyvault-(region|network-info|rbac-cache|service-version)|WWW-Authenticate|X-Powered-By)$`)
	for name, value := range want {
		switch ours, ok := got[name]; {
		case name == "X-Powered-By", name == "x-ms-client-request-id": // gone, or an echo
		case !ok:
			t.Errorf("no header %s: %s", name, value)
		case !momentary.MatchString(name) && ours != value:
			t.Errorf("header %s: %s, recorded %s", name, ours, value)
		}
	}
	form := regexp.MustCompile(`^conn_type=Ipv4;addr=[0-9.]+;act_addr_fam=InterNetwork;$`)
	for _, info := range []string{want["x-ms-keyvault-network-info"], got["x-ms-keyvault-network-info"]} {
		if info != "" && !form.MatchString(info) {
			t.Errorf("network info %q", info)
		}
	}
}

// Each recorded secret is put into an emulator and asked for with the recorded
// request; every byte of the body has to come back.
func TestManagedSecretsEqualTheRecordedOnes(t *testing.T) {
	for _, file := range []string{
		"net-get-secret-x-pkcs12-P256.json", "net-get-secret-x-pkcs12-nonexportable-RSA2048.json",
		"net-get-secret-x-pem-file-P256.json", "net-get-secret-x-pem-file-P256K.json",
	} {
		t.Run(file, func(t *testing.T) {
			r := recording(t, file)
			u, err := url.Parse(r.RequestURI)
			if err != nil {
				t.Fatal(err)
			}
			var body struct {
				Value, ContentType string
				Attributes         struct{ Nbf, Exp, Created int64 }
			}
			if err := json.Unmarshal(r.ResponseBody, &body); err != nil {
				t.Fatal(err)
			}
			vault, _, _ := strings.Cut(u.Host, ".")
			e := start(t, Options{Vaults: []string{vault}})
			path := strings.Split(u.Path, "/")
			v := newVersion(body.ContentType, body.Value, time.Unix(body.Attributes.Created, 0))
			v.id = path[3]
			v.certify(&x509.Certificate{NotBefore: time.Unix(body.Attributes.Nbf, 0), NotAfter: time.Unix(body.Attributes.Exp, 0)})
			if err := e.store.add("", path[2], v, nil); err != nil {
				t.Fatal(err)
			}
			status, headers, got := exchange(t, e, u.Host, u.RequestURI(), e.token(t, "https://vault.azure.net", time.Now()))
			if want := r.body(t); status != 200 || got != want {
				t.Errorf("%d\n%s\nrecorded:\n%s", status, got, want)
			}
			sameHeaders(t, r.ResponseHeaders, headers)
		})
	}
}

func TestAnswersEqualTheRecordedOnes(t *testing.T) {
	const missing = "secret518723441"
	for _, test := range []struct {
		file, target string
		token        bool
		fault        FaultKind
	}{
		{"go-401-challenge-secrets.json", "/secrets/" + missing + "?api-version=7.4", false, ""},
		{"go-404-secret.json", "/deletedsecrets/" + missing + "?api-version=7.4", true, ""},
		{"net-403-secret-disabled.json", "/secrets/www/?api-version=7.2", true, Disabled},
		{"doc-401-token-expired.json", "/secrets/www?api-version=7.6", true, TokenExpired},
		{"doc-429-throttled.json", "/secrets/www?api-version=7.6", true, Throttled},
	} {
		t.Run(test.file, func(t *testing.T) {
			r := recording(t, test.file)
			e := start(t, Options{})
			if _, err := e.AddSecret("", "www", "", "x"); err != nil {
				t.Fatal(err)
			}
			var token string
			if test.token {
				token = e.token(t, "https://vault.azure.net", time.Now())
			}
			if test.fault != "" {
				e.SetFault(Fault{Kind: test.fault})
			}
			status, headers, got := exchange(t, e, "contoso-web.vault.azure.net", test.target, token)
			if want := r.body(t); status != r.StatusCode || got != want {
				t.Errorf("%d %s, recorded %d %s", status, got, r.StatusCode, want)
			}
			sameHeaders(t, r.ResponseHeaders, headers)
			form := regexp.MustCompile(`^Bearer authorization="https://[a-z.]+/[0-9a-f-]{36}", resource="https://[a-z.]+"$`)
			for _, c := range []string{r.ResponseHeaders["WWW-Authenticate"], headers["WWW-Authenticate"]} {
				if (status == 401) != form.MatchString(c) {
					t.Errorf("challenge %q", c)
				}
			}
		})
	}
}

// The callers and vaults in these differ, so the variable parts are cut out.
func TestForbiddenMessagesEqualTheQuotedOnes(t *testing.T) {
	variable := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|Action: '[^']*'|Resource: '[^']*'|DecisionReason: [^\\]*|(Vault: |vault ')[^;]*;location=[a-z]+`)
	for file, kind := range map[string]FaultKind{"doc-403-access-policy.json": ForbiddenPolicy, "doc-403-forbidden-by-rbac.json": ForbiddenRBAC} {
		r := recording(t, file)
		e := start(t, Options{})
		e.SetFault(Fault{Kind: kind})
		status, _, got := exchange(t, e, "contoso-web.vault.azure.net", "/secrets/www?api-version=7.6", e.token(t, "https://vault.azure.net", time.Now()))
		want := variable.ReplaceAllString(r.body(t), "?")
		if got = variable.ReplaceAllString(got, "?"); status != http.StatusForbidden || got != want {
			t.Errorf("%s\n%s\nquoted:\n%s", file, got, want)
		}
	}
}

// shape is the JSON with all values cut out but null and empty ones.
func shape(t *testing.T, text []byte) string {
	t.Helper()
	var out strings.Builder
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	key := []bool{} // for each open bracket: a key comes next
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		top := len(key) - 1
		switch v := token.(type) {
		case json.Delim:
			out.WriteString(v.String())
			if v == '{' || v == '[' {
				key = append(key, v == '{')
				continue
			}
			key = key[:top]
			if top--; top >= 0 && strings.HasSuffix(out.String(), "}") {
				out.WriteString(" ")
			}
			if top >= 0 && isObject(out.String()) {
				key[top] = true
			}
		default:
			if top >= 0 && key[top] {
				fmt.Fprintf(&out, "%v:", v)
				key[top] = false
				continue
			}
			switch v.(type) {
			case nil:
				out.WriteString("null ")
			default:
				fmt.Fprintf(&out, "%T ", v)
			}
			if top >= 0 && isObject(out.String()) {
				key[top] = true
			}
		}
	}
}

// isObject tells whether the innermost bracket still open is a brace.
func isObject(text string) bool {
	depth := 0
	for i := len(text) - 1; i >= 0; i-- {
		switch text[i] {
		case '}', ']':
			depth++
		case '{', '[':
			if depth == 0 {
				return text[i] == '{'
			}
			depth--
		}
	}
	return false
}

// optional fields of the recorded secrets that ours do not have.
var notOurs = regexp.MustCompile(`tags:\{(tag:string )?\} ?|nbf:json.Number |exp:json.Number `)

func TestHandMadeSecretHasTheRecordedShape(t *testing.T) {
	r := recording(t, "go-200-get-secret.json")
	e := start(t, Options{})
	if _, err := e.AddSecret("", "secret518723441", "big secret", "value518723441"); err != nil {
		t.Fatal(err)
	}
	status, headers, got := exchange(t, e, "contoso-web.vault.azure.net", "/secrets/secret518723441/?api-version=7.4", e.token(t, "https://vault.azure.net", time.Now()))
	want := notOurs.ReplaceAllString(shape(t, r.ResponseBody), "")
	if status != 200 || shape(t, []byte(got)) != want {
		t.Errorf("%d %s\nrecorded %s", status, shape(t, []byte(got)), want)
	}
	sameHeaders(t, r.ResponseHeaders, headers)
}

// The recorded listings of one item a page are walked again; only the pages
// that are empty differ, which the service scatters as it likes.
func TestPagesHaveTheRecordedShape(t *testing.T) {
	const linkForm = `^https://[a-z.-]+:443%s\?api-version=7\.4&\$skiptoken=[A-Za-z0-9_-]+&maxresults=1$`
	for _, test := range []struct {
		file, path string
		items      int
	}{
		{"go-azsecrets-v0.12.0-TestListSecrets-pages.json", "/secrets", 3},
		{"go-azsecrets-v0.12.0-TestListSecretVersions-pages.json", "/secrets/[a-z0-9]+/versions", 3},
		{"go-azsecrets-v0.12.0-TestListDeletedSecrets-pages.json", "/deletedsecrets", 2},
	} {
		file, path := test.file, test.path
		r := recording(t, file)
		e := start(t, Options{})
		for _, name := range []string{"aaa", "bbb", "word", "word", "word", "gone1", "gone2"} {
			if _, err := e.AddSecret("", name, "content-type", "x"); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"gone1", "gone2"} {
			if err := e.Delete("", name); err != nil {
				t.Fatal(err)
			}
		}
		shapes := map[string]bool{}
		form := regexp.MustCompile(fmt.Sprintf(linkForm, path))
		for _, p := range r.Pages {
			var body page
			if err := json.Unmarshal(p.ResponseBody, &body); err != nil {
				t.Fatal(err)
			}
			if body.Next != nil && !form.MatchString(*body.Next) {
				t.Fatalf("the recorded link %s has another form than the test thinks", *body.Next)
			}
			shapes[strings.ReplaceAll(notOurs.ReplaceAllString(shape(t, p.ResponseBody), ""), "contentType:string ", "")] = true
		}
		shapes["{value:[]nextLink:string }"], shapes["{value:[]nextLink:null }"] = true, true // recorded for certificates, and for secrets

		token := e.token(t, "https://vault.azure.net", time.Now())
		target := strings.Replace(path, "[a-z0-9]+", "word", 1) + "?api-version=7.4&maxresults=1"
		var items, empty int
		for pages := 0; target != ""; pages++ {
			if pages > 50 {
				t.Fatal("the listing does not end")
			}
			_, headers, got := exchange(t, e, "contoso-web.vault.azure.net", target, token)
			sameHeaders(t, r.Pages[0].ResponseHeaders, headers)
			ours := strings.ReplaceAll(shape(t, []byte(got)), "contentType:string ", "")
			if !shapes[ours] {
				t.Errorf("%s: shape %q, recorded %v", file, ours, shapes)
			}
			var body page
			if err := json.Unmarshal([]byte(got), &body); err != nil {
				t.Fatal(err)
			}
			items += len(body.Value)
			if len(body.Value) == 0 {
				empty++
			}
			if target = ""; body.Next != nil {
				if !form.MatchString(*body.Next) || !strings.Contains(got, "&$skiptoken=") {
					t.Errorf("link %s", *body.Next)
				}
				target = strings.TrimPrefix(*body.Next, "https://contoso-web.vault.azure.net:443")
			}
		}
		if items != test.items || empty != 2 {
			t.Errorf("%s: %d items and %d empty pages", file, items, empty)
		}
	}
}
