package permissions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine"
	"pelton/engine/wire"
)

// system is all roles at once, each as its user, on the shipped file.
type system struct {
	*world
	ctx context.Context

	mu        sync.Mutex
	forbidden []string
}

func newSystem(t *testing.T) *system {
	t.Helper()
	users := make([]string, 0, len(everybody))
	for _, r := range rolesIn(t, "") {
		users = append(users, r.Name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return &system{world: serve(t, withPasswords(read(t, shipped), users...)), ctx: ctx}
}

// as is a stage with a role's connection.
func (y *system) as(role string) stage {
	y.t.Helper()
	note := func(who string) func(error) {
		return func(err error) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.forbidden = append(y.forbidden, who+": "+err.Error())
		}
	}
	return stage{
		ns: wire.DefaultNamespace, nc: y.login(role, "_INBOX_"+role, note(role)),
		admin:   y.client(wire.DefaultNamespace, y.login(wide, "_INBOX", note(wide))),
		cleanup: y.t.Cleanup,
	}
}

func (y *system) must(err error) {
	y.t.Helper()
	if err != nil {
		y.t.Fatal(err)
	}
}

// worker starts one; its tasks named slow say on begun that they run, and go on
// until they are told to end.
func (y *system) worker(begun chan<- string) *running {
	y.t.Helper()
	c, err := y.as("worker").client()
	y.must(err)
	w := engine.NewWorker(c, engine.WorkerConfig{Queues: []engine.Queue{{Name: queue, Slots: 8}}, Grace: 100 * time.Millisecond})
	handlers(w)
	engine.HandleRaw(w, "slow", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		begun <- "slow"
		<-ctx.Done()
		return nil, ctx.Err()
	})
	return start(y.ctx, w.Run)
}

// TestSystem has every role do its work at the same time: what dev does, and
// retries, dead letters, delays, redelivery and handing back besides.
func TestSystem(t *testing.T) {
	y := newSystem(t)
	ctx := y.ctx
	y.must(setUp(ctx, y.as("setup")))
	publisher, err := y.as("publisher").client()
	y.must(err)
	send := func(task string, opts ...engine.SendOption) string {
		t.Helper()
		sent, err := publisher.SendRaw(ctx, queue, task, []byte(`1`), opts...)
		y.must(err)
		return sent.ID()
	}
	want := map[string]wire.State{}

	// Somebody takes a task and dies: it comes again.
	taken := send("ok")
	want[taken] = wire.StateSucceeded
	consumer, err := y.as("worker").admin.JetStream().Consumer(ctx, tasksOf, wire.WorkersDurable)
	y.must(err)
	_, err = consumer.Next(jetstream.FetchContext(ctx))
	y.must(err)

	// A worker that is told to end hands back what runs.
	begun := make(chan string, 16)
	first := y.worker(begun)
	slow := send("slow", engine.WithID("slow-1"))
	<-begun
	y.must(first.stop())
	r, err := y.recordOf(slow)
	y.must(err)
	if r.State != wire.StateQueued {
		t.Errorf("handed back, the task is %s", r.State)
	}
	second := y.worker(begun)
	<-begun

	want[send("ok")] = wire.StateSucceeded
	want[send("ok", engine.WithID("job-1"))] = wire.StateSucceeded
	want[send("flaky")] = wire.StateSucceeded
	want[send("bad")] = wire.StateFailed
	delayed := &nats.Msg{Subject: "pelton.task.default.ok", Header: nats.Header{wire.HeaderDelay: {"3s"}}, Data: []byte(`1`)}
	ack, err := publishAs(ctx, publisher.Conn(), delayed)
	y.must(err)
	want[wire.FreeID(wire.PlainLane(queue), ack.Sequence)] = wire.StateSucceeded
	_, err = publishAs(ctx, y.as("trusted").nc, scheduled(wire.DefaultNamespace, "job-2", "job-2"))
	y.must(err)
	want["job-2"] = wire.StateSucceeded

	y.must(withKafka(func(brokers []string) error {
		stored, emitted := make(chan int, 64), make(chan int, 64)
		in, err := y.as("ingest").ingest(brokers, stored)
		if err != nil {
			return err
		}
		out, err := y.as("emit").emit(ctx, brokers, emitted)
		if err != nil {
			return err
		}
		if err := produce(ctx, brokers, `1`, `2`, `3`); err != nil {
			return err
		}
		for i := range 3 {
			want[fmt.Sprintf("commands-0-%d", i)] = wire.StateSucceeded
		}
		return start(ctx, in.Run).during(ctx, func(ctx context.Context) error {
			return start(ctx, out.Run).during(ctx, func(ctx context.Context) error {
				return errors.Join(count(ctx, stored, 3), y.await(ctx, want), count(ctx, emitted, len(want)), committed(ctx, brokers, want))
			})
		})
	}))
	y.must(observeBusy(ctx, y.as("observer"), y.as("operator")))
	y.must(trimBusy(ctx, y.as("janitor")))
	y.must(second.stop())
	y.mustHaveForbiddenNothing()
}

// recordOf reads a record as the waiter.
func (y *system) recordOf(id string) (*engine.Record, error) {
	y.t.Helper()
	return y.client(wire.DefaultNamespace, y.as("waiter").nc).Record(y.ctx, queue, id)
}

// await waits for all tasks as the waiter.
func (y *system) await(ctx context.Context, want map[string]wire.State) error {
	c, err := y.as("waiter").client()
	if err != nil {
		return err
	}
	for id, state := range want {
		r, err := c.Wait(ctx, queue, id)
		if err != nil {
			return err
		}
		if r.State != state {
			return fmt.Errorf("task %s: %s, want %s: %v", id, r.State, state, r.Error)
		}
	}
	return nil
}

// committed reads the results, which are one for each task.
func committed(ctx context.Context, brokers []string, want map[string]wire.State) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics("results"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	seen := map[string]int{}
	for n := 0; n < len(want); {
		for _, r := range cl.PollFetches(ctx).Records() {
			seen[string(r.Key)]++
			n++
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	for id := range want {
		if seen[id] != 1 {
			return fmt.Errorf("task %s has %d results in Kafka", id, seen[id])
		}
	}
	return nil
}

// observeBusy looks at the queue while it is worked.
func observeBusy(ctx context.Context, observer, operator stage) error {
	c, err := observer.client()
	if err != nil {
		return err
	}
	_, errAccount := c.JetStream().AccountInfo(ctx)
	_, errRecord := c.Record(ctx, queue, "job-1")
	if err := errors.Join(errAccount, errRecord, observer.verify(ctx, "")); err != nil {
		return err
	}
	if c, err = operator.client(); err != nil {
		return err
	}
	status, err := c.QueueStatus(ctx, queue)
	letters, errDead := c.DeadLetters(ctx, queue, 0)
	if err == nil && (status.Dead != 1 || len(letters) != 1) {
		err = fmt.Errorf("status %+v, dead letters %v", status, letters)
	}
	return errors.Join(err, errDead)
}

// trimBusy trims the ledger that ingest has written.
func trimBusy(ctx context.Context, s stage) error {
	l, err := s.ledgerOf(s.nc)
	if err != nil {
		return err
	}
	return l.Trim(ctx)
}

// mustHaveForbiddenNothing allows for one look: who waits asks once whether it
// may look into the queue, for a task that has no record yet.
func (y *system) mustHaveForbiddenNothing() {
	y.t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, line := range append(y.log.violations(), y.forbidden...) {
		if !strings.Contains(line, "STREAM.MSG.GET."+tasksOf) || !strings.Contains(line, "waiter") {
			y.t.Error(line)
		}
	}
}
