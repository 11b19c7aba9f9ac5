package config

import (
	"reflect"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
)

const (
	guidPattern   = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
	domainPattern = `[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)+`
	clockPattern  = `([01][0-9]|2[0-3]):[0-5][0-9]`
	dayPattern    = `(Sun|Mon|Tue|Wed|Thu|Fri|Sat)(-(Sun|Mon|Tue|Wed|Thu|Fri|Sat))?`
	armPattern    = "/[sS][uU][bB][sS][cC][rR][iI][pP][tT][iI][oO][nN][sS]/.+"
)

// forms2020 says in JSON Schema what the types of fields.go stand for that are no plain Go types.
func forms2020() map[reflect.Type]*jsonschema.Schema {
	return map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[ignored]():         {},
		reflect.TypeFor[wrapped]():         anyOf(reference("settings"), holdsJSON()),
		reflect.TypeFor[runtimeSettings](): anyOf(&jsonschema.Schema{Type: "array", MinItems: jsonschema.Ptr(1), PrefixItems: []*jsonschema.Schema{reference("runtimeSettings")}}, reference("runtimeSettings")),

		reflect.TypeFor[seconds]():      anyOf(whole(1, 0), text(`^0*[1-9][0-9]*$`)),
		reflect.TypeFor[graceSeconds](): anyOf(whole(0, int(MaxRemovalGrace/time.Second)), text(`^[0-9]+$`)),
		reflect.TypeFor[floorSeconds](): anyOf(whole(1, int(MinPollingInterval/time.Second)), text(`^0*([1-9]|[12][0-9]|30)$`)),
		reflect.TypeFor[boolean]():      anyOf(&jsonschema.Schema{Type: "boolean"}, &jsonschema.Schema{Enum: []any{"true", "false"}}),
		reflect.TypeFor[keepVersions](): anyOf(whole(1, maxKeepVersions), &jsonschema.Schema{Enum: []any{wordAll}}),
		reflect.TypeFor[mebibytes]():    whole(0, maxOldVersions),

		reflect.TypeFor[keyFormat]():     oneWord[keyFormat](),
		reflect.TypeFor[onNotYetValid](): oneWord[onNotYetValid](),
		reflect.TypeFor[onDisabled]():    oneWord[onDisabled](),
		reflect.TypeFor[onExpired]():     oneWord[onExpired](),
		reflect.TypeFor[onChanged]():     oneWord[onChanged](),
		reflect.TypeFor[verifyChain]():   oneWord[verifyChain](),
		reflect.TypeFor[persistence]():   oneWord[persistence](),
		reflect.TypeFor[logLevel]():      oneWord[logLevel](),
		reflect.TypeFor[logFormat]():     oneWord[logFormat](),
		reflect.TypeFor[logFile]():       anyOf(&jsonschema.Schema{Type: "boolean"}, text(`^/[^\x00-\x1f\x7f]*[^/\x00-\x1f\x7f]$`)),
		reflect.TypeFor[fileSize]():      whole(1, maxLogFileSize),
		reflect.TypeFor[fileNumber]():    whole(1, maxLogFiles),
		reflect.TypeFor[thresholdList](): {Type: "array", MaxItems: jsonschema.Ptr(maxThresholds), Items: nullable(whole(1, maxThreshold))},
		reflect.TypeFor[pollNumber]():    whole(0, maxStaleAfter),
		reflect.TypeFor[persistChoice](): anyOf(oneWord[persistence](), reference("persistent")),
		reflect.TypeFor[auditChoice]():   anyOf(&jsonschema.Schema{Type: "boolean"}, &jsonschema.Schema{Enum: []any{"true", "false"}}, reference("audit")),

		reflect.TypeFor[signalName](): oneWord[signalName](),

		reflect.TypeFor[alertList]():  {Type: "array", MaxItems: jsonschema.Ptr(maxActions), Items: nullable(reference("alertAction"))},
		reflect.TypeFor[actionList](): {Type: "array", MaxItems: jsonschema.Ptr(maxActions), Items: nullable(reference("action"))},
		reflect.TypeFor[unitName]():   {Type: "string", Pattern: `^[A-Za-z0-9:_.@\\-]+$`, MaxLength: jsonschema.Ptr(maxName)},
		reflect.TypeFor[argv](): {Type: "array", MinItems: jsonschema.Ptr(1), MaxItems: jsonschema.Ptr(maxArgs),
			PrefixItems: []*jsonschema.Schema{text(`^/`)}, Items: &jsonschema.Schema{Type: "string"}},
		reflect.TypeFor[timeoutS](): anyOf(whole(1, maxTimeoutS), text(`^0*[1-9][0-9]*$`)),
		reflect.TypeFor[splayS]():   anyOf(whole(0, maxSplayS), text(`^[0-9]+$`)),
		reflect.TypeFor[window]():   text(`^(` + dayPattern + `(,` + dayPattern + `)* )?` + clockPattern + `-` + clockPattern + `$`),

		reflect.TypeFor[certificateList](): listOrOne(0, secretURLForm(), reference("certificate")),
		reflect.TypeFor[secretURL]():       secretURLForm(),
		reflect.TypeFor[storeLocation]():   text(`^(/|(LocalMachine|CurrentUser|MY)$)`),
		reflect.TypeFor[linkName]():        linkForm(),
		reflect.TypeFor[grantList]():       listOrOne(maxGrants, reference("grant")),
		reflect.TypeFor[principal]():       anyOf(&jsonschema.Schema{Type: "string"}, whole(0, 1<<32-2)),

		reflect.TypeFor[msiClientID]():   text(`^\s*(` + guidPattern + `|` + armPattern + `)?\s*$`),
		reflect.TypeFor[msiObjectID]():   text(`^\s*(` + guidPattern + `)?\s*$`),
		reflect.TypeFor[msiResourceID](): text(`^\s*(` + armPattern + `)?\s*$`),

		reflect.TypeFor[layoutList]():     {Type: "array", MinItems: jsonschema.Ptr(1), Items: nullable(oneWord[layout]()), Contains: &jsonschema.Schema{Type: "string"}},
		reflect.TypeFor[storeBlocks]():    {Type: "object", PropertyNames: text(`^/`), AdditionalProperties: nullable(reference("storeKvfs"))},
		reflect.TypeFor[metricsChoice]():  anyOf(metricsAddressForm(), reference("metrics")),
		reflect.TypeFor[metricsAddress](): metricsAddressForm(),
		reflect.TypeFor[fileMode]():       text(`^0[0-7]{3}$`),

		reflect.TypeFor[suffixList]():  {Type: "array", MaxItems: jsonschema.Ptr(maxSuffixes), Items: anyOf(text(`^\.?[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*(:[0-9]+)?$`), &jsonschema.Schema{Type: "null"})},
		reflect.TypeFor[connections](): {Type: "object", PropertyNames: text(`:[0-9]+$`), AdditionalProperties: nullable(text(`:[0-9]+$`))},

		reflect.TypeFor[identityChoice](): {AnyOf: []*jsonschema.Schema{
			reference("managedIdentity"), reference("workloadIdentity"), reference("servicePrincipal"), reference("azureCli"), reference("environment")}},
		reflect.TypeFor[guid]():         text(`^\s*` + guidPattern + `\s*$`),
		reflect.TypeFor[armID]():        text(`^\s*` + armPattern + `$`),
		reflect.TypeFor[tenant]():       text(`^\s*(` + guidPattern + `|` + domainPattern + `)\s*$`),
		reflect.TypeFor[authority]():    text(`^\s*[hH][tT][tT][pP][sS]://[0-9A-Za-z._-]+(:[0-9]+)?/?\s*$`),
		reflect.TypeFor[absolutePath](): text(`^\s*/`),
	}
}

// metricsAddressForm admits every address: which of them are loopback ones is for Parse.
func metricsAddressForm() *jsonschema.Schema { return text(`^(/.+|.+:[0-9]+)$`) }

func anyOf(forms ...*jsonschema.Schema) *jsonschema.Schema { return &jsonschema.Schema{AnyOf: forms} }

func text(pattern string) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: pattern}
}

// whole is a whole number, without an upper bound when most is 0.
func whole(least, most int) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "integer", Minimum: jsonschema.Ptr(float64(least))}
	if most > 0 {
		s.Maximum = jsonschema.Ptr(float64(most))
	}
	return s
}

// oneWord is one of the strings of a word.
func oneWord[T word]() *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	for _, w := range wordsOf[T]() {
		s.Enum = append(s.Enum, w)
	}
	return s
}

// listOrOne is a list of at most so many elements, or one of them without the brackets.
func listOrOne(most int, forms ...*jsonschema.Schema) *jsonschema.Schema {
	list := &jsonschema.Schema{Type: "array", Items: anyOf(append(forms, &jsonschema.Schema{Type: "null"})...)}
	if most > 0 {
		list.MaxItems = &most
	}
	return anyOf(append([]*jsonschema.Schema{list}, forms...)...)
}

// secretURLForm admits https only: hosts may be anybody's, by kvfs.vaultDnsSuffixes.
func secretURLForm() *jsonschema.Schema {
	s := text(`^\s*[hH][tT][tT][pP][sS]://[^/@]+/+[^/]+/`)
	s.Examples = []any{"https://VAULT.vault.azure.net/secrets/NAME"}
	return s
}

func linkForm() *jsonschema.Schema {
	s := text(`^[^/\x00-\x1f\x7f]+$`)
	s.MaxLength = jsonschema.Ptr(maxName)
	s.Not = &jsonschema.Schema{Enum: []any{".", ".."}}
	return s
}

func holdsJSON() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", ContentMediaType: "application/json"}
}
