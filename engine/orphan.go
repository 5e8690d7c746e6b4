package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// suspect is a message that seems to be forgotten: it is one only if it still
// stands there after a while, for an acknowledgement removes it a little after
// the floor has risen.
type suspect struct {
	stream   string
	sequence uint64
}

// forgotten are the messages of a lane that stand below the floor of their
// consumer.
type forgotten struct {
	lane wire.Lane
	due  bool
}

func (f forgotten) places(ns wire.Namespace) (stream, durable, filter string) {
	if f.due {
		return ns.LaterStream(f.lane), wire.DueDurable, ns.DueFilter(f.lane)
	}
	return ns.TaskStream(f.lane), wire.WorkersDurable, ns.TaskFilter(f.lane)
}

// mendMost bounds how many messages of a stream are looked at in one round.
const mendMost = 10_000

// mend puts right what has been suspected for long enough. It returns how long
// the youngest suspect is to be waited for.
func (j *Janitor) mend(ctx context.Context, f forgotten, seen map[suspect]bool) (wait time.Duration, err error) {
	stream, durable, filter := f.places(j.c.ns)
	wait = j.cfg.Every
	consumer, err := j.c.consumerInfo(ctx, stream, durable)
	if err != nil || consumer == nil {
		return wait, err
	}
	patience := 2 * consumer.Config.AckWait
	requeued, removed := 0, 0
	defer func() {
		if requeued+removed > 0 {
			j.log.WarnContext(ctx, "tasks that no worker would have been given are put right", "stream", stream, "requeued", requeued, "removed", removed)
		}
	}()
	from := uint64(1)
	for range mendMost {
		j.loop.Turn()
		m, err := j.c.leaderNext(ctx, stream, filter, from)
		if err != nil || m == nil || m.sequence > consumer.AckFloor.Stream {
			return wait, err
		}
		from = m.sequence + 1
		s := suspect{stream, m.sequence}
		seen[s] = true
		since, known := j.suspects[s]
		if !known {
			since = time.Now()
			j.suspects[s] = since
		}
		if left := patience - time.Since(since); left > 0 {
			wait = min(wait, left)
			continue
		}
		if j.said[s] {
			continue
		}
		again, err := j.putRight(ctx, f, m)
		switch {
		case err != nil:
			return wait, err
		case j.said[s]:
			continue
		case again:
			requeued++
		default:
			removed++
		}
		delete(j.suspects, s)
	}
	return wait, nil
}

// putRight removes one message, after its task was made due again where it is
// owed; it tells whether it was.
func (j *Janitor) putRight(ctx context.Context, f forgotten, m *stored) (again bool, err error) {
	d, err := j.c.forgotten(f, m)
	if err != nil {
		stream, _, _ := f.places(j.c.ns)
		j.said[suspect{stream, m.sequence}] = true
		j.log.WarnContext(ctx, "message that no worker will be given is no task, it stays", "stream", stream, "sequence", m.sequence, "err", err)
		return false, nil
	}
	r, revision, err := j.c.leaderRecord(ctx, d.queue(), d.id)
	if err != nil {
		return false, err
	}
	switch judge(r, d) {
	case verdictRun:
		if r != nil && r.Run < d.meta.Run {
			r = nil // it is of another life; the one who runs the task writes over it
		}
		again, err = true, j.requeue(ctx, d, r, revision)
	case verdictParked:
		again, err = true, j.publish(ctx, j.c.parkMessage(d, r, r.Attempt, r.ETA))
	case verdictDone:
	}
	if err != nil {
		return false, fmt.Errorf("task %s: %w", d.id, err)
	}
	return again, j.remove(ctx, f, m.sequence)
}

// requeue makes a task due at once, under the id and the run that it has. Its
// record says queued first: what was claimed by the old message would refuse the
// new one. Each step may be repeated; the schedule replaces itself.
func (j *Janitor) requeue(ctx context.Context, d *delivery, r *Record, revision uint64) error {
	if r != nil && r.State != wire.StateQueued {
		queued := *r
		queued.State, queued.Sequence, queued.DueSeq = wire.StateQueued, 0, 0
		if _, err := j.c.casRecord(ctx, &queued, revision); err != nil {
			return fmt.Errorf("its record: %w", err) // somebody moved on: the next round looks again
		}
	}
	if r == nil {
		r = &Record{}
	}
	d.adopt(r)
	eta := d.meta.ETA
	if now := time.Now(); eta.Before(now) {
		eta = now
	}
	return j.publish(ctx, j.c.parkMessage(d, r, d.meta.Attempt, eta))
}

// publish tries for a while; the next round goes on.
func (j *Janitor) publish(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return j.c.publishAgain(ctx, m)
}

// remove deletes a message by its sequence.
func (j *Janitor) remove(ctx context.Context, f forgotten, sequence uint64) error {
	name, _, _ := f.places(j.c.ns)
	return j.removeFrom(ctx, name, sequence)
}

func (j *Janitor) removeFrom(ctx context.Context, name string, sequence uint64) error {
	return j.ask(ctx, fmt.Sprintf("stream %s: delete %d", name, sequence), func(ctx context.Context) error {
		body, err := json.Marshal(deleteRequest{sequence, true})
		if err != nil {
			return err
		}
		m, err := j.c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.MSG.DELETE."+name, body)
		if err != nil {
			return err
		}
		var answer struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return err
		}
		if answer.Error != nil && answer.Error.ErrorCode != codeNoMessage && answer.Error.ErrorCode != codeNoSequence {
			return answer.Error
		}
		return nil
	})
}

// deleteRequest is what the API takes; the disk is not overwritten.
type deleteRequest struct {
	Sequence uint64 `json:"seq"`
	NoErase  bool   `json:"no_erase"`
}

// What the server says where the message has gone.
const (
	codeNoMessage  = 10037
	codeNoSequence = 10043
)

// forgotten reads a message as the worker would that is given it.
func (c *Client) forgotten(f forgotten, m *stored) (*delivery, error) {
	parse := c.ns.ParseTask
	if f.due {
		parse = c.ns.ParseDue
	}
	addr, err := parse(m.subject)
	if err != nil {
		return nil, err
	}
	meta, err := wire.ParseMeta(m.header, m.time)
	if err != nil {
		return nil, err
	}
	d := &delivery{
		msg: &nats.Msg{Subject: m.subject, Header: nats.Header(m.header), Data: m.data},
		due: f.due, parked: f.due && wasParked(m.header), addr: addr, meta: meta, id: taskID(addr, meta, m.sequence), sequence: m.sequence, published: m.time,
	}
	if !f.due && meta.Run == 1 && d.explicit() {
		if err := wire.CheckExplicitID(d.queue(), d.id); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// leaderRecord is readRecord by way of the leader, which does not lag.
func (c *Client) leaderRecord(ctx context.Context, queue, id string) (*Record, uint64, error) {
	m, err := c.leaderLast(ctx, c.ns.ResultsStream(queue), c.ns.RecordSubject(queue, id))
	if err != nil || m == nil {
		return nil, 0, err
	}
	if m.header.Value(headerKVOperation) != "" {
		return nil, m.sequence, nil
	}
	r, err := wire.DecodeRecord(id, m.data)
	if err != nil {
		return nil, m.sequence, nil //nolint:nilerr // somebody else's value is no state of the task
	}
	return r, m.sequence, nil
}

// leaderNext reads the first message at a sequence or after it that matches a
// filter, by way of the stream's leader. It returns nil where there is none.
func (c *Client) leaderNext(ctx context.Context, stream, filter string, sequence uint64) (*stored, error) {
	return c.leaderRead(ctx, stream, leaderRequest{Sequence: sequence, NextFor: filter})
}
