package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

const (
	// fastFrom is how many tasks a fast batch is worth its two round trips.
	fastFrom = 50
	// What is known of a batch is known at its end, and until then its tasks are
	// kept: so batches end.
	batchTasks = 20_000
	batchBytes = 16 << 20
)

// ManyError says which tasks of a [Task.SendMany] were not sent, or may not have
// been. errors.Is asks all of them.
type ManyError struct {
	Sent   int         // tasks, failed or not
	Failed []TaskIndex // in the order of the tasks
}

// TaskIndex is a task that was not sent and why.
type TaskIndex struct {
	Index int // among those given to SendMany, from 0
	Err   error
}

// Error has the form `2 of 1000 tasks were not sent; task 17: queue "mail": queue is full`.
func (e *ManyError) Error() string {
	return fmt.Sprintf("%d of %d tasks were not sent; task %d: %v", len(e.Failed), e.Sent, e.Failed[0].Index, e.Failed[0].Err)
}

// Unwrap is for errors.Is and errors.As.
func (e *ManyError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for i, f := range e.Failed {
		if i == 0 || f.Err != e.Failed[i-1].Err { //nolint:errorlint // the same one again
			errs = append(errs, f.Err)
		}
	}
	return errs
}

// SendMany publishes many tasks, as fast as the broker takes them, and waits
// until their outcomes are known. The results stand where their tasks stood.
// Those of tasks that were not sent are nil, and a [*ManyError] tells why, each
// with an error of [Task.Send]: one task's trouble does not keep the others,
// but once the queue is full, gone, or out of reach, the rest is not tried.
//
// Tasks carry nothing that they could be recognised by. Of those whose answer
// was lost nobody can know, and they fail with [ErrUnconfirmed].
//
// From about fifty tasks on they go by fast batches, which need nats-server
// 2.14. An id is known where nobody else published to the queue in between;
// where somebody did, the result's ID is empty, though its task is stored, and
// it cannot be waited for. Who needs each id asks [WithAllIDs] for it, which
// takes about twice as long. With [WithAtomic] all or none are stored. Tasks with
// a time ahead wait in the broker, each under a random id; they are sent as by
// [Task.SendAsync], which does not wait for a cluster that elects a leader.
// Options are for all tasks; [WithID] is refused.
func (t *Task[In, Out]) SendMany(ctx context.Context, c *Client, in []In, opts ...SendOption) ([]*Result[Out], error) {
	m := newMany(c, t.name, make([][]byte, len(in)), t.opts.clone(), opts)
	for i := range in {
		body, err := json.Marshal(in[i])
		if err != nil {
			m.fail(i, fmt.Errorf("body: %w", err))
			continue
		}
		m.bodies[i] = body
	}
	err := m.run(ctx)
	return resultsOf[Out](m), err
}

// SendManyRaw publishes many tasks by name with bodies that are JSON already;
// see [Task.SendMany].
func (c *Client) SendManyRaw(ctx context.Context, queue, task string, bodies [][]byte, opts ...SendOption) ([]*Result[json.RawMessage], error) {
	m := newMany(c, task, bodies, sendOptions{queue: queue}, opts)
	err := m.run(ctx)
	return resultsOf[json.RawMessage](m), err
}

// many is the tasks of one call on their way.
type many struct {
	c    *Client
	task string
	o    sendOptions
	lane wire.Lane

	bodies [][]byte
	state  []manyState
	seqs   []uint64 // of stored tasks; 0 where it is not known
	ids    []string // of tasks that wait for their time
	failed []TaskIndex

	before uint64   // sequence of what we stored last; 0 if not known
	batch  []int    // indexes of the tasks of the open batch
	doubt  []int    // those of which the last batch's end is not the last word
	after  uint64   // where they are not stored, the sequence of the stream's last message
	msg    nats.Msg // used for one after the other
	prefix []byte   // of free ids
}

type manyState uint8

const (
	manyOpen manyState = iota
	manyStored
	manyFailed
)

func newMany(c *Client, task string, bodies [][]byte, o sendOptions, opts []SendOption) *many {
	for _, opt := range opts {
		opt.sendOption(&o)
	}
	return &many{
		c: c, task: task, o: o, lane: o.lane(),
		bodies: bodies, state: make([]manyState, len(bodies)), seqs: make([]uint64, len(bodies)),
	}
}

// fail says that a task is not sent.
func (m *many) fail(i int, err error) {
	if m.state[i] == manyOpen {
		m.state[i] = manyFailed
		m.failed = append(m.failed, TaskIndex{i, err})
	}
}

// stored says that a task is in the queue.
func (m *many) stored(i int, sequence uint64) {
	m.state[i], m.seqs[i] = manyStored, sequence
}

// abandon fails all that are still open.
func (m *many) abandon(err error) {
	for i := range m.state {
		m.fail(i, err)
	}
}

func (m *many) run(ctx context.Context) error {
	if err := m.o.checkMany(); err != nil {
		return err
	}
	later, err := m.o.settleTime(time.Now())
	if err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	if later {
		return m.runLater(ctx)
	}
	if m.o.atomic {
		m.checkAll()
	}
	if m.o.atomic && len(m.failed) > 0 {
		bad := m.failed[0]
		m.abandon(fmt.Errorf("not sent, with all of its atomic batch: task %d: %w", bad.Index, bad.Err))
		return m.err()
	}
	if len(m.bodies) == 0 {
		return nil
	}
	done, err := m.c.turn(ctx, m.lane)
	if err != nil {
		m.abandon(unsent(err))
		return m.err()
	}
	defer done()
	switch {
	case m.o.atomic:
		m.sendWhole(ctx)
	case m.c.safety == PowerSafe:
		m.sendAtomically(ctx)
	case len(m.bodies) < fastFrom:
		m.sendAsync(ctx, len(m.state))
	case m.o.allIDs:
		m.sendAtomically(ctx)
	default:
		m.sendFast(ctx)
	}
	return m.err()
}

// runLater sends tasks that wait for their time, each by itself and all at once:
// a schedule needs a subject, and so an id, of its own. What the broker forbids
// is told with the subject of the latest alone, so the first one goes ahead.
func (m *many) runLater(ctx context.Context) error {
	if m.o.atomic {
		return &wire.NameError{Field: "option", Value: "WithAtomic", Rule: "must not be given with a time ahead: schedules are stored one by one"}
	}
	m.ids = make([]string, len(m.bodies))
	m.c.schedule(&m.msg, wire.Address{Lane: m.lane, Task: m.task, ID: "x"}, m.o.eta)
	first := m.next(0)
	for first < len(m.state) && !m.good(first) {
		first = m.next(first)
	}
	m.sendAsync(ctx, min(first+1, len(m.state)))
	if n := len(m.failed); n > 0 && errors.Is(m.failed[n-1].Err, ErrForbidden) {
		m.abandon(m.failed[n-1].Err)
	}
	m.sendAsync(ctx, len(m.state))
	return m.err()
}

// address gives the message of a task that waits for its time its own id.
func (m *many) address(i int) {
	if m.ids == nil {
		return
	}
	m.ids[i] = randomID()
	a := wire.Address{Lane: m.lane, Task: m.task, ID: m.ids[i]}
	m.msg.Subject = m.c.ns.LaterSubject(a.Lane, a.ID)
	m.msg.Header[headerScheduleTarget] = []string{m.c.ns.DueSubject(a)}
}

// check looks at what all tasks have in common, before the first leaves.
func (m *many) check() error {
	if m.o.atomic && len(m.bodies) > maxAtomic {
		return fmt.Errorf("task %s: atomic batch: %w: %d tasks, must be at most %d", m.task, ErrTooLarge, len(m.bodies), maxAtomic)
	}
	common, err := m.c.bareMessage(m.task, []byte("0"), m.o)
	if err != nil {
		return err
	}
	m.msg = *common
	return nil
}

// checkAll looks at every body before the first leaves.
func (m *many) checkAll() {
	for i := m.next(0); i < len(m.state); i = m.next(i + 1) {
		m.good(i)
	}
}

// good looks at the body of a task, and fails the task where it is not one.
func (m *many) good(i int) bool {
	if err := m.c.checkBody(m.task, m.bodies[i]); err != nil {
		m.fail(i, err)
		return false
	}
	return true
}

func (m *many) err() error {
	if len(m.failed) == 0 {
		return nil
	}
	sortFailed(m.failed)
	return &ManyError{Sent: len(m.bodies), Failed: m.failed}
}

// turn waits until no other call of this client writes a batch to the lane: two
// open batches of one stream halve each other's pace.
func (c *Client) turn(ctx context.Context, lane wire.Lane) (done func(), err error) {
	held, _ := c.turns.LoadOrStore(lane, make(chan struct{}, 1))
	turn := held.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// next is the first open task from i on.
func (m *many) next(i int) int {
	for i < len(m.state) && m.state[i] != manyOpen {
		i++
	}
	return i
}

// sendFast sends by fast batches. Each follows a message whose sequence is
// known: where the sequence of the batch's last message is so much higher as
// the batch is long, nobody else's are in between, and every sequence is known.
func (m *many) sendFast(ctx context.Context) {
	for i := m.next(0); i < len(m.state); i = m.next(i) {
		if m.before == 0 || m.next(i+1) == len(m.state) {
			if !m.sendOne(ctx, i) {
				return
			}
			continue
		}
		b, err := openFastBatch(m.c.nc)
		if err != nil {
			m.abandon(unsent(err))
			return
		}
		m.fill(ctx, b, i)
		end := b.finish(ctx)
		b.close()
		m.account(end)
		if errors.Is(end.err, errNoFast) {
			m.sendAsync(ctx, len(m.state))
			return
		}
		if ctx.Err() != nil {
			m.unconfirmed(m.doubt)
			m.abandon(unsent(context.Cause(ctx)))
			return
		}
	}
}

// sendOne sends one task by itself and waits: how a batch begins, and how what
// ended one is found out. It reports false when the rest has no chance.
func (m *many) sendOne(ctx context.Context, i int) bool {
	msg, err := m.c.taskMessage(m.task, m.bodies[i], m.o.clone())
	if err != nil {
		m.fail(i, err)
		return true
	}
	doubt := m.doubt
	m.doubt = nil
	if doubt != nil {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header[headerExpectLast] = []string{strconv.FormatUint(m.after, 10)}
	}
	ack, err := m.c.publishKnown(waitingForRoom(ctx, m.o.waitForRoom), msg, m.lane, false)
	if err == nil {
		m.stored(i, ack.Sequence)
		m.before = ack.Sequence
		return true
	}
	m.unconfirmed(doubt)
	if doubt != nil && errors.Is(err, ErrExists) {
		return true // something was stored after the batch; it may be the batch's own
	}
	m.fail(i, fmt.Errorf("queue %q: %w", m.o.queue, err))
	if classify(err) == outcomeInvalid && !errors.Is(err, ErrForbidden) {
		return true
	}
	if errors.Is(err, ErrUnconfirmed) {
		err = fmt.Errorf("%w: nothing was stored: after task %d the broker did not answer", ErrUnreachable, i)
	}
	m.abandon(fmt.Errorf("queue %q: %w", m.o.queue, err))
	return false
}

// unconfirmed fails tasks that may be stored or not.
func (m *many) unconfirmed(doubt []int) {
	for _, i := range doubt {
		m.fail(i, fmt.Errorf("queue %q: %w: its leader changed meanwhile", m.o.queue, ErrUnconfirmed))
	}
}

// fill sends as much of the open tasks as the batch takes.
func (m *many) fill(ctx context.Context, b *fastBatch, from int) {
	if m.batch == nil {
		m.batch = make([]int, 0, min(len(m.state), batchTasks))
	}
	m.batch = m.batch[:0]
	size := 0
	for i := m.next(from); i < len(m.state) && len(m.batch) < batchTasks && size < batchBytes; i = m.next(i + 1) {
		if !m.good(i) {
			continue // while the broker is busy with those before
		}
		m.msg.Data = m.bodies[i]
		size += len(m.bodies[i])
		more := b.add(ctx, &m.msg)
		if b.sent > uint64(len(m.batch)) {
			m.batch = append(m.batch, i)
		}
		if !more {
			return
		}
	}
}

// account says of each task of the batch what became of it. What is left open
// is sent again: the batch ended before it.
//
// Of several replicas a leader that is new may end a batch before it has counted
// what the one before has still brought to it. That is in the stream before
// anything that comes now: where the first task that is sent again finds nothing
// after what was counted, there is nothing, and never will be.
func (m *many) account(end fastOutcome) {
	stored := int(end.stored)
	if stored < len(m.batch) && m.c.replicated() && !errors.Is(end.err, errOpenEnd) && !end.refusedNext() {
		m.doubt, m.after = slices.Clone(m.batch[stored:]), m.before+end.stored
	}
	alone := end.sequence != 0 && end.sequence == m.before+end.stored
	for n, i := range m.batch {
		switch {
		case n < stored && alone:
			m.stored(i, m.before+uint64(n)+1)
		case n == stored-1 && m.doubt == nil:
			m.stored(i, end.sequence)
		case n < stored:
			m.stored(i, 0)
		case errors.Is(end.err, errOpenEnd):
			m.fail(i, fmt.Errorf("queue %q: %w: %w", m.o.queue, ErrUnconfirmed, end.err))
		}
	}
	m.before = 0
	if end.err == nil && stored == len(m.batch) {
		m.before = end.sequence
	}
}

// sendAsync sends each of the first n by itself, all at once.
func (m *many) sendAsync(ctx context.Context, n int) {
	w, err := m.c.publisher()
	if err != nil {
		m.abandon(unsent(err))
		return
	}
	waits := make([]awaited, n)
	numbers := make([]uint64, n)
	for i := m.next(0); i < n; i = m.next(i + 1) {
		if !m.good(i) {
			continue
		}
		m.msg.Data = m.bodies[i]
		m.address(i)
		waits[i].landed = make(chan struct{}, 1)
		if numbers[i], err = w.send(ctx, &m.msg, &waits[i]); err != nil {
			m.fail(i, unsent(err))
		}
	}
	var again []int // not stored, and worth a wait
	for i := range waits {
		if numbers[i] == 0 || m.state[i] != manyOpen {
			continue
		}
		<-waits[i].landed // in bounded time, come what may
		err, outcome := waits[i].err, classify(waits[i].err)
		switch {
		case err == nil:
			m.stored(i, waits[i].sequence)
		case m.ids == nil && (m.o.waitForRoom && outcome == outcomeFull || outcome == outcomeAbsent):
			again = append(again, i)
		default:
			m.fail(i, fmt.Errorf("queue %q: %w", m.o.queue, unwaited(err, m.lane)))
		}
	}
	for _, i := range again {
		if !m.sendOne(ctx, i) {
			return
		}
	}
}

// id is that of a task that is stored, empty where it is not known.
func (m *many) id(i int) string {
	sequence := m.seqs[i]
	switch {
	case m.ids != nil:
		return m.ids[i]
	case sequence == 0:
		return ""
	}
	if m.prefix == nil {
		m.prefix = append([]byte(m.lane.String()), '-')
	}
	var buf [128]byte
	return string(strconv.AppendUint(append(buf[:0], m.prefix...), sequence, 10))
}

func resultsOf[Out any](m *many) []*Result[Out] {
	values := make([]Result[Out], len(m.state))
	results := make([]*Result[Out], len(m.state))
	for i, state := range m.state {
		if state != manyStored {
			continue
		}
		values[i] = Result[Out]{c: m.c, queue: m.o.queue, id: m.id(i)}
		results[i] = &values[i]
	}
	return results
}
