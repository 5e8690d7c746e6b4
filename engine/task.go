package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"pelton/engine/wire"
)

// DefaultQueue is the queue of tasks that name none.
const DefaultQueue = "default"

// Task is a kind of work with typed input and output: the one definition that
// senders and workers share. It is immutable.
type Task[In, Out any] struct {
	name string
	opts sendOptions
}

// NewTask defines a task. It panics on a name or a queue that breaks the rules:
// definitions stand in variables, and a bad one is a programming error.
func NewTask[In, Out any](name string, opts ...TaskOption) *Task[In, Out] {
	if err := checkOwnTask(name); err != nil {
		panic(err)
	}
	t := &Task[In, Out]{name: name, opts: sendOptions{queue: DefaultQueue}}
	for _, opt := range opts {
		opt.taskOption(&t.opts)
	}
	if t.opts.err != nil {
		panic(fmt.Errorf("task %s: %w", name, t.opts.err))
	}
	return t
}

// Name is the task's name, the fourth token of its subject.
func (t *Task[In, Out]) Name() string { return t.name }

// Queue is the queue the task is sent to unless a send says otherwise.
func (t *Task[In, Out]) Queue() string { return t.opts.queue }

// Send publishes a task and waits until the broker has stored it. An unknown
// outcome is retried in a way that cannot store it twice: until ctx ends, and for
// 20 s where the task has no id of its own; what nobody can know then is
// [ErrUnconfirmed]. Other errors ([ErrInvalidName], [ErrTooLarge],
// [ErrQueueFull], [ErrNoQueue], [ErrExists], and [ErrUnreachable] where ctx ends
// before the first answer) mean that nothing was stored; with ErrExists the
// result of the task that has the id is returned too.
func (t *Task[In, Out]) Send(ctx context.Context, c *Client, in In, opts ...SendOption) (*Result[Out], error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("task %s: body: %w", t.name, err)
	}
	o := t.opts.clone()
	for _, opt := range opts {
		opt.sendOption(&o)
	}
	id, err := c.publish(ctx, t.name, body, o)
	if id == "" {
		return nil, err
	}
	return &Result[Out]{c: c, queue: o.queue, id: id}, err
}

// Result attaches to a task that was sent before to the task's own queue, by
// its id.
func (t *Task[In, Out]) Result(c *Client, id string) *Result[Out] {
	return &Result[Out]{c: c, queue: t.opts.queue, id: id}
}

// SendRaw publishes a task by name with a body that is JSON already. It is
// [Task.Send] for those who do not know the types.
func (c *Client) SendRaw(ctx context.Context, queue, task string, body []byte, opts ...SendOption) (*Result[json.RawMessage], error) {
	o := sendOptions{queue: queue}
	for _, opt := range opts {
		opt.sendOption(&o)
	}
	id, err := c.publish(ctx, task, body, o)
	if id == "" {
		return nil, err
	}
	return &Result[json.RawMessage]{c: c, queue: o.queue, id: id}, err
}

// Result attaches to a task of a queue by its id.
func (c *Client) Result(queue, id string) *Result[json.RawMessage] {
	return &Result[json.RawMessage]{c: c, queue: queue, id: id}
}

// SendOption changes one send.
type SendOption interface{ sendOption(*sendOptions) }

// TaskOption changes every send of a task, unless that send says otherwise.
type TaskOption interface{ taskOption(*sendOptions) }

// Option is both.
type Option interface {
	SendOption
	TaskOption
}

// sendOptions is what options set. The first error stays.
type sendOptions struct {
	queue  string
	id     string
	header wire.Header
	err    error

	explicit    bool // id is given, be it empty
	waitForRoom bool
	atomic      bool
	allIDs      bool

	timing
}

// checkSingle refuses options of many tasks.
func (o *sendOptions) checkSingle() error {
	switch {
	case o.err != nil:
		return o.err
	case o.atomic:
		return &wire.NameError{Field: "option", Value: "WithAtomic", Rule: "must be given to SendMany only"}
	case o.allIDs:
		return &wire.NameError{Field: "option", Value: "WithAllIDs", Rule: "must be given to SendMany only"}
	}
	return nil
}

// checkFuture refuses options of a send that waits.
func (o *sendOptions) checkFuture() error {
	switch {
	case o.waitForRoom:
		return &wire.NameError{Field: "option", Value: "WithWaitForRoom", Rule: "must not be given to a future"}
	case o.tracked:
		return &wire.NameError{Field: "option", Value: "WithTracked", Rule: "must be given to a send that waits"}
	}
	return o.checkSingle()
}

// checkMany refuses options of one task.
func (o *sendOptions) checkMany() error {
	switch {
	case o.err != nil:
		return o.err
	case o.explicit:
		return &wire.NameError{Field: "id", Value: o.id, Rule: "must not be given to many tasks at once"}
	case o.tracked:
		return &wire.NameError{Field: "option", Value: "WithTracked", Rule: "must be given to a send of one task"}
	}
	return nil
}

func (o sendOptions) clone() sendOptions {
	o.header = maps.Clone(o.header)
	return o
}

func (o *sendOptions) set(name, value string) {
	if o.header == nil {
		o.header = wire.Header{}
	}
	o.header.Set(name, value)
}

func (o *sendOptions) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

type option func(*sendOptions)

func (f option) sendOption(o *sendOptions) { f(o) }
func (f option) taskOption(o *sendOptions) { f(o) }

type sendOnly func(*sendOptions)

func (f sendOnly) sendOption(o *sendOptions) { f(o) }

// WithQueue sends to another queue.
func WithQueue(queue string) Option {
	return option(func(o *sendOptions) {
		if err := wire.CheckQueue(queue); err != nil {
			o.fail(err)
		}
		o.queue = queue
	})
}

// WithTimeout bounds one attempt; the worker's default is 30 minutes.
func WithTimeout(d time.Duration) Option {
	return option(func(o *sendOptions) {
		if d <= 0 || d > wire.MaxDuration {
			o.fail(&wire.NameError{Field: wire.HeaderTimeout, Value: d.String(), Rule: "must be above 0 and at most a year (8760h)"})
		}
		o.set(wire.HeaderTimeout, d.String())
	})
}

// WithMaxAttempts bounds the attempts, the first run included; the worker's
// default is 5.
func WithMaxAttempts(n int) Option {
	return option(func(o *sendOptions) {
		if n < 1 || n > wire.MaxAttempts {
			o.fail(&wire.NameError{Field: wire.HeaderMaxAttempts, Value: fmt.Sprint(n), Rule: fmt.Sprintf("must be a whole number from 1 to %d", wire.MaxAttempts)})
		}
		o.set(wire.HeaderMaxAttempts, fmt.Sprint(n))
	})
}

// WithBackoff bounds the wait between attempts: it doubles from the least,
// never beyond the most, with full jitter. The worker's default is 1s..10m.
func WithBackoff(least, most time.Duration) Option {
	return option(func(o *sendOptions) {
		value := wire.Backoff{Min: least, Max: most}.String()
		if _, err := wire.ParseBackoff(value); err != nil {
			o.fail(err)
		}
		o.set(wire.HeaderBackoff, value)
	})
}

// WithID gives the task an explicit id: an idempotency key for as long as its
// record lives. It may not look like a free id of its queue. While a task waits
// for its time, another with its id is [ErrExists] only where it has a time, too;
// one without is stored, and whichever a worker takes first runs, unless the
// record of [WithTracked] says that the other one waits.
func WithID(id string) SendOption {
	return sendOnly(func(o *sendOptions) { o.id, o.explicit = id, true })
}

// WithWaitForRoom lets a send wait where the queue is full, until there is room
// or its context ends; [ErrQueueFull] is returned then. Without it that is
// returned at once. Futures do not take it.
func WithWaitForRoom() SendOption {
	return sendOnly(func(o *sendOptions) { o.waitForRoom = true })
}

// WithAtomic makes [Task.SendMany] store all of its tasks, at most a thousand,
// or none.
func WithAtomic() SendOption { return sendOnly(func(o *sendOptions) { o.atomic = true }) }

// WithAllIDs makes [Task.SendMany] tell the id of every task, whoever else
// publishes to the queue meanwhile. It takes about twice as long.
func WithAllIDs() SendOption { return sendOnly(func(o *sendOptions) { o.allIDs = true }) }

// WithHeader adds a header of the caller's own, which the handler sees: at most
// 32 of them, of 8 KiB together. Names beginning with Pelton- or Nats- are
// refused: they mean something.
func WithHeader(name, value string) SendOption {
	return sendOnly(func(o *sendOptions) {
		if err := checkOwnHeader(name, value); err != nil {
			o.fail(err)
			return
		}
		o.set(name, value)
	})
}

func checkOwnHeader(name, value string) error {
	if err := wire.CheckHeaderName(name); err != nil {
		return err
	}
	lower := strings.ToLower(name)
	switch {
	case strings.HasPrefix(lower, "pelton-") || strings.HasPrefix(lower, "nats-"):
		return &wire.NameError{Field: "header", Value: name, Rule: "must not begin with Pelton- or Nats-"}
	case strings.ContainsAny(value, "\r\n"):
		return &wire.NameError{Field: "header " + name, Value: value, Rule: "must be one line"}
	}
	return nil
}

// checkOwnTask refuses bad names and those that are Pelton's own.
func checkOwnTask(name string) error {
	if err := wire.CheckTask(name); err != nil {
		return err
	}
	if strings.HasPrefix(name, wire.ReservedTaskPrefix) {
		return &wire.NameError{Field: "task", Value: name, Rule: "must not begin with " + wire.ReservedTaskPrefix}
	}
	return nil
}
