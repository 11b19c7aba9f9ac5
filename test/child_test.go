package test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// child is what the test binary does as a process of its own, mostly as another
// user: see TestMain.
func child(args []string) int {
	if len(args) == 0 {
		args = []string{""}
	}
	var err error
	switch command, args := args[0], args[1:]; {
	case command == "read" && len(args) == 1:
		err = copyFile(args[0], os.Stdout)
	case command == "verify" && len(args) == 1:
		err = verifyUntilEOF(args[0], os.Stdin, os.Stdout)
	case command == "retry" && len(args) == 1:
		err = retryUntilGone(args[0], os.Stdin, func(told string) error { return json.NewEncoder(os.Stdout).Encode(told) })
	case command == "reads" && len(args) == 0:
		err = readOnRequest(os.Stdin, os.Stdout)
	case command == "follow" && len(args) == 2:
		err = followOnEvents(args[0], args[1], os.Stdin, os.Stdout)
	case command == "open" && len(args) == 0:
		err = openOnRequest(os.Stdin, os.Stdout)
	case command == "openeach" && len(args) == 0:
		err = openEach(os.Stdin)
	case command == "hold" && len(args) == 1:
		err = hold(args[0], os.Stdin, os.Stdout)
	default:
		fmt.Fprintln(os.Stderr, "unknown child", command, args)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func copyFile(path string, to io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// visitor is a child of another user that speaks in lines of JSON and ends when
// its input does.
type visitor struct {
	t    testing.TB
	in   io.WriteCloser
	out  interface{ SetReadDeadline(time.Time) error }
	ask  *json.Encoder
	says *json.Decoder
	errs buffer
}

// visit starts a child with the rights of a user. It is ended with the test.
func visit(t testing.TB, as syscall.Credential, args ...string) *visitor {
	t.Helper()
	// By this name, since others may not enter the directory that go test has
	// put the binary into.
	cmd := exec.Command("/proc/self/exe", append([]string{"child"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &as}
	v := &visitor{t: t}
	cmd.Stderr = &v.errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.in, v.out, v.ask, v.says = in, out.(*os.File), json.NewEncoder(in), json.NewDecoder(out)
	t.Cleanup(func() {
		v.leave()
		if t.Failed() {
			_ = cmd.Process.Kill() // it may hang in what has failed
		}
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("child %v: %v\n%s", args, err, &v.errs)
		}
	})
	return v
}

// tell sends a question.
func (v *visitor) tell(question any) {
	v.t.Helper()
	if err := v.ask.Encode(question); err != nil {
		v.t.Fatalf("asking the child: %v\n%s", err, &v.errs)
	}
}

// hear waits for what it says next.
func (v *visitor) hear(answer any) {
	v.t.Helper()
	_ = v.out.SetReadDeadline(time.Now().Add(time.Minute)) // a pipe has deadlines
	if err := v.says.Decode(answer); err != nil {
		v.t.Fatalf("the child says nothing: %v\n%s", err, &v.errs)
	}
}

// leave lets it end.
func (v *visitor) leave() { v.in.Close() }
