package config

import (
	"fmt"
	"strings"
	"time"

	"kvfs/acl"
	"kvfs/vault"
)

// DefaultStore is where certificates go whose entry names no store: the extension's own place.
const DefaultStore = "/var/lib/waagent/Microsoft.Azure.KeyVault.Store"

const (
	// DefaultPollingInterval is the extension's.
	DefaultPollingInterval = time.Hour
	// MinPollingInterval is the least interval unless kvfs.minPollingIntervalInS lowers it.
	MinPollingInterval = 30 * time.Second
	// DefaultKeepVersions is how many versions of a certificate the extension keeps.
	DefaultKeepVersions = 2
	// AllVersions is KeepVersions where all are to be readable that the vault has.
	AllVersions = -1
	// DefaultOldVersionsInMiB has room for thousands of old versions.
	DefaultOldVersionsInMiB = 32
	// DefaultRemovalGrace forgives a deployment that was broken for an hour.
	DefaultRemovalGrace = time.Hour
	// MaxRemovalGrace is the most that kvfs.removalGraceInS may say.
	MaxRemovalGrace = 7 * 24 * time.Hour
)

// Config is a settings document that was accepted. It is not changed after Parse.
type Config struct {
	PollingInterval time.Duration
	// RequireInitialSync asks to report success only when every certificate was there once.
	RequireInitialSync bool
	// Certificates in the order of the document. Empty is allowed: nothing is served.
	Certificates []Certificate
	// Identity is who asks the vaults unless a certificate says otherwise (kvfs.identity, otherwise authenticationSettings).
	// Zero: the settings say nothing.
	Identity vault.Identity
	Logging  Logging
	// KeepVersions is how many versions of a certificate stay readable, the current one included: 1 to 1000, or AllVersions.
	KeepVersions int
	// OldVersionsInMiB bounds the memory for versions that are not current: 0, which keeps none there, to 4096.
	OldVersionsInMiB int
	// RemovalGrace is how long the names of an entry stay that was removed from a changed document: 0 to a week.
	RemovalGrace time.Duration
	Transport    Transport
	Metrics      Metrics
	Log          Log
	Alerts       Alerts
	Audit        Audit
	// Ignored are the fields that have no effect on Linux, in the order of their positions. They are no problems: the vendor's own
	// samples carry them. Log them at debug level.
	Ignored []Note
}

// Note names a field and says where its key stands: line and column from 1, 0 for what is in no file.
type Note struct {
	Field        string // such as observedCertificates[0].keyExportable
	Line, Column int
}

// Certificate is one entry of observedCertificates.
type Certificate struct {
	Ref vault.Ref
	// Store is the directory of its files: absolute and clean, never "/" or below /proc, /sys and /dev.
	Store string
	// LinkName is an additional link to the combined file, one path component; "" for none. A certificate with two such links
	// in one store is two Certificates of the same Ref and Store, with equal Grants, Views, Guards and OnChange and the same Identity.
	LinkName string
	// Linked certificates own the default links (<Vault>.<Cert> and those of other layouts). Of a certificate's pinned and
	// unpinned entries in one store one does: the unpinned one, or the first.
	Linked bool
	// Grants say who besides the owner may read; no entry occurs twice.
	Grants []acl.Grant
	Views  Views
	Guards Guards
	// OnChange is what is to be done when its version has changed; nil for nothing.
	OnChange []Action
	// Persistent is about the store, not about the certificate alone.
	Persistent Persistent
	// Identity is who asks for this certificate: its own, or that of the Config.
	Identity vault.Identity
	// Line and Column tell where the entry stands, 0 when it is in no file.
	Line, Column int
}

// Logging is where to send logs (loggingSettings). The zero Logging sends none.
type Logging struct {
	Logger string // "fluentd", or "" for none
	// Endpoint is tcp://host:port, with the port, or unix:///path.
	Endpoint    string
	Format      string // "forward"
	ServiceName string // the tag of the records
}

// Transport is another way to the vaults (kvfs.transport): private links, proxies, tests. The zero Transport is the usual one.
type Transport struct {
	// CAFile is a PEM file of more certificate authorities to trust, an absolute path; "" for none.
	CAFile string
	// Connect maps host:port, in lower case and where "*." stands for any one label, to the host:port to connect to.
	Connect map[string]string
}

// Audit says whether opens are written down (kvfs.audit). The zero Audit writes none.
type Audit struct {
	On bool
	// File that lines are appended to, an absolute path; "" for the log.
	File string
	// AllFiles counts files without a key too.
	AllFiles bool
	// Line and Column tell where it stands, 0 when it is not there.
	Line, Column int
}

func defaults() *Config {
	return &Config{
		PollingInterval:  DefaultPollingInterval,
		KeepVersions:     DefaultKeepVersions,
		OldVersionsInMiB: DefaultOldVersionsInMiB,
		RemovalGrace:     DefaultRemovalGrace,
		Log:              Log{FileSizeInMiB: defaultLogFileSize, Files: defaultLogFiles},
		Alerts:           defaultAlerts(),
	}
}

// maxSize is the greatest document that is read.
const maxSize = 1 << 20

// Parse reads a settings document. The name is that of the file: it is not opened, but the agent's directory in it tells for
// which version of the extension the settings were written. The Config is nil when any of the problems is an error.
func Parse(name string, data []byte) (*Config, Problems) {
	return Options{Name: name}.Parse(data)
}

// Options are what Parse may be told besides the document. The zero value is ready for use.
type Options struct {
	// Name of the file, as for the function Parse.
	Name string
	// Store takes the place of DefaultStore. "" leaves that.
	Store string
}

// Parse is the function Parse with these options.
func (o Options) Parse(data []byte) (*Config, Problems) {
	r := newReport(newFile(""))
	cfg := o.parse(data, r)
	if r.errors > 0 {
		cfg = nil
	}
	return cfg, r.problems()
}

func (o Options) parse(data []byte, r *report) *Config {
	if len(data) > maxSize {
		r.error(0, fmt.Sprintf("the file has %d bytes, more than 1 MiB", len(data)), "settings have a few kilobytes; is this the right file?")
		return nil
	}
	text, isUTF16, bad := decode(data)
	r.file = newFile(text)
	strange, remedy := foreign(text)
	switch {
	case strange != "":
		r.error(0, "the file is "+strange+", not settings", remedy)
		return nil
	case bad != nowhere:
		r.error(bad, "the text is not valid "+encoding(isUTF16), "save the file as UTF-8")
		return nil
	case strings.Trim(text, space) == "":
		r.error(0, "the file is empty", "deploy the extension with settings; the least is "+leastSettings)
		return nil
	case isUTF16:
		r.warning(0, "the text is UTF-16", "save the file as UTF-8 if other programs read it")
	}
	u := unwrapper{reader{r, Error}}
	root, refused := u.parse(&source{text: text}, 0, "the document")
	if refused != nil {
		r.error(refused.at, refused.fact, refused.hint)
		return nil
	}
	doc := u.find(root)
	if doc == nil {
		return nil
	}
	s := newSettings(u.reader)
	s.store = o.Store
	s.config.RequireInitialSync = doc.isVersion4(o.Name)
	s.read(doc)
	s.config.Ignored = r.notes()
	return s.config
}

func encoding(isUTF16 bool) string {
	if isUTF16 {
		return "UTF-16"
	}
	return "UTF-8"
}
