package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// dedupWindow is how long after its first try a plain publish may be retried
// under its Nats-Msg-Id. The stream remembers ids for 30 s; a copy that is
// under way when the window ends must still meet its own id there.
const dedupWindow = 20 * time.Second

// publish stores one task and returns its id. With ErrExists it returns the id
// that exists.
func (c *Client) publish(ctx context.Context, task string, body []byte, o sendOptions) (string, error) {
	later, err := o.settleTime(time.Now())
	if err != nil {
		return "", err
	}
	if later {
		return c.publishLater(ctx, task, body, o)
	}
	m, err := c.taskMessage(task, body, o)
	if err != nil {
		return "", err
	}
	lane := o.lane()
	ack, err := c.publishKnown(ctx, m, lane, o.id != "")
	switch {
	case err != nil && o.id != "":
		return o.id, fmt.Errorf("task %s, id %s: %w", task, o.id, err)
	case err != nil:
		return "", fmt.Errorf("task %s: queue %q: %w", task, o.queue, err)
	case o.id != "":
		return o.id, nil
	}
	return wire.FreeID(lane, ack.Sequence), nil
}

// taskMessage checks what the caller gave and builds the message.
func (c *Client) taskMessage(task string, body []byte, o sendOptions) (*nats.Msg, error) {
	if o.err != nil {
		return nil, o.err
	}
	if err := wire.CheckQueue(o.queue); err != nil {
		return nil, err
	}
	if err := checkOwnTask(task); err != nil {
		return nil, err
	}
	if err := c.limits.CheckSize(body); err != nil {
		return nil, fmt.Errorf("task %s: %w: %w", task, ErrTooLarge, err)
	}
	if err := c.limits.CheckJSON(body); err != nil {
		return nil, fmt.Errorf("task %s: %w", task, err)
	}
	m := &nats.Msg{Header: nats.Header(o.header), Data: body}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	if o.id != "" {
		if err := wire.CheckExplicitID(o.queue, o.id); err != nil {
			return nil, err
		}
		m.Header[headerExpectLastSubj] = []string{"0"}
	}
	m.Header[headerMsgID] = []string{rand.Text()}
	m.Subject = c.ns.TaskSubject(wire.Address{Lane: o.lane(), Task: task, ID: o.id})
	return m, nil
}

// publishKnown publishes until the outcome is known. Each try carries the same
// Nats-Msg-Id, so within the stream's window a second copy is recognised; a
// task with an explicit id is also recognised by the message that holds its
// subject.
func (c *Client) publishKnown(ctx context.Context, m *nats.Msg, lane wire.Lane, explicit bool) (*jetstream.PubAck, error) {
	var sent time.Time // of the first try that may have been stored
	wait := 50 * time.Millisecond
	for try := 0; ; try++ {
		doubt, began := !sent.IsZero(), time.Now()
		ack, err := c.publishOnce(ctx, m)
		switch classify(err) {
		case outcomeStored:
			return ack, nil
		case outcomeFull:
			if doubt {
				return nil, fmt.Errorf("%w: the queue is full now: %w", ErrUnconfirmed, err)
			}
			return nil, fmt.Errorf("%w: %w", ErrQueueFull, err)
		case outcomeInvalid:
			return nil, err
		case outcomeRefused:
			if doubt {
				if own, err := c.ownCopy(ctx, m, lane); own != nil || err != nil {
					return own, err
				}
			}
			return nil, fmt.Errorf("%w: it waits or runs", ErrExists)
		case outcomeAbsent:
			if try >= absentTries {
				return nil, absentError(lane, doubt)
			}
		case outcomeUnknown:
			if !doubt && !errors.Is(err, errNotSent) {
				sent, doubt = began, true
			}
			if ctx.Err() != nil {
				return nil, endedError(ctx, doubt)
			}
			if doubt && !explicit && time.Since(sent) > dedupWindow {
				return nil, fmt.Errorf("%w: no answer for %s", ErrUnconfirmed, dedupWindow)
			}
		}
		select {
		case <-ctx.Done():
			return nil, endedError(ctx, doubt)
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// absentTries is how often a publish that nobody takes is repeated: a stream
// without a leader looks like no stream for a moment.
const absentTries = 4

// endedError is a publish whose context ended before its outcome was known.
func endedError(ctx context.Context, doubtful bool) error {
	if doubtful {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
	}
	return fmt.Errorf("%w: nothing was stored: %w", ErrUnreachable, context.Cause(ctx))
}

func absentError(lane wire.Lane, doubtful bool) error {
	if doubtful {
		return fmt.Errorf("%w: no stream answers any more", ErrUnconfirmed)
	}
	return fmt.Errorf("%w: no stream takes the tasks of %s (pelton setup apply makes it)", ErrNoQueue, lane)
}

// errNotSent is a try that did not leave this process.
var errNotSent = errors.New("not connected")

func (c *Client) publishOnce(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	if c.nc.Status() != nats.CONNECTED {
		return nil, errNotSent // and shall not leave it later, when its id is forgotten
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	var ack *jetstream.PubAck
	err := c.permitted(ctx, m.Subject, func(ctx context.Context) (err error) {
		ack, err = c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		return err
	})
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		return nil, errNotSent
	}
	return ack, err
}

// ownCopy tells whether the message that refuses an explicit id is a copy of
// this very publish, whose PubAck was lost.
func (c *Client) ownCopy(ctx context.Context, m *nats.Msg, lane wire.Lane) (*jetstream.PubAck, error) {
	stream := c.ns.TaskStream(lane)
	if strings.HasPrefix(m.Subject, c.ns.LaterSubject(lane, "")) {
		stream = c.ns.LaterStream(lane)
	}
	s, err := c.leaderLast(ctx, stream, m.Subject)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	if s == nil {
		// It has left the queue since: somebody's copy ran. The record under the
		// id tells its outcome, whoever sent it.
		return nil, nil
	}
	if s.header.Value(headerMsgID) != m.Header[headerMsgID][0] {
		return nil, nil
	}
	return &jetstream.PubAck{Stream: stream, Sequence: s.sequence, Duplicate: true}, nil
}
