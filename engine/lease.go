package engine

import (
	"context"
	"sync"
	"time"

	"pelton/engine/wire"
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
	held map[*delivery]struct{}
	by   map[place]*delivery
}

// place is where a message stands in the broker.
type place struct {
	lane     wire.Lane
	due      bool
	sequence uint64
}

func newLeases(w *Worker) *leases {
	return &leases{w: w, held: map[*delivery]struct{}{}, by: map[place]*delivery{}}
}

// again reports whether the message of a delivery is held here already. A broker
// that was killed forgets what it delivered just before, or that a lease was
// renewed, and delivers it once more. What is held goes on, and answers to the
// delivery that the broker knows.
func (l *leases) again(d *delivery, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.by[d.place()]
	if held == nil || d.sequence == 0 {
		return false
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	held.reply, held.renewed = d.msg.Reply, now
	return true
}

func (l *leases) add(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[d] = struct{}{}
	l.by[d.place()] = d
}

func (l *leases) remove(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(d)
}

func (l *leases) forget(d *delivery) {
	delete(l.held, d)
	if l.by[d.place()] == d { // it may be the next delivery's
		delete(l.by, d.place())
	}
}

// find are the deliveries of a task that are held.
func (l *leases) find(task revokedTask) []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*delivery
	for d := range l.held {
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
	for d := range l.held {
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

// expire gives up the leases that have passed.
func (l *leases) expire(ctx context.Context, now time.Time) {
	l.mu.Lock()
	var lost []*delivery
	for d := range l.held {
		d.mu.Lock()
		if now.Sub(d.renewed) >= d.ackWait*4/5 {
			lost = append(lost, d)
			l.forget(d)
		}
		d.mu.Unlock()
	}
	l.mu.Unlock()
	for _, d := range lost {
		d.lose()
		l.w.log.WarnContext(ctx, "lease lost", "task", d.addr.Task, "task_id", d.id, "queue", d.queue())
	}
}
