package emit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
)

// position says how far a queue's results are emitted: the value of the record
// `<name>/<queue>` in the shard's partition of the ledger topic.
type position struct {
	Stream   string    `json:"stream"`
	Created  time.Time `json:"created"` // of the stream: another one counts anew
	Sequence uint64    `json:"sequence"`
	// At is a time of the NATS server: every result stored before it stands at
	// or below Sequence.
	At time.Time `json:"at"`
}

// barrier is what an emitter commits after it has fenced its predecessor, to
// see it come back: the value of the record `<name>/barrier/<shard>`.
type barrier struct {
	Nonce    string    `json:"nonce"`
	Instance string    `json:"instance"`
	Shards   int       `json:"shards"`
	At       time.Time `json:"at"`
}

func (c Config) positionKey(queue string) string { return c.Name + "/" + queue }

func (c Config) barrierKey(shard int32) string {
	return c.Name + "/barrier/" + strconv.Itoa(int(shard))
}

// ledger is what one edge has in one partition of the ledger topic.
type ledger struct {
	positions map[string]position // by queue
	shards    int                 // as the barrier before the reader's own has it; 0 without one
}

// LedgerTopicSpec describes the ledger topic: compacted, a partition for each
// shard. Defaults are filled in.
func LedgerTopicSpec(cfg Config) kafka.TopicSpec {
	cfg = cfg.withDefaults()
	return kafka.TopicSpec{
		Name:       cfg.LedgerTopic,
		Partitions: int32(min(cfg.Shards, mostShards)),
		Configs: map[string]string{
			"cleanup.policy": "compact",
			// Openings read the partition from its start. Only closed
			// segments are compacted, so small ones keep it short.
			"segment.bytes":             "1048576",
			"min.cleanable.dirty.ratio": "0.1",
		},
	}
}

// EnsureLedger makes the ledger topic of cfg or verifies the one there is.
// Edges may share one: more partitions than shards are as good. It tells
// whether it made the topic. It is for setup; emitters only use what is there.
func EnsureLedger(ctx context.Context, cfg Config) (created bool, err error) {
	cl, err := kafka.New(cfg.Kafka)
	if err != nil {
		return false, err
	}
	defer cl.Close()
	spec := LedgerTopicSpec(cfg)
	have, err := kafka.TopicPartitions(ctx, cl, spec.Name)
	if err != nil && !errors.Is(err, kafka.ErrNoTopic) {
		return false, err
	}
	spec.Partitions = max(spec.Partitions, int32(have))
	return kafka.EnsureTopic(ctx, cl, spec)
}

// awaitLedger waits until the ledger topic is there. One that has too few
// partitions does not become right by waiting.
func (e *Emit) awaitLedger(ctx context.Context, admin *kgo.Client) error {
	for failures := 1; ; failures++ {
		partitions, err := kafka.TopicPartitions(ctx, admin, e.cfg.LedgerTopic)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && partitions < e.cfg.Shards:
			return fmt.Errorf("ledger %w: topic %q has %d partitions, %d shards need as many",
				kafka.ErrTopicDiffers, e.cfg.LedgerTopic, partitions, e.cfg.Shards)
		case err == nil:
			return nil
		case kafka.Classify(err) == kafka.Auth:
			return err
		case failures == 1:
			e.log.WarnContext(ctx, "ledger topic cannot be used, waiting for it", "topic", e.cfg.LedgerTopic, "err", err)
		}
		pause(ctx, backoff(failures))
	}
}

// readLedger reads partitions of the ledger, committed records only, each from
// its start to the barrier with this nonce. What stands before that is final:
// nobody who could have added to it is left.
func (e *Emit) readLedger(ctx context.Context, partitions []int32, nonce string) (map[int32]*ledger, error) {
	offsets := make(map[int32]kgo.Offset, len(partitions))
	latest := make(map[int32]map[string]*kgo.Record, len(partitions))
	for _, partition := range partitions {
		offsets[partition] = kgo.NewOffset().AtStart()
		latest[partition] = map[string]*kgo.Record{}
	}
	cl, err := e.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{e.cfg.LedgerTopic: offsets}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()

	open := slices.Clone(partitions)
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("ledger %s/%v: barrier not seen: %w", e.cfg.LedgerTopic, open, err)
		}
		for _, failed := range fetches.Errors() {
			return nil, fmt.Errorf("ledger %s/%d: %w", failed.Topic, failed.Partition, failed.Err)
		}
		for _, r := range fetches.Records() {
			key, ours := strings.CutPrefix(string(r.Key), e.cfg.Name+"/") // other edges may write here too
			switch {
			case !ours || !slices.Contains(open, r.Partition):
			case bytes.Contains(r.Value, []byte(nonce)):
				open = slices.DeleteFunc(open, func(p int32) bool { return p == r.Partition })
			default:
				latest[r.Partition][key] = r
			}
		}
	}
	ledgers := make(map[int32]*ledger, len(partitions))
	for partition, entries := range latest {
		if ledgers[partition], err = e.readEntries(partition, entries); err != nil {
			return nil, err
		}
	}
	return ledgers, nil
}

// readEntries reads the latest record of each key.
func (e *Emit) readEntries(partition int32, entries map[string]*kgo.Record) (*ledger, error) {
	l := &ledger{positions: map[string]position{}}
	own := strings.TrimPrefix(e.cfg.barrierKey(partition), e.cfg.Name+"/")
	for key, r := range entries {
		var (
			b   barrier
			p   position
			err error
		)
		switch {
		case len(r.Value) == 0: // an operator's tombstone: the queue begins anew
		case key == own:
			err = json.Unmarshal(r.Value, &b)
			l.shards = b.Shards
		case strings.Contains(key, "/"): // the barrier of another shard
		default:
			if err = json.Unmarshal(r.Value, &p); err == nil && p.Stream == "" {
				err = errors.New("names no stream")
			}
			l.positions[key] = p
		}
		if err != nil {
			return nil, e.unreadable(r, err)
		}
	}
	return l, nil
}

func (e *Emit) unreadable(r *kgo.Record, err error) error {
	return &StopError{
		Edge:  e.cfg.Name,
		Where: fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset),
		What:  fmt.Sprintf("the ledger record %q cannot be read (%v)", r.Key, err),
		Do:    "find out who else writes to the ledger topic, and write the key anew",
	}
}

// entry is a record for the ledger.
func (e *Emit) entry(partition int32, key string, value any) *kgo.Record {
	b, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("ledger entry %s: %v", key, err)) // neither type can fail
	}
	return &kgo.Record{Topic: e.cfg.LedgerTopic, Partition: partition, Key: []byte(key), Value: b}
}
