package ingest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka/kafkatest"
	"pelton/engine/wire"
)

// lines connects an edge to both brokers by lines of its own.
func (w *world) lines(cfg Config) (Config, *kafkatest.Link, natsLink) {
	w.t.Helper()
	var d net.Dialer
	link, line := kafkatest.NewLink(d.DialContext), newNATSLink()
	cfg.Kafka.Dial = link.Dial
	cfg.NATS = w.conn(nats.SetCustomDialer(line))
	return cfg, link, line
}

// A zombie holds a batch while another takes its partitions over. When it
// comes back, what it holds is refused.
func TestZombieIsRefused(t *testing.T) {
	w := newWorld(t, 2)
	cfg, link, line := w.lines(w.config())
	cfg.SessionTimeout = 4 * time.Second // it must not be lost before the link is cut
	w.start(cfg)
	w.flow(2, 20)
	w.exact()

	held := w.fetched(2, 30)
	line.Cut()
	w.flow(2, 40)
	select {
	case <-held:
	case <-w.ctx.Done():
		t.Fatal("nothing is fetched")
	}
	link.Cut()
	heir := w.start(w.config())
	w.settled()
	line.Restore()
	if err := w.journal.Wait(w.ctx, "WARN fenced, waiting for the group"); err != nil {
		t.Fatal(err)
	}
	w.exact()

	// It takes part again.
	link.Restore()
	if _, err := w.cluster.WaitGroupStable(w.ctx, "pelton-commands", 2); err != nil {
		t.Fatal(err)
	}
	heir.stop()
	w.flow(2, 20)
	w.exact()
}

// fetched is closed when a client asks for offset next in this many partitions:
// then it has what comes before in hand.
func (w *world) fetched(partitions int, next int64) <-chan struct{} {
	done, seen := make(chan struct{}), map[int32]bool{}
	w.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		for _, topic := range req.(*kmsg.FetchRequest).Topics {
			for _, p := range topic.Partitions {
				if p.FetchOffset == next {
					seen[p.Partition] = true
				}
			}
		}
		if len(seen) == partitions {
			close(done)
			w.cluster.DropControl()
		}
		return nil, nil, false
	})
	return done
}

// The line to the queue is cut again and again, in the middle of batches.
func TestLineToTheQueueFails(t *testing.T) {
	w := newWorld(t, 3)
	cfg, _, line := w.lines(w.config())
	cfg.MaxBatch = 20
	w.start(cfg)
	for range 15 {
		w.flow(3, 300)
		line.Cut()
		line.Restore()
		w.flow(3, 30)
	}
	w.exact()
}

// Answers are lost, and only they.
func TestAnswersAreLost(t *testing.T) {
	w := newWorld(t, 2)
	deaf := &deafDialer{}
	cfg := w.config()
	cfg.NATS = w.conn(nats.SetCustomDialer(deaf))
	cfg.MaxBatch = 50
	w.start(cfg)
	for range 8 {
		w.flow(2, 200)
		deaf.arm()
	}
	w.exact()
	if deaf.lost() == 0 {
		t.Error("no answer was lost")
	}
}

// deafDialer makes connections that end, when armed, instead of handing on the
// next answer to a batch.
type deafDialer struct {
	mu    sync.Mutex
	armed bool
	count int
}

func (d *deafDialer) arm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = true
}

func (d *deafDialer) lost() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

func (d *deafDialer) Dial(network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(context.Background(), network, address)
	return deafConn{conn, d}, err
}

type deafConn struct {
	net.Conn
	d *deafDialer
}

func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.d.armed && bytes.Contains(b[:n], []byte(`"batch":`)) {
		c.d.armed = false
		c.d.count++
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// A queue that is away for longer than a batch may hold off a rebalance.
func TestQueueAwayForLong(t *testing.T) {
	w := newWorld(t, 2)
	cfg, _, line := w.lines(w.config())
	cfg.RebalanceTimeout = 400 * time.Millisecond
	w.start(cfg)
	w.flow(2, 20)
	w.exact()
	line.Cut()
	w.flow(2, 20)
	if err := w.journal.Wait(w.ctx, "WARN the queue takes no tasks, the partition waits"); err != nil {
		t.Fatal(err)
	}
	w.flow(2, 20)
	line.Restore()
	w.exact()
	if n := w.has("INFO ingest started"); n != 1 {
		t.Errorf("started %d times", n)
	}
}

// A broker that does not know at the moment where a log ends says nothing about
// the ledger.
func TestLogEndUnknownForAMoment(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 20)
	e := w.start(w.config())
	w.exact()
	e.stop()
	for _, known := range []*kerr.Error{kerr.OffsetNotAvailable, kerr.NotLeaderForPartition, kerr.UnknownServerError} {
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: known, Count: 3})
		w.flow(2, 20)
		e := w.start(w.config())
		w.exact()
		e.stop()
	}
}

// A log that goes back is another log, though it has the same name.
func TestLogGoesBack(t *testing.T) {
	p := partition{session: &session{Ingest: &Ingest{cfg: Config{Route: Route{Topic: topicName}}}}, number: 1, read: 5}
	if err := p.take([]*kgo.Record{{Offset: 5}, {Offset: 8}}); err != nil {
		t.Fatal(err)
	}
	err := p.take([]*kgo.Record{{Offset: 8}})
	if !errors.Is(err, ErrStopped) || len(p.inHand) != 2 {
		t.Fatalf("%v; %d in hand", err, len(p.inHand))
	}
	mentions(t, err, "the log went back from 9 to 8", "partition 1")
}

func TestQueueBrokerRestarts(t *testing.T) {
	w := newWorld(t, 3)
	w.start(w.config())
	for range 4 {
		w.flow(3, 300)
		w.settled() // a server that ends in the middle of a batch leaks the batch's store
		w.nats.Stop()
		w.flow(3, 30)
		if err := w.nats.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	w.exact()
}

func TestLineToKafkaFails(t *testing.T) {
	w := newWorld(t, 3)
	cfg, link, _ := w.lines(w.config())
	cfg.SessionTimeout = 300 * time.Millisecond
	w.start(cfg)
	for round := range 10 {
		w.flow(3, 100)
		link.Cut()
		if round%3 == 0 { // long enough to lose the partitions
			if _, err := w.cluster.WaitGroupInfo(w.ctx, "pelton-commands", func(g *kfake.GroupInfo) bool { return g == nil || len(g.Members) == 0 }); err != nil {
				t.Fatal(err)
			}
		}
		w.flow(3, 10)
		link.Restore()
	}
	w.exact()
}

func TestKafkaRestarts(t *testing.T) {
	data := t.TempDir()
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.DataDir(data), kfake.SyncWrites(), kfake.GroupMinSessionTimeout(100 * time.Millisecond), kfake.SeedTopics(2, topicName)}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cluster.Close() }()
	w := newWorldOn(t, cluster)
	_, port, err := net.SplitHostPort(cluster.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	e := w.start(w.config())
	for range 3 {
		w.flow(2, 100)
		cluster.Close()
		if cluster, err = kfake.NewCluster(append(opts, kfake.Ports(number))...); err != nil {
			t.Fatal(err)
		}
	}
	w.flow(2, 100)
	w.exact()
	e.stop()
}

// A record that nobody can read goes to the dead letters in its turn.
func TestBadRecords(t *testing.T) {
	const limit = 512 << 10
	deep := bytes.Repeat([]byte("["), 100_000)
	large := bytes.Repeat([]byte("x"), 2<<20)
	fits := append(append([]byte(`"`), bytes.Repeat([]byte("y"), limit-2)...), '"')
	ok := []byte(`{}`)
	for _, tt := range []struct {
		name    string
		value   []byte
		headers []string
		why     string // in the reason; empty for a good one
		body    []byte
	}{
		{name: "good", value: ok, body: ok},
		{name: "not JSON", value: []byte("hello"), why: "not JSON", body: []byte("hello")},
		{name: "empty", value: []byte{}, why: "empty"},
		{name: "nil", why: "empty"},
		{name: "large", value: large, why: "2097152 bytes, must be at most 524288 bytes; the first 4096 bytes are kept", body: large[:4096]},
		{name: "largest", value: fits, body: fits},
		{name: "deep", value: deep, why: "100000 levels deep", body: deep},
		{name: "trailing", value: []byte(`{} {}`), why: "not JSON", body: []byte(`{} {}`)},
		{name: "not UTF-8", value: []byte("\"\xff\""), why: "not UTF-8", body: []byte("\"\xff\"")},
		{name: "delay", value: ok, headers: []string{"pelton-delay", "soon"}, why: `Pelton-Delay "soon"`, body: ok},
		{name: "negative delay", value: ok, headers: []string{"pelton-delay", "-1s"}, why: `Pelton-Delay "-1s"`, body: ok},
		{name: "newline", value: ok, headers: []string{"pelton-reply-key", "a\r\nNats-Rollup: all"}, why: "Pelton-Reply-Key", body: ok},
		{name: "origin", value: ok, headers: []string{"pelton-origin", "x\ny"}, why: "Pelton-Origin", body: ok},
		{name: "long origin", value: ok, headers: []string{"pelton-origin", "kafka:" + strings.Repeat("x", 2000)}, why: "Pelton-Origin", body: ok},
		{name: "long key", value: ok, headers: []string{"pelton-reply-key", strings.Repeat("k", 1<<20)}, why: "Pelton-Reply-Key", body: ok},
		{name: "topic", value: ok, headers: []string{"pelton-reply-topic", "a b"}, why: "topic", body: ok},
		{name: "NUL", value: ok, headers: []string{"pelton-reply-key", "a\x00b"}, body: ok},
		{name: "full headers", value: fits, headers: []string{
			"pelton-reply-key", strings.Repeat("k", 4096), "traceparent", strings.Repeat("p", 2700),
			"tracestate", strings.Repeat("s", 2700), "baggage", strings.Repeat("b", 2700),
		}, body: fits},
		{name: "too many headers", value: ok, headers: []string{
			"traceparent", strings.Repeat("p", 4096), "tracestate", strings.Repeat("s", 4096), "baggage", strings.Repeat("b", 4096),
		}, why: "headers", body: ok},
		{name: "good after all", value: ok, body: ok},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.plain = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(8<<20))
			batches := make(chan Batch, 10)
			cfg := w.config()
			cfg.OnBatch = func(b Batch) { batches <- b }
			w.produce(0, ok)
			w.produce(0, tt.value, tt.headers...)
			w.produce(0, ok)
			e := w.start(cfg)
			w.exact()
			e.stop()
			tasks := w.tasks()
			m := tasks[1]
			subject, reason := "pelton.task.default.print", ""
			if tt.why != "" {
				subject, reason = "pelton.task.default."+wire.TaskDead, wire.FailureBadInput
			}
			if m.subject != subject || m.header.Get(wire.HeaderErrorType) != reason || !strings.Contains(m.header.Get(wire.HeaderError), tt.why) {
				t.Errorf("%s: %s %q", m.subject, m.header.Get(wire.HeaderErrorType), m.header.Get(wire.HeaderError))
			}
			if !bytes.Equal(m.data, tt.body) {
				t.Errorf("body of %d bytes, want %d", len(m.data), len(tt.body))
			}
			if m.header.Get("Nats-Rollup") != "" {
				t.Error("a header was smuggled in")
			}
			if at := m.header.Get(wire.HeaderOrigin); wire.NearestOrigin(at) != "kafka:commands/0@1" {
				t.Errorf("origin %s", at)
			}
			for _, i := range []int{0, 2} {
				if tasks[i].subject != "pelton.task.default.print" {
					t.Errorf("task %d: %s", i, tasks[i].subject)
				}
			}
			var seen []Task
			for len(batches) > 0 {
				seen = append(seen, (<-batches).Tasks...)
			}
			want := Task{Offset: 1, ID: "commands-0-1", Task: subject[len("pelton.task.default."):], Dead: tt.why != ""}
			if len(seen) != 3 || seen[1] != want {
				t.Errorf("OnBatch is told %+v", seen)
			}
		})
	}
}

// A body that the limits allow and the broker does not is a bad record too.
func TestBodyTooLargeForTheBroker(t *testing.T) {
	w := newWorld(t, 1)
	w.plain = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(8<<20))
	w.produce(0, append(append([]byte(`"`), bytes.Repeat([]byte("y"), 1<<20)...), '"'))
	w.flow(1, 3)
	cfg := w.config()
	cfg.Limits = wire.Limits{Bytes: 4 << 20, Depth: 32, Keys: 100}
	w.start(cfg)
	w.exact()
	if m := w.tasks()[0]; m.subject != "pelton.task.default.pelton-dead" || len(m.data) != 4096 {
		t.Errorf("%s of %d bytes", m.subject, len(m.data))
	}
}

// The control: without the ledger the same crash doubles. If it did not, the
// other tests would see nothing either.
func TestControlWithoutLedger(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 50)
	pipe := func(killed bool) {
		cl := w.client(kgo.ConsumerGroup("naive"), kgo.ConsumeTopics(topicName), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		defer cl.Close()
		for published := 0; published < 50; {
			for _, r := range cl.PollFetches(w.ctx).Records() {
				m := &nats.Msg{Subject: "pelton.task.default.print", Data: r.Value, Header: nats.Header{}}
				m.Header.Set(wire.HeaderOrigin, wire.KafkaOrigin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}.String())
				if _, err := w.js.PublishMsg(w.ctx, m); err != nil {
					t.Fatal(err)
				}
				published++
			}
			if w.ctx.Err() != nil {
				t.Fatal(w.ctx.Err())
			}
		}
		if !killed {
			if err := cl.CommitUncommittedOffsets(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	pipe(true)
	pipe(false)
	doubled := 0
	for _, n := range w.count() {
		if n == 2 {
			doubled++
		}
	}
	if doubled != 50 {
		t.Errorf("without the ledger %d of 50 are doubled", doubled)
	}
}
