package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// cliDelay is how long a child of az may hold on to its output after az has ended.
const cliDelay = time.Second

// azureCLI asks the Azure CLI. azidentity.AzureCLICredential does not serve for it: az is a script around Python, and of those
// that time ran out for it ends the shell alone and leaves the rest behind. Arguments and answer are those that it documents.
type azureCLI struct{ id Identity }

var _ azcore.TokenCredential = azureCLI{}

func (c azureCLI) open() (azcore.TokenCredential, error) {
	if _, err := exec.LookPath("az"); err != nil {
		return nil, &Error{Kind: KindIdentity, Fact: "no token: the Azure CLI is not installed, there is no az in PATH",
			Hint: "install the Azure CLI for the user that kvfs runs as, and sign in: " + loginCommand(c.id)}
	}
	return c, nil
}

// GetToken implements azcore.TokenCredential. The error is always an *[Error].
func (c azureCLI) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if o.Claims != "" {
		return azcore.AccessToken{}, c.explainClaims(o.Claims)
	}
	args := []string{"account", "get-access-token", "-o", "json"}
	for _, scope := range o.Scopes {
		args = append(args, "--resource", strings.TrimSuffix(scope, "/.default"))
	}
	if tenant := c.tenant(o); tenant != "" {
		args = append(args, "--tenant", tenant)
	}
	said, complaint, err := runGroup(ctx, "az", args...)
	if err != nil {
		return azcore.AccessToken{}, c.explain(ctx, complaint, err)
	}
	return c.accept(said)
}

// tenant is that of the settings, else the vault's.
func (c azureCLI) tenant(o policy.TokenRequestOptions) string {
	if c.id.TenantID != "" {
		return c.id.TenantID
	}
	return o.TenantID
}

// runGroup runs a program and returns what it writes. When ctx ends, everything ends that it has started.
func runGroup(ctx context.Context, name string, args ...string) (out, complaint string, err error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = cliDelay
	said, complained := limited{left: bodyLimit}, limited{left: bodyLimit}
	command.Stdout, command.Stderr = &said, &complained
	err = command.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // a child in the background holds the output, in which the answer is
	}
	return said.kept.String(), complained.kept.String(), err
}

// limited keeps what is written to it, and fails with errTooLarge after left bytes.
type limited struct {
	kept bytes.Buffer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errTooLarge
	}
	l.left -= len(p)
	return l.kept.Write(p)
}

// accept takes the token of an answer. Older versions tell its end in local time alone.
func (c azureCLI) accept(said string) (azcore.AccessToken, error) {
	var answer struct {
		Token   string `json:"accessToken"`
		Ends    int64  `json:"expires_on"`
		OldEnds string `json:"expiresOn"`
	}
	err := json.Unmarshal([]byte(said), &answer)
	ends := time.Unix(answer.Ends, 0)
	if err == nil && answer.Ends == 0 {
		ends, err = time.ParseInLocation("2006-01-02 15:04:05.999999", answer.OldEnds, time.Local)
	}
	if err != nil || answer.Token == "" {
		return azcore.AccessToken{}, &Error{Kind: KindIdentity, Fact: "no token: the answer of the Azure CLI makes no sense",
			Hint: "check that this prints a token as the user that kvfs runs as: az account get-access-token --output json"}
	}
	return azcore.AccessToken{Token: answer.Token, ExpiresOn: ends}, nil
}

func (c azureCLI) explain(ctx context.Context, complaint string, err error) *Error {
	e := &Error{Kind: KindIdentity, Message: folded(strings.TrimPrefix(complaint, "ERROR: ")), Hint: "sign in as the user that kvfs runs as: " + loginCommand(c.id)}
	switch {
	case ctx.Err() != nil:
		e.Err, e.Message = ctx.Err(), ""
		e.Fact, e.Hint = "no token: the Azure CLI did not answer in time", "try again; check that az account get-access-token works on this machine"
	case e.Message == "":
		e.Fact = "no token: the Azure CLI failed: " + withoutStop(folded(err.Error()))
	default:
		e.Fact = "no token: the Azure CLI says: " + withoutStop(e.Message)
	}
	return e
}

// explainClaims says how a person gets the claims that a vault demands: az has no other way.
func (c azureCLI) explainClaims(claims string) *Error {
	return &Error{Kind: KindIdentity, Fact: "no token: the vault demands that the person signed in to the Azure CLI signs in anew",
		Hint: fmt.Sprintf("sign in as the user that kvfs runs as: %s --claims-challenge %s", loginCommand(c.id),
			argument(base64.StdEncoding.EncodeToString([]byte(claims)), "CLAIMS"))}
}
