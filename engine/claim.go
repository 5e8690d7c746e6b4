package engine

import (
	"context"
	"errors"
	"time"

	"pelton/engine/wire"
)

// verdict is what the record says about a delivery that is no plain first one.
type verdict int

const (
	verdictRun    verdict = iota // claim the record, then run
	verdictDone                  // its outcome stands, or it is a copy: ack
	verdictParked                // a later attempt is owed: park it again, ack
)

// judge reads a record against a delivery. It is pure; the compare-and-set that
// follows decides, because a read may lag.
func judge(r *Record, d *delivery) verdict {
	switch {
	case r == nil || r.Run < d.meta.Run:
		return verdictRun
	case r.Run > d.meta.Run || r.State.Terminal():
		return verdictDone
	case !d.due && r.Sequence != 0 && (r.Sequence != d.sequence || r.Priority != d.addr.Lane.Priority) && r.State != wire.StateQueued:
		// Another message of this id was taken first and is not finished.
		return verdictDone
	case r.State == wire.StateScheduled || r.State == wire.StateRetrying:
		if d.due && r.Attempt <= d.meta.Attempt && r.Generation <= d.meta.Generation && !r.ETA.After(d.meta.ETA) {
			return verdictRun // its time has come
		}
		if r.Generation <= d.meta.Generation && (d.due && !d.parked && r.DueSeq != d.sequence || !d.due && r.Sequence == 0) {
			return verdictDone // a copy: what is parked has come of another message
		}
		// This message has led to what is parked, perhaps only in the record; or
		// the record has replaced it. Or it was parked by a worker and reached the
		// broker late: then it has replaced what was parked since.
		return verdictParked
	case r.Attempt > d.meta.Attempt && claimedBy(r, d):
		return verdictRun // an attempt after the one of the message, which was kept for it
	case r.Attempt > d.meta.Attempt, r.Generation > d.meta.Generation, r.Due && !d.due:
		return verdictDone // what was parked is under way: its message exists
	case d.due && (!r.Due || r.DueSeq != 0 && r.DueSeq != d.sequence) && r.State != wire.StateQueued:
		// Another message of this id was taken first: one of the queue, or its
		// schedule fired twice, as it may when it was published again just then.
		return verdictDone
	}
	return verdictRun
}

// claimedBy reports whether a record was claimed by this very message.
func claimedBy(r *Record, d *delivery) bool {
	if r.Due || d.due {
		return r.Due && d.due && r.DueSeq == d.sequence
	}
	return r.Sequence == d.sequence && r.Priority == d.addr.Lane.Priority
}

// claimTries bounds how often a claim that is refused looks again; each refusal
// means that somebody else moved on.
const claimTries = 5

// lasting is the context of looks and claims: a worker that ends hands back what
// it has looked at, and what was claimed halfway could only wait for its lease
// to pass. Each request is bounded by itself.
func lasting(working context.Context) context.Context { return context.WithoutCancel(working) }

// prepare looks at the record of a delivery and claims it. It reports whether
// the task is to be run; if not, the delivery is done with. Where the broker
// does not answer nothing is done, and the message comes back by itself. One
// that can be held here may turn out to be due later than its message says.
func (w *Worker) prepare(ctx context.Context, d *delivery, canHold bool) bool {
	ahead := holdAhead
	for range claimTries {
		if d.isLost() {
			return false
		}
		r, revision, err := w.c.readRecord(ctx, d.queue(), d.id)
		if err != nil {
			w.leases.remove(d)
			w.log.WarnContext(ctx, "cannot read the record, the task comes back", "task", d.addr.Task, "task_id", d.id, "err", err)
			return false
		}
		switch judge(r, d) {
		case verdictDone:
			w.leases.remove(d)
			d.ack()
			return false
		case verdictParked:
			d.pool.settler.add(w.parkedAgain(d, r, revision))
			return false
		case verdictRun:
			if r != nil && r.Run == d.meta.Run && d.adopt(r) && !canHold {
				ahead = 0 // it has a slot, and would run early
			}
		}
		done, run := w.claim(ctx, d, r, revision, ahead)
		if done {
			return run
		}
	}
	w.leases.remove(d)
	return false
}

// claim writes the record with which this run begins. It is done when the claim
// stands, or the task shall not run; otherwise the record has changed.
func (w *Worker) claim(ctx context.Context, d *delivery, before *Record, revision uint64, ahead time.Duration) (done, run bool) {
	if d.isLost() {
		return true, false
	}
	r := w.claimRecord(d, before)
	if res, unfit := w.unfit(d, ahead); unfit {
		if before != nil && before.Run < d.meta.Run {
			before = nil // it is of another life
		}
		d.setClaim(before, revision)
		d.pool.settler.add(w.settlement(d, res))
		return true, false
	}
	if r.Deaths >= w.cfg.MaxDeaths {
		d.setClaim(r, revision)
		d.pool.settler.add(w.settlement(d, poisoned(r.Deaths)))
		return true, false
	}
	if r.Deaths > 0 && r.Deaths+1 >= w.cfg.MaxDeaths && !w.leases.alone(d) {
		w.leases.remove(d)
		d.nakForLonger()
		return true, false
	}
	next, err := w.c.casRecord(ctx, r, revision)
	switch {
	case err == nil:
		d.setClaim(r, next)
		w.wrote(r)
		return true, true
	case classify(err) == outcomeRefused:
		return false, false
	}
	w.leases.remove(d)
	if !errors.Is(err, context.Canceled) {
		w.log.WarnContext(ctx, "cannot claim the record, the task comes back", "task", d.addr.Task, "task_id", d.id, "err", err)
	}
	return true, false
}

// unfit tells what becomes of a task that is not to be claimed: revoked, past
// its expiry, or too far ahead of its time to wait here.
func (w *Worker) unfit(d *delivery, ahead time.Duration) (result, bool) {
	now := w.now()
	switch {
	case w.revocations.has(d):
		return result{kind: resultRevoked}, true
	case d.expired(now):
		return result{kind: resultExpired}, true
	case d.meta.ETA.Sub(now) > ahead:
		return result{kind: resultPark, eta: d.meta.ETA}, true
	}
	return result{}, false
}

// claimRecord is the record of a run that begins, made from the one before.
func (w *Worker) claimRecord(d *delivery, before *Record) *Record {
	r := &Record{}
	d.describe(r, w.cfg.Name)
	r.State = wire.StateStarted
	r.StartedAt = time.Now().UTC()
	r.Due = d.due
	if d.due {
		r.DueSeq = d.sequence
	} else {
		r.Sequence = d.sequence
	}
	if before == nil || before.Run < d.meta.Run {
		return r
	}
	r.QueuedAt, r.Attempts, r.Sequence = before.QueuedAt, before.Attempts, before.Sequence
	if before.Attempt == r.Attempt {
		r.Deaths = before.Deaths
		if before.State == wire.StateStarted {
			r.Deaths++ // it began and nobody wrote how it ended
		}
	}
	return r
}

// markStarted says in the record that a plain first run has gone on for a
// while. Whoever asks sees it, and should the worker die it counts as a death.
func (w *Worker) markStarted(d *delivery) {
	if d.isLost() {
		return
	}
	r := w.claimRecord(d, nil)
	r.StartedAt = d.startedAt().UTC()
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout) //nolint:forbidigo // bounded, and waited for
	defer cancel()
	revision, err := w.c.casRecord(ctx, r, 0)
	if err == nil {
		d.setClaim(r, revision)
		w.wrote(r)
	}
	// Any error means only that there is no mark, or that the outcome finds it.
}

// describe writes what a delivery says of its task, before anything happens.
func (d *delivery) describe(r *Record, worker string) {
	*r = Record{
		ID: d.id, Run: d.meta.Run, Task: d.addr.Task, Queue: d.queue(), State: wire.StateQueued, Attempt: d.meta.Attempt,
		Generation: d.meta.Generation, Priority: d.addr.Lane.Priority, ETA: d.meta.ETA.UTC(),
		Origin: d.meta.Origin, Worker: worker, QueuedAt: d.published, Parent: d.meta.Parent, Root: d.meta.Root,
		ReplyTopic: d.meta.ReplyTopic, ReplyKey: d.meta.ReplyKey,
		Trace: d.meta.Trace.Parent, TraceState: d.meta.Trace.State, Baggage: d.meta.Trace.Baggage,
	}
}
