package emulator

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Tenant is the id of the directory that all identities, applications and
// vaults here belong to.
const Tenant = "33333333-3333-3333-3333-333333333333"

const tokenIssuer = "https://sts.windows.net/" + Tenant + "/"

// issuer signs tokens and checks them again. Its key is made when the first
// token is wanted: an RSA key takes long, and not every user needs one.
type issuer struct {
	lifetime time.Duration
	key      func() (*rsa.PrivateKey, error)
}

func newIssuer(lifetime time.Duration) *issuer {
	return &issuer{lifetime: lifetime, key: sync.OnceValues(func() (*rsa.PrivateKey, error) {
		return rsa.GenerateKey(rand.Reader, 2048)
	})}
}

// claims are those of a token of Microsoft Entra ID, version 1.0. The audience
// is a string there, which jwt.RegisteredClaims writes as an array.
type claims struct {
	Audience  string           `json:"aud"`
	Issuer    string           `json:"iss"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	ExpiresAt *jwt.NumericDate `json:"exp"`
	AppID     string           `json:"appid"`
	ObjectID  string           `json:"oid"`
	Subject   string           `json:"sub"`
	Tenant    string           `json:"tid"`
	Token     string           `json:"uti"` // makes each token different
	Version   string           `json:"ver"`
	Resource  string           `json:"xms_mirid,omitempty"`
}

var _ jwt.Claims = (*claims)(nil)

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.ExpiresAt, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.IssuedAt, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.NotBefore, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }

// caller is how the service names a caller in its messages.
func (c *claims) caller() string {
	return fmt.Sprintf("appid=%s;oid=%s;iss=%s", c.AppID, c.ObjectID, c.Issuer)
}

// mint makes a token of id for a resource, and says when it expires. It begins
// five minutes in the past, as those of the real endpoint.
func (i *issuer) mint(id Identity, resource string, now time.Time) (token string, c *claims, err error) {
	key, err := i.key()
	if err != nil {
		return "", nil, fmt.Errorf("making the key for tokens: %w", err)
	}
	c = &claims{
		Audience: resource, Issuer: tokenIssuer,
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-5 * time.Minute)),
		ExpiresAt: jwt.NewNumericDate(now.Add(i.lifetime)),
		AppID:     id.ClientID, ObjectID: id.ObjectID, Subject: id.ObjectID,
		Tenant: Tenant, Token: newUUID(), Version: "1.0", Resource: id.ResourceID,
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	unsigned.Header["kid"] = keyName(&key.PublicKey)
	token, err = unsigned.SignedString(key)
	if err != nil {
		return "", nil, fmt.Errorf("signing a token: %w", err)
	}
	return token, c, nil
}

// check returns the claims of a good token, or the message with which the
// service would reject it.
func (i *issuer) check(token, resource string) (*claims, string) {
	key, err := i.key()
	if err != nil {
		return nil, err.Error()
	}
	c := &claims{}
	_, err = jwt.ParseWithClaims(token, c, func(*jwt.Token) (any, error) { return key.Public(), nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(tokenIssuer),
		jwt.WithAudience(resource), jwt.WithExpirationRequired())
	switch {
	case err == nil:
		return c, ""
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, messageExpired
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, fmt.Sprintf("AKV10022: Invalid audience. Expected %s, found: %s.", resource, c.Audience)
	}
	return nil, "Error validating token: " + err.Error() + "."
}

// keySet is a JSON Web Key Set, RFC 7517.
type keySet struct {
	Keys []webKey `json:"keys"`
}

type webKey struct {
	Type     string `json:"kty"`
	Use      string `json:"use"`
	Name     string `json:"kid"`
	Modulus  string `json:"n"`
	Exponent string `json:"e"`
}

func (i *issuer) publicKeys() (keySet, error) {
	key, err := i.key()
	if err != nil {
		return keySet{}, fmt.Errorf("making the key for tokens: %w", err)
	}
	return keySet{Keys: []webKey{{
		Type: "RSA", Use: "sig", Name: keyName(&key.PublicKey),
		Modulus:  base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		Exponent: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}}}, nil
}

func keyName(key *rsa.PublicKey) string {
	sum := sha256.Sum256(key.N.Bytes())
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	return uuid(b)
}

// uuid marks b as a UUID, version 4, and writes it.
func uuid(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
