package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker (see the Makefile).
var release = ""

// version of this program: the release, or the commit it was built from.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Example: "  kvfs version",
		Args:    takes(0, 0, nothing),
		RunE: func(*cobra.Command, []string) error {
			return a.printVersion(version(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
