package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// system is a broker with the streams of a queue and a client on it.
type system struct {
	t      *testing.T
	broker *enginetest.Broker
	client *engine.Client
}

func newSystem(t *testing.T, queues ...topology.Queue) *system {
	t.Helper()
	if len(queues) == 0 {
		queues = []topology.Queue{{Name: "default"}}
	}
	s := &system{t: t, broker: enginetest.Start(t)}
	s.broker.SetupWith(topology.Config{Queues: queues})
	s.client = s.connect()
	return s
}

func (s *system) connect() *engine.Client {
	s.t.Helper()
	c, err := engine.NewClient(s.broker.Conn(engine.ConnectOptions(nil)...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// work runs a worker until the test ends or the function returned is called,
// which reports what Run returned.
func (s *system) work(w *engine.Worker) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	s.t.Cleanup(func() {
		if err := stop(); err != nil {
			s.t.Errorf("worker: %v", err)
		}
	})
	return stop
}

func (s *system) ctx() context.Context {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// empty fails unless nothing is left in either lane of a queue. A request that
// meets a broker on its way down is asked again.
func (s *system) empty(queue string) {
	s.t.Helper()
	ns, lane := wire.DefaultNamespace, wire.PlainLane(queue)
	for _, name := range []string{ns.TaskStream(lane), ns.LaterStream(lane)} {
		s.until("stream "+name+" is empty", func() bool {
			state, ok := s.state(name)
			return ok && state.Msgs == 0
		})
	}
}

// state is the state of a stream, if the broker answers at once.
func (s *system) state(stream string) (jetstream.StreamState, bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
	defer cancel()
	info, err := s.client.JetStream().Stream(ctx, stream)
	if err != nil {
		return jetstream.StreamState{}, false
	}
	return info.CachedInfo().State, true
}

// stands is the state of a stream, asked for until the broker answers.
func (s *system) stands(stream string) (state jetstream.StreamState) {
	s.t.Helper()
	s.until("stream "+stream+" is read", func() (ok bool) {
		state, ok = s.state(stream)
		return ok
	})
	return state
}

var greet = engine.NewTask[string, string]("greet")

func TestSendRunWait(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 4}}})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return "hello, " + name, nil })
	s.work(w)
	for i := range 50 {
		r, err := greet.Send(s.ctx(), s.client, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("default-%d", i+1); r.ID() != want {
			t.Errorf("id %s, want %s", r.ID(), want)
		}
		got, err := r.Wait(s.ctx())
		if err != nil || got != fmt.Sprintf("hello, %d", i) {
			t.Fatalf("wait: %q, %v", got, err)
		}
	}
	s.empty("default")
}

func TestRetryThenSuccess(t *testing.T) {
	s := newSystem(t)
	flaky := engine.NewTask[int, int]("flaky", engine.WithMaxAttempts(4), engine.WithBackoff(time.Millisecond, 20*time.Millisecond))
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	var early atomic.Int32
	engine.Handle(w, flaky, func(ctx context.Context, n int) (int, error) {
		info, _ := engine.InfoFrom(ctx)
		if info.Attempt < n {
			return 0, fmt.Errorf("attempt %d fails", info.Attempt)
		}
		if info.Attempt > 1 && info.Fence == 0 {
			early.Add(1)
		}
		return info.Attempt, nil
	})
	s.work(w)
	r, err := flaky.Send(s.ctx(), s.client, 3)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Wait(s.ctx())
	if err != nil || got != 3 {
		t.Fatalf("wait: %d, %v", got, err)
	}
	if early.Load() != 0 {
		t.Error("a retried attempt ran without a fence")
	}
	record, err := r.Record(s.ctx())
	if err != nil || record.State != wire.StateSucceeded || record.Attempt != 3 || len(record.Attempts) != 2 {
		t.Fatalf("record %+v, %v", record, err)
	}
	s.empty("default")
}

func TestDeadLetter(t *testing.T) {
	s := newSystem(t)
	hopeless := engine.NewTask[string, string]("hopeless", engine.WithMaxAttempts(2), engine.WithBackoff(time.Millisecond, time.Millisecond))
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.Handle(w, hopeless, func(_ context.Context, in string) (string, error) {
		switch in {
		case "panic":
			panic("at the disco")
		case "permanent":
			return "", engine.Permanent(errors.New("no such thing"))
		case "large":
			return strings.Repeat("x", 600<<10), nil
		}
		return "", errors.New("always\nso")
	})
	s.work(w)
	for _, tc := range []struct {
		in, kind, message string
		attempts          int
	}{
		{"error", "error", "always\nso", 2},
		{"panic", "panic", "panic: at the disco", 2},
		{"permanent", "error", "no such thing", 1},
		{"large", "too_large", "result: body: 614402 bytes, must be at most 524288 bytes", 1},
	} {
		t.Run(tc.in, func(t *testing.T) {
			r, err := hopeless.Send(s.ctx(), s.client, tc.in, engine.WithHeader("X-Mine", "kept"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Wait(s.ctx())
			var te *engine.TaskError
			if !errors.As(err, &te) || te.Type != tc.kind || te.Message != tc.message || te.Attempt != tc.attempts {
				t.Fatalf("wait: %v", err)
			}
			if tc.kind == "panic" && !strings.Contains(te.Stack, "worker_test.go") {
				t.Errorf("stack %q", te.Stack)
			}
			stream, _ := s.client.JetStream().Stream(s.ctx(), "PELTON_DEAD")
			m, err := stream.GetLastMsgForSubject(s.ctx(), "pelton.dead.default.hopeless."+r.ID())
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Header.Get("Pelton-Error"); got != strings.ReplaceAll(tc.message, "\n", " ") || m.Header.Get("X-Mine") != "kept" || string(m.Data) != `"`+tc.in+`"` {
				t.Errorf("dead letter %v %s", m.Header, m.Data)
			}
		})
	}
	s.empty("default")
}

func TestRawPublishNeedsNoPelton(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "print", func(_ context.Context, m *engine.Message) ([]byte, error) { return m.Body, nil })
	s.work(w)
	nc := s.broker.Conn()
	js, _ := jetstream.New(nc)
	ack, err := js.Publish(s.ctx(), "pelton.task.default.print", []byte(`{"message":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(s.ctx(), "PELTON_RESULTS_default")
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.Watch(s.ctx(), fmt.Sprintf("default-%d", ack.Sequence))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Stop() }()
	for e := range watch.Updates() {
		if e != nil && strings.Contains(string(e.Value()), `"state":"succeeded"`) {
			return
		}
	}
}

func TestDelayHeaderIsParkedByTheWorker(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	ran := make(chan time.Time, 8)
	engine.HandleRaw(w, "late", func(context.Context, *engine.Message) ([]byte, error) { ran <- time.Now(); return nil, nil })
	s.work(w)
	m := nats.NewMsg("pelton.task.default.late")
	m.Header.Set("pelton-delay", "3s")
	m.Data = []byte(`{}`)
	sent := time.Now().Round(0)
	ack, err := s.client.JetStream().PublishMsg(s.ctx(), m)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("default-%d", ack.Sequence)
	if _, err := s.client.Wait(s.ctx(), "default", id); err != nil {
		t.Fatal(err)
	}
	if after := (<-ran).Sub(sent); after < 3*time.Second {
		t.Errorf("ran %s after it was sent", after)
	}
	s.empty("default")
}
