package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"kvfs/config"
	"kvfs/fs"
)

func (a *app) mountCommand() *cobra.Command {
	var o origin
	cmd := &cobra.Command{
		Use:   "mount SETTINGS | mount SECRET-URL...",
		Short: "serve certificates until SIGTERM",
		Long: `Serves the certificates that a settings document lists, or those of the given
URLs, in the foreground, until SIGTERM or an interrupt; then takes the mounts
away. SIGHUP reads the settings again, applies what has changed, and polls at
once; a document with an error changes nothing.

SETTINGS is the document of the Azure Key Vault VM extension for Linux ("-" reads
it from standard input). With URLs the vaults are asked as the person at the
terminal (environment, workload identity, managed identity, az login).

As root the stores are mounted read-only for everybody, and the kernel enforces
the access lists. An ordinary user mounts through fusermount3 and is the only one
who can read.`,
		Example: `  kvfs mount settings.json
  kvfs mount settings.json --store /etc/tls/kv
  kvfs mount https://contoso-web.vault.azure.net/secrets/www --store ~/certs`,
		Args: takes(1, math.MaxInt, "a settings document or URLs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.take(args); err != nil {
				return err
			}
			if o.file != "" && (o.caFile != "" || o.connect != nil) {
				return fail(exitUsage, "usage", "write it into kvfs.transport of the settings", "--ca-file and --connect go with URLs")
			}
			return a.mount(cmd.Context(), o, args)
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", "directory in place of "+config.DefaultStore)
	a.transportFlags(cmd, &o.caFile, &o.connect)
	a.serverFlags(cmd)
	return cmd
}

func (a *app) transportFlags(cmd *cobra.Command, caFile *string, connect *[]string) {
	cmd.Flags().StringVar(caFile, "ca-file", "", "with URLs: PEM file of a root that is trusted for the vaults too")
	cmd.Flags().StringArrayVar(connect, "connect", nil, "with URLs: another way to a vault, NAME:PORT=ADDRESS:PORT, NAME may begin with *.")
}

// invalid is the failure of settings whose problems were printed.
func (o origin) invalid() error {
	if o.file == "" {
		return &failure{code: exitUsage, kind: "usage", fact: "the URLs are not those of secrets", said: true}
	}
	return &failure{code: exitSettings, kind: "settings", fact: o.name() + " is not valid", said: true}
}

// checkRights says at once what an ordinary user cannot have.
func checkRights(cfg *config.Config) error {
	if !rootless() {
		return nil
	}
	for _, c := range cfg.Certificates {
		if c.Store == config.DefaultStore {
			return fail(exitRefused, "permission", "run it as root, or choose a directory of your own with --store",
				"an ordinary user cannot mount at %s", c.Store)
		}
	}
	return nil
}

// untilSignal ends ctx at SIGTERM, an interrupt, or one of the others; a second
// one kills. Writing to a log that nobody reads any more is no reason to die and
// leave a mount behind.
func untilSignal(parent context.Context, others ...os.Signal) (ctx context.Context, done func()) {
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(parent, append(others, syscall.SIGTERM, os.Interrupt)...)
	context.AfterFunc(ctx, cancel) // the default handling comes back at the first
	return ctx, cancel
}

// hangUps gets every SIGHUP, which asks a mount to read its settings again.
func hangUps() (reload chan os.Signal, done func()) {
	reload = make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	return reload, func() { signal.Stop(reload) }
}

func (a *app) publisherCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "publisher",
		Short: "carry out changes for a server (started by kvfs mount or by systemd)",
		Long: `The process that changes names: below the directory on descriptor 3, as a child of
the server, or below the one that a server sends over the socket on standard input.`,
		Hidden: true,
		Args:   takes(0, 0, nothing),
		RunE: func(*cobra.Command, []string) error {
			a.serves = server != "" // otherwise the server reads what it says, and logs that
			dir, err := publisherDirectory(server)
			if err != nil {
				return err
			}
			defer dir.Close()
			debug.FreeOSMemory() // what starting needed: it waits most of its life
			if err := fs.RunPublisher(dir, a.stdin, a.stdout); err != nil {
				return fmt.Errorf("publisher: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "the user whose server connects to the socket on standard input")
	return cmd
}

func publisherDirectory(server string) (*os.File, error) {
	if server == "" {
		dir := os.NewFile(3, "directory")
		if fi, err := dir.Stat(); err != nil || !fi.IsDir() {
			return nil, fail(exitUsage, "usage", "this command is for kvfs mount to start", "descriptor 3 is no directory")
		}
		return dir, nil
	}
	u, err := user.Lookup(server)
	if err != nil {
		return nil, fail(exitUsage, "usage", "name the user that the server runs as", "--server: %v", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the id of user %s: %w", server, err)
	}
	return fs.ReceiveDirectory(os.Stdin, uint32(uid))
}
