package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// deaf is a handler that ignores its context until it is released. A body of
// "exit" ends its goroutine then.
func deaf(release <-chan struct{}) engine.Handler {
	return func(_ context.Context, m *engine.Message) ([]byte, error) {
		<-release
		if string(m.Body) == `"exit"` {
			runtime.Goexit()
		}
		return []byte(`"too late"`), nil
	}
}

// The attempt of a handler that does not stop fails by its timeout, with the
// stack of where it hangs; its slot works on, and what it says later is refused.
// The control, with a grace that never ends, loses its only slot.
func TestHandlerThatIgnoresItsTimeout(t *testing.T) {
	t.Parallel()
	for _, grace := range []time.Duration{300 * time.Millisecond, time.Hour} {
		s := newSystem(t)
		var said heard
		stuck := make(chan engine.TaskEvent, 10)
		w := engine.NewWorker(s.client, engine.WorkerConfig{
			Queues: one(1), StuckAfter: grace, Logger: slog.New(slog.NewTextHandler(&said, nil)), Grace: time.Millisecond,
			Hooks: engine.Hooks{Stuck: func(e engine.TaskEvent) { stuck <- e }},
		})
		release := make(chan struct{})
		engine.HandleRaw(w, "deaf", deaf(release))
		engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
		stop := s.work(w)
		r, err := s.client.SendRaw(s.ctx(), "default", "deaf", []byte(`"secret"`), engine.WithTimeout(50*time.Millisecond), engine.WithMaxAttempts(1))
		if err != nil {
			t.Fatal(err)
		}
		neighbour, err := greet.Send(s.ctx(), s.client, "you")
		if err != nil {
			t.Fatal(err)
		}
		if grace == time.Hour {
			waiting, cancel := context.WithTimeout(s.ctx(), 2*time.Second)
			if _, err := neighbour.Wait(waiting); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("control: the neighbour ran: %v", err)
			}
			cancel()
			close(release)
			continue
		}
		var te *engine.TaskError
		if _, err := r.Wait(s.ctx()); !errors.As(err, &te) || te.Type != wire.FailureTimeout || !strings.HasSuffix(te.Message, "(50ms); its handler did not stop") {
			t.Fatalf("wait: %v", err)
		}
		if !strings.Contains(te.Stack, "stuck_test.go") || !strings.Contains(te.Stack, "chan receive") {
			t.Errorf("stack %q", te.Stack)
		}
		if got, err := neighbour.Wait(s.ctx()); err != nil || got != "you" {
			t.Fatalf("neighbour: %q, %v", got, err)
		}
		if e := <-stuck; e.ID != r.ID() || e.Failure == nil || e.Failure.Stack != te.Stack {
			t.Errorf("told: %+v", e)
		}
		if !w.Health().Ready() {
			t.Errorf("health %+v", w.Health())
		}
		close(release)
		s.until("the handler is heard of", func() bool { return strings.Contains(said.String(), "its outcome is refused") })
		if record, err := r.Record(s.ctx()); err != nil || record.State != wire.StateFailed || record.Result != nil {
			t.Errorf("record %+v, %v", record, err)
		}
		s.empty("default")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if text := said.String(); strings.Count(text, "handler ignores its context") != 1 || !strings.Contains(text, "stuck_test.go") || strings.Contains(text, "secret") {
			t.Errorf("log: %s", text)
		}
	}
}

// As many handlers as there are slots are left behind, and no more: then the
// worker is not alive. When they return it has its slots again, and not one
// more.
func TestHandlersLeftBehindAreBounded(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var said heard
	w := engine.NewWorker(s.client, engine.WorkerConfig{
		Queues: one(2), StuckAfter: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil)),
	})
	release, hold := make(chan struct{}), make(chan struct{})
	var running atomic.Int32
	engine.HandleRaw(w, "deaf", deaf(release))
	engine.HandleRaw(w, "hold", func(context.Context, *engine.Message) ([]byte, error) {
		running.Add(1)
		<-hold
		return nil, nil
	})
	s.work(w)
	for range 2 {
		for _, body := range []string{`"exit"`, `"return"`} {
			if _, err := s.client.SendRaw(s.ctx(), "default", "deaf", []byte(body), engine.WithTimeout(20*time.Millisecond), engine.WithMaxAttempts(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.until("the worker is not alive", func() bool { return !w.Health().Alive() })
	if stalled := w.Health().Stalled; !strings.HasPrefix(strings.Join(stalled, ""), "queue default: ") {
		t.Errorf("stalled: %q", stalled)
	}
	s.until("all attempts are settled all the same", func() bool {
		state, ok := s.state("PELTON_TASKS_default")
		return ok && state.Msgs == 0
	})
	for range 6 {
		s.publish("pelton.task.default.hold", `1`)
	}
	if running.Load() != 0 {
		t.Error("more slots than were to be replaced")
	}
	close(release)
	s.until("the slots are back", func() bool { return running.Load() == 2 && w.Health().Ready() })
	if pending, held := s.counted("PELTON_TASKS_default", "workers", 6); pending != 4 || held != 2 || running.Load() != 2 {
		t.Errorf("pending %d, held %d, running %d; want 4, 2 and 2", pending, held, running.Load())
	}
	close(hold)
	s.empty("default")
	if n := strings.Count(said.String(), "no more slots are replaced"); n != 1 {
		t.Errorf("said %d times that no more slots are replaced", n)
	}
}

// A revoked task whose handler does not stop is done with, and one that lost its
// lease runs again here although its first run never ends.
func TestHandlerThatIgnoresRevocationAndLostLease(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(2), StuckAfter: 100 * time.Millisecond})
	release, running := make(chan struct{}), make(chan string, 10)
	defer close(release)
	var runs atomic.Int32
	engine.HandleRaw(w, "deaf", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		running <- m.Info.ID
		if runs.Add(1) < 3 {
			return deaf(release)(ctx, m)
		}
		return []byte(`"ok"`), nil
	})
	s.work(w)
	revoked := s.publish("pelton.task.default.deaf", `1`)
	<-running
	if _, err := s.client.Cancel(s.ctx(), "default", revoked); err != nil {
		t.Fatal(err)
	}
	s.empty("default")
	lost, err := s.client.SendRaw(s.ctx(), "default", "deaf", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	s.broker.Stop()
	s.until("the lease is lost", func() bool { return !w.Health().Ready() })
	<-time.After(1500 * time.Millisecond) // longer than AckWait
	if err := s.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	if got, err := lost.Wait(s.ctx()); err != nil || string(got) != `"ok"` {
		t.Fatalf("%s, %v", got, err)
	}
	if runs.Load() != 3 {
		t.Errorf("%d runs, want 3", runs.Load())
	}
}
