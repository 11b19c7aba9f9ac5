package vault

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	arcEndpoint     = "http://localhost:40342/metadata/identity"
	arcAgent        = "/opt/azcmagent/bin/himds"
	arcKeyDirectory = "/var/opt/azcmagent/tokens"
	arcKeyLimit     = 4096
	arcScheme       = "Basic realm="
)

// challenge returns the key file that Azure Arc wants to see the content of, if the answer is its challenge.
func (a identityAnswer) challenge() (file string, ok bool) {
	if a.status != http.StatusUnauthorized {
		return "", false
	}
	for _, s := range a.header.Values("WWW-Authenticate") {
		if len(s) >= len(arcScheme) && strings.EqualFold(s[:len(arcScheme)], arcScheme) {
			return strings.Trim(s[len(arcScheme):], `"`), true
		}
	}
	return "", false
}

// readArcKey returns what is in the key file that a challenge names: it changes with each challenge. Whoever sits on the
// agent's port chooses the name, so it must not make root read anything but what the agent keeps in directory.
func readArcKey(directory, file string) (string, error) {
	if filepath.Dir(file) != directory || filepath.Clean(file) != file || filepath.Ext(file) != ".key" {
		return "", fmt.Errorf("the Azure Arc challenge names %s, which is no key of the agent: those are in %s", quoted(file), directory)
	}
	text, err := readFile(file, syscall.O_NOFOLLOW, arcKeyLimit)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return "", fmt.Errorf("the Azure Arc key %s is a symbolic link", quoted(file))
	case errors.Is(err, errNotRegular):
		return "", fmt.Errorf("the Azure Arc key %s is not a regular file", quoted(file))
	case errors.Is(err, errTooLong), err == nil && len(text) == 0:
		return "", fmt.Errorf("the Azure Arc key %s has not 1 to %d bytes", quoted(file), arcKeyLimit)
	case err != nil:
		return "", fmt.Errorf("reading the Azure Arc key: %w", err)
	}
	return string(text), nil
}
