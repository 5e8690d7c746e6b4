package topology

import (
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// Kind is what a stream is for.
type Kind string

// The kinds of streams.
const (
	Tasks   Kind = "tasks"   // a lane's tasks that are ready to run, and its ledgers
	Later   Kind = "later"   // a lane's tasks that wait for their time
	Results Kind = "results" // the records of a queue, a key-value bucket
	Dead    Kind = "dead"    // the dead letters of all queues
	Revoked Kind = "revoked" // which tasks are revoked, of all queues; a key-value bucket
	// Schedules is the entries of beat, of all queues; a key-value bucket.
	Schedules Kind = "schedules"
)

// Topology is what a broker must hold, in the order in which it is made.
type Topology struct {
	Namespace wire.Namespace
	Streams   []Stream
}

// Stream is a stream with its consumers. Of the configurations only the fields
// that Pelton manages have a meaning.
type Stream struct {
	Kind      Kind
	Queue     string        // empty for what all queues share
	Priority  wire.Priority // of the lane, for tasks and later
	Config    jetstream.StreamConfig
	Consumers []jetstream.ConsumerConfig
}

// Lane is the lane of a stream of tasks or of later tasks.
func (s Stream) Lane() wire.Lane { return wire.Lane{Queue: s.Queue, Priority: s.Priority} }

// dedupWindow is how long a task stream remembers message ids: as long as a
// waiting publish retries. It costs memory for every id.
const dedupWindow = 30 * time.Second

// New is the topology of a configuration. Errors name the key, the value and
// the rule.
func New(cfg Config) (Topology, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return Topology{}, err
	}
	t := Topology{Namespace: cfg.Namespace, Streams: []Stream{cfg.dead(), cfg.revoked(), cfg.schedules()}}
	for _, q := range cfg.Queues {
		lanes := q.lanes()
		t.Streams = append(t.Streams, cfg.results(q))
		for _, lane := range lanes {
			t.Streams = append(t.Streams, cfg.later(q, lane))
		}
		for _, lane := range lanes {
			t.Streams = append(t.Streams, cfg.tasks(q, lane))
		}
	}
	return t, nil
}

// Only is the part of a topology that keep chooses. A role verifies just what
// it uses, because it may see no more.
func (t Topology) Only(keep func(Stream) bool) Topology {
	t.Streams = slices.DeleteFunc(slices.Clone(t.Streams), func(s Stream) bool { return !keep(s) })
	return t
}

func (q Queue) lanes() []wire.Lane {
	lanes := []wire.Lane{wire.PlainLane(q.Name)}
	for _, p := range q.Priorities {
		lanes = append(lanes, wire.Lane{Queue: q.Name, Priority: p})
	}
	return lanes
}

// stream is what all streams have in common.
func (c Config) stream(name, description, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Description:       description,
		Subjects:          []string{subject},
		Storage:           jetstream.FileStorage,
		Replicas:          c.Replicas,
		MaxConsumers:      unlimited,
		MaxMsgs:           unlimited,
		MaxBytes:          unlimited,
		MaxMsgsPerSubject: unlimited,
		MaxMsgSize:        unlimited,
		Duplicates:        dedupWindow,
		AllowDirect:       true,
	}
}

// tasks is a stream that strangers publish to. It has none of the features by
// which the headers of a message could remove, delay or schedule others, and it
// refuses when it is full.
func (c Config) tasks(q Queue, lane wire.Lane) Stream {
	cfg := c.stream(c.Namespace.TaskStream(lane), "Tasks of "+lane.String()+", ready to run", c.Namespace.TaskFilter(lane))
	cfg.Subjects = append(cfg.Subjects, c.Namespace.LedgerFilter(lane))
	cfg.Retention = jetstream.WorkQueuePolicy
	cfg.Discard = jetstream.DiscardNew
	cfg.MaxMsgs = q.MaxPending
	cfg.MaxBytes = q.MaxBytes
	cfg.AllowAtomicPublish = true
	cfg.AllowBatchPublish = true
	workers := q.consumer(wire.WorkersDurable, c.Namespace.TaskFilter(lane))
	return Stream{Tasks, q.Name, lane.Priority, cfg, []jetstream.ConsumerConfig{workers}}
}

// later is a stream with schedules. The broker combines them neither with
// refusing when full nor without rollup, so this stream has no limit that could
// drop its oldest.
func (c Config) later(q Queue, lane wire.Lane) Stream {
	cfg := c.stream(c.Namespace.LaterStream(lane), "Tasks of "+lane.String()+", waiting for their time", c.Namespace.LaterFilter(lane))
	cfg.Subjects = append(cfg.Subjects, c.Namespace.DueFilter(lane))
	cfg.Retention = jetstream.WorkQueuePolicy
	cfg.Discard = jetstream.DiscardOld
	cfg.AllowMsgSchedules = true
	cfg.AllowRollup = true
	due := q.consumer(wire.DueDurable, c.Namespace.DueFilter(lane))
	due.MaxAckPending = q.dueAckPending()
	return Stream{Later, q.Name, lane.Priority, cfg, []jetstream.ConsumerConfig{due}}
}

// results is the stream of a key-value bucket. It differs from the one that a
// client would make in what drops the oldest record, takes batches, repeats
// every change, and lets nobody wipe the bucket by a header.
func (c Config) results(q Queue) Stream {
	bucket := "$KV." + c.Namespace.ResultsBucket(q.Name)
	cfg := c.stream(c.Namespace.ResultsStream(q.Name), "Records of queue "+q.Name, bucket+".>")
	cfg.Retention = jetstream.LimitsPolicy
	cfg.Discard = jetstream.DiscardOld
	cfg.MaxMsgsPerSubject = 1
	cfg.MaxMsgs = q.ResultsMax
	cfg.MaxAge = q.ResultsTTL
	cfg.Duplicates = min(dedupWindow, q.ResultsTTL)
	cfg.DenyDelete = true
	cfg.AllowAtomicPublish = true
	cfg.AllowBatchPublish = true
	cfg.RePublish = &jetstream.RePublish{
		Source:      bucket + ".*",
		Destination: c.Namespace.DoneSubject(q.Name, "{{wildcard(1)}}"),
	}
	return Stream{Kind: Results, Queue: q.Name, Config: cfg}
}

func (c Config) dead() Stream {
	cfg := c.stream(c.Namespace.DeadStream(), "Dead letters", c.Namespace.DeadFilter(""))
	cfg.Retention = jetstream.LimitsPolicy
	cfg.Discard = jetstream.DiscardOld
	cfg.MaxMsgsPerSubject = 1
	cfg.MaxAge = c.DeadMaxAge
	cfg.Duplicates = min(dedupWindow, c.DeadMaxAge)
	return Stream{Kind: Dead, Config: cfg}
}

// revokedMarker is how long the broker marks a revocation that has passed, so
// that those who watch forget it, too.
const revokedMarker = time.Minute

// revoked is the stream of a key-value bucket whose keys pass, with a marker
// each, when the records of their tasks have passed at the latest.
func (c Config) revoked() Stream {
	cfg := c.stream(c.Namespace.RevokedStream(), "Revoked tasks", "$KV."+c.Namespace.RevokedBucket()+".>")
	cfg.Retention = jetstream.LimitsPolicy
	cfg.Discard = jetstream.DiscardOld
	cfg.MaxMsgsPerSubject = 1
	cfg.MaxMsgs = DefaultResultsMax
	for _, q := range c.Queues {
		cfg.MaxAge = max(cfg.MaxAge, q.ResultsTTL)
	}
	cfg.Duplicates = min(dedupWindow, cfg.MaxAge)
	cfg.DenyDelete = true
	cfg.AllowRollup = true // the markers need it
	cfg.AllowMsgTTL = true
	cfg.SubjectDeleteMarkerTTL = revokedMarker
	return Stream{Kind: Revoked, Config: cfg}
}

// schedules is the stream of a key-value bucket whose keys stay until somebody
// removes them. A limit would refuse an entry, and never drop another one.
func (c Config) schedules() Stream {
	cfg := c.stream(c.Namespace.SchedulesStream(), "Entries of beat", c.Namespace.ScheduleSubject(">"))
	cfg.Retention = jetstream.LimitsPolicy
	cfg.Discard = jetstream.DiscardNew
	cfg.MaxMsgsPerSubject = 1
	cfg.DenyDelete = true
	return Stream{Kind: Schedules, Config: cfg}
}

// dueAckPending is how many tasks that have become due, or soon will, may be in
// the hands of all workers.
func (q Queue) dueAckPending() int {
	if q.MaxAckPending > math.MaxInt32/16 {
		return q.MaxAckPending
	}
	return 16 * q.MaxAckPending
}

// consumer is a durable that all workers of a lane share. The broker neither
// counts deliveries nor spaces them out: both are the worker's business.
func (q Queue) consumer(durable, filter string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name:          durable,
		Durable:       durable,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		ReplayPolicy:  jetstream.ReplayInstantPolicy,
		AckWait:       q.AckWait,
		MaxDeliver:    unlimited,
		FilterSubject: filter,
		MaxAckPending: q.MaxAckPending,
		MaxWaiting:    q.MaxWaiting,
	}
}
