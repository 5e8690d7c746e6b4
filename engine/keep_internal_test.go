package engine

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

func TestWhatIsKeptIsBounded(t *testing.T) {
	for pending, want := range map[int]int{-1: holdMost, 0: holdMost, 15: 0, 16: 1, 10_000: 625, 1 << 30: holdMost} {
		if got := shareOf(pending); got != want {
			t.Errorf("%d in all hands: %d kept, want %d", pending, got, want)
		}
	}
	k := keeping{most: 2}
	if !k.enter(1) || !k.enter(holdBytes-1) {
		t.Fatal("no room at first")
	}
	if k.enter(0) {
		t.Error("a third one entered")
	}
	k.leave(1)
	if k.enter(2) {
		t.Error("more bytes than may be held")
	}
	if !k.enter(1) {
		t.Error("no room after one left")
	}
	k.leave(1)
	k.close()
	if k.enter(1) {
		t.Error("one entered after the end")
	}
}

// TestMessageThatIsHeldIsNotTakenAgain: what the broker delivers once more while
// it is held, as one does that was killed, is no second run; the answer goes
// where the broker expects it now.
func TestMessageThatIsHeldIsNotTakenAgain(t *testing.T) {
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
	now := time.Now()
	delivered := func(reply string, due bool, sequence uint64) *delivery {
		return &delivery{
			pool: p, lane: p.lanes[0], due: due, sequence: sequence, ackWait: 30 * time.Second, renewed: now,
			addr: wire.Address{Lane: wire.PlainLane("default")}, msg: &nats.Msg{Reply: reply},
		}
	}
	first := delivered("held.first", false, 7)
	if !w.leases.take(first, now) {
		t.Fatal("held before it came")
	}
	if !w.leases.take(delivered("held.x", true, 7), now) || !w.leases.take(delivered("held.x", false, 8), now) {
		t.Error("another message is taken for it")
	}
	if w.leases.take(delivered("held.second", false, 7), now) {
		t.Error("a second run of what is held")
	}
	next := first.next(&Record{Attempt: 2})
	w.leases.add(next)
	w.leases.remove(first)
	if w.leases.take(delivered("held.third", false, 7), now) {
		t.Error("a second run of what is kept for its next attempt")
	}
	next.ack()
	if m, err := heard.NextMsg(10 * time.Second); err != nil || m.Subject != "held.third" {
		t.Errorf("answered to %+v, %v", m, err)
	}
	w.leases.remove(next)
	if !w.leases.take(delivered("held.x", false, 7), now) {
		t.Error("held after its end")
	}
	lost := delivered("held.x", false, 9)
	lost.renewed = now.Add(-25 * time.Second)
	w.leases.add(lost)
	w.leases.expire(t.Context(), now)
	if !w.leases.take(delivered("held.y", false, 9), now) {
		t.Error("held after its lease has passed")
	}
}

// TestParkedAgainTakesTheClaim: a message that is delivered to a second worker,
// as by a broker that was killed, while the first keeps its task: once the second
// has parked the next attempt, the first cannot claim it any more.
func TestParkedAgainTakesTheClaim(t *testing.T) {
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	delivered := func() *delivery {
		w := NewWorker(c, WorkerConfig{})
		p := newPool(w, Queue{Name: DefaultQueue, Slots: 1})
		go p.settler.run()
		t.Cleanup(p.settler.close)
		d := &delivery{
			pool: p, lane: p.lanes[0], sequence: 1, redeliver: true, ackWait: 30 * time.Second, renewed: time.Now(), id: "default-1",
			addr: wire.Address{Lane: wire.PlainLane(DefaultQueue), Task: "toil"}, meta: wire.Meta{Attempt: 1, Run: 1},
			msg: &nats.Msg{Subject: "pelton.task.default.toil", Reply: "nobody", Data: []byte(`1`)},
		}
		w.leases.take(d, time.Now())
		return d
	}
	first, second := delivered(), delivered()
	owed := &Record{}
	first.describe(owed, "first")
	owed.State, owed.Attempt, owed.Sequence, owed.Due = wire.StateRetrying, 2, 1, true
	owed.ETA = time.Now().Add(10 * time.Second).UTC()
	revision, err := c.casRecord(t.Context(), owed, 0)
	if err != nil {
		t.Fatal(err)
	}
	if second.pool.w.prepare(t.Context(), second, true) {
		t.Error("the second worker is to run what is owed later")
	}
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		info, err := c.streamInfo(t.Context(), c.ns.LaterStream(second.addr.Lane))
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 1 {
			break
		}
	}
	if done, run := first.pool.w.claim(t.Context(), first.next(owed), owed, revision, time.Minute); done || run {
		t.Errorf("claimed by who kept it: done %v, run %v", done, run)
	}
	if r, err := c.Record(t.Context(), DefaultQueue, "default-1"); err != nil || r.State != wire.StateRetrying || r.Attempt != 2 {
		t.Errorf("record %+v, %v", r, err)
	}
}
