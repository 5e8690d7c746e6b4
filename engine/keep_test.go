package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

var errAgain = errors.New("again")

// retries are the handlers whose next run is due soon, with a note of when.
type retries struct {
	mu    sync.Mutex
	due   map[string]time.Time // before which the next run may not begin
	runs  map[string]int
	early []string
}

// ran notes a run, and when the next one is due at the earliest.
func (r *retries) ran(id string, wait time.Duration) (runs int) {
	now := time.Now().Round(0)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.due, r.runs = map[string]time.Time{}, map[string]int{}
	}
	if early := r.due[id].Sub(now); early > 0 {
		r.early = append(r.early, fmt.Sprintf("%s by %s", id, early))
	}
	r.runs[id]++
	r.due[id] = time.Now().Round(0).Add(wait)
	return r.runs[id]
}

func (r *retries) of(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[id]
}

// handle adds the tasks "flaky", whose third attempt succeeds, and "sleepy",
// which snoozes twice; both wait for as long as their body says.
func (r *retries) handle(w *engine.Worker) {
	wait := func(m *engine.Message) time.Duration {
		d, _ := time.ParseDuration(string(m.Body[1 : len(m.Body)-1]))
		return d
	}
	engine.HandleRaw(w, "flaky", func(_ context.Context, m *engine.Message) ([]byte, error) {
		r.ran(m.Info.ID, wait(m))
		if m.Info.Attempt < 3 {
			return nil, engine.RetryIn(wait(m), errAgain)
		}
		return fmt.Appendf(nil, "%d", m.Info.Attempt), nil
	})
	engine.HandleRaw(w, "sleepy", func(_ context.Context, m *engine.Message) ([]byte, error) {
		if r.ran(m.Info.ID, wait(m)) < 3 {
			return nil, engine.Snooze(wait(m))
		}
		return fmt.Appendf(nil, "%d", m.Info.Attempt), nil
	})
}

// TestShortWaitsAreKept runs tasks whose next run is due soon, by either lane:
// none is parked where there is room to keep it, and all is as if it had been.
// The control has no room.
func TestShortWaitsAreKept(t *testing.T) {
	for _, tc := range []struct {
		name  string
		queue topology.Queue
		kept  bool
	}{
		{"kept", topology.Queue{Name: "default"}, true},
		{"no room", topology.Queue{Name: "default", MaxAckPending: 10}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t, tc.queue)
			var r retries
			w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
			r.handle(w)
			s.work(w)
			later := map[string]bool{} // that came by the due lane
			var ids []string
			for _, task := range []string{"flaky", "sleepy"} {
				for _, wait := range []time.Duration{0, 20 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond} {
					for _, opts := range [][]engine.SendOption{nil, {engine.WithID(fmt.Sprintf("%s-x%d", task, wait))}, {engine.WithCountdown(600 * time.Millisecond)}} {
						result, err := s.client.SendRaw(s.ctx(), "default", task, fmt.Appendf(nil, "%q", wait), opts...)
						if err != nil {
							t.Fatal(err)
						}
						ids = append(ids, result.ID())
						later[result.ID()] = len(opts) == 1 && result.ID()[:5] != task[:5]
					}
				}
			}
			delayed := uint64(0)
			for _, id := range ids {
				record, err := s.client.Wait(s.ctx(), "default", id)
				if err != nil || record.State != wire.StateSucceeded || r.of(id) != 3 {
					t.Errorf("%s ran %d times: %+v, %v", id, r.of(id), record, err)
					continue
				}
				if want := record.Attempt - 1; string(record.Result) != fmt.Sprint(record.Attempt) || len(record.Attempts) != want || record.Deaths != 0 {
					t.Errorf("%s: %+v", id, record)
				}
				if later[id] {
					delayed++
				}
			}
			if len(r.early) > 0 {
				t.Errorf("early: %v", r.early)
			}
			s.empty("default")
			state := s.stands("PELTON_LATER_default")
			if delayed != 8 || tc.kept != (state.LastSeq == 2*delayed) { // each was scheduled, then due
				t.Errorf("the later stream had %d messages of %d delayed tasks", state.LastSeq, delayed)
			}
		})
	}
}

// TestKeptTasksGoBackAtShutdown ends a worker while it keeps tasks. They are at
// once another's, long before their lease has passed, and nothing counts.
func TestKeptTasksGoBackAtShutdown(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", AckWait: 10 * time.Minute})
	var r retries
	var waiting atomic.Int32
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(8), Hooks: engine.Hooks{Recorded: func(record *engine.Record) {
		if record.State == wire.StateStarted {
			waiting.Add(1)
		}
	}}})
	r.handle(w)
	stop := s.work(w)
	var ids []string
	for i := range 40 {
		result, err := s.client.SendRaw(s.ctx(), "default", []string{"flaky", "sleepy"}[i%2], []byte(`"700ms"`))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, result.ID())
	}
	s.until("most are kept and claimed", func() bool { return waiting.Load() > 20 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, held := s.acks("PELTON_TASKS_default", "workers"); held > len(ids) {
		t.Errorf("%d are held", held)
	}
	again := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(8)})
	r.handle(again)
	s.work(again)
	ctx := s.ctx() // for all: what is not handed back comes after the lease, too late
	for _, id := range ids {
		record, err := s.client.Wait(ctx, "default", id)
		if err != nil || record.State != wire.StateSucceeded || r.of(id) != 3 || record.Deaths != 0 || len(record.Attempts) != record.Attempt-1 {
			t.Errorf("%s ran %d times: %+v, %v", id, r.of(id), record, err)
		}
	}
	if len(r.early) > 0 {
		t.Errorf("early: %v", r.early)
	}
	s.empty("default")
}

// TestKeptTaskIsRevokedOrExpires: what happens to a task that is kept happens as
// to any that waits.
func TestKeptTaskIsRevokedOrExpires(t *testing.T) {
	s := newSystem(t)
	var r retries
	claimed := make(chan string, 10)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2), Hooks: engine.Hooks{Recorded: func(record *engine.Record) {
		if record.State == wire.StateStarted && record.Attempt == 2 {
			claimed <- record.ID
		}
	}}})
	r.handle(w)
	s.work(w)
	send := func(wait string, opts ...engine.SendOption) *engine.Result[json.RawMessage] {
		result, err := s.client.SendRaw(s.ctx(), "default", "flaky", fmt.Appendf(nil, "%q", wait), opts...)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	var result *engine.Result[json.RawMessage]
	for late := true; late; { // where its next attempt may have begun before it is revoked, another one is
		before := time.Now()
		result = send("780ms")
		for id := ""; id != result.ID(); {
			id = <-claimed
		}
		record, replaced := s.client.Replace(s.ctx(), "default", result.ID(), nil, time.Now().Add(time.Hour))
		err := result.Cancel(s.ctx())
		if late = time.Since(before) > 700*time.Millisecond; late {
			continue
		}
		if !errors.Is(replaced, engine.ErrTooLate) {
			t.Errorf("replaced: %+v, %v", record, replaced)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var short *engine.Result[json.RawMessage]
	for short == nil || r.of(short.ID()) == 0 { // one that has expired before its first run was not kept
		short = send("600ms", engine.WithExpires(time.Now().Add(400*time.Millisecond)))
		if _, err := short.Wait(s.ctx()); !errors.Is(err, engine.ErrExpired) {
			t.Fatalf("%v", err)
		}
	}
	s.empty("default")
	if r.of(result.ID()) != 1 || r.of(short.ID()) != 1 {
		t.Errorf("ran %d and %d times", r.of(result.ID()), r.of(short.ID()))
	}
	if _, err := result.Wait(s.ctx()); !errors.Is(err, engine.ErrRevoked) {
		t.Errorf("%v", err)
	}
}

// TestKeptTasksStayInTheirLane: the next attempt of a task is one of its lane.
func TestKeptTasksStayInTheirLane(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", Priorities: []wire.Priority{wire.PriorityHigh, wire.PriorityLow}})
	for _, poll := range []engine.Poll{engine.PollStrict, engine.PollWeighted} {
		var r retries
		w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: []engine.Queue{{
			Name: "default", Slots: 2, Poll: poll, Priorities: []wire.Priority{wire.PriorityHigh, wire.PriorityLow},
		}}})
		r.handle(w)
		stop := s.work(w)
		for _, lane := range []wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow} {
			result, err := s.client.SendRaw(s.ctx(), "default", "flaky", []byte(`"50ms"`), engine.WithPriority(lane))
			if err != nil {
				t.Fatal(err)
			}
			record, err := s.client.Wait(s.ctx(), "default", result.ID())
			if err != nil || record.State != wire.StateSucceeded || record.Priority != lane || record.Attempt != 3 {
				t.Errorf("%s %q: %+v, %v", poll, lane, record, err)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	s.empty("default")
	s.empty("default_high")
	s.empty("default_low")
}
