package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
)

// Schema returns the JSON Schema (draft 2020-12) of settings documents, for editors and pipelines: indented, with a final
// newline, the same bytes each time.
//
// It accepts every document that Parse accepts without a warning about its form, in the wrappers that hold an object, and refuses
// wrong types, values out of bounds and unknown fields of the block kvfs. What needs more than one value at a time, such as
// two certificates with one name, is for Parse.
func Schema() ([]byte, error) {
	s := schemas{types: forms2020()}
	root, err := s.document()
	if err != nil {
		return nil, fmt.Errorf("making the schema of the settings: %w", err)
	}
	text, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("writing the schema of the settings: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, fmt.Errorf("writing the schema of the settings: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// schemas makes schemas of the types that declare the fields.
type schemas struct {
	types map[reflect.Type]*jsonschema.Schema // of fields: values of several forms, and references to definitions
}

// definition is an object that has a schema of its own in $defs.
type definition struct {
	name, title string
	fields      reflect.Type
	closed      bool // unknown fields are errors: it is ours
}

func definitions() []definition {
	return []definition{
		{"settings", "Settings", reflect.TypeFor[settingsFields](), false},
		{"secretsManagementSettings", "Certificates to keep", reflect.TypeFor[mainFields](), false},
		{"certificate", "Certificate", reflect.TypeFor[entryFields](), false},
		{"grant", "Grant", reflect.TypeFor[grantFields](), false},
		{"authenticationSettings", "Managed identity", reflect.TypeFor[authenticationFields](), false},
		{"loggingSettings", "Logs", reflect.TypeFor[loggingFields](), false},
		{"properties", "Properties of an extension resource", reflect.TypeFor[propertyFields](), false},
		{"handlerSettings", "Settings as the guest agent writes them", reflect.TypeFor[handlerFields](), false},
		{"runtimeSettings", "Element of the guest agent's file", reflect.TypeFor[runtimeFields](), false},
		{"kvfs", "Settings of kvfs", reflect.TypeFor[ownFields](), true},
		{"action", "Something to do after a renewal", reflect.TypeFor[actionFields](), true},
		{"persistent", "Real files", reflect.TypeFor[persistentFields](), true},
		{"audit", "Who opened which key", reflect.TypeFor[auditFields](), true},
		{"storeKvfs", "Settings of kvfs for the certificates of a store", reflect.TypeFor[storeFields](), true},
		{"certificateKvfs", "Settings of kvfs for a certificate", reflect.TypeFor[entryOwnFields](), true},
		{"metrics", "Metrics and probes", reflect.TypeFor[metricsFields](), true},
		{"log", "What is logged", reflect.TypeFor[logFields](), true},
		{"alerts", "What is warned of", reflect.TypeFor[alertFields](), true},
		{"alertAction", "Command that is told of warnings", reflect.TypeFor[alertActionFields](), true},
		{"transport", "Another way to the vaults", reflect.TypeFor[transportFields](), true},
		{"managedIdentity", "Managed identity", reflect.TypeFor[managedIdentityFields](), true},
		{"workloadIdentity", "Workload identity", reflect.TypeFor[workloadIdentityFields](), true},
		{"servicePrincipal", "Service principal", reflect.TypeFor[servicePrincipalFields](), true},
		{"azureCli", "Person who has signed in with the Azure CLI", reflect.TypeFor[azureCLIFields](), true},
		{"environment", "Service principal of the process's environment", reflect.TypeFor[environmentFields](), true},
	}
}

// document makes the schema of a whole document.
func (s schemas) document() (*jsonschema.Schema, error) {
	for _, d := range definitions() {
		s.types[d.fields] = reference(d.name)
	}
	defs := make(map[string]*jsonschema.Schema)
	for _, d := range definitions() {
		def, err := s.object(d)
		if err != nil {
			return nil, err
		}
		defs[d.name] = def
	}
	refine(defs)
	root, err := s.object(definition{"", "Settings of the Azure Key Vault VM extension for Linux and of kvfs", reflect.TypeFor[documentFields](), false})
	if err != nil {
		return nil, err
	}
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Description = "The settings object, or the object it is wrapped in on its way to the machine."
	root.Required, root.AnyOf = nil, ways()
	root.Defs = defs
	return root, nil
}

// object makes the schema of one definition. Null counts as absent, for fields and for elements.
func (s schemas) object(d definition) (*jsonschema.Schema, error) {
	types := s.types
	if ref := types[d.fields]; ref != nil { // here, what the reference leads to is wanted
		delete(types, d.fields)
		defer func() { types[d.fields] = ref }()
	}
	if d.fields == reflect.TypeFor[documentFields]() {
		delete(types, reflect.TypeFor[settingsFields]())
	}
	object, err := jsonschema.ForType(d.fields, &jsonschema.ForOptions{TypeSchemas: types})
	if err != nil {
		return nil, err
	}
	object.Title = d.title
	if !d.closed {
		object.AdditionalProperties = nil
	}
	for name, field := range object.Properties {
		if !slices.Contains(object.Required, name) {
			object.Properties[name] = nullable(field)
		}
	}
	return object, nil
}

// ways are the wrappers of the settings: a document has one of them.
func ways() (ways []*jsonschema.Schema) {
	for _, name := range []string{keySettings, "settings", "properties", "publicSettings", "handlerSettings", "runtimeSettings"} {
		ways = append(ways, present(name))
	}
	return ways
}

// present asks for a field that is not null.
func present(name string) *jsonschema.Schema {
	return &jsonschema.Schema{
		Required:   []string{name},
		Properties: map[string]*jsonschema.Schema{name: {Not: &jsonschema.Schema{Type: "null"}}},
	}
}

// nullable also admits null.
func nullable(s *jsonschema.Schema) *jsonschema.Schema {
	switch {
	case s.Type == "" && s.Ref == "" && s.AnyOf == nil: // anything
		return s
	case s.Type != "" && s.Enum == nil:
		s.Types, s.Type = []string{s.Type, "null"}, ""
		return s
	case s.AnyOf != nil:
		s.AnyOf = append(s.AnyOf, &jsonschema.Schema{Type: "null"})
		return s
	}
	description := s.Description
	s.Description = ""
	return &jsonschema.Schema{Description: description, AnyOf: []*jsonschema.Schema{s, {Type: "null"}}}
}

func reference(name string) *jsonschema.Schema { return &jsonschema.Schema{Ref: "#/$defs/" + name} }

// refine adds what concerns several fields of an object.
func refine(defs map[string]*jsonschema.Schema) {
	for _, m := range (reader{newReport(nil), Error}).methods() {
		constant := any(m.name)
		defs[m.name].Properties["type"] = &jsonschema.Schema{Description: defs[m.name].Properties["type"].Description, Const: &constant}
	}
	named := func(name string) *jsonschema.Schema {
		return &jsonschema.Schema{
			Required:   []string{name},
			Properties: map[string]*jsonschema.Schema{name: {Not: &jsonschema.Schema{Enum: []any{nil, ""}}}},
		}
	}
	defs["grant"].AnyOf = []*jsonschema.Schema{named("user"), named("group")}
	principal := defs["servicePrincipal"]
	principal.OneOf = []*jsonschema.Schema{present("clientSecretFile"), present("clientCertificateFile")}
	principal.If, principal.Then = present("certificatePasswordFile"), present("clientCertificateFile")
	action := defs["action"]
	for _, kind := range actionKinds() {
		action.OneOf = append(action.OneOf, present(kind))
	}
	for _, name := range slices.Sorted(maps.Keys(belongings())) {
		var beside []*jsonschema.Schema
		for _, w := range belongings()[name] {
			beside = append(beside, present(w))
		}
		// Without it, or beside one of those.
		action.AllOf = append(action.AllOf, &jsonschema.Schema{AnyOf: append(beside, &jsonschema.Schema{Not: present(name)})})
	}
	action.If, action.Then = present("signal"), &jsonschema.Schema{OneOf: []*jsonschema.Schema{present("unit"), present("pidFile")}}
	one := func(a, b string) *jsonschema.Schema {
		return &jsonschema.Schema{Not: &jsonschema.Schema{AllOf: []*jsonschema.Schema{present(a), present(b)}}}
	}
	defs["managedIdentity"].AllOf = []*jsonschema.Schema{one("clientId", "objectId"), one("clientId", "resourceId"), one("objectId", "resourceId")}
}
