package config

import (
	"net/url"
	"slices"
	"strings"
	"unicode"

	"kvfs/vault"
)

// This file reads kvfs.identity. Settings are public, and people do put secrets into them: no message here repeats a value,
// whatever its field, except that of the type.

// method is a type of identity.
type method struct {
	name   string
	fields *fieldSet
	read   func(*object) vault.Identity
}

func (r reader) methods() []method {
	return []method{
		{"managedIdentity", fieldsOf[managedIdentityFields](r.report), (*object).managedIdentity},
		{"workloadIdentity", fieldsOf[workloadIdentityFields](r.report), (*object).workloadIdentity},
		{"servicePrincipal", fieldsOf[servicePrincipalFields](r.report), (*object).servicePrincipal},
		{"azureCli", fieldsOf[azureCLIFields](r.report), (*object).azureCLI},
		{"environment", fieldsOf[environmentFields](r.report), (*object).environment},
	}
}

// choice reads an identity of our own. The result means something only if nothing was wrong.
func (r reader) choice(n *node, path string) vault.Identity {
	const hint = `write {"type": "managedIdentity"}, or another type with its fields`
	if n.kind != kindObject {
		r.hidden(n, path, "an object", hint)
		return vault.Identity{}
	}
	r.inlineSecrets(n, path)
	methods := r.methods()
	m := r.method(n, path, methods)
	if m == nil {
		return vault.Identity{}
	}
	o := r.object(n, path, m.fields)
	id := m.read(o)
	o.doneWith(m, methods)
	return id
}

// method returns the type that an identity says it has, nil after it has reported that it has none.
func (r reader) method(n *node, path string, methods []method) *method {
	var names []string
	for _, m := range methods {
		names = append(names, m.name)
	}
	known := "known are " + strings.Join(names, ", ")
	o := r.object(n, path, fieldsOf[methodFields](r.report))
	t := o.get("type")
	if t == nil {
		r.fault(n.at(), path+`: "type" is missing`, known)
		return nil
	}
	name, ok := r.text(t, o.join("type"))
	if !ok {
		return nil
	}
	if i := slices.Index(names, name); i >= 0 {
		return &methods[i]
	}
	if meant := near(name, names); meant != "" {
		known = "did you mean " + quote(meant) + "?"
	}
	r.fault(t.at(), o.join("type")+": "+quote(name)+" is not a known type", known)
	return nil
}

func (o *object) managedIdentity() vault.Identity {
	id := vault.Identity{
		ClientID:   o.hiddenText("clientId", isGUID, "a client id", "the client id"+guidHint),
		ObjectID:   o.hiddenText("objectId", isGUID, "an object id", "the object id"+guidHint),
		ResourceID: o.hiddenText("resourceId", isResourceID, "a resource id", resourceIDHint),
	}
	if n := o.get("endpoint"); n != nil {
		id.Endpoint = o.endpoint(n, o.join("endpoint"))
	}
	var given []string
	for _, name := range []string{"clientId", "objectId", "resourceId"} {
		if o.get(name) != nil {
			given = append(given, name)
		}
	}
	if id == (vault.Identity{}) { // the zero Identity would leave the choice to the environment
		id.Method = vault.ManagedIdentity
	}
	if len(given) > 1 {
		o.fault(o.keyAt(given[1]), o.path+" names the identity twice, by "+given[0]+" and by "+given[1], "leave one of them out")
	}
	return id
}

func (o *object) workloadIdentity() vault.Identity {
	return vault.Identity{
		Method:    vault.WorkloadIdentity,
		TenantID:  o.tenant(),
		ClientID:  o.application(),
		TokenFile: o.file("tokenFile", "/var/run/secrets/azure/tokens/azure-identity-token"),
		Authority: o.authority(),
	}
}

func (o *object) servicePrincipal() vault.Identity {
	o.required("tenantId", `add "tenantId": the directory's id, or its domain`)
	o.required("clientId", `add "clientId": the application's id, a GUID`)
	secret, certificate, password := o.get("clientSecretFile"), o.get("clientCertificateFile"), o.get("certificatePasswordFile")
	switch {
	case secret == nil && certificate == nil:
		o.fault(o.node.at(), o.path+": neither clientSecretFile nor clientCertificateFile", `add "clientSecretFile": "/etc/kvfs/client-secret"`)
	case secret != nil && certificate != nil:
		o.fault(o.keyAt("clientCertificateFile"), o.path+" has both clientSecretFile and clientCertificateFile", "leave one of them out")
	case password != nil && certificate == nil:
		o.fault(o.keyAt("certificatePasswordFile"), o.join("certificatePasswordFile")+" is of no use without clientCertificateFile", "remove it")
	}
	return vault.Identity{
		Method:          vault.ServicePrincipal,
		TenantID:        o.tenant(),
		ClientID:        o.application(),
		SecretFile:      o.file("clientSecretFile", "/etc/kvfs/client-secret"),
		CertificateFile: o.file("clientCertificateFile", "/etc/kvfs/client.pem"),
		PasswordFile:    o.file("certificatePasswordFile", "/etc/kvfs/client-password"),
		Authority:       o.authority(),
	}
}

func (o *object) azureCLI() vault.Identity {
	return vault.Identity{Method: vault.AzureCLI, TenantID: o.tenant()}
}

func (o *object) environment() vault.Identity { return vault.Identity{Method: vault.Environment} }

func (o *object) tenant() string {
	return o.hiddenText("tenantId", isTenant, "a GUID or a domain", "write the directory's id, or its domain, such as contoso.onmicrosoft.com")
}

func (o *object) application() string {
	return o.hiddenText("clientId", isGUID, "a client id", "the client id of the application is a GUID, such as 00001111-aaaa-2222-bbbb-3333cccc4444")
}

func (o *object) file(name, example string) string {
	isFile := func(s string) bool {
		return strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/") && !strings.ContainsFunc(s, unicode.IsControl) && len(s) <= maxPath
	}
	return o.hiddenText(name, isFile, "the absolute path of a file", "write the whole path, such as "+example)
}

func (o *object) authority() string {
	s := o.hiddenText("authority", func(s string) bool { return loginServer(s) != "" }, "the https URL of a login server",
		"write https://login.microsoftonline.com, or leave it out for the login server of the vault's cloud")
	return loginServer(s)
}

// loginServer returns the URL of a host without a final slash, "" if it is none.
func loginServer(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || strings.ContainsAny(s, "?#") || u.EscapedPath() != "" && u.EscapedPath() != "/" {
		return ""
	}
	if !validDNSName(u.Hostname()) || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validPort(u.Port()) {
		return ""
	}
	return "https://" + strings.ToLower(u.Host)
}

// isTenant admits a GUID and a name of at least two labels: "common" and "organizations" name no directory.
func isTenant(s string) bool {
	return isGUID(s) || strings.Contains(s, ".") && validDNSName(s) && !strings.Contains(s, "_")
}

// hiddenText takes a string that fits, "" if the field is absent. Messages do not repeat it.
func (o *object) hiddenText(name string, fits func(string) bool, expected, hint string) string {
	n := o.get(name)
	if n == nil {
		return ""
	}
	if s := strings.TrimSpace(n.text); n.kind == kindString && fits(s) {
		return s
	}
	o.hidden(n, o.join(name), expected, hint)
	return ""
}

// hidden is mismatch without the value.
func (r reader) hidden(n *node, path, expected, hint string) {
	if isARM(n) {
		r.mismatch(n, path, expected, hint)
		return
	}
	r.fault(n.at(), path+" is not "+expected, hint)
}

// doneWith is doneStrictly for a type: fields of the other types are refused in words of their own.
func (o *object) doneWith(m *method, methods []method) {
	var unknown []*member
	for _, field := range o.unknown {
		others := func(other method) bool { return fold(field.key, other.fields.names) >= 0 }
		switch {
		case o.report.enough(), isInlineSecret(field.key): // that was said
		case !slices.ContainsFunc(methods, others):
			unknown = append(unknown, field)
		case field.value.kind != kindNull:
			o.report.error(field.keyAt, o.within(quote(field.key)+" does not belong to the type "+quote(m.name)),
				"remove it; fields of this type: "+strings.Join(m.fields.names, ", "))
		}
	}
	o.unknown = unknown
	o.doneStrictly()
}

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
