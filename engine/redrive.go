package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// Redrive says which dead letters of a queue are to run again: one by its id,
// those of a task, or all.
type Redrive struct {
	Queue string `json:"queue"`
	Task  string `json:"task,omitempty"`
	ID    string `json:"id,omitempty"`
}

func (r Redrive) check() error {
	if err := wire.CheckQueue(r.Queue); err != nil {
		return err
	}
	if r.Task != "" {
		if err := wire.CheckTask(r.Task); err != nil {
			return err
		}
	}
	if r.ID != "" {
		return wire.CheckID(r.ID)
	}
	return nil
}

// filter is the subject of what is meant.
func (r Redrive) filter(ns wire.Namespace) string {
	task, id := r.Task, r.ID
	if task == "" {
		task = "*"
	}
	if id == "" {
		id = "*"
	}
	return ns.DeadSubject(r.Queue, task, id)
}

// Redriven is what came of it.
type Redriven struct {
	Again   int       `json:"again"`             // tasks that run again
	Removed int       `json:"removed"`           // letters of a run that another one has followed already
	Refused int       `json:"refused"`           // letters that stay
	Why     []Refusal `json:"why,omitempty"`     // of the first of these
	Failure string    `json:"failure,omitempty"` // what ended it before its end
}

// Refusal is why a dead letter stays.
type Refusal struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// refusalsTold is how many refusals an answer tells of.
const refusalsTold = 20

// Redrive has the janitor run dead letters again: the same id, its next run, the
// attempts anew, at once and whatever time or expiry the task had. Letters that
// come meanwhile stay. The janitor goes on when ctx has ended; asked again, it
// goes on with what is left. Where none runs the error is [ErrUnreachable].
func (c *Client) Redrive(ctx context.Context, r Redrive) (Redriven, error) {
	var done Redriven
	if err := r.check(); err != nil {
		return done, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return done, err
	}
	subject := c.ns.RedriveSubject(r.Queue)
	var m *nats.Msg
	err = c.permittedAt(ctx, subject, func(ctx context.Context) (err error) {
		m, err = c.nc.RequestWithContext(ctx, subject, body)
		return err
	})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return done, fmt.Errorf("no janitor of queue %s runs: %w", r.Queue, ErrUnreachable)
	case err != nil:
		return done, requestError("redrive", err)
	}
	if err := json.Unmarshal(m.Data, &done); err != nil {
		return done, fmt.Errorf("redrive: %w", err)
	}
	if done.Failure != "" {
		return done, fmt.Errorf("redrive: %s", done.Failure)
	}
	return done, nil
}

// redriveAsked does what a message asks for, and answers below an inbox, and
// nowhere else: the answer goes out with the janitor's rights.
func (j *Janitor) redriveAsked(ctx context.Context, m *nats.Msg) error {
	var r Redrive
	err := json.Unmarshal(m.Data, &r)
	if err == nil {
		err = r.check()
	}
	if err == nil && m.Subject != j.c.ns.RedriveSubject(r.Queue) {
		err = &wire.NameError{Field: "queue", Value: r.Queue, Rule: "must be that of the subject"}
	}
	var done Redriven
	if err == nil {
		done, err = j.redriveAll(ctx, r)
		j.log.InfoContext(ctx, "dead letters redriven", "queue", r.Queue, "again", done.Again, "removed", done.Removed, "refused", done.Refused)
	}
	if err != nil {
		done.Failure = err.Error()
	}
	if strings.HasPrefix(m.Reply, "_INBOX") {
		answer, errAnswer := json.Marshal(done)
		if errAnswer == nil {
			errAnswer = j.c.nc.Publish(m.Reply, answer)
		}
		err = errors.Join(err, errAnswer)
	}
	return err
}

// redriveAll redrives what stands there now.
func (j *Janitor) redriveAll(ctx context.Context, r Redrive) (done Redriven, err error) {
	stream, filter := j.c.ns.DeadStream(), r.filter(j.c.ns)
	last, err := j.c.leaderLast(ctx, stream, filter)
	if err != nil || last == nil {
		return done, err
	}
	for from := uint64(1); ; {
		j.loop.Turn()
		m, err := j.c.leaderNext(ctx, stream, filter, from)
		if err != nil || m == nil || m.sequence > last.sequence {
			return done, err
		}
		from = m.sequence + 1
		again, err := j.redrive(ctx, m)
		var refused *refusedError
		switch {
		case errors.As(err, &refused):
			done.Refused++
			if len(done.Why) < refusalsTold {
				done.Why = append(done.Why, Refusal{refused.id, refused.why})
			}
		case err != nil:
			return done, err
		case again:
			done.Again++
		default:
			done.Removed++
		}
	}
}

// refusedError is a dead letter that cannot run again.
type refusedError struct{ id, why string }

func (e *refusedError) Error() string { return e.id + ": " + e.why }

// redrive runs one task again: its record says queued of the next run first, by
// compare-and-set, then its message is published, then the letter removed. Each
// step may be repeated; a letter whose record is of a later run is left over
// from that.
func (j *Janitor) redrive(ctx context.Context, letter *stored) (again bool, err error) {
	d, err := j.c.died(letter)
	if err != nil {
		return false, err
	}
	r, revision, err := j.c.leaderRecord(ctx, d.queue(), d.id)
	if err != nil {
		return false, err
	}
	switch {
	case r == nil:
		r = &Record{}
		d.describe(r, "")
	case r.Run == d.meta.Run && r.State != wire.StateFailed:
		return false, &refusedError{d.id, "it is " + string(r.State)}
	}
	if r.Run <= d.meta.Run {
		next := nextRun(r, d.meta.Run+1)
		if _, err := j.c.casRecord(ctx, next, revision); err != nil {
			return false, fmt.Errorf("record of %s: %w", d.id, err)
		}
		r = next
	}
	if again = r.Run == d.meta.Run+1 && r.State == wire.StateQueued; again {
		if err := j.publishAnew(ctx, d, r); err != nil {
			return false, fmt.Errorf("task %s: %w", d.id, err)
		}
	}
	return again, j.removeFrom(ctx, j.c.ns.DeadStream(), letter.sequence)
}

// nextRun is the record of a task that runs again on purpose. What is known of the
// run before is its dead letter's.
func nextRun(r *Record, run int) *Record {
	return &Record{
		ID: r.ID, Run: run, Task: r.Task, Queue: r.Queue, State: wire.StateQueued, Attempt: 1, Generation: r.Generation, Priority: r.Priority,
		Origin: r.Origin, QueuedAt: time.Now().UTC(), Parent: r.Parent, Root: r.Root, ReplyTopic: r.ReplyTopic, ReplyKey: r.ReplyKey,
		Trace: r.Trace, TraceState: r.TraceState, Baggage: r.Baggage,
	}
}

// publishAnew makes a task of a dead letter due at once.
func (j *Janitor) publishAnew(ctx context.Context, d *delivery, r *Record) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	d.meta.Expires = time.Time{}
	d.addr.Lane = laneOf(r)
	m := j.c.parkMessage(d, r, 1, time.Now())
	m.Header[wire.HeaderRun] = []string{strconv.Itoa(r.Run)}
	return j.c.publishAgain(ctx, m)
}

// died reads a dead letter as the delivery of the task's last attempt.
func (c *Client) died(letter *stored) (*delivery, error) {
	addr, err := c.ns.ParseDead(letter.subject)
	if err != nil {
		return nil, &refusedError{letter.subject, err.Error()}
	}
	h := letter.header.Own()
	text := h.Value(wire.HeaderError)
	switch {
	case strings.HasPrefix(addr.Task, wire.ReservedTaskPrefix):
		return nil, &refusedError{addr.ID, "no rule made a task of it, or its subject names none"}
	case len(letter.data) == deadHead && strings.Contains(text, " bytes the first "):
		return nil, &refusedError{addr.ID, "the letter does not have all of its body"}
	}
	for _, name := range []string{wire.HeaderErrorType, wire.HeaderError, wire.HeaderDiedAt, wire.HeaderExpires, wire.HeaderDelay, wire.HeaderETA} {
		h.Delete(name)
	}
	meta, err := wire.ParseMeta(h, letter.time)
	if err != nil {
		return nil, &refusedError{addr.ID, err.Error()}
	}
	return &delivery{
		msg: &nats.Msg{Header: nats.Header(h), Data: letter.data}, addr: addr, meta: meta, id: addr.ID, published: letter.time,
	}, nil
}
