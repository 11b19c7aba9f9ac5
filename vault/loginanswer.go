package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

var errWithoutTLS = errors.New("it would be asked without TLS")

// loginTransporter sends what azidentity asks of login servers, and notes how they answer: azidentity flattens that to text.
type loginTransporter struct {
	world   *http.Client
	ways    connect
	machine *http.Client // for identity endpoints, which ambient credentials look for; nil: there are none
}

var _ policy.Transporter = loginTransporter{}

// Do implements policy.Transporter.
func (t loginTransporter) Do(req *http.Request) (*http.Response, error) {
	answer := loginAnswerOf(req.Context())
	*answer = loginAnswer{host: req.URL.Host}
	answer.way, _ = t.ways.lookup(authority(req))
	client := t.world
	switch {
	case req.URL.Scheme == "https":
	case t.machine != nil:
		client = t.machine
	default:
		answer.failure = errWithoutTLS
		return nil, errWithoutTLS
	}
	resp, err := client.Do(req)
	if err != nil {
		answer.failure = err
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		answer.failure = err
		return nil, fmt.Errorf("reading the answer of %s: %w", req.URL.Host, err)
	}
	answer.note(req, resp, text)
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp, nil
}

// loginAnswer is how the latest request to a login server ended. It travels in the context.
type loginAnswer struct {
	host       string
	way        string // host:port that Options.Connect leads to, "" if host is reached by its name
	failure    error  // there was no whole answer
	status     int
	mayGrant   bool   // it may hold a token, so that nothing of it must be shown
	code       string // such as invalid_client
	sts        []int  // codes of Microsoft Entra ID, the numbers after AADSTS
	message    string
	requestID  string
	retryAfter time.Duration
}

type loginAnswerKey struct{}

// loginAnswerOf returns the loginAnswer of ctx, or one that nobody reads.
func loginAnswerOf(ctx context.Context) *loginAnswer {
	if a, ok := ctx.Value(loginAnswerKey{}).(*loginAnswer); ok {
		return a
	}
	return new(loginAnswer)
}

// note keeps what a failing answer says, and of another one nothing but the status: all but discovery may hold a token.
func (a *loginAnswer) note(req *http.Request, resp *http.Response, text []byte) {
	a.status = resp.StatusCode
	if a.status/100 == 2 {
		a.mayGrant = req.URL.Scheme != "https" || !strings.HasSuffix(req.URL.Path, "/.well-known/openid-configuration")
		return
	}
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Codes       []int  `json:"error_codes"`
		Trace       string `json:"trace_id"`
	}
	_ = json.Unmarshal(text, &body) // an answer in another form is described by its status
	a.code, a.message, a.sts = folded(body.Error), folded(body.Description), body.Codes
	if a.requestID = folded(resp.Header.Get("x-ms-request-id")); a.requestID == "" {
		a.requestID = folded(body.Trace)
	}
	a.retryAfter = retryAfter(resp.Header, time.Now())
}
