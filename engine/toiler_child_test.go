//go:build e2e

package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// toilerChild is a worker process under faults. Whoever takes it has it alone.
type toilerChild struct {
	victim
	name   string
	env    []string
	cmd    *exec.Cmd
	stderr *lastLines
	ended  chan struct{} // closed when the process is gone
	err    error         // of the process, once it is
	mine   chan struct{} // closed when its end is wanted
}

// startToilers starts the workers of a run.
func (w *faults) startToilers(urls string) {
	w.t.Helper()
	configuration := must(json.Marshal(toiler{URL: urls, History: w.path, Without: w.plan.without, Blind: w.plan.blind}))
	for i := range 4 {
		child := &toilerChild{name: "worker " + strconv.Itoa(i), env: append(os.Environ(), "PELTON_TEST_TOILER="+string(configuration))}
		child.start(w.t)
		w.toilers = append(w.toilers, child)
		w.t.Cleanup(func() {
			_ = child.cmd.Process.Kill()
			<-child.ended
		})
	}
}

// start starts the process and waits until it is about to work.
func (c *toilerChild) start(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	c.cmd, c.stderr, c.ended, c.mine = cmd, &lastLines{}, make(chan struct{}), make(chan struct{})
	cmd.Env, cmd.Stderr = c.env, c.stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Errorf("%s: %v", c.name, err)
		close(c.ended)
		return
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Errorf("%s: %v\n%s", c.name, err, c.stderr)
	}
	ended, mine, stderr := c.ended, c.mine, c.stderr
	go func() {
		defer close(ended)
		c.err = cmd.Wait()
		if strings.Contains(stderr.String(), "DATA RACE") {
			t.Errorf("%s: %s", c.name, stderr)
		}
		select {
		case <-mine:
		default:
			t.Errorf("%s ended by itself: %v\n%s", c.name, c.err, stderr)
		}
	}()
}

func (c *toilerChild) kill(t *testing.T) {
	t.Helper()
	close(c.mine)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
	<-c.ended
}

// end ends the worker as an operator does; it must end well.
func (c *toilerChild) end(t *testing.T) {
	t.Helper()
	close(c.mine)
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		_ = c.cmd.Process.Signal(syscall.SIGQUIT)
		<-c.ended
	}
	if c.err != nil {
		t.Errorf("%s after SIGTERM: %v\n%s", c.name, c.err, c.stderr)
	}
}

func (c *toilerChild) freeze(t *testing.T, d time.Duration) {
	t.Helper()
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := c.cmd.Process.Signal(signal); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if signal == syscall.SIGSTOP {
			<-time.After(d)
		}
	}
}

// lastLines keeps the end of what a process says.
type lastLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lastLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > 64<<10 {
		l.text.Next(32 << 10)
	}
	return l.text.Write(b)
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
