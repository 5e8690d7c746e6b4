package engine

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"pelton/engine/wire"
)

// Hooks are told what becomes of tasks and of the worker: the seam for metrics
// and traces. Each is optional, and one that is not set costs nothing. They only
// observe; what changes how a task runs is a [Middleware].
//
// They are called beside each other, from several goroutines. A slow one never
// holds up the fetching or the renewal of leases: Received, Started and Unknown
// cost the slot of their task, those of an outcome and Recorded the writing of
// outcomes of their queue, whose worker says so where it takes longer than half
// a minute (see [Worker.Health]), and the others nobody but the end of Run,
// which waits for them. A panic is caught and logged, once for each hook; it
// harms no task. A hook must not end its goroutine (runtime.Goexit, as the
// Fatal of a test does).
//
// An outcome is told once it stands: the record is written, and what follows
// from it (the next attempt, the dead letter) is stored. Where another outcome
// stood already, or the lease was lost before, it is not told. As everything
// here may happen more than once after a crash, so may what is told of it.
type Hooks struct {
	// Received: a slot of this worker has the task. It is not told of what is
	// handed back before.
	Received func(TaskEvent)
	// Started: its handler begins now.
	Started func(TaskEvent)
	// Succeeded: it has its result.
	Succeeded func(TaskEvent)
	// Failed: an attempt failed, for Failure. Next is when the next one is due;
	// it is zero where there is none, and Dead is told after it.
	Failed func(TaskEvent)
	// Dead: the task has ended failed, for Failure, and its dead letter is
	// stored.
	Dead func(TaskEvent)
	// Snoozed: its handler asked for Next, without having failed.
	Snoozed func(TaskEvent)
	// Parked: its time, Next, has not come, and the broker holds it until then.
	Parked func(TaskEvent)
	// Expired: its time had passed, and it will not run any more.
	Expired func(TaskEvent)
	// Revoked: nobody wants it any more: it was canceled, or its handler dropped
	// it, for Failure. It is told by a worker that has the task, and so not of
	// one that is taken out of its queue while it waits there.
	Revoked func(TaskEvent)
	// Unknown: this worker has no handler of the task's name. It is parked until
	// Next; where that is zero Dead is told after it.
	Unknown func(TaskEvent)
	// HandedBack: it goes back to its queue, because the worker ends or has no
	// slot for it; that is neither a failure nor a death.
	HandedBack func(TaskEvent)
	// Stuck: its handler ignores that its context has ended, and is left behind;
	// Failure has the stack of its goroutine. What becomes of the attempt is told
	// besides.
	Stuck func(TaskEvent)
	// LeaseLost: the broker could not be told that the task is held. It may run
	// elsewhere, and nothing that its handler does here is recorded.
	LeaseLost func(TaskEvent)
	// Recorded: this worker has written a record, also one that says started.
	// The record is not the callee's to change.
	Recorded func(*Record)

	// Ready: the streams and consumers are there, and tasks are fetched from now
	// on. Draining: no more are. Ended: all is done with, and Run returns. The
	// argument is the worker's name.
	Ready    func(worker string)
	Draining func(worker string)
	Ended    func(worker string)
}

// TaskEvent is what a hook is told of a task. Times are zero where nothing is
// known.
type TaskEvent struct {
	Info
	Worker    string
	Priority  wire.Priority
	Redeliver bool          // the broker had given it to somebody before
	Published time.Time     // when the broker stored the message
	Received  time.Time     // when this worker got it
	Started   time.Time     // when the handler began
	At        time.Time     // when what is told of happened
	Failure   *wire.Failure // of Failed, Dead, Unknown and some of Revoked
	Next      time.Time     // when it is to run again
}

// event is what can be told of a delivery. It is not made where nobody listens.
func (w *Worker) event(d *delivery, at time.Time) TaskEvent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return TaskEvent{
		Info: d.info(d.revision), Worker: w.cfg.Name, Priority: d.addr.Lane.Priority, Redeliver: d.redeliver,
		Published: d.published, Received: d.arrived, Started: d.started, At: at,
	}
}

// became is how a settlement is told, once it is paid. The zero value is not.
type became struct {
	told    bool
	kind    resultKind
	state   wire.State
	failure *wire.Failure
	next    time.Time
	at      time.Time
}

// becomes notes what the settlement makes of the task, as its record stands now
// or would, where it keeps none.
func (s *settlement) becomes(kind resultKind, now time.Time) {
	s.became = became{told: true, kind: kind, at: now, state: s.own.State, failure: s.own.Error}
	if !s.own.State.Terminal() {
		s.became.next = s.own.ETA
	}
}

// stands notes that another outcome is recorded. It is told by whoever wrote
// it, but for a cancel: that is told by the worker that has the task.
func (b *became) stands(r *Record) {
	if r.State != wire.StateRevoked {
		*b = became{}
		return
	}
	b.kind, b.state, b.failure, b.next = resultRevoked, r.State, r.Error, time.Time{}
}

// tellSettled tells what became of a task.
func (w *Worker) tellSettled(x *settlement) {
	b := x.became
	if !b.told || !w.hears {
		return
	}
	e := w.event(x.d, b.at)
	e.Failure, e.Next = b.failure, b.next
	switch {
	case b.kind == resultHandBack:
		e.Failure, e.Next = nil, time.Time{}
		w.tell("HandedBack", w.cfg.Hooks.HandedBack, e)
		return
	case b.state == wire.StateExpired:
		w.tell("Expired", w.cfg.Hooks.Expired, e)
		return
	case b.state == wire.StateSucceeded:
		w.tell("Succeeded", w.cfg.Hooks.Succeeded, e)
		return
	case b.state == wire.StateRevoked:
		w.tell("Revoked", w.cfg.Hooks.Revoked, e)
		return
	}
	switch b.kind {
	case resultSnooze:
		w.tell("Snoozed", w.cfg.Hooks.Snoozed, e)
	case resultPark:
		w.tell("Parked", w.cfg.Hooks.Parked, e)
	case resultUnknown:
		w.tell("Unknown", w.cfg.Hooks.Unknown, e)
	default:
		w.tell("Failed", w.cfg.Hooks.Failed, e)
	}
	if b.state == wire.StateFailed {
		w.tell("Dead", w.cfg.Hooks.Dead, e)
	}
}

// tell calls a hook, where it is set.
func (w *Worker) tell(name string, hook func(TaskEvent), e TaskEvent) {
	if hook != nil {
		defer w.hookPanics.catch(w.log, name)
		hook(e)
	}
}

// tellWorker calls a hook of the worker, where it is set.
func (w *Worker) tellWorker(name string, hook func(string)) {
	if hook != nil {
		defer w.hookPanics.catch(w.log, name)
		hook(w.cfg.Name)
	}
}

// wrote tells of a record.
func (w *Worker) wrote(r *Record) {
	if hook := w.cfg.Hooks.Recorded; hook != nil {
		defer w.hookPanics.catch(w.log, "Recorded")
		hook(r)
	}
}

// outcomes reports whether any hook of an outcome is set.
func (h *Hooks) outcomes() bool {
	for _, hook := range []func(TaskEvent){
		h.Succeeded, h.Failed, h.Dead, h.Snoozed, h.Parked, h.Expired, h.Revoked, h.Unknown, h.HandedBack,
	} {
		if hook != nil {
			return true
		}
	}
	return false
}

// hookPanics are the hooks that have panicked, by name.
type hookPanics struct {
	mu   sync.Mutex
	said map[string]bool
}

// catch is deferred around a hook.
func (p *hookPanics) catch(log *slog.Logger, name string) {
	v := recover()
	if v == nil {
		return
	}
	p.mu.Lock()
	said := p.said[name]
	if p.said == nil {
		p.said = map[string]bool{}
	}
	p.said[name] = true
	p.mu.Unlock()
	if !said {
		stack := debug.Stack()
		log.Error("hook panicked, its further panics are not logged", "hook", name, "panic", fmt.Sprint(v), "stack", string(stack[:min(len(stack), stackLimit)]))
	}
}
