package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func (s *system) status(queue string) engine.QueueStatus {
	s.t.Helper()
	status, err := s.client.QueueStatus(s.ctx(), queue)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// fill publishes without waiting for each.
func (s *system) fill(messages ...*nats.Msg) {
	s.t.Helper()
	js := s.client.JetStream()
	for few := range slices.Chunk(messages, 500) {
		for _, m := range few {
			if _, err := js.PublishMsgAsync(m); err != nil {
				s.t.Fatal(err)
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-s.ctx().Done():
			s.t.Fatal("publishing takes too long")
		}
	}
}

func deadMsg(queue, id string, diedAt time.Time) *nats.Msg {
	m := nats.NewMsg(wire.DefaultNamespace.DeadSubject(queue, "send", id))
	m.Header.Set(wire.HeaderErrorType, "error")
	m.Header.Set(wire.HeaderError, "no such mailbox "+id)
	m.Header.Set(wire.HeaderAttempt, "5")
	m.Header.Set(wire.HeaderDiedAt, wire.FormatTime(diedAt))
	m.Header.Set("X-Mine", "kept")
	m.Data = []byte(`{"to":"nobody"}`)
	return m
}

func TestInspectCountsWhatConsumersSay(t *testing.T) {
	s := newSystem(t)
	js := s.client.JetStream()
	if got := s.status("default"); got != (engine.QueueStatus{Queue: "default", State: engine.QueueOK}) {
		t.Errorf("an empty queue: %+v", got)
	}

	// Ledger messages stay for good and are no tasks.
	for i := range 3 {
		subject := wire.DefaultNamespace.LedgerSubject(wire.PlainLane("default"), "commands", "commands", fmt.Sprint(i))
		if _, err := js.Publish(s.ctx(), subject, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-time.Second)
	for range 4 {
		if _, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
	}
	s.fill(deadMsg("default", "d1", before), deadMsg("default", "d2", before), deadMsg("mail", "d3", before))
	var got engine.QueueStatus
	s.until("the consumer has heard of all", func() bool {
		got = s.status("default")
		return got.Pending >= 4
	})
	if got.Pending != 4 || got.Running != 0 || got.Dead != 2 || got.State != engine.QueueNoWorker {
		t.Errorf("nobody works: %+v", got)
	}
	if got.Oldest.Before(before) || got.Oldest.After(time.Now().Add(time.Second)) {
		t.Errorf("oldest is of %s", got.Oldest)
	}
}

func TestInspectRunningAndLater(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	release, running := make(chan struct{}), make(chan struct{}, 10)
	engine.HandleRaw(w, "block", func(context.Context, *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-release
		return nil, nil
	})
	s.work(w)
	m := nats.NewMsg("pelton.task.default.block")
	m.Header.Set(wire.HeaderDelay, "1h")
	m.Data = []byte(`1`)
	s.fill(m)
	s.until("the delayed task is parked", func() bool { return s.status("default").Later == 1 })
	for range 5 {
		if _, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
	}
	<-running
	<-running
	s.until("two run and three wait", func() bool { // the stream hears of acks a little later
		got := s.status("default")
		return got.Pending == 3 && got.Running == 2 && got.Later == 1 && got.State == engine.QueueOK
	})
	close(release)
	s.until("all are done", func() bool {
		got := s.status("default")
		return got.Pending == 0 && got.Running == 0 && got.Later == 1 && got.Waiting > 0 && got.Oldest.IsZero()
	})
}

func TestInspectDueLane(t *testing.T) {
	s := newSystem(t)
	// As the broker leaves it when the time of a delayed task has come.
	if _, err := s.client.JetStream().Publish(s.ctx(), "pelton.due.default.block.x1", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	s.until("the due task waits, and nobody works it", func() bool { // its consumer hears of it a little later
		got := s.status("default")
		return got.Pending == 1 && got.Later == 0 && !got.Oldest.IsZero() && got.State == engine.QueueNoWorker
	})
}

func TestInspectStates(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", MaxPending: 2})
	js := s.client.JetStream()
	for range 2 {
		if _, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
	}
	consumer, err := js.Consumer(s.ctx(), "PELTON_TASKS_default", "workers")
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	for range batch.Messages() {
		if got := s.status("default"); got.State != engine.QueueFull {
			t.Errorf("state %q, want %q", got.State, engine.QueueFull)
		}
	}
	until := time.Now().Add(time.Hour)
	if _, err := js.PauseConsumer(s.ctx(), "PELTON_TASKS_default", "workers", until); err != nil {
		t.Fatal(err)
	}
	if got := s.status("default"); got.State != engine.QueuePaused || got.PausedUntil.Sub(until).Abs() > time.Second {
		t.Errorf("status %+v, want %q until %s", got, engine.QueuePaused, until)
	}
	if err := js.DeleteConsumer(s.ctx(), "PELTON_LATER_default", "due"); err != nil {
		t.Fatal(err)
	}
	if got := s.status("default"); got.State != engine.QueueNoConsumer {
		t.Errorf("state %q, want %q", got.State, engine.QueueNoConsumer)
	}
}

func TestInspectWorkerThatLeft(t *testing.T) {
	s := newSystem(t)
	stop := s.work(engine.NewWorker(s.client, engine.WorkerConfig{}))
	s.until("a worker waits", func() bool { return s.status("default").Waiting > 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	s.until("nobody works the queue", func() bool { return s.status("default").State == engine.QueueNoWorker })
}

func TestInspectQueues(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "mail", Priorities: []wire.Priority{wire.PriorityHigh}}, topology.Queue{Name: "default"})
	if _, err := s.client.JetStream().CreateStream(s.ctx(), jetstream.StreamConfig{Name: "FOREIGN", Subjects: []string{"foreign.>"}}); err != nil {
		t.Fatal(err)
	}
	queues, err := s.client.Queues(s.ctx())
	if err != nil || fmt.Sprint(queues) != "[default mail]" {
		t.Errorf("queues %v, %v", queues, err)
	}
	if _, err := s.client.QueueStatus(s.ctx(), "nosuch"); !errors.Is(err, engine.ErrNoQueue) {
		t.Errorf("a queue that is not there: %v", err)
	}
	if _, err := s.client.QueueStatus(s.ctx(), "No Such"); !errors.Is(err, engine.ErrInvalidName) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestInspectDeadLetters(t *testing.T) {
	s := newSystem(t)
	if got, err := s.client.DeadLetters(s.ctx(), "", 10); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	died := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	s.fill(deadMsg("default", "a", died), deadMsg("mail", "b", died), deadMsg("default", "c", died.Add(time.Second)))
	for _, tc := range []struct {
		queue string
		limit int
		want  string
	}{
		{"", 0, "[c b a]"},
		{"", 2, "[c b]"},
		{"default", 10, "[c a]"},
		{"default", 1, "[c]"},
		{"mail", 10, "[b]"},
		{"nosuch", 10, "[]"},
	} {
		got, err := s.client.DeadLetters(s.ctx(), tc.queue, tc.limit)
		ids := make([]string, len(got))
		for i := range got {
			ids[i] = got[i].ID
		}
		if err != nil || fmt.Sprint(ids) != tc.want {
			t.Errorf("queue %q, limit %d: %v, %v; want %s", tc.queue, tc.limit, ids, err, tc.want)
		}
	}
	got, err := s.client.DeadLetters(s.ctx(), "default", 1)
	if err != nil {
		t.Fatal(err)
	}
	letter := got[0]
	if letter.Header.Value("X-Mine") != "kept" || letter.Sequence != 3 {
		t.Errorf("letter %+v", letter)
	}
	data, err := json.Marshal(letter)
	want := `{"id":"c","task":"send","queue":"default","error_type":"error","error":"no such mailbox c","attempt":5,` +
		`"died_at":"2026-11-22T22:00:01Z","bytes":15,"sequence":3}`
	if err != nil || string(data) != want {
		t.Errorf("as JSON %s, %v\nwant %s", data, err, want)
	}
	if _, err := s.client.DeadLetters(s.ctx(), "No", 1); !errors.Is(err, engine.ErrInvalidName) {
		t.Errorf("a bad name: %v", err)
	}
	stream, err := s.client.JetStream().Stream(s.ctx(), "PELTON_DEAD")
	if err != nil || stream.CachedInfo().State.Consumers != 0 {
		t.Errorf("consumers are left behind: %v", err)
	}
}

// The letters of one queue lie far behind those of another.
func TestInspectManyDeadLetters(t *testing.T) {
	s := newSystem(t)
	died := time.Now()
	var rare, many []*nats.Msg
	for i := range 3 {
		rare = append(rare, deadMsg("rare", fmt.Sprintf("r%d", i), died))
	}
	for i := range 5000 {
		many = append(many, deadMsg("default", fmt.Sprintf("d%d", i), died))
	}
	s.fill(rare...)
	s.fill(many...)
	for _, tc := range []struct {
		queue       string
		limit, want int
		newest      string
	}{
		{"default", 700, 700, "d4999"},
		{"default", 1, 1, "d4999"},
		{"rare", 100, 3, "r2"},
		{"", 0, 5003, "d4999"},
	} {
		got, err := s.client.DeadLetters(s.ctx(), tc.queue, tc.limit)
		if err != nil || len(got) != tc.want || got[0].ID != tc.newest {
			t.Fatalf("queue %q: %d letters, %v; want %d from %s", tc.queue, len(got), err, tc.want, tc.newest)
		}
		for i := 1; i < len(got); i++ {
			if got[i].Sequence >= got[i-1].Sequence {
				t.Fatalf("queue %q: letter %d stands at %d, the one before it at %d", tc.queue, i, got[i].Sequence, got[i-1].Sequence)
			}
		}
	}
	if got := s.status("default"); got.Dead != 5000 {
		t.Errorf("dead %d, want 5000", got.Dead)
	}
}

func TestInspectBrokerGone(t *testing.T) {
	s := newSystem(t)
	s.broker.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for name, ask := range map[string]func() error{
		"status": func() error { _, err := s.client.QueueStatus(ctx, "default"); return err },
		"queues": func() error { _, err := s.client.Queues(ctx); return err },
		"dead":   func() error { _, err := s.client.DeadLetters(ctx, "", 1); return err },
	} {
		if err := ask(); !errors.Is(err, engine.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
