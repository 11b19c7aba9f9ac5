package logs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// realCollector is a program that receives and that we have not written (test/forward): the receiver of the OpenTelemetry
// collector, which acknowledges what its consumer has taken, or FluentServer, which acknowledges before that.
type realCollector struct {
	t       *testing.T
	command []string
	address string
	cmd     *exec.Cmd
	records chan map[string]any
	ended   chan struct{}
}

func startCollector(t *testing.T, command []string, address string) *realCollector {
	t.Helper()
	c := &realCollector{t: t, command: command, address: address, records: make(chan map[string]any, 100_000)}
	c.start()
	t.Cleanup(func() { c.kill(syscall.SIGKILL) })
	return c
}

func (c *realCollector) start() {
	c.t.Helper()
	c.cmd = exec.Command(c.command[0], slices.Concat(c.command[1:], []string{c.address})...)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	errs, err := c.cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.ended = make(chan struct{})
	ended, cmd := c.ended, c.cmd
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var r map[string]any
			if json.Unmarshal(lines.Bytes(), &r) == nil { // the last line of one that was killed may be half
				c.records <- r
			}
		}
		_ = cmd.Wait()
		close(ended)
	}()
	if line, err := bufio.NewReader(errs).ReadString('\n'); line != "listening\n" {
		c.t.Fatalf("%q %v", line, err)
	}
}

func (c *realCollector) kill(sig syscall.Signal) {
	_ = c.cmd.Process.Signal(sig)
	<-c.ended
}

// want waits until all of these records have come, in this order but for what came twice.
func (c *realCollector) want(from, to int) (last map[string]any) {
	c.t.Helper()
	late := time.After(30 * time.Second)
	for next := from; next < to; {
		select {
		case r := <-c.records:
			var n int
			if _, err := fmt.Sscanf(fmt.Sprint(r["body"]), "record %d", &n); err == nil && n > next {
				c.t.Fatalf("record %d came before %d", n, next)
			} else if err == nil && n == next {
				next, last = next+1, r
			}
		case <-late:
			c.t.Fatalf("record %d did not come", next)
		}
	}
	return last
}

// What is sent is understood by others, whatever happens to them.
func TestRealCollectors(t *testing.T) {
	for _, name := range []string{"KVFS_COLLECTOR", "KVFS_FLUENT_SERVER"} {
		t.Run(name, func(t *testing.T) {
			command := strings.Fields(os.Getenv(name))
			if len(command) == 0 {
				t.Skip(name, "names no collector; see make collectors")
			}
			testCollector(t, command, name == "KVFS_FLUENT_SERVER")
		})
	}
}

// testCollector tests with one that acknowledges early, or only what it has printed.
func testCollector(t *testing.T, command []string, early bool) {
	free := collect(t, "tcp", "127.0.0.1:0", acknowledging)
	free.stop()
	for _, at := range []Target{{Network: "tcp", Address: free.target.Address, Tag: "kvfs.test"}, {Network: "unix", Address: socketPath(t), Tag: "kvfs.test"}} {
		t.Run(at.Network, func(t *testing.T) {
			address := at.Address
			if at.Network == "unix" {
				address = at.Endpoint()
			}
			l, stderr, stop := testLogs(t, Bounds{Timeout: 500 * time.Millisecond}, at)
			numbered(l, 0, 10)
			stderr.await(t, "records cannot be sent")
			c := startCollector(t, command, address) // later than kvfs
			c.want(0, 10)

			const odd = "\"quoted\"\nü 😀 \xff"
			before := time.Now().UnixNano()
			l.Logger().Warn("record 10", "url", "https://contoso-web.vault.azure.net/secrets/www", "err", odd, "n", 5, "yes", true)
			r := c.want(10, 11)
			attributes := r["attributes"].(map[string]any)
			host, _ := os.Hostname()
			for name, want := range map[string]any{"fluent.tag": "kvfs.test", "level": "WARN", "certificate": "https://contoso-web.vault.azure.net/secrets/www",
				"error": strings.ToValidUTF8(odd, "\uFFFD"), "n": 5.0, "yes": true, "pid": float64(os.Getpid()), "hostname": host} {
				if attributes[name] != want {
					t.Errorf("%s is %v, want %v", name, attributes[name], want)
				}
			}
			if ns := r["ns"].(float64); ns < float64(before)-1e6 || ns > float64(time.Now().UnixNano())+1e6 {
				t.Errorf("time %v", ns)
			}

			for i := range 5 { // killed in the middle of what is sent
				numbered(l, 11+100*i, 61+100*i)
				printed := 31 + 100*i
				if early { // what it has not printed is lost with it
					printed = 61 + 100*i
				}
				c.want(11+100*i, printed)
				c.kill(syscall.SIGKILL)
				if at.Network == "unix" {
					_ = os.Remove(at.Address)
				}
				numbered(l, 61+100*i, 111+100*i)
				c.start()
				c.want(printed, 111+100*i)
			}

			_ = c.cmd.Process.Signal(syscall.SIGSTOP) // it accepts, and reads and says nothing
			began := time.Now()
			numbered(l, 511, 611)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("logging took %v", took)
			}
			stderr.await(t, "does not acknowledge")
			_ = c.cmd.Process.Signal(syscall.SIGCONT)
			c.want(511, 611)

			numbered(l, 611, 10_611)
			c.want(611, 10_611)
			stop()
			if s := l.Stats().Collector; s.Dropped != 0 || s.Waiting != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}
