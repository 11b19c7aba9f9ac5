package test

import (
	"fmt"
	"io"
	"os"
)

// child is what the test binary does as a process of its own, mostly as another
// user: see TestMain.
func child(args []string) int {
	if len(args) == 2 && args[0] == "read" {
		f, err := os.Open(args[1])
		if err == nil {
			_, err = io.Copy(os.Stdout, f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	fmt.Fprintln(os.Stderr, "unknown child", args)
	return 2
}
