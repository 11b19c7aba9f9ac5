package emulator

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// loginRefusal is an error of the login servers. Codes are those that the real
// ones document as AADSTS codes; texts follow quotations of them.
type loginRefusal struct {
	code   int
	status int
	kind   string // of RFC 6749
	text   string // with verbs for what a request said
}

var (
	unknownTenant = loginRefusal{90002, http.StatusBadRequest, "invalid_tenant",
		"Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. " +
			"Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant."}
	invalidInstance = loginRefusal{50049, http.StatusBadRequest, "invalid_instance", "Unknown or invalid instance."}
	onlyPOST        = loginRefusal{900561, http.StatusBadRequest, "invalid_request", "The endpoint only accepts POST requests. Received a %s request."}
	missing         = loginRefusal{900144, http.StatusBadRequest, "invalid_request", "The request body must contain the following parameter: '%s'."}
	otherGrant      = loginRefusal{70003, http.StatusBadRequest, "unsupported_grant_type", "The app requested an unsupported grant type '%s'."}
	badScope        = loginRefusal{1002012, http.StatusBadRequest, "invalid_scope",
		"The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."}
	unknownResource = loginRefusal{500011, http.StatusBadRequest, "invalid_resource",
		"The resource principal named %s was not found in the tenant named Contoso. This can happen if the application has not been installed by the administrator of the tenant " +
			"or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant."}

	unknownApplication = loginRefusal{700016, http.StatusBadRequest, "unauthorized_client",
		"Application with identifier '%s' was not found in the directory 'Contoso'. This can happen if the application has not been installed by the administrator of the tenant " +
			"or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant."}
	disabledApplication = loginRefusal{7000112, http.StatusBadRequest, "unauthorized_client", "Application '%s' is disabled."}
	noCredential        = loginRefusal{7000218, http.StatusUnauthorized, "invalid_client",
		"The request body must contain the following parameter: 'client_assertion' or 'client_secret'."}
	wrongSecret = loginRefusal{7000215, http.StatusUnauthorized, "invalid_client",
		"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'."}
	expiredSecret = loginRefusal{7000222, http.StatusUnauthorized, "invalid_client",
		"The provided client secret keys for app '%s' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, " +
			"or consider using certificate credentials for added security: https://aka.ms/certCreds."}

	otherAssertionType = loginRefusal{50027, http.StatusUnauthorized, "invalid_client", "The client assertion type '%s' is not supported."}
	badAssertion       = loginRefusal{50027, http.StatusUnauthorized, "invalid_client", "JWT token is invalid or malformed."}
	assertionTime      = loginRefusal{700024, http.StatusUnauthorized, "invalid_client",
		"Client assertion is not within its valid time range. Current time: %s, assertion valid from %s, expiry time of assertion %s. " +
			"Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."}
	assertionAudience = loginRefusal{700023, http.StatusUnauthorized, "invalid_client",
		"Client assertion audience claim does not match Realm issuer. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."}
	assertionClient = loginRefusal{700021, http.StatusUnauthorized, "invalid_client",
		"Client assertion application identifier doesn't match 'client_id' parameter."}
	unregisteredKey = loginRefusal{700027, http.StatusUnauthorized, "invalid_client",
		"The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '%s']"}
	expiredKey = loginRefusal{700027, http.StatusUnauthorized, "invalid_client",
		"Client assertion failed signature validation. [Reason - The key used is expired., Thumbprint of key used by client: '%s', Found key 'Start=%s, End=%s']"}
	badSignature = loginRefusal{700027, http.StatusUnauthorized, "invalid_client",
		"Client assertion contains an invalid signature. [Reason - The key was found, but use of the key to verify the signature failed., Thumbprint of key used by client: '%s']"}

	noFederation = loginRefusal{70021, http.StatusBadRequest, "invalid_request",
		"No matching federated identity record found for presented assertion. Assertion Issuer: '%s'. Assertion Subject: '%s'. Assertion Audience: '%s'. " + aboutFederation}
	otherIssuer   = loginRefusal{700211, http.StatusUnauthorized, "invalid_client", "No matching federated identity record found for presented assertion issuer '%s'. " + checkFederation}
	otherAudience = loginRefusal{700212, http.StatusUnauthorized, "invalid_client", "No matching federated identity record found for presented assertion audience '%s'. " + checkFederation}
	otherSubject  = loginRefusal{700213, http.StatusUnauthorized, "invalid_client", "No matching federated identity record found for presented assertion subject '%s'. " + checkFederation}

	loginThrottled  = loginRefusal{90055, http.StatusTooManyRequests, "temporarily_unavailable", "There are too many incoming requests."}
	serverTrouble   = loginRefusal{50000, http.StatusInternalServerError, "server_error", "There was an error issuing a token or an issue with our sign-in service."}
	loginOverloaded = loginRefusal{90033, http.StatusServiceUnavailable, "temporarily_unavailable", "A transient error has occurred. Please try again."}
)

const (
	aboutFederation = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
	checkFederation = "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. " + aboutFederation
)

// loginError is the form of all errors of the login servers.
type loginError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Codes       []int  `json:"error_codes"`
	Timestamp   string `json:"timestamp"`
	Trace       string `json:"trace_id"`
	Correlation string `json:"correlation_id"`
	URI         string `json:"error_uri"`
}

// deny fills a refusal in with what the request said.
func (l loginServer) deny(r loginRefusal, said ...any) answer {
	correlation := l.r.Header.Get("client-request-id")
	if correlation == "" {
		correlation = newUUID()
	}
	trace, now := newUUID(), time.Now().UTC().Format("2006-01-02 15:04:05Z")
	return answer{status: r.status, body: loginError{
		Error: r.kind,
		Description: fmt.Sprintf("AADSTS%d: ", r.code) + fmt.Sprintf(r.text, said...) +
			" Trace ID: " + trace + " Correlation ID: " + correlation + " Timestamp: " + now,
		Codes: []int{r.code}, Timestamp: now, Trace: trace, Correlation: correlation,
		URI: "https://" + l.host + "/error?code=" + strconv.Itoa(r.code),
	}}
}

// faulted is the answer that a fault gives in place of the regular one.
func (l loginServer) faulted(f Fault) (a answer, decided bool) {
	switch f.Kind {
	case Slow, Hang, HalfOpen, Drop:
		return answer{}, false
	case Throttled:
		a = l.deny(loginThrottled)
	case Unavailable:
		a = l.deny(loginOverloaded)
	case ServerError:
		a = l.deny(serverTrouble)
	default:
		a = refuse(http.StatusInternalServerError, "emulator_fault", "bad fault: "+complaint(f))
	}
	a.retry = f.RetryAfter
	return a, true
}
