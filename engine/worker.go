package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// WorkerConfig says what a worker works and how. The zero value works the
// default queue with as many slots as there are CPUs.
type WorkerConfig struct {
	// Queues to work, each with slots of its own.
	Queues []Queue
	// Name of the worker in records and logs, unique among those that live;
	// the host's name and a random part unless set.
	Name string
	// Grace is how long running tasks may go on after Run was told to end;
	// 25 s unless set.
	Grace time.Duration
	// Timeout of an attempt whose task names none; 30 minutes unless set.
	Timeout time.Duration
	// MaxAttempts of a task that names none, the first run included; 5 unless
	// set.
	MaxAttempts int
	// Backoff between attempts of a task that names none; 1s..10m unless set.
	Backoff wire.Backoff
	// Retry decides in place of Backoff what follows a failed attempt, for
	// handlers without a policy of their own. A task that names its waits keeps
	// them.
	Retry RetryPolicy
	// StuckAfter is how long a handler may ignore that its context has ended, by
	// its timeout for example, before it is left behind: reported with its stack,
	// its attempt settled, its outcome refused, and its slot replaced, for as many
	// handlers as the queue has slots; 10 s unless set. While the worker ends it
	// is 5 s at most.
	StuckAfter time.Duration
	// MaxDeaths is how many workers may die over one attempt before the task
	// is dead-lettered as poison; 3 unless set.
	MaxDeaths int
	// UnknownTaskPark is how long a task whose name the worker does not know is
	// parked, so that one that knows it may take it; 30 s unless set.
	// UnknownTaskAfter is how long that goes on before the task is
	// dead-lettered; 10 minutes unless set.
	UnknownTaskPark  time.Duration
	UnknownTaskAfter time.Duration
	// Setup says what the worker may do about streams and consumers; SetupVerify
	// unless set.
	Setup SetupMode
	// Topology has the settings of the queues, for SetupManage: what is not
	// named in it gets the defaults of package topology. Queues that the worker
	// does not work are left alone.
	Topology topology.Config
	// Logger; nothing is logged unless set.
	Logger *slog.Logger
	// Middleware wraps every handler, the first one outermost.
	Middleware []Middleware
	// Hooks are told what becomes of tasks and of the worker.
	Hooks Hooks
}

// Queue is a queue that a worker works.
type Queue struct {
	Name  string
	Slots int // tasks at once, of all its lanes; as many as there are CPUs unless set
	// Priorities are the lanes that the queue has beside its plain one, each
	// once; those of WorkerConfig.Topology unless set. Poll says how the lanes
	// share the slots; PollStrict unless set.
	Priorities []wire.Priority
	Poll       Poll
}

func (cfg WorkerConfig) withDefaults() WorkerConfig {
	if len(cfg.Queues) == 0 {
		cfg.Queues = []Queue{{Name: DefaultQueue}}
	}
	cfg.Queues = append([]Queue(nil), cfg.Queues...)
	for i := range cfg.Queues {
		q := &cfg.Queues[i]
		orInt(&q.Slots, runtime.GOMAXPROCS(0))
		for _, settings := range cfg.Topology.Queues {
			if settings.Name == q.Name && len(q.Priorities) == 0 {
				q.Priorities = settings.Priorities
			}
		}
	}
	if cfg.Name == "" {
		cfg.Name = defaultName()
	}
	orDuration(&cfg.Grace, 25*time.Second)
	orDuration(&cfg.Timeout, 30*time.Minute)
	orInt(&cfg.MaxAttempts, 5)
	if cfg.Backoff == (wire.Backoff{}) {
		cfg.Backoff = wire.Backoff{Min: time.Second, Max: 10 * time.Minute}
	}
	orDuration(&cfg.StuckAfter, 10*time.Second)
	orInt(&cfg.MaxDeaths, 3)
	orDuration(&cfg.UnknownTaskPark, 30*time.Second)
	orDuration(&cfg.UnknownTaskAfter, 10*time.Minute)
	if cfg.Setup == "" {
		cfg.Setup = SetupVerify
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func (cfg WorkerConfig) validate() error {
	seen := map[string]bool{}
	for _, q := range cfg.Queues {
		if err := wire.CheckQueue(q.Name); err != nil {
			return fmt.Errorf("worker.queues: %w", err)
		}
		if seen[q.Name] {
			return fmt.Errorf("worker.queues: %s is named twice", q.Name)
		}
		seen[q.Name] = true
		if q.Slots < 1 || q.Slots > 10_000 {
			return fmt.Errorf("worker.queues.%s must be from 1 to 10000 slots, got %d", q.Name, q.Slots)
		}
		if err := q.Poll.validate(); err != nil {
			return fmt.Errorf("queues.%s.%w", q.Name, err)
		}
	}
	if err := wire.CheckID(cfg.Name); err != nil {
		return fmt.Errorf("worker.name: %w", err)
	}
	for i, m := range cfg.Middleware {
		if m == nil {
			return fmt.Errorf("worker.middleware: number %d must be a function, got nil", i)
		}
	}
	if _, err := wire.ParseBackoff(cfg.Backoff.String()); err != nil {
		return fmt.Errorf("worker.backoff: %w", err)
	}
	for key, value := range map[string]int{
		"worker.max_attempts": cfg.MaxAttempts, "worker.max_deaths": cfg.MaxDeaths,
	} {
		if value < 1 {
			return fmt.Errorf("%s must be at least 1, got %d", key, value)
		}
	}
	for key, value := range map[string]time.Duration{
		"worker.grace": cfg.Grace, "worker.timeout": cfg.Timeout, "worker.stuck_after": cfg.StuckAfter,
		"worker.unknown_task_park": cfg.UnknownTaskPark, "worker.unknown_task_after": cfg.UnknownTaskAfter,
	} {
		if value < 0 || value > wire.MaxDuration {
			return fmt.Errorf("%s must be from 0 to a year, got %s", key, value)
		}
	}
	return cfg.Setup.validate()
}

// flushWithin bounds a flush that may fail. What a janitor subscribes to is known
// to its broker a little later then, or with the next connection; what a worker
// has not acked or handed back comes again by itself, after its lease.
const flushWithin = 2 * time.Second

// Worker runs the tasks of its queues. Handlers are registered before Run.
type Worker struct {
	c        *Client
	cfg      WorkerConfig
	err      error // of the configuration, reported by Run
	log      *slog.Logger
	handlers map[string]handling
	used     atomic.Bool
	now      func() time.Time // the clock that times of tasks are compared with

	revocations *revocations

	leases  *leases
	aside   sync.WaitGroup // what is done beside the loops: started marks, mending, probes
	mending atomic.Bool
	probing atomic.Bool
	vitals  vitals

	abort   sync.Once
	aborted chan struct{} // closed by Abort

	hears      bool // a hook of an outcome is set
	hookPanics hookPanics

	without protections
}

// NewWorker makes a worker. A configuration that breaks a rule is reported by
// Run.
func NewWorker(c *Client, cfg WorkerConfig) *Worker {
	cfg = cfg.withDefaults()
	w := &Worker{c: c, cfg: cfg, err: cfg.validate(), log: cfg.Logger.With("worker", cfg.Name), handlers: map[string]handling{}, now: time.Now, aborted: make(chan struct{})}
	w.hears = cfg.Hooks.outcomes()
	w.leases = newLeases(w)
	w.revocations = newRevocations(w)
	return w
}

// Name is the worker's name in records and logs.
func (w *Worker) Name() string { return w.cfg.Name }

// handling is a handler with what was said of it.
type handling struct {
	run      Handler
	retry    RetryPolicy
	noResult bool
	plainAck bool
}

// HandleOption says something of a handler.
type HandleOption func(*handling)

// WithRetry decides what follows a failed attempt of the handler's task, in
// place of the worker's back-off.
func WithRetry(policy RetryPolicy) HandleOption {
	return func(h *handling) { h.retry = policy }
}

// WithoutResult keeps no record of a task that succeeds: who asks for it finds
// nothing once it has left its queue, and waits for its result in vain. The
// broker confirms its ack in place of that, so that it runs once more only where
// its worker dies. A task that fails is recorded all the same, and so is one
// whose run began with a record: one with an explicit id, with a time, that was
// delivered again, or that ran for more than a second. Where a worker was frozen
// for longer than a lease, and runs a task that another has been given meanwhile,
// the record may say started for as long as records are kept.
func WithoutResult() HandleOption {
	return func(h *handling) { h.noResult = true }
}

// WithPlainAck says that a task may run again without harm: without a result its
// ack is not confirmed, so one that is lost brings the task back. It changes
// nothing where there is a record, which makes a lost ack harmless.
func WithPlainAck() HandleOption {
	return func(h *handling) { h.plainAck = true }
}

// Message is a task as a raw handler gets it. The body is the handler's to read
// for as long as it runs.
type Message struct {
	Body []byte
	Info Info
}

// Handle registers the handler of a task. It panics on a second handler for the
// same name and after Run: both are programming errors. A body that does not
// decode into In, or that its method Validate() error refuses, is dead-lettered
// without a retry.
func Handle[In, Out any](w *Worker, t *Task[In, Out], h func(context.Context, In) (Out, error), opts ...HandleOption) {
	w.register(t.name, opts, func(ctx context.Context, m *Message) ([]byte, error) {
		var in In
		if err := json.Unmarshal(m.Body, &in); err != nil {
			return nil, badInput(err)
		}
		if v, ok := any(in).(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				return nil, badInput(err)
			}
		}
		out, err := h(ctx, in)
		if err != nil {
			return nil, err
		}
		result, err := json.Marshal(out)
		if err != nil {
			return nil, Permanent(fmt.Errorf("result of %s: %w", t.name, err))
		}
		return result, nil
	})
}

// HandleRaw registers the handler of a task by name. Its result must be JSON;
// nil is null. It panics as Handle does, and on a bad name.
func HandleRaw(w *Worker, task string, h Handler, opts ...HandleOption) {
	if err := checkOwnTask(task); err != nil {
		panic(err)
	}
	w.register(task, opts, h)
}

func (w *Worker) register(task string, opts []HandleOption, h Handler) {
	if w.used.Load() {
		panic(fmt.Errorf("task %s: handler registered after Run", task))
	}
	if _, taken := w.handlers[task]; taken {
		panic(fmt.Errorf("task %s: second handler", task))
	}
	handles := handling{run: w.wrap(task, h)}
	for _, opt := range opts {
		opt(&handles)
	}
	w.handlers[task] = handles
}

// Run works until ctx is done, then ends in this order: it stops fetching,
// hands back what has not started, lets running tasks finish for up to Grace,
// cancels the rest and hands it back, writes the outcomes, and returns nil.
//
// A broker that is absent, at the start or later, is waited for; a connection
// that is closed for good ends Run with [ErrClosed]. A stream or consumer that
// is missing or differs from the contract ends Run at the start with an error
// that names it. Run may be called once.
func (w *Worker) Run(ctx context.Context) error {
	if w.err != nil {
		return w.err
	}
	if w.used.Swap(true) {
		return fmt.Errorf("worker: %w", ErrClosed)
	}
	w.vitals.enter(lifeBinding)
	defer w.vitals.enter(lifeEnded)
	ctx, end := context.WithCancel(ctx)
	defer end()
	stopAbort := background(func(watching context.Context) {
		select {
		case <-watching.Done():
		case <-w.aborted:
			end()
		}
	})
	defer stopAbort()
	pools, err := w.bind(ctx)
	defer w.revocations.stop()
	if ctx.Err() != nil {
		return nil // told to end before the broker was there
	}
	if err != nil {
		return err
	}
	return w.work(ctx, pools)
}

// Abort ends Run now, without the grace: running tasks are cancelled and handed
// back, at once to be run elsewhere, also those whose handlers ignore it. It
// counts neither as failure nor as death. Abort returns at once, may be called
// at any time and more than once; Run returns a moment later, or as soon as what
// it hands back is written.
func (w *Worker) Abort() { w.abort.Do(func() { close(w.aborted) }) }

// work runs the parts. Senders stop before receivers: slots feed their pool's
// settler, and both need their leases renewed to the end.
func (w *Worker) work(ctx context.Context, pools []*pool) error {
	working, cancelWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelWork(nil)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopWatch := background(func(watching context.Context) { w.watchClosed(watching, cancel, cancelWork) })
	defer stopWatch()
	stopAbort := background(func(watching context.Context) {
		select {
		case <-watching.Done():
		case <-w.aborted:
			cancelWork(errShutdown)
		}
	})
	defer stopAbort()
	stopLeases := background(w.leases.run)
	defer stopLeases()
	w.vitals.watch(pools)
	stopRevocations := background(w.revocations.run)
	defer stopRevocations()
	w.log.InfoContext(ctx, "worker started", "queues", w.queueNames())
	var group sync.WaitGroup
	failed := make(chan error, len(pools))
	for _, p := range pools {
		group.Go(func() {
			if err := p.run(ctx, working); err != nil {
				failed <- err
				cancel(err)
			}
		})
	}
	drains := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(drains)
		w.vitals.enter(lifeDraining)
		w.log.InfoContext(working, "worker drains", "grace", w.cfg.Grace)
		time.AfterFunc(w.cfg.Grace, func() { cancelWork(errShutdown) })
		w.tellWorker("Draining", w.cfg.Hooks.Draining)
	})
	w.tellWorker("Ready", w.cfg.Hooks.Ready)
	group.Wait() // no pool ends before ctx
	<-drains
	stopLeases()
	w.aside.Wait()
	// The last acks and naks must have left before the caller closes the
	// connection; should they be lost, the messages come back.
	_ = w.c.nc.FlushTimeout(flushWithin)
	w.log.InfoContext(working, "worker ended")
	w.tellWorker("Ended", w.cfg.Hooks.Ended)
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return context.Cause(ctx)
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// watchClosed ends the work when the connection is closed for good: nothing of
// it can be written any more.
func (w *Worker) watchClosed(ctx context.Context, cancel, cancelWork context.CancelCauseFunc) {
	closed := w.c.nc.StatusChanged(nats.CLOSED)
	defer w.c.nc.RemoveStatusListener(closed)
	if !w.c.nc.IsClosed() {
		select {
		case <-ctx.Done():
			return
		case <-closed:
		}
	}
	err := fmt.Errorf("nats connection: %w", ErrClosed)
	cancel(err)
	cancelWork(errShutdown)
}

func (w *Worker) queueNames() string {
	names := make([]string, len(w.cfg.Queues))
	for i, q := range w.cfg.Queues {
		names[i] = fmt.Sprintf("%s:%d", q.Name, q.Slots)
	}
	return strings.Join(names, ",")
}

// background starts a part that ends with its context; the function returned
// ends it and waits.
func background(run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // outlives the caller's context on purpose: it ends last
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// waitConnected waits for the first connection, with one warning if it is not
// there.
func waitConnected(ctx context.Context, nc *nats.Conn, log *slog.Logger) error {
	changes := nc.StatusChanged()
	defer nc.RemoveStatusListener(changes)
	for warned := false; ; {
		switch nc.Status() {
		case nats.CONNECTED:
			return nil
		case nats.CLOSED:
			return fmt.Errorf("nats: %w", ErrClosed)
		}
		if !warned {
			log.WarnContext(ctx, "nats is not reachable, waiting for it", "servers", strings.Join(nc.Servers(), ","))
			warned = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes:
		}
	}
}

func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	clean := strings.Map(func(r rune) rune {
		if wire.CheckID(string(r)) == nil {
			return r
		}
		return '-'
	}, host)
	return clean[:min(len(clean), 64)] + "-" + strings.ToLower(rand.Text()[:6])
}

func orInt(v *int, otherwise int) {
	if *v == 0 {
		*v = otherwise
	}
}

func orDuration(v *time.Duration, otherwise time.Duration) {
	if *v == 0 {
		*v = otherwise
	}
}

func badInput(err error) error { return &badInputError{err} }

type badInputError struct{ err error }

func (e *badInputError) Error() string { return e.err.Error() }
func (e *badInputError) Unwrap() error { return e.err }

func isBadInput(err error) bool {
	var bad *badInputError
	return errors.As(err, &bad)
}
