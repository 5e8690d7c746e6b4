package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// delivery is one message that this worker holds, from its arrival to its ack.
// The pool that got it owns it, then the slot that runs it, then the settler;
// what the lease and the started mark share with them stands below the mutex.
type delivery struct {
	msg       *nats.Msg
	pool      *pool
	lane      *lane
	due       bool // it came by the due lane
	kept      bool // its message was kept here from the attempt before
	parked    bool // it has become due after a worker had parked it
	addr      wire.Address
	meta      wire.Meta
	id        string
	sequence  uint64
	redeliver bool // the broker delivers it again
	published time.Time
	// bad is why the message cannot be a task: it is dead-lettered.
	bad error

	ackWait time.Duration
	arrived time.Time
	readyAt time.Time // since when it has waited for a slot

	mu       sync.Mutex
	reply    string          // where the broker is answered, if not as the message says
	renewed  time.Time       // when the broker last heard that it is held
	lost     bool            // the lease has passed: no record, ack or nak any more
	revoked  bool            // nobody wants it any more
	ctx      context.Context // of its handler
	cancel   context.CancelCauseFunc
	started  time.Time // of its handler
	record   *Record   // as this run claimed it; nil for a plain first delivery
	revision uint64    // of the record that the outcome must replace
	marking  bool      // the started mark of a plain first delivery is begun
	ended    bool      // the handler has ended: no mark any more

	goroutine string    // that runs the handler
	noticed   time.Time // that its context has ended while it runs on
	returned  bool      // the handler has
	left      bool      // the attempt is settled without the handler
	replaced  bool      // the slot is, too
}

// newDelivery reads a message. It never fails: what cannot be read becomes a
// delivery that is bad, with an id all the same.
func newDelivery(p *pool, ln *lane, msg *nats.Msg, due bool, now time.Time) *delivery {
	d := &delivery{msg: msg, pool: p, lane: ln, due: due, ackWait: ln.ackWait, arrived: now, readyAt: now, renewed: now}
	if md, err := msg.Metadata(); err == nil {
		d.sequence = md.Sequence.Stream
		d.redeliver = md.NumDelivered > 1
		d.published = md.Timestamp.UTC()
	} else {
		d.bad = err
	}
	ns := p.w.c.ns
	parse := ns.ParseTask
	if due {
		parse = ns.ParseDue
	}
	addr, err := parse(msg.Subject)
	if err != nil || addr.Lane != ln.lane {
		d.bad = firstError(d.bad, err)
		addr = wire.Address{Lane: ln.lane, Task: wire.TaskInvalid}
	}
	d.addr = addr
	meta, err := wire.ParseMeta(wire.Header(msg.Header), d.published)
	if err != nil {
		d.bad = firstError(d.bad, err)
		meta = wire.Meta{Attempt: 1, Run: 1}
	}
	if headersUnread(msg) {
		d.bad = firstError(d.bad, errHeadersUnread)
	}
	if addr.Task != wire.TaskDead {
		d.bad = firstError(d.bad, p.w.c.limits.CheckSize(msg.Data))
	}
	d.meta, d.parked = meta, due && wasParked(wire.Header(msg.Header))
	d.id = taskID(addr, meta, d.sequence)
	if !due && meta.Run == 1 && d.explicit() {
		if err := wire.CheckExplicitID(d.queue(), d.id); err != nil {
			// It would pass for another task. Only a task that is run again on
			// purpose may have a free id in its message.
			d.bad = firstError(d.bad, err)
			d.id = wire.FreeID(ln.lane, d.sequence)
		}
	}
	if due && d.bad == nil && !p.scheduledHere(d) {
		// Whoever may write to the later stream could aim at any task of the
		// queue; only the schedule of this very id may make it due.
		d.bad = &wire.NameError{Field: headerScheduler, Value: msg.Header.Get(headerScheduler), Rule: "must be the schedule of this task"}
		d.id = wire.FreeID(ln.lane, d.sequence) + "-due"
	}
	return d
}

var errHeadersUnread = errors.New("headers: cannot be read, each must be a line of a name, a colon and a value")

// headersUnread reports whether a message came with headers that the client
// library could not read: it delivers such a message as if it had none.
func headersUnread(m *nats.Msg) bool {
	return m.Header == nil && m.Size() > len(m.Subject)+len(m.Reply)+len(m.Data)
}

// next is the delivery of the attempt that a record calls for, by the same
// message. It is a new one, because what still goes on for the attempt before (a
// started mark, a handler that was left behind) must not touch it.
func (d *delivery) next(r *Record) *delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &delivery{
		msg: d.msg, pool: d.pool, lane: d.lane, due: d.due, kept: true, parked: d.parked, addr: d.addr, meta: d.meta, id: d.id, sequence: d.sequence,
		redeliver: d.redeliver, published: d.published, ackWait: d.ackWait, arrived: d.arrived, readyAt: d.readyAt,
		reply: d.reply, renewed: d.renewed, lost: d.lost, revoked: d.revoked,
	}
	n.adopt(r)
	return n
}

// adopt takes over which attempt the record calls for, and when it is due: the
// message may be of an attempt before. It tells whether that is a later time.
func (d *delivery) adopt(r *Record) (later bool) {
	d.meta.Attempt = max(d.meta.Attempt, r.Attempt)
	if later = r.ETA.After(d.meta.ETA); later {
		d.meta.ETA = r.ETA
	}
	return later
}

// wasParked reports whether a message was parked by one that held its task, and
// not sent with a time.
func wasParked(h wire.Header) bool { return h.Value(wire.HeaderAttempt) != "" }

// scheduledHere reports whether a due message was fired by its own schedule.
func (p *pool) scheduledHere(d *delivery) bool {
	return wire.Header(d.msg.Header).Value(headerScheduler) == p.w.c.ns.LaterSubject(d.addr.Lane, d.id)
}

// explicit reports whether the id stands in the message, so that the record
// must be looked at before the task runs.
func (d *delivery) explicit() bool { return d.addr.ID != "" || d.meta.ID != "" }

// plain reports whether this is a first delivery that nobody can have run
// before: it costs no look at the record.
func (d *delivery) plain() bool {
	return !d.due && !d.redeliver && !d.explicit() && d.meta.Run == 1 && d.meta.Attempt == 1
}

func (d *delivery) place() place { return place{d.lane, d.due, d.sequence} }

func (d *delivery) queue() string { return d.addr.Lane.Queue }

// ack tells the broker that the task is done with. A lost ack is harmless: the
// record stands.
func (d *delivery) ack() { d.answer(ackBody) }

// handBack returns the message to the queue: after 100 ms, because the broker
// may forget a nak without a delay when its leader changes.
func (d *delivery) nak() {
	if d.pool.w.without.NakDelay {
		d.answer(plainNakBody)
		return
	}
	d.answer(nakBody)
}

// nakForLonger returns the message for a second, as one that may not run beside
// another that does.
func (d *delivery) nakForLonger() { d.answer(longNakBody) }

// renew tells the broker that the message is still held.
func (d *delivery) renew() { d.answer(renewBody) }

// What the broker is told of a message (ADR-15).
var (
	ackBody      = []byte("+ACK")
	nakBody      = []byte(`-NAK {"delay":100000000}`)
	longNakBody  = []byte(`-NAK {"delay":1000000000}`)
	plainNakBody = []byte("-NAK") // of a control alone
	renewBody    = []byte("+WPI")
)

func (d *delivery) answer(body []byte) {
	// Publishing only fails on a closed connection; then the lease passes.
	_ = d.pool.w.c.nc.Publish(d.replyTo(), body)
}

// replyTo is where the broker is answered.
func (d *delivery) replyTo() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reply == "" {
		return d.msg.Reply
	}
	return d.reply
}

// begin notes that the handler starts and how it is stopped, unless it may not
// start any more: then it tells what comes of that.
func (d *delivery) begin(ctx context.Context, cancel context.CancelCauseFunc, now time.Time) (result, bool) {
	d.pool.w.leases.awake()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.lost:
		return result{kind: resultNothing}, false
	case d.revoked:
		return result{kind: resultRevoked}, false
	}
	d.ctx, d.cancel, d.started = ctx, cancel, now
	return result{}, true
}

// revoke notes that nobody wants the task any more and stops the handler.
func (d *delivery) revoke() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revoked = true
	if d.cancel != nil {
		d.cancel(errRevoked)
	}
}

// expired reports whether the task may not begin any more, now or at its time.
func (d *delivery) expired(now time.Time) bool {
	return !d.meta.Expires.IsZero() && (now.After(d.meta.Expires) || d.meta.ETA.After(d.meta.Expires))
}

// end notes that the handler has ended: what is not marked as started by now
// never will be. It tells whether the handler was left behind, and whether
// another slot is in place of its own.
func (d *delivery) end() (left, replaced bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.returned = true, true
	d.cancel = nil // it is the next task's
	return d.left, d.replaced
}

// lose notes that the lease has passed and stops the handler.
func (d *delivery) lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = true
	if d.cancel != nil {
		d.cancel(errLeaseLost)
	}
}

// isLost reports whether the lease has passed; once it has, it stays so.
func (d *delivery) isLost() bool {
	d.pool.w.leases.awake()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// isMarking reports whether the started mark has been begun: there may be a
// record, whatever the delivery knows of it.
func (d *delivery) isMarking() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.marking
}

// claim is the record and the revision that this run's outcome replaces.
func (d *delivery) claim() (*Record, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record, d.revision
}

func (d *delivery) setClaim(r *Record, revision uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record, d.revision = r, revision
}

func (d *delivery) startedAt() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.started
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
