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

	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// dedupWindow is how long after its first try a plain publish may be retried
// under its Nats-Msg-Id. The stream remembers ids for 30 s; a copy that is
// under way when the window ends must still meet its own id there.
const dedupWindow = 20 * time.Second

// publish stores one task and returns its id. With ErrExists it returns the id
// that exists.
func (c *Client) publish(ctx context.Context, task string, body []byte, o sendOptions) (string, error) {
	if err := o.checkSingle(); err != nil {
		return "", err
	}
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
	ack, err := c.publishKnown(waitingForRoom(ctx, o.waitForRoom), m, lane, o.id != "")
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

// taskMessage builds the message of a task whose sender waits: a try of it that
// was stored can be recognised.
func (c *Client) taskMessage(task string, body []byte, o sendOptions) (*nats.Msg, error) {
	m, err := c.bareMessage(task, body, o)
	if err != nil {
		return nil, err
	}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	m.Header[headerMsgID] = []string{rand.Text()}
	return m, nil
}

// bareMessage checks what the caller gave and builds the message, with no
// header that nobody asked for.
func (c *Client) bareMessage(task string, body []byte, o sendOptions) (*nats.Msg, error) {
	if o.err != nil {
		return nil, o.err
	}
	if err := wire.CheckQueue(o.queue); err != nil {
		return nil, err
	}
	if err := checkOwnTask(task); err != nil {
		return nil, err
	}
	if err := c.checkBody(task, body); err != nil {
		return nil, err
	}
	if err := checkHeader(o.header); err != nil {
		return nil, fmt.Errorf("task %s: %w", task, err)
	}
	m := &nats.Msg{Header: nats.Header(o.header), Data: body}
	if o.id != "" || o.explicit {
		if err := wire.CheckExplicitID(o.queue, o.id); err != nil {
			return nil, err
		}
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header[headerExpectLastSubj] = []string{"0"}
	}
	m.Subject = c.ns.TaskSubject(wire.Address{Lane: o.lane(), Task: task, ID: o.id})
	return m, nil
}

// publishKnown publishes until the outcome is known. Each try carries the same
// Nats-Msg-Id, so within the stream's window a second copy is recognised; a
// task with an explicit id is also recognised by the message that holds its
// subject.
func (c *Client) publishKnown(ctx context.Context, m *nats.Msg, lane wire.Lane, explicit bool) (*jetstream.PubAck, error) {
	var sent time.Time // of the first try that may have been stored
	var full error     // there was no room at the last try
	var gone absence
	refused := 0
	wait := 50 * time.Millisecond
	for {
		doubt, began := !sent.IsZero(), time.Now()
		ack, err := c.publishOnce(ctx, m)
		outcome := classify(err)
		if outcome != outcomeAbsent {
			gone = absence{}
		}
		switch outcome {
		case outcomeStored:
			return ack, nil
		case outcomeFull:
			switch {
			case doubt:
				return nil, fmt.Errorf("%w: the queue is full now: %w", ErrUnconfirmed, err)
			case !waitsForRoom(ctx):
				return nil, fmt.Errorf("%w: %w", ErrQueueFull, err)
			case ctx.Err() != nil:
				return nil, fmt.Errorf("%w until %w: %w", ErrQueueFull, context.Cause(ctx), err)
			}
			full = err
		case outcomeInvalid:
			if doubt { // an earlier try may have come before what forbids it now
				return nil, fmt.Errorf("%w: it is refused now: %w", ErrUnconfirmed, err)
			}
			return nil, err
		case outcomeRefused:
			if doubt {
				if own, err := c.ownCopy(ctx, m, lane, err); own != nil || err != nil {
					return own, err
				}
			}
			if refused < len(freedLate) && c.replicated() {
				wait = freedLate[refused]
				refused++
				break
			}
			return nil, fmt.Errorf("%w: it waits or runs", ErrExists)
		case outcomeAbsent:
			if gone.believed(ctx, c, lane) {
				return nil, absentError(lane, doubt)
			}
		case outcomeUnknown:
			if !doubt && !errors.Is(err, errNotSent) {
				sent, doubt = began, true
			}
			switch {
			case errors.Is(err, ErrClosed) && doubt:
				return nil, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
			case errors.Is(err, ErrClosed):
				return nil, err
			case ctx.Err() != nil:
				return nil, endedError(ctx, doubt)
			}
		}
		if doubt && !explicit && time.Since(sent) > c.dedupFor { // one more could be stored twice
			return nil, fmt.Errorf("%w: no answer for %s", ErrUnconfirmed, c.dedupFor)
		}
		select {
		case <-ctx.Done():
			if full != nil && !doubt {
				return nil, fmt.Errorf("%w until %w: %w", ErrQueueFull, context.Cause(ctx), full)
			}
			if gone.began() && !doubt {
				return nil, silentError(lane, context.Cause(ctx))
			}
			return nil, endedError(ctx, doubt)
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// freedLate is how long a publish with an explicit id is repeated before the id
// is said to exist. On several replicas the leader counts a message for a few
// milliseconds after its removal was confirmed.
var freedLate = []time.Duration{2 * time.Millisecond, 4 * time.Millisecond, 8 * time.Millisecond, 16 * time.Millisecond, 20 * time.Millisecond}

// replicated reports whether a stream may have more than one replica. Its
// settings are not asked for: who may publish may not see them.
func (c *Client) replicated() bool { return c.nc.ConnectedClusterName() != "" }

// roomKey marks the context of a publish that waits where its queue is full.
type roomKey struct{}

func waitingForRoom(ctx context.Context, wait bool) context.Context {
	if !wait {
		return ctx
	}
	return context.WithValue(ctx, roomKey{}, true)
}

func waitsForRoom(ctx context.Context) bool { return ctx.Value(roomKey{}) != nil }

// endedError is a publish whose context ended before its outcome was known.
func endedError(ctx context.Context, doubtful bool) error {
	if doubtful {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
	}
	return fmt.Errorf("%w: nothing was stored: %w", ErrUnreachable, context.Cause(ctx))
}

// silentError is a publish that ended before it was known whether there is such a
// queue.
func silentError(lane wire.Lane, cause error) error {
	return fmt.Errorf("%w: nothing was stored: no stream of %s has answered: %w", ErrUnreachable, lane, cause)
}

func absentError(lane wire.Lane, doubtful bool) error {
	if doubtful {
		return fmt.Errorf("%w: no stream answers any more", ErrUnconfirmed)
	}
	return fmt.Errorf("%w: no stream takes the tasks of %s (pelton setup apply makes it)", ErrNoQueue, lane)
}

func (c *Client) checkBody(task string, body []byte) error {
	if err := c.limits.CheckSize(body); err != nil {
		return fmt.Errorf("task %s: %w: %w", task, ErrTooLarge, err)
	}
	if err := c.limits.CheckJSON(body); err != nil {
		return fmt.Errorf("task %s: %w", task, err)
	}
	return nil
}

// checkHeader refuses what no worker would take: it reads the headers as they do.
func checkHeader(h wire.Header) error {
	_, err := wire.ParseMeta(h, time.Now())
	if bad, ok := errors.AsType[*wire.NameError](err); ok && bad.Field == "headers" {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// errNotSent is a try that did not leave this process.
var errNotSent = errors.New("not connected")

// publishOnce publishes and waits for the answer.
func (c *Client) publishOnce(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	w, err := c.publisher()
	if err != nil {
		return nil, err
	}
	a := awaitedPool.Get().(*awaited)
	number, err := w.send(ctx, m, a)
	if err != nil {
		awaitedPool.Put(a)
		return nil, err
	}
	return a.wait(ctx, w, number)
}

// ownCopy tells whether the message that refuses an explicit id is a copy of
// this very publish, whose PubAck was lost.
func (c *Client) ownCopy(ctx context.Context, m *nats.Msg, lane wire.Lane, refusal error) (*jetstream.PubAck, error) {
	stream := c.ns.TaskStream(lane)
	if strings.HasPrefix(m.Subject, c.ns.LaterSubject(lane, "")) {
		stream = c.ns.LaterStream(lane)
	}
	s, sure := c.refusing(ctx, stream, m.Subject, refusal)
	if !sure {
		var err error
		if s, err = c.leaderLast(ctx, stream, m.Subject); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
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

// refusing reads the message of a subject that a refusal names, by direct get:
// the sender of a task may do that where it may not ask the leader. On several
// replicas it is read again until one knows the message; where none does, sure
// is false. It is nil where the message has gone.
func (c *Client) refusing(ctx context.Context, stream, subject string, refusal error) (s *stored, sure bool) {
	named, _ := ledger.Newest(refusal)
	for try := 0; ; try++ {
		s, err := c.directLast(ctx, stream, subject)
		switch {
		case err != nil:
			return nil, false
		case s != nil && s.sequence >= named, !c.replicated():
			return s, true
		case try == len(freedLate) || pause(ctx, freedLate[try]) != nil:
			return nil, false
		}
	}
}
