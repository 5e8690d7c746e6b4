package engine

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

const (
	// holdAhead is how far ahead of its time the worker takes a task into its
	// memory; what is due later is parked in the broker.
	holdAhead = 2 * time.Second
	// handBackAfter is how long a task may wait here for a slot before it goes
	// back, for another worker may have one free.
	handBackAfter = time.Second
	// drainWithin bounds the wait for what the broker has sent already when the
	// fetching ends; without a connection nothing comes.
	drainWithin = 2 * time.Second
	// holdMost bounds how many tasks of the due lane are held for their time.
	holdMost = 512
	// abandonAfter is how long a cancelled handler may ignore it at shutdown.
	abandonAfter = 5 * time.Second
)

// pool is the slots of one queue: one loop that owns what is held, asks both
// lanes for exactly what is free, and gives slots to what is ready.
//
// Tasks that must be looked at before they may wait (those of the due lane, and
// those with a time ahead) are looked at beside the loop, and then held without
// a slot until their time. Both lanes are asked for the free slots, so together
// they may bring up to twice as many; what finds no slot within handBackAfter
// goes back.
type pool struct {
	w       *Worker
	lane    wire.Lane
	slots   int
	ackWait time.Duration
	settler *settler
	signs   *signs

	arrivals chan arrival
	looked   chan looked
	freed    chan time.Duration // how long the slot was used
	drained  chan struct{}
	work     chan *delivery
	ended    chan struct{} // closed when the loop has ended

	// Of the loop alone.
	plain, dueLane *puller
	running        int           // given to slots
	ready          []*delivery   // wait for a slot, oldest first
	held           []*delivery   // wait for their time
	looking        int           // are looked at
	plainAside     int           // of held and looking, those that came by the plain lane
	pace           time.Duration // how long a task uses a slot, smoothed
	stopping       bool
	draining       int // subscriptions that may still bring something
}

type arrival struct {
	from *puller
	msg  *nats.Msg
}

// looked is a delivery after its look at the record: to be run, or done with.
type looked struct {
	d   *delivery
	run bool
}

func newPool(w *Worker, lane wire.Lane, slots int, ackWait time.Duration) *pool {
	signs := w.vitals.newSigns(lane.String())
	return &pool{
		w: w, lane: lane, slots: slots, ackWait: ackWait, signs: signs, settler: newSettler(w, lane.String(), signs),
		arrivals: make(chan arrival, 2*slots+16),
		looked:   make(chan looked),
		freed:    make(chan time.Duration),
		drained:  make(chan struct{}, 2),
		work:     make(chan *delivery, slots),
		ended:    make(chan struct{}),
		pace:     time.Second,
	}
}

// run works until ctx is done and all that is held is done with or handed back.
// Handlers run under working.
func (p *pool) run(ctx, working context.Context) error {
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		p.settler.run()
	}()
	defer func() {
		p.settler.close()
		<-settled
	}()
	reconnected := p.w.c.nc.StatusChanged(nats.CONNECTED)
	defer p.w.c.nc.RemoveStatusListener(reconnected)
	if err := p.subscribe(); err != nil {
		return err
	}
	for range p.slots {
		go p.slot(working)
	}
	defer close(p.work)
	defer close(p.ended)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	stop, abandon := ctx.Done(), working.Done()
	var abandoned, undrained <-chan time.Time
	defer p.signs.loop.End()
	for !p.idle() {
		p.signs.loop.Turn()
		p.step(due)
		select {
		case a := <-p.arrivals:
			p.arrived(working, a)
		case l := <-p.looked:
			p.afterLook(l)
		case used := <-p.freed:
			p.running--
			p.pace += (used - p.pace) / 8
		case <-due.C:
		case <-p.settler.paid:
		case <-reconnected:
			p.plain.reset()
			p.dueLane.reset()
		case now := <-tick.C:
			p.check(now)
		case <-p.drained:
			p.draining--
		case <-undrained:
			p.draining = 0
		case <-stop:
			stop, undrained = nil, time.After(drainWithin)
			p.stop()
		case <-abandon:
			abandon, abandoned = nil, time.After(abandonAfter)
		case <-abandoned:
			p.w.log.ErrorContext(working, "handlers ignore their context, left behind", "queue", p.lane.String(), "handlers", p.running)
			return nil
		}
	}
	return nil
}

// idle reports whether a pool that stops has nothing left.
func (p *pool) idle() bool {
	return p.stopping && p.running == 0 && p.looking == 0 && p.draining <= 0 && len(p.arrivals) == 0
}

func (p *pool) subscribe() error {
	ns, nc := p.w.c.ns, p.w.c.nc
	arrived := func(from *puller, m *nats.Msg) {
		select {
		case p.arrivals <- arrival{from, m}:
		case <-p.ended:
		}
	}
	var err error
	if p.plain, err = newPuller(nc, p.w.log, ns.TaskStream(p.lane), wire.WorkersDurable, false, arrived); err == nil {
		p.dueLane, err = newPuller(nc, p.w.log, ns.LaterStream(p.lane), wire.DueDurable, true, arrived)
	}
	return err
}

// step gives free slots to what is ready and asks for as much as is free then.
func (p *pool) step(due *time.Timer) {
	now := time.Now()
	p.release(now, due)
	for p.running < p.slots && len(p.ready) > 0 {
		d := p.ready[0]
		p.ready = p.ready[1:]
		p.running++
		p.work <- d
	}
	if p.stopping || p.settler.owed.Load() > p.mostOwed() {
		return
	}
	free := p.slots - p.running - len(p.ready)
	p.plain.want(free-p.plainAside, now)
	if free > 0 {
		p.dueLane.want(p.holdable(free)-(len(p.held)+p.looking-p.plainAside), now)
	}
}

// mostOwed is how many outcomes may wait to be written before no more tasks are
// asked for. A slot is free when its handler returns; where nothing can be
// written this is the bound of what the worker holds.
func (p *pool) mostOwed() int64 { return int64(max(4*p.slots, 64)) }

// holdable is how many tasks of the due lane may be held for their time: as
// many as the slots can run before a task that has found none goes back. Held
// tasks use no slot until then, and a slot that is free now makes room for many
// short ones.
func (p *pool) holdable(free int) int {
	within := int(handBackAfter / max(p.pace, time.Millisecond))
	return min(max(free, p.slots*within), holdMost)
}

// release moves what has come to its time from held to ready, and sets the
// timer to the next.
func (p *pool) release(now time.Time, due *time.Timer) {
	next := time.Hour
	kept := p.held[:0]
	for _, d := range p.held {
		if wait := d.meta.ETA.Sub(now); wait > 0 {
			next = min(next, wait)
			kept = append(kept, d)
			continue
		}
		p.unaside(d)
		d.readyAt = now
		p.ready = append(p.ready, d)
	}
	clear(p.held[len(kept):])
	p.held = kept
	due.Reset(next)
}

// arrived takes a message or a status of a lane.
func (p *pool) arrived(working context.Context, a arrival) {
	now := time.Now()
	if a.msg.Reply == "" {
		a.from.status(a.msg, now)
		if a.from.trouble && !p.stopping {
			p.w.mend()
		}
		return
	}
	a.from.delivered(now)
	d := newDelivery(p, a.msg, a.from.due, now)
	p.w.leases.add(d)
	switch {
	case p.stopping:
		p.handBack(d)
	case d.bad == nil && (d.due || d.meta.ETA.After(now)):
		p.lookAside(working, d)
	default:
		p.ready = append(p.ready, d)
	}
}

// lookAside looks at the record of a delivery while its time has not come.
func (p *pool) lookAside(working context.Context, d *delivery) {
	p.looking++
	if !d.due {
		p.plainAside++
	}
	go func() {
		l := looked{d, p.w.prepare(working, d)}
		select {
		case p.looked <- l:
		case <-p.ended:
		}
	}()
}

func (p *pool) afterLook(l looked) {
	p.looking--
	switch {
	case !l.run:
		p.unaside(l.d)
	case p.stopping:
		p.unaside(l.d)
		p.handBack(l.d)
	default:
		p.held = append(p.held, l.d)
	}
}

func (p *pool) unaside(d *delivery) {
	if !d.due {
		p.plainAside--
	}
}

// check is what is done now and then: find lost requests, and hand back what
// has waited too long for a slot.
func (p *pool) check(now time.Time) {
	p.plain.check(now)
	p.dueLane.check(now)
	p.signs.cannotFetch.Store(p.plain.trouble || p.dueLane.trouble)
	kept := p.ready[:0]
	for _, d := range p.ready {
		if now.Sub(d.readyAt) < handBackAfter {
			kept = append(kept, d)
			continue
		}
		p.handBack(d)
	}
	clear(p.ready[len(kept):])
	p.ready = kept
}

// stop ends the fetching and hands back what has not started.
func (p *pool) stop() {
	p.stopping = true
	p.draining = 2
	for _, lane := range []*puller{p.plain, p.dueLane} {
		lane.drain(func() { p.drained <- struct{}{} })
	}
	for _, d := range append(p.ready, p.held...) {
		p.handBack(d)
	}
	p.ready, p.held = nil, nil
}

// handBack returns what has not started to the queue. A record that says it
// has is set back first, so that this counts neither as failure nor as death.
func (p *pool) handBack(d *delivery) {
	if r, _ := d.claim(); r == nil {
		p.w.leases.remove(d)
		d.nak()
		return
	}
	p.settler.add(p.w.settlement(d, result{kind: resultHandBack}))
}

// slot runs one task at a time. A handler that ends its goroutine
// (runtime.Goexit) takes the slot with it: another is made.
func (p *pool) slot(working context.Context) {
	ended := false
	defer func() {
		if !ended {
			go p.slot(working)
		}
	}()
	for d := range p.work {
		p.runOne(working, d)
	}
	ended = true
}

// runOne runs a task and settles it, however its handler ends.
func (p *pool) runOne(working context.Context, d *delivery) {
	began := time.Now()
	result := failed(errGoexit)
	defer func() {
		d.end()
		p.settler.add(p.w.settlement(d, result))
		select {
		case p.freed <- time.Since(began):
		case <-p.ended:
		}
	}()
	if p.w.ackFirst {
		d.ack()
	}
	result = p.w.process(working, d)
}
