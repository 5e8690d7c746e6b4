// Package emit is the edge from results to Kafka: every result becomes exactly
// one record of a topic.
//
// It stands at the end of the path. Workers write the outcome of a task into
// its queue's bucket; the stream below that bucket is the outbox, and emit reads
// it in order and produces. What it has produced and how far it has read are
// one Kafka transaction: the position of each queue is a record in a compacted
// ledger topic. Whoever takes over a shard, a set of queues, first fences its
// predecessor by the shard's transactional id and then reads the positions, so
// that a crash at any moment neither loses nor repeats a result for those who
// read committed.
//
// Two limits belong to that promise. A bucket keeps one record a task, so a
// result that is replaced before it is read (a dead letter that was run again)
// is not emitted; the later one is. And a result lives as long as its bucket
// keeps it: an emitter that was away for longer stops with a [*StopError]
// instead of going on as if nothing had happened.
package emit

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
	"pelton/engine/wire"
)

const (
	defaultMaxBatch           = 1000
	defaultMaxRecordBytes     = 1_000_012 // what brokers take unless configured, and what franz-go sends
	defaultTransactionTimeout = 30 * time.Second
	defaultSessionTimeout     = 10 * time.Second
	defaultCheckInterval      = 5 * time.Second
	defaultGrace              = 10 * time.Second

	mostBatch   = 100_000
	mostShards  = 1000
	leastRecord = 16 << 10 // a record without its result is always smaller

	// leaveTimeout bounds the farewell to a group whose brokers may be gone.
	leaveTimeout = 2 * time.Second
)

// Config says which results go where. Only NATS has no default.
type Config struct {
	// Kafka is where the results go.
	Kafka kafka.Config
	// NATS is where they come from. The caller makes it, lets it reconnect for
	// ever, and closes it after Run has returned.
	NATS *nats.Conn
	// Namespace of the buckets; wire.DefaultNamespace unless set.
	Namespace wire.Namespace

	// Name of this edge; "results" unless set. It names the consumer group, the
	// transactional ids and the positions, so another name begins anew.
	Name string
	// Queues whose results are emitted; "default" unless set.
	Queues []string
	// Shards is into how many sets the queues are divided, each of which one
	// emitter handles at a time; 1 unless set. It cannot change once there are
	// positions: a shard that finds one of its queues at another shard stops.
	Shards int

	// Topic the results go to; "results" unless set.
	Topic string
	// ReplyTopics are the topics that a task may name for its own result.
	// Whoever may publish a task chooses among them; a result that asks for any
	// other topic goes to Topic. Like Topic they must exist: a shard waits for
	// all of them.
	ReplyTopics []string
	// LedgerTopic holds the positions; "<namespace>.ledger" unless set.
	LedgerTopic string

	// MaxBatch is how many results one transaction holds at most; 1000 unless
	// set. It holds what is there: one result in idle times.
	MaxBatch int
	// MaxRecordBytes is what the topics take as one message; 1000012 unless
	// set. A larger record is written without its result. Where a topic takes
	// less, that is learned from the broker's refusal.
	MaxRecordBytes int

	// TransactionTimeout is after how long the broker aborts a transaction; 30s
	// unless set.
	TransactionTimeout time.Duration
	// SessionTimeout is after how long a silent emitter loses its shards; 10s
	// unless set.
	SessionTimeout time.Duration
	// HeartbeatInterval is how often an emitter tells the group that it is
	// alive; a third of SessionTimeout unless set.
	HeartbeatInterval time.Duration
	// CheckInterval is how often each queue is looked at for lag, a stalled
	// read and a position grown old; 5s unless set.
	CheckInterval time.Duration
	// Grace is how long an open transaction may take to end at shutdown and
	// when the shard moves; 10s unless set.
	Grace time.Duration

	// From names, by queue, the first sequence of the bucket to emit, in place
	// of what the ledger says. It is for an operator's answer to a [StopError]
	// and holds until the first position of that queue is written.
	From map[string]uint64

	// Instance names this emitter in logs and in the ledger; the host and
	// process unless set.
	Instance string
	// Logger gets what no caller can be told; nothing is logged where it is nil.
	Logger *slog.Logger
	// OnEmit is told of each result after its transaction is committed, in
	// order within a queue, from one goroutine for each shard. The shard waits
	// for it. A crash may come before it: it is for a live view.
	OnEmit func(Emitted)

	hooks hooks
}

// Emitted is a result that stands in Kafka.
type Emitted struct {
	TaskID    string
	Queue     string
	State     wire.State
	Topic     string
	Partition int32
	Offset    int64
}

// Stats counts since New.
type Stats struct {
	Emitted      uint64 // results in committed transactions
	Truncated    uint64 // of those, without their result because it was too large
	Skipped      uint64 // values under a task's key that are no record
	Transactions uint64 // committed, those with positions alone included
	Openings     uint64 // of shards
	Failures     uint64 // of openings and of open shards; each begins again
}

// hooks let tests break a shard at each step. An error ends the session as a
// crash does: nothing is ended or aborted.
type hooks struct {
	at              func(step string, shard int32) error
	transactionalID func(shard int32) string
}

// The steps at which hooks.at is called.
const (
	stepFenced  = "fenced"  // the predecessor can no longer commit
	stepBarrier = "barrier" // the barrier is committed and not read yet
	stepOpened  = "opened"  // positions are known, nothing is read yet
	stepBegun   = "begun"   // a transaction is begun, nothing is produced
	stepFlushed = "flushed" // all is produced, the transaction is open
	stepEnded   = "ended"   // the transaction is committed, nobody knows yet
)

func (h hooks) step(name string, shard int32) error {
	if h.at == nil {
		return nil
	}
	return h.at(name, shard)
}

// Emit is the edge. Any number of them may run for one name, in as many
// processes; they share its shards.
type Emit struct {
	cfg    Config
	js     jetstream.JetStream
	log    *slog.Logger
	vitals vitals
	stats  struct {
		emitted, truncated, skipped, transactions, openings, failures atomic.Uint64
	}

	mu   sync.Mutex
	from map[string]uint64
	told map[string]bool // reply topics refused and logged
}

// New checks the configuration and connects nothing. Errors name the key and
// the value.
func New(cfg Config) (*Emit, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(cfg.NATS)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return &Emit{
		cfg:  cfg,
		js:   js,
		log:  cfg.Logger.With("edge", cfg.Name, "instance", cfg.Instance),
		from: maps.Clone(cfg.From),
		told: map[string]bool{},
	}, nil
}

// Run emits until ctx is done, then lets the open transactions end within the
// grace period. It waits for brokers, buckets and topics that are absent. The
// error is a [*StopError] where going on could lose or repeat a result, and
// otherwise one that time does not mend: credentials that are refused, a ledger
// with too few partitions. A drained end is nil.
func (e *Emit) Run(ctx context.Context) error {
	err := e.run(ctx)
	if ctx.Err() != nil && !errors.Is(err, ErrStopped) {
		return nil
	}
	return err
}

func (e *Emit) run(ctx context.Context) error {
	admin, err := e.client()
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := kafka.WaitReady(ctx, admin, e.log); err != nil {
		return err
	}
	if err := e.awaitLedger(ctx, admin); err != nil {
		return err
	}
	return e.runGroup(ctx, newAssignment(ctx, e, admin))
}

// client opens a client that says nothing by itself: the group's client, which
// lives as long as Run, reports the brokers' absence for all.
func (e *Emit) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cfg := e.cfg.Kafka
	cfg.Logger = nil
	return kafka.New(cfg, opts...)
}

// Stats is safe to call at any time.
func (e *Emit) Stats() Stats {
	return Stats{
		Emitted:      e.stats.emitted.Load(),
		Truncated:    e.stats.truncated.Load(),
		Skipped:      e.stats.skipped.Load(),
		Transactions: e.stats.transactions.Load(),
		Openings:     e.stats.openings.Load(),
		Failures:     e.stats.failures.Load(),
	}
}

// fromSequence is what the operator named for a queue and nobody has used yet.
func (e *Emit) fromSequence(queue string) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sequence, ok := e.from[queue]
	return sequence, ok
}

func (e *Emit) forgetFrom(queue string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.from, queue)
}

// firstRefusal reports whether a reply topic is refused for the first time.
func (e *Emit) firstRefusal(topic string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told[topic] || len(e.told) > 100 {
		return false
	}
	e.told[topic] = true
	return true
}

// group is the consumer group that assigns shards.
func (c Config) group() string { return string(c.Namespace) + "-emit-" + c.Name }

// transactionalID is what fences a shard. It must never depend on the emitter.
func (c Config) transactionalID(shard int32) string {
	if c.hooks.transactionalID != nil {
		return c.hooks.transactionalID(shard)
	}
	return c.group() + "-" + strconv.Itoa(int(shard))
}

// queuesOf are the queues of a shard. The hash is part of the contract between
// emitters: all of them must see the same sets.
func (c Config) queuesOf(shard int32) []string {
	var queues []string
	for _, queue := range c.Queues {
		h := fnv.New32a()
		_, _ = h.Write([]byte(queue))
		if int32(h.Sum32()%uint32(c.Shards)) == shard {
			queues = append(queues, queue)
		}
	}
	return queues
}

// topics are those that results may go to.
func (c Config) topics() []string {
	return append([]string{c.Topic}, c.ReplyTopics...)
}

func (c Config) withDefaults() Config {
	orString := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	orDuration := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	orInt := func(n *int, otherwise int) {
		if *n == 0 {
			*n = otherwise
		}
	}
	if c.Namespace == "" {
		c.Namespace = wire.DefaultNamespace
	}
	c.Queues, c.ReplyTopics = slices.Clone(c.Queues), slices.Clone(c.ReplyTopics)
	if len(c.Queues) == 0 {
		c.Queues = []string{"default"}
	}
	orString(&c.Name, "results")
	orString(&c.Topic, "results")
	orString(&c.LedgerTopic, string(c.Namespace)+".ledger")
	orString(&c.Instance, instance())
	orInt(&c.Shards, 1)
	orInt(&c.MaxBatch, defaultMaxBatch)
	orInt(&c.MaxRecordBytes, defaultMaxRecordBytes)
	orDuration(&c.TransactionTimeout, defaultTransactionTimeout)
	orDuration(&c.SessionTimeout, defaultSessionTimeout)
	orDuration(&c.HeartbeatInterval, c.SessionTimeout/3)
	orDuration(&c.CheckInterval, defaultCheckInterval)
	orDuration(&c.Grace, defaultGrace)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

func (c Config) validate() error {
	if c.NATS == nil {
		return errors.New("edges.emit: a NATS connection must be given")
	}
	if err := wire.CheckRoute(c.Name); err != nil {
		return fmt.Errorf("edges.emit: %w", err)
	}
	key := func(name string) string { return "edges.emit." + c.Name + "." + name }
	if _, err := wire.ParseNamespace(string(c.Namespace)); err != nil {
		return fmt.Errorf("%s: %w", key("namespace"), err)
	}
	if err := c.validateQueues(); err != nil {
		return fmt.Errorf("%s: %w", key("queues"), err)
	}
	if err := c.validateTopics(key); err != nil {
		return err
	}
	return c.validateNumbers(key)
}

func (c Config) validateQueues() error {
	for i, queue := range c.Queues {
		if err := wire.CheckQueue(queue); err != nil {
			return err
		}
		if slices.Contains(c.Queues[:i], queue) {
			return fmt.Errorf("%q: must stand there once", queue)
		}
	}
	return nil
}

func (c Config) validateTopics(key func(string) string) error {
	if err := kafka.CheckTopic(c.LedgerTopic); err != nil {
		return fmt.Errorf("%s: %w", key("ledger_topic"), err)
	}
	for i, topic := range c.topics() {
		name := "topic"
		if i > 0 {
			name = fmt.Sprintf("reply_topics[%d]", i-1)
		}
		if err := kafka.CheckTopic(topic); err != nil {
			return fmt.Errorf("%s: %w", key(name), err)
		}
		if topic == c.LedgerTopic {
			return fmt.Errorf("%s: %q: must not be the ledger topic", key(name), topic)
		}
	}
	return nil
}

func (c Config) validateNumbers(key func(string) string) error {
	numbers := []struct {
		name              string
		value, least, top int
	}{
		{"shards", c.Shards, 1, mostShards},
		{"max_batch", c.MaxBatch, 1, mostBatch},
		{"max_record_bytes", c.MaxRecordBytes, leastRecord, 1 << 30},
	}
	for _, n := range numbers {
		if n.value < n.least || n.value > n.top {
			return fmt.Errorf("%s must be from %d to %d, got %d", key(n.name), n.least, n.top, n.value)
		}
	}
	durations := []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"transaction_timeout", c.TransactionTimeout, 100 * time.Millisecond},
		{"session_timeout", c.SessionTimeout, 100 * time.Millisecond},
		{"heartbeat_interval", c.HeartbeatInterval, time.Millisecond},
		{"check_interval", c.CheckInterval, time.Millisecond},
		{"grace", c.Grace, time.Millisecond},
	}
	for _, d := range durations {
		if d.value < d.least {
			return fmt.Errorf("%s must be at least %s, got %s", key(d.name), d.least, d.value)
		}
	}
	if c.HeartbeatInterval >= c.SessionTimeout {
		return fmt.Errorf("%s must be below session_timeout %s, got %s", key("heartbeat_interval"), c.SessionTimeout, c.HeartbeatInterval)
	}
	return nil
}

// pause waits for d, or returns false where ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// partitioner puts ledger records where they say and results by their key, as
// every Kafka client does.
type partitioner struct {
	ledger         string
	manual, hashed kgo.Partitioner
}

func newPartitioner(ledger string) partitioner {
	return partitioner{ledger: ledger, manual: kgo.ManualPartitioner(), hashed: kgo.StickyKeyPartitioner(nil)}
}

// ForTopic implements [kgo.Partitioner].
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.ledger {
		return p.manual.ForTopic(topic)
	}
	return p.hashed.ForTopic(topic)
}
