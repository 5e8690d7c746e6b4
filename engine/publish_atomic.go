package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxAtomic is how many messages the broker takes in one atomic batch.
const maxAtomic = 1000

// Headers of an atomic batch, ADR-50.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

const (
	codeBatchIncomplete = 10176 // some of it went to nobody
	codeBatchesOpen     = 10210 // as many as the broker can have
)

// errNotAtomic is a broker that took the messages of a batch one by one.
var errNotAtomic = errors.New("the broker did not take the batch as a whole: it must be nats-server 2.12 or newer")

// sendWhole sends all tasks as one atomic batch.
func (m *many) sendWhole(ctx context.Context) {
	m.batch = m.batch[:0]
	for i := range m.bodies {
		m.batch = append(m.batch, i)
	}
	if err := m.sendBatch(ctx); err != nil {
		m.abandon(err)
	}
}

// sendAtomically sends atomic batches one after the other. Their sequences are
// always without a gap.
func (m *many) sendAtomically(ctx context.Context) {
	for i := m.next(0); i < len(m.state); i = m.next(i) {
		m.batch = m.batch[:0]
		size := 0
		for ; i < len(m.state) && len(m.batch) < maxAtomic && size < batchBytes; i = m.next(i + 1) {
			if !m.good(i) {
				continue
			}
			m.batch = append(m.batch, i)
			size += len(m.bodies[i])
		}
		if len(m.batch) == 0 {
			return
		}
		err := m.sendBatch(ctx)
		switch {
		case err == nil:
			continue
		case errors.Is(err, ErrQueueFull) && ctx.Err() == nil:
			// There may be room for some: nobody asked for all or none.
			for _, one := range m.batch {
				if !m.sendOne(ctx, one) {
					return
				}
			}
			continue
		}
		for _, failed := range m.batch {
			m.fail(failed, err)
		}
		if classify(err) != outcomeInvalid && !errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrForbidden) || ctx.Err() != nil {
			m.abandon(err)
			return
		}
	}
}

// sendBatch sends the tasks of m.batch as one atomic batch, again and again
// where it may wait for room, and while the stream has no leader.
func (m *many) sendBatch(ctx context.Context) error {
	var gone absence
	for wait := firstRoomWait; ; wait = min(2*wait, mostRoomWait) {
		if err := connected(ctx, m.c.nc); err != nil {
			return fmt.Errorf("queue %q: %w", m.o.queue, unsent(err))
		}
		var last uint64
		err := m.c.permittedAt(ctx, m.msg.Subject, func(ctx context.Context) (err error) {
			last, err = m.c.publishAtomic(ctx, &m.msg, func(n int) []byte { return m.bodies[m.batch[n]] }, len(m.batch))
			return err
		})
		if err == nil {
			first := last - uint64(len(m.batch)) + 1
			for n, i := range m.batch {
				m.stored(i, first+uint64(n))
			}
			return nil
		}
		again := m.o.waitForRoom && classify(err) == outcomeFull || saysCode(err, codeBatchesOpen)
		absent := classify(err) == outcomeAbsent || saysCode(err, codeBatchIncomplete) // a leader came in between
		if absent {
			again = !gone.believed(ctx, m.c, m.lane)
		} else {
			gone = absence{}
		}
		err = unwaited(err, m.lane)
		if again {
			ended := pause(ctx, wait)
			if ended == nil {
				continue
			}
			if absent {
				err = silentError(m.lane, ended)
			}
		}
		return fmt.Errorf("queue %q: %w", m.o.queue, err)
	}
}

// publishAtomic publishes n messages that differ in their bodies as one batch
// and returns the sequence of the last. An error that classify takes for
// unknown leaves the outcome open; after any other nothing is stored.
func (c *Client) publishAtomic(ctx context.Context, common *nats.Msg, body func(n int) []byte, n int) (uint64, error) {
	if c.nc.Status() != nats.CONNECTED {
		return 0, errNotSent
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	lost := c.nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(lost)
	inbox, answers := c.nc.NewInbox(), make(chan *nats.Msg, 4)
	sub, err := c.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNotSent, err)
	}
	defer func() { _ = sub.Unsubscribe() }()

	id := rand.Text()
	sequence := make([]string, 1)
	m := nats.Msg{Subject: common.Subject, Header: nats.Header{headerBatchID: {id}, headerBatchSequence: sequence}}
	maps.Copy(m.Header, common.Header)
	for i := range n {
		// The first answer tells at once that there is no room for a batch, or
		// nobody who takes it.
		m.Reply, m.Data, sequence[0] = "", body(i), strconv.Itoa(i+1)
		if i == 0 || i == n-1 {
			m.Reply = inbox
		}
		if i == n-1 {
			m.Header[headerBatchCommit] = []string{"1"}
		}
		if err := c.nc.PublishMsg(&m); err != nil {
			// Without its end the batch is never stored.
			return 0, fmt.Errorf("%w: %w", errNotSent, err)
		}
	}
	for {
		select {
		case a := <-answers:
			if last, done, err := readAtomic(a, id, n); done {
				return last, err
			}
		case <-lost:
			return 0, errLost
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// readAtomic reads one answer. It is the last one unless it is empty.
func readAtomic(m *nats.Msg, id string, n int) (sequence uint64, done bool, err error) {
	if len(m.Data) == 0 {
		if m.Header.Get("Status") == "503" {
			return 0, true, nats.ErrNoResponders
		}
		return 0, false, nil
	}
	var ack struct {
		Sequence uint64              `json:"seq"`
		Batch    string              `json:"batch"`
		Count    int                 `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return 0, true, fmt.Errorf("answer to a batch: %w", err)
	case ack.Error != nil:
		return 0, true, ack.Error
	case ack.Batch != id || ack.Count != n:
		return 0, true, errNotAtomic
	}
	return ack.Sequence, true, nil
}

func sortFailed(failed []TaskIndex) {
	slices.SortFunc(failed, func(a, b TaskIndex) int { return a.Index - b.Index })
}
