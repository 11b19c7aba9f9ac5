package emulator

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 by RFC 7515
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// audienceOfExchange is the audience that a federated credential has by default.
const audienceOfExchange = "api://AzureADTokenExchange"

// assertion is a client assertion before its signature is checked.
type assertion struct {
	text   string
	header map[string]any
	claims jwt.RegisteredClaims
}

func parseAssertion(text string) (assertion, error) {
	a := assertion{text: text}
	token, _, err := jwt.NewParser().ParseUnverified(text, &a.claims)
	if err != nil {
		return a, err
	}
	a.header = token.Header
	return a, nil
}

// checkAssertion returns nil for a good assertion. One that the application has
// made itself names it as issuer; any other is a token of another issuer.
func (e *Emulator) checkAssertion(l loginServer, app Application, text string, now time.Time) *answer {
	a, err := parseAssertion(text)
	var refusal answer
	switch {
	case err != nil:
		refusal = l.deny(badAssertion)
	case a.claims.Issuer == a.claims.Subject || strings.EqualFold(a.claims.Issuer, app.ClientID):
		return l.checkOwn(app, a, now)
	default:
		return l.checkFederated(app, a, now)
	}
	return &refusal
}

// checkOwn wants the signature of a registered certificate.
func (l loginServer) checkOwn(app Application, a assertion, now time.Time) *answer {
	thumbprint := a.thumbprint()
	shown := strings.ToUpper(hex.EncodeToString(thumbprint))
	i := slices.IndexFunc(app.Certificates, func(c *x509.Certificate) bool { return c != nil && matches(c, thumbprint) })
	var refusal answer
	switch {
	case !strings.EqualFold(a.claims.Issuer, app.ClientID) || !strings.EqualFold(a.claims.Subject, app.ClientID):
		refusal = l.deny(assertionClient)
	case i < 0:
		refusal = l.deny(unregisteredKey, shown)
	case now.After(app.Certificates[i].NotAfter):
		refusal = l.deny(expiredKey, shown, clock(app.Certificates[i].NotBefore), clock(app.Certificates[i].NotAfter))
	case !l.isAudience(a.claims.Audience):
		refusal = l.deny(assertionAudience)
	default:
		return l.checkSignature(a, app.Certificates[i].PublicKey, shown, now)
	}
	return &refusal
}

// urlSafe turns one alphabet of base64 into the other.
var urlSafe = strings.NewReplacer("+", "-", "/", "_", "=", "")

// thumbprint is the one that the header names, of SHA-256 or SHA-1; nil: none.
// RFC 7515 wants base64url; MSAL for Go writes plain base64.
func (a assertion) thumbprint() []byte {
	for _, name := range []string{"x5t#S256", "x5t"} {
		if text, ok := a.header[name].(string); ok {
			sum, err := base64.RawURLEncoding.DecodeString(urlSafe.Replace(text))
			if err == nil {
				return sum
			}
		}
	}
	return nil
}

func matches(c *x509.Certificate, thumbprint []byte) bool {
	strong, weak := sha256.Sum256(c.Raw), sha1.Sum(c.Raw) //nolint:gosec // see the import
	return bytes.Equal(strong[:], thumbprint) || bytes.Equal(weak[:], thumbprint)
}

// isAudience admits what the real one does: the tenant at one of the names of
// the same cloud, with the path of an endpoint or without.
func (l loginServer) isAudience(audience jwt.ClaimStrings) bool {
	for _, text := range audience {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" {
			continue
		}
		tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		sameHost := strings.EqualFold(u.Host, l.host) || l.cloud != nil && slices.Contains(l.cloud.aliases(), strings.ToLower(u.Hostname()))
		if sameHost && isTenant(tenant) {
			return true
		}
	}
	return false
}

// checkFederated finds the credential that accepts a, and names the first of
// issuer, subject and audience that none has.
func (l loginServer) checkFederated(app Application, a assertion, now time.Time) *answer {
	audience := strings.Join(a.claims.Audience, ", ")
	list := app.Federated
	if len(list) == 0 {
		refusal := l.deny(noFederation, a.claims.Issuer, a.claims.Subject, audience)
		return &refusal
	}
	for _, step := range []struct {
		refusal loginRefusal
		said    string
		fits    func(FederatedCredential) bool
	}{
		{otherIssuer, a.claims.Issuer, func(c FederatedCredential) bool { return c.Issuer == a.claims.Issuer }},
		{otherSubject, a.claims.Subject, func(c FederatedCredential) bool { return c.Subject == a.claims.Subject }},
		{otherAudience, audience, func(c FederatedCredential) bool { return slices.Contains(a.claims.Audience, c.audience()) }},
	} {
		list = matching(list, step.fits)
		if len(list) == 0 {
			refusal := l.deny(step.refusal, step.said)
			return &refusal
		}
	}
	kid, _ := a.header["kid"].(string)
	return l.checkSignature(a, list[0].Key, kid, now)
}

func matching(list []FederatedCredential, fits func(FederatedCredential) bool) []FederatedCredential {
	var result []FederatedCredential
	for _, c := range list {
		if fits(c) {
			result = append(result, c)
		}
	}
	return result
}

func (c FederatedCredential) audience() string {
	if c.Audience == "" {
		return audienceOfExchange
	}
	return c.Audience
}

// checkSignature checks signature and times. shown names the key in messages.
func (l loginServer) checkSignature(a assertion, key crypto.PublicKey, shown string, now time.Time) *answer {
	_, err := jwt.ParseWithClaims(a.text, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods(methods(key)), jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	var refusal answer
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		refusal = l.deny(badSignature, shown)
	default: // all that is left are the claims of time
		refusal = l.deny(assertionTime, clock(now), moment(a.claims.NotBefore), moment(a.claims.ExpiresAt))
	}
	return &refusal
}

// methods are the algorithms that go with a key.
func methods(key crypto.PublicKey) []string {
	switch key.(type) {
	case *rsa.PublicKey:
		return []string{"RS256", "PS256", "RS384", "PS384", "RS512", "PS512"}
	case *ecdsa.PublicKey:
		return []string{"ES256", "ES384", "ES512"}
	}
	return []string{"no algorithm at all"} // an empty list would admit all
}

func moment(t *jwt.NumericDate) string {
	if t == nil {
		return clock(time.Unix(0, 0))
	}
	return clock(t.Time)
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
