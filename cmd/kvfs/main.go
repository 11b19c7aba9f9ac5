// Command kvfs shows the certificates of Azure Key Vault as files that are
// always current. See kvfs --help.
//
// Each command is a file of this package and thin: it turns arguments into a
// call and results into words. This is the only package that starts goroutines
// which outlive a call, so the order in which things start and stop is read here
// (daemon.go), and the only one that prints for people (print.go).
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
