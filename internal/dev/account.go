package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine"
	"pelton/engine/wire"
)

var errTopicExists = kerr.TopicAlreadyExists

// account is where the topics ended when a run began: what comes after is the
// run's own.
type account struct {
	commands, results map[int32]int64
}

// openAccount notes the ends of both topics.
func openAccount(ctx context.Context, brokers []string) (account, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return account{}, fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	commands, err := ends(ctx, cl, commandsTopic)
	if err != nil {
		return account{}, err
	}
	results, err := ends(ctx, cl, resultsTopic)
	return account{commands, results}, err
}

func ends(ctx context.Context, cl *kgo.Client, topic string) (map[int32]int64, error) {
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("kafka topic %s: %w", topic, err)
	}
	offsets := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { offsets[o.Partition] = o.Offset })
	return offsets, nil
}

// total is what became of the records that a run produced.
type total struct {
	produced int // records in the commands topic
	ingested int // of these, those with a task: waiting, recorded, or dead
	finished int // of these, those with a terminal record
	failed   int // of these, those that failed
	emitted  int // of these, those with a record in the results topic
	doubled  int // records in the results topic beyond the first of a task
}

func (t total) even() bool {
	return t.produced > 0 && t == total{produced: t.produced, ingested: t.produced, finished: t.produced, emitted: t.produced}
}

// String has the form `produced 10 = ingested 10 = finished 10 = emitted 10`.
func (t total) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "produced %d", t.produced)
	for _, step := range []struct {
		name string
		n    int
	}{{"ingested", t.ingested}, {"finished", t.finished}, {"emitted", t.emitted}} {
		sign := "="
		if step.n != t.produced {
			sign = "≠"
		}
		fmt.Fprintf(&b, " %s %s %d", sign, step.name, step.n)
	}
	fmt.Fprintf(&b, ", %d failed, %d doubled", t.failed, t.doubled)
	return b.String()
}

// count reads what was produced and follows each record: its task in the queue
// or in the records, its result in the results topic.
func (a account) count(ctx context.Context, brokers []string, nc *nats.Conn) (total, error) {
	var t total
	commands, err := readTopic(ctx, brokers, commandsTopic, a.commands)
	if err != nil {
		return t, err
	}
	results, err := readTopic(ctx, brokers, resultsTopic, a.results)
	if err != nil {
		return t, err
	}
	c, err := engine.NewClient(nc)
	if err != nil {
		return t, err
	}
	out := map[string]int{}
	for _, r := range results {
		var record struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(r.Value, &record); err != nil {
			return t, fmt.Errorf("kafka topic %s, partition %d, offset %d: %w", resultsTopic, r.Partition, r.Offset, err)
		}
		out[record.ID]++
	}
	t.produced = len(commands)
	for _, r := range commands {
		id := wire.KafkaOrigin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}.ID()
		if err := t.follow(ctx, c, id); err != nil {
			return t, err
		}
		if n := out[id]; n > 0 {
			t.emitted++
			t.doubled += n - 1
		}
	}
	return t, nil
}

// follow adds one task by its record.
func (t *total) follow(ctx context.Context, c *engine.Client, id string) error {
	r, err := c.Lookup(ctx, queue, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	t.ingested++
	if r.State.Terminal() {
		t.finished++
	}
	if r.State == wire.StateFailed {
		t.failed++
	}
	return nil
}

// readTopic reads a topic, read committed, from some offsets to where it ends
// now.
func readTopic(ctx context.Context, brokers []string, topic string, from map[int32]int64) ([]*kgo.Record, error) {
	start := map[int32]kgo.Offset{}
	for p, offset := range from {
		start[p] = kgo.NewOffset().At(offset)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}))
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	open, err := ends(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	for p, end := range open {
		if from[p] >= end {
			delete(open, p)
		}
	}
	var records []*kgo.Record
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("kafka topic %s: %w", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, ok := open[r.Partition]
			if !ok || r.Offset >= end {
				return
			}
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
			if r.Offset == end-1 {
				delete(open, r.Partition)
			}
		})
	}
	return records, nil
}
