package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// Record is the state of a task, as [wire.Record] describes it.
type Record = wire.Record

const (
	apiPrefix      = "$JS.API."
	requestTimeout = 5 * time.Second
	// publishTimeout is how long one try of a publish waits for its PubAck.
	publishTimeout = 5 * time.Second
)

// Headers of JetStream that this package writes or reads, from ADR-10, ADR-31,
// ADR-51 and the publish API.
const (
	headerMsgID          = "Nats-Msg-Id"
	headerExpectLast     = "Nats-Expected-Last-Sequence"
	headerExpectLastSubj = "Nats-Expected-Last-Subject-Sequence"
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
	headerScheduler      = "Nats-Scheduler"
	headerKVOperation    = "KV-Operation"
)

// Record reads the record of a task. The error is [ErrNotFound] where there is
// none; a task that waits for its first run has none yet, see [Client.Lookup].
func (c *Client) Record(ctx context.Context, queue, id string) (*Record, error) {
	if err := checkRef(queue, id); err != nil {
		return nil, err
	}
	r, _, err := c.readRecord(ctx, queue, id)
	if err == nil && r == nil {
		return nil, fmt.Errorf("record of %s: %w", id, ErrNotFound)
	}
	return r, err
}

// readRecord is a record with its revision. Both are zero where nothing was
// ever written; a deleted record is nil with the revision of its deletion.
func (c *Client) readRecord(ctx context.Context, queue, id string) (*Record, uint64, error) {
	m, err := c.directLast(ctx, c.ns.ResultsStream(queue), c.ns.RecordSubject(queue, id))
	if err != nil || m == nil {
		return nil, 0, err
	}
	if m.header.Value(headerKVOperation) != "" {
		return nil, m.sequence, nil
	}
	r, err := wire.DecodeRecord(id, m.data)
	if err != nil {
		// Somebody else's value is no state of the task; writing over it is right.
		c.log.WarnContext(ctx, "value under a task's key is not its record", "queue", queue, "task_id", id, "err", err)
		return nil, m.sequence, nil
	}
	return r, m.sequence, nil
}

// recordMessage is the write of a record, expecting a revision; 0 expects none.
func (c *Client) recordMessage(r *Record, revision uint64) (*nats.Msg, error) {
	data, err := r.Encode()
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(c.ns.RecordSubject(r.Queue, r.ID))
	if !c.blind {
		m.Header[headerExpectLastSubj] = []string{strconv.FormatUint(revision, 10)}
	}
	m.Data = data
	return m, nil
}

// casRecord writes a record by compare-and-set and waits. It returns the new
// revision.
func (c *Client) casRecord(ctx context.Context, r *Record, revision uint64) (uint64, error) {
	m, err := c.recordMessage(r, revision)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := c.js.PublishMsg(ctx, m)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func checkRef(queue, id string) error {
	if err := wire.CheckQueue(queue); err != nil {
		return err
	}
	return wire.CheckID(id)
}

// directMessage reads the answer to a direct get (ADR-31).
func directMessage(m *nats.Msg) (*stored, error) {
	s := &stored{subject: m.Header.Get(jetstream.SubjectHeader), header: wire.Header(m.Header), data: m.Data}
	var err error
	if s.sequence, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return nil, fmt.Errorf("direct get of %s: bad sequence: %w", s.subject, err)
	}
	if s.time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return nil, fmt.Errorf("direct get of %s: bad time: %w", s.subject, err)
	}
	return s, nil
}

// requestError says what was asked and whether anybody could have answered.
func requestError(what string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: %w: %w", what, ErrNoQueue, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%s: %w: %w", what, ErrUnreachable, err)
	}
	if saysCode(err, codeNotLeader) {
		return fmt.Errorf("%s: %w: %w", what, ErrUnreachable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
