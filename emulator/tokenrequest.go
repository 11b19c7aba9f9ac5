package emulator

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// knownIMDSVersion compares texts, since versions are dates.
func knownIMDSVersion(version string) bool { return version >= "2018-02-01" }

// checkTokenRequest returns what is wrong with the form of a request to an
// identity endpoint, or nil. want says which api-versions are known.
func (e *Emulator) checkTokenRequest(r *http.Request, want string, known func(version string) bool) *answer {
	q := r.URL.Query()
	var a answer
	switch {
	case r.URL.Path != tokenPath:
		a = refuse(http.StatusUnauthorized, "unknown_source", "Unknown Source "+r.URL.Path)
	case r.Method != http.MethodGet:
		a = refuse(http.StatusMethodNotAllowed, "invalid_request", "The endpoint serves GET alone")
	case r.Header.Get("Metadata") != "true":
		a = refuse(http.StatusBadRequest, "bad_request_102", "Required metadata header not specified")
	case len(r.Header.Values("X-Forwarded-For")) > 0:
		a = invalid("Requests that went through a proxy are refused")
	case q.Get("api-version") == "":
		a = invalid("Required query variable 'api-version' is missing")
	case !known(q.Get("api-version")):
		a = invalid("The api-version is not supported: want " + want)
	case q.Get("resource") == "":
		a = invalid("Required query variable 'resource' is missing")
	case !e.knows(q.Get("resource")):
		a = refuse(http.StatusBadRequest, "invalid_resource", fmt.Sprintf(
			"AADSTS50001: The application named %s was not found in the tenant named %s.", q.Get("resource"), Tenant))
	default:
		return nil
	}
	return &a
}

// knows tells whether tokens can be had for a resource: for the vaults under
// each of their names, and for Azure Resource Manager, so that there are tokens
// of a wrong audience.
func (e *Emulator) knows(resource string) bool {
	u, err := url.Parse(resource)
	if err != nil || u.Scheme != "https" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return isLoopback(host) || host == clouds[0].manager || slices.ContainsFunc(e.suffixes(), func(suffix string) bool {
		c := cloudOf(suffix)
		return host == suffix || c != nil && host == c.manager
	})
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }
