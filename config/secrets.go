package config

import (
	"slices"
	"strings"
)

// This file knows by which names people write secrets into settings, which are public.

// inlineSecrets refuses secrets in the settings themselves.
func (r reader) inlineSecrets(n *node, path string) {
	for _, m := range n.members() {
		if isInlineSecret(m.key) && !r.report.enough() {
			r.report.error(m.keyAt, prefix(path, quote(m.key)+" is a secret, and settings are public"), inlineSecretHint(m.key))
		}
	}
}

// isInlineSecret reports whether people mean a secret by this name.
func isInlineSecret(key string) bool {
	if len(key) > 40 {
		return false
	}
	name := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(key, "-", ""), "_", ""))
	return slices.Contains([]string{
		"clientsecret", "secret", "secretvalue", "password", "clientpassword", "clientcertificatepassword", "certificatepassword", "pfxpassword",
		"clientcertificate", "certificate", "pfx", "clientkey", "privatekey", "key", "token", "accesstoken", "clientassertion", "assertion",
	}, name)
}

// hiddenHint says what to do about a value that messages do not repeat, "" for the others.
func hiddenHint(key string) string {
	switch {
	case isInlineSecret(key):
		return inlineSecretHint(key)
	case isPassword(key):
		return passwordHint
	case strings.EqualFold(key, "passwordFile"):
		return "write the path of a file, in double quotes"
	}
	return ""
}

func inlineSecretHint(key string) string {
	name, key := "clientSecretFile", strings.ToLower(key)
	switch {
	case strings.Contains(key, "certificatepassword"), strings.Contains(key, "pfxpassword"):
		name = "certificatePasswordFile"
	case strings.Contains(key, "certificate"), strings.Contains(key, "key"), strings.Contains(key, "pfx"):
		name = "clientCertificateFile"
	case strings.Contains(key, "token"), strings.Contains(key, "assertion"):
		name = "tokenFile"
	}
	return "write it to a file that only root can read, and give that file's path as " + quote(name)
}
