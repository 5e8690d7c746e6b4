// Package ingest is the edge from Kafka to a queue: every record of a topic
// becomes exactly one task.
//
// It stands at the beginning of the path. For each partition, what has come is
// written in one atomic batch: a task for each record and, last, the partition's
// position in the ledger (package ledger). The ledger, not the group's offset,
// says where to go on; its fence keeps out an edge that has lost the partition
// and does not know it yet. The group's offset is committed afterwards, for the
// tools that show lag and as a tripwire: a group that has committed while the
// ledger is gone stops the edge, because going on could only be a guess.
//
// A record that no rule accepts becomes a task too, the built-in pelton-dead,
// in the same batch, so that nothing is lost and no partition ever blocks. A
// full queue holds up its partitions and nothing else.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
	"pelton/engine/ledger"
	"pelton/engine/wire"
)

const (
	defaultTask             = "print"
	defaultMaxBatchBytes    = 8 << 20
	defaultSessionTimeout   = 10 * time.Second
	defaultRebalanceTimeout = 60 * time.Second
	defaultGrace            = 5 * time.Second

	// pollRecords bounds what is in hand at once.
	pollRecords = 10_000
	// pollPatience is how long a poll waits where nothing comes.
	pollPatience = 5 * time.Second
	// retryFull is how long a partition rests that found the queue full.
	retryFull = 250 * time.Millisecond
	// commitTimeout bounds the commit of the group's offsets, which nothing
	// rests on.
	commitTimeout = 2 * time.Second
)

// Kafka says where the records come from; the zero value is a broker on this
// machine.
type Kafka = kafka.Config

// Config says which records become which tasks. NATS and Route.Topic have no
// defaults.
type Config struct {
	Kafka Kafka
	// NATS is where the tasks go. The caller makes it, lets it reconnect for
	// ever, and closes it after Run has returned.
	NATS *nats.Conn
	// Namespace of the queue; wire.DefaultNamespace unless set.
	Namespace wire.Namespace
	Route     Route

	// StartOffset is where a partition begins that has never been read: earliest,
	// which it is unless set, or latest.
	StartOffset string
	// FromOffset is where a partition goes on that has no ledger, or one that
	// stops the edge; FromOffsets is the same by partition and comes first. They
	// are an operator's answer to a [StopError] and mean nothing to a partition
	// whose ledger is in order. Records that may have been read before become
	// tasks of a new generation, with other ids.
	FromOffset  *int64
	FromOffsets map[int32]int64

	// MaxBatch and MaxBatchBytes bound one batch; 999 records, which is also
	// the most, and 8 MiB unless set.
	MaxBatch, MaxBatchBytes int
	// Limits of the bodies; wire.DefaultLimits unless set.
	Limits wire.Limits

	// SessionTimeout is after how long a silent edge loses its partitions; 10s
	// unless set. HeartbeatInterval is a third of it unless set.
	// RebalanceTimeout is how long an edge may take to let go; 60s unless set.
	SessionTimeout, HeartbeatInterval, RebalanceTimeout time.Duration
	// Grace is how long what is in hand may take to be written at the end; 5s
	// unless set.
	Grace time.Duration

	// Instance names this edge in the ledger and in logs; the host, the process
	// and its start unless set. It must be another one for each start.
	Instance string
	// Logger gets what no caller can be told; nothing is logged where it is nil.
	Logger *slog.Logger
	// OnBatch is told of each batch after it is stored, in order within a
	// partition. The partition waits for it. After a crash, or where the answer
	// to a batch was lost, it may not be told: it is for a live view.
	OnBatch func(Batch)
}

// Route is one topic that fills one queue.
type Route struct {
	// Name is the route's own; it stands in the ids, the ledger and the group.
	// The topic's name unless set, which then must be fit for it.
	Name string
	// Topic to read. It is waited for where it does not exist.
	Topic string
	// Group is the consumer group; pelton-<name> unless set.
	Group string
	// Queue is "default" unless set, Task is "print" unless set.
	Queue, Task string
}

// Batch is records that are tasks now.
type Batch struct {
	Topic     string
	Partition int32
	Queue     string
	Tasks     []Task
}

// Task is one of them.
type Task struct {
	Offset int64
	ID     string
	Task   string
	Dead   bool // no rule accepts the record: it goes to the dead letters
}

// Ingest is the edge.
type Ingest struct {
	cfg    Config
	log    *slog.Logger
	vitals vitals
}

// New checks the configuration. It connects to nothing.
func New(cfg Config) (*Ingest, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Ingest{cfg: cfg, log: cfg.Logger.With("route", cfg.Route.Name), vitals: vitals{stall: stallAfter}}, nil
}

func (c Config) withDefaults() Config {
	r := &c.Route
	orString(&r.Name, r.Topic)
	orString(&r.Group, "pelton-"+r.Name)
	orString(&r.Queue, "default")
	orString(&r.Task, defaultTask)
	if c.Namespace == "" {
		c.Namespace = wire.DefaultNamespace
	}
	if c.Limits == (wire.Limits{}) {
		c.Limits = wire.DefaultLimits
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = ledger.MaxTasks
	}
	if c.MaxBatchBytes == 0 {
		c.MaxBatchBytes = defaultMaxBatchBytes
	}
	orDuration(&c.SessionTimeout, defaultSessionTimeout)
	orDuration(&c.HeartbeatInterval, c.SessionTimeout/3)
	orDuration(&c.RebalanceTimeout, defaultRebalanceTimeout)
	orDuration(&c.Grace, defaultGrace)
	orString(&c.StartOffset, startEarliest)
	if c.Instance == "" {
		host, _ := os.Hostname()
		c.Instance = host + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	if c.NATS == nil {
		return errors.New("ingest: a connection to NATS must be set")
	}
	if _, err := wire.ParseNamespace(string(c.Namespace)); err != nil {
		return err
	}
	if err := c.Route.validate(); err != nil {
		return fmt.Errorf("edges.ingest: %w", err)
	}
	switch {
	case c.MaxBatch < 1 || c.MaxBatch > ledger.MaxTasks:
		return fmt.Errorf("edges.ingest.max_batch must be from 1 to %d, got %d", ledger.MaxTasks, c.MaxBatch)
	case c.MaxBatchBytes < 1:
		return fmt.Errorf("edges.ingest.max_batch_bytes must be at least 1, got %d", c.MaxBatchBytes)
	case c.SessionTimeout < 0 || c.HeartbeatInterval < 0 || c.RebalanceTimeout < 0:
		return fmt.Errorf("edges.ingest: session_timeout %s, heartbeat_interval %s and rebalance_timeout %s must be above 0",
			c.SessionTimeout, c.HeartbeatInterval, c.RebalanceTimeout)
	case c.HeartbeatInterval >= c.SessionTimeout:
		return fmt.Errorf("edges.ingest.heartbeat_interval must be below session_timeout %s, got %s", c.SessionTimeout, c.HeartbeatInterval)
	case c.Grace < 0:
		return fmt.Errorf("edges.ingest.grace must be above 0, got %s", c.Grace)
	case c.StartOffset != startEarliest && c.StartOffset != startLatest:
		return fmt.Errorf("edges.ingest.start_offset must be %s or %s, got %q", startEarliest, startLatest, c.StartOffset)
	case c.FromOffset != nil && *c.FromOffset < 0:
		return fmt.Errorf("edges.ingest.from_offset must be at least 0, got %d", *c.FromOffset)
	}
	for n, offset := range c.FromOffsets {
		if n < 0 || offset < 0 {
			return fmt.Errorf("edges.ingest.from_offset of partition %d must be at least 0, got %d", n, offset)
		}
	}
	_, err := c.Kafka.Options()
	return err
}

func (r Route) validate() error {
	if r.Topic == "" {
		return errors.New("topic must be set")
	}
	if err := kafka.CheckTopic(r.Topic); err != nil {
		return err
	}
	if err := wire.CheckRoute(r.Name); err != nil {
		return fmt.Errorf("%w (a route over the topic %s needs a name of its own)", err, r.Topic)
	}
	if err := wire.CheckQueue(r.Queue); err != nil {
		return err
	}
	if err := wire.CheckTask(r.Task); err != nil {
		return err
	}
	if strings.HasPrefix(r.Task, wire.ReservedTaskPrefix) {
		return &wire.NameError{Field: "task", Value: r.Task, Rule: "must not begin with " + wire.ReservedTaskPrefix}
	}
	return wire.CheckRouteIDs(r.Name, r.Queue)
}

// Run ingests until ctx is done: then what is in hand is written, or left to
// the next owner, and Run returns nil. Brokers that are absent, and a topic
// that does not exist, are waited for. A [*StopError] means that going on would
// be a guess.
func (i *Ingest) Run(ctx context.Context) error {
	if err := i.waitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to end before there was anything to do
		}
		return err
	}
	i.log.InfoContext(ctx, "ingest started", "topic", i.cfg.Route.Topic, "queue", i.cfg.Route.Queue, "instance", i.cfg.Instance)
	for {
		s := &session{Ingest: i, ready: make(chan struct{}), owned: map[int32]*partition{}, stopped: make(chan error, 1)}
		err := s.run(ctx)
		switch {
		case errors.Is(err, errLedgerChanged):
			i.log.WarnContext(ctx, "a ledger was changed by hand, joining anew", "err", err)
		case errors.Is(err, errTopicGone):
			i.log.WarnContext(ctx, "the topic is gone, joining anew", "err", err)
			if err := i.waitReady(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case ctx.Err() != nil && !errors.Is(err, ErrStopped):
			i.log.InfoContext(ctx, "ingest ended")
			return nil
		default:
			return err
		}
		if err := pause(ctx, retryFull); err != nil {
			return nil //nolint:nilerr // told to end
		}
	}
}

// waitReady returns when both brokers answer and the topic exists.
func (i *Ingest) waitReady(ctx context.Context) error {
	if err := i.waitNATS(ctx); err != nil {
		return err
	}
	cl, err := i.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := kafka.WaitReady(ctx, cl, i.log); err != nil {
		return err
	}
	for warned := false; ; warned = true {
		_, err := kafka.TopicPartitions(ctx, cl, i.cfg.Route.Topic)
		switch {
		case err == nil:
			return nil
		case kafka.Classify(err) == kafka.Auth:
			return err
		case !warned:
			i.log.WarnContext(ctx, "cannot read the topic, waiting for it", "err", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (i *Ingest) waitNATS(ctx context.Context) error {
	changes := i.cfg.NATS.StatusChanged()
	defer i.cfg.NATS.RemoveStatusListener(changes)
	for warned := false; i.cfg.NATS.Status() != nats.CONNECTED; warned = true {
		if i.cfg.NATS.IsClosed() {
			return nats.ErrConnectionClosed
		}
		if !warned {
			i.log.WarnContext(ctx, "nats is not reachable, waiting for it")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes:
		}
	}
	return nil
}

func (i *Ingest) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cfg := i.cfg.Kafka
	if cfg.Logger == nil {
		cfg.Logger = i.log
	}
	return kafka.New(cfg, opts...)
}

// session is one membership in the group: from a look at the ledgers to the
// first refusal, or to the end.
type session struct {
	*Ingest
	cl    *kgo.Client
	ready chan struct{} // closed when cl is set
	noted map[int32]int // generations that the group knows; only for its callbacks

	mu      sync.Mutex
	owned   map[int32]*partition
	stopped chan error // why the group's callbacks cannot go on
}

func (s *session) run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	cl, err := s.client(append(s.groupOptions(), kgo.WithContext(life))...)
	if err != nil {
		return err
	}
	s.cl = cl
	close(s.ready)
	defer s.leave(ctx, end)
	s.vitals.group.Store(cl)
	defer s.vitals.group.Store(nil)
	turns := s.vitals.loops.Loop("loop of route "+s.cfg.Route.Name, s.vitals.stall)
	defer turns.End()
	work, abandon := outlive(ctx, s.cfg.Grace)
	defer abandon()
	for {
		turns.Turn()
		poll, stop := context.WithTimeout(ctx, s.patience())
		fetches := cl.PollRecords(poll, pollRecords)
		stop()
		if err := s.fatal(ctx, fetches); err != nil {
			return err
		}
		if len(fetches) == 0 {
			continue // only a poll that returns something holds off a rebalance
		}
		if err := s.write(work, fetches); err != nil {
			return err
		}
		s.commit(work)
		cl.AllowRebalance()
	}
}

// fatal is why the session ends after a poll: told to, stopped, or refused for
// good. Errors that pass are kgo's to retry.
func (s *session) fatal(ctx context.Context, fetches kgo.Fetches) error {
	select {
	case err := <-s.stopped:
		return err
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.cfg.NATS.IsClosed() {
		return nats.ErrConnectionClosed
	}
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, context.Canceled) {
			continue
		}
		class := kafka.Classify(e.Err)
		if class == kafka.Auth {
			return fmt.Errorf("kafka topic %s, partition %d: %w", s.cfg.Route.Topic, e.Partition, e.Err)
		}
		if class == kafka.NoTopic { // also one made anew, which this client would never read
			return fmt.Errorf("%w: %w", errTopicGone, e.Err)
		}
		if errors.Is(e.Err, kerr.InvalidSessionTimeout) {
			return fmt.Errorf("edges.ingest.%s.session_timeout %s is not what the broker allows: %w", s.cfg.Route.Name, s.cfg.SessionTimeout, e.Err)
		}
		level := slog.LevelWarn
		if class == kafka.Unreachable || class == kafka.Retry {
			level = slog.LevelDebug // it passes, and the connection has said so
		}
		s.log.Log(ctx, level, "fetch", "topic", e.Topic, "partition", e.Partition, "err", e.Err)
	}
	return nil
}

// patience is how long a poll may wait: until the loop should show that it
// turns, unless a partition rests.
func (s *session) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.owned {
		if len(p.inHand) > 0 {
			return retryFull
		}
	}
	return pollPatience
}

// write gives every partition what has come for it, all at once, and waits.
func (s *session) write(ctx context.Context, fetches kgo.Fetches) error {
	var errs []error
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		if p := s.partition(f.Partition); p != nil {
			errs = append(errs, p.take(f.Records))
			p.takeBomb(f.Err)
		}
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	for _, p := range s.partitions() {
		if len(p.inHand) == 0 {
			continue
		}
		group.Go(func() {
			if err := p.write(ctx); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (s *session) partition(n int32) *partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned[n]
}

func (s *session) partitions() []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*partition, 0, len(s.owned))
	for _, p := range s.owned {
		all = append(all, p)
	}
	return all
}

// leave ends the membership. The partitions go to others at once. End ends what
// the client still waits for: an answer to its request to join comes only when
// every other member has joined.
func (s *session) leave(ctx context.Context, end context.CancelFunc) {
	s.mu.Lock()
	s.owned = map[int32]*partition{}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	s.cl.AllowRebalance()
	_ = s.cl.LeaveGroupContext(ctx) // else the session timeout tells the others
	end()
	s.cl.CloseAllowingRebalance()
}

// outlive is a context that ends this long after ctx.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() {
		_ = pause(longer, grace)
		cancel()
	})
	return longer, func() {
		forget()
		cancel()
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func orString(v *string, otherwise string) {
	if *v == "" {
		*v = otherwise
	}
}

func orDuration(v *time.Duration, otherwise time.Duration) {
	if *v == 0 {
		*v = otherwise
	}
}
