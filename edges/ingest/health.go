package ingest

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
	"pelton/engine/pulse"
)

// stallAfter is how long one turn of a session may take: a poll, a batch that
// is tried for writeFor, and a commit.
const stallAfter = time.Minute

// vitals is what an edge notes of itself for Health.
type vitals struct {
	loops pulse.Set
	stall time.Duration              // stallAfter, but in tests
	group atomic.Pointer[kgo.Client] // nil while there is no session
}

// Health tells whether the edge's loop makes progress, which asks no broker,
// and whether it takes records: both brokers are there, and so is the topic. A
// queue that is full is told by the queue. An OnBatch that does not return
// stalls the loop. It may be called at any time.
func (i *Ingest) Health() pulse.Health {
	h := pulse.Health{Stalled: i.vitals.loops.Stalled()}
	if i.cfg.NATS.Status() != nats.CONNECTED {
		h.Unready = append(h.Unready, "nats: not connected")
	}
	switch cl := i.vitals.group.Load(); {
	case cl == nil:
		h.Unready = append(h.Unready, "route "+i.cfg.Route.Name+": waits for the brokers or the topic, or has ended")
	case kafka.Away(cl):
		h.Unready = append(h.Unready, "kafka: not reachable")
	}
	return h
}
