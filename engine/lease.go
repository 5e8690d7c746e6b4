package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// startedAfter is how long a plain first run goes on before its record says
// started.
const startedAfter = time.Second

// leases keeps alive what the worker holds: one goroutine renews every lease,
// each at a third of its AckWait. A round is confirmed by one round trip on the
// same connection; a lease whose renewal is not confirmed by 80 % of AckWait is
// lost: its handler is cancelled, and nothing of it is recorded any more.
type leases struct {
	w    *Worker
	mu   sync.Mutex
	held map[place]*delivery
	last *delivery // see alone

	begun  time.Time
	looked atomic.Int64 // when it was looked for what has passed, in nanoseconds since begun
}

// place is where a message stands in the broker.
type place struct {
	lane     *lane
	due      bool
	sequence uint64
}

func newLeases(w *Worker) *leases {
	return &leases{w: w, held: map[place]*delivery{}, begun: time.Now()}
}

// take holds a delivery, unless its message is held here already. A broker that
// was killed forgets what it delivered just before, or that a lease was renewed,
// and delivers it once more. What is held goes on, and answers to the delivery
// that the broker knows.
func (l *leases) take(d *delivery, now time.Time) bool {
	if d.sequence == 0 {
		return true // it is of no stream, there is nothing to renew
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held[d.place()]
	if held == nil {
		l.held[d.place()] = d
		return true
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	held.reply, held.renewed = d.msg.Reply, now
	return false
}

// add holds a delivery in place of the one before of the same message, if there
// is one.
func (l *leases) add(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[d.place()] = d
}

// alone reports whether a delivery may be run whose next death is its last: one
// of them at a time. What died beside a task that ends its process comes back
// together with it, and would die and be buried with it too.
func (l *leases) alone(d *delivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && l.last != d && l.held[l.last.place()] == l.last {
		return false
	}
	l.last = d
	return true
}

func (l *leases) remove(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(d)
}

func (l *leases) forget(d *delivery) {
	if l.held[d.place()] == d { // it may be the next delivery's
		delete(l.held, d.place())
	}
}

// find are the deliveries of a task that are held.
func (l *leases) find(task revokedTask) []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*delivery
	for _, d := range l.held {
		if d.id == task.id && d.queue() == task.queue {
			found = append(found, d)
		}
	}
	return found
}

// run renews until ctx is done.
func (l *leases) run(ctx context.Context) {
	tick := time.NewTicker(leaseTick)
	defer tick.Stop()
	turns := l.w.vitals.loops.Loop("leases", stallLoop)
	defer turns.End()
	for {
		turns.Turn()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.round(ctx)
		}
	}
}

// leaseTick is how often leases are looked at. A round costs a map walk over
// what is held, and messages only for what is due.
const leaseTick = 100 * time.Millisecond

// round renews what is due, and gives up what could not be renewed.
func (l *leases) round(ctx context.Context) {
	now := time.Now()
	// First: after a freeze of the process the leases have passed, and others
	// may hold what they were for.
	l.expire(ctx, now)
	due, shortest := l.due(now)
	if len(due) > 0 && l.confirm(ctx, due, shortest/6) {
		for _, d := range due {
			d.mu.Lock()
			d.renewed = now
			d.mu.Unlock()
		}
	}
	l.expire(ctx, time.Now())
}

// due is what is to be renewed, with the shortest AckWait among it. It also
// begins the started marks that are due.
func (l *leases) due(now time.Time) ([]*delivery, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due []*delivery
	shortest := time.Hour
	for _, d := range l.held {
		d.mu.Lock()
		if now.Sub(d.renewed) >= d.ackWait/3 {
			due = append(due, d)
			shortest = min(shortest, d.ackWait)
		}
		mark := !d.marking && !d.ended && d.record == nil && !d.started.IsZero() && now.Sub(d.started) >= startedAfter
		d.marking = d.marking || mark
		d.mu.Unlock()
		if mark {
			l.w.aside.Go(func() { l.w.markStarted(d) })
		}
	}
	return due, shortest
}

// confirm sends the renewals and waits until the server has read them.
func (l *leases) confirm(ctx context.Context, due []*delivery, within time.Duration) bool {
	for _, d := range due {
		d.renew()
	}
	ctx, cancel := context.WithTimeout(ctx, min(max(within, 50*time.Millisecond), 2*time.Second))
	defer cancel()
	return l.w.c.nc.FlushWithContext(ctx) == nil
}

// roundsLate is how long ago the last round may be before others look for
// themselves.
const roundsLate = 10 * leaseTick

// awake gives up what has passed where the rounds are late: after a freeze of the
// process anybody may run before their goroutine does.
func (l *leases) awake() {
	if now := time.Now(); now.Sub(l.begun)-time.Duration(l.looked.Load()) > roundsLate {
		l.expire(context.Background(), now) //nolint:forbidigo // only for the log
	}
}

// expire gives up the leases that have passed.
func (l *leases) expire(ctx context.Context, now time.Time) {
	if l.w.without.Lease {
		return
	}
	l.mu.Lock()
	var lost []*delivery
	for _, d := range l.held {
		d.mu.Lock()
		if now.Sub(d.renewed) >= d.ackWait*4/5 {
			d.lost = true
			lost = append(lost, d)
			l.forget(d)
		}
		d.mu.Unlock()
	}
	l.mu.Unlock()
	l.looked.Store(int64(now.Sub(l.begun)))
	for _, d := range lost {
		d.lose()
		if hook := l.w.cfg.Hooks.LeaseLost; hook != nil {
			l.w.aside.Go(func() { l.w.tell("LeaseLost", hook, l.w.event(d, now)) })
		}
		l.w.log.WarnContext(ctx, "lease lost", "task", d.addr.Task, "task_id", d.id, "queue", d.queue())
	}
}
