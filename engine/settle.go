package engine

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// settlement is what is owed for one delivery, in this order: a message before
// the record (a dead letter), the record by compare-and-set, a message after it
// (the next attempt), and only then the ack. Each write may be repeated: a
// record expects a revision, the others replace themselves.
type settlement struct {
	d        *delivery
	before   *nats.Msg
	record   *Record // own, or nil
	own      *Record
	revision uint64
	after    *nats.Msg
	end      ending
	stage    stage
	room     bool   // among the kept is taken for its next attempt
	owed     int64  // of the settler's bytes
	alone    bool   // its record is written by itself: one that came with others was refused
	answer   answer // to what was sent last, once it has landed
	again    bool   // nobody answered once
	became   became
}

// ending is what the broker is told of the message at last.
type ending int

const (
	endAck     ending = iota
	endConfirm        // an ack that the broker answers: nothing else tells that the task is done
	endNak
	endKeep   // nothing: the next attempt is run by the same message, soon
	endSilent // the lease passes: it is not ours any more
)

type stage int

const (
	stageBefore stage = iota
	stageRecord
	stageAfter
	stageEnd
)

// settlement makes what a result calls for. It is nil where nothing is owed.
func (w *Worker) settlement(d *delivery, res result) *settlement {
	return w.settlementAt(d, res, time.Now())
}

// settlementAt is settlement for a result of an instant.
func (w *Worker) settlementAt(d *delivery, res result, now time.Time) *settlement {
	if res.kind == resultNothing {
		return nil
	}
	now = now.UTC()
	claimed, revision := d.claim()
	if res.kind == resultDone && claimed == nil && w.handlers[d.addr.Task].noResult && !d.isMarking() {
		return w.unrecorded(d, now)
	}
	s := &settlement{d: d, revision: revision, own: new(Record)}
	s.record = s.own
	if claimed != nil {
		*s.own = *claimed
		s.own.Worker = w.cfg.Name
	} else {
		d.describe(s.own, w.cfg.Name)
	}
	if started := d.startedAt(); s.record.StartedAt.IsZero() && !started.IsZero() {
		s.record.StartedAt = started.UTC()
	}
	switch res.kind {
	case resultDone:
		s.finish(wire.StateSucceeded, now)
		if !w.handlers[d.addr.Task].noResult { // else the record only says that it has run
			s.record.Result = res.body
		}
	case resultExpired:
		s.finish(wire.StateExpired, now)
	case resultRevoked:
		s.finish(wire.StateRevoked, now)
		s.record.Error = res.failure
	case resultPark:
		w.postpone(s, wire.StateScheduled, d.meta.Attempt, res.eta, now)
	case resultSnooze:
		s.record.Deaths = 0
		w.postpone(s, wire.StateScheduled, d.meta.Attempt, now.Add(res.wait), now)
	case resultUnknown:
		w.settleUnknown(s, now)
	case resultFailed:
		w.settleFailed(s, res, now)
	case resultHandBack:
		s.handBack(claimed != nil)
	case resultNothing: // owes nothing, see above
	}
	if w.hears {
		s.becomes(res.kind, now)
	}
	return s
}

// finish makes the record terminal.
func (s *settlement) finish(state wire.State, now time.Time) {
	s.record.State, s.record.FinishedAt = state, now
	s.record.Error, s.record.ETA, s.record.Body = nil, s.d.meta.ETA.UTC(), nil
}

// unrecorded settles a task that succeeded, whose handler keeps nothing of that
// and of which no record says that it runs.
func (w *Worker) unrecorded(d *delivery, now time.Time) *settlement {
	s := &settlement{d: d}
	if !w.handlers[d.addr.Task].plainAck {
		s.end = endConfirm
	}
	if w.hears {
		s.became = became{told: true, kind: resultDone, at: now, state: wire.StateSucceeded}
	}
	return s
}

// handBack sets a record that says started back to queued. A plain delivery
// has none, unless its started mark is under way just now.
func (s *settlement) handBack(claimed bool) {
	s.end = endNak
	if !claimed && !s.d.isMarking() {
		s.record = nil
		return
	}
	s.record.State, s.record.Sequence = wire.StateQueued, 0
	if !s.d.due {
		s.record.Sequence = s.d.sequence
	}
}

// settleFailed parks the next attempt, or buries the task.
func (w *Worker) settleFailed(s *settlement, res result, now time.Time) {
	f := *res.failure
	f.Message = cut(f.Message, 4<<10)
	s.record.AddAttempt(wire.Attempt{
		Attempt: s.d.meta.Attempt, Worker: w.cfg.Name, StartedAt: s.record.StartedAt, FinishedAt: now, Error: &f,
	})
	if eta, again := w.nextAttempt(s.d, res, now); again {
		s.record.Deaths = 0
		w.postpone(s, wire.StateRetrying, s.d.meta.Attempt+1, eta, now)
		s.record.Error = &f
		return
	}
	w.bury(s, &f, now)
}

// settleUnknown parks a task that this worker does not know, so that one that
// does may take it; after a while it is buried. No attempt is used.
func (w *Worker) settleUnknown(s *settlement, now time.Time) {
	f := &wire.Failure{Type: wire.FailureUnknownTask, Message: "no worker of the queue has a handler for " + s.d.addr.Task}
	since := now
	if n := len(s.record.Attempts); n > 0 && s.record.Attempts[n-1].Error != nil && s.record.Attempts[n-1].Error.Type == f.Type {
		since = s.record.Attempts[n-1].StartedAt
		s.record.Attempts = s.record.Attempts[: n-1 : n-1]
	}
	s.record.AddAttempt(wire.Attempt{Attempt: s.d.meta.Attempt, Worker: w.cfg.Name, StartedAt: since, FinishedAt: now, Error: f})
	if now.Sub(since) >= w.cfg.UnknownTaskAfter {
		w.bury(s, f, now)
		return
	}
	w.park(s, wire.StateScheduled, s.d.meta.Attempt, now.Add(w.cfg.UnknownTaskPark), now)
	s.record.Error = f
}

// postpone has the task run at a time: this worker keeps it where the broker
// would be late, else it is parked.
func (w *Worker) postpone(s *settlement, state wire.State, attempt int, eta, now time.Time) {
	switch {
	case !s.waits(state, attempt, eta, now):
	case eta.Sub(now) < keepWithin && s.d.pool.keeping.enter(len(s.d.msg.Data)):
		s.end, s.room = endKeep, true
	default:
		s.after = w.parkMessage(s.d, s.record, attempt, eta)
	}
}

// park puts the task where the broker holds it until a time.
func (w *Worker) park(s *settlement, state wire.State, attempt int, eta, now time.Time) {
	if s.waits(state, attempt, eta, now) {
		s.after = w.parkMessage(s.d, s.record, attempt, eta)
	}
}

// waits makes the record one of a task that waits for its time. One that expires
// before is expired at once: it will never run.
func (s *settlement) waits(state wire.State, attempt int, eta, now time.Time) bool {
	if expires := s.d.meta.Expires; !expires.IsZero() && eta.After(expires) {
		s.finish(wire.StateExpired, now)
		return false
	}
	s.record.State, s.record.Attempt, s.record.ETA, s.record.Due = state, attempt, eta.UTC(), true
	if s.record.Sequence == 0 && !s.d.due {
		s.record.Sequence = s.d.sequence
	}
	return true
}

func (w *Worker) bury(s *settlement, f *wire.Failure, now time.Time) {
	s.finish(wire.StateFailed, now)
	s.record.Error = f
	s.before = w.deadMessage(s.d, f, now)
}

// parkedAgain settles a delivery whose record says that a later attempt is
// owed: the same record and the same schedule once more, which replaces what
// waits, then the ack. The record is written for its revision alone: a worker
// that still keeps the task for that attempt must not claim it any more, for its
// message is gone then and what is parked would be taken for a copy.
func (w *Worker) parkedAgain(d *delivery, r *Record, revision uint64) *settlement {
	return &settlement{d: d, record: r, revision: revision, after: w.parkMessage(d, r, r.Attempt, r.ETA)}
}

// settler pays the settlements of one queue, so that a queue whose streams do not
// answer holds up no other. A few at a time are sent one by one and nobody waits
// for their answers; while those are on their way more may gather, and what has
// gathered is written as a batch. It is one goroutine; add may be called from many.
type settler struct {
	w      *Worker
	queue  string
	signs  *signs
	in     *mailbox[*settlement]
	landed *mailbox[*settlement] // that have an answer
	closed chan struct{}
	owed   atomic.Int64  // added and not paid
	bytes  atomic.Int64  // of them, the size of bodies and results
	full   atomic.Bool   // the pool waits until less is owed
	paid   chan struct{} // told when less is owed and the pool waits for that

	// Of the goroutine alone.
	flying      int           // are sent and have no answer yet,
	flyingAgain int           // and of them those that were stuck before: they hold up nobody
	stuck       []*settlement // nobody answered
	trouble     bool          // said, until it is over
	batches     *recordBatches
	confirm     *confirmer
	records     []int // of the batch that is sent: whose outcomes are recorded together
	acks        []int // and whose acks are confirmed
}

func newSettler(w *Worker, queue string, signs *signs) *settler {
	return &settler{
		w: w, queue: queue, signs: signs, in: newMailbox[*settlement](), landed: newMailbox[*settlement](), closed: make(chan struct{}), paid: make(chan struct{}, 1),
		batches: newRecordBatches(w.c),
	}
}

// flyingMost is how many settlements may be on their way before those that come
// wait for them: from about there on a batch costs less.
const flyingMost = 8

// roomWithin is how long a settlement waits for room among what the client
// publishes: its lease may pass meanwhile.
const roomWithin = time.Second

// settleWithin is how long after the end of a pool its outcomes are tried to be
// written. What is not written then comes back, and runs again.
const settleWithin = 10 * time.Second

// add hands over a settlement; nil owes nothing but the end of the lease's
// renewal, which its maker has seen to. After close it does nothing: a handler
// that was left behind has an outcome that nobody may record any more.
func (s *settler) add(x *settlement) {
	if x == nil {
		return
	}
	select {
	case <-s.closed:
		return
	default:
	}
	s.owed.Add(1)
	x.owed = x.size()
	s.bytes.Add(x.owed)
	s.in.put(x)
}

// How much may be owed before no more tasks are asked for: outcomes, and bytes of
// their bodies and results. A slot is free when its handler returns; where nothing
// can be written this is the bound of what the worker holds.
const (
	owedMost  = 2048
	owedBytes = 64 << 20
)

// owes reports whether too much is owed. The pool is told when that is over.
func (s *settler) owes() bool {
	s.full.Store(true) // before the look, so that what is paid now is told
	if s.owed.Load() > owedMost || s.bytes.Load() > owedBytes {
		return true
	}
	s.full.Store(false)
	return false
}

// size is what a settlement keeps in memory, about.
func (s *settlement) size() int64 {
	n := len(s.d.msg.Data)
	if s.record != nil {
		n += len(s.record.Result)
	}
	return int64(n)
}

// leave notes that a settlement is done with.
func (s *settler) leave(x *settlement) {
	x.leaveKept()
	s.owed.Add(-1)
	s.bytes.Add(-x.owed)
}

// close lets run end when all is paid, or cannot be in time.
func (s *settler) close() { close(s.closed) }

// run pays until closed and until nothing is owed: paid, lost with its lease,
// or given up.
func (s *settler) run() {
	defer s.signs.settling.End()
	defer s.batches.close()
	defer func() {
		if s.confirm != nil {
			s.confirm.close()
		}
	}()
	var giveUp, again <-chan time.Time
	for pause, closed := time.Duration(0), s.closed; closed != nil || len(s.stuck)+s.in.len()+s.flying > 0; {
		if again == nil && len(s.stuck) > 0 { // whatever comes meanwhile
			again = time.After(pause)
		}
		in := s.in.told
		if s.flying-s.flyingAgain >= flyingMost {
			in = nil
		}
		s.signs.settling.Rest() // nothing comes where nothing ends
		select {
		case <-in:
			s.pay(s.in.take())
		case <-s.landed.told:
			s.pay(s.answered())
		case <-again:
			stuck := s.stuck
			again, s.stuck = nil, nil
			s.pay(stuck)
			pause = min(2*pause+20*time.Millisecond, time.Second)
		case <-closed:
			closed, giveUp = nil, time.After(settleWithin)
		case <-giveUp:
			s.w.log.Error("outcomes could not be written, their tasks come back", "queue", s.queue, "tasks", len(s.stuck)+s.in.len()+s.flying)
			return
		}
		if len(s.stuck)+s.flying == 0 {
			pause = 0
		}
	}
}

// pay brings every settlement as far as it goes without waiting for those that
// fly, and keeps those that are stuck.
func (s *settler) pay(batch []*settlement) {
	for len(batch) > 0 {
		s.signs.settling.Turn()
		var next []*settlement
		sent := s.send(batch)
		for i, x := range batch {
			switch {
			case sent[i].flies:
				s.flies(x, 1)
			case s.step(x, sent[i]):
				next = append(next, x)
			}
		}
		batch = next
	}
	if len(s.stuck)+s.flying == 0 && s.trouble {
		s.trouble = false
		s.signs.cannotWrite.Store(false)
		s.w.log.Info("outcomes are written again", "queue", s.queue)
	}
	if s.full.Load() {
		tell(s.paid)
	}
}

// flies counts one that is sent, or has landed.
func (s *settler) flies(x *settlement, n int) {
	s.flying += n
	if x.again {
		s.flyingAgain += n
	}
}

// answered takes the answers that have landed. It returns what goes on.
func (s *settler) answered() (next []*settlement) {
	for _, x := range s.landed.take() {
		s.flies(x, -1)
		if s.step(x, x.answer) {
			next = append(next, x)
		}
	}
	return next
}

// step takes a settlement one step on, and tells whether it has another.
func (s *settler) step(x *settlement, answered answer) bool {
	s.signs.settling.Turn()
	switch done, err := s.advance(x, answered); done {
	case advanced:
		return true
	case stuck:
		x.again = true
		s.stuck = append(s.stuck, x)
		s.complain(err)
	case ended:
		s.leave(x)
	}
	return false
}

// complain says once that outcomes cannot be written.
func (s *settler) complain(err error) {
	if err == nil {
		return // a replica that lags
	}
	if !s.trouble && s.w.c.nc.Status() == nats.CONNECTED {
		s.trouble = true
		s.signs.cannotWrite.Store(true)
		s.w.log.Warn("outcomes cannot be written, trying on; the queue's tasks wait", "queue", s.queue, "err", err)
	}
}

// send publishes the next message of each settlement: outcomes that are recorded
// together as one batch, acks to be confirmed together, and waits for these;
// anything else by itself.
func (s *settler) send(batch []*settlement) []answer {
	answers := make([]answer, len(batch))
	s.records, s.acks = s.records[:0], s.acks[:0]
	for i, x := range batch {
		if x.d.isLost() {
			continue
		}
		switch x.skip() {
		case stageRecord:
			if x.record.State.Terminal() && !x.alone {
				s.records = append(s.records, i)
				continue
			}
			m, err := s.w.c.recordMessage(x.record, x.revision)
			answers[i] = s.publish(x, m, err)
		case stageBefore:
			answers[i] = s.publish(x, x.before, nil)
		case stageAfter:
			answers[i] = s.publish(x, x.after, nil)
		case stageEnd:
			if x.end == endConfirm {
				s.acks = append(s.acks, i)
			}
		}
	}
	s.sendRecords(batch, answers)
	s.sendAcks(batch, answers)
	return answers
}

// answer is what the broker says to a message: its sequence, if that is known.
type answer struct {
	flies    bool // there will be one, see land
	asked    bool // there is one
	sequence uint64
	err      error
}

// land takes the answer to a message that was sent by itself.
func (s *settlement) land(sequence uint64, err error) {
	s.answer = answer{asked: true, sequence: sequence, err: err}
	s.d.pool.settler.landed.put(s)
}

// publish sends a message while there is a connection: what the library kept for
// the next one could come after the lease, and replace a later attempt.
func (s *settler) publish(x *settlement, m *nats.Msg, err error) answer {
	if err != nil {
		return answer{asked: true, err: err}
	}
	window, err := s.w.c.publisher()
	if err != nil {
		return answer{asked: true, err: err}
	}
	ctx, cancel := context.WithTimeout(context.Background(), roomWithin) //nolint:forbidigo // bounded; settling outlives the caller
	defer cancel()
	if _, err := window.send(ctx, m, x); err != nil {
		return answer{asked: true, err: err}
	}
	return answer{flies: true}
}

// skip passes over stages that have nothing, and tells where it stops.
func (s *settlement) skip() stage {
	if s.stage == stageBefore && s.before == nil {
		s.stage = stageRecord
	}
	if s.stage == stageRecord && s.record == nil {
		s.stage = stageAfter
	}
	if s.stage == stageAfter && s.after == nil {
		s.stage = stageEnd
	}
	return s.stage
}

// progress is how far one step brought a settlement.
type progress int

const (
	advanced progress = iota
	stuck             // nobody answered: try again later
	ended
)

// advance takes the answer to what was sent and does what follows from it.
func (s *settler) advance(x *settlement, answered answer) (progress, error) {
	if x.d.isLost() {
		return ended, nil // the lease has passed: say nothing
	}
	if errors.Is(answered.err, errAlone) {
		x.alone = true
		return advanced, nil
	}
	if !answered.asked {
		s.conclude(x)
		return ended, nil
	}
	sequence, err := answered.sequence, answered.err
	if x.stage == stageEnd {
		return s.confirmed(x, err)
	}
	if errors.Is(err, ErrForbidden) {
		return stuck, err // the task is not to blame; rights can be given while a worker runs
	}
	switch classify(err) {
	case outcomeStored:
		if x.stage == stageRecord {
			x.revision = sequence
			s.w.wrote(x.record)
		}
		x.stage++
		return advanced, nil
	case outcomeRefused:
		return s.resolve(x)
	case outcomeInvalid:
		return s.invalid(x, err), nil
	default:
		return stuck, err
	}
}

// conclude tells the broker how the message ends; the hooks before, for what
// comes of that is told to them too.
func (s *settler) conclude(x *settlement) {
	s.w.tellSettled(x)
	if x.end == endKeep {
		s.keep(x)
		return
	}
	if x.d.isLost() { // a hook may take its time
		return
	}
	s.w.leases.remove(x.d)
	switch x.end {
	case endAck:
		x.d.ack()
	case endNak:
		x.d.nak()
	case endConfirm, endKeep, endSilent:
	}
}

// confirmed takes the broker's word for an ack. While there is none the lease is
// renewed on, and the ack sent again.
func (s *settler) confirmed(x *settlement, err error) (progress, error) {
	if err != nil {
		return stuck, err
	}
	s.w.leases.remove(x.d)
	s.w.tellSettled(x)
	return ended, nil
}

// keep gives the task back to its pool for the attempt that its record calls
// for. The lease goes from one delivery to the other without a gap, so that a
// revocation finds either.
func (s *settler) keep(x *settlement) {
	next := x.d.next(x.record)
	s.w.leases.add(next)
	x.room = false // it is the next delivery's
	x.d.pool.kept <- kept{next, x.record, x.revision}
}

// leaveKept gives up the room of a task that is not kept after all: its record
// was refused, or its lease lost.
func (s *settlement) leaveKept() {
	if s.room {
		s.d.pool.keeping.leave(len(s.d.msg.Data))
	}
}

// resolve finds out why a record's write was refused.
func (s *settler) resolve(x *settlement) (progress, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout) //nolint:forbidigo // bounded; settling outlives the caller
	defer cancel()
	r, revision, err := s.w.c.readRecord(ctx, x.d.queue(), x.d.id)
	if err != nil || revision == x.revision {
		return stuck, err // not readable, or a replica that lags: again
	}
	switch s.refusal(x, r) {
	case refusalOwn:
		x.revision = revision
		s.w.wrote(x.record)
		x.stage = stageAfter
	case refusalStands:
		// Another outcome is recorded. Ours, with what follows from it, is void.
		x.stage, x.after, x.end = stageAfter, nil, endAck
		x.became.stands(r)
	case refusalNotOurs:
		x.stage, x.after, x.end, x.became = stageAfter, nil, endSilent, became{}
	case refusalMoved:
		x.stage, x.after, x.end, x.became = stageAfter, nil, endNak, became{}
	case refusalAgain:
		x.revision = revision
	}
	return advanced, nil
}

// refusal is what a record that refuses ours means.
type refusal int

const (
	refusalOwn     refusal = iota // it is ours: the answer to it was lost
	refusalStands                 // the task has an outcome, runs again on purpose, or by another message
	refusalNotOurs                // a later delivery has claimed it
	refusalMoved                  // what waits was changed: the message comes once more and is held against that
	refusalAgain                  // it is older than ours: write over it
)

func (s *settler) refusal(x *settlement, r *Record) refusal {
	own := x.record
	switch {
	case r == nil:
		return refusalAgain
	case r.Run == own.Run && r.State == own.State && r.Attempt == own.Attempt && r.Worker == own.Worker &&
		r.StartedAt.Equal(own.StartedAt) && r.FinishedAt.Equal(own.FinishedAt) && r.ETA.Equal(own.ETA):
		return refusalOwn
	case r.Run > own.Run || r.Run == own.Run && r.State.Terminal():
		return refusalStands
	case r.State == wire.StateStarted && r.Worker == own.Worker && r.StartedAt.Equal(x.d.startedAt()):
		return refusalAgain // our own started mark
	case x.revision == 0 && r.State != wire.StateStarted && r.Attempt <= x.d.meta.Attempt:
		return refusalAgain
	case judge(r, x.d) == verdictDone:
		return refusalStands // another message of the id was taken: this is a copy
	case x.revision != 0 && x.d.startedAt().IsZero() && r.State != wire.StateStarted && r.StartedAt.Equal(own.StartedAt):
		// Nobody has claimed it since: what a claim writes stays in the record.
		return refusalMoved
	}
	return refusalNotOurs
}

// invalid handles what the broker will never take. A record is written without
// its result, once; anything else is left for the message to come back.
func (s *settler) invalid(x *settlement, err error) progress {
	if x.stage == stageRecord && len(x.record.Result) > 0 {
		f := &wire.Failure{Type: wire.FailureTooLarge, Message: cut("result: "+err.Error(), 1024)}
		x.record.Result, x.record.Progress, x.record.Attempts = nil, nil, nil
		s.w.bury(x, f, time.Now().UTC())
		x.becomes(resultFailed, x.record.FinishedAt)
		x.stage = stageBefore
		return advanced
	}
	if x.stage == stageBefore {
		s.w.log.Error("cannot keep the dead letter, only its record", "task", x.d.addr.Task, "task_id", x.d.id, "err", err)
		x.before = nil
		return advanced
	}
	s.w.leases.remove(x.d)
	s.w.log.Error("cannot settle, the task comes back", "task", x.d.addr.Task, "task_id", x.d.id, "err", err)
	return ended
}

// cut shortens a text to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "�")
}
