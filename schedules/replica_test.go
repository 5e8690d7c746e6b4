package schedules

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"pelton/engine"
)

// replicaVariable makes the test's own binary a beat: `<url> <skew>`, and
// withoutFence one whose ledger expects nothing.
const (
	replicaVariable = "PELTON_TEST_REPLICA"
	withoutFence    = "unfenced"
)

func runReplica(spec string) {
	fields := strings.Fields(spec)
	skew, err := time.ParseDuration(fields[1])
	if err == nil {
		err = beatAt(fields[0], skew, slices.Contains(fields, withoutFence))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func beatAt(url string, skew time.Duration, bare bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c, err := engine.Connect(ctx, url, engine.ClientConfig{Logger: log})
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := NewBeat(c, Config{Logger: log})
	if err != nil {
		return err
	}
	b.clock = skewed{clockwork.NewRealClock(), skew}
	if bare {
		b.commit = unfenced(c.JetStream())
	}
	return b.Run(ctx)
}

// process is a beat as a process of its own.
type process struct {
	cmd *exec.Cmd
	log *logged
}

// process starts one. It is killed with the test, at the latest.
func (w *world) process(skew time.Duration, how ...string) *process {
	w.Helper()
	p := &process{log: newLogged()}
	p.cmd = exec.CommandContext(context.WithoutCancel(w.Context()), os.Args[0])
	p.cmd.Env = append(os.Environ(), replicaVariable+"="+w.broker.URL()+" "+skew.String()+" "+strings.Join(how, " "))
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { p.kill() })
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// kill ends the process without a word, and may be called again.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// A beat that is stopped longer than every timeout, and wakes up later, changes
// nothing that another has decided.
func TestStoppedBeatIsFenced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("ping", time.Second))
	first := w.process(0)
	w.decided("default", "ping", func(p position) bool { return p.Counts[Fired] >= 2 })
	first.signal(t, syscall.SIGSTOP)
	second := w.process(0)
	stopped := w.position("default", "ping").Counts[Fired]
	w.decided("default", "ping", func(p position) bool { return p.Counts[Fired] >= stopped+7 })
	first.signal(t, syscall.SIGCONT)
	second.kill()
	going := w.position("default", "ping").Counts[Fired]
	w.decided("default", "ping", func(p position) bool { return p.Counts[Fired] >= going+2 })
	first.kill()
	if fired, _ := w.whole("ping", "default", time.Second); fired < 8 {
		t.Errorf("fired %d; log:\n%s", fired, first.log)
	}
}
