// Package health tells the world outside of a process how it is: probes over
// HTTP, and systemd.
//
// It stands beside the path. The parts of a role say how they are (package
// pulse), a [Board] gathers them, [Listen] answers probes from it and
// [Board.Notify] tells systemd.
package health

import (
	"sync"
	"sync/atomic"

	"pelton/engine/pulse"
)

// Board gathers what the parts of a process say of themselves. The zero value
// has no parts, so it is not ready. It is safe for concurrent use.
type Board struct {
	mu        sync.Mutex
	parts     []part
	draining  atomic.Bool
	toldReady atomic.Bool // to systemd
}

type part struct {
	name  string
	check func() pulse.Health
}

// Watch adds a part. The check must be quick and must not ask a broker.
func (b *Board) Watch(name string, check func() pulse.Health) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts = append(b.parts, part{name, check})
}

// Drain makes the process not ready for the rest of its life.
func (b *Board) Drain() { b.draining.Store(true) }

// Report is how a process is.
type Report struct {
	Alive   bool     `json:"alive"`
	Ready   bool     `json:"ready"`
	Stalled []string `json:"stalled"` // loops that make no progress
	Unready []string `json:"unready"` // why no work is taken
}

// Report asks all parts.
func (b *Board) Report() Report {
	b.mu.Lock()
	parts := b.parts
	b.mu.Unlock()
	r := Report{Stalled: []string{}, Unready: []string{}}
	if len(parts) == 0 {
		r.Unready = append(r.Unready, "starting")
	}
	if b.draining.Load() {
		r.Unready = append(r.Unready, "draining")
	}
	for _, p := range parts {
		h := p.check()
		for _, line := range h.Stalled {
			r.Stalled = append(r.Stalled, p.name+": "+line)
		}
		for _, line := range h.Unready {
			r.Unready = append(r.Unready, p.name+": "+line)
		}
	}
	r.Alive = len(r.Stalled) == 0
	r.Ready = r.Alive && len(r.Unready) == 0
	return r
}
