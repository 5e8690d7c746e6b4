package engine

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

func TestWhatIsKeptIsBounded(t *testing.T) {
	for pending, want := range map[int]int{-1: holdMost, 0: holdMost, 11: 0, 12: 1, 10_000: 833, 1 << 30: holdMost} {
		if got := mostKept(pending); got != want {
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
			pool: p, due: due, sequence: sequence, ackWait: 30 * time.Second, renewed: now,
			addr: wire.Address{Lane: wire.PlainLane("default")}, msg: &nats.Msg{Reply: reply},
		}
	}
	first := delivered("held.first", false, 7)
	if w.leases.again(first, now) {
		t.Fatal("held before it came")
	}
	w.leases.add(first)
	if w.leases.again(delivered("held.x", true, 7), now) || w.leases.again(delivered("held.x", false, 8), now) {
		t.Error("another message is taken for it")
	}
	if !w.leases.again(delivered("held.second", false, 7), now) {
		t.Error("a second run of what is held")
	}
	next := first.next(&Record{Attempt: 2})
	w.leases.add(next)
	w.leases.remove(first)
	if !w.leases.again(delivered("held.third", false, 7), now) {
		t.Error("a second run of what is kept for its next attempt")
	}
	next.ack()
	if m, err := heard.NextMsg(10 * time.Second); err != nil || m.Subject != "held.third" {
		t.Errorf("answered to %+v, %v", m, err)
	}
	w.leases.remove(next)
	if w.leases.again(delivered("held.x", false, 7), now) {
		t.Error("held after its end")
	}
	lost := delivered("held.x", false, 9)
	lost.renewed = now.Add(-25 * time.Second)
	w.leases.add(lost)
	w.leases.expire(t.Context(), now)
	if w.leases.again(delivered("held.y", false, 9), now) {
		t.Error("held after its lease has passed")
	}
}
