package config

import (
	"reflect"
	"slices"
	"strings"
)

// This file declares every field of the settings once: the reader takes the names of each object from these types, and
// Schema takes the rest. A value that has more than one form has a type of its own below, for which Schema knows the forms.
// What a field means and what is wrong with a value is said where the field is read.

// settingsFields are the settings object.
type settingsFields struct {
	Main      mainFields           `json:"secretsManagementSettings" jsonschema:"The certificates to keep on this machine, and how."`
	Identity  authenticationFields `json:"authenticationSettings,omitempty" jsonschema:"The managed identity that asks the vaults. Left out: the system-assigned one."`
	Logging   loggingFields        `json:"loggingSettings,omitempty" jsonschema:"Where to send logs."`
	Protected ignored              `json:"protectedSettings,omitempty" jsonschema:"Without effect: all settings of the extension are public."`
	Own       ownFields            `json:"kvfs,omitempty" jsonschema:"Settings of kvfs itself. The original extension does not know them."`
}

// documentFields are a whole document: the settings object, or what it is wrapped in on its way to the machine.
type documentFields struct {
	settingsFields
	Settings        wrapped         `json:"settings,omitempty" jsonschema:"The settings, in a cut-out of a template."`
	Properties      propertyFields  `json:"properties,omitempty" jsonschema:"The properties of an ARM extension resource."`
	Public          wrapped         `json:"publicSettings,omitempty" jsonschema:"The settings, in a cut-out of what the guest agent writes."`
	HandlerSettings handlerFields   `json:"handlerSettings,omitempty" jsonschema:"What the guest agent writes for one extension."`
	RuntimeSettings runtimeSettings `json:"runtimeSettings,omitempty" jsonschema:"The guest agent's file; only the first element counts."`
}

// propertyFields are the properties of an ARM extension resource.
type propertyFields struct {
	Settings wrapped `json:"settings" jsonschema:"The settings."`
	Version  ignored `json:"typeHandlerVersion,omitempty" jsonschema:"The version of the extension: from 4 on the initial sync is required."`
}

// handlerFields are what the guest agent writes for one extension.
type handlerFields struct {
	Public    wrapped `json:"publicSettings" jsonschema:"The settings."`
	Protected ignored `json:"protectedSettings,omitempty" jsonschema:"Without effect: all settings of the extension are public."`
}

// runtimeFields are an element of runtimeSettings.
type runtimeFields struct {
	HandlerSettings handlerFields `json:"handlerSettings" jsonschema:"What the guest agent writes for one extension."`
}

// mainFields are secretsManagementSettings.
type mainFields struct {
	PollingInterval seconds         `json:"pollingIntervalInS,omitempty" jsonschema:"Seconds between two looks at the vault: 3600 if left out, at least 30."`
	Certificates    certificateList `json:"observedCertificates" jsonschema:"The certificates: URLs and objects, mixed."`
	Store           storeLocation   `json:"certificateStoreLocation,omitempty" jsonschema:"The directory of certificates that name none of their own."`
	StoreName       ignored         `json:"certificateStoreName,omitempty" jsonschema:"Windows only, without effect."`
	LinkOnRenewal   boolean         `json:"linkOnRenewal,omitempty" jsonschema:"Windows only, without effect: links always move."`
	InitialSync     boolean         `json:"requireInitialSync,omitempty" jsonschema:"Report success only when every certificate was there once."`
	InitialSyncTypo boolean         `json:"requiredInitialSync,omitempty" jsonschema:"A spelling of requireInitialSync from the page of version 1."`
	ACLEnabled      boolean         `json:"aclEnabled,omitempty" jsonschema:"Whether acls count: only false turns them off."`
}

// entryFields are an element of observedCertificates.
type entryFields struct {
	URL        secretURL            `json:"url" jsonschema:"https://VAULT.vault.azure.net/secrets/NAME"`
	Store      storeLocation        `json:"certificateStoreLocation,omitempty" jsonschema:"The directory of its files."`
	LinkName   linkName             `json:"customSymbolicLinkName,omitempty" jsonschema:"The name of an additional link to the combined file."`
	ACLs       grantList            `json:"acls,omitempty" jsonschema:"Who may read besides root."`
	Override   authenticationFields `json:"authenticationOverride,omitempty" jsonschema:"Another managed identity for this certificate."`
	Own        entryOwnFields       `json:"kvfs,omitempty" jsonschema:"Settings of kvfs itself for this certificate."`
	StoreName  ignored              `json:"certificateStoreName,omitempty" jsonschema:"Windows only, without effect."`
	Exportable ignored              `json:"keyExportable,omitempty" jsonschema:"Windows only, without effect."`
	Accounts   ignored              `json:"accounts,omitempty" jsonschema:"Windows only, without effect: see acls."`
}

// grantFields are an element of acls.
type grantFields struct {
	User  principal `json:"user,omitempty" jsonschema:"The name or the id of a user."`
	Group principal `json:"group,omitempty" jsonschema:"The name or the id of a group."`
}

// authenticationFields are authenticationSettings and authenticationOverride.
type authenticationFields struct {
	Endpoint   string        `json:"msiEndpoint,omitempty" jsonschema:"The identity endpoint: http://169.254.169.254/metadata/identity if left out, http://localhost:40342/metadata/identity on Azure Arc."`
	ClientID   msiClientID   `json:"msiClientId,omitempty" jsonschema:"The client id of a user-assigned managed identity."`
	ObjectID   msiObjectID   `json:"msiObjectId,omitempty" jsonschema:"The object id of a user-assigned managed identity."`
	ResourceID msiResourceID `json:"msiResourceId,omitempty" jsonschema:"The ARM resource id of a user-assigned managed identity."`
}

// loggingFields are loggingSettings.
type loggingFields struct {
	Logger      string `json:"logger,omitempty" jsonschema:"fluentd, or nothing."`
	Endpoint    string `json:"endpoint,omitempty" jsonschema:"tcp://host:port or unix:///path."`
	Format      string `json:"format,omitempty" jsonschema:"forward"`
	ServiceName string `json:"servicename,omitempty" jsonschema:"The tag of the records: akvvm_service if left out."`
}

// ownFields are the block kvfs.
type ownFields struct {
	viewFields
	guardFields
	actionField
	persistField
	Stores             storeBlocks     `json:"stores,omitempty" jsonschema:"Views and files of the certificates in a store, by its absolute path."`
	KeepVersions       keepVersions    `json:"keepVersions,omitempty" jsonschema:"How many versions of a certificate stay readable, the current one included: 2 if left out; \"all\" are those that the vault has, at most 1000."`
	OldVersions        mebibytes       `json:"oldVersionsInMiB,omitempty" jsonschema:"Memory for versions that are not current, in MiB: 32 if left out. What has no room is fetched again when somebody reads it."`
	RemovalGrace       graceSeconds    `json:"removalGraceInS,omitempty" jsonschema:"Seconds for which the names of an entry stay that was removed from a changed document: 3600 if left out."`
	Identity           identityChoice  `json:"identity,omitempty" jsonschema:"Who asks the vaults, in place of authenticationSettings."`
	Audit              auditChoice     `json:"audit,omitempty" jsonschema:"Whether each open of a file with a key is written down: false if left out. true writes to the log."`
	Transport          transportFields `json:"transport,omitempty" jsonschema:"Another way to the vaults: private links, proxies, tests."`
	Metrics            metricsChoice   `json:"metrics,omitempty" jsonschema:"Where metrics and probes are answered over HTTP: a loopback address with its port, or the absolute path of a Unix socket. Nowhere if left out."`
	Log                logFields       `json:"log,omitempty" jsonschema:"What is logged, in which form, and to which file."`
	Alerts             alertFields     `json:"alerts,omitempty" jsonschema:"What is warned of in the log and in kvfs status."`
	VaultDNSSuffixes   suffixList      `json:"vaultDnsSuffixes,omitempty" jsonschema:"Domains of vaults besides those of the public clouds."`
	MinPollingInterval floorSeconds    `json:"minPollingIntervalInS,omitempty" jsonschema:"Lowers the floor of pollingIntervalInS, for tests."`
}

// viewFields say how certificates are shown. What stands nearer to a certificate counts: its entry, its store, all.
type viewFields struct {
	Layouts      layoutList   `json:"layouts,omitempty" jsonschema:"The families of names to show: v3 and v4 if left out everywhere."`
	KeyFormat    keyFormat    `json:"keyFormat,omitempty" jsonschema:"Of private keys in PEM files: pkcs8 if left out everywhere; traditional is PKCS#1 for RSA and SEC1 for EC."`
	PasswordFile absolutePath `json:"passwordFile,omitempty" jsonschema:"The file of the password of pfx, jks and truststore. The files of x509store never have one."`
}

// guardFields say what is done about certificates that are not as they should be. An entry counts before all.
type guardFields struct {
	OnNotYetValid   onNotYetValid `json:"onNotYetValid,omitempty" jsonschema:"A new version before its time: hold, which waits with the links, or link. hold if left out everywhere."`
	OnDisabled      onDisabled    `json:"onDisabled,omitempty" jsonschema:"A certificate that was disabled in the vault: keep, or hide, for those who disable in order to revoke. keep if left out everywhere."`
	OnExpired       onExpired     `json:"onExpired,omitempty" jsonschema:"A certificate whose time is over: serve or hide. serve if left out everywhere."`
	OnChangedNames  onChanged     `json:"onChangedNames,omitempty" jsonschema:"A new version for other names: accept, or hold, which keeps the links where they are. accept if left out everywhere."`
	OnChangedIssuer onChanged     `json:"onChangedIssuer,omitempty" jsonschema:"A new version from another issuer: accept, or hold, which keeps the links where they are. accept if left out everywhere."`
	VerifyChain     verifyChain   `json:"verifyChain,omitempty" jsonschema:"Whether the chain is checked before a version is published: off if left out everywhere; failOpen publishes when the check itself fails, failClosed does not."`
	FetchIssuers    boolean       `json:"fetchIssuers,omitempty" jsonschema:"Whether missing intermediates are fetched from where the certificate says: false if left out everywhere."`
}

// storeFields are an element of kvfs.stores.
type storeFields struct {
	viewFields
	persistField
}

// actionField says what is done after renewals. An entry counts before all.
type actionField struct {
	OnChange actionList `json:"onChange,omitempty" jsonschema:"What to do when a certificate has been renewed and its links have moved: nothing if left out everywhere."`
}

// actionFields are an element of onChange.
type actionFields struct {
	Reload          unitName     `json:"reload,omitempty" jsonschema:"A unit of systemd to reload."`
	ReloadOrRestart unitName     `json:"reloadOrRestart,omitempty" jsonschema:"A unit of systemd to reload, or to restart if it cannot be reloaded."`
	Restart         unitName     `json:"restart,omitempty" jsonschema:"A unit of systemd to restart."`
	Command         argv         `json:"command,omitempty" jsonschema:"A program by its absolute path, and its arguments. No shell sees them."`
	Signal          signalName   `json:"signal,omitempty" jsonschema:"A signal for the process of unit or pidFile."`
	HAProxy         absolutePath `json:"haproxy,omitempty" jsonschema:"The stats socket of haproxy, of level admin, to which the certificate is handed."`
	Unit            unitName     `json:"unit,omitempty" jsonschema:"Whose main process gets the signal."`
	PIDFile         absolutePath `json:"pidFile,omitempty" jsonschema:"The file with the number of the process that gets the signal."`
	Name            string       `json:"name,omitempty" jsonschema:"The name of the certificate in haproxy: any of its links that haproxy has loaded if left out."`
	User            principal    `json:"user,omitempty" jsonschema:"Who runs command and check: the user of kvfs if left out."`
	Check           argv         `json:"check,omitempty" jsonschema:"A command that has to succeed first, such as nginx -t."`
	Timeout         timeoutS     `json:"timeoutInS,omitempty" jsonschema:"Seconds that it may take: 30 if left out."`
	Splay           splayS       `json:"splayInS,omitempty" jsonschema:"Seconds over which machines spread it, each at a moment of its own."`
	Window          window       `json:"window,omitempty" jsonschema:"The time of the day at which it may be done, such as 02:00-04:30 or Sat,Sun 02:00-04:30. It does not count when the old certificate would expire before."`
}

// persistField says whether what is shown is on a file system too. A store counts before all.
type persistField struct {
	Persistent persistChoice `json:"persistent,omitempty" jsonschema:"Real files: no, beneath the mount, or instead of it. no if left out everywhere, but for system directories, where it is instead."`
}

// persistentFields are the long form of persistent.
type persistentFields struct {
	Files     persistence `json:"files,omitempty" jsonschema:"no, beneath or instead."`
	TmpfsOnly boolean     `json:"tmpfsOnly,omitempty" jsonschema:"Refuse a file system that is not in memory: false if left out everywhere."`
	Purge     boolean     `json:"purge,omitempty" jsonschema:"Whether files of versions that are not shown any more are removed: true if left out everywhere."`
}

// auditFields are the long form of audit.
type auditFields struct {
	File     absolutePath `json:"file,omitempty" jsonschema:"The file that lines are appended to: the log if left out."`
	AllFiles boolean      `json:"allFiles,omitempty" jsonschema:"Whether opens of files without a key are written down too: false if left out."`
}

// entryOwnFields are the block kvfs of an entry.
type entryOwnFields struct {
	viewFields
	guardFields
	actionField
	Identity identityChoice `json:"identity,omitempty" jsonschema:"Who asks the vault for this certificate."`
}

// logFields are kvfs.log.
type logFields struct {
	Level  logLevel   `json:"level,omitempty" jsonschema:"What is logged: info if left out here and on the command line."`
	Format logFormat  `json:"format,omitempty" jsonschema:"Of standard error and of the file: auto is fields for the journal where standard error is the journal, and text otherwise."`
	File   logFile    `json:"file,omitempty" jsonschema:"A log file besides: its absolute path, or true for one where the extension has its logs."`
	Size   fileSize   `json:"fileSizeInMiB,omitempty" jsonschema:"The size at which the file is rotated: 10 if left out."`
	Files  fileNumber `json:"files,omitempty" jsonschema:"How many files there are at most: 5 if left out."`
}

// alertFields are kvfs.alerts.
type alertFields struct {
	Expiry     thresholdList `json:"expiryInDays,omitempty" jsonschema:"So many days before a certificate expires it is warned of, once for each: 30, 14, 7 and 1 if left out."`
	StaleAfter pollNumber    `json:"staleAfterPolls,omitempty" jsonschema:"After so many polling intervals without anything read of a certificate it is warned of: 3 if left out; 0 is never."`
	OnAlert    alertList     `json:"onAlert,omitempty" jsonschema:"Commands that are told of each warning: none if left out."`
}

// alertActionFields are an element of onAlert: those of actionFields that mean something there.
type alertActionFields struct {
	Command argv      `json:"command" jsonschema:"A program by its absolute path, and its arguments. No shell sees them."`
	User    principal `json:"user,omitempty" jsonschema:"Who runs it: the user of kvfs if left out."`
	Name    string    `json:"name,omitempty" jsonschema:"What it is called in the log, the status and metrics: its words if left out."`
	Timeout timeoutS  `json:"timeoutInS,omitempty" jsonschema:"Seconds that it may take: 30 if left out."`
}

// transportFields are kvfs.transport.
type transportFields struct {
	CAFile  absolutePath `json:"caFile,omitempty" jsonschema:"A PEM file of more certificate authorities to trust."`
	Connect connections  `json:"connect,omitempty" jsonschema:"HOST:PORT of a vault, where *. stands for any one label, and the HOST:PORT to connect to."`
}

// metricsFields are the long form of kvfs.metrics.
type metricsFields struct {
	Listen metricsAddress `json:"listen" jsonschema:"A loopback address with its port, or the absolute path of a Unix socket."`
	Mode   fileMode       `json:"mode,omitempty" jsonschema:"Of the Unix socket, in octal: 0600 if left out, 0660 with a group."`
	Group  principal      `json:"group,omitempty" jsonschema:"The group of the Unix socket, by its name or id."`
	Remote boolean        `json:"remote,omitempty" jsonschema:"Whether an address may be one that other machines can reach: false if left out. Nobody is asked who he is."`
}

// Of the identities each type has an object of its own. The type itself is declared in methodFields.

type methodFields struct {
	Type string `json:"type" jsonschema:"How the identity proves who it is."`
}

type managedIdentityFields struct {
	methodFields
	ClientID   guid   `json:"clientId,omitempty" jsonschema:"The client id of a user-assigned identity. Without any id: the system-assigned identity."`
	ObjectID   guid   `json:"objectId,omitempty" jsonschema:"The object (principal) id of a user-assigned identity."`
	ResourceID armID  `json:"resourceId,omitempty" jsonschema:"The ARM resource id of a user-assigned identity."`
	Endpoint   string `json:"endpoint,omitempty" jsonschema:"The identity endpoint, as msiEndpoint."`
}

type workloadIdentityFields struct {
	methodFields
	TenantID  tenant       `json:"tenantId,omitempty" jsonschema:"The directory, a GUID or a domain. Left out: AZURE_TENANT_ID."`
	ClientID  guid         `json:"clientId,omitempty" jsonschema:"The client id of the application. Left out: AZURE_CLIENT_ID."`
	TokenFile absolutePath `json:"tokenFile,omitempty" jsonschema:"The file of the token to show. Left out: AZURE_FEDERATED_TOKEN_FILE."`
	Authority authority    `json:"authority,omitempty" jsonschema:"The login server. Left out: AZURE_AUTHORITY_HOST, or that of the vault's cloud."`
}

type servicePrincipalFields struct {
	methodFields
	TenantID        tenant       `json:"tenantId" jsonschema:"The directory, a GUID or a domain."`
	ClientID        guid         `json:"clientId" jsonschema:"The client id of the application."`
	SecretFile      absolutePath `json:"clientSecretFile,omitempty" jsonschema:"The file of the secret. It is read again for each request."`
	CertificateFile absolutePath `json:"clientCertificateFile,omitempty" jsonschema:"The file of the certificate with its key, PEM or PFX. It is read again for each request."`
	PasswordFile    absolutePath `json:"certificatePasswordFile,omitempty" jsonschema:"The file of the password of clientCertificateFile."`
	Authority       authority    `json:"authority,omitempty" jsonschema:"The login server. Left out: that of the vault's cloud."`
}

type azureCLIFields struct {
	methodFields
	TenantID tenant `json:"tenantId,omitempty" jsonschema:"The directory in which the person has signed in."`
}

type environmentFields struct{ methodFields }

// Values of more than one form, and those of one form that a Go type does not tell.
type (
	ignored         struct{} // anything
	wrapped         struct{} // the settings object, or a string that holds it
	runtimeSettings struct{} // a list of runtimeFields, or one
	seconds         struct{} // 3600 or "3600"
	graceSeconds    struct{} // the same, 0 too
	floorSeconds    struct{} // the same, at most 30
	boolean         struct{} // true or "true"
	certificateList struct{} // a list of URLs and entryFields, or one of them
	secretURL       struct{}
	storeLocation   struct{} // an absolute path, or a store of Windows
	linkName        struct{}
	grantList       struct{} // a list of grantFields, or one
	principal       struct{} // a name or an id
	msiClientID     struct{} // a GUID, "", or a resource id
	msiObjectID     struct{} // a GUID or ""
	msiResourceID   struct{} // of ARM, or ""
	layoutList      struct{} // of layout
	storeBlocks     struct{} // storeFields by path
	persistChoice   struct{} // a persistence, or persistentFields
	auditChoice     struct{} // true, false, or auditFields
	keepVersions    struct{} // a number, or "all"
	mebibytes       struct{}
	metricsChoice   struct{} // a metricsAddress, or metricsFields
	metricsAddress  struct{} // HOST:PORT or an absolute path
	fileMode        struct{} // "0660"
	logFile         struct{} // a boolean, or an absolute path
	fileSize        struct{}
	fileNumber      struct{}
	thresholdList   struct{} // of days
	pollNumber      struct{}
	suffixList      struct{}
	connections     struct{}
	identityChoice  struct{} // one of the identities
	guid            struct{}
	armID           struct{}
	tenant          struct{} // a GUID or a domain
	authority       struct{} // an https URL
	absolutePath    struct{}
	actionList      struct{} // of actionFields
	alertList       struct{} // of alertActionFields
	unitName        struct{}
	argv            struct{} // a list of strings, the first an absolute path
	timeoutS        struct{} // seconds
	splayS          struct{} // seconds, 0 too
	window          struct{} // HH:MM-HH:MM, perhaps after days
)

// word is a value that is one of a few strings. The first of them is the default, and of layouts the first two are.
type word interface{ words() []string }

type (
	layout        struct{}
	keyFormat     struct{}
	onNotYetValid struct{}
	onDisabled    struct{}
	onExpired     struct{}
	onChanged     struct{}
	verifyChain   struct{}
	persistence   struct{}
	logLevel      struct{}
	logFormat     struct{}
	signalName    struct{}
)

func (layout) words() []string {
	return []string{"v3", "v4", "live", "certs", "pfx", "jks", "truststore", "x509store"}
}
func (keyFormat) words() []string     { return []string{"pkcs8", "traditional"} }
func (onNotYetValid) words() []string { return []string{"hold", "link"} }
func (onDisabled) words() []string    { return []string{"keep", "hide"} }
func (onExpired) words() []string     { return []string{"serve", "hide"} }
func (onChanged) words() []string     { return []string{"accept", "hold"} }
func (verifyChain) words() []string   { return []string{"off", "failOpen", "failClosed"} }
func (logLevel) words() []string      { return []string{"info", "debug", "warn", "error"} }
func (logFormat) words() []string     { return []string{"auto", "text", "json"} }
func (persistence) words() []string   { return []string{"no", "beneath", "instead"} }
func (signalName) words() []string {
	return []string{"HUP", "USR1", "USR2", "WINCH", "INT", "QUIT", "TERM"}
}

// wordsOf returns the strings that T may be.
func wordsOf[T word]() []string {
	var w T
	return w.words()
}

// fieldSet is what the reader takes from one of the types above.
type fieldSet struct {
	names   []string // in the order of declaration
	ignored []string // those that are accepted in any form and have no effect
}

// fieldsOf returns the fields of T. They are looked up once for each document, which may hold tens of thousands of objects.
func fieldsOf[T any](r *report) *fieldSet {
	t := reflect.TypeFor[T]()
	known := r.fields[t]
	if known == nil {
		known = readFields(t)
		r.fields[t] = known
	}
	return known
}

func readFields(t reflect.Type) *fieldSet {
	known := new(fieldSet)
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		known.names = append(known.names, name)
		if f.Type == reflect.TypeFor[ignored]() {
			known.ignored = append(known.ignored, name)
		}
	}
	return known
}

// and returns the fields with others that are known in the same place.
func (f *fieldSet) and(names ...string) *fieldSet {
	return &fieldSet{names: append(slices.Clone(f.names), names...), ignored: f.ignored}
}
