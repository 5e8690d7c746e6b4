package schedules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// mostDue bounds the occurrences of one batch; what is left comes at once in the
// next one.
const mostDue = 500

// aloneAfter is how often a batch of several entries may be refused before an
// entry is written by itself. That always ends, and costs the broker a batch for
// each entry.
const aloneAfter = 4

// Occurrence is one time of an entry, and what became of it.
type Occurrence struct {
	Entry   string
	Queue   string
	Task    string
	ID      string    // of its task, also where it was skipped
	Nominal time.Time // when it was due
	Outcome string    // Fired, or why it was skipped
	Late    time.Duration
}

// turn is what one look at an entry has come to.
type turn struct {
	done []Occurrence // of this process; others may have decided more
	next time.Time    // when the entry is due again
	ever bool         // false: it is not due any more
	lost bool         // somebody else was faster
}

// look decides everything that is due by now. The ledger that is known is taken
// for the newest: if it is not, the batch is refused and the newest is read. So
// an entry that one process keeps winning costs no reads.
func (k *keeper) look(ctx context.Context, now time.Time, readFirst bool) (turn, error) {
	var t turn
	if k.inForce == 0 {
		if err := k.adopt(ctx); err != nil {
			return t, err
		}
	} else if readFirst {
		if err := k.read(ctx); err != nil {
			return t, err
		}
	}
	for refused, yielded := 0, 0; ; {
		if err := k.keepForce(ctx); err != nil {
			return t, err
		}
		due := k.def.schedule.Due(k.pos.Last, now, mostDue)
		if len(due.Fire) == 0 && len(due.Skip) == 0 {
			t.next, t.ever = k.def.schedule.Next(later(k.pos.Last, due.Last))
			return t, nil
		}
		if refused > yielded {
			// Somebody else is at it, with this entry or with others that were
			// written together: one of us had better be first.
			yielded = refused
			if err := k.yield(ctx, refused); err != nil {
				return t, err
			}
			continue
		}
		err := k.decide(ctx, now, due, refused > aloneAfter, &t)
		switch {
		case errors.Is(err, ledger.ErrFenced):
			t.lost = true
			refused++
		case err != nil:
			return t, err
		}
	}
}

// yield leaves the entry to others for a while, and reads what they have made of
// it.
func (k *keeper) yield(ctx context.Context, lost int) error {
	if err := pause(ctx, yieldFor(lost, k.pace())); err != nil {
		return err
	}
	return k.read(ctx)
}

// keepForce puts the definition in force again where somebody else has changed
// the ledger, or says why it may not.
func (k *keeper) keepForce(ctx context.Context) error {
	done, err := k.checkForce()
	if done || err != nil {
		return err
	}
	return k.adopt(ctx)
}

// decide writes one batch: the tasks that are to run and the ledger that says
// so, and what is skipped.
func (k *keeper) decide(ctx context.Context, now time.Time, due Due, alone bool, t *turn) error {
	fire, skipped, err := k.overlap(ctx, due.Fire)
	if err != nil {
		return err
	}
	p := k.pos.clone()
	var tasks []*nats.Msg
	var done []Occurrence
	note := func(nominal time.Time, outcome string) {
		p.note(outcome, nominal)
		done = append(done, k.occurrence(nominal, outcome, now))
	}
	for _, o := range inOrder(fire, due.Skip, skipped) {
		note(o.Nominal, o.Reason)
		if o.Reason == Fired {
			tasks = append(tasks, k.task(o.Nominal, now))
		}
	}
	p.Last = later(p.Last, due.Last)
	if len(tasks) > 0 {
		p.Task = k.def.entry.Task
	}
	body, err := p.encode()
	if err != nil {
		return err
	}
	at, err := k.commit(ctx, ledger.Part{Ledger: k.ledger, Fence: k.at.Sequence, Tasks: tasks, Position: body}, alone)
	if err := k.settle(ctx, at, err); err != nil {
		return err
	}
	t.done = append(t.done, done...)
	return nil
}

// inOrder merges what is decided, by its nominal times.
func inOrder(fire []time.Time, skips ...[]Skipped) []Skipped {
	all := make([]Skipped, 0, len(fire))
	for _, nominal := range fire {
		all = append(all, Skipped{Nominal: nominal, Reason: Fired})
	}
	for _, list := range skips {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Skipped) int { return a.Nominal.Compare(b.Nominal) })
	return all
}

func (k *keeper) occurrence(nominal time.Time, outcome string, now time.Time) Occurrence {
	e := k.def.entry
	return Occurrence{
		Entry: e.Name, Queue: e.queue(), Task: e.Task, ID: OccurrenceID(e.Name, nominal),
		Nominal: nominal, Outcome: outcome, Late: now.Sub(nominal),
	}
}

// task is the message of an occurrence. Its id stands in the subject, so that it
// is found while it waits. One that jitter moves is parked by its worker.
func (k *keeper) task(nominal, now time.Time) *nats.Msg {
	e := k.def.entry
	h := wire.Header{}
	for name, value := range e.Header {
		h.Set(name, value)
	}
	h.Set(wire.HeaderOrigin, wire.BeatOrigin{Entry: e.Name, Nominal: nominal}.String())
	eta := nominal.Add(k.def.schedule.JitterOf(nominal))
	wait := eta.Sub(now)
	if wait > 0 && eta.After(nominal) {
		h.Set(wire.HeaderETA, wire.FormatTime(eta))
	}
	if e.Expires > 0 {
		// It counts from when the task is stored, which may be late, or too late.
		left := min(max(e.Expires+wait, 0), wire.MaxDuration)
		h.Set(wire.HeaderExpires, left.Round(time.Millisecond).String())
	}
	address := wire.Address{Lane: wire.PlainLane(e.queue()), Task: e.Task, ID: OccurrenceID(e.Name, nominal)}
	return &nats.Msg{Subject: k.c.Namespace().TaskSubject(address), Header: nats.Header(h), Data: body(e)}
}

// body is what the tasks of an entry are given: null unless it says.
func body(e Entry) json.RawMessage {
	if len(e.Body) == 0 {
		return json.RawMessage("null")
	}
	return e.Body
}

// overlap asks whether the occurrence before has ended, where the entry wants to
// know. Of several that are due at once none can have ended: skip keeps the
// first of them, replace the last.
func (k *keeper) overlap(ctx context.Context, due []time.Time) (fire []time.Time, skipped []Skipped, err error) {
	policy := k.def.entry.Overlap
	if len(due) == 0 || policy != OverlapSkip && policy != OverlapReplace {
		return due, nil, nil
	}
	skip := func(list []time.Time) {
		for _, nominal := range list {
			skipped = append(skipped, Skipped{Nominal: nominal, Reason: SkipOverlap})
		}
	}
	runs, err := k.running(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case policy == OverlapReplace:
		if runs {
			if err := k.revoke(ctx); err != nil {
				return nil, nil, err
			}
		}
		skip(due[:len(due)-1])
		return due[len(due)-1:], skipped, nil
	case runs:
		skip(due)
		return nil, skipped, nil
	}
	skip(due[1:])
	return due[:1], skipped, nil
}

// running reports whether the newest occurrence that was sent still waits or
// runs. One that nobody knows any more has ended.
func (k *keeper) running(ctx context.Context) (bool, error) {
	if k.pos.Fired.IsZero() {
		return false, nil
	}
	r, err := k.c.Lookup(ctx, k.def.entry.queue(), OccurrenceID(k.def.entry.Name, k.pos.Fired))
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("entry %s: %w", k.def.entry.Name, err)
	}
	return !r.State.Terminal(), nil
}

// revoke ends the newest occurrence that was sent.
func (k *keeper) revoke(ctx context.Context) error {
	id := OccurrenceID(k.def.entry.Name, k.pos.Fired)
	_, err := k.c.Cancel(ctx, k.def.entry.queue(), id)
	if err != nil && !errors.Is(err, engine.ErrTooLate) && !errors.Is(err, engine.ErrNotFound) {
		return fmt.Errorf("entry %s: %w", k.def.entry.Name, err)
	}
	k.log.InfoContext(ctx, "the occurrence before is replaced", slog.String("entry", k.def.entry.Name), slog.String("task_id", id))
	return nil
}
