package emit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"pelton/edges/internal/kafka"
)

// maxBuffered bounds, in bytes, the results that a session holds.
const maxBuffered = 32 << 20

// session is a shard while it is open: a Kafka client that owns the shard's
// transactional id, and a source for each queue. It is used once. After any
// error of any call it is closed, whatever the call's outcome was, and the next
// session learns from the ledger how far things came.
type session struct {
	*shard

	cl      *kgo.Client
	limits  map[string]int // of the shard, as they were at the opening
	commits int            // transactions with results or positions

	sources    []*source
	missing    []*queue // that have no bucket yet
	results    chan *result
	room       *semaphore.Weighted
	failed     chan error // from sources
	stop       context.CancelFunc
	reading    sync.WaitGroup
	reconnects uint64 // of the NATS connection at the opening
}

// open makes a session. Its order is what makes it right: the predecessor is
// fenced, then a barrier is committed and awaited, and only then are positions
// believed. Reading NATS begins last.
func (s *shard) open(take context.Context) (_ *session, err error) {
	ctx, cancel := context.WithTimeout(take, s.e.cfg.TransactionTimeout+openMargin)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	x := &session{
		shard:      s,
		limits:     maps.Clone(s.limits),
		results:    make(chan *result, s.e.cfg.MaxBatch),
		room:       semaphore.NewWeighted(maxBuffered),
		failed:     make(chan error, len(s.queues)),
		stop:       func() {},
		reconnects: s.e.cfg.NATS.Stats().Reconnects,
	}
	if x.cl, err = s.producer(x.limits); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	// Now, not at the first record: this aborts what the predecessor left open,
	// which would otherwise hide the ledger's end, and from here on it cannot
	// commit.
	if _, _, err := x.cl.ProducerID(ctx); err != nil {
		return nil, fmt.Errorf("fence %s: %w", s.e.cfg.transactionalID(s.number), err)
	}
	if err := s.e.cfg.hooks.step(stepFenced, s.number); err != nil {
		return nil, err
	}
	positions, err := x.recover(ctx)
	if err != nil {
		return nil, err
	}
	if err := x.resume(ctx, positions); err != nil {
		return nil, err
	}
	s.e.stats.openings.Add(1)
	s.log.InfoContext(ctx, "shard is open", "queues", len(x.sources), "waiting", len(x.missing))
	return x, s.e.cfg.hooks.step(stepOpened, s.number)
}

// ready looks whether topics and buckets are there, before anybody is fenced
// and a barrier is written in vain.
func (s *shard) ready(ctx context.Context) error {
	for _, topic := range s.e.cfg.topics() {
		if _, err := kafka.TopicPartitions(ctx, s.admin, topic); err != nil {
			return err
		}
	}
	found := false
	for _, q := range s.queues {
		info, err := s.info(ctx, q)
		if err != nil {
			return err
		}
		if info == nil {
			continue
		}
		found = true
		// While Kafka is away no source watches the lag.
		if q.written.Sequence < info.State.LastSeq && !q.written.At.IsZero() {
			s.watchLag(ctx, q, info.TimeStamp.Sub(q.written.At))
		}
	}
	if !found {
		return fmt.Errorf("stream %s: %w", s.queues[0].stream, jetstream.ErrStreamNotFound)
	}
	return nil
}

func (s *shard) producer(limits map[string]int) (*kgo.Client, error) {
	cfg := s.e.cfg
	return s.e.client(
		kgo.TransactionalID(cfg.transactionalID(s.number)),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(newPartitioner(cfg.LedgerTopic)),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if limit, ok := limits[topic]; ok {
				return int32(limit)
			}
			return defaultMaxRecordBytes
		}),
		// A transaction is sent when it is complete, in as few requests as
		// there are brokers.
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(cfg.MaxBatch+len(s.queues)+mostShards),
		// Small transactions are bound by this wait: the broker finishes one
		// while the next begins.
		kgo.ConcurrentTransactionsBackoff(time.Millisecond),
	)
}

// recover reads the positions that count. Only barriers committed by this
// session end the reading, so a position that a predecessor committed at the
// last moment is seen, and one that it left open is not.
func (x *session) recover(ctx context.Context) (map[string]position, error) {
	own, err := x.passBarrier(ctx, []int32{x.number})
	if err != nil {
		return nil, err
	}
	at := own[x.number]
	changed := at.shards != 0 && at.shards != x.e.cfg.Shards
	for _, q := range x.queues {
		_, known := at.positions[q.name]
		changed = changed || !known
	}
	if changed {
		err = x.lookElsewhere(ctx)
	}
	return at.positions, err
}

// passBarrier commits a barrier to partitions of the ledger and reads them up
// to it.
func (x *session) passBarrier(ctx context.Context, partitions []int32) (map[int32]*ledger, error) {
	b := barrier{Nonce: rand.Text(), Instance: x.e.cfg.Instance, Shards: x.e.cfg.Shards, At: time.Now().UTC()}
	records := make([]*kgo.Record, 0, len(partitions))
	for _, partition := range partitions {
		records = append(records, x.e.entry(partition, x.e.cfg.barrierKey(x.number), b))
	}
	if err := x.transact(ctx, records, hooks{}); err != nil {
		return nil, fmt.Errorf("barrier: %w", err)
	}
	if err := x.e.cfg.hooks.step(stepBarrier, x.number); err != nil {
		return nil, err
	}
	return x.e.readLedger(ctx, partitions, b.Nonce)
}

// lookElsewhere stops where a queue of this shard has its position in another
// partition: the number of shards was changed, and both the old and the new
// owner of the queue would emit it.
func (x *session) lookElsewhere(ctx context.Context) error {
	count, err := kafka.TopicPartitions(ctx, x.admin, x.e.cfg.LedgerTopic)
	if err != nil {
		return err
	}
	var others []int32
	for partition := range int32(count) {
		if partition != x.number {
			others = append(others, partition)
		}
	}
	if len(others) == 0 {
		return nil
	}
	ledgers, err := x.passBarrier(ctx, others)
	if err != nil {
		return err
	}
	for partition, there := range ledgers {
		for _, q := range x.queues {
			if _, ok := there.positions[q.name]; ok {
				return &StopError{
					Edge:  x.e.cfg.Name,
					Where: fmt.Sprintf("%s/%d", x.e.cfg.LedgerTopic, partition),
					What: fmt.Sprintf("the position of queue %s stands there, with shards = %d it belongs to partition %d",
						q.name, x.e.cfg.Shards, x.number),
					Do: fmt.Sprintf("set shards back; or stop every emitter, write the record %q to partition %d and a tombstone to partition %d",
						x.e.cfg.positionKey(q.name), x.number, partition),
				}
			}
		}
	}
	return nil
}

// resume checks every position against its bucket and begins to read after it.
func (x *session) resume(ctx context.Context, positions map[string]position) error {
	for _, q := range x.queues {
		if err := x.resumeQueue(ctx, q, positions[q.name]); err != nil {
			return err
		}
	}
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	x.stop = stop
	for _, src := range x.sources {
		x.reading.Go(func() {
			if err := x.readAll(reading, src); err != nil && reading.Err() == nil {
				x.failed <- fmt.Errorf("stream %s: %w", src.queue.stream, err)
			}
		})
	}
	return nil
}

func (x *session) resumeQueue(ctx context.Context, q *queue, known position) error {
	// Asked after the position was read: an answer from before could be older.
	info, err := x.info(ctx, q)
	if err != nil {
		return err
	}
	if info == nil {
		x.log.WarnContext(ctx, "queue has no bucket for its results yet", "queue", q.name, "stream", q.stream)
		x.missing = append(x.missing, q)
		return nil
	}
	if err := x.place(q, known, info); err != nil {
		return err
	}
	src, err := x.source(ctx, q)
	if err != nil {
		return err
	}
	x.sources = append(x.sources, src)
	// A consumer ends with its stream. One that was made on the stream of the
	// position can be trusted from here on.
	again, err := x.info(ctx, q)
	switch {
	case err != nil:
		return err
	case again == nil || !again.Created.Equal(info.Created):
		return errBegin
	}
	return nil
}

// place decides from where a queue is read: its position, what an operator
// named, or the bucket's first message.
func (x *session) place(q *queue, known position, info *jetstream.StreamInfo) error {
	q.lifetime = info.Config.MaxAge
	begin := position{Stream: q.stream, Created: info.Created, At: info.TimeStamp}
	if info.State.Msgs > 0 {
		begin.At = info.State.FirstTime
	}
	sequence, named := x.e.fromSequence(q.name)
	if !named {
		sequence = info.State.FirstSeq
	}
	if named || known.Stream == "" {
		begin.Sequence = max(sequence, 1) - 1
		q.read, q.written, q.first = begin, position{}, true
		return nil
	}
	q.read, q.written = known, known
	return known.check(x.e.cfg.Name, info)
}

// close ends the session and waits for its sources. An open transaction stays
// open: the next owner's fence aborts it, or the broker does in the end.
func (x *session) close() {
	x.stop()
	x.reading.Wait()
	x.cl.Close()
	if !x.e.cfg.NATS.IsConnected() {
		return // the server forgets consumers that nobody pulls from
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout) //nolint:forbidigo // outlives what ended the session
	defer cancel()
	for _, src := range x.sources {
		err := x.e.js.DeleteConsumer(ctx, src.queue.stream, src.name)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			x.log.Debug("consumer not deleted", "stream", src.queue.stream, "consumer", src.name, "err", err)
		}
	}
}
