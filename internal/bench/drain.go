package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// settling is how a path's tasks end.
type settling string

const (
	settleResult    settling = "result"    // a record, and the ack when the broker has it
	settleConfirmed settling = "confirmed" // no record, an ack that the broker confirms
	settlePlain     settling = "plain"     // no record, an ack that it does not
)

// prefetch of the bare loop, which does best with it.
const prefetch = 500

// Drain is the paths out of a queue that is full: tasks that do nothing.
func Drain() []Path {
	return []Path{
		drainPath(settleResult, "a record of each, and acks once it is stored", rawResult),
		drainPath(settleConfirmed, "no record, confirmed acks, 256 in flight by hand", rawConfirmed),
		drainPath(settlePlain, "no record, plain acks", rawPlain),
	}
}

func drainPath(s settling, says string, raw rawWorker) Path {
	return Path{
		Name: string(s), Says: says, Tasks: 50_000, Settling: s,
		Check: func(ctx context.Context, r *Run) error { return drained(ctx, r, s) },
		Raw: func(ctx context.Context, r *Run) error {
			if err := r.filled(ctx); err != nil {
				return err
			}
			return rawWork(ctx, r, raw)
		},
		Pelton: func(ctx context.Context, r *Run) error {
			if err := r.filled(ctx); err != nil {
				return err
			}
			return work(ctx, r, s)
		},
	}
}

// filled has all tasks wait in the queue; the figures count from there.
func (r *Run) filled(ctx context.Context) error {
	if err := rawFast(ctx, r); err != nil {
		return err
	}
	return r.restart()
}

// drained checks that nothing is left, and that each task has its record, or
// none.
func drained(ctx context.Context, r *Run, s settling) error {
	want := 0
	if s == settleResult {
		want = r.Tasks
	}
	results, err := r.JS.Stream(ctx, wire.DefaultNamespace.ResultsStream(r.Queue))
	if err != nil {
		return err
	}
	if have := results.CachedInfo().State.Msgs; have != uint64(want) {
		return fmt.Errorf("%d records of %d tasks, must be %d", have, r.Tasks, want)
	}
	return nil
}

// empty waits until the broker has no task of the run any more.
func (r *Run) empty(ctx context.Context) error {
	stream := wire.DefaultNamespace.TaskStream(wire.PlainLane(r.Queue))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s, err := r.JS.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if s.CachedInfo().State.Msgs == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d tasks are left: %w", s.CachedInfo().State.Msgs, r.Tasks, context.Cause(ctx))
		}
	}
}

// worker is a Pelton worker of the run's queue that counts the tasks it runs.
type worker struct {
	left  atomic.Int64
	ran   chan struct{} // closed when each has run
	ended chan error
	stop  func()
}

// settled says how a handler's tasks end.
func settled(s settling) []engine.HandleOption {
	switch s {
	case settleConfirmed:
		return []engine.HandleOption{engine.WithoutResult()}
	case settlePlain:
		return []engine.HandleOption{engine.WithoutResult(), engine.WithPlainAck()}
	case settleResult:
	}
	return nil
}

// startWorker runs tasks and tells run of each.
func startWorker(ctx context.Context, r *Run, s settling, run func(m *engine.Message) error) *worker {
	w := &worker{ran: make(chan struct{}), ended: make(chan error, 1)}
	w.left.Store(int64(r.Tasks))
	pelton := engine.NewWorker(r.Client, engine.WorkerConfig{Queues: []engine.Queue{{Name: r.Queue, Slots: slots}}})
	engine.HandleRaw(pelton, "nop", func(_ context.Context, m *engine.Message) ([]byte, error) {
		err := run(m)
		if w.left.Add(-1) == 0 {
			close(w.ran)
		}
		return nil, err
	}, settled(s)...)
	ctx, w.stop = context.WithCancel(ctx)
	go func() { w.ended <- pelton.Run(ctx) }()
	return w
}

// wait waits until each task has run, and the broker knows.
func (w *worker) wait(ctx context.Context, r *Run) error {
	select {
	case <-w.ran:
	case err := <-w.ended:
		w.ended <- err
		return errors.Join(fmt.Errorf("the worker has ended, %d tasks were left", w.left.Load()), err)
	case <-ctx.Done():
		return fmt.Errorf("%d of %d tasks did not run: %w", w.left.Load(), r.Tasks, context.Cause(ctx))
	}
	return r.empty(ctx)
}

func (w *worker) end() error {
	w.stop()
	return <-w.ended
}

func work(ctx context.Context, r *Run, s settling) error {
	w := startWorker(ctx, r, s, func(*engine.Message) error { return nil })
	return errors.Join(w.wait(ctx, r), w.end())
}

// rawWorker is a bare loop's way to end a task. Whatever it owes is paid by its
// second function, when all tasks have come.
type rawWorker func(r *Run) (take func(jetstream.Msg) error, pay func(ctx context.Context) error, err error)

// rawWork consumes with the client library.
func rawWork(ctx context.Context, r *Run, of rawWorker) error {
	take, pay, err := of(r)
	if err != nil {
		return err
	}
	consumer, err := r.JS.Consumer(ctx, wire.DefaultNamespace.TaskStream(wire.PlainLane(r.Queue)), wire.WorkersDurable)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left, came := r.Tasks, make(chan struct{})
	fetching, err := consumer.Consume(func(m jetstream.Msg) {
		if err := take(m); err != nil {
			cancel(err)
		}
		if left--; left == 0 {
			close(came)
		}
	}, jetstream.PullMaxMessages(prefetch))
	if err != nil {
		return err
	}
	defer func() {
		fetching.Stop()
		<-fetching.Closed()
	}()
	select {
	case <-came:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := pay(ctx); err != nil {
		return err
	}
	return r.empty(ctx)
}

func rawPlain(*Run) (func(jetstream.Msg) error, func(context.Context) error, error) {
	return jetstream.Msg.Ack, func(context.Context) error { return nil }, nil
}

// inFlight is how many acks of the bare loop wait for their confirmation.
const inFlight = 256

func rawConfirmed(r *Run) (func(jetstream.Msg) error, func(context.Context) error, error) {
	acks, failed := make(chan jetstream.Msg), make(chan error, inFlight)
	for range inFlight {
		go func() {
			var err error
			for m := range acks {
				err = errors.Join(err, m.DoubleAck(context.Background())) //nolint:forbidigo // the connection's end is its end
			}
			failed <- err
		}()
	}
	take := func(m jetstream.Msg) error { acks <- m; return nil }
	pay := func(context.Context) error {
		close(acks)
		var errs []error
		for range inFlight {
			errs = append(errs, <-failed)
		}
		return errors.Join(errs...)
	}
	return take, pay, nil
}

// rawFlow is how many records of the bare loop one confirmation covers.
const rawFlow = 100

// rawResult is what a result costs at least: one open batch that a confirmation
// covers up to a message, and then the acks up to there.
func rawResult(r *Run) (func(jetstream.Msg) error, func(context.Context) error, error) {
	prefix := r.NC.NewInbox() + "." + rand.Text()[:10]
	sub, err := r.NC.SubscribeSync(prefix + ".>")
	if err != nil {
		return nil, nil, err
	}
	b := &rawBatch{r: r, sub: sub, prefix: prefix + "." + strconv.Itoa(rawFlow) + ".fail.", subject: wire.DefaultNamespace.RecordSubject(r.Queue, r.Queue+"-")}
	return b.take, b.pay, nil
}

type rawBatch struct {
	r       *Run
	sub     *nats.Subscription
	prefix  string
	subject string
	owed    []jetstream.Msg // acked once their record is stored
	sent    int
	acked   int
}

func (b *rawBatch) take(m jetstream.Msg) error {
	md, err := m.Metadata()
	if err != nil {
		return err
	}
	b.sent++
	operation := ".1.$FI"
	switch b.sent {
	case 1:
		operation = ".0.$FI"
	case b.r.Tasks:
		operation = ".2.$FI"
	}
	b.owed = append(b.owed, m)
	if err := b.r.NC.PublishRequest(b.subject+strconv.FormatUint(md.Sequence.Stream, 10), b.prefix+strconv.Itoa(b.sent)+operation, m.Data()); err != nil {
		return err
	}
	for {
		ahead := b.sent-b.acked >= 10*rawFlow
		if n, _, err := b.sub.Pending(); err != nil || n == 0 && !ahead {
			return err
		}
		if err := b.answer(); err != nil {
			return err
		}
	}
}

func (b *rawBatch) pay(context.Context) error {
	for b.acked < b.r.Tasks {
		if err := b.answer(); err != nil {
			return err
		}
	}
	return b.sub.Unsubscribe()
}

// answer reads one, and acks what it covers.
func (b *rawBatch) answer() error {
	m, err := b.sub.NextMsg(10 * time.Second)
	if err != nil {
		return err
	}
	var a struct {
		Type  string
		Seq   int
		Count int
		Error *jetstream.APIError
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return err
	}
	if a.Error != nil {
		return a.Error
	}
	upTo := max(a.Seq, a.Count)
	for _, m := range b.owed[:upTo-b.acked] {
		if err := m.Ack(); err != nil {
			return err
		}
	}
	b.owed = slices.Delete(b.owed, 0, upTo-b.acked)
	b.acked = upTo
	return nil
}
