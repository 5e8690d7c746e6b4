package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// changeTries bounds how often a change of a record that is refused looks
// again; each refusal means that somebody else moved on, or a read that lags.
const changeTries = 12

// Cancel revokes a task wherever it is: one that waits, here or for its time,
// does not run; the context of one that runs is cancelled. The record, which is
// returned, says revoked from then on, whatever the handler does. Where it has a
// StartedAt a worker had the task, and its handler may have begun; so may that
// of one without an id of its own whose first run has gone on for less than a
// second, because nothing is written of it. One that has ended otherwise is [ErrTooLate], with its record; cancelling twice is
// no error.
//
// The record goes first and the message after it, because near its time the
// broker may say that a message is gone which has left already. A message that
// the caller has no right to remove is dropped by the worker that gets it.
func (c *Client) Cancel(ctx context.Context, queue, id string) (*Record, error) {
	before, after, err := c.change(ctx, queue, id, func(r *Record) (*Record, error) {
		switch {
		case r.State == wire.StateRevoked:
			return nil, c.revoke(ctx, r) // perhaps the first try got no further
		case r.State.Terminal():
			return nil, fmt.Errorf("task %s: %w: it is %s", id, ErrTooLate, r.State)
		}
		revoked := *r
		revoked.State, revoked.FinishedAt, revoked.Body, revoked.Error = wire.StateRevoked, time.Now().UTC(), nil, nil
		return &revoked, nil
	})
	if err != nil || after == nil {
		return before, err
	}
	if !parked(before.State) {
		err = c.revoke(ctx, after)
	}
	c.removeRevoked(ctx, before)
	if err != nil {
		return after, fmt.Errorf("task %s is revoked, its worker could not be told: %w", id, err)
	}
	return after, nil
}

// Cancel revokes the task; see [Client.Cancel].
func (r *Result[Out]) Cancel(ctx context.Context) error {
	_, err := r.c.Cancel(ctx, r.queue, r.id)
	return err
}

// Reschedule gives a task that waits for its time another one, earlier or
// later. See [Client.Replace].
func (c *Client) Reschedule(ctx context.Context, queue, id string, eta time.Time) (*Record, error) {
	return c.Replace(ctx, queue, id, nil, eta)
}

// Replace gives a task that waits for its time another body, another time, or
// both; a nil body or a zero time leaves it as it is. It returns the record,
// which says so before the schedule does: near its time the broker may fire the
// old one all the same, and the worker then obeys the record. Once a worker has
// claimed the task, up to a second before its time, it is [ErrTooLate].
func (c *Client) Replace(ctx context.Context, queue, id string, body []byte, eta time.Time) (*Record, error) {
	if err := c.checkReplacement(body, eta); err != nil {
		return nil, fmt.Errorf("task %s: %w", id, err)
	}
	var message *stored
	before, after, err := c.change(ctx, queue, id, func(r *Record) (_ *Record, err error) {
		if !parked(r.State) {
			return nil, fmt.Errorf("task %s: %w: it is %s", id, ErrTooLate, r.State)
		}
		lane := laneOf(r)
		if message, err = c.leaderLast(ctx, c.ns.LaterStream(lane), c.ns.LaterSubject(lane, id)); err != nil {
			return nil, err
		}
		if message == nil {
			return nil, fmt.Errorf("task %s: %w: its time has come", id, ErrTooLate)
		}
		return replaced(r, message, body, eta)
	})
	if err != nil {
		return before, err
	}
	if c.afterReplaced != nil {
		c.afterReplaced()
	}
	return after, c.publishReplaced(ctx, after, message)
}

func (c *Client) checkReplacement(body []byte, eta time.Time) error {
	if time.Until(eta) > wire.MaxDuration {
		return &wire.NameError{Field: wire.HeaderETA, Value: wire.FormatTime(eta), Rule: "must lie at most a year (8760h) ahead"}
	}
	if body == nil {
		return nil
	}
	if err := c.limits.CheckSize(body); err != nil {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return c.limits.CheckJSON(body)
}

// replaced is the record of the next generation of a task.
func replaced(r *Record, message *stored, body []byte, eta time.Time) (*Record, error) {
	meta, err := wire.ParseMeta(message.header, message.time)
	if err != nil {
		return nil, err
	}
	next := *r
	next.Generation = max(r.Generation, meta.Generation) + 1
	if !eta.IsZero() {
		next.ETA = eta.UTC()
	}
	if body != nil {
		next.Body = body
	}
	if !meta.Expires.IsZero() && next.ETA.After(meta.Expires) {
		return nil, &wire.NameError{
			Field: wire.HeaderETA, Value: wire.FormatTime(next.ETA), Rule: "must not lie after the task's expiry, " + wire.FormatTime(meta.Expires),
		}
	}
	next.Due = true
	return &next, nil
}

// publishReplaced writes the schedule that a record calls for. Where somebody
// has replaced the task again in between, theirs is written once more: of two
// schedules the last one written stands.
func (c *Client) publishReplaced(ctx context.Context, r *Record, message *stored) error {
	for {
		h := message.header.Own()
		h.Set(wire.HeaderGeneration, strconv.Itoa(r.Generation))
		m := &nats.Msg{Header: nats.Header(h), Data: message.data}
		if r.Body != nil {
			m.Data = r.Body
		}
		c.schedule(m, wire.Address{Lane: laneOf(r), Task: r.Task, ID: r.ID}, r.ETA)
		if err := c.publishAgain(ctx, m); err != nil {
			return fmt.Errorf("task %s is replaced, its schedule is not: %w", r.ID, err)
		}
		now, _, err := c.readRecord(ctx, r.Queue, r.ID)
		if err != nil || now == nil || now.Generation <= r.Generation || !parked(now.State) {
			return nil //nolint:nilerr // what is published follows from the record; the worker looks again
		}
		r = now
	}
}

// publishAgain publishes what may be published any number of times, until the
// broker has it.
func (c *Client) publishAgain(ctx context.Context, m *nats.Msg) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := c.publishOnce(ctx, m)
		switch classify(err) {
		case outcomeStored:
			return nil
		case outcomeUnknown, outcomeAbsent:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// change moves the record of a task by compare-and-set. What next returns is
// written; nil leaves it. A task without a record has one made from its
// message. Both records are returned.
func (c *Client) change(ctx context.Context, queue, id string, next func(*Record) (*Record, error)) (before, after *Record, err error) {
	if err := checkRef(queue, id); err != nil {
		return nil, nil, err
	}
	wait := 2 * time.Millisecond
	for range changeTries {
		before, revision, err := c.found(ctx, queue, id)
		if err != nil {
			return nil, nil, err
		}
		after, err := next(before)
		if err != nil || after == nil {
			return before, nil, err
		}
		err = c.permitted(ctx, c.ns.RecordSubject(queue, id), func(ctx context.Context) error {
			_, err := c.casRecord(ctx, after, revision)
			return err
		})
		switch classify(err) {
		case outcomeStored:
			return before, after, nil
		case outcomeRefused, outcomeUnknown:
		default:
			return before, nil, fmt.Errorf("record of %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return before, nil, fmt.Errorf("record of %s: %w", id, endedError(ctx, true))
		case <-time.After(wait):
		}
		wait = min(2*wait, 200*time.Millisecond)
	}
	return nil, nil, fmt.Errorf("record of %s: it changes all the time: %w", id, ErrUnconfirmed)
}

// found is what is known of a task, with the revision that a change of its
// record expects.
func (c *Client) found(ctx context.Context, queue, id string) (*Record, uint64, error) {
	r, revision, err := c.readRecord(ctx, queue, id)
	if r != nil || err != nil {
		return r, revision, err
	}
	if r, err = c.lookupWaiting(ctx, queue, id); r != nil || err != nil {
		return r, revision, err
	}
	m, err := c.leaderLast(ctx, c.ns.ResultsStream(queue), c.ns.RecordSubject(queue, id))
	if err != nil {
		return nil, 0, err
	}
	if m != nil && m.header.Value(headerKVOperation) == "" {
		if r, err := wire.DecodeRecord(id, m.data); err == nil {
			return r, m.sequence, nil
		}
	}
	return nil, 0, fmt.Errorf("task %s in queue %s: %w", id, queue, ErrNotFound)
}

// removeRevoked removes the message of a revoked task where its subject names
// it. One that is known by its place stays until a worker takes and drops it.
func (c *Client) removeRevoked(ctx context.Context, r *Record) {
	lane := laneOf(r)
	var stream, filter string
	switch {
	case parked(r.State):
		stream, filter = c.ns.LaterStream(lane), c.ns.LaterSubject(lane, r.ID)
	case r.State == wire.StateQueued && wire.CheckExplicitID(r.Queue, r.ID) == nil:
		stream, filter = c.ns.TaskStream(lane), c.ns.TaskSubject(wire.Address{Lane: lane, Task: r.Task, ID: r.ID})
	default:
		return
	}
	if _, forbidden := c.unpurged.Load(stream); forbidden {
		return
	}
	err := c.purge(ctx, stream, filter)
	if errors.Is(err, ErrForbidden) {
		c.unpurged.Store(stream, true)
	}
	if err != nil {
		c.log.DebugContext(ctx, "the message of a revoked task stays until a worker drops it", "queue", r.Queue, "task_id", r.ID, "err", err)
	}
}

// purgeTimeout is how long the removal of a message may take: it is not needed.
const purgeTimeout = 2 * time.Second

// purge removes what stands in one subject of a stream.
func (c *Client) purge(ctx context.Context, stream, subject string) error {
	body, err := json.Marshal(struct {
		Filter string `json:"filter"`
	}{subject})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	var m *nats.Msg
	err = c.permitted(ctx, apiPrefix+"STREAM.PURGE."+stream, func(ctx context.Context) (err error) {
		m, err = c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.PURGE."+stream, body)
		return err
	})
	if err != nil {
		return requestError("purge "+subject, err)
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("purge %s: %w", subject, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("purge %s: %w", subject, errors.New(answer.Error.Description))
	}
	return nil
}

// laneOf is the lane that a task came by.
func laneOf(r *Record) wire.Lane { return wire.Lane{Queue: r.Queue, Priority: r.Priority} }
