package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// slots of the worker that runs what is due.
const slots = 16

// Lateness is by how much tasks ran after their time, in milliseconds. Pelton
// must run none before it; a run that sees one has failed.
type Lateness struct {
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Most  float64 `json:"max_ms"`
	Least float64 `json:"min_ms"`
}

// duePath is tasks that are sent with a time ahead and run when it comes: as
// many due in a second as rate says, all at one instant where it is 0. By hand
// the same schedules are fetched by a bare loop, each held by a timer of its own
// and acked, with neither a look at who ran it before nor a record.
func duePath(name, says string, tasks, rate int) Path {
	return Path{
		Name: name, Says: says, Tasks: tasks, Headers: 4, Due: true,
		Check:  func(context.Context, *Run) error { return nil }, // the timetable has counted
		Raw:    func(ctx context.Context, r *Run) error { return rawDue(ctx, r, newTimetable(r, rate)) },
		Pelton: func(ctx context.Context, r *Run) error { return workDue(ctx, r, newTimetable(r, rate)) },
	}
}

// timetable is when the tasks of a run are due, and when they ran. Its methods
// may be called from many goroutines.
type timetable struct {
	start time.Time
	gap   time.Duration
	late  []time.Duration
	ran   []atomic.Int32
	left  atomic.Int64
	done  chan struct{} // closed when each has run
}

// newTimetable begins after the time that the sending may take.
func newTimetable(r *Run, rate int) *timetable {
	t := &timetable{
		// Of the clock alone, as the times in messages are.
		start: time.Now().Add(2*time.Second + time.Duration(r.Tasks)*200*time.Microsecond).Round(0),
		late:  make([]time.Duration, r.Tasks), ran: make([]atomic.Int32, r.Tasks), done: make(chan struct{}),
	}
	if rate > 0 {
		t.gap = time.Second / time.Duration(rate)
	}
	t.left.Store(int64(r.Tasks))
	return t
}

func (t *timetable) due(i int) time.Time { return t.start.Add(time.Duration(i) * t.gap) }

// digits number a task, in its body.
const digits = 8

func (t *timetable) body(r *Run, i int) []byte {
	return fmt.Appendf(nil, `"%0*d%s`, digits, i, r.Body[min(1+digits, len(r.Body)-1):])
}

// runs notes that the task with this body runs.
func (t *timetable) runs(body []byte, now time.Time) error {
	if len(body) < 1+digits {
		return fmt.Errorf("a task of %d bytes, must have a number", len(body))
	}
	i, err := strconv.Atoi(string(body[1 : 1+digits]))
	if err != nil || i < 0 || i >= len(t.ran) {
		return fmt.Errorf("task %q, must be a number below %d", body[:1+digits], len(t.ran))
	}
	if t.ran[i].Add(1) > 1 {
		return nil // found by lateness
	}
	t.late[i] = now.Round(0).Sub(t.due(i))
	if t.left.Add(-1) == 0 {
		close(t.done)
	}
	return nil
}

// send sends all tasks with one of the two ways and waits until the broker has
// them; the figures count from there. It must end before the first is fired, or
// the sending would be measured.
func (t *timetable) send(ctx context.Context, r *Run, one func(body []byte, due time.Time) error, all func(context.Context) error) error {
	for i := range r.Tasks {
		if err := one(t.body(r, i), t.due(i)); err != nil {
			return err
		}
	}
	if err := all(ctx); err != nil {
		return err
	}
	if ahead := time.Until(t.start); ahead < firedEarly {
		return fmt.Errorf("%d tasks were sent %s before the first was due, must be %s: this machine is too slow for so many", r.Tasks, ahead.Round(time.Millisecond), firedEarly)
	}
	return r.restart()
}

// wait waits until each task has run.
func (t *timetable) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d of %d tasks did not run: %w", t.left.Load(), len(t.ran), context.Cause(ctx))
	}
}

// lateness is what came out, once each task has run.
func (t *timetable) lateness(r *Run) error {
	last := t.start
	for i := range t.ran {
		if n := t.ran[i].Load(); n != 1 {
			return fmt.Errorf("task %d ran %d times", i, n)
		}
		if at := t.due(i).Add(t.late[i]); at.After(last) {
			last = at
		}
	}
	slices.Sort(t.late)
	at := func(percent int) float64 {
		return float64(t.late[(len(t.late)-1)*percent/100].Microseconds()) / 1000
	}
	r.late, r.took = &Lateness{P50: at(50), P99: at(99), Most: at(100), Least: at(0)}, last.Sub(t.start)
	return nil
}

// early refuses what ran before its time.
func (t *timetable) early() error {
	if first := slices.Min(t.late); first < 0 {
		return fmt.Errorf("a task ran %s before its time", -first)
	}
	return nil
}

func rawDue(ctx context.Context, r *Run, t *timetable) error {
	consumer, err := r.JS.Consumer(ctx, wire.DefaultNamespace.LaterStream(wire.PlainLane(r.Queue)), wire.DueDurable)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fetching, err := consumer.Consume(func(m jetstream.Msg) {
		eta, err := time.Parse(time.RFC3339Nano, m.Headers().Get("Pelton-Eta"))
		if err != nil {
			cancel(err)
			return
		}
		time.AfterFunc(time.Until(eta), func() {
			now := time.Now()
			if err := errors.Join(m.Ack(), t.runs(m.Data(), now)); err != nil {
				cancel(err)
			}
		})
	}, jetstream.PullMaxMessages(10_000))
	if err != nil {
		return err
	}
	defer func() {
		fetching.Stop()
		<-fetching.Closed()
	}()
	publish := func(body []byte, due time.Time) error {
		_, err := r.JS.PublishMsgAsync(r.schedule(body, due, true), jetstream.WithStallWait(stall))
		return err
	}
	if err := t.send(ctx, r, publish, r.published); err != nil {
		return err
	}
	if err := t.wait(ctx); err != nil {
		return err
	}
	return t.lateness(r)
}

// warmUp is how many tasks a worker runs before it is measured: it takes into
// its memory what its slots can run soon, and learns from the first ones how
// much that is.
const warmUp = 100

func warmed(ctx context.Context, r *Run, ready <-chan struct{}) error {
	if _, err := r.Client.SendManyRaw(ctx, r.Queue, "warm", slices.Repeat([][]byte{r.Body}, warmUp)); err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the tasks that warm up did not run: %w", context.Cause(ctx))
	}
}

func workDue(ctx context.Context, r *Run, t *timetable) error {
	w := engine.NewWorker(r.Client, engine.WorkerConfig{Queues: []engine.Queue{{Name: r.Queue, Slots: slots}}})
	engine.HandleRaw(w, "nop", func(_ context.Context, m *engine.Message) ([]byte, error) {
		return nil, t.runs(m.Body, time.Now())
	})
	warm, ready := int64(0), make(chan struct{})
	engine.HandleRaw(w, "warm", func(context.Context, *engine.Message) ([]byte, error) {
		if atomic.AddInt64(&warm, 1) == warmUp {
			close(ready)
		}
		return nil, nil
	})
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := w.Run(ctx)
		cancel(err) // nobody waits for what will not run
		ended <- err
	}()
	send := func(body []byte, due time.Time) error {
		_, err := r.Client.SendRawAsync(ctx, r.Queue, "nop", body, engine.WithETA(due))
		return err
	}
	err := warmed(ctx, r, ready)
	if err == nil {
		err = t.send(ctx, r, send, r.Client.Flush)
	}
	if err == nil {
		err = t.wait(ctx)
	}
	cancel(nil)
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	if err := t.lateness(r); err != nil {
		return err
	}
	return t.early()
}
