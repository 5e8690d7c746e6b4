package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestPullsCountWhatIsUnderWay plays random deliveries and endings against a
// model that knows for which request each message came.
func TestPullsCountWhatIsUnderWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &puller{inbox: "i."}
		type request struct {
			id   string
			left int
		}
		var truth []request
		next := 0
		outstanding := func() (n int) {
			for _, r := range truth {
				n += r.left
			}
			return n
		}
		now := time.Now()
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"ask", "deliver", "end"}).Draw(t, "step") {
			case "ask":
				next++
				r := request{string(rune('a' + next)), rapid.IntRange(1, 9).Draw(t, "batch")}
				truth = append(truth, r)
				p.pulls = append(p.pulls, pull{r.id, r.left, now.Add(time.Hour)})
			case "deliver":
				if len(truth) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(truth)-1).Draw(t, "which")
				p.delivered(now)
				if truth[i].left--; truth[i].left == 0 {
					truth = append(truth[:i], truth[i+1:]...)
				}
			case "end":
				if len(truth) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(truth)-1).Draw(t, "which")
				p.ended(truth[i].id, truth[i].left)
				truth = append(truth[:i], truth[i+1:]...)
			}
			if got := p.outstanding(); got != outstanding() {
				t.Fatalf("outstanding %d, want %d", got, outstanding())
			}
		}
	})
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := wire.Backoff{Min: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "min"))}
		b.Max = b.Min + time.Duration(rapid.Int64Range(0, int64(wire.MaxDuration-b.Min)).Draw(t, "more"))
		attempt := rapid.IntRange(1, wire.MaxAttempts).Draw(t, "attempt")
		most := backoff(b, attempt, func() float64 { return 1 })
		if most < b.Min || most > b.Max {
			t.Fatalf("bound %s outside of %s", most, b)
		}
		if later := backoff(b, attempt+1, func() float64 { return 1 }); later < most {
			t.Fatalf("bound shrinks from %s to %s", most, later)
		}
		if got := backoff(b, attempt, rand.Float64); got < 0 || got > most {
			t.Fatalf("%s outside of 0..%s", got, most)
		}
	})
}

func TestBackoffDoubles(t *testing.T) {
	b := wire.Backoff{Min: time.Second, Max: 10 * time.Second}
	for attempt, want := range map[int]string{1: "1s", 2: "2s", 3: "4s", 4: "8s", 5: "10s", 6: "10s", 1000: "10s"} {
		if got := backoff(b, attempt, func() float64 { return 1 }); got.String() != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	record := func(state wire.State, run, attempt int, sequence uint64) *Record {
		return &Record{State: state, Run: run, Attempt: attempt, Sequence: sequence}
	}
	plain := &delivery{sequence: 7, meta: wire.Meta{Run: 2, Attempt: 2}}
	due := &delivery{sequence: 7, due: true, meta: wire.Meta{Run: 2, Attempt: 2}}
	parked := &delivery{sequence: 7, due: true, parked: true, meta: wire.Meta{Run: 2, Attempt: 2}}
	for _, tc := range []struct {
		name string
		d    *delivery
		r    *Record
		want verdict
	}{
		{"no record", plain, nil, verdictRun},
		{"older run, even finished", plain, record(wire.StateSucceeded, 1, 9, 3), verdictRun},
		{"newer run", plain, record(wire.StateQueued, 3, 1, 0), verdictDone},
		{"finished", plain, record(wire.StateSucceeded, 2, 2, 7), verdictDone},
		{"failed for good", due, record(wire.StateFailed, 2, 2, 0), verdictDone},
		{"redelivered while started", plain, record(wire.StateStarted, 2, 2, 7), verdictRun},
		{"copy while the first is started", plain, record(wire.StateStarted, 2, 2, 3), verdictDone},
		{"copy while the first is parked", plain, record(wire.StateRetrying, 2, 3, 3), verdictDone},
		{"handed back", plain, record(wire.StateQueued, 2, 2, 3), verdictRun},
		{"retry parked, ack lost", plain, record(wire.StateRetrying, 2, 3, 7), verdictParked},
		{"delay parked, ack lost", plain, record(wire.StateScheduled, 2, 2, 7), verdictParked},
		{"due again after the next was parked", due, &Record{State: wire.StateRetrying, Run: 2, Attempt: 3, DueSeq: 7}, verdictParked},
		{"a due copy while the next attempt of another is parked", due, record(wire.StateRetrying, 2, 3, 7), verdictDone},
		{"parked late, in place of the next attempt", parked, record(wire.StateRetrying, 2, 3, 6), verdictParked},
		{"parked late, while the next attempt runs", parked, &Record{State: wire.StateStarted, Run: 2, Attempt: 3, Due: true, DueSeq: 9}, verdictDone},
		{"the next attempt runs already", plain, &Record{State: wire.StateStarted, Run: 2, Attempt: 3, Sequence: 7, Due: true, DueSeq: 9}, verdictDone},
		{"kept for the next attempt, its worker died", plain, record(wire.StateStarted, 2, 3, 7), verdictRun},
		{"kept for the next attempt, then handed back", plain, record(wire.StateQueued, 2, 3, 7), verdictRun},
		{"a copy while another message is kept", plain, record(wire.StateStarted, 2, 3, 6), verdictDone},
		{"a copy of another lane while one is kept", plain, &Record{State: wire.StateQueued, Run: 2, Attempt: 3, Sequence: 7, Priority: wire.PriorityHigh}, verdictDone},
		{"due, kept for the next attempt, its worker died", due, &Record{State: wire.StateStarted, Run: 2, Attempt: 3, Sequence: 7, Due: true, DueSeq: 7}, verdictRun},
		{"due, kept for the next attempt, then handed back", due, &Record{State: wire.StateQueued, Run: 2, Attempt: 3, Due: true, DueSeq: 7}, verdictRun},
		{"due of an attempt before, the next one of another message", due, &Record{State: wire.StateStarted, Run: 2, Attempt: 3, Sequence: 7, Due: true, DueSeq: 9}, verdictDone},
		{"the next attempt was handed back", due, record(wire.StateQueued, 2, 3, 7), verdictDone},
		{"parked, due and running, the ack of the first was lost", plain, &Record{State: wire.StateStarted, Run: 2, Attempt: 2, Sequence: 7, Due: true}, verdictDone},
		{"its own time", due, record(wire.StateRetrying, 2, 2, 7), verdictRun},
		{"started by a worker that died", due, &Record{State: wire.StateStarted, Run: 2, Attempt: 2, Due: true, DueSeq: 7}, verdictRun},
		{"its schedule fired twice", due, &Record{State: wire.StateStarted, Run: 2, Attempt: 2, Due: true, DueSeq: 6}, verdictDone},
		{"due while a copy of the queue is started", due, record(wire.StateStarted, 2, 2, 7), verdictDone},
		{"a copy while one is scheduled that never stood in the queue", plain, record(wire.StateScheduled, 2, 2, 0), verdictDone},
		{"replaced, the old schedule fired all the same", due, &Record{State: wire.StateScheduled, Run: 2, Attempt: 2, Generation: 1}, verdictParked},
		{"replaced, and the new one is taken", due, &Record{State: wire.StateStarted, Run: 2, Attempt: 2, Generation: 1, Due: true, DueSeq: 9}, verdictDone},
		{"snoozed, ack lost", due, &Record{State: wire.StateScheduled, Run: 2, Attempt: 2, DueSeq: 7, ETA: time.Now()}, verdictParked},
		{"copy of another lane", plain, &Record{State: wire.StateStarted, Run: 2, Attempt: 2, Sequence: 7, Priority: wire.PriorityHigh}, verdictDone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := judge(tc.r, tc.d); got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	began := time.Now().UTC()
	own := &Record{Run: 1, Attempt: 2, State: wire.StateSucceeded, Worker: "me", StartedAt: began, FinishedAt: began.Add(time.Second)}
	with := func(change func(*Record)) *Record { r := *own; change(&r); return &r }
	for _, tc := range []struct {
		name     string
		revision uint64
		r        *Record
		want     refusal
	}{
		{"deleted", 4, nil, refusalAgain},
		{"the answer was lost", 0, with(func(*Record) {}), refusalOwn},
		{"a higher run", 4, with(func(r *Record) { r.Run, r.State = 2, wire.StateQueued }), refusalStands},
		{"another's outcome", 4, with(func(r *Record) { r.Worker = "other" }), refusalStands},
		{"revoked meanwhile", 4, with(func(r *Record) { r.State = wire.StateRevoked }), refusalStands},
		{"own mark", 0, with(func(r *Record) { r.State = wire.StateStarted }), refusalAgain},
		{"claimed by a later delivery", 4, with(func(r *Record) { r.State, r.Worker = wire.StateStarted, "other" }), refusalNotOurs},
		{"claimed by a later delivery of this worker", 4, with(func(r *Record) { r.State, r.StartedAt = wire.StateStarted, began.Add(time.Minute) }), refusalNotOurs},
		{"nobody claimed, queued before", 0, with(func(r *Record) { r.State, r.Worker = wire.StateQueued, "" }), refusalAgain},
		{"claimed by another message of the id", 0, with(func(r *Record) { r.State, r.Worker, r.Sequence = wire.StateStarted, "other", 6 }), refusalStands},
		{"claimed by a due message of the id", 0, with(func(r *Record) { r.State, r.Worker, r.Due, r.DueSeq = wire.StateStarted, "other", true, 6 }), refusalStands},
		{"claimed, then handed on", 4, with(func(r *Record) { r.State, r.Worker = wire.StateQueued, "other" }), refusalNotOurs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &delivery{started: began, sequence: 5, meta: wire.Meta{Run: 1, Attempt: 2}}
			x := &settlement{d: d, record: own, revision: tc.revision}
			if got := (&settler{}).refusal(x, tc.r); got != tc.want {
				t.Errorf("refusal %d, want %d", got, tc.want)
			}
		})
	}
}

// TestRefusalBeforeItRan: a task that was to end or to wait without having run
// was changed just then. Nobody else answers for its message, unless it has been
// claimed meanwhile.
func TestRefusalBeforeItRan(t *testing.T) {
	began := time.Now().UTC()
	for _, tc := range []struct {
		name     string
		revision uint64 // that was read
		r        Record
		want     refusal
	}{
		{"written again as it was", 4, Record{State: wire.StateScheduled, ETA: began}, refusalMoved},
		{"replaced", 4, Record{State: wire.StateScheduled, Generation: 2, ETA: began.Add(time.Minute)}, refusalMoved},
		{"revoked", 4, Record{State: wire.StateRevoked}, refusalStands},
		{"taken by another message", 4, Record{State: wire.StateStarted, Worker: "other", Due: true, DueSeq: 6}, refusalStands},
		{"claimed by a later delivery", 4, Record{State: wire.StateStarted, Worker: "other", Due: true, DueSeq: 5}, refusalNotOurs},
		{"claimed and kept", 4, Record{State: wire.StateRetrying, Worker: "other", Due: true, DueSeq: 5, StartedAt: began, ETA: began.Add(time.Minute)}, refusalNotOurs},
		{"no record was read", 0, Record{State: wire.StateRetrying, Attempt: 2, Generation: 2, Due: true, DueSeq: 5, ETA: began}, refusalNotOurs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &delivery{due: true, sequence: 5, meta: wire.Meta{Run: 1, Attempt: 1, Generation: 1, ETA: began}}
			x := &settlement{d: d, record: &Record{Run: 1, Attempt: 1, State: wire.StateExpired, FinishedAt: began}, revision: tc.revision}
			tc.r.Run, tc.r.Attempt = 1, max(tc.r.Attempt, 1)
			if got := (&settler{}).refusal(x, &tc.r); got != tc.want {
				t.Errorf("refusal %d, want %d", got, tc.want)
			}
		})
	}
}

// TestChangedBeforeItRanComesAgain: the message of such a task goes back to its
// queue, not to the end of its lease.
func TestChangedBeforeItRanComesAgain(t *testing.T) {
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard, err := c.nc.SubscribeSync("held.*")
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c, WorkerConfig{})
	p := newPool(w, Queue{Name: DefaultQueue, Slots: 1})
	eta := time.Now().UTC().Truncate(time.Millisecond)
	r := &Record{ID: "one", Run: 1, Task: "toil", Queue: DefaultQueue, State: wire.StateScheduled, Attempt: 1, ETA: eta}
	read, err := c.casRecord(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &delivery{
		pool: p, due: true, sequence: 5, id: "one", ackWait: 30 * time.Second, renewed: time.Now(), msg: &nats.Msg{Reply: "held.one"},
		addr: wire.Address{Lane: wire.PlainLane(DefaultQueue), Task: "toil", ID: "one"}, meta: wire.Meta{Run: 1, Attempt: 1, ETA: eta},
	}
	d.setClaim(r, read)
	x := w.settlement(d, result{kind: resultExpired})
	if _, err := c.casRecord(t.Context(), r, read); err != nil { // by somebody else, just then
		t.Fatal(err)
	}
	if moved, err := p.settler.resolve(x); moved != advanced || err != nil {
		t.Fatalf("%d, %v", moved, err)
	}
	p.settler.conclude(x)
	if m, err := heard.NextMsg(30 * time.Second); err != nil || string(m.Data) != string(nakBody) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestClassify(t *testing.T) {
	if got := classify(nil); got != outcomeStored {
		t.Errorf("nil: %d", got)
	}
	for err, want := range map[error]outcome{
		nats.ErrTimeout:      outcomeUnknown,
		nats.ErrNoResponders: outcomeAbsent,
		nats.ErrMaxPayload:   outcomeInvalid,
		nats.ErrBadHeaderMsg: outcomeInvalid,
		nats.ErrDisconnected: outcomeUnknown,
	} {
		if got := classify(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestLastChanceIsAlone: of tasks whose next death is their last one runs at a
// time, until its message is answered.
func TestLastChanceIsAlone(t *testing.T) {
	l := newLeases(&Worker{})
	ln := &lane{}
	first, second := &delivery{lane: ln, sequence: 1}, &delivery{lane: ln, sequence: 2}
	l.take(first, time.Now())
	l.take(second, time.Now())
	for range 2 {
		if !l.alone(first) || l.alone(second) {
			t.Error("the first is to run, and the second beside it is not")
		}
	}
	l.remove(first)
	if !l.alone(second) || l.alone(first) {
		t.Error("the second is to run once the first is done with")
	}
	l.add(&delivery{lane: ln, sequence: 2}) // the next attempt of the second
	if !l.alone(first) {
		t.Error("an attempt that has ended keeps others out")
	}
}

// TestFrozenWorkerIsSilent: after a freeze a lease that has passed is lost, not
// renewed.
func TestFrozenWorkerIsSilent(t *testing.T) {
	broker := enginetest.Start(t)
	c, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard, err := c.nc.SubscribeSync("held.*")
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c, WorkerConfig{})
	p := newPool(w, Queue{Name: "default", Slots: 1})
	frozen := &delivery{pool: p, sequence: 1, ackWait: 30 * time.Second, renewed: time.Now().Add(-5 * time.Minute), msg: &nats.Msg{Reply: "held.frozen"}}
	fresh := &delivery{pool: p, sequence: 2, ackWait: 30 * time.Second, renewed: time.Now().Add(-11 * time.Second), msg: &nats.Msg{Reply: "held.fresh"}}
	w.leases.add(frozen)
	w.leases.add(fresh)
	w.leases.round(t.Context())
	if !frozen.isLost() || fresh.isLost() {
		t.Errorf("frozen lost %v, fresh lost %v", frozen.isLost(), fresh.isLost())
	}
	m, err := heard.NextMsg(30 * time.Second)
	if err != nil || m.Subject != "held.fresh" || string(m.Data) != "+WPI" {
		t.Fatalf("%v, %v", m, err)
	}
	if n, _, err := heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d more messages, %v", n, err)
	}
}

// TestLaggingReplicaIsNoTrouble: a record that refuses and cannot be seen yet is
// tried again, and nobody is told that outcomes cannot be written.
func TestLaggingReplicaIsNoTrouble(t *testing.T) {
	broker := enginetest.Start(t)
	c, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := newPool(NewWorker(c, WorkerConfig{}), Queue{Name: "default", Slots: 1}).settler
	if s.complain(nil); s.trouble || s.signs.cannotWrite.Load() {
		t.Error("a worker that waits for a replica says that it cannot write")
	}
	if s.complain(nats.ErrTimeout); !s.trouble || !s.signs.cannotWrite.Load() {
		t.Error("nobody is told of an outcome that cannot be written")
	}
}

// TestSlotStopsOneTask: what stops a task is shared by those that a slot runs one
// after the other, and stops the one that runs alone.
func TestSlotStopsOneTask(t *testing.T) {
	c, err := NewClient(enginetest.Start(t).Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := newPool(NewWorker(c, WorkerConfig{}), Queue{Name: "default", Slots: 1})
	s := &slot{working: t.Context()}
	run := func() (*delivery, context.Context) {
		d := &delivery{pool: p, renewed: time.Now()}
		ctx, cancel := s.stoppable()
		if _, may := d.begin(ctx, cancel, time.Now()); !may {
			t.Fatal("the handler may not begin")
		}
		return d, ctx
	}
	first, _ := run()
	first.end()
	second, ctx := run()
	first.revoke()
	first.lose()
	if ctx.Err() != nil {
		t.Fatalf("a task that has ended stops the next one: %v", context.Cause(ctx))
	}
	second.revoke()
	if cause := context.Cause(ctx); !errors.Is(cause, ErrRevoked) {
		t.Errorf("cause %v", cause)
	}
	second.end()
	if _, ctx = run(); ctx.Err() != nil {
		t.Errorf("a task begins stopped: %v", context.Cause(ctx))
	}
	s.stop(nil)
}
