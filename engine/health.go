package engine

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/pulse"
)

// How long a loop may make no turn before it counts as stalled. The loop of a
// pool and that of the leases turn several times a second, whatever there is to
// do; a settler waits for answers of the broker, each for publishTimeout at
// most.
const (
	stallLoop   = 10 * time.Second
	stallSettle = 30 * time.Second
)

// Health is what a worker says of itself, for the probes of the program that
// embeds it.
type Health = pulse.Health

// stage of a worker's life.
type lifeStage int32

const (
	lifeNew lifeStage = iota
	lifeBinding
	lifeWorking
	lifeDraining
	lifeEnded
)

// vitals is what a worker notes of itself as it goes; Health reads it from any
// goroutine.
type vitals struct {
	loops pulse.Set
	life  atomic.Int32
	pools atomic.Pointer[[]*pool]
}

func (v *vitals) enter(s lifeStage) { v.life.Store(int32(s)) }

func (v *vitals) watch(pools []*pool) {
	v.pools.Store(&pools)
	v.life.CompareAndSwap(int32(lifeBinding), int32(lifeWorking))
}

// Health tells whether the worker's loops make progress, which asks no broker,
// and whether it does its work: connected, its consumers bound, able to fetch
// and to write outcomes, not draining. A handler that runs long is neither; only
// when as many as there are slots ignore that their context has ended, and more
// still, is the worker no longer alive. It may be called at any time, from any goroutine, and costs next to nothing.
//
// A hook of outcomes that does not return stalls the loop that writes outcomes, and is
// told as such.
func (w *Worker) Health() Health {
	h := Health{Stalled: w.vitals.loops.Stalled()}
	unready := func(format string, args ...any) { h.Unready = append(h.Unready, fmt.Sprintf(format, args...)) }
	if status := w.c.nc.Status(); status != nats.CONNECTED {
		unready("nats: %s", connection(status))
	}
	switch lifeStage(w.vitals.life.Load()) {
	case lifeNew:
		unready("worker: not started")
	case lifeBinding:
		unready("worker: waits for its streams and consumers")
	case lifeDraining:
		unready("worker: draining")
	case lifeEnded:
		unready("worker: ended")
	case lifeWorking:
		for _, p := range *w.vitals.pools.Load() {
			h.Unready = append(h.Unready, p.troubles()...)
			if n := p.signs.blocked.Load(); n > 0 {
				h.Stalled = append(h.Stalled, fmt.Sprintf("queue %s: %d slots are lost to handlers that ignore their context", p.queue, n))
			}
		}
	}
	return h
}

// connection is a status in a word or two.
func connection(status nats.Status) string {
	switch status {
	case nats.CLOSED:
		return "closed for good"
	case nats.RECONNECTING, nats.CONNECTING, nats.DISCONNECTED:
		return "not connected"
	default:
		return "is being closed"
	}
}

// signs is what a pool notes of itself for Health.
type signs struct {
	loop, settling *pulse.Loop
	cannotFetch    atomic.Bool // a lane's requests are refused or lost
	cannotWrite    atomic.Bool // outcomes are stuck
	blocked        atomic.Int32
}

func (p *pool) troubles() []string {
	var all []string
	if p.signs.cannotFetch.Load() {
		all = append(all, "queue "+p.queue+": cannot fetch")
	}
	if p.signs.cannotWrite.Load() {
		all = append(all, "queue "+p.queue+": outcomes cannot be written")
	}
	return all
}

// newSigns are those of the pool of a queue.
func (v *vitals) newSigns(queue string) *signs {
	return &signs{
		loop:     v.loops.Loop("loop of queue "+queue, stallLoop),
		settling: v.loops.Loop("outcomes of queue "+queue, stallSettle),
	}
}
