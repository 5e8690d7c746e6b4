package permissions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

const queue = engine.DefaultQueue

// work is what each role is for, as small as it can be while it uses all of
// its rights.
var work = map[string]func(context.Context, stage) error{
	"publisher": publish,
	"trusted":   publishLater,
	"waiter":    wait,
	"canceller": cancelTasks,
	"worker":    runTasks,
	"beat":      beat,
	"scheduler": schedule,
	"ingest":    ingestRecords,
	"emit":      emitResults,
	"setup":     setUp,
	"janitor":   keepOrder,
	"observer":  observe,
	"operator":  operate,
}

func publish(ctx context.Context, s stage) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	for _, p := range s.priorities() {
		if err := errors.Join(s.publishEachWay(ctx, c, engine.WithPriority(p)), s.publishAgain(ctx, engine.WithPriority(p))); err != nil {
			return fmt.Errorf("priority %q: %w", p, err)
		}
	}
	return nil
}

// publishEachWay sends tasks one by one, without waiting, and many at once.
func (s stage) publishEachWay(ctx context.Context, c *engine.Client, with engine.SendOption) error {
	_, err := c.SendRaw(ctx, queue, "print", []byte(`1`), with)
	_, errID := c.SendRaw(ctx, queue, "print", []byte(`1`), with, engine.WithID("job-1"))
	if _, again := c.SendRaw(ctx, queue, "print", []byte(`1`), with, engine.WithID("job-1")); !errors.Is(again, engine.ErrExists) {
		errID = errors.Join(errID, fmt.Errorf("the same id again: %w", again))
	}
	future, errAsync := c.SendRawAsync(ctx, queue, "print", []byte(`1`), with)
	if errAsync == nil {
		_, errAsync = future.Result(ctx)
	}
	_, errFast := c.SendManyRaw(ctx, queue, "print", bodies(200), with)
	_, errAll := c.SendManyRaw(ctx, queue, "print", bodies(200), with, engine.WithAllIDs())
	_, errAtomic := c.SendManyRaw(ctx, queue, "print", bodies(20), with, engine.WithAtomic())
	return errors.Join(err, errID, errAsync, errFast, errAll, errAtomic)
}

func bodies(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = []byte(`1`)
	}
	return all
}

// publishAgain sends a task with an id whose confirmation is lost.
func (s stage) publishAgain(ctx context.Context, with ...engine.SendOption) error {
	nc, link := s.linked()
	c, err := engine.NewClient(nc, engine.ClientConfig{Namespace: s.ns})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.SendRaw(ctx, queue, "print", []byte(`1`), with...); err != nil { // what is made once is made
		return err
	}
	lost := link.DeafenAt(`"seq":`)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-lost:
			link.Cut()
		case <-stop:
		}
	}()
	_, err = c.SendRaw(ctx, queue, "print", []byte(`2`), append(with, engine.WithID("job-lost"))...)
	select {
	case <-lost:
		return err
	default:
		return errors.Join(err, errors.New("no confirmation was lost"))
	}
}

func publishLater(ctx context.Context, s stage) error {
	if err := publish(ctx, s); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	for i, p := range s.priorities() {
		with := []engine.SendOption{engine.WithPriority(p), engine.WithCountdown(time.Hour)}
		id := engine.WithID(fmt.Sprintf("later-%d", i))
		_, err := c.SendRaw(ctx, queue, "print", []byte(`1`), with...)
		_, errID := c.SendRaw(ctx, queue, "print", []byte(`1`), append(with, id)...)
		if _, again := c.SendRaw(ctx, queue, "print", []byte(`1`), append(with, id)...); !errors.Is(again, engine.ErrExists) {
			errID = errors.Join(errID, fmt.Errorf("the same id again: %w", again))
		}
		_, errMany := c.SendManyRaw(ctx, queue, "print", bodies(20), with...)
		if err := errors.Join(err, errID, errMany); err != nil {
			return fmt.Errorf("later, priority %q: %w", p, err)
		}
	}
	return nil
}

// cancelTasks cancels what waits and what waits for its time, and gives that
// another time before.
func cancelTasks(ctx context.Context, s stage) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	for _, p := range s.priorities() {
		waits, err := s.admin.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithPriority(p))
		if err != nil {
			return err
		}
		later, err := s.admin.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithPriority(p), engine.WithCountdown(time.Hour))
		if err != nil {
			return err
		}
		_, err = c.Cancel(ctx, queue, waits.ID())
		_, errReplace := c.Replace(ctx, queue, later.ID(), []byte(`2`), time.Now().Add(2*time.Hour))
		_, errLater := c.Cancel(ctx, queue, later.ID())
		if err := errors.Join(err, errReplace, errLater); err != nil {
			return fmt.Errorf("priority %q: %w", p, err)
		}
		parked, err := s.stream(ctx, s.ns.LaterStream(wire.Lane{Queue: queue, Priority: p}))
		if err == nil && parked.CachedInfo().State.Msgs != 0 {
			err = errors.New("what was cancelled still waits for its time")
		}
		if err != nil {
			return err
		}
	}
	if _, err := c.Cancel(ctx, queue, "job-404"); !errors.Is(err, engine.ErrNotFound) {
		return fmt.Errorf("an unknown id: %w", err)
	}
	return nil
}

// scheduled is a task that is parked under one id and becomes due as another.
func scheduled(ns wire.Namespace, id, target string) *nats.Msg {
	lane := wire.PlainLane(queue)
	m := nats.NewMsg(ns.LaterSubject(lane, id))
	m.Header.Set("Nats-Schedule", "@at "+time.Now().UTC().Add(time.Second).Format(time.RFC3339Nano))
	m.Header.Set("Nats-Schedule-Target", ns.DueSubject(wire.Address{Lane: lane, Task: "print", ID: target}))
	m.Data = []byte(`1`)
	return m
}

func wait(ctx context.Context, s stage) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	started := engine.Record{ID: "job-1", State: wire.StateStarted, StartedAt: time.Now().UTC()}
	if err := s.record(ctx, started); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if _, err := c.Record(ctx, queue, "job-1"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx, queue, "job-1")
		ended <- err
	}()
	started.State, started.FinishedAt = wire.StateSucceeded, time.Now().UTC()
	return errors.Join(s.record(ctx, started), <-ended)
}

// parkedAfter is a wait for which a worker keeps no task in its hands.
const parkedAfter = 1200 * time.Millisecond

// handlers are those of the tasks ok, flaky and bad.
func handlers(w *engine.Worker) {
	engine.HandleRaw(w, "ok", func(context.Context, *engine.Message) ([]byte, error) { return []byte(`"done"`), nil })
	engine.HandleRaw(w, "print", func(_ context.Context, m *engine.Message) ([]byte, error) { return m.Body, nil })
	engine.HandleRaw(w, "flaky", func(_ context.Context, m *engine.Message) ([]byte, error) {
		if m.Info.Attempt == 1 {
			return nil, engine.RetryIn(parkedAfter, errors.New("once"))
		}
		return []byte(`2`), nil
	})
	engine.HandleRaw(w, "bad", func(context.Context, *engine.Message) ([]byte, error) {
		return nil, engine.Permanent(errors.New("never"))
	})
}

// running is a role in the background.
type running struct {
	cancel context.CancelFunc
	ended  chan error
}

func start(ctx context.Context, run func(context.Context) error) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel, make(chan error, 1)}
	go func() { r.ended <- run(ctx) }()
	return r
}

// stop tells the role to end.
func (r *running) stop() error {
	r.cancel()
	return <-r.ended
}

// during does something while the role runs, and not after it has failed.
func (r *running) during(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	select {
	case err := <-done:
		return errors.Join(err, r.stop())
	case err := <-r.ended:
		cancel(fmt.Errorf("the role has ended: %w", err))
		return errors.Join(<-done, err)
	}
}

func runTasks(ctx context.Context, s stage) error {
	if err := errors.Join(s.prepare(ctx), s.revokeMuch(ctx)); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	w := engine.NewWorker(c, engine.WorkerConfig{
		Queues: []engine.Queue{{Name: queue, Slots: 4, Priorities: prioritiesOf(s.lanes, queue)}}, Grace: time.Second,
	})
	handlers(w)
	runs := make(chan string, 1)
	engine.HandleRaw(w, "long", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		runs <- m.Info.ID
		<-ctx.Done()
		return nil, ctx.Err()
	})
	return start(ctx, w.Run).during(ctx, func(ctx context.Context) error {
		for _, p := range s.priorities() {
			err := errors.Join(
				s.send(ctx, "ok", wire.StateSucceeded, engine.WithPriority(p)),
				s.send(ctx, "ok", wire.StateSucceeded, engine.WithPriority(p), engine.WithID("job-1"+string(p))),
				s.send(ctx, "ok", wire.StateSucceeded, engine.WithPriority(p), engine.WithCountdown(10*time.Millisecond)),
				s.send(ctx, "flaky", wire.StateSucceeded, engine.WithPriority(p)),
				s.send(ctx, "bad", wire.StateFailed, engine.WithPriority(p)),
				s.cancelLong(ctx, runs, engine.WithPriority(p)),
			)
			if err != nil {
				return fmt.Errorf("priority %q: %w", p, err)
			}
		}
		return nil
	})
}

// revokeMuch fills the bucket of revocations so far that the broker waits for
// the worker, while that reads it, to keep up.
func (s stage) revokeMuch(ctx context.Context) error {
	value := bytes.Repeat([]byte("x"), 600<<10)
	for i := range 4 {
		if _, err := s.admin.JetStream().Publish(ctx, s.ns.RevokedSubject(queue, fmt.Sprintf("gone-%d", i)), value); err != nil {
			return err
		}
	}
	return nil
}

// cancelLong cancels a task that runs and does not end by itself.
func (s stage) cancelLong(ctx context.Context, runs <-chan string, with engine.SendOption) error {
	sent, err := s.admin.SendRaw(ctx, queue, "long", []byte(`1`), with)
	if err != nil {
		return err
	}
	select {
	case <-runs:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err = s.admin.Cancel(ctx, queue, sent.ID())
	return err
}

// send sends a task and waits until it has ended in a state.
func (s stage) send(ctx context.Context, task string, want wire.State, opts ...engine.SendOption) error {
	sent, err := s.admin.SendRaw(ctx, queue, task, []byte(`1`), opts...)
	if err != nil {
		return err
	}
	r, err := s.admin.Wait(ctx, queue, sent.ID())
	if err == nil && r.State != want {
		err = fmt.Errorf("task %s, %s: %s, want %s: %v", task, sent.ID(), r.State, want, r.Error)
	}
	return err
}

// withKafka runs a cluster with the topics commands and results.
func withKafka(do func(brokers []string) error) error {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "commands", "results"))
	if err != nil {
		return err
	}
	defer cluster.Close()
	return do(cluster.ListenAddrs())
}

// produce writes records to the topic commands.
func produce(ctx context.Context, brokers []string, values ...string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer cl.Close()
	for _, value := range values {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "commands", Value: []byte(value)}).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// verify looks at the streams of one kind, those of the plain lane alone as
// edges do before they start, or at all streams.
func (s stage) verify(ctx context.Context, kind topology.Kind) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	topo, err := topologyOf(s.ns, s.lanes, queue)
	if err != nil {
		return err
	}
	return c.Ensure(ctx, engine.SetupVerify, topo.Only(func(st topology.Stream) bool {
		return kind == "" || st.Kind == kind && st.Priority == wire.PriorityNone
	}))
}

func ingestRecords(ctx context.Context, s stage) error {
	if err := errors.Join(s.prepare(ctx), s.verify(ctx, topology.Tasks)); err != nil {
		return err
	}
	return withKafka(func(brokers []string) error {
		stored := make(chan int, 8)
		edge, err := s.ingest(brokers, stored)
		if err != nil {
			return err
		}
		if err := produce(ctx, brokers, `1`, `2`); err != nil {
			return err
		}
		return start(ctx, edge.Run).during(ctx, func(ctx context.Context) error { return count(ctx, stored, 2) })
	})
}

func (s stage) ingest(brokers []string, stored chan<- int) (*ingest.Ingest, error) {
	cfg := ingest.Config{NATS: s.nc, Namespace: s.ns, Route: ingest.Route{Topic: "commands", Queue: queue, Task: "print"}}
	cfg.Kafka.Brokers = brokers
	cfg.OnBatch = func(b ingest.Batch) { stored <- len(b.Tasks) }
	return ingest.New(cfg)
}

// count waits until so many have come.
func count(ctx context.Context, came <-chan int, n int) error {
	for n > 0 {
		select {
		case k := <-came:
			n -= k
		case <-ctx.Done():
			return fmt.Errorf("%d are missing: %w", n, context.Cause(ctx))
		}
	}
	return nil
}

func emitResults(ctx context.Context, s stage) error {
	ended := engine.Record{ID: "job-1", State: wire.StateSucceeded, FinishedAt: time.Now().UTC()}
	if err := errors.Join(s.prepare(ctx), s.record(ctx, ended), s.verify(ctx, topology.Results)); err != nil {
		return err
	}
	// Requests to the API are seen by who may listen there.
	looks, err := s.admin.Conn().SubscribeSync("$JS.API.CONSUMER.INFO." + s.ns.ResultsStream(queue) + ".*")
	if err != nil {
		return err
	}
	defer func() { _ = looks.Unsubscribe() }()
	return withKafka(func(brokers []string) error {
		emitted := make(chan int, 8)
		edge, err := s.emit(ctx, brokers, emitted)
		if err != nil {
			return err
		}
		return start(ctx, edge.Run).during(ctx, func(ctx context.Context) error {
			err := count(ctx, emitted, 1)
			for range 2 { // the second look is made when the first was answered
				if err == nil {
					_, err = looks.NextMsgWithContext(ctx)
				}
			}
			return err
		})
	})
}

func (s stage) emit(ctx context.Context, brokers []string, emitted chan<- int) (*emit.Emit, error) {
	cfg := emit.Config{NATS: s.nc, Namespace: s.ns, Queues: []string{queue}, CheckInterval: 20 * time.Millisecond}
	cfg.Kafka.Brokers = brokers
	cfg.OnEmit = func(emit.Emitted) { emitted <- 1 }
	if _, err := emit.EnsureLedger(ctx, cfg); err != nil {
		return nil, err
	}
	return emit.New(cfg)
}

// setUp makes everything, and mends what somebody has changed.
func setUp(ctx context.Context, s stage) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	topo, err := topologyOf(s.ns, s.lanes, queue)
	if err != nil {
		return err
	}
	if err := c.Ensure(ctx, engine.SetupManage, topo); err != nil {
		return err
	}
	for _, st := range topo.Streams {
		if err := s.spoil(ctx, st); err != nil {
			return err
		}
	}
	if err := c.Ensure(ctx, engine.SetupManage, topo); err != nil {
		return err
	}
	return topology.Verify(ctx, s.admin.JetStream(), topo)
}

// spoil changes a stream and its consumers.
func (s stage) spoil(ctx context.Context, st topology.Stream) error {
	cfg := st.Config
	cfg.AllowDirect = false
	if _, err := s.admin.JetStream().UpdateStream(ctx, cfg); err != nil {
		return err
	}
	for _, consumer := range st.Consumers {
		consumer.MaxDeliver = 5
		if _, err := s.admin.JetStream().UpdateConsumer(ctx, cfg.Name, consumer); err != nil {
			return err
		}
	}
	return nil
}

// keepOrder trims a ledger and puts right what was forgotten, in each lane.
func keepOrder(ctx context.Context, s stage) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	var lanes []wire.Lane
	for _, p := range s.priorities() {
		lane := wire.Lane{Queue: queue, Priority: p}
		lanes = append(lanes, lane)
		if err := errors.Join(s.forgetTasks(ctx, lane), s.forgetDue(ctx, lane), s.fillLedger(ctx, lane)); err != nil {
			return fmt.Errorf("lane %s: %w", lane, err)
		}
	}
	if _, err := s.admin.JetStream().Publish(ctx, s.ns.DeadSubject(queue, "print", "job-9"), []byte(`1`)); err != nil {
		return err
	}
	j := engine.NewJanitor(c, engine.JanitorConfig{Lanes: lanes})
	return start(ctx, j.Run).during(ctx, func(ctx context.Context) error {
		if err := s.redriven(ctx, s.admin); err != nil {
			return err
		}
		for _, lane := range lanes {
			if err := s.inOrder(ctx, lane); err != nil {
				return err
			}
		}
		return nil
	})
}

// redriven asks until there is a janitor, and is answered by it.
func (s stage) redriven(ctx context.Context, c *engine.Client) error {
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		done, err := c.Redrive(ctx, engine.Redrive{Queue: queue})
		if !errors.Is(err, engine.ErrUnreachable) {
			if err == nil && done.Again != 1 {
				err = fmt.Errorf("redriven: %+v", done)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// inOrder waits until nothing is left in a lane but the newest position, not
// even what is canceled meanwhile.
func (s stage) inOrder(ctx context.Context, lane wire.Lane) error {
	waits, err := s.admin.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithPriority(lane.Priority))
	if err == nil {
		_, err = s.admin.Cancel(ctx, queue, waits.ID())
	}
	for tick := time.NewTicker(100 * time.Millisecond); err == nil; {
		tasks, errInfo := s.stream(ctx, s.ns.TaskStream(lane))
		if errInfo != nil || tasks.CachedInfo().State.Msgs == 1 {
			return errInfo
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("lane %s: %d messages are left, want the newest position: %w", lane, tasks.CachedInfo().State.Msgs, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return err
}

// fillLedger leaves more positions than a janitor lets stand.
func (s stage) fillLedger(ctx context.Context, lane wire.Lane) error {
	for range 70 {
		if _, err := s.admin.JetStream().Publish(ctx, s.ns.LedgerSubject(lane, "commands", "commands", "0"), []byte(`{}`)); err != nil {
			return err
		}
	}
	return nil
}

// forgetTasks leaves a task below the floor of the workers' consumer.
func (s stage) forgetTasks(ctx context.Context, lane wire.Lane) error {
	id := "job-" + lane.String()
	err := s.record(ctx, engine.Record{ID: id, State: wire.StateStarted, Sequence: 1, Priority: lane.Priority})
	return errors.Join(err, s.forget(ctx, s.ns.TaskStream(lane), wire.WorkersDurable, func(task string) error {
		_, err := s.admin.JetStream().Publish(ctx, s.ns.TaskSubject(wire.Address{Lane: lane, Task: task, ID: id}), []byte(`1`))
		return err
	}, s.ns.TaskSubject(wire.Address{Lane: lane, Task: "pass", ID: "*"}), s.ns.TaskFilter(lane)))
}

// forgetDue leaves one that has become due below the floor of theirs. It has
// ended meanwhile.
func (s stage) forgetDue(ctx context.Context, lane wire.Lane) error {
	id := "due-" + lane.String()
	err := s.record(ctx, engine.Record{ID: id, State: wire.StateSucceeded, Priority: lane.Priority})
	stream := s.ns.LaterStream(lane)
	return errors.Join(err, s.forget(ctx, stream, wire.DueDurable, func(task string) error {
		m := nats.NewMsg(s.ns.LaterSubject(lane, id))
		target := s.ns.DueSubject(wire.Address{Lane: lane, Task: task, ID: id})
		m.Header.Set("Nats-Schedule", "@at "+time.Now().UTC().Add(100*time.Millisecond).Format(time.RFC3339Nano))
		m.Header.Set("Nats-Schedule-Target", target)
		m.Data = []byte(`1`)
		if _, err := s.admin.JetStream().PublishMsg(ctx, m); err != nil {
			return err
		}
		later, err := s.stream(ctx, stream)
		for err == nil {
			if _, err = later.GetLastMsgForSubject(ctx, target); err == nil {
				return nil
			}
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				err = ctx.Err()
			}
		}
		return err
	}, s.ns.DueSubject(wire.Address{Lane: lane, Task: "pass", ID: "*"}), s.ns.DueFilter(lane)))
}

// forget has the consumer's floor rise above a message that it did not ask for.
func (s stage) forget(ctx context.Context, stream, durable string, put func(task string) error, passes, filter string) error {
	js := s.admin.JetStream()
	consumer, err := js.Consumer(ctx, stream, durable)
	if err != nil {
		return err
	}
	cfg := consumer.CachedInfo().Config
	cfg.FilterSubject = passes
	if consumer, err = js.UpdateConsumer(ctx, stream, cfg); err != nil {
		return err
	}
	if err := errors.Join(put("print"), put("pass")); err != nil {
		return err
	}
	m, err := consumer.Next(jetstream.FetchContext(ctx))
	if err == nil {
		err = m.DoubleAck(ctx)
	}
	if err == nil {
		cfg.FilterSubject = filter
		_, err = js.UpdateConsumer(ctx, stream, cfg)
	}
	return err
}

func observe(ctx context.Context, s stage) error {
	if err := wait(ctx, s); err != nil {
		return err
	}
	if err := s.verify(ctx, ""); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	_, err = c.JetStream().AccountInfo(ctx)
	queues, errNames := c.Queues(ctx)
	if errNames == nil && len(queues) != 1 {
		errNames = fmt.Errorf("queues %q", queues)
	}
	return errors.Join(err, errNames)
}

func operate(ctx context.Context, s stage) error {
	if err := observe(ctx, s); err != nil {
		return err
	}
	if _, err := s.nc.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil); err != nil {
		return err
	}
	if _, err := s.admin.JetStream().Publish(ctx, s.ns.DeadSubject(queue, "print", "job-9"), []byte(`1`)); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if _, err := c.Lookup(ctx, queue, "job-404"); !errors.Is(err, engine.ErrNotFound) {
		return fmt.Errorf("an unknown id: %w", err)
	}
	if _, err := c.Redrive(ctx, engine.Redrive{Queue: queue}); !errors.Is(err, engine.ErrUnreachable) {
		return fmt.Errorf("there is no janitor: %w", err)
	}
	status, err := c.QueueStatus(ctx, queue)
	if err == nil && status.Dead != 1 {
		err = fmt.Errorf("status %+v", status)
	}
	letters, errDead := c.DeadLetters(ctx, "", 0)
	ofQueue, errQueue := c.DeadLetters(ctx, queue, 0)
	if err := errors.Join(err, errDead, errQueue); err != nil {
		return err
	}
	if len(letters) != 1 || len(ofQueue) != 1 {
		return fmt.Errorf("%d dead letters, %d of the queue, want 1", len(letters), len(ofQueue))
	}
	// The removal of the consumer is not waited for.
	return s.nc.FlushWithContext(ctx)
}
