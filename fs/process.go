package fs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a publisher as its server sees it.
type process struct {
	cmd     *exec.Cmd
	plans   io.WriteCloser
	answers *json.Decoder
	thread  uint32
}

// startPublisher starts the command of a publisher with the directory as its
// descriptor 3. It gets no other descriptor of ours: all are close-on-exec.
func startPublisher(command []string, dir *os.File, stderr io.Writer) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.ExtraFiles = []*os.File{dir}
	cmd.Stderr = stderr
	// Out of the terminal's process group: an interrupt there must not kill the
	// publisher in the middle of a plan. It ends when its input does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	plans, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the publisher: %w", err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the publisher: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the publisher: %w", err)
	}
	p := &process{cmd: cmd, plans: plans, answers: json.NewDecoder(bufio.NewReader(answers))}
	var h hello
	if err := p.answers.Decode(&h); err != nil || h.Thread <= 0 {
		p.stop()
		return nil, fmt.Errorf("starting the publisher: it did not say hello: %w", errors.Join(err, errors.New("no thread")))
	}
	p.thread = uint32(h.Thread)
	return p, nil
}

// errPublisherDied says that the publisher ended in the middle of a plan.
var errPublisherDied = errors.New("the publisher process died")

// carryOut hands over a plan and waits until it is done.
func (p *process) carryOut(plan []step) error {
	if err := json.NewEncoder(p.plans).Encode(plan); err != nil {
		return fmt.Errorf("%w: %w", errPublisherDied, err)
	}
	var d done
	if err := p.answers.Decode(&d); err != nil {
		return fmt.Errorf("%w: %w", errPublisherDied, err)
	}
	if d.Error != "" {
		return fmt.Errorf("publishing (step %d of %d): %s", d.Steps+1, len(plan), d.Error)
	}
	return nil
}

// How long a publisher may take to end by itself.
const publisherPatience = 2 * time.Second

// stop ends the publisher. The server must still answer, or a publisher that
// waits for it could not end.
func (p *process) stop() {
	p.plans.Close()
	late := time.AfterFunc(publisherPatience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait() // how it ends is of no interest any more
}
