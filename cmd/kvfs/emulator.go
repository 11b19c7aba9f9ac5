package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"kvfs/emulator"
)

func (a *app) emulatorCommand() *cobra.Command {
	var o emulatorOptions
	cmd := &cobra.Command{
		Use:   "emulator",
		Short: "run the embedded Key Vault alone, for tests",
		Long: `Runs a Key Vault that speaks the real data plane over TLS on loopback, with an
identity endpoint and the login servers, until SIGTERM. It accepts the unmodified
Azure SDK. When it is ready it prints one line of JSON:

  {"vaults":[URL...],"identity":URL,"ca":FILE,"control":URL,"settings":FILE}

settings is a document that mounts what it serves. control takes faults, rotations,
identities and applications with their rights; see the documentation of package
emulator for its routes.`,
		Example: `  kvfs emulator --certs 3 --rotate 20s
  kvfs emulator --vault contoso-web --vault contoso-gov.vault.usgovcloudapi.net
  kvfs emulator --listen 127.0.0.1:8443 --load ./bundles`,
		Args: takes(0, 0, nothing),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.certs < 0 || o.rotate < 0 {
				return usage(cmd, "--certs and --rotate cannot be negative")
			}
			ctx, done := untilSignal(cmd.Context(), syscall.SIGHUP)
			defer done()
			return a.emulate(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.listen, "listen", "127.0.0.1:0", "address of the data plane")
	cmd.Flags().StringVar(&o.load, "load", "", "directory of PFX and PEM files to serve")
	cmd.Flags().IntVar(&o.certs, "certs", 1, "number of certificates to make in each vault")
	cmd.Flags().StringArrayVar(&o.vaults, "vault", nil, "name or whole host of a vault (default contoso-web); may be given more than once")
	cmd.Flags().StringVar(&o.arc, "arc", "", "directory of key files: adds an endpoint of Azure Arc, \"arc\" in the line")
	cmd.Flags().DurationVar(&o.rotate, "rotate", 0, "renew all certificates this often (0: on demand only)")
	cmd.Flags().StringVar(&o.dir, "dir", "", "directory for the CA and the settings (default: a temporary one, removed at the end)")
	return cmd
}

type emulatorOptions struct {
	listen, load, dir, arc string
	vaults                 []string
	certs                  int
	rotate                 time.Duration
}

func (a *app) emulate(ctx context.Context, o emulatorOptions) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "kvfs-emulator-")
		if err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	e, err := emulator.New(emulator.Options{Listen: o.listen, Vaults: o.vaults, ArcKeys: o.arc, Dir: o.dir, Logger: a.logger()})
	if err != nil {
		return &failure{code: exitFailed, kind: "emulator", fact: err.Error(), hint: emulatorHint(err), err: err}
	}
	if err := fill(e, o.load, o.vaults, o.certs); err != nil {
		e.Close()
		return err
	}
	var g errgroup.Group
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error { defer stop(); return e.Run(ctx) })
	if o.rotate > 0 {
		g.Go(func() error { return ignoreEnd(ctx, e.RotateEvery(ctx, o.rotate)) })
	}
	// One line: programs read it to know that it is ready.
	if err := json.NewEncoder(a.stdout).Encode(e.Endpoints()); err != nil {
		stop()
	}
	return g.Wait()
}

func emulatorHint(err error) string {
	var network *net.OpError
	if errors.As(err, &network) {
		return "--listen takes ADDRESS:PORT of this machine, such as 127.0.0.1:8443"
	}
	return "see kvfs emulator --help"
}

// fill gives the emulator certificates: made ones in each vault, named as in the
// documents of the extension, and those of a directory.
func fill(e *emulator.Emulator, load string, vaults []string, made int) error {
	if len(vaults) == 0 {
		vaults = []string{""} // the emulator's own
	}
	if load != "" {
		if err := e.LoadDir(load); err != nil {
			return &failure{code: exitNotFound, kind: "bundles", fact: err.Error(), hint: "give a directory of PFX (empty password) and PEM files", err: err}
		}
	}
	for _, vault := range vaults {
		name, _, _ := strings.Cut(vault, ".")
		for i := range made {
			p := emulator.Profile{Vault: name, Name: demoName(i), DNSNames: []string{demoHost(demoName(i))}}
			if i%2 == 1 {
				p.Format = emulator.PEM
			}
			if _, err := e.AddCertificate(p); err != nil {
				return fmt.Errorf("making a certificate: %w", err)
			}
		}
	}
	return nil
}

func demoName(i int) string {
	names := []string{"www", "api", "mail"}
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("cert-%d", i+1)
}

// demoHost is the name that a made certificate is for.
func demoHost(name string) string { return name + ".contoso.example" }

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
