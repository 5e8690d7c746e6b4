package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/ledger"
)

// writeFor bounds how long one batch is tried before a rebalance may go ahead.
// It stays in hand meanwhile.
const writeFor = 15 * time.Second

// partition is one partition that this edge owns. It belongs to the session's
// loop and, while that waits, to one goroutine: so one batch is under way at a
// time, and what is in hand is exactly what follows the ledger.
type partition struct {
	*session
	number  int32
	ledger  *ledger.Ledger
	topicID string

	fence      uint64 // sequence of the newest ledger entry known
	next       int64  // offset that follows what is stored; -1 until that is known
	epoch      int32
	generation int
	committed  int64
	read       int64 // offset that follows what was ever in hand
	inHand     []*kgo.Record
	resting    bool // not fetched until what is in hand is stored
	most       int  // records in the next batch: fewer while the queue has little room

	bombs    map[int64]bombError // in hand, by the offset of the first record
	doubtful bool                // a batch was refused and the group has not confirmed the owner since
	since    time.Time           // when it was assigned
	strikes  strikes
}

// take takes records in hand. A log that goes back is another log.
func (p *partition) take(records []*kgo.Record) error {
	for _, r := range records {
		if r.Offset < p.read {
			return p.stopError(fmt.Sprintf("the log went back from %d to %d", p.read, r.Offset),
				"it has lost records or was made anew: purge the ledger's subject and start once with --from-offset N")
		}
		p.read = r.Offset + 1
	}
	p.inHand = append(p.inHand, records...)
	return nil
}

// write stores what is in hand, batch by batch, until nothing is left, the
// queue is full, or the broker does not answer. What is left stays in hand.
func (p *partition) write(ctx context.Context) error {
	if p.doubtful && !p.prove(ctx) {
		return nil
	}
	for len(p.inHand) > 0 {
		p.skipStored()
		batch := p.batch()
		if len(batch.tasks) == 0 {
			return nil
		}
		err := p.store(ctx, batch)
		fenced, refused := errors.AsType[*ledger.FencedError](err)
		switch {
		case err == nil:
			p.inHand = p.inHand[batch.records:]
			p.stored(batch)
		case refused:
			if err := p.refused(ctx, fenced); err != nil || p.doubtful {
				return err
			}
		case errors.Is(err, ledger.ErrFull):
			// It may have room for some, or be smaller than a batch.
			p.most = max(1, batch.records/2)
			p.rest(ctx, err)
			return nil
		case errors.Is(err, ledger.ErrUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			p.rest(ctx, err)
			return nil
		default:
			return fmt.Errorf("topic %s, partition %d, offset %d: %w", p.cfg.Route.Topic, p.number, p.inHand[0].Offset, err)
		}
	}
	p.inHand = nil
	if p.resting {
		p.resting = false
		p.cl.ResumeFetchPartitions(map[string][]int32{p.cfg.Route.Topic: {p.number}})
		p.log.InfoContext(ctx, "the queue takes tasks again", "queue", p.cfg.Route.Queue, "partition", p.number)
	}
	return nil
}

// refused goes on behind the entry that refused a batch.
func (p *partition) refused(ctx context.Context, fenced *ledger.FencedError) error {
	if fenced.Backwards() {
		return fmt.Errorf("%w: %w", errLedgerChanged, fenced)
	}
	if err := p.adopt(fenced.Found); err != nil {
		return err
	}
	if fenced.Found.Instance == p.cfg.Instance {
		return nil // an earlier batch of ours was stored after all
	}
	attrs := []any{"partition", p.number, "err", fenced}
	if !p.prove(ctx) {
		p.log.WarnContext(ctx, "fenced, waiting for the group", append(attrs, "why", errNotOwner)...)
		return nil
	}
	p.log.WarnContext(ctx, "fenced, going on behind the other edge", attrs...)
	return p.strike(fenced)
}

// skipStored drops what the ledger says is stored.
func (p *partition) skipStored() {
	for len(p.inHand) > 0 && p.inHand[0].Offset < p.next {
		p.inHand = p.inHand[1:]
	}
}

// taskBatch is the tasks of the first records in hand.
type taskBatch struct {
	records int
	tasks   []*nats.Msg
	seen    []Task
	next    int64
	epoch   int32
}

// batch takes as many records as one batch holds.
func (p *partition) batch() taskBatch {
	var b taskBatch
	size := 0
	for _, r := range p.inHand {
		m, seen := p.task(r)
		if b.records == p.most || b.records > 0 && size+m.Size() > p.cfg.MaxBatchBytes {
			break
		}
		size += m.Size()
		b.records++
		b.tasks = append(b.tasks, m)
		b.seen = append(b.seen, seen)
		b.next, b.epoch = r.Offset+1, r.LeaderEpoch
		if bomb, ok := p.bombs[r.Offset]; ok {
			b.next = bomb.last + 1
		}
	}
	return b
}

// store writes a batch with the position that follows it.
func (p *partition) store(ctx context.Context, b taskBatch) error {
	at, err := json.Marshal(position{b.next, b.epoch, p.topicID, p.generation})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, min(writeFor, p.cfg.RebalanceTimeout/2))
	defer cancel()
	entry, err := p.ledger.Write(ctx, p.fence, b.tasks, at)
	if err == nil {
		p.fence = entry.Sequence
	}
	return err
}

func (p *partition) stored(b taskBatch) {
	p.next, p.epoch = b.next, b.epoch
	p.most = min(p.cfg.MaxBatch, 2*p.most)
	maps.DeleteFunc(p.bombs, func(offset int64, _ bombError) bool { return offset < p.next })
	if p.cfg.OnBatch != nil {
		p.cfg.OnBatch(Batch{p.cfg.Route.Topic, p.number, p.cfg.Route.Queue, b.seen})
	}
}

// rest stops fetching the partition until what is in hand is stored, and lets
// the group go on meanwhile.
func (p *partition) rest(ctx context.Context, why error) {
	p.cl.PauseFetchPartitions(map[string][]int32{p.cfg.Route.Topic: {p.number}})
	if !p.resting && ctx.Err() == nil {
		p.resting = true
		p.log.WarnContext(ctx, "the queue takes no tasks, the partition waits", "queue", p.cfg.Route.Queue, "partition", p.number, "err", why)
	}
}
