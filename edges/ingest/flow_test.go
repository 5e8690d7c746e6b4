package ingest

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka/kafkatest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestEveryRecordBecomesOneTask(t *testing.T) {
	w := newWorld(t, 4)
	var records []*kgo.Record
	for i := range 2000 {
		r := &kgo.Record{Topic: topicName, Partition: int32(i % 4), Value: fmt.Appendf(nil, `{"n":%d}`, i)}
		if i/4%10 == 3 {
			r.Headers = []kgo.RecordHeader{
				{Key: "pelton-origin", Value: []byte("discord:1/2/3, kafka:chat/0@7")},
				{Key: "Traceparent", Value: []byte("overridden by the later one")},
				{Key: "traceparent", Value: []byte(traceParent)},
				{Key: "pelton-delay", Value: []byte("5m")},
				{Key: "pelton-reply-topic", Value: []byte("answers")},
				{Key: "PELTON-REPLY-KEY", Value: []byte("channel 7")},
				{Key: "Nats-Rollup", Value: []byte("all")},
				{Key: "pelton-run", Value: []byte("9")},
			}
		}
		records = append(records, r)
	}
	w.produceAll(records...)
	batches := make(chan Batch, 2000)
	cfg := w.config()
	cfg.OnBatch = func(b Batch) { batches <- b }
	e := w.start(cfg)
	w.exact()
	e.stop()

	next := map[int32]int64{}
	for len(batches) > 0 {
		b := <-batches
		for _, task := range b.Tasks {
			want := Task{Offset: next[b.Partition], ID: "commands-" + strconv.Itoa(int(b.Partition)) + "-" + strconv.FormatInt(next[b.Partition], 10), Task: "print"}
			if task != want || b.Queue != "default" || b.Topic != topicName {
				t.Fatalf("OnBatch is told %+v of %+v, want %+v", task, b, want)
			}
			next[b.Partition]++
		}
	}
	for p := range int32(4) {
		if next[p] != 500 {
			t.Errorf("OnBatch is told of %d records of partition %d", next[p], p)
		}
	}
	order := map[int32]int64{}
	for _, m := range w.tasks() {
		chain := m.header.Get(wire.HeaderOrigin)
		at, err := wire.ParseKafkaOrigin(wire.NearestOrigin(chain))
		if err != nil {
			t.Fatal(err)
		}
		n := at.Offset*4 + int64(at.Partition)
		if at.Offset != order[at.Partition] {
			t.Fatalf("%s comes where offset %d should", chain, order[at.Partition])
		}
		order[at.Partition]++
		if id, ok := wire.OriginID(chain); !ok || id != fmt.Sprintf("commands-%d-%d", at.Partition, at.Offset) {
			t.Errorf("id %q", id)
		}
		if m.subject != "pelton.task.default.print" || string(m.data) != fmt.Sprintf(`{"n":%d}`, n) {
			t.Errorf("%s: %s %s", chain, m.subject, m.data)
		}
		want := map[string]string{wire.HeaderOrigin: at.String(), wire.HeaderDelay: "", wire.HeaderTraceParent: "", wire.HeaderReplyTopic: "", wire.HeaderReplyKey: "", "Nats-Rollup": "", wire.HeaderRun: "", "pelton-run": ""}
		if at.Offset%10 == 3 {
			want[wire.HeaderOrigin] += ", discord:1/2/3, kafka:chat/0@7"
			want[wire.HeaderDelay], want[wire.HeaderTraceParent] = "5m", traceParent
			want[wire.HeaderReplyTopic], want[wire.HeaderReplyKey] = "answers", "channel 7"
		}
		for name, value := range want {
			if got := m.header.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", at, name, got, value)
			}
		}
	}

	// The ledger is what counts, whatever the group knows.
	if _, err := kadm.NewClient(w.plain).DeleteGroup(w.ctx, "pelton-commands"); err != nil {
		t.Fatal(err)
	}
	w.flow(4, 100)
	w.start(w.config())
	w.exact()
}

// The offsets of the group follow the ledgers, for tools that show the lag.
func TestCommitsForTools(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 50)
	w.start(w.config())
	w.exact()
	admin := kadm.NewClient(w.plain)
	w.until(func() string {
		offsets, err := admin.FetchOffsets(w.ctx, "pelton-commands")
		if err != nil {
			return err.Error()
		}
		for p, end := range w.ends {
			if at, _ := offsets.Lookup(topicName, p); at.At != end {
				return fmt.Sprintf("partition %d is committed up to %d of %d", p, at.At, end)
			}
		}
		return ""
	})
}

// Batches are bounded, and a route with a name of its own says so in its ids.
func TestBatchesAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 25)
	batches := make(chan Batch, 100)
	cfg := w.config()
	cfg.Route.Name, cfg.Route.Task, cfg.MaxBatch = "orders", "ship", 10
	cfg.OnBatch = func(b Batch) { batches <- b }
	w.start(cfg)
	for seen := 0; seen < 25; {
		select {
		case b := <-batches:
			if len(b.Tasks) > 10 || b.Tasks[0].ID != "orders-0-"+strconv.Itoa(seen) {
				t.Errorf("batch of %d from %s", len(b.Tasks), b.Tasks[0].ID)
			}
			seen += len(b.Tasks)
		case <-w.ctx.Done():
			t.Fatalf("%d of 25", seen)
		}
	}
	for _, m := range w.tasks() {
		if id, ok := wire.OriginID(m.header.Get(wire.HeaderOrigin)); !ok || id[:7] != "orders-" || m.subject != "pelton.task.default.ship" {
			t.Errorf("%s %s", m.subject, id)
		}
	}
}

// A full queue holds up its partitions, and neither the group nor a record.
func TestFullQueueRests(t *testing.T) {
	const room = 60 // less than one batch of what waits
	w := newWorld(t, 2, topology.Queue{Name: "default", MaxPending: room})
	w.flow(2, 500)
	w.start(w.config())
	if err := w.journal.Wait(w.ctx, "WARN the queue takes no tasks, the partition waits"); err != nil {
		t.Fatal(err)
	}
	before, err := w.cluster.WaitGroupStable(w.ctx, "pelton-commands", 1)
	if err != nil {
		t.Fatal(err)
	}
	w.until(func() string {
		w.take(30)
		if len(w.taken) < 500 {
			return fmt.Sprintf("%d tasks taken", len(w.taken))
		}
		return ""
	})
	w.exact()
	after, err := w.cluster.WaitGroupStable(w.ctx, "pelton-commands", 1)
	if err != nil {
		t.Fatal(err)
	}
	if before.Epoch != after.Epoch {
		t.Errorf("the group went from generation %d to %d", before.Epoch, after.Epoch)
	}
	w.flow(2, 20)
	w.exact()
}

// A partition that rests goes to another edge and comes back: it must not rest
// for ever.
func TestRestingPartitionReturns(t *testing.T) {
	w := newWorld(t, 2, topology.Queue{Name: "default", MaxPending: 10})
	w.flow(2, 40)
	w.start(w.config())
	other := w.config()
	var journal kafkatest.Journal
	other.Logger = journal.Logger()
	w.until(func() string {
		if n := w.has("WARN the queue takes no tasks, the partition waits"); n < 2 {
			return fmt.Sprintf("%d partitions rest", n)
		}
		return ""
	})
	second := w.start(other)
	if err := journal.Wait(w.ctx, "WARN the queue takes no tasks, the partition waits"); err != nil {
		t.Fatal(err)
	}
	second.stop()
	w.until(func() string {
		w.take(10)
		if len(w.taken) < 40 {
			return fmt.Sprintf("%d tasks taken", len(w.taken))
		}
		return ""
	})
	w.exact()
}

// Members come and go while records flow.
func TestRebalancesLoseAndDoubleNothing(t *testing.T) {
	w := newWorld(t, 6)
	stop, flowing := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flowing)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				w.flow(6, 12)
			}
		}
	}()
	w.start(w.config())
	for round := range 6 {
		second := w.start(w.config())
		if _, err := w.cluster.WaitGroupStable(w.ctx, "pelton-commands", 2); err != nil {
			t.Fatalf("round %d: %v; log %q", round, err, w.journal.Lines())
		}
		if round%2 == 0 {
			third := w.start(w.config())
			if _, err := w.cluster.WaitGroupStable(w.ctx, "pelton-commands", 3); err != nil {
				t.Fatal(err)
			}
			third.stop()
		}
		second.stop()
	}
	close(stop)
	<-flowing
	w.exact()
	total := int64(0)
	for _, end := range w.ends {
		total += end
	}
	t.Logf("%d records", total)
}
