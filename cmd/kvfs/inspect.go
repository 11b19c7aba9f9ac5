package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kvfs/certs"
	"kvfs/vault"
)

// maxBundle is more than package certs takes, so that it can say so.
const maxBundle = 4 << 20

func (a *app) inspectCommand() *cobra.Command {
	var o origin
	contentType := ""
	cmd := &cobra.Command{
		Use:   "inspect FILE | URL | -",
		Short: "read one bundle and explain it",
		Long: `Reads a PFX with an empty password, a PEM, or the JSON object that Key Vault
returns for a secret, and shows what kvfs would serve of it: the chain in its
order, the key, and what is odd. Of a key only its kind and the digest of its
public half are shown.`,
		Example: `  kvfs inspect bundle.pfx
  az keyvault secret show --vault-name contoso-web --name www | kvfs inspect -
  kvfs inspect https://contoso-web.vault.azure.net/secrets/www`,
		Args: takes(1, 1, "one file or URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			given, value, err := a.bundle(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if contentType != "" {
				given = contentType
			}
			b, err := certs.Parse(given, value)
			var keyless *certs.Error
			switch {
			case err == nil:
				return a.printInspection(b.Inspect(given))
			case errors.As(err, &keyless) && keyless.Partial != nil && !a.json: // a person sees what would be served
				return errors.Join(a.printInspection(keyless.Partial.Inspect(given)), err)
			}
			return err
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().StringVar(&contentType, "content-type", "", "what the secret says it is; a hint alone")
	a.transportFlags(cmd, &o.caFile, &o.connect)
	return cmd
}

// bundle reads what is to be inspected.
func (a *app) bundle(ctx context.Context, arg string, o origin) (contentType string, value []byte, err error) {
	if strings.Contains(arg, "://") {
		o.urls, o.ambient = []string{arg}, true
		return a.fetch(ctx, o)
	}
	in := a.stdin
	if arg != "-" {
		f, err := os.Open(arg)
		if err != nil {
			return "", nil, unreadableBundle(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxBundle))
	if err != nil {
		return "", nil, unreadableBundle(err)
	}
	return certs.DecodeInput(data)
}

func unreadableBundle(err error) error {
	f := &failure{code: exitNotFound, kind: "not-found", fact: fmt.Sprintf("the bundle cannot be read: %v", err),
		hint: "give the path of a PFX, a PEM, or a secret as JSON", err: err}
	if errors.Is(err, os.ErrPermission) {
		f.code, f.kind, f.hint = exitRefused, "permission", "try it as root"
	}
	return f
}

func (a *app) fetch(ctx context.Context, o origin) (contentType string, value []byte, err error) {
	cfg, problems, err := o.load(nil)
	if err != nil {
		return "", nil, err
	}
	if cfg == nil {
		return "", nil, &failure{code: exitUsage, kind: "usage", fact: problems.Errors()[0].Fact, hint: problems.Errors()[0].Hint}
	}
	a.printProblems(o.name(), problems)
	client, err := newVault(o, cfg, a, nil)
	if err != nil {
		return "", nil, err
	}
	s, err := client.Get(ctx, vault.Identity{Method: vault.Ambient}, cfg.Certificates[0].Ref)
	if err != nil {
		return "", nil, err
	}
	return s.ContentType, s.Value.Reveal(), nil
}
