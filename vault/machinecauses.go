package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// explainWaiting says that the try ended while somebody else asked for a token.
func explainWaiting(id Identity, cause error) *Error {
	return &Error{Kind: KindIdentity, Err: cause, Fact: fmt.Sprintf("no token for the %s within the time of this try", id),
		Hint: "try again; if it lasts, check the network between this machine and the place that gives it tokens"}
}

// timedOut reports whether err is about time that ran out.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// explainSilence says why an identity endpoint gave no whole answer.
func explainSilence(id Identity, err error) *Error {
	endpoint := endpointOf(id)
	e := &Error{Kind: KindIdentity, Err: err, Hint: "enable a managed identity on this machine, or check msiEndpoint; outside of Azure there is none"}
	switch cause, _ := causeOf(err, endpoint); {
	case timedOut(err):
		e.Fact = fmt.Sprintf("no token: the identity endpoint %s does not answer", shortened(endpoint))
	case errors.Is(err, errTooLarge):
		e.Fact = "no token: " + folded(innermost(err).Error())
		e.Hint = "check that msiEndpoint leads to an identity endpoint"
	case cause != "":
		e.Fact = fmt.Sprintf("no token: cannot reach the identity endpoint %s: %s", shortened(endpoint), cause)
	default:
		e.Fact = "no token: " + folded(innermost(err).Error())
	}
	return e
}

// explainGarbage reports an answer that grants nothing that can be used. It shows nothing of it, since a part may be a token.
func explainGarbage(answer identityAnswer) *Error {
	return &Error{Kind: KindIdentity, Status: answer.status, Fact: "no token: the identity endpoint's answer makes no sense",
		Hint: "check that msiEndpoint leads to an identity endpoint"}
}

// explainStranger reports a token of another identity than was asked for, which a vault would refuse without a hint at why.
func explainStranger(id Identity, arc bool, other string) *Error {
	_, want := id.selector()
	e := &Error{Kind: KindIdentity, Status: http.StatusOK, Fact: fmt.Sprintf("no token for the %s: the identity endpoint answered for another one", id),
		Hint: fmt.Sprintf("check that %s is assigned to this machine, and that msiEndpoint leads to its own identity endpoint", folded(want))}
	if other != "" {
		e.Fact += ", " + quoted(other)
	}
	if arc {
		e.Fact = fmt.Sprintf("no token for the %s: the agent of Azure Arc did not confirm it, and answers as the system-assigned one", id)
		e.Hint = fmt.Sprintf("leave %s empty to use the system-assigned identity, or update the agent to one that knows user-assigned identities", settingOf(id))
	}
	return e
}

// settingOf names the setting that selects the identity.
func settingOf(id Identity) string {
	switch name, _ := id.selector(); name {
	case "object_id":
		return "msiObjectId"
	case "msi_res_id":
		return "msiResourceId"
	}
	return "msiClientId"
}

// explainArcKey says why Azure Arc's challenge was not met.
func explainArcKey(id Identity, err error) *Error {
	e := &Error{Kind: KindIdentity, Status: http.StatusUnauthorized, Fact: "no token: " + folded(err.Error()), Err: err,
		Hint: "check that the agent of Azure Arc is what answers at msiEndpoint"}
	if errors.Is(err, os.ErrPermission) {
		e.Hint = "run kvfs as root, or add its user to the group himds, which may read the agent's keys"
	}
	return e
}

// explainRefusal explains an answer of an identity endpoint other than 200.
func explainRefusal(id Identity, arc bool, answer identityAnswer) *Error {
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(answer.text, &body) // an answer in another form is described by its status
	e := &Error{Kind: KindIdentity, Status: answer.status, Code: folded(body.Error), Message: folded(body.Description),
		RequestID: folded(answer.header.Get("x-ms-request-id")), RetryAfter: retryAfter(answer.header, time.Now())}
	e.Fact = fmt.Sprintf("no token for the %s: %d", id, e.Status)
	if said := folded(e.Code + " " + e.Message); said != "" {
		e.Fact += " " + withoutStop(said)
	}
	e.Hint = refusalHint(id, arc, answer, e.Code)
	if e.Code == "" && answer.foreign(arc) {
		e.Fact = fmt.Sprintf("no token: %s answered %d, which is no answer of Azure's", shortened(endpointOf(id)), e.Status)
		e.Hint = "check that this is an Azure machine and that nothing stands between, or set msiEndpoint"
	}
	return e
}

// foreign reports whether a refusal that gives no code comes from something else than an identity endpoint: one that is busy
// or being updated, or whose answer is a challenge, may have nothing to say.
func (a identityAnswer) foreign(arc bool) bool {
	switch a.status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests:
		return false
	case http.StatusUnauthorized:
		return !arc && a.header.Get("WWW-Authenticate") == ""
	}
	return a.status < 500
}

func endpointOf(id Identity) string {
	if id.Endpoint == "" {
		return defaultEndpoint
	}
	return id.Endpoint
}

// refusalHint goes by status, code and selector: descriptions may change at any time.
func refusalHint(id Identity, arc bool, answer identityAnswer, code string) string {
	name, _ := id.selector()
	switch challenged := answer.header.Get("WWW-Authenticate") != ""; {
	case answer.status == http.StatusUnauthorized && (arc || challenged):
		return "check that the agent of Azure Arc is what answers at msiEndpoint, and that it runs well: azcmagent show"
	case code == "invalid_resource":
		return "the vault belongs to another cloud than the identity: use an identity of the vault's cloud"
	case code == "bad_request_102":
		return "something on the way drops headers: msiEndpoint must lead to the identity endpoint itself, not to a proxy"
	case code == "unknown_source":
		return "check the path of msiEndpoint: it is " + defaultEndpoint + ", on Azure Arc " + arcEndpoint
	case answer.status == http.StatusBadRequest && name == "client_id":
		return "assign the identity to this machine; msiClientId must be its client id, not its object id (that goes into msiObjectId)"
	case answer.status == http.StatusBadRequest && name != "":
		return "assign the identity to this machine, and check its id in the settings"
	case answer.status == http.StatusBadRequest:
		return "this machine has several user-assigned identities or none: set msiClientId to the client id of one that is assigned"
	case answer.status == http.StatusUnauthorized, answer.status == http.StatusForbidden:
		return "assign a managed identity to this machine: az vm identity assign --name VM --resource-group GROUP (scale set: az vmss identity assign with the same arguments)"
	case answer.status == http.StatusTooManyRequests:
		return "other programs on this machine ask for tokens too often: the endpoint takes 20 requests per second"
	case answer.status == http.StatusNotFound:
		return "the endpoint is being updated: try again in 70 seconds; if it lasts, check msiEndpoint"
	case answer.status == http.StatusGone:
		return "the endpoint is being updated: try again in 70 seconds"
	}
	return "try again; if it lasts, check that a managed identity is enabled on this machine"
}
