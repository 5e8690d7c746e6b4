package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// fireEarly is how much before its time the broker is told to make a parked
// task due. Its timer ticks every 250 ms; the worker holds the task for the
// rest.
const fireEarly = 500 * time.Millisecond

// schedule makes a message one that the broker holds until a time (ADR-51).
// Publishing it again replaces what waits under its id. The schedule is written
// with nanoseconds: cut to seconds it would fire early.
func (c *Client) schedule(m *nats.Msg, a wire.Address, eta time.Time) {
	h := wire.Header(m.Header)
	h.Delete(wire.HeaderDelay)
	h.Delete(wire.HeaderID) // the subject has it
	h.Set(wire.HeaderETA, wire.FormatTime(eta))
	h[headerSchedule] = []string{"@at " + wire.FormatTime(eta.Add(-fireEarly))}
	h[headerScheduleTarget] = []string{c.ns.DueSubject(a)}
	m.Subject = c.ns.LaterSubject(a.Lane, a.ID)
}

// publishLater stores a task that waits for its time and returns its id, one of
// its own or a random one. A task that waits, runs or is parked under the id is
// [ErrExists].
func (c *Client) publishLater(ctx context.Context, task string, body []byte, o sendOptions) (string, error) {
	if !o.explicit {
		o.id = randomID()
	}
	m, err := c.taskMessage(task, body, o)
	if err != nil {
		return "", err
	}
	a := wire.Address{Lane: o.lane(), Task: task, ID: o.id}
	c.schedule(m, a, o.eta)
	if o.explicit {
		if err := c.waitNotTaken(ctx, a); err != nil {
			return o.id, fmt.Errorf("task %s, id %s: %w", task, o.id, err)
		}
	}
	_, err = c.publishKnown(waitingForRoom(ctx, o.waitForRoom), m, a.Lane, true)
	if !o.explicit && errors.Is(err, ErrExists) {
		err = nil // nobody else has a random id: it is this very task, which was stored by a try whose answer was lost
	}
	if err != nil {
		return o.id, fmt.Errorf("task %s, id %s: %w", task, o.id, err)
	}
	if o.tracked {
		return o.id, c.track(ctx, m, a)
	}
	return o.id, nil
}

// randomID is an id that nobody has or will have: 128 random bits.
func randomID() string { return strings.ToLower(rand.Text()) }

// waitNotTaken asks notTaken until the broker answers.
func (c *Client) waitNotTaken(ctx context.Context, a wire.Address) error {
	wait := 50 * time.Millisecond
	for gone := (absence{}); ; {
		err := c.notTaken(ctx, a)
		again := errors.Is(err, ErrUnreachable)
		if errors.Is(err, ErrNoQueue) {
			again = !gone.believed(ctx, c, a.Lane)
		} else {
			gone = absence{}
		}
		switch {
		case !again:
			return err
		case ctx.Err() != nil:
			return endedError(ctx, false)
		}
		select {
		case <-ctx.Done():
			return endedError(ctx, false)
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// notTaken reports whether an id is free for a task that is to wait: the broker
// compares it with the waiting ones only. It reads no more than the subjects
// that the sender writes to. Two sends at the same moment, one of them delayed,
// may both pass; the worker then drops the second.
func (c *Client) notTaken(ctx context.Context, a wire.Address) error {
	r, _, err := c.readRecord(ctx, a.Lane.Queue, a.ID)
	if err != nil {
		return err
	}
	if r != nil && r.State.Terminal() {
		return nil // it is sent, and dropped for as long as the record lives
	}
	if r == nil {
		if r, err = c.lookupExplicit(ctx, a.Lane.Queue, a.ID, c.directLast); err != nil {
			return err
		}
	}
	if r != nil {
		return fmt.Errorf("%w: it is %s", ErrExists, r.State)
	}
	return nil
}

// track writes the record of a task that waits for its time. A record that is
// there already is a worker's, which knows more.
func (c *Client) track(ctx context.Context, m *nats.Msg, a wire.Address) error {
	r := c.waiting(&stored{subject: m.Subject, time: time.Now(), header: wire.Header(m.Header)}, a.Lane.Queue, a.ID, wire.StateScheduled)
	r.Due = true
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := c.permitted(ctx, c.ns.RecordSubject(r.Queue, r.ID), func(ctx context.Context) error {
			_, err := c.casRecord(ctx, r, 0)
			return err
		})
		switch classify(err) {
		case outcomeStored, outcomeRefused:
			return nil
		case outcomeInvalid:
			return fmt.Errorf("task %s is stored, its record is not: %w", a.ID, err)
		default:
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("task %s is stored, its record is not: %w", a.ID, errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
}
