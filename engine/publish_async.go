package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// awaited is a publish whose caller waits for the answer.
type awaited struct {
	landed   chan struct{} // of capacity 1
	sequence uint64
	err      error
}

func (a *awaited) land(sequence uint64, err error) {
	a.sequence, a.err = sequence, err
	a.landed <- struct{}{}
}

var awaitedPool = sync.Pool{New: func() any { return &awaited{landed: make(chan struct{}, 1)} }}

// wait is the answer to a flight. When ctx ends first the flight is given up.
func (a *awaited) wait(ctx context.Context, w *window, number uint64) (*jetstream.PubAck, error) {
	select {
	case <-a.landed:
	case <-ctx.Done():
		if w.forget(number) {
			awaitedPool.Put(a)
			return nil, context.Cause(ctx)
		}
		<-a.landed
	}
	sequence, err := a.sequence, a.err
	awaitedPool.Put(a)
	if err != nil {
		return nil, err
	}
	return &jetstream.PubAck{Sequence: sequence}, nil
}

// Future is a task that is being sent. It is safe for concurrent use.
type Future[Out any] struct{ sending }

// sending is what is known of a task that is being sent, without its types.
type sending struct {
	c    *Client
	task string
	o    sendOptions
	done chan struct{}
	id   string // both are read after done
	err  error
}

func (s *sending) land(sequence uint64, err error) {
	lane := s.o.lane()
	switch {
	case err != nil:
		s.id, s.err = s.o.id, fmt.Errorf("task %s: queue %q: %w", s.task, s.o.queue, unwaited(err, lane))
	case s.o.id != "":
		s.id = s.o.id
	default:
		s.id = wire.FreeID(lane, sequence)
	}
	close(s.done)
}

// unwaited is what the answer to a publish means that nothing can be asked
// about again.
func unwaited(err error, lane wire.Lane) error {
	switch classify(err) {
	case outcomeStored:
		return nil
	case outcomeFull:
		return fmt.Errorf("%w: %w", ErrQueueFull, err)
	case outcomeRefused:
		return fmt.Errorf("%w: it waits or runs", ErrExists)
	case outcomeAbsent:
		return fmt.Errorf("%w: no stream takes the tasks of %s: there is none (pelton setup apply makes it), or it has no leader at the moment", ErrNoQueue, lane)
	case outcomeInvalid:
		return err
	case outcomeUnknown:
		if errors.Is(err, errNotSent) {
			return fmt.Errorf("%w: nothing was stored: %w", ErrUnreachable, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
}

// Done is closed when the outcome of the send is known.
func (f *Future[Out]) Done() <-chan struct{} { return f.done }

// Err is nil until Done is closed, and then how the send ended; the errors are
// those of [Task.SendAsync].
func (f *Future[Out]) Err() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// Result waits until the broker has stored the task, and returns what
// [Task.Send] would. When ctx ends first its error is returned and the send
// goes on.
func (f *Future[Out]) Result(ctx context.Context) (*Result[Out], error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if f.err != nil && !errors.Is(f.err, ErrExists) {
		return nil, f.err
	}
	return &Result[Out]{c: f.c, queue: f.o.queue, id: f.id}, f.err
}

// SendAsync publishes a task without waiting for the broker. Up to 4,096 tasks
// or 32 MiB of a client may be under way; with more it waits for room until ctx
// ends. An error returned means that nothing was sent; how the send ended is
// told by the future.
//
// A task with a time ahead waits in the broker as with [Task.Send]; whether its
// explicit id is taken by a task that waits in the queue or runs is not looked
// at, and the worker drops a copy.
//
// The task carries nothing that it could be recognised by: when the answer of
// the broker is lost the future fails at once with [ErrUnconfirmed]. Its other
// errors are those of [Task.Send], and all of them mean that nothing was
// stored. [Client.Flush] waits for all that is under way.
func (t *Task[In, Out]) SendAsync(ctx context.Context, c *Client, in In, opts ...SendOption) (*Future[Out], error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("task %s: body: %w", t.name, err)
	}
	f := &Future[Out]{sending{c: c, task: t.name, o: t.opts.clone()}}
	return f, f.send(ctx, body, opts)
}

// SendRawAsync publishes a task by name with a body that is JSON already; see
// [Task.SendAsync].
func (c *Client) SendRawAsync(ctx context.Context, queue, task string, body []byte, opts ...SendOption) (*Future[json.RawMessage], error) {
	f := &Future[json.RawMessage]{sending{c: c, task: task, o: sendOptions{queue: queue}}}
	return f, f.send(ctx, body, opts)
}

func (s *sending) send(ctx context.Context, body []byte, opts []SendOption) error {
	for _, opt := range opts {
		opt.sendOption(&s.o)
	}
	if err := s.o.checkFuture(); err != nil {
		return err
	}
	m, err := s.message(body)
	if err != nil {
		return err
	}
	w, err := s.c.publisher()
	if err == nil {
		s.done = make(chan struct{})
		_, err = w.send(ctx, m, s)
	}
	if err != nil {
		return fmt.Errorf("task %s: queue %q: %w", s.task, s.o.queue, unsent(err))
	}
	return nil
}

// message is the task as it is stored: in its queue, or until its time in the
// broker's schedule, which needs an id.
func (s *sending) message(body []byte) (*nats.Msg, error) {
	later, err := s.o.settleTime(time.Now())
	if err != nil {
		return nil, err
	}
	if later && !s.o.explicit {
		s.o.id = randomID()
	}
	m, err := s.c.bareMessage(s.task, body, s.o)
	if err == nil && later {
		s.c.schedule(m, wire.Address{Lane: s.o.lane(), Task: s.task, ID: s.o.id}, s.o.eta)
	}
	return m, err
}

// unsent is why a publish did not leave.
func unsent(err error) error {
	if errors.Is(err, ErrClosed) || classify(err) == outcomeInvalid {
		return err
	}
	return fmt.Errorf("%w: nothing was stored: %w", ErrUnreachable, err)
}

// Flush waits until every task of [Task.SendAsync] that is under way has its
// outcome. Their futures tell which.
func (c *Client) Flush(ctx context.Context) error {
	c.windowMu.Lock()
	w := c.window
	c.windowMu.Unlock()
	if w == nil {
		return nil
	}
	return w.flush(ctx)
}
