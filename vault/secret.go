package vault

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

// Secret is one version of a secret, as the vault answered it.
type Secret struct {
	Version     string // 32 hexadecimal digits, never empty
	ContentType string // as stored, such as application/x-pkcs12; often empty or wrong for secrets made by hand
	Value       Value
	Enabled     bool      // true when the vault does not say: it does not serve disabled ones
	Created     time.Time // zero if absent, as are the others; resolution one second
	NotBefore   time.Time // informational: the vault serves the secret before it too
	Expires     time.Time // informational: the vault serves the secret after it too
	Updated     time.Time // when its attributes were changed last; a new version has a new time
	Answered    time.Time // by the vault's clock; zero if it did not say
	Managed     bool      // belongs to a certificate object
}

// VersionInfo describes one version of a secret, without its value. Absent times are zero.
type VersionInfo struct {
	Version                     string // 32 hexadecimal digits
	Enabled                     bool
	Created, NotBefore, Expires time.Time
}

const redacted = "[redacted]"

// Value is what a secret holds. However it is printed, logged or marshalled, it shows [redacted]; [Value.Reveal] is the
// one way to read it. The zero Value is empty.
type Value struct {
	// Two pointers deep, because fmt calls no methods on the unexported fields of other types: there it shows the bytes
	// of a slice, and with a verb that does not fit also what one pointer leads to. TestValueNeverShowsItsContent breaks
	// with less.
	content **[]byte
}

var (
	_ fmt.Stringer           = Value{}
	_ fmt.GoStringer         = Value{}
	_ fmt.Formatter          = Value{}
	_ slog.LogValuer         = Value{}
	_ json.Marshaler         = Value{}
	_ encoding.TextMarshaler = Value{}
)

// NewValue wraps content, which must not be changed afterwards.
func NewValue(content []byte) Value {
	p := &content
	return Value{&p}
}

// Reveal returns the content itself, not a copy: it must not be changed, and nil means there is none.
func (v Value) Reveal() []byte {
	if v.content == nil {
		return nil
	}
	return **v.content
}

// String returns [redacted].
func (Value) String() string { return redacted }

// GoString returns [redacted].
func (Value) GoString() string { return redacted }

// Format writes [redacted] for every verb.
func (Value) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns [redacted].
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns "[redacted]".
func (Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns [redacted].
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// secretFrom copies an answer whose every field may be missing. Only the value and the version cannot be done without.
func secretFrom(ref Ref, answer azsecrets.Secret) (*Secret, error) {
	if answer.Value == nil {
		return nil, senseless(ref, "the answer for %s has no value", secretOf(ref))
	}
	version, err := answeredVersion(ref, answer.ID)
	if err != nil {
		return nil, err
	}
	info := versionInfo(version, answer.Attributes)
	return &Secret{
		Version:     strings.Clone(version), // a part of a longer one, which need not stay
		ContentType: valueOf(answer.ContentType),
		Value:       NewValue([]byte(*answer.Value)),
		Enabled:     info.Enabled,
		Created:     info.Created,
		NotBefore:   info.NotBefore,
		Expires:     info.Expires,
		Managed:     valueOf(answer.Managed),
		Updated:     updatedOf(answer.Attributes),
	}, nil
}

func updatedOf(a *azsecrets.SecretAttributes) time.Time {
	if a == nil {
		return time.Time{}
	}
	return valueOf(a.Updated)
}

// answeredAt is the vault's time in an answer.
func answeredAt(answer *http.Response) time.Time {
	if answer == nil {
		return time.Time{}
	}
	at, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}

// answeredVersion returns the version that the vault says it served. A pinned Ref stands in for an answer without id,
// which some servers give; one without either cannot be told from the next and is refused.
func answeredVersion(ref Ref, id *azsecrets.ID) (string, error) {
	version := versionOf(id)
	switch {
	case id == nil && ref.Pinned():
		return ref.Version(), nil
	case !validVersion(version):
		return "", senseless(ref, "the answer for %s names no version", secretOf(ref))
	case !isOf(ref, id):
		return "", senseless(ref, "the answer for %s is another secret, %s", secretOf(ref), quoted(string(*id)))
	case ref.Pinned() && !sameID(version, ref.Version()):
		return "", senseless(ref, "the answer for %s is another version, %s", secretOf(ref), version)
	}
	return version, nil
}

func versionInfo(version string, a *azsecrets.SecretAttributes) VersionInfo {
	info := VersionInfo{Version: version, Enabled: true}
	if a == nil {
		return info
	}
	if a.Enabled != nil {
		info.Enabled = *a.Enabled
	}
	info.Created, info.NotBefore, info.Expires = valueOf(a.Created), valueOf(a.NotBefore), valueOf(a.Expires)
	return info
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
