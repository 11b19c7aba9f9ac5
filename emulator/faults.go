package emulator

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultKind says what goes wrong.
type FaultKind string

// The faults of the data plane. Those that say "value" act on the GET of a
// secret alone, the others on listings too, and ListRefused on nothing else.
const (
	ForbiddenRBAC       FaultKind = "forbidden-rbac"       // 403 ForbiddenByRbac: no role assignment
	ForbiddenPolicy     FaultKind = "forbidden-policy"     // 403 AccessDenied: no access policy
	ForbiddenFirewall   FaultKind = "forbidden-firewall"   // 403 ForbiddenByFirewall
	ForbiddenConnection FaultKind = "forbidden-connection" // 403 ForbiddenByConnection
	Disabled            FaultKind = "disabled"             // value: 403 SecretDisabled
	NotFound            FaultKind = "not-found"            // value: 404 SecretNotFound
	Garbage             FaultKind = "garbage"              // value: 200, but it is no certificate
	TokenExpired        FaultKind = "token-expired"        // 401 with a challenge though the token is good
	ListRefused         FaultKind = "list-refused"         // 403 AccessDenied to listings alone: get is allowed, list is not
)

// The faults of the data plane that all other places know as well.
const (
	Throttled   FaultKind = "throttled"    // 429
	ServerError FaultKind = "server-error" // 500
	Unavailable FaultKind = "unavailable"  // 503
	Slow        FaultKind = "slow"         // the right answer, Delay later
	Hang        FaultKind = "hang"         // no answer until the client gives up
	HalfOpen    FaultKind = "half-open"    // headers and half of the right body, then nothing until the client gives up
	Drop        FaultKind = "drop"         // the connection is closed without an answer; Go's client repeats a GET once by itself
)

// The faults of the identity endpoint alone; their Vault and Name are
// disregarded.
const (
	IdentityNotFound  FaultKind = "identity-not-found" // 400 Identity not found
	IdentityMultiple  FaultKind = "identity-multiple"  // 400 Multiple user assigned identities exist
	IdentityGone      FaultKind = "identity-gone"      // 410: it is being updated
	IdentityThrottled FaultKind = "identity-throttled" // 429
)

// The faults of the Azure Arc endpoint alone; their Vault and Name are
// disregarded. All keys work: it is for the client not to fetch them.
const (
	ArcWrongDirectory     FaultKind = "arc-wrong-directory"     // the key file is in another directory
	ArcWrongSuffix        FaultKind = "arc-wrong-suffix"        // the name of the key file does not end in .key
	ArcOversizedKey       FaultKind = "arc-oversized-key"       // the key file has more than 4096 bytes
	ArcSymlinkKey         FaultKind = "arc-symlink-key"         // the key file is a symbolic link
	ArcNoChallenge        FaultKind = "arc-no-challenge"        // 200 at once
	ArcMalformedChallenge FaultKind = "arc-malformed-challenge" // 401 without a realm
	ArcIgnoresSelector    FaultKind = "arc-ignores-selector"    // the system-assigned identity, whichever is asked for, and no echo
)

// What stands for a place other than a vault in Fault.Name. No secret can have
// such a name.
const (
	identityName = "@identity" // the identity endpoint
	arcName      = "@arc"      // the Azure Arc endpoint
	loginName    = "@login"    // the login servers
)

var (
	valueFaults    = []FaultKind{Disabled, NotFound, Garbage}
	vaultFaults    = []FaultKind{ForbiddenRBAC, ForbiddenPolicy, ForbiddenFirewall, ForbiddenConnection, TokenExpired, ListRefused}
	sharedFaults   = []FaultKind{Throttled, ServerError, Unavailable, Slow, Hang, HalfOpen, Drop}
	identityFaults = []FaultKind{IdentityNotFound, IdentityMultiple, IdentityGone, IdentityThrottled}
	arcFaults      = []FaultKind{
		ArcWrongDirectory, ArcWrongSuffix, ArcOversizedKey, ArcSymlinkKey, ArcNoChallenge, ArcMalformedChallenge, ArcIgnoresSelector,
	}
	ownFaults = map[string][]FaultKind{identityName: identityFaults, arcName: arcFaults, loginName: nil}
)

// Fault is something that goes wrong. Of several that fit a request the most
// specific one acts: vault and name, then name, then vault, then neither.
//
// In JSON durations are strings such as "1.5s", or numbers of seconds.
type Fault struct {
	Vault      string        // "": all
	Name       string        // of a secret; "": all, listings of the vault included; "@identity", "@arc", "@login": another place
	Kind       FaultKind     //
	RetryAfter time.Duration // sent with 429, 500, 503 and 410, in whole seconds, rounded up; 0: no header
	Delay      time.Duration // for Slow
	Count      int           // requests it acts on before it ends; 0: until cleared
}

// Validate returns what is wrong with a fault: an unknown kind, one that the
// place does not have, a negative number.
func (f Fault) Validate() error {
	place := slices.Concat(valueFaults, vaultFaults, sharedFaults)
	own, elsewhere := ownFaults[f.normal().Name]
	if elsewhere {
		place = slices.Concat(own, sharedFaults)
	}
	switch {
	case !slices.Contains(place, f.Kind):
		return fmt.Errorf("fault kind %q: want one of %v", f.Kind, place)
	case f.RetryAfter < 0 || f.Delay < 0 || f.Count < 0:
		return fmt.Errorf("fault %q has a negative number", f.Kind)
	case slices.Contains(valueFaults, f.Kind) || f.Name == "" || elsewhere || validName(f.Name):
		return nil
	}
	return nameError(f.Name)
}

// normal is f as it is stored: names in lower case, each place that is no vault
// under one name.
func (f Fault) normal() Fault {
	f.Vault, f.Name = strings.ToLower(f.Vault), strings.ToLower(f.Name)
	for place, kinds := range ownFaults {
		if slices.Contains(kinds, f.Kind) {
			f.Name = place
		}
	}
	if _, elsewhere := ownFaults[f.Name]; elsewhere {
		f.Vault = ""
	}
	return f
}

// actsOn tells whether this kind of fault can happen to a request for a value,
// or to another request.
func (k FaultKind) actsOn(value bool) bool {
	if k == ListRefused {
		return !value
	}
	return value || !slices.Contains(valueFaults, k)
}

// faults is the set of active faults, one for each pair of vault and name.
type faults struct {
	mu   sync.Mutex
	list map[[2]string]Fault
}

// SetFault starts a fault, in place of one with the same Vault and Name. A
// fault that Validate refuses shows itself as answers 500 that quote the
// complaint.
func (e *Emulator) SetFault(f Fault) {
	f = f.normal()
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	if e.faults.list == nil {
		e.faults.list = map[[2]string]Fault{}
	}
	e.faults.list[[2]string{f.Vault, f.Name}] = f
}

// ClearFaults ends all faults. Requests already held back stay so.
func (e *Emulator) ClearFaults() {
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	clear(e.faults.list)
}

// take finds the fault that acts on a request and uses up one of its count.
// name is empty for listings of a vault.
func (s *faults) take(vault, name string, value bool) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vault, name = strings.ToLower(vault), strings.ToLower(name)
	for _, key := range [][2]string{{vault, name}, {"", name}, {vault, ""}, {"", ""}} {
		f, ok := s.list[key]
		if !ok || !f.Kind.actsOn(value) {
			continue
		}
		s.use(key, f)
		return f, true
	}
	return Fault{}, false
}

// takeAt is take for a place that is no vault and for the kinds that fits
// admits; another kind stays as it is.
func (s *faults) takeAt(place string, fits func(FaultKind) bool) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{"", place}
	f, ok := s.list[key]
	if !ok || !fits(f.Kind) {
		return Fault{}, false
	}
	s.use(key, f)
	return f, true
}

func anyKind(FaultKind) bool { return true }

func (s *faults) use(key [2]string, f Fault) {
	switch f.Count {
	case 0: // until cleared
	case 1:
		delete(s.list, key)
	default:
		f.Count--
		s.list[key] = f
	}
}
