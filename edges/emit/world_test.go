package emit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
	"pelton/edges/internal/kafka/kafkatest"
	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

const (
	resultTopic = "results"
	ledgerTopic = "pelton.ledger"
)

// world is both brokers, and what the test has put in.
type world struct {
	t       *testing.T
	ctx     context.Context
	cluster *kfake.Cluster
	brokers []string
	nats    *enginetest.Broker
	nc      *nats.Conn
	js      jetstream.JetStream
	journal kafkatest.Journal
	plain   *kgo.Client

	mu   sync.Mutex
	want map[string]bool // ids of the final records
}

// newWorld has buckets for these queues, and the topics.
func newWorld(t *testing.T, queues ...string) *world {
	t.Helper()
	t.Parallel() // they wait more than they compute
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cluster := kafkatest.Start(t, kfake.GroupMinSessionTimeout(100*time.Millisecond), kfake.SeedTopics(3, resultTopic))
	broker := enginetest.Start(t)
	nc := broker.Conn(nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, ctx: ctx, cluster: cluster, brokers: cluster.ListenAddrs(),
		nats: broker, nc: nc, js: js, want: map[string]bool{},
	}
	w.plain = w.client()
	for _, queue := range queues {
		w.bucket(queue)
	}
	return w
}

func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kafka.New(kafka.Config{Brokers: w.brokers}, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// bucket makes the stream of a queue's results as setup does.
func (w *world) bucket(queue string, change ...func(*jetstream.StreamConfig)) jetstream.Stream {
	w.t.Helper()
	ns := wire.DefaultNamespace
	cfg := jetstream.StreamConfig{
		Name:              ns.ResultsStream(queue),
		Subjects:          []string{ns.RecordSubject(queue, ">")},
		MaxMsgsPerSubject: 1,
		MaxAge:            24 * time.Hour,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		DenyDelete:        true,
	}
	for _, c := range change {
		c(&cfg)
	}
	for {
		stream, err := w.js.CreateStream(w.ctx, cfg)
		if err == nil {
			return stream
		}
		// The server may still be clearing the files of one just deleted.
		if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != 10049 {
			w.t.Fatal(err)
		}
	}
}

// put writes the record of a task in a state.
func (w *world) put(queue, id string, state wire.State, change ...func(*wire.Record)) {
	w.t.Helper()
	r := wire.Record{ID: id, Run: 1, Task: "echo", Queue: queue, State: state, Attempt: 1, Result: json.RawMessage(`{"n":1}`)}
	for _, c := range change {
		c(&r)
	}
	b, err := r.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.publish(queue, id, b)
	if state.Terminal() {
		w.mu.Lock()
		w.want[id] = true
		w.mu.Unlock()
	}
}

// publish insists: the test may be restarting the server. A record whose
// confirmation alone was lost is not stored twice.
func (w *world) publish(queue, id string, value []byte) {
	w.t.Helper()
	once := jetstream.WithMsgID(rand.Text())
	for {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		_, err := w.js.Publish(ctx, wire.DefaultNamespace.RecordSubject(queue, id), value, once)
		cancel()
		if err == nil {
			return
		}
		if w.ctx.Err() != nil {
			w.t.Fatalf("publish %s: %v", id, err)
		}
	}
}

// succeed writes final records with ids <queue>-<from>…, some of which replace
// earlier states, among records of tasks that are still under way.
func (w *world) succeed(queue string, from, n int) {
	w.t.Helper()
	for i := from; i < from+n; i++ {
		id := queue + "-" + strconv.Itoa(i)
		switch i % 4 {
		case 0:
			w.put(queue, id, wire.StateStarted)
		case 1:
			w.put(queue, id, wire.StateRetrying)
			w.put(queue, "other-"+strconv.Itoa(i), wire.StateStarted)
		}
		w.put(queue, id, wire.StateSucceeded)
	}
}

// config has a session that a machine in a hurry does not lose. Tests in which
// an emitter falls silent have a shorter one.
func (w *world) config() Config {
	return Config{
		Kafka:              kafka.Config{Brokers: w.brokers},
		NATS:               w.nc,
		Logger:             w.journal.Logger(),
		TransactionTimeout: 10 * time.Second,
		SessionTimeout:     10 * time.Second,
		HeartbeatInterval:  50 * time.Millisecond,
		CheckInterval:      50 * time.Millisecond,
		Grace:              5 * time.Second,
	}
}

func (w *world) ensureLedger(cfg Config) {
	w.t.Helper()
	if _, err := EnsureLedger(w.ctx, cfg); err != nil {
		w.t.Fatal(err)
	}
}

// emitter is one that runs.
type emitter struct {
	*Emit
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func (w *world) start(cfg Config) *emitter {
	w.t.Helper()
	e, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	r := &emitter{Emit: e, t: w.t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = e.Run(ctx)
	}()
	w.t.Cleanup(func() { cancel(); <-r.ended })
	return r
}

// stop ends an emitter that should drain without an error.
func (r *emitter) stop() {
	r.t.Helper()
	r.cancel()
	<-r.ended
	if r.err != nil {
		r.t.Fatalf("Run: %v", r.err)
	}
}

// stopped waits for an emitter to stop by itself, for safety.
func (w *world) stopped(r *emitter) *StopError {
	w.t.Helper()
	select {
	case <-r.ended:
	case <-w.ctx.Done():
		w.t.Fatalf("emitter goes on; log %q", w.journal.Lines())
	}
	stop, ok := errors.AsType[*StopError](r.err)
	if !ok || !errors.Is(r.err, ErrStopped) {
		w.t.Fatalf("Run: %v, want a StopError", r.err)
	}
	return stop
}

// feed reads a topic as its consumers do, committed records only.
type feed struct {
	w  *world
	cl *kgo.Client
	by map[string][]*kgo.Record
}

func (w *world) feed(topic string) *feed {
	w.t.Helper()
	cl := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	return &feed{w: w, cl: cl, by: map[string][]*kgo.Record{}}
}

// wait reads until every id wanted has come. It returns how often each came so
// far.
func (f *feed) wait(ids ...string) {
	f.w.t.Helper()
	if len(ids) == 0 {
		f.w.mu.Lock()
		ids = slices.Collect(maps.Keys(f.w.want))
		f.w.mu.Unlock()
	}
	f.until(func() string {
		for _, id := range ids {
			if len(f.by[id]) == 0 {
				return fmt.Sprintf("%s, one of %d; %d have come", id, len(ids), len(f.by))
			}
		}
		return ""
	})
}

// drain reads to the end of the topic: what stood there when it was called is
// in f afterwards.
func (f *feed) drain(topic string) {
	f.w.t.Helper()
	end := "end-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-"
	partitions, err := kafka.TopicPartitions(f.w.ctx, f.w.plain, topic)
	if err != nil {
		f.w.t.Fatal(err)
	}
	manual := f.w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for p := range partitions {
		r := &kgo.Record{Topic: topic, Partition: int32(p), Key: []byte(end + strconv.Itoa(p))}
		if err := manual.ProduceSync(f.w.ctx, r).FirstErr(); err != nil {
			f.w.t.Fatal(err)
		}
	}
	f.until(func() string {
		for p := range partitions {
			if len(f.by[end+strconv.Itoa(p)]) == 0 {
				return fmt.Sprintf("the end of partition %d", p)
			}
		}
		return ""
	})
}

func (f *feed) until(missing func() string) {
	f.w.t.Helper()
	for lacks := missing(); lacks != ""; lacks = missing() {
		fetches := f.cl.PollFetches(f.w.ctx)
		if f.w.ctx.Err() != nil {
			f.w.t.Fatalf("waiting for %s; log %q", lacks, f.w.journal.Lines())
		}
		for _, r := range fetches.Records() {
			f.by[string(r.Key)] = append(f.by[string(r.Key)], r)
		}
	}
}

// lost and doubled compare what came with what was put.
func (f *feed) compare() (lost, doubled []string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for id := range f.w.want {
		switch n := len(f.by[id]); {
		case n == 0:
			lost = append(lost, id)
		case n > 1:
			doubled = append(doubled, id)
		}
	}
	for id := range f.by {
		if !f.w.want[id] && !strings.HasPrefix(id, "end-") {
			doubled = append(doubled, "unknown "+id)
		}
	}
	slices.Sort(lost)
	slices.Sort(doubled)
	return lost, doubled
}

// exact fails unless every final record came exactly once.
func (w *world) exact() {
	w.t.Helper()
	f := w.feed(resultTopic)
	f.drain(resultTopic)
	if lost, doubled := f.compare(); len(lost)+len(doubled) > 0 {
		w.t.Errorf("of %d results %d are lost %v and %d doubled %v; log %q",
			len(w.want), len(lost), lost, len(doubled), doubled, w.journal.Lines())
	}
}
