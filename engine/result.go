package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// Result is a task that was sent: its id, and its outcome once it has one. It
// holds no resources and is safe for concurrent use.
type Result[Out any] struct {
	c     *Client
	queue string
	id    string
}

// ID is the task's id, unique within its queue. It is empty where
// [Task.SendMany] could not tell it.
func (r *Result[Out]) ID() string { return r.id }

// Queue is the task's queue.
func (r *Result[Out]) Queue() string { return r.queue }

// Record reads the task's record; see [Client.Record].
func (r *Result[Out]) Record(ctx context.Context) (*Record, error) {
	return r.c.Record(ctx, r.queue, r.id)
}

// Wait returns the task's result as soon as it has one, told by the broker; see
// [Client.Wait]. A task that ended otherwise is a [*TaskError],
// [ErrRevoked] or [ErrExpired]; an id that nobody has seen is [ErrNotFound].
// When ctx ends first its error is returned and the task goes on.
func (r *Result[Out]) Wait(ctx context.Context) (Out, error) {
	var out Out
	record, err := r.c.Wait(ctx, r.queue, r.id)
	if err != nil {
		return out, err
	}
	if err := outcomeError(record); err != nil {
		return out, err
	}
	if len(record.Result) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(record.Result, &out); err != nil {
		return out, fmt.Errorf("result of %s: %w", r.id, err)
	}
	return out, nil
}

// outcomeError is how a terminal record that is no success ends a wait.
func outcomeError(r *Record) error {
	switch r.State {
	case wire.StateSucceeded:
		return nil
	case wire.StateRevoked:
		return fmt.Errorf("task %s: %w", r.ID, ErrRevoked)
	case wire.StateExpired:
		return fmt.Errorf("task %s: %w", r.ID, ErrExpired)
	default:
	}
	e := &TaskError{ID: r.ID, Attempt: r.Attempt, Type: wire.FailureError}
	if r.Error != nil {
		e.Type, e.Message, e.Stack = r.Error.Type, r.Error.Message, r.Error.Stack
	}
	return e
}

// Wait returns the terminal record of a task as soon as there is one. The broker
// tells it, once, and not where its leader dies just then: so it also reads the
// record, after 5 s and ever less often, at last every half minute. The error is
// [ErrNotFound] for an id that nobody has seen, [ErrNoQueue] where there is no
// such queue, and ctx's own when that ends first. A client that may read records
// but may not look into the queue cannot tell an unknown id from one that waits:
// it waits for both.
func (c *Client) Wait(ctx context.Context, queue, id string) (*Record, error) {
	if err := checkRef(queue, id); err != nil {
		return nil, err
	}
	// Listen first, then read: what changes in between is heard.
	l, err := c.listen(queue, id)
	if err != nil {
		return nil, err
	}
	defer l.close()
	var gone absence
	patience, known := c.listenFirst, false
	for n := 0; ; n++ {
		look := c.lookupOrRecord
		if n == 0 || known && !l.back { // the record alone: all that is needed of a task that is done, or is there
			look = c.recordAlone
		}
		l.back = false
		r, err := look(ctx, queue, id)
		if r != nil && r.State.Terminal() {
			return r, nil
		}
		known = known || r != nil
		// A broker that stops has no streams any more a moment before it is gone.
		retried := errors.Is(err, ErrUnreachable)
		if errors.Is(err, ErrNoQueue) {
			retried = !gone.believed(ctx, c, wire.PlainLane(queue))
		} else {
			gone = absence{}
		}
		switch {
		case err != nil && !retried:
			return nil, err
		case err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("wait for %s: %w", id, context.Cause(ctx))
		}
		again := patience + rand.N(patience/4) // those that began together need not read together
		switch {
		case err != nil || r == nil && n == 1:
			again = time.Second // the read failed, or a replica may have lagged: it is owed
		case r == nil && n == 0:
			again = lookAfter
		default:
			patience = min(2*patience, listenMost)
		}
		if r, err := l.heard(ctx, time.After(again)); r != nil || err != nil {
			return r, err
		}
	}
}

// lookAfter is how long a wait listens before it asks whether there is such a
// task at all: most are done by then.
const lookAfter = 100 * time.Millisecond

// How long a wait that has found its task listens before it reads the record
// again; each time twice as long. The broker repeats a record to who listens as
// the leader stores it, so a leader that dies tells nobody of what the others
// have stored already.
const (
	listenFirst = 5 * time.Second
	listenMost  = 30 * time.Second
)

func (c *Client) recordAlone(ctx context.Context, queue, id string) (*Record, error) {
	r, _, err := c.readRecord(ctx, queue, id)
	return r, err
}

// lookupOrRecord is Lookup, or what the record alone says where this client may
// not look into the queue: nothing, where there is no record.
func (c *Client) lookupOrRecord(ctx context.Context, queue, id string) (*Record, error) {
	if !c.recordsOnly.Load() {
		r, err := c.Lookup(ctx, queue, id)
		if !errors.Is(err, ErrForbidden) {
			return r, err
		}
	}
	r, err := c.recordAlone(ctx, queue, id)
	if err == nil && !c.recordsOnly.Swap(true) {
		c.log.InfoContext(ctx, "this user may read records but not look into the queue: an unknown id is waited for", "queue", queue)
	}
	return r, err
}

// listener hears of what becomes of one task.
type listener struct {
	nc       *nats.Conn
	id       string
	sub      *nats.Subscription
	records  chan *nats.Msg
	statuses chan nats.Status
	dropped  int
	back     bool // the connection has come back since the last read
}

func (c *Client) listen(queue, id string) (*listener, error) {
	l := &listener{nc: c.nc, id: id, records: make(chan *nats.Msg, 64)}
	var err error
	if l.sub, err = c.nc.ChanSubscribe(c.ns.DoneSubject(queue, id), l.records); err != nil {
		return nil, requestError("wait for "+id, err)
	}
	// What changed while the connection was gone was not heard: read again.
	l.statuses = c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	return l, nil
}

func (l *listener) close() {
	l.nc.RemoveStatusListener(l.statuses)
	_ = l.sub.Unsubscribe()
}

// heard waits for a terminal record. It returns nothing when the connection came
// back, when again fires, or when more was said than it could hear, so that the
// caller reads again.
func (l *listener) heard(ctx context.Context, again <-chan time.Time) (*Record, error) {
	for {
		select {
		case m := <-l.records:
			if r, err := wire.DecodeRecord(l.id, m.Data); err == nil && r.State.Terminal() {
				return r, nil
			}
			if n, err := l.sub.Dropped(); err == nil && n > l.dropped && len(l.records) == 0 {
				l.dropped = n
				return nil, nil
			}
		case <-l.statuses:
			if l.nc.IsClosed() {
				return nil, fmt.Errorf("wait for %s: %w: %w", l.id, ErrClosed, nats.ErrConnectionClosed)
			}
			l.back = true
			return nil, nil
		case <-again:
			if l.nc.IsConnected() {
				return nil, nil
			} // else there will be a status
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", l.id, context.Cause(ctx))
		}
	}
}

// Lookup is what is known of a task wherever it is: its record, or, for one
// that waits for its first run, a record made from its message. The error is
// [ErrNotFound] only after the leaders were asked, so it is never said of a
// task that was acknowledged to the caller. A task whose id follows from its
// origin (a Kafka record, say) stands in no subject of its own: it is found from
// its first record on.
func (c *Client) Lookup(ctx context.Context, queue, id string) (*Record, error) {
	if err := checkRef(queue, id); err != nil {
		return nil, err
	}
	if r, _, err := c.readRecord(ctx, queue, id); r != nil || err != nil {
		return r, err
	}
	if r, err := c.lookupWaiting(ctx, queue, id); r != nil || err != nil {
		return r, err
	}
	// It may have been settled between the two reads, or the first one was
	// answered by a replica that lags.
	m, err := c.leaderLast(ctx, c.ns.ResultsStream(queue), c.ns.RecordSubject(queue, id))
	if err != nil {
		return nil, err
	}
	if m != nil && m.header.Value(headerKVOperation) == "" {
		if r, err := wire.DecodeRecord(id, m.data); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("task %s in queue %s: %w", id, queue, ErrNotFound)
}

// lookupWaiting finds the message of a task that has no record yet.
func (c *Client) lookupWaiting(ctx context.Context, queue, id string) (*Record, error) {
	lane, sequence, free := wire.ParseFreeID(id)
	if free && lane.Queue == queue {
		m, err := c.leaderSequence(ctx, c.ns.TaskStream(lane), sequence)
		if err != nil {
			return nil, err
		}
		if m != nil {
			return c.waiting(m, queue, id, wire.StateQueued), nil
		}
	}
	if free && lane.Queue == queue {
		return c.lookupIn(ctx, lane, id, c.leaderLast)
	}
	return c.lookupExplicit(ctx, queue, id, c.leaderLast)
}

// reading is leaderLast or directLast.
type reading func(ctx context.Context, stream, subject string) (*stored, error)

// lookupExplicit finds the message of a task with an explicit id, which may
// stand in any of the queue's lanes.
func (c *Client) lookupExplicit(ctx context.Context, queue, id string, last reading) (*Record, error) {
	for _, priority := range []wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow} {
		lane := wire.Lane{Queue: queue, Priority: priority}
		r, err := c.lookupIn(ctx, lane, id, last)
		if r != nil || err != nil && (priority == wire.PriorityNone || !errors.Is(err, ErrNoQueue)) {
			return r, err
		}
	}
	return nil, nil
}

// lookupIn finds the message of a task by its subject in the streams of a lane.
func (c *Client) lookupIn(ctx context.Context, lane wire.Lane, id string, last reading) (*Record, error) {
	places := []struct {
		stream, subject string
		state           wire.State
	}{
		{c.ns.TaskStream(lane), c.ns.TaskSubject(wire.Address{Lane: lane, Task: "*", ID: id}), wire.StateQueued},
		{c.ns.LaterStream(lane), c.ns.LaterSubject(lane, id), wire.StateScheduled},
		{c.ns.LaterStream(lane), c.ns.DueSubject(wire.Address{Lane: lane, Task: "*", ID: id}), wire.StateScheduled},
	}
	for _, place := range places {
		m, err := last(ctx, place.stream, place.subject)
		if err != nil {
			return nil, err
		}
		if m != nil {
			return c.waiting(m, lane.Queue, id, place.state), nil
		}
	}
	return nil, nil
}

// waiting makes a record from a message. A message of another id (of a ledger,
// say, whose sequence looks like a free id) gives none.
func (c *Client) waiting(m *stored, queue, id string, state wire.State) *Record {
	meta, err := wire.ParseMeta(m.header, m.time)
	if err != nil {
		meta = wire.Meta{Run: 1, Attempt: 1}
	}
	a, err := c.ns.ParseTask(m.subject)
	if err != nil {
		if a, err = c.ns.ParseTask(m.header.Value(headerScheduleTarget)); err != nil {
			a, err = c.ns.ParseDue(firstOf(m.header.Value(headerScheduleTarget), m.subject))
		}
	}
	if err != nil || state == wire.StateQueued && taskID(a, meta, m.sequence) != id {
		return nil
	}
	return &Record{
		ID: id, Run: meta.Run, Task: a.Task, Queue: queue, State: state, Attempt: meta.Attempt,
		Generation: meta.Generation, Priority: a.Lane.Priority,
		Origin: meta.Origin, QueuedAt: m.time.UTC(), ETA: meta.ETA, Parent: meta.Parent, Root: meta.Root,
		ReplyTopic: meta.ReplyTopic, ReplyKey: meta.ReplyKey,
		Trace: meta.Trace.Parent, TraceState: meta.Trace.State, Baggage: meta.Trace.Baggage,
	}
}

// taskID is the identity of a task in its queue's stream: its last subject
// token, the header, what follows from its origin, or its place.
func taskID(a wire.Address, meta wire.Meta, sequence uint64) string {
	if a.ID != "" {
		return a.ID
	}
	if meta.ID != "" {
		return meta.ID
	}
	if id, ok := wire.OriginID(meta.Origin); ok && wire.CheckExplicitID(a.Lane.Queue, id) == nil {
		return id
	}
	return wire.FreeID(a.Lane, sequence)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
