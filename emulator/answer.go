package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"
)

// answer is what the data plane or the identity endpoint has decided to say,
// before anything of it is sent.
type answer struct {
	status    int
	body      any           // sent as JSON; nil: no body
	challenge bool          // a 401 for want of a token, not because of it
	admitted  bool          // the caller showed a good token
	retry     time.Duration // Retry-After; 0: no header
	delay     time.Duration // wait so long first
	delivery  FaultKind     // Hang, Drop, HalfOpen, or "" for all of it

	authenticate string // the WWW-Authenticate header of a 401
}

// errorBody is the form of all errors of the data plane.
type errorBody struct {
	Error struct {
		Code    string     `json:"code"`
		Message string     `json:"message"`
		Inner   *innerCode `json:"innererror,omitempty"`
	} `json:"error"`
}

type innerCode struct {
	Code string `json:"code"`
}

// fail makes an error of the data plane; inner may be empty.
func fail(status int, code, inner, message string) answer {
	var b errorBody
	b.Error.Code, b.Error.Message = code, message
	if inner != "" {
		b.Error.Inner = &innerCode{inner}
	}
	return answer{status: status, body: b}
}

// through adds what a fault changes about the way of an answer.
func (a answer) through(f Fault) answer {
	switch f.Kind {
	case Slow:
		a.delay = f.Delay
	case Hang, Drop, HalfOpen:
		a.delivery = f.Kind
	}
	return a
}

// send delivers an answer, or as much of it as a fault lets through. Aborting
// the handler is how net/http closes a connection without another word.
func send(w http.ResponseWriter, r *http.Request, a answer, encode func(any) ([]byte, error)) {
	if !wait(r.Context(), a.delay) {
		panic(http.ErrAbortHandler)
	}
	switch a.delivery {
	case Hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case Drop:
		panic(http.ErrAbortHandler)
	}
	var body []byte
	if a.body != nil {
		var err error
		if body, err = encode(a.body); err != nil {
			panic(fmt.Errorf("encoding an answer: %w", err)) // all bodies are types of this package
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	if a.authenticate != "" {
		w.Header()["WWW-Authenticate"] = []string{a.authenticate} // spelt as services do
	}
	if a.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(a.retry.Seconds()))))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	if a.delivery == HalfOpen {
		stall(w, r, body[:len(body)/2])
	}
	_, _ = w.Write(body) // a client that has gone away is no concern of a server
}

// stall sends a beginning and then keeps the connection until the client closes it.
func stall(w http.ResponseWriter, r *http.Request, beginning []byte) {
	_, _ = w.Write(beginning)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// wait returns false when ctx ended before d was over.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// compactJSON leaves <, > and & alone: the links of the service hold a raw "&".
func compactJSON(v any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// vaultJSON is compactJSON with every "+" escaped. Outside of strings there is
// none: no body has a number with an exponent.
func vaultJSON(v any) ([]byte, error) {
	text, err := compactJSON(v)
	return bytes.ReplaceAll(text, []byte("+"), []byte(`\u002B`)), err
}

// vaultHeaders sets what the service sends with every answer. The names are in
// the service's own spelling, which Header.Set would change.
func vaultHeaders(w http.ResponseWriter, r *http.Request, a answer) (requestID string) {
	h := w.Header()
	requestID = newUUID()
	for name, value := range map[string]string{
		"Cache-Control":                 "no-cache",
		"Pragma":                        "no-cache",
		"Expires":                       "-1",
		"Strict-Transport-Security":     "max-age=31536000;includeSubDomains",
		"X-Content-Type-Options":        "nosniff",
		"x-ms-keyvault-region":          region,
		"x-ms-keyvault-service-version": "1.9.749.1",
		"x-ms-keyvault-network-info":    networkInfo(r.RemoteAddr),
		"x-ms-request-id":               requestID,
	} {
		h[name] = []string{value}
	}
	if a.admitted {
		h["x-ms-keyvault-rbac-assignment-id"] = []string{assignmentID}
		h["x-ms-keyvault-rbac-cache"] = []string{"ra_age=23;da_age=9247;rd_age=9247;brd_age=13588;ra_notif_age=2749;dec_lev=1;"}
	}
	return requestID
}

const (
	region       = "uksouth"
	assignmentID = "0ca71076-4c54-51c3-8622-e5e45ccee0d6"
)

func networkInfo(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.To4() == nil {
		return "conn_type=Ipv6;addr=" + host + ";act_addr_fam=InterNetworkV6;"
	}
	return "conn_type=Ipv4;addr=" + host + ";act_addr_fam=InterNetwork;"
}

// plainJSON writes what the control endpoint says.
func plainJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Errorf("encoding an answer: %w", err)) // all bodies are types of this package
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, string(text)+"\n")
}
