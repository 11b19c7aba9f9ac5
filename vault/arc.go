package vault

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
		return "", fmt.Errorf("the Azure Arc challenge names %s, which is no key of the agent", quoted(file))
	}
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return "", fmt.Errorf("the Azure Arc key %s is a symbolic link", quoted(file))
	}
	if err != nil {
		return "", fmt.Errorf("reading the Azure Arc key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading the Azure Arc key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("the Azure Arc key %s is not a regular file", quoted(file))
	}
	text, err := io.ReadAll(io.LimitReader(f, arcKeyLimit+1))
	if err != nil {
		return "", fmt.Errorf("reading the Azure Arc key: %w", err)
	}
	if len(text) == 0 || len(text) > arcKeyLimit {
		return "", fmt.Errorf("the Azure Arc key %s has not 1 to %d bytes", quoted(file), arcKeyLimit)
	}
	return string(text), nil
}
