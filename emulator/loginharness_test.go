package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"
)

// overEmulator are the options with which azidentity reaches the login servers
// under their real names. It does not retry.
func overEmulator(t *testing.T, e *Emulator, c azcloud.Configuration) azcore.ClientOptions {
	return azcore.ClientOptions{Cloud: c, Transport: overLoopback(t, e), Retry: policy.RetryOptions{MaxRetries: -1}}
}

// must ends the test on an error of a constructor.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// selfSigned is the certificate of an application: RSA, which MSAL wants.
func selfSigned(t *testing.T, notAfter time.Time) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	template := &x509.Certificate{NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter}
	self := signer{cert: template, key: key}
	return must[*x509.Certificate](t)(self.sign(template, key.Public())), key
}

// tokenError is the login server's error in an error of azidentity.
func tokenError(t *testing.T, err error) (status int, e loginError) {
	t.Helper()
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse == nil {
		t.Fatalf("error %v (%T), want one with an answer of the login server", err, err)
	}
	if err := json.NewDecoder(failed.RawResponse.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	return failed.RawResponse.StatusCode, e
}

var (
	public     = azcloud.AzurePublic
	government = azcloud.AzureGovernment
	china      = azcloud.AzureChina
	private    = azcloud.Configuration{ActiveDirectoryAuthorityHost: "https://login.contoso.example"}
)

// sovereign is an emulator with a vault in each cloud and one in a cloud of its own.
func sovereign(t *testing.T) *Emulator {
	t.Helper()
	e := start(t, Options{
		Vaults: []string{"web", "Gov.vault.usgovcloudapi.net", "cn.vault.azure.cn", "own.vault.contoso.example"}, LoginHosts: []string{"Login.Contoso.Example"},
	})
	for _, vault := range []string{"web", "gov", "cn", "own"} {
		must[string](t)(e.AddSecret(vault, "word", "text/plain", "of "+vault))
	}
	return e
}

const (
	clusterIssuer  = "https://cluster.example/7/"
	clusterSubject = "system:serviceaccount:web:kvfs"
)

// projected is a token as a Kubernetes cluster projects it.
func projected(t *testing.T, key crypto.Signer, c jwt.RegisteredClaims) string {
	t.Helper()
	var method jwt.SigningMethod = jwt.SigningMethodRS256
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		method = jwt.SigningMethodES256
	}
	return must[string](t)(jwt.NewWithClaims(method, c).SignedString(key))
}

func clusterClaims() jwt.RegisteredClaims {
	return jwt.RegisteredClaims{
		Issuer: clusterIssuer, Subject: clusterSubject, Audience: jwt.ClaimStrings{audienceOfExchange},
		ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)), NotBefore: jwt.NewNumericDate(time.Now().Add(-time.Minute)),
	}
}

// tokenRequest posts a form to a login server, and returns what it says.
func tokenRequest(t *testing.T, e *Emulator, method, address string, form url.Values) (int, loginError) {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequest(method, address, strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("client-request-id", "7")
	response := must[*http.Response](t)(overLoopback(t, e).Do(r))
	defer response.Body.Close()
	var le loginError
	if err := json.NewDecoder(response.Body).Decode(&le); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, le
}

// keyID256 is the x5t#S256 of a certificate.
func keyID256(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (k webKey) public(t *testing.T) *rsa.PublicKey {
	t.Helper()
	n, e := must[[]byte](t)(base64.RawURLEncoding.DecodeString(k.Modulus)), must[[]byte](t)(base64.RawURLEncoding.DecodeString(k.Exponent))
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
}
