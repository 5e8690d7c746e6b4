package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
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
	"pelton/engine/topology"
	"pelton/engine/wire"
)

const (
	topicName  = "commands"
	taskStream = "PELTON_TASKS_default"
)

// world is both brokers, and what the test has put in.
type world struct {
	t       *testing.T
	ctx     context.Context
	cluster *kfake.Cluster
	nats    *enginetest.Broker
	nc      *nats.Conn
	js      jetstream.JetStream
	journal kafkatest.Journal
	plain   *kgo.Client

	mu   sync.Mutex
	ends map[int32]int64 // where the log of each partition ends

	taken []jetstream.Msg // tasks that workers have taken
}

func newWorld(t *testing.T, partitions int32, queue ...topology.Queue) *world {
	t.Helper()
	return newWorldOn(t, kafkatest.Start(t, kfake.GroupMinSessionTimeout(100*time.Millisecond), kfake.SeedTopics(partitions, topicName)), queue...)
}

func newWorldOn(t *testing.T, cluster *kfake.Cluster, queue ...topology.Queue) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, cluster: cluster, nats: enginetest.Start(t), ends: map[int32]int64{}}
	if len(queue) == 0 {
		queue = []topology.Queue{{Name: "default"}}
	}
	w.nats.SetupWith(topology.Config{Queues: queue})
	w.nc = w.conn()
	js, err := jetstream.New(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	w.js = js
	w.plain = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	return w
}

func (w *world) conn(opts ...nats.Option) *nats.Conn {
	w.t.Helper()
	return w.nats.Conn(append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
}

func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kafka.New(kafka.Config{Brokers: w.cluster.ListenAddrs()}, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// natsLink is a line to the broker of tasks that can be cut.
type natsLink struct{ *kafkatest.Link }

func newNATSLink() natsLink {
	var d net.Dialer
	return natsLink{kafkatest.NewLink(d.DialContext)}
}

func (l natsLink) Dial(network, address string) (net.Conn, error) {
	return l.Link.Dial(context.Background(), network, address)
}

// config has a session that a machine in a hurry does not lose. Tests in which
// an edge falls silent have a shorter one.
func (w *world) config() Config {
	return Config{
		Kafka:             kafka.Config{Brokers: w.cluster.ListenAddrs()},
		NATS:              w.nc,
		Route:             Route{Topic: topicName},
		Logger:            w.journal.Logger(),
		SessionTimeout:    10 * time.Second,
		HeartbeatInterval: 50 * time.Millisecond,
	}
}

// edge is one that runs.
type edge struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func (w *world) start(cfg Config) *edge {
	w.t.Helper()
	in, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	e := &edge{t: w.t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(e.ended)
		e.err = in.Run(ctx)
	}()
	w.t.Cleanup(func() { cancel(); <-e.ended })
	return e
}

// stop ends an edge that should end without an error.
func (e *edge) stop() {
	e.t.Helper()
	e.cancel()
	<-e.ended
	if e.err != nil {
		e.t.Fatalf("Run: %v", e.err)
	}
}

// stopped waits for an edge to stop by itself, for safety.
func (w *world) stopped(e *edge) *StopError {
	w.t.Helper()
	select {
	case <-e.ended:
	case <-w.ctx.Done():
		w.t.Fatalf("the edge goes on; log %q", w.journal.Lines())
	}
	stop, ok := errors.AsType[*StopError](e.err)
	if !ok || !errors.Is(e.err, ErrStopped) {
		w.t.Fatalf("Run: %v, want a StopError", e.err)
	}
	return stop
}

// produce appends a record.
func (w *world) produce(partition int32, value []byte, headers ...string) {
	w.t.Helper()
	r := &kgo.Record{Topic: topicName, Partition: partition, Value: value}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	w.produceAll(r)
}

// flow appends n records, spread over the partitions.
func (w *world) flow(partitions int32, n int) {
	w.t.Helper()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: topicName, Partition: int32(i) % partitions, Value: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	w.produceAll(records...)
}

func (w *world) produceAll(records ...*kgo.Record) {
	w.t.Helper()
	if err := w.plain.ProduceSync(w.ctx, records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range records {
		w.ends[r.Partition] = max(w.ends[r.Partition], r.Offset+1)
	}
}

// until asks again and again for what is lacking.
func (w *world) until(lacking func() string) {
	w.t.Helper()
	for why := lacking(); why != ""; why = lacking() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.ctx.Done():
			w.t.Fatalf("waiting: %s; log %q", why, w.journal.Lines())
		}
	}
}

func ledgerSubject(partition int32) string {
	return "pelton.ledger.default.commands.commands." + strconv.Itoa(int(partition))
}

// ledger is where a partition goes on, -1 without a ledger.
func (w *world) ledger(partition int32) (next int64, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	stream, err := w.js.Stream(ctx, taskStream)
	if err != nil {
		return 0, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, ledgerSubject(partition))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	var body struct {
		Position position `json:"position"`
	}
	err = json.Unmarshal(m.Data, &body)
	return body.Position.Next, err
}

// settled waits until all that was produced is in the ledgers.
func (w *world) settled() {
	w.t.Helper()
	w.until(func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		for p, end := range w.ends {
			if next, err := w.ledger(p); err != nil || next < end {
				return fmt.Sprintf("the ledger of partition %d says %d, its log ends at %d, %v", p, next, end, err)
			}
		}
		return ""
	})
}

// stored is a task as it stands in the stream.
type stored struct {
	subject string
	header  nats.Header
	data    []byte
}

// tasks reads the stream from its beginning to its end.
func (w *world) tasks() []stored {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, taskStream)
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := stream.Info(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []stored
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(w.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(m.Subject, "pelton.task.") {
			all = append(all, stored{m.Subject, m.Header, m.Data})
		}
	}
	return all
}

// take is a worker that takes up to n tasks out of the queue, and the ledgers
// but the newest with them.
func (w *world) take(n int) {
	w.t.Helper()
	consumer, err := w.js.Consumer(w.ctx, taskStream, wire.WorkersDurable)
	if err != nil {
		w.t.Fatal(err)
	}
	batch, err := consumer.FetchNoWait(n)
	if err != nil {
		w.t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(w.ctx); err != nil {
			w.t.Fatal(err)
		}
		w.taken = append(w.taken, m)
	}
	stream, err := w.js.Stream(w.ctx, taskStream)
	if err != nil {
		w.t.Fatal(err)
	}
	for p := range w.ends {
		if err := stream.Purge(w.ctx, jetstream.WithPurgeSubject(ledgerSubject(p)), jetstream.WithPurgeKeep(1)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// count tells how often each origin became a task.
func (w *world) count() map[string]int {
	w.t.Helper()
	times := map[string]int{}
	for _, m := range w.taken {
		times[wire.NearestOrigin(m.Headers().Get(wire.HeaderOrigin))]++
	}
	for _, m := range w.tasks() {
		times[wire.NearestOrigin(m.header.Get(wire.HeaderOrigin))]++
	}
	return times
}

// exact fails unless every record became exactly one task.
func (w *world) exact() {
	w.t.Helper()
	w.settled()
	times := w.count()
	var lost, doubled []string
	want := 0
	for p, end := range w.ends {
		want += int(end)
		for offset := range end {
			origin := wire.KafkaOrigin{Topic: topicName, Partition: p, Offset: offset}.String()
			switch n := times[origin]; {
			case n == 0:
				lost = append(lost, origin)
			case n > 1:
				doubled = append(doubled, origin)
			}
			delete(times, origin)
		}
	}
	if len(lost)+len(doubled)+len(times) > 0 {
		slices.Sort(lost)
		slices.Sort(doubled)
		w.t.Fatalf("of %d records %d are lost %.5q and %d doubled %.5q, and of others there are %v; log %q",
			want, len(lost), lost, len(doubled), doubled, times, w.journal.Lines())
	}
}

// has reports how often a line was logged.
func (w *world) has(line string) (n int) {
	for _, l := range w.journal.Lines() {
		if l == line {
			n++
		}
	}
	return n
}
