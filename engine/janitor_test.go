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

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/ledger"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// forget leaves all that stands in a lane's stream to nobody, as a broker that
// was killed between two writes to its disk can do: the consumer's floor is
// above it. Where pass puts one more message, that is the one that is
// acknowledged.
func (s *system) forget(stream, durable, filter, passes string, put func(), pass func()) {
	s.t.Helper()
	js := s.client.JetStream()
	consumer, err := js.Consumer(s.ctx(), stream, durable)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg := consumer.CachedInfo().Config
	cfg.FilterSubject = passes
	if consumer, err = js.UpdateConsumer(s.ctx(), stream, cfg); err != nil {
		s.t.Fatal(err)
	}
	put()
	pass()
	m, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := m.DoubleAck(s.ctx()); err != nil {
		s.t.Fatal(err)
	}
	cfg.FilterSubject = filter
	if consumer, err = js.UpdateConsumer(s.ctx(), stream, cfg); err != nil {
		s.t.Fatal(err)
	}
	if n := consumer.CachedInfo().NumPending; n != 0 {
		s.t.Fatalf("%d messages are not forgotten", n)
	}
}

func (s *system) janitor(cfg engine.JanitorConfig) *engine.Janitor {
	s.t.Helper()
	j := engine.NewJanitor(s.client, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("janitor: %v", err)
		}
	})
	return j
}

// ran is which tasks a handler has run.
type ran struct {
	mu   sync.Mutex
	runs map[string][]engine.Info
}

func (r *ran) handle(_ context.Context, m *engine.Message) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs = map[string][]engine.Info{}
	}
	r.runs[m.Info.ID] = append(r.runs[m.Info.ID], m.Info)
	return m.Body, nil
}

func (r *ran) of(id string) []engine.Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[id]
}

// put writes a record of a task as a worker would have.
func (s *system) put(r engine.Record) {
	s.t.Helper()
	r.Run, r.Task, r.Queue = 1, "work", "default"
	r.Attempt = max(r.Attempt, 1)
	data, err := r.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	kv, err := s.client.JetStream().KeyValue(s.ctx(), "PELTON_RESULTS_default")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := kv.Put(s.ctx(), r.ID, data); err != nil {
		s.t.Fatal(err)
	}
}

func TestJanitorPutsRightWhatTheBrokerForgot(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	ids := map[string]string{}
	work := func(name, suffix string, header ...string) {
		ids[name] = s.publish("pelton.task.default.work"+suffix, `"`+name+`"`, header...)
	}
	s.forget("PELTON_TASKS_default", "workers", "pelton.task.default.>", "pelton.task.default.pass", func() {
		work("free", "")
		work("explicit", ".job-1")
		work("derived", "", "Pelton-Origin", "kafka:commands/3@18422")
		work("done", "")
		work("revoked", ".job-2")
		work("started", "")
		work("handed back", ".job-3")
		work("waits for its next attempt", "")
		work("its next attempt runs", ".job-4")
		work("too late", "", "Pelton-Expires", "1s")
		work("another message runs", ".job-5")
		work("runs again on purpose", ".job-6", "Pelton-Run", "2")
		work("attempts", "", "Pelton-Attempt", "3")
	}, func() { s.publish("pelton.task.default.pass", `1`) })
	sequence := func(name string) (n uint64) {
		_, err := fmt.Sscanf(ids[name], "default-%d", &n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	at := time.Now().UTC().Add(-time.Minute)
	s.put(engine.Record{ID: ids["done"], State: wire.StateSucceeded, Result: []byte(`"before"`), FinishedAt: at})
	s.put(engine.Record{ID: "job-2", State: wire.StateRevoked, FinishedAt: at})
	s.put(engine.Record{ID: ids["started"], State: wire.StateStarted, Sequence: sequence("started"), StartedAt: at, Worker: "gone"})
	s.put(engine.Record{ID: "job-3", State: wire.StateQueued, Sequence: sequence("handed back")})
	s.put(engine.Record{ID: ids["waits for its next attempt"], State: wire.StateRetrying, Attempt: 2, Due: true, ETA: time.Now().UTC(), Sequence: sequence("waits for its next attempt")})
	s.put(engine.Record{ID: "job-4", State: wire.StateStarted, Attempt: 2, Due: true, DueSeq: 99, Worker: "lives", StartedAt: at, Sequence: sequence("its next attempt runs")})
	s.put(engine.Record{ID: "job-5", State: wire.StateStarted, Worker: "lives", StartedAt: at, Sequence: 1 << 20})
	s.put(engine.Record{ID: "job-6", State: wire.StateFailed, FinishedAt: at})

	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
	var tasks ran
	engine.HandleRaw(w, "work", tasks.handle)
	s.work(w)
	<-time.After(2500 * time.Millisecond) // more than twice AckWait: the control, without a janitor
	if state := s.stands("PELTON_TASKS_default"); state.Msgs != uint64(len(ids)) || len(tasks.runs) != 0 {
		t.Fatalf("%d messages stand, %d ran; want all %d and none", state.Msgs, len(tasks.runs), len(ids))
	}
	j := s.janitor(engine.JanitorConfig{Every: 300 * time.Millisecond})
	s.empty("default")
	for name, want := range map[string]struct {
		id    string
		state wire.State
		runs  int
	}{
		"free":                       {ids["free"], wire.StateSucceeded, 1},
		"explicit":                   {"job-1", wire.StateSucceeded, 1},
		"derived":                    {"commands-3-18422", wire.StateSucceeded, 1},
		"done":                       {ids["done"], wire.StateSucceeded, 0},
		"revoked":                    {"job-2", wire.StateRevoked, 0},
		"started":                    {ids["started"], wire.StateSucceeded, 1},
		"handed back":                {"job-3", wire.StateSucceeded, 1},
		"waits for its next attempt": {ids["waits for its next attempt"], wire.StateSucceeded, 1},
		"its next attempt runs":      {"job-4", wire.StateStarted, 0},
		"too late":                   {ids["too late"], wire.StateExpired, 0},
		"another message runs":       {"job-5", wire.StateStarted, 0},
		"runs again on purpose":      {"job-6", wire.StateSucceeded, 1},
		"attempts":                   {ids["attempts"], wire.StateSucceeded, 1},
	} {
		s.until(name+" is "+string(want.state), func() bool {
			r, err := s.client.Record(s.ctx(), "default", want.id)
			return err == nil && r.State == want.state
		})
		runs := tasks.of(want.id)
		if len(runs) != want.runs {
			t.Errorf("%s ran %d times, want %d", name, len(runs), want.runs)
			continue
		}
		r, err := s.client.Record(s.ctx(), "default", want.id)
		if err != nil || r.Deaths != 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if want.runs == 1 && string(r.Result) != `"`+name+`"` {
			t.Errorf("%s: result %s", name, r.Result)
		}
	}
	for _, id := range []string{ids["free"], "commands-3-18422"} {
		if got := tasks.of(id); len(got) == 1 && (got[0].Run != 1 || got[0].Attempt != 1) {
			t.Errorf("%s: %+v", id, got[0])
		}
	}
	if got := tasks.of("commands-3-18422"); len(got) == 1 && got[0].Origin != "kafka:commands/3@18422" {
		t.Errorf("origin %q", got[0].Origin)
	}
	if got := tasks.of(ids["attempts"]); len(got) == 1 && got[0].Attempt != 3 {
		t.Errorf("attempt %d", got[0].Attempt)
	}
	if r, err := s.client.Record(s.ctx(), "default", ids["done"]); err != nil || string(r.Result) != `"before"` {
		t.Errorf("a finished task was written over: %+v, %v", r, err)
	}
	s.until("the janitor is ready", func() bool { return j.Health().Ready() })
}

// More than one go puts right, behind more than one go that are no tasks.
func TestJanitorPutsRightMany(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	const strange, owed, most = 80, 200, 64
	s.forget("PELTON_TASKS_default", "workers", "pelton.task.default.>", "pelton.task.default.pass", func() {
		for range strange {
			s.publish("pelton.task.default.work", `1`, "Pelton-Attempt", "none")
		}
		for range owed {
			s.publish("pelton.task.default.work", `1`)
		}
	}, func() { s.publish("pelton.task.default.pass", `1`) })
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
	var runs atomic.Int32
	engine.HandleRaw(w, "work", func(context.Context, *engine.Message) ([]byte, error) {
		runs.Add(1)
		return nil, nil
	})
	s.work(w)
	j := engine.NewJanitor(s.client, engine.JanitorConfig{})
	engine.SetMendMost(j, most)
	for range 2 { // the second finds nothing to do, and ends too
		if err := j.Once(s.ctx()); err != nil {
			t.Fatal(err)
		}
		s.until("what is owed has run", func() bool {
			tasks, ok := s.state("PELTON_TASKS_default")
			later, there := s.state("PELTON_LATER_default")
			return ok && there && tasks.Msgs == strange && later.Msgs == 0
		})
		if n := runs.Load(); n != owed {
			t.Errorf("%d runs, want %d", n, owed)
		}
	}
}

// TestJanitorOnceEnds although what stays is found again and again, in queues
// that are waited for for different times, and although some of it always fails.
func TestJanitorOnceEnds(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second}, topology.Queue{Name: "slow", AckWait: 1500 * time.Millisecond})
	for _, queue := range []string{"default", "slow"} {
		task := "pelton.task." + queue
		s.forget("PELTON_TASKS_"+queue, "workers", task+".>", task+".pass", func() {
			s.publish(task+".work", `1`, "Pelton-Attempt", "none")
		}, func() { s.publish(task+".pass", `1`) })
	}
	lanes := []wire.Lane{wire.PlainLane("default"), wire.PlainLane("slow")}
	if err := engine.NewJanitor(s.client, engine.JanitorConfig{Lanes: lanes}).Once(s.ctx()); err != nil {
		t.Fatal(err)
	}
	for _, lane := range lanes {
		if state := s.stands("PELTON_TASKS_" + lane.Queue); state.Msgs != 1 {
			t.Errorf("%d messages in %s, want the one that is no task", state.Msgs, lane.Queue)
		}
	}
}

// TestJanitorGoesOnPastWhatFails: a task that cannot be parked, because it is too
// large with what that adds, is not in the way of others.
func TestJanitorGoesOnPastWhatFails(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	const large = 40
	var small string
	s.forget("PELTON_TASKS_default", "workers", "pelton.task.default.>", "pelton.task.default.pass", func() {
		body := `"` + strings.Repeat("x", 1<<20-100) + `"`
		for range large {
			s.publish("pelton.task.default.work", body)
		}
		small = s.publish("pelton.task.default.work", `1`)
	}, func() { s.publish("pelton.task.default.pass", `1`) })
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(w, "work", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
	s.work(w)
	j := s.janitor(engine.JanitorConfig{Every: 100 * time.Millisecond})
	ctx, end := context.WithTimeout(t.Context(), 3*time.Minute) // forty times a megabyte is read again and again
	defer end()
	if r, err := s.client.Wait(ctx, "default", small); err != nil || r.State != wire.StateSucceeded {
		t.Errorf("%+v, %v", r, err)
	}
	s.until("the janitor says that it cannot put right all it has found", func() bool { return !j.Health().Ready() })
}

func TestJanitorPutsRightWhatHasBecomeDue(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	send := func(task, id string) {
		if _, err := s.client.SendRaw(s.ctx(), "default", task, []byte(`"x"`), engine.WithID(id), engine.WithCountdown(3*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	fired := func(n uint64) {
		s.until("they are due", func() bool {
			stream, err := s.client.JetStream().Stream(s.ctx(), "PELTON_LATER_default")
			if err != nil {
				return false
			}
			info, err := stream.Info(s.ctx(), jetstream.WithSubjectFilter("pelton.due.default.>"))
			return err == nil && uint64(len(info.State.Subjects)) == n
		})
	}
	s.forget("PELTON_LATER_default", "due", "pelton.due.default.>", "pelton.due.default.pass.>", func() {
		send("work", "job-1")
		send("work", "job-2")
		fired(2)
	}, func() {
		send("pass", "job-3")
		fired(3)
	})
	s.put(engine.Record{ID: "job-2", State: wire.StateSucceeded, Result: []byte(`"before"`)})
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
	var tasks ran
	engine.HandleRaw(w, "work", tasks.handle)
	s.work(w)
	if err := engine.NewJanitor(s.client, engine.JanitorConfig{}).Once(s.ctx()); err != nil {
		t.Fatal(err)
	}
	s.until("it has run", func() bool { return len(tasks.of("job-1")) == 1 })
	s.empty("default")
	if len(tasks.of("job-1")) != 1 || len(tasks.of("job-2")) != 0 {
		t.Errorf("ran %v", tasks.runs)
	}
}

// A task that is canceled while it waits goes at once, also where its place
// alone is known. The control, without a janitor, leaves it to a worker.
func TestJanitorRemovesCanceledTasks(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{true, false} {
		s := newSystem(t)
		if there {
			j := s.janitor(engine.JanitorConfig{Every: time.Hour})
			s.until("the janitor is ready", func() bool { return j.Health().Ready() })
		}
		stays := s.publish("pelton.task.default.work", `1`)
		canceled := []string{s.publish("pelton.task.default.work", `2`), "job-1"}
		s.publish("pelton.task.default.work.job-1", `3`)
		for _, id := range canceled {
			if _, err := s.client.Cancel(s.ctx(), "default", id); err != nil {
				t.Fatal(err)
			}
		}
		// What is not canceled, or is nobody's, stays.
		for _, id := range []string{stays, "default-999", "job-404", "", "a.b", "mail-1"} {
			if err := s.client.Conn().Publish("pelton.ctl.janitor.cancel.default", []byte(id)); err != nil {
				t.Fatal(err)
			}
		}
		left := uint64(1)
		if !there {
			left = 2
			<-time.After(500 * time.Millisecond)
		}
		s.until(fmt.Sprintf("%d tasks are left", left), func() bool {
			state, ok := s.state("PELTON_TASKS_default")
			return ok && state.Msgs == left
		})
	}
}

// What is in the hands of workers, waits or is just being removed is nobody's to
// put right.
func TestJanitorHarmsNoLivingTask(t *testing.T) {
	t.Parallel()
	// A machine that stalls for as long as a lease has a task run twice.
	s := newSystem(t, topology.Queue{Name: "default", AckWait: 3 * time.Second})
	s.janitor(engine.JanitorConfig{Every: time.Millisecond})
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(96)})
	var runs atomic.Int32
	engine.HandleRaw(w, "work", func(_ context.Context, m *engine.Message) ([]byte, error) {
		runs.Add(1)
		if m.Info.Attempt == 1 && len(m.Body) == 1 {
			return nil, engine.RetryIn(time.Second, errors.New("again"))
		}
		<-time.After(time.Duration(len(m.Body)) * 300 * time.Millisecond)
		return nil, nil
	})
	s.work(w)
	const tasks = 150
	for i := range tasks {
		s.publish("pelton.task.default.work", strings.Repeat("1", 1+i%30)) // up to three AckWaits
	}
	s.empty("default")
	if n := runs.Load(); n != tasks+tasks/30 {
		t.Errorf("%d runs of %d tasks, of which %d once more", n, tasks, tasks/30)
	}
}

func TestJanitorTrimsEachLedger(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", Priorities: []wire.Priority{wire.PriorityHigh}})
	const entries = 70
	var ledgers []*ledger.Ledger
	var fences []uint64
	for _, subject := range []string{"pelton.ledger.default.in.commands.0", "pelton.ledger.default.in.commands.1", "pelton.ledger.default.few"} {
		l, err := ledger.New(ledger.Config{JetStream: s.client.JetStream(), Stream: "PELTON_TASKS_default", Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		fence := uint64(0)
		for i := range entries {
			if i == 3 && strings.HasSuffix(subject, "few") {
				break
			}
			ack, err := s.client.JetStream().Publish(s.ctx(), subject, fmt.Appendf(nil, `{"position":%d,"instance":"x","crc":1}`, i))
			if err != nil {
				t.Fatal(err)
			}
			fence = ack.Sequence
		}
		ledgers, fences = append(ledgers, l), append(fences, fence)
	}
	s.publish("pelton.task.default.work", `1`)
	lanes := []wire.Lane{wire.PlainLane("default"), {Queue: "default", Priority: wire.PriorityHigh}}
	if err := engine.NewJanitor(s.client, engine.JanitorConfig{Lanes: lanes}).Once(s.ctx()); err != nil {
		t.Fatal(err)
	}
	for i, l := range ledgers {
		if e, err := l.Read(s.ctx()); err != nil || e.Sequence != fences[i] {
			t.Errorf("%s: %+v, %v; want %d", l.Subject(), e, err, fences[i])
		}
	}
	if state := s.stands("PELTON_TASKS_default"); state.Msgs != 1+1+3+1 {
		t.Errorf("%d messages, want an entry of each long ledger, the short one, and the task", state.Msgs)
	}
}

func TestJanitorIsRefused(t *testing.T) {
	s := newSystem(t)
	for _, tc := range []struct {
		cfg  engine.JanitorConfig
		want string
	}{
		{engine.JanitorConfig{Every: -1}, "janitor.every must be from 0 to a year, got -1ns"},
		{engine.JanitorConfig{Lanes: []wire.Lane{wire.PlainLane("No")}}, `janitor.queues: queue "No"`},
	} {
		if err := engine.NewJanitor(s.client, tc.cfg).Run(s.ctx()); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("run: %v, want %s", err, tc.want)
		}
	}
}

// A janitor waits for what is not there, and says so.
func TestJanitorWaitsForItsStreams(t *testing.T) {
	s := newSystem(t)
	j := s.janitor(engine.JanitorConfig{Lanes: []wire.Lane{wire.PlainLane("absent")}, Every: time.Millisecond})
	s.until("it is not ready", func() bool {
		h := j.Health()
		return h.Alive() && len(h.Unready) == 1 && strings.Contains(h.Unready[0], "PELTON_TASKS_absent")
	})
	s.broker.Setup("absent")
	s.until("it is ready", func() bool { return j.Health().Ready() })
}
