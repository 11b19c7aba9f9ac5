package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// changed is what the routes that change a secret answer.
type changed struct {
	Vault   string `json:"vault"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // the newest after the change
	Enabled bool   `json:"enabled"`           // of that version
	Deleted bool   `json:"deleted"`
}

func (e *Emulator) controlRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rotate", e.controlRotate)
	mux.HandleFunc("POST /enable", e.controlSecret(func(vault, name, version string) error { return e.SetEnabled(vault, name, version, true) }))
	mux.HandleFunc("POST /disable", e.controlSecret(func(vault, name, version string) error { return e.SetEnabled(vault, name, version, false) }))
	mux.HandleFunc("POST /delete", e.controlSecret(func(vault, name, _ string) error { return e.Delete(vault, name) }))
	mux.HandleFunc("POST /recover", e.controlSecret(func(vault, name, _ string) error { return e.Recover(vault, name) }))
	mux.HandleFunc("PUT /faults", e.controlFault)
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		e.ClearFaults()
		plainJSON(w, http.StatusOK, map[string]bool{"cleared": true})
	})
	mux.HandleFunc("PUT /identities", e.controlIdentities)
	mux.HandleFunc("PUT /applications", e.controlApplications)
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) { plainJSON(w, http.StatusOK, e.Counters()) })
	mux.HandleFunc("GET /certificates", func(w http.ResponseWriter, _ *http.Request) { plainJSON(w, http.StatusOK, e.Inventory()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		complain(w, fmt.Errorf("%w: no route %s %s", ErrNotFound, r.Method, r.URL.Path))
	})
	return mux
}

func complain(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, ErrNotFound) {
		status = http.StatusNotFound
	}
	plainJSON(w, status, map[string]string{"error": err.Error()})
}

// parameters reads the query and refuses names it does not know: a typing error
// would change another secret than the one meant.
func parameters(r *http.Request, known ...string) (map[string]string, error) {
	got := map[string]string{}
	for name, values := range r.URL.Query() {
		if !strings.Contains(" "+strings.Join(known, " ")+" ", " "+name+" ") {
			return nil, fmt.Errorf("unknown parameter %q: want %s", name, strings.Join(known, ", "))
		}
		got[name] = values[0]
	}
	return got, nil
}

func (e *Emulator) controlRotate(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "vault", "name")
	switch {
	case err != nil:
	case q["name"] != "":
		_, err = e.Rotate(q["vault"], q["name"])
	case q["vault"] != "":
		err = errors.New("a vault without a name: leave both out to rotate everything")
	default:
		err = e.RotateAll()
	}
	if err != nil {
		complain(w, err)
		return
	}
	list := []changed{}
	for _, item := range e.Inventory() {
		if q["name"] == "" && item.Managed && !item.Deleted || e.isNamed(item, q["vault"], q["name"]) {
			list = append(list, item.changed())
		}
	}
	plainJSON(w, http.StatusOK, map[string][]changed{"rotated": list})
}

// controlSecret is a route that does something to the secret it names.
func (e *Emulator) controlSecret(do func(vault, name, version string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := parameters(r, "vault", "name", "version")
		if err == nil && q["name"] == "" {
			err = errors.New("parameter name is missing")
		}
		if err == nil {
			err = do(q["vault"], q["name"], q["version"])
		}
		if err != nil {
			complain(w, err)
			return
		}
		for _, item := range e.Inventory() {
			if e.isNamed(item, q["vault"], q["name"]) {
				plainJSON(w, http.StatusOK, item.changed())
			}
		}
	}
}

func (e *Emulator) isNamed(item Item, vault, name string) bool {
	if vault == "" {
		vault = e.vaults[0].name
	}
	return strings.EqualFold(item.Vault, vault) && strings.EqualFold(item.Name, name)
}

func (i Item) changed() changed {
	return changed{Vault: i.Vault, Name: i.Name, Version: i.Versions[0].Version, Enabled: i.Versions[0].Enabled, Deleted: i.Deleted}
}

func (e *Emulator) controlFault(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	var f Fault
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil {
		err = f.Validate()
	}
	if err != nil {
		complain(w, fmt.Errorf("reading a fault: %w", err))
		return
	}
	e.SetFault(f)
	plainJSON(w, http.StatusOK, f)
}
