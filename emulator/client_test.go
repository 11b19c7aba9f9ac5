package emulator

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"github.com/golang-jwt/jwt/v5"
	"software.sslmate.com/src/go-pkcs12"
)

func TestUnmodifiedClientsReadNewestAndPinnedVersions(t *testing.T) {
	e := start(t, Options{})
	id := newUUID()
	e.SetIdentities(Identity{ClientID: id, ObjectID: newUUID()})
	first := addCertificate(t, e, Profile{Name: "Www"})
	second, err := e.Rotate("", "www")
	if err != nil {
		t.Fatal(err)
	}
	c := vaultClient(t, e, "https://contoso-web.vault.azure.net", managedIdentity(t, e, azidentity.ClientID(id)), -1)
	newest, pinned := get(t, c, "www", ""), get(t, c, "WWW", strings.ToUpper(first))

	if newest.ID.Version() != second || pinned.ID.Version() != first {
		t.Errorf("versions %s and %s, want %s and %s", newest.ID.Version(), pinned.ID.Version(), second, first)
	}
	if want := "https://contoso-web.vault.azure.net/secrets/Www/" + second; string(*newest.ID) != want {
		t.Errorf("id %s, want %s", *newest.ID, want)
	}
	if *newest.KID != azsecrets.ID("https://contoso-web.vault.azure.net/keys/Www/"+second) || !*newest.Managed || *newest.PreviousVersion != first {
		t.Errorf("kid %v managed %v previous %v", *newest.KID, *newest.Managed, *newest.PreviousVersion)
	}
	if *newest.Value == *pinned.Value {
		t.Error("both versions have the same value")
	}
	want := Counters{Secrets: 2, Challenges: 1, Identity: 1}
	if got := e.Counters(); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

// The host decides what the SDK accepts as the challenge's resource.
func TestEachNameOfAVaultPassesTheChallengeCheck(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}, PageSize: 1})
	_, port, _ := strings.Cut(e.Addr(), ":")
	for range 3 {
		if _, err := e.AddSecret("two", "word", "", "from two"); err != nil {
			t.Fatal(err)
		}
	}
	for _, base := range []string{"two.vault.azure.net", "TWO.vault.azure.net", "two.localhost:" + port, "two.vault.azure.net:8443"} {
		t.Run(base, func(t *testing.T) {
			c := vaultClient(t, e, "https://"+base, fromIdentity{e}, -1)
			s := get(t, c, "word", "")
			if *s.Value != "from two" || !strings.HasPrefix(string(*s.ID), "https://"+strings.ToLower(base)+"/secrets/word/") {
				t.Errorf("value %q, id %s", *s.Value, *s.ID)
			}
			if ids, pages := versions(t, c, "word"); len(ids) != 3 || pages < 4 {
				t.Errorf("%d versions on %d pages", len(ids), pages)
			}
		})
	}
}

// The real service answers a URL with :443 with a resource without it, and the
// SDK refuses that: clients have to normalise their URLs.
func TestURLWithPort443FailsTheChallengeCheckAsWithTheRealService(t *testing.T) {
	e := start(t, Options{})
	c := vaultClient(t, e, "https://contoso-web.vault.azure.net:443", fromIdentity{e}, -1)
	if _, err := c.GetSecret(context.Background(), "www", "", nil); err == nil || e.Counters().Challenges != 1 {
		t.Fatalf("error %v after %d challenges", err, e.Counters().Challenges)
	}
}

func TestUnknownHostIsNotServed(t *testing.T) {
	e := start(t, Options{})
	for _, host := range []string{"https://other.vault.azure.net", "https://contoso-web.vault.azure.cn", "https://a.contoso-web.vault.azure.net"} {
		r, err := http.NewRequest(http.MethodGet, "https://contoso-web.vault.azure.net/secrets/www?api-version=7.4", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = strings.TrimPrefix(host, "https://")
		response, err := overLoopback(t, e).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: status %d", host, response.StatusCode)
		}
	}
}

// versions pages through all versions with the SDK's pager.
func versions(t *testing.T, c *azsecrets.Client, name string) (ids []string, pages int) {
	t.Helper()
	for pager := c.NewListSecretPropertiesVersionsPager(name, nil); pager.More(); pages++ {
		if pages > 50 {
			t.Fatal("the listing does not end")
		}
		p, err := pager.NextPage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Value {
			ids = append(ids, s.ID.Version())
		}
	}
	return ids, pages
}

func TestPagerCrossesEmptyPages(t *testing.T) {
	for _, test := range []struct {
		name                   string
		size, versions, wanted int
		dense                  bool
	}{
		{"one page has no empty one", 3, 3, 1, false},
		{"a full page, an empty one, the rest, an empty one", 3, 4, 4, false},
		{"only one empty page in the middle", 2, 7, 6, false},
		{"the service's own size", 0, 26, 4, false},
		{"dense", 2, 7, 4, true},
		{"dense and exactly full", 2, 4, 2, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := start(t, Options{PageSize: test.size, DensePages: test.dense})
			var made []string
			for range test.versions {
				v, err := e.AddSecret("", "word", "text", "x")
				if err != nil {
					t.Fatal(err)
				}
				made = append(made, v)
			}
			ids, pages := versions(t, client(t, e), "word")
			if !slices.IsSorted(ids) {
				t.Errorf("not in the order of ids: %v", ids)
			}
			slices.Sort(made)
			if !slices.Equal(ids, made) || pages != test.wanted {
				t.Errorf("%d versions on %d pages, want %d on %d", len(ids), pages, test.versions, test.wanted)
			}
			if got := e.Counters().Versions; got != int64(pages) {
				t.Errorf("counted %d pages of %d", got, pages)
			}
		})
	}
}

func TestVersionsOfASecretThatIsNotThereAreAnEmptyList(t *testing.T) {
	e := start(t, Options{})
	if ids, pages := versions(t, client(t, e), "nothing"); len(ids) != 0 || pages != 1 {
		t.Errorf("%d versions on %d pages", len(ids), pages)
	}
}

func TestListingShowsEverySecretWithoutItsValue(t *testing.T) {
	e := start(t, Options{PageSize: 2})
	addCertificate(t, e, Profile{Name: "www"})
	for _, name := range []string{"api", "Token", "gone"} {
		if _, err := e.AddSecret("", name, "text/plain", "geheim"); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Delete("", "gone"); err != nil {
		t.Fatal(err)
	}
	var names, managed []string
	empty := 0
	c := client(t, e)
	for pager := c.NewListSecretPropertiesPager(nil); pager.More(); {
		p, err := pager.NextPage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Value) == 0 {
			empty++
		}
		for _, s := range p.Value {
			names = append(names, s.ID.Name())
			if s.Managed != nil {
				managed = append(managed, s.ID.Name())
			}
			if s.ID.Version() != "" || s.Attributes.Enabled == nil {
				t.Errorf("item %+v", s)
			}
		}
	}
	if !slices.Equal(names, []string{"api", "Token", "www"}) || !slices.Equal(managed, []string{"www"}) || empty != 2 {
		t.Errorf("names %v, managed %v, %d empty pages", names, managed, empty)
	}
	deleted := c.NewListDeletedSecretPropertiesPager(nil)
	p, err := deleted.NextPage(context.Background())
	if err != nil || len(p.Value) != 1 || p.Value[0].ID.Name() != "gone" || p.Value[0].ScheduledPurgeDate == nil {
		t.Errorf("deleted: %+v, %v", p.Value, err)
	}
}

func TestEachErrorKindReachesTheClient(t *testing.T) {
	e := start(t, Options{})
	addCertificate(t, e, Profile{Name: "www"})
	c := client(t, e)
	for _, test := range []struct {
		kind        FaultKind
		status      int
		code, inner string
		message     string // part of it
	}{
		{ForbiddenRBAC, 403, "Forbidden", "ForbiddenByRbac", "secrets/getSecret/action'\r\n"},
		{ForbiddenPolicy, 403, "Forbidden", "AccessDenied", "does not have secrets get permission"},
		{ForbiddenFirewall, 403, "Forbidden", "ForbiddenByFirewall", "Client address: 127.0.0.1\r\n"},
		{ForbiddenConnection, 403, "Forbidden", "ForbiddenByConnection", "Public network access is disabled"},
		{Disabled, 403, "Forbidden", "SecretDisabled", "disabled secret"},
		{NotFound, 404, "SecretNotFound", "", "(name/id) www was not found"},
		{Throttled, 429, "Throttled", "", "VaultRequestTypeLimitReached"},
		{ServerError, 500, "InternalServerError", "", ""},
		{Unavailable, 503, "ServiceUnavailable", "", ""},
		{TokenExpired, 401, "Unauthorized", "", "[TokenExpired]"},
		{"no-such-kind", 500, "EmulatorFault", "", `fault kind "no-such-kind"`},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			e.SetFault(Fault{Kind: test.kind})
			defer e.ClearFaults()
			_, err := c.GetSecret(context.Background(), "www", "", nil)
			re, inner, message := responseError(t, err)
			if re.StatusCode != test.status || re.ErrorCode != test.code || inner != test.inner || !strings.Contains(message, test.message) {
				t.Errorf("%d %s/%s %q", re.StatusCode, re.ErrorCode, inner, message)
			}
			if re.RawResponse.Header.Get("x-ms-request-id") == "" {
				t.Error("no x-ms-request-id")
			}
		})
	}
	get(t, c, "www", "")
}

func TestListingNeedsItsOwnPermission(t *testing.T) {
	e := start(t, Options{})
	c := client(t, e)
	for kind, want := range map[FaultKind]string{ForbiddenRBAC: "secrets/readMetadata/action", ForbiddenPolicy: "secrets list permission"} {
		e.SetFault(Fault{Kind: kind})
		_, err := c.NewListSecretPropertiesPager(nil).NextPage(context.Background())
		if _, _, message := responseError(t, err); !strings.Contains(message, want) {
			t.Errorf("%s: %q, want %q", kind, message, want)
		}
	}
}

func TestMostSpecificFaultActsAndEndsAfterItsCount(t *testing.T) {
	e := start(t, Options{Vaults: []string{"one", "two"}})
	for _, vault := range []string{"one", "two"} {
		for _, name := range []string{"a", "b"} {
			if _, err := e.AddSecret(vault, name, "", "x"); err != nil {
				t.Fatal(err)
			}
		}
	}
	status := func(vault, name string) int {
		_, err := vaultClient(t, e, "https://"+vault+".vault.azure.net", fromIdentity{e}, -1).GetSecret(context.Background(), name, "", nil)
		if err == nil {
			return 200
		}
		re, _, _ := responseError(t, err)
		return re.StatusCode
	}
	e.SetFault(Fault{Vault: "ONE", Name: "A", Kind: Throttled, Count: 2})
	e.SetFault(Fault{Name: "a", Kind: ServerError})
	e.SetFault(Fault{Vault: "two", Kind: Unavailable})
	var got []int
	for _, at := range [][2]string{{"one", "a"}, {"one", "a"}, {"one", "a"}, {"one", "b"}, {"two", "a"}, {"two", "b"}} {
		got = append(got, status(at[0], at[1]))
	}
	if want := []int{429, 429, 500, 200, 500, 503}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	e.SetFault(Fault{Vault: "two", Kind: Disabled}) // replaces the one before
	e.SetFault(Fault{Name: "a", Kind: NotFound})
	if a, b := status("two", "a"), status("two", "b"); a != 404 || b != 403 {
		t.Errorf("statuses %d and %d after replacing", a, b)
	}
	e.ClearFaults()
	if got := status("two", "a"); got != 200 {
		t.Errorf("status %d after clearing", got)
	}
}

func TestThrottlingWithAndWithoutRetryAfter(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "x"); err != nil {
		t.Fatal(err)
	}
	for wish, want := range map[time.Duration]string{0: "", 1500 * time.Millisecond: "2", time.Minute: "60"} {
		e.SetFault(Fault{Kind: Throttled, RetryAfter: wish, Count: 1})
		_, err := client(t, e).GetSecret(context.Background(), "www", "", nil)
		if re, _, _ := responseError(t, err); re.RawResponse.Header.Get("Retry-After") != want {
			t.Errorf("wish %v: Retry-After %q, want %q", wish, re.RawResponse.Header.Get("Retry-After"), want)
		}
	}
	e.SetFault(Fault{Kind: Throttled, Count: 2})
	retrying := vaultClient(t, e, e.Endpoints().Vaults[0], fromIdentity{e}, 3)
	get(t, retrying, "www", "")
	if got := e.Counters().Throttled; got != 5 {
		t.Errorf("throttled %d requests, want 5", got)
	}
}

func TestClientRefreshesARejectedToken(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "x"); err != nil {
		t.Fatal(err)
	}
	c := client(t, e)
	get(t, c, "www", "")
	e.SetFault(Fault{Kind: TokenExpired, Count: 1})
	get(t, c, "www", "")
	if got, want := e.Counters(), (Counters{Secrets: 3, Challenges: 1, Rejected: 1, Identity: 2}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestOnlyGoodTokensAreAccepted(t *testing.T) {
	e, other := start(t, Options{}), start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "x"); err != nil {
		t.Fatal(err)
	}
	const vault = "https://vault.azure.net"
	now := time.Now()
	good := e.token(t, vault, now)
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, &claims{
		Audience: vault, Issuer: tokenIssuer, ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour))}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, token, message string }{
		{"expired", e.token(t, vault, now.Add(-25*time.Hour)), messageExpired},
		{"not yet good", e.token(t, vault, now.Add(time.Hour)), "Error validating token"},
		{"of another resource", e.token(t, "https://management.azure.com", now), "AKV10022: Invalid audience. Expected https://vault.azure.net, found: https://management.azure.com."},
		{"audience with a slash", e.token(t, vault+"/", now), "AKV10022"},
		{"of another emulator", other.token(t, vault, now), "Error validating token"},
		{"unsigned", unsigned, "Error validating token"},
		{"cut short", good[:len(good)-10], "Error validating token"},
		{"nonsense", "System.Security.SecureString", "Error validating token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := vaultClient(t, e, e.Endpoints().Vaults[0], fixed(test.token), -1)
			_, err := c.GetSecret(context.Background(), "www", "", nil)
			re, _, message := responseError(t, err)
			if re.StatusCode != 401 || re.ErrorCode != "Unauthorized" || !strings.Contains(message, test.message) {
				t.Errorf("%d %s %q", re.StatusCode, re.ErrorCode, message)
			}
			if !strings.Contains(re.RawResponse.Header.Get("WWW-Authenticate"), `resource="https://vault.azure.net"`) {
				t.Error("a rejection without a challenge")
			}
			if strings.Contains(message, test.token) {
				t.Error("the message quotes the token")
			}
		})
	}
	if got, want := e.Counters(), (Counters{Challenges: 8, Rejected: 8}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestDisabledNewestVersionIsRefusedAlthoughAnOlderOneIsEnabled(t *testing.T) {
	e := start(t, Options{})
	first := addCertificate(t, e, Profile{Name: "www"})
	second, err := e.Rotate("", "www")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetEnabled("", "www", "", false); err != nil {
		t.Fatal(err)
	}
	c := client(t, e)
	for _, version := range []string{"", second} {
		_, err := c.GetSecret(context.Background(), "www", version, nil)
		if re, inner, _ := responseError(t, err); re.StatusCode != 403 || inner != "SecretDisabled" {
			t.Errorf("version %q: %d %s", version, re.StatusCode, inner)
		}
	}
	get(t, c, "www", first)
	if err := e.SetEnabled("contoso-web", "WWW", second, true); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "www", "").ID.Version(); got != second {
		t.Errorf("version %s after enabling, want %s", got, second)
	}
	if err := e.SetEnabled("", "www", strings.Repeat("0", 32), true); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown version: %v", err)
	}
}

func TestDeletedSecretIsGoneUntilRecovered(t *testing.T) {
	e := start(t, Options{})
	version := addCertificate(t, e, Profile{Name: "www"})
	if err := e.Delete("", "www"); err != nil {
		t.Fatal(err)
	}
	c := client(t, e)
	for _, v := range []string{"", version} {
		_, err := c.GetSecret(context.Background(), "www", v, nil)
		if re, _, message := responseError(t, err); re.StatusCode != 404 || re.ErrorCode != "SecretNotFound" || !strings.Contains(message, "recover") {
			t.Errorf("%d %s %q", re.StatusCode, re.ErrorCode, message)
		}
	}
	if ids, _ := versions(t, c, "www"); len(ids) != 0 {
		t.Errorf("still lists %v", ids)
	}
	if d, err := c.GetDeletedSecret(context.Background(), "www", nil); err != nil || d.ID.Name() != "www" {
		t.Errorf("deleted secret: %v", err)
	}
	for what, err := range map[string]error{
		"Delete": e.Delete("", "www"), "Rotate": second(e.Rotate("", "www")),
		"AddCertificate": second(e.AddCertificate(Profile{Name: "www"})), "AddSecret": second(e.AddSecret("", "www", "", "x")),
	} {
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("%s of a deleted secret = %v, want ErrDeleted", what, err)
		}
	}
	if err := e.RotateAll(); err != nil {
		t.Errorf("RotateAll = %v, want it to pass the deleted one over", err)
	}
	if err := e.Recover("", "www"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "www", "").ID.Version(); got != version {
		t.Errorf("version %s after recovery, want %s", got, version)
	}
	if err := e.Recover("", "www"); !errors.Is(err, ErrNotFound) {
		t.Errorf("recovering twice: %v", err)
	}
	if err := e.Purge("", "www"); !errors.Is(err, ErrNotFound) {
		t.Errorf("purging what is not deleted: %v", err)
	}
	if err := errors.Join(e.Delete("", "www"), e.Purge("", "www")); err != nil {
		t.Fatal(err)
	}
	if err := e.Recover("", "www"); !errors.Is(err, ErrNotFound) {
		t.Errorf("recovering what is purged: %v", err)
	}
	if other := addCertificate(t, e, Profile{Name: "www"}); get(t, c, "www", "").ID.Version() != other {
		t.Errorf("its name leads to %s, want %s", get(t, c, "www", "").ID.Version(), other)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNotExportableCertificateHasNoKey(t *testing.T) {
	e := start(t, Options{})
	addCertificate(t, e, Profile{Name: "pfx", NotExportable: true})
	addCertificate(t, e, Profile{Name: "pem", NotExportable: true, Format: PEM})
	c := client(t, e)
	der, err := base64.StdEncoding.DecodeString(*get(t, c, "pfx", "").Value)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := pkcs12.DecodeChain(der, ""); err == nil || !strings.Contains(err.Error(), "private key missing") {
		t.Errorf("DecodeChain: %v", err)
	}
	if text := *get(t, c, "pem", "").Value; strings.Count(text, "-----BEGIN ") != 3 || strings.Count(text, "-----BEGIN CERTIFICATE-----") != 3 {
		t.Errorf("PEM:\n%s", text)
	}
}

func TestGarbageIsA200WithoutACertificate(t *testing.T) {
	e := start(t, Options{})
	addCertificate(t, e, Profile{Name: "www"})
	e.SetFault(Fault{Name: "www", Kind: Garbage, Count: 1})
	c := client(t, e)
	s := get(t, c, "www", "")
	der, err := base64.StdEncoding.DecodeString(*s.Value)
	if err != nil || *s.ContentType != contentPFX {
		t.Fatal(err, *s.ContentType)
	}
	if _, err := checkPFX(der); err == nil {
		t.Error("the value is a PFX")
	}
	der, err = base64.StdEncoding.DecodeString(*get(t, c, "www", "").Value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkPFX(der); err != nil {
		t.Error("still spoiled after its count:", err)
	}
}

// A client needs a deadline of its own for these: the server never gives up.
func TestAnswersThatStallEndWithTheClientsDeadline(t *testing.T) {
	for _, kind := range []FaultKind{Hang, HalfOpen} {
		t.Run(string(kind), func(t *testing.T) {
			e := start(t, Options{})
			if _, err := e.AddSecret("", "www", "", strings.Repeat("x", 4000)); err != nil {
				t.Fatal(err)
			}
			c := client(t, e)
			get(t, c, "www", "")
			e.SetFault(Fault{Kind: kind, Count: 1})
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			if _, err := c.GetSecret(ctx, "www", "", nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want the deadline", err)
			}
			if got := e.Counters().Broken; got != 1 {
				t.Errorf("broken %d", got)
			}
			get(t, c, "www", "")
		})
	}
}

func TestHalfOpenSendsHeadersAndHalfTheBody(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "0123456789"); err != nil {
		t.Fatal(err)
	}
	e.SetFault(Fault{Kind: HalfOpen})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://contoso-web.vault.azure.net/secrets/www?api-version=7.4", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+e.token(t, "https://vault.azure.net", time.Now()))
	response, err := overLoopback(t, e).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	half := make([]byte, response.ContentLength/2)
	if n, err := response.Body.Read(half); err != nil || n == 0 || response.StatusCode != 200 || half[0] != '{' {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

func TestDroppedConnectionIsAnErrorWithoutStatus(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "x"); err != nil {
		t.Fatal(err)
	}
	e.SetFault(Fault{Kind: Drop})
	_, err := client(t, e).GetSecret(context.Background(), "www", "", nil)
	var re *azcore.ResponseError
	if err == nil || errors.As(err, &re) {
		t.Errorf("error %v, want one of the transport", err)
	}
	e.ClearFaults()
	get(t, client(t, e), "www", "")
}

func TestSlowAnswerIsRightAndLate(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "www", "", "x"); err != nil {
		t.Fatal(err)
	}
	e.SetFault(Fault{Kind: Slow, Delay: 50 * time.Millisecond})
	begin := time.Now()
	if got := *get(t, client(t, e), "www", "").Value; got != "x" || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("value %q after %v", got, time.Since(begin))
	}
}

func TestManyClientsWhileEverythingChanges(t *testing.T) {
	e := start(t, Options{PageSize: 2})
	for _, name := range []string{"a", "b", "c"} {
		addCertificate(t, e, Profile{Name: name})
	}
	c := client(t, e)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, name := range []string{"a", "b", "c", "a"} {
				s, err := c.GetSecret(context.Background(), name, "", nil)
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := c.GetSecret(context.Background(), name, s.ID.Version(), nil); err != nil {
					t.Error(err)
				}
				for pager := c.NewListSecretPropertiesVersionsPager(name, nil); pager.More(); {
					if _, err := pager.NextPage(context.Background()); err != nil {
						t.Error(err)
						break
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if err := e.RotateAll(); err != nil {
				t.Error(err)
			}
			e.SetFault(Fault{Name: "other", Kind: Throttled})
			e.Counters()
			e.Inventory()
		}
	})
	wg.Wait()
	for _, item := range e.Inventory() {
		if len(item.Versions) != 6 {
			t.Errorf("%s has %d versions, want 6", item.Name, len(item.Versions))
		}
	}
	if got := e.Counters().Secrets; got != 64 {
		t.Errorf("%d reads counted, want 64", got)
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	e := start(t, Options{})
	h := overLoopback(t, e)
	token := e.token(t, "https://vault.azure.net", time.Now())
	for request, want := range map[string]int{
		"GET /secrets/www":                                       400, // no api-version
		"GET /secrets/my_secret?api-version=7.4":                 400,
		"GET /secrets/www/versions?api-version=7.4&maxresults=0": 400,
		"GET /secrets?api-version=7.4&maxresults=26":             400,
		"GET /secrets?api-version=7.4&$skiptoken=nonsense":       400,
		"GET /secrets/a/b/c?api-version=7.4":                     400,
		"GET /keys/www?api-version=7.4":                          400,
		"GET /?api-version=7.4":                                  400,
		"PUT /secrets/www?api-version=7.4":                       405,
		"GET /secrets?api-version=1999-01-01":                    200,
		"GET //secrets//?api-version=7.4":                        200,
		"GET /healthstatus":                                      200,
	} {
		method, target, _ := strings.Cut(request, " ")
		r, err := http.NewRequest(method, "https://contoso-web.vault.azure.net"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		response, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: status %d, want %d", request, response.StatusCode, want)
		}
	}
}

func TestOptionalFieldsAreAbsent(t *testing.T) {
	e := start(t, Options{})
	if _, err := e.AddSecret("", "word", "", ""); err != nil {
		t.Fatal(err)
	}
	s := get(t, client(t, e), "word", "")
	if s.ContentType != nil || s.KID != nil || s.Managed != nil || s.Attributes.Expires != nil || s.PreviousVersion != nil || *s.Value != "" {
		t.Errorf("secret %+v", s.Secret)
	}
}
