package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"kvfs/status"
)

// app is what every command has: its surroundings, and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string
	verbose        bool
	json           bool // of the command that runs: errors are printed as data too
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	f := asFailure(err)
	a.printFailure(f)
	return f.code
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvfs",
		Short: "certificates of Azure Key Vault as files that are always current",
		Long: `kvfs mounts the certificates of Azure Key Vault as files: versioned PEM files, and
links that always lead to the latest version. It reads the settings document of
the Azure Key Vault VM extension for Linux. nginx, haproxy and everything else
point at a link and never need to know that a certificate was renewed.

Exit codes:
` + exitCodes(),
		Example: `  kvfs demo                     see it work, without Azure
  kvfs check settings.json      say what would be served, or what is wrong
  kvfs mount settings.json      serve until SIGTERM
  kvfs status                   say how things are`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", status.DefaultSocket(), "control socket of the kvfs that is meant")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what happens in detail (never a secret)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	for _, c := range []func() *cobra.Command{a.demoCommand, a.mountCommand, a.umountCommand, a.statusCommand, a.refreshCommand,
		a.checkCommand, a.inspectCommand, a.emulatorCommand, a.versionCommand, a.publisherCommand} {
		root.AddCommand(wrapArgs(c()))
	}
	return root
}

// wrapArgs makes wrong arguments a usage error, with the command's own usage.
func wrapArgs(cmd *cobra.Command) *cobra.Command {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage(cmd, err)
			}
			return nil
		}
	}
	return cmd
}

func usage(cmd *cobra.Command, err error) error {
	return &failure{code: exitUsage, kind: "usage", fact: lowerFirst(err.Error()), hint: "see " + cmd.CommandPath() + " --help"}
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// jsonFlag adds --json to a command.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print data for programs, errors too")
}

// logger writes for an operator, to stderr.
func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// asFailure gives every error an exit code and, where there is one, a hint.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	if strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		return &failure{code: exitUsage, kind: "usage", fact: strings.SplitN(err.Error(), "\n", 2)[0], hint: "see kvfs --help"}
	}
	return explain(err)
}
