package engine

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// fireEarly is how much before its time the broker is told to make a parked
// task due. Its timer ticks every 250 ms; the worker holds the task for the
// rest.
const fireEarly = 500 * time.Millisecond

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
// there is none.
func (w *Worker) nextAttempt(d *delivery, res result, now time.Time) (time.Time, bool) {
	most := d.meta.MaxAttempts
	orInt(&most, w.cfg.MaxAttempts)
	if res.permanent || d.meta.Attempt >= most {
		return time.Time{}, false
	}
	if res.waitSet {
		return now.Add(res.wait), true
	}
	bounds := d.meta.Backoff
	if bounds == (wire.Backoff{}) {
		bounds = w.cfg.Backoff
	}
	return now.Add(backoff(bounds, d.meta.Attempt, rand.Float64)), true
}

// parkMessage is a task with the time at which the broker makes it due
// (ADR-51). Publishing it again replaces what waits under its id.
func (w *Worker) parkMessage(d *delivery, attempt int, eta time.Time) *nats.Msg {
	ns := w.c.ns
	h := wire.Header(d.msg.Header).Own()
	h.Delete(wire.HeaderDelay)
	if !d.meta.Expires.IsZero() {
		h.Set(wire.HeaderExpires, wire.FormatTime(d.meta.Expires)) // it may have been a duration
	}
	h.Set(wire.HeaderETA, wire.FormatTime(eta))
	h.Set(wire.HeaderAttempt, strconv.Itoa(attempt))
	h.Delete(wire.HeaderID) // the subject has it
	h[headerSchedule] = []string{"@at " + wire.FormatTime(eta.Add(-fireEarly))}
	h[headerScheduleTarget] = []string{ns.DueSubject(wire.Address{Lane: d.addr.Lane, Task: d.addr.Task, ID: d.id})}
	return &nats.Msg{Subject: ns.LaterSubject(d.addr.Lane, d.id), Header: nats.Header(h), Data: d.msg.Data}
}
