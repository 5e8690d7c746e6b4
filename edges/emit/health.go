package emit

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
	"pelton/engine/pulse"
)

// vitals is what an emitter notes of itself for Health.
type vitals struct {
	loops pulse.Set
	group atomic.Pointer[kgo.Client] // nil while it is no member
}

// stallAfter is how long one turn of a shard may take: a transaction twice over
// and a look at every queue.
func (c Config) stallAfter() time.Duration {
	return 2*c.TransactionTimeout + openMargin + c.CheckInterval
}

// Health tells whether the emitter's shards make progress, which asks no broker,
// and whether it emits: both brokers are there, and it is a member of its group.
// An OnEmit that does not return stalls its shard. It may be called at any time.
func (e *Emit) Health() pulse.Health {
	h := pulse.Health{Stalled: e.vitals.loops.Stalled()}
	if e.cfg.NATS.Status() != nats.CONNECTED {
		h.Unready = append(h.Unready, "nats: not connected")
	}
	switch cl := e.vitals.group.Load(); {
	case cl == nil:
		h.Unready = append(h.Unready, "edge "+e.cfg.Name+": waits for kafka or its ledger topic, or has ended")
	case kafka.Away(cl):
		h.Unready = append(h.Unready, "kafka: not reachable")
	}
	return h
}
