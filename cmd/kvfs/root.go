package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kvfs/logs"
	"kvfs/status"
)

// app is what every command has: its surroundings, and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string
	verbose        bool
	logLevel       string
	logFormat      string
	logs           *logs.Logs // nil until something is logged
	serves         bool       // what it prints belongs into the log
	json           bool       // of the command that runs: errors are printed as data too
	server         serverOptions
	console        *console // of a server at a terminal; nil otherwise
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
	// A wrong flag may come before --json on the line.
	a.json = a.json || f.code == exitUsage && slices.Contains(args, "--json")
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
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: false},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", status.DefaultSocket(), "control socket of the kvfs that is meant")
	a.logFlags(root)
	root.PersistentPreRunE = a.checkLogFlags
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCommand(root))
	for _, c := range []func() *cobra.Command{a.demoCommand, a.mountCommand, a.umountCommand, a.statusCommand, a.refreshCommand, a.waitCommand,
		a.checkCommand, a.accessCommand, a.inspectCommand, a.emulatorCommand, a.versionCommand, a.serverCommand, a.publisherCommand, a.auditorCommand, a.mounterCommand, a.unmounterCommand, a.lastGaspCommand, a.runCommand} {
		root.AddCommand(c())
	}
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" { // the library shows its help for any word
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usage(cmd, "%q is no shell that is known", args[0])
				}
				return cmd.Help()
			}
			c.Args = nil
		}
	}
	return root
}

// takes checks the number of arguments; what says in words what a command takes.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(cmd, "%s takes %s; none was given", cmd.CommandPath(), what)
		case len(args) > most:
			return usage(cmd, "%s takes %s; found %q", cmd.CommandPath(), what, strings.Join(args, " "))
		}
		return nil
	}
}

const nothing = "no arguments"

func usage(cmd *cobra.Command, format string, args ...any) error {
	return fail(exitUsage, "usage", "see "+cmd.CommandPath()+" --help", format, args...)
}

// flagError puts the errors of the flag library in the words of this program.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		want := map[string]string{"int": "whole number", "duration": "time such as 20s"}[value.GetFlag().Value.Type()]
		return usage(cmd, "--%s: %q is no %s", value.GetFlag().Name, value.GetValue(), want)
	}
	return usage(cmd, "%v", err)
}

// unknownCommand is for a word that is no command.
func unknownCommand(cmd *cobra.Command, word string) error {
	f := fail(exitUsage, "usage", "see kvfs --help", "no command is called %q", word)
	if near := cmd.Root().SuggestionsFor(word); len(near) > 0 {
		f.hint = fmt.Sprintf("did you mean %s? see kvfs --help", near[0])
	}
	return f
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "explain a command",
		Example: "  kvfs help mount",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag() // as --help would, which names it too
			return cmd.Help()
		},
	}
}

// jsonFlag adds --json to a command.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print data for programs, errors too")
}

// asFailure gives every error an exit code and, where there is one, a hint.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return explain(err)
}
