package emulator

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Endpoints say where an emulator is found. The JSON form is what
// `kvfs emulator` prints.
type Endpoints struct {
	Vaults   []string `json:"vaults"`        // URLs of the vaults, under their real names
	Identity string   `json:"identity"`      // as msiEndpoint in settings
	Arc      string   `json:"arc,omitempty"` // as msiEndpoint in settings; "": there is none
	CA       string   `json:"ca"`            // file with the root that signed the vaults' TLS certificate
	Control  string   `json:"control"`       // base URL of the control endpoint
	Settings string   `json:"settings"`      // file with a settings document for everything served
}

// Emulator is a running or ready set of vaults. All methods may be called at
// any time from any goroutine, before and while Run serves.
type Emulator struct {
	opts         Options
	log          *slog.Logger
	ca           *authority
	tokens       *issuer
	vaults       []vaultHost // in the order of Options.Vaults
	store        *store
	faults       faults
	counts       counts
	identities   identities
	applications applications
	arc          arcKeys
	data         net.Listener
	identity     net.Listener
	arcEnd       net.Listener // nil without Options.ArcKeys
	control      net.Listener
	settings     sync.Mutex // held while settings.json is written, so that the newest state is written last
}

// New opens the listeners, makes a certificate authority and writes ca.pem and
// settings.json. Requests wait until Run serves them. The caller owes a Run or
// a Close.
func New(o Options) (*Emulator, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ca, err := newAuthority(time.Now())
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	vaults, err := o.vaultHosts()
	if err != nil {
		return nil, err
	}
	e := &Emulator{opts: o, log: o.Logger, ca: ca, tokens: newIssuer(o.TokenLifetime), vaults: vaults, store: newStore(vaults)}
	e.arc.dir, e.arc.realm = o.ArcKeys, o.ArcRealm
	e.SetIdentities(Identity{ClientID: newUUID(), ObjectID: newUUID(), System: true})
	if err := e.open(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Emulator) open() (err error) {
	if err := os.MkdirAll(e.opts.Dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the emulator: %w", err)
	}
	if e.data, err = e.listenTLS(); err != nil {
		return err
	}
	if e.identity, err = net.Listen("tcp", e.opts.Identity); err != nil {
		return fmt.Errorf("listening for the identity endpoint: %w", err)
	}
	if e.control, err = net.Listen("tcp", e.opts.Control); err != nil {
		return fmt.Errorf("listening for the control endpoint: %w", err)
	}
	if err := e.openArc(); err != nil {
		return err
	}
	if err := replaceFile(e.caFile(), e.ca.rootPEM()); err != nil {
		return err
	}
	return e.writeSettings()
}

func (e *Emulator) openArc() error {
	if e.opts.ArcKeys == "" {
		return nil
	}
	if err := e.arc.open(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", cmp.Or(e.opts.Arc, "127.0.0.1:0"))
	if err != nil {
		return fmt.Errorf("listening for the Azure Arc endpoint: %w", err)
	}
	e.arcEnd = l
	return nil
}

// listenTLS offers HTTP/1.1 alone: a dropped or half-open answer is a property
// of a connection, and in HTTP/2 it would hit the neighbours on it.
func (e *Emulator) listenTLS() (net.Listener, error) {
	cert, err := e.ca.serverCertificate(e.serverNames(), time.Now())
	if err != nil {
		return nil, fmt.Errorf("making the certificate of the data plane: %w", err)
	}
	l, err := net.Listen("tcp", e.opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for the data plane: %w", err)
	}
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"http/1.1"},
		MinVersion:   tls.VersionTLS12,
	}), nil
}

// serverNames spells the names of the vaults out beside the wildcards, since
// some clients refuse a wildcard directly below a top-level name.
func (e *Emulator) serverNames() []string {
	names := []string{"*." + e.opts.Suffix, "*.localhost", "localhost"}
	for _, v := range e.vaults {
		names = append(names, v.String(), v.name+".localhost")
	}
	for _, suffix := range e.suffixes()[1:] {
		names = append(names, "*."+suffix)
	}
	return append(names, e.loginNames()...)
}

// Run serves until ctx ends and returns nil then; requests under way, held back
// by a fault or not, are ended. It returns an error when a listener fails. An
// emulator runs once.
func (e *Emulator) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, end := range e.ends() {
		server := e.server(ctx, end.handler)
		group.Go(func() error {
			if err := server.Serve(end.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving on %s: %w", end.listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			return stop(server)
		})
	}
	return errors.Join(group.Wait(), e.arc.close())
}

// end is a listener with what serves on it.
type end struct {
	listener net.Listener
	handler  http.HandlerFunc
}

func (e *Emulator) ends() []end {
	list := []end{{e.data, e.serveData}, {e.identity, e.serveIdentity}, {e.control, e.controlRoutes().ServeHTTP}}
	if e.arcEnd != nil {
		list = append(list, end{e.arcEnd, e.serveArc})
	}
	return list
}

// server makes every request's context a child of ctx, which is what wakes
// requests that hang on purpose when the emulator ends.
func (e *Emulator) server(ctx context.Context, h http.HandlerFunc) *http.Server {
	return &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
}

// stop gives answers under way a moment to leave, then closes what remains.
func stop(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

// Close closes the listeners of an emulator that never ran. After Run it does
// nothing.
func (e *Emulator) Close() error {
	var errs []error
	for _, l := range []net.Listener{e.data, e.identity, e.control, e.arcEnd} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("closing %s: %w", l.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// Endpoints returns where the emulator listens. The URLs of the vaults carry
// their real names; Addr is where those are reached.
func (e *Emulator) Endpoints() Endpoints {
	urls := make([]string, 0, len(e.vaults))
	for _, v := range e.vaults {
		urls = append(urls, "https://"+v.String())
	}
	arc := ""
	if e.arcEnd != nil {
		arc = "http://" + e.arcEnd.Addr().String() + "/metadata/identity"
	}
	return Endpoints{
		Arc:      arc,
		Vaults:   urls,
		Identity: "http://" + e.identity.Addr().String() + "/metadata/identity",
		CA:       e.caFile(),
		Control:  "http://" + e.control.Addr().String(),
		Settings: e.settingsFile(),
	}
}

// Addr is the host:port of the data plane, where connections to the vaults'
// names have to be sent.
func (e *Emulator) Addr() string { return e.data.Addr().String() }

func (e *Emulator) caFile() string       { return filepath.Join(e.opts.Dir, "ca.pem") }
func (e *Emulator) settingsFile() string { return filepath.Join(e.opts.Dir, "settings.json") }
