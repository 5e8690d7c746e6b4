package engine

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// thawed is a pool after a freeze of its process: nobody has looked yet which
// leases have passed.
type thawed struct {
	*pool
	frozen, fresh *delivery
	heard         *nats.Subscription // what the broker is told of both
}

func newThawed(t *testing.T) thawed {
	t.Helper()
	broker := enginetest.Start(t)
	c, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	heard, err := c.nc.SubscribeSync("held.*")
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c, WorkerConfig{})
	p := newPool(w, Queue{Name: "default", Slots: 1})
	if err := p.subscribe(); err != nil {
		t.Fatal(err)
	}
	w.leases.begun = time.Now().Add(-time.Hour) // its last round was before
	held := func(sequence uint64, since time.Duration, reply string) *delivery {
		then := time.Now().Add(-since)
		d := &delivery{
			pool: p, lane: p.lanes[0], sequence: sequence, ackWait: 30 * time.Second, renewed: then, readyAt: then, id: "x",
			addr: wire.Address{Lane: wire.PlainLane("default"), Task: "t"}, meta: wire.Meta{Run: 1, Attempt: 1},
			msg: nats.NewMsg("x"),
		}
		d.msg.Reply = reply
		w.leases.add(d)
		return d
	}
	return thawed{p, held(1, 5*time.Minute, "held.frozen"), held(2, 2*time.Second, "held.fresh"), heard}
}

// says fails unless the broker is told of the fresh delivery alone.
func (p thawed) says(t *testing.T) {
	t.Helper()
	if m, err := p.heard.NextMsg(10 * time.Second); err != nil || m.Subject != "held.fresh" {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := p.w.c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := p.heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d more messages, %v", n, err)
	}
}

// TestFrozenWorkerHandsNothingBack: what waited for a slot during the freeze may
// run elsewhere, and a nak would have it run once more.
func TestFrozenWorkerHandsNothingBack(t *testing.T) {
	for name, act := range map[string]func(*pool){
		"in time": func(p *pool) { p.check(time.Now()) }, "at the end": func(p *pool) { p.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newThawed(t)
			p.lanes[0].ready = []*delivery{p.frozen, p.fresh}
			act(p.pool)
			p.says(t)
			if len(p.lanes[0].ready) > 0 {
				t.Error("something is ready still")
			}
		})
	}
}

// TestFrozenWorkerParksNothing: the next attempt may be parked, or run, by
// another; parking it again would replace a later one.
func TestFrozenWorkerParksNothing(t *testing.T) {
	p := newThawed(t)
	settling := func(d *delivery) *settlement {
		after := nats.NewMsg(d.msg.Reply)
		return &settlement{d: d, after: after, stage: stageAfter}
	}
	answers := p.settler.send([]*settlement{settling(p.frozen), settling(p.fresh)})
	if answers[0] != (answer{}) || !answers[1].flies {
		t.Errorf("%+v", answers)
	}
	p.says(t)
}

// TestFrozenWorkerBeginsNothing, neither a handler nor a claim.
func TestFrozenWorkerBeginsNothing(t *testing.T) {
	p := newThawed(t)
	written, err := p.w.c.nc.SubscribeSync("$KV.>")
	if err != nil {
		t.Fatal(err)
	}
	_, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if res, may := p.frozen.begin(t.Context(), cancel, time.Now()); may || res.kind != resultNothing {
		t.Errorf("a handler may begin: %+v", res)
	}
	if _, may := p.fresh.begin(t.Context(), cancel, time.Now()); !may {
		t.Error("a handler may not begin although its task is held")
	}
	for _, d := range []*delivery{p.frozen, p.frozen.next(&Record{Attempt: 2})} {
		if done, run := p.w.claim(t.Context(), d, nil, 0, holdAhead); !done || run {
			t.Errorf("done %v, run %v", done, run)
		}
	}
	if err := p.w.c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := written.Pending(); n != 0 || err != nil {
		t.Errorf("%d records written, %v", n, err)
	}
}

// TestNothingIsSentLater: what cannot be sent now is tried again by whoever holds
// the task then; the library would keep it for the next connection.
func TestNothingIsSentLater(t *testing.T) {
	broker := enginetest.Start(t)
	link := broker.Link()
	again := make(chan struct{})
	reconnect := nats.CustomReconnectDelay(func(int) time.Duration { <-again; return 0 })
	c, err := Connect(t.Context(), link.URL(), ClientConfig{NATS: []nats.Option{reconnect, nats.Timeout(20 * time.Second)}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard, err := broker.Conn().SubscribeSync("later")
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c, WorkerConfig{})
	p := newPool(w, Queue{Name: "default", Slots: 1})
	if err := p.subscribe(); err != nil {
		t.Fatal(err)
	}
	ln, s := p.lanes[0], p.settler
	ln.ready = []*delivery{{pool: p, lane: ln, readyAt: time.Now().Add(-time.Minute), msg: &nats.Msg{Reply: "later"}}}
	back := c.nc.StatusChanged(nats.CONNECTED)
	gone := c.nc.StatusChanged(nats.RECONNECTING)
	link.Cut()
	<-gone
	x := &settlement{d: ln.ready[0]}
	if a := s.publish(x, nats.NewMsg("later"), nil); !a.asked || a.err == nil {
		t.Errorf("sent without a connection: %+v", a)
	}
	if p.check(time.Now()); len(ln.ready) != 1 {
		t.Error("handed back without a connection")
	}
	close(again)
	<-back
	if a := s.publish(x, nats.NewMsg("later"), nil); a.err != nil {
		t.Error(a.err)
	}
	if err := c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := heard.NextMsg(10 * time.Second); err != nil {
		t.Fatalf("%+v, %v", m, err)
	}
	if n, _, err := heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d more messages, %v", n, err)
	}
}
