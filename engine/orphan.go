package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

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

// floorMark is where the floor of a consumer stood at an instant. A message below
// it that still stands after a while is forgotten; at once it may be one whose
// acknowledgement removes it a little after the floor has risen.
type floorMark struct {
	floor   uint64
	created time.Time // the consumer: one that is made again begins again
	since   time.Time
}

// mended is what a lane's streams need and have had.
type mended struct {
	mark *floorMark      // nil while nothing stands below the floor
	said map[uint64]bool // messages that are no tasks: they stay
	sure bool            // all that was forgotten when it was looked at first is put right
}

const (
	// mendMost bounds how many messages are put right before the janitor does
	// what else it is asked for.
	mendMost = 10_000
	// mendTogether is how many are put right at a time: each takes several
	// requests, one after the other.
	mendTogether = 32
	// mendFailures is how many may fail, each for a reason of its own, before the
	// rest waits for the next round.
	mendFailures = 128
)

// mend puts right what has stood below the floor for long enough. It returns how
// long the rest is to be waited for.
func (j *Janitor) mend(ctx context.Context, f forgotten) (wait time.Duration, err error) {
	stream, durable, filter := f.places(j.c.ns)
	consumer, err := j.c.consumerInfo(ctx, stream, durable)
	if err != nil || consumer == nil {
		return j.cfg.Every, err
	}
	state := j.lanes[f]
	if state == nil {
		state = &mended{said: map[uint64]bool{}}
		j.lanes[f] = state
	}
	patience, now, floor := 2*consumer.Config.AckWait, time.Now(), consumer.AckFloor.Stream
	if m := state.mark; m == nil || floor < m.floor || !consumer.Created.Equal(m.created) {
		first, err := j.c.leaderNext(ctx, stream, filter, 1)
		if err != nil {
			return j.cfg.Every, err
		}
		if state.mark = nil; first == nil || first.sequence > floor {
			clear(state.said)
			state.sure = true
			return j.cfg.Every, nil
		}
		state.mark = &floorMark{floor, consumer.Created, now}
	}
	if left := patience - now.Sub(state.mark.since); left > 0 {
		return min(j.cfg.Every, left), nil
	}
	whole, err := j.mendBelow(ctx, f, state)
	switch {
	case err != nil:
		return j.cfg.Every, err
	case !whole:
		return 0, nil
	}
	state.mark, state.sure = nil, true
	return j.cfg.Every, nil
}

// mendBelow puts right what stands below the mark. It tells whether that was all
// of it.
func (j *Janitor) mendBelow(ctx context.Context, f forgotten, state *mended) (whole bool, err error) {
	s := &sweep{j: j, f: f, state: state, from: 1, stay: map[uint64]bool{}}
	for !s.whole && s.failed <= mendFailures && s.requeued+s.removed < j.most {
		some, readErr := s.next(ctx)
		if readErr != nil {
			err = firstError(err, readErr)
			break
		}
		ends := make([]mending, len(some))
		var group sync.WaitGroup
		for i, m := range some {
			group.Go(func() { ends[i] = j.putRight(ctx, f, m) })
		}
		group.Wait()
		for i, end := range ends {
			s.count(ctx, some[i].sequence, end)
			err = firstError(err, end.err)
		}
	}
	if s.requeued+s.removed > 0 {
		j.log.WarnContext(ctx, "tasks that no worker would have been given are put right",
			"stream", s.stream(), "requeued", s.requeued, "removed", s.removed)
	}
	if err != nil || !s.whole {
		return false, err
	}
	state.said = s.stay
	return true, nil
}

// sweep is one way up through what stands below a mark.
type sweep struct {
	j     *Janitor
	f     forgotten
	state *mended

	from                      uint64          // the sequence to read next
	whole                     bool            // nothing stands between it and the mark
	stay                      map[uint64]bool // met on the way, and no tasks
	requeued, removed, failed int
}

func (s *sweep) stream() string {
	stream, _, _ := s.f.places(s.j.c.ns)
	return stream
}

// next reads the next few, without what is known to stay.
func (s *sweep) next(ctx context.Context) (some []*stored, err error) {
	stream, _, filter := s.f.places(s.j.c.ns)
	for len(some) < mendTogether {
		s.j.loop.Turn()
		m, err := s.j.c.leaderNext(ctx, stream, filter, s.from)
		if err != nil {
			return nil, err
		}
		if m == nil || m.sequence > s.state.mark.floor {
			s.whole = true
			break
		}
		s.from = m.sequence + 1
		if s.state.said[m.sequence] {
			s.stay[m.sequence] = true
			continue
		}
		some = append(some, m)
	}
	return some, nil
}

// count keeps what became of a message.
func (s *sweep) count(ctx context.Context, sequence uint64, end mending) {
	switch {
	case end.err != nil:
		s.failed++
	case end.noTask != nil:
		s.stay[sequence], s.state.said[sequence] = true, true
		s.j.log.WarnContext(ctx, "message that no worker will be given is no task, it stays", "stream", s.stream(), "sequence", sequence, "err", end.noTask)
	case end.again:
		s.requeued++
	default:
		s.removed++
	}
}

// mending is what became of a message: it is removed, its task due again where it
// is owed; or it stays because it is no task; or it is not known.
type mending struct {
	again  bool
	noTask error
	err    error
}

// putRight removes one message, after its task was made due again where it is
// owed.
func (j *Janitor) putRight(ctx context.Context, f forgotten, m *stored) (end mending) {
	d, err := j.c.forgotten(f, m)
	if err != nil {
		return mending{noTask: err}
	}
	r, revision, err := j.c.leaderRecord(ctx, d.queue(), d.id)
	if err != nil {
		return mending{err: err}
	}
	switch judge(r, d) {
	case verdictRun:
		if r != nil && r.Run < d.meta.Run {
			r = nil // it is of another life; the one who runs the task writes over it
		}
		end.again, err = true, j.requeue(ctx, d, r, revision)
	case verdictParked:
		end.again, err = true, j.publish(ctx, j.c.parkMessage(d, r, r.Attempt, r.ETA))
	case verdictDone:
	}
	if err != nil {
		return mending{err: fmt.Errorf("task %s: %w", d.id, err)}
	}
	end.err = j.remove(ctx, f, m.sequence)
	return end
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
