package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUnitAndContainerOfAControlGroup(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for group, want := range map[string][2]string{
		"/":                           {},
		"":                            {},
		"/system.slice/nginx.service": {"nginx.service", ""},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope":                  {"run-1.scope", ""},
		"/system.slice/docker-" + id + ".scope":                                                {"docker-" + id + ".scope", id},
		"/docker/" + id:                                                                        {"", id},
		"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope":                  {"cri-containerd-" + id + ".scope", id},
		"/kubepods/burstable/pod1/" + id:                                                       {"", id},
		"/machine.slice/libpod-" + id + ".scope/container":                                     {"libpod-" + id + ".scope", id},
		"/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:" + id: {"containerd.service", id},
		"/" + strings.ToUpper(id):                                                              {},
		"/../../x.service":                                                                     {"x.service", ""},
	} {
		if unit, container := within(group); unit != want[0] || container != want[1] {
			t.Errorf("%s: unit %q, container %q, want %q", group, unit, container, want)
		}
	}
}

// A process may call itself what it likes.
func TestNameWithParentheses(t *testing.T) {
	dir := t.TempDir()
	const after = " S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1"
	open, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(open)
	for text, want := range map[string]string{
		"7 (nginx)" + after:             "nginx",
		"7 (a) b (c)" + after:           "a) b (c",
		"7 ()" + after:                  "",
		"7 ((((\n))))" + after:          "(((\n)))",
		"7 (x) R 1 2 3 4 5) (y" + after: "error",
		"7 (x) S 1":                     "error",
		"":                              "error",
		") (":                           "error",
	} {
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command, started, err := stat(open)
		switch {
		case want == "error":
			if err == nil && started == 4711 {
				t.Errorf("%q is understood as %q", text, command)
			}
		case err != nil || command != want || started != 4711:
			t.Errorf("%q: %q, %d, %v", text, command, started, err)
		}
	}
}

func TestFilesThatHaveLostTheirNamesAreKnownForAWhile(t *testing.T) {
	f := newFiles()
	f.apply(tally{Files: []File{{Inode: 1, Path: "a"}, {Inode: 2, Path: "b", Key: true}}})
	f.apply(tally{Gone: []uint64{1, 7}})
	f.apply(tally{Reset: true, Files: []File{{Inode: 3, Path: "c"}}})
	for id, path := range map[uint64]string{1: "a", 2: "b", 3: "c"} {
		if e, ok := f.of(id); !ok || e.Path != path {
			t.Errorf("file %d: %+v", id, e)
		}
	}
	for i := range uint64(2 * rememberedFormer) {
		f.apply(tally{Files: []File{{Inode: 100 + i}}})
		f.apply(tally{Gone: []uint64{100 + i}})
	}
	if _, ok := f.of(1); ok || len(f.former) != rememberedFormer || len(f.named) != 1 {
		t.Errorf("%d former files, %d named", len(f.former), len(f.named))
	}
}

// What nobody reads has room up to a bound; what has none is counted, and that is said
// as soon as there is room.
func TestLinesWithoutRoomAreCounted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := newOutput(w)
	written := make(chan error, 1)
	go func() { written <- o.write() }()
	line := append(bytes.Repeat([]byte("x"), 1000), '\n')
	for i := 0; ; i++ {
		if i > 3*bufferedLines/len(line) {
			t.Fatal("there is always room")
		}
		if !o.add(line) {
			break
		}
	}
	for range 9 {
		o.add(line)
	}
	state := func() (r Report) {
		o.report(&r)
		return r
	}
	if r := state(); r.Dropped != 10 || r.Waiting > 2*bufferedLines || r.Waiting < bufferedLines-len(line) || r.WaitingLines != r.Waiting/len(line) || r.Trouble != nil {
		t.Errorf("%+v", r)
	}
	lines := bufio.NewReaderSize(r, 1<<20)
	for range 2 * bufferedLines / len(line) {
		if state().Waiting < bufferedLines/2 {
			break
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if !o.add([]byte("again\n")) {
		t.Fatal("no room, after half of it was read")
	}
	o.close()
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, "{") {
			continue
		}
		var said struct {
			Audit string
			Lines int
		}
		if err := json.Unmarshal([]byte(text), &said); err != nil || said.Audit != "dropped" || said.Lines != 10 {
			t.Errorf("it says %s", text)
		}
		if next, _ := lines.ReadString('\n'); next != "again\n" {
			t.Errorf("then it says %q", next)
		}
		break
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if r := state(); r.Waiting != 0 || r.WaitingLines != 0 {
		t.Errorf("when all is written: %+v", r)
	}
}

// A write that is not over soon is told, with what waits for it.
func TestOutputThatHangsIsToldAfterAWhile(t *testing.T) {
	began := time.Now()
	for _, c := range []struct {
		path string
		ago  time.Duration
		want string // a part of the fact; "": nothing is wrong
	}{
		{"", hangsAfter / 2, ""},
		{"", hangsAfter + time.Second, "nobody has read the log for 4s: 7 lines of the audit wait, 3 were dropped"},
		{"/var/log/kvfs/audit.log", 2 * time.Minute, "the audit file /var/log/kvfs/audit.log has not answered for 2m0s: 7 lines wait, 3 were dropped"},
	} {
		o := &output{path: c.path, lines: 7, dropped: 3, began: began.Add(-c.ago)}
		var r Report
		o.report(&r)
		if (c.want == "") != (r.Trouble == nil && r.HangsSince == nil) || r.Trouble != nil && (r.Trouble.Fact != c.want || r.Trouble.Hint == "" || !r.HangsSince.Equal(o.began.Truncate(time.Second))) {
			t.Errorf("after %v: %+v, %+v since %v", c.ago, r.Trouble, r, r.HangsSince)
		}
	}
}

// A server asks, dies without hearing the answer, and the next one asks by the same door;
// when nobody has it any more the auditor ends.
func TestDoorOutlivesTheServer(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "audit.log")
	a, err := New(os.NewFile(uintptr(pair[1]), "door"), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	watched, written := make(chan error, 1), make(chan error, 1)
	go func() { watched <- a.Watch() }()
	go func() { written <- a.Write() }()
	kept, err := unix.FcntlInt(uintptr(pair[0]), unix.F_DUPFD_CLOEXEC, 3) // the keeper's
	if err != nil {
		t.Fatal(err)
	}
	server := func(door int) (*Client, chan error) {
		c, err := NewClient(os.NewFile(uintptr(door), "door"))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run() }()
		return c, ended
	}
	first, ended := server(pair[0])
	if err := first.Configure(t.Context(), Options{File: file}); err != nil {
		t.Fatal(err)
	}
	if err := first.Files(true, []File{{Inode: 9, Path: "/x"}}, nil); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-ended; !errors.Is(err, ErrEnded) {
		t.Error("the first server:", err)
	}
	if _, err := first.Report(t.Context()); !errors.Is(err, ErrEnded) {
		t.Error("a report after the end:", err)
	}
	// One that asks, and does not hear the answer.
	ask, _ := json.Marshal(message{ID: 7, Ask: askReport})
	for range 20 {
		if err := unix.Sendmsg(kept, ask, nil, nil, unix.MSG_NOSIGNAL); err != nil {
			t.Fatal(err)
		}
	}
	another, err := unix.FcntlInt(uintptr(kept), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	second, ended := server(another)
	var refused *Error
	if err := second.Configure(t.Context(), Options{File: filepath.Dir(file)}); !errors.As(err, &refused) || refused.Hint == "" {
		t.Error("a directory as an audit file:", err)
	}
	if all, err := second.Readers(t.Context(), ""); err != nil || len(all) != 0 {
		t.Error("readers:", all, err)
	}
	if r, err := second.Report(t.Context()); err != nil || r.Process != os.Getpid() || r.Trouble == nil {
		t.Errorf("the report: %+v, %v", r, err)
	}
	unix.Close(kept)
	second.Close()
	<-ended
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Error("the audit file:", info, err)
	}
}

// The kernel's messages are taken apart within their bounds.
func TestNetlinkMessagesThatAreCutOff(t *testing.T) {
	whole := []byte{20, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 20, 0, 0, 0, 8, 0}
	n := 0
	for kind, payload := range netlinkMessages(whole) {
		n++
		if kind != 9 || len(payload) != 4 {
			t.Errorf("message %d of %v", kind, payload)
		}
	}
	if n != 1 {
		t.Errorf("%d messages", n)
	}
	for _, b := range [][]byte{{}, {1}, {0, 0, 1, 0}, {3, 0, 1, 0}, {8, 0, 1, 0}, {5, 0, 1, 0, 7}} {
		for kind, value := range attributes(b) {
			if len(b) != 5 || kind != 1 || len(value) != 1 {
				t.Errorf("%v: attribute %d of %v", b, kind, value)
			}
		}
	}
}
