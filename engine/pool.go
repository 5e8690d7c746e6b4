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
	// holdMost bounds how many tasks are held for their time, and holdBytes how
	// much their bodies may take. A burst is claimed while it is held, so that
	// at its time it only has to run; it must leave some of the 10,000 that all
	// workers of a lane may hold.
	holdMost  = 8192
	holdBytes = 64 << 20
	// abandonAfter is how long a cancelled handler may ignore it at shutdown.
	abandonAfter = 5 * time.Second
)

// pool is the slots of one queue: one loop that owns what is held, asks the
// consumers of its lanes for exactly what is free, and gives slots to what is
// ready.
//
// Tasks that must be looked at before they may wait (those that have become due,
// and those with a time ahead) are looked at beside the loop, and then held
// without a slot until their time. Both consumers of a lane are asked for the
// free slots, so together they may bring up to twice as many; what finds no slot
// within handBackAfter goes back.
type pool struct {
	w       *Worker
	queue   string
	slots   int
	poll    Poll
	settler *settler
	signs   *signs

	arrivals chan arrival
	looked   chan looked
	kept     chan kept // never full: what is sent has room in keeping
	keeping  keeping
	freed    chan time.Duration // how long the slot was used
	drained  chan struct{}
	work     chan *delivery
	ended    chan struct{} // closed when the loop has ended

	// Of the loop alone.
	lanes      []*lane       // the most urgent first
	chooser    *chooser      // by weight
	quietAfter time.Duration // see lane.quiet
	running    int           // given to slots
	held       heldTasks     // wait for their time
	looking    int           // are looked at
	asideBytes int           // of held and looking, the size of their bodies
	pace       time.Duration // how long a task uses a slot, smoothed
	stopping   bool
	draining   int // subscriptions that may still bring something
}

type arrival struct {
	lane *lane
	from *puller
	msg  *nats.Msg
}

// looked is a delivery after its look at the record: to be run, or done with.
type looked struct {
	d   *delivery
	run bool
}

func newPool(w *Worker, q Queue) *pool {
	ranked, signs := q.ranked(), w.vitals.newSigns(q.Name)
	p := &pool{
		w: w, queue: q.Name, slots: q.Slots, poll: q.Poll, signs: signs, settler: newSettler(w, q.Name, signs),
		arrivals: make(chan arrival, 2*q.Slots+16),
		looked:   make(chan looked),
		freed:    make(chan time.Duration),
		drained:  make(chan struct{}, 2*len(ranked)),
		work:     make(chan *delivery, q.Slots),
		ended:    make(chan struct{}),
		chooser:  newChooser(ranked),
		keeping:  keeping{most: holdMost},
		pace:     time.Second,
	}
	for _, l := range ranked {
		p.lanes = append(p.lanes, &lane{lane: l})
	}
	return p
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
		p.returnKept()
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
		case k := <-p.kept:
			p.keep(working, k)
		case used := <-p.freed:
			p.running--
			p.pace += (used - p.pace) / 8
		case <-due.C:
		case <-p.settler.paid:
		case <-reconnected:
			for _, ln := range p.lanes {
				ln.plain.reset()
				ln.due.reset()
			}
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
			p.w.log.ErrorContext(working, "handlers ignore their context, left behind", "queue", p.queue, "handlers", p.running)
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
	p.quietAfter = quietAfter
	if len(p.lanes) > 1 {
		if rtt, err := nc.RTT(); err == nil {
			p.quietAfter = min(max(quietAfter, 4*rtt), time.Second)
		}
	}
	for _, ln := range p.lanes {
		arrived := func(from *puller, m *nats.Msg) {
			select {
			case p.arrivals <- arrival{ln, from, m}:
			case <-p.ended:
			}
		}
		var err error
		if ln.plain, err = newPuller(nc, p.w.log, ns.TaskStream(ln.lane), wire.WorkersDurable, false, arrived); err != nil {
			return err
		}
		if ln.due, err = newPuller(nc, p.w.log, ns.LaterStream(ln.lane), wire.DueDurable, true, arrived); err != nil {
			return err
		}
	}
	return nil
}

// step gives free slots to what is ready and asks for as much as is free then.
// It sets the timer to when there is something to do by itself.
func (p *pool) step(wake *time.Timer) {
	now, clock := time.Now(), p.w.now()
	p.release(now, clock)
	for p.running < p.slots {
		ln := p.next(now)
		if ln == nil {
			break
		}
		d := ln.ready[0]
		ln.ready = ln.ready[1:]
		p.running++
		p.work <- d
	}
	if !p.stopping && p.settler.owed.Load() <= p.mostOwed() {
		p.ask(now)
	}
	wake.Reset(p.sleep(now, clock))
}

// next is the lane whose oldest ready task has the next slot.
func (p *pool) next(now time.Time) *lane {
	has := func(i int) bool { return len(p.lanes[i].ready) > 0 }
	i := 0
	switch {
	case len(p.lanes) == 1:
		if !has(0) {
			return nil
		}
	case p.poll == PollWeighted:
		i = p.oldest() // the shares are kept where lanes are asked
	default:
		i = pickStrict(len(p.lanes), has, func(i int) bool { return p.lanes[i].quiet(now, p.quietAfter) })
	}
	if i < 0 {
		return nil
	}
	return p.lanes[i]
}

// oldest is the lane whose task has waited longest for a slot, -1 where none
// does.
func (p *pool) oldest() int {
	best := -1
	for i, ln := range p.lanes {
		if len(ln.ready) > 0 && (best < 0 || ln.ready[0].readyAt.Before(p.lanes[best].ready[0].readyAt)) {
			best = i
		}
	}
	return best
}

// ask asks the lanes for what is free. A lane that others share the slots with
// is asked by its turn.
func (p *pool) ask(now time.Time) {
	if len(p.lanes) > 1 && p.poll == PollWeighted {
		p.askWeighted(now)
		return
	}
	free := p.slots - p.running
	for _, ln := range p.lanes {
		free -= len(ln.ready)
		p.askLane(ln, free, now)
		if len(p.lanes) > 1 && !ln.quiet(now, p.quietAfter) {
			return // what it has goes first
		}
	}
}

// askLane asks both consumers of a lane for free slots.
func (p *pool) askLane(ln *lane, free int, now time.Time) {
	if p.asideBytes >= holdBytes {
		return
	}
	room := p.holdable(free)
	ln.plain.want(min(free, room-ln.aside), now)
	if free > 0 {
		p.askDue(ln, room, now)
	}
}

// askDue asks for tasks whose time comes: they are held without a slot.
func (p *pool) askDue(ln *lane, room int, now time.Time) {
	others := 0
	for _, ln := range p.lanes {
		others += ln.aside
	}
	ln.due.want(room-(len(p.held)+p.looking-others), now)
}

// askWeighted shares what is free among the lanes that have something, or may
// have. One that has nothing keeps the request that says so; what it brings
// later goes first to a slot by its rank.
func (p *pool) askWeighted(now time.Time) {
	if p.asideBytes >= holdBytes {
		return
	}
	free := p.slots - p.running
	for _, ln := range p.lanes {
		free -= len(ln.ready)
	}
	room := p.holdable(free)
	asked := make([]int, len(p.lanes))
	left := free
	for i, ln := range p.lanes {
		asked[i] = ln.plain.outstanding()
		if !ln.quiet(now, p.quietAfter) {
			left -= asked[i]
		}
		if ln.plain.trouble {
			asked[i] = max(asked[i], 1)
		}
	}
	for ; left > 0; left-- {
		i := p.chooser.pick(func(i int) bool {
			return !p.lanes[i].quiet(now, p.quietAfter) && p.lanes[i].aside+asked[i] < room
		})
		if i < 0 {
			break
		}
		asked[i]++
	}
	for i, ln := range p.lanes {
		ln.plain.want(asked[i], now)
		if free > 0 {
			p.askDue(ln, room, now)
		}
	}
}

// mostOwed is how many outcomes may wait to be written before no more tasks are
// asked for. A slot is free when its handler returns; where nothing can be
// written this is the bound of what the worker holds.
func (p *pool) mostOwed() int64 { return int64(max(4*p.slots, 64)) }

// holdable is how many tasks may be held for their time: as many as the slots
// can run before a task that has found none goes back. Held tasks use no slot
// until then, and a slot that is free now makes room for many short ones.
func (p *pool) holdable(free int) int {
	within := int(handBackAfter / max(p.pace, time.Millisecond))
	return min(max(free, p.slots*within), holdMost)
}

// release moves what has come to its time from held to ready.
func (p *pool) release(now, clock time.Time) {
	for d := p.held.due(clock); d != nil; d = p.held.due(clock) {
		p.unaside(d)
		d.readyAt = now
		d.lane.ready = append(d.lane.ready, d)
	}
}

// sleep is how long there is nothing to do but what others tell: until the next
// task's time, or until it is known whether a lane has something.
func (p *pool) sleep(now, clock time.Time) time.Duration {
	sleep := time.Hour
	if len(p.held) > 0 {
		sleep = max(p.held[0].meta.ETA.Sub(clock), 0)
	}
	if len(p.lanes) == 1 || p.running == p.slots {
		return sleep
	}
	for _, ln := range p.lanes {
		if ln.plain.outstanding() > 0 && !ln.quiet(now, p.quietAfter) {
			sleep = min(sleep, max(p.quietAfter-now.Sub(ln.plain.moved), time.Millisecond))
		}
	}
	return sleep
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
	d := newDelivery(p, a.lane, a.msg, a.from.due, now)
	if p.w.leases.again(d, now) {
		return
	}
	p.w.leases.add(d)
	switch {
	case p.stopping:
		p.handBack(d)
	case d.bad == nil && (d.due || d.meta.ETA.After(p.w.now())):
		p.lookAside(working, d)
	default:
		a.lane.ready = append(a.lane.ready, d)
	}
}

// lookAside looks at the record of a delivery while its time has not come.
func (p *pool) lookAside(working context.Context, d *delivery) {
	p.asideBytes += len(d.msg.Data)
	if !d.due {
		d.lane.aside++
	}
	p.look(d, func() bool { return p.w.prepare(working, d, true) })
}

// look runs beside the loop what tells whether a delivery is to be run.
func (p *pool) look(d *delivery, run func() bool) {
	p.looking++
	go func() {
		l := looked{d, run()}
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
		p.held.add(l.d)
	}
}

func (p *pool) unaside(d *delivery) {
	if d.kept {
		p.keeping.leave(len(d.msg.Data))
		return
	}
	p.asideBytes -= len(d.msg.Data)
	if !d.due {
		d.lane.aside--
	}
}

// check is what is done now and then: find lost requests, and hand back what
// has waited too long for a slot.
func (p *pool) check(now time.Time) {
	trouble := false
	for _, ln := range p.lanes {
		ln.plain.check(now)
		ln.due.check(now)
		trouble = trouble || ln.plain.trouble || ln.due.trouble
		kept := ln.ready[:0]
		for _, d := range ln.ready {
			if now.Sub(d.readyAt) < handBackAfter {
				kept = append(kept, d)
				continue
			}
			p.handBack(d)
		}
		clear(ln.ready[len(kept):])
		ln.ready = kept
	}
	p.signs.cannotFetch.Store(trouble)
}

// stop ends the fetching and hands back what has not started.
func (p *pool) stop() {
	p.stopping = true
	p.keeping.close() // what is due soon is parked from now on
	p.draining = 2 * len(p.lanes)
	for _, ln := range p.lanes {
		ln.plain.drain(func() { p.drained <- struct{}{} })
		ln.due.drain(func() { p.drained <- struct{}{} })
		for _, d := range ln.ready {
			p.handBack(d)
		}
		ln.ready = nil
	}
	for _, d := range p.held {
		p.handBack(d)
	}
	p.held = nil
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
	var result result
	returned := false
	defer func() {
		if !returned {
			result = failed(errGoexit)
		}
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
	returned = true
}
