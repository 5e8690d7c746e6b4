package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// ids are those of the tasks of a partition, in the stream's order.
func (w *world) ids(partition int32) []string {
	w.t.Helper()
	var ids []string
	for _, m := range w.tasks() {
		at, err := wire.ParseKafkaOrigin(m.header.Get(wire.HeaderOrigin))
		if err != nil {
			w.t.Fatal(err)
		}
		if at.Partition == partition {
			ids = append(ids, at.ID())
		}
	}
	return ids
}

// The records of before an edge's first start are nothing to it.
func TestStartsAtTheEnd(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 20)
	cfg := w.config()
	cfg.StartOffset = "latest"
	e := w.start(cfg)
	w.settled()
	e.stop()
	// Those that came while it was away are not: it has begun.
	w.flow(2, 6)
	w.start(cfg)
	w.settled()
	want := []string{"commands-1-10", "commands-1-11", "commands-1-12"}
	if got := w.ids(1); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%q, want %q", got, want)
	}
}

// An answer counts for the partitions that stopped, each its own.
func TestAnswerByPartition(t *testing.T) {
	w := newWorld(t, 3)
	w.flow(3, 30)
	e := w.start(w.config())
	w.exact()
	w.committed()
	e.stop()
	w.purge(jetstream.WithPurgeSubject(ledgerSubject(0)))
	w.purge(jetstream.WithPurgeSubject(ledgerSubject(1)))
	before := len(w.tasks())

	w.flow(3, 3)
	cfg, zero := w.config(), int64(0)
	cfg.FromOffset, cfg.FromOffsets = &zero, map[int32]int64{0: 10, 1: 9}
	w.start(cfg)
	w.settled()
	var added []string
	for _, m := range w.tasks()[before:] {
		at, err := wire.ParseKafkaOrigin(m.header.Get(wire.HeaderOrigin))
		if err != nil {
			t.Fatal(err)
		}
		added = append(added, at.ID())
	}
	got := strings.Join(added, " ")
	// Partition 1 goes back: its tasks are a second generation.
	for _, id := range []string{"commands-0-10", "commands-1-9-g2", "commands-1-10-g2", "commands-2-10"} {
		if !strings.Contains(got, id) {
			t.Errorf("%q is not among %q", id, got)
		}
	}
	if len(added) != 4 {
		t.Errorf("added %q", added)
	}
}

// Each time that records are read again their tasks get other ids, even when the
// ledger is gone, which alone knew the generation.
func TestGenerationsRise(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 3)
	e := w.start(w.config())
	w.exact()
	w.committed()
	e.stop()
	for generation := 2; generation <= 4; generation++ {
		w.purge()
		zero := int64(0)
		cfg := w.config()
		cfg.FromOffset = &zero
		e := w.start(cfg)
		w.settled()
		w.noted(generation)
		e.stop()
		want := fmt.Sprintf("commands-0-0-g%[1]d commands-0-1-g%[1]d commands-0-2-g%[1]d", generation)
		if got := strings.Join(w.ids(0), " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	// An answer that reads nothing again raises nothing, and an answer left in
	// the configuration is not taken twice.
	w.purge()
	cfg, end := w.config(), int64(3)
	cfg.FromOffset = &end
	for n := int64(3); n < 6; n++ {
		w.flow(1, 1)
		e := w.start(cfg)
		w.settled()
		w.committed()
		e.stop()
	}
	if got, want := strings.Join(w.ids(0), " "), "commands-0-3-g4 commands-0-4-g4 commands-0-5-g4"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// noted waits until the group knows the generation.
func (w *world) noted(generation int) {
	w.t.Helper()
	want := fmt.Sprintf("g=%d", generation)
	w.until(func() string {
		info := w.cluster.GroupInfo("pelton-commands")
		if info == nil || info.Commits[topicName][0].Metadata != want {
			return "the group does not know " + want
		}
		return ""
	})
}

// An answer is taken wherever the ledger stops the edge, without anybody having
// to remove the ledger.
func TestAnswerToALedgerThatIsThere(t *testing.T) {
	for name, stop := range map[string]func(w *world){
		"made anew": func(w *world) {
			w.anew()
			w.plain = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
			w.flow(1, 2)
		},
		"unreadable":     func(w *world) { w.entry(0, "noon") },
		"beyond the end": func(w *world) { w.entry(0, `{"position":{"next_offset":99,"generation":1},"instance":"x","crc":1}`) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.flow(1, 2)
			e := w.start(w.config())
			w.exact()
			e.stop()
			stop(w)
			cfg, zero := w.config(), int64(0)
			mentions(t, w.stopped(w.start(cfg)), "partition 0", "--from-offset")
			cfg.FromOffset = &zero
			e = w.start(cfg)
			w.until(func() string {
				if got := strings.Join(w.ids(0), " "); got != "commands-0-0 commands-0-1 commands-0-0-g2 commands-0-1-g2" {
					return got
				}
				return ""
			})
			e.stop()
			w.start(w.config())
			w.flow(1, 1)
			w.settled()
			if got := w.ids(0); got[len(got)-1] != "commands-0-2-g2" {
				t.Errorf("ids %q", got)
			}
		})
	}
}

func TestAnswerBeyondTheEnd(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 2)
	cfg, beyond := w.config(), int64(3)
	cfg.FromOffset = &beyond
	mentions(t, w.stopped(w.start(cfg)), "it should go on at 3, but the log ends at 2")
}

// An operator sets a ledger back under the next generation while an edge runs.
func TestReplayWhileRunning(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 10)
	w.start(w.config())
	w.exact()
	w.setBack(0, 3, 2)
	w.flow(2, 2)
	w.until(func() string {
		if got := w.ids(0); len(got) != 5+3 {
			return fmt.Sprintf("ids %q", got)
		}
		return ""
	})
	want := "commands-0-0 commands-0-1 commands-0-2 commands-0-3 commands-0-4 commands-0-3-g2 commands-0-4-g2 commands-0-5-g2"
	if got := strings.Join(w.ids(0), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := len(w.ids(1)); got != 6 {
		t.Errorf("%d tasks of the other partition, want 6", got)
	}
}

// setBack writes a ledger as a tool for replays does.
func (w *world) setBack(partition int32, next int64, generation int) {
	w.t.Helper()
	l, err := ledger.New(ledger.Config{JetStream: w.js, Stream: taskStream, Subject: ledgerSubject(partition)})
	if err != nil {
		w.t.Fatal(err)
	}
	entry, err := l.Read(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	var at position
	if err := json.Unmarshal(entry.Position, &at); err != nil {
		w.t.Fatal(err)
	}
	at.Next, at.Generation = next, generation
	body, err := json.Marshal(at)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := l.Write(w.ctx, entry.Sequence, nil, body); err != nil {
		w.t.Fatal(err)
	}
}

// A queue that has lost its end in a power cut has lost the ledger's with it:
// what it lost is written again.
func TestQueueThatLostItsEnd(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 10)
	cfg := w.config()
	cfg.MaxBatch = 5
	e := w.start(cfg)
	w.exact()
	w.committed()
	e.stop()
	stream, err := w.js.Stream(w.ctx, taskStream)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := uint64(7); sequence <= 12; sequence++ {
		if err := stream.DeleteMsg(w.ctx, sequence); err != nil {
			t.Fatal(err)
		}
	}
	w.start(w.config())
	w.exact()
	if w.has("ERROR the queue has lost tasks, they are written again") != 1 {
		t.Errorf("log %q", w.journal.Lines())
	}
}

// Records that Kafka has deleted are gone; those after them are not.
func TestRecordsThatKafkaDeleted(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 4)
	e := w.start(w.config())
	w.exact()
	e.stop()
	w.flow(1, 6)
	upTo := kadm.Offsets{}
	upTo.Add(kadm.Offset{Topic: topicName, Partition: 0, At: 7})
	if _, err := kadm.NewClient(w.plain).DeleteRecords(w.ctx, upTo); err != nil {
		t.Fatal(err)
	}
	w.start(w.config())
	w.settled()
	want := "commands-0-0 commands-0-1 commands-0-2 commands-0-3 commands-0-7 commands-0-8 commands-0-9"
	if got := strings.Join(w.ids(0), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if w.has("ERROR Kafka has deleted records that were never ingested") != 1 {
		t.Errorf("log %q", w.journal.Lines())
	}
}

// An edge that is told to end in the middle of a batch finds out what became of
// it.
func TestEndsAfterTheBatch(t *testing.T) {
	w := newWorld(t, 1)
	held := &heldDialer{lost: make(chan struct{}), free: make(chan struct{})}
	batches := make(chan Batch, 10)
	cfg := w.config()
	cfg.NATS = w.conn(nats.SetCustomDialer(held))
	cfg.OnBatch = func(b Batch) { batches <- b }
	w.flow(1, 10)
	e := w.start(cfg)
	select {
	case <-held.lost:
	case <-w.ctx.Done():
		t.Fatal("no batch was written")
	}
	e.cancel()
	close(held.free)
	<-e.ended
	if e.err != nil || len(batches) != 1 {
		t.Errorf("Run: %v; %d batches are told of", e.err, len(batches))
	}
	w.exact()
}

// Nor does it wait for longer than it may.
func TestEndsWithoutTheBatch(t *testing.T) {
	w := newWorld(t, 1)
	held := &heldDialer{lost: make(chan struct{}), free: make(chan struct{})}
	cfg := w.config()
	cfg.NATS = w.conn(nats.SetCustomDialer(held))
	cfg.Grace = 50 * time.Millisecond
	w.flow(1, 10)
	e := w.start(cfg)
	<-held.lost
	e.stop()
	close(held.free)
	w.start(w.config())
	w.exact()
}

// heldDialer makes connections that end before the first answer to a batch, and
// none after that until it is free.
type heldDialer struct {
	once sync.Once
	lost chan struct{}
	free chan struct{}
}

func (d *heldDialer) Dial(network, address string) (net.Conn, error) {
	select {
	case <-d.lost:
		select {
		case <-d.free:
		default:
			return nil, errors.New("held")
		}
	default:
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(context.Background(), network, address)
	return &heldConn{conn, d}, err
}

type heldConn struct {
	net.Conn
	d *heldDialer
}

func (c *heldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !bytes.Contains(b[:n], []byte(`"batch":`)) {
		return n, err
	}
	lost := false
	c.d.once.Do(func() {
		lost = true
		close(c.d.lost)
		_ = c.Close()
	})
	if lost {
		return 0, net.ErrClosed
	}
	return n, err
}

// The time of a record is its producer's, who may have made it up.
func TestTimeOfTheRecordIsNotTrusted(t *testing.T) {
	w := newWorld(t, 1)
	soon := []kgo.RecordHeader{{Key: "pelton-eta", Value: []byte(time.Now().Add(time.Hour).Format(time.RFC3339))}}
	w.produceAll(&kgo.Record{Topic: topicName, Value: []byte(`{}`), Timestamp: time.Unix(1, 0), Headers: soon})
	w.start(w.config())
	w.exact()
	if m := w.tasks()[0]; m.subject != "pelton.task.default.print" {
		t.Errorf("%s: %v", m.subject, m.header)
	}
}

// Refusals are held against the edge only once the owner before has had time to
// learn that it is not, and only if they come together.
func TestStrikes(t *testing.T) {
	const timeout = time.Minute
	refused := &ledger.FencedError{Subject: "s", Fence: 1, Found: ledger.Entry{Sequence: 2, Instance: "other"}}
	fresh := func(since time.Duration) *partition {
		cfg := Config{Route: Route{Topic: topicName, Group: "g"}, SessionTimeout: timeout}
		return &partition{session: &session{Ingest: &Ingest{cfg: cfg}}, since: time.Now().Add(-since)}
	}
	young := fresh(timeout / 2)
	for range 10 {
		if err := young.strike(refused); err != nil {
			t.Fatalf("a partition just assigned: %v", err)
		}
	}
	old := fresh(time.Hour)
	for n := range 5 {
		old.strikes.last = old.strikes.last.Add(-11 * timeout)
		if err := old.strike(refused); err != nil {
			t.Fatalf("refusal %d, each long after the other: %v", n, err)
		}
	}
	var err error
	for range mostStrikes - 1 {
		if err = old.strike(refused); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrStopped) {
		t.Fatalf("%d refusals in a row: %v", mostStrikes, err)
	}
	mentions(t, err, "outside of the group g", `"other"`)
}
