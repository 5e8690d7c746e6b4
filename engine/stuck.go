package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"pelton/engine/wire"
)

// leftBehind is what a pool knows of handlers that ignore their context: past
// a grace they are no part of it any more. Their attempt is settled without
// them, their late outcome is nobody's, and their slot is replaced, so that they
// cost memory and not the work of others. It is guarded by the pool's mu,
// but for what a delivery says of itself.
type leftBehind struct {
	replaced int  // handlers whose slot was replaced and that have not returned
	said     bool // that no more are replaced
}

// findStuck leaves behind the handlers that have ignored their context for the
// grace. Those that all slots wait for are left in their slots: as many of them
// again as there are slots means that something is wrong with the process.
func (p *pool) findStuck(working context.Context, now time.Time, grace time.Duration) {
	var stacks []byte
	blocked := 0
	for d := range p.inSlots {
		if !d.ignores(now, grace) {
			continue
		}
		if d.leave() {
			if stacks == nil {
				stacks = allStacks()
			}
			p.leaveBehind(d, stacks)
		}
		switch {
		case p.left.replaced >= p.slots:
			blocked++
		case d.replace():
			p.left.replaced++
			p.running--
			delete(p.inSlots, d)
			go p.slot(working)
		}
	}
	p.signs.blocked.Store(int32(min(blocked, p.slots)))
	if said := p.left.said; said != (blocked > 0) {
		p.left.said = !said
		if !said {
			p.w.log.ErrorContext(working, "as many handlers as there are slots ignore their context, no more slots are replaced", "queue", p.queue, "slots", p.slots)
		}
	}
}

// leaveBehind reports a handler and settles its attempt without it.
func (p *pool) leaveBehind(d *delivery, stacks []byte) {
	cause, stack := context.Cause(d.ctx), stackOf(stacks, d.goroutine)
	p.w.log.Error("handler ignores its context, left behind", "task", d.addr.Task, "task_id", d.id, "queue", p.queue,
		"attempt", d.meta.Attempt, "cause", cause, "stack", stack)
	res, stopped := stoppedBy(cause)
	if !stopped {
		cause = p.w.outOfTime(d)
	}
	f := &wire.Failure{Type: wire.FailureTimeout, Message: cause.Error() + "; its handler did not stop", Stack: stack}
	if hook := p.w.cfg.Hooks.Stuck; hook != nil {
		p.w.aside.Go(func() {
			e := p.w.event(d, time.Now())
			e.Failure = f
			p.w.tell("Stuck", hook, e)
		})
	}
	if !stopped {
		res = result{kind: resultFailed, err: cause, failure: f}
	}
	p.settler.add(p.w.settlement(d, res))
}

// stoppedBy is what comes of a run that was stopped for another reason than its
// deadline.
func stoppedBy(cause error) (result, bool) {
	switch {
	case errors.Is(cause, errLeaseLost):
		return result{kind: resultNothing}, true
	case errors.Is(cause, errRevoked):
		return result{kind: resultRevoked}, true
	case errors.Is(cause, errShutdown):
		return result{kind: resultHandBack}, true
	}
	return result{}, false
}

func (w *Worker) timeout(d *delivery) time.Duration {
	timeout := d.meta.Timeout
	orDuration(&timeout, w.cfg.Timeout)
	return timeout
}

func (w *Worker) outOfTime(d *delivery) error {
	return fmt.Errorf("%w (%s)", errDeadline, w.timeout(d))
}

// takes notes which goroutine runs the handler.
func (d *delivery) takes(goroutine string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.goroutine = goroutine
}

// ignores reports whether the handler runs on although its context ended longer
// ago than the grace. Its end is noticed at the first look after it.
func (d *delivery) ignores(now time.Time, grace time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil || d.returned || d.ctx.Err() == nil {
		return false
	}
	if d.noticed.IsZero() {
		d.noticed = now
	}
	return now.Sub(d.noticed) >= grace
}

// leave takes the outcome away from the handler, once, unless it has returned.
func (d *delivery) leave() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.returned || d.left {
		return false
	}
	d.left, d.ended = true, true
	return true
}

// replace takes the slot away from the handler, unless it has returned.
func (d *delivery) replace() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replaced = !d.returned
	return d.replaced
}

// allStacks are the stacks of all goroutines. The world stands still for it, so
// it is taken once for all handlers that are found together.
func allStacks() []byte {
	for size := 1 << 20; ; size *= 4 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= stacksLimit {
			return buf[:n]
		}
	}
}

// stacksLimit bounds what is searched for the stack of a handler, in bytes.
const stacksLimit = 64 << 20

// goroutineID is the number of this goroutine in stacks. A slot reads it once in
// its life; nothing but the report of a handler rests on it. Labels for the
// profiler would cost each task, and they are the handlers' own.
func goroutineID() string {
	var buf [64]byte
	fields := bytes.Fields(buf[:runtime.Stack(buf[:], false)])
	if len(fields) < 2 {
		return ""
	}
	if _, err := strconv.ParseUint(string(fields[1]), 10, 64); err != nil {
		return ""
	}
	return string(fields[1])
}

// stackOf is the stack of one goroutine, what it waits for included.
func stackOf(stacks []byte, goroutine string) string {
	head := []byte("goroutine " + goroutine + " ")
	for goroutine != "" && len(stacks) > 0 {
		one, rest, _ := bytes.Cut(stacks, []byte("\n\n"))
		if bytes.HasPrefix(one, head) {
			return string(one[:min(len(one), stackLimit)])
		}
		stacks = rest
	}
	return "not found"
}
