package produce

import (
	"pelton/edges/internal/kafka"
	"pelton/engine/pulse"
)

// Health tells whether the producer has found its topic and its brokers are
// there. It may be called at any time; between two runs it is not ready.
func (p *Producer) Health() pulse.Health {
	switch cl := p.client.Load(); {
	case cl == nil:
		return pulse.Health{Unready: []string{"topic " + p.cfg.Topic + ": not found yet, or the run has ended"}}
	case kafka.Away(cl):
		return pulse.Health{Unready: []string{"kafka: not reachable"}}
	}
	return pulse.Health{}
}
