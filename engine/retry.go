package engine

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// RetryPolicy decides what follows a failed attempt: how long to wait before
// the next one, or that there is none. The first attempt is 1; err is what the
// handler returned. It is called beside others and must not block. What it says
// is bounded by the task's attempts; a wait that the handler or the message
// names goes before its own.
type RetryPolicy func(attempt int, err error) (wait time.Duration, again bool)

// RetryExponential waits between nothing and a bound that doubles with each
// attempt from least, never beyond most.
func RetryExponential(least, most time.Duration) RetryPolicy {
	return func(attempt int, _ error) (time.Duration, bool) {
		return backoff(wire.Backoff{Min: least, Max: most}, attempt, rand.Float64), true
	}
}

// RetryAfter waits for the times named, one after the other; the last one goes
// on. With none the next attempt is at once.
func RetryAfter(waits ...time.Duration) RetryPolicy {
	return func(attempt int, _ error) (time.Duration, bool) {
		if len(waits) == 0 {
			return 0, true
		}
		return waits[min(attempt, len(waits))-1], true
	}
}

// RetryNever has no further attempt.
func RetryNever() RetryPolicy {
	return func(int, error) (time.Duration, bool) { return 0, false }
}

// RetryFor has a policy of its own for the errors that match, errors.Is and
// errors.As included; otherwise decides the rest.
func RetryFor(match func(error) bool, policy, otherwise RetryPolicy) RetryPolicy {
	return func(attempt int, err error) (time.Duration, bool) {
		if match(err) {
			return policy(attempt, err)
		}
		return otherwise(attempt, err)
	}
}

// backoff is the wait after a failed attempt: between nothing and a bound that
// doubles with each attempt from Min, never beyond Max (full jitter, as in
// "Exponential Backoff and Jitter", AWS Architecture Blog). The random function
// returns a number in [0,1).
func backoff(b wire.Backoff, attempt int, random func() float64) time.Duration {
	bound := b.Min
	for i := 1; i < attempt && bound < b.Max; i++ {
		bound *= 2
	}
	bound = min(bound, b.Max)
	return min(time.Duration(random()*float64(bound)), bound)
}

// nextAttempt decides after a failure: when the next attempt is due, or that
// there is none. A handler that names a time is obeyed; a message that names
// its waits has them, where the policy has another attempt at all.
func (w *Worker) nextAttempt(d *delivery, res result, now time.Time) (time.Time, bool) {
	most := d.meta.MaxAttempts
	orInt(&most, w.cfg.MaxAttempts)
	if res.permanent || d.meta.Attempt >= most {
		return time.Time{}, false
	}
	if res.waitSet {
		return now.Add(res.wait), true
	}
	wait, again := w.askPolicy(d, res.err)
	switch {
	case !again:
		return time.Time{}, false
	case d.meta.Waits != "":
		wait = d.meta.Waits.After(d.meta.Attempt)
	case d.meta.Backoff != wire.Backoff{}:
		wait = backoff(d.meta.Backoff, d.meta.Attempt, rand.Float64)
	}
	return now.Add(min(max(wait, 0), wire.MaxDuration)), true
}

// askPolicy asks the policy of the task, or else of the worker. One that panics
// is replaced by the worker's back-off.
func (w *Worker) askPolicy(d *delivery, err error) (wait time.Duration, again bool) {
	usual := RetryExponential(w.cfg.Backoff.Min, w.cfg.Backoff.Max)
	policy := w.handlers[d.addr.Task].retry
	if policy == nil {
		policy = w.cfg.Retry
	}
	if policy == nil {
		return usual(d.meta.Attempt, err)
	}
	defer func() {
		if v := recover(); v != nil {
			w.log.Error("retry policy panicked, the usual back-off holds", "task", d.addr.Task, "task_id", d.id, "panic", v)
			wait, again = usual(d.meta.Attempt, err)
		}
	}()
	return policy(d.meta.Attempt, err)
}

// parkMessage is a task with the time at which the broker makes it due, as its
// record calls for it. Publishing it again replaces what waits under its id.
func (w *Worker) parkMessage(d *delivery, r *Record, attempt int, eta time.Time) *nats.Msg {
	return w.c.parkMessage(d, r, attempt, eta)
}

func (c *Client) parkMessage(d *delivery, r *Record, attempt int, eta time.Time) *nats.Msg {
	h := wire.Header(d.msg.Header).Own()
	if !d.meta.Expires.IsZero() {
		h.Set(wire.HeaderExpires, wire.FormatTime(d.meta.Expires)) // it may have been a duration
	}
	h.Set(wire.HeaderAttempt, strconv.Itoa(attempt))
	m := &nats.Msg{Header: nats.Header(h), Data: d.msg.Data}
	if r.Generation > d.meta.Generation {
		h.Set(wire.HeaderGeneration, strconv.Itoa(r.Generation))
		if r.Body != nil {
			m.Data = r.Body
		}
	}
	c.schedule(m, wire.Address{Lane: d.addr.Lane, Task: d.addr.Task, ID: d.id}, eta)
	return m
}
