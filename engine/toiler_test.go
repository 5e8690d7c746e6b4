package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/faulttest"
	"pelton/engine/wire"
)

// toiler is the configuration of a worker process under faults.
type toiler struct {
	URL     string // of one or several servers
	History string // the file to which its runs go
	Without protections
	Blind   bool // its records expect no revision
}

// toilBody is what a task under faults carries: how its handler is to behave.
type toilBody struct {
	N      int           `json:"n"`
	Work   time.Duration `json:"work,omitempty"`   // how long a run takes
	Fails  int           `json:"fails,omitempty"`  // attempts that fail before one succeeds
	Panics int           `json:"panics,omitempty"` // attempts that panic
	Wait   time.Duration `json:"wait,omitempty"`   // before the next attempt
	Bury   bool          `json:"bury,omitempty"`   // it can never succeed
}

// toilerProcess works the default queue until SIGTERM. It writes "ready", and
// each run goes to the history before and after the work.
func toilerProcess(configuration string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var cfg toiler
	if err := json.Unmarshal([]byte(configuration), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	history, err := faulttest.OpenWriter(cfg.History)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	c, err := Connect(ctx, cfg.URL, ClientConfig{NATS: []nats.Option{nats.RetryOnFailedConnect(true)}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	defer c.Close()
	c.blind = cfg.Blind
	w := NewWorker(c, WorkerConfig{
		Queues:      []Queue{{Name: DefaultQueue, Slots: 8}},
		Grace:       time.Second,
		MaxAttempts: 20,
		MaxDeaths:   1000, // they are killed, not by their tasks
		Backoff:     wire.Backoff{Min: 100 * time.Millisecond, Max: time.Second},
		Setup:       SetupOff, // the test keeps all revisions of records
		Logger:      log,
	})
	w.without = cfg.Without
	HandleRaw(w, "toil", func(_ context.Context, m *Message) ([]byte, error) { return toil(history, w.Name(), m) })
	HandleRaw(w, "bare", func(_ context.Context, m *Message) ([]byte, error) { return toil(history, w.Name(), m) }, WithoutResult())
	fmt.Println("ready")
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// toil is the handler. It does not look at its context, so that it outlives its
// lease: what it returns then must not be recorded.
func toil(history *faulttest.Writer, who string, m *Message) ([]byte, error) {
	var body toilBody
	if err := json.Unmarshal(m.Body, &body); err != nil {
		return nil, err
	}
	e := faulttest.Event{
		Kind: faulttest.KindBegin, N: body.N, ID: m.Info.ID, Run: m.Info.Run, Attempt: m.Info.Attempt, Fence: m.Info.Fence, Who: who,
		Bare: m.Info.Task == "bare",
	}
	if err := history.Write(e); err != nil {
		return nil, err
	}
	<-time.After(body.Work)
	e.At, e.Kind, e.Outcome = 0, faulttest.KindEnd, faulttest.Failed
	again := body.Bury || m.Info.Attempt <= body.Fails+body.Panics
	if !again {
		e.Outcome = faulttest.Done
	}
	if err := history.Write(e); err != nil {
		return nil, err
	}
	switch {
	case body.Bury:
		return nil, Permanent(errors.New("hopeless"))
	case again && m.Info.Attempt <= body.Panics:
		panic("on purpose")
	case again:
		return nil, RetryIn(body.Wait, errors.New("bad luck"))
	}
	return json.Marshal(faulttest.Result{N: e.N, Attempt: e.Attempt, Fence: e.Fence, Who: who})
}
