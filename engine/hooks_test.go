package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// told is what hooks have been told: of each task the names of its hooks in
// order, and the last event of each.
type told struct {
	mu     sync.Mutex
	names  map[string][]string // by id
	events map[string]engine.TaskEvent
	worker []string
}

// hooks has every hook of tasks told here.
func (l *told) hooks() engine.Hooks {
	l.names, l.events = map[string][]string{}, map[string]engine.TaskEvent{}
	var h engine.Hooks
	v := reflect.ValueOf(&h).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i).Addr().Interface().(type) {
		case *func(engine.TaskEvent):
			*f = func(e engine.TaskEvent) { l.task(name, e) }
		case *func(string):
			*f = func(worker string) { l.note(name + " " + worker) }
		}
	}
	return h
}

func (l *told) task(name string, e engine.TaskEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[e.ID] = append(l.names[e.ID], name)
	l.events[e.ID+" "+name] = e
}

func (l *told) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worker = append(l.worker, what)
}

func (l *told) of(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.names[id], " ")
}

func (l *told) event(id, name string) engine.TaskEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[id+" "+name]
}

func (l *told) life() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.worker)
}

func TestHooksTellEveryTransition(t *testing.T) {
	s := newSystem(t)
	var said told
	w := engine.NewWorker(s.client, engine.WorkerConfig{
		Name: "watched", Queues: one(4), UnknownTaskPark: time.Hour, Hooks: said.hooks(), Grace: 50 * time.Millisecond,
	})
	running := make(chan string, 1)
	var once sync.Map
	engine.HandleRaw(w, "do", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		_, again := once.LoadOrStore(m.Info.ID, true)
		switch what := string(m.Body); {
		case what == `"fail"`:
			return nil, engine.RetryIn(0, errors.New("always"))
		case what == `"panic"`:
			panic("loud")
		case what == `"drop"`:
			return nil, engine.Drop(errors.New("of no use"))
		case what == `"snooze"` && !again:
			return nil, engine.Snooze(50 * time.Millisecond)
		case what == `"hold"`:
			running <- m.Info.ID
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	})
	nothing := func(context.Context, *engine.Message) ([]byte, error) { return nil, nil }
	engine.HandleRaw(w, "confirmed", nothing, engine.WithoutResult())
	engine.HandleRaw(w, "plain", nothing, engine.WithoutResult(), engine.WithPlainAck())
	canceled := s.publish("pelton.task.default.do", `1`)
	if _, err := s.client.Cancel(s.ctx(), "default", canceled); err != nil {
		t.Fatal(err)
	}
	stop := s.work(w)
	do := func(body string, header ...string) string {
		return s.publish("pelton.task.default.do", body, header...)
	}
	want := map[string]string{
		canceled:                                 "Received Revoked",
		do(`"fine"`):                             "Received Started Succeeded",
		do(`"fail"`, "Pelton-Max-Attempts", "2"): "Received Started Failed Received Started Failed Dead",
		do(`"panic"`, "Pelton-Max-Attempts", "1"): "Received Started Failed Dead",
		do(`"drop"`):                  "Received Started Revoked",
		do(`"snooze"`):                "Received Started Snoozed Received Started Succeeded",
		do(`{`):                       "Received Failed Dead",
		do(`1`, "Pelton-Delay", "1h"): "Parked",
		do(`1`, "Pelton-Expires", "2020-01-01T00:00:00Z"):                                                            "Received Expired",
		s.publish("pelton.task.default.nobody", `1`):                                                                 "Received Unknown",
		s.publish("pelton.task.default.nobody", `1`, "Pelton-Expires", wire.FormatTime(time.Now().Add(time.Minute))): "Received Expired",
	}
	for id, names := range want {
		s.until(id+": "+names, func() bool { return len(said.of(id)) >= len(names) })
		if got := said.of(id); got != names {
			t.Errorf("%s: %s, want %s", id, got, names)
		}
	}
	revoked := do(`"hold"`)
	if id := <-running; id != revoked {
		t.Fatalf("%s runs, want %s", id, revoked)
	}
	if _, err := s.client.Cancel(s.ctx(), "default", revoked); err != nil {
		t.Fatal(err)
	}
	s.until("the running one is revoked", func() bool { return said.of(revoked) == "Received Started Revoked" })
	back := do(`"hold"`)
	<-running
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := said.of(back); got != "Received Started HandedBack" {
		t.Errorf("handed back: %s", got)
	}
	if got := said.life(); !slices.Equal(got, []string{"Ready watched", "Draining watched", "Ended watched"}) {
		t.Errorf("worker: %v", got)
	}
	checkEvents(t, &said, want)
}

// checkEvents looks at what else the events of TestHooksTellEveryTransition say.
func checkEvents(t *testing.T, said *told, want map[string]string) {
	t.Helper()
	for _, id := range slices.Sorted(maps.Keys(want)) {
		names := strings.Fields(want[id])
		e := said.event(id, names[len(names)-1])
		if e.ID != id || e.Queue != "default" || e.Worker != "watched" || e.Run != 1 || e.Published.IsZero() || e.Received.IsZero() || e.At.IsZero() {
			t.Errorf("%s: %+v", id, e)
		}
		if slices.Contains(names, "Started") && (e.Started.IsZero() || said.event(id, "Started").Deadline.IsZero()) {
			t.Errorf("%s has not started: %+v", id, e)
		}
		switch want[id] {
		case "Received Started Failed Received Started Failed Dead":
			if e.Attempt != 2 || e.Failure == nil || e.Failure.Message != "always" || !e.Next.IsZero() {
				t.Errorf("dead: %+v", e)
			}
			if last := said.event(id, "Failed"); !last.Next.IsZero() || last.Attempt != 2 {
				t.Errorf("the last attempt has another one: %+v", last)
			}
		case "Received Started Failed Dead":
			if e.Failure == nil || e.Failure.Type != wire.FailurePanic || e.Failure.Stack == "" {
				t.Errorf("panic: %+v", e.Failure)
			}
		case "Parked", "Received Unknown":
			if time.Until(e.Next) < 30*time.Minute {
				t.Errorf("%s: next at %s", names[0], e.Next)
			}
		}
	}
}

func TestHookIsToldOfALostLease(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	lost := make(chan engine.TaskEvent, 10)
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(1), Hooks: engine.Hooks{LeaseLost: func(e engine.TaskEvent) { lost <- e }}})
	running := make(chan struct{}, 10)
	engine.HandleRaw(w, "held", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		running <- struct{}{}
		if len(running) == 1 {
			<-ctx.Done()
		}
		return nil, ctx.Err()
	})
	s.work(w)
	id := s.publish("pelton.task.default.held", `1`)
	s.until("it runs", func() bool { return len(running) == 1 })
	s.broker.Stop()
	if e := <-lost; e.ID != id || e.Started.IsZero() {
		t.Errorf("lost: %+v", e)
	}
	if err := s.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	s.empty("default")
}

// A hook that panics is named once; tasks and worker go on.
func TestHookThatPanicsHarmsNoTask(t *testing.T) {
	s := newSystem(t)
	var said heard
	loud := func(engine.TaskEvent) { panic("loud") }
	w := engine.NewWorker(s.client, engine.WorkerConfig{
		Queues: one(2), Logger: slog.New(slog.NewTextHandler(&said, nil)), Backoff: wire.Backoff{Min: time.Millisecond, Max: time.Millisecond},
		Hooks: engine.Hooks{
			Received: loud, Started: loud, Succeeded: loud, Failed: loud,
			Recorded: func(*engine.Record) { panic("loud") },
			Ready:    func(string) { panic("loud") }, Draining: func(string) { panic("loud") }, Ended: func(string) { panic("loud") },
		},
	})
	engine.HandleRaw(w, "twice", func(_ context.Context, m *engine.Message) ([]byte, error) {
		if m.Info.Attempt == 1 {
			return nil, errors.New("again")
		}
		return nil, nil
	})
	stop := s.work(w)
	for range 5 {
		r, err := s.client.SendRaw(s.ctx(), "default", "twice", []byte(`1`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(s.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	s.empty("default")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Received", "Started", "Succeeded", "Failed", "Recorded", "Ready", "Draining", "Ended"} {
		if n := strings.Count(said.String(), "hook="+name+" "); n != 1 {
			t.Errorf("hook %s is named %d times", name, n)
		}
	}
}

// A hook that takes longer than AckWait costs time, but no lease: nothing runs
// twice.
func TestSlowHookLosesNoLease(t *testing.T) {
	t.Parallel()
	// A machine that stalls for as long as a lease has a task run twice.
	s := newSystem(t, topology.Queue{Name: "default", AckWait: 4 * time.Second})
	var said told
	release, slowed := make(chan struct{}), make(chan string, 10)
	slow := func(name string) func(engine.TaskEvent) {
		var slept atomic.Bool
		return func(engine.TaskEvent) {
			if !slept.Swap(true) {
				slowed <- name
				<-release
			}
		}
	}
	hooks := said.hooks()
	hooks.Received, hooks.Started, hooks.Succeeded = slow("Received"), slow("Started"), slow("Succeeded")
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(3), Hooks: hooks})
	var mu sync.Mutex
	runs := map[string]int{}
	engine.HandleRaw(w, "count", func(_ context.Context, m *engine.Message) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		runs[m.Info.ID]++
		return nil, nil
	})
	s.work(w)
	const tasks = 6
	var ids []string
	for range tasks {
		ids = append(ids, s.publish("pelton.task.default.count", `1`))
	}
	for range 3 { // two slots and the writing of outcomes are held up, one slot is free
		<-slowed
	}
	<-time.After(9 * time.Second) // more than twice AckWait
	close(release)
	s.empty("default")
	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		if runs[id] != 1 || said.of(id) != "" {
			t.Errorf("%s ran %d times, told: %s", id, runs[id], said.of(id))
		}
	}
}

func TestMiddlewareWrapsEveryHandler(t *testing.T) {
	s := newSystem(t)
	var mu sync.Mutex
	var said []string
	seen := map[string]engine.Info{}
	named := func(name string) engine.Middleware {
		return func(next engine.Handler) engine.Handler {
			return func(ctx context.Context, m *engine.Message) ([]byte, error) {
				info, ok := engine.InfoFrom(ctx)
				mu.Lock()
				said = append(said, name+" "+string(m.Body))
				seen[info.ID] = info
				mu.Unlock()
				if deadline, has := ctx.Deadline(); !ok || !has || !deadline.Equal(info.Deadline) || !reflect.DeepEqual(info, m.Info) {
					t.Errorf("%s: info %+v, message %+v", name, info, m.Info)
				}
				switch string(m.Body) {
				case `"refused by the inner one"`:
					if name == "inner" {
						return nil, engine.Permanent(errors.New("no"))
					}
				case `"panics in the outer one"`:
					panic("outer")
				}
				body, err := next(ctx, m)
				mu.Lock()
				said = append(said, fmt.Sprintf("%s %s %v", name, body, err))
				mu.Unlock()
				return body, err
			}
		}
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1), Middleware: []engine.Middleware{named("outer"), named("inner")}})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return "hi " + name, nil })
	s.work(w)
	wait := func(name string, opts ...engine.SendOption) error {
		r, err := greet.Send(s.ctx(), s.client, name, opts...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Wait(s.ctx())
		return err
	}
	if err := wait("you", engine.WithID("job-1")); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	want := []string{`outer "you"`, `inner "you"`, `inner "hi you" <nil>`, `outer "hi you" <nil>`}
	if !slices.Equal(said, want) {
		t.Errorf("order %q", said)
	}
	if info := seen["job-1"]; info.Attempt != 1 || info.Run != 1 || info.Fence == 0 || info.Task != "greet" {
		t.Errorf("info %+v", info)
	}
	mu.Unlock()
	var te *engine.TaskError
	if err := wait("refused by the inner one"); !errors.As(err, &te) || te.Type != wire.FailureError || te.Message != "no" || te.Attempt != 1 {
		t.Errorf("refused: %v", err)
	}
	if err := wait("panics in the outer one", engine.WithMaxAttempts(1)); !errors.As(err, &te) || te.Type != wire.FailurePanic || !strings.Contains(te.Stack, "hooks_test.go") {
		t.Errorf("panic: %v", err)
	}
}

func TestMiddlewareThatIsNoneIsRefused(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Middleware: []engine.Middleware{nil}})
	engine.Handle(w, greet, func(context.Context, string) (string, error) { return "", nil })
	if err := w.Run(s.ctx()); err == nil || err.Error() != "worker.middleware: number 0 must be a function, got nil" {
		t.Errorf("run: %v", err)
	}
	w = engine.NewWorker(s.client, engine.WorkerConfig{Middleware: []engine.Middleware{func(engine.Handler) engine.Handler { return nil }}})
	defer func() {
		if v := recover(); fmt.Sprint(v) != "task greet: middleware 0 returned no handler" {
			t.Errorf("panic: %v", v)
		}
	}()
	engine.Handle(w, greet, func(context.Context, string) (string, error) { return "", nil })
}
