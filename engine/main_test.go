package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestMain is also the main of the processes that tests start.
func TestMain(m *testing.M) {
	if url := os.Getenv("PELTON_TEST_WORKER"); url != "" {
		deaths := 1000 // workers are killed here, not by their tasks
		if os.Getenv("PELTON_TEST_POISON") != "" {
			deaths = 2
		}
		os.Exit(workerProcess(url, os.Getenv("PELTON_TEST_ACK_FIRST") != "", deaths))
	}
	if toil := os.Getenv("PELTON_TEST_TOILER"); toil != "" {
		os.Exit(toilerProcess(toil))
	}
	if node := os.Getenv("PELTON_TEST_NODE"); node != "" {
		os.Exit(nodeProcess(node))
	}
	if folder := os.Getenv("PELTON_TEST_BROKER"); folder != "" {
		os.Exit(brokerProcess(folder))
	}
	ignored := []goleak.Option{
		// A server that is stopped while a batch is open may forget its store.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
	goleak.VerifyTestMain(enginetest.Patient{M: m, Leaks: func() error { return goleak.Find(ignored...) }}, ignored...)
}

// nodeProcess is a broker until SIGTERM. Its address is the first line it
// writes.
func nodeProcess(node string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var cfg enginetest.ServerConfig
	if err := json.Unmarshal([]byte(node), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := enginetest.NewServer(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.URL())
	<-ctx.Done()
	s.Stop()
	return 0
}

// chainAttempts is how many attempts the task "chain" needs, each soon after the
// one before.
const chainAttempts = 10

// dieAt ends the process when the second attempt of a task is first written
// with a state.
func dieAt(state wire.State) func(*Record) {
	return func(r *Record) {
		if r.State != state || r.Attempt != 2 || r.Deaths != 0 {
			return
		}
		// Once: who parks the attempt again writes the same record.
		died, err := os.OpenFile(os.Getenv("PELTON_TEST_DIED"), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = died.Close()
			os.Exit(3)
		}
	}
}

// die ends the process, in one of the ways in which a handler can.
func die(how string) error {
	switch how {
	case `"exit"`:
		os.Exit(3)
	case `"panic"`:
		go func() { panic("in a goroutine of its own") }()
	case `"memory"`:
		for taken := [][]byte{}; ; {
			taken = append(taken, make([]byte, 64<<20))
		}
	}
	<-time.After(time.Minute)
	return errors.New("still here")
}

// workerProcess works the default queue until SIGTERM. It writes a line once it
// hears that signal.
func workerProcess(url string, ackFirst bool, deaths int) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	c, err := Connect(ctx, url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	defer c.Close()
	w := NewWorker(c, WorkerConfig{
		Queues:      []Queue{{Name: DefaultQueue, Slots: 8}},
		MaxAttempts: 20,
		MaxDeaths:   deaths,
		Hooks:       Hooks{Recorded: dieAt(wire.State(os.Getenv("PELTON_TEST_DIE_AT")))},
	})
	w.without.RecordFirst = ackFirst
	HandleRaw(w, "toil", func(_ context.Context, m *Message) ([]byte, error) {
		<-time.After(time.Duration(rand.Int64N(int64(30 * time.Millisecond)))) // the work
		if rand.IntN(20) == 0 {
			return nil, RetryIn(time.Duration(rand.Int64N(int64(200*time.Millisecond))), errors.New("bad luck"))
		}
		return m.Body, nil
	})
	HandleRaw(w, "nop", func(context.Context, *Message) ([]byte, error) { return nil, nil })
	HandleRaw(w, "chain", func(_ context.Context, m *Message) ([]byte, error) {
		if m.Info.Attempt < chainAttempts {
			return nil, RetryIn(time.Duration(rand.Int64N(int64(400*time.Millisecond))), errors.New("again"))
		}
		return m.Body, nil
	})
	HandleRaw(w, "slow", func(context.Context, *Message) ([]byte, error) {
		<-time.After(300 * time.Millisecond) // the work
		return nil, nil
	})
	HandleRaw(w, "kill", func(_ context.Context, m *Message) ([]byte, error) {
		<-time.After(100 * time.Millisecond) // others have begun
		return nil, die(string(m.Body))
	})
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
