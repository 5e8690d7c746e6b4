package emit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// refreshesPerLife is how often, in a result's lifetime, the position of a queue
// is written anew though nothing was emitted: else a quiet time and a long
// absence would look alike.
const refreshesPerLife = 4

// run emits until take is done or something fails. A transaction that has begun
// is ended first, unless work is done as well.
func (x *session) run(take, work context.Context) error {
	// The first position of a queue is written before its first result, so that
	// a bucket made anew or expired unseen is noticed from the start.
	if err := x.refresh(work); err != nil {
		return err
	}
	check := time.NewTicker(x.e.cfg.CheckInterval)
	defer check.Stop()
	turns := x.e.vitals.loops.Loop(fmt.Sprintf("shard %d", x.number), x.e.cfg.stallAfter())
	defer turns.End()
	for {
		turns.Turn()
		select {
		case <-take.Done():
			return nil
		case err := <-x.failed:
			return err
		case first := <-x.results:
			if err := x.emit(work, x.gather(first)); err != nil {
				return err
			}
		case <-check.C:
			if err := x.check(take); err != nil {
				return err
			}
			if err := x.refresh(work); err != nil {
				return err
			}
		}
	}
}

// gather takes what is there, without waiting: one result in idle times, whole
// batches of what has come in during the transaction before.
func (x *session) gather(first *result) []*result {
	batch := []*result{first}
	for len(batch) < x.e.cfg.MaxBatch {
		select {
		case r := <-x.results:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// emit writes a batch as one transaction. A batch in which nothing is final
// writes nothing: its place goes along with the next result.
func (x *session) emit(work context.Context, batch []*result) error {
	var finals []*result
	for _, r := range batch {
		if err := x.pass(r); err != nil {
			return err
		}
		if r.record != nil {
			finals = append(finals, r)
		}
	}
	if len(finals) > 0 {
		if err := x.commit(work, finals); err != nil {
			return err
		}
	}
	for _, r := range batch {
		x.room.Release(r.weight)
	}
	return nil
}

// pass moves a queue's place past a result. Where emitting begins, the oldest
// results expire under the reader's hands, and nobody was promised those.
func (x *session) pass(r *result) error {
	q := r.source.queue
	if !q.first && q.read.missed(r.sequence, time.Now(), q.lifetime) {
		return &StopError{
			Edge:  x.e.cfg.Name,
			Where: q.stream,
			What:  fmt.Sprintf("results between sequence %d and %d may have expired before they were read", q.read.Sequence, r.sequence),
			Do:    fmt.Sprintf(doAccept, r.sequence),
		}
	}
	q.read.Sequence, q.read.At = r.sequence, r.stored
	r.source.taken = r.delivered
	return nil
}

// refresh writes the positions that have grown old, those that were never
// written at once. They are ordinary records of the ledger topic.
func (x *session) refresh(work context.Context) error {
	due := false
	for _, src := range x.sources {
		due = due || src.queue.due()
	}
	if !due {
		return nil
	}
	return x.commit(work, nil)
}

// due reports whether a queue's position should be written though nothing is
// emitted.
func (q *queue) due() bool {
	if q.written.Stream == "" {
		return true
	}
	return q.lifetime > 0 && q.read.At.Sub(q.written.At) >= q.lifetime/refreshesPerLife
}

// commit writes results and the position of every queue that has moved, all or
// nothing.
func (x *session) commit(work context.Context, finals []*result) error {
	records := make([]*kgo.Record, 0, len(finals)+len(x.sources))
	for _, r := range finals {
		records = append(records, r.record)
	}
	var moved []*queue
	for _, src := range x.sources {
		if q := src.queue; q.read.Sequence != q.written.Sequence || q.due() {
			moved = append(moved, q)
			records = append(records, x.e.entry(x.number, x.e.cfg.positionKey(q.name), q.read))
		}
	}
	if err := x.transact(work, records, x.e.cfg.hooks); err != nil {
		return err
	}
	x.commits++
	x.e.stats.transactions.Add(1)
	for _, q := range moved {
		q.written = q.read
		x.e.forgetFrom(q.name)
	}
	x.tell(finals)
	return nil
}

// tell counts results that stand in Kafka and says so.
func (x *session) tell(finals []*result) {
	x.e.stats.emitted.Add(uint64(len(finals)))
	for _, r := range finals {
		if r.truncated {
			x.e.stats.truncated.Add(1)
		}
		if x.e.cfg.OnEmit != nil {
			r.emitted.Partition, r.emitted.Offset = r.record.Partition, r.record.Offset
			x.e.cfg.OnEmit(r.emitted)
		}
	}
}

// transact writes records in one transaction. Its context is not that of the
// shutdown but of the work, which ends a grace period later, and is bounded by
// the time after which the broker aborts anyway. After an error the outcome is
// unknown and the client must not be used again.
func (x *session) transact(work context.Context, records []*kgo.Record, steps hooks) error {
	ctx, cancel := context.WithTimeout(work, x.e.cfg.TransactionTimeout)
	defer cancel()
	if err := x.cl.BeginTransaction(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := steps.step(stepBegun, x.number); err != nil {
		return err
	}
	if err := produce(ctx, x.cl, records); err != nil {
		return err
	}
	if err := steps.step(stepFlushed, x.number); err != nil {
		return err
	}
	if err := x.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return steps.step(stepEnded, x.number)
}

// produceError is why a record was refused, and by which topic.
type produceError struct {
	topic string
	err   error
}

func (e *produceError) Error() string { return fmt.Sprintf("produce to %s: %v", e.topic, e.err) }
func (e *produceError) Unwrap() error { return e.err }

// produce sends records and returns when every one is acknowledged. Committing
// after less would be a loss, and franz-go would not mind.
func produce(ctx context.Context, cl *kgo.Client, records []*kgo.Record) error {
	var (
		pending sync.WaitGroup
		mu      sync.Mutex
		first   error
	)
	pending.Add(len(records))
	for _, r := range records {
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			defer pending.Done()
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = &produceError{r.Topic, err}
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	// A record refused before it was buffered is none that Flush waits for.
	pending.Wait()
	if first != nil {
		return first
	}
	// Nothing is buffered any more, so nothing is aborted: this waits for the
	// client to know the partitions of a topic that it has just met. It
	// publishes them after it has sent the first records to them, and
	// EndTransaction, finding none, would abort and return nil (franz-go
	// 1.22.2, storePartitionsUpdate).
	return cl.AbortBufferedRecords(ctx)
}
