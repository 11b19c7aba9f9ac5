package certs

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
)

// program runs another program that reads what is written here, or skips without it.
func program(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &stderr)
	}
	return out
}

func saved(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantSame checks that what another program printed as PEM is the bundle.
func wantSame(t *testing.T, b *Bundle, printed []byte) {
	t.Helper()
	got, err := Parse("", printed)
	if err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	if !slices.Equal(sums(got.Chain), sums(b.Chain)) || len(got.Extra) > 0 {
		t.Errorf("chain %v, extra %v, want %v", subjects(got.Chain), subjects(got.Extra), subjects(b.Chain))
	}
	if !bytes.Equal(got.PEM().Key(), b.PEM().Key()) {
		t.Error("another key")
	}
}

// storeBundles are of every algorithm that a certificate may have, with a stranger that
// belongs into no store.
func storeBundles(t *testing.T) map[string]*Bundle {
	t.Helper()
	bundles := make(map[string]*Bundle)
	for kind, key := range testKeys(t) {
		chain := newChain(t, 3, key)
		stranger := issue(t, nil, "stranger", newP256(t))
		bundles[kind] = mustParse(t, join(keyPEM(t, key), certPEM(certsOf(chain...)...), certPEM(stranger.cert)))
	}
	return bundles
}

const testPassword = "Geheim-1 \u00e4" // Java hashes characters, so one beyond ASCII is told from its bytes

func TestOpensslReadsThePFX(t *testing.T) {
	for kind, b := range storeBundles(t) {
		for _, password := range []string{"", "Geheim-1"} {
			t.Run(kind+" "+fmt.Sprintf("%q", password), func(t *testing.T) {
				path := saved(t, "bundle.pfx", must[[]byte](t)(b.PFX(StoreOptions{Password: password})))
				wantSame(t, b, program(t, "openssl", "pkcs12", "-in", path, "-passin", "pass:"+password, "-nodes"))
			})
		}
	}
}

// keytool tells the chain of an entry, and copies it with its key to a file that openssl
// reads.
func throughKeytool(t *testing.T, kind, path, alias, password string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.p12")
	program(t, "keytool", "-importkeystore", "-noprompt", "-srcstoretype", kind, "-srckeystore", path, "-srcstorepass", password,
		"-srcalias", alias, "-deststoretype", "PKCS12", "-destkeystore", out, "-deststorepass", "changeit")
	return program(t, "openssl", "pkcs12", "-in", out, "-passin", "pass:changeit", "-nodes")
}

func TestJavaReadsThePFX(t *testing.T) {
	for kind, b := range storeBundles(t) {
		for _, password := range []string{"", "Geheim-1"} {
			if password != "" && kind != "RSA-2048" || kind == "EC-P-384" {
				continue // a Java machine takes a second to start
			}
			t.Run(kind+" "+fmt.Sprintf("%q", password), func(t *testing.T) {
				t.Parallel()
				path := saved(t, "bundle.pfx", must[[]byte](t)(b.PFX(StoreOptions{Password: password})))
				wantSame(t, b, throughKeytool(t, "PKCS12", path, "1", password))
			})
		}
	}
}

func TestJavaReadsTheJKS(t *testing.T) {
	bundles := storeBundles(t)
	for _, kind := range []string{"RSA-2048", "EC-P-256", "Ed25519"} {
		b := bundles[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			path := saved(t, "keystore.jks", must[[]byte](t)(b.JKS(StoreOptions{Password: "Geheim-1", Alias: "Www"})))
			wantSame(t, b, throughKeytool(t, "JKS", path, "www", "Geheim-1"))
		})
	}
}

func TestJavaReadsTheTrustStore(t *testing.T) {
	b := storeBundles(t)["EC-P-256"]
	single := newChain(t, 1, newP256(t))
	alone := mustParse(t, join(keyPEM(t, single[0].key), certPEM(single[0].cert)))
	for name, tt := range map[string]struct {
		b    *Bundle
		want []*x509.Certificate
	}{"issuers": {b, b.Chain[1:]}, "the leaf alone": {alone, alone.Chain}} {
		t.Run(name, func(t *testing.T) {
			path := saved(t, "truststore.jks", must[[]byte](t)(tt.b.TrustStore(StoreOptions{Password: "changeit"})))
			listed := program(t, "keytool", "-list", "-rfc", "-keystore", path, "-storepass", "changeit")
			got := [][]byte{}
			for block, rest := pem.Decode(listed); block != nil; block, rest = pem.Decode(rest) {
				got = append(got, block.Bytes)
			}
			if n := bytes.Count(listed, []byte("trustedCertEntry")); n != len(tt.want) || len(got) != len(tt.want) {
				t.Fatalf("%d entries, want %d: %s", n, len(tt.want), listed)
			}
			for _, c := range tt.want {
				if !slices.ContainsFunc(got, func(der []byte) bool { return bytes.Equal(der, c.Raw) }) {
					t.Errorf("%v is missing", c.Subject)
				}
			}
		})
	}
}

// A password is characters to Java, whatever bytes they are: its own reading of one beyond
// ASCII is compared with the library's.
func TestAPasswordBeyondASCIIIsOneToJavaToo(t *testing.T) {
	b := storeBundles(t)["EC-P-256"]
	path := saved(t, "keystore.jks", must[[]byte](t)(b.JKS(StoreOptions{Password: testPassword})))
	passwordFile := saved(t, "password", []byte(testPassword))
	listed := program(t, "keytool", "-J-Dfile.encoding=UTF-8", "-J-Dsun.jnu.encoding=UTF-8", "-list", "-keystore", path, "-storepass:file", passwordFile)
	if !bytes.Contains(listed, []byte("PrivateKeyEntry")) {
		t.Errorf("%s", listed)
	}
}

func TestTheSameStoreIsTheSameBytes(t *testing.T) {
	for kind, b := range storeBundles(t) {
		again := mustParse(t, b.PEM().Combined())
		partial := mustRefuse(t, b.PEM().FullChain(), NoPrivateKey).Partial
		options := []StoreOptions{{Password: "changeit"}, {Password: "changeit", Alias: "other"}, {Password: "another"}, {Password: "changeit", Created: time.Unix(1e9, 0)}}
		for name, write := range map[string]func(*Bundle, StoreOptions) ([]byte, error){"pfx": (*Bundle).PFX, "jks": (*Bundle).JKS, "trust": (*Bundle).TrustStore} {
			seen := make(map[string]bool)
			for _, o := range options {
				first, second := must[[]byte](t)(write(b, o)), must[[]byte](t)(write(again, o))
				if !bytes.Equal(first, second) {
					t.Errorf("%s %s: not the same bytes", kind, name)
				}
				seen[string(first)] = true
			}
			if len(seen) != len(options) && name != "trust" {
				t.Errorf("%s %s: %d stores of %d options: salts are used again", kind, name, len(seen), len(options))
			}
			if name != "jks" && !bytes.Equal(must[[]byte](t)(write(partial, options[0])), must[[]byte](t)(write(partial, options[0]))) {
				t.Errorf("%s %s without a key: not the same bytes", kind, name)
			}
		}
	}
}

// Salts of two stores that are equal would show that their keys are: so what goes into a
// store must change them.
func TestSaltsDifferFromStoreToStore(t *testing.T) {
	seen := make(map[string]string)
	read := func(name string, b *Bundle, purpose string, o StoreOptions) {
		salt := make([]byte, 16)
		if _, err := b.stream(purpose, o).Read(salt); err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[string(salt)]; ok {
			t.Errorf("%s and %s have the same salts", name, other)
		}
		seen[string(salt)] = name
	}
	for kind, b := range storeBundles(t) {
		read(kind, b, "pfx", StoreOptions{})
		read(kind+" jks", b, "jks", StoreOptions{})
		read(kind+" password", b, "pfx", StoreOptions{Password: "x"})
		read(kind+" alias", b, "pfx", StoreOptions{Alias: "x"})
		read(kind+" shorter", &Bundle{Leaf: b.Leaf, Chain: b.Chain[:2], key: b.key}, "pfx", StoreOptions{})
		read(kind+" without key", &Bundle{Leaf: b.Leaf, Chain: b.Chain}, "pfx", StoreOptions{})
	}
}

// Whoever sees salts that hang on public things and a password could try passwords as fast
// as hashes are made.
func TestSaltsWithoutAKeyTellNothingOfThePassword(t *testing.T) {
	b := storeBundles(t)["EC-P-256"]
	partial := mustRefuse(t, b.PEM().FullChain(), NoPrivateKey).Partial
	one, other := make([]byte, 16), make([]byte, 16)
	_, _ = partial.stream("pfx", StoreOptions{Password: "one"}).Read(one)
	_, _ = partial.stream("pfx", StoreOptions{Password: "other"}).Read(other)
	if !bytes.Equal(one, other) {
		t.Error("they depend on the password")
	}
}

func TestStoresThatCannotBeWrittenAreRefused(t *testing.T) {
	b := storeBundles(t)["EC-P-256"]
	partial := mustRefuse(t, b.PEM().FullChain(), NoPrivateKey).Partial
	for name, tt := range map[string]struct {
		b     *Bundle
		write func(*Bundle, StoreOptions) ([]byte, error)
		o     StoreOptions
		kind  Kind
	}{
		"jks without key":               {partial, (*Bundle).JKS, StoreOptions{Password: "changeit"}, NoPrivateKey},
		"jks without password":          {b, (*Bundle).JKS, StoreOptions{}, Unsupported},
		"jks with a short password":     {b, (*Bundle).JKS, StoreOptions{Password: "12345"}, Unsupported},
		"jks, short in characters":      {b, (*Bundle).JKS, StoreOptions{Password: "ääää"}, Unsupported},
		"jks, password beyond Latin-1":  {b, (*Bundle).JKS, StoreOptions{Password: "пароль"}, Unsupported},
		"jks, alias beyond 16 bits":     {b, (*Bundle).JKS, StoreOptions{Password: "changeit", Alias: "\U0001F511"}, Unsupported},
		"jks, alias with a zero":        {b, (*Bundle).JKS, StoreOptions{Password: "changeit", Alias: "a\x00b"}, Unsupported},
		"pfx, password beyond 16 bits":  {b, (*Bundle).PFX, StoreOptions{Password: "\U0001F511"}, Unsupported},
		"trust, password past Latin-1":  {b, (*Bundle).TrustStore, StoreOptions{Password: "пароль"}, Unsupported},
		"pfx of a key for RSA-PSS only": {pssBundle(t), (*Bundle).PFX, StoreOptions{}, Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := tt.write(tt.b, tt.o)
			e, ok := err.(*Error)
			if !ok || e.Kind != tt.kind || e.Fact == "" || e.Hint == "" || out != nil {
				t.Fatalf("%T %v", err, err)
			}
			if p := tt.o.Password; p != "" && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), p) {
				t.Errorf("the password is in %v", err)
			}
		})
	}
	if _, err := b.JKS(StoreOptions{Password: "123456"}); err != nil {
		t.Errorf("six characters are enough: %v", err)
	}
}

// Certificates whose subjects are equal but for case, empty, or not for Java, each keep an
// entry of their own that Java reads.
func TestAliasesOfATrustStoreAreUniqueAndReadable(t *testing.T) {
	root := issue(t, nil, "ca", newP256(t))
	key := newP256(t)
	sub := issue(t, root, "CA", key)
	odd := issue(t, sub, "\U0001F511 c\u00e4\x01", newP256(t))
	leaf := issue(t, odd, "leaf", newP256(t), asLeaf)
	b := chainOf(t, leaf, odd, sub, root)
	store := keystore.New()
	if err := store.Load(bytes.NewReader(must[[]byte](t)(b.TrustStore(StoreOptions{}))), nil); err != nil {
		t.Fatal(err)
	}
	got := store.Aliases()
	slices.Sort(got)
	if want := []string{"cn=_ c\u00e4\\x01", "cn=ca", "cn=ca (2)"}; !slices.Equal(got, want) {
		t.Errorf("aliases %q, want %q", got, want)
	}
	listed := program(t, "keytool", "-list", "-keystore", saved(t, "trust.jks", must[[]byte](t)(b.TrustStore(StoreOptions{Password: "changeit"}))), "-storepass", "changeit")
	if n := bytes.Count(listed, []byte("trustedCertEntry")); n != 3 {
		t.Errorf("%d entries: %s", n, listed)
	}
}

func TestStoreOptionsAreRedacted(t *testing.T) {
	o := StoreOptions{Password: "geheim-4711", Alias: "a"}
	var printed bytes.Buffer
	for _, v := range []any{o, &o, []StoreOptions{o}, map[string]StoreOptions{"x": o}, struct{ O StoreOptions }{o}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		encoded := must[[]byte](t)(json.Marshal(v))
		printed.Write(encoded)
		slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "value", v)
	}
	for _, secret := range []string{o.Password, hex.EncodeToString([]byte(o.Password))} {
		if strings.Contains(printed.String(), secret) {
			t.Errorf("the password is in what was printed")
		}
	}
}

func TestThumbprintIsTheNameThatWindowsGives(t *testing.T) {
	b := storeBundles(t)["RSA-2048"]
	path := saved(t, "leaf.pem", b.PEM().Leaf())
	out := program(t, "openssl", "x509", "-in", path, "-noout", "-fingerprint", "-sha1")
	_, colons, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
	if want := strings.ReplaceAll(colons, ":", ""); b.Thumbprint() != want {
		t.Errorf("%s, want %s", b.Thumbprint(), want)
	}
	if sum := sha1.Sum(b.Leaf.Raw); !strings.EqualFold(b.Thumbprint(), hex.EncodeToString(sum[:])) {
		t.Error("not the SHA-1 of the leaf")
	}
}
