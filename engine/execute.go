package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"pelton/engine/wire"
)

// Info is what a handler may know of the task it runs.
type Info struct {
	ID       string
	Run      int
	Queue    string
	Task     string
	Attempt  int
	Fence    uint64    // revision of the record this run claimed; 0 for a plain first delivery
	Deadline time.Time // of this attempt
	Origin   string
	Parent   string
	Root     string
	Header   wire.Header // as published, without the broker's own
}

type infoKey struct{}

// running is the context of a handler, with what it may know.
type running struct {
	context.Context
	message Message
}

func (r *running) Value(key any) any {
	if key == (infoKey{}) {
		return &r.message.Info
	}
	return r.Context.Value(key)
}

// InfoFrom tells a handler about the task whose context it has.
func InfoFrom(ctx context.Context) (Info, bool) {
	info, ok := ctx.Value(infoKey{}).(*Info)
	if !ok {
		return Info{}, false
	}
	return *info, true
}

// resultKind is how a run ended.
type resultKind int

const (
	resultDone     resultKind = iota // succeeded
	resultFailed                     // the attempt failed
	resultExpired                    // its time has passed
	resultPark                       // its time has not come
	resultSnooze                     // it asks for a later time, without an attempt
	resultRevoked                    // nobody wants it any more
	resultUnknown                    // no handler of its name
	resultHandBack                   // it is to run elsewhere; nothing counts
	resultNothing                    // settled already, or not ours any more
)

// result is what a run gave.
type result struct {
	kind      resultKind
	body      []byte        // resultDone
	failure   *wire.Failure // resultFailed, and of resultRevoked the reason if there is one
	err       error         // the handler's own, for the policy
	permanent bool          // no further attempt mends it
	wait      time.Duration // before the next run, in place of the back-off
	waitSet   bool
	eta       time.Time // resultPark
}

var errGoexit = errors.New("handler ended its goroutine (runtime.Goexit)")

// failed is the result of a run whose handler returned an error: the one place
// that decides what kind of failure an error is.
func failed(err error) result {
	res := result{kind: resultFailed, err: err, failure: &wire.Failure{Type: wire.FailureError, Message: err.Error()}}
	var permanent *permanentError
	var retry *retryInError
	var panicked *panicError
	var snooze *snoozeError
	var drop *dropError
	switch {
	case errors.As(err, &snooze):
		res = result{kind: resultSnooze, wait: snooze.wait}
	case errors.As(err, &drop):
		res.kind = resultRevoked
	case isBadInput(err):
		res.failure.Type, res.permanent = wire.FailureBadInput, true
	case errors.As(err, &permanent):
		res.permanent = true
	case errors.As(err, &retry):
		res.wait, res.waitSet = retry.wait, true
	case errors.As(err, &panicked):
		res.failure.Type, res.failure.Stack = wire.FailurePanic, panicked.stack
	case errors.Is(err, errDeadline):
		res.failure.Type = wire.FailureTimeout
	}
	return res
}

func poisoned(deaths int) result {
	return result{kind: resultFailed, permanent: true, failure: &wire.Failure{
		Type: wire.FailurePoison, Message: fmt.Sprintf("%d workers died while they ran it", deaths),
	}}
}

// process runs one delivery that has a slot.
func (w *Worker) process(s *slot, d *delivery, began time.Time) result {
	working := s.working
	if d.bad != nil {
		return failed(badInput(d.bad))
	}
	if working.Err() != nil {
		return result{kind: resultHandBack}
	}
	if r, _ := d.claim(); r == nil && !d.plain() {
		if !w.prepare(lasting(working), d, false) {
			return result{kind: resultNothing}
		}
		if working.Err() != nil {
			return result{kind: resultHandBack}
		}
	}
	if w.revocations.has(d) {
		return result{kind: resultRevoked}
	}
	if !d.meta.Expires.IsZero() && d.expired(w.now()) {
		return result{kind: resultExpired}
	}
	if d.addr.Task == wire.TaskDead {
		return deadOnArrival(d)
	}
	if err := w.checkBody(d); err != nil {
		return failed(badInput(err))
	}
	h, known := w.handlers[d.addr.Task]
	if !known {
		return result{kind: resultUnknown}
	}
	return w.execute(s, d, h.run, began)
}

func (w *Worker) checkBody(d *delivery) error {
	if d.meta.JSON() {
		return w.c.limits.CheckJSON(d.msg.Data)
	}
	return nil // its size was looked at when it came
}

// execute runs the handler under its deadline.
func (w *Worker) execute(s *slot, d *delivery, h Handler, began time.Time) result {
	ctx, cancel := s.stoppable()
	from := began
	if !d.plain() || w.cfg.Hooks.Received != nil { // its record, or the hook, may have taken a while
		from = time.Now()
	}
	ctx, stop := context.WithDeadlineCause(ctx, from.Add(w.timeout(d)), errDeadline)
	defer stop()
	if res, may := d.begin(ctx, cancel, began); !may {
		return res
	}
	run := &running{ctx, Message{Body: d.msg.Data, Info: w.info(ctx, d)}}
	if hook := w.cfg.Hooks.Started; hook != nil {
		e := w.event(d, began)
		e.Deadline = run.message.Info.Deadline
		w.tell("Started", hook, e)
	}
	body, err := call(run, h, &run.message)
	if err == nil {
		return w.checkResult(body)
	}
	cause := context.Cause(ctx)
	if res, stopped := stoppedBy(cause); stopped {
		return res
	}
	if errors.Is(cause, errDeadline) && errors.Is(err, context.DeadlineExceeded) {
		return failed(w.outOfTime(d))
	}
	return failed(err)
}

func (w *Worker) info(ctx context.Context, d *delivery) Info {
	_, fence := d.claim()
	info := d.info(fence)
	info.Deadline, _ = ctx.Deadline()
	return info
}

// info is what is known before the handler's deadline is.
func (d *delivery) info(fence uint64) Info {
	return Info{
		ID: d.id, Run: d.meta.Run, Queue: d.queue(), Task: d.addr.Task, Attempt: d.meta.Attempt, Fence: fence,
		Origin: d.meta.Origin, Parent: d.meta.Parent, Root: d.meta.Root, Header: wire.Header(d.msg.Header).Own(),
	}
}

// checkResult refuses a result that no record can hold.
func (w *Worker) checkResult(body []byte) result {
	if len(body) == 0 {
		return result{kind: resultDone, body: []byte("null")}
	}
	err := w.c.limits.CheckJSON(body)
	if err == nil {
		return result{kind: resultDone, body: body}
	}
	res := failed(Permanent(fmt.Errorf("result: %w", err)))
	if w.c.limits.CheckSize(body) != nil {
		res.failure.Type = wire.FailureTooLarge
	}
	return res
}

// panicError is a handler's panic as an error.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// stackLimit bounds the stack in a record, in bytes.
const stackLimit = 8 << 10

// call runs a handler and makes an error of its panic.
func call(ctx context.Context, h Handler, m *Message) (body []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			body, err = nil, &panicError{v, string(stack[:min(len(stack), stackLimit)])}
		}
	}()
	body, err = h(ctx, m)
	if err != nil {
		// An error may be a nil pointer whose methods panic: find out here.
		_ = err.Error()
		_ = errors.Is(err, context.DeadlineExceeded)
	}
	return body, err
}
