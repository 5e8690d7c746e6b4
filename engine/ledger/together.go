package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Part is what one ledger contributes to a batch of several. Its batch is the
// one that [Ledger.Write] would write.
type Part struct {
	Ledger   *Ledger
	Fence    uint64
	Tasks    []*nats.Msg
	Position json.RawMessage
}

// WriteTogether writes the batches of several ledgers of one stream as one: all
// of them are stored or none is. An atomic batch costs the broker about the same
// whatever its size, so many small ones are better written together. There must
// be no two parts of one ledger, and at most a thousand messages in all.
//
// It tries once, and within the first ledger's timeout. After any error but
// [ErrFenced] each part may be written by itself under the same fence, with
// Write: that tells whether this try was stored. With ErrFenced nothing is, and
// which of the fences was wrong is not known.
func WriteTogether(ctx context.Context, parts []Part) ([]Entry, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	first := parts[0].Ledger
	all, entries := &batch{}, make([]Entry, len(parts))
	ends := make([]int, len(parts))
	for i, p := range parts {
		if p.Ledger.stream != first.stream || p.Ledger.nc != first.nc {
			return nil, fmt.Errorf("ledger %s: is not of the stream %s, as %s is", p.Ledger.subject, first.stream, first.subject)
		}
		b, err := p.Ledger.newBatch(p.Fence, p.Tasks, p.Position)
		if err != nil {
			return nil, err
		}
		entries[i] = Entry{Position: p.Position, Instance: p.Ledger.instance, CRC: b.crc}
		all.join(b)
		ends[i] = len(all.msgs)
	}
	if len(all.msgs) > MaxTasks+1 {
		return nil, fmt.Errorf("ledger %s and others: batch %w: %d messages, at most %d", first.subject, ErrTooLarge, len(all.msgs), MaxTasks+1)
	}
	if err := all.checkSize(first.nc.MaxPayload()); err != nil {
		return nil, err
	}
	last, err := first.send(ctx, all, false)
	switch classify(err) {
	case stored:
	case fenced:
		return nil, fmt.Errorf("ledger %s and others: %w: %w", first.subject, ErrFenced, err)
	case unknown:
		return nil, fmt.Errorf("ledger %s and others: %w: %w", first.subject, ErrUnknown, err)
	case full:
		return nil, fmt.Errorf("ledger %s and others: %w: %w", first.subject, ErrFull, err)
	default:
		return nil, fmt.Errorf("ledger %s and others: %w", first.subject, err)
	}
	now := time.Now()
	for i := range entries {
		// The messages of a batch stand in the stream one after the other.
		entries[i].Sequence, entries[i].Time = last-uint64(len(all.msgs)-ends[i]), now
	}
	return entries, nil
}

// join appends another batch; only the last message commits.
func (b *batch) join(other *batch) {
	if n := len(b.msgs); n > 0 {
		delete(b.msgs[n-1].Header, headerBatchCommit)
	}
	if other.size > b.size {
		b.largest, b.size = len(b.msgs)+other.largest, other.size
	}
	for _, m := range other.msgs {
		m.Header[headerBatchSequence] = []string{strconv.Itoa(len(b.msgs) + 1)}
		b.msgs = append(b.msgs, m)
	}
}
