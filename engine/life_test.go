package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func one(slots int) []engine.Queue { return []engine.Queue{{Name: "default", Slots: slots}} }

// acks is what a lane's consumer says of itself.
func (s *system) acks(stream, durable string) (pending, held int) {
	s.t.Helper()
	consumer, err := s.client.JetStream().Consumer(s.ctx(), stream, durable)
	if err != nil {
		s.t.Fatal(err)
	}
	info := consumer.CachedInfo()
	return int(info.NumPending), info.NumAckPending
}

// counted is acks once the consumer has heard of so many messages, which is a
// little later than who published them.
func (s *system) counted(stream, durable string, messages int) (pending, held int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s counts %d messages", durable, messages), func() bool {
		pending, held = s.acks(stream, durable)
		return pending+held == messages
	})
	return pending, held
}

// until asks again until it holds; the context of the test bounds it.
func (s *system) until(what string, holds func() bool) {
	s.t.Helper()
	ctx := s.ctx()
	for tick := time.NewTicker(10 * time.Millisecond); !holds(); {
		select {
		case <-ctx.Done():
			s.t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// TestWorkerEndedWhileItBindsLeavesNothing ends workers at any moment of their
// beginning: whatever they had subscribed to by then has gone.
func TestWorkerEndedWhileItBindsLeavesNothing(t *testing.T) {
	s := newSystem(t)
	if _, err := s.client.JetStream().AccountInfo(s.ctx()); err != nil { // subscribes to the answers of all requests
		t.Fatal(err)
	}
	before := s.client.Conn().NumSubscriptions()
	for i := range 60 {
		w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
		ctx, end := context.WithTimeout(s.ctx(), time.Duration(i)*200*time.Microsecond)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		end()
	}
	if after := s.client.Conn().NumSubscriptions(); after != before {
		t.Errorf("%d subscriptions left, %d before", after, before)
	}
}

func TestWorkerHoldsOnlyWhatItsSlotsUse(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
	release, running := make(chan struct{}), make(chan struct{}, 100)
	engine.HandleRaw(w, "block", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-release
		return nil, nil
	})
	s.work(w)
	for range 20 {
		if _, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		<-running
	}
	if pending, held := s.counted("PELTON_TASKS_default", "workers", 20); pending != 16 || held != 4 {
		t.Errorf("pending %d, held %d; want 16 and 4", pending, held)
	}
	close(release)
	for range 16 {
		<-running
	}
	s.empty("default")
}

func TestLongTaskIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	// A machine that stalls for as long as a lease has a task run twice.
	s := newSystem(t, topology.Queue{Name: "default", AckWait: 4 * time.Second})
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	var runs atomic.Int32
	long := engine.NewTask[int, int]("long")
	engine.Handle(w, long, func(ctx context.Context, n int) (int, error) {
		runs.Add(1)
		select {
		case <-time.After(13 * time.Second): // more than three times AckWait
			return n, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})
	s.work(w)
	r, err := long.Send(s.ctx(), s.client, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.until("the record says started", func() bool {
		record, err := r.Record(s.ctx())
		return err == nil && record.State == wire.StateStarted && record.Worker == w.Name()
	})
	if _, err := r.Wait(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
	s.empty("default")
}

func TestUnknownTaskIsParkedThenBuried(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{UnknownTaskPark: 600 * time.Millisecond, UnknownTaskAfter: time.Second})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "nobody", []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Wait(s.ctx())
	var te *engine.TaskError
	if !errors.As(err, &te) || te.Type != wire.FailureUnknownTask || te.Attempt != 1 {
		t.Fatalf("wait: %v", err)
	}
	record, err := r.Record(s.ctx())
	if err != nil || len(record.Attempts) != 1 || record.FinishedAt.Sub(record.QueuedAt) < time.Second {
		t.Errorf("record %+v, %v", record, err)
	}
	s.empty("default")
}

func TestUnknownTaskWaitsForAWorkerThatKnowsIt(t *testing.T) {
	s := newSystem(t)
	stop := s.work(engine.NewWorker(s.client, engine.WorkerConfig{UnknownTaskPark: 600 * time.Millisecond}))
	r, err := greet.Send(s.ctx(), s.client, "you")
	if err != nil {
		t.Fatal(err)
	}
	s.until("parked", func() bool {
		record, err := r.Record(s.ctx())
		return err == nil && record.State == wire.StateScheduled && record.Error.Type == wire.FailureUnknownTask
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return "hi " + name, nil })
	s.work(w)
	if got, err := r.Wait(s.ctx()); err != nil || got != "hi you" {
		t.Fatalf("%q, %v", got, err)
	}
	record, err := r.Record(s.ctx())
	if err != nil || record.Attempt != 1 {
		t.Errorf("parking used an attempt: %+v, %v", record, err)
	}
}

func TestAttemptRunsOutOfTime(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	slow := engine.NewTask[int, int]("slow", engine.WithTimeout(50*time.Millisecond), engine.WithMaxAttempts(1))
	engine.Handle(w, slow, func(ctx context.Context, _ int) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
	s.work(w)
	r, err := slow.Send(s.ctx(), s.client, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Wait(s.ctx())
	var te *engine.TaskError
	if !errors.As(err, &te) || te.Type != wire.FailureTimeout {
		t.Fatalf("wait: %v", err)
	}
}

func TestShutdownFinishesWhatRunsAndHandsBackTheRest(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1), Grace: 20 * time.Second})
	release, running := make(chan struct{}), make(chan struct{}, 10)
	block := func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-release
		return nil, ctx.Err()
	}
	engine.HandleRaw(w, "block", block)
	stop := s.work(w)
	first, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	second, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`2`))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if record, err := first.Record(s.ctx()); err != nil || record.State != wire.StateSucceeded {
		t.Errorf("the running task: %+v, %v", record, err)
	}
	again := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(again, "block", block)
	s.work(again)
	began := time.Now()
	if _, err := second.Wait(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if hole := time.Since(began); hole > 10*time.Second {
		t.Errorf("the task that had not started waited %s", hole)
	}
	s.empty("default")
}

func TestCancelledAtShutdownCountsNothing(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1), Grace: 1500 * time.Millisecond})
	running := make(chan struct{}, 10)
	engine.HandleRaw(w, "stubborn", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	stop := s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "stubborn", []byte(`1`), engine.WithMaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	s.until("started stands in the record", func() bool {
		record, err := r.Record(s.ctx())
		return err == nil && record.State == wire.StateStarted
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if record, err := r.Record(s.ctx()); err != nil || record.State != wire.StateQueued {
		t.Fatalf("record after the hand-back: %+v, %v", record, err)
	}
	again := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(again, "stubborn", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		return fmt.Appendf(nil, "%d", m.Info.Attempt), nil
	})
	s.work(again)
	got, err := r.Wait(s.ctx())
	if err != nil || string(got) != "1" {
		t.Fatalf("%s, %v", got, err)
	}
	if record, err := r.Record(s.ctx()); err != nil || record.Deaths != 0 || len(record.Attempts) != 0 {
		t.Errorf("the hand-back counted: %+v, %v", record, err)
	}
}

// Abort hands back at once what runs, what is claimed and what is held for its
// time; the control waits for its handlers.
func TestAbortHandsBackAtOnce(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{true, false} {
		s := newSystem(t)
		w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
		running, release := make(chan struct{}, 10), make(chan struct{})
		block := func(context.Context, *engine.Message) ([]byte, error) {
			running <- struct{}{}
			<-release // ignores its context
			return nil, nil
		}
		engine.HandleRaw(w, "block", block)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(s.ctx())
		go func() { ended <- w.Run(ctx) }()
		var results []*engine.Result[json.RawMessage]
		for _, opts := range [][]engine.SendOption{nil, {engine.WithID("claimed")}, {engine.WithCountdown(1500 * time.Millisecond)}} {
			r, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`), opts...)
			if err != nil {
				t.Fatal(err)
			}
			results = append(results, r)
		}
		<-running
		<-running
		s.until("all three are held", func() bool {
			_, plain := s.acks("PELTON_TASKS_default", "workers")
			_, due := s.acks("PELTON_LATER_default", "due")
			return plain == 2 && due == 1
		})
		began := time.Now()
		if abort {
			w.Abort()
			w.Abort()
		}
		cancel()
		if abort {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		again := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
		engine.HandleRaw(again, "block", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
		s.work(again)
		patience := 5 * time.Second
		if abort {
			patience = 15 * time.Second // a lease is twice that
		}
		within, stop := context.WithTimeout(s.ctx(), patience)
		for i, r := range results {
			_, err := r.Wait(within)
			if abort && err != nil || !abort && i < 2 && err == nil { // the third has not begun, and goes back in either case
				t.Errorf("abort %t: %s: %v", abort, r.ID(), err)
			}
			if record, err := r.Record(s.ctx()); abort && (err != nil || record.Deaths != 0 || record.Attempt != 1 || len(record.Attempts) != 0) {
				t.Errorf("it counted: %+v, %v", record, err)
			}
		}
		stop()
		if abort {
			t.Logf("they ran elsewhere after %s", time.Since(began))
		}
		close(release)
		if !abort {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAbortBeforeRun(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	w.Abort()
	if err := w.Run(s.ctx()); err != nil {
		t.Error(err)
	}
}

func TestExplicitID(t *testing.T) {
	s := newSystem(t)
	first, err := greet.Send(s.ctx(), s.client, "a", engine.WithID("job-77"))
	if err != nil || first.ID() != "job-77" {
		t.Fatalf("%v, %v", first, err)
	}
	if _, err := greet.Send(s.ctx(), s.client, "b", engine.WithID("job-77")); !errors.Is(err, engine.ErrExists) || !strings.Contains(err.Error(), "job-77") {
		t.Fatalf("second while the first waits: %v", err)
	}
	if _, err := greet.Send(s.ctx(), s.client, "b", engine.WithID("default-7")); !errors.Is(err, engine.ErrInvalidName) {
		t.Fatalf("an id that looks free: %v", err)
	}
	var runs atomic.Int32
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { runs.Add(1); return name, nil })
	s.work(w)
	if got, err := first.Wait(s.ctx()); err != nil || got != "a" {
		t.Fatalf("%q, %v", got, err)
	}
	s.empty("default")
	if _, err := greet.Send(s.ctx(), s.client, "b", engine.WithID("job-77")); err != nil {
		t.Fatalf("a copy after the end is taken, then dropped: %v", err)
	}
	s.empty("default")
	if record, err := first.Record(s.ctx()); err != nil || string(record.Result) != `"a"` || runs.Load() != 1 {
		t.Errorf("%d runs, %+v, %v", runs.Load(), record, err)
	}
}

func TestPoisonIsBuried(t *testing.T) {
	s := newSystem(t)
	kv, err := s.client.JetStream().KeyValue(s.ctx(), "PELTON_RESULTS_default")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(s.ctx(), "killer", []byte(`{"id":"killer","run":1,"task":"greet","queue":"default","state":"started","attempt":1,"deaths":2,"worker":"gone"}`)); err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{MaxDeaths: 3})
	var runs atomic.Int32
	engine.Handle(w, greet, func(context.Context, string) (string, error) { runs.Add(1); return "", nil })
	s.work(w)
	r, err := greet.Send(s.ctx(), s.client, "x", engine.WithID("killer"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Wait(s.ctx())
	var te *engine.TaskError
	if !errors.As(err, &te) || te.Type != wire.FailurePoison || runs.Load() != 0 {
		t.Fatalf("%v after %d runs", err, runs.Load())
	}
}

func TestStrangeMessagesAreBuriedAndTheRestGoesOn(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
	s.work(w)
	publish := func(subject, body string, header ...string) string {
		m := nats.NewMsg(subject)
		m.Data = []byte(body)
		for i := 0; i < len(header); i += 2 {
			m.Header.Set(header[i], header[i+1])
		}
		ack, err := s.client.JetStream().PublishMsg(s.ctx(), m)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("default-%d", ack.Sequence)
	}
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprintf("X%d", i), "")
	}
	for _, tc := range []struct{ name, id, want string }{
		{"thousands of headers", publish("pelton.task.default.greet", `"x"`, many...), "headers"},
		{"long id by header", publish("pelton.task.default.greet", `"x"`, "Pelton-Id", strings.Repeat("i", 129)), "Pelton-Id"},
		{"id with a dot by header", publish("pelton.task.default.greet", `"x"`, "Pelton-Id", "a.b"), "Pelton-Id"},
		{"empty id by header", publish("pelton.task.default.greet", `"x"`, "Pelton-Id", ""), "Pelton-Id"},
		{"long id", publish("pelton.task.default.greet."+strings.Repeat("i", 129), `"x"`), "128"},
		{"not JSON", publish("pelton.task.default.greet", "{"), "not JSON"},
		{"empty", publish("pelton.task.default.greet", ""), "empty"},
		{"wrong type", publish("pelton.task.default.greet", "5"), "cannot unmarshal number"},
		{"deep", publish("pelton.task.default.greet", strings.Repeat("[", 100_000)), "levels deep"},
		{"large", publish("pelton.task.default.greet", `"`+strings.Repeat("x", 600<<10)+`"`), "at most 524288 bytes"},
		{"as large as the broker takes", publish("pelton.task.default.greet", `"`+strings.Repeat("x", 1<<20-200)+`"`), "at most 524288 bytes"},
		{"large and unknown", publish("pelton.task.default.nobody", `"`+strings.Repeat("x", 600<<10)+`"`), "at most 524288 bytes"},
		{"task *", publish("pelton.task.default.*", `"x"`), `task "*"`},
		{"five tokens", publish("pelton.task.default.greet.a.b", `"x"`), `id "a.b"`},
		{"attempt -1", publish("pelton.task.default.greet", `"x"`, "Pelton-Attempt", "-1"), `Pelton-Attempt "-1"`},
		{"run from the future", publish("pelton.task.default.greet", `"x"`, "pelton-run", "1e9"), `Pelton-Run "1e9"`},
		{"delay of a century", publish("pelton.task.default.greet", `"x"`, "Pelton-Delay", "876000h"), "Pelton-Delay"},
		{"60 KiB of headers", publish("pelton.task.default.greet", `"x"`, "X-Much", strings.Repeat("x", 60<<10)), "headers"},
		{"id of another", publish("pelton.task.default.greet.default-1", `"x"`), "must not look like a free id"},
		{"id of another by header", publish("pelton.task.default.greet", `"x"`, "pelton-id", "default-1"), "must not look like a free id"},
		{"as many headers as the broker takes", publish("pelton.task.default.greet", `"x"`, "X-Much", strings.Repeat("x", 65_400)), "headers"},
		{"large and delayed", publish("pelton.task.default.greet", `"`+strings.Repeat("x", 1<<20-200)+`"`, "Pelton-Delay", "5s"), "at most 524288 bytes"},
		{"forged origin", publish("pelton.task.default.greet", `"x"`, "Pelton-Origin", "nonsense"), "Pelton-Origin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.client.Result("default", tc.id).Wait(s.ctx())
			var te *engine.TaskError
			if !errors.As(err, &te) || te.Type != wire.FailureBadInput || !strings.Contains(te.Message, tc.want) {
				t.Fatalf("wait: %v", err)
			}
		})
	}
	r, err := greet.Send(s.ctx(), s.client, "fine")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Wait(s.ctx()); err != nil || got != "fine" {
		t.Fatalf("%q, %v", got, err)
	}
	s.empty("default")
}

// publishBytes publishes with headers as they stand, as a client may that looks
// at none of them.
func (s *system) publishBytes(task, header string) string {
	s.t.Helper()
	nc := s.client.JetStream().Conn()
	answer, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Unsubscribe() }()
	if err := nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(s.ctx(), "tcp", strings.TrimPrefix(s.broker.URL(), "nats://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	head := "NATS/1.0\r\n" + header + "\r\n\r\n"
	if _, err := fmt.Fprintf(conn, "CONNECT {\"headers\":true}\r\nHPUB pelton.task.default.%s %s %d %d\r\n%s1\r\n",
		task, answer.Subject, len(head), len(head)+1, head); err != nil {
		s.t.Fatal(err)
	}
	m, err := answer.NextMsg(10 * time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	var ack jetstream.PubAck
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Sequence == 0 {
		s.t.Fatalf("%s: %v", m.Data, err)
	}
	return fmt.Sprintf("default-%d", ack.Sequence)
}

// TestHeadersThatCannotBeWrittenAgain: the broker takes headers that the client
// library can read but not write, and such that it cannot read. A task that has
// them can be neither parked nor kept as it is, so it is buried at once.
func TestHeadersThatCannotBeWrittenAgain(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	var runs atomic.Int32
	engine.HandleRaw(w, "count", func(_ context.Context, m *engine.Message) ([]byte, error) {
		runs.Add(1)
		return nil, engine.RetryIn(time.Hour, errors.New("again"))
	})
	waits := s.publishBytes("count", "A line\r\nb: 1")
	if r, err := s.client.Lookup(s.ctx(), "default", waits); err != nil || r.State != wire.StateQueued {
		t.Errorf("while it waits: %+v, %v", r, err)
	}
	s.work(w)
	tests := []struct{ name, header, want string }{
		{"space", "a b: 1", `header "a b": must match`},
		{"space, delayed", "a b: 1\r\nPelton-Delay: 1h", `header "a b": must match`},
		{"slash", "a/b: 1", `header "a/b": must match`},
		{"no ASCII", "\xffa: 1\r\nPelton-Max-Attempts: 9", "must match"},
		{"ours, with a space", "Pelton-My Own: 1", `header "Pelton-My Own": must match`},
		{"no colon", "a", "headers: cannot be read"},
		{"name of two lines, delayed", "a\r\nb: 1\r\nPelton-Delay: 1h", "headers: cannot be read"},
	}
	ids := map[string]bool{waits: true}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			id := s.publishBytes("count", tc.header)
			ids[id] = true
			_, err := s.client.Result("default", id).Wait(s.ctx())
			var failed *engine.TaskError
			if !errors.As(err, &failed) || failed.Type != wire.FailureBadInput || !strings.Contains(failed.Message, tc.want) || strings.Contains(failed.Message, "\n") {
				t.Errorf("wait: %v", err)
			}
		})
	}
	s.empty("default")
	dead, err := s.client.DeadLetters(s.ctx(), "default", 0)
	if err != nil || len(dead) != len(ids) || runs.Load() != 0 {
		t.Errorf("%d dead letters of %d tasks, %d runs, %v", len(dead), len(ids), runs.Load(), err)
	}
	for _, letter := range dead {
		if !ids[letter.ID] || letter.ErrorType != wire.FailureBadInput {
			t.Errorf("%+v", letter)
		}
	}
	// As the broker takes it, and legal.
	fine := s.publishBytes("count", "a:1\r\nb:  2 \r\nA: 3\r\nPelton-Expires: 1ns")
	if r, err := s.client.Wait(s.ctx(), "default", fine); err != nil || r.State != wire.StateExpired {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRefusedByTheClient(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default"}, topology.Queue{Name: "small", MaxPending: 2})
	for _, tc := range []struct {
		name string
		send func() error
		want error
		text string
	}{
		{"queue", func() error { _, err := greet.Send(s.ctx(), s.client, "", engine.WithQueue("Email")); return err }, engine.ErrInvalidName, `queue "Email": must match [a-z0-9][a-z0-9-]{0,63}`},
		{"task", func() error { _, err := s.client.SendRaw(s.ctx(), "default", "a.b", []byte(`1`)); return err }, engine.ErrInvalidName, `task "a.b"`},
		{"newline", func() error { _, err := s.client.SendRaw(s.ctx(), "default", "a\nb", []byte(`1`)); return err }, engine.ErrInvalidName, `task "a\nb"`},
		{"reserved task", func() error { _, err := s.client.SendRaw(s.ctx(), "default", "pelton-dead", []byte(`1`)); return err }, engine.ErrInvalidName, "pelton-"},
		{"id", func() error { _, err := greet.Send(s.ctx(), s.client, "", engine.WithID("a b")); return err }, engine.ErrInvalidName, `id "a b"`},
		{"header", func() error {
			_, err := greet.Send(s.ctx(), s.client, "", engine.WithHeader("Nats-Rollup", "all"))
			return err
		}, engine.ErrInvalidName, "Nats-Rollup"},
		{"body", func() error { _, err := s.client.SendRaw(s.ctx(), "default", "a", []byte(`{`)); return err }, nil, "not JSON"},
		{"large body", func() error { _, err := greet.Send(s.ctx(), s.client, strings.Repeat("x", 600<<10)); return err }, engine.ErrTooLarge, "524288"},
		{"no queue", func() error { _, err := greet.Send(s.ctx(), s.client, "", engine.WithQueue("nosuch")); return err }, engine.ErrNoQueue, `"nosuch"`},
		{"full queue", func() error {
			for {
				if _, err := greet.Send(s.ctx(), s.client, "", engine.WithQueue("small")); err != nil {
					return err
				}
			}
		}, engine.ErrQueueFull, `"small"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.send()
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestBrokerRestarts(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", AckWait: 2 * time.Second})
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(4)})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
	s.work(w)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for j := range 25 {
				in := fmt.Sprintf("%d-%d", i, j)
				r, err := greet.Send(s.ctx(), s.client, in)
				if err != nil {
					t.Errorf("send: %v", err)
					return
				}
				if got, err := r.Wait(s.ctx()); err != nil || got != in {
					t.Errorf("wait for %s: %q, %v", r.ID(), got, err)
				}
			}
		})
	}
	for range 3 {
		s.until("something is done", func() bool {
			state, ok := s.state("KV_PELTON_RESULTS_default")
			return ok && state.LastSeq > 10
		})
		if err := s.broker.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	wait.Wait()
	s.empty("default")
}

func TestLeaseIsLostWithTheBroker(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(1)})
	cause, running := make(chan error, 10), make(chan struct{}, 10)
	var runs atomic.Int32
	engine.HandleRaw(w, "held", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		running <- struct{}{}
		if runs.Add(1) == 1 {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return []byte(`"from the run that lost its lease"`), nil
		}
		return []byte(`"ok"`), nil
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "held", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	s.broker.Stop()
	if err := <-cause; !strings.Contains(err.Error(), "lease lost") {
		t.Errorf("cause %v", err)
	}
	if err := s.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Wait(s.ctx()); err != nil || string(got) != `"ok"` {
		t.Fatalf("%s, %v", got, err)
	}
	s.empty("default")
}

func TestConsumerDeletedAndMadeAgain(t *testing.T) {
	for _, mode := range []engine.SetupMode{engine.SetupVerify, engine.SetupManage} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSystem(t)
			w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2), Setup: mode})
			engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
			s.work(w)
			r, err := greet.Send(s.ctx(), s.client, "before")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Wait(s.ctx()); err != nil {
				t.Fatal(err)
			}
			if err := s.client.JetStream().DeleteConsumer(s.ctx(), "PELTON_TASKS_default", "workers"); err != nil {
				t.Fatal(err)
			}
			if r, err = greet.Send(s.ctx(), s.client, "after"); err != nil {
				t.Fatal(err)
			}
			if mode == engine.SetupVerify {
				s.broker.Setup("default")
			}
			if got, err := r.Wait(s.ctx()); err != nil || got != "after" {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
}

func TestUnknownIDIsNotFound(t *testing.T) {
	s := newSystem(t)
	for _, id := range []string{"default-9", "made-up", "other-3"} {
		if _, err := s.client.Wait(s.ctx(), "default", id); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	r, err := greet.Send(s.ctx(), s.client, "x")
	if err != nil {
		t.Fatal(err)
	}
	if record, err := s.client.Lookup(s.ctx(), "default", r.ID()); err != nil || record.State != wire.StateQueued || record.Task != "greet" {
		t.Errorf("waiting: %+v, %v", record, err)
	}
}

func TestGoexitTakesNoSlot(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(w, "exit", func(context.Context, *engine.Message) ([]byte, error) { runtime.Goexit(); return nil, nil })
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "exit", []byte(`1`), engine.WithMaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	var te *engine.TaskError
	if _, err := r.Wait(s.ctx()); !errors.As(err, &te) || !strings.Contains(te.Message, "Goexit") {
		t.Fatalf("wait: %v", err)
	}
	g, err := greet.Send(s.ctx(), s.client, "still here")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Wait(s.ctx()); err != nil {
		t.Fatal(err)
	}
}

func TestHandlerThatIgnoresTheShutdownIsLeftBehind(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1), Grace: 10 * time.Millisecond})
	running, release, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	engine.HandleRaw(w, "deaf", func(context.Context, *engine.Message) ([]byte, error) {
		close(running)
		<-release
		close(left)
		return []byte(`"too late"`), nil
	})
	stop := s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "deaf", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	close(release) // after Run has returned: its outcome is nobody's any more
	<-left
	if record, err := r.Record(s.ctx()); err != nil || record.State != wire.StateQueued {
		t.Errorf("record %+v, %v", record, err)
	}
	again := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(again, "deaf", func(context.Context, *engine.Message) ([]byte, error) { return []byte(`"in time"`), nil })
	s.work(again)
	began := time.Now()
	if got, err := r.Wait(s.ctx()); err != nil || string(got) != `"in time"` {
		t.Fatalf("%s, %v", got, err)
	}
	if hole := time.Since(began); hole > 10*time.Second {
		t.Errorf("the task waited %s", hole)
	}
	if record, err := r.Record(s.ctx()); err != nil || record.Deaths != 0 || len(record.Attempts) != 0 {
		t.Errorf("the hand-back counted: %+v, %v", record, err)
	}
}

// nilError is an error whose methods panic on the nil pointer that is returned.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestErrorThatPanicsIsAFailure(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "nil", func(context.Context, *engine.Message) ([]byte, error) {
		var err *nilError
		return nil, err
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "nil", []byte(`1`), engine.WithMaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	var te *engine.TaskError
	if _, err := r.Wait(s.ctx()); !errors.As(err, &te) || te.Type != wire.FailurePanic {
		t.Fatalf("wait: %v", err)
	}
}

func TestRelativeExpiryDoesNotBeginAnew(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Backoff: wire.Backoff{Min: 400 * time.Millisecond, Max: 400 * time.Millisecond}, MaxAttempts: 1000})
	engine.HandleRaw(w, "fail", func(context.Context, *engine.Message) ([]byte, error) { return nil, errors.New("again") })
	s.work(w)
	m := nats.NewMsg("pelton.task.default.fail")
	m.Header.Set("Pelton-Expires", "1500ms")
	m.Data = []byte(`1`)
	ack, err := s.client.JetStream().PublishMsg(s.ctx(), m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Result("default", fmt.Sprintf("default-%d", ack.Sequence)).Wait(s.ctx()); !errors.Is(err, engine.ErrExpired) {
		t.Fatalf("wait: %v", err)
	}
	s.empty("default")
}

// TestOutcomesThatCannotBeWritten: the worker asks for no more than a bounded
// number of tasks, and goes on when the bucket is back; nothing ran twice in
// the record.
func TestOutcomesThatCannotBeWritten(t *testing.T) {
	s := newSystem(t)
	var runs atomic.Int32
	if err := s.client.JetStream().DeleteStream(s.ctx(), "KV_PELTON_RESULTS_default"); err != nil {
		t.Fatal(err)
	}
	const tasks = 6000
	if _, err := s.client.SendManyRaw(s.ctx(), "default", "count", slices.Repeat([][]byte{[]byte(`1`)}, tasks)); err != nil {
		t.Fatal(err)
	}
	off := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2), Grace: 100 * time.Millisecond, Setup: engine.SetupOff})
	engine.HandleRaw(off, "count", func(context.Context, *engine.Message) ([]byte, error) { runs.Add(1); return nil, nil })
	stop := s.work(off)
	s.until("the worker has stopped asking", func() bool {
		pending, held := s.acks("PELTON_TASKS_default", "workers")
		return held >= 2048 && pending+held == tasks && runs.Load() == int32(held)
	})
	if n := runs.Load(); n > 2048+600 {
		t.Errorf("%d handlers ran although nothing could be written", n)
	}
	s.broker.Setup("default")
	s.empty("default")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := runs.Load(); n != tasks {
		t.Errorf("%d runs of %d tasks", n, tasks)
	}
}

// TestStuckOutcomesAreNotPutOffByOthers: what could not be written for a while is
// written soon after it can be, though tasks end all the time.
func TestStuckOutcomesAreNotPutOffByOthers(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	if err := s.client.JetStream().DeleteStream(s.ctx(), "KV_PELTON_RESULTS_default"); err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int32
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2), Setup: engine.SetupOff})
	engine.HandleRaw(w, "count", func(context.Context, *engine.Message) ([]byte, error) { runs.Add(1); return nil, nil })
	s.work(w)
	var ids []string
	for range 10 {
		ids = append(ids, s.publish("pelton.task.default.count", `1`))
	}
	enough, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_ = s.client.Conn().Publish("pelton.task.default.count", []byte(`1`)) // only to keep the worker busy
			case <-enough:
				return
			}
		}
	}()
	defer func() { close(enough); <-ended }()
	s.until("tasks end all the time", func() bool { return runs.Load() > 100 })
	s.broker.Setup("default")
	for _, id := range ids {
		s.until("the record of "+id+" is written", func() bool {
			r, err := s.client.Record(s.ctx(), "default", id)
			return err == nil && r.State == wire.StateSucceeded
		})
	}
}

func TestShutdownEndsAlthoughNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1), Setup: engine.SetupOff, Grace: 10 * time.Millisecond})
	ran := make(chan struct{}, 10)
	engine.HandleRaw(w, "run", func(context.Context, *engine.Message) ([]byte, error) { ran <- struct{}{}; return nil, nil })
	if err := s.client.JetStream().DeleteStream(s.ctx(), "KV_PELTON_RESULTS_default"); err != nil {
		t.Fatal(err)
	}
	stop := s.work(w)
	if _, err := s.client.SendRaw(s.ctx(), "default", "run", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	<-ran
	if err := stop(); err != nil { // it would hang here
		t.Fatal(err)
	}
}
