package engine_test

import (
	"bytes"
	"context"
	stdlog "log" //nolint:depguard // must stay as it is
	"log/slog"
	"strings"
	"sync"
	"testing"

	"pelton/engine"
)

// heard is what a logger has written so far.
type heard struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(b)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

// A worker and a client log where they are told to, or nowhere; never where the
// program around them does.
func TestTheProgramsLoggerIsNotTouched(t *testing.T) {
	before, writer, flags := slog.Default(), stdlog.Writer(), stdlog.Flags() //nolint:forbidigo // to see that it stays
	var program heard
	mine := slog.New(slog.NewTextHandler(&program, &slog.HandlerOptions{Level: slog.Level(-100)}))
	slog.SetDefault(mine) //nolint:forbidigo // the canary
	t.Cleanup(func() {
		slog.SetDefault(before) //nolint:forbidigo // as it was
		stdlog.SetOutput(writer)
		stdlog.SetFlags(flags)
	})
	wired := stdlog.Writer()
	var given heard
	for _, logger := range []*slog.Logger{nil, slog.New(slog.NewTextHandler(&given, nil))} {
		s := newSystem(t)
		c, err := engine.Connect(s.ctx(), s.broker.URL(), engine.ClientConfig{Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		w := engine.NewWorker(c, engine.WorkerConfig{Logger: logger})
		engine.HandleRaw(w, "panics", func(context.Context, *engine.Message) ([]byte, error) { panic("loud") })
		ctx, drain := context.WithCancel(s.ctx())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		sent, err := c.SendRaw(s.ctx(), "default", "panics", []byte(`1`), engine.WithMaxAttempts(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sent.Wait(s.ctx()); err == nil {
			t.Error("a panic succeeds")
		}
		drain()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if slog.Default() != mine || stdlog.Writer() != wired { //nolint:forbidigo // to see that it stayed
		t.Error("the program's logger was changed")
	}
	if program.String() != "" {
		t.Errorf("the program's logger was written to: %s", program.String())
	}
	if !strings.Contains(given.String(), "worker started") {
		t.Errorf("the logger that was given has %q", given.String())
	}
	mine.Warn("the canary sings") // the control
	if !strings.Contains(program.String(), "the canary sings") {
		t.Error("the canary hears nothing")
	}
}
