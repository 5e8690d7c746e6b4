package engine

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"
)

const (
	// recordsLeast is how many outcomes are worth a batch; fewer are written one
	// by one, which takes the broker an answer each and no more time.
	recordsLeast = 4
	// recordsMost bounds a batch, so that the acks of its first tasks do not wait
	// for long.
	recordsMost = fastFlow / 2
)

// errAlone is of a record that a batch has not stored: it may have been taken, or
// not, and is written by itself, which finds out.
var errAlone = errors.New("not stored with others")

// recordBatches writes the records of many tasks as fast batches, each with its
// expected revision. A batch is what has gathered while the one before was
// written. It belongs to the settler's goroutine.
type recordBatches struct {
	c     *Client
	batch *fastBatch
	off   bool // the broker or the bucket takes none
	msg   nats.Msg
	want  []string // the header's value: the expected revision
}

func newRecordBatches(c *Client) *recordBatches {
	r := &recordBatches{c: c, off: c.blind, want: []string{""}}
	r.msg.Header = nats.Header{headerExpectLastSubj: r.want}
	return r
}

func (r *recordBatches) close() {
	if r.batch != nil {
		r.batch.close()
	}
}

// ready reports whether so many are better written as a batch.
func (r *recordBatches) ready(n int) bool {
	if r.off || n < recordsLeast || r.c.nc.Status() != nats.CONNECTED {
		return false
	}
	if r.batch != nil {
		r.batch.next()
		return true
	}
	b, err := openFastBatch(r.c.nc)
	if err != nil {
		return false
	}
	b.free = recordsMost + 1
	r.batch = b
	return true
}

// write publishes the records of the settlements and waits until it is known how
// far that came; answers has what became of each.
func (r *recordBatches) write(ctx context.Context, batch []*settlement, records []int, answers []answer) {
	sent := 0
	for n, i := range records {
		if err := r.encode(batch[i]); err != nil {
			answers[i] = answer{asked: true, err: err}
			break
		}
		add := r.batch.add
		if n == len(records)-1 {
			add = r.batch.addLast
		}
		if add(ctx, &r.msg); r.batch.sent == uint64(n) {
			break // not even this one
		}
		if sent++; r.batch.broken {
			break
		}
	}
	end := r.batch.finish(ctx)
	r.off = errors.Is(end.err, errNoFast) || isBatchDisabled(end.err)
	for n, i := range records {
		switch {
		case answers[i].asked:
		case uint64(n) < end.stored:
			answers[i] = answer{asked: true}
		case uint64(n) == end.stored && n < sent && classify(end.err) == outcomeRefused:
			answers[i] = answer{asked: true, err: end.err}
		default:
			answers[i] = answer{asked: true, err: errAlone}
		}
	}
}

// encode makes the message of a settlement's record; it holds until the next.
func (r *recordBatches) encode(x *settlement) (err error) {
	if r.msg.Data, err = x.record.Append(r.msg.Data[:0]); err != nil {
		return err
	}
	r.msg.Subject = r.c.ns.RecordSubject(x.record.Queue, x.record.ID)
	r.want[0] = strconv.FormatUint(x.revision, 10)
	return nil
}

// sendRecords writes what is to be recorded.
func (s *settler) sendRecords(batch []*settlement, answers []answer) {
	for records := s.records; len(records) > 0; {
		s.signs.settling.Turn() // each batch may wait for fastPatient
		some := records[:min(len(records), recordsMost)]
		records = records[len(some):]
		if s.batches.ready(len(some)) {
			s.batches.write(context.Background(), batch, some, answers) //nolint:forbidigo // bounded; settling outlives the caller
			continue
		}
		for _, i := range some {
			m, err := s.w.c.recordMessage(batch[i].record, batch[i].revision)
			answers[i] = s.publish(batch[i], m, err)
		}
	}
}
