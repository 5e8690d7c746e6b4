package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestRedriveRunsDeadLettersAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", Priorities: []wire.Priority{wire.PriorityHigh}}, topology.Queue{Name: "mail"})
	if _, err := s.client.Redrive(s.ctx(), engine.Redrive{Queue: "default"}); !errors.Is(err, engine.ErrUnreachable) {
		t.Errorf("without a janitor: %v", err)
	}
	j := s.janitor(engine.JanitorConfig{Every: time.Hour})
	s.until("the janitor is ready", func() bool { return j.Health().Ready() })
	var mended atomic.Bool
	var tasks ran
	handle := func(ctx context.Context, m *engine.Message) ([]byte, error) {
		if !mended.Load() {
			return nil, engine.Permanent(errors.New("broken"))
		}
		return tasks.handle(ctx, m)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 4, Priorities: []wire.Priority{wire.PriorityHigh}}, {Name: "mail", Slots: 1}}})
	engine.HandleRaw(w, "work", handle)
	engine.HandleRaw(w, "other", handle)
	s.work(w)
	dies := func(queue, task string, opts ...engine.SendOption) string {
		r, err := s.client.SendRaw(s.ctx(), queue, task, []byte(`"`+task+`"`), opts...)
		if err != nil {
			t.Fatal(err)
		}
		var te *engine.TaskError
		if _, err := r.Wait(s.ctx()); !errors.As(err, &te) {
			t.Fatalf("%s: %v", r.ID(), err)
		}
		return r.ID()
	}
	free := dies("default", "work", engine.WithHeader("X-Mine", "yes"))
	explicit := dies("default", "work", engine.WithID("job-1"))
	high := dies("default", "work", engine.WithPriority(wire.PriorityHigh))
	expiry := time.Now().Add(5 * time.Second)
	expires := dies("default", "work", engine.WithExpires(expiry))
	other := dies("default", "other")
	elsewhere := dies("mail", "work")
	forgotten := dies("default", "work", engine.WithID("job-2"))
	kv, err := s.client.JetStream().KeyValue(s.ctx(), "PELTON_RESULTS_default")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(s.ctx(), forgotten); err != nil { // as after its time
		t.Fatal(err)
	}
	large := s.publish("pelton.task.default.work", `"`+strings.Repeat("x", 1<<20-200)+`"`)
	if _, err := s.client.Result("default", large).Wait(s.ctx()); err == nil {
		t.Fatal("a task that is too large succeeded")
	}
	mended.Store(true)
	<-time.After(time.Until(expiry))
	redrive := func(r engine.Redrive, again, refused int) {
		t.Helper()
		done, err := s.client.Redrive(s.ctx(), r)
		if err != nil || done.Again != again || done.Refused != refused || done.Removed != 0 {
			t.Errorf("%+v: %+v, %v; want %d again and %d refused", r, done, err, again, refused)
		}
	}
	ended := func(queue string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			s.until(id+" has succeeded", func() bool {
				r, err := s.client.Record(s.ctx(), queue, id)
				return err == nil && r.State == wire.StateSucceeded
			})
			got := tasks.of(id)
			if len(got) != 1 || got[0].Run != 2 || got[0].Attempt != 1 || got[0].Fence == 0 {
				t.Errorf("%s ran as %+v", id, got)
			}
		}
	}
	redrive(engine.Redrive{Queue: "default", ID: free}, 1, 0)
	ended("default", free)
	if got := tasks.of(free); len(got) == 1 && got[0].Header.Value("X-Mine") != "yes" {
		t.Errorf("headers %v", got[0].Header)
	}
	redrive(engine.Redrive{Queue: "default", ID: free}, 0, 0)
	redrive(engine.Redrive{Queue: "default", Task: "other"}, 1, 0)
	ended("default", other)
	redrive(engine.Redrive{Queue: "default"}, 4, 1) // the large one stays
	ended("default", explicit, high, expires, forgotten)
	if letters, err := s.client.DeadLetters(s.ctx(), "", 0); err != nil || len(letters) != 2 {
		t.Errorf("left: %+v, %v; want the large one and %s", letters, err, elsewhere)
	}
	s.empty("default")
}

// A letter whose redrive was interrupted goes on from where it was, and one that
// is left over from an earlier run goes.
func TestRedriveGoesOn(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	j := s.janitor(engine.JanitorConfig{Every: time.Hour})
	s.until("the janitor is ready", func() bool { return j.Health().Ready() })
	letter := func(id string) {
		s.publish("pelton.dead.default.work."+id, `1`, "Pelton-Id", id, "Pelton-Error", "broken")
	}
	letter("job-1")
	letter("job-2")
	letter("job-3")
	put := func(id string, run int, state wire.State) {
		data, err := (&engine.Record{ID: id, Run: run, Task: "work", Queue: "default", State: state, Attempt: 1}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.JetStream().Publish(s.ctx(), "$KV.PELTON_RESULTS_default."+id, data); err != nil {
			t.Fatal(err)
		}
	}
	put("job-1", 2, wire.StateQueued)    // its record was written, its message was not
	put("job-2", 2, wire.StateSucceeded) // it has run again already
	put("job-3", 1, wire.StateSucceeded) // it is none
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	var tasks ran
	engine.HandleRaw(w, "work", tasks.handle)
	s.work(w)
	done, err := s.client.Redrive(s.ctx(), engine.Redrive{Queue: "default"})
	if err != nil || done.Again != 1 || done.Removed != 1 || done.Refused != 1 || done.Why[0] != (engine.Refusal{ID: "job-3", Why: "it is succeeded"}) {
		t.Errorf("%+v, %v", done, err)
	}
	s.until("it has run", func() bool { return len(tasks.of("job-1")) == 1 })
	s.empty("default")
	if len(tasks.of("job-2"))+len(tasks.of("job-3")) != 0 {
		t.Errorf("ran %v", tasks.runs)
	}
}

// What asks is anybody: it is held to its own queue, and answered below an inbox
// alone.
func TestRedriveOfStrangers(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	j := s.janitor(engine.JanitorConfig{Every: time.Hour})
	s.until("the janitor is ready", func() bool { return j.Health().Ready() })
	nc := s.client.Conn()
	for _, body := range []string{"", "{", `{"queue":"mail"}`, `{"queue":"default","id":"*"}`, `{"queue":"default","task":">"}`} {
		m, err := nc.RequestWithContext(s.ctx(), "pelton.ctl.janitor.redrive.default", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		var done engine.Redriven
		if err := json.Unmarshal(m.Data, &done); err != nil || done.Failure == "" {
			t.Errorf("%q: %s, %v", body, m.Data, err)
		}
	}
	if err := nc.PublishRequest("pelton.ctl.janitor.redrive.default", "pelton.task.default.work", []byte(`{"queue":"default"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Redrive(s.ctx(), engine.Redrive{Queue: "default"}); err != nil { // the one before is done
		t.Fatal(err)
	}
	if state := s.stands("PELTON_TASKS_default"); state.Msgs != 0 {
		t.Errorf("the answer became a task: %+v", state)
	}
	for _, bad := range []engine.Redrive{{}, {Queue: "default", ID: "a.b"}, {Queue: "default", Task: "*"}} {
		if _, err := s.client.Redrive(s.ctx(), bad); !errors.Is(err, engine.ErrInvalidName) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
