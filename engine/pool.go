package engine

import (
	"context"
	"sync"
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
	// at its time it only has to run. The consumer may allow fewer, see shareOf.
	holdMost  = 8192
	holdBytes = 64 << 20
	// aheadFor is how long the tasks that are asked for beyond the free slots
	// keep them busy, and aheadMost how many they are at most.
	aheadFor  = 20 * time.Millisecond
	aheadMost = 500
	// abandonAfter is how long a cancelled handler may ignore it at shutdown.
	abandonAfter = 5 * time.Second
	// abortAfter is that time where the worker is to end now.
	abortAfter = 200 * time.Millisecond
)

// pool is the slots of one queue: a loop that owns what is held and asks the
// consumers of its lanes for what is free, and slots that take what is ready by
// themselves. The loop holds mu whenever it does not wait, so that what is of
// the loop alone may be read by slots too; a slot holds it between two tasks.
//
// More is asked for than is free where tasks are short: what they find ready is
// what the round trip would have cost them. Tasks that must be looked at before
// they may wait (those that have become due, and those with a time ahead) are
// looked at beside the loop, and then held without a slot until their time. Both
// consumers of a lane are asked, so together they may bring up to twice as many;
// what finds no slot within handBackAfter goes back.
type pool struct {
	w       *Worker
	queue   string
	slots   int
	poll    Poll
	settler *settler
	signs   *signs

	arrivals *mailbox[arrival]
	looked   chan looked
	kept     chan kept // never full: what is sent has room in keeping
	keeping  keeping
	turn     chan struct{} // capacity 1: the loop is to look what there is to do
	drained  chan struct{}
	ended    chan struct{} // closed when the loop has ended

	mu         sync.Mutex
	wake       *sync.Cond    // slots wait for what is ready
	waiting    int           // slots that do and have not been told
	closed     bool          // they end
	lanes      []*lane       // the most urgent first
	asks, runs *chooser      // by weight, whom to ask and whose task runs
	quietAfter time.Duration // see lane.quiet
	running    int           // in slots
	inSlots    map[*delivery]struct{}
	left       leftBehind
	held       heldTasks     // wait for their time
	looking    int           // are looked at
	asideBytes int           // of held and looking, the size of their bodies
	holdMost   int           // tasks at a time; as many as there are slots may be in any case
	pace       time.Duration // how long a task uses a slot, smoothed
	freed      int           // slots since the lanes were asked
	step       int           // how many make it worth asking again
	stopping   bool
	draining   int // subscriptions that may still bring something
}

// arrival is a message, or a status of its lane, where there is no delivery.
type arrival struct {
	lane *lane
	from *puller
	msg  *nats.Msg
	d    *delivery
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
		arrivals: newMailbox[arrival](),
		looked:   make(chan looked),
		turn:     make(chan struct{}, 1),
		inSlots:  map[*delivery]struct{}{},
		drained:  make(chan struct{}, 2*len(ranked)),
		ended:    make(chan struct{}),
		asks:     newChooser(ranked),
		runs:     newChooser(ranked),
		keeping:  keeping{most: holdMost},
		holdMost: holdMost,
		pace:     time.Second,
		step:     1,
	}
	p.wake = sync.NewCond(&p.mu)
	for _, l := range ranked {
		p.lanes = append(p.lanes, &lane{lane: l, asideMost: holdMost})
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
	defer p.close()
	defer close(p.ended)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	stop, abandon, aborted := ctx.Done(), working.Done(), (<-chan struct{})(p.w.aborted)
	var abandoned, undrained <-chan time.Time
	defer p.signs.loop.End()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.idle() {
		p.signs.loop.Turn()
		p.look(due)
		p.mu.Unlock()
		var then func()
		select {
		case <-p.arrivals.told:
			then = func() { p.arrived(working) }
		case l := <-p.looked:
			then = func() { p.afterLook(l) }
		case k := <-p.kept:
			then = func() { p.keep(working, k) }
		case <-p.turn:
		case <-due.C:
		case <-p.settler.paid:
		case <-reconnected:
			then = p.reset
		case now := <-tick.C:
			then = func() {
				p.check(now)
				p.findStuck(working, now, p.w.cfg.StuckAfter)
			}
		case <-p.drained:
			then = func() { p.draining-- }
		case <-undrained:
			then = func() { p.draining = 0 }
		case <-stop:
			stop, undrained = nil, time.After(drainWithin)
			then = p.stop
		case <-abandon:
			if abandon = nil; abandoned == nil {
				abandoned = time.After(abandonAfter)
			}
		case <-aborted:
			aborted, abandoned = nil, time.After(abortAfter)
		case now := <-abandoned:
			p.mu.Lock()
			p.findStuck(working, now, 0)
			return nil
		}
		p.mu.Lock()
		if then != nil {
			then()
		}
	}
	return nil
}

// idle reports whether a pool that stops has nothing left.
func (p *pool) idle() bool {
	return p.stopping && p.running == 0 && p.looking == 0 && p.draining <= 0 && p.arrivals.len() == 0
}

// close ends the slots. What a handler that was left behind may still give back
// finds nobody.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wake.Broadcast()
}

// reset forgets what was asked for on a connection that is gone.
func (p *pool) reset() {
	for _, ln := range p.lanes {
		ln.plain.reset()
		ln.due.reset()
	}
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
			a := arrival{lane: ln, from: from, msg: m}
			if m.Reply != "" {
				a.d = newDelivery(p, ln, m, from.due, time.Now())
			}
			p.arrivals.put(a)
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

// look has slots take what has come to its time, and asks for as much as is
// missing then. It sets the timer to when there is something to do by itself.
func (p *pool) look(wake *time.Timer) {
	now, clock := time.Now(), p.w.now()
	p.release(now, clock)
	if len(p.lanes) > 1 && p.ready() > 0 {
		p.wakeAll() // a lane may be known to have nothing now
	}
	if !p.stopping && !p.settler.owes() {
		p.ask(now)
	}
	wake.Reset(p.sleep(now, clock))
}

// ready is how many tasks wait for a slot.
func (p *pool) ready() (n int) {
	for _, ln := range p.lanes {
		n += len(ln.ready)
	}
	return n
}

// push makes a task ready, and wakes a slot for it.
func (p *pool) push(d *delivery) {
	d.lane.ready = append(d.lane.ready, d)
	if p.waiting > 0 {
		p.waiting--
		p.wake.Signal()
	}
}

func (p *pool) wakeAll() {
	p.waiting = 0
	p.wake.Broadcast()
}

// next is the lane whose oldest ready task has the next slot.
func (p *pool) next() *lane {
	has := func(i int) bool { return len(p.lanes[i].ready) > 0 }
	i := 0
	switch {
	case len(p.lanes) == 1:
		if !has(0) {
			return nil
		}
	case p.poll == PollWeighted:
		now := time.Now()
		i = p.runs.pick(has, func(i int) bool { return !p.lanes[i].quiet(now, p.quietAfter) })
	default:
		now := time.Now()
		i = pickStrict(len(p.lanes), has, func(i int) bool { return p.lanes[i].quiet(now, p.quietAfter) })
	}
	if i < 0 {
		return nil
	}
	return p.lanes[i]
}

// ask asks the lanes for what is free, and for what will be soon. A lane that
// others share the slots with is asked by its turn.
func (p *pool) ask(now time.Time) {
	ahead := p.ahead()
	missing := p.slots - p.running + ahead
	p.freed, p.step = 0, 1
	if ahead > 0 {
		p.step = max(1, (p.slots+ahead)/4)
	}
	if len(p.lanes) > 1 && p.poll == PollWeighted {
		p.askWeighted(missing, now)
		return
	}
	for _, ln := range p.lanes {
		missing -= len(ln.ready)
		p.askLane(ln, missing, now)
		if len(p.lanes) > 1 && !ln.quiet(now, p.quietAfter) {
			return // what it has goes first
		}
	}
}

// ahead is how many tasks are asked for beyond the slots that are free: as many
// as they run while more are on their way. A task that takes long would wait
// here for another.
func (p *pool) ahead() int {
	if p.pace >= time.Second {
		return 0
	}
	most := aheadMost
	if len(p.lanes) > 1 && p.poll == PollWeighted {
		most = min(most, 4*p.slots) // what comes of one lane at once, its share or not
	}
	return min(max(p.slots*int(aheadFor/max(p.pace, time.Microsecond)), p.aheadLeast()), most)
}

// aheadLeast is one task for each slot, where others wait for tasks for no longer
// than one takes.
func (p *pool) aheadLeast() int {
	if p.pace > 100*time.Millisecond {
		return 0
	}
	return p.slots
}

// askLane asks both consumers of a lane for free slots.
func (p *pool) askLane(ln *lane, free int, now time.Time) {
	if p.asideBytes >= holdBytes {
		return
	}
	room := p.holdable(free)
	p.want(ln.plain, min(free, p.roomAside(ln, room)), len(ln.ready), now)
	if free > 0 {
		p.askDue(ln, room, now)
	}
}

// want asks for what is missing to n messages under way, once that is worth a
// request: while there is something to run, or on its way, a few slots more are
// left to the next one.
func (p *pool) want(from *puller, n, ready int, now time.Time) {
	outstanding := from.outstanding()
	if n-outstanding >= p.step || outstanding == 0 && ready == 0 {
		from.want(n, now)
	}
}

// askDue asks for tasks whose time comes: they are held without a slot.
func (p *pool) askDue(ln *lane, room int, now time.Time) {
	others := 0
	for _, ln := range p.lanes {
		others += ln.aside
	}
	room -= len(p.held) + p.looking - others
	if outstanding := ln.due.outstanding(); outstanding == 0 || room-outstanding >= max(1, room/4) {
		ln.due.want(room, now)
	}
}

// askWeighted shares what is free among the lanes that have something, or may
// have. One that has nothing keeps the request that says so; what it brings
// later goes first to a slot by its rank.
func (p *pool) askWeighted(free int, now time.Time) {
	if p.asideBytes >= holdBytes {
		return
	}
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
	if left < p.step && p.ready() > 0 {
		left = 0 // not worth it, see want
	}
	for ; left > 0; left-- {
		i := p.asks.pick(func(i int) bool {
			return !p.lanes[i].quiet(now, p.quietAfter) && asked[i] < p.roomAside(p.lanes[i], room)
		}, func(int) bool { return false })
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

// holdable is how many tasks may be held for their time: as many as the slots
// can run before a task that has found none goes back. Held tasks use no slot
// until then, and a slot that is free now makes room for many short ones.
func (p *pool) holdable(free int) int {
	within := int(handBackAfter / max(p.pace, time.Millisecond))
	return min(max(free, p.slots*within), max(p.slots, p.holdMost))
}

// roomAside is how many more tasks of a lane's plain consumer may turn out to
// have a time ahead, and be held.
func (p *pool) roomAside(ln *lane, room int) int {
	if ln.aside == 0 {
		return room // most have none
	}
	return min(room, max(p.slots, ln.asideMost-p.keeping.count())) - ln.aside
}

// release moves what has come to its time from held to ready.
func (p *pool) release(now, clock time.Time) {
	for d := p.held.due(clock); d != nil; d = p.held.due(clock) {
		p.unaside(d)
		d.readyAt = now
		p.push(d)
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

// arrived takes what has come of the lanes.
func (p *pool) arrived(working context.Context) {
	now := time.Now()
	for _, a := range p.arrivals.take() {
		if a.d != nil {
			p.delivered(working, a, now)
			continue
		}
		a.from.status(a.msg, now)
		if a.from.trouble && !p.stopping {
			p.w.mend()
		}
	}
}

func (p *pool) delivered(working context.Context, a arrival, now time.Time) {
	d := a.d
	a.from.delivered(now)
	if !p.w.leases.take(d, now) {
		return
	}
	switch {
	case p.stopping:
		p.handBack(d)
	case d.bad == nil && (d.due || d.meta.ETA.After(p.w.now())):
		p.lookAside(working, d)
	default:
		p.push(d)
	}
}

// lookAside looks at the record of a delivery while its time has not come.
func (p *pool) lookAside(working context.Context, d *delivery) {
	p.asideBytes += len(d.msg.Data)
	if !d.due {
		d.lane.aside++
	}
	p.lookAt(d, func() bool { return p.w.prepare(lasting(working), d, true) })
}

// lookAt runs beside the loop what tells whether a delivery is to be run.
func (p *pool) lookAt(d *delivery, run func() bool) {
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
	trouble, connected := false, p.w.c.nc.Status() == nats.CONNECTED
	for _, ln := range p.lanes {
		ln.plain.check(now)
		ln.due.check(now)
		trouble = trouble || ln.plain.trouble || ln.due.trouble
		if ln.plain.silent(now) || ln.due.silent(now) {
			p.w.probe()
		}
		kept := ln.ready[:0]
		for _, d := range ln.ready {
			// What is said without a connection leaves with the next one, and may find
			// the task in other hands.
			if now.Sub(d.readyAt) < handBackAfter || !connected {
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
// has is set back first, so that this counts neither as failure nor as death. One
// whose lease has passed is another's by now.
func (p *pool) handBack(d *delivery) {
	if d.isLost() {
		return
	}
	if r, _ := d.claim(); r == nil {
		p.w.leases.remove(d)
		d.nak()
		if hook := p.w.cfg.Hooks.HandedBack; hook != nil {
			p.w.aside.Go(func() { p.w.tell("HandedBack", hook, p.w.event(d, time.Now())) })
		}
		return
	}
	p.settler.add(p.w.settlement(d, result{kind: resultHandBack}))
}

// slot runs one task at a time.
type slot struct {
	working   context.Context
	goroutine string // as stacks name it
	replaced  bool   // another one is in its place

	// What stops its tasks, one after the other: a task has it only while it runs
	// ([delivery.end]), and it is made anew once it has been used.
	ctx  context.Context
	stop context.CancelCauseFunc
}

// stoppable is the context of the slot's next task, without its deadline.
func (s *slot) stoppable() (context.Context, context.CancelCauseFunc) {
	if s.ctx == nil || s.ctx.Err() != nil {
		s.ctx, s.stop = context.WithCancelCause(s.working)
	}
	return s.ctx, s.stop
}

// slot takes tasks and runs them. A handler that ends its goroutine
// (runtime.Goexit) takes the slot with it: another is made. One that was left
// behind has been replaced already.
func (p *pool) slot(working context.Context) {
	s, ended := &slot{working: working, goroutine: goroutineID()}, false
	defer func() {
		if s.stop != nil {
			s.stop(nil)
		}
		if !ended && !s.replaced {
			go p.slot(working)
		}
	}()
	for d := p.take(); d != nil; d = p.take() {
		if p.runOne(s, d); s.replaced {
			break
		}
	}
	ended = true
}

// take waits for the next task of a slot; nil ends it.
func (p *pool) take() *delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed {
		if ln := p.next(); ln != nil {
			d := ln.pop()
			p.running++
			p.inSlots[d] = struct{}{}
			return d
		}
		p.waiting++
		p.wake.Wait()
	}
	return nil
}

// free takes back a slot, and has the loop ask for more where it is worth it; or
// it notes that a handler has returned that was left behind.
func (p *pool) free(d *delivery, used time.Duration, late bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if late {
		p.left.replaced--
		return
	}
	p.running--
	delete(p.inSlots, d)
	p.freed++
	p.pace += (used - p.pace) / 8
	if p.freed == p.step || p.stopping {
		tell(p.turn)
	}
}

// runOne runs a task and settles it, however its handler ends.
func (p *pool) runOne(s *slot, d *delivery) {
	began := time.Now()
	var result result
	returned := false
	defer func() {
		if !returned {
			result = failed(errGoexit)
		}
		var left bool
		now := time.Now()
		if left, s.replaced = d.end(); left {
			p.w.log.Info("handler that was left behind has returned, its outcome is refused", "task", d.addr.Task, "task_id", d.id, "queue", p.queue)
		} else {
			p.settler.add(p.w.settlementAt(d, result, now))
		}
		p.free(d, now.Sub(began), s.replaced)
	}()
	d.takes(s.goroutine)
	if p.w.without.RecordFirst {
		d.ack()
	}
	if hook := p.w.cfg.Hooks.Received; hook != nil {
		p.w.tell("Received", hook, p.w.event(d, began))
	}
	result = p.w.process(s, d, began)
	returned = true
}
