package config

import (
	"net/url"
	"reflect"
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

func methodNames() []string {
	return []string{"managedIdentity", "workloadIdentity", "servicePrincipal", "azureCli", "environment"}
}

// methods are the types in the order of their names.
func (r reader) methods() []method {
	names := methodNames()
	return []method{
		{names[0], fieldsOf[managedIdentityFields](r.report), (*object).managedIdentity},
		{names[1], fieldsOf[workloadIdentityFields](r.report), (*object).workloadIdentity},
		{names[2], fieldsOf[servicePrincipalFields](r.report), (*object).servicePrincipal},
		{names[3], fieldsOf[azureCLIFields](r.report), (*object).azureCLI},
		{names[4], fieldsOf[environmentFields](r.report), (*object).environment},
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
		r.object(n, path, r.allFields(methods)).untyped()
		return vault.Identity{}
	}
	o := r.object(n, path, m.fields)
	id := m.read(o)
	o.doneWith(m, methods)
	return id
}

// allFields returns the fields of all types, which are put together once for each document.
func (r reader) allFields(methods []method) *fieldSet {
	t := reflect.TypeFor[identityChoice]()
	all := r.report.fields[t]
	if all == nil {
		all = new(fieldSet)
		for _, m := range methods {
			all = all.and(m.fields.names...)
		}
		slices.Sort(all.names)
		all.names = slices.Compact(all.names)
		r.report.fields[t] = all
	}
	return all
}

// untyped checks the values of an identity whose type cannot be told, so that they are not found wrong one by one.
func (o *object) untyped() {
	o.managedIdentity()
	o.tenant()
	o.authority()
	o.file("tokenFile", exampleTokenFile)
	o.principalFiles()
}

// meantMethod returns the type that people mean by a name, "" if that cannot be told.
func meantMethod(name string) string {
	switch strings.ToLower(name) {
	case "systemassigned", "userassigned", "msi": // the words of ARM
		return "managedIdentity"
	}
	return near(name, methodNames())
}

// method returns the type that an identity has, or that is meant. It is nil after what was reported if that cannot be told.
func (r reader) method(n *node, path string, methods []method) *method {
	names := methodNames()
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
	i := fold(name, names)
	switch {
	case i >= 0 && name == names[i]:
	case i >= 0:
		r.report.warnOnce("case type "+name, t.at(), o.join("type")+": "+quote(name)+" is taken for "+quote(names[i]), "write "+quote(names[i]))
	default:
		if i = slices.Index(names, meantMethod(name)); i >= 0 {
			known = "did you mean " + quote(names[i]) + "?"
		}
		r.fault(t.at(), o.join("type")+": "+quote(name)+" is not a known type", known)
	}
	if i < 0 {
		return nil
	}
	return &methods[i]
}

const exampleTokenFile = "/var/run/secrets/azure/tokens/azure-identity-token"

func (o *object) managedIdentity() vault.Identity {
	id := vault.Identity{
		ClientID:   o.hiddenText("clientId", isGUID, "a client id", "the client id"+guidHint),
		ObjectID:   o.hiddenText("objectId", isGUID, "an object id", "the object id"+guidHint),
		ResourceID: o.hiddenText("resourceId", isResourceID, "a resource id", resourceIDHint),
	}
	if n := o.get("endpoint"); n != nil {
		id.Endpoint = o.endpoint(n, o.join("endpoint"), false)
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
		TokenFile: o.file("tokenFile", exampleTokenFile),
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
	id := o.principalFiles()
	id.Method, id.TenantID, id.ClientID, id.Authority = vault.ServicePrincipal, o.tenant(), o.application(), o.authority()
	return id
}

// principalFiles are those of which a service principal has one or two.
func (o *object) principalFiles() vault.Identity {
	return vault.Identity{
		SecretFile:      o.file("clientSecretFile", "/etc/kvfs/client-secret"),
		CertificateFile: o.file("clientCertificateFile", "/etc/kvfs/client.pem"),
		PasswordFile:    o.file("certificatePasswordFile", "/etc/kvfs/client-password"),
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
	o.hidden(n, o.join(name), expected, unbraced(strings.TrimSpace(n.text), fits, hint))
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
	o.misnamed(m.strayName)
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

// strayName is the hint for an id that is called otherwise in authenticationSettings and elsewhere.
func (m *method) strayName(field *member) string {
	meant, _ := msiName(field.key)
	name := ownName(fieldFor(meant, field.value))
	if fold(field.key, m.fields.names) < 0 && slices.Contains(m.fields.names, name) && name != "" && !strings.EqualFold(field.key, name) {
		return "here it is called " + quote(name)
	}
	return ""
}
